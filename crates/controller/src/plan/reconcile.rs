//! Brings placement and engines in line with the objects: on every change, and part by part on a period in case one was
//! missed.
//!
//! Two tasks: [`publish`] tells engines of every change at once, so that no change waits for a placement that is being
//! written; [`run`] places.

use super::assignments::{Assignment, Assignments};
use super::decision::Decision;
use super::marks::Vips;
use super::writing::Placement;
use super::{Action, Planner, engine_object, keys, situation};
use crate::engines::Registry;
use crate::error::ApiError;
use crate::objects::{Author, Objects, Snapshot};
use model::schema::object_type;
use model::view::Ref;
use placement::Choice;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How often a part of everything is looked at without a signal, and in how many parts.
const PERIOD: Duration = Duration::from_secs(5);
const PARTS: usize = 12;
/// Engines whose desired states are made, and VIPs whose placement is looked at, before others get a turn.
const ENGINES_AT_ONCE: usize = 4;
pub(super) const VIPS_AT_ONCE: usize = 256;
/// What has become of an engine that was active.
pub(super) const DELETED: &str = "was deleted";

/// Tells engines of what changes, until `stop`.
pub async fn publish(planner: Arc<Planner>, stop: CancellationToken) {
    let mut objects = planner.objects.changed();
    loop {
        objects.mark_unchanged();
        planner.publish();
        tokio::select! {
            () = stop.cancelled() => return,
            _ = objects.changed() => {}
        }
    }
}

/// Places, until `stop`. Waiting is all that can be cancelled; a round that has begun is finished.
pub async fn run(planner: Arc<Planner>, stop: CancellationToken) {
    let mut objects = planner.objects.changed();
    let mut engines = planner.registry.changed();
    let mut marked = planner.marked.subscribe();
    let mut turns = Turns::default();
    round(&planner).await;
    let mut next = tokio::time::Instant::now() + PERIOD;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = objects.changed() => short_round(&planner).await,
            _ = marked.changed() => short_round(&planner).await,
            // An engine that came or went may be what any VIP waits for.
            _ = engines.changed() => round(&planner).await,
            () = tokio::time::sleep_until(next) => {
                turn(&planner, &mut turns).await;
                next = tokio::time::Instant::now() + PERIOD;
            }
        }
    }
}

/// Which engine and which VIP were looked at last, by uuid: the next part begins behind them.
#[derive(Default)]
struct Turns {
    engine: String,
    vip: String,
}

/// The next part of `all`, a `PARTS`th of it and at least `least`; behind the last one it begins anew.
fn next_part(all: &BTreeSet<String>, last: &mut String, least: usize) -> Vec<String> {
    let len = least.max(all.len().div_ceil(PARTS));
    let behind = (Bound::Excluded(&*last), Bound::Unbounded);
    let part: Vec<String> = all.range::<String, _>(behind).take(len).cloned().collect();
    *last = match part.last() {
        Some(end) if Some(end) != all.last() => end.clone(),
        _ => String::new(),
    };
    part
}

/// Does all of it once, for every engine and every VIP; in parts, so that what is written meanwhile need not wait for
/// all of it.
pub(super) async fn round(planner: &Planner) {
    if let Err(error) = keys::tend(planner).await {
        tracing::error!(%error, "keys of flow resiliency not tended");
    }
    let snapshot = planner.objects.snapshot();
    tell(planner, &engines(&snapshot).into_iter().collect::<Vec<_>>()).await;
    if let Err(error) = note_interfaces(&planner.objects, &planner.registry).await {
        tracing::error!(%error, "interfaces of engines not noted");
    }
    tidy(planner).await;
    settle(planner, wanted(&planner.objects.snapshot())).await;
}

