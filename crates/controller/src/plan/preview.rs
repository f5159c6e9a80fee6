//! What a change would do, without doing it: where VIPs would be placed, which routes would come and go, whose flows are
//! concerned. It is worked out from two states of things, as it is and as it would be; nothing here is kept, and
//! nobody hears of it.
//!
//! Health and sessions are as they are: that a route is announced means that it is as soon as the virtual service is up and
//! the session with the peer stands.

mod flows;
mod routes;
mod sharing;
mod simulate;

use super::assignments::Assignments;
use super::runtime::Observer;
use super::{Assignment, Planner, Roles, ScaleIn, Wanted, situation};
use crate::error::ApiError;
use crate::objects::{Planned, Snapshot, pools};
use model::view::{PoolGroup, Ref, VirtualService};
use placement::Choice;
use routes::{Route, Routes};
use serde_json::{Value, json};
use sharing::Sharing;
use simulate::{Joined, Lost};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Entries of a list that are shown; `count` has all.
const SHOWN_MAX: usize = 1000;

/// A state of things.
struct Scene<'a> {
    snapshot: &'a Snapshot,
    assignments: Assignments,
    sharing: Sharing,
}

impl<'a> Scene<'a> {
    fn new(snapshot: &'a Snapshot, assignments: Assignments) -> Self {
        Self {
            snapshot,
            assignments,
            sharing: Sharing::of(snapshot),
        }
    }

    fn services(&self, vsvip: &str) -> Vec<Arc<VirtualService>> {
        situation::services_of(self.snapshot, vsvip)
    }

    fn assignment(&self, vsvip: &str) -> Assignment {
        self.assignments.get(vsvip).cloned().unwrap_or_default()
    }

    fn engines(&self, vsvip: &str) -> &[String] {
        self.assignments.get(vsvip).map_or(&[], |a| &a.engines)
    }
}

/// What placement does between two of them.
#[derive(Default)]
struct Moves {
    /// By VsVip and engine.
    joined: BTreeMap<(String, String), Joined>,
    lost: BTreeMap<(String, String), Lost>,
    /// Why a VIP does not get all the engines that it asks for.
    waiting: BTreeMap<String, String>,
    /// The standby that becomes active, and why; by VsVip.
    active: BTreeMap<String, (String, String)>,
}

/// Of one VIP: by engine.
fn of_vip<'m, T>(
    moves: &'m BTreeMap<(String, String), T>,
    vsvip: &'m str,
) -> impl Iterator<Item = (&'m str, &'m T)> {
    let from = moves.range((vsvip.to_owned(), String::new())..);
    from.take_while(move |((v, _), _)| v == vsvip)
        .map(|((_, se), value)| (se.as_str(), value))
}

/// See the module's documentation.
pub(super) struct Preview<'a> {
    observer: &'a Observer<'a>,
    before: Scene<'a>,
    after: Scene<'a>,
    moves: Moves,
    /// VIPs that may be concerned.
    vsvips: BTreeSet<String>,
    /// VIPs that wait for engines and were left out.
    not_looked_at: usize,
    /// Pools that are written.
    pools: BTreeSet<String>,
}

/// A change of placement that an operator asks for.
pub(super) struct Asked<'a> {
    pub vsvip: &'a str,
    pub engine: &'a str,
    /// The planner's.
    pub reason: &'a str,
    pub kind: AskedKind<'a>,
}

/// Which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AskedKind<'a> {
    ScaleOut,
    /// The engine takes the place of this one.
    Migrate {
        from: &'a str,
    },
    ScaleIn,
    /// Its flows are ended.
    ForcedScaleIn,
}

