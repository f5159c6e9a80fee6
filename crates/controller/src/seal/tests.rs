use super::*;
use crate::objects::{Author, Draft, Objects};
use ::store::{Change, Commit, Entry, Expect, Head, Listing, Memory, Meta, Op, Sqlite, StoreError};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::watch;

const KEY: &str = "/object/vrfcontext/vrf-1";

fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(future)
}

fn ring(folder: &TempDir) -> Arc<Ring> {
    let file = folder.path().join("keys.json");
    Arc::new(run(open(&file, &Memory::default())).unwrap())
}

fn vrf(secrets: &[&str]) -> Vec<u8> {
    let peers = secrets.iter().map(|s| json!({"md5_secret": s}));
    let peers = peers.collect::<Vec<_>>();
    json!({"name": "v", "bgp_profile": {"peers": peers}})
        .to_string()
        .into_bytes()
}

fn put(store: &dyn Store, key: &str, value: Vec<u8>) -> u64 {
    let op = Op::put(key, value, Expect::Any);
    run(store.commit(vec![op], Meta::default())).unwrap()
}

fn value(store: &dyn Store, key: &str) -> Vec<u8> {
    run(store.get(key)).unwrap().unwrap().value
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|w| w == text.as_bytes())
}

/// All that the files of a store have, as bytes.
fn files(folder: &TempDir) -> Vec<u8> {
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap_or_default();
    [read("s.db"), read("s.db-wal")].concat()
}

proptest! {
    #[test]
    fn a_secret_opens_in_its_place_alone_and_whole_alone(
        texts in prop::collection::vec("\\PC{0,40}", 1..4), changed in any::<prop::sample::Index>(), bit in 0..8u8,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let ring = ring(&folder);
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let clear = vrf(&texts);
        let sealed = ring.seal(KEY, clear.clone());
        for text in texts.iter().filter(|t| t.len() > 8) {
            prop_assert!(!has(&sealed, text));
        }
        prop_assert_eq!(ring.open(KEY, sealed.clone()), Ok(clear.clone()));
        prop_assert!(ring.open("/object/vrfcontext/vrf-2", sealed.clone()).is_err());
        prop_assert_ne!(ring.seal(KEY, clear), sealed.clone(), "a nonce is used once");
        // A changed byte of a sealed text opens nothing, wherever it is.
        let mut object = parse(&sealed).unwrap();
        let text = object["bgp_profile"]["peers"][0]["md5_secret"][MARK].as_str().unwrap().to_owned();
        let mut bytes = text.into_bytes();
        let at = changed.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assume!(bytes[at].is_ascii());
        let text = String::from_utf8(bytes).unwrap();
        object["bgp_profile"]["peers"][0]["md5_secret"] = json!({ MARK: text });
        prop_assert!(ring.open(KEY, super::bytes(object)).is_err());
    }
}

#[test]
fn a_sealed_secret_does_not_open_in_another_field_or_item() {
    let folder = tempfile::tempdir().unwrap();
    let ring = ring(&folder);
    let mut object = parse(&ring.seal(KEY, vrf(&["one", "two"]))).unwrap();
    let peers = object["bgp_profile"]["peers"].as_array_mut().unwrap();
    peers.swap(0, 1);
    let broken = ring.open(KEY, bytes(object)).unwrap_err();
    assert!(
        broken
            .to_string()
            .starts_with("bgp_profile.peers[1].md5_secret: "),
        "{broken}"
    );
}

#[test]
fn what_looks_sealed_in_a_field_that_is_no_secret_is_a_clients_own() {
    let folder = tempfile::tempdir().unwrap();
    let ring = ring(&folder);
    let body = json!({"x": {MARK: "1:00000000:AAAA"}, "name": MARK, "bgp_profile": {"peers": [{"md5_secret": "$sealed"}]}});
    let clear = body.to_string().into_bytes();
    let sealed = ring.seal(KEY, clear.clone());
    assert_eq!(ring.open(KEY, sealed), Ok(clear));
}

