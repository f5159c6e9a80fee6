//! The helpers that make the traffic: one per client node, each with source ports of its own, so that a port names a flow.

use crate::member::traffic::{PORTS, Report};
use crate::nodes;
use crate::record::Record;
use crate::scenario::helper::Helper;
use crate::scenario::judge::Client;
use crate::scenario::{Scenario, Traffic};
use crate::topology::{Node, Topology};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

/// The sysctl that decides whether a client's connections have timestamps.
const TIMESTAMPS: &str = "net.ipv4.tcp_timestamps";

/// Long-lived flows: source port and the SE that the server saw.
pub(super) type Lives = BTreeMap<u16, Option<IpAddr>>;

/// The helpers; they end with this value.
pub(super) struct Clients {
    helpers: Vec<Helper>,
    /// Who they are.
    pub(super) nodes: Vec<Client>,
}

impl Clients {
    /// Starts them. Each opens its part of the connections, and makes its part of the other traffic.
    pub(super) fn start(record: &Record, topology: &Topology, scenario: &Scenario) -> Result<Self> {
        let exe = nodes::own_binary()?;
        let names = scenario.clients();
        let (mut helpers, mut clients) = (Vec::new(), Vec::new());
        for (index, name) in names.iter().enumerate() {
            let node = topology.node(name)?;
            let ports = part_of(PORTS, index, names.len());
            let arguments = arguments(scenario, &ports, index, names.len());
            helpers.push(Helper::start(&record.namespace(name), &exe, &arguments)?);
            clients.push(client(node, scenario.vip, ports)?);
        }
        Ok(Self {
            helpers,
            nodes: clients,
        })
    }

    /// Gives all of them an order, and waits for the replies.
    pub(super) fn order(&mut self, verb: &str) -> Result<Vec<Value>> {
        self.helpers.iter_mut().map(|h| h.order(verb)).collect()
    }

    /// From here on they count anew; the flows that live now.
    pub(super) fn mark(&mut self) -> Result<Lives> {
        let mut lives = Lives::new();
        for mut reply in self.order("mark")? {
            lives.extend(serde_json::from_value::<Lives>(reply["flows"].take())?);
        }
        Ok(lives)
    }

    /// True while a flow, a download or an upload lives on this SE, or begins and nobody knows where.
    pub(super) fn have_any_on(&mut self, is_it: impl Fn(IpAddr) -> bool) -> Result<bool> {
        let mut any = false;
        for mut reply in self.order("flows")? {
            for kind in ["flows", "others"] {
                let lives: Lives = serde_json::from_value(reply[kind].take())?;
                any |= lives.values().any(|engine| engine.is_none_or(&is_it));
            }
        }
        Ok(any)
    }

    /// What they have counted since, together.
    pub(super) fn report(&mut self) -> Result<Report> {
        let mut all = Report::default();
        for mut reply in self.order("report")? {
            all.add(serde_json::from_value(reply["report"].take())?);
        }
        Ok(all)
    }
}

fn client(node: &Node, vip: IpAddr, ports: Range<u16>) -> Result<Client> {
    let mut addresses = node.links.iter().flat_map(crate::topology::Link::ips);
    let address = addresses.find(|a| a.is_ipv4() == vip.is_ipv4());
    let off = node.sysctls.get(TIMESTAMPS).is_some_and(|v| v == "0");
    Ok(Client {
        address: address
            .with_context(|| format!("node {} has no address of the family of {vip}", node.name))?,
        ports,
        timestamps: !off,
    })
}

fn arguments(scenario: &Scenario, ports: &Range<u16>, index: usize, of: usize) -> Vec<String> {
    let Traffic {
        port,
        connections,
        interval_ms,
        short_per_s,
        answer_timeout_s,
        fresh_each_step: _,
        downloads,
        uploads,
        datagrams,
    } = &scenario.traffic;
    let at_vip = |port: u16| SocketAddr::new(scenario.vip, port);
    let short = part_of(0..*short_per_s, index, of).len();
    let connections = part_of(0..*connections, index, of).len();
    let mut arguments = vec![
        "traffic".to_owned(),
        format!("--target={}", at_vip(*port)),
        format!("--connections={connections}"),
        format!("--interval-ms={interval_ms}"),
        format!("--answer-timeout-ms={}", answer_timeout_s * 1000),
        format!("--short-per-s={short}"),
        format!("--first-port={}", ports.start),
        format!("--end-port={}", ports.end),
    ];
    if let Some(downloads) = downloads {
        let concurrent = part_of(0..downloads.concurrent, index, of).len();
        arguments.extend([
            format!("--download-from={}", at_vip(downloads.port)),
            format!("--downloads={concurrent}"),
            format!("--download-bytes={}", downloads.bytes),
            format!("--download-bytes-per-s={}", downloads.bytes_per_s),
        ]);
    }
    if let Some(uploads) = uploads {
        let concurrent = part_of(0..uploads.concurrent, index, of).len();
        arguments.extend([
            format!("--upload-to={}", at_vip(uploads.port)),
            format!("--uploads={concurrent}"),
            format!("--upload-bytes={}", uploads.bytes),
            format!("--upload-bytes-per-s={}", uploads.bytes_per_s),
        ]);
    }
    if let Some(datagrams) = datagrams {
        let flows = part_of(0..datagrams.flows, index, of).len();
        arguments.extend([
            format!("--datagrams-to={}", at_vip(datagrams.port)),
            format!("--datagram-flows={flows}"),
        ]);
    }
    arguments
}

/// Part `index` of `of` parts that differ in length by one at most, and together are the whole.
fn part_of<T>(whole: Range<T>, index: usize, of: usize) -> Range<T>
where
    T: Copy + TryFrom<usize> + TryInto<usize>,
{
    let [start, end]: [usize; 2] = [whole.start, whole.end].map(|n| n.try_into().unwrap_or(0));
    let at = |index: usize| T::try_from(start + (end - start) * index / of).unwrap_or(whole.end);
    at(index)..at(index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_whole_and_have_nothing_in_common() {
        assert_eq!(part_of(10_000_u16..65_000, 0, 1), 10_000..65_000);
        let halves = [0, 1].map(|index| part_of(10_000_u16..65_000, index, 2));
        assert_eq!(halves, [10_000..37_500, 37_500..65_000]);
        let thirds = [0, 1, 2].map(|index| part_of(0_usize..10, index, 3).len());
        assert_eq!(thirds, [3, 3, 4]);
    }
}
