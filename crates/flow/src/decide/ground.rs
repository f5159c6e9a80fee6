//! Who is who: services, groups and members, as a decision looks them up.

use super::Hop;
use crate::config::{Answers, Config, Group, Link, Member};
use crate::key::{Flow, Protocol};
use crate::mark::Mark;
use crate::spread::{By, Spread};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// A set of member ids, 0 to 63.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Members(pub u64);

impl Members {
    /// Of these; ids from 64 on do not exist.
    pub fn of(ids: impl IntoIterator<Item = u8>) -> Self {
        let ids = ids.into_iter().filter(|id| *id < 64);
        Self(ids.fold(0, |bits, id| bits | 1 << id))
    }

    /// Is it in?
    #[must_use]
    pub fn contains(self, id: u8) -> bool {
        id < 64 && self.0 >> id & 1 == 1
    }

    /// With those of the other, too.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are not in the other.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// How many.
    #[must_use]
    pub fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// None at all.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// In ascending order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..64).filter(move |id| self.contains(*id))
    }
}

/// What a flow's service says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ground {
    /// Index of the group.
    pub group: usize,
    /// Timestamps name owners.
    pub hints: bool,
    /// Members may be asked.
    pub probes: bool,
    /// Datagrams are asked about until then.
    pub udp_ask_until: Option<Instant>,
    /// Our id.
    us: u8,
    /// We take no new flows.
    drains: bool,
    /// New flows are spread, by this of them.
    pub spread: Option<By>,
    /// How what the VIP sends reaches clients.
    pub answers: Answers,
    /// Others that are alive.
    pub live: Members,
    /// Those of them that take new flows.
    pub takes_new: Members,
    /// The packet's family.
    is_ipv4: bool,
}

/// The configuration, indexed.
#[derive(Debug, Clone, Default)]
pub(super) struct Map {
    config: Config,
    services: BTreeMap<(SocketAddr, Protocol), usize>,
    /// VIP → its first service: for what has no ports.
    vips: BTreeMap<IpAddr, usize>,
    /// Group's uuid → member ids and tunnel addresses of the generation before.
    previous: BTreeMap<String, Vec<(u8, IpAddr)>>,
}

impl Map {
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A new configuration; a group whose generation has changed remembers who was in it.
    pub fn replace(&mut self, config: Config) {
        let generations = |group: &Group| (group.vsvip_uuid.clone(), group.generation);
        let new: BTreeMap<String, u64> = config.groups.iter().map(generations).collect();
        self.previous.retain(|uuid, _| new.contains_key(uuid));
        for group in &self.config.groups {
            if new
                .get(&group.vsvip_uuid)
                .is_some_and(|generation| *generation != group.generation)
            {
                let addresses = addresses(&self.config, group).collect();
                self.previous.insert(group.vsvip_uuid.clone(), addresses);
            }
        }
        self.services.clear();
        self.vips.clear();
        for (index, service) in config.services.iter().enumerate() {
            let key = (service.address, service.protocol);
            self.services.entry(key).or_insert(index);
            self.vips.entry(service.address.ip()).or_insert(index);
        }
        self.config = config;
    }

    pub fn mark(&self, flow: &Flow) -> Mark {
        Mark::of(self.config.settings.hint_key, flow)
    }

    /// Of the flow's service, if it is ours.
    pub fn ground(&self, flow: &Flow) -> Option<Ground> {
        let index = self.services.get(&(flow.service, flow.protocol))?;
        self.ground_of_service(*index)
    }

    /// Of the first service with this address: for what has no ports.
    pub fn ground_of_vip(&self, vip: IpAddr) -> Option<Ground> {
        self.ground_of_service(*self.vips.get(&vip)?)
    }

