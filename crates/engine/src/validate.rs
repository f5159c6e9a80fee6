//! Is a desired state something that this engine can put into force? All of it or nothing.

mod groups;

use crate::bgp;
use ipnet::IpNet;
use proto::v1::{BgpProfile, DesiredState, Interface, Protocol, VirtualService};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Listeners of one engine, on each worker: a limit of descriptors and of the time to open them.
const PORTS_MAX: usize = 2048;

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Path of the field in the desired state.
    pub field: String,
    /// What is wrong.
    pub reason: String,
}

fn refuse(field: impl Into<String>, reason: impl Into<String>) -> Refusal {
    Refusal {
        field: field.into(),
        reason: reason.into(),
    }
}

/// Checks everything that applying takes for granted.
pub(crate) fn validate(state: &DesiredState, interfaces: &[Interface]) -> Result<(), Refusal> {
    if let Some(profile) = state.vrf.as_ref().and_then(|v| v.bgp.as_ref()) {
        bgp::check_profile(profile)
            .map_err(|e| refuse(format!("vrf.bgp.{}", e.field), e.reason))?;
        check_peers(profile, interfaces)?;
        check_interfaces(profile, interfaces)?;
    }
    check_static_routes(state)?;
    check_vips(state, interfaces)?;
    check_services(state)?;
    check_ports(state)?;
    check_pools(state)?;
    check_monitors(state)?;
    groups::check(state)
}

fn check_static_routes(state: &DesiredState) -> Result<(), Refusal> {
    let routes = state.vrf.iter().flat_map(|v| &v.static_routes);
    for (i, route) in routes.enumerate() {
        let wrong = |field: &str, text: &str, what: &str| {
            refuse(
                format!("vrf.static_routes[{i}].{field}"),
                format!("{text:?} is no {what}"),
            )
        };
        let prefix = route.prefix.parse::<IpNet>();
        prefix.map_err(|_| wrong("prefix", &route.prefix, "prefix"))?;
        let next_hop = route.next_hop.parse::<IpAddr>();
        next_hop.map_err(|_| wrong("next_hop", &route.next_hop, "address"))?;
    }
    Ok(())
}

/// An external peer off the link is reached only with a TTL for it (`ebgp_multihop`); an internal one may be a loopback.
/// None is this host itself.
fn check_peers(profile: &BgpProfile, interfaces: &[Interface]) -> Result<(), Refusal> {
    for (i, peer) in profile.peers.iter().enumerate() {
        let (Ok(address), Ok(subnet)) =
            (peer.address.parse::<IpAddr>(), peer.subnet.parse::<IpNet>())
        else {
            continue; // refused by check_profile
        };
        let wrong = |reason| refuse(format!("vrf.bgp.peers[{i}].address"), reason);
        if let Some(reason) = bgp::own_address(interfaces, address) {
            return Err(wrong(reason));
        }
        let external = peer.remote_as != peer.local_as;
        if external && peer.ebgp_multihop == 0 && !subnet.contains(&address) {
            let reason = format!(
                "{address} is not in {subnet}: an external peer off the link needs ebgp_multihop"
            );
            return Err(wrong(reason));
        }
    }
    Ok(())
}

/// Two of our interfaces in one subnet: the document does not support it, because both sessions would have the same
/// pair of networks and the kernel answers on either.
fn check_interfaces(profile: &BgpProfile, interfaces: &[Interface]) -> Result<(), Refusal> {
    for (i, peer) in profile.peers.iter().enumerate() {
        let Ok(subnet) = peer.subnet.parse::<IpNet>() else {
            continue;
        };
        let mut seen: Vec<(IpNet, &str)> = Vec::new();
        for (net, name) in networks(interfaces) {
            if !subnet.contains(&net.addr()) {
                continue;
            }
            let net = net.trunc();
            if let Some((_, other)) = seen.iter().find(|(n, o)| *n == net && *o != name) {
                let reason = format!(
                    "interfaces {other} and {name} are both in {net}: separate layer 3 interfaces in the same subnet and same VLAN are not supported; move one to another subnet or bundle both links"
                );
                return Err(refuse(format!("vrf.bgp.peers[{i}].subnet"), reason));
            }
            seen.push((net, name));
        }
    }
    Ok(())
}

