//! Flows while nodes come, go and die: our engines beside HAProxy with BIRD on each node and plain ECMP, with the same
//! client, servers and router. Each round builds the network anew; the systems take turns.

pub(crate) mod pool;
pub(crate) mod scene;

use crate::report::{self, Bar, Figures, Judged, verdict};
use anyhow::{Result, ensure};
use cli::output::Format;
use cli::output::table::{Column, Row};
use pool::System;
use scene::{Observed, Setting};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// From 4 to 5 next hops a router moves about half of the flows; a run that moved fewer than this proves nothing.
pub(crate) const MOVED_PERCENT_MIN: usize = 20;

#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Args {
    /// Rounds with each system.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Long-lived flows, each with a message and its answer five times a second.
    #[arg(long, default_value_t = 1000)]
    flows: usize,
    /// One round with 200 flows.
    #[arg(long)]
    short: bool,
}

impl Args {
    fn runs(self) -> usize {
        if self.short { 1 } else { self.runs }
    }

    fn flows(self) -> usize {
        if self.short { 200 } else { self.flows }
    }
}

/// What happens to the nodes, in this order; each step begins with new flows, which the router spreads by its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Hold,
    Join,
    Leave,
    Kill,
}

impl Step {
    const ALL: [Self; 4] = [Self::Hold, Self::Join, Self::Leave, Self::Kill];

    fn words(self) -> &'static str {
        match self {
            Self::Hold => "4 nodes, nothing happens",
            Self::Join => "4 -> 5",
            Self::Leave => "5 -> 4, drained",
            Self::Kill => "4 -> 3, killed",
        }
    }
}

type Round = BTreeMap<Step, Observed>;

/// Measures and prints; fails when a bar does not hold.
pub(crate) fn show(args: Args, output: Format) -> Result<()> {
    let rows = run(args)?;
    report::print(&rows, output);
    report::judge(&rows, args.short)
}

fn run(args: Args) -> Result<Vec<Compared>> {
    let mut rounds: [Vec<Round>; 2] = Default::default();
    for round in 0..args.runs() {
        for index in crate::bgp::turns(round) {
            let system = System::BOTH[index];
            let (number, all) = (round + 1, args.runs());
            cli::note!("{}: round {number} of {all}", system.name());
            rounds[index].push(play(system, args.flows())?);
        }
    }
    let rows = Step::ALL.into_iter().flat_map(|step| rows(step, &rounds));
    Ok(rows.collect())
}

/// Between two messages of a flow.
const INTERVAL: Duration = Duration::from_millis(200);

fn play(system: System, flows: usize) -> Result<Round> {
    let mut scene = scene::Scene::build(Setting {
        system,
        flows,
        interval: INTERVAL,
        keep_exchanges: false,
    })?;
    let mut round = Round::new();
    for step in Step::ALL {
        let observed = scene.step(step)?;
        cli::note!("  {}: {observed}", step.words());
        let enough = observed.moved * 100 >= flows * MOVED_PERCENT_MIN;
        ensure!(
            step != Step::Join || enough,
            "this run is invalid: the router moved {} of {flows} flows at 4 -> 5, fewer than {MOVED_PERCENT_MIN} %: repeat it",
            observed.moved
        );
        round.insert(step, observed);
    }
    Ok(round)
}

/// One thing measured of both systems.
#[derive(Debug, Serialize)]
struct Compared {
    what: String,
    unit: &'static str,
    evenkeel: Figures,
    haproxy: Figures,
    /// What we demand of ourselves.
    bar: Bar,
}

impl Judged for Compared {
    fn name(&self) -> String {
        self.what.clone()
    }

    fn bar(&self) -> Bar {
        self.bar
    }

    fn ours(&self) -> &Figures {
        &self.evenkeel
    }
}

