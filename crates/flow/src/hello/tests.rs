//! Answers, silence, and what they do to peers.

use super::*;
use crate::config::{Answers, Group, Member};
use proptest::prelude::*;

const DOWN_AFTER: u32 = 3;
const DEAD_AFTER: u32 = 50;

fn way(ours: u8, theirs: u8) -> Way {
    Way {
        local: [10, 0, ours, 1].into(),
        remote: [10, 0, theirs, 2].into(),
    }
}

fn followed(ways: &[Way]) -> Hellos {
    let mut hellos = Hellos::default();
    hellos.follow(&ways.iter().copied().collect(), Rhythm::default());
    hellos
}

/// So many ticks, of which the first are answered.
fn ticks(hellos: &mut Hellos, answered: u32, silent: u32) {
    for tick in 0..answered + silent {
        let (number, ways) = hellos.tick();
        if tick < answered {
            ways.into_iter().for_each(|way| hellos.heard(way, number));
        }
    }
}

fn state_of(hellos: &Hellos) -> Option<State> {
    hellos.liveness().values().next().copied()
}

/// So many ticks, answered by the first way's peer alone.
fn ticks_of_the_second(hellos: &mut Hellos, silent: u32) {
    for _ in 0..silent {
        let (number, ways) = hellos.tick();
        hellos.heard(ways[0], number);
    }
}

#[test]
fn a_way_goes_down_and_the_member_is_dead_long_after() {
    let mut hellos = followed(&[way(1, 1), way(2, 2)]);
    let state_of = |hellos: &Hellos| hellos.liveness().get(&way(2, 2)).copied();
    assert_eq!(state_of(&hellos), None);
    ticks(&mut hellos, 0, 2 * DEAD_AFTER);
    assert_eq!(state_of(&hellos), None, "it was never heard");
    for (silent, state) in [
        (DOWN_AFTER, State::Up),
        (DOWN_AFTER + 1, State::Down),
        (DEAD_AFTER, State::Down),
        (DEAD_AFTER + 1, State::Dead),
    ] {
        ticks(&mut hellos, 1, 0);
        ticks_of_the_second(&mut hellos, silent);
        assert_eq!(state_of(&hellos), Some(state), "{silent} ticks");
    }
    ticks(&mut hellos, 1, 0);
    assert_eq!(state_of(&hellos), Some(State::Up), "and it is back");
}

#[test]
fn another_rhythm_changes_when_a_way_is_down_and_not_how_long_until_dead() {
    let rhythm = |interval_ms, down_after| Rhythm {
        interval: Duration::from_millis(interval_ms),
        down_after,
    };
    for (rhythm, dead_after) in [
        (Rhythm::default(), DEAD_AFTER),
        (rhythm(50, 3), 100),
        (rhythm(1000, 10), 11),
    ] {
        assert_eq!(rhythm.dead_after(), dead_after, "{rhythm:?}");
        let mut hellos = followed(&[way(1, 1), way(2, 2)]);
        hellos.follow(&BTreeSet::from([way(1, 1), way(2, 2)]), rhythm);
        let state_of = |hellos: &Hellos| hellos.liveness().get(&way(2, 2)).copied();
        ticks(&mut hellos, 1, 0);
        ticks_of_the_second(&mut hellos, rhythm.down_after);
        assert_eq!(state_of(&hellos), Some(State::Up));
        ticks_of_the_second(&mut hellos, 1);
        assert_eq!(state_of(&hellos), Some(State::Down));
        ticks_of_the_second(&mut hellos, dead_after - rhythm.down_after);
        assert_eq!(state_of(&hellos), Some(State::Dead));
    }
}

#[test]
fn whoever_hears_nobody_is_cut_off_and_holds_nobody_for_dead() {
    let mut hellos = followed(&[way(1, 1), way(2, 2)]);
    ticks(&mut hellos, 1, 10 * DEAD_AFTER);
    let states: Vec<State> = hellos.liveness().into_values().collect();
    assert_eq!(states, [State::Down, State::Down]);
    // One of them is back before the other.
    ticks_of_the_second(&mut hellos, DEAD_AFTER - DOWN_AFTER - 1);
    let states: Vec<State> = hellos.liveness().into_values().collect();
    assert_eq!(states, [State::Up, State::Down]);
}

#[test]
fn who_answers_late_is_down_and_never_dead() {
    let mut hellos = followed(&[way(1, 1), way(2, 2)]);
    ticks(&mut hellos, 1, 0);
    let late = u16::try_from(DOWN_AFTER + 2).unwrap();
    for _ in 0..3 * DEAD_AFTER {
        let (number, _) = hellos.tick();
        hellos.heard(way(1, 1), number);
        hellos.heard(way(2, 2), number.saturating_sub(late).max(1));
    }
    let states: Vec<State> = hellos.liveness().into_values().collect();
    assert_eq!(states, [State::Up, State::Down]);
}