fn networks(interfaces: &[Interface]) -> impl Iterator<Item = (IpNet, &str)> {
    interfaces.iter().flat_map(|i| {
        let nets = i.addresses.iter().filter_map(|a| a.parse::<IpNet>().ok());
        nets.map(|n| (n, i.name.as_str()))
    })
}

fn check_vips(state: &DesiredState, interfaces: &[Interface]) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    for (i, vip) in state.vips.iter().enumerate() {
        let wrong = |reason: String| refuse(format!("vips[{i}].address"), reason);
        let address = own_address(&vip.address, interfaces).map_err(wrong)?;
        if !seen.insert(address) {
            return Err(wrong(format!("{address} is the address of another VIP")));
        }
    }
    for (i, snat) in state.snat_ips.iter().enumerate() {
        let wrong = |reason: String| refuse(format!("snat_ips[{i}].address"), reason);
        let address = own_address(&snat.address, interfaces).map_err(wrong)?;
        if seen.contains(&address) {
            return Err(wrong(format!("{address} is the address of a VIP")));
        }
    }
    Ok(())
}

/// One that stands on `lo` and nowhere else.
fn own_address(text: &str, interfaces: &[Interface]) -> Result<IpAddr, String> {
    let address = host(text)?;
    match networks(interfaces).find(|(n, _)| n.addr() == address) {
        None => Ok(address),
        Some((_, name)) => Err(format!(
            "{address} is the address of our interface {name}; it must be an address of its own"
        )),
    }
}

/// An address that a host can have.
fn host(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| format!("{text:?} is no IP address"))?;
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let special = address.is_unspecified() || address.is_multicast() || address.is_loopback();
    if special || link_local {
        return Err(format!("{address} is no unicast address beyond one link"));
    }
    Ok(address)
}

fn check_services(state: &DesiredState) -> Result<(), Refusal> {
    let pools: BTreeSet<&str> = state.pools.iter().map(|p| p.uuid.as_str()).collect();
    for (i, vs) in state.virtual_services.iter().enumerate() {
        if !vs.pool_uuid.is_empty() && !pools.contains(vs.pool_uuid.as_str()) {
            let field = format!("virtual_services[{i}].pool_uuid");
            return Err(refuse(field, format!("there is no pool {}", vs.pool_uuid)));
        }
        check_group(vs, &pools)
            .map_err(|(name, reason)| refuse(format!("virtual_services[{i}].{name}"), reason))?;
        for (j, range) in vs.ports.iter().enumerate() {
            let fits = |p: u32| (1..=65535).contains(&p);
            if !fits(range.first) || !fits(range.last) || range.last < range.first {
                let reason = format!("{} to {} is no range of ports", range.first, range.last);
                return Err(refuse(format!("virtual_services[{i}].ports[{j}]"), reason));
            }
            check_protocol(vs, j).map_err(|(name, reason)| {
                refuse(format!("virtual_services[{i}].{name}"), reason)
            })?;
        }
    }
    Ok(())
}

/// Pools of a group are there, each once, and no other is named beside them.
fn check_group(vs: &VirtualService, pools: &BTreeSet<&str>) -> Result<(), (String, String)> {
    let Some(group) = &vs.pool_group else {
        return Ok(());
    };
    if !vs.pool_uuid.is_empty() {
        return Err(("pool_uuid".into(), "goes with no pool_group".into()));
    }
    let mut seen = BTreeSet::new();
    for (i, member) in group.members.iter().enumerate() {
        let uuid = member.pool_uuid.as_str();
        let wrong = |reason| Err((format!("pool_group.members[{i}].pool_uuid"), reason));
        match pools.contains(uuid) {
            false => return wrong(format!("there is no pool {uuid}")),
            true if !seen.insert(uuid) => return wrong(format!("{uuid} is named twice")),
            true => {}
        }
    }
    Ok(())
}

