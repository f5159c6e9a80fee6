//! Maintenance: compaction of the log, values in another form, and etcd's own history and files.

use super::layout::{self, Current, Key, Layout, Place, Trace, Write};
use super::read::{self, Fate, Kept};
use super::view::{Lost, READS_MAX, Range};
use super::wire::Fault;
use super::writer::{Now, Raw, Writer, batches, fits};
use crate::{Recode, StoreError};
use etcd_client::{Client, CompactionOptions, Error, KeyValue};
use std::collections::BTreeSet;
use std::ops::ControlFlow::Continue;
use std::time::Duration;

/// How long etcd may take to compact its history or to write its file anew: gigabytes, on a slow disk.
const REWRITE: Duration = Duration::from_secs(120);

/// A value of the log in its new form.
struct Recoded {
    place: Place,
    key: String,
    old: Vec<u8>,
    new: Vec<u8>,
}

impl Writer {
    /// First the line is drawn, which is what readers go by; then what is beyond it is deleted in parts. What an
    /// interrupted one left is deleted by the next.
    pub(super) async fn compact(&mut self, before: u64) -> Result<u64, Lost> {
        let (now, _) = self.ready(&[]).await?;
        let oldest = before.min(now.view.revision).max(now.view.oldest);
        if oldest != self.swept {
            let text = oldest.to_string().into_bytes();
            let line = Raw::Put(self.shared.layout.oldest(), text);
            self.guarded(&now, "compact the log", &[line]).await?;
            self.sweep(&now, oldest).await?;
            self.swept = oldest;
        }
        if let Some(past) = self.past.replace(now.view.at) {
            // It makes room, and is tried again the next time.
            self.compact_etcd(past).await.ok();
        }
        Ok(oldest)
    }

    /// Deletes what is beyond the line, page by page of the index, and the heads of which nothing is left.
    async fn sweep(&mut self, now: &Now, oldest: u64) -> Result<(), Lost> {
        let shared = self.shared.clone();
        let (layout, mut sweep) = (&shared.layout, Sweep::new(oldest));
        let mut rest = Some(Range::prefix(layout.traces()).keys_only());
        while let Some(range) = rest {
            let page = now.view.page(&range).await?;
            for entry in page.kvs() {
                sweep.see(layout, entry)?;
            }
            rest = range.after(&page);
            self.delete(now, &mut sweep.gone).await?;
        }
        sweep.end_key(layout);
        let heads = Range::new(layout.heads(), layout.head(oldest)).keys_only();
        let see = |entry: &KeyValue| Ok(Continue(sweep.see_head(layout, entry)?));
        now.view.scan(heads, see).await?;
        Ok(self.delete(now, &mut sweep.gone).await?)
    }

    /// Deletes these in their order.
    async fn delete(&mut self, now: &Now, gone: &mut Vec<Vec<Raw>>) -> Result<(), StoreError> {
        for batch in batches(gone.drain(..)) {
            self.guarded(now, "compact the log", &batch).await?;
        }
        Ok(())
    }

    pub(super) async fn recode(
        &mut self,
        after: u64,
        limit: usize,
        form: &Recode,
    ) -> Result<Option<u64>, Lost> {
        let (now, _) = self.ready(&[]).await?;
        // Nothing is done for no values, but the caller wants to get on.
        let limit = limit.max(1);
        let valued = |write: &Write| write.value.is_some();
        let found = read::writes_after(&now.view, after, limit, valued).await?;
        let last = found.last().map(|(place, _)| place.revision);
        let recoded = found
            .into_iter()
            .filter_map(|(place, write)| recode(place, write, form));
        let groups = in_place(&now, recoded.collect()).await?;
        for batch in batches(groups) {
            self.guarded(&now, "recode values", &batch).await?;
        }
        Ok(last)
    }

    pub(super) async fn scrub(&mut self) -> Result<(), Lost> {
        for server in 0..self.shared.wire.len() {
            self.empty(server).await?;
            if self.shared.defragment {
                self.defragment(server).await?;
            }
        }
        Ok(())
    }

    /// Waits until what was replaced is gone from a member's file. Each has its own, deletes from it when it gets to
    /// it, and says that it is done to nobody but who has asked it for a compaction; for which there must be
    /// something newer than the last one, such as a new stamp.
    async fn empty(&mut self, server: usize) -> Result<(), Lost> {
        for _ in 0..READS_MAX {
            self.settled = None;
            let (now, _) = self.ready(&[]).await?;
            let compact = |client| compact(client, now.view.at, true);
            match self.shared.wire.one(server, REWRITE, compact).await {
                Ok(()) => return Ok(()),
                // Somebody was faster, and it was he who is told.
                Err(Fault::Moved) => {}
                Err(fault) => return Err(Lost::Store(fault.error("compact etcd's history"))),
            }
        }
        Err(Lost::Moved)
    }

    async fn defragment(&self, server: usize) -> Result<(), StoreError> {
        let ask = |client: Client| async move {
            client.maintenance_client().defragment().await.map(drop)
        };
        let done = self.shared.wire.one(server, REWRITE, ask).await;
        done.map_err(|fault| fault.error("write the members' files anew"))
    }

    /// Has etcd forget values that were replaced by then.
    async fn compact_etcd(&self, at: i64) -> Result<(), StoreError> {
        let compact = |client| compact(client, at, false);
        match self.shared.wire.patiently(REWRITE, compact).await {
            // Somebody was faster.
            Ok(()) | Err(Fault::Moved) => Ok(()),
            Err(fault) => Err(fault.error("compact etcd's history")),
        }
    }
}

