//! What is observed of virtual services, pools and engines beside their runtimes (avi-api 10.2 to 10.4): shapes, filters, and what an
//! engine has reported.

use crate::engine::{Engine, service};
use crate::events::make_service;
use crate::http::{Http, Server, own_path, wait_for};
use proto::v1::{MonitorStatus, OperState};
use serde_json::{Value, json};
use tempfile::tempdir;

/// Path of the pool of `make_service`.
fn pool_of(http: &Http, name: &str) -> String {
    let pools = http.get(&format!("/api/pool?name=pool-{name}")).good();
    own_path(&pools["results"][0])
}

#[test]
fn every_view_has_its_shape_before_there_is_an_engine() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let vs = own_path(&make_service(&http, "web"));
    let get = |view: &str| http.get(&format!("{vs}/{view}")).good();
    let internal = &get("runtime/internal")[0];
    assert_eq!(
        (
            &internal["members"],
            &internal["steps"],
            &internal["group_generation"]
        ),
        (&json!([]), &json!([]), &json!(0))
    );
    let detail = &get("scaleoutstatus/detail/")[0];
    assert_eq!(
        (
            &detail["vip_id"],
            &detail["steps"],
            &detail["service_engine"]
        ),
        (&json!("1"), &json!([]), &json!([]))
    );
    for view in ["sescaleoutstatus", "tcpstat", "udpstat", "keyval", "client"] {
        assert_eq!(get(view), json!([]), "{view}");
        let missing = http.get(&format!("/api/virtualservice/virtualservice-no/{view}"));
        let text = missing.refused(404);
        assert!(text.contains("VirtualService object not found!"), "{text}");
    }
    let pool = pool_of(&http, "web");
    for view in ["runtime/detail", "runtime/server", "runtime/server/detail"] {
        assert_eq!(http.get(&format!("{pool}/{view}")).good(), json!([]));
        let missing = http.get(&format!("/api/pool/pool-no/{view}")).refused(404);
        assert!(missing.contains("Pool object not found!"), "{missing}");
    }
}

#[test]
fn an_engine_that_was_never_here_says_nothing_of_its_host() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (path, made) = http.make("serviceengine", json!({"name": "se-1"}));
    let detail = http.get(&format!("{path}/runtime/detail")).good();
    let counters = json!({"reg_cnt": 0, "reg_fail_cnt": 0, "se_up_cnt": 0, "se_down_cnt": 0});
    assert_eq!(
        (&detail["name"], &detail["counters"], detail.get("vnic")),
        (&json!("se-1"), &counters, None)
    );
    for (field, value) in [
        ("at_curr_ver", Value::Null),
        ("hb_status", Value::Null),
        ("power_state", Value::Null),
        ("migrate_state", json!("SE_MIGRATE_STATE_IDLE")),
    ] {
        assert_eq!(detail[field], value, "{field}");
    }
    for view in ["cpu", "meminfo"] {
        let shown = http.get(&format!("{path}/{view}")).good();
        let why = "it has no session with the controller";
        assert_eq!(
            (&shown[0]["se_uuid"], &shown[0]["not_answered"]),
            (&made["uuid"], &json!(why)),
            "{view}"
        );
    }
    let placement = http.get(&format!("{path}/placement")).good();
    assert_eq!(placement[0]["vips"], json!([]));
    for view in ["runtime/detail", "placement", "cpu", "meminfo"] {
        let missing = http.get(&format!("/api/serviceengine/serviceengine-no/{view}"));
        let text = missing.refused(404);
        assert!(text.contains("ServiceEngine object not found!"), "{text}");
    }
}

#[test]
fn filters_that_are_wrong_are_named() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let vs = own_path(&make_service(&http, "web"));
    let pool = pool_of(&http, "web");
    for (question, field) in [
        (format!("{pool}/runtime/server?server_ip=x"), "server_ip"),
        (
            format!("{pool}/runtime/server?server_mask=24"),
            "server_mask",
        ),
        (
            format!("{pool}/runtime/server?server_end_ip=10.1.0.9"),
            "server_end_ip",
        ),
        (
            format!("{pool}/runtime/server/detail?server_port=0"),
            "server_port",
        ),
        (format!("{vs}/client?ip_addr=x"), "ip_addr"),
        (format!("{vs}/client?limit=all"), "limit"),
    ] {
        let text = http.get(&question).refused(400);
        assert!(text.starts_with(&format!("{field}: ")), "{text}");
    }
}

#[test]
fn what_an_engine_reports_is_shown_by_server_by_pool_and_by_engine() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let vs = make_service(&http, "web");
    let pool = pool_of(&http, "web");
    let engine = Engine::join(&server, &http, "se-1");
    let monitor = http.get("/api/healthmonitor?name=System-TCP").good();
    let monitor = monitor["results"][0]["uuid"].as_str().unwrap().to_owned();
    let mut report = service(&vs, false);
    let told = &mut report.pools[0].servers[0];
    told.total_connections = 9;
    told.open_connections = 2;
    told.monitors = vec![MonitorStatus {
        uuid: monitor,
        state: OperState::Down.into(),
        failure_code: "CONNECTION_TIMEOUT".into(),
        average_response_time_ms: Some(12),
        ..MonitorStatus::default()
    }];
    engine.report(report);
    let server = wait_for("a server with its monitor", || {
        let list = http.get(&format!("{pool}/runtime/server")).good();
        match list[0]["health_monitor_list"]["health_monitor"].get(0) {
            Some(_) => Ok(list[0].clone()),
            None => Err(list.to_string()),
        }
    });
    let monitor = &server["health_monitor_list"]["health_monitor"][0];
    assert_eq!(
        (
            &monitor["name"],
            &monitor["state"],
            &monitor["failure_code"]
        ),
        (
            &json!("System-TCP"),
            &json!("OPER_DOWN"),
            &json!("CONNECTION_TIMEOUT")
        )
    );
    assert_eq!(
        (
            &monitor["avg_response_time"],
            &monitor["recent_response_time"]
        ),
        (&json!(12), &Value::Null)
    );
    let filtered = |query: &str| {
        let list = http.get(&format!("{pool}/runtime/server?{query}")).good();
        list.as_array().unwrap().len()
    };
    let [here, elsewhere] = ["server_ip=10.1.0.0&server_mask=24", "server_port=81"].map(filtered);
    assert_eq!((here, elsewhere), (1, 0));
    let detail = http.get(&format!("{pool}/runtime/detail")).good();
    assert_eq!(detail[0]["pool_stats"]["total_connections"], 9);
    let by_server = http.get(&format!("{pool}/runtime/server/detail")).good();
    assert_eq!(by_server[0]["server_stats"]["current_connections"], 2);
    let engines = http.get("/api/serviceengine?name=se-1").good();
    let path = own_path(&engines["results"][0]);
    let runtime = http.get(&format!("{path}/runtime/detail")).good();
    assert_eq!(
        (&runtime["counters"]["reg_cnt"], &runtime["power_state"]),
        (&json!(1), &json!("SE_POWER_ON"))
    );
    assert!(runtime["hb_status"]["last_hb_resp_recv"].is_string());
    assert_eq!(runtime["vnic"][0]["if_name"], "eth0");
}
