//! The task of one session: feeds the core, does what it asks for, publishes its status.

use std::sync::Arc;
use std::time::Instant;

use bgp::session::Report;
use bgp::{Notification, Output, RouteTable, Session, StateName};
use proto::v1;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tracing::{debug, info, warn};

use super::STATUS_INTERVAL;
use super::plan::{SessionKey, SessionPlan};
use super::status::{WallClock, session_status};
use super::transport::{Connection, Transport, TransportEvent};

/// What the manager wants of a session. Once `stop` is set it stays set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) plan: Arc<SessionPlan>,
    pub(super) stop: Option<Notification>,
}

pub(super) struct SessionTask {
    key: SessionKey,
    plan: Arc<SessionPlan>,
    core: Session,
    transport: Transport,
    /// Connections that flush their last messages.
    closing: JoinSet<()>,
    /// The core asked for a connection while an old one was closing.
    connect_pending: bool,
    stopping: bool,
    control: watch::Receiver<Control>,
    status: watch::Sender<Arc<v1::BgpSession>>,
    status_changed: Arc<Notify>,
    published: Option<Instant>,
    unpublished: bool,
    clock: WallClock,
}

impl SessionTask {
    pub(super) fn new(
        key: SessionKey,
        mut control: watch::Receiver<Control>,
        status: watch::Sender<Arc<v1::BgpSession>>,
        status_changed: Arc<Notify>,
        clock: WallClock,
    ) -> Self {
        let plan = control.borrow_and_update().plan.clone();
        let core = Session::new(plan.core.clone(), now(), rand::random());
        Self {
            key,
            plan,
            core,
            transport: Transport::Closed,
            closing: JoinSet::new(),
            connect_pending: false,
            stopping: false,
            control,
            status,
            status_changed,
            published: None,
            unpublished: true,
            clock,
        }
    }

    /// Runs until the manager has said stop and everything is flushed.
    pub(super) async fn run(mut self) {
        self.core.start(now());
        self.set_routes();
        self.act();
        while !self.is_finished() {
            self.publish();
            self.step().await;
            self.act();
        }
        self.publish();
    }

    fn is_finished(&self) -> bool {
        self.stopping && self.closing.is_empty() && self.core.state() == StateName::Idle
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
                Err(_) => self.stop(Notification::administrative_shutdown("")),
            },
            () = sleep_until_some(deadline) => self.core.on_deadline(now()),
            event = self.transport.next_event() => self.on_transport(event),
            Some(_) = self.closing.join_next() => {}
            () = sleep_until_some(publish_at) => return,
        }
        self.unpublished = true;
    }

    fn on_control(&mut self) {
        let Control { plan, stop } = self.control.borrow_and_update().clone();
        if let Some(notification) = stop {
            return self.stop(notification);
        }
        let rewired = plan.transport != self.plan.transport;
        self.plan = plan;
        self.core.reconfigure(now(), self.plan.core.clone());
        if rewired {
            self.core
                .reset(now(), Notification::other_configuration_change());
        }
        self.set_routes();
    }

    fn stop(&mut self, notification: Notification) {
        self.stopping = true;
        self.core.stop(now(), notification);
    }

    fn set_routes(&mut self) {
        let none = RouteTable::new();
        let table = if self.plan.advertise_vip {
            &*self.plan.routes
        } else {
            &none
        };
        self.core.set_routes(now(), table);
    }

    fn on_transport(&mut self, event: TransportEvent) {
        match event {
            TransportEvent::Connected(Ok(stream)) => {
                self.transport = Transport::Open(Connection::new(stream));
                self.core.on_connected(now());
            }
            TransportEvent::Read(len) => {
                if let Transport::Open(connection) = &self.transport {
                    self.core.on_bytes(now(), &connection.received()[..len]);
                }
            }
            TransportEvent::Written(len) => self.core.on_written(now(), len),
            TransportEvent::Connected(Err(reason)) | TransportEvent::Lost(reason) => {
                self.transport = Transport::Closed;
                self.core.on_transport_failed(now(), &reason);
            }
        }
    }

    /// Does what the core asks for until it asks for nothing more.
    fn act(&mut self) {
        loop {
            while let Some(output) = self.core.poll_output() {
                self.perform(output);
            }
            if self.connect_pending && self.closing.is_empty() {
                self.connect_pending = false;
                self.transport.connect(&self.key, &self.plan.transport);
            }
            if !self.write() {
                return;
            }
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Connect => self.connect_pending = true,
            Output::Send(message) => {
                if let Transport::Open(connection) = &mut self.transport {
                    connection.enqueue(message);
                }
            }
            Output::Close => self.close(),
            Output::Report(report) => self.log(&report),
        }
    }

    fn close(&mut self) {
        self.connect_pending = false;
        match std::mem::replace(&mut self.transport, Transport::Closed) {
            Transport::Open(connection) => {
                self.closing.spawn(connection.close());
            }
            Transport::Connecting(_) | Transport::Closed => {}
        }
    }

    /// Writes without waiting; whether the core was told something new.
    fn write(&mut self) -> bool {
        let Transport::Open(connection) = &mut self.transport else {
            return false;
        };
        let written = connection.write_now();
        if written > 0 {
            self.core.on_written(now(), written);
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
        self.status.send_replace(Arc::new(session_status(
            &self.key, &self.plan, &self.core, self.clock,
        )));
        self.status_changed.notify_one();
        self.published = Some(now());
        self.unpublished = false;
    }

    fn log(&self, report: &Report) {
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
                info!(%peer, %local, announced, withdrawn, messages, "routes sent");
            }
            Report::UpdateReceived(update) => {
                debug!(%peer, %local, announced = update.announced.len(), withdrawn = update.withdrawn.len(), treatment = ?update.treatment, "update received");
            }
            Report::RefreshRequested(family) => {
                info!(%peer, %local, ?family, "route refresh requested")
            }
            Report::EncodeFailed(error) => warn!(%peer, %local, %error, "cannot encode a message"),
        }
    }
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
