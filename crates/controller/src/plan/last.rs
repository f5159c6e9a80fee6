//! What was last tried with the placement of each VIP, and what before that: for people, and gone with the process.

use super::{Action, Planner};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// The last thing that was tried with a VIP's placement, for people.
#[derive(Debug, Clone)]
pub struct LastScale {
    /// What.
    pub action: Action,
    /// It was done.
    pub success: bool,
    /// Why this engine, or why none.
    pub reason: String,
    /// The engine's uuid, when there is one.
    pub engine: Option<String>,
    /// When; of what takes time, when it began.
    pub at: SystemTime,
    /// When all of it was over: the engine serves, or has left. Nothing before that.
    pub ended: Option<SystemTime>,
}

impl LastScale {
    /// The same was tried, and came to the same.
    fn is_like(&self, other: &Self) -> bool {
        (self.action, self.success) == (other.action, other.success)
            && self.reason == other.reason
            && self.engine == other.engine
    }

    /// Nothing was done, and nothing taken back.
    fn is_refusal(&self) -> bool {
        let takes_back = matches!(
            self.action,
            Action::ScaleOutRolledBack | Action::MigrateRolledBack | Action::SwitchoverRolledBack
        );
        !self.success && !takes_back
    }
}

#[derive(Debug)]
struct Steps {
    last: LastScale,
    before: Option<LastScale>,
    /// Another refusal than the last one, which may be said again.
    refused: Option<LastScale>,
}

impl Steps {
    /// With one more. Refusals take each other's place, so that what was done stays; one that is said again is as old as it was.
    fn then(self, next: LastScale) -> Self {
        let Self {
            last,
            before,
            refused,
        } = self;
        if !(next.is_refusal() && last.is_refusal()) {
            let before = if last.is_like(&next) {
                before
            } else {
                Some(last)
            };
            return Self {
                last: next,
                before,
                refused: None,
            };
        }
        if last.is_like(&next) {
            return Self {
                last,
                before,
                refused,
            };
        }
        let known = refused.filter(|refused| refused.is_like(&next));
        Self {
            last: known.unwrap_or(next),
            before,
            refused: Some(last),
        }
    }
}

/// See the module's documentation. By VsVip.
#[derive(Debug, Default)]
pub(super) struct LastScales(BTreeMap<String, Steps>);

impl LastScales {
    pub(super) fn note(&mut self, vsvip: &str, last: LastScale) {
        let steps = match self.0.remove(vsvip) {
            Some(steps) => steps.then(last),
            None => Steps {
                last,
                before: None,
                refused: None,
            },
        };
        self.0.insert(vsvip.to_owned(), steps);
    }

    /// One of these, with this engine, is over.
    pub(super) fn end(&mut self, vsvip: &str, actions: &[Action], engine: &str) {
        let steps = self.0.get_mut(vsvip).into_iter();
        let both = steps.flat_map(|s| std::iter::once(&mut s.last).chain(&mut s.before));
        let open = both.filter(|s| s.ended.is_none() && s.engine.as_deref() == Some(engine));
        for step in open.filter(|s| actions.contains(&s.action)) {
            step.ended = Some(SystemTime::now());
        }
    }

    /// Those of these are over of which it is so of VsVip and engine.
    pub(super) fn end_where(&mut self, actions: &[Action], is_over: impl Fn(&str, &str) -> bool) {
        for (vsvip, steps) in &mut self.0 {
            let both = std::iter::once(&mut steps.last).chain(&mut steps.before);
            for step in both.filter(|s| s.ended.is_none() && actions.contains(&s.action)) {
                let engine = step.engine.as_deref();
                if engine.is_some_and(|engine| is_over(vsvip, engine)) {
                    step.ended = Some(SystemTime::now());
                }
            }
        }
    }

    pub(super) fn last(&self, vsvip: &str) -> Option<&LastScale> {
        Some(&self.0.get(vsvip)?.last)
    }

    pub(super) fn before(&self, vsvip: &str) -> Option<&LastScale> {
        self.0.get(vsvip)?.before.as_ref()
    }

    /// Forgets VIPs that are not there any more.
    pub(super) fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.0.retain(|vsvip, _| is_there(vsvip));
    }
}

