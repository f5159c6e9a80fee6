//! Active roles of many VIPs at once: those that an engine has go to others, those of an SE group go where they belong
//! (avi-api section 9).
//!
//! What becomes of each is decided first, without doing anything: a dry run shows it. Then all is written together, and
//! each switchover comes to its end as one that was asked for alone ([`super::switchover`]).

use super::decision::back_to;
use super::situation::Ground;
use super::writing::Placement;
use super::{Action, Assignment, Planner, situation};
use crate::error::ApiError;
use crate::objects::Snapshot;
use model::view::{Ref, ServiceEngineGroup, VirtualService};
use placement::{Choice, Ha};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Reasons that a refusal gives; there may be one for each of the other engines.
const REASONS_MAX: usize = 3;

/// What becomes of active roles, by uuid of the VsVip.
#[derive(Debug, Default)]
pub struct Roles {
    /// VIPs that get another active engine, and which.
    pub moves: Vec<(String, Choice)>,
    /// VIPs that should and cannot, and why.
    pub stay: Vec<(String, String)>,
}

impl Roles {
    fn add(&mut self, vsvip: &str, outcome: Result<Choice, String>) {
        match outcome {
            Ok(choice) => self.moves.push((vsvip.to_owned(), choice)),
            Err(why) => self.stay.push((vsvip.to_owned(), why)),
        }
    }

    /// Nothing to do is no failure; that nothing can be done is one.
    fn or_refused(self) -> Result<Self, ApiError> {
        if !self.moves.is_empty() || self.stay.is_empty() {
            return Ok(self);
        }
        let reasons: BTreeSet<&str> = self.stay.iter().map(|(_, why)| why.as_str()).collect();
        let some: Vec<&str> = reasons.into_iter().take(REASONS_MAX).collect();
        Err(ApiError::bad_request(format!(
            "none of {} VIPs can be switched over: {}",
            self.stay.len(),
            some.join("; ")
        )))
    }
}

impl Planner {
    /// Every VIP whose active engine or primary is this one gets another one, where there is one that can.
    ///
    /// # Errors
    /// 400: it has such VIPs, and none has another engine that can.
    pub async fn hand_over(&self, engine: &str) -> Result<Roles, ApiError> {
        let _one = self.deciding.lock().await;
        let roles = self.choose_hand_over(engine)?;
        self.switch_many_over(roles).await
    }

    /// Every VIP of the SE group goes to the engine of its tag, now, and also where the group does not do so by itself.
    ///
    /// # Errors
    /// 400: the group has no such engines, or none of those that should be active can.
    pub async fn redistribute(&self, group: &str) -> Result<Roles, ApiError> {
        let _one = self.deciding.lock().await;
        let roles = self.choose_redistribution(group)?;
        self.switch_many_over(roles).await
    }

    /// What [`Planner::hand_over`] would do, without doing or noting anything.
    ///
    /// # Errors
    /// As there.
    pub(super) fn choose_hand_over(&self, engine: &str) -> Result<Roles, ApiError> {
        let snapshot = self.objects.snapshot();
        let assignments = self.read().assignments.clone();
        let mut ground = self.ground(&snapshot);
        let is_first = |a: &Assignment| a.engines.first().is_some_and(|e| e == engine);
        let active = assignments.at(engine).filter(|(_, a)| is_first(a));
        let mut roles = Roles::default();
        for (vsvip, assignment) in active {
            if let Some(outcome) = handed_over(&mut ground, vsvip, assignment) {
                roles.add(vsvip, outcome);
            }
        }
        roles.or_refused()
    }

    /// What [`Planner::redistribute`] would do, without doing or noting anything.
    ///
    /// # Errors
    /// As there.
    pub(super) fn choose_redistribution(&self, group: &str) -> Result<Roles, ApiError> {
        let snapshot = self.objects.snapshot();
        let view: Arc<ServiceEngineGroup> = snapshot
            .view("serviceenginegroup", group)
            .ok_or_else(|| ApiError::not_found("ServiceEngineGroup"))?;
        check_redistributable(&view)?;
        let mut ground = self.ground(&snapshot);
        let mut roles = Roles::default();
        for vsvip in vips_of(&snapshot, group) {
            let assignment = self.assignment(&vsvip);
            if let Some(outcome) = redistributed(&mut ground, &vsvip, &assignment) {
                roles.add(&vsvip, outcome);
            }
        }
        roles.or_refused()
    }

