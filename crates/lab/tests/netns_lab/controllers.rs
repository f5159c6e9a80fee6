//! Three controllers on three etcd members: what befalls them, under traffic and writes.

use crate::support::{Lab, can_run, run_with};
use serde_json::Value;

fn run(scenario: &str, id: &Lab) -> Value {
    run_with(scenario, id, &["--topology", "three-controllers"])
}

/// The scenario judges; here it is seen that it had something to judge.
fn check_load(result: &Value, steps: usize, writes_min: u64) {
    let writes = &result["writes"];
    eprintln!("writes: {writes}");
    assert!(
        writes["acknowledged"].as_u64().unwrap() > writes_min,
        "{writes}"
    );
    let all = result["steps"].as_array().unwrap();
    assert_eq!(all.len(), steps);
    for step in all {
        assert!(step["short_ok"].as_u64().unwrap() > 0, "{step}");
    }
}

#[test]
fn no_acknowledged_write_is_lost_and_no_flow_breaks_whatever_befalls_the_leader() {
    if !can_run() {
        return;
    }
    let result = run("controller-faults", &Lab::new("tcf"));
    check_load(&result, 5, 3000);
}

#[test]
fn no_write_is_lost_and_no_flow_breaks_when_clocks_of_controllers_are_set() {
    if !can_run() {
        return;
    }
    let result = run("clock-jumps-short", &Lab::new("tcj"));
    check_load(&result, 5, 2000);
}

#[test]
fn three_controllers_are_restarted_one_after_the_other_without_a_failed_call() {
    if !can_run() {
        return;
    }
    let result = run("rolling-restart", &Lab::new("tcr"));
    check_load(&result, 3, 300);
}
