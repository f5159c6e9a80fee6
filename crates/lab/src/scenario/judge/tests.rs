use super::*;
use crate::member::traffic::{EngineShare, UNREACHABLE};

const BARS: Bars = Bars {
    fib_s: 1.0,
    first_connection_s: 2.0,
    engine_idle_rss_mib: Some(40),
    none_breaks: false,
    silent_s: 1.0,
};

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|n| (*n).to_owned()).collect()
}

fn failure(port: u16) -> Failure {
    Failure {
        port,
        reason: "reset".into(),
        engine: None,
        t_us: 1,
    }
}

/// One flow on se-1, and se-2 came in.
fn scaled_out() -> Observation {
    let flow = Flow {
        from: "a".into(),
        to: "a".into(),
        moves: 0,
    };
    Observation {
        step: "1→2".into(),
        assigned: names(&["se-1", "se-2"]),
        fib: names(&["se-1", "se-2"]),
        new: names(&["se-2"]),
        api_to_fib_s: vec![Some(0.2)],
        first_connection_s: BTreeMap::from([("se-2".into(), 0.3)]),
        share: BTreeMap::from([("se-1".into(), 30), ("se-2".into(), 10)]),
        connections: 1,
        owners: BTreeMap::from([(1000, "se-1".into())]),
        flows: BTreeMap::from([(1000, flow)]),
        engines_by_mac: BTreeMap::from([("a".into(), "se-1".into()), ("b".into(), "se-2".into())]),
        report: Report {
            exchanges: 10,
            engines: BTreeMap::from([([10, 0, 0, 1].into(), EngineShare::default())]),
            ..Report::default()
        },
        ..Observation::default()
    }
}

#[test]
fn where_none_may_break_a_moved_flow_that_breaks_is_a_violation() {
    let mut seen = scaled_out();
    let flow = seen.flows.get_mut(&1000).expect("there");
    (flow.to, flow.moves) = ("b".into(), 1);
    seen.report.broken.push(failure(1000));
    let strict = Bars {
        none_breaks: true,
        silent_s: 1.0,
        ..BARS
    };
    assert_eq!(judge(&seen, &BARS).violations, Vec::<String>::new());
    let strict = judge(&seen, &strict).violations;
    assert_eq!(strict.len(), 1, "{strict:?}");
    assert!(strict[0].contains("and none may"), "{strict:?}");
}

fn violations(change: impl FnOnce(&mut Observation)) -> Vec<String> {
    let mut seen = scaled_out();
    change(&mut seen);
    judge(&seen, &BARS).violations
}

#[test]
fn a_clean_step_holds_and_is_measured() {
    let result = judge(&scaled_out(), &BARS);
    assert_eq!(result.violations, Vec::<String>::new());
    assert_eq!(
        (result.share["se-1"], result.api_to_fib_s),
        (0.75, Some(0.2))
    );
}

#[test]
fn a_moved_flow_may_break_and_is_counted() {
    let mut seen = scaled_out();
    seen.flows.insert(
        1000,
        Flow {
            from: "a".into(),
            to: "b".into(),
            moves: 1,
        },
    );
    seen.report.broken.push(failure(1000));
    let result = judge(&seen, &BARS);
    assert_eq!(result.violations, Vec::<String>::new());
    assert_eq!(
        (
            result.flows_moved,
            result.flows_broken,
            result.broken_reasons["reset"]
        ),
        (1, 1, 1)
    );
}

#[test]
fn a_flow_that_breaks_where_it_is_is_a_violation() {
    let found = violations(|seen| seen.report.broken.push(failure(1000)));
    assert!(found[0].contains(":1000 on se-1 (reset)"), "{found:?}");
}

