//! New flows of a VIP that is scaled natively: `docs/dev/steering.md`, section 11.

use super::*;
use crate::spread::{By, Spread};

/// Over us (0) and 1 to 3.
fn spread(by: By) -> Scene {
    let all = [(0, 1), (1, 1), (2, 1), (3, 1)];
    Scene::with(|config| config.groups[0].spread = Some(Spread::over(by, &all)))
}

fn syn_of(scene: &mut Scene, flow: Flow, socket: Socket) -> Decision {
    let syn = segment(Flags::SYN, 100, 0);
    scene.packet(&Packet::tcp(flow, syn), socket)
}

/// A member for each of the ports; 0 is us.
fn takers(scene: &mut Scene, socket: Socket) -> Vec<u8> {
    let taker = |port| {
        let decision = syn_of(scene, flow(port), socket);
        match decision.verdict {
            Verdict::LocalNew => 0,
            Verdict::TunnelNew => tunnel_of(&decision),
            other => panic!("{other:?}"),
        }
    };
    (1000..1200).map(taker).collect()
}

#[test]
fn everybody_gets_a_share_of_the_new_flows_and_us_too() {
    let takers = takers(&mut spread(By::AddressAndPort), LISTENER);
    for id in 0..4 {
        let share = takers.iter().filter(|t| **t == id).count();
        assert!((25..=75).contains(&share), "{id} got {share} of 200");
    }
}

#[test]
fn all_flows_of_a_client_go_to_one_member_if_only_addresses_count() {
    let takers = takers(&mut spread(By::Address), LISTENER);
    assert!(takers.iter().all(|t| *t == takers[0]));
}

#[test]
fn the_same_flow_goes_the_same_way_and_its_later_packets_follow() {
    let mut scene = spread(By::AddressAndPort);
    let far = (1000..1200)
        .map(flow)
        .find(|f| syn_of(&mut scene, *f, LISTENER).verdict == Verdict::TunnelNew)
        .expect("some are for others");
    let first = tunnel_of(&syn_of(&mut scene, far, LISTENER));
    assert_eq!(tunnel_of(&syn_of(&mut scene, far, LISTENER)), first);
    let next = scene.packet(&Packet::tcp(far, data(101)), LISTENER);
    assert_eq!(
        (next.verdict, tunnel_of(&next)),
        (Verdict::TunnelCache, first)
    );
}

#[test]
fn who_takes_nothing_new_gets_nothing_and_the_rest_keep_theirs() {
    let mut scene = spread(By::AddressAndPort);
    let before = takers(&mut scene, LISTENER);
    scene.change(|config| config.groups[0].members[1].takes_new = false);
    let after = takers(&mut scene, LISTENER);
    let pairs = || before.iter().zip(&after);
    assert!(pairs().all(|(b, a)| *a != 2 && (*b == 2 || a == b)));
    assert!(
        pairs().any(|(b, a)| *b == 2 && *a == 0),
        "we take some of them"
    );
}

#[test]
fn where_nobody_listens_here_or_we_drain_all_go_to_the_others() {
    let mut scene = spread(By::AddressAndPort);
    assert!(!takers(&mut scene, Socket::None).contains(&0));
    scene.change(|config| config.groups[0].drains = true);
    assert!(!takers(&mut scene, LISTENER).contains(&0));
    scene.change(|config| {
        config.groups[0]
            .members
            .iter_mut()
            .for_each(|m| m.takes_new = false)
    });
    assert!(takers(&mut scene, LISTENER).iter().all(|t| *t == 0));
}

#[test]
fn a_new_flow_that_nobody_takes_there_comes_back_and_stays() {
    let mut scene = spread(By::AddressAndPort);
    let packet = Packet::tcp(flow(1000), segment(Flags::SYN, 100, 0));
    let here = scene.tunnelled(2, Word::new(TunnelKind::Data, 5), &packet, Socket::None);
    assert_eq!(here.verdict, Verdict::Return);
    let taken = scene.tunnelled(2, Word::new(TunnelKind::Data, 5), &packet, LISTENER);
    assert_eq!(taken.verdict, Verdict::DeliverData);
    let check = Mark::of(HintKey([3, 4]), &flow(1000)).check();
    let back = scene.tunnelled(2, Word::new(TunnelKind::Return, check), &packet, LISTENER);
    assert_eq!((back.verdict, back.returned), (Verdict::LocalNew, true));
}

#[test]
fn datagrams_are_spread_by_flow_and_taken_by_whoever_listens() {
    let mut scene = spread(By::AddressAndPort);
    let mut first = |port| scene.packet(&Packet::udp(udp_flow(port)), LISTENER);
    let (port, sent) = (1000..1200)
        .map(|port| (port, first(port)))
        .find(|(_, d)| d.verdict == Verdict::TunnelNew)
        .expect("some are for others");
    let next = scene.packet(&Packet::udp(udp_flow(port)), LISTENER);
    assert_eq!(next.verdict, Verdict::TunnelCache);
    assert_eq!(tunnel_of(&next), tunnel_of(&sent));
    let packet = Packet::udp(udp_flow(7));
    let data = Word::new(TunnelKind::Data, 5);
    assert_eq!(
        scene.tunnelled(2, data, &packet, LISTENER).verdict,
        Verdict::DeliverData
    );
    assert_eq!(
        scene.tunnelled(2, data, &packet, Socket::None).verdict,
        Verdict::Return
    );
}
