//! One suite that every store passes.

#![allow(clippy::unwrap_used, reason = "tests")]

use evenkeel_store::{Change, Expect, Memory, Meta, Op, Sqlite, Store, StoreError, Watch};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}

/// Runs the test on a fresh store of every kind.
fn each(test: impl Fn(&dyn Store)) {
    test(&Memory::default());
    let folder = tempfile::tempdir().unwrap();
    test(&Sqlite::open(&folder.path().join("s.db")).unwrap());
}

/// The same for what several tasks share.
fn each_shared(test: impl Fn(Arc<dyn Store>)) {
    test(Arc::new(Memory::default()));
    let folder = tempfile::tempdir().unwrap();
    test(Arc::new(Sqlite::open(&folder.path().join("s.db")).unwrap()));
}

fn commit(store: &dyn Store, ops: Vec<Op>) -> Result<u64, StoreError> {
    run(store.commit(
        ops,
        Meta {
            who: "t".into(),
            message: "m".into(),
        },
    ))
}

fn value(store: &dyn Store, key: &str) -> Option<Vec<u8>> {
    run(store.get(key)).unwrap().map(|e| e.value)
}

#[test]
fn what_is_put_can_be_got_and_listed_by_prefix() {
    each(|store| {
        let ops = ["/a/1", "/a/2", "/b/1"].map(|k| Op::put(k, k, Expect::Any));
        let revision = commit(store, ops.to_vec()).unwrap();
        let listing = run(store.list("/a/")).unwrap();
        assert_eq!(listing.revision, revision);
        assert_eq!(
            listing
                .entries
                .iter()
                .map(|e| e.key.as_str())
                .collect::<Vec<_>>(),
            ["/a/1", "/a/2"]
        );
        assert_eq!(value(store, "/b/1").as_deref(), Some(b"/b/1".as_slice()));
        assert_eq!(value(store, "/c"), None);
    });
}

