//! Running a scenario: bring a lab into its starting state, put it under traffic, take the steps, judge them.

use super::fib::{NextHops, Watch};
use super::helper::Helper;
use super::judge::{Calm, Flow, Observation, StepResult, judge};
use super::{Action, Direction, LogLine, Scenario, Step};
use crate::control::{Control, VirtualService};
use crate::lifecycle::{self, UpOptions};
use crate::member::now_us;
use crate::member::traffic::Report;
use crate::nodes;
use crate::process::wait_for;
use crate::record::Record;
use crate::router::{self, Session};
use crate::topology::{Folder, Params, Topology};
use anyhow::{Context, Result, bail, ensure};
use cli::note;
use cli::output::table;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

mod edit;

/// How long a route may take before a step goes on without it; the bar that judges it is lower.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a route may take to come back after a daemon was started again.
const BACK_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the controller may take to show an SE down.
const DOWN_TIMEOUT: Duration = Duration::from_secs(15);

/// What to run, and where.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Name of the scenario.
    pub scenario: String,
    /// Topology to bring up where no lab is.
    pub topology: String,
    /// Chosen id of the lab.
    pub id: Option<String>,
    /// Changed parameters.
    pub settings: Params,
    /// A new lab in any case.
    pub fresh: bool,
    /// Take it down at the end.
    pub down: bool,
}

/// The whole result, as `-o json` shows it.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Name of the scenario.
    pub scenario: String,
    /// Name of the topology.
    pub topology: String,
    /// Id of the lab.
    pub lab: String,
    /// Resident memory of the engine with one VS, before traffic, MiB.
    pub engine_idle_rss_mib: f64,
    /// The bar for it.
    pub engine_idle_rss_bar_mib: u64,
    /// Steps.
    pub steps: Vec<StepResult>,
    /// True when everything held.
    pub passed: bool,
}

/// Runs a scenario; true when everything held.
///
/// # Errors
/// What kept the scenario from being run at all.
pub fn run(options: &RunOptions) -> Result<bool> {
    let mut record = lab_for(options)?;
    let outcome = Runner::new(&mut record, &options.scenario).and_then(Runner::run);
    if options.down {
        lifecycle::down(&record.id)?;
    }
    let outcome = outcome?;
    show(&outcome);
    Ok(outcome.passed)
}

/// The lab that is up when it fits, else a new one.
fn lab_for(options: &RunOptions) -> Result<Record> {
    if !options.fresh
        && let Ok(record) = Record::find(options.id.as_deref())
        && fits(&record, options)?
    {
        note!("lab {}: using the one that is up", record.id);
        return Ok(record);
    }
    let mut settings = Folder::find(&options.topology)?.scenario_params(&options.scenario)?;
    settings.extend(options.settings.clone());
    lifecycle::up(&UpOptions {
        topology: options.topology.clone(),
        id: options.id.clone(),
        settings,
        bare: false,
    })
}

/// True when the lab is whole, has the scenario, and the parameters that it needs.
fn fits(record: &Record, options: &RunOptions) -> Result<bool> {
    let (folder, topology) = record.topology()?;
    let Ok(mut needs) = folder.scenario_params(&options.scenario) else {
        return Ok(false);
    };
    needs.extend(options.settings.clone());
    let runs = |node: &str, name: &str| {
        record
            .member(node, name)
            .is_some_and(|m| m.identity.is_alive())
    };
    let engines = topology.nodes.iter().filter(|n| n.engine.is_some());
    Ok(record.complete
        && needs
            .iter()
            .all(|(name, value)| record.params.get(name) == Some(value))
        && record.processes.iter().all(|p| runs(&p.node, &p.name))
        && engines.into_iter().all(|n| runs(&n.name, nodes::ENGINE)))
}

