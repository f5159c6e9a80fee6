//! The routes of a VIP as configuration and placement have them: by address and engine, to which peers.

use super::Scene;
use crate::engines::Registry;
use crate::plan::situation;
use ipnet::IpNet;
use model::view::{BgpPeer, BgpProfile, MADE_FOR_VS, Prefix, VirtualService, VrfContext, VsVip};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// One address at one engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub vip: IpAddr,
    pub engine: String,
    /// The routers that are told.
    pub peers: BTreeSet<IpAddr>,
}

/// Works them out, one VIP after the other.
pub(super) struct Routes<'a> {
    scene: &'a Scene<'a>,
    /// By uuid of the VRF context.
    profiles: BTreeMap<String, Option<BgpProfile>>,
}

impl<'a> Routes<'a> {
    pub(super) fn new(scene: &'a Scene<'a>) -> Self {
        Self {
            scene,
            profiles: BTreeMap::new(),
        }
    }

    /// Of this VIP; none where a condition of configuration or placement does not hold.
    pub(super) fn of(&mut self, registry: &Registry, vsvip: &str) -> Vec<Route> {
        let scene = self.scene;
        let Some(view) = scene.snapshot.view::<VsVip>("vsvip", vsvip) else {
            return Vec::new();
        };
        let services = scene.services(vsvip);
        let announces =
            |vs: &Arc<VirtualService>| vs.enabled && vs.traffic_enabled && vs.enable_rhi;
        if !services.iter().any(announces) {
            return Vec::new();
        }
        let vrf = view.vrf_context_ref.as_ref().map_or("", |r| r.uuid());
        let Some(profile) = self.profile(vrf) else {
            return Vec::new();
        };
        let labels = labels(&view, &services).to_vec();
        let vips = view.vip.iter().filter(|v| v.enabled);
        let addresses: Vec<IpAddr> = vips.flat_map(|v| v.addresses()).collect();
        let engines = scene.engines(vsvip).iter();
        let engines = engines.filter(|e| !is_draining(scene, e));
        engines
            .flat_map(|engine| {
                let peers = peers(&profile, &labels, &networks(registry, engine));
                addresses.iter().map(move |vip| Route {
                    vip: *vip,
                    engine: engine.clone(),
                    peers: of_family(&peers, vip.is_ipv4()),
                })
            })
            .filter(|route| !route.peers.is_empty())
            .collect()
    }

    fn profile(&mut self, vrf: &str) -> Option<BgpProfile> {
        let read = || {
            let view = self.scene.snapshot.view::<VrfContext>("vrfcontext", vrf)?;
            view.bgp_profile.clone().filter(|p| !p.shutdown)
        };
        if let Some(known) = self.profiles.get(vrf) {
            return known.clone();
        }
        let profile = read();
        self.profiles.insert(vrf.to_owned(), profile.clone());
        profile
    }
}

/// Of those in `all` what `other` does not have.
pub(super) fn missing(all: &[Route], other: &[Route]) -> Vec<Route> {
    let less = |route: &Route| {
        let same = other
            .iter()
            .find(|o| o.vip == route.vip && o.engine == route.engine);
        let had = same.map(|o| &o.peers);
        let peers = route.peers.iter();
        let peers = peers.filter(|p| had.is_none_or(|had| !had.contains(p)));
        Route {
            peers: peers.copied().collect(),
            ..route.clone()
        }
    };
    let each = all.iter().map(less);
    each.filter(|r| !r.peers.is_empty()).collect()
}

/// avi-api section 12, virtualservice: "VS wins if it has its own `vip`".
fn labels<'a>(vsvip: &'a VsVip, services: &'a [Arc<VirtualService>]) -> &'a [String] {
    let own = services
        .first()
        .filter(|_| vsvip.created_by == MADE_FOR_VS)
        .map(|vs| &vs.bgp_peer_labels);
    own.filter(|l| !l.is_empty())
        .unwrap_or(&vsvip.bgp_peer_labels)
}

/// Its routes are marked and then withdrawn.
fn is_draining(scene: &Scene<'_>, engine: &str) -> bool {
    let state = situation::enable_state(scene.snapshot, engine);
    ["SE_STATE_DISABLED", "SE_STATE_DISABLED_FORCE"].contains(&state.unwrap_or_default())
}

fn networks(registry: &Registry, engine: &str) -> Vec<IpNet> {
    let interfaces = registry.get(engine).interfaces;
    let addresses = interfaces.iter().flat_map(|i| &i.addresses);
    addresses.filter_map(|a| a.parse().ok()).collect()
}

/// Those that the settings let the route go to, in a subnet of the engine's.
fn peers(profile: &BgpProfile, labels: &[String], networks: &[IpNet]) -> Vec<IpAddr> {
    let wanted = |peer: &&BgpPeer| {
        let label = peer.label.as_ref();
        let fits = labels.is_empty() || label.is_some_and(|l| labels.contains(l));
        fits && peer.advertise_vip && !peer.shutdown
    };
    let near = |subnet: &Option<Prefix>| {
        let subnet = subnet.as_ref().and_then(Prefix::net);
        subnet.is_some_and(|s| networks.iter().any(|n| s.contains(&n.addr())))
    };
    let ends = profile.peers.iter().filter(wanted).flat_map(|peer| {
        [
            (&peer.peer_ip, &peer.subnet),
            (&peer.peer_ip6, &peer.subnet6),
        ]
    });
    let ends = ends.filter(|(_, subnet)| near(subnet));
    ends.filter_map(|(address, _)| address.as_ref()?.ip())
        .collect()
}

/// Each address family on its own session is what most operators configure; where there is none of the family, others
/// carry it (RFC 4760).
fn of_family(peers: &[IpAddr], v4: bool) -> BTreeSet<IpAddr> {
    let own: BTreeSet<IpAddr> = peers
        .iter()
        .filter(|p| p.is_ipv4() == v4)
        .copied()
        .collect();
    if own.is_empty() {
        peers.iter().copied().collect()
    } else {
        own
    }
}
