//! What `lab status`, `lab scale-out` and `lab scale-in` show.

use crate::control::Control;
use crate::record::Record;
use crate::scenario::{Direction, Scenario, fib};
use anyhow::{Context, Result, bail};
use cli::note;
use cli::output::table::{self, Column, Row};
use serde::Serialize;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long a scaled route may take to appear.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(10);

/// A process of the lab.
#[derive(Debug, Serialize)]
struct ProcessRow {
    node: String,
    process: String,
    pid: i32,
    state: &'static str,
    rss_mib: Option<f64>,
    namespace: String,
}

impl Row for ProcessRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("NODE", |r| r.node.clone()),
        Column::new("PROCESS", |r| r.process.clone()),
        Column::new("STATE", |r| r.state.to_owned()),
        Column::new("PID", |r| r.pid.to_string()),
        Column::new("RSS MiB", |r| {
            r.rss_mib.map(|m| format!("{m:.1}")).unwrap_or_default()
        }),
        Column::new("NAMESPACE", |r| r.namespace.clone()),
    ];
}

/// Everything `lab status` knows.
#[derive(Debug, Serialize)]
struct Status {
    lab: String,
    topology: String,
    complete: bool,
    processes: Vec<ProcessRow>,
    routes: Vec<RouteState>,
}

/// A VIP's route in the router's kernel.
#[derive(Debug, Serialize)]
struct RouteState {
    router: String,
    vip: IpAddr,
    next_hops: Vec<IpAddr>,
}

/// Shows nodes, processes and routes.
pub(crate) fn show(record: &Record) -> Result<()> {
    let status = Status {
        lab: record.id.clone(),
        topology: record.topology.clone(),
        complete: record.complete,
        processes: processes(record),
        routes: routes(record)?,
    };
    let format = cli::output::format();
    if format.is_structured() {
        table::print_value(&status, "", format);
        return Ok(());
    }
    cli::out!(
        "lab {}: {}{}",
        status.lab,
        status.topology,
        if status.complete {
            ""
        } else {
            " (did not come up)"
        }
    );
    table::print(&status.processes, format);
    for route in &status.routes {
        let hops: Vec<_> = route.next_hops.iter().map(IpAddr::to_string).collect();
        let hops = if hops.is_empty() {
            "no route".to_owned()
        } else {
            hops.join(" ")
        };
        cli::out!("{} in {}'s kernel: {hops}", route.vip, route.router);
    }
    Ok(())
}

/// The last start of each process.
fn processes(record: &Record) -> Vec<ProcessRow> {
    let latest = record.processes.iter().filter(|p| {
        record
            .member(&p.node, &p.name)
            .is_some_and(|m| m.identity == p.identity)
    });
    let rows = latest.map(|member| ProcessRow {
        node: member.node.clone(),
        process: member.name.clone(),
        pid: member.identity.pid,
        state: if member.identity.is_alive() {
            "running"
        } else {
            "gone"
        },
        rss_mib: member
            .identity
            .rss_bytes()
            .map(|b| b as f64 / f64::from(1 << 20)),
        namespace: record.namespace(&member.node),
    });
    rows.collect()
}

/// Routers and VIPs, as the topology's scenarios name them.
fn watched(record: &Record) -> Result<Vec<(String, IpAddr)>> {
    let (folder, _) = record.topology()?;
    let mut watched = Vec::new();
    for name in folder.scenarios()? {
        let scenario: Scenario = folder.toml(&format!("scenarios/{name}.toml"))?;
        watched.push((scenario.router, scenario.vip));
    }
    watched.sort();
    watched.dedup();
    Ok(watched)
}

fn routes(record: &Record) -> Result<Vec<RouteState>> {
    let states = watched(record)?.into_iter().map(|(router, vip)| {
        let next_hops = fib::next_hops(&record.namespace(&router), vip)?
            .into_iter()
            .collect();
        Ok(RouteState {
            router,
            vip,
            next_hops,
        })
    });
    states.collect()
}

/// Scales by one SE and waits for the router.
pub(crate) fn scale(record: &Record, service: Option<&str>, direction: Direction) -> Result<()> {
    let (_, topology) = record.topology()?;
    let name = service
        .or(topology.virtual_service.as_deref())
        .context("name a virtual service")?;
    let control = Control::connect(record)?;
    let service = control.virtual_service(name)?;
    let (router, vip) = watched(record)?
        .into_iter()
        .next()
        .context("the topology watches no route")?;
    let watch = fib::Watch::start(&record.namespace(&router), vip)?;
    watch.wait(Instant::now(), ROUTE_TIMEOUT, |_| true);
    let before = watch.now();
    let called = control.scale(&service, direction, None)?;
    let Some(at) = watch.wait(called, ROUTE_TIMEOUT, |hops| *hops != before) else {
        bail!(
            "{router}'s kernel has the same next hops after {} s",
            ROUTE_TIMEOUT.as_secs()
        );
    };
    let placed = control.placement(&service)?.assigned;
    note!(
        "{name} is on {}; {router}'s kernel followed after {:.3} s",
        placed.join(" "),
        (at - called).as_secs_f64()
    );
    show(record)
}

/// A word on how to look around.
pub(crate) fn hints(record: &Record) {
    let which = if record.named {
        format!(" --run {}", record.id)
    } else {
        String::new()
    };
    note!(
        "look around:  evenkeel show virtualservice · evenkeel lab status{which} · evenkeel lab exec{which} router ip route"
    );
    note!("take it down: evenkeel lab down{which}");
}
