//! A storm: at one moment the router sends every flow of a VIP to another engine. Once the clients' timestamps name the
//! owners, once the engines have to ask. Then forged packets, while every flow is a moved one.
//!
//! The same load without a change goes before each, and decides whether a session that went down is ours: two cores
//! carry clients, router, engines and servers.

pub(crate) mod client;
pub(crate) mod flood;
mod site;
mod watch;

use crate::member::Status;
use crate::report::{Bar, Figures, Measured, tell};
use anyhow::{Context, Result};
use client::{Client, Seen};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use site::{Site, Size};
use std::time::{Duration, Instant};
use watch::{Watch, Watched};

const FLOWS: usize = 100_000;
const FLOWS_SHORT: usize = 4_000;

/// Fewer would not show what copies to all of them cost.
const ENGINES_LEAST: usize = 4;
const ENGINES_MOST: usize = 63;
/// Eight client addresses at least, of three each.
const CLIENTS_LEAST: usize = 3;

/// Descriptors of a process for other things than flows, and for the share of the busiest engine.
const SPARE: f64 = 0.85;

/// Every flow sends twice at least.
const STAGE: Duration = Duration::from_secs(21);
/// Or once.
const STAGE_SHORT: Duration = Duration::from_secs(11);

/// For every flow to be answered; the longest distance of two retransmissions is two minutes.
const PATIENCE: Duration = Duration::from_secs(150);

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often clients are asked whether all have been answered.
const ASK_EVERY: u32 = 5;

/// Forged packets per second, and for how many seconds.
const FORGED: (u32, u32) = (100_000, 10);
const FORGED_SHORT: (u32, u32) = (10_000, 3);

/// Packets to a VIP that arrive where their flow does not live.
const MOVED: &[&str] = &[
    "tunnel_hint",
    "tunnel_cache",
    "probe",
    "drop_asked",
    "drop_budget",
];

/// How much of it.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Load {
    /// Established flows [default: 100000; 4000 if short].
    #[arg(long)]
    flows: Option<usize>,
    /// Engines [default: 4, or as many as the limit of open files asks for].
    #[arg(long)]
    engines: Option<usize>,
    /// Two minutes instead of five, and a smaller flood; only what does not depend on time must hold.
    #[arg(long)]
    pub(crate) short: bool,
}

impl Load {
    fn size(self, files: u64) -> Size {
        let flows = self
            .flows
            .unwrap_or(if self.short { FLOWS_SHORT } else { FLOWS });
        let a_process = ((files as f64 * SPARE) as usize).max(1);
        // A proxied flow has a descriptor towards the client and one towards the server.
        let engines = self.engines.unwrap_or((2 * flows).div_ceil(a_process));
        let clients = flows.div_ceil(a_process).max(CLIENTS_LEAST);
        Size {
            flows: flows / clients * clients,
            engines: engines.clamp(ENGINES_LEAST, ENGINES_MOST),
            clients,
        }
    }

    fn stage(self) -> Duration {
        if self.short { STAGE_SHORT } else { STAGE }
    }

    fn forged(self) -> (u32, u32) {
        if self.short { FORGED_SHORT } else { FORGED }
    }
}

pub(crate) fn run(load: Load) -> Result<Vec<Measured>> {
    let size = load.size(descriptors()?);
    let Size {
        flows,
        engines,
        clients,
    } = size;
    cli::note!("{flows} flows of {clients} processes over {engines} engines");
    let mut rows = Vec::new();
    for timestamps in [true, false] {
        rows.extend(storm(load, size, timestamps)?);
    }
    Ok(rows)
}

/// As many as this process and its children may have.
fn descriptors() -> Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

fn storm(load: Load, size: Size, timestamps: bool) -> Result<Vec<Measured>> {
    let way = if timestamps { "hints" } else { "questions" };
    cli::note!("{way}: setting up");
    let before = watch::available_mib()?;
    let mut site = Site::build(size, timestamps)?;
    let took = site.connect(size)?;
    cli::note!(
        "{way}: {} flows after {:.0} s",
        size.flows,
        took.as_secs_f64()
    );
    let mut rows = tell(memory(&site, way, before)?);

    let calm = stage(&mut site, load.stage(), |_| Ok(()))?;
    rows.extend(tell(calm.rows("nothing moves", way, size, None)));
    let moved = stage(&mut site, load.stage(), |site| site.rehash())?;
    rows.extend(tell(moved.rows(
        "all move at once",
        way,
        size,
        Some(calm.flaps),
    )));
    rows.extend(tell(moved.steering(way, size)));
    if !timestamps {
        rows.extend(tell(forged(&mut site, load, size, calm.flaps)?));
    }
    Ok(rows)
}

