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
//!   no DelayOpen, no TrackTcpState, no CollisionDetectEstablishedState;
//! * two connections at a time are one session object, see `rival`;
//! * withdrawals are not delayed, see [`crate::rib`].

mod config;
mod fsm;
mod jitter;
mod rival;
mod status;
mod timers;

pub use config::{RestartConfig, SessionConfig};
pub use fsm::StateName;
pub use status::{Counters, ErrorKind, LastError, Negotiated, RouteStatus, Withheld};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipnet::IpNet;

use crate::rib::{AdjRibOut, Batch, RouteTable};
use crate::rib_in::{AdjRibIn, LearnedRoute};
use crate::types::{Family, FamilySet};
use crate::wire::{
    self, Capability, DecodeContext, EncodeError, Expected, FrameBuffer, Message, Notification,
    ReceivedUpdate, RefreshSubtype, RouteRefresh,
};
use config::Offer;
use fsm::{Event, State};
use jitter::Jitter;
use rival::Rival;
use timers::{Timer, Timers};

/// Route messages are held back while this many bytes wait for the transport: a peer that reads
/// slowly gets the net result later instead of a growing queue here. Ten thousand IPv6 routes fit.
const UNSENT_BYTES_MAX: usize = 256 * 1024;

/// First idle hold time; it doubles with each failure up to the connect retry time.
const IDLE_HOLD_FIRST: Duration = Duration::from_secs(1);

/// The two connections that a session may have at a time, by who opened them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Connection {
    /// Ours, asked for by [`Output::Connect`].
    Opened,
    /// The peer's.
    Accepted,
}

/// What the owner of the session has to do or may want to know, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Open a TCP connection; an attempt still under way is void.
    Connect,
    /// Write these bytes (whole messages).
    Send(Connection, Bytes),
    /// Write what is queued, then close the connection (or give up the attempt); events of it no longer matter.
    Close(Connection),
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
    UpdateReceived(Box<ReceivedUpdate>),
    /// [`Session::learned`] has changed.
    LearnedChanged,
    /// The peer asked for a family again, or demarcates its own refresh.
    RouteRefresh(RouteRefresh),
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
    /// What the state machine runs on, see `rival`.
    connection: Connection,
    received: FrameBuffer,
    rival: Option<Rival>,
    offer: Offer,
    rib: AdjRibOut,
    rib_in: AdjRibIn,
    /// Families whose initial set is not closed by End-of-RIB yet.
    end_of_rib_due: Vec<Family>,
    /// Families that are being sent again, and whose end is to be marked (RFC 7313).
    end_of_refresh_due: Vec<Family>,
    /// When a family was last sent again, and which were asked for too soon after that.
    refreshed: BTreeMap<Family, Instant>,
    refresh_due: BTreeSet<Family>,
    unsent_bytes: usize,
    /// Something outside BGP must agree before the session is established, see [`Session::set_gate`].
    gate_closed: bool,
    /// The peer's KEEPALIVE has come while the gate was closed.
    confirmed: bool,
    counters: Counters,
    last_error: Option<LastError>,
    outputs: VecDeque<Output>,
}

impl Session {
    /// A session that waits for [`start`](Self::start). `seed` makes the jitter; give each session
    /// its own, so that many do not act in step.
    #[must_use]
    pub fn new(config: SessionConfig, now: Instant, seed: u64) -> Self {
        let mut rib_in = AdjRibIn::default();
        rib_in.set_policy(config.learn);
        Self {
            rib: AdjRibOut::new(config.advertisement_interval),
            rib_in,
            config,
            state: State::Idle,
            state_since: now,
            wanted: false,
            timers: Timers::default(),
            jitter: Jitter::new(seed),
            failures: 0,
            connection: Connection::Opened,
            received: FrameBuffer::default(),
            rival: None,
            offer: Offer::default(),
            end_of_rib_due: Vec::new(),
            end_of_refresh_due: Vec::new(),
            refreshed: BTreeMap::new(),
            refresh_due: BTreeSet::new(),
            unsent_bytes: 0,
            gate_closed: false,
            confirmed: false,
            counters: Counters::default(),
            last_error: None,
            outputs: VecDeque::new(),
        }
    }

    /// Opens the session: the first attempt at once.
    pub fn start(&mut self, now: Instant) {
        self.wanted = true;
        self.offer.forget_refusals();
        self.handle(now, Event::Start);
    }

    /// Closes the session: withdraws every route, says why, closes. It stays closed until
    /// [`start`](Self::start).
    pub fn stop(&mut self, now: Instant, notification: Notification) {
        self.wanted = false;
        self.handle(now, Event::Stop(notification));
    }

