//! Cutting messages out of the byte stream, and the header checks of RFC 4271 section 6.1.

use bytes::{Bytes, BytesMut};
use rustbgpd_wire as codec;

use super::{Notification, Open, ReceivedUpdate, WireError};
use crate::types::Family;

/// Marker, length and type (RFC 4271 section 4.1).
pub const HEADER_LEN: usize = 19;

/// Largest message without the extended message capability (RFC 4271 section 4.1).
pub const MAX_MESSAGE_LEN: usize = 4096;

const MARKER: [u8; 16] = [0xFF; 16];

/// What a message means depends on what the OPENs agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DecodeContext {
    /// Both sides have the four-octet AS capability (RFC 6793).
    pub four_octet_as: bool,
    /// The peer is in our AS: RFC 7606 judges some attributes by it.
    pub ibgp: bool,
}

/// A received message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Type 1.
    Open(Open),
    /// Type 2, with the treatment that RFC 7606 gives it.
    Update(ReceivedUpdate),
    /// Type 3.
    Notification(Notification),
    /// Type 4.
    Keepalive,
    /// Type 5 (RFC 2918); `None` for a family or subtype that is not spoken here.
    RouteRefresh(Option<Family>),
}

/// Received bytes that are not yet a whole message.
///
/// Holds less than one message plus what the last [`push`](Self::push) brought, provided that the
/// caller drains it after each push.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: BytesMut,
}

impl FrameBuffer {
    /// Appends what the transport has read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Forgets everything: the connection is gone.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// The next whole message, or `None` until more bytes arrive.
    ///
    /// # Errors
    ///
    /// A malformed message. The stream cannot be trusted afterwards: send the NOTIFICATION and close.
    pub fn next_message(&mut self, context: DecodeContext) -> Result<Option<Message>, WireError> {
        let Some(len) = peek_len(&self.bytes)? else {
            return Ok(None);
        };
        if self.bytes.len() < len {
            return Ok(None);
        }
        let frame = self.bytes.split_to(len).freeze();
        decode(&frame, context).map(Some)
    }
}

/// Length of the message at the front, after judging its header; `None` while the header is short.
fn peek_len(bytes: &[u8]) -> Result<Option<usize>, WireError> {
    let Some(header) = bytes.get(..HEADER_LEN) else {
        return Ok(None);
    };
    if header[..16] != MARKER {
        let detail = "connection not synchronized: the marker is not all ones".to_owned();
        return Err(WireError {
            notification: Notification::not_synchronized(),
            detail,
        });
    }
    let len = u16::from_be_bytes([header[16], header[17]]);
    let kind = header[18];
    // Length before type: the length of an unknown type must be plausible too.
    if !(HEADER_LEN..=MAX_MESSAGE_LEN).contains(&usize::from(len)) || !length_fits(kind, len) {
        let detail = format!("bad length {len} in the header of a message of type {kind}");
        return Err(WireError {
            notification: Notification::bad_length(len),
            detail,
        });
    }
    if !(1..=5).contains(&kind) {
        let detail = format!("unknown message type {kind}");
        return Err(WireError {
            notification: Notification::bad_type(kind),
            detail,
        });
    }
    Ok(Some(usize::from(len)))
}

/// RFC 4271 section 6.1: the minimum length of each type; ROUTE-REFRESH is judged in [`decode`].
fn length_fits(kind: u8, len: u16) -> bool {
    match kind {
        1 => len >= 29,
        2 => len >= 23,
        3 => len >= 21,
        4 => len == 19,
        _ => true,
    }
}

fn decode(frame: &Bytes, context: DecodeContext) -> Result<Message, WireError> {
    const ROUTE_REFRESH: u8 = 5;
    const ROUTE_REFRESH_LEN: usize = 23;
    if frame[18] == ROUTE_REFRESH && frame.len() != ROUTE_REFRESH_LEN {
        // RFC 7313 section 5: 7/1 with the complete message as data.
        let detail = format!("ROUTE-REFRESH of {} bytes instead of 23", frame.len());
        return Err(WireError {
            notification: Notification::new(7, 1, frame.clone()),
            detail,
        });
    }
    let message = codec::decode_message(&mut frame.clone(), MAX_MESSAGE_LEN as u16)
        .map_err(|error| WireError::from_codec(&error))?;
    match message {
        codec::Message::Open(open) => Ok(Message::Open(Open::from_codec(&open))),
        codec::Message::Update(update) => {
            ReceivedUpdate::from_codec(&update, context).map(Message::Update)
        }
        codec::Message::Notification(n) => Ok(Message::Notification(Notification::new(
            n.code.as_u8(),
            n.subcode,
            n.data,
        ))),
        codec::Message::Keepalive => Ok(Message::Keepalive),
        codec::Message::RouteRefresh(refresh) => Ok(Message::RouteRefresh(requested(&refresh))),
        _ => {
            let detail = format!("message type {} is not spoken here", frame[18]);
            Err(WireError {
                notification: Notification::bad_type(frame[18]),
                detail,
            })
        }
    }
}

/// RFC 2918 section 4: an AFI/SAFI that was not advertised "SHOULD" be ignored; demarcations
/// (RFC 7313) are not negotiated and ignored as well.
fn requested(refresh: &codec::RouteRefreshMessage) -> Option<Family> {
    match (refresh.afi_raw, refresh.safi_raw, refresh.subtype_raw) {
        (1, 1, 0) => Some(Family::Ipv4Unicast),
        (2, 1, 0) => Some(Family::Ipv6Unicast),
        _ => None,
    }
}
