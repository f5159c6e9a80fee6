//! The speaker against four real routers, each as upstream. Needs root; refuses to skip in CI.
//!
//! Assertions are made on the router's side: its RIB and, where it has one, its kernel FIB. What a router cannot do
//! is left out by [`upstream::Kind`] and the matrix below: GoBGP and OpenBGPD have no FIB here and no BFD, OpenBGPD
//! no RFC 8950.
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

use evenkeel_engine::bgp::{Announcement, BgpDesired, Speaker};
use lab::{Lab, can_run, in_namespace, run, wait_for};
use proto::v1;
use upstream::{Kind, Route, Spec, Upstream};

const PATIENCE: Duration = Duration::from_secs(30);
const VIP: &str = "10.10.200.1";
const VIP6: &str = "2001:db8:200::1";
const SECOND_VIP: &str = "10.10.200.2";
const SECOND_VIP6: &str = "2001:db8:200::2";
const BIG_AS: u32 = 4_200_000_001;

/// Cease subcodes (RFC 4486).
const PEER_DECONFIGURED: &str = "6/3";
const OTHER_CONFIGURATION_CHANGE: &str = "6/6";

fn peer(spec: Spec) -> v1::BgpPeer {
    let subnet = if spec.v6 {
        "2001:db8:1::/64"
    } else {
        "10.10.1.0/24"
    };
    v1::BgpPeer {
        address: spec.router().to_owned(),
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

fn interface(spec: Spec) -> v1::Interface {
    let v4 = (!spec.v4_over_v6).then_some("10.10.1.11/24");
    let addresses = v4.into_iter().chain(["2001:db8:1::11/64"]);
    v1::Interface {
        name: "eth1".to_owned(),
        up: true,
        addresses: addresses.map(str::to_owned).collect(),
        ..v1::Interface::default()
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
        interfaces: vec![interface(spec)],
        routes: vips
            .iter()
            .map(|vip| (vip.parse().unwrap(), Announcement::default()))
            .collect(),
        ..BgpDesired::default()
    }
}

/// The VIP of the family that the session carries.
fn vip_of(spec: Spec) -> &'static str {
    if spec.family() == "ipv6" { VIP6 } else { VIP }
}

fn host_prefix(vip: &str) -> String {
    format!("{vip}/{}", if vip.contains(':') { 128 } else { 32 })
}

/// Until the router holds the route, in its RIB and in its FIB if it has one.
async fn until_held(router: &Upstream, vip: &str) -> Route {
    let prefix = host_prefix(vip);
    let Upstream { kind, spec, .. } = router;
    wait_for(&format!("{vip} at {kind:?}"), PATIENCE, async || {
        let route = router.route(&prefix).await;
        let fib = router.fib(vip).await;
        let held = route.as_ref().is_some_and(|r| r.next_hop == spec.engine());
        match held && (!kind.has_fib() || fib == [router.gateway()]) {
            true => Ok(()),
            false => Err(format!(
                "{route:?}, FIB {fib:?}, session {}",
                router.state().await
            )),
        }
    })
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

/// In its RIB, and in its FIB if it has one.
async fn until_count(router: &Upstream, count: usize) {
    let Upstream { kind, .. } = router;
    wait_for(
        &format!("{count} routes at {kind:?}"),
        PATIENCE,
        async || {
            let (rib, fib) = (router.count().await, router.fib_count().await);
            match rib == count && (!kind.has_fib() || fib == count) {
                true => Ok(()),
                false => Err(format!("{rib}, FIB {fib}")),
            }
        },
    )
    .await;
}

/// Until the router has counted this many sessions and the last one is up.
async fn until_sessions(router: &Upstream, count: usize) {
    wait_for(
        &format!("session {count} at {:?}", router.kind),
        PATIENCE,
        async || match (router.established().await, router.state().await.as_str()) {
            (n, "established") if n == count => Ok(()),
            seen => Err(format!("{seen:?}")),
        },
    )
    .await;
}

/// Until this is the last NOTIFICATION that the router has had from us.
async fn until_told(router: &Upstream, notification: &str) {
    wait_for(
        &format!("{notification} at {:?}", router.kind),
        PATIENCE,
        async || match router.notifications() {
            all if all.last().is_some_and(|last| last == notification) => Ok(()),
            all => Err(format!("{all:?}")),
        },
    )
    .await;
}

async fn until_bfd(router: &Upstream, state: &str) {
    wait_for(
        &format!("BFD to be {state} at {:?}", router.kind),
        PATIENCE,
        async || match router.bfd().await {
            seen if seen == state => Ok(()),
            seen => Err(seen),
        },
    )
    .await;
}

/// The router's own counts: one session, and nothing said that would have ended it.
async fn assert_undisturbed(router: &Upstream) {
    let seen = (router.established().await, router.notifications());
    assert_eq!(seen, (1, Vec::new()), "{:?}", router.kind);
    assert_eq!(router.state().await, "established", "{:?}", router.kind);
}

/// The namespaces of one story; the router is started by it.
fn story(kind: Kind, spec: Spec, tell: impl AsyncFnOnce(&mut Upstream, &Lab) + Send) {
    let lab = match spec.multihop {
        true => Lab::bare_over_a_hop(),
        false => Lab::bare(),
    };
    let (namespace, dir) = lab.bare_router();
    in_namespace(&lab.engine_namespace(), async || {
        let mut router = Upstream::start(kind, spec, &namespace, dir).await;
        tell(&mut router, &lab).await;
    });
}

/// Internal BGP over IPv4: restarts and resets by each side, the end.
fn life_of_a_session(kind: Kind) {
    let spec = Spec::IBGP;
    story(kind, spec, async |router: &mut Upstream, _: &Lab| {
        let speaker = Speaker::spawn();
        speaker.apply(desired(spec, &[VIP]));
        let route = until_held(router, VIP).await;
        assert_eq!(
            (route.as_path.as_slice(), route.local_pref),
            (&[][..], Some(100))
        );
        assert_undisturbed(router).await;

        router.reset().await;
        until_sessions(router, 2).await;
        until_held(router, VIP).await;
        let mut shorter = desired(spec, &[VIP]);
        shorter.profile.as_mut().unwrap().peers[0].hold_time_s = 30;
        speaker.apply(shorter.clone());
        until_sessions(router, 3).await;
        until_told(router, OTHER_CONFIGURATION_CHANGE).await;
        assert_eq!(router.hold_time().await, Some(30), "{kind:?}");
        until_held(router, VIP).await;

        router.kill();
        router.run().await;
        until_held(router, VIP).await;
        router.stop();
        router.run().await;
        until_held(router, VIP).await;
        // The peer is removed, and comes back.
        let mut without = shorter.clone();
        without.profile.as_mut().unwrap().peers.clear();
        speaker.apply(without);
        until_gone(router, VIP).await;
        until_told(router, PEER_DECONFIGURED).await;
        speaker.apply(shorter);
        until_held(router, VIP).await;
        let ending = Duration::from_secs(5);
        speaker.shutdown("maintenance", ending).await;
        until_gone(router, VIP).await;
        until_told(router, "6/2 maintenance").await;
    });
}

/// Up and down in one session, at the router's RIB and FIB.
fn thousand_vips(kind: Kind, spec: Spec, vip: impl Fn(u16) -> IpAddr + Sync) {
    story(kind, spec, async |router: &mut Upstream, _: &Lab| {
        let first = vip_of(spec);
        let speaker = Speaker::spawn();
        speaker.apply(desired(spec, &[first]));
        until_held(router, first).await;
        let mut many = desired(spec, &[first]);
        let all = (0..1000).map(|n| (vip(n), Announcement::default()));
        many.routes.extend(all);
        speaker.apply(many);
        until_count(router, 1001).await;
        speaker.apply(desired(spec, &[first]));
        until_count(router, 1).await;
        assert_undisturbed(router).await;
        speaker.shutdown("", Duration::from_secs(5)).await;
        until_count(router, 0).await;
    });
}

fn a_thousand_vips(kind: Kind) {
    thousand_vips(kind, Spec::IBGP, |n| {
        IpAddr::from((0x0A0B_0000 + u32::from(n)).to_be_bytes())
    });
}

fn a_thousand_vips_over_ipv6(kind: Kind) {
    thousand_vips(kind, over_ipv6(Spec::IBGP), |n| {
        IpAddr::from([0x2001, 0xDB8, 0x300, 0, 0, 0, 0, n])
    });
}

fn over_ipv6(spec: Spec) -> Spec {
    Spec { v6: true, ..spec }
}

/// External BGP over IPv6, from an AS of four octets, with everything that a route may carry.
fn external_over_ipv6(kind: Kind) {
    let spec = Spec {
        asn: 65001,
        engine_as: BIG_AS,
        ..over_ipv6(Spec::IBGP)
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
        let route = until_held(router, VIP6).await;
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

/// A VIP beside another comes and goes while the session stays.
fn announced_and_withdrawn(kind: Kind, spec: Spec, check: impl Fn(&Route) + Sync) {
    story(kind, spec, async |router: &mut Upstream, _: &Lab| {
        let first = vip_of(spec);
        let second = if first == VIP6 {
            SECOND_VIP6
        } else {
            SECOND_VIP
        };
        let speaker = Speaker::spawn();
        speaker.apply(desired(spec, &[first]));
        check(&until_held(router, first).await);
        speaker.apply(desired(spec, &[first, second]));
        check(&until_held(router, second).await);
        speaker.apply(desired(spec, &[second]));
        until_gone(router, first).await;
        until_held(router, second).await;
        assert_undisturbed(router).await;
        speaker.shutdown("", Duration::from_secs(5)).await;
        until_gone(router, second).await;
    });
}

fn internal_over_ipv6(kind: Kind) {
    announced_and_withdrawn(kind, over_ipv6(Spec::IBGP), |route| {
        assert_eq!(route.as_path, [0; 0], "{kind:?}");
        assert_eq!(route.local_pref, Some(100), "{kind:?}");
    });
}

fn external_over_ipv4(kind: Kind) {
    let spec = Spec {
        asn: 65001,
        ..Spec::IBGP
    };
    announced_and_withdrawn(kind, spec, |route| {
        assert_eq!(route.as_path, [65000], "{kind:?}");
    });
}

/// RFC 8950: our side of the link has no IPv4 address.
fn ipv4_over_ipv6_only(kind: Kind) {
    let spec = Spec {
        v4_over_v6: true,
        talkative: true,
        ..over_ipv6(Spec::IBGP)
    };
    announced_and_withdrawn(kind, spec, |route| {
        assert_eq!(route.next_hop, "2001:db8:1::11", "{kind:?}");
    });
}

/// TCP MD5: a wrong key keeps the session down, however often it is tried, the right one brings it up.
fn signed_with(kind: Kind, spec: Spec) {
    let wrong = Spec {
        md5: Some("wrong-key"),
        ..spec
    };
    let spec = Spec {
        md5: Some("right-key"),
        ..spec
    };
    story(kind, spec, async |router: &mut Upstream, lab: &Lab| {
        let vip = vip_of(spec);
        let speaker = Speaker::spawn();
        speaker.apply(desired(wrong, &[vip]));
        let refused = async || match lab.bare_counter("TCPMD5Failure").await {
            3.. => Ok(()),
            n => Err(format!("{n} MD5 failures")),
        };
        wait_for("the router to refuse the key", PATIENCE, refused).await;
        assert_ne!(router.state().await, "established");
        assert_eq!(router.established().await, 0, "{kind:?}");
        speaker.apply(desired(spec, &[vip]));
        until_held(router, vip).await;
        assert_undisturbed(router).await;
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}

fn signed(kind: Kind) {
    signed_with(kind, Spec::IBGP);
}

fn signed_over_ipv6(kind: Kind) {
    signed_with(kind, over_ipv6(Spec::IBGP));
}

/// The router offers every capability that it knows: those that we have too are in force at both sides, the others
/// are ignored.
fn every_capability(kind: Kind) {
    let spec = Spec {
        talkative: true,
        ..Spec::IBGP
    };
    story(kind, spec, async |router: &mut Upstream, _: &Lab| {
        let speaker = Speaker::spawn();
        speaker.apply(desired(spec, &[VIP]));
        until_held(router, VIP).await;
        let seen = router.capabilities().await;
        let seen: Vec<_> = seen.iter().map(String::as_str).collect();
        assert_eq!(seen, kind.common_capabilities(), "{kind:?}");
        let ours = speaker.status().borrow()[0].capabilities.clone();
        assert_eq!(ours, kind.common_capabilities_in_our_words(), "{kind:?}");
        speaker.apply(desired(spec, &[]));
        until_gone(router, VIP).await;
        assert_undisturbed(router).await;
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}

/// External BGP to a router behind another one, with a TTL of 64 on both sides, as the document's Mesos case needs.
/// With the TTL of a direct peer nothing arrives there.
fn multihop_with(kind: Kind, spec: Spec) {
    let spec = Spec {
        asn: 65001,
        multihop: true,
        ..spec
    };
    story(kind, spec, async |router: &mut Upstream, lab: &Lab| {
        let vip = vip_of(spec);
        let speaker = Speaker::spawn();
        let mut direct = desired(spec, &[vip]);
        direct.profile.as_mut().unwrap().peers[0].ebgp_multihop = 0;
        let before = lab.dropped_by_the_hop().await;
        speaker.apply(direct);
        let expired = async || match lab.dropped_by_the_hop().await - before {
            2.. => Ok(()),
            n => Err(format!("{n} packets")),
        };
        wait_for("packets that end on the way", PATIENCE, expired).await;
        assert_eq!(router.established().await, 0, "{kind:?}");
        speaker.apply(desired(spec, &[vip]));
        let route = until_held(router, vip).await;
        assert_eq!(route.as_path, [65000]);
        assert_undisturbed(router).await;
        speaker.shutdown("", Duration::from_secs(5)).await;
        until_gone(router, vip).await;
    });
}

fn multihop(kind: Kind) {
    multihop_with(kind, Spec::IBGP);
}

fn multihop_over_ipv6(kind: Kind) {
    multihop_with(kind, over_ipv6(Spec::IBGP));
}

/// Drops everything that comes to the engine or leaves it, until dropped itself.
struct SilentLoss<'a>(&'a Lab);

impl<'a> SilentLoss<'a> {
    fn new(lab: &'a Lab) -> Self {
        let cut = Self(lab);
        cut.nft("add table inet cut");
        cut.nft("add chain inet cut in { type filter hook input priority 0 ; policy drop ; }");
        cut.nft("add chain inet cut out { type filter hook output priority 0 ; policy drop ; }");
        cut
    }

    fn nft(&self, rule: &str) {
        let namespace = self.0.engine_namespace();
        let mut command = vec!["ip", "netns", "exec", &namespace, "nft"];
        command.extend(rule.split(' '));
        run(&command);
    }

    fn mend(self) {
        self.nft("delete table inet cut");
    }
}

/// BFD where the router has it: up, and a silent loss takes the route long before the hold time.
fn watched_with(kind: Kind, spec: Spec) {
    assert!(kind.has_bfd());
    let spec = Spec { bfd: true, ..spec };
    story(kind, spec, async |router: &mut Upstream, lab: &Lab| {
        let vip = vip_of(spec);
        let speaker = Speaker::spawn();
        speaker.apply(desired(spec, &[vip]));
        until_held(router, vip).await;
        until_bfd(router, "up").await;
        let ours = speaker.status();
        wait_for("our side of BFD", PATIENCE, async || {
            match ours.borrow()[0].bfd_state.as_str() {
                "up" => Ok(()),
                other => Err(other.to_owned()),
            }
        })
        .await;
        assert_undisturbed(router).await;
        let loss = SilentLoss::new(lab);
        until_gone(router, vip).await;
        loss.mend();
        until_sessions(router, 2).await;
        until_held(router, vip).await;
        until_bfd(router, "up").await;
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}

fn watched(kind: Kind) {
    watched_with(kind, Spec::IBGP);
}

fn watched_over_ipv6(kind: Kind) {
    watched_with(kind, over_ipv6(Spec::IBGP));
}

/// RFC 5883: over several hops.
fn watched_over_multihop(kind: Kind) {
    let spec = Spec {
        asn: 65001,
        multihop: true,
        ..Spec::IBGP
    };
    watched_with(kind, spec);
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
    frr: Kind::Frr => [
        life_of_a_session, external_over_ipv4, external_over_ipv6, internal_over_ipv6, ipv4_over_ipv6_only,
        signed, signed_over_ipv6, multihop, multihop_over_ipv6, every_capability,
        a_thousand_vips, a_thousand_vips_over_ipv6, watched, watched_over_ipv6, watched_over_multihop
    ];
    bird: Kind::Bird => [
        life_of_a_session, external_over_ipv4, external_over_ipv6, internal_over_ipv6, ipv4_over_ipv6_only,
        signed, signed_over_ipv6, multihop, multihop_over_ipv6, every_capability,
        a_thousand_vips, a_thousand_vips_over_ipv6, watched, watched_over_ipv6, watched_over_multihop
    ];
    gobgp: Kind::Gobgp => [
        life_of_a_session, external_over_ipv4, external_over_ipv6, internal_over_ipv6, ipv4_over_ipv6_only,
        signed, signed_over_ipv6, multihop, multihop_over_ipv6, every_capability,
        a_thousand_vips, a_thousand_vips_over_ipv6
    ];
    openbgpd: Kind::Openbgpd => [
        life_of_a_session, external_over_ipv4, external_over_ipv6, internal_over_ipv6,
        signed, signed_over_ipv6, multihop, multihop_over_ipv6, every_capability,
        a_thousand_vips, a_thousand_vips_over_ipv6
    ];
}
