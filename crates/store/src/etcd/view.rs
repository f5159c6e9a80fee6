//! Reading as of one revision of etcd's, however many requests it takes.

use super::Shared;
use super::layout::{self, Key, Pending, Place, Write};
use super::wire::{self, Fault};
use crate::StoreError;
use etcd_client::{GetOptions, GetResponse, KeyValue, Txn, TxnOp};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError};

/// Entries that are asked for at once.
const PAGE_LEN: i64 = 500;
const KEYS_PAGE_LEN: i64 = 10_000;

/// Operations of one transaction; etcd allows 128 unless it is told otherwise.
pub(super) const TXN_OPS_MAX: usize = 120;

/// A read that etcd's compaction overtook is begun anew this often.
pub(super) const READS_MAX: usize = 5;

/// Why a read did not come to an end.
#[derive(Debug)]
pub(super) enum Lost {
    /// etcd has forgotten the revision that was read: begin anew.
    Moved,
    Store(StoreError),
}

impl From<StoreError> for Lost {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Fault> for Lost {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Moved => Self::Moved,
            other => Self::Store(other.error("read")),
        }
    }
}

impl From<Lost> for StoreError {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Moved => Fault::Moved.error("read"),
            Lost::Store(error) => error,
        }
    }
}

/// The values of a pending commit by key; none for a deletion.
pub(super) type Values = Arc<BTreeMap<String, Option<Vec<u8>>>>;

/// A pending commit that was read: it does not change, so it is read once.
pub(super) struct Overlay {
    /// etcd's revision of the key `pending`.
    made: i64,
    values: Values,
}

/// A pending commit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unfinished {
    pub(super) revision: u64,
    /// etcd's revision of the key `pending`.
    pub(super) made: i64,
}

/// One revision of etcd's.
pub(super) struct View {
    pub(super) shared: Arc<Shared>,
    /// etcd's revision.
    pub(super) at: i64,
    /// The store's revision.
    pub(super) revision: u64,
    /// etcd's revision of the key `revision`: what is compared by everything that is written.
    pub(super) stamp: i64,
    /// The oldest commit that is kept whole.
    pub(super) oldest: u64,
    pub(super) pending: Option<Unfinished>,
}

/// A part of the keys, in order. What is wanted in the other order is read by `newest`.
#[derive(Debug, Clone)]
pub(super) struct Range {
    from: Key,
    end: Key,
    keys_only: bool,
}

impl Range {
    pub(super) fn new(from: Key, end: Key) -> Self {
        Self {
            from,
            end,
            keys_only: false,
        }
    }

    pub(super) fn prefix(prefix: Key) -> Self {
        let end = layout::end_of(&prefix);
        Self::new(prefix, end)
    }

    pub(super) fn keys_only(self) -> Self {
        let keys_only = true;
        Self { keys_only, ..self }
    }

    fn options(&self) -> GetOptions {
        let options = GetOptions::new().with_range(self.end.clone());
        let options = options.with_limit(self.page_len());
        match self.keys_only {
            true => options.with_keys_only(),
            false => options,
        }
    }

    /// How many entries a page has at most.
    pub(super) fn page_len(&self) -> i64 {
        match self.keys_only {
            true => KEYS_PAGE_LEN,
            false => PAGE_LEN,
        }
    }

    /// The first page, for a transaction.
    pub(super) fn op(&self) -> TxnOp {
        TxnOp::get(self.from.clone(), Some(self.options()))
    }

    /// What is left after a page of it; none when that was all.
    pub(super) fn after(self, page: &GetResponse) -> Option<Self> {
        let last = page.kvs().last().filter(|_| page.more())?;
        let from = [last.key(), &[0]].concat();
        Some(Self { from, ..self })
    }
}

impl View {
    /// As of now.
    pub(super) async fn open(shared: Arc<Shared>) -> Result<Self, Lost> {
        Self::open_with(shared, Vec::new())
            .await
            .map(|(view, _)| view)
    }

    /// As of now, with the answers to further reads.
    pub(super) async fn open_with(
        shared: Arc<Shared>,
        more: Vec<TxnOp>,
    ) -> Result<(Self, Vec<GetResponse>), Lost> {
        let layout = &shared.layout;
        let keys = [layout.revision(), layout.oldest(), layout.pending()];
        let mut ops: Vec<_> = keys.iter().map(|k| TxnOp::get(k.clone(), None)).collect();
        ops.extend(more);
        let answer = shared.wire.transact(&Txn::new().and_then(ops)).await?;
        let mut gets = wire::gets(&answer);
        let more = gets.split_off(keys.len().min(gets.len()));
        let value = |i: usize| {
            let found = gets.get(i).and_then(|get| get.kvs().first());
            found.map(KeyValue::value)
        };
        let stamp = gets.first().and_then(|get| get.kvs().first());
        let view = Self {
            at: wire::revision_of(&answer),
            revision: layout::number(&keys[0], value(0))?,
            stamp: stamp.map_or(0, KeyValue::mod_revision),
            oldest: layout::number(&keys[1], value(1))?,
            pending: gets.get(2).map(unfinished).transpose()?.flatten(),
            shared: shared.clone(),
        };
        Ok((view, more))
    }

    /// The first page of a range.
    pub(super) async fn page(&self, range: &Range) -> Result<GetResponse, Lost> {
        let options = range.options().with_revision(self.at);
        let ask = |client: etcd_client::Client| {
            let (from, options) = (range.from.clone(), options.clone());
            async move {
                let mut kv = client.kv_client().max_decoding_message_size(usize::MAX);
                kv.get(from, Some(options)).await
            }
        };
        Ok(self.shared.wire.repeated(ask).await?)
    }

