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

/// Shorter ones cost more than they tell, and 0 would mean to send without pause.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Longer ones notice nothing that a hold timer does not notice.
const INTERVAL_MAX: Duration = Duration::from_secs(60);

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

impl Config {
    /// Intervals of 10 ms to 60 s and a multiplier from 1 on: what a session makes of any wish.
    #[must_use]
    pub fn within_limits(self) -> Self {
        Self {
            min_tx: self.min_tx.clamp(INTERVAL_MIN, INTERVAL_MAX),
            min_rx: self.min_rx.clamp(INTERVAL_MIN, INTERVAL_MAX),
            multiplier: self.multiplier.max(1),
        }
    }
}

/// A change of the state, or of whether the peer says AdminDown; then `from` may be the same as `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Before.
    pub from: State,
    /// After.
    pub to: State,
    /// Why.
    pub diagnostic: Diagnostic,
    /// What the peer reports now. AdminDown is no failure (RFC 5882 section 3.2).
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
    /// The state changed, or whether the peer says AdminDown.
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
    /// Another one follows once a packet without Final has come: until then a Final may still answer the last one.
    Between,
}

impl Poll {
    fn is_running(self) -> bool {
        matches!(self, Self::Running | Self::RunningThenAgain)
    }
}

/// A session with one peer.
#[derive(Debug, Clone)]
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
    /// A change is told now, not when the next packet is due (RFC 5880 section 6.8.7).
    tell_at: Option<Instant>,
    last_tx: Instant,
    /// Jitter of the next packet: of what it may take away, how much it leaves, in 65536ths.
    jitter: u16,
    /// The last valid packet; none after a detection time without.
    heard_at: Option<Instant>,
    random: u64,
    times_up: u64,
    times_down: u64,
}

impl Session {
    /// A session that begins to send at once. `discriminator` is unique and not 0, see [`crate::demux`]; `seed`
    /// makes the jitter.
    #[must_use]
    pub fn new(config: Config, discriminator: u32, now: Instant, seed: u64) -> Self {
        let config = config.within_limits();
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
            tell_at: Some(now),
            last_tx: now,
            jitter: 0,
            heard_at: None,
            random: seed,
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
        let before = self.remote.state;
        self.remote = Remote {
            discriminator: packet.my_discriminator,
            state: packet.state,
            diagnostic: packet.diagnostic,
            desired_min_tx: Duration::from_micros(packet.desired_min_tx_us.into()),
            required_min_rx: Duration::from_micros(packet.required_min_rx_us.into()),
            multiplier: packet.multiplier,
            demand: packet.demand,
        };
        self.follow_poll(packet.final_bit);
        if self.state == State::AdminDown {
            return Err(Discard::AdminDown);
        }
        let change = self.follow(now, packet.state);
        self.heard_at = Some(now);
        Ok(Outcome {
            // "MUST [...] transmit a BFD Control packet [...] as soon as practicable, without respect to the
            // transmission timer" (section 6.5).
            send: packet.poll.then(|| self.packet(true).encode()),
            change: change.or_else(|| self.remote_admin_down_changed(before)),
        })
    }

