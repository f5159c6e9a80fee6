//! Actions on what runs, beside those that move traffic (avi-api section 9): what they do, and what they refuse.

use crate::engine::{Engine, service};
use crate::events::make_service;
use crate::http::{Http, Server, own_path, v4, wait_for, wait_until};
use proto::v1::{EngineLoad, EngineStats, Report, Steering, VerdictCount};
use serde_json::{Value, json};
use tempfile::tempdir;

/// Waits until an engine has the VIP of this virtual service.
fn wait_placed(http: &Http, vs: &str) {
    wait_for("a placement", || {
        let runtime = http.get(&format!("{vs}/runtime")).good();
        match runtime["num_se_assigned"] == 1 {
            true => Ok(()),
            false => Err(runtime.to_string()),
        }
    });
}

fn engine_path(http: &Http, name: &str) -> String {
    let page = http.get(&format!("/api/serviceengine?name={name}")).good();
    own_path(&page["results"][0])
}

fn wait_connected(http: &Http, engine: &str, wanted: bool) {
    wait_until("the session", || {
        let runtime = http.get(&format!("{engine}/runtime")).good();
        runtime["se_connected"] == wanted
    });
}

/// Waits until an engine was told a state for which this holds.
fn wait_told(engine: &Engine, what: &str, holds: impl Fn(&proto::v1::DesiredState) -> bool) {
    wait_until(what, || engine.told().states.iter().any(&holds));
}

#[test]
fn every_action_can_be_read() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let vs = own_path(&make_service(&http, "vs"));
    let (se, _) = http.make("serviceengine", json!({"name": "se-1"}));
    for path in [
        format!("{vs}/retryplacement"),
        format!("{vs}/resync"),
        format!("{vs}/rotatekeys"),
        "/api/virtualservice/clear".to_owned(),
        "/api/serviceengine/clear".to_owned(),
        format!("{se}/reboot"),
        format!("{se}/forcedelete"),
        format!("{se}/flowtable/clear"),
        format!("{se}/flowtablestat/clear"),
        format!("{se}/interface/clear"),
    ] {
        let page = http.get(&format!("{path}?include_refs=&include_name="));
        assert_eq!(page.good(), json!({"count": 0, "results": []}), "{path}");
    }
}

#[test]
fn a_placement_that_is_tried_again_says_where_it_is_or_why_it_is_not() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let vs = own_path(&make_service(&http, "vs"));
    let action = format!("{vs}/retryplacement");
    let nowhere = http.post(&action, &json!({})).good();
    assert_eq!(
        (&nowhere["placed"], &nowhere["num_se_assigned"]),
        (&json!(false), &json!(0))
    );
    let why = nowhere["reason"].as_str().unwrap();
    assert!(why.contains("start one with a join token"), "{why}");
    for (body, field) in [
        (json!({"vip_id": "7"}), "vip_id: "),
        (json!({"all_east_west": "yes"}), "all_east_west: "),
    ] {
        let text = http.post(&action, &body).refused(400);
        assert!(text.starts_with(field), "{text}");
    }
    let _engine = Engine::join(&server, &http, "se-1");
    wait_placed(&http, &vs);
    let body = json!({"vip_id": "1", "all_east_west": true});
    let placed = http.post(&action, &body).good();
    let engine = &placed["service_engine"][0];
    assert_eq!(
        (&placed["placed"], &engine["se_name"], &engine["added"]),
        (&json!(true), &json!("se-1"), &json!(false))
    );
    let why = placed["reason"].as_str().unwrap();
    assert!(why.starts_with("it is placed already, on se-1"), "{why}");
    assert_eq!(placed["waits_for"], Value::Null);
    let missing = "/api/virtualservice/virtualservice-no/retryplacement";
    assert_eq!(http.post(missing, &json!({})).status, 404);
}

