//! What worker threads share: the pools in force and the counters.

use crate::ages::Ages;
use crate::balance::{self, Algorithm, Candidate, Draw};
use crate::connection::CONNECT_TIMEOUT;
use crate::cookie::Cookies;
use crate::cut::Cut;
use crate::hint::{HintCounters, HintSpec, HintStats};
use crate::inline::{self, InlineHealth};
use crate::pool_group;
use crate::retire::Retirement;
use crate::source::Source;
use crate::tls;
use crate::{
    FrontSpec, PoolGroupSpec, PoolSpec, PortSpec, ProxyHeader, ServerSpec, UdpSpec,
    VirtualServiceSpec, Weight,
};
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderValue};
use rustls::ServerConfig;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Counters of everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// By virtual service, in order of their uuids.
    pub virtual_services: Vec<VsStats>,
    /// By server of each pool, in order of pools' uuids and of addresses.
    pub servers: Vec<ServerStats>,
}

impl Stats {
    /// Those of a virtual service.
    pub fn virtual_service(&self, vs: &str) -> Option<&VsStats> {
        let all = &self.virtual_services;
        let found = all.binary_search_by(|s| s.uuid.as_str().cmp(vs));
        all.get(found.ok()?)
    }

    /// Those of a server of a pool.
    pub fn server(&self, pool: &str, addr: SocketAddr) -> Option<&ServerStats> {
        let all = &self.servers;
        let found = all.binary_search_by(|s| (s.pool_uuid.as_str(), s.addr).cmp(&(pool, addr)));
        all.get(found.ok()?)
    }

    /// Whether a virtual service has connections or UDP flows.
    pub fn has_open(&self, vs: &str) -> bool {
        self.virtual_service(vs).is_some_and(|s| s.open > 0)
    }

    /// Whether a server of a pool has.
    pub fn server_has_open(&self, pool: &str, addr: SocketAddr) -> bool {
        self.server(pool, addr).is_some_and(|s| s.open > 0)
    }
}

/// Counters of a virtual service since it is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VsStats {
    /// uuid.
    pub uuid: String,
    /// Connections open now.
    pub open: u64,
    /// Age of the oldest of them.
    pub oldest: Option<Duration>,
    /// Connections accepted.
    pub total: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Connections refused because no server could take them; HTTP requests are answered instead.
    pub refused: u64,
    /// HTTP responses that have come from servers whole, or are our own, by class of status: 1xx to 5xx.
    pub responses: [u64; 5],
    /// Owner hints.
    pub hints: HintStats,
    /// UDP flows, which count as connections above.
    pub udp: UdpStats,
}

/// Counters of a virtual service's UDP flows since it is here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UdpStats {
    /// Flows now.
    pub flows: u64,
    /// Datagrams of new clients that were dropped because there are as many flows as may be.
    pub full: u64,
    /// Datagrams that were dropped: a buffer was full, or no server was left for the flow.
    pub dropped: u64,
    /// Flows that went on at another server, because theirs refused, was down or was taken out of the pool.
    pub moved: u64,
    /// Datagrams that another client's new socket had taken.
    pub dispatched_again: u64,
}

/// Counters of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerStats {
    /// uuid of the pool.
    pub pool_uuid: String,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Connections open now.
    pub open: u64,
    /// Connections made; HTTP requests sent, where each is balanced.
    pub total: u64,
    /// Bytes to it.
    pub bytes_sent: u64,
    /// Bytes from it.
    pub bytes_received: u64,
    /// Of 100 new connections that it would get, so many it gets; `None` = its connects are not looked at.
    pub inline_health_share: Option<u32>,
}

/// Counters of one server, kept as long as somebody holds it.
#[derive(Default)]
pub(crate) struct ServerCounters {
    open: AtomicU64,
    total: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
    /// How long it takes to accept a connection, on average; 0 = not known.
    connect_us: AtomicU64,
    up: AtomicBool,
    inline: InlineHealth,
    retirement: Retirement,
}

impl ServerCounters {
    /// What is said of the server. One that comes up is not known any more: what it was like when it went does not count.
    fn follow(&self, server: &ServerSpec) {
        let was_up = self.up.swap(server.up, Relaxed);
        if server.up && !was_up {
            self.connect_us.store(0, Relaxed);
            self.inline.forget();
        }
        self.retirement.set(server.cut_after);
    }

