//! The messages that client and server exchange: numbered, checked, of known content.
//!
//! ```text
//!  0        4        12         20          84
//!  | length | sequence | checksum | payload … |     big endian; length counts everything after itself
//! ```
//! The checksum is FNV-1a over sequence and payload. The payload follows from flow and sequence, so an answer
//! that belongs to another flow or another message is told from the right one even when it is intact.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of payload.
const PAYLOAD_LEN: usize = 64;
/// Bytes of a whole frame.
const FRAME_LEN: usize = 4 + 8 + 8 + PAYLOAD_LEN;
/// Longest banner; a server's name and an IPv6 address fit with room.
const BANNER_LEN_MAX: usize = 128;

/// A frame on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame([u8; FRAME_LEN]);

impl Frame {
    /// The message of this flow and number.
    pub fn new(flow: u64, sequence: u64) -> Self {
        let mut bytes = [0; FRAME_LEN];
        let length = u32::try_from(FRAME_LEN - 4).expect("a constant");
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        bytes[4..12].copy_from_slice(&sequence.to_be_bytes());
        fill(&mut bytes[20..], flow, sequence);
        let checksum = checksum(&bytes);
        bytes[12..20].copy_from_slice(&checksum.to_be_bytes());
        Self(bytes)
    }

    /// The bytes to send.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads one frame. `None`: the peer closed before the frame began.
    ///
    /// # Errors
    /// What the socket says, or `InvalidData` when length or checksum are wrong.
    pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Self>> {
        let mut frame = Self([0; FRAME_LEN]);
        let begun = stream.read(&mut frame.0).await?;
        if begun == 0 {
            return Ok(None);
        }
        stream.read_exact(&mut frame.0[begun..]).await?;
        if frame.is_intact() {
            Ok(Some(frame))
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    fn is_intact(&self) -> bool {
        let length = u32::from_be_bytes(self.0[..4].try_into().expect("four bytes"));
        usize::try_from(length) == Ok(FRAME_LEN - 4)
            && self.0[12..20] == checksum(&self.0).to_be_bytes()
    }
}

/// xorshift64: cheap, and different for every flow and message.
fn fill(payload: &mut [u8], flow: u64, sequence: u64) {
    let mut state = (flow << 32 ^ sequence).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for chunk in payload.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_be_bytes()[..chunk.len()]);
    }
}

/// FNV-1a, 64 bits, over sequence and payload.
fn checksum(frame: &[u8; FRAME_LEN]) -> u64 {
    let covered = frame[4..12].iter().chain(&frame[20..]);
    covered.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Reads the server's first line, byte by byte: no frame follows it unasked.
///
/// # Errors
/// What the socket says, or `InvalidData` when it is too long or no text.
pub async fn read_banner(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut line = Vec::with_capacity(BANNER_LEN_MAX);
    while line.last() != Some(&b'\n') {
        if line.len() == BANNER_LEN_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        line.push(stream.read_u8().await?);
    }
    line.pop();
    String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Option<Frame>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(Frame::read(&mut &bytes[..]))
    }

    #[test]
    fn a_frame_survives_the_wire() {
        let frame = Frame::new(7, 42);
        assert_eq!(read(frame.bytes()).unwrap(), Some(frame));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        for index in 0..FRAME_LEN {
            let mut bytes = Frame::new(7, 42).0;
            bytes[index] ^= 1;
            assert_eq!(
                read(&bytes).unwrap_err().kind(),
                io::ErrorKind::InvalidData,
                "byte {index}"
            );
        }
    }

    #[test]
    fn frames_of_other_flows_and_numbers_differ() {
        assert_ne!(Frame::new(7, 42), Frame::new(8, 42));
        assert_ne!(Frame::new(7, 42), Frame::new(7, 43));
    }

    #[test]
    fn a_close_between_frames_is_told_from_one_within() {
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(
            read(&Frame::new(1, 1).0[..30]).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }
}
