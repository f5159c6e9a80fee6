//! How old the oldest open connection is, at the price of one pointer per connection.
//!
//! Connections that begin within one second share a [`Start`]. As long as one of them is open it is alive, so that
//! the oldest connection is the first start that still lives: nothing is counted, and nothing is sorted.

use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

/// Connections that begin within this time count as equally old.
const GRANULARITY: Duration = Duration::from_secs(1);
/// Starts that are remembered before the dead ones among them are forgotten.
const STARTS_KEPT: usize = 64;

/// When connections began; held by each of them until it ends.
pub(crate) struct Start(Instant);

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Ages {
    current: RwLock<Weak<Start>>,
    /// Oldest first.
    starts: Mutex<Vec<Weak<Start>>>,
}

impl Ages {
    /// A connection begins; it is open for as long as it keeps this.
    pub(crate) fn begin(&self, now: Instant) -> Arc<Start> {
        let recent = |start: &Arc<Start>| now.saturating_duration_since(start.0) < GRANULARITY;
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let shared = current.upgrade().filter(recent);
        drop(current);
        shared.unwrap_or_else(|| self.begin_anew(now))
    }

    fn begin_anew(&self, now: Instant) -> Arc<Start> {
        let start = Arc::new(Start(now));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&start);
        let mut starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        // The vector doubles, so that looking through it costs little per connection.
        if starts.len() >= STARTS_KEPT && starts.len() == starts.capacity() {
            starts.retain(is_open);
        }
        starts.push(Arc::downgrade(&start));
        start
    }

    /// Age of the oldest connection that is open.
    pub(crate) fn oldest(&self, now: Instant) -> Option<Duration> {
        let starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = starts.iter().find_map(Weak::upgrade);
        oldest.map(|start| now.saturating_duration_since(start.0))
    }
}

fn is_open(start: &Weak<Start>) -> bool {
    start.strong_count() > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_oldest_connection_is_the_first_that_is_still_open() {
        let (ages, at) = (Ages::default(), Instant::now());
        assert_eq!(ages.oldest(at), None);
        let first = ages.begin(at);
        let twin = ages.begin(at + SECOND / 2);
        let second = ages.begin(at + 3 * SECOND);
        let now = at + 10 * SECOND;
        assert_eq!(ages.oldest(now), Some(10 * SECOND));
        drop(first);
        assert_eq!(ages.oldest(now), Some(10 * SECOND), "its twin is open");
        drop(twin);
        assert_eq!(ages.oldest(now), Some(7 * SECOND));
        drop(second);
        assert_eq!(ages.oldest(now), None);
    }

    #[test]
    fn starts_of_connections_that_have_ended_are_forgotten() {
        let (ages, at) = (Ages::default(), Instant::now());
        let kept = ages.begin(at);
        for second in 1..10_000 {
            drop(ages.begin(at + second * SECOND));
        }
        let starts = ages.starts.lock().expect("not poisoned").len();
        assert!(starts <= 2 * STARTS_KEPT, "{starts}");
        drop(kept);
    }
}
