//! Section 1, in its order.

use super::*;

#[test]
fn what_is_not_a_service_passes_untouched() {
    let mut scene = Scene::new();
    let other_port = Flow {
        service: vip(80),
        ..flow(1)
    };
    let packets = [
        Packet::tcp(other_port, data(1)),
        Packet::udp(other_port),
        Packet::error([203, 0, 113, 1].into(), other_port),
    ];
    for packet in packets {
        let decision = scene.packet(&packet, Socket::None);
        assert_eq!(decision, Decision::stack(Verdict::Pass));
    }
}

#[test]
fn a_syn_is_a_new_flow_and_forgets_the_owner_of_the_old_one() {
    let mut scene = Scene::new();
    scene.learns(2);
    let decision = scene.tcp(segment(Flags::SYN, 9, 0), established(9));
    assert_eq!(decision, Decision::stack(Verdict::LocalNew));
    assert_eq!(scene.steering.cached(&flow(1000)), None);
}

#[test]
fn an_engine_that_drains_sends_new_flows_to_the_same_member_always() {
    let mut scene = Scene::with(|config| config.groups[0].drains = true);
    let syn = segment(Flags::SYN, 9, 0);
    let decision = scene.tcp(syn, LISTENER);
    assert_eq!(decision.verdict, Verdict::TunnelNew);
    let member = tunnel_of(&decision);
    assert_eq!(tunnel_of(&scene.tcp(syn, LISTENER)), member);
    let decision = scene.tcp(segment(Flags::ACK, 10, 1), LISTENER);
    assert_eq!(decision.verdict, Verdict::TunnelCache);
    assert_eq!(tunnel_of(&decision), member);
}

#[test]
fn an_engine_that_drains_spreads_new_flows_over_those_that_take_them() {
    let mut scene = Scene::with(|config| {
        config.groups[0].drains = true;
        config.groups[0].members[0].takes_new = false;
    });
    let mut taken = [0; 4];
    for port in 0..1000 {
        let syn = Packet::tcp(flow(port), segment(Flags::SYN, 1, 0));
        taken[usize::from(tunnel_of(&scene.packet(&syn, LISTENER)))] += 1;
    }
    assert_eq!(taken[1], 0);
    assert!(taken[2] > 400 && taken[3] > 400, "{taken:?}");
}

#[test]
fn an_engine_that_drains_alone_takes_new_flows() {
    let mut scene = Scene::with(|config| {
        config.groups[0].drains = true;
        config.peers.iter_mut().for_each(|peer| peer.alive = false);
    });
    let decision = scene.tcp(segment(Flags::SYN, 9, 0), LISTENER);
    assert_eq!(decision.verdict, Verdict::LocalNew);
}

#[test]
fn a_socket_that_the_packet_fits_comes_before_hint_and_cache() {
    let mut scene = Scene::new();
    scene.learns(2);
    let decision = scene.tcp(hinted(&flow(1000), 3), established(100));
    assert_eq!(decision, Decision::stack(Verdict::LocalSocket));
}

#[test]
fn a_socket_that_the_packet_does_not_fit_is_a_ghost() {
    let mut scene = Scene::new();
    let decision = scene.tcp(data(100), established(1 << 31));
    assert_eq!(decision.verdict, Verdict::Probe);
}

#[test]
fn a_hint_comes_before_the_cache() {
    let mut scene = Scene::new();
    scene.learns(2);
    let decision = scene.tcp(hinted(&flow(1000), 3), LISTENER);
    assert_eq!(decision.verdict, Verdict::TunnelHint);
    assert_eq!(tunnel_of(&decision), 3);
    let decision = scene.tcp(data(100), LISTENER);
    assert_eq!(decision.verdict, Verdict::TunnelCache);
    assert_eq!(tunnel_of(&decision), 2);
}

#[test]
fn a_data_packet_carries_the_check_of_its_flow() {
    let mut scene = Scene::new();
    let Fate::Tunnel { word, .. } = scene.tcp(hinted(&flow(1000), 3), LISTENER).fate else {
        panic!("not tunnelled");
    };
    let mark = Mark::of(HintKey([3, 4]), &flow(1000));
    assert_eq!(word, Word::new(TunnelKind::Data, mark.check()));
}

#[test]
fn hints_that_name_us_nobody_or_the_dead_are_not_followed() {
    let mut scene = Scene::with(|config| config.peers[2].alive = false);
    for id in [0, 3, 17] {
        let decision = scene.tcp(hinted(&flow(1000), id), LISTENER);
        assert_ne!(decision.verdict, Verdict::TunnelHint, "{id}");
    }
}

