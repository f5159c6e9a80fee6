//! What is known of each engine now: its session, what it acknowledged, what it reports.

use super::news::News;
use super::outbox::Outbox;
use super::questions::{Pending, Questions};
use crate::clock::Moment;
use crate::witness::Seat;
use proto::v1::{
    BgpSession, BgpState, DesiredState, FlowAnswer, FlowQuery, Hello, HostAnswer, HostQuery,
    HostResources, HostTable, Interface, Management, Nack, Report, Restart,
    controller_message::Body,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

/// One engine, as seen from here.
#[derive(Debug, Clone, Default)]
pub struct EngineState {
    /// When the present session began; `None` while there is none.
    pub connected_since: Option<Moment>,
    /// When the last session ended, and in which words.
    pub lost: Option<(Moment, String)>,
    /// While it has no session: what other engines see of it; nothing while nobody has said so.
    pub others_see: Option<Seen>,
    /// It does not answer when others ask whether it is there: it is older.
    pub cannot_answer: bool,
    /// It starts anew, and makes its clients of TLS begin anew, when it is told to; else it is older.
    pub starts_anew: bool,
    /// Another one for every start of its process.
    pub boot_id: String,
    /// When it was last heard.
    pub last_seen: Option<SystemTime>,
    /// The software's version.
    pub version: String,
    /// What tells its host from others; empty = it has not said.
    pub host: String,
    /// What it has of its host; `None` while it has not said.
    pub resources: Option<HostResources>,
    /// How it reached its controller when its newest session began.
    pub management: Option<Management>,
    /// For how long it had had no session before the present one, as far as this process knows.
    pub gap: Option<Duration>,
    /// Its data interfaces.
    pub interfaces: Vec<Interface>,
    /// The newest generation it has put into force.
    pub acked: u64,
    /// The newest generation that it has acknowledged in this session; what it brought along may be another
    /// controller's of the same number.
    pub confirmed: u64,
    /// Its refusal of a newer generation.
    pub nack: Option<Nack>,
    /// Its BGP peers, as it has reported them in this session.
    pub peers: Peers,
    /// What it observes.
    pub report: Option<Arc<Report>>,
    /// Which start of its process the report is of: until a new one has reported, it is the one before.
    pub report_boot_id: String,
    /// The newest desired state made for it.
    pub desired: Option<Arc<DesiredState>>,
    /// Why no newer one could be made.
    pub stuck: Option<String>,
    /// Its sessions so far.
    pub counts: SessionCounts,
}

/// Sessions of an engine since there is this registry: since the controller was started, or began to lead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionCounts {
    /// That have begun.
    pub begun: u64,
    /// That were refused, because the engine is too old.
    pub refused: u64,
    /// Times that it came, having had none.
    pub came: u64,
    /// Times that its only one ended.
    pub went: u64,
}

/// A session that ends and begins again within this time is the same presence: a restart of the process is shorter.
pub const DEAD_AFTER: Duration = Duration::from_secs(10);
/// An engine that was away is steady when it has been back for so long.
const STEADY_AFTER: Duration = Duration::from_secs(30);

/// BGP peers of an engine.
#[derive(Debug, Clone, Copy, Default)]
pub enum Peers {
    /// It has none, or has not said.
    #[default]
    Unknown,
    /// One is up, at least.
    UpSince(Instant),
    /// None is.
    DownSince(Instant),
}

impl Peers {
    /// After it has reported these.
    fn then(self, sessions: &[BgpSession]) -> Self {
        let is_up = sessions.iter().any(|s| s.state() == BgpState::Established);
        match (self, is_up) {
            _ if sessions.is_empty() => Self::Unknown,
            (Self::UpSince(_), true) | (Self::DownSince(_), false) => self,
            (_, true) => Self::UpSince(Instant::now()),
            (_, false) => Self::DownSince(Instant::now()),
        }
    }
}

/// What others see of an engine that has no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Its process answers one of them.
    Answers,
    /// It answers nobody, and it is not certain that it is lost.
    Silent,
    /// It is lost for certain.
    Lost,
}

impl EngineState {
    /// It was away for longer than a restart takes, and has come back just now.
    pub fn is_back(&self) -> bool {
        let was_away = self.gap.is_some_and(|gap| gap >= DEAD_AFTER);
        let age = self.connected_since.map(Moment::elapsed);
        was_away && age.is_some_and(|age| age < STEADY_AFTER)
    }

