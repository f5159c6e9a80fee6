//! What one peer should hold: attributes by profile, VIP and address, and what its settings keep back.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bgp::rib::{AttributeError, AttributeValues, LOCAL_PREF_DEFAULT, RouteAttributes, RouteTable};
use bgp::rib_in::LearnedRoute;
use bgp::{Community, LargeCommunity};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proto::v1;

use super::super::learn::BestRoute;
use super::peer::Peer;
use super::{Announcement, BestRoutes, BgpDesired, ProfileError};

/// Routes that are wanted and kept from a peer by its settings, with the reason code.
pub(super) type Withheld = BTreeMap<IpNet, &'static str>;

/// Communities of both kinds.
type Communities = (Vec<Community>, Vec<LargeCommunity>);

/// Turns announcements into attributes; equal attributes share one allocation, and one UPDATE.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Policy {
    local_preference: u32,
    prepend: u32,
    communities: Communities,
    by_address: Vec<(IpAddr, IpAddr, Communities)>,
    shared: BTreeMap<RouteAttributes, Arc<RouteAttributes>>,
}

impl Policy {
    pub(super) fn new(profile: &v1::BgpProfile) -> Result<Self, ProfileError> {
        let policy = Self {
            local_preference: profile.local_preference.unwrap_or(LOCAL_PREF_DEFAULT),
            prepend: profile.num_as_path_prepend.unwrap_or(0),
            communities: communities("communities", &profile.communities)?,
            by_address: by_address(profile)?,
            shared: BTreeMap::new(),
        };
        let every = policy.by_address.iter().map(|(_, _, list)| list);
        for list in every.chain([&policy.communities]) {
            policy.attributes(None, list).map_err(|e| field_of(&e))?;
        }
        Ok(policy)
    }

    /// The table of a peer, and what is kept from it. An engine that has drained keeps the addresses that servers answer to,
    /// which what goes on needs, and nothing else, not even what it passes on.
    pub(super) fn table(
        &mut self,
        desired: &BgpDesired,
        learned: &BestRoutes,
        peer: &Peer,
        drained: bool,
    ) -> (RouteTable, Withheld) {
        let (mut table, mut withheld) = (RouteTable::new(), Withheld::new());
        for (address, announcement) in &desired.routes {
            let prefix = IpNet::from(*address);
            let draining = (drained && !announcement.snat).then_some("draining");
            match kept_back(announcement, peer).or(draining) {
                Some(reason) => {
                    withheld.insert(prefix, reason);
                }
                None => {
                    let attributes = self.share(*address, announcement, desired.draining);
                    table.insert(prefix, attributes);
                }
            }
        }
        if !drained {
            self.add_passed_on(&mut table, desired, learned, peer);
        }
        (table, withheld)
    }

    /// What the peer's `routing_options` add: the default route with us as next hop, and routes learned from
    /// others. The core sends only those of families that the session has.
    fn add_passed_on(
        &mut self,
        table: &mut RouteTable,
        desired: &BgpDesired,
        learned: &BestRoutes,
        peer: &Peer,
    ) {
        if peer.options.advertise_default_route {
            for default in [Ipv4Net::default().into(), Ipv6Net::default().into()] {
                let attributes = self.passed_on(AttributeValues::default(), desired.draining);
                table.entry(default).or_insert(attributes);
            }
        }
        if !peer.options.advertise_learned_routes {
            return;
        }
        for (prefix, best) in learned.iter().filter(|(_, best)| goes_on(best, peer)) {
            let attributes = self.passed_on(as_learned(&best.route), desired.draining);
            table.entry(*prefix).or_insert(attributes);
        }
    }

    fn passed_on(&mut self, values: AttributeValues, draining: bool) -> Arc<RouteAttributes> {
        // The caller has seen to the lengths, the only thing that could be wrong.
        let attributes = RouteAttributes::new(values).unwrap_or_default();
        self.shared(if draining {
            attributes.shutting_down()
        } else {
            attributes
        })
    }

    fn share(
        &mut self,
        address: IpAddr,
        announcement: &Announcement,
        draining: bool,
    ) -> Arc<RouteAttributes> {
        let communities = self.communities_of(address);
        // The ranges were checked with the profile; an impossible prepend of a VIP falls back to none.
        let attributes = self
            .attributes(Some(announcement), communities)
            .unwrap_or_default();
        let attributes = if draining {
            attributes.shutting_down()
        } else {
            attributes
        };
        self.shared(attributes)
    }

    fn shared(&mut self, attributes: RouteAttributes) -> Arc<RouteAttributes> {
        if let Some(known) = self.shared.get(&attributes) {
            return known.clone();
        }
        let shared = Arc::new(attributes.clone());
        self.shared.insert(attributes, shared.clone());
        shared
    }

