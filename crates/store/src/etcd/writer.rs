//! The one that writes: a task that does one thing after the other, while we lead.
//!
//! Whatever is written compares in the same transaction that the leader's key is of our term, so that a deposed leader
//! writes nothing. And it compares that the key `revision` has the stamp (etcd's revision of it) that was read before,
//! and that no commit is pending, so that nothing is written twice. But for the current values of a pending commit: they
//! compare that it is this one that is pending.
//!
//! When the answer to a transaction is lost, it may be done later still. Then `revision` is written anew with the same
//! value and a new stamp, which either fails, because the commit was made, or sees to it that it never will be. The
//! same goes before anything else is written after parts of a commit were left behind ([`Writer::ready`]).

use super::layout::{self, Current, Head, Pending, Place, Write};
use super::lead::Term;
use super::view::{self, Lost, READS_MAX, TXN_OPS_MAX, View};
use super::wire::{self, Fault};
use super::{Leader, Shared, large};
use crate::{Expect, Meta, Op, Recode, StoreError, holds, now_us};
use etcd_client::{Compare, CompareOp, GetResponse, KeyValue, Txn, TxnOp, TxnResponse};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Bytes of one transaction; etcd takes 1.5 MiB unless it is told otherwise.
const TXN_LEN_MAX: usize = 1 << 20;
/// Bytes of one key with its value, with room for what is around them.
const VALUE_LEN_MAX: usize = 1_400_000;
/// How often a commit is tried whose transaction was not done.
const COMMITS_MAX: usize = 3;
/// Steps from the worst that can have been left behind: a pending commit, a stamp to renew, parts to delete, and the
/// stamp once more; each may be found out of date once.
const STEPS_MAX: usize = 8;
/// Expectations that are looked at in the first request.
const EXPECTED_AT_ONCE: usize = TXN_OPS_MAX - 10;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked to do.
pub(super) enum Order {
    Commit(Vec<Op>, Meta, Reply<u64>),
    Compact(u64, Reply<u64>),
    Recode(u64, usize, Recode, Reply<Option<u64>>),
    Scrub(Reply<()>),
    /// Takes over from the leader before.
    TakeOver(Reply<()>),
}

/// See the module's documentation.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    /// The term in which nothing is left behind; none when something may be.
    pub(super) settled: Option<Term>,
    /// True when a commit was made whose values are to be put in place.
    pub(super) is_unfinished: bool,
    /// The oldest commit before which everything is forgotten, as far as we know.
    pub(super) swept: u64,
    /// What etcd may forget of its history the next time: readers are done with it by then.
    pub(super) past: Option<i64>,
}

/// Begins anew when etcd has forgotten what was read meanwhile; nothing was written by then that may not be twice.
macro_rules! steadily {
    ($once:expr) => {{
        let mut result = $once.await;
        for _ in 1..READS_MAX {
            if matches!(result, Err(Lost::Moved)) {
                result = $once.await;
            }
        }
        result.map_err(StoreError::from)
    }};
}

/// Does what it is asked until nobody can ask any more.
pub(super) async fn serve(shared: Arc<Shared>, mut inbox: mpsc::Receiver<Order>) {
    let mut writer = Writer {
        shared,
        settled: None,
        is_unfinished: false,
        swept: 0,
        past: None,
    };
    while let Some(order) = inbox.recv().await {
        // A caller that no longer waits needs no answer.
        match order {
            Order::Commit(ops, meta, reply) => {
                drop(reply.send(steadily!(writer.commit(&ops, &meta))));
            }
            Order::Compact(before, reply) => drop(reply.send(steadily!(writer.compact(before)))),
            Order::Recode(after, limit, form, reply) => {
                drop(reply.send(steadily!(writer.recode(after, limit, &form))));
            }
            Order::Scrub(reply) => drop(reply.send(steadily!(writer.scrub()))),
            Order::TakeOver(reply) => {
                let ready = steadily!(writer.ready(&[]));
                drop(reply.send(ready.map(drop)));
            }
        }
        if std::mem::take(&mut writer.is_unfinished) {
            // The commit is made and answered. If its values cannot be put in place now, the next order does it.
            writer.ready(&[]).await.ok();
        }
    }
}

