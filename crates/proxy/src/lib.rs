//! Proxying: from a VIP's port to a server of the pool.
//!
//! Worker threads, each with a current-thread runtime and its own SO_REUSEPORT listener per address, so that
//! connections never change threads. [`ProxyHandle::apply`] takes the whole desired state: what has not changed is
//! not touched, and neither are running connections. A connection goes through named phases: accept
//! (`listener`), choose a pool (`pool_group`) and a server (`balance`), connect, tunnel (`tunnel`). On a port of HTTP each
//! request chooses (`http`); TLS (`tls`) may end before either, and begin anew towards servers, who may be told of the client
//! first (`proxy_header`). UDP stands beside them (`udp`): flows count as connections.
//!
//! Listening sockets have the settings of connections that come to them (`tcp`). Connections of a worker take turns (`weight`).
//!
//! Where owner hints are on, a connection is stamped as it is accepted (`hint`), and again by a sweep of its worker over
//! its connections (`client`): long ones every two hours.
//!
//! Ownership: the handle owns the worker threads; a worker owns its listeners, its sweep and connections as tasks of its
//! runtime. A thread ends when its queue closes or [`ProxyHandle::close_all`] says so; its runtime then drops every
//! task, which closes the sockets.

mod ages;
mod balance;
mod client;
mod connection;
mod cookie;
mod cut;
mod front;
mod hint;
mod http;
mod inline;
mod keepalive;
mod listener;
mod pool_group;
mod proxy_header;
mod relay;
mod retire;
mod shared;
mod source;
mod stream;
mod tcp;
mod tls;
mod tunnel;
mod udp;
mod weight;
mod worker;

pub use balance::{Algorithm, HashKey};
pub use flow::key::Protocol;
pub use front::{
    BackSpec, CertificateSpec, CookieSpec, ForwardedFor, ForwardedForUpdate, FrontSpec, HttpSpec,
    PortSpec, PrivateKey, ServerTlsSpec, TlsSpec, TlsVersions,
};
pub use hint::{HintRenewal, HintSpec, HintStats};
pub use model::weight::Weight;
pub use proxy_header::ProxyHeader;
pub use shared::{ServerStats, Stats, UdpStats, VsStats};
pub use source::Source;
pub use tcp::{Congestion, TcpSpec};
pub use tls::{check as check_certificate, client_config};

use listener::{Endpoint, Listener};
use shared::Shared;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use udp::Homes;
use worker::Worker;

/// How the proxy runs.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProxyConfig {
    /// Worker threads; 0 = one per core.
    pub workers: usize,
    /// When the stamps of long connections are renewed.
    pub hint_renewal: HintRenewal,
}

/// A virtual service as the proxy serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualServiceSpec {
    /// uuid.
    pub uuid: String,
    /// Name, for logs.
    pub name: String,
    /// Addresses and ports to listen on for TCP.
    pub listen: Vec<SocketAddr>,
    /// Those for UDP, and how its flows are; `None` = none.
    pub udp: Option<UdpSpec>,
    /// False: nothing listens, so that the ports answer RST, or "port unreachable".
    pub accept: bool,
    /// Ends a connection without a byte in either direction; `None` = never.
    pub idle_timeout: Option<Duration>,
    /// Instead of ending it, both ends are asked from then on whether they are there (`keepalive`).
    pub keeps_idle: bool,
    /// Where connections go.
    pub group: PoolGroupSpec,
    /// Clients are made to echo who owns their connection; `None` = not. A change is for new connections, and for
    /// others when the next sweep finds that they can take it.
    pub hint: Option<HintSpec>,
    /// What servers see. A change is for new connections.
    pub source: Source,
    /// What is done with connections besides passing their bytes on.
    pub front: FrontSpec,
    /// How the connections of clients are set up.
    pub tcp: TcpSpec,
    /// What servers are told of clients first of all, where bytes are passed on; `None` = nothing. A change is for new
    /// connections.
    pub proxy_header: Option<ProxyHeader>,
    /// How much of a busy engine its connections have beside others' (`weight`).
    pub weight: Weight,
}

impl VirtualServiceSpec {
    /// All that is listened on.
    fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        let udp = self.udp.iter().flat_map(|udp| &udp.listen);
        let tcp = self.listen.iter().map(|addr| (Protocol::Tcp, *addr));
        tcp.chain(udp.map(|addr| (Protocol::Udp, *addr)))
    }
}

/// The UDP side of a virtual service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpSpec {
    /// Addresses and ports to listen on.
    pub listen: Vec<SocketAddr>,
    /// Ends a flow without a datagram in either direction; a change is for new flows.
    pub idle_timeout: Duration,
    /// Most flows at a time: datagrams of further clients are dropped and counted. Each takes two descriptors and a
    /// port towards its server.
    pub flows_max: u64,
}

