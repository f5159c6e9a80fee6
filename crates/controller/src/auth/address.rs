//! Whose an address is.

use std::net::{IpAddr, Ipv6Addr};

/// The address by which a host is braked and counted: its IPv4 address, or its IPv6 network of 64 bits, of which it has all.
pub fn host(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 1))
        }
        v4 => v4,
    }
}
