//! Adj-RIB-In of one peer (RFC 4271 section 3.2): empty unless the operator asked to learn routes.
//!
//! A route injector has no use for the routes of its peers, so that by default they are judged, counted and
//! dropped. With a [`LearnPolicy`] those that pass it are kept: not ours (our AS in the path, RFC 4271
//! section 9.1.2), with a next hop, and at most so many.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::rib::Origin;
use crate::types::{Asn, Community, Family, LargeCommunity};
use crate::wire::{ReceivedUpdate, RouteRefresh};

/// Which routes of a peer are kept (avi-api annex, `BgpRoutingOptions`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LearnPolicy {
    /// Only 0.0.0.0/0 and ::/0.
    pub only_default: bool,
    /// At most so many; a further one is refused, the kept ones stay.
    pub limit: usize,
}

/// A route that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LearnedRoute {
    /// ORIGIN.
    pub origin: Origin,
    /// NEXT_HOP.
    pub next_hop: IpAddr,
    /// AS_PATH, flattened.
    pub as_path: Vec<u32>,
    /// LOCAL_PREF of an internal peer.
    pub local_pref: Option<u32>,
    /// COMMUNITIES.
    pub communities: Vec<Community>,
    /// LARGE_COMMUNITY.
    pub large_communities: Vec<LargeCommunity>,
}

impl LearnedRoute {
    /// Whether its well-known communities let it go on to a peer (RFC 1997).
    #[must_use]
    pub fn may_be_passed_on(&self, to_internal: bool) -> bool {
        let has = |community| self.communities.contains(&community);
        let internal_only = has(Community::NO_EXPORT) || has(Community::LOCAL_AS);
        !has(Community::NO_ADVERTISE) && (to_internal || !internal_only)
    }
}

/// Whom we are towards the peer: routes that lead back to us are not learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ourselves<'a> {
    /// Our AS.
    pub asn: Asn,
    /// Our addresses on the link.
    pub addresses: &'a [IpAddr],
}

/// See the module's documentation.
#[derive(Debug, Clone, Default)]
pub struct AdjRibIn {
    policy: Option<LearnPolicy>,
    routes: BTreeMap<IpNet, LearnedRoute>,
    /// Being sent again (RFC 7313): what is still here at the end is gone.
    stale: BTreeSet<IpNet>,
    refused: u64,
}

impl AdjRibIn {
    /// Learns by this policy from now on; true when the peer has to send its routes again for that.
    pub fn set_policy(&mut self, policy: Option<LearnPolicy>) -> bool {
        let wider = match (self.policy, policy) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(old), Some(new)) => {
                (old.only_default && !new.only_default) || new.limit > old.limit
            }
        };
        self.policy = policy;
        self.routes
            .retain(|prefix, _| policy.is_some_and(|p| p.wants(*prefix)));
        while self.routes.len() > policy.map_or(0, |p| p.limit) {
            self.routes.pop_last();
        }
        wider
    }

    /// The peer holds nothing for us any more.
    pub fn clear(&mut self) {
        self.routes.clear();
        self.stale.clear();
    }

    /// Takes an UPDATE; true when the kept routes changed.
    pub fn update(&mut self, ourselves: Ourselves<'_>, update: &ReceivedUpdate) -> bool {
        let mut changed = false;
        for prefix in &update.withdrawn {
            changed |= self.remove(*prefix);
        }
        let Some(policy) = self.policy else {
            return changed;
        };
        for prefix in update.announced.iter().filter(|p| policy.wants(**p)) {
            changed |= match usable(*prefix, ourselves, update) {
                Some(route) => self.keep(policy, *prefix, route),
                // RFC 4271 section 9: an unusable route replaces the feasible one.
                None => self.remove(*prefix),
            };
        }
        changed
    }

    fn keep(&mut self, policy: LearnPolicy, prefix: IpNet, route: LearnedRoute) -> bool {
        self.stale.remove(&prefix);
        if !self.routes.contains_key(&prefix) && self.routes.len() >= policy.limit {
            self.refused += 1;
            return false;
        }
        self.routes.insert(prefix, route.clone()) != Some(route)
    }

    fn remove(&mut self, prefix: IpNet) -> bool {
        self.stale.remove(&prefix);
        self.routes.remove(&prefix).is_some()
    }

    /// BoRR and EoRR (RFC 7313 section 4); true when the kept routes changed.
    pub fn demarcation(&mut self, refresh: RouteRefresh) -> bool {
        match refresh {
            RouteRefresh::Begin(Some(family)) => {
                let of_family = |p: &&IpNet| Family::of_prefix(**p) == family;
                self.stale.extend(self.routes.keys().filter(of_family));
                false
            }
            RouteRefresh::End(Some(family)) => {
                let (gone, rest) = std::mem::take(&mut self.stale)
                    .into_iter()
                    .partition(|p| Family::of_prefix(*p) == family);
                self.stale = rest;
                let gone: BTreeSet<IpNet> = gone;
                self.routes.retain(|prefix, _| !gone.contains(prefix));
                !gone.is_empty()
            }
            RouteRefresh::Begin(None)
            | RouteRefresh::End(None)
            | RouteRefresh::Request(_)
            | RouteRefresh::Unknown(_) => false,
        }
    }

    /// The kept routes.
    #[must_use]
    pub fn routes(&self) -> &BTreeMap<IpNet, LearnedRoute> {
        &self.routes
    }

    /// How many routes the limit has kept out.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

