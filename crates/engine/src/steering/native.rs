//! What is known of the groups of VIPs that are scaled natively: who is there, and how new flows are spread
//! (docs/dev/steering.md, section 11).

use super::asking::Signs;
use super::{load, voices};
use flow::config::{Answers, Config, Group, Peer};
use flow::decide::Members;
use flow::hello::{State, Way};
use flow::primary::Circle;
use flow::spread::{By, Spread};
use ipnet::IpNet;
use proto::v1::{self, DesiredState, FlowDistribution, Interface};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A group whose VIP is scaled natively.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Native {
    pub vsvip_uuid: String,
    /// Its addresses.
    pub vips: Vec<IpAddr>,
    pub circle: Circle,
    /// By member id: uuid of the engine, without us.
    pub members: BTreeMap<u8, String>,
    /// It is answered for on each interface, instead of on the one whose subnet it is in.
    pub on_all_interfaces: bool,
    /// Our subnets that the VIP is in; none where members need not be near us on its own link.
    nets: Vec<IpNet>,
    /// How new flows are spread; none = whoever answers takes them.
    distribution: Option<FlowDistribution>,
    /// What the VIP sends goes through the primary.
    answers_by_primary: bool,
}

#[cfg(test)]
impl Native {
    /// With one address, and alone.
    pub(crate) fn of(vsvip_uuid: &str, vip: IpAddr, circle: Circle) -> Self {
        Self {
            vsvip_uuid: vsvip_uuid.to_owned(),
            vips: vec![vip],
            circle,
            members: BTreeMap::new(),
            on_all_interfaces: false,
            nets: Vec::new(),
            distribution: None,
            answers_by_primary: false,
        }
    }
}

/// Of the desired state; nobody is there yet.
pub(super) fn natives(desired: &DesiredState, interfaces: &[Interface]) -> Vec<Native> {
    let groups = desired.groups.iter();
    let each = groups.filter_map(|g| native(desired, g, g.native.as_ref()?, interfaces));
    each.collect()
}

fn native(
    desired: &DesiredState,
    group: &v1::Group,
    native: &v1::Native,
    interfaces: &[Interface],
) -> Option<Native> {
    let vips = vips(desired, &group.vsvip_uuid);
    let up = interfaces.iter().filter(|i| i.up);
    let ours: Vec<IpNet> = up.flat_map(|i| nets(&i.addresses)).collect();
    let linked = linked(desired, &ours, &vips);
    let members = group.members.iter();
    let members = members.filter_map(|m| Some((id(m.id)?, m.se_uuid.clone())));
    Some(Native {
        vsvip_uuid: group.vsvip_uuid.clone(),
        members: members.collect(),
        circle: circle(desired, group, native, (&ours, &linked))?,
        on_all_interfaces: native.on_all_interfaces,
        nets: ours.into_iter().filter(|net| holds(net, &vips)).collect(),
        vips,
        distribution: native.spreads.then(|| native.distribution()),
        answers_by_primary: native.answers_by_primary,
    })
}

fn id(id: u32) -> Option<u8> {
    u8::try_from(id).ok()
}

fn vips(desired: &DesiredState, vsvip: &str) -> Vec<IpAddr> {
    let vips = desired.vips.iter().filter(|v| v.vsvip_uuid == vsvip);
    vips.filter_map(|v| v.address.parse().ok()).collect()
}

fn nets(addresses: &[String]) -> impl Iterator<Item = IpNet> + '_ {
    addresses.iter().filter_map(|a| a.parse().ok())
}

fn holds(net: &IpNet, vips: &[IpAddr]) -> bool {
    vips.iter().any(|vip| net.contains(vip))
}

/// The VIPs that are on the link of any engine; who answers for one must for all.
fn linked(desired: &DesiredState, ours: &[IpNet], vips: &[IpAddr]) -> Vec<IpAddr> {
    let theirs = desired.peers.iter().flat_map(|p| nets(&p.addresses));
    let all: Vec<IpNet> = ours.iter().copied().chain(theirs).collect();
    let here = vips
        .iter()
        .filter(|vip| all.iter().any(|net| net.contains(*vip)));
    here.copied().collect()
}

/// Whether an engine with these subnets can answer: it is on the link of every VIP that is on one. Where none is, on any link if all
/// are answered on.
fn is_near(native: &v1::Native, linked: &[IpAddr], nets: &[IpNet]) -> bool {
    match linked.is_empty() {
        true => native.on_all_interfaces && !nets.is_empty(),
        false => {
            let mut each = linked.iter();
            each.all(|vip| nets.iter().any(|net| net.contains(vip)))
        }
    }
}

