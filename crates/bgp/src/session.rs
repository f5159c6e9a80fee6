//! One BGP session: the state machine of RFC 4271 section 8, and what it sends.
//!
//! ```text
//!              start                    connected              OPEN              KEEPALIVE
//!   ┌──────┐──────────▶┌─────────┐───────────▶┌──────────┐────────▶┌─────────────┐────────▶┌─────────────┐
//!   │ Idle │           │ Connect │            │ OpenSent │         │ OpenConfirm │         │ Established │
//!   └──────┘◀────┐     └─────────┘            └──────────┘         └─────────────┘         └─────────────┘
//!      ▲ idle    │   failed │  ▲ retry             │ TCP lost            │                       │
//!      │ hold    │          ▼  │                   ▼                     │                       │
//!      │         │     ┌────────┐◀─────────────────┘                     │                       │
//!      │         └stop─│ Active │                                        │                       │
//!      │               └────────┘                                        │                       │
//!      └────────── NOTIFICATION sent or received, TCP lost ◀─────────────┴───────────────────────┘
//! ```
//!
//! The owner feeds bytes, transport events, deadlines and wishes, each with the time at which it
//! happens, and after each call takes the [`Output`]s and the [`next_deadline`](Session::next_deadline).
//!
//! Chosen where RFC 4271 leaves room or where this speaker differs:
//!
//! * a failed connect leads to Active, not Idle, so that a peer that connects first is not turned away
//!   for the rest of the retry time (what deployed speakers do);
//! * optional attributes in force: AllowAutomaticStart, DampPeerOscillations (the idle hold time
//!   doubles up to the connect retry time), PassiveTcpEstablishment by configuration;
//!   no DelayOpen, no TrackTcpState;
//! * withdrawals are not delayed, see [`crate::rib`].

mod config;
mod fsm;
mod jitter;
mod status;
mod timers;

pub use config::SessionConfig;
pub use fsm::StateName;
pub use status::{Counters, LastError, Negotiated, RouteStatus, Withheld};

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::rib::{AdjRibOut, Batch, RouteTable};
use crate::types::Family;
use crate::wire::{
    self, DecodeContext, EncodeError, FrameBuffer, Message, Notification, ReceivedUpdate,
};
use fsm::{Event, State};
use jitter::Jitter;
use timers::{Timer, Timers};

/// Route messages are held back while this many bytes wait for the transport: a peer that reads
/// slowly gets the net result later instead of a growing queue here. Ten thousand IPv6 routes fit.
const UNSENT_BYTES_MAX: usize = 256 * 1024;

/// First idle hold time; it doubles with each failure up to the connect retry time.
const IDLE_HOLD_FIRST: Duration = Duration::from_secs(1);

/// What the owner of the session has to do or may want to know, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Open a TCP connection; an attempt still under way is void.
    Connect,
    /// Write these bytes (whole messages).
    Send(Bytes),
    /// Write what is queued, then close the connection; events of it no longer matter.
    Close,
    /// For logs and counters.
    Report(Report),
}

/// Everything that happens in a session, in words of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The state changed.
    StateChanged {
        /// Before.
        from: StateName,
        /// After.
        to: StateName,
    },
    /// The session was established.
    Established(Arc<Negotiated>),
    /// No connection came about, or it was lost.
    TransportFailed(String),
    /// A NOTIFICATION was sent; `detail` says what led to it.
    NotificationSent {
        /// The message.
        notification: Notification,
        /// In words.
        detail: String,
    },
    /// The peer ended the session.
    NotificationReceived(Notification),
    /// Routes were handed to the transport.
    RoutesSent {
        /// Number of routes announced.
        announced: usize,
        /// Number of routes withdrawn.
        withdrawn: usize,
        /// UPDATE messages used.
        messages: usize,
    },
    /// An UPDATE arrived.
    UpdateReceived(ReceivedUpdate),
    /// The peer asked for a family again.
    RefreshRequested(Option<Family>),
    /// A route message could not be built; the routes in it were not sent.
    EncodeFailed(EncodeError),
}

/// A session with one peer from one local address.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    state: State,
    state_since: Instant,
    /// The operator wants the session (RFC 4271: started and not stopped).
    wanted: bool,
    timers: Timers,
    jitter: Jitter,
    /// Failures since the last session that lasted; sets the idle hold time.
    failures: u32,
    received: FrameBuffer,
    rib: AdjRibOut,
    /// Families whose initial set is not closed by End-of-RIB yet.
    end_of_rib_due: Vec<Family>,
    unsent_bytes: usize,
    counters: Counters,
    last_error: Option<LastError>,
    outputs: VecDeque<Output>,
}

