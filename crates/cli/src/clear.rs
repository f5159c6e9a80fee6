//! `clear bgp`: sessions with a router are closed (Cease 6/4) and opened again, on every engine or on one.

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
    let Clear::Bgp(bgp) = clear;
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
