//! What is demanded of flows that the router moves: how their owners were found, and which may break.

use super::{Failure, Flow, Observation, StepResult, Way};
use crate::member::traffic::UNREACHABLE;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;

/// Flows that a violation names; of more it says how many.
const NAMED_MAX: usize = 8;
/// Of flows with hints so many in a hundred may be asked for all the same: those that share a no-hint bit with a flow whose
/// hint was wrong, such as one of an SE that died.
const STRAY_PERCENT: usize = 5;
/// With fewer flows away from their owner it may be that none of them is of one kind of clients.
const AWAY_MIN: usize = 20;
/// The verdict of a packet whose owner the client's timestamp named.
const BY_HINT: &str = "tunnel_hint";

/// By SE the source ports of flows whose owner it has found by asking.
pub type Known = BTreeMap<String, BTreeSet<u16>>;

/// A node that flows come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its address.
    pub address: IpAddr,
    /// Its source ports; no other client has them.
    pub ports: Range<u16>,
    /// Its connections have timestamps, in which an SE can name itself.
    pub timestamps: bool,
}

/// What a step demands beside what all do.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The SE that dies: exactly its flows break.
    pub dies: Option<String>,
    /// The router must have moved at least this share.
    pub moved_min_percent: usize,
    /// The calls must have been made within this time.
    pub calls_within_s: Option<f64>,
    /// SEs may have sent at most so many packets to each other.
    pub tunnelled_max: Option<u64>,
    /// Only who answers for the VIP may send from it.
    pub answers_by_primary: bool,
    /// The router must have the route by so many SEs at the end.
    pub engines: Option<usize>,
    /// How owners must be found, and not otherwise; `None`: in whatever way.
    pub found_by: Option<Vec<Way>>,
}

/// Where moved flows that live ended, and how their owner was found there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// At their owner.
    pub home: usize,
    /// The client's timestamp named it.
    pub hint: usize,
    /// It had been asked for in an earlier step.
    pub cache: usize,
    /// It was asked for in this one.
    pub probe: usize,
}

/// Of the flows that the router moved and that live, where they ended.
pub(super) fn found(seen: &Observation) -> Found {
    let mut found = Found::default();
    let broken = broken(seen);
    let moved = seen.owners.iter().filter_map(|(port, owner)| {
        let flow = seen.flows.get(port).filter(|f| f.moves > 0)?;
        (!broken.contains(port)).then_some((port, owner, flow))
    });
    for (port, owner, flow) in moved {
        *place(seen, &mut found, *port, owner, flow) += 1;
    }
    found
}

/// An SE looks at the hint before it looks at what it knows: only clients without timestamps are found in the cache.
fn place<'a>(
    seen: &Observation,
    found: &'a mut Found,
    port: u16,
    owner: &str,
    flow: &Flow,
) -> &'a mut usize {
    let here = seen.engines_by_mac.get(&flow.to);
    if here.is_some_and(|se| se == owner) {
        return &mut found.home;
    }
    let knew = |known: &Known| {
        let ports = here.and_then(|se| known.get(se));
        ports.is_some_and(|p| p.contains(&port))
    };
    let hinted = client(seen, port).is_some_and(|c| c.timestamps);
    match (knew(&seen.known_before), knew(&seen.known)) {
        (false, true) => &mut found.probe,
        _ if hinted => &mut found.hint,
        (true, _) => &mut found.cache,
        (false, false) => &mut found.probe,
    }
}

fn client(seen: &Observation, port: u16) -> Option<&Client> {
    seen.clients.iter().find(|c| c.ports.contains(&port))
}

/// What does not hold of the step's own demands.
pub(super) fn violations(seen: &Observation, result: &StepResult) -> Vec<String> {
    let mut violations = Vec::new();
    let rules = &seen.rules;
    let moved = sent_elsewhere(seen);
    if moved * 100 < rules.moved_min_percent * result.flows {
        violations.push(format!(
            "invalid: the router moved {moved} of {} flows, and a step that moves less than {} % proves nothing",
            result.flows, rules.moved_min_percent
        ));
    }
    if let Some(engines) = rules.engines.filter(|n| *n != result.next_hops.len()) {
        violations.push(format!(
            "the step ends on {} SEs, and {engines} are what its load needs",
            result.next_hops.len()
        ));
    }
    if let Some(within_s) = rules.calls_within_s
        && seen.calls_took_s >= within_s
    {
        violations.push(format!(
            "invalid: the calls took {:.3} s, and belong within {within_s} s",
            seen.calls_took_s
        ));
    }
    if let Some(most) = rules.tunnelled_max
        && result.tunnelled > most
    {
        violations.push(format!(
            "{} packet(s) went from SE to SE, at most {most} may",
            result.tunnelled
        ));
    }
    violations.extend(living_of_the_dead(seen));
    violations.extend(wrong_ways(seen, &result.found));
    violations
}

/// Flows that the router moved. Those of an SE that dies are among them, although many of their clients hear of its
/// end from its kernel and send nothing more that could be seen at another SE.
fn sent_elsewhere(seen: &Observation) -> usize {
    let dead = died_with(seen).unwrap_or_default();
    let elsewhere = |port: &&u16| seen.moved([*port]) > 0 || dead.contains(port);
    seen.owners.keys().filter(elsewhere).count()
}