/// The same for the next part of the engines and VIPs, and for those that are marked.
async fn turn(planner: &Planner, turns: &mut Turns) {
    if let Err(error) = keys::tend(planner).await {
        tracing::error!(%error, "keys of flow resiliency not tended");
    }
    let snapshot = planner.objects.snapshot();
    let some = next_part(&engines(&snapshot), &mut turns.engine, ENGINES_AT_ONCE);
    tell(planner, &some).await;
    tidy(planner).await;
    planner.mark_vips(next_part(&wanted(&snapshot), &mut turns.vip, VIPS_AT_ONCE));
    short_round(planner).await;
}

async fn tell(planner: &Planner, engines: &[String]) {
    for some in engines.chunks(ENGINES_AT_ONCE) {
        planner.mark_engines(some);
        planner.publish();
        tokio::task::yield_now().await;
    }
}

fn engines(snapshot: &Snapshot) -> BTreeSet<String> {
    let all = snapshot.all("serviceengine");
    all.map(|(uuid, _)| uuid.to_owned()).collect()
}

/// The same for what was written since, which seldom concerns more than some engines and VIPs.
pub(super) async fn short_round(planner: &Planner) {
    // Engines hear of a change before anything else is thought about; it also finds out what the change concerns.
    planner.publish();
    let vips = planner.write().marks.take_vips();
    match vips {
        Vips::These(vips) => settle(planner, vips).await,
        Vips::Every => {
            tidy(planner).await;
            settle(planner, wanted(&planner.objects.snapshot())).await;
        }
    }
}

/// Brings the placement of these VIPs in line, and tells the engines. What cannot be written now is tried again.
pub(super) async fn settle(planner: &Planner, vips: BTreeSet<String>) {
    let vips: Vec<String> = vips.into_iter().collect();
    for some in vips.chunks(VIPS_AT_ONCE) {
        if let Err(error) = place(planner, &planner.objects.snapshot(), some).await {
            tracing::error!(%error, "placement not brought in line");
            planner.mark_vips(some.iter().cloned());
        }
        planner.publish();
        tokio::task::yield_now().await;
    }
}

/// What has no place any more: VIPs that no virtual service uses, engines that are gone or have nothing left. What is not
/// in line now is looked at in the next period.
pub(super) async fn tidy(planner: &Planner) {
    let tidied = async {
        let _one = planner.deciding.lock().await;
        let snapshot = planner.objects.snapshot();
        take_off_unused(planner, &snapshot).await?;
        forget_deleted_engines(planner, &snapshot).await?;
        planner.forget_baselines(&snapshot);
        planner.forget_rotations(&snapshot).await?;
        planner.end_lingering(&snapshot, Instant::now()).await
    };
    if let Err(error) = tidied.await {
        tracing::error!(%error, "placement not brought in line");
    }
}

/// Each of these VIPs that an enabled virtual service uses is placed; one that none uses any more is taken off.
pub(super) async fn place(
    planner: &Planner,
    snapshot: &Snapshot,
    vips: &[String],
) -> Result<(), ApiError> {
    let _one = planner.deciding.lock().await;
    let assignments = planner.read().assignments.clone();
    let mut ground = planner.ground(snapshot);
    let (used, unused): (Vec<&String>, Vec<&String>) =
        vips.iter().partition(|vsvip| is_used(snapshot, vsvip));
    let gone = take_off(planner, unused).await;
    let decisions = decisions(planner, snapshot, &mut ground, &assignments, used);
    gone.and(carry_out(planner, decisions).await)
}

/// What is to be done about these VIPs, as far as an enabled virtual service wants them.
pub(super) fn decisions<'v>(
    planner: &Planner,
    snapshot: &Snapshot,
    ground: &mut situation::Ground<'_>,
    assignments: &Assignments,
    vips: impl IntoIterator<Item = &'v String>,
) -> Vec<(String, Decision)> {
    let wanted = vips.into_iter().filter(|vsvip| is_wanted(snapshot, vsvip));
    let decisions = wanted.filter_map(|v| decide(planner, ground, assignments, v.clone()));
    decisions.collect()
}

