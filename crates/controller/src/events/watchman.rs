//! Sees what happens and says it: the witness of commits, engines and the planner.

mod hellos;
mod redundancy;

use super::event::{Event, Id, Subject};
use super::observe::{Change, Kind, Observed, Thing};
use super::{Events, sources};
use crate::clock::now_us;
use crate::engines::Registry;
use crate::health_score::Score;
use crate::objects::{Objects, Snapshot, pools};
use crate::plan::{Action, LastScale, Planner};
use crate::series::{self, Series};
use crate::witness::{Committed, Witness};
use hellos::Hellos;
use model::view::VirtualService;
use placement::autoscale::{Decision, Step};
use proto::v1::{OperState, Report};
use redundancy::Standings;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time that engines have after a start of the controller to say what they have.
const SETTLES_AFTER: Duration = Duration::from_secs(30);
/// Virtual services of a VIP that have an event each.
const SERVICES_MAX: usize = 20;

/// Engines that a VIP was placed on and that are to be up there, by engine and VsVip. The planner has the time for it.
type Pending = BTreeSet<(String, String)>;

struct State {
    observed: Observed,
    /// Engines, and whether they have a session, as was said last.
    engines: HashMap<String, bool>,
    placed: Pending,
    hellos: Hellos,
    standings: Standings,
    settled: bool,
}

/// See the module's documentation.
pub struct Watchman {
    events: Arc<Events>,
    objects: Arc<Objects>,
    registry: Arc<Registry>,
    planner: Arc<Planner>,
    series: Arc<Series>,
    state: Mutex<State>,
    started: Instant,
}