impl Planner {
    /// What was last tried with this VIP.
    pub fn last_scale(&self, vsvip: &str) -> Option<LastScale> {
        self.read().last.last(vsvip).cloned()
    }

    /// What was tried before that.
    pub(super) fn scale_before(&self, vsvip: &str) -> Option<LastScale> {
        self.read().last.before(vsvip).cloned()
    }

    /// One of these steps, with this engine, is over.
    pub(super) fn step_ended(&self, vsvip: &str, actions: &[Action], engine: &str) {
        self.write().last.end(vsvip, actions, engine);
    }

    /// Whether all of a step is done when it is written: nobody waits for an engine to serve or to leave.
    pub(super) fn is_over(&self, vsvip: &str, action: Action, engine: Option<&str>) -> bool {
        let assignment = self.assignment(vsvip);
        match action {
            Action::InitialPlacement
            | Action::SeRemoved
            | Action::ScaleOut
            | Action::MigrateScaleout => false,
            Action::Switchover => assignment.switchover.is_none(),
            Action::ScaleIn | Action::MigrateScalein => {
                engine.is_none_or(|engine| !assignment.is_at(engine))
            }
            Action::ScaleOutRolledBack
            | Action::MigrateRolledBack
            | Action::SwitchoverRolledBack => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(action: Action, success: bool, engine: Option<&str>) -> LastScale {
        LastScale {
            action,
            success,
            reason: "why".into(),
            engine: engine.map(str::to_owned),
            at: SystemTime::UNIX_EPOCH,
            ended: None,
        }
    }

    #[test]
    fn the_step_before_is_another_one_and_each_ends_with_its_engine() {
        let mut steps = LastScales::default();
        steps.note("vip", step(Action::ScaleOut, true, Some("a")));
        assert!(steps.before("vip").is_none());
        for _ in 0..2 {
            steps.note("vip", step(Action::ScaleOut, false, None));
        }
        let before = steps.before("vip").expect("there was one");
        assert_eq!(before.engine.as_deref(), Some("a"));
        for (actions, engine, is_over) in [
            ([Action::ScaleOut], "b", false),
            ([Action::ScaleIn], "a", false),
            ([Action::ScaleOut], "a", true),
        ] {
            steps.end("vip", &actions, engine);
            let before = steps.before("vip").expect("there was one");
            assert_eq!(before.ended.is_some(), is_over, "{engine}");
        }
        assert!(steps.last("vip").expect("noted").ended.is_none());
        steps.keep(|vsvip| vsvip != "vip");
        assert!(steps.last("vip").is_none());
    }

    #[test]
    fn refusals_that_alternate_are_as_old_as_they_were_and_push_nothing_out_that_was_done() {
        let mut steps = LastScales::default();
        steps.note("vip", step(Action::ScaleOut, true, Some("a")));
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        for round in 0..3 {
            for (n, action) in [(1, Action::SeRemoved), (2, Action::InitialPlacement)] {
                let refused = LastScale {
                    at: at(10 * round + n),
                    ..step(action, false, None)
                };
                steps.note("vip", refused);
                let last = steps.last("vip").expect("noted");
                assert_eq!((last.action, last.at), (action, at(n)), "round {round}");
                let before = steps.before("vip").expect("there was one");
                assert_eq!(before.engine.as_deref(), Some("a"), "round {round}");
            }
        }
        steps.note("vip", step(Action::ScaleOutRolledBack, false, None));
        steps.note("vip", step(Action::ScaleOut, false, None));
        let before = steps.before("vip").expect("there was one");
        assert_eq!(before.action, Action::ScaleOutRolledBack);
    }

    #[test]
    fn what_is_open_ends_where_its_engine_does_not_come_any_more() {
        let mut steps = LastScales::default();
        steps.note("vip", step(Action::ScaleOut, true, Some("a")));
        steps.note("vip", step(Action::ScaleOut, true, Some("b")));
        steps.end_where(&[Action::MigrateScaleout], |_, _| true);
        steps.end_where(&[Action::ScaleOut], |_, engine| engine == "a");
        assert!(steps.last("vip").expect("noted").ended.is_none());
        assert!(steps.before("vip").expect("noted").ended.is_some());
    }
}
