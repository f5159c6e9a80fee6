//! What an engine refuses, in the words of the API: it names fields of the desired state, operators know objects.

use model::condition::Condition;
use proto::v1::{DesiredState, Nack};

use super::scope::Tells;
use crate::engines::registry::EngineState;

/// A refusal, related to the objects that the refused state was made from.
pub(super) struct Refusal<'a> {
    nack: &'a Nack,
    /// The refused state, when it is still known.
    desired: Option<&'a DesiredState>,
}

impl<'a> Refusal<'a> {
    /// The refusal of the newest state, if there is one.
    pub(super) fn of(state: &'a EngineState) -> Option<Self> {
        let nack = state.nack.as_ref()?;
        let desired = state.desired.as_deref();
        let desired = desired.filter(|d| d.generation == nack.generation);
        Some(Self { nack, desired })
    }

    /// For people.
    pub(super) fn sentence(&self) -> String {
        let Nack {
            generation,
            field: _,
            reason,
        } = self.nack;
        let field = self.field();
        format!("it refuses generation {generation}: {field}: {reason}")
    }

    /// The same for somebody who is not told of every object.
    pub(super) fn sentence_for(&self, tells: &Tells<'_>) -> String {
        match self.object() {
            Some((path, uuid)) if !tells(path, uuid) => {
                let generation = self.nack.generation;
                format!(
                    "it refuses generation {generation}, because of an object of another tenant"
                )
            }
            _ => self.sentence(),
        }
    }

    /// Path and uuid of the object that it speaks of.
    fn object(&self) -> Option<(&'static str, &str)> {
        let desired = self.desired?;
        let at = |list: &str| indexed(&self.nack.field, list).map(|(index, _)| index);
        if let Some(index) = at("virtual_services") {
            return Some(("virtualservice", &desired.virtual_services.get(index)?.uuid));
        }
        if let Some(index) = at("vips") {
            return Some(("vsvip", &desired.vips.get(index)?.vsvip_uuid));
        }
        if let Some(index) = at("pools") {
            return Some(("pool", &desired.pools.get(index)?.uuid));
        }
        let index = at("health_monitors")?;
        Some(("healthmonitor", &desired.health_monitors.get(index)?.uuid))
    }

    /// The condition that it speaks of on the way to this peer; for any other one the state as a whole is not in
    /// force.
    pub(super) fn condition(&self, peer: &str) -> Condition {
        let names_peer = self.peer().is_some_and(|address| address == peer);
        match self.nack.field.strip_prefix("vrf.bgp.") {
            Some(field) if names_peer && field.ends_with("].subnet") => {
                Condition::InterfaceInSubnet
            }
            Some(field) if names_peer || !field.starts_with("peers[") => {
                Condition::PeerConfigurationValid
            }
            _ => Condition::EngineConnected,
        }
    }

    fn peer(&self) -> Option<&str> {
        let (index, _) = indexed(&self.nack.field, "vrf.bgp.peers")?;
        let profile = self.desired?.vrf.as_ref()?.bgp.as_ref()?;
        Some(profile.peers.get(index)?.address.as_str())
    }

    /// The field of the API, or the one of the desired state where there is no other.
    fn field(&self) -> String {
        let field = self.nack.field.as_str();
        let known = self.peer_field().or_else(|| self.object_field());
        let profile = || {
            Some(format!(
                "bgp_profile.{}",
                renamed(field.strip_prefix("vrf.bgp.")?)
            ))
        };
        known.or_else(profile).unwrap_or_else(|| field.to_owned())
    }

    fn peer_field(&self) -> Option<String> {
        let (_, rest) = indexed(&self.nack.field, "vrf.bgp.peers")?;
        let peer = self.peer()?;
        let six = if peer.contains(':') { "6" } else { "" };
        Some(match rest {
            "address" => format!("bgp_profile.peers[{peer}].peer_ip{six}"),
            "subnet" => format!("bgp_profile.peers[{peer}].subnet{six}"),
            other => format!("bgp_profile.peers[{peer}].{}", renamed(other)),
        })
    }

    fn object_field(&self) -> Option<String> {
        let desired = self.desired?;
        let at = |list: &str| indexed(&self.nack.field, list);
        if let Some((index, rest)) = at("virtual_services") {
            let name = &desired.virtual_services.get(index)?.name;
            return Some(format!("virtualservice {name}: {}", renamed(rest)));
        }
        if let Some((index, _)) = at("vips") {
            return Some(format!("vip {}", desired.vips.get(index)?.address));
        }
        if let Some((index, rest)) = at("pools") {
            let name = &desired.pools.get(index)?.name;
            return Some(format!("pool {name}: {}", renamed(rest)));
        }
        let (index, rest) = at("health_monitors")?;
        let name = &desired.health_monitors.get(index)?.name;
        Some(format!("healthmonitor {name}: {}", renamed(rest)))
    }
}

/// Index and rest of `LIST[INDEX].REST`.
fn indexed<'a>(field: &'a str, list: &str) -> Option<(usize, &'a str)> {
    let (index, rest) = field
        .strip_prefix(list)?
        .strip_prefix('[')?
        .split_once(']')?;
    Some((index.parse().ok()?, rest.trim_start_matches('.')))
}

