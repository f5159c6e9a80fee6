//! The way of the answers: static routes of the VRF context, over those next hops that are alive (ECMP).
//!
//! [`wanted`] is pure. [`run`] is one task: it follows desired state, interfaces and BGP sessions, and has [`crate::fib`]
//! hold what is wanted. A session whose path has failed (BFD, link) leaves ESTABLISHED at once, and so the next hop goes
//! in the same step as the withdrawal.

use crate::fib::{self, Failures, Origin, Routes};
use ipnet::IpNet;
use proto::v1::{BgpSession, BgpState, DesiredState, Interface, StaticRoute};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What [`run`] follows.
pub(crate) struct Inputs {
    pub desired: watch::Receiver<Arc<DesiredState>>,
    pub interfaces: watch::Receiver<Vec<Interface>>,
    pub bgp: watch::Receiver<Arc<Vec<BgpSession>>>,
}

/// Until it is told to stop, when the routes are taken away. What it follows outlives it.
pub(crate) async fn run(mut inputs: Inputs, stop: CancellationToken) {
    let (routes, routes_rx) = watch::channel(Routes::new());
    let (failures_tx, mut failures) = watch::channel(Failures::new());
    let fib = tokio::spawn(fib::run(Origin::STATIC, routes_rx, failures_tx));
    loop {
        let new = inputs.wanted();
        routes.send_if_modified(|routes| {
            let changed = *routes != new;
            *routes = new;
            changed
        });
        tokio::select! {
            () = stop.cancelled() => break,
            Ok(()) = inputs.desired.changed() => {}
            Ok(()) = inputs.interfaces.changed() => {}
            Ok(()) = inputs.bgp.changed() => {}
            Ok(()) = failures.changed() => tell(&failures.borrow_and_update()),
        }
    }
    drop(routes);
    if let Err(failure) = fib.await {
        tracing::error!(%failure, "static routes may be left in the kernel; the next engine removes them");
    }
}

impl Inputs {
    fn wanted(&mut self) -> Routes {
        let desired = self.desired.borrow_and_update().clone();
        let vrf = desired.vrf.as_ref();
        let routes = vrf.map_or(&[][..], |vrf| &vrf.static_routes);
        let sessions = self.bgp.borrow_and_update().clone();
        wanted(routes, &self.interfaces.borrow_and_update(), &sessions)
    }
}

fn tell(failures: &Failures) {
    for (prefix, reason) in failures {
        tracing::warn!(%prefix, reason, "a static route is not in the kernel; tried again");
    }
}

/// Next hops that can be reached over an interface that is up. Of those that are routers of ours the ones with a session;
/// where no next hop of a route is left by that, all that can be reached: a router may forward that does not speak to us.
fn wanted(routes: &[StaticRoute], interfaces: &[Interface], sessions: &[BgpSession]) -> Routes {
    let reachable = routes.iter().filter_map(|r| reachable(r, interfaces));
    let mut all = Routes::new();
    for (prefix, next_hop) in reachable {
        all.entry(prefix).or_default().insert(next_hop);
    }
    for next_hops in all.values_mut() {
        let alive = next_hops.iter().filter(|hop| !is_lost(**hop, sessions));
        let alive: std::collections::BTreeSet<IpAddr> = alive.copied().collect();
        if !alive.is_empty() {
            *next_hops = alive;
        }
    }
    all
}

fn reachable(route: &StaticRoute, interfaces: &[Interface]) -> Option<(IpNet, IpAddr)> {
    let next_hop: IpAddr = route.next_hop.parse().ok()?;
    let named = |i: &&Interface| route.interface.is_empty() || i.name == route.interface;
    let up = interfaces.iter().filter(|i| i.up).filter(named);
    let mut nets = up
        .flat_map(|i| &i.addresses)
        .filter_map(|a| a.parse::<IpNet>().ok());
    let near = nets.any(|net| net.contains(&next_hop));
    near.then_some((route.prefix.parse().ok()?, next_hop))
}

/// A router that we have sessions with, none of which is up.
fn is_lost(next_hop: IpAddr, sessions: &[BgpSession]) -> bool {
    let mut sessions = sessions
        .iter()
        .filter(|s| s.peer.parse() == Ok(next_hop))
        .peekable();
    let up = |s: &BgpSession| s.state == i32::from(BgpState::Established);
    sessions.peek().is_some() && !sessions.any(up)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: &str, next_hop: &str) -> StaticRoute {
        StaticRoute {
            prefix: prefix.into(),
            next_hop: next_hop.into(),
            interface: String::new(),
        }
    }

    fn interface(name: &str, up: bool, address: &str) -> Interface {
        Interface {
            name: name.into(),
            up,
            addresses: vec![address.into()],
            ..Interface::default()
        }
    }

    fn session(peer: &str, state: BgpState) -> BgpSession {
        BgpSession {
            peer: peer.into(),
            state: state.into(),
            ..BgpSession::default()
        }
    }

    /// The next hops of the default route over two links, each with its router.
    fn hops(up: [bool; 2], sessions: &[BgpSession]) -> Vec<String> {
        let routes = [
            route("0.0.0.0/0", "10.1.0.1"),
            route("0.0.0.0/0", "10.2.0.1"),
        ];
        let links = [
            interface("eth1", up[0], "10.1.0.11/24"),
            interface("eth2", up[1], "10.2.0.11/24"),
        ];
        let all = wanted(&routes, &links, sessions);
        let hops = all.values().flatten().map(ToString::to_string);
        hops.collect()
    }

    #[test]
    fn answers_go_over_the_links_and_routers_that_are_left() {
        let both = ["10.1.0.1", "10.2.0.1"];
        assert_eq!(hops([true, true], &[]), both, "nobody speaks BGP");
        assert_eq!(hops([false, true], &[]), ["10.2.0.1"]);
        assert!(hops([false, false], &[]).is_empty());
        let with = |first| {
            [
                session("10.1.0.1", first),
                session("10.2.0.1", BgpState::Established),
            ]
        };
        assert_eq!(hops([true, true], &with(BgpState::Established)), both);
        assert_eq!(hops([true, true], &with(BgpState::Active)), ["10.2.0.1"]);
        assert_eq!(
            hops([true, false], &with(BgpState::Active)),
            ["10.1.0.1"],
            "the last one"
        );
    }

    #[test]
    fn a_route_over_a_named_interface_needs_that_one() {
        let over = |interface: &str| StaticRoute {
            interface: interface.into(),
            ..route("10.9.0.0/16", "10.1.0.1")
        };
        let links = [interface("eth1", true, "10.1.0.11/24")];
        assert_eq!(wanted(&[over("eth1")], &links, &[]).len(), 1);
        assert!(wanted(&[over("eth2")], &links, &[]).is_empty());
    }
}
