//! The store in memory: for tests, and for a controller that may forget.

use crate::{Change, Entry, Listing, Meta, Op, Store, StoreError, holds, now_us};
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

    fn revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }
}
