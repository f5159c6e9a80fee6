//! The whole product in a lab: what an operator does, and what the router and the client then see.

use crate::support::{
    Lab, apply, can_run, connect, evenkeel, idle_connections, lab_ok, service, wait_for,
    wait_for_state,
};
use serde_json::Value;

/// The VIP's route in the router's kernel.
fn route(id: &Lab) -> String {
    lab_ok(&[
        "exec",
        "--run",
        id.0,
        "router",
        "ip",
        "route",
        "show",
        "10.100.0.1",
    ])
}

const SECOND_SERVICE: &str = "
pool:
  - {name: empty, default_server_port: 80, servers: []}
virtualservice:
  - name: vs-2
    enable_rhi: true
    services: [{port: 81}]
    vsvip_ref: vip-1
    pool_ref: empty
    application_profile_ref: System-L4-Application
    network_profile_ref: System-TCP-Proxy
";

#[test]
fn services_that_share_a_vip_stand_together_and_a_port_that_is_down_answers_rst() {
    if !can_run() {
        return;
    }
    let id = Lab::new("tvip");
    lab_ok(&["up", "ecmp-5se", "--run", id.0]);
    wait_for_state(&id, "vs-1", "OPER_UP");
    apply(&id, SECOND_SERVICE);
    let down = wait_for_state(&id, "vs-2", "OPER_DOWN");
    assert_eq!(down["reason"], "No server of the pool is up.", "{down}");
    let engines = |vs: &Value| vs["service_engines"][0]["name"].clone();
    assert_eq!(
        engines(&down),
        engines(&service(&id, "vs-1")),
        "placed together"
    );
    assert!(
        route(&id).contains("via 10.10.10.11"),
        "the route stands for vs-1"
    );
    assert_eq!(connect(&id, "10.100.0.1", 80), "");
    let refused = connect(&id, "10.100.0.1", 81);
    assert!(refused.contains("Connection refused"), "{refused}");

    apply(
        &id,
        "virtualservice: [{name: vs-1, enabled: false, enable_rhi: true, services: [{port: 80}], vsvip_ref: vip-1, pool_ref: pool-1}]",
    );
    wait_for("the route is gone", || {
        let seen = route(&id);
        if seen.is_empty() { Ok(()) } else { Err(seen) }
    });
    assert_eq!(
        wait_for_state(&id, "vs-1", "OPER_DISABLED")["enabled"],
        false
    );
}

const OTHER_VRF: &str = "
vrfcontext:
  - name: other
vsvip:
  - {name: vip-other, vrf_context_ref: other, vip: [{vip_id: '1', ip_address: 10.100.0.9}]}
pool:
  - {name: pool-other, vrf_ref: other}
virtualservice:
  - {name: vs-other, vrf_context_ref: other, vsvip_ref: vip-other, pool_ref: pool-other, services: [{port: 80}]}
";

#[test]
fn a_service_of_another_vrf_is_not_placed_and_says_so() {
    if !can_run() {
        return;
    }
    let id = Lab::new("tvrf");
    lab_ok(&["up", "ecmp-5se", "--run", id.0]);
    apply(&id, OTHER_VRF);
    let seen = wait_for_state(&id, "vs-other", "OPER_RESOURCES");
    let reason = seen["reason"].as_str().unwrap();
    assert!(
        reason.contains("se-1: its interfaces are in another VRF"),
        "{reason}"
    );
}

#[test]
fn scale_out_beyond_the_maximum_is_refused_with_the_numbers() {
    if !can_run() {
        return;
    }
    let id = Lab::new("tmax");
    lab_ok(&["up", "ecmp-5se", "--run", id.0]);
    apply(
        &id,
        "serviceenginegroup: [{name: Default-Group, max_scaleout_per_vs: 1}]",
    );
    let output = evenkeel(&id, &["scaleout", "virtualservice", "vs-1"], "");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("on 1 service engines already") && text.contains("is 1"),
        "{text}"
    );
}

