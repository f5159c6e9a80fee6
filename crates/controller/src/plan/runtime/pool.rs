//! `pool/UUID/runtime` and `runtime/detail` (avi-api 10.3), as the engines that have the pool say.

use super::super::since::Thing;
use super::{Observer, oper_word, status, undated};
use crate::objects::pools;
use model::reason::Reason;
use model::view::{Pool, PoolGroup};
use proto::v1::{OperState, PoolStatus};
use serde_json::{Value, json};
use std::sync::Arc;

impl Observer<'_> {
    /// What each connected engine reports of a pool, after whether it was told to check it.
    fn pool_seen(&self, uuid: &str) -> Vec<Found> {
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
        found.collect()
    }

    /// The same of those that check it; of those that were told to check nothing only where no other one has it.
    pub(super) fn pool_reports(&self, uuid: &str) -> Vec<(String, PoolStatus)> {
        judges(self.pool_seen(uuid))
    }

    /// `pool/UUID/runtime`: a server counts as up when one engine at least reaches it.
    pub(in crate::plan) fn pool(&self, uuid: &str) -> Option<Value> {
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
            "oper_status": self.dated(&Thing::Pool(uuid.to_owned()), pool_status(&pool, &reports, num_up)),
            "num_servers": pool.servers.len(),
            "num_servers_enabled": enabled,
            "num_servers_up": num_up,
            "percent_servers_up_total": percent(pool.servers.len()),
            "percent_servers_up_enabled": percent(enabled),
        }))
    }

    /// Its pools together: up when one of them is.
    pub(in crate::plan) fn pool_group(&self, uuid: &str) -> Option<Value> {
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
        let oper = best.map_or_else(empty, |p| undated(p["oper_status"].clone()));
        Some(json!({
            "oper_status": oper,
            "num_servers": sum("num_servers"),
            "num_servers_enabled": sum("num_servers_enabled"),
            "num_servers_up": sum("num_servers_up"),
        }))
    }

    /// `pool/UUID/runtime/detail`: an element per engine that has it, with what it has counted of the servers that there are now.
    pub(in crate::plan) fn pool_detail(&self, uuid: &str) -> Value {
        let name = self.snapshot.name_of("pool", uuid);
        let each = self.pool_seen(uuid).into_iter().map(|(_, (se, pool))| {
            let up = pool.servers.iter().filter(|s| s.state() == OperState::Up);
            json!({
                "se_uuid": se, "proc_id": "C0", "se_name": self.name(&se), "name": name,
                "oper_status": status(oper_word(pool.state), "", ""),
                "pool_stats": {
                    "total_connections": pool.servers.iter().map(|s| s.total_connections).sum::<u64>(),
                    "current_connections": pool.servers.iter().map(|s| s.open_connections).sum::<u64>(),
                    "num_servers": pool.servers.len(), "num_servers_up": up.count(),
                },
            })
        });
        each.collect()
    }
}

/// What an engine reports of a pool, and whether it was told to check the servers.
pub(super) type Found = (bool, (String, PoolStatus));

/// Those whose word counts: who was told to check nothing, only where no other one has it.
pub(super) fn judges(found: Vec<Found>) -> Vec<(String, PoolStatus)> {
    let (checked, not): (Vec<Found>, Vec<Found>) =
        found.into_iter().partition(|(checks, _)| *checks);
    let judges = if checked.is_empty() { not } else { checked };
    judges.into_iter().map(|(_, report)| report).collect()
}

/// From what these engines report; `up` is how many servers are up.
pub(in crate::plan) fn pool_status(
    pool: &Pool,
    reports: &[(String, PoolStatus)],
    up: usize,
) -> Value {
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
