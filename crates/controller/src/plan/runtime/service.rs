//! `virtualservice/UUID/runtime` (avi-api 10.2): its VIPs, the engines of each, and what becomes of a scaling.

use super::super::leave::{self, Left};
use super::super::{Assignment, LastScale, situation};
use super::{Observer, oper_word, status};
use crate::engines::registry::EngineState;
use crate::objects::transport;
use model::reason::Reason;
use model::view::{Ref, ServiceEngineGroup, Vip, VirtualService, VsVip};
use proto::ANSWERING;
use proto::v1::{UdpStatus, VirtualServiceStatus};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

impl Observer<'_> {
    /// A virtual service on one of its engines.
    pub(in crate::plan) fn service_on(&self, vs: &VirtualService, se: &str) -> Value {
        self.service_in(vs, &self.registry.get(se))
    }

    /// The same, of an engine in this state.
    pub(in crate::plan) fn service_in(&self, vs: &VirtualService, state: &EngineState) -> Value {
        if state.connected_since.is_none() || state.nack.is_some() {
            let engine = self.engine_status(state);
            let code = engine["reason_code_string"].clone();
            let word = if state.connected_since.is_some() {
                "OPER_DOWN"
            } else {
                "OPER_UNAVAIL"
            };
            return json!({"state": word, "reason": engine["reason"], "reason_code_string": code});
        }
        match reported(state, vs) {
            None => status(
                "OPER_INITIALIZING",
                "awaiting_se_programming",
                "the engine has not reported it yet",
            ),
            Some(report) => status(oper_word(report.state), &report.reason_code, &report.reason),
        }
    }

    fn assigned(&self, vs: &VirtualService, vsvip: &str) -> Vec<Value> {
        let assignment = self.planner.assignment(vsvip);
        let Assignment {
            engines,
            group,
            scaling,
            ..
        } = &assignment;
        let holding = self.planner.holding(vsvip);
        let has_standby = self.has_standby(vs);
        let parts: Vec<String> = engines
            .iter()
            .map(|se| self.native_part(vsvip, se))
            .collect();
        let answers = parts.iter().position(|part| part == ANSWERING);
        let each = engines.iter().enumerate().map(|(i, se)| {
            let state = self.registry.get(se);
            let oper = self.service_on(vs, se);
            json!({
                "ref": Ref::to("serviceengine", se).0,
                "name": self.name(se),
                "primary": i == answers.unwrap_or(0),
                "native_part": Some(&parts[i]).filter(|part| !part.is_empty()),
                "standby": has_standby && !assignment.is_active(se),
                "connected": state.connected_since.is_some(),
                "active_on_se": oper["state"] == "OPER_UP",
                "oper_status": oper,
                "scalein_in_progress": false,
                "scaleout_in_progress": holding.contains(se) || scaling.iter().any(|s| s.to == *se),
                "migrate_in_progress": scaling.iter().any(|s| s.from.as_ref() == Some(se)),
                "member_id": group.member(se).map(|m| m.id),
                "member_problems": self.member_problems(vsvip, &state),
                "udp": reported(&state, vs).and_then(|report| report.udp).map(udp_status),
            })
        });
        each.collect()
    }

    /// What the engine is for a VIP that is scaled natively, as it says; empty where it is not, or cannot say so.
    pub(in crate::plan) fn native_part(&self, vsvip: &str, se: &str) -> String {
        let state = self.registry.get(se);
        let report = state.report.filter(|_| state.connected_since.is_some());
        let vips = report.iter().flat_map(|r| &r.vips);
        let mut own = vips.filter(|v| v.vsvip_uuid == vsvip);
        own.next()
            .map(|v| v.native_part.clone())
            .unwrap_or_default()
    }

    fn se_group_of(&self, vs: &VirtualService) -> Option<Arc<ServiceEngineGroup>> {
        let uuid = vs.se_group_ref.as_ref().map_or("", Ref::uuid);
        self.snapshot.view("serviceenginegroup", uuid)
    }

    /// Engines that it gets by itself.
    fn fewest(&self, vs: &VirtualService, vsvip: &str) -> usize {
        let is_native = situation::is_native(&situation::services_of(self.snapshot, vsvip));
        let group = self.se_group_of(vs);
        group.map_or(1, |g| situation::fewest(&g, is_native))
    }

    /// Only the first engine is active.
    pub(super) fn has_standby(&self, vs: &VirtualService) -> bool {
        let group = self.se_group_of(vs);
        group.is_some_and(|g| situation::ha(&g) == placement::Ha::ActiveStandby)
    }

    /// Those whose word counts: a standby that does not check servers takes them all for up.
    fn judges(&self, vs: &VirtualService, engines: &[Value]) -> Vec<Value> {
        let all_check = self.se_group_of(vs).is_none_or(|g| g.hm_on_standby);
        let judges = engines.iter().filter(|e| all_check || e["standby"] != true);
        judges.cloned().collect()
    }

    /// Members of the VIP's group that this engine has no tunnel path to, as it says.
    fn member_problems(&self, vsvip: &str, state: &EngineState) -> Vec<Value> {
        let view = self.snapshot.view::<VsVip>("vsvip", vsvip);
        let addresses = view.iter().flat_map(|v| &v.vip).flat_map(Vip::addresses);
        let ours: Vec<String> = addresses.map(|a| a.to_string()).collect();
        let problems = state.report.iter().flat_map(|r| &r.member_problems);
        let here = problems.filter(|p| ours.contains(&p.vip));
        here.map(|p| {
            json!({"vip": p.vip, "se_name": self.name(&p.se_uuid), "reason_code": p.reason_code, "reason": p.reason})
        })
        .collect()
    }

    /// Engines that were scaled in and serve what they have left. The operation is over when nothing is left or
    /// `vs_scalein_timeout` has passed; the flows are not.
    fn lingering(&self, vs: &VirtualService, vsvip: &str) -> Vec<Value> {
        let group = self.planner.assignment(vsvip).group;
        let uuid = vs.se_group_ref.as_ref().map_or("", Ref::uuid);
        let of_vs: Option<Arc<ServiceEngineGroup>> = self.snapshot.view("serviceenginegroup", uuid);
        let each = group.lingering().map(|(member, since_s)| {
            let state = self.registry.get(&member.engine);
            let left = self.planner.left(self.snapshot, vsvip, &member.engine);
            let for_s = self.planner.for_s(vsvip, since_s);
            let connected = state.connected_since.is_some();
            json!({
                "ref": Ref::to("serviceengine", &member.engine).0,
                "name": self.name(&member.engine),
                "member_id": member.id,
                "connected": connected,
                "flows": left.map(|l| l.flows),
                "oldest_s": left.map(|l| l.oldest_s),
                "since_unix_s": since_s,
                "scalein_in_progress": of_vs.as_ref().is_some_and(|g| leave::is_going_on(g, left, for_s)),
                "reason_code": Reason::Lingering.code(),
                "reason": left_sentence(left, connected),
            })
        });
        each.collect()
    }

    pub(super) fn summary(&self, vs: &VirtualService, vsvip: &VsVip) -> Value {
        let engines = self.assigned(vs, &vsvip.uuid);
        let lingering = self.lingering(vs, &vsvip.uuid);
        let leaving = lingering.iter().any(|l| l["scalein_in_progress"] == true);
        let up = engines
            .iter()
            .filter(|e| e["oper_status"]["state"] == "OPER_UP")
            .count();
        let percent = if engines.is_empty() {
            0
        } else {
            up * 100 / engines.len()
        };
        let last = self.planner.last_scale(&vsvip.uuid);
        let oper = service_status(vs, &self.judges(vs, &engines), last.as_ref());
        let info = last.as_ref().map(|l| l.reason.clone()).unwrap_or_default();
        let first = vsvip.vip.first();
        json!({
            "vip_id": first.map_or("0", |v| v.vip_id.as_str()),
            "ip_address": first.and_then(|v| v.ip_address.as_ref()).map(|a| json!({"addr": a.addr, "type": a.kind})),
            "ip6_address": first.and_then(|v| v.ip6_address.as_ref()).map(|a| json!({"addr": a.addr, "type": a.kind})),
            "oper_status": oper,
            "num_se_requested": engines.len().max(self.fewest(vs, &vsvip.uuid)),
            "num_se_assigned": engines.len(),
            "percent_ses_up": percent,
            "scaleout_in_progress": engines.iter().any(is_joining),
            "scalein_in_progress": leaving,
            "migrate_in_progress": engines.iter().any(|e| e["migrate_in_progress"] == true),
            "scale_status": last.as_ref().map(|l| self.scale_status(l, &vsvip.uuid, &engines, leaving)),
            "vip_placement_resolution_info": info,
            "warnings": self.width_warnings(vs, vsvip),
            "autoscale": self.planner.outlook(&vsvip.uuid).map(|o| o.show()),
            "service_engine": engines,
            "lingering_service_engine": lingering,
        })
    }

    fn scale_status(
        &self,
        last: &LastScale,
        vsvip: &str,
        engines: &[Value],
        leaving: bool,
    ) -> Value {
        let uuids = engines.iter().filter_map(|e| e["ref"].as_str());
        let late = uuids.filter_map(|se| self.planner.late_sentence(vsvip, se.rsplit('/').next()?));
        let reasons: Vec<String> = std::iter::once(last.reason.clone()).chain(late).collect();
        let under_way = self.under_way(vsvip).filter(|_| last.success);
        let state = under_way.unwrap_or_else(|| last.action.state(last.success, leaving));
        json!({
            "action": last.action.word(),
            "action_success": last.success,
            "state": state,
            "reason": reasons,
            "scale_se": last.engine.as_deref().map(|e| self.name(e)),
            "num_se_assigned": engines.len(),
            "end_time_str": last.at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()).to_string(),
        })
    }

    /// How far the scale-out, migration or switchover is that is under way.
    fn under_way(&self, vsvip: &str) -> Option<&'static str> {
        let assignment = self.planner.assignment(vsvip);
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

    /// `VirtualServiceRuntimeSummary`, with the 16.3 fields on the top level.
    pub(in crate::plan) fn virtual_service(&self, uuid: &str) -> Option<Value> {
        let vs: Arc<VirtualService> = self.snapshot.view("virtualservice", uuid)?;
        let vsvip = vs
            .vsvip_ref
            .as_ref()
            .and_then(|r| self.snapshot.view::<VsVip>("vsvip", r.uuid()));
        let Some(vsvip) = vsvip else {
            let oper = status(
                "OPER_DOWN",
                "no_vip",
                "the virtual service has no VIP (vsvip_ref)",
            );
            return Some(json!({"oper_status": oper, "percent_ses_up": 0, "vip_summary": []}));
        };
        let mut runtime = self.summary(&vs, &vsvip);
        let summary = runtime.clone();
        runtime["vip_summary"] = json!([summary]);
        runtime["service_protocols"] = json!(transport::words(self.snapshot, &vs));
        runtime["type"] = json!("VS_TYPE_NORMAL");
        Some(runtime)
    }
}

