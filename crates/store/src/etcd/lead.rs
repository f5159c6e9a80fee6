//! Leadership: one key with a lease. Who makes the key leads until it is gone.

use super::writer::{Order, leader_of};
use super::{Etcd, Leader, Shared, wire};
use crate::StoreError;
use etcd_client::{Client, Compare, CompareOp, Error, KeyValue, PutOptions, Txn, TxnOp};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Long enough for three signs of life, of which two may be lost, and for an election of etcd's own, which takes 1 to
/// 2 s; short enough that nobody waits long for the next leader of controllers without which traffic goes on.
pub const LEASE_TTL: Duration = Duration::from_secs(10);

/// Signs of life in the time of a lease.
const BEATS: u32 = 3;

/// A time in which we lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Term {
    /// etcd's revision that made the leader's key.
    pub(super) created: i64,
    lease: i64,
}

impl Term {
    pub(super) fn number(self) -> u64 {
        u64::try_from(self.created).unwrap_or(0)
    }
}

/// Proof that we lead, or did: commits of the [`Etcd`] are made while it lasts. Dropped, it is
/// resigned; drop it before the [`Etcd`], which can write nothing once it is gone.
pub struct Leadership {
    shared: Arc<Shared>,
    term: Term,
    keeper: JoinHandle<()>,
    is_resigned: bool,
}

impl Etcd {
    /// Waits until nobody leads and leads, with these words about ourselves for the others. What a leader before left
    /// unfinished is finished then. Waits for as long as it takes; dropping the future ends it.
    ///
    /// # Errors
    /// etcd cannot be reached or refuses; campaign again after a pause.
    pub async fn campaign(&self, who: impl Into<Vec<u8>>) -> Result<Leadership, StoreError> {
        let who = who.into();
        let mut leader = self.leader();
        loop {
            let vacant = leader.wait_for(Option::is_none).await;
            vacant.map_err(|_| StoreError::Closed)?;
            if let Some(leadership) = self.try_to_lead(&who).await? {
                self.ask(Order::TakeOver).await?;
                return Ok(leadership);
            }
        }
    }

    /// None when somebody else was faster.
    async fn try_to_lead(&self, who: &[u8]) -> Result<Option<Leadership>, StoreError> {
        let sent = Instant::now();
        let lease = Lease::grant(self.shared.clone()).await?;
        let Some(created) = lease.make_leader(who).await? else {
            return Ok(None);
        };
        let (id, ttl) = lease.keep();
        let term = Term { created, lease: id };
        let shared = self.shared.clone();
        shared.term.send_replace(Some(term));
        let keeper = tokio::spawn(keep(shared.clone(), term, ttl, sent + ttl));
        Ok(Some(Leadership {
            shared,
            term,
            keeper,
            is_resigned: false,
        }))
    }
}

impl Leadership {
    /// The number of this term, as [`Leader::term`].
    pub fn term(&self) -> u64 {
        self.term.number()
    }

    /// Waits until we do not lead any more: at the latest when our lease ends by our own clock. Cancel-safe.
    pub async fn lost(&self) {
        let mut term = self.shared.term.subscribe();
        // The sender lives as long as we do.
        term.wait_for(|now| *now != Some(self.term)).await.ok();
    }

    /// True while we lead, as far as we know.
    pub fn lasts(&self) -> bool {
        *self.shared.term.borrow() == Some(self.term)
    }

    /// Gives leadership up, and waits until etcd knows: the next one need not wait for the lease to end.
    ///
    /// # Errors
    /// etcd cannot be reached; then leadership ends with the lease.
    pub async fn resign(mut self) -> Result<(), StoreError> {
        self.shared.depose(self.term);
        let revoked = revoke(&self.shared, self.term.lease).await;
        self.is_resigned = revoked.is_ok();
        revoked.map_err(|fault| fault.error("resign"))
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        self.keeper.abort();
        if self.is_resigned {
            return;
        }
        let (shared, lease) = (self.shared.clone(), self.term.lease);
        shared.depose(self.term);
        let runtime = shared.runtime.clone();
        // It ends after `wire::PATIENCE`; when it fails the lease ends by itself.
        runtime.spawn(async move { revoke(&shared, lease).await.ok() });
    }
}

