//! Who leads, who does not any more, and what they write.

use super::relay::{Fate, Relay};
use super::server::{run, shared, spawn};
use super::{depose, leading, put, raw, until, within};
use etcd_client::Client;
use evenkeel_store::{Etcd, Store as _, StoreError};
use std::sync::Arc;
use std::time::Duration;

#[test]
fn one_of_two_leads_and_the_other_follows_it() {
    let Some(server) = shared() else { return };
    run(async {
        let config = server.fresh();
        let (first, leadership) = leading(&config, "first https://192.0.2.1").await;
        let second = Arc::new(Etcd::open(&config).await.unwrap());
        let mut leader = second.leader();
        within(leader.wait_for(Option::is_some)).await.unwrap();

        let campaigning = second.clone();
        let campaign = tokio::spawn(async move { campaigning.campaign("second").await });
        put(&first, "/k", "1").await.unwrap();
        let mut revision = second.revision();
        within(revision.wait_for(|r| *r == 1)).await.unwrap();
        assert!(!campaign.is_finished(), "two lead");
        let Err(StoreError::NotLeader { leader: Some(who) }) = put(&second, "/k", "2").await else {
            panic!("one that does not lead writes");
        };
        assert_eq!(who, b"first https://192.0.2.1");

        let term = leadership.term();
        leadership.resign().await.unwrap();
        let next = within(campaign).await.unwrap().unwrap();
        assert!(next.term() > term && next.lasts());
        let mut leader = first.leader();
        let second_leads = |l: &Option<_>| {
            let l: &Option<evenkeel_store::etcd::Leader> = l;
            l.as_ref().is_some_and(|l| l.who == b"second")
        };
        within(leader.wait_for(second_leads)).await.unwrap();
        assert_eq!(put(&second, "/k", "2").await.unwrap(), 2);
        assert!(put(&first, "/k", "3").await.is_err());
        assert_eq!(first.get("/k").await.unwrap().unwrap().value, b"2");
    });
}

#[test]
fn a_handle_that_never_campaigned_reads_and_writes_nothing() {
    let Some(server) = shared() else { return };
    run(async {
        let config = server.fresh();
        let reader = Etcd::open(&config).await.unwrap();
        let refused = put(&reader, "/k", "1").await.unwrap_err();
        assert!(matches!(refused, StoreError::NotLeader { leader: None }));
        assert!(reader.compact(1).await.is_err());
        assert!(reader.scrub().await.is_err());
        assert_eq!(reader.list("/").await.unwrap().entries, []);
        assert_eq!(raw(&server.client().await, &config, "").await, []);
    });
}

#[test]
fn a_leader_whose_lease_is_gone_writes_nothing_and_learns_it() {
    let Some(server) = shared() else { return };
    run(async {
        let config = server.fresh();
        let (etcd, leadership) = leading(&config, "first").await;
        put(&etcd, "/k", "1").await.unwrap();
        let mut client = server.client().await;
        depose(&mut client, &config).await;
        let before = raw(&client, &config, "").await;
        let refused = put(&etcd, "/k", "2").await.unwrap_err();
        assert!(matches!(refused, StoreError::NotLeader { .. }), "{refused}");
        assert_eq!(raw(&client, &config, "").await, before);
        within(leadership.lost()).await;
        let again = within(etcd.campaign("again")).await.unwrap();
        assert!(again.term() > leadership.term());
        drop(leadership);
        assert_eq!(put(&etcd, "/k", "3").await.unwrap(), 2);
        assert!(again.lasts(), "an old leadership takes the new one along");
    });
}

#[test]
fn what_a_deposed_leader_sent_and_arrives_late_is_not_written() {
    let Some(server) = shared() else { return };
    run(async {
        let (relay, direct, through) = Relay::before(server).await;
        let (old, _leadership) = leading(&through, "old").await;
        put(&old, "/k", "1").await.unwrap();
        relay.catch("late value", Fate::Late);
        let old = Arc::new(old);
        let writing = old.clone();
        let write = tokio::spawn(async move { put(&writing, "/k", "late value").await });
        within(relay.caught()).await;
        relay.close();
        depose(&mut server.client().await, &direct).await;
        let (new, _leadership) = leading(&direct, "new").await;
        put(&new, "/other", "2").await.unwrap();
        relay.let_go().await;
        relay.open();
        let refused = within(write).await.unwrap().unwrap_err();
        assert!(matches!(refused, StoreError::NotLeader { .. }), "{refused}");
        put(&new, "/other", "3").await.unwrap();
        assert_eq!(new.get("/k").await.unwrap().unwrap().value, b"1");
        let log = new.changes(0, 100).await.unwrap();
        assert_eq!(log.len(), 3, "{log:?}");
    });
}