    /// One of its BGP peers is up; `None` while it has none, has not said, or this is so for no longer than a restart takes: a peer
    /// that comes and goes is no reason for anything.
    pub fn has_peer(&self) -> Option<bool> {
        self.connected_since?;
        match self.peers {
            Peers::Unknown => None,
            Peers::UpSince(since) => (since.elapsed() >= DEAD_AFTER).then_some(true),
            Peers::DownSince(since) => (since.elapsed() >= DEAD_AFTER).then_some(false),
        }
    }
}

struct Slot {
    state: EngineState,
    session: u64,
    outbox: Option<Outbox>,
}

/// See the module's documentation.
pub struct Registry {
    slots: Mutex<BTreeMap<String, Slot>>,
    sessions: std::sync::atomic::AtomicU64,
    changed: watch::Sender<u64>,
    answers: watch::Sender<u64>,
    questions: Questions<FlowAnswer>,
    host_questions: Questions<HostAnswer>,
    news: Mutex<News>,
    /// Who is told of sessions and reports.
    pub witness: Seat,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            slots: Mutex::default(),
            sessions: 0.into(),
            changed: watch::Sender::new(0),
            answers: watch::Sender::new(0),
            questions: Questions::default(),
            host_questions: Questions::default(),
            news: Mutex::default(),
            witness: Seat::default(),
        }
    }
}

impl Registry {
    fn slots(&self) -> MutexGuard<'_, BTreeMap<String, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells reconcilers that an engine came, went, or has other interfaces.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Tells who waits for acknowledgements that there is one, or that an engine will give none.
    pub fn answers(&self) -> watch::Receiver<u64> {
        self.answers.subscribe()
    }

