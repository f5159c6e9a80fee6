//! PATCH: `add`, `replace`, `delete` of top-level fields, and `json_patch` (avi-api section 6).

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
/// The body has no operation, or one that cannot be done.
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
    if let Some(steps) = body.get("json_patch") {
        known += 1;
        object = apply_json_patch(object, steps)?;
    }
    if known == 0 {
        return Err(ApiError::bad_request(
            "a PATCH needs add, replace, delete or json_patch; see the API documentation",
        ));
    }
    Ok(object)
}

/// The operations `add`, `remove` and `replace` of RFC 6902, all of them or none.
fn apply_json_patch(object: Object, steps: &Value) -> Result<Object, ApiError> {
    let wrong = |i: usize, what: &str| {
        let hint = "write {\"op\": \"add|remove|replace\", \"path\": \"/field/0\", \"value\": …}";
        ApiError::bad_request(format!("json_patch[{i}]: {what}; {hint}"))
    };
    let steps = steps
        .as_array()
        .ok_or_else(|| ApiError::bad_request("json_patch: must be a list of operations"))?;
    let mut document = Value::Object(object);
    for (i, step) in steps.iter().enumerate() {
        let text = |name: &str| step.get(name).and_then(Value::as_str);
        let (Some(op), Some(path)) = (text("op"), text("path")) else {
            return Err(wrong(i, "op and path are required"));
        };
        let value = step.get("value").cloned();
        apply_step(&mut document, op, path, value).map_err(|what| wrong(i, what))?;
    }
    match document {
        Value::Object(object) => Ok(object),
        _ => Err(ApiError::bad_request("json_patch: must leave an object")),
    }
}

fn apply_step(
    document: &mut Value,
    op: &str,
    path: &str,
    value: Option<Value>,
) -> Result<(), &'static str> {
    let (parent, last) = path
        .rsplit_once('/')
        .ok_or("the path must start with / and name a field")?;
    // RFC 6901: ~1 is a slash, ~0 a tilde.
    let last = last.replace("~1", "/").replace("~0", "~");
    let parent = document
        .pointer_mut(parent)
        .ok_or("the path leads to nothing")?;
    match (op, parent, value) {
        ("add", Value::Object(o), Some(value)) => drop(o.insert(last, value)),
        ("replace", Value::Object(o), Some(value)) => {
            *o.get_mut(&last).ok_or("there is nothing to replace")? = value;
        }
        ("remove", Value::Object(o), _) => {
            o.shift_remove(&last).ok_or("there is nothing to remove")?;
        }
        ("add", Value::Array(items), Some(value)) => {
            let at = if last == "-" {
                items.len()
            } else {
                index(&last)?
            };
            if at > items.len() {
                return Err("the index is beyond the list");
            }
            items.insert(at, value);
        }
        ("replace", Value::Array(items), Some(value)) => {
            *items
                .get_mut(index(&last)?)
                .ok_or("there is nothing to replace")? = value;
        }
        ("remove", Value::Array(items), _) => {
            let at = index(&last)?;
            if at >= items.len() {
                return Err("there is nothing to remove");
            }
            items.remove(at);
        }
        ("add" | "replace", _, None) => return Err("value is required"),
        ("add" | "replace" | "remove", ..) => return Err("the path leads through a plain value"),
        _ => return Err("op is not known"),
    }
    Ok(())
}

fn index(text: &str) -> Result<usize, &'static str> {
    text.parse().map_err(|_| "a list is indexed by a number")
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
