//! Scaling by load (`auto_rebalance` of the SE group): what engines report of a VIP is measured over an interval,
//! [`placement::autoscale`] decides, and the step is made as if somebody had asked for it; or, where it is not switched on,
//! it is said what would be done.
//!
//! [`run`] is one task, owned by the controller that leads; it waits between steps that are whole. What it has measured is
//! nobody else's and is not stored: a controller that starts anew measures anew, for an interval at least.

mod outlook;
mod sheets;
mod window;

pub(super) use outlook::Outlook;

use super::assignments::{Assignment, Assignments};
use super::leave::ScaleIn;
use super::{Planner, Wanted, leave, situation};
use crate::clock::{Moment, now_unix_s};
use crate::error::ApiError;
use crate::objects::Snapshot;
use model::view::ServiceEngineGroup;
use placement::autoscale::{Criterion, Decision, EngineLoad, Limit, Policy, Step, Vip, decide};
use sheets::{Services, Sheets};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use window::Window;

const PERIOD: Duration = Duration::from_secs(1);
/// Looks at a VIP in an interval; engines report every few seconds, and in between there is nothing new.
const LOOKS: u64 = 60;

/// Measures and scales, until `stop`.
pub async fn run(planner: Arc<Planner>, stop: CancellationToken) {
    let mut measured = Measured::default();
    let mut looked = Moment::now();
    loop {
        let now = Moment::now();
        // An interval of a clock that was set is none.
        if std::mem::replace(&mut looked, now).was_set_before(now) {
            measured = Measured::default();
        }
        planner.autoscale(&mut measured, now_unix_s()).await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// What is measured, by uuid of the VsVip.
#[derive(Default)]
pub(super) struct Measured {
    vips: BTreeMap<String, Watched>,
    services: Services,
}

/// A VIP that is watched.
struct Watched {
    /// uuids of the engines that it is placed on, as seen last.
    engines: Vec<String>,
    looked_s: u64,
    pace_s: u64,
    /// Since when its placement is as it is.
    unchanged_since_s: u64,
    /// Since when its load is measured.
    from_s: u64,
    /// By uuid of the engine. Boxed: most have two, and a node of the tree has room for eleven.
    windows: BTreeMap<String, Box<Window>>,
}

impl Watched {
    fn new(now_s: u64) -> Self {
        Self {
            engines: Vec::new(),
            looked_s: now_s,
            pace_s: 0,
            unchanged_since_s: now_s,
            from_s: now_s,
            windows: BTreeMap::new(),
        }
    }

    /// Also when the clock was set back.
    fn is_due(&self, now_s: u64) -> bool {
        now_s < self.looked_s || now_s - self.looked_s >= self.pace_s
    }

    /// Its placement is another one now, or about to be.
    fn changed(&mut self, assignment: &Assignment, now_s: u64) {
        self.engines.clone_from(&assignment.engines);
        self.unchanged_since_s = now_s;
        self.measure_anew(now_s);
    }

    fn measure_anew(&mut self, now_s: u64) {
        self.from_s = now_s;
        self.windows.values_mut().for_each(|w| w.begin_anew());
    }
}

/// A decision that is due.
struct Due {
    vsvip: String,
    /// The engines that it is about: where there are others by now, it is void.
    engines: Vec<String>,
    decision: Decision,
    /// `auto_rebalance`.
    acts: bool,
}

impl Planner {
    /// Looks at the loads of those VIPs whose turn it is, and does or says what is due.
    pub(super) async fn autoscale(&self, measured: &mut Measured, now_s: u64) {
        for due in self.look_at_loads(measured, now_s) {
            self.note_outlook(&due, now_s);
            if due.acts && due.decision.step != Step::Keep {
                // What could not be done is noted, and tried again after the next interval.
                if let Err(error) = self.step(&due).await {
                    tracing::debug!(%error, vsvip = due.vsvip, "not scaled by load");
                }
            }
        }
    }

    fn look_at_loads(&self, measured: &mut Measured, now_s: u64) -> Vec<Due> {
        let snapshot = self.objects.snapshot();
        let assignments = self.read().assignments.clone();
        let Measured { vips, services } = measured;
        services.refresh(&snapshot);
        vips.retain(|vsvip, _| assignments.get(vsvip).is_some());
        self.forget_outlooks(|vsvip| assignments.get(vsvip).is_some());
        let mut round = Round {
            planner: self,
            snapshot: &snapshot,
            assignments: &assignments,
            sheets: Sheets::new(&self.registry, services),
            now_s,
        };
        let each = assignments.iter().filter_map(|(vsvip, assignment)| {
            let watched = vips.entry(vsvip.to_owned());
            let watched = watched.or_insert_with(|| Watched::new(now_s));
            let is_due = watched.is_due(now_s);
            is_due.then(|| round.look(watched, vsvip, assignment))?
        });
        each.collect()
    }

    /// Makes the step, unless the VIP is elsewhere by now.
    async fn step(&self, due: &Due) -> Result<(), ApiError> {
        let _one = self.deciding.lock().await;
        let vsvip = due.vsvip.as_str();
        let assignment = self.assignment(vsvip);
        if assignment.engines != due.engines || !assignment.scaling.is_empty() {
            return Ok(());
        }
        let why = format!("auto_rebalance: {}", due.decision);
        match due.decision.step {
            Step::Keep => Ok(()),
            Step::Out => {
                let any = Wanted::default();
                self.scale_out_because(vsvip, any, &why).await.map(drop)
            }
            Step::In => {
                let any = ScaleIn::default();
                self.scale_in_because(vsvip, any, &why).await.map(drop)
            }
        }
    }
}

/// One look at VIPs.
struct Round<'a> {
    planner: &'a Planner,
    snapshot: &'a Snapshot,
    assignments: &'a Assignments,
    sheets: Sheets<'a>,
    now_s: u64,
}

impl Round<'_> {
    /// Looks at a VIP; what is to be done once it has been measured for an interval.
    fn look(&mut self, watched: &mut Watched, vsvip: &str, assignment: &Assignment) -> Option<Due> {
        watched.look(vsvip, assignment, &mut self.sheets, self.now_s);
        let Some((group, is_native)) = group_of_enabled(self.snapshot, vsvip) else {
            watched.changed(assignment, self.now_s);
            self.planner.forget_outlooks(|other| other != vsvip);
            return None;
        };
        let policy = policy(&group, is_native);
        watched.pace_s = (policy.interval_s / LOOKS).max(1);
        if self.is_changing(vsvip, assignment, &group) {
            watched.changed(assignment, self.now_s);
        }
        if self.now_s - watched.from_s < policy.interval_s {
            return None;
        }
        let vip = self.measured(watched, assignment, &policy);
        watched.measure_anew(self.now_s);
        Some(Due {
            vsvip: vsvip.to_owned(),
            engines: assignment.engines.clone(),
            decision: decide(&policy, &vip),
            acts: group.auto_rebalance,
        })
    }

    /// A scale-out, scale-in, migration or switchover of the VIP is under way.
    fn is_changing(
        &self,
        vsvip: &str,
        assignment: &Assignment,
        group: &ServiceEngineGroup,
    ) -> bool {
        let is_leaving = |engine: &str, since_s: u64| {
            let left = self.planner.left(self.snapshot, vsvip, engine);
            leave::is_going_on(group, left, self.planner.for_s(vsvip, since_s))
        };
        let mut lingering = assignment.group.lingering();
        !assignment.scaling.is_empty()
            || assignment.switchover.is_some()
            || !self.planner.holding(vsvip).is_empty()
            || lingering.any(|(m, since_s)| is_leaving(&m.engine, since_s))
    }

    /// What was measured of the VIP.
    fn measured(&self, watched: &Watched, assignment: &Assignment, policy: &Policy) -> Vip {
        let load = |engine: &str| {
            let vips = self.assignments.at(engine).count();
            let window = watched.windows.get(engine);
            let of = |limit: &Limit| window?.load(limit.criterion, vips);
            EngineLoad {
                name: self.planner.name(engine),
                vips,
                loads: policy.limits.iter().map(of).collect(),
            }
        };
        let lingering = assignment.group.lingering();
        Vip {
            serving: assignment.engines.iter().map(|e| load(e)).collect(),
            lingering: lingering.map(|(m, _)| load(&m.engine)).collect(),
            unchanged_s: self.now_s.saturating_sub(watched.unchanged_since_s),
            under_way: false,
        }
    }
}