    /// An average in which the last connection counts for an eighth. Two at a time may count for one.
    fn connected(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let average = match self.connect_us.load(Relaxed) {
            0 => took,
            old => old - old / 8 + took / 8,
        };
        self.connect_us.store(average.max(1), Relaxed);
    }
}

/// Counts a connection as open until dropped.
pub(crate) struct Counted(Arc<ServerCounters>);

impl Counted {
    fn begin(counters: &Arc<ServerCounters>) -> Self {
        counters.open.fetch_add(1, Relaxed);
        counters.total.fetch_add(1, Relaxed);
        Self(counters.clone())
    }

    /// The server has accepted after this time.
    pub(crate) fn connected(&self, took: Duration) {
        self.0.connected(took);
        self.0.inline.succeeded();
    }

    /// The server has not accepted in time, or refused: one that refuses is no fast one.
    pub(crate) fn failed(&self, cause: Option<&std::io::Error>) {
        self.0.connected(CONNECT_TIMEOUT);
        if cause.is_none_or(inline::is_the_servers) {
            self.0.inline.failed();
        }
    }

    /// Waits until the server's connections are to end, because it is out of use.
    pub(crate) async fn retired(&self) {
        self.0.retirement.is_over().await;
    }

    /// The same for a connection that is kept while it is not counted.
    pub(crate) fn retirement(&self) -> Retired {
        Retired(self.0.clone())
    }

    /// Counts what passes between us and the server.
    pub(crate) fn meter(&self) -> Meter {
        Meter(self.0.clone())
    }
}

/// Counts what passes between us and a server, also by a connection that is kept while it is not counted.
pub(crate) struct Meter(Arc<ServerCounters>);

impl Meter {
    /// Bytes to it.
    pub(crate) fn sent(&self) -> &AtomicU64 {
        &self.0.bytes_sent
    }

    /// Bytes from it.
    pub(crate) fn received(&self) -> &AtomicU64 {
        &self.0.bytes_received
    }

    /// It counts for this server: one that has left its pool and comes back is counted anew.
    pub(crate) fn counts_for(&self, server: &Counted) -> bool {
        Arc::ptr_eq(&self.0, &server.0)
    }
}

/// Whether the connections of a server are to end.
pub(crate) struct Retired(Arc<ServerCounters>);

impl Retired {
    /// Waits until they are.
    pub(crate) async fn given(&self) {
        self.0.retirement.is_over().await;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

#[derive(Default)]
pub(crate) struct VsCounters {
    pub open: AtomicU64,
    pub total: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    pub refused: AtomicU64,
    pub responses: ResponseCounters,
    pub hints: HintCounters,
    pub udp: UdpCounters,
}

/// HTTP responses of which all was handed to the client's connection, by class of status; whether it has arrived nobody knows.
#[derive(Default)]
pub(crate) struct ResponseCounters([AtomicU64; 5]);

impl ResponseCounters {
    /// One more. What is no class that there is counts as 5xx, which is what clients take it for (RFC 9110 section 15).
    pub(crate) fn count(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100);
        let counter = self.0.get(class - 1).unwrap_or(&self.0[4]);
        counter.fetch_add(1, Relaxed);
    }

    fn stats(&self) -> [u64; 5] {
        self.0.each_ref().map(|counter| counter.load(Relaxed))
    }
}

/// See [`UdpStats`].
#[derive(Default)]
pub(crate) struct UdpCounters {
    pub flows: AtomicU64,
    pub full: AtomicU64,
    pub dropped: AtomicU64,
    pub moved: AtomicU64,
    pub dispatched_again: AtomicU64,
}

impl UdpCounters {
    fn stats(&self) -> UdpStats {
        UdpStats {
            flows: self.flows.load(Relaxed),
            full: self.full.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            moved: self.moved.load(Relaxed),
            dispatched_again: self.dispatched_again.load(Relaxed),
        }
    }
}

/// A virtual service in force; connections look at it when they begin.
pub(crate) struct Service {
    pub uuid: String,
    pub counters: VsCounters,
    pub ages: Ages,
    pub cut: Cut,
    /// It is wanted no more, and has connections still.
    gone: AtomicBool,
    turn: AtomicU64,
    /// Grows whenever the pool changes.
    pool_state: AtomicU64,
    /// Beside the rules, as every turn of a connection asks for it.
    weight: AtomicU32,
    rules: RwLock<Arc<Rules>>,
}

struct Rules {
    idle_timeout: Option<Duration>,
    keeps_idle: bool,
    hint: Option<HintSpec>,
    source: Source,
    front: FrontSpec,
    proxy_header: Option<ProxyHeader>,
    tls: Option<Arc<ServerConfig>>,
    udp: UdpRules,
    group: PoolGroupSpec,
    /// By member of the group.
    pools: Vec<PoolCounters>,
}

/// What is counted of a pool for one virtual service.
struct PoolCounters {
    /// Grows with each choice of a server.
    turn: Arc<AtomicU64>,
    /// Servers that are up and enabled.
    up: u32,
    /// By server.
    servers: Vec<Arc<ServerCounters>>,
    cookies: Cookies,
}

impl Rules {
    /// What the choice of a pool rests on.
    fn members(&self) -> Vec<pool_group::Member<'_>> {
        let pairs = self.group.members.iter().zip(&self.pools);
        let each = pairs.map(|(member, counters)| pool_group::Member {
            pool: &member.pool.uuid,
            priority: member.priority,
            ratio: member.ratio,
            up: counters.up,
            algorithm: member.pool.algorithm,
        });
        each.collect()
    }

