use super::*;
use crate::output::table::render;
use serde_json::{Value, json};

fn assert_table(actual: &str, expected: &[&str]) {
    let actual: Vec<&str> = actual.lines().collect();
    assert_eq!(actual, expected, "\n{}", actual.join("\n"));
}

fn vs_inventory() -> Value {
    json!({
        "config": {"name": "vs-1", "uuid": "virtualservice-1", "enabled": true,
            "services": [{"port": 80, "port_range_end": 80}, {"port": 8000, "port_range_end": 8010}],
            "vip": [{"vip_id": "1", "ip_address": {"addr": "203.0.113.10", "type": "V4"}}],
            "pool_ref": "https://c/api/pool/pool-1#web"},
        "pools": ["https://c/api/pool/pool-1#web"],
        "runtime": {
            "oper_status": {"state": "OPER_UP", "reason": []},
            "vip_summary": [{"vip_id": "1", "num_se_assigned": 2, "num_se_requested": 3,
                "service_engine": [{"name": "se-1", "oper_status": {"state": "OPER_UP"}},
                    {"name": "se-2", "oper_status": {"state": "OPER_DOWN", "reason": ["No server of the pool is up."]}}]}]}
    })
}

fn pool_inventory() -> Value {
    json!({"config": {"name": "web", "uuid": "pool-1", "lb_algorithm": "LB_ALGORITHM_ROUND_ROBIN"},
        "runtime": {"oper_status": {"state": "OPER_UP"}, "num_servers": 3, "num_servers_enabled": 3, "num_servers_up": 2}})
}

#[test]
fn virtual_services_show_what_is_assigned_and_what_was_asked_for() {
    let rows = virtualservice::rows(&[vs_inventory()], &[pool_inventory()]);
    assert_table(
        &render(&rows, Format::Table, None),
        &[
            "NAME  VIP           PORT          STATE    SE ASSIGNED  SERVICE ENGINES       SERVERS UP  REASON",
            "vs-1  203.0.113.10  80 8000-8010  OPER_UP  2/3          se-1 se-2(OPER_DOWN)  2/3         -",
        ],
    );
    let value = serde_json::to_value(&rows).unwrap();
    assert_eq!(
        value[0]["service_engines"][1]["reason"],
        "No server of the pool is up."
    );
}

#[test]
fn a_virtual_service_with_a_pool_group_shows_the_servers_of_all_its_pools() {
    let mut item = vs_inventory();
    let config = item["config"].as_object_mut().unwrap();
    config.remove("pool_ref");
    config.insert(
        "pool_group_ref".into(),
        json!("https://c/api/poolgroup/poolgroup-1#both"),
    );
    item["pools"] = json!(["https://c/api/pool/pool-1#web", "https://c/api/pool/pool-2"]);
    let mut other = pool_inventory();
    other["config"]["uuid"] = json!("pool-2");
    let rows = virtualservice::rows(&[item], &[pool_inventory(), other]);
    let row = serde_json::to_value(&rows[0]).unwrap();
    let shown = [&row["pool"], &row["num_servers"], &row["num_servers_up"]];
    assert_eq!(shown, [&json!("both"), &json!(6), &json!(4)]);
}

#[test]
fn a_udp_port_and_an_engine_that_takes_no_more_flows_are_named() {
    let mut item = vs_inventory();
    item["runtime"]["service_protocols"] = json!(["udp", "tcp"]);
    item["runtime"]["vip_summary"][0]["service_engine"][0]["udp"] =
        json!({"flows": 16384, "full": 7});
    let rows = virtualservice::rows(&[item], &[pool_inventory()]);
    let table = render(&rows, Format::Table, None);
    assert!(table.contains("80/udp 8000-8010 "), "{table}");
    let full = "se-1: 7 datagrams of new UDP clients dropped, for want of room";
    assert!(table.contains(full), "{table}");
    let value = serde_json::to_value(&rows).unwrap();
    assert_eq!(value[0]["service_engines"][0]["udp"]["flows"], 16384);
}

