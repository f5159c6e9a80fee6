//! What operations take and give that is no object of the schema, as data: by method and path of the table of operations.

use super::super::operation::Operation;
use axum::http::Method;
use serde_json::{Value, json};

/// Media types and schema of a body; `None`: the operation takes none.
pub(super) fn body(operation: &Operation) -> Option<Value> {
    let text = || json!({"type": "string"});
    let texts = || json!({"type": "array", "items": text()});
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
        (_, "/api/virtualservice/{uuid}/scaleout") => {
            (json!([]), json!({"vip_id": text(), "to_se_ref": text()}))
        }
        (_, "/api/virtualservice/{uuid}/scalein") => (
            json!([]),
            json!({"vip_id": text(), "from_se_ref": text(), "scalein_primary": {"type": "boolean"}, "force": {"type": "boolean"}}),
        ),
        (_, "/api/virtualservice/{uuid}/migrate") => (
            json!([]),
            json!({"vip_id": text(), "from_se_ref": text(), "to_se_ref": text()}),
        ),
        (_, "/api/virtualservice/{uuid}/switchover") => {
            (json!([]), json!({"vip_id": text(), "se_uuid": text()}))
        }
        (_, "/api/virtualservice/{uuid}/retryplacement") => (
            json!([]),
            json!({"vip_id": text(), "all_east_west": {"type": "boolean"}}),
        ),
        (_, "/api/virtualservice/{uuid}/resync") => {
            (json!([]), json!({"vip_id": text(), "se_ref": texts()}))
        }
        (_, "/api/virtualservice/clear" | "/api/serviceengine/clear") => {
            (json!([]), json!({"uuid": texts(), "name": texts()}))
        }
        (_, "/api/serviceengine/{uuid}/bgp/reset") => (json!([]), json!({"peer_ip": text()})),
        _ => (json!([]), json!({})),
    };
    let schema = json!({"type": "object", "required": required, "properties": properties});
    let mut content = json!({"application/json": {"schema": schema}});
    if operation.path() == "/login" {
        content["application/x-www-form-urlencoded"] = content["application/json"].clone();
    }
    Some(content)
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
        _ => Some(("application/json", json!({}))),
    }
}

/// Statuses that only some operations answer with, beside those of all.
pub(super) fn errors(operation: &Operation) -> &'static [&'static str] {
    match operation.path() {
        "/login" => &["401", "429"],
        "/api/ek/cluster/hello" => &["403"],
        "/api/ek/revert" => &["410"],
        _ => &[],
    }
}

/// Name, and what it is.
type Parameter = (&'static str, &'static str);

const PAGES: [Parameter; 2] = [
    ("page", "from 1"),
    ("page_size", "results of a page, 200 at most"),
];
const FLOWS: [Parameter; 8] = [
    ("protocol", "tcp or udp"),
    ("client", "the client's address"),
    ("client_port", "its port"),
    ("vip", "the VIP's address"),
    ("vip_port", "its port"),
    ("vs", "name or uuid of a virtual service"),
    (
        "se",
        "name or uuid of the engine that is asked; else all are",
    ),
    (
        "limit",
        "rows of an engine, 1000 unless another number is asked for",
    ),
];

const TABLE: [Parameter; 10] = [
    ("src_ip_addr", "the client's address"),
    ("src_ip_mask", "prefix length, or mask"),
    ("src_port", "the client's port"),
    ("src_port_hi", "last of a range that begins there"),
    ("dst_ip_addr", "the VIP's address"),
    ("dst_ip_mask", "prefix length, or mask"),
    ("dst_port", "the VIP's port"),
    ("dst_port_hi", "last of a range that begins there"),
    ("protocol_str", "tcp or udp"),
    ("limit", "flows at most, 1000 unless asked for more"),
];

const SERVERS: [Parameter; 4] = [
    ("server_ip", "the server's address"),
    ("server_mask", "prefix length, or mask, of a network"),
    (
        "server_end_ip",
        "last address of a range that begins with server_ip",
    ),
    ("server_port", "the server's port"),
];

const CHOSEN: [Parameter; 2] = [
    ("uuid", "of objects, separated by commas; else all"),
    ("name", "of objects, separated by commas; else all"),
];

/// What a query may say.
pub(super) fn parameters(operation: &Operation) -> Vec<Value> {
    let is_get = *operation.method() == Method::GET;
    let parts: &[&[Parameter]] = match operation.path() {
        "/api/virtualservice/clear" | "/api/serviceengine/clear" if !is_get => &[&CHOSEN],
        _ if !is_get => return Vec::new(),
        "/api/ek/audit" => &[
            &[
                ("type", "path name of a type, such as pool"),
                ("uuid", "of the object"),
                ("name", "of the object, before or after"),
                ("who", "name of the user"),
                ("revision", "this one alone"),
                ("since", "RFC 3339, or microseconds since 1970"),
                ("until", "the same"),
            ],
            &PAGES,
        ],
        "/api/ek/pending" => &[&PAGES],
        "/api/{type}-inventory" | "/api/{type}-inventory/{uuid}" => &[&[(
            "include",
            "only these, separated by commas: config, runtime, health_score, alert, faults, metrics",
        )]],
        "/api/ek/topology" => &[
            &[
                ("vs", "name or uuid of a virtual service"),
                ("se", "name or uuid of an engine"),
                ("vrf", "name or uuid of a VRF context"),
            ],
            &PAGES,
        ],
        "/api/serviceengine/{uuid}/flowtable" | "/api/serviceengine/{uuid}/flowtable_remote" => {
            &[&TABLE]
        }
        "/api/pool/{uuid}/runtime/server" | "/api/pool/{uuid}/runtime/server/detail" => &[&SERVERS],
        "/api/virtualservice/{uuid}/client" => &[&[
            ("ip_addr", "the client's address"),
            ("ip_mask", "prefix length, or mask"),
            ("port", "the client's port"),
            ("limit", "clients of an engine, 1000 unless asked for more"),
        ]],
        "/api/virtualservice/{uuid}/connections" => &[&[
            ("ip_addr", "the client's address"),
            ("ip_mask", "prefix length, or mask"),
            ("port", "the client's port"),
            (
                "limit",
                "connections of an engine, 1000 unless asked for more",
            ),
        ]],
        "/api/ek/flow" => &[
            &[("table", "local, or remote: those that went on to others")],
            &FLOWS,
        ],
        "/api/ek/flowevent" | "/api/ek/flowevent/stream" => &[&FLOWS],
        "/api/ek/traceflow" => &[&[
            ("client", "ADDRESS:PORT"),
            ("vip", "ADDRESS:PORT"),
            ("protocol", "tcp or udp"),
            ("seconds", "for how long each packet is an event"),
            ("se", "name or uuid of an engine"),
        ]],
        "/api/ek/explain/vip/{address}" => &[&[("se", "name of one engine")]],
        _ => &[],
    };
    let each = parts.iter().copied().flatten();
    each.map(|(name, about)| {
        json!({"name": name, "in": "query", "description": about, "schema": {"type": "string"}})
    })
    .collect()
}