impl Watchman {
    /// Takes its seats; what engines do from now on is compared with what the last events say.
    pub fn begin(
        events: Arc<Events>,
        objects: Arc<Objects>,
        registry: Arc<Registry>,
        planner: Arc<Planner>,
        series: Arc<Series>,
    ) -> Arc<Self> {
        let state = State {
            observed: remembered(&events, &objects.snapshot()),
            engines: engines(&events),
            placed: Pending::new(),
            hellos: hellos::remembered(&events),
            standings: redundancy::remembered(&events),
            settled: false,
        };
        let watchman = Arc::new(Self {
            events,
            objects: objects.clone(),
            registry: registry.clone(),
            planner: planner.clone(),
            series,
            state: Mutex::new(state),
            started: Instant::now(),
        });
        let witness: Arc<dyn Witness> = watchman.clone();
        objects.witness.take(&witness);
        registry.witness.take(&witness);
        planner.witness.take(&witness);
        watchman
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What time brings about: engines that do not come back.
    pub fn tick(&self) {
        if Instant::now() >= self.started + SETTLES_AFTER {
            self.settle();
        }
        self.forget_engines();
        self.lock().hellos.tick(Instant::now());
        self.look_at_redundancy(Instant::now());
        let snapshot = self.objects.snapshot();
        let look = |kind: series::Kind, uuid: &str| match kind {
            series::Kind::VirtualService => self.score(uuid).map(Score::value),
            series::Kind::Controller => Some(0.0),
            kind => snapshot.get(kind.path(), uuid).map(|_| 0.0),
        };
        self.series.tick(now_us() / 1_000_000, &look);
    }

    /// What is observed of a virtual service, in one number; none when there is no such object.
    pub fn score(&self, uuid: &str) -> Option<Score> {
        let snapshot = self.objects.snapshot();
        let vs = snapshot.view::<VirtualService>("virtualservice", uuid)?;
        let used = pools::of(&snapshot, &vs);
        let state = self.lock();
        let servers = used.iter().map(|pool| state.observed.servers(pool));
        let servers = servers.fold((0, 0), |(up, all), (u, a)| (up + u, all + a));
        let count = state.observed.count(Kind::Service, uuid, "");
        Some(Score::new(count, servers))
    }

    fn settle(&self) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.settled, true) {
            return;
        }
        let changes = state.observed.settle();
        let up = state.engines.iter().filter(|(_, up)| **up);
        let silent: Vec<String> = up
            .map(|(se, _)| se.clone())
            .filter(|se| !self.registry.is_connected(se))
            .collect();
        drop(state);
        for se in silent {
            self.session(
                &se,
                false,
                "it has had no session since the controller started",
            );
        }
        self.say(&changes);
    }

    /// What an engine had that was deleted is not there.
    fn forget_engines(&self) {
        let snapshot = self.objects.snapshot();
        let mut state = self.lock();
        let gone = |se: &&String| snapshot.get("serviceengine", se).is_none();
        let gone: Vec<String> = state.engines.keys().filter(gone).cloned().collect();
        let mut changes = Vec::new();
        for se in gone {
            state.engines.remove(&se);
            changes.extend(state.observed.forget(&se));
        }
        let exists = |path: &str, uuid: &str| snapshot.get(path, uuid).is_some();
        let placed = &mut state.placed;
        placed.retain(|(se, vsvip)| exists("serviceengine", se) && exists("vsvip", vsvip));
        drop(state);
        self.say(&changes);
    }

    /// The engine has a session, or none any more.
    fn session(&self, se: &str, up: bool, why: &str) {
        let snapshot = self.objects.snapshot();
        let known = self.lock().engines.insert(se.to_owned(), up);
        let Some(subject) =
            Subject::of(&snapshot, "serviceengine", se).filter(|_| known != Some(up))
        else {
            return;
        };
        let name = subject.name.clone();
        let event = match up {
            true => Event::new(
                Id::SeUp,
                subject,
                format!("{name} has a session with the controller"),
            ),
            false => {
                let text = format!("{name} has no session with the controller: {why}");
                let details = json!({"se_name": name, "reason": why});
                Event::new(Id::SeDown, subject, text)
                    .because(super::observe::DISCONNECTED)
                    .with_details("se_details", details)
            }
        };
        self.events.record(event);
    }

    fn say(&self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        let snapshot = self.objects.snapshot();
        let teller = Teller {
            snapshot: &snapshot,
            registry: &self.registry,
        };
        for event in changes.iter().flat_map(|c| teller.tell(c)) {
            self.events.record(event);
        }
    }

    /// The same of each virtual service of a VIP.
    fn of_services(&self, id: Id, vsvip: &str, se: &str, text: &str) {
        let snapshot = self.objects.snapshot();
        let name = snapshot.name_of("serviceengine", se).unwrap_or(se);
        let details = self.scale_details(&snapshot, vsvip, text);
        for uuid in services(&snapshot, vsvip).iter().take(SERVICES_MAX) {
            let Some(subject) = Subject::of(&snapshot, "virtualservice", uuid) else {
                continue;
            };
            let sentence = match name {
                "" => format!("{}: {text}", subject.name),
                name => format!("{} at {name}: {text}", subject.name),
            };
            let mut details = details.clone();
            details["vs_uuid"] = json!(uuid);
            let event = Event::new(id, subject, sentence)
                .of_part(se)
                .with_details(details_key(id), details)
                .with_related(
                    [vsvip.to_owned(), se.to_owned()]
                        .into_iter()
                        .filter(|u| !u.is_empty()),
                );
            self.events.record(event);
        }
    }

    /// Of the VIP itself.
    fn of_vip(&self, id: Id, vsvip: &str, se: &str, text: &str) {
        let snapshot = self.objects.snapshot();
        let Some(subject) = Subject::of(&snapshot, "vsvip", vsvip) else {
            return;
        };
        let details = self.scale_details(&snapshot, vsvip, text);
        let related = services(&snapshot, vsvip)
            .into_iter()
            .chain([se.to_owned()]);
        let event = Event::new(id, subject, text)
            .of_part(se)
            .with_details(details_key(id), details)
            .with_related(related.filter(|u| !u.is_empty()));
        self.events.record(event);
    }

    fn scale_details(&self, snapshot: &Snapshot, vsvip: &str, text: &str) -> Value {
        let engines = self.planner.assignment(vsvip).engines;
        let requested = self.planner.requested(snapshot, vsvip);
        let name = |se: &String| {
            snapshot
                .name_of("serviceengine", se)
                .unwrap_or(se)
                .to_owned()
        };
        let vips = snapshot
            .get("vsvip", vsvip)
            .and_then(|s| s.object.get("vip"))
            .cloned();
        let first = vips
            .as_ref()
            .and_then(|v| v.get(0))
            .cloned()
            .unwrap_or_default();
        json!({
            "ip": first["ip_address"], "ip6": first["ip6_address"],
            "se_assigned": engines.iter().map(name).collect::<Vec<_>>(),
            "se_requested": {"num_se": requested.num_se, "num_standby_se": requested.num_standby_se},
            "scale_status": self.planner.scale_status(snapshot, vsvip),
            "error_message": text,
        })
    }

    /// Of the placements on this engine, those that have brought a service up there.
    fn placed_is_up(&self, se: &str, report: &Report) {
        let mut state = self.lock();
        let from = (se.to_owned(), String::new());
        let pending = state
            .placed
            .range(from..)
            .take_while(|(engine, _)| engine == se);
        let pending: Vec<_> = pending.cloned().collect();
        if pending.is_empty() {
            return;
        }
        let snapshot = self.objects.snapshot();
        let up = report.virtual_services.iter();
        let up = up.filter(|s| s.state == i32::from(OperState::Up));
        let up: HashSet<&str> = up.map(|s| s.uuid.as_str()).collect();
        let is_up = |uuid: &String| up.contains(uuid.as_str());
        let done = pending.into_iter();
        let done = done.filter(|(_, vsvip)| services(&snapshot, vsvip).iter().any(is_up));
        let done: Vec<_> = done.collect();
        for key in &done {
            state.placed.remove(key);
        }
        drop(state);
        for (se, vsvip) in done {
            // It was lost before it was up there, and others have its place: what it still has is no scale-out.
            if !self.planner.assignment(&vsvip).engines.contains(&se) {
                continue;
            }
            self.of_services(Id::VsScaleoutComplete, &vsvip, &se, "it is up there");
        }
    }
}

