//! `virtualservice/UUID/runtime` (avi-api 10.2): the virtual service, and a summary of each of its VIPs. The VIPs of a VsVip are
//! placed together, so that what is said of engines and scalings is the same in all of them; addresses and states are each
//! one's own.

mod config;
mod scale;
mod seats;

pub(super) use seats::{own_status, reported, udp_status, word, word_at};

use super::super::last::LastScale;
use super::super::since::Thing;
use super::super::{Action, Assignment, situation};
use super::{Observer, status, timestamp, undated};
use crate::objects::transport;
use model::view::{Address, Ref, ServiceEngineGroup, Vip, VirtualService, VsVip};
use scale::Scale;
use seats::{Seat, of_vip};
use serde_json::{Value, json};
use std::sync::Arc;

/// Why a VIP is on no engine before anything was tried.
const NOT_DECIDED: &str = "placement has not been decided yet";

/// What the summaries of a VsVip's VIPs are made from.
struct Basis<'a> {
    vs: &'a VirtualService,
    vsvip: &'a VsVip,
    seats: Vec<Seat>,
    /// As they are for the virtual service.
    engines: Vec<Value>,
    last: Option<LastScale>,
    /// What is the same in all.
    shared: Value,
}

impl Observer<'_> {
    fn se_group_of(&self, vs: &VirtualService) -> Option<Arc<ServiceEngineGroup>> {
        let uuid = vs.se_group_ref.as_ref().map_or("", Ref::uuid);
        self.snapshot.view("serviceenginegroup", uuid)
    }

    /// Only the first engine is active.
    pub(super) fn has_standby(&self, vs: &VirtualService) -> bool {
        let group = self.se_group_of(vs);
        group.is_some_and(|g| situation::ha(&g) == placement::Ha::ActiveStandby)
    }

    /// Those whose word counts: a standby that does not check servers takes them all for up.
    pub(super) fn judges(&self, vs: &VirtualService, engines: &[Value]) -> Vec<Value> {
        let all_check = self.se_group_of(vs).is_none_or(|g| g.hm_on_standby);
        let judges = engines.iter().filter(|e| all_check || e["standby"] != true);
        judges.cloned().collect()
    }

    fn basis<'a>(&self, vs: &'a VirtualService, vsvip: &'a VsVip) -> Basis<'a> {
        let assignment = self.planner.assignment(&vsvip.uuid);
        let seats = self.seats(&assignment);
        let engines = self.assigned(vs, &vsvip.uuid, &assignment, &seats);
        let lingering = self.lingering(vs, &vsvip.uuid, &assignment);
        let leaving = lingering.iter().any(|l| l["scalein_in_progress"] == true);
        let scale = self.scale(&vsvip.uuid, &assignment, leaving);
        let mut shared = self.scaling(vsvip, &assignment, &engines, leaving, &scale);
        shared["config_status"] = self.config_status(vs, &seats, scale.last.as_ref());
        shared["warnings"] = self.width_warnings(vs, vsvip).into();
        shared["lingering_service_engine"] = lingering.into();
        Basis {
            vs,
            vsvip,
            seats,
            engines,
            last: scale.last,
            shared,
        }
    }

    /// How the VIPs are placed, and what becomes of it.
    fn scaling(
        &self,
        vsvip: &VsVip,
        assignment: &Assignment,
        engines: &[Value],
        leaving: bool,
        Scale { last, shown, over }: &Scale,
    ) -> Value {
        let uuid = vsvip.uuid.as_str();
        let scaling = &assignment.scaling;
        let is_migration = |last: &LastScale| last.action == Action::MigrateScalein;
        let info = last.as_ref().map_or("", |l| l.reason.as_str());
        let first_s = assignment.first_assigned_s;
        json!({
            "num_se_requested": self.planner.requested(self.snapshot, uuid).num_se,
            "num_se_assigned": engines.len(),
            "scaleout_in_progress": engines.iter().any(is_joining),
            "scalein_in_progress": leaving,
            "migrate_in_progress": engines.iter().any(|e| e["migrate_in_progress"] == true),
            "user_scaleout_pending": scaling.iter().any(|s| s.from.is_none()),
            "migrate_scaleout_pending": scaling.iter().any(|s| s.from.is_some()),
            "migrate_scalein_pending": leaving && last.as_ref().is_some_and(is_migration),
            // No engine is made or upgraded from here.
            "se_create_in_progress": false,
            "upgrade_in_progress": false,
            "progress_percent": self.progress_percent(uuid, assignment, engines, last.as_ref(), leaving),
            "scale_status": shown,
            "last_scale_status": over,
            "first_se_assigned_time": first_s.map(|s| timestamp(s * 1_000_000)),
            "vip_placement_resolution_info": info,
            "autoscale": self.planner.outlook(uuid).map(|o| o.show()),
        })
    }

    /// What is observed of the virtual service as a whole, in the fields of a VIP.
    fn whole(&self, basis: &Basis<'_>) -> Value {
        let Basis { vs, engines, .. } = basis;
        let oper = service_status(vs, &self.judges(vs, engines), basis.last.as_ref());
        let oper = self.dated(&Thing::Service(vs.uuid.clone()), oper);
        summary(&vips(basis.vsvip)[0], oper, engines, &basis.shared)
    }

    fn vip_summary(&self, basis: &Basis<'_>, vip: &Vip) -> Value {
        let Basis { vs, vsvip, .. } = basis;
        let engines = of_vip(vip, &vsvip.uuid, &basis.seats, &basis.engines);
        let oper = service_status(vs, &self.judges(vs, &engines), basis.last.as_ref());
        let thing = Thing::Vip(vs.uuid.clone(), vip.vip_id.clone());
        let oper = self.dated(&thing, oper);
        summary(vip, oper, &engines, &basis.shared)
    }

    /// Of a VsVip: of the virtual service that has it, in the fields of its first VIP.
    pub(super) fn summary(&self, vs: &VirtualService, vsvip: &VsVip) -> Value {
        self.whole(&self.basis(vs, vsvip))
    }

    /// `VirtualServiceRuntimeSummary`, with the 16.3 fields on the top level: the first VIP's address, and what holds of the
    /// virtual service as a whole.
    pub(in crate::plan) fn virtual_service(&self, uuid: &str) -> Option<Value> {
        let vs: Arc<VirtualService> = self.snapshot.view("virtualservice", uuid)?;
        let vsvip = vs
            .vsvip_ref
            .as_ref()
            .and_then(|r| self.snapshot.view::<VsVip>("vsvip", r.uuid()));
        let Some(vsvip) = vsvip else {
            return Some(self.without_vip(&vs));
        };
        let basis = self.basis(&vs, &vsvip);
        let mut runtime = self.whole(&basis);
        let vips = vips(&vsvip);
        let vips = vips.iter().map(|vip| self.vip_summary(&basis, vip));
        runtime["vip_summary"] = vips.collect();
        self.add_kind(&vs, &mut runtime);
        Some(runtime)
    }

    /// What can be said of one that has no VIP.
    fn without_vip(&self, vs: &VirtualService) -> Value {
        let why = "the virtual service has no VIP (vsvip_ref)";
        let config = match is_switched_on(vs) {
            true => status("CONFIG_RESOURCES", "no_vip", why),
            false => self.config_status(vs, &[], None),
        };
        let mut runtime = json!({
            "oper_status": status("OPER_DOWN", "no_vip", why), "config_status": config,
            "percent_ses_up": 0, "vip_summary": [],
        });
        self.add_kind(vs, &mut runtime);
        runtime
    }

    /// What kind of virtual service it is.
    fn add_kind(&self, vs: &VirtualService, runtime: &mut Value) {
        runtime["service_protocols"] = json!(transport::words(self.snapshot, vs));
        runtime["type"] = json!("VS_TYPE_NORMAL");
        runtime["one_plus_one_ha"] = self.has_standby(vs).into();
        // Nothing is placed for traffic within a cluster, and no virtual service is another one's child.
        runtime["east_west"] = false.into();
        runtime["vh_child_vs_ref"] = json!([]);
    }
}

