//! From objects and assignments to what one engine is told: defaults and inheritance resolved, so that every
//! number is in force as it stands.

mod flow;

use super::assignments::Assignments;
use super::join::Joining;
use super::keys::Keys;
use super::{Resets, situation};
use crate::objects::{Snapshot, Unreadable, transport};
use model::view::{
    self, BfdProfile, BgpPeer, BgpProfile, BgpRoutingOptions, IpCommunity, MADE_FOR_VS,
    NetworkProfile, Prefix, ServiceEngine, Transport, VirtualService, VrfContext, VsVip,
};
use proto::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What desired states are made from, besides the objects.
#[derive(Debug, Default)]
pub(super) struct Decided {
    /// By uuid of the VsVip.
    pub assignments: Assignments,
    /// What operators have asked for.
    pub resets: Resets,
    /// Engines that announce nothing yet.
    pub holding: BTreeSet<Joining>,
    /// By uuid of the SE group.
    pub keys: BTreeMap<String, Keys>,
    /// uuids of VsVip and engine whose connections are cut.
    pub cuts: BTreeSet<(String, String)>,
    /// uuids of engines that have been without a session for a while.
    pub dead: BTreeSet<String>,
}

/// The desired state of an engine; its generation is set by whoever sends it.
///
/// # Errors
/// An object that cannot be read. What it would have said is not known, so that the engine is told nothing: a state
/// without it would withdraw VIPs that are in force.
pub(super) fn desired_state(
    snapshot: &Snapshot,
    decided: &Decided,
    se_uuid: &str,
) -> Result<v1::DesiredState, Unreadable> {
    let Some(engine) = snapshot.try_view::<ServiceEngine>("serviceengine", se_uuid)? else {
        return Ok(v1::DesiredState::default());
    };
    let here = decided.assignments.at(se_uuid);
    let vsvips: Vec<Arc<VsVip>> = here
        .filter_map(|(uuid, _)| snapshot.try_view("vsvip", uuid).transpose())
        .collect::<Result<_, _>>()?;
    let mut services: Vec<Arc<VirtualService>> = Vec::new();
    let mut all_vips = Vec::new();
    for vsvip in &vsvips {
        let own = situation::try_services_of(snapshot, &vsvip.uuid)?;
        all_vips.extend(vips(vsvip, &own));
        services.extend(own);
    }
    let pools = pools(snapshot, &services)?;
    let uuids = vsvips.iter().map(|v| v.uuid.as_str());
    let groups = flow::groups(snapshot, decided, uuids, se_uuid);
    let mut desired = v1::DesiredState {
        generation: 0,
        se_uuid: se_uuid.to_owned(),
        // Also when nothing is placed: the engine's sessions outlive the last virtual service for a while.
        vrf: vrf(snapshot, &engine)?,
        vips: all_vips,
        virtual_services: services
            .iter()
            .map(|v| virtual_service(snapshot, v))
            .collect::<Result<_, _>>()?,
        health_monitors: health_monitors(snapshot, &pools)?,
        snat_ips: services.iter().flat_map(|vs| snat_ips(vs)).collect(),
        // The drain switch (avi-api section 9); disabled for placement only keeps new VIPs away.
        draining: ["SE_STATE_DISABLED", "SE_STATE_DISABLED_FORCE"]
            .contains(&engine.enable_state.as_str()),
        pools,
        peers: flow::peers(snapshot, decided, &groups)?,
        flow: flow::settings(snapshot, decided, &engine)?,
        groups,
        cut_virtual_service_uuids: flow::cut(snapshot, decided, se_uuid),
        se_name: engine.name.clone(),
    };
    ask_for_resets(&mut desired, &decided.resets);
    Ok(desired)
}

/// Puts what operators have asked for into the engine's peers.
fn ask_for_resets(desired: &mut v1::DesiredState, resets: &Resets) {
    let se_uuid = desired.se_uuid.clone();
    let profile = desired.vrf.as_mut().and_then(|vrf| vrf.bgp.as_mut());
    for peer in profile.into_iter().flat_map(|profile| &mut profile.peers) {
        let asked = peer
            .address
            .parse()
            .ok()
            .and_then(|ip| resets.get(&(se_uuid.clone(), ip)));
        peer.reset_unix_ms = asked.copied().unwrap_or(0);
    }
}

