//! Tables, and that constant loads end in rest.

use super::*;
use proptest::prelude::*;

fn policy(limits: &[(Criterion, f64)]) -> Policy {
    let limit = |(criterion, capacity): &(Criterion, f64)| Limit {
        criterion: *criterion,
        capacity: *capacity,
    };
    Policy {
        limits: limits.iter().map(limit).collect(),
        max_percent: 80.0,
        min_percent: 30.0,
        interval_s: 300,
        fewest: 1,
        most: 4,
    }
}

/// 100 connections an engine.
fn by_connections() -> Policy {
    policy(&[(Criterion::OpenConns, 100.0)])
}

/// An engine of one VIP with so much of it, by one criterion.
fn engine(own: f64) -> EngineLoad {
    EngineLoad {
        name: "se-1".into(),
        vips: 1,
        loads: vec![Some(Load { total: own, own })],
    }
}

/// A VIP that has rested for long, with these loads on its engines.
fn vip(serving: &[f64], lingering: &[f64]) -> Vip {
    Vip {
        serving: serving.iter().copied().map(engine).collect(),
        lingering: lingering.iter().copied().map(engine).collect(),
        unchanged_s: 300,
        under_way: false,
    }
}

#[test]
fn the_level_is_that_of_equal_parts_and_decides() {
    for (serving, lingering, step, code) in [
        (&[81.0][..], &[][..], Step::Out, "load_high"),
        (&[80.0], &[], Step::Keep, "load_within_limits"),
        (&[29.0], &[], Step::Keep, "at_minimum"),
        // The first is full; two have room for all of it.
        (&[100.0, 0.0], &[], Step::Keep, "load_within_limits"),
        (&[170.0, 0.0], &[], Step::Out, "load_high"),
        (&[100.0, 100.0, 100.0, 100.0], &[], Step::Keep, "at_maximum"),
        (&[58.0, 0.0], &[], Step::In, "load_low"),
        // Those that leave will not carry it for ever.
        (&[20.0, 20.0], &[30.0], Step::Keep, "load_within_limits"),
        (&[20.0], &[70.0], Step::Out, "load_high"),
    ] {
        let decision = decide(&by_connections(), &vip(serving, lingering));
        assert_eq!(
            (decision.step, decision.why.code()),
            (step, code),
            "{serving:?} {lingering:?}: {decision}"
        );
    }
}

#[test]
fn the_reason_has_the_numbers() {
    let out = decide(&by_connections(), &vip(&[280.0], &[]));
    assert_eq!(
        out.to_string(),
        "280 open connections on 1 service engine are 280 % of a capacity of 100 each, above 80 % (max_cpu_usage); on 2 it would be 140 %"
    );
    let inwards = decide(&by_connections(), &vip(&[40.0, 0.0, 0.0, 0.0], &[]));
    assert_eq!(
        inwards.to_string(),
        "40 open connections on 4 service engines are 10 % of a capacity of 100 each, below 30 % (min_cpu_usage); on 3 it would be 13 %"
    );
    let figure = inwards.figures[0];
    assert_eq!((figure.load, figure.engines), (40.0, 4));
}

#[test]
fn one_criterion_is_enough_to_scale_out_and_all_of_them_are_needed_to_scale_in() {
    let both = policy(&[(Criterion::OpenConns, 100.0), (Criterion::Cps, 10.0)]);
    let carrying = |connections: f64, per_s: f64| {
        let load = |own| Some(Load { total: own, own });
        let mut vip = vip(&[0.0, 0.0], &[]);
        for engine in &mut vip.serving {
            engine.loads = vec![load(connections), load(per_s)];
        }
        decide(&both, &vip)
    };
    let high = carrying(1.0, 9.0);
    assert_eq!(high.step, Step::Out);
    assert!(high.to_string().starts_with("18 connections/s"), "{high}");
    assert_eq!(carrying(1.0, 5.0).step, Step::Keep);
    assert_eq!(carrying(1.0, 1.0).step, Step::In);
}

#[test]
fn of_many_vips_on_a_full_engine_those_that_are_light_are_not_scaled_out() {
    let beside = |own: f64, total: f64| {
        let mut one = vip(&[own], &[]);
        one.serving[0].vips = 3;
        one.serving[0].loads = vec![Some(Load { total, own })];
        decide(&by_connections(), &one)
    };
    assert_eq!(beside(60.0, 90.0).step, Step::Out);
    let light = beside(10.0, 90.0);
    assert_eq!(light.why.code(), "others_are_heavier");
    assert!(
        light.to_string().contains("beside 80 of others on each"),
        "{light}"
    );
    // What is no VIP's is not mended by another engine.
    let mut alone = vip(&[10.0], &[]);
    alone.serving[0].loads[0] = Some(Load {
        total: 90.0,
        own: 10.0,
    });
    let decision = decide(&by_connections(), &alone);
    assert_eq!(decision.why.code(), "others_are_heavier");
    // Nobody is spared where all are alike.
    assert_eq!(beside(30.0, 90.0).step, Step::Out);
}

