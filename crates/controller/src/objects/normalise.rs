//! From what a client wrote to what is stored: references canonical, server-owned fields out, the references and
//! side effects that the contract promises filled in (avi-api 5.2 and section 6).

use super::{Author, Draft, certificate, ipam, refs, transport, vnics};
use crate::error::ApiError;
use model::object::{self, FieldError, Object};
use model::schema::{ObjectType, object_type};
use model::view::{MADE_FOR_VS, Ref};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Kept from the stored object when the body has none (avi-api section 6, PUT).
const KEPT: [&str; 3] = ["tenant_ref", "cloud_ref", "created_by"];

pub(super) fn for_create(
    draft: &mut Draft,
    ty: &'static ObjectType,
    body: Object,
    author: &Author,
) -> Result<Object, ApiError> {
    let mut object = clean(ty, body);
    references(draft, ty, &mut object, author)?;
    if ty.name == "VirtualService" {
        make_vsvip(draft, &mut object, author)?;
    }
    side_effects(ty, &mut object);
    finish(ty, &Object::new(), object)
}

pub(super) fn for_update(
    draft: &mut Draft,
    ty: &'static ObjectType,
    stored: &Object,
    body: Object,
    author: &Author,
) -> Result<Object, ApiError> {
    let interfaces = vnics::known(ty, stored, &body);
    let mut object = clean(ty, body);
    keep(ty, stored, &mut object);
    vnics::keep(ty, stored, &interfaces, &mut object);
    references(draft, ty, &mut object, author)?;
    refuse_moves(stored, &object)?;
    match ty.name.as_str() {
        "VirtualService" => change_vsvip(draft, stored, &mut object, author)?,
        "VsVip" => {
            keep_vip_ids(stored, &mut object)?;
            ipam::keep(&draft.snapshot, stored, &mut object);
        }
        _ => {}
    }
    side_effects(ty, &mut object);
    finish(ty, stored, object)
}

/// What needs the secrets that the body left out.
fn finish(ty: &ObjectType, stored: &Object, mut object: Object) -> Result<Object, ApiError> {
    object::keep_secrets(ty, stored, &mut object);
    if ty.name == "SSLKeyAndCertificate" {
        failed(certificate::complete(stored, &mut object))?;
    }
    Ok(object)
}

/// What of the stored object stays although the body does not say so.
fn keep(ty: &ObjectType, stored: &Object, object: &mut Object) {
    for name in KEPT.iter().filter(|n| stored.contains_key(**n)) {
        object
            .entry((*name).to_owned())
            .or_insert_with(|| stored[*name].clone());
    }
    let ours = ty.fields.iter().filter(|f| f.is_server_owned());
    for name in ours.map(|f| f.name.as_str()).chain(["system_default"]) {
        match stored.get(name) {
            Some(value) => drop(object.insert(name.to_owned(), value.clone())),
            None => drop(object.shift_remove(name)),
        }
    }
    if ty.field("name").is_some() && !object.contains_key("name") {
        object.extend(stored.get("name").map(|n| ("name".to_owned(), n.clone())));
    }
}

fn clean(ty: &ObjectType, mut object: Object) -> Object {
    for name in ["url", "uuid", "_last_modified"] {
        object.shift_remove(name);
    }
    object.retain(|name, _| ty.field(name).is_some() || !is_shown_when_asked(name));
    object::strip_server_owned(ty, &mut object);
    object
}

/// Not of the object: `join_subresources` and `include_refs` put it into what is read (avi-api 5.3).
fn is_shown_when_asked(name: &str) -> bool {
    let referrer = |n: &str| n == "vs" || object_type(n).is_some();
    name == "runtime" || name.strip_suffix("_refs").is_some_and(referrer)
}

/// `uuid`, `cloud_ref` and `tenant_ref` never change, nor does the name by which everybody knows a system object.
fn refuse_moves(stored: &Object, object: &Object) -> Result<(), ApiError> {
    let moved = |name: &&str| stored.contains_key(*name) && stored.get(*name) != object.get(*name);
    let mut errors: Vec<_> = ["cloud_ref", "tenant_ref"]
        .iter()
        .filter(|n| moved(n))
        .map(|name| {
            let hint = "delete the object and create it again elsewhere";
            FieldError::new(*name, "cannot be changed", hint)
        })
        .collect();
    if stored.get("system_default") == Some(&Value::Bool(true)) && moved(&"name") {
        let hint = "make an object of your own with the name you want";
        errors.push(FieldError::new(
            "name",
            "of a system default object cannot be changed",
            hint,
        ));
    }
    failed(errors)
}

pub(super) fn failed(errors: Vec<FieldError>) -> Result<(), ApiError> {
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::fields(&errors))
    }
}

/// References by name become references, all become canonical, and those that an object gets without asking are
/// filled in (avi-api 5.1, 5.2).
fn references(
    draft: &Draft,
    ty: &'static ObjectType,
    object: &mut Object,
    author: &Author,
) -> Result<(), ApiError> {
    take_names(ty, object);
    resolve(draft, ty, object, author)?;
    fill_references(draft, ty, object, author);
    Ok(())
}

