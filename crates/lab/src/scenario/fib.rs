//! The router's kernel FIB, watched: every change of a route with the time it was noticed. Where the VIP is on the router's own
//! link, its neighbour entry is watched in the same way, and the next hop is the engine that has the MAC address in it.
//!
//! `ip monitor` wakes the watcher at each change; it then asks the kernel for the whole route, so what is
//! kept is the FIB itself and not a sum of events. Without an event it asks all the same, now and then.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::io::BufReader;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Asked anew after so long without an event: a lost event costs this much, not the measurement.
const ASK_INTERVAL: Duration = Duration::from_millis(50);

/// Next hops of a route.
pub type NextHops = BTreeSet<IpAddr>;

/// The route as it was from some moment on.
#[derive(Debug, Clone)]
pub struct Change {
    /// When the change was noticed.
    pub at: Instant,
    /// Next hops since.
    pub next_hops: NextHops,
}

/// What brings packets for a VIP to an engine.
#[derive(Debug, Clone)]
pub enum Way {
    /// A host route.
    Route,
    /// A neighbour entry, whose MAC address is one of these engines'.
    Neighbour(Engines),
}

/// Addresses of engines by MAC address; it changes when a host comes back.
pub type Engines = Arc<Mutex<BTreeMap<String, IpAddr>>>;

impl Way {
    /// What of it changes, in the word of `ip monitor`.
    fn object(&self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Neighbour(_) => "neigh",
        }
    }

    fn ask(&self, vip: IpAddr) -> Result<NextHops> {
        match self {
            Self::Route => ask(&[], vip),
            Self::Neighbour(engines) => {
                let engines = engines.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(parse_neighbours(
                    &ip(&["neigh", "show", &vip.to_string()])?,
                    &engines,
                ))
            }
        }
    }
}

/// A watched route, or what stands for it.
pub struct Watch {
    shared: Arc<Shared>,
    monitor: Child,
}

#[derive(Default)]
struct Shared {
    changes: Mutex<Vec<Change>>,
    news: Condvar,
}

