//! Networks, where of them a VIP wants its address from, and where it is (avi-api section 12, cloud, network and vsvip).

use super::{Address, Prefix, Ref};
use ipnet::IpNet;
use serde::Deserialize;
use std::net::IpAddr;

/// avi-api `Cloud`, as far as VIPs that are scaled natively are placed and reached by it.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Cloud {
    /// They are answered for on all data interfaces, instead of on the one whose subnet they are in.
    #[serde(default)]
    pub enable_vip_on_all_interfaces: bool,
    /// One that is in no interface's subnet is where the next hop of a static route to it is.
    #[serde(default)]
    pub enable_vip_static_routes: bool,
    /// Static routes are looked at before the subnets of interfaces, whether or not the field above is set.
    #[serde(default)]
    pub prefer_static_routes: bool,
}

/// avi-api `Network`, as far as addresses for VIPs come from it.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct Network {
    pub uuid: String,
    pub name: String,
    pub vrf_context_ref: Option<Ref>,
    #[serde(default)]
    pub configured_subnets: Vec<Subnet>,
}

/// avi-api `Subnet` of a network.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct Subnet {
    pub prefix: Prefix,
    #[serde(default)]
    pub static_ip_ranges: Vec<StaticIpRange>,
}

/// avi-api `StaticIpRange`.
#[derive(Debug, Clone, Deserialize)]
pub struct StaticIpRange {
    /// From where to where.
    pub range: IpAddrRange,
    /// `STATIC_IPS_FOR_VIP`, `STATIC_IPS_FOR_SE` or `STATIC_IPS_FOR_VIP_AND_SE`.
    #[serde(rename = "type", default = "for_both")]
    pub kind: String,
}

/// avi-api `IpAddrRange`: from the first to the last address, both included.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct IpAddrRange {
    pub begin: Address,
    pub end: Address,
}

/// avi-api `IPNetworkSubnet`: where a VIP wants its address from.
#[derive(Debug, Clone, Default, Deserialize)]
#[allow(missing_docs)]
pub struct IpNetworkSubnet {
    pub network_ref: Option<Ref>,
    pub subnet: Option<Prefix>,
    pub subnet6: Option<Prefix>,
}

/// avi-api `VipPlacementNetwork`: where engines of a VIP need an interface. Without a subnet it is any of the network's.
#[derive(Debug, Clone, Default, Deserialize)]
#[allow(missing_docs)]
pub struct VipPlacementNetwork {
    pub network_ref: Option<Ref>,
    pub subnet: Option<Prefix>,
    pub subnet6: Option<Prefix>,
}

impl VipPlacementNetwork {
    /// The subnets that it names itself.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> {
        let own = [&self.subnet, &self.subnet6].into_iter().flatten();
        own.filter_map(Prefix::net)
    }
}

/// Addresses of a subnet that VIPs may get, from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct VipRange {
    /// The lowest.
    pub first: IpAddr,
    /// The highest, of the same family and not below the first.
    pub last: IpAddr,
}

fn for_both() -> String {
    "STATIC_IPS_FOR_VIP_AND_SE".to_owned()
}

impl StaticIpRange {
    /// True when VIPs may have its addresses.
    pub fn is_for_vips(&self) -> bool {
        self.kind != "STATIC_IPS_FOR_SE"
    }

    /// What VIPs may have of it in its subnet: not the address of an IPv4 subnet itself and its broadcast address (RFC 1122
    /// section 3.2.1.3, but for /31 and /32, RFC 3021), nor the subnet-router anycast address of an IPv6 subnet (RFC 4291
    /// section 2.6.1, but for /127 and /128, RFC 6164). None when nothing is left, or it is no range of the subnet.
    fn for_vips_in(&self, subnet: &IpNet) -> Option<VipRange> {
        let (mut first, mut last) = (self.range.begin.ip()?, self.range.end.ip()?);
        if !self.is_for_vips() || !subnet.contains(&first) || !subnet.contains(&last) {
            return None;
        }
        let has_hosts = subnet.max_prefix_len() - subnet.prefix_len() > 1;
        if has_hosts && first == subnet.network() {
            first = address_after(first)?;
        }
        if has_hosts && first.is_ipv4() && last == subnet.broadcast() {
            last = address_before(last)?;
        }
        (first <= last).then_some(VipRange { first, last })
    }
}

impl VipRange {
    /// How many addresses it has.
    pub fn count(&self) -> u128 {
        let count = number(self.last).saturating_sub(number(self.first));
        count.saturating_add(1)
    }
}

impl Network {
    /// Its subnets that are prefixes.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> {
        self.configured_subnets
            .iter()
            .filter_map(|s| s.prefix.net())
    }

    /// The subnet in which a router of this address is reached: the one that has it; else, for a router behind others, the
    /// first one of its family.
    pub fn towards(&self, router: IpAddr) -> Option<&Prefix> {
        let prefixes = self.configured_subnets.iter().map(|s| &s.prefix);
        let nets = prefixes.filter_map(|p| Some((p, p.net()?)));
        let mut own = nets.filter(|(_, net)| net.addr().is_ipv4() == router.is_ipv4());
        let first = own.next()?;
        let has = |(_, net): &(&Prefix, IpNet)| net.contains(&router);
        let found = std::iter::once(first).chain(own).find(has);
        found.or(Some(first)).map(|(prefix, _)| prefix)
    }

    /// The ranges that VIPs may have of the subnets that `wanted` lets through, lowest first.
    pub fn vip_ranges(&self, wanted: impl Fn(&IpNet) -> bool) -> Vec<VipRange> {
        let mut found = Vec::new();
        for subnet in &self.configured_subnets {
            let Some(net) = subnet.prefix.net().filter(&wanted) else {
                continue;
            };
            let ranges = subnet.static_ip_ranges.iter();
            found.extend(ranges.filter_map(|r| r.for_vips_in(&net)));
        }
        found.sort();
        found
    }
}

