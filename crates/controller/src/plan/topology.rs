//! `GET /api/ek/topology`: who is connected with whom now, as one document: routers, engines with their links, sessions, VIPs
//! with their next hops, pools with their servers. States are those that engines report, in the words of
//! `model::reason` and `model::condition`.

use super::runtime::{Observer, oper_word, pool_status};
use super::scope::Tells;
use super::{routing, scope, situation};
use crate::api::Context;
use crate::engines::registry::EngineState;
use crate::error::ApiError;
use crate::objects::pools;
use model::view::{Pool, Ref, ServiceEngine, VirtualService, VsVip};
use proto::v1::{BgpSession, BgpState, Interface, PoolStatus, ServerStatus, VipStatus};
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

/// A page of it.
pub struct TopologyPage {
    /// uuids of all VsVips that are asked for and seen, in order.
    pub vsvips: Vec<String>,
    /// Those of the page, by uuid.
    pub vips: HashMap<String, Value>,
    /// Everything else.
    pub fabric: Value,
}

/// What is asked for: uuids.
struct Wanted {
    vs: Option<String>,
    se: Option<String>,
    vrf: Option<String>,
}

/// Engines as known at one moment: a report is large, and is fetched once.
struct Engine {
    view: Arc<ServiceEngine>,
    vrf: String,
    state: EngineState,
}

/// See the module's documentation.
pub(super) struct Topology<'a> {
    observer: &'a Observer<'a>,
    /// What the caller is told of.
    tells: Box<Tells<'a>>,
    engines: BTreeMap<String, Engine>,
    /// uuids of the VsVips that are asked for and seen, by name.
    vsvips: Vec<String>,
}

impl<'a> Topology<'a> {
    /// As far as it is asked for (`vs`, `se`, `vrf`, by name or uuid) and the caller sees it.
    ///
    /// # Errors
    /// 400 with the parameter.
    pub(super) fn of(observer: &'a Observer<'a>, context: &'a Context) -> Result<Self, ApiError> {
        let wanted = Wanted::of(observer, context)?;
        let vsvips = wanted.vsvips(observer, context);
        let mut engines = engines(observer, &wanted);
        if wanted.vs.is_some() || !scope::is_everywhere(context) {
            let holders = holders(observer, &vsvips);
            engines.retain(|uuid, _| holders.contains(uuid));
        }
        Ok(Self {
            observer,
            tells: Box::new(scope::tells(context, observer.snapshot)),
            engines,
            vsvips,
        })
    }

    /// The window that `window` makes of the number of VIPs.
    pub(super) fn page(self, window: impl FnOnce(usize) -> Range<usize>) -> TopologyPage {
        let page = &self.vsvips[window(self.vsvips.len())];
        let vips = page.iter();
        let vips = vips.filter_map(|uuid| Some((uuid.clone(), self.vip(uuid)?)));
        TopologyPage {
            vips: vips.collect(),
            fabric: self.fabric(page),
            vsvips: self.vsvips,
        }
    }

    /// All but the VIPs; `page` are those whose pools are shown.
    fn fabric(&self, page: &[String]) -> Value {
        json!({
            "revision": self.observer.snapshot.revision,
            "routers": self.routers(),
            "engines": self.engines.values().map(|e| self.engine(e)).collect::<Vec<_>>(),
            "sessions": self.sessions().map(|(e, s)| self.session(e, s)).collect::<Vec<_>>(),
            "pools": self.pools(page),
        })
    }

    /// Sessions of engines that can be asked: of others the last word is no longer known to be so.
    fn sessions(&self) -> impl Iterator<Item = (&Engine, &BgpSession)> {
        let connected = self.engines.values();
        let connected = connected.filter(|e| e.state.connected_since.is_some());
        connected.flat_map(|e| {
            let report = e.state.report.iter();
            report.flat_map(move |r| r.bgp_sessions.iter().map(move |s| (e, s)))
        })
    }

