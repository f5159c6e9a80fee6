//! States that are refused, and the field that is named.

use super::*;
use proto::v1::{
    BgpPeer, HealthMonitor, Pool, PoolGroup, PoolGroupMember, PortRange, Server, SnatIp, Vip, Vrf,
};

fn peer() -> BgpPeer {
    BgpPeer {
        address: "10.10.10.1".into(),
        subnet: "10.10.10.0/24".into(),
        remote_as: 65001,
        local_as: 65001,
        keepalive_s: 60,
        hold_time_s: 180,
        connect_timer_s: 10,
        advertisement_interval_s: 5,
        advertise_vip: true,
        ..BgpPeer::default()
    }
}

fn good() -> DesiredState {
    let bgp = BgpProfile {
        local_as: 65001,
        ibgp: true,
        peers: vec![peer()],
        ..BgpProfile::default()
    };
    DesiredState {
        vrf: Some(Vrf {
            bgp: Some(bgp),
            ..Vrf::default()
        }),
        vips: vec![Vip {
            vsvip_uuid: "v".into(),
            vip_id: "0".into(),
            address: "10.100.0.1".into(),
            ..Vip::default()
        }],
        virtual_services: vec![VirtualService {
            vsvip_uuid: "v".into(),
            pool_uuid: "p".into(),
            ports: vec![PortRange {
                first: 80,
                last: 80,
                ..PortRange::default()
            }],
            ..VirtualService::default()
        }],
        pools: vec![Pool {
            uuid: "p".into(),
            servers: vec![Server {
                address: "10.20.20.101".into(),
                port: 80,
                ..Server::default()
            }],
            ..Pool::default()
        }],
        ..DesiredState::default()
    }
}

fn interface(name: &str, address: &str) -> Interface {
    Interface {
        name: name.into(),
        up: true,
        addresses: vec![address.into()],
        ..Interface::default()
    }
}

/// Address of `eth0` in these tests.
const OURS: &str = "10.10.10.11";

fn profile(state: &mut DesiredState) -> &mut BgpProfile {
    let vrf = state.vrf.as_mut().expect("there");
    vrf.bgp.as_mut().expect("there")
}

fn peer_of(state: &mut DesiredState) -> &mut BgpPeer {
    &mut profile(state).peers[0]
}

fn service(state: &mut DesiredState) -> &mut VirtualService {
    &mut state.virtual_services[0]
}

fn group(state: &mut DesiredState, pools: &[&str]) {
    service(state).pool_uuid = String::new();
    let member = |pool: &&str| PoolGroupMember {
        pool_uuid: (*pool).to_owned(),
        ..PoolGroupMember::default()
    };
    let group = service(state).pool_group.get_or_insert_default();
    group.members = pools.iter().map(member).collect();
}

fn no_as(state: &mut DesiredState) {
    profile(state).local_as = 0;
    peer_of(state).local_as = 0;
}

fn far_and_external(peer: &mut BgpPeer) {
    peer.remote_as = 65002;
    peer.address = "192.0.2.1".into();
}

#[test]
fn a_good_state_passes() {
    assert_eq!(
        validate(&good(), &[interface("eth0", "10.10.10.11/24")]),
        Ok(())
    );
}

#[test]
fn two_interfaces_in_a_peers_subnet_are_refused_with_the_documents_reason() {
    let both = [
        interface("eth0", "10.10.10.11/24"),
        interface("eth1", "10.10.10.12/24"),
    ];
    let refusal = validate(&good(), &both).expect_err("refused");
    assert_eq!(refusal.field, "vrf.bgp.peers[0].subnet");
    assert!(
        refusal
            .reason
            .contains("same subnet and same VLAN are not supported"),
        "{}",
        refusal.reason
    );
}

#[test]
fn a_peer_outside_its_subnet_is_for_internal_ones_and_multihop() {
    let mut state = good();
    peer_of(&mut state).address = "192.0.2.1".into();
    assert_eq!(validate(&state, &[]), Ok(()));
    far_and_external(peer_of(&mut state));
    peer_of(&mut state).ebgp_multihop = 2;
    assert_eq!(validate(&state, &[]), Ok(()));
}

