//! Every pair of state and event (RFC 4271 section 8.2.2).

use super::*;
use crate::wire::{PathAttributes, Treatment, WireError};

const STATES: [StateName; 6] = [
    StateName::Idle,
    StateName::Connect,
    StateName::Active,
    StateName::OpenSent,
    StateName::OpenConfirm,
    StateName::Established,
];

fn events() -> Vec<(&'static str, Event)> {
    let update = ReceivedUpdate {
        announced: vec![],
        withdrawn: vec![],
        attributes: PathAttributes::default(),
        treatment: Treatment::Accepted,
        end_of_rib: Some(Family::Ipv4Unicast),
    };
    let malformed = WireError {
        notification: Notification::new(1, 1, Bytes::new()),
        detail: "not synchronized".to_owned(),
    };
    let wrong_as = Open {
        header_as: 1,
        ..Open::new(Asn::new(1).unwrap(), 90, Ipv4Addr::new(1, 1, 1, 1), &[])
    };
    vec![
        ("Start", Event::Start),
        (
            "Stop",
            Event::Stop(Notification::administrative_shutdown("")),
        ),
        ("Retry", Event::Retry),
        ("ConnectRetryExpired", Event::ConnectRetryExpired),
        ("HoldExpired", Event::HoldExpired),
        ("KeepaliveExpired", Event::KeepaliveExpired),
        ("IdleHoldExpired", Event::IdleHoldExpired),
        ("SendHoldExpired", Event::SendHoldExpired),
        ("Connected", Event::Connected),
        (
            "TransportFailed",
            Event::TransportFailed("reset".to_owned()),
        ),
        ("Open", Event::Open(peer_open())),
        ("OpenOfWrongAs", Event::Open(wrong_as)),
        ("Malformed", Event::Malformed(malformed)),
        (
            "Notification",
            Event::Notification(Notification::peer_deconfigured()),
        ),
        ("Keepalive", Event::Keepalive),
        ("Update", Event::Update(update)),
        (
            "RouteRefresh",
            Event::RouteRefresh(Some(Family::Ipv4Unicast)),
        ),
    ]
}

/// State, event, next state, what the owner has to do. The session was started, has one route, and in
/// Idle waits for its idle hold time.
const TABLE: &str = include_str!("table.txt");

fn actual() -> String {
    let mut rows = String::new();
    for state in STATES {
        for (name, event) in events() {
            let (mut session, now) = session_in(state);
            session.wanted = true;
            session.handle(now, event);
            let outputs = take(&mut session).join(" ");
            let row = format!("{state:<12} {name:<20} {:<12} {outputs}", session.state());
            rows.push_str(row.trim_end());
            rows.push('\n');
        }
    }
    rows
}

#[test]
fn every_pair_of_state_and_event_does_what_the_table_says() {
    let actual = actual();
    for (expected, seen) in TABLE.lines().zip(actual.lines()) {
        assert_eq!(seen, expected);
    }
    assert_eq!(TABLE.lines().count(), actual.lines().count(), "{actual}");
    assert_eq!(TABLE.lines().count(), STATES.len() * events().len());
}

#[test]
fn a_stopped_session_stays_idle_whatever_happens() {
    for (name, event) in events() {
        let (mut session, now) = session_in(StateName::Idle);
        session.handle(now, event);
        assert_eq!(session.state(), StateName::Idle, "{name}");
        assert!(
            !take(&mut session).contains(&"connect".to_owned()),
            "{name}"
        );
        assert_eq!(session.next_deadline(), None, "{name}");
    }
}
