//! Decisions from states without an engine.

use super::*;
use proto::v1::{BgpProfile, Group, PortRange, Server, Vip, Vrf};

#[test]
fn the_state_is_complete_when_no_health_is_pending() {
    let with = |state, reason| BTreeMap::from([("a".to_owned(), (state, reason))]);
    assert!(!is_complete(&with(
        OperState::Initializing,
        Reason::HealthChecksPending
    )));
    assert!(is_complete(&with(OperState::Up, Reason::Up)));
    assert!(is_complete(&with(OperState::Down, Reason::PoolDown)));
}

fn service(uuid: &str, port: u32) -> VirtualService {
    VirtualService {
        uuid: uuid.into(),
        vsvip_uuid: "v".into(),
        pool_uuid: "p".into(),
        ports: vec![PortRange {
            first: port,
            last: port,
            ..PortRange::default()
        }],
        enabled: true,
        enable_rhi: true,
        ..VirtualService::default()
    }
}

fn desired(services: Vec<VirtualService>) -> DesiredState {
    DesiredState {
        vrf: Some(Vrf {
            bgp: Some(BgpProfile::default()),
            ..Vrf::default()
        }),
        vips: vec![Vip {
            vsvip_uuid: "v".into(),
            vip_id: "0".into(),
            address: "10.100.0.1".into(),
            ..Vip::default()
        }],
        virtual_services: services,
        pools: vec![Pool {
            uuid: "p".into(),
            enabled: true,
            servers: vec![Server {
                address: "10.0.0.1".into(),
                port: 80,
                enabled: true,
                ratio: 1,
            }],
            ..Pool::default()
        }],
        ..DesiredState::default()
    }
}

fn health(state: OperState) -> HealthSnapshot {
    let server = ServerHealth {
        addr: "10.0.0.1:80".parse().expect("addr"),
        state,
        failure: None,
        response_time_ms: 0,
    };
    HealthSnapshot {
        pools: [("p".to_owned(), vec![server])].into(),
    }
}

#[test]
fn a_pool_says_how_servers_are_chosen_and_at_which_port() {
    use LbAlgorithm as Lb;
    let health = health(OperState::Up);
    for (told, by_service_port, expected) in [
        (Lb::RoundRobin, false, Algorithm::RoundRobin),
        (Lb::LeastConnections, true, Algorithm::LeastConnections),
        (Lb::Random, false, Algorithm::Random),
        (Lb::FastestResponse, true, Algorithm::FastestResponse),
        (
            Lb::ConsistentHashSourceIpAddress,
            false,
            Algorithm::ConsistentHash(HashKey::Address),
        ),
        (
            Lb::ConsistentHashSourceIpAddressAndPort,
            true,
            Algorithm::ConsistentHash(HashKey::AddressAndPort),
        ),
    ] {
        let mut desired = desired(vec![service("a", 80)]);
        desired.pools[0].set_lb_algorithm(told);
        desired.pools[0].use_service_port = by_service_port;
        let pool = decide(&desired, &health).services[0].group.members[0]
            .pool
            .clone();
        assert_eq!(
            (pool.algorithm, pool.use_service_port),
            (expected, by_service_port)
        );
    }
}

#[test]
fn a_pool_with_fewer_servers_up_than_it_needs_takes_its_route_away() {
    use OperState::{Down, Up};
    let mut few = desired(vec![service("a", 80)]);
    few.pools[0].min_servers_up = 1;
    assert_eq!(outcome(&few, Up), ((Up, Reason::Up), true, Ok(())));
    few.pools[0].min_servers_up = 2;
    let reason = Reason::TooFewServersUp;
    assert_eq!(outcome(&few, Up), ((Down, reason), false, Err(reason)));
    let none = Reason::PoolDown;
    assert_eq!(outcome(&few, Down), ((Down, none), false, Err(none)));
}

