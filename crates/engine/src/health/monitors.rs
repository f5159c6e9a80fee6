//! What each monitor says of a server by itself; by all of them together it is up or down.

use super::{Probe, Table, lock, probes};
use health::{Failure, State};
use proto::v1::OperState;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Checks that an average looks back on: each new one counts for this part of it, and the last eight for two thirds.
const AVERAGED: u32 = 8;

/// What one monitor says of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitorHealth {
    /// uuid of the monitor.
    pub uuid: String,
    /// UP, DOWN, or INITIALIZING until it has looked.
    pub state: OperState,
    /// Why its last check failed, if it did; of one that is down, the last one that failed.
    pub failure: Option<Failure>,
    /// How long its checks take; none has passed yet.
    pub times: Option<ResponseTimes>,
}

/// How long the checks take that pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseTimes {
    recent: Duration,
    average: Duration,
}

impl ResponseTimes {
    /// After one more.
    pub(super) fn then(before: Option<Self>, took: Duration) -> Self {
        let average = before.map_or(took, |Self { average, .. }| {
            average - average / AVERAGED + took / AVERAGED
        });
        Self {
            recent: took,
            average,
        }
    }

    /// The last one, in milliseconds.
    pub fn recent_ms(self) -> u32 {
        millis(self.recent)
    }

    /// A moving average, in milliseconds.
    pub fn average_ms(self) -> u32 {
        millis(self.average)
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// Whom to ask; clones ask the same.
#[derive(Clone, Default)]
pub struct Monitors(Arc<Mutex<Table>>);

impl Monitors {
    pub(super) fn new(table: Arc<Mutex<Table>>) -> Self {
        Self(table)
    }

    /// Of this server of this pool, in the order of the monitors' uuids; none where nothing checks it.
    pub fn of(&self, pool: &str, addr: SocketAddr) -> Vec<MonitorHealth> {
        let table = lock(&self.0);
        let probes = probes(&table, pool, addr);
        probes
            .map(|((_, _, uuid), probe)| said(uuid, probe))
            .collect()
    }
}

fn said(uuid: &str, probe: &Probe) -> MonitorHealth {
    let result = &probe.result;
    let state = match result.state {
        _ if !result.has_looked => OperState::Initializing,
        State::Up => OperState::Up,
        State::Down => OperState::Down,
        State::Initializing => OperState::Initializing,
    };
    MonitorHealth {
        uuid: uuid.to_owned(),
        state,
        failure: result.failure,
        times: result.times,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_check_counts_for_an_eighth_of_the_average() {
        let mut times = None;
        let mut told = Vec::new();
        for took_ms in [80, 0, 150] {
            let next = ResponseTimes::then(times, Duration::from_millis(took_ms));
            told.push((next.recent_ms(), next.average_ms()));
            times = Some(next);
        }
        assert_eq!(told, [(80, 80), (0, 70), (150, 80)]);
    }

    #[test]
    fn checks_of_less_than_a_millisecond_are_averaged_too() {
        let mut times = None;
        for _ in 0..100 {
            times = Some(ResponseTimes::then(times, Duration::from_micros(900)));
        }
        let average = times.map(|t| t.average);
        let expected = Duration::from_micros(899)..=Duration::from_micros(900);
        assert!(
            average.is_some_and(|a| expected.contains(&a)),
            "{average:?}"
        );
    }
}
