//! UPDATE: our announcements and withdrawals, packed to the size limit.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{Bytes, BytesMut};
use ipnet::IpNet;
use rustbgpd_wire as codec;

use super::{EncodeError, HEADER_LEN};
use crate::rib::{Origin, RouteAttributes};
use crate::types::{AS_TRANS, Asn, Family, LargeCommunity};

/// Header and the two length fields of an UPDATE.
const UPDATE_OVERHEAD: usize = HEADER_LEN + 4;
/// MP_REACH_NLRI without NLRI: attribute header with a two-octet length, AFI, SAFI, next hop, reserved.
const MP_REACH_OVERHEAD: usize = 4 + 2 + 1 + 1 + 16 + 1;
/// MP_UNREACH_NLRI without NLRI: attribute header with a two-octet length, AFI, SAFI.
const MP_UNREACH_OVERHEAD: usize = 4 + 2 + 1;

const AS4_PATH: u8 = 17;
const OPTIONAL_TRANSITIVE: u8 = 0xC0;
const AS_SEQUENCE: u8 = 2;

/// What of the session shapes the attributes of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpdateContext {
    /// The AS that goes into AS_PATH towards external peers.
    pub local_as: Asn,
    /// The peer is in our AS.
    pub ibgp: bool,
    /// Both sides have the four-octet AS capability.
    pub four_octet_as: bool,
    /// Our address on the link, for IPv4 routes.
    pub next_hop_v4: Option<Ipv4Addr>,
    /// Our global address on the link, for IPv6 routes.
    pub next_hop_v6: Option<Ipv6Addr>,
    /// IPv4 routes carry the IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// Largest message that the peer takes, in octets (RFC 4271, RFC 8654).
    pub max_message_len: usize,
}

impl UpdateContext {
    /// The next hop that announcements of this family carry.
    fn next_hop(&self, family: Family) -> Result<IpAddr, EncodeError> {
        let address = match family {
            Family::Ipv4Unicast if !self.extended_next_hop => self.next_hop_v4.map(IpAddr::V4),
            Family::Ipv4Unicast | Family::Ipv6Unicast => self.next_hop_v6.map(IpAddr::V6),
        };
        address.ok_or(EncodeError::NoNextHop(family))
    }
}

/// The UPDATEs that announce these prefixes, as few as fit.
///
/// ORIGIN of our own routes is IGP. To an internal peer AS_PATH is empty and LOCAL_PREF is always there (RFC 4271
/// sections 5.1.2 and 5.1.5); to an external one AS_PATH starts with our AS and LOCAL_PREF is not
/// sent. MP_REACH_NLRI comes first (RFC 7606 section 5.1), the rest in the order of type codes.
///
/// # Errors
///
/// No next hop in this family, or attributes that fill a message.
pub fn encode_announcement(
    context: &UpdateContext,
    attributes: &RouteAttributes,
    family: Family,
    prefixes: &[IpNet],
) -> Result<Vec<Bytes>, EncodeError> {
    let next_hop = context.next_hop(family)?;
    let common = encode_common_attributes(context, attributes, next_hop)?;
    let multiprotocol = next_hop.is_ipv6();
    let overhead =
        UPDATE_OVERHEAD + common.len() + if multiprotocol { MP_REACH_OVERHEAD } else { 0 };
    let chunks = pack(prefixes, context.max_message_len.saturating_sub(overhead));
    let chunks = chunks.ok_or(EncodeError::AttributesTooLong {
        attributes_len: common.len(),
    })?;
    let each = chunks.into_iter().map(|chunk| {
        if !multiprotocol {
            return encode_body(Bytes::new(), common.clone(), body_nlri(chunk));
        }
        let mut all = mp_reach(family, next_hop, chunk)?;
        all.extend_from_slice(&common);
        encode_body(Bytes::new(), all.into(), Bytes::new())
    });
    each.collect()
}

/// The UPDATEs that withdraw these prefixes, as few as fit.
///
/// # Errors
///
/// Only what the codec refuses, which does not happen with valid prefixes.
pub fn encode_withdrawal(
    family: Family,
    max_message_len: usize,
    prefixes: &[IpNet],
) -> Result<Vec<Bytes>, EncodeError> {
    let overhead = match family {
        Family::Ipv4Unicast => UPDATE_OVERHEAD,
        Family::Ipv6Unicast => UPDATE_OVERHEAD + MP_UNREACH_OVERHEAD,
    };
    let chunks = pack(prefixes, max_message_len.saturating_sub(overhead)).unwrap_or_default();
    let each = chunks.into_iter().map(|chunk| match family {
        Family::Ipv4Unicast => encode_body(body_nlri(chunk), Bytes::new(), Bytes::new()),
        Family::Ipv6Unicast => encode_body(
            Bytes::new(),
            mp_unreach(family, chunk)?.into(),
            Bytes::new(),
        ),
    });
    each.collect()
}

