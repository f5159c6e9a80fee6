//! The timers of one session as a small table (RFC 4271 section 8, RFC 9687).

use std::time::Instant;

use super::fsm::Event;

/// In the order in which simultaneous expiries are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    IdleHold,
    ConnectRetry,
    Hold,
    SendHold,
    Keepalive,
}

impl Timer {
    const ALL: [Self; 5] = [
        Self::IdleHold,
        Self::ConnectRetry,
        Self::Hold,
        Self::SendHold,
        Self::Keepalive,
    ];
}

impl From<Timer> for Event {
    fn from(timer: Timer) -> Self {
        match timer {
            Timer::IdleHold => Self::IdleHoldExpired,
            Timer::ConnectRetry => Self::ConnectRetryExpired,
            Timer::Hold => Self::HoldExpired,
            Timer::SendHold => Self::SendHoldExpired,
            Timer::Keepalive => Self::KeepaliveExpired,
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Timers {
    deadlines: [Option<Instant>; Timer::ALL.len()],
}

impl Timers {
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.deadlines[timer as usize] = Some(at);
    }

    /// Earlier if it runs and is later.
    pub(super) fn bring_forward(&mut self, timer: Timer, at: Instant) {
        let deadline = &mut self.deadlines[timer as usize];
        *deadline = deadline.map(|planned| planned.min(at));
    }

    pub(super) fn stop(&mut self, timer: Timer) {
        self.deadlines[timer as usize] = None;
    }

    pub(super) fn stop_all(&mut self) {
        *self = Self::default();
    }

    pub(super) fn is_running(&self, timer: Timer) -> bool {
        self.deadlines[timer as usize].is_some()
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.deadlines.iter().flatten().min().copied()
    }

    /// Stops and returns one timer whose time has come.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<Timer> {
        let expired = |timer: &&Timer| self.deadlines[**timer as usize].is_some_and(|at| at <= now);
        let timer = *Timer::ALL.iter().find(expired)?;
        self.stop(timer);
        Some(timer)
    }
}