/// Whoever leaves, or is not near, answers for nobody.
fn circle(
    desired: &DesiredState,
    group: &v1::Group,
    native: &v1::Native,
    (ours, linked): (&[IpNet], &[IpAddr]),
) -> Option<Circle> {
    let is_near = |nets: &[IpNet]| is_near(native, linked, nets);
    let fits = |m: &&v1::Member| {
        let peer = desired.peers.iter().find(|p| p.se_uuid == m.se_uuid);
        let nets: Vec<IpNet> = peer.into_iter().flat_map(|p| nets(&p.addresses)).collect();
        m.takes_new && is_near(&nets)
    };
    let others = group.members.iter().filter(fits).filter_map(|m| id(m.id));
    let leaves = group.lingers || desired.draining;
    Some(Circle {
        us: id(group.member_id)?,
        first: id(native.first_id)?,
        others: Members::of(others),
        fit: !leaves && is_near(ours),
        leaves: leaves && is_near(ours),
        present: Members::default(),
    })
}

fn by(distribution: FlowDistribution) -> By {
    match distribution {
        FlowDistribution::ConsistentHashSourceIpAddress => By::Address,
        FlowDistribution::Unspecified
        | FlowDistribution::LoadAware
        | FlowDistribution::ConsistentHashSourceIpAddressAndPort => By::AddressAndPort,
    }
}

impl Native {
    /// What engines say of their load matters.
    pub(super) fn is_load_aware(&self) -> bool {
        match self.distribution {
            Some(FlowDistribution::Unspecified | FlowDistribution::LoadAware) => true,
            Some(
                FlowDistribution::ConsistentHashSourceIpAddress
                | FlowDistribution::ConsistentHashSourceIpAddressAndPort,
            )
            | None => false,
        }
    }

    /// Of the members that take new flows, and of us.
    fn spread(&self, group: &Group, peers: &[Peer], signs: &Signs) -> Option<Spread> {
        let weight = |load: u8| match self.is_load_aware() {
            true => load::weight(load),
            false => 1,
        };
        let us = (!group.drains).then(|| (group.us, weight(signs.load)));
        let takers = group.members.iter().filter(|m| m.takes_new).map(|m| {
            let load = signs.loads.get(&peers[m.peer].se_uuid);
            (m.id, weight(load.copied().unwrap_or(0)))
        });
        let takers: Vec<(u8, u32)> = us.into_iter().chain(takers).collect();
        Some(Spread::over(by(self.distribution?), &takers))
    }

    /// Through whoever is the primary as far as we know, unless it is we; while nobody else was heard, whom the controller names.
    fn relay(&self, group: &Group, peers: &[Peer], signs: &Signs) -> Option<u8> {
        let is_first = self.circle.present.is_empty();
        let known = match is_first {
            true => Some(self.circle.first),
            false => self.circle.primary(),
        };
        let id = known.filter(|id| *id != group.us)?;
        let peer = peer_of(group, peers, id)?;
        let is_silent = is_first && near(peer, &self.nets).any(|way| is_down(&way, signs));
        (self.reaches(peer) && !is_silent).then_some(id)
    }

    /// A tunnel to the peer carries every family of the VIP.
    fn reaches(&self, peer: &Peer) -> bool {
        let of = |vip: &IpAddr| {
            peer.links
                .iter()
                .any(|l| l.remote.is_ipv4() == vip.is_ipv4())
        };
        self.vips.iter().all(of)
    }
}

fn peer_of<'a>(group: &Group, peers: &'a [Peer], id: u8) -> Option<&'a Peer> {
    let member = group.members.iter().find(|m| m.id == id)?;
    peers.get(member.peer)
}

/// For so long one that sends our answers on does so after another one, or we, became the primary for us: we may be wrong, and
/// whoever it is does not speak yet.
const LINGER: Duration = Duration::from_secs(1);

/// Who sends our answers on, by uuid of the VsVip.
#[derive(Debug, Default)]
pub(super) struct Relays(BTreeMap<String, Relay>);

#[derive(Debug, Clone, Copy)]
struct Relay {
    id: u8,
    /// It is the primary no more.
    until: Option<Instant>,
}

