//! Housekeeping of the kernel's steering, every [`flow::pace::TICK`]: the budget of probes follows what happens, hints
//! are believed again after a minute, events are fetched, traced flows are made known, and it is watched whose process
//! speaks.

use super::load::Loads;
use super::seen::Watch;
use super::voices::{Turns, Voices};
use dataplane::steering::{Counters, Error, Steering};
use flow::budget::Rate;
use flow::pace::{Pace, Tally};
use flow::{Config, Flow, Settings, Verdict};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A flow of which one hint was wrong is believed again after this time at the latest (docs/dev/steering.md, section 5).
const TRUST_HINTS: Duration = Duration::from_secs(60);

/// For so long the flows are counted that are tunnelled: long enough for flows that speak every few seconds.
const COUNT_FLOWS: Duration = Duration::from_secs(10);

/// Events fetched per tick; the ring holds no more.
const EVENTS_PER_TICK: usize = 8192;

/// See the head of the module.
#[derive(Debug, Default)]
pub(super) struct House {
    pace: Pace,
    before: Option<Counters>,
    trusted: Every,
    counted: Every,
    watched: BTreeMap<Flow, Instant>,
    /// In force in the kernel.
    rate: Option<Rate>,
    voices: Voices,
    loads: Loads,
}

impl House {
    /// The settings with the budget that is right now; called whenever settings are put in force.
    pub(super) fn budgeted(&mut self, now: Instant, config: &Config) -> Settings {
        let rate = self.pace.rate(now, others(config));
        self.rate = Some(rate);
        with(&config.settings, rate)
    }

    /// Flows may have moved: many questions are to be expected.
    pub(super) fn on_event(&mut self, now: Instant) {
        self.pace.on_event(now);
    }

    pub(super) fn turns(&self) -> Turns {
        self.voices.turns()
    }

    pub(super) fn loads(&self) -> BTreeMap<String, u8> {
        self.loads.said()
    }

    pub(super) fn tick(
        &mut self,
        now: Instant,
        steering: &mut Steering,
        config: &Config,
        watch: &Watch,
    ) -> Result<(), Error> {
        let counters = steering.counters()?;
        let interval = config.settings.rhythm.interval;
        self.voices.tick(&counters.hellos, interval);
        self.loads.tick(now, &counters.hellos, &counters.loads);
        let rate = self.next_rate(now, others(config), &counters);
        let watched = watch.lock().watched(now);
        let news = watched != self.watched;
        if news {
            steering.watch(&watched)?;
        }
        if news || self.rate != Some(rate) {
            steering.apply_settings(&with(&config.settings, rate))?;
            (self.rate, self.watched) = (Some(rate), watched);
        }
        if self.trusted.is_due(now, TRUST_HINTS) {
            steering.trust_hints()?;
        }
        if self.counted.is_due(now, COUNT_FLOWS) {
            watch.lock().flows = steering.take_flows()?;
        }
        let events = steering.events(EVENTS_PER_TICK);
        let mut seen = watch.lock();
        seen.add(events);
        (seen.counters, seen.rate) = (Some(counters), Some(rate));
        Ok(())
    }

    fn next_rate(&mut self, now: Instant, others: usize, counters: &Counters) -> Rate {
        let tally = match &self.before {
            Some(before) => tally(before, counters, others),
            None => Tally::default(),
        };
        self.before = Some(counters.clone());
        self.pace.tick(now, others, &tally)
    }
}

/// When something was done last.
#[derive(Debug, Default)]
struct Every(Option<Instant>);

impl Every {
    /// Due when so much time has passed since it was last, or since the first question.
    fn is_due(&mut self, now: Instant, every: Duration) -> bool {
        let since = *self.0.get_or_insert(now);
        let due = now.saturating_duration_since(since) >= every;
        if due {
            self.0 = Some(now);
        }
        due
    }
}

fn with(settings: &Settings, rate: Rate) -> Settings {
    Settings {
        copies_per_s: rate.copies_per_s,
        copies_burst: rate.burst,
        ..settings.clone()
    }
}

/// The other members of the largest group: so many copies has its probe.
fn others(config: &Config) -> usize {
    let members = config.groups.iter().map(|g| g.members.len());
    members.max().unwrap_or(0)
}

/// What has happened between two readings. Messages deny, one per member; what neither was claimed nor denied by
/// all had no answer, or has none yet.
fn tally(before: &Counters, after: &Counters, others: usize) -> Tally {
    let since = |verdict| after.of(verdict).saturating_sub(before.of(verdict));
    let (probes, claimed) = (since(Verdict::Probe), since(Verdict::ClaimTaken));
    let denied = since(Verdict::DenyTaken) / others.max(1) as u64;
    Tally {
        probes,
        claimed,
        // A question that is claimed has the denials of all but one.
        denied: denied.saturating_sub(claimed),
        unanswered: probes.saturating_sub(claimed + denied),
        over_budget: since(Verdict::DropBudget),
        events: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(counts: &[(Verdict, u64)]) -> Counters {
        Counters {
            verdicts: counts.iter().map(|(v, n)| (v.code(), *n)).collect(),
            ..Counters::default()
        }
    }

    #[test]
    fn what_was_counted_before_counts_no_more() {
        let before = counted(&[(Verdict::Probe, 100), (Verdict::DenyTaken, 300)]);
        let after = counted(&[
            (Verdict::Probe, 120),
            (Verdict::ClaimTaken, 10),
            (Verdict::DenyTaken, 350),
            (Verdict::DropBudget, 3),
        ]);
        let expected = Tally {
            probes: 20,
            claimed: 10,
            denied: 2,
            unanswered: 0,
            over_budget: 3,
            events: 0,
        };
        assert_eq!(tally(&before, &after, 4), expected);
    }

    /// Four others: each claimed question leaves three denials behind, which are no denied questions.
    #[test]
    fn claimed_probes_open_the_budget_and_denied_ones_do_not() {
        let start = Instant::now();
        for (verdict, per_probe, grows) in [
            (Verdict::ClaimTaken, 1, true),
            (Verdict::DenyTaken, 4, false),
        ] {
            let mut house = House::default();
            let first = house.next_rate(start, 4, &Counters::default());
            let mut counts = BTreeMap::from([(Verdict::Probe, 0), (verdict, 0)]);
            let mut rate = first;
            for tick in 1..10 {
                let probes = u64::from(rate.copies_per_s) / 4 / 10;
                *counts.get_mut(&Verdict::Probe).unwrap() += probes;
                *counts.get_mut(&verdict).unwrap() += probes * per_probe;
                let counts: Vec<_> = counts.iter().map(|(v, n)| (*v, *n)).collect();
                rate = house.next_rate(start + tick * flow::pace::TICK, 4, &counted(&counts));
            }
            assert_eq!(
                rate.copies_per_s > 10 * first.copies_per_s,
                grows,
                "{rate:?}"
            );
        }
    }

    #[test]
    fn what_is_done_every_minute_is_done_so() {
        let (mut done, start) = (Every::default(), Instant::now());
        let minute = Duration::from_secs(60);
        let due: Vec<u64> = (0..200)
            .filter(|s| done.is_due(start + Duration::from_secs(*s), minute))
            .collect();
        assert_eq!(due, [60, 120, 180]);
    }
}
