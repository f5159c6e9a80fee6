//! BFD against real FRR in namespaces, alone and with BGP on top. Needs root; refuses to skip in CI.
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
mod wire;

use std::collections::BTreeMap;
use std::time::Duration;

use evenkeel_engine::bfd::{BfdConfig, BfdKey, BfdSpeaker};
use evenkeel_engine::bgp::{Announcement, BgpDesired, Speaker, SpeakerHandle};
use lab::{Lab, Router, can_run, in_namespace, run, wait_for};
use proto::v1;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
const VIP: &str = "10.10.200.1";
const ENGINE: &str = "10.10.1.11";

/// BGP with BFD; timers of FRR's default profile are 300 ms x 3, so a profile sets others.
const ROUTER: &str = "
router bgp 65000
 bgp router-id 10.10.1.1
 neighbor 10.10.1.11 remote-as 65000
 neighbor 10.10.1.11 passive
";

const WATCHED: &str = " neighbor 10.10.1.11 bfd\n neighbor 10.10.1.11 bfd profile fast\n";

const FAST: &[&str] = &[
    "bfd",
    "profile fast",
    "receive-interval 50",
    "transmit-interval 50",
];

fn peer(bfd_strict: bool) -> v1::BgpPeer {
    v1::BgpPeer {
        address: "10.10.1.1".to_owned(),
        subnet: "10.10.1.0/24".to_owned(),
        remote_as: 65000,
        local_as: 65000,
        keepalive_s: 60,
        hold_time_s: 180,
        connect_timer_s: 1,
        advertisement_interval_s: 1,
        advertise_vip: true,
        bfd: true,
        bfd_strict,
        ..v1::BgpPeer::default()
    }
}

fn desired(peer: v1::BgpPeer, interval_ms: u32) -> BgpDesired {
    BgpDesired {
        profile: Some(v1::BgpProfile {
            local_as: 65000,
            ibgp: peer.remote_as == 65000,
            peers: vec![peer],
            ..v1::BgpProfile::default()
        }),
        bfd: Some(v1::BfdProfile {
            min_rx_ms: interval_ms,
            min_tx_ms: interval_ms,
            multiplier: 3,
        }),
        sessions_wanted: true,
        interfaces: vec![v1::Interface {
            name: "eth1".to_owned(),
            up: true,
            addresses: vec!["10.10.1.11/24".to_owned(), "2001:db8:1::11/64".to_owned()],
            ..v1::Interface::default()
        }],
        routes: [(VIP.parse().unwrap(), Announcement::default())].into(),
        ..BgpDesired::default()
    }
}

async fn until(what: &str, probe: impl AsyncFn() -> Result<(), String>) -> Duration {
    wait_for(what, PATIENCE, probe).await
}

