//! UPDATE: what the peer has sent, judged by RFC 7606.

use std::borrow::Cow;
use std::net::IpAddr;

use bytes::Bytes;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustbgpd_wire as codec;

use super::{DecodeContext, Notification, WireError, code};
use crate::rib::Origin;
use crate::types::{Community, Family, FamilySet, LargeCommunity};

const NEXT_HOP: u8 = 3;
const MED: u8 = 4;
const ORIGINATOR_ID: u8 = 9;
const CLUSTER_LIST: u8 = 10;
const MP_REACH_NLRI: u8 = 14;
const MP_UNREACH_NLRI: u8 = 15;

const PARTIAL: u8 = 0x20;
const EXTENDED_LENGTH: u8 = 0x10;

/// What RFC 7606 section 2 says to do with a received UPDATE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Treatment {
    /// Well-formed.
    Accepted,
    /// An attribute without influence on the route was malformed and dropped; says which and why.
    AttributeDiscard(String),
    /// The routes count as withdrawn, the session stays; says why.
    TreatAsWithdraw(String),
}

impl Treatment {
    /// What was wrong; `None` when nothing was.
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        match self {
            Self::Accepted => None,
            Self::AttributeDiscard(fault) | Self::TreatAsWithdraw(fault) => Some(fault),
        }
    }
}

/// The attributes of a received UPDATE that mean something here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PathAttributes {
    /// AS_PATH flattened, AS4_PATH merged in.
    pub as_path: Vec<u32>,
    /// ORIGIN.
    pub origin: Origin,
    /// NEXT_HOP, which is that of the NLRI at the message's end (RFC 4760 section 3).
    pub next_hop: Option<IpAddr>,
    /// The global address in MP_REACH_NLRI, with the family whose routes have it.
    pub mp_next_hop: Option<(Family, IpAddr)>,
    /// LOCAL_PREF; `None` from an external peer even when it was sent.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// COMMUNITIES.
    pub communities: Vec<Community>,
    /// LARGE_COMMUNITY.
    pub large_communities: Vec<LargeCommunity>,
}

impl PathAttributes {
    /// The next hop of an announced prefix.
    #[must_use]
    pub fn next_hop_of(&self, prefix: IpNet) -> Option<IpAddr> {
        match self.mp_next_hop {
            Some((family, address)) if family == Family::of_prefix(prefix) => Some(address),
            _ => self.next_hop.filter(|_| prefix.addr().is_ipv4()),
        }
    }
}

/// A received UPDATE after validation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedUpdate {
    /// Prefixes announced; empty when treated as withdraw.
    pub announced: Vec<IpNet>,
    /// Prefixes withdrawn, and those of an announcement that is treated as withdraw.
    pub withdrawn: Vec<IpNet>,
    /// Of the announced prefixes.
    pub attributes: PathAttributes,
    /// Whether and how it was mended.
    pub treatment: Treatment,
    /// Set when the message is the End-of-RIB marker of a family.
    pub end_of_rib: Option<Family>,
    /// The whole message when it was mended: RFC 7606 section 8 wants it in the log.
    pub raw: Option<Bytes>,
}

impl ReceivedUpdate {
    /// Judges an UPDATE.
    ///
    /// # Errors
    ///
    /// What RFC 7606 leaves as a session reset, and an unrecognised well-known attribute.
    pub(super) fn from_codec(
        update: &codec::UpdateMessage,
        context: DecodeContext,
    ) -> Result<Self, WireError> {
        let spoken = spoken_attributes(&update.path_attributes, context.families);
        let silent = spoken.is_empty() && !update.path_attributes.is_empty();
        let update = &codec::UpdateMessage {
            path_attributes: Bytes::copy_from_slice(&spoken),
            ..update.clone()
        };
        let parsed = update
            .parse_revised(context.four_octet_as, context.ibgp, false, &[])
            .map_err(|error| WireError::from_codec(&error))?;
        let codec::RevisedParsedUpdate {
            update: parts,
            malformed,
        } = parsed;
        let end_of_rib = end_of_rib(update, &parts).filter(|_| !silent);
        let mut received = Self {
            announced: parts
                .announced
                .iter()
                .map(|entry| v4_net(entry.prefix))
                .collect(),
            withdrawn: parts
                .withdrawn
                .iter()
                .map(|entry| v4_net(entry.prefix))
                .collect(),
            attributes: PathAttributes::default(),
            treatment: Treatment::Accepted,
            end_of_rib,
            raw: None,
        };
        let body_nlri = !received.announced.is_empty();
        received.take_attributes(&parts.attributes, context);
        received.treatment = judge(&parts.attributes, &malformed, &received, body_nlri, context)?;
        if matches!(received.treatment, Treatment::TreatAsWithdraw(_)) {
            received.withdrawn.append(&mut received.announced);
        }
        let spoken = |prefix: &IpNet| context.families.contains(Family::of_prefix(*prefix));
        received.announced.retain(spoken);
        received.withdrawn.retain(spoken);
        Ok(received)
    }

