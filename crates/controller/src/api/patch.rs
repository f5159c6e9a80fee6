//! PATCH: `add`, `replace`, `delete` of top-level fields (avi-api section 6).

use crate::error::ApiError;
use model::object::Object;
use model::schema::ObjectType;
use serde_json::Value;

/// What identifies an item of a list field.
fn keys(field: &str) -> &'static [&'static str] {
    match field {
        "servers" => &["ip", "port"],
        "vip" => &["vip_id"],
        "static_routes" => &["route_id"],
        "services" => &["port"],
        "members" => &["pool_ref"],
        "peers" => &["peer_ip", "peer_ip6"],
        "routing_options" => &["label"],
        _ => &[],
    }
}

/// The object with the patch applied.
///
/// # Errors
/// The body has no operation, or an operation is no object.
pub(super) fn apply(
    ty: &ObjectType,
    mut object: Object,
    body: &Object,
) -> Result<Object, ApiError> {
    let mut known = 0;
    for operation in ["add", "replace", "delete"] {
        let Some(fields) = body.get(operation) else {
            continue;
        };
        let Some(fields) = fields.as_object() else {
            let text = format!(
                "{operation}: must be an object of fields; write {{\"{operation}\": {{…}}}}"
            );
            return Err(ApiError::bad_request(text));
        };
        known += 1;
        for (name, value) in fields {
            let list = ty.field(name).is_some_and(|f| f.list);
            apply_field(&mut object, operation, name, value, list);
        }
    }
    if known == 0 {
        return Err(ApiError::bad_request(
            "a PATCH needs add, replace or delete; see the API documentation",
        ));
    }
    Ok(object)
}

fn apply_field(object: &mut Object, operation: &str, name: &str, value: &Value, list: bool) {
    let Some(items) = value.as_array().filter(|_| list) else {
        match operation {
            "delete" => drop(object.shift_remove(name)),
            _ => drop(object.insert(name.to_owned(), value.clone())),
        }
        return;
    };
    let current = object
        .entry(name.to_owned())
        .or_insert_with(|| Value::Array(Vec::new()));
    let Some(current) = current.as_array_mut() else {
        return;
    };
    if operation == "replace" && keys(name).is_empty() {
        current.clone_from(items);
        return;
    }
    for item in items {
        let at = current.iter().position(|c| same(name, c, item));
        match (operation, at) {
            ("delete", Some(i)) => drop(current.remove(i)),
            ("replace", Some(i)) => current[i] = item.clone(),
            ("add" | "replace", None) => current.push(item.clone()),
            _ => {}
        }
    }
}

fn same(field: &str, a: &Value, b: &Value) -> bool {
    match keys(field) {
        [] => a == b,
        keys => keys.iter().all(|k| a.get(k) == b.get(k)),
    }
}
