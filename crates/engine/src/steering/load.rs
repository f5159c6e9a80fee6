//! How busy engines are, for those that spread new flows by load (`flow_dist` LOAD_AWARE): each says it in its hellos.
//!
//! What is said changes in steps, and seldom: a table of who takes what that changed with every breath would
//! move the flows of clients without a connection to and fro.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Over so long the load is averaged.
const PERIOD: Duration = Duration::from_secs(2);
/// A load that differs by less is the same.
const STEP: u8 = 10;
/// The busiest engine gets this share of what an idle one gets, in percent: no engine is left without any.
const LEAST: u8 = 10;

/// The share of new flows that an engine with this load gets, beside others.
pub(super) fn weight(load: u8) -> u32 {
    u32::from(100 - load.min(100 - LEAST))
}

/// In force until it differs by a step.
fn settled(before: Option<u8>, now: u8) -> u8 {
    before.filter(|old| old.abs_diff(now) < STEP).unwrap_or(now)
}

/// What the others say, averaged.
#[derive(Debug, Default)]
pub(super) struct Loads {
    said: BTreeMap<String, u8>,
    /// Hellos and the loads in them, when they were looked at last.
    before: BTreeMap<String, (u64, u64)>,
    looked: Option<Instant>,
}

impl Loads {
    /// What was counted so far, by uuid of the peer.
    pub(super) fn tick(
        &mut self,
        now: Instant,
        hellos: &BTreeMap<String, u64>,
        loads: &BTreeMap<String, u64>,
    ) {
        if self.looked.is_some_and(|at| now < at + PERIOD) {
            return;
        }
        self.looked = Some(now);
        self.said.retain(|uuid, _| hellos.contains_key(uuid));
        for (uuid, hellos) in hellos {
            let total = loads.get(uuid).copied().unwrap_or(0);
            let before = self.before.insert(uuid.clone(), (*hellos, total));
            let Some((average, exact)) = before.and_then(|b| average(b, (*hellos, total))) else {
                continue;
            };
            // All hellos said the same: that is what the engine counts with itself.
            let new = match exact {
                true => average,
                false => settled(self.said.get(uuid).copied(), average),
            };
            self.said.insert(uuid.clone(), new);
        }
        self.before.retain(|uuid, _| hellos.contains_key(uuid));
    }

    /// In percent, by uuid of the peer.
    pub(super) fn said(&self) -> BTreeMap<String, u8> {
        self.said.clone()
    }
}

/// And whether it is exact.
fn average((hellos, loads): (u64, u64), (hellos_now, loads_now): (u64, u64)) -> Option<(u8, bool)> {
    let count = hellos_now.checked_sub(hellos)?;
    let total = loads_now.checked_sub(loads)?;
    let average = u8::try_from(total.checked_div(count)?).ok()?;
    Some((average, total.is_multiple_of(count)))
}

/// Our own host.
#[derive(Debug, Default)]
pub(super) struct Busy {
    said: Option<u8>,
    before: Option<(Instant, u64, u64)>,
}

impl Busy {
    /// What is to be said from now on, if that is something else than before.
    pub(super) fn tick(&mut self, now: Instant) -> Option<u8> {
        if self.before.is_some_and(|(at, ..)| now < at + PERIOD) {
            return None;
        }
        let (busy, all) = crate::load::host_ticks()?;
        let before = self.before.replace((now, busy, all));
        let (_, busy_before, all_before) = before?;
        self.say(busy.checked_sub(busy_before)?, all.checked_sub(all_before)?)
    }

    fn say(&mut self, busy: u64, all: u64) -> Option<u8> {
        let load = u8::try_from((busy * 100).checked_div(all)?.min(100)).ok()?;
        let new = settled(self.said, load);
        let is_news = self.said.replace(new) != Some(new);
        is_news.then_some(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busier_engines_get_fewer_new_flows_and_none_gets_nothing() {
        assert_eq!([0, 50, 90, 100].map(weight), [100, 50, 10, 10]);
    }

    #[test]
    fn what_others_say_is_averaged_and_changes_in_steps() {
        let mut loads = Loads::default();
        let start = Instant::now();
        let mut at = |second: u64, hellos: u64, total: u64| {
            let of = |n| BTreeMap::from([("se-2".to_owned(), n)]);
            loads.tick(start + Duration::from_secs(second), &of(hellos), &of(total));
            loads.said().get("se-2").copied()
        };
        assert_eq!(at(0, 7, 100), None);
        assert_eq!(at(1, 17, 900), None, "too early");
        assert_eq!(at(2, 27, 900), Some(40));
        assert_eq!(at(4, 47, 1881), Some(40), "49 and a little is the same");
        assert_eq!(at(6, 67, 2781), Some(45), "all have said so");
        assert_eq!(at(8, 67, 2781), Some(45), "nothing was said");
        assert_eq!(at(10, 3, 30), Some(45), "its host began anew");
    }

    #[test]
    fn our_own_load_is_said_when_it_has_changed_by_a_step() {
        let mut busy = Busy::default();
        let said = [(5, 100), (9, 100), (20, 100), (25, 100), (500, 100)];
        let said = said.map(|(part, all)| busy.say(part, all));
        assert_eq!(said, [Some(5), None, Some(20), None, Some(100)]);
        assert_eq!(busy.say(1, 0), None);
    }
}
