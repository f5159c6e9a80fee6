//! `show flows`, `show flowtable remote`: which flows live where, as all engines say now; `show steering`: what their
//! programs have counted.

use super::age;
use crate::lookup::{items, number, text};
use crate::output::table::{Column, Row};
use crate::output::{Format, table};
use client::Client;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// Which flows.
#[derive(Debug, clap::Args)]
pub struct FlowFilter {
    /// Name or UUID of a service engine; all when not given.
    engine: Option<String>,
    /// Only flows of this virtual service.
    #[arg(long, value_name = "NAME")]
    vs: Option<String>,
    /// Only flows of this client.
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    client: Option<End>,
    /// Only flows to this VIP.
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    vip: Option<End>,
    /// Flows of each engine at most.
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
}

/// An address, with or without a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End(IpAddr, Option<u16>);

impl FromStr for End {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let with_port = || {
            text.parse::<SocketAddr>()
                .map(|a| Self(a.ip(), Some(a.port())))
        };
        let address = text.parse().map(|ip| Self(ip, None));
        address
            .or_else(|_| with_port())
            .map_err(|_| format!("{text:?} is no IP address, with or without a port"))
    }
}

impl FlowFilter {
    fn query(&self, table: &str) -> Vec<(&'static str, String)> {
        let mut query = vec![
            ("table", table.to_owned()),
            ("limit", self.limit.to_string()),
        ];
        query.extend(self.engine.clone().map(|se| ("se", se)));
        query.extend(self.vs.clone().map(|vs| ("vs", vs)));
        let ends = [
            (self.client, ["client", "client_port"]),
            (self.vip, ["vip", "vip_port"]),
        ];
        for (end, [address, port]) in ends {
            let Some(End(ip, number)) = end else { continue };
            query.push((address, ip.to_string()));
            query.extend(number.map(|n| (port, n.to_string())));
        }
        query
    }
}

pub(super) fn show(
    client: &Client,
    filter: &FlowFilter,
    table: &str,
    format: Format,
) -> anyhow::Result<()> {
    let query = filter.query(table);
    let query: Vec<(&str, &str)> = query.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let answer = client.get("/api/ek/flow", &query)?;
    let rows = items(&answer, "/results").to_vec();
    match table {
        "remote" => print(&answer, rows.into_iter().map(RemoteRow).collect(), format),
        _ => print(&answer, rows.into_iter().map(LocalRow).collect(), format),
    }
    Ok(())
}

fn print<T: Row>(answer: &Value, rows: Vec<T>, format: Format) {
    let shown = rows.len() as u64;
    super::print_named("flow", rows, format);
    let all = number(answer, "/count").unwrap_or(shown);
    if all > shown {
        crate::note!(
            "{shown} of {all} flows shown; --limit shows more, --client, --vip and --vs fewer"
        );
    }
    note_silent(answer);
}

/// What is missing from an answer is said beside it.
pub(crate) fn note_silent(answer: &Value) {
    for silent in items(answer, "/not_answered") {
        let (se, why) = (text(silent, "/se_name"), text(silent, "/reason"));
        crate::note!("{se} is not included: {why}");
    }
}

/// An end of a flow as people write it.
pub(crate) fn end(flow: &Value, address: &str, port: &str) -> String {
    let port = number(flow, port).unwrap_or_default();
    match text(flow, address).parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, u16::try_from(port).unwrap_or_default()).to_string(),
        Err(_) => String::new(),
    }
}

/// Bytes as people read them.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{} KiB", count >> 10),
        1_048_576..1_073_741_824 => format!("{} MiB", count >> 20),
        _ => format!("{:.1} GiB", count as f64 / 1_073_741_824.0),
    }
}

/// A flow at the engine where it lives; JSON has all that the API has.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct LocalRow(pub Value);

impl Row for LocalRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("SE", |r| text(&r.0, "/se_name").into()),
        Column::new("VIRTUAL SERVICE", |r| text(&r.0, "/virtual_service").into()),
        Column::new("PROTOCOL", |r| text(&r.0, "/protocol").into()),
        Column::new("CLIENT", |r| end(&r.0, "/client", "/client_port")),
        Column::new("VIP", |r| end(&r.0, "/vip", "/vip_port")),
        Column::new("SERVER", |r| text(&r.0, "/server").into()),
        Column::new("AGE", |r| age(number(&r.0, "/age_ms").unwrap_or_default())),
        Column::new("IN", |r| {
            bytes(number(&r.0, "/bytes_in").unwrap_or_default())
        }),
        Column::new("OUT", |r| {
            bytes(number(&r.0, "/bytes_out").unwrap_or_default())
        }),
        Column::new("HINT", |r| match r.0["hinted"] == true {
            true => "yes".into(),
            false => "no".into(),
        }),
    ];
}

