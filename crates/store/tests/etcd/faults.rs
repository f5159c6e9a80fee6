//! A network that loses answers, an etcd that is killed, compacted or full.

use super::relay::{Fate, Relay};
use super::server::{Server, run, shared, spawn};
use super::{compact_etcd, leading, put, raw, within};
use etcd_client::{AlarmAction, AlarmOptions, AlarmType};
use evenkeel_store::etcd::{Config, Leadership};
use evenkeel_store::{Etcd, Expect, Meta, Op, Store as _, StoreError, Watch};
use std::sync::Arc;
use std::time::Duration;

#[test]
fn commits_whose_answers_are_lost_are_made_exactly_once() {
    let Some(server) = shared() else { return };
    run(async {
        let (relay, _, config) = Relay::before(server).await;
        let (etcd, _leadership) = leading(&config, "me").await;
        let fates = [Fate::AnswerLost, Fate::Lost, Fate::Late];
        for n in 0..30u64 {
            let fate = fates[usize::try_from(n % 3).unwrap()];
            let value = format!("needle {n}");
            relay.catch(value.clone(), fate);
            let op = Op::put(format!("/k/{n}"), value, Expect::Absent);
            let made = within(etcd.commit(vec![op], Meta::default())).await;
            assert_eq!(made.unwrap(), n + 1, "{fate:?}");
            within(relay.caught()).await;
            if fate == Fate::Late {
                within(relay.let_go()).await;
            }
        }
        let log = etcd.changes(0, 1000).await.unwrap();
        let seen: Vec<_> = log.iter().map(|c| c.key.clone()).collect();
        let expected: Vec<_> = (0..30).map(|n| format!("/k/{n}")).collect();
        assert_eq!(seen, expected);
        assert_eq!(etcd.list("/").await.unwrap().entries.len(), 30);
    });
}

#[test]
fn a_commit_of_which_nobody_can_tell_is_an_error_that_says_so() {
    let Some(server) = shared() else { return };
    run(async {
        let (relay, _, mut config) = Relay::before(server).await;
        config.lease_ttl = Duration::from_secs(600);
        let (etcd, _leadership) = leading(&config, "me").await;
        relay.catch("needle", Fate::AnswerLost);
        let write = put(&etcd, "/k", "needle");
        let cut = async {
            relay.caught().await;
            relay.close();
        };
        let (told, ()) = within(async { tokio::join!(write, cut) }).await;
        let told = told.unwrap_err();
        assert!(matches!(told, StoreError::OutcomeUnknown { .. }), "{told}");
        let refused = within(etcd.get("/k")).await.unwrap_err();
        assert!(
            matches!(refused, StoreError::Unreachable { .. }),
            "{refused}"
        );
        relay.open();
        let known = within(etcd.list("/")).await.unwrap();
        // Now it can be told, and what was sent is not made later.
        assert_eq!(known.entries.len() as u64, known.revision);
        let next = within(put(&etcd, "/l", "next")).await.unwrap();
        assert_eq!(next, known.revision + 1);
        assert_eq!(etcd.changes(0, 9).await.unwrap().len() as u64, next);
    });
}

/// A leader that was told that nobody knows what became of its first commit, which is on its way still.
async fn left_in_the_dark(relay: &Relay, mut through: Config) -> (Etcd, Leadership) {
    through.lease_ttl = Duration::from_secs(600);
    let (etcd, leadership) = leading(&through, "me").await;
    relay.catch("needle", Fate::LateAndLast);
    let told = within(put(&etcd, "/k", "needle")).await.unwrap_err();
    assert!(matches!(told, StoreError::OutcomeUnknown { .. }), "{told}");
    relay.open();
    assert_eq!(etcd.list("/").await.unwrap().revision, 0);
    (etcd, leadership)
}

/// Commits the same once more, unless it is there.
async fn repeat(etcd: &Etcd) -> Result<u64, StoreError> {
    let op = Op::put("/k", "needle", Expect::Absent);
    within(etcd.commit(vec![op], Meta::default())).await
}