impl Row for Compared {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("WHAT", |r| r.what.clone()),
        Column::new("UNIT", |r| r.unit.to_owned()),
        Column::new("EVENKEEL MEDIAN / MAX", |r| r.evenkeel.show()),
        Column::new("HAPROXY + ECMP MEDIAN / MAX", |r| r.haproxy.show()),
        Column::new("N", |r| r.evenkeel.samples.len().to_string()),
        Column::new("BAR", |r| r.bar.to_string()),
        Column::new("HOLDS", |r| verdict(r.holds())),
    ];
}

/// A row of a step, before it has values.
struct Figure {
    what: &'static str,
    unit: &'static str,
    of: fn(&Observed) -> f64,
    bar: Bar,
}

impl Figure {
    fn flows(what: &'static str, of: fn(&Observed) -> f64, bar: Bar) -> Self {
        let unit = "flows";
        Self {
            what,
            unit,
            of,
            bar,
        }
    }

    fn plain(what: &'static str, unit: &'static str, of: fn(&Observed) -> f64) -> Self {
        Self {
            what,
            unit,
            of,
            bar: Bar::NONE,
        }
    }

    fn row(self, step: Step, rounds: &[Vec<Round>; 2]) -> Compared {
        let [evenkeel, haproxy] = rounds.each_ref().map(|rounds| {
            let values = rounds.iter().map(|round| (self.of)(&round[&step]));
            Figures::new(values.collect())
        });
        Compared {
            what: format!("{}: {}", step.words(), self.what),
            unit: self.unit,
            evenkeel,
            haproxy,
            bar: self.bar,
        }
    }
}

fn rows(step: Step, rounds: &[Vec<Round>; 2]) -> Vec<Compared> {
    let none = Bar::max(0.0).in_short_runs();
    let kill = step == Step::Kill;
    let mut figures = vec![
        Figure::flows(
            "not opened at the first try",
            |o| o.unopened as f64,
            Bar::NONE,
        ),
        Figure::flows("moved by the router", |o| o.moved as f64, Bar::NONE),
        Figure::flows(
            "broken",
            |o| o.broken as f64,
            if kill { Bar::NONE } else { none },
        ),
    ];
    if kill {
        figures.extend([
            Figure::flows("lived at the killed node", |o| o.own as f64, Bar::NONE),
            Figure::flows(
                "broken elsewhere, or not broken there",
                |o| o.astray as f64,
                none,
            ),
        ]);
    }
    figures.extend([
        Figure::plain("longest gap of a surviving flow", "ms", |o| {
            o.longest_gap_ms
        }),
        Figure::plain("message and answer, median", "µs", |o| o.p50_us),
        Figure::plain("message and answer, p99", "µs", |o| o.p99_us),
        Figure::plain("repeated by the client", "segments", |o| o.repeated as f64),
    ]);
    figures
        .into_iter()
        .map(|figure| figure.row(step, rounds))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(broken: usize) -> Vec<Round> {
        let observed = Observed {
            broken,
            ..Observed::default()
        };
        vec![Step::ALL.map(|step| (step, observed.clone())).into()]
    }

    #[test]
    fn a_broken_flow_of_ours_misses_the_bar_and_one_of_the_peer_does_not() {
        let judged = |ours, peers| {
            let rows = rows(Step::Join, &[rounds(ours), rounds(peers)]);
            report::judge(&rows, true)
        };
        assert!(judged(0, 500).is_ok());
        let missed = judged(1, 0).unwrap_err().to_string();
        assert_eq!(missed, "bars that do not hold: 4 -> 5: broken: max <= 0");
    }

    #[test]
    fn a_kill_may_break_the_flows_of_the_killed_node_only() {
        let rows = rows(Step::Kill, &[rounds(250), rounds(700)]);
        assert!(report::judge(&rows, false).is_ok());
        let bars = rows.iter().filter(|row| row.bar != Bar::NONE);
        let what: Vec<&str> = bars.map(|row| row.what.as_str()).collect();
        assert_eq!(
            what,
            ["4 -> 3, killed: broken elsewhere, or not broken there"]
        );
    }
}