#[test]
fn commits_amid_depositions_are_there_when_acknowledged_and_not_otherwise() {
    let Some(server) = shared() else { return };
    run(async {
        let config = server.fresh();
        let etcd = Arc::new(Etcd::open(&config).await.unwrap());
        let mut client = server.client().await;
        let mut acknowledged = Vec::new();
        for round in 0..10 {
            let leadership = within(etcd.campaign("me")).await.unwrap();
            let writing = etcd.clone();
            let writes = tokio::spawn(async move {
                let (mut done, mut n) = (Vec::new(), 0);
                loop {
                    let key = format!("/{round}/{n}");
                    match put(&writing, &key, "x").await {
                        Ok(_) => done.push(key),
                        Err(StoreError::NotLeader { .. }) => return done,
                        Err(other) => panic!("{other}"),
                    }
                    n += 1;
                }
            });
            let from = *etcd.revision().borrow();
            let some = etcd.revision();
            within(some.clone().wait_for(|r| *r > from + 5 + round))
                .await
                .unwrap();
            depose(&mut client, &config).await;
            acknowledged.extend(within(writes).await.unwrap());
            drop(leadership);
        }
        let mut held: Vec<_> = etcd.list("/").await.unwrap().entries;
        assert_eq!(held.len() as u64, etcd.list("/").await.unwrap().revision);
        held.sort_by_key(|e| e.revision);
        let held: Vec<_> = held.into_iter().map(|e| e.key).collect();
        assert_eq!(held, acknowledged);
    });
}

/// Waits until etcd says that a lease has ended that was given now.
async fn outlast_one_that_nobody_keeps(client: &mut Client, ttl: i64) {
    let lease = client.lease_grant(ttl, None).await.unwrap().id();
    let has_ended = async || {
        let left = client.lease_client().time_to_live(lease, None).await;
        left.unwrap().ttl() < 0
    };
    until("a lease has ended that nobody keeps", has_ended).await;
}

#[test]
fn a_leader_that_etcd_does_not_answer_stops_leading_by_its_own_clock() {
    let Some(server) = shared() else { return };
    run(async {
        let (relay, direct, mut through) = Relay::before(server).await;
        through.lease_ttl = Duration::from_secs(2);
        let (etcd, leadership) = leading(&through, "cut off").await;
        // It outlives its lease as long as it is heard.
        outlast_one_that_nobody_keeps(&mut server.client().await, 2).await;
        assert!(leadership.lasts());
        relay.close();
        within(leadership.lost()).await;
        assert!(!leadership.lasts());
        let refused = put(&etcd, "/k", "1").await.unwrap_err();
        assert!(matches!(refused, StoreError::NotLeader { .. }), "{refused}");
        let (_next, next) = leading(&direct, "next").await;
        assert!(next.term() > leadership.term());
    });
}

#[test]
fn what_a_deposed_leader_sent_is_not_written_while_nobody_leads() {
    let Some(server) = shared() else { return };
    run(async {
        let (relay, direct, through) = Relay::before(server).await;
        let (old, _leadership) = leading(&through, "old").await;
        put(&old, "/k", "1").await.unwrap();
        let mut client = server.client().await;
        relay.catch("late value", Fate::Late);
        let old = Arc::new(old);
        let writing = old.clone();
        let write = spawn(async move { put(&writing, "/k", "late value").await });
        within(relay.caught()).await;
        relay.close();
        depose(&mut client, &direct).await;
        let before = raw(&client, &direct, "").await;
        relay.let_go().await;
        // etcd has done what came before by then.
        for n in 0..50 {
            client.put("/elsewhere", n.to_string(), None).await.unwrap();
        }
        assert_eq!(raw(&client, &direct, "").await, before);
        relay.open();
        let refused = within(write).await.unwrap().unwrap_err();
        assert!(matches!(refused, StoreError::NotLeader { .. }), "{refused}");
        assert_eq!(raw(&client, &direct, "").await, before);
    });
}
