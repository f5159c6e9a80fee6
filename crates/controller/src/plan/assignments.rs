//! Which VIP is placed where, by VIP and by engine. Cloning is cheap: what did not change is shared.

use placement::{Group, Move};
use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where a VIP is placed; the first engine is the primary.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// uuids of the engines, in the order in which they joined.
    pub engines: Vec<String>,
    /// These, and those that were scaled in and have connections left.
    #[serde(default)]
    pub group: Group,
    /// Engines of it that were added and do not serve yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scaling: Vec<Scaling>,
    /// The first engine is about to be the active one of the pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switchover: Option<Switchover>,
    /// Since when it has had engines; not known of one that was stored before this was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_assigned_s: Option<u64>,
    /// The revision that wrote it.
    #[serde(skip)]
    pub(super) revision: u64,
}

/// An engine gets the VIP, by scale-out, or in the place of another one: by migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaling {
    /// uuid of the engine.
    pub to: String,
    /// uuid of the one that gives it up as soon as the other one serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// When it began.
    pub since_s: u64,
    /// Since when the engine has served, where that is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_since_s: Option<u64>,
}

/// The standby becomes active: both announce as active ones do, until it has served for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switchover {
    /// uuid of the engine that is to be the standby.
    pub from: String,
    /// When it began.
    pub since_s: u64,
    /// Since when the new active one has served, where that is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_since_s: Option<u64>,
}

impl Assignment {
    /// The migrations that are under way.
    pub(super) fn moves(&self) -> Vec<Move> {
        let each = self.scaling.iter().filter_map(|s| {
            let (from, to) = (s.from.clone()?, s.to.clone());
            Some(Move { from, to })
        });
        each.collect()
    }

    /// Times of day, in seconds since 1970, since when operations are under way, engines serve for them, and engines leave.
    pub(super) fn times_s(&self) -> impl Iterator<Item = u64> {
        let scaling = self.scaling.iter();
        let scaling = scaling.map(|s| (s.since_s, s.ready_since_s));
        let switchover = self.switchover.iter();
        let switchover = switchover.map(|s| (s.since_s, s.ready_since_s));
        let all = scaling.chain(switchover);
        let all = all.flat_map(|(since_s, ready_s)| std::iter::once(since_s).chain(ready_s));
        all.chain(self.group.lingering().map(|(_, since_s)| since_s))
    }

    /// No scale-out, migration or switchover of it is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.scaling.is_empty() && self.switchover.is_none()
    }

    /// Ends what has lost its engine.
    pub(super) fn tidy_scaling(&mut self) {
        let has = |engine: &String| self.engines.contains(engine);
        self.scaling
            .retain(|s| has(&s.to) && s.from.as_ref().is_none_or(has));
        let others = self.engines.get(1..).unwrap_or_default();
        self.switchover.take_if(|s| !others.contains(&s.from));
    }

    /// Dates its first engine, where it takes the place of an assignment that had none.
    pub(super) fn date(&mut self, before: &Self, now_s: u64) {
        self.first_assigned_s = match (before.engines.is_empty(), self.engines.is_empty()) {
            (_, true) => None,
            (true, false) => Some(now_s),
            (false, false) => before.first_assigned_s,
        };
    }

    /// The engine, one of its own, becomes the first.
    pub(super) fn make_active(&mut self, engine: &str) {
        self.engines.retain(|e| e != engine);
        self.engines.insert(0, engine.to_owned());
    }

    /// Whether the engine, one of a pair, announces as the active one.
    pub(super) fn is_active(&self, engine: &str) -> bool {
        let former = self.switchover.as_ref().map(|s| s.from.as_str());
        self.engines.first().is_some_and(|e| e == engine) || former == Some(engine)
    }

    /// One that was stored before there were groups: its engines get ids in their order.
    pub(super) fn complete(&mut self) {
        for engine in &self.engines {
            if self.group.member(engine).is_none()
                && let Err(error) = self.group.join(engine, 0)
            {
                tracing::error!(se = engine, %error, "an engine of a stored placement is left out");
            }
        }
    }

    /// Whether the engine has the VIP, be it to serve or to linger.
    pub(super) fn is_at(&self, engine: &str) -> bool {
        self.group.member(engine).is_some()
    }
}

/// See the module's documentation.
#[derive(Debug, Clone, Default)]
pub(super) struct Assignments {
    /// By uuid of the VsVip.
    all: RedBlackTreeMapSync<String, Assignment>,
    /// Engine and VsVip, for every member of every group.
    held: RedBlackTreeSetSync<(String, String)>,
    /// How many VIPs an engine serves.
    placed: BTreeMap<String, u32>,
}

