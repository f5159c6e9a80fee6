//! The listening sockets, read as far as a flood allows.
//!
//! ```text
//!   sockets ──▶ turns of a few datagrams each, until all are empty or the time is up ──▶ sessions
//!                                            │ then only: what counts as silent
//! ```
//!
//! A session must not expire while its packet waits unread, and a flood must not take the processor from the rest of
//! the machine. So sockets are read until they are empty, but not for longer than [`BUDGET`]; then the thread pauses,
//! and until it has caught up sessions are judged by what was sent [`BACKLOG_MAX`] ago. What the kernel can tell to be
//! for no session it drops from then on, so that packets of sessions find room in the queue.

use std::io;
use std::time::{Duration, Instant};

use super::socket::{Datagram, Receiver};

/// Two ports, two families.
pub(super) const RECEIVERS_MAX: usize = 4;

/// Of one socket before the next has its turn.
const TURN: usize = 32;

/// With the pause that follows, a flood gets half of a processor.
const BUDGET: Duration = Duration::from_millis(1);

/// Longer than it takes to read a full queue, pauses included: nothing older can be waiting.
const BACKLOG_MAX: Duration = Duration::from_millis(50);

/// After a flood the kernel goes on dropping what is for no session this long.
const SHIELD: Duration = Duration::from_secs(10);

/// See the head of the module.
pub(super) struct Inbox {
    receivers: Vec<Receiver>,
    /// Whatever arrived before this time was read.
    heard_until: Instant,
    overrun: bool,
    shield_until: Option<Instant>,
    /// Of all sessions, in order.
    discriminators: Vec<u32>,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            receivers: Vec::new(),
            heard_until: Instant::now(),
            overrun: false,
            shield_until: None,
            discriminators: Vec::new(),
        }
    }

    pub(super) fn receivers(&self) -> &[Receiver] {
        &self.receivers
    }

    /// Listens on the port of single-hop or of multihop sessions, in both families.
    pub(super) fn open(&mut self, multihop: bool) -> io::Result<()> {
        if self.receivers.iter().any(|r| r.multihop == multihop) {
            return Ok(());
        }
        let mut opened = vec![Receiver::open(multihop, false)?];
        match Receiver::open(multihop, true) {
            Ok(receiver) => opened.push(receiver),
            // A kernel without IPv6.
            Err(error) if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => {}
            Err(error) => return Err(error),
        }
        self.receivers.append(&mut opened);
        Ok(())
    }

    /// Serves the sessions that there are, by whether they are multihop and by discriminator: closes a port that none
    /// of them needs.
    pub(super) fn serve(&mut self, sessions: &[(bool, u32)]) {
        let needs = |multihop| sessions.iter().any(|session| session.0 == multihop);
        self.receivers.retain(|r| needs(r.multihop));
        self.discriminators = sessions.iter().map(|session| session.1).collect();
    }

    /// Hands out what has come, see the head of the module.
    pub(super) fn read(&mut self, mut hear: impl FnMut(&Datagram)) {
        let start = Instant::now();
        let empty = loop {
            match self.turns(&mut hear) {
                true => break true,
                false if start.elapsed() >= BUDGET => break false,
                false => {}
            }
        };
        self.settle(start, empty);
    }

    /// Whether all were empty.
    fn turns(&mut self, hear: &mut impl FnMut(&Datagram)) -> bool {
        let mut empty = true;
        for receiver in &mut self.receivers {
            let turn = std::iter::from_fn(|| receiver.receive()).take(TURN);
            empty &= turn.map(|datagram| hear(&datagram)).count() < TURN;
        }
        empty
    }

    fn settle(&mut self, start: Instant, empty: bool) {
        self.overrun = !empty;
        if empty {
            self.heard_until = start;
        } else {
            let oldest = start.checked_sub(BACKLOG_MAX);
            self.heard_until = oldest.map_or(self.heard_until, |at| at.max(self.heard_until));
            self.shield_until = Some(start + SHIELD);
        }
        let shielded = self.shield_until.is_some_and(|until| start < until);
        let shield = shielded.then_some(self.discriminators.as_slice());
        for receiver in &mut self.receivers {
            receiver.shield(shield);
        }
    }

    /// Silence may be judged up to this time.
    pub(super) fn heard_until(&self) -> Instant {
        self.heard_until
    }

    /// More has come than could be read.
    pub(super) fn is_overrun(&self) -> bool {
        self.overrun
    }

    /// What the kernel has dropped so far.
    pub(super) fn dropped(&self) -> u64 {
        self.receivers.iter().map(Receiver::dropped).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet that is not read yet may be the one that is missed.
    #[test]
    fn silence_is_not_judged_beyond_what_was_read_but_not_put_off_for_ever() {
        let mut inbox = Inbox::new();
        let start = Instant::now() + Duration::from_secs(1);
        inbox.settle(start, true);
        assert_eq!((inbox.heard_until(), inbox.is_overrun()), (start, false));
        let mut now = start;
        for _ in 0..100 {
            now += Duration::from_millis(2);
            inbox.settle(now, false);
            assert!(inbox.is_overrun());
            assert_eq!(inbox.heard_until(), start.max(now - BACKLOG_MAX));
        }
        inbox.settle(now, true);
        assert_eq!((inbox.heard_until(), inbox.is_overrun()), (now, false));
    }

    #[test]
    fn a_flood_brings_up_the_shield_for_some_seconds() {
        let mut inbox = Inbox::new();
        let now = Instant::now();
        inbox.settle(now, false);
        assert_eq!(inbox.shield_until, Some(now + SHIELD));
        inbox.settle(now + SHIELD, true);
        assert_eq!(inbox.shield_until, Some(now + SHIELD), "over");
    }
}
