//! What the reconciler would do with placement, on a copy.

use super::{Asked, AskedKind, Moves, Scene, of_vip};
use crate::clock::now_unix_s;
use crate::objects::Stored;
use crate::plan::decision::{Decision, succeeds, successor};
use crate::plan::leave::{DISABLED, SCALED_IN};
use crate::plan::reconcile::DELETED;
use crate::plan::runtime::Observer;
use crate::plan::scaling::MIGRATED;
use crate::plan::situation::{self, Ground};
use crate::plan::{Action, Assignment, Roles};
use model::view::{Ref, ServiceEngineGroup};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// VIPs beside those that the change is about which are looked at: they wait for engines that it may free.
const OTHERS_MAX: usize = 200;

/// An engine gets a VIP.
pub(super) struct Joined {
    pub reason: String,
}

/// An engine loses one.
pub(super) struct Lost {
    pub reason: String,
    /// What becomes of its flows, where it is not to be told from the routes.
    pub end: Option<End>,
}

/// The end of flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The engine is told to cut them.
    Cut,
    /// The engine is told nothing any more.
    NotKnown,
}

/// All that the reconciler does after a change of objects; `direct` are the VIPs that it is about. Gives how many others
/// were not looked at.
pub(super) fn run(
    observer: &Observer<'_>,
    after: &mut Scene<'_>,
    direct: &BTreeSet<String>,
    moves: &mut Moves,
) -> usize {
    remove_unused(after, moves);
    forget_deleted_engines(after, moves);
    disable(after, moves);
    let mut ground = observer
        .planner
        .ground_of(after.snapshot, &after.assignments);
    let give_way: BTreeSet<String> = (ground.engines.iter())
        .filter(|e| e.gives_way().is_some())
        .map(|e| e.uuid.clone())
        .collect();
    let moves_on = |vsvip: &String| {
        let engines = after.engines(vsvip);
        lacks_engines(after, vsvip)
            || redistributes(after, vsvip)
            || engines.iter().any(|e| give_way.contains(e))
    };
    let used = after.sharing.vsvips();
    let (first, others): (Vec<_>, Vec<_>) = used
        .filter(|vsvip| moves_on(vsvip))
        .cloned()
        .partition(|vsvip| direct.contains(vsvip));
    // Those that lose an engine come first.
    let loses = |vsvip: &String| of_vip(&moves.lost, vsvip).next().is_some();
    let (mut others, rest): (Vec<_>, Vec<_>) = others.into_iter().partition(loses);
    others.extend(rest);
    let not_looked_at = others.len().saturating_sub(OTHERS_MAX);
    for vsvip in first.iter().chain(others.iter().take(OTHERS_MAX)) {
        decide(&mut ground, after, vsvip, direct.contains(vsvip), moves);
    }
    not_looked_at
}

/// A scale-out or scale-in that the planner has decided.
pub(super) fn scale(after: &mut Scene<'_>, asked: &Asked<'_>, moves: &mut Moves) {
    let key = (asked.vsvip.to_owned(), asked.engine.to_owned());
    let reason = asked.reason.to_owned();
    let mut assignment = after.assignment(asked.vsvip);
    let before = assignment.engines.clone();
    match asked.kind {
        AskedKind::ScaleOut => {
            assignment.engines.push(key.1.clone());
            moves.joined.insert(key, Joined { reason });
        }
        AskedKind::Migrate { from } => {
            assignment.engines.push(key.1.clone());
            let joined = Joined {
                reason: reason.clone(),
            };
            moves.joined.insert(key, joined);
            assignment.engines.retain(|e| e != from);
            let moved = (asked.vsvip.to_owned(), from.to_owned());
            moves.lost.insert(moved, Lost { reason, end: None });
        }
        AskedKind::ScaleIn => {
            assignment.engines.retain(|e| *e != key.1);
            moves.lost.insert(key, Lost { reason, end: None });
        }
        AskedKind::ForcedScaleIn => {
            leave(&mut assignment, &key.1);
            let end = Some(End::Cut);
            moves.lost.insert(key, Lost { reason, end });
        }
    }
    after.assignments.insert(asked.vsvip.to_owned(), assignment);
    let why = match asked.kind {
        AskedKind::Migrate { .. } => MIGRATED,
        _ => SCALED_IN,
    };
    succeed(after, asked.vsvip, &before, why, moves);
}

