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
        raw: None,
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
        ("Update", Event::Update(Box::new(update))),
        (
            "RouteRefresh",
            Event::RouteRefresh(RouteRefresh::Request(Some(Family::Ipv4Unicast))),
        ),
        ("OutOfPlace", Event::OutOfPlace(2)),
        ("Vanish", Event::Vanish),
        ("GateOpened", Event::GateOpened),
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
        rows.push_str(&accepted_row(state));
    }
    rows
}

/// 17 (TcpConnectionConfirmed): the peer has opened a connection.
fn accepted_row(state: StateName) -> String {
    let (mut session, now) = session_in(state);
    session.wanted = true;
    session.on_accepted(now);
    let outputs = take(&mut session).join(" ");
    let row = format!(
        "{state:<12} {:<20} {:<12} {outputs}",
        "Accepted",
        session.state()
    );
    format!("{}\n", row.trim_end())
}

/// Names every row that differs; the whole of what was seen ends up in the test's output.
fn compare(table: &str, actual: &str) {
    let differs = |(expected, seen): &(&str, &str)| expected != seen;
    let pairs: Vec<_> = table.lines().zip(actual.lines()).filter(differs).collect();
    let complete = table.lines().count() == actual.lines().count();
    assert!(complete && pairs.is_empty(), "{pairs:#?}\n{actual}");
}

#[test]
fn every_pair_of_state_and_event_does_what_the_table_says() {
    let actual = actual();
    compare(TABLE, &actual);
    assert_eq!(TABLE.lines().count(), STATES.len() * (events().len() + 1));
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

/// The state machine on its own connection beside an accepted one, and an event of either: what becomes of the state,
/// of the accepted connection (`opensent`, `openconfirm`, `none` or `taken`), and what the owner has to do. The
/// peer's identifier is the lower one, so that our connection wins a collision.
const RIVAL_TABLE: &str = include_str!("rival_table.txt");

/// With our connection in OpenConfirm the rival's OPEN decides, so that it never waits confirmed beside it.
const PAIRS: [(StateName, bool); 5] = [
    (StateName::Connect, false),
    (StateName::Connect, true),
    (StateName::OpenSent, false),
    (StateName::OpenSent, true),
    (StateName::OpenConfirm, false),
];

fn rival_actual() -> String {
    let mut rows = String::new();
    for (state, confirmed) in PAIRS {
        for of_rival in [true, false] {
            for (name, event) in events() {
                rows.push_str(&rival_row(state, confirmed, of_rival, name, event));
            }
        }
    }
    rows
}

fn rival_row(
    state: StateName,
    confirmed: bool,
    of_rival: bool,
    name: &str,
    event: Event,
) -> String {
    let (mut session, now) = session_in(state);
    session.on_accepted(now);
    if confirmed {
        let open = peer_open().encode().unwrap();
        session.on_bytes(now, Connection::Accepted, &open);
    }
    take(&mut session);
    if of_rival {
        session.handle_rival(now, event);
    } else {
        session.handle(now, event);
    }
    let outputs = take(&mut session).join(" ");
    let rival = match (&session.rival, session.connection) {
        (Some(_), _) if session.rival_is_confirmed() => "openconfirm",
        (Some(_), _) => "opensent",
        (None, Connection::Opened) => "none",
        (None, Connection::Accepted) => "taken",
    };
    let before = if confirmed { "openconfirm" } else { "opensent" };
    let whose = if of_rival { "theirs" } else { "ours" };
    let state = state.to_string();
    let row = format!(
        "{state:<11} {before:<11} {whose:<6} {name:<19} {:<11} {rival:<11} {outputs}",
        session.state()
    );
    format!("{}\n", row.trim_end())
}

#[test]
fn every_event_beside_a_second_connection_does_what_the_table_says() {
    let actual = rival_actual();
    compare(RIVAL_TABLE, &actual);
    assert_eq!(
        RIVAL_TABLE.lines().count(),
        2 * PAIRS.len() * events().len()
    );
}
