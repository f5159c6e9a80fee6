//! What both OPENs agree on, and what follows from it.

use super::*;
use crate::rib_in::LearnPolicy;
use crate::wire::{Capability, EXTENDED_MESSAGE_LEN, GracefulRestart, MAX_MESSAGE_LEN, code};

/// A peer with these capabilities beside four-octet AS numbers.
fn peer_with(capabilities: &[Capability]) -> Bytes {
    let mut all = capabilities.to_vec();
    all.push(Capability::FourOctetAs(PEER_AS));
    let asn = Asn::new(PEER_AS).unwrap();
    let id = Ipv4Addr::new(10, 10, 10, 1);
    Open::with_capabilities(asn, 90, id, all).encode().unwrap()
}

/// Established with a peer that sends this OPEN.
fn established(config: SessionConfig, table: &RouteTable, open: &[u8]) -> (Session, Instant) {
    let now = Instant::now();
    let mut session = Session::new(config, now, 1);
    session.set_routes(now, table);
    session.start(now);
    session.on_connected(now);
    session.on_bytes(now, Connection::Opened, open);
    take(&mut session);
    session.on_bytes(now, Connection::Opened, &encode_keepalive());
    assert_eq!(session.state(), StateName::Established);
    (session, now)
}

/// The messages handed to the transport.
fn sent(session: &mut Session) -> Vec<Bytes> {
    let outputs = std::iter::from_fn(|| session.poll_output());
    outputs
        .filter_map(|output| match output {
            Output::Send(_, bytes) => Some(bytes),
            _ => None,
        })
        .collect()
}

fn many_routes(count: u32) -> RouteTable {
    let attributes = Arc::new(RouteAttributes::default());
    let address = |i: u32| IpAddr::from((0x0A64_0000 + i).to_be_bytes());
    (0..count)
        .map(|i| (address(i).into(), attributes.clone()))
        .collect()
}

fn our_open(session: &mut Session) -> Open {
    let mut buffer = FrameBuffer::default();
    buffer.push(&sent(session)[0]);
    match buffer.next_message(DecodeContext::default()).unwrap() {
        Some(Message::Open(open)) => open,
        other => panic!("{other:?}"),
    }
}

/// Closes with this NOTIFICATION, waits out the idle hold time, and returns the next OPEN.
fn refused_with(
    session: &mut Session,
    now: Instant,
    notification: &Notification,
) -> (Instant, Open) {
    session.on_bytes(now, Connection::Opened, &notification.encode());
    assert_eq!(session.state(), StateName::Idle);
    let at = session.next_deadline().unwrap();
    session.on_deadline(at);
    session.on_connected(at);
    let open = our_open(session);
    (at, open)
}

/// RFC 5492 section 3: a session without the capability that the peer does not support.
#[test]
fn a_peer_that_refuses_capabilities_gets_a_session_without_them() {
    let (mut session, now) = session_in(StateName::OpenSent);
    let refuse_two = Notification::new(code::OPEN, 7, Bytes::from_static(&[70, 0, 6, 0]));
    let (at, open) = refused_with(&mut session, now, &refuse_two);
    assert!(
        !open
            .capabilities
            .contains(&Capability::EnhancedRouteRefresh)
    );
    assert!(!open.capabilities.contains(&Capability::ExtendedMessage));
    assert!(open.has_four_octet_as());
    assert_eq!(
        session.refused_capabilities(),
        ["extended message", "enhanced route refresh"]
    );
    // RFC 4271 section 6.2, 2/4: the peer does not know optional parameters at all.
    let refuse_all = Notification::new(code::OPEN, 4, Bytes::new());
    let (at, open) = refused_with(&mut session, at, &refuse_all);
    assert_eq!(open.capabilities, []);
    // Nothing is left to leave out: once per minute.
    session.on_bytes(at, Connection::Opened, &refuse_all.encode());
    assert_eq!(session.next_deadline(), Some(at + Duration::from_secs(60)));
}

/// RFC 5492 section 5: the data of 2/7 "MUST list the set of capabilities", of which one may be a single family.
#[test]
fn a_peer_that_refuses_one_family_gets_a_session_with_the_other() {
    let now = Instant::now();
    let config = SessionConfig {
        next_hop_v6: Some("2001:db8::11".parse().unwrap()),
        ..config()
    };
    let mut session = Session::new(config, now, 1);
    session.start(now);
    session.on_connected(now);
    take(&mut session);
    let no_ipv6 = Notification::new(code::OPEN, 7, Bytes::from_static(&[1, 4, 0, 2, 0, 1]));
    let (_, open) = refused_with(&mut session, now, &no_ipv6);
    assert_eq!(open.families(), [Family::Ipv4Unicast]);
    assert_eq!(session.refused_capabilities(), ["IPv6 unicast"]);
}