impl Session {
    /// A session that waits for [`start`](Self::start). `seed` makes the jitter; give each session
    /// its own, so that many do not act in step.
    #[must_use]
    pub fn new(config: SessionConfig, now: Instant, seed: u64) -> Self {
        Self {
            rib: AdjRibOut::new(config.advertisement_interval),
            config,
            state: State::Idle,
            state_since: now,
            wanted: false,
            timers: Timers::default(),
            jitter: Jitter::new(seed),
            failures: 0,
            received: FrameBuffer::default(),
            end_of_rib_due: Vec::new(),
            unsent_bytes: 0,
            counters: Counters::default(),
            last_error: None,
            outputs: VecDeque::new(),
        }
    }

    /// Opens the session: the first attempt at once.
    pub fn start(&mut self, now: Instant) {
        self.wanted = true;
        self.handle(now, Event::Start);
    }

    /// Closes the session: withdraws every route, says why, closes. It stays closed until
    /// [`start`](Self::start).
    pub fn stop(&mut self, now: Instant, notification: Notification) {
        self.wanted = false;
        self.handle(now, Event::Stop(notification));
    }

    /// A configuration change: does not wait for a retry timer when there is no connection.
    pub fn retry_now(&mut self, now: Instant) {
        self.failures = 0;
        self.handle(now, Event::Retry);
    }

    /// Replaces the configuration. Timers take effect without a message; a change of anything that the
    /// OPEN or the connection carries closes the session with 6/6 (RFC 4486) and opens it again.
    pub fn reconfigure(&mut self, now: Instant, config: SessionConfig) {
        if config == self.config {
            return;
        }
        let resets = config.needs_reset(&self.config);
        if resets && self.wanted {
            self.handle(now, Event::Stop(Notification::other_configuration_change()));
        }
        self.rib.set_interval(config.advertisement_interval);
        self.config = config;
        if self.wanted {
            self.failures = 0;
            self.handle(now, if resets { Event::Start } else { Event::Retry });
        }
    }

    /// The connection ends because of something outside BGP's configuration that the peer should be
    /// told about; the session is opened again at once.
    pub fn reset(&mut self, now: Instant, notification: Notification) {
        self.handle(now, Event::Stop(notification));
        if self.wanted {
            self.handle(now, Event::Start);
        }
    }

    /// The whole set of routes the peer should hold.
    pub fn set_routes(&mut self, now: Instant, table: &RouteTable) {
        self.rib.set_desired(table, now);
        self.flush(now);
    }

    /// The connection asked for by [`Output::Connect`] is open (or, when passive, one was accepted).
    pub fn on_connected(&mut self, now: Instant) {
        self.handle(now, Event::Connected);
    }

    /// The connection could not be opened or was lost; `reason` is for the operator.
    pub fn on_transport_failed(&mut self, now: Instant, reason: &str) {
        self.handle(now, Event::TransportFailed(reason.to_owned()));
    }

    /// Bytes arrived.
    pub fn on_bytes(&mut self, now: Instant, bytes: &[u8]) {
        self.received.push(bytes);
        while self.state.has_connection() {
            match self.received.next_message(self.decode_context()) {
                Ok(None) => break,
                Ok(Some(message)) => self.on_message(now, message),
                Err(error) => {
                    self.counters.messages_in += 1;
                    self.handle(now, Event::Malformed(error));
                }
            }
        }
    }

    /// The transport took this many of the bytes handed to it.
    pub fn on_written(&mut self, now: Instant, bytes: usize) {
        self.unsent_bytes = self.unsent_bytes.saturating_sub(bytes);
        self.timers.stop(Timer::SendHold);
        self.flush(now);
    }

    /// Time has passed. Calling it early does no harm.
    pub fn on_deadline(&mut self, now: Instant) {
        while let Some(timer) = self.timers.take_expired(now) {
            self.handle(now, timer.into());
        }
        self.flush(now);
    }