/// RFC 4271: not with our AS in the path (section 9.1.2), not by way of ourselves (section 5.1.3), and only a
/// destination and a next hop to which packets can be sent.
fn usable(
    prefix: IpNet,
    ourselves: Ourselves<'_>,
    update: &ReceivedUpdate,
) -> Option<LearnedRoute> {
    let attributes = &update.attributes;
    let next_hop = attributes.next_hop_of(prefix)?;
    let looped = attributes.as_path.contains(&ourselves.asn.get());
    let back = ourselves.addresses.contains(&next_hop);
    if looped || back || next_hop.is_unspecified() || !is_destination(prefix) {
        return None;
    }
    Some(LearnedRoute {
        origin: attributes.origin,
        next_hop,
        as_path: attributes.as_path.clone(),
        local_pref: attributes.local_pref,
        communities: attributes.communities.clone(),
        large_communities: attributes.large_communities.clone(),
    })
}

/// Neither loopback, multicast nor link-local.
fn is_destination(prefix: IpNet) -> bool {
    match prefix {
        IpNet::V4(v4) => {
            let address = v4.network();
            let special =
                address.is_loopback() || address.octets()[0] >= 224 || address.is_link_local();
            v4.prefix_len() == 0 || !special
        }
        IpNet::V6(v6) => {
            let address = v6.network();
            let special =
                address.is_loopback() || address.is_multicast() || address.is_unicast_link_local();
            v6.prefix_len() == 0 || !special
        }
    }
}

