//! What worker threads share: the pools in force and the counters.

use crate::ages::Ages;
use crate::balance::{self, Algorithm, Candidate, Draw};
use crate::cut::Cut;
use crate::hint::{HintCounters, HintSpec, HintStats};
use crate::retire::Retirement;
use crate::{PoolSpec, ServerSpec, UdpSpec, VirtualServiceSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Counters of everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// By virtual service.
    pub virtual_services: Vec<VsStats>,
    /// By server of each pool.
    pub servers: Vec<ServerStats>,
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
    /// Connections refused because no server could take them.
    pub refused: u64,
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
    /// Connections made.
    pub total: u64,
}

/// Counters of one server, kept as long as somebody holds it.
#[derive(Default)]
pub(crate) struct ServerCounters {
    open: AtomicU64,
    total: AtomicU64,
    /// How long it takes to accept a connection, on average; 0 = not known.
    connect_us: AtomicU64,
    up: AtomicBool,
    retirement: Retirement,
}

impl ServerCounters {
    /// What is said of the server. One that comes up is not known any more: what it was like when it went does not count.
    fn follow(&self, server: &ServerSpec) {
        if server.up && !self.up.swap(server.up, Relaxed) {
            self.connect_us.store(0, Relaxed);
        }
        self.up.store(server.up, Relaxed);
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
    /// The server has accepted after this time, or not accepted within it.
    pub(crate) fn connected(&self, took: Duration) {
        self.0.connected(took);
    }

    /// Waits until the server's connections are to end, because it is out of use.
    pub(crate) async fn retired(&self) {
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
    pub hints: HintCounters,
    pub udp: UdpCounters,
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
    turn: AtomicU64,
    /// Grows whenever the pool changes.
    pool_state: AtomicU64,
    rules: RwLock<Arc<Rules>>,
}

struct Rules {
    idle_timeout: Option<Duration>,
    hint: Option<HintSpec>,
    udp: UdpRules,
    pool: PoolSpec,
    servers: Vec<Arc<ServerCounters>>,
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

    pub(crate) fn hint(&self) -> Option<HintSpec> {
        self.rules().hint
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

    /// Whether the server is in the pool and up; one that takes no new flows keeps those that it has.
    /// `server` is where it is reached for this port of the VIP.
    pub(crate) fn is_up(&self, server: SocketAddr, vip: SocketAddr) -> bool {
        let rules = self.rules();
        let mut servers = rules.pool.servers.iter();
        servers.any(|s| target(&rules.pool, s, vip) == server && s.up)
    }

    fn replace_rules(&self, rules: Arc<Rules>) {
        let mut current = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        if current.pool != rules.pool {
            self.pool_state.fetch_add(1, Relaxed);
        }
        *current = rules;
    }

    /// Where the next server is that has not been tried, for what this client sends to the VIP; counted as used.
    pub(crate) fn next_server(
        &self,
        [client, vip]: [SocketAddr; 2],
        tried: &[SocketAddr],
    ) -> Option<(SocketAddr, Counted)> {
        let rules = self.rules();
        let turn = self.turn.fetch_add(1, Relaxed);
        let pairs = rules.pool.servers.iter().zip(&rules.servers);
        let candidates: Vec<_> = pairs
            .map(|(spec, counters)| {
                let untried = !tried.contains(&target(&rules.pool, spec, vip));
                candidate(spec, counters, untried)
            })
            .collect();
        let draw = Draw {
            turn,
            chance: chance(rules.pool.algorithm),
            client,
        };
        let index = balance::choose(rules.pool.algorithm, &candidates, draw)?;
        let counters = rules.servers[index].clone();
        counters.open.fetch_add(1, Relaxed);
        counters.total.fetch_add(1, Relaxed);
        let server = target(&rules.pool, &rules.pool.servers[index], vip);
        Some((server, Counted(counters)))
    }
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
        let rules = Arc::new(Rules {
            idle_timeout: spec.idle_timeout,
            hint: spec.hint,
            udp: UdpRules::of(spec.udp.as_ref()),
            servers: self.counters_of(&spec.pool),
            pool: spec.pool.clone(),
        });
        let counters = rules.servers.clone();
        match self.get(&spec.uuid) {
            Some(service) => service.replace_rules(rules),
            None => {
                let service = Service {
                    uuid: spec.uuid.clone(),
                    counters: VsCounters::default(),
                    ages: Ages::default(),
                    cut: Cut::default(),
                    turn: AtomicU64::new(0),
                    pool_state: AtomicU64::new(0),
                    rules: RwLock::new(rules),
                };
                self.services
                    .write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(spec.uuid.clone(), Arc::new(service));
            }
        }
        // After the rules: who has chosen a server by the old ones is cut, too.
        for (server, counters) in spec.pool.servers.iter().zip(counters) {
            counters.follow(server);
        }
    }

    fn counters_of(&self, pool: &PoolSpec) -> Vec<Arc<ServerCounters>> {
        let mut known = self.servers.write().unwrap_or_else(PoisonError::into_inner);
        pool.servers
            .iter()
            .map(|s| {
                known
                    .entry((pool.uuid.clone(), s.addr))
                    .or_default()
                    .clone()
            })
            .collect()
    }

    /// Forgets every other service without connections, and servers that no pool has any more.
    pub(crate) fn keep<'a>(&self, uuids: impl Iterator<Item = &'a str>) {
        let uuids: BTreeSet<&str> = uuids.collect();
        let mut services = self
            .services
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let open = |s: &Service| s.counters.open.load(Relaxed) > 0;
        services.retain(|uuid, service| uuids.contains(uuid.as_str()) || open(service));
        let rules: Vec<_> = services.values().map(|s| s.rules()).collect();
        let used: BTreeSet<_> = rules
            .iter()
            .flat_map(|r| {
                r.pool
                    .servers
                    .iter()
                    .map(|s| (r.pool.uuid.as_str(), s.addr))
            })
            .collect();
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
    }
}
