//! The speaker against four real routers, each as upstream. Needs root; refuses to skip in CI.
//!
//! Assertions are made on the router's side: its RIB and, where it has one, its kernel FIB. What a router cannot do
//! is left out by [`upstream::Kind`]: GoBGP and OpenBGPD have no FIB here and no BFD.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_macros, // figures and skips go to the test runner
    clippy::disallowed_methods, // the pause of waiting for a daemon to start
    unreachable_pub,
    dead_code, // the lab is shared with other tests
    missing_docs
)]

#[path = "../netns_bgp_frr/lab.rs"]
mod lab;
mod upstream;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use evenkeel_engine::bgp::{Announcement, BgpDesired, Speaker, SpeakerHandle};
use lab::{Lab, can_run, in_namespace, run, wait_for};
use proto::v1;
use upstream::{Kind, Route, Spec, Upstream};

const PATIENCE: Duration = Duration::from_secs(30);
const VIP: &str = "10.10.200.1";
const VIP6: &str = "2001:db8:200::1";
const BIG_AS: u32 = 4_200_000_001;

fn peer(spec: Spec) -> v1::BgpPeer {
    let (address, subnet) = if spec.v6 {
        ("2001:db8:1::1", "2001:db8:1::/64")
    } else {
        ("10.10.1.1", "10.10.1.0/24")
    };
    v1::BgpPeer {
        address: address.to_owned(),
        subnet: subnet.to_owned(),
        remote_as: spec.asn,
        local_as: spec.engine_as,
        keepalive_s: 60,
        hold_time_s: 180,
        connect_timer_s: 1,
        advertisement_interval_s: 1,
        advertise_vip: true,
        md5_secret: spec.md5.unwrap_or_default().to_owned(),
        ebgp_multihop: if spec.multihop { 64 } else { 0 },
        bfd: spec.bfd,
        ..v1::BgpPeer::default()
    }
}

fn desired(spec: Spec, vips: &[&str]) -> BgpDesired {
    BgpDesired {
        profile: Some(v1::BgpProfile {
            local_as: spec.engine_as,
            ibgp: spec.asn == spec.engine_as,
            peers: vec![peer(spec)],
            ..v1::BgpProfile::default()
        }),
        bfd: Some(v1::BfdProfile {
            min_rx_ms: 50,
            min_tx_ms: 50,
            multiplier: 3,
        }),
        sessions_wanted: true,
        interfaces: vec![v1::Interface {
            name: "eth1".to_owned(),
            up: true,
            addresses: vec!["10.10.1.11/24".to_owned(), "2001:db8:1::11/64".to_owned()],
            ..v1::Interface::default()
        }],
        routes: vips
            .iter()
            .map(|vip| (vip.parse().unwrap(), Announcement::default()))
            .collect(),
        ..BgpDesired::default()
    }
}

fn host_prefix(vip: &str) -> String {
    format!("{vip}/{}", if vip.contains(':') { 128 } else { 32 })
}

/// Until the router holds the route, in its RIB and in its FIB if it has one.
async fn until_held(router: &Upstream, vip: &str, hop: &str) -> Route {
    let prefix = host_prefix(vip);
    wait_for(
        &format!("{vip} at {:?}", router.kind),
        PATIENCE,
        async || {
            let route = router.route(&prefix).await;
            let fib = router.fib(vip).await;
            let held = route.as_ref().is_some_and(|r| r.next_hop == hop);
            match held && (!router.kind.has_fib() || fib == [hop]) {
                true => Ok(()),
                false => Err(format!(
                    "{route:?}, FIB {fib:?}, session {}",
                    router.state().await
                )),
            }
        },
    )
    .await;
    router.route(&prefix).await.unwrap()
}

async fn until_gone(router: &Upstream, vip: &str) {
    let prefix = host_prefix(vip);
    wait_for(
        &format!("{vip} to leave {:?}", router.kind),
        PATIENCE,
        async || {
            let route = router.route(&prefix).await;
            let fib = router.fib(vip).await;
            match route.is_none() && fib.is_empty() {
                true => Ok(()),
                false => Err(format!("{route:?}, FIB {fib:?}")),
            }
        },
    )
    .await;
}

async fn until_count(router: &Upstream, count: usize) {
    wait_for(
        &format!("{count} routes at {:?}", router.kind),
        PATIENCE,
        async || match router.count().await {
            n if n == count => Ok(()),
            n => Err(n.to_string()),
        },
    )
    .await;
}

