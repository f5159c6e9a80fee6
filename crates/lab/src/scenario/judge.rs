//! From what was observed in a step to a row of the table and to what did not hold. Pure: tests need no lab.

use super::{Bars, Way};
use crate::member::senders::Packets;
use crate::member::traffic::{Failure, Report};
use crate::member::watcher::Seen;
use crate::router::Session;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

mod resiliency;

pub use resiliency::{Client, Found, Known, Rules};

/// A flow as the capture reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Flow {
    /// Next hop (MAC address) at the beginning of the step.
    pub from: String,
    /// Next hop of its last packet.
    pub to: String,
    /// How often it changed.
    pub moves: u32,
}

/// What the traffic's router says of itself around a step that it must not notice.
#[derive(Debug, Clone, Default)]
pub struct Calm {
    /// Its sessions when the step began.
    pub before: Vec<Session>,
    /// Its sessions at the end.
    pub after: Vec<Session>,
    /// How often its route to the VIP changed in between.
    pub route_changes: usize,
}

impl Calm {
    /// Sessions that are the same connection as before, established and not one time more often.
    fn kept(&self) -> usize {
        let same = |s: &&Session| s.is_established() && self.after.contains(s);
        self.before.iter().filter(same).count()
    }
}

/// What the engines' processes use while a step is observed; those that have no virtual service too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Used {
    /// Resident memory of one, MiB.
    pub rss_mib_median: f64,
    /// Of the largest.
    pub rss_mib_max: f64,
    /// The kernel's memory for the steering programs and maps of one, MiB; of the largest.
    pub bpf_mib_max: f64,
    /// Time on a core per time, of one: 1 is a whole core.
    pub cores_median: f64,
    /// Of the busiest.
    pub cores_max: f64,
}

impl Used {
    /// From those of each engine.
    pub fn of(mut rss_mib: Vec<f64>, bpf_mib: Vec<f64>, mut cores: Vec<f64>) -> Self {
        rss_mib.sort_by(f64::total_cmp);
        cores.sort_by(f64::total_cmp);
        let median = |sorted: &[f64]| sorted.get(sorted.len() / 2).copied();
        Self {
            rss_mib_median: median(&rss_mib).unwrap_or_default(),
            rss_mib_max: rss_mib.last().copied().unwrap_or_default(),
            bpf_mib_max: largest(bpf_mib.into_iter()).unwrap_or_default(),
            cores_median: median(&cores).unwrap_or_default(),
            cores_max: cores.last().copied().unwrap_or_default(),
        }
    }
}

/// Everything seen in a step.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    /// The step's name.
    pub step: String,
    /// SEs that the controller has assigned.
    pub assigned: BTreeSet<String>,
    /// SEs that announce nothing on purpose: a fault has taken them away, or they drain.
    pub lost: BTreeSet<String>,
    /// SEs in the router's kernel FIB at the end.
    pub fib: BTreeSet<String>,
    /// Next hops there.
    pub hops: usize,
    /// Next hops that should be there and are not: links of SEs that announce.
    pub hops_missing: BTreeSet<IpAddr>,
    /// SEs that were not in the FIB before the step.
    pub new: BTreeSet<String>,
    /// Seconds from each call to its change of the FIB; `None`: it did not happen.
    pub api_to_fib_s: Vec<Option<f64>>,
    /// Seconds from the first call to the first connection over each new SE.
    pub first_connection_s: BTreeMap<String, f64>,
    /// New connections by SE, after the FIB had settled.
    pub share: BTreeMap<String, u64>,
    /// Long-lived connections there should be.
    pub connections: usize,
    /// UDP flows there should be.
    pub datagram_flows: usize,
    /// Those that lived when the step began, by source port: the SE that each lived on.
    pub owners: BTreeMap<u16, String>,
    /// Flows by source port.
    pub flows: BTreeMap<u16, Flow>,
    /// SE by MAC address.
    pub engines_by_mac: BTreeMap<String, String>,
    /// SE by the address that servers see.
    pub engines_by_address: BTreeMap<IpAddr, String>,
    /// Where the flows come from.
    pub clients: Vec<Client>,
    /// Owners that the SEs had found by asking when the step began.
    pub known_before: Known,
    /// And at its end.
    pub known: Known,
    /// Packets by verdict in this step, of all SEs.
    pub packets: BTreeMap<String, u64>,
    /// When the step's action began, wall clock in microseconds.
    pub began_us: u64,
    /// How long the router had no route, where it was restarted.
    pub routeless_s: Option<f64>,
    /// Seconds until the step was done and the routes were what they should be.
    pub took_s: f64,
    /// What the engines used then.
    pub engines_used: Used,
    /// Seconds from the first call to the last.
    pub calls_took_s: f64,
    /// What the step demands of its own.
    pub rules: Rules,
    /// The client's own counts.
    pub report: Report,
    /// Where the VIP is scaled natively, by watcher: who answered for it.
    pub native: Option<Vec<(String, Seen)>>,
    /// Packets from it that clients and routers there saw, by MAC address.
    pub senders: Packets,
    /// The engines' link had fallen in two, and became one again.
    pub parted: bool,
    /// Of a step that must not be noticed.
    pub calm: Option<Calm>,
    /// What else did not hold, found while the step ran.
    pub violations: Vec<String>,
}