/// `pool_name` in place of `pool_ref`, as older clients write it (avi-api 5.1).
const NAMES: [(&str, &str); 5] = [
    ("application_profile", "applicationprofile"),
    ("network_profile", "networkprofile"),
    ("pool", "pool"),
    ("se_group", "serviceenginegroup"),
    ("health_monitor", "healthmonitor"),
];

fn take_names(ty: &ObjectType, object: &mut Object) {
    for (stem, target) in NAMES {
        let (name, one, many) = (
            format!("{stem}_name"),
            format!("{stem}_ref"),
            format!("{stem}_refs"),
        );
        let field = [one, many].into_iter().find(|f| ty.field(f).is_some());
        let Some(field) = field.filter(|f| ty.field(&name).is_none() && !object.contains_key(f))
        else {
            continue;
        };
        if let Some(Value::String(value)) = object.shift_remove(&name) {
            let reference = refs::by_name_form(target, &value);
            let list = field.ends_with("_refs");
            let value = if list {
                json!([reference])
            } else {
                json!(reference)
            };
            object.insert(field, value);
        }
    }
}

/// The references that a new object gets without asking (avi-api 5.2): VRF and group are those of its own cloud.
fn fill_references(draft: &Draft, ty: &ObjectType, object: &mut Object, author: &Author) {
    let snapshot = &draft.snapshot;
    if ty.name != "Tenant" {
        let tenant = Some(Ref::to("tenant", &author.tenant).0);
        fill(ty, object, "tenant_ref", tenant);
    }
    let default_cloud = snapshot.by_name("cloud", "Default-Cloud");
    let default_cloud = default_cloud.map(|(uuid, _)| Ref::to("cloud", uuid).0);
    fill(ty, object, "cloud_ref", default_cloud);
    let cloud = object.get("cloud_ref").cloned();
    let in_cloud = |path: &str, name: &str| {
        let here = |o: &Object| o.get("cloud_ref") == cloud.as_ref();
        let mut named = snapshot.named(path, name);
        let found = named.find(|(_, s)| here(&s.object));
        found.map(|(uuid, _)| Ref::to(path, uuid).0)
    };
    // Of two with the name, the tenant's own, then that of tenant admin.
    let shared = |path: &str, name: &str| {
        let form = refs::by_name_form(path, name);
        let found = refs::resolve_for(snapshot, &author.tenant, path, &form);
        found.ok().map(|uuid| Ref::to(path, &uuid).0)
    };
    let vrf = || in_cloud("vrfcontext", "global");
    let group = || in_cloud("serviceenginegroup", "Default-Group");
    let analytics = || shared("analyticsprofile", "System-Analytics-Profile");
    match ty.name.as_str() {
        "VirtualService" => {
            let application = transport::default_application(snapshot, object);
            let application = shared("applicationprofile", application);
            let network = shared("networkprofile", "System-TCP-Proxy");
            fill(ty, object, "se_group_ref", group());
            fill(ty, object, "vrf_context_ref", vrf());
            fill(ty, object, "application_profile_ref", application);
            fill(ty, object, "network_profile_ref", network);
            fill(ty, object, "analytics_profile_ref", analytics());
        }
        "VsVip" | "Network" => fill(ty, object, "vrf_context_ref", vrf()),
        "Pool" => {
            fill(ty, object, "vrf_ref", vrf());
            fill(ty, object, "analytics_profile_ref", analytics());
        }
        "ServiceEngine" => fill(ty, object, "se_group_ref", group()),
        _ => {}
    }
}

fn fill(ty: &ObjectType, object: &mut Object, field: &str, value: Option<String>) {
    if let (Some(_), false, Some(value)) = (ty.field(field), object.contains_key(field), value) {
        object.insert(field.to_owned(), Value::from(value));
    }
}

/// What the server adds to a body on its own (avi-api 5.2).
fn side_effects(ty: &'static ObjectType, object: &mut Object) {
    match ty.name.as_str() {
        "VsVip" => number_vips(object),
        "VirtualService" => {
            for service in items(object, "services") {
                let port = service.get("port").cloned().unwrap_or_default();
                service.entry("port_range_end").or_insert(port);
            }
        }
        // Their defaults are seen although nothing is set.
        "SeProperties" => {
            let parts = ty.fields.iter().filter(|f| f.name.starts_with("se_"));
            for part in parts {
                object.entry(part.name.clone()).or_insert(json!({}));
            }
        }
        "Pool" => {
            for server in items(object, "servers") {
                let addr = server.get("ip").and_then(|ip| ip.get("addr")).cloned();
                if let Some(addr) = addr {
                    server.entry("hostname").or_insert(addr);
                }
            }
        }
        _ => {}
    }
}

/// The objects of a list field.
pub(super) fn items<'a>(
    object: &'a mut Object,
    field: &str,
) -> impl Iterator<Item = &'a mut Object> {
    let list = object.get_mut(field).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