#[test]
fn a_disabled_server_keeps_what_it_has_for_as_long_as_its_pool_says() {
    let health = health(OperState::Disabled);
    let told = |timeout, enabled| {
        let mut desired = desired(vec![service("a", 80)]);
        desired.pools[0].graceful_disable_timeout_min = timeout;
        desired.pools[0].servers[0].enabled = enabled;
        let decision = decide(&desired, &health);
        let server = &decision.services[0].group.members[0].pool.servers[0];
        assert_eq!((server.enabled, server.up), (enabled, true));
        server.cut_after.map(|after| after.as_secs())
    };
    assert_eq!(told(Some(2), false), Some(120));
    assert_eq!(told(Some(0), false), Some(0));
    assert_eq!(told(Some(-1), false), None);
    assert_eq!(told(None, false), None, "of an older controller");
    assert_eq!(told(Some(2), true), None);
}

#[test]
fn the_route_stays_while_a_disabled_server_has_connections() {
    use OperState::{Disabled, Down, Up};
    let mut last = desired(vec![service("a", 80)]);
    last.pools[0].servers[0].enabled = false;
    let after = |verdict: Verdict, open: bool| {
        let before = [("a".to_owned(), verdict)].into();
        let mut verdicts = decide(&last, &health(Disabled)).verdicts;
        let is_open = |pool: &str, addr: SocketAddr| {
            assert_eq!((pool, addr.to_string().as_str()), ("p", "10.0.0.1:80"));
            open
        };
        keep_draining(&mut verdicts, &last, &health(Disabled), is_open, &before);
        (verdicts["a"], announce(&last, "v", &verdicts, false))
    };
    let down = (Down, Reason::PoolDown);
    let drains = (Down, Reason::ServersDraining);
    assert_eq!(after((Up, Reason::Up), true), (drains, Ok(())));
    assert_eq!(after(drains, true), (drains, Ok(())));
    assert_eq!(after(drains, false), (down, Err(Reason::PoolDown)));
    assert_eq!(after((Up, Reason::Up), false).0, down, "nothing to keep");
    assert_eq!(after(down, true).0, down, "its route has gone already");
    let spec = decide(&last, &health(Disabled)).services.remove(0);
    assert!(!spec.accept, "nothing new");
}

#[test]
fn a_server_in_use_that_fails_takes_its_route_away_at_once() {
    let one = desired(vec![service("a", 80)]);
    let before = [("a".to_owned(), (OperState::Up, Reason::Up))].into();
    let mut verdicts = decide(&one, &health(OperState::Down)).verdicts;
    let down = health(OperState::Down);
    keep_draining(&mut verdicts, &one, &down, |_, _| true, &before);
    assert_eq!(verdicts["a"], (OperState::Down, Reason::PoolDown));
    let mut two = one.clone();
    let mut disabled = two.pools[0].servers[0].clone();
    (disabled.port, disabled.enabled) = (81, false);
    two.pools[0].servers.push(disabled);
    keep_draining(&mut verdicts, &two, &down, |_, _| true, &before);
    let verdict = (OperState::Down, Reason::PoolDown);
    assert_eq!(verdicts["a"], verdict, "with a disabled one beside it");
}

#[test]
fn what_servers_see_and_whether_their_connects_count_reaches_the_proxy() {
    let mut told = desired(vec![service("a", 80)]);
    let spec = |desired: &DesiredState| {
        let spec = decide(desired, &health(OperState::Up)).services.remove(0);
        let pool = &spec.group.members[0].pool;
        (spec.source, pool.inline_health)
    };
    assert_eq!(spec(&told), (Source::Engine, false));
    told.virtual_services[0].vip_as_source = true;
    told.pools[0].inline_health_monitor = true;
    assert_eq!(spec(&told), (Source::Vip, true));
}

#[test]
fn a_server_in_maintenance_keeps_what_it_has_and_gets_nothing_new() {
    let mut health = health(OperState::Down);
    let desired = desired(vec![service("a", 80)]);
    let takes = |health: &HealthSnapshot| {
        let server = &decide(&desired, health).services[0].group.members[0]
            .pool
            .servers[0];
        (server.enabled, server.up)
    };
    assert_eq!(takes(&health), (true, false));
    let servers = health.pools.get_mut("p").expect("there");
    servers[0].failure = Some(health::Failure::MaintenanceResponseCodeMatch);
    assert_eq!(takes(&health), (false, true));
}

