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
mod tests;
