//! Framing, decoding and encoding of BGP messages (RFC 4271 sections 4 and 6).
//!
//! The codec is `rustbgpd-wire`, pinned; none of its types crosses this module's boundary, so that
//! an upgrade or a replacement stays local. What the codec does not judge, or judges otherwise than
//! this speaker wants, is done here:
//!
//! * the message header (marker, length per type, type) is checked before the codec sees a byte;
//! * an unrecognised well-known attribute is 3/2 (RFC 4271 section 6.3), not treat-as-withdraw;
//! * a ROUTE-REFRESH of the wrong length is 7/1 (RFC 7313 section 5);
//! * LOCAL_PREF from an external peer is ignored (RFC 7606 section 7.5);
//! * routes of families that the session does not carry are ignored, known to the codec or not;
//! * an UPDATE with attributes and no reachable NLRI is not mended (RFC 7606 section 5.2);
//! * the body of a message that is out of place is not looked at;
//! * OPEN fields are judged by the session, which knows the configuration.

mod frame;
mod notification;
mod open;
mod received;
mod update;

pub use frame::{
    DecodeContext, EXTENDED_MESSAGE_LEN, Expected, FrameBuffer, HEADER_LEN, MAX_MESSAGE_LEN,
    Message, RefreshSubtype, RouteRefresh, encode_route_refresh,
};
pub(crate) use frame::{KEEPALIVE, OPEN, ROUTE_REFRESH, UPDATE};
pub use notification::{Notification, code};
pub use open::{Capability, GracefulRestart, Open};
pub use received::{PathAttributes, ReceivedUpdate, Treatment};
pub use update::{UpdateContext, encode_announcement, encode_end_of_rib, encode_withdrawal};

use bytes::Bytes;

/// A message that cannot be accepted: what to tell the peer, and what to tell the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct WireError {
    /// The NOTIFICATION that RFC 4271 section 6 demands.
    pub notification: Notification,
    /// What was wrong, in words.
    pub detail: String,
}

impl WireError {
    fn from_codec(error: &rustbgpd_wire::DecodeError) -> Self {
        let (code, subcode, data) = error.to_notification();
        Self {
            notification: Notification::new(code.as_u8(), subcode, data),
            detail: error.to_string(),
        }
    }
}

/// A message of ours that does not fit the wire format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The attributes alone leave no room for a single prefix.
    #[error("path attributes of {attributes_len} bytes leave no room for a prefix")]
    AttributesTooLong {
        /// Encoded length of the path attributes.
        attributes_len: usize,
    },
    /// There is no next hop in the family of these prefixes.
    #[error("no next hop for {0}")]
    NoNextHop(crate::types::Family),
    /// The codec refused a value.
    #[error("codec: {0}")]
    Codec(String),
}

impl From<rustbgpd_wire::EncodeError> for EncodeError {
    fn from(error: rustbgpd_wire::EncodeError) -> Self {
        Self::Codec(error.to_string())
    }
}

/// KEEPALIVE: the header alone (RFC 4271 section 4.4).
#[must_use]
pub fn encode_keepalive() -> Bytes {
    const KEEPALIVE: [u8; HEADER_LEN] = {
        let mut bytes = [0xFF; HEADER_LEN];
        bytes[16] = 0;
        bytes[17] = HEADER_LEN as u8;
        bytes[18] = 4;
        bytes
    };
    Bytes::from_static(&KEEPALIVE)
}

#[cfg(test)]
mod tests;
