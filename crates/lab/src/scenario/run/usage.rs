//! What the engines' processes use: memory at a moment, time on a core between two.

use crate::nodes;
use crate::process::Identity;
use crate::record::Record;
use crate::scenario::judge::Used;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Bytes of a MiB.
const MIB: f64 = (1 << 20) as f64;

/// What all engines have used at a moment.
pub(super) struct Usage {
    at: Instant,
    /// Time on a core since each began.
    cpu: BTreeMap<Identity, Duration>,
    rss_bytes: Vec<u64>,
    bpf_bytes: Vec<u64>,
}

impl Usage {
    /// Looks at the processes of all engines that run.
    pub(super) fn now(record: &Record) -> Self {
        let engines = record.processes.iter();
        let engines = engines.filter(|p| p.name == nodes::ENGINE);
        let engines: Vec<_> = engines.map(|p| p.identity).collect();
        let cpu = engines.iter().filter_map(|e| Some((*e, e.cpu_time()?)));
        Self {
            at: Instant::now(),
            cpu: cpu.collect(),
            rss_bytes: engines.iter().filter_map(|e| e.rss_bytes()).collect(),
            bpf_bytes: engines.iter().map(|e| e.bpf_bytes()).collect(),
        }
    }

    /// What they use now, and have used on average since an earlier look.
    pub(super) fn since(&self, before: &Self) -> Used {
        let passed_s = (self.at - before.at).as_secs_f64();
        let cores = self.cpu.iter().filter_map(|(engine, cpu)| {
            let used = cpu.saturating_sub(*before.cpu.get(engine)?);
            Some(used.as_secs_f64() / passed_s)
        });
        Used::of(mib(&self.rss_bytes), mib(&self.bpf_bytes), cores.collect())
    }
}

fn mib(bytes: &[u64]) -> Vec<f64> {
    bytes.iter().map(|bytes| *bytes as f64 / MIB).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_on_a_core_is_that_between_two_looks_of_those_that_were_there() {
        let at = Instant::now();
        let engine = |pid| Identity {
            pid,
            start_ticks: 1,
        };
        let looked = |s: u64, cpu: &[(i32, u64)]| Usage {
            at: at + Duration::from_secs(s),
            cpu: cpu
                .iter()
                .map(|(pid, ms)| (engine(*pid), Duration::from_millis(*ms)))
                .collect(),
            rss_bytes: vec![10 << 20, 30 << 20, 20 << 20],
            bpf_bytes: vec![3 << 20, 5 << 20, 4 << 20],
        };
        let before = looked(0, &[(1, 1000), (2, 5000), (3, 10)]);
        let used = looked(2, &[(1, 1200), (2, 5600), (3, 410), (4, 9000)]).since(&before);
        let memory = [used.rss_mib_median, used.rss_mib_max, used.bpf_mib_max];
        assert_eq!(memory, [20.0, 30.0, 5.0]);
        assert!((used.cores_median - 0.2).abs() < 1e-9, "{used:?}");
        assert!((used.cores_max - 0.3).abs() < 1e-9, "{used:?}");
    }
}