    /// Ends the session because this process is about to be replaced: a peer with graceful restart
    /// (RFC 4724) keeps the routes, because the connection ends without a NOTIFICATION; any other is told
    /// as in [`stop`](Self::stop).
    pub fn stop_for_restart(&mut self, now: Instant, notification: Notification) {
        let keeps = self.negotiated().is_some_and(|peer| peer.graceful_restart);
        if !keeps || self.state() != StateName::Established {
            return self.stop(now, notification);
        }
        self.wanted = false;
        self.handle(now, Event::Vanish);
    }

    /// While the gate is closed the session comes as far as OpenConfirm and waits there without a KEEPALIVE: for
    /// strict BFD (draft-ietf-idr-bgp-bfd-strict-mode; some routers start BFD with the connection). An established
    /// session is not touched.
    pub fn set_gate(&mut self, now: Instant, closed: bool) {
        let opens = self.gate_closed && !closed;
        self.gate_closed = closed;
        if opens {
            self.handle(now, Event::GateOpened);
        }
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
        if resets {
            self.offer.forget_refusals();
        }
        self.rib.set_interval(config.advertisement_interval);
        let learn = config.learn != self.config.learn;
        self.config = config;
        if learn {
            self.relearn();
        }
        if self.wanted {
            self.failures = 0;
            self.handle(now, if resets { Event::Start } else { Event::Retry });
        }
    }

    /// Another policy: what it lets in that the old one did not has to be sent again (RFC 2918).
    fn relearn(&mut self) {
        let wider = self.rib_in.set_policy(self.config.learn);
        self.report(Report::LearnedChanged);
        let State::Established(peer) = &self.state else {
            return;
        };
        let asks = wider && peer.capabilities.contains(&Capability::RouteRefresh);
        for family in peer.families.clone().into_iter().filter(|_| asks) {
            self.send(wire::encode_route_refresh(family, RefreshSubtype::Request));
        }
    }

    /// The routes of the peer that [`SessionConfig::learn`] keeps.
    #[must_use]
    pub fn learned(&self) -> &BTreeMap<IpNet, LearnedRoute> {
        self.rib_in.routes()
    }