    fn take_attributes(&mut self, attributes: &[codec::PathAttribute], context: DecodeContext) {
        use codec::PathAttribute as A;
        for attribute in attributes {
            match attribute {
                A::Origin(origin) => {
                    self.attributes.origin = match origin {
                        codec::Origin::Igp => Origin::Igp,
                        codec::Origin::Egp => Origin::Egp,
                        codec::Origin::Incomplete => Origin::Incomplete,
                    }
                }
                A::AsPath(path) => self.attributes.as_path = path.asns().collect(),
                A::NextHop(address) => self.attributes.next_hop = Some((*address).into()),
                A::LocalPref(value) if context.ibgp => self.attributes.local_pref = Some(*value),
                A::Med(value) => self.attributes.med = Some(*value),
                A::Communities(values) | A::CommunitiesPartial(values) => {
                    self.attributes.communities = values.iter().copied().map(Community).collect();
                }
                A::LargeCommunities(values) | A::LargeCommunitiesPartial(values) => {
                    let each = values
                        .iter()
                        .map(|v| LargeCommunity(v.global_admin, v.local_data1, v.local_data2));
                    self.attributes.large_communities = each.collect();
                }
                A::MpReachNlri(reach) => {
                    let family = match reach.afi {
                        codec::Afi::Ipv4 => Some(Family::Ipv4Unicast),
                        codec::Afi::Ipv6 => Some(Family::Ipv6Unicast),
                        _ => None,
                    };
                    self.attributes.mp_next_hop = family.map(|f| (f, reach.next_hop));
                    self.announced
                        .extend(reach.announced.iter().map(|entry| any_net(entry.prefix)));
                }
                A::MpUnreachNlri(unreach) => {
                    self.withdrawn
                        .extend(unreach.withdrawn.iter().map(|entry| any_net(entry.prefix)));
                }
                // The codec's enum is open; the rest has no meaning for a speaker that keeps no routes.
                _ => {}
            }
        }
    }
}

/// The strongest action wins (RFC 7606 section 3, h).
fn judge(
    attributes: &[codec::PathAttribute],
    malformed: &[codec::MalformedAttribute],
    received: &ReceivedUpdate,
    body_nlri: bool,
    context: DecodeContext,
) -> Result<Treatment, WireError> {
    let semantic = semantic_error(attributes, received, body_nlri, context);
    let worst = malformed.iter().max_by_key(|m| m.disposition);
    let syntactic = worst.map(|m| (m.disposition, WireError::from_codec(&m.error)));
    // `max_by_key` takes the last of equals: what the codec found in the bytes says more than what then is missing.
    let strongest = [semantic, syntactic]
        .into_iter()
        .flatten()
        .max_by_key(|(disposition, _)| *disposition);
    let Some((disposition, error)) = strongest else {
        return Ok(Treatment::Accepted);
    };
    match disposition {
        codec::ErrorDisposition::AttributeDiscard => Ok(Treatment::AttributeDiscard(error.detail)),
        // RFC 7606 section 5.2: with attributes and no reachable NLRI "we cannot be confident that the NLRI have
        // been successfully parsed"; for more than attribute discard "the 'session reset' approach MUST be used".
        codec::ErrorDisposition::TreatAsWithdraw if !received.announced.is_empty() => {
            Ok(Treatment::TreatAsWithdraw(error.detail))
        }
        _ => Err(error),
    }
}

type Judged = (codec::ErrorDisposition, WireError);

/// What is wrong with well-formed attributes: missing, unknown or with impossible values.
fn semantic_error(
    attributes: &[codec::PathAttribute],
    received: &ReceivedUpdate,
    body_nlri: bool,
    context: DecodeContext,
) -> Option<Judged> {
    use codec::ErrorDisposition as D;
    use codec::notification::update_subcode as subcode;
    let has_nlri = !received.announced.is_empty();
    let validated =
        codec::validate::validate_update_attributes(attributes, has_nlri, body_nlri, !context.ibgp);
    if let Err(error) = validated {
        // RFC 4271 section 6.3 and no word about it in RFC 7606.
        let unrecognized = error.subcode == subcode::UNRECOGNIZED_WELLKNOWN;
        let disposition = if unrecognized {
            D::SessionReset
        } else {
            error.disposition
        };
        return Some((disposition, reset(error.subcode, &error.data)));
    }
    // RFC 4271 section 5.1.3: mandatory, from internal peers too, which the codec forgives.
    let missing = body_nlri && received.attributes.next_hop.is_none();
    missing.then(|| {
        (
            D::TreatAsWithdraw,
            reset(subcode::MISSING_WELLKNOWN, &[NEXT_HOP]),
        )
    })
}

