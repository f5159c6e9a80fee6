//! The shell around the health machines: one task per server and monitor probes over TCP or UDP.
//!
//! [`HealthHandle`] owns the tasks; a task owns its [`health::Check`] and ends when it is aborted, which may happen
//! at any await: a probe's socket is closed by dropping it. Results meet in one table, from which a snapshot is
//! published whenever a state changes.

use health::{Check, Failure, State, Timing, combine};
use proto::v1::{HealthMonitor, OperState, Pool, UdpMonitor, health_monitor::Kind};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// How much of a response is searched for the expected text (avi-api section 12).
const RESPONSE_LEN_MAX: u64 = 2048;

/// What is known of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerHealth {
    /// Where it listens.
    pub addr: SocketAddr,
    /// UP, DOWN, INITIALIZING, or DISABLED by configuration.
    pub state: OperState,
    /// Why it is down, as a sentence.
    pub reason: String,
    /// How long the last good check took.
    pub response_time_ms: u32,
}

/// The servers of every pool, in the pool's order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthSnapshot {
    /// By uuid of the pool.
    pub pools: BTreeMap<String, Vec<ServerHealth>>,
}

/// A server under a monitor: what a task probes.
type Key = (String, SocketAddr, String);

#[derive(Clone)]
struct Result {
    state: State,
    failure: Option<Failure>,
    response_time_ms: u32,
}

struct Probe {
    monitor: HealthMonitor,
    task: AbortHandle,
    result: Result,
}

#[derive(Default)]
struct Table {
    pools: Vec<Pool>,
    probes: BTreeMap<Key, Probe>,
}

/// Owner of the health checks; dropping it ends them.
pub struct HealthHandle {
    table: Arc<Mutex<Table>>,
    snapshot: watch::Sender<Arc<HealthSnapshot>>,
}

impl HealthHandle {
    /// No pool yet.
    pub fn spawn() -> Self {
        Self {
            table: Arc::default(),
            snapshot: watch::Sender::new(Arc::default()),
        }
    }

    /// What is known, as of now and whenever it changes.
    pub fn snapshot(&self) -> watch::Receiver<Arc<HealthSnapshot>> {
        self.snapshot.subscribe()
    }

    /// The whole desired state; a server whose monitor has not changed keeps its state and its timers.
    pub fn apply(&self, pools: &[Pool], monitors: &[HealthMonitor]) {
        let mut table = lock(&self.table);
        let wanted = wanted(pools, monitors);
        table.probes.retain(|key, probe| {
            let keep = wanted.get(key) == Some(&probe.monitor);
            if !keep {
                probe.task.abort();
            }
            keep
        });
        for (key, monitor) in wanted {
            let shared = (self.table.clone(), self.snapshot.clone());
            let probed = key.clone();
            let entry = table.probes.entry(key);
            entry.or_insert_with(|| start(probed, monitor, shared));
        }
        table.pools = pools.to_vec();
        publish(&table, &self.snapshot);
    }
}

fn start(key: Key, monitor: HealthMonitor, shared: Shared) -> Probe {
    let task = tokio::spawn(watch_server(key, monitor.clone(), shared));
    let result = Result {
        state: State::Initializing,
        failure: None,
        response_time_ms: 0,
    };
    Probe {
        monitor,
        task: task.abort_handle(),
        result,
    }
}

