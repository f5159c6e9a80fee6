//! What was measured, as a table or JSON.

use cli::output::Format;
use cli::output::table::{self, Column, Row};
use serde::Serialize;
use std::fmt;
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
    pub(crate) bar: Bar,
}

/// A row with a bar.
pub(crate) trait Judged {
    fn name(&self) -> String;

    fn bar(&self) -> Bar;

    /// What the bar is about.
    fn ours(&self) -> &Figures;

    /// BIRD in the engine's place, where it was measured.
    fn bird(&self) -> Option<&Figures> {
        None
    }

    /// Whether the bar holds; `None` where there is none.
    fn holds(&self) -> Option<bool> {
        self.bar().holds(self.ours(), self.bird())
    }
}

impl Judged for Measured {
    fn name(&self) -> String {
        format!("{} ({})", self.what, self.router)
    }

    fn bar(&self) -> Bar {
        self.bar
    }

    fn ours(&self) -> &Figures {
        &self.evenkeel
    }

    fn bird(&self) -> Option<&Figures> {
        self.bird.as_ref()
    }
}

/// In the last column.
pub(crate) fn verdict(holds: Option<bool>) -> String {
    let word = match holds {
        None => "-",
        Some(true) => "yes",
        Some(false) => "NO",
    };
    word.to_owned()
}

/// How a short run is judged: one of few samples, in CI, on a machine that others use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Short {
    /// It is not.
    #[default]
    Not,
    /// As a long one.
    Whole,
    /// A time is missed when every sample misses it: what others do to one of them they seldom do to all.
    Best,
}

/// Upper bounds; those that are set must all hold.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub(crate) struct Bar {
    median: Option<f64>,
    max: Option<f64>,
    /// The median is at most this many percent above BIRD's.
    above_bird_percent: Option<f64>,
    #[serde(skip)]
    short: Short,
}

impl Bar {
    pub(crate) const NONE: Self = Self {
        median: None,
        max: None,
        above_bird_percent: None,
        short: Short::Not,
    };

    /// It must hold in a short run too.
    pub(crate) fn in_short_runs(self) -> Self {
        Self {
            short: Short::Whole,
            ..self
        }
    }

    /// In a short run one sample at least must be within it.
    pub(crate) fn at_best_in_short_runs(self) -> Self {
        Self {
            short: Short::Best,
            ..self
        }
    }

    pub(crate) fn median(bound: f64) -> Self {
        Self {
            median: Some(bound),
            ..Self::NONE
        }
    }

    pub(crate) fn max(bound: f64) -> Self {
        Self {
            max: Some(bound),
            ..Self::NONE
        }
    }

    pub(crate) fn near_bird(self, percent: f64) -> Self {
        Self {
            above_bird_percent: Some(percent),
            ..self
        }
    }

    pub(crate) fn holds(self, ours: &Figures, bird: Option<&Figures>) -> Option<bool> {
        let beside = self.above_bird_percent.zip(bird);
        let bounds = [
            self.median.map(|bound| ours.median <= bound),
            self.max.map(|bound| ours.max <= bound),
            beside.map(|(percent, bird)| ours.median <= bird.median * (1.0 + percent / 100.0)),
        ];
        let set: Vec<bool> = bounds.into_iter().flatten().collect();
        (!set.is_empty()).then(|| !set.contains(&false))
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bounds = [
            self.median.map(|bound| format!("median <= {bound}")),
            self.max.map(|bound| format!("max <= {bound}")),
            self.above_bird_percent
                .map(|percent| format!("median <= BIRD + {percent} %")),
        ];
        let set: Vec<String> = bounds.into_iter().flatten().collect();
        f.write_str(&set.join(", "))
    }
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

    /// Of the least sample alone.
    fn best(&self) -> Self {
        let least = self.samples.iter().copied().min_by(f64::total_cmp);
        Self::new(least.into_iter().collect())
    }

    pub(crate) fn of_times(times: &[Duration]) -> Self {
        Self::new(times.iter().map(|t| t.as_secs_f64() * 1000.0).collect())
    }

    pub(crate) fn show(&self) -> String {
        match self.samples.len() {
            1 => format!("{:.1}", self.median),
            _ => format!("{:.1} / {:.1}", self.median, self.max),
        }
    }
}

/// One thing measured with nothing beside it.
#[derive(Debug, Serialize)]
pub(crate) struct Reading {
    what: String,
    unit: &'static str,
    figures: Figures,
    /// What we demand of ourselves.
    bar: Bar,
}

impl Reading {
    pub(crate) fn new(
        what: impl Into<String>,
        unit: &'static str,
        samples: Vec<f64>,
        bar: Bar,
    ) -> Self {
        Self {
            what: what.into(),
            unit,
            figures: Figures::new(samples),
            bar,
        }
    }
}

