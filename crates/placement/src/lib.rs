//! The planner: which VIP is placed on which service engine, and why.
//!
//! The unit of placement is the VsVip: virtual services that share one are placed together (DESIGN section 7).
//! Functions here take the whole situation and give decisions with reasons; they neither wait nor store. A plan
//! moves nothing that need not move: an engine that holds a VIP keeps it until it is told otherwise, is lost for
//! certain, or is drained.

pub mod autoscale;
mod choose;
pub mod group;
mod keep;
mod spare;
mod unfit;
mod vip_link;

pub use choose::{Choice, PlanError, ensure, scale_in, scale_out};
pub use group::{Group, GroupFull};
pub use keep::{
    Cause, Demotion, Move, Step, hand_over, holder, is_back, keep, preferred, switch_over,
    take_over, take_role,
};
pub use spare::{Spare, spare};
pub use unfit::{Unfit, unfit};
pub use vip_link::{Resolution, Route};

use ipnet::IpNet;
use std::net::IpAddr;

/// How engines are filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// PLACEMENT_ALGO_PACKED: the engine with the most VIPs that still has room.
    Packed,
    /// PLACEMENT_ALGO_DISTRIBUTED: the engine with the fewest.
    Distributed,
}

/// How an SE group lives through the loss of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ha {
    /// HA_MODE_SHARED, N+M: room for the VIPs of some engines is to be kept on the others ([`spare`]).
    Shared,
    /// HA_MODE_SHARED_PAIR, active/active: no VIP is on fewer than two engines.
    SharedPair,
    /// HA_MODE_LEGACY_ACTIVE_STANDBY: a VIP is on two engines, of which the first is active and the second is used when
    /// the first is gone; VIPs of a group are on two engines, and others wait.
    ActiveStandby,
}

/// Which engine of a pair a VIP prefers as its active one (`active_standby_se_tag`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// The first by name.
    First,
    /// The second.
    Second,
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
    /// For each VIP that has `placement_networks`, networks of which an engine needs an interface in at least one.
    pub placement_networks: Vec<Vec<IpNet>>,
    /// Its addresses, when no router is told of it: it is scaled natively, and answered for by an engine on its link.
    /// Empty = it is announced by BGP.
    pub native: Vec<IpAddr>,
    /// How the links of those addresses are found.
    pub resolution: Resolution,
    /// `min_scaleout_per_vs`; see [`Demand::fewest`].
    pub min_scaleout: u32,
    /// `max_scaleout_per_vs`; see [`Demand::most`].
    pub max_scaleout: u32,
    /// Most VIPs on one engine.
    pub max_per_engine: u32,
    /// Most engines of the group that VIPs are placed on (`max_se`); 0 = any number.
    pub max_engines: u32,
    /// How engines are filled.
    pub algorithm: Algorithm,
    /// How the group lives through the loss of an engine.
    pub ha: Ha,
    /// With [`Ha::ActiveStandby`], where the load is distributed over both engines; `None` = whichever is active is right.
    pub tag: Option<Tag>,
    /// It goes back to the engine that it prefers when that is back.
    pub goes_back: bool,
    /// With [`Ha::ActiveStandby`]: an active engine that no BGP peer is up for gives its role up to one that has one
    /// (`bgp_peer_monitor_failover_enabled`).
    pub needs_peer: bool,
    /// Only engines of this host can take it; `None` = of any.
    pub host: Option<String>,
    /// `vs_host_redundancy`: another host's engine is preferred to one whose host has the VIP.
    pub host_redundancy: bool,
}

/// Engines of a VIP that is scaled natively: the primary and four others (seed, "BGP Support for Scaling Virtual Services").
pub const NATIVE_MAX: usize = 5;

/// Engines of a VIP in [`Ha::SharedPair`] at least, and in [`Ha::ActiveStandby`] for certain.
const PAIR: usize = 2;