#[test]
fn two_addresses_of_one_interface_in_a_subnet_are_fine() {
    let mut one = interface("eth0", "10.10.10.11/24");
    one.addresses.push("10.10.10.12/24".into());
    assert_eq!(validate(&good(), &[one]), Ok(()));
}

fn static_route(state: &mut DesiredState, prefix: &str, next_hop: &str) {
    let vrf = state.vrf.as_mut().expect("there");
    vrf.static_routes.push(proto::v1::StaticRoute {
        prefix: prefix.into(),
        next_hop: next_hop.into(),
        interface: String::new(),
    });
}

#[test]
fn tcp_and_udp_have_ports_of_their_own() {
    let mut state = good();
    let mut udp = state.virtual_services[0].clone();
    udp.ports[0].set_protocol(Protocol::Udp);
    udp.udp_idle_timeout_s = 10;
    state.virtual_services.push(udp.clone());
    assert_eq!(validate(&state, &[]), Ok(()));
    state.virtual_services.push(udp);
    let refusal = validate(&state, &[]).expect_err("refused");
    assert_eq!(refusal.field, "virtual_services[2].ports[0]");
}

#[test]
fn a_certificate_that_cannot_be_shown_or_is_not_there_is_named_without_its_key() {
    let mut state = good();
    state.virtual_services[0].tls = Some(proto::v1::Tls {
        certificate_uuids: vec!["sslkeyandcertificate-1".into()],
        versions: None,
    });
    let refusal = validate(&state, &[]).expect_err("refused");
    let field = "virtual_services[0].tls.certificate_uuids[0]";
    assert_eq!(refusal.field, field);
    let certificate = proto::v1::KeyAndCertificate {
        uuid: "sslkeyandcertificate-1".into(),
        name: "c".into(),
        key_pem: "hunter2".into(),
        ..proto::v1::KeyAndCertificate::default()
    };
    state.certificates = vec![certificate];
    let refusal = validate(&state, &[]).expect_err("refused");
    assert_eq!(refusal.field, "certificates[0]");
    assert_eq!(refusal.reason, "c has no PEM key");
    assert!(!format!("{state:?}").contains("hunter2"));
}

#[test]
fn broken_static_routes_are_named() {
    for (prefix, next_hop, field) in [
        ("10.0.0.0", "10.1.0.1", "vrf.static_routes[0].prefix"),
        ("10.0.0.0/8", "", "vrf.static_routes[0].next_hop"),
    ] {
        let mut state = good();
        static_route(&mut state, prefix, next_hop);
        let refusal = validate(&state, &[]).expect_err("refused");
        assert_eq!(refusal.field, field);
    }
}

#[test]
fn a_source_address_is_no_vip_and_no_interfaces() {
    let field = |address: &str| {
        let mut state = good();
        state.snat_ips = vec![SnatIp {
            address: address.into(),
            ..SnatIp::default()
        }];
        let interfaces = [Interface {
            addresses: vec!["10.9.9.9/24".into()],
            ..Interface::default()
        }];
        validate(&state, &interfaces).map_err(|refusal| refusal.field)
    };
    assert_eq!(field("10.200.0.1"), Ok(()));
    let vip = good().vips[0].address.clone();
    for wrong in ["10.9.9.9", "127.0.0.1", "x", &vip] {
        assert_eq!(field(wrong), Err("snat_ips[0].address".into()), "{wrong}");
    }
}

#[test]
fn a_pool_group_names_pools_that_are_there_each_once_and_alone() {
    type Break = fn(&mut DesiredState);
    let member = "virtual_services[0].pool_group.members[1].pool_uuid";
    let cases: [(Break, &str); 3] = [
        (
            |s| service(s).pool_group = Some(PoolGroup::default()),
            "virtual_services[0].pool_uuid",
        ),
        (|s| group(s, &["p", "q"]), member),
        (|s| group(s, &["p", "p"]), member),
    ];
    for (break_it, field) in cases {
        let mut state = good();
        break_it(&mut state);
        assert_eq!(validate(&state, &[]).expect_err("refused").field, field);
    }
    let mut fits = good();
    group(&mut fits, &["p"]);
    assert_eq!(validate(&fits, &[]), Ok(()));
}

