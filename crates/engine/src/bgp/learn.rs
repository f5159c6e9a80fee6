//! From what the peers sent to the routes in force: which are best, and who hears of them again.
//!
//! Only peers with a `routing_options` label that asks for it are listened to, see [`bgp::rib_in`].

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bgp::rib::LOCAL_PREF_DEFAULT;
use bgp::rib_in::LearnedRoute;
use ipnet::IpNet;

/// What one session has learned.
pub(super) struct Source<'a> {
    pub(super) peer: IpAddr,
    pub(super) ibgp: bool,
    pub(super) routes: &'a BTreeMap<IpNet, LearnedRoute>,
}

/// A learned route in force: all of its best next hops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BestRoute {
    pub(super) next_hops: BTreeSet<IpAddr>,
    /// Whom it was learned from.
    pub(super) peers: BTreeSet<IpAddr>,
    /// Of the first of them: what is passed on.
    pub(super) route: LearnedRoute,
    /// Learned from an internal peer: other internal peers do not get it (RFC 4271 section 9.2).
    pub(super) ibgp: bool,
}

/// By destination.
pub(super) type BestRoutes = BTreeMap<IpNet, BestRoute>;

/// RFC 4271 section 9.1.2 as far as it goes without MED and IGP cost: highest LOCAL_PREF, shortest AS_PATH,
/// external before internal. What is equal until there is used together.
pub(super) fn best<'a>(sources: impl IntoIterator<Item = Source<'a>>) -> BestRoutes {
    let mut ranked: BTreeMap<IpNet, (Rank, BestRoute)> = BTreeMap::new();
    for source in sources {
        for (prefix, route) in source.routes {
            let rank = rank(&source, route);
            match ranked.get_mut(prefix) {
                Some((known, best)) if *known == rank => {
                    best.next_hops.insert(route.next_hop);
                    best.peers.insert(source.peer);
                }
                Some((known, _)) if *known > rank => {}
                _ => {
                    ranked.insert(*prefix, (rank, sole(&source, route)));
                }
            }
        }
    }
    let best = ranked.into_iter();
    best.map(|(prefix, (_, route))| (prefix, route)).collect()
}

/// The greater one is better.
type Rank = (u32, Reverse<usize>, bool);

fn rank(source: &Source<'_>, route: &LearnedRoute) -> Rank {
    let local_pref = route.local_pref.unwrap_or(LOCAL_PREF_DEFAULT);
    (local_pref, Reverse(route.as_path.len()), !source.ibgp)
}

fn sole(source: &Source<'_>, route: &LearnedRoute) -> BestRoute {
    BestRoute {
        next_hops: [route.next_hop].into(),
        peers: [source.peer].into(),
        route: route.clone(),
        ibgp: source.ibgp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bgp::rib::Origin;

    fn route(next_hop: &str, path_len: usize, local_pref: Option<u32>) -> LearnedRoute {
        LearnedRoute {
            next_hop: next_hop.parse().unwrap(),
            as_path: vec![7; path_len],
            local_pref,
            origin: Origin::Igp,
            communities: vec![],
            large_communities: vec![],
        }
    }

    /// The next hops of the default route, learned by these peers.
    fn hops(routes: &[(bool, LearnedRoute)]) -> Vec<String> {
        let default: IpNet = "0.0.0.0/0".parse().unwrap();
        let tables: Vec<_> = routes
            .iter()
            .map(|(ibgp, route)| (*ibgp, BTreeMap::from([(default, route.clone())])))
            .collect();
        let sources = tables.iter().enumerate().map(|(i, (ibgp, routes))| Source {
            peer: IpAddr::from([10, 0, 0, i as u8]),
            ibgp: *ibgp,
            routes,
        });
        let best = best(sources);
        best[&default]
            .next_hops
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn equal_routes_are_used_together_and_better_ones_alone() {
        let near = || (false, route("10.0.0.1", 1, None));
        let equal = || (false, route("10.0.0.2", 1, None));
        let far = || (false, route("10.0.0.3", 2, None));
        let inner = || (true, route("10.0.0.4", 1, Some(100)));
        let preferred = || (true, route("10.0.0.5", 9, Some(200)));
        assert_eq!(hops(&[near(), equal()]), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(hops(&[far(), near()]), ["10.0.0.1"]);
        assert_eq!(hops(&[inner(), near()]), ["10.0.0.1"]);
        assert_eq!(hops(&[near(), preferred(), equal()]), ["10.0.0.5"]);
    }
}