fn established(speaker: &SpeakerHandle) -> u64 {
    speaker.status().borrow()[0].times_established
}

/// A namespace pair for one story; the router is started by it.
fn story(kind: Kind, spec: Spec, tell: impl AsyncFnOnce(&mut Upstream, &Lab) + Send) {
    let lab = Lab::bare();
    let (namespace, dir) = lab.bare_router();
    in_namespace(&lab.engine_namespace(), async || {
        let mut router = Upstream::start(kind, spec, &namespace, dir).await;
        tell(&mut router, &lab).await;
    });
}

/// Internal BGP over IPv4: routes, many routes, restarts and resets, the end.
fn life_of_a_session(kind: Kind) {
    let spec = Spec::IBGP;
    story(kind, spec, async |router: &mut Upstream, _: &Lab| {
        let speaker = Speaker::spawn();
        speaker.apply(desired(spec, &[VIP]));
        let route = until_held(router, VIP, "10.10.1.11").await;
        assert_eq!(
            (route.as_path.as_slice(), route.local_pref),
            (&[][..], Some(100))
        );
        let mut many = desired(spec, &[VIP]);
        many.routes.extend((0..1000_u32).map(|n| {
            (
                IpAddr::from((0x0A0B_0000 + n).to_be_bytes()),
                Announcement::default(),
            )
        }));
        speaker.apply(many);
        until_count(router, 1001).await;
        speaker.apply(desired(spec, &[VIP]));
        until_count(router, 1).await;
        assert_eq!(
            established(&speaker),
            1,
            "routes came and went, the session stayed"
        );

        router.reset().await;
        wait_for("a second session", PATIENCE, async || {
            match established(&speaker) {
                2.. => Ok(()),
                n => Err(format!("{n}: {:?}", speaker.status().borrow()[0])),
            }
        })
        .await;
        until_held(router, VIP, "10.10.1.11").await;
        let mut shorter = desired(spec, &[VIP]);
        shorter.profile.as_mut().unwrap().peers[0].hold_time_s = 30;
        speaker.apply(shorter.clone());
        wait_for("the new hold time", PATIENCE, async || {
            match speaker.status().borrow()[0].hold_time_s {
                30 => Ok(()),
                n => Err(n.to_string()),
            }
        })
        .await;
        until_held(router, VIP, "10.10.1.11").await;

        router.kill();
        router.run().await;
        until_held(router, VIP, "10.10.1.11").await;
        router.stop();
        router.run().await;
        until_held(router, VIP, "10.10.1.11").await;
        // The peer is removed, and comes back.
        let mut without = shorter.clone();
        without.profile.as_mut().unwrap().peers.clear();
        speaker.apply(without);
        until_gone(router, VIP).await;
        speaker.apply(shorter);
        until_held(router, VIP, "10.10.1.11").await;
        speaker
            .shutdown("maintenance", Duration::from_secs(5))
            .await;
        until_gone(router, VIP).await;
    });
}

/// External BGP over IPv6, from an AS of four octets, with everything that a route may carry.
fn external_over_ipv6(kind: Kind) {
    let spec = Spec {
        asn: 65001,
        engine_as: BIG_AS,
        v6: true,
        ..Spec::IBGP
    };
    story(kind, spec, async |router: &mut Upstream, _: &Lab| {
        let mut wanted = desired(spec, &[VIP6]);
        let profile = wanted.profile.as_mut().unwrap();
        profile.num_as_path_prepend = Some(1);
        profile.communities = ["65000:100", "no-export", "65000:1:2"]
            .map(str::to_owned)
            .to_vec();
        let speaker = Speaker::spawn();
        speaker.apply(wanted);
        let route = until_held(router, VIP6, "2001:db8:1::11").await;
        assert_eq!(route.as_path, [BIG_AS, BIG_AS], "{kind:?}");
        let set =
            |list: &[&str]| -> BTreeSet<String> { list.iter().map(|&c| c.to_owned()).collect() };
        assert_eq!(
            route.communities,
            set(&["65000:100", "no-export"]),
            "{kind:?}"
        );
        assert_eq!(route.large_communities, set(&["65000:1:2"]), "{kind:?}");
        speaker.shutdown("", Duration::from_secs(5)).await;
        until_gone(router, VIP6).await;
    });
}