#[test]
fn engines_of_a_service_are_sent_their_states_again_and_others_are_refused() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let vs = own_path(&make_service(&http, "vs"));
    let mut engine = Engine::join(&server, &http, "se-1");
    wait_placed(&http, &vs);
    http.make("serviceengine", json!({"name": "se-2"}));
    let resync = |body: Value| http.post(&format!("{vs}/resync"), &body);
    let mut before = 0;
    for body in [
        json!({}),
        json!({"se_ref": ["/api/serviceengine?name=se-1"]}),
        json!({"se_ref": []}),
    ] {
        let reply = resync(body).good();
        let sent = &reply["results"][0];
        assert_eq!(
            (&reply["count"], &sent["se_name"], &sent["sent"]),
            (&json!(1), &json!("se-1"), &json!(true))
        );
        let generation = sent["generation"].as_u64().unwrap();
        assert!(generation > before, "{reply}");
        wait_told(&engine, "the state", |s| s.generation == generation);
        before = generation;
    }
    for (se_ref, expected) in [
        (json!(["se-2"]), "se_ref: se-2 does not have the VIP"),
        (json!([7]), "se_ref[0]: must be a reference"),
        (json!(["nobody"]), "se_ref[0]: "),
    ] {
        let text = resync(json!({"se_ref": se_ref})).refused(400);
        assert!(text.starts_with(expected), "{text}");
    }
    engine.disconnect();
    wait_connected(&http, &engine_path(&http, "se-1"), false);
    let reply = resync(json!({})).good();
    let sent = &reply["results"][0];
    assert_eq!(
        (&sent["sent"], &sent["generation"], &sent["reason"]),
        (
            &json!(false),
            &Value::Null,
            &json!("it has no session with the controller")
        )
    );
}

#[test]
fn clients_of_tls_begin_anew_at_every_engine_and_without_tls_there_is_nothing_to_rotate() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let plain = own_path(&make_service(&http, "plain"));
    let text = http.post(&format!("{plain}/rotatekeys"), &json!({}));
    let text = text.refused(400);
    assert!(text.starts_with("services: no port"), "{text}");
    assert_eq!(http.delete(&plain).status, 204);

    let vip = json!([{"vip_id": "1", "ip_address": v4("10.100.0.2")}]);
    let certificate = "/api/sslkeyandcertificate?name=System-Default-Cert";
    let body = json!({"name": "tls", "vip": vip, "services": [{"port": 443, "enable_ssl": true}],
        "ssl_key_and_certificate_refs": [certificate]});
    let (vs, _) = http.make("virtualservice", body);
    let engine = Engine::join(&server, &http, "se-1");
    wait_placed(&http, &vs);
    let mut before = 0;
    for _ in 0..2 {
        let reply = http.post(&format!("{vs}/rotatekeys"), &json!({})).good();
        assert_eq!(reply["results"][0]["sent"], true, "{reply}");
        let number = reply["rotated_unix_ms"].as_u64().unwrap();
        assert!(number > before, "{reply}");
        wait_told(&engine, "the number", |s| {
            s.tls_rotations.iter().any(|r| r.number == number)
        });
        before = number;
    }
}

#[test]
fn an_engine_starts_anew_when_it_can_be_told_and_knows_how() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let missing = "/api/serviceengine/serviceengine-no/reboot";
    assert_eq!(http.post(missing, &json!({})).status, 404);
    let mut engine = Engine::join(&server, &http, "se-1");
    let path = engine_path(&http, "se-1");
    wait_connected(&http, &path, true);
    let reboot = || http.post(&format!("{path}/reboot"), &json!({}));
    let reply = reboot().good();
    assert_eq!(
        (&reply["se_name"], &reply["told"]),
        (&json!("se-1"), &json!(true))
    );
    wait_until("it is told", || engine.told().restarts == 1);
    engine.connect_as(proto::STARTS_ANEW_SINCE - 1);
    wait_for("the older one's session", || {
        let reply = reboot();
        match reply.status == 400 && reply.text.contains("upgrade it") {
            true => Ok(()),
            false => Err(reply.text),
        }
    });
    engine.disconnect();
    wait_connected(&http, &path, false);
    let text = reboot().refused(400);
    assert!(
        text.starts_with("se-1: it has no session with the controller"),
        "{text}"
    );
}

