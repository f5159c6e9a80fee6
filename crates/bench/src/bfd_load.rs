//! Sixty-four BFD sessions of one engine: do they hold, and what does their thread cost.

use crate::Amount;
use crate::fib::wait_for;
use crate::net::{Network, run as command};
use crate::report::{Bar, Figures, Measured};
use anyhow::{Context, Result, ensure};
use engine::bfd::{BfdConfig, BfdKey, BfdMonitor, BfdSpeaker};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SESSIONS: usize = 64;

/// With every core busy; what else runs on the machine waits.
const BUSY_SECONDS: u64 = 60;

#[derive(Debug, clap::Args)]
pub(crate) struct EndArgs {
    /// Last part of our addresses.
    ours: u8,
    /// Last part of the peers' addresses.
    theirs: u8,
    /// Interval in milliseconds, times three.
    ms: u64,
    /// How long to watch; 0 = until the process is killed.
    seconds: u64,
}

/// What one end has seen.
#[derive(Debug, Serialize, Deserialize)]
struct Seen {
    flaps: u64,
    /// CPU time of the BFD thread by elapsed time, in percent.
    cpu_percent: f64,
    packets: u64,
}

pub(crate) fn run(amount: Amount) -> Result<Vec<Measured>> {
    let seconds = amount.bfd_seconds();
    cli::note!("{SESSIONS} BFD sessions, {seconds} s idle, {BUSY_SECONDS} s with every core busy");
    // A machine that stood still shows up as a flap: a short run, which must not fail for it, looks again.
    let tries = if amount.short { 3 } else { 1 };
    let idle = steady(tries, || measure(50, seconds, false))?;
    let busy = steady(tries, || measure(100, BUSY_SECONDS, true))?;
    let row = |what: String, unit, value: f64, bar: Bar| Measured {
        what,
        router: "-".to_owned(),
        unit,
        evenkeel: Figures::new(vec![value]),
        bird: None,
        bar,
    };
    Ok(vec![
        row(
            format!("{SESSIONS} BFD sessions 50 ms x 3, {seconds} s: flaps"),
            "flaps",
            idle.flaps as f64,
            Bar::max(0.0).in_short_runs(),
        ),
        row(
            format!("{SESSIONS} BFD sessions 50 ms x 3: thread's CPU"),
            "% of a core",
            idle.cpu_percent,
            Bar::max(5.0),
        ),
        row(
            format!("{SESSIONS} BFD sessions 100 ms x 3, every core busy, {BUSY_SECONDS} s: flaps"),
            "flaps",
            busy.flaps as f64,
            Bar::max(0.0).in_short_runs(),
        ),
    ])
}

/// The first measurement without a flap, or the last one.
fn steady(tries: usize, measure: impl Fn() -> Result<Seen>) -> Result<Seen> {
    let mut seen = measure()?;
    for _ in 1..tries {
        if seen.flaps == 0 {
            break;
        }
        cli::note!("{} flaps: once more", seen.flaps);
        seen = measure()?;
    }
    Ok(seen)
}

fn measure(ms: u64, seconds: u64, busy: bool) -> Result<Seen> {
    let network = Network::new(1)?;
    for (node, host) in [("rt", 1), ("se1", 2)] {
        for n in 0..SESSIONS {
            let address = format!("2001:db8:64:{n:x}::{host}/64");
            command(&[
                "ip",
                "-n",
                &network.namespace(node),
                "address",
                "add",
                &address,
                "dev",
                "eth0",
                "nodad",
            ])?;
        }
    }
    let _far = Killed(end(&network, "rt", [1, 2], ms, 0)?);
    let mut near = end(&network, "se1", [2, 1], ms, seconds)?;
    let output = near.stdout.take().context("stdout is piped")?;
    let near = Killed(near);
    let mut lines = BufReader::new(output).lines();
    let ready = lines.next().context("the BFD end has ended")??;
    ensure!(ready == "up", "the BFD end says {ready:?}");
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let _load: Vec<Killed> = (0..if busy { cores } else { 0 })
        .map(|_| spin())
        .collect::<Result<_>>()?;
    let seen = lines.next().context("the BFD end has ended")??;
    drop(near);
    serde_json::from_str(&seen).context("what the BFD end has seen")
}

/// Ends with the value.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that keeps a core busy.
fn spin() -> Result<Killed> {
    Ok(Killed(
        Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .spawn()?,
    ))
}

fn end(
    network: &Network,
    node: &str,
    [ours, theirs]: [u8; 2],
    ms: u64,
    seconds: u64,
) -> Result<Child> {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", &network.namespace(node)])
        .arg(std::env::current_exe()?);
    command.args([
        "bfd-end",
        &ours.to_string(),
        &theirs.to_string(),
        &ms.to_string(),
        &seconds.to_string(),
    ]);
    command.stdout(Stdio::piped()).stdin(Stdio::null());
    command.spawn().context("start a BFD end")
}

/// One end, in its namespace.
pub(crate) fn run_end(args: &EndArgs) -> Result<()> {
    let (bfd, _events) = BfdSpeaker::spawn()?;
    bfd.apply(sessions(args)?);
    let monitor = bfd.monitor();
    if args.seconds == 0 {
        loop {
            std::thread::park();
        }
    }
    let up = || monitor.status().iter().filter(|s| s.state == "up").count();
    wait_for("all BFD sessions to be up", || Ok(up() == SESSIONS))?;
    cli::out!("up");
    let seen = watch(&monitor, Duration::from_secs(args.seconds));
    cli::out!("{}", serde_json::to_string(&seen)?);
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the time is what is measured over"
)]
fn watch(monitor: &BfdMonitor, time: Duration) -> Seen {
    let total =
        |of: fn(&proto::v1::BfdSession) -> u64| monitor.status().iter().map(of).sum::<u64>();
    let (downs, packets) = (total(|s| s.times_down), total(|s| s.packets_in));
    let (cpu, start) = (monitor.thread_cpu_time(), Instant::now());
    std::thread::sleep(time);
    let cpu = monitor.thread_cpu_time() - cpu;
    Seen {
        flaps: total(|s| s.times_down) - downs,
        cpu_percent: cpu.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0,
        packets: total(|s| s.packets_in) - packets,
    }
}

fn sessions(args: &EndArgs) -> Result<BTreeMap<BfdKey, BfdConfig>> {
    let session = |n: usize| {
        let address = |host: u8| {
            format!("2001:db8:64:{n:x}::{host}")
                .parse()
                .context("an address")
        };
        Ok((
            key(address(args.ours)?, address(args.theirs)?),
            timers(args.ms),
        ))
    };
    (0..SESSIONS).map(session).collect()
}

fn key(local: IpAddr, peer: IpAddr) -> BfdKey {
    BfdKey {
        peer,
        local,
        interface: "eth0".to_owned(),
        multihop: false,
    }
}

fn timers(ms: u64) -> BfdConfig {
    BfdConfig {
        min_tx: Duration::from_millis(ms),
        min_rx: Duration::from_millis(ms),
        multiplier: 3,
        min_ttl: 0,
    }
}