/// Physically, it is done once the member that is asked has deleted it all.
async fn compact(client: Client, at: i64, physically: bool) -> Result<(), Error> {
    let mut options = CompactionOptions::new();
    if physically {
        options = options.with_physical();
    }
    let mut kv = client.kv_client();
    kv.compact(at, Some(options)).await.map(drop)
}

/// What is to be deleted when this is the oldest commit, found key by key and of each the oldest first: whatever was
/// deleted last, what is left of a key is its newest writes, and says the same of it.
struct Sweep {
    oldest: u64,
    /// The key whose entries of the index are read.
    of: Vec<u8>,
    /// Its entries of the last commit before the oldest one, as far as is known.
    last: Vec<(Key, Trace)>,
    /// The older commits of which something is left.
    left: BTreeSet<u64>,
    gone: Vec<Vec<Raw>>,
}

impl Sweep {
    fn new(oldest: u64) -> Self {
        Self {
            oldest,
            of: Vec::new(),
            last: Vec::new(),
            left: BTreeSet::new(),
            gone: Vec::new(),
        }
    }

    /// The next entry of the index, in its order.
    fn see(&mut self, layout: &Layout, entry: &KeyValue) -> Result<(), StoreError> {
        let trace = layout::trace_of(entry.key())?;
        if trace.of != self.of {
            self.end_key(layout);
            self.of.clone_from(&trace.of);
        }
        if trace.place.revision >= self.oldest {
            return Ok(());
        }
        let last = self.last.first().map(|(_, last)| last.place.revision);
        if last.is_some_and(|last| last < trace.place.revision) {
            let replaced = self.last.drain(..).map(|(key, t)| group(layout, key, &t));
            self.gone.extend(replaced);
        }
        self.last.push((entry.key().to_vec(), trace));
        Ok(())
    }

    /// All entries of the key are read, so that it is known which of them stay.
    fn end_key(&mut self, layout: &Layout) {
        let mut kept = Kept::new(self.oldest);
        let last = std::mem::take(&mut self.last);
        let fates: Vec<_> = last.iter().rev().map(|(_, t)| kept.next(t)).collect();
        for ((key, trace), fate) in last.into_iter().zip(fates.into_iter().rev()) {
            match fate {
                Fate::Kept => drop(self.left.insert(trace.place.revision)),
                Fate::Forgotten => self.gone.push(group(layout, key, &trace)),
            }
        }
    }

    /// A head of a commit before the oldest one.
    fn see_head(&mut self, layout: &Layout, entry: &KeyValue) -> Result<(), StoreError> {
        if !self.left.contains(&layout.revision_of_head(entry.key())?) {
            self.gone.push(vec![Raw::Delete(entry.key().to_vec())]);
        }
        Ok(())
    }
}

/// An entry of the index goes with its write.
fn group(layout: &Layout, key: Key, trace: &Trace) -> Vec<Raw> {
    vec![Raw::Delete(key), Raw::Delete(layout.log(trace.place))]
}

fn recode(place: Place, Write { key, value }: Write, form: &Recode) -> Option<Recoded> {
    let old = value?;
    let new = form(&key, &old)?;
    Some(Recoded {
        place,
        key,
        old,
        new,
    })
}

/// Each value's place in the log, and among the current ones if it is there.
async fn in_place(now: &Now, recoded: Vec<Recoded>) -> Result<Vec<Vec<Raw>>, Lost> {
    let layout = &now.view.shared.layout;
    let keys = recoded.iter().map(|r| layout.current(&r.key));
    let found = now.view.entries(&keys.collect::<Vec<_>>()).await?;
    // A transaction has a key once, and a commit may write the same twice.
    let mut written = BTreeSet::new();
    let groups = recoded.into_iter().zip(found).map(|(recoded, entry)| {
        let entry = entry.filter(|entry| !written.contains(entry.key()));
        let current = entry
            .map(|entry| current_of(&recoded, &entry))
            .transpose()?;
        let current = current.flatten();
        written.extend(current.iter().map(|raw| raw.key().to_vec()));
        let value = Some(recoded.new);
        let write = layout::encode(&Write {
            key: recoded.key,
            value,
        });
        let log = Raw::Put(layout.log(recoded.place), write);
        Ok(current.into_iter().chain([log]).collect())
    });
    let groups: Vec<Vec<Raw>> = groups.collect::<Result<_, StoreError>>()?;
    Ok(groups.into_iter().flat_map(in_parts).collect())
}

/// What is too large for one transaction takes two. The log's value comes last: as long as it has its old form, both
/// are done when somebody repeats it.
fn in_parts(group: Vec<Raw>) -> Vec<Vec<Raw>> {
    match fits(&group) {
        true => vec![group],
        false => group.into_iter().map(|raw| vec![raw]).collect(),
    }
}

fn current_of(recoded: &Recoded, entry: &KeyValue) -> Result<Option<Raw>, StoreError> {
    let mut current: Current = layout::decode(entry.key(), entry.value())?;
    if current.revision != recoded.place.revision || current.value != recoded.old {
        return Ok(None);
    }
    current.value.clone_from(&recoded.new);
    let raw = Raw::Put(entry.key().to_vec(), layout::encode(&current));
    Ok(Some(raw))
}
