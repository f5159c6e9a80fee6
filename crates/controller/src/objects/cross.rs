//! Rules across objects: what one object alone cannot get wrong.

use super::normalise::failed;
use super::{Snapshot, application, peer_networks, pools, transport};
use crate::error::ApiError;
use model::object::FieldError;
use model::view::{Ref, ServiceEngineGroup, VirtualService, VsVip};
use std::net::IpAddr;
use std::sync::Arc;

/// Checks what a change of this object can break. What was wrong `before` is not this change's fault: a certificate can be renewed,
/// whatever else is wrong with a virtual service that has it, and what an older version has stored can be disabled.
pub(super) fn check(
    before: &Snapshot,
    snapshot: &Snapshot,
    path: &str,
    uuid: &str,
) -> Result<(), ApiError> {
    let mut errors = errors(snapshot, path, uuid);
    if !errors.is_empty() {
        let known = self::errors(before, path, uuid);
        errors.retain(|error| !known.contains(error));
    }
    failed(errors)
}

/// Of the object, and of what uses it.
fn errors(snapshot: &Snapshot, path: &str, uuid: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match path {
        "vsvip" => {
            check_vip_is_free(snapshot, uuid, &mut errors);
            check_vsvip_users(snapshot, uuid, &mut errors);
        }
        "virtualservice" => check_virtual_service(snapshot, uuid, &mut errors),
        "pool" => {
            pools::check_users(snapshot, uuid, &mut errors);
            application::check_pool(snapshot, uuid, &mut errors);
        }
        "applicationprofile"
        | "sslprofile"
        | "sslkeyandcertificate"
        | "applicationpersistenceprofile" => {
            application::check_users(snapshot, (path, uuid), &mut errors);
        }
        "poolgroup" => pools::check_users_of_group(snapshot, uuid, &mut errors),
        "networkprofile" => check_profile_users(snapshot, uuid, &mut errors),
        "serviceenginegroup" => check_group_users(snapshot, uuid, &mut errors),
        "vrfcontext" => peer_networks::check(snapshot, uuid, &mut errors),
        "network" => peer_networks::check_users(snapshot, uuid, &mut errors),
        _ => {}
    }
    errors
}

/// One address may be in one VsVip per VRF only (avi-api section 12).
fn check_vip_is_free(snapshot: &Snapshot, uuid: &str, errors: &mut Vec<FieldError>) {
    let Some(ours) = snapshot.view::<VsVip>("vsvip", uuid) else {
        return;
    };
    let Some(vrf) = &ours.vrf_context_ref else {
        return;
    };
    for (i, vip) in ours.vip.iter().enumerate() {
        for address in vip.addresses() {
            let Some((user, hint)) = other_user(snapshot, vrf, address, uuid) else {
                continue;
            };
            let field = match address {
                IpAddr::V4(_) => "ip_address",
                IpAddr::V6(_) => "ip6_address",
            };
            let problem = format!("{address} is used by {user}");
            errors.push(FieldError::new(format!("vip[{i}].{field}"), problem, hint));
        }
    }
}

/// Who else has an address in a VRF context, in words, and what to do about it.
fn other_user(
    snapshot: &Snapshot,
    vrf: &Ref,
    address: IpAddr,
    uuid: &str,
) -> Option<(String, &'static str)> {
    let mut users = snapshot.users_of_address(vrf, address);
    let (path, user) = users.find(|(_, user)| *user != uuid)?;
    let name = snapshot.name_of(path, user)?;
    Some(match path {
        "virtualservice" => (
            format!("virtual service {name} as its snat_ip"),
            "use another address",
        ),
        _ => (
            format!("VsVip {name} in the same VRF"),
            "use another address, or share that VsVip (vsvip_ref) with other ports",
        ),
    })
}

fn check_virtual_service(snapshot: &Snapshot, uuid: &str, errors: &mut Vec<FieldError>) {
    let Some(ours) = snapshot.view::<VirtualService>("virtualservice", uuid) else {
        return;
    };
    check_shared_ports(snapshot, &ours, errors);
    transport::check(snapshot, &ours, errors);
    application::check(snapshot, &ours, errors);
    pools::check(snapshot, &ours, errors);
    check_vip_as_source(snapshot, &ours, errors);
    check_snat_is_free(snapshot, &ours, errors);
    let vsvip = ours
        .vsvip_ref
        .as_ref()
        .and_then(|r| snapshot.view::<VsVip>("vsvip", r.uuid()));
    if let Some(vsvip) = vsvip.filter(|v| v.vrf_context_ref != ours.vrf_context_ref) {
        let problem = format!("VsVip {} is in another VRF context", vsvip.name);
        errors.push(FieldError::new(
            "vsvip_ref",
            problem,
            "give both the same vrf_context_ref",
        ));
    }
}

