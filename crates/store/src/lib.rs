//! A revisioned key-value store: every write is a revision, nothing is ever half-written.
//!
//! The model is etcd's in one process: a global revision that grows with every commit, compare-and-set on
//! keys, lists by prefix, and changes since a revision. The revision log is append-only: it is audit trail,
//! difference and way back. [`Memory`] serves tests, [`Sqlite`] one controller, [`Etcd`] several; all pass one conformance suite
//! (`tests/conformance.rs`).

mod backup;
pub mod etcd;
mod memory;
mod sqlite;

pub use backup::{back_up, fill};
pub use etcd::Etcd;
pub use memory::Memory;
pub use sqlite::{Backup, Sqlite, restore};

use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// A key with its value as of now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key, a path such as `/object/pool/pool-1`.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The revision that wrote this value.
    pub revision: u64,
}

/// Everything under a prefix, and the revision at which that was so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The store's revision.
    pub revision: u64,
    /// The entries by key.
    pub entries: Vec<Entry>,
}

/// What must be true of a key for the commit to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Anything.
    Any,
    /// The key does not exist.
    Absent,
    /// The key exists, last written by this revision.
    Revision(u64),
}

/// One write of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// The key.
    pub key: String,
    /// The new value; `None` deletes.
    pub value: Option<Vec<u8>>,
    /// The precondition.
    pub expect: Expect,
}

impl Op {
    /// Writes a value.
    pub fn put(key: impl Into<String>, value: impl Into<Vec<u8>>, expect: Expect) -> Self {
        Self {
            key: key.into(),
            value: Some(value.into()),
            expect,
        }
    }

    /// Deletes a key.
    pub fn delete(key: impl Into<String>, expect: Expect) -> Self {
        Self {
            key: key.into(),
            value: None,
            expect,
        }
    }
}

/// Who commits, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// The user, or the part of the controller.
    pub who: String,
    /// The address that the user came from; empty for a part of the controller.
    pub from: String,
    /// What is done, for the audit trail.
    pub message: String,
}

/// One write as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The revision of the commit.
    pub revision: u64,
    /// The key.
    pub key: String,
    /// The value; `None` for a deletion.
    pub value: Option<Vec<u8>>,
    /// Who and why.
    pub meta: Meta,
    /// When, in microseconds since 1970.
    pub time_us: u64,
}

/// A commit without its values, as the log lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its revision.
    pub revision: u64,
    /// Who and why.
    pub meta: Meta,
    /// When, in microseconds since 1970.
    pub time_us: u64,
    /// The keys that it wrote, of those that were asked for.
    pub keys: Vec<String>,
}

/// One write of a commit with what it replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The key.
    pub key: String,
    /// The value until then; `None` when the key did not exist.
    pub before: Option<Vec<u8>>,
    /// The value from then on; `None` for a deletion.
    pub after: Option<Vec<u8>>,
}

/// A commit as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its revision.
    pub revision: u64,
    /// Who and why.
    pub meta: Meta,
    /// When, in microseconds since 1970.
    pub time_us: u64,
    /// What it wrote, in order.
    pub writes: Vec<Written>,
}