/// The standby of a VIP that was on these engines becomes active, if the active one loses its place.
fn succeed(after: &Scene<'_>, vsvip: &str, before: &[String], why: &str, moves: &mut Moves) {
    let Some(group) = situation::group_of(after.snapshot, vsvip) else {
        return;
    };
    let ha = situation::ha(&group);
    if let Some(active) = successor(before, after.engines(vsvip), ha) {
        let name = after.snapshot.name_of("serviceengine", active);
        let choice = succeeds(active, name.unwrap_or(active), why);
        let active = (choice.engine, choice.reason);
        moves.active.insert(vsvip.to_owned(), active);
    }
}

/// Switchovers that the planner has decided, and what it could not decide.
pub(super) fn switch_over(after: &mut Scene<'_>, roles: &Roles, moves: &mut Moves) {
    for (vsvip, choice) in &roles.moves {
        let mut assignment = after.assignment(vsvip);
        assignment.make_active(&choice.engine);
        after.assignments.insert(vsvip.clone(), assignment);
        let active = (choice.engine.clone(), choice.reason.clone());
        moves.active.insert(vsvip.clone(), active);
    }
    moves.waiting.extend(roles.stay.iter().cloned());
}

fn remove_unused(after: &mut Scene<'_>, moves: &mut Moves) {
    let all = after.assignments.iter();
    let unused = all.filter(|(vsvip, _)| after.sharing.uuids(vsvip).is_empty());
    let unused: Vec<(String, Assignment)> = unused
        .map(|(vsvip, assignment)| (vsvip.to_owned(), assignment.clone()))
        .collect();
    for (vsvip, gone) in unused {
        after.assignments.remove(&vsvip);
        for member in gone.group.members {
            let reason = "no virtual service uses the VIP".to_owned();
            let lost = Lost { reason, end: None };
            moves.lost.insert((vsvip.clone(), member.engine), lost);
        }
    }
}

fn forget_deleted_engines(after: &mut Scene<'_>, moves: &mut Moves) {
    let snapshot = after.snapshot;
    let deleted = |engine: &str| snapshot.get("serviceengine", engine).is_none();
    take_off(
        after,
        moves,
        "the engine is deleted",
        (End::NotKnown, DELETED),
        deleted,
    );
}

/// An engine that is disabled by force loses its VIPs at once.
fn disable(after: &mut Scene<'_>, moves: &mut Moves) {
    let snapshot = after.snapshot;
    let forced =
        |engine: &str| situation::enable_state(snapshot, engine) == Some("SE_STATE_DISABLED_FORCE");
    take_off(
        after,
        moves,
        "the engine is disabled by force",
        (End::Cut, DISABLED),
        forced,
    );
}

/// Every VIP leaves the engines that are `gone`; `why` is said of who becomes active by that.
fn take_off(
    after: &mut Scene<'_>,
    moves: &mut Moves,
    reason: &str,
    (end, why): (End, &str),
    gone: impl Fn(&str) -> bool,
) {
    let members = after.assignments.iter().flat_map(|(vsvip, assignment)| {
        let members = assignment.group.members.iter();
        members.map(move |m| (vsvip, m.engine.as_str()))
    });
    let gone = members.filter(|(_, engine)| gone(engine));
    let gone: Vec<(String, String)> = gone
        .map(|(vsvip, engine)| (vsvip.to_owned(), engine.to_owned()))
        .collect();
    let mut before: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (vsvip, engine) in gone {
        let mut assignment = after.assignment(&vsvip);
        let engines = before.entry(vsvip.clone());
        engines.or_insert_with(|| assignment.engines.clone());
        leave(&mut assignment, &engine);
        after.assignments.insert(vsvip.clone(), assignment);
        let (reason, end) = (reason.to_owned(), Some(end));
        moves.lost.insert((vsvip, engine), Lost { reason, end });
    }
    for (vsvip, engines) in &before {
        succeed(after, vsvip, engines, why, moves);
    }
}

