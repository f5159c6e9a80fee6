//! Which engine is next, and which goes.

use crate::unfit::unfit_on;
use crate::vip_link::links;
use crate::{Algorithm, Demand, Enabled, Engine, NATIVE_MAX, Presence, Unfit, holder, unfit};
use std::collections::{BTreeMap, BTreeSet};

/// The chosen engine and why it was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// uuid of the engine.
    pub engine: String,
    /// Its name.
    pub name: String,
    /// A sentence.
    pub reason: String,
    /// The others that do not hold the VIP, and why not.
    pub rejected: Vec<(String, Unfit)>,
}

/// Why there is no choice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// At `max_scaleout_per_vs`.
    #[error(
        "the virtual service is on {assigned} service engines already, the maximum (max_scaleout_per_vs of its SE group; 2 with HA_MODE_LEGACY_ACTIVE_STANDBY) is {max}; raise it to scale out further"
    )]
    AtMaximum {
        /// Engines now.
        assigned: usize,
        /// The limit.
        max: usize,
    },
    /// At [`NATIVE_MAX`].
    #[error(
        "the virtual service is on {0} service engines already: native scaling has a primary and 4 others at most; set enable_rhi, with a bgp_profile in its VRF context, to scale out further by BGP"
    )]
    AtNativeMaximum(
        /// Engines now.
        usize,
    ),
    /// At `min_scaleout_per_vs`.
    #[error(
        "the virtual service is on {assigned} service engines, the minimum (min_scaleout_per_vs of its SE group; 2 with an ha_mode of pairs) is {min}; disable the virtual service to take it off the last ones"
    )]
    AtMinimum {
        /// Engines now.
        assigned: usize,
        /// The limit.
        min: usize,
    },
    /// No engine fits.
    #[error("no service engine can take the virtual service: {}", list(.0))]
    NoEngine(Vec<(String, Unfit)>),
    /// The engine that was asked for does not fit.
    #[error("{name} cannot take the virtual service: {why}")]
    UnfitEngine {
        /// The engine.
        name: String,
        /// Why not.
        why: Unfit,
    },
    /// The engine that was asked for is not known.
    #[error("there is no service engine {0:?}")]
    UnknownEngine(String),
    /// No engine holds the VIP.
    #[error("the virtual service is placed on no service engine")]
    NotPlaced,
    /// There is no standby to switch over to.
    #[error(
        "there is no other one to switch over to: switchover is for SE groups with ha_mode HA_MODE_LEGACY_ACTIVE_STANDBY, and for virtual services that are scaled natively (without enable_rhi), once they are on two service engines; migrate moves them elsewhere"
    )]
    NoStandby,
    /// The engine that was asked for is active.
    #[error("{0} is the active service engine already")]
    ActiveAlready(String),
    /// The engine that was asked for does not hold the VIP.
    #[error("the virtual service is not placed on {0}")]
    NotPlacedThere(String),
}

fn list(rejected: &[(String, Unfit)]) -> String {
    if rejected.is_empty() {
        return "there is none; start one with a join token".into();
    }
    let each = rejected.iter().map(|(name, why)| format!("{name}: {why}"));
    each.collect::<Vec<_>>().join("; ")
}

/// The next engine for the VIP.
///
/// # Errors
/// At the maximum, or no engine fits (each with its reason), or the engine asked for does not.
pub fn scale_out(
    demand: &Demand,
    engines: &[Engine],
    assigned: &[String],
    wanted: Option<&str>,
) -> Result<Choice, PlanError> {
    if assigned.len() >= demand.most() {
        let (assigned, max) = (assigned.len(), demand.most());
        return Err(match max == NATIVE_MAX && !demand.native.is_empty() {
            true => PlanError::AtNativeMaximum(assigned),
            false => PlanError::AtMaximum { assigned, max },
        });
    }
    next(demand, engines, assigned, wanted)
}