    /// Writes them together. One that the store refuses stays where it is, and says why.
    async fn switch_many_over(&self, mut roles: Roles) -> Result<Roles, ApiError> {
        let placements = roles.moves.iter().filter_map(|(vsvip, choice)| {
            Some(Placement {
                next: self.switched_over(vsvip, choice)?,
                vsvip: vsvip.clone(),
                message: choice.reason.clone(),
            })
        });
        let outcome = self.write_many(placements.collect()).await;
        let is_written = |(vsvip, _): &(String, Choice)| outcome.written.contains(vsvip);
        let (done, not): (Vec<_>, Vec<_>) = roles.moves.into_iter().partition(is_written);
        for (vsvip, choice) in &done {
            self.note(vsvip, Action::Switchover, Ok(choice));
        }
        self.publish();
        if let Err(error) = outcome.rest {
            if done.is_empty() {
                return Err(error);
            }
            let left = not.into_iter().map(|(v, _)| (v, error.text.clone()));
            roles.stay.extend(left);
        }
        roles.moves = done;
        Ok(roles)
    }
}

/// Nothing for a VIP whose engines are all alike.
fn handed_over(
    ground: &mut Ground<'_>,
    vsvip: &str,
    assignment: &Assignment,
) -> Option<Result<Choice, String>> {
    let demand = match ground.demand(vsvip) {
        Ok(demand) if !demand.has_active() => return None,
        Ok(demand) => demand,
        Err(error) => return Some(Err(error.text)),
    };
    let choice = placement::hand_over(&demand, &ground.engines, &assignment.engines);
    let from = ground.name(&assignment.engines[0]);
    Some(match choice {
        Ok(choice) => Ok(Choice {
            reason: format!(
                "{} becomes active: {from} was asked to give all that it is active for to others",
                choice.name
            ),
            ..choice
        }),
        Err(why) => Err(why.to_string()),
    })
}

/// Nothing for a VIP that is where it belongs.
fn redistributed(
    ground: &mut Ground<'_>,
    vsvip: &str,
    assignment: &Assignment,
) -> Option<Result<Choice, String>> {
    let demand = match ground.demand(vsvip) {
        Ok(demand) => demand,
        Err(error) => return Some(Err(error.text)),
    };
    let engines = &assignment.engines;
    let wanted = placement::preferred(&demand, &ground.engines, engines)?;
    if !assignment.is_quiet() {
        let why = "a scale-out, migration or switchover of it is under way; repeat it then";
        return Some(Err(why.to_owned()));
    }
    let can = placement::take_role(&demand, &ground.engines, engines, &wanted.uuid);
    Some(match can {
        Ok(_) => Ok(back_to(wanted)),
        Err(why) => Err(why.to_string()),
    })
}

fn check_redistributable(group: &ServiceEngineGroup) -> Result<(), ApiError> {
    let (name, mode) = (&group.name, group.mode());
    if situation::ha(group) != Ha::ActiveStandby {
        return Err(ApiError::bad_request(format!(
            "ha_mode: of SE group {name} is {mode}; redistribute is for HA_MODE_LEGACY_ACTIVE_STANDBY, in which one engine is active"
        )));
    }
    if !group.distribute_load_active_standby {
        return Err(ApiError::bad_request(format!(
            "distribute_load_active_standby: of SE group {name} is false, so that no VIP belongs on one engine rather than the other; set it, and active_standby_se_tag of virtual services"
        )));
    }
    Ok(())
}

/// Of the virtual services of the group; of several that share one, the first one's group counts.
fn vips_of(snapshot: &Snapshot, group: &str) -> BTreeSet<String> {
    let reference = Ref::to("serviceenginegroup", group);
    let services =
        snapshot.views_referring::<VirtualService>("virtualservice", "se_group_ref", &reference);
    let vips = services.iter().filter_map(|vs| vs.vsvip_ref.as_ref());
    let vips = vips.map(|r| r.uuid().to_owned());
    vips.filter(|v| situation::group_of(snapshot, v).is_some_and(|g| g.uuid == group))
        .collect()
}
