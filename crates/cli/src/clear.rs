//! `clear bgp`: sessions with a router are closed (Cease 6/4) and opened again, on every engine or on one. `clear virtualservice` and
//! `clear serviceengine`: counters begin anew in what the API shows.

use crate::lookup::{self, items, text};
use crate::output::{Format, table};
use client::Client;
use serde::Serialize;
use serde_json::{Value, json};
use std::net::IpAddr;

/// What to reset.
#[derive(Debug, clap::Subcommand)]
pub enum Clear {
    /// Reset the BGP sessions with a router; its routes come back with the new session.
    Bgp(Bgp),
    /// Let the counters of virtual services begin anew, on all of their engines
    #[command(visible_alias = "vs")]
    Virtualservice(Counters),
    /// Let the counters of service engines begin anew: of their load, of their flow tables and of their interfaces
    #[command(visible_alias = "se")]
    Serviceengine(Counters),
}

/// Whose counters.
#[derive(Debug, clap::Args)]
pub struct Counters {
    /// Names; all that you may operate on, when none is given.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// Which sessions.
#[derive(Debug, clap::Args)]
pub struct Bgp {
    /// The router's address, as in the BGP profile.
    peer: IpAddr,
    /// Only the sessions of this service engine (all that have the peer, when not given).
    #[arg(long, value_name = "SE")]
    se: Option<String>,
}

/// An engine that was told.
#[derive(Debug, Serialize)]
struct Told {
    se_name: String,
    se_uuid: String,
    peer: IpAddr,
}

impl table::Row for Told {
    const COLUMNS: &'static [table::Column<Self>] = &[
        table::Column::new("SE", |r| r.se_name.clone()),
        table::Column::new("PEER", |r| r.peer.to_string()),
        table::Column::wide("UUID", |r| r.se_uuid.clone()),
    ];
}

pub(crate) fn run(client: &Client, clear: &Clear, format: Format) -> anyhow::Result<()> {
    let bgp = match clear {
        Clear::Bgp(bgp) => bgp,
        Clear::Virtualservice(whose) => return counters(client, "virtualservice", whose, format),
        Clear::Serviceengine(whose) => return counters(client, "serviceengine", whose, format),
    };
    let mut told = Vec::new();
    for (se_name, se_uuid) in engines(client, bgp)? {
        let path = format!("/api/serviceengine/{se_uuid}/bgp/reset");
        client.post(&path, &json!({"peer_ip": bgp.peer}))?;
        told.push(Told {
            se_name,
            se_uuid,
            peer: bgp.peer,
        });
    }
    table::print(&told, format);
    Ok(())
}

fn counters(client: &Client, ty: &str, whose: &Counters, format: Format) -> anyhow::Result<()> {
    let mut body = json!({});
    if !whose.names.is_empty() {
        body["name"] = whose.names.clone().into();
    }
    let reply = client.post(&format!("/api/{ty}/clear"), &body)?;
    table::print_value(&reply, &describe(ty, &reply), format);
    Ok(())
}

/// A line for each object, with what of it could not be cleared.
fn describe(ty: &str, reply: &Value) -> String {
    let line = |row: &Value| {
        let name = text(row, "/vs_name").to_owned() + text(row, "/se_name");
        let whys = row.get("not_cleared").and_then(Value::as_object);
        let whys = whys.into_iter().flatten();
        let whys = whys.map(|(what, why)| format!("; not {what}: {}", why.as_str().unwrap_or("")));
        let cleared = match row.get("cleared") {
            Some(cleared) if items(cleared, "").is_empty() => "nothing cleared",
            _ => "cleared",
        };
        format!("{ty} {name} {cleared}") + &whys.collect::<String>()
    };
    let lines: Vec<String> = items(reply, "/results").iter().map(line).collect();
    match lines.is_empty() {
        true => format!("there is no {ty} to clear"),
        false => lines.join("\n"),
    }
}

/// Name and UUID of the engine that was named, or of those with the peer.
fn engines(client: &Client, bgp: &Bgp) -> anyhow::Result<Vec<(String, String)>> {
    if let Some(se) = &bgp.se {
        let object = lookup::object(client, "serviceengine", se)?;
        return Ok(vec![named(&object, "/name", "/uuid")]);
    }
    let sessions = client.get("/api/ek/bgp", &[])?;
    let peer = bgp.peer.to_string();
    let with = items(&sessions, "/results")
        .iter()
        .filter(|s| text(s, "/peer") == peer);
    let mut engines: Vec<_> = with.map(|s| named(s, "/se_name", "/se_uuid")).collect();
    engines.sort();
    engines.dedup();
    anyhow::ensure!(
        !engines.is_empty(),
        "no service engine has {peer} as a BGP peer"
    );
    Ok(engines)
}

fn named(value: &Value, name: &str, uuid: &str) -> (String, String) {
    (text(value, name).to_owned(), text(value, uuid).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_cleared_is_said_behind_the_name() {
        let services = json!({"results": [{"vs_name": "vs-1", "engines": ["se-1"]}]});
        assert_eq!(
            describe("virtualservice", &services),
            "virtualservice vs-1 cleared"
        );
        let engines = json!({"results": [
            {"se_name": "se-1", "cleared": ["runtime"], "not_cleared": {"interface": "it has no session"}},
            {"se_name": "se-2", "cleared": [], "not_cleared": {}},
        ]});
        assert_eq!(
            describe("serviceengine", &engines),
            "serviceengine se-1 cleared; not interface: it has no session\nserviceengine se-2 nothing cleared"
        );
        let none = describe("virtualservice", &json!({"results": []}));
        assert_eq!(none, "there is no virtualservice to clear");
    }
}