    /// The next server of this member of the group, which it is of, and where it is reached.
    fn next_of_member(
        &self,
        member: usize,
        ends: [SocketAddr; 2],
        tried: &[SocketAddr],
    ) -> Option<(usize, SocketAddr, Counted)> {
        let spec = &self.group.members[member];
        let pool = Some(&spec.pool).filter(|_| spec.ratio > 0)?;
        let (addr, counted) = next_of_pool(pool, &self.pools[member], ends, tried)?;
        Some((member, addr, counted))
    }

    /// The turn of this pool so far.
    fn turn_of(&self, pool: &PoolSpec) -> Option<Arc<AtomicU64>> {
        let mut members = self.group.members.iter().zip(&self.pools);
        let (_, counters) = members.find(|(member, _)| member.pool.uuid == pool.uuid)?;
        Some(counters.turn.clone())
    }
}

#[derive(Default)]
struct UdpRules {
    idle_timeout: Option<Duration>,
    flows_max: u64,
}

impl UdpRules {
    /// A service that has no UDP any more has no new flows; those that it has end as they would have.
    fn of(spec: Option<&UdpSpec>) -> Self {
        spec.map_or_else(Self::default, |spec| Self {
            idle_timeout: Some(spec.idle_timeout),
            flows_max: spec.flows_max,
        })
    }
}

impl Service {
    fn rules(&self) -> Arc<Rules> {
        self.rules
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn idle_timeout(&self) -> Option<Duration> {
        self.rules().idle_timeout
    }

    /// A connection that is idle is not ended.
    pub(crate) fn keeps_idle(&self) -> bool {
        self.rules().keeps_idle
    }

    pub(crate) fn hint(&self) -> Option<HintSpec> {
        self.rules().hint
    }

    /// What this server is to see of a connection that has come to this VIP; `None` = what the kernel chooses.
    pub(crate) fn source(&self, server: SocketAddr, vip: SocketAddr) -> Option<IpAddr> {
        self.rules().source.towards(server, vip)
    }

    /// How connections to this port are served.
    pub(crate) fn port(&self, port: u16) -> PortSpec {
        let rules = self.rules();
        rules.front.ports.get(&port).cloned().unwrap_or_default()
    }

    /// What servers are told of clients first.
    pub(crate) fn proxy_header(&self) -> Option<ProxyHeader> {
        self.rules().proxy_header
    }

    /// How long a turn of a connection is, beside others'.
    pub(crate) fn weight(&self) -> Weight {
        Weight::nearest(self.weight.load(Relaxed))
    }

    /// How TLS is spoken to clients.
    pub(crate) fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.rules().tls.clone()
    }

    /// Clients are asked to end their connections.
    pub(crate) fn is_closing(&self) -> bool {
        self.gone.load(Relaxed) || self.rules().front.closing
    }