impl Ha {
    /// Engines that a VIP gets by itself, with this `min_scaleout_per_vs`.
    pub fn fewest(self, min_scaleout: u32) -> usize {
        let min = min_scaleout.max(1) as usize;
        match self {
            Self::Shared => min,
            Self::SharedPair => min.max(PAIR),
            Self::ActiveStandby => PAIR,
        }
    }

    /// Most engines of a VIP, with these `min_scaleout_per_vs` and `max_scaleout_per_vs`.
    pub fn most(self, min_scaleout: u32, max_scaleout: u32) -> usize {
        match self {
            Self::Shared | Self::SharedPair => {
                (max_scaleout as usize).max(self.fewest(min_scaleout))
            }
            Self::ActiveStandby => PAIR,
        }
    }
}

impl Demand {
    /// Engines that the VIP gets by itself.
    pub fn fewest(&self) -> usize {
        self.ha.fewest(self.min_scaleout).min(self.most_by_method())
    }

    /// As many as the way of scaling can have.
    fn most_by_method(&self) -> usize {
        match self.native.is_empty() {
            true => usize::MAX,
            false => NATIVE_MAX,
        }
    }

    /// One of its engines is its active one, or its primary: the others wait for it to go.
    pub fn has_active(&self) -> bool {
        self.ha == Ha::ActiveStandby || !self.native.is_empty()
    }

    /// Most engines of the VIP.
    pub fn most(&self) -> usize {
        let most = self.ha.most(self.min_scaleout, self.max_scaleout);
        most.min(self.most_by_method())
    }

    /// Most engines of the group with VIPs; `None` = any number.
    fn most_in_group(&self) -> Option<usize> {
        let max = (self.max_engines > 0).then_some(self.max_engines as usize);
        match self.ha {
            Ha::Shared | Ha::SharedPair => max,
            Ha::ActiveStandby => Some(PAIR),
        }
    }
}

/// Whether an engine may get VIPs, and keeps those that it has (`enable_state`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enabled {
    /// SE_STATE_ENABLED.
    Yes,
    /// SE_STATE_DISABLED_FOR_PLACEMENT: it keeps what it has.
    ForPlacementNot,
    /// SE_STATE_DISABLED, SE_STATE_DISABLED_FORCE: its VIPs go to others.
    No,
}

/// How an engine is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It has a session with the controller.
    Here,
    /// It has one again, and not for long: one that comes and goes would take its VIPs along, and is taken last.
    Back,
    /// It has none. That it is dead is not certain: it may serve.
    Away,
    /// It has none, and does not answer its neighbours either.
    Lost,
}

/// A service engine as the planner sees it.
#[derive(Debug, Clone)]
pub struct Engine {
    /// uuid.
    pub uuid: String,
    /// Name, which also breaks ties: `se-2` before `se-10`.
    pub name: String,
    /// How it is seen.
    pub presence: Presence,
    /// Its `enable_state`.
    pub enabled: Enabled,
    /// Its SE group.
    pub se_group: String,
    /// Its cloud.
    pub cloud: String,
    /// uuid of its one data VRF.
    pub vrf: String,
    /// Networks of its data interfaces.
    pub networks: Vec<IpNet>,
    /// What tells its host from others; empty = it has not said.
    pub host: String,
    /// One of its BGP peers is up; `None` = it has none, or it is not certain.
    pub has_peer: Option<bool>,
    /// Number of VIPs placed on it.
    pub placed: u32,
}

impl Engine {
    /// It has a session.
    pub fn is_here(&self) -> bool {
        matches!(self.presence, Presence::Here | Presence::Back)
    }

    /// Why it gives its places up, if it does.
    pub fn gives_way(&self) -> Option<Cause> {
        match (self.presence, self.enabled) {
            (Presence::Lost, _) => Some(Cause::Lost),
            (_, Enabled::No) => Some(Cause::Drained),
            (_, Enabled::Yes | Enabled::ForPlacementNot) => None,
        }
    }
}

#[cfg(test)]
mod tests;