/// What cannot be read was not agreed on: four-octet numbers would be misread by both sides.
#[test]
fn a_malformed_capability_does_not_count() {
    let mut body = vec![4, 0xFD, 0xE8, 0, 90, 10, 10, 10, 1, 9];
    body.extend_from_slice(&[2, 7, 65, 2, 0xFD, 0xE8, 64, 1, 0]);
    let mut open = vec![0xFF; 16];
    open.extend_from_slice(&[0, 19 + body.len() as u8, 1]);
    open.extend_from_slice(&body);
    let config = SessionConfig {
        graceful_restart: Some(RestartConfig {
            restart_time_s: 120,
            restarting: false,
        }),
        ..config()
    };
    let (session, _) = established(config, &RouteTable::new(), &open);
    let peer = session.negotiated().unwrap();
    assert!(!peer.four_octet_as && !peer.graceful_restart, "{peer:?}");
}

#[test]
fn a_session_without_any_capability_is_plain_bgp_4() {
    let (mut session, now) = session_in(StateName::OpenSent);
    let refuse_all = Notification::new(code::OPEN, 4, Bytes::new());
    let (at, _) = refused_with(&mut session, now, &refuse_all);
    session.on_bytes(at, Connection::Opened, &peer_with(&[]));
    session.on_bytes(at, Connection::Opened, &encode_keepalive());
    let peer = session.negotiated().unwrap();
    assert_eq!(peer.families, [Family::Ipv4Unicast]);
    assert!(!peer.four_octet_as);
}

#[test]
fn refusals_are_forgotten_when_the_configuration_changes() {
    let (mut session, now) = session_in(StateName::OpenSent);
    let refuse_all = Notification::new(code::OPEN, 4, Bytes::new());
    let (at, _) = refused_with(&mut session, now, &refuse_all);
    let config = SessionConfig {
        hold_time: HoldTime::new(30).unwrap(),
        ..config()
    };
    session.reconfigure(at, config);
    take(&mut session);
    session.on_connected(at);
    assert!(our_open(&mut session).has_four_octet_as());
}

/// RFC 8654 section 4.
#[test]
fn extended_messages_are_used_when_both_sides_have_them() {
    for (capabilities, limit) in [
        (&[][..], MAX_MESSAGE_LEN),
        (&[Capability::ExtendedMessage][..], EXTENDED_MESSAGE_LEN),
    ] {
        let (mut session, _) =
            established(config(), &many_routes(10_000), &peer_with(capabilities));
        let updates: Vec<_> = sent(&mut session)
            .into_iter()
            .filter(|m| m[18] == 2)
            .collect();
        assert!(updates.iter().all(|update| update.len() <= limit));
        let fewest = (10_000 * 5_usize).div_ceil(limit - 60) + 1; // and End-of-RIB
        assert_eq!(updates.len(), fewest, "{limit}");
    }
}

/// RFC 8654 section 4: a message above 4096 octets without the capability is 1/2; OPEN and KEEPALIVE always.
#[test]
fn a_long_message_is_refused_unless_it_was_agreed_on() {
    let mut long = vec![0xFF; 16];
    long.extend_from_slice(&5000_u16.to_be_bytes());
    long.extend_from_slice(&[2, 0, 0]);
    long.resize(5000, 0);
    let (mut session, now) = established(config(), &RouteTable::new(), &peer_with(&[]));
    take(&mut session);
    session.on_bytes(now, Connection::Opened, &long);
    assert_eq!(take(&mut session), ["N1/2", "close"]);
    let with = peer_with(&[Capability::ExtendedMessage]);
    let (mut session, now) = established(config(), &RouteTable::new(), &with);
    take(&mut session);
    session.on_bytes(now, Connection::Opened, &long);
    // Accepted by length; prefixes without attributes are a different matter.
    assert_eq!(session.counters().treated_as_withdraw, 1);
    long[18] = 4;
    let (mut session, now) = established(config(), &RouteTable::new(), &with);
    take(&mut session);
    session.on_bytes(now, Connection::Opened, &long);
    assert_eq!(take(&mut session), ["N1/2", "close"]);
}

/// A peer that asks without reading must not make a queue grow.
#[test]
fn requests_for_a_family_that_is_being_sent_again_add_nothing() {
    let enhanced = peer_with(&[Capability::RouteRefresh, Capability::EnhancedRouteRefresh]);
    let (mut session, now) = established(config(), &many_routes(60_000), &enhanced);
    let unread = sent(&mut session).len();
    for _ in 0..50 {
        session.on_bytes(now, Connection::Opened, &refresh_request());
    }
    assert!(
        unread > 0 && sent(&mut session).len() <= 2,
        "BoRR and no more"
    );
}