impl<'a> Preview<'a> {
    /// Of a change of objects.
    pub(super) fn of_change(observer: &'a Observer<'a>, planned: &'a Planned) -> Self {
        let before = Scene::new(&planned.before, observer.planner.assignments());
        let touched = Touched::of(planned, &before.assignments);
        let mut after = Scene::new(&planned.after, before.assignments.clone());
        let (mut moves, mut not_looked_at) = (Moves::default(), 0);
        if touched.placement {
            not_looked_at = simulate::run(observer, &mut after, &touched.vsvips, &mut moves);
        }
        let moved = moves.joined.keys().chain(moves.lost.keys());
        let mut vsvips = touched.vsvips;
        vsvips.extend(touched.others);
        vsvips.extend(moved.map(|(vsvip, _)| vsvip.clone()));
        Self {
            not_looked_at,
            observer,
            before,
            after,
            moves,
            vsvips,
            pools: touched.pools,
        }
    }

    /// Of a scale-out or a scale-in.
    pub(super) fn of_scaling(observer: &'a Observer<'a>, asked: &Asked<'_>) -> Self {
        let scene = || Scene::new(observer.snapshot, observer.planner.assignments());
        let (before, mut after) = (scene(), scene());
        let mut moves = Moves::default();
        simulate::scale(&mut after, asked, &mut moves);
        Self {
            observer,
            before,
            after,
            moves,
            not_looked_at: 0,
            vsvips: [asked.vsvip.to_owned()].into(),
            pools: BTreeSet::new(),
        }
    }

    /// Of switchovers.
    pub(super) fn of_roles(observer: &'a Observer<'a>, roles: &Roles) -> Self {
        let scene = || Scene::new(observer.snapshot, observer.planner.assignments());
        let (before, mut after) = (scene(), scene());
        let mut moves = Moves::default();
        simulate::switch_over(&mut after, roles, &mut moves);
        let moved = roles.moves.iter().map(|(vsvip, _)| vsvip);
        let all = moved.chain(roles.stay.iter().map(|(vsvip, _)| vsvip));
        Self {
            vsvips: all.cloned().collect(),
            observer,
            before,
            after,
            moves,
            not_looked_at: 0,
            pools: BTreeSet::new(),
        }
    }

    /// The plan, of those VIPs that the caller sees.
    pub(super) fn show(&self, sees: &dyn Fn(&str, &str, &Snapshot) -> bool) -> Value {
        let seen = |uuid: &String| {
            let there = |scene: &Scene<'_>| sees("vsvip", uuid, scene.snapshot);
            there(&self.before) || there(&self.after)
        };
        let vsvips: Vec<&String> = self.vsvips.iter().filter(|uuid| seen(uuid)).collect();
        let (mut old, mut new) = (Routes::new(&self.before), Routes::new(&self.after));
        let (mut announced, mut withdrawn) = (Vec::new(), Vec::new());
        let (mut placement, mut flows) = (Vec::new(), Vec::new());
        for vsvip in vsvips {
            let registry = self.observer.registry;
            let (before, after) = (old.of(registry, vsvip), new.of(registry, vsvip));
            let shown = |route: &Route| self.route(vsvip, route);
            announced.extend(routes::missing(&after, &before).iter().map(shown));
            let gone = routes::missing(&before, &after);
            withdrawn.extend(gone.iter().map(|r| self.withdrawn(vsvip, r)));
            placement.extend(self.placement(vsvip));
            flows.extend(self.flows_of(vsvip, &before, &after));
        }
        flows.extend(self.flows_of_servers());
        let mut placement = list(placement);
        placement["not_looked_at"] = self.not_looked_at.into();
        json!({
            "placement": placement,
            "routes": {"announced": list(announced), "withdrawn": list(withdrawn)},
            "flows": list(flows),
        })
    }

    fn route(&self, vsvip: &str, route: &Route) -> Value {
        json!({
            "vip": route.vip, "vsvip": self.name("vsvip", vsvip), "se_uuid": route.engine,
            "se_name": self.name("serviceengine", &route.engine), "peers": route.peers,
        })
    }

