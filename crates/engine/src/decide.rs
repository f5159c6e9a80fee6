//! From what is wanted and what is observed to what is done: pure, shown in reports as it is.

mod connections;
mod front;

pub(crate) use front::certificate;

use crate::health::{HealthSnapshot, ServerHealth, pool_state};
use crate::steering;
use front::Certificates;
use health::State;
use model::reason::Reason;
use model::weight::Weight;
use proto::v1::{self, DesiredState, LbAlgorithm, OperState, Pool, VirtualService};
use proxy::{
    Algorithm, HashKey, HintSpec, MemberSpec, PoolGroupSpec, PoolSpec, Protocol, ServerSpec,
    Source, UdpSpec, VirtualServiceSpec,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::time::Instant;

/// A virtual service's state and why.
pub(crate) type Verdict = (OperState, Reason);

/// What is done about the desired state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Decision {
    /// Addresses that stand on `lo`.
    pub vips: BTreeSet<IpAddr>,
    /// What the proxy serves.
    pub services: Vec<VirtualServiceSpec>,
    /// By uuid of the virtual service.
    pub verdicts: BTreeMap<String, Verdict>,
}

/// What went wrong while acting on a virtual service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub reason: Reason,
    /// A sentence with the cause.
    pub text: String,
}

impl Failure {
    pub(crate) fn new(reason: Reason, text: String) -> Self {
        Self { reason, text }
    }
}

/// By uuid of the virtual service.
pub(crate) type Failures = BTreeMap<String, Failure>;

/// The state of each virtual service from its configuration and its pool, and what the proxy shall do.
pub(crate) fn decide(desired: &DesiredState, health: &HealthSnapshot) -> Decision {
    let pools = pools_of(desired);
    let certificates = front::certificates(desired);
    let mut decision = Decision::default();
    for vs in &desired.virtual_services {
        let members = members(vs, &pools, health);
        let has_vip = desired.vips.iter().any(|v| v.vsvip_uuid == vs.vsvip_uuid);
        let verdict = verdict(vs, has_vip, &members);
        decision.verdicts.insert(vs.uuid.clone(), verdict);
        let up = verdict.0 == OperState::Up;
        let service = service((desired, &certificates), vs, &members, up);
        decision.services.push(service);
    }
    // A source address that is announced must end here, or the servers' answers would be lost.
    let snat = desired.snat_ips.iter().map(|s| &s.address);
    let addresses = desired.vips.iter().map(|v| &v.address).chain(snat);
    decision.vips = addresses.filter_map(|a| a.parse().ok()).collect();
    decision
}

/// By uuid.
fn pools_of(desired: &DesiredState) -> BTreeMap<&str, &Pool> {
    let all = desired.pools.iter();
    all.map(|p| (p.uuid.as_str(), p)).collect()
}

/// A pool of a virtual service, by itself or in its group.
struct Member<'a> {
    pool: &'a Pool,
    health: &'a [ServerHealth],
    priority: u32,
    ratio: u32,
}

/// Those of the highest priority first.
fn members<'a>(
    vs: &VirtualService,
    pools: &BTreeMap<&str, &'a Pool>,
    health: &'a HealthSnapshot,
) -> Vec<Member<'a>> {
    let member = |uuid: &str, priority, ratio| {
        Some(Member {
            pool: pools.get(uuid)?,
            health: health.servers(uuid),
            priority,
            ratio,
        })
    };
    let Some(group) = &vs.pool_group else {
        return member(&vs.pool_uuid, 0, 1).into_iter().collect();
    };
    let each = group.members.iter();
    let each = each.filter_map(|m| member(&m.pool_uuid, m.priority, m.ratio));
    let mut members: Vec<_> = each.collect();
    members.sort_by_key(|m| Reverse(m.priority));
    members
}

