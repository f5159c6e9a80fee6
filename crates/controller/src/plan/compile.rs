//! From objects and assignments to what one engine is told: defaults and inheritance resolved, so that every
//! number is in force as it stands.

mod application;
mod flow;
mod part;

pub(super) use part::Parts;

use super::assignments::{Assignment, Assignments};
use super::join::Joining;
use super::keys::Keys;
use super::rotate::Rotations;
use super::{Resets, situation};
use crate::objects::{Snapshot, Unreadable};
use model::view::{
    self, BfdProfile, BgpPeer, BgpProfile, BgpRoutingOptions, IpCommunity, Prefix, ServiceEngine,
};
use part::Part;
use proto::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Where none is configured (RFC 4271 leaves it open; routers take 100).
const LOCAL_PREFERENCE: u32 = 100;

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
    /// By uuid of the virtual service.
    pub rotations: Rotations,
    /// uuids of VsVip and engine whose connections are cut.
    pub cuts: BTreeSet<(String, String)>,
    /// uuids of engines that have been without a session for a while.
    pub dead: BTreeSet<String>,
    /// uuids of engines that others are to ask whether they are there.
    pub away: BTreeSet<String>,
}

/// The desired state of an engine; its generation is set by whoever sends it.
///
/// # Errors
/// An object that cannot be read. What it would have said is not known, so that the engine is told nothing: a state
/// without it would withdraw VIPs that are in force.
pub(super) fn desired_state(
    snapshot: &Snapshot,
    decided: &Decided,
    made: &mut Parts,
    se_uuid: &str,
) -> Result<v1::DesiredState, Unreadable> {
    let Some(engine) = snapshot.try_view::<ServiceEngine>("serviceengine", se_uuid)? else {
        return Ok(v1::DesiredState::default());
    };
    let here: Vec<(&str, &Assignment)> = decided.assignments.at(se_uuid).collect();
    let mut parts: Vec<Arc<Part>> = Vec::new();
    let (mut snat_ips, mut standby) = (Vec::new(), BTreeSet::new());
    let mut unwatched = BTreeSet::new();
    let mut natives = BTreeMap::new();
    for (vsvip, assignment) in &here {
        if let Some(part) = made.of(snapshot, vsvip)? {
            let slot = assignment.group.slot(se_uuid);
            snat_ips.extend(slot.into_iter().flat_map(|slot| part.snat_ips(slot)));
            let stands_by = part.active_standby && !assignment.is_active(se_uuid);
            standby.extend(stands_by.then_some(*vsvip));
            unwatched.extend((stands_by && !part.standby_checks).then_some(*vsvip));
            natives.extend(part.native.map(|native| (*vsvip, native)));
            parts.push(part);
        }
    }
    let virtual_services = parts.iter().flat_map(|p| &p.virtual_services);
    let mut virtual_services: Vec<v1::VirtualService> = virtual_services.cloned().collect();
    keep_sources_apart(&mut virtual_services, &decided.assignments);
    let mut pools = pools(snapshot, &virtual_services)?;
    leave_unchecked(&mut pools, &virtual_services, &unwatched);
    let tls_rotations = tls_rotations(&virtual_services, &decided.rotations);
    let groups = flow::groups(snapshot, decided, (&here, &natives), se_uuid);
    let mut desired = v1::DesiredState {
        generation: 0,
        se_uuid: se_uuid.to_owned(),
        // Also when nothing is placed: the engine's sessions outlive the last virtual service for a while.
        vrf: vrf(snapshot, &engine)?,
        vips: parts.iter().flat_map(|p| &p.vips).cloned().collect(),
        virtual_services,
        health_monitors: health_monitors(snapshot, &pools)?,
        snat_ips,
        draining: situation::drains(&engine.enable_state),
        pools,
        peers: flow::peers(snapshot, decided, &groups)?,
        flow: flow::settings(snapshot, decided, &engine)?,
        watched: flow::watched(snapshot, decided, &engine)?,
        groups,
        certificates: certificates(&parts),
        tls_rotations,
        cut_virtual_service_uuids: flow::cut(snapshot, decided, se_uuid),
        se_name: engine.name.clone(),
    };
    stand_by(&mut desired, &standby);
    ask_for_resets(&mut desired, &decided.resets);
    desired.shrink_to_fit();
    Ok(desired)
}

/// By how much a standby's route is worse than the active engine's, so that routers take it when that one is gone, and need
/// nobody to tell them.
const STANDBY_PREPEND: u32 = 3;

