//! Addresses for VIPs that ask for one (avi-api section 12, network and vsvip): from the ranges of a network, the lowest first
//! that nobody has in the VRF context.
//!
//! It is done at the end of a change, on the draft with all that is written: an address that one object of the change names
//! is not given to another one. Changes are made one at a time ([`super::Objects::change`]), each on what the one before
//! has committed, so that no two get the same address. The addresses that are in use are read from the index in order.

use super::normalise::{failed, items, vsvip_type};
use super::{Draft, Snapshot, Stored};
use crate::access::is_seen_in;
use crate::error::ApiError;
use ipnet::IpNet;
use model::object::{FieldError, Object};
use model::view::{
    self, IpNetworkSubnet, Network, Prefix, Ref, ServiceEngine, VipRange, address_after,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Says that the controller picked an address that the VIP still has.
const ALLOCATED: &str = "avi_allocated_vip";
/// Where the VIP wants its address from.
const WISH: &str = "ipam_network_subnet";
/// How to come to an address when no range is there.
const ADD_A_RANGE: &str = "add static_ip_ranges (type STATIC_IPS_FOR_VIP or STATIC_IPS_FOR_VIP_AND_SE) to the network's configured_subnets, or write the address";
/// Names and ranges in a message; more do not help.
const LISTED_MAX: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const ALL: [Self; 2] = [Self::V4, Self::V6];

    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::V4 => "V4",
            Self::V6 => "V6",
        }
    }

    /// Where a VIP has its address.
    fn field(self) -> &'static str {
        match self {
            Self::V4 => "ip_address",
            Self::V6 => "ip6_address",
        }
    }

    /// Where a VIP says of which subnet it wants one.
    fn subnet_field(self) -> &'static str {
        match self {
            Self::V4 => "subnet",
            Self::V6 => "subnet6",
        }
    }

    fn subnet(self, wish: &IpNetworkSubnet) -> Option<IpNet> {
        let subnet = match self {
            Self::V4 => &wish.subnet,
            Self::V6 => &wish.subnet6,
        };
        subnet.as_ref().and_then(Prefix::net)
    }

    fn address(self, vip: &Object) -> Option<IpAddr> {
        vip.get(self.field())?.get("addr")?.as_str()?.parse().ok()
    }

    /// True when the VIP is to get its address of this family from the controller.
    fn is_asked(self, vip: &Object) -> bool {
        let kind = vip.get("auto_allocate_ip_type").and_then(Value::as_str);
        let asked = match kind {
            Some("V4_V6") => true,
            Some("V6_ONLY") => self == Self::V6,
            // V4_ONLY, which is the schema's default.
            _ => self == Self::V4,
        };
        asked && vip.get("auto_allocate_ip") == Some(&Value::Bool(true))
    }

    fn is_wanted(self, vip: &Object) -> bool {
        self.is_asked(vip) && !vip.contains_key(self.field())
    }
}

fn vips(vsvip: &Object) -> impl Iterator<Item = &Object> {
    let vips = vsvip.get("vip").and_then(Value::as_array);
    vips.into_iter().flatten().filter_map(Value::as_object)
}

fn has_no_address(vip: &Object) -> bool {
    Family::ALL.iter().all(|f| !vip.contains_key(f.field()))
}

fn is_allocated(vip: &Object) -> bool {
    vip.get(ALLOCATED) == Some(&Value::Bool(true))
}

fn wish_of(vip: &Object) -> IpNetworkSubnet {
    let wish = vip.get(WISH).and_then(Value::as_object);
    // It was validated before it was stored.
    wish.and_then(|w| view::parse(w).ok()).unwrap_or_default()
}

/// True when a VIP of this VsVip asks for an address that it does not have.
pub(super) fn is_asking(vsvip: &Object) -> bool {
    vips(vsvip).any(|vip| Family::ALL.iter().any(|f| f.is_wanted(vip)))
}

/// What a VIP has got stays although the body does not say so (avi-api section 15: Terraform, and whoever writes only his own
/// fields, never sends it). It is asked for anew where the VRF context changes, or another network or subnet is named.
pub(super) fn keep(snapshot: &Snapshot, stored: &Object, vsvip: &mut Object) {
    keep_ids(stored, vsvip);
    let moves = stored.get("vrf_context_ref") != vsvip.get("vrf_context_ref");
    for vip in items(vsvip, "vip") {
        let Some(before) = vips(stored).find(|b| b.get("vip_id") == vip.get("vip_id")) else {
            continue;
        };
        let same_wish = !vip.contains_key(WISH) || vip.get(WISH) == before.get(WISH);
        let wish = wish_of(vip);
        let stays = |address| !moves && (same_wish || offers(snapshot, &wish, address));
        keep_addresses(before, vip, stays);
    }
}

