//! Which metrics there are, of what, in which unit, and how each is read from a row. Pure.

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

    /// Its metrics.
    pub fn metrics(self) -> impl Iterator<Item = &'static Metric> {
        let (shared, own): (&[Metric], &[Metric]) = match self {
            Self::VirtualService => (&CLIENTS, &SERVICE),
            Self::ServiceEngine => (&CLIENTS, &ENGINE),
            Self::Pool => (&[], &POOL),
            Self::Controller => (&[], &PROCESS),
        };
        shared.iter().chain(own)
    }

    /// Whether a figure of its rows counts what came in the step: longer steps have the sum, and not the mean.
    pub fn is_count(self, column: usize) -> bool {
        matches!(self, Self::VirtualService | Self::ServiceEngine) && column == RESPONSES
    }
}

/// Where rows have the number of responses.
const RESPONSES: usize = 11;
/// What nobody has told.
const UNKNOWN: f32 = f32::NAN;

/// What has come in a time; counts, and what is open or used at most. What nobody has told is none. What most do not have
/// is boxed: there are some of these for each of thousands.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Figures {
    /// Received and sent: from clients and to them, of a pool from servers and to them.
    pub bytes: Option<[u64; 2]>,
    pub begun: u64,
    pub ended: u64,
    /// Most connections that were open.
    pub open: u64,
    /// Connections that no server took.
    pub dropped: Option<u64>,
    /// By class of status, from 1xx.
    pub responses: Option<Box<[u64; 5]>>,
    pub host: Option<Box<Host>>,
}

/// Of an engine or the controller: its process, and its host.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Host {
    /// Resident memory of the process at last, in bytes.
    pub resident: u64,
    /// Processors' time of the process.
    pub own_cpu: Share,
    /// Processors' time of the host, of an engine alone.
    pub cpu: Share,
    /// Memory: of an engine the host's that is not available, of the controller the process's.
    pub memory: Share,
    /// Bytes received and sent by the data interfaces, and packets.
    pub links: Option<[u64; 4]>,
}

/// What was used, and of how much; added up, its quotient is the mean.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Share {
    pub used: f64,
    pub of: f64,
}

impl Share {
    pub(super) fn new(used: u64, of: u64) -> Self {
        let (used, of) = (used as f64, of as f64);
        Self { used, of }
    }

    fn add(&mut self, other: Self) {
        self.used += other.used;
        self.of += other.of;
    }

    fn percent(self) -> f32 {
        match self.of > 0.0 {
            true => (100.0 * self.used / self.of) as f32,
            false => UNKNOWN,
        }
    }
}

/// Adds what is told to what others have told.
fn add_to<T: Clone>(all: &mut Option<T>, more: Option<&T>, add: impl FnOnce(&mut T, &T)) {
    match (all.as_mut(), more) {
        (Some(all), Some(more)) => add(all, more),
        (None, Some(more)) => *all = Some(more.clone()),
        (_, None) => {}
    }
}

fn add_each(all: &mut [u64], more: &[u64]) {
    for (all, more) in all.iter_mut().zip(more) {
        *all += more;
    }
}

impl Figures {
    pub(super) fn add(&mut self, other: &Self) {
        add_to(&mut self.bytes, other.bytes.as_ref(), |a, b| add_each(a, b));
        self.begun += other.begun;
        self.ended += other.ended;
        self.open = self.open.max(other.open);
        add_to(&mut self.dropped, other.dropped.as_ref(), |a, b| *a += b);
        add_to(&mut self.responses, other.responses.as_ref(), |a, b| {
            add_each(a.as_mut_slice(), b.as_slice());
        });
        add_to(&mut self.host, other.host.as_ref(), |a, b| a.add(b));
    }

    /// As it is kept; `lasted_s` is the time in which it came.
    pub(super) fn row(&self, kind: Kind, lasted_s: u64, score: f32) -> Vec<f32> {
        match kind {
            Kind::VirtualService => [self.clients(lasted_s), vec![score]].concat(),
            Kind::ServiceEngine => [self.clients(lasted_s), self.host().engine(lasted_s)].concat(),
            Kind::Pool => self.servers(lasted_s),
            Kind::Controller => self.host().controller(),
        }
    }

    fn host(&self) -> Host {
        self.host.as_deref().copied().unwrap_or_default()
    }

    fn clients(&self, lasted_s: u64) -> Vec<f32> {
        let [rx, tx] = rates(self.bytes, lasted_s);
        let (begun, ended) = (rate(self.begun, lasted_s), rate(self.ended, lasted_s));
        let [dropped] = rates(self.dropped.map(|count| [count]), lasted_s);
        let classes = self.responses.as_deref().copied();
        let [c1, c2, c3, c4, c5] = rates(classes, lasted_s);
        let all = classes.map(|classes| classes.iter().sum::<u64>());
        let all = all.map_or(UNKNOWN, |count| count as f32);
        let open = self.open as f32;
        vec![rx, tx, begun, ended, open, dropped, c1, c2, c3, c4, c5, all]
    }