#[test]
fn an_engine_that_is_deleted_by_force_leaves_its_places_to_others_at_once() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let vs = own_path(&make_service(&http, "vs"));
    let _first = Engine::join(&server, &http, "se-1");
    wait_placed(&http, &vs);
    let _second = Engine::join(&server, &http, "se-2");
    let paths = ["se-1", "se-2"].map(|name| engine_path(&http, name));
    wait_connected(&http, &paths[1], true);
    let delete = |path: &str, more: &str| {
        let action = format!("{path}/forcedelete{more}");
        http.post(&action, &json!({}))
    };
    let plan = delete(&paths[0], "?dry_run=true").good();
    let written = &plan["objects"]["results"][0];
    assert_eq!(
        (&plan["dry_run"], &written["action"], &written["name"]),
        (&json!(true), &json!("delete"), &json!("se-1"))
    );
    let moved = &plan["placement"]["results"][0];
    assert_eq!(moved["engines"], json!(["se-2"]), "{plan}");
    assert_eq!(http.get(&paths[0]).status, 200, "nothing was done");

    let reply = delete(&paths[0], "").good();
    let place = &reply["places"]["results"][0];
    assert_eq!(
        (&place["engines"], &place["added"], &place["waits_for"]),
        (&json!(["se-2"]), &json!(["se-2"]), &Value::Null),
        "{reply}"
    );
    assert_eq!(place["virtual_services"], json!(["vs"]));
    assert_eq!(http.get(&paths[0]).status, 404);
    let runtime = http.get(&format!("{vs}/runtime")).good();
    assert_eq!(runtime["service_engine"][0]["name"], "se-2");

    let reply = delete(&paths[1], "").good();
    let place = &reply["places"]["results"][0];
    assert_eq!(place["engines"], json!([]), "{reply}");
    let why = place["waits_for"].as_str().unwrap();
    assert!(why.contains("no service engine can take"), "{why}");
    assert_eq!(delete(&paths[1], "").status, 404);
}

/// What an engine has counted.
fn counted(vs: &Value, connections: u64, packets: u64) -> Report {
    let mut report = service(vs, true);
    report.virtual_services[0].total_connections = connections;
    let load = EngineLoad {
        rx_packets: packets,
        ..EngineLoad::default()
    };
    let verdict = VerdictCount {
        verdict: "local_new".into(),
        packets,
    };
    Report {
        stats: Some(EngineStats {
            load: Some(load),
            ..EngineStats::default()
        }),
        steering: Some(Steering {
            verdicts: vec![verdict],
            ..Steering::default()
        }),
        ..report
    }
}

/// Connections of the virtual service; packets, new flows and received packets of the engine's interface.
fn shown(http: &Http, vs: &str, se: &str) -> [Value; 4] {
    let get = |path: &str| http.get(path).good();
    let detail = get(&format!("{vs}/runtime/detail"));
    let runtime = get(&format!("{se}/runtime"));
    let flows = get(&format!("{se}/flowtablestat"));
    let interface = get(&format!("{se}/interface"));
    [
        detail[0]["fel4stats"][0]["new_established_conns"].clone(),
        runtime["load"]["rx_packets"].clone(),
        flows[0]["dispatch"][0]["flow_rx_create"].clone(),
        interface[0]["vnics"][0]["interface_stats"]["ipackets"].clone(),
    ]
}

fn wait_shown(http: &Http, vs: &str, se: &str, wanted: [u64; 4]) {
    wait_for("the counters", || {
        let seen = shown(http, vs, se);
        match seen == wanted {
            true => Ok(()),
            false => Err(format!("{seen:?}")),
        }
    });
}

