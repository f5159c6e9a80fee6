//! The header of the PROXY protocol (HAProxy, "The PROXY protocol, versions 1 & 2"): what a server is told of the client
//! before the client's bytes, and before TLS. It describes the connection of the client, whatever the one to the server is.
//!
//! ```text
//! version 1   PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n
//! version 2   signature (12) | version, command (1) | family, transport (1) | length (2) | addresses (4 + 4, or 16 + 16) | ports (2 + 2)
//! ```

use flow::key::bytes16;
use std::net::{IpAddr, SocketAddr};

/// Section 2.2: begins a header of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, PROXY.
const VERSION_AND_COMMAND: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
/// Both ports.
const PORTS_LEN: u16 = 4;

/// Which version of it servers understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeader {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl ProxyHeader {
    /// The header of a client's connection to a port of a VIP.
    pub(crate) fn encode(self, [client, vip]: [SocketAddr; 2]) -> Vec<u8> {
        match self {
            Self::V1 => text(client, vip).into_bytes(),
            Self::V2 => binary(client, vip),
        }
    }
}

/// Section 2.1.
fn text(client: SocketAddr, vip: SocketAddr) -> String {
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (client.ip(), vip.ip());
    let (from_port, to_port) = (client.port(), vip.port());
    format!("PROXY {family} {from} {to} {from_port} {to_port}\r\n")
}

/// Section 2.2.
fn binary(client: SocketAddr, vip: SocketAddr) -> Vec<u8> {
    let (family, addresses) = addresses(client.ip(), vip.ip());
    let length = addresses.len() as u16 + PORTS_LEN;
    let mut header = SIGNATURE.to_vec();
    header.extend([VERSION_AND_COMMAND, family]);
    header.extend(length.to_be_bytes());
    header.extend(addresses);
    header.extend(client.port().to_be_bytes());
    header.extend(vip.port().to_be_bytes());
    header
}

/// The family, and both addresses in it.
fn addresses(from: IpAddr, to: IpAddr) -> (u8, Vec<u8>) {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            (TCP_OVER_IPV4, [from.octets(), to.octets()].concat())
        }
        _ => (TCP_OVER_IPV6, [bytes16(from), bytes16(to)].concat()),
    }
}

#[cfg(test)]
mod haproxy;

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(client: &str, vip: &str) -> [SocketAddr; 2] {
        [client, vip].map(|end| end.parse().expect("an address"))
    }

    #[test]
    fn version_1_is_the_line_of_the_specification() {
        let v4 = ends("192.168.0.1:56324", "192.168.0.11:443");
        let expected = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";
        assert_eq!(ProxyHeader::V1.encode(v4), expected);
        let v6 = ends("[fd00::1]:1", "[fd00::2]:65535");
        let expected = b"PROXY TCP6 fd00::1 fd00::2 1 65535\r\n";
        assert_eq!(ProxyHeader::V1.encode(v6), expected);
    }

    /// Section 2.2: "\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A".
    const SPECIFIED: [u8; 12] = [
        0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A,
    ];

    #[test]
    fn version_2_of_ipv4_has_28_bytes() {
        let v4 = ends("192.168.0.1:56324", "192.168.0.11:443");
        let header = ProxyHeader::V2.encode(v4);
        assert_eq!(header[..12], SPECIFIED);
        assert_eq!(header[12..16], [0x21, 0x11, 0, 12]);
        assert_eq!(header[16..24], [192, 168, 0, 1, 192, 168, 0, 11]);
        assert_eq!(header[24..], [0xDC, 0x04, 0x01, 0xBB]);
    }

    #[test]
    fn version_2_of_ipv6_has_52_bytes() {
        let header = ProxyHeader::V2.encode(ends("[fd00::1]:1", "[fd00::2]:65535"));
        assert_eq!(header[..12], SPECIFIED);
        assert_eq!(header[12..16], [0x21, 0x21, 0, 36]);
        let mut address = [0u8; 16];
        (address[0], address[15]) = (0xFD, 1);
        assert_eq!(header[16..32], address);
        address[15] = 2;
        assert_eq!(header[32..48], address);
        assert_eq!(header[48..], [0, 1, 0xFF, 0xFF]);
    }
}
