//! The shell around the health machines: one task per server and monitor probes it (`probe`).
//!
//! [`HealthHandle`] owns the tasks; a task owns its [`health::Check`] and ends when it is aborted, which may happen
//! at any await: a probe's socket is closed by dropping it. Results meet in one table, from which a snapshot is
//! published whenever a state changes.

mod half_open;
mod monitors;
mod probe;
mod tls;

pub use monitors::{MonitorHealth, Monitors, ResponseTimes};

use health::{Check, Failure, State, Timing, combine, quorum};
use probe::probe;
use proto::v1::{HealthMonitor, OperState, Pool};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// What is known of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerHealth {
    /// Where it listens.
    pub addr: SocketAddr,
    /// UP, DOWN, INITIALIZING, or DISABLED by configuration.
    pub state: OperState,
    /// Why it is down.
    pub failure: Option<Failure>,
    /// How long the last good check took.
    pub response_time_ms: u32,
}

impl ServerHealth {
    /// Why it is down, as a sentence; empty when it is not.
    pub fn reason(&self) -> String {
        self.failure.map(|f| f.to_string()).unwrap_or_default()
    }

    /// It takes no new connections because it says so itself; those that it has go on.
    pub fn is_in_maintenance(&self) -> bool {
        self.failure.is_some_and(Failure::is_maintenance)
    }
}

/// The servers of every pool, in the pool's order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthSnapshot {
    /// By uuid of the pool.
    pub pools: BTreeMap<String, Vec<ServerHealth>>,
}

impl HealthSnapshot {
    /// Of this pool; none where nothing is known of it.
    pub fn servers(&self, pool: &str) -> &[ServerHealth] {
        self.pools.get(pool).map_or(&[], Vec::as_slice)
    }
}

/// A server under a monitor: what a task probes.
type Key = (String, SocketAddr, String);

#[derive(Clone)]
struct Result {
    state: State,
    failure: Option<Failure>,
    /// A check has ended; before that the state is what it was.
    has_looked: bool,
    /// Of checks that passed; none has yet.
    times: Option<ResponseTimes>,
}

struct Probe {
    /// One that takes the place of another is none of that one's task.
    number: u64,
    monitor: HealthMonitor,
    task: AbortHandle,
    result: Result,
}

#[derive(Default)]
struct Table {
    pools: Vec<Pool>,
    probes: BTreeMap<Key, Probe>,
    /// Probes that were started.
    started: u64,
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

    /// What each monitor says by itself, for whoever asks. A change of that alone is told to nobody.
    pub fn monitors(&self) -> Monitors {
        Monitors::new(self.table.clone())
    }

    /// The whole desired state; a server whose monitor has not changed keeps its state and its timers, and one that is up stays
    /// it until a new monitor has looked.
    pub fn apply(&self, pools: &[Pool], monitors: &[HealthMonitor]) {
        let mut table = lock(&self.table);
        let wanted = wanted(pools, monitors);
        let up = up(&table);
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
            let state = match up.contains(&(key.0.clone(), key.1)) {
                true => State::Up,
                false => State::Initializing,
            };
            table.started += 1;
            let number = table.started;
            let entry = table.probes.entry(key);
            entry.or_insert_with(|| start((probed, number), (monitor, state), shared));
        }
        table.pools = pools.to_vec();
        publish(&table, &self.snapshot);
    }
}

/// Servers that take traffic, by uuid of the pool.
fn up(table: &Table) -> BTreeSet<(String, SocketAddr)> {
    let up = |pool: &Pool| {
        let servers = servers(table, pool).into_iter();
        let up = servers.filter(|s| s.state == OperState::Up);
        up.map(|s| (pool.uuid.clone(), s.addr)).collect::<Vec<_>>()
    };
    table.pools.iter().flat_map(up).collect()
}

