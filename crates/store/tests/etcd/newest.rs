//! What is newest of very many writes.

use super::relay::Relay;
use super::server::{Server, run};
use super::{leading, put, raw};
use etcd_client::{Client, Txn, TxnOp};
use evenkeel_store::etcd::Config;
use evenkeel_store::{Etcd, Store as _};

/// More than an answer of etcd's has.
const COUNT: u64 = 10_100;
/// Bytes that an answer has at most here: some for each of 10,000 keys.
const ANSWER_LEN_MAX: usize = 2_000_000;

/// Makes of the first commit as many as that, which takes as many seconds if they are made one by one.
async fn repeat_first(client: &mut Client, config: &Config) {
    let first = format!("{:020}", 1);
    let mut entries = raw(client, config, "").await;
    entries.retain(|(key, _)| key.contains(&first));
    assert_eq!(entries.len(), 3, "{entries:?}");
    for (key, value) in entries {
        let key = |n: u64| key.replace(&first, &format!("{n:020}"));
        let put = |n| TxnOp::put(format!("{}/{}", config.prefix, key(n)), value.clone(), None);
        let puts: Vec<_> = (2..=COUNT).map(put).collect();
        client.txn(Txn::new().and_then(puts)).await.unwrap();
    }
    let revision = format!("{}/revision", config.prefix);
    client.put(revision, COUNT.to_string(), None).await.unwrap();
}

async fn check(etcd: &Etcd) {
    for limit in [0, 1, 700, COUNT] {
        let found = etcd
            .history("/k", usize::try_from(limit).unwrap())
            .await
            .unwrap();
        let found: Vec<_> = found.iter().map(|c| c.revision).collect();
        let newest: Vec<_> = (1..=COUNT)
            .rev()
            .take(usize::try_from(limit).unwrap())
            .collect();
        assert_eq!(found, newest);
    }
    for revision in [1, 2, 999, 5050, COUNT] {
        let found = etcd.get_at("/k", revision).await.unwrap();
        assert_eq!(found.unwrap().revision, revision);
    }
    assert_eq!(etcd.get_at("/none", COUNT).await.unwrap(), None);
    for (below, limit) in [(u64::MAX, 3), (u64::MAX, 1200), (800, 2000)] {
        let found = etcd.log("/k", below, limit).await.unwrap();
        let found: Vec<_> = found.iter().map(|h| h.revision).collect();
        let newest = (1..below.min(COUNT + 1)).rev().take(limit);
        assert_eq!(found, newest.collect::<Vec<_>>());
    }
    assert_eq!(etcd.log("/none", u64::MAX, 1).await.unwrap(), []);
}

#[test]
fn the_newest_of_very_many_are_found_and_no_answer_is_large() {
    let Some(server) = Server::start(&["--max-txn-ops", "20000"]) else {
        return;
    };
    run(async {
        let (relay, direct, through) = Relay::before(&server).await;
        let (etcd, _leadership) = leading(&direct, "me").await;
        put(&etcd, "/k", "x").await.unwrap();
        repeat_first(&mut server.client().await, &direct).await;
        check(&Etcd::open(&through).await.unwrap()).await;
        let largest = relay.largest_answer();
        assert!(largest < ANSWER_LEN_MAX, "{largest}");
    });
}
