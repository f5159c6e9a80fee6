//! The controller under load: engines with sessions and thousands of virtual services. How long a write takes beside the
//! disk's own fdatasync in the same run, how soon an engine hears of it, how many pages of a list are read, what memory
//! it takes, how fast it starts.
//!
//! The engines are stubs ([`fleet`]): they join, take their desired state over, acknowledge and report, and serve nothing.
//! What an engine costs its host is measured elsewhere.

mod disk;
mod etcd;
mod fleet;
pub(crate) mod kills;
mod load;
mod process;
pub(crate) mod scale;
mod scratch;

use crate::report::{self, Bar, Reading, percentile};
use anyhow::{Context, Result};
use cli::output::Format;
use client::Client;
use disk::Disk;
use fleet::Fleet;
use load::{Kind, Load};
use nix::sys::signal::Signal;
use process::Process;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A write may take so much longer than three times what the disk takes.
const BEYOND_DISK_MS_MAX: f64 = 20.0;
const REACH_MS_MAX: f64 = 200.0;
const MEMORY_MB_MAX: f64 = 300.0;
const START_MS_MAX: f64 = 3000.0;
/// Of each kind of page, in a round; no bar is about them, so a short one has few.
const READ_FOR: Duration = Duration::from_secs(5);
const READ_FOR_SHORT: Duration = Duration::from_secs(1);
/// Starts of the whole.
const STARTS: usize = 3;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Engine stubs with a session each.
    #[arg(long, default_value_t = 64)]
    engines: usize,
    /// Virtual services, each with a VIP and a pool of its own.
    #[arg(long, default_value_t = 5000)]
    services: usize,
    /// Engines of each virtual service.
    #[arg(long, default_value_t = 2)]
    scaleout: usize,
    /// Rounds; each gives one p99.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Writes of a round.
    #[arg(long, default_value_t = 1000)]
    writes: usize,
    /// Where the controller's data folder is made: the disk that is measured.
    #[arg(long, default_value = "/var/tmp")]
    folder: PathBuf,
    /// 8 engines, 200 virtual services, three rounds of 100 writes: the memory must hold, and a time in one of the rounds or
    /// starts.
    #[arg(long)]
    short: bool,
}

impl Args {
    fn shortened(self) -> Self {
        if !self.short {
            return self;
        }
        Self {
            engines: 8,
            services: 200,
            runs: 3,
            writes: 100,
            ..self
        }
    }

    fn read_for(&self) -> Duration {
        match self.short {
            true => READ_FOR_SHORT,
            false => READ_FOR,
        }
    }
}

/// Measures and prints; fails when a bar does not hold.
pub(crate) fn show(args: Args, output: Format) -> Result<()> {
    let args = args.shortened();
    let rows = run(&args)?;
    report::print(&rows, output);
    report::judge(&rows, args.short)
}

fn run(args: &Args) -> Result<Vec<Reading>> {
    cli::note!(
        "a controller with {} engine stubs and {} virtual services on {} of them each",
        args.engines,
        args.services,
        args.scaleout
    );
    let folder = temporary(&args.folder)?;
    let mut process = Process::start(&folder.path().join("data"))?;
    let fleet = Fleet::join(&process, args.engines)?;
    let client = process.client()?;
    let readers = [process.client()?, process.client()?];
    let load = Load::new(&client, args.scaleout)?;
    let filled = Instant::now();
    load.fill(args.services)?;
    fleet.wait_for_vips(args.services * args.scaleout)?;
    let filled = per_second(args.services, filled.elapsed());
    cli::note!("filled and placed: {filled:.0} virtual services per second");
    let disk = Disk::new(folder.path())?;
    let rounds: Vec<Round> = (1..=args.runs)
        .map(|run| {
            cli::note!("round {run} of {}", args.runs);
            round(args, &load, &readers, &disk, &fleet)
        })
        .collect::<Result<_>>()?;
    let mut rows = judged(&rounds);
    rows.push(Reading::new(
        "virtual services created and placed, in changes of many",
        "per s",
        vec![filled],
        Bar::NONE,
    ));
    rows.extend(memory(&process)?);
    rows.extend(starts(&mut process, &fleet)?);
    Ok(rows)
}

/// A folder that is gone afterwards, on the disk that is measured.
fn temporary(on: &Path) -> Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix("evenkeel-bench-")
        .tempdir_in(on)
        .with_context(|| format!("--folder {}", on.display()))
}

fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// What a round gives; times in milliseconds.
struct Round {
    disk: Vec<f64>,
    writes: Vec<(Kind, f64)>,
    reach: Vec<f64>,
    page: Pages,
    page_with_runtime: Pages,
}

/// Pages of 100, read by two clients.
struct Pages {
    per_s: f64,
    times: Vec<f64>,
}

