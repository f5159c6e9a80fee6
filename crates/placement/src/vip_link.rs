//! The link of a VIP that is scaled natively: an engine needs an interface on it.

use crate::{Demand, Engine, Unfit};
use ipnet::IpNet;
use std::net::IpAddr;

/// A static route of the VIP's VRF context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub prefix: IpNet,
    /// By which router.
    pub next_hop: IpAddr,
}

/// How the link of a VIP that is scaled natively is found (avi-api section 12, cloud).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// It is in the subnet of an interface.
    Subnets,
    /// `enable_vip_static_routes`: the same, else the next hop of a static route to it is.
    SubnetsThenRoutes(Vec<Route>),
    /// `prefer_static_routes`: the other way round, but for default routes, which say nothing of the VIP.
    RoutesThenSubnets(Vec<Route>),
}

/// What an engine needs an interface in the subnet of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Link {
    /// The VIP itself.
    Near(IpAddr),
    /// One of the next hops of the static routes to the VIP.
    Behind { vip: IpAddr, next_hops: Vec<IpAddr> },
}

/// Links of a VIP that is scaled natively, one for each of its addresses. Where no engine of the group is on one, something
/// else brings the VIP to them, and any will do.
pub(crate) fn links(demand: &Demand, engines: &[Engine]) -> Vec<Link> {
    let in_group = |e: &&Engine| e.se_group == demand.se_group;
    let group: Vec<&Engine> = engines.iter().filter(in_group).collect();
    let is_known = |link: &Link| group.iter().any(|e| link.has(e));
    let first = |vip: &IpAddr| demand.resolution.links(*vip).into_iter().find(is_known);
    demand.native.iter().filter_map(first).collect()
}

/// Why an engine that is not on all of these links cannot take the VIP.
pub(crate) fn off_link(engine: &Engine, links: &[Link]) -> Option<Unfit> {
    let link = links.iter().find(|link| !link.has(engine))?;
    Some(link.missing())
}

impl Resolution {
    /// Where the VIP may be, the most likely first.
    fn links(&self, vip: IpAddr) -> Vec<Link> {
        let near = || Link::Near(vip);
        match self {
            Self::Subnets => vec![near()],
            Self::SubnetsThenRoutes(routes) => {
                let behind = behind(routes, vip).into_iter();
                std::iter::once(near()).chain(behind).collect()
            }
            Self::RoutesThenSubnets(routes) => {
                let is_default = |r: &&Route| r.prefix.prefix_len() == 0;
                let own: Vec<Route> = routes.iter().filter(|r| !is_default(r)).cloned().collect();
                let own = behind(&own, vip).into_iter();
                own.chain([near()]).chain(behind(routes, vip)).collect()
            }
        }
    }
}

/// By the routes with the longest prefix that has the VIP.
fn behind(routes: &[Route], vip: IpAddr) -> Option<Link> {
    let to_vip = |r: &&Route| r.prefix.contains(&vip);
    let len = |r: &Route| r.prefix.prefix_len();
    let longest = routes.iter().filter(to_vip).map(len).max()?;
    let best = routes.iter().filter(to_vip).filter(|r| len(r) == longest);
    Some(Link::Behind {
        vip,
        next_hops: best.map(|r| r.next_hop).collect(),
    })
}

impl Link {
    fn has(&self, engine: &Engine) -> bool {
        let is_on = |address: &IpAddr| engine.networks.iter().any(|n| n.contains(address));
        match self {
            Self::Near(vip) => is_on(vip),
            Self::Behind { next_hops, .. } => next_hops.iter().any(is_on),
        }
    }

    fn missing(&self) -> Unfit {
        match self {
            Self::Near(vip) => Unfit::NoInterfaceInVipSubnet { vip: *vip },
            Self::Behind { vip, next_hops } => Unfit::NoInterfaceToStaticRoute {
                vip: *vip,
                next_hops: next_hops.clone(),
            },
        }
    }
}