fn is_joining(engine: &Value) -> bool {
    engine["scaleout_in_progress"] == true || engine["oper_status"]["state"] == "OPER_INITIALIZING"
}

/// What an engine that lingers has left, and whether that is known.
fn left_sentence(left: Option<Left>, connected: bool) -> String {
    match (left, connected) {
        (Some(left), true) => left.sentence(),
        (Some(left), false) => format!("no session; it last said: {}", left.sentence()),
        (None, true) => "it has not said yet what is left".to_owned(),
        (None, false) => "no session; what is left is not known".to_owned(),
    }
}

pub(super) fn reported<'a>(
    state: &'a EngineState,
    vs: &VirtualService,
) -> Option<&'a VirtualServiceStatus> {
    state
        .report
        .as_ref()?
        .virtual_services
        .iter()
        .find(|s| s.uuid == vs.uuid)
}

fn service_status(vs: &VirtualService, engines: &[Value], last: Option<&LastScale>) -> Value {
    if !(vs.enabled && vs.traffic_enabled) {
        return status(
            "OPER_DISABLED",
            "vs_disabled",
            "enabled or traffic_enabled is false",
        );
    }
    if engines.is_empty() {
        let why = last.map_or("placement has not been decided yet", |l| l.reason.as_str());
        return status("OPER_RESOURCES", "not_placed", why);
    }
    let find = |word: &str| engines.iter().find(|e| e["oper_status"]["state"] == word);
    if find("OPER_UP").is_some() {
        return status("OPER_UP", "up", "");
    }
    let first = find("OPER_INITIALIZING")
        .or_else(|| find("OPER_DOWN"))
        .or_else(|| engines.first());
    let mut oper = first.map(|e| e["oper_status"].clone()).unwrap_or_default();
    if oper["state"] == "OPER_UNAVAIL" {
        oper["state"] = json!("OPER_DOWN");
    }
    oper
}

/// UDP flows of a virtual service on an engine, since it is there.
pub(super) fn udp_status(status: UdpStatus) -> Value {
    let UdpStatus {
        flows,
        full,
        dropped,
        moved,
        dispatched_again,
    } = status;
    json!({
        "flows": flows,
        "full": full,
        "dropped": dropped,
        "moved": moved,
        "dispatched_again": dispatched_again,
    })
}
