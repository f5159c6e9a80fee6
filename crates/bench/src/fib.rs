//! The router's kernel FIB, watched through the kernel's own messages.

use crate::speaker::Block;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Nothing that is measured here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Messages of a burst follow each other faster.
const SILENCE: Duration = Duration::from_millis(20);

/// Where every VIP of a measurement is.
const VIPS: &str = "10.99.0.0/16";

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

    /// How many messages about a VIP's route there were since the last look. Routes in tables of their own are no router's.
    pub(crate) fn changes(&self, vip: Ipv4Addr) -> usize {
        let vip = vip.to_string();
        let about = |event: &Event| {
            let mut words = event.line.split_whitespace();
            words.any(|w| w == vip) && !event.line.contains(" table ")
        };
        self.events.try_iter().filter(about).count()
    }

    /// When the kernel's messages have shown every VIP with `width` next hops; 0 = gone. When the messages fall silent
    /// too early, some were lost in a burst: the FIB is looked at, and the moment of that look stands.
    pub(crate) fn until(&self, vips: Block, width: usize) -> Result<Instant> {
        let mut missing: BTreeSet<Ipv4Addr> = vips.vips().collect();
        let deadline = Instant::now() + PATIENCE;
        let mut seen = false;
        while Instant::now() < deadline {
            match self.events.recv_timeout(SILENCE) {
                Ok(event) => {
                    seen |= note(&mut missing, &event.line, width);
                    if missing.is_empty() {
                        return Ok(event.at);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => bail!("ip monitor has ended"),
                Err(RecvTimeoutError::Timeout) => {
                    let at = Instant::now();
                    if seen && self.holds(vips, width)? {
                        return Ok(at);
                    }
                }
            }
        }
        let (left, all) = (missing.len(), vips.count);
        bail!(
            "{left} of {all} routes from {} without {width} next hops after {PATIENCE:?}",
            vips.first
        )
    }

    /// Whether every VIP has `width` next hops now; 0 = is not there.
    fn holds(&self, vips: Block, width: usize) -> Result<bool> {
        let widths = self.widths()?;
        Ok(vips
            .vips()
            .all(|vip| widths.get(&vip).copied().unwrap_or(0) == width))
    }

    /// Waits, without measuring.
    pub(crate) fn await_state(&self, vips: Block, width: usize) -> Result<()> {
        let what = format!(
            "{} routes from {} with {width} next hops",
            vips.count, vips.first
        );
        wait_for(&what, || self.holds(vips, width))
    }

    /// Host routes with their number of next hops.
    fn widths(&self) -> Result<BTreeMap<Ipv4Addr, usize>> {
        let command = [
            "ip",
            "-n",
            &self.namespace,
            "-j",
            "route",
            "show",
            "root",
            VIPS,
        ];
        let routes: Vec<serde_json::Value> = serde_json::from_str(&super::net::run(&command)?)?;
        let width = |route: &serde_json::Value| route["nexthops"].as_array().map_or(1, Vec::len);
        let vip = |route: &serde_json::Value| route["dst"].as_str()?.parse().ok();
        Ok(routes
            .iter()
            .filter_map(|r| Some((vip(r)?, width(r))))
            .collect())
    }
}

/// Takes the message's VIP off those that miss the width; whether it did.
fn note(missing: &mut BTreeSet<Ipv4Addr>, line: &str, width: usize) -> bool {
    let Some(vip) = line
        .split_whitespace()
        .take(3)
        .find_map(|word| word.parse().ok())
    else {
        return false;
    };
    let hops = line
        .split_whitespace()
        .filter(|word| *word == "via")
        .count();
    let shown = if line.starts_with("Deleted ") {
        0
    } else {
        hops
    };
    shown == width && missing.remove(&vip)
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
