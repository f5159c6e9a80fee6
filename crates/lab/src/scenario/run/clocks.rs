//! Clocks of controllers that are set while they run, forward and back. No other one may lead for that, no session end,
//! no write be lost.

use super::{BACK_TIMEOUT, Done, Runner, wall_us};
use crate::clock;
use crate::member::now_us;
use crate::process::wait_for;
use crate::scenario::Whose;
use anyhow::{Context, Result, ensure};
use cli::note;
use std::time::{Duration, Instant};

/// Longer than a lease: who does not lead any more because of its clock has said so by then.
const NOTICED_WITHIN: Duration = Duration::from_secs(5);
/// A clock that is off by so much more or less has been set: it is read off the newest write, and writes take a while.
const NEAR_S: i64 = 5;

impl Runner<'_> {
    /// These clocks are off by so many seconds from now on, and all others are right.
    pub(super) fn set_clocks(&mut self, of: Whose, shift_s: i64) -> Result<Done> {
        let leader = self.control.cluster()?.leader;
        let at = Instant::now();
        for node in self.controllers() {
            let is_meant = match of {
                Whose::Leader => node == leader,
                Whose::Followers => node != leader,
            };
            let shift_s = if is_meant { shift_s } else { 0 };
            clock::set(&self.record.node_dir(&node), shift_s)?;
            self.check_clock(&node)?;
            note!("  the clock of {node} is off by {shift_s} s");
        }
        let of_leader = match of {
            Whose::Leader => shift_s,
            Whose::Followers => 0,
        };
        self.await_time(of_leader)?;
        super::traffic_for(NOTICED_WITHIN);
        let now = self.control.cluster()?.leader;
        // On a machine that is busy a lease may end by itself; what the followers' clocks have to do with it is not to be told.
        let is_judged = of == Whose::Leader && now != leader;
        let other = is_judged.then(|| format!("{now} leads after {leader}, whose clock was set"));
        let whole = self.await_whole_cluster();
        let whole = whole.err().map(|e| format!("{e:#}"));
        let violations = other.into_iter().chain(whole).chain(self.await_engines());
        Ok(Done {
            called_us: wall_us(at),
            violations: violations.collect(),
            ..Done::default()
        })
    }

    fn controllers(&self) -> Vec<String> {
        let all = self.topology.nodes.iter();
        let controllers = all.filter(|n| n.controller.is_some());
        controllers.map(|n| n.name.clone()).collect()
    }

    /// The process has its clock from the file that was written.
    fn check_clock(&self, node: &str) -> Result<()> {
        let pid = self.process(node)?.pid;
        let mapped = clock::is_of(pid, &self.record.node_dir(node))?;
        ensure!(mapped, "the clock of {node} cannot be set");
        Ok(())
    }

    /// What the leader writes has the time that its clock was set to.
    fn await_time(&self, shift_s: i64) -> Result<()> {
        let mut off_s = Ok(0);
        let set = wait_for(BACK_TIMEOUT, || {
            off_s = self.time_off();
            off_s.as_ref().is_ok_and(|s| (s - shift_s).abs() <= NEAR_S)
        });
        let off_s = off_s.context("the time of the newest write")?;
        ensure!(
            set,
            "the newest write is off the time by {off_s} s, not by {shift_s} s"
        );
        Ok(())
    }

    fn time_off(&self) -> Result<i64> {
        let seconds = |us: u64| i64::try_from(us / 1_000_000);
        Ok(seconds(self.control.newest_write_us()?)? - seconds(now_us())?)
    }
}
