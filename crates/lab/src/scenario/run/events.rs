//! What befalls the network: the router is restarted, a host dies and returns, a link is lost and comes back.

use super::{BACK_TIMEOUT, Done, Runner, SETTLE_TIMEOUT, macs, wall_us};
use crate::process::{self, Identity};
use crate::scenario::SignalName;
use crate::scenario::fib::NextHops;
use crate::topology::{Node, Process};
use crate::{fabric, nodes, router};
use anyhow::{Context, Result, ensure};
use cli::note;
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long flows of an SE that died may take to end after their clients have given up.
const END_GRACE: Duration = Duration::from_secs(10);

/// How often is looked whether they have.
const END_LOOK_INTERVAL: Duration = Duration::from_millis(100);

impl Runner<'_> {
    /// Ends the router's programs, waits until its kernel has no route, starts them again and waits for the route. What a
    /// killed program has left in the kernel it removes only once it runs again.
    pub(super) fn restart_router(&mut self, bgp_alone: bool, signal: SignalName) -> Result<Done> {
        let node = self.topology.node(&self.scenario.router)?.clone();
        let programs = routing_programs(&node, bgp_alone)?;
        let before = self.fib.now();
        let at = Instant::now();
        self.end(&node, &programs, signal)?;
        let mut done = Done {
            called_us: wall_us(at),
            ..Done::default()
        };
        let leaves_routes =
            signal == SignalName::Kill && programs.len() == routing_programs(&node, false)?.len();
        if leaves_routes {
            nodes::start_again(self.record, &node, &programs)?;
        }
        let gone = self.fib.wait(at, SETTLE_TIMEOUT, NextHops::is_empty);
        if !leaves_routes {
            nodes::start_again(self.record, &node, &programs)?;
        }
        let Some(gone) = gone else {
            let text = format!("invalid: {} kept its route without its daemons", node.name);
            done.violations.push(text);
            return Ok(done);
        };
        // The route is there again with its first next hop, and as it was with its last one.
        let back = self.fib.wait(gone, BACK_TIMEOUT, |hops| !hops.is_empty());
        let whole = self.fib.wait(gone, BACK_TIMEOUT, |hops| *hops == before);
        let since_gone = |moment: Option<Instant>| moment.map(|m| (m - gone).as_secs_f64());
        done.routeless_s = since_gone(back);
        match (done.routeless_s, since_gone(whole)) {
            (Some(none), Some(whole)) => {
                note!("  no route for {none:.3} s, and as before after {whole:.3} s");
            }
            _ => done.violations.push(format!(
                "the route did not come back as it was: {:?} instead of {before:?}",
                self.fib.now()
            )),
        }
        Ok(done)
    }

    fn end(&self, node: &Node, programs: &[&Process], signal: SignalName) -> Result<()> {
        let member = |program: &&Process| {
            let member = self.record.member(&node.name, &program.name);
            let member = member.with_context(|| format!("{} never ran", program.name))?;
            Ok(member.identity)
        };
        let processes: Result<BTreeSet<Identity>> = programs.iter().map(member).collect();
        match signal {
            SignalName::Term => process::stop(&processes?),
            SignalName::Kill => process::kill(&processes?),
            SignalName::Stop | SignalName::Cont => {
                anyhow::bail!("restart_router: `signal` is TERM or KILL, which end a program")
            }
        }
        Ok(())
    }

    /// A whole SE is gone from one moment to the next.
    pub(super) fn host_dies(&mut self, name: &str, gone_within_s: f64) -> Result<Done> {
        let node = self.topology.node(name)?;
        ensure!(node.engine.is_some(), "{name} is no SE");
        let at = Instant::now();
        fabric::destroy(self.record, &self.topology, node)?;
        let late = self.await_gone(name, at, 0.0, gone_within_s);
        self.lost.insert(name.to_owned());
        Ok(Done {
            called_us: wall_us(at),
            violations: late.into_iter().collect(),
            ..Done::default()
        })
    }

    /// It is switched on again: what it had in memory is gone, what is on its disk is there.
    pub(super) fn host_returns(&mut self, name: &str) -> Result<Done> {
        let node = self.topology.node(name)?;
        let pins = self.record.bpf_dir().join(name);
        match fs::remove_dir_all(&pins) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("remove {}", pins.display()));
            }
            _ => (),
        }
        fabric::rebuild(self.record, &self.topology, node)?;
        self.engines_by_mac = macs(self.record, &self.topology, &self.scenario.segments)?;
        self.follow_macs();
        self.start_again(name)
    }

    /// An SE loses a link, and the router the next hop that it had there.
    pub(super) fn link_down(
        &mut self,
        (name, segment): (&str, &str),
        silent: bool,
        gone_within_s: f64,
    ) -> Result<Done> {
        let hop = self.hop(name, segment)?;
        let at = Instant::now();
        self.set_link(name, segment, false, silent)?;
        if silent {
            self.silent_losses.insert(hop);
        }
        self.lost_hops.insert(hop);
        if self.is_native() {
            self.lost.insert(name.to_owned());
        }
        let timeout = Duration::from_secs_f64(gone_within_s) + SETTLE_TIMEOUT;
        let gone = self.fib.wait(at, timeout, |hops| !hops.contains(&hop));
        let took_s = gone.map(|g| (g - at).as_secs_f64());
        let violation = match took_s {
            None => Some(format!("the next hop {hop} is still in the FIB")),
            Some(s) if s >= gone_within_s => Some(format!(
                "the next hop {hop} was gone after {s:.3} s, expected within {gone_within_s} s"
            )),
            Some(s) => {
                note!("  the next hop {hop} was gone after {s:.3} s");
                None
            }
        };
        Ok(Done {
            called_us: wall_us(at),
            violations: violation.into_iter().collect(),
            ..Done::default()
        })
    }

    /// The link is back, and the next hop with it.
    pub(super) fn link_up(&mut self, name: &str, segment: &str) -> Result<Done> {
        let hop = self.hop(name, segment)?;
        let at = Instant::now();
        let silent = self.silent_losses.remove(&hop);
        self.set_link(name, segment, true, silent)?;
        self.lost_hops.remove(&hop);
        if self.is_native() {
            self.lost.remove(name);
            return Ok(Done {
                called_us: wall_us(at),
                violations: self.await_serving().into_iter().collect(),
                ..Done::default()
            });
        }
        let back = self.fib.wait(at, BACK_TIMEOUT, |hops| hops.contains(&hop));
        match back {
            Some(back) => note!("  it is back after {:.3} s", (back - at).as_secs_f64()),
            None => note!("  it is not back"),
        }
        let missing = format!("the next hop {hop} did not come back");
        Ok(Done {
            called_us: wall_us(at),
            violations: back.is_none().then_some(missing).into_iter().collect(),
            ..Done::default()
        })
    }

    fn set_link(&self, name: &str, segment: &str, carries: bool, silent: bool) -> Result<()> {
        let ends = (self.topology.node(name)?, self.topology.segment(segment)?);
        fabric::set_link(self.record, &self.topology, ends, carries, silent)
    }

    /// The next hop that the router has over an SE's link.
    fn hop(&self, name: &str, segment: &str) -> Result<IpAddr> {
        let on_segment = self.topology.engines_on(|s| s == segment);
        let of_family = |a: &IpAddr| a.is_ipv4() == self.scenario.vip.is_ipv4();
        let mut hops = on_segment.into_iter();
        let found = hops.find(|(address, se)| se == name && of_family(address));
        let found =
            found.with_context(|| format!("{name} is no SE with a link to segment {segment}"))?;
        Ok(found.0)
    }

    /// Waits until everything has ended that lived on an SE that is dead, as each client finds out by itself.
    pub(super) fn await_end_of(&mut self, dead: &str) -> Result<Option<String>> {
        let patience = Duration::from_secs(self.scenario.traffic.answer_timeout_s) + END_GRACE;
        let addresses = self.topology.engines_on(|_| true);
        let on_dead = |engine: IpAddr| addresses.get(&engine).is_some_and(|se| se == dead);
        let until = Instant::now() + patience;
        while self.clients()?.have_any_on(on_dead)? {
            if Instant::now() >= until {
                let text = format!("not everything on {dead} has ended, although it is dead");
                return Ok(Some(text));
            }
            super::traffic_for(END_LOOK_INTERVAL);
        }
        Ok(None)
    }
}

/// The programs that make a node's router, or the one of them that speaks BGP.
fn routing_programs(node: &Node, bgp_alone: bool) -> Result<Vec<&Process>> {
    let role = node.router.as_ref();
    let role = role.with_context(|| format!("{} is no router", node.name))?;
    let names = router::programs(role.kind, bgp_alone);
    let its = node.processes.iter();
    Ok(its.filter(|p| names.contains(&p.name.as_str())).collect())
}
