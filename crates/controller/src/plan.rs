//! Which VIP is on which engine, what each engine is told, and what is known of both.
//!
//! The [`Planner`] holds the assignments: it asks `placement` what to do, writes the answer to the store
//! (compare-and-set) and only then tells the engines. The reconciler runs on every change of objects and engines,
//! and in parts on a period; it takes no input and may run at any time. [`Backend`] is what the API calls.

mod action;
mod again;
mod ages;
mod assignments;
mod autoscale;
mod backend;
mod clear;
mod compile;
mod decision;
mod ecmp_width;
mod engine_object;
mod explain;
#[cfg(test)]
mod fixture;
mod flows;
mod flowtable;
mod host;
mod join;
mod keys;
mod last;
mod leave;
mod losses;
mod marks;
mod members;
mod metrics;
mod moves;
mod peers;
mod preview;
mod reconcile;
mod redundancy;
mod refusal;
mod release;
mod retry;
mod roles;
mod rotate;
mod routing;
mod runtime;
mod scaling;
mod scope;
mod scratch;
mod service;
mod since;
mod situation;
mod switchover;
mod topology;
mod waits;
mod writing;

pub use action::Action;
pub use assignments::{Assignment, Scaling, Switchover};
pub use autoscale::run as scale_by_load;
pub use backend::Backend;
pub use host::{FlowView, HostView};
pub use join::run as finish_joins;
pub use last::LastScale;
pub use leave::ScaleIn;
pub use reconcile::{publish, run as reconcile};
pub use redundancy::Redundancy;
pub use roles::Roles;
pub use routing::RoutingText;
pub use runtime::EngineView;
pub use scaling::run as scale_and_watch;
pub use scratch::Scratch;
pub use service::ServiceView;
pub use situation::Requested;
pub use topology::TopologyPage;

use crate::clock::{Moment, now_unix_s};
use crate::engines::Registry;
use crate::error::ApiError;
use crate::objects::{Objects, Snapshot};
use crate::witness::Seat;
use ages::Ages;
use assignments::Assignments;
use autoscale::Outlook;
use clear::Baselines;
use join::Joins;
use keys::Keys;
use last::LastScales;
use marks::{Marks, Published};
use moves::Moves;
use release::Releases;
use rotate::Rotations;
use since::Since;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Instant, SystemTime};
use tokio::sync::{Mutex, watch};
use writing::Placement;

const PREFIX: &str = "/placement/";

#[derive(Default)]
struct Tables {
    assignments: Assignments,
    ages: Ages,
    last: LastScales,
    /// What has failed last, by VsVip and action: it is said once.
    failures: BTreeMap<(String, Action), String>,
    resets: Resets,
    joins: Joins,
    keys: BTreeMap<String, Keys>,
    rotations: Rotations,
    empty: leave::Empty,
    /// Engines that a VIP was placed on because it lacked one, by VsVip, and until when they are to serve it.
    placed: BTreeMap<(String, String), Instant>,
    /// Engines that do not serve in time, of which it was said, by VsVip.
    not_ready: BTreeSet<(String, String)>,
    moves: Moves,
    /// Switchovers that are waited for: the engine that gives its role up, by VsVip and the engine that gets it.
    switchovers: Moves,
    releases: Releases,
    /// Connections that are cut, by VsVip and engine, and since when.
    cuts: BTreeMap<(String, String), Instant>,
    revision: u64,
    marks: Marks,
    /// uuids of engines that are lost for certain.
    lost: BTreeSet<String>,
    /// What the load of VIPs recommends, by VsVip.
    outlooks: BTreeMap<String, Outlook>,
}

/// The engine that is to get a VIP, as far as somebody asks for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'a> {
    /// This one, by uuid or name; else the planner chooses.
    pub engine: Option<&'a str>,
    /// One of this host, as engines say it (`engine --host`).
    pub host: Option<&'a str>,
}

impl<'a> From<Option<&'a str>> for Wanted<'a> {
    fn from(engine: Option<&'a str>) -> Self {
        Self { engine, host: None }
    }
}

/// When an operator last asked for a reset of a peer's sessions, in Unix milliseconds; by engine and peer. An engine
/// acts on a time that is later than the one it knows, so that nothing is lost with this process but the wish itself.
type Resets = BTreeMap<(String, IpAddr), u64>;

