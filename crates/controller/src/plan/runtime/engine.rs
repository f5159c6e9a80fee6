//! `serviceengine/UUID/runtime` (avi-api 10.4), and what is observed of an engine's session. What an engine's host and routers
//! know and nobody tells is left out: `gateway_up`, `inband_mgmt`, `sufficient_memory`; so is what there is not here: licences, a virtual
//! infrastructure, engines that wait for a start.

use super::super::clear::Counted;
use super::super::refusal::Refusal;
use super::super::scope::Tells;
use super::super::since::Thing;
use super::super::situation;
use super::{Observer, status};
use crate::clock::rfc3339;
use crate::engines::registry::{EngineState, Seen};
use model::view::{ServiceEngine, ServiceEngineGroup};
use proto::v1::{BgpSession, BgpState, EngineLoad};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

impl Observer<'_> {
    pub(in crate::plan) fn engine_status(&self, state: &EngineState) -> Value {
        self.engine_status_for(state, &|_, _| true)
    }

    /// The same for somebody who is not told of every object.
    pub(in crate::plan) fn engine_status_for(
        &self,
        state: &EngineState,
        tells: &Tells<'_>,
    ) -> Value {
        if state.connected_since.is_some() {
            return connected_status(state, tells);
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

    /// `serviceengine/UUID/runtime`.
    pub(in crate::plan) fn service_engine(&self, uuid: &str, tells: &Tells<'_>) -> Value {
        let state = self.registry.get(uuid);
        let sessions = state
            .report
            .as_ref()
            .map(|r| r.bgp_sessions.as_slice())
            .unwrap_or_default();
        let established = |s: &&BgpSession| s.state == i32::from(BgpState::Established);
        let stats = state.report.as_ref().and_then(|r| r.stats.as_ref());
        json!({
            "oper_status": self.dated(&Thing::Engine(uuid.to_owned()), self.engine_status_for(&state, tells)),
            "power_state": state.connected_since.map(|_| "SE_POWER_ON"),
            "se_connected": state.connected_since.is_some(),
            "online_since": state.connected_since.map(|at| unix_ms(at.of_day)),
            "last_seen_unix_ms": state.last_seen.map(unix_ms),
            "hb_status": state.last_seen.map(|at| json!({"last_hb_resp_recv": rfc3339(unix_ms(at) * 1000)})),
            "version": state.version,
            "at_curr_ver": Some(&state.version).filter(|v| !v.is_empty()).map(|v| v == env!("CARGO_PKG_VERSION")),
            "active_tags": self.active_tags(uuid),
            "migrate_state": self.migrate_state(uuid),
            "bgp_peers_up": !sessions.is_empty() && sessions.iter().filter(established).count() == sessions.len(),
            "generation_desired": state.desired.as_ref().map(|d| d.generation),
            "generation_in_force": state.acked,
            "rss_bytes": stats.map(|s| s.rss_bytes),
            "uptime_s": stats.map(|s| s.uptime_s),
            "open_connections": stats.map(|s| s.open_connections),
            "load": stats.and_then(|s| s.load).map(|load| self.load(uuid, load)),
        })
    }

    /// Of the VIPs that it is the active engine of; none where the SE group does not go by tags.
    fn active_tags(&self, uuid: &str) -> Option<BTreeSet<&'static str>> {
        let engine = self.snapshot.view::<ServiceEngine>("serviceengine", uuid)?;
        let group = engine.se_group_ref.as_ref()?.uuid();
        let group = self
            .snapshot
            .view::<ServiceEngineGroup>("serviceenginegroup", group)?;
        let by_tags = group.distribute_load_active_standby
            && situation::ha(&group) == placement::Ha::ActiveStandby;
        let served = by_tags.then(|| self.planner.served(uuid))?;
        let is_active = |vsvip: &&String| self.planner.assignment(vsvip).is_active(uuid);
        let tags = served.iter().filter(is_active).filter_map(|vsvip| {
            let services = situation::services_of(self.snapshot, vsvip);
            services.first().map(|vs| situation::tag_word(vs))
        });
        Some(tags.collect())
    }

    /// How far it is that an engine is disabled: what has nowhere else to go is tried again for ever.
    fn migrate_state(&self, uuid: &str) -> &'static str {
        let enable_state = situation::enable_state(self.snapshot, uuid);
        match enable_state.is_some_and(situation::drains) {
            false => "SE_MIGRATE_STATE_IDLE",
            true if self.planner.served(uuid).is_empty() => "SE_MIGRATE_STATE_FINISHED",
            true => "SE_MIGRATE_STATE_STARTED",
        }
    }

    /// Since its counters were cleared.
    pub(super) fn load(&self, uuid: &str, load: EngineLoad) -> Value {
        let mut shown = engine_load(load);
        for of in [Counted::Process, Counted::Host] {
            self.since_cleared(uuid, of, &mut shown);
        }
        shown
    }
}

/// Of an engine with a session: whether what it was told is in force.
fn connected_status(state: &EngineState, tells: &Tells<'_>) -> Value {
    if let Some(why) = &state.stuck {
        let text = format!("what is in force stays, no newer state can be made: {why}");
        return status("OPER_UP", "desired_state_not_made", text);
    }
    match Refusal::of(state) {
        Some(refusal) => status(
            "OPER_UP",
            "desired_state_refused",
            refusal.sentence_for(tells),
        ),
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

/// Counters of what an engine and its host carry, since they were started; memory as of now, null of an older engine.
pub(in crate::plan) fn engine_load(load: EngineLoad) -> Value {
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
        host_memory_bytes,
        host_memory_available_bytes,
    } = load;
    let is_known = host_memory_bytes > 0;
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
        "host_memory_bytes": is_known.then_some(host_memory_bytes),
        "host_memory_available_bytes": is_known.then_some(host_memory_available_bytes),
    })
}

fn unix_ms(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