/// A VIP without an id gets the least that is free, from "0".
fn number_vips(object: &mut Object) {
    let mut taken: BTreeSet<String> = items(object, "vip")
        .filter_map(|v| Some(v.get("vip_id")?.as_str()?.to_owned()))
        .collect();
    let mut numbers = (0..).map(|n: u32| n.to_string());
    for vip in items(object, "vip").filter(|v| !v.contains_key("vip_id")) {
        let free = numbers.find(|n| !taken.contains(n)).expect("endless");
        taken.insert(free.clone());
        vip.insert("vip_id".into(), free.into());
    }
}

/// A VIP is known by its address: it keeps its id when the body leaves it out, and may not get another one.
fn keep_vip_ids(stored: &Object, object: &mut Object) -> Result<(), ApiError> {
    let mut old = stored.clone();
    let addresses = |vip: &Object| {
        (
            vip.get("ip_address").cloned(),
            vip.get("ip6_address").cloned(),
        )
    };
    let known: Vec<_> = items(&mut old, "vip")
        .map(|v| (addresses(v), v.get("vip_id").cloned()))
        .filter(|(a, _)| *a != (None, None))
        .collect();
    for (i, vip) in items(object, "vip").enumerate() {
        let before = known.iter().find(|(a, _)| *a == addresses(vip));
        let Some(id) = before.and_then(|(_, id)| id.clone()) else {
            continue;
        };
        if *vip.entry("vip_id").or_insert_with(|| id.clone()) != id {
            let problem = "Changing an existing VIP's vip_id is not supported";
            let hint = format!("write {id}");
            let error = FieldError::new(format!("vip[{i}].vip_id"), problem, hint);
            return Err(ApiError::fields(&[error]));
        }
    }
    Ok(())
}

pub(super) fn vsvip_type() -> &'static ObjectType {
    object_type("vsvip").expect("in the schema")
}

/// A virtual service with inline `vip[]` gets a VsVip of its own (avi-api 5.2).
fn make_vsvip(draft: &mut Draft, object: &mut Object, author: &Author) -> Result<(), ApiError> {
    let Some(vip) = object.shift_remove("vip") else {
        return Ok(());
    };
    if object.contains_key("vsvip_ref") {
        return Ok(());
    }
    let mut name = format!(
        "vsvip-{}",
        object.get("name").and_then(Value::as_str).unwrap_or("")
    );
    if draft.snapshot.by_name("vsvip", &name).is_some() {
        let unique = uuid::Uuid::new_v4().simple().to_string();
        name.push_str(&format!("-{}", &unique[..8]));
    }
    let mut body = Object::new();
    body.insert("name".into(), name.into());
    body.insert("vip".into(), vip);
    body.insert("created_by".into(), MADE_FOR_VS.into());
    for field in ["cloud_ref", "vrf_context_ref", "tenant_ref"] {
        body.extend(object.get(field).map(|v| (field.to_owned(), v.clone())));
    }
    let uuid = draft.create(vsvip_type(), body, None, author)?;
    object.insert("vsvip_ref".into(), Ref::to("vsvip", &uuid).0.into());
    Ok(())
}

/// Inline `vip[]` in an update changes the VsVip that was made for it.
fn change_vsvip(
    draft: &mut Draft,
    stored: &Object,
    object: &mut Object,
    author: &Author,
) -> Result<(), ApiError> {
    let before = stored.get("vsvip_ref").and_then(Value::as_str);
    let Some(before) = before.filter(|_| !object.contains_key("vsvip_ref")) else {
        return make_vsvip(draft, object, author);
    };
    let Some(vip) = object.shift_remove("vip") else {
        return Ok(());
    };
    let reference = Ref(before.to_owned());
    let vsvip = draft.snapshot.require(vsvip_type(), reference.uuid())?;
    if vsvip.object.get("created_by") != Some(&MADE_FOR_VS.into()) {
        let problem = format!("the VIP is that of VsVip {}", vsvip.name());
        let hint = "change that object, or name another one in vsvip_ref";
        return Err(ApiError::fields(&[FieldError::new("vip", problem, hint)]));
    }
    let mut body = vsvip.object.clone();
    body.insert("vip".into(), vip);
    draft.update(vsvip_type(), reference.uuid(), body, author)?;
    object.insert("vsvip_ref".into(), reference.0.into());
    Ok(())
}

fn resolve(
    draft: &Draft,
    ty: &ObjectType,
    object: &mut Object,
    author: &Author,
) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    object::map_refs(ty, object, &mut |reference| {
        let (target, text) = (reference.target, reference.value.as_str());
        match refs::resolve_for(&draft.snapshot, &author.tenant, target, text) {
            Ok(uuid) => Ref::to(target, &uuid).0,
            Err(problem) => {
                let hint = format!("name an existing {target}");
                errors.push(FieldError::new(reference.path.clone(), problem, hint));
                reference.value.clone()
            }
        }
    });
    failed(errors)
}