    /// The owner of the session judges the peer's AdminDown otherwise than Down, so it is told of it in every state.
    fn remote_admin_down_changed(&self, before: State) -> Option<Change> {
        let changed = (before == State::AdminDown) != (self.remote.state == State::AdminDown);
        changed.then_some(Change {
            from: self.state,
            to: self.state,
            diagnostic: self.diagnostic,
            remote_state: self.remote.state,
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
        let silent = self.detection_deadline().is_some_and(|at| at <= now);
        let change = silent.then(|| self.unheard(now)).flatten();
        Outcome {
            send: self.transmit(now),
            change,
        }
    }

    /// The packet that is due, without a look at what was not heard: for an owner who has not read all yet.
    pub fn transmit(&mut self, now: Instant) -> Option<[u8; PACKET_LEN]> {
        let due = self.next_tx().is_some_and(|at| at <= now);
        due.then(|| self.periodic(now))
    }

    /// The periodic packet of a session that is up, when it is due within [`slack`](Self::slack): who is awake for one
    /// session sends for all that are nearly due, and sleeps longer.
    pub fn transmit_early(&mut self, now: Instant) -> Option<[u8; PACKET_LEN]> {
        let slack = self.slack()?;
        self.next_tx().filter(|at| *at <= now + slack)?;
        Some(self.periodic(now))
    }

    fn periodic(&mut self, now: Instant) -> [u8; PACKET_LEN] {
        self.tell_at = None;
        self.last_tx = now;
        self.jitter = self.random16();
        self.packet(false).encode()
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
        let before = self.remote.state;
        self.heard_at = None;
        self.remote.discriminator = 0;
        self.remote.demand = false;
        self.remote.state = State::Down;
        self.remote.required_min_rx = Duration::from_micros(1);
        match self.state {
            State::Init | State::Up => {
                Some(self.enter(now, State::Down, Diagnostic::DETECTION_TIME_EXPIRED))
            }
            State::Down => self.remote_admin_down_changed(before),
            State::AdminDown => None,
        }
    }

    /// The operator holds the session down, or lets it go. AdminDown goes on being sent, so that the peer knows.
    pub fn set_admin_down(&mut self, now: Instant, down: bool) -> Option<Change> {
        match (self.state, down) {
            (State::AdminDown, false) => Some(self.enter(now, State::Down, Diagnostic::NONE)),
            (State::Down | State::Init | State::Up, true) => {
                self.heard_at = None;
                Some(self.enter(now, State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN))
            }
            (State::AdminDown, true) | (State::Down | State::Init | State::Up, false) => None,
        }
    }

    /// New timers; while Up they are told by a Poll Sequence, and the session stays up. The packet that tells goes at
    /// once: it "SHOULD be transmitted during the interval between periodic Control packet transmissions when the
    /// contents of that packet would differ" (section 6.8.7).
    pub fn set_config(&mut self, now: Instant, config: Config) {
        let config = config.within_limits();
        if config == self.config {
            return;
        }
        self.config = config;
        if self.state == State::Up {
            self.start_poll();
            self.tell_at = Some(now);
        } else {
            self.settle();
        }
    }

    /// When [`on_deadline`](Self::on_deadline) wants to be called next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        match (self.next_tx(), self.detection_deadline()) {
            (Some(tx), Some(detect)) => Some(tx.min(detect)),
            (one, other) => one.or(other),
        }
    }

    /// When the peer counts as silent, by the timers that hold now.
    #[must_use]
    pub fn detection_deadline(&self) -> Option<Instant> {
        self.heard_at.map(|at| at + self.detection_time())
    }

    /// By the timers that hold now, also when they have changed since the last packet.
    fn next_tx(&self) -> Option<Instant> {
        let periodic = || self.interval().map(|after| self.last_tx + after);
        self.tell_at.or_else(periodic)
    }

    fn enter(&mut self, now: Instant, to: State, diagnostic: Diagnostic) -> Change {
        let from = std::mem::replace(&mut self.state, to);
        self.state_since = now;
        self.tell_at = Some(now);
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
            Poll::Between => Poll::Between,
        };
    }

    /// A Final ends the Poll Sequence; the next one begins after a packet without Final, so that a Final can be told to
    /// belong to one of them (section 6.5).
    fn follow_poll(&mut self, final_bit: bool) {
        self.poll = match (self.poll, final_bit) {
            (Poll::RunningThenAgain, true) => Poll::Between,
            (Poll::Running, true) => {
                self.settle();
                Poll::None
            }
            (Poll::Between, false) => Poll::Running,
            (Poll::None | Poll::Between, true)
            | (Poll::None | Poll::Running | Poll::RunningThenAgain, false) => self.poll,
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
    fn interval(&self) -> Option<Duration> {
        const STEPS: u32 = 1 << 16;
        let interval = self.transmit_interval()?;
        let spread = match self.config.multiplier {
            0 | 1 => interval / 10,
            _ => interval / 5,
        };
        Some(interval * 4 / 5 + spread * u32::from(self.jitter) / STEPS)
    }

    fn packet(&self, answers_poll: bool) -> Packet {
        Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll: !answers_poll && self.poll.is_running(),
            final_bit: answers_poll,
            // The engine's BFD lives in the process that also speaks BGP.
            control_plane_independent: false,
            demand: false,
            multiplier: self.config.multiplier,
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.discriminator,
            desired_min_tx_us: micros(self.desired_min_tx()),
            required_min_rx_us: micros(self.config.min_rx),
            required_min_echo_rx_us: 0,
        }
    }

    /// SplitMix64; nothing secret depends on it.
    fn random16(&mut self) -> u16 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
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
