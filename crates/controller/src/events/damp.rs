//! Keeps what happens over and over again from filling the ring: of the same event of the same part of an object some
//! are let through in a minute, and at its end one that says how often it happened besides.

use super::{Event, Id};
use std::collections::HashMap;

/// The time in which events are counted together, in microseconds.
const WINDOW_US: u64 = 60_000_000;
/// Of the same event of the same part so many are let through in that time.
const OF_PART: u32 = 3;
/// Of the same event of any part of the same object so many.
const OF_OBJECT: u32 = 20;
/// Windows that are open at most; beyond, nothing is held back.
const WINDOWS_MAX: usize = 50_000;

/// Event, uuid, and part of the object; no part: all of them together.
type Key = (Id, String, Option<String>);

struct Window {
    ends_us: u64,
    passed: u32,
    held: u32,
    /// The newest that was held back.
    last: Option<Event>,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Damper(HashMap<Key, Window>);

impl Damper {
    /// The event if it is let through.
    pub(super) fn admit(&mut self, event: Event, now_us: u64) -> Option<Event> {
        let (id, uuid) = (event.id, event.subject.uuid.clone());
        let event = self.pass(
            (id, uuid.clone(), Some(event.part.clone())),
            OF_PART,
            event,
            now_us,
        )?;
        match event.part.is_empty() {
            true => Some(event),
            false => self.pass((id, uuid, None), OF_OBJECT, event, now_us),
        }
    }

    fn pass(&mut self, key: Key, most: u32, event: Event, now_us: u64) -> Option<Event> {
        if self.0.len() >= WINDOWS_MAX && !self.0.contains_key(&key) {
            return Some(event);
        }
        let new = Window {
            ends_us: now_us.saturating_add(WINDOW_US),
            passed: 0,
            held: 0,
            last: None,
        };
        let window = self.0.entry(key).or_insert(new);
        if window.passed < most {
            window.passed += 1;
            return Some(event);
        }
        window.held += 1;
        window.last = Some(event);
        None
    }

    /// Closes the windows that are over; of each in which something was held back the last of it, in the order in which
    /// they were.
    pub(super) fn due(&mut self, now_us: u64) -> Vec<Event> {
        let mut over = Vec::new();
        self.0.retain(|_, window| {
            let open = now_us < window.ends_us;
            if !open && let Some(last) = window.last.take() {
                over.push(summary(last, window.held));
            }
            open
        });
        over.sort_by_key(|e| e.time_us);
        over
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