impl Relays {
    /// When one that lingers ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.0.values().filter_map(|relay| relay.until).min()
    }

    fn settle(&mut self, native: &Native, group: &Group, peers: &[Peer], signs: &Signs) -> Answers {
        let uuid = &native.vsvip_uuid;
        if !native.answers_by_primary {
            self.0.remove(uuid);
            return Answers::Directly;
        }
        let now = Instant::now();
        let lingers = |old: &Relay| Relay {
            until: old.until.or(Some(now + LINGER)),
            ..*old
        };
        let may_linger = |relay: &Relay| {
            let peer = peer_of(group, peers, relay.id);
            let answers = peer.is_some_and(|peer| answers(peer, &native.nets, signs));
            answers && relay.until.is_some_and(|until| now < until)
        };
        let primary = native.relay(group, peers, signs);
        let old = self.0.get(uuid).filter(|old| Some(old.id) != primary);
        let relay = old.map(lingers).filter(may_linger);
        let relay = relay.or(primary.map(|id| Relay { id, until: None }));
        match relay {
            Some(relay) => drop(self.0.insert(uuid.clone(), relay)),
            None => drop(self.0.remove(uuid)),
        }
        Answers::ByPrimary(relay.map(|relay| relay.id))
    }
}

/// Says who is there, lets new flows go to nobody else, spreads them, and says how answers reach clients.
pub(super) fn settle(
    natives: &mut [Native],
    config: &mut Config,
    signs: &Signs,
    relays: &mut Relays,
) {
    let Config { groups, peers, .. } = config;
    relays
        .0
        .retain(|uuid, _| natives.iter().any(|n| n.vsvip_uuid == *uuid));
    for native in natives {
        let mut groups = groups.iter_mut();
        let Some(group) = groups.find(|g| g.vsvip_uuid == native.vsvip_uuid) else {
            continue;
        };
        let mut present = Vec::new();
        for member in &mut group.members {
            let peer = &peers[member.peer];
            let there = is_there(peer, &native.nets, signs);
            present.extend(there.then_some(member.id));
            member.takes_new &= there && native.reaches(peer);
        }
        native.circle.present = Members::of(present);
        group.spread = native.spread(group, peers, signs);
        group.answers = relays.settle(native, group, peers, signs);
    }
}

/// Its process is there: its program answers, it holds a line to us and speaks.
fn is_there(peer: &Peer, nets: &[IpNet], signs: &Signs) -> bool {
    let mut ways = peer.links.iter().map(Way::from);
    let holds = ways.any(|way| signs.lines.contains_key(&way));
    answers(peer, nets, signs) && holds && voices::speaks(&signs.turns, &peer.se_uuid)
}

/// Its program answers on the VIP's link.
fn answers(peer: &Peer, nets: &[IpNet], signs: &Signs) -> bool {
    near(peer, nets).any(|way| signs.liveness.get(&way) == Some(&State::Up))
}

/// It was heard, and does not answer.
fn is_down(way: &Way, signs: &Signs) -> bool {
    let state = signs.liveness.get(way);
    state.is_some_and(|state| *state != State::Up)
}

