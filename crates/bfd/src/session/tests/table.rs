//! Every pair of state and event (RFC 5880 sections 6.2 and 6.8.6).

use super::*;

const STATES: [State; 4] = [State::AdminDown, State::Down, State::Init, State::Up];

/// State, event, next state, diagnostic, and whether the owner is told of a failure of the path.
const TABLE: &str = include_str!("table.txt");

type Event = (&'static str, fn(&mut Session, Instant) -> Option<Change>);

fn events() -> Vec<Event> {
    fn hear(session: &mut Session, now: Instant, state: State) -> Option<Change> {
        session
            .on_packet(now, &peer(state))
            .ok()
            .and_then(|o| o.change)
    }
    vec![
        ("AdminDown", |s, now| hear(s, now, State::AdminDown)),
        ("Down", |s, now| hear(s, now, State::Down)),
        ("Init", |s, now| hear(s, now, State::Init)),
        ("Up", |s, now| hear(s, now, State::Up)),
        ("Expired", |s, now| {
            s.heard_at = Some(now);
            s.on_deadline(now + s.detection_time()).change
        }),
        ("Disable", |s, now| s.set_admin_down(now, true)),
        ("Enable", |s, now| s.set_admin_down(now, false)),
    ]
}

fn actual() -> String {
    let mut rows = String::new();
    for state in STATES {
        for (name, event) in events() {
            let (mut session, now) = session_in(state);
            let change = event(&mut session, now);
            let moved = change.is_some_and(|c| c.from != c.to);
            assert_eq!(moved, session.state() != state, "{state} {name}");
            let failure = change.is_some_and(|c| c.is_failure());
            let told = if failure { "failure" } else { "" };
            let diagnostic = session.diagnostic().code();
            let row = format!(
                "{state:<10} {name:<10} {:<10} {diagnostic} {told}",
                session.state()
            );
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
