//! The network of a round with everything that runs in it, and what is observed of a step.
//!
//! ```text
//!   client ── router (FRR, ECMP) ── switch ── 5 nodes, 2 servers
//! ```
//! Traffic and capture are members of the lab: a client that checks every answer, and a watcher of the next hop that the
//! router's kernel really chose for each flow.

use super::Step;
use super::pool::{Daemon, Pool, System, await_listener};
use crate::control::{self, SERVER_PORT};
use crate::fib::{Fib, wait_for};
use crate::net::{Network, SERVERS};
use crate::router::{self, Router};
use crate::speaker::Block;
use anyhow::{Context, Result, ensure};
use lab::member::traffic::Report;
use lab::scenario::helper::Helper;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

/// Nodes that serve at the beginning; one more is ready.
const SERVING: std::ops::RangeInclusive<usize> = 1..=4;
/// The one that joins.
const JOINS: usize = 5;
/// The one that leaves.
const LEAVES: usize = 2;
/// The one that is killed.
const KILLED: usize = 3;

pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
pub(crate) const PORT: u16 = 80;

/// Between two messages of a flow.
const INTERVAL: Duration = Duration::from_millis(200);
/// Traffic after a step: longer than what the client waits for an answer, so that a flow which is dead is known to be.
const OBSERVED: Duration = Duration::from_secs(5);

/// Of so many connections that are opened at once some may wait longer for their first answer than the client does.
const OPENING_TRIES: usize = 4;

/// What a step did to the flows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    /// Of the flows that the step began with, those that were opened by a second try.
    pub(crate) unopened: usize,
    /// Flows that the router sends to another node than before; those of a killed node have ended.
    pub(crate) moved: usize,
    pub(crate) broken: usize,
    /// Flows that lived at the node that was killed.
    pub(crate) own: usize,
    /// Flows that broke and lived elsewhere, or lived there and did not break.
    pub(crate) astray: usize,
    pub(crate) longest_gap_ms: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// How the client saw flows break, with their number.
    pub(crate) reasons: BTreeMap<String, usize>,
}

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.unopened > 0 {
            write!(f, "{} flows not opened at the first try, ", self.unopened)?;
        }
        let (moved, broken, gap) = (self.moved, self.broken, self.longest_gap_ms);
        write!(
            f,
            "{moved} flows moved, {broken} broken, longest gap {gap} ms"
        )?;
        for (reason, count) in &self.reasons {
            write!(f, ", {count} {reason}")?;
        }
        Ok(())
    }
}

/// Fields are dropped in this order: the network goes last.
pub(crate) struct Scene {
    traffic: Helper,
    capture: Helper,
    pool: Pool,
    fib: Fib,
    _router: Router,
    _servers: Vec<Daemon>,
    network: Network,
    flows: usize,
}

impl Scene {
    /// Four nodes serve, and the router's kernel knows it.
    pub(crate) fn build(system: System, flows: usize) -> Result<Self> {
        let network = Network::with_traffic(JOINS)?;
        let servers = start_servers(&network)?;
        let router = Router::start(router::Kind::Frr, &network, None)?;
        let fib = Fib::watch(&network.router())?;
        let mut pool = Pool::start(system, &network, JOINS)?;
        pool.begin(SERVING)?;
        fib.await_state(Block::one(VIP), SERVING.count())?;
        let exe = control::product()?;
        let capture = Helper::start(&network.router(), &exe, &capture_arguments())?;
        let client = network.namespace("cl");
        let traffic = Helper::start(&client, &exe, &traffic_arguments(flows))?;
        Ok(Self {
            traffic,
            capture,
            pool,
            fib,
            _router: router,
            _servers: servers,
            network,
            flows,
        })
    }

    /// From new flows to the end of the traffic after the step.
    pub(crate) fn step(&mut self, step: Step) -> Result<Observed> {
        let unopened = self.open_flows()?;
        self.capture.order("mark")?;
        let ports = ports(self.traffic.order("mark")?["flows"].take())?;
        let own = match step {
            // HAProxy still holds connections of earlier steps, whose ends came to another node.
            Step::Kill => &self.pool.flows_at(&self.network, KILLED)? & &ports,
            Step::Hold | Step::Join | Step::Leave => BTreeSet::new(),
        };
        self.act(step)?;
        self.let_pass(OBSERVED)?;
        let report = self.client("report")?;
        let flows = self.capture.order("snapshot")?["flows"].take();
        let seen = observed(report, moved(flows, &(&ports - &own))?, &own)?;
        Ok(Observed { unopened, ..seen })
    }

    /// All of them new, and all of them work in the end. How many did not at the first try.
    fn open_flows(&mut self) -> Result<usize> {
        let mut report = self.client("renew")?;
        let (unopened, why) = (self.flows - report.alive, report.broken.last().cloned());
        for _ in 1..OPENING_TRIES {
            if report.alive < self.flows {
                report = self.client("reopen")?;
            }
        }
        ensure!(
            report.alive == self.flows,
            "{} of {} flows could be opened; a failure: {why:?}",
            report.alive,
            self.flows
        );
        self.let_pass(2 * INTERVAL)?;
        Ok(unopened)
    }