/// See the module's documentation.
pub struct Planner {
    objects: Arc<Objects>,
    registry: Arc<Registry>,
    tables: RwLock<Tables>,
    /// One decision at a time: each builds on the one before.
    deciding: Mutex<()>,
    /// One at a time hands out desired states, so that none is replaced by one made from older decisions.
    publishing: std::sync::Mutex<Published>,
    /// Tells [`join::run`] that an engine joins.
    joining: watch::Sender<u64>,
    /// Tells [`reconcile`] that VIPs are marked.
    marked: watch::Sender<u64>,
    started: Moment,
    /// Since when states have been what they are.
    since: Since,
    /// Counters that were cleared.
    cleared: Baselines,
    /// Who is told of steps of placement.
    pub witness: Seat,
}

impl Planner {
    /// Reads the assignments from the store.
    ///
    /// # Errors
    /// The store refuses, or holds something that is no assignment.
    pub async fn open(objects: Arc<Objects>, registry: Arc<Registry>) -> Result<Self, ApiError> {
        let listing = objects.store().list(PREFIX).await?;
        let mut tables = Tables {
            revision: listing.revision,
            keys: keys::load(&**objects.store()).await?,
            rotations: rotate::load(&**objects.store()).await?,
            ..Tables::default()
        };
        for entry in listing.entries {
            let vsvip = &entry.key[PREFIX.len()..];
            let assignment = writing::parsed(&entry)?;
            tables.ages.see(vsvip, &assignment);
            tables.moves.extend(moves::of(vsvip, &assignment));
            let switchover = moves::switchover_of(vsvip, &assignment);
            tables.switchovers.extend(switchover);
            tables.releases.begin(vsvip, &assignment);
            tables.assignments.insert(vsvip.to_owned(), assignment);
        }
        Ok(Self {
            objects,
            registry,
            tables: RwLock::new(tables),
            deciding: Mutex::new(()),
            publishing: std::sync::Mutex::default(),
            joining: watch::Sender::new(0),
            marked: watch::Sender::new(0),
            started: Moment::now(),
            since: Since::default(),
            cleared: Baselines::default(),
            witness: Seat::default(),
        })
    }

    /// Where this VIP is placed.
    pub fn assignment(&self, vsvip: &str) -> Assignment {
        self.read()
            .assignments
            .get(vsvip)
            .cloned()
            .unwrap_or_default()
    }

    /// uuids of the VsVips that the engine serves; without those of which it has connections left only.
    pub fn served(&self, engine: &str) -> Vec<String> {
        let tables = self.read();
        let here = tables.assignments.at(engine);
        let serves = here.filter(|(_, a)| a.engines.iter().any(|e| e == engine));
        serves.map(|(vsvip, _)| vsvip.to_owned()).collect()
    }

    /// How many engines this VIP is to have.
    pub fn requested(&self, snapshot: &Snapshot, vsvip: &str) -> Requested {
        let tables = self.read();
        let assigned = tables.assignments.get(vsvip).map_or(0, |a| a.engines.len());
        drop(tables);
        Requested::of(snapshot, vsvip, assigned)
    }

    /// Seconds for which something of the VIP's assignment has been so ([`Ages`]).
    fn for_s(&self, vsvip: &str, since_s: u64) -> u64 {
        self.read().ages.for_s(vsvip, since_s, Instant::now())
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn published(&self) -> std::sync::MutexGuard<'_, Published> {
        let published = self.publishing.lock();
        published.unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, vsvip: &str, action: Action, outcome: Result<&placement::Choice, &str>) {
        let (success, reason, engine) = match outcome {
            Ok(choice) => (true, choice.reason.clone(), Some(choice.engine.clone())),
            Err(why) => (false, why.to_owned(), None),
        };
        let known = self.is_known(vsvip, action, success, &reason);
        if !known {
            tracing::info!(vsvip, action = action.word(), success, reason, "placement");
        }
        let now = SystemTime::now();
        let is_over = !success || self.is_over(vsvip, action, engine.as_deref());
        let last = LastScale {
            action,
            success,
            reason,
            engine,
            at: now,
            ended: is_over.then_some(now),
        };
        self.write().last.note(vsvip, last.clone());
        self.note_placed(vsvip, &last);
        self.note_move(vsvip, &last);
        if success || !known {
            self.witness.tell(|w| w.scaled(vsvip, &last));
        }
    }