/// The pools of a virtual service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolGroupSpec {
    /// The pools, in any order.
    pub members: Vec<MemberSpec>,
    /// Pools of the next priority are used as well while fewer servers are up in those before; 0 = 1.
    pub min_servers: u32,
}

impl PoolGroupSpec {
    /// All servers, with their pools.
    pub(crate) fn servers(&self) -> impl Iterator<Item = (&PoolSpec, &ServerSpec)> {
        let pools = self.members.iter().map(|m| &m.pool);
        pools.flat_map(|pool| pool.servers.iter().map(move |server| (pool, server)))
    }
}

impl From<PoolSpec> for PoolGroupSpec {
    fn from(pool: PoolSpec) -> Self {
        let only = MemberSpec {
            pool,
            priority: 0,
            ratio: 1,
        };
        Self {
            members: vec![only],
            min_servers: 0,
        }
    }
}

/// A pool of a group (avi-api section 12, poolgroup).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSpec {
    /// The pool.
    pub pool: PoolSpec,
    /// Pools with the highest number are used first.
    pub priority: u32,
    /// Its share among pools of the same priority; 0 = it takes nothing new, and keeps what it has.
    pub ratio: u32,
}

/// The servers of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSpec {
    /// uuid.
    pub uuid: String,
    /// How a server is chosen.
    pub algorithm: Algorithm,
    /// The servers.
    pub servers: Vec<ServerSpec>,
    /// Servers are reached at the port that the client used at the VIP, instead of their own.
    pub use_service_port: bool,
    /// Servers whose connects fail get fewer new connections, until connects succeed (`inline`).
    pub inline_health: bool,
    /// How servers are spoken to.
    pub back: BackSpec,
}

/// A server of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSpec {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Takes new connections.
    pub enabled: bool,
    /// Ends the connections that it has, so long after this was first said; `None` = they go on.
    pub cut_after: Option<Duration>,
    /// Its health checks pass.
    pub up: bool,
    /// Its share in round robin, random and consistent hash, against the others' (1-20).
    pub ratio: u32,
    /// Most connections at a time; 0 = any number.
    pub max_connections: u32,
}

/// Whether a listener is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerStatus {
    /// uuid of the virtual service.
    pub vs_uuid: String,
    /// Transport.
    pub protocol: Protocol,
    /// The address.
    pub addr: SocketAddr,
    /// Why it is not open.
    pub error: Option<String>,
}

/// A connection or UDP flow that is open now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenFlow {
    /// uuid of the virtual service.
    pub vs_uuid: String,
    /// Transport.
    pub protocol: Protocol,
    /// The client.
    pub client: SocketAddr,
    /// The VIP and its port.
    pub vip: SocketAddr,
    /// The server; `None` while none has taken it.
    pub server: Option<SocketAddr>,
    /// Since it was accepted, or its first datagram.
    pub age: Duration,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    /// The client's timestamps say that it is ours.
    pub hinted: bool,
}

/// Some of the connections and UDP flows, and how many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenFlows {
    /// As many as were wanted.
    pub flows: Vec<OpenFlow>,
    /// Those that fit what was asked for.
    pub matched: u64,
}

impl OpenFlows {
    /// One more that fits; it is looked at only where there is room for it.
    pub(crate) fn add(&mut self, most: usize, flow: impl FnOnce() -> OpenFlow) {
        self.matched += 1;
        if self.flows.len() < most {
            self.flows.push(flow());
        }
    }

    /// Those of another table, as far as there is room.
    pub(crate) fn append(&mut self, most: usize, others: Self) {
        self.matched += others.matched;
        let room = most.saturating_sub(self.flows.len());
        self.flows.extend(others.flows.into_iter().take(room));
    }
}

/// Says of a flow (uuid of the virtual service, transport, client, VIP) whether it is wanted.
pub type WantedFlow = dyn Fn(&str, Protocol, SocketAddr, SocketAddr) -> bool + Send + Sync;

/// Starts proxies.
pub struct Proxy;

impl Proxy {
    /// Starts the worker threads; nothing listens yet.
    ///
    /// # Errors
    /// A thread or its runtime cannot be made.
    pub fn start(config: ProxyConfig) -> std::io::Result<ProxyHandle> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let count = if config.workers == 0 {
            cores()
        } else {
            config.workers
        };
        let (homes, arriving) = Homes::new(count);
        let start =
            |(number, strays)| Worker::start(number, config.hint_renewal, homes.clone(), strays);
        let workers = arriving.into_iter().enumerate().map(start);
        let workers = workers.collect::<Result<Vec<_>, _>>()?;
        Ok(ProxyHandle {
            inner: Arc::new(Inner {
                workers,
                state: Mutex::default(),
                shared: Shared::default(),
            }),
        })
    }
}

struct Inner {
    workers: Vec<Worker>,
    state: Mutex<Open>,
    shared: Shared,
}

/// The listeners that are open.
#[derive(Default)]
struct Open(BTreeMap<Endpoint, Opened>);

