//! The document's two ways of scaling, with the same load on the same five engines: natively, where a primary gets every packet
//! and passes most of them on, with answers that leave directly or through it, and by BGP, where the router spreads them. Its claim
//! is that the second "avoids the managerial overhead placed upon the primary SE"; here it is in processor time.
//!
//! An engine's processor time is that of its process and of the kernel thread that takes the packets of its interface on the
//! LAN (threaded NAPI): on one host all engines share processors, and nothing else tells whose packets a soft interrupt is about.

use crate::report::Figures;
use anyhow::{Context, Result, ensure};
use cli::output::Format;
use cli::output::table::{self, Column, Row};
use lab::member::traffic::Report;
use lab::process::wait_for;
use lab::record::Record;
use lab::scenario::helper::Helper;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

/// The document's limit.
const ENGINES: usize = 5;
const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Args {
    /// Measurements of each way, one after the other in turn.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Seconds of each.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Connections per second.
    #[arg(long, default_value_t = 500)]
    per_s: u32,
    /// One run of each, of 3 s: it runs, and its figures are not worth quoting.
    #[arg(long)]
    short: bool,
}

/// A way of scaling, and its virtual service in the topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Method {
    Native,
    /// Answers go through the primary.
    ByPrimary,
    Bgp,
}

impl Method {
    const ALL: [Self; 3] = [Self::Native, Self::ByPrimary, Self::Bgp];

    fn service(self) -> &'static str {
        match self {
            Self::Native | Self::ByPrimary => "vs-1",
            Self::Bgp => "vs-bgp",
        }
    }

    /// As the topology has it.
    fn vip(self) -> &'static str {
        match self {
            Self::Native | Self::ByPrimary => "10.10.10.100",
            Self::Bgp => "10.100.0.1",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Native => "natively",
            Self::ByPrimary => "natively, answers by the primary",
            Self::Bgp => "by BGP",
        }
    }

    /// `se_tunnel_mode` of the SE group.
    fn tunnel_mode(self) -> u32 {
        match self {
            Self::ByPrimary => 1,
            Self::Native | Self::Bgp => 0,
        }
    }
}

/// Of one way, over all runs.
#[derive(Debug, Serialize)]
struct Measured {
    method: Method,
    connections: u64,
    /// Share of the connections that the first engine served, in percent; natively it is the primary.
    first_share: Figures,
    /// Of the one that served the fewest, and the most.
    least_share: Figures,
    most_share: Figures,
    /// Packets that came in at the first engine's interface, per connection of the whole service.
    first_packets: Figures,
    /// Processor time of the first engine, microseconds per connection of the whole service.
    first_us: Figures,
    /// The median of the others.
    other_us: Figures,
    /// Of all engines together.
    all_us: Figures,
}

impl Row for Measured {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("SCALED", |r| r.method.words().into()),
        Column::new("CONNECTIONS", |r| r.connections.to_string()),
        Column::new("FIRST SE'S SHARE %", |r| one(&r.first_share)),
        Column::new("SHARES %", |r| {
            format!("{}-{}", one(&r.least_share), one(&r.most_share))
        }),
        Column::new("PACKETS TO FIRST SE", |r| one(&r.first_packets)),
        Column::new("CPU FIRST SE µs", |r| one(&r.first_us)),
        Column::new("CPU ANOTHER µs", |r| one(&r.other_us)),
        Column::new("CPU ALL SES µs", |r| one(&r.all_us)),
    ];
}

fn one(figures: &Figures) -> String {
    format!("{:.1}", figures.median)
}

/// Measures and prints; fails when a connection failed, or an engine got none.
pub(crate) fn show(args: Args, output: Format) -> Result<()> {
    let (runs, seconds) = if args.short {
        (1, 3)
    } else {
        (args.runs, args.seconds)
    };
    evenkeel(&["lab", "up", "native"])?;
    let record = Record::current()?;
    let measured = Bench::prepare(&record).and_then(|bench| bench.run(runs, seconds, args.per_s));
    evenkeel(&["lab", "down", "--run", &record.id])?;
    let measured = measured?;
    table::print(&measured, output);
    Ok(())
}

struct Bench<'a> {
    record: &'a Record,
    /// By name of the engine.
    engines: BTreeMap<String, Engine>,
}

#[derive(Debug, Clone, Copy)]
struct Engine {
    address: IpAddr,
    process: i32,
    /// The kernel's thread for its interface on the LAN.
    napi: i32,
}

/// What an engine has used and got so far.
#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    cpu_ns: u64,
    packets: u64,
}

/// One measurement, per connection of the service.
struct Taken {
    connections: u64,
    /// By engine: share in percent, packets, microseconds.
    engines: BTreeMap<String, (f64, f64, f64)>,
}

