//! Every answer as `GET /api/ek/openapi` describes it, by a controller that has objects of all types and an engine: status, types,
//! what must be there, and of what is no object of the schema every field that is there.

use crate::engine::{Engine, peer, service};
use crate::events::make_service;
use crate::http::{Http, Reply, Server, own_path, wait_until};
use crate::types::make_all;
use proto::v1::{
    Attachment, BfdDiscard, BfdSession, BgpRoute, BgpState, EngineLoad, EngineStats, HintStats,
    LearnedRoute, MemberProblem, Report, Steering, TunnelledTo, UdpStatus, VerdictCount,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tempfile::tempdir;

/// GETs that do not end.
const STREAMS: [&str; 2] = ["/api/ek/event", "/api/ek/flowevent/stream"];
const VIP: &str = "10.100.0.1";
/// Objects that have the most to show.
const SHOWN: [&str; 4] = ["shop", "pool-shop", "vip-shop", "se-1"];

#[test]
fn every_answer_to_a_get_is_as_the_document_says() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let _engine = populate(&server, &http);
    let document = http.get("/api/ek/openapi").good();
    let paths = document["paths"].as_object().unwrap();
    let all = paths
        .iter()
        .filter(|(path, calls)| calls.get("get").is_some() && !STREAMS.contains(&path.as_str()));
    let mut found = BTreeSet::new();
    for (path, calls) in all {
        let reply = http.get(&format!("{}{}", filled(&http, path), query(path)));
        let name = format!("GET {path}");
        found.extend(of_reply(&document, &name, &calls["get"], &reply));
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn answers_to_questions_and_writes_and_plans_are_as_the_document_says() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let _engine = populate(&server, &http);
    let document = http.get("/api/ek/openapi").good();
    let asked = json!({"metric_requests": [
        {"metric_id": "l4_client.avg_bandwidth,none", "entity_uuid": uuid_of(&http, "virtualservice"), "pad_missing_data": true},
        {"metric_id": "none", "entity_uuid": "*"},
    ]});
    let export = http.get("/api/ek/export").good();
    let new = json!({"name": "new"});
    let mut found = BTreeSet::new();
    for (method, path, query, body) in [
        ("POST", "/api/analytics/metrics/collection", "", asked),
        ("POST", "/api/pool", "?dry_run=true", new.clone()),
        ("POST", "/api/pool", "", new),
        (
            "PATCH",
            "/api/pool/{uuid}",
            "",
            json!({"replace": {"description": "changed"}}),
        ),
        (
            "DELETE",
            "/api/virtualservice/{uuid}",
            "?dry_run=true",
            json!({}),
        ),
        (
            "POST",
            "/api/ek/change",
            "",
            json!({"writes": [{"type": "pool", "object": {"name": "newer"}}]}),
        ),
        ("POST", "/api/ek/import", "", export),
        ("POST", "/api/ek/jointoken", "", json!({})),
        ("POST", "/api/user-token", "", json!({"hours": 1})),
        ("POST", "/api/serviceengine/{uuid}/bgp/reset", "", json!({})),
        (
            "PUT",
            "/api/alert/{uuid}",
            "",
            json!({"state": "ALERT_STATE_DISMISSED"}),
        ),
    ] {
        let url = format!("{}{query}", filled(&http, path));
        let reply = http.text(method, &url, &body.to_string());
        let call = &document["paths"][path][method.to_lowercase()];
        found.extend(of_reply(
            &document,
            &format!("{method} {path}"),
            call,
            &reply,
        ));
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// Objects of all types, and an engine that serves one of them and has much to say.
fn populate(server: &Server, http: &Http) -> Engine {
    make_all(http);
    let vs = make_service(http, "shop");
    let engine = Engine::join(server, http, "se-1");
    let runtime = format!("{}/runtime", own_path(&vs));
    engine.report(report(&vs, BgpState::Established));
    wait_until("the service is up", || {
        http.get(&runtime).good()["oper_status"]["state"] == "OPER_UP"
    });
    // This is an alert.
    engine.report(report(&vs, BgpState::Idle));
    wait_until("an alert", || http.count("/api/alert") > 0);
    engine.report(report(&vs, BgpState::Established));
    wait_until("the session is up again", || {
        http.get("/api/ek/bgp").good()["results"][0]["state"] == "ESTABLISHED"
    });
    let pool = format!("/api/pool/{}", uuid_of(http, "pool"));
    http.with("X-Evenkeel-Confirm-Within", "3600")
        .patch(&pool, &json!({"replace": {"description": "waits"}}))
        .good();
    engine
}

fn report(vs: &Value, state: BgpState) -> Report {
    let mut report = service(vs, true);
    let own = &mut report.virtual_services[0];
    own.udp = Some(UdpStatus::default());
    own.hints = Some(HintStats::default());
    report.bgp_sessions = peer(state, "").bgp_sessions;
    report.bgp_sessions[0].routes = vec![BgpRoute {
        prefix: format!("{VIP}/32"),
        sent: true,
        ..BgpRoute::default()
    }];
    report.bfd_sessions = vec![BfdSession {
        discards: vec![BfdDiscard {
            reason: "ttl".into(),
            packets: 1,
        }],
        ..BfdSession::default()
    }];
    report.learned_routes = vec![LearnedRoute::default()];
    report.member_problems = vec![MemberProblem {
        vip: VIP.into(),
        ..MemberProblem::default()
    }];
    report.steering = Some(Steering {
        verdicts: vec![VerdictCount {
            verdict: "local_new".into(),
            packets: 1,
        }],
        tunnelled: vec![TunnelledTo::default()],
        attachments: vec![Attachment::default()],
        ..Steering::default()
    });
    report.stats = Some(EngineStats {
        load: Some(EngineLoad::default()),
        ..EngineStats::default()
    });
    report
}

/// With an object that is there in the place of each part in braces.
fn filled(http: &Http, path: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.split('/') {
        let before = parts.last().map_or("", String::as_str);
        let part = match part {
            "{uuid}" => uuid_of(http, before.trim_end_matches("-inventory")),
            "{address}" => VIP.to_owned(),
            literal => literal.to_owned(),
        };
        parts.push(part);
    }
    parts.join("/")
}

/// Of the objects of a type, one with much to show; of what has none, any.
fn uuid_of(http: &Http, ty: &str) -> String {
    let reply = http.get(&format!("/api/{ty}?page_size=200"));
    if reply.status != 200 {
        return ty.to_owned();
    }
    let reply = reply.json();
    let all = reply["results"].as_array();
    let is_shown = |object: &&Value| SHOWN.iter().any(|name| object["name"] == *name);
    let shown = all.and_then(|all| all.iter().find(is_shown).or(all.first()));
    let uuid = shown.unwrap_or(&reply)["uuid"].as_str();
    uuid.unwrap_or_else(|| panic!("there is no {ty}"))
        .to_owned()
}

/// What a call must have, and what makes its answer a rich one.
fn query(path: &str) -> &'static str {
    match path {
        "/api/ek/traceflow" => "?client=192.0.2.7:40000&vip=10.100.0.1:80",
        "/api/virtualservice" => "?join_subresources=runtime&include_refs=&include_name=",
        metrics if metrics.starts_with("/api/analytics/metrics/") => {
            "?metric_id=l4_client.avg_bandwidth,none&pad_missing_data=&limit=3"
        }
        _ => "",
    }
}

/// What of an answer is not as it is described.
fn of_reply(document: &Value, name: &str, call: &Value, reply: &Reply) -> Vec<String> {
    let Some(described) = call["responses"].get(reply.status.to_string()) else {
        return vec![format!("{name}: {} is not described", reply.status)];
    };
    if !(200..300).contains(&reply.status) {
        return vec![format!("{name}: {}: {}", reply.status, reply.text)];
    }
    match described.pointer("/content/application~1json/schema") {
        Some(schema) => complaints(document, name, schema, &reply.json()),
        None => Vec::new(),
    }
}

/// What of a value is not as a schema says; of the words of JSON Schema, those that the document has.
fn complaints(document: &Value, at: &str, schema: &Value, value: &Value) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(&reference[1..]).expect(reference);
        return complaints(document, at, target, value);
    }
    if let Some(several) = schema["anyOf"].as_array() {
        let fits = |one: &&Value| one["type"] != "null" || value.is_null();
        let each = several.iter().filter(fits);
        let tried = each.map(|one| complaints(document, at, one, value));
        return tried.min_by_key(Vec::len).unwrap_or_default();
    }
    if !has_type(&schema["type"], value) {
        return vec![format!("{at}: {value} is no {}", schema["type"])];
    }
    let words = schema["enum"].as_array();
    let is_other = schema.get("const").is_some_and(|only| only != value);
    if is_other || words.is_some_and(|words| !words.contains(value)) {
        return vec![format!("{at}: {value} is none of {schema}")];
    }
    let items = value.as_array().into_iter().flatten();
    let of_items =
        items.flat_map(|i| complaints(document, &format!("{at}[]"), &schema["items"], i));
    let mut found: Vec<String> = of_items.collect();
    if value.is_object() {
        found.extend(of_fields(document, at, schema, value));
    }
    found
}

