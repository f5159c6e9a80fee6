//! `virtualservice/UUID/runtime/internal` (avi-api 10.2): what the planner has in mind of the VIP, for whoever looks for the reason of
//! something: who is in its group and as what, what each member was told and has acknowledged, what is under way, and what is waited for.

use super::super::waits::Times;
use super::super::{Assignment, Planner, Scaling, Switchover, scaling, situation, switchover};
use super::Observer;
use model::view::{Ref, VirtualService};
use placement::group::{Member, Resting, Role};
use serde_json::{Value, json};
use std::time::Instant;

/// A scale-out, migration or switchover that is not done.
struct Step<'a> {
    action: &'static str,
    to: &'a str,
    from: Option<&'a str>,
    since_s: u64,
    ready_since_s: Option<u64>,
    times: Times,
}

impl Observer<'_> {
    /// An element per VIP, none without one.
    pub(in crate::plan) fn internal(&self, vs: &VirtualService) -> Value {
        let vsvips = vs.vsvip_ref.iter().map(Ref::uuid);
        vsvips.map(|vsvip| self.internal_of(vsvip)).collect()
    }

    fn internal_of(&self, vsvip: &str) -> Value {
        let assignment = self.planner.assignment(vsvip);
        let Assignment {
            engines,
            group,
            scaling: _,
            switchover: _,
            revision,
            first_assigned_s,
        } = &assignment;
        let members = group.members.iter();
        let members = members.map(|m| self.internal_member(vsvip, &assignment, m));
        let resting = group.resting.iter().map(|r| self.resting(r));
        json!({
            "vsvip_uuid": vsvip,
            "vsvip_name": self.snapshot.name_of("vsvip", vsvip),
            "revision": revision,
            "first_assigned_s": first_assigned_s,
            "engines": engines,
            "group_generation": group.generation,
            "members": members.collect::<Vec<_>>(),
            "resting_ids": resting.collect::<Vec<_>>(),
            "steps": self.steps(vsvip, &assignment),
            "to_serve": self.to_serve(vsvip),
            "cut": self.planner.cut_at(vsvip),
        })
    }

    fn internal_member(&self, vsvip: &str, assignment: &Assignment, member: &Member) -> Value {
        let se = member.engine.as_str();
        let state = self.registry.get(se);
        let lingers = match member.role {
            Role::Lingering { since_s } => Some(self.leaving(vsvip, se, since_s)),
            Role::Serving | Role::Disabled => None,
        };
        json!({
            "se_uuid": se, "se_name": self.name(se),
            "member_id": member.id, "slot": assignment.group.slot(se), "role": role_word(member.role),
            "is_active": assignment.is_active(se),
            "holds_routes": self.planner.holding(vsvip).contains(se),
            "late": self.planner.late_sentence(vsvip, se),
            "lingers": lingers,
            "connected": state.connected_since.is_some(),
            "is_lost": self.planner.is_lost(se),
            "generation_desired": state.desired.as_ref().map(|d| d.generation),
            "generation_in_force": state.acked,
            "generation_confirmed": state.confirmed,
            "refused": state.nack.as_ref().map(|n| json!({"generation": n.generation, "field": n.field, "reason": n.reason})),
            "progress": lingers.is_none().then(|| self.planner.progress(self.snapshot, vsvip, se).word(false)),
        })
    }

    fn leaving(&self, vsvip: &str, se: &str, since_s: u64) -> Value {
        let left = self.planner.left(self.snapshot, vsvip, se);
        json!({
            "since_unix_s": since_s, "for_s": self.planner.for_s(vsvip, since_s),
            "flows": left.map(|l| l.flows), "oldest_s": left.map(|l| l.oldest_s),
        })
    }

    /// An id that is nobody's, and is kept for who had it.
    fn resting(&self, resting: &Resting) -> Value {
        let Resting {
            id,
            engine,
            since_s,
        } = resting;
        json!({"member_id": id, "se_uuid": engine, "se_name": self.name(engine), "since_unix_s": since_s})
    }

    /// What is under way.
    pub(super) fn steps(&self, vsvip: &str, assignment: &Assignment) -> Vec<Value> {
        let group = situation::group_of(self.snapshot, vsvip);
        let scaling_times = scaling::scaleout_times(group.as_deref());
        let scaled = assignment.scaling.iter().map(|scaling| {
            let Scaling {
                to,
                from,
                since_s,
                ready_since_s,
            } = scaling;
            self.under_way_step(
                vsvip,
                &Step {
                    action: if from.is_some() {
                        "MIGRATE_SCALEOUT"
                    } else {
                        "SCALE_OUT"
                    },
                    to,
                    from: from.as_deref(),
                    since_s: *since_s,
                    ready_since_s: *ready_since_s,
                    times: scaling_times,
                },
            )
        });
        let switched = assignment.switchover.iter().map(|switchover| {
            let Switchover {
                from,
                since_s,
                ready_since_s,
            } = switchover;
            self.under_way_step(
                vsvip,
                &Step {
                    action: "SWITCHOVER",
                    to: assignment.engines.first().map_or("", String::as_str),
                    from: Some(from),
                    since_s: *since_s,
                    ready_since_s: *ready_since_s,
                    times: switchover::times(group.as_deref()),
                },
            )
        });
        scaled.chain(switched).collect()
    }

    fn under_way_step(&self, vsvip: &str, step: &Step<'_>) -> Value {
        let progress = self.planner.progress(self.snapshot, vsvip, step.to);
        let progress = progress.waiting(step.ready_since_s.is_some());
        let is_migration = step.action == "MIGRATE_SCALEOUT";
        let for_s = |since_s| self.planner.for_s(vsvip, since_s);
        let Times { wait_s, timeout_s } = step.times;
        json!({
            "action": step.action,
            "state": progress.word(is_migration),
            "to_se_uuid": step.to, "to_se_name": self.name(step.to),
            "from_se_uuid": step.from, "from_se_name": step.from.map(|se| self.name(se)),
            "since_unix_s": step.since_s, "for_s": for_s(step.since_s),
            "serves_for_s": step.ready_since_s.map(for_s),
            "serves_for_s_needed": wait_s,
            "timeout_s": Some(timeout_s).filter(|s| *s != u64::MAX),
            "is_late": self.planner.is_late(vsvip, step.to),
        })
    }

    /// Engines that the VIP was placed on because it lacked one, and how many seconds they have left to serve it.
    fn to_serve(&self, vsvip: &str) -> Vec<Value> {
        let now = Instant::now();
        let each = self.planner.to_serve_until(vsvip).into_iter();
        each.map(|(se, until)| {
            let left = until.saturating_duration_since(now).as_secs();
            json!({"se_uuid": se, "se_name": self.name(&se), "left_s": left})
        })
        .collect()
    }
}

