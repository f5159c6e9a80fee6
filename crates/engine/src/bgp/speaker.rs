//! The manager: keeps the session tasks equal to the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bgp::Notification;
use proto::v1;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};
use tracing::{error, info};

use super::learn::{self, BestRoutes, Source};
use super::listener::{ACCEPTED_MAX, Accepted, Demand, Demands, Listeners};
use super::plan::{Plan, SessionKey, SessionPlan, router_id};
use super::session::{
    BfdView, Board, Control, Farewell, INCOMING_MAX, Learned, SessionTask, now, sleep_until_some,
};
use super::sparse::Sparse;
use super::status::{WallClock, absent_status, learned_routes, unneeded_status};
use super::watch::{BfdNews, MonitorCell, Watch};
use super::{BgpDesired, DRAIN_SETTLE, SESSION_LINGER};
use crate::bfd::BfdMonitor;
use crate::fib::{self, Origin, Routes};

/// Shutdown is asked for once; a second request waits for the same end.
const SHUTDOWN_REQUESTS: usize = 1;

/// After a local address that could not be listened on.
const LISTEN_AGAIN: Duration = Duration::from_secs(10);

/// How long a key whose task has died stays without a new one.
const RESPAWN_DELAY: Duration = Duration::from_secs(1);

/// All sessions, in the order of peer and interface.
type Sessions = Arc<Vec<v1::BgpSession>>;

/// Learned routes in force, by destination.
type LearnedRoutes = Arc<Vec<v1::LearnedRoute>>;

struct Shutdown {
    text: String,
    done: oneshot::Sender<()>,
}

/// Speaks BGP for the engine.
pub struct Speaker {
    desired: watch::Receiver<Arc<BgpDesired>>,
    shutdown: mpsc::Receiver<Shutdown>,
    status: watch::Sender<Sessions>,
    status_changed: Arc<Notify>,
    clock: WallClock,
    listeners: Listeners,
    refusals: Sparse,
    accepted: mpsc::Receiver<Accepted>,
    listen_again_at: Option<Instant>,
    best: BestRoutes,
    bfd: Watch,
    fib: watch::Sender<Routes>,
    fib_task: JoinHandle<()>,
    fib_failures: watch::Receiver<fib::Failures>,
    learned: watch::Sender<LearnedRoutes>,
    plan: Plan,
    router_id: Option<Ipv4Addr>,
    running: BTreeMap<SessionKey, Running>,
    /// Told to stop and not ended yet.
    retiring: BTreeSet<SessionKey>,
    tasks: JoinSet<()>,
    keys: BTreeMap<Id, SessionKey>,
    linger: Duration,
    /// When sessions end because no virtual service needs them any more.
    linger_until: Option<Instant>,
    drain: Drain,
    respawn_at: Option<Instant>,
    absent_since_unix_ms: u64,
}

/// Where the engine stands on its way out (RFC 8326).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drain {
    No,
    /// Routes are marked until then.
    Marked(Instant),
    /// Routes are withdrawn.
    Over,
}

impl Drain {
    /// The mark asks routers to move traffic before the routes go; where no router has them there is nothing to
    /// mark. Enabled again, the routes are back at once.
    fn next(self, desired: &BgpDesired, has_sessions: bool, now: Instant) -> Self {
        match self {
            _ if !desired.draining => Self::No,
            Self::No if has_sessions => Self::Marked(now + mark_time(desired)),
            Self::No => Self::Over,
            Self::Marked(_) | Self::Over => self,
        }
    }

    fn until(self) -> Option<Instant> {
        match self {
            Self::Marked(until) => Some(until),
            Self::No | Self::Over => None,
        }
    }
}

fn mark_time(desired: &BgpDesired) -> Duration {
    let peers = desired.profile.iter().flat_map(|profile| &profile.peers);
    let intervals = peers.map(|peer| peer.advertisement_interval_s);
    DRAIN_SETTLE + Duration::from_secs(intervals.max().unwrap_or(0).into())
}

struct Running {
    control: watch::Sender<Control>,
    incoming: mpsc::Sender<TcpStream>,
    status: watch::Receiver<Arc<v1::BgpSession>>,
    learned: watch::Receiver<Arc<Learned>>,
}

