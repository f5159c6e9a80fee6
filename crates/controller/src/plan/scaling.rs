//! Scale-outs and migrations until they are done: an engine was added and is to serve; then the one whose place it takes is
//! taken out, and keeps its connections. One that does not serve in time (`vs_scaleout_timeout`) is taken out itself. All
//! that waits for an engine to serve has its time here; when it is up, the witness is told.
//!
//! What is under way is part of the assignment, so that a controller that starts anew goes on with it. [`run`] is one task,
//! owned by the controller, which also looks for engines that are lost and for states that change; it waits between steps that
//! are whole.

use super::waits::{Next, Times, or_never};
use super::{Action, Assignment, Planner, Scaling, Tables, Wanted, situation};
use crate::clock::{Moment, now_unix_s};
use crate::error::ApiError;
use crate::objects::Snapshot;
use model::view::ServiceEngineGroup;
use proto::v1::OperState;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const PERIOD: Duration = Duration::from_millis(500);
/// An engine has its session for so long before it is said that it does not serve.
const JUDGED_AFTER: Duration = Duration::from_secs(30);

/// Steps that are over when the engine serves, or is taken out again.
const COMES: [Action; 2] = [Action::ScaleOut, Action::MigrateScaleout];
/// What has become of an engine whose place another one has taken.
pub(super) const MIGRATED: &str = "has given its place up";

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
    /// The same, of one that has served for too short a time.
    pub(super) fn waiting(self, waits: bool) -> Self {
        match self {
            Self::Ready if waits => Self::WaitForReady,
            progress => progress,
        }
    }

    /// Whether it serves; none while that is not known.
    pub(super) fn serves(self) -> Option<bool> {
        match self {
            Self::AwaitingProgramming => None,
            Self::WaitForReady => Some(false),
            Self::Ready => Some(true),
        }
    }

    /// How many of its two steps it has done: what it is told is in force, and it serves.
    pub(super) fn steps_done(self) -> u64 {
        match self {
            Self::AwaitingProgramming => 0,
            Self::WaitForReady => 1,
            Self::Ready => 2,
        }
    }

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

