//! What happened: events of objects (avi-api section 11), the newest of them in memory and in two files.
//!
//! Whoever sees something happen calls [`Events::record`], which takes a lock for microseconds and waits for nothing:
//! commits and engines' streams do not wait for a disk. Who wants events reads them from the ring after the last one
//! that he has ([`Events::since`]) and waits for [`Events::newest`]: nothing is queued for anybody, so that a slow
//! reader costs no memory; one who is later than the ring is long is told so.
//!
//! Events are not configuration: they are in files of their own ([`journal`]), not in the store, so that they cost no
//! transaction, do not enter the log of changes and are not in a backup. Written at once, not forced to the disk: a
//! power cut may take the last seconds of them.
//!
//! One task, [`keep`], owned by the controller: it writes events to the file and gives them to the alerts. It may be
//! told to stop at any time, and writes what there is before it ends.

mod damp;
pub mod event;
pub mod filter;
pub mod journal;
pub mod observe;
mod ring;
mod seats;
pub mod sources;
pub mod view;
mod watchman;

pub use event::{Event, Id, Subject};
pub use seats::Seat;
pub use view::View;
pub use watchman::Watchman;

use crate::alerts::Alerts;
use crate::clock::now_us;
use damp::Damper;
use journal::Journal;
use ring::Ring;
use seats::Seats;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Events kept: some days of an installation where little happens. About 1 KB each.
pub const KEPT: usize = 10_000;
/// How often things that time brings about are looked at.
const BEAT: Duration = Duration::from_secs(1);

struct Inner {
    ring: Ring,
    damper: Damper,
    closed: bool,
}

/// See the module's documentation.
pub struct Events {
    inner: Mutex<Inner>,
    newest: watch::Sender<u64>,
    seats: Seats,
    streams_end: CancellationToken,
}

impl Events {
    /// With these from before, oldest first.
    pub fn new(kept: Vec<Event>) -> Self {
        let ring = Ring::new(KEPT, kept);
        Self {
            newest: watch::Sender::new(ring.newest()),
            inner: Mutex::new(Inner {
                ring,
                damper: Damper::default(),
                closed: false,
            }),
            seats: Seats::default(),
            streams_end: CancellationToken::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It happened now. Of what happens over and over again the first few are kept, and then how often.
    pub fn record(&self, event: Event) {
        let now_us = now_us();
        let mut inner = self.lock();
        if inner.closed {
            return;
        }
        let Some(event) = inner.damper.admit(event, now_us) else {
            return;
        };
        let newest = inner.ring.push(event, now_us);
        drop(inner);
        self.newest.send_replace(newest);
    }

    /// Records what was held back and whose time has come.
    pub fn tick(&self) {
        let now_us = now_us();
        let mut inner = self.lock();
        if inner.closed {
            return;
        }
        for event in inner.damper.due(now_us) {
            inner.ring.push(event, now_us);
        }
        let newest = inner.ring.newest();
        drop(inner);
        self.newest
            .send_if_modified(|n| std::mem::replace(n, newest) != newest);
    }

    /// Events after this one, oldest first, `max` at most.
    pub fn since(&self, sequence: u64, max: usize) -> Vec<Arc<Event>> {
        self.lock().ring.since(sequence, max)
    }

    /// Every event, oldest first.
    pub fn all(&self) -> Vec<Arc<Event>> {
        self.since(0, KEPT)
    }

    /// The sequence number of the newest event, 0 before the first.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// How many events after this one are forgotten already.
    pub fn forgotten_since(&self, sequence: u64) -> u64 {
        self.lock().ring.forgotten_since(sequence)
    }

    /// A place for one more stream of this user; none when there are too many, of all or of him.
    pub fn seat(&self, user: &str) -> Option<Seat> {
        self.seats.take(user)
    }

    /// Done when streams shall end.
    pub fn streams_end(&self) -> CancellationToken {
        self.streams_end.clone()
    }

    /// Streams end now, so that the controller can stop.
    pub fn end_streams(&self) {
        self.streams_end.cancel();
    }

    /// Nothing is recorded any more: that sessions end because the controller stops is no event.
    pub fn close(&self) {
        self.lock().closed = true;
    }
}

/// Writes events down and raises alerts, until `stop`; what there is then is written first.
pub async fn keep(
    events: Arc<Events>,
    journal: Journal,
    watchman: Arc<Watchman>,
    alerts: Arc<Alerts>,
    stop: CancellationToken,
) {
    let mut newest = events.newest();
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut done = journal.newest();
    let journal = Arc::new(Mutex::new(journal));
    loop {
        newest.borrow_and_update();
        let stopping = stop.is_cancelled();
        let new = events.since(done, KEPT);
        if let Some(last) = new.last() {
            done = last.sequence;
            alerts.consider(&new);
            journal::append(journal.clone(), new).await;
        }
        alerts.save_if_changed().await;
        if stopping {
            return;
        }
        // Cancelling any of these loses nothing: events are in the ring.
        tokio::select! {
            () = stop.cancelled() => {}
            _ = newest.changed() => {}
            _ = beat.tick() => {
                watchman.tick();
                events.tick();
                alerts.tick();
            }
        }
    }
}

#[cfg(test)]
mod tests;