/// The attributes without multiprotocol routes of families that the session does not carry: they mean nothing to
/// it, and no RFC asks for more than to ignore them (RFC 4760 section 7 allows it). The Partial bit means nothing
/// on optional non-transitive attributes (RFC 7606 section 3, c, names the other two flags only). What cannot be
/// read is left for the codec to judge, and so is a second attribute of a kind.
fn spoken_attributes(bytes: &[u8], families: FamilySet) -> Cow<'_, [u8]> {
    let cuts = attribute_cuts(bytes);
    let of_kind = |kind: u8| cuts.iter().filter(|cut| cut.kind == kind).count();
    let foreign = |cut: &Cut<'_>| {
        let multiprotocol = matches!(cut.kind, MP_REACH_NLRI | MP_UNREACH_NLRI);
        multiprotocol && of_kind(cut.kind) == 1 && !is_of_families(cut.value, families)
    };
    let partial = |cut: &Cut<'_>| {
        let non_transitive = [
            MED,
            ORIGINATOR_ID,
            CLUSTER_LIST,
            MP_REACH_NLRI,
            MP_UNREACH_NLRI,
        ];
        cut.whole[0] & PARTIAL != 0 && non_transitive.contains(&cut.kind)
    };
    if !cuts.iter().any(|cut| foreign(cut) || partial(cut)) {
        return Cow::Borrowed(bytes);
    }
    let mut kept = Vec::with_capacity(bytes.len());
    for cut in cuts.iter().filter(|cut| !foreign(cut)) {
        let start = kept.len();
        kept.extend_from_slice(cut.whole);
        if partial(cut) {
            kept[start] &= !PARTIAL;
        }
    }
    let read: usize = cuts.iter().map(|cut| cut.whole.len()).sum();
    kept.extend_from_slice(&bytes[read..]);
    Cow::Owned(kept)
}

/// One attribute in the bytes of a message.
struct Cut<'a> {
    kind: u8,
    whole: &'a [u8],
    value: &'a [u8],
}

/// As far as they can be told apart.
fn attribute_cuts(mut bytes: &[u8]) -> Vec<Cut<'_>> {
    let mut cuts = Vec::new();
    while let Some(cut) = first_attribute(bytes) {
        bytes = &bytes[cut.whole.len()..];
        cuts.push(cut);
    }
    cuts
}

/// RFC 4271 section 4.3: flags, type, one or two octets of length, value.
fn first_attribute(bytes: &[u8]) -> Option<Cut<'_>> {
    let [flags, kind, rest @ ..] = bytes else {
        return None;
    };
    let (len, start) = match rest {
        [high, low, ..] if flags & EXTENDED_LENGTH != 0 => {
            (usize::from(u16::from_be_bytes([*high, *low])), 4)
        }
        [len, ..] if flags & EXTENDED_LENGTH == 0 => (usize::from(*len), 3),
        _ => return None,
    };
    Some(Cut {
        kind: *kind,
        whole: bytes.get(..start + len)?,
        value: &bytes[start..start + len],
    })
}

/// AFI and SAFI at the front of MP_REACH_NLRI and MP_UNREACH_NLRI; too short to tell is not foreign.
fn is_of_families(value: &[u8], families: FamilySet) -> bool {
    match value {
        [0, 1, 1, ..] => families.contains(Family::Ipv4Unicast),
        [0, 2, 1, ..] => families.contains(Family::Ipv6Unicast),
        [_, _, _, ..] => false,
        _ => true,
    }
}

fn reset(subcode: u8, data: &[u8]) -> WireError {
    let notification = Notification::new(code::UPDATE, subcode, Bytes::copy_from_slice(data));
    WireError {
        notification,
        detail: words(subcode),
    }
}

fn words(subcode: u8) -> String {
    codec::notification::description(codec::NotificationCode::UpdateMessage, subcode).to_owned()
}

fn end_of_rib(update: &codec::UpdateMessage, parts: &codec::ParsedUpdate) -> Option<Family> {
    if !update.withdrawn_routes.is_empty() || !update.nlri.is_empty() {
        return None;
    }
    match parts.attributes.as_slice() {
        [] if update.path_attributes.is_empty() => Some(Family::Ipv4Unicast),
        [codec::PathAttribute::MpUnreachNlri(unreach)] if unreach.withdrawn.is_empty() => {
            match (unreach.afi, unreach.safi) {
                (codec::Afi::Ipv4, codec::Safi::Unicast) => Some(Family::Ipv4Unicast),
                (codec::Afi::Ipv6, codec::Safi::Unicast) => Some(Family::Ipv6Unicast),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The codec keeps prefix lengths within the family, so that the fallback is never taken.
fn v4_net(prefix: codec::Ipv4Prefix) -> IpNet {
    Ipv4Net::new(prefix.addr, prefix.len)
        .unwrap_or_else(|_| prefix.addr.into())
        .into()
}

fn any_net(prefix: codec::Prefix) -> IpNet {
    match prefix {
        codec::Prefix::V4(v4) => v4_net(v4),
        codec::Prefix::V6(v6) => Ipv6Net::new(v6.addr, v6.len)
            .unwrap_or_else(|_| v6.addr.into())
            .into(),
    }
}
