//! What an engine and its host carry, from its counters of two reports. Pure.

use super::metric::{Host, Share};
use proto::v1::{EngineLoad, EngineStats};

/// `before`: what the report before has told; none where this is the first of a session.
pub(super) fn carried(stats: &EngineStats, before: Option<EngineLoad>) -> Host {
    let now = Host {
        resident: stats.rss_bytes,
        memory: stats.load.map(memory).unwrap_or_default(),
        ..Host::default()
    };
    match before.zip(stats.load) {
        Some((old, new)) => between(old, new, now),
        None => now,
    }
}

/// None where the size of the memory is not known: then its quotient is none.
fn memory(load: EngineLoad) -> Share {
    let (all, available) = (load.host_memory_bytes, load.host_memory_available_bytes);
    Share::new(all.saturating_sub(available), all)
}

/// What is lower than before is not counted: an interface has lost its addresses, or the host was started anew.
fn between(old: EngineLoad, new: EngineLoad, now: Host) -> Host {
    let grown = |of: fn(EngineLoad) -> u64| of(new).saturating_sub(of(old));
    let own_ms = grown(|l| l.at_ms) * u64::from(new.processors);
    let links: [fn(EngineLoad) -> u64; 4] = [
        |l| l.rx_bytes,
        |l| l.tx_bytes,
        |l| l.rx_packets,
        |l| l.tx_packets,
    ];
    Host {
        own_cpu: Share::new(grown(|l| l.process_cpu_ms), own_ms),
        cpu: Share::new(grown(|l| l.host_busy_ms), grown(|l| l.host_cpu_ms)),
        links: Some(links.map(grown)),
        ..now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At a second, with one of four processors of the host at work, half of that for the engine, which may use two.
    fn load(at_s: u64) -> EngineLoad {
        EngineLoad {
            at_ms: 1000 * at_s,
            processors: 2,
            process_cpu_ms: 500 * at_s,
            host_busy_ms: 1000 * at_s,
            host_softirq_ms: 0,
            host_cpu_ms: 4000 * at_s,
            rx_packets: 10 * at_s,
            rx_bytes: 1000 * at_s,
            tx_packets: 20 * at_s,
            tx_bytes: 3000 * at_s,
            host_memory_bytes: 8000,
            host_memory_available_bytes: 6000,
        }
    }

    fn stats(load: Option<EngineLoad>) -> EngineStats {
        EngineStats {
            rss_bytes: 100,
            load,
            ..EngineStats::default()
        }
    }

    #[test]
    fn rates_need_two_reports_and_memory_one() {
        let first = carried(&stats(Some(load(10))), None);
        assert_eq!((first.resident, first.links), (100, None));
        assert_eq!(first.memory, Share::new(2000, 8000));
        assert_eq!(first.cpu, Share::default());
        let next = carried(&stats(Some(load(15))), Some(load(10)));
        assert_eq!(next.cpu, Share::new(5000, 20_000));
        assert_eq!(next.own_cpu, Share::new(2500, 10_000));
        assert_eq!(next.links, Some([5000, 15_000, 50, 100]));
    }

    #[test]
    fn an_older_engine_tells_its_resident_memory_alone() {
        let old = carried(&stats(None), None);
        let expected = Host {
            resident: 100,
            ..Host::default()
        };
        assert_eq!(old, expected);
        let no_memory = EngineLoad {
            host_memory_bytes: 0,
            host_memory_available_bytes: 0,
            ..load(15)
        };
        let told = carried(&stats(Some(no_memory)), Some(load(10)));
        assert_eq!(told.memory, Share::default());
    }

    #[test]
    fn an_interface_that_loses_its_addresses_is_no_burst_of_traffic() {
        let lost = EngineLoad {
            rx_bytes: 3,
            ..load(15)
        };
        let told = carried(&stats(Some(lost)), Some(load(10)));
        assert_eq!(told.links, Some([0, 15_000, 50, 100]));
    }
}