/// What Prometheus reads of the programs' counters.
fn told_to_prometheus(http: &Http) -> Vec<String> {
    let text = http.get("/metrics").text;
    let lines = text.lines();
    let own = lines.filter(|line| line.starts_with("evenkeel_flow_packets_total"));
    let mut own: Vec<String> = own.map(str::to_owned).collect();
    own.sort_unstable();
    own
}

#[test]
fn counters_begin_anew_where_the_api_shows_them_and_nowhere_else() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let made = make_service(&http, "vs");
    let vs = own_path(&made);
    let engine = Engine::join(&server, &http, "se-1");
    wait_placed(&http, &vs);
    let se = engine_path(&http, "se-1");
    engine.report(counted(&made, 9, 100));
    wait_shown(&http, &vs, &se, [9, 100, 100, 1000]);
    let before = told_to_prometheus(&http);
    assert!(!before.is_empty());

    let post = |path: &str, body: Value| http.post(path, &body);
    let cleared = post("/api/virtualservice/clear", json!({})).good();
    let row = &cleared["results"][0];
    assert_eq!(
        (&cleared["count"], &row["vs_name"], &row["engines"]),
        (&json!(1), &json!("vs"), &json!(["se-1"]))
    );
    assert_eq!(shown(&http, &vs, &se), [0, 100, 100, 1000]);
    post(&format!("{se}/flowtablestat/clear"), json!({})).good();
    assert_eq!(shown(&http, &vs, &se), [0, 100, 0, 1000]);
    let cleared = post(&format!("{se}/interface/clear"), json!({})).good();
    assert_eq!(cleared["interfaces"], json!(["eth0"]));
    assert_eq!(shown(&http, &vs, &se), [0, 100, 0, 0]);
    let cleared = post("/api/serviceengine/clear?name=se-1", json!({})).good();
    let row = &cleared["results"][0];
    assert_eq!(
        row["cleared"],
        json!(["runtime", "flowtablestat", "interface"]),
        "{cleared}"
    );
    assert_eq!(shown(&http, &vs, &se), [0, 0, 0, 0]);
    assert_eq!(told_to_prometheus(&http), before);
    engine.report(counted(&made, 12, 150));
    wait_shown(&http, &vs, &se, [3, 50, 50, 0]);
}

#[test]
fn what_cannot_be_cleared_says_why() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (se, _) = http.make("serviceengine", json!({"name": "se-1"}));
    for (path, body, expected) in [
        (
            format!("{se}/flowtable/clear"),
            json!({}),
            "flowtable: its entries are connections",
        ),
        (
            format!("{se}/flowtablestat/clear"),
            json!({}),
            "se-1: its counters were not cleared: it has no session",
        ),
        (
            format!("{se}/interface/clear"),
            json!({}),
            "se-1: its counters were not cleared: it has no session",
        ),
        (
            "/api/serviceengine/clear".to_owned(),
            json!({"name": ["nobody"]}),
            "name: there is no serviceengine \"nobody\"",
        ),
        (
            "/api/virtualservice/clear?name=".to_owned(),
            json!({}),
            "name: is empty",
        ),
        (
            "/api/virtualservice/clear".to_owned(),
            json!({"uuids": ["virtualservice-1"]}),
            "uuids: chooses nothing here",
        ),
        (
            "/api/virtualservice/clear?uuids=virtualservice-1".to_owned(),
            json!({}),
            "uuids: POST /api/virtualservice/clear has no such parameter, and nothing was done; it has dry_run, uuid, name",
        ),
        (
            "/api/virtualservice/clear".to_owned(),
            json!({"uuid": null}),
            "uuid: must be text or a list of texts, not null",
        ),
        (
            "/api/virtualservice/clear".to_owned(),
            json!({"uuid": 7}),
            "uuid: must be text or a list of texts, not 7",
        ),
    ] {
        let plan = match path.split_once('?') {
            Some((path, query)) => format!("{path}?dry_run=true&{query}"),
            None => format!("{path}?dry_run=true"),
        };
        for path in [path, plan] {
            let text = http.post(&path, &body).refused(400);
            assert!(text.starts_with(expected), "{path}: {text}");
        }
    }
    let missing = "/api/virtualservice/clear?uuid=virtualservice-no";
    let text = http.post(missing, &json!({})).refused(404);
    assert!(
        text.starts_with("uuid: there is no virtualservice"),
        "{text}"
    );
    let reply = http.post("/api/serviceengine/clear", &json!({"name": "se-1"}));
    let row = &reply.good()["results"][0];
    assert_eq!(row["cleared"], json!([]));
    assert_eq!(
        row["not_cleared"]["interface"],
        "it has no session with the controller"
    );
}

