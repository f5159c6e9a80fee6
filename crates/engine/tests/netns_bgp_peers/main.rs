//! What a router may do that a plain session does not show: connecting first, restarting, teaching routes, asking
//! for more security. Real FRR in namespaces; needs root; refuses to skip in CI.
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
mod odd_peers;
mod raw;

use std::time::Duration;

use evenkeel_engine::bgp::{Announcement, BgpDesired, Routes, Speaker, SpeakerHandle};
use lab::{Lab, Router, can_run, in_namespace, run, wait_for};
use proto::v1;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
const VIP: &str = "10.10.200.1";
const ENGINE: &str = "10.10.1.11";

/// A router that opens connections itself.
const ACTIVE: &str = "
router bgp 65000
 bgp router-id 10.10.1.1
 neighbor 10.10.1.11 remote-as 65000
 neighbor 10.10.1.11 timers connect 1
";

fn peer(router: usize) -> v1::BgpPeer {
    v1::BgpPeer {
        address: format!("10.10.{router}.1"),
        subnet: format!("10.10.{router}.0/24"),
        remote_as: 65000,
        local_as: 65000,
        keepalive_s: 60,
        hold_time_s: 180,
        connect_timer_s: 2,
        advertisement_interval_s: 1,
        advertise_vip: true,
        advertise_snat_ip: true,
        ..v1::BgpPeer::default()
    }
}

fn interface(router: usize) -> v1::Interface {
    v1::Interface {
        name: format!("eth{router}"),
        up: true,
        addresses: vec![
            format!("10.10.{router}.11/24"),
            format!("2001:db8:{router}::11/64"),
        ],
        ..v1::Interface::default()
    }
}

fn desired(peers: Vec<v1::BgpPeer>, vips: &[&str]) -> BgpDesired {
    BgpDesired {
        profile: Some(v1::BgpProfile {
            local_as: 65000,
            ibgp: true,
            peers,
            ..v1::BgpProfile::default()
        }),
        sessions_wanted: true,
        interfaces: vec![interface(1), interface(2)],
        routes: vips
            .iter()
            .map(|vip| (vip.parse().unwrap(), Announcement::default()))
            .collect(),
        ..BgpDesired::default()
    }
}