#[test]
fn a_service_without_hints_and_a_tsecr_of_zero_have_none() {
    let mut scene = Scene::new();
    let no_echo = Segment {
        ts_ecr: Some(0),
        ..data(1)
    };
    for port in 0..500 {
        let decision = scene.packet(&Packet::tcp(flow(port), no_echo), LISTENER);
        assert_ne!(decision.verdict, Verdict::TunnelHint);
    }
    scene.change(|config| config.services[0].hints = false);
    let decision = scene.tcp(hinted(&flow(1000), 3), LISTENER);
    assert_ne!(decision.verdict, Verdict::TunnelHint);
}

#[test]
fn a_cache_entry_of_a_dead_member_is_not_followed() {
    let mut scene = Scene::new();
    scene.learns(2);
    scene.change(|config| config.peers[1].alive = false);
    let decision = scene.tcp(data(100), LISTENER);
    assert_eq!(probe_of(&decision).0, [1, 3]);
}

#[test]
fn a_pure_ack_that_answers_our_syn_cookie_is_ours() {
    let mut scene = Scene::new();
    let valid = Socket::Listener { cookie_valid: true };
    assert_eq!(scene.tcp(data(100), valid).verdict, Verdict::LocalCookie);
    let rst = Flags {
        rst: true,
        ..Flags::ACK
    };
    assert_eq!(scene.tcp(segment(rst, 1, 2), valid).verdict, Verdict::Probe);
}

#[test]
fn alone_or_without_probes_the_stack_answers() {
    let mut alone =
        Scene::with(|config| config.peers.iter_mut().for_each(|peer| peer.alive = false));
    let mut mute = Scene::with(|config| config.services[0].probes = false);
    for scene in [&mut alone, &mut mute] {
        for socket in [Socket::None, LISTENER] {
            let decision = scene.tcp(data(100), socket);
            assert_eq!(decision, Decision::stack(Verdict::LocalNone));
        }
    }
}

#[test]
fn an_unknown_packet_is_cloned_to_all_live_members_and_not_delivered() {
    let mut scene = Scene::with(|config| config.peers[1].alive = false);
    let decision = scene.tcp(data(100), LISTENER);
    let (members, number) = probe_of(&decision);
    assert_eq!(members, [1, 3]);
    assert_ne!(number, 0);
    assert!(matches!(
        decision.fate,
        Fate::Clone {
            and_stack: false,
            ..
        }
    ));
}

#[test]
fn later_packets_wait_and_then_ask_again_as_often_as_is_allowed() {
    let mut scene = Scene::new();
    let verdict = |scene: &mut Scene, seq| scene.tcp(data(seq), LISTENER).verdict;
    for _ in 0..3 {
        assert_eq!(verdict(&mut scene, 100), Verdict::Probe);
        assert_eq!(verdict(&mut scene, 200), Verdict::DropAsked);
        scene.pass(RETRY);
    }
    assert_eq!(verdict(&mut scene, 100), Verdict::DropAsked);
    scene.pass(QUESTION_TTL);
    assert_eq!(verdict(&mut scene, 100), Verdict::Probe);
}

#[test]
fn what_all_have_denied_is_reset_by_the_stack() {
    let mut scene = Scene::new();
    let number = scene.asks(data(100));
    scene.denied_by(&[1, 2], number);
    assert_eq!(scene.tcp(data(100), LISTENER).verdict, Verdict::DropAsked);
    scene.denied_by(&[3], number);
    let decision = scene.tcp(data(100), LISTENER);
    assert_eq!(decision, Decision::stack(Verdict::LocalDenied));
}

#[test]
fn a_denial_of_one_packet_is_none_of_another() {
    let mut scene = Scene::new();
    // Forged, or an old duplicate: nobody's socket fits it.
    let number = scene.asks(data(0xDEAD_BEEF));
    scene.denied_by(&[1, 2, 3], number);
    assert_eq!(scene.tcp(data(100), LISTENER).verdict, Verdict::DropAsked);
    scene.pass(RETRY);
    let decision = scene.tcp(data(100), LISTENER);
    assert_eq!(decision.verdict, Verdict::Probe);
    let late = scene.message(MessageKind::Deny, 1, number, flow(1000));
    assert_eq!(
        late,
        Verdict::DropQuestion,
        "an answer about the other packet"
    );
}

#[test]
fn a_denial_holds_until_the_slowest_client_has_retransmitted() {
    let mut scene = Scene::new();
    let number = scene.asks(data(100));
    scene.denied_by(&[1, 2, 3], number);
    scene.pass(DENIED_TTL - Duration::from_millis(1));
    assert_eq!(scene.tcp(data(100), LISTENER).verdict, Verdict::LocalDenied);
    scene.pass(Duration::from_millis(1));
    assert_eq!(scene.tcp(data(100), LISTENER).verdict, Verdict::Probe);
}

