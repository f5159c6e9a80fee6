//! Two connections at a time (RFC 4271 section 6.8), step by step.

use super::*;

/// The peer's OPEN with an identifier below or above ours, 10.10.10.11.
fn open_from(last_octet: u8) -> Bytes {
    let open = Open {
        router_id: Ipv4Addr::new(10, 10, 10, last_octet),
        ..peer_open()
    };
    open.encode().unwrap()
}

const LOWER: u8 = 1;
const HIGHER: u8 = 200;

/// A session in this state with an accepted connection beside its own.
fn with_rival(state: StateName) -> (Session, Instant) {
    let (mut session, now) = session_in(state);
    session.on_accepted(now);
    assert_eq!(take(&mut session), ["accepted:OPEN"]);
    (session, now)
}

#[test]
fn an_accepted_connection_in_active_is_used_like_one_of_ours() {
    let (mut session, now) = session_in(StateName::Active);
    session.on_accepted(now);
    assert_eq!(take(&mut session), ["OPEN"]);
    session.on_bytes(now, Connection::Accepted, &open_from(LOWER));
    session.on_bytes(now, Connection::Accepted, &encode_keepalive());
    assert_eq!(session.state(), StateName::Established);
    assert_eq!(session.connection(), Connection::Accepted);
    assert_eq!(take(&mut session), ["KEEPALIVE", "UPDATE", "EoR"]);
}

/// "the local system examines all of its connections that are in the OpenConfirm state": one on which the peer has
/// said nothing takes nothing from the other.
#[test]
fn a_silent_second_connection_decides_nothing() {
    for id in [LOWER, HIGHER] {
        let (mut session, now) = with_rival(StateName::OpenSent);
        session.on_bytes(now, Connection::Opened, &open_from(id));
        assert_eq!(session.state(), StateName::OpenConfirm);
        assert_eq!(take(&mut session), ["KEEPALIVE"]);
        session.on_bytes(now, Connection::Opened, &encode_keepalive());
        assert_eq!(session.state(), StateName::Established);
        let expected = ["accepted:N6/7", "close-accepted", "UPDATE", "EoR"];
        assert_eq!(take(&mut session), expected);
    }
}

#[test]
fn the_connection_of_the_higher_identifier_stays_when_its_open_comes_first() {
    let (mut session, now) = with_rival(StateName::OpenSent);
    session.on_bytes(now, Connection::Accepted, &open_from(LOWER));
    assert_eq!(take(&mut session), ["accepted:KEEPALIVE"]);
    session.on_bytes(now, Connection::Opened, &open_from(LOWER));
    assert_eq!(session.state(), StateName::OpenConfirm);
    assert_eq!(
        take(&mut session),
        ["accepted:N6/7", "close-accepted", "KEEPALIVE"]
    );

    let (mut session, now) = with_rival(StateName::OpenSent);
    session.on_bytes(now, Connection::Accepted, &open_from(HIGHER));
    take(&mut session);
    session.on_bytes(now, Connection::Opened, &open_from(HIGHER));
    assert_eq!(take(&mut session), ["accepted:N6/7", "close"]);
    assert_eq!(session.connection(), Connection::Accepted);
    session.on_bytes(now, Connection::Accepted, &encode_keepalive());
    assert_eq!(session.state(), StateName::Established);
}

#[test]
fn the_connection_of_the_higher_identifier_stays_when_its_open_comes_last() {
    let (mut session, now) = with_rival(StateName::OpenConfirm);
    session.on_bytes(now, Connection::Accepted, &open_from(LOWER));
    assert_eq!(take(&mut session), ["accepted:N6/7", "close-accepted"]);
    assert_eq!(session.state(), StateName::OpenConfirm);

    let (mut session, now) = with_rival(StateName::OpenConfirm);
    session.on_bytes(now, Connection::Accepted, &open_from(HIGHER));
    assert_eq!(take(&mut session), ["KEEPALIVE", "accepted:N6/7", "close"]);
    assert_eq!(session.connection(), Connection::Accepted);
    session.on_bytes(now, Connection::Accepted, &encode_keepalive());
    assert_eq!(session.state(), StateName::Established);
}