    /// When [`on_deadline`](Self::on_deadline) wants to be called next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let routes = if self.may_send_routes() {
            self.rib.next_deadline()
        } else {
            None
        };
        [self.timers.next(), routes].into_iter().flatten().min()
    }

    /// The next thing to do for the owner.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    fn on_message(&mut self, now: Instant, message: Message) {
        self.counters.messages_in += 1;
        let event = match message {
            Message::Open(open) => Event::Open(open),
            Message::Update(update) => Event::Update(update),
            Message::Notification(notification) => Event::Notification(notification),
            Message::Keepalive => Event::Keepalive,
            Message::RouteRefresh(family) => Event::RouteRefresh(family),
        };
        self.handle(now, event);
    }

    fn handle(&mut self, now: Instant, event: Event) {
        let before = self.state.name();
        let state = std::mem::replace(&mut self.state, State::Idle);
        self.state = self.transition(now, state, event);
        let after = self.state.name();
        if before != after {
            self.state_since = now;
            self.report(Report::StateChanged {
                from: before,
                to: after,
            });
        }
        if let (true, State::Established(peer)) = (before != after, &self.state) {
            let peer = peer.clone();
            self.report(Report::Established(peer));
        }
        self.flush(now);
    }

    fn decode_context(&self) -> DecodeContext {
        let four_octet_as = self
            .state
            .negotiated()
            .is_some_and(|peer| peer.four_octet_as);
        DecodeContext {
            four_octet_as,
            ibgp: self.config.is_ibgp(),
        }
    }

    fn may_send_routes(&self) -> bool {
        matches!(self.state, State::Established(_)) && self.unsent_bytes < UNSENT_BYTES_MAX
    }

    /// Sends what is due, and watches that the peer takes it. Ends every entry point.
    fn flush(&mut self, now: Instant) {
        self.flush_routes(now);
        if self.unsent_bytes > 0
            && !self.timers.is_running(Timer::SendHold)
            && let Some(after) = self.send_hold_time()
        {
            self.timers.set(Timer::SendHold, now + after);
        }
    }

    /// Sends every route difference that is due, then the End-of-RIB markers of the initial set.
    fn flush_routes(&mut self, now: Instant) {
        let State::Established(peer) = &self.state else {
            return;
        };
        if !self.may_send_routes() {
            return;
        }
        let peer = peer.clone();
        let batch = self.rib.take_due(now);
        self.send_batch(now, &peer, &batch);
        for family in std::mem::take(&mut self.end_of_rib_due) {
            match wire::encode_end_of_rib(family) {
                Ok(bytes) => self.send_update(now, &peer, bytes),
                Err(error) => self.report(Report::EncodeFailed(error)),
            }
        }
    }

    fn send_batch(&mut self, now: Instant, peer: &Negotiated, batch: &Batch) {
        if batch.is_empty() {
            return;
        }
        let context = self.config.update_context(peer);
        let withdrawals = batch
            .withdraw
            .iter()
            .map(|(family, list)| wire::encode_withdrawal(*family, list));
        let announcements = batch.announce.iter().map(|((family, attributes), list)| {
            wire::encode_announcement(&context, attributes, *family, list)
        });
        let mut messages = 0;
        for encoded in withdrawals.chain(announcements) {
            match encoded {
                Ok(updates) => {
                    messages += updates.len();
                    updates
                        .into_iter()
                        .for_each(|update| self.send_update(now, peer, update));
                }
                Err(error) => self.report(Report::EncodeFailed(error)),
            }
        }
        let withdrawn = batch.withdraw.values().map(Vec::len).sum();
        let announced = batch.announce.values().map(Vec::len).sum();
        self.report(Report::RoutesSent {
            announced,
            withdrawn,
            messages,
        });
    }

    fn send_update(&mut self, now: Instant, peer: &Negotiated, update: Bytes) {
        self.counters.updates_out += 1;
        self.send(update);
        self.restart_keepalive(now, peer);
    }

    fn send(&mut self, message: Bytes) {
        self.counters.messages_out += 1;
        self.unsent_bytes += message.len();
        self.outputs.push_back(Output::Send(message));
    }

    /// RFC 9687 section 4: "the greater of 8 minutes or 2 times the negotiated HoldTime"; it does not
    /// run when the hold timer does not.
    fn send_hold_time(&self) -> Option<Duration> {
        const SEND_HOLD_MIN: Duration = Duration::from_secs(8 * 60);
        let hold = self.state.negotiated()?.hold_time.duration()?;
        Some(SEND_HOLD_MIN.max(2 * hold))
    }

    /// RFC 4271 section 4.4: a third of the hold time, and never "more frequently than one per second".
    fn restart_keepalive(&mut self, now: Instant, peer: &Negotiated) {
        let Some(interval) = self.config.keepalive_interval(peer.hold_time) else {
            self.timers.stop(Timer::Keepalive);
            return;
        };
        let after = self.jitter.spread(interval).max(Duration::from_secs(1));
        self.timers.set(Timer::Keepalive, now + after);
    }

    fn restart_hold(&mut self, now: Instant, peer: &Negotiated) {
        match peer.hold_time.duration() {
            Some(after) => self.timers.set(Timer::Hold, now + after),
            None => self.timers.stop(Timer::Hold),
        }
    }

    fn report(&mut self, report: Report) {
        self.outputs.push_back(Output::Report(report));
    }

    fn note_error(&mut self, now: Instant, text: String) {
        self.last_error = Some(LastError { at: now, text });
    }
}

#[cfg(test)]
mod tests;