impl Watched {
    /// Looks at what each engine with flows of the VIP carries. Of one without a session nothing is known; what it said
    /// before is over.
    fn look(&mut self, vsvip: &str, assignment: &Assignment, sheets: &mut Sheets<'_>, now_s: u64) {
        self.looked_s = now_s;
        let members = || assignment.group.members.iter().map(|m| m.engine.as_str());
        self.windows.retain(|se, _| members().any(|m| m == se));
        for engine in members() {
            match sheets.carried(engine, vsvip) {
                Some(carried) => match self.windows.get_mut(engine) {
                    Some(window) => window.look(carried),
                    None => {
                        let window = Box::new(Window::new(carried));
                        self.windows.insert(engine.to_owned(), window);
                    }
                },
                None => {
                    self.windows.remove(engine);
                }
            }
        }
        if self.engines != assignment.engines || now_s < self.from_s {
            self.changed(assignment, now_s);
        }
    }
}

/// The SE group of a VIP that one enabled virtual service uses at least, and whether it is scaled natively.
fn group_of_enabled(snapshot: &Snapshot, vsvip: &str) -> Option<(Arc<ServiceEngineGroup>, bool)> {
    let services = situation::services_of(snapshot, vsvip);
    let group = situation::group_of(snapshot, vsvip)?;
    let is_enabled = services.iter().any(|vs| vs.enabled);
    is_enabled.then(|| (group, situation::is_native(&services)))
}