impl Watch {
    /// Begins to watch the way of `vip` in a namespace.
    pub fn start(namespace: &str, vip: IpAddr, way: Way) -> Result<Self> {
        let mut monitor = Command::new("ip")
            .args(["-n", namespace, "-o", "monitor", way.object()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start ip monitor")?;
        let lines = BufReader::new(monitor.stdout.take().expect("stdout is piped"));
        let (sender, events) = channel();
        // Ends with the monitor's output.
        std::thread::spawn(move || {
            lines
                .lines()
                .map_while(Result::ok)
                .try_for_each(|_| sender.send(()))
        });
        let shared = Arc::new(Shared::default());
        let (namespace, keeper) = (namespace.to_owned(), Arc::clone(&shared));
        // Ends when the events end. It lives in the namespace, so that asking is one plain `ip`.
        std::thread::spawn(move || keeper.keep(&namespace, vip, &way, &events));
        Ok(Self { shared, monitor })
    }

    /// The route now, or as it was noticed last.
    pub fn now(&self) -> NextHops {
        let changes = self
            .shared
            .changes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        changes
            .last()
            .map(|c| c.next_hops.clone())
            .unwrap_or_default()
    }

    /// How often the route has changed since `since`.
    pub fn changes_since(&self, since: Instant) -> usize {
        let changes = self.shared.changes.lock();
        let changes = changes.unwrap_or_else(PoisonError::into_inner);
        changes.iter().filter(|c| c.at > since).count()
    }

    /// Waits until the route fulfils a condition at some moment since `since`; that moment.
    pub fn wait(
        &self,
        since: Instant,
        timeout: Duration,
        condition: impl Fn(&NextHops) -> bool,
    ) -> Option<Instant> {
        let until = Instant::now() + timeout;
        let mut changes = self
            .shared
            .changes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(at) = moment(&changes, since, &condition) {
                return Some(at);
            }
            let left = until.checked_duration_since(Instant::now())?;
            let waited = self.shared.news.wait_timeout(changes, left);
            changes = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The first moment since `since` at which the condition held.
fn moment(
    changes: &[Change],
    since: Instant,
    condition: &impl Fn(&NextHops) -> bool,
) -> Option<Instant> {
    let later = changes.partition_point(|c| c.at <= since);
    let before = changes[..later].last().map(|c| Change {
        at: since,
        ..c.clone()
    });
    let hit = before
        .iter()
        .chain(&changes[later..])
        .find(|c| condition(&c.next_hops));
    hit.map(|c| c.at)
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.monitor.kill().ok();
        self.monitor.wait().ok();
    }
}

impl Shared {
    fn keep(&self, namespace: &str, vip: IpAddr, way: &Way, events: &Receiver<()>) {
        if client::enter_namespace(namespace).is_err() {
            return;
        }
        loop {
            self.note(way.ask(vip).unwrap_or_default());
            match events.recv_timeout(ASK_INTERVAL) {
                // One question answers all events that are in by now.
                Ok(()) => while events.try_recv().is_ok() {},
                Err(RecvTimeoutError::Timeout) => (),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn note(&self, next_hops: NextHops) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if changes.last().map(|c| &c.next_hops) != Some(&next_hops) {
            changes.push(Change {
                at: Instant::now(),
                next_hops,
            });
            self.news.notify_all();
        }
    }
}

/// Next hops of the host route of `vip` in a namespace's kernel.
pub fn next_hops(namespace: &str, vip: IpAddr) -> Result<NextHops> {
    ask(&["-n", namespace], vip)
}

fn ask(place: &[&str], vip: IpAddr) -> Result<NextHops> {
    let (family, length) = if vip.is_ipv4() {
        ("-4", 32)
    } else {
        ("-6", 128)
    };
    let prefix = format!("{vip}/{length}");
    Ok(parse(&ip(
        &[place, &[family, "route", "show", &prefix]].concat()
    )?))
}

fn ip(arguments: &[&str]) -> Result<Value> {
    let output = Command::new("ip")
        .arg("-j")
        .args(arguments)
        .output()
        .context("start ip")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
}

/// The engine whose MAC address an entry has; a MAC address that is no engine's is no next hop.
fn parse_neighbours(entries: &Value, engines: &BTreeMap<String, IpAddr>) -> NextHops {
    let entries = entries.as_array().into_iter().flatten();
    let macs = entries.filter_map(|entry| entry["lladdr"].as_str());
    macs.filter_map(|mac| engines.get(mac).copied()).collect()
}

/// One next hop stands in the route itself, several in `nexthops`.
fn parse(routes: &Value) -> NextHops {
    let routes = routes.as_array().into_iter().flatten();
    let gateways = routes.flat_map(|route| {
        let several = route["nexthops"].as_array().into_iter().flatten();
        several
            .chain([route])
            .filter_map(|hop| hop["gateway"].as_str()?.parse().ok())
            .collect::<Vec<IpAddr>>()
    });
    gateways.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn hops(last: &[u8]) -> NextHops {
        last.iter()
            .map(|l| IpAddr::from([10, 10, 10, *l]))
            .collect()
    }

    #[test]
    fn one_and_several_next_hops_are_read() {
        assert_eq!(
            parse(&json!([{ "dst": "10.100.0.1", "gateway": "10.10.10.11" }])),
            hops(&[11])
        );
        let several = json!([{ "dst": "10.100.0.1", "nexthops": [{ "gateway": "10.10.10.11" }, { "gateway": "10.10.10.12" }] }]);
        assert_eq!(parse(&several), hops(&[11, 12]));
        assert_eq!(parse(&json!([])), hops(&[]));
    }

    #[test]
    fn a_neighbour_entry_names_the_engine_that_has_its_mac_address() {
        let engines = BTreeMap::from([(
            "02:00:00:00:00:0b".to_owned(),
            IpAddr::from([10, 10, 10, 11]),
        )]);
        let entry = |mac: &str| json!([{ "dst": "10.10.10.100", "dev": "eth1", "lladdr": mac, "state": ["REACHABLE"] }]);
        assert_eq!(
            parse_neighbours(&entry("02:00:00:00:00:0b"), &engines),
            hops(&[11])
        );
        assert_eq!(
            parse_neighbours(&entry("02:00:00:00:00:ff"), &engines),
            hops(&[])
        );
        let unresolved = json!([{ "dst": "10.10.10.100", "dev": "eth1", "state": ["INCOMPLETE"] }]);
        assert_eq!(parse_neighbours(&unresolved, &engines), hops(&[]));
    }

    #[test]
    fn a_moment_is_the_first_that_fits_since_the_call() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let changes = [(0, &[11][..]), (10, &[11, 12]), (20, &[11, 12, 13])];
        let changes: Vec<_> = changes
            .iter()
            .map(|(ms, h)| Change {
                at: at(*ms),
                next_hops: hops(h),
            })
            .collect();
        assert_eq!(
            moment(&changes, at(5), &|h: &NextHops| h.len() >= 2),
            Some(at(10))
        );
        assert_eq!(
            moment(&changes, at(15), &|h: &NextHops| h.len() == 2),
            Some(at(15))
        );
        assert_eq!(moment(&changes, at(15), &|h: &NextHops| h.len() == 1), None);
    }
}
