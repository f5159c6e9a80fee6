//! From a configuration to the maps.
//!
//! Indexes of groups and peers stay what they are for as long as somebody has them, also over a restart of this process:
//! cache entries and events name them.

use super::load::Error;
use super::raw;
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use aya::{Ebpf, Pod};
use flow::spread::{By, SLOTS};
use flow::{Config, Group, Link, Peer, Service, Settings};
use nix::time::{ClockId, clock_gettime};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

const NANOS: u64 = 1_000_000_000;

/// Where groups and peers are in the maps.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// By uuid of the VsVip.
    groups: BTreeMap<String, usize>,
    /// By uuid of the engine.
    peers: BTreeMap<String, usize>,
    /// What an earlier process left: group by VIP.
    old_groups: BTreeMap<raw::Address, usize>,
    /// And peer by address.
    old_peers: BTreeMap<raw::Address, usize>,
}

impl Places {
    /// What is in maps that were adopted.
    pub(super) fn recover(ebpf: &Ebpf) -> Result<Self, Error> {
        let mut places = Self::default();
        let services: HashMap<_, raw::ServiceKey, raw::Service> = hash(ebpf, "services")?;
        for entry in services.iter().flatten() {
            let (key, service) = entry;
            places.old_groups.insert(key.vip, service.group as usize);
        }
        let members: HashMap<_, raw::MemberKey, raw::Member> = hash(ebpf, "members")?;
        for (key, member) in members.iter().flatten().filter(|(_, m)| m.peer != OURS) {
            places.old_peers.insert(key.address, member.peer.into());
        }
        Ok(places)
    }

    /// Indexes of peers by the engine's uuid.
    pub(super) fn peers(&self) -> &BTreeMap<String, usize> {
        &self.peers
    }

    fn settle(&mut self, config: &Config) -> Result<(), Error> {
        let known = |old: &BTreeMap<raw::Address, usize>, of: Vec<IpAddr>| {
            of.iter()
                .find_map(|ip| old.get(&raw::address(*ip)).copied())
        };
        let wanted = config.groups.iter().enumerate().map(|(index, group)| {
            let vips = config.services.iter().filter(|s| s.group == index);
            let old = known(&self.old_groups, vips.map(|s| s.address.ip()).collect());
            (group.vsvip_uuid.clone(), old)
        });
        let groups = allocate(&self.groups, wanted.collect(), "VIPs", raw::GROUPS_MAX)?;
        let wanted = config.peers.iter().map(|peer| {
            let old = known(&self.old_peers, peer.addresses.clone());
            (peer.se_uuid.clone(), old)
        });
        // Index 0 is nobody's: it stands for no member.
        let peers = allocate(&self.peers, wanted.collect(), "peers", raw::PEERS_MAX)?;
        (self.groups, self.peers) = (groups, peers);
        self.old_groups.clear();
        self.old_peers.clear();
        Ok(())
    }
}

/// The index in `members` of what is ours.
const OURS: u16 = u16::MAX;

/// Everybody keeps the place that they have, or had before; the others get free ones.
fn allocate(
    now: &BTreeMap<String, usize>,
    wanted: Vec<(String, Option<usize>)>,
    what: &'static str,
    most: usize,
) -> Result<BTreeMap<String, usize>, Error> {
    let mut taken = BTreeSet::from([0]);
    let mut places = BTreeMap::new();
    for (name, old) in &wanted {
        let kept = now.get(name).copied().or(*old);
        if let Some(place) = kept.filter(|p| taken.insert(*p)) {
            places.insert(name.clone(), place);
        }
    }
    for (name, _) in wanted {
        let Entry::Vacant(place) = places.entry(name) else {
            continue;
        };
        let free = (1..most).find(|p| !taken.contains(p));
        let free = free.ok_or(Error::Room { what, most })?;
        taken.insert(free);
        place.insert(free);
    }
    Ok(places)
}

pub(super) fn fill(
    ebpf: &mut Ebpf,
    places: &mut Places,
    config: &Config,
    watching: bool,
) -> Result<(), Error> {
    places.settle(config)?;
    fill_settings(ebpf, &config.settings, watching)?;
    for peer in &config.peers {
        set(ebpf, "peers", places.peers[&peer.se_uuid], raw_peer(peer))?;
    }
    for group in &config.groups {
        let index = places.groups[&group.vsvip_uuid];
        set(ebpf, "groups", index, raw_group(group, config, places))?;
    }
    let members = members(config, places);
    let services = services(config, places);
    put(ebpf, "members", &members)?;
    put(ebpf, "services", &services)?;
    prune(ebpf, "services", &services)?;
    prune(ebpf, "members", &members)
}