    fn communities_of(&self, address: IpAddr) -> &Communities {
        let covers = |(first, last, _): &&(IpAddr, IpAddr, Communities)| {
            first.is_ipv4() == address.is_ipv4() && (*first..=*last).contains(&address)
        };
        let special = self.by_address.iter().find(covers);
        special.map_or(&self.communities, |(_, _, list)| list)
    }

    fn attributes(
        &self,
        announcement: Option<&Announcement>,
        (communities, large_communities): &Communities,
    ) -> Result<RouteAttributes, AttributeError> {
        let own = announcement.and_then(|a| a.local_preference);
        let own_prepend = announcement.and_then(|a| a.num_as_path_prepend);
        RouteAttributes::new(AttributeValues {
            local_pref: own.unwrap_or(self.local_preference),
            prepend: own_prepend.unwrap_or(self.prepend),
            communities: communities.clone(),
            large_communities: large_communities.clone(),
            ..AttributeValues::default()
        })
    }
}

/// Not from one internal peer to another (RFC 4271 section 9.2), not back to where it came from, not against its
/// communities (RFC 1997), and not longer than we can encode.
fn goes_on(best: &BestRoute, peer: &Peer) -> bool {
    let back = best.peers.contains(&peer.address);
    let reflected = best.ibgp && peer.ibgp();
    let route = &best.route;
    let fits = route.as_path.len() <= RouteAttributes::AS_PATH_MAX
        && route.communities.len() <= RouteAttributes::COMMUNITIES_MAX
        && route.large_communities.len() <= RouteAttributes::COMMUNITIES_MAX;
    !back && !reflected && fits && route.may_be_passed_on(peer.ibgp())
}

/// What of a learned route is passed on (RFC 4271 section 5).
fn as_learned(route: &LearnedRoute) -> AttributeValues {
    AttributeValues {
        origin: route.origin,
        as_path: route.as_path.clone(),
        communities: route.communities.clone(),
        large_communities: route.large_communities.clone(),
        ..AttributeValues::default()
    }
}

/// Why the peer's settings keep the route from it (avi-api annex, `BgpPeer` and `VsVip`).
fn kept_back(announcement: &Announcement, peer: &Peer) -> Option<&'static str> {
    match announcement {
        Announcement { snat: true, .. } if !peer.advertise_snat_ip => Some("advertise_snat_ip_off"),
        Announcement { snat: false, .. } if !peer.advertise_vip => Some("advertise_vip_off"),
        Announcement { peer_labels, .. }
            if !peer_labels.is_empty() && !peer_labels.contains(&peer.label) =>
        {
            Some("peer_label_mismatch")
        }
        Announcement { .. } => None,
    }
}

fn by_address(
    profile: &v1::BgpProfile,
) -> Result<Vec<(IpAddr, IpAddr, Communities)>, ProfileError> {
    let parse = |(index, rule): (usize, &v1::IpCommunities)| {
        let field = format!("ip_communities[{index}]");
        let address = |name: &str, text: &str| {
            text.parse::<IpAddr>().map_err(|_| ProfileError {
                field: format!("{field}.{name}"),
                reason: format!("\"{text}\" is not an IP address"),
            })
        };
        let (first, last) = (address("first", &rule.first)?, address("last", &rule.last)?);
        let list = communities(&format!("{field}.communities"), &rule.communities)?;
        Ok((first, last, list))
    };
    let rules = profile.ip_communities.iter().enumerate();
    rules.map(parse).collect()
}

/// Two numbers are a community, three a large one.
fn communities(field: &str, texts: &[String]) -> Result<Communities, ProfileError> {
    let mut lists = Communities::default();
    for (index, text) in texts.iter().enumerate() {
        let wrong = |reason: String| ProfileError {
            field: format!("{field}[{index}]"),
            reason,
        };
        if text.matches(':').count() == 2 {
            let large: Result<LargeCommunity, _> = text.parse();
            lists.1.push(large.map_err(|e| wrong(e.to_string()))?);
        } else {
            let standard: Result<Community, _> = text.parse();
            lists.0.push(standard.map_err(|e| wrong(e.to_string()))?);
        }
    }
    Ok(lists)
}

fn field_of(error: &AttributeError) -> ProfileError {
    let field = match error {
        AttributeError::TooManyPrepends(_) => "num_as_path_prepend",
        AttributeError::TooManyCommunities(_) | AttributeError::AsPathTooLong(_) => "communities",
    };
    ProfileError {
        field: field.to_owned(),
        reason: error.to_string(),
    }
}
