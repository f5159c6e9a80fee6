//! What one engine has carried over a while, and what part of it was one VIP's. Pure.

use placement::autoscale::{Criterion, Load};
use proto::v1::{EngineLoad, VirtualServiceStatus};
use std::sync::Arc;

/// What an engine has counted of some virtual services together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Counted {
    /// Connections that are open.
    open: u64,
    /// Connections so far.
    begun: u64,
    /// Bytes so far, both ways.
    bytes: u64,
}

impl Counted {
    pub(super) fn of(status: &VirtualServiceStatus) -> Self {
        Self {
            open: status.open_connections,
            begun: status.total_connections,
            bytes: status.bytes_in + status.bytes_out,
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.open += other.open;
        self.begun += other.begun;
        self.bytes += other.bytes;
    }
}

/// What an engine says at one moment.
#[derive(Debug, Clone)]
pub(super) struct Carried {
    /// Of its host; an older engine does not say it. Shared by all VIPs on the engine.
    pub load: Option<Arc<EngineLoad>>,
    /// Of all virtual services.
    pub all: Counted,
    /// Of those of the VIP.
    pub own: Counted,
}

/// See the module's documentation.
pub(super) struct Window {
    first: Carried,
    last: Carried,
    /// Sums of the open connections of each look.
    open_all: u64,
    open_own: u64,
    looks: u64,
}

impl Window {
    /// That begins with this.
    pub(super) fn new(first: Carried) -> Self {
        let mut window = Self {
            last: first.clone(),
            first: first.clone(),
            open_all: 0,
            open_own: 0,
            looks: 0,
        };
        window.count(&first);
        window
    }

    /// Begins again with what was seen last.
    pub(super) fn begin_anew(&mut self) {
        *self = Self::new(self.last.clone());
    }

    /// Of a process that has started anew nothing can be compared with what was before.
    pub(super) fn look(&mut self, now: Carried) {
        let at = |c: &Carried| c.load.as_ref().map(|l| l.at_ms);
        if at(&now) < at(&self.last) || at(&self.first).is_none() {
            self.first = now.clone();
        }
        self.count(&now);
        self.last = now;
    }

    fn count(&mut self, now: &Carried) {
        self.open_all += now.all.open;
        self.open_own += now.own.open;
        self.looks += 1;
    }

    /// By this criterion, in its unit; `vips` have flows on the engine. Nothing where too little was reported.
    pub(super) fn load(&self, criterion: Criterion, vips: usize) -> Option<Load> {
        let whole = |total: f64| Load {
            total,
            own: total * self.part(vips),
        };
        Some(match criterion {
            Criterion::OpenConns => Load {
                total: self.open_all as f64 / self.looks as f64,
                own: self.open_own as f64 / self.looks as f64,
            },
            Criterion::Cps => Load {
                total: self.per_s(self.first.all.begun, self.last.all.begun)?,
                own: self.per_s(self.first.own.begun, self.last.own.begun)?,
            },
            Criterion::Cpu => {
                let (total, engine) = self.cpu_percent()?;
                let own = engine * self.part(vips);
                Load { total, own }
            }
            Criterion::Pps => whole(self.counter_per_s(|l| l.rx_packets)?),
            Criterion::Mbps => whole(self.counter_per_s(|l| l.rx_bytes)? * 8.0 / 1e6),
        })
    }

    fn ends(&self) -> Option<(EngineLoad, EngineLoad)> {
        let ends = (*self.first.load.as_deref()?, *self.last.load.as_deref()?);
        (ends.1.at_ms > ends.0.at_ms).then_some(ends)
    }

    fn per_s(&self, first: u64, last: u64) -> Option<f64> {
        let (from, to) = self.ends()?;
        let elapsed_s = (to.at_ms - from.at_ms) as f64 / 1000.0;
        Some(last.saturating_sub(first) as f64 / elapsed_s)
    }

    fn counter_per_s(&self, counter: impl Fn(EngineLoad) -> u64) -> Option<f64> {
        let (from, to) = self.ends()?;
        self.per_s(counter(from), counter(to))
    }

    /// How much of the host's processors is at work, and how much for the engine: its process, and the kernel's network. Of
    /// a process that may use few of them, what it uses of those, if that is more.
    fn cpu_percent(&self) -> Option<(f64, f64)> {
        let (from, to) = self.ends()?;
        let grown = |of: fn(EngineLoad) -> u64| of(to).saturating_sub(of(from));
        let percent = |used_ms: u64, of_ms: u64| 100.0 * used_ms as f64 / of_ms.max(1) as f64;
        let process_ms = grown(|l| l.process_cpu_ms);
        let host_ms = grown(|l| l.host_cpu_ms);
        let quota_ms = grown(|l| l.at_ms) * u64::from(to.processors.max(1));
        let of_quota = percent(process_ms, quota_ms);
        let total = percent(grown(|l| l.host_busy_ms), host_ms).max(of_quota);
        let engine = percent(process_ms + grown(|l| l.host_softirq_ms), host_ms).max(of_quota);
        Some((total, engine.min(total)))
    }

