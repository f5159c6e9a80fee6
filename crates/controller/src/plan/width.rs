//! Whether routers use all the engines of a VIP: each spreads a route over so many next hops and no more, and gives no
//! sign of the rest (seed, "The limit on SE count is imposed by the ECMP support on the upstream router").

use super::runtime::Observer;
use super::situation;
use ipnet::IpNet;
use model::view::{BgpPeer, Prefix, Ref, VirtualService, VrfContext, VsVip};
use serde_json::{Value, json};
use std::net::IpAddr;

/// Next hops that are worth a word where nobody knows how many the router uses: what the anchor product allows.
const SAFE_WIDTH: usize = 32;

/// What the router is told, by whose words.
const SETTINGS: &str = "FRR: maximum-paths under the address family; BIRD: merge paths … limit of the kernel protocol; Junos: maximum-ecmp and a load-balance policy; IOS, NX-OS and EOS: maximum-paths";

impl Observer<'_> {
    /// For each router that gets more next hops for the VIP than it uses, or may use, a warning.
    pub(super) fn width_warnings(&self, vs: &VirtualService, vsvip: &VsVip) -> Vec<Value> {
        if !vs.enable_rhi {
            return Vec::new();
        }
        let uuid = vsvip.vrf_context_ref.as_ref().map_or("", Ref::uuid);
        let vrf = self.snapshot.view::<VrfContext>("vrfcontext", uuid);
        let profile = vrf.as_ref().and_then(|v| v.bgp_profile.as_ref());
        let peers = profile.into_iter().flat_map(|p| &p.peers);
        let networks = self.networks(&vsvip.uuid);
        let used = peers.filter(|p| p.advertise_vip && !p.shutdown);
        used.flat_map(|peer| sessions(peer, &networks))
            .filter_map(|(peer, ip, paths)| warning(peer, ip, paths))
            .collect()
    }

    /// Of the data interfaces of all engines that announce it.
    fn networks(&self, vsvip: &str) -> Vec<IpNet> {
        let engines = self.planner.assignment(vsvip).engines;
        let serves = engines
            .iter()
            .filter(|se| situation::enable_state(self.snapshot, se) != Some("SE_STATE_DISABLED"));
        let interfaces = serves.flat_map(|se| self.registry.get(se).interfaces);
        let addresses = interfaces.flat_map(|i| i.addresses);
        addresses.filter_map(|a| a.parse().ok()).collect()
    }
}

/// The peer's addresses, each with the number of interfaces that have a session with it.
fn sessions<'a>(
    peer: &'a BgpPeer,
    networks: &[IpNet],
) -> impl Iterator<Item = (&'a BgpPeer, IpAddr, usize)> {
    let pairs = [
        (&peer.peer_ip, &peer.subnet),
        (&peer.peer_ip6, &peer.subnet6),
    ];
    let counts = pairs.map(|(ip, subnet)| {
        let ip = ip.as_ref()?.ip()?;
        let subnet = subnet.as_ref().and_then(Prefix::net)?;
        let inside = networks.iter().filter(|n| subnet.contains(&n.addr()));
        Some((peer, ip, inside.count()))
    });
    counts.into_iter().flatten()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(width: Value) -> BgpPeer {
        let peer = json!({
            "peer_ip": {"addr": "10.0.0.1", "type": "V4"}, "ecmp_width": width,
            "subnet": {"ip_addr": {"addr": "10.0.0.0", "type": "V4"}, "mask": 16},
        });
        serde_json::from_value(peer).expect("a peer")
    }

    fn warned(width: Value, engines: u8) -> Option<String> {
        let peer = peer(width);
        let near = (1..=engines).map(|n| format!("10.0.1.{n}/16"));
        let far = (1..=engines).map(|n| format!("10.9.1.{n}/16"));
        let networks: Vec<IpNet> = near.chain(far).filter_map(|n| n.parse().ok()).collect();
        let (peer, ip, paths) = sessions(&peer, &networks).next().expect("one");
        assert_eq!(paths, usize::from(engines));
        let code = warning(peer, ip, paths)?["reason_code"].clone();
        Some(code.as_str().expect("text").to_owned())
    }

    #[test]
    fn more_next_hops_than_the_router_uses_are_pointed_out_and_many_where_it_is_not_known() {
        assert_eq!(warned(json!(4), 4), None);
        assert_eq!(warned(json!(4), 5).as_deref(), Some("ecmp_width_exceeded"));
        assert_eq!(warned(Value::Null, 32), None);
        let unknown = warned(Value::Null, 33);
        assert_eq!(unknown.as_deref(), Some("ecmp_width_unknown"));
        assert_eq!(warned(json!(64), 64), None);
    }
}
