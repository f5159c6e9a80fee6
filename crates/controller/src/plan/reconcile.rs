//! Brings placement and engines in line with the objects: on every change, and on a period in case one was missed.

use super::{Planner, keys, situation};
use crate::engines::Registry;
use crate::objects::{Author, Objects, Snapshot};
use ipnet::IpNet;
use model::object::Object;
use model::schema::object_type;
use model::view::{Ref, VirtualService};
use proto::v1::Interface;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How often it runs without a signal.
const PERIOD: Duration = Duration::from_secs(5);

/// Runs until `stop`. Waiting is all that can be cancelled; a round that has begun is finished.
pub async fn run(planner: Arc<Planner>, stop: CancellationToken) {
    let mut objects = planner.objects.changed();
    let mut engines = planner.registry.changed();
    loop {
        objects.mark_unchanged();
        engines.mark_unchanged();
        round(&planner).await;
        tokio::select! {
            () = stop.cancelled() => return,
            _ = objects.changed() => {}
            _ = engines.changed() => {}
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// Does all of it once.
pub(super) async fn round(planner: &Planner) {
    if let Err(error) = keys::tend(planner).await {
        tracing::error!(%error, "keys of flow resiliency not tended");
    }
    planner.publish();
    if let Err(error) = note_interfaces(&planner.objects, &planner.registry).await {
        tracing::error!(%error, "interfaces of engines not noted");
    }
    let snapshot = planner.objects.snapshot();
    if let Err(error) = place(planner, &snapshot).await {
        tracing::error!(%error, "placement not brought in line");
    }
    planner.publish();
}

/// Every VIP that an enabled virtual service uses is placed; one that none uses any more is taken off.
pub(super) async fn place(
    planner: &Planner,
    snapshot: &Snapshot,
) -> Result<(), crate::error::ApiError> {
    let _one = planner.deciding.lock().await;
    let services = snapshot.views::<VirtualService>("virtualservice");
    // From the objects as stored: one that cannot be read must not take its VIP off.
    let references = snapshot
        .all("virtualservice")
        .filter_map(|(_, s)| Some(Ref(s.object.get("vsvip_ref")?.as_str()?.to_owned())));
    let used: BTreeSet<String> = references.map(|r| r.uuid().to_owned()).collect();
    let placed: Vec<String> = planner.read().assignments.keys().cloned().collect();
    for vsvip in placed.iter().filter(|v| !used.contains(*v)) {
        let message = "no virtual service uses the VIP".to_owned();
        let nothing = (Vec::new(), placement::Group::default());
        planner
            .write_assignment(vsvip, nothing.0, nothing.1, message)
            .await?;
    }
    forget_deleted_engines(planner, snapshot).await?;
    planner.end_lingering(snapshot, Instant::now()).await?;
    let wanted = services
        .iter()
        .filter(|v| v.enabled)
        .filter_map(|v| v.vsvip_ref.as_ref());
    for vsvip in wanted.map(Ref::uuid).collect::<BTreeSet<_>>() {
        ensure(planner, snapshot, vsvip).await?;
    }
    Ok(())
}

async fn forget_deleted_engines(
    planner: &Planner,
    snapshot: &Snapshot,
) -> Result<(), crate::error::ApiError> {
    let assignments = planner.read().assignments.clone();
    let known = |uuid: &str| snapshot.get("serviceengine", uuid).is_some();
    for (vsvip, assignment) in assignments {
        let (mut engines, mut group) = (assignment.engines, assignment.group);
        let members = group.members.iter().map(|m| m.engine.clone());
        let gone: Vec<String> = members.filter(|e| !known(e)).collect();
        if gone.is_empty() {
            continue;
        }
        engines.retain(|e| known(e));
        for engine in &gone {
            group.leave(engine, super::now_unix_s());
        }
        let message = "an engine was deleted".to_owned();
        planner
            .write_assignment(&vsvip, engines, group, message)
            .await?;
    }
    Ok(())
}

async fn ensure(
    planner: &Planner,
    snapshot: &Snapshot,
    vsvip: &str,
) -> Result<(), crate::error::ApiError> {
    let situation = match planner.situation(snapshot, vsvip) {
        Ok(situation) => situation,
        Err(error) => {
            planner.note(vsvip, "INITIAL_PLACEMENT", Err(&error.text));
            return Ok(());
        }
    };
    let situation::Situation {
        demand,
        engines,
        mut assigned,
    } = situation;
    let (chosen, error) = placement::ensure(&demand, &engines, &assigned);
    if !chosen.is_empty() {
        let new: Vec<String> = chosen.iter().map(|c| c.engine.clone()).collect();
        let each = chosen
            .iter()
            .map(|c| format!("placed on {}: {}", c.name, c.reason));
        let message = each.collect::<Vec<_>>().join("; ");
        planner.begin_joins(vsvip, &new);
        assigned.extend(new);
        planner.assign(vsvip, assigned, message).await?;
    }
    for choice in &chosen {
        planner.note(vsvip, "INITIAL_PLACEMENT", Ok(choice));
    }
    if let Some(error) = error {
        planner.note(vsvip, "INITIAL_PLACEMENT", Err(&error.to_string()));
    }
    Ok(())
}

/// Writes what engines report of their interfaces into the serviceengine objects, when it changed.
async fn note_interfaces(
    objects: &Objects,
    registry: &Registry,
) -> Result<(), crate::error::ApiError> {
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
