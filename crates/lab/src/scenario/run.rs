//! Running a scenario: bring a lab into its starting state, put it under traffic, take the steps, judge them.

use super::fib::{self, NextHops, Watch};
use super::helper::Helper;
use super::judge::{Calm, Flow, Observation, Rules, StepResult, judge};
use super::table::{EventRow, FlowRow, WideRow};
use super::{Action, Direction, Scenario, Step};
use crate::control::{Control, VirtualService};
use crate::lifecycle::{self, UpOptions};
use crate::member::now_us;
use crate::member::traffic::Report;
use crate::nodes;
use crate::process::wait_for;
use crate::record::Record;
use crate::router::{self, Session};
use crate::topology::{Folder, Params, Topology};
use anyhow::{Context, Result, ensure};
use cli::note;
use cli::output::table;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

mod autoscale;
mod clients;
mod clocks;
mod controller_faults;
mod drain;
mod edit;
mod events;
mod native;
mod programs;
mod scale_to;
mod usage;
mod ways;
mod writes;

use clients::{Clients, Lives};
use native::Watchers;
use usage::Usage;
use ways::Ways;
use writes::{WriteCount, Writers};

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
    /// Name of the mode, or `all`; the scenario's first without it.
    pub mode: Option<String>,
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
    /// The mode, of a scenario that has some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Name of the topology.
    pub topology: String,
    /// Id of the lab.
    pub lab: String,
    /// Resident memory of the engine with one VS, before traffic, MiB; where there is a bar.
    pub engine_idle_rss_mib: Option<f64>,
    /// The bar for it.
    pub engine_idle_rss_bar_mib: Option<u64>,
    /// True where the steps are about hosts, links and the router: the table shows what counts there.
    #[serde(skip)]
    events: bool,
    /// True where the steps change many SEs at once.
    #[serde(skip)]
    wide: bool,
    /// Steps.
    pub steps: Vec<StepResult>,
    /// What became of the writes, in a scenario that has some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writes: Option<WriteCount>,
    /// What is wrong with them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub writes_violations: Vec<String>,
    /// True when everything held.
    pub passed: bool,
}

/// Runs a scenario; true when everything held.
///
/// # Errors
/// What kept the scenario from being run at all.
pub fn run(options: &RunOptions) -> Result<bool> {
    let mut record = lab_for(options)?;
    let outcomes = run_modes(&mut record, options);
    if options.down {
        lifecycle::down(&record.id)?;
    }
    let outcomes = outcomes?;
    show(&outcomes);
    Ok(outcomes.iter().all(|o| o.passed))
}

