//! What operations take and give that is no object of the schema, as data: by method and path of the table of operations.

use super::super::operation::Operation;
use super::answers;
use axum::http::Method;
use serde_json::{Value, json};

/// Media types and schema of a body; `None`: the operation takes none.
pub(super) fn body(operation: &Operation) -> Option<Value> {
    let text = || json!({"type": "string"});
    let revision =
        || json!({"type": "integer", "minimum": 1, "description": "of GET /api/ek/audit"});
    let (required, properties) = match (operation.method(), operation.path()) {
        (&Method::GET | &Method::DELETE, _) | (_, "/logout" | "/api/ek/backup") => return None,
        (&Method::PATCH, _) => return Some(patch()),
        (_, "/login") => (
            json!([]),
            json!({"username": text(), "password": text(), "token": text()}),
        ),
        (_, "/api/useraccount") => (
            json!(["password", "old_password"]),
            json!({"username": text(), "password": text(), "old_password": text()}),
        ),
        (_, "/api/ek/jointoken") => (
            json!([]),
            json!({"name": text(), "ttl_s": {"type": "integer", "minimum": 1, "maximum": 2_592_000, "default": 3600},
                "se_group_ref": text()}),
        ),
        (_, "/api/ek/cluster/hello") => (
            json!(["card", "revision"]),
            json!({"card": {"type": "object"}, "revision": {"type": "integer", "minimum": 0}}),
        ),
        (_, "/api/ek/revert") => (
            json!(["revision"]),
            json!({"revision": revision(), "type": text(), "uuid": text()}),
        ),
        (_, "/api/ek/confirm") => (json!(["revision"]), json!({"revision": revision()})),
        (_, "/api/ek/change") => (
            json!(["writes"]),
            json!({"writes": {"type": "array", "items": {"type": "object", "required": ["type", "object"],
                "properties": {"type": text(), "uuid": text(), "object": {"type": "object"}}}}}),
        ),
        (_, "/api/user-token") => (
            json!([]),
            json!({"name": {"type": "string", "maxLength": 128}, "hours": {"type": "integer", "minimum": 1, "maximum": 8760, "default": 24}}),
        ),
        (_, "/api/alert/{uuid}") => (
            json!(["state"]),
            json!({"state": {"type": "string", "enum": ["ALERT_STATE_ON", "ALERT_STATE_DISMISSED"]}}),
        ),
        (_, "/api/analytics/metrics/collection") => (
            json!(["metric_requests"]),
            json!({"metric_requests": {"type": "array", "maxItems": 100, "items": metric_request()}}),
        ),
        (_, "/api/ek/import") => (
            json!(["evenkeel_export", "objects"]),
            json!({"evenkeel_export": {"const": 1, "description": "version of the form"},
                "objects": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "object"}}, "description": "by path name of the type"}}),
        ),
        (_, path) => (json!([]), of_action(path)),
    };
    let schema = json!({"type": "object", "required": required, "properties": properties});
    let mut content = json!({"application/json": {"schema": schema}});
    if operation.path() == "/login" {
        content["application/x-www-form-urlencoded"] = content["application/json"].clone();
    }
    Some(content)
}

/// Fields of an action's body; none of them must be there.
fn of_action(path: &str) -> Value {
    let text = || json!({"type": "string"});
    let texts = || json!({"type": "array", "items": text()});
    let flag = || json!({"type": "boolean"});
    match path {
        "/api/virtualservice/{uuid}/scaleout" => json!({
            "vip_id": text(), "to_se_ref": text(), "to_host_ref": text(), "admin_up": flag(),
        }),
        "/api/virtualservice/{uuid}/scalein" => json!({
            "vip_id": text(), "from_se_ref": text(), "scalein_primary": flag(), "admin_down": flag(), "force": flag(),
        }),
        "/api/virtualservice/{uuid}/migrate" => json!({
            "vip_id": text(), "from_se_ref": text(), "to_se_ref": text(), "to_host_ref": text(),
        }),
        "/api/virtualservice/{uuid}/switchover" => json!({"vip_id": text(), "se_uuid": text()}),
        "/api/virtualservice/{uuid}/retryplacement" => {
            json!({"vip_id": text(), "all_east_west": flag()})
        }
        "/api/virtualservice/{uuid}/resync" => json!({"vip_id": text(), "se_ref": texts()}),
        "/api/virtualservice/clear" | "/api/serviceengine/clear" => {
            json!({"uuid": texts(), "name": texts()})
        }
        "/api/serviceengine/{uuid}/bgp/reset" => json!({"peer_ip": text()}),
        _ => json!({}),
    }
}

/// A question of a collection; its fields are those of the query of the other calls for metrics.
fn metric_request() -> Value {
    let text = || json!({"type": "string"});
    let number = || json!({"type": "integer", "minimum": 0});
    json!({
        "type": "object",
        "properties": {
            "id": {"type": "string", "description": "the name of the answer; else its place in the list"},
            "metric_id": text(), "entity_uuid": text(), "serviceengine_uuid": text(), "pool_uuid": text(),
            "step": {"enum": [5, 300, 3600, 86_400]}, "limit": number(), "start": text(), "stop": text(),
            "pad_missing_data": {"type": "boolean"},
        },
    })
}

/// Of every type: operations on fields (docs/guide/api.md).
fn patch() -> Value {
    let fields = || json!({"type": "object"});
    let step = json!({
        "type": "object", "required": ["op", "path"],
        "properties": {"op": {"enum": ["add", "remove", "replace"]}, "path": {"type": "string"}, "value": {}},
    });
    let schema = json!({
        "type": "object", "minProperties": 1,
        "properties": {"add": fields(), "replace": fields(), "delete": fields(), "json_patch": {"type": "array", "items": step}},
    });
    json!({"application/json": {"schema": schema}})
}

/// Media type and schema of what an operation gives, where that is no object; `None`: nothing.
pub(super) fn answer(operation: &Operation) -> Option<(&'static str, Value)> {
    let text = || json!({"type": "string"});
    match (operation.method(), operation.path()) {
        (&Method::DELETE, _) | (&Method::PUT, "/api/useraccount") => None,
        (_, "/metrics") => Some(("application/openmetrics-text", text())),
        (_, "/api/ek/backup") => Some(("application/vnd.sqlite3", json!({}))),
        (_, "/api/ek/doc") => Some(("text/html", text())),
        (_, "/api/ek/event" | "/api/ek/flowevent/stream") => Some(("text/event-stream", text())),
        _ => Some(("application/json", answers::of(operation))),
    }
}

/// Statuses that only some operations answer with, beside those of all.
pub(super) fn errors(operation: &Operation) -> &'static [&'static str] {
    match operation.path() {
        "/login" => &["401", "429"],
        "/api/ek/cluster/hello" => &["403"],
        "/api/ek/doc" => &["304"],
        "/api/ek/revert" => &["410"],
        _ => &[],
    }
}