/// What holds for all services; `watching`: there are flows in `watched`.
pub(super) fn fill_settings(
    ebpf: &mut Ebpf,
    settings: &Settings,
    watching: bool,
) -> Result<(), Error> {
    set(ebpf, "settings", 0, raw_settings(settings, watching))
}

/// Hints of all flows are believed again.
pub(super) fn trust_hints(ebpf: &mut Ebpf) -> Result<(), Error> {
    set(ebpf, "no_hint", 0, raw::NoHintBits { words: [0; 1024] })
}

fn raw_settings(settings: &Settings, watching: bool) -> raw::Settings {
    let Settings {
        probe_retries,
        probe_retry_timer,
        message_keys,
        hint_key,
        copies_per_s,
        copies_burst,
        port,
        former_port,
        forgets_at_once,
        // Hellos are the process's.
        rhythm: _,
    } = settings;
    let secret = |index: usize| {
        let key = message_keys.get(index);
        raw::Secret {
            k0: key.map_or(0, |k| k.secret[0]),
            k1: key.map_or(0, |k| k.secret[1]),
            id: key.map_or(0, |k| k.id),
            valid: key.is_some().into(),
        }
    };
    let copy_ns = NANOS / u64::from(*copies_per_s).max(1);
    raw::Settings {
        hint_k0: hint_key.0[0],
        hint_k1: hint_key.0[1],
        secrets: [secret(0), secret(1)],
        retry_ns: u64::try_from(probe_retry_timer.as_nanos()).unwrap_or(u64::MAX),
        copy_ns,
        burst_ns: copy_ns * u64::from(*copies_burst),
        retries: (*probe_retries).into(),
        watching: watching.into(),
        port: port.to_be(),
        former_port: former_port.unwrap_or(*port).to_be(),
        forgets_at_once: (*forgets_at_once).into(),
        zero: [0; 3],
    }
}

fn raw_peer(peer: &Peer) -> raw::Peer {
    let of = |v4: bool| peer.links.iter().find(move |l| l.remote.is_ipv4() == v4);
    let v4 = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => u32::from_ne_bytes(v4.octets()),
        IpAddr::V6(_) => 0,
    };
    let (link4, link6) = (of(true), of(false));
    let wide = |ip: Option<IpAddr>| ip.map_or([0, 0], raw::address);
    let hop = |link: Option<&Link>| link.and_then(|l| l.next_hop);
    raw::Peer {
        ifindex4: link4.map_or(0, |l| l.ifindex),
        ifindex6: link6.map_or(0, |l| l.ifindex),
        local4: link4.map_or(0, |l| v4(l.local)),
        remote4: link4.map_or(0, |l| v4(l.remote)),
        next_hop4: hop(link4).map_or(0, v4),
        zero: 0,
        local6: wide(link6.map(|l| l.local)),
        remote6: wide(link6.map(|l| l.remote)),
        next_hop6: wide(hop(link6)),
    }
}

fn raw_group(group: &Group, config: &Config, places: &Places) -> raw::Group {
    let mut entry = raw::Group {
        generation: group.generation,
        live: 0,
        takes_new: 0,
        us: group.us,
        drains: group.drains.into(),
        spread: group.spread.as_ref().map_or(0, |s| by(s.by)),
        relay: group.answers.relay().map_or(0, |id| id + 1),
        zero: [0; 4],
        peers: [0; 64],
        slots: group.spread.as_ref().map_or([0; SLOTS], |s| *s.slots),
    };
    for member in &group.members {
        let peer = &config.peers[member.peer];
        let (id, bit) = (usize::from(member.id), 1 << member.id);
        entry.peers[id] = u16::try_from(places.peers[&peer.se_uuid]).unwrap_or(0);
        entry.live |= if peer.alive { bit } else { 0 };
        entry.takes_new |= if member.takes_new { bit } else { 0 };
    }
    entry
}

fn by(by: By) -> u8 {
    match by {
        By::AddressAndPort => raw::SPREAD_BY_ADDRESS_AND_PORT,
        By::Address => raw::SPREAD_BY_ADDRESS,
    }
}

