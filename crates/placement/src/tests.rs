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
        placement_networks: Vec::new(),
        native: Vec::new(),
        resolution: Resolution::Subnets,
        min_scaleout: min,
        max_scaleout: max,
        max_per_engine: 10,
        max_engines: 0,
        algorithm: Algorithm::Packed,
        ha: Ha::Shared,
        tag: None,
        goes_back: false,
        needs_peer: false,
        host: None,
        host_redundancy: true,
    }
}

fn engine(n: u32) -> Engine {
    Engine {
        uuid: format!("serviceengine-{n}"),
        name: format!("se-{n}"),
        presence: Presence::Here,
        enabled: Enabled::Yes,
        se_group: "g".into(),
        cloud: "c".into(),
        vrf: "global".into(),
        networks: vec!["10.10.10.0/24".parse().expect("net")],
        host: String::new(),
        has_peer: None,
        placed: 0,
    }
}

fn moved(from: u32, to: u32) -> Move {
    let uuid = |n: u32| format!("serviceengine-{n}");
    Move {
        from: uuid(from),
        to: uuid(to),
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
    let cases: [(Break, &str); 9] = [
        (|e| e.presence = Presence::Away, "not_connected"),
        (|e| e.presence = Presence::Lost, "not_connected"),
        (|e| e.enabled = Enabled::No, "disabled"),
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
        let all = [e.clone()];
        assert_eq!(
            unfit(&demand(1, 4), &e, &all, &[]).map(|u| u.code()),
            Some(code)
        );
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
fn a_tag_prefers_the_first_or_the_second_engine_of_a_pair_by_name() {
    let engines = [engine(10), engine(2)];
    let preferred = |tag, ha, assigned: &[u32]| {
        let demand = Demand {
            tag,
            ha,
            ..demand(1, 4)
        };
        let found = preferred(&demand, &engines, &uuids(assigned));
        found.map(|e| e.name.clone())
    };
    let pair = Ha::ActiveStandby;
    for (tag, ha, assigned, expected) in [
        (Some(Tag::First), pair, [10, 2], Some("se-2")),
        (Some(Tag::First), pair, [2, 10], None),
        (Some(Tag::Second), pair, [2, 10], Some("se-10")),
        (None, pair, [10, 2], None),
        (Some(Tag::First), Ha::SharedPair, [10, 2], None),
    ] {
        assert_eq!(preferred(tag, ha, &assigned).as_deref(), expected);
    }
    assert_eq!(preferred(Some(Tag::Second), pair, &[2]), None);
}

#[test]
fn a_host_that_is_asked_for_leaves_its_engines_alone() {
    let mut engines = [engine(1), engine(2), engine(3)];
    engines[1].host = "rack-2".into();
    let on = |host: &str| Demand {
        host: Some(host.into()),
        ..demand(1, 4)
    };
    let choice = scale_out(&on("rack-2"), &engines, &[], None).expect("fits");
    assert_eq!(choice.name, "se-2");
    let codes = choice.rejected.iter().map(|(_, why)| why.code());
    assert_eq!(codes.collect::<Vec<_>>(), ["other_host", "other_host"]);
    let refused = scale_out(&on("rack-2"), &engines, &[], Some("se-3"));
    let refused = refused.expect_err("elsewhere").to_string();
    assert!(refused.contains("its host is not \"rack-2\""), "{refused}");
    assert!(scale_out(&on("rack-9"), &engines, &[], None).is_err());
}

#[test]
fn each_vip_needs_an_interface_in_one_of_its_placement_networks() {
    let nets = |all: &[&str]| all.iter().map(|n| n.parse().expect("net")).collect();
    let why = |wanted: &[&[&str]]| {
        let demand = Demand {
            placement_networks: wanted.iter().map(|all| nets(all)).collect(),
            ..demand(1, 4)
        };
        let engine = engine(1);
        let why = unfit(&demand, &engine, std::slice::from_ref(&engine), &[]);
        why.map(|why| (why.code(), why.to_string()))
    };
    let code = "no_interface_in_placement_network";
    assert_eq!(why(&[&["10.9.0.0/16", "10.10.0.0/16"]]), None);
    let (found, text) = why(&[&["10.10.10.0/24"], &["10.9.0.0/16", "10.8.0.0/16"]]).expect("unfit");
    assert_eq!(found, code);
    assert!(text.ends_with("(10.9.0.0/16, 10.8.0.0/16)"), "{text}");
    let (found, text) = why(&[&[]]).expect("nowhere");
    assert_eq!(found, code);
    assert!(text.contains("no configured_subnets"), "{text}");
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
    engines[1].presence = Presence::Away;
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
    engines[1].presence = Presence::Away;
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

#[test]
fn a_pair_has_two_engines_and_active_standby_never_more() {
    let engines = [1, 2, 3].map(engine);
    let with = |ha| Demand { ha, ..demand(1, 1) };
    for ha in [Ha::SharedPair, Ha::ActiveStandby] {
        let (chosen, error) = ensure(&with(ha), &engines, &[]);
        assert_eq!((chosen.len(), error), (2, None), "{ha:?}");
        let at = uuids(&[1, 2]);
        let more = scale_out(&with(ha), &engines, &at, None);
        assert!(matches!(more, Err(PlanError::AtMaximum { max: 2, .. })));
        let fewer = scale_in(&with(ha), &engines, &at, None, false);
        assert!(matches!(fewer, Err(PlanError::AtMinimum { min: 2, .. })));
    }
}

#[test]
fn another_host_is_preferred_and_the_same_taken_where_there_is_no_other() {
    let mut engines = [1, 2, 3].map(engine);
    for (engine, host) in engines.iter_mut().zip(["a", "a", "b"]) {
        engine.host = host.into();
    }
    engines[1].placed = 5;
    let next = |demand: &Demand, engines: &[Engine]| {
        scale_out(demand, engines, &uuids(&[1]), None).expect("fits")
    };
    assert_eq!(next(&demand(1, 4), &engines).name, "se-3");
    let off = Demand {
        host_redundancy: false,
        ..demand(1, 4)
    };
    assert_eq!(next(&off, &engines).name, "se-2");
    engines[2].presence = Presence::Away;
    let choice = next(&demand(1, 4), &engines);
    assert_eq!(choice.name, "se-2");
    assert!(choice.reason.contains("vs_host_redundancy"), "{choice:?}");
}

#[test]
fn one_that_has_come_back_just_now_is_taken_last() {
    let mut engines = [1, 2].map(engine);
    engines[0].presence = Presence::Back;
    let first = |engines: &[Engine]| {
        let choice = scale_out(&demand(1, 4), engines, &[], None);
        choice.expect("fits")
    };
    assert_eq!(first(&engines).name, "se-2");
    let alone = first(&engines[..1]);
    assert!(alone.reason.contains("has come back"), "{alone:?}");
}

#[test]
fn a_group_uses_no_more_engines_than_it_may() {
    let mut engines = [1, 2, 3].map(engine);
    let demand = Demand {
        max_engines: 2,
        ..demand(3, 4)
    };
    let (chosen, error) = ensure(&demand, &engines, &[]);
    assert_eq!(chosen.len(), 2);
    let said = error.expect("one is missing").to_string();
    assert!(said.contains("on 2 other engines"), "{said}");
    engines[0].presence = Presence::Lost;
    let (chosen, _) = ensure(&demand, &engines, &uuids(&[1]));
    assert_eq!(chosen.len(), 2, "one that is lost does not count");
}

#[test]
fn a_lost_engine_gives_its_place_up_and_an_absent_one_keeps_it() {
    let mut engines = [1, 2, 3].map(engine);
    let at = uuids(&[1, 2]);
    engines[1].presence = Presence::Away;
    assert_eq!(keep(&demand(1, 4), &engines, &at, &[]), []);
    engines[1].presence = Presence::Lost;
    let steps = keep(&demand(1, 4), &engines, &at, &[]);
    assert_eq!(after(&at, &steps), uuids(&[1, 3]));
    engines[2].presence = Presence::Away;
    let steps = keep(&demand(1, 4), &engines, &at, &[]);
    assert!(matches!(
        &steps[..],
        [Step::Stay {
            cause: Cause::Lost,
            why: PlanError::NoEngine(_),
            ..
        }]
    ));
}

#[test]
fn an_engine_that_is_moving_is_not_planned_again_and_goes_at_once_when_it_is_lost() {
    let mut engines = [1, 2].map(engine);
    let (at, moves) = (uuids(&[1, 2]), [moved(1, 2)]);
    engines[0].enabled = Enabled::No;
    assert_eq!(keep(&demand(1, 4), &engines, &at, &moves), []);
    engines[0].presence = Presence::Lost;
    let steps = keep(&demand(1, 4), &engines, &at, &moves);
    assert_eq!(after(&at, &steps), uuids(&[2]));
}

#[test]
fn a_move_whose_new_engine_is_lost_leaves_as_many_engines_as_there_were() {
    let lost = |numbers: &[usize]| {
        let mut engines = [1, 2, 3, 4].map(engine);
        for n in numbers {
            engines[n - 1].presence = Presence::Lost;
        }
        engines
    };
    let (at, moves) = (uuids(&[1, 2]), [moved(1, 2)]);
    let now = |engines: &[Engine]| after(&at, &keep(&demand(1, 4), engines, &at, &moves));
    assert_eq!(now(&lost(&[2])), uuids(&[1]), "nobody is to replace it");
    assert_eq!(now(&lost(&[1, 2])), uuids(&[3]), "but the former one");
    let mut drained = lost(&[2]);
    drained[0].enabled = Enabled::No;
    assert_eq!(now(&drained), uuids(&[3]), "that one goes all the same");
    assert_eq!(now(&lost(&[2, 3, 4])), uuids(&[1]), "whoever is left");

    let (wide, engines) = (demand(2, 4), lost(&[2]));
    let kept = after(&at, &keep(&wide, &engines, &at, &moves));
    let (more, _) = ensure(&wide, &engines, &kept);
    let more: Vec<&str> = more.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(more, ["se-3"], "the group asks for two");
}

#[test]
fn a_pair_whose_engine_was_to_move_is_the_same_pair_when_the_new_engine_is_lost() {
    let mut engines = [1, 2, 3, 4].map(engine);
    let pair = Demand {
        ha: Ha::ActiveStandby,
        ..demand(1, 1)
    };
    let at = uuids(&[1, 2, 3]);
    engines[2].presence = Presence::Lost;
    for from in [1, 2] {
        let steps = keep(&pair, &engines, &at, &[moved(from, 3)]);
        assert_eq!(after(&at, &steps), uuids(&[1, 2]), "from {from}");
    }
    engines[0].presence = Presence::Lost;
    let steps = keep(&pair, &engines, &at, &[moved(1, 3)]);
    assert_eq!(after(&at, &steps), uuids(&[2, 4]));
    let steps = keep(&pair, &engines, &at, &[moved(2, 3)]);
    assert_eq!(after(&at, &steps), uuids(&[2, 4]));
}

#[test]
fn a_drained_engine_makes_room_for_another_one_of_the_group() {
    let mut engines = [1, 2].map(engine);
    (engines[0].placed, engines[0].enabled) = (1, Enabled::No);
    let demand = Demand {
        max_engines: 1,
        ..demand(1, 4)
    };
    let steps = keep(&demand, &engines, &uuids(&[1]), &[]);
    assert_eq!(after(&uuids(&[1]), &steps), uuids(&[2]));
}

#[test]
fn the_standby_becomes_active_when_the_active_one_is_lost() {
    let mut engines = [1, 2].map(engine);
    let demand = Demand {
        ha: Ha::ActiveStandby,
        ..demand(1, 1)
    };
    engines[0].presence = Presence::Lost;
    let at = uuids(&[1, 2]);
    let now = after(&at, &keep(&demand, &engines, &at, &[]));
    assert_eq!(now, uuids(&[2, 1]));
    engines[0].presence = Presence::Here;
    assert_eq!(
        keep(&demand, &engines, &now, &[]),
        [],
        "it does not take it back"
    );
}

#[test]
fn room_for_lost_engines_is_counted_the_fullest_first() {
    let mut engines = [1, 2, 3].map(engine);
    for (engine, placed) in engines.iter_mut().zip([8, 6, 0]) {
        engine.placed = placed;
    }
    let survives = |engines: &[Engine], wanted| spare(engines, 10, wanted).survives;
    assert_eq!(survives(&engines, 1), 1, "8 of 14 free");
    assert_eq!(survives(&engines, 2), 1, "14 do not fit into 10");
    assert!(spare(&engines, 10, 2).is_short());
    engines[2].enabled = Enabled::No;
    assert_eq!(survives(&engines, 1), 0, "8 do not fit into 4");
    assert_eq!(survives(&engines[..1], 1), 0, "there is no other");
    assert!(!spare(&[], 10, 0).is_short());
}

#[test]
fn an_active_engine_without_a_peer_gives_its_role_to_a_standby_with_one() {
    let mut pair = Demand {
        ha: Ha::ActiveStandby,
        needs_peer: true,
        ..demand(1, 1)
    };
    let mut engines = [engine(1), engine(2)];
    let assigned = uuids(&[1, 2]);
    let promoted = |demand: &Demand, engines: &[Engine]| {
        let steps = keep(demand, engines, &assigned, &[]);
        after(&assigned, &steps)[0].clone()
    };
    let peers = [
        (None, Some(true), 1),
        (Some(true), Some(true), 1),
        (Some(false), None, 1),
        (Some(false), Some(false), 1),
        (Some(false), Some(true), 2),
    ];
    for (active, standby, first) in peers {
        (engines[0].has_peer, engines[1].has_peer) = (active, standby);
        let expected = format!("serviceengine-{first}");
        assert_eq!(
            promoted(&pair, &engines),
            expected,
            "{active:?} {standby:?}"
        );
    }
    for has_peer in [Some(false), None] {
        engines[0].has_peer = has_peer;
        assert!(!is_back(&pair, &engines[0]), "it might lose the role again");
    }
    pair.needs_peer = false;
    assert_eq!(promoted(&pair, &engines), "serviceengine-1");
    assert!(is_back(&pair, &engines[0]));
}

fn any_engine(n: u32) -> impl Strategy<Value = Engine> {
    (
        any_presence(),
        any_enabled(),
        any::<bool>(),
        0..4u8,
        0..12u32,
    )
        .prop_map(move |(presence, enabled, near, host, placed)| {
            let mut e = engine(n);
            (e.presence, e.enabled, e.placed) = (presence, enabled, placed);
            e.host = ["", "a", "b", "c"][usize::from(host)].into();
            if !near {
                e.networks.clear();
            }
            e
        })
}

fn any_presence() -> impl Strategy<Value = Presence> {
    prop_oneof![
        4 => Just(Presence::Here),
        1 => Just(Presence::Back),
        1 => Just(Presence::Away),
        2 => Just(Presence::Lost),
    ]
}

fn any_enabled() -> impl Strategy<Value = Enabled> {
    prop_oneof![
        4 => Just(Enabled::Yes),
        1 => Just(Enabled::ForPlacementNot),
        2 => Just(Enabled::No),
    ]
}

fn any_ha() -> impl Strategy<Value = Ha> {
    prop_oneof![
        Just(Ha::Shared),
        Just(Ha::SharedPair),
        Just(Ha::ActiveStandby),
    ]
}

/// Engines of the VIP after these steps.
fn after(assigned: &[String], steps: &[Step]) -> Vec<String> {
    let mut now = assigned.to_vec();
    for step in steps {
        match step {
            Step::Replace { engine, by, .. } => {
                now.retain(|e| e != engine);
                now.push(by.engine.clone());
            }
            Step::Promote { engine, .. } => {
                now.retain(|e| e != engine);
                now.insert(0, engine.clone());
            }
            Step::Leave { engine, .. } => now.retain(|e| e != engine),
            Step::Stay { .. } => {}
        }
    }
    now
}

fn is_sound(engines: &[Engine], uuid: &str) -> bool {
    let engine = engines.iter().find(|e| e.uuid == uuid).expect("known");
    engine.presence != Presence::Lost && engine.enabled != Enabled::No
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
            prop_assert_eq!(unfit(&demand, engine, &engines, &assigned), None);
            assigned.push(choice.engine.clone());
        }
        prop_assert!(assigned.starts_with(&before));
        prop_assert!(assigned.len() <= 6);
        prop_assert_eq!(error.is_none(), assigned.len() >= min as usize);
        prop_assert!(ensure(&demand, &engines, &assigned).0.is_empty());
    }

    #[test]
    fn only_engines_that_are_lost_or_drained_give_their_places_up_and_each_to_one_that_fits(
        engines in any_engines(), ha in any_ha(), min in 1..4u32, held in 0..5usize
    ) {
        let demand = Demand { ha, ..demand(min, 6) };
        let assigned: Vec<String> = engines.iter().take(held).map(|e| e.uuid.clone()).collect();
        let steps = keep(&demand, &engines, &assigned, &[]);
        let now = after(&assigned, &steps);
        prop_assert_eq!(now.len(), assigned.len(), "neither more nor fewer");
        for uuid in assigned.iter().filter(|uuid| is_sound(&engines, uuid)) {
            prop_assert!(now.contains(uuid), "{} need not move", uuid);
        }
        for uuid in now.iter().filter(|uuid| !assigned.contains(uuid)) {
            let engine = engines.iter().find(|e| e.uuid == *uuid).expect("known");
            let free = Demand { ha: Ha::SharedPair, ..demand.clone() };
            prop_assert_eq!(unfit(&free, engine, &engines, &assigned), None);
        }
        if assigned.first().is_some_and(|first| is_sound(&engines, first)) {
            prop_assert_eq!(now.first(), assigned.first(), "the active one stays it");
        }
    }

    #[test]
    fn what_was_kept_is_settled(engines in any_engines(), ha in any_ha(), held in 0..5usize) {
        let demand = Demand { ha, ..demand(1, 6) };
        let assigned: Vec<String> = engines.iter().take(held).map(|e| e.uuid.clone()).collect();
        let now = after(&assigned, &keep(&demand, &engines, &assigned, &[]));
        let again = keep(&demand, &engines, &now, &[]);
        let moves = again.iter().filter(|s| !matches!(s, Step::Stay { .. }));
        prop_assert_eq!(moves.count(), 0, "{:?}", again);
    }

    #[test]
    fn an_engine_that_comes_back_gets_nothing_by_it(engines in any_engines(), held in 1..5usize) {
        let demand = demand(1, 6);
        let assigned: Vec<String> = engines.iter().take(held).map(|e| e.uuid.clone()).collect();
        let now = after(&assigned, &keep(&demand, &engines, &assigned, &[]));
        let mut back = engines;
        for engine in &mut back {
            engine.presence = Presence::Here;
        }
        let moved = keep(&demand, &back, &now, &[]).into_iter().any(|s| !matches!(
            s, Step::Stay { cause: Cause::Drained, .. } | Step::Replace { cause: Cause::Drained, .. }
        ));
        prop_assert!(!moved);
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

/// Up to eight engines by its SE group.
fn natively() -> Demand {
    Demand {
        native: vec!["10.10.10.100".parse().expect("ip")],
        peer_networks: Vec::new(),
        ..demand(1, 8)
    }
}

#[test]
fn a_sixth_engine_for_a_vip_that_is_scaled_natively_is_refused_with_the_documents_limit() {
    let engines: Vec<Engine> = (1..8).map(engine).collect();
    let five = uuids(&[1, 2, 3, 4, 5]);
    assert!(scale_out(&natively(), &engines, &five[..4], None).is_ok());
    let error = scale_out(&natively(), &engines, &five, None).expect_err("refused");
    assert_eq!(error, PlanError::AtNativeMaximum(5));
    assert!(error.to_string().contains("set enable_rhi"), "{error}");
    let by_bgp = Demand {
        native: Vec::new(),
        ..natively()
    };
    assert!(scale_out(&by_bgp, &engines, &five, None).is_ok());
    let six = Demand {
        min_scaleout: 6,
        ..natively()
    };
    assert_eq!((six.fewest(), six.most()), (5, 5));
    let moved = take_over(&natively(), &engines, &five, None);
    assert_eq!(moved.expect("in the place of one").name, "se-6");
}

#[test]
fn an_engine_off_the_vips_link_is_not_chosen_while_others_are_on_it() {
    let mut engines = [engine(1), engine(2)];
    engines[1].networks = vec!["10.9.9.0/24".parse().expect("net")];
    let why = |engines: &[Engine]| unfit(&natively(), &engines[1], engines, &[]);
    assert_eq!(
        why(&engines).map(|w| w.code()),
        Some("no_interface_in_vip_subnet")
    );
    let held = uuids(&[1]);
    let moved = take_over(&natively(), &engines, &held, None).expect_err("off the link");
    assert!(
        moved
            .to_string()
            .contains("no interface in a subnet with 10.10.10.100"),
        "{moved}"
    );
    engines[0].networks.clear();
    assert_eq!(why(&engines), None, "something else brings the VIP to them");
}

/// Of `se-1` on the VIP's link and `se-2` on another one, and of `se-3` which has neither: the codes of those that are unfit.
fn off_link(resolution: Resolution) -> [Option<&'static str>; 3] {
    let mut engines = [engine(1), engine(2), engine(3)];
    engines[1].networks = vec!["10.9.9.0/24".parse().expect("net")];
    engines[2].networks = vec!["10.7.7.0/24".parse().expect("net")];
    let demand = Demand {
        resolution,
        ..natively()
    };
    let code = |e: &Engine| unfit(&demand, e, &engines, &[]).map(|why| why.code());
    engines.each_ref().map(code)
}

fn route(prefix: &str, next_hop: &str) -> Route {
    Route {
        prefix: prefix.parse().expect("net"),
        next_hop: next_hop.parse().expect("ip"),
    }
}

const OFF_SUBNET: Option<&str> = Some("no_interface_in_vip_subnet");
const OFF_ROUTE: Option<&str> = Some("no_interface_to_static_route");

#[test]
fn static_routes_say_where_a_vip_is_placed_that_is_in_no_subnet_or_before_subnets_do() {
    let routes = || vec![route("10.10.10.0/25", "10.9.9.1")];
    let then = Resolution::SubnetsThenRoutes(routes());
    assert_eq!(off_link(then), [None, OFF_SUBNET, OFF_SUBNET]);
    let first = Resolution::RoutesThenSubnets(routes());
    assert_eq!(off_link(first), [OFF_ROUTE, None, OFF_ROUTE]);
    let other = vec![route("10.10.10.128/25", "10.9.9.1")];
    let other = Resolution::RoutesThenSubnets(other);
    let by_subnet = [None, OFF_SUBNET, OFF_SUBNET];
    assert_eq!(off_link(other), by_subnet, "no route has the VIP");
    let nowhere = vec![route("10.10.10.0/25", "10.5.5.1")];
    let nowhere = Resolution::RoutesThenSubnets(nowhere);
    assert_eq!(off_link(nowhere), by_subnet, "no engine is on its link");
    let default = || vec![route("0.0.0.0/0", "10.9.9.1")];
    let default_first = Resolution::RoutesThenSubnets(default());
    assert_eq!(
        off_link(default_first),
        by_subnet,
        "a default route says nothing of it"
    );
}

#[test]
fn of_static_routes_the_longest_prefix_counts_and_each_of_its_next_hops_will_do() {
    let default = || route("0.0.0.0/0", "10.10.10.1");
    let longer = || route("10.10.0.0/16", "10.9.9.1");
    let one = Resolution::RoutesThenSubnets(vec![default(), longer()]);
    assert_eq!(off_link(one), [OFF_ROUTE, None, OFF_ROUTE]);
    let second = route("10.10.0.0/16", "10.7.7.1");
    let two = Resolution::RoutesThenSubnets(vec![longer(), second, default()]);
    assert_eq!(off_link(two), [OFF_ROUTE, None, None]);
}

#[test]
fn a_vip_in_no_subnet_goes_where_its_static_route_leads_and_anywhere_where_that_leads_nowhere() {
    let mut engines = [engine(1), engine(2)];
    engines[1].networks = vec!["10.9.9.0/24".parse().expect("net")];
    let by = |next_hop: &str| Demand {
        native: vec!["10.100.0.1".parse().expect("ip")],
        resolution: Resolution::SubnetsThenRoutes(vec![route("10.100.0.0/24", next_hop)]),
        ..natively()
    };
    let choice = scale_out(&by("10.9.9.1"), &engines, &[], None).expect("fits");
    assert_eq!(choice.name, "se-2");
    let why = choice.rejected[0].1.to_string();
    let expected = "it has no interface in the subnet of 10.9.9.1, the next hop of the static route to 10.100.0.1";
    assert_eq!(why, expected);
    let anywhere = scale_out(&by("10.5.5.1"), &engines, &[], None).expect("fits");
    assert_eq!(anywhere.name, "se-1");
}

#[test]
fn the_primary_of_a_vip_that_is_scaled_natively_can_be_another_one() {
    let engines = [engine(1), engine(2), engine(3)];
    let held = uuids(&[1, 2, 3]);
    let next = switch_over(&natively(), &engines, &held, None).expect("there is one");
    assert_eq!(next.name, "se-2");
    let named = switch_over(&natively(), &engines, &held, Some("se-3")).expect("it holds it");
    assert_eq!(named.name, "se-3");
    let one = switch_over(&natively(), &engines, &held[..1], None);
    assert_eq!(one, Err(PlanError::NoStandby));
}

#[test]
fn a_role_goes_to_the_first_other_one_that_is_here_and_is_not_drained() {
    let mut engines: Vec<Engine> = (1..=4).map(engine).collect();
    engines[1].presence = Presence::Away;
    engines[2].enabled = Enabled::No;
    let held = uuids(&[1, 2, 3, 4]);
    let next = hand_over(&natively(), &engines, &held).expect("se-4 can");
    assert_eq!(next.name, "se-4");
    let away = hand_over(&natively(), &engines, &held[..3]).expect_err("none can");
    assert!(away.to_string().starts_with("se-2 "), "{away}");
    let one = hand_over(&natively(), &engines, &held[..1]);
    assert_eq!(one, Err(PlanError::NoStandby));
    let drained =
        take_role(&natively(), &engines, &held, "serviceengine-3").expect_err("it is drained");
    let why = Unfit::Disabled;
    let name = "se-3".to_owned();
    assert_eq!(drained, PlanError::UnfitEngine { name, why });
    assert_eq!(
        hand_over(&demand(1, 4), &engines, &held),
        Err(PlanError::NoStandby)
    );
}
