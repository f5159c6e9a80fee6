//! The Service Engine's tables (avi-api 10.4) where there is no engine to ask: their shape, their parameters, and who may
//! see them. What an engine answers is beside `plan/host.rs`.

use crate::http::Server;
use serde_json::json;
use tempfile::tempdir;

#[test]
fn an_engine_without_a_session_is_one_element_that_says_so() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (path, made) = http.make("serviceengine", json!({"name": "se-1"}));
    for (table, field) in [
        ("interface", "vnics"),
        ("route", "route_entry"),
        ("ip6route", "route_entry"),
        ("arptable", "arp_entry"),
        ("flowtable", "flow_entries"),
        ("flowtable_remote/", "vnic_table"),
        ("flowtablestat", "not_answered"),
    ] {
        let shown = http.get(&format!("{path}/{table}")).good();
        let elements = shown.as_array().unwrap();
        assert_eq!(elements.len(), 1, "{table}: {shown}");
        let element = &elements[0];
        assert_eq!(
            (&element["se_uuid"], &element["proc_id"]),
            (&made["uuid"], &json!("C0")),
            "{table}"
        );
        assert!(element.get(field).is_some(), "{table}: {element}");
        assert_eq!(
            element["not_answered"], "it has no session with the controller",
            "{table}"
        );
    }
    let missing = http.get("/api/serviceengine/serviceengine-no/interface");
    assert!(
        missing
            .refused(404)
            .contains("ServiceEngine object not found!")
    );
}

#[test]
fn filters_of_a_flow_table_that_are_wrong_are_named() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (path, _) = http.make("serviceengine", json!({"name": "se-1"}));
    for (query, field) in [
        ("src_ip_addr=x", "src_ip_addr"),
        ("dst_port=70000", "dst_port"),
        ("protocol_str=icmp", "protocol_str"),
        ("intfname=eth0", "intfname"),
        ("limit=many", "limit"),
    ] {
        let text = http.get(&format!("{path}/flowtable?{query}")).refused(400);
        assert!(text.starts_with(&format!("{field}: ")), "{text}");
    }
}
