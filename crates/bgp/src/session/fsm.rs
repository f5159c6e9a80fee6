//! States, events, and the one table that relates them (RFC 4271 section 8.2.2).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::status::Negotiated;
use super::timers::Timer;
use super::{Connection, ErrorKind, IDLE_HOLD_FIRST, LastError, Output, Report, Session};
use crate::rib_in::Ourselves;
use crate::types::{Asn, Family, HoldTime};
use crate::wire::{
    self, Notification, Open, ReceivedUpdate, RefreshSubtype, RouteRefresh, Treatment, WireError,
};

/// RFC 4271 section 8.2.2, OpenSent: "a HoldTimer value of 4 minutes is suggested".
pub(super) const OPEN_HOLD: Duration = Duration::from_secs(4 * 60);

/// A peer that refuses even what is left of our OPEN is asked again once per minute.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// Between two answers to requests for the same family.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);

/// RFC 6608 subcodes of the FSM error.
pub(super) const IN_OPEN_SENT: u8 = 1;
pub(super) const IN_OPEN_CONFIRM: u8 = 2;
const IN_ESTABLISHED: u8 = 3;

/// The name of a state, as operators know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StateName {
    /// No connection, none wanted or none yet.
    Idle,
    /// TCP is being opened.
    Connect,
    /// TCP failed; waiting for the retry or for the peer's connection.
    Active,
    /// Our OPEN is on its way.
    OpenSent,
    /// The peer's OPEN was accepted.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

impl fmt::Display for StateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Idle => "Idle",
            Self::Connect => "Connect",
            Self::Active => "Active",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
        })
    }
}

/// A state with what exists only in it.
#[derive(Debug, Clone)]
pub(super) enum State {
    Idle,
    Connect,
    Active,
    OpenSent,
    OpenConfirm(Arc<Negotiated>),
    Established(Arc<Negotiated>),
}

impl State {
    pub(super) fn name(&self) -> StateName {
        match self {
            Self::Idle => StateName::Idle,
            Self::Connect => StateName::Connect,
            Self::Active => StateName::Active,
            Self::OpenSent => StateName::OpenSent,
            Self::OpenConfirm(_) => StateName::OpenConfirm,
            Self::Established(_) => StateName::Established,
        }
    }

    pub(super) fn has_connection(&self) -> bool {
        match self {
            Self::OpenSent | Self::OpenConfirm(_) | Self::Established(_) => true,
            Self::Idle | Self::Connect | Self::Active => false,
        }
    }

    pub(super) fn negotiated(&self) -> Option<&Arc<Negotiated>> {
        match self {
            Self::OpenConfirm(peer) | Self::Established(peer) => Some(peer),
            Self::Idle | Self::Connect | Self::Active | Self::OpenSent => None,
        }
    }
}

/// What can happen, with the event numbers of RFC 4271 section 8.1.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// 1 and 3 (ManualStart, AutomaticStart); 4 and 5 when passive.
    Start,
    /// 2 and 8 (ManualStop, AutomaticStop), with what the peer is told.
    Stop(Notification),
    /// Ours: the configuration changed, do not wait for a timer.
    Retry,
    /// 9.
    ConnectRetryExpired,
    /// 10.
    HoldExpired,
    /// 11.
    KeepaliveExpired,
    /// 13.
    IdleHoldExpired,
    /// 29 (RFC 9687).
    SendHoldExpired,
    /// 16 and 17.
    Connected,
    /// 18.
    TransportFailed(String),
    /// 19; judged in OpenSent, which may turn it into 22.
    Open(Open),
    /// 21 (header), 22 (OPEN) and 28 (UPDATE).
    Malformed(WireError),
    /// 24 and 25.
    Notification(Notification),
    /// 26.
    Keepalive,
    /// 27.
    Update(Box<ReceivedUpdate>),
    /// RFC 2918, RFC 7313.
    RouteRefresh(RouteRefresh),
    /// 19, 26, 27 or 28 in a state that does not expect the message, which was not looked at; its type.
    OutOfPlace(u8),
    /// Ours: close without a word, so that a peer with graceful restart keeps the routes (RFC 4724).
    Vanish,
    /// Ours: what kept the session in OpenConfirm is gone.
    GateOpened,
}

