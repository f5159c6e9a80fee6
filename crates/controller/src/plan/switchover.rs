//! Switchovers of a pair until they are done: the standby announces as the active engine does, and the former active one
//! becomes the standby when the new one serves. One that does not in time (`vs_switchover_timeout`) is the standby again.
//!
//! What is under way is part of the assignment, and brought on by the task of [`super::scaling`].

use super::decision::{succeeds, successor};
use super::scaling::Progress;
use super::waits::{Next, Times, or_never};
use super::{Action, Assignment, Planner, Switchover, situation};
use crate::clock::now_unix_s;
use crate::error::ApiError;
use model::view::ServiceEngineGroup;
use std::time::Instant;

impl Planner {
    /// The standby of a VIP becomes its active engine, and the active one its standby.
    ///
    /// # Errors
    /// 400: its SE group has another HA mode, or the other one has no session.
    pub async fn switch_over(
        &self,
        vsvip: &str,
        to: Option<&str>,
    ) -> Result<placement::Choice, ApiError> {
        let _one = self.deciding.lock().await;
        let choice = self.choose_switchover(vsvip, to);
        let choice = choice.inspect_err(|e| self.note(vsvip, Action::Switchover, Err(&e.text)))?;
        self.begin_switchover(vsvip, &choice).await?;
        self.publish();
        Ok(choice)
    }

    /// The engine that [`Planner::switch_over`] would make active, without doing or noting anything.
    ///
    /// # Errors
    /// As there.
    pub(super) fn choose_switchover(
        &self,
        vsvip: &str,
        to: Option<&str>,
    ) -> Result<placement::Choice, ApiError> {
        let situation = self.situation(&self.objects.snapshot(), vsvip)?;
        let (demand, engines) = (&situation.demand, &situation.engines);
        let choice = placement::switch_over(demand, engines, &situation.assigned, to);
        choice.map_err(|e| ApiError::bad_request(e.to_string()))
    }

    /// The same with an engine that has been chosen; for who decides.
    pub(super) async fn begin_switchover(
        &self,
        vsvip: &str,
        choice: &placement::Choice,
    ) -> Result<(), ApiError> {
        let Some(next) = self.switched_over(vsvip, choice) else {
            return Ok(());
        };
        self.write_assignment(vsvip, next, choice.reason.clone())
            .await?;
        self.note(vsvip, Action::Switchover, Ok(choice));
        Ok(())
    }

    /// What the VIP's assignment becomes by it; nothing where no engine has the VIP.
    pub(super) fn switched_over(
        &self,
        vsvip: &str,
        choice: &placement::Choice,
    ) -> Option<Assignment> {
        let mut next = self.assignment(vsvip);
        let from = next.engines.first().cloned()?;
        let group = situation::group_of(&self.objects.snapshot(), vsvip);
        let waits = times(group.as_deref()).wait_s > 0 || !self.serves(vsvip, &choice.engine);
        next.make_active(&choice.engine);
        // One that serves and is not waited for is the active one at once.
        next.switchover = waits.then(|| Switchover {
            from,
            since_s: now_unix_s(),
            ready_since_s: None,
        });
        Some(next)
    }

    /// The engine serves the VIP as well as any other one.
    pub(super) fn serves(&self, vsvip: &str, engine: &str) -> bool {
        let snapshot = self.objects.snapshot();
        self.progress(&snapshot, vsvip, engine) == Progress::Ready
    }

    pub(super) async fn finish_switchover(
        &self,
        vsvip: &str,
        switchover: &Switchover,
        now: Instant,
    ) -> Result<(), ApiError> {
        let _one = self.deciding.lock().await;
        let mut assignment = self.assignment(vsvip);
        let Some(to) = assignment.engines.first().cloned() else {
            return Ok(());
        };
        if assignment.switchover.as_ref() != Some(switchover) {
            return Ok(());
        }
        let serves = self.progress(&self.objects.snapshot(), vsvip, &to).serves();
        let (begun_s, ready_s) = (switchover.since_s, switchover.ready_since_s);
        let since = self.read().ages.since(vsvip, begun_s, ready_s, now);
        let group = situation::group_of(&self.objects.snapshot(), vsvip);
        let times = times(group.as_deref());
        let name = self.name(&to);
        let message = match since.next(times, serves) {
            Next::GoOn => {
                assignment.switchover = None;
                format!("switched over to {name}: it serves")
            }
            Next::Ready(is_ready) => {
                let ready_since_s = is_ready.then(now_unix_s);
                let switchover = assignment.switchover.as_mut();
                switchover
                    .into_iter()
                    .for_each(|s| s.ready_since_s = ready_since_s);
                format!("switchover to {name}: whether it serves has changed")
            }
            Next::Late(for_s) if self.may_be_judged(&to) => {
                let from = &switchover.from;
                return self.switch_back(vsvip, assignment, from, for_s).await;
            }
            Next::Late(_) | Next::Wait => return Ok(()),
        };
        let is_over = assignment.switchover.is_none();
        self.write_assignment(vsvip, assignment, message.clone())
            .await?;
        if is_over {
            self.forget_switchover(vsvip, &to);
            self.step_ended(vsvip, &[Action::Switchover], &to);
            self.witness.tell(|w| w.switched(vsvip, &to, &message));
        }
        Ok(())
    }

    /// Notes that the standby of a VIP that was on these engines is active now, if the active one has lost its place.
    pub(super) fn note_successor(&self, vsvip: &str, before: &[String], why: &str) {
        let after = self.assignment(vsvip).engines;
        let Some(group) = situation::group_of(&self.objects.snapshot(), vsvip) else {
            return;
        };
        if let Some(active) = successor(before, &after, situation::ha(&group)) {
            let choice = succeeds(active, &self.name(active), why);
            self.note(vsvip, Action::Switchover, Ok(&choice));
        }
    }

    async fn switch_back(
        &self,
        vsvip: &str,
        mut next: Assignment,
        from: &str,
        for_s: u64,
    ) -> Result<(), ApiError> {
        let why = format!(
            "{} does not serve after {for_s} s (vs_switchover_timeout of the SE group); {} is the active engine again",
            self.name(&next.engines[0]),
            self.name(from)
        );
        next.make_active(from);
        next.switchover = None;
        self.write_assignment(vsvip, next, why.clone()).await?;
        self.note(vsvip, Action::SwitchoverRolledBack, Err(&why));
        Ok(())
    }
}

pub(super) fn times(group: Option<&ServiceEngineGroup>) -> Times {
    let wait_s = group.map_or(0, |g| g.vs_se_primary_switchover_additional_wait_time);
    Times {
        wait_s: wait_s.into(),
        timeout_s: or_never(group.map_or(0, |g| g.vs_switchover_timeout)),
    }
}