/// What is so, and what a write compares.
pub(super) struct Now {
    pub(super) term: Term,
    pub(super) view: View,
}

/// One operation on a key of etcd's.
#[derive(Debug, Clone)]
pub(super) enum Raw {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
}

impl Raw {
    pub(super) fn key(&self) -> &[u8] {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Put(key, value) => key.len() + value.len(),
            Self::Delete(key) => key.len(),
        }
    }

    fn op(&self) -> TxnOp {
        match self {
            Self::Put(key, value) => TxnOp::put(key.clone(), value.clone(), None),
            Self::Delete(key) => TxnOp::delete(key.clone(), None),
        }
    }
}

/// The operations of a transaction.
pub(super) fn ops_of(raw: &[Raw]) -> Vec<TxnOp> {
    raw.iter().map(Raw::op).collect()
}

/// True when one transaction holds it.
pub(super) fn fits(raw: &[Raw]) -> bool {
    raw.len() <= TXN_OPS_MAX && len_of(raw) <= TXN_LEN_MAX
}

fn len_of(raw: &[Raw]) -> usize {
    raw.iter().map(Raw::len).sum()
}

/// As few transactions as hold these groups, none of which is cut in two. Each is made when its turn comes.
pub(super) fn batches(
    groups: impl IntoIterator<Item = Vec<Raw>>,
) -> impl Iterator<Item = Vec<Raw>> {
    let mut groups = groups.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut batch = groups.next()?;
        let mut len = len_of(&batch);
        let fits = |batch: &[Raw], len: usize, group: &[Raw]| {
            batch.len() + group.len() <= TXN_OPS_MAX && len + len_of(group) <= TXN_LEN_MAX
        };
        while let Some(group) = groups.next_if(|group| fits(&batch, len, group)) {
            len += len_of(&group);
            batch.extend(group);
        }
        Some(batch)
    })
}

/// A commit that is to be made.
pub(super) struct Draft<'a> {
    pub(super) revision: u64,
    attempt: Vec<u8>,
    head: Raw,
    /// The log's entry of each write, with the one of the index.
    pub(super) log: Vec<Vec<Raw>>,
    /// The values in the end.
    values: BTreeMap<&'a str, Option<&'a [u8]>>,
}

impl<'a> Draft<'a> {
    fn new(shared: &Shared, revision: u64, ops: &'a [Op], meta: &Meta) -> Self {
        let layout = &shared.layout;
        let attempt = uuid::Uuid::new_v4().as_bytes().to_vec();
        let keys = ops.iter().map(|op| op.key.as_str());
        let head = Head::new(meta, now_us(), attempt.clone(), keys);
        let log = ops.iter().enumerate().map(|(seq, Op { key, value, .. })| {
            let (place, key, value) = (Place { revision, seq }, key.clone(), value.clone());
            let trace = layout.trace(&key, place, value.is_none());
            let write = layout::encode(&Write { key, value });
            vec![
                Raw::Put(layout.log(place), write),
                Raw::Put(trace, Vec::new()),
            ]
        });
        Self {
            revision,
            attempt,
            head: Raw::Put(layout.head(revision), layout::encode(&head)),
            log: log.collect(),
            values: ops
                .iter()
                .map(|op| (op.key.as_str(), op.value.as_deref()))
                .collect(),
        }
    }

    /// True when one transaction holds all of it.
    fn fits(&self) -> bool {
        let ops = 2 + self.log.iter().map(Vec::len).sum::<usize>() + self.values.len();
        let logged = self.log.iter().map(|group| len_of(group)).sum::<usize>();
        let values = self.values.iter();
        let len_of =
            |(key, value): (&&str, &Option<&[u8]>)| key.len() + value.map_or(0, <[u8]>::len);
        let len = self.head.len() + logged + values.map(len_of).sum::<usize>();
        ops <= TXN_OPS_MAX && len <= TXN_LEN_MAX
    }