impl Event {
    /// The type of the message that it stands for; 0 for what is no message.
    pub(super) fn message_type(&self) -> u8 {
        match self {
            Self::Open(_) => wire::OPEN,
            Self::Update(_) => wire::UPDATE,
            Self::Keepalive => wire::KEEPALIVE,
            Self::RouteRefresh(_) => wire::ROUTE_REFRESH,
            Self::OutOfPlace(kind) => *kind,
            _ => 0,
        }
    }
}

impl Session {
    /// The table. Every pair of state and event is written out.
    #[expect(
        clippy::too_many_lines,
        reason = "one flat table, a line or two per pair"
    )]
    pub(super) fn transition(&mut self, now: Instant, state: State, event: Event) -> State {
        use Event as E;
        use State as S;
        match (state, event) {
            // Idle: refuses everything but being started.
            (S::Idle, E::Start | E::Retry | E::IdleHoldExpired) => self.begin(now),
            (S::Idle, E::Stop(_) | E::Vanish) => self.stay_idle(),
            // A connection that arrives in Idle is refused; nothing else can be pending.
            (S::Idle, E::Connected) => self.refuse(),
            (
                S::Idle,
                E::ConnectRetryExpired
                | E::GateOpened
                | E::HoldExpired
                | E::KeepaliveExpired
                | E::SendHoldExpired
                | E::TransportFailed(_)
                | E::Open(_)
                | E::Malformed(_)
                | E::Notification(_)
                | E::Keepalive
                | E::Update(_)
                | E::RouteRefresh(_)
                | E::OutOfPlace(_),
            ) => S::Idle,

            // Connect: TCP is being opened.
            (S::Connect, E::Connected) if self.rival_is_confirmed() => self.yield_to_rival(),
            (S::Connect, E::Connected) => self.send_open(now),
            (S::Connect, E::TransportFailed(reason)) => {
                self.wait_active(now, ErrorKind::ConnectFailed, &reason)
            }
            (S::Connect, E::ConnectRetryExpired) => self.connect_timed_out(now),
            (S::Connect, E::Retry) => self.connect(now),
            (S::Connect, E::Stop(_) | E::Vanish) => self.close_silently(),
            (S::Connect, E::Start) => S::Connect,
            // No connection, so no message; timers of later states do not run.
            (
                S::Connect,
                E::GateOpened
                | E::HoldExpired
                | E::KeepaliveExpired
                | E::IdleHoldExpired
                | E::SendHoldExpired
                | E::Open(_)
                | E::Malformed(_)
                | E::Notification(_)
                | E::Keepalive
                | E::Update(_)
                | E::RouteRefresh(_)
                | E::OutOfPlace(_),
            ) => S::Connect,

            // Active: waiting to try again, or for the peer.
            (S::Active, E::ConnectRetryExpired | E::Retry) => self.begin(now),
            (S::Active, E::Connected) => self.send_open(now),
            (S::Active, E::Stop(_) | E::Vanish) => self.close_silently(),
            (S::Active, E::Start | E::TransportFailed(_)) => S::Active,
            (
                S::Active,
                E::GateOpened
                | E::HoldExpired
                | E::KeepaliveExpired
                | E::IdleHoldExpired
                | E::SendHoldExpired
                | E::Open(_)
                | E::Malformed(_)
                | E::Notification(_)
                | E::Keepalive
                | E::Update(_)
                | E::RouteRefresh(_)
                | E::OutOfPlace(_),
            ) => S::Active,

            // OpenSent: the peer's OPEN is due.
            (S::OpenSent, E::Open(open)) => self.accept_open(now, &open),
            (S::OpenSent | S::OpenConfirm(_) | S::Established(_), E::Vanish) => {
                self.close_silently()
            }
            (S::OpenSent, E::TransportFailed(reason)) => self.lost_before_open(now, &reason),
            (S::OpenSent, E::Stop(notification)) => self.stop_with(notification),
            (S::OpenSent, E::HoldExpired) => self.fail(
                now,
                Notification::hold_timer_expired(),
                "no OPEN within 4 minutes",
            ),
            (S::OpenSent, E::Malformed(error)) => self.fail(now, error.notification, &error.detail),
            (S::OpenSent, E::Notification(notification)) => self.told(now, notification),
            (
                S::OpenSent,
                event @ (E::Keepalive | E::Update(_) | E::RouteRefresh(_) | E::OutOfPlace(_)),
            ) => self.unexpected(now, IN_OPEN_SENT, event.message_type()),
            (
                S::OpenSent,
                E::Start
                | E::GateOpened
                | E::Retry
                | E::Connected
                | E::ConnectRetryExpired
                | E::KeepaliveExpired
                | E::IdleHoldExpired
                | E::SendHoldExpired,
            ) => S::OpenSent,

            // OpenConfirm: the peer's KEEPALIVE is due.
            (S::OpenConfirm(peer), E::Keepalive) if self.gate_closed => {
                self.confirmed = true;
                S::OpenConfirm(peer)
            }
            (S::OpenConfirm(peer), E::Keepalive) => self.establish(now, peer),
            (S::OpenConfirm(peer), E::GateOpened) => self.pass_gate(now, peer),
            (S::OpenConfirm(peer), E::KeepaliveExpired) => {
                self.send_keepalive(now, &peer);
                S::OpenConfirm(peer)
            }
            (S::OpenConfirm(_), E::TransportFailed(reason)) => self.lost(now, &reason),
            (S::OpenConfirm(_), E::Stop(notification)) => self.stop_with(notification),
            (S::OpenConfirm(_), E::HoldExpired) => self.fail(
                now,
                Notification::hold_timer_expired(),
                "no KEEPALIVE within the hold time",
            ),
            (S::OpenConfirm(_) | S::Established(_), E::SendHoldExpired) => self.fail(
                now,
                Notification::send_hold_timer_expired(),
                "the peer does not read",
            ),
            (S::OpenConfirm(_), E::Malformed(error)) => {
                self.fail(now, error.notification, &error.detail)
            }
            (S::OpenConfirm(_), E::Notification(notification)) => self.told(now, notification),
            (
                S::OpenConfirm(_),
                event @ (E::Open(_) | E::Update(_) | E::RouteRefresh(_) | E::OutOfPlace(_)),
            ) => self.unexpected(now, IN_OPEN_CONFIRM, event.message_type()),
            (
                S::OpenConfirm(peer),
                E::Start | E::Retry | E::Connected | E::ConnectRetryExpired | E::IdleHoldExpired,
            ) => S::OpenConfirm(peer),

            // Established.
            (S::Established(peer), E::Keepalive) => {
                self.restart_hold(now, &peer);
                S::Established(peer)
            }
            (S::Established(peer), E::Update(update)) => {
                self.restart_hold(now, &peer);
                self.count_update(now, update);
                S::Established(peer)
            }
            (S::Established(peer), E::RouteRefresh(refresh)) => {
                // RFC 4271 section 4.4 restarts the hold timer for KEEPALIVE and UPDATE only.
                self.refresh(now, &peer, refresh);
                S::Established(peer)
            }
            (S::Established(peer), E::KeepaliveExpired) => {
                self.send_keepalive(now, &peer);
                S::Established(peer)
            }
            (S::Established(_), E::TransportFailed(reason)) => self.lost(now, &reason),
            (S::Established(peer), E::Stop(notification)) => {
                self.withdraw_all(now, &peer);
                self.stop_with(notification)
            }
            (S::Established(_), E::HoldExpired) => self.fail(
                now,
                Notification::hold_timer_expired(),
                "nothing heard within the hold time",
            ),
            (S::Established(_), E::Malformed(error)) => {
                self.fail(now, error.notification, &error.detail)
            }
            (S::Established(_), E::Notification(notification)) => self.told(now, notification),
            (S::Established(_), event @ (E::Open(_) | E::OutOfPlace(_))) => {
                self.unexpected(now, IN_ESTABLISHED, event.message_type())
            }
            (
                S::Established(peer),
                E::GateOpened
                | E::Start
                | E::Retry
                | E::Connected
                | E::ConnectRetryExpired
                | E::IdleHoldExpired,
            ) => S::Established(peer),
        }
    }

    // ---- ways into a connection ----------------------------------------------------------------

    fn begin(&mut self, now: Instant) -> State {
        if !self.wanted {
            return State::Idle;
        }
        if self.config.passive {
            self.timers.stop_all();
            self.connection = Connection::Accepted;
            return State::Active;
        }
        self.connect(now)
    }

    fn connect(&mut self, now: Instant) -> State {
        self.timers.stop_all();
        self.restart_connect_retry(now);
        self.connection = Connection::Opened;
        self.outputs.push_back(Output::Connect);
        State::Connect
    }

    fn connect_timed_out(&mut self, now: Instant) -> State {
        let seconds = self.config.connect_retry.as_secs();
        let text = format!(
            "no answer to the TCP connect within {seconds} s: the peer is away, does not listen, or refuses the MD5 key"
        );
        self.report(Report::TransportFailed(text.clone()));
        self.note_error(now, ErrorKind::ConnectTimedOut, text);
        self.outputs.push_back(Output::Close(self.connection));
        self.connect(now)
    }

    fn wait_active(&mut self, now: Instant, kind: ErrorKind, reason: &str) -> State {
        self.report(Report::TransportFailed(reason.to_owned()));
        self.note_error(now, kind, reason.to_owned());
        self.timers.stop_all();
        if !self.config.passive {
            self.restart_connect_retry(now);
        }
        State::Active
    }

    fn restart_connect_retry(&mut self, now: Instant) {
        let after = self.jitter.spread(self.config.connect_retry);
        self.timers.set(Timer::ConnectRetry, now + after);
    }

    fn send_open(&mut self, now: Instant) -> State {
        self.timers.stop_all();
        self.received.clear();
        self.unsent_bytes = 0;
        match self.config.open(&self.offer).encode() {
            Ok(open) => {
                self.send(open);
                self.timers.set(Timer::Hold, now + OPEN_HOLD);
                State::OpenSent
            }
            Err(error) => {
                self.report(Report::EncodeFailed(error.clone()));
                self.lost(now, &error.to_string())
            }
        }
    }

    fn accept_open(&mut self, now: Instant, open: &Open) -> State {
        match self.judge_open(open) {
            Ok(peer) if self.survives_collision(&peer) => {
                self.confirmed = false;
                self.restart_hold(now, &peer);
                if !self.gate_closed {
                    self.send_keepalive(now, &peer);
                }
                State::OpenConfirm(Arc::new(peer))
            }
            // The rival takes over as soon as this state is left.
            Ok(_) => self.lose_collision(),
            Err(error) => self.fail(now, error.notification, &error.detail),
        }
    }

    /// The peer's connection is nearly up and nothing was said on ours yet: ours goes, whoever has the higher
    /// identifier, because the peer may call its connection established by now.
    fn yield_to_rival(&mut self) -> State {
        self.outputs.push_back(Output::Close(Connection::Opened));
        State::Idle
    }

    fn lose_collision(&mut self) -> State {
        let notification = Notification::connection_collision();
        self.send(notification.encode());
        self.report(Report::NotificationSent {
            notification,
            detail: "the peer's connection stays".to_owned(),
        });
        self.outputs.push_back(Output::Close(self.connection));
        self.release();
        State::Idle
    }

    /// RFC 4271 section 6.2, RFC 6286 section 2.2, RFC 6793 section 4.2.1.
    pub(super) fn judge_open(&self, open: &Open) -> Result<Negotiated, WireError> {
        let refuse = |notification, detail| {
            Err(WireError {
                notification,
                detail,
            })
        };
        let expected = self.config.remote_as;
        // RFC 7607 section 2: AS 0 in the header is as bad as in the capability.
        if open.header_as == 0 {
            return refuse(Notification::bad_peer_as(), "the peer says AS 0".into());
        }
        let Some(peer_as) = Asn::new(open.asn()).filter(|asn| *asn == expected) else {
            let detail = format!(
                "the peer is in AS {}, configured is AS {expected}",
                open.asn()
            );
            return refuse(Notification::bad_peer_as(), detail);
        };
        let id = open.router_id;
        if id.is_unspecified() {
            return refuse(
                Notification::bad_identifier(),
                "the peer's BGP identifier is 0.0.0.0".into(),
            );
        }
        if self.config.is_ibgp() && id == self.config.router_id {
            let detail = format!("the peer has our BGP identifier {id}");
            return refuse(Notification::bad_identifier(), detail);
        }
        // "MUST reject Hold Time values of one or two seconds."
        let Some(offered) = HoldTime::new(open.hold_time_s) else {
            let detail = format!("the peer proposes a hold time of {} s", open.hold_time_s);
            return refuse(Notification::unacceptable_hold_time(), detail);
        };
        Ok(self.config.agree(&self.offer, open, peer_as, offered))
    }

    /// The KEEPALIVE that was held back; the peer's may be here already.
    fn pass_gate(&mut self, now: Instant, peer: Arc<Negotiated>) -> State {
        self.send_keepalive(now, &peer);
        if self.confirmed {
            self.establish(now, peer)
        } else {
            State::OpenConfirm(peer)
        }
    }

    fn establish(&mut self, now: Instant, peer: Arc<Negotiated>) -> State {
        self.counters.established += 1;
        self.drop_rival(Some(Notification::connection_collision()));
        self.restart_hold(now, &peer);
        self.rib.start_session(peer.families.iter().copied());
        self.end_of_rib_due.clone_from(&peer.families);
        State::Established(peer)
    }

    // ---- within a connection -------------------------------------------------------------------

    fn send_keepalive(&mut self, now: Instant, peer: &Negotiated) {
        self.send(wire::encode_keepalive());
        self.restart_keepalive(now, peer);
    }

    fn count_update(&mut self, now: Instant, update: Box<ReceivedUpdate>) {
        self.counters.updates_in += 1;
        self.counters.prefixes_in += update.announced.len() as u64;
        match &update.treatment {
            Treatment::Accepted => {}
            Treatment::AttributeDiscard(detail) => {
                self.counters.attributes_discarded += 1;
                self.note_error(
                    now,
                    ErrorKind::Update,
                    format!("UPDATE with a discarded attribute: {detail}"),
                );
            }
            Treatment::TreatAsWithdraw(detail) => {
                self.counters.treated_as_withdraw += 1;
                self.note_error(
                    now,
                    ErrorKind::Update,
                    format!("UPDATE treated as withdraw: {detail}"),
                );
            }
        }
        let addresses = self.config.addresses();
        let ourselves = Ourselves {
            asn: self.config.local_as,
            addresses: &addresses,
        };
        let learned = self.rib_in.update(ourselves, &update);
        self.report(Report::UpdateReceived(update));
        if learned {
            self.report(Report::LearnedChanged);
        }
    }

    fn refresh(&mut self, now: Instant, peer: &Negotiated, refresh: RouteRefresh) {
        self.report(Report::RouteRefresh(refresh));
        if self.rib_in.demarcation(refresh) {
            self.report(Report::LearnedChanged);
        }
        let RouteRefresh::Request(Some(family)) = refresh else {
            return;
        };
        if !peer.families.contains(&family) {
            return;
        }
        match self.refreshed.get(&family) {
            // Whoever asks without end gets everything once per second.
            Some(at) if now < *at + REFRESH_PAUSE => drop(self.refresh_due.insert(family)),
            _ => self.send_again(now, family, peer.enhanced_refresh),
        }
    }

    fn send_again(&mut self, now: Instant, family: Family, demarcated: bool) {
        self.refreshed.insert(family, now);
        self.rib.refresh(family);
        // A family that is still being sent again needs no second beginning.
        if demarcated && !self.end_of_refresh_due.contains(&family) {
            self.send(wire::encode_route_refresh(family, RefreshSubtype::Begin));
            self.end_of_refresh_due.push(family);
        }
    }

    /// When a family that was asked for too soon is sent again.
    pub(super) fn refresh_at(&self) -> Option<Instant> {
        let times = self
            .refresh_due
            .iter()
            .filter_map(|family| self.refreshed.get(family));
        times.map(|at| *at + REFRESH_PAUSE).min()
    }

    pub(super) fn send_due_refreshes(&mut self, now: Instant) {
        let State::Established(peer) = &self.state else {
            return;
        };
        let demarcated = peer.enhanced_refresh;
        if self.refresh_at().is_some_and(|at| at <= now) {
            for family in std::mem::take(&mut self.refresh_due) {
                self.send_again(now, family, demarcated);
            }
        }
    }

    fn withdraw_all(&mut self, now: Instant, peer: &Negotiated) {
        let batch = self.rib.take_withdraw_all();
        self.send_batch(now, peer, &batch);
    }

    // ---- ways out of a connection --------------------------------------------------------------

    fn refuse(&mut self) -> State {
        self.outputs.push_back(Output::Close(self.connection));
        State::Idle
    }

    fn stay_idle(&mut self) -> State {
        self.timers.stop_all();
        State::Idle
    }

    fn close_silently(&mut self) -> State {
        self.drop_rival(None);
        self.outputs.push_back(Output::Close(self.connection));
        self.release();
        State::Idle
    }

    fn stop_with(&mut self, notification: Notification) -> State {
        self.drop_rival(Some(notification.clone()));
        self.send(notification.encode());
        self.report(Report::NotificationSent {
            notification,
            detail: "stopped".to_owned(),
        });
        self.close_silently()
    }

    fn unexpected(&mut self, now: Instant, subcode: u8, kind: u8) -> State {
        let name = match kind {
            wire::OPEN => "OPEN",
            wire::UPDATE => "UPDATE",
            wire::KEEPALIVE => "KEEPALIVE",
            wire::ROUTE_REFRESH => "ROUTE-REFRESH",
            _ => "message",
        };
        let detail = format!("{name} out of place");
        self.fail(now, Notification::fsm_error(subcode, kind), &detail)
    }

    /// We end the session because of an error: tell the peer, close, try again later.
    fn fail(&mut self, now: Instant, notification: Notification, detail: &str) -> State {
        self.send(notification.encode());
        self.note_notification(now, &notification, detail);
        self.report(Report::NotificationSent {
            notification,
            detail: detail.to_owned(),
        });
        self.outputs.push_back(Output::Close(self.connection));
        self.idle_for_a_while(now)
    }

    /// The peer ended the session: "no reply", close, try again later.
    fn told(&mut self, now: Instant, notification: Notification) -> State {
        self.last_error = Some(LastError {
            at: now,
            kind: ErrorKind::Notification,
            text: format!("received {notification}"),
            notification: Some(notification.clone()),
            received: true,
        });
        let refused_again =
            notification.refuses_optional() && !self.offer.learn_refusal(&notification);
        self.report(Report::NotificationReceived(notification));
        self.outputs.push_back(Output::Close(self.connection));
        let idle = self.idle_for_a_while(now);
        if refused_again && self.wanted {
            self.timers.set(Timer::IdleHold, now + REFUSED_PAUSE);
        }
        idle
    }

    fn lost(&mut self, now: Instant, reason: &str) -> State {
        self.report(Report::TransportFailed(reason.to_owned()));
        self.note_error(now, ErrorKind::ConnectionLost, reason.to_owned());
        self.outputs.push_back(Output::Close(self.connection));
        self.idle_for_a_while(now)
    }

    /// RFC 4271 section 8.2.2, OpenSent, event 18: back to Active.
    fn lost_before_open(&mut self, now: Instant, reason: &str) -> State {
        self.outputs.push_back(Output::Close(self.connection));
        self.release();
        self.wait_active(
            now,
            ErrorKind::ClosedBeforeOpen,
            &format!(
                "{reason} (before the peer's OPEN: it may not know this address as a neighbor)"
            ),
        )
    }

    pub(super) fn release(&mut self) {
        self.timers.stop_all();
        self.received.clear();
        self.rib.end_session();
        if !self.rib_in.routes().is_empty() {
            self.rib_in.clear();
            self.report(Report::LearnedChanged);
        }
        self.end_of_rib_due.clear();
        self.end_of_refresh_due.clear();
        self.refreshed.clear();
        self.refresh_due.clear();
        self.unsent_bytes = 0;
    }

    /// DampPeerOscillations: the idle hold time doubles up to the connect retry time, and starts anew
    /// after a state that lasted longer than that.
    fn idle_for_a_while(&mut self, now: Instant) -> State {
        let lasted = now.saturating_duration_since(self.state_since);
        if lasted >= self.config.connect_retry {
            self.failures = 0;
        }
        // The peer may have learned to understand more of our OPEN; asked again at most once per minute.
        if lasted >= REFUSED_PAUSE {
            self.offer.forget_refusals();
        }
        let doubled = IDLE_HOLD_FIRST * (1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        self.release();
        if self.wanted {
            let after = self.jitter.spread(doubled.min(self.config.connect_retry));
            self.timers.set(Timer::IdleHold, now + after);
        }
        State::Idle
    }
}
