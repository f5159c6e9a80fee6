//! How long a client may take: to begin, to send a header, to come back.

use crate::HttpSpec;
use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// Where a client's connection is.
#[derive(Clone, Copy)]
enum Phase {
    /// Nothing has come since it was accepted.
    Accepted(Instant),
    /// Nothing has come since the last answer.
    Answered(Instant),
    /// The header of a request began to come.
    Header(Instant),
    /// A request has come, and its answer has not gone.
    Request,
}

/// What of a client's time is measured.
pub(crate) struct Clock {
    phase: Cell<Phase>,
    post_accept: Duration,
    keepalive: Duration,
    header: Duration,
}

impl Clock {
    /// Nothing of a request has come yet.
    pub(super) fn begin(spec: &HttpSpec, accepted: Instant) -> Self {
        Self {
            phase: Cell::new(Phase::Accepted(accepted)),
            post_accept: spec.post_accept_timeout,
            keepalive: spec.keepalive_timeout,
            header: spec.header_timeout,
        }
    }

    /// Something has come.
    pub(crate) fn hear(&self) {
        if let Phase::Accepted(_) | Phase::Answered(_) = self.phase.get() {
            self.phase.set(Phase::Header(Instant::now()));
        }
    }

    /// A header is complete.
    pub(super) fn begin_request(&self) {
        self.phase.set(Phase::Request);
    }

    /// The answer has gone.
    pub(super) fn end_request(&self) {
        self.phase.set(Phase::Answered(Instant::now()));
    }

    /// The client has not taken all of the last answer yet.
    pub(super) fn postpone(&self) {
        if let Phase::Answered(_) = self.phase.get() {
            self.end_request();
        }
    }

    /// Some of a header has come, and not all.
    pub(super) fn is_in_header(&self) -> bool {
        matches!(self.phase.get(), Phase::Header(_))
    }

    /// `None` while the client has nothing to do.
    fn deadline(&self) -> Option<Instant> {
        match self.phase.get() {
            Phase::Accepted(since) => Some(since + self.post_accept),
            Phase::Answered(since) => Some(since + self.keepalive),
            Phase::Header(since) => Some(since + self.header),
            Phase::Request => None,
        }
    }
}

/// Wakes the task of a connection when its time is over. It is set anew only for a deadline that comes sooner, or when it
/// fires too early: a busy connection does not touch the runtime's timers.
pub(super) struct Timer<'a> {
    clock: &'a Clock,
    sleep: Pin<Box<Sleep>>,
}

impl<'a> Timer<'a> {
    pub(super) fn new(clock: &'a Clock) -> Self {
        let first = clock.deadline().unwrap_or_else(Instant::now);
        Self {
            clock,
            sleep: Box::pin(sleep_until(first)),
        }
    }

    /// Whether the time is over; polled whenever the phase may have changed.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(deadline) = self.clock.deadline() else {
                return Poll::Pending;
            };
            if deadline < self.sleep.deadline() {
                self.sleep.as_mut().reset(deadline);
            }
            ready!(self.sleep.as_mut().poll(context));
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(deadline);
        }
    }
}
