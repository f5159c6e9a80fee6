//! What is observed of routing (avi-api 10.4, `/api/ek/`): who may see it, and of what. What stands in it is tested
//! where reports are made up, beside `plan/explain.rs` and `plan/routing.rs`.

use crate::http::{Server, v4};
use serde_json::{Value, json};
use tempfile::tempdir;

/// Below `/api/serviceengine/UUID/`.
const SUB_PATHS: [&str; 9] = [
    "bgp",
    "bgp/peer_state",
    "bgp/peer_status",
    "bgp/peer_info",
    "bgp/advertised_routes",
    "bgp/running_config",
    "bgp/debug",
    "bfd/session_status",
    "bfd/running_config",
];

const LISTS: [&str; 3] = ["/api/ek/bgp", "/api/ek/bfd", "/api/ek/learnedroute"];

#[test]
fn routing_is_shown_to_those_who_have_logged_in() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let (engine, _) = server
        .logged_in()
        .make("serviceengine", json!({"name": "se-1"}));
    let of_engine = SUB_PATHS.map(|sub| format!("{engine}/{sub}"));
    let others = LISTS.map(str::to_owned);
    let explain = "/api/ek/explain/vip/10.9.9.9".to_owned();
    for path in of_engine.into_iter().chain(others).chain([explain]) {
        assert_eq!(server.http().get(&path).status, 401, "{path}");
    }
}

#[test]
fn an_engine_that_does_not_exist_is_not_found_and_one_without_a_session_shows_nothing() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (engine, made) = http.make("serviceengine", json!({"name": "se-1"}));
    for sub in SUB_PATHS {
        let missing = http.get(&format!("/api/serviceengine/serviceengine-none/{sub}"));
        let error = missing.refused(404);
        assert_eq!(error, "ServiceEngine object not found!", "{sub}");
        let shown = http.get(&format!("{engine}/{sub}")).good();
        let rows = shown.as_array().expect("a list");
        match sub {
            "bgp" => assert_eq!(
                (&rows[0]["se_uuid"], &rows[0]["peers"], &rows[0]["vs_names"]),
                (&made["uuid"], &json!([]), &json!([]))
            ),
            _ => assert!(rows.is_empty(), "{sub}: {shown}"),
        }
    }
    for path in LISTS {
        let page = http.get(path).good();
        assert_eq!((&page["count"], &page["results"]), (&json!(0), &json!([])));
    }
}

#[test]
fn explain_answers_for_a_vip_and_says_what_it_does_not_know() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let explain = |vip: &str| http.get(&format!("/api/ek/explain/vip/{vip}"));
    assert!(
        explain("nonsense")
            .refused(400)
            .contains("is not an IP address")
    );
    assert!(
        explain("10.9.9.9")
            .refused(404)
            .contains("no VsVip has the address")
    );
    let vip = json!([{"vip_id": "1", "ip_address": v4("10.9.9.9")}]);
    http.make("vsvip", json!({"name": "v", "vip": vip}));
    let answer = explain("10.9.9.9").good();
    assert_eq!(
        (&answer["vip"], &answer["vsvip"]),
        (&json!("10.9.9.9"), &json!("v"))
    );
    let path = &answer["paths"][0];
    assert_eq!(path["announced"], false);
    assert_eq!(path["first_failed"]["condition"], "rhi_on");
    let rows = path["conditions"].as_array().expect("a list");
    let states: Vec<&Value> = rows.iter().map(|r| &r["state"]).collect();
    assert_eq!(states.len(), model::condition::Condition::ALL.len());
    assert_eq!(
        (states[0], states[1]),
        (&json!("failed"), &json!("not_reached"))
    );
    let elsewhere = http.get("/api/ek/explain/vip/10.9.9.9?se=se-9");
    assert!(elsewhere.refused(404).contains("se-9"));
}

#[test]
fn numbers_that_bgp_cannot_carry_and_tcp_ao_are_refused_by_the_name_of_the_field() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    for (path, body, field) in [
        (
            "vsvip",
            json!({"name": "v", "bgp_local_preference": -1}),
            "bgp_local_preference: -1 ",
        ),
        (
            "virtualservice",
            json!({"name": "v", "bgp_local_preference": 4_294_967_296_u64}),
            "bgp_local_preference: 4294967296 ",
        ),
        (
            "vrfcontext",
            json!({"name": "v", "bgp_profile": {"local_as": 1, "local_preference": -1}}),
            "bgp_profile.local_preference: -1 ",
        ),
        (
            "vrfcontext",
            json!({"name": "v", "bgp_profile": {"local_as": 1, "peers": [{"peer_ip": v4("10.0.0.1"), "ao_key": "k"}]}}),
            "bgp_profile.peers[0].ao_key: TCP-AO",
        ),
        (
            "serviceengine",
            json!({"name": "s", "data_vnics": [{"vnic_networks": [{}]}]}),
            "",
        ),
    ] {
        let error = http.post(&format!("/api/{path}"), &body).refused(400);
        assert!(error.starts_with(field), "{path}: {error}");
    }
}
