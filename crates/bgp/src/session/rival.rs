//! The second connection of a session, and connection collision (RFC 4271 section 6.8).
//!
//! Both sides may open a connection at the same time. The state machine runs on one of them; the peer's,
//! accepted while ours is under way, waits here as the *rival* until the peer's OPEN has come on both, or one of the
//! two is confirmed. Then the identifiers decide, alike on both sides: the connection that the speaker with the
//! higher identifier has opened stays, with equal identifiers that of the higher AS (RFC 6286 section 2.3).
//!
//! * A connection on which the peer has said nothing yet decides nothing: it may be all that will ever come of it.
//! * When ours fails, the rival takes its place: a session comes about in either direction.
//! * An established session is not disturbed: a connection that arrives then is closed with 6/7.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fsm::{Event, IN_OPEN_CONFIRM, IN_OPEN_SENT, OPEN_HOLD, State};
use super::status::Negotiated;
use super::timers::{Timer, Timers};
use super::{Connection, ErrorKind, Output, Report, Session};
use crate::wire::{self, Expected, FrameBuffer, Notification, Open};

/// An accepted connection beside the one that the state machine runs on.
#[derive(Debug)]
pub(super) struct Rival {
    stage: Stage,
    pub(super) received: FrameBuffer,
    pub(super) timers: Timers,
}

#[derive(Debug)]
enum Stage {
    OpenSent,
    OpenConfirm(Arc<Negotiated>),
}

impl Rival {
    /// What may come on it now.
    pub(super) fn expected(&self) -> Expected {
        match self.stage {
            Stage::OpenSent => Expected::Open,
            Stage::OpenConfirm(_) => Expected::Keepalive,
        }
    }
}

/// Which of two connections stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Winner {
    Ours,
    Rival,
}

impl Session {
    /// The peer has opened a connection to us and it was accepted. Only one accepted connection at a time is
    /// told to the session: answer a further one with [`Notification::connection_collision`] and close it.
    pub fn on_accepted(&mut self, now: Instant) {
        match self.state {
            State::Active => self.connected(now, Connection::Accepted),
            State::Connect | State::OpenSent | State::OpenConfirm(_) => self.add_rival(now),
            State::Established(ref peer) if peer.restarts_gracefully => self.replace(now),
            State::Established(_) => {
                self.reject_accepted(Some(Notification::connection_collision()));
                self.probe(now);
            }
            State::Idle => self.reject_accepted(None),
        }
        self.flush(now);
    }

    /// RFC 4724 section 5: the peer has restarted; the old connection is closed "without a NOTIFICATION", and the
    /// new one is taken. It keeps routes of ours if it has said so, and gets all of them again.
    fn replace(&mut self, now: Instant) {
        self.note_error(
            now,
            ErrorKind::ConnectionLost,
            "the peer has restarted: it has opened a new connection".to_owned(),
        );
        let before = self.state.name();
        self.outputs.push_back(Output::Close(self.connection));
        self.release();
        self.state = State::Active;
        self.note_state(now, before);
        self.connected(now, Connection::Accepted);
    }

    /// A peer that opens a second connection may have lost the first without our noticing: a KEEPALIVE on it is
    /// answered with a reset then. No sooner than a second from now (RFC 4271 section 4.4).
    fn probe(&mut self, now: Instant) {
        let at = now + Duration::from_secs(1);
        self.timers.bring_forward(Timer::Keepalive, at);
    }

    /// The peer's connection is open, and the peer has said nothing on it.
    #[must_use]
    pub fn accepted_is_silent(&self) -> bool {
        match &self.rival {
            Some(rival) => matches!(rival.stage, Stage::OpenSent),
            None => {
                self.connection == Connection::Accepted && matches!(self.state, State::OpenSent)
            }
        }
    }

    fn reject_accepted(&mut self, notification: Option<Notification>) {
        if let Some(notification) = notification {
            self.send_on(Connection::Accepted, notification.encode());
        }
        self.outputs.push_back(Output::Close(Connection::Accepted));
    }

    fn add_rival(&mut self, now: Instant) {
        match self.config.open(&self.offer).encode() {
            Ok(open) => self.send_on(Connection::Accepted, open),
            Err(error) => {
                self.report(Report::EncodeFailed(error));
                return self.reject_accepted(None);
            }
        }
        let mut timers = Timers::default();
        timers.set(Timer::Hold, now + OPEN_HOLD);
        self.rival = Some(Rival {
            stage: Stage::OpenSent,
            received: FrameBuffer::default(),
            timers,
        });
    }