#[test]
fn a_failed_precondition_writes_nothing_and_names_the_key() {
    each(|store| {
        let first = commit(store, vec![Op::put("/k", "1", Expect::Absent)]).unwrap();
        let ops = vec![
            Op::put("/other", "x", Expect::Any),
            Op::put("/k", "2", Expect::Absent),
        ];
        match commit(store, ops) {
            Err(StoreError::Conflict { key, actual }) => {
                assert_eq!((key.as_str(), actual), ("/k", Some(first)))
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(value(store, "/other"), None);
        assert_eq!(*store.revision().borrow(), first);
        commit(store, vec![Op::put("/k", "2", Expect::Revision(first))]).unwrap();
        assert!(commit(store, vec![Op::delete("/k", Expect::Revision(first))]).is_err());
        assert_eq!(value(store, "/k").as_deref(), Some(b"2".as_slice()));
    });
}

#[test]
fn the_log_has_every_change_with_who_and_why() {
    each(|store| {
        let first = commit(store, vec![Op::put("/k", "1", Expect::Any)]).unwrap();
        let second = commit(store, vec![Op::delete("/k", Expect::Any)]).unwrap();
        let log = run(store.changes(0, 10)).unwrap();
        let seen: Vec<_> = log
            .iter()
            .map(|c: &Change| (c.revision, c.value.is_some()))
            .collect();
        assert_eq!(seen, [(first, true), (second, false)]);
        assert_eq!(
            (log[0].meta.who.as_str(), log[0].meta.message.as_str()),
            ("t", "m")
        );
        assert_eq!(run(store.changes(first, 10)).unwrap().len(), 1);
        assert_eq!(run(store.changes(0, 1)).unwrap().len(), 1);
    });
}

#[test]
fn a_commit_is_never_cut_in_two_by_the_limit_of_changes() {
    each(|store| {
        let pair = |n: u8| ["/a", "/b"].map(|k| Op::put(k, [n], Expect::Any)).to_vec();
        let first = commit(store, pair(1)).unwrap();
        let second = commit(store, pair(2)).unwrap();
        let revisions = |after, limit| -> Vec<u64> {
            let found = run(store.changes(after, limit)).unwrap();
            found.iter().map(|c| c.revision).collect()
        };
        assert_eq!(revisions(0, 1), [first, first]);
        assert_eq!(revisions(first, 1), [second, second]);
        assert_eq!(revisions(0, 3), [first, first, second, second]);
        assert_eq!(revisions(second, 1), [] as [u64; 0]);
    });
}

#[test]
fn the_history_of_a_key_is_newest_first() {
    each(|store| {
        commit(store, vec![Op::put("/k", "1", Expect::Any)]).unwrap();
        commit(store, vec![Op::put("/other", "x", Expect::Any)]).unwrap();
        commit(store, vec![Op::put("/k", "2", Expect::Any)]).unwrap();
        commit(store, vec![Op::delete("/k", Expect::Any)]).unwrap();
        let values = |limit| -> Vec<Option<Vec<u8>>> {
            let found = run(store.history("/k", limit)).unwrap();
            found.into_iter().map(|c| c.value).collect()
        };
        assert_eq!(values(9), [None, Some(b"2".to_vec()), Some(b"1".to_vec())]);
        assert_eq!(values(1), [None]);
    });
}

#[test]
fn a_watcher_gets_every_change_of_its_prefix_however_late_it_looks() {
    each_shared(|store| {
        let put = |k: &str| commit(&*store, vec![Op::put(k, "x", Expect::Any)]).unwrap();
        put("/a/before");
        let from = *store.revision().borrow();
        let mut watch = Watch::new(store.clone(), "/a/", from);
        put("/b/elsewhere");
        let expected: Vec<String> = (0..600).map(|n| format!("/a/{n}")).collect();
        for key in &expected {
            put(key);
        }
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            seen.extend(run(watch.next()).unwrap().into_iter().map(|c| c.key));
        }
        assert_eq!(seen, expected);
    });
}

#[test]
fn a_watcher_waits_for_the_next_change() {
    each_shared(|store| {
        let mut watch = Watch::new(store.clone(), "/a/", 0);
        let seen = run(async {
            let ops = vec![Op::put("/a/1", "x", Expect::Any)];
            let write = store.commit(ops, Meta::default());
            let (seen, written) = tokio::join!(watch.next(), write);
            written.unwrap();
            seen.unwrap()
        });
        assert_eq!(seen[0].key, "/a/1");
    });
}

#[test]
fn commits_that_wait_together_are_all_kept_and_refused_one_by_one() {
    each_shared(|store| {
        let put = |n: usize| {
            // Every second one wants a key that somebody had before.
            let op = Op::put(format!("/k/{}", n / 2), "x", Expect::Absent);
            let store = store.clone();
            async move { store.commit(vec![op], Meta::default()).await.ok() }
        };
        let revisions: Vec<u64> = run(async {
            let mut waiting = tokio::task::JoinSet::new();
            (0..100).for_each(|n| drop(waiting.spawn(put(n))));
            waiting.join_all().await.into_iter().flatten().collect()
        });
        let distinct: std::collections::BTreeSet<_> = revisions.iter().collect();
        assert_eq!((revisions.len(), distinct.len()), (50, 50));
        assert_eq!(run(store.list("/k/")).unwrap().entries.len(), 50);
    });
}

#[test]
fn the_revision_is_published_with_each_commit() {
    each(|store| {
        let mut revision = store.revision();
        let at = commit(store, vec![Op::put("/k", "1", Expect::Any)]).unwrap();
        run(revision.wait_for(|r| *r == at)).unwrap();
    });
}

#[test]
fn a_reopened_file_holds_everything_and_goes_on_counting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.db");
    let first = commit(
        &Sqlite::open(&path).unwrap(),
        vec![Op::put("/k", "1", Expect::Any)],
    )
    .unwrap();
    let store = Sqlite::open(&path).unwrap();
    assert_eq!(value(&store, "/k").as_deref(), Some(b"1".as_slice()));
    assert!(commit(&store, vec![Op::put("/k", "2", Expect::Revision(first))]).unwrap() > first);
}

