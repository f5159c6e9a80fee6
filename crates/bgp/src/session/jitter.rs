//! Timer jitter from a seed: reproducible in tests, different between sessions.

use std::time::Duration;

use crate::rib;

/// RFC 4271 section 10: "random jitter [...] uniformly distributed from 0.75 to 1.0".
#[derive(Debug, Clone)]
pub(super) struct Jitter {
    state: u64,
}

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The duration times a factor from 0.75 to 1.0.
    pub(super) fn spread(&mut self, duration: Duration) -> Duration {
        self.draw().of(duration)
    }

    /// Nothing secret depends on it; sixteen bits are fine enough.
    pub(super) fn draw(&mut self) -> rib::Jitter {
        rib::Jitter::from_step(u16::try_from(self.next() >> 48).unwrap_or(0))
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_between_three_quarters_and_one_and_covers_the_range() {
        let mut jitter = Jitter::new(7);
        let samples: Vec<_> = (0..1000)
            .map(|_| jitter.spread(Duration::from_secs(100)).as_secs_f64())
            .collect();
        assert!(samples.iter().all(|s| (75.0..=100.0).contains(s)));
        assert!(samples.iter().any(|s| *s < 76.0) && samples.iter().any(|s| *s > 99.0));
    }
}