/// A flow at an engine that its packets came to, and that sent them on.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct RemoteRow(pub Value);

impl Row for RemoteRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("SE", |r| text(&r.0, "/se_name").into()),
        Column::new("PROTOCOL", |r| text(&r.0, "/protocol").into()),
        Column::new("CLIENT", |r| end(&r.0, "/client", "/client_port")),
        Column::new("VIP", |r| end(&r.0, "/vip", "/vip_port")),
        Column::new("OWNER", |r| match text(&r.0, "/owner") {
            "" => "gone".into(),
            owner => owner.into(),
        }),
    ];
}

/// The counters of an engine's steering programs; JSON has all that the API has.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct SteeringRow(Value);

impl SteeringRow {
    /// Name and UUID of the engine.
    pub(super) fn engine(&self) -> [String; 2] {
        ["/se_name", "/se_uuid"].map(|p| text(&self.0, p).to_owned())
    }

    /// The sum of some verdicts.
    fn sum(&self, verdicts: &[&str]) -> String {
        let count = |v: &&str| number(&self.0, &format!("/verdicts/{v}")).unwrap_or_default();
        verdicts.iter().map(count).sum::<u64>().to_string()
    }

    fn dropped(&self) -> String {
        let verdicts = self.0["verdicts"].as_object().into_iter().flatten();
        let dropped = verdicts.filter(|(verdict, _)| verdict.starts_with("drop_"));
        let count = dropped.filter_map(|(_, n)| n.as_u64());
        count.sum::<u64>().to_string()
    }

    /// Every verdict that occurred.
    fn verdicts(&self) -> String {
        let verdicts = self.0["verdicts"].as_object().into_iter().flatten();
        let occurred = verdicts.filter(|(_, n)| n.as_u64() != Some(0));
        let each: Vec<String> = occurred.map(|(v, n)| format!("{v}={n}")).collect();
        each.join(" ")
    }

    /// Each interface with its hook.
    fn attached(&self) -> String {
        let all = items(&self.0, "/attachments").iter();
        let each: Vec<String> = all
            .map(|a| format!("{} {}", text(a, "/interface"), text(a, "/hook")))
            .collect();
        each.join(", ")
    }

    /// The reasons, each with the interfaces that it holds for.
    fn attached_why(&self) -> String {
        let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for a in items(&self.0, "/attachments") {
            let interfaces = by_reason.entry(text(a, "/reason")).or_default();
            interfaces.push(text(a, "/interface"));
        }
        let each = by_reason.iter();
        let each: Vec<String> = each
            .map(|(reason, interfaces)| format!("{}: {reason}", interfaces.join(", ")))
            .collect();
        each.join("; ")
    }

    fn tunnelled(&self) -> String {
        let to = items(&self.0, "/tunnelled").iter();
        let to = to.filter(|t| number(t, "/packets") != Some(0));
        let each: Vec<String> = to
            .map(|t| {
                let sent = bytes(number(t, "/bytes").unwrap_or_default());
                let now = match number(t, "/flows_now") {
                    None | Some(0) => String::new(),
                    Some(flows) => format!(" (now {flows} flows)"),
                };
                format!("{} {sent}{now}", text(t, "/se_name"))
            })
            .collect();
        each.join(", ")
    }
}

impl Row for SteeringRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("SE", |r| text(&r.0, "/se_name").into()),
        Column::new("NEW", |r| r.sum(&["local_new"])),
        Column::new("OURS", |r| r.sum(&["local_socket", "local_cookie"])),
        Column::new("BY HINT", |r| r.sum(&["tunnel_hint"])),
        Column::new("BY CACHE", |r| r.sum(&["tunnel_cache", "tunnel_new"])),
        Column::new("PROBES", |r| r.sum(&["probe"])),
        Column::new("CLAIMED", |r| r.sum(&["claim_taken"])),
        Column::new("FROM OTHERS", |r| r.sum(&["deliver_data", "deliver_claim"])),
        Column::new("RESET", |r| r.sum(&["local_denied", "local_none"])),
        Column::new("DROPPED", Self::dropped),
        Column::new("TUNNELLED TO", Self::tunnelled),
        Column::new("ATTACHED", Self::attached),
        Column::wide("COPIES/S", |r| {
            number(&r.0, "/probe_copies_per_s")
                .unwrap_or_default()
                .to_string()
        }),
        Column::wide("ATTACHED SO BECAUSE", Self::attached_why),
        Column::wide("VERDICTS", Self::verdicts),
    ];
}