pub(super) fn role_word(role: Role) -> &'static str {
    match role {
        Role::Serving => "serving",
        Role::Disabled => "disabled",
        Role::Lingering { .. } => "lingering",
    }
}

impl Planner {
    fn to_serve_until(&self, vsvip: &str) -> Vec<(String, Instant)> {
        let tables = self.read();
        let here = tables.placed.iter().filter(|((v, _), _)| v == vsvip);
        here.map(|((_, se), until)| (se.clone(), *until)).collect()
    }

    /// uuids of the engines that are told to cut the VIP's connections.
    fn cut_at(&self, vsvip: &str) -> Vec<String> {
        let tables = self.read();
        let here = tables.cuts.keys().filter(|(v, _)| v == vsvip);
        here.map(|(_, se)| se.clone()).collect()
    }

    /// It was said of the engine that it does not serve in time.
    fn is_late(&self, vsvip: &str, engine: &str) -> bool {
        let key = (vsvip.to_owned(), engine.to_owned());
        self.read().not_ready.contains(&key)
    }

    fn is_lost(&self, engine: &str) -> bool {
        self.read().lost.contains(engine)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::{Fixture, established};
    use super::super::super::{ServiceView, Wanted};
    use super::*;

    fn shown(fixture: &Fixture, view: ServiceView) -> Value {
        let vs = fixture.uuid("virtualservice", "vs-1");
        let shown = fixture.observe(|o| o.service_view(&vs, view));
        shown.expect("there")[0].clone()
    }

    /// A second engine is to get the VIP, and has a session.
    async fn scaled_out() -> (Fixture, String) {
        let fixture = Fixture::new().await;
        fixture.report(vec![established()]);
        let second = json!({"name": "se-2"});
        let second = fixture.create("serviceengine", second).await;
        fixture.open_session(&second, "10.10.10.12/24");
        let wanted = Wanted::default();
        let scaled = fixture.planner.scale_out(&fixture.vsvip, wanted).await;
        assert_eq!(scaled.expect("there is one").engine, second);
        (fixture, second)
    }

    #[tokio::test]
    async fn an_engine_that_joins_is_a_step_with_its_times_and_holds_its_routes() {
        let (fixture, second) = scaled_out().await;
        let internal = shown(&fixture, ServiceView::Internal);
        let step = &internal["steps"][0];
        assert_eq!(
            (&step["action"], &step["to_se_uuid"], &step["state"]),
            (
                &json!("SCALE_OUT"),
                &json!(second),
                &json!("SCALEOUT_AWAITING_SE_PROGRAMMING")
            )
        );
        assert_eq!(step["serves_for_s"], Value::Null, "it does not serve yet");
        assert!(step["timeout_s"].is_u64(), "{step}");
        let members = internal["members"].as_array().expect("a list");
        let ids: Vec<_> = members.iter().map(|m| m["member_id"].as_u64()).collect();
        assert_eq!(ids, [Some(0), Some(1)]);
        let holds: Vec<_> = members.iter().map(|m| &m["holds_routes"]).collect();
        assert_eq!(holds, [&json!(false), &json!(true)]);
        let generation = fixture.planner.assignment(&fixture.vsvip).group.generation;
        assert_eq!(internal["group_generation"], generation);
        let detail = shown(&fixture, ServiceView::ScaleoutDetail);
        assert_eq!(detail["steps"][0]["to_se_name"], "se-2");
        assert_eq!(detail["scaleout_in_progress"], true);
    }

    #[tokio::test]
    async fn an_engine_that_has_left_lingers_with_what_is_not_known_left_open() {
        let (fixture, second) = scaled_out().await;
        fixture.place(&fixture.vsvip, &[&second]).await;
        let internal = shown(&fixture, ServiceView::Internal);
        assert_eq!(internal["engines"], json!([second]));
        let first = &internal["members"][0];
        assert_eq!(first["role"], "lingering");
        assert!(first["lingers"]["for_s"].is_u64(), "{first}");
        assert_eq!(first["lingers"]["flows"], 0, "its report has none");
        assert_eq!(first["progress"], Value::Null);
        let scaleout = shown(&fixture, ServiceView::EngineScaleout);
        assert_eq!(
            (&scaleout["role"], &scaleout["state"]),
            (&json!("lingering"), &json!("SCALEIN_AWAITING_SE_RELEASE"))
        );
    }

    #[tokio::test]
    async fn each_engine_says_whether_it_announces_and_nothing_without_a_session() {
        let fixture = Fixture::new().await;
        let at = |fixture: &Fixture| shown(fixture, ServiceView::EngineScaleout);
        assert_eq!(at(&fixture)["vip"], json!([]));
        let report = proto::v1::Report {
            vips: vec![proto::v1::VipStatus {
                vsvip_uuid: fixture.vsvip.clone(),
                address: "10.100.0.1".into(),
                announced: false,
                reason_code: "vs_down".into(),
                ..proto::v1::VipStatus::default()
            }],
            ..proto::v1::Report::default()
        };
        let (engine, session) = (&fixture.engine, fixture.session);
        fixture.registry.reported(engine, session, report);
        let vip = &at(&fixture)["vip"][0];
        assert_eq!(
            (&vip["announced"], &vip["reason_code"]),
            (&json!(false), &json!("vs_down"))
        );
        fixture.registry.close(engine, session, "gone");
        assert_eq!(at(&fixture)["vip"], json!([]));
    }
}