/// Gives a value another form ([`Store::recode`]): from key and value the new value, or none where it stays.
pub type Recode = Arc<dyn Fn(&str, &[u8]) -> Option<Vec<u8>> + Send + Sync>;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A precondition does not hold; nothing was written.
    #[error("{key} was changed by someone else (now at revision {actual:?})")]
    Conflict {
        /// The first key whose precondition fails.
        key: String,
        /// The revision that it has; `None` when it does not exist.
        actual: Option<u64>,
    },
    /// The file is of a newer version of the product.
    #[error(
        "{path} has schema version {found}, this program knows up to {known}: use a newer program"
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// A file is to be restored that is no backup.
    #[error("{path} is no backup of a controller: {why}")]
    NoBackup {
        /// The file.
        path: PathBuf,
        /// What tells.
        why: String,
    },
    /// A store is to be filled from a backup, and has something in it. Nothing was written.
    #[error(
        "the store has something in it already, {key} for one: a backup is put into an empty store alone"
    )]
    NotEmpty {
        /// A key that it has.
        key: String,
    },
    /// The log does not go back that far any more.
    #[error(
        "revision {asked} is no longer in the log, which begins at revision {oldest}: read the current values and go on from there"
    )]
    Compacted {
        /// The revision that was asked for.
        asked: u64,
        /// The oldest commit that is kept.
        oldest: u64,
    },
    /// A value is in a form that cannot be undone here.
    #[error("the value of {key} cannot be read: {why}")]
    Unreadable {
        /// Its key.
        key: String,
        /// What is missing.
        why: String,
    },
    /// There is no room for a write; nothing was written, and reads go on.
    #[error("the disk is full: cannot {doing}; make room where the store's file is, and repeat")]
    Full {
        /// The operation.
        doing: &'static str,
    },
    /// The database said no.
    #[error("the database refuses to {doing}")]
    Database {
        /// The operation.
        doing: &'static str,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// etcd does not answer. No commit was made; of anything else a part may be done, and to repeat it does the rest.
    #[error(
        "cannot {doing}: no etcd server answers; see that a majority of them runs and can be reached from here, and repeat"
    )]
    Unreachable {
        /// The operation.
        doing: &'static str,
        /// What the last one that was asked said.
        #[source]
        source: Cause,
    },
    /// etcd says no. No commit was made; of anything else a part may be done.
    #[error("etcd refuses to {doing}; see that the user, its role and the certificates are right")]
    Refused {
        /// The operation.
        doing: &'static str,
        /// Why.
        #[source]
        source: Cause,
    },
    /// etcd has used up its quota. No commit was made; of anything else a part may be done. Reads go on.
    #[error(
        "etcd is out of space: cannot {doing}; compact and defragment it or raise its --quota-backend-bytes, end the \
         alarm with `etcdctl alarm disarm`, and repeat"
    )]
    NoSpace {
        /// The operation.
        doing: &'static str,
    },
    /// A value is larger than etcd takes. Nothing was written.
    #[error("{key} has {len} bytes with its value, and etcd takes {max}: make it smaller")]
    TooLarge {
        /// The key.
        key: String,
        /// Bytes of key and value.
        len: usize,
        /// Bytes that they may have.
        max: usize,
    },
    /// Only the leader writes. No commit was made; of anything else a part may be done, by a leader until just now.
    #[error("this controller does not lead, so it writes nothing: ask the leader")]
    NotLeader {
        /// What the leader said of himself, when one is known. It is not shown: it may be for other controllers alone.
        leader: Option<Vec<u8>>,
    },
    /// The connection to etcd broke at the wrong moment. What was sent may have been done, or not, or may be done later
    /// yet. The next commit makes certain of it before it writes anything, whoever leads then, and finds it done or sees
    /// to it that it never will be: a read tells for certain from then on. So what is repeated should expect what was
    /// read ([`Expect::Revision`], [`Expect::Absent`]): then it is a [`StoreError::Conflict`] if it was done meanwhile.
    #[error(
        "it is unknown whether etcd has done what it was asked to ({doing}), and it may do it yet: read again before you repeat it"
    )]
    OutcomeUnknown {
        /// The operation.
        doing: &'static str,
    },
    /// A file cannot be read, or not be written.
    #[error("cannot read or write {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store's thread has ended.
    #[error("the store is closed")]
    Closed,
}