/// Steers a [`Speaker`]. Dropping the last handle ends it without farewell, see [`crate::bgp`].
pub struct SpeakerHandle {
    desired: watch::Sender<Arc<BgpDesired>>,
    shutdown: mpsc::Sender<Shutdown>,
    status: watch::Receiver<Sessions>,
    learned: watch::Receiver<LearnedRoutes>,
    bfd: MonitorCell,
    manager: JoinHandle<()>,
}

impl SpeakerHandle {
    /// The whole desired state. Returns at once; the same value again does nothing.
    pub fn apply(&self, desired: BgpDesired) {
        self.desired.send_if_modified(|current| {
            let changed = **current != desired;
            if changed {
                *current = Arc::new(desired);
            }
            changed
        });
    }

    /// Every session and every peer without one, newest value.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Sessions> {
        self.status.clone()
    }

    /// Routes learned from peers whose label asks for it, newest value.
    #[must_use]
    pub fn learned(&self) -> watch::Receiver<LearnedRoutes> {
        self.learned.clone()
    }

    /// The BFD sessions that watch the paths of the peers with `bfd`; `None` before the first of them.
    #[must_use]
    pub fn bfd(&self) -> Option<BfdMonitor> {
        self.bfd.get().cloned()
    }

    /// Where the answer of [`Self::bfd`] appears.
    pub(crate) fn bfd_cell(&self) -> Arc<OnceLock<BfdMonitor>> {
        self.bfd.clone()
    }

    /// Withdraws all routes, tells each peer Cease / Administrative Shutdown with this text (RFC 9003),
    /// closes. Returns when all of it is flushed, or at the deadline at the latest, when what is left is
    /// cut off.
    pub async fn shutdown(self, text: &str, deadline: Duration) {
        let (done, ended) = oneshot::channel();
        let request = Shutdown {
            text: text.to_owned(),
            done,
        };
        let farewell = async {
            if self.shutdown.send(request).await.is_ok() {
                // An error means that the manager is gone, and so are the sessions.
                let _ = ended.await;
            }
        };
        let in_time = tokio::time::timeout(deadline, farewell).await.is_ok();
        info!(in_time, "BGP speaker stopped");
        self.manager.abort();
    }
}

impl Running {
    /// The smallest TTL that the peer's packets may have; 0 = any.
    fn min_ttl(&self) -> u8 {
        self.control.borrow().plan.transport.min_ttl
    }
}

impl Speaker {
    /// Starts the manager on the current runtime; it opens nothing before
    /// [`SpeakerHandle::apply`].
    #[must_use]
    pub fn spawn() -> SpeakerHandle {
        Self::spawn_with_linger(SESSION_LINGER)
    }

    fn spawn_with_linger(linger: Duration) -> SpeakerHandle {
        let (desired, desired_rx) = watch::channel(Arc::new(BgpDesired::default()));
        let (shutdown, shutdown_rx) = mpsc::channel(SHUTDOWN_REQUESTS);
        let (status_tx, status) = watch::channel(Arc::new(Vec::new()));
        let clock = WallClock::new(now());
        let bfd = Watch::default();
        let monitor = bfd.monitor();
        let (fib, fib_rx) = watch::channel(Routes::new());
        let (fib_failures_tx, fib_failures) = watch::channel(fib::Failures::new());
        let (learned_tx, learned) = watch::channel(Arc::default());
        let fib_task = tokio::spawn(fib::run(Origin::LEARNED, fib_rx, fib_failures_tx));
        let (accepted_tx, accepted) = mpsc::channel(ACCEPTED_MAX);
        let speaker = Self {
            desired: desired_rx,
            shutdown: shutdown_rx,
            status: status_tx,
            status_changed: Arc::new(Notify::new()),
            clock,
            listeners: Listeners::new(accepted_tx),
            refusals: Sparse::default(),
            accepted,
            listen_again_at: None,
            best: BestRoutes::new(),
            bfd,
            fib,
            fib_task,
            fib_failures,
            learned: learned_tx,
            plan: Plan::default(),
            router_id: None,
            running: BTreeMap::new(),
            retiring: BTreeSet::new(),
            tasks: JoinSet::new(),
            keys: BTreeMap::new(),
            linger,
            linger_until: None,
            drain: Drain::No,
            respawn_at: None,
            absent_since_unix_ms: clock.now_unix_ms(),
        };
        let manager = tokio::spawn(speaker.run());
        SpeakerHandle {
            desired,
            shutdown,
            status,
            learned,
            bfd: monitor,
            manager,
        }
    }