#[test]
fn an_engine_that_was_scaled_in_shows_what_it_has_left() {
    let mut item = vs_inventory();
    item["runtime"]["vip_summary"][0]["lingering_service_engine"] = json!([{"name": "se-3", "flows": 312,
        "oldest_s": 250, "scalein_in_progress": true, "reason": "312 flows left, oldest 4 min"}]);
    let rows = virtualservice::rows(&[item], &[pool_inventory()]);
    let table = render(&rows, Format::Table, None);
    let left = "se-3 leaves: 312 flows left, oldest 4 min";
    assert!(table.contains(left), "{table}");
    let value = serde_json::to_value(&rows).unwrap();
    assert_eq!(value[0]["lingering"][0]["flows"], 312);
}

#[test]
fn engines_of_several_vips_are_shown_once_and_a_vip_that_is_otherwise_is_named() {
    let mut item = vs_inventory();
    let mut second = item["runtime"]["vip_summary"][0].clone();
    second["vip_id"] = json!("2");
    let oper = json!({"state": "OPER_DISABLED", "reason": ["The VIP is disabled."]});
    for engine in second["service_engine"].as_array_mut().unwrap() {
        engine["oper_status"] = oper.clone();
    }
    second["oper_status"] = oper;
    let vips = &mut item["runtime"]["vip_summary"];
    vips[0]["oper_status"] = json!({"state": "OPER_UP"});
    vips[0]["vip_placement_resolution_info"] = json!("se-1 has room");
    second["vip_placement_resolution_info"] = json!("se-1 has room");
    vips.as_array_mut().unwrap().push(second);
    let rows = virtualservice::rows(&[item], &[pool_inventory()]);
    let value = serde_json::to_value(&rows).unwrap();
    assert_eq!(value[0]["num_se_requested"], 3);
    assert_eq!(value[0]["placement"], "se-1 has room");
    let engines = value[0]["service_engines"].as_array().unwrap();
    let states: Vec<&Value> = engines.iter().map(|se| &se["state"]).collect();
    assert_eq!(states, ["OPER_UP", "OPER_DOWN"]);
    let table = render(&rows, Format::Table, None);
    assert!(
        table.contains("VIP 2 is OPER_DISABLED: The VIP is disabled."),
        "{table}"
    );
}

#[test]
fn an_engine_that_cannot_reach_another_says_so() {
    let mut item = vs_inventory();
    let problems = json!([{"vip": "fd00::1", "se_name": "se-2", "reason_code": "no_tunnel_path", "reason": "se-2 has no IPv6 address"}]);
    item["runtime"]["vip_summary"][0]["service_engine"][0]["member_problems"] = problems;
    let rows = virtualservice::rows(&[item], &[pool_inventory()]);
    let table = render(&rows, Format::Table, None);
    assert!(table.contains("se-1: se-2 has no IPv6 address"), "{table}");
}

#[test]
fn what_the_load_asks_for_is_shown_and_said_to_be_a_recommendation_where_nobody_does_it() {
    let mut item = vs_inventory();
    let vip = "/runtime/vip_summary/0";
    let shown = |item: &Value| {
        let rows = virtualservice::rows(std::slice::from_ref(item), &[pool_inventory()]);
        render(&rows, Format::Wide, None)
    };
    for (auto_rebalance, action, expected) in [
        (false, "SCALE_OUT", "SCALE_OUT recommended: 90 of 100"),
        (true, "SCALE_OUT", "SCALE_OUT: 90 of 100"),
        (false, "NONE", "NONE: 90 of 100"),
    ] {
        item.pointer_mut(vip).unwrap()["autoscale"] =
            json!({"auto_rebalance": auto_rebalance, "action": action, "reason": "90 of 100"});
        let table = shown(&item);
        assert!(table.contains(expected), "{table}");
    }
    let value = serde_json::to_value(virtualservice::rows(&[item], &[])).unwrap();
    assert_eq!(value[0]["autoscale"]["action"], "NONE");
}

