//! Plans from desired states and interfaces, as tables.

use super::*;
use proto::v1::{FlowKey, FlowSettings, PortRange, Vip, VirtualService};
use std::net::SocketAddr;

/// The plan where every interface has index 3.
fn plan(desired: &DesiredState, interfaces: &[Interface]) -> Plan {
    super::plan(desired, interfaces, &|_| 3)
}

/// A kernel that takes everything, until it is told not to.
struct Taker {
    takes: watch::Receiver<bool>,
    /// How often flows were said to be on the move.
    events: watch::Sender<u32>,
    turns: watch::Receiver<Turns>,
}

impl Taker {
    fn new(takes: watch::Receiver<bool>) -> Self {
        let events = watch::Sender::default();
        let turns = watch::channel(Turns::new()).1;
        Self {
            takes,
            events,
            turns,
        }
    }
}

impl Steers for Taker {
    fn index_of(&self, _: &str) -> u32 {
        3
    }

    fn steer(&mut self, _: &Config, _: &[Interface]) -> Result<(), String> {
        let takes = *self.takes.borrow();
        takes.then_some(()).ok_or_else(|| "no program".into())
    }

    fn on_event(&mut self) {
        self.events.send_modify(|n| *n += 1);
    }

    fn turns(&self) -> Turns {
        self.turns.borrow().clone()
    }

    fn loads(&self) -> BTreeMap<String, u8> {
        BTreeMap::new()
    }

    fn keep_house(&mut self) -> Result<(), String> {
        Ok(())
    }
}

fn inputs(
    desired: watch::Receiver<Arc<DesiredState>>,
    interfaces: watch::Receiver<Vec<Interface>>,
) -> Inputs {
    Inputs {
        desired,
        interfaces,
        bgp: watch::channel(Arc::default()).1,
        liveness: watch::channel(Liveness::new()).1,
        lines: watch::channel(Lines::new()).1,
        load: watch::channel(0).1,
    }
}

fn interface(name: &str, addresses: &[&str]) -> Interface {
    Interface {
        name: name.into(),
        up: true,
        addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
        ..Interface::default()
    }
}

fn vip(address: &str) -> Vip {
    Vip {
        vsvip_uuid: "v".into(),
        address: address.into(),
        ..Vip::default()
    }
}

fn peer_with(addresses: &[&str]) -> v1::Peer {
    v1::Peer {
        se_uuid: "uuid-2".into(),
        name: "se-2".into(),
        addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
        alive: true,
    }
}

/// One VIP with two ports, and `se-2` as the other member.
fn desired() -> DesiredState {
    DesiredState {
        generation: 9,
        vips: vec![vip("10.100.0.1")],
        virtual_services: vec![VirtualService {
            uuid: "a".into(),
            vsvip_uuid: "v".into(),
            ports: vec![PortRange {
                first: 80,
                last: 81,
                ..PortRange::default()
            }],
            flow_hints: true,
            flow_probes: true,
            ..VirtualService::default()
        }],
        groups: vec![v1::Group {
            vsvip_uuid: "v".into(),
            generation: 4,
            member_id: 3,
            members: vec![v1::Member {
                id: 5,
                se_uuid: "uuid-2".into(),
                takes_new: true,
            }],
            ..v1::Group::default()
        }],
        peers: vec![peer_with(&["10.10.10.12/24"])],
        watched: vec![peer_with(&["10.10.10.12/24", "2001:db8::12/64"])],
        flow: Some(FlowSettings {
            probe_retries: 3,
            probe_retry_timer_ms: 25,
            message_keys: vec![FlowKey {
                id: 7,
                secret: (0..16).collect(),
            }],
            hint_key: vec![1; 16],
            hello_interval_ms: 50,
            hello_count: 0,
            port: 4790,
            forgets_at_once: true,
        }),
        ..DesiredState::default()
    }
}

fn ours() -> Vec<Interface> {
    vec![interface("eth0", &["10.10.10.11/24"])]
}