/// TCP MD5: a wrong key keeps the session down, the right one brings it up.
fn signed(kind: Kind) {
    let spec = Spec {
        md5: Some("right-key"),
        ..Spec::IBGP
    };
    let wrong = Spec {
        md5: Some("wrong-key"),
        ..spec
    };
    story(kind, spec, async |router: &mut Upstream, lab: &Lab| {
        let speaker = Speaker::spawn();
        speaker.apply(desired(wrong, &[VIP]));
        wait_for("the router to refuse the key", PATIENCE, async || match lab
            .bare_counter("TCPMD5Failure")
            .await
        {
            0 => Err("no MD5 failure".to_owned()),
            _ => Ok(()),
        })
        .await;
        assert_ne!(router.state().await, "established");
        speaker.apply(desired(spec, &[VIP]));
        until_held(router, VIP, "10.10.1.11").await;
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}

/// The router offers every capability that it knows: those that we have too are in force, the others are ignored.
fn every_capability(kind: Kind) {
    let spec = Spec {
        talkative: true,
        ..Spec::IBGP
    };
    story(kind, spec, async |router: &mut Upstream, _: &Lab| {
        let speaker = Speaker::spawn();
        speaker.apply(desired(spec, &[VIP]));
        until_held(router, VIP, "10.10.1.11").await;
        let session = speaker.status().borrow()[0].clone();
        for expected in ["IPv4 unicast", "route refresh", "four-octet AS"] {
            let known = session.capabilities.iter().any(|c| c == expected);
            assert!(known, "{kind:?}: {expected} in {:?}", session.capabilities);
        }
        speaker.apply(desired(spec, &[]));
        until_gone(router, VIP).await;
        assert_eq!(established(&speaker), 1, "{kind:?}");
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}

/// External BGP with a TTL of 64 on both sides, as the document's Mesos case needs.
fn multihop(kind: Kind) {
    let spec = Spec {
        asn: 65001,
        multihop: true,
        ..Spec::IBGP
    };
    story(kind, spec, async |router: &mut Upstream, _: &Lab| {
        let speaker = Speaker::spawn();
        speaker.apply(desired(spec, &[VIP]));
        let route = until_held(router, VIP, "10.10.1.11").await;
        assert_eq!(route.as_path, [65000]);
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}

/// BFD where the router has it: up, and a silent loss takes the route.
fn watched(kind: Kind) {
    assert!(kind.has_bfd());
    let spec = Spec {
        bfd: true,
        ..Spec::IBGP
    };
    story(kind, spec, async |router: &mut Upstream, lab: &Lab| {
        let speaker = Speaker::spawn();
        speaker.apply(desired(spec, &[VIP]));
        until_held(router, VIP, "10.10.1.11").await;
        wait_for("BFD to come up", PATIENCE, async || {
            let session = speaker.status().borrow()[0].clone();
            match session.bfd_state.as_str() {
                "up" => Ok(()),
                _ => Err(format!("{session:?}")),
            }
        })
        .await;
        let nft = |rule: &str| {
            let namespace = lab.engine_namespace();
            let mut command = vec!["ip", "netns", "exec", &namespace, "nft"];
            command.extend(rule.split(' '));
            run(&command);
        };
        nft("add table inet cut");
        nft("add chain inet cut in { type filter hook input priority 0 ; policy drop ; }");
        nft("add chain inet cut out { type filter hook output priority 0 ; policy drop ; }");
        until_gone(router, VIP).await;
        nft("delete table inet cut");
        until_held(router, VIP, "10.10.1.11").await;
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}

macro_rules! matrix {
    ($($router:ident: $kind:expr => [$($case:ident),*];)*) => {
        $(mod $router {
            use super::*;
            $(#[test]
            fn $case() {
                if can_run() {
                    super::$case($kind);
                }
            })*
        })*
    };
}

matrix! {
    frr: Kind::Frr => [life_of_a_session, external_over_ipv6, signed, multihop, watched, every_capability];
    bird: Kind::Bird => [life_of_a_session, external_over_ipv6, signed, multihop, watched, every_capability];
    gobgp: Kind::Gobgp => [life_of_a_session, external_over_ipv6, signed, multihop, every_capability];
    openbgpd: Kind::Openbgpd => [life_of_a_session, external_over_ipv6, signed, multihop, every_capability];
}