#[test]
fn the_file_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.db");
    let _store = Sqlite::open(&path).unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn a_file_of_a_newer_program_is_refused_with_clear_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.db");
    drop(Sqlite::open(&path).unwrap());
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute_batch("PRAGMA user_version = 99")
        .unwrap();
    let text = Sqlite::open(&path).err().unwrap().to_string();
    assert!(
        text.contains("schema version 99") && text.contains("newer program"),
        "{text}"
    );
}

/// The parent kills this process in the middle of its commits; it prints each acknowledged number.
#[test]
fn every_commit_acknowledged_before_a_sigkill_is_there_afterwards() {
    const PATH: &str = "EVENKEEL_TEST_STORE_PATH";
    const ACKNOWLEDGED: usize = 200;
    if let Ok(path) = std::env::var(PATH) {
        return write_until_killed(path.as_ref());
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.db");
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "every_commit_acknowledged_before_a_sigkill_is_there_afterwards",
            "--nocapture",
        ])
        .env(PATH, &path)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let numbers = lines
        .map_while(Result::ok)
        .filter_map(|l| l.strip_prefix("ack ").map(str::to_owned));
    let acknowledged: Vec<String> = numbers.take(ACKNOWLEDGED).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(acknowledged.len(), ACKNOWLEDGED);
    let store = Sqlite::open(&path).unwrap();
    for n in acknowledged {
        assert!(
            value(&store, &format!("/a/{n}")).is_some(),
            "{n} was acknowledged and is gone"
        );
        assert!(
            value(&store, &format!("/b/{n}")).is_some(),
            "{n} is there by half"
        );
    }
}

#[allow(
    clippy::print_stdout,
    clippy::disallowed_macros,
    reason = "the parent reads it"
)]
fn write_until_killed(path: &std::path::Path) {
    let store = Sqlite::open(path).unwrap();
    for n in 0.. {
        let ops = ["a", "b"].map(|k| Op::put(format!("/{k}/{n}"), "x", Expect::Any));
        commit(&store, ops.to_vec()).unwrap();
        println!("ack {n}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// Random writes against a map: equal contents, equal refusals.
    #[test]
    fn a_store_behaves_like_a_map(steps in prop::collection::vec((0..4u8, any::<bool>(), 0..3u8), 1..40)) {
        each(|store| {
            let mut model: BTreeMap<String, (u8, u64)> = BTreeMap::new();
            for (i, (key, put, kind)) in steps.iter().enumerate() {
                let key = format!("/k/{key}");
                let actual = model.get(&key).map(|v| v.1);
                let expect = [Expect::Any, Expect::Absent, Expect::Revision(actual.unwrap_or(1))][usize::from(*kind)];
                let allowed = match expect { Expect::Any => true, Expect::Absent => actual.is_none(), Expect::Revision(r) => actual == Some(r) };
                let byte = u8::try_from(i).unwrap();
                let op = if *put { Op::put(key.clone(), [byte], expect) } else { Op::delete(key.clone(), expect) };
                let result = commit(store, vec![op]);
                assert_eq!(result.is_ok(), allowed);
                match (result, put) {
                    (Ok(revision), true) => { model.insert(key, (byte, revision)); }
                    (Ok(_), false) => { model.remove(&key); }
                    (Err(_), _) => {}
                }
            }
            let entries = run(store.list("/")).unwrap().entries;
            let seen: BTreeMap<_, _> = entries.into_iter().map(|e| (e.key, (e.value[0], e.revision))).collect();
            assert_eq!(seen, model);
        });
    }
}