/// Ports of the flows that the SE had which dies in the step.
pub(super) fn died_with(seen: &Observation) -> Option<BTreeSet<u16>> {
    let dead = seen.rules.dies.as_ref()?;
    let its = seen.owners.iter().filter(|(_, owner)| *owner == dead);
    Some(its.map(|(port, _)| *port).collect())
}

fn living_of_the_dead(seen: &Observation) -> Option<String> {
    let flows = died_with(seen)?;
    let dead = seen.rules.dies.as_ref()?;
    if flows.is_empty() {
        return Some(format!("invalid: {dead} had no flow when it died"));
    }
    let living = flows.difference(&broken(seen)).count();
    (living > 0).then(|| format!("{living} flow(s) of {dead} go on, although it is dead"))
}

fn broken(seen: &Observation) -> BTreeSet<u16> {
    seen.report.broken.iter().map(|f| f.port).collect()
}

/// Verdicts of packets that leave for another SE in a tunnel.
const TUNNEL: &str = "tunnel_";

/// Packets that SEs have sent to each other because they knew the owner.
pub(super) fn tunnelled(seen: &Observation) -> u64 {
    let tunnelled = seen.packets.iter().filter(|(v, _)| v.starts_with(TUNNEL));
    tunnelled.map(|(_, count)| count).sum()
}

/// True for a flow of the SE that dies in this step: where the client knows no SE yet, the router had sent it there at first
/// or at last.
pub(super) fn is_of_the_dead(seen: &Observation, failure: &Failure) -> bool {
    let Some(dead) = &seen.rules.dies else {
        return false;
    };
    if let Some(home) = known_home(seen, failure) {
        return home == dead;
    }
    let flow = seen.flows.get(&failure.port);
    let at_dead = |mac: &String| seen.engines_by_mac.get(mac) == Some(dead);
    flow.is_some_and(|f| at_dead(&f.from) || at_dead(&f.to))
}

/// True for what cannot begin while the router has no route, and says so. What lives hears that too, and goes on.
pub(super) fn has_no_route(seen: &Observation, failure: &Failure) -> bool {
    let began = known_home(seen, failure).is_some();
    seen.routeless_s.is_some() && failure.reason == UNREACHABLE && !began
}

/// Seconds until the last flow of the SE that died had ended, as its client saw it.
pub(super) fn dead_ended_s(seen: &Observation) -> Option<f64> {
    let dead = died_with(seen)?;
    let its = seen.report.broken.iter().filter(|f| dead.contains(&f.port));
    let last_us = its.map(|f| f.t_us).max()?;
    Some(last_us.saturating_sub(seen.began_us) as f64 / 1e6)
}

/// The SE that a failed flow lived on, if its client had heard of it.
fn known_home<'a>(seen: &'a Observation, failure: &Failure) -> Option<&'a String> {
    let named = failure.engine.and_then(|a| seen.engines_by_address.get(&a));
    named.or_else(|| seen.owners.get(&failure.port))
}

/// The same, or where the router sent it last.
fn home<'a>(seen: &'a Observation, failure: &Failure) -> Option<&'a String> {
    known_home(seen, failure).or_else(|| {
        let flow = seen.flows.get(&failure.port)?;
        seen.engines_by_mac.get(&flow.to)
    })
}

/// Names failed flows, and where they lived.
pub(super) fn names(seen: &Observation, failures: &[&Failure]) -> String {
    let name = |failure: &&Failure| {
        let client = client(seen, failure.port).map_or_else(String::new, |c| c.address.to_string());
        let home = home(seen, failure).map_or("an unknown SE", String::as_str);
        let (port, reason) = (failure.port, &failure.reason);
        format!("{client}:{port} on {home} ({reason})")
    };
    let mut named: Vec<_> = failures.iter().take(NAMED_MAX).map(name).collect();
    if failures.len() > NAMED_MAX {
        named.push(format!("and {} more", failures.len() - NAMED_MAX));
    }
    named.join(", ")
}

/// A mode in which owners are found in another way than it is about proves nothing.
fn wrong_ways(seen: &Observation, found: &Found) -> Vec<String> {
    let Some(ways) = &seen.rules.found_by else {
        return Vec::new();
    };
    let hinted_packets = seen.packets.get(BY_HINT).copied().unwrap_or_default();
    let mut violations = Vec::new();
    let asked_for = found.cache + found.probe;
    let away = found.hint + asked_for;
    let strays_max = away * STRAY_PERCENT / 100;
    for (way, word, flows, most) in [
        (Way::Hint, "hint", found.hint, 0),
        (Way::Probe, "probe", asked_for, strays_max),
    ] {
        let must = ways.contains(&way) && away >= AWAY_MIN;
        if must && flows == 0 {
            violations.push(format!("invalid: no owner was found by {word}"));
        }
        if !ways.contains(&way) && flows > most {
            violations.push(format!(
                "{flows} owner(s) were found by {word}, at most {most} may be"
            ));
        }
    }
    if !ways.contains(&Way::Hint) && hinted_packets > 0 {
        violations.push(format!("{hinted_packets} packet(s) were sent by hint"));
    }
    violations
}
