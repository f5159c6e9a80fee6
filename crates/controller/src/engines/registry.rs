//! What is known of each engine now: its session, what it acknowledged, what it reports.

use super::questions::{Pending, Questions};
use crate::witness::Seat;
use proto::v1::{
    ControllerMessage, DesiredState, FlowAnswer, FlowQuery, Hello, HostAnswer, HostQuery,
    HostTable, Interface, Nack, Report, controller_message::Body,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use tokio::sync::{mpsc, watch};

/// One engine, as seen from here.
#[derive(Debug, Clone, Default)]
pub struct EngineState {
    /// When the present session began; `None` while there is none.
    pub connected_since: Option<SystemTime>,
    /// When the last session ended, and in which words.
    pub lost: Option<(SystemTime, String)>,
    /// When it was last heard.
    pub last_seen: Option<SystemTime>,
    /// The software's version.
    pub version: String,
    /// Its data interfaces.
    pub interfaces: Vec<Interface>,
    /// The newest generation it has put into force.
    pub acked: u64,
    /// The newest generation that it has acknowledged in this session; what it brought along may be another
    /// controller's of the same number.
    pub confirmed: u64,
    /// Its refusal of a newer generation.
    pub nack: Option<Nack>,
    /// What it observes.
    pub report: Option<Arc<Report>>,
    /// The newest desired state made for it.
    pub desired: Option<Arc<DesiredState>>,
    /// Why no newer one could be made.
    pub stuck: Option<String>,
}

struct Slot {
    state: EngineState,
    session: u64,
    sender: Option<mpsc::Sender<Result<ControllerMessage, tonic::Status>>>,
}

/// See the module's documentation.
pub struct Registry {
    slots: Mutex<BTreeMap<String, Slot>>,
    sessions: std::sync::atomic::AtomicU64,
    changed: watch::Sender<u64>,
    answers: watch::Sender<u64>,
    questions: Questions<FlowAnswer>,
    host_questions: Questions<HostAnswer>,
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

    fn notify(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    /// A session begins; one that the engine had before is replaced. Gives the session's number.
    pub fn open(
        &self,
        se: &str,
        hello: Hello,
        sender: mpsc::Sender<Result<ControllerMessage, tonic::Status>>,
    ) -> u64 {
        let session = self
            .sessions
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed)
            + 1;
        let mut slots = self.slots();
        let slot = slot(&mut slots, se);
        slot.session = session;
        slot.sender = Some(sender);
        let now = Some(SystemTime::now());
        (slot.state.connected_since, slot.state.last_seen) = (now, now);
        slot.state.version = hello.version;
        slot.state.interfaces = hello.interfaces;
        slot.state.acked = hello.applied_generation;
        slot.state.confirmed = 0;
        slot.state.nack = None;
        if let Some(desired) = slot.state.desired.clone() {
            push(slot, &desired);
        }
        drop(slots);
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
        slot.sender = None;
        slot.state.connected_since = None;
        slot.state.lost = Some((SystemTime::now(), why.to_owned()));
        drop(slots);
        tracing::warn!(se, why, "engine session ended");
        self.notify();
        self.witness.tell(|w| w.engine_went(se, why));
        self.answers.send_modify(|n| *n += 1);
    }

    fn with(&self, se: &str, session: u64, f: impl FnOnce(&mut EngineState)) {
        if let Some(slot) = self.slots().get_mut(se).filter(|s| s.session == session) {
            slot.state.last_seen = Some(SystemTime::now());
            f(&mut slot.state);
        }
    }

    /// The engine put a generation into force.
    pub fn acked(&self, se: &str, session: u64, generation: u64) {
        self.with(se, session, |state| {
            state.acked = generation;
            state.confirmed = generation;
            state.nack = None;
        });
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
    }

    /// A newer report. Reconcilers are told only when the interfaces changed.
    pub fn reported(&self, se: &str, session: u64, report: Report) {
        if self.slots().get(se).is_some_and(|s| s.session == session) {
            self.witness.tell(|w| w.engine_reported(se, &report));
        }
        let mut moved = false;
        self.with(se, session, |state| {
            moved = state.interfaces != report.interfaces;
            state.interfaces.clone_from(&report.interfaces);
            state.report = Some(Arc::new(report));
        });
        if moved {
            self.notify();
        }
    }

    /// Asks the engine about flows; none when it has no session, or reads too slowly.
    pub fn ask(&self, se: &str, query: FlowQuery) -> Option<Pending<FlowAnswer>> {
        let slots = self.slots();
        let sender = slots.get(se)?.sender.as_ref()?;
        let (id, pending) = self.questions.ask(se);
        let body = Some(Body::FlowQuery(FlowQuery { id, ..query }));
        sender.try_send(Ok(ControllerMessage { body })).ok()?;
        Some(pending)
    }

    /// The engine's answer to such a question.
    pub fn answered(&self, se: &str, answer: FlowAnswer) {
        self.questions.answered(se, answer);
    }

    /// Asks the engine about its host's network; none when it has no session, or reads too slowly.
    pub fn ask_host(&self, se: &str, table: HostTable) -> Option<Pending<HostAnswer>> {
        let slots = self.slots();
        let sender = slots.get(se)?.sender.as_ref()?;
        let (id, pending) = self.host_questions.ask(se);
        let table = table.into();
        let body = Some(Body::HostQuery(HostQuery { id, table }));
        sender.try_send(Ok(ControllerMessage { body })).ok()?;
        Some(pending)
    }

    /// The engine's answer to such a question.
    pub fn answered_host(&self, se: &str, answer: HostAnswer) {
        self.host_questions.answered(se, answer);
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

    /// The generation that the engine has been told, while it has a session and can be told what is new.
    pub fn told(&self, se: &str) -> Option<u64> {
        let slots = self.slots();
        let reachable = |s: &&Slot| s.sender.is_some() && s.state.stuck.is_none();
        let slot = slots.get(se).filter(reachable)?;
        slot.state.desired.as_ref().map(|d| d.generation)
    }

    /// The newest generation that the engine has acknowledged, while it has a session.
    pub fn confirmed(&self, se: &str) -> Option<u64> {
        let slots = self.slots();
        let slot = slots.get(se).filter(|s| s.sender.is_some())?;
        Some(slot.state.confirmed)
    }

    /// Whether what is wanted of the engine is in force there. One without a session cannot be told anything.
    pub fn is_in_force(&self, se: &str) -> bool {
        let confirmed = self.confirmed(se);
        confirmed.is_none() || self.told(se).is_some_and(|told| confirmed >= Some(told))
    }

    /// True while the engine has a session.
    pub fn is_connected(&self, se: &str) -> bool {
        self.slots().get(se).is_some_and(|s| s.sender.is_some())
    }
}

/// The engine's slot; a new one without a session.
fn slot<'a>(slots: &'a mut BTreeMap<String, Slot>, se: &str) -> &'a mut Slot {
    slots.entry(se.to_owned()).or_insert_with(|| Slot {
        state: EngineState::default(),
        session: 0,
        sender: None,
    })
}

/// A queue that is full belongs to an engine that does not read: its session is ended, and the next one gets the
/// newest state.
fn push(slot: &mut Slot, desired: &Arc<DesiredState>) {
    let message = ControllerMessage {
        body: Some(Body::DesiredState((**desired).clone())),
    };
    let full = slot
        .sender
        .as_ref()
        .is_some_and(|s| s.try_send(Ok(message)).is_err());
    if full {
        slot.sender = None;
    }
}