    /// The values in the end, for who reads them when this is gone.
    pub(super) fn owned_values(&self) -> BTreeMap<String, Option<Vec<u8>>> {
        let values = self.values.iter();
        let owned = values.map(|(key, value)| ((*key).to_owned(), value.map(<[u8]>::to_vec)));
        owned.collect()
    }

    /// What makes it a commit.
    pub(super) fn made(&self, shared: &Shared) -> Vec<Raw> {
        let revision = self.revision.to_string().into_bytes();
        vec![
            Raw::Put(shared.layout.revision(), revision),
            self.head.clone(),
        ]
    }

    /// All of it, for one transaction.
    fn whole(&self, shared: &Shared) -> Vec<Raw> {
        let values = self.values.iter();
        let values = values.map(|(key, value)| current(shared, self.revision, key, *value));
        let log = self.log.iter().flatten().cloned();
        self.made(shared)
            .into_iter()
            .chain(log)
            .chain(values)
            .collect()
    }

    /// What makes it a commit whose values are put in place later.
    pub(super) fn made_pending(&self, shared: &Shared) -> Vec<Raw> {
        let revision = self.revision;
        let pending = layout::encode(&Pending { revision });
        let mut raw = self.made(shared);
        raw.push(Raw::Put(shared.layout.pending(), pending));
        raw
    }
}

/// What makes a value the current one.
pub(super) fn current(shared: &Shared, revision: u64, key: &str, value: Option<&[u8]>) -> Raw {
    let place = shared.layout.current(key);
    match value {
        None => Raw::Delete(place),
        Some(value) => {
            let value = value.to_vec();
            Raw::Put(place, layout::encode(&Current { revision, value }))
        }
    }
}

fn check_size(ops: &[Op]) -> Result<(), StoreError> {
    for op in ops {
        let len = op.key.len() + op.value.as_ref().map_or(0, Vec::len);
        if len > VALUE_LEN_MAX {
            return Err(StoreError::TooLarge {
                key: op.key.clone(),
                len,
                max: VALUE_LEN_MAX,
            });
        }
    }
    Ok(())
}

/// The first key that is not as it is expected.
fn check_expected(ops: &[&Op], found: &[Option<KeyValue>]) -> Result<(), StoreError> {
    for (op, entry) in ops.iter().zip(found) {
        let current = entry
            .as_ref()
            .map(|e| layout::decode::<Current>(e.key(), e.value()))
            .transpose()?;
        let actual = current.map(|c| c.revision);
        if !holds(op.expect, actual) {
            let key = op.key.clone();
            return Err(StoreError::Conflict { key, actual });
        }
    }
    Ok(())
}

fn first(mut get: GetResponse) -> Option<KeyValue> {
    get.take_kvs().into_iter().next()
}

impl Writer {
    async fn commit(&mut self, ops: &[Op], meta: &Meta) -> Result<u64, Lost> {
        check_size(ops)?;
        for _ in 0..COMMITS_MAX {
            let now = self.ready_for(ops).await?;
            let draft = Draft::new(&self.shared, now.view.revision + 1, ops, meta);
            let revision = draft.revision;
            let is_made = if draft.fits() {
                let whole = draft.whole(&self.shared);
                self.make(&now, &draft, &whole).await?.is_some()
            } else {
                large::commit(self, &now, draft).await?
            };
            if is_made {
                self.shared.publish_revision(revision);
                return Ok(revision);
            }
        }
        Err(Lost::Store(StoreError::Unreachable {
            doing: "commit",
            source: "its answers are lost again and again".into(),
        }))
    }

    /// Ready to write, and all is as these writes expect it.
    async fn ready_for(&mut self, ops: &[Op]) -> Result<Now, Lost> {
        let picky: Vec<&Op> = ops.iter().filter(|op| op.expect != Expect::Any).collect();
        let key = |op: &&Op| self.shared.layout.current(&op.key);
        let keys: Vec<_> = picky.iter().map(key).collect();
        let (at_once, later) = keys.split_at(keys.len().min(EXPECTED_AT_ONCE));
        let gets = at_once.iter().map(|key| TxnOp::get(key.clone(), None));
        let (now, found) = self.ready(&gets.collect::<Vec<_>>()).await?;
        let mut found: Vec<_> = found.into_iter().map(first).collect();
        found.extend(now.view.entries(later).await?);
        check_expected(&picky, &found)?;
        Ok(now)
    }

