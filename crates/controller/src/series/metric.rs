//! Which metrics there are, of what, in which unit, and how each is read from a row. Pure.

/// Figures of the longest row.
pub(super) const COLUMNS_MAX: usize = 6;

/// What series are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// All engines of a virtual service together.
    VirtualService,
    /// All engines that use a pool together.
    Pool,
    /// All virtual services of an engine together.
    ServiceEngine,
    /// This process.
    Controller,
}

impl Kind {
    /// Path of its type.
    pub fn path(self) -> &'static str {
        match self {
            Self::VirtualService => "virtualservice",
            Self::Pool => "pool",
            Self::ServiceEngine => "serviceengine",
            Self::Controller => "controller",
        }
    }

    /// Figures of a row.
    pub(super) fn columns(self) -> usize {
        match self {
            Self::VirtualService | Self::ServiceEngine => COLUMNS_MAX,
            Self::Pool | Self::Controller => 3,
        }
    }

    /// Its metrics.
    pub fn metrics(self) -> &'static [Metric] {
        match self {
            Self::VirtualService => &SERVICE,
            Self::Pool => &POOL,
            Self::ServiceEngine => &ENGINE,
            Self::Controller => &PROCESS,
        }
    }
}

/// What has come in a time; counts, and what is open or used at most.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Figures {
    pub rx: u64,
    pub tx: u64,
    pub begun: u64,
    pub ended: u64,
    /// Most connections that were open.
    pub open: u64,
    /// Resident memory at last, in bytes.
    pub memory: u64,
    /// Of the controller: percent of the host's processors and memory.
    pub cpu: f64,
    pub memory_percent: f64,
}

impl Figures {
    pub(super) fn add(&mut self, other: &Self) {
        self.rx += other.rx;
        self.tx += other.tx;
        self.begun += other.begun;
        self.ended += other.ended;
        self.open = self.open.max(other.open);
        self.memory = other.memory;
        self.cpu = other.cpu;
        self.memory_percent = other.memory_percent;
    }

    /// As it is kept; `lasted_s` is the time in which it came.
    pub(super) fn row(&self, kind: Kind, lasted_s: u64, score: f32) -> [f32; COLUMNS_MAX] {
        let rate = |count: u64| (count as f64 / lasted_s as f64) as f32;
        let (open, memory) = (self.open as f32, self.memory as f32);
        let percents = (self.cpu as f32, self.memory_percent as f32);
        let (begun, ended) = (rate(self.begun), rate(self.ended));
        match kind {
            Kind::VirtualService => [rate(self.rx), rate(self.tx), begun, ended, open, score],
            Kind::ServiceEngine => [rate(self.rx), rate(self.tx), begun, ended, open, memory],
            Kind::Pool => [begun, ended, open, 0.0, 0.0, 0.0],
            Kind::Controller => [percents.0, percents.1, memory, 0.0, 0.0, 0.0],
        }
    }
}

/// A metric.
pub struct Metric {
    /// `metric_id`.
    pub id: &'static str,
    /// `units`.
    pub units: &'static str,
    of: fn(&[f32]) -> f32,
}

impl Metric {
    const fn new(id: &'static str, units: &'static str, of: fn(&[f32]) -> f32) -> Self {
        Self { id, units, of }
    }

    /// Its value in a row.
    pub fn value(&self, row: &[f32]) -> f32 {
        (self.of)(row)
    }
}

/// The id of the health score.
pub const HEALTH_SCORE: &str = "healthscore.health_score_value";

const BITS: &str = "BITS_PER_SECOND";
const BYTES: &str = "BYTES_PER_SECOND";
const PER_SECOND: &str = "PER_SECOND";
const COUNT: &str = "METRIC_COUNT";

static SERVICE: [Metric; 7] = [
    Metric::new("l4_client.avg_bandwidth", BITS, |r| 8.0 * (r[0] + r[1])),
    Metric::new("l4_client.avg_rx_bytes", BYTES, |r| r[0]),
    Metric::new("l4_client.avg_tx_bytes", BYTES, |r| r[1]),
    Metric::new("l4_client.avg_new_established_conns", PER_SECOND, |r| r[2]),
    Metric::new("l4_client.avg_complete_conns", PER_SECOND, |r| r[3]),
    Metric::new("l4_client.max_open_conns", COUNT, |r| r[4]),
    Metric::new(HEALTH_SCORE, COUNT, |r| r[5]),
];

