//! Section 2.

use super::*;

fn word(kind: TunnelKind, value: u16) -> Word {
    Word::new(kind, value)
}

fn check() -> u16 {
    Mark::of(HintKey([3, 4]), &flow(1000)).check()
}

fn inner(seq: u32) -> Packet {
    Packet::tcp(flow(1000), data(seq))
}

fn reply_of(decision: &Decision) -> Message {
    let bytes = decision.reply.expect("a reply");
    Envelope::read(&bytes).unwrap().open(&[KEY]).unwrap()
}

#[test]
fn tunnels_of_others_pass_untouched() {
    let mut scene = Scene::new();
    let other = Packet::tcp(
        Flow {
            service: vip(80),
            ..flow(1)
        },
        data(1),
    );
    let probe = word(TunnelKind::Probe, 5);
    assert_eq!(
        scene.tunnelled(1, probe, &other, LISTENER).verdict,
        Verdict::Pass
    );
    let echo = Packet {
        content: Content::Other,
        ..inner(1)
    };
    assert_eq!(
        scene.tunnelled(1, probe, &echo, LISTENER).verdict,
        Verdict::Pass
    );
    scene.change(|config| config.addresses.clear());
    assert_eq!(
        scene.tunnelled(1, probe, &inner(1), LISTENER).verdict,
        Verdict::Pass
    );
}

#[test]
fn strangers_are_dropped_and_so_are_we_ourselves() {
    let mut scene = Scene::new();
    for from in [0, 9] {
        let decision = scene.tunnelled(
            from,
            word(TunnelKind::Data, check()),
            &inner(100),
            established(100),
        );
        assert_eq!(decision, Decision::drop(Verdict::DropStranger));
    }
}

#[test]
fn a_member_of_the_generation_before_is_no_stranger_and_one_before_that_is() {
    let mut scene = Scene::new();
    let probe = word(TunnelKind::Probe, 5);
    let leave = |config: &mut Config| {
        config.groups[0].members.retain(|member| member.id != 3);
        config.groups[0].generation += 1;
    };
    scene.change(leave);
    assert_eq!(
        scene.tunnelled(3, probe, &inner(1), LISTENER).verdict,
        Verdict::Deny
    );
    // That somebody is not seen alive any more is no new generation.
    scene.change(|config| config.peers[0].alive = false);
    assert_eq!(
        scene.tunnelled(3, probe, &inner(1), LISTENER).verdict,
        Verdict::Deny
    );
    scene.change(|config| config.groups[0].generation += 1);
    assert_eq!(
        scene.tunnelled(3, probe, &inner(1), LISTENER).verdict,
        Verdict::DropStranger
    );
}

#[test]
fn an_inner_source_that_is_a_members_address_is_spoofed() {
    let mut scene = Scene::new();
    for id in [0, 2] {
        let mut flow = flow(1000);
        flow.client.set_ip(member_address(id));
        let packet = Packet::tcp(flow, data(100));
        let decision = scene.tunnelled(1, word(TunnelKind::Data, 0), &packet, established(100));
        assert_eq!(decision, Decision::drop(Verdict::DropSpoofed));
    }
}

#[test]
fn data_for_our_socket_or_a_new_flow_is_delivered() {
    let mut scene = Scene::new();
    let data_word = word(TunnelKind::Data, check());
    let decision = scene.tunnelled(1, data_word, &inner(100), established(100));
    assert_eq!(decision, Decision::stack(Verdict::DeliverData));
    let syn = Packet::tcp(flow(1000), segment(Flags::SYN, 5, 0));
    let decision = scene.tunnelled(1, data_word, &syn, LISTENER);
    assert_eq!(decision, Decision::stack(Verdict::DeliverData));
    let udp = Packet::udp(udp_flow(5));
    let decision = scene.tunnelled(1, data_word, &udp, Socket::Connected);
    assert_eq!(decision, Decision::stack(Verdict::DeliverData));
}

#[test]
fn data_that_answers_our_syn_cookie_is_delivered() {
    let mut scene = Scene::new();
    let valid = Socket::Listener { cookie_valid: true };
    let decision = scene.tunnelled(1, word(TunnelKind::Data, check()), &inner(100), valid);
    assert_eq!(decision, Decision::stack(Verdict::DeliverData));
}