impl<'a> Bench<'a> {
    /// Both services on the same five engines, and a thread for each interface.
    fn prepare(record: &'a Record) -> Result<Self> {
        for method in [Method::Native, Method::Bgp] {
            for number in 2..=ENGINES {
                let se = format!("se-{number}");
                evenkeel(&[
                    "scaleout",
                    "virtualservice",
                    method.service(),
                    "--to-se",
                    &se,
                ])?;
            }
        }
        let (_, topology) = record.topology()?;
        let mut engines = BTreeMap::new();
        for number in 1..=ENGINES {
            let name = format!("se-{number}");
            let node = topology.node(&name)?;
            let link = node.links.iter().find(|l| l.segment == "server");
            let address = link.and_then(|l| l.ips().next()).context("no address")?;
            let member = record.member(&name, "engine").context("no engine")?;
            let engine = Engine {
                address,
                process: member.identity.pid,
                napi: threaded(record, &name)?,
            };
            engines.insert(name, engine);
        }
        // Ports of connections that have just ended are needed again.
        inside(record, "far", "sysctl -qw net.ipv4.tcp_max_tw_buckets=20")?;
        let bench = Self { record, engines };
        bench.settle()?;
        Ok(bench)
    }

    /// Until each engine has served a connection of either service.
    fn settle(&self) -> Result<()> {
        for method in [Method::Native, Method::Bgp] {
            let all = wait_for(TIMEOUT, || {
                let report = self.load(method, 1, 200);
                report.is_ok_and(|r| r.engines.len() == ENGINES && r.short_failed == 0)
            });
            ensure!(
                all,
                "not all engines serve the VIP that is scaled {}",
                method.words()
            );
        }
        Ok(())
    }

    fn run(&self, runs: usize, seconds: u64, per_s: u32) -> Result<Vec<Measured>> {
        let mut taken: BTreeMap<Method, Vec<Taken>> = BTreeMap::new();
        for run in 1..=runs {
            for method in Method::ALL {
                cli::note!("run {run} of {runs}: {}", method.words());
                let one = self.take(method, seconds, per_s)?;
                taken.entry(method).or_default().push(one);
            }
        }
        Ok(taken
            .iter()
            .map(|(method, all)| measured(*method, all))
            .collect())
    }

    fn take(&self, method: Method, seconds: u64, per_s: u32) -> Result<Taken> {
        self.set_tunnel_mode(method.tunnel_mode())?;
        let before = self.spent()?;
        let report = self.load(method, seconds, per_s)?;
        let after = self.spent()?;
        ensure!(
            report.short_failed == 0,
            "{} connections failed: {:?}",
            report.short_failed,
            report.short_failures.first()
        );
        let connections = report.short_ok.max(1) as f64;
        let served: u64 = report.engines.values().map(|e| e.share).sum();
        let mut engines = BTreeMap::new();
        for (name, engine) in &self.engines {
            let share = report.engines.get(&engine.address).map_or(0, |e| e.share);
            ensure!(share > 0, "{name} served no connection");
            let (now, then) = (after[name], before[name]);
            let packets = now.packets.saturating_sub(then.packets) as f64;
            let us = now.cpu_ns.saturating_sub(then.cpu_ns) as f64 / 1e3;
            let share = share as f64 * 100.0 / served as f64;
            engines.insert(
                name.clone(),
                (share, packets / connections, us / connections),
            );
        }
        Ok(Taken {
            connections: report.short_ok,
            engines,
        })
    }

    /// Of all engines, until they have it.
    fn set_tunnel_mode(&self, mode: u32) -> Result<()> {
        let file = tempfile::NamedTempFile::with_suffix(".yaml")?;
        // What is not named returns to its default.
        let object = json!({ "serviceenginegroup": [{
            "name": "Default-Group",
            "min_scaleout_per_vs": 1,
            "max_scaleout_per_vs": 8,
            "se_tunnel_mode": mode,
        }] });
        fs::write(file.path(), object.to_string())?;
        evenkeel(&["apply", "-f", &file.path().to_string_lossy()])?;
        let heeds = |relayed: bool| relayed == (mode == 1);
        let told = wait_for(TIMEOUT, || self.is_relayed().is_ok_and(heeds));
        ensure!(told, "the engines do not heed se_tunnel_mode {mode}");
        Ok(())
    }

    /// Whether answers go through the primary.
    fn is_relayed(&self) -> Result<bool> {
        let before = answers_through_the_primary()?;
        self.load(Method::Native, 1, 200)?;
        Ok(answers_through_the_primary()? > before)
    }

    /// Short connections from the client behind the router.
    fn load(&self, method: Method, seconds: u64, per_s: u32) -> Result<Report> {
        let arguments = [
            "traffic",
            "--target",
            &format!("{}:80", method.vip()),
            "--connections",
            "0",
            "--short-per-s",
            &per_s.to_string(),
        ]
        .map(str::to_owned);
        let exe = exe()?;
        let mut client = Helper::start(&self.record.namespace("far"), &exe, &arguments)?;
        client.order("mark")?;
        client.order("share")?;
        this_much_traffic(Duration::from_secs(seconds));
        let mut reply = client.order("report")?;
        Ok(serde_json::from_value(reply["report"].take())?)
    }