#[test]
fn virtual_service_without_runtime_or_pool_is_shown_with_what_is_known() {
    let rows = virtualservice::rows(
        &[json!({"config": {"name": "vs-2", "uuid": "virtualservice-2"}})],
        &[pool_inventory()],
    );
    let value = serde_json::to_value(&rows).unwrap();
    assert_eq!(
        (&value[0]["pool"], &value[0]["num_se_assigned"]),
        (&Value::Null, &json!(0))
    );
}

#[test]
fn sessions_show_desired_and_sent_routes_apart() {
    let session = json!({"se_name": "se-1", "se_uuid": "serviceengine-1", "vrf": "global", "peer": "10.10.10.1",
        "local_address": "10.10.10.11", "interface": "eth1", "state": "CONNECT", "state_since_unix_ms": 1_000_000,
        "local_as": 65001, "remote_as": 65000, "hold_time_s": 0, "last_error": "connection refused",
        "routes": [{"prefix": "203.0.113.10/32", "next_hop": "", "sent": false, "reason": "session_down", "sent_unix_ms": 0}]});
    let rows = bgp::rows(vec![session], 1_065_000);
    assert_table(
        &render(&rows, Format::Table, None),
        &[
            "SE    PEER        LOCAL        INTERFACE  STATE    SINCE  DESIRED  SENT  BFD  LAST ERROR",
            "se-1  10.10.10.1  10.10.10.11  eth1       CONNECT  1m05s  1        0     -    connection refused",
        ],
    );
    assert_table(
        &render(&bgp::routes(&rows), Format::Table, None),
        &[
            "SE    PEER        SESSION  PREFIX           NEXT HOP  SENT  REASON",
            "se-1  10.10.10.1  CONNECT  203.0.113.10/32  -         no    session_down",
        ],
    );
}

#[test]
fn sessions_in_json_have_all_that_the_api_has() {
    let session = json!({"se_name": "se-1", "peer": "10.0.0.1", "state_since_unix_ms": 1000, "capabilities": ["route refresh"],
        "connect_timer_s": 10, "last_error_code": "4/0", "updates_out": 7, "md5": true, "tcp_ao": "unsupported",
        "routes": [{"prefix": "192.0.2.1/32", "sent": true}]});
    let mut expected = session.clone();
    expected["state_age_ms"] = json!(500);
    expected["routes_desired"] = json!(1);
    expected["routes_sent"] = json!(1);
    let rows = bgp::rows(vec![session], 1500);
    assert_eq!(serde_json::to_value(&rows).unwrap(), json!([expected]));
}

#[test]
fn engines_show_state_reason_and_addresses() {
    let item = json!({"config": {"name": "se-1", "uuid": "serviceengine-1",
            "se_group_ref": "https://c/api/serviceenginegroup/serviceenginegroup-1#Default-Group",
            "virtualservice_refs": ["https://c/api/virtualservice/virtualservice-1#vs-1"],
            "data_vnics": [{"if_name": "eth1", "vnic_networks": [{"ip": {"ip_addr": {"addr": "10.10.10.11", "type": "V4"}, "mask": 24}}]}]},
        "runtime": {"oper_status": {"state": "OPER_DOWN", "reason": ["no contact since 3 s"]}, "se_connected": false}});
    assert_table(
        &render(&serviceengine::rows(&[item], &[]), Format::Table, None),
        &[
            "NAME  STATE      CONNECTED  VIRTUAL SERVICES  BGP UP  ADDRESSES       REASON",
            "se-1  OPER_DOWN  no         vs-1              -       10.10.10.11/24  no contact since 3 s",
        ],
    );
}

#[test]
fn pools_show_servers_up() {
    assert_table(
        &render(&pool::rows(&[pool_inventory()]), Format::Table, None),
        &[
            "NAME  STATE    SERVERS UP  ENABLED  VIRTUAL SERVICES  REASON",
            "web   OPER_UP  2/3         3/3      -                 -",
        ],
    );
}

