//! The configuration of an engine's routing as a routing daemon would write it (avi-api 10.4, `running_config`).

use super::{Seen, or_none};
use proto::v1::{BfdProfile, BgpPeer, BgpProfile};
use std::fmt::Write;

/// `bgp/running_config`: what the engine was told, keys hidden.
pub(super) fn bgp(seen: &Seen) -> String {
    let mut text = String::new();
    let vrf = seen.desired.as_ref().and_then(|d| d.vrf.as_ref());
    let Some(profile) = vrf.and_then(|v| v.bgp.as_ref()) else {
        return text;
    };
    let sessions = &seen.report.bgp_sessions;
    let router_id = sessions.iter().map(|s| s.local_router_id.as_str());
    let router_id = router_id.clone().find(|id| !id.is_empty()).unwrap_or("");
    if let Some(refusal) = &seen.refusal {
        line!(text, "! not in force: {refusal}");
    }
    line!(text, "router bgp {}", profile.local_as);
    line!(text, " bgp router-id {}", or_none(router_id));
    for peer in &profile.peers {
        for words in neighbor(profile, peer) {
            line!(text, " neighbor {} {words}", peer.address);
        }
    }
    text
}

fn neighbor(profile: &BgpProfile, peer: &BgpPeer) -> Vec<String> {
    let given = |condition: bool, words: String| condition.then_some(words);
    let hops = peer.ebgp_multihop.max(1);
    [
        Some(format!("remote-as {}", peer.remote_as)),
        given(
            peer.local_as != profile.local_as,
            format!("local-as {}", peer.local_as),
        ),
        Some(format!("timers {} {}", peer.keepalive_s, peer.hold_time_s)),
        Some(format!("timers connect {}", peer.connect_timer_s)),
        Some(format!(
            "advertisement-interval {}",
            peer.advertisement_interval_s
        )),
        given(
            peer.ebgp_multihop > 0,
            format!("ebgp-multihop {}", peer.ebgp_multihop),
        ),
        given(peer.ttl_security, format!("ttl-security hops {hops}")),
        given(!peer.md5_secret.is_empty(), "password <hidden>".to_owned()),
        given(peer.bfd, "bfd".to_owned()),
        given(peer.bfd_strict, "bfd strict".to_owned()),
        given(peer.graceful_restart, "graceful-restart".to_owned()),
        given(
            !peer.label.is_empty(),
            format!("description label {}", peer.label),
        ),
        given(peer.shutdown || profile.shutdown, "shutdown".to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// `bfd/running_config`: the timers, and the paths that are watched.
pub(super) fn bfd(seen: &Seen) -> String {
    let mut text = String::new();
    let vrf = seen.desired.as_ref().and_then(|d| d.vrf.as_ref());
    let Some(profile) = vrf.and_then(|v| v.bfd) else {
        return text;
    };
    let BfdProfile {
        min_rx_ms,
        min_tx_ms,
        multiplier,
    } = profile;
    line!(text, "bfd");
    line!(text, " profile {}", seen.vrf);
    line!(text, "  detect-multiplier {multiplier}");
    line!(text, "  receive-interval {min_rx_ms}");
    line!(text, "  transmit-interval {min_tx_ms}");
    for s in &seen.report.bfd_sessions {
        let path = match s.multihop {
            true => "multihop".to_owned(),
            false => format!("interface {}", s.interface),
        };
        line!(
            text,
            " peer {} {path} local-address {}",
            s.peer,
            s.local_address
        );
        line!(text, "  profile {}", seen.vrf);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::{BfdSession, BgpSession, DesiredState, Report, Vrf};
    use std::sync::Arc;

    fn seen() -> Seen {
        let plain = BgpPeer {
            address: "10.0.0.1".into(),
            remote_as: 65001,
            local_as: 65001,
            keepalive_s: 60,
            hold_time_s: 180,
            connect_timer_s: 10,
            advertisement_interval_s: 5,
            ..BgpPeer::default()
        };
        let rich = BgpPeer {
            address: "2001:db8::1".into(),
            remote_as: 65002,
            local_as: 65009,
            ebgp_multihop: 3,
            ttl_security: true,
            md5_secret: "never shown".into(),
            bfd: true,
            bfd_strict: true,
            shutdown: true,
            ..plain.clone()
        };
        let vrf = Vrf {
            bgp: Some(BgpProfile {
                local_as: 65001,
                peers: vec![plain, rich],
                ..BgpProfile::default()
            }),
            bfd: Some(BfdProfile {
                min_rx_ms: 50,
                min_tx_ms: 60,
                multiplier: 4,
            }),
            ..Vrf::default()
        };
        let watched = BfdSession {
            peer: "2001:db8::1".into(),
            local_address: "2001:db8::11".into(),
            multihop: true,
            ..BfdSession::default()
        };
        Seen {
            uuid: "serviceengine-1".into(),
            name: "se-1".into(),
            vrf: "global".into(),
            report: Report {
                bgp_sessions: vec![BgpSession {
                    local_router_id: "10.0.0.11".into(),
                    ..BgpSession::default()
                }],
                bfd_sessions: vec![watched],
                ..Report::default()
            }
            .into(),
            desired: Some(Arc::new(DesiredState {
                vrf: Some(vrf),
                ..DesiredState::default()
            })),
            refusal: None,
        }
    }

    #[test]
    fn every_setting_of_a_peer_is_shown_and_no_key() {
        let text = bgp(&seen());
        let expected = "router bgp 65001
 bgp router-id 10.0.0.11
 neighbor 10.0.0.1 remote-as 65001
 neighbor 10.0.0.1 timers 60 180
 neighbor 10.0.0.1 timers connect 10
 neighbor 10.0.0.1 advertisement-interval 5
 neighbor 2001:db8::1 remote-as 65002
 neighbor 2001:db8::1 local-as 65009
 neighbor 2001:db8::1 timers 60 180
 neighbor 2001:db8::1 timers connect 10
 neighbor 2001:db8::1 advertisement-interval 5
 neighbor 2001:db8::1 ebgp-multihop 3
 neighbor 2001:db8::1 ttl-security hops 3
 neighbor 2001:db8::1 password <hidden>
 neighbor 2001:db8::1 bfd
 neighbor 2001:db8::1 bfd strict
 neighbor 2001:db8::1 shutdown
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_refused_configuration_says_that_it_is_not_in_force() {
        let mut seen = seen();
        seen.refusal = Some("it refuses generation 7".into());
        assert!(bgp(&seen).starts_with("! not in force: it refuses generation 7\n"));
    }

    #[test]
    fn bfd_shows_timers_and_paths() {
        let expected = "bfd
 profile global
  detect-multiplier 4
  receive-interval 50
  transmit-interval 60
 peer 2001:db8::1 multihop local-address 2001:db8::11
  profile global
";
        assert_eq!(bfd(&seen()), expected);
    }
}
