//! Cutting messages out of the byte stream, and the header checks of RFC 4271 section 6.1.

use bytes::{Bytes, BytesMut};
use rustbgpd_wire as codec;

use super::{Notification, Open, ReceivedUpdate, WireError};
use crate::types::{Family, FamilySet};

/// Marker, length and type (RFC 4271 section 4.1).
pub const HEADER_LEN: usize = 19;

/// Largest message without the extended message capability (RFC 4271 section 4.1).
pub const MAX_MESSAGE_LEN: usize = 4096;

/// Largest message with it (RFC 8654 section 4).
pub const EXTENDED_MESSAGE_LEN: usize = 65_535;

const MARKER: [u8; 16] = [0xFF; 16];

/// What a message means depends on what the OPENs agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DecodeContext {
    /// Both sides have the four-octet AS capability (RFC 6793).
    pub four_octet_as: bool,
    /// The peer is in our AS: RFC 7606 judges some attributes by it.
    pub ibgp: bool,
    /// Both sides have the extended message capability (RFC 8654).
    pub extended_message: bool,
    /// Families that the session carries; routes of others are ignored.
    pub families: FamilySet,
    /// What may come now.
    pub expected: Expected,
}

/// What a session may receive beside NOTIFICATION; the body of anything else is not looked at, because what is out
/// of place is an error of the state machine (RFC 6608), whatever it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expected {
    /// Ours was sent.
    #[default]
    Open,
    /// The peer's OPEN was accepted.
    Keepalive,
    /// KEEPALIVE, UPDATE and ROUTE-REFRESH: the session is established.
    Routes,
}

impl Expected {
    fn includes(self, kind: u8) -> bool {
        match self {
            Self::Open => matches!(kind, OPEN | NOTIFICATION),
            Self::Keepalive => matches!(kind, KEEPALIVE | NOTIFICATION),
            Self::Routes => kind != OPEN,
        }
    }
}

/// A received message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Type 1.
    Open(Open),
    /// Type 2, with the treatment that RFC 7606 gives it.
    Update(Box<ReceivedUpdate>),
    /// Type 3.
    Notification(Notification),
    /// Type 4.
    Keepalive,
    /// Type 5 (RFC 2918, RFC 7313).
    RouteRefresh(RouteRefresh),
    /// A message of this type where [`Expected`] is another.
    OutOfPlace(u8),
}

/// What a ROUTE-REFRESH says; `None` stands for a family that is not spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteRefresh {
    /// The peer wants everything again (RFC 2918).
    Request(Option<Family>),
    /// The peer begins to send everything again (BoRR, RFC 7313).
    Begin(Option<Family>),
    /// The peer has sent everything again (EoRR, RFC 7313).
    End(Option<Family>),
    /// RFC 7313 section 5: a subtype that is not known "MUST be ignored".
    Unknown(u8),
}

/// ROUTE-REFRESH of ours: a demarcation, see [`RouteRefresh`].
#[must_use]
pub fn encode_route_refresh(family: Family, subtype: RefreshSubtype) -> Bytes {
    let afi = match family {
        Family::Ipv4Unicast => 1,
        Family::Ipv6Unicast => 2,
    };
    let mut bytes = Vec::with_capacity(ROUTE_REFRESH_LEN);
    bytes.extend_from_slice(&MARKER);
    bytes.extend_from_slice(&[0, ROUTE_REFRESH_LEN as u8, ROUTE_REFRESH]);
    bytes.extend_from_slice(&[0, afi, subtype as u8, 1]);
    bytes.into()
}

/// The third octet of a ROUTE-REFRESH (RFC 7313 section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshSubtype {
    /// A request.
    Request = 0,
    /// BoRR.
    Begin = 1,
    /// EoRR.
    End = 2,
}

pub(crate) const OPEN: u8 = 1;
pub(crate) const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
pub(crate) const KEEPALIVE: u8 = 4;
pub(crate) const ROUTE_REFRESH: u8 = 5;
const ROUTE_REFRESH_LEN: usize = 23;

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
        let Some(len) = peek_len(&self.bytes, context)? else {
            return Ok(None);
        };
        if self.bytes.len() < len {
            return Ok(None);
        }
        let frame = self.bytes.split_to(len).freeze();
        let kind = frame[18];
        if !context.expected.includes(kind) {
            return Ok(Some(Message::OutOfPlace(kind)));
        }
        decode(&frame, context).map(Some)
    }
}

/// Length of the message at the front, after judging its header; `None` while the header is short.
fn peek_len(bytes: &[u8], context: DecodeContext) -> Result<Option<usize>, WireError> {
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
    let max = match kind {
        // RFC 8654 section 4: "except the OPEN and KEEPALIVE messages".
        OPEN | KEEPALIVE => MAX_MESSAGE_LEN,
        _ if context.extended_message => EXTENDED_MESSAGE_LEN,
        _ => MAX_MESSAGE_LEN,
    };
    if !(HEADER_LEN..=max).contains(&usize::from(len)) || !length_fits(kind, len) {
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
        OPEN => len >= 29,
        UPDATE => len >= 23,
        NOTIFICATION => len >= 21,
        KEEPALIVE => len == 19,
        _ => true,
    }
}

fn decode(frame: &Bytes, context: DecodeContext) -> Result<Message, WireError> {
    if frame[18] == ROUTE_REFRESH && frame.len() != ROUTE_REFRESH_LEN {
        // RFC 7313 section 5: 7/1 with the complete message as data.
        let detail = format!("ROUTE-REFRESH of {} bytes instead of 23", frame.len());
        return Err(WireError {
            notification: Notification::new(7, 1, frame.clone()),
            detail,
        });
    }
    let message = codec::decode_message(&mut frame.clone(), EXTENDED_MESSAGE_LEN as u16)
        .map_err(|error| WireError::from_codec(&error))?;
    match message {
        codec::Message::Open(open) => Ok(Message::Open(Open::from_codec(&open))),
        codec::Message::Update(update) => {
            let mut received = ReceivedUpdate::from_codec(&update, context)?;
            received.raw = received.treatment.fault().map(|_| frame.clone());
            Ok(Message::Update(Box::new(received)))
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

/// RFC 2918 section 4: an AFI/SAFI that was not advertised "SHOULD" be ignored.
fn requested(refresh: &codec::RouteRefreshMessage) -> RouteRefresh {
    let family = match (refresh.afi_raw, refresh.safi_raw) {
        (1, 1) => Some(Family::Ipv4Unicast),
        (2, 1) => Some(Family::Ipv6Unicast),
        _ => None,
    };
    match refresh.subtype_raw {
        0 => RouteRefresh::Request(family),
        1 => RouteRefresh::Begin(family),
        2 => RouteRefresh::End(family),
        other => RouteRefresh::Unknown(other),
    }
}