#[test]
fn a_member_that_has_denied_a_packet_is_not_asked_about_it_again() {
    let mut scene = Scene::new();
    let number = scene.asks(data(100));
    scene.denied_by(&[1, 3], number);
    scene.pass(RETRY);
    let decision = scene.tcp(data(100), LISTENER);
    assert_eq!(probe_of(&decision), (vec![2], number));
}

#[test]
fn a_member_that_joined_after_the_denials_is_asked_before_a_reset() {
    let mut scene = Scene::with(|config| config.peers[2].alive = false);
    let number = scene.asks(data(100));
    scene.denied_by(&[1, 2], number);
    scene.change(|config| config.peers[2].alive = true);
    scene.pass(RETRY);
    assert_eq!(probe_of(&scene.tcp(data(100), LISTENER)).0, [3]);
}

#[test]
fn the_silence_of_a_member_is_no_denial_until_it_is_dead() {
    let mut scene = Scene::new();
    let number = scene.asks(data(100));
    scene.denied_by(&[1, 2], number);
    for _ in 0..100 {
        scene.pass(Duration::from_millis(700));
        let fate = scene.tcp(data(100), LISTENER).fate;
        assert_ne!(fate, Fate::Stack);
    }
    scene.change(|config| config.peers[2].alive = false);
    assert_eq!(scene.tcp(data(100), LISTENER).verdict, Verdict::LocalDenied);
}

#[test]
fn over_budget_nothing_is_cloned_and_rst_and_fin_are_the_first_to_feel_it() {
    let mut scene = Scene::with(|config| {
        config.settings.copies_per_s = 1;
        config.settings.copies_burst = 30;
    });
    let fin = Flags {
        fin: true,
        ..Flags::ACK
    };
    let mut verdicts = |flags| {
        let many = (0..50u8).map(|network| {
            let mut flow = flow(1000);
            flow.client.set_ip([203, 0, network, 1].into());
            let packet = Packet::tcp(flow, segment(flags, 1, 1));
            scene.packet(&packet, LISTENER).verdict
        });
        many.filter(|verdict| *verdict == Verdict::Probe).count()
    };
    // Three copies a probe: while at most 15 are missing, and then while at most 30 are.
    assert_eq!(verdicts(fin), 6);
    assert_eq!(verdicts(Flags::ACK), 5);
    assert_eq!(verdicts(Flags::ACK), 0);
    assert_eq!(scene.tcp(data(1), LISTENER).verdict, Verdict::DropBudget);
}

#[test]
fn a_connected_udp_socket_owns_its_flow_and_others_are_new() {
    let mut scene = Scene::new();
    let packet = Packet::udp(udp_flow(5));
    assert_eq!(
        scene.packet(&packet, Socket::Connected).verdict,
        Verdict::LocalSocket
    );
    assert_eq!(scene.packet(&packet, LISTENER).verdict, Verdict::LocalNew);
}

#[test]
fn udp_is_asked_about_for_a_while_after_a_change_and_is_new_when_all_deny() {
    let mut scene = Scene::new();
    let until = scene.now + Duration::from_secs(1);
    scene.asks_about_udp(until);
    let packet = Packet::udp(udp_flow(5));
    let (members, number) = probe_of(&scene.packet(&packet, LISTENER));
    assert_eq!(members, [1, 2, 3]);
    assert_eq!(scene.packet(&packet, LISTENER).verdict, Verdict::DropAsked);
    for member in 1..4 {
        scene.message(MessageKind::Deny, member, number, udp_flow(5));
    }
    assert_eq!(scene.packet(&packet, LISTENER).verdict, Verdict::LocalNew);
    scene.now = until;
    let other = Packet::udp(udp_flow(6));
    assert_eq!(scene.packet(&other, LISTENER).verdict, Verdict::LocalNew);
}

#[test]
fn udp_without_an_answer_is_new_after_the_last_retry() {
    let mut scene = Scene::new();
    scene.asks_about_udp(scene.now + Duration::from_secs(1));
    let packet = Packet::udp(udp_flow(5));
    for _ in 0..3 {
        assert_eq!(scene.packet(&packet, LISTENER).verdict, Verdict::Probe);
        scene.pass(RETRY);
    }
    assert_eq!(scene.packet(&packet, LISTENER).verdict, Verdict::LocalNew);
}

#[test]
fn an_icmp_error_goes_where_its_flow_goes() {
    let mut scene = Scene::new();
    let error = Packet::error([203, 0, 113, 1].into(), flow(1000));
    let misfit = established(1 << 31);
    assert_eq!(scene.packet(&error, misfit).verdict, Verdict::LocalSocket);
    let decision = scene.packet(&error, LISTENER);
    assert_eq!(decision.verdict, Verdict::ProbeError);
    assert_eq!(probe_of(&decision), (vec![1, 2, 3], 0));
    scene.learns(2);
    let decision = scene.packet(&error, LISTENER);
    assert_eq!(decision.verdict, Verdict::TunnelCache);
    assert_eq!(tunnel_of(&decision), 2);
    scene.change(|config| config.peers.iter_mut().for_each(|peer| peer.alive = false));
    assert_eq!(scene.packet(&error, LISTENER).verdict, Verdict::LocalOther);
}

