use super::table::{Column, Row, render};
use super::*;
use serde::Serialize;

#[derive(Serialize)]
struct Peer {
    peer: &'static str,
    state: &'static str,
    last_error: &'static str,
    hold_time_s: u16,
}

impl Row for Peer {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("PEER", |p| p.peer.into()),
        Column::new("STATE", |p| p.state.into()),
        Column::wide("HOLD", |p| format!("{} s", p.hold_time_s)),
        Column::new("LAST ERROR", |p| p.last_error.into()),
    ];
}

fn peers() -> Vec<Peer> {
    let ok = Peer {
        peer: "10.10.10.1",
        state: "ESTABLISHED",
        last_error: "",
        hold_time_s: 180,
    };
    let bad = Peer {
        peer: "10.10.11.1",
        state: "CONNECT",
        last_error: "no answer",
        hold_time_s: 9,
    };
    vec![ok, bad]
}

#[test]
fn table_has_a_line_per_row_and_a_dash_for_nothing() {
    let expected = "\
PEER        STATE        LAST ERROR
10.10.10.1  ESTABLISHED  -
10.10.11.1  CONNECT      no answer
";
    assert_eq!(render(&peers(), Format::Table, None), expected);
}

#[test]
fn wide_table_shows_all_columns() {
    assert!(
        render(&peers(), Format::Wide, None)
            .lines()
            .nth(2)
            .unwrap()
            .contains("9 s")
    );
}

#[test]
fn json_of_a_list_is_an_array_of_all_fields() {
    let text = render(&peers()[..1], Format::Json, None);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        value,
        json!([{"peer": "10.10.10.1", "state": "ESTABLISHED", "last_error": "", "hold_time_s": 180}])
    );
}

#[test]
fn yaml_says_the_same_as_json() {
    let text = render(&peers(), Format::Yaml, None);
    let value: Value = serde_norway::from_str(&text).unwrap();
    assert_eq!(value, serde_json::to_value(peers()).unwrap());
}

#[test]
fn narrow_terminal_wraps_inside_the_columns() {
    let text = render(&peers(), Format::Table, Some(30));
    assert!(text.lines().all(|line| line.len() <= 30), "{text}");
}

#[test]
fn exit_codes_say_what_kind_of_failure_it_was() {
    let status = |status| client::Error::Status {
        method: "PUT".into(),
        path: "/api/pool/pool-1".into(),
        status,
        message: "said".into(),
    };
    let unreachable = client::Error::Unreachable {
        url: "https://c".into(),
        reason: "refused".into(),
    };
    let outcomes = [
        (
            anyhow::Error::from(unreachable).context("show"),
            Outcome::Unreachable,
        ),
        (status(409).into(), Outcome::Conflict),
        (status(412).into(), Outcome::Conflict),
        (status(400).into(), Outcome::Failed),
        (UsageError("which file?".into()).into(), Outcome::Usage),
        (anyhow::anyhow!("no"), Outcome::Failed),
    ];
    for (error, outcome) in outcomes {
        assert_eq!(outcome_of(&error), outcome, "{error:#}");
    }
}

#[test]
fn error_as_json_has_text_outcome_and_status() {
    let cause = client::Error::Status {
        method: "POST".into(),
        path: "/x".into(),
        status: 409,
        message: "exists".into(),
    };
    let value = error_value(&anyhow::Error::from(cause).context("pool web"));
    assert_eq!(
        value,
        json!({"error": "pool web: exists", "outcome": "conflict", "status": 409})
    );
}

#[test]
fn hint_stands_on_a_line_of_its_own_and_in_json() {
    let cause = client::Error::Unreachable {
        url: "https://c".into(),
        reason: "refused".into(),
    };
    let error = anyhow::Error::from(Hinted {
        cause,
        hint: "try another".into(),
    });
    assert_eq!(
        error_text(&error),
        "error: controller https://c is not reachable: refused\nhint: try another"
    );
    assert_eq!(error_value(&error)["hint"], "try another");
    assert_eq!(outcome_of(&error), Outcome::Unreachable);
}
