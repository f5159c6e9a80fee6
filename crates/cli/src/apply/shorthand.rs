//! What a file may write shorter than the API has it, expanded by the schema's types:
//!
//! | written | sent |
//! | --- | --- |
//! | `pool_ref: web` | `/api/pool?name=web` |
//! | `ip: 10.20.20.11` | `{addr: 10.20.20.11, type: V4}` |
//! | `subnet: 10.10.10.0/24` | `{ip_addr: {addr: 10.10.10.0, type: V4}, mask: 24}` |

use model::object::Object;
use model::schema::{Kind, ObjectType, message};
use serde_json::{Value, json};

/// The object with every short form expanded, at every depth that the schema knows.
pub(super) fn expand(object_type: &ObjectType, object: &Object) -> Object {
    let mut object = object.clone();
    for field in &object_type.fields {
        match object.get_mut(&field.name) {
            Some(Value::Array(items)) => items
                .iter_mut()
                .for_each(|item| expand_value(&field.kind, item)),
            Some(value) => expand_value(&field.kind, value),
            None => {}
        }
    }
    object
}

fn expand_value(kind: &Kind, value: &mut Value) {
    match (kind, &*value) {
        (Kind::Ref(target), Value::String(text)) => *value = reference(target, text).into(),
        (Kind::Message(name), Value::String(text)) => {
            if let Some(expanded) = from_text(name, text) {
                *value = expanded;
            }
        }
        (Kind::Message(name), Value::Object(inner)) => {
            if let Some(ty) = message(name) {
                *value = Value::Object(expand(ty, inner));
            }
        }
        _ => {}
    }
}

/// A text without a slash that is not a UUID of the target's type is a name.
fn reference(target: &str, text: &str) -> String {
    let path = message(target)
        .map(|ty| ty.path.as_str())
        .unwrap_or_default();
    let is_uuid = text
        .strip_prefix(path)
        .is_some_and(|rest| rest.starts_with('-') && rest.len() > 32);
    if path.is_empty() || text.contains('/') || is_uuid {
        return text.to_string();
    }
    format!("/api/{path}?name={text}")
}

/// Text in place of an address or a prefix. What is no address is sent as one all the same, so that the
/// controller's answer names the field that is wrong.
fn from_text(message_name: &str, text: &str) -> Option<Value> {
    match message_name {
        "IpAddr" => Some(address(text)),
        "IpAddrPrefix" => {
            let (ip, mask) = text.split_once('/')?;
            let mask = mask.parse::<u8>().map_or_else(|_| mask.into(), Value::from);
            Some(json!({ "ip_addr": address(ip), "mask": mask }))
        }
        _ => None,
    }
}

fn address(text: &str) -> Value {
    let kind = match text {
        text if text.contains(':') => "V6",
        text if text.contains(|c: char| c.is_ascii_alphabetic()) => "DNS",
        _ => "V4",
    };
    json!({ "addr": text, "type": kind })
}