    /// We lead, and nothing is left behind: no pending commit, no parts of one that was not made, and no transaction
    /// that may be done yet. And no newer program has led before us: it alone writes another format, and none while we
    /// lead. Gives the answers to further reads, too.
    pub(super) async fn ready(&mut self, more: &[TxnOp]) -> Result<(Now, Vec<GetResponse>), Lost> {
        for _ in 0..STEPS_MAX {
            let term = *self.shared.term.borrow();
            let term = term.ok_or_else(|| self.shared.not_leader())?;
            let layout = &self.shared.layout;
            let keys = [layout.leader(), layout.format()];
            let mut ops = keys.map(|key| TxnOp::get(key, None)).to_vec();
            ops.extend_from_slice(more);
            let (view, mut gets) = View::open_with(self.shared.clone(), ops).await?;
            let found = gets.split_off(gets.len().min(2));
            let format = gets.pop();
            self.check_leader(term, view.at, gets.pop())?;
            view::known_format(&self.shared.layout, format.as_ref())?;
            let now = Now { term, view };
            match now.view.pending {
                Some(unfinished) => large::finish(self, &now, unfinished).await?,
                None if self.settled == Some(term) => return Ok((now, found)),
                None => self.settle(now).await?,
            }
        }
        Err(Lost::Store(StoreError::Unreachable {
            doing: "take up what was left behind",
            source: "it is out of date again and again".into(),
        }))
    }

    /// The leader's key is of our term.
    fn check_leader(
        &self,
        term: Term,
        as_of: i64,
        get: Option<GetResponse>,
    ) -> Result<(), StoreError> {
        let leader = get.and_then(first).map(|entry| leader_of(&entry));
        if leader.as_ref().is_some_and(|l| l.term == term.number()) {
            return Ok(());
        }
        self.shared.depose(term);
        self.shared.publish_leader(as_of, leader);
        Err(self.shared.not_leader())
    }

    /// One step: a new stamp, so that nothing is done any more that was sent before; then parts of commits that were
    /// not made are deleted. If there were some, another stamp is due, for the same reason.
    async fn settle(&mut self, now: Now) -> Result<(), Lost> {
        self.settled = None;
        let layout = &self.shared.layout;
        let revision = now.view.revision.to_string().into_bytes();
        let raw = [
            Raw::Put(layout.revision(), revision),
            Raw::Put(layout.format(), layout::VERSION.to_string().into_bytes()),
        ];
        let txn = Txn::new().when(now.guards()).and_then(ops_of(&raw));
        let answer = self.shared.wire.transact(&txn).await;
        let answer = answer.map_err(|fault| fault.error("write the revision"))?;
        if !answer.succeeded() {
            // It is written by the try before, or we do not lead: what is so now tells.
            return Ok(());
        }
        let (stamp, at) = (wire::revision_of(&answer), wire::revision_of(&answer));
        let view = View {
            stamp,
            at,
            ..now.view
        };
        let term = now.term;
        if !large::clear(self, &Now { term, view }).await? {
            self.settled = Some(term);
        }
        Ok(())
    }

    /// Writes what may be written twice, compared to what was so; for what is not seen, or is so already.
    pub(super) async fn guarded(
        &mut self,
        now: &Now,
        doing: &'static str,
        raw: &[Raw],
    ) -> Result<(), StoreError> {
        let answer = self.compared(now.guards(), doing, raw).await?;
        match answer.succeeded() {
            true => Ok(()),
            false => self.failed(now, doing, &answer),
        }
    }

