//! PATCH: `add`, `replace`, `delete` of top-level fields, and `json_patch` (avi-api section 6).

use crate::error::ApiError;
use crate::objects::{Snapshot, refs};
use model::object::{self, Object};
use model::schema::{Field, ObjectType};
use serde_json::Value;

/// The object with the patch applied. References may be written in any form of avi-api 5.1, as seen from this tenant.
///
/// # Errors
/// The body has no operation, or one that cannot be done.
pub(super) fn apply(
    snapshot: &Snapshot,
    tenant: &str,
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
        let mut fields = fields.clone();
        // What is stored is canonical, and items are compared with it.
        refs::settle(snapshot, tenant, ty, &mut fields);
        for (name, value) in fields {
            apply_field(ty, &mut object, operation, name, value);
        }
    }
    if let Some(steps) = body.get("json_patch") {
        known += 1;
        // Paths lead through what the client has read, defaults included.
        let patched = apply_json_patch(object::with_defaults(ty, &object), steps)?;
        object = object::without_defaults(ty, &patched);
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

fn apply_field(ty: &ObjectType, object: &mut Object, operation: &str, name: String, value: Value) {
    let field = ty.field(&name);
    match value {
        Value::Array(items) if field.is_none_or(|f| f.list) => {
            let current = object.shift_remove(&name);
            let changed = merge(field, operation, current, items);
            if operation != "delete" || !changed.is_empty() {
                object.insert(name, changed.into());
            }
        }
        _ if operation == "delete" => drop(object.shift_remove(&name)),
        value => drop(object.insert(name, value)),
    }
}

/// The list after the operation (avi-api section 6): items are known by the field's keys, or by value. A replace of a
/// list without keys replaces it as a whole.
fn merge(
    field: Option<&Field>,
    operation: &str,
    current: Option<Value>,
    items: Vec<Value>,
) -> Vec<Value> {
    let keyed = field.is_some_and(|f| !f.item_keys.is_empty());
    let mut list = match current {
        Some(Value::Array(list)) if operation != "replace" || keyed => list,
        _ => Vec::new(),
    };
    let same = |a: &Value, b: &Value| field.map_or(a == b, |f| f.same_item(a, b));
    for item in items {
        let at = list.iter().position(|known| same(known, &item));
        match (operation, at) {
            ("delete", Some(i)) => drop(list.remove(i)),
            ("replace", Some(i)) => list[i] = item,
            ("add" | "replace", None) => list.push(item),
            _ => {}
        }
    }
    list
}