fn show(outcome: &Outcome) {
    let format = cli::output::format();
    if format.is_structured() {
        return table::print_value(outcome, "", format);
    }
    table::print(&outcome.steps, format);
    cli::out!(
        "engine, idle with one VS: {:.1} MiB resident (bar {} MiB)",
        outcome.engine_idle_rss_mib,
        outcome.engine_idle_rss_bar_mib
    );
    let moved: usize = outcome.steps.iter().map(|s| s.flows_moved).sum();
    let broken: usize = outcome.steps.iter().map(|s| s.flows_broken).sum();
    cli::out!("{moved} flows moved by the router, {broken} broken by the client's count");
    for step in &outcome.steps {
        for violation in &step.violations {
            cli::out!("does not hold in {}: {violation}", step.step);
        }
    }
}

struct Runner<'a> {
    record: &'a mut Record,
    topology: Topology,
    scenario: Scenario,
    name: String,
    control: Control,
    service: VirtualService,
    fib: Watch,
    traffic: Option<Helper>,
    capture: Option<Helper>,
    /// SEs by address towards the router.
    engines: BTreeMap<IpAddr, String>,
    engines_by_mac: BTreeMap<String, String>,
    lost: BTreeSet<String>,
    /// SEs that the controller has assigned, as it said last.
    assigned: BTreeSet<String>,
}

/// What an action leaves to be judged at the end of its step.
#[derive(Default)]
struct Done {
    api_to_fib_s: Vec<Option<f64>>,
    called_us: u64,
    violations: Vec<String>,
}

impl<'a> Runner<'a> {
    fn new(record: &'a mut Record, name: &str) -> Result<Self> {
        let (folder, topology) = record.topology()?;
        let scenario: Scenario = folder.toml(&format!("scenarios/{name}.toml"))?;
        let control = Control::connect(record)?;
        let service = topology
            .virtual_service
            .as_deref()
            .context("the topology names no virtual service")?;
        let service = control.virtual_service(service)?;
        let fib = Watch::start(&record.namespace(&scenario.router), scenario.vip)?;
        let engines: BTreeMap<_, _> = topology
            .engines_on(&scenario.segment)
            .into_iter()
            .map(|(n, a)| (a, n))
            .collect();
        let engines_by_mac = macs(record, &topology, &scenario.segment)?;
        Ok(Self {
            record,
            topology,
            scenario,
            name: name.to_owned(),
            control,
            service,
            fib,
            traffic: None,
            capture: None,
            engines,
            engines_by_mac,
            lost: BTreeSet::new(),
            assigned: BTreeSet::new(),
        })
    }

    fn run(mut self) -> Result<Outcome> {
        self.start_on_one()?;
        let rss = self.idle_rss_mib()?;
        let bar = self.scenario.bars.engine_idle_rss_mib;
        note!("engine, idle with one VS: {rss:.1} MiB resident");
        self.start_members()?;
        let mut steps = Vec::new();
        for step in self.scenario.steps.clone() {
            let result = self
                .step(&step)
                .with_context(|| format!("step {}", step.name))?;
            tell(&result);
            steps.push(result);
        }
        let passed = rss < bar as f64 && steps.iter().all(|s| s.violations.is_empty());
        Ok(Outcome {
            scenario: self.name.clone(),
            topology: self.record.topology.clone(),
            lab: self.record.id.clone(),
            engine_idle_rss_mib: rss,
            engine_idle_rss_bar_mib: bar,
            steps,
            passed,
        })
    }

    /// Scales in until one SE is left, whatever the lab did before, and waits until its route stands.
    fn start_on_one(&self) -> Result<()> {
        let placed = self.control.placement(&self.service)?.assigned;
        ensure!(!placed.is_empty(), "the virtual service is placed on no SE");
        for name in &placed[1..] {
            note!("back to the start: scaling in from {name}");
            self.control
                .scale(&self.service, Direction::In, Some(name))?;
        }
        let only = BTreeSet::from([placed[0].clone()]);
        let settled = self.fib.wait(Instant::now(), SETTLE_TIMEOUT, |hops| {
            self.names(hops) == only
        });
        ensure!(
            settled.is_some(),
            "the route of {} is not the FIB's only one: {:?}",
            placed[0],
            self.fib.now()
        );
        note!("the virtual service is on {}", placed[0]);
        Ok(())
    }