/// Rows from `/api/ek/steering`.
pub(super) fn steering(rows: Vec<Value>) -> Vec<SteeringRow> {
    rows.into_iter().map(SteeringRow).collect()
}

/// `show flowtable`.
#[derive(Debug, clap::Subcommand)]
pub enum FlowTable {
    /// Flows that came to an engine and live at another, as its cache has them; flows with hints need no entry.
    Remote(FlowFilter),
}

pub(super) fn show_table(client: &Client, which: &FlowTable, format: Format) -> anyhow::Result<()> {
    let FlowTable::Remote(filter) = which;
    show(client, filter, "remote", format)
}

pub(super) fn print_steering(rows: Vec<SteeringRow>, format: Format) {
    if rows.is_empty() && !format.is_structured() {
        crate::note!("no engine has reported about steering");
        return;
    }
    table::print(&rows, format);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::table::render;
    use serde_json::json;

    #[test]
    fn ends_are_addresses_with_or_without_a_port() {
        let parse = |text: &str| text.parse::<End>();
        assert_eq!(parse("10.0.0.1"), Ok(End([10, 0, 0, 1].into(), None)));
        assert_eq!(
            parse("10.0.0.1:80"),
            Ok(End([10, 0, 0, 1].into(), Some(80)))
        );
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(parse("2001:db8::1"), Ok(End(v6, None)));
        assert_eq!(parse("[2001:db8::1]:80"), Ok(End(v6, Some(80))));
        assert!(
            parse("web")
                .unwrap_err()
                .contains("\"web\" is no IP address")
        );
    }

    #[test]
    fn a_filter_becomes_parameters() {
        let filter = FlowFilter {
            engine: Some("se-1".into()),
            vs: None,
            client: Some(End([10, 0, 0, 1].into(), Some(9))),
            vip: Some(End([10, 0, 0, 2].into(), None)),
            limit: 7,
        };
        let expected = [
            ("table", "local"),
            ("limit", "7"),
            ("se", "se-1"),
            ("client", "10.0.0.1"),
            ("client_port", "9"),
            ("vip", "10.0.0.2"),
        ];
        let expected = expected.map(|(k, v)| (k, v.to_owned()));
        assert_eq!(filter.query("local"), expected);
    }

    #[test]
    fn flows_say_where_they_live() {
        let local = json!({"se_name": "se-1", "virtual_service": "web", "protocol": "tcp",
            "client": "192.0.2.7", "client_port": 40000, "vip": "10.100.0.1", "vip_port": 80,
            "server": "10.1.0.5:80", "age_ms": 65000, "bytes_in": 10, "bytes_out": 5000, "hinted": true});
        let table = render(&[LocalRow(local)], Format::Table, None);
        let row = table.lines().nth(1).unwrap();
        let expected = "se-1  web              tcp       192.0.2.7:40000  10.100.0.1:80  10.1.0.5:80  1m05s  10 B  4 KiB  yes";
        assert_eq!(row, expected);
        let remote = json!({"se_name": "se-3", "protocol": "tcp", "client": "2001:db8::7", "client_port": 1,
            "vip": "2001:db8::1", "vip_port": 80, "owner": null});
        let table = render(&[RemoteRow(remote)], Format::Table, None);
        let row = table.lines().nth(1).unwrap();
        assert_eq!(
            row,
            "se-3  tcp       [2001:db8::7]:1  [2001:db8::1]:80  gone"
        );
    }

    #[test]
    fn counters_are_summed_by_what_they_mean() {
        let row = json!({"se_name": "se-1", "probe_copies_per_s": 400, "verdicts": {"local_new": 3, "local_socket": 50,
            "local_cookie": 1, "tunnel_hint": 7, "drop_mac": 2, "drop_asked": 5, "deny": 0},
            "attachments": [{"interface": "eth0", "hook": "xdp", "reason": "good"},
                {"interface": "eth1", "hook": "tc", "reason": "a veth"}],
            "tunnelled": [{"se_name": "se-2", "packets": 7, "bytes": 2048, "flows_now": 5}, {"se_name": "se-3", "packets": 0, "bytes": 0}]});
        let rows = steering(vec![row]);
        let table = render(&rows, Format::Wide, None);
        let cells: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        let expected = "se-1 3 51 7 0 0 0 0 0 7 se-2 2 KiB (now 5 flows) eth0 xdp, eth1 tc 400 eth1: a veth; eth0: good \
                        local_new=3 local_socket=50 local_cookie=1 tunnel_hint=7 drop_mac=2 drop_asked=5";
        assert_eq!(cells.join(" "), expected);
    }
}
