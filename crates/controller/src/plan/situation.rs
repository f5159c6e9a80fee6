//! What the planner looks at when it decides about a VIP, gathered from objects, assignments and sessions.

use super::assignments::Assignments;
use crate::engines::Registry;
use crate::engines::registry::EngineState;
use crate::error::ApiError;
use crate::objects::{Snapshot, Unreadable};
use ipnet::IpNet;
use model::object::Object;
use model::view::{
    BgpProfile, Cloud, Network, Prefix, Ref, ServiceEngine, ServiceEngineGroup, StaticRoute, Vip,
    VirtualService, VrfContext, VsVip,
};
use placement::{Algorithm, Demand, Enabled, Engine, Ha, Presence, Resolution, Route, Tag};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// See the module's documentation.
pub(super) struct Situation {
    /// What the VIP asks for.
    pub demand: Demand,
    /// Every engine.
    pub engines: Vec<Engine>,
    /// Where the VIP is now.
    pub assigned: Vec<String>,
}

/// The virtual services of a VIP.
pub(super) fn services_of(snapshot: &Snapshot, vsvip: &str) -> Vec<Arc<VirtualService>> {
    snapshot.views_referring("virtualservice", "vsvip_ref", &Ref::to("vsvip", vsvip))
}

/// The SE group of the VIP's virtual services.
pub(super) fn group_of(snapshot: &Snapshot, vsvip: &str) -> Option<Arc<ServiceEngineGroup>> {
    let services = services_of(snapshot, vsvip);
    let group = services.first()?.se_group_ref.as_ref()?;
    snapshot.view("serviceenginegroup", group.uuid())
}

/// How many engines a VIP is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requested {
    /// Those that it gets by itself.
    pub fewest: usize,
    /// These, or those that it has where they are more.
    pub num_se: usize,
    /// So many of them stand by.
    pub num_standby_se: usize,
}

impl Requested {
    /// Of a VIP that is on so many engines.
    pub(super) fn of(snapshot: &Snapshot, vsvip: &str, assigned: usize) -> Self {
        let group = group_of(snapshot, vsvip);
        let is_native = is_native(&services_of(snapshot, vsvip));
        let fewest = group.as_ref().map_or(1, |g| fewest(g, is_native));
        let has_standby = group.is_some_and(|g| ha(&g) == Ha::ActiveStandby);
        let num_se = fewest.max(assigned);
        Self {
            fewest,
            num_se,
            num_standby_se: if has_standby { num_se - 1 } else { 0 },
        }
    }
}

/// [`services_of`], all of them or the one that cannot be read.
pub(super) fn try_services_of(
    snapshot: &Snapshot,
    vsvip: &str,
) -> Result<Vec<Arc<VirtualService>>, Unreadable> {
    snapshot.try_views_referring("virtualservice", "vsvip_ref", &Ref::to("vsvip", vsvip))
}

/// What decisions about many VIPs have in common. Whoever decides says so with [`Ground::placed`], so that the next
/// decision knows.
pub(super) struct Ground<'a> {
    snapshot: &'a Snapshot,
    /// Every engine.
    pub engines: Vec<Engine>,
    /// Of the BGP peers, by uuid of the VRF context.
    peer_networks: BTreeMap<String, Vec<IpNet>>,
}

impl<'a> Ground<'a> {
    pub(super) fn of(
        snapshot: &'a Snapshot,
        registry: &Registry,
        assignments: &Assignments,
        lost: &BTreeSet<String>,
    ) -> Self {
        let engines = snapshot.views::<ServiceEngine>("serviceengine");
        let engines = engines
            .iter()
            .map(|e| engine(snapshot, registry, assignments, lost, e));
        Self {
            engines: engines.collect(),
            snapshot,
            peer_networks: BTreeMap::new(),
        }
    }

    /// The engine's name, for people.
    pub(super) fn name<'b>(&'b self, uuid: &'b str) -> &'b str {
        let engine = self.engines.iter().find(|e| e.uuid == uuid);
        engine.map_or(uuid, |e| &e.name)
    }

    /// The VIP moves from one engine to another.
    pub(super) fn moved(&mut self, from: &str, to: &str) {
        self.placed(&[to.to_owned()]);
        let engines = self.engines.iter_mut().filter(|e| e.uuid == from);
        engines.for_each(|e| e.placed = e.placed.saturating_sub(1));
    }