fn of_fields(document: &Value, at: &str, schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for name in schema["required"].as_array().into_iter().flatten() {
        if value.get(name.as_str().unwrap()).is_none() {
            found.push(format!("{at}: {name} is missing"));
        }
    }
    let properties = schema["properties"].as_object();
    // Objects of the schema keep fields that nobody has described.
    let is_kept = |field: &Value| field.get("x-class").is_some();
    let is_open = properties.is_none_or(|all| all.values().any(is_kept));
    for (name, value) in value.as_object().into_iter().flatten() {
        let known = properties.and_then(|all| all.get(name));
        match known.or(schema.get("additionalProperties")) {
            Some(schema) => {
                found.extend(complaints(document, &format!("{at}.{name}"), schema, value));
            }
            None if is_open => {}
            None => found.push(format!("{at}.{name}: is not described")),
        }
    }
    found
}

fn has_type(types: &Value, value: &Value) -> bool {
    match types {
        Value::Null => true,
        Value::Array(several) => several.iter().any(|one| has_type(one, value)),
        one => match one.as_str().unwrap() {
            "string" => value.is_string(),
            "integer" => value.is_u64() || value.is_i64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "object" => value.is_object(),
            "array" => value.is_array(),
            "null" => value.is_null(),
            other => panic!("{other} is no type"),
        },
    }
}

#[test]
fn what_is_not_as_a_schema_says_is_found() {
    let document = json!({"components": {"schemas": {"A": {
        "type": "object", "required": ["n"], "properties": {"n": {"type": ["integer", "null"]}, "w": {"enum": ["up", "down"]}},
    }}}});
    let schema = json!({"type": "array", "items": {"anyOf": [{"$ref": "#/components/schemas/A"}, {"type": "null"}]}});
    let of = |value: Value| complaints(&document, "x", &schema, &value);
    assert_eq!(
        of(json!([null, {"n": null}, {"n": 1, "w": "up"}])),
        Vec::<String>::new()
    );
    for (value, complaint) in [
        (json!({}), "x: {} is no \"array\""),
        (json!([{}]), "x[]: \"n\" is missing"),
        (
            json!([{"n": 1.5}]),
            "x[].n: 1.5 is no [\"integer\",\"null\"]",
        ),
        (
            json!([{"n": 1, "w": "left"}]),
            "x[].w: \"left\" is none of {\"enum\":[\"up\",\"down\"]}",
        ),
        (json!([{"n": 1, "more": 2}]), "x[].more: is not described"),
    ] {
        assert_eq!(of(value), [complaint]);
    }
}