    /// What is new since this was asked for last.
    pub fn take_news(&self) -> News {
        std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add_news(&self, more: News) {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        news.add(more);
    }

    fn news_of(&self, se: &str) {
        self.add_news(News {
            engines: BTreeSet::from([se.to_owned()]),
            ..News::default()
        });
    }

    fn notify(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    /// A session begins; one that the engine had before is replaced. Gives the session's number.
    pub fn open(&self, se: &str, hello: Hello, outbox: Outbox) -> u64 {
        let session = self
            .sessions
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed)
            + 1;
        let mut slots = self.slots();
        let slot = slot(&mut slots, se);
        slot.session = session;
        slot.outbox = Some(outbox);
        let now = Moment::now();
        slot.state.gap = gap(&slot.state);
        slot.state.counts.begun += 1;
        slot.state.counts.came += u64::from(slot.state.connected_since.is_none());
        slot.state.connected_since = Some(now);
        slot.state.last_seen = Some(now.of_day);
        slot.state.others_see = None;
        slot.state.cannot_answer = hello.protocol_version < proto::ANSWERS_SINCE;
        slot.state.starts_anew = hello.protocol_version >= proto::STARTS_ANEW_SINCE;
        slot.state.boot_id = hello.boot_id;
        // It was of others that may be back.
        if let Some(report) = &mut slot.state.report {
            Arc::make_mut(report).sightings.clear();
        }
        slot.state.peers = Peers::default();
        slot.state.version = hello.version;
        slot.state.host = hello.host;
        slot.state.resources = hello.resources;
        slot.state.management = hello.management;
        slot.state.interfaces = hello.interfaces;
        slot.state.acked = hello.applied_generation;
        slot.state.confirmed = 0;
        slot.state.nack = None;
        if let Some(desired) = slot.state.desired.clone() {
            push(slot, &desired);
        }
        drop(slots);
        self.news_of(se);
        self.notify();
        self.witness.tell(|w| w.engine_came(se));
        session
    }

    /// The session ended, unless a newer one has replaced it.
    pub fn close(&self, se: &str, session: u64, why: &str) {
        let mut slots = self.slots();
        let Some(slot) = slots.get_mut(se).filter(|s| s.session == session) else {
            return;
        };
        slot.outbox = None;
        slot.state.connected_since = None;
        slot.state.counts.went += 1;
        slot.state.lost = Some((Moment::now(), why.to_owned()));
        drop(slots);
        tracing::warn!(se, why, "engine session ended");
        self.news_of(se);
        self.notify();
        self.witness.tell(|w| w.engine_went(se, why));
        self.answers.send_modify(|n| *n += 1);
    }

    /// A session was refused to the engine.
    pub fn refused(&self, se: &str) {
        let mut slots = self.slots();
        slot(&mut slots, se).state.counts.refused += 1;
    }

    /// As if its last session had ended so much earlier.
    #[cfg(test)]
    pub fn gone_for(&self, se: &str, time: Duration) {
        let mut slots = self.slots();
        let lost = &mut slot(&mut slots, se).state.lost;
        *lost = lost.take().map(|(at, why)| (at.earlier(time), why));
    }

    /// As if its peers had been up or down for so much longer.
    #[cfg(test)]
    pub fn peers_for(&self, se: &str, time: Duration) {
        let mut slots = self.slots();
        let peers = &mut slot(&mut slots, se).state.peers;
        if let Peers::UpSince(since) | Peers::DownSince(since) = peers {
            *since = since.checked_sub(time).expect("not so long ago");
        }
    }

    /// As if its session had begun so much earlier.
    #[cfg(test)]
    pub fn connected_for(&self, se: &str, time: Duration) {
        let mut slots = self.slots();
        let since = &mut slot(&mut slots, se).state.connected_since;
        *since = since.map(|at| at.earlier(time));
    }

    fn with(&self, se: &str, session: u64, f: impl FnOnce(&mut EngineState)) {
        if let Some(slot) = self.slots().get_mut(se).filter(|s| s.session == session) {
            slot.state.last_seen = Some(SystemTime::now());
            f(&mut slot.state);
        }
    }

    /// The engine put a generation into force.
    pub fn acked(&self, se: &str, session: u64, generation: u64) {
        let mut refused = false;
        self.with(se, session, |state| {
            state.acked = generation;
            state.confirmed = generation;
            refused = state.nack.take().is_some();
        });
        if refused {
            self.news_of(se);
        }
        self.answers.send_modify(|n| *n += 1);
    }

    /// The engine refused a generation.
    pub fn nacked(&self, se: &str, session: u64, nack: Nack) {
        tracing::warn!(
            se,
            generation = nack.generation,
            field = nack.field,
            reason = nack.reason,
            "engine refuses its desired state"
        );
        self.with(se, session, |state| state.nack = Some(nack));
        self.news_of(se);
    }

    /// A newer report. Reconcilers are told only when the interfaces changed.
    pub fn reported(&self, se: &str, session: u64, mut report: Report) {
        report.shrink_to_fit();
        let mut news = News::default();
        if let Some(before) = self.report_in(se, session) {
            news = News::between(before.as_deref(), &report);
            self.witness.tell(|w| w.engine_reported(se, &report));
        }
        let mut moved = false;
        self.with(se, session, |state| {
            moved = state.interfaces != report.interfaces;
            state.interfaces.clone_from(&report.interfaces);
            state.peers = state.peers.then(&report.bgp_sessions);
            state.report = Some(Arc::new(report));
            state.report_boot_id.clone_from(&state.boot_id);
        });
        self.add_news(news);
        if moved {
            self.notify();
        }
    }

    /// Its last report, if this is its session.
    fn report_in(&self, se: &str, session: u64) -> Option<Option<Arc<Report>>> {
        let slots = self.slots();
        let slot = slots.get(se).filter(|s| s.session == session)?;
        Some(slot.state.report.clone())
    }

    /// What other engines see of one that has no session.
    pub fn seen_by_others(&self, se: &str, seen: Option<Seen>) {
        let mut slots = self.slots();
        let slot = slot(&mut slots, se);
        slot.state.others_see = seen.filter(|_| slot.outbox.is_none());
    }

    /// Asks the engine about flows; none when it has no session, or reads too slowly.
    pub fn ask(&self, se: &str, query: FlowQuery) -> Option<Pending<FlowAnswer>> {
        let slots = self.slots();
        let outbox = slots.get(se)?.outbox.as_ref()?;
        let (id, pending) = self.questions.ask(se);
        let body = Body::FlowQuery(FlowQuery { id, ..query });
        outbox.send(body).ok()?;
        Some(pending)
    }

    /// The engine's answer to such a question.
    pub fn answered(&self, se: &str, answer: FlowAnswer) {
        self.questions.answered(se, answer);
    }

    /// Asks the engine about its host's network; none when it has no session, or reads too slowly.
    pub fn ask_host(&self, se: &str, table: HostTable) -> Option<Pending<HostAnswer>> {
        let slots = self.slots();
        let outbox = slots.get(se)?.outbox.as_ref()?;
        let (id, pending) = self.host_questions.ask(se);
        let table = table.into();
        let body = Body::HostQuery(HostQuery { id, table });
        outbox.send(body).ok()?;
        Some(pending)
    }

    /// The engine's answer to such a question.
    pub fn answered_host(&self, se: &str, answer: HostAnswer) {
        self.host_questions.answered(se, answer);
    }

    /// Tells the engine to start anew; false when it has no session, or reads too slowly.
    pub fn restart(&self, se: &str) -> bool {
        let slots = self.slots();
        let outbox = slots.get(se).and_then(|s| s.outbox.as_ref());
        outbox.is_some_and(|o| o.send(Body::Restart(Restart {})).is_ok())
    }

    /// Sends the engine what it was sent last, as a newer generation, so that it is put into force once more. Gives the generation; none when
    /// it has no session, or reads too slowly.
    pub fn repeat(&self, se: &str) -> Option<u64> {
        let mut slots = self.slots();
        let slot = slots.get_mut(se).filter(|s| s.outbox.is_some())?;
        let mut desired = DesiredState::clone(slot.state.desired.as_deref()?);
        desired.generation += 1;
        let (generation, desired) = (desired.generation, Arc::new(desired));
        slot.state.desired = Some(desired.clone());
        push(slot, &desired);
        slot.outbox.is_some().then_some(generation)
    }

    /// Makes this the engine's desired state if its content is new, and sends it if there is a session. The
    /// generation is at least `revision` and above that of the content before.
    pub fn desire(&self, se: &str, mut desired: DesiredState, revision: u64) {
        let mut slots = self.slots();
        let slot = slot(&mut slots, se);
        slot.state.stuck = None;
        let before = slot.state.desired.as_ref();
        desired.generation = before.map_or(0, |d| d.generation);
        if before.is_some_and(|d| **d == desired) {
            return;
        }
        desired.generation = revision.max(desired.generation + 1);
        let desired = Arc::new(desired);
        slot.state.desired = Some(desired.clone());
        push(slot, &desired);
    }

    /// No desired state can be made now: what the engine has stays in force.
    pub fn keep(&self, se: &str, why: &str) {
        let mut slots = self.slots();
        let slot = slot(&mut slots, se);
        if slot.state.stuck.as_deref() != Some(why) {
            tracing::error!(se, why, "no new desired state; what is in force stays");
            slot.state.stuck = Some(why.to_owned());
        }
    }

    /// What is known of this engine.
    pub fn get(&self, se: &str) -> EngineState {
        self.slots()
            .get(se)
            .map(|s| s.state.clone())
            .unwrap_or_default()
    }

    /// Name of the VRF context that the engine was told of; empty before that.
    pub fn vrf_name(&self, se: &str) -> String {
        let slots = self.slots();
        let desired = slots.get(se).and_then(|s| s.state.desired.as_ref());
        let vrf = desired.and_then(|d| d.vrf.as_ref());
        vrf.map(|v| v.name.clone()).unwrap_or_default()
    }

    /// The generation that the engine is told, while it has a session and can be told what is new.
    pub fn told(&self, se: &str) -> Option<u64> {
        let slots = self.slots();
        let reachable = |s: &&Slot| s.outbox.is_some() && s.state.stuck.is_none();
        let slot = slots.get(se).filter(reachable)?;
        slot.state.desired.as_ref().map(|d| d.generation)
    }

    /// The newest generation that the engine has acknowledged, while it has a session.
    pub fn confirmed(&self, se: &str) -> Option<u64> {
        let slots = self.slots();
        let slot = slots.get(se).filter(|s| s.outbox.is_some())?;
        Some(slot.state.confirmed)
    }

    /// Whether what is wanted of the engine is in force there. One without a session cannot be told anything.
    pub fn is_in_force(&self, se: &str) -> bool {
        let confirmed = self.confirmed(se);
        confirmed.is_none() || self.told(se).is_some_and(|told| confirmed >= Some(told))
    }

    /// True while the engine has a session.
    pub fn is_connected(&self, se: &str) -> bool {
        self.slots().get(se).is_some_and(|s| s.outbox.is_some())
    }
}

/// Time since the last session; nothing where a newer one takes the place of one that has not ended.
fn gap(state: &EngineState) -> Option<Duration> {
    let (ended, _) = state
        .lost
        .as_ref()
        .filter(|_| state.connected_since.is_none())?;
    Some(ended.elapsed())
}

/// The engine's slot; a new one without a session.
fn slot<'a>(slots: &'a mut BTreeMap<String, Slot>, se: &str) -> &'a mut Slot {
    slots.entry(se.to_owned()).or_insert_with(|| Slot {
        state: EngineState::default(),
        session: 0,
        outbox: None,
    })
}

/// An engine that does not read loses its session, and the next one gets the newest state.
fn push(slot: &mut Slot, desired: &Arc<DesiredState>) {
    slot.outbox
        .take_if(|outbox| outbox.desire(desired.clone()).is_err());
}