/// `state`: until the first probe has ended.
fn start(
    (key, number): (Key, u64),
    (monitor, state): (HealthMonitor, State),
    shared: Shared,
) -> Probe {
    let check = Check::new(timing(&monitor), Instant::now(), state);
    let task = watch_server((key, number), check, monitor.clone(), shared);
    let task = tokio::spawn(task);
    let result = Result {
        state,
        failure: None,
        has_looked: false,
        times: None,
    };
    Probe {
        number,
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
async fn watch_server(
    (key, number): (Key, u64),
    mut check: Check,
    monitor: HealthMonitor,
    shared: Shared,
) {
    // The first probe is made at once; later ones are spread by where in the interval the server happens to start.
    loop {
        if let Some(due) = check.deadline() {
            tokio::time::sleep_until(due.into()).await;
        }
        let started = Instant::now();
        if !check.start(started) {
            continue;
        }
        let probed = probe(key.1, &monitor).await;
        let now = Instant::now();
        check.finished(started, now, probed.outcome);
        let took = probed.outcome.is_ok().then(|| now - started);
        if !note((&key, number), &check, took, &shared) {
            return;
        }
        probed.close().await;
    }
}

/// Puts what a check says now into the table, and how long a good one took. False when nobody wants to know any more.
fn note(
    (key, number): (&Key, u64),
    check: &Check,
    took: Option<Duration>,
    (table, snapshot): &Shared,
) -> bool {
    let mut table = lock(table);
    let probe = table.probes.get_mut(key);
    let Some(probe) = probe.filter(|probe| probe.number == number) else {
        return false;
    };
    probe.result.state = check.state();
    probe.result.failure = check.failure();
    probe.result.has_looked = true;
    if let Some(took) = took {
        probe.result.times = Some(ResponseTimes::then(probe.result.times, took));
    }
    publish(&table, snapshot);
    true
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
                    .map(move |h| (p.clone(), h.addr, h.state, h.failure))
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
        let probes = probes(table, &pool.uuid, addr);
        let results: Vec<_> = probes.map(|(_, p)| &p.result).collect();
        server(addr, enabled, &results, min_up(pool))
    })
    .collect()
}

/// Those of a server, in the order of their monitors' uuids.
fn probes<'a>(
    table: &'a Table,
    pool: &'a str,
    addr: SocketAddr,
) -> impl Iterator<Item = (&'a Key, &'a Probe)> {
    let first = (pool.to_owned(), addr, String::new());
    let from_there = table.probes.range(first..);
    from_there.take_while(move |(key, _)| key.0 == pool && key.1 == addr)
}

/// Monitors that must pass; `None` = all.
fn min_up(pool: &Pool) -> Option<usize> {
    let least = usize::try_from(pool.min_health_monitors_up).ok();
    least.filter(|least| *least > 0)
}

/// The state of a pool: `min_servers_up` of its servers must be up, one at least.
pub(crate) fn pool_state(pool: &Pool, servers: &[ServerHealth]) -> State {
    let states = servers.iter().map(|s| match s.state {
        OperState::Up => State::Up,
        OperState::Initializing => State::Initializing,
        OperState::Down | OperState::Disabled | OperState::Unspecified => State::Down,
    });
    let needed = usize::try_from(pool.min_servers_up).unwrap_or(usize::MAX);
    quorum(states, needed.max(1))
}

fn server(
    addr: SocketAddr,
    enabled: bool,
    results: &[&Result],
    min_up: Option<usize>,
) -> ServerHealth {
    let state = match combine(results.iter().map(|r| r.state), min_up) {
        _ if !enabled => OperState::Disabled,
        State::Up => OperState::Up,
        State::Down => OperState::Down,
        State::Initializing => OperState::Initializing,
    };
    ServerHealth {
        addr,
        state,
        failure: worst_failure(results).filter(|_| state == OperState::Down),
        response_time_ms: results
            .iter()
            .filter_map(|r| r.times)
            .map(ResponseTimes::recent_ms)
            .max()
            .unwrap_or(0),
    }
}

/// Of those that take the server down; maintenance only when there is nothing else.
fn worst_failure(results: &[&Result]) -> Option<Failure> {
    let down = results.iter().filter(|r| r.state == State::Down);
    down.filter_map(|r| r.failure)
        .min_by_key(|f| f.is_maintenance())
}

#[cfg(test)]
mod tests;
