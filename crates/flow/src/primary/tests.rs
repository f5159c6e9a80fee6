use super::*;

const TICK: Duration = Duration::from_millis(50);

fn circle(us: u8, first: u8, others: &[u8], present: &[u8]) -> Circle {
    Circle {
        us,
        first,
        others: Members::of(others.iter().copied()),
        fit: true,
        leaves: false,
        present: Members::of(present.iter().copied()),
    }
}

/// Ticks for so long, and gives what was sent.
fn run(role: &mut Role, now: &mut Instant, circle: &Circle, time: Duration) -> Vec<Act> {
    let mut sent = Vec::new();
    let end = *now + time;
    while *now < end {
        *now += TICK;
        sent.extend(role.tick(*now, circle));
    }
    sent
}

fn begun() -> (Role, Instant) {
    let now = Instant::now();
    (Role::new(now), now)
}

fn answering(circle: &Circle) -> (Role, Instant) {
    let (mut role, mut now) = begun();
    run(&mut role, &mut now, circle, Duration::from_secs(4));
    assert_eq!(role.part(), Part::Answering);
    (role, now)
}

#[test]
fn the_named_one_is_the_primary_then_the_lowest_id_that_is_there() {
    assert_eq!(circle(3, 2, &[1, 2], &[1, 2]).primary(), Some(2));
    assert_eq!(circle(3, 2, &[1, 2], &[1]).primary(), Some(1));
    assert_eq!(circle(3, 2, &[1, 2], &[]).primary(), Some(3));
    let unfit = Circle {
        fit: false,
        ..circle(3, 3, &[1, 2], &[2])
    };
    assert_eq!(unfit.primary(), Some(2));
    let leaving = circle(3, 1, &[2], &[1]);
    assert_eq!(leaving.primary(), Some(3));
}

#[test]
fn one_that_begins_alone_in_its_group_asks_the_link_and_speaks_three_times() {
    let (mut role, mut now) = begun();
    let alone = circle(0, 0, &[], &[]);
    let sent = run(&mut role, &mut now, &alone, Duration::from_secs(5));
    use Act::{Announce, Probe};
    assert_eq!(sent, [Probe, Probe, Announce, Announce, Announce]);
}

#[test]
fn one_that_returns_is_silent_until_it_has_heard_the_others_or_a_second_is_over() {
    let (mut role, mut now) = begun();
    let heard_one = circle(0, 0, &[1, 2], &[1]);
    let sent = run(&mut role, &mut now, &heard_one, LISTEN - TICK);
    assert_eq!((role.part(), sent), (Part::Listening, vec![]));
    let heard_all = circle(0, 0, &[1, 2], &[1, 2]);
    run(&mut role, &mut now, &heard_all, TICK + CHECK + 2 * TICK);
    assert!(role.answers());
}

#[test]
fn a_secondary_takes_over_within_a_quarter_of_a_second_once_the_primary_is_gone() {
    let both = circle(1, 0, &[0, 2], &[0, 2]);
    let (mut role, mut now) = begun();
    assert_eq!(run(&mut role, &mut now, &both, Duration::from_secs(9)), []);
    let without = circle(1, 0, &[0, 2], &[2]);
    let sent = run(&mut role, &mut now, &without, CHECK + TICK);
    assert_eq!(sent, [Act::Probe, Act::Probe, Act::Announce]);
}

#[test]
fn a_dead_ones_kernel_that_still_answers_stops_nobody_who_hears_others() {
    let without = circle(1, 0, &[0, 2], &[2]);
    let (mut role, mut now) = begun();
    for _ in 0..40 {
        role.on_claim();
        run(&mut role, &mut now, &without, TICK);
    }
    assert!(role.answers());
}

#[test]
fn one_that_hears_nobody_is_silent_while_somebody_else_answers() {
    let cut_off = circle(1, 0, &[0, 2], &[]);
    let (mut role, mut now) = begun();
    let mut probes = 0;
    for _ in 0..200 {
        now += TICK;
        for act in role.tick(now, &cut_off) {
            assert_eq!(act, Act::Probe);
            probes += 1;
            role.on_claim();
        }
        assert!(!role.answers());
    }
    assert!((8..=11).contains(&probes), "{probes} in ten seconds");
    run(&mut role, &mut now, &cut_off, RECHECK + CHECK + 2 * TICK);
    assert!(role.answers(), "nobody answers any more");
}

#[test]
fn an_isolated_primary_goes_on_and_yields_to_whoever_has_taken_over() {
    let (mut role, mut now) = answering(&circle(0, 0, &[1, 2], &[1, 2]));
    let cut_off = circle(0, 0, &[1, 2], &[]);
    let sent = run(&mut role, &mut now, &cut_off, Duration::from_secs(3));
    assert!(role.answers() && sent.len() >= 2, "{sent:?}");
    assert!(sent.iter().all(|act| *act == Act::Probe));
    role.on_claim();
    run(&mut role, &mut now, &cut_off, TICK);
    assert_eq!(role.part(), Part::Silent);
}