    fn ground_of_service(&self, index: usize) -> Option<Ground> {
        let service = &self.config.services[index];
        let group = self.config.groups.get(service.group)?;
        let is_alive = |member: &&Member| {
            let peer = self.config.peers.get(member.peer);
            peer.is_some_and(|peer| peer.alive)
        };
        let live = || group.members.iter().filter(is_alive);
        Some(Ground {
            group: service.group,
            hints: service.hints,
            probes: service.probes,
            udp_ask_until: service.udp_ask_until,
            us: group.us,
            drains: group.drains,
            spread: group.spread.as_ref().map(|spread| spread.by),
            answers: group.answers,
            live: Members::of(live().map(|member| member.id)),
            takes_new: Members::of(live().filter(|m| m.takes_new).map(|m| m.id)),
            is_ipv4: service.address.is_ipv4(),
        })
    }

    /// The other member that a new flow is for, if it is not for us; `served`: a socket here takes it.
    pub fn taker(&self, ground: &Ground, flow: &Flow, served: bool) -> Option<u8> {
        let Some(spread) = &self.config.groups[ground.group].spread else {
            let takers = ground.takes_new;
            return best(self.mark(flow), takers).filter(|_| ground.drains);
        };
        let here = served && !ground.drains;
        let us = Members::of(here.then_some(ground.us));
        let takers = ground.takes_new.with(us);
        let mark = Spread::mark(spread.by, self.config.settings.hint_key, flow);
        let named = Some(spread.named(mark)).filter(|id| takers.contains(*id));
        named
            .or_else(|| best(mark, takers))
            .filter(|id| !us.contains(*id))
    }

    /// The first way to a member in this family.
    fn link(&self, member: &Member, is_ipv4: bool) -> Option<Link> {
        let links = &self.config.peers.get(member.peer)?.links;
        let mut links = links.iter().filter(|link| link.remote.is_ipv4() == is_ipv4);
        links.next().copied()
    }

    /// The ways to these members, in ascending order; there is none to a member without an address of the family.
    pub fn hops(&self, ground: &Ground, members: Members) -> Vec<Hop> {
        let group = &self.config.groups[ground.group];
        let hop = |id| {
            let member = group.members.iter().find(|member| member.id == id)?;
            let link = self.link(member, ground.is_ipv4)?;
            Some(Hop { member: id, link })
        };
        members.iter().filter_map(hop).collect()
    }

    /// Our own id and the generation in a group.
    pub fn us(&self, ground: &Ground) -> (u8, u32) {
        let group = &self.config.groups[ground.group];
        (group.us, group.generation as u32)
    }

    /// The members, of this or the previous generation, that have this tunnel address.
    pub fn members_at(&self, ground: &Ground, address: IpAddr) -> Members {
        let group = &self.config.groups[ground.group];
        let before = self.previous.get(&group.vsvip_uuid).into_iter().flatten();
        let all = addresses(&self.config, group).chain(before.copied());
        Members::of(all.filter(|(_, known)| *known == address).map(|(id, _)| id))
    }

    /// One of our own.
    pub fn is_ours(&self, address: IpAddr) -> bool {
        self.config.addresses.contains(&address)
    }
}

/// Member ids and tunnel addresses of a group.
fn addresses<'a>(config: &'a Config, group: &'a Group) -> impl Iterator<Item = (u8, IpAddr)> + 'a {
    group.members.iter().flat_map(|member| {
        let peer = config.peers.get(member.peer);
        let addresses = peer.into_iter().flat_map(|peer| &peer.addresses);
        addresses.map(|address| (member.id, *address))
    })
}

/// Rendezvous hashing: the member with the highest score for this flow, the lower id if two have the same.
fn best(mark: Mark, members: Members) -> Option<u8> {
    let mut ids: Vec<u8> = members.iter().collect();
    ids.reverse();
    ids.into_iter().max_by_key(|id| score(mark, *id))
}

fn score(mark: Mark, id: u8) -> u64 {
    let step = (u64::from(id) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let x = (mark.0 ^ step).wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
    x ^ x >> 32
}
