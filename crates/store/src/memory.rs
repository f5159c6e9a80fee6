//! The store in memory: for tests, and for a controller that may forget.

use crate::{
    Change, Commit, Entry, Head, Listing, Meta, Op, Recode, Store, StoreError, Written, holds,
    now_us, reaches,
};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use tokio::sync::watch;

/// See the module's documentation.
pub struct Memory {
    state: Mutex<State>,
    revision: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    revision: u64,
    current: BTreeMap<String, Entry>,
    log: Vec<Change>,
    /// The oldest commit that is kept whole.
    oldest: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            revision: watch::Sender::new(0),
        }
    }
}

impl Memory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    fn check(&self, ops: &[Op]) -> Result<(), StoreError> {
        for op in ops {
            let actual = self.current.get(&op.key).map(|e| e.revision);
            if !holds(op.expect, actual) {
                return Err(StoreError::Conflict {
                    key: op.key.clone(),
                    actual,
                });
            }
        }
        Ok(())
    }

    /// The last write of a key at or before a revision.
    fn last(&self, key: &str, revision: u64) -> Option<&Change> {
        let until = self.log.iter().rev().filter(|c| c.revision <= revision);
        until.into_iter().find(|c| c.key == key)
    }

    fn head(&self, revision: u64, prefix: &str) -> Option<Head> {
        let all = self.log.iter().filter(|c| c.revision == revision);
        let ours: Vec<_> = all.filter(|c| c.key.starts_with(prefix)).collect();
        let first = ours.first()?;
        Some(Head {
            revision,
            meta: first.meta.clone(),
            time_us: first.time_us,
            keys: ours.iter().map(|c| c.key.clone()).collect(),
        })
    }

    fn compact(&mut self, before: u64) {
        self.oldest = self.oldest.max(before.min(self.revision));
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        for change in self.log.iter().filter(|c| c.revision < self.oldest) {
            newest.insert(change.key.clone(), change.revision);
        }
        self.log.retain(|c| {
            let last = newest.get(&c.key) == Some(&c.revision);
            c.revision >= self.oldest || (last && c.value.is_some())
        });
    }

    fn recode(&mut self, after: u64, limit: usize, form: &Recode) -> Option<u64> {
        let newer = self.log.iter().filter(|c| c.revision > after);
        let mut valued = newer.filter(|c| c.value.is_some()).map(|c| c.revision);
        let first = valued.next()?;
        let last = valued.take(limit.saturating_sub(1)).last().unwrap_or(first);
        for change in &mut self.log {
            let here = (after + 1..=last).contains(&change.revision);
            let Some(value) = change.value.as_mut().filter(|_| here) else {
                continue;
            };
            let Some(new) = form(&change.key, value) else {
                continue;
            };
            let current = self.current.get_mut(&change.key);
            if let Some(entry) =
                current.filter(|e| e.revision == change.revision && e.value == *value)
            {
                entry.value.clone_from(&new);
            }
            *value = new;
        }
        Some(last)
    }

    fn write(&mut self, op: Op, meta: &Meta, time_us: u64) {
        let revision = self.revision;
        self.log.push(Change {
            revision,
            key: op.key.clone(),
            value: op.value.clone(),
            meta: meta.clone(),
            time_us,
        });
        match op.value {
            None => drop(self.current.remove(&op.key)),
            Some(value) => {
                let entry = Entry {
                    key: op.key.clone(),
                    value,
                    revision,
                };
                self.current.insert(op.key, entry);
            }
        }
    }
}

#[async_trait::async_trait]
impl Store for Memory {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.state().current.get(key).cloned())
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let state = self.state();
        let entries = state.current.range(prefix.to_owned()..);
        let entries = entries.take_while(|(k, _)| k.starts_with(prefix));
        Ok(Listing {
            revision: state.revision,
            entries: entries.map(|(_, e)| e.clone()).collect(),
        })
    }

    async fn commit(&self, ops: Vec<Op>, meta: Meta) -> Result<u64, StoreError> {
        let mut state = self.state();
        state.check(&ops)?;
        state.revision += 1;
        let time_us = now_us();
        for op in ops {
            state.write(op, &meta, time_us);
        }
        self.revision.send_replace(state.revision);
        Ok(state.revision)
    }

    async fn changes(&self, after: u64, limit: usize) -> Result<Vec<Change>, StoreError> {
        let state = self.state();
        reaches(after, state.oldest)?;
        let newer: Vec<_> = state.log.iter().filter(|c| c.revision > after).collect();
        let last = newer
            .iter()
            .take(limit)
            .next_back()
            .map_or(0, |c| c.revision);
        let whole = newer.into_iter().take_while(|c| c.revision <= last);
        Ok(whole.cloned().collect())
    }

    async fn history(&self, key: &str, limit: usize) -> Result<Vec<Change>, StoreError> {
        let state = self.state();
        let of_key = state.log.iter().rev().filter(|c| c.key == key);
        Ok(of_key.take(limit).cloned().collect())
    }

    async fn log(&self, prefix: &str, below: u64, limit: usize) -> Result<Vec<Head>, StoreError> {
        let state = self.state();
        let revisions = (state.oldest..below.min(state.revision + 1)).rev();
        let heads = revisions.filter_map(|r| state.head(r, prefix));
        Ok(heads.take(limit).collect())
    }

    async fn read_commit(&self, revision: u64) -> Result<Option<Commit>, StoreError> {
        let state = self.state();
        reaches(revision.saturating_sub(1), state.oldest)?;
        let Some(head) = state.head(revision, "") else {
            return Ok(None);
        };
        let changes = state.log.iter().filter(|c| c.revision == revision);
        let writes = changes.map(|c| Written {
            key: c.key.clone(),
            before: state
                .last(&c.key, revision - 1)
                .and_then(|b| b.value.clone()),
            after: c.value.clone(),
        });
        Ok(Some(Commit {
            revision,
            meta: head.meta,
            time_us: head.time_us,
            writes: writes.collect(),
        }))
    }

    async fn get_at(&self, key: &str, revision: u64) -> Result<Option<Entry>, StoreError> {
        let state = self.state();
        reaches(revision, state.oldest)?;
        let last = state.last(key, revision);
        Ok(last.and_then(|c| {
            Some(Entry {
                key: key.to_owned(),
                value: c.value.clone()?,
                revision: c.revision,
            })
        }))
    }

    async fn compact(&self, before: u64) -> Result<u64, StoreError> {
        let mut state = self.state();
        state.compact(before);
        Ok(state.oldest)
    }

    async fn recode(
        &self,
        after: u64,
        limit: usize,
        form: Recode,
    ) -> Result<Option<u64>, StoreError> {
        Ok(self.state().recode(after, limit, &form))
    }

    /// There are no files.
    async fn scrub(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }
}