    fn spent(&self) -> Result<BTreeMap<String, Spent>> {
        let each = self.engines.iter().map(|(name, engine)| {
            let cpu_ns = run_ns(engine.napi)? + run_ns(engine.process)?;
            let packets = received(self.record, name)?;
            Ok((name.clone(), Spent { cpu_ns, packets }))
        });
        each.collect()
    }
}

fn measured(method: Method, all: &[Taken]) -> Measured {
    let first = |of: fn(&(f64, f64, f64)) -> f64| {
        let each = all.iter().filter_map(|t| t.engines.values().next());
        Figures::new(each.map(of).collect())
    };
    let of_run = |of: &dyn Fn(&Taken) -> f64| Figures::new(all.iter().map(of).collect());
    let shares = |t: &Taken| t.engines.values().map(|e| e.0).collect::<Vec<_>>();
    let others = |t: &Taken| Figures::new(t.engines.values().skip(1).map(|e| e.2).collect()).median;
    Measured {
        method,
        connections: all.iter().map(|t| t.connections).sum(),
        first_share: first(|e| e.0),
        least_share: of_run(&|t| shares(t).into_iter().fold(f64::MAX, f64::min)),
        most_share: of_run(&|t| shares(t).into_iter().fold(0.0, f64::max)),
        first_packets: first(|e| e.1),
        first_us: first(|e| e.2),
        other_us: of_run(&others),
        all_us: of_run(&|t| t.engines.values().map(|e| e.2).sum()),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "nothing is waited for: this much traffic is measured"
)]
fn this_much_traffic(time: Duration) {
    std::thread::sleep(time);
}

/// `evenkeel`, beside this binary.
fn exe() -> Result<String> {
    let path = std::env::current_exe()?.with_file_name("evenkeel");
    Ok(path.to_string_lossy().into_owned())
}

/// Packets, as far as engines have reported them.
fn answers_through_the_primary() -> Result<u64> {
    let shown = evenkeel(&["show", "steering", "-o", "json"])?;
    let engines: Vec<Value> = serde_json::from_slice(&shown)?;
    let packets = engines.iter().map(|e| &e["verdicts"]["tunnel_answer"]);
    Ok(packets.filter_map(Value::as_u64).sum())
}

/// It finds the lab that is up; what it printed.
fn evenkeel(arguments: &[&str]) -> Result<Vec<u8>> {
    let done = Command::new(exe()?).args(arguments).output()?;
    ensure!(
        done.status.success(),
        "evenkeel {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(done.stdout)
}

/// Runs a shell's line in a node's namespace, where /sys is its own.
fn inside(record: &Record, node: &str, line: &str) -> Result<String> {
    let namespace = record.namespace(node);
    let arguments = ["netns", "exec", &namespace, "sh", "-c", line];
    let done = Command::new("ip").args(arguments).output()?;
    ensure!(
        done.status.success(),
        "{line} in {namespace}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

/// Gives the interface on the LAN a kernel thread of its own, and tells which one it is: the one that is new. A veth polls, as network
/// cards do, only with GRO.
fn threaded(record: &Record, engine: &str) -> Result<i32> {
    let before = napi_threads();
    let line = "ethtool -K eth0 gro on && echo 1 > /sys/class/net/eth0/threaded";
    inside(record, engine, line)?;
    let mut new = Vec::new();
    wait_for(TIMEOUT, || {
        new = napi_threads()
            .into_iter()
            .filter(|t| !before.contains(t))
            .collect();
        !new.is_empty()
    });
    ensure!(
        new.len() == 1,
        "threads for eth0 of {engine}: {new:?} instead of one"
    );
    Ok(new[0])
}

fn napi_threads() -> Vec<i32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_ours = |pid: &i32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.starts_with("napi/eth0")
    };
    pids.filter(is_ours).collect()
}

/// Time on a processor of all threads of a process, nanoseconds (proc(5), schedstat).
fn run_ns(pid: i32) -> Result<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
    let each = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Ok(each.sum())
}

fn received(record: &Record, engine: &str) -> Result<u64> {
    let text = inside(
        record,
        engine,
        "cat /sys/class/net/eth0/statistics/rx_packets",
    )?;
    text.parse().context("rx_packets")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_engine_is_measured_beside_the_median_of_the_others() {
        let engines = [
            (20.0, 9.0, 50.0),
            (30.0, 2.0, 10.0),
            (25.0, 2.0, 12.0),
            (25.0, 2.0, 14.0),
        ];
        let names = (1..).map(|n| format!("se-{n}"));
        let taken = Taken {
            connections: 100,
            engines: names.zip(engines).collect(),
        };
        let row = measured(Method::Native, &[taken]);
        assert_eq!(
            (row.first_share.median, row.first_packets.median),
            (20.0, 9.0)
        );
        assert_eq!(
            (row.least_share.median, row.most_share.median),
            (20.0, 30.0)
        );
        assert_eq!((row.first_us.median, row.other_us.median), (50.0, 12.0));
        assert_eq!((row.all_us.median, row.connections), (86.0, 100));
    }

    #[test]
    fn time_on_a_processor_grows() {
        let pid = i32::try_from(std::process::id()).expect("a pid");
        assert!(run_ns(pid).expect("read") > 0);
    }
}
