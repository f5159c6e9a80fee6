//! What names a flow.

use std::net::{IpAddr, SocketAddr};

/// Transport protocol of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// 6
    Tcp,
    /// 17
    Udp,
}

impl Protocol {
    /// The number in an IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The word of API and CLI.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// The protocol of this [`Self::code`].
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        [Self::Tcp, Self::Udp]
            .into_iter()
            .find(|p| p.code() == code)
    }
}

/// The 5-tuple as the client sends it (seed, "Flow Resiliency During Scale Out/In"). Both addresses are of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Transport.
    pub protocol: Protocol,
    /// Where it comes from.
    pub client: SocketAddr,
    /// The VIP and its port.
    pub service: SocketAddr,
}

/// An address as 16 bytes: IPv4 as `::ffff:a.b.c.d`, as in messages and maps.
#[must_use]
pub fn bytes16(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