fn vips(vsvip: &VsVip, services: &[Arc<VirtualService>]) -> Vec<v1::Vip> {
    let enabled = vsvip.vip.iter().filter(|v| v.enabled);
    let each = enabled.flat_map(|vip| vip.addresses().map(|address| (vip.vip_id.clone(), address)));
    // avi-api section 12, virtualservice: "VS wins if it has its own `vip`".
    let owner = services.iter().find(|_| vsvip.created_by == MADE_FOR_VS);
    let labels = owner.map(|vs| &vs.bgp_peer_labels);
    let labels = labels.filter(|own| !own.is_empty());
    each.map(|(vip_id, address)| v1::Vip {
        vsvip_uuid: vsvip.uuid.clone(),
        vip_id,
        address: address.to_string(),
        local_preference: owner
            .and_then(|vs| vs.bgp_local_preference)
            .or(vsvip.bgp_local_preference),
        num_as_path_prepend: owner
            .and_then(|vs| vs.bgp_num_as_path_prepend)
            .or(vsvip.bgp_num_as_path_prepend),
        peer_labels: labels.unwrap_or(&vsvip.bgp_peer_labels).clone(),
    })
    .collect()
}

fn snat_ips(vs: &VirtualService) -> Vec<v1::SnatIp> {
    let announced = vs.snat_ip.iter().filter(|_| vs.enable_rhi_snat);
    let addresses = announced.filter_map(view::Address::ip);
    addresses
        .map(|address| v1::SnatIp {
            vs_uuid: vs.uuid.clone(),
            address: address.to_string(),
        })
        .collect()
}

fn vrf(snapshot: &Snapshot, engine: &ServiceEngine) -> Result<Option<v1::Vrf>, Unreadable> {
    let uuid = situation::vrf_of(snapshot, engine);
    let vrf = snapshot.try_view::<VrfContext>("vrfcontext", &uuid)?;
    Ok(vrf.map(|vrf| v1::Vrf {
        bgp: vrf.bgp_profile.as_ref().map(bgp_profile),
        bfd: Some(bfd_profile(&vrf.bfd_profile.clone().unwrap_or_default())),
        static_routes: vrf.static_routes.iter().filter_map(static_route).collect(),
        uuid: vrf.uuid.clone(),
        name: vrf.name.clone(),
    }))
}

/// None for what the rules refuse.
fn static_route(route: &view::StaticRoute) -> Option<v1::StaticRoute> {
    Some(v1::StaticRoute {
        prefix: route.prefix.net()?.to_string(),
        next_hop: route.next_hop.ip()?.to_string(),
        interface: route.if_name.clone().unwrap_or_default(),
    })
}

fn bfd_profile(profile: &BfdProfile) -> v1::BfdProfile {
    let BfdProfile {
        minrx,
        mintx,
        multi,
    } = profile;
    v1::BfdProfile {
        min_rx_ms: *minrx,
        min_tx_ms: *mintx,
        multiplier: (*multi).into(),
    }
}

fn bgp_profile(profile: &BgpProfile) -> v1::BgpProfile {
    v1::BgpProfile {
        local_as: profile.local_as,
        ibgp: profile.ibgp,
        shutdown: profile.shutdown,
        peers: profile
            .peers
            .iter()
            .flat_map(|p| peers(profile, p))
            .collect(),
        local_preference: profile.local_preference,
        num_as_path_prepend: profile.num_as_path_prepend,
        communities: sent(profile, &profile.community),
        ip_communities: profile
            .ip_communities
            .iter()
            .filter_map(|c| ip_communities(profile, c))
            .collect(),
        routing_options: profile
            .routing_options
            .iter()
            .map(routing_options)
            .collect(),
    }
}

fn sent(profile: &BgpProfile, communities: &[String]) -> Vec<String> {
    let all = communities.iter().filter(|_| profile.send_community);
    all.cloned().collect()
}

fn ip_communities(profile: &BgpProfile, rule: &IpCommunity) -> Option<v1::IpCommunities> {
    let (first, last) = rule.range()?;
    Some(v1::IpCommunities {
        first: first.to_string(),
        last: last.to_string(),
        communities: sent(profile, &rule.community),
    })
}

fn routing_options(options: &BgpRoutingOptions) -> v1::RoutingOptions {
    let BgpRoutingOptions {
        label,
        advertise_default_route,
        advertise_learned_routes,
        learn_only_default_route,
        learn_routes,
        max_learn_limit,
    } = options;
    v1::RoutingOptions {
        label: label.clone(),
        advertise_default_route: *advertise_default_route,
        advertise_learned_routes: *advertise_learned_routes,
        learn_only_default_route: *learn_only_default_route,
        learn_routes: *learn_routes,
        max_learn_limit: *max_learn_limit,
    }
}