/// The address after this one; none after the highest.
pub fn address_after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => Some(IpAddr::V4(a.to_bits().checked_add(1)?.into())),
        IpAddr::V6(a) => Some(IpAddr::V6(a.to_bits().checked_add(1)?.into())),
    }
}

fn address_before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => Some(IpAddr::V4(a.to_bits().checked_sub(1)?.into())),
        IpAddr::V6(a) => Some(IpAddr::V6(a.to_bits().checked_sub(1)?.into())),
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => a.to_bits().into(),
        IpAddr::V6(a) => a.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn address(text: &str) -> Value {
        let kind = if text.contains(':') { "V6" } else { "V4" };
        json!({"addr": text, "type": kind})
    }

    fn subnet(addr: &str, mask: u8, ranges: &[(&str, &str, &str)]) -> Value {
        let range = |(begin, end, kind): &(&str, &str, &str)| json!({"range": {"begin": address(begin), "end": address(end)}, "type": format!("STATIC_IPS_FOR_{kind}")});
        let ranges: Vec<_> = ranges.iter().map(range).collect();
        json!({"prefix": {"ip_addr": address(addr), "mask": mask}, "static_ip_ranges": ranges})
    }

    /// As `first-last`, of the IPv4 subnets or of all.
    fn ranges(subnets: Value, only_v4: bool) -> Vec<String> {
        let object = json!({"uuid": "u", "name": "n", "configured_subnets": subnets});
        let network: Network = serde_json::from_value(object).expect("a network");
        let found = network.vip_ranges(|net| !only_v4 || net.addr().is_ipv4());
        let say = |r: &VipRange| format!("{}-{}: {}", r.first, r.last, r.count());
        found.iter().map(say).collect()
    }

    #[test]
    fn ranges_for_vips_come_lowest_first_from_all_subnets() {
        let subnets = json!([
            subnet("fd00::", 64, &[("fd00::10", "fd00::1f", "VIP")]),
            subnet(
                "10.2.0.0",
                24,
                &[
                    ("10.2.0.9", "10.2.0.9", "VIP_AND_SE"),
                    ("10.2.0.3", "10.2.0.5", "VIP")
                ]
            ),
            subnet(
                "10.1.0.0",
                24,
                &[
                    ("10.1.0.7", "10.1.0.8", "VIP"),
                    ("10.1.0.20", "10.1.0.30", "SE")
                ]
            ),
        ]);
        let v4 = [
            "10.1.0.7-10.1.0.8: 2",
            "10.2.0.3-10.2.0.5: 3",
            "10.2.0.9-10.2.0.9: 1",
        ];
        assert_eq!(ranges(subnets.clone(), true), v4);
        assert_eq!(ranges(subnets, false)[3], "fd00::10-fd00::1f: 16");
    }

    #[test]
    fn what_hosts_of_a_subnet_cannot_have_vips_do_not_get() {
        for (addr, mask, begin, end, expected) in [
            (
                "10.1.0.0",
                24,
                "10.1.0.0",
                "10.1.0.255",
                "10.1.0.1-10.1.0.254: 254",
            ),
            (
                "10.1.0.0",
                31,
                "10.1.0.0",
                "10.1.0.1",
                "10.1.0.0-10.1.0.1: 2",
            ),
            (
                "10.1.0.7",
                32,
                "10.1.0.7",
                "10.1.0.7",
                "10.1.0.7-10.1.0.7: 1",
            ),
            ("fd00::", 126, "fd00::", "fd00::3", "fd00::1-fd00::3: 3"),
            ("fd00::", 127, "fd00::", "fd00::1", "fd00::-fd00::1: 2"),
        ] {
            let found = ranges(json!([subnet(addr, mask, &[(begin, end, "VIP")])]), false);
            assert_eq!(found, [expected]);
        }
        let only_the_net = json!([subnet("10.1.0.0", 24, &[("10.1.0.0", "10.1.0.0", "VIP")])]);
        assert_eq!(ranges(only_the_net, false), Vec::<String>::new());
    }

    #[test]
    fn a_range_that_is_none_gives_nothing() {
        for (begin, end) in [
            ("10.1.0.9", "10.1.0.8"),
            ("10.9.0.1", "10.9.0.2"),
            ("10.1.0.1", "fd00::1"),
        ] {
            let found = ranges(
                json!([subnet("10.1.0.0", 24, &[(begin, end, "VIP")])]),
                false,
            );
            assert_eq!(found, Vec::<String>::new(), "{begin}-{end}");
        }
    }

    #[test]
    fn all_of_ipv6_is_counted_without_an_overflow() {
        let all = ranges(
            json!([subnet(
                "::",
                0,
                &[("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "VIP")]
            )]),
            false,
        );
        assert!(all[0].ends_with(&format!(": {}", u128::MAX)), "{all:?}");
    }
}
