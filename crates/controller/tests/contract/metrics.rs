//! Time series and the health score (avi-api section 11), of what the caller sees.

use crate::engine::{Engine, service};
use crate::events::make_service;
use crate::http::{Http, Server, wait_for};
use proto::v1::{EngineLoad, EngineStats, Report, ResponseStats};
use serde_json::{Value, json};
use tempfile::tempdir;

const METRICS: &str = "/api/analytics/metrics";

/// What an engine has counted of a virtual service.
fn counted(vs: &Value, total: u64) -> Report {
    let mut report = service(vs, true);
    report.virtual_services[0].total_connections = total;
    report.virtual_services[0].open_connections = 7;
    report.virtual_services[0].responses = Some(ResponseStats {
        class_2xx: total,
        ..ResponseStats::default()
    });
    let load = EngineLoad {
        host_memory_bytes: 8000,
        host_memory_available_bytes: 6000,
        ..EngineLoad::default()
    };
    report.stats = Some(EngineStats {
        load: Some(load),
        ..EngineStats::default()
    });
    report
}

/// The path of a series of connections in real time.
fn real_time(vs: &Value) -> String {
    let uuid = vs["uuid"].as_str().unwrap();
    format!(
        "{METRICS}/virtualservice/{uuid}?metric_id=l4_client.max_open_conns,nothing.at_all&step=5"
    )
}

fn samples(http: &Http, path: &str) -> Vec<Value> {
    http.get(path).good()["series"][0]["data"]
        .as_array()
        .unwrap()
        .clone()
}

#[test]
fn responses_and_memory_are_told_and_what_an_engine_does_not_tell_is_a_gap() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let vs = make_service(&http, "web");
    let engine = Engine::join(&server, &http, "se-1");
    let engines = http.get("/api/serviceengine").good();
    let se = engines["results"][0]["uuid"].as_str().unwrap().to_owned();
    let of_engine = format!("{METRICS}/serviceengine/{se}?metric_id=se_stats.avg_mem_usage&step=5");
    let uuid = vs["uuid"].as_str().unwrap();
    let of_service = |id: &str| format!("{METRICS}/virtualservice/{uuid}?metric_id={id}&step=5");
    let (responses, dropped) = (
        of_service("l7_client.sum_total_responses"),
        of_service("l4_client.avg_connections_dropped"),
    );
    let mut total = 0;
    let (responses, memory) = wait_for("samples", || {
        total += 10;
        engine.report(counted(&vs, total));
        let both = (samples(&http, &responses), samples(&http, &of_engine));
        match both.0.is_empty() || both.1.is_empty() {
            true => Err("none".into()),
            false => Ok(both),
        }
    });
    assert!(responses[0]["value"].as_f64().unwrap() >= 10.0);
    assert_eq!(memory[0]["value"], 25.0);
    let series = &http.get(&dropped).good()["series"][0];
    assert_eq!(series["header"]["units"], "PER_SECOND");
    assert_eq!(series["data"], json!([]), "not zero: nobody has told it");
    let path = format!("{dropped}&pad_missing_data=true");
    let padded = samples(&http, &path);
    assert!(!padded.is_empty() && padded.iter().all(|d| d["is_null"] == true));
}

#[test]
fn what_engines_count_is_a_series_and_what_nobody_counts_an_empty_one() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let vs = make_service(&http, "web");
    let engine = Engine::join(&server, &http, "se-1");
    let mut total = 0;
    let data = wait_for("a sample", || {
        total += 10;
        engine.report(counted(&vs, total));
        let data = samples(&http, &real_time(&vs));
        if data.is_empty() {
            Err("none".into())
        } else {
            Ok(data)
        }
    });
    assert_eq!(data[0]["value"], 7.0);
    let answer = http.get(&real_time(&vs)).good();
    let header = &answer["series"][0]["header"];
    assert_eq!(
        (&header["name"], &header["units"]),
        (&json!("l4_client.max_open_conns"), &json!("METRIC_COUNT"))
    );
    assert_eq!(header["entity_uuid"], vs["uuid"]);
    assert_eq!(
        (&header["statistics"]["max"], &header["tenant_uuid"]),
        (&json!(7.0), &json!("admin"))
    );
    assert_eq!(answer["series"][1]["data"], json!([]), "an unknown metric");
    assert_eq!(
        (&answer["step"], &answer["metric_entity"]),
        (&json!(5), &json!("VIRTUALSERVICE"))
    );
    let list = http
        .get(&format!(
            "{METRICS}/pool?metric_id=l4_server.max_open_conns"
        ))
        .good();
    assert_eq!(
        (&list["count"], &list["results"][0]["step"]),
        (&json!(1), &json!(300))
    );
    for entity in ["serviceengine", "virtualservice"] {
        assert_eq!(
            http.count(&format!("{METRICS}/{entity}?metric_id=x")),
            1,
            "{entity}"
        );
    }
    let own = http
        .get(&format!(
            "{METRICS}/controller?metric_id=controller_stats.avg_cpu_usage"
        ))
        .good();
    assert_eq!(own["series"][0]["header"]["units"], "PERCENT");
}

