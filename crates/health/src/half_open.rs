//! A TCP handshake that is never completed: the SYN that is sent, and what its answer says of the server. Pure functions over
//! segments; the socket they pass through is the caller's.
//!
//! ```text
//!   engine                        server
//!     │ ── SYN, seq=n ─────────────▶ │  LISTEN → SYN-RECEIVED: nobody accepts, the application hears nothing
//!     │ ◀──── SYN, ACK, ack=n+1 ──── │
//!     │ ── RST ────────────────────▶ │  back to LISTEN
//! ```
//!
//! The RST is the kernel's own: no socket of the engine knows the connection (RFC 9293 section 3.10.7.1).

use std::net::{IpAddr, SocketAddr};

/// Length of the segment: a header with one option.
const SYN_LEN: usize = 24;
/// Length of a header without options.
const HEADER_LEN: usize = 20;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// Protocol number of TCP.
const TCP: u8 = 6;
/// What is offered: nothing will come, so that the smallest that every path carries will do (RFC 9293 section 3.7.1).
const MSS: u16 = 536;
const WINDOW: u16 = 1024;

/// One attempt to open a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syn {
    /// The engine's end.
    pub from: SocketAddr,
    /// The server.
    pub to: SocketAddr,
    /// The initial sequence number, at random: who cannot see it cannot answer.
    pub sequence: u32,
}

/// What an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SynOutcome {
    /// SYN, ACK: somebody listens.
    Listens,
    /// RST: nobody listens.
    Refused,
}

impl Syn {
    /// The segment, without an IP header (RFC 9293 section 3.1).
    pub fn segment(&self) -> [u8; SYN_LEN] {
        let mut segment = [0; SYN_LEN];
        segment[0..2].copy_from_slice(&self.from.port().to_be_bytes());
        segment[2..4].copy_from_slice(&self.to.port().to_be_bytes());
        segment[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        segment[12] = ((SYN_LEN / 4) as u8) << 4;
        segment[13] = SYN;
        segment[14..16].copy_from_slice(&WINDOW.to_be_bytes());
        // Maximum segment size: kind 2, length 4.
        segment[20..22].copy_from_slice(&[2, 4]);
        segment[22..24].copy_from_slice(&MSS.to_be_bytes());
        let sum = checksum(self.from.ip(), self.to.ip(), &segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        segment
    }

    /// What this segment from the server says; `None` for one that is no answer to ours. RFC 9293 section 3.10.7.3: a reset
    /// counts if "the ACK was acceptable", as anybody could send one that acknowledges nothing.
    pub fn outcome(&self, segment: &[u8]) -> Option<SynOutcome> {
        let header = segment.get(..HEADER_LEN)?;
        let ports = [self.to.port().to_be_bytes(), self.from.port().to_be_bytes()].concat();
        let acknowledged = self.sequence.wrapping_add(1).to_be_bytes();
        if header[..4] != *ports || header[8..12] != acknowledged {
            return None;
        }
        match header[13] & (FIN | SYN | RST | ACK) {
            flags if flags == SYN | ACK => Some(SynOutcome::Listens),
            flags if flags == RST | ACK => Some(SynOutcome::Refused),
            _ => None,
        }
    }
}

/// Of the segment and the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1); the field itself is 0.
fn checksum(from: IpAddr, to: IpAddr, segment: &[u8]) -> u16 {
    let octets = |ip| match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let addresses = [octets(from), octets(to)].concat();
    let length = u16::try_from(segment.len()).unwrap_or(u16::MAX);
    let numbers = [[0, TCP], length.to_be_bytes()].concat();
    let words = [addresses.as_slice(), numbers.as_slice(), segment].into_iter();
    let sum = words
        .flat_map(|part| part.chunks(2))
        .map(|pair| (u32::from(pair[0]) << 8) | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !(folded as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn syn(from: &str, to: &str) -> Syn {
        Syn {
            from: from.parse().expect("an address"),
            to: to.parse().expect("an address"),
            sequence: u32::MAX,
        }
    }

    fn v4() -> Syn {
        syn("10.0.0.1:40000", "10.0.0.2:80")
    }

    /// From the server, of the first acknowledgement number after a wrap.
    fn answer(flags: u8) -> [u8; HEADER_LEN] {
        let mut segment = [0; HEADER_LEN];
        segment[..2].copy_from_slice(&80_u16.to_be_bytes());
        segment[2..4].copy_from_slice(&40000_u16.to_be_bytes());
        segment[12] = 0x50;
        segment[13] = flags;
        segment
    }

    #[test]
    fn the_segment_is_a_syn_whose_checksum_holds() {
        for syn in [v4(), syn("[2001:db8::1]:40000", "[2001:db8::2]:80")] {
            let segment = syn.segment();
            assert_eq!(segment[..4], [0x9c, 0x40, 0, 80]);
            assert_eq!((segment[12], segment[13]), (0x60, SYN));
            assert_eq!(checksum(syn.from.ip(), syn.to.ip(), &segment), 0);
        }
    }

    #[test]
    fn an_answer_listens_or_refuses() {
        let outcome = |flags| v4().outcome(&answer(flags));
        assert_eq!(outcome(SYN | ACK), Some(SynOutcome::Listens));
        assert_eq!(outcome(SYN | ACK | 0x40), Some(SynOutcome::Listens), "ECN");
        assert_eq!(outcome(RST | ACK), Some(SynOutcome::Refused));
        for flags in [RST, ACK, SYN, SYN | RST | ACK, FIN | ACK] {
            assert_eq!(outcome(flags), None, "{flags:#x}");
        }
    }

    #[test]
    fn what_answers_something_else_is_passed_over() {
        for octet in [0, 3, 8, 11] {
            let mut segment = answer(SYN | ACK);
            segment[octet] ^= 1;
            assert_eq!(v4().outcome(&segment), None, "octet {octet}");
        }
        assert_eq!(v4().outcome(&answer(SYN | ACK)[..19]), None, "cut short");
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let outcome = v4().outcome(&bytes);
            prop_assert!(outcome.is_none() || bytes.len() >= HEADER_LEN);
        }
    }
}