    fn servers(&self, lasted_s: u64) -> Vec<f32> {
        let [rx, tx] = rates(self.bytes, lasted_s);
        let (begun, ended) = (rate(self.begun, lasted_s), rate(self.ended, lasted_s));
        vec![begun, ended, self.open as f32, rx, tx]
    }
}

impl Host {
    fn add(&mut self, other: &Self) {
        self.resident = other.resident;
        self.own_cpu.add(other.own_cpu);
        self.cpu.add(other.cpu);
        self.memory.add(other.memory);
        add_to(&mut self.links, other.links.as_ref(), |a, b| add_each(a, b));
    }

    fn engine(&self, lasted_s: u64) -> Vec<f32> {
        let resident = self.resident as f32;
        let shares = [self.cpu, self.memory, self.own_cpu];
        let [cpu, memory, own_cpu] = shares.map(Share::percent);
        let [rx, tx, rx_packets, tx_packets] = rates(self.links, lasted_s);
        vec![
            resident, cpu, memory, own_cpu, rx, tx, rx_packets, tx_packets,
        ]
    }

    fn controller(&self) -> Vec<f32> {
        let resident = self.resident as f32;
        vec![self.own_cpu.percent(), self.memory.percent(), resident]
    }
}

fn rate(count: u64, lasted_s: u64) -> f32 {
    (count as f64 / lasted_s as f64) as f32
}

fn rates<const N: usize>(counts: Option<[u64; N]>, lasted_s: u64) -> [f32; N] {
    let known = counts.map(|counts| counts.map(|count| rate(count, lasted_s)));
    known.unwrap_or([UNKNOWN; N])
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

    /// Its value in a row; none where nobody has told it.
    pub fn value(&self, row: &[f32]) -> Option<f32> {
        Some((self.of)(row)).filter(|value| !value.is_nan())
    }
}

/// The id of the health score.
pub const HEALTH_SCORE: &str = "healthscore.health_score_value";

const BITS: &str = "BITS_PER_SECOND";
const BYTES: &str = "BYTES_PER_SECOND";
const PER_SECOND: &str = "PER_SECOND";
const COUNT: &str = "METRIC_COUNT";
const PERCENT: &str = "PERCENT";

/// Of a virtual service, and of all that an engine has.
static CLIENTS: [Metric; 14] = [
    Metric::new("l4_client.avg_bandwidth", BITS, |r| 8.0 * (r[0] + r[1])),
    Metric::new("l4_client.avg_rx_bytes", BYTES, |r| r[0]),
    Metric::new("l4_client.avg_tx_bytes", BYTES, |r| r[1]),
    Metric::new("l4_client.avg_new_established_conns", PER_SECOND, |r| r[2]),
    Metric::new("l4_client.avg_complete_conns", PER_SECOND, |r| r[3]),
    Metric::new("l4_client.max_open_conns", COUNT, |r| r[4]),
    Metric::new("l4_client.avg_connections_dropped", PER_SECOND, |r| r[5]),
    Metric::new("l7_client.avg_complete_responses", PER_SECOND, |r| {
        r[6..RESPONSES].iter().sum()
    }),
    Metric::new("l7_client.avg_resp_1xx", PER_SECOND, |r| r[6]),
    Metric::new("l7_client.avg_resp_2xx", PER_SECOND, |r| r[7]),
    Metric::new("l7_client.avg_resp_3xx", PER_SECOND, |r| r[8]),
    Metric::new("l7_client.avg_resp_4xx", PER_SECOND, |r| r[9]),
    Metric::new("l7_client.avg_resp_5xx", PER_SECOND, |r| r[10]),
    Metric::new("l7_client.sum_total_responses", COUNT, |r| r[RESPONSES]),
];

static SERVICE: [Metric; 1] = [Metric::new(HEALTH_SCORE, COUNT, |r| r[12])];

static ENGINE: [Metric; 9] = [
    Metric::new("se_stats.rss_bytes", "BYTES", |r| r[12]),
    Metric::new("se_stats.avg_cpu_usage", PERCENT, |r| r[13]),
    Metric::new("se_stats.avg_mem_usage", PERCENT, |r| r[14]),
    Metric::new("se_stats.avg_process_cpu_usage", PERCENT, |r| r[15]),
    Metric::new("se_if.avg_bandwidth", BITS, |r| 8.0 * (r[16] + r[17])),
    Metric::new("se_if.avg_rx_bytes", BYTES, |r| r[16]),
    Metric::new("se_if.avg_tx_bytes", BYTES, |r| r[17]),
    Metric::new("se_if.avg_rx_pkts", PER_SECOND, |r| r[18]),
    Metric::new("se_if.avg_tx_pkts", PER_SECOND, |r| r[19]),
];

