//! Namespaces, bridges, links, addresses, routes and kernel settings of a topology.

use crate::command::{ip_batch, run};
use crate::process::{self, wait_for};
use crate::record::{Record, id_of_namespace};
use crate::router;
use crate::topology::{Node, Segment, SegmentKind, Topology, member_name, port_name};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

mod neighbours;

/// Node name of the namespace that holds the bridges of segments without an owner.
pub const SWITCHES: &str = "fabric";

/// For every node. Reverse path filtering would drop answers that come by another way than they went; an
/// engine must not answer ARP for a VIP on `lo`, nor ask with it as the sender.
const SYSCTLS: &[(&str, &str)] = &[
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv4.conf.all.arp_ignore", "1"),
    ("net.ipv4.conf.all.arp_announce", "2"),
    // The cookie secret is shared by all namespaces: a cookie of one SE would be valid at another.
    ("net.ipv4.tcp_syncookies", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    // IPv6 addresses outlive a link that is set down, as IPv4 ones do.
    ("net.ipv6.conf.all.keep_addr_on_down", "1"),
];

const NO_IPV6: &[(&str, &str)] = &[
    ("net.ipv6.conf.all.disable_ipv6", "1"),
    ("net.ipv6.conf.default.disable_ipv6", "1"),
];

/// How long the kernel may take to forget a namespace.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Builds the network of a topology.
pub fn build(record: &Record, topology: &Topology) -> Result<()> {
    neighbours::make_room(topology)?;
    let mut nodes: Vec<&str> = topology.nodes.iter().map(|n| n.name.as_str()).collect();
    if topology.segments.iter().any(needs_switch) {
        nodes.push(SWITCHES);
    }
    let namespaces: Vec<_> = nodes
        .iter()
        .map(|n| format!("netns add {}", record.namespace(n)))
        .collect();
    ip_batch(None, &namespaces)?;
    for node in &nodes {
        set_sysctls(record, topology, node)?;
    }
    Plan::of(record, topology)?.carry_out()?;
    for node in &topology.nodes {
        checksums_in_software(record, topology, node)?;
    }
    Ok(())
}

/// Takes a node out of the network as a power failure does: its links first, so that nothing that ends then is heard of.
pub fn destroy(record: &Record, topology: &Topology, node: &Node) -> Result<()> {
    let on_cables = node.links.iter().map(|l| topology.segment(&l.segment));
    for segment in on_cables {
        let segment = segment?;
        ensure!(
            segment.kind == SegmentKind::Bridge && !segment.is_owned_by(&node.name),
            "{} has a link to segment {}, whose other end would go with it: only a node on switches can die",
            node.name,
            segment.name
        );
    }
    let namespaces = [record.namespace(&node.name)];
    let mut lines = Vec::new();
    // They are deleted too: connections that have not ended keep a namespace without a name, and what is in it.
    for verb in ["set down dev", "delete dev"] {
        for link in &node.links {
            lines.push(format!("link {verb} {}", topology.interface(node, link)?));
        }
    }
    ip_batch(Some(&namespaces[0]), &lines)?;
    process::kill(&process::inside(&namespaces));
    remove(&namespaces)
}

/// Builds a node anew that was destroyed.
pub fn rebuild(record: &Record, topology: &Topology, node: &Node) -> Result<()> {
    let namespace = record.namespace(&node.name);
    ip_batch(None, &[format!("netns add {namespace}")])?;
    set_sysctls(record, topology, &node.name)?;
    let mut plan = Plan::default();
    plan.add_links(record, topology, node)?;
    plan.add_routes(record, node);
    plan.carry_out()?;
    checksums_in_software(record, topology, node)
}

/// Sets a node's link up or down. A silent loss is one of the switch, where the interface keeps its carrier.
pub fn set_link(
    record: &Record,
    topology: &Topology,
    (node, segment): (&Node, &Segment),
    carries: bool,
    silent: bool,
) -> Result<()> {
    let index = node.links.iter().position(|l| l.segment == segment.name);
    let index =
        index.with_context(|| format!("{} has no link to segment {}", node.name, segment.name))?;
    let (namespace, line) = if silent {
        ensure!(
            segment.kind == SegmentKind::Bridge,
            "segment {} has no switch that could lose a link silently",
            segment.name
        );
        // A port that is no bridge's takes what comes, and has no use for it: the other end keeps its carrier.
        let port = port_name(&node.name, index);
        let line = match carries {
            true => format!("link set {port} master {}", segment.bridge()),
            false => format!("link set {port} nomaster"),
        };
        (segment.switch(), line)
    } else {
        let interface = topology.interface(node, &node.links[index])?;
        let state = if carries { "up" } else { "down" };
        (node.name.as_str(), format!("link set {interface} {state}"))
    };
    ip_batch(Some(&record.namespace(namespace)), &[line])
}

/// Puts the nodes' ports of a segment on a switch of their own, or back.
pub fn part(record: &Record, (nodes, segment): (&[&Node], &Segment), apart: bool) -> Result<()> {
    ensure!(
        segment.kind == SegmentKind::Bridge,
        "segment {} has no switch",
        segment.name
    );
    let mut lines = Vec::new();
    let bridge = if apart { OTHER_SIDE } else { segment.bridge() };
    if apart {
        lines.push(format!("link add {OTHER_SIDE} type bridge"));
        lines.push(format!("link set {OTHER_SIDE} up"));
    }
    for node in nodes {
        let index = node.links.iter().position(|l| l.segment == segment.name);
        let index = index
            .with_context(|| format!("{} has no link to segment {}", node.name, segment.name))?;
        let port = port_name(&node.name, index);
        lines.push(format!("link set {port} master {bridge}"));
    }
    if !apart {
        lines.push(format!("link delete {OTHER_SIDE}"));
    }
    ip_batch(Some(&record.namespace(segment.switch())), &lines)
}

/// The switch of those who were parted from the others.
const OTHER_SIDE: &str = "other-side";

fn needs_switch(segment: &Segment) -> bool {
    segment.kind == SegmentKind::Bridge && segment.node.is_none()
}

/// The `ip` commands that make the network, by where they run.
#[derive(Debug, Default)]
struct Plan {
    /// Here: veth pairs between namespaces.
    cables: Vec<String>,
    /// In each namespace, in order.
    inside: BTreeMap<String, Vec<String>>,
}

impl Plan {
    fn of(record: &Record, topology: &Topology) -> Result<Self> {
        let mut plan = Self::default();
        plan.add_bridges(record, topology);
        plan.add_direct_cables(record, topology)?;
        for node in &topology.nodes {
            plan.add_links(record, topology, node)
                .with_context(|| format!("node {}", node.name))?;
        }
        // Routes last: their gateways must be on a link by then.
        for node in &topology.nodes {
            plan.add_routes(record, node);
        }
        Ok(plan)
    }

    fn carry_out(&self) -> Result<()> {
        ip_batch(None, &self.cables)?;
        for (namespace, lines) in &self.inside {
            ip_batch(Some(namespace), lines)?;
        }
        Ok(())
    }

    fn add_routes(&mut self, record: &Record, node: &Node) {
        let lines = self.inside.entry(record.namespace(&node.name)).or_default();
        let routes = node.routes.iter();
        lines.extend(routes.map(|r| format!("route add {} via {}", r.to, r.via)));
    }

    fn add_bridges(&mut self, record: &Record, topology: &Topology) {
        let bridges = topology.segments.iter();
        for segment in bridges.filter(|s| s.kind == SegmentKind::Bridge) {
            let namespace = record.namespace(segment.switch());
            let bridge = segment.bridge();
            let lines = self.inside.entry(namespace).or_default();
            // Without an address of its own a bridge takes a port's, and another one when that port goes.
            lines.push(format!(
                "link add {bridge} address {} type bridge mcast_snooping 0",
                mac(&record.namespace(segment.switch()), bridge)
            ));
            lines.push(format!("link set {bridge} up"));
        }
    }

    /// Segments of two nodes need no switch; the nodes' interfaces exist before addresses are put on them.
    fn add_direct_cables(&mut self, record: &Record, topology: &Topology) -> Result<()> {
        let direct = topology.segments.iter();
        for segment in direct.filter(|s| s.kind != SegmentKind::Bridge) {
            let mut ends = Vec::new();
            for (node, link) in topology.ends(&segment.name) {
                let interface = topology.interface(node, link)?;
                ends.push((record.namespace(&node.name), interface));
            }
            let [a, b] = &ends[..] else {
                bail!("segment {} does not join two nodes", segment.name)
            };
            if segment.kind == SegmentKind::PointToPoint {
                self.add_cable(a, b);
            } else {
                self.add_channel(a, b, segment.channel_links());
            }
        }
        Ok(())
    }

    fn add_cable(&mut self, a: &(String, String), b: &(String, String)) {
        let ((here, interface), (there, peer)) = (a, b);
        self.cables.push(format!(
            "link add {interface} netns {here} type veth peer name {peer} netns {there}"
        ));
    }

    /// A bridge at each end stands in for bonding, which not every kernel has. Its ports are isolated from each
    /// other, so that nothing goes in a circle: a frame that comes in on one link leaves on no other. A
    /// broadcast goes out on all links; a known neighbour is reached on the link it was heard on last, and on
    /// all others as soon as that one has no carrier, because the bridge forgets what it learnt there.
    fn add_channel(&mut self, a: &(String, String), b: &(String, String), links: usize) {
        let member = |end: &(String, String), i| (end.0.clone(), member_name(&end.1, i));
        for (namespace, channel) in [a, b] {
            let lines = self.inside.entry(namespace.clone()).or_default();
            lines.push(format!("link add {channel} type bridge mcast_snooping 0"));
            for port in (0..links).map(|i| member_name(channel, i)) {
                lines.push(format!("link set {port} master {channel} addrgenmode none"));
                lines.push(format!("link set {port} type bridge_slave isolated on"));
                lines.push(format!("link set {port} up"));
            }
        }
        (0..links).for_each(|i| self.add_cable(&member(a, i), &member(b, i)));
    }

    fn add_links(&mut self, record: &Record, topology: &Topology, node: &Node) -> Result<()> {
        let namespace = record.namespace(&node.name);
        self.inside
            .entry(namespace.clone())
            .or_default()
            .push("link set lo up".to_owned());
        for (index, link) in node.links.iter().enumerate() {
            let segment = topology.segment(&link.segment)?;
            let interface = topology.interface(node, link)?;
            if segment.kind == SegmentKind::Bridge && !segment.is_owned_by(&node.name) {
                let switch = record.namespace(segment.switch());
                let port = port_name(&node.name, index);
                let mac = mac(&namespace, &interface);
                self.cables.push(format!("link add {interface} address {mac} netns {namespace} type veth peer name {port} netns {switch}"));
                let lines = self.inside.entry(switch).or_default();
                lines.push(format!("link set {port} master {} up", segment.bridge()));
            }
            let lines = self.inside.entry(namespace.clone()).or_default();
            lines.push(format!("link set {interface} up"));
            let addresses = link.addresses.iter();
            lines.extend(addresses.map(|a| format!("address add {a} dev {interface}")));
        }
        Ok(())
    }
}

/// The address of an interface, of those that everybody may use (IEEE 802, the bit "locally administered"): the same
/// when its node is built anew, as a host has the same one after a reboot.
fn mac(namespace: &str, interface: &str) -> String {
    let mut hash = DefaultHasher::new();
    (namespace, interface).hash(&mut hash);
    let bytes = hash.finish().to_be_bytes();
    let others = bytes[..5].iter().map(|b| format!(":{b:02x}"));
    format!("02{}", others.collect::<String>())
}

/// Packets that are tunnelled or proxied in software need finished checksums.
fn checksums_in_software(record: &Record, topology: &Topology, node: &Node) -> Result<()> {
    for link in &node.links {
        let interface = topology.interface(node, link)?;
        run(
            "ip",
            &[
                "netns",
                "exec",
                &record.namespace(&node.name),
                "ethtool",
                "-K",
                &interface,
                "tx",
                "off",
            ],
        )?;
    }
    Ok(())
}

fn set_sysctls(record: &Record, topology: &Topology, node: &str) -> Result<()> {
    let mut values: Vec<(String, String)> = Vec::new();
    let common = SYSCTLS
        .iter()
        .chain(if topology.ipv6 { &[] } else { NO_IPV6 });
    values.extend(common.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    if let Ok(node) = topology.node(node) {
        let routers = node.router.iter().flat_map(|_| router::SYSCTLS);
        values.extend(routers.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        values.extend(node.sysctls.clone());
    }
    inside(&record.namespace(node), || write_sysctls(&values))?
}

fn write_sysctls(values: &[(String, String)]) -> Result<()> {
    for (name, value) in values {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        // A kernel without IPv6 has nothing to switch off.
        if name.starts_with("net.ipv6.") && !fs::exists(&path).unwrap_or(false) {
            continue;
        }
        fs::write(&path, value).with_context(|| format!("set {name}={value}"))?;
    }
    Ok(())
}

/// Runs `f` in a thread of this process that lives in the namespace.
pub fn inside<T: Send>(namespace: &str, f: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            client::enter_namespace(namespace)?;
            Ok::<T, client::Error>(f())
        });
        let result = thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        result.with_context(|| format!("in namespace {namespace}"))
    })
}

/// Names of all namespaces that belong to some lab.
pub fn namespaces() -> Vec<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = entries.filter_map(|e| e.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|n| id_of_namespace(n).is_some()).collect();
    names.sort();
    names
}

/// Removes namespaces; links and bridges go with them.
pub fn remove(namespaces: &[String]) -> Result<()> {
    if namespaces.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = namespaces
        .iter()
        .map(|n| format!("netns del {n}"))
        .collect();
    ip_batch(None, &lines)?;
    let gone = || {
        namespaces
            .iter()
            .all(|n| !fs::exists(format!("/run/netns/{n}")).unwrap_or(true))
    };
    ensure!(
        wait_for(REMOVE_TIMEOUT, gone),
        "namespaces did not go: {}",
        namespaces.join(", ")
    );
    Ok(())
}