#[test]
fn a_scale_in_leaves_room_for_a_little_more() {
    let narrow = Policy {
        min_percent: 60.0,
        ..by_connections()
    };
    let decision = decide(&narrow, &vip(&[50.0, 50.0], &[]));
    assert_eq!(decision.why.code(), "load_would_be_high");
    assert_eq!(decide(&narrow, &vip(&[36.0, 36.0], &[])).step, Step::In);
}

#[test]
fn nothing_is_done_without_figures_or_soon_after_a_change_or_amid_one() {
    let high = vip(&[500.0], &[]);
    let code = |vip: &Vip| decide(&by_connections(), vip).why.code();
    let silent = EngineLoad {
        loads: vec![None],
        ..engine(0.0)
    };
    let mut unknown = high.clone();
    unknown.lingering.push(silent.clone());
    assert_eq!(code(&unknown), "load_high");
    unknown.serving.push(silent);
    assert_eq!(code(&unknown), "no_figures");
    let soon = Vip {
        unchanged_s: 299,
        ..high.clone()
    };
    let cooling = decide(&by_connections(), &soon);
    assert_eq!(
        (cooling.step, &cooling.why),
        (Step::Keep, &Why::CoolingDown(1))
    );
    let amid = Vip {
        under_way: true,
        ..high.clone()
    };
    assert_eq!(code(&amid), "under_way");
    assert_eq!(code(&vip(&[], &[10.0])), "not_placed");
    assert_eq!(decide(&policy(&[]), &high).why.code(), "no_figures");
}

#[test]
fn every_criterion_has_a_word_and_a_capacity() {
    for criterion in Criterion::ALL {
        assert_eq!(Criterion::of(criterion.word()), Some(criterion));
        assert!(criterion.usual_capacity() > 0);
    }
    assert_eq!(Criterion::of("SE_AUTO_REBALANCE"), None);
}

/// A VIP in a group of engines that carry other VIPs too, under a load that does not change; how it lies on the engines
/// does, as flows do.
#[derive(Debug)]
struct World {
    policy: Policy,
    /// What others put on each engine.
    others: Vec<f64>,
    own: f64,
    engines: usize,
}

impl World {
    /// The VIP with its load in these parts, the last of which is on an engine that was scaled in.
    fn seen(&self, parts: &[f64]) -> Vip {
        let sum: f64 = parts[..=self.engines].iter().sum();
        let load = |n: usize| {
            let own = self.own * parts[n] / sum;
            let loads = vec![Some(Load {
                total: own + self.others[n],
                own,
            })];
            EngineLoad {
                loads,
                vips: 2,
                ..engine(0.0)
            }
        };
        Vip {
            serving: (0..self.engines).map(load).collect(),
            lingering: vec![load(self.engines)],
            ..vip(&[], &[])
        }
    }

    /// One decision, carried out: the newest engine goes.
    fn turn(&mut self, parts: &[f64]) -> Step {
        let decision = decide(&self.policy, &self.seen(parts));
        match decision.step {
            Step::Keep => {}
            Step::Out => self.engines += 1,
            Step::In => self.engines -= 1,
        }
        decision.step
    }
}

const ENGINES: usize = 9;

prop_compose! {
    fn world()(
        others in proptest::collection::vec(0.0..60.0f64, ENGINES + 1),
        own in 0.0..900.0f64,
        bounds in (40.0..90.0f64, 20.0..60.0f64),
        (fewest, more) in (1..4usize, 0..5usize),
        at in 0..5usize,
    ) -> World {
        let (max_percent, min_percent) = bounds;
        let policy = Policy { max_percent, min_percent, fewest, most: fewest + more, ..by_connections() };
        World { engines: fewest + at.min(more), policy, others, own }
    }
}

proptest! {
    #[test]
    fn a_load_that_does_not_change_comes_to_rest_and_never_turns_back(
        mut world in world(),
        turns in proptest::collection::vec(proptest::collection::vec(0.1..1.0f64, ENGINES + 1), 12),
    ) {
        let steps: Vec<Step> = turns.iter().map(|parts| world.turn(parts)).collect();
        let moved: Vec<Step> = steps.iter().copied().filter(|s| *s != Step::Keep).collect();
        prop_assert!(moved.iter().all(|s| *s == moved[0]), "{:?}", steps);
        let rests = steps.iter().position(|s| *s == Step::Keep).expect("it rests");
        prop_assert!(steps[rests..].iter().all(|s| *s == Step::Keep), "{:?}", steps);
    }

    #[test]
    fn bounds_rests_and_moves_under_way_are_respected(
        world in world(),
        parts in proptest::collection::vec(0.1..1.0f64, ENGINES + 1),
        unchanged_s in 0..600u64,
        under_way in any::<bool>(),
    ) {
        let vip = Vip { unchanged_s, under_way, ..world.seen(&parts) };
        let decision = decide(&world.policy, &vip);
        let n = match decision.step {
            Step::Keep => return Ok(()),
            Step::Out => world.engines + 1,
            Step::In => world.engines - 1,
        };
        prop_assert!((world.policy.fewest..=world.policy.most).contains(&n));
        prop_assert!(!under_way && unchanged_s >= world.policy.interval_s);
    }
}