/// A VIP that asks for its address and says neither id nor address is the first one that asked before and that the body
/// does not name otherwise.
fn keep_ids(stored: &Object, vsvip: &mut Object) {
    let named: BTreeSet<String> = vips(vsvip)
        .filter_map(|v| Some(v.get("vip_id")?.as_str()?.to_owned()))
        .collect();
    let asks = |vip: &Object| Family::ALL.iter().any(|f| f.is_asked(vip));
    let ids = vips(stored).filter(|v| is_allocated(v) || asks(v));
    let ids = ids.filter_map(|v| v.get("vip_id")?.as_str());
    let mut left = ids.filter(|id| !named.contains(*id));
    let nameless = items(vsvip, "vip").filter(|v| !v.contains_key("vip_id"));
    for vip in nameless.filter(|v| asks(v) && has_no_address(v)) {
        let Some(id) = left.next() else { break };
        vip.insert("vip_id".into(), id.into());
    }
}

fn keep_addresses(before: &Object, vip: &mut Object, stays: impl Fn(IpAddr) -> bool) {
    let asks = Family::ALL.iter().any(|f| f.is_asked(vip));
    // Who no longer asks and writes no address does not mean to be without one.
    let is_left = !asks && is_allocated(before) && has_no_address(vip);
    let mut still_ours = false;
    for family in Family::ALL {
        let Some(address) = family.address(before) else {
            continue;
        };
        if family.is_wanted(vip) && stays(address) || is_left {
            let value = before[family.field()].clone();
            vip.insert(family.field().into(), value);
        }
        still_ours |= is_allocated(before) && family.address(vip) == Some(address);
    }
    if still_ours {
        vip.insert(ALLOCATED.into(), true.into());
    }
}

/// True when the address lies where the VIP wants it.
fn offers(snapshot: &Snapshot, wish: &IpNetworkSubnet, address: IpAddr) -> bool {
    let subnet = Family::of(address).subnet(wish);
    let of_network = |network: &Ref| {
        let network = snapshot.view::<Network>("network", network.uuid());
        network.is_some_and(|n| n.subnets().any(|s| s.contains(&address)))
    };
    subnet.is_none_or(|s| s.contains(&address)) && wish.network_ref.as_ref().is_none_or(of_network)
}

impl Draft {
    /// Gives every VIP that this change has written the addresses that it asks for, in the order of the writes.
    ///
    /// # Errors
    /// By field, why one cannot have its address.
    pub(super) fn allocate(&mut self) -> Result<(), ApiError> {
        let asking = std::mem::take(&mut self.asking);
        let several = asking.len() > 1;
        let mut given = Given::default();
        for uuid in asking {
            let Some(stored) = self.snapshot.get("vsvip", &uuid).cloned() else {
                continue;
            };
            let mut vsvip = stored.object.clone();
            let errors = given.fill(&self.snapshot, &stored, &mut vsvip);
            failed(errors).map_err(|error| match several {
                true => ApiError::new(
                    error.status,
                    format!("VsVip {}: {}", stored.name(), error.text),
                ),
                false => error,
            })?;
            self.put(vsvip_type(), &uuid, vsvip);
        }
        Ok(())
    }
}

/// What one change has given so far.
#[derive(Default)]
struct Given {
    /// VRF context and address.
    addresses: BTreeSet<(Ref, IpAddr)>,
    /// By VRF context, uuid of the network and first address of a range: below this nothing is free.
    searched: BTreeMap<(Ref, String, IpAddr), IpAddr>,
    /// Addresses of the engines' own interfaces.
    interfaces: Option<BTreeSet<IpAddr>>,
}

/// Where a VIP may have its address from.
struct Source {
    network: Arc<Network>,
    /// Lowest first, and not empty.
    ranges: Vec<VipRange>,
}

