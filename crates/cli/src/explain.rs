//! `explain`: why something is as it is, as an ordered list of conditions.

use crate::lookup::{items, number, text};
use crate::output::{Format, table};
use crate::show::{age, now_unix_ms};
use client::Client;
use serde_json::Value;
use std::fmt::Write;
use std::net::IpAddr;

/// What to explain.
#[derive(Debug, clap::Subcommand)]
pub enum Explain {
    /// Whether each engine announces a VIP to each peer; where not: the first condition that fails, and what to do.
    Vip(VipArgs),
}

/// Which VIP.
#[derive(Debug, clap::Args)]
pub struct VipArgs {
    /// Address of the VIP.
    vip: IpAddr,
    /// Only this engine, by name or UUID; also one where the VIP is not placed.
    #[arg(long, value_name = "ENGINE")]
    se: Option<String>,
}

pub(crate) fn run(client: &Client, explain: &Explain, format: Format) -> anyhow::Result<()> {
    let Explain::Vip(VipArgs { vip, se }) = explain;
    let query: Vec<(&str, &str)> = se.iter().map(|se| ("se", se.as_str())).collect();
    let answer = client.get(&format!("/api/ek/explain/vip/{vip}"), &query)?;
    table::print_value(&answer, describe(&answer, now_unix_ms()).trim_end(), format);
    Ok(())
}

/// For people: a line per path; below a path where a condition fails, all conditions in order.
fn describe(answer: &Value, now_unix_ms: u64) -> String {
    let paths = items(answer, "/paths");
    let needed = paths.iter().filter(|path| path["needed"] != false).count();
    let announced = number(answer, "/paths_announced").unwrap_or_default();
    let services: Vec<_> = items(answer, "/virtual_services")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let unknown = match number(answer, "/paths_unknown").unwrap_or_default() {
        0 => String::new(),
        n => format!(", not known of {n}"),
    };
    let head = format!(
        "{} ({}): announced on {announced} of {needed} paths{unknown}\n",
        text(answer, "/vip"),
        services.join(", "),
    );
    let paths = paths.iter().map(|path| describe_path(path, now_unix_ms));
    head + &paths.collect::<String>()
}

fn describe_path(path: &Value, now_unix_ms: u64) -> String {
    let sent = now_unix_ms.saturating_sub(number(path, "/sent_unix_ms").unwrap_or_default());
    let announced = || {
        format!(
            "announced, next hop {}, since {}",
            text(path, "/next_hop"),
            age(sent)
        )
    };
    let verdict = match (&path["announced"], path["needed"] == false) {
        (Value::Bool(true), _) => announced(),
        // Without a session with the engine.
        (Value::Null, _) => match &path["last_reported_announced"] {
            Value::Bool(true) => format!("not known; last reported: {}", announced()),
            Value::Bool(false) => "not known; last reported: NOT announced".to_owned(),
            _ => "not known; nothing reported yet".to_owned(),
        },
        (_, true) => {
            "not needed, another session of this link carries this address family".to_owned()
        }
        (_, false) => "NOT announced".to_owned(),
    };
    let (engine, peer) = (
        or_dash(text(path, "/se_name")),
        or_dash(text(path, "/peer")),
    );
    let head = format!("\n{engine} > {peer}: {verdict}\n");
    match path["first_failed"].is_null() || path["needed"] == false {
        true => head,
        false => head + &describe_conditions(path),
    }
}

fn describe_conditions(path: &Value) -> String {
    let in_state = |state: &str| {
        let all = items(path, "/conditions").iter();
        let codes = all.filter(|c| c["state"] == state);
        codes
            .map(|c| text(c, "/condition"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let failed = &path["first_failed"];
    let lines = [
        ("Met", in_state("met")),
        (
            "Failed",
            format!("{}: {}", text(failed, "/condition"), text(failed, "/text")),
        ),
        ("Not asked", in_state("not_asked")),
        ("Not reached", in_state("not_reached")),
        ("Next", text(failed, "/next_step").to_owned()),
    ];
    let shown = lines.iter().filter(|(_, value)| !value.is_empty());
    shown.fold(String::new(), |mut out, (title, value)| {
        // Writing to a String does not fail.
        let _ = writeln!(out, "  {title:<12} {value}");
        out
    })
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_failed_condition_is_shown_with_the_next_step() {
        let answer = json!({"vip": "192.0.2.1", "virtual_services": ["web"], "paths_announced": 1, "paths": [
            {"se_name": "se-1", "peer": "10.0.0.1", "announced": true, "next_hop": "10.0.0.11", "sent_unix_ms": 1000, "first_failed": null},
            {"se_name": "se-2", "peer": "10.0.0.1", "announced": false,
             "conditions": [{"condition": "rhi_on", "state": "met", "text": ""},
                 {"condition": "bgp_profile_present", "state": "met", "text": ""},
                 {"condition": "tcp_connected", "state": "failed", "text": "connection refused"},
                 {"condition": "bfd_up", "state": "not_reached", "text": ""}],
             "first_failed": {"condition": "tcp_connected", "text": "connection refused", "next_step": "start the router"}}]});
        let text = describe(&answer, 6000);
        for expected in [
            "192.0.2.1 (web): announced on 1 of 2 paths",
            "se-1 > 10.0.0.1: announced, next hop 10.0.0.11, since 5s",
            "se-2 > 10.0.0.1: NOT announced",
            "  Met          rhi_on, bgp_profile_present",
            "  Failed       tcp_connected: connection refused",
            "  Not reached  bfd_up",
            "  Next         start the router",
        ] {
            assert!(
                text.lines().any(|line| line == expected),
                "{expected:?} in {text}"
            );
        }
    }

    #[test]
    fn of_an_engine_that_is_not_connected_the_last_word_is_shown_as_such() {
        let path = |last: Value| {
            json!({"se_name": "se-1", "peer": "10.0.0.1", "announced": null, "last_reported_announced": last,
            "next_hop": "10.0.0.11", "sent_unix_ms": 1000,
            "first_failed": {"condition": "engine_connected", "text": "lost", "next_step": "look"}})
        };
        let answer = json!({"vip": "192.0.2.1", "virtual_services": ["web"], "paths_announced": 0, "paths_unknown": 3,
            "paths": [path(json!(true)), path(json!(false)), path(Value::Null)]});
        let text = describe(&answer, 6000);
        for expected in [
            "192.0.2.1 (web): announced on 0 of 3 paths, not known of 3",
            "se-1 > 10.0.0.1: not known; last reported: announced, next hop 10.0.0.11, since 5s",
            "se-1 > 10.0.0.1: not known; last reported: NOT announced",
            "se-1 > 10.0.0.1: not known; nothing reported yet",
            "  Failed       engine_connected: lost",
        ] {
            assert!(
                text.lines().any(|line| line == expected),
                "{expected:?} in {text}"
            );
        }
    }
}