/// One without VIPs is shown as if it had one without an address.
fn vips(vsvip: &VsVip) -> Vec<Vip> {
    let mut vips = vsvip.vip.clone();
    if vips.is_empty() {
        vips.push(Vip {
            vip_id: "0".into(),
            ip_address: None,
            ip6_address: None,
            enabled: true,
            placement_networks: Vec::new(),
        });
    }
    vips
}

/// `VipRuntimeSummary`.
fn summary(vip: &Vip, oper: Value, engines: &[Value], shared: &Value) -> Value {
    let is_up = |e: &&Value| e["oper_status"]["state"] == "OPER_UP";
    let up = engines.iter().filter(is_up).count();
    let mut summary = shared.clone();
    summary["vip_id"] = vip.vip_id.as_str().into();
    summary["ip_address"] = address(vip.ip_address.as_ref());
    summary["ip6_address"] = address(vip.ip6_address.as_ref());
    summary["oper_status"] = oper;
    summary["percent_ses_up"] = (up * 100).checked_div(engines.len()).unwrap_or(0).into();
    summary["service_engine"] = engines.into();
    summary
}

fn address(address: Option<&Address>) -> Value {
    json!(address.map(|a| json!({"addr": a.addr, "type": a.kind})))
}

fn is_joining(engine: &Value) -> bool {
    engine["scaleout_in_progress"] == true || engine["oper_status"]["state"] == "OPER_INITIALIZING"
}

