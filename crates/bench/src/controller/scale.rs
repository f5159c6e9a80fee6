//! How the controller grows: on an etcd of three members, with 500 virtual services and with 5,000. How long a write takes
//! beside the disk's own fdatasync right before, how soon engines hear of it, how long everything takes to be
//! planned and placed from nothing, a search, and an engine that comes back without its state.
//!
//! The engines are stubs, as in [`super`], and the members of etcd are on the disk that is measured, all three of them: each
//! write is synced three times there.

use super::disk::Disk;
use super::etcd::Members;
use super::fleet::{self, Fleet};
use super::load::{Kind, Load};
use super::process::Process;
use super::{ms, per_second, scratch, temporary};
use crate::report::{self, Bar, Reading, percentile};
use anyhow::{Context, Result, ensure};
use cli::output::Format;
use client::Client;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Instant;

/// A write may take so much longer than six times what the disk takes.
const BEYOND_DISK_MS_MAX: f64 = 50.0;
const REACH_MS_MAX: f64 = 200.0;
const RESYNC_MS_MAX: f64 = 1000.0;
/// Times an engine comes back without its state, and searches.
const TIMES: usize = 5;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Engine stubs with a session each.
    #[arg(long, default_value_t = 64)]
    engines: usize,
    /// Virtual services of the larger size; the smaller one has a tenth.
    #[arg(long, default_value_t = 5000)]
    services: usize,
    /// Rounds of writes; each gives one p99.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Writes of a round.
    #[arg(long, default_value_t = 500)]
    writes: usize,
    /// Where data folders are made, etcd's, too: the disk that is measured.
    #[arg(long, default_value = "/var/tmp")]
    folder: PathBuf,
    /// Only planning from nothing, which takes seconds and no etcd.
    #[arg(long)]
    planning: bool,
    /// 4 engines, 20 and 200 virtual services, one round of 40 writes: it runs.
    #[arg(long)]
    short: bool,
}

/// Several writes as one.
const CHANGE: &str = "/api/ek/change";
/// Engines of each virtual service.
const SCALEOUT: usize = 2;
/// Engine stubs where one of them has 1,000 of 5,000 virtual services.
const FEW_ENGINES: usize = 10;

impl Args {
    fn shortened(self) -> Self {
        if !self.short {
            return self;
        }
        Self {
            engines: 4,
            services: 200,
            runs: 1,
            writes: 40,
            ..self
        }
    }
}

/// Measures and prints; fails when a bar does not hold.
pub(crate) fn show(args: Args, output: Format) -> Result<()> {
    let args = args.shortened();
    let mut rows = scratch::readings(args.engines, args.services, SCALEOUT)?;
    if !args.planning {
        rows.extend(size(&args, args.services / 10)?);
        rows.extend(size(&args, args.services)?);
        rows.extend(resync(&args)?);
    }
    report::print(&rows, output);
    report::judge(&rows, args.short)
}

/// A controller on an etcd of its own with engine stubs, and everything that it takes away with it.
struct Site {
    fleet: Fleet,
    client: Client,
    _process: Process,
    _members: Members,
    folder: tempfile::TempDir,
}

impl Site {
    fn start(args: &Args, engines: usize) -> Result<Self> {
        let folder = temporary(&args.folder)?;
        let members = Members::start(folder.path())?;
        let data = folder.path().join("data");
        let process = Process::start_with(&data, &members.flags())?;
        let fleet = Fleet::join(&process, engines)?;
        Ok(Self {
            fleet,
            client: process.client()?,
            _process: process,
            _members: members,
            folder,
        })
    }
}

/// All of one size.
fn size(args: &Args, services: usize) -> Result<Vec<Reading>> {
    cli::note!(
        "a controller on three members of etcd, {} engine stubs, {services} virtual services on {SCALEOUT} of them each",
        args.engines
    );
    let site = Site::start(args, args.engines)?;
    let load = Load::new(&site.client, SCALEOUT)?;
    let body = enabling(&site.client, "SE_STATE_DISABLED_FOR_PLACEMENT")?;
    site.client.post(CHANGE, &body)?;
    let began = Instant::now();
    load.fill(services)?;
    let filled = per_second(services, began.elapsed());
    let mut rows = vec![reading(
        services,
        "created, in changes of many",
        "per s",
        vec![filled],
    )];
    rows.push(placed(&site, services)?);
    rows.extend(written(args, &site, &load, services)?);
    rows.extend(searched(&site.client, services)?);
    Ok(rows)
}

fn reading(services: usize, what: &str, unit: &'static str, samples: Vec<f64>) -> Reading {
    bound(services, what, unit, samples, Bar::NONE)
}

