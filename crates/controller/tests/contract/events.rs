//! Events, and their stream (avi-api section 11): what happens is told to those who see the object, and outlives a
//! restart.

use crate::engine::{Engine, peer, service};
use crate::http::{Http, PASSWORD, Server, own_path, v4, wait_for};
use proto::v1::BgpState;
use serde_json::{Value, json};
use std::io::BufRead;
use tempfile::tempdir;

const LOGS: &str = "/api/analytics/logs?type=2&page_size=1000";

/// Events, oldest first, of this question.
fn events(http: &Http, more: &str) -> Vec<Value> {
    let page = http
        .get(&format!("{LOGS}&orderby=report_timestamp{more}"))
        .good();
    page["results"].as_array().unwrap().clone()
}

fn ids(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|e| e["event_id"].as_str().unwrap())
        .collect()
}

/// Waits for an event of this id and object; gives it.
fn wait_event(http: &Http, id: &str, name: &str) -> Value {
    let question = format!("&filter=eq(event_id,{id})&filter=eq(obj_name,{name})");
    wait_for(&format!("{id} of {name}"), || {
        events(http, &question)
            .pop()
            .ok_or_else(|| format!("{:?}", ids(&events(http, ""))))
    })
}

/// A virtual service with VIP 10.100.0.1 and a pool; as it was made.
pub fn make_service(http: &Http, name: &str) -> Value {
    let (pool, _) = http.make(
        "pool",
        json!({"name": format!("pool-{name}"), "servers": [{"ip": v4("10.1.0.5")}]}),
    );
    let vip = json!([{"vip_id": "1", "ip_address": v4("10.100.0.1")}]);
    let (vsvip, _) = http.make("vsvip", json!({"name": format!("vip-{name}"), "vip": vip}));
    let vs =
        json!({"name": name, "vsvip_ref": vsvip, "pool_ref": pool, "services": [{"port": 80}]});
    http.make("virtualservice", vs).1
}

#[test]
fn changes_of_objects_are_events_with_who_and_what() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (pool, made) = http.make("pool", json!({"name": "web"}));
    http.patch(&pool, &json!({"replace": {"enabled": false}}))
        .good();
    assert_eq!(http.delete(&pool).status, 204);
    let of_pool = format!("&filter=eq(obj_uuid,{})", made["uuid"].as_str().unwrap());
    let found = events(&http, &of_pool);
    assert_eq!(
        ids(&found),
        ["CONFIG_CREATE", "CONFIG_UPDATE", "CONFIG_DELETE"]
    );
    let first = &found[0];
    assert_eq!(
        (&first["obj_type"], &first["obj_name"]),
        (&json!("POOL"), &json!("web"))
    );
    assert_eq!(first["context"], "EVENT_CONTEXT_CONFIG");
    assert_eq!(first["internal"], "EVENT_EXTERNAL");
    assert_eq!(
        first["event_details"]["config_create_details"]["user"],
        "admin"
    );
    assert!(first["report_timestamp"].as_u64().unwrap() > 1_700_000_000);
}