    /// The largest engine that has the virtual service.
    fn idle_rss_mib(&self) -> Result<f64> {
        let placed = self.control.placement(&self.service)?.assigned;
        let members = placed
            .iter()
            .filter_map(|name| self.record.member(name, nodes::ENGINE));
        let largest = members.filter_map(|m| m.identity.rss_bytes()).max();
        Ok(largest.context("no engine to measure")? as f64 / f64::from(1 << 20))
    }

    fn start_members(&mut self) -> Result<()> {
        let router = self.topology.node(&self.scenario.router)?;
        let links = router
            .links
            .iter()
            .filter(|l| l.segment == self.scenario.segment);
        let interfaces: Result<Vec<_>> =
            links.map(|l| self.topology.interface(router, l)).collect();
        let exe = nodes::own_binary()?;
        let capture = [
            "capture",
            "--vip",
            &self.scenario.vip.to_string(),
            "--interface",
            &interfaces?.join(","),
        ]
        .map(str::to_owned);
        self.capture = Some(Helper::start(
            &self.record.namespace(&router.name),
            &exe,
            &capture,
        )?);
        let load = &self.scenario.traffic;
        let traffic = [
            "traffic".to_owned(),
            format!("--target={}", SocketAddr::new(self.scenario.vip, load.port)),
            format!("--connections={}", load.connections),
            format!("--interval-ms={}", load.interval_ms),
            format!("--short-per-s={}", load.short_per_s),
        ];
        self.traffic = Some(Helper::start(
            &self.record.namespace(&self.scenario.client),
            &exe,
            &traffic,
        )?);
        note!(
            "traffic: {} long-lived connections, {} short ones per second",
            load.connections,
            load.short_per_s
        );
        Ok(())
    }

    fn traffic(&mut self, verb: &str) -> Result<Value> {
        self.traffic.as_mut().context("no traffic")?.order(verb)
    }

    fn capture(&mut self, verb: &str) -> Result<Value> {
        self.capture.as_mut().context("no capture")?.order(verb)
    }

    fn step(&mut self, step: &Step) -> Result<StepResult> {
        note!("step {} …", step.name);
        let fresh = self.scenario.traffic.fresh_each_step;
        self.traffic(if fresh { "renew" } else { "reopen" })?;
        self.capture("mark")?;
        let ports: BTreeSet<u16> = serde_json::from_value(self.traffic("mark")?["ports"].take())?;
        let before = self.names(&self.fib.now());
        let calm = self.calm_before(step)?;
        let began = Instant::now();
        let done = self.act(&step.action)?;
        self.traffic("share")?;
        traffic_for(Duration::from_secs(step.observe_s));
        let mut seen = self.observe(step, &before)?;
        seen.ports = ports;
        seen.first_connection_s = self.first_connections(&seen, done.called_us);
        seen.api_to_fib_s = done.api_to_fib_s;
        seen.violations = done.violations;
        seen.calm = self.calm_after(calm, began)?;
        Ok(judge(&seen, &self.scenario.bars))
    }

    /// What the traffic's router shall still say after a step that it must not notice.
    fn calm_before(&self, step: &Step) -> Result<Option<Calm>> {
        let router = &self.scenario.router;
        let calm = step.undisturbed.then(|| {
            let before = self.sessions(router)?;
            Ok(Calm {
                before,
                ..Calm::default()
            })
        });
        calm.transpose()
    }

    fn calm_after(&self, calm: Option<Calm>, began: Instant) -> Result<Option<Calm>> {
        let Some(mut calm) = calm else {
            return Ok(None);
        };
        calm.after = self.sessions(&self.scenario.router)?;
        calm.route_changes = self.fib.changes_since(began);
        Ok(Some(calm))
    }

