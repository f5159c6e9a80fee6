//! The shell around the BFD core: sockets and clock on one thread of its own.
//!
//! ```text
//!   BfdHandle ── std mpsc + eventfd ──▶ thread ──▶ UDP 3784, 4784 (in), a socket per session (out)
//!       ▲  ▲                              │ owns: sessions, sockets, demultiplexing
//!       │  └──── Mutex<Arc<Snapshot>> ────┤   (written when nobody reads; never waited for)
//!       └─────── tokio mpsc: BfdReport ───┘   (bounded; what does not fit is put together)
//! ```
//!
//! BFD must not wait for anything: a machine under full load would lose its sessions, and with them its routes. So
//! there is one operating system thread with real-time scheduling where that is allowed, which sleeps in `ppoll`
//! until a packet or a deadline comes. On the path of a packet nothing is allocated, locked or logged; what is to be
//! logged goes to the owner as a [`BfdReport`].
//!
//! The thread is spawned by [`BfdSpeaker::spawn`] and ends with [`BfdHandle::shutdown`] or when the handle is dropped;
//! in both cases every session says AdminDown first. Sockets are opened in the network namespace of the thread that
//! spawns, and not before the first session.

mod inbox;
mod sessions;
mod socket;
mod status;
mod thread;
mod untold;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ::bfd::{Diagnostic, State};
use dataplane::realtime::Scheduling;
use nix::sys::eventfd::{EfdFlags, EventFd};
use proto::v1;
use tokio::sync::mpsc;

use status::Snapshot;

/// Some for each of many sessions that fail together; see [`untold`] for what does not fit.
const REPORTS_MAX: usize = 1024;

/// Which path a session watches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BfdKey {
    /// The router.
    pub peer: IpAddr,
    /// Our address.
    pub local: IpAddr,
    /// The interface of a single-hop session (RFC 5881); empty over several hops (RFC 5883).
    pub interface: String,
    /// Over several hops: port 4784, any TTL from [`BfdConfig::min_ttl`] on.
    pub multihop: bool,
}

/// Timers of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BfdConfig {
    /// We would like to send at this interval while up.
    pub min_tx: Duration,
    /// We can take packets at this interval.
    pub min_rx: Duration,
    /// The peer declares us down after so many of our intervals.
    pub multiplier: u8,
    /// Over several hops: packets with less are discarded; 0 takes any.
    pub min_ttl: u8,
}

/// What the thread has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BfdReport {
    /// A session's state, or its peer's AdminDown, has changed.
    State(BfdEvent),
    /// A session begins.
    Started(BfdKey),
    /// Its sockets or its interface could not be had, for this reason. It is tried again, and told when the reason is
    /// another.
    CannotStart(BfdKey, String),
    /// How the thread runs.
    Scheduling(Scheduling),
}

/// A change of state, or several in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BfdEvent {
    /// Whose.
    pub key: Arc<BfdKey>,
    /// Before.
    pub from: State,
    /// After.
    pub to: State,
    /// Why.
    pub diagnostic: Diagnostic,
    /// How often the path has failed meanwhile (RFC 5882 section 3.2: the peer's AdminDown is no failure).
    pub failures: u64,
    /// What the peer reported when it happened.
    pub remote_state: State,
}

/// Speaks BFD for the engine.
pub struct BfdSpeaker;

impl BfdSpeaker {
    /// Starts the thread. Reports of all sessions come out of the receiver; whoever does not read misses details, not
    /// the latest state.
    ///
    /// # Errors
    ///
    /// The thread or its wake-up could not be made.
    pub fn spawn() -> io::Result<(BfdHandle, mpsc::Receiver<BfdReport>)> {
        Self::spawn_for(&BfdMonitor::default())
    }

    /// The same, shown by this monitor: a thread that follows on another.
    ///
    /// # Errors
    ///
    /// The thread or its wake-up could not be made.
    pub fn spawn_for(
        BfdMonitor(shared): &BfdMonitor,
    ) -> io::Result<(BfdHandle, mpsc::Receiver<BfdReport>)> {
        let wake = Arc::new(EventFd::from_flags(
            EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC,
        )?);
        let (commands, receiver) = std::sync::mpsc::channel();
        let (reports, reports_rx) = mpsc::channel(REPORTS_MAX);
        let worker = thread::Worker::new(receiver, wake.clone(), reports, shared.clone());
        let thread = std::thread::Builder::new()
            .name("bfd".to_owned())
            .spawn(move || worker.run())?;
        let handle = BfdHandle {
            commands,
            wake,
            shared: shared.clone(),
            thread: Some(thread),
        };
        Ok((handle, reports_rx))
    }
}

/// What the thread shows.
#[derive(Default)]
struct Shared {
    status: Mutex<Arc<Snapshot>>,
    cpu_ns: AtomicU64,
}

enum Command {
    Apply(BTreeMap<BfdKey, BfdConfig>),
    Stop,
}

/// Steers the thread.
pub struct BfdHandle {
    commands: std::sync::mpsc::Sender<Command>,
    wake: Arc<EventFd>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl BfdHandle {
    /// All sessions that shall exist. One that is not named says AdminDown and is forgotten; new timers are agreed on
    /// without a flap; an unchanged one is not touched.
    pub fn apply(&self, desired: BTreeMap<BfdKey, BfdConfig>) {
        self.tell(Command::Apply(desired));
    }

    fn tell(&self, command: Command) {
        // An error means that the thread is gone; so are its sessions.
        if self.commands.send(command).is_ok() {
            let _ = self.wake.write(1);
        }
    }

    /// Shows what the thread does; may outlive it.
    #[must_use]
    pub fn monitor(&self) -> BfdMonitor {
        BfdMonitor(self.shared.clone())
    }

    /// Says AdminDown in every session and ends the thread.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl BfdHandle {
    /// The thread ends; the handle does not wait for it.
    pub(crate) fn stop(&self) {
        self.tell(Command::Stop);
    }
}

impl Drop for BfdHandle {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // A panic in there was reported by the thread itself.
            let _ = thread.join();
        }
    }
}

/// See [`BfdHandle::monitor`].
#[derive(Clone, Default)]
pub struct BfdMonitor(Arc<Shared>);

impl BfdMonitor {
    fn snapshot(&self) -> Arc<Snapshot> {
        let status = self.0.status.lock();
        status.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every session, also those that cannot be started; at most a second old.
    #[must_use]
    pub fn status(&self) -> Vec<v1::BfdSession> {
        self.snapshot().sessions(Instant::now())
    }

    /// What the sessions have in common; at most a second old.
    #[must_use]
    pub fn engine(&self) -> v1::BfdEngine {
        self.snapshot().engine()
    }

    /// Shows nothing: the thread has ended.
    pub(crate) fn clear(&self) {
        let status = self.0.status.lock();
        *status.unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }

    /// Processor time of the thread so far; at most a second old.
    #[must_use]
    pub fn thread_cpu_time(&self) -> Duration {
        Duration::from_nanos(self.0.cpu_ns.load(Ordering::Relaxed))
    }
}