fn leave(assignment: &mut Assignment, engine: &str) {
    assignment.engines.retain(|e| e != engine);
    assignment.group.leave(engine, now_unix_s());
}

/// The active engine of its pair may be another one than it prefers.
fn redistributes(scene: &Scene<'_>, vsvip: &str) -> bool {
    let group = situation::group_of(scene.snapshot, vsvip);
    group.is_some_and(|g| g.auto_redistribute_active_standby_load)
}

/// Whether a virtual service of it is enabled, and it has fewer engines than its group asks for, as far as that can be
/// read.
fn lacks_engines(scene: &Scene<'_>, vsvip: &str) -> bool {
    let snapshot = scene.snapshot;
    let uuids = scene.sharing.uuids(vsvip).iter();
    let services = uuids.filter_map(|uuid| snapshot.get("virtualservice", uuid));
    let services: Vec<&Arc<Stored>> = services.collect();
    let enabled = |vs: &&Arc<Stored>| vs.object.get("enabled") != Some(&Value::Bool(false));
    if !services.iter().any(enabled) {
        return false;
    }
    let group = services.first().and_then(|vs| {
        let group = vs.object.get("se_group_ref")?.as_str()?;
        let uuid = Ref(group.to_owned());
        snapshot.view::<ServiceEngineGroup>("serviceenginegroup", uuid.uuid())
    });
    let has_rhi = |vs: &&Arc<Stored>| vs.object.get("enable_rhi") == Some(&Value::Bool(true));
    let is_native = !services.iter().any(has_rhi);
    let fewest = group.map_or(1, |g| situation::fewest(&g, is_native));
    scene.engines(vsvip).len() < fewest
}

/// What the reconciler would decide, and how it is when all of it has come to an end.
fn decide(
    ground: &mut Ground<'_>,
    after: &mut Scene<'_>,
    vsvip: &str,
    is_direct: bool,
    moves: &mut Moves,
) {
    let demand = match ground.demand(vsvip) {
        Ok(demand) => demand,
        Err(error) if is_direct => {
            moves.waiting.insert(vsvip.to_owned(), error.text);
            return;
        }
        Err(_) => return,
    };
    let mut assignment = after.assignment(vsvip);
    let decision = Decision::of(ground, &demand, &assignment);
    let moves_now = decision.acts() || of_vip(&moves.lost, vsvip).next().is_some();
    if moves_now || is_direct {
        let why = decision.refused.iter().map(|(_, why)| why.as_str());
        let why: Vec<&str> = why.collect();
        if !why.is_empty() {
            moves.waiting.insert(vsvip.to_owned(), why.join("; "));
        }
    }
    if let Some(choice) = decision.back_to {
        assignment.make_active(&choice.engine);
        let active = (choice.engine, choice.reason);
        moves.active.insert(vsvip.to_owned(), active);
        after.assignments.insert(vsvip.to_owned(), assignment);
        return;
    }
    if !decision.acts() {
        return;
    }
    let before = std::mem::replace(&mut assignment.engines, decision.engines);
    for (action, choice) in decision.done {
        let key = (vsvip.to_owned(), choice.engine);
        let reason = choice.reason;
        if action == Action::Switchover {
            moves.active.insert(key.0, (key.1, reason));
        } else {
            // A group that is full is refused when it is done; it says so then.
            assignment.group.join(&key.1, now_unix_s()).ok();
            moves.joined.insert(key, Joined { reason });
        }
    }
    for (engine, reason) in decision.going {
        assignment.engines.retain(|e| *e != engine);
        assignment.group.linger(&engine, now_unix_s());
        let lost = Lost { reason, end: None };
        moves.lost.insert((vsvip.to_owned(), engine), lost);
    }
    after.assignments.insert(vsvip.to_owned(), assignment);
    if !moves.active.contains_key(vsvip) {
        succeed(after, vsvip, &before, MIGRATED, moves);
    }
}
