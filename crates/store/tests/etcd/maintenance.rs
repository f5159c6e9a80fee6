//! Compaction, values in another form, and scrubbing.

use super::relay::{Fate, Relay, delete_of, put_of};
use super::server::{Server, run, shared, spawn};
use super::{depose, leading, put, raw, until, within};
use evenkeel_store::{Etcd, Expect, Meta, Op, Recode, Store as _};
use std::sync::Arc;
use std::time::Duration;

/// Writes of one key: more than two transactions delete.
const WRITES: usize = 150;

#[test]
fn a_compaction_that_is_interrupted_says_nothing_wrong_and_is_finished_by_the_next() {
    let Some(server) = shared() else { return };
    run(async {
        let (relay, direct, mut through) = Relay::before(server).await;
        // It is the test that ends it.
        through.lease_ttl = Duration::from_secs(600);
        let (old, _leadership) = leading(&through, "old").await;
        let write = Op::put("/gone", "x", Expect::Any);
        let delete = Op::delete("/gone", Expect::Any);
        for ops in [vec![write; WRITES], vec![delete]] {
            old.commit(ops, Meta::default()).await.unwrap();
        }
        let last = put(&old, "/other", "x").await.unwrap();

        let amid = format!("{}/log/{:020}/{:08}", direct.prefix, 1, WRITES / 2);
        relay.catch(delete_of(&amid), Fate::LastOfAll);
        let old = Arc::new(old);
        let compacting = old.clone();
        let compaction = spawn(async move { compacting.compact(last).await });
        within(relay.caught()).await;
        compaction.abort();

        let mut client = server.client().await;
        depose(&mut client, &direct).await;
        let (new, _leadership) = leading(&direct, "new").await;
        let left = raw(&client, &direct, "history/").await.len();
        assert!((2..WRITES).contains(&left), "it was not amid: {left}");
        assert_eq!(new.history("/gone", 999).await.unwrap(), []);
        assert_eq!(new.get_at("/gone", last).await.unwrap(), None);
        let commit = new.read_commit(last).await.unwrap().unwrap();
        assert_eq!(commit.writes[0].before, None);

        assert_eq!(new.compact(last).await.unwrap(), last);
        for part in ["history/", "log/", "head/"] {
            let left = raw(&client, &direct, part).await;
            assert_eq!(left.len(), 1, "{left:?}");
        }
    });
}

/// A value that etcd takes once in a transaction, and not twice.
const LARGE: usize = 1_300_000;

/// Values that begin with an `a` begin with a `z`.
fn form() -> Recode {
    Arc::new(|_, value| Some([b"z", value.strip_prefix(b"a")?].concat()))
}

/// The first byte of the current value of `/k`, and of that in the log.
async fn firsts(etcd: &Etcd) -> [u8; 2] {
    let current = etcd.get("/k").await.unwrap().unwrap().value;
    let logged = etcd.history("/k", 1).await.unwrap();
    assert_eq!(current.len(), LARGE);
    [current[0], logged[0].value.as_ref().unwrap()[0]]
}

#[test]
fn a_value_that_a_transaction_holds_once_gets_its_form_in_both_places() {
    let Some(server) = shared() else { return };
    run(async {
        let (etcd, _leadership) = leading(&server.fresh(), "me").await;
        put(&etcd, "/k", &"a".repeat(LARGE)).await.unwrap();
        assert_eq!(etcd.recode(0, 9, form()).await.unwrap(), Some(1));
        assert_eq!(firsts(&etcd).await, *b"zz");
    });
}

#[test]
fn a_large_value_that_got_its_form_in_one_place_gets_it_in_both_when_it_is_repeated() {
    let Some(server) = shared() else { return };
    run(async {
        let (relay, direct, mut through) = Relay::before(server).await;
        // It is the test that ends it.
        through.lease_ttl = Duration::from_secs(600);
        let (old, _leadership) = leading(&through, "old").await;
        put(&old, "/k", &"a".repeat(LARGE)).await.unwrap();
        let logged = format!("{}/log/{:020}/{:08}", direct.prefix, 1, 0);
        relay.catch(put_of(&logged), Fate::LastOfAll);
        let recoding = spawn(async move { old.recode(0, 9, form()).await });
        within(relay.caught()).await;
        recoding.abort();

        depose(&mut server.client().await, &direct).await;
        let (new, _leadership) = leading(&direct, "new").await;
        assert_eq!(firsts(&new).await, *b"za");
        assert_eq!(new.recode(0, 9, form()).await.unwrap(), Some(1));
        assert_eq!(firsts(&new).await, *b"zz");
    });
}

/// True when a member's file has the text that is looked for somewhere.
fn has_it(member: &Server) -> bool {
    let file = std::fs::read(member.folder().join("data/member/snap/db")).unwrap();
    file.windows(7).any(|w| w == b"planted")
}

async fn is_scrubbed_from_all(members: &[Server]) {
    let mut config = members[0].fresh();
    config.endpoints = members.iter().map(|m| m.url().to_owned()).collect();
    let (etcd, _leadership) = leading(&config, "me").await;
    for n in 0..30 {
        put(&etcd, &format!("/{n}"), "x").await.unwrap();
    }
    put(&etcd, "/k", &"planted ".repeat(2000)).await.unwrap();
    let has_all = async || members.iter().all(has_it);
    until("it is in each member's file", has_all).await;
    let other: Recode = Arc::new(|_, _| Some(b"other".to_vec()));
    etcd.recode(0, 100, other).await.unwrap();
    etcd.scrub().await.unwrap();
    let left = members.iter().map(has_it).collect::<Vec<_>>();
    assert!(!left.contains(&true), "{left:?}");
    assert_eq!(etcd.get("/k").await.unwrap().unwrap().value, b"other");
    put(&etcd, "/k", "next").await.unwrap();
}

#[test]
fn scrubbing_leaves_nothing_of_a_replaced_value_in_the_members_file() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    run(is_scrubbed_from_all(&[server]));
}

#[test]
fn scrubbing_waits_for_a_member_that_is_slow_to_forget() {
    // One revision at a time, with a pause after each.
    let slow = ["--experimental-compaction-batch-limit", "1"];
    let Some(members) = Server::cluster_with([&[], &[], &slow]) else {
        return;
    };
    run(is_scrubbed_from_all(&members));
}
