//! The store as the product sees it: in clear, above one whose secrets are sealed.

use super::Ring;
use std::sync::Arc;
use store::{Change, Commit, Entry, Head, Listing, Meta, Op, Recode, Store, StoreError, Written};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// See the module's documentation.
pub struct SealedStore {
    below: Arc<dyn Store>,
    ring: Arc<Ring>,
    doubt: CancellationToken,
}

impl SealedStore {
    /// Above this store, with these keys. `doubt` is cancelled when nobody can tell what became of a commit: then what is in
    /// memory may be older than the store.
    pub fn new(below: Arc<dyn Store>, ring: Arc<Ring>, doubt: CancellationToken) -> Self {
        Self { below, ring, doubt }
    }

    fn open(&self, key: &str, value: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        self.ring
            .open(key, value)
            .map_err(|why| StoreError::Unreadable {
                key: key.to_owned(),
                why: why.to_string(),
            })
    }

    fn open_some(&self, key: &str, value: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, StoreError> {
        value.map(|value| self.open(key, value)).transpose()
    }

    fn open_entry(&self, entry: Entry) -> Result<Entry, StoreError> {
        let value = self.open(&entry.key, entry.value)?;
        Ok(Entry { value, ..entry })
    }

    fn open_changes(&self, changes: Vec<Change>) -> Result<Vec<Change>, StoreError> {
        let each = changes.into_iter().map(|change| {
            let value = self.open_some(&change.key, change.value)?;
            Ok(Change { value, ..change })
        });
        each.collect()
    }

    fn open_written(&self, written: Written) -> Result<Written, StoreError> {
        let Written { key, before, after } = written;
        Ok(Written {
            before: self.open_some(&key, before)?,
            after: self.open_some(&key, after)?,
            key,
        })
    }
}

#[async_trait::async_trait]
impl Store for SealedStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let _way = self.ring.pass_by().await;
        let entry = self.below.get(key).await?;
        entry.map(|entry| self.open_entry(entry)).transpose()
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let _way = self.ring.pass_by().await;
        let Listing { revision, entries } = self.below.list(prefix).await?;
        let entries = entries.into_iter().map(|entry| self.open_entry(entry));
        Ok(Listing {
            revision,
            entries: entries.collect::<Result<_, _>>()?,
        })
    }

    async fn commit(&self, ops: Vec<Op>, meta: Meta) -> Result<u64, StoreError> {
        let _way = self.ring.pass_by().await;
        let seal = |op: Op| Op {
            value: op.value.map(|value| self.ring.seal(&op.key, value)),
            ..op
        };
        let ops = ops.into_iter().map(seal).collect();
        let done = self.below.commit(ops, meta).await;
        if matches!(done, Err(StoreError::OutcomeUnknown { .. })) {
            self.doubt.cancel();
        }
        done
    }

    async fn changes(&self, after: u64, limit: usize) -> Result<Vec<Change>, StoreError> {
        let _way = self.ring.pass_by().await;
        self.open_changes(self.below.changes(after, limit).await?)
    }

    async fn history(&self, key: &str, limit: usize) -> Result<Vec<Change>, StoreError> {
        let _way = self.ring.pass_by().await;
        self.open_changes(self.below.history(key, limit).await?)
    }

    async fn log(&self, prefix: &str, below: u64, limit: usize) -> Result<Vec<Head>, StoreError> {
        self.below.log(prefix, below, limit).await
    }

    async fn read_commit(&self, revision: u64) -> Result<Option<Commit>, StoreError> {
        let _way = self.ring.pass_by().await;
        let Some(commit) = self.below.read_commit(revision).await? else {
            return Ok(None);
        };
        let writes = commit.writes.into_iter().map(|w| self.open_written(w));
        let writes = writes.collect::<Result<_, _>>()?;
        Ok(Some(Commit { writes, ..commit }))
    }

    async fn get_at(&self, key: &str, revision: u64) -> Result<Option<Entry>, StoreError> {
        let _way = self.ring.pass_by().await;
        let entry = self.below.get_at(key, revision).await?;
        entry.map(|entry| self.open_entry(entry)).transpose()
    }

    async fn compact(&self, before: u64) -> Result<u64, StoreError> {
        self.below.compact(before).await
    }

    async fn recode(
        &self,
        after: u64,
        limit: usize,
        form: Recode,
    ) -> Result<Option<u64>, StoreError> {
        self.below.recode(after, limit, form).await
    }

    async fn scrub(&self) -> Result<(), StoreError> {
        self.below.scrub().await
    }

    fn revision(&self) -> watch::Receiver<u64> {
        self.below.revision()
    }
}