#[test]
fn data_that_is_not_ours_goes_back_whole_with_its_value() {
    let mut scene = Scene::new();
    for socket in [Socket::None, LISTENER, established(1 << 31)] {
        let decision = scene.tunnelled(1, word(TunnelKind::Data, 0x1234), &inner(100), socket);
        assert_eq!(decision.verdict, Verdict::Return);
        let back = word(TunnelKind::Return, 0x1234);
        assert_eq!(decision.fate, Fate::Back { word: back });
    }
}

#[test]
fn a_probe_for_our_socket_is_delivered_and_claimed() {
    let mut scene = Scene::new();
    let cookie = Socket::Listener { cookie_valid: true };
    for socket in [established(100), cookie] {
        let decision = scene.tunnelled(1, word(TunnelKind::Probe, 77), &inner(100), socket);
        assert_eq!(decision.verdict, Verdict::DeliverClaim);
        assert_eq!(decision.fate, Fate::Stack);
        let expected = Message {
            kind: MessageKind::Claim,
            sender: 0,
            number: 77,
            generation: 7,
            flow: flow(1000),
            load: 0,
        };
        assert_eq!(reply_of(&decision), expected);
    }
}

#[test]
fn a_probe_that_is_not_ours_is_denied_and_goes_nowhere() {
    let mut scene = Scene::new();
    for socket in [Socket::None, LISTENER, established(1 << 31)] {
        let decision = scene.tunnelled(1, word(TunnelKind::Probe, 77), &inner(100), socket);
        assert_eq!(decision.verdict, Verdict::Deny);
        assert_eq!(decision.fate, Fate::Drop);
        assert_eq!(reply_of(&decision).kind, MessageKind::Deny);
        assert_eq!(reply_of(&decision).number, 77);
    }
}

#[test]
fn a_packet_that_comes_back_asks_the_others_and_its_hint_is_doubted() {
    let mut scene = Scene::new();
    assert_eq!(tunnel_of(&scene.tcp(hinted(&flow(1000), 2), LISTENER)), 2);
    let packet = Packet::tcp(flow(1000), hinted(&flow(1000), 2));
    let decision = scene.tunnelled(2, word(TunnelKind::Return, check()), &packet, LISTENER);
    assert!(decision.returned);
    assert_eq!(decision.verdict, Verdict::Probe);
    assert_eq!(
        probe_of(&decision).0,
        [1, 3],
        "never to the one that returned it"
    );
    assert!(scene.steering.doubts_hints(&flow(1000)));
    scene.pass(RETRY);
    let decision = scene.tcp(hinted(&flow(1000), 2), LISTENER);
    assert_eq!(probe_of(&decision).0, [1, 3], "it has denied this packet");
    scene.steering.believe_hints();
    assert!(!scene.steering.doubts_hints(&flow(1000)));
}

#[test]
fn a_packet_that_comes_back_by_a_wrong_hint_goes_to_the_owner_that_is_known() {
    let mut scene = Scene::new();
    scene.learns(3);
    assert_eq!(tunnel_of(&scene.tcp(hinted(&flow(1000), 2), LISTENER)), 2);
    let packet = Packet::tcp(flow(1000), hinted(&flow(1000), 2));
    let decision = scene.tunnelled(2, word(TunnelKind::Return, check()), &packet, LISTENER);
    assert_eq!(decision.verdict, Verdict::TunnelCache);
    assert_eq!(tunnel_of(&decision), 3);
    let decision = scene.tunnelled(3, word(TunnelKind::Return, check()), &packet, LISTENER);
    assert_eq!(scene.steering.cached(&flow(1000)), None);
    assert_eq!(probe_of(&decision).0, [1, 2]);
}

#[test]
fn what_the_only_other_member_returns_is_denied_by_all() {
    let mut scene = Scene::with(|config| {
        config.peers[1].alive = false;
        config.peers[2].alive = false;
    });
    let packet = Packet::tcp(flow(1000), hinted(&flow(1000), 1));
    let decision = scene.tunnelled(1, word(TunnelKind::Return, check()), &packet, LISTENER);
    assert_eq!(decision.verdict, Verdict::LocalDenied);
}

#[test]
fn a_packet_that_comes_back_and_is_ours_by_now_is_delivered() {
    let mut scene = Scene::new();
    let decision = scene.tunnelled(
        1,
        word(TunnelKind::Return, check()),
        &inner(100),
        established(100),
    );
    assert_eq!(decision.verdict, Verdict::LocalSocket);
    assert!(decision.returned);
}

