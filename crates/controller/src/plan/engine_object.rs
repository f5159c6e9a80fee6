//! The object of a service engine and what its engine says: interfaces are written into it, and what is known beside that (its
//! host, the way to its controller, what is behind its interfaces) is filled in when somebody reads it. Of that nothing is
//! stored: it is what the engine has said in its newest session.

use super::runtime::Observer;
use super::situation;
use crate::access::is_seen_in;
use crate::engines::registry::EngineState;
use crate::objects::{Snapshot, Stored};
use ipnet::IpNet;
use model::object::{self, Object};
use model::schema::message;
use model::view::{self, Network, Prefix, Ref, ServiceEngine};
use proto::v1::{HostResources, Interface, LinkDetail};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;

/// Kinds of links that bundle others.
const BUNDLES: [&str; 2] = ["bond", "team"];

/// `data_vnics` of an engine that reports these interfaces: what a client has written of one of them (its VRF) stays, also while
/// the engine does not have it.
pub(super) fn vnics(interfaces: &[Interface], object: &Object) -> Value {
    let before = object.get("data_vnics").and_then(Value::as_array);
    let before = before.map_or(&[][..], Vec::as_slice);
    let each = interfaces.iter().map(|interface| {
        let known = before.iter().find(|v| v["if_name"] == interface.name);
        let mut vnic = known.map(written).unwrap_or_default();
        vnic.extend(reported(interface));
        Value::Object(vnic)
    });
    let is_here = |vnic: &&Value| interfaces.iter().any(|i| vnic["if_name"] == i.name);
    let gone = before.iter().filter(|vnic| !is_here(vnic));
    each.chain(gone.filter_map(remembered)).collect()
}

/// An interface that its engine does not have now, if a client has written something of it. Without an address it is known by its
/// name alone, and a write that leaves it out takes it away.
fn remembered(vnic: &Value) -> Option<Value> {
    let ty = message("vNIC").expect("in the schema");
    let name = vnic.get("if_name")?.clone();
    let mut object = object::without_defaults(ty, &written(vnic));
    if object.is_empty() {
        return None;
    }
    object.extend(known([
        ("if_name", Some(name)),
        ("link_up", Some(false.into())),
        ("vnic_networks", Some(json!([]))),
    ]));
    Some(Value::Object(object))
}

/// What a client has written of an interface.
fn written(vnic: &Value) -> Object {
    let mut object = vnic.as_object().cloned().unwrap_or_default();
    let ty = message("vNIC").expect("in the schema");
    object::strip_server_owned(ty, &mut object);
    object.shift_remove("vnic_networks");
    object
}

/// What an engine says of an interface, as far as it is stored.
pub(super) fn reported(interface: &Interface) -> Object {
    let link = interface.link.as_ref();
    let vlan = link.map(|l| l.vlan_id).filter(|id| *id != 0);
    let networks = interface.addresses.iter().filter_map(|a| network(a));
    known([
        ("if_name", Some(json!(interface.name))),
        ("linux_name", Some(json!(interface.name))),
        ("mac_address", Some(json!(interface.mac))),
        ("mtu", Some(json!(interface.mtu))),
        ("link_up", Some(json!(interface.up))),
        ("vlan_id", vlan.map(Value::from)),
        ("vnic_networks", Some(networks.collect())),
    ])
}

fn network(address: &str) -> Option<Value> {
    let net: IpNet = address.parse().ok()?;
    let kind = if net.addr().is_ipv4() { "V4" } else { "V6" };
    let ip = json!({"ip_addr": {"addr": net.addr().to_string(), "type": kind}, "mask": net.prefix_len()});
    Some(json!({"mode": "STATIC", "ip": ip}))
}

/// The fields that have a value.
fn known<const N: usize>(fields: [(&str, Option<Value>); N]) -> Object {
    let known = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    known.collect()
}

fn text(text: &str) -> Option<Value> {
    (!text.is_empty()).then(|| text.into())
}

fn count(number: u32) -> Option<Value> {
    (number != 0).then(|| number.into())
}

impl Observer<'_> {
    /// Fills what is known of an engine into its object, which is about to be shown.
    pub(super) fn fill_engine(&self, uuid: &str, stored: &Stored, object: &mut Object) {
        let state = self.registry.get(uuid);
        let networks = Networks::of(self.snapshot, uuid, stored);
        let vnics = object.get_mut("data_vnics").and_then(Value::as_array_mut);
        let vnics = vnics.into_iter().flatten();
        for vnic in vnics.filter_map(Value::as_object_mut) {
            fill_vnic(vnic, &state, &networks);
        }
        let management = state.management.as_ref();
        let controller = management.and_then(|m| text(&m.controller_address));
        let interface = management.and_then(|m| m.interface.as_ref());
        let interface = interface.map(|i| management_vnic(i, object, &networks));
        object.extend(known([
            ("controller_ip", controller),
            ("host_ref", text(&state.host)),
            ("mgmt_vnic", interface),
            ("resources", state.resources.as_ref().map(resources)),
        ]));
    }
}

/// Memory and disk in the units of the SE group's `memory_per_se` and `disk_per_se`: MB and GB.
pub(super) fn resources(host: &HostResources) -> Value {
    let size = |bytes: u64, shift: u32| (bytes != 0).then(|| Value::from(bytes >> shift));
    let threads = Some(host.threads_per_core).filter(|n| *n != 0);
    Value::Object(known([
        ("num_vcpus", count(host.processors)),
        ("memory", size(host.memory_bytes, 20)),
        ("disk", size(host.disk_bytes, 30)),
        ("sockets", count(host.sockets)),
        ("cores_per_socket", count(host.cores_per_socket)),
        ("hyper_threading", threads.map(|n| (n > 1).into())),
    ]))
}