#[test]
fn naming_one_that_is_not_there_lists_those_that_are() {
    let rows = pool::rows(&[pool_inventory()]);
    let filter = Filter {
        name: Some("wbe".into()),
    };
    let error = filter
        .pick(rows, |row| [row.name.clone(), row.uuid.clone()])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is none named \"wbe\"; there are: web"
    );
}

#[test]
fn ages_have_two_units_at_most() {
    let shown = [59_999, 60_000, 3_725_000, 90_000_000].map(age);
    assert_eq!(shown, ["59s", "1m00s", "1h02m", "1d01h"]);
}

#[test]
fn engine_counts_its_own_sessions_and_shows_generation_and_memory_in_wide() {
    let item = json!({"config": {"name": "se-1", "uuid": "serviceengine-1"},
        "runtime": {"oper_status": {"state": "OPER_UP"}, "se_connected": true, "generation_desired": 7,
            "generation_in_force": 6, "rss_bytes": 20_971_520, "uptime_s": 61, "open_connections": 3}});
    let session = |se: &str, state: &str| json!({"se_uuid": se, "state": state});
    let sessions = [
        session("serviceengine-1", "ESTABLISHED"),
        session("serviceengine-1", "ACTIVE"),
        session("serviceengine-2", "ESTABLISHED"),
    ];
    let text = render(&serviceengine::rows(&[item], &sessions), Format::Wide, None);
    for part in ["1/2", "6 of 7", "20 MiB", "1m01s"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn a_neighbor_shows_why_it_is_not_established_and_what_is_withheld() {
    let session = json!({"se_name": "se-1", "peer": "10.0.0.1", "vrf": "global", "state": "ACTIVE",
        "state_since_unix_ms": 1000, "condition": "md5_accepted", "condition_text": "the keys differ", "md5": true,
        "md5_failures": 3, "ttl": 255, "tcp_ao": "unsupported", "routes": [{"prefix": "192.0.2.1/32", "sent": false, "reason": "session_not_established"}]});
    let text = neighbor::describe(&[session], 61_000);
    for expected in [
        "se-1 > 10.0.0.1 (VRF global)",
        "  State            ACTIVE since 1m00s",
        "  Not established  md5_accepted: the keys differ",
        "  Transport        we open, TTL 255, any TTL accepted, MD5 key set, 3 segments refused on this host",
        "  TCP-AO           unsupported; md5_secret signs segments (RFC 2385)",
        "  Routes           1 desired, 0 sent",
        "  Withheld         192.0.2.1/32: session_not_established",
    ] {
        assert!(
            text.lines().any(|line| line == expected),
            "{expected:?} in {text}"
        );
    }
}

#[test]
fn a_bfd_session_that_cannot_be_started_says_why() {
    let session = json!({"se_name": "se-1", "peer": "10.0.0.1", "local_address": "10.0.0.11", "state": "down",
        "state_since_unix_ms": 0, "problem": "Address already in use", "diagnostic": "",
        "engine": {"scheduling": "real_time", "discards": {"no_session": 3}, "kernel_drops": 0}});
    let shown = render(&bfd::rows(vec![session], 3000), Format::Table, None);
    assert!(shown.contains("Address already in use"), "{shown}");
}

#[test]
fn bfd_sessions_show_intervals_in_milliseconds() {
    let session = json!({"se_name": "se-1", "peer": "10.0.0.1", "local_address": "10.0.0.11", "state": "up",
        "state_since_unix_ms": 1000, "remote_state": "up", "transmit_interval_us": 50_000, "detection_time_us": 150_500,
        "times_down": 2, "diagnostic": "none"});
    assert_table(
        &render(&bfd::rows(vec![session], 3000), Format::Table, None),
        &[
            "SE    PEER      LOCAL      STATE  SINCE  PEER STATE  TX      DETECTION  TIMES DOWN  DIAGNOSTIC",
            "se-1  10.0.0.1  10.0.0.11  up     2s     up          50.0ms  150.5ms    2           none",
        ],
    );
}
