//! Is a desired state something that this engine can put into force? All of it or nothing.

mod groups;

use crate::{bgp, decide};
use ipnet::IpNet;
use model::weight::Weight;
use proto::v1::{
    BgpProfile, CongestionControl, DesiredState, Interface, Protocol, ProxyProtocol, VirtualService,
};
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
    check_certificates(state)?;
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
    let certificates = state.certificates.iter().map(|c| c.uuid.as_str());
    let certificates: BTreeSet<&str> = certificates.collect();
    for (i, vs) in state.virtual_services.iter().enumerate() {
        if !vs.pool_uuid.is_empty() && !pools.contains(vs.pool_uuid.as_str()) {
            let field = format!("virtual_services[{i}].pool_uuid");
            return Err(refuse(field, format!("there is no pool {}", vs.pool_uuid)));
        }
        check_tls(vs, &certificates)
            .map_err(|(name, reason)| refuse(format!("virtual_services[{i}].{name}"), reason))?;
        check_group(vs, &pools)
            .map_err(|(name, reason)| refuse(format!("virtual_services[{i}].{name}"), reason))?;
        check_connections(vs)
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

/// Clients can be shown what they are to be shown.
fn check_certificates(state: &DesiredState) -> Result<(), Refusal> {
    for (i, certificate) in state.certificates.iter().enumerate() {
        proxy::check_certificate(&decide::certificate(certificate)).map_err(|error| {
            let why = std::error::Error::source(&error).map(|source| format!(": {source}"));
            let reason = format!("{error}{}", why.unwrap_or_default());
            refuse(format!("certificates[{i}]"), reason)
        })?;
    }
    Ok(())
}

/// Whom clients of TLS meet is there.
fn check_tls(vs: &VirtualService, certificates: &BTreeSet<&str>) -> Result<(), (String, String)> {
    let Some(tls) = &vs.tls else { return Ok(()) };
    let mut named = tls.certificate_uuids.iter().enumerate();
    if let Some((i, uuid)) = named.find(|(_, uuid)| !certificates.contains(uuid.as_str())) {
        let field = format!("tls.certificate_uuids[{i}]");
        return Err((field, format!("there is no certificate {uuid}")));
    }
    match tls.versions {
        Some(v) if !v.tls12 && !v.tls13 => {
            let reason = "neither TLS 1.2 nor TLS 1.3 is accepted".to_owned();
            Err(("tls.versions".to_owned(), reason))
        }
        _ => Ok(()),
    }
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

/// RFC 2474: six bits.
const DSCP_MAX: u32 = 63;
/// avi-api `TCPProxyProfile.receive_window`.
const RECEIVE_WINDOW_MAX_KB: u32 = 65_536;
/// avi-api `TCPProxyProfile.max_segment_size`.
const SEGMENT_BYTES: std::ops::RangeInclusive<u32> = 512..=9000;

/// What only newer engines know must not be left out, and what is no number of the kernel's not be set.
fn check_connections(vs: &VirtualService) -> Result<(), (&'static str, String)> {
    let tcp = vs.tcp.unwrap_or_default();
    let segment = tcp.segment_bytes_max;
    let unknown = "this version of the engine does not know it; upgrade it".to_owned();
    match Weight::told(vs.weight) {
        Err(too_heavy) => Err(("weight", too_heavy.to_string())),
        _ if ProxyProtocol::try_from(vs.proxy_protocol).is_err() => {
            Err(("proxy_protocol", unknown))
        }
        _ if CongestionControl::try_from(tcp.congestion_control).is_err() => {
            Err(("tcp.congestion_control", unknown))
        }
        _ if tcp.dscp > DSCP_MAX => {
            Err(("tcp.dscp", format!("{} has more than six bits", tcp.dscp)))
        }
        _ if tcp.receive_window_kb > RECEIVE_WINDOW_MAX_KB => {
            let reason = format!("more than {RECEIVE_WINDOW_MAX_KB} KB");
            Err(("tcp.receive_window_kb", reason))
        }
        _ if segment > 0 && !SEGMENT_BYTES.contains(&segment) => {
            let reason = format!("{segment} bytes are not 512 to 9000");
            Err(("tcp.segment_bytes_max", reason))
        }
        _ => Ok(()),
    }
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
mod tests;