/// Our AS towards this peer. `ibgp_local_as_override` makes an internal session inside the peer's AS out of one
/// that the profile's AS would make external.
fn local_as(profile: &BgpProfile, peer: &BgpPeer) -> u32 {
    match peer.remote_as {
        Some(remote_as) if profile.ibgp && peer.ibgp_local_as_override => remote_as,
        _ => peer.local_as.unwrap_or(profile.local_as),
    }
}

/// A peer with an IPv4 and an IPv6 address is two sessions.
fn peers(profile: &BgpProfile, peer: &BgpPeer) -> Vec<v1::BgpPeer> {
    let pairs = [
        (&peer.peer_ip, &peer.subnet),
        (&peer.peer_ip6, &peer.subnet6),
    ];
    let local_as = local_as(profile, peer);
    let each = pairs
        .into_iter()
        .filter_map(|(a, s)| Some((a.as_ref()?.ip()?, s.as_ref().and_then(Prefix::net)?)));
    each.map(|(address, subnet)| v1::BgpPeer {
        address: address.to_string(),
        subnet: subnet.to_string(),
        remote_as: peer.remote_as.unwrap_or(local_as),
        local_as,
        keepalive_s: peer
            .keepalive_interval
            .unwrap_or(profile.keepalive_interval)
            .into(),
        hold_time_s: peer.hold_time.unwrap_or(profile.hold_time).into(),
        connect_timer_s: peer.connect_timer.into(),
        advertisement_interval_s: peer.advertisement_interval.into(),
        ebgp_multihop: peer.ebgp_multihop.into(),
        md5_secret: peer.md5_secret.clone().unwrap_or_default(),
        bfd: peer.bfd,
        shutdown: peer.shutdown,
        advertise_vip: peer.advertise_vip,
        advertise_snat_ip: peer.advertise_snat_ip,
        ibgp_local_as_override: peer.ibgp_local_as_override,
        label: peer.label.clone().unwrap_or_default(),
        ttl_security: peer.ttl_security,
        bfd_strict: peer.bfd_strict,
        graceful_restart: peer.graceful_restart,
        reset_unix_ms: 0,
    })
    .collect()
}

fn virtual_service(
    snapshot: &Snapshot,
    vs: &VirtualService,
) -> Result<v1::VirtualService, Unreadable> {
    let carried = carried(snapshot, vs)?;
    Ok(v1::VirtualService {
        uuid: vs.uuid.clone(),
        name: vs.name.clone(),
        vsvip_uuid: vs
            .vsvip_ref
            .as_ref()
            .map(|r| r.uuid().to_owned())
            .unwrap_or_default(),
        ports: carried
            .iter()
            .map(|(s, p)| port_range(s, p.as_deref()))
            .collect(),
        pool_uuid: vs
            .pool_ref
            .as_ref()
            .map(|r| r.uuid().to_owned())
            .unwrap_or_default(),
        enabled: vs.enabled && vs.traffic_enabled,
        enable_rhi: vs.enable_rhi,
        idle_timeout_s: idle_timeout_s(&carried),
        udp_idle_timeout_s: udp_idle_timeout_s(&carried),
        advertise_down_vs: vs.advertise_down_vs,
        flow_hints: vs.flow_hints,
        flow_probes: flow::probes(snapshot, vs)?,
    })
}

/// A service and its network profile.
type Carried<'a> = (&'a view::Service, Option<Arc<NetworkProfile>>);

fn carried<'a>(
    snapshot: &Snapshot,
    vs: &'a VirtualService,
) -> Result<Vec<Carried<'a>>, Unreadable> {
    let with_profile = |service| Ok((service, transport::profile_of(snapshot, vs, service)?));
    vs.services.iter().map(with_profile).collect()
}

fn is_udp(profile: Option<&NetworkProfile>) -> bool {
    profile.and_then(|p| p.profile.transport()) == Some(Transport::Udp)
}

fn port_range(service: &view::Service, profile: Option<&NetworkProfile>) -> v1::PortRange {
    let (first, last) = service.ports();
    let protocol = match is_udp(profile) {
        true => v1::Protocol::Udp,
        false => v1::Protocol::Tcp,
    };
    v1::PortRange {
        first: first.into(),
        last: last.into(),
        protocol: protocol.into(),
    }
}