    pub(crate) fn udp_idle_timeout(&self) -> Option<Duration> {
        self.rules().udp.idle_timeout
    }

    pub(crate) fn udp_flows_max(&self) -> u64 {
        self.rules().udp.flows_max
    }

    /// Another number after every change of the pool.
    pub(crate) fn pool_state(&self) -> u64 {
        self.pool_state.load(Relaxed)
    }

    /// Whether the server is in a pool and up; one that takes no new flows keeps those that it has.
    /// `server` is where it is reached for this port of the VIP.
    pub(crate) fn is_up(&self, server: SocketAddr, vip: SocketAddr) -> bool {
        let rules = self.rules();
        let mut servers = rules.group.servers();
        servers.any(|(pool, s)| target(pool, s, vip) == server && s.up)
    }

    fn replace_rules(&self, rules: Arc<Rules>) {
        let mut current = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        if current.group != rules.group {
            self.pool_state.fetch_add(1, Relaxed);
        }
        *current = rules;
    }

    /// Where the next server is that has not been tried, for what this client sends to the VIP; counted as used.
    pub(crate) fn next_server(
        &self,
        ends: [SocketAddr; 2],
        tried: &[SocketAddr],
    ) -> Option<(SocketAddr, Counted)> {
        let chosen = self.choose(ends, tried)?;
        Some((chosen.addr, chosen.counted))
    }

    /// The same, with what is known of the server's pool.
    pub(crate) fn choose(&self, ends: [SocketAddr; 2], tried: &[SocketAddr]) -> Option<Chosen> {
        let rules = self.rules();
        let next = |i: usize| rules.next_of_member(i, ends, tried);
        // Most have one pool, and nothing to choose.
        let (member, addr, counted) = if rules.pools.len() < 2 {
            (0..rules.pools.len()).find_map(next)?
        } else {
            let turn = self.turn.fetch_add(1, Relaxed);
            let least = rules.group.min_servers;
            let order = pool_group::order(&rules.members(), least, turn, ends[0]);
            order.into_iter().find_map(next)?
        };
        Some(Chosen {
            addr,
            counted,
            rules,
            member,
        })
    }

    /// The server that one of a client's cookies names, if it may take a request; counted as used.
    pub(crate) fn named(&self, headers: &HeaderMap, vip: SocketAddr) -> Option<Chosen> {
        let rules = self.rules();
        let each = rules.group.members.iter().zip(&rules.pools).enumerate();
        let mut found = each.filter_map(|(member, (spec, counters))| {
            let index = counters.cookies.server(headers)?;
            let (pool, own) = (&spec.pool, &counters.servers[index]);
            let fits = spec.ratio > 0 && candidate(&pool.servers[index], own, true).usable;
            fits.then(|| (member, target(pool, &pool.servers[index], vip), own))
        });
        let (member, addr, own) = found.next()?;
        let counted = Counted::begin(own);
        Some(Chosen {
            addr,
            counted,
            member,
            rules: rules.clone(),
        })
    }
}

/// A server that was chosen.
pub(crate) struct Chosen {
    /// Where it is reached.
    pub addr: SocketAddr,
    pub counted: Counted,
    rules: Arc<Rules>,
    member: usize,
}

impl Chosen {
    /// What a connection holds for as long as it lasts: rules that are no more are nobody's then.
    pub(crate) fn into_counted(self) -> (SocketAddr, Counted) {
        (self.addr, self.counted)
    }

    /// The server's pool.
    pub(crate) fn pool(&self) -> &PoolSpec {
        &self.rules.group.members[self.member].pool
    }

    /// What the client is told so that it comes back to this server; `None` = it has said so itself, or nothing.
    pub(crate) fn cookie(&self, headers: &HeaderMap, vip: SocketAddr) -> Option<HeaderValue> {
        let (pool, counters) = (self.pool(), &self.rules.pools[self.member]);
        let spec = pool.back.cookie.as_ref()?;
        let mut servers = pool.servers.iter();
        let index = servers.position(|s| target(pool, s, vip) == self.addr)?;
        let known = counters.cookies.server(headers) == Some(index);
        (!known)
            .then(|| counters.cookies.tell(spec, index))
            .flatten()
    }

