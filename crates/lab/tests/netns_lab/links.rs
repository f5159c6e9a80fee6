//! Link types, each with FRR and with BIRD: sessions and kernel FIBs as the routers show them.
//!
//! What a topology expects stands in its `topology.toml`; here stand the links that are broken and what each
//! takes away. Next hops must be exactly those, for the VIP of either family, at every router.

use crate::support::{
    Lab, apply, can_run, connect, evenkeel, lab_ok, traces_of, wait_for, wait_for_state,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Short enough for a test of a link whose loss the router does not see, long enough for a busy machine.
const SHORT_HOLD_TIME_S: u64 = 6;

/// How a session ends whose link is lost.
#[derive(Clone, Copy)]
enum Loss {
    /// The router sees it. The hold time is the default of 180 s, several times what any wait here lasts.
    Seen,
    /// The router's own interface stays up: the hold time is short.
    Silent,
}

const VIPS: [&str; 2] = ["10.100.0.1", "fd00:100::1"];

/// Next hops by router and VIP.
type Fib = BTreeMap<(String, String), BTreeSet<String>>;

/// The TCP ports of each session that is Established, by router and neighbour: other ports are another session.
type Sessions = BTreeMap<(String, String), String>;

/// Interfaces that are set down, and the neighbours that a router loses by them.
struct Break {
    node: &'static str,
    interfaces: &'static [&'static str],
    router: &'static str,
    lost: &'static [&'static str],
}