    /// These engines have a VIP more.
    pub(super) fn placed(&mut self, engines: &[String]) {
        for engine in self
            .engines
            .iter_mut()
            .filter(|e| engines.contains(&e.uuid))
        {
            engine.placed = engine.placed.saturating_add(1);
        }
    }

    /// What the VIP asks for.
    pub(super) fn demand(&mut self, vsvip: &str) -> Result<Demand, ApiError> {
        let view: Arc<VsVip> = self
            .snapshot
            .view("vsvip", vsvip)
            .ok_or_else(|| ApiError::not_found("VsVip"))?;
        let services = services_of(self.snapshot, vsvip);
        let vrf = uuid_of(view.vrf_context_ref.as_ref());
        let networks = match is_native(&services) {
            true => Vec::new(),
            false => self.peer_networks(&vrf),
        };
        demand(self.snapshot, &view, &services, vrf, networks)
    }

    fn peer_networks(&mut self, vrf: &str) -> Vec<IpNet> {
        let known = self.peer_networks.entry(vrf.to_owned());
        known
            .or_insert_with(|| peer_networks(self.snapshot, vrf))
            .clone()
    }
}

fn demand(
    snapshot: &Snapshot,
    vsvip: &VsVip,
    services: &[Arc<VirtualService>],
    vrf: String,
    peer_networks: Vec<IpNet>,
) -> Result<Demand, ApiError> {
    let first = services.first().ok_or_else(|| {
        ApiError::bad_request(format!(
            "VsVip {} has no virtual service; there is nothing to place",
            vsvip.name
        ))
    })?;
    let group = first
        .se_group_ref
        .as_ref()
        .and_then(|r| snapshot.view::<ServiceEngineGroup>("serviceenginegroup", r.uuid()));
    let group = group.ok_or_else(|| ApiError::not_found("ServiceEngineGroup"))?;
    Ok(Demand {
        vsvip: vsvip.uuid.clone(),
        se_group: group.uuid.clone(),
        cloud: uuid_of(vsvip.cloud_ref.as_ref()),
        peer_networks,
        placement_networks: placement_networks(snapshot, vsvip),
        native: match is_native(services) {
            true => addresses(vsvip).collect(),
            false => Vec::new(),
        },
        resolution: resolution(snapshot, vsvip, &vrf),
        vrf,
        min_scaleout: group.min_scaleout_per_vs,
        max_scaleout: group.max_scaleout_per_vs,
        max_per_engine: group.max_vs_per_se,
        max_engines: group.max_se,
        ha: ha(&group),
        needs_peer: group.bgp_peer_monitor_failover_enabled && !is_native(services),
        tag: group.distribute_load_active_standby.then(|| tag(first)),
        goes_back: group.auto_redistribute_active_standby_load,
        host: None,
        host_redundancy: group.vs_host_redundancy,
        algorithm: match group.algo.as_str() {
            "PLACEMENT_ALGO_DISTRIBUTED" => Algorithm::Distributed,
            _ => Algorithm::Packed,
        },
    })
}

/// No router is told of the VIP: its engines are scaled natively.
pub(super) fn is_native(services: &[Arc<VirtualService>]) -> bool {
    !services.iter().any(|v| v.enable_rhi)
}

fn addresses(vsvip: &VsVip) -> impl Iterator<Item = IpAddr> {
    let vips = vsvip.vip.iter().filter(|v| v.enabled);
    vips.flat_map(Vip::addresses)
}

/// The VIP's cloud; without one, what holds where nothing is set.
pub(super) fn cloud_of(snapshot: &Snapshot, vsvip: &VsVip) -> Result<Arc<Cloud>, Unreadable> {
    let uuid = uuid_of(vsvip.cloud_ref.as_ref());
    let cloud = snapshot.try_view("cloud", &uuid)?;
    Ok(cloud.unwrap_or_default())
}