impl LearnPolicy {
    fn wants(self, prefix: IpNet) -> bool {
        !self.only_default || prefix.prefix_len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{PathAttributes, Treatment};

    const OURS: u32 = 65_000;

    fn update(announced: &[&str], withdrawn: &[&str], as_path: &[u32]) -> ReceivedUpdate {
        let nets = |list: &[&str]| list.iter().map(|p| p.parse().unwrap()).collect();
        ReceivedUpdate {
            announced: nets(announced),
            withdrawn: nets(withdrawn),
            attributes: PathAttributes {
                as_path: as_path.to_vec(),
                next_hop: Some("10.0.0.1".parse().unwrap()),
                mp_next_hop: Some((Family::Ipv6Unicast, "2001:db8::1".parse().unwrap())),
                ..PathAttributes::default()
            },
            treatment: Treatment::Accepted,
            end_of_rib: None,
            raw: None,
        }
    }

    fn learning(policy: LearnPolicy) -> AdjRibIn {
        let mut rib = AdjRibIn::default();
        assert!(rib.set_policy(Some(policy)));
        rib
    }

    fn take(rib: &mut AdjRibIn, announced: &[&str], withdrawn: &[&str]) -> bool {
        rib.update(ourselves(), &update(announced, withdrawn, &[7]))
    }

    fn ourselves() -> Ourselves<'static> {
        const ADDRESSES: [IpAddr; 1] = [IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 11))];
        Ourselves {
            asn: Asn::new(OURS).unwrap(),
            addresses: &ADDRESSES,
        }
    }

    fn held(rib: &AdjRibIn) -> Vec<String> {
        rib.routes().keys().map(ToString::to_string).collect()
    }

    const ALL: LearnPolicy = LearnPolicy {
        only_default: false,
        limit: 50,
    };

    #[test]
    fn nothing_is_kept_unless_asked_for() {
        let mut rib = AdjRibIn::default();
        assert!(!take(&mut rib, &["10.1.0.0/16"], &[]));
        assert!(rib.routes().is_empty());
    }

    #[test]
    fn routes_come_and_go_and_a_repetition_changes_nothing() {
        let mut rib = learning(ALL);
        assert!(take(&mut rib, &["10.1.0.0/16", "10.2.0.0/16"], &[]));
        assert!(!take(&mut rib, &["10.1.0.0/16"], &["10.9.0.0/16"]));
        assert!(take(&mut rib, &[], &["10.1.0.0/16"]));
        assert_eq!(held(&rib), ["10.2.0.0/16"]);
    }

    #[test]
    fn only_the_default_route_is_kept_when_only_that_is_wanted() {
        let mut rib = learning(LearnPolicy {
            only_default: true,
            limit: 50,
        });
        take(&mut rib, &["0.0.0.0/0", "10.0.0.0/8", "::/0"], &[]);
        assert_eq!(held(&rib), ["0.0.0.0/0", "::/0"]);
    }

    /// RFC 4271 section 9.1.2: our own AS in the path.
    #[test]
    fn our_own_routes_are_not_learned_back() {
        let mut rib = learning(ALL);
        take(&mut rib, &["10.1.0.0/16"], &[]);
        assert!(rib.update(ourselves(), &update(&["10.1.0.0/16"], &[], &[7, OURS])));
        assert!(rib.routes().is_empty());
        let mut back = update(&["10.1.0.0/16"], &[], &[7]);
        back.attributes.next_hop = Some("10.0.0.11".parse().unwrap());
        assert!(!rib.update(ourselves(), &back), "RFC 4271 section 5.1.3");
    }

    #[test]
    fn what_is_no_destination_is_not_learned() {
        let mut rib = learning(ALL);
        let odd = [
            "127.0.0.0/8",
            "224.0.0.0/4",
            "169.254.0.0/16",
            "ff00::/8",
            "fe80::/10",
            "::1/128",
        ];
        take(&mut rib, &odd, &[]);
        assert_eq!(held(&rib), [""; 0]);
        take(&mut rib, &["0.0.0.0/0", "::/0", "10.0.0.0/8"], &[]);
        assert_eq!(held(&rib), ["0.0.0.0/0", "10.0.0.0/8", "::/0"]);
    }

    #[test]
    fn each_family_has_its_own_next_hop() {
        let mut rib = learning(ALL);
        take(&mut rib, &["10.1.0.0/16", "2001:db8:1::/48"], &[]);
        let hops: Vec<_> = rib
            .routes()
            .values()
            .map(|r| r.next_hop.to_string())
            .collect();
        assert_eq!(hops, ["10.0.0.1", "2001:db8::1"]);
    }

    /// RFC 1997.
    #[test]
    fn well_known_communities_keep_a_route_from_going_on() {
        let route = |communities: &[Community]| LearnedRoute {
            origin: Origin::Igp,
            next_hop: "10.0.0.1".parse().unwrap(),
            as_path: vec![7],
            local_pref: None,
            communities: communities.to_vec(),
            large_communities: vec![],
        };
        for (community, internal, external) in [
            (Community(7), true, true),
            (Community::NO_EXPORT, true, false),
            (Community::LOCAL_AS, true, false),
            (Community::NO_ADVERTISE, false, false),
        ] {
            let route = route(&[community]);
            let passed = [true, false].map(|to_internal| route.may_be_passed_on(to_internal));
            assert_eq!(passed, [internal, external], "{community:?}");
        }
    }

    #[test]
    fn the_limit_keeps_what_is_there_and_counts_what_it_refuses() {
        let mut rib = learning(LearnPolicy { limit: 2, ..ALL });
        take(
            &mut rib,
            &["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"],
            &[],
        );
        assert_eq!(held(&rib), ["10.1.0.0/16", "10.2.0.0/16"]);
        assert_eq!(rib.refused(), 1);
        assert!(rib.set_policy(Some(ALL)), "the refused one is wanted again");
        assert!(!rib.set_policy(Some(LearnPolicy { limit: 1, ..ALL })));
        assert_eq!(held(&rib), ["10.1.0.0/16"]);
    }

    /// RFC 7313 section 4: what was not sent again is gone.
    #[test]
    fn an_enhanced_refresh_sweeps_what_was_not_repeated() {
        let mut rib = learning(ALL);
        take(
            &mut rib,
            &["10.1.0.0/16", "10.2.0.0/16", "2001:db8::/32"],
            &[],
        );
        assert!(!rib.demarcation(RouteRefresh::Begin(Some(Family::Ipv4Unicast))));
        take(&mut rib, &["10.2.0.0/16"], &[]);
        assert!(rib.demarcation(RouteRefresh::End(Some(Family::Ipv4Unicast))));
        assert_eq!(held(&rib), ["10.2.0.0/16", "2001:db8::/32"]);
    }
}
