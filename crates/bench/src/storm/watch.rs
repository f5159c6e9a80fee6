//! What engines and machine did during a stage: packets by verdict, copies against the budget, CPU and memory.

use super::site::Engine;
use anyhow::{Context, Result};
use flow::budget::Rate;
use flow::pace::Pace;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A clock tick of /proc.
const TICKS_PER_S: f64 = 100.0;

/// Copies are compared with the budget over so many looks and less, and over all of them.
const LOOKS: usize = 5;

type Verdicts = BTreeMap<&'static str, u64>;

/// One look at all engines.
struct Look {
    at: Instant,
    verdicts: Vec<Verdicts>,
}

impl Look {
    fn at(engines: &[Engine]) -> Result<Self> {
        let of = |engine: &Engine| Ok(engine.steering.counters()?.verdicts);
        Ok(Self {
            at: Instant::now(),
            verdicts: engines.iter().map(of).collect::<Result<_>>()?,
        })
    }
}

/// From its start on.
pub(crate) struct Watch {
    looks: Vec<Look>,
    engines_cpu: Duration,
    machine: Machine,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Watched {
    /// By verdict, of all engines.
    pub(crate) packets: Verdicts,
    /// Copies that all engines sent.
    pub(crate) copies: u64,
    /// Most copies of one engine against the most that its budget may allow in that time, in percent.
    pub(crate) ceiling_percent: f64,
    /// Most copies of one engine in about a second.
    pub(crate) peak_per_s: f64,
    /// Of all engines' processes, in cores.
    pub(crate) engine_cores: f64,
    /// Of the whole machine, in cores.
    pub(crate) busy_cores: f64,
}

impl Watched {
    pub(crate) fn sum(&self, verdicts: &[&str]) -> u64 {
        verdicts
            .iter()
            .map(|v| self.packets.get(v).copied().unwrap_or(0))
            .sum()
    }
}

impl Watch {
    pub(crate) fn start(engines: &[Engine]) -> Result<Self> {
        Ok(Self {
            looks: vec![Look::at(engines)?],
            engines_cpu: cpu(engines)?,
            machine: Machine::now()?,
        })
    }

    pub(crate) fn look(&mut self, engines: &[Engine]) -> Result<()> {
        self.looks.push(Look::at(engines)?);
        Ok(())
    }

    pub(crate) fn end(mut self, engines: &[Engine]) -> Result<Watched> {
        self.look(engines)?;
        let (first, last) = (&self.looks[0], &self.looks[self.looks.len() - 1]);
        let seconds = (last.at - first.at).as_secs_f64();
        let others = engines.len() - 1;
        let mut packets = Verdicts::new();
        let mut copies = 0;
        for (before, after) in first.verdicts.iter().zip(&last.verdicts) {
            copies += sent(before, after, others);
            for (&verdict, count) in after {
                *packets.entry(verdict).or_default() += count - before[verdict];
            }
        }
        let (spans, ceiling) = (|| spans(&self.looks, others), ceiling(others));
        Ok(Watched {
            packets,
            copies,
            ceiling_percent: spans()
                .map(|s| s.copies as f64 / s.allowed(ceiling) * 100.0)
                .fold(0.0, f64::max),
            peak_per_s: spans()
                .filter(|s| s.looks == LOOKS)
                .map(|s| s.per_s())
                .fold(0.0, f64::max),
            engine_cores: (cpu(engines)? - self.engines_cpu).as_secs_f64() / seconds,
            busy_cores: Machine::now()?.since(&self.machine) / seconds,
        })
    }
}

fn cpu(engines: &[Engine]) -> Result<Duration> {
    engines.iter().map(|engine| engine.speaker.cpu()).sum()
}

/// The most that a budget ever allows; an engine's own follows what happens, and is mostly far below.
fn ceiling(others: usize) -> Rate {
    let (mut pace, now) = (Pace::new(), Instant::now());
    pace.on_event(now);
    pace.rate(now, others)
}

/// Copies of one engine between two looks.
struct Span {
    looks: usize,
    copies: u64,
    seconds: f64,
}

impl Span {
    /// The burst, and what has come in meanwhile.
    fn allowed(&self, rate: Rate) -> f64 {
        f64::from(rate.burst) + f64::from(rate.copies_per_s) * self.seconds
    }

    fn per_s(&self) -> f64 {
        self.copies as f64 / self.seconds
    }
}

fn spans(looks: &[Look], others: usize) -> impl Iterator<Item = Span> {
    let distances = (1..=LOOKS).chain([looks.len() - 1]);
    let pairs = distances.flat_map(move |distance| {
        let after = looks.iter().skip(distance);
        looks.iter().zip(after).map(move |pair| (distance, pair))
    });
    pairs.flat_map(move |(distance, (from, to))| {
        let engines = from.verdicts.iter().zip(&to.verdicts);
        engines.map(move |(before, after)| Span {
            looks: distance,
            copies: sent(before, after, others),
            seconds: (to.at - from.at).as_secs_f64(),
        })
    })
}

/// At most: who has denied a packet is not asked about it again.
fn sent(before: &Verdicts, after: &Verdicts, others: usize) -> u64 {
    let of = |verdict| after[verdict] - before[verdict];
    (of("probe") + of("probe_error") + of("probe_fragment")) * others as u64
}

/// What the machine's cores have done, in ticks.
struct Machine {
    busy: f64,
}

impl Machine {
    fn now() -> Result<Self> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().context("a line of all cores")?;
        let fields = line.split_whitespace().skip(1).map(str::parse);
        let ticks: Vec<f64> = fields.collect::<Result<_, _>>()?;
        // user nice system idle iowait irq softirq steal; guests are in user (proc_stat(5)).
        let busy = [0, 1, 2, 5, 6].map(|index| ticks.get(index).copied().unwrap_or(0.0));
        Ok(Self {
            busy: busy.iter().sum(),
        })
    }

    /// In seconds of a core.
    fn since(&self, before: &Self) -> f64 {
        (self.busy - before.busy) / TICKS_PER_S
    }
}

/// Memory that is to be had, in MiB.
pub(crate) fn available_mib() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let kib = line
        .and_then(|l| l.split_whitespace().next())
        .context("MemAvailable")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(at: Instant, probes: u64) -> Look {
        let verdicts = [("probe", probes), ("probe_error", 0), ("probe_fragment", 0)];
        Look {
            at,
            verdicts: vec![verdicts.into()],
        }
    }

    #[test]
    fn a_burst_of_one_look_is_seen_in_the_shortest_span() {
        let start = Instant::now();
        let at = |n: u32| start + Duration::from_millis(200) * n;
        let looks: Vec<Look> = (0..10)
            .map(|n| look(at(n), if n < 5 { 0 } else { 100 }))
            .collect();
        let most = spans(&looks, 3).map(|s| s.per_s()).fold(0.0, f64::max);
        assert!((most - 1500.0).abs() < 1.0, "{most}");
        assert!(spans(&looks, 3).any(|s| s.looks == 9 && s.copies == 300));
    }
}
