//! What the store in etcd promises beyond the conformance suite: when leaders change, when the network or etcd fails,
//! and when commits are large.

#![allow(clippy::unwrap_used, reason = "tests")]

mod faults;
mod foreign;
mod large;
mod leaders;
mod maintenance;
mod model;
mod newest;
mod relay;
mod server;
mod tls;

use etcd_client::{Client, CompactionOptions, GetOptions};
use evenkeel_store::etcd::{Config, Leadership};
use evenkeel_store::{Etcd, Expect, Meta, Op, Store as _, StoreError};
use server::DEADLINE;
use std::time::Duration;

/// A store that leads.
async fn leading(config: &Config, who: &str) -> (Etcd, Leadership) {
    let etcd = Etcd::open(config).await.unwrap();
    let leadership = within(etcd.campaign(who)).await.unwrap();
    (etcd, leadership)
}

async fn put(etcd: &Etcd, key: &str, value: &str) -> Result<u64, StoreError> {
    let op = Op::put(key, value, Expect::Any);
    etcd.commit(vec![op], Meta::default()).await
}

/// What comes before the deadline.
async fn within<F: Future>(future: F) -> F::Output {
    let waited = tokio::time::timeout(DEADLINE, future).await;
    waited.expect("it does not come")
}

/// Waits until it is so.
async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let waited = tokio::time::timeout(DEADLINE, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("not so: {what}"));
}

/// Keys below a part of the prefix, as etcd has them.
async fn raw(client: &Client, config: &Config, part: &str) -> Vec<(String, Vec<u8>)> {
    let prefix = format!("{}/{part}", config.prefix);
    let all = GetOptions::new().with_prefix();
    let mut kv = client.kv_client().max_decoding_message_size(usize::MAX);
    let mut found = kv.get(prefix.clone(), Some(all)).await.unwrap();
    let entry = |kv: etcd_client::KeyValue| {
        let key = String::from_utf8_lossy(&kv.key()[prefix.len()..]).into_owned();
        (key, kv.value().to_vec())
    };
    found.take_kvs().into_iter().map(entry).collect()
}

/// Has etcd forget all that was replaced until now, at once.
async fn compact_etcd(client: &mut Client) {
    let now = client.get("x", None).await.unwrap();
    let now = now.header().unwrap().revision();
    let physically = CompactionOptions::new().with_physical();
    client.compact(now, Some(physically)).await.unwrap();
}

/// Ends the leader's lease, as if it had been silent.
async fn depose(client: &mut Client, config: &Config) {
    let key = format!("{}/leader", config.prefix);
    let found = client.get(key, None).await.unwrap();
    client.lease_revoke(found.kvs()[0].lease()).await.unwrap();
}
