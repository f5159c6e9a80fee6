//! From what is wanted and what is observed to what is done: pure, shown in reports as it is.

use crate::health::{HealthSnapshot, ServerHealth, pool_state};
use crate::steering;
use health::State;
use model::reason::Reason;
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
    let pools: BTreeMap<&str, &Pool> = desired.pools.iter().map(|p| (p.uuid.as_str(), p)).collect();
    let mut decision = Decision::default();
    for vs in &desired.virtual_services {
        let members = members(vs, &pools, health);
        let has_vip = desired.vips.iter().any(|v| v.vsvip_uuid == vs.vsvip_uuid);
        let verdict = verdict(vs, has_vip, &members);
        decision.verdicts.insert(vs.uuid.clone(), verdict);
        let up = verdict.0 == OperState::Up;
        let service = service(desired, vs, &members, up);
        decision.services.push(service);
    }
    // A source address that is announced must end here, or the servers' answers would be lost.
    let snat = desired.snat_ips.iter().map(|s| &s.address);
    let addresses = desired.vips.iter().map(|v| &v.address).chain(snat);
    decision.vips = addresses.filter_map(|a| a.parse().ok()).collect();
    decision
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
        let health = health.pools.get(uuid).map(Vec::as_slice);
        Some(Member {
            pool: pools.get(uuid)?,
            health: health.unwrap_or_default(),
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
    desired: &DesiredState,
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
        group: group_spec(vs, members),
        hint: hint(desired, vs),
        source: source(desired, vs),
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
        v1::Protocol::Tcp | v1::Protocol::Unspecified => Protocol::Tcp,
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
    for vs in &desired.virtual_services {
        let was = before.get(&vs.uuid).map(|v| v.1);
        let kept = matches!(was, Some(Reason::Up | Reason::ServersDraining));
        let own = |p: &&Pool| uses(vs, &p.uuid) && !has_failed(p, health);
        let mut pools = desired.pools.iter().filter(own);
        if let Some(verdict) = verdicts.get_mut(&vs.uuid)
            && kept
            && matches!(verdict.1, Reason::PoolDown | Reason::TooFewServersUp)
            && pools.any(|pool| has_draining(pool, &open))
        {
            *verdict = (OperState::Down, Reason::ServersDraining);
        }
    }
}

/// By itself or by its group.
fn uses(vs: &VirtualService, pool: &str) -> bool {
    let mut members = vs.pool_group.iter().flat_map(|g| &g.members);
    vs.pool_uuid == pool || members.any(|m| m.pool_uuid == pool)
}

/// Whether a disabled server of the pool has connections; the proxy cuts them when their time is over.
fn has_draining(pool: &Pool, open: impl Fn(&str, SocketAddr) -> bool) -> bool {
    let mut disabled = pool.servers.iter().filter(|s| !s.enabled);
    disabled.any(|s| server_addr(s).is_some_and(|addr| open(&pool.uuid, addr)))
}

/// Whether a server in use is down: then the pool is not down for those that were disabled.
fn has_failed(pool: &Pool, health: &HealthSnapshot) -> bool {
    let health = health.pools.get(&pool.uuid).map(Vec::as_slice);
    let is_up = |addr| {
        let mut servers = health.unwrap_or_default().iter();
        servers.any(|h| h.addr == addr && h.state == OperState::Up)
    };
    let mut used = pool.servers.iter().filter(|s| s.enabled);
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
mod tests {
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

    #[test]
    fn ports_are_listened_on_for_their_protocols() {
        let mut both = service("a", 53);
        both.udp_idle_timeout_s = 10;
        both.ports.push(PortRange {
            first: 53,
            last: 54,
            protocol: v1::Protocol::Udp.into(),
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
    fn a_service_with_advertise_down_vs_is_announced_while_its_pool_is_down_but_not_when_disabled()
    {
        let mut stubborn = desired(vec![service("a", 80)]);
        stubborn.virtual_services[0].advertise_down_vs = true;
        let down = outcome(&stubborn, OperState::Down);
        assert_eq!((down.0.0, down.2), (OperState::Down, Ok(())));
        stubborn.virtual_services[0].enabled = false;
        assert_eq!(outcome(&stubborn, OperState::Up).2, Err(Reason::VsDisabled));
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
}
