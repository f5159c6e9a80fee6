//! The router's kernel FIB, watched through the kernel's own messages.

use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Nothing that is measured here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A message of the kernel about a route, with the time at which it was read.
struct Event {
    at: Instant,
    line: String,
}

/// Watches from its start on.
pub(crate) struct Fib {
    namespace: String,
    monitor: Child,
    events: Receiver<Event>,
}

impl Fib {
    pub(crate) fn watch(namespace: &str) -> Result<Self> {
        let mut monitor = Command::new("ip")
            .args(["-n", namespace, "-o", "monitor", "route"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start ip monitor")?;
        let lines = BufReader::new(monitor.stdout.take().context("stdout is piped")?);
        let (sender, events) = channel();
        // Ends with the monitor's output.
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let at = Instant::now();
                if sender.send(Event { at, line }).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            namespace: namespace.to_owned(),
            monitor,
            events,
        })
    }

    /// Forgets what has happened so far.
    pub(crate) fn drain(&self) {
        while self.events.try_recv().is_ok() {}
    }

    /// When the route of this VIP came (`present`) or went.
    pub(crate) fn until(&self, vip: &str, present: bool) -> Result<Instant> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self
                .events
                .recv_timeout(left.min(Duration::from_millis(200)))
            {
                Ok(event) if concerns(&event.line, vip) && deleted(&event.line) != present => {
                    return Ok(event.at);
                }
                Ok(_) => {}
                // An event may have come before the watch: the FIB itself decides.
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    bail!("route to {vip} present={present}: not within {PATIENCE:?}")
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("ip monitor has ended"),
            }
        }
    }

    /// Whether the route is there now.
    pub(crate) fn has(&self, vip: &str) -> Result<bool> {
        Ok(!super::net::run(&["ip", "-n", &self.namespace, "route", "show", vip])?.is_empty())
    }

    /// Waits, without measuring.
    pub(crate) fn await_state(&self, vip: &str, present: bool) -> Result<()> {
        let what = format!("route to {vip} present={present}");
        wait_for(&what, || Ok(self.has(vip)? == present))
    }

    /// Host routes below 10.99.0.0/16 with their number of next hops.
    pub(crate) fn widths(&self) -> Result<BTreeMap<String, usize>> {
        let text = super::net::run(&[
            "ip",
            "-n",
            &self.namespace,
            "-j",
            "route",
            "show",
            "root",
            "10.99.0.0/16",
        ])?;
        let routes: Vec<serde_json::Value> = serde_json::from_str(&text)?;
        let width = |route: &serde_json::Value| route["nexthops"].as_array().map_or(1, Vec::len);
        let of = |route: &serde_json::Value| {
            (
                route["dst"].as_str().unwrap_or_default().to_owned(),
                width(route),
            )
        };
        Ok(routes.iter().map(of).collect())
    }

    /// When the last of `count` VIPs had come (`present`) or gone, counted in the kernel's messages. When those fall
    /// silent too early, some were lost in a burst: the FIB is counted, and the moment of that count stands.
    pub(crate) fn until_count(&self, count: usize, present: bool) -> Result<Instant> {
        let mut seen = BTreeSet::new();
        let deadline = Instant::now() + PATIENCE;
        let wanted = if present { count } else { 0 };
        while Instant::now() < deadline {
            let event = match self.events.recv_timeout(Duration::from_millis(20)) {
                Ok(event) => event,
                Err(RecvTimeoutError::Disconnected) => bail!("ip monitor has ended"),
                Err(RecvTimeoutError::Timeout) => {
                    let at = Instant::now();
                    if !seen.is_empty() && self.widths()?.len() == wanted {
                        return Ok(at);
                    }
                    continue;
                }
            };
            let vip = event
                .line
                .split_whitespace()
                .find(|word| word.starts_with("10.99."));
            if let Some(vip) = vip.filter(|_| deleted(&event.line) != present) {
                seen.insert(vip.to_owned());
            }
            if seen.len() >= count {
                return Ok(event.at);
            }
        }
        bail!(
            "{} of {count} routes present={present} after {PATIENCE:?}",
            seen.len()
        )
    }
}

fn deleted(line: &str) -> bool {
    line.starts_with("Deleted ")
}

fn concerns(line: &str, vip: &str) -> bool {
    line.split_whitespace().take(3).any(|word| word == vip)
}

/// Until it holds, looked at every 20 ms; an error names what did not.
#[expect(
    clippy::disallowed_methods,
    reason = "the pause of waiting for a condition"
)]
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        if Instant::now() > deadline {
            bail!("{what}: not within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

impl Drop for Fib {
    fn drop(&mut self) {
        // It may have ended with its namespace.
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
    }
}