/// From the network profile of the TCP proxy; the first of several.
fn idle_timeout_s(carried: &[Carried<'_>]) -> u32 {
    const DEFAULT_S: u32 = 600;
    let profiles = carried.iter().filter_map(|(_, profile)| profile.as_deref());
    let mut tcp = profiles.filter(|p| !is_udp(Some(*p)));
    tcp.find_map(|p| p.profile.tcp_proxy_profile.as_ref())
        .map_or(DEFAULT_S, |t| t.idle_connection_timeout)
}

/// The longest of several; 0 without UDP.
fn udp_idle_timeout_s(carried: &[Carried<'_>]) -> u32 {
    let profiles = carried.iter().filter_map(|(_, profile)| profile.as_deref());
    let udp = profiles.filter(|p| is_udp(Some(*p)));
    udp.map(|p| p.profile.udp().session_idle_timeout)
        .max()
        .unwrap_or(0)
}

fn pools(
    snapshot: &Snapshot,
    services: &[Arc<VirtualService>],
) -> Result<Vec<v1::Pool>, Unreadable> {
    let uuids: BTreeSet<&str> = services
        .iter()
        .filter_map(|v| v.pool_ref.as_ref())
        .map(view::Ref::uuid)
        .collect();
    let views = uuids
        .into_iter()
        .filter_map(|uuid| snapshot.try_view("pool", uuid).transpose());
    views.map(|view| view.map(|p| pool(&p))).collect()
}

fn pool(pool: &view::Pool) -> v1::Pool {
    let algorithm = match pool.lb_algorithm.as_str() {
        "LB_ALGORITHM_ROUND_ROBIN" => v1::LbAlgorithm::RoundRobin,
        // What the proxy does not know yet is served by the default (avi-api section 12, pool).
        _ => v1::LbAlgorithm::LeastConnections,
    };
    v1::Pool {
        uuid: pool.uuid.clone(),
        name: pool.name.clone(),
        lb_algorithm: algorithm.into(),
        servers: pool
            .servers
            .iter()
            .filter_map(|s| server(pool, s))
            .collect(),
        health_monitor_uuids: pool
            .health_monitor_refs
            .iter()
            .map(|r| r.uuid().to_owned())
            .collect(),
        enabled: pool.enabled,
        max_concurrent_connections_per_server: pool.max_concurrent_connections_per_server,
    }
}

/// A server that is a DNS name is left out: names are not resolved yet.
fn server(pool: &view::Pool, server: &view::Server) -> Option<v1::Server> {
    let (address, port) = pool.endpoint(server)?;
    Some(v1::Server {
        address,
        port,
        enabled: server.enabled,
        ratio: server.ratio,
    })
}

fn health_monitors(
    snapshot: &Snapshot,
    pools: &[v1::Pool],
) -> Result<Vec<v1::HealthMonitor>, Unreadable> {
    let uuids: BTreeSet<&String> = pools.iter().flat_map(|p| &p.health_monitor_uuids).collect();
    let views = uuids
        .into_iter()
        .filter_map(|uuid| snapshot.try_view("healthmonitor", uuid).transpose());
    views.map(|view| view.map(|m| health_monitor(&m))).collect()
}

fn health_monitor(monitor: &view::HealthMonitor) -> v1::HealthMonitor {
    v1::HealthMonitor {
        uuid: monitor.uuid.clone(),
        name: monitor.name.clone(),
        send_interval_s: monitor.send_interval,
        receive_timeout_s: monitor.receive_timeout,
        successful_checks: monitor.successful_checks,
        failed_checks: monitor.failed_checks,
        monitor_port: monitor.monitor_port.unwrap_or(0).into(),
        kind: Some(monitor_kind(monitor)),
    }
}

fn monitor_kind(monitor: &view::HealthMonitor) -> v1::health_monitor::Kind {
    if monitor.kind == "HEALTH_MONITOR_UDP" {
        let udp = monitor.udp_monitor.clone().unwrap_or_default();
        return v1::health_monitor::Kind::Udp(v1::UdpMonitor {
            request: udp.udp_request.unwrap_or_default(),
            response: udp.udp_response.unwrap_or_default(),
        });
    }
    // Other types are checked by a TCP connect until their probes exist.
    let tcp = monitor.tcp_monitor.clone().unwrap_or_default();
    v1::health_monitor::Kind::Tcp(v1::TcpMonitor {
        request: tcp.tcp_request.unwrap_or_default(),
        response: tcp.tcp_response.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests;