/// End-of-RIB (RFC 4724 section 2): an UPDATE that says nothing in this family.
///
/// # Errors
///
/// Only what the codec refuses, which does not happen here.
pub fn encode_end_of_rib(family: Family) -> Result<Bytes, EncodeError> {
    let attributes = match family {
        Family::Ipv4Unicast => Bytes::new(),
        Family::Ipv6Unicast => mp_unreach(family, &[])?.into(),
    };
    encode_body(Bytes::new(), attributes, Bytes::new())
}

/// Cuts the list into runs that fit into `room` octets of NLRI; `None` when not even one prefix may fit.
fn pack(prefixes: &[IpNet], room: usize) -> Option<Vec<&[IpNet]>> {
    let mut chunks = Vec::new();
    let (mut start, mut used) = (0, 0);
    for (at, prefix) in prefixes.iter().enumerate() {
        let len = nlri_len(*prefix);
        if len > room {
            return None;
        }
        if used + len > room {
            chunks.push(&prefixes[start..at]);
            (start, used) = (at, 0);
        }
        used += len;
    }
    if start < prefixes.len() {
        chunks.push(&prefixes[start..]);
    }
    Some(chunks)
}

/// The prefix length and as many octets as it needs (RFC 4271 section 4.3).
fn nlri_len(prefix: IpNet) -> usize {
    1 + usize::from(prefix.prefix_len()).div_ceil(8)
}

fn encode_body(
    withdrawn_routes: Bytes,
    path_attributes: Bytes,
    nlri: Bytes,
) -> Result<Bytes, EncodeError> {
    let update = codec::UpdateMessage {
        withdrawn_routes,
        path_attributes,
        nlri,
    };
    let mut bytes = BytesMut::with_capacity(update.encoded_len());
    // The lists were packed to the peer's limit.
    update.encode_with_limit(&mut bytes, u16::MAX)?;
    Ok(bytes.freeze())
}

/// Everything but the MP attributes.
fn encode_common_attributes(
    context: &UpdateContext,
    attributes: &RouteAttributes,
    next_hop: IpAddr,
) -> Result<Bytes, EncodeError> {
    let as_path = our_as_path(context, attributes);
    let needs_as4_path =
        !context.four_octet_as && as_path.iter().any(|asn| *asn > u32::from(u16::MAX));
    let path_on_wire = if needs_as4_path {
        as_path
            .iter()
            .map(|asn| u16::try_from(*asn).map_or(u32::from(AS_TRANS), u32::from))
            .collect()
    } else {
        as_path.clone()
    };
    let mut list = vec![
        codec::PathAttribute::Origin(match attributes.origin() {
            Origin::Igp => codec::Origin::Igp,
            Origin::Egp => codec::Origin::Egp,
            Origin::Incomplete => codec::Origin::Incomplete,
        }),
        as_path_attribute(path_on_wire),
    ];
    if let IpAddr::V4(v4) = next_hop {
        list.push(codec::PathAttribute::NextHop(v4));
    }
    if context.ibgp {
        list.push(codec::PathAttribute::LocalPref(attributes.local_pref()));
    }
    if !attributes.communities().is_empty() {
        let values = attributes
            .communities()
            .iter()
            .map(|community| community.0)
            .collect();
        list.push(codec::PathAttribute::Communities(values));
    }
    let mut bytes = Vec::new();
    codec::attribute::encode_path_attributes(&list, &mut bytes, context.four_octet_as, false)?;
    if needs_as4_path {
        // The codec would put AS4_PATH right behind AS_PATH, out of order.
        append_as4_path(&as_path, &mut bytes);
    }
    if !attributes.large_communities().is_empty() {
        bytes.append(&mut encode_one(large_communities(attributes))?);
    }
    Ok(bytes.into())
}

fn large_communities(attributes: &RouteAttributes) -> codec::PathAttribute {
    let each = attributes
        .large_communities()
        .iter()
        .map(|LargeCommunity(a, b, c)| codec::LargeCommunity {
            global_admin: *a,
            local_data1: *b,
            local_data2: *c,
        });
    codec::PathAttribute::LargeCommunities(each.collect())
}