    /// An engine that a VIP was placed on because it lacked one is to serve it in time.
    fn note_placed(&self, vsvip: &str, last: &LastScale) {
        let is_placed = matches!(last.action, Action::InitialPlacement | Action::SeRemoved);
        if let Some(engine) = last.engine.as_ref().filter(|_| is_placed)
            && let Some(until) = self.serves_until(vsvip)
        {
            let key = (vsvip.to_owned(), engine.clone());
            self.write().placed.insert(key, until);
        }
    }

    /// Whether this has been said of the VIP already.
    fn is_known(&self, vsvip: &str, action: Action, success: bool, reason: &str) -> bool {
        let key = (vsvip.to_owned(), action);
        let failures = &mut self.write().failures;
        if success {
            failures.retain(|(v, _), _| v != vsvip);
            return false;
        }
        let before = failures.insert(key, reason.to_owned());
        before.as_deref() == Some(reason)
    }

    /// Places the VIP on these engines; those that it is taken off keep their connections. `begun` is what does not
    /// serve yet.
    async fn assign(
        &self,
        vsvip: &str,
        engines: Vec<String>,
        begun: Vec<Scaling>,
        message: String,
    ) -> Result<(), ApiError> {
        let written = match self.moved_to(vsvip, engines, begun) {
            Ok(next) => self.write_assignment(vsvip, next, message).await,
            Err(full) => Err(full),
        };
        written.inspect_err(|_| self.forget_joins(vsvip))
    }

    /// What the VIP's assignment becomes with these engines.
    fn moved_to(
        &self,
        vsvip: &str,
        engines: Vec<String>,
        begun: Vec<Scaling>,
    ) -> Result<Assignment, ApiError> {
        let before = self.assignment(vsvip);
        let mut next = before.clone();
        let now_s = now_unix_s();
        for gone in before.engines.iter().filter(|e| !engines.contains(e)) {
            next.group.linger(gone, now_s);
        }
        let mut new = engines.iter().filter(|e| !before.engines.contains(e));
        new.try_for_each(|new| next.group.join(new, now_s))
            .map_err(|full| ApiError::bad_request(full.to_string()))?;
        next.engines = engines;
        next.scaling.extend(begun);
        Ok(next)
    }

    /// Engines that were to join the VIP's group, and were not written, do not.
    fn forget_joins(&self, vsvip: &str) {
        let engines = self.assignment(vsvip).engines;
        self.write().joins.keep(vsvip, &engines);
    }

    /// Writes an assignment in the place of the one that the VIP has, durable before anybody hears of it; one that says
    /// nothing is removed.
    async fn write_assignment(
        &self,
        vsvip: &str,
        next: Assignment,
        message: String,
    ) -> Result<(), ApiError> {
        let vsvip = vsvip.to_owned();
        let placement = Placement {
            vsvip,
            next,
            message,
        };
        self.write_one(placement).await
    }

    /// Compiles the desired states that may have changed and hands out what is new. What cannot be compiled leaves in
    /// force what the engine has, and the engine's status says so.
    pub fn publish(&self) {
        let mut published = self.published();
        let (snapshot, marked) = self.take_marks(&mut published);
        if marked.is_empty() {
            return;
        }
        let (decided, revision) = self.decided(&snapshot, &published);
        for uuid in &marked {
            match compile::desired_state(&snapshot, &decided, &mut published.parts, uuid) {
                Ok(desired) => self.registry.desire(uuid, desired, revision),
                Err(unreadable) => self.registry.keep(uuid, &unreadable.to_string()),
            }
        }
        let told = decided.holding.iter();
        self.told(told.filter_map(|j| Some((j.clone(), self.awaited(&decided, j)?))));
    }

    /// Everything that desired states are made from, besides the objects, and the newest revision of it.
    fn decided(&self, snapshot: &Snapshot, published: &Published) -> (compile::Decided, u64) {
        let tables = self.read();
        let decided = compile::Decided {
            assignments: tables.assignments.clone(),
            resets: tables.resets.clone(),
            holding: tables.joins.holding(),
            keys: tables.keys.clone(),
            rotations: tables.rotations.clone(),
            cuts: tables.cuts.keys().cloned().collect(),
            dead: published.dead.clone(),
            away: published.away.clone(),
        };
        (decided, tables.revision.max(snapshot.revision))
    }

