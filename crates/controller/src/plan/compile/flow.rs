//! What an engine is told of its neighbours, for flow resiliency (docs/dev/steering.md).

use super::{Assignment, Decided};
use crate::api::singleton;
use crate::objects::{Snapshot, Unreadable};
use model::view::{Prefix, Ref, ServiceEngine, ServiceEngineGroup, VirtualService, Vnic};
use placement::group::{Member, Role};
use proto::v1;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The groups of these VsVips, as the engine sees them; without those of VsVips that are gone.
pub(super) fn groups(
    snapshot: &Snapshot,
    decided: &Decided,
    (here, natives): (&[(&str, &Assignment)], &BTreeMap<&str, v1::Native>),
    engine: &str,
) -> Vec<v1::Group> {
    let group = |(vsvip, assignment): &(&str, &Assignment)| {
        snapshot.get("vsvip", vsvip)?;
        let group = &assignment.group;
        let own = group.member(engine)?;
        // A deleted engine is still a member for the moment until the group is written anew.
        let known = |m: &&Member| snapshot.get("serviceengine", &m.engine).is_some();
        Some(v1::Group {
            vsvip_uuid: (*vsvip).to_owned(),
            generation: group.generation,
            member_id: own.id.into(),
            members: group.others(engine).filter(known).map(member).collect(),
            hold: decided
                .holding
                .contains(&((*vsvip).to_owned(), engine.to_owned())),
            lingers: matches!(own.role, Role::Lingering { .. }),
            native: natives.get(vsvip).and_then(|n| native(*n, assignment)),
        })
    };
    here.iter().filter_map(group).collect()
}

/// The first engine of the VIP answers for it.
fn native(native: v1::Native, assignment: &Assignment) -> Option<v1::Native> {
    let first = assignment.engines.first()?;
    let first_id = assignment.group.member(first)?.id.into();
    Some(v1::Native { first_id, ..native })
}

fn member(member: &Member) -> v1::Member {
    v1::Member {
        id: member.id.into(),
        se_uuid: member.engine.clone(),
        takes_new: member.role == Role::Serving,
    }
}

/// The other engines of these groups. From the objects, where the interfaces that engines report are kept, so that a
/// controller that has just started knows them before it has heard anybody.
///
/// # Errors
/// An engine's object cannot be read.
pub(super) fn peers(
    snapshot: &Snapshot,
    decided: &Decided,
    groups: &[v1::Group],
) -> Result<Vec<v1::Peer>, Unreadable> {
    let members = groups.iter().flat_map(|g| &g.members);
    let uuids: BTreeSet<&str> = members.map(|m| m.se_uuid.as_str()).collect();
    let views = uuids
        .into_iter()
        .filter_map(|uuid| snapshot.try_view("serviceengine", uuid).transpose());
    views
        .map(|view| view.map(|engine| peer(&engine, decided, &is_up)))
        .collect()
}

/// The engines of its SE group that have no session with us, for it to look after; whoever has none itself cannot be told.
///
/// # Errors
/// An engine's object cannot be read.
pub(super) fn watched(
    snapshot: &Snapshot,
    decided: &Decided,
    engine: &ServiceEngine,
) -> Result<Vec<v1::Peer>, Unreadable> {
    if decided.away.contains(&engine.uuid) {
        return Ok(Vec::new());
    }
    let mut watched = Vec::new();
    for uuid in &decided.away {
        let other = snapshot.try_view::<ServiceEngine>("serviceengine", uuid)?;
        let near = other.filter(|o| o.se_group_ref == engine.se_group_ref);
        watched.extend(near.map(|other| peer(&other, decided, &|_| true)));
    }
    Ok(watched)
}

fn is_up(interface: &Vnic) -> bool {
    interface.link_up != Some(false)
}

/// With the addresses of these interfaces.
fn peer(engine: &ServiceEngine, decided: &Decided, counts: &dyn Fn(&Vnic) -> bool) -> v1::Peer {
    let networks = engine
        .data_vnics
        .iter()
        .filter(|v| counts(v))
        .flat_map(|v| &v.vnic_networks);
    let addresses = networks.filter_map(|n| Prefix::address(&n.ip));
    v1::Peer {
        se_uuid: engine.uuid.clone(),
        name: engine.name.clone(),
        addresses: addresses.map(|a| a.to_string()).collect(),
        alive: !decided.dead.contains(&engine.uuid),
    }
}

/// From the engine's SE group.
///
/// # Errors
/// The group's object cannot be read.
pub(super) fn settings(
    snapshot: &Snapshot,
    decided: &Decided,
    engine: &ServiceEngine,
) -> Result<Option<v1::FlowSettings>, Unreadable> {
    let group = se_group(snapshot, engine.se_group_ref.as_ref())?;
    Ok(group.map(|group| {
        let keys = decided.keys.get(&group.uuid);
        let (hello_interval_ms, hello_count) = group.hellos();
        v1::FlowSettings {
            probe_retries: group.se_flow_probe_retries.into(),
            probe_retry_timer_ms: group.se_flow_probe_retry_timer,
            message_keys: keys.map(|k| k.message_keys()).unwrap_or_default(),
            hint_key: keys.map(|k| k.hint_key()).unwrap_or_default(),
            hello_interval_ms,
            hello_count,
            port: group.message_port().into(),
            forgets_at_once: !group.se_delayed_flow_delete,
        }
    }))
}

/// Whether engines may ask each other about flows of this virtual service (avi-api section 12: `scaleout_ecmp` true →
/// no flow probes for this VS; `disable_flow_probes` of its SE group, or of all in `seproperties`: for none).
///
/// # Errors
/// The group's object cannot be read.
pub(super) fn probes(snapshot: &Snapshot, vs: &VirtualService) -> Result<bool, Unreadable> {
    let group = se_group(snapshot, vs.se_group_ref.as_ref())?;
    let disabled = group.is_some_and(|g| g.disable_flow_probes) || disabled_everywhere(snapshot);
    Ok(!vs.scaleout_ecmp && !disabled)
}

/// The switch that SE groups have by now (avi-api section 8).
fn disabled_everywhere(snapshot: &Snapshot) -> bool {
    let (path, uuid) = singleton::SE_PROPERTIES;
    let runtime = snapshot.get(path, uuid);
    let runtime = runtime.and_then(|s| s.object.get("se_runtime_properties"));
    runtime.and_then(|r| r.get("disable_flow_probes")) == Some(&Value::Bool(true))
}

pub(super) fn se_group(
    snapshot: &Snapshot,
    reference: Option<&Ref>,
) -> Result<Option<Arc<ServiceEngineGroup>>, Unreadable> {
    let uuid = reference.map_or("", Ref::uuid);
    snapshot.try_view("serviceenginegroup", uuid)
}

/// The virtual services whose connections here are to end now.
pub(super) fn cut(snapshot: &Snapshot, decided: &Decided, engine: &str) -> Vec<String> {
    let here = decided.cuts.iter().filter(|(_, se)| se == engine);
    let services = here.flat_map(|(vsvip, _)| {
        let all: Vec<Arc<VirtualService>> = super::situation::services_of(snapshot, vsvip);
        all.into_iter().map(|vs| vs.uuid.clone())
    });
    services.collect()
}
