//! Which engines are lost for certain. Without a session an engine may serve all the same: it may be the controller that is
//! cut off. So the others of its SE group ask its process ([`proto::v1::DesiredState::watched`]); it is lost when it has
//! had no session for longer than a restart takes, and does not answer them either. Where more than half of a group would
//! be lost, it is rather those who say so that are cut off, with the controller: nobody is lost then.

use super::Planner;
use crate::engines::registry::{DEAD_AFTER, EngineState, Seen};
use crate::objects::Snapshot;
use model::view::{Ref, ServiceEngine};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

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
        let all = snapshot.all("serviceengine").map(|(uuid, _)| uuid);
        let away = all.filter(|uuid| self.is_away(&self.registry.get(uuid), SystemTime::now()));
        let away = away.map(str::to_owned).collect();
        let all = snapshot.all("serviceengine").map(|(uuid, _)| uuid);
        let dead = all.filter(|uuid| self.is_dead(uuid));
        (away, dead.map(str::to_owned).collect())
    }

    fn is_away(&self, state: &EngineState, now: SystemTime) -> bool {
        let absent = state.connected_since.is_none() && !state.cannot_answer;
        absent && self.absent_for(state, now) >= AWAY_AFTER
    }

    /// One that has had no session with this process is given as long, from its start.
    fn absent_for(&self, state: &EngineState, now: SystemTime) -> Duration {
        let since = state.lost.as_ref().map_or(self.started, |(at, _)| *at);
        now.duration_since(since).unwrap_or_default()
    }

    /// What others see of an engine: its process answers one of them, or none; nothing while nobody has said anything.
    fn is_answering(&self, snapshot: &Snapshot, engine: &str) -> Option<bool> {
        let others = snapshot.all("serviceengine").map(|(uuid, _)| uuid);
        let states = others.map(|uuid| self.registry.get(uuid));
        let connected = states.filter(|state| state.connected_since.is_some());
        let mut answering = None;
        for report in connected.filter_map(|state| state.report) {
            let mut sightings = report.sightings.iter();
            if let Some(sighting) = sightings.find(|s| s.se_uuid == engine) {
                answering = Some(answering.unwrap_or(false) || sighting.answers);
            }
        }
        answering
    }

    /// Tells the engines whom to ask, and marks what is placed on those that are lost since the last time.
    pub(super) fn look_for_losses(&self, now: SystemTime) {
        let snapshot = self.objects.snapshot();
        if self.published().away != self.without_session(&snapshot).0 {
            self.publish();
        }
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

    fn lost(&self, snapshot: &Snapshot, now: SystemTime) -> BTreeSet<String> {
        let mut lost = BTreeSet::new();
        for group in groups(snapshot).into_values() {
            let silent = self.silent(snapshot, &group, now);
            let many = group.len() >= GROUP_MIN && silent.len() * 2 > group.len();
            for engine in silent.into_iter().filter(|_| !many) {
                self.registry.seen_by_others(&engine, Some(Seen::Lost));
                lost.insert(engine);
            }
        }
        lost
    }

    /// Those of a group that have had no session for long, and answer nobody. What is seen of each is noted.
    fn silent(&self, snapshot: &Snapshot, group: &[String], now: SystemTime) -> Vec<String> {
        let mut silent = Vec::new();
        for engine in group {
            let state = self.registry.get(engine);
            if !self.is_away(&state, now) {
                continue;
            }
            let seen = self
                .is_answering(snapshot, engine)
                .map(|answers| match answers {
                    true => Seen::Answers,
                    false => Seen::Silent,
                });
            self.registry.seen_by_others(engine, seen);
            let for_long = self.absent_for(&state, now) >= DEAD_AFTER;
            silent.extend((for_long && seen == Some(Seen::Silent)).then(|| engine.clone()));
        }
        silent
    }
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
