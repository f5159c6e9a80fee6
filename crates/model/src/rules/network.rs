//! Networks: ranges lie in their subnet and give every address once; and where a VIP wants its address from.

use crate::object::{FieldError, Object};
use crate::view::{self, IpNetworkSubnet, Prefix, StaticIpRange, Subnet};
use ipnet::IpNet;
use serde_json::Value;
use std::net::IpAddr;

/// A range of an object, and where it stands there.
struct Placed {
    first: IpAddr,
    last: IpAddr,
    path: String,
}

pub(super) fn check(network: &Object, errors: &mut Vec<FieldError>) {
    let subnets = network.get("configured_subnets").and_then(Value::as_array);
    let mut placed = Vec::new();
    for (i, subnet) in subnets.into_iter().flatten().enumerate() {
        let parsed = subnet.as_object().map(view::parse::<Subnet>);
        let Some(Ok(subnet)) = parsed else { continue };
        let Some(net) = subnet.prefix.net() else {
            continue;
        };
        for (j, range) in subnet.static_ip_ranges.iter().enumerate() {
            let path = format!("configured_subnets[{i}].static_ip_ranges[{j}].range");
            placed.extend(check_range(&net, range, path, errors));
        }
    }
    check_overlaps(placed, errors);
}

/// The range, when it is one of its subnet.
fn check_range(
    net: &IpNet,
    range: &StaticIpRange,
    path: String,
    errors: &mut Vec<FieldError>,
) -> Option<Placed> {
    let before = errors.len();
    for (name, end) in [("begin", &range.range.begin), ("end", &range.range.end)] {
        let field = format!("{path}.{name}");
        match end.ip() {
            Some(ip) if !net.contains(&ip) => errors.push(FieldError::new(
                field,
                format!("{ip} is outside the subnet {net}"),
                "use an address of the subnet, or put the range under its own subnet",
            )),
            Some(ip) if range.is_for_vips() && !super::can_be_vip(ip) => {
                errors.push(FieldError::new(
                    field,
                    format!("{ip} cannot be a VIP"),
                    "use unicast addresses that routers can carry, or type STATIC_IPS_FOR_SE",
                ));
            }
            Some(_) => {}
            None => errors.push(FieldError::new(
                field,
                format!("{:?} is no address", end.addr),
                "write an IPv4 or IPv6 address",
            )),
        }
    }
    let (first, last) = (range.range.begin.ip()?, range.range.end.ip()?);
    if first > last {
        let problem = format!("{last} is below begin, {first}");
        let hint = "write the lower address into begin";
        errors.push(FieldError::new(format!("{path}.end"), problem, hint));
    }
    (errors.len() == before).then_some(Placed { first, last, path })
}

/// Whoever gives out an address from one range does not know what another one has given.
fn check_overlaps(mut placed: Vec<Placed>, errors: &mut Vec<FieldError>) {
    placed.sort_by_key(|p| (p.first, p.last));
    let mut highest: Option<Placed> = None;
    for range in placed {
        match &highest {
            Some(other) if range.first <= other.last => {
                let Placed { first, last, path } = other;
                errors.push(FieldError::new(
                    range.path.clone(),
                    format!("overlaps {path} ({first} to {last})"),
                    "give every address to one range",
                ));
            }
            _ => {}
        }
        if highest.as_ref().is_none_or(|h| h.last < range.last) {
            highest = Some(range);
        }
    }
}

/// `ipam_network_subnet` of a VIP: each subnet in the field of its family.
pub(super) fn check_wish(vip: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let wish = vip.get("ipam_network_subnet").and_then(Value::as_object);
    let Some(Ok(wish)) = wish.map(view::parse::<IpNetworkSubnet>) else {
        return;
    };
    let net = |prefix: &Option<Prefix>| prefix.as_ref().and_then(Prefix::net);
    for (name, net, v6, other) in [
        ("subnet", net(&wish.subnet), false, "subnet6"),
        ("subnet6", net(&wish.subnet6), true, "subnet"),
    ] {
        if let Some(net) = net.filter(|net| net.addr().is_ipv6() != v6) {
            errors.push(FieldError::new(
                format!("{path}.ipam_network_subnet.{name}"),
                format!("{net} is of the other address family"),
                format!("put it into {other}"),
            ));
        }
    }
}
