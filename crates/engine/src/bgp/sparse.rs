//! Log lines that a peer can cause at will: at most one per second.

use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_secs(1);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    quiet_until: Option<Instant>,
    suppressed: u64,
}

impl Sparse {
    /// Whether to log now, and then how many lines were left out since the last one.
    pub(super) fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.quiet_until.is_some_and(|until| now < until) {
            self.suppressed += 1;
            return None;
        }
        self.quiet_until = Some(now + PAUSE);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_one_line_and_the_next_one_counts_it() {
        let (mut sparse, now) = (Sparse::default(), Instant::now());
        assert_eq!(sparse.pass(now), Some(0));
        assert_eq!(sparse.pass(now + PAUSE / 2), None);
        assert_eq!(sparse.pass(now + PAUSE / 2), None);
        assert_eq!(sparse.pass(now + PAUSE), Some(2));
    }
}