    /// Until shutdown, or until the handle is dropped. All branches are cancel-safe receives.
    async fn run(mut self) {
        loop {
            tokio::select! {
                changed = self.desired.changed() => match changed {
                    Ok(()) => self.on_desired(),
                    Err(_) => return,
                },
                Some(request) = self.shutdown.recv() => return self.finish(request).await,
                () = self.status_changed.notified() => self.on_news(),
                Ok(()) = self.fib_failures.changed() => self.publish_learned(),
                news = self.bfd.news() => self.on_bfd(&news),
                Some(accepted) = self.accepted.recv() => self.on_accepted(accepted),
                () = sleep_until_some(self.listen_again_at) => self.listen(),
                Some(ended) = self.tasks.join_next_with_id() => self.on_ended(ended),
                () = sleep_until_some(self.linger_until) => self.on_linger_over(),
                () = sleep_until_some(self.drain.until()) => self.on_drain_over(),
                () = sleep_until_some(self.respawn_at) => {
                    self.respawn_at = None;
                    self.reconcile();
                }
            }
        }
    }

    /// A router has opened a connection: the session of this pair of addresses takes it, if there is one.
    fn on_accepted(&mut self, accepted: Accepted) {
        let Accepted {
            local,
            peer,
            ttl,
            stream,
        } = accepted;
        let mut running = self.running.iter();
        let session = running.find(|(key, _)| key.local == local && key.peer == peer);
        let refusal = match session {
            None => "no session with this peer",
            // RFC 5082 section 3: "MUST NOT" be looked at.
            Some((_, s)) if ttl.is_some_and(|ttl| ttl < s.min_ttl()) => "from too far away (GTSM)",
            Some((_, s)) if s.incoming.try_send(stream).is_ok() => return,
            Some(_) => "too many at a time",
        };
        if let Some(others) = self.refusals.pass(now()) {
            info!(%peer, %local, others, refusal, "connection refused");
        }
    }

    /// A path came up or failed: its session hears of it at once.
    fn on_bfd(&mut self, news: &BfdNews) {
        self.bfd.note(news);
        self.show_bfd();
    }

    fn watch_paths(&mut self) {
        let plans: Vec<_> = self
            .running
            .iter()
            .map(|(key, session)| (key, session.control.borrow().plan.clone()))
            .collect();
        let profile = self.desired.borrow().bfd;
        let sessions = plans.iter().map(|(key, plan)| (*key, &**plan));
        self.bfd.apply(profile, sessions);
        self.show_bfd();
    }

    fn show_bfd(&mut self) {
        for (key, session) in &self.running {
            session.control.send_if_modified(|control| {
                let view = self.bfd.view(key, &control.plan);
                let changed = control.bfd != view;
                control.bfd = view;
                changed
            });
        }
    }

    /// Listens on the local addresses of the running sessions.
    fn listen(&mut self) {
        let mut wanted: BTreeMap<IpAddr, Demands> = BTreeMap::new();
        for (key, session) in &self.running {
            let transport = session.control.borrow().plan.transport.clone();
            let demand = Demand {
                md5_key: transport.md5_key,
                min_ttl: transport.min_ttl,
            };
            wanted
                .entry(key.local)
                .or_default()
                .insert(key.peer, demand);
        }
        let again = self.listeners.reconcile(&wanted);
        self.listen_again_at = again.then(|| now() + LISTEN_AGAIN);
    }

    fn on_desired(&mut self) {
        let desired = self.desired.borrow_and_update().clone();
        // Chosen once: a new identifier would reset every session.
        let id = *self
            .router_id
            .get_or_insert_with(|| router_id(&desired.interfaces).unwrap_or(Ipv4Addr::UNSPECIFIED));
        if id.is_unspecified() {
            self.router_id = None;
        }
        self.drain = self.drain.next(&desired, !self.running.is_empty(), now());
        self.replan();
    }