#[test]
fn a_return_with_another_check_is_dropped_and_changes_nothing() {
    let mut scene = Scene::new();
    scene.learns(2);
    let decision = scene.tunnelled(
        2,
        word(TunnelKind::Return, check() ^ 1),
        &inner(100),
        LISTENER,
    );
    assert_eq!(decision, Decision::drop(Verdict::DropCheck));
    assert_eq!(scene.steering.cached(&flow(1000)), Some(2));
    assert!(!scene.steering.doubts_hints(&flow(1000)));
}

#[test]
fn a_datagram_that_comes_back_is_a_new_flow() {
    let mut scene = Scene::new();
    let check = Mark::of(HintKey([3, 4]), &udp_flow(5)).check();
    let packet = Packet::udp(udp_flow(5));
    let decision = scene.tunnelled(1, word(TunnelKind::Return, check), &packet, LISTENER);
    assert_eq!(decision.verdict, Verdict::LocalNew);
}

#[test]
fn a_tunnel_packet_of_no_kind_is_dropped() {
    let mut scene = Scene::new();
    let decision = scene.tunnelled(
        1,
        word(TunnelKind::Answer, 5),
        &inner(100),
        established(100),
    );
    assert_eq!(decision, Decision::drop(Verdict::DropKind));
}

/// From the VIP to a client.
fn answer() -> Packet {
    let to_client = Flow {
        client: vip(443),
        service: flow(1000).client,
        ..flow(1000)
    };
    Packet::tcp(to_client, data(100))
}

fn answering(answers: Answers) -> Scene {
    let mut scene = Scene::new();
    scene.change(|config| config.groups[0].answers = answers);
    scene
}

#[test]
fn answers_go_into_the_tunnel_to_a_primary_that_is_alive_and_else_directly() {
    let leaves = |scene: &Scene, packet: &Packet| scene.steering.on_leaving(packet);
    let mut scene = answering(Answers::ByPrimary(Some(2)));
    let decision = leaves(&scene, &answer());
    assert_eq!(decision.verdict, Verdict::TunnelAnswer);
    let Fate::Tunnel { to, word: sent } = decision.fate else {
        panic!("not tunnelled: {decision:?}");
    };
    assert_eq!((to.member, sent), (2, word(TunnelKind::Answer, 0)));
    assert_eq!(leaves(&scene, &inner(1)).verdict, Verdict::Pass, "no VIP's");
    let peer = scene.steering.config().groups[0].members[1].peer;
    scene.change(|config| config.peers[peer].alive = false);
    assert_eq!(leaves(&scene, &answer()).verdict, Verdict::Pass);
    for answers in [Answers::Directly, Answers::ByPrimary(None)] {
        assert_eq!(
            leaves(&answering(answers), &answer()).verdict,
            Verdict::Pass
        );
    }
}

#[test]
fn answers_of_members_are_sent_on_by_whoever_gets_them_and_those_of_strangers_by_nobody() {
    let mut scene = answering(Answers::ByPrimary(None));
    let sent = word(TunnelKind::Answer, 0);
    let decision = scene.tunnelled(1, sent, &answer(), Socket::None);
    assert_eq!(
        (decision.verdict, decision.fate),
        (Verdict::RelayAnswer, Fate::Onward)
    );
    let decision = scene.tunnelled(9, sent, &answer(), Socket::None);
    assert_eq!(decision, Decision::drop(Verdict::DropStranger));
    let other = word(TunnelKind::Data, 0);
    let decision = scene.tunnelled(1, other, &answer(), Socket::None);
    assert_eq!(decision, Decision::drop(Verdict::DropKind));
    let mut direct = answering(Answers::Directly);
    let decision = direct.tunnelled(1, sent, &answer(), Socket::None);
    assert_eq!(decision.verdict, Verdict::RelayAnswer);
}

#[test]
fn icmp_errors_reach_the_engine_that_has_the_socket_and_no_other() {
    let mut scene = Scene::new();
    let error = Packet::error([203, 0, 113, 1].into(), flow(1000));
    let probe = word(TunnelKind::Probe, 0);
    let decision = scene.tunnelled(1, probe, &error, established(1 << 31));
    assert_eq!(decision, Decision::stack(Verdict::DeliverData));
    let decision = scene.tunnelled(1, probe, &error, LISTENER);
    assert_eq!(decision, Decision::drop(Verdict::DropError));
}