fn outcome(desired: &DesiredState, state: OperState) -> (Verdict, bool, Result<(), Reason>) {
    let decision = decide(desired, &health(state));
    (
        decision.verdicts["a"],
        decision.services[0].accept,
        announce(desired, "v", &decision.verdicts, false),
    )
}

#[test]
fn a_service_follows_its_configuration_and_its_pool() {
    use OperState::{Disabled, Down, Initializing, Up};
    let good = desired(vec![service("a", 80)]);
    assert_eq!(outcome(&good, Up), ((Up, Reason::Up), true, Ok(())));
    assert_eq!(
        outcome(&good, Down),
        ((Down, Reason::PoolDown), false, Err(Reason::PoolDown))
    );
    let pending = Reason::HealthChecksPending;
    assert_eq!(
        outcome(&good, Initializing),
        ((Initializing, pending), false, Err(pending))
    );
    type Change = fn(&mut DesiredState);
    let cases: [(Change, Verdict); 3] = [
        (
            |d| d.virtual_services[0].enabled = false,
            (Disabled, Reason::VsDisabled),
        ),
        (
            |d| d.virtual_services[0].pool_uuid = String::new(),
            (Down, Reason::NoPool),
        ),
        (|d| d.pools[0].enabled = false, (Down, Reason::PoolDisabled)),
    ];
    for (change, verdict) in cases {
        let mut changed = good.clone();
        change(&mut changed);
        assert_eq!(outcome(&changed, Up), (verdict, false, Err(verdict.1)));
    }
}

/// `a` with a group of pools with these priorities, ratios and states of their only servers.
fn grouped(pools: &[(u32, u32, OperState)]) -> (DesiredState, HealthSnapshot) {
    let mut desired = desired(vec![service("a", 80)]);
    let one = desired.pools.remove(0);
    let mut known = HealthSnapshot::default();
    let mut group = v1::PoolGroup::default();
    for (number, (priority, ratio, state)) in pools.iter().enumerate() {
        let uuid = format!("p{number}");
        let servers = health(*state).pools.remove("p").expect("there");
        known.pools.insert(uuid.clone(), servers);
        group.members.push(v1::PoolGroupMember {
            pool_uuid: uuid.clone(),
            priority: *priority,
            ratio: *ratio,
        });
        desired.pools.push(Pool {
            uuid,
            ..one.clone()
        });
    }
    desired.virtual_services[0].pool_uuid = String::new();
    desired.virtual_services[0].pool_group = Some(group);
    (desired, known)
}

#[test]
fn one_pool_of_a_group_that_is_up_is_enough() {
    use OperState::{Down, Initializing, Up};
    let verdict = |pools: &[(u32, u32, OperState)]| {
        let (desired, health) = grouped(pools);
        decide(&desired, &health).verdicts["a"]
    };
    assert_eq!(verdict(&[(1, 1, Down), (0, 1, Up)]), (Up, Reason::Up));
    let pending = (Initializing, Reason::HealthChecksPending);
    assert_eq!(verdict(&[(1, 1, Down), (0, 1, Initializing)]), pending);
    let down = (Down, Reason::PoolDown);
    assert_eq!(verdict(&[(1, 1, Down), (0, 1, Down)]), down);
    let none = (Down, Reason::NoPool);
    assert_eq!(verdict(&[(1, 0, Up)]), none, "it takes nothing new");
    assert_eq!(verdict(&[]), none);
    let (mut desired, health) = grouped(&[(1, 1, Down), (0, 1, Up)]);
    desired.pools[1].enabled = false;
    assert_eq!(decide(&desired, &health).verdicts["a"], down);
    desired.pools[0].enabled = false;
    let disabled = (Down, Reason::PoolDisabled);
    assert_eq!(decide(&desired, &health).verdicts["a"], disabled);
}