/// From the objects as stored: one that cannot be read must not take its VIP off.
fn is_used(snapshot: &Snapshot, vsvip: &str) -> bool {
    let mut users = snapshot.referring_to("vsvip", vsvip);
    users.any(|(path, _)| path == "virtualservice")
}

/// An enabled virtual service uses it.
pub(super) fn is_wanted(snapshot: &Snapshot, vsvip: &str) -> bool {
    let services = situation::services_of(snapshot, vsvip);
    services.iter().any(|v| v.enabled)
}

/// The VIPs of all virtual services.
pub(super) fn wanted(snapshot: &Snapshot) -> BTreeSet<String> {
    let all = snapshot.all("virtualservice");
    let references = all.filter_map(|(_, s)| s.object.get("vsvip_ref")?.as_str());
    let uuids = references.map(|r| Ref(r.to_owned()).uuid().to_owned());
    uuids.collect()
}

async fn take_off_unused(planner: &Planner, snapshot: &Snapshot) -> Result<(), ApiError> {
    let assignments = planner.read().assignments.clone();
    let unused = assignments.iter().map(|(vsvip, _)| vsvip);
    take_off(planner, unused.filter(|v| !is_used(snapshot, v))).await
}

/// These VIPs, from all engines.
async fn take_off(
    planner: &Planner,
    vips: impl IntoIterator<Item = impl AsRef<str>>,
) -> Result<(), ApiError> {
    let assignments = planner.read().assignments.clone();
    let placed = vips.into_iter().map(|v| v.as_ref().to_owned());
    let placed = placed.filter(|v| assignments.get(v).is_some());
    let nowhere = placed.map(|vsvip| Placement {
        vsvip,
        next: Assignment::default(),
        message: "no virtual service uses the VIP".to_owned(),
    });
    planner.write_many(nowhere.collect()).await.rest
}

async fn forget_deleted_engines(planner: &Planner, snapshot: &Snapshot) -> Result<(), ApiError> {
    let assignments = planner.read().assignments.clone();
    let known = |uuid: &str| snapshot.get("serviceengine", uuid).is_some();
    let mut without = Vec::new();
    for (vsvip, assignment) in assignments.iter() {
        let members = assignment.group.members.iter().map(|m| m.engine.clone());
        let gone: Vec<String> = members.filter(|e| !known(e)).collect();
        if gone.is_empty() {
            continue;
        }
        let mut next = assignment.clone();
        next.engines.retain(|e| known(e));
        for engine in &gone {
            next.group.leave(engine, crate::clock::now_unix_s());
        }
        without.push(Placement {
            vsvip: vsvip.to_owned(),
            next,
            message: "an engine was deleted".to_owned(),
        });
    }
    let outcome = planner.write_many(without).await;
    for vsvip in &outcome.written {
        if let Some(before) = assignments.get(vsvip) {
            planner.note_successor(vsvip, &before.engines, DELETED);
        }
    }
    outcome.rest
}

/// What is to be done about the VIP, if anything; what cannot be done is noted.
fn decide(
    planner: &Planner,
    ground: &mut situation::Ground<'_>,
    assignments: &Assignments,
    vsvip: String,
) -> Option<(String, Decision)> {
    let demand = match ground.demand(&vsvip) {
        Ok(demand) => demand,
        Err(error) => {
            planner.note(&vsvip, Action::InitialPlacement, Err(&error.text));
            return None;
        }
    };
    let assignment = assignments.get(&vsvip).cloned().unwrap_or_default();
    let decision = Decision::of(ground, &demand, &assignment);
    for (action, why) in &decision.refused {
        planner.note(&vsvip, *action, Err(why));
    }
    let back_to = decision.back_to.as_ref();
    let goes_back = back_to.is_some_and(|to| planner.serves(&vsvip, &to.engine));
    (decision.acts() || goes_back).then_some((vsvip, decision))
}

