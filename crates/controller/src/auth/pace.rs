//! How often somebody may call: so many per second for long, and twice as many at once.

use std::time::Instant;

/// Calls over time.
pub(super) struct Pace {
    per_s: u32,
    /// When the last call was.
    pub used: Instant,
    /// Calls that may be made at once.
    calls: f64,
}

impl Pace {
    pub(super) fn new(per_s: u32, now: Instant) -> Self {
        Self {
            per_s,
            used: now,
            calls: f64::from(2 * per_s),
        }
    }

    fn earned(&self, now: Instant) -> f64 {
        let rate = f64::from(self.per_s);
        let since = now.saturating_duration_since(self.used).as_secs_f64();
        (self.calls + since * rate).min(2.0 * rate)
    }

    /// A call now; false when there were too many.
    pub(super) fn call(&mut self, now: Instant) -> bool {
        self.calls = self.earned(now);
        self.used = self.used.max(now);
        let may = self.calls >= 1.0;
        if may {
            self.calls -= 1.0;
        }
        may
    }
}
