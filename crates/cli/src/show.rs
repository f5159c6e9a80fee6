//! `show`: what is configured and what is observed, never one in place of the other.

mod alerts;
mod audit;
mod bfd;
mod bgp;
mod cluster;
mod events;
pub(crate) mod flows;
mod neighbor;
mod pool;
mod serviceengine;
mod virtualservice;

pub(crate) use virtualservice::addresses;

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
    Bgp(BgpArgs),
    /// BFD sessions of every engine: state, intervals in force, how often down.
    Bfd(EngineFilter),
    /// Pools: state and the servers that are up.
    Pool(Filter),
    /// Flows: where each lives, its server, age and bytes, as the engines say now.
    #[command(visible_alias = "flow")]
    Flows(flows::FlowFilter),
    /// Tables of flows that live elsewhere.
    #[command(subcommand)]
    Flowtable(flows::FlowTable),
    /// Who changed what, when and from where, newest first; every field with its old and new value.
    Audit(audit::AuditFilter),
    /// Changes that revert themselves unless they are confirmed.
    Pending,
    /// What happened: of objects that one may see, oldest first.
    #[command(visible_alias = "event")]
    Events(events::EventFilter),
    /// What is to be looked at, newest first.
    #[command(visible_alias = "alert")]
    Alerts(alerts::AlertFilter),
    /// Controllers: who leads, who lags, and what to do.
    Cluster,
    /// What steering has counted at every engine: packets by verdict, probes and claims, what was tunnelled to whom.
    Steering(EngineFilter),
}

/// Which objects to show.
#[derive(Debug, clap::Args)]
pub struct Filter {
    /// Name or UUID; all when not given.
    name: Option<String>,
}

/// Of which engine.
#[derive(Debug, clap::Args)]
pub struct EngineFilter {
    /// Name or UUID of a service engine; all when not given.
    engine: Option<String>,
}

/// Which view of BGP; without one, the peers.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, infer_subcommands = false)]
pub struct BgpArgs {
    #[command(subcommand)]
    view: Option<BgpView>,
    #[command(flatten)]
    filter: EngineFilter,
}

/// The views of BGP.
#[derive(Debug, clap::Subcommand)]
pub enum BgpView {
    /// One line per session.
    Peers(EngineFilter),
    /// One line per route towards each peer: sent, or why not.
    Routes(EngineFilter),
    /// Everything about the sessions with one router: capabilities, timers, counters, last error.
    Neighbor(NeighborArgs),
    /// Routes that engines have learned, where routing_options ask for it.
    Learned(EngineFilter),
}

/// Which router.
#[derive(Debug, clap::Args)]
pub struct NeighborArgs {
    /// Address of the router.
    peer: std::net::IpAddr,
    #[command(flatten)]
    filter: EngineFilter,
}

pub(crate) fn run(client: &Client, show: &Show, format: Format) -> anyhow::Result<()> {
    match show {
        Show::Virtualservice(filter) => {
            let inventory = client.list_with("virtualservice-inventory", NAMES)?;
            let pools = client.list_with("pool-inventory", NAMES)?;
            let rows = virtualservice::rows(&inventory, &pools);
            print_named(
                "virtualservice",
                filter.pick(rows, |row| [row.name.clone(), row.uuid.clone()])?,
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
                filter.pick(rows, |row| [row.name.clone(), row.uuid.clone()])?,
                format,
            );
        }
        Show::Pool(filter) => {
            let rows = pool::rows(&client.list_with("pool-inventory", NAMES)?);
            print_named(
                "pool",
                filter.pick(rows, |row| [row.name.clone(), row.uuid.clone()])?,
                format,
            );
        }
        Show::Audit(filter) => audit::show(client, filter, format)?,
        Show::Events(filter) => events::show(client, filter, format)?,
        Show::Alerts(filter) => alerts::show(client, filter, format)?,
        Show::Pending => print_named(
            "change that waits for confirmation",
            audit::pending(client.list("ek/pending")?, now_unix_ms()),
            format,
        ),
        Show::Cluster => cluster::show(client, format)?,
        Show::Bgp(args) => show_bgp(client, args, format)?,
        Show::Flows(filter) => flows::show(client, filter, "local", format)?,
        Show::Flowtable(table) => flows::show_table(client, table, format)?,
        Show::Steering(filter) => {
            let rows = flows::steering(client.list("ek/steering")?);
            flows::print_steering(filter.pick(rows, flows::SteeringRow::engine)?, format);
        }
        Show::Bfd(filter) => {
            let rows = bfd::rows(client.list("ek/bfd")?, now_unix_ms());
            print_named(
                "BFD session",
                filter.pick(rows, bfd::BfdRow::engine)?,
                format,
            );
        }
    }
    Ok(())
}