#[test]
fn when_a_partition_heals_the_first_speaks_again_and_the_other_is_silent_when_it_does() {
    let (mut first, mut now) = answering(&circle(0, 0, &[1], &[]));
    let healed = run(&mut first, &mut now, &circle(0, 0, &[1], &[1]), TICK);
    assert_eq!(healed, [Act::Announce]);
    let (mut second, mut now) = answering(&circle(1, 0, &[0], &[]));
    run(&mut second, &mut now, &circle(1, 0, &[0], &[0]), TICK);
    assert!(second.answers(), "until it hears the other");
    second.on_claim();
    assert!(!second.answers());
}

#[test]
fn one_that_is_the_first_no_more_answers_until_the_other_speaks_but_not_for_ever() {
    let (mut old, mut now) = answering(&circle(0, 0, &[1], &[1]));
    old.on_claim();
    run(&mut old, &mut now, &circle(0, 0, &[1], &[1]), 2 * YIELD);
    let moved = circle(0, 1, &[1], &[1]);
    run(&mut old, &mut now, &moved, YIELD / 2);
    assert!(
        old.answers(),
        "what was claimed long before is another matter"
    );
    run(&mut old, &mut now, &moved, YIELD);
    assert_eq!(old.part(), Part::Silent);
}

#[test]
fn one_that_hears_the_first_before_it_knows_that_it_is_there_is_silent_as_soon_as_it_knows() {
    let (mut second, mut now) = answering(&circle(1, 0, &[0, 2], &[2]));
    second.on_claim();
    run(
        &mut second,
        &mut now,
        &circle(1, 0, &[0, 2], &[2]),
        3 * TICK,
    );
    assert!(second.answers(), "it may be anybody");
    run(&mut second, &mut now, &circle(1, 0, &[0, 2], &[0, 2]), TICK);
    assert_eq!(second.part(), Part::Silent);
}

#[test]
fn one_that_leaves_answers_for_as_long_as_nobody_else_does() {
    let (mut old, mut now) = answering(&circle(0, 0, &[1], &[1]));
    let leaves = Circle {
        fit: false,
        leaves: true,
        ..circle(0, 1, &[1], &[1])
    };
    let sent = run(&mut old, &mut now, &leaves, 5 * YIELD);
    assert!(old.answers() && sent.is_empty(), "{sent:?}");
    old.on_claim();
    assert_eq!(old.part(), Part::Silent);
    let sent = run(&mut old, &mut now, &leaves, 5 * YIELD);
    assert!(!old.answers() && sent.is_empty(), "{sent:?}");
}

/// Until it has heard the only other one.
fn listens_then_answers(role: &mut Role, mut now: Instant) {
    assert_eq!(role.part(), Part::Listening);
    run(role, &mut now, &circle(0, 0, &[1], &[]), LISTEN / 2);
    assert_eq!(role.part(), Part::Listening);
    run(role, &mut now, &circle(0, 0, &[1], &[1]), CHECK + 3 * TICK);
    assert!(role.answers());
}

#[test]
fn one_whose_link_was_gone_listens_before_it_speaks_again() {
    let there = circle(0, 0, &[1], &[1]);
    let (mut role, mut now) = answering(&there);
    let gone = Circle {
        fit: false,
        ..there.clone()
    };
    run(&mut role, &mut now, &gone, TICK);
    listens_then_answers(&mut role, now);
}

#[test]
fn a_single_claim_soon_after_an_announcement_is_answered_when_that_is_a_second_ago() {
    let there = circle(0, 0, &[1], &[1]);
    let (mut role, mut now) = answering(&there);
    assert_eq!(run(&mut role, &mut now, &there, DEFEND), []);
    role.on_claim();
    assert_eq!(run(&mut role, &mut now, &there, TICK), [Act::Announce]);
    role.on_claim();
    assert_eq!(run(&mut role, &mut now, &there, DEFEND - TICK), []);
    assert_eq!(run(&mut role, &mut now, &there, TICK), [Act::Announce]);
    assert_eq!(run(&mut role, &mut now, &there, DEFEND), []);
}

#[test]
fn a_claim_is_answered_once_a_second_at_most() {
    let there = circle(0, 0, &[1], &[1]);
    let (mut role, mut now) = answering(&there);
    let mut sent = 0;
    for _ in 0..100 {
        role.on_claim();
        sent += run(&mut role, &mut now, &there, TICK).len();
    }
    assert_eq!(sent, 5);
    assert!(role.answers());
}

#[test]
fn one_that_hung_listens_before_it_speaks_again() {
    let there = circle(0, 0, &[1], &[1]);
    let (mut role, mut now) = answering(&there);
    now += Duration::from_secs(3);
    role.tick(now, &circle(0, 0, &[1], &[]));
    listens_then_answers(&mut role, now);
}

#[test]
fn a_planned_switch_over_makes_the_new_one_speak() {
    let mut now = Instant::now();
    let mut new = Role::new(now);
    run(
        &mut new,
        &mut now,
        &circle(1, 0, &[0], &[0]),
        Duration::from_secs(2),
    );
    let sent = run(
        &mut new,
        &mut now,
        &circle(1, 1, &[0], &[0]),
        CHECK + 2 * TICK,
    );
    assert_eq!(sent.last(), Some(&Act::Announce));
}
