//! How the budget follows what happens: wide while probes are claimed, narrow while they are denied
//! (`docs/dev/steering.md`, section 6).
//!
//! ```text
//!            share of questions claimed   rate
//!   ≥ 1/2    moved flows                  doubles, if it was needed
//!   between  a mixture                    stays
//!   < 1/4    forged, or flows long dead   halves
//!   few      nothing going on             shrinks by an eighth
//!   an event (membership, route, BFD)     the ceiling, for EVENT_WINDOW
//! ```
//!
//! User space ticks; the kernel keeps the last rate when user space does not.

use crate::budget::Rate;
use std::time::{Duration, Instant};

/// Between two ticks. From floor to ceiling are nine doublings at five engines: under a second, which is a client's
/// second retransmission.
pub const TICK: Duration = Duration::from_millis(100);

/// Probes per second that are always allowed, so that a flow that moves by itself is found at its first packet. Among 64
/// engines they are 6300 copies, at 0.7 µs each 0.5 % of a core.
pub const FLOOR_PROBES: u32 = 100;

/// Copies per second at most, whatever happens: 14 % of a core in tc (0.7 µs each), 7 % in XDP. 100,000 flows that
/// move among five engines at once are asked about within two seconds.
pub const CEILING: u32 = 200_000;

/// After an event the budget stands open for so long: a client's first four retransmissions (200 ms, doubling) lie within.
pub const EVENT_WINDOW: Duration = Duration::from_secs(5);

/// A burst is a quarter of a second's worth: a rehash arrives at once.
const BURST_FRACTION: u32 = 4;

/// And at least so many probes, so that a share (an eighth) has a few at the floor.
const BURST_LEAST_PROBES: u32 = 64;

/// Fewer answers per tick than this say nothing about the share.
const ANSWERS_LEAST: u64 = 4;

/// What was counted since the last tick, at this engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Probes sent (verdict `probe`).
    pub probes: u64,
    /// Questions that ended in a claim (`claim_taken`).
    pub claimed: u64,
    /// Questions that all have denied; where only messages are counted, `deny_taken` over the number of other members.
    pub denied: u64,
    /// Questions forgotten without either.
    pub unanswered: u64,
    /// Packets dropped for lack of budget (`drop_budget`).
    pub over_budget: u64,
    /// Membership, route and BFD events.
    pub events: u64,
}

/// The controller of the rate. It counts in probes per second, and gives copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    probes_per_s: u32,
    open_until: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new()
    }
}

impl Pace {
    /// Begins at the floor.
    #[must_use]
    pub fn new() -> Self {
        Self {
            probes_per_s: FLOOR_PROBES,
            open_until: None,
        }
    }

    /// The highest rate with so many other members, in probes per second.
    #[must_use]
    pub fn ceiling(others: usize) -> u32 {
        (CEILING / members(others)).max(FLOOR_PROBES)
    }

    /// The rate in force.
    #[must_use]
    pub fn rate(&self, now: Instant, others: usize) -> Rate {
        let ceiling = Self::ceiling(others);
        let is_open = self.open_until.is_some_and(|until| now < until);
        let probes = if is_open {
            ceiling
        } else {
            self.probes_per_s.min(ceiling)
        };
        let burst = (probes / BURST_FRACTION).max(BURST_LEAST_PROBES);
        Rate {
            copies_per_s: probes * members(others),
            burst: burst * members(others),
        }
    }

    /// An event, between two ticks: the budget opens at once.
    pub fn on_event(&mut self, now: Instant) {
        self.open_until = Some(now + EVENT_WINDOW);
    }

    /// Looks at what was counted since the last tick, and says the rate from now on.
    pub fn tick(&mut self, now: Instant, others: usize, tally: &Tally) -> Rate {
        if tally.events > 0 {
            self.on_event(now);
        }
        let wanted = self.after(others, tally);
        self.probes_per_s = wanted.clamp(FLOOR_PROBES, Self::ceiling(others));
        self.rate(now, others)
    }

    /// The table of this module.
    fn after(&self, others: usize, tally: &Tally) -> u32 {
        let answers = tally.claimed + tally.denied + tally.unanswered;
        if answers < ANSWERS_LEAST {
            return self.probes_per_s - self.probes_per_s / 8;
        }
        match tally.claimed * 4 / answers {
            2.. if self.was_needed(others, tally) => self.probes_per_s.saturating_mul(2),
            1.. => self.probes_per_s,
            0 => self.probes_per_s / 2,
        }
    }

    /// Somebody was refused, or half of what a tick gives was drawn.
    fn was_needed(&self, others: usize, tally: &Tally) -> bool {
        let probes_per_s = u64::from(self.probes_per_s.min(Self::ceiling(others)));
        let ticks_per_s = 1000 / TICK.as_millis() as u64;
        tally.over_budget > 0 || tally.probes * 2 * ticks_per_s >= probes_per_s
    }
}

/// From 1 to 63.
fn members(others: usize) -> u32 {
    others.clamp(1, 63) as u32
}

#[cfg(test)]
mod tests;
