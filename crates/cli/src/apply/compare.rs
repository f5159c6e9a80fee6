//! Is the object that is there the one that the file wants?
//!
//! Both are brought to one form first: without defaults, without what the server owns, references as names.
//! Then they must be equal, except for fields that the server fills in when they are not given.

use model::object::{Object, map_refs, without_defaults};
use model::schema::{Kind, ObjectType, message};
use serde_json::Value;

/// Filled in by the server when not given (avi-api 5.2): no difference where only the server has them.
const FILLED_IN: [&str; 22] = [
    "_last_modified",
    "analytics_profile_ref",
    "application_profile_ref",
    "cloud_ref",
    "cloud_type",
    "data_vnics",
    "hostname",
    "marked_for_delete",
    "network_profile_ref",
    "port_range_end",
    "se_group_ref",
    "system_default",
    "tenant_ref",
    "url",
    "uuid",
    "version",
    "vip_id",
    "vip_runtime",
    "vnic_networks",
    "vrf_context_ref",
    "vrf_ref",
    "vsvip_ref",
];

/// The path of the first field that is different, or nothing when the object is as wanted.
pub(super) fn difference(ty: &ObjectType, wanted: &Object, current: &Object) -> Option<String> {
    let (wanted, current) = (normal_form(ty, wanted), normal_form(ty, current));
    in_object(Some(ty), &wanted, &current, "")
}

fn normal_form(ty: &ObjectType, object: &Object) -> Object {
    let mut object = without_defaults(ty, object);
    map_refs(ty, &mut object, &mut |reference| {
        target_name(&reference.value).to_string()
    });
    object
}

/// The name in `…/UUID#name` or `…?name=name`, the UUID of a plain reference.
fn target_name(reference: &str) -> &str {
    if let Some(name) = client::name_of(reference) {
        return name;
    }
    match reference.split_once("name=") {
        Some((_, rest)) => rest.split('&').next().unwrap_or(rest),
        None => client::uuid_of(reference),
    }
}

fn in_object(
    ty: Option<&ObjectType>,
    wanted: &Object,
    current: &Object,
    path: &str,
) -> Option<String> {
    let missing = wanted.iter().find_map(|(key, value)| {
        let field = ty.and_then(|ty| ty.field(key));
        if field.is_some_and(|field| field.is_server_owned()) {
            return None;
        }
        let inner = field.and_then(|field| match &field.kind {
            Kind::Message(name) => message(name),
            _ => None,
        });
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        in_value(inner, value, current.get(key), &path)
    });
    missing.or_else(|| surplus(ty, wanted, current, path))
}

/// A field that the object has and the file does not: it is to go back to its default.
fn surplus(
    ty: Option<&ObjectType>,
    wanted: &Object,
    current: &Object,
    path: &str,
) -> Option<String> {
    let ours = |key: &str| {
        let field = ty.and_then(|ty| ty.field(key));
        field.is_some_and(|field| !field.is_server_owned())
            && !FILLED_IN.contains(&key)
            && !is_picked(ty, wanted, current, key)
    };
    let surplus = current
        .iter()
        .find(|(key, value)| !wanted.contains_key(*key) && !is_empty(value) && ours(key));
    surplus.map(|(key, _)| {
        if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        }
    })
}

/// The address of a VIP that the controller picked, or is to pick: a file without it leaves it as it is (avi-api section 12,
/// vsvip).
fn is_picked(ty: Option<&ObjectType>, wanted: &Object, current: &Object, key: &str) -> bool {
    let is_vip = ty.is_some_and(|ty| ty.name == "Vip");
    let says = |object: &Object, field: &str| object.get(field) == Some(&Value::Bool(true));
    is_vip
        && ["ip_address", "ip6_address"].contains(&key)
        && (says(wanted, "auto_allocate_ip") || says(current, "avi_allocated_vip"))
}

fn in_value(
    ty: Option<&ObjectType>,
    wanted: &Value,
    current: Option<&Value>,
    path: &str,
) -> Option<String> {
    let different = || Some(path.to_string());
    match (wanted, current) {
        (wanted, None) => {
            if is_empty(wanted) {
                None
            } else {
                different()
            }
        }
        (Value::Object(wanted), Some(Value::Object(current))) => {
            in_object(ty, wanted, current, path)
        }
        (Value::Array(wanted), Some(Value::Array(current))) if wanted.len() == current.len() => {
            let pairs = wanted.iter().zip(current).enumerate();
            pairs
                .into_iter()
                .find_map(|(i, (w, c))| in_value(ty, w, Some(c), &format!("{path}[{i}]")))
        }
        (wanted, Some(current)) => {
            if wanted == current {
                None
            } else {
                different()
            }
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}
