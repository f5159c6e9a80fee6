//! Filters and entries of the contract's flow tables (avi-api 10.4).

use super::flows::{Lookup, number};
use super::runtime::Observer;
use crate::error::ApiError;
use ipnet::IpNet;
use proto::v1::{FlowFilter, FlowRow};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// What a flow table is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableFilter {
    /// "tcp", "udp" or "" for both.
    protocol: String,
    client: Side,
    vip: Side,
}

/// One end of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Side {
    net: Option<IpNet>,
    ports: RangeInclusive<u32>,
}

const ANY_PORT: RangeInclusive<u32> = 0..=65535;

impl TableFilter {
    /// From `src_…`, `dst_…`, `protocol_str`, `core_num` and `intfname`.
    ///
    /// # Errors
    /// 400 with the parameter: wrong, or one that the engine's tables do not have.
    pub(super) fn of(lookup: &Lookup<'_>) -> Result<Self, ApiError> {
        if lookup("intfname").is_some() {
            return Err(ApiError::bad_request(
                "intfname: flows are not kept by interface here; leave it out",
            ));
        }
        if number(lookup, "core_num")?.is_some_and(|core| core != 0) {
            return Err(ApiError::bad_request(
                "core_num: a service engine is one process; use 0, or leave it out",
            ));
        }
        Ok(Self {
            protocol: protocol(lookup)?,
            client: Side::of(lookup, "src")?,
            vip: Side::of(lookup, "dst")?,
        })
    }

    /// True when the engine itself can sift by all of it.
    pub(super) fn is_exact(&self) -> bool {
        self.client.is_exact() && self.vip.is_exact()
    }

    /// As much of it as the engine can sift by.
    pub(super) fn of_engine(&self) -> FlowFilter {
        FlowFilter {
            protocol: self.protocol.clone(),
            client: self.client.address(),
            client_port: self.client.port(),
            vip: self.vip.address(),
            vip_port: self.vip.port(),
            vs_uuid: String::new(),
        }
    }

    pub(super) fn fits(&self, flow: &FlowRow) -> bool {
        (self.protocol.is_empty() || self.protocol == flow.protocol)
            && self.client.fits(&flow.client, flow.client_port)
            && self.vip.fits(&flow.vip, flow.vip_port)
    }
}

impl Side {
    /// `name` is "src" or "dst".
    fn of(lookup: &Lookup<'_>, name: &str) -> Result<Self, ApiError> {
        let low = port(lookup, &format!("{name}_port"))?;
        let high = port(lookup, &format!("{name}_port_hi"))?;
        let ports = match (low, high) {
            (None, None) => ANY_PORT,
            (Some(low), None) => low..=low,
            (Some(low), Some(high)) if low <= high => low..=high,
            (None, Some(_)) => {
                let text = format!("{name}_port_hi: goes with {name}_port; write both");
                return Err(ApiError::bad_request(text));
            }
            (Some(low), Some(high)) => {
                let text = format!("{name}_port_hi: {high} is below {name}_port, {low}");
                return Err(ApiError::bad_request(text));
            }
        };
        let net = net(lookup, name)?;
        Ok(Self { net, ports })
    }

    fn is_host(&self) -> bool {
        self.net
            .is_none_or(|n| n.prefix_len() == n.max_prefix_len())
    }

    fn is_exact(&self) -> bool {
        self.is_host() && (self.ports == ANY_PORT || self.ports.start() == self.ports.end())
    }

    fn address(&self) -> String {
        let host = self.net.filter(|_| self.is_host());
        host.map_or_else(String::new, |n| n.addr().to_string())
    }

    /// 0 is any.
    fn port(&self) -> u32 {
        let one = self.ports.start() == self.ports.end();
        if one { *self.ports.start() } else { 0 }
    }

    fn fits(&self, address: &str, port: u32) -> bool {
        let inside = |net: IpNet| address.parse::<IpAddr>().is_ok_and(|a| net.contains(&a));
        self.net.is_none_or(inside) && self.ports.contains(&port)
    }
}

pub(super) fn port(lookup: &Lookup<'_>, field: &str) -> Result<Option<u32>, ApiError> {
    match number(lookup, field)? {
        Some(port) if !(1..=65535).contains(&port) => Err(ApiError::bad_request(format!(
            "{field}: {port} is no port; use 1 to 65535"
        ))),
        other => Ok(other),
    }
}

/// `src_ip_addr` with `src_ip_mask`, a length or, of IPv4, a mask.
fn net(lookup: &Lookup<'_>, name: &str) -> Result<Option<IpNet>, ApiError> {
    let (field, mask_field) = (format!("{name}_ip_addr"), format!("{name}_ip_mask"));
    match (ip(lookup, &field)?, lookup(&mask_field)) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(ApiError::bad_request(format!(
            "{mask_field}: goes with {field}; write both"
        ))),
        (Some(address), None) => Ok(Some(address.into())),
        (Some(address), Some(mask)) => masked(address, &mask_field, &mask).map(Some),
    }
}

/// An address.
pub(super) fn ip(lookup: &Lookup<'_>, field: &str) -> Result<Option<IpAddr>, ApiError> {
    let Some(text) = lookup(field) else {
        return Ok(None);
    };
    let address = text.parse().map(Some);
    address.map_err(|_| ApiError::bad_request(format!("{field}: {text:?} is no IP address")))
}