#[test]
fn a_pool_of_a_group_that_is_down_takes_nothing_new() {
    let (mut desired, health) = grouped(&[(3, 5, OperState::Up), (7, 2, OperState::Up)]);
    desired.virtual_services[0]
        .pool_group
        .as_mut()
        .expect("a group")
        .min_servers = 4;
    let told = |desired: &DesiredState| {
        let group = decide(desired, &health).services[0].group.clone();
        let each = group.members.iter();
        let each = each.map(|m| (m.pool.uuid.clone(), m.priority, m.ratio));
        (each.collect::<Vec<_>>(), group.min_servers)
    };
    let [first, second] = ["p1", "p0"].map(str::to_owned);
    let both = vec![(first.clone(), 7, 2), (second.clone(), 3, 5)];
    assert_eq!(told(&desired), (both, 4));
    desired.pools[1].min_servers_up = 2;
    assert_eq!(told(&desired), (vec![(first, 7, 0), (second, 3, 5)], 4));
}

/// What becomes of `a`, which was up, while these pools have connections to disabled servers.
fn drained(desired: &DesiredState, health: &HealthSnapshot, open: &[&str]) -> Reason {
    let before = [("a".to_owned(), (OperState::Up, Reason::Up))].into();
    let mut verdicts = decide(desired, health).verdicts;
    let is_open = |pool: &str, _| open.contains(&pool);
    keep_draining(&mut verdicts, desired, health, is_open, &before);
    verdicts["a"].1
}

#[test]
fn a_group_drains_by_the_pool_whose_servers_were_disabled() {
    use OperState::{Disabled, Down};
    let (mut desired, health) = grouped(&[(1, 1, Disabled), (0, 1, Down)]);
    desired.pools[0].servers[0].enabled = false;
    assert_eq!(drained(&desired, &health, &["p0"]), Reason::ServersDraining);
    let failed = "its server was not disabled";
    assert_eq!(
        drained(&desired, &health, &["p1"]),
        Reason::PoolDown,
        "{failed}"
    );
}

#[test]
fn a_pool_that_has_too_few_servers_left_drains() {
    let mut few = desired(vec![service("a", 80)]);
    let mut disabled = few.pools[0].servers[0].clone();
    (disabled.port, disabled.enabled) = (81, false);
    few.pools[0].servers.push(disabled);
    few.pools[0].min_servers_up = 2;
    let up = health(OperState::Up);
    assert_eq!(drained(&few, &up, &["p"]), Reason::ServersDraining);
    assert_eq!(drained(&few, &up, &[]), Reason::TooFewServersUp);
}

#[test]
fn ports_are_listened_on_for_their_protocols() {
    let mut both = service("a", 53);
    both.udp_idle_timeout_s = 10;
    both.ports.push(PortRange {
        first: 53,
        last: 54,
        protocol: v1::Protocol::Udp.into(),
        http: None,
    });
    let spec = decide(&desired(vec![both]), &health(OperState::Up)).services[0].clone();
    let at = |port| SocketAddr::new("10.100.0.1".parse().expect("ip"), port);
    assert_eq!(spec.listen, [at(53)]);
    let udp = spec.udp.expect("UDP");
    assert_eq!(udp.listen, [at(53), at(54)]);
    assert_eq!(udp.idle_timeout, Duration::from_secs(10));
    let tcp = decide(&desired(vec![service("a", 80)]), &health(OperState::Up));
    assert_eq!(tcp.services[0].udp, None);
}

#[test]
fn the_address_of_a_udp_service_stays_until_its_last_flow_has_ended() {
    let mut dns = service("a", 53);
    dns.ports[0].protocol = v1::Protocol::Udp.into();
    let here = decide(&desired(vec![dns]), &health(OperState::Up)).services;
    let mut draining = Draining::default();
    draining.update(&here, |_| false);
    draining.update(&[], |_| true);
    let vip: IpAddr = "10.100.0.1".parse().expect("addr");
    assert!(draining.addresses().contains(&vip));
}