#[test]
fn a_desired_state_becomes_what_the_programs_are_told() {
    let Plan {
        generation,
        config,
        problems,
        watched,
        native,
    } = plan(&desired(), &ours());
    assert_eq!((generation, problems, native), (9, vec![], vec![]));
    let there = ["10.10.10.12", "2001:db8::12"].map(|a| a.parse::<IpAddr>().expect("ip"));
    assert_eq!(watched[0].addresses, there);
    let service = |port| Service {
        address: SocketAddr::new("10.100.0.1".parse().expect("ip"), port),
        protocol: Protocol::Tcp,
        group: 0,
        hints: true,
        probes: true,
        udp_ask_until: None,
    };
    assert_eq!(config.services, [service(80), service(81)]);
    let member = Member {
        id: 5,
        peer: 0,
        takes_new: true,
    };
    let group = Group {
        vsvip_uuid: "v".into(),
        generation: 4,
        us: 3,
        drains: false,
        spread: None,
        answers: Answers::default(),
        members: vec![member],
    };
    assert_eq!(config.groups, [group]);
    assert_eq!(
        (config.peers[0].name.as_str(), config.peers[0].alive),
        ("se-2", true)
    );
    assert_eq!(config.settings.probe_retries, 3);
    assert_eq!(config.settings.probe_retry_timer, Duration::from_millis(25));
    let rhythm = config.settings.rhythm;
    assert_eq!(
        (rhythm.interval, rhythm.down_after),
        (Duration::from_millis(50), 3)
    );
    assert_eq!(config.settings.ports().collect::<Vec<_>>(), [4790]);
    assert!(config.settings.forgets_at_once);
    let key = &config.settings.message_keys[0];
    assert_eq!(key.secret, [0x0706_0504_0302_0100, 0x0F0E_0D0C_0B0A_0908]);
    assert_eq!(
        config.settings.hint_key,
        HintKey([0x0101_0101_0101_0101; 2])
    );
}

#[test]
fn a_udp_port_is_steered_beside_the_same_port_of_tcp_and_without_hints() {
    let mut both = desired();
    both.virtual_services[0].ports.push(PortRange {
        first: 80,
        last: 80,
        protocol: v1::Protocol::Udp.into(),
        http: None,
    });
    let services = plan(&both, &ours()).config.services;
    let seen: Vec<_> = services
        .iter()
        .map(|s| (s.protocol, s.address.port(), s.hints, s.probes))
        .collect();
    let expected = [
        (Protocol::Tcp, 80, true, true),
        (Protocol::Tcp, 81, true, true),
        (Protocol::Udp, 80, false, true),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn switches_and_draining_reach_the_programs() {
    type Change = fn(&mut DesiredState);
    let cases: [(Change, [bool; 4]); 5] = [
        (|_| {}, [true, true, false, true]),
        (
            |d| d.virtual_services[0].flow_hints = false,
            [false, true, false, true],
        ),
        (
            |d| d.virtual_services[0].flow_probes = false,
            [true, false, false, true],
        ),
        (|d| d.groups[0].lingers = true, [true, true, true, true]),
        (|d| d.draining = true, [true, true, true, true]),
    ];
    for (number, (change, expected)) in cases.into_iter().enumerate() {
        let mut desired = desired();
        change(&mut desired);
        let config = plan(&desired, &ours()).config;
        let (service, group) = (&config.services[0], &config.groups[0]);
        let seen = [
            service.hints,
            service.probes,
            group.drains,
            group.members[0].takes_new,
        ];
        assert_eq!(seen, expected, "case {number}");
    }
    let mut left = desired();
    left.groups[0].members[0].takes_new = false;
    assert!(!plan(&left, &ours()).config.groups[0].members[0].takes_new);
}

/// On the link where the third byte of both is the same, else by routing; that is how the addresses here are chosen.
fn link(local: &str, remote: &str) -> Link {
    let [local, remote]: [IpAddr; 2] = [local, remote].map(|a| a.parse().expect("ip"));
    let subnet = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => u64::from(v4.to_bits() >> 8),
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
    };
    Link {
        local,
        remote,
        ifindex: 3,
        next_hop: (subnet(local) == subnet(remote)).then_some(remote),
    }
}

#[test]
fn links_in_a_common_subnet_come_first_and_start_at_our_address_there() {
    let two = [
        interface("eth0", &["10.10.10.11/24", "fd00:10::11/64"]),
        interface("eth1", &["10.10.20.11/24"]),
    ];
    type Links = &'static [(&'static str, &'static str)];
    let cases: [(&[&str], Links); 5] = [
        // On the second link only.
        (&["10.10.20.12/24"], &[("10.10.20.11", "10.10.20.12")]),
        // On both: our order.
        (
            &["10.10.20.12/24", "10.10.10.12/24"],
            &[
                ("10.10.10.11", "10.10.10.12"),
                ("10.10.20.11", "10.10.20.12"),
            ],
        ),
        // The one that is near comes before the one that is far.
        (
            &["192.0.2.12/24", "10.10.20.12/24"],
            &[
                ("10.10.20.11", "10.10.20.12"),
                ("10.10.10.11", "192.0.2.12"),
            ],
        ),
        // Each family by itself.
        (
            &["10.10.10.12/24", "fd00:20::12/64"],
            &[
                ("10.10.10.11", "10.10.10.12"),
                ("fd00:10::11", "fd00:20::12"),
            ],
        ),
        // On the link by our prefix, whatever theirs is.
        (&["10.10.20.12/25"], &[("10.10.20.11", "10.10.20.12")]),
    ];
    for (theirs, expected) in cases {
        let mut desired = desired();
        desired.peers = vec![peer_with(theirs)];
        let links = plan(&desired, &two).config.peers.remove(0).links;
        let expected: Vec<Link> = expected
            .iter()
            .map(|(local, remote)| link(local, remote))
            .collect();
        assert_eq!(links, expected, "{theirs:?}");
    }
}

#[test]
fn an_interface_that_is_down_carries_no_tunnel() {
    let mut two = [
        interface("eth0", &["10.10.10.11/24"]),
        interface("eth1", &["10.10.20.11/24"]),
    ];
    two[0].up = false;
    let links = plan(&desired(), &two).config.peers.remove(0).links;
    assert_eq!(links, [link("10.10.20.11", "10.10.10.12")]);
}

#[test]
fn a_vip_whose_member_has_no_address_of_its_family_is_named() {
    let mut both = desired();
    both.vips.push(vip("fd00:100::1"));
    let with_v6 = [interface("eth0", &["10.10.10.11/24", "fd00:10::11/64"])];
    let problems = plan(&both, &with_v6).problems;
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].vip, "fd00:100::1");
    assert_eq!(
        (
            problems[0].se_uuid.as_str(),
            problems[0].reason_code.as_str()
        ),
        ("uuid-2", "no_tunnel_path")
    );
    assert!(
        problems[0].reason.contains("se-2 has no IPv6 address"),
        "{}",
        problems[0].reason
    );
    both.peers[0].addresses.push("fd00:10::12/64".into());
    assert_eq!(plan(&both, &with_v6).problems, []);
    // Ours is missing as well as theirs.
    assert_eq!(plan(&both, &ours()).problems.len(), 1);
    both.groups[0].members.clear();
    assert_eq!(plan(&both, &ours()).problems, [], "nobody to tunnel to");
}

