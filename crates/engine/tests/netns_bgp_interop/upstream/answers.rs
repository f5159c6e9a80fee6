//! What each router says, as values.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Route, text};

fn numbers(text: &str) -> Vec<u32> {
    text.split_whitespace()
        .filter_map(|n| n.parse().ok())
        .collect()
}

fn words(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

pub(super) fn frr_route(path: &Value) -> Option<Route> {
    let hops = path["nexthops"].as_array()?;
    let global = hops.iter().find(|hop| hop["scope"] != "link-local");
    Some(Route {
        next_hop: text(&global?["ip"]),
        as_path: numbers(&text(&path["aspath"]["string"])),
        local_pref: path["locPrf"].as_u64().map(|n| n as u32),
        communities: words(&text(&path["community"]["string"])),
        large_communities: words(&text(&path["largeCommunity"]["string"])),
    })
}

/// `(65000,100) (65000,1,2)` as `65000:100 65000:1:2`.
fn bird_communities(text: &str) -> BTreeSet<String> {
    let text = text
        .replace(", ", ":")
        .replace(',', ":")
        .replace(['(', ')'], " ");
    let known = |word: &str| match word {
        "65535:65281" => "no-export".to_owned(),
        other => other.to_owned(),
    };
    text.split_whitespace().map(known).collect()
}

pub(super) fn bird_route(shown: &str) -> Option<Route> {
    let value = |name: &str| {
        let line = shown.lines().find_map(|l| l.trim().strip_prefix(name))?;
        Some(line.trim_start_matches(':').trim().to_owned())
    };
    let hops = value("BGP.next_hop")?;
    Some(Route {
        next_hop: hops.split_whitespace().next()?.to_owned(),
        as_path: numbers(&value("BGP.as_path").unwrap_or_default()),
        local_pref: value("BGP.local_pref").and_then(|n| n.parse().ok()),
        communities: bird_communities(&value("BGP.community").unwrap_or_default()),
        large_communities: bird_communities(&value("BGP.large_community").unwrap_or_default()),
    })
}

pub(super) fn gobgp_route(path: &Value) -> Option<Route> {
    let attributes = path["attrs"].as_array()?;
    let of_type = |code: u64| attributes.iter().find(|a| a["type"] == code);
    let hop = of_type(3).or_else(|| of_type(14))?;
    let asns = of_type(2)
        .map(|a| a["as_paths"][0]["asns"].clone())
        .unwrap_or_default();
    let community = |n: u64| match n {
        0xFFFF_FF01 => "no-export".to_owned(),
        n => format!("{}:{}", n >> 16, n & 0xFFFF),
    };
    let list = |value: Option<&Value>, field: &str| {
        value
            .and_then(|v| v[field].as_array())
            .cloned()
            .unwrap_or_default()
    };
    let large = |v: &Value| format!("{}:{}:{}", v["ASN"], v["LocalData1"], v["LocalData2"]);
    Some(Route {
        next_hop: text(&hop["nexthop"]),
        as_path: asns
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|n| Some(n.as_u64()? as u32))
            .collect(),
        local_pref: of_type(5).and_then(|a| Some(a["value"].as_u64()? as u32)),
        communities: list(of_type(8), "communities")
            .iter()
            .filter_map(Value::as_u64)
            .map(community)
            .collect(),
        large_communities: list(of_type(32), "value").iter().map(large).collect(),
    })
}

pub(super) fn openbgpd_route(entry: &Value) -> Option<Route> {
    let list = |field: &str| -> BTreeSet<String> {
        let items = entry[field].as_array().into_iter().flatten();
        items
            .map(|v| text(v).to_lowercase().replace("no_export", "no-export"))
            .collect()
    };
    Some(Route {
        next_hop: Some(text(&entry["exit_nexthop"])).filter(|hop| !hop.is_empty())?,
        as_path: numbers(&text(&entry["aspath"])),
        local_pref: entry["localpref"].as_u64().map(|n| n as u32),
        communities: list("communities"),
        large_communities: list("large_communities"),
    })
}

/// Addressed by family or with details they are objects: how far they went stands inside.
pub(super) fn frr_capabilities(neighbor: &Value) -> BTreeSet<String> {
    let offered = neighbor["neighborCapabilities"].as_object();
    let both = |value: &Value| value.to_string().contains("advertisedAndReceived");
    offered
        .into_iter()
        .flatten()
        .filter(|(_, value)| both(value))
        .map(|(name, _)| name.clone())
        .collect()
}

/// Two lists of names, of which details are indented further.
pub(super) fn bird_capabilities(shown: &str) -> BTreeSet<String> {
    let list = |title: &str| -> BTreeSet<String> {
        let lines = shown.lines().skip_while(|l| l.trim() != title).skip(1);
        let lines = lines.take_while(|l| l.starts_with("      "));
        let names = lines.filter(|l| !l.starts_with("       "));
        names.map(|l| l.trim().to_owned()).collect()
    };
    &list("Local capabilities") & &list("Neighbor capabilities")
}

pub(super) fn gobgp_capabilities(shown: &str) -> BTreeSet<String> {
    let both = shown
        .lines()
        .filter_map(|l| l.trim().strip_suffix("advertised and received"));
    both.map(|name| name.trim().trim_end_matches(':').to_owned())
        .collect()
}

pub(super) fn openbgpd_capabilities(neighbor: &Value) -> BTreeSet<String> {
    let agreed = neighbor["session"]["capabilities"].as_object();
    let on = |value: &Value| *value != Value::Bool(false);
    agreed
        .into_iter()
        .flatten()
        .filter(|(_, value)| on(value))
        .map(|(name, _)| name.clone())
        .collect()
}

/// `… received from neighbor 10.10.1.11 6/2 (Cease/Administrative Shutdown) "maintenance" …`
pub(super) fn frr_notification(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("NOTIFICATION: received from neighbor ")?;
    Some(with_text(rest.split_whitespace().nth(1)?, quoted(line)))
}

/// `… se: Received: Administrative shutdown: maintenance`
pub(super) fn bird_notification(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("se: Received: ")?;
    cease(rest)
}

pub(super) fn gobgp_notification(line: &str) -> Option<String> {
    let said: Value = serde_json::from_str(line).ok()?;
    let code = format!("{}/{}", said["Code"].as_u64()?, said["Subcode"].as_u64()?);
    Some(with_text(&code, &text(&said["Communicated-Reason"])))
}

/// `neighbor 10.10.1.11: received notification: Cease, administratively down "maintenance"`
pub(super) fn openbgpd_notification(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("received notification: ")?;
    cease(rest)
}

fn quoted(line: &str) -> &str {
    line.split('"').nth(1).unwrap_or_default()
}

fn with_text(code: &str, text: &str) -> String {
    format!("{code} {text}").trim_end().to_owned()
}

/// Of routers that know the codes by words only; others are told as they are.
fn cease(said: &str) -> Option<String> {
    let known = [
        ("Administrative shutdown", "6/2"),
        ("Cease, administratively down", "6/2"),
        ("Peer de-configured", "6/3"),
        ("Cease, peer unconfigured", "6/3"),
        ("Other configuration change", "6/6"),
        ("Cease, other config change", "6/6"),
    ];
    let found = known.iter().find(|(words, _)| said.starts_with(words));
    Some(found.map_or(said.to_owned(), |(words, code)| {
        let rest = &said[words.len()..];
        let text = if rest.contains('"') {
            quoted(rest)
        } else {
            rest.trim_start_matches(": ")
        };
        with_text(code, text)
    }))
}
