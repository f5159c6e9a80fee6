//! From what a client wrote to what is stored: references canonical, server-owned fields out, the references and
//! side effects that the contract promises filled in (avi-api 5.2 and section 6).

use super::{Author, Draft, refs};
use crate::error::ApiError;
use model::object::{self, FieldError, Object};
use model::schema::{ObjectType, object_type};
use model::view::Ref;
use serde_json::{Value, json};

/// What a secret looks like on read; writing it back keeps the value.
pub const MASK: &str = "<sensitive>";

/// Kept from the stored object when the body has none (avi-api section 6, PUT).
const KEPT: [&str; 4] = ["tenant_ref", "cloud_ref", "system_default", "created_by"];

pub(super) fn for_create(
    draft: &mut Draft,
    ty: &'static ObjectType,
    body: Object,
    author: &Author,
) -> Result<Object, ApiError> {
    let mut object = clean(ty, body);
    fill_references(draft, ty, &mut object, author);
    side_effects(draft, ty, &mut object, author)?;
    resolve(draft, ty, &mut object)?;
    restore_secrets(&Object::new(), &mut object);
    Ok(object)
}

pub(super) fn for_update(
    draft: &mut Draft,
    ty: &'static ObjectType,
    stored: &Object,
    body: Object,
    author: &Author,
) -> Result<Object, ApiError> {
    let mut object = clean(ty, body);
    for name in KEPT.iter().filter(|n| stored.contains_key(**n)) {
        object
            .entry((*name).to_owned())
            .or_insert_with(|| stored[*name].clone());
    }
    for field in ty.fields.iter().filter(|f| f.is_server_owned()) {
        if let Some(value) = stored.get(&field.name) {
            object.insert(field.name.clone(), value.clone());
        }
    }
    if ty.field("name").is_some() && !object.contains_key("name") {
        object.extend(stored.get("name").map(|n| ("name".to_owned(), n.clone())));
    }
    keep_observed_interfaces(ty, stored, &mut object);
    fill_references(draft, ty, &mut object, author);
    side_effects(draft, ty, &mut object, author)?;
    resolve(draft, ty, &mut object)?;
    refuse_moves(stored, &object)?;
    restore_secrets(stored, &mut object);
    Ok(object)
}

/// Interfaces are reported by the engine; a body without them does not take them away.
fn keep_observed_interfaces(ty: &ObjectType, stored: &Object, object: &mut Object) {
    if ty.name == "ServiceEngine" && !object.contains_key("data_vnics") {
        object.extend(
            stored
                .get("data_vnics")
                .map(|v| ("data_vnics".to_owned(), v.clone())),
        );
    }
}

fn clean(ty: &ObjectType, mut object: Object) -> Object {
    for name in ["url", "uuid", "_last_modified"] {
        object.shift_remove(name);
    }
    object::strip_server_owned(ty, &mut object);
    object
}

/// `uuid`, `cloud_ref` and `tenant_ref` never change.
fn refuse_moves(stored: &Object, object: &Object) -> Result<(), ApiError> {
    for name in ["cloud_ref", "tenant_ref"] {
        if stored.contains_key(name) && stored.get(name) != object.get(name) {
            let hint = "delete the object and create it again elsewhere";
            return Err(ApiError::fields(&[FieldError::new(
                name,
                "cannot be changed",
                hint,
            )]));
        }
    }
    Ok(())
}

/// The references that a new object gets without asking (avi-api 5.2).
fn fill_references(draft: &Draft, ty: &ObjectType, object: &mut Object, author: &Author) {
    let snapshot = &draft.snapshot;
    let named = |path: &str, name: &str| {
        snapshot
            .by_name(path, name)
            .map(|(uuid, _)| Ref::to(path, uuid).0)
    };
    let mut fill = |field: &str, value: Option<String>| {
        if let (Some(_), false, Some(value)) = (ty.field(field), object.contains_key(field), value)
        {
            object.insert(field.to_owned(), Value::from(value));
        }
    };
    if ty.name != "Tenant" {
        fill("tenant_ref", Some(Ref::to("tenant", &author.tenant).0));
    }
    fill("cloud_ref", named("cloud", "Default-Cloud"));
    match ty.name.as_str() {
        "VirtualService" => {
            fill("se_group_ref", named("serviceenginegroup", "Default-Group"));
            fill("vrf_context_ref", named("vrfcontext", "global"));
            fill(
                "application_profile_ref",
                named("applicationprofile", "System-HTTP"),
            );
            fill(
                "network_profile_ref",
                named("networkprofile", "System-TCP-Proxy"),
            );
        }
        "VsVip" | "Network" => fill("vrf_context_ref", named("vrfcontext", "global")),
        "Pool" => fill("vrf_ref", named("vrfcontext", "global")),
        "ServiceEngine" => fill("se_group_ref", named("serviceenginegroup", "Default-Group")),
        _ => {}
    }
}

