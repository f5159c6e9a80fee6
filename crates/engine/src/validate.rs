//! Is a desired state something that this engine can put into force? All of it or nothing.

use crate::bgp;
use ipnet::IpNet;
use proto::v1::{BgpProfile, DesiredState, Interface};
use std::collections::BTreeSet;
use std::net::IpAddr;

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
        check_interfaces(profile, interfaces)?;
    }
    for (i, vip) in state.vips.iter().enumerate() {
        let field = format!("vips[{i}].address");
        vip.address
            .parse::<IpAddr>()
            .map_err(|_| refuse(field, format!("{:?} is no address", vip.address)))?;
    }
    check_services(state)?;
    check_pools(state)
}

/// Two of our interfaces in one subnet: the document does not support it, because both sessions would have the same
/// pair of networks and the kernel answers on either.
fn check_interfaces(profile: &BgpProfile, interfaces: &[Interface]) -> Result<(), Refusal> {
    for (i, peer) in profile.peers.iter().enumerate() {
        let Ok(subnet) = peer.subnet.parse::<IpNet>() else {
            continue;
        };
        let mut seen: Vec<(IpNet, &str)> = Vec::new();
        for interface in interfaces {
            let nets = interface
                .addresses
                .iter()
                .filter_map(|a| a.parse::<IpNet>().ok());
            for net in nets
                .filter(|n| subnet.contains(&n.addr()))
                .map(|n| n.trunc())
            {
                if let Some((_, other)) = seen
                    .iter()
                    .find(|(n, name)| *n == net && *name != interface.name)
                {
                    let reason = format!(
                        "interfaces {other} and {} are both in {net}: two interfaces in the same subnet and VLAN are not supported; move one to another subnet or bundle both links",
                        interface.name
                    );
                    return Err(refuse(format!("vrf.bgp.peers[{i}].subnet"), reason));
                }
                seen.push((net, &interface.name));
            }
        }
    }
    Ok(())
}

fn check_services(state: &DesiredState) -> Result<(), Refusal> {
    let pools: BTreeSet<&str> = state.pools.iter().map(|p| p.uuid.as_str()).collect();
    let vips: BTreeSet<&str> = state.vips.iter().map(|v| v.vsvip_uuid.as_str()).collect();
    for (i, vs) in state.virtual_services.iter().enumerate() {
        if !vs.pool_uuid.is_empty() && !pools.contains(vs.pool_uuid.as_str()) {
            return Err(refuse(
                format!("virtual_services[{i}].pool_uuid"),
                format!("there is no pool {}", vs.pool_uuid),
            ));
        }
        if !vips.contains(vs.vsvip_uuid.as_str()) {
            return Err(refuse(
                format!("virtual_services[{i}].vsvip_uuid"),
                format!("there is no VIP of {}", vs.vsvip_uuid),
            ));
        }
        for (j, range) in vs.ports.iter().enumerate() {
            let fits = |p: u32| (1..=65535).contains(&p);
            if !fits(range.first) || !fits(range.last) || range.last < range.first {
                let reason = format!("{} to {} is no range of ports", range.first, range.last);
                return Err(refuse(format!("virtual_services[{i}].ports[{j}]"), reason));
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
            if server.address.parse::<IpAddr>().is_err() {
                return Err(refuse(
                    format!("{field}.address"),
                    format!("{:?} is no address", server.address),
                ));
            }
            if !(1..=65535).contains(&server.port) {
                return Err(refuse(
                    format!("{field}.port"),
                    format!("{} is no port", server.port),
                ));
            }
        }
        if let Some(missing) = pool
            .health_monitor_uuids
            .iter()
            .find(|u| !monitors.contains(u.as_str()))
        {
            return Err(refuse(
                format!("pools[{i}].health_monitor_uuids"),
                format!("there is no health monitor {missing}"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::{BgpPeer, Pool, PortRange, Server, Vip, VirtualService, Vrf};

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
            }],
            virtual_services: vec![VirtualService {
                vsvip_uuid: "v".into(),
                pool_uuid: "p".into(),
                ports: vec![PortRange {
                    first: 80,
                    last: 80,
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
                .contains("same subnet and VLAN are not supported"),
            "{}",
            refusal.reason
        );
    }

    #[test]
    fn every_broken_field_is_named() {
        type Break = fn(&mut DesiredState);
        let cases: [(Break, &str); 6] = [
            (|s| s.vips[0].address = "x".into(), "vips[0].address"),
            (
                |s| s.virtual_services[0].pool_uuid = "q".into(),
                "virtual_services[0].pool_uuid",
            ),
            (
                |s| s.virtual_services[0].vsvip_uuid = "w".into(),
                "virtual_services[0].vsvip_uuid",
            ),
            (
                |s| s.virtual_services[0].ports[0].last = 70_000,
                "virtual_services[0].ports[0]",
            ),
            (
                |s| s.pools[0].servers[0].port = 0,
                "pools[0].servers[0].port",
            ),
            (
                |s| s.pools[0].health_monitor_uuids.push("m".into()),
                "pools[0].health_monitor_uuids",
            ),
        ];
        for (break_it, field) in cases {
            let mut state = good();
            break_it(&mut state);
            assert_eq!(validate(&state, &[]).expect_err(field).field, field);
        }
    }
}
