//! Keeps what happens over and over again from filling the ring: of the same event of the same part of an object some
//! are let through in a minute, and at its end one that says how often it happened besides.

use super::{Event, Id};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

/// The time in which events are counted together, in microseconds.
const WINDOW_US: u64 = 60_000_000;
/// Of the same event of the same part so many are let through in that time.
const OF_PART: u32 = 3;
/// Of the same event of any part of the same object so many.
const OF_OBJECT: u32 = 20;
/// Windows that are open at most; beyond, nothing is held back.
const WINDOWS_MAX: usize = 50_000;

/// Hash of uuid and part of an object; no part: all of them together. While thousands of objects are made there are tens
/// of thousands of windows; should two ever have the same hash, they share one for a minute.
type Key = u64;

/// The events of one part count in one window, whichever they are: what was held back comes out together, and the last of
/// it says how things are.
struct Window {
    ends_us: u64,
    counts: Vec<(Id, Count)>,
}

#[derive(Default)]
struct Count {
    passed: u32,
    held: u32,
    /// The newest that was held back. Boxed: most windows hold nothing back, and there may be tens of thousands.
    last: Option<Box<Event>>,
}

impl Window {
    fn new(now_us: u64) -> Self {
        Self {
            ends_us: now_us.saturating_add(WINDOW_US),
            // Most windows have one.
            counts: Vec::with_capacity(1),
        }
    }

    fn count(&mut self, id: Id) -> &mut Count {
        let known = self.counts.iter().position(|(known, _)| *known == id);
        let at = known.unwrap_or_else(|| {
            self.counts.push((id, Count::default()));
            self.counts.len() - 1
        });
        &mut self.counts[at].1
    }
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Damper {
    windows: HashMap<Key, Window>,
    hasher: RandomState,
}

impl Damper {
    /// The event if it is let through.
    pub(super) fn admit(&mut self, event: Event, now_us: u64) -> Option<Event> {
        let uuid = event.subject.uuid.as_str();
        let part = self.hasher.hash_one((uuid, Some(&event.part)));
        let object = self.hasher.hash_one((uuid, None::<&String>));
        let event = self.pass(part, OF_PART, event, now_us)?;
        match event.part.is_empty() {
            true => Some(event),
            false => self.pass(object, OF_OBJECT, event, now_us),
        }
    }

    fn pass(&mut self, key: Key, most: u32, event: Event, now_us: u64) -> Option<Event> {
        if self.windows.len() >= WINDOWS_MAX && !self.windows.contains_key(&key) {
            return Some(event);
        }
        let window = self
            .windows
            .entry(key)
            .or_insert_with(|| Window::new(now_us));
        let count = window.count(event.id);
        if count.passed < most {
            count.passed += 1;
            return Some(event);
        }
        count.held += 1;
        let newest = Event {
            time_us: now_us,
            ..event
        };
        count.last = Some(Box::new(newest));
        None
    }

    /// Closes the windows that are over; of each event of which something was held back there the last of it, in the order
    /// in which they were.
    pub(super) fn due(&mut self, now_us: u64) -> Vec<Event> {
        // A clock that was set back would hold events back for as long.
        let open = |window: &Window| {
            let begun_us = window.ends_us.saturating_sub(WINDOW_US);
            (begun_us..window.ends_us).contains(&now_us)
        };
        let over = self.windows.extract_if(|_, window| !open(window));
        let counts = over.flat_map(|(_, window)| window.counts);
        let held = counts.filter_map(|(_, count)| Some(summary(*count.last?, count.held)));
        let mut held: Vec<Event> = held.collect();
        held.sort_by_key(|e| e.time_us);
        held
    }
}

fn summary(last: Event, held: u32) -> Event {
    let within_s = WINDOW_US / 1_000_000;
    let text = format!(
        "{held} times within {within_s} s, at last: {}",
        last.summary
    );
    Event {
        summary: text,
        repeated: held,
        ..last
    }
}
