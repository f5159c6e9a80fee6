//! Which pools a virtual service sends to, by itself or by a pool group, and the other way round; and what has to fit.

use super::transport::MONITOR_HINT;
use super::{Snapshot, transport};
use model::object::FieldError;
use model::view::{Pool, PoolGroup, Ref, VirtualService};
use std::collections::BTreeSet;
use std::sync::Arc;

/// uuids of the pools that a virtual service uses.
pub fn of(snapshot: &Snapshot, vs: &VirtualService) -> Vec<String> {
    let own = vs.pool_ref.iter().map(|r| r.uuid().to_owned());
    let group = group_of(snapshot, vs);
    let members = group.iter().flat_map(|g| of_group(g));
    own.chain(members.map(str::to_owned)).collect()
}

/// uuids of the pools of a group.
pub fn of_group(group: &PoolGroup) -> impl Iterator<Item = &str> {
    group.members.iter().map(|m| m.pool_ref.uuid())
}

/// The pool group of a virtual service.
pub fn group_of(snapshot: &Snapshot, vs: &VirtualService) -> Option<Arc<PoolGroup>> {
    snapshot.view("poolgroup", vs.pool_group_ref.as_ref()?.uuid())
}

/// Virtual services that use a pool, each once.
pub fn users(snapshot: &Snapshot, pool: &str) -> Vec<Arc<VirtualService>> {
    let groups = snapshot.referring_to("pool", pool);
    let groups = groups.filter(|(path, _)| *path == "poolgroup");
    let by_group = groups.flat_map(|(_, group)| users_of_group(snapshot, group));
    let here = Ref::to("pool", pool);
    let own = snapshot.views_referring::<VirtualService>("virtualservice", "pool_ref", &here);
    let mut seen = BTreeSet::new();
    let all = own.into_iter().chain(by_group);
    all.filter(|vs| seen.insert(vs.uuid.clone())).collect()
}

/// Virtual services that use a pool group.
pub fn users_of_group(snapshot: &Snapshot, group: &str) -> Vec<Arc<VirtualService>> {
    let here = Ref::to("poolgroup", group);
    snapshot.views_referring("virtualservice", "pool_group_ref", &here)
}

const SAME_VRF: &str = "give both the same VRF";

/// The pools of a virtual service are in its VRF and can be checked.
pub(super) fn check(snapshot: &Snapshot, vs: &VirtualService, errors: &mut Vec<FieldError>) {
    let field = match vs.pool_group_ref {
        Some(_) => "pool_group_ref",
        None => "pool_ref",
    };
    if let Some(group) = group_of(snapshot, vs) {
        errors.extend(labels(&group, field));
    }
    for pool in of(snapshot, vs) {
        let Some(pool) = snapshot.view::<Pool>("pool", &pool) else {
            continue;
        };
        if pool.vrf_ref != vs.vrf_context_ref {
            let problem = format!("pool {} is in another VRF context (vrf_ref)", pool.name);
            errors.push(FieldError::new(field, problem, SAME_VRF));
        }
        let unfit = transport::unfit_monitor_for(snapshot, vs, &pool);
        errors.extend(unfit.map(|(_, problem)| FieldError::new(field, problem, MONITOR_HINT)));
    }
}

/// Labels that are no numbers, which engines could not order.
fn labels(group: &PoolGroup, field: &str) -> Option<FieldError> {
    let mut others = group.members.iter().filter(|m| m.priority().is_none());
    let label = others.find_map(|m| m.priority_label.as_ref())?;
    let name = &group.name;
    let problem =
        format!("pool group {name} has the label {label:?}, and engines order numbers only");
    let hint = "write whole numbers in priority_label, of which the higher comes first";
    Some(FieldError::new(field, problem, hint))
}

/// A pool that changes its VRF or its monitors must still fit its virtual services.
pub(super) fn check_users(snapshot: &Snapshot, uuid: &str, errors: &mut Vec<FieldError>) {
    let Some(pool) = snapshot.view::<Pool>("pool", uuid) else {
        return;
    };
    for user in users(snapshot, uuid) {
        let name = &user.name;
        if let Some((i, problem)) = transport::unfit_monitor_for(snapshot, &user, &pool) {
            let problem = format!("virtual service {name} is UDP: {problem}");
            let path = format!("health_monitor_refs[{i}]");
            errors.push(FieldError::new(path, problem, MONITOR_HINT));
        }
        if user.vrf_context_ref != pool.vrf_ref {
            let problem = format!("virtual service {name} uses this pool in another VRF");
            errors.push(FieldError::new("vrf_ref", problem, SAME_VRF));
        }
    }
}

/// A pool group that changes its members must still fit its virtual services.
pub(super) fn check_users_of_group(snapshot: &Snapshot, uuid: &str, errors: &mut Vec<FieldError>) {
    for user in users_of_group(snapshot, uuid) {
        let mut own = Vec::new();
        check(snapshot, &user, &mut own);
        let name = &user.name;
        errors.extend(own.into_iter().map(|error| {
            let problem = format!("virtual service {name} uses this group: {}", error.problem);
            FieldError::new("members", problem, error.hint)
        }));
    }
}