    /// The BGP sessions of the router in a node, as it shows them.
    fn sessions(&self, node: &str) -> Result<Vec<Session>> {
        let role = self.topology.node(node)?.router.as_ref();
        let role = role.with_context(|| format!("node {node} is no router"))?;
        let (namespace, dir) = (self.record.namespace(node), self.record.node_dir(node));
        router::sessions(role.kind, &namespace, &dir)
            .with_context(|| format!("ask {node} for its sessions"))
    }

    /// Looks at the end of a step.
    fn observe(&mut self, step: &Step, before: &BTreeSet<String>) -> Result<Observation> {
        let report: Report = serde_json::from_value(self.traffic("report")?["report"].take())?;
        let flows: BTreeMap<SocketAddr, Flow> =
            serde_json::from_value(self.capture("snapshot")?["flows"].take())?;
        let fib = self.names(&self.fib.now());
        Ok(Observation {
            step: step.name.clone(),
            assigned: self.ask_placement()?,
            lost: self.lost.clone(),
            new: fib.difference(before).cloned().collect(),
            fib,
            share: self.by_name(&report, |e| e.share),
            connections: self.scenario.traffic.connections,
            flows: flows
                .into_iter()
                .map(|(source, flow)| (source.port(), flow))
                .collect(),
            engines_by_mac: self.engines_by_mac.clone(),
            report,
            ..Observation::default()
        })
    }

    /// The placement; while the controller is gone on purpose, what it said before.
    fn ask_placement(&mut self) -> Result<BTreeSet<String>> {
        let mut controllers = self
            .topology
            .nodes
            .iter()
            .filter(|n| n.controller.is_some());
        let gone = |node: &str| {
            let member = self.record.member(node, nodes::CONTROLLER);
            member.is_none_or(|m| !m.identity.is_alive())
        };
        if !controllers.any(|n| gone(&n.name)) {
            let placement = self.control.placement(&self.service)?;
            self.assigned = placement.assigned.into_iter().collect();
        }
        Ok(self.assigned.clone())
    }

    /// A number of the client's report by the name of the SE that the servers saw.
    fn by_name(
        &self,
        report: &Report,
        number: fn(&crate::member::traffic::EngineShare) -> u64,
    ) -> BTreeMap<String, u64> {
        let named = report.engines.iter().map(|(address, engine)| {
            let name = self
                .topology
                .owner_of(*address)
                .map_or_else(|| address.to_string(), str::to_owned);
            (name, number(engine))
        });
        named.collect()
    }

    fn first_connections(&self, seen: &Observation, called_us: u64) -> BTreeMap<String, f64> {
        let first = self.by_name(&seen.report, |e| e.first_us);
        let new = seen
            .new
            .iter()
            .filter_map(|name| Some((name.clone(), *first.get(name)?)));
        new.map(|(name, us)| (name, us.saturating_sub(called_us) as f64 / 1e6))
            .collect()
    }

    fn names(&self, hops: &NextHops) -> BTreeSet<String> {
        hops.iter()
            .map(|a| {
                self.engines
                    .get(a)
                    .cloned()
                    .unwrap_or_else(|| a.to_string())
            })
            .collect()
    }

    fn act(&mut self, action: &Action) -> Result<Done> {
        match action {
            Action::Hold => Ok(Done::default()),
            Action::ScaleOut { times, to } => self.scale(Direction::Out, *times, to),
            Action::ScaleIn { times, from } => self.scale(Direction::In, *times, from),
            Action::Signal { .. } => self.signal(action),
            Action::Start { node } => self.start_again(node),
            Action::Edit(edit) => self.edit(edit),
        }
    }

