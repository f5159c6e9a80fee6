//! Many engines at once.

use crate::support::{Lab, can_run, run};

/// What the scenario judges (each SE is a next hop and has connections, nothing breaks) is not judged again here, but that there
/// were so many, that flows lived on them, and what one costs.
#[test]
fn a_virtual_service_on_sixteen_engines_has_thirty_two_and_sixteen_again_without_a_broken_flow() {
    if !can_run() {
        return;
    }
    let result = run("wide-short", &Lab::new("twid"));
    let steps = result["steps"].as_array().unwrap();
    let hops: Vec<_> = steps.iter().map(|s| s["hops"].as_u64().unwrap()).collect();
    assert_eq!(hops, [16, 32, 16]);
    for step in steps {
        let number = |field: &str| step[field].as_u64().unwrap();
        assert_eq!(
            (number("flows"), number("flows_broken")),
            (320, 0),
            "{step}"
        );
        let used = |field: &str| step["engines_used"][field].as_f64().unwrap();
        eprintln!("{}: {}", step["step"], step["engines_used"]);
        assert!(used("rss_mib_max") < 60.0, "{step}");
        assert!(used("rss_mib_median") > 0.0 && used("cores_median") > 0.0);
        assert!(used("bpf_mib_max") > 0.0, "{step}");
    }
}