fn stand_by(desired: &mut v1::DesiredState, standby: &BTreeSet<&str>) {
    let profile = desired.vrf.as_ref().and_then(|vrf| vrf.bgp.clone());
    let profile = profile.unwrap_or_default();
    let vips = desired.vips.iter_mut();
    for vip in vips.filter(|vip| standby.contains(vip.vsvip_uuid.as_str())) {
        if profile.ibgp {
            let active = vip.local_preference.or(profile.local_preference);
            vip.local_preference = Some(active.unwrap_or(LOCAL_PREFERENCE) / 2);
        } else {
            let active = vip.num_as_path_prepend.or(profile.num_as_path_prepend);
            vip.num_as_path_prepend = Some(active.unwrap_or(0) + STANDBY_PREPEND);
        }
    }
}

/// `hm_on_standby`: pools that only virtual services of these VIPs use have no monitors here, and their servers count as up.
fn leave_unchecked(pools: &mut [v1::Pool], services: &[v1::VirtualService], vips: &BTreeSet<&str>) {
    let active = services
        .iter()
        .filter(|v| !vips.contains(v.vsvip_uuid.as_str()));
    let used: BTreeSet<&str> = active.flat_map(pools_of).collect();
    for pool in pools.iter_mut().filter(|p| !used.contains(p.uuid.as_str())) {
        pool.health_monitor_uuids.clear();
    }
}

