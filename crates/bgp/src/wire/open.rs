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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capability {
    /// Code 1: multiprotocol extensions (RFC 4760).
    Multiprotocol(Family),
    /// Code 2: route refresh (RFC 2918).
    RouteRefresh,
    /// Code 5: IPv4 routes with IPv6 next hops (RFC 8950); other combinations are not told apart from
    /// unknown capabilities.
    ExtendedNextHop,
    /// Code 6: messages up to 65535 octets (RFC 8654).
    ExtendedMessage,
    /// Code 64: graceful restart (RFC 4724).
    GracefulRestart(GracefulRestart),
    /// Code 65: four-octet AS numbers (RFC 6793) with the speaker's own.
    FourOctetAs(u32),
    /// Code 70: enhanced route refresh (RFC 7313).
    EnhancedRouteRefresh,
    /// Any other code, and known codes with contents that mean nothing here.
    Other {
        /// IANA capability code.
        code: u8,
    },
}

/// The contents of the graceful restart capability (RFC 4724 section 3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GracefulRestart {
    /// Restart State: the speaker has restarted.
    pub restarting: bool,
    /// How long the peer keeps the routes, in seconds, at most 4095.
    pub restart_time_s: u16,
    /// Families with the Forwarding State bit as given.
    pub families: Vec<(Family, bool)>,
}

impl Capability {
    /// The IANA code.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Multiprotocol(_) => 1,
            Self::RouteRefresh => 2,
            Self::ExtendedNextHop => 5,
            Self::ExtendedMessage => 6,
            Self::GracefulRestart(_) => 64,
            Self::FourOctetAs(_) => 65,
            Self::EnhancedRouteRefresh => 70,
            Self::Other { code } => *code,
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Multiprotocol(family) => family.fmt(f),
            Self::RouteRefresh => f.write_str("route refresh"),
            Self::ExtendedNextHop => f.write_str("extended next hop"),
            Self::ExtendedMessage => f.write_str("extended message"),
            Self::GracefulRestart(_) => f.write_str("graceful restart"),
            Self::FourOctetAs(_) => f.write_str("four-octet AS"),
            Self::EnhancedRouteRefresh => f.write_str("enhanced route refresh"),
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
    /// An OPEN with the capabilities every speaker of today has; the header's AS follows from the number
    /// (RFC 6793 section 4.1).
    #[must_use]
    pub fn new(local_as: Asn, hold_time_s: u16, router_id: Ipv4Addr, families: &[Family]) -> Self {
        let mut capabilities: Vec<_> = families
            .iter()
            .map(|family| Capability::Multiprotocol(*family))
            .collect();
        capabilities.push(Capability::RouteRefresh);
        capabilities.push(Capability::FourOctetAs(local_as.get()));
        Self::with_capabilities(local_as, hold_time_s, router_id, capabilities)
    }

    /// An OPEN with exactly these capabilities.
    #[must_use]
    pub fn with_capabilities(
        local_as: Asn,
        hold_time_s: u16,
        router_id: Ipv4Addr,
        capabilities: Vec<Capability>,
    ) -> Self {
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
                _ => None,
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
                _ => {}
            }
        }
        if families.is_empty() && !spoke_multiprotocol {
            families.push(Family::Ipv4Unicast);
        }
        families
    }

    /// The peer keeps our routes over a restart (RFC 4724); `None` without the capability.
    #[must_use]
    pub fn graceful_restart(&self) -> Option<&GracefulRestart> {
        self.capabilities.iter().find_map(|c| match c {
            Capability::GracefulRestart(restart) => Some(restart),
            _ => None,
        })
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

fn family_from_codec(afi: codec::Afi, safi: codec::Safi) -> Option<Family> {
    match (afi, safi) {
        (codec::Afi::Ipv4, codec::Safi::Unicast) => Some(Family::Ipv4Unicast),
        (codec::Afi::Ipv6, codec::Safi::Unicast) => Some(Family::Ipv6Unicast),
        _ => None,
    }
}

fn afi(family: Family) -> codec::Afi {
    match family {
        Family::Ipv4Unicast => codec::Afi::Ipv4,
        Family::Ipv6Unicast => codec::Afi::Ipv6,
    }
}

fn capability_from_codec(capability: &codec::Capability) -> Capability {
    use codec::Capability as C;
    let other = || Capability::Other {
        code: capability.code(),
    };
    match capability {
        C::MultiProtocol { afi, safi } => {
            family_from_codec(*afi, *safi).map_or_else(other, Capability::Multiprotocol)
        }
        C::RouteRefresh => Capability::RouteRefresh,
        C::FourOctetAs { asn } => Capability::FourOctetAs(*asn),
        C::EnhancedRouteRefresh => Capability::EnhancedRouteRefresh,
        C::ExtendedMessage => Capability::ExtendedMessage,
        C::ExtendedNextHop(list) if list.iter().any(is_ipv4_over_ipv6) => {
            Capability::ExtendedNextHop
        }
        C::GracefulRestart {
            restart_state,
            restart_time,
            families,
            ..
        } => Capability::GracefulRestart(GracefulRestart {
            restarting: *restart_state,
            restart_time_s: *restart_time,
            families: families
                .iter()
                .filter_map(|f| Some((family_from_codec(f.afi, f.safi)?, f.forwarding_preserved)))
                .collect(),
        }),
        _ => other(),
    }
}

fn is_ipv4_over_ipv6(entry: &codec::ExtendedNextHopFamily) -> bool {
    entry.nlri_afi == codec::Afi::Ipv4
        && entry.nlri_safi == codec::Safi::Unicast
        && entry.next_hop_afi == codec::Afi::Ipv6
}

fn capability_to_codec(capability: &Capability) -> Option<codec::Capability> {
    use codec::Capability as C;
    let safi = codec::Safi::Unicast;
    Some(match capability {
        Capability::Multiprotocol(family) => C::MultiProtocol {
            afi: afi(*family),
            safi,
        },
        Capability::RouteRefresh => C::RouteRefresh,
        Capability::FourOctetAs(asn) => C::FourOctetAs { asn: *asn },
        Capability::EnhancedRouteRefresh => C::EnhancedRouteRefresh,
        Capability::ExtendedMessage => C::ExtendedMessage,
        Capability::ExtendedNextHop => C::ExtendedNextHop(vec![codec::ExtendedNextHopFamily {
            nlri_afi: codec::Afi::Ipv4,
            nlri_safi: safi,
            next_hop_afi: codec::Afi::Ipv6,
        }]),
        Capability::GracefulRestart(restart) => C::GracefulRestart {
            restart_state: restart.restarting,
            notification: false,
            restart_time: restart.restart_time_s.min(0x0FFF),
            families: restart
                .families
                .iter()
                .map(|(family, preserved)| codec::GracefulRestartFamily {
                    afi: afi(*family),
                    safi,
                    forwarding_preserved: *preserved,
                })
                .collect(),
        },
        Capability::Other { .. } => return None,
    })
}
