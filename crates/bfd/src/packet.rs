//! The control packet (RFC 5880 section 4.1).

use std::fmt;
use std::time::Duration;

/// Length of a packet without authentication section, in octets.
pub const PACKET_LEN: usize = 24;

const VERSION: u8 = 1;

/// State of a session, as on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Held down by the operator.
    AdminDown = 0,
    /// The peer is not heard, or does not hear us.
    Down = 1,
    /// The peer is heard; it does not know yet.
    Init = 2,
    /// Both hear each other.
    Up = 3,
}

impl State {
    /// The word of API, CLI and logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::AdminDown => "admin_down",
            Self::Down => "down",
            Self::Init => "init",
            Self::Up => "up",
        }
    }

    fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// Why a session changed state last (RFC 5880 section 4.1); five bits, of which some have a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Diagnostic(u8);

impl Diagnostic {
    /// Nothing to say.
    pub const NONE: Self = Self(0);
    /// Nothing was heard for the detection time.
    pub const DETECTION_TIME_EXPIRED: Self = Self(1);
    /// The peer said so.
    pub const NEIGHBOR_SIGNALED_DOWN: Self = Self(3);
    /// The operator did it.
    pub const ADMINISTRATIVELY_DOWN: Self = Self(7);

    /// Only five bits count.
    #[must_use]
    pub fn from_bits(bits: u8) -> Self {
        Self(bits & 0x1F)
    }

    /// The code.
    #[must_use]
    pub fn code(self) -> u8 {
        self.0
    }

    /// In the words of RFC 5880.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self.0 {
            0 => "no diagnostic",
            1 => "control detection time expired",
            2 => "echo function failed",
            3 => "neighbor signaled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            _ => "reserved diagnostic",
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.words(), self.0)
    }
}

/// Why a packet was discarded (RFC 5880 section 6.8.6); each has its counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Discard {
    /// "If the version number is not correct (1), the packet MUST be discarded."
    #[error("version is not 1")]
    Version,
    /// "If the Length field is less than the minimum correct value [...] or greater than the payload".
    #[error("length does not fit")]
    Length,
    /// "If the Detect Mult field is zero, the packet MUST be discarded."
    #[error("detect multiplier 0")]
    Multiplier,
    /// "If the Multipoint (M) bit is nonzero, the packet MUST be discarded."
    #[error("multipoint bit")]
    Multipoint,
    /// "If the My Discriminator field is zero, the packet MUST be discarded."
    #[error("my discriminator 0")]
    MyDiscriminator,
    /// "If the Your Discriminator field is zero and the State field is not Down or AdminDown".
    #[error("your discriminator 0 in a state that must know it")]
    YourDiscriminator,
    /// "If the A bit is set and no authentication is in use".
    #[error("authentication")]
    Authentication,
    /// No session has this discriminator, or is between these addresses.
    #[error("no such session")]
    NoSession,
    /// RFC 5881 section 5: not 255; or below what was configured for several hops.
    #[error("TTL too low")]
    Ttl,
    /// "If bfd.SessionState is AdminDown, discard the packet".
    #[error("administratively down")]
    AdminDown,
}

impl Discard {
    /// All of them, in the order of [`Self::index`].
    pub const ALL: [Self; 10] = [
        Self::Version,
        Self::Length,
        Self::Multiplier,
        Self::Multipoint,
        Self::MyDiscriminator,
        Self::YourDiscriminator,
        Self::Authentication,
        Self::NoSession,
        Self::Ttl,
        Self::AdminDown,
    ];

    /// For an array of counters.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// The word of API and CLI.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Length => "length",
            Self::Multiplier => "multiplier",
            Self::Multipoint => "multipoint",
            Self::MyDiscriminator => "my_discriminator",
            Self::YourDiscriminator => "your_discriminator",
            Self::Authentication => "authentication",
            Self::NoSession => "no_session",
            Self::Ttl => "ttl",
            Self::AdminDown => "admin_down",
        }
    }
}

/// How many packets were discarded for which reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Discards([u64; Discard::ALL.len()]);

impl Discards {
    /// One more.
    pub fn count(&mut self, why: Discard) {
        self.0[why.index()] += 1;
    }

