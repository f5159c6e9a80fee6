//! The task of one session: feeds the core, does what it asks for, publishes its status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bgp::rib_in::LearnedRoute;
use bgp::session::Report;
use bgp::wire::ReceivedUpdate;
use bgp::{Connection as Which, Notification, Output, Session, StateName};
use ipnet::IpNet;
use proto::v1;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tracing::{debug, info, warn};

use super::STATUS_INTERVAL;
use super::md5::Md5Failures;
use super::plan::{SessionKey, SessionPlan};
use super::sparse::Sparse;
use super::status::{WallClock, session_status};
use super::transport::{Connection, Transport, TransportEvent};

/// What the manager wants of a session. Once `stop` is set it stays set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) plan: Arc<SessionPlan>,
    pub(super) stop: Option<Farewell>,
    pub(super) bfd: BfdView,
}

/// How a session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Farewell {
    pub(super) notification: Notification,
    /// The process is about to be replaced: say nothing to a peer that keeps the routes (RFC 4724).
    pub(super) for_restart: bool,
}

/// What BFD says about the path of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct BfdView {
    pub(super) state: BfdState,
    /// How often the path has failed: Up to Down, not by the peer's AdminDown (RFC 5882 section 3.2).
    pub(super) failures: u64,
}

/// As operators see it, see [`BfdState::word`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum BfdState {
    #[default]
    Off,
    WaitingForPeer,
    Up,
    Down,
    AdminDown,
    /// Its sockets or its thread cannot be had; tried again.
    CannotStart,
}

impl BfdState {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::WaitingForPeer => "waiting_for_peer",
            Self::Up => "up",
            Self::Down => "down",
            Self::AdminDown => "admin_down",
            Self::CannotStart => "cannot_start",
        }
    }
}

/// Connections from the listener that wait for this session: one is used, a second one is answered with 6/7.
pub(super) const INCOMING_MAX: usize = 4;

/// Connections of the router that say goodbye at a time: each holds a descriptor and a buffer for a second at most.
const REFUSED_MAX: usize = 8;

/// What a session has learned, by destination.
pub(super) type Learned = BTreeMap<IpNet, LearnedRoute>;

/// Where a session task writes what others want to know; newest values.
pub(super) struct Board {
    pub(super) status: watch::Sender<Arc<v1::BgpSession>>,
    pub(super) learned: watch::Sender<Arc<Learned>>,
    /// Rung after each write.
    pub(super) changed: Arc<Notify>,
}

pub(super) struct SessionTask {
    key: SessionKey,
    plan: Arc<SessionPlan>,
    core: Session,
    opened: Transport,
    accepted: Transport,
    incoming: mpsc::Receiver<TcpStream>,
    /// Connections of ours that flush their last messages; the next one waits for them.
    closing: JoinSet<()>,
    /// The same of connections that the router has opened.
    refused: JoinSet<()>,
    refusals: Sparse,
    mended: Sparse,
    refreshes: Sparse,
    sent: Sparse,
    /// The core asked for a connection while an old one was closing.
    connect_pending: bool,
    bfd: BfdView,
    stopping: bool,
    control: watch::Receiver<Control>,
    status: watch::Sender<Arc<v1::BgpSession>>,
    learned: watch::Sender<Arc<Learned>>,
    status_changed: Arc<Notify>,
    published: Option<Instant>,
    unpublished: bool,
    md5_before: Md5Failures,
    clock: WallClock,
}

impl SessionTask {
    pub(super) fn new(
        key: SessionKey,
        mut control: watch::Receiver<Control>,
        incoming: mpsc::Receiver<TcpStream>,
        board: Board,
        clock: WallClock,
    ) -> Self {
        let Control { plan, bfd, .. } = control.borrow_and_update().clone();
        let core = Session::new(plan.core.clone(), now(), rand::random());
        let Board {
            status,
            learned,
            changed: status_changed,
        } = board;
        Self {
            key,
            plan,
            core,
            opened: Transport::Closed,
            accepted: Transport::Closed,
            incoming,
            closing: JoinSet::new(),
            refused: JoinSet::new(),
            refusals: Sparse::default(),
            mended: Sparse::default(),
            refreshes: Sparse::default(),
            sent: Sparse::default(),
            connect_pending: false,
            bfd,
            stopping: false,
            control,
            status,
            learned,
            status_changed,
            published: None,
            unpublished: true,
            md5_before: Md5Failures::now(),
            clock,
        }
    }

    /// Runs until the manager has said stop and everything is flushed.
    pub(super) async fn run(mut self) {
        self.core.set_routes(now(), &self.plan.routes);
        self.follow_bfd(self.bfd);
        self.core.start(now());
        self.act();
        while !self.is_finished() {
            self.publish();
            self.step().await;
            self.act();
            // A peer that never stops sending must not keep a worker of the runtime from timers and other sockets.
            tokio::task::yield_now().await;
        }
        self.publish();
    }

    fn is_finished(&self) -> bool {
        let flushed = self.closing.is_empty() && self.refused.is_empty();
        self.stopping && flushed && self.core.state() == StateName::Idle
    }

