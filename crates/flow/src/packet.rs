//! What a decision sees of a packet, and of our kernel's socket for it.

use crate::key::Flow;
use std::net::IpAddr;

/// A packet to a VIP, from outside or out of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// It is a fragment, the first or a later one.
    pub fragment: Option<Fragment>,
    /// What was found behind the headers.
    pub content: Content,
}

/// What names a fragmented datagram, beside its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fragment {
    /// Identification, host order.
    pub id: u32,
    /// Protocol; 0 for IPv6, whose fragments may differ in it (RFC 8200 section 4.5).
    pub protocol: u8,
}

/// What was found behind the headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// TCP.
    Tcp(Flow, Segment),
    /// UDP.
    Udp(Flow),
    /// An ICMP error (destination unreachable, time exceeded, parameter problem, packet too big) about a packet of
    /// this flow; what it quotes went from the VIP to the client.
    Error(Flow),
    /// A fragment that is not the first: there are no ports.
    LaterFragment,
    /// Echo and the rest.
    Other,
    /// More IPv6 extension headers than are walked.
    TooManyHeaders,
}

impl Packet {
    /// A whole TCP segment.
    #[must_use]
    pub fn tcp(flow: Flow, segment: Segment) -> Self {
        Self::of(flow, Content::Tcp(flow, segment))
    }

    /// A whole UDP datagram.
    #[must_use]
    pub fn udp(flow: Flow) -> Self {
        Self::of(flow, Content::Udp(flow))
    }

    /// An ICMP error from a router or the client, about a packet of this flow.
    #[must_use]
    pub fn error(from: IpAddr, flow: Flow) -> Self {
        Self {
            source: from,
            ..Self::of(flow, Content::Error(flow))
        }
    }

    fn of(flow: Flow, content: Content) -> Self {
        Self {
            source: flow.client.ip(),
            destination: flow.service.ip(),
            fragment: None,
            content,
        }
    }

    /// The flow, where there are ports.
    #[must_use]
    pub fn flow(&self) -> Option<Flow> {
        match self.content {
            Content::Tcp(flow, _) | Content::Udp(flow) | Content::Error(flow) => Some(flow),
            Content::LaterFragment | Content::Other | Content::TooManyHeaders => None,
        }
    }
}

/// Of a TCP header (RFC 9293 section 3.1, RFC 7323 section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// Control bits.
    pub flags: Flags,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number, as it stands in the header even if ACK is not set.
    pub ack: u32,
    /// TSecr, if there is a timestamp option.
    pub ts_ecr: Option<u32>,
    /// Octets of payload.
    pub payload: u32,
}

/// The control bits that a decision looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    /// SYN
    pub syn: bool,
    /// ACK
    pub ack: bool,
    /// RST
    pub rst: bool,
    /// FIN
    pub fin: bool,
}

impl Flags {
    /// The first segment of a connection.
    pub const SYN: Self = Self {
        syn: true,
        ..Self::NONE
    };
    /// Everything between the first segment and the last.
    pub const ACK: Self = Self {
        ack: true,
        ..Self::NONE
    };
    /// None of the four.
    pub const NONE: Self = Self {
        syn: false,
        ack: false,
        rst: false,
        fin: false,
    };

    /// Opens a connection: SYN without ACK.
    #[must_use]
    pub fn opens(self) -> bool {
        self.syn && !self.ack
    }

    /// ACK without SYN, RST and FIN: what answers a SYN cookie, with data or without.
    #[must_use]
    pub fn is_pure_ack(self) -> bool {
        self.ack && !self.syn && !self.rst && !self.fin
    }

    /// Ends a connection: RST or FIN.
    #[must_use]
    pub fn ends(self) -> bool {
        self.rst || self.fin
    }
}

/// The socket that our kernel finds for a packet: of its 4-tuple, else the listener of its port.
///
/// Sequence numbers are those of `struct tcp_sock` and `struct tcp_request_sock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// Neither.
    None,
    /// TCP: LISTEN; UDP: not connected.
    Listener {
        /// The listener accepts the segment as an answer to a SYN cookie.
        cookie_valid: bool,
    },
    /// SYN received, SYN-ACK sent (`TCP_NEW_SYN_RECV`).
    NewSynRecv {
        /// Initial sequence number of the client.
        rcv_isn: u32,
        /// Ours.
        snt_isn: u32,
    },
    /// ESTABLISHED and the states after it that have a full socket.
    Established {
        /// Next octet that we expect.
        rcv_nxt: u32,
        /// Window that we have offered.
        rcv_wnd: u32,
        /// Oldest octet of ours that is not acknowledged.
        snd_una: u32,
        /// End of what the client may acknowledge. The kernel's `snd_nxt` may lag behind an answer that comes at once, so
        /// the program takes `write_seq` here.
        snd_nxt: u32,
        /// Our FIN is sent: FIN_WAIT_1, FIN_WAIT_2, CLOSING, LAST_ACK.
        fin_sent: bool,
        /// The client's FIN is here: CLOSE_WAIT, CLOSING, LAST_ACK.
        fin_received: bool,
    },
    /// TIME_WAIT, and FIN_WAIT_2 without a process.
    TimeWait {
        /// `tw_rcv_nxt`
        rcv_nxt: u32,
        /// `tw_snd_nxt`
        snd_nxt: u32,
    },
    /// UDP: connected to this client.
    Connected,
}

impl Socket {
    /// Of the 4-tuple, and not a listener.
    #[must_use]
    pub fn is_of_flow(self) -> bool {
        match self {
            Self::None | Self::Listener { .. } => false,
            Self::NewSynRecv { .. }
            | Self::Established { .. }
            | Self::TimeWait { .. }
            | Self::Connected => true,
        }
    }

    /// It takes the segment for an answer to a SYN cookie.
    #[must_use]
    pub fn accepts_cookie(self, segment: &Segment) -> bool {
        segment.flags.is_pure_ack() && self == Self::Listener { cookie_valid: true }
    }
}
