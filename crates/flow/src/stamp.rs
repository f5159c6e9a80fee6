//! Stamping: when and how far the timestamp clock of a connection is moved, so that bits 24-29 of every TSval name
//! its owner (docs/dev/steering.md, section 5).
//!
//! ```text
//!  TSval   31 30 | 29 .. 24 | 23 ............. 0
//!          cycle |  field   | milliseconds since the field began: it is left after 2^24 ms = 4.66 h
//! ```
//!
//! The bounds of a jump come from what both ends do with timestamps:
//!
//! * RFC 7323, section 5.3 (PAWS): a segment is dropped when `0 < (t - s) < 2^31`, t the TS.Recent of the receiver, s
//!   its TSval. A client that has not seen one jump when it sees the next must not be 2^31 behind, so a jump is below
//!   2^30, and the next one waits until data sent after the last was acknowledged. Half of the room is left to the
//!   clock itself: 2^30 ms = 12 days of silence.
//! * Linux takes the age of an echoed timestamp for a round trip when it is below 2^31 µs = 2,147,483 ms
//!   (`tcp_rtt_tsopt_us`). An echo from before the jump must not pass as one, so a jump is at least 2^22 ms.

use crate::mark::Mark;
use std::time::{Duration, Instant};

/// A stamp is renewed when it is older: well before the 3.4 h for which [`next_clock`] promises the field.
pub const RENEW_AFTER: Duration = Duration::from_secs(2 * 3600);

/// The least jump, in ms: below 2^31 µs an old echo would pass as a round trip.
pub const JUMP_MIN: u32 = 1 << 22;

/// Jumps are shorter, in ms: two of them must not add up to 2^31 (PAWS).
pub const JUMP_END: u32 = 1 << 30;

/// Where the field is in a timestamp.
const SHIFT: u32 = 24;
/// The cycle of the field: all bits above are kept.
const CYCLE: u32 = JUMP_END;
/// The low bit of what TCP_TIMESTAMP is set to is no time: it switches the connection to microseconds.
const MICROSECONDS: u32 = 1;

/// What six bits of a timestamp say: the member id, blinded with the mark of the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field(u8);

impl Field {
    /// What the owner writes into timestamps of this flow. Of the member id the lower six bits count (0 to 63).
    #[must_use]
    pub fn of(member: u8, mark: Mark) -> Self {
        Self((member ^ mark.blind()) & 0x3F)
    }

    /// What a timestamp says.
    #[must_use]
    pub fn read(timestamp: u32) -> Self {
        Self((timestamp >> SHIFT & 0x3F) as u8)
    }

    /// The member id, for the flow of this mark.
    #[must_use]
    pub fn member(self, mark: Mark) -> u8 {
        self.0 ^ mark.blind()
    }

    /// The first timestamp of a cycle that says it.
    fn start(self) -> u32 {
        u32::from(self.0) << SHIFT
    }
}

/// Where to move a clock that reads `clock` ms: forward by [`JUMP_MIN`] to [`JUMP_END`], to a value that says `field` and
/// goes on saying it for 3.4 h at least; even, as TCP_TIMESTAMP wants it for milliseconds.
#[must_use]
pub fn next_clock(clock: u32, field: Field) -> u32 {
    let jump = field.start().wrapping_sub(clock) % CYCLE;
    let jump = if jump < JUMP_MIN { JUMP_MIN } else { jump };
    // The start of a field is even; only the shortest jump may have to be rounded up.
    clock.wrapping_add(jump + MICROSECONDS) & !MICROSECONDS
}

/// The last stamp of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// What it said.
    pub field: Field,
    /// When it was made.
    pub at: Instant,
    /// Bytes that the client had acknowledged by then.
    pub bytes_acked: u64,
}

/// What a connection has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Nothing, no FIN either, waits to be sent or acknowledged.
    pub all_acked: bool,
    /// Bytes acknowledged since the connection began.
    pub bytes_acked: u64,
}

/// Whether a connection shall be stamped: it has no stamp, it says something else than `field`, or it is older than
/// `renew_after` (see [`RENEW_AFTER`]).
#[must_use]
pub fn is_due(last: Option<&Stamp>, field: Field, now: Instant, renew_after: Duration) -> bool {
    last.is_none_or(|last| {
        last.field != field || now.saturating_duration_since(last.at) >= renew_after
    })
}

/// Whether a connection may be stamped now: nothing is under way, which a retransmission with a timestamp from after
/// the jump would confuse, and the client has seen the last stamp, because it has acknowledged data sent since.
#[must_use]
pub fn is_safe(last: Option<&Stamp>, sent: Sent) -> bool {
    sent.all_acked && last.is_none_or(|last| sent.bytes_acked > last.bytes_acked)
}

#[cfg(test)]
mod tests;
