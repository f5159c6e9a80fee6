//! BGP peers that are reached by a network's subnets (`network_ref`, where no subnet is given).

use super::Snapshot;
use model::object::FieldError;
use model::view::{Address, BgpPeer, BgpProfile, Network, Prefix, VrfContext};

/// A network that a peer of this VRF context names has a subnet that reaches it.
pub(super) fn check(snapshot: &Snapshot, vrf: &str, errors: &mut Vec<FieldError>) {
    let view = snapshot.view::<VrfContext>("vrfcontext", vrf);
    let Some(profile) = view.as_ref().and_then(|v| v.bgp_profile.as_ref()) else {
        return;
    };
    for (i, peer) in profile.peers.iter().enumerate() {
        if let Some(problem) = problem(snapshot, profile, peer) {
            let hint = "give the network such a subnet (configured_subnets), or the peer a subnet";
            let path = format!("bgp_profile.peers[{i}].network_ref");
            errors.push(FieldError::new(path, problem, hint));
        }
    }
}

/// A network that changes still reaches the peers that name it.
pub(super) fn check_users(snapshot: &Snapshot, network: &str, errors: &mut Vec<FieldError>) {
    let users = snapshot.referring_to("network", network);
    for (_, vrf) in users.filter(|(path, _)| *path == "vrfcontext") {
        let mut own = Vec::new();
        check(snapshot, vrf, &mut own);
        let name = snapshot.name_of("vrfcontext", vrf).unwrap_or(vrf);
        let of_user = |error: FieldError| {
            let problem = format!("VRF context {name}: {}: {}", error.path, error.problem);
            FieldError::new("configured_subnets", problem, error.hint)
        };
        errors.extend(own.into_iter().map(of_user));
    }
}

fn problem(snapshot: &Snapshot, profile: &BgpProfile, peer: &BgpPeer) -> Option<String> {
    let network = peer.network_ref.as_ref()?;
    let network = snapshot.view::<Network>("network", network.uuid())?;
    let mut filled = peer.clone();
    filled.fill_subnets(&network);
    let ends = [
        (&peer.peer_ip, &peer.subnet, &filled.subnet),
        (&peer.peer_ip6, &peer.subnet6, &filled.subnet6),
    ];
    let mut from_network = ends.into_iter().filter(|(_, given, _)| given.is_none());
    from_network.find_map(|(address, _, subnet)| {
        let router = address.as_ref().and_then(Address::ip)?;
        let Some(subnet) = subnet.as_ref().and_then(Prefix::net) else {
            return Some(format!(
                "network {} has no subnet of the family of the peer {router}",
                network.name
            ));
        };
        let far = profile.ibgp || peer.ebgp_multihop > 0;
        (!far && !subnet.contains(&router)).then(|| {
            format!(
                "the peer {router} is in no subnet of network {}",
                network.name
            )
        })
    })
}
