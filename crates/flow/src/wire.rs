//! What engines send to each other: the word in a tunnel packet's outer header, and messages
//! (`docs/dev/steering.md`, sections 3 and 4).

use crate::config::MessageKey;
use crate::key::{Flow, Protocol, bytes16};
use crate::siphash::siphash24;
use crate::verdict::Verdict;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Port of messages (UDP, source and destination) and lines (TCP) unless the SE group has another one: the default of
/// `se_tunnel_udp_port`.
pub const MESSAGE_PORT: u16 = 1550;

/// Length of a message, in octets.
pub const MESSAGE_LEN: usize = 64;

/// The part that the MAC covers.
const SIGNED_LEN: usize = 56;

/// Version of the messages that are understood.
const VERSION: u8 = 1;

/// The values of an outer word and the numbers of questions have 14 bits.
pub const VALUE_MASK: u16 = 0x3FFF;

/// Kind of a tunnel packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TunnelKind {
    /// What a VIP sends to a client, for the primary to send on; the value is 0.
    Answer = 0,
    /// The sender believes that we own the flow; the value is the flow's check.
    Data = 1,
    /// The sender asks who owns the flow; the value is the number of the question.
    Probe = 2,
    /// A DATA packet that came to the wrong member, on its way back; the value is the DATA packet's.
    Return = 3,
}

/// The outer IPv4 identification, or the upper 16 bits of the outer IPv6 flow label: `kind << 14 | value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Word {
    /// What the packet is.
    pub kind: TunnelKind,
    /// 14 bits, by kind.
    pub value: u16,
}

impl Word {
    /// Of this kind, with the lower 14 bits of the value.
    #[must_use]
    pub fn new(kind: TunnelKind, value: u16) -> Self {
        Self {
            kind,
            value: value & VALUE_MASK,
        }
    }

    /// As in the header, host order.
    #[must_use]
    pub fn encode(self) -> u16 {
        (self.kind as u16) << 14 | self.value & VALUE_MASK
    }

    /// Any 16 bits mean something, be it [`TunnelKind::Answer`].
    #[must_use]
    pub fn decode(bits: u16) -> Self {
        let kind = match bits >> 14 {
            1 => TunnelKind::Data,
            2 => TunnelKind::Probe,
            3 => TunnelKind::Return,
            _ => TunnelKind::Answer,
        };
        Self::new(kind, bits)
    }

    /// The 20 bits of an IPv6 flow label; its lower 4 are zero.
    #[must_use]
    pub fn flow_label(self) -> u32 {
        u32::from(self.encode()) << 4
    }

    /// From a flow label, whatever its lower 4 bits are.
    #[must_use]
    pub fn of_flow_label(label: u32) -> Self {
        Self::decode((label >> 4) as u16)
    }
}

/// Kind of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageKind {
    /// The sender owns the flow.
    Claim = 1,
    /// The sender does not own it.
    Deny = 2,
    /// The flow has ended at the sender.
    Release = 3,
    /// Are you there? About a service of the group; there is no client.
    Hello = 4,
    /// I am: answers HELLO, with its number.
    Heard = 5,
}

impl MessageKind {
    fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Claim),
            2 => Some(Self::Deny),
            3 => Some(Self::Release),
            4 => Some(Self::Hello),
            5 => Some(Self::Heard),
            _ => None,
        }
    }
}

/// The last byte of the field for it.
const LOAD_AT: usize = 55;

/// A message; what it looks like is in section 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// What it says.
    pub kind: MessageKind,
    /// Member id of the sender, in the group of the flow's service.
    pub sender: u8,
    /// Number of the question or of the hello, 14 bits; 0 in RELEASE.
    pub number: u16,
    /// Membership generation of the sender, lower 32 bits.
    pub generation: u32,
    /// What it is about.
    pub flow: Flow,
    /// Of HELLO: how busy the sender's host is, in percent; 0 in other messages, and in those of older engines.
    pub load: u8,
}

impl Message {
    /// The bytes, signed with this key.
    #[must_use]
    pub fn sign(&self, key: &MessageKey) -> [u8; MESSAGE_LEN] {
        let Self {
            kind,
            sender,
            number,
            generation,
            flow,
            load,
        } = *self;
        let mut bytes = [0; MESSAGE_LEN];
        bytes[0] = VERSION;
        bytes[1] = kind as u8;
        bytes[2] = sender;
        bytes[3] = flow.protocol.number();
        bytes[4..8].copy_from_slice(&key.id.to_be_bytes());
        bytes[10..12].copy_from_slice(&(number & VALUE_MASK).to_be_bytes());
        bytes[12..16].copy_from_slice(&generation.to_be_bytes());
        bytes[16..32].copy_from_slice(&bytes16(flow.client.ip()));
        bytes[32..48].copy_from_slice(&bytes16(flow.service.ip()));
        bytes[48..50].copy_from_slice(&flow.client.port().to_be_bytes());
        bytes[50..52].copy_from_slice(&flow.service.port().to_be_bytes());
        bytes[LOAD_AT] = load;
        let tag = tag(key, &bytes);
        bytes[SIGNED_LEN..].copy_from_slice(&tag);
        bytes
    }
}