fn forged(site: &mut Site, load: Load, size: Size, calm: u64) -> Result<Vec<Measured>> {
    let (per_second, seconds) = load.forged();
    let least = Duration::from_secs(u64::from(seconds) + 1);
    let mut flood = None;
    let during = stage(site, least, |site| {
        flood = Some(site.forge(per_second, seconds)?);
        Ok(())
    })?;
    let sent = flood.context("the flood")?.sent()?;
    let after = stage(site, load.stage(), |_| Ok(()))?;
    let what = "forged ACKs";
    let mut rows = during.rows(what, "questions", size, Some(calm));
    let missing = 100.0 - sent.packets as f64 / f64::from(per_second) / sent.seconds * 100.0;
    rows.push(one(
        format!("{what}: missing of {per_second} packets/s for {seconds} s"),
        "%",
        missing,
        Bar::max(5.0),
    ));
    let claims = during.watched.sum(&["claim_taken", "deliver_claim"]) as f64;
    rows.push(one(
        format!("{what}: claims"),
        "messages",
        claims,
        Bar::max(0.0).in_short_runs(),
    ));
    let copies = during.watched.copies as f64 / sent.packets.max(1) as f64;
    rows.push(one(
        format!("{what}: copies for each, those of genuine packets included"),
        "copies",
        copies,
        Bar::max(1.0),
    ));
    rows.extend(during.verdicts(what, "questions"));
    rows.extend(after.rows("after forged ACKs", "questions", size, Some(calm)));
    Ok(rows)
}

/// What was seen between two moments, with every flow answered in between.
struct Stage {
    seen: Seen,
    watched: Watched,
    flaps: u64,
    /// Of each engine at the end, in copies per second.
    budgets: Vec<f64>,
    route_changes: usize,
    retransmissions: u64,
}

/// BGP and BFD sessions that went down since the engines' start.
fn flaps(statuses: &[Status]) -> u64 {
    let of = |status: &Status| {
        let bgp = status.times_established.saturating_sub(1);
        status.bfd_downs + bgp.max(u64::from(!status.established))
    };
    statuses.iter().map(of).sum()
}

