//! How many copies of probes may be sent (`docs/dev/steering.md`, section 6).
//!
//! The generic cell rate algorithm (ITU-T I.371), which is a token bucket without a counter: per bucket the time at
//! which it would be full again. A probe costs as many copies as it has; it goes while the bucket is not empty, so
//! that the last one may overdraw it.

use crate::lru::Lru;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// One client network may have an eighth of the whole at one group.
const SHARE: u32 = 8;

/// Client networks that have a bucket at one time; one that is forgotten is full again, and the whole still bounds it.
const SHARES_MAX: usize = 16384;

/// How fast a bucket fills, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Copies per second; 0 counts as 1.
    pub copies_per_s: u32,
    /// Copies that may go at once.
    pub burst: u32,
}

impl Rate {
    /// Time that pays for one copy: whole nanoseconds, as in the kernel.
    #[must_use]
    pub fn copy(self) -> Duration {
        Duration::from_nanos(1_000_000_000 / u64::from(self.copies_per_s.max(1)))
    }

    /// Time that fills an empty bucket.
    #[must_use]
    pub fn full(self) -> Duration {
        self.copy() * self.burst
    }
}

/// What may draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// A packet of a flow that goes on.
    Normal,
    /// RST and FIN, ICMP errors, stray fragments: only while the bucket is at least half full.
    Low,
}

/// A bucket: when it is full again; `None` is full since ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bucket {
    full_at: Option<Instant>,
}

impl Bucket {
    /// Takes so much, unless more than `most` is missing.
    pub fn take(&mut self, now: Instant, cost: Duration, most: Duration) -> bool {
        let from = self.full_at.map_or(now, |full_at| full_at.max(now));
        let may = from.duration_since(now) <= most;
        if may {
            self.full_at = Some(from + cost);
        }
        may
    }
}

/// The buckets of an engine.
#[derive(Debug, Clone)]
pub struct Budget {
    rate: Rate,
    whole: Bucket,
    /// By index of the group; after a change of the configuration a bucket may be another group's, for a moment.
    shares: Lru<(usize, IpAddr), Bucket>,
}

impl Budget {
    /// Full buckets.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self {
            rate,
            whole: Bucket::default(),
            shares: Lru::new(SHARES_MAX),
        }
    }

    /// The rate in force.
    #[must_use]
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// From now on this rate.
    pub fn set_rate(&mut self, rate: Rate) {
        self.rate = rate;
    }

    /// So many copies of a packet from this client to this group? What its network's share has paid stays paid if the
    /// whole has nothing left.
    pub fn take(
        &mut self,
        now: Instant,
        group: usize,
        client: IpAddr,
        copies: u32,
        priority: Priority,
    ) -> bool {
        let cost = self.rate.copy() * copies;
        let most = match priority {
            Priority::Normal => self.rate.full(),
            Priority::Low => self.rate.full() / 2,
        };
        let key = (group, network(client));
        if self.shares.peek(&key).is_none() {
            self.shares.insert(key, Bucket::default());
        }
        let share = self.shares.get(&key);
        share.is_some_and(|share| share.take(now, cost * SHARE, most))
            && self.whole.take(now, cost, most)
    }
}

/// The client's /24, or /56.
fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & !0xFF).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !0 << 72).into(),
    }
}

#[cfg(test)]
mod tests;
