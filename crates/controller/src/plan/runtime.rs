//! What is observed, in the shapes of the contract (avi-api section 10). Intent is not shown as fact: what is up is
//! what an engine with a session reports as up.

use super::leave::Left;
use super::refusal::Refusal;
use super::{Assignment, LastScale, Planner, leave, situation};
use crate::api::Context;
use crate::engines::Registry;
use crate::engines::registry::{EngineState, Seen};
use crate::objects::{Snapshot, Stored, pools, transport};
use model::object;
use model::reason::Reason;
use model::schema::ObjectType;
use model::view::{Pool, PoolGroup, Ref, ServiceEngineGroup, Vip, VirtualService, VsVip};
use proto::ANSWERING;
use proto::v1::{
    BgpSession, BgpState, EngineLoad, OperState, PoolStatus, ServerStatus, UdpStatus,
    VirtualServiceStatus,
};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Looks at everything at one moment.
pub(super) struct Observer<'a> {
    pub snapshot: &'a Snapshot,
    pub registry: &'a Registry,
    pub planner: &'a Planner,
}

/// `OperationalStatus` (avi-api 10.1).
fn status(state: &str, code: &str, reason: impl Into<String>) -> Value {
    let reason = reason.into();
    let reasons = if reason.is_empty() {
        vec![]
    } else {
        vec![reason]
    };
    json!({"state": state, "reason": reasons, "reason_code_string": code})
}

/// Of an engine with a session: whether what it was told is in force.
fn connected_status(state: &EngineState) -> Value {
    if let Some(why) = &state.stuck {
        let text = format!("what is in force stays, no newer state can be made: {why}");
        return status("OPER_UP", "desired_state_not_made", text);
    }
    match Refusal::of(state) {
        Some(refusal) => status("OPER_UP", "desired_state_refused", refusal.sentence()),
        None => status("OPER_UP", "se_connected", ""),
    }
}

/// Reason code for an engine without a session, and what to add to the reason.
fn seen_by_others(seen: Option<Seen>) -> (&'static str, &'static str) {
    match seen {
        None => ("se_disconnected", ""),
        Some(Seen::Silent) => ("se_disconnected", "; it answers no other engine"),
        Some(Seen::Answers) => (
            "se_disconnected",
            "; it answers other engines: it is cut off from the controller and serves",
        ),
        Some(Seen::Lost) => (
            "se_lost",
            "; it answers no other engine: others take its places where they can",
        ),
    }
}

pub(super) fn oper_word(state: i32) -> &'static str {
    match OperState::try_from(state).unwrap_or_default() {
        OperState::Up => "OPER_UP",
        OperState::Down => "OPER_DOWN",
        OperState::Disabled => "OPER_DISABLED",
        OperState::Initializing => "OPER_INITIALIZING",
        OperState::Unspecified => "OPER_UNKNOWN",
    }
}