fn verdict(vs: &VirtualService, has_vip: bool, members: &[Member<'_>]) -> Verdict {
    match has_vip {
        _ if !vs.enabled => (OperState::Disabled, Reason::VsDisabled),
        false => (OperState::Down, Reason::NoVip),
        true => group_verdict(members),
    }
}

/// One pool that is up is enough. Of pools that are down, the one that is used first says why.
fn group_verdict(members: &[Member<'_>]) -> Verdict {
    let taking = members.iter().filter(|m| m.ratio > 0);
    let verdicts: Vec<Verdict> = taking.map(pool_verdict).collect();
    let find = |fits: &dyn Fn(&Verdict) -> bool| verdicts.iter().copied().find(|v| fits(v));
    find(&|v| v.0 == OperState::Up)
        .or_else(|| find(&|v| v.0 == OperState::Initializing))
        .or_else(|| find(&|v| v.1 != Reason::PoolDisabled))
        .or_else(|| verdicts.first().copied())
        .unwrap_or((OperState::Down, Reason::NoPool))
}

fn pool_verdict(member: &Member<'_>) -> Verdict {
    let some_up = member.health.iter().any(|s| s.state == OperState::Up);
    match pool_state(member.pool, member.health) {
        _ if !member.pool.enabled => (OperState::Down, Reason::PoolDisabled),
        State::Up => (OperState::Up, Reason::Up),
        State::Initializing => (OperState::Initializing, Reason::HealthChecksPending),
        State::Down if some_up => (OperState::Down, Reason::TooFewServersUp),
        State::Down => (OperState::Down, Reason::PoolDown),
    }
}

fn service(
    (desired, certificates): (&DesiredState, &Certificates<'_>),
    vs: &VirtualService,
    members: &[Member<'_>],
    up: bool,
) -> VirtualServiceSpec {
    let of = |protocol: Protocol| {
        let all = endpoints(desired, vs).filter(move |(p, _)| *p == protocol);
        all.map(|(_, addr)| addr).collect::<Vec<_>>()
    };
    VirtualServiceSpec {
        uuid: vs.uuid.clone(),
        name: vs.name.clone(),
        listen: of(Protocol::Tcp),
        udp: udp_spec(vs, of(Protocol::Udp)),
        accept: up,
        idle_timeout: (vs.idle_timeout_s > 0)
            .then(|| Duration::from_secs(vs.idle_timeout_s.into())),
        keeps_idle: vs.keeps_idle,
        group: group_spec(vs, members),
        hint: hint(desired, vs),
        source: source(desired, vs),
        front: front::front(desired, vs, certificates),
        tcp: connections::spec(vs),
        proxy_header: connections::proxy_header(vs),
        weight: Weight::nearest(vs.weight),
    }
}

/// Addresses of this engine alone that routers are told of, so that servers' answers come here.
fn source(desired: &DesiredState, vs: &VirtualService) -> Source {
    let profile = desired.vrf.as_ref().and_then(|vrf| vrf.bgp.as_ref());
    let mut peers = profile.into_iter().flat_map(|profile| &profile.peers);
    let told = peers.any(|peer| peer.advertise_snat_ip && !peer.shutdown);
    let own = desired.snat_ips.iter();
    let own = own.filter(|s| told && s.own && s.vs_uuid == vs.uuid);
    let own: Vec<IpAddr> = own.filter_map(|s| s.address.parse().ok()).collect();
    match own.is_empty() {
        false => Source::Addresses(own),
        true if vs.vip_as_source => Source::Vip,
        true => Source::Engine,
    }
}

/// Flows of a virtual service on this engine at most: each takes two descriptors, and one of the 28,000 ports that the kernel
/// has for sockets towards servers; and the kernel looks through all of them for each datagram of a new client.
const UDP_FLOWS_MAX: u64 = 16_384;

fn udp_spec(vs: &VirtualService, listen: Vec<SocketAddr>) -> Option<UdpSpec> {
    let idle_timeout = Duration::from_secs(vs.udp_idle_timeout_s.into());
    (!listen.is_empty()).then_some(UdpSpec {
        listen,
        idle_timeout,
        flows_max: UDP_FLOWS_MAX,
    })
}

/// Every port of every VIP of a virtual service.
pub(crate) fn endpoints<'a>(
    desired: &'a DesiredState,
    vs: &'a VirtualService,
) -> impl Iterator<Item = (Protocol, SocketAddr)> + 'a {
    let own = |v: &&v1::Vip| v.vsvip_uuid == vs.vsvip_uuid;
    let vips = desired.vips.iter().filter(own);
    let vips = vips.filter_map(|v| v.address.parse::<IpAddr>().ok());
    vips.flat_map(|vip| {
        let ports = vs.ports.iter().flat_map(|range| {
            let protocol = protocol(range);
            (range.first..=range.last).map(move |port| (protocol, port))
        });
        let ports = ports.filter_map(|(protocol, p)| Some((protocol, u16::try_from(p).ok()?)));
        ports.map(move |(protocol, port)| (protocol, SocketAddr::new(vip, port)))
    })
}

/// Who says nothing means TCP.
fn protocol(range: &v1::PortRange) -> Protocol {
    match range.protocol() {
        v1::Protocol::Udp => Protocol::Udp,
        v1::Protocol::Tcp | v1::Protocol::Tls | v1::Protocol::Unspecified => Protocol::Tcp,
    }
}

/// Connections carry our id where the virtual service wants it, and we have one.
fn hint(desired: &DesiredState, vs: &VirtualService) -> Option<HintSpec> {
    let group = |g: &&v1::Group| g.vsvip_uuid == vs.vsvip_uuid;
    let group = desired.groups.iter().find(group)?;
    let key = steering::hint_key(desired.flow.as_ref()?)?;
    let member = u8::try_from(group.member_id).ok()?;
    vs.flow_hints.then_some(HintSpec { member, key })
}

/// A pool of a group that is down takes nothing new, even if some of its servers are up.
fn group_spec(vs: &VirtualService, members: &[Member<'_>]) -> PoolGroupSpec {
    let is_up = |m: &Member<'_>| vs.pool_group.is_none() || pool_verdict(m).0 == OperState::Up;
    let each = members.iter().map(|m| MemberSpec {
        pool: pool_spec(m.pool, m.health),
        priority: m.priority,
        ratio: if is_up(m) { m.ratio } else { 0 },
    });
    PoolGroupSpec {
        members: each.collect(),
        min_servers: vs.pool_group.as_ref().map_or(0, |g| g.min_servers),
    }
}

fn algorithm(pool: &Pool) -> Algorithm {
    use LbAlgorithm as Lb;
    match pool.lb_algorithm() {
        Lb::RoundRobin => Algorithm::RoundRobin,
        Lb::LeastConnections | Lb::Unspecified => Algorithm::LeastConnections,
        Lb::Random => Algorithm::Random,
        Lb::FastestResponse => Algorithm::FastestResponse,
        Lb::ConsistentHashSourceIpAddress => Algorithm::ConsistentHash(HashKey::Address),
        Lb::ConsistentHashSourceIpAddressAndPort => {
            Algorithm::ConsistentHash(HashKey::AddressAndPort)
        }
    }
}

/// When the connections of a server that is disabled end (avi-api `graceful_disable_timeout`).
fn cut_after(pool: &Pool, server: &v1::Server) -> Option<Duration> {
    let minutes = pool
        .graceful_disable_timeout_min
        .filter(|_| !server.enabled)?;
    let minutes = u64::try_from(minutes).ok()?;
    Some(Duration::from_secs(minutes * 60))
}

fn pool_spec(pool: &Pool, health: &[ServerHealth]) -> PoolSpec {
    use OperState::{Disabled, Up};
    let any = |addr: SocketAddr, fits: fn(&ServerHealth) -> bool| {
        health.iter().any(|h| h.addr == addr && fits(h))
    };
    let servers = pool.servers.iter().filter_map(|s| {
        let addr = server_addr(s)?;
        let max_connections = pool.max_concurrent_connections_per_server;
        let in_maintenance = any(addr, ServerHealth::is_in_maintenance);
        Some(ServerSpec {
            addr,
            enabled: s.enabled && pool.enabled && !in_maintenance,
            cut_after: cut_after(pool, s),
            // What it has goes on there while it is in maintenance or disabled, as then nothing speaks against it.
            up: in_maintenance || any(addr, |h| matches!(h.state, Up | Disabled)),
            ratio: s.ratio,
            max_connections,
        })
    });
    PoolSpec {
        uuid: pool.uuid.clone(),
        algorithm: algorithm(pool),
        servers: servers.collect(),
        use_service_port: pool.use_service_port,
        inline_health: pool.inline_health_monitor,
        back: front::back(pool),
    }
}

/// Whether a VIP is announced: one of its virtual services with RHI is up here, and the engine neither joins nor leaves
/// the VIP's group. `joined`: it has waited for the others for long enough.
pub(crate) fn announce(
    desired: &DesiredState,
    vsvip: &str,
    verdicts: &BTreeMap<String, Verdict>,
    joined: bool,
) -> Result<(), Reason> {
    let group = desired.groups.iter().find(|g| g.vsvip_uuid == vsvip);
    if group.is_some_and(|g| g.lingers) {
        return Err(Reason::Lingering);
    }
    let services: Vec<&VirtualService> = desired
        .virtual_services
        .iter()
        .filter(|v| v.vsvip_uuid == vsvip && v.enable_rhi)
        .collect();
    if services.is_empty() {
        return Err(Reason::RhiDisabled);
    }
    if desired.vrf.as_ref().is_none_or(|v| v.bgp.is_none()) {
        return Err(Reason::NoBgpProfile);
    }
    let verdict = |v: &&VirtualService| verdicts.get(&v.uuid).copied();
    let announced = |vs: &&VirtualService| match verdict(vs) {
        Some((OperState::Up, _) | (_, Reason::ServersDraining)) => true,
        // avi-api annex, VirtualService: `advertise_down_vs`. What cannot listen here is better served elsewhere.
        Some((OperState::Down | OperState::Initializing, reason)) => {
            vs.advertise_down_vs && !matches!(reason, Reason::ListenerFailed | Reason::VipFailed)
        }
        _ => false,
    };
    if services.iter().any(announced) {
        let held = group.is_some_and(|g| g.hold) && !joined;
        return if held { Err(Reason::Joining) } else { Ok(()) };
    }
    // With one virtual service its reason is the VIP's.
    match services.as_slice() {
        [only] => Err(verdict(only).map_or(Reason::VsDown, |v| v.1)),
        _ => Err(Reason::VsDown),
    }
}

/// Whether every virtual service's state is known.
pub(crate) fn is_complete(verdicts: &BTreeMap<String, Verdict>) -> bool {
    verdicts
        .values()
        .all(|(state, _)| *state != OperState::Initializing)
}

/// What acting found out, laid over the decision: a service whose port does not listen is down.
pub(crate) fn with_failures(
    verdicts: &BTreeMap<String, Verdict>,
    failures: &Failures,
) -> BTreeMap<String, Verdict> {
    let each = verdicts
        .iter()
        .map(|(uuid, verdict)| match failures.get(uuid) {
            Some(failure) if verdict.0 == OperState::Up => {
                (uuid.clone(), (OperState::Down, failure.reason))
            }
            _ => (uuid.clone(), *verdict),
        });
    each.collect()
}

/// A virtual service that went down because servers of its pool were disabled keeps its route while these have connections:
/// without it the router would send them elsewhere, where they end. `before`: what was the case until now, as one that was
/// down for another reason has none to keep.
pub(crate) fn keep_draining(
    verdicts: &mut BTreeMap<String, Verdict>,
    desired: &DesiredState,
    health: &HealthSnapshot,
    open: impl Fn(&str, SocketAddr) -> bool,
    before: &BTreeMap<String, Verdict>,
) {
    let pools = pools_of(desired);
    for vs in &desired.virtual_services {
        let was = before.get(&vs.uuid).map(|v| v.1);
        let drains = |m: &Member<'_>| !has_failed(m) && has_draining(m.pool, &open);
        if let Some(verdict) = verdicts.get_mut(&vs.uuid)
            && matches!(was, Some(Reason::Up | Reason::ServersDraining))
            && matches!(verdict.1, Reason::PoolDown | Reason::TooFewServersUp)
            && members(vs, &pools, health).iter().any(drains)
        {
            *verdict = (OperState::Down, Reason::ServersDraining);
        }
    }
}

/// Whether a disabled server of the pool has connections; the proxy cuts them when their time is over.
fn has_draining(pool: &Pool, open: impl Fn(&str, SocketAddr) -> bool) -> bool {
    let mut disabled = pool.servers.iter().filter(|s| !s.enabled);
    disabled.any(|s| server_addr(s).is_some_and(|addr| open(&pool.uuid, addr)))
}

/// Whether a server in use is down: then the pool is not down for those that were disabled.
fn has_failed(member: &Member<'_>) -> bool {
    let is_up = |addr| {
        let mut servers = member.health.iter();
        servers.any(|h| h.addr == addr && h.state == OperState::Up)
    };
    let mut used = member.pool.servers.iter().filter(|s| s.enabled);
    used.any(|s| server_addr(s).is_some_and(|addr| !is_up(addr)))
}

fn server_addr(server: &v1::Server) -> Option<SocketAddr> {
    let port = u16::try_from(server.port).ok()?;
    Some(SocketAddr::new(server.address.parse().ok()?, port))
}

/// How long routes are held back for other engines to learn of this one. The controller says when they know, within
/// half a second; one that dies meanwhile must not keep us from serving.
const HOLD_MAX: Duration = Duration::from_secs(2);

/// Since when each VsVip's routes are held back.
#[derive(Debug, Default)]
pub(crate) struct Held(BTreeMap<String, Instant>);

impl Held {
    /// Learns what is to be held back now. True while something is.
    pub(crate) fn update(&mut self, desired: &DesiredState, now: Instant) -> bool {
        let held = desired.groups.iter().filter(|g| g.hold);
        let held: BTreeSet<&str> = held.map(|g| g.vsvip_uuid.as_str()).collect();
        self.0.retain(|vsvip, _| held.contains(vsvip.as_str()));
        for vsvip in held {
            self.0.entry(vsvip.to_owned()).or_insert(now);
        }
        self.0.keys().any(|vsvip| !self.is_over(vsvip, now))
    }

    /// Whether this VsVip has been held back for long enough.
    pub(crate) fn is_over(&self, vsvip: &str, now: Instant) -> bool {
        let since = self.0.get(vsvip);
        since.is_none_or(|since| now >= *since + HOLD_MAX)
    }
}

/// Addresses that virtual services use or used: a VIP stands on `lo` until the last connection to it has ended,
/// because without it the kernel would drop what the clients send; a source address for what the servers send.
#[derive(Debug, Default)]
pub(crate) struct Draining(BTreeMap<String, BTreeSet<IpAddr>>);

impl Draining {
    /// Learns what is served now, and forgets what nobody is connected to any more.
    pub(crate) fn update(&mut self, services: &[VirtualServiceSpec], open: impl Fn(&str) -> bool) {
        self.0.retain(|uuid, _| open(uuid));
        for service in services {
            let addresses = self.0.entry(service.uuid.clone()).or_default();
            let udp = service.udp.iter().flat_map(|udp| &udp.listen);
            addresses.extend(service.listen.iter().chain(udp).map(SocketAddr::ip));
            if let Source::Addresses(own) = &service.source {
                addresses.extend(own);
            }
        }
    }

    /// All of them.
    pub(crate) fn addresses(&self) -> BTreeSet<IpAddr> {
        self.0.values().flatten().copied().collect()
    }
}

#[cfg(test)]
mod tests;