/// An interface is known by its name; one that no engine has reported stays as it is.
fn fill_vnic(vnic: &mut Object, state: &EngineState, networks: &Networks<'_>) {
    let Some(name) = name_of(vnic).map(str::to_owned) else {
        return;
    };
    let interface = state.interfaces.iter().find(|i| i.name == name);
    let link = interface.and_then(|i| i.link.as_ref()).map(link_fields);
    vnic.extend(link.unwrap_or_default());
    let management = state.management.as_ref().and_then(|m| m.interface.as_ref());
    let is_mgmt = management.map(|i| Value::from(i.name == name));
    vnic.extend(known([("is_mgmt", is_mgmt)]));
    let vrf = vrf_of(vnic).unwrap_or(&networks.vrf).to_owned();
    let network = networks.fields(&vrf, vnic);
    vnic.extend(network);
}

fn name_of(vnic: &Object) -> Option<&str> {
    vnic.get("if_name")?.as_str()
}

fn vrf_of(vnic: &Object) -> Option<&str> {
    vnic.get("vrf_ref")?.as_str()
}

/// What the kernel says of a link, shown and not stored.
pub(super) fn link_fields(link: &LinkDetail) -> Object {
    let is_bundle = BUNDLES.contains(&link.adapter.as_str());
    let members = || -> Value {
        let each = link.members.iter().map(|name| json!({"if_name": name}));
        each.collect()
    };
    known([
        ("connected", Some(link.carrier.into())),
        ("vlan_id", Some(link.vlan_id.into())),
        ("adapter", text(&link.adapter)),
        ("pci_id", text(&link.pci_id)),
        ("is_portchannel", Some(is_bundle.into())),
        ("members", is_bundle.then(members)),
    ])
}

/// The interface that the session is on. One that carries traffic as well is in the VRF context in which it does.
fn management_vnic(interface: &Interface, engine: &Object, networks: &Networks<'_>) -> Value {
    let mut vnic = reported(interface);
    vnic.insert("is_mgmt".into(), true.into());
    vnic.extend(interface.link.as_ref().map(link_fields).unwrap_or_default());
    let data = engine.get("data_vnics").and_then(Value::as_array);
    let mut data = data.into_iter().flatten().filter_map(Value::as_object);
    let same = data.find(|v| name_of(v) == Some(interface.name.as_str()));
    let vrf = match same {
        Some(same) => Some(vrf_of(same).unwrap_or(&networks.vrf)),
        None => networks.management_vrf.as_deref(),
    };
    let found = vrf.map(|vrf| networks.fields(vrf, &vnic));
    vnic.extend(found.unwrap_or_default());
    Value::Object(vnic)
}

/// Networks that an engine's interfaces can be in: those of its cloud that its tenant sees.
struct Networks<'a> {
    all: Vec<(&'a str, Arc<Network>)>,
    /// VRF context of interfaces that name none, canonical.
    vrf: String,
    /// That of an interface which carries no traffic of virtual services.
    management_vrf: Option<String>,
}

impl<'a> Networks<'a> {
    fn of(snapshot: &'a Snapshot, uuid: &str, engine: &Stored) -> Self {
        let cloud = engine.object.get("cloud_ref");
        let here = |s: &Stored| s.object.get("cloud_ref") == cloud;
        let seen = |s: &Stored| is_seen_in(engine.tenant(), "network", s);
        let ours = snapshot.all("network").filter(|(_, s)| here(s) && seen(s));
        let view = snapshot.try_view::<ServiceEngine>("serviceengine", uuid);
        let view = view.ok().flatten();
        let vrf = view.map(|view| situation::vrf_of(snapshot, &view));
        let mut management = snapshot.named("vrfcontext", "management");
        let management = management.find(|(_, s)| here(s));
        Self {
            all: ours
                .filter_map(|(uuid, _)| Some((uuid, snapshot.view("network", uuid)?)))
                .collect(),
            vrf: Ref::to("vrfcontext", &vrf.unwrap_or_default()).0,
            management_vrf: management.map(|(uuid, _)| Ref::to("vrfcontext", uuid).0),
        }
    }

    /// Reference and name of the network with the interface's first address that is in one.
    fn fields(&self, vrf: &str, vnic: &Object) -> Object {
        let networks = vnic.get("vnic_networks").and_then(Value::as_array);
        let networks = networks.into_iter().flatten();
        let ips = networks.filter_map(|n| n.get("ip")?.as_object());
        let mut addresses = ips.filter_map(|ip| view::parse::<Prefix>(ip).ok()?.ip_addr.ip());
        let found = addresses.find_map(|address| self.with(vrf, address));
        known([
            (
                "network_ref",
                found.map(|(uuid, _)| Ref::to("network", uuid).0.into()),
            ),
            (
                "network_name",
                found.map(|(_, network)| network.name.as_str().into()),
            ),
        ])
    }

    /// Of several, the one with the smallest subnet.
    fn with(&self, vrf: &str, address: IpAddr) -> Option<(&str, &Network)> {
        let in_vrf = |n: &Network| n.vrf_context_ref.as_ref().is_some_and(|r| r.0 == vrf);
        let ours = self.all.iter().filter(|(_, network)| in_vrf(network));
        let with_size = ours.filter_map(|(uuid, network)| {
            let nets = network.configured_subnets.iter();
            let nets = nets.filter_map(|s| s.prefix.net());
            let length = nets
                .filter(|n| n.contains(&address))
                .map(|n| n.prefix_len());
            Some((length.max()?, (*uuid, &**network)))
        });
        with_size.max_by_key(|(length, _)| *length).map(|(_, n)| n)
    }
}

#[cfg(test)]
mod tests;
