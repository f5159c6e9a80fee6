//! The scenarios of the document's network, against real routers, with the whole product.

use crate::support::{Lab, can_run, run, run_with};
use serde_json::Value;

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

/// By its load alone: nobody calls for a step.
#[test]
fn autoscale_takes_a_virtual_service_from_1_to_4_engines_and_back_and_no_flow_breaks() {
    if !can_run() {
        return;
    }
    let result = run("autoscale", &Lab::new("taus"));
    let steps = result["steps"].as_array().unwrap();
    let hops = |s: &Value| s["next_hops"].as_array().unwrap().len();
    let sizes: Vec<_> = steps.iter().map(hops).collect();
    assert_eq!(sizes, [1, 4, 4, 1, 1]);
    for step in steps {
        let number = |field: &str| step[field].as_u64().unwrap();
        assert_eq!((number("flows"), number("flows_broken")), (40, 0), "{step}");
        assert!(number("exchanges") > 0 && number("short_ok") > 0, "{step}");
    }
    let scaled_in = step(&result, "4→1");
    assert!(
        scaled_in["flows_moved"].as_u64().unwrap() > 0,
        "{scaled_in}"
    );
}

#[test]
fn routes_follow_lost_engines_and_outlive_the_controller() {
    if !can_run() {
        return;
    }
    run("faults", &Lab::new("tflt"));
}

/// Every step but the first, which scales out: the traffic's router keeps its sessions, and nothing moves or breaks.
#[test]
fn peers_come_change_and_go_and_the_traffic_of_another_router_does_not_notice() {
    if !can_run() {
        return;
    }
    let result = run("peer-changes", &Lab::new("tprc"));
    let steps = result["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 6, "{result}");
    for step in &steps[1..] {
        let number = |field: &str| step[field].as_u64().unwrap();
        let disturbed = ["flows_moved", "flows_broken", "short_failed"].map(number);
        assert_eq!(disturbed, [0; 3], "{step}");
        assert_eq!(
            (number("flows"), number("sessions_kept")),
            (200, 3),
            "{step}"
        );
        assert!(
            number("exchanges") > 200 && number("short_ok") > 0,
            "{step}"
        );
    }
}

/// A step of a result by its name.
fn step<'a>(result: &'a Value, name: &str) -> &'a Value {
    let steps = result["steps"].as_array().unwrap();
    steps.iter().find(|s| s["step"] == name).expect(name)
}

/// What the scenario judges is not judged again here, but that the events took place.
#[test]
fn no_flow_breaks_when_the_router_restarts_and_only_its_own_when_a_host_dies_without_a_controller()
{
    if !can_run() {
        return;
    }
    let result = run("any-order-short", &Lab::new("tany"));
    let restarted = step(&result, "router restarted");
    assert!(
        restarted["routeless_s"].as_f64().unwrap() > 0.0,
        "{restarted}"
    );
    let dead = step(&result, "the host se-5 dies");
    let number = |field: &str| dead[field].as_u64().unwrap();
    assert!(number("died_with") > 0, "{dead}");
    assert_eq!(number("flows_broken"), number("died_with"), "{dead}");
    for step in result["steps"].as_array().unwrap() {
        assert_eq!(step["flows"], 200, "{step}");
    }
}

/// Alone no packet is tunnelled, which the scenario judges; beside another engine some are, and it is said how many.
#[test]
fn flows_of_an_engine_that_loses_a_link_go_on_over_its_other_one() {
    if !can_run() {
        return;
    }
    let result = run("link-loss-short", &Lab::new("tlnk"));
    let steps = result["steps"].as_array().unwrap();
    let hops: Vec<_> = steps.iter().map(|s| s["hops"].as_u64().unwrap()).collect();
    assert_eq!(hops, [1, 2, 4, 3, 4]);
    for step in steps {
        let number = |field: &str| step[field].as_u64().unwrap();
        assert_eq!(
            (number("flows"), number("flows_broken")),
            (200, 0),
            "{step}"
        );
        assert!(
            number("flows_moved") > 0 && number("uploads_ok") > 0,
            "{step}"
        );
    }
    assert_eq!(steps[0]["tunnelled"], 0);
    assert!(steps[3]["tunnelled"].as_u64().unwrap() > 0, "{}", steps[3]);
}

/// With and without timestamps, in both families; what the scenario judges is not judged again here.
#[test]
fn no_flow_breaks_when_engines_come_and_go_and_only_its_own_when_one_dies() {
    if !can_run() {
        return;
    }
    let id = Lab::new("tres");
    let outcomes = run_with("flow-resiliency-short", &id, &["--mode", "all"]);
    let outcomes = outcomes.as_array().unwrap();
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
    for outcome in outcomes {
        for step in outcome["steps"].as_array().unwrap() {
            let number = |field: &str| step[field].as_u64().unwrap_or_default();
            assert_eq!(number("flows"), 300, "{step}");
            assert_eq!(number("flows_broken"), number("died_with"), "{step}");
            assert!(number("downloads_ok") > 0, "{step}");
        }
        let killed = &outcome["steps"][3];
        assert!(killed["died_with"].as_u64().unwrap() > 20, "{killed}");
    }
}