/// The network of an address by its mask, which this field has.
pub(super) fn masked(address: IpAddr, field: &str, mask: &str) -> Result<IpNet, ApiError> {
    let by_length = mask
        .parse()
        .ok()
        .and_then(|len| IpNet::new(address, len).ok());
    let by_mask = || IpNet::with_netmask(address, mask.parse().ok()?).ok();
    let net = by_length.or_else(by_mask).ok_or_else(|| {
        ApiError::bad_request(format!(
            "{field}: {mask:?} is no mask for {address}; write the prefix length"
        ))
    })?;
    Ok(net.trunc())
}

/// `tcp`, `TCP` and `PROTOCOL_TCP` are one.
fn protocol(lookup: &Lookup<'_>) -> Result<String, ApiError> {
    let Some(text) = lookup("protocol_str") else {
        return Ok(String::new());
    };
    let word = text.to_lowercase();
    match word.strip_prefix("protocol_").unwrap_or(&word) {
        word @ ("tcp" | "udp") => Ok(word.to_owned()),
        _ => Err(ApiError::bad_request(format!(
            "protocol_str: {text:?} is not in a flow table; use tcp or udp"
        ))),
    }
}

/// `IpAddr` of the contract.
pub(super) fn address(address: IpAddr) -> Value {
    let kind = if address.is_ipv4() { "V4" } else { "V6" };
    json!({"addr": address.to_string(), "type": kind})
}

impl Observer<'_> {
    /// A flow as the contract has it; beside that, where it lives and what has passed.
    pub(super) fn flow_entry(&self, flow: &FlowRow) -> Value {
        let ip = |text: &str| text.parse().map_or(Value::Null, address);
        let local = flow.found_by == "socket";
        let mut entry = json!({
            "src_ip": ip(&flow.client), "dst_ip": ip(&flow.vip),
            "src_port": flow.client_port, "dst_port": flow.vip_port,
            "protocol": flow.protocol.to_uppercase(), "is_local": local,
        });
        let more = match local {
            true => json!({
                "vs_uuid": flow.vs_uuid, "server": flow.server, "age_ms": flow.age_ms,
                "bytes_in": flow.bytes_in, "bytes_out": flow.bytes_out,
            }),
            false => json!({
                "owner_se_uuid": flow.owner_uuid, "owner_se_name": self.known(&flow.owner_uuid),
            }),
        };
        if let (Some(entry), Value::Object(more)) = (entry.as_object_mut(), more) {
            entry.extend(more);
        }
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(pairs: &[(&str, &str)]) -> Result<TableFilter, String> {
        let lookup = |name: &str| {
            let found = pairs.iter().find(|(k, _)| *k == name);
            found.map(|(_, v)| (*v).to_owned())
        };
        TableFilter::of(&lookup).map_err(|e| e.text)
    }

    fn flow(client: &str, port: u32) -> FlowRow {
        FlowRow {
            protocol: "tcp".into(),
            client: client.into(),
            client_port: port,
            vip: "10.100.0.1".into(),
            vip_port: 80,
            ..FlowRow::default()
        }
    }

    #[test]
    fn what_is_exact_is_left_to_the_engine() {
        let exact = [
            ("src_ip_addr", "192.0.2.7"),
            ("dst_port", "80"),
            ("protocol_str", "PROTOCOL_TCP"),
            ("core_num", "0"),
        ];
        let filter = filter(&exact).expect("good");
        let asked = filter.of_engine();
        assert!(filter.is_exact());
        assert_eq!(
            (
                asked.client.as_str(),
                asked.vip_port,
                asked.protocol.as_str()
            ),
            ("192.0.2.7", 80, "tcp")
        );
        assert_eq!((asked.client_port, asked.vip.as_str()), (0, ""));
    }

    #[test]
    fn networks_and_ranges_of_ports_are_sifted_here() {
        for mask in ["24", "255.255.255.0"] {
            let wide = [
                ("src_ip_addr", "192.0.2.99"),
                ("src_ip_mask", mask),
                ("src_port", "1000"),
                ("src_port_hi", "2000"),
            ];
            let filter = filter(&wide).expect("good");
            assert!(!filter.is_exact());
            let asked = filter.of_engine();
            assert_eq!((asked.client.as_str(), asked.client_port), ("", 0));
            assert!(filter.fits(&flow("192.0.2.7", 1500)));
            assert!(!filter.fits(&flow("192.0.3.7", 1500)));
            assert!(!filter.fits(&flow("192.0.2.7", 2001)));
        }
    }

    #[test]
    fn parameters_that_are_wrong_or_unknown_to_the_tables_are_named() {
        for (pairs, field) in [
            (&[("src_ip_addr", "x")][..], "src_ip_addr"),
            (&[("dst_ip_mask", "24")], "dst_ip_mask"),
            (
                &[("src_ip_addr", "::1"), ("src_ip_mask", "129")],
                "src_ip_mask",
            ),
            (&[("src_port", "0")], "src_port"),
            (&[("src_port_hi", "5")], "src_port_hi"),
            (&[("dst_port", "9"), ("dst_port_hi", "5")], "dst_port_hi"),
            (&[("protocol_str", "icmp")], "protocol_str"),
            (&[("core_num", "1")], "core_num"),
            (&[("intfname", "eth0")], "intfname"),
        ] {
            let text = filter(pairs).expect_err(field);
            assert!(text.starts_with(&format!("{field}: ")), "{text}");
        }
    }
}
