//! `trace flow`: where a flow lives, which engine gets its packets, and how that one finds the owner; live.

use crate::lookup::{items, number, text};
use crate::output::{Format, UsageError, table};
use crate::show::flows::{bytes, end, note_silent};
use crate::show::{age, now_unix_ms};
use client::Client;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Between two looks at the events.
const PAUSE: Duration = Duration::from_millis(300);

/// What to trace.
#[derive(Debug, clap::Subcommand)]
pub enum Trace {
    /// A flow, from its client to the VIP, across all service engines: where it lives, who gets its packets now, and by
    /// what they find the owner (hint, cache or probe).
    Flow(FlowArgs),
}

/// Which flow.
#[derive(Debug, clap::Args)]
pub struct FlowArgs {
    /// The client's end, as 192.0.2.7:40000 or [2001:db8::7]:40000.
    #[arg(value_name = "SRC:PORT")]
    client: SocketAddr,
    /// The VIP and its port.
    #[arg(value_name = "DST:PORT")]
    vip: SocketAddr,
    /// tcp or udp.
    #[arg(value_parser = ["tcp", "udp"], default_value = "tcp")]
    protocol: String,
    /// Seconds to watch its packets; 0 = only what is known already.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=3600))]
    seconds: u32,
}

impl Trace {
    /// Errors that can be seen without a controller.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let Self::Flow(FlowArgs { client, vip, .. }) = self;
        if client.is_ipv4() == vip.is_ipv4() {
            return Ok(());
        }
        let text = format!("{client} and {vip} are of two address families");
        Err(UsageError(text).into())
    }
}

pub(crate) fn run(client: &Client, trace: &Trace, format: Format) -> anyhow::Result<()> {
    let Trace::Flow(args) = trace;
    let mut shown = Shown::default();
    let until = Instant::now() + Duration::from_secs(args.seconds.into());
    let begun_ns = now_unix_ms() * 1_000_000;
    let first = ask(client, args, until)?;
    if !format.is_structured() {
        crate::output::text_block(describe(&first));
        note_silent(&first);
        crate::output::text_block(shown.news(&first));
    }
    let mut last = first;
    while Instant::now() < until {
        pause();
        last = ask(client, args, until)?;
        if !format.is_structured() {
            crate::output::text_block(shown.news(&last));
        }
    }
    let summary = summary(&last, begun_ns, args.seconds);
    last["arrivals"] = json!(arrivals(&last, begun_ns));
    table::print_value(&last, summary.trim_end(), format);
    Ok(())
}

fn ask(client: &Client, args: &FlowArgs, until: Instant) -> anyhow::Result<Value> {
    let left = until.saturating_duration_since(Instant::now()).as_secs();
    // Some more, so that nothing is missed between two looks.
    let seconds = match args.seconds {
        0 => 0,
        _ => left + 2,
    };
    let (from, to, seconds) = (
        args.client.to_string(),
        args.vip.to_string(),
        seconds.to_string(),
    );
    let query = [
        ("protocol", args.protocol.as_str()),
        ("client", &from),
        ("vip", &to),
        ("seconds", &seconds),
    ];
    Ok(client.get("/api/ek/traceflow", &query)?)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pause between two looks at a flow that somebody watches"
)]
fn pause() {
    std::thread::sleep(PAUSE);
}

/// What is known of the flow.
fn describe(trace: &Value) -> String {
    let (client, vip) = (
        end(trace, "/client", "/client_port"),
        end(trace, "/vip", "/vip_port"),
    );
    let mut said = format!("{} {client} -> {vip}\n", text(trace, "/protocol"));
    let engines = items(trace, "/engines");
    if !engines.iter().any(|e| e["holds_vip"] == true) {
        said += "  no service engine steers this VIP and port\n";
        return said;
    }
    if !engines.iter().any(|e| e["local"].is_object()) {
        said += "  lives nowhere: no service engine has a connection for it\n";
    }
    let lines = engines.iter().flat_map(describe_engine);
    said + &lines.map(|line| format!("  {line}\n")).collect::<String>()
}