    /// By VRF and address.
    fn routers(&self) -> Vec<Value> {
        let mut routers: BTreeMap<(&str, &str), Vec<&BgpSession>> = BTreeMap::new();
        for (engine, session) in self.sessions() {
            let key = (engine.vrf.as_str(), session.peer.as_str());
            routers.entry(key).or_default().push(session);
        }
        let each = routers.into_iter();
        each.map(|((vrf, peer), sessions)| {
            let up = |s: &&&BgpSession| s.state() == BgpState::Established;
            json!({
                "vrf": self.vrf_name(vrf), "peer": peer,
                "remote_as": sessions[0].remote_as, "label": sessions[0].label,
                "sessions": sessions.len(), "sessions_established": sessions.iter().filter(up).count(),
            })
        })
        .collect()
    }

    fn vrf_name<'s>(&'s self, uuid: &'s str) -> &'s str {
        let name = self.observer.snapshot.name_of("vrfcontext", uuid);
        name.unwrap_or(uuid)
    }

    fn engine(&self, engine: &Engine) -> Value {
        let Engine { view, vrf, state } = engine;
        json!({
            "se_uuid": view.uuid, "se_name": view.name, "vrf": self.vrf_name(vrf),
            "connected": state.connected_since.is_some(), "enable_state": view.enable_state,
            "oper_status": self.oper_status(state),
            "links": state.interfaces.iter().map(link).collect::<Vec<_>>(),
        })
    }

    /// Of an engine, and of other tenants' objects nothing.
    fn oper_status(&self, state: &EngineState) -> Value {
        self.observer.engine_status_for(state, self.tells.as_ref())
    }

    fn session(&self, engine: &Engine, session: &BgpSession) -> Value {
        json!({
            "se_uuid": engine.view.uuid, "se_name": engine.view.name, "vrf": self.vrf_name(&engine.vrf),
            "peer": session.peer, "interface": session.interface, "local_address": session.local_address,
            "state": routing::bgp_word(session), "state_since_unix_ms": session.state_since_unix_ms,
            "condition": session.condition, "condition_text": session.condition_text,
            "bfd_state": session.bfd_state,
        })
    }

    /// A VIP with its services, engines and next hops; nothing for one that is gone.
    fn vip(&self, uuid: &str) -> Option<Value> {
        let view: Arc<VsVip> = self.observer.snapshot.view("vsvip", uuid)?;
        let vips = view.vip.iter().flat_map(|v| v.addresses());
        let addresses: Vec<IpAddr> = vips.collect();
        let vrf = view.vrf_context_ref.as_ref().map_or("", Ref::uuid);
        let services = situation::services_of(self.observer.snapshot, uuid);
        let group = self.observer.planner.assignment(uuid).group;
        let members = group.members.iter();
        let members: Vec<&Engine> = members
            .filter_map(|m| self.engines.get(&m.engine))
            .collect();
        let seats = members
            .iter()
            .map(|e| seat(self.observer, e, &services, &addresses));
        let hops = members.iter().flat_map(|e| next_hops(e, &addresses));
        Some(json!({
            "vsvip": view.name, "vsvip_uuid": view.uuid, "addresses": addresses, "vrf": self.vrf_name(vrf),
            "virtual_services": services.iter().map(|vs| self.service(vs)).collect::<Vec<_>>(),
            "engines": seats.collect::<Vec<_>>(),
            "next_hops": hops.collect::<Vec<_>>(),
        }))
    }

    fn service(&self, vs: &VirtualService) -> Value {
        let pool = vs.pool_ref.as_ref().map(Ref::uuid);
        let name = pool.and_then(|p| self.observer.snapshot.name_of("pool", p));
        json!({
            "name": vs.name, "uuid": vs.uuid, "enabled": vs.enabled && vs.traffic_enabled,
            "ports": vs.services.iter().map(model::view::Service::ports).collect::<Vec<_>>(),
            "pool": name, "pool_uuid": pool, "pool_group": self.pool_group(vs),
        })
    }

