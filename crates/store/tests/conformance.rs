//! One suite that every store passes.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "etcd/server.rs"]
#[allow(dead_code, reason = "the tests of etcd alone need more of it")]
mod server;

use evenkeel_store::{
    Change, Etcd, Expect, Memory, Meta, Op, Recode, Sqlite, Store, StoreError, Watch, Written,
    back_up, fill, restore,
};
use proptest::prelude::*;
use server::run;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Runs the test on a fresh store of every kind.
fn each(test: impl Fn(&dyn Store)) {
    each_shared(|store| test(&*store));
}

/// The same for what several tasks share.
fn each_shared(test: impl Fn(Arc<dyn Store>)) {
    test(Arc::new(Memory::default()));
    let folder = tempfile::tempdir().unwrap();
    test(Arc::new(Sqlite::open(&folder.path().join("s.db")).unwrap()));
    let Some(server) = server::shared() else {
        return;
    };
    let etcd = run(Etcd::open(&server.fresh())).unwrap();
    let leadership = run(etcd.campaign("the test")).unwrap();
    test(Arc::new(etcd));
    run(leadership.resign()).unwrap();
}

fn commit(store: &dyn Store, ops: Vec<Op>) -> Result<u64, StoreError> {
    run(store.commit(
        ops,
        Meta {
            who: "t".into(),
            from: "192.0.2.1".into(),
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
        let Meta { who, from, message } = &log[0].meta;
        assert_eq!([who, from, message], ["t", "192.0.2.1", "m"]);
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
fn a_commit_is_read_back_with_what_it_replaced() {
    each(|store| {
        commit(store, vec![Op::put("/a", "1", Expect::Any)]).unwrap();
        let ops = vec![
            Op::delete("/a", Expect::Any),
            Op::put("/b", "2", Expect::Absent),
        ];
        let second = commit(store, ops).unwrap();
        let found = run(store.read_commit(second)).unwrap().unwrap();
        let writes: Vec<_> = found.writes.iter().map(text_of).collect();
        assert_eq!(
            writes,
            [("/a", Some("1"), None), ("/b", None, Some("2"))],
            "{found:?}"
        );
        assert_eq!((found.revision, found.meta.who.as_str()), (second, "t"));
        assert_eq!(run(store.read_commit(second + 1)).unwrap(), None);
        assert_eq!(run(store.read_commit(u64::MAX)).unwrap(), None);
    });
}

fn text_of(write: &Written) -> (&str, Option<&str>, Option<&str>) {
    fn text(value: &Option<Vec<u8>>) -> Option<&str> {
        value.as_ref().map(|v| std::str::from_utf8(v).unwrap())
    }
    (&write.key, text(&write.before), text(&write.after))
}

#[test]
fn a_key_can_be_read_as_it_was() {
    each(|store| {
        let first = commit(store, vec![Op::put("/a", "1", Expect::Any)]).unwrap();
        let second = commit(store, vec![Op::put("/other", "x", Expect::Any)]).unwrap();
        let third = commit(store, vec![Op::delete("/a", Expect::Any)]).unwrap();
        let at = |revision| {
            let found = run(store.get_at("/a", revision)).unwrap();
            found.map(|e| (e.revision, e.value))
        };
        let one = Some((first, b"1".to_vec()));
        assert_eq!(
            [
                at(first - 1),
                at(first),
                at(second),
                at(third),
                at(u64::MAX)
            ],
            [None, one.clone(), one, None, None]
        );
    });
}

#[test]
fn the_log_lists_commits_under_a_prefix_newest_first_and_in_pages() {
    each(|store| {
        let put = |keys: &[&str]| {
            let ops = keys.iter().map(|k| Op::put(*k, "x", Expect::Any));
            commit(store, ops.collect()).unwrap()
        };
        let first = put(&["/a/1", "/b/1", "/a/2"]);
        put(&["/b/1"]);
        let third = put(&["/a/1"]);
        let log = |below, limit| run(store.log("/a/", below, limit)).unwrap();
        let all = log(u64::MAX, 10);
        let seen: Vec<_> = all.iter().map(|h| (h.revision, h.keys.len())).collect();
        assert_eq!(seen, [(third, 1), (first, 2)]);
        assert_eq!(all[1].keys, ["/a/1", "/a/2"]);
        assert_eq!(log(u64::MAX, 1), all[..1]);
        assert_eq!(log(third, 1), all[1..]);
        assert_eq!(log(first, 1), []);
    });
}

#[test]
fn a_compacted_log_keeps_current_values_and_later_history_and_says_what_is_gone() {
    each_shared(|store| {
        let put = |k: &str, v: &str| commit(&*store, vec![Op::put(k, v, Expect::Any)]).unwrap();
        let first = put("/a", "1");
        put("/a", "2");
        put("/still", "here");
        put("/gone", "x");
        commit(&*store, vec![Op::delete("/gone", Expect::Any)]).unwrap();
        let kept = put("/a", "3");
        let last = put("/a", "4");
        let listing = run(store.list("/")).unwrap();
        assert_eq!(run(store.compact(kept)).unwrap(), kept);
        assert_eq!(run(store.list("/")).unwrap(), listing);

        let found = run(store.read_commit(kept)).unwrap().unwrap();
        assert_eq!(text_of(&found.writes[0]), ("/a", Some("2"), Some("3")));
        let revisions: Vec<_> = run(store.log("/", u64::MAX, 10)).unwrap();
        let revisions: Vec<_> = revisions.iter().map(|h| h.revision).collect();
        assert_eq!(revisions, [last, kept]);
        assert_eq!(run(store.changes(kept - 1, 10)).unwrap().len(), 2);
        assert_eq!(
            run(store.get_at("/a", kept - 1)).unwrap().unwrap().value,
            b"2"
        );
        assert_eq!(run(store.get_at("/gone", kept)).unwrap(), None);

        let mut watch = Watch::new(store.clone(), "/", first);
        for refused in [
            run(watch.next()).err(),
            run(store.changes(kept - 2, 1)).err(),
            run(store.read_commit(kept - 1)).err(),
            run(store.get_at("/a", kept - 2)).err(),
        ] {
            match refused {
                Some(StoreError::Compacted { oldest, .. }) => assert_eq!(oldest, kept),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn compacting_never_goes_back_nor_beyond_the_newest_commit() {
    each(|store| {
        let put = |v: &str| commit(store, vec![Op::put("/a", v, Expect::Any)]).unwrap();
        put("1");
        let last = put("2");
        assert_eq!(run(store.compact(u64::MAX >> 1)).unwrap(), last);
        assert_eq!(run(store.compact(1)).unwrap(), last);
        assert!(run(store.read_commit(last)).unwrap().is_some());
        assert!(put("3") > last, "revisions go on");
        assert_eq!(run(store.changes(last, 9)).unwrap().len(), 1);
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

/// The tables of version 1, as that program made them.
const VERSION_1: &str = "
CREATE TABLE revision (id INTEGER PRIMARY KEY AUTOINCREMENT, time_us INTEGER NOT NULL, who TEXT NOT NULL,
    message TEXT NOT NULL) STRICT;
CREATE TABLE change (revision INTEGER NOT NULL REFERENCES revision(id), seq INTEGER NOT NULL, key TEXT NOT NULL,
    value BLOB, PRIMARY KEY (revision, seq)) STRICT, WITHOUT ROWID;
CREATE INDEX change_by_key ON change(key, revision);
CREATE TABLE current (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO revision VALUES (1, 5, 'system:bootstrap', 'made'), (2, 6, 'admin from 10.0.0.1', 'create pool');
INSERT INTO change VALUES (1, 0, '/a', x'31'), (2, 0, '/a', x'32');
INSERT INTO current VALUES ('/a', x'32', 2);
PRAGMA user_version = 1;";

#[test]
fn a_file_of_version_1_is_upgraded_with_all_that_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch(VERSION_1).unwrap();
    drop(connection);
    for _ in ["upgraded", "and opened again"] {
        let store = Sqlite::open(&path).unwrap();
        let log = run(store.changes(0, 10)).unwrap();
        let metas: Vec<_> = log
            .iter()
            .map(|c| [&c.meta.who, &c.meta.from, &c.meta.message])
            .collect();
        assert_eq!(
            metas,
            [
                ["system:bootstrap", "", "made"],
                ["admin", "10.0.0.1", "create pool"]
            ]
        );
        assert_eq!(value(&store, "/a").as_deref(), Some(b"2".as_slice()));
    }
    let store = Sqlite::open(&path).unwrap();
    let next = commit(&store, vec![Op::put("/a", "3", Expect::Revision(2))]);
    assert_eq!(next.unwrap(), 3);
}

#[test]
fn a_backup_taken_amid_commits_is_one_revision_and_is_restored_with_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let store = Arc::new(Sqlite::open(&path("s.db")).unwrap());
    let pair = |n: u32| ["/a", "/b"].map(|k| Op::put(k, n.to_string(), Expect::Any));
    commit(&*store, pair(0).to_vec()).unwrap();
    let (writer, stop) = (
        store.clone(),
        Arc::new(std::sync::atomic::AtomicBool::new(false)),
    );
    let told = stop.clone();
    let writing = std::thread::spawn(move || {
        let until = |_: &u32| !told.load(std::sync::atomic::Ordering::Relaxed);
        for n in (1..).take_while(until) {
            commit(&*writer, pair(n).to_vec()).unwrap();
        }
    });
    let files = [("ca.key".to_owned(), b"secret".to_vec())];
    store.backup(&path("backup"), &files).unwrap();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writing.join().unwrap();

    let restored = restore(&path("backup"), &path("new.db")).unwrap();
    assert_eq!(restored.files, files);
    let copy = Sqlite::open(&path("new.db")).unwrap();
    assert_eq!(*copy.revision().borrow(), restored.revision);
    assert!(value(&copy, "/a").is_some());
    assert_eq!(value(&copy, "/a"), value(&copy, "/b"), "one revision");
    assert_eq!(
        run(copy.changes(0, usize::MAX >> 1)).unwrap().len() as u64,
        2 * restored.revision
    );
    assert!(commit(&copy, pair(9).to_vec()).unwrap() > restored.revision);
}

#[test]
fn what_is_no_backup_or_a_newer_one_is_not_restored() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let refused = |name: &str| {
        let text = restore(&path(name), &path("new.db"))
            .unwrap_err()
            .to_string();
        assert!(!path("new.db").exists(), "{text}");
        text
    };
    std::fs::write(
        path("text"),
        "no database at all, but long enough to be looked at",
    )
    .unwrap();
    assert!(refused("text").contains("is no backup"));
    assert!(refused("missing").contains("is no backup"));
    let store = Sqlite::open(&path("s.db")).unwrap();
    assert!(refused("s.db").contains("is no backup"));
    store.backup(&path("newer"), &[]).unwrap();
    let connection = rusqlite::Connection::open(path("newer")).unwrap();
    connection
        .execute_batch("PRAGMA user_version = 99")
        .unwrap();
    assert!(refused("newer").contains("newer program"));
}

/// Keys and values, without revisions.
fn values(store: &dyn Store) -> Vec<(String, Vec<u8>)> {
    let entries = run(store.list("/")).unwrap().entries;
    entries.into_iter().map(|e| (e.key, e.value)).collect()
}

#[test]
fn a_backup_of_any_store_is_restored_with_its_values_its_revision_and_its_files() {
    use std::os::unix::fs::PermissionsExt;
    each(|store| {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        commit(store, vec![Op::put("/a", "1", Expect::Any)]).unwrap();
        commit(store, vec![Op::put("/gone", "x", Expect::Any)]).unwrap();
        commit(store, vec![Op::delete("/gone", Expect::Any)]).unwrap();
        let last = commit(store, vec![Op::put("/b", "2", Expect::Any)]).unwrap();
        let files = [("ca.key".to_owned(), b"secret".to_vec())];
        std::fs::write(path("backup.new"), "what a crash left").unwrap();
        assert_eq!(run(back_up(store, &path("backup"), &files)).unwrap(), last);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let mode = std::fs::metadata(path("backup")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);

        let restored = restore(&path("backup"), &path("new.db")).unwrap();
        assert_eq!((restored.revision, restored.files), (last, files.to_vec()));
        let copy = Sqlite::open(&path("new.db")).unwrap();
        assert_eq!(values(&copy), values(store));
        let only = run(copy.log("/", u64::MAX, 9)).unwrap();
        assert_eq!((only.len(), only[0].revision), (1, last));
        let read = run(copy.get_at("/a", last)).unwrap().unwrap();
        assert_eq!((read.revision, read.value), (last, b"1".to_vec()));
        let before = run(copy.changes(0, 9)).unwrap_err();
        assert!(matches!(before, StoreError::Compacted { oldest, .. } if oldest == last));
        let next = Op::put("/a", "3", Expect::Revision(last));
        assert_eq!(commit(&copy, vec![next]).unwrap(), last + 1);
    });
}

#[test]
fn a_backup_that_cannot_be_written_leaves_what_is_there_and_nothing_else() {
    each(|store| {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("there");
        std::fs::write(&there, "mine").unwrap();
        for target in [&there, &folder.path().join("none/backup")] {
            let refused = run(back_up(store, target, &[]));
            assert!(refused.is_err(), "{refused:?}");
        }
        assert_eq!(std::fs::read(&there).unwrap(), b"mine");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    });
}

#[test]
fn any_empty_store_is_filled_from_a_backup_in_one_commit_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let source = Sqlite::open(&path("s.db")).unwrap();
    for value in ["1", "2"] {
        let ops = ["/a", "/b"].map(|key| Op::put(key, value, Expect::Any));
        commit(&source, ops.to_vec()).unwrap();
    }
    let files = [("ca.key".to_owned(), b"secret".to_vec())];
    source.backup(&path("backup"), &files).unwrap();
    std::fs::write(path("text"), "no database at all, but long enough to see").unwrap();
    each(|store| {
        for none in ["text", "missing", "s.db"] {
            let refused = run(fill(store, &path(none))).unwrap_err();
            assert!(matches!(refused, StoreError::NoBackup { .. }), "{refused}");
        }
        assert_eq!(run(store.list("")).unwrap().revision, 0);
        let (revision, found) = run(fill(store, &path("backup"))).unwrap();
        assert_eq!((revision, found.as_slice()), (1, files.as_slice()));
        assert_eq!(values(store), values(&source));
        let log = run(store.changes(0, 9)).unwrap();
        assert!(
            log.iter()
                .all(|c| c.revision == 1 && c.meta.who == "restore")
        );

        let refused = run(fill(store, &path("backup"))).unwrap_err();
        assert!(matches!(&refused, StoreError::NotEmpty { key } if key == "/a"));
        assert!(refused.to_string().contains("empty store"), "{refused}");
        assert_eq!(*store.revision().borrow(), 1);
    });
}

#[test]
fn values_go_from_sqlite_to_etcd_and_back_by_backups() {
    let Some(server) = server::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let sqlite = Sqlite::open(&path("s.db")).unwrap();
    // Large for etcd, which takes it in many transactions.
    let put = |n: u32| Op::put(format!("/k/{n:05}"), vec![n as u8; 700], Expect::Any);
    commit(&sqlite, (0..3000).map(put).collect()).unwrap();
    commit(&sqlite, (7..9).map(put).collect()).unwrap();
    let files = [("ca.key".to_owned(), b"secret".to_vec())];
    run(back_up(&sqlite, &path("first"), &files)).unwrap();

    let etcd = run(Etcd::open(&server.fresh())).unwrap();
    let _leadership = run(etcd.campaign("the test")).unwrap();
    let filled = run(fill(&etcd, &path("first"))).unwrap();
    assert_eq!(filled, (1, files.to_vec()));
    assert_eq!(values(&etcd), values(&sqlite));
    let whole = run(etcd.read_commit(1)).unwrap().unwrap();
    assert_eq!(whole.writes.len(), 3000);

    let last = commit(&etcd, vec![put(7)]).unwrap();
    assert_eq!(run(back_up(&etcd, &path("second"), &files)).unwrap(), last);
    let restored = restore(&path("second"), &path("new.db")).unwrap();
    assert_eq!((restored.revision, restored.files), (last, files.to_vec()));
    let back = Sqlite::open(&path("new.db")).unwrap();
    assert_eq!(values(&back), values(&sqlite));
    assert_eq!(commit(&back, vec![put(9)]).unwrap(), last + 1);
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

/// Values that begin with the old letter begin with the new one.
fn letter(old: u8, new: u8) -> Recode {
    Arc::new(move |_, value| {
        let rest = value.strip_prefix(&[old])?;
        Some([&[new], rest].concat())
    })
}

#[test]
fn recoding_changes_values_in_place_now_and_in_the_log_and_nothing_else() {
    each(|store| {
        let put = |key: &str, value: &str| Op::put(key, value, Expect::Any);
        let first = commit(store, vec![put("/k", "a1"), put("/l", "b1")]).unwrap();
        commit(store, vec![put("/k", "a2")]).unwrap();
        let gone = commit(store, vec![Op::delete("/l", Expect::Any)]).unwrap();
        let twice = commit(store, vec![put("/m", "a1"), put("/m", "b2")]).unwrap();
        let mut after = 0;
        let mut steps = 0;
        while let Some(last) = run(store.recode(after, 1, letter(b'a', b'z'))).unwrap() {
            assert!(last > after, "{last}");
            (after, steps) = (last, steps + 1);
        }
        assert_eq!((after, steps), (twice, 3), "a deletion has no value");
        assert_eq!(value(store, "/k").as_deref(), Some(b"z2".as_slice()));
        assert_eq!(value(store, "/m").as_deref(), Some(b"b2".as_slice()));
        let log = run(store.changes(0, 100)).unwrap();
        let values = log.iter().map(|c| c.value.as_deref().unwrap_or_default());
        assert_eq!(
            values.collect::<Vec<_>>(),
            [b"z1".as_slice(), b"b1", b"z2", b"", b"z1", b"b2"]
        );
        assert_eq!(*store.revision().borrow(), twice);
        let before = run(store.read_commit(gone - 1)).unwrap().unwrap();
        assert_eq!(before.writes[0].before.as_deref(), Some(b"z1".as_slice()));
        let expect = Expect::Revision(gone - 1);
        commit(store, vec![Op::put("/k", "a3", expect)]).expect("the revision is the same");
        assert_eq!(
            run(store.get_at("/k", first)).unwrap().unwrap().value,
            b"z1"
        );
    });
}

#[test]
fn recoding_reaches_what_is_left_after_compaction() {
    each(|store| {
        for value in ["a1", "a2", "a3"] {
            commit(store, vec![Op::put("/k", value, Expect::Any)]).unwrap();
        }
        commit(store, vec![Op::put("/l", "a4", Expect::Any)]).unwrap();
        run(store.compact(4)).unwrap();
        assert_eq!(
            run(store.recode(0, 100, letter(b'a', b'z'))).unwrap(),
            Some(4)
        );
        assert_eq!(value(store, "/k").as_deref(), Some(b"z3".as_slice()));
        assert_eq!(value(store, "/l").as_deref(), Some(b"z4".as_slice()));
    });
}

#[test]
fn nothing_of_a_replaced_value_is_left_in_the_files_after_scrubbing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.db");
    let store = Sqlite::open(&path).unwrap();
    let secret = "planted ".repeat(2000);
    commit(&store, vec![Op::put("/k", secret, Expect::Any)]).unwrap();
    let files = || {
        let wal = folder.path().join("s.db-wal");
        [std::fs::read(&path).unwrap(), std::fs::read(wal).unwrap()].concat()
    };
    let is_there = || files().windows(7).any(|w| w == b"planted");
    assert!(is_there());
    let form: Recode = Arc::new(|_, _| Some(b"other".to_vec()));
    run(store.recode(0, 100, form)).unwrap();
    run(store.scrub()).unwrap();
    assert!(!is_there());
    assert_eq!(value(&store, "/k").as_deref(), Some(b"other".as_slice()));
    commit(&store, vec![Op::put("/l", "1", Expect::Absent)]).unwrap();
}
