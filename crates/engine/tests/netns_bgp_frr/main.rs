//! The speaker against real FRR routers in namespaces. Needs root; refuses to skip in CI.
//!
//! All assertions about routes are made on the router's side: its kernel FIB and its own words.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_macros, // figures and skips go to the test runner
    clippy::disallowed_methods, // the pause of waiting for a daemon to start
    unreachable_pub,
    dead_code, // the lab is shared with other tests
    missing_docs
)]

mod capture;
mod lab;

use std::net::IpAddr;
use std::time::Duration;

use evenkeel_engine::bgp::{Announcement, BgpDesired, Speaker, SpeakerHandle};
use lab::{Lab, Router, can_run, in_namespace, wait_for};
use proto::v1;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(15);
const VIP: &str = "10.10.200.1";
const ENGINE: &str = "10.10.1.11";

const IBGP: &str = "
router bgp 65000
 bgp router-id 10.10.1.1
 bgp log-neighbor-changes
 neighbor 10.10.1.11 remote-as 65000
 neighbor 10.10.1.11 passive
";

fn peer(router: usize) -> v1::BgpPeer {
    v1::BgpPeer {
        address: format!("10.10.{router}.1"),
        subnet: format!("10.10.{router}.0/24"),
        remote_as: 65000,
        local_as: 65000,
        keepalive_s: 60,
        hold_time_s: 180,
        connect_timer_s: 10,
        advertisement_interval_s: 5,
        advertise_vip: true,
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
    let profile = v1::BgpProfile {
        local_as: 65000,
        ibgp: true,
        peers,
        ..v1::BgpProfile::default()
    };
    BgpDesired {
        profile: Some(profile),
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

/// FRR starts its neighbors about a second after itself, and turns connections away before.
async fn until_listening(router: &Router, address: &str) {
    let ready = |n: &Value| n["bgpState"] == "Active" || n["bgpState"] == "Connect";
    until_neighbor(router, address, "FRR to start the neighbor", ready).await;
}

async fn until_established(speaker: &SpeakerHandle, sessions: usize) -> Duration {
    wait_for("established sessions", PATIENCE, async || {
        let all = speaker.status().borrow().clone();
        let up = all
            .iter()
            .filter(|s| s.state() == v1::BgpState::Established)
            .count();
        if up == sessions {
            Ok(())
        } else {
            Err(format!("{all:?}"))
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

/// Messages that the router has had from us, and how often the session came up.
async fn traffic(router: &Router, address: &str) -> (u64, u64) {
    let neighbor = router.neighbor(address).await;
    let received = neighbor["messageStats"]["totalRecv"].as_u64().unwrap();
    (
        received,
        neighbor["connectionsEstablished"].as_u64().unwrap(),
    )
}

#[test]
fn an_ibgp_route_enters_and_leaves_the_routers_fib() {
    if !can_run() {
        return;
    }
    let lab = Lab::up(&[IBGP]);
    in_namespace(&lab.engine_namespace(), async || {
        let router = &lab.routers[0];
        until_listening(router, ENGINE).await;
        let speaker = Speaker::spawn();
        speaker.apply(desired(vec![peer(1)], &[VIP]));
        let opening = until_fib(router, VIP, &[ENGINE]).await;
        assert!(
            opening < Duration::from_secs(1),
            "session and route took {opening:?}"
        );

        let path = router.show(&format!("bgp ipv4 unicast {VIP}/32")).await["paths"][0].clone();
        assert_eq!(path["locPrf"], 100, "{path}");
        assert_eq!(path["aspath"]["string"], "Local", "{path}");
        assert_eq!(path["origin"], "IGP", "{path}");

        speaker.apply(desired(vec![peer(1)], &[VIP, "10.10.200.2"]));
        let second = until_fib(router, "10.10.200.2", &[ENGINE]).await;
        speaker.apply(desired(vec![peer(1)], &["10.10.200.2"]));
        let withdrawn = until_fib(router, VIP, &[]).await;
        eprintln!(
            "figures: start to FIB {opening:?}, next VIP to FIB {second:?}, withdrawal {withdrawn:?}"
        );

        speaker
            .shutdown("engine maintenance", Duration::from_secs(5))
            .await;
        until_fib(router, "10.10.200.2", &[]).await;
        until_neighbor(
            router,
            ENGINE,
            "Cease with the operator's text",
            |neighbor| {
                neighbor["lastErrorCodeSubcode"] == "0602"
                    && neighbor["lastShutdownDescription"] == "engine maintenance"
            },
        )
        .await;
    });
}

/// RFC 8326: marked with 65535:0 first, withdrawn once routers have had time to move traffic; the session stays.
#[test]
fn a_disabled_engine_marks_its_routes_then_withdraws_them_and_keeps_the_session() {
    if !can_run() {
        return;
    }
    let lab = Lab::up(&[IBGP]);
    in_namespace(&lab.engine_namespace(), async || {
        let router = &lab.routers[0];
        until_listening(router, ENGINE).await;
        let speaker = Speaker::spawn();
        let soon = v1::BgpPeer {
            advertisement_interval_s: 1,
            ..peer(1)
        };
        let enabled = desired(vec![soon], &[VIP]);
        speaker.apply(enabled.clone());
        until_fib(router, VIP, &[ENGINE]).await;
        let (_, established) = traffic(router, ENGINE).await;

        speaker.apply(BgpDesired {
            draining: true,
            ..enabled.clone()
        });
        let route = format!("bgp ipv4 unicast {VIP}/32");
        wait_for("the mark at the router", PATIENCE, async || {
            let path = router.show(&route).await["paths"][0].clone();
            match path["community"]["string"] == "graceful-shutdown" {
                true => Ok(()),
                false => Err(path.to_string()),
            }
        })
        .await;
        assert_eq!(router.fib(VIP).await, [ENGINE], "marked, not withdrawn");
        until_fib(router, VIP, &[]).await;
        let reasons = |all: &[v1::BgpSession]| all[0].routes[0].reason.clone();
        assert_eq!(reasons(&speaker.status().borrow()), "draining");
        let neighbor = router.neighbor(ENGINE).await;
        assert_eq!(neighbor["bgpState"], "Established", "{neighbor}");

        speaker.apply(enabled);
        let back = until_fib(router, VIP, &[ENGINE]).await;
        assert!(back < Duration::from_secs(2), "back at once, took {back:?}");
        let path = router.show(&route).await["paths"][0].clone();
        assert!(path["community"].is_null(), "{path}");
        assert_eq!(traffic(router, ENGINE).await.1, established);
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}

#[test]
fn an_ebgp_route_has_our_four_octet_as_prepended_and_communities() {
    if !can_run() {
        return;
    }
    let lab = Lab::up(&["
router bgp 65001
 bgp router-id 10.10.1.1
 no bgp ebgp-requires-policy
 neighbor engines peer-group
 neighbor engines remote-as 4200000001
 bgp listen range 10.10.1.0/24 peer-group engines
"]);
    in_namespace(&lab.engine_namespace(), async || {
        let router = &lab.routers[0];
        let speaker = Speaker::spawn();
        let external = v1::BgpPeer {
            local_as: 4_200_000_001,
            remote_as: 65001,
            ..peer(1)
        };
        let mut wanted = desired(vec![external], &[VIP]);
        let profile = wanted.profile.as_mut().unwrap();
        profile.num_as_path_prepend = Some(2);
        profile.communities = vec!["65000:100".to_owned(), "no-export".to_owned()];
        speaker.apply(wanted);
        let opening = until_fib(router, VIP, &[ENGINE]).await;
        eprintln!("figures: start to FIB {opening:?}");
        let path = router.show(&format!("bgp ipv4 unicast {VIP}/32")).await["paths"][0].clone();
        assert_eq!(
            path["aspath"]["string"], "4200000001 4200000001 4200000001",
            "{path}"
        );
        assert_eq!(path["community"]["string"], "65000:100 no-export", "{path}");
        assert_eq!(path["valid"], true, "{path}");
        speaker.apply(BgpDesired::default());
        until_fib(router, VIP, &[]).await;
    });
}

#[test]
fn an_ipv6_vip_is_announced_over_an_ipv6_session_and_over_an_ipv4_one() {
    if !can_run() {
        return;
    }
    let lab = Lab::up(&["
router bgp 65000
 bgp router-id 10.10.1.1
 neighbor 10.10.1.11 remote-as 65000
 neighbor 2001:db8:1::11 remote-as 65000
 neighbor 10.10.1.11 passive
 neighbor 2001:db8:1::11 passive
 address-family ipv6 unicast
  neighbor 10.10.1.11 activate
  neighbor 2001:db8:1::11 activate
"]);
    in_namespace(&lab.engine_namespace(), async || {
        let router = &lab.routers[0];
        let vip = "2001:db8:200::1";
        until_listening(router, "2001:db8:1::11").await;
        let over_v6 = v1::BgpPeer {
            address: "2001:db8:1::1".to_owned(),
            subnet: "2001:db8:1::/64".to_owned(),
            ..peer(1)
        };
        for peer in [over_v6, peer(1)] {
            let speaker = Speaker::spawn();
            speaker.apply(desired(vec![peer], &[vip]));
            until_fib(router, vip, &["2001:db8:1::11"]).await;
            speaker.shutdown("", Duration::from_secs(5)).await;
            until_fib(router, vip, &[]).await;
        }
    });
}

#[test]
fn a_wrong_md5_key_keeps_the_session_down_and_the_right_one_brings_it_up_at_once() {
    if !can_run() {
        return;
    }
    let lab = Lab::up(&[&format!("{IBGP} neighbor 10.10.1.11 password right-key\n")]);
    in_namespace(&lab.engine_namespace(), async || {
        let router = &lab.routers[0];
        let speaker = Speaker::spawn();
        let with_key = |key: &str| {
            desired(
                vec![v1::BgpPeer {
                    md5_secret: key.to_owned(),
                    connect_timer_s: 120,
                    ..peer(1)
                }],
                &[VIP],
            )
        };
        speaker.apply(with_key("wrong-key"));
        wait_for("the router to refuse the key", PATIENCE, async || {
            let refused = router.kernel_counter("TCPMD5Failure").await;
            if refused > 0 {
                Ok(())
            } else {
                Err("no MD5 failure".to_owned())
            }
        })
        .await;
        assert_eq!(speaker.status().borrow()[0].state(), v1::BgpState::Connect);
        assert_ne!(router.neighbor(ENGINE).await["bgpState"], "Established");

        speaker.apply(with_key("right-key"));
        let up = until_fib(router, VIP, &[ENGINE]).await;
        eprintln!("figures: right key to FIB {up:?}");
        assert!(
            up < Duration::from_secs(5),
            "a new key is tried at once, not after the connect timer: {up:?}"
        );
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}

/// Until exactly these peers have an established session.
async fn until_sessions(speaker: &SpeakerHandle, peers: &[&str]) {
    wait_for("the sessions", PATIENCE, async || {
        let status = speaker.status().borrow().clone();
        let up = status
            .iter()
            .filter(|s| s.state() == v1::BgpState::Established);
        let seen: Vec<_> = up.map(|s| s.peer.as_str()).collect();
        if seen == peers {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await;
}

/// RFC 4486: 6/4, once, and to that peer only.
#[test]
fn a_reset_by_the_operator_says_so_and_touches_no_other_session() {
    if !can_run() {
        return;
    }
    let second = IBGP.replace("10.10.1.", "10.10.2.");
    let lab = Lab::up(&[IBGP, &second]);
    in_namespace(&lab.engine_namespace(), async || {
        let [first, second] = &lab.routers[..] else {
            panic!("two routers")
        };
        let speaker = Speaker::spawn();
        speaker.apply(desired(vec![peer(1), peer(2)], &[VIP]));
        until_fib(second, VIP, &["10.10.2.11"]).await;
        until_established(&speaker, 2).await;
        let before = traffic(first, ENGINE).await;
        let reset = v1::BgpPeer {
            reset_unix_ms: 1,
            ..peer(2)
        };
        speaker.apply(desired(vec![peer(1), reset.clone()], &[VIP]));
        until_neighbor(second, "10.10.2.11", "a second session", |n| {
            n["connectionsEstablished"] == 2 && n["bgpState"] == "Established"
        })
        .await;
        // The router is asked: it may refuse our first try to come back, which is our last error then.
        let told = "received from neighbor 10.10.2.11 6/4 (Cease/Administrative Reset)";
        wait_for("the reset in the router's log", PATIENCE, async || {
            let said = second.said();
            said.contains(told).then_some(()).ok_or(said)
        })
        .await;
        until_established(&speaker, 2).await;
        until_fib(second, VIP, &["10.10.2.11"]).await;
        let after = traffic(second, "10.10.2.11").await;
        speaker.apply(desired(vec![peer(1), reset], &[VIP, "10.10.200.2"]));
        until_fib(second, "10.10.200.2", &["10.10.2.11"]).await;
        assert_ne!(traffic(second, "10.10.2.11").await, after, "an UPDATE more");
        assert_eq!(established_times(&speaker), [1, 2], "reset once");
        speaker.apply(desired(vec![peer(1), peer(2)], &[VIP]));
        until_fib(second, "10.10.200.2", &[]).await;
        assert_eq!(
            established_times(&speaker),
            [1, 2],
            "an earlier time resets nothing"
        );
        let (_, established) = traffic(first, ENGINE).await;
        assert_eq!(established, before.1);
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}

/// How often each session was established.
fn established_times(speaker: &SpeakerHandle) -> Vec<u64> {
    let status = speaker.status().borrow().clone();
    status.iter().map(|s| s.times_established).collect()
}

#[test]
fn peers_come_go_and_change_without_a_byte_to_the_others() {
    if !can_run() {
        return;
    }
    let second = IBGP.replace("10.10.1.", "10.10.2.");
    let lab = Lab::up(&[IBGP, &second]);
    in_namespace(&lab.engine_namespace(), async || {
        let [first, second] = &lab.routers[..] else {
            panic!("two routers")
        };
        let speaker = Speaker::spawn();
        speaker.apply(desired(vec![peer(1)], &[VIP]));
        let capture = capture::Capture::start();
        until_fib(first, VIP, &[ENGINE]).await;
        // FRR takes its time for this last message of its own.
        wait_for(
            "the router's End-of-RIB",
            PATIENCE,
            async || match speaker.status().borrow()[0].updates_in {
                0 => Err("no UPDATE".to_owned()),
                _ => Ok(()),
            },
        )
        .await;
        let before = traffic(first, ENGINE).await;
        assert!(
            !capture.segments_of("10.10.1.1").is_empty(),
            "the route was seen on its way"
        );

        speaker.apply(desired(vec![peer(1), peer(2)], &[VIP]));
        until_fib(second, VIP, &["10.10.2.11"]).await;
        // The same again: not a word to either.
        let second_before = traffic(second, "10.10.2.11").await;
        speaker.apply(desired(vec![peer(1), peer(2)], &[VIP]));
        let changed = v1::BgpPeer {
            advertisement_interval_s: 1,
            connect_timer_s: 20,
            ..peer(2)
        };
        speaker.apply(desired(vec![peer(1), changed], &[VIP]));
        until_established(&speaker, 2).await;
        assert_eq!(traffic(second, "10.10.2.11").await, second_before);

        // Another address of the second router: the old peer is left, the new one gets all.
        lab::run(&[
            "ip",
            "-n",
            &second.namespace,
            "address",
            "add",
            "10.10.2.2/24",
            "dev",
            "eth0",
        ]);
        let moved = v1::BgpPeer {
            address: "10.10.2.2".to_owned(),
            ..peer(2)
        };
        speaker.apply(desired(vec![peer(1), moved], &[VIP]));
        until_sessions(&speaker, &["10.10.1.1", "10.10.2.2"]).await;
        until_fib(second, VIP, &["10.10.2.11"]).await;

        speaker.apply(desired(vec![peer(1)], &[VIP]));
        until_fib(second, VIP, &[]).await;
        until_neighbor(second, "10.10.2.11", "Cease, Peer De-configured", |n| {
            n["lastErrorCodeSubcode"] == "0603"
        })
        .await;
        assert_eq!(
            capture.segments_of("10.10.1.1"),
            [],
            "on the first peer's TCP stream"
        );
        assert_eq!(
            traffic(first, ENGINE).await,
            before,
            "the first peer heard of it"
        );
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}

#[test]
fn a_changed_hold_time_resets_the_session_and_a_lost_interface_closes_it() {
    if !can_run() {
        return;
    }
    let lab = Lab::up(&[IBGP]);
    in_namespace(&lab.engine_namespace(), async || {
        let router = &lab.routers[0];
        let speaker = Speaker::spawn();
        speaker.apply(desired(vec![peer(1)], &[VIP]));
        until_fib(router, VIP, &[ENGINE]).await;

        let changed = desired(
            vec![v1::BgpPeer {
                hold_time_s: 30,
                ..peer(1)
            }],
            &[VIP],
        );
        speaker.apply(changed.clone());
        until_neighbor(
            router,
            ENGINE,
            "a second session with the new hold time",
            |n| n["connectionsEstablished"] == 2 && n["bgpTimerHoldTimeMsecs"] == 30_000,
        )
        .await;
        until_fib(router, VIP, &[ENGINE]).await;

        let mut without = changed.clone();
        without.interfaces[0].up = false;
        speaker.apply(without);
        until_fib(router, VIP, &[]).await;
        wait_for("the reason in the status", PATIENCE, async || {
            let all = speaker.status().borrow().clone();
            let told =
                all.len() == 1 && all[0].last_error == "interface eth1 with 10.10.1.11 is down";
            if told {
                Ok(())
            } else {
                Err(format!("{all:?}"))
            }
        })
        .await;
        speaker.apply(changed);
        let back = until_fib(router, VIP, &[ENGINE]).await;
        eprintln!("figures: interface back to FIB {back:?}");
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}

#[test]
fn routes_go_at_once_with_the_last_virtual_service_while_the_session_lingers() {
    if !can_run() {
        return;
    }
    let lab = Lab::up(&[IBGP]);
    in_namespace(&lab.engine_namespace(), async || {
        let router = &lab.routers[0];
        let speaker = Speaker::spawn();
        let wanted = desired(vec![peer(1)], &[VIP]);
        // A profile alone opens none.
        speaker.apply(BgpDesired {
            sessions_wanted: false,
            ..wanted.clone()
        });
        wait_for("the reason in the status", PATIENCE, async || {
            let all = speaker.status().borrow().clone();
            let told = all.len() == 1 && all[0].last_error.contains("no virtual service");
            if told {
                Ok(())
            } else {
                Err(format!("{all:?}"))
            }
        })
        .await;
        assert_eq!(router.neighbor(ENGINE).await["connectionsEstablished"], 0);

        speaker.apply(wanted.clone());
        until_fib(router, VIP, &[ENGINE]).await;
        speaker.apply(BgpDesired {
            sessions_wanted: false,
            ..wanted.clone()
        });
        until_fib(router, VIP, &[]).await;
        until_established(&speaker, 1).await;
        speaker.apply(wanted);
        until_fib(router, VIP, &[ENGINE]).await;
        assert_eq!(router.neighbor(ENGINE).await["connectionsEstablished"], 1);
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}

#[test]
fn a_thousand_vips_need_few_updates_and_come_back_after_the_router_restarts() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::up(&[IBGP]);
    let namespace = lab.engine_namespace();
    let router = &mut lab.routers[0];
    in_namespace(&namespace, async || {
        let speaker = Speaker::spawn();
        let mut wanted = desired(
            vec![v1::BgpPeer {
                connect_timer_s: 1,
                ..peer(1)
            }],
            &[VIP],
        );
        speaker.apply(wanted.clone());
        until_fib(router, VIP, &[ENGINE]).await;
        let updates = |n: &Value| n["messageStats"]["updatesRecv"].as_u64().unwrap();
        let before = updates(&router.neighbor(ENGINE).await);
        wanted.routes.extend((0..1000u32).map(|i| {
            (
                IpAddr::from((0x0A0B_0000 + i).to_be_bytes()),
                Announcement::default(),
            )
        }));
        speaker.apply(wanted);
        let took = wait_for("1001 routes", PATIENCE, async || {
            let seen = router.fib_len().await;
            if seen == 1001 {
                Ok(())
            } else {
                Err(seen.to_string())
            }
        })
        .await;
        let used = updates(&router.neighbor(ENGINE).await) - before;
        eprintln!("figures: 1000 VIPs in {used} UPDATEs, in the FIB after {took:?}");
        assert!(used < 10, "{used} UPDATEs");

        router.kill_bgpd();
        wait_for("the session to be down", PATIENCE, async || {
            let state = speaker.status().borrow()[0].state();
            if state == v1::BgpState::Established {
                Err("established".to_owned())
            } else {
                Ok(())
            }
        })
        .await;
        router.start_bgpd(IBGP);
        let back = wait_for("1001 routes", PATIENCE, async || {
            let seen = router.fib_len().await;
            if seen == 1001 {
                Ok(())
            } else {
                Err(seen.to_string())
            }
        })
        .await;
        until_established(&speaker, 1).await;
        eprintln!("figures: router restart to all routes {back:?} (connect timer 1 s)");
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}