    /// The VIP's part of what is counted of the engine as a whole: by bytes; without any, by open connections; else all VIPs
    /// are alike.
    fn part(&self, vips: usize) -> f64 {
        let grown = |of: fn(&Carried) -> u64| of(&self.last).saturating_sub(of(&self.first));
        let (own, all) = (grown(|c| c.own.bytes), grown(|c| c.all.bytes));
        match (all, self.open_all) {
            (0, 0) => 1.0 / vips.max(1) as f64,
            (0, open) => self.open_own as f64 / open as f64,
            (all, _) => own.min(all) as f64 / all as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At a second, with so much counted for each of them.
    fn carried(at_s: u64, open: u64, per_s: u64) -> Carried {
        let counted = |part: u64| Counted {
            open: open * part,
            begun: at_s * per_s * part,
            bytes: at_s * 1000 * part,
        };
        Carried {
            load: Some(Arc::new(EngineLoad {
                at_ms: at_s * 1000,
                processors: 1,
                process_cpu_ms: at_s * 900,
                host_busy_ms: at_s * 1000,
                host_softirq_ms: at_s * 10,
                host_cpu_ms: at_s * 4000,
                rx_packets: at_s * 500,
                rx_bytes: at_s * 125_000,
                ..EngineLoad::default()
            })),
            all: counted(4),
            own: counted(1),
        }
    }

    fn load(window: &Window, criterion: Criterion) -> (f64, f64) {
        let load = window.load(criterion, 4).expect("known");
        (load.total, load.own)
    }

    #[test]
    fn rates_are_differences_over_the_engines_own_time_and_open_connections_a_mean() {
        let mut window = Window::new(carried(100, 10, 5));
        assert_eq!(window.load(Criterion::Cps, 4), None, "one look is no rate");
        assert_eq!(load(&window, Criterion::OpenConns), (40.0, 10.0));
        window.look(carried(110, 20, 5));
        assert_eq!(load(&window, Criterion::OpenConns), (60.0, 15.0));
        assert_eq!(load(&window, Criterion::Cps), (20.0, 5.0));
        assert_eq!(load(&window, Criterion::Pps), (500.0, 125.0));
        assert_eq!(load(&window, Criterion::Mbps), (1.0, 0.25));
        // A quarter of the host, and nearly all of what its process may have.
        assert_eq!(load(&window, Criterion::Cpu), (90.0, 22.5));
    }

    #[test]
    fn of_a_busy_host_the_engine_has_what_its_process_and_the_kernels_network_use() {
        let at = |at_s: u64| {
            let mut carried = carried(at_s, 1, 1);
            let load = Arc::make_mut(carried.load.as_mut().expect("given"));
            load.processors = 4;
            (load.host_busy_ms, load.process_cpu_ms) = (at_s * 3600, at_s * 300);
            load.host_softirq_ms = at_s * 100;
            carried.own = carried.all;
            carried
        };
        let mut window = Window::new(at(10));
        window.look(at(20));
        assert_eq!(load(&window, Criterion::Cpu), (90.0, 10.0));
    }

    #[test]
    fn a_new_window_begins_where_the_last_one_ended() {
        let mut window = Window::new(carried(100, 10, 5));
        window.look(carried(110, 30, 5));
        window.begin_anew();
        assert_eq!(load(&window, Criterion::OpenConns), (120.0, 30.0));
        assert_eq!(window.load(Criterion::Cpu, 4), None);
        let mut later = carried(120, 30, 5);
        later.own.begun = 5 * 110 + 70;
        window.look(later);
        assert_eq!(load(&window, Criterion::Cps).1, 7.0);
    }

    #[test]
    fn a_process_that_has_started_anew_is_not_compared_with_the_one_before() {
        let mut window = Window::new(carried(100, 10, 5));
        window.look(carried(2, 1, 5));
        assert_eq!(window.load(Criterion::Cps, 4), None);
        window.look(carried(4, 1, 5));
        assert_eq!(load(&window, Criterion::Cps), (20.0, 5.0));
        let mut older = carried(5, 3, 5);
        older.load = None;
        let window = Window::new(older);
        assert_eq!(window.load(Criterion::Pps, 4), None);
        assert_eq!(load(&window, Criterion::OpenConns), (12.0, 3.0));
    }

    #[test]
    fn without_bytes_the_part_is_that_of_the_connections_and_without_those_an_equal_one() {
        let quiet = |at_s: u64, open: u64| {
            let mut carried = carried(at_s, open, 0);
            (carried.all.bytes, carried.own.bytes) = (7, 0);
            carried
        };
        let mut window = Window::new(quiet(10, 8));
        window.look(quiet(20, 8));
        assert_eq!(load(&window, Criterion::Pps), (500.0, 125.0));
        let mut window = Window::new(quiet(10, 0));
        window.look(quiet(20, 0));
        let alone = window.load(Criterion::Pps, 1).expect("known");
        assert_eq!((alone.total, alone.own), (500.0, 500.0));
    }
}