impl Drop for HealthHandle {
    fn drop(&mut self) {
        lock(&self.table)
            .probes
            .values()
            .for_each(|p| p.task.abort());
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

fn addr(server: &proto::v1::Server) -> Option<SocketAddr> {
    Some(SocketAddr::new(
        server.address.parse().ok()?,
        u16::try_from(server.port).ok()?,
    ))
}

/// Which servers are probed by which monitors.
fn wanted(pools: &[Pool], monitors: &[HealthMonitor]) -> BTreeMap<Key, HealthMonitor> {
    let by_uuid: BTreeMap<_, _> = monitors.iter().map(|m| (m.uuid.as_str(), m)).collect();
    let mut wanted = BTreeMap::new();
    for pool in pools.iter().filter(|p| p.enabled) {
        for server in pool.servers.iter().filter(|s| s.enabled).filter_map(addr) {
            let monitors = pool
                .health_monitor_uuids
                .iter()
                .filter_map(|u| by_uuid.get(u.as_str()));
            for monitor in monitors {
                wanted.insert(
                    (pool.uuid.clone(), server, monitor.uuid.clone()),
                    (*monitor).clone(),
                );
            }
        }
    }
    wanted
}

type Shared = (Arc<Mutex<Table>>, watch::Sender<Arc<HealthSnapshot>>);

/// Probes one server with one monitor until aborted.
async fn watch_server(key: Key, monitor: HealthMonitor, (table, snapshot): Shared) {
    let mut check = Check::new(timing(&monitor), Instant::now());
    // The first probe is made at once; later ones are spread by where in the interval the server happens to start.
    loop {
        if let Some(due) = check.deadline() {
            tokio::time::sleep_until(due.into()).await;
        }
        let started = Instant::now();
        if !check.start(started) {
            continue;
        }
        let result = probe(key.1, &monitor).await;
        let now = Instant::now();
        let passed = result.is_ok();
        check.finished(started, now, result);
        let mut table = lock(&table);
        let Some(probe) = table.probes.get_mut(&key) else {
            return;
        };
        probe.result.state = check.state();
        probe.result.failure = check.failure();
        if passed {
            let took = now.duration_since(started).as_millis();
            probe.result.response_time_ms = u32::try_from(took).unwrap_or(u32::MAX);
        }
        publish(&table, &snapshot);
    }
}

fn timing(monitor: &HealthMonitor) -> Timing {
    Timing {
        interval: Duration::from_secs(monitor.send_interval_s.max(1).into()),
        rise: monitor.successful_checks,
        fall: monitor.failed_checks,
    }
}

/// Tells those who watch when something that matters to them changed.
fn publish(table: &Table, snapshot: &watch::Sender<Arc<HealthSnapshot>>) {
    let pools = table
        .pools
        .iter()
        .map(|pool| (pool.uuid.clone(), servers(table, pool)));
    let new = HealthSnapshot {
        pools: pools.collect(),
    };
    snapshot.send_if_modified(|old| {
        let states = |s: &HealthSnapshot| -> Vec<_> {
            let servers = s.pools.iter().flat_map(|(p, list)| {
                list.iter()
                    .map(move |h| (p.clone(), h.addr, h.state, h.reason.clone()))
            });
            servers.collect()
        };
        let changed = states(old) != states(&new);
        *old = Arc::new(new);
        changed
    });
}

fn servers(table: &Table, pool: &Pool) -> Vec<ServerHealth> {
    let each = pool
        .servers
        .iter()
        .filter_map(|s| Some((addr(s)?, s.enabled && pool.enabled)));
    each.map(|(addr, enabled)| {
        let first = (pool.uuid.clone(), addr, String::new());
        let probes = table
            .probes
            .range(first..)
            .take_while(|(k, _)| k.0 == pool.uuid && k.1 == addr);
        let results: Vec<_> = probes.map(|(_, p)| &p.result).collect();
        server(addr, enabled, &results)
    })
    .collect()
}

fn server(addr: SocketAddr, enabled: bool, results: &[&Result]) -> ServerHealth {
    let state = match combine(results.iter().map(|r| r.state)) {
        _ if !enabled => OperState::Disabled,
        State::Up => OperState::Up,
        State::Down => OperState::Down,
        State::Initializing => OperState::Initializing,
    };
    let failure = results
        .iter()
        .filter(|r| r.state == State::Down)
        .find_map(|r| r.failure);
    ServerHealth {
        addr,
        state,
        reason: failure
            .filter(|_| state == OperState::Down)
            .map(|f| f.to_string())
            .unwrap_or_default(),
        response_time_ms: results
            .iter()
            .map(|r| r.response_time_ms)
            .max()
            .unwrap_or(0),
    }
}

/// One probe. The connection is closed by FIN: a server that sees a RST for every check would log it.
async fn probe(server: SocketAddr, monitor: &HealthMonitor) -> std::result::Result<(), Failure> {
    let limit = Duration::from_secs(monitor.receive_timeout_s.max(1).into());
    let port = u16::try_from(monitor.monitor_port).ok().filter(|p| *p != 0);
    let target = SocketAddr::new(server.ip(), port.unwrap_or(server.port()));
    if let Some(Kind::Udp(udp)) = &monitor.kind {
        return probe_udp(target, limit, udp).await;
    }
    let connected = tokio::time::timeout(limit, TcpStream::connect(target)).await;
    let mut stream = connected
        .map_err(|_| Failure::ConnectionTimeout)?
        .map_err(|e| failure(&e))?;
    let Some(Kind::Tcp(tcp)) = &monitor.kind else {
        return Ok(());
    };
    if tcp.request.is_empty() && tcp.response.is_empty() {
        return Ok(());
    }
    let exchanged = tokio::time::timeout(limit, exchange(&mut stream, &tcp.request, &tcp.response));
    exchanged.await.map_err(|_| Failure::PayloadTimeout)?
}

/// How long a UDP server is listened to that need not answer: an ICMP error comes within a round trip.
const UDP_SILENCE: Duration = Duration::from_millis(500);

/// One datagram. Without a response to wait for, "port unreachable" is the failure (avi-api section 12).
async fn probe_udp(
    target: SocketAddr,
    limit: Duration,
    monitor: &UdpMonitor,
) -> std::result::Result<(), Failure> {
    let socket = connected_udp(target).await.map_err(|e| failure(&e))?;
    let request = monitor.request.as_bytes();
    socket.send(request).await.map_err(|e| failure(&e))?;
    let silent = monitor.response.is_empty();
    let wait = if silent {
        limit.min(UDP_SILENCE)
    } else {
        limit
    };
    match tokio::time::timeout(wait, answer(&socket, &monitor.response)).await {
        Ok(result) => result,
        Err(_) if silent => Ok(()),
        Err(_) => Err(Failure::PayloadTimeout),
    }
}

async fn connected_udp(target: SocketAddr) -> std::io::Result<UdpSocket> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(target).await?;
    Ok(socket)
}

async fn answer(socket: &UdpSocket, response: &str) -> std::result::Result<(), Failure> {
    let mut bytes = [0; RESPONSE_LEN_MAX as usize];
    let len = socket.recv(&mut bytes).await.map_err(|e| failure(&e))?;
    match response.is_empty() || contains(&bytes[..len], response.as_bytes()) {
        true => Ok(()),
        false => Err(Failure::PayloadContentMismatch),
    }
}

async fn exchange(
    stream: &mut TcpStream,
    request: &str,
    response: &str,
) -> std::result::Result<(), Failure> {
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(|e| failure(&e))?;
    if response.is_empty() {
        return Ok(());
    }
    let mut seen = Vec::new();
    let mut limited = stream.take(RESPONSE_LEN_MAX);
    while !contains(&seen, response.as_bytes()) {
        let read = limited.read_buf(&mut seen).await.map_err(|e| failure(&e))?;
        if read == 0 {
            return Err(Failure::PayloadContentMismatch);
        }
    }
    Ok(())
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|w| w == wanted)
}

