//! Engines that are lost, cut off, drained or standing by, as a router and clients see it.

use crate::support::{
    Lab, apply, can_run, connect, evenkeel, idle_connections, lab_ok, service, wait_for,
    wait_for_state,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn exec(id: &Lab, node: &str, command: &[&str]) -> String {
    lab_ok(&[&["exec", "--run", id.0, node], command].concat())
}

/// Until the router's route to the VIP goes by exactly these engines.
fn wait_for_engines(id: &Lab, engines: &[u8]) {
    wait_for(&format!("the route goes by {engines:?}"), || {
        let seen = exec(id, "router", &["ip", "route", "show", "10.100.0.1"]);
        let has = |n: u8| {
            let hop = format!("via 10.10.10.1{n} ");
            seen.contains(&hop)
        };
        let right = (1..=5).all(|n| has(n) == engines.contains(&n));
        if right { Ok(()) } else { Err(seen) }
    });
}

/// Names of the engines that the virtual service is placed on.
fn placed(id: &Lab) -> Vec<String> {
    let shown = service(id, "vs-1");
    let engines = shown["service_engines"].as_array().cloned();
    let name = |e: &Value| e["name"].as_str().unwrap_or_default().to_owned();
    engines.unwrap_or_default().iter().map(name).collect()
}

fn wait_for_placement(id: &Lab, engines: &[&str]) {
    wait_for(&format!("placed on {engines:?}"), || {
        let seen = placed(id);
        if seen == engines {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    });
}

/// Why an engine is not up.
fn reason(id: &Lab, engine: &str) -> String {
    let shown = evenkeel(id, &["show", "serviceengine", engine, "-o", "json"], "");
    let all: Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
    let one = all.as_array().and_then(|a| a.first()).unwrap_or(&all);
    one["reason"].as_str().unwrap_or_default().to_owned()
}

fn kill_engine(id: &Lab, name: &str) {
    let status: Value =
        serde_json::from_str(&lab_ok(&["status", "--run", id.0, "-o", "json"])).unwrap();
    let processes = status["processes"].as_array().unwrap().iter();
    let mut own = processes.filter(|p| p["node"] == name && p["process"] == "engine");
    let pid = own.next().expect("it runs")["pid"].as_i64().unwrap();
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
}

fn operate(id: &Lab, command: &[&str]) {
    let done = evenkeel(id, command, "");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{command:?}: {said}");
}

#[test]
fn the_vip_of_an_engine_that_dies_goes_to_another_and_one_that_is_cut_off_keeps_its_own() {
    if !can_run() {
        return;
    }
    let id = Lab::new("tlos");
    lab_ok(&["up", "ecmp-5se", "--run", id.0]);
    wait_for_state(&id, "vs-1", "OPER_UP");
    exec(&id, "se-1", &["ip", "link", "set", "mgmt0", "down"]);
    wait_for("the others reach it", || {
        let seen = reason(&id, "se-1");
        if seen.contains("cut off from the controller") {
            Ok(())
        } else {
            Err(seen)
        }
    });
    assert_eq!(placed(&id), ["se-1"]);
    wait_for_engines(&id, &[1]);
    assert_eq!(connect(&id, "10.100.0.1", 80), "");
    exec(&id, "se-1", &["ip", "link", "set", "mgmt0", "up"]);
    wait_for_state(&id, "vs-1", "OPER_UP");
    kill_engine(&id, "se-1");
    wait_for_placement(&id, &["se-2"]);
    wait_for_engines(&id, &[2]);
    wait_for_state(&id, "vs-1", "OPER_UP");
    assert_eq!(connect(&id, "10.100.0.1", 80), "");
    let why = reason(&id, "se-1");
    assert!(why.contains("it answers no other engine"), "{why}");
}

#[test]
fn a_vip_moves_from_engine_to_engine_and_its_connections_stay_where_they_are() {
    if !can_run() {
        return;
    }
    let id = Lab::new("tmig");
    lab_ok(&["up", "ecmp-5se", "--run", id.0]);
    wait_for_state(&id, "vs-1", "OPER_UP");
    let open = idle_connections(&id, "10.100.0.1", 80, 20);
    let held = |n: u8| {
        let address = format!("10.20.20.1{n}");
        let list = ["ss", "-Htn", "state", "established", "dst", &address];
        let servers = ["server-1", "server-2", "server-3"];
        let counts = servers.map(|s| exec(&id, s, &list).lines().count());
        counts.iter().sum::<usize>()
    };
    wait_for("all connections", || match held(1) {
        20.. => Ok(()),
        seen => Err(seen.to_string()),
    });
    operate(&id, &["migrate", "vs", "vs-1", "--to-se", "se-3", "--wait"]);
    assert_eq!(placed(&id), ["se-3"]);
    wait_for_engines(&id, &[3]);
    apply(
        &id,
        "serviceengine: [{name: se-3, enable_state: SE_STATE_DISABLED}]",
    );
    wait_for_placement(&id, &["se-1"]);
    wait_for_engines(&id, &[1]);
    assert_eq!(held(1), 20, "none was cut");
    drop(open);
}

#[test]
fn a_standby_announces_a_worse_route_and_takes_over_with_and_without_a_controller() {
    if !can_run() {
        return;
    }
    let id = Lab::new("tstb");
    lab_ok(&["up", "ecmp-5se", "--run", id.0]);
    wait_for_state(&id, "vs-1", "OPER_UP");
    apply(
        &id,
        "serviceenginegroup: [{name: Default-Group, ha_mode: HA_MODE_LEGACY_ACTIVE_STANDBY}]",
    );
    wait_for_placement(&id, &["se-1", "se-2"]);
    wait_for("the router knows both", || {
        let known = exec(
            &id,
            "router",
            &["vtysh", "-c", "show bgp ipv4 unicast 10.100.0.1/32"],
        );
        let both = ["10.10.10.11", "10.10.10.12"]
            .iter()
            .all(|hop| known.contains(hop));
        if both { Ok(()) } else { Err(known) }
    });
    wait_for_engines(&id, &[1]);
    operate(&id, &["switchover", "vs", "vs-1"]);
    wait_for_engines(&id, &[2]);
    assert_eq!(connect(&id, "10.100.0.1", 80), "");
    kill_engine(&id, "se-2");
    wait_for_engines(&id, &[1]);
    assert_eq!(
        placed(&id),
        ["se-2", "se-1"],
        "the router has not asked the controller"
    );
    // Its place is taken by one that was no member of the pair.
    wait_for_placement(&id, &["se-1", "se-3"]);
    assert_eq!(connect(&id, "10.100.0.1", 80), "");
}
