//! What steering costs flows that have not moved: the same work with its program at the engines' uplinks and without, in
//! turns, in CPU time of the whole machine. It runs in whatever context a packet arrives in, so no process's time shows it.

use crate::report::{Bar, Figures, Measured, tell};
use crate::storm::site::{Site, Size, VIP};
use crate::storm::watch::Machine;
use anyhow::{Context, Result, ensure};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::process::Command;
use std::thread;

/// Each client for itself, and one connection for each.
const CLIENTS: usize = 16;
const REQUEST_LEN: usize = 100;
const REQUESTS: usize = 5_000;
const BULK_LEN: usize = 64 << 20;
const CHUNK_LEN: usize = 64 << 10;
const GB: f64 = 1e9;

#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Amount {
    /// Pairs of measurements.
    #[arg(long, default_value_t = 20)]
    pairs: usize,
    /// Two pairs: it runs, and no more is asked of it.
    #[arg(long)]
    pub(crate) short: bool,
}

#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct LoadArgs {
    vip: SocketAddrV4,
    work: Work,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Work {
    /// Small messages, each after the answer to the one before.
    Requests,
    /// As much as goes through, and back.
    Bulk,
}

impl Work {
    const BOTH: [Self; 2] = [Self::Requests, Self::Bulk];

    fn word(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Bulk => "bulk",
        }
    }

    /// What a figure is per, its factor to seconds, and how many of it there are in one measurement.
    fn unit(self) -> (&'static str, f64, f64) {
        match self {
            Self::Requests => ("us per request", 1e6, (CLIENTS * REQUESTS) as f64),
            Self::Bulk => ("s per GB", 1.0, (2 * CLIENTS * BULK_LEN) as f64 / GB),
        }
    }

    /// The ratio that the lower bound may have.
    fn bar(self) -> f64 {
        match self {
            Self::Requests => 1.03,
            Self::Bulk => 1.05,
        }
    }
}

pub(crate) fn run(amount: Amount) -> Result<Vec<Measured>> {
    let pairs = if amount.short { 2 } else { amount.pairs };
    let size = Size {
        flows: 0,
        engines: 2,
        clients: 1,
    };
    let mut site = Site::build(size, true)?;
    let mut rows = Vec::new();
    for work in Work::BOTH {
        cli::note!("{}: {pairs} pairs", work.word());
        measure(&mut site, work, true)?;
        let mut cpu = [Vec::new(), Vec::new()];
        for pair in 0..pairs {
            for index in crate::bgp::turns(pair) {
                cpu[index].push(measure(&mut site, work, index == 0)?);
            }
        }
        rows.extend(tell(judged(work, &cpu)));
    }
    Ok(rows)
}

/// CPU time of one unit of work.
fn measure(site: &mut Site, work: Work, steered: bool) -> Result<f64> {
    site.steer(steered)?;
    let looked_at = site.local_packets()?;
    let used = used(site, work)?;
    let looked_at = site.local_packets()? > looked_at;
    ensure!(
        looked_at == steered,
        "the program was there, or not, against what was asked for"
    );
    let (_, factor, count) = work.unit();
    Ok(used * factor / count)
}

/// Seconds of a core.
fn used(site: &Site, work: Work) -> Result<f64> {
    let before = Machine::now()?;
    let status = Command::new("ip")
        .args(["netns", "exec", &site.clients_namespace()])
        .arg(std::env::current_exe()?)
        .args(["price-load", &VIP.to_string(), work.word()])
        .status()
        .context("start the load")?;
    ensure!(status.success(), "the load has failed");
    Ok(Machine::now()?.since(&before))
}

fn judged(work: Work, [with, without]: &[Vec<f64>; 2]) -> Vec<Measured> {
    let mut ratios: Vec<f64> = with.iter().zip(without).map(|(a, b)| a / b).collect();
    ratios.sort_by(f64::total_cmp);
    let (low, high) = interval(&ratios);
    let row = |what: &str, unit, figures: Figures, bar| Measured {
        what: format!("local traffic, {}: {what}", work.word()),
        router: "FRR".to_owned(),
        unit,
        evenkeel: figures,
        bird: None,
        bar,
    };
    let (unit, ..) = work.unit();
    let one = |value| Figures::new(vec![value]);
    vec![
        row(
            "CPU with steering",
            unit,
            Figures::new(with.clone()),
            Bar::NONE,
        ),
        row(
            "CPU without",
            unit,
            Figures::new(without.clone()),
            Bar::NONE,
        ),
        row(
            "ratio",
            "%",
            Figures::new(ratios.iter().map(|r| r * 100.0).collect()),
            Bar::NONE,
        ),
        row(
            "ratio, lower bound of 95 %",
            "%",
            one(low * 100.0),
            Bar::max(work.bar() * 100.0),
        ),
        row(
            "ratio, upper bound of 95 %",
            "%",
            one(high * 100.0),
            Bar::NONE,
        ),
    ]
}

/// Between which of the sorted values the median of all that could be measured lies, in 19 of 20 cases: by order
/// statistics, where each value is above or below it like a coin (the 6th and 15th of 20).
fn interval(sorted: &[f64]) -> (f64, f64) {
    let n = sorted.len() as f64;
    let skip = ((n - 1.96 * n.sqrt()) / 2.0).floor().max(0.0) as usize;
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    (at(skip), at(sorted.len().saturating_sub(skip + 1)))
}

/// The load, in the clients' namespace.
pub(crate) fn run_load(args: &LoadArgs) -> Result<()> {
    let (vip, work) = (args.vip, args.work);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| thread::spawn(move || client(vip, work)))
        .collect();
    for client in clients {
        client.join().ok().context("a client has ended")??;
    }
    Ok(())
}

fn client(vip: SocketAddrV4, work: Work) -> Result<()> {
    let mut stream = TcpStream::connect(vip)?;
    stream.set_nodelay(true)?;
    match work {
        Work::Requests => requests(&mut stream),
        Work::Bulk => bulk(&stream),
    }
}

fn requests(stream: &mut TcpStream) -> Result<()> {
    let request = [7; REQUEST_LEN];
    let mut answer = [0; REQUEST_LEN];
    for _ in 0..REQUESTS {
        stream.write_all(&request)?;
        stream.read_exact(&mut answer)?;
    }
    Ok(())
}

fn bulk(stream: &TcpStream) -> Result<()> {
    thread::scope(|scope| {
        let sender = scope.spawn(move || send(stream));
        let (mut reader, mut chunk, mut left) = (stream, vec![0; CHUNK_LEN], BULK_LEN);
        while left > 0 {
            let length = reader.read(&mut chunk)?;
            ensure!(length > 0, "the engine has closed");
            left -= length;
        }
        sender.join().ok().context("the sender has ended")??;
        Ok(())
    })
}

fn send(mut stream: &TcpStream) -> std::io::Result<()> {
    let chunk = vec![7; CHUNK_LEN];
    (0..BULK_LEN / CHUNK_LEN).try_for_each(|_| stream.write_all(&chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_twenty_is_from_the_sixth_to_the_fifteenth() {
        let sorted: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!(interval(&sorted), (6.0, 15.0));
        assert_eq!(interval(&sorted[..2]), (1.0, 2.0));
    }
}