/// The ways to it on the VIP's link. One that is there by another network alone cannot answer clients; where the VIP is on no link
/// of ours, or on all of them, any network will do.
fn near<'a>(peer: &'a Peer, nets: &'a [IpNet]) -> impl Iterator<Item = Way> + 'a {
    let is_near = |way: &Way| nets.is_empty() || nets.iter().any(|net| net.contains(&way.remote));
    peer.links.iter().map(Way::from).filter(is_near)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flow::config::{Link, Member};
    use flow::hello::Liveness;

    fn peer(id: u8) -> Peer {
        let remote = format!("10.10.10.1{id}").parse().expect("ip");
        Peer {
            se_uuid: format!("se-{id}"),
            name: format!("se-{id}"),
            addresses: vec![remote],
            links: vec![Link {
                local: "10.10.10.10".parse().expect("ip"),
                remote,
                ifindex: 1,
                next_hop: None,
            }],
            alive: true,
        }
    }

    /// We are 0, and 1 to 3 are the others; 3 is scaled in, and 2 has no address in the VIP's subnet.
    fn desired(distribution: FlowDistribution) -> DesiredState {
        let member = |id: u32, takes_new| v1::Member {
            id,
            se_uuid: format!("se-{id}"),
            takes_new,
        };
        let peer = |id: u32, address: &str| v1::Peer {
            se_uuid: format!("se-{id}"),
            addresses: vec![address.into()],
            ..v1::Peer::default()
        };
        DesiredState {
            vips: vec![v1::Vip {
                vsvip_uuid: "v".into(),
                address: "10.10.10.100".into(),
                ..v1::Vip::default()
            }],
            groups: vec![v1::Group {
                vsvip_uuid: "v".into(),
                members: vec![member(1, true), member(2, true), member(3, false)],
                native: Some(v1::Native {
                    first_id: 1,
                    spreads: true,
                    distribution: distribution.into(),
                    answers_by_primary: false,
                    on_all_interfaces: false,
                }),
                ..v1::Group::default()
            }],
            peers: vec![
                peer(1, "10.10.10.11/24"),
                peer(2, "10.9.9.12/24"),
                peer(3, "10.10.10.13/24"),
            ],
            ..DesiredState::default()
        }
    }

    fn interfaces() -> Vec<Interface> {
        vec![Interface {
            name: "eth0".into(),
            up: true,
            addresses: vec!["10.10.10.10/24".into()],
            ..Interface::default()
        }]
    }

    fn config() -> Config {
        let member = |id: u8| Member {
            id,
            peer: usize::from(id) - 1,
            takes_new: id != 3,
        };
        Config {
            groups: vec![Group {
                vsvip_uuid: "v".into(),
                generation: 1,
                us: 0,
                drains: false,
                spread: None,
                answers: Answers::default(),
                members: (1..4).map(member).collect(),
            }],
            peers: (1..4).map(peer).collect(),
            ..Config::default()
        }
    }

    /// All three signs of these.
    fn signs(there: &[u8]) -> Signs {
        let mut signs = Signs {
            liveness: Liveness::new(),
            ..Signs::default()
        };
        for id in there {
            let way = Way::from(&peer(*id).links[0]);
            signs.liveness.insert(way, State::Up);
            signs.lines.insert(way, Instant::now());
            signs.turns.insert(format!("se-{id}"), 1);
        }
        signs
    }

    fn settled(signs: &Signs) -> (Native, Config) {
        settled_by(FlowDistribution::ConsistentHashSourceIpAddress, signs)
    }

    fn settled_by(distribution: FlowDistribution, signs: &Signs) -> (Native, Config) {
        let mut natives = natives(&desired(distribution), &interfaces());
        let mut config = config();
        settle(&mut natives, &mut config, signs, &mut Relays::default());
        (natives.remove(0), config)
    }

    /// Slots of member 1, of 256; the other ones are ours.
    fn slots_of_one(distribution: FlowDistribution, ours: u8, its: u8) -> usize {
        let mut signs = signs(&[1]);
        (signs.load, signs.loads) = (ours, BTreeMap::from([("se-1".into(), its)]));
        let (_, config) = settled_by(distribution, &signs);
        let spread = config.groups[0].spread.as_ref().expect("spread");
        spread.slots.iter().filter(|id| **id == 1).count()
    }

    #[test]
    fn busier_engines_get_fewer_new_flows_only_where_the_load_counts() {
        let aware = FlowDistribution::LoadAware;
        assert_eq!(slots_of_one(aware, 0, 0), 128);
        assert_eq!(slots_of_one(aware, 0, 100), 23, "10 parts of 110");
        assert_eq!(slots_of_one(aware, 50, 0), 171, "100 parts of 150");
        let by_hash = FlowDistribution::ConsistentHashSourceIpAddressAndPort;
        assert_eq!(slots_of_one(by_hash, 0, 100), 128);
    }

    #[test]
    fn whoever_leaves_or_is_not_on_the_link_is_never_the_primary() {
        let (native, _) = settled(&signs(&[1, 2, 3]));
        assert_eq!(native.circle.others, Members::of([1]));
        assert_eq!((native.circle.first, native.circle.fit), (1, true));
        assert_eq!(native.circle.present, Members::of([1, 2, 3]));
        let nowhere = natives(&desired(FlowDistribution::LoadAware), &[]);
        assert!(!nowhere[0].circle.fit);
    }

    #[test]
    fn answered_for_on_all_interfaces_a_vip_in_no_subnet_has_members_on_any_link() {
        let with = |vip: &str, on_all_interfaces| {
            let mut desired = desired(FlowDistribution::LoadAware);
            desired.vips[0].address = vip.into();
            let native = desired.groups[0].native.as_mut();
            native.expect("native").on_all_interfaces = on_all_interfaces;
            let mut natives = natives(&desired, &interfaces());
            let mut config = config();
            config.peers[1].links[0].remote = "10.9.9.12".parse().expect("ip");
            let mut signs = signs(&[1]);
            let way = Way::from(&config.peers[1].links[0]);
            signs.liveness.insert(way, State::Up);
            signs.lines.insert(way, Instant::now());
            signs.turns.insert("se-2".into(), 1);
            let relays = &mut Relays::default();
            settle(&mut natives, &mut config, &signs, relays);
            let Circle {
                fit,
                others,
                present,
                ..
            } = natives.remove(0).circle;
            (fit, others, present)
        };
        let (one, both) = (Members::of([1]), Members::of([1, 2]));
        assert_eq!(with("10.10.10.100", false), (true, one, one));
        let nobody = Members::default();
        assert_eq!(with("10.100.0.1", false), (false, nobody, both));
        assert_eq!(
            with("10.10.10.100", true),
            (true, one, one),
            "by its own link"
        );
        assert_eq!(with("10.100.0.1", true), (true, both, both));
        let mut desired = desired(FlowDistribution::LoadAware);
        desired.vips[0].address = "10.100.0.1".into();
        let native = desired.groups[0].native.as_mut();
        native.expect("native").on_all_interfaces = true;
        assert!(!natives(&desired, &[])[0].circle.fit, "on no link");
    }

    #[test]
    fn new_flows_are_spread_over_us_and_those_who_are_there_and_take_them() {
        let (_, config) = settled(&signs(&[1, 3]));
        let spread = config.groups[0].spread.as_ref().expect("spread");
        assert_eq!(spread.by, By::Address);
        assert_eq!(*spread, Spread::over(By::Address, &[(0, 1), (1, 1)]));
        let takes: Vec<bool> = config.groups[0]
            .members
            .iter()
            .map(|m| m.takes_new)
            .collect();
        assert_eq!(takes, [true, false, false]);
    }

    /// With `se_tunnel_mode` 1, by the same relays as before.
    fn answers_by(relays: &mut Relays, signs: &Signs) -> Answers {
        let mut desired = desired(FlowDistribution::LoadAware);
        let native = desired.groups[0].native.as_mut();
        native.expect("native").answers_by_primary = true;
        let mut natives = natives(&desired, &interfaces());
        let mut config = config();
        settle(&mut natives, &mut config, signs, relays);
        config.groups[0].answers
    }

    #[test]
    fn answers_go_through_the_primary_and_for_a_while_through_the_last_one() {
        let mut relays = Relays::default();
        let all = signs(&[1, 2, 3]);
        let by = |id| Answers::ByPrimary(id);
        assert_eq!(answers_by(&mut relays, &all), by(Some(1)));
        let mut killed = all.clone();
        killed.lines.remove(&Way::from(&peer(1).links[0]));
        assert_eq!(answers_by(&mut relays, &killed), by(Some(1)), "its program");
        let end = relays.next_end().expect("for a while");
        assert_eq!(answers_by(&mut relays, &killed), by(Some(1)));
        assert_eq!(relays.next_end(), Some(end));
        let gone = signs(&[3]);
        assert_eq!(answers_by(&mut relays, &gone), by(None), "we are the first");
        assert_eq!(relays.next_end(), None);
        let mut unheard = signs(&[]);
        assert_eq!(answers_by(&mut relays, &unheard), by(Some(1)), "named");
        let way = Way::from(&peer(1).links[0]);
        unheard.liveness.insert(way, State::Down);
        assert_eq!(answers_by(&mut Relays::default(), &unheard), by(None));
        assert_eq!(settled(&all).1.groups[0].answers, Answers::Directly);
    }

    #[test]
    fn a_process_is_there_when_its_program_answers_and_it_holds_a_line_and_speaks() {
        let way = Way::from(&peer(1).links[0]);
        let nets = ["10.10.10.0/24".parse().expect("net")];
        let all = signs(&[1]);
        assert!(is_there(&peer(1), &nets, &all));
        let mut killed = all.clone();
        killed.lines.clear();
        let mut hangs = all.clone();
        hangs.turns.insert("se-1".into(), 2);
        let elsewhere = ["10.9.9.0/24".parse().expect("net")];
        assert!(
            !is_there(&peer(1), &elsewhere, &all),
            "by another network alone"
        );
        assert!(is_there(&peer(1), &[], &all));
        let mut gone = all;
        gone.liveness.insert(way, State::Down);
        for signs in [killed, hangs, gone] {
            assert!(!is_there(&peer(1), &nets, &signs));
        }
    }
}
