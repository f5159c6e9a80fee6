//! Intervals, detection, Poll and Final.

use super::*;

/// Sends until `count` packets have gone; the gaps between them.
fn gaps(session: &mut Session, count: usize) -> Vec<Duration> {
    let mut times = Vec::new();
    while times.len() < count {
        let at = session.next_tx().expect("something to send");
        session.heard_at = None;
        session.on_deadline(at);
        times.push(at);
    }
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// Section 6.8.3: not below one second while not Up, whatever is configured; and section 6.8.7's jitter.
#[test]
fn a_session_that_is_not_up_sends_once_per_second_and_says_so() {
    for state in [State::Down, State::Init] {
        let (mut session, _) = session_in(state);
        assert!(
            sent(session.on_deadline(session.next_tx().unwrap())).desired_min_tx_us >= 1_000_000
        );
        let gaps = gaps(&mut session, 200);
        assert!(
            gaps.iter().all(|gap| (ms(750)..=ms(1000)).contains(gap)),
            "{state}"
        );
    }
}

#[test]
fn the_interval_is_the_larger_of_ours_and_what_the_peer_can_take_with_jitter() {
    for (peer_can_take_us, low, high) in [(20_000, 37, 50), (200_000, 150, 200)] {
        let (mut session, now) = session_in(State::Up);
        let packet = Packet {
            required_min_rx_us: peer_can_take_us,
            ..peer(State::Up)
        };
        session.on_packet(now, &packet).unwrap();
        let gaps = gaps(&mut session, 500);
        assert!(
            gaps[1..]
                .iter()
                .all(|gap| (ms(low)..=ms(high)).contains(gap)),
            "{gaps:?}"
        );
        let spread = *gaps[1..].iter().max().unwrap() - *gaps[1..].iter().min().unwrap();
        assert!(spread > ms((high - low) / 2), "jitter covers the range");
    }
}

/// Early packets stay within what jitter may take away: no gap below 75 % of the interval.
#[test]
fn an_early_packet_is_never_closer_to_the_last_than_jitter_allows() {
    let (mut session, now) = session_in(State::Up);
    session.on_packet(now, &peer(State::Up)).unwrap();
    let interval = session.transmit_interval().unwrap();
    let mut last = session.next_tx().unwrap();
    session.on_deadline(last);
    for _ in 0..500 {
        session.heard_at = None;
        let due = session.next_tx().unwrap();
        let early = due - session.slack().unwrap();
        assert_eq!(session.transmit_early(early - ms(1)), None);
        assert!(session.transmit_early(early).is_some());
        assert!(early - last >= interval * 3 / 4, "{:?}", early - last);
        last = early;
    }
    let (mut down, now) = session_in(State::Down);
    assert_eq!(
        down.transmit_early(now + interval * 100),
        None,
        "nothing but what is due while not up"
    );
}

/// Section 6.8.7: with a multiplier of 1 the gap stays below 90 %.
#[test]
fn with_a_multiplier_of_one_there_is_time_left_before_detection() {
    let (mut session, now) = session_in(State::Up);
    session.set_config(
        now,
        Config {
            multiplier: 1,
            ..config()
        },
    );
    let gaps = gaps(&mut session, 500);
    let range = Duration::from_micros(37_500)..=ms(45);
    assert!(gaps[1..].iter().all(|gap| range.contains(gap)), "{gaps:?}");
}

/// Section 6.8.4: the peer's multiplier times the larger of what we take and what it wants to send at, from the
/// last valid packet.
#[test]
fn detection_follows_the_peers_values() {
    let (mut session, now) = session_in(State::Up);
    assert_eq!(session.detection_time(), ms(400));
    session.on_packet(now + ms(300), &peer(State::Up)).unwrap();
    assert_eq!(session.on_deadline(now + ms(699)).change, None);
    let change = session.on_deadline(now + ms(700)).change.unwrap();
    assert!(change.is_failure());
    assert_eq!(change.diagnostic, Diagnostic::DETECTION_TIME_EXPIRED);
    assert_eq!(session.remote().discriminator, 0, "forgotten");
    let fast = Packet {
        desired_min_tx_us: 10_000,
        multiplier: 5,
        ..peer(State::Up)
    };
    let (mut session, now) = session_in(State::Up);
    session.on_packet(now, &fast).unwrap();
    assert_eq!(session.detection_time(), ms(300), "what we take");
}

/// Section 6.5.
#[test]
fn poll_triggers_immediate_final_response() {
    let (mut session, now) = session_in(State::Up);
    let packet = Packet {
        poll: true,
        ..peer(State::Up)
    };
    let answer = sent(session.on_packet(now, &packet).unwrap());
    assert!(answer.final_bit && !answer.poll);
    assert_eq!(session.on_packet(now, &peer(State::Up)).unwrap().send, None);
}

/// Sections 6.8.3 and 6.8.7: the change of state goes out at once, with the new interval and a poll.
#[test]
fn going_up_tells_the_configured_interval_with_a_poll_at_once() {
    let (mut session, now) = session_in(State::Init);
    let outcome = session.on_packet(now, &peer(State::Init)).unwrap();
    assert_eq!(outcome.change.unwrap().to, State::Up);
    assert_eq!(session.next_deadline(), Some(now));
    let packet = sent(session.on_deadline(now));
    assert!(packet.poll);
    assert_eq!(packet.state, State::Up);
    assert_eq!(packet.desired_min_tx_us, 50_000);
    let gaps = gaps(&mut session, 10);
    assert!(gaps.iter().all(|gap| *gap <= ms(50)), "fast from now on");
    let finished = Packet {
        final_bit: true,
        ..peer(State::Up)
    };
    session.on_packet(now, &finished).unwrap();
    assert!(!sent(session.on_deadline(session.next_tx().unwrap())).poll);
}

/// Section 6.8.3: "MUST NOT change until the Poll Sequence".
#[test]
fn slower_sending_and_faster_detection_wait_for_the_end_of_the_poll() {
    let (mut session, now) = session_in(State::Up);
    let slow_peer = Packet {
        desired_min_tx_us: 1000,
        ..peer(State::Up)
    };
    session.on_packet(now, &slow_peer).unwrap();
    session.set_config(
        now,
        Config {
            min_tx: ms(500),
            min_rx: ms(10),
            multiplier: 3,
        },
    );
    assert_eq!(session.transmit_interval(), Some(ms(50)));
    assert_eq!(session.detection_time(), ms(60) * 4);
    let told = sent(session.on_deadline(now));
    assert!(told.poll);
    assert_eq!(
        (told.desired_min_tx_us, told.required_min_rx_us),
        (500_000, 10_000)
    );
    let finished = Packet {
        final_bit: true,
        ..slow_peer
    };
    session.on_packet(now, &finished).unwrap();
    assert_eq!(session.transmit_interval(), Some(ms(500)));
    assert_eq!(session.detection_time(), ms(40));
    assert_eq!(session.state(), State::Up);
}

#[test]
fn faster_sending_and_slower_detection_take_effect_at_once() {
    let (mut session, now) = session_in(State::Up);
    session.set_config(
        now,
        Config {
            min_tx: ms(20),
            min_rx: ms(600),
            multiplier: 3,
        },
    );
    assert_eq!(session.transmit_interval(), Some(ms(20)));
    assert_eq!(session.detection_time(), ms(2400));
}

/// Section 6.5: one Poll Sequence at a time; the second change is told by a second one.
#[test]
fn a_change_during_a_poll_leads_to_another_poll() {
    let (mut session, now) = session_in(State::Up);
    for min_tx in [ms(100), ms(200)] {
        session.set_config(now, Config { min_tx, ..config() });
    }
    let finished = Packet {
        final_bit: true,
        ..peer(State::Up)
    };
    session.on_packet(now, &finished).unwrap();
    assert_eq!(session.transmit_interval(), Some(ms(50)), "not agreed yet");
    session.on_packet(now, &finished).unwrap();
    assert!(
        !sent(session.on_deadline(session.next_tx().unwrap())).poll,
        "a Final that comes twice would end it at once"
    );
    session.on_packet(now, &peer(State::Up)).unwrap();
    assert!(sent(session.on_deadline(session.next_tx().unwrap())).poll);
    session.on_packet(now, &finished).unwrap();
    assert_eq!(session.transmit_interval(), Some(ms(200)));
    assert!(!sent(session.on_deadline(session.next_tx().unwrap())).poll);
}

/// Section 6.8.1: "if this value is zero, the transmitting system does not want to receive any periodic".
#[test]
fn a_peer_that_takes_nothing_gets_no_periodic_packets_but_answers_to_its_polls() {
    let (mut session, now) = session_in(State::Up);
    let deaf = Packet {
        required_min_rx_us: 0,
        poll: true,
        ..peer(State::Up)
    };
    assert!(sent(session.on_packet(now, &deaf).unwrap()).final_bit);
    assert_eq!(session.next_tx(), None);
    session.on_packet(now, &peer(State::Up)).unwrap();
    assert!(session.next_tx().is_some(), "it takes packets again");
}

/// Section 6.8.7: demand mode of the peer.
#[test]
fn a_peer_in_demand_mode_gets_silence_while_both_are_up() {
    let (mut session, now) = session_in(State::Up);
    let demanding = Packet {
        demand: true,
        ..peer(State::Up)
    };
    session.on_packet(now, &demanding).unwrap();
    assert_eq!(session.next_tx(), None);
    session.set_config(
        now,
        Config {
            min_tx: ms(70),
            ..config()
        },
    );
    assert!(
        sent(session.on_deadline(now)).poll,
        "a change is told all the same"
    );
}

/// Section 6.8.16 and RFC 5882 section 3.2.
#[test]
fn admin_down_is_sent_and_is_no_failure_at_either_side() {
    let (mut session, now) = session_in(State::Up);
    let change = session.set_admin_down(now, true).unwrap();
    assert!(!change.is_failure());
    let told = sent(session.on_deadline(now));
    assert_eq!(
        (told.state, told.diagnostic),
        (State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN)
    );
    assert_eq!(
        session.on_packet(now, &peer(State::Up)),
        Err(Discard::AdminDown)
    );

    let (mut session, now) = session_in(State::Up);
    let change = session
        .on_packet(now, &peer(State::AdminDown))
        .unwrap()
        .change
        .unwrap();
    assert_eq!(change.to, State::Down);
    assert!(!change.is_failure());
}

#[test]
fn the_same_configuration_again_does_nothing() {
    let (mut session, now) = session_in(State::Up);
    let before = session.next_tx();
    session.set_config(now, config());
    assert_eq!(session.next_tx(), before);
    assert_eq!(session.poll, Poll::None);
}

/// Section 6.8.4: detection counts from the last packet, by the values that hold now.
#[test]
fn a_longer_detection_time_takes_effect_at_once() {
    let (mut session, now) = session_in(State::Up);
    session.set_config(
        now + ms(399),
        Config {
            min_rx: ms(600),
            ..config()
        },
    );
    assert_eq!(session.on_deadline(now + ms(400)).change, None);
    assert_eq!(session.detection_deadline(), Some(now + ms(2400)));
}

/// Section 6.8.7: "The transmit interval MUST be recalculated whenever" one of both ends changes it.
#[test]
fn a_longer_transmit_interval_applies_to_the_packet_that_is_planned() {
    let (mut session, now) = session_in(State::Up);
    let slower = Packet {
        required_min_rx_us: 1_000_000,
        ..peer(State::Up)
    };
    session.on_packet(now, &slower).unwrap();
    assert!(session.next_tx().unwrap() >= now + ms(750));
    session.on_packet(now + ms(100), &peer(State::Up)).unwrap();
    assert!(session.next_tx().unwrap() <= now + ms(50), "and a shorter");
}

#[test]
fn a_peer_that_took_nothing_and_falls_silent_is_called_again() {
    let (mut session, now) = session_in(State::Down);
    let deaf = Packet {
        required_min_rx_us: 0,
        ..peer(State::Up)
    };
    session.on_packet(now, &deaf).unwrap();
    assert_eq!(session.next_tx(), None);
    let silent = session.detection_deadline().unwrap();
    session.on_deadline(silent);
    let next = session.next_tx().expect("something to send");
    assert!(next <= silent + SLOW);
}

/// RFC 5882 section 3.2: the owner judges AdminDown otherwise than Down, so it hears when it begins and ends.
#[test]
fn the_peers_admin_down_is_told_in_every_state() {
    let (mut session, now) = session_in(State::Down);
    let mut hear = |state: State| {
        let outcome = session.on_packet(now, &peer(state)).unwrap();
        outcome.change.map(|c| (c.from, c.to, c.remote_state))
    };
    use State as S;
    assert_eq!(
        hear(S::AdminDown),
        Some((S::Down, S::Down, S::AdminDown)),
        "from the start"
    );
    assert_eq!(hear(S::AdminDown), None, "once");
    assert_eq!(hear(S::Up), Some((S::Down, S::Down, S::Up)), "its end");
    hear(S::AdminDown);
    let silent = session.detection_deadline().unwrap();
    let change = session.on_deadline(silent).change.expect("silence ends it");
    assert_eq!((change.to, change.remote_state), (S::Down, S::Down));
    assert!(!change.is_failure());
}

#[test]
fn timers_stay_within_ten_milliseconds_and_a_minute() {
    let now = Instant::now();
    let none = Config {
        min_tx: Duration::ZERO,
        min_rx: Duration::ZERO,
        multiplier: 0,
    };
    let mut session = Session::new(none, OURS, now, 1);
    let Config {
        min_tx,
        min_rx,
        multiplier,
    } = session.config();
    assert_eq!((min_tx, min_rx, multiplier), (ms(10), ms(10), 1));
    let hours = Config {
        min_tx: ms(4_000_000),
        min_rx: ms(4_000_000),
        multiplier: 255,
    };
    session.set_config(now, hours);
    assert_eq!(session.config().min_tx, ms(60_000));
    assert_eq!(session.config().min_rx, ms(60_000));
}

/// Neither echo nor demand is offered, and BFD shares the fate of the process: in every packet.
#[test]
fn echo_demand_and_independence_are_never_offered() {
    for state in [State::AdminDown, State::Down, State::Init, State::Up] {
        let (mut session, now) = session_in(state);
        let poll = Packet {
            poll: true,
            ..peer(state)
        };
        let answer = session.on_packet(now, &poll).unwrap_or_default();
        let periodic = session.on_deadline(session.next_tx().unwrap());
        for bytes in answer.send.into_iter().chain(periodic.send) {
            let packet = Packet::decode(&bytes).unwrap();
            assert_eq!(packet.required_min_echo_rx_us, 0, "{state}");
            assert!(!packet.demand && !packet.control_plane_independent);
        }
    }
}