/// How the links of a VIP are found that is scaled natively. That its cloud cannot be read is said where engines are told of it.
fn resolution(snapshot: &Snapshot, vsvip: &VsVip, vrf: &str) -> Resolution {
    let cloud = cloud_of(snapshot, vsvip).unwrap_or_default();
    let routes = || static_routes(snapshot, vrf);
    if cloud.enable_vip_on_all_interfaces {
        Resolution::Subnets
    } else if cloud.prefer_static_routes {
        Resolution::RoutesThenSubnets(routes())
    } else if cloud.enable_vip_static_routes {
        Resolution::SubnetsThenRoutes(routes())
    } else {
        Resolution::Subnets
    }
}

fn static_routes(snapshot: &Snapshot, vrf: &str) -> Vec<Route> {
    let view = snapshot.view::<VrfContext>("vrfcontext", vrf);
    let route = |route: &StaticRoute| {
        Some(Route {
            prefix: route.prefix.net()?,
            next_hop: route.next_hop.ip()?,
        })
    };
    let routes = view.iter().flat_map(|v| &v.static_routes);
    routes.filter_map(route).collect()
}

/// Of several virtual services that share a VIP, the first one's counts.
fn tag(vs: &VirtualService) -> Tag {
    match vs.active_standby_se_tag.as_str() {
        SECOND_TAG => Tag::Second,
        _ => Tag::First,
    }
}

/// Of the engine that is the second by name.
const SECOND_TAG: &str = "ACTIVE_STANDBY_SE_2";

/// The same as it is written.
pub(super) fn tag_word(vs: &VirtualService) -> &'static str {
    match tag(vs) {
        Tag::First => "ACTIVE_STANDBY_SE_1",
        Tag::Second => SECOND_TAG,
    }
}

/// Engines that a VIP of the group gets by itself.
pub(super) fn fewest(group: &ServiceEngineGroup, is_native: bool) -> usize {
    ha(group)
        .fewest(group.min_scaleout_per_vs)
        .min(ceiling(is_native))
}

/// As many as the way of scaling can have.
pub(super) fn ceiling(is_native: bool) -> usize {
    if is_native {
        placement::NATIVE_MAX
    } else {
        usize::MAX
    }
}

/// How the group lives through the loss of an engine.
pub(super) fn ha(group: &ServiceEngineGroup) -> Ha {
    match group.mode() {
        "HA_MODE_SHARED_PAIR" => Ha::SharedPair,
        "HA_MODE_LEGACY_ACTIVE_STANDBY" => Ha::ActiveStandby,
        _ => Ha::Shared,
    }
}

fn enabled(word: &str) -> Enabled {
    match word {
        "SE_STATE_DISABLED_FOR_PLACEMENT" => Enabled::ForPlacementNot,
        word if drains(word) => Enabled::No,
        _ => Enabled::Yes,
    }
}

/// The drain switch (avi-api section 9); disabled for placement only keeps new VIPs away.
pub(super) fn drains(enable_state: &str) -> bool {
    ["SE_STATE_DISABLED", "SE_STATE_DISABLED_FORCE"].contains(&enable_state)
}

fn uuid_of(reference: Option<&Ref>) -> String {
    reference.map(|r| r.uuid().to_owned()).unwrap_or_default()
}

/// The VRF context with the subnets that its peers have from networks.
pub(super) fn vrf_context(snapshot: &Snapshot, uuid: &str) -> Option<Arc<VrfContext>> {
    try_vrf_context(snapshot, uuid).ok().flatten()
}

/// The same, or what of it cannot be read.
pub(super) fn try_vrf_context(
    snapshot: &Snapshot,
    uuid: &str,
) -> Result<Option<Arc<VrfContext>>, Unreadable> {
    let mut vrf = snapshot.try_view::<VrfContext>("vrfcontext", uuid)?;
    let profile = vrf.as_ref().and_then(|v| v.bgp_profile.as_ref());
    let named = profile.is_some_and(|p| p.peers.iter().any(|p| p.network_ref.is_some()));
    if let Some(vrf) = vrf.as_mut().filter(|_| named)
        && let Some(profile) = &mut Arc::make_mut(vrf).bgp_profile
    {
        fill_subnets(snapshot, profile)?;
    }
    Ok(vrf)
}

fn fill_subnets(snapshot: &Snapshot, profile: &mut BgpProfile) -> Result<(), Unreadable> {
    for peer in &mut profile.peers {
        let Some(network) = &peer.network_ref else {
            continue;
        };
        if let Some(network) = snapshot.try_view::<Network>("network", network.uuid())? {
            peer.fill_subnets(&network);
        }
    }
    Ok(())
}