fn round(
    args: &Args,
    load: &Load,
    readers: &[Client],
    disk: &Disk,
    fleet: &Fleet,
) -> Result<Round> {
    let (mut synced, mut writes) = (Vec::new(), Vec::new());
    for i in 0..args.writes {
        synced.push(ms(disk.sync()?));
        let kind = Kind::ALL[i % Kind::ALL.len()];
        writes.push((kind, ms(load.write(kind)?)));
    }
    let reach = (0..args.writes / 5).map(|_| Ok(ms(load.reach(fleet)?)));
    Ok(Round {
        disk: synced,
        writes,
        reach: reach.collect::<Result<_>>()?,
        page: pages(load, readers, false, args.read_for())?,
        page_with_runtime: pages(load, readers, true, args.read_for())?,
    })
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn pages(load: &Load, readers: &[Client], runtime: bool, time: Duration) -> Result<Pages> {
    let times = load.read_pages(readers, time, runtime)?;
    Ok(Pages {
        per_s: per_second(times.len(), time),
        times: times.into_iter().map(ms).collect(),
    })
}

fn judged(rounds: &[Round]) -> Vec<Reading> {
    let of = |f: &dyn Fn(&Round) -> f64| rounds.iter().map(f).collect::<Vec<f64>>();
    let all = |round: &Round| round.writes.iter().map(|(_, ms)| *ms).collect::<Vec<f64>>();
    let beyond = |r: &Round| percentile(&all(r), 99) - 3.0 * percentile(&r.disk, 99);
    let mut rows = vec![
        Reading::new(
            "the disk's fdatasync of 4 KiB, p99 of a round",
            "ms",
            of(&|r| percentile(&r.disk, 99)),
            Bar::NONE,
        ),
        Reading::new(
            "a write, p99 of a round",
            "ms",
            of(&|r| percentile(&all(r), 99)),
            Bar::NONE,
        ),
        Reading::new(
            "a write, p99 beyond 3 x that of the disk in the same round",
            "ms",
            of(&beyond),
            Bar::max(BEYOND_DISK_MS_MAX).at_best_in_short_runs(),
        ),
    ];
    rows.extend(Kind::ALL.map(|kind| {
        let what = format!("{}, median of a round", kind.words());
        let times = |r: &Round| {
            let own = r.writes.iter().filter(|(k, _)| *k == kind);
            percentile(&own.map(|(_, ms)| *ms).collect::<Vec<f64>>(), 50)
        };
        Reading::new(what, "ms", of(&times), Bar::NONE)
    }));
    rows.extend(reached(rounds));
    rows.extend(read("a list page of 100", rounds, |r| &r.page));
    rows.extend(read("the same with runtime", rounds, |r| {
        &r.page_with_runtime
    }));
    rows
}

fn reached(rounds: &[Round]) -> [Reading; 2] {
    let of = |percent| {
        let each = rounds.iter().map(move |r| percentile(&r.reach, percent));
        each.collect::<Vec<f64>>()
    };
    [
        Reading::new(
            "a change is at its engines, median of a round",
            "ms",
            of(50),
            Bar::NONE,
        ),
        Reading::new(
            "a change is at its engines, p99 of a round",
            "ms",
            of(99),
            Bar::max(REACH_MS_MAX).at_best_in_short_runs(),
        ),
    ]
}

fn read(what: &str, rounds: &[Round], pages: fn(&Round) -> &Pages) -> [Reading; 2] {
    let per_s = rounds.iter().map(|r| pages(r).per_s).collect();
    let p99 = rounds.iter().map(|r| percentile(&pages(r).times, 99));
    [
        Reading::new(format!("{what}, two clients"), "per s", per_s, Bar::NONE),
        Reading::new(
            format!("{what}, p99 of a round"),
            "ms",
            p99.collect(),
            Bar::NONE,
        ),
    ]
}

fn memory(process: &Process) -> Result<[Reading; 2]> {
    let memory = process.memory()?;
    let bar = Bar::max(MEMORY_MB_MAX).in_short_runs();
    Ok([
        Reading::new("memory now", "MB", vec![memory.now_mb], Bar::NONE),
        Reading::new("memory at most", "MB", vec![memory.peak_mb], bar),
    ])
}

/// Stopped and started again, as an operator does it.
fn starts(process: &mut Process, fleet: &Fleet) -> Result<[Reading; 2]> {
    let (mut ready, mut back) = (Vec::new(), Vec::new());
    for start in 1..=STARTS {
        cli::note!("start {start} of {STARTS}");
        process.end(Signal::SIGTERM)?;
        let began = Instant::now();
        process.start_again()?;
        ready.push(ms(began.elapsed()));
        fleet.wait_for_sessions(fleet::TIMEOUT)?;
        back.push(ms(began.elapsed()));
    }
    Ok([
        Reading::new(
            "start, until it is ready",
            "ms",
            ready,
            Bar::max(START_MS_MAX).at_best_in_short_runs(),
        ),
        Reading::new(
            "start, until every engine has its session",
            "ms",
            back,
            Bar::NONE,
        ),
    ])
}