#[test]
fn a_vip_without_a_group_is_not_steered() {
    let mut old = desired();
    old.groups.clear();
    old.flow = None;
    let config = plan(&old, &ours()).config;
    assert_eq!((config.services.len(), config.groups.len()), (0, 0));
    assert_eq!(config.settings, Settings::default());
}

#[tokio::test]
async fn the_plan_follows_desired_state_and_interfaces() {
    let (desired_in, desired_out) = watch::channel(Arc::new(DesiredState::default()));
    let (interfaces_in, interfaces_out) = watch::channel(Vec::new());
    let (plans, mut planned) = watch::channel(Arc::default());
    let (_takes, taken) = watch::channel(true);
    let (sessions_in, sessions_out) = watch::channel(Arc::default());
    let inputs = Inputs {
        bgp: sessions_out,
        ..inputs(desired_out, interfaces_out)
    };
    let task = tokio::spawn(run(inputs, plans, Taker::new(taken)));
    desired_in.send_replace(Arc::new(desired()));
    let seen = planned.wait_for(|p| p.generation == 9).await.expect("runs");
    assert_eq!(seen.problems.len(), 1, "no interface yet");
    drop(seen);
    interfaces_in.send_replace(ours());
    let seen = planned
        .wait_for(|p| p.problems.is_empty())
        .await
        .expect("runs");
    assert_eq!(seen.config.peers[0].links.len(), 1);
    drop(seen);
    drop((desired_in, interfaces_in, sessions_in));
    task.await.expect("it ends with what it follows");
}

#[tokio::test]
async fn a_kernel_that_refuses_is_named_for_every_member_and_asked_again() {
    let (_desired, desired_out) = watch::channel(Arc::new(desired()));
    let (_interfaces, interfaces_out) = watch::channel(ours());
    let (plans, mut planned) = watch::channel(Arc::<Plan>::default());
    let (takes, taken) = watch::channel(false);
    let task = tokio::spawn(run(
        inputs(desired_out, interfaces_out),
        plans,
        Taker::new(taken),
    ));
    let seen = planned.wait_for(|p| p.generation == 9).await.expect("runs");
    let [problem] = &seen.problems[..] else {
        panic!("one VIP, one member: {:?}", seen.problems)
    };
    assert_eq!(
        (problem.se_uuid.as_str(), problem.reason_code.as_str()),
        ("uuid-2", "steering_failed")
    );
    assert!(problem.reason.starts_with("no program"), "{problem:?}");
    drop(seen);
    takes.send_replace(true);
    let mended = planned.wait_for(|p| p.problems.is_empty()).await;
    assert_eq!(mended.expect("runs").generation, 9);
    task.abort();
}