/// One that only newer engines know must not be served as another.
fn check_protocol(vs: &VirtualService, port: usize) -> Result<(), (String, &'static str)> {
    match Protocol::try_from(vs.ports[port].protocol) {
        Err(_) => Err((
            format!("ports[{port}].protocol"),
            "this version of the engine knows no such protocol; upgrade it",
        )),
        Ok(Protocol::Udp) if vs.udp_idle_timeout_s == 0 => Err((
            "udp_idle_timeout_s".into(),
            "0 would keep every UDP flow for ever",
        )),
        Ok(_) => Ok(()),
    }
}

/// Each port of a VIP and protocol is one virtual service's, and there are not too many. Ranges are ranges by now.
fn check_ports(state: &DesiredState) -> Result<(), Refusal> {
    let mut taken: BTreeMap<(&str, bool, u32), &str> = BTreeMap::new();
    for (i, vs) in state.virtual_services.iter().enumerate() {
        for (j, range) in vs.ports.iter().enumerate() {
            let wrong = |reason| refuse(format!("virtual_services[{i}].ports[{j}]"), reason);
            let udp = range.protocol() == Protocol::Udp;
            for port in range.first..=range.last {
                if let Some(other) = taken.insert((&vs.vsvip_uuid, udp, port), &vs.uuid) {
                    return Err(wrong(format!(
                        "port {port} of this VIP is taken by {other}"
                    )));
                }
                if taken.len() > PORTS_MAX {
                    return Err(wrong(format!(
                        "more than {PORTS_MAX} ports in all; this engine opens a listener for each"
                    )));
                }
            }
        }
    }
    Ok(())
}

fn check_pools(state: &DesiredState) -> Result<(), Refusal> {
    let monitors: BTreeSet<&str> = state
        .health_monitors
        .iter()
        .map(|m| m.uuid.as_str())
        .collect();
    for (i, pool) in state.pools.iter().enumerate() {
        for (j, server) in pool.servers.iter().enumerate() {
            let field = format!("pools[{i}].servers[{j}]");
            server_address(&server.address)
                .map_err(|reason| refuse(format!("{field}.address"), reason))?;
            if !(1..=65535).contains(&server.port) {
                let reason = format!("{} is no port", server.port);
                return Err(refuse(format!("{field}.port"), reason));
            }
        }
        let unknown = |u: &&String| !monitors.contains(u.as_str());
        if let Some(missing) = pool.health_monitor_uuids.iter().find(unknown) {
            return Err(refuse(
                format!("pools[{i}].health_monitor_uuids"),
                format!("there is no health monitor {missing}"),
            ));
        }
    }
    Ok(())
}

/// Any unicast address: a server may well be on the loopback.
fn server_address(text: &str) -> Result<(), String> {
    match text.parse::<IpAddr>() {
        Ok(ip) if !ip.is_unspecified() && !ip.is_multicast() => Ok(()),
        _ => Err(format!("{text:?} is no address of a server")),
    }
}

fn check_monitors(state: &DesiredState) -> Result<(), Refusal> {
    for (i, monitor) in state.health_monitors.iter().enumerate() {
        let field = |name: &str| format!("health_monitors[{i}].{name}");
        if monitor.monitor_port > 65535 {
            let reason = format!("{} is no port", monitor.monitor_port);
            return Err(refuse(field("monitor_port"), reason));
        }
        // A kind that only newer engines know arrives as none; checking less than asked would lie.
        if monitor.kind.is_none() {
            let reason = "this version of the engine knows no such health monitor; upgrade it";
            return Err(refuse(field("kind"), reason));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::{
        BgpPeer, HealthMonitor, Pool, PoolGroup, PoolGroupMember, PortRange, Server, SnatIp, Vip,
        Vrf,
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
}
