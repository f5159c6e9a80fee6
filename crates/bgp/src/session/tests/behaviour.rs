//! Timers, messages and status of one session.

use super::*;

fn seconds(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

/// Runs to the next deadline; the time and what was done.
fn next(session: &mut Session) -> (Instant, Vec<String>) {
    let at = session.next_deadline().expect("a deadline");
    session.on_deadline(at);
    (at, take(session))
}

#[test]
fn opening_sends_open_keepalive_routes_and_end_of_rib_without_waiting() {
    let now = Instant::now();
    let mut session = Session::new(config(), now, 1);
    session.set_routes(now, &routes(1..=200));
    session.start(now);
    assert_eq!(take(&mut session), ["connect"]);
    session.on_connected(now);
    assert_eq!(take(&mut session), ["OPEN"]);
    session.on_bytes(now, Connection::Opened, &peer_open().encode().unwrap());
    assert_eq!(take(&mut session), ["KEEPALIVE"]);
    session.on_bytes(now, Connection::Opened, &encode_keepalive());
    assert_eq!(take(&mut session), ["UPDATE", "EoR"]);
    assert!(
        session
            .routes()
            .all(|route| route.sent && route.withheld.is_none())
    );
}

#[test]
fn end_of_rib_is_sent_for_an_empty_set_too() {
    let (mut session, now) = session_in(StateName::OpenConfirm);
    session.set_routes(now, &RouteTable::new());
    session.on_bytes(now, Connection::Opened, &encode_keepalive());
    assert_eq!(take(&mut session), ["EoR"]);
}

/// RFC 4271 sections 4.2, 4.4 and 10: the smaller hold time, a third of it, jitter from 0.75 to 1.
#[test]
fn keepalives_follow_the_negotiated_hold_time_with_jitter() {
    let (mut session, now) = session_in(StateName::Established);
    assert_eq!(session.negotiated().unwrap().hold_time.seconds(), 90);
    let (at, did) = next(&mut session);
    assert_eq!(did, ["KEEPALIVE"]);
    assert!(
        (seconds(22.5)..=seconds(30.0)).contains(&(at - now)),
        "{:?}",
        at - now
    );
}

#[test]
fn a_hold_time_of_zero_needs_no_keepalives_and_never_expires() {
    let (mut session, now) = session_in(StateName::OpenSent);
    let open = Open {
        hold_time_s: 0,
        ..peer_open()
    };
    session.on_bytes(now, Connection::Opened, &open.encode().unwrap());
    session.on_bytes(now, Connection::Opened, &encode_keepalive());
    assert_eq!(session.state(), StateName::Established);
    take(&mut session);
    assert_eq!(session.next_deadline(), None);
}

/// RFC 4271 section 4.4: not "more frequently than one per second".
#[test]
fn keepalives_are_never_closer_than_a_second() {
    let (mut session, now) = session_in(StateName::OpenSent);
    let open = Open {
        hold_time_s: 3,
        ..peer_open()
    };
    session.on_bytes(now, Connection::Opened, &open.encode().unwrap());
    take(&mut session);
    assert_eq!(next(&mut session).0 - now, seconds(1.0));
}

/// RFC 4271 section 6.5; only KEEPALIVE and UPDATE restart the hold timer.
#[test]
fn the_hold_timer_is_restarted_by_keepalive_and_update_only() {
    let end_of_rib = wire::encode_end_of_rib(Family::Ipv4Unicast).unwrap();
    let mut refresh = vec![0xFF; 16];
    refresh.extend_from_slice(&[0, 23, 5, 0, 9, 0, 1]);
    for (message, restarts) in [
        (&encode_keepalive()[..], true),
        (&end_of_rib[..], true),
        (&refresh[..], false),
    ] {
        let (mut session, now) = session_in(StateName::Established);
        session.on_bytes(now + seconds(60.0), Connection::Opened, message);
        session.on_deadline(now + seconds(90.0));
        assert_eq!(session.state() == StateName::Established, restarts);
        session.on_deadline(now + seconds(150.0));
        assert_ne!(session.state(), StateName::Established);
        assert!(take(&mut session).contains(&"N4/0".to_owned()));
        assert!(
            session
                .last_error()
                .unwrap()
                .text
                .contains("Hold Timer Expired (4/0)")
        );
    }
}

/// RFC 4271 section 6.2 and RFC 6286 section 2.2.
#[test]
fn every_unacceptable_open_is_refused_with_its_subcode() {
    let open = peer_open;
    let zero_as = Open {
        header_as: 0,
        capabilities: vec![],
        ..open()
    };
    let cases = [
        ("AS 0", zero_as, "N2/2"),
        (
            "AS 0 beside a capability",
            Open {
                header_as: 0,
                ..open()
            },
            "N2/2",
        ),
        (
            "another AS",
            Open::new(Asn::new(7).unwrap(), 90, Ipv4Addr::new(1, 1, 1, 1), &[]),
            "N2/2",
        ),
        (
            "identifier 0",
            Open {
                router_id: Ipv4Addr::UNSPECIFIED,
                ..open()
            },
            "N2/3",
        ),
        (
            "our identifier",
            Open {
                router_id: config().router_id,
                ..open()
            },
            "N2/3",
        ),
        (
            "hold time 1",
            Open {
                hold_time_s: 1,
                ..open()
            },
            "N2/6",
        ),
        (
            "hold time 2",
            Open {
                hold_time_s: 2,
                ..open()
            },
            "N2/6",
        ),
    ];
    for (name, open, expected) in cases {
        let (mut session, now) = session_in(StateName::OpenSent);
        session.on_bytes(now, Connection::Opened, &open.encode().unwrap());
        assert_eq!(take(&mut session), [expected, "close"], "{name}");
        assert_eq!(session.state(), StateName::Idle, "{name}");
    }
}

/// RFC 6286: equal identifiers are fine between different autonomous systems.
#[test]
fn an_external_peer_may_have_our_identifier() {
    let now = Instant::now();
    let mut session = Session::new(
        SessionConfig {
            local_as: Asn::new(64_512).unwrap(),
            ..config()
        },
        now,
        1,
    );
    session.start(now);
    session.on_connected(now);
    session.on_bytes(
        now,
        Connection::Opened,
        &Open {
            router_id: config().router_id,
            ..peer_open()
        }
        .encode()
        .unwrap(),
    );
    assert_eq!(session.state(), StateName::OpenConfirm);
}

#[test]
fn the_connect_is_retried_after_the_jittered_connect_timer() {
    let (mut session, now) = session_in(StateName::Active);
    let (at, did) = next(&mut session);
    assert_eq!(did, ["connect"]);
    assert!((seconds(7.5)..=seconds(10.0)).contains(&(at - now)));
    // No answer at all: the attempt is dropped and started anew.
    let (again, did) = next(&mut session);
    assert_eq!(did, ["close", "connect"]);
    assert!((seconds(7.5)..=seconds(10.0)).contains(&(again - at)));
    assert!(session.last_error().unwrap().text.contains("MD5"));
}

#[test]
fn the_idle_time_doubles_up_to_the_connect_timer_and_a_configuration_change_ends_it() {
    let (mut session, mut now) = session_in(StateName::OpenSent);
    let mut waits = Vec::new();
    for _ in 0..6 {
        session.on_bytes(
            now,
            Connection::Opened,
            &Notification::peer_deconfigured().encode(),
        );
        take(&mut session);
        let (at, did) = next(&mut session);
        assert_eq!(did, ["connect"]);
        waits.push((at - now).as_secs_f64());
        now = at;
        session.on_connected(now);
        take(&mut session);
    }
    for (wait, nominal) in waits.iter().zip([1.0, 2.0, 4.0, 8.0, 10.0, 10.0]) {
        assert!((nominal * 0.75..=nominal).contains(wait), "{waits:?}");
    }
    session.on_bytes(
        now,
        Connection::Opened,
        &Notification::peer_deconfigured().encode(),
    );
    take(&mut session);
    session.reconfigure(
        now,
        SessionConfig {
            connect_retry: seconds(60.0),
            ..config()
        },
    );
    assert_eq!(take(&mut session), ["connect"]);
}

#[test]
fn nothing_is_answered_to_a_notification() {
    for state in [
        StateName::OpenSent,
        StateName::OpenConfirm,
        StateName::Established,
    ] {
        let (mut session, now) = session_in(state);
        session.on_bytes(
            now,
            Connection::Opened,
            &Notification::administrative_shutdown("upgrade").encode(),
        );
        assert_eq!(take(&mut session), ["close"]);
        let error = session.last_error().unwrap();
        assert_eq!(
            error.text,
            "received Cease / Administrative Shutdown (6/2): \"upgrade\""
        );
    }
}

#[test]
fn stopping_withdraws_says_cease_and_closes() {
    let (mut session, now) = session_in(StateName::Established);
    session.stop(now, Notification::administrative_shutdown("maintenance"));
    assert_eq!(take(&mut session), ["UPDATE", "N6/2", "close"]);
    assert_eq!(session.next_deadline(), None);
}

#[test]
fn soft_changes_send_nothing_and_hard_changes_reset_with_other_configuration_change() {
    let soft = [
        SessionConfig {
            advertisement_interval: seconds(1.0),
            ..config()
        },
        SessionConfig {
            connect_retry: seconds(1.0),
            ..config()
        },
        SessionConfig {
            keepalive: seconds(10.0),
            ..config()
        },
        config(),
    ];
    for config in soft {
        let (mut session, now) = session_in(StateName::Established);
        session.reconfigure(now, config);
        assert_eq!(take(&mut session), Vec::<String>::new());
    }
    let hard = [
        SessionConfig {
            hold_time: HoldTime::new(30).unwrap(),
            ..config()
        },
        SessionConfig {
            local_as: Asn::new(7).unwrap(),
            ..config()
        },
        SessionConfig {
            router_id: Ipv4Addr::LOCALHOST,
            ..config()
        },
        SessionConfig {
            next_hop_v6: Some("2001:db8::1".parse().unwrap()),
            ..config()
        },
    ];
    for config in hard {
        let (mut session, now) = session_in(StateName::Established);
        session.reconfigure(now, config);
        assert_eq!(take(&mut session), ["UPDATE", "N6/6", "close", "connect"]);
    }
}

/// RFC 2918 section 4.
#[test]
fn a_route_refresh_sends_the_routes_again() {
    let (mut session, now) = session_in(StateName::Established);
    let mut refresh = vec![0xFF; 16];
    refresh.extend_from_slice(&[0, 23, 5, 0, 1, 0, 1]);
    session.on_bytes(now, Connection::Opened, &refresh);
    assert_eq!(take(&mut session), ["UPDATE"]);
}

/// RFC 9687 section 4.
#[test]
fn a_peer_that_does_not_read_loses_the_session_after_eight_minutes() {
    let (mut session, now) = session_in(StateName::Established);
    session.set_routes(now, &routes([1, 2]));
    while session.poll_output().is_some() {}
    for minute in 1..=8 {
        assert_eq!(session.state(), StateName::Established);
        let at = now + seconds(60.0 * f64::from(minute));
        session.on_bytes(at - seconds(1.0), Connection::Opened, &encode_keepalive());
        session.on_deadline(at);
    }
    assert!(take(&mut session).contains(&"N8/0".to_owned()));
}

#[test]
fn routes_are_held_back_while_the_peer_does_not_read_and_then_only_the_net_result_is_sent() {
    let (mut session, now) = session_in(StateName::Established);
    session.unsent_bytes = super::super::UNSENT_BYTES_MAX;
    for last in 2..100 {
        session.set_routes(now, &routes([last]));
    }
    assert_eq!(take(&mut session), Vec::<String>::new());
    assert_eq!(
        session.routes().next().unwrap().withheld,
        Some(Withheld::PeerNotReading)
    );
    session.on_written(now, Connection::Opened, super::super::UNSENT_BYTES_MAX);
    // One withdrawal and one announcement.
    assert_eq!(take(&mut session), ["UPDATE", "UPDATE"]);
}

#[test]
fn every_reason_to_withhold_a_route_is_named() {
    let withheld = |session: &Session| {
        session
            .routes()
            .next()
            .unwrap()
            .withheld
            .map(Withheld::code)
    };
    let (session, _) = session_in(StateName::OpenConfirm);
    assert_eq!(withheld(&session), Some("session_not_established"));

    let (mut session, now) = session_in(StateName::Established);
    assert_eq!(withheld(&session), None);
    let changed = Arc::new(
        RouteAttributes::new(AttributeValues {
            local_pref: 50,
            ..AttributeValues::default()
        })
        .unwrap(),
    );
    let table: RouteTable = routes([1])
        .into_keys()
        .map(|vip| (vip, changed.clone()))
        .collect();
    session.set_routes(now, &table);
    assert_eq!(withheld(&session), Some("advertisement_interval"));

    let v6: IpNet = "2001:db8::1/128".parse().unwrap();
    session.set_routes(now, &[(v6, changed.clone())].into());
    assert_eq!(withheld(&session), Some("no_next_hop"));
    session.config.next_hop_v6 = Some("2001:db8::11".parse().unwrap());
    assert_eq!(withheld(&session), Some("family_not_negotiated"));
}

/// RFC 7606: a bad attribute is no reason to lose every route.
/// RFC 6608 section 4: the data is "a 1-octet, unsigned integer that indicates the type of the unexpected message".
#[test]
fn a_message_out_of_place_is_named_in_the_error_whatever_is_in_it() {
    let malformed_update = {
        let mut bytes = vec![0xFF; 16];
        bytes.extend_from_slice(&[0, 23, 2, 0, 9, 0, 0]);
        bytes
    };
    let open = peer_open().encode().unwrap();
    for (state, message, subcode, kind) in [
        (StateName::OpenSent, &malformed_update[..], 1, 2),
        (StateName::OpenSent, &encode_keepalive()[..], 1, 4),
        (StateName::OpenConfirm, &malformed_update[..], 2, 2),
        (StateName::OpenConfirm, &open[..], 2, 1),
        (StateName::Established, &open[..], 3, 1),
    ] {
        let (mut session, now) = session_in(state);
        session.on_bytes(now, Connection::Opened, message);
        let error = session.last_error().and_then(|e| e.notification.clone());
        let expected = Notification::new(5, subcode, Bytes::copy_from_slice(&[kind]));
        assert_eq!(error, Some(expected), "{state}");
    }
}

#[test]
fn a_malformed_update_is_counted_and_the_session_stays() {
    let (mut session, now) = session_in(StateName::Established);
    let mut update = vec![0xFF; 16];
    update.extend_from_slice(&[0, 31, 2, 0, 0, 0, 4, 0x40, 1, 1, 3, 24, 192, 0, 2]);
    update[17] = update.len() as u8;
    session.on_bytes(now, Connection::Opened, &update);
    assert_eq!(session.state(), StateName::Established);
    assert_eq!(session.counters().treated_as_withdraw, 1);
    assert!(
        session
            .last_error()
            .unwrap()
            .text
            .starts_with("UPDATE treated as withdraw")
    );
}

#[test]
fn old_speakers_without_capabilities_get_a_session_of_ipv4_and_two_octets() {
    let (mut session, now) = session_in(StateName::OpenSent);
    session.on_bytes(
        now,
        Connection::Opened,
        &Open {
            capabilities: vec![],
            ..peer_open()
        }
        .encode()
        .unwrap(),
    );
    let negotiated = session.negotiated().unwrap();
    assert_eq!(negotiated.families, [Family::Ipv4Unicast]);
    assert!(!negotiated.four_octet_as && negotiated.capabilities.is_empty());
}