/// The order of coming up: programs, then routes.
#[tokio::test]
async fn an_engine_that_has_served_before_waits_until_its_plan_is_in_force() {
    use futures_util::FutureExt;
    let (plans, planned) = watch::channel(Arc::<Plan>::default());
    let wait = |generation| in_force(planned.clone(), generation);
    assert_eq!(wait(0).now_or_never(), Some(()), "it has not");
    let waiting = tokio::spawn(wait(9));
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished(), "no plan is in force yet");
    plans.send_replace(Arc::new(Plan {
        generation: 9,
        ..Plan::default()
    }));
    waiting.await.expect("it waits no more");
}

#[tokio::test]
async fn a_member_that_falls_silent_is_neither_asked_nor_sent_to_and_is_named() {
    use flow::hello::{State, Way};
    let (_desired, desired_out) = watch::channel(Arc::new(desired()));
    let (_interfaces, interfaces_out) = watch::channel(ours());
    let (plans, mut planned) = watch::channel(Arc::<Plan>::default());
    let (_takes, taken) = watch::channel(true);
    let (heard, liveness) = watch::channel(Liveness::new());
    let inputs = Inputs {
        liveness,
        ..inputs(desired_out, interfaces_out)
    };
    let task = tokio::spawn(run(inputs, plans, Taker::new(taken)));
    planned.wait_for(|p| p.generation == 9).await.expect("runs");
    let way = Way {
        local: "10.10.10.11".parse().expect("ip"),
        remote: "10.10.10.12".parse().expect("ip"),
    };
    for (state, alive) in [
        (State::Up, true),
        (State::Dead, false),
        (State::Up, true),
        (State::Down, true),
    ] {
        heard.send_replace(Liveness::from([(way, state)]));
        let is_said = |p: &Arc<Plan>| p.config.peers[0].alive == alive;
        let seen = planned.wait_for(is_said).await.expect("runs");
        let reasons = seen.problems.iter().map(|p| p.reason_code.as_str());
        let expected: &[&str] = if alive { &[] } else { &["member_silent"] };
        assert_eq!(reasons.collect::<Vec<_>>(), expected);
    }
    task.abort();
}

/// Of sessions only the routes matter that peers have: each change of those opens the budget of questions.
#[tokio::test]
async fn a_route_that_a_peer_gets_or_loses_is_an_event() {
    let (_desired, desired_out) = watch::channel(Arc::new(desired()));
    let (_interfaces, interfaces_out) = watch::channel(ours());
    let (plans, mut planned) = watch::channel(Arc::<Plan>::default());
    let (_takes, taken) = watch::channel(true);
    let (sessions, sessions_out) = watch::channel(Arc::default());
    let inputs = Inputs {
        bgp: sessions_out,
        ..inputs(desired_out, interfaces_out)
    };
    let taker = Taker::new(taken);
    let mut events = taker.events.subscribe();
    let task = tokio::spawn(run(inputs, plans, taker));
    planned.wait_for(|p| p.generation == 9).await.expect("runs");
    let session = |messages_in, sent| BgpSession {
        messages_in,
        routes: vec![v1::BgpRoute {
            prefix: "10.100.0.1/32".into(),
            sent,
            ..v1::BgpRoute::default()
        }],
        ..BgpSession::default()
    };
    for (messages_in, sent, expected) in [(1, true, 1), (2, true, 1), (3, false, 2)] {
        sessions.send_replace(Arc::new(vec![session(messages_in, sent)]));
        let seen = events.wait_for(|n| *n >= expected).await.expect("runs");
        assert_eq!(*seen, expected);
    }
    task.abort();
}

/// Of processes each that comes, goes, falls silent or speaks again.
#[tokio::test]
async fn a_process_that_comes_goes_or_falls_silent_is_an_event() {
    let (_desired, desired_out) = watch::channel(Arc::new(desired()));
    let (_interfaces, interfaces_out) = watch::channel(ours());
    let (plans, mut planned) = watch::channel(Arc::<Plan>::default());
    let (_takes, taken) = watch::channel(true);
    let (lines, held) = watch::channel(Lines::new());
    let (turns, counted) = watch::channel(Turns::new());
    let inputs = Inputs {
        lines: held,
        ..inputs(desired_out, interfaces_out)
    };
    let taker = Taker {
        turns: counted,
        ..Taker::new(taken)
    };
    let mut events = taker.events.subscribe();
    let task = tokio::spawn(run(inputs, plans, taker));
    planned.wait_for(|p| p.generation == 9).await.expect("runs");
    let way = flow::hello::Way {
        local: "10.10.10.11".parse().expect("ip"),
        remote: "10.10.10.12".parse().expect("ip"),
    };
    lines.send_replace(Lines::from([(way, Instant::now())]));
    events.wait_for(|n| *n == 1).await.expect("a line");
    lines.send_replace(Lines::new());
    events.wait_for(|n| *n == 2).await.expect("its end");
    turns.send_replace(Turns::from([("se-2".into(), 1)]));
    events.wait_for(|n| *n == 3).await.expect("a turn");
    task.abort();
}