async fn carry_out(planner: &Planner, decisions: Vec<(String, Decision)>) -> Result<(), ApiError> {
    let (mut placements, mut noted) = (Vec::new(), Vec::new());
    let mut outcome = Ok(());
    for (vsvip, decision) in decisions {
        match placement(planner, &vsvip, decision) {
            Ok(Some((placement, done))) => {
                placements.push(placement);
                noted.push((vsvip, done));
            }
            Ok(None) => {}
            Err(full) => outcome = outcome.and(Err(full)),
        }
    }
    let result = planner.write_many(placements).await;
    for (vsvip, done) in noted {
        if !result.written.contains(&vsvip) {
            planner.forget_joins(&vsvip);
            continue;
        }
        for (action, choice) in &done {
            planner.note(&vsvip, *action, Ok(choice));
        }
    }
    outcome.and(result.rest)
}

/// What is done, with the engine that gets something by it.
type Steps = Vec<(Action, Choice)>;

/// What is to be written of a decision, and to be noted once it is.
fn placement(
    planner: &Planner,
    vsvip: &str,
    decision: Decision,
) -> Result<Option<(Placement, Steps)>, ApiError> {
    let placement = |next, message| Placement {
        vsvip: vsvip.to_owned(),
        next,
        message,
    };
    if let Some(choice) = decision.back_to {
        let next = planner.switched_over(vsvip, &choice);
        let placement = next.map(|next| placement(next, choice.reason.clone()));
        return Ok(placement.map(|p| (p, vec![(Action::Switchover, choice)])));
    }
    planner.begin_joins(vsvip, &decision.new);
    let next = planner.moved_to(vsvip, decision.engines, decision.begun);
    let next = next.inspect_err(|_| planner.forget_joins(vsvip))?;
    let words = decision.words.join("; ");
    Ok(Some((placement(next, words), decision.done)))
}

/// Writes what engines report of their interfaces into the serviceengine objects, when it changed.
async fn note_interfaces(objects: &Objects, registry: &Registry) -> Result<(), ApiError> {
    let snapshot = objects.snapshot();
    let ty = object_type("serviceengine").expect("in the schema");
    for (uuid, stored) in snapshot.all("serviceengine") {
        let state = registry.get(uuid);
        if state.connected_since.is_none() {
            continue;
        }
        let vnics = engine_object::vnics(&state.interfaces, &stored.object);
        if stored.object.get("data_vnics") == Some(&vnics) {
            continue;
        }
        let message = format!("interfaces of {}", stored.name());
        let change = |draft: &mut crate::objects::Draft| {
            // Somebody may have written it since.
            let mut object = draft.snapshot.require(ty, uuid)?.object.clone();
            let vnics = engine_object::vnics(&state.interfaces, &object);
            object.insert("data_vnics".into(), vnics);
            draft.put(ty, uuid, object);
            Ok(())
        };
        objects
            .change(&Author::system("engines"), &message, change)
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_its_turn_and_then_the_first_again() {
        let all: BTreeSet<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).into();
        let mut last = String::new();
        let mut next = |all: &BTreeSet<String>| next_part(all, &mut last, 2).join("");
        assert_eq!([next(&all), next(&all), next(&all)], ["ab", "cd", "e"]);
        assert_eq!(next(&all), "ab");
        let fewer: BTreeSet<String> = ["a", "d"].map(str::to_owned).into();
        assert_eq!([next(&fewer), next(&fewer)], ["d", "ad"]);
        assert_eq!(next(&BTreeSet::new()), "");
    }

    #[test]
    fn many_are_looked_at_within_so_many_parts() {
        let all: BTreeSet<String> = (0..1000).map(|n| format!("{n:04}")).collect();
        let mut last = String::new();
        let parts = (0..PARTS).flat_map(|_| next_part(&all, &mut last, 2));
        assert_eq!(parts.collect::<BTreeSet<_>>(), all);
        assert_eq!(last, "");
    }
}
