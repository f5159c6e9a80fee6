//! The scenarios of the document's network, against real routers, with the whole product.

use crate::support::{Lab, can_run, lab};
use serde_json::Value;

/// Runs a scenario in a lab of its own; the result, when everything held.
fn run(scenario: &str, id: &Lab) -> Value {
    let output = lab(&["run", scenario, "--fresh", "--run", id.0, "-o", "json"]);
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
    let result = run("scale-out", &Lab::new("tout"));
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
    run("faults", &Lab::new("tflt"));
}