fn members(config: &Config, places: &Places) -> Vec<(raw::MemberKey, raw::Member)> {
    let mut all = Vec::new();
    for group in &config.groups {
        let index = u32::try_from(places.groups[&group.vsvip_uuid]).unwrap_or(0);
        let key = |ip: &IpAddr| raw::MemberKey {
            address: raw::address(*ip),
            group: index,
            zero: 0,
        };
        let entry = |peer: u16, id: u8| raw::Member { peer, id, zero: 0 };
        all.extend(
            config
                .addresses
                .iter()
                .map(|ip| (key(ip), entry(OURS, group.us))),
        );
        for member in &group.members {
            let peer = &config.peers[member.peer];
            let place = u16::try_from(places.peers[&peer.se_uuid]).unwrap_or(0);
            all.extend(
                peer.addresses
                    .iter()
                    .map(|ip| (key(ip), entry(place, member.id))),
            );
        }
    }
    all
}

/// Each port, and each VIP as port and protocol 0: fragments have no ports.
fn services(config: &Config, places: &Places) -> Vec<(raw::ServiceKey, raw::Service)> {
    let entry = |service: &Service, whole_vip: bool| {
        let group = &config.groups[service.group].vsvip_uuid;
        let key = raw::ServiceKey {
            vip: raw::address(service.address.ip()),
            port: if whole_vip {
                0
            } else {
                service.address.port().to_be()
            },
            protocol: if whole_vip {
                0
            } else {
                service.protocol.number()
            },
            zero: [0; 5],
        };
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        let value = raw::Service {
            group: u32::try_from(places.groups[group]).unwrap_or(0),
            flags: flag(service.hints, raw::SERVICE_HINTS)
                | flag(service.probes, raw::SERVICE_PROBES),
            udp_ask_until_ns: service.udp_ask_until.map_or(0, clock),
        };
        (key, value)
    };
    let both = |service| [entry(service, false), entry(service, true)];
    let mut all: Vec<_> = config.services.iter().flat_map(both).collect();
    all.sort_by_key(|(key, _)| *key);
    all.dedup_by_key(|(key, _)| *key);
    all
}

/// As the programs read it (`CLOCK_MONOTONIC`, as [`Instant`] does); 0 for what is past, or where there is no such clock.
fn clock(until: Instant) -> u64 {
    let left = until.saturating_duration_since(Instant::now());
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else {
        return 0;
    };
    match left.is_zero() {
        true => 0,
        false => u64::try_from((Duration::from(now) + left).as_nanos()).unwrap_or(u64::MAX),
    }
}

fn map_error(name: &'static str) -> impl FnOnce(MapError) -> Error {
    move |source| Error::Map { name, source }
}

fn hash<'a, K: Pod, V: Pod>(
    ebpf: &'a Ebpf,
    name: &'static str,
) -> Result<HashMap<&'a MapData, K, V>, Error> {
    let map: &Map = ebpf.map(name).ok_or(Error::Missing(name))?;
    map.try_into().map_err(map_error(name))
}

fn hash_mut<'a, K: Pod, V: Pod>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<HashMap<&'a mut MapData, K, V>, Error> {
    let map: &mut Map = ebpf.map_mut(name).ok_or(Error::Missing(name))?;
    map.try_into().map_err(map_error(name))
}

fn set<V: Pod>(ebpf: &mut Ebpf, name: &'static str, index: usize, value: V) -> Result<(), Error> {
    let map: &mut Map = ebpf.map_mut(name).ok_or(Error::Missing(name))?;
    let mut array: Array<&mut MapData, V> = map.try_into().map_err(map_error(name))?;
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    array.set(index, value, 0).map_err(map_error(name))
}

fn put<K: Pod, V: Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
    entries: &[(K, V)],
) -> Result<(), Error> {
    let mut map: HashMap<_, K, V> = hash_mut(ebpf, name)?;
    for (key, value) in entries {
        map.insert(key, value, 0).map_err(map_error(name))?;
    }
    Ok(())
}

/// Removes what is not among the entries.
fn prune<K: Pod + Ord, V: Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
    entries: &[(K, V)],
) -> Result<(), Error> {
    let mut map: HashMap<_, K, V> = hash_mut(ebpf, name)?;
    let wanted: BTreeSet<&K> = entries.iter().map(|(key, _)| key).collect();
    let there: Vec<K> = map.keys().flatten().collect();
    for key in there.iter().filter(|key| !wanted.contains(key)) {
        map.remove(key).map_err(map_error(name))?;
    }
    Ok(())
}