/// A row of the result.
#[derive(Debug, Clone, Serialize)]
pub struct StepResult {
    /// The step's name.
    pub step: String,
    /// SEs that announce: assigned by the controller and not lost.
    pub engines: Vec<String>,
    /// SEs that are next hops in the router's kernel.
    pub next_hops: Vec<String>,
    /// Next hops there: links of those SEs.
    pub hops: usize,
    /// Share of new connections by SE, 0 to 1.
    pub share: BTreeMap<String, f64>,
    /// The slowest call's seconds from the API to the FIB.
    pub api_to_fib_s: Option<f64>,
    /// The slowest new SE's seconds from the first API call to its first connection.
    pub first_connection_s: Option<f64>,
    /// Long-lived flows at the beginning.
    pub flows: usize,
    /// Those that the router really sent to another next hop.
    pub flows_moved: usize,
    /// How the owners of those were found.
    pub found: Found,
    /// Packets by verdict, of all SEs.
    pub packets: BTreeMap<String, u64>,
    /// Those that went from SE to SE in a tunnel because the owner was known.
    pub tunnelled: u64,
    /// Those that broke, by the client's check.
    pub flows_broken: usize,
    /// Flows of the SE that died, where one did.
    pub died_with: Option<usize>,
    /// Seconds until the last of them had ended.
    pub dead_ended_s: Option<f64>,
    /// Seconds that the router had no route, where it was restarted.
    pub routeless_s: Option<f64>,
    /// Downloads that came whole and right.
    pub downloads_ok: u64,
    /// Downloads under way whose packets the router sent to another next hop.
    pub downloads_moved: usize,
    /// Downloads that failed.
    pub downloads_failed: usize,
    /// Uploads of which the server got every byte.
    pub uploads_ok: u64,
    /// Uploads under way whose packets the router sent to another next hop.
    pub uploads_moved: usize,
    /// Uploads that failed.
    pub uploads_failed: usize,
    /// UDP flows at the end of the step.
    pub datagram_flows: usize,
    /// UDP flows that broke.
    pub datagrams_broken: usize,
    /// Why they broke.
    pub broken_reasons: BTreeMap<String, usize>,
    /// Messages exchanged on long-lived flows.
    pub exchanges: u64,
    /// Short connections that did all they should.
    pub short_ok: u64,
    /// Short connections that failed.
    pub short_failed: u64,
    /// Longest time that a flow waited for an answer or for more of a download.
    pub longest_gap_ms: u64,
    /// Seconds until the step was done and the routes were what they should be.
    pub took_s: f64,
    /// What the engines used while it was observed.
    pub engines_used: Used,
    /// Sessions of the traffic's router that the step left alone; of a step that may touch them, nothing.
    pub sessions_kept: Option<usize>,
    /// Longest time in which a watcher saw nobody answer for a VIP that is scaled natively.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vip_silent_ms: Option<u64>,
    /// Questions who has it that two engines answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vip_answered_twice: Option<u64>,
    /// Packets from such a VIP, by SE.
    #[serde(skip_serializing_if = "Packets::is_empty")]
    pub vip_senders: Packets,
    /// What did not hold; empty is good.
    pub violations: Vec<String>,
}

/// Judges a step.
pub fn judge(seen: &Observation, bars: &Bars) -> StepResult {
    let mut result = measure(seen);
    result.violations.extend(route_violations(seen, bars));
    result.violations.extend(answer_violations(seen, bars));
    result.violations.extend(sender_violations(seen));
    result
        .violations
        .extend(flow_violations(seen, bars.none_breaks));
    result.violations.extend(disturbances(seen, &result));
    let of_step = resiliency::violations(seen, &result);
    result.violations.extend(of_step);
    result
}