#[test]
fn a_vip_without_rhi_or_profile_is_served_but_not_announced() {
    let mut quiet = desired(vec![service("a", 80)]);
    quiet.virtual_services[0].enable_rhi = false;
    assert_eq!(
        outcome(&quiet, OperState::Up),
        ((OperState::Up, Reason::Up), true, Err(Reason::RhiDisabled))
    );
    let mut bare = desired(vec![service("a", 80)]);
    bare.vrf = Some(Vrf::default());
    assert_eq!(outcome(&bare, OperState::Up).2, Err(Reason::NoBgpProfile));
}

#[test]
fn the_route_stands_while_one_of_the_services_that_share_the_vip_is_up() {
    let mut second = service("b", 81);
    second.pool_uuid = String::new();
    let both = desired(vec![service("a", 80), second]);
    let decision = decide(&both, &health(OperState::Up));
    assert_eq!(
        decision
            .services
            .iter()
            .map(|s| s.accept)
            .collect::<Vec<_>>(),
        [true, false]
    );
    assert_eq!(announce(&both, "v", &decision.verdicts, false), Ok(()));
    let decision = decide(&both, &health(OperState::Down));
    assert_eq!(
        announce(&both, "v", &decision.verdicts, false),
        Err(Reason::VsDown)
    );
}

#[test]
fn a_service_with_advertise_down_vs_is_announced_while_its_pool_is_down_but_not_when_disabled() {
    let mut stubborn = desired(vec![service("a", 80)]);
    stubborn.virtual_services[0].advertise_down_vs = true;
    let down = outcome(&stubborn, OperState::Down);
    assert_eq!((down.0.0, down.2), (OperState::Down, Ok(())));
    stubborn.virtual_services[0].enabled = false;
    assert_eq!(outcome(&stubborn, OperState::Up).2, Err(Reason::VsDisabled));
}

fn peer_of(state: &mut DesiredState) -> &mut v1::BgpPeer {
    let bgp = state.vrf.as_mut().and_then(|vrf| vrf.bgp.as_mut());
    &mut bgp.expect("a profile").peers[0]
}

#[test]
fn an_announced_source_address_ends_here() {
    let mut with_snat = desired(vec![service("a", 80)]);
    with_snat.snat_ips = vec![proto::v1::SnatIp {
        vs_uuid: "a".into(),
        address: "10.100.9.1".into(),
        own: true,
    }];
    let peer = proto::v1::BgpPeer {
        advertise_snat_ip: true,
        ..proto::v1::BgpPeer::default()
    };
    let bgp = with_snat.vrf.as_mut().and_then(|vrf| vrf.bgp.as_mut());
    bgp.expect("a profile").peers.push(peer);
    let address: IpAddr = "10.100.9.1".parse().expect("addr");
    let decision = decide(&with_snat, &health(OperState::Up));
    assert!(decision.vips.contains(&address));
    assert_eq!(
        decision.services[0].source,
        Source::Addresses(vec![address])
    );
    let mut draining = Draining::default();
    draining.update(&decision.services, |_| false);
    draining.update(&[], |_| true);
    assert!(draining.addresses().contains(&address), "in use");
    let source = |desired: &DesiredState| {
        let services = decide(desired, &health(OperState::Up)).services;
        services[0].source.clone()
    };
    let mut shared = with_snat.clone();
    shared.snat_ips[0].own = false;
    assert_eq!(source(&shared), Source::Engine, "others have it, too");
    let bgp = with_snat.vrf.as_mut().and_then(|vrf| vrf.bgp.as_mut());
    bgp.expect("a profile").peers[0].advertise_snat_ip = false;
    assert_eq!(source(&with_snat), Source::Engine, "no router hears of it");
    let peer = peer_of(&mut with_snat);
    (peer.advertise_snat_ip, peer.shutdown) = (true, true);
    assert_eq!(source(&with_snat), Source::Engine, "nor does this one");
    peer_of(&mut with_snat).shutdown = false;
    with_snat.virtual_services[0].vip_as_source = true;
    assert_eq!(source(&with_snat), Source::Addresses(vec![address]));
    with_snat.snat_ips[0].vs_uuid = "b".into();
    assert_eq!(source(&with_snat), Source::Vip, "that is another's");
}