    /// Its pools in the order of their priorities.
    fn pool_group(&self, vs: &VirtualService) -> Option<Value> {
        let group = pools::group_of(self.observer.snapshot, vs)?;
        let mut members: Vec<_> = group.members.iter().zip(group.priorities()).collect();
        members.sort_by_key(|(_, priority)| Reverse(*priority));
        let members = members.into_iter().map(|(member, _)| {
            let pool = member.pool_ref.uuid();
            json!({
                "pool": self.observer.snapshot.name_of("pool", pool), "pool_uuid": pool,
                "priority_label": member.priority_label, "ratio": member.ratio,
            })
        });
        Some(json!({
            "pool_group": group.name, "pool_group_uuid": group.uuid,
            "members": members.collect::<Vec<_>>(),
        }))
    }

    /// Of the services of these VIPs.
    fn pools(&self, page: &[String]) -> Vec<Value> {
        let services = page
            .iter()
            .flat_map(|vsvip| situation::services_of(self.observer.snapshot, vsvip));
        let used = services.flat_map(|vs| pools::of(self.observer.snapshot, &vs));
        let used: BTreeSet<String> = used.collect();
        used.iter().filter_map(|pool| self.pool(pool)).collect()
    }

    fn pool(&self, uuid: &str) -> Option<Value> {
        let view: Arc<Pool> = self.observer.snapshot.view("pool", uuid)?;
        let connected = self.engines.values();
        let connected = connected.filter(|e| e.state.connected_since.is_some());
        let reports: Vec<(String, PoolStatus)> = connected
            .filter_map(|e| {
                let pools = &e.state.report.as_ref()?.pools;
                let own = pools.iter().find(|p| p.uuid == uuid)?;
                Some((e.view.name.clone(), own.clone()))
            })
            .collect();
        let up = |s: &ServerStatus| s.state == i32::from(proto::v1::OperState::Up);
        let all = reports.iter().flat_map(|(_, p)| &p.servers);
        let num_up = all.clone().filter(|s| up(s)).count();
        let of = |server: &model::view::Server| {
            let endpoint = view.endpoint(server);
            let seen = reports.iter().filter_map(|(se, p)| {
                let (address, port) = endpoint.as_ref()?;
                let mut servers = p.servers.iter();
                let own = servers.find(|s| s.address == *address && s.port == *port)?;
                Some(json!({
                    "se_name": se, "state": oper_word(own.state), "reason": own.reason,
                    "open_connections": own.open_connections,
                }))
            });
            json!({
                "address": server.ip.addr, "port": endpoint.as_ref().map(|(_, port)| port), "enabled": server.enabled,
                "seen_by": seen.collect::<Vec<_>>(),
            })
        };
        Some(json!({
            "pool": view.name, "pool_uuid": view.uuid, "oper_status": pool_status(&view, &reports, num_up),
            "servers": view.servers.iter().map(of).collect::<Vec<_>>(),
        }))
    }
}

/// By uuid.
fn engines(observer: &Observer<'_>, wanted: &Wanted) -> BTreeMap<String, Engine> {
    let mut engines = BTreeMap::new();
    for view in observer.snapshot.views::<ServiceEngine>("serviceengine") {
        let vrf = situation::vrf_of(observer.snapshot, &view);
        let here = wanted.se.as_ref().is_none_or(|se| *se == view.uuid);
        if here && wanted.vrf.as_ref().is_none_or(|v| *v == vrf) {
            let state = observer.registry.get(&view.uuid);
            engines.insert(view.uuid.clone(), Engine { view, vrf, state });
        }
    }
    engines
}

fn link(interface: &Interface) -> Value {
    json!({
        "interface": interface.name, "mac": interface.mac, "up": interface.up, "mtu": interface.mtu,
        "addresses": interface.addresses,
    })
}

/// An engine of a VIP: each service on it, and whether each address is announced, and if not, why.
fn seat(
    observer: &Observer<'_>,
    engine: &Engine,
    services: &[Arc<VirtualService>],
    addresses: &[IpAddr],
) -> Value {
    let state = &engine.state;
    let of = |vs: &Arc<VirtualService>| json!({"name": vs.name, "oper_status": observer.service_in(vs, state)});
    let vips = state.report.iter().flat_map(|r| &r.vips);
    let own = vips.filter(|v| addresses.iter().any(|a| a.to_string() == v.address));
    // What an engine without a session last said may be old.
    let known = state.connected_since.is_some();
    let shown = |v: &VipStatus| {
        json!({
            "address": v.address, "announced": known.then_some(v.announced),
            "reason_code": v.reason_code, "reason": v.reason,
        })
    };
    json!({
        "se_uuid": engine.view.uuid, "se_name": engine.view.name,
        "virtual_services": services.iter().map(of).collect::<Vec<_>>(),
        "vips": own.map(shown).collect::<Vec<_>>(),
    })
}

