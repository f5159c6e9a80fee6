//! `pool/UUID/runtime/server` and `server/detail` (avi-api 10.3): each server as each engine that checks it says, and each of its
//! monitors by itself.

use super::super::flows::Lookup;
use super::super::flowtable::{ip, masked, port};
use super::super::scope::Tells;
use super::{Observer, oper_word, status};
use crate::error::ApiError;
use crate::objects::pools;
use ipnet::IpNet;
use model::view::{Pool, VirtualService};
use proto::v1::{MonitorStatus, ServerStatus};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Which servers of a pool are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::plan) struct ServerFilter {
    addresses: Addresses,
    port: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Addresses {
    Any,
    In(IpNet),
    Between(IpAddr, IpAddr),
}

impl ServerFilter {
    /// From `server_ip`, `server_mask` or `server_end_ip`, and `server_port`.
    ///
    /// # Errors
    /// 400 with the parameter.
    pub(in crate::plan) fn of(lookup: &Lookup<'_>) -> Result<Self, ApiError> {
        Ok(Self {
            addresses: Addresses::of(lookup)?,
            port: port(lookup, "server_port")?,
        })
    }

    fn fits(&self, server: &ServerStatus) -> bool {
        self.addresses.have(&server.address) && self.port.is_none_or(|port| port == server.port)
    }
}

impl Addresses {
    fn of(lookup: &Lookup<'_>) -> Result<Self, ApiError> {
        let (mask, last) = (lookup("server_mask"), ip(lookup, "server_end_ip")?);
        let Some(first) = ip(lookup, "server_ip")? else {
            return match (mask, last) {
                (None, None) => Ok(Self::Any),
                (Some(_), _) => Err(bad("server_mask: goes with server_ip; write both")),
                (None, Some(_)) => Err(bad("server_end_ip: goes with server_ip; write both")),
            };
        };
        match (mask, last) {
            (None, None) => Ok(Self::In(first.into())),
            (Some(mask), None) => masked(first, "server_mask", &mask).map(Self::In),
            (None, Some(last)) => Self::between(first, last),
            (Some(_), Some(_)) => Err(bad(
                "server_end_ip: goes with no server_mask; leave one of them out",
            )),
        }
    }

    fn between(first: IpAddr, last: IpAddr) -> Result<Self, ApiError> {
        if first.is_ipv4() != last.is_ipv4() {
            return Err(bad(format!(
                "server_end_ip: {last} is of another address family than server_ip, {first}"
            )));
        }
        if last < first {
            let text = format!("server_end_ip: {last} is below server_ip, {first}");
            return Err(bad(text));
        }
        Ok(Self::Between(first, last))
    }

    fn have(&self, address: &str) -> bool {
        let parsed = address.parse::<IpAddr>();
        match self {
            Self::Any => true,
            Self::In(net) => parsed.is_ok_and(|a| net.contains(&a)),
            Self::Between(first, last) => parsed.is_ok_and(|a| (*first..=*last).contains(&a)),
        }
    }
}

fn bad(text: impl Into<String>) -> ApiError {
    ApiError::bad_request(text)
}

/// What an engine is for the virtual services that use a pool.
struct Use {
    /// Those that it has and the caller is told of, in the order of their uuids.
    vs_uuids: Vec<String>,
    /// For all of them.
    is_standby: bool,
}

/// Names of servers as they were written, by where engines reach them.
type Names = BTreeMap<(String, u32), String>;

impl Observer<'_> {
    /// `pool/UUID/runtime/server`.
    pub(in crate::plan) fn pool_servers(
        &self,
        uuid: &str,
        filter: &ServerFilter,
        tells: &Tells<'_>,
    ) -> Value {
        let (names, users) = (self.hostnames(uuid), pools::users(self.snapshot, uuid));
        let mut shown = Vec::new();
        for (se, pool) in self.pool_reports(uuid) {
            let of = self.use_of(&users, &se, tells);
            let servers = pool.servers.iter().filter(|s| filter.fits(s));
            shown.extend(servers.map(|server| {
                let mut row = row(&se, server, &names);
                row["is_standby"] = of.is_standby.into();
                row["vs_uuid"] = of.vs_uuids.first().cloned().into();
                row["vs_uuids"] = of.vs_uuids.clone().into();
                let monitors = server.monitors.iter().map(|m| self.monitor(m));
                row["health_monitor_list"] =
                    json!({"health_monitor": monitors.collect::<Vec<_>>()});
                row
            }));
        }
        shown.into()
    }

    /// `pool/UUID/runtime/server/detail`.
    pub(in crate::plan) fn pool_server_counters(&self, uuid: &str, filter: &ServerFilter) -> Value {
        let names = self.hostnames(uuid);
        let mut shown = Vec::new();
        for (se, pool) in self.pool_reports(uuid) {
            let servers = pool.servers.iter().filter(|s| filter.fits(s));
            shown.extend(servers.map(|s| counters(&se, s, &names)));
        }
        shown.into()
    }

    fn hostnames(&self, uuid: &str) -> Names {
        let view = self.snapshot.view::<Pool>("pool", uuid);
        let stored = self.snapshot.get("pool", uuid);
        let (Some(pool), Some(stored)) = (view, stored) else {
            return Names::new();
        };
        let written = stored.object.get("servers").and_then(Value::as_array);
        let pairs = pool.servers.iter().zip(written.into_iter().flatten());
        let named = pairs.filter_map(|(server, written)| {
            let name = written.get("hostname")?.as_str()?;
            Some((pool.endpoint(server)?, name.to_owned()))
        });
        named.collect()
    }

    fn use_of(&self, users: &[Arc<VirtualService>], se: &str, tells: &Tells<'_>) -> Use {
        let mut here: Vec<(String, bool)> = Vec::new();
        for vs in users {
            let Some(vsvip) = &vs.vsvip_ref else { continue };
            let assignment = self.planner.assignment(vsvip.uuid());
            if assignment.is_at(se) {
                let is_standby = self.has_standby(vs) && !assignment.is_active(se);
                here.push((vs.uuid.clone(), is_standby));
            }
        }
        here.sort();
        let is_standby = !here.is_empty() && here.iter().all(|(_, is_standby)| *is_standby);
        let uuids = here.into_iter().map(|(uuid, _)| uuid);
        Use {
            is_standby,
            vs_uuids: uuids.filter(|uuid| tells("virtualservice", uuid)).collect(),
        }
    }

    fn monitor(&self, said: &MonitorStatus) -> Value {
        let name = self.snapshot.name_of("healthmonitor", &said.uuid);
        json!({
            "name": name.unwrap_or(&said.uuid), "uuid": said.uuid,
            "state": oper_word(said.state), "reason": said.reason, "failure_code": said.failure_code,
            "recent_response_time": said.recent_response_time_ms,
            "avg_response_time": said.average_response_time_ms,
        })
    }
}

