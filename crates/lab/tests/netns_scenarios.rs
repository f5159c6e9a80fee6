//! The scenarios of the document's network, against real routers, with the whole product.
//!
//! They need root and FRR; they skip loudly where they cannot run, and fail for that in CI.

#![allow(
    clippy::disallowed_macros, // figures and skips go to the test runner
    clippy::print_stderr, // likewise
    clippy::unwrap_used, // a panic is how a test fails, in helpers too
)]

use serde_json::Value;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn can_run() -> bool {
    let why = if !nix::unistd::geteuid().is_root() {
        "needs root: it makes network namespaces"
    } else if !Path::new("/usr/lib/frr/bgpd").exists() {
        "/usr/lib/frr/bgpd is missing: install frr"
    } else {
        return true;
    };
    assert!(
        env::var_os("CI").is_none(),
        "CI must run the namespace tests: {why}"
    );
    eprintln!("SKIPPED: {why}");
    false
}

/// `evenkeel` beside the folder of this test, or the one that `EVENKEEL_BIN` names.
fn binary() -> PathBuf {
    let beside = env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("evenkeel");
    let path = env::var_os("EVENKEEL_BIN").map_or(beside, PathBuf::from);
    assert!(
        path.exists(),
        "{} is missing: cargo build --release --bin evenkeel",
        path.display()
    );
    path
}

/// Takes the lab down also when the test fails.
struct Lab(&'static str);

impl Drop for Lab {
    fn drop(&mut self) {
        Command::new(binary())
            .args(["lab", "down", "--run", self.0])
            .output()
            .unwrap();
    }
}

/// Runs a scenario in a lab of its own; the result, when everything held.
fn run(scenario: &str, lab: &Lab) -> Value {
    let output = Command::new(binary())
        .args([
            "lab", "run", scenario, "--fresh", "--run", lab.0, "-o", "json",
        ])
        .output()
        .unwrap();
    let progress = String::from_utf8_lossy(&output.stderr);
    eprintln!("{progress}");
    assert!(output.status.success(), "{scenario} does not hold");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_virtual_service_scales_over_a_real_router_under_traffic() {
    if !can_run() {
        return;
    }
    let result = run("scale-out", &Lab("tout"));
    let sizes: Vec<_> = result["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["next_hops"].as_array().unwrap().len())
        .collect();
    assert_eq!(sizes, [1, 4, 5, 4]);
}

#[test]
fn routes_follow_lost_engines_and_outlive_the_controller() {
    if !can_run() {
        return;
    }
    run("faults", &Lab("tflt"));
}
