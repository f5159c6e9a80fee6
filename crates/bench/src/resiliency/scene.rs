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
use flow::verdict::Verdict;
use lab::member::capture::Move;
use lab::member::traffic::{Exchange, Report};
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

/// Traffic after a step: longer than what the client waits for an answer, so that a flow which is dead is known to be.
const OBSERVED: Duration = Duration::from_secs(5);

/// And after an engine has joined, at least: every flow speaks some times.
const FOLLOWED: Duration = Duration::from_millis(1200);

/// Of so many connections that are opened at once some may wait longer for their first answer than the client does.
const OPENING_TRIES: usize = 4;

/// What a scene consists of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) system: System,
    pub(crate) flows: usize,
    /// Between two messages of a flow.
    pub(crate) interval: Duration,
    /// The client keeps every exchange.
    pub(crate) keep_exchanges: bool,
}

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
    /// Segments that the client has sent again.
    pub(crate) repeated: u64,
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
    setting: Setting,
}

impl Scene {
    /// Four nodes serve, and the router's kernel knows it.
    pub(crate) fn build(setting: Setting) -> Result<Self> {
        let network = Network::with_traffic(JOINS)?;
        let servers = start_servers(&network)?;
        let router = Router::start(router::Kind::Frr, &network, None)?;
        let fib = Fib::watch(&network.router())?;
        let mut pool = Pool::start(setting.system, &network, JOINS)?;
        pool.begin(SERVING)?;
        fib.await_state(Block::one(VIP), SERVING.count())?;
        let exe = control::product()?;
        let capture = Helper::start(&network.router(), &exe, &capture_arguments())?;
        let client = network.namespace("cl");
        let traffic = Helper::start(&client, &exe, &traffic_arguments(setting))?;
        Ok(Self {
            traffic,
            capture,
            pool,
            fib,
            _router: router,
            _servers: servers,
            network,
            setting,
        })
    }

    /// Of connections that the client opens from now on: without timestamps there are no hints.
    pub(crate) fn set_timestamps(&self, on: bool) -> Result<()> {
        let value = u8::from(on);
        self.network
            .set("cl", &format!("net.ipv4.tcp_timestamps={value}"))
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
        let repeated = self.repeated()?;
        self.act(step)?;
        self.let_pass(OBSERVED)?;
        let repeated = self.repeated()? - repeated;
        let report = self.client("report")?;
        let flows = self.captured(&(&ports - &own))?;
        let moved = flows.values().filter(|flow| flow.moved()).count();
        let seen = observed(report, moved, &own)?;
        Ok(Observed {
            unopened,
            repeated,
            ..seen
        })
    }

    /// New flows, so long without a change, and as long while an engine joins; which leaves again. For engines.
    pub(crate) fn join_beside_calm(&mut self, window: Duration) -> Result<Joined> {
        self.open_flows()?;
        let repeated_calm = self.repeated_while(window, |_| Ok(()))?;
        self.capture.order("mark")?;
        let ports = ports(self.traffic.order("mark")?["flows"].take())?;
        let before = self.pool.verdicts()?;
        let repeated = self.repeated_while(window, |scene| scene.act(Step::Join))?;
        let after = self.pool.verdicts()?;
        let more = |verdict: Verdict| after[verdict.code()] - before[verdict.code()];
        let joined = Joined {
            flows: self.captured(&ports)?,
            exchanges: serde_json::from_value(
                self.traffic.order("exchanges")?["exchanges"].take(),
            )?,
            broken: self.client("report")?.broken.len(),
            by_hint: more(Verdict::TunnelHint),
            asked: more(Verdict::Probe),
            repeated,
            repeated_calm,
        };
        self.pool.leave(JOINS)?;
        self.fib.await_state(Block::one(VIP), SERVING.count())?;
        Ok(joined)
    }

    /// Segments that the client sends again from an event on, until the time is over.
    fn repeated_while(
        &mut self,
        window: Duration,
        event: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<u64> {
        let (since, before) = (Instant::now(), self.repeated()?);
        event(self)?;
        self.let_pass(window.saturating_sub(since.elapsed()).max(FOLLOWED))?;
        Ok(self.repeated()? - before)
    }

    fn repeated(&self) -> Result<u64> {
        self.network.tcp_counter("cl", "RetransSegs")
    }

    /// What the router's frames say of these flows.
    fn captured(&mut self, ports: &BTreeSet<u16>) -> Result<BTreeMap<u16, Captured>> {
        captured(self.capture.order("snapshot")?["flows"].take(), ports)
    }

    /// All of them new, and all of them work in the end. How many did not at the first try.
    fn open_flows(&mut self) -> Result<usize> {
        let mut report = self.client("renew")?;
        let flows = self.setting.flows;
        let (unopened, why) = (flows - report.alive, report.broken.last().cloned());
        for _ in 1..OPENING_TRIES {
            if report.alive < flows {
                report = self.client("reopen")?;
            }
        }
        ensure!(
            report.alive == flows,
            "{} of {flows} flows could be opened; a failure: {why:?}",
            report.alive
        );
        self.let_pass(2 * self.setting.interval)?;
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

fn traffic_arguments(setting: Setting) -> Vec<String> {
    let mut arguments = vec![
        "traffic".to_owned(),
        format!("--target={VIP}:{PORT}"),
        format!("--connections={}", setting.flows),
        format!("--interval-ms={}", setting.interval.as_millis()),
        "--short-per-s=0".to_owned(),
    ];
    if setting.keep_exchanges {
        arguments.push("--keep-exchanges".to_owned());
    }
    arguments
}

/// Of the client's living flows, which it names with the engine that the server sees.
fn ports(flows: Value) -> Result<BTreeSet<u16>> {
    let flows: BTreeMap<u16, Value> =
        serde_json::from_value(flows).context("the client's flows")?;
    Ok(flows.into_keys().collect())
}

/// A flow as the capture reports it.
#[derive(Debug, Deserialize)]
pub(crate) struct Captured {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) first_move: Option<Move>,
}

impl Captured {
    /// It goes to another next hop than at the mark.
    pub(crate) fn moved(&self) -> bool {
        self.from != self.to
    }
}

/// The client's flows with these ports.
fn captured(flows: Value, ports: &BTreeSet<u16>) -> Result<BTreeMap<u16, Captured>> {
    let flows: BTreeMap<SocketAddrV4, Captured> =
        serde_json::from_value(flows).context("the capture's flows")?;
    let by_port = flows
        .into_iter()
        .map(|(source, flow)| (source.port(), flow));
    Ok(by_port.filter(|(port, _)| ports.contains(port)).collect())
}

/// What clients and router have seen while an engine joined.
pub(crate) struct Joined {
    /// By the client's port.
    pub(crate) flows: BTreeMap<u16, Captured>,
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) broken: usize,
    /// Packets that were sent on to the owner that the client's timestamp names.
    pub(crate) by_hint: u64,
    /// Packets whose owner was asked for.
    pub(crate) asked: u64,
    /// Segments that the client has sent again, and how many before in the same time.
    pub(crate) repeated: u64,
    pub(crate) repeated_calm: u64,
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
        repeated: 0,
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
        let flow = |from: &str, to: &str| json!({ "from": from, "to": to, "first_move": null });
        let flows = json!({
            "10.20.0.2:1": flow("a", "b"),
            "10.20.0.2:2": flow("a", "a"),
            "10.20.0.2:3": flow("a", "b"),
        });
        let captured = captured(flows, &BTreeSet::from([1, 2])).unwrap();
        let moved: Vec<bool> = captured.values().map(Captured::moved).collect();
        assert_eq!(moved, [true, false]);
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
