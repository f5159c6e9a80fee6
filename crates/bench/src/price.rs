//! What steering costs flows: those that have not moved, in processor time, with its program at the uplink and without;
//! and those that move, in the delay of the first message after it, beside flows that stay.

mod local;
mod moved;

use crate::report::{self, Bar, Figures, Judged, verdict};
use anyhow::Result;
use cli::output::Format;
use cli::output::table::{Column, Row};
use serde::Serialize;

#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Args {
    /// Pairs of measurements of local traffic, with the program and without.
    #[arg(long, default_value_t = 20)]
    pairs: usize,
    /// Runs in which flows move, each way of finding their owners.
    #[arg(long, default_value_t = 10)]
    runs: usize,
    /// Long-lived flows, of which some move.
    #[arg(long, default_value_t = 1000)]
    flows: usize,
    /// Only this.
    #[arg(long)]
    part: Option<Part>,
    /// Two pairs, one run, 200 flows, less of everything: it runs, and only what does not depend on time must hold.
    #[arg(long)]
    short: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Flows that have not moved.
    Local,
    /// Flows that move.
    Moved,
}

/// Measures and prints; fails when a bar does not hold.
pub(crate) fn show(args: Args, output: Format) -> Result<()> {
    let rows = run(args)?;
    report::print(&rows, output);
    report::judge(&rows, args.short)
}

fn run(args: Args) -> Result<Vec<Priced>> {
    let wanted = |part| args.part.is_none_or(|only| only == part);
    let mut rows = Vec::new();
    if wanted(Part::Local) {
        rows.extend(local::run(args)?);
    }
    if wanted(Part::Moved) {
        rows.extend(moved::run(args)?);
    }
    Ok(rows)
}

/// One thing measured.
#[derive(Debug, Serialize)]
struct Priced {
    what: String,
    unit: &'static str,
    figures: Figures,
    /// What we demand of ourselves.
    bar: Bar,
}

impl Priced {
    fn new(what: String, unit: &'static str, samples: Vec<f64>, bar: Bar) -> Self {
        Self {
            what,
            unit,
            figures: Figures::new(samples),
            bar,
        }
    }
}

impl Judged for Priced {
    fn name(&self) -> String {
        self.what.clone()
    }

    fn bar(&self) -> Bar {
        self.bar
    }

    fn holds(&self) -> Option<bool> {
        self.bar.holds(&self.figures, None)
    }
}

impl Row for Priced {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("WHAT", |r| r.what.clone()),
        Column::new("UNIT", |r| r.unit.to_owned()),
        Column::new("MEDIAN / MAX", |r| r.figures.show()),
        Column::new("N", |r| r.figures.samples.len().to_string()),
        Column::new("BAR", |r| r.bar.to_string()),
        Column::new("HOLDS", |r| verdict(r.holds())),
    ];
}
