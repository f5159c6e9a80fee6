//! Scale-outs and migrations until they are done: an engine was added and is to serve; then the one whose place it takes is
//! taken out, and keeps its connections. One that does not serve in time (`vs_scaleout_timeout`) is taken out itself.
//!
//! What is under way is part of the assignment, so that a controller that starts anew goes on with it. [`run`] is one task,
//! owned by the controller, which also looks for engines that are lost; it waits between steps that are whole.

use super::{Action, Assignment, Planner, Scaling, situation};
use crate::clock::now_unix_s;
use crate::error::ApiError;
use crate::objects::Snapshot;
use model::view::{Ref, ServiceEngineGroup};
use proto::v1::OperState;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

const PERIOD: Duration = Duration::from_millis(500);
/// An engine has its session for so long before it is said that it does not serve.
const JUDGED_AFTER: Duration = Duration::from_secs(30);

/// How far an engine that gets a VIP is, in the words of `ScaleStatus` (avi-api 10.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It has not put what it is told in force.
    AwaitingProgramming,
    /// It has, and does not serve yet.
    WaitForReady,
    /// It serves as well as any other one.
    Ready,
}

impl Progress {
    /// The state; of a migration with its prefix.
    pub(super) fn word(self, is_migration: bool) -> &'static str {
        match (self, is_migration) {
            (Self::AwaitingProgramming, false) => "SCALEOUT_AWAITING_SE_PROGRAMMING",
            (Self::AwaitingProgramming, true) => "MIGRATE_SCALEOUT_AWAITING_SE_PROGRAMMING",
            (Self::WaitForReady, false) => "SCALEOUT_WAIT_FOR_SE_READY",
            (Self::WaitForReady, true) => "MIGRATE_SCALEOUT_WAIT_FOR_SE_READY",
            (Self::Ready, false) => "SCALEOUT_SUCCESS",
            (Self::Ready, true) => "MIGRATE_SCALEOUT_SUCCESS",
        }
    }
}