/// Gives signs of life until etcd says that the lease is gone, or has said nothing for as long as it lasts: then
/// somebody else may lead. Aborting it is safe: the lease ends by itself.
async fn keep(shared: Arc<Shared>, term: Term, ttl: Duration, mut until: Instant) {
    let (mut ours, beat) = (shared.term.subscribe(), ttl / BEATS);
    let mut next = until - ttl + beat;
    loop {
        tokio::select! {
            // Both are cancel-safe.
            () = sleep_until(next.min(until)) => {}
            _ = ours.wait_for(|now| *now != Some(term)) => return,
        }
        let sent = Instant::now();
        if sent >= until {
            break;
        }
        match beat_once(&shared, term.lease, beat.min(until - sent)).await {
            Ok(true) => (until, next) = (sent + ttl, sent + beat),
            Ok(false) => break,
            // The next server is asked soon, but not in a hurry.
            Err(_) => next = Instant::now() + beat / 8,
        }
    }
    shared.depose(term);
}

/// One sign of life; false when the lease is gone.
async fn beat_once(shared: &Shared, lease: i64, patience: Duration) -> Result<bool, wire::Fault> {
    let ask = |client: Client| async move {
        match client.lease_client().keep_alive(lease).await {
            Ok(_) => Ok(true),
            // The client's words for a lease without time to live.
            Err(Error::LeaseKeepAliveError(_)) => Ok(false),
            Err(error) => Err(error),
        }
    };
    shared.wire.once_within(patience, ask).await
}

async fn revoke(shared: &Shared, lease: i64) -> Result<(), wire::Fault> {
    let ask = |client: Client| async move { client.lease_client().revoke(lease).await };
    match shared.wire.repeated(ask).await {
        // It is gone already.
        Ok(_) | Err(wire::Fault::Refused(_)) => Ok(()),
        Err(fault) => Err(fault),
    }
}

/// A lease that is given back when it is dropped.
struct Lease {
    shared: Arc<Shared>,
    id: i64,
    ttl: Duration,
    is_kept: bool,
}

impl Lease {
    /// If the answer is lost, the lease ends by itself.
    async fn grant(shared: Arc<Shared>) -> Result<Self, StoreError> {
        let ttl = i64::try_from(shared.lease_ttl.as_secs()).unwrap_or(i64::MAX);
        let ask =
            |client: Client| async move { client.lease_client().grant(ttl.max(1), None).await };
        let granted = shared.wire.repeated(ask).await;
        let granted = granted.map_err(|fault| fault.error("get a lease"))?;
        // etcd may give more than it was asked for.
        let ttl = Duration::from_secs(u64::try_from(granted.ttl()).unwrap_or(0));
        Ok(Self {
            shared,
            id: granted.id(),
            ttl,
            is_kept: false,
        })
    }

    /// Gives etcd's revision that made the leader's key; none when there is one already.
    async fn make_leader(&self, who: &[u8]) -> Result<Option<i64>, StoreError> {
        let key = self.shared.layout.leader();
        let leased = PutOptions::new().with_lease(self.id);
        let txn = Txn::new()
            .when([Compare::create_revision(key.clone(), CompareOp::Equal, 0)])
            .and_then([
                TxnOp::put(key.clone(), who, Some(leased)),
                TxnOp::get(key.clone(), None),
            ])
            .or_else([TxnOp::get(key, None)]);
        // Done twice, the second one finds the key of the first.
        let answer = self.shared.wire.transact(&txn).await;
        let answer = answer.map_err(|fault| fault.error("campaign"))?;
        let found = wire::gets(&answer).into_iter().next();
        let found = found.and_then(|mut get| get.take_kvs().pop());
        let leader: Option<Leader> = found.as_ref().map(leader_of);
        self.shared
            .publish_leader(wire::revision_of(&answer), leader);
        let ours = found.filter(|entry| entry.lease() == self.id);
        Ok(ours.as_ref().map(KeyValue::create_revision))
    }

    fn keep(mut self) -> (i64, Duration) {
        self.is_kept = true;
        (self.id, self.ttl)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let (shared, lease) = (self.shared.clone(), self.id);
        let runtime = shared.runtime.clone();
        // It ends after `wire::PATIENCE`.
        runtime.spawn(async move { revoke(&shared, lease).await.ok() });
    }
}