/// From an event until every flow that is not broken has been answered, and for this time at least.
fn stage(
    site: &mut Site,
    least: Duration,
    event: impl FnOnce(&mut Site) -> Result<()>,
) -> Result<Stage> {
    let (before, repeated) = (flaps(&site.statuses()?), site.retransmissions()?);
    site.route_changes();
    let mut watch = Watch::start(&site.engines)?;
    event(site)?;
    site.mark()?;
    follow(site, least, &mut watch)?;
    let watched = watch.end(&site.engines)?;
    let statuses = site.statuses()?;
    Ok(Stage {
        seen: site.seen(Client::report)?,
        watched,
        flaps: flaps(&statuses).saturating_sub(before),
        budgets: statuses.iter().map(|s| s.copies_per_s.into()).collect(),
        route_changes: site.route_changes(),
        retransmissions: site.retransmissions()? - repeated,
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pause between two looks at counters"
)]
fn follow(site: &mut Site, least: Duration, watch: &mut Watch) -> Result<()> {
    let all = site.flows();
    let start = Instant::now();
    for turn in 1_u32.. {
        std::thread::sleep(LOOK_EVERY);
        watch.look(&site.engines)?;
        if start.elapsed() < least || !turn.is_multiple_of(ASK_EVERY) {
            continue;
        }
        let seen = site.seen(Client::look)?;
        if seen.answered + seen.broken() >= all || start.elapsed() > PATIENCE {
            break;
        }
    }
    Ok(())
}

impl Stage {
    fn rows(&self, what: &str, way: &str, size: Size, calm: Option<u64>) -> Vec<Measured> {
        let name = |of: &str| format!("{what}, {way}: {of}");
        let none = Bar::max(0.0).in_short_runs();
        let silent = size
            .flows
            .saturating_sub(self.seen.answered + self.seen.broken());
        let flaps = calm.map_or(Bar::NONE, |calm| Bar::max(calm as f64));
        let watched = &self.watched;
        let table = [
            ("flows broken", "flows", self.seen.broken() as f64, none),
            ("flows without an answer", "flows", silent as f64, none),
            (
                "BGP and BFD sessions down",
                "flaps",
                self.flaps as f64,
                flaps,
            ),
            (
                "changes of the route at the router",
                "messages",
                self.route_changes as f64,
                Bar::NONE,
            ),
            (
                "copies of a second, most of one engine",
                "copies/s",
                watched.peak_per_s,
                Bar::NONE,
            ),
            (
                "copies of an engine against the ceiling of its budget, most",
                "%",
                watched.ceiling_percent,
                Bar::max(100.0).in_short_runs(),
            ),
            (
                "segments repeated by clients",
                "segments",
                self.retransmissions as f64,
                Bar::NONE,
            ),
            (
                "CPU of the engines' processes",
                "cores",
                watched.engine_cores,
                Bar::NONE,
            ),
            ("CPU of the machine", "cores", watched.busy_cores, Bar::NONE),
        ];
        let row = |(what, unit, value, bar)| one(name(what), unit, value, bar);
        let mut rows: Vec<Measured> = table.into_iter().map(row).collect();
        rows.push(Measured {
            evenkeel: Figures::new(self.budgets.clone()),
            ..one(
                name("budget of an engine at the end"),
                "copies/s",
                0.0,
                Bar::NONE,
            )
        });
        rows.extend(delays(&name("message to answer"), &self.seen.delays_us));
        rows
    }

    /// How the flows found their owners.
    fn steering(&self, way: &str, size: Size) -> Vec<Measured> {
        let name = |of: &str| format!("all move at once, {way}: {of}");
        let watched = &self.watched;
        let (stayed, moved) = (watched.sum(&["local_socket"]), watched.sum(MOVED));
        let stayed = stayed as f64 / (stayed + moved).max(1) as f64 * 100.0;
        let probes = watched.sum(&["probe"]) as f64 / size.flows as f64 * 100.0;
        let nearly_none = if way == "hints" {
            Bar::max(1.0).in_short_runs()
        } else {
            Bar::NONE
        };
        let rows = vec![
            one(
                name("packets that did not move"),
                "%",
                stayed,
                Bar::max(5.0).in_short_runs(),
            ),
            one(
                name("packets asked about, per 100 flows"),
                "packets",
                probes,
                nearly_none,
            ),
            one(
                name("copies, all engines"),
                "copies",
                watched.copies as f64,
                Bar::NONE,
            ),
        ];
        rows.into_iter()
            .chain(self.verdicts("all move at once", way))
            .collect()
    }

    /// Those that there were.
    fn verdicts(&self, what: &str, way: &str) -> Vec<Measured> {
        let packets = self.watched.packets.iter();
        let there = packets.filter(|(_, packets)| **packets > 0);
        let name = |verdict| format!("{what}, {way}: {verdict}");
        there
            .map(|(verdict, packets)| one(name(verdict), "packets", *packets as f64, Bar::NONE))
            .collect()
    }
}

fn memory(site: &Site, way: &str, before: f64) -> Result<Vec<Measured>> {
    let rss = site.engines.iter().map(|engine| engine.speaker.rss_mib());
    let rss = rss.collect::<Result<Vec<_>>>()?;
    let taken = before - watch::available_mib()?;
    Ok(vec![
        Measured {
            evenkeel: Figures::new(rss),
            ..one(
                format!("{way}: memory of an engine's process"),
                "MiB",
                0.0,
                Bar::NONE,
            )
        },
        one(
            format!("{way}: memory of all, sockets and clients included"),
            "MiB",
            taken,
            Bar::NONE,
        ),
    ])
}

/// Median, 99 % and the longest, in ms.
fn delays(what: &str, delays_us: &[u32]) -> Vec<Measured> {
    let mut sorted = delays_us.to_vec();
    sorted.sort_unstable();
    let at = |share: f64| {
        let index = (share * sorted.len() as f64) as usize;
        let value = sorted.get(index.min(sorted.len().saturating_sub(1)));
        value.map_or(f64::NAN, |us| f64::from(*us) / 1000.0)
    };
    let row = |name: &str, share| one(format!("{what}, {name}"), "ms", at(share), Bar::NONE);
    vec![row("median", 0.5), row("99 %", 0.99), row("longest", 1.0)]
}

fn one(what: String, unit: &'static str, value: f64, bar: Bar) -> Measured {
    Measured {
        what,
        router: "FRR".to_owned(),
        unit,
        evenkeel: Figures::new(vec![value]),
        bird: None,
        bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(flows: usize, files: u64) -> Size {
        let load = Load {
            flows: Some(flows),
            engines: None,
            short: false,
        };
        load.size(files)
    }

    #[test]
    fn no_process_has_more_flows_than_it_may_open_files() {
        let few_files = size(100_000, 20_000);
        assert_eq!((few_files.engines, few_files.clients), (12, 6));
        let many_files = size(100_000, 1_000_000);
        assert_eq!((many_files.engines, many_files.clients), (4, 3));
    }

    #[test]
    fn the_longest_delay_is_the_last() {
        let values: Vec<f64> = delays("x", &[3000, 1000, 2000])
            .iter()
            .map(|r| r.evenkeel.max)
            .collect();
        assert_eq!(values, [2.0, 3.0, 3.0]);
        assert!(delays("x", &[])[0].evenkeel.max.is_nan());
    }
}
