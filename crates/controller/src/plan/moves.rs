//! Migrations and switchovers until somebody has said how they ended. Most end by a step of their own: the new engine serves, or
//! does not in time. Others end because one of the two engines is gone: scaled in from, lost, deleted. That is found here.

use super::assignments::Assignment;
use super::{Action, LastScale, Planner, Tables};
use std::collections::BTreeMap;

/// The engine that gives its place up, by VsVip and the engine that takes it.
pub(super) type Moves = BTreeMap<(String, String), String>;

/// Those that are under way.
pub(super) fn of(vsvip: &str, assignment: &Assignment) -> Moves {
    let each = assignment.scaling.iter().filter_map(|s| {
        let key = (vsvip.to_owned(), s.to.clone());
        Some((key, s.from.clone()?))
    });
    each.collect()
}

/// The switchover that is waited for.
pub(super) fn switchover_of(vsvip: &str, assignment: &Assignment) -> Moves {
    let (to, switchover) = (assignment.engines.first(), &assignment.switchover);
    let both = to.zip(switchover.as_ref());
    both.map(|(to, s)| ((vsvip.to_owned(), to.clone()), s.from.clone()))
        .into_iter()
        .collect()
}

impl Planner {
    /// A migration or a switchover begins with this step, or a migration has ended by it.
    pub(super) fn note_move(&self, vsvip: &str, last: &LastScale) {
        let assignment = self.assignment(vsvip);
        let mut tables = self.write();
        let Tables {
            moves, switchovers, ..
        } = &mut *tables;
        match (last.action, last.engine.as_ref()) {
            (Action::Switchover, Some(_)) => switchovers.extend(switchover_of(vsvip, &assignment)),
            (Action::MigrateScaleout, Some(_)) => moves.extend(of(vsvip, &assignment)),
            (Action::MigrateScalein, Some(gone)) => {
                moves.retain(|(v, _), from| v != vsvip || from != gone);
            }
            (Action::MigrateRolledBack, _) => {
                moves.retain(|(v, to), _| v != vsvip || assignment.engines.contains(to));
            }
            _ => {}
        }
    }

    /// Says how those have ended that have not said so.
    pub(super) async fn end_moves(&self) {
        if !self.has_moves() {
            return;
        }
        // Steps are written and noted under it.
        let _one = self.deciding.lock().await;
        for ((vsvip, to), from) in self.ended_moves() {
            let (done, why) = self.how_ended(&vsvip, &from, &to);
            self.witness.tell(|w| w.move_ended(&vsvip, done, &why));
        }
        for ((vsvip, to), from) in self.ended_switchovers() {
            self.end_switchover(&vsvip, &from, &to);
        }
    }

    /// A switchover has ended by a step of its own.
    pub(super) fn forget_switchover(&self, vsvip: &str, to: &str) {
        let key = (vsvip.to_owned(), to.to_owned());
        self.write().switchovers.remove(&key);
    }

    fn ended_switchovers(&self) -> Moves {
        let mut tables = self.write();
        let Tables {
            switchovers,
            assignments,
            ..
        } = &mut *tables;
        let is_waited_for = |key: &(String, String), from: &String| {
            let assignment = assignments.get(&key.0);
            let under_way = assignment.map(|a| switchover_of(&key.0, a));
            under_way.is_some_and(|s| s.get(key) == Some(from))
        };
        let ended = switchovers.extract_if(.., |key, from| !is_waited_for(key, from));
        ended.collect()
    }

    /// Where another engine is active by now, the step that made it so has said that.
    fn end_switchover(&self, vsvip: &str, from: &str, to: &str) {
        self.step_ended(vsvip, &[Action::Switchover], to);
        let engines = self.assignment(vsvip).engines;
        if engines.first().is_none_or(|e| e != to) {
            return;
        }
        let why = format!(
            "{} stays the active engine: {} has it no more",
            self.name(to),
            self.name(from)
        );
        self.witness.tell(|w| w.switched(vsvip, to, &why));
    }

    fn has_moves(&self) -> bool {
        let tables = self.read();
        !tables.moves.is_empty() || !tables.switchovers.is_empty()
    }

    fn ended_moves(&self) -> Moves {
        let mut tables = self.write();
        let Tables {
            moves, assignments, ..
        } = &mut *tables;
        let goes_on = |vsvip: &str, to: &str| {
            let assignment = assignments.get(vsvip);
            assignment.is_some_and(|a| a.scaling.iter().any(|s| s.to == to && s.from.is_some()))
        };
        let ended = moves.extract_if(.., |(vsvip, to), _| !goes_on(vsvip, to));
        ended.collect()
    }

    /// Whether the new engine has the place, and why.
    fn how_ended(&self, vsvip: &str, from: &str, to: &str) -> (bool, String) {
        let assignment = self.assignment(vsvip);
        let has = |engine: &str| assignment.engines.iter().any(|e| e == engine);
        let (is_from, is_to) = (has(from), has(to));
        let gives_up = assignment.moves().iter().any(|m| m.from == from);
        let (from, to) = (self.name(from), self.name(to));
        match (is_from, is_to) {
            (false, true) => (
                true,
                format!("{from} has it no more, and {to} has its place"),
            ),
            (true, false) if gives_up => (
                false,
                format!("{to} has it no more, and another engine is to have the place of {from}"),
            ),
            (true, false) => (
                false,
                format!("{to} has it no more, and {from} keeps its place"),
            ),
            (true, true) => (
                false,
                format!("{from} keeps its place, and {to} has one, too"),
            ),
            (false, false) => (false, format!("neither {from} nor {to} has it any more")),
        }
    }
}