async fn until_fib(router: &Router, vip: &str, expected: &[&str]) -> Duration {
    wait_for(&format!("{vip} via {expected:?}"), PATIENCE, async || {
        let seen = router.fib(vip).await;
        if seen == expected {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await
}

async fn until_neighbor(
    router: &Router,
    address: &str,
    what: &str,
    probe: impl Fn(&Value) -> bool,
) {
    wait_for(what, PATIENCE, async || {
        let neighbor = router.neighbor(address).await;
        if probe(&neighbor) {
            Ok(())
        } else {
            Err(neighbor.to_string())
        }
    })
    .await;
}

/// FRR starts its neighbors about a second after itself, and turns connections away before.
async fn until_listening(router: &Router, address: &str) {
    let ready = |n: &Value| n["bgpState"] == "Active" || n["bgpState"] == "Connect";
    until_neighbor(router, address, "FRR to start the neighbor", ready).await;
}

async fn until_session(
    speaker: &SpeakerHandle,
    what: &str,
    probe: impl Fn(&v1::BgpSession) -> bool,
) -> v1::BgpSession {
    wait_for(what, PATIENCE, async || {
        let all = speaker.status().borrow().clone();
        match all.iter().any(&probe) {
            true => Ok(()),
            false => Err(format!("{all:?}")),
        }
    })
    .await;
    speaker.status().borrow()[0].clone()
}

fn is_up(session: &v1::BgpSession) -> bool {
    session.state() == v1::BgpState::Established
}

/// Drops what is sent to port 179 from here: the router has to connect.
fn block_our_connections(lab: &Lab) {
    let nft = |rule: &str| {
        let mut command = vec!["ip", "netns", "exec"];
        let namespace = lab.engine_namespace();
        command.push(&namespace);
        command.push("nft");
        command.extend(rule.split(' '));
        run(&command);
    };
    nft("add table inet block");
    nft("add chain inet block out { type filter hook output priority 0 ; }");
    nft("add rule inet block out tcp dport 179 drop");
}

#[test]
fn a_router_that_connects_first_gets_its_session() {
    if !can_run() {
        return;
    }
    let lab = Lab::up(&[&format!(
        "{ACTIVE} neighbor 10.10.1.11 password right-key\n"
    )]);
    block_our_connections(&lab);
    in_namespace(&lab.engine_namespace(), async || {
        let router = &lab.routers[0];
        let speaker = Speaker::spawn();
        let with_key = |key: &str| v1::BgpPeer {
            md5_secret: key.to_owned(),
            ..peer(1)
        };
        speaker.apply(desired(vec![with_key("right-key")], &[VIP]));
        until_fib(router, VIP, &[ENGINE]).await;
        let session = until_session(&speaker, "an accepted session", is_up).await;
        assert!(session.accepted, "{session:?}");
        // Another key takes effect on the listening socket too.
        speaker.apply(desired(vec![with_key("wrong-key")], &[VIP]));
        until_fib(router, VIP, &[]).await;
        wait_for(
            "unsigned or wrongly signed segments",
            PATIENCE,
            async || match lab.engine_counter("TCPMD5Failure").await {
                0 => Err("no MD5 failure here".to_owned()),
                _ => Ok(()),
            },
        )
        .await;
        speaker.apply(desired(vec![with_key("right-key")], &[VIP]));
        until_fib(router, VIP, &[ENGINE]).await;
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}

#[test]
fn both_sides_open_and_one_session_stays() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::up(&[ACTIVE]);
    let namespace = lab.engine_namespace();
    let routers = &mut lab.routers;
    in_namespace(&namespace, async move || {
        let router = &mut routers[0];
        let speaker = Speaker::spawn();
        speaker.apply(desired(vec![peer(1)], &[VIP]));
        for _ in 0..5 {
            until_fib(router, VIP, &[ENGINE]).await;
            let before = router.neighbor(ENGINE).await["connectionsEstablished"].clone();
            assert_eq!(before, 1, "one session since the router has started");
            router.kill_bgpd();
            router.start_bgpd(ACTIVE);
        }
        until_fib(router, VIP, &[ENGINE]).await;
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}

const EBGP: &str = "
router bgp 65001
 bgp router-id 10.10.1.1
 no bgp ebgp-requires-policy
 neighbor 10.10.1.11 remote-as 65000
 neighbor 10.10.1.11 passive
";

fn external(fields: v1::BgpPeer) -> v1::BgpPeer {
    v1::BgpPeer {
        remote_as: 65001,
        ..fields
    }
}

/// RFC 5082: with it on both sides the session comes up, with it on ours alone it does not, because a plain
/// external peer sends with TTL 1.
#[test]
fn ttl_security_needs_a_router_that_does_it_too() {
    if !can_run() {
        return;
    }
    let secure = format!("{EBGP} neighbor 10.10.1.11 ttl-security hops 1\n");
    let plain = EBGP.replace("10.10.1.", "10.10.2.");
    let lab = Lab::up(&[&secure, &plain]);
    in_namespace(&lab.engine_namespace(), async || {
        let [secure, plain] = &lab.routers[..] else {
            panic!("two routers")
        };
        until_listening(secure, ENGINE).await;
        until_listening(plain, "10.10.2.11").await;
        let with = |router, ttl_security| {
            external(v1::BgpPeer {
                ttl_security,
                ..peer(router)
            })
        };
        let mut wanted = desired(vec![with(1, true), with(2, true)], &[VIP]);
        wanted.profile.as_mut().unwrap().ibgp = false;
        let speaker = Speaker::spawn();
        speaker.apply(wanted.clone());
        until_fib(secure, VIP, &[ENGINE]).await;
        let session = until_session(&speaker, "the secure session", |s| {
            s.peer == "10.10.1.1" && is_up(s)
        })
        .await;
        assert_eq!((session.ttl, session.min_ttl), (255, 255));
        wait_for(
            "dropped segments of the other",
            PATIENCE,
            async || match lab.engine_counter("TCPMinTTLDrop").await {
                0 => Err("none dropped".to_owned()),
                _ => Ok(()),
            },
        )
        .await;
        assert!(plain.fib(VIP).await.is_empty());
        wanted.profile.as_mut().unwrap().peers[1].ttl_security = false;
        speaker.apply(wanted);
        until_fib(plain, VIP, &["10.10.2.11"]).await;
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}

const RESTART: &str = "
router bgp 65000
 bgp router-id 10.10.1.1
 bgp graceful-restart
 neighbor 10.10.1.11 remote-as 65000
 neighbor 10.10.1.11 passive
";

/// RFC 4724: the router keeps the route while the process is replaced, and drops it when nobody comes back.
#[test]
fn a_restart_keeps_the_routes_of_a_router_with_graceful_restart() {
    if !can_run() {
        return;
    }
    let lab = Lab::up(&[RESTART]);
    in_namespace(&lab.engine_namespace(), async || {
        let router = &lab.routers[0];
        until_listening(router, ENGINE).await;
        let gentle = v1::BgpPeer {
            graceful_restart: true,
            ..peer(1)
        };
        let mut wanted = desired(vec![gentle], &[VIP, "10.10.200.9"]);
        let first = Speaker::spawn();
        first.apply(wanted.clone());
        until_fib(router, VIP, &[ENGINE]).await;
        first.shutdown("restart", Duration::from_secs(5)).await;
        until_neighbor(router, ENGINE, "the session to be gone", |n| {
            n["bgpState"] != "Established"
        })
        .await;
        assert_eq!(router.fib(VIP).await, [ENGINE], "kept as stale");
        // The health of the services is not known yet: nothing is announced, and nothing dropped.
        let second = Speaker::spawn();
        second.apply(BgpDesired {
            routes: Routes::new(),
            restarting: true,
            ..wanted.clone()
        });
        until_neighbor(router, ENGINE, "the second session", |n| {
            n["bgpState"] == "Established"
        })
        .await;
        assert_eq!(router.fib(VIP).await, [ENGINE]);
        // One of two services is up again: its route stays, the other's is dropped.
        const GONE: &str = "10.10.200.9";
        wanted.routes.remove(&GONE.parse().unwrap());
        second.apply(wanted.clone());
        until_fib(router, GONE, &[]).await;
        assert_eq!(router.fib(VIP).await, [ENGINE]);
        // A peer that is removed is told so: no stale route stays.
        second.apply(BgpDesired::default());
        until_fib(router, VIP, &[]).await;
    });
}

/// Per VIP, by label, by address range, and while draining.
#[test]
fn attributes_differ_by_vip_label_and_address() {
    if !can_run() {
        return;
    }
    let lab = Lab::up(&[&format!("{ACTIVE} neighbor 10.10.1.11 passive\n")]);
    in_namespace(&lab.engine_namespace(), async || {
        let router = &lab.routers[0];
        until_listening(router, ENGINE).await;
        let labelled = v1::BgpPeer {
            label: "edge".to_owned(),
            ..peer(1)
        };
        let mut wanted = desired(vec![labelled], &["10.10.200.4"]);
        let profile = wanted.profile.as_mut().unwrap();
        profile.communities = vec!["65000:1".to_owned(), "65000:2:3".to_owned()];
        profile.local_preference = Some(150);
        profile.ip_communities = vec![v1::IpCommunities {
            first: "10.10.200.4".to_owned(),
            last: "10.10.200.7".to_owned(),
            communities: vec!["no-export".to_owned()],
        }];
        let own = |local_preference, labels: &[&str]| Announcement {
            local_preference,
            peer_labels: labels.iter().map(|&l| l.to_owned()).collect(),
            ..Announcement::default()
        };
        wanted.routes.extend([
            (
                "10.10.200.1".parse().unwrap(),
                own(Some(70), &["core", "edge"]),
            ),
            ("10.10.200.2".parse().unwrap(), own(None, &["core"])),
            ("10.10.200.3".parse().unwrap(), own(None, &[])),
        ]);
        let speaker = Speaker::spawn();
        speaker.apply(wanted.clone());
        for vip in ["10.10.200.1", "10.10.200.3", "10.10.200.4"] {
            until_fib(router, vip, &[ENGINE]).await;
        }
        let path = async |vip: &str| {
            router.show(&format!("bgp ipv4 unicast {vip}/32")).await["paths"][0].clone()
        };
        let first = path("10.10.200.1").await;
        assert_eq!(first["locPrf"], 70, "{first}");
        assert_eq!(first["community"]["string"], "65000:1", "{first}");
        assert_eq!(first["largeCommunity"]["string"], "65000:2:3", "{first}");
        assert_eq!(path("10.10.200.3").await["locPrf"], 150);
        let ranged = path("10.10.200.4").await;
        assert_eq!(ranged["community"]["string"], "no-export", "{ranged}");
        assert!(router.fib("10.10.200.2").await.is_empty());
        let session = until_session(&speaker, "the session", is_up).await;
        let withheld = session.routes.iter().find(|r| r.prefix == "10.10.200.2/32");
        assert_eq!(withheld.unwrap().reason, "peer_label_mismatch");

        wanted.draining = true;
        speaker.apply(wanted);
        wait_for("GRACEFUL_SHUTDOWN at the router", PATIENCE, async || {
            let first = path("10.10.200.1").await;
            let marked = first["community"]["string"].as_str().unwrap_or_default();
            match marked.contains("graceful-shutdown") && first["locPrf"] == 0 {
                true => Ok(()),
                false => Err(first.to_string()),
            }
        })
        .await;
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}

const TEACHER: &str = "
router bgp 65001
 bgp router-id 10.10.1.1
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor 10.10.1.11 remote-as 65000
 neighbor 10.10.1.11 passive
 address-family ipv4 unicast
  network 10.77.1.0/24
  network 10.77.2.0/24
  neighbor 10.10.1.11 default-originate
";

async fn engine_routes(lab: &Lab) -> Vec<String> {
    let all = lab.engine_routes().await;
    let mut ours: Vec<_> = all
        .iter()
        .filter(|r| r["protocol"] == "69")
        .map(|r| format!("{} via {}", r["dst"], r["gateway"]).replace('"', ""))
        .collect();
    ours.sort();
    ours
}

async fn until_learned(speaker: &SpeakerHandle, lab: &Lab, expected: &[&str]) {
    wait_for(
        &format!("learned routes {expected:?}"),
        PATIENCE,
        async || {
            let seen = engine_routes(lab).await;
            if seen == expected {
                Ok(())
            } else {
                Err(format!(
                    "{seen:?}, shown {:?} {:?}",
                    speaker.learned().borrow(),
                    speaker.status().borrow()[0]
                ))
            }
        },
    )
    .await;
}

/// `learn_routes` and its kin: installed with our own protocol number, passed on, and gone with their peer.
#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one story: nothing, default, all, few, gone"
)]
fn routes_are_learned_passed_on_and_removed() {
    if !can_run() {
        return;
    }
    let pupil = "
router bgp 65002
 bgp router-id 10.10.2.1
 no bgp ebgp-requires-policy
 neighbor 10.10.2.11 remote-as 65000
 neighbor 10.10.2.11 passive
";
    let lab = Lab::up(&[TEACHER, pupil]);
    in_namespace(&lab.engine_namespace(), async || {
        let [teacher, pupil] = &lab.routers[..] else {
            panic!("two routers")
        };
        until_listening(teacher, ENGINE).await;
        until_listening(pupil, "10.10.2.11").await;
        let labelled = |router: usize, remote_as, label: &str| v1::BgpPeer {
            remote_as,
            label: label.to_owned(),
            ..peer(router)
        };
        let mut wanted = desired(
            vec![labelled(1, 65001, "up"), labelled(2, 65002, "down")],
            &[VIP],
        );
        let profile = wanted.profile.as_mut().unwrap();
        profile.ibgp = false;
        let speaker = Speaker::spawn();
        speaker.apply(wanted.clone());
        until_fib(teacher, VIP, &[ENGINE]).await;
        until_session(&speaker, "the teacher's routes to be counted", |s| {
            s.peer == "10.10.1.1" && s.prefixes_in >= 3
        })
        .await;
        until_learned(&speaker, &lab, &[]).await;

        let option = |label: &str| v1::RoutingOptions {
            label: label.to_owned(),
            max_learn_limit: 50,
            ..v1::RoutingOptions::default()
        };
        let set = |wanted: &mut BgpDesired, up: v1::RoutingOptions, down: v1::RoutingOptions| {
            wanted.profile.as_mut().unwrap().routing_options = vec![up, down];
            speaker.apply(wanted.clone());
        };
        let default_only = v1::RoutingOptions {
            learn_only_default_route: true,
            ..option("up")
        };
        set(&mut wanted, default_only, option("down"));
        until_learned(&speaker, &lab, &["default via 10.10.1.1"]).await;
        let all = v1::RoutingOptions {
            learn_routes: true,
            ..option("up")
        };
        let tell = v1::RoutingOptions {
            advertise_learned_routes: true,
            advertise_default_route: true,
            ..option("down")
        };
        set(&mut wanted, all.clone(), tell);
        let both = [
            "10.77.1.0/24 via 10.10.1.1",
            "10.77.2.0/24 via 10.10.1.1",
            "default via 10.10.1.1",
        ];
        until_learned(&speaker, &lab, &both).await;
        until_fib(pupil, "10.77.1.0/24", &["10.10.2.11"]).await;
        until_fib(pupil, "default", &["10.10.2.11"]).await;
        let path = pupil.show("bgp ipv4 unicast 10.77.1.0/24").await["paths"][0].clone();
        assert_eq!(path["aspath"]["string"], "65000 65001", "{path}");

        let few = v1::RoutingOptions {
            max_learn_limit: 1,
            ..all
        };
        set(&mut wanted, few, option("down"));
        wait_for(
            "one learned route",
            PATIENCE,
            async || match engine_routes(&lab).await.len() {
                1 => Ok(()),
                n => Err(format!("{n}")),
            },
        )
        .await;
        until_fib(pupil, "10.77.1.0/24", &[]).await;
        // With the peer go its routes.
        wanted.profile.as_mut().unwrap().peers.remove(0);
        speaker.apply(wanted);
        until_learned(&speaker, &lab, &[]).await;
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}

/// RFC 8950: a link without IPv4 addresses carries IPv4 routes.
#[test]
fn an_ipv4_vip_is_announced_over_a_link_with_ipv6_only() {
    if !can_run() {
        return;
    }
    let lab = Lab::up(&["
router bgp 65000
 bgp router-id 10.10.1.1
 neighbor 2001:db8:1::11 remote-as 65000
 neighbor 2001:db8:1::11 passive
 neighbor 2001:db8:1::11 capability extended-nexthop
 address-family ipv4 unicast
  neighbor 2001:db8:1::11 activate
"]);
    in_namespace(&lab.engine_namespace(), async || {
        let router = &lab.routers[0];
        until_listening(router, "2001:db8:1::11").await;
        let over_v6 = v1::BgpPeer {
            address: "2001:db8:1::1".to_owned(),
            subnet: "2001:db8:1::/64".to_owned(),
            ..peer(1)
        };
        let mut wanted = desired(vec![over_v6], &[VIP]);
        wanted.interfaces[0].addresses.remove(0);
        let speaker = Speaker::spawn();
        speaker.apply(wanted);
        wait_for("the route over IPv6", PATIENCE, async || {
            let path = router.show(&format!("bgp ipv4 unicast {VIP}/32")).await["paths"][0].clone();
            match path["nexthops"][0]["ip"].as_str() {
                Some("2001:db8:1::11") => Ok(()),
                _ => Err(path.to_string()),
            }
        })
        .await;
        let session = until_session(&speaker, "the session", is_up).await;
        assert!(
            session
                .capabilities
                .contains(&"extended next hop".to_owned())
        );
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}