impl Judged for Reading {
    fn name(&self) -> String {
        self.what.clone()
    }

    fn bar(&self) -> Bar {
        self.bar
    }

    fn ours(&self) -> &Figures {
        &self.figures
    }
}

impl Row for Reading {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("WHAT", |r| r.what.clone()),
        Column::new("UNIT", |r| r.unit.to_owned()),
        Column::new("MEDIAN / MAX", |r| r.figures.show()),
        Column::new("N", |r| r.figures.samples.len().to_string()),
        Column::new("BAR", |r| r.bar.to_string()),
        Column::new("HOLDS", |r| verdict(r.holds())),
    ];
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
        Column::new("BAR", |r| r.bar.to_string()),
        Column::new("HOLDS", |r| verdict(r.holds())),
    ];
}

/// The smallest sample that so many percent of all do not exceed; NaN of none.
pub(crate) fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or(f64::NAN)
}

/// Shows what was measured while more is being measured.
pub(crate) fn tell(rows: Vec<Measured>) -> Vec<Measured> {
    for row in &rows {
        let (ours, bird) = (row.evenkeel.show(), row.bird.as_ref().map(Figures::show));
        let beside = bird.map_or(String::new(), |bird| format!(", BIRD {bird}"));
        cli::note!("  {}: {ours} {}{beside}", row.what, row.unit);
    }
    rows
}

pub(crate) fn print<R: Row>(rows: &[R], format: Format) {
    table::print(rows, format);
}

/// # Errors
///
/// Bars that do not hold, by name; of a short run those that must hold there too.
pub(crate) fn judge<R: Judged>(rows: &[R], short: bool) -> anyhow::Result<()> {
    let holds = |row: &R| match (short, row.bar().short) {
        (false, _) | (true, Short::Whole) => row.holds(),
        (true, Short::Best) => row.bar().holds(&row.ours().best(), row.bird()),
        (true, Short::Not) => None,
    };
    let missed = rows.iter().filter(|row| holds(row) == Some(false));
    let names: Vec<String> = missed
        .map(|row| format!("{}: {}", row.name(), row.bar()))
        .collect();
    anyhow::ensure!(
        names.is_empty(),
        "bars that do not hold: {}",
        names.join("; ")
    );
    Ok(())
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

    #[test]
    fn a_percentile_is_the_sample_that_so_many_do_not_exceed() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&hundred, 99), 99.0);
        assert_eq!(percentile(&hundred, 50), 50.0);
        assert_eq!(percentile(&[7.0], 99), 7.0);
        assert!(percentile(&[], 99).is_nan());
    }

    #[test]
    fn a_short_run_misses_a_time_when_all_its_samples_do() {
        let reading = |samples: &[f64], bar: Bar| Reading::new("it", "ms", samples.to_vec(), bar);
        let misses = |samples: &[f64], bar: Bar, short: bool| {
            judge(&[reading(samples, bar)], short).is_err()
        };
        let bar = Bar::max(20.0);
        for (samples, bar, short, missed) in [
            ([10.0, 30.0], bar, false, true),
            ([10.0, 30.0], bar, true, false),
            ([10.0, 30.0], bar.in_short_runs(), true, true),
            ([10.0, 30.0], bar.at_best_in_short_runs(), true, false),
            ([10.0, 30.0], bar.at_best_in_short_runs(), false, true),
            ([25.0, 30.0], bar.at_best_in_short_runs(), true, true),
        ] {
            assert_eq!(misses(&samples, bar, short), missed, "{samples:?} {bar:?}");
        }
        assert!(
            misses(&[], bar.at_best_in_short_runs(), true),
            "nothing measured"
        );
    }

    #[test]
    fn every_bound_of_a_bar_must_hold_and_no_bound_says_nothing() {
        let (ours, bird) = (
            Figures::new(vec![10.0, 11.0, 30.0]),
            Figures::new(vec![10.0]),
        );
        let holds = |bar: Bar| bar.holds(&ours, Some(&bird));
        assert_eq!(holds(Bar::NONE), None);
        assert_eq!(holds(Bar::median(11.0)), Some(true));
        assert_eq!(holds(Bar::max(29.0)), Some(false));
        assert_eq!(holds(Bar::max(30.0).near_bird(10.0)), Some(true));
        assert_eq!(holds(Bar::max(30.0).near_bird(9.0)), Some(false));
        assert_eq!(
            Bar::max(30.0).near_bird(9.0).to_string(),
            "max <= 30, median <= BIRD + 9 %"
        );
    }
}