fn texts(value: &Value) -> BTreeSet<String> {
    let list = value.as_array().into_iter().flatten();
    list.map(|v| v.as_str().unwrap().to_owned()).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// A lab of one link type with one kind of router.
struct Links {
    lab: Lab,
    router: &'static str,
}

impl Links {
    fn up(id: &'static str, topology: &str, router: &'static str, loss: Loss) -> Self {
        let lab = Lab::new(id);
        let hold = format!("hold_time={SHORT_HOLD_TIME_S}");
        let timers: &[&str] = match loss {
            Loss::Seen => &[],
            Loss::Silent => &["--set", &hold, "--set", "keepalive=2"],
        };
        let what = ["up", topology, "--router", router, "--run", id];
        lab_ok(&[&what[..], timers].concat());
        Self { lab, router }
    }

    fn status(&self) -> Value {
        let shown = lab_ok(&["status", "--run", self.lab.0, "-o", "json"]);
        serde_json::from_str(&shown).unwrap()
    }

    fn sessions(&self) -> Sessions {
        let status = self.status();
        let sessions = status["sessions"].as_array().unwrap();
        let up = sessions.iter().filter(|s| s["state"] == "Established");
        up.map(|s| {
            let key = (text(&s["router"]), text(&s["neighbor"]));
            (key, text(&s["ports"]))
        })
        .collect()
    }

    fn fib(&self, field: &str) -> Fib {
        let status = self.status();
        let routes = status["routes"].as_array().unwrap();
        let entry = |r: &Value| {
            let key = (text(&r["router"]), text(&r["vip"]));
            (key, texts(&r[field]))
        };
        routes.iter().map(entry).collect()
    }

    /// What the topology expects, without these next hops at this router.
    fn expected_without(&self, router: &str, lost: &[&str]) -> Fib {
        let mut fib = self.fib("expected");
        for ((at, _), hops) in &mut fib {
            if at == router {
                hops.retain(|h| !lost.contains(&h.as_str()));
            }
        }
        fib
    }

    fn await_fib(&self, when: &str, wanted: &Fib) {
        wait_for(&format!("{}: next hops {when}", self.router), || {
            let seen = self.fib("next_hops");
            if seen == *wanted {
                Ok(())
            } else {
                Err(format!("{seen:?} instead of {wanted:?}"))
            }
        });
    }

    fn await_sessions(&self, when: &str, fits: impl Fn(&Sessions) -> bool) -> Sessions {
        wait_for(&format!("{}: sessions {when}", self.router), || {
            let seen = self.sessions();
            if fits(&seen) {
                Ok(seen)
            } else {
                Err(format!("{seen:?}"))
            }
        })
    }

    fn set_link(&self, node: &str, interface: &str, state: &str) {
        let line = ["ip", "link", "set", interface, state];
        lab_ok(&[&["exec", "--run", self.lab.0, node], &line[..]].concat());
    }

    /// The state after `up`: everything expected is there, and a client gets through by either family.
    fn await_start(&self, sessions: usize) -> Sessions {
        self.await_fib("at the start", &self.fib("expected"));
        self.assert_traffic("at the start");
        self.await_sessions("at the start", |s| s.len() == sessions)
    }

    fn assert_traffic(&self, when: &str) {
        for vip in VIPS {
            assert_eq!(connect(&self.lab, vip, 80), "", "{} {when}", self.router);
        }
    }

    /// Breaks a link and restores it: what it carried goes and comes back, all other sessions stay the same.
    fn break_and_restore(&self, broken: &Break) {
        let Break {
            node,
            interfaces,
            router,
            lost,
        } = broken;
        let before = self.sessions();
        let is_lost =
            |(at, neighbor): &(String, String)| at == router && lost.contains(&neighbor.as_str());
        let others: Sessions = before
            .clone()
            .into_iter()
            .filter(|(k, _)| !is_lost(k))
            .collect();
        assert!(others.len() + lost.len() == before.len(), "{before:?}");

        let set = |state| {
            interfaces
                .iter()
                .for_each(|i| self.set_link(node, i, state))
        };
        set("down");
        let when = format!("without {node}'s {interfaces:?}");
        self.await_fib(&when, &self.expected_without(router, lost));
        self.await_sessions(&when, |s| *s == others);

        set("up");
        let when = format!("with {node}'s {interfaces:?} again");
        self.await_fib(&when, &self.fib("expected"));
        self.await_sessions(&when, |s| {
            s.len() == before.len() && others.iter().all(|(k, same)| s.get(k) == Some(same))
        });
    }

    /// Looks for longer than the hold time; the routes and every session must stay as they are.
    fn assert_nothing_lost(&self, when: &str, sessions: &Sessions) {
        let expected = self.fib("expected");
        let until = Instant::now() + Duration::from_secs(SHORT_HOLD_TIME_S + 1);
        while Instant::now() < until {
            assert_eq!(self.fib("next_hops"), expected, "{} {when}", self.router);
            assert_eq!(self.sessions(), *sessions, "{} {when}", self.router);
            self.assert_traffic(when);
        }
    }

    /// Waits until the kernel of se-1 sends answers over these next hops.
    fn await_default(&self, when: &str, wanted: &[&str]) {
        let shown = [
            "exec", "--run", self.lab.0, "se-1", "ip", "-j", "route", "show", "default",
        ];
        wait_for(&format!("the way of the answers {when}"), || {
            let routes: Value = serde_json::from_str(&lab_ok(&shown)).unwrap();
            let text = routes.to_string();
            let has = |hop: &&str| text.contains(&format!("\"gateway\":\"{hop}\""));
            let exact = text.matches("gateway").count() == wanted.len();
            match exact && wanted.iter().all(has) {
                true => Ok(()),
                false => Err(text),
            }
        });
    }

    /// Disables the virtual service: the route goes at every router, and no session notices.
    fn withdraw_everywhere(&self) {
        let sessions = self.sessions();
        let disabled = "virtualservice: [{name: vs-1, enabled: false, enable_rhi: true, services: [{port: 80}], vsvip_ref: vip-1, pool_ref: pool-1}]";
        apply(&self.lab, disabled);
        let mut nowhere = self.fib("expected");
        nowhere.values_mut().for_each(BTreeSet::clear);
        self.await_fib("of a disabled service", &nowhere);
        assert_eq!(self.sessions(), sessions, "{} withdrawn", self.router);
    }

    fn down(self) {
        lab_ok(&["down", "--run", self.lab.0]);
        assert_eq!(traces_of(self.lab.0), BTreeSet::new());
    }
}

/// Up, each link broken and restored, withdrawn, down.
fn walk(
    id: &'static str,
    topology: &str,
    router: &'static str,
    loss: Loss,
    sessions: usize,
    breaks: &[Break],
) {
    if !can_run() {
        return;
    }
    let links = Links::up(id, topology, router, loss);
    links.await_start(sessions);
    for broken in breaks {
        links.break_and_restore(broken);
    }
    links.withdraw_everywhere();
    links.down();
}

/// The router's own interface is down: it sees the loss at once, as on any cable.
const P2P_BREAKS: &[Break] = &[
    Break {
        node: "router",
        interfaces: &["eth1"],
        router: "router",
        lost: &["10.1.0.2", "fd00:1::2"],
    },
    Break {
        node: "se-2",
        interfaces: &["eth0"],
        router: "router",
        lost: &["10.1.1.1", "fd00:1:1::1"],
    },
];

#[test]
fn point_to_point_links_of_30_and_31_with_frr() {
    walk("tp2pf", "p2p-30-31", "frr", Loss::Seen, 4, P2P_BREAKS);
}

#[test]
fn point_to_point_links_of_30_and_31_with_bird() {
    walk("tp2pb", "p2p-30-31", "bird", Loss::Seen, 4, P2P_BREAKS);
}

/// A port of the bridge is down: the router's own interface stays up, so that the hold time ends the session.
const SVI_BREAKS: &[Break] = &[Break {
    node: "router",
    interfaces: &["se-2.0"],
    router: "router",
    lost: &["10.10.10.12", "fd00:10::12"],
}];

#[test]
fn a_24_behind_an_svi_with_frr() {
    walk("tsvif", "svi-24", "frr", Loss::Silent, 6, SVI_BREAKS);
}

#[test]
fn a_24_behind_an_svi_with_bird() {
    walk("tsvib", "svi-24", "bird", Loss::Silent, 6, SVI_BREAKS);
}

const MULTI_BREAKS: &[Break] = &[
    Break {
        node: "r1",
        interfaces: &["eth1"],
        router: "r1",
        lost: &["10.3.1.1", "fd00:3:1::1"],
    },
    Break {
        node: "r2",
        interfaces: &["eth2"],
        router: "r2",
        lost: &["10.3.20.11", "fd00:3:20::11"],
    },
];

#[test]
fn several_interfaces_to_one_router_and_to_two_with_frr() {
    walk("tml3f", "multi-l3", "frr", Loss::Seen, 8, MULTI_BREAKS);
}

#[test]
fn several_interfaces_to_one_router_and_to_two_with_bird() {
    walk("tml3b", "multi-l3", "bird", Loss::Seen, 8, MULTI_BREAKS);
}

/// The engine's own routes to clients are static routes of the VRF, over every link.
#[test]
fn answers_of_several_interfaces_go_over_the_links_that_are_left() {
    if !can_run() {
        return;
    }
    let links = Links::up("tml3r", "multi-l3", "frr", Loss::Seen);
    links.await_start(8);
    let all = ["10.3.1.0", "10.3.10.1", "10.3.2.0", "10.3.20.1"];
    links.await_default("with all links", &all);
    links.set_link("r1", "eth1", "down");
    links.await_default("without the first", &all[1..]);
    links.assert_traffic("without the first");
    links.set_link("r1", "eth1", "up");
    links.await_default("with all links again", &all);
    links.down();
}

fn two_tiers(id: &'static str, router: &'static str) {
    if !can_run() {
        return;
    }
    let links = Links::up(id, "two-tier", router, Loss::Seen);
    let start = links.await_start(8);
    links.set_link("r1", "eth1", "down");
    let alone = links.expected_without("r1", &["10.4.0.1", "fd00:4::1"]);
    links.await_fib("of r1 without r2", &alone);
    links.set_link("r1", "eth1", "up");
    links.await_fib("of r1 with r2 again", &links.fib("expected"));
    // The engines' sessions know nothing of it.
    let engines = |s: &Sessions| {
        let of_engines = s.clone().into_iter();
        let kept = of_engines.filter(|((_, neighbor), _)| {
            neighbor.starts_with("10.4.1.") || neighbor.starts_with("fd00:4:1:")
        });
        kept.collect::<Sessions>()
    };
    let end = links.await_sessions("of both tiers again", |s| s.len() == 8);
    assert_eq!(engines(&end), engines(&start));
    assert_eq!(engines(&end).len(), 4);
    links.withdraw_everywhere();
    links.down();
}

#[test]
fn a_second_tier_holds_the_vip_through_the_first_with_frr() {
    two_tiers("tt2f", "frr");
}

#[test]
fn a_second_tier_holds_the_vip_through_the_first_with_bird() {
    two_tiers("tt2b", "bird");
}

/// One link of a channel at a time, each for longer than the hold time.
fn one_link_of_a_channel(id: &'static str, router: &'static str) {
    if !can_run() {
        return;
    }
    let links = Links::up(id, "port-channel", router, Loss::Silent);
    let sessions = links.await_start(4);
    for (member, node) in [("po1.0", "router"), ("po0.1", "se-1")] {
        links.set_link(node, member, "down");
        links.assert_nothing_lost(&format!("without {node}'s {member}"), &sessions);
        links.set_link(node, member, "up");
    }
    assert_eq!(links.sessions(), sessions);
    links.down();
}

#[test]
fn a_port_channel_that_loses_one_link_loses_neither_session_nor_route_with_frr() {
    one_link_of_a_channel("tpcf", "frr");
}

#[test]
fn a_port_channel_that_loses_one_link_loses_neither_session_nor_route_with_bird() {
    one_link_of_a_channel("tpcb", "bird");
}

/// Both links of one channel: that is the loss of its logical interface, and no other's.
const CHANNEL_BREAKS: &[Break] = &[Break {
    node: "router",
    interfaces: &["po1.0", "po1.1"],
    router: "router",
    lost: &["10.2.0.1", "fd00:2::2"],
}];

#[test]
fn a_port_channel_that_loses_both_links_loses_its_own_session_only_with_frr() {
    let (id, topology) = ("tpc2f", "port-channel");
    walk(id, topology, "frr", Loss::Seen, 4, CHANNEL_BREAKS);
}

#[test]
fn a_port_channel_that_loses_both_links_loses_its_own_session_only_with_bird() {
    let (id, topology) = ("tpc2b", "port-channel");
    walk(id, topology, "bird", Loss::Seen, 4, CHANNEL_BREAKS);
}

fn two_interfaces_in_one_subnet(id: &'static str, router: &'static str) {
    if !can_run() {
        return;
    }
    let links = Links::up(id, "same-subnet", router, Loss::Seen);
    let seen = wait_for_state(&links.lab, "vs-1", "OPER_RESOURCES");
    let reason = seen["reason"].as_str().unwrap();
    assert!(
        reason.contains("se-1: it has two interfaces in 10.10.10.0/24")
            && reason.contains("in the same subnet and VLAN are not supported"),
        "{reason}"
    );
    links.await_fib("of a refused engine", &links.fib("expected"));
    assert_eq!(links.sessions(), Sessions::new());
    links.down();
}

#[test]
fn two_interfaces_in_the_same_subnet_and_vlan_are_refused_with_the_documents_reason_with_frr() {
    two_interfaces_in_one_subnet("tsamf", "frr");
}

#[test]
fn two_interfaces_in_the_same_subnet_and_vlan_are_refused_with_the_documents_reason_with_bird() {
    two_interfaces_in_one_subnet("tsamb", "bird");
}

const ANOTHER_SERVER: &str = "pool: [{name: pool-1, default_server_port: 80, servers: [{ip: 10.20.20.101}, {ip: 10.20.20.102}]}]";

#[test]
fn an_engine_that_gets_a_second_interface_in_the_subnet_later_says_so_and_keeps_its_route() {
    if !can_run() {
        return;
    }
    let links = Links::up("tlate", "svi-24", "frr", Loss::Seen);
    let start = links.await_start(6);
    let line = [
        "se-1",
        "ip",
        "address",
        "add",
        "10.10.10.99/24",
        "dev",
        "srv0",
    ];
    lab_ok(&[&["exec", "--run", links.lab.0], &line[..]].concat());
    wait_for(
        "the engine refuses what comes next, with the reason",
        || {
            apply(&links.lab, ANOTHER_SERVER);
            let output = evenkeel(&links.lab, &["show", "serviceengine", "se-1"], "");
            let shown = String::from_utf8_lossy(&output.stdout).into_owned();
            let reason = "are both in 10.10.10.0/24: separate layer 3 interfaces in the same subnet and same VLAN are not supported";
            if shown.contains(reason) {
                Ok(())
            } else {
                Err(shown)
            }
        },
    );
    links.await_fib("of an engine that refuses", &links.fib("expected"));
    assert_eq!(links.sessions(), start);
    links.down();
}
