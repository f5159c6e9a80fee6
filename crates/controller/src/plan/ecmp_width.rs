//! Whether routers use all the engines of a VIP: each spreads a route over so many next hops and no more, and gives no
//! sign of the rest (seed, "The limit on SE count is imposed by the ECMP support on the upstream router").

use super::peers::{self, Near};
use super::runtime::Observer;
use super::situation;
use model::view::{BgpPeer, BgpProfile, Ref, Vip, VirtualService, VsVip};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Next hops that are worth a word where nobody knows how many the router uses: what the anchor product allows.
const SAFE_WIDTH: usize = 32;

/// What the router is told, by whose words.
const SETTINGS: &str = "FRR: maximum-paths under the address family; BIRD: merge paths … limit of the kernel protocol; Junos: maximum-ecmp and a load-balance policy; IOS, NX-OS and EOS: maximum-paths";

impl Observer<'_> {
    /// For each router that gets more next hops for the VIP than it uses, or may use, a warning.
    pub(super) fn width_warnings(&self, vs: &VirtualService, vsvip: &VsVip) -> Vec<Value> {
        let uuid = vsvip.vrf_context_ref.as_ref().map_or("", Ref::uuid);
        let vrf = situation::vrf_context(self.snapshot, uuid);
        let profile = vrf.as_ref().and_then(|v| v.bgp_profile.as_ref());
        let announced = vs.enabled && vs.traffic_enabled && vs.enable_rhi;
        let Some(profile) = profile.filter(|p| announced && !p.shutdown) else {
            return Vec::new();
        };
        let next_hops = self.next_hops(profile, vsvip);
        let warnings = next_hops.into_iter();
        warnings
            .filter_map(|(ip, (peer, paths))| warning(peer, ip, paths))
            .collect()
    }

    /// Of the address of the VIP that has most of them, by router.
    fn next_hops<'p>(
        &self,
        profile: &'p BgpProfile,
        vsvip: &VsVip,
    ) -> BTreeMap<IpAddr, (&'p BgpPeer, usize)> {
        let services = situation::services_of(self.snapshot, &vsvip.uuid);
        let labels = peers::labels(vsvip, &services);
        let engines = self.planner.assignment(&vsvip.uuid).engines;
        let engines = engines
            .iter()
            .filter(|se| !peers::is_draining(self.snapshot, se));
        let interfaces = engines.map(|se| self.registry.get(se).interfaces);
        let near: Vec<Vec<Near<'p>>> = interfaces
            .map(|i| peers::near(profile, labels, &i))
            .collect();
        let addresses = vsvip.vip.iter().filter(|v| v.enabled);
        let mut most = BTreeMap::new();
        for address in addresses.flat_map(Vip::addresses) {
            let told = near
                .iter()
                .flat_map(|n| peers::of_family(n, address.is_ipv4()));
            for (router, (peer, paths)) in sum(told) {
                let known = most.entry(router).or_insert((peer, 0));
                known.1 = paths.max(known.1);
            }
        }
        most
    }
}

fn sum<'p>(told: impl Iterator<Item = Near<'p>>) -> BTreeMap<IpAddr, (&'p BgpPeer, usize)> {
    let mut sums = BTreeMap::new();
    for near in told {
        sums.entry(near.address).or_insert((near.peer, 0)).1 += near.links;
    }
    sums
}

fn warning(peer: &BgpPeer, ip: IpAddr, paths: usize) -> Option<Value> {
    let width = peer.ecmp_width.map(|w| w as usize);
    let (code, text) = match width {
        Some(width) if paths > width => (
            "ecmp_width_exceeded",
            format!(
                "{ip} gets {paths} next hops for the VIP and uses {width} of them (ecmp_width of the peer): the others get no traffic by it; let the router use more ({SETTINGS}), or scale in"
            ),
        ),
        None if paths > SAFE_WIDTH => (
            "ecmp_width_unknown",
            format!(
                "{ip} gets {paths} next hops for the VIP, and many routers use {SAFE_WIDTH} at most: see that it uses all ({SETTINGS}), and write the number to ecmp_width of the peer"
            ),
        ),
        _ => return None,
    };
    Some(
        json!({"reason_code": code, "peer_ip": ip.to_string(), "next_hops": paths, "ecmp_width": width, "reason": text}),
    )
}