impl Witness for Watchman {
    fn committed(&self, commit: &Committed<'_>) {
        for event in sources::config(commit) {
            self.events.record(event);
        }
    }

    fn engine_came(&self, se: &str) {
        self.session(se, true, "");
        self.lock().hellos.lost(se, Instant::now());
        // A session that replaces another ends none: what was counted between the two is left out, too.
        self.series.lost(se);
    }

    fn engine_went(&self, se: &str, why: &str) {
        self.session(se, false, why);
        self.lock().hellos.lost(se, Instant::now());
        self.series.lost(se);
        let changes = self.lock().observed.lost(se);
        self.say(&changes);
    }

    fn engine_reported(&self, se: &str, report: &Report) {
        self.series.report(se, report, now_us() / 1_000_000);
        let changes = self.lock().observed.report(se, report);
        self.say(&changes);
        self.placed_is_up(se, report);
        self.hears(se, report);
    }

    fn scaled(&self, vsvip: &str, step: &LastScale) {
        let se = step.engine.as_deref().unwrap_or_default();
        let (vip, service) = match (step.action, step.success) {
            (Action::Switchover, true) => {
                // Where something is waited for, the planner says when it is done.
                let waits = self.planner.assignment(vsvip).switchover.is_some();
                (Id::VipSwitchover, (!waits).then_some(Id::VsSwitchover))
            }
            (Action::Switchover, false) => return,
            (Action::SwitchoverRolledBack, _) => {
                (Id::VipSwitchoverFailed, Some(Id::VsSwitchoverFailed))
            }
            (Action::ScaleIn, true) => (Id::VipScalein, None),
            (Action::ScaleIn, false) => (Id::VipScaleinFailed, Some(Id::VsScaleinFailed)),
            (Action::MigrateScaleout, true) => (Id::VipScaleout, Some(Id::VsMigrateStarted)),
            (Action::MigrateScalein, true) => (Id::VipScalein, Some(Id::VsMigrateComplete)),
            (
                Action::MigrateScaleout | Action::MigrateScalein | Action::MigrateRolledBack,
                false,
            ) => (Id::VipScaleoutFailed, Some(Id::VsMigrateFailed)),
            (_, true) => (Id::VipScaleout, None),
            (_, false) => (Id::VipScaleoutFailed, Some(Id::VsScaleoutFailed)),
        };
        let key = (se.to_owned(), vsvip.to_owned());
        match (vip, step.action) {
            (Id::VipScaleout, Action::InitialPlacement | Action::SeRemoved) => {
                self.lock().placed.insert(key);
            }
            // Of a scale-out and a migration the planner says when they are done.
            (Id::VipScaleout | Id::VipScalein, _) => {
                self.lock().placed.remove(&key);
            }
            _ => {}
        }
        self.of_vip(vip, vsvip, se, &step.reason);
        match service {
            // It is about two engines, and names them.
            Some(Id::VsMigrateComplete) => {
                self.of_services(Id::VsMigrateComplete, vsvip, "", &step.reason);
            }
            Some(id) => self.of_services(id, vsvip, se, &step.reason),
            None => {}
        }
    }

