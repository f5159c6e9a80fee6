//! What becomes of a scale-out, scale-in, migration or switchover (`ScaleStatus`, avi-api 10.2).

use super::super::super::last::LastScale;
use super::super::super::scaling::Progress;
use super::super::super::{Action, Assignment, Planner};
use super::super::Observer;
use super::is_joining;
use crate::objects::Snapshot;
use model::reason;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// What is under way, or was last.
pub(super) struct Scale {
    /// The last step.
    pub last: Option<LastScale>,
    /// It, as the API shows it.
    pub shown: Option<Value>,
    /// The last step that is over.
    pub over: Option<Value>,
}

/// Why a step was not done, in a word; nothing where it was.
fn code(step: &LastScale) -> &'static str {
    match step.action {
        _ if step.success => "",
        Action::InitialPlacement | Action::SeRemoved => "not_placed",
        Action::ScaleOutRolledBack | Action::MigrateRolledBack | Action::SwitchoverRolledBack => {
            "scale_rolled_back"
        }
        Action::ScaleOut
        | Action::ScaleIn
        | Action::MigrateScaleout
        | Action::MigrateScalein
        | Action::Switchover => "scale_refused",
    }
}

impl Planner {
    /// What is under way with a VIP, or was last.
    pub fn scale_status(&self, snapshot: &Snapshot, vsvip: &str) -> Option<Value> {
        let assignment = self.assignment(vsvip);
        let leaving = self.is_leaving(snapshot, vsvip);
        let observer = self.observer(snapshot);
        observer.scale(vsvip, &assignment, leaving).shown
    }
}

impl Observer<'_> {
    /// `leaving`: an engine goes, and that counts as going on.
    pub(super) fn scale(&self, vsvip: &str, assignment: &Assignment, leaving: bool) -> Scale {
        let last = self.planner.last_scale(vsvip);
        let shown = last
            .as_ref()
            .map(|last| self.scale_status(last, vsvip, assignment, leaving));
        let goes_on = leaving || !assignment.is_quiet();
        let is_over = last.as_ref().is_some_and(|l| l.ended.is_some() || !goes_on);
        let before = || {
            let before = self.planner.scale_before(vsvip)?;
            let state = before.action.state(before.success, false);
            Some(self.step(&before, state))
        };
        let over = if is_over { shown.clone() } else { before() };
        Scale { last, shown, over }
    }

    fn scale_status(
        &self,
        last: &LastScale,
        vsvip: &str,
        assignment: &Assignment,
        leaving: bool,
    ) -> Value {
        let engines = assignment.engines.iter();
        let late = engines.filter_map(|se| self.planner.late_sentence(vsvip, se));
        let reasons: Vec<String> = std::iter::once(last.reason.clone()).chain(late).collect();
        let under_way = self.under_way(vsvip, assignment).filter(|_| last.success);
        let state = under_way.unwrap_or_else(|| last.action.state(last.success, leaving));
        let requested = self.planner.requested(self.snapshot, vsvip);
        let mut shown = self.step(last, state);
        shown["reason"] = json!(reasons);
        shown["num_se_requested"] = json!(requested.num_se);
        shown["num_se_assigned"] = json!(assignment.engines.len());
        shown
    }

    /// What is known of any step.
    fn step(&self, step: &LastScale, state: &str) -> Value {
        let code = code(step);
        json!({
            "action": step.action.word(),
            "action_success": step.success,
            "state": state,
            "reason": [step.reason],
            "reason_code": reason::number(code), "reason_code_string": code,
            "vip_placement_resolution_info": step.reason,
            "scale_se": step.engine.as_deref().map(|e| self.name(e)),
            "start_time_str": unix_s(step.at),
            "end_time_str": step.ended.map(unix_s),
        })
    }

    /// How far the scale-out, migration or switchover is that is under way.
    fn under_way(&self, vsvip: &str, assignment: &Assignment) -> Option<&'static str> {
        let progress = |to| self.planner.progress(self.snapshot, vsvip, to);
        if let Some(scaling) = assignment.scaling.last() {
            let progress = progress(&scaling.to).waiting(scaling.ready_since_s.is_some());
            return Some(progress.word(scaling.from.is_some()));
        }
        let switchover = assignment.switchover.as_ref()?;
        let progress = progress(assignment.engines.first()?);
        let progress = progress.waiting(switchover.ready_since_s.is_some());
        Some(progress.word(false))
    }

    /// How much is done of what is under way, by its steps: of several, of the one that has most before it; 100 when there is
    /// none. An engine that comes puts the VIP in force, then it serves; of a migration, the other one leaves then. One that is
    /// scaled in gets nothing new, then it has nothing left.
    pub(super) fn progress_percent(
        &self,
        vsvip: &str,
        assignment: &Assignment,
        engines: &[Value],
        last: Option<&LastScale>,
        leaving: bool,
    ) -> u64 {
        let progress = |to: &str| self.planner.progress(self.snapshot, vsvip, to);
        let scaling = assignment.scaling.iter().map(|s| {
            let progress = progress(&s.to).waiting(s.ready_since_s.is_some());
            let of = if s.from.is_some() { 3 } else { 2 };
            (progress, of)
        });
        let is_scaled = |se: &String| assignment.scaling.iter().any(|s| s.to == *se);
        let placed = assignment.engines.iter().zip(engines);
        let placed = placed.filter(|(se, engine)| is_joining(engine) && !is_scaled(se));
        let placed = placed.map(|(se, _)| (progress(se), 2));
        let switchover = assignment.switchover.iter().filter_map(|s| {
            let to = assignment.engines.first()?;
            Some((progress(to).waiting(s.ready_since_s.is_some()), 2))
        });
        let coming = scaling.chain(placed).chain(switchover);
        let coming = coming.map(|(progress, of): (Progress, u64)| progress.steps_done() * 100 / of);
        let is_migration = last.is_some_and(|l| l.action == Action::MigrateScalein);
        let going = leaving.then_some(if is_migration { 66 } else { 50 });
        coming.chain(going).min().unwrap_or(100)
    }
}

/// Seconds since 1970, as text.
fn unix_s(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH);
    since.map_or(0, |d| d.as_secs()).to_string()
}