    /// Makes the calls one right after the other, then waits for each one's change of the FIB.
    fn scale(&mut self, direction: Direction, times: usize, named: &[String]) -> Result<Done> {
        let before = self.fib.now().len();
        let choices: Vec<Option<&str>> = if named.is_empty() {
            vec![None; times]
        } else {
            named.iter().map(|n| Some(n.as_str())).collect()
        };
        let mut called = Vec::new();
        for choice in choices {
            called.push(self.control.scale(&self.service, direction, choice)?);
        }
        let first = called.first().context("a scale step without a call")?;
        let called_us = wall_us(*first);
        let api_to_fib_s = (1..).zip(&called).map(|(count, at)| {
            let reached = self.fib.wait(*at, SETTLE_TIMEOUT, |hops| match direction {
                Direction::Out => hops.len() >= before + count,
                Direction::In => hops.len() + count <= before,
            });
            reached.map(|r| (r - *at).as_secs_f64())
        });
        Ok(Done {
            api_to_fib_s: api_to_fib_s.collect(),
            called_us,
            violations: Vec::new(),
        })
    }

    fn signal(&mut self, action: &Action) -> Result<Done> {
        let Action::Signal {
            node,
            signal,
            gone_within_s,
            gone_after_s,
            down,
            log,
            back,
        } = action
        else {
            bail!("not a signal");
        };
        let log_from = log.as_ref().map(|l| self.log_text(l).len());
        let member = self.record.processes.iter().rev().find(|p| &p.node == node);
        let member = member.with_context(|| format!("nothing runs in {node}"))?;
        let at = Instant::now();
        ensure!(
            member.identity.signal(signal.signal()),
            "the process in {node} is gone already"
        );
        let mut done = Done {
            called_us: wall_us(at),
            ..Done::default()
        };
        if let Some(within_s) = gone_within_s {
            done.violations
                .extend(self.await_gone(node, at, *gone_after_s, *within_s));
            self.lost.insert(node.clone());
        }
        if *back {
            self.lost.remove(node);
            if self.await_back(node, at).is_none() {
                let text = format!("the route of {node} did not come back");
                done.violations.push(text);
            }
        }
        if *down {
            done.violations.extend(self.await_down(node));
        }
        if let (Some(log), Some(from)) = (log, log_from) {
            done.violations.extend(self.await_log(log, from));
        }
        Ok(done)
    }

    fn start_again(&mut self, node: &str) -> Result<Done> {
        let (called_us, started) = (now_us(), Instant::now());
        nodes::restart(self.record, node)?;
        let mut done = Done {
            called_us,
            ..Done::default()
        };
        if self.lost.remove(node) {
            done.api_to_fib_s.push(self.await_back(node, started));
        } else if self.topology.node(node)?.controller.is_some() {
            done.violations.extend(self.await_engines());
        }
        // How long a daemon takes to start is not what the bar for connections is about.
        done.called_us = now_us();
        Ok(done)
    }

    fn await_engines(&self) -> Option<String> {
        let engines = self
            .topology
            .nodes
            .iter()
            .filter(|n| n.engine.is_some() && !self.lost.contains(&n.name));
        let names: Vec<_> = engines.map(|n| n.name.clone()).collect();
        let started = Instant::now();
        let result = self.control.wait_for_engines(&names, BACK_TIMEOUT);
        note!(
            "  engines connected again after {:.1} s",
            started.elapsed().as_secs_f64()
        );
        result.err().map(|e| format!("{e:#}"))
    }

    /// Waits until an SE's route is gone; what is wrong with the time it took.
    fn await_gone(
        &self,
        node: &str,
        since: Instant,
        after_s: f64,
        within_s: f64,
    ) -> Option<String> {
        let timeout = Duration::from_secs_f64(within_s) + SETTLE_TIMEOUT;
        let Some(gone) = self
            .fib
            .wait(since, timeout, |hops| !self.names(hops).contains(node))
        else {
            return Some(format!("the route of {node} is still in the FIB"));
        };
        let took_s = (gone - since).as_secs_f64();
        note!("  the route of {node} was gone after {took_s:.3} s");
        (took_s < after_s || took_s >= within_s)
            .then(|| format!("the route of {node} was gone after {took_s:.3} s, expected between {after_s} and {within_s} s"))
    }