    /// An order to the client, and its books.
    fn client(&mut self, verb: &str) -> Result<Report> {
        let report = self.traffic.order(verb)?["report"].take();
        serde_json::from_value(report).context("the client's report")
    }

    /// Does it, and waits until the router has noticed.
    fn act(&mut self, step: Step) -> Result<()> {
        let width = match step {
            Step::Hold => return Ok(()),
            Step::Join => self.pool.join(JOINS).map(|()| 5),
            Step::Leave => self.pool.leave(LEAVES).map(|()| 4),
            Step::Kill => self.pool.kill(KILLED).map(|()| 3),
        };
        self.fib.await_state(Block::one(VIP), width?)
    }

    /// Traffic goes on meanwhile: the time itself is what is wanted.
    fn let_pass(&self, time: Duration) -> Result<()> {
        let since = Instant::now();
        wait_for("some traffic", || Ok(since.elapsed() >= time))
    }
}

fn start_servers(network: &Network) -> Result<Vec<Daemon>> {
    let (namespace, folder) = (network.namespace("sv"), network.folder("servers")?);
    let exe = control::product()?;
    let start = |address: &Ipv4Addr| {
        let listen = format!("{address}:{SERVER_PORT}");
        let words = [
            &exe, "lab", "member", "echo", "--name", "server", "--listen", &listen,
        ];
        let daemon = Daemon::start(&namespace, &words, &folder.join("echo.log"))?;
        await_listener(&namespace, &listen)?;
        Ok(daemon)
    };
    SERVERS.iter().map(start).collect()
}

fn capture_arguments() -> Vec<String> {
    let vip = VIP.to_string();
    ["capture", "--vip", &vip, "--interface", "eth0"]
        .map(str::to_owned)
        .into()
}

fn traffic_arguments(flows: usize) -> Vec<String> {
    vec![
        "traffic".to_owned(),
        format!("--target={VIP}:{PORT}"),
        format!("--connections={flows}"),
        format!("--interval-ms={}", INTERVAL.as_millis()),
        "--short-per-s=0".to_owned(),
    ]
}

/// Of the client's living flows, which it names with the engine that the server sees.
fn ports(flows: Value) -> Result<BTreeSet<u16>> {
    let flows: BTreeMap<u16, Value> =
        serde_json::from_value(flows).context("the client's flows")?;
    Ok(flows.into_keys().collect())
}

/// A flow as the capture reports it.
#[derive(Debug, Deserialize)]
struct Flow {
    from: String,
    to: String,
}

/// How many of the client's flows with these ports go to another next hop than at the mark.
fn moved(flows: Value, ports: &BTreeSet<u16>) -> Result<usize> {
    let flows: BTreeMap<SocketAddrV4, Flow> =
        serde_json::from_value(flows).context("the capture's flows")?;
    let ours = flows
        .iter()
        .filter(|(source, _)| ports.contains(&source.port()));
    Ok(ours.filter(|(_, flow)| flow.from != flow.to).count())
}

fn observed(report: Report, moved: usize, own: &BTreeSet<u16>) -> Result<Observed> {
    let broken: BTreeSet<u16> = report.broken.iter().map(|failure| failure.port).collect();
    let mut reasons = BTreeMap::new();
    for failure in report.broken {
        *reasons.entry(failure.reason).or_default() += 1;
    }
    ensure!(report.exchanges > 0, "no message was answered in this step");
    Ok(Observed {
        unopened: 0,
        moved,
        broken: broken.len(),
        own: own.len(),
        astray: broken.symmetric_difference(own).count(),
        longest_gap_ms: report.longest_gap_ms as f64,
        p50_us: report.p50_us as f64,
        p99_us: report.p99_us as f64,
        reasons,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lab::member::traffic::Failure;
    use serde_json::json;

    #[test]
    fn only_flows_of_this_step_count_as_moved() {
        let flow = |from: &str, to: &str| json!({ "from": from, "to": to, "moves": 1 });
        let flows = json!({
            "10.20.0.2:1": flow("a", "b"),
            "10.20.0.2:2": flow("a", "a"),
            "10.20.0.2:3": flow("a", "b"),
        });
        assert_eq!(moved(flows, &BTreeSet::from([1, 2])).unwrap(), 1);
    }

    #[test]
    fn a_flow_is_astray_when_it_broke_elsewhere_or_went_on_at_a_dead_node() {
        let failure = |port| Failure {
            port,
            reason: "reset".into(),
            engine: None,
            t_us: 0,
        };
        let report = Report {
            exchanges: 1,
            broken: vec![failure(1), failure(2)],
            ..Report::default()
        };
        let observed = observed(report, 0, &BTreeSet::from([2, 3])).unwrap();
        assert_eq!((observed.broken, observed.own, observed.astray), (2, 2, 2));
        assert!(observed.to_string().ends_with(", 2 reset"));
    }
}