    /// An event of the VIP and not of the engine: engines are seen in all tenants, and VIPs are not.
    fn joined(&self, vsvip: &str, se: &str, late: &[String]) {
        let snapshot = self.objects.snapshot();
        let name = |uuid: &str| {
            snapshot
                .name_of("serviceengine", uuid)
                .unwrap_or(uuid)
                .to_owned()
        };
        let joining = name(se);
        if late.is_empty() {
            let text = format!("every engine of the VIP knows {joining}");
            return self.of_vip(Id::SeScaleoutReady, vsvip, se, &text);
        }
        let late: Vec<String> = late.iter().map(|se| name(se)).collect();
        let text = format!("{} have not confirmed {joining}", late.join(", "));
        self.of_vip(Id::SeScaleoutReadyTimedout, vsvip, se, &text);
    }

    fn arrived(&self, vsvip: &str, se: &str, why: &str) {
        self.of_services(Id::VsScaleoutComplete, vsvip, se, why);
    }

    fn time_is_up(&self, vsvip: &str, se: &str, why: &str) {
        let key = (se.to_owned(), vsvip.to_owned());
        if self.lock().placed.remove(&key) {
            self.of_services(Id::VsScaleoutFailed, vsvip, se, why);
        }
    }

    fn not_ready(&self, vsvip: &str, se: &str, why: &str) {
        self.of_vip(Id::SeScaleoutReadyTimedout, vsvip, se, why);
    }

    fn recommended(&self, vsvip: &str, advice: &Decision) {
        let snapshot = self.objects.snapshot();
        let text = match advice.step {
            Step::Keep => {
                format!("its load asks for no other number of engines any more: {advice}")
            }
            step => format!(
                "its load asks for {} (auto_rebalance is off): {advice}",
                step.word()
            ),
        };
        let details = json!({"action": advice.step.word(), "reason": advice.to_string()});
        for uuid in services(&snapshot, vsvip).iter().take(SERVICES_MAX) {
            let Some(subject) = Subject::of(&snapshot, "virtualservice", uuid) else {
                continue;
            };
            let sentence = format!("{}: {text}", subject.name);
            let event = Event::new(Id::VsAutoscaleRecommended, subject, sentence)
                .because(advice.why.code())
                .with_details("vs_autoscale_details", details.clone())
                .with_related([vsvip.to_owned()]);
            self.events.record(event);
        }
    }

    fn left(&self, vsvip: &str, se: &str, why: &str) {
        self.of_services(Id::VsScaleinComplete, vsvip, se, why);
    }

    fn switched(&self, vsvip: &str, se: &str, why: &str) {
        self.of_services(Id::VsSwitchover, vsvip, se, why);
    }

    fn move_ended(&self, vsvip: &str, done: bool, why: &str) {
        let id = match done {
            true => Id::VsMigrateComplete,
            false => Id::VsMigrateFailed,
        };
        self.of_services(id, vsvip, "", why);
    }

