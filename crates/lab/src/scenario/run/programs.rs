//! What befalls a program of a node: it is told to stop, killed, hangs, and is started again.

use super::{Action, BACK_TIMEOUT, Done, Runner, SETTLE_TIMEOUT, wall_us};
use crate::member::now_us;
use crate::nodes;
use crate::process::{Identity, wait_for};
use crate::scenario::{Direction, LogLine};
use anyhow::{Context, Result, bail, ensure};
use cli::note;
use nix::sys::signal::Signal;
use std::fs;
use std::time::Instant;

impl Runner<'_> {
    pub(super) fn signal(&mut self, action: &Action) -> Result<Done> {
        let Action::Signal {
            node,
            signal,
            gone_within_s,
            gone_after_s,
            down,
            log,
            back,
            amid_scale_out,
        } = action
        else {
            bail!("not a signal");
        };
        let log_from = log.as_ref().map(|l| self.log_text(l).len());
        let process = self.process(node)?;
        let (at, new) = (Instant::now(), amid_scale_out.as_deref());
        if new.is_some() {
            self.control.scale(&self.service, Direction::Out, new)?;
        }
        ensure!(
            process.signal(signal.signal()),
            "the process in {node} is gone already"
        );
        if self.topology.node(node)?.controller.is_some() && signal.ends() {
            // It is asked no more from here on, and may not be asked while it ends.
            let ended = wait_for(SETTLE_TIMEOUT, || !process.is_alive());
            ensure!(ended, "the controller in {node} does not end");
        }
        let mut done = Done {
            called_us: wall_us(at),
            ..Done::default()
        };
        if let Some(within_s) = gone_within_s {
            done.violations
                .extend(self.await_gone(node, at, *gone_after_s, *within_s));
            self.lost.insert(node.clone());
        }
        if let Some(new) = new {
            done.api_to_fib_s.push(self.await_route(new, at));
        }
        if *back {
            self.lost.remove(node);
            done.violations.extend(self.not_back(node, at));
        }
        if *down {
            done.violations.extend(self.await_down(node));
        }
        if let (Some(log), Some(from)) = (log, log_from) {
            done.violations.extend(self.await_log(log, from));
        }
        Ok(done)
    }

    /// The last process of a node.
    pub(super) fn process(&self, node: &str) -> Result<Identity> {
        let member = self.record.processes.iter().rev().find(|p| p.node == node);
        let member = member.with_context(|| format!("nothing runs in {node}"))?;
        Ok(member.identity)
    }

    pub(super) fn not_back(&self, node: &str, since: Instant) -> Option<String> {
        let back = self.await_back(node, since);
        back.is_none()
            .then(|| format!("the route of {node} did not come back"))
    }

    pub(super) fn hangs(&mut self, node: &str, gone_within_s: f64) -> Result<Done> {
        let (process, at) = (self.process(node)?, Instant::now());
        ensure!(process.signal(Signal::SIGSTOP), "nothing runs in {node}");
        let mut violations = Vec::from_iter(self.await_gone(node, at, 0.0, gone_within_s));
        violations.extend(self.await_down(node));
        let goes_on = Instant::now();
        ensure!(process.signal(Signal::SIGCONT), "nothing runs in {node}");
        violations.extend(self.not_back(node, goes_on));
        Ok(Done {
            called_us: wall_us(at),
            violations,
            ..Done::default()
        })
    }

    pub(super) fn start_again(&mut self, node: &str) -> Result<Done> {
        let (called_us, started) = (now_us(), Instant::now());
        nodes::restart(self.record, node)?;
        let mut done = Done {
            called_us,
            ..Done::default()
        };
        if self.is_native() {
            self.lost.remove(node);
            done.violations.extend(self.await_engines());
            done.violations.extend(self.await_serving());
        } else if self.lost.remove(node) {
            done.api_to_fib_s.push(self.await_back(node, started));
        } else if self.topology.node(node)?.controller.is_some() {
            done.violations.extend(self.await_engines());
        }
        // How long a daemon takes to start is not what the bar for connections is about.
        done.called_us = now_us();
        Ok(done)
    }

    pub(super) fn await_engines(&self) -> Option<String> {
        let engines = self
            .topology
            .nodes
            .iter()
            .filter(|n| n.engine.is_some() && !self.lost.contains(&n.name));
        let names: Vec<_> = engines.map(|n| n.name.clone()).collect();
        let started = Instant::now();
        let result = self.control.wait_for_engines(&names, BACK_TIMEOUT);
        note!(
            "  engines connected again after {:.1} s",
            started.elapsed().as_secs_f64()
        );
        result.err().map(|e| format!("{e:#}"))
    }

    pub(super) fn await_log(&self, log: &LogLine, from: usize) -> Option<String> {
        let said = || {
            self.log_text(log)
                .get(from..)
                .and_then(|t| t.lines().find(|l| l.contains(&log.contains)))
                .map(str::to_owned)
        };
        wait_for(SETTLE_TIMEOUT, || said().is_some());
        match said() {
            Some(line) => {
                note!("  {} says: {}", log.node, line.trim());
                None
            }
            None => Some(format!(
                "{}/{} does not say {:?}",
                log.node, log.file, log.contains
            )),
        }
    }

    pub(super) fn log_text(&self, log: &LogLine) -> String {
        fs::read_to_string(self.record.node_dir(&log.node).join(&log.file)).unwrap_or_default()
    }
}
