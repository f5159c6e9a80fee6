//! One session: the state machine of RFC 5880 section 6.2, and when what is sent.
//!
//! ```text
//!                      ┌──┐
//!                      │  │ UP, ADMIN DOWN, TIMER
//!                      │  ▼
//!               DOWN ┌──────┐ INIT
//!            ┌───────│ DOWN │────────┐
//!            │       └──────┘        │
//!            │   ADMIN ▲  ▲ ADMIN    │
//!            │   DOWN, │  │ DOWN,    │
//!            │   TIMER │  │ DOWN,    │
//!            ▼         │  │ TIMER    ▼
//!          ┌──────┐────┘  └────┌──────┐
//!   DOWN ┌▶│ INIT │            │  UP  │◀┐ INIT, UP
//!        └─└──────┘───────────▶└──────┘─┘
//!                   INIT, UP
//! ```
//!
//! (the states that the peer reports are on the arrows; AdminDown of our own stands beside it)
//!
//! The owner gives packets, deadlines and wishes, each with the time at which it happens; each call returns at most
//! one packet to send and one change of state, and [`Session::next_deadline`] says when to call next.

use std::time::{Duration, Instant};

use crate::packet::{Diagnostic, Discard, PACKET_LEN, Packet, State, micros};

/// RFC 5880 section 6.8.3: while not Up, "not less than one second".
const SLOW: Duration = Duration::from_secs(1);

/// What the operator says about a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// bfd.DesiredMinTxInterval while Up.
    pub min_tx: Duration,
    /// bfd.RequiredMinRxInterval.
    pub min_rx: Duration,
    /// bfd.DetectMult; 0 counts as 1.
    pub multiplier: u8,
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Before.
    pub from: State,
    /// After.
    pub to: State,
    /// Why.
    pub diagnostic: Diagnostic,
    /// What the peer reported when it happened. AdminDown is no failure (RFC 5882 section 3.2).
    pub remote_state: State,
}

impl Change {
    /// The path has failed: it was up, and neither side has taken the session down on purpose.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        self.from == State::Up && self.to == State::Down && self.remote_state != State::AdminDown
    }
}

/// What a call has led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// To be sent now.
    pub send: Option<[u8; PACKET_LEN]>,
    /// The state changed.
    pub change: Option<Change>,
}

/// What the peer has told (bfd.Remote...).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote {
    /// Its discriminator; 0 while it is not heard.
    pub discriminator: u32,
    /// Its state.
    pub state: State,
    /// Why it is in that state.
    pub diagnostic: Diagnostic,
    /// What it would like to send at.
    pub desired_min_tx: Duration,
    /// What it can take; zero means no periodic packets.
    pub required_min_rx: Duration,
    /// Its multiplier.
    pub multiplier: u8,
    demand: bool,
}

/// A Poll Sequence (RFC 5880 section 6.5); there is one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Poll {
    None,
    Running,
    /// Something changed while it ran: another one follows.
    RunningThenAgain,
}

/// A session with one peer.
#[derive(Debug)]
pub struct Session {
    config: Config,
    discriminator: u32,
    state: State,
    state_since: Instant,
    diagnostic: Diagnostic,
    remote: Remote,
    poll: Poll,
    /// In force while a Poll Sequence has not ended (RFC 5880 section 6.8.3).
    tx_in_use: Duration,
    rx_in_use: Duration,
    next_tx: Option<Instant>,
    detect_at: Option<Instant>,
    jitter: u64,
    times_up: u64,
    times_down: u64,
}

impl Session {
    /// A session that begins to send at once. `discriminator` is unique and not 0, see [`crate::demux`]; `seed`
    /// makes the jitter.
    #[must_use]
    pub fn new(config: Config, discriminator: u32, now: Instant, seed: u64) -> Self {
        Self {
            config,
            discriminator,
            state: State::Down,
            state_since: now,
            diagnostic: Diagnostic::NONE,
            remote: Remote {
                discriminator: 0,
                state: State::Down,
                diagnostic: Diagnostic::NONE,
                desired_min_tx: Duration::ZERO,
                // "MUST be initialized to 1": one microsecond.
                required_min_rx: Duration::from_micros(1),
                multiplier: 0,
                demand: false,
            },
            poll: Poll::None,
            tx_in_use: config.min_tx.max(SLOW),
            rx_in_use: config.min_rx,
            next_tx: Some(now),
            detect_at: None,
            jitter: seed,
            times_up: 0,
            times_down: 0,
        }
    }

