//! What is observed of flows (`/api/ek/`, `/metrics`): who may see it, in which shape, and what is refused. What engines
//! answer is tested with the lab, where there are some.

use crate::engine::Engine;
use crate::events::next;
use crate::http::Server;
use serde_json::json;
use tempfile::tempdir;

const TRACE: &str = "/api/ek/traceflow?client=192.0.2.7:40000&vip=10.9.9.9:80";
const PAGES: [&str; 3] = [
    "/api/ek/steering",
    "/api/ek/flow?table=remote",
    "/api/ek/flowevent",
];

#[test]
fn nobody_sees_flows_without_a_session() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    for path in PAGES.into_iter().chain([TRACE, "/metrics"]) {
        assert_eq!(server.http().get(path).status, 401, "{path}");
    }
}

#[test]
fn an_engine_without_a_session_is_named_beside_what_the_others_say() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    http.make("serviceengine", json!({"name": "se-1"}));
    for path in PAGES {
        let page = http.get(path).good();
        assert_eq!(
            (&page["count"], &page["results"]),
            (&json!(0), &json!([])),
            "{path}"
        );
    }
    for path in [PAGES[1], PAGES[2], TRACE] {
        let silent = &http.get(path).good()["not_answered"];
        assert_eq!(silent[0]["se_name"], "se-1", "{path}");
        assert_eq!(silent[0]["reason"], "it has no session with the controller");
    }
    let metrics = http.get("/metrics");
    let kind = metrics.header("content-type");
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    assert!(
        metrics
            .text
            .contains("evenkeel_se_connected{se=\"se-1\"} 0\n")
    );
}

#[test]
fn parameters_that_are_wrong_are_named() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    for (path, expected) in [
        ("/api/ek/flow?table=all", "table: \"all\" is not a table"),
        ("/api/ek/flow?vip=x", "vip: \"x\" is no IP address"),
        (
            "/api/ek/flowevent?se=se-9",
            "se: there is no service engine",
        ),
        ("/api/ek/traceflow", "client: \"\" is not ADDRESS:PORT"),
    ] {
        let text = http.get(path).refused(400);
        assert!(text.starts_with(expected), "{path}: {text}");
    }
}

#[test]
fn flow_events_are_a_stream_that_ends_with_the_session() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let _engine = Engine::join(&server, &http, "se-1");
    let path = "/api/ek/flowevent/stream";
    let mut stream = http.stream(&format!("{path}?vip=10.100.0.1"));
    let (first, second) = (next(&mut stream).unwrap(), next(&mut stream).unwrap());
    assert_eq!(
        (&first["se_name"], &first["verdict"]),
        (&json!("se-1"), &json!("tunnel_cache"))
    );
    let at = |event: &serde_json::Value| event["unix_ns"].as_u64().unwrap();
    assert!(at(&second) > at(&first), "told once: {first} {second}");
    let wrong = http.get(&format!("{path}?vip=x")).refused(400);
    assert!(wrong.starts_with("vip: \"x\" is no IP address"), "{wrong}");
    assert_eq!(server.http().get(path).status, 401);
    http.text("POST", "/logout", "").good();
    while next(&mut stream).is_some() {}
}
