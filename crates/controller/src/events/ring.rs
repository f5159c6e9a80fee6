//! The newest events, oldest first. Their sequence numbers grow.

use super::Event;
use std::collections::VecDeque;
use std::sync::Arc;

/// Numbers that are left out at a start: those of events that somebody got and no file.
const SKIPPED: u64 = 1000;

/// See the module's documentation.
pub(super) struct Ring {
    events: VecDeque<Arc<Event>>,
    kept: usize,
    /// The number of the newest that was ever here.
    newest: u64,
}

impl Ring {
    /// With events from before.
    pub(super) fn new(kept: usize, before: Vec<Event>) -> Self {
        let skipped = before.len().saturating_sub(kept);
        let newest = before.last().map_or(0, |e| e.sequence + SKIPPED);
        Self {
            events: before.into_iter().skip(skipped).map(Arc::new).collect(),
            kept,
            newest,
        }
    }

    /// Adds one that happens now; gives its number. The oldest makes room.
    pub(super) fn push(&mut self, mut event: Event, now_us: u64) -> u64 {
        self.newest += 1;
        event.sequence = self.newest;
        // Order by time is order by number, whatever becomes of the clock.
        let last = self.events.back().map_or(0, |e| e.time_us);
        event.time_us = now_us.max(last);
        if self.events.len() >= self.kept {
            self.events.pop_front();
        }
        self.events.push_back(Arc::new(event));
        self.newest
    }

    /// The number of the newest, 0 before the first.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// Those after this number, oldest first.
    pub(super) fn since(&self, sequence: u64, max: usize) -> Vec<Arc<Event>> {
        let start = self.events.partition_point(|e| e.sequence <= sequence);
        self.events.range(start..).take(max).cloned().collect()
    }

    /// How many after this number made room.
    pub(super) fn forgotten_since(&self, sequence: u64) -> u64 {
        let oldest = self.events.front().map_or(0, |e| e.sequence);
        oldest.saturating_sub(sequence.saturating_add(1))
    }
}
