//! `show bgp neighbor`: everything about the sessions with one router.

use super::age;
use crate::lookup::{items, number, text};
use serde_json::Value;
use std::fmt::Write;

/// For people; `sessions` are items of `/api/ek/bgp`.
pub(super) fn describe(sessions: &[Value], now_unix_ms: u64) -> String {
    let each: Vec<String> = sessions.iter().map(|s| session(s, now_unix_ms)).collect();
    each.join("\n")
}

type Line = (&'static str, String);

/// An item of `/api/ek/bgp`.
#[derive(Clone, Copy)]
struct Session<'a> {
    fields: &'a Value,
    now_unix_ms: u64,
}

impl Session<'_> {
    fn word(&self, pointer: &str) -> &str {
        match text(self.fields, pointer) {
            "" => "-",
            word => word,
        }
    }

    fn count(&self, pointer: &str) -> u64 {
        number(self.fields, pointer).unwrap_or_default()
    }

    fn list(&self, pointer: &str) -> String {
        let words: Vec<_> = items(self.fields, pointer)
            .iter()
            .filter_map(Value::as_str)
            .collect();
        if words.is_empty() {
            "-".to_owned()
        } else {
            words.join(", ")
        }
    }

    fn ago(&self, pointer: &str) -> String {
        match self.count(pointer) {
            0 => "-".to_owned(),
            at => age(self.now_unix_ms.saturating_sub(at)),
        }
    }

    fn standing(&self) -> Vec<Line> {
        let state = format!(
            "{} since {}",
            self.word("/state"),
            self.ago("/state_since_unix_ms")
        );
        let mut lines = vec![("State", state)];
        if !text(self.fields, "/condition").is_empty() {
            let why = format!(
                "{}: {}",
                self.word("/condition"),
                self.word("/condition_text")
            );
            lines.push(("Not established", why));
        }
        lines
    }

    fn agreement(&self) -> Vec<Line> {
        let local = format!(
            "{} on {}, AS {}, identifier {}",
            self.word("/local_address"),
            self.word("/interface"),
            self.count("/local_as"),
            self.word("/local_router_id"),
        );
        let remote = format!(
            "AS {}, identifier {}, label {}",
            self.count("/remote_as"),
            self.word("/peer_router_id"),
            self.word("/label"),
        );
        let timers = format!(
            "hold {} s, keepalive {} s, connect {} s, advertisement interval {} s",
            self.count("/hold_time_s"),
            self.count("/keepalive_s"),
            self.count("/connect_timer_s"),
            self.count("/advertisement_interval_s"),
        );
        vec![
            ("Local", local),
            ("Remote", remote),
            ("Timers in force", timers),
            ("Capabilities", self.list("/capabilities")),
            ("Refused by peer", self.list("/refused_capabilities")),
            ("Transport", transport(self.fields)),
            ("TCP-AO", tcp_ao(self.word("/tcp_ao"))),
            ("BFD", self.word("/bfd_state").to_owned()),
        ]
    }

    fn history(&self) -> Vec<Line> {
        let messages = format!(
            "{}/{}, UPDATE {}/{}",
            self.count("/messages_in"),
            self.count("/messages_out"),
            self.count("/updates_in"),
            self.count("/updates_out"),
        );
        let received = format!(
            "{} prefixes, {} UPDATEs treated as withdraw, {} attributes discarded",
            self.count("/prefixes_in"),
            self.count("/treated_as_withdraw"),
            self.count("/attributes_discarded"),
        );
        vec![
            ("Messages in/out", messages),
            ("Received", received),
            (
                "Established",
                format!("{} times", self.count("/times_established")),
            ),
            (
                "Last error",
                last_error(self.fields, &self.ago("/last_error_unix_ms")),
            ),
        ]
    }

    fn routes(&self) -> Vec<Line> {
        let (sent, withheld): (Vec<_>, Vec<_>) = items(self.fields, "/routes")
            .iter()
            .partition(|r| r["sent"] == true);
        let counted = format!(
            "{} desired, {} sent",
            sent.len() + withheld.len(),
            sent.len()
        );
        let why = |route: &&Value| {
            let line = format!("{}: {}", text(route, "/prefix"), text(route, "/reason"));
            ("Withheld", line)
        };
        [("Routes", counted)]
            .into_iter()
            .chain(withheld.iter().map(why))
            .collect()
    }
}

fn session(fields: &Value, now_unix_ms: u64) -> String {
    let s = Session {
        fields,
        now_unix_ms,
    };
    let head = format!(
        "{} > {} (VRF {})\n",
        s.word("/se_name"),
        s.word("/peer"),
        s.word("/vrf")
    );
    let lines = [s.standing(), s.agreement(), s.history(), s.routes()].concat();
    lines.iter().fold(head, |mut out, (title, value)| {
        // Writing to a String does not fail.
        let _ = writeln!(out, "  {title:<16} {value}");
        out
    })
}

fn transport(s: &Value) -> String {
    let opened = if s["accepted"] == true {
        "the peer opened"
    } else {
        "we open"
    };
    let gtsm = match number(s, "/min_ttl") {
        None | Some(0) => "any TTL accepted".to_owned(),
        Some(ttl) => format!("TTL from {ttl} accepted (GTSM)"),
    };
    let md5 = match (
        s["md5"] == true,
        number(s, "/md5_failures").unwrap_or_default(),
    ) {
        (true, 0) => "MD5 key set".to_owned(),
        (false, 0) => "no MD5 key".to_owned(),
        (true, n) => format!("MD5 key set, {n} segments refused on this host"),
        (false, n) => format!("no MD5 key, {n} segments refused on this host"),
    };
    let ttl = number(s, "/ttl").unwrap_or_default();
    format!("{opened}, TTL {ttl}, {gtsm}, {md5}")
}

fn tcp_ao(word: &str) -> String {
    match word {
        "unsupported" => "unsupported; md5_secret signs segments (RFC 2385)".to_owned(),
        other => other.to_owned(),
    }
}

fn last_error(s: &Value, ago: &str) -> String {
    match text(s, "/last_error") {
        "" => "-".to_owned(),
        error => format!("{error} ({ago} ago)"),
    }
}