#[test]
fn above_the_seal_all_is_in_clear_and_below_no_secret_is() {
    let folder = tempfile::tempdir().unwrap();
    let below = Arc::new(Memory::default());
    let store = SealedStore::new(below.clone(), ring(&folder), CancellationToken::new());
    let flow_keys = br#"{"hint":"flow-secret"}"#.to_vec();
    let first = put(&store, KEY, vrf(&["planted-one"]));
    put(&store, KEY, vrf(&["planted-two"]));
    put(&store, "/flowkey/g", flow_keys.clone());
    put(&store, "/object/pool/p", b"{\"name\":\"p\"}".to_vec());

    assert_eq!(value(&store, KEY), vrf(&["planted-two"]));
    assert_eq!(value(&store, "/flowkey/g"), flow_keys);
    let clear = |bytes: &Option<Vec<u8>>| has(bytes.as_ref().unwrap(), "planted-");
    assert!(run(store.list("/object/vrf")).unwrap().entries.len() == 1);
    assert!(
        run(store.changes(0, 2))
            .unwrap()
            .iter()
            .all(|c| clear(&c.value))
    );
    assert!(
        run(store.history(KEY, 9))
            .unwrap()
            .iter()
            .all(|c| clear(&c.value))
    );
    let commit = run(store.read_commit(first + 1)).unwrap().unwrap();
    assert!(clear(&commit.writes[0].before) && clear(&commit.writes[0].after));
    let then = run(store.get_at(KEY, first)).unwrap().unwrap();
    assert_eq!(then.value, vrf(&["planted-one"]));

    let log = run(below.changes(0, 100)).unwrap();
    let stored: Vec<u8> = log.into_iter().flat_map(|c| c.value.unwrap()).collect();
    assert!(!has(&stored, "planted-") && !has(&stored, "flow-secret"));
    // Copied to another object, or made up, it is an error with its key.
    put(&*below, "/object/vrfcontext/vrf-2", value(&*below, KEY));
    let error = run(store.get("/object/vrfcontext/vrf-2")).unwrap_err();
    let StoreError::Unreadable { key, why } = error else {
        panic!("{error}");
    };
    assert_eq!(key, "/object/vrfcontext/vrf-2");
    assert!(why.contains("belongs elsewhere"), "{why}");
}

/// How a commit ends.
type End = fn() -> Result<u64, StoreError>;

/// A store whose commits end like this, and which is closed for all else.
struct Ending(End);

#[async_trait::async_trait]
impl Store for Ending {
    async fn commit(&self, _: Vec<Op>, _: Meta) -> Result<u64, StoreError> {
        (self.0)()
    }

    async fn get(&self, _: &str) -> Result<Option<Entry>, StoreError> {
        Err(StoreError::Closed)
    }

    async fn list(&self, _: &str) -> Result<Listing, StoreError> {
        Err(StoreError::Closed)
    }

    async fn changes(&self, _: u64, _: usize) -> Result<Vec<Change>, StoreError> {
        Err(StoreError::Closed)
    }

    async fn history(&self, _: &str, _: usize) -> Result<Vec<Change>, StoreError> {
        Err(StoreError::Closed)
    }

    async fn log(&self, _: &str, _: u64, _: usize) -> Result<Vec<Head>, StoreError> {
        Err(StoreError::Closed)
    }

    async fn read_commit(&self, _: u64) -> Result<Option<Commit>, StoreError> {
        Err(StoreError::Closed)
    }

    async fn get_at(&self, _: &str, _: u64) -> Result<Option<Entry>, StoreError> {
        Err(StoreError::Closed)
    }

    async fn compact(&self, _: u64) -> Result<u64, StoreError> {
        Err(StoreError::Closed)
    }

    async fn recode(&self, _: u64, _: usize, _: Recode) -> Result<Option<u64>, StoreError> {
        Err(StoreError::Closed)
    }

    async fn scrub(&self) -> Result<(), StoreError> {
        Err(StoreError::Closed)
    }

    fn revision(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
}

#[test]
fn only_a_commit_of_which_nobody_can_tell_casts_doubt_on_what_is_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let ring = ring(&folder);
    let ends: [(End, bool); 4] = [
        (|| Ok(1), false),
        (|| Err(StoreError::Closed), false),
        (|| Err(StoreError::Full { doing: "commit" }), false),
        (|| Err(StoreError::OutcomeUnknown { doing: "commit" }), true),
    ];
    for (end, doubted) in ends {
        let doubt = CancellationToken::new();
        let store = SealedStore::new(Arc::new(Ending(end)), ring.clone(), doubt.clone());
        let op = Op::put(KEY, vrf(&["one"]), Expect::Any);
        let done = run(store.commit(vec![op], Meta::default()));
        assert_eq!(doubt.is_cancelled(), doubted, "{done:?}");
    }
}