    /// A connection may be kept for others while nobody uses it: not where each counts against a limit.
    pub(crate) fn keeps_idle(&self) -> bool {
        self.pool().servers.iter().all(|s| s.max_connections == 0)
    }
}

/// A server of this pool.
fn next_of_pool(
    pool: &PoolSpec,
    counters: &PoolCounters,
    [client, vip]: [SocketAddr; 2],
    tried: &[SocketAddr],
) -> Option<(SocketAddr, Counted)> {
    let draw = Draw {
        turn: counters.turn.fetch_add(1, Relaxed),
        chance: chance(pool.algorithm),
        client,
    };
    let pairs = pool.servers.iter().zip(&counters.servers);
    let mut candidates: Vec<_> = pairs
        .map(|(spec, counters)| {
            let untried = !tried.contains(&target(pool, spec, vip));
            candidate(spec, counters, untried)
        })
        .collect();
    let share = |i: usize| counters.servers[i].inline.share();
    inline::hold_back(&mut candidates, share, pool.algorithm, draw.turn);
    let index = balance::choose(pool.algorithm, &candidates, draw)?;
    let counted = Counted::begin(&counters.servers[index]);
    Some((target(pool, &pool.servers[index], vip), counted))
}

/// Where a server is reached for what came to this port of the VIP.
fn target(pool: &PoolSpec, server: &ServerSpec, vip: SocketAddr) -> SocketAddr {
    match pool.use_service_port {
        true => SocketAddr::new(server.addr.ip(), vip.port()),
        false => server.addr,
    }
}

fn candidate(spec: &ServerSpec, counters: &ServerCounters, untried: bool) -> Candidate {
    let open = counters.open.load(Relaxed);
    let room = spec.max_connections == 0 || open < u64::from(spec.max_connections);
    let usable = spec.enabled && spec.up && room && untried;
    Candidate {
        addr: spec.addr,
        usable,
        open,
        ratio: spec.ratio,
        connect_us: counters.connect_us.load(Relaxed),
    }
}

/// A number at random where one is needed; which server is next is no secret.
fn chance(algorithm: Algorithm) -> u64 {
    match algorithm {
        Algorithm::Random => RandomState::new().hash_one(()),
        _ => 0,
    }
}

/// All of them.
#[derive(Default)]
pub(crate) struct Shared {
    services: RwLock<BTreeMap<String, Arc<Service>>>,
    servers: RwLock<BTreeMap<(String, SocketAddr), Arc<ServerCounters>>>,
}

impl Shared {
    pub(crate) fn get(&self, uuid: &str) -> Option<Arc<Service>> {
        self.services
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(uuid)
            .cloned()
    }

    /// Adds a service or changes its rules; counters stay.
    pub(crate) fn set(&self, spec: &VirtualServiceSpec) {
        let known = self.get(&spec.uuid);
        let before = known.as_ref().map(|service| service.rules());
        let rules = Arc::new(Rules {
            idle_timeout: spec.idle_timeout,
            keeps_idle: spec.keeps_idle,
            hint: spec.hint,
            source: spec.source.clone(),
            front: spec.front.clone(),
            proxy_header: spec.proxy_header,
            tls: tls_of(spec, before.as_deref()),
            udp: UdpRules::of(spec.udp.as_ref()),
            pools: self.counters_of(&spec.group, before.as_deref()),
            group: spec.group.clone(),
        });
        match known {
            Some(service) => {
                service.replace_rules(rules.clone());
                service.weight.store(spec.weight.get(), Relaxed);
            }
            None => self.add(spec, rules.clone()),
        }
        // After the rules: who has chosen a server by the old ones is cut, too.
        let counters = rules.pools.iter().flat_map(|p| &p.servers);
        for ((pool, server), counters) in rules.group.servers().zip(counters) {
            counters.follow(server);
            counters.inline.watch(pool.inline_health);
        }
    }

    fn add(&self, spec: &VirtualServiceSpec, rules: Arc<Rules>) {
        let service = Service {
            uuid: spec.uuid.clone(),
            counters: VsCounters::default(),
            ages: Ages::default(),
            cut: Cut::default(),
            gone: AtomicBool::new(false),
            turn: AtomicU64::new(0),
            pool_state: AtomicU64::new(0),
            weight: AtomicU32::new(spec.weight.get()),
            rules: RwLock::new(rules),
        };
        let mut services = self
            .services
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        services.insert(spec.uuid.clone(), Arc::new(service));
    }