#[test]
fn filters_pages_and_orders_are_those_of_the_contract() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    for name in ["a", "b", "c"] {
        http.make("pool", json!({"name": name}));
    }
    let pools = "/api/analytics/logs?type=2&filter=eq(obj_type,POOL)";
    let page = http.get(&format!("{pools}&page_size=2")).good();
    assert_eq!((&page["count"], &page["more"]), (&json!(3), &json!(true)));
    assert_eq!(page["results"][0]["obj_name"], "c", "newest first");
    let page = http.get(&format!("{pools}&page_size=2&page=2")).good();
    assert_eq!(
        (&page["results"][0]["obj_name"], &page["more"]),
        (&json!("a"), &json!(false))
    );
    let by_name = http
        .get(&format!("{pools}&orderby=obj_name&cols=obj_name"))
        .good();
    assert_eq!(
        by_name["results"],
        json!([{"obj_name": "a"}, {"obj_name": "b"}, {"obj_name": "c"}])
    );
    for (more, expected) in [
        ("filter=co(obj_name,B)", 1),
        ("filter=ne(obj_name,b)", 2),
        ("filter=eq(obj_name,[a,b])", 2),
        ("duration=3600", 3),
        ("end=2020-01-01T00:00:00Z", 0),
        ("start=2020-01-01T00:00:00", 3),
    ] {
        assert_eq!(http.count(&format!("{pools}&{more}")), expected, "{more}");
    }
    for kind in [0, 1] {
        assert_eq!(http.count(&format!("/api/analytics/logs?type={kind}")), 0);
    }
    for (wrong, field) in [
        ("type=3", "type: "),
        ("type=2&filter=is(a,b)", "filter: "),
        ("type=2&start=yesterday", "start: "),
        ("type=2&duration=long", "duration: "),
        ("type=2&page=x", "page: "),
        ("type=2&groupby=obj_name", "groupby: "),
    ] {
        let text = http
            .get(&format!("/api/analytics/logs?{wrong}"))
            .refused(400);
        assert!(text.starts_with(field), "{wrong}: {text}");
    }
    assert_eq!(server.http().get(LOGS).status, 401);
}

#[test]
fn logins_are_events_and_a_name_that_no_user_has_is_not_kept() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    assert_eq!(server.http().log_in("wrong").status, 401);
    assert_eq!(
        server.http().log_in_as("my-pass-phrase", "wrong").status,
        401
    );
    server.logged_in().text("POST", "/logout", "").good();
    let found = events(&http, "&filter=sw(event_id,USER_)");
    assert_eq!(
        ids(&found),
        [
            "USER_LOGIN",
            "USER_LOGIN",
            "USER_LOGIN",
            "USER_LOGIN",
            "USER_LOGOUT"
        ]
    );
    let status = |e: &Value| e["event_details"]["config_user_login_details"]["status"].clone();
    let all: Vec<Value> = found.iter().take(4).map(status).collect();
    assert_eq!(all, ["SUCCESS", "FAILURE", "FAILURE", "SUCCESS"]);
    assert_eq!(found[1]["obj_name"], "admin");
    let text = http.get(LOGS).text;
    assert!(
        !text.contains("my-pass-phrase") && !text.contains("wrong"),
        "{text}"
    );
    assert!(!text.contains(PASSWORD), "{text}");
}

#[test]
fn a_tenants_user_gets_events_of_his_objects_and_of_shared_ones_alone() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let admin = server.logged_in();
    for tenant in ["t1", "t2"] {
        admin.make("tenant", json!({"name": tenant}));
    }
    let anna = server
        .user(&admin, "anna", "Application-Operator", Some("t1"))
        .1;
    for tenant in ["t1", "t2", "admin"] {
        let there = admin.with("X-Avi-Tenant", tenant);
        let (gone, _) = there.make("pool", json!({"name": format!("gone-{tenant}")}));
        there.make("pool", json!({"name": format!("pool-{tenant}")}));
        assert_eq!(there.delete(&gone).status, 204);
    }
    admin.make(
        "healthmonitor",
        json!({"name": "shared", "type": "HEALTH_MONITOR_TCP"}),
    );
    let names = |http: &Http| -> Vec<String> {
        let found = events(http, "");
        let mut names: Vec<String> = found
            .iter()
            .map(|e| e["obj_name"].as_str().unwrap().into())
            .collect();
        names.sort();
        names.dedup();
        names
    };
    assert_eq!(names(&anna), ["gone-t1", "pool-t1", "shared", "t1"]);
    assert_eq!(
        names(&anna.with("X-Avi-Tenant", "*")),
        ["gone-t1", "pool-t1", "shared", "t1"]
    );
    let all = names(&admin.with("X-Avi-Tenant", "*"));
    for name in [
        "admin",
        "anna",
        "gone-t1",
        "gone-t2",
        "pool-t1",
        "pool-t2",
        "pool-admin",
        "t2",
    ] {
        assert!(all.contains(&name.to_owned()), "{name}: {all:?}");
    }
}