fn our_as_path(context: &UpdateContext, attributes: &RouteAttributes) -> Vec<u32> {
    let mut path = Vec::new();
    if !context.ibgp {
        path.resize(
            1 + usize::from(attributes.prepend()),
            context.local_as.get(),
        );
    }
    path.extend_from_slice(attributes.as_path());
    path
}

fn as_path_attribute(path: Vec<u32>) -> codec::PathAttribute {
    let segments = if path.is_empty() {
        vec![]
    } else {
        vec![codec::AsPathSegment::AsSequence(path)]
    };
    codec::PathAttribute::AsPath(codec::AsPath { segments })
}

/// RFC 6793 section 4.2.2: the real path for speakers behind the two-octet peer. The path is bounded by
/// [`RouteAttributes::AS_PATH_MAX`] and [`RouteAttributes::PREPEND_MAX`], so that it is one segment.
fn append_as4_path(path: &[u32], bytes: &mut Vec<u8>) {
    const EXTENDED_LENGTH: u8 = 0x10;
    let count = path.len() as u8;
    let len = 2 + 4 * path.len() as u16;
    match u8::try_from(len) {
        Ok(short) => bytes.extend_from_slice(&[OPTIONAL_TRANSITIVE, AS4_PATH, short]),
        Err(_) => {
            bytes.extend_from_slice(&[OPTIONAL_TRANSITIVE | EXTENDED_LENGTH, AS4_PATH]);
            bytes.extend_from_slice(&len.to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[AS_SEQUENCE, count]);
    for asn in path {
        bytes.extend_from_slice(&asn.to_be_bytes());
    }
}

fn body_nlri(prefixes: &[IpNet]) -> Bytes {
    let mut bytes = Vec::new();
    for prefix in prefixes {
        if let IpNet::V4(v4) = prefix {
            bytes.push(v4.prefix_len());
            bytes.extend_from_slice(&v4.network().octets()[..nlri_len(*prefix) - 1]);
        }
    }
    bytes.into()
}

fn mp_entries(prefixes: &[IpNet]) -> Vec<codec::NlriEntry> {
    let prefix = |prefix: &IpNet| match prefix {
        IpNet::V4(v4) => codec::Prefix::V4(codec::Ipv4Prefix::new(v4.network(), v4.prefix_len())),
        IpNet::V6(v6) => codec::Prefix::V6(codec::Ipv6Prefix::new(v6.network(), v6.prefix_len())),
    };
    prefixes
        .iter()
        .map(|p| codec::NlriEntry {
            path_id: 0,
            prefix: prefix(p),
        })
        .collect()
}

fn afi(family: Family) -> codec::Afi {
    match family {
        Family::Ipv4Unicast => codec::Afi::Ipv4,
        Family::Ipv6Unicast => codec::Afi::Ipv6,
    }
}

/// MP_REACH_NLRI with a next hop of 16 bytes: with a link-local one beside it (32 bytes) routers
/// prefer that, and the operator would not recognise the engine in the router's table.
fn mp_reach(family: Family, next_hop: IpAddr, prefixes: &[IpNet]) -> Result<Vec<u8>, EncodeError> {
    let reach = codec::MpReachNlri {
        afi: afi(family),
        safi: codec::Safi::Unicast,
        next_hop,
        link_local_next_hop: None,
        announced: mp_entries(prefixes),
        flowspec_announced: vec![],
        evpn_announced: vec![],
        bgpls_announced: vec![],
        vpn_announced: vec![],
        labeled_announced: vec![],
        rtc_announced: vec![],
    };
    encode_one(codec::PathAttribute::MpReachNlri(Box::new(reach)))
}

fn mp_unreach(family: Family, prefixes: &[IpNet]) -> Result<Vec<u8>, EncodeError> {
    let unreach = codec::MpUnreachNlri {
        afi: afi(family),
        safi: codec::Safi::Unicast,
        withdrawn: mp_entries(prefixes),
        flowspec_withdrawn: vec![],
        evpn_withdrawn: vec![],
        bgpls_withdrawn: vec![],
        vpn_withdrawn: vec![],
        labeled_withdrawn: vec![],
        rtc_withdrawn: vec![],
    };
    encode_one(codec::PathAttribute::MpUnreachNlri(Box::new(unreach)))
}

fn encode_one(attribute: codec::PathAttribute) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Vec::new();
    codec::attribute::encode_path_attributes(&[attribute], &mut bytes, true, false)?;
    Ok(bytes)
}
