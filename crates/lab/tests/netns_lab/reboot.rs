//! An engine that is told to start anew does so in its place: nobody else has to start it.

use crate::support::{Lab, can_run, evenkeel, lab_ok, wait_for, wait_for_state};
use serde_json::Value;
use std::fs;

/// The engine's process, as the lab started it.
fn process(id: &Lab) -> String {
    let record = fs::read_to_string(format!("/run/evenkeel/lab/{}.json", id.0)).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    let processes = record["processes"].as_array().unwrap().iter();
    let mut engines = processes.filter(|p| p["node"] == "se-1" && p["name"] == "engine");
    engines.next().unwrap()["pid"].to_string()
}

fn log(id: &Lab) -> String {
    let path = format!("/run/evenkeel/lab/{}/se-1/engine.out", id.0);
    fs::read_to_string(path).unwrap()
}

/// How the process was started, with its arguments.
fn command_line(pid: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

fn wait_for_route(id: &Lab) {
    let show = ["exec", "--run", id.0, "router", "ip", "route", "show"];
    wait_for("the route", || {
        match lab_ok(&[&show[..], &["10.100.0.1"]].concat()) {
            seen if seen.contains("via 10.10.10.11") => Ok(()),
            seen => Err(seen),
        }
    });
}

#[test]
fn an_engine_that_is_rebooted_stops_in_order_and_serves_again_as_the_same_process() {
    if !can_run() {
        return;
    }
    let id = Lab::new("trbt");
    lab_ok(&["up", "ecmp-5se", "--run", id.0]);
    wait_for_state(&id, "vs-1", "OPER_UP");
    wait_for_route(&id);
    let pid = process(&id);
    let before = command_line(&pid);
    assert!(before.contains("engine\0--name\0se-1"), "{before:?}");
    assert_eq!(log(&id).matches("engine started").count(), 1);

    let told = evenkeel(&id, &["reboot", "serviceengine", "se-1"], "");
    let errors = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.status.success(), "{errors}");
    wait_for("the engine to start again", || {
        let log = log(&id);
        match log.matches("engine started").count() {
            2 => Ok(()),
            _ => Err(log),
        }
    });
    let log = log(&id);
    let (_, after) = log
        .split_once("the controller asks for a start anew")
        .unwrap();
    let (stop, _) = after.split_once("engine started").unwrap();
    assert!(stop.contains("withdrawing routes"), "{log}");
    assert!(stop.contains("stopped"), "it stopped in order: {log}");
    assert_eq!(command_line(&pid), before, "the same process");
    wait_for_state(&id, "vs-1", "OPER_UP");
    wait_for_route(&id);
}