    /// Also whether a peer has the route now.
    fn withdrawn(&self, vsvip: &str, route: &Route) -> Value {
        let report = self.observer.registry.get(&route.engine).report;
        let sessions = report.iter().flat_map(|r| &r.bgp_sessions);
        let mut routes = sessions.flat_map(|s| &s.routes);
        let prefix = super::explain::host_prefix(route.vip);
        let in_force = routes.any(|r| r.sent && r.prefix == prefix);
        let mut shown = self.route(vsvip, route);
        shown["in_force"] = in_force.into();
        shown
    }

    /// As it would be called, or was.
    fn name(&self, path: &str, uuid: &str) -> String {
        let of = |scene: &Scene<'a>| scene.snapshot.name_of(path, uuid);
        let name = of(&self.after).or_else(|| of(&self.before));
        name.unwrap_or(uuid).to_owned()
    }

    /// What becomes of a VIP's placement, if anything does.
    fn placement(&self, vsvip: &str) -> Option<Value> {
        let (before, after) = (self.before.engines(vsvip), self.after.engines(vsvip));
        let added: Vec<Value> = of_vip(&self.moves.joined, vsvip)
            .map(|(se, joined)| self.move_of(se, &joined.reason))
            .collect();
        let removed: Vec<Value> = of_vip(&self.moves.lost, vsvip)
            .map(|(se, lost)| self.move_of(se, &lost.reason))
            .collect();
        let waiting = self.moves.waiting.get(vsvip);
        let active = self.moves.active.get(vsvip);
        let active = active.map(|(se, reason)| self.move_of(se, reason));
        if added.is_empty() && removed.is_empty() && waiting.is_none() && active.is_none() {
            return None;
        }
        let names = |engines: &[String]| -> Vec<String> {
            let each = engines.iter();
            each.map(|e| self.name("serviceengine", e)).collect()
        };
        Some(json!({
            "vsvip": self.name("vsvip", vsvip), "vsvip_uuid": vsvip,
            "virtual_services": self.services_of(vsvip),
            "result": match (&active, &waiting) {
                (Some(_), None) if added.is_empty() && removed.is_empty() => "switched_over",
                _ => result(before, after, !added.is_empty(), !removed.is_empty()),
            },
            "engines": names(after), "engines_before": names(before),
            "added": added, "removed": removed, "waits_for": waiting, "becomes_active": active,
        }))
    }

    fn move_of(&self, se: &str, reason: &str) -> Value {
        json!({"se_uuid": se, "se_name": self.name("serviceengine", se), "reason": reason})
    }

    /// Names of those that have the VIP then, else of those that have it now.
    fn services_of(&self, vsvip: &str) -> Vec<String> {
        let of = |scene: &Scene<'_>| -> Vec<String> {
            let uuids = scene.sharing.uuids(vsvip).iter();
            uuids.map(|vs| self.name("virtualservice", vs)).collect()
        };
        let after = of(&self.after);
        if after.is_empty() {
            of(&self.before)
        } else {
            after
        }
    }
}

/// In one word.
fn result(before: &[String], after: &[String], added: bool, removed: bool) -> &'static str {
    match (added, removed) {
        (true, _) if before.is_empty() => "placed",
        (_, true) if after.is_empty() => "removed",
        (true, true) => "moved",
        (true, false) => "scaled_out",
        (false, true) => "scaled_in",
        (false, false) => "waiting",
    }
}

fn list(mut all: Vec<Value>) -> Value {
    let count = all.len();
    all.truncate(SHOWN_MAX);
    json!({"count": count, "results": all})
}

/// What a change of objects is about.
#[derive(Default)]
struct Touched {
    /// VIPs that are written, or whose virtual services are.
    vsvips: BTreeSet<String>,
    /// Those of an engine, a group or a VRF that is.
    others: BTreeSet<String>,
    pools: BTreeSet<String>,
    /// It may change where VIPs are placed.
    placement: bool,
}

/// Types whose objects say where VIPs are placed.
const PLACING: [&str; 6] = [
    "virtualservice",
    "vsvip",
    "serviceengine",
    "serviceenginegroup",
    "vrfcontext",
    "cloud",
];

