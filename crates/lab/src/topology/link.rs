//! Segments, the links to them, and static routes.

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::net::IpAddr;

/// Links of a port channel when the topology names no number.
const CHANNEL_LINKS_DEFAULT: usize = 2;

/// Most links of a port channel, as many as IEEE 802.1AX implementations commonly carry.
const CHANNEL_LINKS_MAX: usize = 8;

/// What a segment is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentKind {
    /// A bridge with any number of nodes: a node that loses its link is not seen by the others.
    #[default]
    Bridge,
    /// One cable between two nodes: what is down at one end has no carrier at the other.
    PointToPoint,
    /// Several cables between two nodes, one logical interface at each end.
    PortChannel,
}

/// A layer 2 segment.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Name that links refer to.
    pub name: String,
    /// What it is made of.
    #[serde(default)]
    pub kind: SegmentKind,
    /// For a bridge: the node that owns it and may have an address on it; none: a switch of its own.
    pub node: Option<String>,
    /// For a bridge: the name of its interface; by default the segment's.
    pub bridge: Option<String>,
    /// For a port channel: its number of links.
    pub links: Option<usize>,
}

impl Segment {
    /// Name of the bridge interface.
    pub fn bridge(&self) -> &str {
        self.bridge.as_deref().unwrap_or(&self.name)
    }

    /// The node whose namespace a bridge is in.
    pub fn switch(&self) -> &str {
        self.node.as_deref().unwrap_or(crate::fabric::SWITCHES)
    }

    /// Number of cables of a port channel.
    pub fn channel_links(&self) -> usize {
        self.links.unwrap_or(CHANNEL_LINKS_DEFAULT)
    }

    /// True when this node's interface on the segment is the bridge itself.
    pub fn is_owned_by(&self, node: &str) -> bool {
        self.node.as_deref() == Some(node)
    }

    /// Checks what the segment says of itself, and how many nodes are on it.
    pub(super) fn check(&self, nodes_on_it: usize) -> Result<()> {
        let bridge = self.kind == SegmentKind::Bridge;
        ensure!(
            bridge || (self.node.is_none() && self.bridge.is_none()),
            "`node` and `bridge` are for bridges"
        );
        ensure!(
            self.kind == SegmentKind::PortChannel || self.links.is_none(),
            "`links` is for a port_channel"
        );
        let links = self.channel_links();
        ensure!(
            (2..=CHANNEL_LINKS_MAX).contains(&links),
            "a port channel has 2 to {CHANNEL_LINKS_MAX} links, not {links}"
        );
        ensure!(
            bridge || nodes_on_it == 2,
            "it joins two nodes; {nodes_on_it} are on it"
        );
        Ok(())
    }
}

/// An interface on a segment.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// The segment.
    pub segment: String,
    /// Interface name; on a segment that this node owns it is the bridge itself.
    pub interface: Option<String>,
    /// Addresses with prefix length: one text or a list of them.
    #[serde(default, rename = "address", deserialize_with = "one_or_several")]
    pub addresses: Vec<String>,
}

impl Link {
    /// The addresses without their prefix lengths.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let parsed = self.addresses.iter().map(|a| a.parse::<IpNet>());
        parsed.filter_map(|a| Some(a.ok()?.addr()))
    }

    /// The first address without its prefix length.
    pub fn ip(&self) -> Option<IpAddr> {
        self.ips().next()
    }

    /// Checks the addresses; without IPv6 in the topology an IPv6 address could not be put.
    pub(super) fn check(&self, ipv6: bool) -> Result<()> {
        for text in &self.addresses {
            let address: IpNet = text.parse().with_context(|| {
                format!("{text:?} is no address with prefix length like 10.0.0.1/24")
            })?;
            ensure!(
                ipv6 || address.addr().is_ipv4(),
                "{text} is an IPv6 address, and the topology has `ipv6 = false`"
            );
        }
        Ok(())
    }
}

/// Name of one cable's interface in a port channel.
pub(crate) fn member_name(channel: &str, index: usize) -> String {
    format!("{channel}.{index}")
}

/// A static route.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Destination, `default`, or `::/0`.
    pub to: String,
    /// Gateway.
    pub via: String,
}

impl Route {
    /// Checks that both ends are addresses of one family.
    pub(super) fn check(&self) -> Result<()> {
        let Self { to, via } = self;
        let via: IpAddr = via
            .parse()
            .with_context(|| format!("route to {to}: gateway {via:?} is no IP address"))?;
        if to == "default" {
            return Ok(());
        }
        let net: IpNet = to
            .parse()
            .with_context(|| format!("route to {to:?}: write a network or `default`"))?;
        ensure!(
            net.addr().is_ipv4() == via.is_ipv4(),
            "route to {to}: gateway {via} is of another address family"
        );
        Ok(())
    }
}

/// A text or a list of them.
pub(crate) fn one_or_several<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    struct OneOrSeveral;

    impl<'de> Visitor<'de> for OneOrSeveral {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text, or a list of them")
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(vec![text.to_owned()])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut found = Vec::new();
            while let Some(text) = list.next_element()? {
                found.push(text);
            }
            Ok(found)
        }
    }

    deserializer.deserialize_any(OneOrSeveral)
}