#[test]
fn settings_of_connections_are_in_their_ranges_and_known() {
    type Break = fn(&mut VirtualService);
    fn tcp(vs: &mut VirtualService) -> &mut proto::v1::TcpSettings {
        vs.tcp.get_or_insert_default()
    }
    let cases: [(Break, &str); 7] = [
        (|vs| vs.weight = 129, "weight"),
        (|vs| vs.proxy_protocol = 3, "proxy_protocol"),
        (
            |vs| tcp(vs).congestion_control = 4,
            "tcp.congestion_control",
        ),
        (|vs| tcp(vs).dscp = 64, "tcp.dscp"),
        (
            |vs| tcp(vs).receive_window_kb = 65_537,
            "tcp.receive_window_kb",
        ),
        (
            |vs| tcp(vs).segment_bytes_max = 511,
            "tcp.segment_bytes_max",
        ),
        (
            |vs| tcp(vs).segment_bytes_max = 9001,
            "tcp.segment_bytes_max",
        ),
    ];
    for (break_it, field) in cases {
        let mut state = good();
        break_it(service(&mut state));
        let refusal = validate(&state, &[]).expect_err(field);
        assert_eq!(refusal.field, format!("virtual_services[0].{field}"));
    }
    let mut fits = good();
    service(&mut fits).weight = 128;
    *tcp(service(&mut fits)) = proto::v1::TcpSettings {
        nagle: true,
        receive_window_kb: 65_536,
        segment_bytes_max: 9000,
        congestion_control: 3,
        dscp: 63,
    };
    assert_eq!(validate(&fits, &[]), Ok(()));
}

#[test]
fn every_broken_field_is_named() {
    type Break = fn(&mut DesiredState);
    let cases: [(Break, &str); 21] = [
        (|s| s.vips[0].address = "x".into(), "vips[0].address"),
        (
            |s| s.vips[0].address = "224.0.0.1".into(),
            "vips[0].address",
        ),
        (|s| s.vips[0].address = "fe80::1".into(), "vips[0].address"),
        (|s| s.vips[0].address = OURS.into(), "vips[0].address"),
        (|s| s.vips.push(s.vips[0].clone()), "vips[1].address"),
        (|s| no_as(s), "vrf.bgp.peers[0].local_as"),
        (
            |s| peer_of(s).subnet = "10.10.10.0".into(),
            "vrf.bgp.peers[0].subnet",
        ),
        (
            |s| peer_of(s).hold_time_s = 2,
            "vrf.bgp.peers[0].hold_time_s",
        ),
        (|s| far_and_external(peer_of(s)), "vrf.bgp.peers[0].address"),
        (
            |s| peer_of(s).address = OURS.into(),
            "vrf.bgp.peers[0].address",
        ),
        (
            |s| service(s).pool_uuid = "q".into(),
            "virtual_services[0].pool_uuid",
        ),
        (
            |s| service(s).ports[0].last = 70_000,
            "virtual_services[0].ports[0]",
        ),
        (
            |s| service(s).ports[0].first = 81,
            "virtual_services[0].ports[0]",
        ),
        (
            |s| service(s).ports[0].last = 65_535,
            "virtual_services[0].ports[0]",
        ),
        (
            |s| s.virtual_services.push(s.virtual_services[0].clone()),
            "virtual_services[1].ports[0]",
        ),
        (
            |s| service(s).ports[0].protocol = 9,
            "virtual_services[0].ports[0].protocol",
        ),
        (
            |s| service(s).ports[0].set_protocol(Protocol::Udp),
            "virtual_services[0].udp_idle_timeout_s",
        ),
        (
            |s| s.pools[0].servers[0].port = 0,
            "pools[0].servers[0].port",
        ),
        (
            |s| s.pools[0].servers[0].address = "::".into(),
            "pools[0].servers[0].address",
        ),
        (
            |s| s.pools[0].health_monitor_uuids.push("m".into()),
            "pools[0].health_monitor_uuids",
        ),
        (
            |s| s.health_monitors.push(HealthMonitor::default()),
            "health_monitors[0].kind",
        ),
    ];
    for (break_it, field) in cases {
        let mut state = good();
        break_it(&mut state);
        let refusal = validate(&state, &[interface("eth0", "10.10.10.11/24")]);
        assert_eq!(refusal.expect_err(field).field, field);
    }
}