#[test]
fn nobody_dies_of_another_rhythm() {
    let mut hellos = followed(&[way(1, 1), way(2, 2)]);
    let ways = [way(1, 1), way(2, 2)].into();
    let fast = Rhythm {
        interval: std::time::Duration::from_millis(20),
        down_after: 3,
    };
    hellos.follow(&ways, fast);
    ticks(&mut hellos, 1, 0);
    ticks_of_the_second(&mut hellos, 2 * DEAD_AFTER);
    let second = |hellos: &Hellos| hellos.liveness()[&way(2, 2)];
    assert_eq!(second(&hellos), State::Down);
    hellos.follow(&ways, Rhythm::default());
    assert_eq!(second(&hellos), State::Down);
    ticks_of_the_second(&mut hellos, 1);
    assert_eq!(second(&hellos), State::Dead);
}

#[test]
fn an_answer_to_a_hello_of_long_ago_says_nothing() {
    let mut hellos = followed(&[way(1, 1)]);
    ticks(&mut hellos, 1, 20);
    let (number, _) = hellos.tick();
    for old in [number - DOWN_AFTER as u16, number + 1, 0] {
        hellos.heard(way(1, 1), old);
        assert_eq!(state_of(&hellos), Some(State::Down), "{old}");
    }
    hellos.heard(way(9, 9), number);
    assert_eq!(hellos.liveness().len(), 1, "a way of nobody");
    hellos.heard(way(1, 1), number - 2);
    assert_eq!(state_of(&hellos), Some(State::Up));
}

#[test]
fn what_is_known_of_a_way_goes_with_it() {
    let mut hellos = followed(&[way(1, 1), way(2, 2)]);
    ticks(&mut hellos, 1, 0);
    hellos.follow(&BTreeSet::from([way(2, 2), way(3, 3)]), Rhythm::default());
    assert_eq!(hellos.liveness(), BTreeMap::from([(way(2, 2), State::Up)]));
}

fn peer(alive: bool) -> Peer {
    let link = |n: u8| Link {
        local: way(n, n).local,
        remote: way(n, n).remote,
        ifindex: n.into(),
        next_hop: None,
    };
    Peer {
        se_uuid: "serviceengine-2".into(),
        name: "se-2".into(),
        addresses: vec![],
        links: vec![link(1), link(2)],
        alive,
    }
}

fn config(alive: bool) -> Config {
    let member = Member {
        id: 2,
        peer: 0,
        takes_new: true,
    };
    Config {
        peers: vec![peer(alive)],
        groups: vec![Group {
            vsvip_uuid: "vsvip-1".into(),
            generation: 1,
            us: 1,
            drains: false,
            spread: None,
            answers: Answers::default(),
            members: vec![member],
        }],
        ..Config::default()
    }
}

/// Alive, by which link, and whether new flows go there.
fn judged(controller: bool, states: [Option<State>; 2]) -> (bool, u32, bool) {
    let known = [1, 2].map(|n| way(n, n)).into_iter().zip(states);
    let liveness = known.filter_map(|(way, state)| Some((way, state?)));
    let mut config = config(controller);
    judge(&mut config, &liveness.collect());
    let (peer, member) = (&config.peers[0], config.groups[0].members[0]);
    (peer.alive, peer.links[0].ifindex, member.takes_new)
}

#[test]
fn hellos_overrule_the_controller_and_choose_the_way() {
    use State::{Dead, Down, Up};
    for (controller, states, expected) in [
        (true, [None, None], (true, 1, true)),
        (false, [None, None], (false, 1, true)),
        (false, [None, Some(Up)], (true, 2, true)),
        (true, [Some(Down), Some(Up)], (true, 2, true)),
        (true, [Some(Down), None], (true, 2, false)),
        (true, [Some(Down), Some(Down)], (true, 1, false)),
        (false, [Some(Down), Some(Down)], (false, 1, false)),
        (true, [Some(Dead), Some(Dead)], (false, 1, false)),
        (true, [Some(Dead), Some(Down)], (true, 2, false)),
    ] {
        assert_eq!(judged(controller, states), expected, "{states:?}");
    }
}

proptest! {
    /// Numbers wrap; an answer at once is always taken.
    #[test]
    fn a_member_that_answers_is_up_for_ever(ticks_before in 0_u32..40_000) {
        let mut hellos = followed(&[way(1, 1)]);
        hellos.number = (ticks_before % u32::from(VALUE_MASK)) as u16;
        ticks(&mut hellos, 5, 0);
        prop_assert_eq!(state_of(&hellos), Some(State::Up));
        prop_assert!((1..=VALUE_MASK).contains(&hellos.number));
    }
}
