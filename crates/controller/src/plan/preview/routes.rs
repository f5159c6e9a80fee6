//! The routes of a VIP as configuration and placement have them: by address and engine, to which peers.

use super::Scene;
use crate::engines::Registry;
use crate::plan::peers;
use crate::plan::situation;
use model::view::{BgpProfile, VirtualService, VsVip};
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
        let labels = peers::labels(&view, &services).to_vec();
        let vips = view.vip.iter().filter(|v| v.enabled);
        let addresses: Vec<IpAddr> = vips.flat_map(|v| v.addresses()).collect();
        let engines = scene.engines(vsvip).iter();
        let engines = engines.filter(|e| !peers::is_draining(scene.snapshot, e));
        engines
            .flat_map(|engine| {
                let interfaces = registry.get(engine).interfaces;
                let near = peers::near(&profile, &labels, &interfaces);
                let told = |vip: &IpAddr| peers::of_family(&near, vip.is_ipv4());
                let routes = addresses.iter().map(|vip| Route {
                    vip: *vip,
                    engine: engine.clone(),
                    peers: told(vip).iter().map(|near| near.address).collect(),
                });
                routes.collect::<Vec<_>>()
            })
            .filter(|route| !route.peers.is_empty())
            .collect()
    }

    fn profile(&mut self, vrf: &str) -> Option<BgpProfile> {
        let read = || {
            let view = situation::vrf_context(self.scene.snapshot, vrf)?;
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