#[test]
fn later_fragments_are_delivered_and_harm_nobody() {
    let mut scene = Scene::new();
    let later = Packet {
        fragment: Some(Fragment {
            id: 1,
            protocol: 17,
        }),
        content: Content::LaterFragment,
        ..inner(1)
    };
    let decision = scene.tunnelled(1, word(TunnelKind::Probe, 0), &later, Socket::None);
    assert_eq!(decision, Decision::stack(Verdict::DeliverData));
}

fn kinds() -> impl Strategy<Value = TunnelKind> {
    prop_oneof![
        Just(TunnelKind::Answer),
        Just(TunnelKind::Data),
        Just(TunnelKind::Probe),
        Just(TunnelKind::Return),
    ]
}

fn sockets() -> impl Strategy<Value = Socket> {
    prop_oneof![
        Just(Socket::None),
        any::<bool>().prop_map(|cookie_valid| Socket::Listener { cookie_valid }),
        any::<u32>().prop_map(established),
    ]
}

proptest! {
    /// "A packet that came out of a tunnel is never put into one again except as RETURN, and never reaches the stack
    /// of a member that does not own it."
    #[test]
    fn what_comes_out_of_a_tunnel_goes_to_its_owner_or_back_or_nowhere(
        kind in kinds(),
        value in any::<u16>(),
        seq in any::<u32>(),
        syn in any::<bool>(),
        socket in sockets(),
        from in 1..5u8,
    ) {
        let mut scene = Scene::new();
        let flags = if syn { Flags::SYN } else { Flags::ACK };
        let packet = Packet::tcp(flow(1000), segment(flags, seq, 500));
        let decision = scene.tunnelled(from, word(kind, value), &packet, socket);
        let owns = fits(&segment(flags, seq, 500), socket)
            || socket.accepts_cookie(&segment(flags, seq, 500))
            || (syn && kind == TunnelKind::Data);
        match decision.fate {
            Fate::Stack => prop_assert!(owns),
            Fate::Back { .. } => prop_assert_eq!(kind, TunnelKind::Data),
            Fate::Tunnel { .. } | Fate::Clone { .. } => prop_assert_eq!(kind, TunnelKind::Return),
            Fate::Drop => {}
            Fate::Onward => prop_assert!(false, "it is to the VIP"),
        }
    }
}

#[test]
fn the_last_packet_of_a_flow_releases_it_at_the_sender() {
    let mut scene = Scene::new();
    let data_word = word(TunnelKind::Data, check());
    let rst = Flags {
        rst: true,
        ..Flags::ACK
    };
    let last = Packet::tcp(flow(1000), segment(rst, 100, 500));
    let decision = scene.tunnelled(1, data_word, &last, established(100));
    assert_eq!(decision.verdict, Verdict::DeliverData);
    assert_eq!(decision.fate, Fate::Stack);
    let release = reply_of(&decision);
    let expected = (MessageKind::Release, 0, flow(1000));
    assert_eq!((release.kind, release.number, release.flow), expected);
    let unfit = scene.tunnelled(1, data_word, &last, established(1 << 30));
    assert_eq!((unfit.verdict, unfit.reply), (Verdict::Return, None));
}

#[test]
fn a_hello_is_answered_and_the_answer_goes_to_the_process() {
    let mut scene = Scene::new();
    let hello = scene.said(MessageKind::Hello, 2, 99, flow(0));
    assert_eq!(
        (hello.verdict, &hello.fate),
        (Verdict::HelloAnswered, &Fate::Drop)
    );
    let heard = reply_of(&hello);
    assert_eq!(
        (heard.kind, heard.number, heard.sender),
        (MessageKind::Heard, 99, 0)
    );
    let heard = scene.said(MessageKind::Heard, 2, 99, flow(0));
    assert_eq!(heard, Decision::stack(Verdict::HelloHeard));
}

#[test]
fn a_question_without_an_answer_is_counted_when_it_is_asked_again() {
    let mut scene = Scene::new();
    let probe = scene.tcp(data(100), LISTENER);
    assert!(!probe.timed_out);
    scene.pass(QUESTION_TTL);
    let again = scene.tcp(data(100), LISTENER);
    assert_eq!((again.verdict, again.timed_out), (Verdict::Probe, true));
    let number = probe_of(&again).1;
    scene.denied_by(&[1, 2, 3], number);
    scene.pass(QUESTION_TTL);
    let other = scene.tcp(data(200), LISTENER);
    assert_eq!((other.verdict, other.timed_out), (Verdict::Probe, false));
}