/// What the desired state names otherwise than the API (avi-api annex).
fn renamed(field: &str) -> String {
    [
        ("keepalive_s", "keepalive_interval"),
        ("hold_time_s", "hold_time"),
        ("connect_timer_s", "connect_timer"),
        ("advertisement_interval_s", "advertisement_interval"),
        ("communities[", "community["),
        ("ip_community[", "ip_communities["),
        (".communities", ".community"),
        (".first", ".ip_begin"),
        (".last", ".ip_end"),
        ("pool_group.members[", "pool_group_ref: members["),
        ("pool_uuid", "pool_ref"),
        ("health_monitor_uuids", "health_monitor_refs"),
        ("ports[", "services["),
    ]
    .into_iter()
    .fold(field.to_owned(), |text, (ours, theirs)| {
        text.replace(ours, theirs)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::{BgpPeer, BgpProfile, Vip, VirtualService, Vrf};
    use std::sync::Arc;

    fn state(field: &str, generation: u64) -> EngineState {
        let peer = |address: &str| BgpPeer {
            address: address.into(),
            ..BgpPeer::default()
        };
        let desired = DesiredState {
            generation: 7,
            vrf: Some(Vrf {
                bgp: Some(BgpProfile {
                    peers: vec![peer("10.0.0.1"), peer("fd00::1")],
                    ..BgpProfile::default()
                }),
                ..Vrf::default()
            }),
            vips: vec![Vip {
                address: "10.100.0.1".into(),
                ..Vip::default()
            }],
            virtual_services: vec![VirtualService {
                name: "web".into(),
                ..VirtualService::default()
            }],
            ..DesiredState::default()
        };
        let nack = Nack {
            generation,
            field: field.into(),
            reason: "why".into(),
        };
        EngineState {
            nack: Some(nack),
            desired: Some(Arc::new(desired)),
            ..EngineState::default()
        }
    }

    #[test]
    fn fields_have_the_names_of_the_api() {
        for (field, expected) in [
            (
                "vrf.bgp.peers[0].hold_time_s",
                "bgp_profile.peers[10.0.0.1].hold_time",
            ),
            (
                "vrf.bgp.peers[1].address",
                "bgp_profile.peers[fd00::1].peer_ip6",
            ),
            ("vrf.bgp.communities[2]", "bgp_profile.community[2]"),
            (
                "vrf.bgp.ip_communities[1].communities[2]",
                "bgp_profile.ip_communities[1].community[2]",
            ),
            (
                "vrf.bgp.ip_communities[1].first",
                "bgp_profile.ip_communities[1].ip_begin",
            ),
            ("vips[0].address", "vip 10.100.0.1"),
            (
                "virtual_services[0].pool_uuid",
                "virtualservice web: pool_ref",
            ),
            (
                "virtual_services[0].pool_group.members[1].pool_uuid",
                "virtualservice web: pool_group_ref: members[1].pool_ref",
            ),
            ("se_uuid", "se_uuid"),
            ("vips[9].address", "vips[9].address"),
        ] {
            let state = state(field, 7);
            let sentence = Refusal::of(&state).expect("refused").sentence();
            assert_eq!(
                sentence,
                format!("it refuses generation 7: {expected}: why")
            );
        }
        // Of another generation the indexes may mean something else.
        let old = state("vips[0].address", 6);
        let sentence = Refusal::of(&old).expect("refused").sentence();
        assert_eq!(sentence, "it refuses generation 6: vips[0].address: why");
    }

    #[test]
    fn an_object_of_another_tenant_is_not_named() {
        let foreign = "it refuses generation 7, because of an object of another tenant";
        for (field, path) in [
            ("virtual_services[0].pool_uuid", "virtualservice"),
            ("vips[0].address", "vsvip"),
        ] {
            let state = state(field, 7);
            let refusal = Refusal::of(&state).expect("refused");
            let to_others = refusal.sentence_for(&|asked, _| asked != path);
            assert_eq!(to_others, foreign);
            assert_eq!(refusal.sentence_for(&|_, _| true), refusal.sentence());
        }
        let state = state("vrf.bgp.communities[2]", 7);
        let refusal = Refusal::of(&state).expect("refused");
        assert_eq!(refusal.sentence_for(&|_, _| false), refusal.sentence());
    }

    #[test]
    fn a_refusal_is_of_the_condition_that_it_speaks_of() {
        use Condition::{EngineConnected, InterfaceInSubnet, PeerConfigurationValid};
        for (field, peer, expected) in [
            ("vrf.bgp.peers[0].subnet", "10.0.0.1", InterfaceInSubnet),
            ("vrf.bgp.peers[0].subnet", "fd00::1", EngineConnected),
            (
                "vrf.bgp.peers[1].md5_secret",
                "fd00::1",
                PeerConfigurationValid,
            ),
            ("vrf.bgp.communities[0]", "10.0.0.1", PeerConfigurationValid),
            ("vips[0].address", "10.0.0.1", EngineConnected),
        ] {
            let state = state(field, 7);
            let condition = Refusal::of(&state).expect("refused").condition(peer);
            assert_eq!(condition, expected, "{field} to {peer}");
        }
    }
}