/// "The caveat of enabling this option is that the VirtualService cannot be configured in an Active-Active HA mode" (Avi,
/// VirtualService, `use_vip_as_snat`): what servers send to the VIP would be spread over all engines that announce it.
fn check_vip_as_source(snapshot: &Snapshot, ours: &VirtualService, errors: &mut Vec<FieldError>) {
    let group = ours.se_group_ref.as_ref().map_or("", Ref::uuid);
    let group = snapshot.view::<ServiceEngineGroup>("serviceenginegroup", group);
    let Some(group) = group.filter(|g| ours.use_vip_as_snat && !g.is_for_one_engine()) else {
        return;
    };
    let problem = format!(
        "SE group {} may place the VIP on several service engines (max_scaleout_per_vs is {}, ha_mode {}), and routers would bring servers' answers to any of them",
        group.name,
        group.max_scaleout_per_vs,
        group.mode()
    );
    let hint = "name a group in se_group_ref whose max_scaleout_per_vs is 1 and ha_mode HA_MODE_SHARED without active_standby, or set use_vip_as_snat to false";
    errors.push(FieldError::new("use_vip_as_snat", problem, hint));
}

/// Source addresses are one engine's each: another virtual service's would be another engine's, too, and a VIP is all
/// engines'.
fn check_snat_is_free(snapshot: &Snapshot, ours: &VirtualService, errors: &mut Vec<FieldError>) {
    let Some(vrf) = &ours.vrf_context_ref else {
        return;
    };
    for (i, address) in ours.snat_ip.iter().enumerate() {
        let user = |ip| other_user(snapshot, vrf, ip, &ours.uuid);
        if let Some((user, _)) = address.ip().and_then(user) {
            let problem = format!("{} is used by {user}", address.addr);
            let hint = "use another address: servers' answers must come to one engine";
            errors.push(FieldError::new(format!("snat_ip[{i}]"), problem, hint));
        }
    }
}

/// A group that comes to place virtual services on several engines must have none whose VIP is their source.
fn check_group_users(snapshot: &Snapshot, uuid: &str, errors: &mut Vec<FieldError>) {
    let here = Ref::to("serviceenginegroup", uuid);
    let users: Vec<Arc<VirtualService>> =
        snapshot.views_referring("virtualservice", "se_group_ref", &here);
    for user in users {
        let mut own = Vec::new();
        check_vip_as_source(snapshot, &user, &mut own);
        if !own.is_empty() {
            let problem = format!(
                "virtual service {} sends from its VIP (use_vip_as_snat), for which it must be on one service engine",
                user.name
            );
            let hint = "leave it at 1, or set use_vip_as_snat of the virtual service to false";
            errors.push(FieldError::new("max_scaleout_per_vs", problem, hint));
        }
    }
}

/// Virtual services that share a VsVip use different ports of a protocol, and engines of one group: they are placed together.
fn check_shared_ports(snapshot: &Snapshot, ours: &VirtualService, errors: &mut Vec<FieldError>) {
    let Some(vsvip) = &ours.vsvip_ref else { return };
    let sharing: Vec<Arc<VirtualService>> =
        snapshot.views_referring("virtualservice", "vsvip_ref", vsvip);
    for other in sharing.iter().filter(|o| o.uuid != ours.uuid) {
        if other.se_group_ref != ours.se_group_ref {
            let problem = format!("{} shares the VIP and is of another group", other.name);
            let hint = "give both the same se_group_ref, or this one a VIP of its own";
            errors.push(FieldError::new("se_group_ref", problem, hint));
        }
        for (i, service) in ours.services.iter().enumerate() {
            let ours = (ours, service);
            let mut theirs = other.services.iter();
            if theirs.any(|s| transport::collide(snapshot, ours, (other, s))) {
                let port = service.port;
                let problem = format!("port {port} is used by {} on the same VIP", other.name);
                let hint = "use another port or another VIP";
                errors.push(FieldError::new(
                    format!("services[{i}].port"),
                    problem,
                    hint,
                ));
            }
        }
    }
}