fn refresh_request() -> Bytes {
    wire::encode_route_refresh(Family::Ipv4Unicast, RefreshSubtype::Request)
}

/// RFC 7313 section 4.
#[test]
fn a_refresh_is_demarcated_when_both_sides_have_the_capability() {
    for (capabilities, answer) in [
        (&[Capability::RouteRefresh][..], &["UPDATE"][..]),
        (
            &[Capability::RouteRefresh, Capability::EnhancedRouteRefresh][..],
            &["BoRR", "UPDATE", "EoRR"][..],
        ),
    ] {
        let (mut session, now) = established(config(), &routes([1]), &peer_with(capabilities));
        take(&mut session);
        session.on_bytes(now, Connection::Opened, &refresh_request());
        assert_eq!(take(&mut session), answer);
        let other = wire::encode_route_refresh(Family::Ipv6Unicast, RefreshSubtype::Request);
        session.on_bytes(now, Connection::Opened, &other);
        assert!(take(&mut session).is_empty(), "not negotiated");
    }
}

fn v6_only() -> SessionConfig {
    SessionConfig {
        next_hop_v4: None,
        next_hop_v6: Some("2001:db8::11".parse().unwrap()),
        extended_next_hop: true,
        ..config()
    }
}

/// RFC 8950: IPv4 routes over a link that has only IPv6 addresses.
#[test]
fn ipv4_routes_get_an_ipv6_next_hop_where_both_sides_can() {
    let both = [
        Capability::Multiprotocol(Family::Ipv4Unicast),
        Capability::Multiprotocol(Family::Ipv6Unicast),
    ];
    let with = peer_with(&[&both[..], &[Capability::ExtendedNextHop]].concat());
    let (mut session, _) = established(v6_only(), &routes([1]), &with);
    assert_eq!(session.negotiated().unwrap().families, Family::ALL);
    assert_eq!(take(&mut session), ["UPDATE", "EoR", "UPDATE"]);
    let (session, _) = established(v6_only(), &routes([1]), &peer_with(&both));
    assert_eq!(
        session.negotiated().unwrap().families,
        [Family::Ipv6Unicast]
    );
    let withheld = session.routes().next().unwrap().withheld;
    assert_eq!(withheld, Some(Withheld::FamilyNotNegotiated));
}

fn restartable(restarting: bool) -> SessionConfig {
    SessionConfig {
        graceful_restart: Some(RestartConfig {
            restart_time_s: 120,
            restarting,
        }),
        ..config()
    }
}

/// RFC 4724 section 4.1: the Restart State bit, and no End-of-RIB before the routes are complete, because with it the
/// peer drops what it has kept.
#[test]
fn a_restarted_speaker_says_so_until_its_routes_are_complete() {
    let now = Instant::now();
    let mut session = Session::new(restartable(true), now, 1);
    session.start(now);
    take(&mut session);
    session.on_connected(now);
    let restart = our_open(&mut session).graceful_restart().cloned().unwrap();
    assert!(restart.restarting);
    assert_eq!(restart.restart_time_s, 120);
    assert_eq!(restart.families, [(Family::Ipv4Unicast, true)]);
    let keeps = Capability::GracefulRestart(GracefulRestart::default());
    session.on_bytes(now, Connection::Opened, &peer_with(&[keeps]));
    session.on_bytes(now, Connection::Opened, &encode_keepalive());
    assert_eq!(
        take(&mut session),
        ["KEEPALIVE"],
        "the health of the services is not known yet"
    );
    session.set_routes(now, &routes([1]));
    assert_eq!(take(&mut session), ["UPDATE"]);
    session.reconfigure(now, restartable(false));
    assert_eq!(take(&mut session), ["EoR"]);
    session.on_transport_failed(now, Connection::Opened, "connection reset");
    take(&mut session);
    session.on_deadline(session.next_deadline().unwrap());
    take(&mut session);
    session.on_connected(now);
    assert!(
        !our_open(&mut session)
            .graceful_restart()
            .unwrap()
            .restarting
    );
}

/// A peer that keeps nothing has nothing to drop.
#[test]
fn a_peer_without_graceful_restart_is_told_the_end_of_the_routes_at_once() {
    let (mut session, _) = established(restartable(true), &routes([1]), &peer_with(&[]));
    assert_eq!(take(&mut session), ["UPDATE", "EoR"]);
}