impl Touched {
    fn of(planned: &Planned, assignments: &Assignments) -> Self {
        let mut touched = Self::default();
        for (path, uuid) in &planned.touched {
            touched.placement |= PLACING.contains(path);
            for snapshot in [&*planned.before, &planned.after] {
                touched.add(snapshot, path, uuid, assignments);
            }
        }
        touched
    }

    fn add(&mut self, snapshot: &Snapshot, path: &str, uuid: &str, assignments: &Assignments) {
        let own = Ref::to(path, uuid).0;
        let field = |ty: &str, uuid: &str, name: &str| {
            let stored = snapshot.get(ty, uuid)?;
            Some(stored.object.get(name)?.as_str()?.to_owned())
        };
        let last = |reference: String| Ref(reference).uuid().to_owned();
        match path {
            "vsvip" => drop(self.vsvips.insert(uuid.to_owned())),
            "pool" => drop(self.pools.insert(uuid.to_owned())),
            "poolgroup" => {
                let group = snapshot.view::<PoolGroup>(path, uuid);
                let members = group.iter().flat_map(|g| pools::of_group(g));
                self.pools.extend(members.map(str::to_owned));
            }
            "virtualservice" => {
                self.vsvips.extend(field(path, uuid, "vsvip_ref").map(last));
                let view = snapshot.view::<VirtualService>(path, uuid);
                self.pools
                    .extend(view.iter().flat_map(|vs| pools::of(snapshot, vs)));
            }
            "serviceengine" => {
                let here = assignments.at(uuid);
                self.others.extend(here.map(|(vsvip, _)| vsvip.to_owned()));
            }
            "vrfcontext" => {
                let all = snapshot.all("vsvip").map(|(v, _)| v);
                let here =
                    all.filter(|v| field("vsvip", v, "vrf_context_ref").as_ref() == Some(&own));
                self.others.extend(here.map(str::to_owned));
            }
            "serviceenginegroup" => {
                let all = snapshot.all("virtualservice").map(|(v, _)| v);
                let own = all
                    .filter(|v| field("virtualservice", v, "se_group_ref").as_ref() == Some(&own));
                let vips = own.filter_map(|v| field("virtualservice", v, "vsvip_ref"));
                self.others.extend(vips.map(last));
            }
            _ => {}
        }
    }
}

impl Planner {
    fn assignments(&self) -> Assignments {
        self.read().assignments.clone()
    }

    /// The engine that [`Planner::scale_out`] would choose, without doing or noting anything.
    ///
    /// # Errors
    /// 400 with the planner's reason.
    pub(super) fn choose_scale_out(
        &self,
        vsvip: &str,
        wanted: Wanted<'_>,
    ) -> Result<Choice, ApiError> {
        let mut situation = self.situation(&self.objects.snapshot(), vsvip)?;
        situation.demand.host = wanted.host.map(str::to_owned);
        let (demand, engines) = (&situation.demand, &situation.engines);
        let choice = placement::scale_out(demand, engines, &situation.assigned, wanted.engine);
        choice.map_err(|e| ApiError::bad_request(e.to_string()))
    }

    /// The engine that [`Planner::scale_in`] would choose, without doing or noting anything.
    ///
    /// # Errors
    /// 400 with the planner's reason.
    pub(super) fn choose_scale_in(
        &self,
        vsvip: &str,
        ask: ScaleIn<'_>,
    ) -> Result<Choice, ApiError> {
        if let Some(engine) = self.lingering_named(vsvip, ask.wanted) {
            return self.end_choice(vsvip, &engine, ask.force);
        }
        let situation = self.situation(&self.objects.snapshot(), vsvip)?;
        let (demand, engines) = (&situation.demand, &situation.engines);
        let assigned = &situation.assigned;
        let choice = placement::scale_in(demand, engines, assigned, ask.wanted, ask.primary);
        choice.map_err(|e| ApiError::bad_request(e.to_string()))
    }
}

#[cfg(test)]
mod tests;
