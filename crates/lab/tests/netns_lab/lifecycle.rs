//! The lab itself: what it builds, that it leaves nothing, and that a crash is cleaned up after.
//!
//! BIRD stands in for engines, so that these tests fail for the lab's own mistakes only.

use crate::support::{Lab, binary, can_run, lab_ok, traces, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::process::{Command, Stdio};
use std::{env, fs};

const STANDIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/netns_lab/standin");

/// Processes in the namespaces of a lab.
fn processes(id: &str) -> Vec<i32> {
    let namespaces = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = namespaces
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| n.starts_with(&format!("ek{id}-")));
    let pids = names.flat_map(|name| {
        let output = Command::new("ip")
            .args(["netns", "pids", &name])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .filter_map(|l| l.trim().parse().ok())
            .collect::<Vec<i32>>()
    });
    pids.collect()
}

fn next_hops(id: &str) -> Vec<String> {
    let status: Value =
        serde_json::from_str(&lab_ok(&["status", "--run", id, "-o", "json"])).unwrap();
    serde_json::from_value(status["routes"][0]["next_hops"].clone()).unwrap()
}

fn await_next_hops(id: &str, wanted: &[&str]) {
    wait_for("next hops in the router's kernel", || {
        let seen = next_hops(id);
        if seen == wanted {
            Ok(())
        } else {
            Err(format!("{seen:?} instead of {wanted:?}"))
        }
    });
}

#[test]
fn up_and_down_leave_nothing() {
    if !can_run() {
        return;
    }
    let before = traces();
    let lab = Lab::new("tlv");
    lab_ok(&["up", "--bare", "--run", lab.0]);
    assert!(
        traces().iter().any(|t| t.ends_with("ektlv-router")),
        "{:?}",
        traces()
    );
    lab_ok(&["down", "--run", lab.0]);
    assert_eq!(traces(), before);
}

#[test]
fn members_have_directories_of_their_own_and_the_network_of_the_topology() {
    if !can_run() {
        return;
    }
    let lab = Lab::new("tnet");
    lab_ok(&["up", "--bare", "--run", lab.0]);
    let shown = lab_ok(&[
        "exec", "--run", lab.0, "router", "ip", "-br", "-4", "address", "show", "vlan10",
    ]);
    assert!(shown.contains("10.10.10.1/24"), "{shown}");
    let fields = lab_ok(&[
        "exec",
        "--run",
        lab.0,
        "router",
        "sysctl",
        "-n",
        "net.ipv4.fib_multipath_hash_fields",
    ]);
    assert_eq!(fields.trim(), "55", "0x37");
    let offload = lab_ok(&["exec", "--run", lab.0, "se-1", "ethtool", "-k", "eth0"]);
    assert!(offload.contains("tx-checksumming: off"), "{offload}");
    for node in ["router", "server-1", "server-2"] {
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(format!("/run/evenkeel/lab/tnet/{node}"))
                .unwrap()
                .permissions(),
        );
        assert_eq!(mode & 0o077, 0, "{node}");
    }
}

#[test]
fn the_routers_kernel_follows_what_speakers_announce_and_withdraw() {
    if !can_run() {
        return;
    }
    let lab = Lab::new("tfib");
    lab_ok(&["up", STANDIN, "--run", lab.0]);
    await_next_hops(lab.0, &["10.10.10.11", "10.10.10.12"]);
    let record: Value =
        serde_json::from_str(&fs::read_to_string("/run/evenkeel/lab/tfib.json").unwrap()).unwrap();
    let bird = record["processes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|p| p["node"] == "se-2")
        .unwrap();
    let pid = i32::try_from(bird["pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    await_next_hops(lab.0, &["10.10.10.11"]);
}

#[test]
fn a_killed_lab_is_cleaned_up_by_the_next_one_of_its_name() {
    if !can_run() {
        return;
    }
    let before = traces();
    let lab = Lab::new("tkil");
    kill_while_it_builds(lab.0);
    lab_ok(&["up", "--bare", "--run", lab.0]);
    lab_ok(&["down", "--run", lab.0]);
    assert_eq!(traces(), before);
}

#[test]
fn down_finds_everything_by_prefix_when_the_record_is_gone() {
    if !can_run() {
        return;
    }
    let before = traces();
    let lab = Lab::new("tgon");
    lab_ok(&["up", STANDIN, "--run", lab.0]);
    fs::remove_file("/run/evenkeel/lab/tgon.json").unwrap();
    let pids = processes(lab.0);
    assert!(pids.len() >= 4, "{pids:?}");
    lab_ok(&["down", "--run", lab.0]);
    assert_eq!(traces(), before);
    for pid in pids {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z"), "{state}");
    }
}

#[test]
fn down_all_removes_what_a_killed_lab_left() {
    if !can_run() {
        return;
    }
    let others: Vec<_> = traces()
        .into_iter()
        .filter(|t| t.contains("/run/evenkeel/lab"))
        .collect();
    if !others.is_empty() {
        assert!(
            env::var_os("CI").is_none(),
            "CI must not run beside other labs: {others:?}"
        );
        return eprintln!("SKIPPED: it would take down labs that are up: {others:?}");
    }
    let before = traces();
    let lab = Lab::new("tall");
    kill_while_it_builds(lab.0);
    lab_ok(&["down", "--all"]);
    assert_eq!(traces(), before);
}

/// Sends SIGKILL to `lab up` when the first namespaces are there and the daemons are about to start.
fn kill_while_it_builds(id: &str) {
    let mut up = Command::new(binary())
        .args(["lab", "up", "--bare", "--run", id])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("a first process in the lab", || {
        if processes(id).is_empty() {
            Err("none".to_owned())
        } else {
            Ok(())
        }
    });
    up.kill().unwrap();
    up.wait().unwrap();
    assert!(fs::exists(format!("/run/evenkeel/lab/{id}.json")).unwrap());
}
