//! The planner: which VIP is placed on which service engine, and why.
//!
//! The unit of placement is the VsVip: virtual services that share one are placed together (DESIGN section 7).
//! Functions here take the whole situation and give decisions with reasons; they neither wait nor store. A plan
//! moves nothing that need not move: an engine that holds a VIP keeps it until it is told otherwise.

pub mod group;

pub use group::{Group, GroupFull};

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::fmt;

/// How engines are filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// PLACEMENT_ALGO_PACKED: the engine with the most VIPs that still has room.
    Packed,
    /// PLACEMENT_ALGO_DISTRIBUTED: the engine with the fewest.
    Distributed,
}

/// What the VIP asks for.
#[derive(Debug, Clone)]
pub struct Demand {
    /// uuid of the VsVip.
    pub vsvip: String,
    /// Its virtual services' SE group.
    pub se_group: String,
    /// Its cloud.
    pub cloud: String,
    /// uuid of its VRF context.
    pub vrf: String,
    /// Networks of which an engine needs an interface in at least one: those of the BGP peers when the VIP is to be
    /// announced. Empty = none needed.
    pub peer_networks: Vec<IpNet>,
    /// Fewest engines.
    pub min_scaleout: u32,
    /// Most engines.
    pub max_scaleout: u32,
    /// Most VIPs on one engine.
    pub max_per_engine: u32,
    /// How engines are filled.
    pub algorithm: Algorithm,
}

/// A service engine as the planner sees it.
#[derive(Debug, Clone)]
pub struct Engine {
    /// uuid.
    pub uuid: String,
    /// Name, which also breaks ties: `se-2` before `se-10`.
    pub name: String,
    /// It has a session with the controller.
    pub connected: bool,
    /// SE_STATE_ENABLED.
    pub enabled: bool,
    /// Its SE group.
    pub se_group: String,
    /// Its cloud.
    pub cloud: String,
    /// uuid of its one data VRF.
    pub vrf: String,
    /// Networks of its data interfaces.
    pub networks: Vec<IpNet>,
    /// Number of VIPs placed on it.
    pub placed: u32,
}

/// Why an engine is not chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// It holds the VIP already.
    AlreadyPlaced,
    /// No session with the controller.
    NotConnected,
    /// Disabled by `enable_state`.
    Disabled,
    /// Of another cloud.
    OtherCloud,
    /// Of another SE group.
    OtherSeGroup,
    /// Of another VRF.
    OtherVrf,
    /// `max_vs_per_se` reached.
    Full {
        /// The limit.
        max: u32,
    },
    /// No interface in any BGP peer's subnet.
    NoInterfaceInPeerSubnet {
        /// The subnets.
        wanted: Vec<IpNet>,
    },
    /// Two interfaces in one of the peers' subnets.
    TwoInterfacesInOneSubnet {
        /// The subnet.
        subnet: IpNet,
    },
}