fn row(se: &str, server: &ServerStatus, names: &Names) -> Value {
    let oper = status(oper_word(server.state), "", &server.reason);
    json!({
        "ip_addr": ip_addr(server),
        "port": server.port,
        "hostname": hostname(server, names),
        "oper_status": oper,
        "failure_code": server.failure_code,
        "se_uuid": se,
        "open_connections": server.open_connections,
        "total_connections": server.total_connections,
        "response_time_ms": server.response_time_ms,
        "inline_health_share": server.inline_health_share,
    })
}

fn counters(se: &str, server: &ServerStatus, names: &Names) -> Value {
    json!({
        "se_uuid": se, "proc_id": "C0",
        "ip_addr": ip_addr(server), "port": server.port, "hostname": hostname(server, names),
        "oper_status": status(oper_word(server.state), "", &server.reason),
        "server_stats": {
            "total_connections": server.total_connections, "current_connections": server.open_connections,
            "inline_health_share": server.inline_health_share,
        },
    })
}

fn ip_addr(server: &ServerStatus) -> Value {
    let kind = if server.address.contains(':') {
        "V6"
    } else {
        "V4"
    };
    json!({"addr": server.address, "type": kind})
}

/// A server without a name has its address in its place.
fn hostname<'a>(server: &'a ServerStatus, names: &'a Names) -> &'a str {
    let name = names.get(&(server.address.clone(), server.port));
    name.unwrap_or(&server.address)
}

#[cfg(test)]
mod tests;