#[test]
fn a_service_that_does_not_listen_is_down_and_takes_the_route_with_it() {
    let one = desired(vec![service("a", 80)]);
    let decision = decide(&one, &health(OperState::Up));
    let verdicts = with_failures(
        &decision.verdicts,
        &[(
            "a".to_owned(),
            Failure::new(Reason::ListenerFailed, String::new()),
        )]
        .into(),
    );
    assert_eq!(verdicts["a"], (OperState::Down, Reason::ListenerFailed));
    assert_eq!(
        announce(&one, "v", &verdicts, false),
        Err(Reason::ListenerFailed)
    );
}

#[test]
fn an_address_stays_until_the_last_connection_to_it_has_ended() {
    let here = decide(&desired(vec![service("a", 80)]), &health(OperState::Up)).services;
    let vip: BTreeSet<IpAddr> = ["10.100.0.1".parse().expect("addr")].into();
    let mut draining = Draining::default();
    draining.update(&here, |_| false);
    assert_eq!(draining.addresses(), vip);
    draining.update(&[], |_| true);
    assert_eq!(draining.addresses(), vip);
    draining.update(&[], |_| false);
    assert_eq!(draining.addresses(), BTreeSet::new());
}

fn in_group(hold: bool, lingers: bool) -> DesiredState {
    let mut desired = desired(vec![service("a", 80)]);
    desired.groups = vec![Group {
        vsvip_uuid: "v".into(),
        hold,
        lingers,
        ..Group::default()
    }];
    desired
}

#[test]
fn an_engine_that_was_scaled_in_serves_and_does_not_announce() {
    let lingers = in_group(false, true);
    let (verdict, accepts, announced) = outcome(&lingers, OperState::Up);
    assert_eq!((verdict.0, accepts), (OperState::Up, true));
    assert_eq!(announced, Err(Reason::Lingering));
    let down = outcome(&lingers, OperState::Down).2;
    assert_eq!(down, Err(Reason::Lingering), "whatever its pool does");
    let vips = decide(&lingers, &health(OperState::Up)).vips;
    assert!(vips.contains(&"10.100.0.1".parse().expect("addr")));
}

#[test]
fn a_joining_engine_serves_and_announces_when_the_others_know_it() {
    let joins = in_group(true, false);
    let decision = decide(&joins, &health(OperState::Up));
    assert!(decision.services[0].accept);
    let announced = |joined| announce(&joins, "v", &decision.verdicts, joined);
    assert_eq!(
        (announced(false), announced(true)),
        (Err(Reason::Joining), Ok(()))
    );
    let down = outcome(&joins, OperState::Down).2;
    assert_eq!(
        down,
        Err(Reason::PoolDown),
        "that is what an operator mends"
    );
}

#[test]
fn routes_are_not_held_back_for_ever() {
    let (mut held, at) = (Held::default(), Instant::now());
    assert!(!held.update(&in_group(false, false), at));
    assert!(held.update(&in_group(true, false), at));
    assert!(held.update(&in_group(true, false), at + HOLD_MAX / 2));
    assert!(!held.is_over("v", at + HOLD_MAX / 2));
    assert!(!held.update(&in_group(true, false), at + HOLD_MAX));
    assert!(held.is_over("v", at + HOLD_MAX));
    held.update(&in_group(false, false), at + HOLD_MAX);
    assert!(
        held.update(&in_group(true, false), at + 2 * HOLD_MAX),
        "it joins again"
    );
}

#[test]
fn a_service_without_a_vip_is_down_and_nothing_else_is() {
    let mut two = desired(vec![service("a", 80), service("b", 80)]);
    two.virtual_services[0].vsvip_uuid = "w".into();
    let verdicts = decide(&two, &health(OperState::Up)).verdicts;
    assert_eq!(verdicts["a"], (OperState::Down, Reason::NoVip));
    assert_eq!(verdicts["b"], (OperState::Up, Reason::Up));
}
