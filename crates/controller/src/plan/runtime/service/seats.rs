//! The engines of a VIP (`VipSeAssigned`, avi-api 10.2): those that serve it, and those that leave it.

use super::super::super::flowtable::address;
use super::super::super::leave::{self, Left};
use super::super::super::since::Thing;
use super::super::super::{Assignment, situation};
use super::super::{Observer, oper_word, status};
use super::config;
use crate::engines::registry::EngineState;
use model::reason::Reason;
use model::view::{Ref, Vip, VirtualService, VsVip};
use proto::ANSWERING;
use proto::v1::{UdpStatus, VipStatus, VirtualServiceStatus};
use serde_json::{Value, json};
use std::net::IpAddr;

/// An engine that has a VIP, as it is known now.
pub(super) struct Seat {
    pub se: String,
    pub state: EngineState,
}

impl Observer<'_> {
    /// A virtual service on one of its engines.
    pub(in crate::plan) fn service_on(&self, vs: &VirtualService, se: &str) -> Value {
        self.service_in(vs, &self.registry.get(se))
    }

    /// The same, with the time since when it has been so.
    pub(in crate::plan) fn dated_on(&self, vs: &VirtualService, se: &str) -> Value {
        let thing = Thing::ServiceAt(vs.uuid.clone(), se.to_owned());
        self.dated(&thing, self.service_on(vs, se))
    }

    /// The same, of an engine in this state.
    pub(in crate::plan) fn service_in(&self, vs: &VirtualService, state: &EngineState) -> Value {
        let report = reported(state, vs);
        let word = word_at(state, report.map(|r| r.state));
        if state.connected_since.is_none() || state.nack.is_some() {
            let tells = self.told_beside("virtualservice", &vs.uuid);
            let mut engine = self.engine_status_for(state, &tells);
            engine["state"] = word.into();
            return engine;
        }
        match report {
            None => status(
                word,
                "awaiting_se_programming",
                "the engine has not reported it yet",
            ),
            Some(report) => status(word, &report.reason_code, &report.reason),
        }
    }

    /// As they are now, the primary first.
    pub(super) fn seats(&self, assignment: &Assignment) -> Vec<Seat> {
        let each = assignment.engines.iter().map(|se| Seat {
            se: se.clone(),
            state: self.registry.get(se),
        });
        each.collect()
    }

    /// The engines as they are for the virtual service, whichever of its VIPs is meant.
    pub(super) fn assigned(
        &self,
        vs: &VirtualService,
        vsvip: &str,
        assignment: &Assignment,
        seats: &[Seat],
    ) -> Vec<Value> {
        let Assignment { group, scaling, .. } = assignment;
        let holding = self.planner.holding(vsvip);
        let has_standby = self.has_standby(vs);
        let parts = seats.iter().map(|seat| native_part(&seat.state, vsvip));
        let parts: Vec<String> = parts.collect();
        let answers = parts.iter().position(|part| part == ANSWERING);
        let each = seats.iter().enumerate().map(|(i, Seat { se, state })| {
            let thing = Thing::ServiceAt(vs.uuid.clone(), se.clone());
            let oper = self.dated(&thing, self.service_in(vs, state));
            let connected = state.connected_since.is_some();
            let enabled = situation::enable_state(self.snapshot, se);
            json!({
                "ref": Ref::to("serviceengine", se).0,
                "name": self.name(se),
                "primary": i == answers.unwrap_or(0),
                "native_part": Some(&parts[i]).filter(|part| !part.is_empty()),
                "standby": has_standby && !assignment.is_active(se),
                "connected": connected,
                "active_on_se": oper["state"] == "OPER_UP",
                "oper_status": oper,
                "scalein_in_progress": false,
                "scaleout_in_progress": holding.contains(se) || scaling.iter().any(|s| s.to == *se),
                "migrate_in_progress": scaling.iter().any(|s| s.from.as_ref() == Some(se)),
                "se_ready_in_progress": connected.then(|| config::is_awaited(state)),
                "admin_down_requested": enabled.is_some_and(situation::drains),
                "snat_ip": snat_ip(state, &vs.uuid, IpAddr::is_ipv4),
                "snat_ip6_address": snat_ip(state, &vs.uuid, IpAddr::is_ipv6),
                "member_id": group.member(se).map(|m| m.id),
                "member_problems": self.member_problems(vsvip, state),
                "udp": reported(state, vs).and_then(|report| report.udp).map(udp_status),
            })
        });
        each.collect()
    }

    /// What the engine is for a VIP that is scaled natively, as it says; empty where it is not, or cannot say so.
    pub(in crate::plan) fn native_part(&self, vsvip: &str, se: &str) -> String {
        native_part(&self.registry.get(se), vsvip)
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
    pub(super) fn lingering(
        &self,
        vs: &VirtualService,
        vsvip: &str,
        assignment: &Assignment,
    ) -> Vec<Value> {
        let of_vs = self.se_group_of(vs);
        let each = assignment.group.lingering().map(|(member, since_s)| {
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
}

/// The engines as they are for one of the VIPs, from what they are for the virtual service.
pub(super) fn of_vip(vip: &Vip, vsvip: &str, seats: &[Seat], engines: &[Value]) -> Vec<Value> {
    let each = seats.iter().zip(engines).map(|(seat, engine)| {
        let mut engine = engine.clone();
        let all = statuses(&seat.state, vsvip);
        let ids: Vec<&str> = all.iter().map(|v| v.vip_id.as_str()).collect();
        if let Some(own) = own_status(vip, &word(&engine["oper_status"]), &ids) {
            engine["active_on_se"] = false.into();
            engine["oper_status"] = own;
        }
        let mut own = all.iter().filter(|v| v.vip_id == vip.vip_id).peekable();
        let is_known = seat.state.connected_since.is_some() && own.peek().is_some();
        let is_revoked = own.any(|v| is_revoked(v));
        engine["route_revoked_pool_down"] = json!(is_known.then_some(is_revoked));
        engine
    });
    each.collect()
}

/// What is to be said of the VIP itself, where that is something else than of the virtual service on the engine, which has
/// this word; `ids` are those of the VsVip's VIPs that the engine reports.
pub(in crate::plan::runtime) fn own_status(vip: &Vip, word: &str, ids: &[&str]) -> Option<Value> {
    let because = |state: &str, reason: Reason| status(state, reason.code(), reason.sentence());
    if !vip.enabled {
        return Some(because("OPER_DISABLED", Reason::VipDisabled));
    }
    if vip.addresses().next().is_none() {
        return Some(because("OPER_DOWN", Reason::NoAddress));
    }
    // One that reports none is not asked: its virtual service says why.
    let is_missing = word == "OPER_UP" && !ids.is_empty() && !ids.contains(&vip.vip_id.as_str());
    is_missing.then(|| {
        let why = "the engine has not reported the VIP yet";
        status("OPER_INITIALIZING", "awaiting_se_programming", why)
    })
}

/// The word for a virtual service on an engine in this state, which reports that one of it.
pub(in crate::plan::runtime) fn word_at(
    state: &EngineState,
    reported: Option<i32>,
) -> &'static str {
    match (state.connected_since, &state.nack) {
        (None, _) => "OPER_UNAVAIL",
        (Some(_), Some(_)) => "OPER_DOWN",
        (Some(_), None) => reported.map_or("OPER_INITIALIZING", oper_word),
    }
}

/// The word of a status.
pub(in crate::plan::runtime) fn word(status: &Value) -> String {
    status["state"].as_str().unwrap_or_default().to_owned()
}

/// Not announced, because its pool is not up.
fn is_revoked(vip: &VipStatus) -> bool {
    let down = [
        Reason::PoolDown,
        Reason::PoolDisabled,
        Reason::TooFewServersUp,
    ];
    !vip.announced && down.map(Reason::code).contains(&vip.reason_code.as_str())
}

/// What the engine reports of the VIPs of a VsVip.
fn statuses<'a>(state: &'a EngineState, vsvip: &str) -> Vec<&'a VipStatus> {
    let vips = state.report.iter().flat_map(|r| &r.vips);
    vips.filter(|v| v.vsvip_uuid == vsvip).collect()
}

fn native_part(state: &EngineState, vsvip: &str) -> String {
    let report = state.report.iter();
    let report = report.filter(|_| state.connected_since.is_some());
    let vips = report.flat_map(|r| &r.vips);
    let mut own = vips.filter(|v| v.vsvip_uuid == vsvip);
    own.next()
        .map(|v| v.native_part.clone())
        .unwrap_or_default()
}

/// Where the engine's connections to servers of this family come from, once it has in force that it is so.
fn snat_ip(state: &EngineState, vs: &str, family: fn(&IpAddr) -> bool) -> Option<Value> {
    let desired = state.desired.as_ref();
    let desired = desired.filter(|d| state.confirmed >= d.generation)?;
    let own = desired.snat_ips.iter().filter(|s| s.vs_uuid == vs);
    let mut own = own.filter_map(|s| s.address.parse::<IpAddr>().ok());
    own.find(family).map(address)
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

pub(in crate::plan::runtime) fn reported<'a>(
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

/// UDP flows of a virtual service on an engine, since it is there.
pub(in crate::plan::runtime) fn udp_status(status: UdpStatus) -> Value {
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