    /// The same with the answer, which has who leads when a comparison fails.
    pub(super) async fn compared(
        &mut self,
        guards: Vec<Compare>,
        doing: &'static str,
        raw: &[Raw],
    ) -> Result<TxnResponse, StoreError> {
        let txn = Txn::new()
            .when(guards)
            .and_then(ops_of(raw))
            .or_else([TxnOp::get(self.shared.layout.leader(), None)]);
        let ask = |client| wire::send(client, txn.clone());
        let answer = self.shared.wire.counted(ask).await;
        if !matches!(answer, Ok((_, 1))) {
            // An attempt that was given up may be done at any time.
            self.settled = None;
        }
        let (answer, _) = answer.map_err(|fault| fault.error(doing))?;
        Ok(answer)
    }

    /// A comparison failed, which is because we do not lead any more unless somebody meddled.
    fn failed(
        &mut self,
        now: &Now,
        doing: &'static str,
        answer: &TxnResponse,
    ) -> Result<(), StoreError> {
        self.settled = None;
        let leader = wire::gets(answer).into_iter().next();
        self.check_leader(now.term, wire::revision_of(answer), leader)?;
        Err(StoreError::Refused {
            doing,
            source: "somebody else has written below the prefix".into(),
        })
    }

    /// Makes the commit in one transaction. Gives etcd's revision, 0 when that is not known; none when it was not made
    /// and never will be, and can be tried again.
    pub(super) async fn make(
        &mut self,
        now: &Now,
        draft: &Draft<'_>,
        raw: &[Raw],
    ) -> Result<Option<i64>, StoreError> {
        let txn = Txn::new().when(now.guards()).and_then(ops_of(raw));
        match self
            .shared
            .wire
            .once(|client| wire::send(client, txn))
            .await
        {
            Ok(answer) if answer.succeeded() => Ok(Some(wire::revision_of(&answer))),
            Err(Fault::NotDone(_)) => Ok(None),
            // Something on the way may have sent it twice, so that it was done before it failed.
            Ok(_) | Err(Fault::Unknown(_)) => {
                self.settled = None;
                Ok(self.was_made(now, draft).await?.then_some(0))
            }
            Err(fault) => Err(fault.error("commit")),
        }
    }

    /// True when the commit was made; false when it never will be.
    async fn was_made(&mut self, now: &Now, draft: &Draft<'_>) -> Result<bool, StoreError> {
        let unknown = StoreError::OutcomeUnknown { doing: "commit" };
        let layout = &self.shared.layout;
        let same = now.view.revision.to_string();
        let head = layout.head(draft.revision);
        let keys = [layout.revision(), head.clone()];
        let txn = Txn::new()
            .when(now.guards())
            .and_then([TxnOp::put(layout.revision(), same, None)])
            .or_else(keys.clone().map(|key| TxnOp::get(key, None)));
        let Ok(answer) = self.shared.wire.transact(&txn).await else {
            return Err(unknown);
        };
        if answer.succeeded() {
            return Ok(false);
        }
        let mut found = wire::gets(&answer).into_iter().map(first);
        let revision = found.next().flatten();
        let revision = layout::number(&keys[0], revision.as_ref().map(KeyValue::value))?;
        match found.next().flatten() {
            Some(entry) => {
                let record: Head = layout::decode(&head, entry.value())?;
                Ok(record.attempt == draft.attempt)
            }
            None if revision < draft.revision => Ok(false),
            // It is compacted away already.
            None => Err(unknown),
        }
    }
}

impl Now {
    /// What everything compares that is written.
    pub(super) fn guards(&self) -> Vec<Compare> {
        let layout = &self.view.shared.layout;
        vec![
            self.leads(),
            Compare::mod_revision(layout.revision(), CompareOp::Equal, self.view.stamp),
            Compare::create_revision(layout.pending(), CompareOp::Equal, 0),
        ]
    }

    pub(super) fn leads(&self) -> Compare {
        let leader = self.view.shared.layout.leader();
        Compare::create_revision(leader, CompareOp::Equal, self.term.created)
    }
}

/// Who leads, by the leader's key.
pub(super) fn leader_of(entry: &KeyValue) -> Leader {
    Leader {
        who: entry.value().to_vec(),
        term: u64::try_from(entry.create_revision()).unwrap_or(0),
    }
}