/// Routes that peers have from this engine.
fn next_hops(engine: &Engine, addresses: &[IpAddr]) -> Vec<Value> {
    let prefixes: BTreeMap<String, IpAddr> = addresses
        .iter()
        .map(|a| (super::explain::host_prefix(*a), *a))
        .collect();
    let known = engine.state.connected_since.is_some();
    let report = engine.state.report.iter().filter(|_| known);
    let sessions = report.flat_map(|r| &r.bgp_sessions);
    let of = |session: &BgpSession| -> Vec<Value> {
        let sent = session.routes.iter().filter(|r| r.sent);
        let own = sent.filter_map(|r| Some((prefixes.get(&r.prefix)?, r)));
        own.map(|(vip, route)| {
            json!({
                "vip": vip, "peer": session.peer, "next_hop": route.next_hop,
                "se_uuid": engine.view.uuid, "se_name": engine.view.name, "interface": session.interface,
            })
        })
        .collect()
    };
    sessions.flat_map(of).collect()
}

/// uuids of the engines that have one of these VIPs.
fn holders(observer: &Observer<'_>, vsvips: &[String]) -> BTreeSet<String> {
    let groups = vsvips.iter().map(|v| observer.planner.assignment(v).group);
    let members = groups.flat_map(|g| g.members);
    members.map(|m| m.engine).collect()
}

impl Wanted {
    fn of(observer: &Observer<'_>, context: &Context) -> Result<Self, ApiError> {
        let named = |parameter: &str, path: &str| {
            let name = context.get(parameter).filter(|v| !v.is_empty());
            let found = name.map(|name| {
                let mut all = observer.snapshot.all(path);
                let seen = |uuid: &str, s: &_| {
                    scope::is_everywhere(context) || context.sees(path, uuid, s)
                };
                let found =
                    all.find(|(uuid, s)| (*uuid == name || s.name() == name) && seen(uuid, s));
                found.map(|(uuid, _)| uuid.to_owned()).ok_or_else(|| {
                    let text = format!("{parameter}: there is no {path} {name:?}; see /api/{path}");
                    ApiError::bad_request(text)
                })
            });
            found.transpose()
        };
        Ok(Self {
            vs: named("vs", "virtualservice")?,
            se: named("se", "serviceengine")?,
            vrf: named("vrf", "vrfcontext")?,
        })
    }

    /// By name.
    fn vsvips(&self, observer: &Observer<'_>, context: &Context) -> Vec<String> {
        let of_service = self.vs.as_ref().and_then(|vs| {
            let stored = observer.snapshot.get("virtualservice", vs)?;
            let reference = stored.object.get("vsvip_ref")?.as_str()?;
            Some(Ref(reference.to_owned()).uuid().to_owned())
        });
        let in_vrf = self.vrf.as_ref().map(|vrf| Ref::to("vrfcontext", vrf).0);
        let at = |vsvip: &str, se: &String| observer.planner.assignment(vsvip).is_at(se);
        let all = observer.snapshot.all("vsvip");
        let mut found: Vec<_> = all
            .filter(|(uuid, s)| scope::sees_vip(context, uuid, s))
            .filter(|(uuid, _)| self.vs.is_none() || of_service.as_deref() == Some(*uuid))
            .filter(|(_, s)| {
                let vrf = s.object.get("vrf_context_ref").and_then(Value::as_str);
                in_vrf.is_none() || in_vrf.as_deref() == vrf
            })
            .filter(|(uuid, _)| self.se.as_ref().is_none_or(|se| at(uuid, se)))
            .collect();
        found.sort_by_key(|(uuid, s)| (s.name().to_owned(), (*uuid).to_owned()));
        found.into_iter().map(|(uuid, _)| uuid.to_owned()).collect()
    }
}

#[cfg(test)]
mod tests;
