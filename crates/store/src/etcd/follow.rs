//! Follows the revision and the leader: reads both, then watches from there on.
//!
//! After whatever ends a watch, a lost connection or a compaction that overtook it, both are read anew: of values of
//! which only the newest counts nothing is missed that way.

use super::layout;
use super::writer::leader_of;
use super::{Shared, wire};
use crate::StoreError;
use etcd_client::{
    Client, Error, EventType, KeyValue, Txn, TxnOp, WatchOptions, WatchResponse, WatchStream,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// When a watch is silent for so long, a read shows whether it has missed something.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Pause after a failure, so that a cluster that is down is not kept busy.
const PAUSE: Duration = Duration::from_millis(200);

/// Publishes what is so; gives etcd's revision of it.
pub(super) async fn read(shared: &Shared) -> Result<i64, StoreError> {
    let layout = &shared.layout;
    let keys = [layout.revision(), layout.leader()];
    let ops = keys.clone().map(|key| TxnOp::get(key, None));
    let answer = shared.wire.transact(&Txn::new().and_then(ops)).await;
    let answer = answer.map_err(|fault| fault.error("read the revision"))?;
    let seen = wire::revision_of(&answer);
    let mut gets = wire::gets(&answer).into_iter();
    let mut first = || gets.next().and_then(|mut get| get.take_kvs().pop());
    let revision = first();
    let revision = layout::number(&keys[0], revision.as_ref().map(KeyValue::value))?;
    shared.publish_revision(revision);
    shared.publish_leader(seen, first().as_ref().map(leader_of));
    Ok(seen)
}

/// Follows until it is aborted.
pub(super) async fn follow(shared: Arc<Shared>, mut seen: i64) {
    loop {
        if watch(&shared, seen).await.is_broken() {
            sleep(PAUSE).await;
        }
        seen = loop {
            match read(&shared).await {
                Ok(seen) => break seen,
                Err(_) => sleep(PAUSE).await,
            }
        };
    }
}

/// Why a watch ended.
enum End {
    Silent,
    Broken,
}

impl End {
    fn is_broken(&self) -> bool {
        matches!(self, Self::Broken)
    }
}

/// Publishes what happens after a revision of etcd's, until the watch ends or is silent for long.
async fn watch(shared: &Shared, seen: i64) -> End {
    let layout = &shared.layout;
    let keys = [layout.revision(), layout.leader()];
    let begun = shared.wire.once(|client| begin(client, keys, seen)).await;
    let Ok(mut stream) = begun else {
        return End::Broken;
    };
    loop {
        match timeout(SILENCE_MAX, stream.message()).await {
            Err(_) => return End::Silent,
            Ok(Ok(Some(news))) if !news.canceled() => publish(shared, &news),
            Ok(_) => return End::Broken,
        }
    }
}

async fn begin(client: Client, keys: [Vec<u8>; 2], seen: i64) -> Result<WatchStream, Error> {
    let [revision, leader] = keys;
    let from = Some(WatchOptions::new().with_start_revision(seen + 1));
    let mut stream = client.watch_client().watch(revision, from.clone()).await?;
    stream.watch(leader, from).await?;
    Ok(stream)
}

fn publish(shared: &Shared, news: &WatchResponse) {
    for event in news.events() {
        let Some(entry) = event.kv() else {
            continue;
        };
        let is_put = matches!(event.event_type(), EventType::Put);
        if entry.key() == shared.layout.leader() {
            let leader = is_put.then(|| leader_of(entry));
            shared.publish_leader(entry.mod_revision(), leader);
        } else if let Ok(revision) = layout::number(entry.key(), Some(entry.value())) {
            // Whoever reads gets the error of a value that is none.
            shared.publish_revision(revision);
        }
    }
}