/// Why a message was refused, in the order of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// Shorter than a message, or about a service that is not ours: somebody else's datagram.
    Service,
    /// The version is not 1.
    Version,
    /// Longer than a message.
    Length,
    /// The source is not the member that it says it is.
    Stranger,
    /// The key is not ours.
    Key,
    /// The MAC is wrong.
    Mac,
    /// The kind does not exist.
    Kind,
    /// It answers no open question.
    Question,
}

impl Refusal {
    /// The counter.
    #[must_use]
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Service => Verdict::Pass,
            Self::Version => Verdict::DropVersion,
            Self::Length => Verdict::DropLength,
            Self::Stranger => Verdict::DropStranger,
            Self::Key => Verdict::DropKey,
            Self::Mac => Verdict::DropMac,
            Self::Kind => Verdict::DropKind,
            Self::Question => Verdict::DropQuestion,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Service => "about no service of ours",
            Self::Version => "version is not 1",
            Self::Length => "longer than 64 octets",
            Self::Stranger => "sender is not a member",
            Self::Key => "key is not known",
            Self::Mac => "MAC is wrong",
            Self::Kind => "kind does not exist",
            Self::Question => "answers no open question",
        })
    }
}

impl std::error::Error for Refusal {}

/// A datagram that is long enough; nothing in it is to be believed before [`Self::open`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    bytes: [u8; MESSAGE_LEN],
    is_longer: bool,
}

impl Envelope {
    /// Of 64 octets or more.
    pub fn read(datagram: &[u8]) -> Result<Self, Refusal> {
        let bytes = datagram.first_chunk().ok_or(Refusal::Service)?;
        Ok(Self {
            bytes: *bytes,
            is_longer: datagram.len() > MESSAGE_LEN,
        })
    }

    /// Member id that it says it is from.
    #[must_use]
    pub fn sender(&self) -> u8 {
        self.bytes[2]
    }

    /// The flow, if its protocol exists.
    #[must_use]
    pub fn flow(&self) -> Option<Flow> {
        let protocol = match self.bytes[3] {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            _ => return None,
        };
        Some(Flow {
            protocol,
            client: SocketAddr::new(self.address(16), self.u16(48)),
            service: SocketAddr::new(self.address(32), self.u16(50)),
        })
    }

    /// Version and length are right.
    pub fn check(&self) -> Result<(), Refusal> {
        match (self.bytes[0], self.is_longer) {
            (VERSION, false) => Ok(()),
            (VERSION, true) => Err(Refusal::Length),
            _ => Err(Refusal::Version),
        }
    }

    /// Checks key, MAC and kind.
    pub fn open(&self, keys: &[MessageKey]) -> Result<Message, Refusal> {
        let key = keys.iter().find(|key| key.id == self.u32(4));
        let key = key.ok_or(Refusal::Key)?;
        if tag(key, &self.bytes) != self.bytes[SIGNED_LEN..] {
            return Err(Refusal::Mac);
        }
        let kind = MessageKind::from_number(self.bytes[1]).ok_or(Refusal::Kind)?;
        Ok(Message {
            kind,
            sender: self.sender(),
            number: self.u16(10),
            generation: self.u32(12),
            flow: self.flow().ok_or(Refusal::Service)?,
            load: self.bytes[LOAD_AT],
        })
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) << 16 | u32::from(self.u16(at + 2))
    }

    /// 16 bytes; `::ffff:a.b.c.d` is IPv4.
    fn address(&self, at: usize) -> IpAddr {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.bytes[at..at + 16]);
        Ipv6Addr::from(bytes).to_canonical()
    }
}

/// The MAC: bytes 8 and 9 count as 0, as a device may have written there.
fn tag(key: &MessageKey, bytes: &[u8; MESSAGE_LEN]) -> [u8; 8] {
    let mut signed = [0; SIGNED_LEN];
    signed.copy_from_slice(&bytes[..SIGNED_LEN]);
    signed[8..10].fill(0);
    siphash24(key.secret, &signed).to_be_bytes()
}

#[cfg(test)]
mod tests;