    /// A packet that belongs to this session (RFC 5880 section 6.8.6, from where the session is known).
    ///
    /// # Errors
    ///
    /// Why it was discarded.
    pub fn on_packet(&mut self, now: Instant, packet: &Packet) -> Result<Outcome, Discard> {
        self.remote = Remote {
            discriminator: packet.my_discriminator,
            state: packet.state,
            diagnostic: packet.diagnostic,
            desired_min_tx: Duration::from_micros(packet.desired_min_tx_us.into()),
            required_min_rx: Duration::from_micros(packet.required_min_rx_us.into()),
            multiplier: packet.multiplier,
            demand: packet.demand,
        };
        if packet.final_bit {
            self.end_poll();
        }
        if self.state == State::AdminDown {
            return Err(Discard::AdminDown);
        }
        let change = self.follow(now, packet.state);
        self.detect_at = Some(now + self.detection_time());
        self.bring_forward(now, change.is_some());
        Ok(Outcome {
            // "MUST [...] transmit a BFD Control packet [...] as soon as practicable, without respect to the
            // transmission timer" (section 6.5).
            send: packet.poll.then(|| self.packet(true).encode()),
            change,
        })
    }

    /// The state machine; the peer's state is the event.
    fn follow(&mut self, now: Instant, peer: State) -> Option<Change> {
        use State as S;
        match (self.state, peer) {
            (S::AdminDown, _) => None,
            (S::Down, S::Down) => Some(self.enter(now, S::Init, Diagnostic::NONE)),
            (S::Down, S::Init) | (S::Init, S::Init | S::Up) => {
                Some(self.enter(now, S::Up, Diagnostic::NONE))
            }
            (S::Down, S::AdminDown | S::Up) | (S::Init, S::Down) | (S::Up, S::Init | S::Up) => None,
            (S::Init, S::AdminDown) | (S::Up, S::AdminDown | S::Down) => {
                Some(self.enter(now, S::Down, Diagnostic::NEIGHBOR_SIGNALED_DOWN))
            }
        }
    }

    /// Time has passed. Calling it early does no harm.
    pub fn on_deadline(&mut self, now: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        if self.detect_at.is_some_and(|at| at <= now) {
            self.detect_at = None;
            outcome.change = self.unheard(now);
        }
        if self.next_tx.is_some_and(|at| at <= now) {
            outcome.send = Some(self.packet(false).encode());
            self.next_tx = self.interval().map(|after| now + after);
        }
        outcome
    }

    /// The periodic packet of a session that is up, when it is due within [`slack`](Self::slack): who is awake for one
    /// session sends for all that are nearly due, and sleeps longer.
    pub fn transmit_early(&mut self, now: Instant) -> Option<[u8; PACKET_LEN]> {
        let slack = self.slack()?;
        self.next_tx.filter(|at| *at <= now + slack)?;
        self.next_tx = self.interval().map(|after| now + after);
        Some(self.packet(false).encode())
    }

    /// How much earlier than planned a packet may go: jitter leaves so much of what section 6.8.7 allows. None while
    /// the session is not up.
    #[must_use]
    pub fn slack(&self) -> Option<Duration> {
        let interval = self.transmit_interval()?;
        (self.state == State::Up).then_some(interval / 20)
    }

    /// RFC 5880 section 6.8.4; and the peer's discriminator is forgotten (section 6.8.1).
    fn unheard(&mut self, now: Instant) -> Option<Change> {
        self.remote.discriminator = 0;
        self.remote.demand = false;
        self.remote.state = State::Down;
        self.remote.required_min_rx = Duration::from_micros(1);
        match self.state {
            State::Init | State::Up => {
                let change = self.enter(now, State::Down, Diagnostic::DETECTION_TIME_EXPIRED);
                self.next_tx = Some(now);
                Some(change)
            }
            State::Down | State::AdminDown => None,
        }
    }

    /// The operator holds the session down, or lets it go. AdminDown goes on being sent, so that the peer knows.
    pub fn set_admin_down(&mut self, now: Instant, down: bool) -> Option<Change> {
        match (self.state, down) {
            (State::AdminDown, false) => {
                self.next_tx = Some(now);
                Some(self.enter(now, State::Down, Diagnostic::NONE))
            }
            (State::Down | State::Init | State::Up, true) => {
                self.detect_at = None;
                self.next_tx = Some(now);
                Some(self.enter(now, State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN))
            }
            (State::AdminDown, true) | (State::Down | State::Init | State::Up, false) => None,
        }
    }

    /// New timers; while Up they are told by a Poll Sequence, and the session stays up.
    pub fn set_config(&mut self, now: Instant, config: Config) {
        if config == self.config {
            return;
        }
        self.config = config;
        if self.state == State::Up {
            self.start_poll();
        } else {
            self.settle();
        }
        self.bring_forward(now, self.state == State::Up);
    }

