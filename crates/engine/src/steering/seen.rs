//! What the kernel's steering tells: its counters, its events, and the flows that somebody traces.
//!
//! The steering task writes it at every tick; reports and questions about flows ([`crate::flows`]) read it.

use dataplane::steering::{Attachment, Counters, Event, WATCHED_MAX};
use flow::Flow;
use flow::budget::Rate;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Events that are kept: of a scale-out with some thousand moved flows all.
const EVENTS_KEPT: usize = 16_384;

/// See the head of the module. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch(Arc<Mutex<Seen>>);

/// What was seen so far.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Since the maps were made; none while nothing is loaded.
    pub counters: Option<Counters>,
    /// Flows that were tunnelled to a peer lately, by its uuid.
    pub flows: BTreeMap<String, u64>,
    /// Where the programs are attached, and why so.
    pub attached: Vec<Attachment>,
    /// Budget of probes in force.
    pub rate: Option<Rate>,
    /// Oldest first.
    events: VecDeque<Event>,
    /// Traced until then.
    watched: BTreeMap<Flow, Instant>,
}

impl Watch {
    /// Held for a moment only.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    pub(crate) fn add(&mut self, events: Vec<Event>) {
        self.events.extend(events);
        let surplus = self.events.len().saturating_sub(EVENTS_KEPT);
        self.events.drain(..surplus);
    }

    /// Oldest first.
    pub(crate) fn events(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.events.iter()
    }

    /// Traces this flow for a while; false when as many as can be are traced already.
    pub(crate) fn trace(&mut self, flow: Flow, until: Instant) -> bool {
        let room = self.watched.len() < WATCHED_MAX || self.watched.contains_key(&flow);
        if room {
            let known = self.watched.entry(flow).or_insert(until);
            *known = until.max(*known);
        }
        room
    }

    /// The flows that are traced now.
    pub(crate) fn watched(&mut self, now: Instant) -> BTreeMap<Flow, Instant> {
        self.watched.retain(|_, until| *until > now);
        self.watched.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flow::Verdict;
    use flow::key::Protocol;
    use std::time::{Duration, SystemTime};

    fn flow(port: u16) -> Flow {
        Flow {
            protocol: Protocol::Tcp,
            client: ([192, 0, 2, 1], port).into(),
            service: ([10, 100, 0, 1], 80).into(),
        }
    }

    #[test]
    fn the_newest_events_are_kept() {
        let watch = Watch::default();
        let event = |number| Event {
            at: SystemTime::UNIX_EPOCH,
            flow: flow(1),
            verdict: Verdict::Probe,
            member: 0,
            number,
        };
        for number in 0..20_u16 {
            let some = (0..1000).map(|n| event(number * 1000 + n));
            watch.lock().add(some.collect());
        }
        let seen = watch.lock();
        let numbers: Vec<u16> = seen.events().map(|e| e.number).collect();
        assert_eq!(numbers.len(), EVENTS_KEPT);
        assert_eq!(numbers.last(), Some(&19_999));
    }

    #[test]
    fn a_flow_is_traced_until_its_time_and_no_more_than_fit() {
        let (watch, now) = (Watch::default(), Instant::now());
        let mut seen = watch.lock();
        let later = now + Duration::from_secs(1);
        for port in 0..WATCHED_MAX as u16 {
            assert!(seen.trace(flow(port), later));
        }
        assert!(!seen.trace(flow(1000), later), "full");
        assert!(seen.trace(flow(0), now + Duration::from_secs(2)), "known");
        assert_eq!(seen.watched(later).len(), 1, "the others are over");
        assert!(seen.trace(flow(1000), now + Duration::from_secs(2)));
    }
}
