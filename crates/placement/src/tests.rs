//! Tables and properties of the planner.

use super::*;
use proptest::prelude::*;

fn demand(min: u32, max: u32) -> Demand {
    Demand {
        vsvip: "vsvip-1".into(),
        se_group: "g".into(),
        cloud: "c".into(),
        vrf: "global".into(),
        peer_networks: vec!["10.10.10.0/24".parse().expect("net")],
        min_scaleout: min,
        max_scaleout: max,
        max_per_engine: 10,
        algorithm: Algorithm::Packed,
    }
}

fn engine(n: u32) -> Engine {
    Engine {
        uuid: format!("serviceengine-{n}"),
        name: format!("se-{n}"),
        connected: true,
        enabled: true,
        se_group: "g".into(),
        cloud: "c".into(),
        vrf: "global".into(),
        networks: vec!["10.10.10.0/24".parse().expect("net")],
        placed: 0,
    }
}

fn uuids(numbers: &[u32]) -> Vec<String> {
    numbers
        .iter()
        .map(|n| format!("serviceengine-{n}"))
        .collect()
}

#[test]
fn scale_out_takes_the_next_by_name_and_says_why() {
    let engines = [engine(10), engine(2), engine(1)];
    let choice = scale_out(&demand(1, 4), &engines, &uuids(&[1]), None).expect("fits");
    assert_eq!(choice.name, "se-2");
    assert!(
        choice.reason.starts_with("se-2 comes first of 2"),
        "{}",
        choice.reason
    );
}

#[test]
fn packed_takes_the_fullest_and_distributed_the_emptiest() {
    let mut engines = [engine(1), engine(2), engine(3)];
    (engines[0].placed, engines[1].placed, engines[2].placed) = (1, 5, 0);
    let mut demand = demand(1, 4);
    assert_eq!(
        scale_out(&demand, &engines, &[], None).expect("fits").name,
        "se-2"
    );
    demand.algorithm = Algorithm::Distributed;
    assert_eq!(
        scale_out(&demand, &engines, &[], None).expect("fits").name,
        "se-3"
    );
}

#[test]
fn scale_out_beyond_the_maximum_says_the_numbers() {
    let engines = [engine(1), engine(2), engine(3)];
    let error = scale_out(&demand(1, 2), &engines, &uuids(&[1, 2]), None).expect_err("refused");
    assert!(
        error
            .to_string()
            .contains("on 2 service engines already, the maximum (max_scaleout_per_vs"),
        "{error}"
    );
}

#[test]
fn every_reason_against_an_engine_is_found_and_has_a_code() {
    type Break = fn(&mut Engine);
    let cases: [(Break, &str); 8] = [
        (|e| e.connected = false, "not_connected"),
        (|e| e.enabled = false, "disabled"),
        (|e| e.cloud = "x".into(), "other_cloud"),
        (|e| e.se_group = "x".into(), "other_se_group"),
        (|e| e.vrf = "x".into(), "other_vrf"),
        (|e| e.placed = 10, "full"),
        (
            |e| e.networks = vec!["10.9.9.0/24".parse().expect("net")],
            "no_interface_in_peer_subnet",
        ),
        (
            |e| e.networks = vec!["10.10.10.0/24".parse().expect("net"); 2],
            "two_interfaces_in_one_subnet",
        ),
    ];
    for (break_it, code) in cases {
        let mut e = engine(1);
        break_it(&mut e);
        assert_eq!(unfit(&demand(1, 4), &e, &[]).map(|u| u.code()), Some(code));
        let error = scale_out(&demand(1, 4), &[e], &[], None)
            .expect_err(code)
            .to_string();
        assert!(
            error.starts_with("no service engine can take the virtual service: se-1: "),
            "{error}"
        );
    }
}