impl Given {
    fn fill(
        &mut self,
        snapshot: &Snapshot,
        stored: &Stored,
        vsvip: &mut Object,
    ) -> Vec<FieldError> {
        let vrf = vsvip.get("vrf_context_ref").and_then(Value::as_str);
        let vrf = Ref(vrf.unwrap_or_default().to_owned());
        let mut errors = Vec::new();
        for (i, vip) in items(vsvip, "vip").enumerate() {
            for family in Family::ALL {
                let wanted = Wanted {
                    snapshot,
                    tenant: stored.tenant(),
                    vrf: &vrf,
                    family,
                    wish: wish_of(vip),
                };
                let found = family.is_wanted(vip).then(|| self.find(&wanted));
                match found.transpose() {
                    Ok(address) => address.into_iter().for_each(|a| set(vip, a)),
                    Err(e) => errors.push(in_vip(i, e)),
                }
            }
        }
        errors
    }

    fn find(&mut self, wanted: &Wanted<'_>) -> Result<IpAddr, FieldError> {
        let source = wanted.source()?;
        let found = self.take(wanted, &source);
        found.ok_or_else(|| exhausted(wanted.family, &source))
    }

    /// The lowest address that is free.
    fn take(&mut self, wanted: &Wanted<'_>, source: &Source) -> Option<IpAddr> {
        for range in &source.ranges {
            let network = source.network.uuid.clone();
            let key = (wanted.vrf.clone(), network, range.first);
            let from = self.searched.get(&key).copied().unwrap_or(range.first);
            let free = self.lowest_free(wanted, from, range.last);
            self.searched.insert(key, free.unwrap_or(range.last));
            if let Some(address) = free {
                self.addresses.insert((wanted.vrf.clone(), address));
                return free;
            }
        }
        None
    }

    fn lowest_free(&mut self, wanted: &Wanted<'_>, from: IpAddr, last: IpAddr) -> Option<IpAddr> {
        let mut used = wanted.snapshot.addresses_from(wanted.vrf, from).peekable();
        let mut address = from;
        while address <= last {
            while used.next_if(|u| *u < address).is_some() {}
            if used.peek() != Some(&address) && !self.has_given(wanted, address) {
                return Some(address);
            }
            address = address_after(address)?;
        }
        None
    }

    /// True when it is given to another VIP of this change, or is an engine's own: a range may be for both.
    fn has_given(&mut self, wanted: &Wanted<'_>, address: IpAddr) -> bool {
        let interfaces = self
            .interfaces
            .get_or_insert_with(|| interfaces(wanted.snapshot));
        interfaces.contains(&address) || self.addresses.contains(&(wanted.vrf.clone(), address))
    }
}

/// Whatever VRF contexts they are in: the address of a link is a bad VIP elsewhere, too.
fn interfaces(snapshot: &Snapshot) -> BTreeSet<IpAddr> {
    let engines = snapshot.views::<ServiceEngine>("serviceengine");
    let vnics = engines.iter().flat_map(|e| &e.data_vnics);
    let networks = vnics.flat_map(|v| &v.vnic_networks);
    networks.filter_map(|n| n.ip.ip_addr.ip()).collect()
}

fn in_vip(index: usize, error: FieldError) -> FieldError {
    let path = format!("vip[{index}].{}", error.path);
    FieldError { path, ..error }
}

fn set(vip: &mut Object, address: IpAddr) {
    let family = Family::of(address);
    let value = json!({"addr": address.to_string(), "type": family.word()});
    vip.insert(family.field().into(), value);
    vip.insert(ALLOCATED.into(), true.into());
}

/// An address that a VIP asks for. The paths of its errors begin in the VIP.
struct Wanted<'a> {
    snapshot: &'a Snapshot,
    /// uuid of the VsVip's.
    tenant: &'a str,
    vrf: &'a Ref,
    family: Family,
    wish: IpNetworkSubnet,
}

