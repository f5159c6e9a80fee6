//! The owner's member id in the timestamps that a client echoes (`docs/dev/steering.md`, section 5; RFC 7323).
//!
//! ```text
//!   31 30 29           24 23                                           0
//!  ┌─────┬───────────────┬──────────────────────────────────────────────┐
//!  │  .. │  id ^ blind   │  milliseconds: 2^24 of them, 4.6 hours       │  TSval, and so TSecr
//!  └─────┴───────────────┴──────────────────────────────────────────────┘
//! ```
//!
//! The owner moves the clock of its connection forward so that the field is right, and again before it has drifted.

use crate::mark::Mark;
use std::time::{Duration, Instant};

/// Lowest bit of the field.
const SHIFT: u32 = 24;

/// The field's six bits.
const FIELD: u32 = 0x3F;

/// Least jump: a smaller one would pass as a round-trip time, and an RTO of an hour would follow.
pub const JUMP_MIN: u32 = 1 << 22;

/// Jumps are smaller than this: two that the client has not seen in between must stay below 2^31, where PAWS
/// (RFC 7323 section 5) begins to take new segments for old ones.
pub const JUMP_END: u32 = 1 << 30;

/// The field is right for at least 2^24 - 2^22 ms (3.5 hours) after a stamp; a renewal has 1.5 hours to find its moment.
pub const RENEW_AFTER: Duration = Duration::from_secs(2 * 60 * 60);

/// The value to set a connection's timestamp clock to, which now shows `clock` milliseconds.
///
/// There always is one: the field's next beginning lies less than 2^30 ahead, and if it lies nearer than
/// [`JUMP_MIN`], then the least jump ends inside the field, which is four times as long. Bit 0 is clear: set, it
/// would mean microseconds to the kernel.
#[must_use]
pub fn encode(clock: u32, id: u8, mark: Mark) -> u32 {
    let field = u32::from(id ^ mark.blind()) & FIELD;
    let distance = (field << SHIFT).wrapping_sub(clock) & (JUMP_END - 1);
    let target = clock.wrapping_add(distance.max(JUMP_MIN));
    target.wrapping_add(target & 1)
}

/// The member id that a client's TSecr names. Of a connection that was never stamped it is any.
#[must_use]
pub fn decode(ts_ecr: u32, mark: Mark) -> u8 {
    ((ts_ecr >> SHIFT & FIELD) as u8) ^ mark.blind()
}

/// What the kernel says about a connection (`struct tcp_info`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// `tcpi_bytes_acked`: octets that the client has acknowledged since the beginning.
    pub bytes_acked: u64,
    /// Octets or segments sent and not acknowledged, or not yet sent: `tcpi_unacked` plus `tcpi_notsent_bytes`.
    pub outstanding: u64,
}

/// When a connection was stamped last, and whether it is time again (RFC 7323 section 5; design 6.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    at: Instant,
    bytes_acked: u64,
}

impl Stamp {
    /// A connection may be stamped for the first time: nothing that it has sent is unacknowledged.
    #[must_use]
    pub fn may_begin(progress: Progress) -> bool {
        progress.outstanding == 0
    }

    /// It has been stamped now.
    #[must_use]
    pub fn new(now: Instant, progress: Progress) -> Self {
        Self {
            at: now,
            bytes_acked: progress.bytes_acked,
        }
    }

    /// Renew it now?
    ///
    /// Only with nothing unacknowledged, and only once the client has acknowledged data sent since: then it has
    /// seen the last jump, and never sees two at once.
    #[must_use]
    pub fn is_due(&self, now: Instant, progress: Progress) -> bool {
        now >= self.due_at() && progress.outstanding == 0 && progress.bytes_acked > self.bytes_acked
    }

    /// There is no need to ask before this.
    #[must_use]
    pub fn due_at(&self) -> Instant {
        self.at + RENEW_AFTER
    }
}

#[cfg(test)]
mod tests;