    /// When [`on_deadline`](Self::on_deadline) wants to be called next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        match (self.next_tx, self.detect_at) {
            (Some(tx), Some(detect)) => Some(tx.min(detect)),
            (one, other) => one.or(other),
        }
    }

    fn enter(&mut self, now: Instant, to: State, diagnostic: Diagnostic) -> Change {
        let from = std::mem::replace(&mut self.state, to);
        self.state_since = now;
        self.diagnostic = diagnostic;
        if to == State::Up {
            self.times_up += 1;
            // The interval shrinks at once; the peer is told by a Poll Sequence.
            self.start_poll();
        } else {
            self.times_down += u64::from(from == State::Up);
            self.poll = Poll::None;
            self.settle();
        }
        Change {
            from,
            to,
            diagnostic,
            remote_state: self.remote.state,
        }
    }

    /// RFC 5880 section 6.8.3: what gets slower to send, or is required to arrive more often, waits for the end
    /// of the Poll Sequence; the rest takes effect now.
    fn start_poll(&mut self) {
        self.tx_in_use = self.tx_in_use.min(self.desired_min_tx());
        self.rx_in_use = self.rx_in_use.max(self.config.min_rx);
        self.poll = match self.poll {
            Poll::None => Poll::Running,
            Poll::Running | Poll::RunningThenAgain => Poll::RunningThenAgain,
        };
    }

    fn end_poll(&mut self) {
        self.poll = match self.poll {
            Poll::RunningThenAgain => Poll::Running,
            Poll::None | Poll::Running => {
                self.settle();
                Poll::None
            }
        };
    }

    fn settle(&mut self) {
        self.tx_in_use = self.desired_min_tx();
        self.rx_in_use = self.config.min_rx;
    }

    /// bfd.DesiredMinTxInterval.
    fn desired_min_tx(&self) -> Duration {
        if self.state == State::Up {
            self.config.min_tx
        } else {
            self.config.min_tx.max(SLOW)
        }
    }

    /// The interval before jitter: "the larger of bfd.DesiredMinTxInterval and bfd.RemoteMinRxInterval" (section
    /// 6.8.7); none when the peer wants none, or asks for silence while both are up.
    #[must_use]
    pub fn transmit_interval(&self) -> Option<Duration> {
        let silent = self.remote.demand
            && self.state == State::Up
            && self.remote.state == State::Up
            && self.poll == Poll::None;
        let unwanted = self.remote.required_min_rx.is_zero();
        (!silent && !unwanted).then(|| self.tx_in_use.max(self.remote.required_min_rx))
    }

    /// "the agreed transmit interval of the remote system [...] multiplied by the received Detect Mult" (section
    /// 6.8.4).
    #[must_use]
    pub fn detection_time(&self) -> Duration {
        self.rx_in_use.max(self.remote.desired_min_tx) * u32::from(self.remote.multiplier.max(1))
    }

    /// "reduced by a random value of 0 to 25%", and with a multiplier of 1 "no more than 90% [...] no less than 75%"
    /// (section 6.8.7). By 20 % at most here, the rest is [`slack`](Self::slack).
    fn interval(&mut self) -> Option<Duration> {
        const STEPS: u32 = 1 << 16;
        let interval = self.transmit_interval()?;
        let step = u32::from(self.random16());
        let spread = match self.config.multiplier {
            0 | 1 => interval / 10,
            _ => interval / 5,
        };
        Some(interval * 4 / 5 + spread * step / STEPS)
    }

    /// After a change the next packet does not wait longer than the interval that holds now; after one of state
    /// it goes at once (section 6.8.7).
    fn bring_forward(&mut self, now: Instant, at_once: bool) {
        if at_once {
            self.next_tx = Some(now);
            return;
        }
        let latest = self.transmit_interval().map(|interval| now + interval);
        let planned = self.next_tx.filter(|planned| Some(*planned) <= latest);
        self.next_tx = match latest {
            Some(_) => planned.or_else(|| self.interval().map(|after| now + after)),
            None => None,
        };
    }

    fn packet(&self, answers_poll: bool) -> Packet {
        Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll: !answers_poll && self.poll != Poll::None,
            final_bit: answers_poll,
            // The engine's BFD lives in the process that also speaks BGP.
            control_plane_independent: false,
            demand: false,
            multiplier: self.config.multiplier.max(1),
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.discriminator,
            desired_min_tx_us: micros(self.desired_min_tx()),
            required_min_rx_us: micros(self.config.min_rx),
            required_min_echo_rx_us: 0,
        }
    }

    /// SplitMix64; nothing secret depends on it.
    fn random16(&mut self) -> u16 {
        self.jitter = self.jitter.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.jitter;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 48) as u16
    }
}

/// What an operator can see.
impl Session {
    /// The state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// When it was entered.
    #[must_use]
    pub fn state_since(&self) -> Instant {
        self.state_since
    }

    /// Why it was entered.
    #[must_use]
    pub fn diagnostic(&self) -> Diagnostic {
        self.diagnostic
    }

    /// What the peer has told last.
    #[must_use]
    pub fn remote(&self) -> Remote {
        self.remote
    }

    /// Ours.
    #[must_use]
    pub fn discriminator(&self) -> u32 {
        self.discriminator
    }

    /// The timers in force.
    #[must_use]
    pub fn config(&self) -> Config {
        self.config
    }

    /// How often it came up.
    #[must_use]
    pub fn times_up(&self) -> u64 {
        self.times_up
    }

    /// How often it went down from Up.
    #[must_use]
    pub fn times_down(&self) -> u64 {
        self.times_down
    }
}

#[cfg(test)]
mod tests;