/// Brings what is under way to its end, and looks for losses and for states that change, until `stop`.
pub async fn run(planner: Arc<Planner>, stop: CancellationToken) {
    loop {
        planner.look_for_losses(Instant::now());
        planner.finish_moves(Instant::now()).await;
        planner.look_at_news().await;
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
        match self.state_at(vs, engine) {
            Some(OperState::Up) => true,
            None | Some(OperState::Unspecified | OperState::Initializing) => false,
            Some(OperState::Down | OperState::Disabled) => {
                let engines = self.assignment(vsvip).engines;
                let mut others = engines.iter().filter(|se| *se != engine);
                !others.any(|se| self.is_connected(se) && self.is_up(vs, se))
            }
        }
    }

    fn is_up(&self, vs: &str, engine: &str) -> bool {
        self.state_at(vs, engine) == Some(OperState::Up)
    }

    /// As the engine said last.
    fn state_at(&self, vs: &str, engine: &str) -> Option<OperState> {
        let report = self.registry.get(engine).report?;
        let status = report.virtual_services.iter().find(|s| s.uuid == vs)?;
        OperState::try_from(status.state).ok()
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
        to: impl Into<Wanted<'_>>,
    ) -> Result<placement::Choice, ApiError> {
        let _one = self.deciding.lock().await;
        let chosen = self.choose_migration(vsvip, from, to.into());
        let chosen =
            chosen.inspect_err(|e| self.note(vsvip, Action::MigrateScaleout, Err(&e.text)));
        let (from, choice) = chosen?;
        let mut engines = self.assignment(vsvip).engines;
        engines.push(choice.engine.clone());
        let begun = vec![Scaling {
            to: choice.engine.clone(),
            from: Some(from),
            since_s: now_unix_s(),
            ready_since_s: None,
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
        to: Wanted<'_>,
    ) -> Result<(String, placement::Choice), ApiError> {
        let mut situation = self.situation(&self.objects.snapshot(), vsvip)?;
        situation.demand.host = to.host.map(str::to_owned);
        let (demand, engines) = (&situation.demand, &situation.engines);
        let bad = |e: placement::PlanError| ApiError::bad_request(e.to_string());
        let from = placement::holder(engines, &situation.assigned, from).map_err(bad)?;
        let name = self.name(&from);
        let moves = self.assignment(vsvip).moves();
        if moves.iter().any(|m| m.from == from) {
            let text =
                format!("from_se_ref: the virtual service is being migrated from {name} already");
            return Err(ApiError::bad_request(text));
        }
        let choice =
            placement::take_over(demand, engines, &situation.assigned, to.engine).map_err(bad)?;
        let reason = format!(
            "{} takes the place of {name}, which was asked for: {}",
            choice.name, choice.reason
        );
        Ok((from, placement::Choice { reason, ..choice }))
    }

    pub(super) async fn finish_moves(&self, now: Instant) {
        let assignments = self.read().assignments.clone();
        for (vsvip, assignment) in assignments.iter() {
            for scaling in &assignment.scaling {
                if let Err(error) = self.finish(vsvip, scaling, now).await {
                    tracing::error!(%error, vsvip, "a scale-out or migration is not brought to its end");
                }
            }
            if let Some(switchover) = &assignment.switchover
                && let Err(error) = self.finish_switchover(vsvip, switchover, now).await
            {
                tracing::error!(%error, vsvip, "a switchover is not brought to its end");
            }
        }
        self.end_placed(now);
        self.end_moves().await;
        self.end_cancelled();
        // Once for all: what one engine is told anew, others wait for.
        self.publish();
    }

    async fn finish(&self, vsvip: &str, scaling: &Scaling, now: Instant) -> Result<(), ApiError> {
        let _one = self.deciding.lock().await;
        let assignment = self.assignment(vsvip);
        if !assignment.scaling.contains(scaling) {
            return Ok(());
        }
        let snapshot = self.objects.snapshot();
        let serves = self.progress(&snapshot, vsvip, &scaling.to).serves();
        let group = situation::group_of(&snapshot, vsvip);
        let is_ready = serves == Some(true);
        let (begun_s, ready_s) = (scaling.since_s, scaling.ready_since_s);
        let since = self.read().ages.since(vsvip, begun_s, ready_s, now);
        let for_s = since.begun_for_s;
        self.say_not_ready(vsvip, scaling, group.as_deref(), is_ready, for_s);
        match since.next(scaleout_times(group.as_deref()), serves) {
            Next::GoOn => self.complete(vsvip, assignment, scaling).await,
            Next::Ready(is_ready) => {
                let ready_since_s = is_ready.then(now_unix_s);
                self.waits(vsvip, assignment, scaling, ready_since_s).await
            }
            Next::Late(for_s) if self.may_be_judged(&scaling.to) => {
                self.roll_back(vsvip, assignment, scaling, for_s).await
            }
            Next::Late(_) | Next::Wait => Ok(()),
        }
    }

    /// Says once of an engine that it does not serve within `vs_se_scaleout_ready_timeout`.
    fn say_not_ready(
        &self,
        vsvip: &str,
        scaling: &Scaling,
        group: Option<&ServiceEngineGroup>,
        serves: bool,
        for_s: u64,
    ) {
        let timeout_s = group.map_or(0, |g| g.vs_se_scaleout_ready_timeout);
        let timeout_s = or_never(timeout_s);
        let key = (vsvip.to_owned(), scaling.to.clone());
        if serves || scaling.ready_since_s.is_some() {
            self.write().not_ready.remove(&key);
            return;
        }
        let late = for_s >= timeout_s;
        if late && self.may_be_judged(&scaling.to) && self.write().not_ready.insert(key) {
            let why = format!(
                "{} does not serve within {timeout_s} s (vs_se_scaleout_ready_timeout of the SE group)",
                self.name(&scaling.to)
            );
            self.witness.tell(|w| w.not_ready(vsvip, &scaling.to, &why));
        }
    }

    /// Since when the engine has served, or that it does not any more.
    async fn waits(
        &self,
        vsvip: &str,
        mut next: Assignment,
        scaling: &Scaling,
        ready_since_s: Option<u64>,
    ) -> Result<(), ApiError> {
        let mut all = next.scaling.iter_mut();
        if let Some(own) = all.find(|s| *s == scaling) {
            own.ready_since_s = ready_since_s;
        }
        let to = self.name(&scaling.to);
        let message = match ready_since_s {
            Some(_) => format!("{to} serves; vs_se_scaleout_additional_wait_time begins"),
            None => format!("{to} does not serve any more"),
        };
        self.write_assignment(vsvip, next, message).await
    }

    /// Whether it is the engine's fault that nobody sees it serve. One without a session may serve, and after a start of the
    /// controller engines have to come first.
    pub(super) fn may_be_judged(&self, engine: &str) -> bool {
        let lost = self.read().lost.contains(engine);
        let state = self.registry.get(engine);
        let here = state.connected_since.map(Moment::elapsed);
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
            self.write_assignment(vsvip, next, message).await?;
            self.arrived(vsvip, &scaling.to);
            return Ok(());
        };
        let message = format!("migrated from {} to {to}: it serves", self.name(from));
        let choice = placement::Choice {
            engine: from.clone(),
            name: self.name(from),
            reason: message.clone(),
            rejected: Vec::new(),
        };
        let before = next.engines.clone();
        next.engines.retain(|e| e != from);
        self.assign(vsvip, next.engines, Vec::new(), message)
            .await?;
        self.step_ended(vsvip, &COMES, &scaling.to);
        self.note_successor(vsvip, &before, MIGRATED);
        self.note(vsvip, Action::MigrateScalein, Ok(&choice));
        Ok(())
    }

    fn arrived(&self, vsvip: &str, engine: &str) {
        self.step_ended(vsvip, &COMES, engine);
        let services = situation::services_of(&self.objects.snapshot(), vsvip);
        let why = match services.iter().any(|vs| self.is_up(&vs.uuid, engine)) {
            true => "it is up there",
            false => "it is down there, as it is everywhere",
        };
        self.witness.tell(|w| w.arrived(vsvip, engine, why));
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
        let before = next.engines.clone();
        next.engines.retain(|e| *e != scaling.to);
        self.assign(vsvip, next.engines, Vec::new(), why.clone())
            .await?;
        self.note_successor(vsvip, &before, "does not serve in time");
        let key = (vsvip.to_owned(), scaling.to.clone());
        self.write().not_ready.remove(&key);
        self.step_ended(vsvip, &COMES, &scaling.to);
        let action = match scaling.from {
            None => Action::ScaleOutRolledBack,
            Some(_) => Action::MigrateRolledBack,
        };
        self.note(vsvip, action, Err(&why));
        Ok(())
    }

    /// What was begun with an engine that is not to come any more is over, whatever has ended it.
    fn end_cancelled(&self) {
        let mut tables = self.write();
        let Tables {
            last,
            not_ready,
            assignments,
            ..
        } = &mut *tables;
        let comes = |vsvip: &str, engine: &str| {
            let assignment = assignments.get(vsvip);
            assignment.is_some_and(|a| a.scaling.iter().any(|s| s.to == engine))
        };
        last.end_where(&COMES, |vsvip, engine| !comes(vsvip, engine));
        not_ready.retain(|(vsvip, engine)| comes(vsvip, engine));
    }

    /// When an engine that a VIP was placed on is to serve it; `None`: there is time for ever.
    pub(super) fn serves_until(&self, vsvip: &str) -> Option<Instant> {
        let group = situation::group_of(&self.objects.snapshot(), vsvip);
        let timeout_s = scaleout_times(group.as_deref()).timeout_s;
        Instant::now().checked_add(Duration::from_secs(timeout_s))
    }

    /// Of engines that a VIP was placed on because it lacked one: nothing is taken back when their time is up, and it is
    /// said of those that do not serve.
    fn end_placed(&self, now: Instant) {
        let mut tables = self.write();
        let over = tables.placed.extract_if(.., |_, until| now >= *until);
        let over: Vec<_> = over.map(|(key, _)| key).collect();
        drop(tables);
        for (vsvip, engine) in over {
            if self.assignment(&vsvip).engines.contains(&engine) {
                let why = "it is not up there within vs_scaleout_timeout of the SE group";
                self.witness.tell(|w| w.time_is_up(&vsvip, &engine, why));
            }
        }
    }
}

pub(super) fn scaleout_times(group: Option<&ServiceEngineGroup>) -> Times {
    Times {
        wait_s: group.map_or(0, |g| g.vs_se_scaleout_additional_wait_time.into()),
        timeout_s: group.map_or(u64::MAX, |g| g.vs_scaleout_timeout.into()),
    }
}
