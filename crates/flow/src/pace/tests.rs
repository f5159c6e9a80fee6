//! Grows, shrinks, opens, and is bounded whatever it is told.

use super::*;
use proptest::prelude::*;

const OTHERS: usize = 4;

fn probes(rate: Rate) -> u64 {
    u64::from(rate.copies_per_s) / OTHERS as u64
}

fn claimed(rate: Rate) -> Tally {
    let probes = probes(rate) / 10;
    Tally {
        probes,
        claimed: probes,
        over_budget: 1,
        ..Tally::default()
    }
}

fn forged(rate: Rate) -> Tally {
    let probes = probes(rate) / 10;
    Tally {
        probes,
        denied: probes,
        over_budget: 10_000,
        ..Tally::default()
    }
}

fn ticked(pace: &mut Pace, now: Instant, ticks: usize, tally: fn(Rate) -> Tally) -> Rate {
    for _ in 0..ticks {
        let rate = pace.rate(now, OTHERS);
        pace.tick(now, OTHERS, &tally(rate));
    }
    pace.rate(now, OTHERS)
}

#[test]
fn it_grows_from_floor_to_ceiling_within_a_second_while_probes_are_claimed() {
    let now = Instant::now();
    let mut pace = Pace::new();
    assert_eq!(probes(pace.rate(now, OTHERS)), u64::from(FLOOR_PROBES));
    let rate = ticked(&mut pace, now, 10, claimed);
    assert_eq!(probes(rate), u64::from(Pace::ceiling(OTHERS)));
    assert_eq!(rate.burst, rate.copies_per_s / 4);
    assert_eq!(rate.copies_per_s, CEILING);
}

#[test]
fn it_shrinks_to_the_floor_within_a_second_under_forged_acks() {
    let now = Instant::now();
    let mut pace = Pace::new();
    ticked(&mut pace, now, 10, claimed);
    assert_eq!(
        probes(ticked(&mut pace, now, 10, forged)),
        u64::from(FLOOR_PROBES)
    );
    assert_eq!(
        probes(ticked(&mut pace, now, 100, forged)),
        u64::from(FLOOR_PROBES)
    );
}

#[test]
fn it_does_not_grow_without_need() {
    let now = Instant::now();
    let mut pace = Pace::new();
    let few = Tally {
        probes: 4,
        claimed: 4,
        ..Tally::default()
    };
    assert_eq!(
        probes(pace.tick(now, OTHERS, &few)),
        u64::from(FLOOR_PROBES)
    );
}

#[test]
fn it_stays_where_claims_and_denials_are_mixed() {
    let now = Instant::now();
    let mut pace = Pace::new();
    ticked(&mut pace, now, 5, claimed);
    let before = pace.rate(now, OTHERS);
    let mixed = Tally {
        probes: 300,
        claimed: 100,
        denied: 200,
        over_budget: 50,
        ..Tally::default()
    };
    assert_eq!(pace.tick(now, OTHERS, &mixed), before);
}

#[test]
fn unanswered_probes_count_like_denied_ones() {
    let now = Instant::now();
    let mut pace = Pace::new();
    ticked(&mut pace, now, 10, claimed);
    let silent = Tally {
        probes: 1000,
        unanswered: 1000,
        ..Tally::default()
    };
    let before = probes(pace.rate(now, OTHERS));
    assert_eq!(probes(pace.tick(now, OTHERS, &silent)), before / 2);
}

#[test]
fn it_sinks_back_to_the_floor_when_nothing_happens() {
    let now = Instant::now();
    let mut pace = Pace::new();
    ticked(&mut pace, now, 10, claimed);
    let idle = |_| Tally::default();
    assert_eq!(
        probes(ticked(&mut pace, now, 100, idle)),
        u64::from(FLOOR_PROBES)
    );
}

#[test]
fn an_event_opens_it_wide_at_once_and_for_the_window_only() {
    let now = Instant::now();
    let mut pace = Pace::new();
    let event = Tally {
        events: 1,
        ..Tally::default()
    };
    assert_eq!(
        probes(pace.tick(now, OTHERS, &event)),
        u64::from(Pace::ceiling(OTHERS))
    );
    let last = now + EVENT_WINDOW - Duration::from_millis(1);
    assert_eq!(
        probes(pace.rate(last, OTHERS)),
        u64::from(Pace::ceiling(OTHERS))
    );
    assert_eq!(
        probes(pace.rate(now + EVENT_WINDOW, OTHERS)),
        u64::from(FLOOR_PROBES)
    );
}

#[test]
fn forged_acks_in_the_window_are_bounded_by_the_ceiling_and_forgotten_after_it() {
    let now = Instant::now();
    let mut pace = Pace::new();
    pace.on_event(now);
    let rate = ticked(&mut pace, now, 50, forged);
    assert_eq!(probes(rate), u64::from(Pace::ceiling(OTHERS)));
    assert_eq!(
        probes(pace.rate(now + EVENT_WINDOW, OTHERS)),
        u64::from(FLOOR_PROBES)
    );
}

#[test]
fn the_ceiling_counts_copies_and_never_falls_below_the_floor() {
    assert_eq!(Pace::ceiling(0), CEILING);
    assert_eq!(Pace::ceiling(4), CEILING / 4);
    assert_eq!(Pace::ceiling(usize::MAX), CEILING / 63);
}

prop_compose! {
    fn tallies()(
        probes in 0..1_000_000u64,
        claimed in 0..1_000_000u64,
        denied in 0..1_000_000u64,
        unanswered in 0..1_000_000u64,
        over_budget in 0..1_000_000u64,
        events in 0..2u64,
    ) -> Tally {
        Tally { probes, claimed, denied, unanswered, over_budget, events }
    }
}

proptest! {
    #[test]
    fn whatever_is_counted_the_rate_is_between_floor_and_ceiling(
        tallies in proptest::collection::vec((tallies(), 0..70usize, 0..10_000u64), 1..100),
    ) {
        let (mut now, mut pace) = (Instant::now(), Pace::new());
        for (tally, others, gap_ms) in &tallies {
            now += Duration::from_millis(*gap_ms);
            let rate = pace.tick(now, *others, tally);
            let members = members(*others);
            let probes = rate.copies_per_s / members;
            prop_assert!((FLOOR_PROBES..=Pace::ceiling(*others)).contains(&probes));
            prop_assert!(rate.copies_per_s <= CEILING.max(FLOOR_PROBES * members));
            prop_assert!(rate.burst <= rate.copies_per_s.max(BURST_LEAST_PROBES * members));
        }
    }
}