impl Observer<'_> {
    pub(super) fn name(&self, se: &str) -> String {
        self.snapshot
            .name_of("serviceengine", se)
            .unwrap_or(se)
            .to_owned()
    }

    pub(super) fn engine_status(&self, state: &EngineState) -> Value {
        if state.connected_since.is_some() {
            return connected_status(state);
        }
        match &state.lost {
            None => status(
                "OPER_DOWN",
                "se_never_connected",
                "it has had no session with the controller since the controller started",
            ),
            Some((at, why)) => {
                let (code, seen) = seen_by_others(state.others_see);
                let text = format!(
                    "no session with the controller for {} s: {why}",
                    at.elapsed().as_secs()
                );
                status("OPER_DOWN", code, text + seen)
            }
        }
    }

    /// A virtual service on one of its engines.
    pub(super) fn service_on(&self, vs: &VirtualService, se: &str) -> Value {
        self.service_in(vs, &self.registry.get(se))
    }

    /// The same, of an engine in this state.
    pub(super) fn service_in(&self, vs: &VirtualService, state: &EngineState) -> Value {
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
    pub(super) fn native_part(&self, vsvip: &str, se: &str) -> String {
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
    fn has_standby(&self, vs: &VirtualService) -> bool {
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

    fn summary(&self, vs: &VirtualService, vsvip: &VsVip) -> Value {
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
    pub(super) fn virtual_service(&self, uuid: &str) -> Option<Value> {
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

    /// `serviceengine/UUID/runtime`.
    pub(super) fn service_engine(&self, uuid: &str) -> Value {
        let state = self.registry.get(uuid);
        let sessions = state
            .report
            .as_ref()
            .map(|r| r.bgp_sessions.as_slice())
            .unwrap_or_default();
        let established = |s: &&BgpSession| s.state == i32::from(BgpState::Established);
        let stats = state.report.as_ref().and_then(|r| r.stats.as_ref());
        json!({
            "oper_status": self.engine_status(&state),
            "power_state": "SE_POWER_ON",
            "se_connected": state.connected_since.is_some(),
            "online_since": state.connected_since.map(|at| unix_ms(at.of_day)),
            "last_seen_unix_ms": state.last_seen.map(unix_ms),
            "version": state.version,
            "bgp_peers_up": !sessions.is_empty() && sessions.iter().filter(established).count() == sessions.len(),
            "generation_desired": state.desired.as_ref().map(|d| d.generation),
            "generation_in_force": state.acked,
            "rss_bytes": stats.map(|s| s.rss_bytes),
            "uptime_s": stats.map(|s| s.uptime_s),
            "open_connections": stats.map(|s| s.open_connections),
            "load": stats.and_then(|s| s.load).map(engine_load),
        })
    }

    /// What each connected engine reports of a pool; of those that were told to check nothing only where no other one has it.
    fn pool_reports(&self, uuid: &str) -> Vec<(String, PoolStatus)> {
        let engines = self
            .snapshot
            .all("serviceengine")
            .map(|(se, _)| (se.to_owned(), self.registry.get(se)));
        let connected = engines.filter(|(_, state)| state.connected_since.is_some());
        let found = connected.filter_map(|(se, state)| {
            let report = state.report?;
            let pool = report.pools.iter().find(|p| p.uuid == uuid)?;
            let told = state.desired.iter().flat_map(|d| &d.pools);
            let mut told = told.filter(|p| p.uuid == uuid);
            let checks = told.any(|p| !p.health_monitor_uuids.is_empty());
            Some((checks, (se, pool.clone())))
        });
        let (checked, not): (Vec<_>, Vec<_>) = found.partition(|(checks, _)| *checks);
        let judges = if checked.is_empty() { not } else { checked };
        judges.into_iter().map(|(_, report)| report).collect()
    }

    /// `pool/UUID/runtime`: a server counts as up when one engine at least reaches it.
    pub(super) fn pool(&self, uuid: &str) -> Option<Value> {
        let pool: Arc<Pool> = self.snapshot.view("pool", uuid)?;
        let reports = self.pool_reports(uuid);
        let up = |(address, port): &(String, u32)| {
            let mut servers = reports.iter().flat_map(|(_, p)| &p.servers);
            servers.any(|s| {
                s.address == *address && s.port == *port && s.state == i32::from(OperState::Up)
            })
        };
        let enabled = pool.servers.iter().filter(|s| s.enabled).count();
        let endpoints = pool.servers.iter().filter_map(|s| pool.endpoint(s));
        let num_up = endpoints.filter(up).count();
        let percent = |of: usize| (num_up * 100).checked_div(of).unwrap_or(0);
        Some(json!({
            "oper_status": pool_status(&pool, &reports, num_up),
            "num_servers": pool.servers.len(),
            "num_servers_enabled": enabled,
            "num_servers_up": num_up,
            "percent_servers_up_total": percent(pool.servers.len()),
            "percent_servers_up_enabled": percent(enabled),
        }))
    }

    /// Its pools together: up when one of them is.
    pub(super) fn pool_group(&self, uuid: &str) -> Option<Value> {
        let group: Arc<PoolGroup> = self.snapshot.view("poolgroup", uuid)?;
        let pools = pools::of_group(&group).filter_map(|pool| self.pool(pool));
        let pools: Vec<Value> = pools.collect();
        let sum = |field: &str| {
            let numbers = pools.iter().filter_map(|p| p[field].as_u64());
            numbers.sum::<u64>()
        };
        let first = |state: &str| pools.iter().find(|p| p["oper_status"]["state"] == state);
        let states = ["OPER_UP", "OPER_INITIALIZING", "OPER_DOWN"];
        let best = states.into_iter().find_map(first).or(pools.first());
        let empty = || status("OPER_UNUSED", "unused", "the group has no pools");
        Some(json!({
            "oper_status": best.map_or_else(empty, |p| p["oper_status"].clone()),
            "num_servers": sum("num_servers"),
            "num_servers_enabled": sum("num_servers_enabled"),
            "num_servers_up": sum("num_servers_up"),
        }))
    }

    /// `pool/UUID/runtime/server`: each server as each engine sees it.
    pub(super) fn pool_servers(&self, uuid: &str) -> Value {
        let reports = self.pool_reports(uuid);
        let each = reports
            .iter()
            .flat_map(|(se, pool)| pool.servers.iter().map(move |s| server(se, s)));
        Value::Array(each.collect())
    }

    /// An item of an inventory (avi-api 10.5).
    pub(super) fn inventory(
        &self,
        ty: &ObjectType,
        uuid: &str,
        stored: &Stored,
        context: &Context,
    ) -> Value {
        let kind = ty.path.as_str();
        let runtime = match kind {
            "virtualservice" => self.virtual_service(uuid),
            "serviceengine" => Some(self.service_engine(uuid)),
            "pool" => self.pool(uuid),
            "poolgroup" => self.pool_group(uuid),
            "vsvip" => Some(self.vsvip(uuid)),
            "serviceenginegroup" => self.se_group(uuid),
            _ => Some(json!({})),
        };
        let mut config = object::with_defaults(ty, &stored.object);
        object::map_refs(ty, &mut config, &mut |r| {
            self.named(&r.value, r.target, context)
        });
        object::hide_secrets(ty, &mut config);
        config.insert(
            "url".into(),
            format!("{}/api/{kind}/{uuid}", context.origin).into(),
        );
        self.extend_config(kind, uuid, context, &mut config);
        let mut item = json!({"uuid": uuid, "config": config, "runtime": runtime, "_last_modified": stored.object.get("_last_modified")});
        if kind == "virtualservice" {
            item["pools"] = self.pools_of(uuid, context);
        }
        item
    }

    /// How many engines of an SE group may be lost, and the VIPs have room on the others.
    pub(super) fn se_group(&self, uuid: &str) -> Option<Value> {
        let group = self
            .snapshot
            .view::<ServiceEngineGroup>("serviceenginegroup", uuid)?;
        let mut engines = self.planner.ground(self.snapshot).engines;
        engines.retain(|e| e.se_group == uuid);
        let here = engines.iter().filter(|e| e.is_here()).count();
        let spare = placement::spare(&engines, group.max_vs_per_se, group.buffer_se);
        Some(json!({
            "num_se": engines.len(), "num_se_connected": here,
            "buffer_se": {"wanted": spare.wanted, "survives": spare.survives, "short": spare.is_short()},
        }))
    }

    /// All pools of a virtual service, also those of its group.
    fn pools_of(&self, vs: &str, context: &Context) -> Value {
        let view = self.snapshot.view::<VirtualService>("virtualservice", vs);
        let used = view.iter().flat_map(|vs| pools::of(self.snapshot, vs));
        let named = used.map(|uuid| self.named(&Ref::to("pool", &uuid).0, "pool", context));
        named.collect::<Vec<_>>().into()
    }

    fn named(&self, canonical: &str, target: &str, context: &Context) -> String {
        let uuid = canonical.rsplit('/').next().unwrap_or("");
        let name = self.snapshot.name_of(target, uuid).unwrap_or("");
        format!("{}{canonical}#{name}", context.origin)
    }

    fn extend_config(
        &self,
        kind: &str,
        uuid: &str,
        context: &Context,
        config: &mut object::Object,
    ) {
        let refs = |services: Vec<Arc<VirtualService>>| {
            let each = services.into_iter().map(|v| {
                self.named(
                    &Ref::to("virtualservice", &v.uuid).0,
                    "virtualservice",
                    context,
                )
            });
            Value::from(each.collect::<Vec<_>>())
        };
        match kind {
            "virtualservice" => {
                let vsvip = config
                    .get("vsvip_ref")
                    .and_then(Value::as_str)
                    .map(|r| Ref(r.to_owned()));
                let vip = vsvip.and_then(|r| {
                    self.snapshot
                        .get("vsvip", r.uuid())?
                        .object
                        .get("vip")
                        .cloned()
                });
                config.extend(vip.map(|v| ("vip".to_owned(), v)));
            }
            "serviceengine" => {
                let vips = self.planner.served(uuid).into_iter();
                let services = vips.flat_map(|vsvip| situation::services_of(self.snapshot, &vsvip));
                config.insert("virtualservice_refs".into(), refs(services.collect()));
            }
            "pool" => {
                let users = pools::users(self.snapshot, uuid);
                config.insert("virtualservice_refs".into(), refs(users));
            }
            "poolgroup" => {
                let users = pools::users_of_group(self.snapshot, uuid);
                config.insert("virtualservice_refs".into(), refs(users));
            }
            _ => {}
        }
    }

    fn vsvip(&self, uuid: &str) -> Value {
        let services = situation::services_of(self.snapshot, uuid);
        let view = self.snapshot.view::<VsVip>("vsvip", uuid);
        match (services.first(), view) {
            (Some(vs), Some(vsvip)) => self.summary(vs, &vsvip),
            _ => {
                json!({"num_se_assigned": 0, "oper_status": status("OPER_UNUSED", "unused", "no virtual service uses it")})
            }
        }
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

fn reported<'a>(state: &'a EngineState, vs: &VirtualService) -> Option<&'a VirtualServiceStatus> {
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

/// From what these engines report; `up` is how many servers are up.
pub(super) fn pool_status(pool: &Pool, reports: &[(String, PoolStatus)], up: usize) -> Value {
    let reported = |s: OperState| reports.iter().any(|(_, p)| p.state == i32::from(s));
    if !pool.enabled {
        status("OPER_DISABLED", "pool_disabled", "the pool is disabled")
    } else if reports.is_empty() {
        status("OPER_UNUSED", "unused", "no engine uses the pool")
    } else if reported(OperState::Up) {
        status("OPER_UP", "up", "")
    } else if reported(OperState::Initializing) {
        status(
            "OPER_INITIALIZING",
            "health_checks_pending",
            "the first health checks have not finished",
        )
    } else {
        let reason = match up {
            0 => Reason::PoolDown,
            _ => Reason::TooFewServersUp,
        };
        status("OPER_DOWN", reason.code(), reason.sentence())
    }
}

/// UDP flows of a virtual service on an engine, since it is there.
fn udp_status(status: UdpStatus) -> Value {
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

/// Counters of what an engine and its host carry, since they were started.
fn engine_load(load: EngineLoad) -> Value {
    let EngineLoad {
        at_ms,
        processors,
        process_cpu_ms,
        host_busy_ms,
        host_softirq_ms,
        host_cpu_ms,
        rx_packets,
        rx_bytes,
        tx_packets,
        tx_bytes,
    } = load;
    json!({
        "at_ms": at_ms,
        "processors": processors,
        "process_cpu_ms": process_cpu_ms,
        "host_busy_ms": host_busy_ms,
        "host_softirq_ms": host_softirq_ms,
        "host_cpu_ms": host_cpu_ms,
        "rx_packets": rx_packets,
        "rx_bytes": rx_bytes,
        "tx_packets": tx_packets,
        "tx_bytes": tx_bytes,
    })
}

fn server(se: &str, server: &ServerStatus) -> Value {
    let oper = status(oper_word(server.state), "", &server.reason);
    json!({
        "ip_addr": {"addr": server.address, "type": if server.address.contains(':') { "V6" } else { "V4" }},
        "port": server.port,
        "hostname": server.address,
        "oper_status": oper,
        "failure_code": server.failure_code,
        "se_uuid": se,
        "open_connections": server.open_connections,
        "total_connections": server.total_connections,
        "response_time_ms": server.response_time_ms,
        "inline_health_share": server.inline_health_share,
    })
}

fn unix_ms(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