/// RFC 4724 section 4: a NOTIFICATION would make the peer drop the routes.
#[test]
fn a_planned_restart_says_nothing_to_a_peer_that_keeps_the_routes() {
    let keeps = Capability::GracefulRestart(GracefulRestart::default());
    for (capabilities, farewell) in [
        (&[keeps][..], &["close"][..]),
        (&[][..], &["UPDATE", "N6/2", "close"][..]),
    ] {
        let (mut session, now) =
            established(restartable(false), &routes([1]), &peer_with(capabilities));
        take(&mut session);
        session.stop_for_restart(now, Notification::administrative_shutdown("restart"));
        assert_eq!(take(&mut session), farewell);
        assert_eq!(session.next_deadline(), None);
    }
}

/// RFC 2918: what the policy lets in from now on has to be sent again.
#[test]
fn a_policy_that_learns_more_asks_the_peer_again() {
    let (mut session, now) = established(
        config(),
        &RouteTable::new(),
        &peer_with(&[Capability::RouteRefresh]),
    );
    take(&mut session);
    let learn = Some(LearnPolicy {
        only_default: false,
        limit: 50,
    });
    let learning = SessionConfig { learn, ..config() };
    session.reconfigure(now, learning);
    assert_eq!(take(&mut session), ["REFRESH"]);
    let attributes = RouteAttributes::default();
    let peers = SessionConfig {
        next_hop_v4: Some(Ipv4Addr::new(10, 10, 10, 1)),
        ..config()
    };
    let context = peers.update_context(session.negotiated().unwrap());
    let route = ["10.7.0.0/16".parse().unwrap()];
    let update =
        wire::encode_announcement(&context, &attributes, Family::Ipv4Unicast, &route).unwrap();
    session.on_bytes(now, Connection::Opened, &update[0]);
    assert_eq!(session.learned().keys().collect::<Vec<_>>(), [&route[0]]);
    session.on_transport_failed(now, Connection::Opened, "connection reset");
    assert!(session.learned().is_empty());
}

/// Strict BFD: as far as OpenConfirm, and established as soon as the gate opens.
#[test]
fn a_closed_gate_holds_the_session_in_open_confirm() {
    for keepalive_first in [true, false] {
        let (mut session, now) = session_in(StateName::OpenSent);
        session.set_gate(now, true);
        let open = peer_open().encode().unwrap();
        session.on_bytes(now, Connection::Opened, &open);
        if keepalive_first {
            session.on_bytes(now, Connection::Opened, &encode_keepalive());
        }
        assert_eq!(session.state(), StateName::OpenConfirm);
        assert!(take(&mut session).is_empty(), "no KEEPALIVE");
        assert_eq!(session.waits_for_gate(), keepalive_first);
        session.set_gate(now, false);
        if !keepalive_first {
            session.on_bytes(now, Connection::Opened, &encode_keepalive());
        }
        assert_eq!(session.state(), StateName::Established);
        assert_eq!(take(&mut session), ["KEEPALIVE", "UPDATE", "EoR"]);
        session.set_gate(now, true);
        assert_eq!(session.state(), StateName::Established, "not touched");
    }
}

#[test]
fn a_second_request_for_a_family_is_answered_a_second_after_the_first() {
    let refresh = peer_with(&[Capability::RouteRefresh]);
    let (mut session, now) = established(config(), &many_routes(1), &refresh);
    take(&mut session);
    session.on_bytes(now, Connection::Opened, &refresh_request());
    assert_eq!(take(&mut session), ["UPDATE"]);
    session.on_bytes(now, Connection::Opened, &refresh_request());
    assert!(take(&mut session).is_empty());
    let second = now + Duration::from_secs(1);
    assert_eq!(session.next_deadline(), Some(second));
    session.on_deadline(second);
    assert_eq!(take(&mut session), ["UPDATE"]);
}

#[test]
fn a_refused_capability_is_offered_again_after_a_session_that_lasted() {
    for (lasted_s, offered) in [(59, false), (60, true)] {
        let (mut session, now) = session_in(StateName::OpenSent);
        let refuse = Notification::new(code::OPEN, 7, Bytes::from_static(&[70, 0]));
        let (at, _) = refused_with(&mut session, now, &refuse);
        session.on_bytes(at, Connection::Opened, &peer_open().encode().unwrap());
        session.on_bytes(at, Connection::Opened, &encode_keepalive());
        let end = at + Duration::from_secs(lasted_s);
        session.on_transport_failed(end, Connection::Opened, "connection reset");
        take(&mut session);
        session.on_deadline(session.next_deadline().unwrap());
        session.on_connected(end);
        let open = our_open(&mut session);
        let has = open
            .capabilities
            .contains(&Capability::EnhancedRouteRefresh);
        assert_eq!(has, offered, "{lasted_s} s");
    }
}