/// A VsVip that changes its VRF must still fit its virtual services.
fn check_vsvip_users(snapshot: &Snapshot, uuid: &str, errors: &mut Vec<FieldError>) {
    let Some(vsvip) = snapshot.view::<VsVip>("vsvip", uuid) else {
        return;
    };
    let here = Ref::to("vsvip", uuid);
    let users: Vec<Arc<VirtualService>> =
        snapshot.views_referring("virtualservice", "vsvip_ref", &here);
    let users = users
        .iter()
        .filter(|v| v.vrf_context_ref != vsvip.vrf_context_ref);
    for user in users {
        let problem = format!(
            "virtual service {} uses this VsVip in another VRF",
            user.name
        );
        let hint = "give both the same VRF";
        errors.push(FieldError::new("vrf_context_ref", problem, hint));
    }
}

/// Another protocol, or what engines cannot do, must not come to virtual services by their profile.
fn check_profile_users(snapshot: &Snapshot, uuid: &str, errors: &mut Vec<FieldError>) {
    let here = Ref::to("networkprofile", uuid);
    let all = snapshot.referring_to("networkprofile", uuid);
    let services = all.filter(|(path, _)| *path == "virtualservice");
    let views = services.filter_map(|(path, user)| snapshot.view::<VirtualService>(path, user));
    for user in views.filter(|vs| transport::uses(vs, &here)) {
        let user = &user;
        let mut own = Vec::new();
        check_shared_ports(snapshot, user, &mut own);
        transport::check(snapshot, user, &mut own);
        pools::check(snapshot, user, &mut own);
        let name = &user.name;
        let of_user = |error: FieldError| {
            let problem = format!("virtual service {name}: {}: {}", error.path, error.problem);
            FieldError::new("profile", problem, error.hint)
        };
        errors.extend(own.into_iter().map(of_user));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Author, Objects, PREFIX};
    use crate::bootstrap;
    use crate::error::ApiError;
    use model::object::Object;
    use model::schema::object_type;
    use serde_json::{Value, json};
    use std::sync::Arc;
    use store::{Expect, Memory, Meta, Op, Store};

    async fn create(objects: &Objects, path: &str, body: Value) -> String {
        let author = Author::system("test");
        let ty = object_type(path).expect("known");
        let body = body.as_object().expect("an object").clone();
        let created = objects.change(&author, "test", |draft| {
            draft.create(ty, body, None, &author)
        });
        created.await.expect("created")
    }

    async fn update(
        objects: &Objects,
        (path, uuid): (&str, &str),
        f: impl FnOnce(&mut Object),
    ) -> Result<(), ApiError> {
        let author = Author::system("test");
        let ty = object_type(path).expect("known");
        let updated = objects.change(&author, "test", |draft| {
            let mut object = draft.snapshot.require(ty, uuid)?.object.clone();
            object.shift_remove("_last_modified");
            f(&mut object);
            draft.update(ty, uuid, object, &author)
        });
        updated.await.map(drop)
    }

    fn persistence(name: &str) -> Value {
        json!({"name": name, "persistence_type": "PERSISTENCE_TYPE_TLS"})
    }

    /// An older version has stored it so.
    async fn store_raw(store: &Arc<dyn Store>, key: &str, field: &str, value: Value) {
        let key = format!("{PREFIX}{key}");
        let stored = store.get(&key).await.expect("read").expect("there");
        let mut object: Value = serde_json::from_slice(&stored.value).expect("JSON");
        object[field] = value;
        let op = Op::put(key, object.to_string(), Expect::Any);
        store
            .commit(vec![op], Meta::default())
            .await
            .expect("written");
    }

    #[tokio::test]
    async fn what_was_wrong_before_keeps_nobody_from_another_change() {
        let store: Arc<dyn Store> = Arc::new(Memory::default());
        let objects = Objects::open(store.clone()).await.expect("empty");
        bootstrap::ensure(&objects).await.expect("made");
        let pool = create(&objects, "pool", json!({"name": "p"})).await;
        let path = "applicationpersistenceprofile";
        let old = create(&objects, path, persistence("old")).await;
        let new = create(&objects, path, persistence("new")).await;
        let field = "application_persistence_profile_ref";
        let old = json!(format!("/api/{path}/{old}"));
        store_raw(&store, &format!("pool/{pool}"), field, old).await;
        let objects = Objects::open(store).await.expect("read");
        let servers = json!([{"ip": {"addr": "10.0.0.1", "type": "V4"}}]);
        let done = update(&objects, ("pool", &pool), |p| {
            drop(p.insert("servers".into(), servers))
        });
        done.await.expect("a pool gets its servers");
        let new = json!(format!("/api/{path}/{new}"));
        let done = update(&objects, ("pool", &pool), |p| {
            drop(p.insert(field.into(), new))
        });
        let refused = done.await.expect_err("that is this change's fault").text;
        assert!(
            refused.contains(field) && refused.contains("new is of type"),
            "{refused}"
        );
    }
}