/// The peer answers on its own connection only: ours is given up when that is confirmed.
#[test]
fn a_confirmed_second_connection_takes_over_from_one_without_an_open() {
    let (mut session, now) = with_rival(StateName::OpenSent);
    session.on_bytes(now, Connection::Accepted, &open_from(LOWER));
    session.on_bytes(now, Connection::Accepted, &encode_keepalive());
    assert_eq!(session.state(), StateName::Established);
    let expected = ["KEEPALIVE", "accepted:N6/7", "close", "UPDATE", "EoR"];
    assert_eq!(take(&mut session), expected);
}

/// RFC 6286 section 2.3.
#[test]
fn with_equal_identifiers_the_higher_as_number_wins() {
    for (peer_as, stays) in [(64_999, Connection::Opened), (65_001, Connection::Accepted)] {
        let now = Instant::now();
        let config = SessionConfig {
            remote_as: Asn::new(peer_as).unwrap(),
            ..config()
        };
        let equal = Open::new(
            Asn::new(peer_as).unwrap(),
            90,
            config.router_id,
            &Family::ALL,
        );
        let mut session = Session::new(config, now, 1);
        session.start(now);
        session.on_connected(now);
        session.on_accepted(now);
        for connection in [Connection::Opened, Connection::Accepted] {
            session.on_bytes(now, connection, &equal.encode().unwrap());
        }
        let ours = session.connection() == Connection::Opened;
        assert_eq!(ours, stays == Connection::Opened, "{peer_as}");
    }
}

/// RFC 4724 section 5: a peer that restarts gracefully may come back before the old connection is known to be dead.
#[test]
fn a_new_connection_of_a_gracefully_restarting_peer_takes_the_place_of_the_established_one() {
    let (mut session, now) = session_in(StateName::OpenSent);
    let mut open = peer_open();
    open.capabilities
        .push(Capability::GracefulRestart(GracefulRestart {
            restarting: true,
            restart_time_s: 120,
            families: vec![(Family::Ipv4Unicast, true)],
        }));
    let open = open.encode().unwrap();
    session.on_bytes(now, Connection::Opened, &open);
    session.on_bytes(now, Connection::Opened, &encode_keepalive());
    take(&mut session);
    session.on_accepted(now);
    assert_eq!(take(&mut session), ["close", "OPEN"], "no NOTIFICATION");
    session.on_bytes(now, Connection::Accepted, &open);
    session.on_bytes(now, Connection::Accepted, &encode_keepalive());
    assert_eq!(session.state(), StateName::Established);
    assert_eq!(take(&mut session), ["KEEPALIVE", "UPDATE", "EoR"]);
}

/// The old connection may be dead without our knowing: a KEEPALIVE on it finds out.
#[test]
fn a_refused_second_connection_brings_the_next_keepalive_forward() {
    let (mut session, now) = session_in(StateName::Established);
    session.on_accepted(now);
    take(&mut session);
    let second = now + Duration::from_secs(1);
    assert_eq!(session.next_deadline(), Some(second));
    session.on_deadline(second);
    assert_eq!(take(&mut session), ["KEEPALIVE"]);
}

/// RFC 4271 section 6.8: a collision with an established session closes the new connection.
#[test]
fn an_established_session_is_not_disturbed_by_a_second_connection() {
    let (mut session, now) = session_in(StateName::Established);
    session.on_accepted(now);
    assert_eq!(take(&mut session), ["accepted:N6/7", "close-accepted"]);
    assert_eq!(session.state(), StateName::Established);
}

#[test]
fn the_peers_connection_takes_over_when_ours_fails() {
    for state in [StateName::Connect, StateName::OpenSent] {
        let (mut session, now) = with_rival(state);
        session.on_transport_failed(now, Connection::Opened, "connection refused");
        assert_eq!(session.state(), StateName::OpenSent);
        session.on_bytes(now, Connection::Accepted, &open_from(LOWER));
        session.on_bytes(now, Connection::Accepted, &encode_keepalive());
        assert_eq!(session.state(), StateName::Established);
    }
}