fn describe_engine(engine: &Value) -> Vec<String> {
    let se = text(engine, "/se_name");
    let mut lines = Vec::new();
    if let Some(local) = engine.get("local").filter(|l| l.is_object()) {
        lines.push(format!("lives at {se}: {}", describe_local(local)));
    }
    if let Some(cached) = engine.get("cached").filter(|c| c.is_object()) {
        let owner = match text(cached, "/owner") {
            "" => "an engine that is gone",
            owner => owner,
        };
        lines.push(format!("{se} sends it to {owner} (cache)"));
    }
    if let Some(question) = engine.get("question").filter(|q| q.is_object()) {
        lines.push(format!("{se} asks: {}", describe_question(question)));
    }
    lines
}

fn describe_local(local: &Value) -> String {
    let count = |pointer| number(local, pointer).unwrap_or_default();
    let hint = match local["hinted"] == true {
        true => "its client names the owner (hint)",
        false => "its client does not name the owner (no hint)",
    };
    format!(
        "since {}, server {}, {} in, {} out; {hint}",
        age(count("/age_ms")),
        text(local, "/server"),
        bytes(count("/bytes_in")),
        bytes(count("/bytes_out")),
    )
}

fn describe_question(question: &Value) -> String {
    let denied: Vec<_> = items(question, "/denied_by")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let denied = match denied.is_empty() {
        true => "nobody has denied".to_owned(),
        false => format!("denied by {}", denied.join(", ")),
    };
    format!(
        "{} probes, the last one {} ago; {denied}",
        number(question, "/probes").unwrap_or_default(),
        age(number(question, "/age_ms").unwrap_or_default()),
    )
}

/// Events that have been printed.
#[derive(Default)]
struct Shown(BTreeSet<(u64, String, String)>);

impl Shown {
    /// A line for each event that is new.
    fn news(&mut self, trace: &Value) -> String {
        let mut lines = String::new();
        for event in items(trace, "/events") {
            let at = number(event, "/unix_ns").unwrap_or_default();
            let (se, verdict) = (text(event, "/se_name"), text(event, "/verdict"));
            if self.0.insert((at, se.to_owned(), verdict.to_owned())) {
                // Text is only added to a String, which takes it all.
                let _ = writeln!(lines, "{}", describe_event(event, at));
            }
        }
        lines
    }
}

fn describe_event(event: &Value, at_ns: u64) -> String {
    let verdict = text(event, "/verdict");
    let member = text(event, "/member");
    let concerned = match verdict {
        _ if member.is_empty() => String::new(),
        "tunnel_hint" | "tunnel_cache" | "tunnel_new" | "return" => format!(" to {member}"),
        _ => format!(" from {member}"),
    };
    let question = match number(event, "/question") {
        None | Some(0) => String::new(),
        Some(number) => format!(" (question {number})"),
    };
    let se = text(event, "/se_name");
    format!("{} {se} {verdict}{concerned}{question}", clock(at_ns))
}

/// Time of day, UTC, to the microsecond.
fn clock(unix_ns: u64) -> String {
    let (s, us) = (unix_ns / 1_000_000_000 % 86_400, unix_ns / 1000 % 1_000_000);
    format!("{:02}:{:02}:{:02}.{us:06}Z", s / 3600, s / 60 % 60, s % 60)
}

/// Packets since then, by the engine that they came to first and what it did with them.
fn arrivals(trace: &Value, since_ns: u64) -> BTreeMap<String, u64> {
    let mut arrivals = BTreeMap::new();
    for event in items(trace, "/events") {
        let verdict = text(event, "/verdict");
        let arrives = verdict.starts_with("local_") || verdict.starts_with("tunnel_");
        let arrives =
            arrives || verdict == "probe" || matches!(verdict, "drop_asked" | "drop_budget");
        if arrives && number(event, "/unix_ns").is_some_and(|at| at >= since_ns) {
            let to = match text(event, "/member") {
                "" => String::new(),
                member => format!(" {member}"),
            };
            let key = format!("{} {verdict}{to}", text(event, "/se_name"));
            *arrivals.entry(key).or_default() += 1;
        }
    }
    arrivals
}

