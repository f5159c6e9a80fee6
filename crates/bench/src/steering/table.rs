//! What was measured of steering, as tables or JSON, and the targets.

use super::{Case, LEVELS, Samples};
use crate::report::Figures;
use cli::output::Format;
use cli::output::table::{self, Column, Row};
use serde::Serialize;

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    costs: Vec<Cost>,
    targets: Vec<Goal>,
}

/// One case.
#[derive(Debug, Serialize)]
struct Cost {
    what: &'static str,
    /// Nanoseconds per packet, by number of flows; none where it was not measured.
    by_flows: Vec<Option<AtFlows>>,
}

#[derive(Debug, Serialize)]
struct AtFlows {
    flows: usize,
    median: f64,
    min: f64,
    max: f64,
}

impl Cost {
    fn new(samples: &Samples, case: Case) -> Self {
        let at = |flows: &usize| {
            let figures = Figures::new(samples.of(case, *flows).to_vec());
            let min = figures.samples.iter().copied().min_by(f64::total_cmp)?;
            Some(AtFlows {
                flows: *flows,
                median: figures.median,
                min,
                max: figures.max,
            })
        };
        Self {
            what: case.words(),
            by_flows: LEVELS.iter().map(at).collect(),
        }
    }

    fn cell(&self, level: usize) -> String {
        let at = self.by_flows[level].as_ref();
        at.map_or(String::new(), |at| {
            format!("{:.0} ({:.0})", at.median, at.min)
        })
    }
}

impl Row for Cost {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("NS PER PACKET, MEDIAN (LEAST)", |r| r.what.to_owned()),
        Column::new("1 FLOW", |r| r.cell(0)),
        Column::new("4096", |r| r.cell(1)),
        Column::new("65536", |r| r.cell(2)),
        Column::new("524288", |r| r.cell(3)),
    ];
}

/// What we demand of ourselves.
#[derive(Debug, Serialize)]
struct Goal {
    what: &'static str,
    to: &'static str,
    most: f64,
    /// By number of flows.
    ratios: Vec<f64>,
    holds: bool,
}

impl Goal {
    fn new(what: Case, to: &'static str, most: f64, ratios: Vec<f64>) -> Self {
        let holds = ratios.iter().all(|ratio| *ratio <= most);
        Self {
            what: what.words(),
            to,
            most,
            ratios,
            holds,
        }
    }

    /// At every number of flows.
    fn beside(samples: &Samples, levels: &[usize], what: Case, bare: Case, most: f64) -> Self {
        let ratio = |flows: &usize| {
            let pairs = samples
                .of(what, *flows)
                .iter()
                .zip(samples.of(bare, *flows));
            Figures::new(pairs.map(|(ours, bare)| ours / bare).collect()).median
        };
        let ratios = levels.iter().map(ratio).collect();
        Self::new(what, bare.words(), most, ratios)
    }

    /// Against itself with one flow.
    fn flat(samples: &Samples, levels: &[usize], what: Case, most: f64) -> Self {
        let median = |flows: usize| Figures::new(samples.of(what, flows).to_vec()).median;
        let ratio = |flows: &usize| median(*flows) / median(levels[0]);
        let ratios = levels.iter().map(ratio).collect();
        Self::new(what, "itself with 1 flow", most, ratios)
    }
}

impl Row for Goal {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("TARGET", |r| r.what.to_owned()),
        Column::new("AGAINST", |r| r.to.to_owned()),
        Column::new("AT MOST", |r| format!("{:.2}", r.most)),
        Column::new("MEASURED", |r| {
            let all: Vec<String> = r.ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
            all.join(" ")
        }),
        Column::new("HOLDS", |r| if r.holds { "yes" } else { "NO" }.to_owned()),
    ];
}

impl Report {
    /// Numbers of flows: of others alone, and beside as many connections of ours.
    pub(super) fn new(samples: &Samples, alone: &[usize], beside: &[usize]) -> Self {
        let (hint, hint_beside) = (Case::Hint, Case::HintBeside);
        let (bare, bare_beside) = (Case::SocketEncap, Case::SocketEncapBeside);
        Self {
            costs: Case::ALL.map(|case| Cost::new(samples, case)).into(),
            targets: vec![
                Goal::beside(samples, alone, hint, bare, 1.25),
                Goal::beside(samples, beside, hint_beside, bare_beside, 1.25),
                Goal::flat(samples, alone, hint, 1.2),
                Goal::beside(samples, alone, Case::NotOurs, Case::Vip, 1.25),
            ],
        }
    }

    /// # Errors
    /// Targets that are missed, by name.
    pub(super) fn judge(&self) -> anyhow::Result<()> {
        let missed = self.targets.iter().filter(|goal| !goal.holds);
        let names: Vec<String> = missed
            .map(|goal| format!("{} against {}", goal.what, goal.to))
            .collect();
        anyhow::ensure!(
            names.is_empty(),
            "targets that are missed: {}",
            names.join("; ")
        );
        Ok(())
    }
}

/// Two tables, or one value.
pub(super) fn print(report: &Report, format: Format) {
    if format.is_structured() {
        return table::print_value(report, "", format);
    }
    table::print(&report.costs, format);
    cli::out!("");
    table::print(&report.targets, format);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Samples {
        let mut samples = Samples::default();
        for (case, flows, ns) in [
            (Case::NotOurs, 1, [20.0, 22.0, 40.0]),
            (Case::Vip, 1, [20.0, 20.0, 40.0]),
            (Case::NotOurs, 4096, [30.0, 30.0, 30.0]),
            (Case::Vip, 4096, [20.0, 20.0, 20.0]),
        ] {
            ns.into_iter().for_each(|ns| samples.add(case, flows, ns));
        }
        samples
    }

    #[test]
    fn a_target_holds_when_it_does_at_every_number_of_flows() {
        let goal =
            |levels: &[usize]| Goal::beside(&samples(), levels, Case::NotOurs, Case::Vip, 1.25);
        assert_eq!((goal(&[1]).ratios, goal(&[1]).holds), (vec![1.0], true));
        assert_eq!(goal(&[1, 4096]).ratios, [1.0, 1.5]);
        assert!(!goal(&[1, 4096]).holds);
    }

    #[test]
    fn a_case_against_itself_is_judged_by_its_medians() {
        let goal = Goal::flat(&samples(), &[1, 4096], Case::NotOurs, 1.2);
        assert_eq!(goal.ratios, [1.0, 30.0 / 22.0]);
        assert!(!goal.holds);
    }
}
