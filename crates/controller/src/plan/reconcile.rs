//! Brings placement and engines in line with the objects: on every change, and on a period in case one was missed.

use super::assignments::Assignments;
use super::marks::Vips;
use super::{Planner, keys, situation};
use crate::engines::Registry;
use crate::error::ApiError;
use crate::objects::{Author, Objects, Snapshot};
use futures_util::{StreamExt as _, stream};
use ipnet::IpNet;
use model::object::Object;
use model::schema::object_type;
use model::view::Ref;
use proto::v1::Interface;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How often it runs without a signal.
const PERIOD: Duration = Duration::from_secs(5);
/// Engines whose desired states are made, and VIPs whose placement is looked at, before others get a turn.
const ENGINES_AT_ONCE: usize = 4;
const VIPS_AT_ONCE: usize = 256;
/// Placements that are written at once.
const WRITES_AT_ONCE: usize = 64;
/// The action, in the words of `ScaleStatus` (avi-api 10.2).
const INITIAL: &str = "INITIAL_PLACEMENT";

/// Runs until `stop`. Waiting is all that can be cancelled; a round that has begun is finished.
pub async fn run(planner: Arc<Planner>, stop: CancellationToken) {
    let mut objects = planner.objects.changed();
    let mut engines = planner.registry.changed();
    let mut next = tokio::time::Instant::now();
    loop {
        objects.mark_unchanged();
        // An engine that came or went may be what any VIP waits for.
        let moved = engines.has_changed().unwrap_or(false);
        engines.mark_unchanged();
        if moved || tokio::time::Instant::now() >= next {
            round(&planner).await;
            next = tokio::time::Instant::now() + PERIOD;
        } else {
            short_round(&planner).await;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            _ = objects.changed() => {}
            _ = engines.changed() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// Does all of it once, for every engine and every VIP; in parts, so that what is written meanwhile need not wait for
/// all of it.
pub(super) async fn round(planner: &Planner) {
    if let Err(error) = keys::tend(planner).await {
        tracing::error!(%error, "keys of flow resiliency not tended");
    }
    let snapshot = planner.objects.snapshot();
    let engines: Vec<&str> = snapshot
        .all("serviceengine")
        .map(|(uuid, _)| uuid)
        .collect();
    for some in engines.chunks(ENGINES_AT_ONCE) {
        planner.mark_engines(some);
        planner.publish();
        tokio::task::yield_now().await;
    }
    if let Err(error) = note_interfaces(&planner.objects, &planner.registry).await {
        tracing::error!(%error, "interfaces of engines not noted");
    }
    settle(planner, Vips::Every).await;
}

/// The same for what was written since, which seldom concerns more than some engines and VIPs.
async fn short_round(planner: &Planner) {
    // Engines hear of a change before anything else is thought about; it also finds out what the change concerns.
    planner.publish();
    let vips = planner.write().marks.take_vips();
    if vips == Vips::Every {
        return round(planner).await;
    }
    settle(planner, vips).await;
}

/// Brings the placement of these VIPs in line, and tells the engines.
async fn settle(planner: &Planner, vips: Vips) {
    let vips = match vips {
        Vips::These(vips) => vips,
        Vips::Every => {
            let snapshot = planner.objects.snapshot();
            // What is not in line now is looked at in the next period.
            if let Err(error) = tidy(planner, &snapshot).await {
                tracing::error!(%error, "placement not brought in line");
            }
            wanted(&snapshot)
        }
    };
    let vips: Vec<String> = vips.into_iter().collect();
    for some in vips.chunks(VIPS_AT_ONCE) {
        if let Err(error) = place(planner, &planner.objects.snapshot(), some).await {
            tracing::error!(%error, "placement not brought in line");
        }
        planner.publish();
        tokio::task::yield_now().await;
    }
    planner.publish();
}

/// What has no place any more: VIPs that no virtual service uses, engines that are gone or have nothing left.
async fn tidy(planner: &Planner, snapshot: &Snapshot) -> Result<(), ApiError> {
    let _one = planner.deciding.lock().await;
    take_off_unused(planner, snapshot).await?;
    forget_deleted_engines(planner, snapshot).await?;
    planner.end_lingering(snapshot, Instant::now()).await
}

/// Each of these VIPs that an enabled virtual service uses is placed; one that none uses any more is taken off.
pub(super) async fn place(
    planner: &Planner,
    snapshot: &Snapshot,
    vips: &[String],
) -> Result<(), ApiError> {
    let _one = planner.deciding.lock().await;
    let assignments = planner.read().assignments.clone();
    let mut ground = situation::Ground::of(snapshot, &planner.registry, &assignments);
    let (mut decisions, mut outcome) = (Vec::new(), Ok(()));
    for vsvip in vips {
        if !is_used(snapshot, vsvip) {
            // One that cannot be written holds up no other.
            outcome = outcome.and(take_off(planner, vsvip).await);
        } else if is_wanted(snapshot, vsvip) {
            decisions.extend(decide(planner, &mut ground, &assignments, vsvip.clone()));
        }
    }
    let written = carry_out(planner, decisions).await;
    outcome.and(written)
}

/// From the objects as stored: one that cannot be read must not take its VIP off.
fn is_used(snapshot: &Snapshot, vsvip: &str) -> bool {
    let mut users = snapshot.referring_to("vsvip", vsvip);
    users.any(|(path, _)| path == "virtualservice")
}

fn is_wanted(snapshot: &Snapshot, vsvip: &str) -> bool {
    let services = situation::services_of(snapshot, vsvip);
    services.iter().any(|v| v.enabled)
}

/// The VIPs of all virtual services.
fn wanted(snapshot: &Snapshot) -> BTreeSet<String> {
    let all = snapshot.all("virtualservice");
    let references = all.filter_map(|(_, s)| s.object.get("vsvip_ref")?.as_str());
    let uuids = references.map(|r| Ref(r.to_owned()).uuid().to_owned());
    uuids.collect()
}

async fn take_off_unused(planner: &Planner, snapshot: &Snapshot) -> Result<(), ApiError> {
    let assignments = planner.read().assignments.clone();
    for (vsvip, _) in assignments.iter().filter(|(v, _)| !is_used(snapshot, v)) {
        take_off(planner, vsvip).await?;
    }
    Ok(())
}

async fn take_off(planner: &Planner, vsvip: &str) -> Result<(), ApiError> {
    if planner.read().assignments.get(vsvip).is_none() {
        return Ok(());
    }
    let message = "no virtual service uses the VIP".to_owned();
    let nothing = (Vec::new(), placement::Group::default());
    planner
        .write_assignment(vsvip, nothing.0, nothing.1, message)
        .await
}

async fn forget_deleted_engines(planner: &Planner, snapshot: &Snapshot) -> Result<(), ApiError> {
    let assignments = planner.read().assignments.clone();
    let known = |uuid: &str| snapshot.get("serviceengine", uuid).is_some();
    for (vsvip, assignment) in assignments.iter() {
        let members = assignment.group.members.iter().map(|m| m.engine.clone());
        let gone: Vec<String> = members.filter(|e| !known(e)).collect();
        if gone.is_empty() {
            continue;
        }
        let (mut engines, mut group) = (assignment.engines.clone(), assignment.group.clone());
        engines.retain(|e| known(e));
        for engine in &gone {
            group.leave(engine, crate::clock::now_unix_s());
        }
        let message = "an engine was deleted".to_owned();
        planner
            .write_assignment(vsvip, engines, group, message)
            .await?;
    }
    Ok(())
}

/// Engines that a VIP gets.
struct Decision {
    vsvip: String,
    /// Those that it has, and those.
    engines: Vec<String>,
    chosen: Vec<placement::Choice>,
}

/// What the VIP lacks; `None` when it lacks nothing or nothing can be done about it, which is noted.
fn decide(
    planner: &Planner,
    ground: &mut situation::Ground<'_>,
    assignments: &Assignments,
    vsvip: String,
) -> Option<Decision> {
    let demand = match ground.demand(&vsvip) {
        Ok(demand) => demand,
        Err(error) => {
            planner.note(&vsvip, INITIAL, Err(&error.text));
            return None;
        }
    };
    let assigned = assignments.get(&vsvip).map(|a| a.engines.clone());
    let mut engines = assigned.unwrap_or_default();
    let (chosen, error) = placement::ensure(&demand, &ground.engines, &engines);
    if let Some(error) = error {
        planner.note(&vsvip, INITIAL, Err(&error.to_string()));
    }
    let new: Vec<String> = chosen.iter().map(|c| c.engine.clone()).collect();
    ground.placed(&new);
    engines.extend(new);
    (!chosen.is_empty()).then_some(Decision {
        vsvip,
        engines,
        chosen,
    })
}

/// Each is written by itself, many at a time: they share what it takes to make them durable.
async fn carry_out(planner: &Planner, decisions: Vec<Decision>) -> Result<(), ApiError> {
    let each = decisions.into_iter().map(|decision| async move {
        let Decision {
            vsvip,
            engines,
            chosen,
        } = decision;
        let new: Vec<String> = chosen.iter().map(|c| c.engine.clone()).collect();
        planner.begin_joins(&vsvip, &new);
        let words = chosen
            .iter()
            .map(|c| format!("placed on {}: {}", c.name, c.reason));
        let message = words.collect::<Vec<_>>().join("; ");
        planner.assign(&vsvip, engines, message).await?;
        for choice in &chosen {
            planner.note(&vsvip, INITIAL, Ok(choice));
        }
        Ok(())
    });
    let mut writing = stream::iter(each).buffer_unordered(WRITES_AT_ONCE);
    let mut outcome = Ok(());
    while let Some(written) = writing.next().await {
        outcome = outcome.and(written);
    }
    outcome
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
        let vnics = vnics(&state.interfaces, &stored.object);
        if stored.object.get("data_vnics") == Some(&vnics) {
            continue;
        }
        let message = format!("interfaces of {}", stored.name());
        let change = |draft: &mut crate::objects::Draft| {
            let mut object = draft.snapshot.require(ty, uuid)?.object.clone();
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

/// `data_vnics` as the API shows them; a VRF that an operator gave to an interface stays.
fn vnics(interfaces: &[Interface], object: &Object) -> Value {
    let before = object
        .get("data_vnics")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let each = interfaces.iter().map(|i| {
        let mut vnic = json!({
            "if_name": i.name, "linux_name": i.name, "mac_address": i.mac, "mtu": i.mtu, "link_up": i.up,
            "vnic_networks": i.addresses.iter().filter_map(|a| network(a)).collect::<Vec<_>>(),
        });
        let known = before.iter().find(|v| v["if_name"] == vnic["if_name"]);
        if let Some(vrf) = known.and_then(|v| v.get("vrf_ref")) {
            vnic["vrf_ref"] = vrf.clone();
        }
        vnic
    });
    each.collect()
}

fn network(address: &str) -> Option<Value> {
    let net: IpNet = address.parse().ok()?;
    let kind = if net.addr().is_ipv4() { "V4" } else { "V6" };
    let ip = json!({"ip_addr": {"addr": net.addr().to_string(), "type": kind}, "mask": net.prefix_len()});
    Some(json!({"mode": "STATIC", "ip": ip}))
}