    /// The connection ends because of something outside BGP's configuration that the peer should be
    /// told about; the session is opened again at once.
    pub fn reset(&mut self, now: Instant, notification: Notification) {
        if self.state.has_connection() {
            self.note_notification(now, &notification, "reset from here");
        }
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

    /// The connection asked for by [`Output::Connect`] is open. The peer's connection comes by
    /// [`on_accepted`](Self::on_accepted).
    pub fn on_connected(&mut self, now: Instant) {
        self.connected(now, Connection::Opened);
    }

    fn connected(&mut self, now: Instant, connection: Connection) {
        self.connection = connection;
        self.handle(now, Event::Connected);
    }

    /// The connection could not be opened or was lost; `reason` is for the operator.
    pub fn on_transport_failed(&mut self, now: Instant, connection: Connection, reason: &str) {
        let event = Event::TransportFailed(reason.to_owned());
        if self.is_rival(connection) {
            self.handle_rival(now, event);
        } else if connection == self.connection {
            self.handle(now, event);
        }
    }

    /// Bytes arrived.
    pub fn on_bytes(&mut self, now: Instant, connection: Connection, bytes: &[u8]) {
        match &mut self.rival {
            Some(rival) if connection == Connection::Accepted => rival.received.push(bytes),
            _ if connection == self.connection => self.received.push(bytes),
            // Of a connection that was closed meanwhile.
            _ => return,
        }
        while self.next_message(now, connection) {}
    }

    /// Handles one message of this connection, wherever it stands by now; false when there is none.
    fn next_message(&mut self, now: Instant, connection: Connection) -> bool {
        let context = self.decode_context();
        let next = match &mut self.rival {
            Some(rival) if connection == Connection::Accepted => {
                let expected = rival.expected();
                rival.received.next_message(DecodeContext {
                    four_octet_as: false,
                    extended_message: false,
                    expected,
                    ..context
                })
            }
            _ if connection == self.connection && self.state.has_connection() => {
                self.received.next_message(context)
            }
            _ => return false,
        };
        let event = match next {
            Ok(None) => return false,
            Ok(Some(message)) => message.into(),
            Err(error) => Event::Malformed(error),
        };
        self.counters.messages_in += 1;
        if self.is_rival(connection) {
            self.handle_rival(now, event);
        } else {
            self.handle(now, event);
        }
        true
    }

    fn is_rival(&self, connection: Connection) -> bool {
        self.rival.is_some() && connection == Connection::Accepted
    }

    /// The transport took this many of the bytes handed to it.
    pub fn on_written(&mut self, now: Instant, connection: Connection, bytes: usize) {
        if connection != self.connection {
            return;
        }
        self.unsent_bytes = self.unsent_bytes.saturating_sub(bytes);
        self.timers.stop(Timer::SendHold);
        self.flush(now);
    }

    /// Time has passed. Calling it early does no harm.
    pub fn on_deadline(&mut self, now: Instant) {
        while let Some(timer) = self.timers.take_expired(now) {
            self.handle(now, timer.into());
        }
        while let Some(timer) = self.take_expired_of_rival(now) {
            self.handle_rival(now, timer.into());
        }
        self.send_due_refreshes(now);
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
        let rival = self.rival.as_ref().and_then(|rival| rival.timers.next());
        [self.timers.next(), rival, routes, self.refresh_at()]
            .into_iter()
            .flatten()
            .min()
    }

    fn take_expired_of_rival(&mut self, now: Instant) -> Option<Timer> {
        self.rival.as_mut()?.timers.take_expired(now)
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

    fn handle(&mut self, now: Instant, event: Event) {
        let before = self.state.name();
        let state = std::mem::replace(&mut self.state, State::Idle);
        self.state = self.transition(now, state, event);
        self.note_state(now, before);
        // Ours has failed: the peer's connection takes its place.
        if self.rival.is_some() && matches!(self.state, State::Idle | State::Active) {
            self.promote_rival(now);
        }
        self.flush(now);
    }

    fn note_state(&mut self, now: Instant, before: StateName) {
        let after = self.state.name();
        if before == after {
            return;
        }
        self.state_since = now;
        self.report(Report::StateChanged {
            from: before,
            to: after,
        });
        if let State::Established(peer) = &self.state {
            let peer = peer.clone();
            self.report(Report::Established(peer));
        }
    }

    fn decode_context(&self) -> DecodeContext {
        let peer = self.state.negotiated();
        DecodeContext {
            four_octet_as: peer.is_some_and(|peer| peer.four_octet_as),
            extended_message: peer.is_some_and(|peer| peer.extended_message),
            ibgp: self.config.is_ibgp(),
            families: peer.map_or_else(FamilySet::default, |peer| {
                peer.families.iter().copied().collect()
            }),
            expected: match self.state {
                State::Established(_) => Expected::Routes,
                State::OpenConfirm(_) => Expected::Keepalive,
                State::OpenSent | State::Idle | State::Connect | State::Active => Expected::Open,
            },
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
        let batch = self.rib.take_due(now, self.jitter.draw());
        self.send_batch(now, &peer, &batch);
        // RFC 4724 section 4.1: not before the routes are complete, where the peer keeps the old ones until then.
        let complete = !(peer.graceful_restart && self.config.is_restarting());
        let closed = if complete {
            std::mem::take(&mut self.end_of_rib_due)
        } else {
            Vec::new()
        };
        for family in closed {
            match wire::encode_end_of_rib(family) {
                Ok(bytes) => self.send_update(now, &peer, bytes),
                Err(error) => self.report(Report::EncodeFailed(error)),
            }
        }
        for family in std::mem::take(&mut self.end_of_refresh_due) {
            self.send(wire::encode_route_refresh(family, RefreshSubtype::End));
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
            .map(|(family, list)| wire::encode_withdrawal(*family, context.max_message_len, list));
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
        self.unsent_bytes += message.len();
        self.send_on(self.connection, message);
    }

    fn send_on(&mut self, connection: Connection, message: Bytes) {
        self.counters.messages_out += 1;
        self.outputs.push_back(Output::Send(connection, message));
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
        let after = self.keepalive_after(interval);
        self.timers.set(Timer::Keepalive, now + after);
    }

    fn keepalive_after(&mut self, interval: Duration) -> Duration {
        self.jitter.spread(interval).max(Duration::from_secs(1))
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

    fn note_error(&mut self, now: Instant, kind: ErrorKind, text: String) {
        self.last_error = Some(LastError {
            at: now,
            kind,
            text,
            notification: None,
            received: false,
        });
    }

    fn note_notification(&mut self, now: Instant, notification: &Notification, detail: &str) {
        self.last_error = Some(LastError {
            at: now,
            kind: ErrorKind::Notification,
            text: format!("sent {notification}: {detail}"),
            notification: Some(notification.clone()),
            received: false,
        });
    }
}

impl From<Message> for Event {
    fn from(message: Message) -> Self {
        match message {
            Message::Open(open) => Self::Open(open),
            Message::Update(update) => Self::Update(update),
            Message::Notification(notification) => Self::Notification(notification),
            Message::Keepalive => Self::Keepalive,
            Message::RouteRefresh(refresh) => Self::RouteRefresh(refresh),
            Message::OutOfPlace(kind) => Self::OutOfPlace(kind),
        }
    }
}

#[cfg(test)]
mod tests;