#[test]
fn an_engine_asked_for_is_taken_or_refused_with_its_reason() {
    let mut engines = [engine(1), engine(2)];
    assert_eq!(
        scale_out(&demand(1, 4), &engines, &[], Some("se-2"))
            .expect("fits")
            .name,
        "se-2"
    );
    engines[1].connected = false;
    let error =
        scale_out(&demand(1, 4), &engines, &[], Some("serviceengine-2")).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "se-2 cannot take the virtual service: it has no session with the controller"
    );
    assert_eq!(
        scale_out(&demand(1, 4), &engines, &[], Some("x")),
        Err(PlanError::UnknownEngine("x".into()))
    );
}

#[test]
fn scale_in_takes_the_newest_then_never_goes_below_the_minimum() {
    let engines = [engine(1), engine(2), engine(3)];
    let choice = scale_in(&demand(1, 4), &engines, &uuids(&[1, 2, 3]), None, false).expect("fits");
    assert_eq!(choice.name, "se-3");
    assert!(matches!(
        scale_in(&demand(1, 4), &engines, &uuids(&[1]), None, false),
        Err(PlanError::AtMinimum { .. })
    ));
    assert!(matches!(
        scale_in(&demand(2, 4), &engines, &uuids(&[1, 2]), None, false),
        Err(PlanError::AtMinimum { .. })
    ));
}

#[test]
fn scale_in_prefers_an_engine_that_is_away_and_spares_the_primary_unless_asked() {
    let mut engines = [engine(1), engine(2), engine(3)];
    engines[1].connected = false;
    let at = uuids(&[1, 2, 3]);
    assert_eq!(
        scale_in(&demand(1, 4), &engines, &at, None, false)
            .expect("fits")
            .name,
        "se-2"
    );
    assert_eq!(
        scale_in(&demand(1, 4), &engines, &at, None, true)
            .expect("fits")
            .name,
        "se-1"
    );
    assert_eq!(
        scale_in(&demand(1, 4), &engines, &at, Some("se-3"), false)
            .expect("fits")
            .name,
        "se-3"
    );
    assert!(matches!(
        scale_in(
            &demand(1, 4),
            &engines,
            &uuids(&[1, 2]),
            Some("se-3"),
            false
        ),
        Err(PlanError::NotPlacedThere(_))
    ));
}

fn any_engine(n: u32) -> impl Strategy<Value = Engine> {
    (any::<bool>(), any::<bool>(), any::<bool>(), 0..12u32).prop_map(
        move |(connected, enabled, near, placed)| {
            let mut e = engine(n);
            (e.connected, e.enabled, e.placed) = (connected, enabled, placed);
            if !near {
                e.networks.clear();
            }
            e
        },
    )
}

fn any_engines() -> impl Strategy<Value = Vec<Engine>> {
    (0..8u32).prop_flat_map(|count| (1..=count).map(any_engine).collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn ensure_keeps_what_is_placed_and_is_settled_by_its_own_result(engines in any_engines(), min in 1..6u32, held in 0..4u32) {
        let demand = demand(min, 6);
        let mut assigned: Vec<String> = engines.iter().take(held as usize).map(|e| e.uuid.clone()).collect();
        let before = assigned.clone();
        let (chosen, error) = ensure(&demand, &engines, &assigned);
        for choice in &chosen {
            let engine = engines.iter().find(|e| e.uuid == choice.engine).expect("known");
            prop_assert_eq!(unfit(&demand, engine, &assigned), None);
            assigned.push(choice.engine.clone());
        }
        prop_assert!(assigned.starts_with(&before));
        prop_assert!(assigned.len() <= 6);
        prop_assert_eq!(error.is_none(), assigned.len() >= min as usize);
        prop_assert!(ensure(&demand, &engines, &assigned).0.is_empty());
    }

    #[test]
    fn an_engine_more_moves_nothing(engines in any_engines(), min in 1..4u32) {
        let (chosen, _) = ensure(&demand(min, 6), &engines, &[]);
        let assigned: Vec<String> = chosen.into_iter().map(|c| c.engine).collect();
        let settled = demand(u32::try_from(assigned.len().max(1)).expect("small"), 6);
        let mut more = engines;
        more.push(engine(99));
        let added = ensure(&settled, &more, &assigned).0.len();
        prop_assert_eq!(added, usize::from(assigned.is_empty()));
    }
}