#[test]
fn a_flow_of_an_se_that_left_may_break() {
    let found = violations(|seen| {
        seen.fib = names(&["se-2"]);
        seen.assigned = names(&["se-2"]);
        seen.report.broken.push(failure(1000));
    });
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn a_failed_short_connection_is_judged_like_a_flow() {
    assert_eq!(
        violations(|seen| seen.report.short_failures.push(failure(1000))).len(),
        1
    );
}

fn session(ports: &str, times_established: u64) -> Session {
    Session {
        neighbor: [10, 0, 0, 1].into(),
        state: "Established".into(),
        ports: ports.into(),
        times_established: Some(times_established),
    }
}

/// Violations of a step that nothing should notice, with this changed.
fn disturbed(change: impl FnOnce(&mut Observation, &mut Calm)) -> Vec<String> {
    violations(|seen| {
        let mut calm = Calm {
            before: vec![session("179 5000", 1)],
            after: vec![session("179 5000", 1)],
            route_changes: 0,
        };
        change(seen, &mut calm);
        seen.calm = Some(calm);
    })
}

#[test]
fn a_step_that_nothing_notices_holds() {
    assert_eq!(disturbed(|_, _| ()), Vec::<String>::new());
}

#[test]
fn whatever_moves_breaks_or_fails_disturbs_also_where_it_is_explained() {
    let moved = |seen: &mut Observation| {
        seen.flows.get_mut(&1000).expect("there").moves = 1;
    };
    let text = "1 flow(s) moved in a step that nothing should notice";
    assert_eq!(disturbed(|seen, _| moved(seen)), [text]);
    let broken = disturbed(|seen, _| {
        moved(seen);
        seen.report.broken.push(failure(1000));
        seen.report.short_failed = 1;
    });
    assert_eq!(broken.len(), 3, "{broken:?}");
}

#[test]
fn another_connection_another_count_a_session_less_or_more_disturb() {
    for after in [
        vec![session("179 5001", 1)],
        vec![session("179 5000", 2)],
        vec![],
        vec![session("179 5000", 1), session("179 6000", 1)],
    ] {
        let found = disturbed(|_, calm| calm.after = after);
        assert!(
            found.len() == 1 && found[0].contains("sessions were"),
            "{found:?}"
        );
    }
    let found = disturbed(|_, calm| calm.route_changes = 2);
    assert!(
        found[0].starts_with("2 time(s) the route changed"),
        "{found:?}"
    );
}

#[test]
fn a_router_without_sessions_proves_nothing() {
    let found = disturbed(|_, calm| {
        calm.before.clear();
        calm.after.clear();
    });
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn a_fib_that_differs_from_the_placement_is_a_violation() {
    let found = violations(|seen| seen.assigned = names(&["se-1", "se-2", "se-3"]));
    assert!(found[0].contains("se-3"), "{found:?}");
}

#[test]
fn a_lost_se_is_not_expected_in_the_fib() {
    let found = violations(|seen| {
        seen.assigned = names(&["se-1", "se-2", "se-3"]);
        seen.lost = names(&["se-3"]);
    });
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn a_late_or_missing_route_is_a_violation() {
    assert_eq!(
        violations(|seen| seen.api_to_fib_s = vec![Some(1.0)]).len(),
        1
    );
    assert_eq!(violations(|seen| seen.api_to_fib_s = vec![None]).len(), 1);
}

#[test]
fn a_new_se_without_connections_is_a_violation() {
    assert_eq!(violations(|seen| seen.first_connection_s.clear()).len(), 1);
    assert_eq!(violations(|seen| _ = seen.share.remove("se-2")).len(), 1);
}

#[test]
fn a_step_without_messages_proves_nothing() {
    assert_eq!(violations(|seen| seen.report.exchanges = 0).len(), 1);
    assert_eq!(violations(|seen| seen.owners.clear()).len(), 1);
}

const STRICT: Bars = Bars {
    none_breaks: true,
    silent_s: 1.0,
    ..BARS
};

/// Four flows: ports 1 and 2 are of a client with timestamps, 51 and 52 of one without; 1 and 51 live on se-1, the others on
/// se-2. The router has sent 1 and 51 to se-2, which had to ask whose 51 is.
fn rehashed() -> Observation {
    let flow = |from: &str, to: &str| Flow {
        from: from.into(),
        to: to.into(),
        moves: u32::from(from != to),
    };
    let client = |last: u8, ports, timestamps| Client {
        address: [10, 0, 0, last].into(),
        ports,
        timestamps,
    };
    let owners = [(1, "se-1"), (2, "se-2"), (51, "se-1"), (52, "se-2")];
    let known = BTreeMap::from([("se-2".into(), BTreeSet::from([51]))]);
    Observation {
        connections: 4,
        owners: owners.map(|(port, se)| (port, se.to_owned())).into(),
        flows: BTreeMap::from([
            (1, flow("a", "b")),
            (2, flow("b", "b")),
            (51, flow("a", "b")),
            (52, flow("b", "b")),
        ]),
        engines_by_address: BTreeMap::from([
            ([10, 20, 20, 11].into(), "se-1".into()),
            ([10, 20, 20, 12].into(), "se-2".into()),
        ]),
        clients: vec![client(2, 1..50, true), client(3, 50..100, false)],
        known,
        packets: BTreeMap::from([("tunnel_hint".into(), 9)]),
        rules: Rules {
            moved_min_percent: 20,
            calls_within_s: Some(1.0),
            found_by: Some(vec![Way::Hint, Way::Probe]),
            ..Rules::default()
        },
        ..scaled_out()
    }
}

/// What does not hold when none may break, with this changed.
fn rehash_violations(change: impl FnOnce(&mut Observation)) -> Vec<String> {
    let mut seen = rehashed();
    change(&mut seen);
    judge(&seen, &STRICT).violations
}

fn one(found: &[String], text: &str) {
    assert!(found.len() == 1 && found[0].contains(text), "{found:?}");
}

fn found(change: impl FnOnce(&mut Observation)) -> Found {
    let mut seen = rehashed();
    change(&mut seen);
    judge(&seen, &STRICT).found
}

#[test]
fn moved_flows_are_counted_by_how_their_owner_was_found() {
    let counts = |home, hint, cache, probe| Found {
        home,
        hint,
        cache,
        probe,
    };
    assert_eq!(rehash_violations(|_| ()), Vec::<String>::new());
    assert_eq!(found(|_| ()), counts(0, 1, 0, 1));
    let asked_before = |seen: &mut Observation| seen.known_before = seen.known.clone();
    assert_eq!(found(asked_before), counts(0, 1, 1, 0));
    let came_home = |seen: &mut Observation| _ = seen.owners.insert(51, "se-2".into());
    assert_eq!(found(came_home), counts(1, 1, 0, 0));
    let broke = |seen: &mut Observation| seen.report.broken.push(failure(1));
    assert_eq!(found(broke), counts(0, 0, 0, 1));
    let asked_for_both = |seen: &mut Observation| {
        seen.known.entry("se-2".into()).or_default().insert(1);
    };
    assert_eq!(found(asked_for_both), counts(0, 0, 0, 2));
    let hint_in_spite_of_cache = |seen: &mut Observation| {
        seen.known.entry("se-2".into()).or_default().insert(1);
        seen.known_before = seen.known.clone();
    };
    assert_eq!(found(hint_in_spite_of_cache), counts(0, 1, 1, 0));
}

#[test]
fn a_step_that_moves_too_few_is_invalid() {
    let one_moved = |seen: &mut Observation| {
        seen.rules.moved_min_percent = 51;
    };
    one(
        &rehash_violations(one_moved),
        "invalid: the router moved 2 of 4 flows",
    );
    let exactly = |seen: &mut Observation| seen.rules.moved_min_percent = 50;
    assert_eq!(rehash_violations(exactly), Vec::<String>::new());
}

#[test]
fn the_flows_of_an_engine_that_dies_count_as_moved() {
    let dies = |seen: &mut Observation| {
        seen.rules.dies = Some("se-2".into());
        let its = seen.owners.iter().filter(|(_, owner)| *owner == "se-2");
        seen.report.broken = its.map(|(port, _)| failure(*port)).collect();
        seen.rules.moved_min_percent = 100;
    };
    assert_eq!(rehash_violations(dies), Vec::<String>::new());
}

#[test]
fn calls_that_are_too_far_apart_are_invalid() {
    let slow = |seen: &mut Observation| seen.calls_took_s = 1.0;
    one(&rehash_violations(slow), "the calls took 1.000 s");
}

#[test]
fn a_mode_that_finds_owners_in_another_way_is_no_proof() {
    let only = |way: Way| move |seen: &mut Observation| seen.rules.found_by = Some(vec![way]);
    one(
        &rehash_violations(only(Way::Hint)),
        "1 owner(s) were found by probe",
    );
    let by_probe = rehash_violations(only(Way::Probe));
    assert!(
        by_probe[0].contains("1 owner(s) were found by hint"),
        "{by_probe:?}"
    );
    assert!(
        by_probe[1].contains("9 packet(s) were sent by hint"),
        "{by_probe:?}"
    );
}

/// So many flows of clients with timestamps are away from their owner, and so many of them were asked for.
fn away(seen: &mut Observation, flows: u16, asked_for: u16) {
    seen.connections = flows.into();
    seen.owners = (1..=flows).map(|port| (port, "se-1".into())).collect();
    let moved = seen.flows[&1].clone();
    seen.flows = (1..=flows).map(|port| (port, moved.clone())).collect();
    seen.known = BTreeMap::from([("se-2".into(), (1..=asked_for).collect())]);
}

#[test]
fn a_way_that_is_to_be_proven_must_be_taken_when_many_flows_are_away() {
    let both = |flows, asked_for| rehash_violations(|seen| away(seen, flows, asked_for));
    one(&both(20, 0), "invalid: no owner was found by probe");
    one(&both(20, 20), "invalid: no owner was found by hint");
    assert_eq!(both(19, 0), Vec::<String>::new());
    assert_eq!(both(20, 10), Vec::<String>::new());
}

#[test]
fn one_in_twenty_flows_with_hints_may_share_a_no_hint_bit_and_be_asked_for() {
    let asked_for = |count: u16| {
        rehash_violations(|seen| {
            away(seen, 20, count);
            seen.rules.found_by = Some(vec![Way::Hint]);
        })
    };
    assert_eq!(asked_for(1), Vec::<String>::new());
    one(
        &asked_for(2),
        "2 owner(s) were found by probe, at most 1 may be",
    );
}

#[test]
fn what_breaks_is_named_with_where_it_lived() {
    let breaks = |seen: &mut Observation| {
        seen.report.broken.push(failure(51));
        seen.report.downloads_failed.push(Failure {
            engine: Some([10, 20, 20, 12].into()),
            ..failure(60)
        });
    };
    let violations = rehash_violations(breaks);
    assert!(
        violations[0].contains("10.0.0.3:51 on se-1 (reset)"),
        "{violations:?}"
    );
    assert!(
        violations[1].contains("1 download(s) failed"),
        "{violations:?}"
    );
    assert!(
        violations[1].contains("10.0.0.3:60 on se-2"),
        "{violations:?}"
    );
}

#[test]
fn of_many_that_break_some_are_named() {
    let breaks = |seen: &mut Observation| seen.report.broken = vec![failure(51); 10];
    one(&rehash_violations(breaks), "and 2 more");
}

/// se-1 dies, and these flows break.
fn killed(broken: &[u16], change: impl FnOnce(&mut Observation)) -> Vec<String> {
    rehash_violations(|seen| {
        seen.rules.dies = Some("se-1".into());
        seen.report.broken = broken.iter().map(|port| failure(*port)).collect();
        change(seen);
    })
}

#[test]
fn where_an_se_dies_exactly_its_flows_break() {
    assert_eq!(killed(&[1, 51], |_| ()), Vec::<String>::new());
    one(
        &killed(&[1], |_| ()),
        "1 flow(s) of se-1 go on, although it is dead",
    );
    one(
        &killed(&[1, 51, 52], |_| ()),
        "1 flow(s) failed and none may: 10.0.0.3:52 on se-2",
    );
}

#[test]
fn an_se_that_had_nothing_when_it_died_proves_nothing() {
    let found = killed(&[], |seen| {
        seen.owners.values_mut().for_each(|o| *o = "se-2".into())
    });
    one(&found, "invalid: se-1 had no flow when it died");
}

#[test]
fn short_ones_and_downloads_of_the_dead_are_excused_and_others_not() {
    let of = |last: u8| Failure {
        engine: Some([10, 20, 20, last].into()),
        ..failure(60)
    };
    let fail = |f: Failure| {
        killed(&[1, 51], move |seen| {
            seen.report.short_failures.push(f.clone());
            seen.report.downloads_failed.push(f);
        })
    };
    assert_eq!(fail(of(11)), Vec::<String>::new());
    assert_eq!(fail(of(12)).len(), 2);
    // One that was refused before it saw any SE: where the router had sent it says whose it was.
    assert_eq!(fail(failure(60)).len(), 2);
    let refused = killed(&[1, 51], |seen| {
        seen.report.short_failures.push(failure(60));
        let to_the_dead = Flow {
            to: "a".into(),
            ..Flow::default()
        };
        seen.flows.insert(60, to_the_dead);
    });
    assert_eq!(refused, Vec::<String>::new());
}

#[test]
fn udp_flows_that_break_or_are_missing_are_violations() {
    let udp = |flows: usize, broken: Vec<Failure>| {
        rehash_violations(move |seen| {
            seen.datagram_flows = 2;
            seen.report.datagram_flows = flows;
            seen.report.datagrams_broken = broken;
        })
    };
    assert_eq!(udp(2, vec![]), Vec::<String>::new());
    one(&udp(1, vec![]), "1 UDP flows instead of 2");
    one(
        &udp(1, vec![failure(60)]),
        "1 UDP flow(s) failed and none may",
    );
}

#[test]
fn a_link_that_is_missing_in_the_fib_is_a_violation_although_its_se_is_there() {
    let missing = |seen: &mut Observation| _ = seen.hops_missing.insert([10, 12, 0, 11].into());
    one(
        &rehash_violations(missing),
        "the FIB has no next hop 10.12.0.11",
    );
}

#[test]
fn packets_from_se_to_se_are_counted_and_bounded_where_a_step_says_so() {
    let packets = BTreeMap::from([
        ("tunnel_hint", 9),
        ("tunnel_cache", 2),
        ("local_socket", 50),
    ]);
    let counted = |most| {
        rehash_violations(|seen| {
            seen.packets = packets.iter().map(|(v, n)| ((*v).to_owned(), *n)).collect();
            seen.rules.tunnelled_max = most;
        })
    };
    assert_eq!(counted(None), Vec::<String>::new());
    assert_eq!(counted(Some(11)), Vec::<String>::new());
    one(
        &counted(Some(10)),
        "11 packet(s) went from SE to SE, at most 10 may",
    );
}

#[test]
fn an_upload_that_fails_is_a_violation() {
    let fails = |seen: &mut Observation| seen.report.uploads_failed.push(failure(60));
    one(&rehash_violations(fails), "1 upload(s) failed and none may");
}

#[test]
fn what_cannot_begin_while_the_router_has_no_route_is_excused_and_what_lives_is_not() {
    let unreachable = |port| Failure {
        reason: UNREACHABLE.into(),
        ..failure(port)
    };
    let fails = |routeless_s, failure: Failure| {
        rehash_violations(|seen| {
            seen.routeless_s = routeless_s;
            seen.report.short_failures.push(failure);
        })
    };
    assert_eq!(fails(Some(1.0), unreachable(60)), Vec::<String>::new());
    one(
        &fails(None, unreachable(60)),
        "1 short connection(s) failed",
    );
    one(
        &fails(Some(1.0), failure(60)),
        "1 short connection(s) failed",
    );
    one(
        &fails(Some(1.0), unreachable(51)),
        "1 short connection(s) failed",
    );
}

/// A client that gets no answer sends again, and the router sends that to another SE.
#[test]
fn what_began_at_the_se_that_dies_is_its_own_wherever_it_was_sent_last() {
    let dies = |began: &'static str| {
        rehash_violations(|seen| {
            seen.rules.dies = Some("se-1".into());
            seen.report.broken = vec![failure(1), failure(51)];
            let mut flow = seen.flows[&1].clone();
            began.clone_into(&mut flow.from);
            seen.flows.insert(60, flow);
            seen.report.short_failures.push(failure(60));
        })
    };
    assert_eq!(dies("a"), Vec::<String>::new());
    one(&dies("b"), "1 short connection(s) failed");
}

#[test]
fn it_is_said_when_the_last_flow_of_the_dead_ended() {
    let mut seen = rehashed();
    seen.began_us = 1_000_000;
    seen.rules.dies = Some("se-1".into());
    let at = |port, t_us| Failure {
        t_us,
        ..failure(port)
    };
    seen.report.broken = vec![at(1, 1_200_000), at(51, 16_000_000)];
    assert_eq!(judge(&seen, &STRICT).dead_ended_s, Some(15.0));
}

/// A step of a VIP that is scaled natively, on two engines of which the first answers.
fn natively(seen: Seen) -> Observation {
    let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    Observation {
        assigned: names(&["se-1", "se-2"]),
        fib: names(&["se-1"]),
        share: BTreeMap::from([("se-1".to_owned(), 5), ("se-2".to_owned(), 5)]),
        native: Some(vec![("watcher".to_owned(), seen)]),
        ..Observation::default()
    }
}

#[test]
fn of_a_vip_that_is_scaled_natively_one_answers_at_any_time() {
    let violations = |seen: &Observation| route_and_answer_violations(seen);
    assert_eq!(violations(&natively(Seen::default())), Vec::<String>::new());
    let silent = natively(Seen {
        longest_silence_ms: 1000,
        ..Seen::default()
    });
    assert!(violations(&silent)[0].contains("nobody answer for the VIP for 1.000 s"));
    let mut twice = natively(Seen {
        answered_twice: 3,
        asked: 9,
        ..Seen::default()
    });
    assert!(violations(&twice)[0].contains("3 of 9 questions answered by two"));
    twice.parted = true;
    assert_eq!(violations(&twice), Vec::<String>::new());
    let mut nowhere = natively(Seen::default());
    nowhere.fib.clear();
    nowhere.share.remove("se-2");
    let found = violations(&nowhere);
    assert!(
        found[0].contains("next hops in the FIB are none"),
        "{found:?}"
    );
    assert!(
        found[1].contains("no new connection went over se-2"),
        "{found:?}"
    );
}

fn route_and_answer_violations(seen: &Observation) -> Vec<String> {
    let mut all = route_violations(seen, &BARS);
    all.extend(answer_violations(seen, &BARS));
    all
}

#[test]
fn where_answers_go_through_the_primary_nobody_else_sends_from_the_vip() {
    let answers = BTreeMap::from([("mac-1".to_owned(), 9)]);
    let mut seen = natively(Seen {
        answers,
        ..Seen::default()
    });
    seen.engines_by_mac = BTreeMap::from([("mac-1".to_owned(), "se-1".to_owned())]);
    let both = ["mac-1", "mac-2"].map(|mac| (mac.to_owned(), 5));
    seen.senders = BTreeMap::from(both);
    assert_eq!(sender_violations(&seen), Vec::<String>::new(), "not asked");
    seen.rules.answers_by_primary = true;
    let found = sender_violations(&seen);
    assert!(found[0].contains("\"mac-2\": 5"), "{found:?}");
    seen.senders.remove("mac-2");
    assert_eq!(sender_violations(&seen), Vec::<String>::new());
    seen.senders.clear();
    assert_eq!(sender_violations(&seen).len(), 1, "nobody sent");
}