/// Runs the pass that is due, to its end or its failure.
fn reseal(ring: &Arc<Ring>, store: &dyn Store) -> Result<(), String> {
    run(pass(ring, store))
}

#[test]
fn a_new_key_seals_everything_anew_and_the_old_one_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let below = Arc::new(Memory::default());
    let ring = ring(&folder);
    let store = SealedStore::new(below.clone(), ring.clone(), CancellationToken::new());
    for i in 0..1200 {
        put(
            &store,
            &format!("/object/vrfcontext/v-{}", i % 40),
            vrf(&[&format!("s{i}")]),
        );
    }
    reseal(&ring, &*below).unwrap();
    let old = ring.newest();
    let new = run(ring.rotate()).unwrap();
    assert_eq!(ring.list().len(), 2);
    put(&store, KEY, vrf(&["by the new one"]));
    reseal(&ring, &*below).unwrap();
    let ids: Vec<_> = ring.list().into_iter().map(|k| (k.id, k.seals)).collect();
    assert_eq!(ids, [(new, true)]);
    let log = run(below.changes(0, 5000)).unwrap();
    assert_eq!(log.len(), 1201);
    assert!(!log.iter().any(|c| has(c.value.as_ref().unwrap(), &old)));
    for i in 1160..1200 {
        let key = format!("/object/vrfcontext/v-{}", i % 40);
        assert_eq!(value(&store, &key), vrf(&[&format!("s{i}")]));
    }
    assert_eq!(run(store.history(KEY, 9)).unwrap().len(), 1);
}

#[test]
fn a_rotation_that_was_killed_goes_on_at_the_next_start_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let below = Arc::new(Memory::default());
    let ring = Arc::new(run(open(&file, &*below)).unwrap());
    let store = SealedStore::new(below.clone(), ring.clone(), CancellationToken::new());
    for i in 0..50 {
        put(
            &store,
            &format!("/object/vrfcontext/v-{i}"),
            vrf(&[&format!("s{i}")]),
        );
    }
    reseal(&ring, &*below).unwrap();
    let new = run(ring.rotate()).unwrap();
    // One step is done, then the process is gone.
    let form = reseal_form(ring.clone(), Arc::default());
    assert_eq!(run(below.recode(0, 20, form)).unwrap(), Some(20));
    drop((store, ring));

    let ring = Arc::new(run(open(&file, &*below)).unwrap());
    assert!(ring.progress().borrow().resealing);
    let store = SealedStore::new(below.clone(), ring.clone(), CancellationToken::new());
    let is_there = |i: usize| value(&store, &format!("/object/vrfcontext/v-{i}"));
    for i in 0..50 {
        assert_eq!(is_there(i), vrf(&[&format!("s{i}")]), "{i}");
    }
    reseal(&ring, &*below).unwrap();
    let ids: Vec<_> = ring.list().into_iter().map(|k| k.id).collect();
    assert_eq!(ids, [new]);
    for i in 0..50 {
        assert_eq!(is_there(i), vrf(&[&format!("s{i}")]), "{i}");
    }
}

#[test]
fn old_keys_stay_as_long_as_a_value_does_not_open() {
    let folder = tempfile::tempdir().unwrap();
    let below = Arc::new(Memory::default());
    let ring = ring(&folder);
    let store = SealedStore::new(below.clone(), ring.clone(), CancellationToken::new());
    put(&store, KEY, vrf(&["one"]));
    put(&*below, "/object/vrfcontext/vrf-2", value(&*below, KEY));
    reseal(&ring, &*below).unwrap();
    run(ring.rotate()).unwrap();
    let why = reseal(&ring, &*below).unwrap_err();
    assert!(why.starts_with("/object/vrfcontext/vrf-2: "), "{why}");
    assert_eq!(ring.list().len(), 2);
    assert_eq!(value(&store, KEY), vrf(&["one"]));
}

fn change(objects: &Objects, path: &str, body: Value) {
    let author = Author::system("test");
    let ty = object_type(path).unwrap();
    let Value::Object(body) = body else {
        panic!("no object");
    };
    let make = |draft: &mut Draft| draft.create(ty, body, None, &author);
    run(objects.change(&author, "test", make)).unwrap();
}

