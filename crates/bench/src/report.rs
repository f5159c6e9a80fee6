//! What was measured, as a table or JSON.

use cli::output::Format;
use cli::output::table::{self, Column, Row};
use serde::Serialize;
use std::time::Duration;

/// One thing measured on one router, ours beside the peer's.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) what: String,
    pub(crate) router: String,
    pub(crate) unit: &'static str,
    pub(crate) evenkeel: Figures,
    /// BIRD in the engine's place; none where there is nothing to compare with.
    pub(crate) bird: Option<Figures>,
    /// What we demand of ourselves.
    pub(crate) bar: String,
}

/// The samples and what matters of them.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) median: f64,
    pub(crate) max: f64,
    pub(crate) samples: Vec<f64>,
}

impl Figures {
    pub(crate) fn new(samples: Vec<f64>) -> Self {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        };
        let max = sorted.last().copied().unwrap_or(f64::NAN);
        Self {
            median,
            max,
            samples,
        }
    }

    pub(crate) fn of_times(times: &[Duration]) -> Self {
        Self::new(times.iter().map(|t| t.as_secs_f64() * 1000.0).collect())
    }

    fn show(&self) -> String {
        match self.samples.len() {
            1 => format!("{:.1}", self.median),
            _ => format!("{:.1} / {:.1}", self.median, self.max),
        }
    }
}

impl Row for Measured {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("WHAT", |r| r.what.clone()),
        Column::new("ROUTER", |r| r.router.clone()),
        Column::new("UNIT", |r| r.unit.to_owned()),
        Column::new("EVENKEEL MEDIAN / MAX", |r| r.evenkeel.show()),
        Column::new("BIRD MEDIAN / MAX", |r| {
            r.bird.as_ref().map(Figures::show).unwrap_or_default()
        }),
        Column::new("N", |r| r.evenkeel.samples.len().to_string()),
        Column::new("BAR", |r| r.bar.clone()),
    ];
}

pub(crate) fn print(rows: &[Measured], format: Format) {
    table::print(rows, format);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        let figures = Figures::new(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!((figures.median, figures.max), (2.5, 4.0));
        assert_eq!(Figures::new(vec![3.0, 1.0, 2.0]).median, 2.0);
    }
}
