//! OPEN and its capabilities (RFC 4271 section 4.2, RFC 5492).

use std::fmt;
use std::net::Ipv4Addr;

use bytes::{Bytes, BytesMut};
use rustbgpd_wire as codec;

use super::EncodeError;
use crate::types::{Asn, Family};

/// The only protocol version (RFC 4271).
const VERSION: u8 = 4;

/// A capability as this speaker knows it; everything else is kept by its number alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    /// Code 1: multiprotocol extensions (RFC 4760).
    Multiprotocol(Family),
    /// Code 2: route refresh (RFC 2918).
    RouteRefresh,
    /// Code 65: four-octet AS numbers (RFC 6793) with the speaker's own.
    FourOctetAs(u32),
    /// Any other code, and known codes with contents that mean nothing here.
    Other {
        /// IANA capability code.
        code: u8,
    },
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Multiprotocol(family) => family.fmt(f),
            Self::RouteRefresh => f.write_str("route refresh"),
            Self::FourOctetAs(_) => f.write_str("four-octet AS"),
            Self::Other { code } => write!(f, "capability {code}"),
        }
    }
}

/// An OPEN message; the fields are as on the wire and not yet judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// "My Autonomous System" of the header.
    pub header_as: u16,
    /// Proposed hold time in seconds.
    pub hold_time_s: u16,
    /// BGP identifier.
    pub router_id: Ipv4Addr,
    /// In the order of the message.
    pub capabilities: Vec<Capability>,
}

impl Open {
    /// An OPEN of ours; the header's AS follows from the number (RFC 6793 section 4.1).
    #[must_use]
    pub fn new(local_as: Asn, hold_time_s: u16, router_id: Ipv4Addr, families: &[Family]) -> Self {
        let mut capabilities: Vec<_> = families
            .iter()
            .map(|family| Capability::Multiprotocol(*family))
            .collect();
        capabilities.push(Capability::RouteRefresh);
        capabilities.push(Capability::FourOctetAs(local_as.get()));
        Self {
            header_as: local_as.two_octets(),
            hold_time_s,
            router_id,
            capabilities,
        }
    }

    /// The speaker's AS: the capability's when present, else the header's. May be 0 in a bad OPEN.
    #[must_use]
    pub fn asn(&self) -> u32 {
        self.capabilities
            .iter()
            .find_map(|capability| match capability {
                Capability::FourOctetAs(number) => Some(*number),
                Capability::Multiprotocol(_)
                | Capability::RouteRefresh
                | Capability::Other { .. } => None,
            })
            .unwrap_or(u32::from(self.header_as))
    }

    /// Whether the speaker understands four-octet AS numbers.
    #[must_use]
    pub fn has_four_octet_as(&self) -> bool {
        self.capabilities
            .iter()
            .any(|c| matches!(c, Capability::FourOctetAs(_)))
    }

    /// Families the speaker accepts; without any multiprotocol capability that is IPv4 unicast
    /// (RFC 4760 section 8 leaves plain BGP-4 as it was).
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        let mut spoke_multiprotocol = false;
        let mut families = Vec::new();
        for capability in &self.capabilities {
            match capability {
                Capability::Multiprotocol(family) => families.push(*family),
                Capability::Other { code: 1 } => spoke_multiprotocol = true,
                Capability::RouteRefresh
                | Capability::FourOctetAs(_)
                | Capability::Other { .. } => {}
            }
        }
        if families.is_empty() && !spoke_multiprotocol {
            families.push(Family::Ipv4Unicast);
        }
        families
    }

    pub(super) fn from_codec(open: &codec::OpenMessage) -> Self {
        Self {
            header_as: open.my_as,
            hold_time_s: open.hold_time,
            router_id: open.bgp_identifier,
            capabilities: open
                .capabilities
                .iter()
                .map(capability_from_codec)
                .collect(),
        }
    }

    /// The complete message. [`Capability::Other`] is not sent: it has no contents.
    ///
    /// # Errors
    ///
    /// The capabilities do not fit (cannot happen with the ones above).
    pub fn encode(&self) -> Result<Bytes, EncodeError> {
        let open = codec::OpenMessage {
            version: VERSION,
            my_as: self.header_as,
            hold_time: self.hold_time_s,
            bgp_identifier: self.router_id,
            capabilities: self
                .capabilities
                .iter()
                .filter_map(capability_to_codec)
                .collect(),
        };
        let mut bytes = BytesMut::with_capacity(open.encoded_len());
        open.encode(&mut bytes)?;
        Ok(bytes.freeze())
    }
}

fn capability_from_codec(capability: &codec::Capability) -> Capability {
    match capability {
        codec::Capability::MultiProtocol { afi, safi } => match (afi, safi) {
            (codec::Afi::Ipv4, codec::Safi::Unicast) => {
                Capability::Multiprotocol(Family::Ipv4Unicast)
            }
            (codec::Afi::Ipv6, codec::Safi::Unicast) => {
                Capability::Multiprotocol(Family::Ipv6Unicast)
            }
            _ => Capability::Other {
                code: capability.code(),
            },
        },
        codec::Capability::RouteRefresh => Capability::RouteRefresh,
        codec::Capability::FourOctetAs { asn } => Capability::FourOctetAs(*asn),
        other => Capability::Other { code: other.code() },
    }
}

fn capability_to_codec(capability: &Capability) -> Option<codec::Capability> {
    let safi = codec::Safi::Unicast;
    match capability {
        Capability::Multiprotocol(Family::Ipv4Unicast) => Some(codec::Capability::MultiProtocol {
            afi: codec::Afi::Ipv4,
            safi,
        }),
        Capability::Multiprotocol(Family::Ipv6Unicast) => Some(codec::Capability::MultiProtocol {
            afi: codec::Afi::Ipv6,
            safi,
        }),
        Capability::RouteRefresh => Some(codec::Capability::RouteRefresh),
        Capability::FourOctetAs(asn) => Some(codec::Capability::FourOctetAs { asn: *asn }),
        Capability::Other { .. } => None,
    }
}
