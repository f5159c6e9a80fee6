//! What steering costs flows: those that have not moved, in processor time, with its program at the uplink and without;
//! and those that move, in the delay of the first message after it, beside flows that stay.

mod local;
mod moved;

use crate::report::{self, Reading};
use anyhow::Result;
use cli::output::Format;

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

fn run(args: Args) -> Result<Vec<Reading>> {
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