fn measure(seen: &Observation) -> StepResult {
    let total: u64 = seen.share.values().sum();
    let part = |count: u64| {
        if total == 0 {
            0.0
        } else {
            count as f64 / total as f64
        }
    };
    let mut broken_reasons = BTreeMap::new();
    for failure in &seen.report.broken {
        *broken_reasons.entry(failure.reason.clone()).or_default() += 1;
    }
    StepResult {
        step: seen.step.clone(),
        engines: seen.assigned.difference(&seen.lost).cloned().collect(),
        next_hops: seen.fib.iter().cloned().collect(),
        hops: seen.hops,
        share: seen
            .share
            .iter()
            .map(|(name, count)| (name.clone(), part(*count)))
            .collect(),
        api_to_fib_s: largest(seen.api_to_fib_s.iter().copied().flatten()),
        first_connection_s: largest(seen.first_connection_s.values().copied()),
        flows: seen.owners.len(),
        flows_moved: seen.moved(seen.owners.keys()),
        found: resiliency::found(seen),
        packets: seen.packets.clone(),
        tunnelled: resiliency::tunnelled(seen),
        flows_broken: seen.report.broken.len(),
        died_with: resiliency::died_with(seen).map(|flows| flows.len()),
        dead_ended_s: resiliency::dead_ended_s(seen),
        routeless_s: seen.routeless_s,
        downloads_ok: seen.report.downloads_ok,
        downloads_moved: seen.moved(&seen.report.download_ports),
        downloads_failed: seen.report.downloads_failed.len(),
        uploads_ok: seen.report.uploads_ok,
        uploads_moved: seen.moved(&seen.report.upload_ports),
        uploads_failed: seen.report.uploads_failed.len(),
        datagram_flows: seen.report.datagram_flows,
        datagrams_broken: seen.report.datagrams_broken.len(),
        broken_reasons,
        exchanges: seen.report.exchanges,
        short_ok: seen.report.short_ok,
        short_failed: seen.report.short_failed,
        longest_gap_ms: seen.report.longest_gap_ms,
        took_s: seen.took_s,
        engines_used: seen.engines_used,
        sessions_kept: seen.calm.as_ref().map(Calm::kept),
        vip_silent_ms: of_watchers(seen, |s| s.longest_silence_ms),
        vip_answered_twice: of_watchers(seen, |s| s.answered_twice),
        vip_senders: seen.senders_by_name(),
        violations: seen.violations.clone(),
    }
}

/// The worst of what watchers saw.
fn of_watchers(seen: &Observation, number: impl Fn(&Seen) -> u64) -> Option<u64> {
    let watchers = seen.native.as_ref()?;
    watchers.iter().map(|(_, s)| number(s)).max()
}

impl Observation {
    /// The SE with this MAC address; what has another one is named by it.
    fn name(&self, mac: &String) -> String {
        self.engines_by_mac.get(mac).unwrap_or(mac).clone()
    }

    fn senders_by_name(&self) -> Packets {
        let senders = self.senders.iter();
        senders.map(|(mac, n)| (self.name(mac), *n)).collect()
    }

    /// How many of these the router sent to another next hop.
    fn moved<'a>(&self, ports: impl IntoIterator<Item = &'a u16>) -> usize {
        let moved = |port: &&u16| self.flows.get(port).is_some_and(|f| f.moves > 0);
        ports.into_iter().filter(moved).count()
    }
}

fn largest(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.reduce(f64::max)
}

fn route_violations(seen: &Observation, bars: &Bars) -> Vec<String> {
    let mut violations = Vec::new();
    let expected: BTreeSet<_> = seen.assigned.difference(&seen.lost).cloned().collect();
    let as_expected = match seen.native {
        Some(_) => seen.fib.len() == 1 && seen.fib.is_subset(&expected),
        None => seen.fib == expected,
    };
    if !as_expected {
        violations.push(format!(
            "next hops in the FIB are {}, the SEs are {}",
            set(&seen.fib),
            set(&expected)
        ));
    }
    if expected == seen.fib && !seen.hops_missing.is_empty() {
        let missing: Vec<_> = seen.hops_missing.iter().map(IpAddr::to_string).collect();
        violations.push(format!("the FIB has no next hop {}", missing.join(", ")));
    }
    for (index, took) in seen.api_to_fib_s.iter().enumerate() {
        match took {
            None => violations.push(format!("call {} never reached the FIB", index + 1)),
            Some(s) if *s >= bars.fib_s => {
                violations.push(format!(
                    "call {} reached the FIB after {s:.3} s, the bar is {} s",
                    index + 1,
                    bars.fib_s
                ));
            }
            Some(_) => (),
        }
    }
    for name in &seen.new {
        match seen.first_connection_s.get(name) {
            None => violations.push(format!("no connection went over the new {name}")),
            Some(s) if *s >= bars.first_connection_s => {
                violations.push(format!(
                    "the first connection over {name} came after {s:.3} s, the bar is {} s",
                    bars.first_connection_s
                ));
            }
            Some(_) => (),
        }
    }
    let serving = match seen.native {
        Some(_) => &expected,
        None => &seen.fib,
    };
    let idle = serving
        .iter()
        .filter(|name| seen.share.get(*name).is_none_or(|s| *s == 0));
    violations.extend(
        idle.map(|name| format!("no new connection went over {name} once the routes had settled")),
    );
    violations
}