/// What the SE group says. Words that this version does not know and capacities that do not match, which the API refuses,
/// are as if they were not there.
fn policy(group: &ServiceEngineGroup, is_native: bool) -> Policy {
    let (words, capacities) = (
        &group.auto_rebalance_criteria,
        &group.auto_rebalance_capacity_per_se,
    );
    let matching = words.len() == capacities.len();
    let limit = |criterion: Criterion, capacity: Option<u32>| Limit {
        criterion,
        capacity: f64::from(capacity.unwrap_or(criterion.usual_capacity()).max(1)),
    };
    let named = words.iter().enumerate().filter_map(|(i, word)| {
        let capacity = capacities.get(i).filter(|_| matching).copied();
        Some(limit(Criterion::of(word)?, capacity))
    });
    let mut limits: Vec<Limit> = named.collect();
    if limits.is_empty() {
        limits.push(limit(Criterion::Cpu, None));
    }
    let (ha, min) = (situation::ha(group), group.min_scaleout_per_vs);
    let ceiling = situation::ceiling(is_native);
    Policy {
        limits,
        max_percent: group.max_cpu_usage.into(),
        min_percent: group.min_cpu_usage.into(),
        interval_s: group.auto_rebalance_interval.max(1).into(),
        fewest: situation::fewest(group, is_native),
        most: ha.most(min, group.max_scaleout_per_vs).min(ceiling),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn limits(fields: Value) -> Vec<(&'static str, f64)> {
        let mut group = json!({"uuid": "g", "name": "g"});
        let fields = fields.as_object().expect("an object").clone();
        group.as_object_mut().expect("an object").extend(fields);
        let group = model::view::parse(group.as_object().expect("an object"));
        let policy = policy(&group.expect("parses"), false);
        let each = policy.limits.iter();
        each.map(|l| (l.criterion.word(), l.capacity)).collect()
    }

    #[test]
    fn capacities_are_those_of_the_criteria_in_their_order_or_the_usual_ones() {
        let (cpu, cps) = ("SE_AUTO_REBALANCE_CPU", "SE_AUTO_REBALANCE_CPS");
        assert_eq!(limits(json!({})), [(cpu, 100.0)]);
        let both = json!([cps, cpu]);
        assert_eq!(
            limits(json!({"auto_rebalance_criteria": both})),
            [(cps, 2000.0), (cpu, 100.0)]
        );
        assert_eq!(
            limits(
                json!({"auto_rebalance_criteria": both, "auto_rebalance_capacity_per_se": [50, 60]})
            ),
            [(cps, 50.0), (cpu, 60.0)]
        );
        // As another version may have stored them.
        assert_eq!(
            limits(
                json!({"auto_rebalance_criteria": ["NEWER", cps], "auto_rebalance_capacity_per_se": [7]})
            ),
            [(cps, 2000.0)]
        );
    }

    #[test]
    fn a_vip_that_is_scaled_natively_gets_no_more_engines_than_it_can_have() {
        let group =
            json!({"uuid": "g", "name": "g", "min_scaleout_per_vs": 2, "max_scaleout_per_vs": 8});
        let group = model::view::parse(group.as_object().expect("an object")).expect("parses");
        let bounds = |is_native| {
            let policy = policy(&group, is_native);
            (policy.fewest, policy.most)
        };
        assert_eq!((bounds(false), bounds(true)), ((2, 8), (2, 5)));
    }
}
