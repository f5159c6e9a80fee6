//! The store in etcd: several controllers share it, one of which leads and writes.
//!
//! ```text
//!   readers ──────────────▶ View: all of a read is as of one revision of etcd's
//!   commit, compact, … ───▶ Writer ── transactions that compare who leads and what is newest ──▶ etcd
//!   campaign ─────────────▶ Keeper ── keeps the lease alive ──▶ etcd
//!   revision(), leader() ◀─ Follower ◀── watch ── etcd
//! ```
//!
//! Tasks: one `writer` and one follower (`follow`) for each [`Etcd`], and a keeper (`lead`) for each [`Leadership`]. The follower is aborted when the `Etcd` is dropped, and the keeper with its leadership: both publish
//! what they read, and hold nothing by half. The writer ends by itself once it has done what it was asked: a caller
//! that goes away leaves no write by half. Should it be killed, the next leader finishes what was begun.
//!
//! A commit is one transaction of etcd's, whatever its size: see `writer` and `large`. Revisions are the store's own.

mod follow;
mod large;
mod layout;
mod lead;
mod maintain;
mod newest;
mod read;
mod view;
mod wire;
mod writer;

pub use lead::{LEASE_TTL, Leadership};

use crate::{Change, Commit, Entry, Head, Listing, Meta, Op, Recode, Store, StoreError, reaches};
use layout::Layout;
use lead::Term;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use view::{Lost, READS_MAX, View};
use wire::Wire;
use writer::Order;

/// Where the keys are unless somebody says otherwise.
pub const PREFIX: &str = "/evenkeel";

/// Orders that wait for the writer; more of them wait at the sender.
const ORDERS_MAX: usize = 128;

/// How to reach etcd.
#[derive(Debug, Clone)]
pub struct Config {
    /// URLs of the members, `http://…` or `https://…`; one that fails is followed by the next.
    pub endpoints: Vec<String>,
    /// What all keys begin with, so that several clusters can share one etcd.
    pub prefix: String,
    /// The CA of the members' certificates, a PEM file; needs `https://`.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key, PEM files. They are read when the store is opened.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// For an etcd with users.
    pub login: Option<Login>,
    /// How long a leader that is not heard of goes on leading.
    pub lease_ttl: Duration,
    /// True when [`Store::scrub`] writes the members' files anew, which takes etcd's role `root` where it has users.
    pub defragment: bool,
}

impl Config {
    /// Without TLS and users.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: PREFIX.into(),
            ca: None,
            identity: None,
            login: None,
            lease_ttl: LEASE_TTL,
            defragment: true,
        }
    }
}

/// A user of etcd's.
#[derive(Clone)]
pub struct Login {
    /// The name.
    pub user: String,
    /// The password, which is not printed.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { user, password: _ } = self;
        f.debug_struct("Login")
            .field("user", user)
            .finish_non_exhaustive()
    }
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// What he said of himself: name and URL.
    pub who: Vec<u8>,
    /// Grows with every election, so that what an older leader says can be told from it.
    pub term: u64,
}

/// See the module's documentation.
pub struct Etcd {
    shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
    follower: JoinHandle<()>,
}

/// What the tasks share.
struct Shared {
    wire: Wire,
    layout: Layout,
    lease_ttl: Duration,
    defragment: bool,
    revision: watch::Sender<u64>,
    leader: watch::Sender<Option<Leader>>,
    /// etcd's revision that `leader` is of: news that are older do not count.
    leader_as_of: Mutex<i64>,
    /// Our own term, while we lead.
    term: watch::Sender<Option<Term>>,
    pending: Mutex<Option<view::Overlay>>,
    /// Where to give leases back when nobody waits.
    runtime: tokio::runtime::Handle,
}

impl Shared {
    fn publish_revision(&self, new: u64) {
        self.revision.send_if_modified(|known| {
            let newer = new > *known;
            *known = new.max(*known);
            newer
        });
    }

    fn publish_leader(&self, as_of: i64, new: Option<Leader>) {
        let lock = self.leader_as_of.lock();
        let mut known = lock.unwrap_or_else(PoisonError::into_inner);
        if as_of < *known {
            return;
        }
        *known = as_of;
        self.leader.send_if_modified(|leader| {
            let differs = *leader != new;
            *leader = new;
            differs
        });
    }

    fn not_leader(&self) -> StoreError {
        let leader = self.leader.borrow().clone();
        StoreError::NotLeader {
            leader: leader.map(|l| l.who),
        }
    }

    /// Our term has ended, if it is still this one.
    fn depose(&self, term: Term) {
        self.term.send_if_modified(|now| {
            let ours = *now == Some(term);
            if ours {
                *now = None;
            }
            ours
        });
    }
}