fn fragment(content: Content) -> Packet {
    Packet {
        fragment: Some(Fragment { id: 9, protocol: 6 }),
        content,
        ..Packet::tcp(flow(1000), data(100))
    }
}

#[test]
fn later_fragments_follow_the_first() {
    let mut scene = Scene::new();
    scene.learns(2);
    let first = fragment(Content::Tcp(flow(1000), data(100)));
    let later = fragment(Content::LaterFragment);
    assert_eq!(scene.packet(&first, LISTENER).verdict, Verdict::TunnelCache);
    let decision = scene.packet(&later, LISTENER);
    assert_eq!(decision.verdict, Verdict::TunnelCache);
    assert_eq!(tunnel_of(&decision), 2);
    assert_eq!(
        scene.packet(&first, established(100)).verdict,
        Verdict::LocalSocket
    );
    let decision = scene.packet(&later, LISTENER);
    assert_eq!(decision, Decision::stack(Verdict::LocalOther));
    scene.pass(FRAGMENT_TTL);
    assert_eq!(
        scene.packet(&later, LISTENER).verdict,
        Verdict::ProbeFragment
    );
}

#[test]
fn a_fragment_before_its_first_or_of_a_probe_goes_everywhere() {
    let mut scene = Scene::new();
    let later = fragment(Content::LaterFragment);
    for _ in 0..2 {
        let decision = scene.packet(&later, LISTENER);
        assert_eq!(decision.verdict, Verdict::ProbeFragment);
        assert!(matches!(&decision.fate, Fate::Clone { to, and_stack: true, .. } if to.len() == 3));
        let first = fragment(Content::Tcp(flow(1000), data(100)));
        scene.packet(&first, LISTENER);
    }
}

#[test]
fn echo_and_endless_headers_are_ours_only_at_a_vip() {
    let mut scene = Scene::new();
    let at = |destination: [u8; 4], content| Packet {
        source: [192, 0, 2, 1].into(),
        destination: destination.into(),
        fragment: None,
        content,
    };
    let vip = [198, 51, 100, 1];
    let echo = scene.packet(&at(vip, Content::Other), Socket::None);
    assert_eq!(echo, Decision::stack(Verdict::LocalOther));
    let chain = scene.packet(&at(vip, Content::TooManyHeaders), Socket::None);
    assert_eq!(chain, Decision::drop(Verdict::DropHeaders));
    for content in [
        Content::Other,
        Content::TooManyHeaders,
        Content::LaterFragment,
    ] {
        let decision = scene.packet(&at([203, 0, 113, 5], content), Socket::None);
        assert_eq!(decision, Decision::stack(Verdict::Pass));
    }
}

#[test]
fn a_member_without_an_address_of_the_family_is_counted() {
    let mut scene = Scene::with(|config| config.peers[2].links.clear());
    let decision = scene.tcp(hinted(&flow(1000), 3), LISTENER);
    assert_eq!(decision, Decision::drop(Verdict::DropFamily));
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut scene = Scene::new();
    let limits = Limits {
        cache: 10,
        questions: 10,
        fragments: 10,
    };
    scene.steering = Steering::new(limits);
    scene.steering.set_config(config());
    for port in 0..100 {
        let packet = Packet::tcp(flow(port), data(1));
        scene.pass(Duration::from_secs(1));
        let number = probe_of(&scene.packet(&packet, LISTENER)).1;
        let claim = scene.message(MessageKind::Claim, 2, number, flow(port));
        assert_eq!(claim, Verdict::ClaimTaken);
    }
    assert_eq!(scene.steering.cache().count(), 10);
    assert_eq!(scene.steering.cached(&flow(99)), Some(2));
}

#[test]
fn owners_are_forgotten_with_a_fin_or_rst_only_where_the_settings_say_so() {
    let ends = [
        Flags {
            fin: true,
            ..Flags::ACK
        },
        Flags {
            rst: true,
            ..Flags::ACK
        },
    ];
    for (forgets, flags) in [(false, ends[0]), (true, ends[0]), (true, ends[1])] {
        let mut scene = Scene::with(|c| c.settings.forgets_at_once = forgets);
        scene.learns(2);
        let last = segment(flags, 1000, 2000);
        let decision = scene.tcp(last, Socket::None);
        assert_eq!(
            decision.verdict,
            Verdict::TunnelCache,
            "it goes there itself"
        );
        let after = scene.tcp(segment(Flags::ACK, 1001, 2000), Socket::None);
        assert_eq!(after.verdict == Verdict::TunnelCache, !forgets);
    }
}