    /// Seconds from the cause until the router has the route of the SE again.
    fn await_back(&self, node: &str, since: Instant) -> Option<f64> {
        let back = self
            .fib
            .wait(since, BACK_TIMEOUT, |hops| self.names(hops).contains(node));
        let took = (back? - since).as_secs_f64();
        note!("  the route of {node} is back after {took:.3} s");
        Some(took)
    }

    /// The controller must show the SE down and say why.
    fn await_down(&self, node: &str) -> Option<String> {
        let mut last = Err(anyhow::anyhow!("not asked"));
        let shown = wait_for(DOWN_TIMEOUT, || {
            last = self.control.engine_state(node);
            last.as_ref()
                .is_ok_and(|(state, reason)| state == "OPER_DOWN" && !reason.is_empty())
        });
        match last {
            Ok((_, reason)) if shown => {
                note!("  the controller shows {node} down: {reason}");
                None
            }
            Ok((state, reason)) => Some(format!(
                "the controller shows {node} as {state:?}, reason {reason:?}, instead of down with a reason"
            )),
            Err(error) => Some(format!("the controller does not show {node}: {error:#}")),
        }
    }

    fn await_log(&self, log: &LogLine, from: usize) -> Option<String> {
        let said = || {
            self.log_text(log)
                .get(from..)
                .and_then(|t| t.lines().find(|l| l.contains(&log.contains)))
                .map(str::to_owned)
        };
        wait_for(SETTLE_TIMEOUT, || said().is_some());
        match said() {
            Some(line) => {
                note!("  {} says: {}", log.node, line.trim());
                None
            }
            None => Some(format!(
                "{}/{} does not say {:?}",
                log.node, log.file, log.contains
            )),
        }
    }

    fn log_text(&self, log: &LogLine) -> String {
        fs::read_to_string(self.record.node_dir(&log.node).join(&log.file)).unwrap_or_default()
    }
}

/// Lets the traffic run: the time itself is what is observed.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing is waited for: this much traffic is wanted"
)]
fn traffic_for(time: Duration) {
    std::thread::sleep(time);
}

fn tell(result: &StepResult) {
    let verdict = if result.violations.is_empty() {
        "holds"
    } else {
        "DOES NOT HOLD"
    };
    note!(
        "  {verdict}: {} SEs, {} of {} flows moved, {} broken, {}/{} short connections failed",
        result.next_hops.len(),
        result.flows_moved,
        result.flows,
        result.flows_broken,
        result.short_failed,
        result.short_ok + result.short_failed
    );
    for violation in &result.violations {
        note!("  {violation}");
    }
}

/// The wall clock of a moment of the monotonic one.
fn wall_us(at: Instant) -> u64 {
    now_us() - u64::try_from(at.elapsed().as_micros()).unwrap_or(0)
}

/// SEs by the MAC address of their interface on the segment.
fn macs(record: &Record, topology: &Topology, segment: &str) -> Result<BTreeMap<String, String>> {
    let mut macs = BTreeMap::new();
    for node in topology.nodes.iter().filter(|n| n.engine.is_some()) {
        for link in node.links.iter().filter(|l| l.segment == segment) {
            let interface = topology.interface(node, link)?;
            let shown = crate::command::run(
                "ip",
                &[
                    "-n",
                    &record.namespace(&node.name),
                    "-j",
                    "link",
                    "show",
                    &interface,
                ],
            )?;
            let shown: Value = serde_json::from_str(&shown)?;
            let mac = shown[0]["address"]
                .as_str()
                .context("a link without an address")?;
            macs.insert(mac.to_owned(), node.name.clone());
        }
    }
    Ok(macs)
}