#[test]
fn an_action_refuses_a_parameter_that_it_does_not_have_and_takes_those_of_every_call() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let vs = own_path(&make_service(&http, "vs"));
    let (se, _) = http.make("serviceengine", json!({"name": "se-1"}));
    for (path, parameter) in [
        ("/api/virtualservice/clear".to_owned(), "Name"),
        ("/api/serviceengine/clear".to_owned(), "uuids"),
        ("/api/serviceengine/clear".to_owned(), "refers_to"),
        (format!("{se}/flowtablestat/clear"), "uuid"),
        (format!("{se}/interface/clear"), "name"),
        (format!("{se}/reboot"), "dryrun"),
        (format!("{se}/forcedelete"), "dry-run"),
        (format!("{vs}/retryplacement"), "vip_id"),
        (format!("{vs}/resync"), "se_ref"),
        (format!("{vs}/rotatekeys"), "se_ref"),
    ] {
        let asked = format!("{path}?include_name=&{parameter}=se-1");
        let text = http.post(&asked, &json!({})).refused(400);
        let expected = format!("{parameter}: POST /api/");
        assert!(text.starts_with(&expected), "{asked}: {text}");
        assert!(text.contains("has no such parameter"), "{asked}: {text}");
        assert!(text.contains("it has dry_run"), "{asked}: {text}");
    }
    assert_eq!(http.get(&se).status, 200, "it was not deleted");
    let shown = "include_name=&include_refs=&skip_default=true&fields=name&exclude=url&join_subresources=runtime";
    for ty in ["virtualservice", "serviceengine"] {
        let clear = format!("/api/{ty}/clear?{shown}&dry_run=false");
        let cleared = http.post(&clear, &json!({})).good();
        assert_eq!(cleared["count"], 1, "{cleared}");
    }
    let read = http.get(&format!("{vs}/resync?name=vs"));
    assert_eq!(read.status, 200, "what is read is not about anything");
}

#[test]
fn a_caller_clears_what_he_may_operate_on() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let admin = server.logged_in();
    admin.make("tenant", json!({"name": "t1"}));
    let theirs = make_service(&admin, "theirs");
    let (_, anna) = server.user(&admin, "anna", "Tenant-Admin", Some("t1"));
    let (_, vera) = server.user(&admin, "vera", "Application-Operator", None);
    let own = json!({"name": "own", "services": [{"port": 80}]});
    anna.make("virtualservice", own);
    let clear = |http: &Http, body: Value| http.post("/api/virtualservice/clear", &body);
    let cleared = clear(&anna, json!({})).good();
    assert_eq!(cleared["count"], 1, "{cleared}");
    assert_eq!(cleared["results"][0]["vs_name"], "own");
    for (field, status) in [("uuid", 404), ("name", 400)] {
        let named = json!({field: [theirs[field]]});
        let text = clear(&anna, named).refused(status);
        assert!(
            text.starts_with(&format!("{field}: there is no ")),
            "{text}"
        );
    }
    let text = clear(&vera, json!({})).refused(403);
    assert!(text.contains("vera may not"), "{text}");
}