/// Of each VIP that is for some networks only, their subnets. Networks without subnets say nothing: a VIP that can be on no
/// engine would not be replaced when its own is lost.
fn placement_networks(snapshot: &Snapshot, vsvip: &VsVip) -> Vec<Vec<IpNet>> {
    let vips = vsvip.vip.iter().filter(|v| v.enabled);
    let named = vips.filter(|v| !v.placement_networks.is_empty());
    let subnets = named.map(|vip| subnets_of(snapshot, vip));
    subnets.filter(|subnets| !subnets.is_empty()).collect()
}

fn subnets_of(snapshot: &Snapshot, vip: &Vip) -> Vec<IpNet> {
    let mut all = Vec::new();
    for wanted in &vip.placement_networks {
        let own: Vec<IpNet> = wanted.subnets().collect();
        let network = wanted.network_ref.as_ref().filter(|_| own.is_empty());
        let network = network.and_then(|n| snapshot.view::<Network>("network", n.uuid()));
        all.extend(own);
        all.extend(network.iter().flat_map(|n| n.subnets()));
    }
    all
}

fn peer_networks(snapshot: &Snapshot, vrf: &str) -> Vec<IpNet> {
    let view = vrf_context(snapshot, vrf);
    let profile = view.as_ref().and_then(|v| v.bgp_profile.as_ref());
    let peers = profile.into_iter().flat_map(|p| &p.peers);
    let subnets = peers.flat_map(|p| [&p.subnet, &p.subnet6]).flatten();
    let mut networks: Vec<IpNet> = subnets.filter_map(Prefix::net).collect();
    networks.sort_unstable();
    networks.dedup();
    networks
}

fn engine(
    snapshot: &Snapshot,
    registry: &Registry,
    assignments: &Assignments,
    lost: &BTreeSet<String>,
    engine: &ServiceEngine,
) -> Engine {
    let state = registry.get(&engine.uuid);
    let addresses = state.interfaces.iter().flat_map(|i| &i.addresses);
    Engine {
        uuid: engine.uuid.clone(),
        name: engine.name.clone(),
        presence: presence(&state, lost.contains(&engine.uuid)),
        enabled: enabled(&engine.enable_state),
        se_group: uuid_of(engine.se_group_ref.as_ref()),
        cloud: uuid_of(engine.cloud_ref.as_ref()),
        vrf: vrf_of(snapshot, engine),
        networks: addresses
            .filter_map(|a| a.parse::<IpNet>().ok())
            .map(|n| n.trunc())
            .collect(),
        host: state.host.clone(),
        has_peer: state.has_peer(),
        placed: assignments.placed(&engine.uuid),
    }
}

fn presence(state: &EngineState, is_lost: bool) -> Presence {
    match state.connected_since {
        Some(_) if state.is_back() => Presence::Back,
        Some(_) => Presence::Here,
        None if is_lost => Presence::Lost,
        None => Presence::Away,
    }
}

/// `enable_state` as stored; nothing where it is the default, or the engine is gone.
pub(super) fn enable_state<'a>(snapshot: &'a Snapshot, engine: &str) -> Option<&'a str> {
    let stored = snapshot.get("serviceengine", engine)?;
    stored.object.get("enable_state")?.as_str()
}

/// The engine's one data VRF: that of its first interface which names one, else `global` of its cloud.
pub(super) fn vrf_of(snapshot: &Snapshot, engine: &ServiceEngine) -> String {
    let named = engine.data_vnics.iter().find_map(|v| v.vrf_ref.as_ref());
    if let Some(vrf) = named {
        return vrf.uuid().to_owned();
    }
    let cloud = engine.cloud_ref.as_ref().map(|r| r.0.as_str());
    // From the objects as stored: one that cannot be read is still the engine's, and says so when it is needed.
    let here = |object: &Object| object.get("cloud_ref").and_then(Value::as_str) == cloud;
    let mut named = snapshot.named("vrfcontext", "global");
    let global = named.find(|(_, stored)| here(&stored.object));
    global.map(|(uuid, _)| uuid.to_owned()).unwrap_or_default()
}