    fn released(&self, vsvip: &str, se: &str, why: &str) {
        self.of_vip(Id::SeScaleinReady, vsvip, se, why);
    }

    fn not_released(&self, vsvip: &str, se: &str, why: &str) {
        self.of_vip(Id::SeScaleinReadyTimedout, vsvip, se, why);
    }
}

/// Puts changes into words.
struct Teller<'a> {
    snapshot: &'a Snapshot,
    registry: &'a Registry,
}

impl Teller<'_> {
    /// The events of a change; none when the object is gone, whose deletion has been said.
    fn tell(&self, change: &Change) -> Vec<Event> {
        let Change {
            thing,
            up,
            code,
            text,
        } = change;
        let Some(subject) = Subject::of(self.snapshot, path(thing.kind), &thing.uuid) else {
            return Vec::new();
        };
        if thing.kind == Kind::Peer {
            return self.tell_peer(subject, change);
        }
        let (id, what) = match (thing.kind, *up) {
            (Kind::Service, true) => (Id::VsUp, "is up"),
            (Kind::Service, false) => (Id::VsDown, "is down"),
            (Kind::Vip, true) => (Id::VipUp, "is announced"),
            (Kind::Vip, false) => (Id::VipDown, "is announced by no engine"),
            (Kind::Pool, true) => (Id::PoolUp, "is up"),
            (Kind::Pool, false) => (Id::PoolDown, "is down"),
            (Kind::Server | Kind::Peer, true) => (Id::ServerUp, "is up"),
            (Kind::Server | Kind::Peer, false) => (Id::ServerDown, "is down"),
        };
        let whole = match thing.part.as_str() {
            "" => subject.name.clone(),
            part => format!("{part} of {}", subject.name),
        };
        let why = match (text.as_str(), code.as_str()) {
            ("", "" | "up") => String::new(),
            ("", code) => format!(": {code}"),
            (text, _) => format!(": {text}"),
        };
        let details = json!({"ip": thing.part, "error_message": text});
        let event = Event::new(id, subject, format!("{whole} {what}{why}"))
            .of_part(&thing.part)
            .because(code)
            .with_related(users(self.snapshot, path(thing.kind), &thing.uuid));
        vec![match details_key(id) {
            "" => event,
            key => event.with_details(key, details),
        }]
    }

    fn tell_peer(&self, subject: Subject, change: &Change) -> Vec<Event> {
        let Change {
            thing,
            up,
            code,
            text,
        } = change;
        let peer = thing.part.split(' ').next().unwrap_or_default();
        let (vrf, name) = (self.registry.vrf_name(&thing.uuid), subject.name.clone());
        let state = json!({"peer_ip": peer, "peer_state": code, "vrf_name": vrf});
        let said = format!("{name}: the BGP session with {peer} is {code}");
        let moved = Event::new(Id::BgpPeerStateChange, subject.clone(), said)
            .of_part(&thing.part)
            .with_details(details_key(Id::BgpPeerStateChange), state);
        if *up {
            return vec![moved];
        }
        let why = if text.is_empty() { code } else { text };
        let down = json!({"peer_ip": peer, "vrf_name": vrf, "message": why});
        let said = format!("{name}: the BGP session with {peer} went down: {why}");
        let down = Event::new(Id::BgpPeerDown, subject, said)
            .of_part(&thing.part)
            .with_details(details_key(Id::BgpPeerDown), down);
        vec![moved, down]
    }
}

/// Path of the type that a thing belongs to.
fn path(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "virtualservice",
        Kind::Vip => "vsvip",
        Kind::Pool | Kind::Server => "pool",
        Kind::Peer => "serviceengine",
    }
}

