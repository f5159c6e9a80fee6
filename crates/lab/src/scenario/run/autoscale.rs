//! The load changes, and the controller scales by itself. The connections that make it are checked as all others are.

use super::{Done, Runner, wall_us};
use crate::member::traffic::{PORTS, Report};
use crate::nodes;
use crate::scenario::helper::Helper;
use anyhow::{Context, Result};
use cli::note;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Source ports of the connections that make the load: no other flow has them, and none is a well-known service's.
const LOAD_PORTS: std::ops::Range<u16> = 2_000..PORTS.start;

impl Runner<'_> {
    /// Changes the load and waits until the router has the route by so many SEs, and by every number in between on the way.
    pub(super) fn autoscale(&mut self, load: usize, engines: usize, within_s: f64) -> Result<Done> {
        let began = Instant::now();
        let from = self.names(&self.fib.now()).len();
        // Those that go are looked at before they go.
        let mut violations: Vec<String> = self.broken_load()?.into_iter().collect();
        self.load = None;
        if load > 0 {
            self.load = Some(self.start_load(load)?);
        }
        note!("  {load} more connections");
        let mut at = began;
        for count in on_the_way(from, engines) {
            let left = Duration::from_secs_f64(within_s).saturating_sub(began.elapsed());
            let there = self
                .fib
                .wait(at, left, |hops| self.names(hops).len() == count);
            let Some(there) = there else {
                let now = self.names(&self.fib.now()).len();
                violations.push(format!(
                    "the route was not by {count} SEs within {within_s} s, but by {now}"
                ));
                break;
            };
            note!(
                "  by {count} SEs after {:.1} s",
                (there - began).as_secs_f64()
            );
            at = there;
        }
        Ok(Done {
            called_us: wall_us(at),
            violations,
            ..Done::default()
        })
    }

    /// Connections that exchange messages as the others do.
    fn start_load(&self, connections: usize) -> Result<Helper> {
        let traffic = &self.scenario.traffic;
        let arguments = [
            "traffic".to_owned(),
            format!(
                "--target={}",
                SocketAddr::new(self.scenario.vip, traffic.port)
            ),
            format!("--connections={connections}"),
            format!("--interval-ms={}", traffic.interval_ms),
            format!("--answer-timeout-ms={}", traffic.answer_timeout_s * 1000),
            "--short-per-s=0".to_owned(),
            format!("--first-port={}", LOAD_PORTS.start),
            format!("--end-port={}", LOAD_PORTS.end),
        ];
        let client = *self.scenario.clients().first().context("no client")?;
        let namespace = self.record.namespace(client);
        Helper::start(&namespace, &nodes::own_binary()?, &arguments)
    }

    /// What is wrong with the connections that make the load.
    pub(super) fn broken_load(&mut self) -> Result<Option<String>> {
        let Some(load) = &mut self.load else {
            return Ok(None);
        };
        let report = load.order("report")?["report"].take();
        let report: Report = serde_json::from_value(report)?;
        let broken = report.broken.len();
        let reasons = report.broken.iter().map(|f| f.reason.as_str());
        let reasons: std::collections::BTreeSet<&str> = reasons.collect();
        Ok((broken > 0).then(|| {
            let reasons = reasons.into_iter().collect::<Vec<_>>().join(", ");
            format!("{broken} connections of the load failed: {reasons}")
        }))
    }
}

/// Each number of SEs from one to the other, without the first.
fn on_the_way(from: usize, to: usize) -> Vec<usize> {
    match from < to {
        true => (from + 1..=to).collect(),
        false => (to..from).rev().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::on_the_way;

    #[test]
    fn every_number_on_the_way_is_passed() {
        assert_eq!(on_the_way(1, 4), [2, 3, 4]);
        assert_eq!(on_the_way(4, 1), [3, 2, 1]);
        assert_eq!(on_the_way(2, 2), [0; 0]);
    }
}