async fn until_fib(router: &Router, expected: &[&str]) -> Duration {
    until(&format!("{VIP} via {expected:?}"), async || {
        let seen = router.fib(VIP).await;
        if seen == expected {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await
}

/// The router's own view of its only BFD session.
async fn bfd_at(router: &Router) -> Value {
    router.show("bfd peers").await[0].clone()
}

async fn until_router_bfd(router: &Router, what: &str, probe: impl Fn(&Value) -> bool) {
    until(what, async || {
        let seen = bfd_at(router).await;
        if probe(&seen) {
            Ok(())
        } else {
            Err(seen.to_string())
        }
    })
    .await;
}

async fn until_session(
    speaker: &SpeakerHandle,
    what: &str,
    probe: impl Fn(&v1::BgpSession) -> bool,
) -> v1::BgpSession {
    until(what, async || {
        let all = speaker.status().borrow().clone();
        match all.first().is_some_and(&probe) {
            true => Ok(()),
            false => Err(format!("{all:?} {:?}", speaker.bfd().map(|b| b.status()))),
        }
    })
    .await;
    speaker.status().borrow()[0].clone()
}

fn is_up(session: &v1::BgpSession) -> bool {
    session.state() == v1::BgpState::Established && session.bfd_state == "up"
}

async fn until_listening(router: &Router, address: &str) {
    until("FRR to start the neighbor", async || {
        let state = router.neighbor(address).await["bgpState"].clone();
        match state == "Active" || state == "Connect" {
            true => Ok(()),
            false => Err(state.to_string()),
        }
    })
    .await;
}

/// A router with bfdd, and the profile that the neighbor refers to.
async fn prepare(lab: &mut Lab, bgp: &[&str]) {
    lab.routers[0].start_bfdd();
    let router = &lab.routers[0];
    router.configure(FAST).await;
    if !bgp.is_empty() {
        router.configure(bgp).await;
    }
    until_listening(router, ENGINE).await;
}

fn nft(lab: &Lab, rule: &str) {
    let namespace = lab.engine_namespace();
    let mut command = vec!["ip", "netns", "exec", &namespace, "nft"];
    command.extend(rule.split(' '));
    run(&command);
}

/// Everything is lost silently, in both directions; links stay up.
fn cut(lab: &Lab) {
    nft(lab, "add table inet cut");
    for hook in ["input", "output"] {
        nft(
            lab,
            &format!(
                "add chain inet cut {hook} {{ type filter hook {hook} priority 0 ; policy drop ; }}"
            ),
        );
    }
}

fn mend(lab: &Lab) {
    nft(lab, "delete table inet cut");
}

#[test]
fn a_silent_loss_takes_the_session_and_its_routes_at_once_and_both_come_back() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::up(&[&format!("{ROUTER}{WATCHED}")]);
    let namespace = lab.engine_namespace();
    in_namespace(&namespace, async move || {
        prepare(&mut lab, &[]).await;
        let router = &lab.routers[0];
        let speaker = Speaker::spawn();
        speaker.apply(desired(peer(false), 50));
        until_fib(router, &[ENGINE]).await;
        until_session(&speaker, "BFD to come up", is_up).await;
        until_router_bfd(router, "the router's BFD", |b| b["status"] == "up").await;
        // FRR shows milliseconds.
        until_router_bfd(router, "our interval at the router", |b| {
            b["remote-transmit-interval"] == 50 && b["remote-detect-multiplier"] == 3
        })
        .await;
        cut(&lab);
        let gone = until_fib(router, &[]).await;
        eprintln!("figures: silent loss to FIB, BFD 50 ms x 3: {gone:?}");
        let down = until_session(&speaker, "the reason", |s| s.bfd_state == "down").await;
        assert_eq!(down.last_error_code, "6/10", "{down:?}");
        assert_ne!(down.state(), v1::BgpState::Established);
        mend(&lab);
        until_fib(router, &[ENGINE]).await;
        until_session(&speaker, "BFD to come up again", is_up).await;
        speaker.shutdown("", Duration::from_secs(5)).await;
        until_router_bfd(router, "our AdminDown", |b| b["status"] == "down").await;
    });
}

/// ROUTING.md's first complaint about BFD: it must not come first at the price of BGP.
#[test]
fn a_router_without_bfd_gets_its_session_all_the_same() {
    if !can_run() {
        return;
    }
    let lab = Lab::up(&[ROUTER]);
    in_namespace(&lab.engine_namespace(), async || {
        let router = &lab.routers[0];
        until_listening(router, ENGINE).await;
        let speaker = Speaker::spawn();
        speaker.apply(desired(peer(false), 50));
        until_fib(router, &[ENGINE]).await;
        let session = until_session(&speaker, "the session", |s| {
            s.state() == v1::BgpState::Established
        })
        .await;
        assert_eq!(session.bfd_state, "waiting_for_peer");
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}

/// FRR 8 starts BFD for a neighbor only after BGP is established, so that its BFD peer is configured by itself.
#[test]
fn a_strict_session_waits_for_bfd() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::up(&[ROUTER]);
    let namespace = lab.engine_namespace();
    in_namespace(&namespace, async move || {
        prepare(&mut lab, &[]).await;
        let router = &lab.routers[0];
        let speaker = Speaker::spawn();
        speaker.apply(desired(peer(true), 50));
        until_session(&speaker, "the session to wait", |s| {
            s.bfd_state == "waiting_for_peer" && s.state() == v1::BgpState::OpenConfirm
        })
        .await;
        assert!(router.fib(VIP).await.is_empty());
        router
            .configure(&["bfd", "peer 10.10.1.11", "profile fast"])
            .await;
        until_router_bfd(router, "the router's BFD", |b| b["status"] == "up").await;
        until_fib(router, &[ENGINE]).await;
        until_session(&speaker, "both to be up", is_up).await;
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}

/// RFC 5882 section 3.2; and new timers agree without a flap.
#[test]
fn the_peers_admin_down_and_new_timers_leave_bgp_alone() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::up(&[&format!("{ROUTER}{WATCHED}")]);
    let namespace = lab.engine_namespace();
    in_namespace(&namespace, async move || {
        prepare(&mut lab, &[]).await;
        let router = &lab.routers[0];
        let speaker = Speaker::spawn();
        speaker.apply(desired(peer(false), 50));
        until_session(&speaker, "both to be up", is_up).await;
        for interval in [400, 20, 100] {
            speaker.apply(desired(peer(false), interval));
            until_router_bfd(router, "the new interval", |b| {
                b["status"] == "up" && b["remote-transmit-interval"] == interval
            })
            .await;
        }
        let bfd = speaker.bfd().unwrap().status()[0].clone();
        assert_eq!((bfd.times_up, bfd.times_down), (1, 0), "{bfd:?}");

        router.configure(&["bfd", "profile fast", "shutdown"]).await;
        until_session(&speaker, "the router's AdminDown", |s| {
            s.bfd_state == "admin_down"
        })
        .await;
        let neighbor = router.neighbor(ENGINE).await;
        assert_eq!(neighbor["bgpState"], "Established", "{neighbor}");
        assert_eq!(neighbor["connectionsEstablished"], 1, "{neighbor}");
        assert_eq!(router.fib(VIP).await, [ENGINE]);
        router
            .configure(&["bfd", "profile fast", "no shutdown"])
            .await;
        until_session(&speaker, "BFD again", is_up).await;
        // A peer that is not to be watched any more is told, and keeps its session.
        let unwatched = v1::BgpPeer {
            bfd: false,
            ..peer(false)
        };
        speaker.apply(desired(unwatched, 50));
        until_router_bfd(router, "our AdminDown", |b| b["status"] == "down").await;
        assert_eq!(router.neighbor(ENGINE).await["connectionsEstablished"], 1);
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}

/// RFC 5883: an external peer over several hops.
#[test]
fn a_multihop_peer_is_watched_over_port_4784() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::up(&["
router bgp 65001
 bgp router-id 10.10.1.1
 no bgp ebgp-requires-policy
 neighbor 10.10.1.11 remote-as 65000
 neighbor 10.10.1.11 passive
 neighbor 10.10.1.11 ebgp-multihop 64
 neighbor 10.10.1.11 bfd
"]);
    let namespace = lab.engine_namespace();
    in_namespace(&namespace, async move || {
        prepare(&mut lab, &[]).await;
        let router = &lab.routers[0];
        let far = v1::BgpPeer {
            remote_as: 65001,
            ebgp_multihop: 64,
            ..peer(false)
        };
        let speaker = Speaker::spawn();
        speaker.apply(desired(far, 100));
        until_fib(router, &[ENGINE]).await;
        until_session(&speaker, "both to be up", is_up).await;
        assert!(speaker.bfd().unwrap().status()[0].multihop);
        until_router_bfd(router, "multihop at the router", |b| {
            b["status"] == "up" && b["multihop"] == true
        })
        .await;
        cut(&lab);
        until_fib(router, &[]).await;
        mend(&lab);
        until_fib(router, &[ENGINE]).await;
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}

fn key(local: &str, peer: &str, interface: &str) -> BfdKey {
    BfdKey {
        peer: peer.parse().unwrap(),
        local: local.parse().unwrap(),
        interface: interface.to_owned(),
        multihop: false,
    }
}

fn timers(milliseconds: u64) -> BfdConfig {
    BfdConfig {
        min_tx: Duration::from_millis(milliseconds),
        min_rx: Duration::from_millis(milliseconds),
        multiplier: 3,
        min_ttl: 0,
    }
}

/// RFC 5881 section 5: anything but TTL 255 has passed a router, and is discarded.
#[test]
fn a_packet_from_afar_is_discarded_and_counted() {
    if !can_run() {
        return;
    }
    let lab = Lab::up(&[ROUTER]);
    let router = lab.routers[0].namespace.clone();
    in_namespace(&lab.engine_namespace(), async || {
        let (bfd, _events) = BfdSpeaker::spawn().unwrap();
        bfd.apply(BTreeMap::from([(
            key(ENGINE, "10.10.1.1", "eth1"),
            timers(300),
        )]));
        let monitor = bfd.monitor();
        until("the session", async || match monitor.status().len() {
            1 => Ok(()),
            n => Err(format!("{n} sessions")),
        })
        .await;
        // Version 1, Down, multiplier 3, my discriminator 9, the rest zero or a second.
        let mut packet = vec![0x20, 0x40, 3, 24, 0, 0, 0, 9, 0, 0, 0, 0];
        packet.extend(1_000_000_u32.to_be_bytes());
        packet.extend(1_000_000_u32.to_be_bytes());
        packet.extend([0; 4]);
        for (ttl, expected_state) in [(254, "down"), (255, "init")] {
            let packet = packet.clone();
            in_namespace(&router, async || {
                let socket = std::net::UdpSocket::bind("10.10.1.1:50000").unwrap();
                socket.set_ttl(ttl).unwrap();
                socket.send_to(&packet, "10.10.1.11:3784").unwrap();
            });
            until("the packet to be judged", async || {
                let session = monitor.status()[0].clone();
                let judged = session.packets_in + session.packets_discarded;
                match judged == u64::from(ttl - 253) && session.state == expected_state {
                    true => Ok(()),
                    false => Err(format!("{session:?}")),
                }
            })
            .await;
        }
        assert_eq!(monitor.status()[0].packets_discarded, 1);
        bfd.shutdown();
    });
}

/// Both ends are ours, over IPv6, in two namespaces: many sessions at the rate that routers find hard.
#[test]
fn sixty_four_sessions_stay_up() {
    const SESSIONS: usize = 64;
    if !can_run() {
        return;
    }
    let lab = Lab::up(&[ROUTER]);
    let router = lab.routers[0].namespace.clone();
    let engine = lab.engine_namespace();
    for (namespace, host, device) in [(&router, 1, "eth0"), (&engine, 2, "eth1")] {
        for n in 0..SESSIONS {
            let address = format!("2001:db8:64:{n:x}::{host}/64");
            let add = [
                "ip", "-n", namespace, "address", "add", &address, "dev", device, "nodad",
            ];
            run(&add);
        }
    }
    let all = |ours: u8, theirs: u8, device: &str| -> BTreeMap<BfdKey, BfdConfig> {
        let address = |n: usize, host: u8| format!("2001:db8:64:{n:x}::{host}");
        (0..SESSIONS)
            .map(|n| {
                (
                    key(&address(n, ours), &address(n, theirs), device),
                    timers(50),
                )
            })
            .collect()
    };
    let far = std::cell::RefCell::new(None);
    in_namespace_sync(&router, || {
        let (bfd, events) = BfdSpeaker::spawn().unwrap();
        bfd.apply(all(1, 2, "eth0"));
        *far.borrow_mut() = Some((bfd, events));
    });
    in_namespace(&engine, async || {
        let (bfd, _events) = BfdSpeaker::spawn().unwrap();
        bfd.apply(all(2, 1, "eth1"));
        let monitor = bfd.monitor();
        let up = |monitor: &evenkeel_engine::bfd::BfdMonitor| {
            let status = monitor.status();
            let up = status.iter().filter(|s| s.state == "up").count();
            let down: u64 = status.iter().map(|s| s.times_down).sum();
            (up, down)
        };
        until("all sessions to be up", async || match up(&monitor) {
            (SESSIONS, 0) => Ok(()),
            seen => Err(format!("{seen:?}")),
        })
        .await;
        let packets = || monitor.status().iter().map(|s| s.packets_in).sum::<u64>();
        let enough = packets() + 20_000;
        let before = (monitor.thread_cpu_time(), std::time::Instant::now());
        until("20,000 more packets", async || match packets() >= enough {
            true => Ok(()),
            false => Err(packets().to_string()),
        })
        .await;
        assert_eq!(up(&monitor), (SESSIONS, 0), "no flap");
        let share =
            (monitor.thread_cpu_time() - before.0).as_secs_f64() / before.1.elapsed().as_secs_f64();
        eprintln!(
            "figures: 64 sessions at 50 ms x 3: {:.1} % of a core",
            100.0 * share
        );
        bfd.shutdown();
    });
    drop(far);
}

fn in_namespace_sync(namespace: &str, what: impl FnOnce()) {
    // The closure is not Send; what it spawns stays in the namespace.
    let here = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
    let there = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
    nix::sched::setns(there, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    what();
    nix::sched::setns(here, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
}