#[test]
fn a_collection_answers_several_questions_by_their_names() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let vs = make_service(&http, "web");
    let ask = |requests: Value| {
        let body = json!({"metric_requests": requests});
        http.post(&format!("{METRICS}/collection"), &body)
    };
    let requests = json!([
        {"id": "one", "metric_id": "l4_client.avg_bandwidth,l4_client.max_open_conns", "entity_uuid": vs["uuid"], "step": 300, "limit": 10, "tenant": "*"},
        {"metric_id": "l4_client.avg_bandwidth", "entity_uuid": "virtualservice-none"},
    ]);
    let series = ask(requests).good()["series"].clone();
    let names: Vec<&Value> = series["one"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| &s["header"]["name"])
        .collect();
    assert_eq!(
        names,
        ["l4_client.avg_bandwidth", "l4_client.max_open_conns"]
    );
    assert_eq!(series["1"], json!([{"header": {}, "data": []}]));
    for (requests, field) in [
        (json!(null), "metric_requests: "),
        (json!([{"step": 60}]), "metric_requests[0].step: "),
        (json!([{}, {"limit": "x"}]), "metric_requests[1].limit: "),
        (json!([{"start": "x"}]), "metric_requests[0].start: "),
    ] {
        let text = ask(requests).refused(400);
        assert!(text.starts_with(field), "{text}");
    }
}

#[test]
fn the_health_score_is_what_is_observed() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let vs = make_service(&http, "web");
    let path = format!(
        "/api/analytics/healthscore/virtualservice/{}",
        vs["uuid"].as_str().unwrap()
    );
    let now = http.get(&format!("{path}/detail")).good();
    assert_eq!(
        (&now["health_score"], &now["detail"]["reason"]),
        (&json!(0.0), &json!("no engine has reported it"))
    );
    let engine = Engine::join(&server, &http, "se-1");
    for (up, expected) in [(true, 100.0), (false, 0.0)] {
        engine.report(service(&vs, up));
        wait_for("the score", || {
            let now = http.get(&path).good()["health_score"].clone();
            if now == expected {
                Ok(())
            } else {
                Err(now.to_string())
            }
        });
    }
    let series = &http.get(&path).good()["series"][0];
    assert_eq!(series["header"]["name"], "healthscore.health_score_value");
    let none = http.get("/api/analytics/healthscore/virtualservice/virtualservice-none");
    assert_eq!(none.refused(404), "VirtualService object not found!");
}

#[test]
fn a_tenants_user_reads_series_of_his_objects_and_none_of_the_controller() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let admin = server.logged_in();
    for tenant in ["t1", "t2"] {
        admin.make("tenant", json!({"name": tenant}));
        admin
            .with("X-Avi-Tenant", tenant)
            .make("pool", json!({"name": format!("pool-{tenant}")}));
    }
    let anna = server
        .user(&admin, "anna", "Application-Operator", Some("t1"))
        .1;
    let pool = |tenant: &str| {
        let found = admin.with("X-Avi-Tenant", tenant).get("/api/pool").good();
        found["results"][0]["uuid"].as_str().unwrap().to_owned()
    };
    let (hers, other) = (pool("t1"), pool("t2"));
    assert_eq!(
        anna.get(&format!("{METRICS}/pool/{hers}?metric_id=x"))
            .status,
        200
    );
    let refused = anna.get(&format!("{METRICS}/pool/{other}?metric_id=x"));
    assert_eq!(refused.refused(404), "Pool object not found!");
    assert_eq!(anna.count(&format!("{METRICS}/pool?metric_id=x")), 1);
    let requests = json!([{"id": "a", "metric_id": "x", "entity_uuid": other}]);
    let body = json!({"metric_requests": requests});
    let answer = anna.post(&format!("{METRICS}/collection"), &body).good();
    assert_eq!(answer["series"]["a"], json!([{"header": {}, "data": []}]));
    let text = anna
        .get(&format!("{METRICS}/controller?metric_id=x"))
        .refused(403);
    assert!(text.contains("PERMISSION_CONTROLLER"), "{text}");
    for path in ["pool", "controller", "virtualservice", "serviceengine"] {
        assert_eq!(
            server.http().get(&format!("{METRICS}/{path}")).status,
            401,
            "{path}"
        );
    }
    for (wrong, field) in [
        ("step=60", "step: "),
        ("limit=x", "limit: "),
        ("start=x", "start: "),
    ] {
        let text = anna.get(&format!("{METRICS}/pool?{wrong}")).refused(400);
        assert!(text.starts_with(field), "{text}");
    }
}
