//! What `lab status`, `lab scale-out` and `lab scale-in` show.

use crate::control::Control;
use crate::record::Record;
use crate::router;
use crate::scenario::{Direction, Scenario, fib};
use anyhow::{Context, Result, bail};
use cli::note;
use cli::output::table::{self, Column, Row};
use serde::Serialize;
use std::collections::BTreeSet;
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
    sessions: Vec<SessionRow>,
    routes: Vec<RouteState>,
}

/// A BGP session, as a router shows it.
#[derive(Debug, Serialize)]
struct SessionRow {
    router: String,
    #[serde(flatten)]
    session: router::Session,
}

impl Row for SessionRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("ROUTER", |r| r.router.clone()),
        Column::new("NEIGHBOR", |r| r.session.neighbor.to_string()),
        Column::new("BGP STATE", |r| r.session.state.clone()),
    ];
}

/// A VIP's route in the router's kernel.
#[derive(Debug, Serialize)]
struct RouteState {
    router: String,
    vip: IpAddr,
    next_hops: Vec<IpAddr>,
    /// What the topology says that the kernel shall hold, if it says so.
    expected: Option<Vec<IpAddr>>,
}

impl RouteState {
    fn text(&self) -> String {
        let Self { router, vip, .. } = self;
        let seen = format!("{vip} in {router}'s kernel: {}", hops_text(&self.next_hops));
        match &self.expected {
            Some(wanted) if *wanted == self.next_hops => format!("{seen} (as expected)"),
            Some(wanted) => format!("{seen} (expected: {})", hops_text(wanted)),
            None => seen,
        }
    }
}

fn hops_text(hops: &[IpAddr]) -> String {
    let hops: Vec<_> = hops.iter().map(IpAddr::to_string).collect();
    if hops.is_empty() {
        "no route".to_owned()
    } else {
        hops.join(" ")
    }
}

/// Shows nodes, processes and routes.
pub(crate) fn show(record: &Record) -> Result<()> {
    let status = Status {
        lab: record.id.clone(),
        topology: record.topology.clone(),
        complete: record.complete,
        processes: processes(record),
        sessions: sessions(record)?,
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
    if !status.sessions.is_empty() {
        table::print(&status.sessions, format);
    }
    for route in &status.routes {
        cli::out!("{}", route.text());
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

/// Sessions of the routers that the lab knows how to ask; one that is stopped has none.
fn sessions(record: &Record) -> Result<Vec<SessionRow>> {
    let (_, topology) = record.topology()?;
    let routers = topology
        .nodes
        .iter()
        .filter_map(|n| Some((n, n.router.as_ref()?)));
    let mut rows = Vec::new();
    for (node, role) in routers {
        let (namespace, dir) = (record.namespace(&node.name), record.node_dir(&node.name));
        let found = router::sessions(role.kind, &namespace, &dir).unwrap_or_default();
        rows.extend(found.into_iter().map(|session| SessionRow {
            router: node.name.clone(),
            session,
        }));
    }
    Ok(rows)
}

/// A route to look at, and its next hops as the topology has them.
type Watched = (String, IpAddr, Option<BTreeSet<IpAddr>>);

/// Routers and VIPs, as the topology expects them or its scenarios name them.
fn watched(record: &Record) -> Result<Vec<Watched>> {
    let (folder, topology) = record.topology()?;
    let expected = topology.expected.into_iter();
    let mut watched: Vec<Watched> = expected
        .map(|e| (e.router, e.vip, Some(e.next_hops)))
        .collect();
    for name in folder.scenarios()? {
        let scenario: Scenario = folder.toml(&format!("scenarios/{name}.toml"))?;
        let known = |w: &Watched| w.0 == scenario.router && w.1 == scenario.vip;
        if !watched.iter().any(known) {
            watched.push((scenario.router, scenario.vip, None));
        }
    }
    Ok(watched)
}

fn routes(record: &Record) -> Result<Vec<RouteState>> {
    let states = watched(record)?.into_iter().map(|(router, vip, expected)| {
        let next_hops = fib::next_hops(&record.namespace(&router), vip)?;
        Ok(RouteState {
            router,
            vip,
            next_hops: next_hops.into_iter().collect(),
            expected: expected.map(|e| e.into_iter().collect()),
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
    let (router, vip, _) = watched(record)?
        .into_iter()
        .next()
        .context("the topology watches no route")?;
    let watch = fib::Watch::start(&record.namespace(&router), vip, fib::Way::Route)?;
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

fn first_router(record: &Record) -> String {
    let topology = record.topology().ok().map(|(_, t)| t);
    let router = topology.and_then(|t| t.nodes.into_iter().find(|n| n.router.is_some()));
    router.map_or_else(|| "router".to_owned(), |n| n.name)
}

/// A word on how to look around.
pub(crate) fn hints(record: &Record) {
    let which = if record.named {
        format!(" --run {}", record.id)
    } else {
        String::new()
    };
    let router = first_router(record);
    note!(
        "look around:  evenkeel show virtualservice · evenkeel lab status{which} · evenkeel lab exec{which} {router} ip route"
    );
    note!("take it down: evenkeel lab down{which}");
}
