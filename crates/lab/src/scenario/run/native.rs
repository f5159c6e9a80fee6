//! Scenarios of native scaling: no router is told of the VIP, so that the neighbour entry of the scenario's router stands for its
//! route; watchers on the link see who answers for it.

use super::{BACK_TIMEOUT, Done, Runner, SETTLE_TIMEOUT, hops_by_mac, traffic_for, wall_us};
use crate::member::watcher::Seen;
use crate::process::wait_for;
use crate::record::Record;
use crate::scenario::Native;
use crate::scenario::fib::NextHops;
use crate::scenario::helper::Helper;
use crate::topology::Topology;
use crate::{fabric, nodes};
use anyhow::{Context, Result, ensure};
use cli::note;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// How long the first connection may take, by which the router learns where the VIP is.
const FIRST_TIMEOUT: Duration = Duration::from_secs(3);

/// The watchers of a scenario.
pub(super) struct Watchers(Vec<(String, Helper)>);

impl Watchers {
    /// One at each of the nodes, on the link of the first segment.
    pub(super) fn start(
        record: &Record,
        topology: &Topology,
        (native, segment, vip): (&Native, &str, IpAddr),
    ) -> Result<Self> {
        let exe = nodes::own_binary()?;
        let mut watchers = Vec::new();
        for name in &native.watchers {
            let node = topology.node(name)?;
            let link = node.links.iter().find(|l| l.segment == segment);
            let link = link.with_context(|| format!("{name} has no link to {segment}"))?;
            let own = link.ips().find(|ip| ip.is_ipv4() == vip.is_ipv4());
            let own = own.with_context(|| format!("{name} has no address of the VIP's family"))?;
            let interface = topology.interface(node, link)?;
            let arguments = [
                "watcher",
                "--vip",
                &vip.to_string(),
                "--interface",
                &interface,
                "--own",
                &own.to_string(),
            ]
            .map(str::to_owned);
            let helper = Helper::start(&record.namespace(name), &exe, &arguments)?;
            watchers.push((name.clone(), helper));
        }
        Ok(Self(watchers))
    }

    pub(super) fn mark(&mut self) -> Result<()> {
        let mut all = self.0.iter_mut();
        all.try_for_each(|(_, helper)| helper.order("mark").map(drop))
    }

    /// What each has seen since the mark.
    pub(super) fn report(&mut self) -> Result<Vec<(String, Seen)>> {
        let mut seen = Vec::new();
        for (name, helper) in &mut self.0 {
            let mut reply = helper.order("report")?;
            seen.push((name.clone(), serde_json::from_value(reply["seen"].take())?));
        }
        Ok(seen)
    }
}

impl Runner<'_> {
    pub(super) fn is_native(&self) -> bool {
        self.scenario.native.is_some()
    }

    /// The router asks who has the VIP when there is something to send.
    pub(super) fn first_connection(&self) -> Result<()> {
        let namespace = self.record.namespace(&self.scenario.router);
        let to = SocketAddr::new(self.scenario.vip, self.scenario.traffic.port);
        let connected = || {
            let one = fabric::inside(&namespace, || {
                TcpStream::connect_timeout(&to, FIRST_TIMEOUT)
            });
            one.is_ok_and(|connection| connection.is_ok())
        };
        ensure!(
            wait_for(SETTLE_TIMEOUT, connected),
            "nobody answers at {to}"
        );
        Ok(())
    }

    /// Packets for the VIP go where they should: to one of these engines, or where routers are told, to all of them.
    pub(super) fn is_settled(&self, hops: &NextHops, serving: &BTreeSet<String>) -> bool {
        let wanted = self.hops_of(serving);
        match self.is_native() {
            true => hops.len() == 1 && hops.is_subset(&wanted),
            false => *hops == &wanted - &self.lost_hops,
        }
    }

    /// Waits until all engines of the virtual service serve; what is wrong if they do not.
    pub(super) fn await_serving(&self) -> Option<String> {
        let mut last = None;
        let all = wait_for(BACK_TIMEOUT, || {
            let placement = self.control.placement(&self.service).ok();
            last.clone_from(&placement);
            placement.is_some_and(|p| {
                let serves = |name: &String| p.up.contains(name) || self.lost.contains(name);
                p.assigned.iter().all(serves)
            })
        });
        (!all).then(|| format!("not all engines serve: {last:?}"))
    }

    /// Another engine of the virtual service becomes its primary, as planned.
    pub(super) fn switch_over(&mut self, to: &str) -> Result<Done> {
        let at = self.control.switch_over(&self.service, to)?;
        let there = self.fib.wait(at, SETTLE_TIMEOUT, |hops| {
            self.names(hops) == BTreeSet::from([to.to_owned()])
        });
        let violation = match there {
            Some(there) => {
                note!(
                    "  {to} is the primary after {:.3} s",
                    (there - at).as_secs_f64()
                );
                None
            }
            None => Some(format!("{to} did not become the primary")),
        };
        Ok(Done {
            called_us: wall_us(at),
            violations: violation.into_iter().collect(),
            ..Done::default()
        })
    }

    /// After a host came back with new MAC addresses.
    pub(super) fn follow_macs(&self) {
        let new = hops_by_mac(&self.engines_by_mac, &self.engines, self.scenario.vip);
        *self
            .hops_by_mac
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = new;
    }

    /// The switch falls in two, and is one again after a while: these nodes are together on the other side, and keep their
    /// carrier.
    pub(super) fn part(&mut self, names: &[String], segment: &str, for_s: f64) -> Result<Done> {
        let at = Instant::now();
        let nodes = names.iter().map(|name| self.topology.node(name));
        let nodes = nodes.collect::<Result<Vec<_>>>()?;
        let segment = self.topology.segment(segment)?;
        fabric::part(self.record, (&nodes, segment), true)?;
        traffic_for(Duration::from_secs_f64(for_s));
        fabric::part(self.record, (&nodes, segment), false)?;
        Ok(Done {
            called_us: wall_us(at),
            ..Done::default()
        })
    }
}