impl Assignments {
    pub(super) fn get(&self, vsvip: &str) -> Option<&Assignment> {
        self.all.get(vsvip)
    }

    /// By uuid of the VsVip, in its order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Assignment)> {
        self.all.iter().map(|(vsvip, a)| (vsvip.as_str(), a))
    }

    /// What the engine has, be it to serve or to linger, by uuid of the VsVip.
    pub(super) fn at<'a>(
        &'a self,
        engine: &str,
    ) -> impl Iterator<Item = (&'a str, &'a Assignment)> + use<'a> {
        let engine = engine.to_owned();
        let held = self.held.range((engine.clone(), String::new())..);
        let here = held.take_while(move |(se, _)| *se == engine);
        here.filter_map(|(_, vsvip)| Some((vsvip.as_str(), self.get(vsvip)?)))
    }

    /// How many VIPs the engine serves.
    pub(super) fn placed(&self, engine: &str) -> u32 {
        self.placed.get(engine).copied().unwrap_or(0)
    }

    /// In place of the one that the VIP had.
    pub(super) fn insert(&mut self, vsvip: String, assignment: Assignment) {
        self.remove(&vsvip);
        for member in &assignment.group.members {
            self.held.insert_mut((member.engine.clone(), vsvip.clone()));
        }
        for engine in &assignment.engines {
            *self.placed.entry(engine.clone()).or_default() += 1;
        }
        self.all.insert_mut(vsvip, assignment);
    }

    pub(super) fn remove(&mut self, vsvip: &str) {
        let Some(gone) = self.all.get(vsvip).cloned() else {
            return;
        };
        for member in gone.group.members {
            self.held.remove_mut(&(member.engine, vsvip.to_owned()));
        }
        for engine in &gone.engines {
            let count = self.placed.entry(engine.clone()).or_default();
            *count = count.saturating_sub(1);
        }
        self.placed.retain(|_, count| *count > 0);
        self.all.remove_mut(vsvip);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(engines: &[&str]) -> Assignment {
        let mut assignment = Assignment {
            engines: engines.iter().map(|e| (*e).to_owned()).collect(),
            ..Assignment::default()
        };
        assignment.complete();
        assignment
    }

    fn at(assignments: &Assignments, engine: &str) -> Vec<String> {
        assignments
            .at(engine)
            .map(|(vsvip, _)| vsvip.to_owned())
            .collect()
    }

    #[test]
    fn what_an_engine_has_follows_every_change_and_old_copies_stay() {
        let mut assignments = Assignments::default();
        assignments.insert("v-1".into(), on(&["a", "b"]));
        assignments.insert("v-2".into(), on(&["b"]));
        assert_eq!(at(&assignments, "b"), ["v-1", "v-2"]);
        let before = assignments.clone();
        assignments.insert("v-1".into(), on(&["a"]));
        assert_eq!(
            (at(&assignments, "a"), at(&assignments, "b")),
            (vec!["v-1".into()], vec!["v-2".into()])
        );
        assert_eq!((assignments.placed("a"), assignments.placed("b")), (1, 1));
        assert_eq!(before.placed("b"), 2);
        assignments.remove("v-2");
        assert_eq!(
            (at(&assignments, "b"), assignments.placed("b")),
            (vec![], 0)
        );
        assert_eq!(at(&before, "b"), ["v-1", "v-2"]);
    }

    #[test]
    fn the_first_engine_is_dated_and_what_was_stored_without_a_date_has_none() {
        let (nowhere, mut first) = (Assignment::default(), on(&["a"]));
        first.date(&nowhere, 7);
        assert_eq!(first.first_assigned_s, Some(7));
        let mut second = on(&["a", "b"]);
        second.date(&first, 9);
        assert_eq!(second.first_assigned_s, Some(7));
        let old: Assignment = serde_json::from_str(r#"{"engines": ["a"]}"#).expect("it is read");
        second.date(&old, 9);
        assert_eq!(second.first_assigned_s, None);
        let mut none = Assignment::default();
        none.date(&first, 9);
        assert_eq!(none, Assignment::default());
    }

    #[test]
    fn an_engine_that_lingers_has_the_vip_and_does_not_serve_it() {
        let mut lingering = on(&["a", "b"]);
        lingering.engines.retain(|e| e == "a");
        lingering.group.linger("b", 1);
        let mut assignments = Assignments::default();
        assignments.insert("v-1".into(), lingering);
        assert_eq!(at(&assignments, "b"), ["v-1"]);
        assert_eq!(assignments.placed("b"), 0);
    }
}