#[test]
fn a_commit_that_is_made_after_all_is_not_made_twice() {
    let Some(server) = shared() else { return };
    run(async {
        let (relay, _, through) = Relay::before(server).await;
        let (etcd, _leadership) = left_in_the_dark(&relay, through).await;
        within(relay.let_go()).await;
        let mut revision = etcd.revision();
        within(revision.wait_for(|r| *r == 1)).await.unwrap();
        let told = repeat(&etcd).await.unwrap_err();
        assert!(matches!(told, StoreError::Conflict { .. }), "{told}");
        assert_eq!(put(&etcd, "/l", "next").await.unwrap(), 2);
        let log = etcd.changes(0, 9).await.unwrap();
        let keys = log.iter().map(|c| c.key.as_str());
        assert_eq!(keys.collect::<Vec<_>>(), ["/k", "/l"]);
    });
}

#[test]
fn a_commit_of_which_nobody_could_tell_is_never_made_once_there_is_a_next_one() {
    let Some(server) = shared() else { return };
    run(async {
        let (relay, direct, through) = Relay::before(server).await;
        let (etcd, _leadership) = left_in_the_dark(&relay, through).await;
        assert_eq!(within(put(&etcd, "/l", "next")).await.unwrap(), 1);
        let mut client = server.client().await;
        let before = raw(&client, &direct, "").await;
        within(relay.let_go()).await;
        // etcd has done what came before by then.
        for n in 0..50 {
            client.put("/elsewhere", n.to_string(), None).await.unwrap();
        }
        assert_eq!(raw(&client, &direct, "").await, before);
        assert_eq!(repeat(&etcd).await.unwrap(), 2);
        let log = etcd.changes(0, 9).await.unwrap();
        let keys = log.iter().map(|c| c.key.as_str());
        assert_eq!(keys.collect::<Vec<_>>(), ["/l", "/k"]);
    });
}

#[test]
fn a_watcher_survives_the_compaction_of_what_it_missed_in_etcd() {
    let Some(server) = shared() else { return };
    run(async {
        let (relay, direct, through) = Relay::before(server).await;
        let (etcd, _leadership) = leading(&direct, "me").await;
        let follower = Arc::new(Etcd::open(&through).await.unwrap());
        let mut watch = Watch::new(follower.clone(), "/k/", 0);
        put(&etcd, "/k/0", "x").await.unwrap();
        assert_eq!(within(watch.next()).await.unwrap().len(), 1);

        relay.close();
        for n in 1..=20 {
            put(&etcd, &format!("/k/{n}"), "x").await.unwrap();
        }
        compact_etcd(&mut server.client().await).await;
        relay.open();

        let mut seen = Vec::new();
        while seen.len() < 20 {
            let more = within(watch.next()).await.unwrap();
            seen.extend(more.into_iter().map(|c| c.revision));
        }
        assert_eq!(seen, (2..=21).collect::<Vec<_>>());
        put(&etcd, "/k/last", "x").await.unwrap();
        assert_eq!(within(watch.next()).await.unwrap()[0].key, "/k/last");
    });
}

#[test]
fn what_was_acknowledged_before_etcd_was_killed_is_there_once() {
    let Some(mut server) = Server::start(&[]) else {
        return;
    };
    let config = server.fresh();
    let (etcd, leadership) = run(leading(&config, "me"));
    let etcd = Arc::new(etcd);
    let (stop, told) = tokio::sync::watch::channel(false);
    let writes = spawn(write_until(etcd.clone(), told));
    for _ in 0..3 {
        grow(&etcd);
        server.kill();
        server.run();
    }
    grow(&etcd);
    stop.send_replace(true);
    let outcomes = run(within(writes)).unwrap();
    assert!(leadership.lasts(), "a restart of etcd's costs no election");
    run(check(&etcd, &outcomes));
}

/// Commits one after the other until it is told to stop; gives what came of each.
async fn write_until(
    etcd: Arc<Etcd>,
    mut stop: tokio::sync::watch::Receiver<bool>,
) -> Vec<Result<u64, StoreError>> {
    let mut outcomes = Vec::new();
    while !*stop.borrow_and_update() {
        let n = outcomes.len();
        let own = Op::put(format!("/k/{n}"), "x", Expect::Absent);
        let shared = Op::put("/last", n.to_string(), Expect::Any);
        outcomes.push(etcd.commit(vec![own, shared], Meta::default()).await);
    }
    outcomes
}