#[test]
fn what_engines_observe_is_told_once_and_with_its_reason() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let vs = make_service(&http, "web");
    let mut engine = Engine::join(&server, &http, "se-1");
    wait_event(&http, "SE_UP", "se-1");
    wait_event(&http, "VIP_SCALEOUT", "vip-web");
    engine.report(service(&vs, true));
    engine.report(service(&vs, true));
    engine.report(service(&vs, false));
    let down = wait_event(&http, "VS_DOWN", "web");
    assert_eq!(down["reason_code"], "pool_down");
    engine.report(service(&vs, true));
    engine.disconnect();
    wait_event(&http, "SE_DOWN", "se-1");
    let lost = wait_for("the VS_DOWN of the lost engine", || {
        let all = events(&http, "&filter=eq(event_id,VS_DOWN)");
        match all.as_slice() {
            [_, lost] => Ok(lost.clone()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(lost["reason_code"], "se_disconnected");
    let of_vs = format!("&virtualservice={}", vs["uuid"].as_str().unwrap());
    let found = events(&http, &of_vs);
    let of = |id: &str| found.iter().filter(|e| e["event_id"] == id).count();
    for (id, times) in [
        ("CONFIG_CREATE", 1),
        ("VS_SCALEOUT_COMPLETE", 1),
        ("VS_UP", 2),
        ("VS_DOWN", 2),
        ("VIP_UP", 2),
        ("VIP_DOWN", 2),
        ("POOL_UP", 2),
        ("POOL_DOWN", 1),
        ("SERVER_UP", 2),
        ("SERVER_DOWN", 1),
        ("VIP_SCALEOUT", 1),
    ] {
        assert_eq!(of(id), times, "{id}: {:?}", ids(&found));
    }
    let server_down = wait_event(&http, "SERVER_DOWN", "pool-web");
    let summary = server_down["details_summary"].as_str().unwrap();
    assert_eq!(
        summary,
        "10.1.0.5:80 of pool-web is down: connection refused"
    );
}

/// The shortest interval that there is.
#[test]
fn what_a_load_asks_for_is_told_and_shown_with_its_numbers() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let groups = http
        .get("/api/serviceenginegroup?name=Default-Group")
        .good();
    let group = own_path(&groups["results"][0]);
    http.patch(
        &group,
        &json!({"replace": {
            "auto_rebalance_criteria": ["SE_AUTO_REBALANCE_OPEN_CONNS"],
            "auto_rebalance_capacity_per_se": [100], "auto_rebalance_interval": 5,
        }}),
    )
    .good();
    let vs = make_service(&http, "web");
    let engine = Engine::join(&server, &http, "se-1");
    wait_event(&http, "VIP_SCALEOUT", "vip-web");
    let mut report = service(&vs, true);
    report.virtual_services[0].open_connections = 90;
    engine.report(report);
    let told = wait_event(&http, "VS_AUTOSCALE_RECOMMENDED", "web");
    assert_eq!(told["reason_code"], "load_high");
    let details = &told["event_details"]["vs_autoscale_details"];
    assert_eq!(details["action"], "SCALE_OUT");
    let runtime = format!("{}/runtime", own_path(&vs));
    let shown = http.get(&runtime).good()["autoscale"].clone();
    assert_eq!(shown["reason"], details["reason"], "{shown}");
    assert_eq!(shown["criteria"][0]["percent"], 90.0);
}

#[test]
fn a_peer_that_goes_down_is_told_in_the_words_of_the_contract_and_a_flapping_one_is_counted() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let engine = Engine::join(&server, &http, "se-1");
    engine.report(peer(BgpState::Connect, ""));
    for _ in 0..20 {
        engine.report(peer(BgpState::Established, ""));
        engine.report(peer(BgpState::Idle, "hold timer expired"));
    }
    let down = wait_event(&http, "SE_BGP_PEER_DOWN", "se-1");
    let details =
        json!({"peer_ip": "10.10.10.1", "vrf_name": "global", "message": "hold timer expired"});
    assert_eq!(down["event_details"]["se_bgp_peer_down_details"], details);
    let changed = wait_event(&http, "SE_BGP_PEER_STATE_CHANGE", "se-1");
    let details = &changed["event_details"]["se_bgp_peer_state_change_details"];
    assert_eq!(details["peer_ip"], "10.10.10.1");
    engine.report(service(&make_service(&http, "last"), true));
    wait_event(&http, "VS_UP", "last");
    let found = events(&http, "&filter=sw(event_id,SE_BGP_)");
    // Three of each, and one more where the minute is over.
    assert!((6..=8).contains(&found.len()), "{:?}", ids(&found));
}

#[test]
fn events_outlive_a_restart_and_a_stop_of_the_controller_is_no_event_of_engines() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let engine = Engine::join(&server, &http, "se-1");
    wait_event(&http, "SE_UP", "se-1");
    // Its interfaces are noted: then nothing more comes by itself.
    wait_event(&http, "CONFIG_UPDATE", "se-1");
    let (pool, _) = http.make("pool", json!({"name": "kept"}));
    let before = events(&http, "");
    drop(server);
    drop(engine);
    let server = Server::start(folder.path());
    let http = server.logged_in();
    assert_eq!(http.get(&pool).status, 200);
    let after = events(&http, "");
    assert_eq!(after[..before.len()], before);
    assert_eq!(ids(&after[before.len()..]), ["USER_LOGIN"]);
}

