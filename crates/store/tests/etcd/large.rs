//! Commits that take many transactions.

use super::relay::{Fate, Relay, delete_of, put_of};
use super::server::{Server, run, shared, spawn};
use super::{depose, leading, put, raw, until, within};
use evenkeel_store::{Etcd, Expect, Meta, Op, Store as _, StoreError};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const COUNT: usize = 5000;
const LEN: usize = 2000;

/// 10 MB: every key gets this byte.
fn ops(byte: u8) -> Vec<Op> {
    let key = |n: usize| format!("/k/{n:05}");
    let ops = (0..COUNT).map(|n| Op::put(key(n), vec![byte; LEN], Expect::Any));
    ops.collect()
}

/// Keys of a commit that takes a few transactions.
const SOME: usize = 300;

fn some_ops(byte: u8) -> Vec<Op> {
    ops(byte).into_iter().take(SOME).collect()
}

/// The bytes of all keys, and how many keys there are.
async fn seen(etcd: &Etcd) -> (BTreeSet<u8>, usize) {
    let entries = etcd.list("/k/").await.unwrap().entries;
    let bytes = entries.iter().map(|e| e.value[0]).collect();
    (bytes, entries.len())
}

#[test]
fn a_reader_never_sees_half_of_a_large_commit() {
    let Some(server) = shared() else { return };
    run(async {
        let config = server.fresh();
        let (etcd, _leadership) = leading(&config, "me").await;
        let reader = Arc::new(Etcd::open(&config).await.unwrap());
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let reading = reader.clone();
        let reads = tokio::spawn(async move {
            let mut reads = 0;
            while !over.load(Ordering::Relaxed) {
                let (bytes, len) = seen(&reading).await;
                assert!(
                    bytes.len() <= 1 && [0, COUNT].contains(&len),
                    "{bytes:?} {len}"
                );
                let last = reading.get("/k/04999").await.unwrap();
                let listed = reading.list("/k/00000").await.unwrap();
                if let (Some(last), Some(first)) = (last, listed.entries.first()) {
                    assert!(first.revision >= last.revision, "it goes back");
                }
                reads += 1;
            }
            reads
        });
        for byte in 1..=2 {
            let revision = etcd.commit(ops(byte), Meta::default()).await.unwrap();
            assert_eq!(revision, u64::from(byte));
            assert_eq!(seen(&reader).await, (BTreeSet::from([byte]), COUNT));
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(within(reads).await.unwrap() > 1);

        let found = etcd.read_commit(2).await.unwrap().unwrap();
        assert_eq!(found.writes.len(), COUNT);
        let all_replaced = found.writes.iter().all(|w| {
            let byte = |v: &Option<Vec<u8>>| v.as_ref().map(|v| v[0]);
            (byte(&w.before), byte(&w.after)) == (Some(1), Some(2))
        });
        assert!(all_replaced);
        assert_eq!(etcd.changes(1, 1).await.unwrap().len(), COUNT);
        let heads = etcd.log("/k/", u64::MAX, 5).await.unwrap();
        assert_eq!(
            heads.iter().map(|h| h.keys.len()).collect::<Vec<_>>(),
            [COUNT; 2]
        );

        let delete = (0..COUNT).map(|n| Op::delete(format!("/k/{n:05}"), Expect::Any));
        etcd.commit(delete.collect(), Meta::default())
            .await
            .unwrap();
        assert_eq!(seen(&reader).await.1, 0);
        assert_eq!(etcd.compact(3).await.unwrap(), 3);
        assert_eq!(
            etcd.history("/k/00000", 9).await.unwrap().len(),
            2,
            "what it replaced is kept"
        );
    });
}

#[test]
fn a_large_commit_that_expects_what_is_not_so_writes_nothing() {
    let Some(server) = shared() else { return };
    run(async {
        let config = server.fresh();
        let (etcd, _leadership) = leading(&config, "me").await;
        let first = put(&etcd, "/k/04000", "x").await.unwrap();
        let absent = ops(1).into_iter().map(|op| Op {
            expect: Expect::Absent,
            ..op
        });
        let refused = etcd.commit(absent.collect(), Meta::default()).await;
        let Err(StoreError::Conflict { key, actual }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!((key.as_str(), actual), ("/k/04000", Some(first)));
        assert_eq!(etcd.list("/").await.unwrap().entries.len(), 1);
    });
}

#[test]
fn a_value_that_etcd_does_not_take_is_refused_by_its_name() {
    let Some(server) = shared() else { return };
    run(async {
        let config = server.fresh();
        let (etcd, _leadership) = leading(&config, "me").await;
        let put = |len: usize| vec![Op::put("/k", vec![b'x'; len], Expect::Any)];
        let refused = etcd.commit(put(1_500_000), Meta::default()).await;
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("/k has 1500002 bytes"), "{text}");
        etcd.commit(put(1_399_000), Meta::default()).await.unwrap();
        assert_eq!(
            etcd.get("/k").await.unwrap().unwrap().value.len(),
            1_399_000
        );
        assert_eq!(etcd.list("/").await.unwrap().revision, 1);
    });
}

/// A leader that is cut off in a large commit when it writes this key; what it is told, and the next leader.
async fn cut_off_at(
    server: &Server,
    key: &str,
    check: impl AsyncFn(Result<u64, StoreError>, Etcd, Vec<String>),
) {
    let (relay, direct, mut through) = Relay::before(server).await;
    // It is the test that ends it.
    through.lease_ttl = Duration::from_secs(600);
    let (old, leadership) = leading(&through, "old").await;
    put(&old, "/before", "x").await.unwrap();
    let write = put_of(&format!("{}/{key}", direct.prefix));
    relay.catch(write, Fate::LastOfAll);
    let told = within(old.commit(ops(1), Meta::default())).await;

    within(relay.caught()).await;
    let mut client = server.client().await;
    let left = raw(&client, &direct, "").await;
    depose(&mut client, &direct).await;
    let new = Etcd::open(&direct).await.unwrap();
    let left = left.into_iter().map(|(key, _)| key).collect();
    check(told, new, left).await;
    drop(leadership);
}

#[test]
fn a_leader_that_is_lost_before_the_values_are_in_place_is_finished_by_the_next() {
    let Some(server) = shared() else { return };
    run(cut_off_at(
        server,
        "current//k/00000",
        async |told, new, left| {
            assert_eq!(told.unwrap(), 2, "it is made");
            assert!(left.contains(&"pending".into()));
            let in_place = left.iter().filter(|k| k.starts_with("current//k/"));
            assert_eq!(in_place.count(), 0);
            assert_eq!(
                seen(&new).await,
                (BTreeSet::from([1]), COUNT),
                "all read it"
            );
            assert_eq!(*new.revision().borrow(), 2);
            let _leadership = within(new.campaign("new")).await.unwrap();
            assert_eq!(seen(&new).await, (BTreeSet::from([1]), COUNT));
            assert_eq!(put(&new, "/after", "x").await.unwrap(), 3);
            assert_eq!(seen(&new).await, (BTreeSet::from([1]), COUNT));
        },
    ));
}

#[test]
fn a_leader_that_is_lost_before_the_commit_is_made_leaves_nothing_of_it() {
    let Some(server) = shared() else { return };
    let head = format!("head/{:020}", 2);
    run(cut_off_at(server, &head, async |told, new, left| {
        let told = told.unwrap_err();
        assert!(
            matches!(
                told,
                StoreError::Unreachable { .. } | StoreError::OutcomeUnknown { .. }
            ),
            "{told}"
        );
        let staged = left.iter().filter(|k| k.starts_with("log/"));
        assert_eq!(staged.count(), COUNT + 1);
        assert_eq!(seen(&new).await.1, 0, "nobody reads it");
        assert_eq!(new.changes(0, 9).await.unwrap().len(), 1);
        let _leadership = within(new.campaign("new")).await.unwrap();
        assert_eq!(new.history("/k/00000", 9).await.unwrap(), []);
        assert_eq!(put(&new, "/k/00001", "x").await.unwrap(), 2);
        let log = new.changes(0, 9).await.unwrap();
        assert_eq!(log.iter().map(|c| c.revision).collect::<Vec<_>>(), [1, 2]);
    }));
}

/// What the request contains that is to be caught in the commit of this revision, and the byte of its values: each of
/// the four steps meets each fate.
fn steps(prefix: &str, revision: u64) -> (Vec<u8>, u8) {
    let step = match (revision - 1) / 3 {
        0 => put_of(&format!("{prefix}/log/{revision:020}/{:08}", 0)),
        1 => put_of(&format!("{prefix}/head/{revision:020}")),
        2 => put_of(&format!("{prefix}/current//k/00000")),
        _ => delete_of(&format!("{prefix}/pending")),
    };
    (step, u8::try_from(revision).unwrap())
}

#[test]
fn a_large_commit_is_made_once_although_answers_are_lost() {
    let Some(server) = shared() else { return };
    run(async {
        let (relay, direct, through) = Relay::before(server).await;
        let (etcd, _leadership) = leading(&through, "me").await;
        let client = server.client().await;
        for expected in 1..=12 {
            let (step, byte) = steps(&direct.prefix, expected);
            let fate = [Fate::AnswerLost, Fate::Lost, Fate::Late][byte as usize % 3];
            relay.catch(step, fate);
            let revision = within(etcd.commit(some_ops(byte), Meta::default())).await;
            assert_eq!(revision.unwrap(), expected, "{fate:?}");
            within(relay.caught()).await;
            if fate == Fate::Late {
                within(relay.let_go()).await;
            }
            assert_eq!(seen(&etcd).await, (BTreeSet::from([byte]), SOME));
            // The next step is one of the next commit.
            let is_over = async || raw(&client, &direct, "pending").await.is_empty();
            until("nothing is pending", is_over).await;
        }
        let log = etcd.history("/k/00077", 99).await.unwrap();
        assert_eq!(log.len(), 12);
        etcd.compact(12).await.unwrap();
        etcd.scrub().await.unwrap();
    });
}

#[test]
fn a_commit_that_was_put_in_place_late_is_in_nobodys_way() {
    let Some(server) = shared() else { return };
    run(async {
        let (relay, direct, mut through) = Relay::before(server).await;
        through.lease_ttl = Duration::from_secs(600);
        let (etcd, _leadership) = leading(&through, "me").await;
        let (etcd, client) = (Arc::new(etcd), server.client().await);
        let key = |key: &str| format!("{}/{key}", direct.prefix);

        // All is in place, and the last request of it is on its way until its sender has given it up.
        relay.catch(delete_of(&key("pending")), Fate::LateAndLast);
        etcd.commit(some_ops(1), Meta::default()).await.unwrap();
        within(relay.caught()).await;
        let refused = within(put(&etcd, "/next", "1")).await.unwrap_err();
        assert!(
            matches!(refused, StoreError::Unreachable { .. }),
            "{refused}"
        );
        relay.open();

        // It arrives when the next one has begun to put the same in place.
        relay.catch(put_of(&key("current//k/00000")), Fate::LastOfAll);
        let next = etcd.clone();
        let next = spawn(async move { put(&next, "/next", "2").await });
        within(relay.caught()).await;
        assert_eq!(raw(&client, &direct, "pending").await.len(), 1);
        within(relay.let_go()).await;
        let is_over = async || raw(&client, &direct, "pending").await.is_empty();
        until("it has arrived", is_over).await;
        relay.open();
        assert_eq!(within(next).await.unwrap().unwrap(), 2);
        assert_eq!(seen(&etcd).await, (BTreeSet::from([1]), SOME));
    });
}