/// A VIP that is still on several engines, from before its group was for one, is no source: routers would bring the servers'
/// answers to any of them.
fn keep_sources_apart(services: &mut [v1::VirtualService], assignments: &Assignments) {
    for vs in services.iter_mut().filter(|vs| vs.vip_as_source) {
        let assignment = assignments.get(&vs.vsvip_uuid);
        vs.vip_as_source = assignment.is_some_and(|a| a.engines.len() == 1);
    }
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

fn vrf(snapshot: &Snapshot, engine: &ServiceEngine) -> Result<Option<v1::Vrf>, Unreadable> {
    let uuid = situation::vrf_of(snapshot, engine);
    let vrf = situation::try_vrf_context(snapshot, &uuid)?;
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

/// Each once, however many name it.
fn certificates(parts: &[Arc<Part>]) -> Vec<v1::KeyAndCertificate> {
    let all = parts.iter().flat_map(|part| &part.certificates);
    let all: BTreeMap<&String, &v1::KeyAndCertificate> = all.collect();
    all.into_values().cloned().collect()
}

/// Of these virtual services, those that have a number.
fn tls_rotations(services: &[v1::VirtualService], rotations: &Rotations) -> Vec<v1::TlsRotation> {
    let of = |vs: &v1::VirtualService| {
        let number = *rotations.get(&vs.uuid)?;
        let vs_uuid = vs.uuid.clone();
        Some(v1::TlsRotation { vs_uuid, number })
    };
    services.iter().filter_map(of).collect()
}

/// uuids of its pools.
fn pools_of(vs: &v1::VirtualService) -> impl Iterator<Item = &str> {
    let members = vs.pool_group.iter().flat_map(|g| &g.members);
    let own = std::iter::once(vs.pool_uuid.as_str());
    let all = own.chain(members.map(|m| m.pool_uuid.as_str()));
    all.filter(|uuid| !uuid.is_empty())
}

fn pools(
    snapshot: &Snapshot,
    services: &[v1::VirtualService],
) -> Result<Vec<v1::Pool>, Unreadable> {
    let uuids: BTreeSet<&str> = services.iter().flat_map(pools_of).collect();
    let views = uuids
        .into_iter()
        .filter_map(|uuid| snapshot.try_view::<view::Pool>("pool", uuid).transpose());
    views.map(|view| pool(snapshot, &*view?)).collect()
}

fn pool(snapshot: &Snapshot, pool: &view::Pool) -> Result<v1::Pool, Unreadable> {
    let persistence = application::persistence(snapshot, pool)?;
    let by_address = persistence.as_ref().is_some_and(|p| p.is_address());
    Ok(v1::Pool {
        uuid: pool.uuid.clone(),
        name: pool.name.clone(),
        lb_algorithm: match by_address {
            true => v1::LbAlgorithm::ConsistentHashSourceIpAddress.into(),
            false => lb_algorithm(pool).into(),
        },
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
        min_health_monitors_up: at_least(pool.min_health_monitors_up),
        min_servers_up: at_least(pool.min_servers_up),
        graceful_disable_timeout_min: Some(pool.graceful_disable_timeout),
        use_service_port: pool.use_service_port,
        inline_health_monitor: pool.inline_health_monitor,
        tls: application::server_tls(snapshot, pool)?,
        cookie: persistence.and_then(|p| application::cookie(pool, &p)),
        server_timeout_ms: pool.server_timeout,
    })
}

/// 0 for a number that asks for nothing; the largest one for what no pool can have.
fn at_least(number: Option<i64>) -> u32 {
    u32::try_from(number.unwrap_or(0).max(0)).unwrap_or(u32::MAX)
}

/// What the proxy does not know yet is served by the default (avi-api section 12, pool).
fn lb_algorithm(pool: &view::Pool) -> v1::LbAlgorithm {
    match pool.lb_algorithm.as_str() {
        "LB_ALGORITHM_ROUND_ROBIN" => v1::LbAlgorithm::RoundRobin,
        "LB_ALGORITHM_RANDOM" => v1::LbAlgorithm::Random,
        "LB_ALGORITHM_FASTEST_RESPONSE" => v1::LbAlgorithm::FastestResponse,
        "LB_ALGORITHM_CONSISTENT_HASH" => consistent_hash(&pool.lb_algorithm_hash),
        _ => v1::LbAlgorithm::LeastConnections,
    }
}

/// What only HTTP or SIP would know of a client is the client's address.
fn consistent_hash(key: &str) -> v1::LbAlgorithm {
    match key {
        "LB_ALGORITHM_CONSISTENT_HASH_SOURCE_IP_ADDRESS_AND_PORT" => {
            v1::LbAlgorithm::ConsistentHashSourceIpAddressAndPort
        }
        _ => v1::LbAlgorithm::ConsistentHashSourceIpAddress,
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
    use v1::health_monitor::Kind;
    let http = |own: &Option<_>| http_monitor(own.clone().unwrap_or_default());
    match monitor.kind.as_str() {
        "HEALTH_MONITOR_UDP" => Kind::Udp(udp_monitor(monitor)),
        "HEALTH_MONITOR_HTTP" => Kind::Http(http(&monitor.http_monitor)),
        "HEALTH_MONITOR_HTTPS" => Kind::Https(http(&monitor.https_monitor)),
        // Other types are checked by a TCP connect until their probes exist.
        _ => Kind::Tcp(tcp_monitor(monitor)),
    }
}

fn tcp_monitor(monitor: &view::HealthMonitor) -> v1::TcpMonitor {
    let tcp = monitor.tcp_monitor.clone().unwrap_or_default();
    v1::TcpMonitor {
        request: tcp.tcp_request.unwrap_or_default(),
        response: tcp.tcp_response.unwrap_or_default(),
        maintenance_response: tcp.maintenance_response.unwrap_or_default(),
        half_open: tcp.tcp_half_open,
    }
}

fn udp_monitor(monitor: &view::HealthMonitor) -> v1::UdpMonitor {
    let udp = monitor.udp_monitor.clone().unwrap_or_default();
    v1::UdpMonitor {
        request: udp.udp_request.unwrap_or_default(),
        response: udp.udp_response.unwrap_or_default(),
        maintenance_response: udp.maintenance_response.unwrap_or_default(),
    }
}

fn http_monitor(http: view::HealthMonitorHttp) -> v1::HttpMonitor {
    let view::HealthMonitorHttp {
        http_request,
        exact_http_request,
        http_response_code,
        http_response,
        maintenance_code,
        maintenance_response,
    } = http;
    v1::HttpMonitor {
        request: http_request,
        exact_request: exact_http_request,
        response_classes: http_response_code
            .iter()
            .filter_map(response_class)
            .collect(),
        maintenance_codes: maintenance_code.into_iter().map(u32::from).collect(),
        response: http_response.unwrap_or_default(),
        maintenance_response: maintenance_response.unwrap_or_default(),
    }
}

/// The first digit of HTTP_2XX and so on, and 0 for HTTP_ANY.
fn response_class(word: impl AsRef<str>) -> Option<u32> {
    let class = word.as_ref().strip_prefix("HTTP_")?;
    match class.strip_suffix("XX") {
        Some(digit) => digit.parse().ok(),
        None => (class == "ANY").then_some(0),
    }
}

#[cfg(test)]
mod tests;