    /// For whatever reason.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The reasons that occurred.
    pub fn occurred(&self) -> impl Iterator<Item = (Discard, u64)> {
        let all = Discard::ALL.into_iter().zip(self.0);
        all.filter(|(_, count)| *count > 0)
    }
}

/// A control packet. Intervals are in microseconds, as on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Of the sender.
    pub diagnostic: Diagnostic,
    /// Of the sender.
    pub state: State,
    /// The sender wants an answer with `final_bit` at once.
    pub poll: bool,
    /// Answer to a poll.
    pub final_bit: bool,
    /// The sender's BFD does not share fate with its control plane (C).
    pub control_plane_independent: bool,
    /// The sender asks for silence while the session is up.
    pub demand: bool,
    /// Detection time in packets.
    pub multiplier: u8,
    /// The sender's, never 0.
    pub my_discriminator: u32,
    /// What the sender has received; 0 when nothing.
    pub your_discriminator: u32,
    /// What the sender would like to send at.
    pub desired_min_tx_us: u32,
    /// What the sender can take; 0 = it wants no periodic packets.
    pub required_min_rx_us: u32,
    /// 0 = no echo.
    pub required_min_echo_rx_us: u32,
}

impl Packet {
    /// The checks of RFC 5880 section 6.8.6 that need no session, in its order.
    ///
    /// # Errors
    ///
    /// Why the packet is to be discarded.
    pub fn decode(bytes: &[u8]) -> Result<Self, Discard> {
        let Some(fixed) = bytes.first_chunk::<PACKET_LEN>() else {
            return Err(Discard::Length);
        };
        let [first, flags, multiplier, length, ..] = *fixed;
        let word = |at: usize| {
            u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]])
        };
        let bit = |mask: u8| flags & mask != 0;
        let packet = Self {
            diagnostic: Diagnostic::from_bits(first),
            state: State::from_bits(flags >> 6),
            poll: bit(0x20),
            final_bit: bit(0x10),
            control_plane_independent: bit(0x08),
            demand: bit(0x02),
            multiplier,
            my_discriminator: word(4),
            your_discriminator: word(8),
            desired_min_tx_us: word(12),
            required_min_rx_us: word(16),
            required_min_echo_rx_us: word(20),
        };
        let authenticated = bit(0x04);
        let least = if authenticated {
            PACKET_LEN + 2
        } else {
            PACKET_LEN
        };
        match packet {
            _ if first >> 5 != VERSION => Err(Discard::Version),
            _ if usize::from(length) < least || usize::from(length) > bytes.len() => {
                Err(Discard::Length)
            }
            Self { multiplier: 0, .. } => Err(Discard::Multiplier),
            _ if bit(0x01) => Err(Discard::Multipoint),
            Self {
                my_discriminator: 0,
                ..
            } => Err(Discard::MyDiscriminator),
            Self {
                your_discriminator: 0,
                state: State::Init | State::Up,
                ..
            } => Err(Discard::YourDiscriminator),
            _ if authenticated => Err(Discard::Authentication),
            _ => Ok(packet),
        }
    }

    /// The octets of the packet.
    #[must_use]
    pub fn encode(&self) -> [u8; PACKET_LEN] {
        let flag = |on: bool, mask: u8| if on { mask } else { 0 };
        let flags = (self.state as u8) << 6
            | flag(self.poll, 0x20)
            | flag(self.final_bit, 0x10)
            | flag(self.control_plane_independent, 0x08)
            | flag(self.demand, 0x02);
        let mut bytes = [0; PACKET_LEN];
        bytes[0] = VERSION << 5 | self.diagnostic.code();
        bytes[1] = flags;
        bytes[2] = self.multiplier;
        bytes[3] = PACKET_LEN as u8;
        let words = [
            self.my_discriminator,
            self.your_discriminator,
            self.desired_min_tx_us,
            self.required_min_rx_us,
            self.required_min_echo_rx_us,
        ];
        for (place, word) in bytes[4..].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}

/// Microseconds of the wire; what does not fit (over 71 minutes) is cut.
pub(crate) fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
