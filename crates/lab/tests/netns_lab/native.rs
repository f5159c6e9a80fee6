//! Native scaling: the VIP on the engines' own LAN. By hand also in IPv6: `evenkeel lab run native --mode all`.

use crate::support::{Lab, can_run, run};

/// What the scenario judges (who answers for the VIP, that nothing breaks but what lived on an engine that died) is not judged
/// again here, but that what is to be judged took place.
#[test]
fn a_vip_on_the_engines_lan_is_spread_over_five_and_answered_for_by_one_whatever_befalls_it() {
    if !can_run() {
        return;
    }
    let outcome = run("native", &Lab::new("tnat"));
    let steps = outcome["steps"].as_array().unwrap();
    let engines = steps.iter().map(|s| s["engines"].as_array().unwrap().len());
    let engines: Vec<_> = engines.collect();
    assert_eq!(engines[..9], [3, 5, 5, 5, 4, 5, 5, 4, 4], "{outcome}");
    assert_eq!(engines.last(), Some(&2), "{outcome}");
    for step in steps {
        assert_eq!(step["next_hops"].as_array().unwrap().len(), 1, "{step}");
        let number = |field: &str| step[field].as_u64().unwrap();
        assert!(number("exchanges") > 0 && number("short_ok") > 0, "{step}");
        let silent_ms = number("vip_silent_ms");
        eprintln!(
            "{}: nobody answered for {silent_ms} ms at most",
            step["step"]
        );
    }
    let of = |name: &str| steps.iter().find(|s| s["step"] == name).expect(name);
    let spread = &of("3→5")["share"];
    assert_eq!(spread.as_object().unwrap().len(), 5, "{spread}");
    let answers = |name: &str| of(name)["packets"]["tunnel_answer"].as_u64();
    assert_eq!(answers("3→5").unwrap_or(0), 0, "directly at first");
    let through = "answers through the primary, while flows live";
    assert!(answers(through).unwrap_or(0) > 0, "{}", of(through));
    let killed = of("the primary se-3 killed");
    assert!(killed["died_with"].as_u64().unwrap() > 0, "{killed}");
}