    /// One event. Every branch is cancel-safe: channel and task receives, sleeps, readiness.
    async fn step(&mut self) {
        let deadline = self.core.next_deadline();
        let publish_at = self
            .published
            .filter(|_| self.unpublished)
            .map(|at| at + STATUS_INTERVAL);
        tokio::select! {
            biased;
            changed = self.control.changed(), if !self.stopping => match changed {
                Ok(()) => self.on_control(),
                // The manager is gone without a word: it was dropped, and this task with it soon.
                Err(_) => self.stop(Farewell {
                    notification: Notification::administrative_shutdown(""),
                    for_restart: false,
                }),
            },
            () = sleep_until_some(deadline) => self.on_deadline(),
            event = self.opened.next_event() => self.on_transport(Which::Opened, event),
            event = self.accepted.next_event() => self.on_transport(Which::Accepted, event),
            Some(stream) = self.incoming.recv() => self.on_incoming(stream),
            Some(_) = self.closing.join_next() => {}
            Some(_) = self.refused.join_next() => {}
            () = sleep_until_some(publish_at) => return,
        }
        self.unpublished = true;
    }

    /// A machine that was busy may have kept the peer's messages waiting longer than the timers: they count first.
    fn on_deadline(&mut self) {
        for which in [Which::Opened, Which::Accepted] {
            if let Transport::Open(connection) = self.transport(which)
                && let Some(len) = connection.read_now()
            {
                self.on_transport(which, TransportEvent::Read(len));
            }
        }
        self.core.on_deadline(now());
    }

    fn on_control(&mut self) {
        let Control { plan, stop, bfd } = self.control.borrow_and_update().clone();
        if let Some(farewell) = stop {
            return self.stop(farewell);
        }
        let rewired = plan.transport != self.plan.transport;
        let asked = plan.reset_unix_ms > self.plan.reset_unix_ms;
        self.plan = plan;
        self.core.reconfigure(now(), self.plan.core.clone());
        if rewired {
            self.core
                .reset(now(), Notification::other_configuration_change());
        } else if asked {
            self.core.reset(now(), Notification::administrative_reset());
        }
        self.core.set_routes(now(), &self.plan.routes);
        self.follow_bfd(bfd);
    }

    /// RFC 5882 section 4.1: a path that fails takes the session with it at once, and says 6/10 (RFC 9384). A
    /// path that BFD never called up does not, unless it was asked to be strict.
    fn follow_bfd(&mut self, new: BfdView) {
        let failed = new.failures > self.bfd.failures;
        self.bfd = new;
        let strict = self.plan.bfd.is_some_and(|bfd| bfd.strict);
        let closed = strict && !matches!(new.state, BfdState::Up | BfdState::AdminDown);
        self.core.set_gate(now(), closed);
        if failed {
            self.core.reset(now(), Notification::bfd_down());
        }
    }

    fn stop(&mut self, farewell: Farewell) {
        self.stopping = true;
        if farewell.for_restart {
            self.core.stop_for_restart(now(), farewell.notification);
        } else {
            self.core.stop(now(), farewell.notification);
        }
    }

    fn transport(&mut self, which: Which) -> &mut Transport {
        match which {
            Which::Opened => &mut self.opened,
            Which::Accepted => &mut self.accepted,
        }
    }

    fn on_transport(&mut self, which: Which, event: TransportEvent) {
        match event {
            TransportEvent::Connected(Ok(stream)) => {
                self.opened = Transport::Open(Connection::new(stream));
                self.core.on_connected(now());
            }
            TransportEvent::Read(len) => {
                let transport = match which {
                    Which::Opened => &self.opened,
                    Which::Accepted => &self.accepted,
                };
                if let Transport::Open(connection) = transport {
                    self.core
                        .on_bytes(now(), which, &connection.received()[..len]);
                }
            }
            TransportEvent::Written(len) => self.core.on_written(now(), which, len),
            TransportEvent::Connected(Err(reason)) | TransportEvent::Lost(reason) => {
                *self.transport(which) = Transport::Closed;
                self.core.on_transport_failed(now(), which, &reason);
            }
        }
    }

    /// The router has opened a connection.
    fn on_incoming(&mut self, stream: TcpStream) {
        let (peer, local) = (self.key.peer, self.key.local);
        let mut connection = match Connection::accepted(stream, peer, &self.plan.transport) {
            Ok(connection) => connection,
            Err(error) => return warn!(%peer, %local, %error, "cannot use an accepted connection"),
        };
        if self.core.accepted_is_silent() {
            // The router has forgotten that one, or it would have said something.
            let reason = "the router has opened another connection";
            self.core
                .on_transport_failed(now(), Which::Accepted, reason);
            self.act();
        }
        if !matches!(self.accepted, Transport::Closed) {
            if let Some(others) = self.refusals.pass(now()) {
                info!(%peer, %local, others, "refused: the router has opened a connection already");
            }
            // Beyond that many a connection is closed without a word.
            if self.refused.len() < REFUSED_MAX {
                connection.enqueue(Notification::connection_collision().encode());
                self.refused.spawn(connection.close());
            }
            return;
        }
        self.accepted = Transport::Open(connection);
        self.core.on_accepted(now());
    }