    fn counters_of(&self, group: &PoolGroupSpec, before: Option<&Rules>) -> Vec<PoolCounters> {
        let mut known = self.servers.write().unwrap_or_else(PoisonError::into_inner);
        let pools = group.members.iter().map(|m| &m.pool);
        let each = pools.map(|pool| PoolCounters {
            turn: before.and_then(|b| b.turn_of(pool)).unwrap_or_default(),
            up: pool
                .servers
                .iter()
                .map(|s| u32::from(s.enabled && s.up))
                .sum(),
            servers: {
                let keys = pool.servers.iter().map(|s| (pool.uuid.clone(), s.addr));
                keys.map(|key| known.entry(key).or_default().clone())
                    .collect()
            },
            cookies: Cookies::of(pool),
        });
        each.collect()
    }

    /// Forgets every other service without connections, and servers that no pool has any more.
    pub(crate) fn keep<'a>(&self, uuids: impl Iterator<Item = &'a str>) {
        let uuids: BTreeSet<&str> = uuids.collect();
        let mut services = self
            .services
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        for (uuid, service) in services.iter() {
            let gone = !uuids.contains(uuid.as_str());
            service.gone.store(gone, Relaxed);
        }
        let open = |s: &Service| s.counters.open.load(Relaxed) > 0;
        services.retain(|uuid, service| uuids.contains(uuid.as_str()) || open(service));
        let rules: Vec<_> = services.values().map(|s| s.rules()).collect();
        let used = rules.iter().flat_map(|r| r.group.servers());
        let used: BTreeSet<_> = used.map(|(pool, s)| (pool.uuid.as_str(), s.addr)).collect();
        let mut servers = self.servers.write().unwrap_or_else(PoisonError::into_inner);
        servers.retain(|(pool, addr), _| used.contains(&(pool.as_str(), *addr)));
    }

    pub(crate) fn stats(&self) -> Stats {
        let services = self.services.read().unwrap_or_else(PoisonError::into_inner);
        let servers = self.servers.read().unwrap_or_else(PoisonError::into_inner);
        Stats {
            virtual_services: services.values().map(|s| vs_stats(s)).collect(),
            servers: servers
                .iter()
                .map(|((pool, addr), c)| server_stats(pool, *addr, c))
                .collect(),
        }
    }
}

/// Made anew only when it has changed, as clients may go on with what they had agreed on: each has its own memory of that, and no keys
/// that others could have.
fn tls_of(spec: &VirtualServiceSpec, before: Option<&Rules>) -> Option<Arc<ServerConfig>> {
    let wanted = spec.front.tls.as_ref()?;
    let same = before.filter(|b| b.front.tls.as_ref() == Some(wanted));
    if let Some(known) = same.and_then(|b| b.tls.clone()) {
        return Some(known);
    }
    match tls::server_config(wanted) {
        Ok(config) => Some(config),
        Err(error) => {
            tracing::error!(vs = spec.uuid, %error, "connections with TLS are reset");
            None
        }
    }
}

fn vs_stats(service: &Service) -> VsStats {
    let counters = &service.counters;
    VsStats {
        uuid: service.uuid.clone(),
        open: counters.open.load(Relaxed),
        oldest: service.ages.oldest(Instant::now()),
        total: counters.total.load(Relaxed),
        bytes_in: counters.bytes_in.load(Relaxed),
        bytes_out: counters.bytes_out.load(Relaxed),
        refused: counters.refused.load(Relaxed),
        responses: counters.responses.stats(),
        hints: counters.hints.stats(),
        udp: counters.udp.stats(),
    }
}

fn server_stats(pool: &str, addr: SocketAddr, counters: &ServerCounters) -> ServerStats {
    ServerStats {
        pool_uuid: pool.to_owned(),
        addr,
        open: counters.open.load(Relaxed),
        total: counters.total.load(Relaxed),
        bytes_sent: counters.bytes_sent.load(Relaxed),
        bytes_received: counters.bytes_received.load(Relaxed),
        inline_health_share: counters.inline.is_on().then(|| counters.inline.share()),
    }
}