static ENGINE: [Metric; 7] = [
    Metric::new("l4_client.avg_bandwidth", BITS, |r| 8.0 * (r[0] + r[1])),
    Metric::new("l4_client.avg_rx_bytes", BYTES, |r| r[0]),
    Metric::new("l4_client.avg_tx_bytes", BYTES, |r| r[1]),
    Metric::new("l4_client.avg_new_established_conns", PER_SECOND, |r| r[2]),
    Metric::new("l4_client.avg_complete_conns", PER_SECOND, |r| r[3]),
    Metric::new("l4_client.max_open_conns", COUNT, |r| r[4]),
    Metric::new("se_stats.rss_bytes", "BYTES", |r| r[5]),
];

static POOL: [Metric; 3] = [
    Metric::new("l4_server.avg_new_established_conns", PER_SECOND, |r| r[0]),
    Metric::new("l4_server.avg_complete_conns", PER_SECOND, |r| r[1]),
    Metric::new("l4_server.max_open_conns", COUNT, |r| r[2]),
];

static PROCESS: [Metric; 3] = [
    Metric::new("controller_stats.avg_cpu_usage", "PERCENT", |r| r[0]),
    Metric::new("controller_stats.avg_mem_usage", "PERCENT", |r| r[1]),
    Metric::new("controller_stats.rss_bytes", "BYTES", |r| r[2]),
];

/// What a series comes to (`statistics`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Statistics {
    /// Least and greatest, with their times.
    pub min: (u64, f32),
    /// See `min`.
    pub max: (u64, f32),
    /// All of them together.
    pub sum: f64,
    /// How many.
    pub count: usize,
    /// The newest.
    pub last: f32,
    /// By how much it grows per step: least squares.
    pub trend: f64,
}

impl Statistics {
    /// Of values by time; none without any.
    pub fn of(values: &[(u64, f32)]) -> Option<Self> {
        let (first, last) = (values.first()?, values.last()?);
        let mut all = Self {
            min: *first,
            max: *first,
            sum: 0.0,
            count: values.len(),
            last: last.1,
            trend: trend(values),
        };
        for (at, value) in values {
            if *value < all.min.1 {
                all.min = (*at, *value);
            }
            if *value > all.max.1 {
                all.max = (*at, *value);
            }
            all.sum += f64::from(*value);
        }
        Some(all)
    }

    /// The mean.
    pub fn mean(&self) -> f64 {
        let count = self.count as f64;
        self.sum / count
    }
}

fn trend(values: &[(u64, f32)]) -> f64 {
    let points = values
        .iter()
        .enumerate()
        .map(|(i, (_, y))| (i as f64, f64::from(*y)));
    let (mut n, mut x, mut y, mut xx, mut xy) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (px, py) in points {
        n += 1.0;
        x += px;
        y += py;
        xx += px * px;
        xy += px * py;
    }
    let divisor = n * xx - x * x;
    match divisor > 0.0 {
        true => (n * xy - x * y) / divisor,
        false => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_those_of_the_values() {
        let found = Statistics::of(&[(10, 1.0), (20, 5.0), (30, 3.0)]).unwrap();
        assert_eq!(
            (found.min, found.max, found.last),
            ((10, 1.0), (20, 5.0), 3.0)
        );
        assert!((found.mean() - 3.0).abs() < 1e-9);
        assert!((found.trend - 1.0).abs() < 1e-9, "{}", found.trend);
        assert_eq!(Statistics::of(&[]), None);
        assert!(Statistics::of(&[(1, 2.0)]).unwrap().trend.abs() < 1e-9);
    }

    #[test]
    fn every_metric_has_its_figure_in_the_rows_of_its_kind() {
        let kinds = [
            Kind::VirtualService,
            Kind::Pool,
            Kind::ServiceEngine,
            Kind::Controller,
        ];
        for kind in kinds {
            let row: Vec<f32> = (1..)
                .map(|n: u8| f32::from(n))
                .take(kind.columns())
                .collect();
            let mut values: Vec<f32> = kind.metrics().iter().map(|m| m.value(&row)).collect();
            values.sort_by(f32::total_cmp);
            values.dedup();
            assert_eq!(
                values.len(),
                kind.metrics().len(),
                "{kind:?}: each another one"
            );
        }
    }
}
