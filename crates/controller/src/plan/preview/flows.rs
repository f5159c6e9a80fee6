//! Flows that live where something is taken away, as engines have reported them last.

use super::routes::Route;
use super::simulate::End;
use super::{Preview, Scene};
use model::view::{Pool, VirtualService};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What becomes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// They go on until they end by themselves; where other engines announce the VIP, they send packets on.
    Kept,
    /// They stay at the engine, but no route leads to the VIP any more.
    WithoutRoute,
    /// They are cut.
    Ended,
    /// The engine is no longer told what to do.
    NotKnown,
}

impl Outcome {
    fn code(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::WithoutRoute => "without_route",
            Self::Ended => "ended",
            Self::NotKnown => "not_known",
        }
    }
}

impl Preview<'_> {
    /// Of a VIP's virtual services, on each engine that loses the VIP, its routes, or the service.
    pub(super) fn flows_of(&self, vsvip: &str, before: &[Route], after: &[Route]) -> Vec<Value> {
        let services = self.before.services(vsvip);
        let Some(assignment) = self.before.assignments.get(vsvip) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for member in &assignment.group.members {
            let se = member.engine.as_str();
            let lost = self.moves.lost.get(&(vsvip.to_owned(), se.to_owned()));
            let announces = |routes: &[Route]| routes.iter().any(|r| r.engine == se);
            let loses = lost.is_some() || announces(before) && !announces(after);
            let concerned = services
                .iter()
                .filter(|vs| loses || self.is_taken_away(vs, vsvip));
            let outcome = match lost.and_then(|l| l.end) {
                Some(End::Cut) => Outcome::Ended,
                Some(End::NotKnown) => Outcome::NotKnown,
                None if !before.is_empty() && after.is_empty() => Outcome::WithoutRoute,
                None => Outcome::Kept,
            };
            found.extend(concerned.map(|vs| self.flow_row(vs, se, outcome)));
        }
        found
    }

    /// The virtual service is gone, disabled, or moved to another VIP.
    fn is_taken_away(&self, vs: &VirtualService, vsvip: &str) -> bool {
        let after: Option<Arc<VirtualService>> =
            self.after.snapshot.view("virtualservice", &vs.uuid);
        let on = |vs: &VirtualService| {
            let here = vs.vsvip_ref.as_ref().is_some_and(|r| r.uuid() == vsvip);
            here && vs.enabled && vs.traffic_enabled
        };
        on(vs) && !after.is_some_and(|vs| on(&vs))
    }

    fn flow_row(&self, vs: &VirtualService, se: &str, outcome: Outcome) -> Value {
        let report = self.observer.registry.get(se).report;
        let services = report.iter().flat_map(|r| &r.virtual_services);
        let status = services.into_iter().find(|s| s.uuid == vs.uuid);
        json!({
            "of": "virtualservice", "virtual_service": vs.name, "virtual_service_uuid": vs.uuid,
            "se_uuid": se, "se_name": self.name("serviceengine", se),
            "flows": status.map(|s| s.open_connections), "oldest_s": status.map(|s| s.oldest_connection_s),
            "outcome": outcome.code(),
        })
    }

    /// To servers that are taken out of a pool, or disabled: engines do not touch running connections.
    pub(super) fn flows_of_servers(&self) -> Vec<Value> {
        let each = self.pools.iter();
        each.flat_map(|pool| self.flows_of_pool(pool)).collect()
    }

    fn flows_of_pool(&self, pool: &str) -> Vec<Value> {
        let (before, after) = (servers(&self.before, pool), servers(&self.after, pool));
        let gone: BTreeSet<_> = before.difference(&after).collect();
        let mut found = Vec::new();
        for (se, _) in self.before.snapshot.all("serviceengine") {
            let report = self.observer.registry.get(se).report;
            let pools = report.iter().flat_map(|r| &r.pools);
            let own = pools.into_iter().filter(|p| p.uuid == pool);
            let left = own.flat_map(|p| &p.servers);
            let left = left.filter(|s| gone.contains(&(s.address.clone(), s.port)));
            found.extend(left.filter(|s| s.open_connections > 0).map(|s| {
                json!({
                    "of": "server", "pool": self.name("pool", pool), "pool_uuid": pool,
                    "server": s.address, "port": s.port,
                    "se_uuid": se, "se_name": self.name("serviceengine", se),
                    "flows": s.open_connections, "oldest_s": null, "outcome": Outcome::Kept.code(),
                })
            }));
        }
        found
    }
}

/// Address and port of those that take connections.
fn servers(scene: &Scene<'_>, pool: &str) -> BTreeSet<(String, u32)> {
    let view: Option<Arc<Pool>> = scene.snapshot.view("pool", pool);
    let Some(pool) = view.filter(|p| p.enabled) else {
        return BTreeSet::new();
    };
    let enabled = pool.servers.iter().filter(|s| s.enabled);
    enabled.filter_map(|s| pool.endpoint(s)).collect()
}