fn show_bgp(client: &Client, args: &BgpArgs, format: Format) -> anyhow::Result<()> {
    let sessions = |filter: &EngineFilter| {
        let rows = bgp::rows(client.list("ek/bgp")?, now_unix_ms());
        filter.pick(rows, bgp::SessionRow::engine)
    };
    match &args.view {
        None => print_named("BGP session", sessions(&args.filter)?, format),
        Some(BgpView::Peers(filter)) => print_named("BGP session", sessions(filter)?, format),
        Some(BgpView::Routes(filter)) => {
            print_named("route", bgp::routes(&sessions(filter)?), format);
        }
        Some(BgpView::Learned(filter)) => {
            let rows = bgp::learned(&client.list("ek/learnedroute")?);
            let rows = filter.pick(rows, |row| [row.se_name.clone(), row.se_uuid.clone()])?;
            print_named("learned route", rows, format);
        }
        Some(BgpView::Neighbor(args)) => show_neighbor(client, args, format)?,
    }
    Ok(())
}

fn show_neighbor(client: &Client, args: &NeighborArgs, format: Format) -> anyhow::Result<()> {
    let peer = args.peer.to_string();
    let all = args.filter.pick(client.list("ek/bgp")?, |session| {
        ["/se_name", "/se_uuid"].map(|pointer| crate::lookup::text(session, pointer).to_owned())
    })?;
    let (with, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|s| s["peer"] == peer);
    if with.is_empty() {
        let peers = others
            .iter()
            .map(|s| crate::lookup::text(s, "/peer").to_owned());
        bail!(
            "no engine has a session with {peer}{}",
            known(peers.collect())
        );
    }
    let text = neighbor::describe(&with, now_unix_ms());
    table::print_value(&with, text.trim_end(), format);
    Ok(())
}

/// References come with names, so that tables need no further call.
const NAMES: &[(&str, &str)] = &[("include_name", "")];

impl Filter {
    fn pick<T>(&self, rows: Vec<T>, keys: impl Fn(&T) -> [String; 2]) -> anyhow::Result<Vec<T>> {
        pick(self.name.as_ref(), rows, keys)
    }
}

impl EngineFilter {
    fn pick<T>(&self, rows: Vec<T>, keys: impl Fn(&T) -> [String; 2]) -> anyhow::Result<Vec<T>> {
        pick(self.engine.as_ref(), rows, keys)
    }
}

/// The rows with this name or UUID, all when there is none; naming one that is not there is an error.
fn pick<T>(
    wanted: Option<&String>,
    rows: Vec<T>,
    keys: impl Fn(&T) -> [String; 2],
) -> anyhow::Result<Vec<T>> {
    let Some(wanted) = wanted else {
        return Ok(rows);
    };
    let names: Vec<String> = rows.iter().map(|row| keys(row)[0].clone()).collect();
    let picked: Vec<T> = rows
        .into_iter()
        .filter(|row| keys(row).contains(wanted))
        .collect();
    if picked.is_empty() {
        bail!("there is none named {wanted:?}{}", known(names));
    }
    Ok(picked)
}

fn known(mut names: Vec<String>) -> String {
    names.sort();
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

pub(crate) fn now_unix_ms() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// An age as people say it: two units at most.
pub(crate) fn age(ms: u64) -> String {
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