/// One run for each mode that is meant, one after the other.
fn run_modes(record: &mut Record, options: &RunOptions) -> Result<Vec<Outcome>> {
    let name = &options.scenario;
    let (folder, _) = record.topology()?;
    let scenario: Scenario = folder.toml(&format!("scenarios/{name}.toml"))?;
    let mut outcomes = Vec::new();
    for scenario in scenario.in_modes(options.mode.as_deref())? {
        outcomes.push(Runner::new(record, name, scenario)?.run()?);
    }
    Ok(outcomes)
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

fn show(outcomes: &[Outcome]) {
    let format = cli::output::format();
    if format.is_structured() {
        return match outcomes {
            [one] => table::print_value(one, "", format),
            several => table::print_value(&several, "", format),
        };
    }
    outcomes.iter().for_each(show_one);
}

fn show_one(outcome: &Outcome) {
    let format = cli::output::format();
    let steps = &outcome.steps;
    if let Some(mode) = &outcome.mode {
        cli::out!("{}, mode {mode}:", outcome.scenario);
    }
    let rows = steps.iter().cloned();
    match &outcome.mode {
        _ if outcome.events => table::print(&rows.map(EventRow).collect::<Vec<_>>(), format),
        _ if outcome.wide => table::print(&rows.map(WideRow).collect::<Vec<_>>(), format),
        Some(_) => table::print(&rows.map(FlowRow).collect::<Vec<_>>(), format),
        None => table::print(steps, format),
    }
    if let (Some(rss), Some(bar)) = (outcome.engine_idle_rss_mib, outcome.engine_idle_rss_bar_mib) {
        cli::out!("engine, idle with one VS: {rss:.1} MiB resident (bar {bar} MiB)");
    }
    let moved: usize = steps.iter().map(|s| s.flows_moved).sum();
    let broken: usize = steps.iter().map(|s| s.flows_broken).sum();
    let dead: usize = steps.iter().filter_map(|s| s.died_with).sum();
    let theirs = match dead {
        0 => String::new(),
        n => format!(" ({n} lived on the SE that died)"),
    };
    cli::out!("{moved} flows moved by the router, {broken} broken by the client's count{theirs}");
    if let Some(w) = &outcome.writes {
        cli::out!(
            "{} writes acknowledged, {} failed, {} lost, {} made twice; longest pause of a writer {:.1} s",
            w.acknowledged,
            w.failed,
            w.lost,
            w.twice,
            w.longest_gap_s
        );
    }
    for violation in &outcome.writes_violations {
        cli::out!("does not hold: {violation}");
    }
    for step in steps {
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
    clients: Option<Clients>,
    /// More connections, of steps that change the load.
    load: Option<Helper>,
    writers: Option<Writers>,
    capture: Option<Helper>,
    watchers: Option<Watchers>,
    /// Of the neighbour entry that is watched where the VIP is scaled natively.
    hops_by_mac: fib::Engines,
    /// SEs by address towards the router.
    engines: BTreeMap<IpAddr, String>,
    engines_by_mac: BTreeMap<String, String>,
    lost: BTreeSet<String>,
    /// Next hops whose link is lost, and those of them that are lost at the switch.
    lost_hops: NextHops,
    silent_losses: NextHops,
    /// SEs that the controller has assigned, as it said last.
    assigned: BTreeSet<String>,
}

/// What an action leaves to be judged at the end of its step.
#[derive(Default)]
struct Done {
    api_to_fib_s: Vec<Option<f64>>,
    called_us: u64,
    /// From the first call to the last.
    calls_took_s: f64,
    /// How long the router had no route, where it was restarted.
    routeless_s: Option<f64>,
    violations: Vec<String>,
}

impl<'a> Runner<'a> {
    fn new(record: &'a mut Record, name: &str, scenario: Scenario) -> Result<Self> {
        let (_, topology) = record.topology()?;
        let control = Control::connect(record)?;
        let service = topology
            .virtual_service
            .as_deref()
            .context("the topology names no virtual service")?;
        let service = control.virtual_service(service)?;
        let engines = topology.engines_on(|segment| scenario.segments.iter().any(|s| s == segment));
        let engines_by_mac = macs(record, &topology, &scenario.segments)?;
        let hops_by_mac = hops_by_mac(&engines_by_mac, &engines, scenario.vip);
        let hops_by_mac = Arc::new(Mutex::new(hops_by_mac));
        let way = match scenario.native {
            Some(_) => fib::Way::Neighbour(Arc::clone(&hops_by_mac)),
            None => fib::Way::Route,
        };
        let fib = Watch::start(&record.namespace(&scenario.router), scenario.vip, way)?;
        Ok(Self {
            record,
            topology,
            scenario,
            name: name.to_owned(),
            control,
            service,
            fib,
            clients: None,
            load: None,
            writers: None,
            capture: None,
            watchers: None,
            hops_by_mac,
            engines,
            engines_by_mac,
            lost: BTreeSet::new(),
            lost_hops: NextHops::new(),
            silent_losses: NextHops::new(),
            assigned: BTreeSet::new(),
        })
    }

    fn run(mut self) -> Result<Outcome> {
        if let Some(mode) = &self.scenario.mode {
            note!("mode {}", mode.name);
        }
        self.go_to_start()?;
        let bar = self.scenario.bars.engine_idle_rss_mib;
        let rss = bar.map(|_| self.idle_rss_mib()).transpose()?;
        self.start_members()?;
        let mut steps = Vec::new();
        for step in self.scenario.steps.clone() {
            let result = self
                .step(&step)
                .with_context(|| format!("step {}", step.name))?;
            tell(&result);
            steps.push(result);
        }
        let writes = self.writers.take().map(Writers::finish).transpose()?;
        let load = self.scenario.writes.as_ref();
        let judged = writes.as_ref().zip(load);
        let writes_violations = judged.map_or_else(Vec::new, |(w, l)| writes::violations(w, l));
        let small = rss.zip(bar).is_none_or(|(rss, bar)| rss < bar as f64);
        let passed =
            small && writes_violations.is_empty() && steps.iter().all(|s| s.violations.is_empty());
        Ok(Outcome {
            scenario: self.name.clone(),
            mode: self.scenario.mode.as_ref().map(|m| m.name.clone()),
            topology: self.record.topology.clone(),
            lab: self.record.id.clone(),
            engine_idle_rss_mib: rss,
            engine_idle_rss_bar_mib: bar,
            events: self.scenario.steps.iter().any(|s| s.action.is_event()),
            wide: self.scenario.steps.iter().any(|s| s.action.is_wide()),
            steps,
            writes,
            writes_violations,
            passed,
        })
    }

    /// Scales out and in until the virtual service is where the steps begin, whatever the lab did before, and waits
    /// until the routes stand.
    fn go_to_start(&mut self) -> Result<()> {
        let placed = self.control.placement(&self.service)?.assigned;
        ensure!(!placed.is_empty(), "the virtual service is placed on no SE");
        if self.scenario.steps.iter().any(|s| s.action.is_wide()) {
            self.set_minimum(1)?;
        }
        let start: BTreeSet<String> = match self.scenario.start.as_slice() {
            [] => BTreeSet::from([placed[0].clone()]),
            named => named.iter().cloned().collect(),
        };
        let placed: BTreeSet<String> = placed.into_iter().collect();
        for name in start.difference(&placed) {
            note!("to the start: scaling out to {name}");
            self.control
                .scale(&self.service, Direction::Out, Some(name))?;
        }
        for name in placed.difference(&start) {
            note!("to the start: scaling in from {name}");
            self.control
                .scale(&self.service, Direction::In, Some(name))?;
        }
        if self.is_native() {
            self.first_connection()?;
        }
        let settled = self.fib.wait(Instant::now(), SETTLE_TIMEOUT, |hops| {
            self.is_settled(hops, &start)
        });
        ensure!(
            settled.is_some(),
            "next hops in the FIB are {:?}, the SEs are {start:?}",
            self.fib.now()
        );
        note!(
            "the virtual service is on {}",
            start.iter().cloned().collect::<Vec<_>>().join(" ")
        );
        self.assigned = start;
        Ok(())
    }

    /// The largest engine that has the virtual service.
    fn idle_rss_mib(&self) -> Result<f64> {
        let placed = self.control.placement(&self.service)?.assigned;
        let members = placed
            .iter()
            .filter_map(|name| self.record.member(name, nodes::ENGINE));
        let largest = members.filter_map(|m| m.identity.rss_bytes()).max();
        let mib = largest.context("no engine to measure")? as f64 / f64::from(1 << 20);
        note!("engine, idle with one VS: {mib:.1} MiB resident");
        Ok(mib)
    }

    fn start_members(&mut self) -> Result<()> {
        let router = self.topology.node(&self.scenario.router)?;
        let links = router
            .links
            .iter()
            .filter(|l| self.scenario.segments.contains(&l.segment));
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
        note!(
            "traffic from {}: {} long-lived connections, {} short ones per second",
            self.scenario.clients().join(" and "),
            load.connections,
            load.short_per_s
        );
        let clients = Clients::start(self.record, &self.topology, &self.scenario)?;
        self.clients = Some(clients);
        if let Some(native) = &self.scenario.native {
            let place = (
                native,
                self.scenario.segments[0].as_str(),
                self.scenario.vip,
            );
            self.watchers = Some(Watchers::start(self.record, &self.topology, place)?);
        }
        if let Some(load) = &self.scenario.writes {
            note!("{} writes per second to the controllers", load.per_s);
            self.writers = Some(Writers::start(self.record, load)?);
        }
        Ok(())
    }

    fn clients(&mut self) -> Result<&mut Clients> {
        self.clients.as_mut().context("no traffic")
    }

    fn capture(&mut self, verb: &str) -> Result<Value> {
        self.capture.as_mut().context("no capture")?.order(verb)
    }

    fn step(&mut self, step: &Step) -> Result<StepResult> {
        note!("step {} …", step.name);
        let fresh = step.fresh || self.scenario.traffic.fresh_each_step;
        self.clients()?
            .order(if fresh { "renew" } else { "reopen" })?;
        self.capture("mark")?;
        let lives = self.clients()?.mark()?;
        self.watchers.as_mut().map_or(Ok(()), Watchers::mark)?;
        let before = match self.is_native() {
            true => self.ask_placement()?,
            false => self.names(&self.fib.now()),
        };
        let ways = self.ways()?;
        let calm = self.calm_before(step)?;
        let began = Instant::now();
        let mut done = self.act(&step.action)?;
        self.await_all_hops()?;
        let took_s = began.elapsed().as_secs_f64();
        self.clients()?.order("share")?;
        let usage = Usage::now(self.record);
        traffic_for(Duration::from_secs(step.observe_s));
        let usage = Usage::now(self.record).since(&usage);
        if let Some(dead) = &step.dies {
            done.violations.extend(self.await_end_of(dead)?);
        }
        let mut seen = self.observe(step, &before)?;
        (seen.took_s, seen.engines_used) = (took_s, usage);
        seen.owners = self.owners(&lives);
        seen.began_us = done.called_us;
        seen.routeless_s = done.routeless_s;
        seen.first_connection_s = self.first_connections(&seen, done.called_us);
        seen.api_to_fib_s = done.api_to_fib_s;
        seen.calls_took_s = done.calls_took_s;
        seen.violations = done.violations;
        seen.parted = matches!(step.action, Action::Part { .. });
        seen.native = self.watchers.as_mut().map(Watchers::report).transpose()?;
        let senders = self.watchers.as_mut().map(Watchers::senders).transpose()?;
        seen.senders = senders.unwrap_or_default();
        seen.violations.extend(self.broken_load()?);
        seen.calm = self.calm_after(calm, began)?;
        let ways_after = self.ways()?;
        seen.packets = ways_after.packets_since(&ways);
        (seen.known_before, seen.known) = (ways.known, ways_after.known);
        Ok(judge(&seen, &self.scenario.bars))
    }

    /// Waits until the router has the route over every link that is there. It is no error when it does not: what was seen at
    /// the end of the step is judged.
    fn await_all_hops(&mut self) -> Result<()> {
        let announcing = &self.ask_placement()? - &self.lost;
        let now = Instant::now();
        self.fib.wait(now, SETTLE_TIMEOUT, |hops| {
            self.is_settled(hops, &announcing)
        });
        Ok(())
    }

    /// The next hops that the router should have now; of a VIP that is scaled natively any one will do.
    fn all_hops(&mut self) -> Result<NextHops> {
        if self.is_native() {
            return Ok(NextHops::new());
        }
        let announcing = &self.ask_placement()? - &self.lost;
        Ok(&self.hops_of(&announcing) - &self.lost_hops)
    }

    /// The next hops that SEs make, each by all of its links.
    fn hops_of(&self, names: &BTreeSet<String>) -> NextHops {
        let of_family = |a: &&IpAddr| a.is_ipv4() == self.scenario.vip.is_ipv4();
        let named = self
            .engines
            .iter()
            .filter(|(_, name)| names.contains(*name));
        named.map(|(a, _)| a).filter(of_family).copied().collect()
    }

    /// What steering has done so far, in a scenario that is about it.
    fn ways(&self) -> Result<Ways> {
        match self.scenario.mode {
            Some(_) => Ways::look(self.record, self.engines_by_mac.values(), self.scenario.vip),
            None => Ok(Ways::default()),
        }
    }

    /// The SE that each flow lives on.
    fn owners(&self, lives: &Lives) -> BTreeMap<u16, String> {
        let name = |engine: &Option<IpAddr>| {
            let owner = engine.and_then(|a| self.topology.owner_of(a));
            owner.unwrap_or_default().to_owned()
        };
        let named = lives.iter().map(|(port, engine)| (*port, name(engine)));
        named.collect()
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
        let report = self.clients()?.report()?;
        let datagrams = self.scenario.traffic.datagrams.clone();
        let flows: BTreeMap<SocketAddr, Flow> =
            serde_json::from_value(self.capture("snapshot")?["flows"].take())?;
        let hops = self.fib.now();
        let fib = self.names(&hops);
        let hops_missing = &self.all_hops()? - &hops;
        let assigned = self.ask_placement()?;
        let now = match (&step.action, self.is_native()) {
            (_, false) => &fib,
            (Action::ScaleOut { .. }, true) => &assigned,
            // Whom the planner takes in place of one that is lost has all the time that a loss takes.
            (_, true) => before,
        };
        Ok(Observation {
            step: step.name.clone(),
            lost: self.lost.clone(),
            new: now.difference(before).cloned().collect(),
            assigned,
            fib,
            hops: hops.len(),
            hops_missing,
            share: self.by_name(&report, |e| e.share),
            connections: self.scenario.traffic.connections,
            datagram_flows: datagrams.as_ref().map_or(0, |d| d.flows),
            flows: flows
                .into_iter()
                .map(|(source, flow)| (source.port(), flow))
                .collect(),
            engines_by_mac: self.engines_by_mac.clone(),
            engines_by_address: self.topology.engines_on(|_| true),
            clients: self.clients()?.nodes.clone(),
            rules: Rules {
                dies: step.dies.clone(),
                moved_min_percent: step.moved_min_percent,
                calls_within_s: step.calls_within_s,
                tunnelled_max: step.tunnelled_max,
                answers_by_primary: step.answers_by_primary,
                engines: step.engines,
                found_by: self.scenario.mode.as_ref().map(|m| m.found_by.clone()),
            },
            report,
            ..Observation::default()
        })
    }

    /// The placement; while the controller is gone on purpose, what it said before.
    fn ask_placement(&mut self) -> Result<BTreeSet<String>> {
        let all = self.topology.nodes.iter();
        let controllers: Vec<_> = all.filter(|n| n.controller.is_some()).collect();
        let gone = |node: &str| {
            let member = self.record.member(node, nodes::CONTROLLER);
            member.is_none_or(|m| !m.identity.is_alive())
        };
        if !controllers.iter().all(|n| gone(&n.name)) {
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
            Action::ScaleTo { engines } => self.scale_to(*engines),
            Action::Signal { .. } => self.signal(action),
            Action::Hangs {
                node,
                gone_within_s,
            } => self.hangs(node, *gone_within_s),
            Action::Start { node } => self.start_again(node),
            Action::Drain { node } => self.drain(node),
            Action::Undrain { node } => self.undrain(node),
            Action::Edit(edit) => self.edit(edit),
            Action::Autoscale {
                load,
                engines,
                within_s,
            } => self.autoscale(*load, *engines, *within_s),
            Action::Leader { fault } => self.leader_fault(*fault),
            Action::Clocks { of, shift_s } => self.set_clocks(*of, *shift_s),
            Action::MemberDies { node } => self.member_dies(node),
            Action::SwitchOver { to } => self.switch_over(to),
            Action::Part {
                nodes,
                segment,
                for_s,
            } => self.part(nodes, segment, *for_s),
            Action::RestartRouter { bgp_alone, signal } => self.restart_router(*bgp_alone, *signal),
            Action::HostDies {
                node,
                gone_within_s,
            } => self.host_dies(node, *gone_within_s),
            Action::HostReturns { node } => self.host_returns(node),
            Action::LinkDown {
                node,
                segment,
                silent,
                gone_within_s,
            } => self.link_down((node.as_str(), segment.as_str()), *silent, *gone_within_s),
            Action::LinkUp { node, segment } => self.link_up(node, segment),
        }
    }

    /// Makes the calls one right after the other, then waits for each one's change of the FIB.
    fn scale(&mut self, direction: Direction, times: usize, named: &[String]) -> Result<Done> {
        let before = self.names(&self.fib.now()).len();
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
        if self.is_native() {
            return Ok(Done {
                called_us,
                violations: self.await_serving().into_iter().collect(),
                ..Done::default()
            });
        }
        let api_to_fib_s = (1..).zip(&called).map(|(count, at)| {
            let reached = self.fib.wait(*at, SETTLE_TIMEOUT, |hops| match direction {
                Direction::Out => self.names(hops).len() >= before + count,
                Direction::In => self.names(hops).len() + count <= before,
            });
            reached.map(|r| (r - *at).as_secs_f64())
        });
        let last = called.last().unwrap_or(first);
        Ok(Done {
            api_to_fib_s: api_to_fib_s.collect(),
            called_us,
            calls_took_s: (*last - *first).as_secs_f64(),
            ..Done::default()
        })
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
        let took = self.await_route(node, since)?;
        note!("  the route of {node} is back after {took:.3} s");
        Some(took)
    }

    /// Seconds from the cause until the router has the route of the SE, or all serve where routers have none.
    fn await_route(&self, node: &str, since: Instant) -> Option<f64> {
        if self.is_native() {
            let serve = self.await_serving().is_none();
            return serve.then(|| since.elapsed().as_secs_f64());
        }
        let there = self
            .fib
            .wait(since, BACK_TIMEOUT, |hops| self.names(hops).contains(node));
        Some((there? - since).as_secs_f64())
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
        "  {verdict}: {} SEs, {} of {} flows moved, {} broken, {} downloads and {}/{} short connections failed",
        result.next_hops.len(),
        result.flows_moved,
        result.flows,
        result.flows_broken,
        result.downloads_failed,
        result.short_failed,
        result.short_ok + result.short_failed
    );
    if let (Some(dead), Some(took_s)) = (result.died_with, result.dead_ended_s) {
        let reasons: Vec<_> = result
            .broken_reasons
            .iter()
            .map(|(w, n)| format!("{n} {w}"))
            .collect();
        note!(
            "  the {dead} flows of the dead SE ended by themselves ({}), the last one after {took_s:.1} s",
            reasons.join(", ")
        );
    }
    for violation in &result.violations {
        note!("  {violation}");
    }
}

/// The wall clock of a moment of the monotonic one.
fn wall_us(at: Instant) -> u64 {
    now_us() - u64::try_from(at.elapsed().as_micros()).unwrap_or(0)
}

/// The next hop that each MAC address stands for.
fn hops_by_mac(
    macs: &BTreeMap<String, String>,
    engines: &BTreeMap<IpAddr, String>,
    vip: IpAddr,
) -> BTreeMap<String, IpAddr> {
    let of = |name: &String| {
        let mut own = engines.iter().filter(|(_, engine)| *engine == name);
        let own = own.find(|(address, _)| address.is_ipv4() == vip.is_ipv4());
        own.map(|(address, _)| *address)
    };
    let pairs = macs.iter();
    pairs
        .filter_map(|(mac, name)| Some((mac.clone(), of(name)?)))
        .collect()
}

/// SEs by the MAC addresses of their interfaces on the segments.
fn macs(
    record: &Record,
    topology: &Topology,
    segments: &[String],
) -> Result<BTreeMap<String, String>> {
    let mut macs = BTreeMap::new();
    for node in topology.nodes.iter().filter(|n| n.engine.is_some()) {
        for link in node.links.iter().filter(|l| segments.contains(&l.segment)) {
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