/// The next event of a stream; comments are passed over.
pub fn next(stream: &mut impl BufRead) -> Option<Value> {
    let mut line = String::new();
    while stream.read_line(&mut line).unwrap_or(0) > 0 {
        if let Some(data) = line.strip_prefix("data: ") {
            return Some(serde_json::from_str(data).unwrap());
        }
        line.clear();
    }
    None
}

#[test]
fn a_stream_tells_what_happens_from_the_last_event_on_that_one_has() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let mut stream = http.stream("/api/ek/event");
    let (first, made) = http.make("pool", json!({"name": "one"}));
    let event = next(&mut stream).unwrap();
    assert_eq!(
        (&event["event_id"], &event["obj_name"]),
        (&json!("CONFIG_CREATE"), &json!("one"))
    );
    let last = event["sequence"].to_string();
    http.make("pool", json!({"name": "two"}));
    http.delete(&first);
    assert_eq!(next(&mut stream).unwrap()["obj_name"], "two");
    assert_eq!(next(&mut stream).unwrap()["event_id"], "CONFIG_DELETE");
    let mut again = http.with("Last-Event-ID", &last).stream("/api/ek/event");
    assert_eq!(next(&mut again).unwrap()["obj_name"], "two");
    let uuid = made["uuid"].as_str().unwrap();
    let of_pool = format!(
        "/api/ek/event?obj_uuid={uuid}&event_id=CONFIG_DELETE,CONFIG_UPDATE&last_event_id=0"
    );
    let mut of_pool = http.stream(&of_pool);
    assert_eq!(next(&mut of_pool).unwrap()["event_id"], "CONFIG_DELETE");
    let wrong = http.with("Last-Event-ID", "x").get("/api/ek/event");
    assert!(wrong.refused(400).starts_with("Last-Event-ID: "));
    assert_eq!(server.http().get("/api/ek/event").status, 401);
}