    /// Everything of a range, until `see` has enough.
    pub(super) async fn scan(
        &self,
        range: Range,
        see: impl FnMut(&KeyValue) -> Result<ControlFlow<()>, Lost>,
    ) -> Result<(), Lost> {
        let first = self.page(&range).await?;
        self.scan_from(first, range, see).await
    }

    /// The same with the first page at hand.
    pub(super) async fn scan_from(
        &self,
        mut page: GetResponse,
        mut range: Range,
        mut see: impl FnMut(&KeyValue) -> Result<ControlFlow<()>, Lost>,
    ) -> Result<(), Lost> {
        loop {
            for entry in page.kvs() {
                if see(entry)?.is_break() {
                    return Ok(());
                }
            }
            let Some(rest) = range.after(&page) else {
                return Ok(());
            };
            range = rest;
            page = self.page(&range).await?;
        }
    }

    /// The answers to these reads, as many of them in one transaction as it takes.
    pub(super) async fn answers(&self, reads: Vec<TxnOp>) -> Result<Vec<GetResponse>, Lost> {
        let mut answers = Vec::with_capacity(reads.len());
        for part in reads.chunks(TXN_OPS_MAX) {
            let txn = Txn::new().and_then(part);
            let answer = self.shared.wire.transact(&txn).await?;
            answers.extend(wire::gets(&answer));
        }
        Ok(answers)
    }

    /// The entry of each of these keys, `None` where there is none.
    pub(super) async fn entries(&self, keys: &[Key]) -> Result<Vec<Option<KeyValue>>, Lost> {
        let options = GetOptions::new().with_revision(self.at);
        let read = |key: &Key| TxnOp::get(key.clone(), Some(options.clone()));
        let answers = self.answers(keys.iter().map(read).collect()).await?;
        let first = |mut get: GetResponse| get.take_kvs().into_iter().next();
        Ok(answers.into_iter().map(first).collect())
    }

    /// The writes at these places of the log, in their order.
    pub(super) async fn writes(&self, places: &[Place]) -> Result<Vec<Write>, Lost> {
        let keys = places.iter().map(|place| self.shared.layout.log(*place));
        let keys: Vec<_> = keys.collect();
        let found = self.entries(&keys).await?;
        let writes = found.iter().zip(&keys).map(|(entry, key)| match entry {
            Some(entry) => layout::decode(entry.key(), entry.value()),
            None => Err(layout::unreadable(
                key,
                "the index names it, and it is missing",
            )),
        });
        Ok(writes.collect::<Result<_, _>>()?)
    }

    /// What the pending commit wrote, if there is one.
    pub(super) async fn overlay(&self) -> Result<Option<(u64, Values)>, Lost> {
        let Some(Unfinished { revision, made }) = self.pending else {
            self.shared.forget_pending();
            return Ok(None);
        };
        if let Some(values) = self.known(made) {
            return Ok(Some((revision, values)));
        }
        let mut values = BTreeMap::new();
        let layout = &self.shared.layout;
        let range = Range::new(layout.log_from(revision), layout.log_from(revision + 1));
        self.scan(range, |entry| {
            let Write { key, value } = layout::decode(entry.key(), entry.value())?;
            values.insert(key, value);
            Ok(ControlFlow::Continue(()))
        })
        .await?;
        let values = Arc::new(values);
        self.shared.keep_pending(made, values.clone());
        Ok(Some((revision, values)))
    }

    fn known(&self, made: i64) -> Option<Values> {
        let lock = self.shared.pending.lock();
        let known = lock.unwrap_or_else(PoisonError::into_inner);
        let same = known.as_ref().filter(|overlay| overlay.made == made);
        same.map(|overlay| overlay.values.clone())
    }
}

impl Shared {
    /// Keeps what a pending commit wrote, so that it is not read again.
    pub(super) fn keep_pending(&self, made: i64, values: Values) {
        let lock = self.pending.lock();
        *lock.unwrap_or_else(PoisonError::into_inner) = Some(Overlay { made, values });
    }

    /// It is in place, or there is none.
    pub(super) fn forget_pending(&self) {
        let lock = self.pending.lock();
        *lock.unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The pending commit in the answer about its key.
pub(super) fn unfinished(get: &GetResponse) -> Result<Option<Unfinished>, StoreError> {
    let Some(entry) = get.kvs().first() else {
        return Ok(None);
    };
    let Pending { revision } = layout::decode(entry.key(), entry.value())?;
    if revision > layout::REVISION_MAX {
        return Err(layout::unreadable(entry.key(), "it is of no revision"));
    }
    Ok(Some(Unfinished {
        revision,
        made: entry.mod_revision(),
    }))
}

/// Refuses keys that a newer program wrote.
pub(super) async fn check_format(shared: &Shared) -> Result<(), StoreError> {
    let key = shared.layout.format();
    let txn = Txn::new().and_then([TxnOp::get(key, None)]);
    let answer = shared.wire.transact(&txn).await;
    let gets = wire::gets(&answer.map_err(|fault| fault.error("read the version"))?);
    known_format(&shared.layout, gets.first())
}

/// The same by the answer about the key of the version.
pub(super) fn known_format(
    layout: &layout::Layout,
    get: Option<&GetResponse>,
) -> Result<(), StoreError> {
    let key = layout.format();
    let value = get.and_then(|get| get.kvs().first());
    let found = layout::number(&key, value.map(KeyValue::value))?;
    if found <= u64::from(layout::VERSION) {
        return Ok(());
    }
    Err(StoreError::NewerSchema {
        path: String::from_utf8_lossy(&key).into_owned().into(),
        found: i64::try_from(found).unwrap_or(i64::MAX),
        known: layout::VERSION.into(),
    })
}
