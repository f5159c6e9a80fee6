//! NOTIFICATION: codes, subcodes, the shutdown communication, and their words.

use std::fmt;

use bytes::Bytes;
use rustbgpd_wire as codec;

use super::{HEADER_LEN, MAX_MESSAGE_LEN};
use crate::types::Family;

/// Error codes (RFC 4271 section 4.5, RFC 7313, RFC 9687).
pub mod code {
    /// Message Header Error.
    pub const HEADER: u8 = 1;
    /// OPEN Message Error.
    pub const OPEN: u8 = 2;
    /// UPDATE Message Error.
    pub const UPDATE: u8 = 3;
    /// Hold Timer Expired.
    pub const HOLD_TIMER: u8 = 4;
    /// Finite State Machine Error.
    pub const FSM: u8 = 5;
    /// Cease.
    pub const CEASE: u8 = 6;
    /// ROUTE-REFRESH Message Error.
    pub const ROUTE_REFRESH: u8 = 7;
    /// Send Hold Timer Expired.
    pub const SEND_HOLD_TIMER: u8 = 8;
}

const ADMINISTRATIVE_SHUTDOWN: u8 = 2;
const ADMINISTRATIVE_RESET: u8 = 4;

/// The last message of a connection: why it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Error code, see [`code`].
    pub code: u8,
    /// Error subcode; 0 is unspecific.
    pub subcode: u8,
    /// Diagnostic data, meaning by code and subcode.
    pub data: Bytes,
}

impl Notification {
    /// Data that would not fit into a message is cut.
    #[must_use]
    pub fn new(code: u8, subcode: u8, data: Bytes) -> Self {
        let data = data.slice(..data.len().min(MAX_MESSAGE_LEN - HEADER_LEN - 2));
        Self {
            code,
            subcode,
            data,
        }
    }

    fn bare(code: u8, subcode: u8) -> Self {
        Self::new(code, subcode, Bytes::new())
    }

    pub(super) fn not_synchronized() -> Self {
        Self::bare(code::HEADER, 1)
    }

    pub(super) fn bad_length(len: u16) -> Self {
        Self::new(code::HEADER, 2, Bytes::copy_from_slice(&len.to_be_bytes()))
    }

    pub(super) fn bad_type(kind: u8) -> Self {
        Self::new(code::HEADER, 3, Bytes::copy_from_slice(&[kind]))
    }

    pub(crate) fn bad_peer_as() -> Self {
        Self::bare(code::OPEN, 2)
    }

    pub(crate) fn bad_identifier() -> Self {
        Self::bare(code::OPEN, 3)
    }

    pub(crate) fn unacceptable_hold_time() -> Self {
        Self::bare(code::OPEN, 6)
    }

    pub(crate) fn hold_timer_expired() -> Self {
        Self::bare(code::HOLD_TIMER, 0)
    }

    pub(crate) fn send_hold_timer_expired() -> Self {
        Self::bare(code::SEND_HOLD_TIMER, 0)
    }

    /// RFC 6608: the subcode names the state in which the message was not expected, the data its type.
    pub(crate) fn fsm_error(subcode: u8, kind: u8) -> Self {
        Self::new(code::FSM, subcode, Bytes::copy_from_slice(&[kind]))
    }

    /// Cease, Administrative Shutdown (6/2) with a text for the peer's operator (RFC 9003).
    /// The text is cut at 128 bytes, which every receiver understands.
    #[must_use]
    pub fn administrative_shutdown(text: &str) -> Self {
        let data = codec::notification::encode_shutdown_communication(text);
        Self::new(code::CEASE, ADMINISTRATIVE_SHUTDOWN, data)
    }

    /// Cease, Peer De-configured (6/3, RFC 4486).
    #[must_use]
    pub fn peer_deconfigured() -> Self {
        Self::bare(code::CEASE, 3)
    }

    /// Cease, Administrative Reset (6/4, RFC 4486).
    #[must_use]
    pub fn administrative_reset() -> Self {
        Self::bare(code::CEASE, ADMINISTRATIVE_RESET)
    }

    /// Cease, Connection Collision Resolution (6/7, RFC 4486).
    #[must_use]
    pub fn connection_collision() -> Self {
        Self::bare(code::CEASE, 7)
    }

    /// Cease, BFD Down (6/10, RFC 9384).
    #[must_use]
    pub fn bfd_down() -> Self {
        Self::bare(code::CEASE, 10)
    }

    /// The capabilities that the peer does not support (2/7, RFC 5492 section 5), by code and, for a multiprotocol
    /// capability of a family that is spoken here, that; empty when it does not name them.
    #[must_use]
    pub fn unsupported_capabilities(&self) -> Vec<(u8, Option<Family>)> {
        let mut capabilities = Vec::new();
        let mut rest = &self.data[..];
        while let [code, len, tail @ ..] = rest {
            let value = tail.get(..usize::from(*len)).unwrap_or_default();
            let family = match (code, value) {
                (1, [0, 1, _, 1]) => Some(Family::Ipv4Unicast),
                (1, [0, 2, _, 1]) => Some(Family::Ipv6Unicast),
                _ => None,
            };
            capabilities.push((*code, family));
            rest = tail.get(usize::from(*len)..).unwrap_or_default();
        }
        capabilities
    }

    /// The peer refuses something optional in our OPEN: 2/4 or 2/7.
    #[must_use]
    pub fn refuses_optional(&self) -> bool {
        self.code == code::OPEN && matches!(self.subcode, 4 | 7)
    }

    /// Cease, Other Configuration Change (6/6, RFC 4486).
    #[must_use]
    pub fn other_configuration_change() -> Self {
        Self::bare(code::CEASE, 6)
    }

    /// The peer operator's words (RFC 9003), if there are any and they are well-formed.
    #[must_use]
    pub fn shutdown_communication(&self) -> Option<String> {
        let carries = matches!(self.subcode, ADMINISTRATIVE_SHUTDOWN | ADMINISTRATIVE_RESET);
        if self.code != code::CEASE || !carries {
            return None;
        }
        codec::notification::decode_shutdown_communication(&self.data).filter(|t| !t.is_empty())
    }

    /// The complete message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let len = HEADER_LEN + 2 + self.data.len();
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&[0xFF; 16]);
        // `new` keeps the data within a message, so the length fits 16 bits.
        bytes.extend_from_slice(&(len as u16).to_be_bytes());
        bytes.extend_from_slice(&[3, self.code, self.subcode]);
        bytes.extend_from_slice(&self.data);
        bytes.into()
    }
}

impl fmt::Display for Notification {
    /// "Cease / Administrative Shutdown (6/2): \"maintenance\"".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = codec::NotificationCode::from_u8(self.code);
        write!(f, "{code}")?;
        if self.subcode != 0 {
            write!(
                f,
                " / {}",
                codec::notification::description(code, self.subcode)
            )?;
        }
        write!(f, " ({}/{})", self.code, self.subcode)?;
        if let Some(text) = self.shutdown_communication() {
            // Debug form: the peer's text must not bring control characters into a terminal or log.
            write!(f, ": {text:?}")?;
        }
        Ok(())
    }
}