fn is_switched_on(vs: &VirtualService) -> bool {
    vs.enabled && vs.traffic_enabled
}

/// Of a virtual service, or a VIP of it, that is so on the engines that count.
pub(super) fn service_status(
    vs: &VirtualService,
    engines: &[Value],
    last: Option<&LastScale>,
) -> Value {
    if !is_switched_on(vs) {
        return status(
            "OPER_DISABLED",
            "vs_disabled",
            "enabled or traffic_enabled is false",
        );
    }
    if engines.is_empty() {
        let why = last.map_or(NOT_DECIDED, |l| l.reason.as_str());
        return status("OPER_RESOURCES", "not_placed", why);
    }
    let find = |word: &str| engines.iter().find(|e| e["oper_status"]["state"] == word);
    if find("OPER_UP").is_some() {
        return status("OPER_UP", "up", "");
    }
    let first = find("OPER_INITIALIZING")
        .or_else(|| find("OPER_DOWN"))
        .or_else(|| engines.first());
    let oper = first.map(|e| e["oper_status"].clone());
    let mut oper = undated(oper.unwrap_or_default());
    if oper["state"] == "OPER_UNAVAIL" {
        oper["state"] = json!("OPER_DOWN");
    }
    oper
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::{Fixture, v4};
    use super::*;

    fn runtime(fixture: &Fixture, name: &str) -> Value {
        let vs = fixture.uuid("virtualservice", name);
        fixture.observe(|o| o.virtual_service(&vs)).expect("there")
    }

    #[tokio::test]
    async fn one_without_a_vip_says_what_it_is_and_why_it_is_nowhere() {
        let fixture = Fixture::new().await;
        let vs = fixture.uuid("virtualservice", "vs-1");
        let with = runtime(&fixture, "vs-1");
        let take = |object: &mut model::object::Object| drop(object.shift_remove("vsvip_ref"));
        fixture.change("virtualservice", &vs, take).await;
        let without = runtime(&fixture, "vs-1");
        for field in [
            "type",
            "east_west",
            "one_plus_one_ha",
            "vh_child_vs_ref",
            "service_protocols",
        ] {
            assert_eq!(without[field], with[field], "{field}");
            assert_ne!(without[field], Value::Null, "{field}");
        }
        let config = |runtime: &Value| {
            let status = &runtime["config_status"];
            [
                status["state"].clone(),
                status["reason_code_string"].clone(),
            ]
        };
        assert_eq!(config(&without), ["CONFIG_RESOURCES", "no_vip"]);
        let disable = |object: &mut model::object::Object| {
            drop(object.insert("enabled".into(), false.into()));
        };
        fixture.change("virtualservice", &vs, disable).await;
        let disabled = runtime(&fixture, "vs-1");
        assert_eq!(config(&disabled), ["CONFIG_DISABLED", "vs_disabled"]);
    }

    #[tokio::test]
    async fn why_an_engine_refuses_its_state_names_nothing_of_another_tenant() {
        let fixture = Fixture::new().await;
        let vip = json!([{"vip_id": "1", "ip_address": v4("10.100.0.2")}]);
        let body = json!({"name": "vip-2", "vip": vip});
        let vsvip = fixture.create("vsvip", body).await;
        let service = json!({"name": "vs-2", "services": [{"port": 80}], "vsvip_ref": vsvip});
        let other = fixture.create("virtualservice", service).await;
        let moved = |object: &mut model::object::Object| {
            drop(object.insert("tenant_ref".into(), "/api/tenant/t2".into()));
        };
        fixture.change("virtualservice", &other, moved).await;
        fixture.place(&vsvip, &[&fixture.engine]).await;
        let told = fixture.told();
        let place = told.virtual_services.iter().position(|v| v.name == "vs-1");
        let nack = proto::v1::Nack {
            generation: told.generation,
            field: format!("virtual_services[{}].pool_uuid", place.expect("told")),
            reason: "10.0.0.7 is no server".into(),
        };
        let (engine, session) = (&fixture.engine, fixture.session);
        fixture.registry.nacked(engine, session, nack);
        let said = |name: &str| {
            let runtime = runtime(&fixture, name);
            let (config, engine) = (&runtime["config_status"], &runtime["service_engine"][0]);
            format!("{} {}", config["reason"], engine["oper_status"]["reason"])
        };
        assert_eq!(said("vs-1").matches("virtualservice vs-1").count(), 2);
        let foreign = said("vs-2");
        assert_eq!(foreign.matches("of another tenant").count(), 2, "{foreign}");
        assert!(
            !foreign.contains("vs-1") && !foreign.contains("10.0.0.7"),
            "{foreign}"
        );
    }

    #[tokio::test]
    async fn a_step_that_was_not_done_has_a_reason_in_a_word_and_a_number() {
        let fixture = Fixture::new().await;
        let vip = json!([{"vip_id": "1", "ip_address": v4("10.100.0.2")}]);
        let body = json!({"name": "vip-2", "vip": vip});
        let vsvip = fixture.create("vsvip", body).await;
        let service = json!({"name": "vs-2", "services": [{"port": 80}], "vsvip_ref": vsvip});
        fixture.create("virtualservice", service).await;
        let (engine, session) = (&fixture.engine, fixture.session);
        fixture.registry.close(engine, session, "gone");
        fixture.planner.look_at(&vsvip).await.expect("looked at");
        let failed = runtime(&fixture, "vs-2")["scale_status"].clone();
        let code = "not_placed";
        assert_eq!(failed["reason_code_string"], code, "{failed}");
        assert_eq!(failed["reason_code"], model::reason::number(code));
        assert_eq!(failed["vip_placement_resolution_info"], failed["reason"][0]);
        fixture.open_session(engine, "10.10.10.11/24");
        fixture.planner.look_at(&vsvip).await.expect("looked at");
        let done = runtime(&fixture, "vs-2")["scale_status"].clone();
        assert_eq!(
            (&done["reason_code_string"], &done["reason_code"]),
            (&json!(""), &json!(0)),
            "{done}"
        );
    }
}