    /// What every member that has a session, the joining engine too, has to acknowledge; nothing while the engine has
    /// not been assigned yet.
    fn awaited(
        &self,
        decided: &compile::Decided,
        (vsvip, engine): &join::Joining,
    ) -> Option<BTreeMap<String, u64>> {
        let assignment = decided.assignments.get(vsvip)?;
        assignment.engines.contains(engine).then_some(())?;
        let members = assignment.group.members.iter();
        let told = members.filter_map(|m| Some((m.engine.clone(), self.registry.told(&m.engine)?)));
        Some(told.collect())
    }

    fn is_connected(&self, engine: &str) -> bool {
        self.registry.is_connected(engine)
    }

    /// The engine's name, for people.
    fn name(&self, engine: &str) -> String {
        let snapshot = self.objects.snapshot();
        let name = snapshot.name_of("serviceengine", engine);
        name.unwrap_or(engine).to_owned()
    }

    /// Asks an engine to reset its sessions with these peers (Cease 6/4), and tells it at once. Each time is later than the
    /// one before, also where the clock was set back in between. Gives it.
    pub fn reset_sessions(&self, engine: &str, peers: &[IpAddr], at_unix_ms: u64) -> u64 {
        let mut tables = self.write();
        let before = tables.resets.values().max().copied();
        let at_unix_ms = before.map_or(at_unix_ms, |before| at_unix_ms.max(before + 1));
        let asked = peers
            .iter()
            .map(|peer| ((engine.to_owned(), *peer), at_unix_ms));
        tables.resets.extend(asked);
        tables.marks.engine(engine);
        drop(tables);
        self.publish();
        at_unix_ms
    }

    /// What decisions have in common, as of now.
    fn ground<'a>(&self, snapshot: &'a Snapshot) -> situation::Ground<'a> {
        let assignments = self.read().assignments.clone();
        self.ground_of(snapshot, &assignments)
    }

    /// The same with other assignments.
    fn ground_of<'a>(
        &self,
        snapshot: &'a Snapshot,
        assignments: &Assignments,
    ) -> situation::Ground<'a> {
        let lost = self.read().lost.clone();
        situation::Ground::of(snapshot, &self.registry, assignments, &lost)
    }

    /// The situation in which the planner decides about a VIP.
    fn situation(
        &self,
        snapshot: &Snapshot,
        vsvip: &str,
    ) -> Result<situation::Situation, ApiError> {
        let mut ground = self.ground(snapshot);
        Ok(situation::Situation {
            demand: ground.demand(vsvip)?,
            assigned: self.assignment(vsvip).engines,
            engines: ground.engines,
        })
    }

    /// Places the VIP on one more engine and tells it at once.
    ///
    /// # Errors
    /// 400 with the planner's reason.
    pub async fn scale_out(
        &self,
        vsvip: &str,
        wanted: impl Into<Wanted<'_>>,
    ) -> Result<placement::Choice, ApiError> {
        let _one = self.deciding.lock().await;
        self.scale_out_because(vsvip, wanted.into(), "").await
    }

    /// The same for who decides; `why` comes before the reason of the choice.
    async fn scale_out_because(
        &self,
        vsvip: &str,
        wanted: Wanted<'_>,
        why: &str,
    ) -> Result<placement::Choice, ApiError> {
        let choice = self.choose_scale_out(vsvip, wanted);
        let choice = choice.inspect_err(|e| self.note(vsvip, Action::ScaleOut, Err(&e.text)))?;
        let choice = because(choice, why);
        let mut assigned = self.assignment(vsvip).engines;
        assigned.push(choice.engine.clone());
        let message = format!("scale out to {}: {}", choice.name, choice.reason);
        self.begin_joins(vsvip, std::slice::from_ref(&choice.engine));
        let begun = vec![Scaling {
            to: choice.engine.clone(),
            from: None,
            since_s: now_unix_s(),
            ready_since_s: None,
        }];
        let done = self.assign(vsvip, assigned, begun, message).await;
        done.inspect_err(|e| self.note(vsvip, Action::ScaleOut, Err(&e.text)))?;
        self.note(vsvip, Action::ScaleOut, Ok(&choice));
        self.publish();
        Ok(choice)
    }
}

/// The choice with what led to it before its reason, if anything did.
fn because(choice: placement::Choice, why: &str) -> placement::Choice {
    if why.is_empty() {
        return choice;
    }
    let reason = format!("{why}; {}", choice.reason);
    placement::Choice { reason, ..choice }
}

#[cfg(test)]
mod tests;
