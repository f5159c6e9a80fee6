//! The time of day, as the API and the store have it; it may be set at any moment. Whatever waits or measures goes by a
//! [`Moment`], which no clock that is set moves.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Microseconds since 1970.
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}

/// Seconds since 1970.
pub fn now_unix_s() -> u64 {
    now_us() / 1_000_000
}

/// Microseconds since 1970 in words (RFC 3339): in UTC, to the microsecond.
pub fn rfc3339(us: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(us) * 1000);
    let text = time.ok().and_then(|t| t.format(&Rfc3339).ok());
    text.unwrap_or_else(|| format!("{us} us since 1970"))
}

/// A moment: when it was for people, and what has passed since by a clock that nobody sets.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The time of day, as it was said to be then.
    pub of_day: SystemTime,
    at: Instant,
}

/// The time of day may move so much otherwise than the other clock, between two looks, and was not set: it is brought to
/// the right pace, and reading both takes a while.
const SLACK: Duration = Duration::from_secs(2);

impl Moment {
    /// This one.
    pub fn now() -> Self {
        Self {
            of_day: SystemTime::now(),
            at: Instant::now(),
        }
    }

    /// What has passed since.
    pub fn elapsed(self) -> Duration {
        self.at.elapsed()
    }

    /// What has passed since, at a later moment.
    pub fn until(self, later: Instant) -> Duration {
        later.saturating_duration_since(self.at)
    }

    /// The time of day was set between this moment and a later one.
    pub fn was_set_before(self, later: Self) -> bool {
        let passed = self.until(later.at);
        let of_day = later.of_day.duration_since(self.of_day);
        of_day.map_or(true, |d| d.abs_diff(passed) > SLACK)
    }

    /// One so much earlier.
    #[cfg(test)]
    pub fn earlier(self, by: Duration) -> Self {
        Self {
            of_day: self.of_day - by,
            at: self.at - by,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_is_told_from_one_that_goes_on() {
        const HOUR: Duration = Duration::from_secs(3600);
        let now = Moment::now();
        let before = now.earlier(HOUR);
        let forward = Moment {
            of_day: now.of_day + HOUR,
            ..now
        };
        let back = Moment {
            of_day: now.of_day - 2 * HOUR,
            ..now
        };
        let set = [now, forward, back].map(|later| before.was_set_before(later));
        assert_eq!(set, [false, true, true]);
        assert_eq!(before.until(now.at), HOUR);
    }
}