/// Brings what is under way to its end, and looks for losses, until `stop`.
pub async fn run(planner: Arc<Planner>, stop: CancellationToken) {
    loop {
        planner.look_for_losses(SystemTime::now());
        planner.finish_moves(now_unix_s()).await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

impl Planner {
    /// How far the engine is with this VIP.
    pub(super) fn progress(&self, snapshot: &Snapshot, vsvip: &str, engine: &str) -> Progress {
        let holding = self.holding(vsvip).contains(engine);
        if holding || !self.is_connected(engine) || !self.registry.is_in_force(engine) {
            return Progress::AwaitingProgramming;
        }
        let services = situation::services_of(snapshot, vsvip);
        let ready = services
            .iter()
            .filter(|vs| vs.enabled)
            .all(|vs| self.is_ready(vsvip, &vs.uuid, engine));
        match ready {
            true => Progress::Ready,
            false => Progress::WaitForReady,
        }
    }

    /// The virtual service is up there, or down there and everywhere else: another engine would do no better.
    fn is_ready(&self, vsvip: &str, vs: &str, engine: &str) -> bool {
        let state = |se: &str| {
            let report = self.registry.get(se).report?;
            let status = report.virtual_services.iter().find(|s| s.uuid == vs)?;
            OperState::try_from(status.state).ok()
        };
        match state(engine) {
            Some(OperState::Up) => true,
            None | Some(OperState::Unspecified | OperState::Initializing) => false,
            Some(OperState::Down | OperState::Disabled) => {
                let engines = self.assignment(vsvip).engines;
                let mut others = engines.iter().filter(|se| *se != engine);
                !others.any(|se| self.is_connected(se) && state(se) == Some(OperState::Up))
            }
        }
    }

    /// Gives the VIP to another engine in the place of one that has it; that one is taken out when the other serves.
    /// Without `from` it is the primary.
    ///
    /// # Errors
    /// 400 with the planner's reason.
    pub async fn migrate(
        &self,
        vsvip: &str,
        from: Option<&str>,
        to: Option<&str>,
    ) -> Result<placement::Choice, ApiError> {
        let _one = self.deciding.lock().await;
        let chosen = self.choose_migration(vsvip, from, to);
        let chosen =
            chosen.inspect_err(|e| self.note(vsvip, Action::MigrateScaleout, Err(&e.text)));
        let (from, choice) = chosen?;
        let mut engines = self.assignment(vsvip).engines;
        engines.push(choice.engine.clone());
        let begun = vec![Scaling {
            to: choice.engine.clone(),
            from: Some(from),
            since_s: now_unix_s(),
        }];
        self.begin_joins(vsvip, std::slice::from_ref(&choice.engine));
        let done = self.assign(vsvip, engines, begun, choice.reason.clone());
        let done = done.await;
        done.inspect_err(|e| self.note(vsvip, Action::MigrateScaleout, Err(&e.text)))?;
        self.note(vsvip, Action::MigrateScaleout, Ok(&choice));
        self.publish();
        Ok(choice)
    }

    /// The engine that gives its place up, and the one that takes it, without doing or noting anything.
    ///
    /// # Errors
    /// 400 with the planner's reason.
    pub(super) fn choose_migration(
        &self,
        vsvip: &str,
        from: Option<&str>,
        to: Option<&str>,
    ) -> Result<(String, placement::Choice), ApiError> {
        let situation = self.situation(&self.objects.snapshot(), vsvip)?;
        let (demand, engines) = (&situation.demand, &situation.engines);
        let bad = |e: placement::PlanError| ApiError::bad_request(e.to_string());
        let from = placement::holder(engines, &situation.assigned, from).map_err(bad)?;
        let name = self.name(&from);
        if self.assignment(vsvip).moving().contains(&from) {
            let text =
                format!("from_se_ref: the virtual service is being migrated from {name} already");
            return Err(ApiError::bad_request(text));
        }
        let choice = placement::take_over(demand, engines, &situation.assigned, to).map_err(bad)?;
        let reason = format!(
            "{} takes the place of {name}, which was asked for: {}",
            choice.name, choice.reason
        );
        Ok((from, placement::Choice { reason, ..choice }))
    }

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
        let situation = self.situation(&self.objects.snapshot(), vsvip)?;
        let choice = placement::switch_over(
            &situation.demand,
            &situation.engines,
            &situation.assigned,
            to,
        );
        let choice = choice.map_err(|e| ApiError::bad_request(e.to_string()));
        let choice = choice.inspect_err(|e| self.note(vsvip, Action::Switchover, Err(&e.text)))?;
        let mut next = self.assignment(vsvip);
        next.engines.retain(|e| *e != choice.engine);
        next.engines.insert(0, choice.engine.clone());
        self.write_assignment(vsvip, next, choice.reason.clone())
            .await?;
        self.note(vsvip, Action::Switchover, Ok(&choice));
        self.publish();
        Ok(choice)
    }

    pub(super) async fn finish_moves(&self, now_s: u64) {
        let assignments = self.read().assignments.clone();
        let under_way = assignments.iter().filter(|(_, a)| !a.scaling.is_empty());
        for (vsvip, assignment) in under_way {
            for scaling in &assignment.scaling {
                if let Err(error) = self.finish(vsvip, scaling, now_s).await {
                    tracing::error!(%error, vsvip, "a scale-out or migration is not brought to its end");
                }
            }
        }
        // Once for all: what one engine is told anew, others wait for.
        self.publish();
    }

    async fn finish(&self, vsvip: &str, scaling: &Scaling, now_s: u64) -> Result<(), ApiError> {
        let _one = self.deciding.lock().await;
        let assignment = self.assignment(vsvip);
        if !assignment.scaling.contains(scaling) {
            return Ok(());
        }
        let snapshot = self.objects.snapshot();
        if self.progress(&snapshot, vsvip, &scaling.to) == Progress::Ready {
            return self.complete(vsvip, assignment, scaling).await;
        }
        let since_s = now_s.saturating_sub(scaling.since_s);
        let in_time = since_s < self.scaleout_timeout_s(&snapshot, vsvip);
        if in_time || !self.may_be_judged(&scaling.to) {
            return Ok(());
        }
        self.roll_back(vsvip, assignment, scaling, since_s).await
    }

    /// Whether it is the engine's fault that nobody sees it serve. One without a session may serve, and after a start of the
    /// controller engines have to come first.
    fn may_be_judged(&self, engine: &str) -> bool {
        let lost = self.read().lost.contains(engine);
        let state = self.registry.get(engine);
        let here = state.connected_since.and_then(|at| at.elapsed().ok());
        lost || here.is_some_and(|time| time >= JUDGED_AFTER)
    }

    async fn complete(
        &self,
        vsvip: &str,
        mut next: Assignment,
        scaling: &Scaling,
    ) -> Result<(), ApiError> {
        let to = self.name(&scaling.to);
        next.scaling.retain(|s| s != scaling);
        let Some(from) = &scaling.from else {
            let message = format!("scaled out to {to}: it serves");
            return self.write_assignment(vsvip, next, message).await;
        };
        let message = format!("migrated from {} to {to}: it serves", self.name(from));
        let choice = placement::Choice {
            engine: from.clone(),
            name: self.name(from),
            reason: message.clone(),
            rejected: Vec::new(),
        };
        next.engines.retain(|e| e != from);
        self.assign(vsvip, next.engines, Vec::new(), message)
            .await?;
        self.note(vsvip, Action::MigrateScalein, Ok(&choice));
        Ok(())
    }

    async fn roll_back(
        &self,
        vsvip: &str,
        mut next: Assignment,
        scaling: &Scaling,
        since_s: u64,
    ) -> Result<(), ApiError> {
        let why = format!(
            "{} does not serve after {since_s} s (vs_scaleout_timeout of the SE group), and was taken out again",
            self.name(&scaling.to)
        );
        next.engines.retain(|e| *e != scaling.to);
        self.assign(vsvip, next.engines, Vec::new(), why.clone())
            .await?;
        let action = match scaling.from {
            None => Action::ScaleOutRolledBack,
            Some(_) => Action::MigrateRolledBack,
        };
        self.note(vsvip, action, Err(&why));
        Ok(())
    }

    fn scaleout_timeout_s(&self, snapshot: &Snapshot, vsvip: &str) -> u64 {
        let services = situation::services_of(snapshot, vsvip);
        let group = services.first().and_then(|vs| vs.se_group_ref.as_ref());
        let uuid = group.map_or("", Ref::uuid);
        let group = snapshot.view::<ServiceEngineGroup>("serviceenginegroup", uuid);
        group.map_or(u64::MAX, |g| g.vs_scaleout_timeout.into())
    }
}
