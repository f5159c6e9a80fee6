//! Which routers an engine tells of a VIP, as configuration and its interfaces have it.

use super::situation;
use crate::objects::Snapshot;
use ipnet::IpNet;
use model::view::{BgpPeer, BgpProfile, MADE_FOR_VS, Prefix, VirtualService, VsVip};
use proto::v1::Interface;
use std::net::IpAddr;
use std::sync::Arc;

/// A router in a subnet of an engine's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Near<'a> {
    pub peer: &'a BgpPeer,
    pub address: IpAddr,
    /// Interfaces of the engine in the peer's subnet: each is a session, and a next hop.
    pub links: usize,
}

/// avi-api section 12, virtualservice: "VS wins if it has its own `vip`".
pub(super) fn labels<'a>(vsvip: &'a VsVip, services: &'a [Arc<VirtualService>]) -> &'a [String] {
    let own = services
        .first()
        .filter(|_| vsvip.created_by == MADE_FOR_VS)
        .map(|vs| &vs.bgp_peer_labels);
    own.filter(|l| !l.is_empty())
        .unwrap_or(&vsvip.bgp_peer_labels)
}

/// Its routes are marked and then withdrawn.
pub(super) fn is_draining(snapshot: &Snapshot, engine: &str) -> bool {
    situation::enable_state(snapshot, engine).is_some_and(situation::drains)
}

/// Those that the settings let the route go to, in a subnet of the engine's.
pub(super) fn near<'a>(
    profile: &'a BgpProfile,
    labels: &[String],
    interfaces: &[Interface],
) -> Vec<Near<'a>> {
    let wanted = |peer: &&BgpPeer| {
        let label = peer.label.as_ref();
        let fits = labels.is_empty() || label.is_some_and(|l| labels.contains(l));
        fits && peer.advertise_vip && !peer.shutdown
    };
    let ends = profile.peers.iter().filter(wanted).flat_map(|peer| {
        let four = (&peer.peer_ip, &peer.subnet);
        let six = (&peer.peer_ip6, &peer.subnet6);
        [four, six].map(|(address, subnet)| (peer, address, subnet))
    });
    let near = ends.filter_map(|(peer, address, subnet)| {
        let subnet = subnet.as_ref().and_then(Prefix::net)?;
        let links = interfaces.iter().filter(|i| is_in(i, &subnet)).count();
        let address = address.as_ref()?.ip()?;
        (links > 0).then_some(Near {
            peer,
            address,
            links,
        })
    });
    near.collect()
}

fn is_in(interface: &Interface, subnet: &IpNet) -> bool {
    let mut networks = interface
        .addresses
        .iter()
        .filter_map(|a| a.parse::<IpNet>().ok());
    networks.any(|n| subnet.contains(&n.addr()))
}

/// Each address family on its own session is what most operators configure; where there is none of the family, others
/// carry it (RFC 4760).
pub(super) fn of_family<'a>(near: &[Near<'a>], v4: bool) -> Vec<Near<'a>> {
    let own = near.iter().filter(|n| n.address.is_ipv4() == v4);
    let own: Vec<Near<'a>> = own.copied().collect();
    if own.is_empty() { near.to_vec() } else { own }
}