/// What lies below an error of a store that is asked over the network.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The store. A commit is answered when it is durable.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// The entry of a key.
    ///
    /// # Errors
    /// The database refuses, or the store is closed.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// Everything whose key starts with `prefix`.
    ///
    /// # Errors
    /// The database refuses, or the store is closed.
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// Writes all of it or nothing, and gives the new revision.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when a precondition does not hold; else the database refuses.
    async fn commit(&self, ops: Vec<Op>, meta: Meta) -> Result<u64, StoreError>;

    /// Changes after revision `after`, oldest first: about `limit` of them, but a commit is never cut in two, so
    /// that the last one's revision is where to go on.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when commits after `after` are gone; else the database refuses.
    async fn changes(&self, after: u64, limit: usize) -> Result<Vec<Change>, StoreError>;

    /// What was written to a key, newest first, at most `limit` times.
    ///
    /// # Errors
    /// The database refuses, or the store is closed.
    async fn history(&self, key: &str, limit: usize) -> Result<Vec<Change>, StoreError>;

    /// The newest `limit` commits older than revision `below` that wrote a key under `prefix`, newest first, of those
    /// that the log still has.
    ///
    /// # Errors
    /// The database refuses, or the store is closed.
    async fn log(&self, prefix: &str, below: u64, limit: usize) -> Result<Vec<Head>, StoreError>;

    /// A commit with what it wrote and replaced; `None` when there was none of this revision.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when the log does not go back that far; else the database refuses.
    async fn read_commit(&self, revision: u64) -> Result<Option<Commit>, StoreError>;

    /// The entry of a key as it was after `revision`.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when the log does not go back that far; else the database refuses.
    async fn get_at(&self, key: &str, revision: u64) -> Result<Option<Entry>, StoreError>;

    /// Forgets the commits before `before`, but for the last value of every key then. The newest commit always stays.
    /// Gives the oldest commit that is kept.
    ///
    /// # Errors
    /// The database refuses, or the store is closed.
    async fn compact(&self, before: u64) -> Result<u64, StoreError>;

    /// Gives values another form in place, current ones and those of the log alike: of the commits after revision
    /// `after`, about `limit` values, whole commits, all of it or nothing. It makes no revision and wakes no watcher,
    /// and is for encodings that readers do not see. Gives the last revision that was looked at; none when there was no
    /// more.
    ///
    /// # Errors
    /// The database refuses, or the store is closed.
    async fn recode(
        &self,
        after: u64,
        limit: usize,
        form: Recode,
    ) -> Result<Option<u64>, StoreError>;

    /// Leaves nothing of replaced and forgotten values in the store's files. Writes wait for it.
    ///
    /// # Errors
    /// The database refuses, for want of room for instance: it takes as much as the store itself.
    async fn scrub(&self) -> Result<(), StoreError>;

    /// The current revision; changes when something is committed.
    fn revision(&self) -> watch::Receiver<u64>;
}

/// Changes under a prefix as they happen. They are read from the log and nothing is queued for a watcher, so that a
/// slow one costs no memory and misses nothing.
pub struct Watch {
    store: Arc<dyn Store>,
    revision: watch::Receiver<u64>,
    prefix: String,
    after: u64,
}

/// Changes that a watcher reads at once: bounds its memory when it is far behind.
const WATCH_BATCH_LEN: usize = 256;

impl Watch {
    /// Watches everything under `prefix` that is committed after revision `after`.
    pub fn new(store: Arc<dyn Store>, prefix: impl Into<String>, after: u64) -> Self {
        Self {
            revision: store.revision(),
            store,
            prefix: prefix.into(),
            after,
        }
    }

    /// The next changes, oldest first, whole commits; waits until there are some. Cancel-safe: what was not given
    /// out is given out by the next call.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when the watcher is so late that what it missed is gone; else the database refuses.
    pub async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        loop {
            let after = self.after;
            let newer = self.revision.wait_for(|now| *now > after).await;
            newer.map_err(|_| StoreError::Closed)?;
            let mut found = self.store.changes(after, WATCH_BATCH_LEN).await?;
            self.after = found.last().map_or(after, |c| c.revision);
            found.retain(|c| c.key.starts_with(&self.prefix));
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }
}

fn now_us() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}

/// An error unless the log has every commit after `after`.
fn reaches(after: u64, oldest: u64) -> Result<(), StoreError> {
    if after.saturating_add(1) >= oldest {
        return Ok(());
    }
    let asked = after + 1;
    Err(StoreError::Compacted { asked, oldest })
}

/// True when the key's revision (`None`: it does not exist) meets the expectation.
fn holds(expect: Expect, actual: Option<u64>) -> bool {
    match expect {
        Expect::Any => true,
        Expect::Absent => actual.is_none(),
        Expect::Revision(revision) => actual == Some(revision),
    }
}