impl Etcd {
    /// Connects, and follows what is committed and who leads. Reads at once; writes after [`Etcd::campaign`].
    ///
    /// # Errors
    /// etcd cannot be reached or refuses, a file of the settings cannot be read, or a newer program wrote the keys.
    pub async fn open(config: &Config) -> Result<Self, StoreError> {
        if config.endpoints.is_empty() {
            return Err(StoreError::Refused {
                doing: "connect",
                source: "no endpoint is named".into(),
            });
        }
        let shared = Arc::new(Shared {
            wire: Wire::new(config)?,
            layout: Layout::new(&config.prefix),
            lease_ttl: config.lease_ttl,
            defragment: config.defragment,
            revision: watch::Sender::new(0),
            leader: watch::Sender::new(None),
            leader_as_of: Mutex::default(),
            term: watch::Sender::new(None),
            pending: Mutex::default(),
            runtime: tokio::runtime::Handle::current(),
        });
        view::check_format(&shared).await?;
        let seen = follow::read(&shared).await?;
        let follower = tokio::spawn(follow::follow(shared.clone(), seen));
        let (orders, inbox) = mpsc::channel(ORDERS_MAX);
        tokio::spawn(writer::serve(shared.clone(), inbox));
        Ok(Self {
            shared,
            orders,
            follower,
        })
    }

    /// Who leads, as far as this handle has heard; none while nobody does.
    pub fn leader(&self) -> watch::Receiver<Option<Leader>> {
        self.shared.leader.subscribe()
    }

    async fn ask<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Order,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.orders.send(order(reply)).await;
        sent.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Reads as of one revision of etcd's; begins anew when etcd has forgotten it meanwhile.
    async fn steadily<T, F: Future<Output = Result<T, Lost>>>(
        &self,
        read: impl Fn(Arc<Shared>) -> F,
    ) -> Result<T, StoreError> {
        for _ in 1..READS_MAX {
            match read(self.shared.clone()).await {
                Err(Lost::Moved) => {}
                other => return other.map_err(StoreError::from),
            }
        }
        read(self.shared.clone()).await.map_err(StoreError::from)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

#[async_trait::async_trait]
impl Store for Etcd {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.steadily(|shared| read::get(shared, key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.steadily(|shared| read::list(shared, prefix)).await
    }

    async fn commit(&self, ops: Vec<Op>, meta: Meta) -> Result<u64, StoreError> {
        self.ask(|reply| Order::Commit(ops, meta, reply)).await
    }

    async fn changes(&self, after: u64, limit: usize) -> Result<Vec<Change>, StoreError> {
        self.steadily(|shared| async move {
            let view = View::open(shared).await?;
            reaches(after, view.oldest)?;
            read::changes(&view, after, limit).await
        })
        .await
    }

    async fn history(&self, key: &str, limit: usize) -> Result<Vec<Change>, StoreError> {
        self.steadily(|shared| async move {
            let view = View::open(shared).await?;
            read::history(&view, key, limit).await
        })
        .await
    }

    async fn log(&self, prefix: &str, below: u64, limit: usize) -> Result<Vec<Head>, StoreError> {
        self.steadily(|shared| async move {
            let view = View::open(shared).await?;
            read::heads(&view, prefix, below, limit).await
        })
        .await
    }

    async fn read_commit(&self, revision: u64) -> Result<Option<Commit>, StoreError> {
        self.steadily(|shared| async move {
            let view = View::open(shared).await?;
            reaches(revision.saturating_sub(1), view.oldest)?;
            read::commit(&view, revision).await
        })
        .await
    }

    async fn get_at(&self, key: &str, revision: u64) -> Result<Option<Entry>, StoreError> {
        self.steadily(|shared| async move {
            let view = View::open(shared).await?;
            reaches(revision, view.oldest)?;
            read::last(&view, key, revision).await
        })
        .await
    }

    async fn compact(&self, before: u64) -> Result<u64, StoreError> {
        self.ask(|reply| Order::Compact(before, reply)).await
    }

    /// More than fits one transaction of etcd's is given its form in several: an error in between leaves both forms, and
    /// asking again is the remedy.
    async fn recode(
        &self,
        after: u64,
        limit: usize,
        form: Recode,
    ) -> Result<Option<u64>, StoreError> {
        self.ask(|reply| Order::Recode(after, limit, form, reply))
            .await
    }

    /// etcd's write-ahead log and snapshots are beyond reach: they go when etcd's own rotation takes them.
    async fn scrub(&self) -> Result<(), StoreError> {
        self.ask(Order::Scrub).await
    }

    fn revision(&self) -> watch::Receiver<u64> {
        self.shared.revision.subscribe()
    }
}
