//! Which engines are lost for certain. Without a session an engine may serve all the same: it may be the controller that is
//! cut off. So the others of its SE group ask its process ([`proto::v1::DesiredState::watched`]); it is lost when it has
//! had no session for longer than a restart takes, and does not answer them either. Where more than half of a group would
//! be lost, it is rather those who say so that are cut off, with the controller: nobody is lost then.

use super::Planner;
use crate::engines::registry::{DEAD_AFTER, EngineState, Seen};
use crate::objects::Snapshot;
use model::view::{Ref, ServiceEngine};
use proto::v1::Report;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Without a session for so long, an engine is asked by others; less than [`DEAD_AFTER`] by what they take to be sure, and
/// more than engines take that come one after another when a controller starts.
const AWAY_AFTER: Duration = Duration::from_secs(4);
/// Of two engines, one is half.
const GROUP_MIN: usize = 3;

impl Planner {
    /// uuids of engines that others are to ask, and of those that have had no session for a while.
    pub(super) fn without_session(
        &self,
        snapshot: &Snapshot,
    ) -> (BTreeSet<String>, BTreeSet<String>) {
        let now = Instant::now();
        let (mut away, mut dead) = (BTreeSet::new(), BTreeSet::new());
        for (uuid, _) in snapshot.all("serviceengine") {
            let state = self.registry.get(uuid);
            away.extend(self.is_away(&state, now).then(|| uuid.to_owned()));
            dead.extend(self.is_dead(&state, now).then(|| uuid.to_owned()));
        }
        (away, dead)
    }

    /// One that this process has never seen may be alive: it waits for nobody when a controller starts.
    fn is_dead(&self, state: &EngineState, now: Instant) -> bool {
        let gone = state.connected_since.is_none() && state.lost.is_some();
        gone && self.absent_for(state, now) >= DEAD_AFTER
    }

    fn is_away(&self, state: &EngineState, now: Instant) -> bool {
        let absent = state.connected_since.is_none() && !state.cannot_answer;
        absent && self.absent_for(state, now) >= AWAY_AFTER
    }

    /// One that has had no session with this process is given as long, from its start.
    pub(super) fn absent_for(&self, state: &EngineState, now: Instant) -> Duration {
        let since = state.lost.as_ref().map_or(self.started, |(at, _)| *at);
        since.until(now)
    }

    /// Marks what is placed on engines that are lost since the last time.
    pub(super) fn look_for_losses(&self, now: Instant) {
        let snapshot = self.objects.snapshot();
        let lost = self.lost(&snapshot, now);
        let mut tables = self.write();
        if lost == tables.lost {
            return;
        }
        let new: Vec<String> = lost.difference(&tables.lost).cloned().collect();
        tables.lost = lost;
        drop(tables);
        for engine in &new {
            let se = self.name(engine);
            tracing::warn!(se, "lost: no session, and it answers no other engine");
            self.mark_vips(self.served(engine));
        }
        self.marked.send_modify(|n| *n += 1);
    }

    /// Those that are lost; what others see of each that is away is noted.
    fn lost(&self, snapshot: &Snapshot, now: Instant) -> BTreeSet<String> {
        let mut lost = BTreeSet::new();
        for group in groups(snapshot).into_values() {
            let seen = self.others_see(&group, now);
            let silent = seen.values().filter(|s| **s == Some(Seen::Lost)).count();
            let many = group.len() >= GROUP_MIN && silent * 2 > group.len();
            for (engine, seen) in seen {
                let seen = match seen {
                    Some(Seen::Lost) if many => Some(Seen::Silent),
                    seen => seen,
                };
                self.registry.seen_by_others(&engine, seen);
                lost.extend((seen == Some(Seen::Lost)).then_some(engine));
            }
        }
        lost
    }

    /// Each of a group that is away: its process answers one of the others, or none; nothing while nobody has said anything.
    /// Lost is one that has been silent for long, as far as it goes by itself.
    fn others_see(&self, group: &[String], now: Instant) -> BTreeMap<String, Option<Seen>> {
        let states = group.iter().map(|e| (e, self.registry.get(e)));
        let (away, here): (Vec<_>, Vec<_>) =
            states.partition(|(_, state)| state.connected_since.is_none());
        let here = here.into_iter().filter_map(|(_, state)| state.report);
        let reports: Vec<Arc<Report>> = here.collect();
        let away = away.into_iter().filter(|(_, s)| self.is_away(s, now));
        away.map(|(engine, state)| {
            let for_long = self.absent_for(&state, now) >= DEAD_AFTER;
            let seen = is_answering(&reports, engine).map(|answers| match answers {
                true => Seen::Answers,
                false if for_long => Seen::Lost,
                false => Seen::Silent,
            });
            (engine.clone(), seen)
        })
        .collect()
    }
}

/// One that is answered outweighs any number that are not.
fn is_answering(reports: &[Arc<Report>], engine: &str) -> Option<bool> {
    let all = reports.iter().flat_map(|r| &r.sightings);
    let said = all.filter(|s| s.se_uuid == engine).map(|s| s.answers);
    said.reduce(|one, other| one || other)
}

/// uuids of the engines of each SE group.
fn groups(snapshot: &Snapshot) -> BTreeMap<String, Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for engine in snapshot.views::<ServiceEngine>("serviceengine") {
        let group = engine.se_group_ref.as_ref().map_or("", Ref::uuid);
        let engines = groups.entry(group.to_owned()).or_default();
        engines.push(engine.uuid.clone());
    }
    groups
}