/// The same however many the VIP has.
pub(crate) fn next(
    demand: &Demand,
    engines: &[Engine],
    assigned: &[String],
    wanted: Option<&str>,
) -> Result<Choice, PlanError> {
    match wanted {
        Some(uuid) => scale_out_to(demand, engines, assigned, uuid),
        None => scale_out_to_best(demand, engines, assigned),
    }
}

fn scale_out_to(
    demand: &Demand,
    engines: &[Engine],
    assigned: &[String],
    uuid: &str,
) -> Result<Choice, PlanError> {
    let found = engines.iter().find(|e| e.uuid == uuid || e.name == uuid);
    let engine = found.ok_or_else(|| PlanError::UnknownEngine(uuid.to_owned()))?;
    if let Some(why) = unfit(demand, engine, engines, assigned) {
        let name = engine.name.clone();
        return Err(PlanError::UnfitEngine { name, why });
    }
    Ok(Choice {
        engine: engine.uuid.clone(),
        name: engine.name.clone(),
        reason: format!("{} was asked for and can take it", engine.name),
        rejected: Vec::new(),
    })
}

fn scale_out_to_best(
    demand: &Demand,
    engines: &[Engine],
    assigned: &[String],
) -> Result<Choice, PlanError> {
    let mut fit = Vec::new();
    let mut rejected = Vec::new();
    let links = links(demand, engines);
    for engine in engines {
        match unfit_on(demand, engine, engines, assigned, &links) {
            None => fit.push(engine),
            Some(Unfit::AlreadyPlaced) => {}
            Some(why) => rejected.push((engine.name.clone(), why)),
        }
    }
    rejected.sort_by_key(|(name, _)| natural(name));
    let hosts = hosts(demand, engines, assigned);
    let rank = |e: &Engine| {
        (
            hosts.contains(&e.host.as_str()),
            e.presence == Presence::Back,
            load_rank(demand.algorithm, e),
        )
    };
    // Names are compared of those alone that are alike otherwise.
    let first = fit.iter().map(|e| rank(e)).min();
    let alike = fit.iter().filter(|e| Some(rank(e)) == first);
    let Some(best) = alike.min_by_key(|e| (natural(&e.name), &e.uuid)) else {
        return Err(PlanError::NoEngine(rejected));
    };
    let mut reason = why_best(demand, best, fit.len());
    if hosts.contains(&best.host.as_str()) {
        reason += "; its host has the VIP already (vs_host_redundancy): no other host's engine can take it";
    }
    if best.presence == Presence::Back {
        reason += "; it has come back just now, and none that has been here longer can take it";
    }
    Ok(Choice {
        engine: best.uuid.clone(),
        name: best.name.clone(),
        reason,
        rejected,
    })
}

/// Those that have the VIP already and should not have it twice. Where all engines are on one host nothing can be done.
fn hosts<'a>(demand: &Demand, engines: &'a [Engine], assigned: &[String]) -> Vec<&'a str> {
    let known = |e: &&Engine| demand.host_redundancy && !e.host.is_empty();
    let all: BTreeSet<&str> = engines.iter().filter(known).map(|e| &*e.host).collect();
    if all.len() < 2 {
        return Vec::new();
    }
    let here = engines.iter().filter(|e| assigned.contains(&e.uuid));
    here.filter(known).map(|e| &*e.host).collect()
}

fn load_rank(algorithm: Algorithm, engine: &Engine) -> i64 {
    match algorithm {
        Algorithm::Packed => -i64::from(engine.placed),
        Algorithm::Distributed => i64::from(engine.placed),
    }
}

fn why_best(demand: &Demand, best: &Engine, candidates: usize) -> String {
    let (name, placed) = (&best.name, best.placed);
    if candidates == 1 {
        return format!("{name} is the only one that can take it");
    }
    let rule = match demand.algorithm {
        Algorithm::Packed => "PLACEMENT_ALGO_PACKED: the fullest with room, then by name",
        Algorithm::Distributed => "PLACEMENT_ALGO_DISTRIBUTED: the emptiest, then by name",
    };
    format!("{name} comes first of {candidates} that can take it, with {placed} VIPs ({rule})")
}