/// Questions that two may answer when a link that had fallen in two is one again: until they have heard each other.
const TWICE_WHEN_HEALED: u64 = 10;

/// Who answers for a VIP that is scaled natively: never two, and never nobody for long.
fn answer_violations(seen: &Observation, bars: &Bars) -> Vec<String> {
    let mut violations = Vec::new();
    let twice_max = if seen.parted { TWICE_WHEN_HEALED } else { 0 };
    for (name, seen) in seen.native.iter().flatten() {
        let silent_s = seen.longest_silence_ms as f64 / 1e3;
        if silent_s >= bars.silent_s {
            violations.push(format!(
                "{name} saw nobody answer for the VIP for {silent_s:.3} s, the bar is {} s",
                bars.silent_s
            ));
        }
        if seen.answered_twice > twice_max {
            violations.push(format!(
                "{name} saw {} of {} questions answered by two engines",
                seen.answered_twice, seen.asked
            ));
        }
    }
    violations
}

/// Where answers go through the primary, nobody else sends from the VIP on its link; one that dies may have been it.
fn sender_violations(seen: &Observation) -> Vec<String> {
    if !seen.rules.answers_by_primary {
        return Vec::new();
    }
    let answers = seen.native.iter().flatten();
    let answers = answers.flat_map(|(_, s)| s.answers.keys());
    let mut primaries: BTreeSet<String> = answers.map(|mac| seen.name(mac)).collect();
    primaries.extend(seen.rules.dies.clone());
    let senders = seen.senders_by_name();
    if !senders.is_empty() && senders.keys().all(|name| primaries.contains(name)) {
        return Vec::new();
    }
    let answered = set(&primaries);
    vec![format!(
        "packets from the VIP came from {senders:?}, and {answered} answered for it"
    )]
}

fn set(names: &BTreeSet<String>) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.iter().cloned().collect::<Vec<_>>().join(" ")
    }
}

fn flow_violations(seen: &Observation, none_breaks: bool) -> Vec<String> {
    let mut violations = Vec::new();
    if seen.owners.len() != seen.connections {
        violations.push(format!(
            "the step began with {} long-lived connections instead of {}",
            seen.owners.len(),
            seen.connections
        ));
    }
    let udp = seen.report.datagram_flows + seen.report.datagrams_broken.len();
    if udp < seen.datagram_flows {
        let wanted = seen.datagram_flows;
        violations.push(format!("there were {udp} UDP flows instead of {wanted}"));
    }
    if seen.report.exchanges == 0 && seen.connections > 0 {
        violations.push("no message was exchanged".to_owned());
    }
    for (kind, failures) in [
        ("flow", &seen.report.broken),
        ("download", &seen.report.downloads_failed),
        ("upload", &seen.report.uploads_failed),
        ("UDP flow", &seen.report.datagrams_broken),
        ("short connection", &seen.report.short_failures),
    ] {
        let why = if none_breaks {
            "and none may"
        } else {
            "although the router moved nothing"
        };
        let excused = |f: &&Failure| match none_breaks {
            true => resiliency::is_of_the_dead(seen, f) || resiliency::has_no_route(seen, f),
            false => is_explained(seen, f),
        };
        let unexplained: Vec<_> = failures.iter().filter(|f| !excused(f)).collect();
        if !unexplained.is_empty() {
            violations.push(format!(
                "{} {kind}(s) failed {why}: {}",
                unexplained.len(),
                resiliency::names(seen, &unexplained)
            ));
        }
    }
    violations
}

/// What a step disturbed that should have disturbed nothing.
fn disturbances(seen: &Observation, result: &StepResult) -> Vec<String> {
    let Some(calm) = &seen.calm else {
        return Vec::new();
    };
    let counts = [
        (result.flows_moved as u64, "flow(s) moved"),
        (result.flows_broken as u64, "flow(s) broke"),
        (result.short_failed, "short connection(s) failed"),
        (calm.route_changes as u64, "time(s) the route changed"),
    ];
    let mut violations: Vec<_> = counts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what} in a step that nothing should notice"))
        .collect();
    if calm.before.is_empty() || calm.before != calm.after || calm.kept() != calm.before.len() {
        let (before, after) = (&calm.before, &calm.after);
        violations.push(format!(
            "the router's sessions were {before:?} and are {after:?}"
        ));
    }
    violations
}

/// Where an engine dies a flow may break for one reason: its packets no longer reach the SE that has it,
/// because the router sent them elsewhere or because the SE left.
fn is_explained(seen: &Observation, failure: &Failure) -> bool {
    let Some(flow) = seen.flows.get(&failure.port) else {
        return false;
    };
    let engine = seen.engines_by_mac.get(&flow.to);
    flow.moves > 0 || engine.is_none_or(|name| !seen.fib.contains(name))
}

#[cfg(test)]
mod tests;
