//! `show`: what is configured and what is observed, never one in place of the other.

mod bgp;
mod pool;
mod serviceengine;
mod virtualservice;

use crate::output::{Format, table};
use anyhow::bail;
use client::Client;
use std::time::{SystemTime, UNIX_EPOCH};

/// What to show.
#[derive(Debug, clap::Subcommand)]
#[command(infer_subcommands = true)]
pub enum Show {
    /// Virtual services: VIP, state and reason, engines assigned and requested, servers.
    #[command(visible_alias = "vs")]
    Virtualservice(Filter),
    /// Service engines: state and reason, version, interfaces, memory.
    #[command(visible_alias = "se")]
    Serviceengine(Filter),
    /// BGP sessions of every engine: state, routes desired and routes sent, last error.
    Bgp(BgpFilter),
    /// Pools: state and the servers that are up.
    Pool(Filter),
}

/// Which objects to show.
#[derive(Debug, clap::Args)]
pub struct Filter {
    /// Name or UUID; all when not given.
    name: Option<String>,
}

/// Which sessions to show.
#[derive(Debug, clap::Args)]
pub struct BgpFilter {
    /// Name or UUID of a service engine; all when not given.
    engine: Option<String>,
    /// One line per route instead of one per session.
    #[arg(long)]
    routes: bool,
}

pub(crate) fn run(client: &Client, show: &Show, format: Format) -> anyhow::Result<()> {
    match show {
        Show::Virtualservice(filter) => {
            let inventory = client.list_with("virtualservice-inventory", NAMES)?;
            let pools = client.list_with("pool-inventory", NAMES)?;
            let rows = virtualservice::rows(&inventory, &pools);
            print_named(
                "virtualservice",
                filter.pick(rows, |row| [&row.name, &row.uuid])?,
                format,
            );
        }
        Show::Serviceengine(filter) => {
            let rows = serviceengine::rows(
                &client.list_with("serviceengine-inventory", NAMES)?,
                &client.list("ek/bgp")?,
            );
            print_named(
                "serviceengine",
                filter.pick(rows, |row| [&row.name, &row.uuid])?,
                format,
            );
        }
        Show::Pool(filter) => {
            let rows = pool::rows(&client.list_with("pool-inventory", NAMES)?);
            print_named(
                "pool",
                filter.pick(rows, |row| [&row.name, &row.uuid])?,
                format,
            );
        }
        Show::Bgp(filter) => {
            let sessions = bgp::rows(&client.list("ek/bgp")?, now_unix_ms());
            let engine = Filter {
                name: filter.engine.clone(),
            };
            let sessions = engine.pick(sessions, |row| [&row.se_name, &row.se_uuid])?;
            match filter.routes {
                true => print_named("route", bgp::routes(&sessions), format),
                false => print_named("BGP session", sessions, format),
            }
        }
    }
    Ok(())
}

/// References come with names, so that tables need no further call.
const NAMES: &[(&str, &str)] = &[("include_name", "")];

impl Filter {
    /// The rows that the filter names; naming one that is not there is an error.
    fn pick<T>(&self, rows: Vec<T>, keys: impl Fn(&T) -> [&String; 2]) -> anyhow::Result<Vec<T>> {
        let Some(wanted) = &self.name else {
            return Ok(rows);
        };
        let names: Vec<String> = rows.iter().map(|row| keys(row)[0].clone()).collect();
        let picked: Vec<T> = rows
            .into_iter()
            .filter(|row| keys(row).contains(&wanted))
            .collect();
        if picked.is_empty() {
            bail!("there is none named {wanted:?}{}", known(names));
        }
        Ok(picked)
    }
}

fn known(mut names: Vec<String>) -> String {
    names.dedup();
    if names.is_empty() {
        String::new()
    } else {
        format!("; there are: {}", names.join(", "))
    }
}

/// A table without rows says so beside the data, so that it is not taken for a failure.
fn print_named<T: table::Row>(what: &str, rows: Vec<T>, format: Format) {
    if rows.is_empty() && !format.is_structured() {
        crate::note!("there is no {what}");
        return;
    }
    table::print(&rows, format);
}

fn now_unix_ms() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// An age as people say it: two units at most.
fn age(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86400, s / 3600 % 24),
    }
}

#[cfg(test)]
mod tests;
