//! `serviceengine/UUID/runtime/detail`, `placement`, `cpu` and `meminfo` (avi-api 10.4).

use super::super::again::NO_SESSION;
use super::super::flowtable::address;
use super::super::scope::Tells;
use super::super::{Assignment, engine_object, situation};
use super::Observer;
use super::internal::role_word;
use super::scaleout::announced;
use crate::engines::registry::{EngineState, SessionCounts};
use model::view::{Ref, Vip, VsVip};
use proto::v1::{EngineStats, Interface};
use serde_json::{Value, json};

/// Which sub-path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineView {
    /// `runtime/detail`.
    Detail,
    /// `placement`.
    Placement,
    /// `cpu`.
    Cpu,
    /// `meminfo`.
    Memory,
}

impl Observer<'_> {
    /// `serviceengine/UUID/…`.
    pub(in crate::plan) fn engine_view(
        &self,
        uuid: &str,
        view: EngineView,
        tells: &Tells<'_>,
    ) -> Value {
        match view {
            EngineView::Detail => self.engine_detail(uuid, tells),
            EngineView::Placement => self.engine_placement(uuid, tells),
            EngineView::Cpu => self.engine_stats(uuid, "cpu", |stats| {
                stats.load.map(|load| self.load(uuid, load))
            }),
            EngineView::Memory => self.engine_stats(uuid, "memory", |stats| Some(memory(stats))),
        }
    }

    /// The runtime, and what is known of the engine's host while it has a session.
    fn engine_detail(&self, uuid: &str, tells: &Tells<'_>) -> Value {
        let mut shown = self.service_engine(uuid, tells);
        let state = self.registry.get(uuid);
        shown["name"] = self.name(uuid).into();
        shown["counters"] = counters(state.counts);
        if state.connected_since.is_some() {
            shown["vnic"] = state.interfaces.iter().map(vnic).collect();
            shown["resources"] = resources(&state).into();
        }
        shown
    }

    /// The VIPs that are placed there, be it to serve or to linger, and of which the caller is told.
    fn engine_placement(&self, uuid: &str, tells: &Tells<'_>) -> Value {
        let state = self.registry.get(uuid);
        let held = self.held(uuid).into_iter();
        let held = held.filter(|(vsvip, _)| tells("vsvip", vsvip));
        let vips = held.map(|(vsvip, a)| self.placed_vip(uuid, &state, (&vsvip, &a), tells));
        json!([{
            "se_uuid": uuid, "proc_id": "C0", "name": self.name(uuid),
            "connected": state.connected_since.is_some(),
            "vips": vips.collect::<Vec<_>>(),
        }])
    }

    fn held(&self, se: &str) -> Vec<(String, Assignment)> {
        let tables = self.planner.read();
        let here = tables.assignments.at(se);
        here.map(|(vsvip, a)| (vsvip.to_owned(), a.clone()))
            .collect()
    }

    fn placed_vip(
        &self,
        se: &str,
        state: &EngineState,
        (vsvip, a): (&str, &Assignment),
        tells: &Tells<'_>,
    ) -> Value {
        let view = self.snapshot.view::<VsVip>("vsvip", vsvip);
        let addresses = view.iter().flat_map(|v| &v.vip).flat_map(Vip::addresses);
        let mut services = situation::services_of(self.snapshot, vsvip);
        services.retain(|vs| tells("virtualservice", &vs.uuid));
        let refs = services
            .iter()
            .map(|vs| Ref::to("virtualservice", &vs.uuid).0);
        let names = services.iter().map(|vs| vs.name.as_str());
        let member = a.group.member(se);
        json!({
            "vsvip_ref": Ref::to("vsvip", vsvip).0, "vsvip_name": self.snapshot.name_of("vsvip", vsvip),
            "addresses": addresses.map(address).collect::<Vec<_>>(),
            "virtualservice_refs": refs.collect::<Vec<_>>(), "virtualservices": names.collect::<Vec<_>>(),
            "member_id": member.map(|m| m.id), "role": member.map(|m| role_word(m.role)),
            "primary": a.engines.first().is_some_and(|first| first == se),
            "num_se_assigned": a.engines.len(),
            "vip": announced(vsvip, state),
        })
    }

    /// What the engine has reported last, while it has a session.
    fn engine_stats(
        &self,
        uuid: &str,
        field: &str,
        of: impl Fn(&EngineStats) -> Option<Value>,
    ) -> Value {
        let state = self.registry.get(uuid);
        let mut element = json!({"se_uuid": uuid, "proc_id": "C0"});
        let stats = state.report.as_ref().and_then(|r| r.stats.as_ref());
        match (state.connected_since, stats.and_then(of)) {
            (None, _) => element["not_answered"] = NO_SESSION.into(),
            (Some(_), None) => element["not_answered"] = "it has not said so yet".into(),
            (Some(_), Some(said)) => element[field] = said,
        }
        json!([element])
    }
}

/// Of the process; and of its host, where the engine says it.
fn memory(stats: &EngineStats) -> Value {
    let mut shown = json!({"rss_bytes": stats.rss_bytes});
    let host = stats.load.filter(|load| load.host_memory_bytes > 0);
    if let Some(load) = host {
        shown["host_memory_bytes"] = load.host_memory_bytes.into();
        shown["host_memory_available_bytes"] = load.host_memory_available_bytes.into();
    }
    shown
}

/// As of its object; of an older engine, what its reports say.
fn resources(state: &EngineState) -> Option<Value> {
    if let Some(host) = &state.resources {
        return Some(engine_object::resources(host));
    }
    let load = state.report.as_ref()?.stats.as_ref()?.load?;
    Some(json!({"num_vcpus": load.processors}))
}

fn counters(counts: SessionCounts) -> Value {
    let SessionCounts {
        begun,
        refused,
        came,
        went,
    } = counts;
    json!({"reg_cnt": begun, "reg_fail_cnt": refused, "se_up_cnt": came, "se_down_cnt": went})
}

/// As of its object, with its state in a word.
fn vnic(interface: &Interface) -> Value {
    let mut vnic = engine_object::reported(interface);
    let link = interface.link.as_ref().map(engine_object::link_fields);
    vnic.extend(link.unwrap_or_default());
    let state = match interface.up {
        true => "VNIC_STATE_UP",
        false => "VNIC_STATE_DOWN",
    };
    vnic.insert("state".into(), state.into());
    Value::Object(vnic)
}

#[cfg(test)]
mod tests;