    fn on_drain_over(&mut self) {
        info!("the engine has drained: withdrawing its routes, the sessions stay");
        self.drain = Drain::Over;
        self.replan();
    }

    fn replan(&mut self) {
        let desired = self.desired.borrow().clone();
        let id = self.router_id.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let drained = self.drain == Drain::Over;
        let plan = Plan::new(&desired, &self.best, id, &self.plan.sessions, drained);
        if plan.absent != self.plan.absent {
            self.absent_since_unix_ms = self.clock.now_unix_ms();
        }
        self.plan = plan;
        self.reconcile();
        self.publish();
    }

    /// A session has something new to show or has learned something.
    fn on_news(&mut self) {
        if self.relearn() {
            self.replan();
        } else {
            self.publish();
        }
    }

    /// The best of what the sessions have learned, into the kernel; true when it changed.
    fn relearn(&mut self) -> bool {
        let learned: Vec<_> = self
            .running
            .iter()
            .map(|(key, session)| {
                let ibgp = session.control.borrow().plan.core.is_ibgp();
                (key.peer, ibgp, session.learned.borrow().clone())
            })
            .collect();
        let best = learn::best(learned.iter().map(|(peer, ibgp, routes)| Source {
            peer: *peer,
            ibgp: *ibgp,
            routes,
        }));
        if best == self.best {
            return false;
        }
        let routes = best.iter().map(|(p, route)| (*p, route.next_hops.clone()));
        self.fib.send_replace(routes.collect());
        self.best = best;
        self.publish_learned();
        true
    }

    fn publish_learned(&mut self) {
        let failures = self.fib_failures.borrow_and_update();
        let routes = learned_routes(&self.best, &failures);
        self.learned.send_replace(Arc::new(routes));
    }

    /// Sessions exist while a virtual service needs them, and for [`SESSION_LINGER`] afterwards without
    /// routes.
    fn reconcile(&mut self) {
        self.reconcile_sessions();
        self.watch_paths();
        self.listen();
    }

    fn reconcile_sessions(&mut self) {
        if self.desired.borrow().sessions_wanted {
            self.linger_until = None;
            self.stop_unplanned();
            for (key, session) in self.plan.sessions.clone() {
                self.ensure(key, session);
            }
            return;
        }
        self.stop_unplanned();
        if self.running.is_empty() {
            self.linger_until = None;
            return;
        }
        self.linger_until.get_or_insert_with(|| now() + self.linger);
        for (key, session) in self.plan.sessions.clone() {
            if self.running.contains_key(&key) {
                self.ensure(
                    key,
                    SessionPlan {
                        routes: Arc::default(),
                        withheld: Arc::default(),
                        ..session
                    },
                );
            }
        }
    }

    fn on_linger_over(&mut self) {
        info!("no virtual service with route health injection is left: closing the BGP sessions");
        self.linger_until = None;
        for key in self.running.keys().cloned().collect::<Vec<_>>() {
            self.stop(&key, Notification::peer_deconfigured());
        }
        self.watch_paths();
        self.listen();
        self.publish();
    }

    fn stop_unplanned(&mut self) {
        let gone: Vec<_> = self
            .running
            .keys()
            .filter(|k| !self.plan.sessions.contains_key(k))
            .cloned()
            .collect();
        for key in gone {
            self.stop(&key, self.plan.farewell(&key));
        }
    }

    fn stop(&mut self, key: &SessionKey, notification: Notification) {
        let farewell = Farewell {
            notification,
            for_restart: false,
        };
        self.stop_with(key, farewell);
    }

    fn stop_with(&mut self, key: &SessionKey, farewell: Farewell) {
        if let Some(session) = self.running.remove(key) {
            session
                .control
                .send_modify(|control| control.stop = Some(farewell));
            self.retiring.insert(key.clone());
        }
    }

