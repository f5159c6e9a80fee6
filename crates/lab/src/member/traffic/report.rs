//! What a client says of its flows.

use crate::member::now_us;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// A report: what happened since the last mark, except what is now.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Wall clock, microseconds.
    pub t_us: u64,
    /// Long-lived connections that work, now.
    pub alive: usize,
    /// Messages exchanged and found right.
    pub exchanges: u64,
    /// Long-lived connections that broke.
    pub broken: Vec<Failure>,
    /// Longest time that a flow waited: between a message and its answer, for more of a download, or until more of an upload was
    /// taken. Milliseconds.
    pub longest_gap_ms: u64,
    /// Median of the times between a message and its answer, microseconds; of the slowest client.
    pub p50_us: u64,
    /// What 99 of 100 of them do not exceed, microseconds; of the slowest client.
    pub p99_us: u64,
    /// Short connections that did all they should.
    pub short_ok: u64,
    /// Short connections that failed.
    pub short_failed: u64,
    /// The first of them.
    pub short_failures: Vec<Failure>,
    /// Connections by the SE that the server saw: first one (microseconds) and count.
    pub engines: BTreeMap<IpAddr, EngineShare>,
    /// Downloads that came whole and right.
    pub downloads_ok: u64,
    /// Downloads that did not.
    pub downloads_failed: Vec<Failure>,
    /// Source ports of downloads that were under way at some time.
    pub download_ports: BTreeSet<u16>,
    /// Uploads of which the server has got every byte, by its checksum.
    pub uploads_ok: u64,
    /// Uploads that failed.
    pub uploads_failed: Vec<Failure>,
    /// Source ports of uploads that were under way at some time.
    pub upload_ports: BTreeSet<u16>,
    /// UDP flows that work, now.
    pub datagram_flows: usize,
    /// Datagrams answered, rightly and by the same socket as before.
    pub datagrams: u64,
    /// Datagrams sent again because no answer came.
    pub datagrams_repeated: u64,
    /// UDP flows that broke.
    pub datagrams_broken: Vec<Failure>,
}

/// Connections over one SE.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct EngineShare {
    /// When the first connection over it worked, wall clock in microseconds.
    pub first_us: u64,
    /// Short connections since the last `share` order.
    pub share: u64,
}

/// A flow that broke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its source port.
    pub port: u16,
    /// Why, in a word.
    pub reason: String,
    /// The SE it went over, as far as the server had said so.
    pub engine: Option<IpAddr>,
    /// When, wall clock in microseconds.
    pub t_us: u64,
}

/// A message and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// Source port of the flow.
    pub port: u16,
    /// When the message was sent, wall clock in microseconds.
    pub sent_us: u64,
    /// Until its answer was there, microseconds.
    pub took_us: u64,
}

impl Exchange {
    /// One that ends now.
    pub(super) fn just_now(port: u16, took: Duration) -> Self {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        Self {
            port,
            sent_us: now_us().saturating_sub(took_us),
            took_us,
        }
    }
}

impl Report {
    /// Adds what another client says of the same time.
    pub fn add(&mut self, other: Self) {
        let Self {
            t_us,
            alive,
            exchanges,
            broken,
            longest_gap_ms,
            p50_us,
            p99_us,
            short_ok,
            short_failed,
            short_failures,
            engines,
            downloads_ok,
            downloads_failed,
            download_ports,
            uploads_ok,
            uploads_failed,
            upload_ports,
            datagram_flows,
            datagrams,
            datagrams_repeated,
            datagrams_broken,
        } = other;
        self.t_us = self.t_us.max(t_us);
        self.alive += alive;
        self.exchanges += exchanges;
        self.broken.extend(broken);
        self.longest_gap_ms = self.longest_gap_ms.max(longest_gap_ms);
        self.p50_us = self.p50_us.max(p50_us);
        self.p99_us = self.p99_us.max(p99_us);
        self.short_ok += short_ok;
        self.short_failed += short_failed;
        self.short_failures.extend(short_failures);
        for (engine, share) in engines {
            self.engines.entry(engine).or_default().add(share);
        }
        self.downloads_ok += downloads_ok;
        self.downloads_failed.extend(downloads_failed);
        self.download_ports.extend(download_ports);
        self.uploads_ok += uploads_ok;
        self.uploads_failed.extend(uploads_failed);
        self.upload_ports.extend(upload_ports);
        self.datagram_flows += datagram_flows;
        self.datagrams += datagrams;
        self.datagrams_repeated += datagrams_repeated;
        self.datagrams_broken.extend(datagrams_broken);
    }
}

impl EngineShare {
    /// Zero is no time: the other one has met the engine, or nobody.
    fn add(&mut self, other: Self) {
        self.first_us = match (self.first_us, other.first_us) {
            (0, first) | (first, 0) => first,
            (one, another) => one.min(another),
        };
        self.share += other.share;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(first_us: u64, share: u64, gap: u64) -> Report {
        Report {
            alive: 1,
            exchanges: 10,
            longest_gap_ms: gap,
            engines: BTreeMap::from([([10, 0, 0, 1].into(), EngineShare { first_us, share })]),
            download_ports: BTreeSet::from([u16::try_from(gap).unwrap()]),
            ..Report::default()
        }
    }

    #[test]
    fn reports_of_two_clients_are_one() {
        let mut sum = report(0, 3, 7);
        sum.add(report(20, 4, 5));
        sum.add(report(10, 1, 6));
        let engine = sum.engines[&IpAddr::from([10, 0, 0, 1])];
        assert_eq!((engine.first_us, engine.share), (10, 8));
        assert_eq!((sum.alive, sum.exchanges, sum.longest_gap_ms), (3, 30, 7));
        assert_eq!(sum.download_ports.len(), 3);
    }
}