/// What was acknowledged is there, once and whole; what was refused is not.
async fn check(etcd: &Etcd, outcomes: &[Result<u64, StoreError>]) {
    let held = etcd.list("/k/").await.unwrap();
    let log = etcd.changes(0, usize::MAX >> 1).await.unwrap();
    assert_eq!(
        log.len(),
        2 * held.entries.len(),
        "one is there twice or half"
    );
    for (n, outcome) in outcomes.iter().enumerate() {
        let key = format!("/k/{n}");
        let found = held.entries.iter().find(|e| e.key == key);
        match outcome {
            Ok(revision) => assert_eq!(found.unwrap().revision, *revision),
            Err(StoreError::OutcomeUnknown { .. }) => {}
            Err(other) => assert!(found.is_none(), "{key}: {other}"),
        }
    }
}

/// Waits until there are twenty more commits.
fn grow(etcd: &Etcd) {
    let mut revision = etcd.revision();
    let from = *revision.borrow();
    run(async {
        let grown = within(revision.wait_for(|r| *r > from + 20)).await;
        drop(grown.unwrap());
    });
}

#[test]
fn what_was_acknowledged_before_a_member_was_killed_is_there_once() {
    let Some(mut members) = Server::cluster() else {
        return;
    };
    let mut config = members[0].fresh();
    let urls = members.iter().map(|m| m.url().to_owned());
    config.endpoints = urls.collect();
    let (etcd, leadership) = run(leading(&config, "me"));
    let etcd = Arc::new(etcd);
    let (stop, told) = tokio::sync::watch::channel(false);
    let writes = spawn(write_until(etcd.clone(), told));
    // Each in turn, so that the one that leads the others and the one that is asked are among them.
    for member in &mut members {
        grow(&etcd);
        member.kill();
        grow(&etcd);
        member.run();
    }
    stop.send_replace(true);
    let outcomes = run(within(writes)).unwrap();
    assert!(
        leadership.lasts(),
        "a member's end costs no election of ours"
    );
    run(check(&etcd, &outcomes));
}

#[test]
fn a_server_that_is_down_is_passed_over() {
    let Some(server) = shared() else { return };
    run(async {
        let down = Relay::start(server.url()).await;
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = server.fresh();
        let silent_url = format!("http://{}", silent.local_addr().unwrap());
        config.endpoints = vec![down.url(), silent_url, server.url().to_owned()];
        let (etcd, _leadership) = leading(&config, "me").await;
        put(&etcd, "/k", "1").await.unwrap();
        down.close();
        assert_eq!(within(put(&etcd, "/k", "2")).await.unwrap(), 2);
        assert_eq!(within(etcd.list("/")).await.unwrap().revision, 2);
    });
}

#[test]
fn an_etcd_that_is_not_there_is_an_error_with_clear_words() {
    run(async {
        let config = evenkeel_store::etcd::Config::new(["http://127.0.0.1:1"]);
        let refused = within(Etcd::open(&config)).await.err().unwrap();
        let text = refused.to_string();
        assert!(matches!(refused, StoreError::Unreachable { .. }), "{text}");
        assert!(text.contains("no etcd server answers"), "{text}");
        let cause = std::error::Error::source(&refused).unwrap().to_string();
        assert!(cause.contains("Connection refused"), "{cause}");
    });
}

#[test]
fn an_etcd_out_of_space_refuses_writes_and_answers_reads_until_there_is_room() {
    // It looks at its size ten times a second: with much less, what is written meanwhile is more than what is forgotten.
    let Some(server) = Server::start(&["--quota-backend-bytes", "32000000"]) else {
        return;
    };
    run(async {
        let config = server.fresh();
        let (etcd, leadership) = leading(&config, "me").await;
        let value = "x".repeat(100_000);
        let mut made = 0;
        let refused = loop {
            match put(&etcd, "/k", &value).await {
                Ok(_) => made += 1,
                Err(error) => break error,
            }
            assert!(made < 1000, "it is never full");
        };
        assert!(matches!(refused, StoreError::NoSpace { .. }), "{refused}");
        assert!(refused.to_string().contains("--quota-backend-bytes"));
        assert_eq!(etcd.list("/").await.unwrap().revision, made);
        assert!(put(&etcd, "/l", "small").await.is_err());

        let mut client = server.client().await;
        compact_etcd(&mut client).await;
        client.defragment().await.unwrap();
        let status = client.status().await.unwrap();
        let mut member = AlarmOptions::new();
        member.with_member(status.header().unwrap().member_id());
        let disarm = client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(member));
        disarm.await.unwrap();
        assert!(leadership.lasts());
        assert_eq!(etcd.compact(made).await.unwrap(), made);
        assert_eq!(put(&etcd, "/l", "small").await.unwrap(), made + 1);
    });
}