static POOL: [Metric; 6] = [
    Metric::new("l4_server.avg_new_established_conns", PER_SECOND, |r| r[0]),
    Metric::new("l4_server.avg_complete_conns", PER_SECOND, |r| r[1]),
    Metric::new("l4_server.max_open_conns", COUNT, |r| r[2]),
    Metric::new("l4_server.avg_bandwidth", BITS, |r| 8.0 * (r[3] + r[4])),
    Metric::new("l4_server.avg_rx_bytes", BYTES, |r| r[3]),
    Metric::new("l4_server.avg_tx_bytes", BYTES, |r| r[4]),
];

static PROCESS: [Metric; 3] = [
    Metric::new("controller_stats.avg_cpu_usage", PERCENT, |r| r[0]),
    Metric::new("controller_stats.avg_mem_usage", PERCENT, |r| r[1]),
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

    /// All kinds, with how many figures their rows have.
    fn kinds() -> impl Iterator<Item = (Kind, usize)> {
        let kinds = [
            Kind::VirtualService,
            Kind::Pool,
            Kind::ServiceEngine,
            Kind::Controller,
        ];
        let row = |kind| Figures::default().row(kind, 1, 0.0);
        kinds.into_iter().map(move |kind| (kind, row(kind).len()))
    }

    #[test]
    fn every_metric_has_its_figure_in_the_rows_of_its_kind() {
        for (kind, columns) in kinds() {
            let row: Vec<f32> = (1..).map(|n: u8| f32::from(n)).take(columns).collect();
            let values = kind.metrics().map(|m| m.value(&row).expect("known"));
            let mut values: Vec<f32> = values.collect();
            values.sort_by(f32::total_cmp);
            values.dedup();
            assert_eq!(
                values.len(),
                kind.metrics().count(),
                "{kind:?}: each another one"
            );
            let is_read = |figure: &f32| values.contains(figure);
            assert!(row.iter().all(is_read), "{kind:?}: all are read");
        }
    }

    #[test]
    fn responses_are_a_count_and_all_else_is_no_count() {
        let mut counts = Vec::new();
        for (kind, columns) in kinds() {
            counts.extend((0..columns).filter(|c| kind.is_count(*c)));
        }
        assert_eq!(counts, [RESPONSES, RESPONSES]);
        let figures = Figures {
            responses: Some(Box::new([1, 2, 3, 4, 0])),
            ..Figures::default()
        };
        let row = figures.row(Kind::VirtualService, 5, 0.0);
        let value = |id: &str| {
            let mut metrics = Kind::VirtualService.metrics();
            metrics.find(|m| m.id == id).expect("there").value(&row)
        };
        assert_eq!(value("l7_client.sum_total_responses"), Some(10.0));
        assert_eq!(value("l7_client.avg_complete_responses"), Some(2.0));
        assert_eq!(value("l7_client.avg_resp_4xx"), Some(0.8));
    }

    #[test]
    fn what_nobody_tells_is_not_zero_and_what_one_tells_is_told() {
        let mut figures = Figures::default();
        let unknown = figures.row(Kind::ServiceEngine, 5, 0.0);
        let known = |row: &[f32]| {
            let metrics = Kind::ServiceEngine.metrics();
            let known = metrics.filter(|m| m.value(row).is_some());
            known.map(|m| m.id).collect::<Vec<_>>()
        };
        let counted = [
            "l4_client.avg_new_established_conns",
            "l4_client.avg_complete_conns",
            "l4_client.max_open_conns",
            "se_stats.rss_bytes",
        ];
        assert_eq!(known(&unknown), counted);
        figures.add(&Figures {
            dropped: Some(10),
            ..Figures::default()
        });
        figures.add(&Figures::default());
        let row = figures.row(Kind::ServiceEngine, 5, 0.0);
        assert_eq!(known(&row).len(), counted.len() + 1);
    }

    #[test]
    fn a_share_of_several_times_is_their_mean() {
        let mut figures = Figures::default();
        for (used, of) in [(5, 10), (100, 190)] {
            let host = Host {
                cpu: Share::new(used, of),
                ..Host::default()
            };
            figures.add(&Figures {
                host: Some(Box::new(host)),
                ..Figures::default()
            });
        }
        assert_eq!(figures.host().cpu.percent(), 52.5);
        assert!(Share::default().percent().is_nan());
    }
}