/// `clear bgp`: the router is told why, and has the route again.
#[test]
fn a_cleared_session_ends_with_administrative_reset_and_comes_back() {
    if !can_run() {
        return;
    }
    let id = Lab::new("tclr");
    lab_ok(&["up", "ecmp-5se", "--run", id.0]);
    wait_for_state(&id, "vs-1", "OPER_UP");
    wait_for("the route", || match route(&id) {
        seen if seen.contains("via") => Ok(()),
        seen => Err(seen),
    });
    let unknown = evenkeel(&id, &["clear", "bgp", "10.10.10.250", "--se", "se-1"], "");
    let error = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(
        error.contains("peer_ip") && error.contains("its peers are: 10.10.10.1"),
        "{error}"
    );
    let cleared = evenkeel(&id, &["clear", "bgp", "10.10.10.1", "-o", "json"], "");
    let told: Value = serde_json::from_slice(&cleared.stdout).unwrap();
    assert_eq!(told[0]["se_name"], "se-1", "{told}");
    wait_for("the router to be told", || {
        let path = format!("/run/evenkeel/lab/{}/router/bgpd.log", id.0);
        let log = std::fs::read_to_string(path).unwrap_or_default();
        match log.contains("6/4 (Cease/Administrative Reset)") {
            true => Ok(()),
            false => Err(log),
        }
    });
    wait_for("a new session with the route", || {
        let shown = evenkeel(&id, &["show", "bgp", "se-1", "-o", "json"], "");
        let sessions: Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
        let sent = sessions[0]["routes_sent"] == 1;
        match sent && route(&id).contains("via") {
            true => Ok(()),
            false => Err(sessions.to_string()),
        }
    });
}

fn scale(id: &Lab, arguments: &[&str]) -> Result<Value, String> {
    let output = evenkeel(id, &[arguments, &["-o", "json"]].concat(), "");
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The VIP's addresses on an engine's `lo`.
fn on_lo(id: &Lab, engine: &str) -> bool {
    let shown = lab_ok(&["exec", "--run", id.0, engine, "ip", "addr", "show", "lo"]);
    shown.contains("10.100.0.1")
}

#[test]
fn an_engine_that_was_scaled_in_keeps_its_flows_and_says_how_many() {
    if !can_run() {
        return;
    }
    let id = Lab::new("tlng");
    lab_ok(&["up", "ecmp-5se", "--run", id.0]);
    wait_for_state(&id, "vs-1", "OPER_UP");
    let out = ["scaleout", "vs", "vs-1", "--to-se", "se-2", "--wait"];
    scale(&id, &out).unwrap();
    let second_hop = |wanted: bool| {
        wait_for("the route of se-2", || match route(&id) {
            seen if seen.contains("10.10.10.12") == wanted => Ok(()),
            seen => Err(seen),
        });
    };
    second_hop(true);
    let _idle = idle_connections(&id, "10.100.0.1", 80, 40);
    let flows = |name: &str| {
        let list = ["ss", "-Htn", "state", "established", "src", "10.100.0.1"];
        let shown = lab_ok(&[&["exec", "--run", id.0, name], &list[..]].concat());
        shown.lines().count()
    };
    wait_for("all connections", || match flows("se-1") + flows("se-2") {
        40 => Ok(()),
        seen => Err(format!("{seen} of 40")),
    });
    let there = flows("se-2");
    let in_ = ["scalein", "vs", "vs-1", "--from-se", "se-2"];
    scale(&id, &in_).unwrap();
    second_hop(false);
    let left = wait_for("what is left", || {
        let seen = service(&id, "vs-1");
        match seen["lingering"][0]["flows"] == there {
            true => Ok(seen["lingering"][0].clone()),
            false => Err(seen.to_string()),
        }
    });
    let words = format!("{there} flows left");
    assert!(
        left["reason"].as_str().unwrap().starts_with(&words),
        "{left}"
    );
    assert!(on_lo(&id, "se-2"));
    assert_eq!(flows("se-2"), there, "none was cut");
    let again = scale(&id, &in_).unwrap_err();
    assert!(again.contains("se-2 was scaled in already"), "{again}");
    let forced = scale(&id, &[&in_[..], &["--force"]].concat()).unwrap();
    assert_eq!(forced["flows_cut"], there, "{forced}");
    wait_for("se-2 to be out", || match on_lo(&id, "se-2") {
        false if service(&id, "vs-1")["lingering"][0].is_null() => Ok(()),
        _ => Err(service(&id, "vs-1").to_string()),
    });
    assert_eq!(flows("se-2"), 0);
}
