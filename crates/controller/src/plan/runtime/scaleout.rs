//! `scaleoutstatus/detail` and `sescaleoutstatus` of a virtual service (avi-api 10.2): how far a scaling is, as the planner and as each
//! engine has it.

use super::super::service::SCALE_FIELDS;
use super::Observer;
use super::internal::role_word;
use crate::engines::registry::EngineState;
use model::view::{Ref, VirtualService};
use placement::group::{Member, Role};
use serde_json::{Value, json};

/// What is shown beside [`SCALE_FIELDS`].
const DETAIL_FIELDS: &[&str] = &[
    "service_engine",
    "lingering_service_engine",
    "vip_placement_resolution_info",
    "warnings",
    "autoscale",
];

impl Observer<'_> {
    /// An element per VIP.
    pub(in crate::plan) fn scaleout_detail(&self, vs: &VirtualService) -> Value {
        let vsvip = vs.vsvip_ref.as_ref().map_or("", Ref::uuid);
        let steps = self.steps(vsvip, &self.planner.assignment(vsvip));
        let mut vips = self.of_each_vip(&vs.uuid, &[SCALE_FIELDS, DETAIL_FIELDS].concat());
        for vip in vips.as_array_mut().into_iter().flatten() {
            vip["steps"] = steps.clone().into();
        }
        vips
    }

    /// An element per engine that holds the VIP, be it to serve or to linger.
    pub(in crate::plan) fn engine_scaleout(&self, vs: &VirtualService) -> Value {
        let vsvip = vs.vsvip_ref.as_ref().map_or("", Ref::uuid);
        let group = self.planner.assignment(vsvip).group;
        let each = group.members.iter();
        each.map(|member| self.scaleout_at(vs, vsvip, member))
            .collect()
    }

    fn scaleout_at(&self, vs: &VirtualService, vsvip: &str, member: &Member) -> Value {
        let se = member.engine.as_str();
        let state = self.registry.get(se);
        json!({
            "se_uuid": se, "proc_id": "C0", "se_name": self.name(se),
            "vs_uuid": vs.uuid, "vsvip_uuid": vsvip,
            "member_id": member.id, "role": role_word(member.role),
            "state": self.scaleout_word(vsvip, member),
            "oper_status": self.service_in(vs, &state),
            "generation_desired": state.desired.as_ref().map(|d| d.generation),
            "generation_in_force": state.acked,
            "vip": announced(vsvip, &state),
        })
    }

    /// In the words of `ScaleStatus`.
    fn scaleout_word(&self, vsvip: &str, member: &Member) -> &'static str {
        if matches!(member.role, Role::Lingering { .. }) {
            return "SCALEIN_AWAITING_SE_RELEASE";
        }
        let scaling = self.planner.assignment(vsvip).scaling;
        let own = scaling.iter().find(|s| s.to == member.engine);
        let waits = own.is_some_and(|s| s.ready_since_s.is_some());
        let is_migration = own.is_some_and(|s| s.from.is_some());
        let progress = self.planner.progress(self.snapshot, vsvip, &member.engine);
        progress.waiting(waits).word(is_migration)
    }
}

/// What the engine says of the VIP's addresses; nothing without a session, when its last word is no longer known to be so.
pub(super) fn announced(vsvip: &str, state: &EngineState) -> Vec<Value> {
    let report = state.report.as_ref();
    let report = report.filter(|_| state.connected_since.is_some());
    let vips = report.into_iter().flat_map(|r| &r.vips);
    let own = vips.filter(|v| v.vsvip_uuid == vsvip);
    own.map(|v| {
        json!({
            "address": v.address, "announced": v.announced, "reason_code": v.reason_code, "reason": v.reason,
            "native_part": Some(&v.native_part).filter(|part| !part.is_empty()),
        })
    })
    .collect()
}