/// The engines the VIP needs beyond those it has, up to its minimum: none when it has enough.
///
/// Engines that are away keep their place; they count as assigned.
///
/// # Errors
/// Fewer engines fit than are needed; what was chosen until then is in the first part.
pub fn ensure(
    demand: &Demand,
    engines: &[Engine],
    assigned: &[String],
) -> (Vec<Choice>, Option<PlanError>) {
    let mut assigned = assigned.to_vec();
    let mut chosen = Vec::new();
    while assigned.len() < demand.fewest() {
        match scale_out(demand, engines, &assigned, None) {
            Ok(choice) => {
                assigned.push(choice.engine.clone());
                chosen.push(choice);
            }
            Err(error) => return (chosen, Some(error)),
        }
    }
    (chosen, None)
}

/// The engine that gives the VIP up: the one asked for, else one that is away, else the newest. The first in
/// `assigned` is the primary and stays unless `primary_too`.
///
/// # Errors
/// At the minimum, or the engine asked for does not hold the VIP.
pub fn scale_in(
    demand: &Demand,
    engines: &[Engine],
    assigned: &[String],
    wanted: Option<&str>,
    primary_too: bool,
) -> Result<Choice, PlanError> {
    if assigned.len() <= demand.fewest() {
        let (assigned, min) = (assigned.len(), demand.fewest());
        return Err(PlanError::AtMinimum { assigned, min });
    }
    let by_uuid: BTreeMap<_, _> = engines.iter().map(|e| (e.uuid.as_str(), e)).collect();
    let name = |uuid: &str| {
        by_uuid
            .get(uuid)
            .map_or(uuid, |e| e.name.as_str())
            .to_owned()
    };
    let (engine, reason) = match wanted {
        Some(_) => {
            let uuid = holder(engines, assigned, wanted)?;
            let reason = format!("{} was asked for", name(&uuid));
            (uuid, reason)
        }
        None => {
            let (uuid, reason) = scale_in_candidate(&by_uuid, assigned, primary_too);
            (uuid.clone(), reason)
        }
    };
    Ok(Choice {
        name: name(&engine),
        engine,
        reason,
        rejected: Vec::new(),
    })
}

fn scale_in_candidate<'a>(
    engines: &BTreeMap<&str, &Engine>,
    assigned: &'a [String],
    primary_too: bool,
) -> (&'a String, String) {
    if primary_too {
        return (&assigned[0], "the primary was asked for".into());
    }
    let engine = |uuid: &String| engines.get(uuid.as_str());
    let is_away = |uuid: &&String| engine(uuid).is_none_or(|e| !e.is_here());
    let is_disabled = |uuid: &&String| engine(uuid).is_some_and(|e| e.enabled == Enabled::No);
    if let Some(uuid) = assigned[1..].iter().rev().find(is_away) {
        return (uuid, "it has no session with the controller".into());
    }
    if let Some(uuid) = assigned[1..].iter().rev().find(is_disabled) {
        return (uuid, "it is disabled".into());
    }
    let newest = &assigned[assigned.len() - 1];
    (newest, "it joined last; the primary stays".into())
}

/// Sorts `se-2` before `se-10`: runs of digits compare as numbers.
pub(crate) fn natural(name: &str) -> Vec<(String, u64)> {
    let mut parts = vec![(String::new(), 0u64)];
    let mut in_number = false;
    for c in name.chars() {
        let digit = c.to_digit(10).map(u64::from);
        if in_number && digit.is_none() {
            parts.push((String::new(), 0));
        }
        let last = parts.last_mut().expect("starts with one part");
        match digit {
            Some(d) => last.1 = last.1.saturating_mul(10).saturating_add(d),
            None => last.0.push(c),
        }
        in_number = digit.is_some();
    }
    parts
}