    /// Starts the session or tells it what is new; nothing when nothing is.
    fn ensure(&mut self, key: SessionKey, session: SessionPlan) {
        let Some(running) = self.running.get(&key) else {
            // The old task of the same key must have said goodbye first; its end leads back here.
            if !self.retiring.contains(&key) && self.respawn_at.is_none() {
                self.start(key, session);
            }
            return;
        };
        running.control.send_if_modified(|control| {
            let session = keep_unused_next_hop(session, &control.plan);
            let changed = *control.plan != session;
            if changed {
                control.plan = Arc::new(session);
            }
            changed
        });
    }

    fn start(&mut self, key: SessionKey, session: SessionPlan) {
        let (control, control_rx) = watch::channel(Control {
            plan: Arc::new(session),
            stop: None,
            bfd: BfdView::default(),
        });
        let (incoming, incoming_rx) = mpsc::channel(INCOMING_MAX);
        let (status_tx, status) = watch::channel(Arc::new(v1::BgpSession::default()));
        let (learned_tx, learned) = watch::channel(Arc::default());
        let board = Board {
            status: status_tx,
            learned: learned_tx,
            changed: self.status_changed.clone(),
        };
        let task = SessionTask::new(key.clone(), control_rx, incoming_rx, board, self.clock);
        let abort = self.tasks.spawn(task.run());
        self.keys.insert(abort.id(), key.clone());
        self.running.insert(
            key,
            Running {
                control,
                incoming,
                status,
                learned,
            },
        );
    }

    fn on_ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let (id, failure) = match ended {
            Ok((id, ())) => (id, None),
            Err(failure) => (failure.id(), Some(failure)),
        };
        let Some(key) = self.keys.remove(&id) else {
            return;
        };
        if let Some(failure) = failure {
            error!(peer = %key.peer, local = %key.local, %failure, "session task died");
            self.respawn_at = Some(now() + RESPAWN_DELAY);
        }
        self.retiring.remove(&key);
        self.running.remove(&key);
        self.reconcile();
        self.on_news();
    }

    fn publish(&mut self) {
        let desired = self.desired.borrow();
        let mut all: Vec<v1::BgpSession> = self
            .running
            .values()
            .map(|session| (**session.status.borrow()).clone())
            .collect();
        // A session that was only just started has not spoken yet.
        all.retain(|session| !session.peer.is_empty());
        let routes = || desired.routes.keys().copied();
        let absent = self.plan.absent.iter();
        all.extend(absent.map(|a| absent_status(a, routes(), self.absent_since_unix_ms)));
        let idle = self
            .plan
            .sessions
            .iter()
            .filter(|(key, _)| !desired.sessions_wanted && !self.running.contains_key(key));
        all.extend(idle.map(|(key, plan)| unneeded_status(key, plan, self.absent_since_unix_ms)));
        all.sort_by(|a, b| (&a.peer, &a.interface).cmp(&(&b.peer, &b.interface)));
        self.status.send_replace(Arc::new(all));
    }

    async fn finish(mut self, request: Shutdown) {
        let notification = Notification::administrative_shutdown(&request.text);
        for key in self.running.keys().cloned().collect::<Vec<_>>() {
            let farewell = Farewell {
                notification: notification.clone(),
                for_restart: true,
            };
            self.stop_with(&key, farewell);
        }
        while self.tasks.join_next().await.is_some() {}
        drop(self.fib);
        if let Err(failure) = self.fib_task.await {
            error!(%failure, "learned routes may be left in the kernel; the next engine removes them");
        }
        // The one who asked may have given up waiting.
        let _ = request.done.send(());
    }
}

/// A next hop of a family that no route needs is not worth a reset: an IPv6 address that appears on the
/// link takes effect with the first IPv6 route.
fn keep_unused_next_hop(mut new: SessionPlan, old: &SessionPlan) -> SessionPlan {
    let has_v4 = new.routes.keys().any(|prefix| prefix.addr().is_ipv4());
    let has_v6 = new.routes.keys().any(|prefix| prefix.addr().is_ipv6());
    if old.core.next_hop_v4.is_none() && !has_v4 {
        new.core.next_hop_v4 = None;
    }
    if old.core.next_hop_v6.is_none() && !has_v6 {
        new.core.next_hop_v6 = None;
    }
    new
}

#[cfg(test)]
mod tests;
