//! Why an engine cannot take a VIP.

use crate::vip_link::{Link, links, off_link};
use crate::{Demand, Enabled, Engine, Presence};
use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;

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
    /// Of another host than the one that was asked for.
    OtherHost {
        /// That one.
        wanted: String,
    },
    /// As many engines of the group as may be have VIPs, and this one has none.
    GroupFull {
        /// The limit.
        max: usize,
    },
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
    /// No interface in any of the VIP's `placement_networks`.
    NoInterfaceInPlacementNetwork {
        /// Their subnets.
        wanted: Vec<IpNet>,
    },
    /// No interface in the subnet of the VIP, which is scaled natively, while other engines have one.
    NoInterfaceInVipSubnet {
        /// The VIP.
        vip: IpAddr,
    },
    /// No interface to the next hop of the static routes to the VIP, which is scaled natively, while other engines have one.
    NoInterfaceToStaticRoute {
        /// The VIP.
        vip: IpAddr,
        /// The next hops; an interface to one of them is enough.
        next_hops: Vec<IpAddr>,
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
            Self::OtherHost { .. } => "other_host",
            Self::GroupFull { .. } => "group_full",
            Self::Full { .. } => "full",
            Self::NoInterfaceInPeerSubnet { .. } => "no_interface_in_peer_subnet",
            Self::NoInterfaceInPlacementNetwork { .. } => "no_interface_in_placement_network",
            Self::NoInterfaceInVipSubnet { .. } => "no_interface_in_vip_subnet",
            Self::NoInterfaceToStaticRoute { .. } => "no_interface_to_static_route",
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
            Self::OtherHost { wanted } => {
                write!(f, "its host is not {wanted:?} (engine --host)")
            }
            Self::GroupFull { max } => {
                write!(
                    f,
                    "VIPs of its SE group are on {max} other engines, the most there may be (max_se; 2 with HA_MODE_LEGACY_ACTIVE_STANDBY)"
                )
            }
            Self::Full { max } => {
                write!(f, "it holds {max} VIPs, the most that max_vs_per_se allows")
            }
            Self::NoInterfaceInPeerSubnet { wanted } => {
                let wanted = listed(wanted);
                write!(f, "it has no interface in a BGP peer's subnet ({wanted})")
            }
            Self::NoInterfaceInPlacementNetwork { wanted } if wanted.is_empty() => {
                f.write_str("the VIP's placement_networks have no configured_subnets")
            }
            Self::NoInterfaceInPlacementNetwork { wanted } => {
                let wanted = listed(wanted);
                write!(
                    f,
                    "it has no interface in the VIP's placement_networks ({wanted})"
                )
            }
            Self::NoInterfaceInVipSubnet { vip } => {
                write!(
                    f,
                    "it has no interface in a subnet with {vip}, whose virtual services have no enable_rhi"
                )
            }
            Self::NoInterfaceToStaticRoute { vip, next_hops } => {
                let next_hops = either(next_hops);
                write!(
                    f,
                    "it has no interface in the subnet of {next_hops}, the next hop of the static route to {vip}"
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

fn listed(networks: &[IpNet]) -> String {
    let all: Vec<_> = networks.iter().map(ToString::to_string).collect();
    all.join(", ")
}

fn either(addresses: &[IpAddr]) -> String {
    let all: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    all.join(" or ")
}

/// Why this engine, one of `engines`, cannot take the VIP; `None` when it can.
pub fn unfit(
    demand: &Demand,
    engine: &Engine,
    engines: &[Engine],
    assigned: &[String],
) -> Option<Unfit> {
    unfit_on(demand, engine, engines, assigned, &links(demand, engines))
}

/// The same for who asks about all engines, with the [`links`] of the VIP.
pub(crate) fn unfit_on(
    demand: &Demand,
    engine: &Engine,
    engines: &[Engine],
    assigned: &[String],
    links: &[Link],
) -> Option<Unfit> {
    if assigned.contains(&engine.uuid) {
        return Some(Unfit::AlreadyPlaced);
    }
    elsewhere(demand, engine)
        .or_else(|| full(demand, engine, engines, assigned))
        .or_else(|| networks(demand, engine))
        .or_else(|| placement_networks(demand, engine))
        .or_else(|| off_link(engine, links))
}

fn elsewhere(demand: &Demand, engine: &Engine) -> Option<Unfit> {
    let checks = [
        (engine.cloud != demand.cloud, Unfit::OtherCloud),
        (engine.se_group != demand.se_group, Unfit::OtherSeGroup),
        (engine.vrf != demand.vrf, Unfit::OtherVrf),
        (engine.enabled != Enabled::Yes, Unfit::Disabled),
        (!engine.is_here(), Unfit::NotConnected),
    ];
    let mut failed = checks.into_iter().filter(|(fails, _)| *fails);
    let failed = failed.next().map(|(_, why)| why);
    failed.or_else(|| other_host(demand, engine))
}

fn other_host(demand: &Demand, engine: &Engine) -> Option<Unfit> {
    let wanted = demand.host.as_ref().filter(|host| **host != engine.host)?;
    let wanted = wanted.clone();
    Some(Unfit::OtherHost { wanted })
}

fn full(
    demand: &Demand,
    engine: &Engine,
    engines: &[Engine],
    assigned: &[String],
) -> Option<Unfit> {
    let max = demand.max_per_engine;
    if engine.placed >= max {
        return Some(Unfit::Full { max });
    }
    let max = demand.most_in_group()?;
    let has_vips = |e: &&Engine| e.placed > 0 || assigned.contains(&e.uuid);
    let stays = |e: &&Engine| e.presence != Presence::Lost && e.enabled != Enabled::No;
    let here = |e: &&Engine| e.se_group == engine.se_group && stays(e);
    let used = engines.iter().filter(here).filter(has_vips);
    (engine.placed == 0 && used.count() >= max).then_some(Unfit::GroupFull { max })
}

fn networks(demand: &Demand, engine: &Engine) -> Option<Unfit> {
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

fn placement_networks(demand: &Demand, engine: &Engine) -> Option<Unfit> {
    let inside = |subnet: &IpNet| engine.networks.iter().any(|n| subnet.contains(n));
    let mut all = demand.placement_networks.iter();
    let unmet = all.find(|wanted| !wanted.iter().any(inside))?;
    Some(Unfit::NoInterfaceInPlacementNetwork {
        wanted: unmet.clone(),
    })
}