    /// An event of the rival. Whatever goes wrong ends it alone.
    pub(super) fn handle_rival(&mut self, now: Instant, event: Event) {
        let Some(rival) = &self.rival else {
            return;
        };
        let confirmed = match &rival.stage {
            Stage::OpenSent => None,
            Stage::OpenConfirm(peer) => Some(peer.clone()),
        };
        match (confirmed, event) {
            (None, Event::Open(open)) => self.rival_opened(now, &open),
            (Some(_), Event::Keepalive) => {
                self.supplant(now);
                self.handle(now, Event::Keepalive);
            }
            (Some(peer), Event::KeepaliveExpired) => self.rival_keepalive(now, &peer),
            (_, Event::TransportFailed(reason)) => {
                self.report(Report::TransportFailed(reason));
                self.drop_rival(None);
            }
            (_, Event::Notification(notification)) => {
                self.report(Report::NotificationReceived(notification));
                self.drop_rival(None);
            }
            (_, Event::HoldExpired) => self.drop_rival(Some(Notification::hold_timer_expired())),
            (_, Event::Malformed(error)) => self.drop_rival(Some(error.notification)),
            (
                None,
                event @ (Event::Keepalive
                | Event::Update(_)
                | Event::RouteRefresh(_)
                | Event::OutOfPlace(_)),
            ) => {
                let error = Notification::fsm_error(IN_OPEN_SENT, event.message_type());
                self.drop_rival(Some(error));
            }
            (
                Some(_),
                event @ (Event::Open(_)
                | Event::Update(_)
                | Event::RouteRefresh(_)
                | Event::OutOfPlace(_)),
            ) => {
                let error = Notification::fsm_error(IN_OPEN_CONFIRM, event.message_type());
                self.drop_rival(Some(error));
            }
            // These belong to the state machine; a rival has no such timer and takes no orders.
            (
                _,
                Event::Start
                | Event::Stop(_)
                | Event::Retry
                | Event::Vanish
                | Event::GateOpened
                | Event::Connected
                | Event::ConnectRetryExpired
                | Event::IdleHoldExpired
                | Event::SendHoldExpired,
            )
            | (None, Event::KeepaliveExpired) => {}
        }
    }

    /// The peer's OPEN has come on it.
    pub(super) fn rival_is_confirmed(&self) -> bool {
        let stage = self.rival.as_ref().map(|rival| &rival.stage);
        matches!(stage, Some(Stage::OpenConfirm(_)))
    }

    fn rival_opened(&mut self, now: Instant, open: &Open) {
        let peer = match self.judge_open(open) {
            Ok(peer) => Arc::new(peer),
            Err(error) => {
                self.note_error(
                    now,
                    ErrorKind::Notification,
                    format!("sent {}: {}", error.notification, error.detail),
                );
                return self.drop_rival(Some(error.notification));
            }
        };
        let collides = matches!(self.state, State::OpenConfirm(_)) || self.gate_closed;
        if collides && self.state.has_connection() && self.winner(&peer) == Winner::Ours {
            return self.drop_rival(Some(Notification::connection_collision()));
        }
        if !self.gate_closed {
            self.rival_keepalive(now, &peer);
        }
        if let Some(rival) = &mut self.rival {
            if let Some(after) = peer.hold_time.duration() {
                rival.timers.set(Timer::Hold, now + after);
            } else {
                rival.timers.stop(Timer::Hold);
            }
            rival.stage = Stage::OpenConfirm(peer);
        }
        // Behind a closed gate it waits as the connection of the state machine, which knows how.
        if collides {
            self.supplant(now);
        }
    }

    fn rival_keepalive(&mut self, now: Instant, peer: &Negotiated) {
        self.send_on(Connection::Accepted, wire::encode_keepalive());
        let interval = self.config.keepalive_interval(peer.hold_time);
        let after = interval.map(|interval| self.keepalive_after(interval));
        if let (Some(rival), Some(after)) = (&mut self.rival, after) {
            rival.timers.set(Timer::Keepalive, now + after);
        }
    }

    /// The peer's OPEN has come on our connection: whether it stays. RFC 4271 section 6.8 looks at "connections
    /// that are in the OpenConfirm state"; behind a closed gate the first OPEN decides.
    pub(super) fn survives_collision(&mut self, peer: &Negotiated) -> bool {
        if !self.rival_is_confirmed() && !self.gate_closed {
            return true;
        }
        let ours = self.rival.is_none() || self.winner(peer) == Winner::Ours;
        if ours {
            self.drop_rival(Some(Notification::connection_collision()));
        }
        ours
    }

    /// RFC 4271 section 6.8, RFC 6286 section 2.3.
    fn winner(&self, peer: &Negotiated) -> Winner {
        let ours = (u32::from(self.config.router_id), self.config.local_as);
        let theirs = (u32::from(peer.peer_router_id), peer.peer_as);
        if ours > theirs {
            Winner::Ours
        } else {
            Winner::Rival
        }
    }

    /// Ends the rival, with a word to the peer if there is one.
    pub(super) fn drop_rival(&mut self, notification: Option<Notification>) {
        if self.rival.take().is_some() {
            if let Some(notification) = &notification {
                self.report(Report::NotificationSent {
                    notification: notification.clone(),
                    detail: "second connection".to_owned(),
                });
            }
            self.reject_accepted(notification);
        }
    }

    /// The rival wins: our connection, or the attempt at one, is given up.
    pub(super) fn supplant(&mut self, now: Instant) {
        if self.state.has_connection() {
            self.send_on(
                self.connection,
                Notification::connection_collision().encode(),
            );
        }
        self.outputs.push_back(Output::Close(Connection::Opened));
        self.promote_rival(now);
    }

    /// The rival becomes the connection of the state machine; ours is gone.
    pub(super) fn promote_rival(&mut self, now: Instant) {
        let Some(rival) = self.rival.take() else {
            return;
        };
        let before = self.state.name();
        self.timers = rival.timers;
        self.received = rival.received;
        self.unsent_bytes = 0;
        self.connection = Connection::Accepted;
        self.confirmed = false;
        self.state = match rival.stage {
            Stage::OpenSent => State::OpenSent,
            Stage::OpenConfirm(peer) => State::OpenConfirm(peer),
        };
        self.note_state(now, before);
    }
}