fn summary(trace: &Value, since_ns: u64, seconds: u32) -> String {
    if seconds == 0 {
        return "not watched (--seconds 0)".into();
    }
    let arrivals = arrivals(trace, since_ns);
    if arrivals.is_empty() {
        return format!("no packet of it came to a service engine in {seconds} s");
    }
    let lines = arrivals
        .iter()
        .map(|(what, count)| format!("{count} packets in {seconds} s: {what}\n"));
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace() -> Value {
        let event = |at: u64, se: &str, verdict: &str, member: Value, question: u64| json!({"unix_ns": at, "se_name": se, "verdict": verdict, "member": member, "question": question});
        json!({
            "protocol": "tcp", "client": "192.0.2.7", "client_port": 40000, "vip": "10.100.0.1", "vip_port": 80,
            "engines": [
                {"se_name": "se-1", "holds_vip": true, "cached": null, "question": null,
                 "local": {"age_ms": 65000, "server": "10.1.0.5:80", "bytes_in": 10, "bytes_out": 5000, "hinted": false}},
                {"se_name": "se-3", "holds_vip": true, "local": null, "cached": {"owner": "se-1"},
                 "question": {"probes": 1, "age_ms": 2000, "denied_by": ["se-2"]}},
            ],
            "events": [
                event(1, "se-3", "probe", Value::Null, 4711),
                event(50_000_001_000, "se-3", "claim_taken", json!("se-1"), 4711),
                event(60_000_000_000, "se-3", "tunnel_cache", json!("se-1"), 0),
                event(60_000_000_100, "se-1", "deliver_data", json!("se-3"), 0),
            ],
        })
    }

    #[test]
    fn a_trace_says_where_the_flow_lives_and_who_sends_it_there() {
        let expected = "tcp 192.0.2.7:40000 -> 10.100.0.1:80\n  \
            lives at se-1: since 1m05s, server 10.1.0.5:80, 10 B in, 4 KiB out; its client does not name the owner (no hint)\n  \
            se-3 sends it to se-1 (cache)\n  \
            se-3 asks: 1 probes, the last one 2s ago; denied by se-2\n";
        assert_eq!(describe(&trace()), expected);
    }

    #[test]
    fn a_flow_of_nobody_says_so() {
        let mut nobody = trace();
        nobody["engines"][0]["local"] = Value::Null;
        assert!(describe(&nobody).contains("lives nowhere"));
        nobody["engines"] = json!([{"se_name": "se-1", "holds_vip": false}]);
        assert!(describe(&nobody).contains("no service engine steers this VIP and port"));
    }

    #[test]
    fn each_event_is_told_once() {
        let mut shown = Shown::default();
        let first = shown.news(&trace());
        let lines: Vec<&str> = first.lines().collect();
        assert_eq!(lines[0], "00:00:00.000000Z se-3 probe (question 4711)");
        assert_eq!(
            lines[1],
            "00:00:50.000001Z se-3 claim_taken from se-1 (question 4711)"
        );
        assert_eq!(lines[2], "00:01:00.000000Z se-3 tunnel_cache to se-1");
        assert_eq!(lines[3], "00:01:00.000000Z se-1 deliver_data from se-3");
        assert_eq!(shown.news(&trace()), "");
    }

    #[test]
    fn arrivals_are_counted_where_packets_come_first_and_only_those_that_were_watched() {
        let expected = BTreeMap::from([("se-3 tunnel_cache se-1".to_owned(), 1)]);
        assert_eq!(arrivals(&trace(), 2), expected);
        assert_eq!(
            summary(&trace(), 2, 5),
            "1 packets in 5 s: se-3 tunnel_cache se-1\n"
        );
        assert!(summary(&trace(), u64::MAX, 5).starts_with("no packet of it"));
    }

    #[test]
    fn two_families_are_refused_without_a_controller() {
        let trace = |client: &str| {
            Trace::Flow(FlowArgs {
                client: client.parse().unwrap(),
                vip: "10.100.0.1:80".parse().unwrap(),
                protocol: "tcp".into(),
                seconds: 0,
            })
        };
        assert!(trace("192.0.2.7:1").check().is_ok());
        assert!(trace("[2001:db8::7]:1").check().is_err());
    }
}
