//! Migrations until somebody has said how they ended. Most end by a step of their own: the new engine serves, or does not in
//! time. Others end because one of the two engines is gone: scaled in from, lost, deleted. That is found here.

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

impl Planner {
    /// A migration begins with this step, or has ended by it.
    pub(super) fn note_move(&self, vsvip: &str, last: &LastScale) {
        let assignment = self.assignment(vsvip);
        let moves = &mut self.write().moves;
        match (last.action, last.engine.as_ref()) {
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
        if self.read().moves.is_empty() {
            return;
        }
        // Steps are written and noted under it.
        let _one = self.deciding.lock().await;
        for ((vsvip, to), from) in self.ended_moves() {
            let (done, why) = self.how_ended(&vsvip, &from, &to);
            self.witness.tell(|w| w.move_ended(&vsvip, done, &why));
        }
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
        let engines = self.assignment(vsvip).engines;
        let has = |engine: &str| engines.iter().any(|e| e == engine);
        let (is_from, is_to) = (has(from), has(to));
        let (from, to) = (self.name(from), self.name(to));
        match (is_from, is_to) {
            (false, true) => (
                true,
                format!("{from} has it no more, and {to} has its place"),
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