/// What the server adds to a body on its own.
fn side_effects(
    draft: &mut Draft,
    ty: &'static ObjectType,
    object: &mut Object,
    author: &Author,
) -> Result<(), ApiError> {
    match ty.name.as_str() {
        "VsVip" => number_vips(object),
        "VirtualService" => {
            for service in items(object, "services") {
                let port = service.get("port").cloned().unwrap_or_default();
                service.entry("port_range_end").or_insert(port);
            }
            make_vsvip(draft, object, author)?;
        }
        "Pool" => {
            for server in items(object, "servers") {
                let addr = server.get("ip").and_then(|ip| ip.get("addr")).cloned();
                if let Some(addr) = addr {
                    server.entry("hostname").or_insert(addr);
                }
            }
        }
        "User" => {
            if let Some(name) = object.get("username").cloned() {
                object.insert("name".into(), name);
            }
        }
        _ => {}
    }
    Ok(())
}

/// The objects of a list field.
fn items<'a>(object: &'a mut Object, field: &str) -> impl Iterator<Item = &'a mut Object> {
    let list = object.get_mut(field).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

fn number_vips(object: &mut Object) {
    for (i, vip) in items(object, "vip").enumerate() {
        vip.entry("vip_id").or_insert_with(|| i.to_string().into());
    }
}

/// A virtual service with inline `vip[]` gets a VsVip of its own (avi-api 5.2).
fn make_vsvip(draft: &mut Draft, object: &mut Object, author: &Author) -> Result<(), ApiError> {
    if object.contains_key("vsvip_ref") {
        object.shift_remove("vip");
        return Ok(());
    }
    let Some(vip) = object.shift_remove("vip") else {
        return Ok(());
    };
    let name = object.get("name").and_then(Value::as_str).unwrap_or("");
    let mut body = Object::new();
    body.insert("name".into(), format!("vsvip-{name}").into());
    body.insert("vip".into(), vip);
    for field in ["cloud_ref", "vrf_context_ref", "tenant_ref"] {
        body.extend(object.get(field).map(|v| (field.to_owned(), v.clone())));
    }
    let ty = object_type("vsvip").expect("in the schema");
    let uuid = draft.create(ty, body, None, author)?;
    object.insert("vsvip_ref".into(), Ref::to("vsvip", &uuid).0.into());
    Ok(())
}

fn resolve(draft: &Draft, ty: &ObjectType, object: &mut Object) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    object::map_refs(ty, object, &mut |reference| match refs::resolve(
        &draft.snapshot,
        reference.target,
        &reference.value,
    ) {
        Ok(uuid) => Ref::to(reference.target, &uuid).0,
        Err(problem) => {
            let hint = format!("name an existing {}", reference.target);
            errors.push(FieldError::new(reference.path.clone(), problem, hint));
            reference.value.clone()
        }
    });
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::fields(&errors))
    }
}

/// A peer's MD5 secret that is masked or absent keeps its value; peers are known by address (avi-api section 12).
fn restore_secrets(stored: &Object, object: &mut Object) {
    let old = peers(stored);
    let list = object
        .get_mut("bgp_profile")
        .and_then(|p| p.get_mut("peers"))
        .and_then(Value::as_array_mut);
    for peer in list.into_iter().flatten().filter_map(Value::as_object_mut) {
        let written = peer.get("md5_secret").and_then(Value::as_str);
        if written.is_some_and(|s| s != MASK) {
            continue;
        }
        peer.shift_remove("md5_secret");
        let same = |o: &&Object| {
            o.get("peer_ip") == peer.get("peer_ip") && o.get("peer_ip6") == peer.get("peer_ip6")
        };
        if let Some(secret) = old
            .iter()
            .find(|o| same(o))
            .and_then(|o| o.get("md5_secret"))
        {
            peer.insert("md5_secret".into(), secret.clone());
        }
    }
}

fn peers(object: &Object) -> Vec<Object> {
    let list = object.get("bgp_profile").and_then(|p| p.get("peers"));
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|p| p.as_object().cloned()).collect()
}

/// Hides secrets in an object that is about to be shown.
pub fn mask_secrets(object: &mut Object) {
    let list = object
        .get_mut("bgp_profile")
        .and_then(|p| p.get_mut("peers"))
        .and_then(Value::as_array_mut);
    for peer in list.into_iter().flatten().filter_map(Value::as_object_mut) {
        if peer.contains_key("md5_secret") {
            peer.insert("md5_secret".into(), json!(MASK));
        }
    }
    object.shift_remove("password");
}
