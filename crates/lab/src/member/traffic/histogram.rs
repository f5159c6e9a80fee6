//! Times, counted in buckets whose width is a sixty-fourth or less of what they hold.

use std::collections::BTreeMap;
use std::time::Duration;

/// Buckets between a power of two and the next one, as a power of two.
const FINENESS: u32 = 6;

/// How often each time occurred.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// By the lower end of the bucket, microseconds.
    counts: BTreeMap<u64, u64>,
    total: u64,
}

impl Histogram {
    pub(super) fn add(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        *self.counts.entry(lower_end(us)).or_default() += 1;
        self.total += 1;
    }

    /// Lower end of the bucket with this part of all times in it and below it; 0 while there are none.
    pub(super) fn quantile_us(&self, part: f64) -> u64 {
        let mut left = (self.total as f64 * part).ceil() as u64;
        for (us, count) in &self.counts {
            left = left.saturating_sub(*count);
            if left == 0 {
                return *us;
            }
        }
        0
    }
}

/// All but the highest bits of the number are cleared.
fn lower_end(us: u64) -> u64 {
    let width = us.checked_ilog2().unwrap_or(0).saturating_sub(FINENESS);
    us >> width << width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_at_most_a_sixty_fourth_wide() {
        for us in [0, 1, 127, 128, 129, 1_000, 123_456, u64::MAX] {
            let low = lower_end(us);
            assert!(low <= us && us - low <= us / 64, "{us}: {low}");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_times() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_us(0.5), 0);
        for us in 1..=100 {
            histogram.add(Duration::from_micros(us));
        }
        let quantiles = [0.0, 0.5, 0.99, 1.0].map(|part| histogram.quantile_us(part));
        assert_eq!(quantiles, [1, 50, 99, 100]);
    }
}