#[test]
fn ours_goes_on_when_the_peers_connection_fails() {
    for state in [
        StateName::Connect,
        StateName::OpenSent,
        StateName::OpenConfirm,
    ] {
        let (mut session, now) = with_rival(state);
        session.on_transport_failed(now, Connection::Accepted, "connection reset");
        assert_eq!(session.state(), state);
        assert_eq!(take(&mut session), ["close-accepted"]);
        session.on_accepted(now);
        session.on_bytes(now, Connection::Accepted, &encode_keepalive());
        assert_eq!(session.state(), state);
        let expected = ["accepted:OPEN", "accepted:N5/1", "close-accepted"];
        assert_eq!(take(&mut session), expected);
    }
}

/// A peer that connects and says nothing must not block ours, nor stay for ever.
#[test]
fn a_silent_second_connection_is_dropped_by_its_hold_timer() {
    let (mut session, now) = with_rival(StateName::OpenConfirm);
    let end = now + Duration::from_secs(4 * 60);
    while let Some(at) = session.next_deadline().filter(|at| *at <= end) {
        session.on_bytes(at, Connection::Opened, &encode_keepalive());
        session.on_deadline(at);
    }
    let did = take(&mut session);
    assert!(session.rival.is_none(), "{did:?}");
    assert_eq!(session.state(), StateName::Established);
}

#[test]
fn the_peers_connection_may_come_up_while_ours_is_being_opened() {
    let (mut session, now) = with_rival(StateName::Connect);
    session.on_bytes(now, Connection::Accepted, &open_from(LOWER));
    assert_eq!(take(&mut session), ["accepted:KEEPALIVE"]);
    session.on_bytes(now, Connection::Accepted, &encode_keepalive());
    assert_eq!(session.state(), StateName::Established);
    assert_eq!(take(&mut session)[0], "close");
}

/// Ours arrives when the peer may already call its connection established: ours goes, without a word.
#[test]
fn a_connection_that_is_nearly_up_is_not_given_up_for_one_that_was_just_opened() {
    let (mut session, now) = with_rival(StateName::Connect);
    session.on_bytes(now, Connection::Accepted, &open_from(LOWER));
    take(&mut session);
    session.on_connected(now);
    assert_eq!(take(&mut session), ["close"]);
    assert_eq!(session.state(), StateName::OpenConfirm);
    session.on_bytes(now, Connection::Accepted, &encode_keepalive());
    assert_eq!(session.state(), StateName::Established);
}

#[test]
fn a_stop_closes_both_connections() {
    let (mut session, now) = with_rival(StateName::OpenConfirm);
    session.stop(now, Notification::peer_deconfigured());
    let expected = ["accepted:N6/3", "close-accepted", "N6/3", "close"];
    assert_eq!(take(&mut session), expected);
    assert_eq!(session.next_deadline(), None);
}

#[test]
fn a_connection_in_idle_is_closed() {
    let (mut session, now) = session_in(StateName::Idle);
    session.on_accepted(now);
    assert_eq!(take(&mut session), ["close-accepted"]);
    assert_eq!(session.state(), StateName::Idle);
}

/// A router that opens another connection has forgotten the one on which it has said nothing.
#[test]
fn a_connection_of_the_peer_is_silent_until_its_open_has_come() {
    let (mut alone, now) = session_in(StateName::Active);
    assert!(!alone.accepted_is_silent());
    alone.on_accepted(now);
    assert!(alone.accepted_is_silent());
    alone.on_bytes(now, Connection::Accepted, &open_from(LOWER));
    assert!(!alone.accepted_is_silent());

    let (mut beside, now) = with_rival(StateName::OpenSent);
    assert!(beside.accepted_is_silent());
    beside.on_bytes(now, Connection::Accepted, &open_from(LOWER));
    assert!(!beside.accepted_is_silent());
}