fn failure(error: &std::io::Error) -> Failure {
    match error.kind() {
        ErrorKind::ConnectionRefused => Failure::ConnectionRefused,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Failure::ConnectionReset,
        ErrorKind::TimedOut => Failure::ConnectionTimeout,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Failure::ServerUnreachable,
        _ => Failure::OtherError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::{Server, TcpMonitor};
    use tokio::net::TcpListener;

    fn pool(addr: SocketAddr, monitors: &[&str]) -> Pool {
        Pool {
            uuid: "p".into(),
            enabled: true,
            servers: vec![Server {
                address: addr.ip().to_string(),
                port: addr.port().into(),
                enabled: true,
                ratio: 1,
            }],
            health_monitor_uuids: monitors.iter().map(ToString::to_string).collect(),
            ..Pool::default()
        }
    }

    fn monitor(response: &str) -> HealthMonitor {
        let tcp = TcpMonitor {
            request: String::new(),
            response: response.into(),
        };
        HealthMonitor {
            uuid: "m".into(),
            send_interval_s: 1,
            receive_timeout_s: 1,
            successful_checks: 1,
            failed_checks: 1,
            kind: Some(Kind::Tcp(tcp)),
            ..HealthMonitor::default()
        }
    }

    /// Waits until the only server is in this state.
    async fn wait_for(health: &HealthHandle, state: OperState) -> ServerHealth {
        let mut snapshot = health.snapshot();
        let there = |s: &Arc<HealthSnapshot>| s.pools.get("p").is_some_and(|p| p[0].state == state);
        let found = tokio::time::timeout(Duration::from_secs(20), snapshot.wait_for(there));
        let found = found.await.expect("in time").expect("published");
        found.pools["p"][0].clone()
    }

    #[tokio::test]
    async fn a_server_follows_its_port_up_and_down() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let addr = listener.local_addr().expect("addr");
        let health = HealthHandle::spawn();
        health.apply(&[pool(addr, &["m"])], &[monitor("")]);
        wait_for(&health, OperState::Up).await;
        drop(listener);
        let down = wait_for(&health, OperState::Down).await;
        assert_eq!(down.reason, Failure::ConnectionRefused.to_string());
        let _listener = TcpListener::bind(addr).await.expect("bind again");
        wait_for(&health, OperState::Up).await;
    }

    #[tokio::test]
    async fn a_response_must_contain_the_expected_text() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let addr = listener.local_addr().expect("addr");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(b"220 ready").await.ok();
            }
        });
        let health = HealthHandle::spawn();
        health.apply(&[pool(addr, &["m"])], &[monitor("ready")]);
        wait_for(&health, OperState::Up).await;
        health.apply(&[pool(addr, &["m"])], &[monitor("gone")]);
        let down = wait_for(&health, OperState::Down).await;
        assert_eq!(down.reason, Failure::PayloadContentMismatch.to_string());
    }

    fn udp_monitor(request: &str, response: &str) -> HealthMonitor {
        let udp = UdpMonitor {
            request: request.into(),
            response: response.into(),
        };
        HealthMonitor {
            kind: Some(Kind::Udp(udp)),
            ..monitor("")
        }
    }

    /// A port for UDP that TCP does not have.
    async fn udp_socket() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
        let addr = socket.local_addr().expect("addr");
        (socket, addr)
    }

    #[tokio::test]
    async fn a_silent_udp_server_is_up_until_its_port_is_unreachable() {
        let (socket, addr) = udp_socket().await;
        let health = HealthHandle::spawn();
        health.apply(&[pool(addr, &["m"])], &[udp_monitor("", "")]);
        wait_for(&health, OperState::Up).await;
        drop(socket);
        let down = wait_for(&health, OperState::Down).await;
        assert_eq!(down.reason, Failure::ConnectionRefused.to_string());
    }

    #[tokio::test]
    async fn a_udp_server_must_give_the_expected_answer() {
        let (socket, addr) = udp_socket().await;
        let server = async move {
            let mut bytes = [0; 64];
            while let Ok((len, peer)) = socket.recv_from(&mut bytes).await {
                if bytes[..len] == *b"ping" {
                    socket.send_to(b"+pong", peer).await.ok();
                }
            }
        };
        tokio::spawn(server);
        let health = HealthHandle::spawn();
        let check = |request, response| {
            health.apply(&[pool(addr, &["m"])], &[udp_monitor(request, response)]);
        };
        check("ping", "pong");
        wait_for(&health, OperState::Up).await;
        check("ping", "ready");
        let down = wait_for(&health, OperState::Down).await;
        assert_eq!(down.reason, Failure::PayloadContentMismatch.to_string());
        check("ping", "pong");
        wait_for(&health, OperState::Up).await;
        check("hello", "pong");
        let down = wait_for(&health, OperState::Down).await;
        assert_eq!(down.reason, Failure::PayloadTimeout.to_string());
    }

    #[tokio::test]
    async fn a_pool_without_monitors_is_up_and_one_that_is_disabled_says_so() {
        let addr = "127.0.0.1:9".parse().expect("addr");
        let health = HealthHandle::spawn();
        health.apply(&[pool(addr, &[])], &[]);
        wait_for(&health, OperState::Up).await;
        let mut disabled = pool(addr, &[]);
        disabled.enabled = false;
        health.apply(&[disabled], &[]);
        wait_for(&health, OperState::Disabled).await;
    }

    #[tokio::test]
    async fn applying_the_same_again_keeps_what_is_known() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let addr = listener.local_addr().expect("addr");
        let health = HealthHandle::spawn();
        health.apply(&[pool(addr, &["m"])], &[monitor("")]);
        wait_for(&health, OperState::Up).await;
        health.apply(&[pool(addr, &["m"])], &[monitor("")]);
        assert_eq!(
            health.snapshot().borrow().pools["p"][0].state,
            OperState::Up
        );
    }
}