impl Unfit {
    /// The snake_case code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::AlreadyPlaced => "already_placed",
            Self::NotConnected => "not_connected",
            Self::Disabled => "disabled",
            Self::OtherCloud => "other_cloud",
            Self::OtherSeGroup => "other_se_group",
            Self::OtherVrf => "other_vrf",
            Self::Full { .. } => "full",
            Self::NoInterfaceInPeerSubnet { .. } => "no_interface_in_peer_subnet",
            Self::TwoInterfacesInOneSubnet { .. } => "two_interfaces_in_one_subnet",
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyPlaced => f.write_str("the VIP is placed there already"),
            Self::NotConnected => f.write_str("it has no session with the controller"),
            Self::Disabled => f.write_str("it is disabled (enable_state)"),
            Self::OtherCloud => f.write_str("it belongs to another cloud"),
            Self::OtherSeGroup => f.write_str("it belongs to another SE group"),
            Self::OtherVrf => {
                f.write_str("its interfaces are in another VRF than the virtual service")
            }
            Self::Full { max } => {
                write!(f, "it holds {max} VIPs, the most that max_vs_per_se allows")
            }
            Self::NoInterfaceInPeerSubnet { wanted } => {
                let wanted: Vec<_> = wanted.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "it has no interface in a BGP peer's subnet ({})",
                    wanted.join(", ")
                )
            }
            Self::TwoInterfacesInOneSubnet { subnet } => {
                write!(
                    f,
                    "it has two interfaces in {subnet}: two interfaces in the same subnet and VLAN are not supported"
                )
            }
        }
    }
}

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
        "the virtual service is on {assigned} service engines already, the maximum (max_scaleout_per_vs of its SE group) is {max}; raise it to scale out further"
    )]
    AtMaximum {
        /// Engines now.
        assigned: usize,
        /// The limit.
        max: u32,
    },
    /// At `min_scaleout_per_vs`.
    #[error(
        "the virtual service is on {assigned} service engines, the minimum (min_scaleout_per_vs of its SE group) is {min}; disable the virtual service to take it off the last ones"
    )]
    AtMinimum {
        /// Engines now.
        assigned: usize,
        /// The limit.
        min: u32,
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

/// Why this engine cannot take the VIP; `None` when it can.
pub fn unfit(demand: &Demand, engine: &Engine, assigned: &[String]) -> Option<Unfit> {
    if assigned.contains(&engine.uuid) {
        return Some(Unfit::AlreadyPlaced);
    }
    let checks = [
        (engine.cloud != demand.cloud, Unfit::OtherCloud),
        (engine.se_group != demand.se_group, Unfit::OtherSeGroup),
        (engine.vrf != demand.vrf, Unfit::OtherVrf),
        (!engine.enabled, Unfit::Disabled),
        (!engine.connected, Unfit::NotConnected),
        (
            engine.placed >= demand.max_per_engine,
            Unfit::Full {
                max: demand.max_per_engine,
            },
        ),
    ];
    let failed = checks.into_iter().find(|(fails, _)| *fails);
    failed
        .map(|(_, why)| why)
        .or_else(|| unfit_networks(demand, engine))
}

fn unfit_networks(demand: &Demand, engine: &Engine) -> Option<Unfit> {
    if demand.peer_networks.is_empty() {
        return None;
    }
    let within = |subnet: &IpNet| {
        let inside = engine.networks.iter().filter(|n| subnet.contains(*n));
        inside.cloned().collect::<Vec<_>>()
    };
    for subnet in &demand.peer_networks {
        let mut inside = within(subnet);
        let count = inside.len();
        inside.sort_unstable();
        inside.dedup();
        if inside.len() < count {
            return Some(Unfit::TwoInterfacesInOneSubnet { subnet: *subnet });
        }
    }
    let reachable = demand.peer_networks.iter().any(|s| !within(s).is_empty());
    (!reachable).then(|| Unfit::NoInterfaceInPeerSubnet {
        wanted: demand.peer_networks.clone(),
    })
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
    if assigned.len() >= demand.max_scaleout as usize {
        let (assigned, max) = (assigned.len(), demand.max_scaleout);
        return Err(PlanError::AtMaximum { assigned, max });
    }
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
    if let Some(why) = unfit(demand, engine, assigned) {
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
    for engine in engines {
        match unfit(demand, engine, assigned) {
            None => fit.push(engine),
            Some(Unfit::AlreadyPlaced) => {}
            Some(why) => rejected.push((engine.name.clone(), why)),
        }
    }
    rejected.sort_by_key(|(name, _)| natural(name));
    fit.sort_by_key(|e| {
        (
            load_rank(demand.algorithm, e),
            natural(&e.name),
            e.uuid.clone(),
        )
    });
    let Some(best) = fit.first() else {
        return Err(PlanError::NoEngine(rejected));
    };
    Ok(Choice {
        engine: best.uuid.clone(),
        name: best.name.clone(),
        reason: why_best(demand, best, fit.len()),
        rejected,
    })
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
    let wanted = demand.min_scaleout.max(1) as usize;
    while assigned.len() < wanted {
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
    if assigned.len() <= demand.min_scaleout.max(1) as usize {
        let (assigned, min) = (assigned.len(), demand.min_scaleout.max(1));
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
        Some(w) => {
            let found = assigned.iter().find(|u| *u == w || name(u) == w);
            let uuid = found.ok_or_else(|| PlanError::NotPlacedThere(name(w)))?;
            (uuid, format!("{} was asked for", name(uuid)))
        }
        None => scale_in_candidate(&by_uuid, assigned, primary_too),
    };
    Ok(Choice {
        engine: engine.clone(),
        name: name(engine),
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
    let away = |uuid: &&String| !engines.get(uuid.as_str()).is_some_and(|e| e.connected);
    match assigned[1..].iter().rev().find(away) {
        Some(uuid) => (uuid, "it has no session with the controller".into()),
        None => (
            &assigned[assigned.len() - 1],
            "it joined last; the primary stays".into(),
        ),
    }
}

/// Sorts `se-2` before `se-10`: runs of digits compare as numbers.
fn natural(name: &str) -> Vec<(String, u64)> {
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

#[cfg(test)]
mod tests;