fn bound(services: usize, what: &str, unit: &'static str, samples: Vec<f64>, bar: Bar) -> Reading {
    Reading::new(format!("{services}: {what}"), unit, samples, bar)
}

/// Nothing is placed; then the engines are enabled, all at once.
fn placed(site: &Site, services: usize) -> Result<Reading> {
    let body = enabling(&site.client, "SE_STATE_ENABLED")?;
    let began = Instant::now();
    site.client.post(CHANGE, &body)?;
    site.fleet.wait_for_vips(services * SCALEOUT)?;
    Ok(reading(
        services,
        "all placed from nothing, written, and at their engines",
        "ms",
        vec![ms(began.elapsed())],
    ))
}

/// A change that gives all engines this state.
fn enabling(client: &Client, state: &str) -> Result<Value> {
    let engines = client.list("serviceengine")?;
    let write = |mut engine: Value| {
        let uuid = engine["uuid"].clone();
        engine["enable_state"] = json!(state);
        json!({"type": "serviceengine", "uuid": uuid, "object": engine})
    };
    let writes: Vec<_> = engines.into_iter().map(write).collect();
    Ok(json!({ "writes": writes }))
}

fn written(args: &Args, site: &Site, load: &Load<'_>, services: usize) -> Result<Vec<Reading>> {
    let disk = Disk::new(site.folder.path())?;
    let (mut synced, mut writes, mut reached) = (Vec::new(), Vec::new(), Vec::new());
    for run in 1..=args.runs {
        cli::note!("round {run} of {}", args.runs);
        // While nobody else writes: between writes, the members and the planner are not done yet.
        let disks = (0..args.writes).map(|_| Ok(ms(disk.sync()?)));
        let disks: Vec<f64> = disks.collect::<Result<_>>()?;
        let kinds = Kind::ALL.iter().cycle().take(args.writes);
        let times = kinds.map(|kind| Ok(ms(load.write(*kind)?)));
        let times: Vec<f64> = times.collect::<Result<_>>()?;
        let reach = (0..args.writes / 5).map(|_| Ok(ms(load.reach(&site.fleet)?)));
        let reach: Vec<f64> = reach.collect::<Result<_>>()?;
        synced.push(percentile(&disks, 99));
        writes.push(percentile(&times, 99));
        reached.push(percentile(&reach, 99));
    }
    let beyond = writes.iter().zip(&synced).map(|(w, d)| w - 6.0 * d);
    let beyond: Vec<f64> = beyond.collect();
    Ok(vec![
        reading(
            services,
            "the disk's fdatasync of 4 KiB, p99 of a round",
            "ms",
            synced,
        ),
        reading(services, "a write, p99 of a round", "ms", writes),
        bound(
            services,
            "a write, p99 beyond 6 x that of the disk in the same round",
            "ms",
            beyond,
            Bar::max(BEYOND_DISK_MS_MAX),
        ),
        bound(
            services,
            "a change is at its engines, p99 of a round",
            "ms",
            reached,
            Bar::max(REACH_MS_MAX),
        ),
    ])
}

fn searched(client: &Client, services: usize) -> Result<[Reading; 2]> {
    let mut found = Vec::new();
    for i in 0..TIMES {
        let name = format!("vs-{}", services * i / TIMES);
        let began = Instant::now();
        let one = client.get_by_name("virtualservice", &name)?;
        found.push(ms(began.elapsed()));
        one.with_context(|| format!("{name} is not found"))?;
    }
    let began = Instant::now();
    let all = client.list("virtualservice")?;
    ensure!(all.len() >= services, "the list is not whole");
    Ok([
        reading(services, "one found by its name", "ms", found),
        reading(
            services,
            "all listed, in pages of 200",
            "ms",
            vec![ms(began.elapsed())],
        ),
    ])
}

/// An engine with a thousand virtual services comes back and has nothing.
fn resync(args: &Args) -> Result<[Reading; 1]> {
    let engines = FEW_ENGINES.min(args.engines);
    cli::note!(
        "{} virtual services on {engines} engine stubs",
        args.services
    );
    let site = Site::start(args, engines)?;
    Load::new(&site.client, SCALEOUT)?.fill(args.services)?;
    site.fleet.wait_for_vips(args.services * SCALEOUT)?;
    let mut times = Vec::new();
    for number in (0..engines).cycle().take(TIMES) {
        times.push(ms(site
            .fleet
            .come_back_without_state(number, fleet::TIMEOUT)?));
    }
    let each = args.services * SCALEOUT / engines;
    let what =
        format!("an engine with {each} of them comes back without its state, until it has it");
    Ok([bound(
        args.services,
        &what,
        "ms",
        times,
        Bar::max(RESYNC_MS_MAX),
    )])
}