#[test]
fn a_store_of_an_older_version_is_sealed_at_start_with_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.db");
    {
        // As versions without a seal wrote it.
        let objects = run(Objects::open(Arc::new(Sqlite::open(&path).unwrap()))).unwrap();
        run(crate::bootstrap::ensure(&objects)).unwrap();
        let properties = json!({"name": "c", "vtype": "CLOUD_NONE", "proxy_configuration": {"host": "h", "port": 1, "password": "planted-cloud"}});
        change(&objects, "cloud", properties);
        let raw = objects.store().clone();
        put(&*raw, "/flowkey/g", br#"{"hint":"planted-flow"}"#.to_vec());
        put(&*raw, KEY, vrf(&["planted-old"]));
        put(&*raw, KEY, vrf(&["planted-new"]));
    }
    assert!(has(&files(&folder), "planted-"));
    let below: Arc<dyn Store> = Arc::new(Sqlite::open(&path).unwrap());
    let ring = Arc::new(run(open(&folder.path().join("keys.json"), &*below)).unwrap());
    let store = SealedStore::new(below.clone(), ring.clone(), CancellationToken::new());
    assert_eq!(
        value(&store, KEY),
        vrf(&["planted-new"]),
        "before it is sealed"
    );
    reseal(&ring, &*below).unwrap();
    assert!(!has(&files(&folder), "planted-"));
    assert_eq!(value(&store, KEY), vrf(&["planted-new"]));
    let before = run(store.history(KEY, 2)).unwrap().remove(1);
    assert_eq!(before.value, Some(vrf(&["planted-old"])));
    assert!(!ring.progress().borrow().resealing);
}

#[test]
fn a_store_without_its_key_file_is_refused_with_the_file_to_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let below = Arc::new(Memory::default());
    let store = SealedStore::new(below.clone(), ring(&folder), CancellationToken::new());
    put(&store, KEY, vrf(&["one"]));
    let elsewhere = folder.path().join("missing.json");
    let error = run(open(&elsewhere, &*below)).err().unwrap().to_string();
    assert!(
        error.contains("missing.json is missing: put it back") && error.contains(KEY),
        "{error}"
    );
    assert!(!elsewhere.exists(), "no new key hides that one is missing");
    // Another store's key file is told from ours.
    run(open(&elsewhere, &Memory::default())).unwrap();
    let other = Arc::new(run(open(&elsewhere, &*below)).unwrap());
    let error = run(SealedStore::new(below, other, CancellationToken::new()).get(KEY)).unwrap_err();
    assert!(error.to_string().contains("not in the key file"), "{error}");
}

#[test]
fn a_controller_that_does_not_lead_has_the_keys_of_the_store_or_says_whose_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let below = Arc::new(Memory::default());
    let store = SealedStore::new(below.clone(), ring(&folder), CancellationToken::new());
    put(&store, KEY, vrf(&["one"]));
    let (ours, missing) = (
        folder.path().join("keys.json"),
        folder.path().join("missing"),
    );
    let said = |file: &Path, store: &Memory, leader: Option<&str>| {
        run(check(file, store, leader))
            .err()
            .map(|e| format!("{e:#}"))
    };
    let empty = Memory::default();
    assert_eq!(said(&ours, &below, Some("a")), None);
    assert_eq!(said(&missing, &empty, None), None, "the first one makes it");
    let led = said(&missing, &empty, Some("a")).unwrap();
    assert!(led.contains("the controller a leads"), "{led}");
    let sealed = said(&missing, &below, None).unwrap();
    assert!(sealed.contains("the store has sealed secrets"), "{sealed}");
    let others = folder.path().join("others.json");
    run(open(&others, &empty)).unwrap();
    let wrong = said(&others, &below, Some("a")).unwrap();
    assert!(
        wrong.contains("are not the keys of this cluster"),
        "{wrong}"
    );
}

#[test]
fn the_key_file_is_private_and_a_damaged_one_is_refused_without_quoting_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    ring(&folder);
    let file = folder.path().join("keys.json");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    let cut = &text[..text.len() - 10];
    std::fs::write(&file, cut).unwrap();
    let error = run(open(&file, &Memory::default())).err().unwrap();
    let said = format!("{error:#}");
    assert!(
        said.ends_with("put back the file that belongs to this store"),
        "{said}"
    );
}