/// For whom, and how.
struct Opened {
    vs_uuid: String,
    tcp: TcpSpec,
}

/// A running proxy; clones share it.
#[derive(Clone)]
pub struct ProxyHandle {
    inner: Arc<Inner>,
}

impl ProxyHandle {
    /// Brings listeners and pools in line with the whole desired state, and says of each wanted listener whether it
    /// is open. Returns when that is so.
    pub async fn apply(&self, services: Vec<VirtualServiceSpec>) -> Vec<ListenerStatus> {
        let mut open = self.inner.state.lock().await;
        for service in &services {
            self.inner.shared.set(service);
        }
        let wanted: BTreeMap<Endpoint, &VirtualServiceSpec> = services
            .iter()
            .filter(|s| s.accept)
            .flat_map(|s| s.endpoints().map(move |endpoint| (endpoint, s)))
            .collect();
        let stale: Vec<Endpoint> = open
            .0
            .iter()
            .filter(|(e, o)| wanted.get(*e).is_none_or(|s| s.uuid != o.vs_uuid))
            .map(|(e, _)| *e)
            .collect();
        for endpoint in stale {
            self.close(endpoint).await;
            open.0.remove(&endpoint);
        }
        let (mut statuses, mut changed) = (Vec::new(), Vec::new());
        for (endpoint, service) in wanted {
            let served = self.serve((&mut open, &mut changed), endpoint, service);
            let error = served.await.err();
            let (protocol, addr) = endpoint;
            statuses.push(ListenerStatus {
                vs_uuid: service.uuid.clone(),
                protocol,
                addr,
                error: error.map(|e| e.to_string()),
            });
        }
        self.change(changed).await;
        self.inner
            .shared
            .keep(services.iter().map(|s| s.uuid.as_str()));
        statuses
    }

    /// Opens the address, or says what the listeners there are to have.
    async fn serve(
        &self,
        (open, changed): (&mut Open, &mut Vec<(Endpoint, TcpSpec)>),
        endpoint: Endpoint,
        service: &VirtualServiceSpec,
    ) -> std::io::Result<()> {
        let tcp = match endpoint.0 {
            Protocol::Tcp => service.tcp.share(self.inner.workers.len()),
            Protocol::Udp => TcpSpec::default(),
        };
        let before = open.0.get(&endpoint).map(|opened| opened.tcp);
        match before {
            Some(before) if before == tcp => return Ok(()),
            Some(_) => changed.push((endpoint, tcp.possible(endpoint.1))),
            None => {
                let tcp = tcp.possible(endpoint.1);
                self.open(endpoint, &service.uuid, &tcp).await?;
            }
        }
        let vs_uuid = service.uuid.clone();
        open.0.insert(endpoint, Opened { vs_uuid, tcp });
        Ok(())
    }

    async fn change(&self, listeners: Vec<(Endpoint, TcpSpec)>) {
        let listeners = Arc::new(listeners);
        for worker in self.inner.workers.iter().filter(|_| !listeners.is_empty()) {
            worker.change(listeners.clone()).await;
        }
    }

    /// Opens the address on every worker, or on none.
    async fn open(&self, endpoint: Endpoint, vs_uuid: &str, tcp: &TcpSpec) -> std::io::Result<()> {
        let Some(service) = self.inner.shared.get(vs_uuid) else {
            return Ok(());
        };
        let listeners = self
            .inner
            .workers
            .iter()
            .map(|_| Listener::bind(endpoint, tcp))
            .collect::<Result<Vec<_>, _>>()?;
        for (worker, listener) in self.inner.workers.iter().zip(listeners) {
            worker.listen(endpoint, listener, service.clone()).await;
        }
        Ok(())
    }

    async fn close(&self, endpoint: Endpoint) {
        for worker in &self.inner.workers {
            worker.close(endpoint).await;
        }
    }

    /// Counters as of now.
    pub fn stats(&self) -> Stats {
        self.inner.shared.stats()
    }

    /// The connections and UDP flows that are wanted, `most` at most.
    pub async fn flows(&self, wanted: Arc<WantedFlow>, most: usize) -> OpenFlows {
        let mut all = OpenFlows::default();
        for worker in &self.inner.workers {
            let some = worker.flows(&wanted, most - all.flows.len()).await;
            all.append(most, some);
        }
        all
    }

    /// Resets the connections of a virtual service that are open now, and ends its UDP flows.
    pub fn cut(&self, vs_uuid: &str) {
        if let Some(service) = self.inner.shared.get(vs_uuid) {
            service.cut.give();
        }
    }

    /// Closes every listener and every connection.
    pub async fn close_all(&self) {
        let mut open = self.inner.state.lock().await;
        open.0.clear();
        for worker in &self.inner.workers {
            worker.close_all().await;
        }
    }
}

#[cfg(test)]
mod tests;
