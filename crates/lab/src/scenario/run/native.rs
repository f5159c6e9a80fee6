//! Scenarios of native scaling: no router is told of the VIP, so that the neighbour entry of the scenario's router stands for its
//! route; watchers on the link see who answers for it.

use super::{BACK_TIMEOUT, Done, Runner, SETTLE_TIMEOUT, hops_by_mac, traffic_for, wall_us};
use crate::member::senders::Packets;
use crate::member::watcher::Seen;
use crate::process::wait_for;
use crate::record::Record;
use crate::scenario::Native;
use crate::scenario::fib::NextHops;
use crate::scenario::helper::Helper;
use crate::topology::{Link, Topology};
use crate::{fabric, nodes};
use anyhow::{Context, Result, ensure};
use cli::note;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// How long the first connection may take, by which the router learns where the VIP is.
const FIRST_TIMEOUT: Duration = Duration::from_secs(3);

/// Who looks at the link in a scenario: at who answers for the VIP, and at who sends from it.
pub(super) struct Watchers {
    askers: Vec<(String, Helper)>,
    senders: Vec<Helper>,
}

impl Watchers {
    /// At each of the nodes, on the link of the first segment.
    pub(super) fn start(
        record: &Record,
        topology: &Topology,
        (native, segment, vip): (&Native, &str, IpAddr),
    ) -> Result<Self> {
        let place = Place {
            record,
            topology,
            segment,
            vip,
        };
        let asker = |name: &String| Ok((name.clone(), place.asker(name)?));
        let senders = native.senders.iter();
        Ok(Self {
            askers: native.watchers.iter().map(asker).collect::<Result<_>>()?,
            senders: senders
                .map(|name| place.helper("senders", name, &[]))
                .collect::<Result<_>>()?,
        })
    }

    pub(super) fn mark(&mut self) -> Result<()> {
        let askers = self.askers.iter_mut().map(|(_, helper)| helper);
        let mut all = askers.chain(&mut self.senders);
        all.try_for_each(|helper| helper.order("mark").map(drop))
    }

    /// What each has seen since the mark.
    pub(super) fn report(&mut self) -> Result<Vec<(String, Seen)>> {
        let mut seen = Vec::new();
        for (name, helper) in &mut self.askers {
            let mut reply = helper.order("report")?;
            seen.push((name.clone(), serde_json::from_value(reply["seen"].take())?));
        }
        Ok(seen)
    }

    /// Packets from the VIP since the mark, by MAC address.
    pub(super) fn senders(&mut self) -> Result<Packets> {
        let mut all = Packets::new();
        for helper in &mut self.senders {
            let mut reply = helper.order("report")?;
            let packets: Packets = serde_json::from_value(reply["packets"].take())?;
            for (mac, count) in packets {
                *all.entry(mac).or_default() += count;
            }
        }
        Ok(all)
    }
}

/// Where they look.
struct Place<'a> {
    record: &'a Record,
    topology: &'a Topology,
    segment: &'a str,
    vip: IpAddr,
}

impl Place<'_> {
    fn link(&self, name: &str) -> Result<&Link> {
        let links = &self.topology.node(name)?.links;
        let link = links.iter().find(|l| l.segment == self.segment);
        link.with_context(|| format!("{name} has no link to {}", self.segment))
    }

    fn asker(&self, name: &str) -> Result<Helper> {
        let mut ips = self.link(name)?.ips();
        let own = ips.find(|ip| ip.is_ipv4() == self.vip.is_ipv4());
        let own = own.with_context(|| format!("{name} has no address of the VIP's family"))?;
        self.helper("watcher", name, &["--own", &own.to_string()])
    }

    fn helper(&self, member: &str, name: &str, more: &[&str]) -> Result<Helper> {
        let interface = self
            .topology
            .interface(self.topology.node(name)?, self.link(name)?)?;
        let vip = self.vip.to_string();
        let mut arguments = vec![member, "--vip", &vip, "--interface", &interface];
        arguments.extend(more);
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        Helper::start(
            &self.record.namespace(name),
            &nodes::own_binary()?,
            &arguments,
        )
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