impl Wanted<'_> {
    fn source(&self) -> Result<Source, FieldError> {
        match &self.wish.network_ref {
            Some(network) => self.named(network),
            None => self.only(),
        }
    }

    fn ranges(&self, network: &Network) -> Vec<VipRange> {
        let subnet = self.family.subnet(&self.wish);
        let v4 = self.family == Family::V4;
        network.vip_ranges(|net| net.addr().is_ipv4() == v4 && subnet.is_none_or(|s| s == *net))
    }

    /// The network that the VIP names.
    fn named(&self, network: &Ref) -> Result<Source, FieldError> {
        let path = format!("{WISH}.network_ref");
        let Some(network) = self.snapshot.view::<Network>("network", network.uuid()) else {
            let problem = "the network cannot be read";
            return Err(FieldError::new(path, problem, "write the network again"));
        };
        let name = &network.name;
        if network.vrf_context_ref.as_ref() != Some(self.vrf) {
            let problem = format!("network {name} is in another VRF context");
            let hint = "name a network of the VIP's VRF context";
            return Err(FieldError::new(path, problem, hint));
        }
        self.check_subnet(&network)?;
        let ranges = self.ranges(&network);
        if ranges.is_empty() {
            let problem = format!("network {name} has no {} range for VIPs", self.what());
            return Err(FieldError::new(path, problem, ADD_A_RANGE));
        }
        Ok(Source { network, ranges })
    }

    /// `V4`, `V4 (10.1.0.0/24)`.
    fn what(&self) -> String {
        let subnet = self.family.subnet(&self.wish);
        let subnet = subnet.map(|s| format!(" ({s})")).unwrap_or_default();
        format!("{}{subnet}", self.family.word())
    }

    fn check_subnet(&self, network: &Network) -> Result<(), FieldError> {
        let Some(subnet) = self.family.subnet(&self.wish) else {
            return Ok(());
        };
        if network.subnets().any(|s| s == subnet) {
            return Ok(());
        }
        let path = format!("{WISH}.{}", self.family.subnet_field());
        let problem = format!("{subnet} is no subnet of network {}", network.name);
        let has = list(network.subnets());
        let hint = format!("name one that its configured_subnets have ({has}), or add it there");
        Err(FieldError::new(path, problem, hint))
    }

    /// The only network of the VRF context with ranges for VIPs that the tenant sees.
    fn only(&self) -> Result<Source, FieldError> {
        let mut sources = self.sources();
        if sources.len() == 1 {
            return Ok(sources.remove(0));
        }
        let vrf = self.snapshot.name_of("vrfcontext", self.vrf.uuid());
        let (vrf, what) = (vrf.unwrap_or_default(), self.what());
        if sources.is_empty() {
            let problem = format!(
                "no network that the tenant sees in VRF context {vrf} has a {what} range for VIPs"
            );
            return Err(FieldError::new(WISH, problem, ADD_A_RANGE));
        }
        let names = list(sources.iter().map(|s| &s.network.name));
        let problem = format!(
            "{} networks of VRF context {vrf} have {what} ranges for VIPs: {names}",
            sources.len()
        );
        let hint = format!("name one of them in {WISH}.network_ref");
        Err(FieldError::new(WISH, problem, hint))
    }

    fn sources(&self) -> Vec<Source> {
        let is_here = |stored: &Stored| {
            let vrf = stored.object.get("vrf_context_ref").and_then(Value::as_str);
            vrf == Some(&self.vrf.0) && is_seen_in(self.tenant, "network", stored)
        };
        let all = self.snapshot.all("network").filter(|(_, s)| is_here(s));
        let networks = all.filter_map(|(uuid, _)| self.snapshot.view("network", uuid));
        let sources = networks.map(|network| Source {
            ranges: self.ranges(&network),
            network,
        });
        sources.filter(|s| !s.ranges.is_empty()).collect()
    }
}

fn exhausted(family: Family, source: &Source) -> FieldError {
    let name = &source.network.name;
    let ranges = list(
        source
            .ranges
            .iter()
            .map(|r| format!("{} to {}", r.first, r.last)),
    );
    let count = source.ranges.iter().map(VipRange::count);
    let problem = match count.fold(0, u128::saturating_add) {
        1 => format!("network {name} has 1 address for VIPs ({ranges}), and it is in use"),
        n => format!("network {name} has {n} addresses for VIPs ({ranges}), and all are in use"),
    };
    let hint = "widen its static_ip_ranges, name another network or subnet, or delete a VsVip that is not needed";
    FieldError::new(
        family.field(),
        format!("No available free IPs: {problem}"),
        hint,
    )
}

/// The first few, separated by commas.
fn list<T: ToString>(all: impl Iterator<Item = T>) -> String {
    let mut words: Vec<_> = all.map(|word| word.to_string()).collect();
    if words.len() > LISTED_MAX {
        words.truncate(LISTED_MAX);
        words.push("…".to_owned());
    }
    words.join(", ")
}

#[cfg(test)]
mod tests;