    /// Does what the core asks for until it asks for nothing more.
    fn act(&mut self) {
        loop {
            while let Some(output) = self.core.poll_output() {
                self.perform(output);
            }
            if self.connect_pending && self.closing.is_empty() {
                self.connect_pending = false;
                self.opened.connect(&self.key, &self.plan.transport);
            }
            let wrote = [Which::Opened, Which::Accepted].map(|which| self.write(which));
            if !wrote.contains(&true) {
                return;
            }
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Connect => self.connect_pending = true,
            Output::Send(which, message) => {
                if let Transport::Open(connection) = self.transport(which) {
                    connection.enqueue(message);
                }
            }
            Output::Close(which) => self.close(which),
            Output::Report(Report::LearnedChanged) => {
                self.learned
                    .send_replace(Arc::new(self.core.learned().clone()));
                self.status_changed.notify_one();
            }
            Output::Report(Report::UpdateReceived(update)) => self.log_update(&update),
            Output::Report(report) => self.log(&report),
        }
    }

    fn close(&mut self, which: Which) {
        if which == Which::Opened {
            self.connect_pending = false;
        }
        match std::mem::replace(self.transport(which), Transport::Closed) {
            Transport::Open(connection) => {
                let tasks = match which {
                    Which::Opened => &mut self.closing,
                    Which::Accepted => &mut self.refused,
                };
                tasks.spawn(connection.close());
            }
            Transport::Connecting(_) | Transport::Closed => {}
        }
    }

    /// Writes without waiting; whether the core was told something new.
    fn write(&mut self, which: Which) -> bool {
        let Transport::Open(connection) = self.transport(which) else {
            return false;
        };
        let written = connection.write_now();
        if written > 0 {
            self.core.on_written(now(), which, written);
        }
        written > 0
    }

    /// At once after a change of state, otherwise at most every [`STATUS_INTERVAL`].
    fn publish(&mut self) {
        let state = self.core.state();
        let same_state = self.status.borrow().state == super::status::wire_state(state) as i32;
        let recent = self
            .published
            .is_some_and(|at| now() < at + STATUS_INTERVAL);
        if !self.unpublished || (same_state && recent) {
            return;
        }
        let status = session_status(
            &self.key,
            &self.plan,
            &self.core,
            self.bfd.state,
            Md5Failures::now().since(self.md5_before),
            self.clock,
        );
        self.status.send_replace(Arc::new(status));
        self.status_changed.notify_one();
        self.published = Some(now());
        self.unpublished = false;
    }

    fn log_update(&mut self, update: &ReceivedUpdate) {
        let (peer, local) = (self.key.peer, self.key.local);
        let (announced, withdrawn) = (update.announced.len(), update.withdrawn.len());
        debug!(%peer, %local, announced, withdrawn, treatment = ?update.treatment, "update received");
        if let (Some(fault), Some(raw)) = (update.treatment.fault(), &update.raw)
            && let Some(others) = self.mended.pass(now())
        {
            let message = hex(raw);
            warn!(%peer, %local, fault, prefixes = ?update.withdrawn, others, message, "malformed UPDATE");
        }
    }

    fn log(&mut self, report: &Report) {
        let (peer, local) = (self.key.peer, self.key.local);
        match report {
            Report::StateChanged { from, to } => debug!(%peer, %local, %from, %to, "session state"),
            Report::Established(negotiated) => {
                info!(%peer, %local, router_id = %negotiated.peer_router_id, hold_time_s = negotiated.hold_time.seconds(), "session established");
            }
            Report::TransportFailed(reason) => warn!(%peer, %local, reason, "no connection"),
            Report::NotificationSent {
                notification,
                detail,
            } => {
                info!(%peer, %local, %notification, detail, "session closed by us");
            }
            Report::NotificationReceived(notification) => {
                warn!(%peer, %local, %notification, "session closed by the peer");
            }
            Report::RoutesSent {
                announced,
                withdrawn,
                messages,
            } => {
                if let Some(others) = self.sent.pass(now()) {
                    info!(%peer, %local, announced, withdrawn, messages, others, "routes sent");
                }
            }
            Report::UpdateReceived(_) | Report::LearnedChanged => {}
            Report::RouteRefresh(refresh) => {
                if let Some(others) = self.refreshes.pass(now()) {
                    info!(%peer, %local, ?refresh, others, "route refresh");
                }
            }
            Report::EncodeFailed(error) => warn!(%peer, %local, %error, "cannot encode a message"),
        }
    }
}

/// RFC 7606 section 8: enough of a malformed UPDATE to find its fault, and "the entire malformed UPDATE message".
fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    digits.collect()
}

/// The clock of the runtime, so that tests can steer it.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Never returns when there is nothing to wait for.
pub(super) async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