#[test]
fn a_stream_shows_what_its_reader_sees_and_ends_with_his_session_and_with_the_controller() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let admin = server.logged_in();
    admin.make("tenant", json!({"name": "t1"}));
    let anna = server
        .user(&admin, "anna", "Application-Operator", Some("t1"))
        .1;
    let mut stream = anna.stream("/api/ek/event");
    admin.make("pool", json!({"name": "not hers"}));
    let (hers, _) = admin
        .with("X-Avi-Tenant", "t1")
        .make("pool", json!({"name": "hers"}));
    assert_eq!(next(&mut stream).unwrap()["obj_name"], "hers");
    anna.text("POST", "/logout", "").good();
    admin.with("X-Avi-Tenant", "t1").delete(&hers);
    assert_eq!(next(&mut stream), None, "she has logged out");
    let mut stream = admin.stream("/api/ek/event");
    drop(server);
    while next(&mut stream).is_some() {}
}

#[test]
fn a_user_who_is_deleted_hears_nothing_more() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let admin = server.logged_in();
    admin.make("tenant", json!({"name": "t1"}));
    let anna = server
        .user(&admin, "anna", "Application-Operator", Some("t1"))
        .1;
    let mut stream = anna.stream("/api/ek/event");
    let path = own_path(&admin.get("/api/user?name=anna").good()["results"][0]);
    assert_eq!(admin.delete(&path).status, 204);
    assert_eq!(next(&mut stream), None);
}

#[test]
fn a_stream_ends_with_its_token_be_it_sent_or_logged_in_with() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let admin = server.logged_in();
    let made = admin.post("/api/user-token", &json!({"hours": 1})).good();
    let token = made["token"].as_str().unwrap();
    let sent = format!("Token {token}");
    let mut by_header = server
        .http()
        .with("Authorization", &sent)
        .stream("/api/ek/event");
    let mut logged_in = server.http();
    logged_in.log_in_with(&json!({"token": token})).good();
    let mut by_session = logged_in.stream("/api/ek/event");
    admin.make("pool", json!({"name": "before"}));
    for stream in [&mut by_header, &mut by_session] {
        let names = |stream: &mut _| next(stream).map(|e| e["obj_name"].clone());
        while names(stream) != Some(json!("before")) {}
    }
    let path = format!("/api/user-token/{}", made["uuid"].as_str().unwrap());
    assert_eq!(admin.delete(&path).status, 204);
    admin.make("pool", json!({"name": "after"}));
    for stream in [&mut by_header, &mut by_session] {
        while let Some(event) = next(stream) {
            assert_ne!(event["obj_name"], "after", "{event}");
        }
    }
}

#[test]
fn a_stream_passes_over_what_is_not_its_readers_without_waiting() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let admin = server.logged_in();
    admin.make("tenant", json!({"name": "t1"}));
    let anna = server
        .user(&admin, "anna", "Application-Operator", Some("t1"))
        .1;
    let writes: Vec<Value> = (0..90)
        .map(|n| json!({"type": "pool", "object": {"name": format!("not hers {n}")}}))
        .collect();
    for _ in 0..4 {
        let change = json!({"writes": writes});
        let made = admin.post("/api/ek/change", &change).good();
        let mut gone = made["objects"].as_array().unwrap().clone();
        for pool in gone.drain(..) {
            admin.delete(&format!("/api/pool/{}", pool["uuid"].as_str().unwrap()));
        }
    }
    admin
        .with("X-Avi-Tenant", "t1")
        .make("pool", json!({"name": "hers"}));
    let mut stream = anna.stream("/api/ek/event?last_event_id=0");
    let mut before = Vec::new();
    loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).unwrap() > 0, "it ended");
        if line.starts_with("data: ") && line.contains("\"hers\"") {
            break;
        }
        match line.starts_with("data: ") {
            // That her tenant was made, she sees, too.
            true => before.clear(),
            false => before.push(line),
        }
    }
    // With each wait comes the number of an event that was passed over.
    let numbers = before.iter().filter(|line| line.starts_with("id: "));
    assert_eq!(numbers.count(), 1, "{before:?}");
}