/// The key in `event_details` (avi-api section 11); empty for events whose details are in their text.
fn details_key(id: Id) -> &'static str {
    match id {
        Id::BgpPeerStateChange => "se_bgp_peer_state_change_details",
        Id::BgpPeerDown => "se_bgp_peer_down_details",
        Id::VipScaleout
        | Id::VipScaleoutFailed
        | Id::VsScaleoutComplete
        | Id::VsScaleoutFailed
        | Id::SeScaleoutReady
        | Id::SeScaleoutReadyTimedout => "vs_scaleout_details",
        Id::VipScalein
        | Id::VipScaleinFailed
        | Id::VsScaleinComplete
        | Id::VsScaleinFailed
        | Id::SeScaleinReady
        | Id::SeScaleinReadyTimedout => "vs_scalein_details",
        Id::VsMigrateStarted | Id::VsMigrateComplete | Id::VsMigrateFailed => "vs_migrate_details",
        Id::VipSwitchover | Id::VipSwitchoverFailed | Id::VsSwitchover | Id::VsSwitchoverFailed => {
            "vs_switchover_details"
        }
        Id::VsSeHaActive | Id::VsSeHaCompromised => "se_hm_vs_details",
        Id::SeDpHbFailed => "se_hb_event_details",
        Id::SeDpHbRecovered => "se_hb_recovered_event_details",
        Id::VipUp | Id::VipDown => "vip_details",
        Id::ServerUp | Id::ServerDown => "server_details",
        _ => "",
    }
}

/// uuids of the virtual services of a VIP.
fn services(snapshot: &Snapshot, vsvip: &str) -> Vec<String> {
    users(snapshot, "vsvip", vsvip)
}

/// uuids of the virtual services that use an object.
fn users(snapshot: &Snapshot, path: &str, uuid: &str) -> Vec<String> {
    if path == "pool" {
        let services = pools::users(snapshot, uuid).into_iter();
        return services.map(|vs| vs.uuid.clone()).collect();
    }
    let all = snapshot.referring_to(path, uuid);
    let services = all.filter(|(ty, _)| *ty == "virtualservice");
    services.map(|(_, uuid)| uuid.to_owned()).collect()
}

/// What the last events say of each thing, and what existed then.
fn remembered(events: &Events, snapshot: &Snapshot) -> Observed {
    let mut observed = Observed::default();
    let paths = ["virtualservice", "vsvip", "pool", "serviceengine"];
    let existing = paths.iter().flat_map(|path| snapshot.all(path));
    observed.begin(existing.map(|(uuid, _)| uuid.to_owned()));
    let mut last: BTreeMap<Thing, bool> = BTreeMap::new();
    for event in events.all() {
        if let Some((kind, up)) = said_of(&event) {
            let (uuid, part) = (event.subject.uuid.clone(), event.part.clone());
            last.insert(Thing { kind, uuid, part }, up);
        }
    }
    let exists = |thing: &Thing| snapshot.get(path(thing.kind), &thing.uuid).is_some();
    for (thing, up) in last.iter().filter(|(thing, _)| exists(thing)) {
        observed.remember(thing, *up);
    }
    observed
}

/// What an event says of a thing.
fn said_of(event: &Event) -> Option<(Kind, bool)> {
    Some(match event.id {
        Id::VsUp => (Kind::Service, true),
        Id::VsDown => (Kind::Service, false),
        Id::VipUp => (Kind::Vip, true),
        Id::VipDown => (Kind::Vip, false),
        Id::PoolUp => (Kind::Pool, true),
        Id::PoolDown => (Kind::Pool, false),
        Id::ServerUp => (Kind::Server, true),
        Id::ServerDown => (Kind::Server, false),
        Id::BgpPeerStateChange => {
            let details = event.details();
            let details = &details[details_key(Id::BgpPeerStateChange)];
            (Kind::Peer, details["peer_state"] == "ESTABLISHED")
        }
        _ => return None,
    })
}

/// Engines, and whether they had a session, as the last events say.
fn engines(events: &Events) -> HashMap<String, bool> {
    let each = events.all().into_iter().filter_map(|event| match event.id {
        Id::SeUp => Some((event.subject.uuid.clone(), true)),
        Id::SeDown => Some((event.subject.uuid.clone(), false)),
        _ => None,
    });
    each.collect()
}

#[cfg(test)]
mod tests;
