//! When members are asked about UDP datagrams that nobody here knows.
//!
//! A datagram does not say whether it is the first of its flow, and asking about each new flow would delay it and make
//! copies for nothing. So members are asked only while flows may be on the move: for some seconds after the members of a VIP's
//! group, their liveness, whether they answer hellos, whether their processes are there and speak, or our routes to the VIP have
//! changed (DESIGN 6.8).

use super::line::Lines;
use super::voices::Turns;
use flow::config::{Config, Group, Peer};
use flow::hello::{Liveness, Way};
use flow::key::Protocol;
use ipnet::IpNet;
use proto::v1::BgpSession;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long after a change. Routers take a second or so to learn of it and to rehash, and a client that speaks every few
/// seconds must be heard meanwhile.
const ASK_FOR: Duration = Duration::from_secs(5);

/// Our routes that peers have: peer, local address, and the address of the route.
pub(super) type Routes = BTreeSet<(String, String, IpAddr)>;

/// The routes that have been sent.
pub(super) fn routes(sessions: &[BgpSession]) -> Routes {
    let sent = |session: &BgpSession| {
        let (peer, local) = (session.peer.clone(), session.local_address.clone());
        let sent = session.routes.iter().filter(|route| route.sent);
        let address = sent.filter_map(|route| route.prefix.parse::<IpNet>().ok());
        let each = address.map(move |net| (peer.clone(), local.clone(), net.addr()));
        each.collect::<Vec<_>>()
    };
    sessions.iter().flat_map(sent).collect()
}

/// From what a change is seen, besides the plan.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Signs {
    pub routes: Routes,
    pub liveness: Liveness,
    pub lines: Lines,
    pub turns: Turns,
    /// Of the members' hosts and of our own: no change that moves flows.
    pub loads: BTreeMap<String, u8>,
    pub load: u8,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// By uuid of the VsVip: how it was when it changed last, and until when is asked.
    groups: BTreeMap<String, (Situation, Instant)>,
}

/// What decides where flows of a group arrive, and who has them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Situation {
    group: Group,
    members: Vec<Peer>,
    /// Of the members' ways, those on which they have ever answered.
    ways: Liveness,
    /// Lines of the members' processes.
    lines: Lines,
    turns: Turns,
    routes: Routes,
}

impl Asking {
    /// Looks for changes, and writes into the UDP services until when is asked.
    pub(super) fn update(&mut self, config: &mut Config, signs: &Signs, now: Instant) {
        let mut groups = BTreeMap::new();
        for index in 0..config.groups.len() {
            let situation = situation(config, index, signs);
            let uuid = situation.group.vsvip_uuid.clone();
            let before = self.groups.remove(&uuid);
            let same = before.filter(|(old, _)| *old == situation);
            let until = same.map_or(now + ASK_FOR, |(_, until)| until);
            let services = config.services.iter_mut().filter(|s| s.group == index);
            for service in services.filter(|s| s.protocol == Protocol::Udp) {
                service.udp_ask_until = (until > now).then_some(until);
            }
            groups.insert(uuid, (situation, until));
        }
        self.groups = groups;
    }
}

fn situation(config: &Config, index: usize, signs: &Signs) -> Situation {
    let services = config.services.iter().filter(|s| s.group == index);
    let vips: BTreeSet<IpAddr> = services.map(|s| s.address.ip()).collect();
    let mut group = config.groups[index].clone();
    let members = group.members.iter().map(|m| config.peers[m.peer].clone());
    let members: Vec<Peer> = members.collect();
    // Indexes of peers change with engines that are in other groups only.
    group.members.iter_mut().for_each(|m| m.peer = 0);
    // Who gets which new flow moves none.
    group.spread = None;
    let links = || members.iter().flat_map(|peer| &peer.links);
    let uuids = members.iter().map(|peer| &peer.se_uuid);
    Situation {
        ways: of(&signs.liveness, links().map(Way::from)),
        lines: of(&signs.lines, links().map(Way::from)),
        turns: of(&signs.turns, uuids.cloned()),
        routes: signs
            .routes
            .iter()
            .filter(|(_, _, address)| vips.contains(address))
            .cloned()
            .collect(),
        group,
        members,
    }
}

/// What is known of these.
fn of<K: Ord, V: Clone>(known: &BTreeMap<K, V>, these: impl Iterator<Item = K>) -> BTreeMap<K, V> {
    let found = these.filter_map(|key| known.get(&key).cloned().map(|value| (key, value)));
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flow::config::{Answers, Link, Member, Service};
    use flow::hello::State;
    use proto::v1::BgpRoute;
    use std::net::SocketAddr;

    const SECOND: Duration = Duration::from_secs(1);

    fn service(vip: &str, protocol: Protocol, group: usize) -> Service {
        Service {
            address: SocketAddr::new(vip.parse().expect("ip"), 53),
            protocol,
            group,
            hints: false,
            probes: true,
            udp_ask_until: None,
        }
    }

    fn group(uuid: &str) -> Group {
        Group {
            vsvip_uuid: uuid.into(),
            generation: 1,
            us: 0,
            drains: false,
            spread: None,
            answers: Answers::default(),
            members: vec![Member {
                id: 1,
                peer: 0,
                takes_new: true,
            }],
        }
    }

    /// TCP and UDP at the first VIP, UDP at the second.
    fn config() -> Config {
        Config {
            services: vec![
                service("10.100.0.1", Protocol::Tcp, 0),
                service("10.100.0.1", Protocol::Udp, 0),
                service("10.100.0.2", Protocol::Udp, 1),
            ],
            groups: vec![group("v"), group("w")],
            peers: vec![Peer {
                se_uuid: "2".into(),
                name: "se-2".into(),
                addresses: Vec::new(),
                links: Vec::new(),
                alive: true,
            }],
            ..Config::default()
        }
    }

    fn until(config: &Config) -> Vec<Option<Instant>> {
        config.services.iter().map(|s| s.udp_ask_until).collect()
    }

    fn sent(prefix: &str, sent: bool) -> Signs {
        let route = BgpRoute {
            prefix: prefix.into(),
            sent,
            ..BgpRoute::default()
        };
        let session = BgpSession {
            routes: vec![route],
            ..BgpSession::default()
        };
        Signs {
            routes: routes(&[session]),
            ..Signs::default()
        }
    }

    #[test]
    fn a_new_group_is_asked_about_for_a_while_and_only_its_udp() {
        let (mut asking, at) = (Asking::default(), Instant::now());
        let mut first = config();
        asking.update(&mut first, &Signs::default(), at);
        let end = Some(at + ASK_FOR);
        assert_eq!(until(&first), [None, end, end]);
        let mut same = config();
        asking.update(&mut same, &Signs::default(), at + SECOND);
        assert_eq!(same, first, "nothing has changed, and nothing is written");
        let mut later = config();
        asking.update(&mut later, &Signs::default(), at + ASK_FOR);
        assert_eq!(until(&later), [None; 3]);
    }

    #[test]
    fn members_liveness_and_routes_of_a_vip_open_the_window_of_that_vip_alone() {
        type Change = fn(&mut Config) -> Signs;
        let changes: [Change; 5] = [
            |c| {
                c.groups[1].generation = 2;
                Signs::default()
            },
            |c| {
                c.groups[1].members.clear();
                Signs::default()
            },
            |c| {
                c.groups[1].drains = true;
                Signs::default()
            },
            |_| sent("10.100.0.2/32", true),
            |c| {
                let dead = Peer {
                    alive: false,
                    ..c.peers[0].clone()
                };
                c.peers.push(dead);
                c.groups[1].members[0].peer = 1;
                Signs::default()
            },
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let (mut asking, at) = (Asking::default(), Instant::now());
            asking.update(&mut config(), &Signs::default(), at);
            let mut changed = config();
            let signs = change(&mut changed);
            let now = at + 10 * SECOND;
            asking.update(&mut changed, &signs, now);
            let expected = [None, None, Some(now + ASK_FOR)];
            assert_eq!(until(&changed), expected, "change {number}");
        }
    }

    /// Group `v` has a member at 10.10.10.12.
    fn with_way() -> Config {
        let mut config = config();
        config.peers[0].links = vec![Link {
            local: "10.10.10.11".parse().expect("ip"),
            remote: "10.10.10.12".parse().expect("ip"),
            ifindex: 1,
            next_hop: None,
        }];
        config
    }

    #[test]
    fn a_member_that_answers_hellos_no_more_or_again_is_a_change() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("ip");
        let (local, remote) = (ip("10.10.10.11"), ip("10.10.10.12"));
        let heard = |state| Signs {
            liveness: Liveness::from([(Way { local, remote }, state)]),
            ..Signs::default()
        };
        let (mut asking, mut now) = (Asking::default(), Instant::now());
        asking.update(&mut with_way(), &heard(State::Up), now);
        for (state, is_news) in [
            (State::Up, false),
            (State::Down, true),
            (State::Down, false),
            (State::Up, true),
        ] {
            now += 10 * SECOND;
            let mut config = with_way();
            asking.update(&mut config, &heard(state), now);
            let asks = until(&config).into_iter().flatten().next();
            assert_eq!(asks, is_news.then_some(now + ASK_FOR), "{state:?}");
        }
    }

    #[test]
    fn a_line_that_ends_or_is_another_one_is_a_change_and_so_is_a_turn() {
        let way = |remote: &str| Way {
            local: "10.10.10.11".parse().expect("ip"),
            remote: remote.parse().expect("ip"),
        };
        let start = Instant::now();
        let held = |remote: &str, since| Signs {
            lines: Lines::from([(way(remote), since)]),
            ..Signs::default()
        };
        let turn = |uuid: &str| Signs {
            turns: Turns::from([(uuid.into(), 1)]),
            ..Signs::default()
        };
        let (mut asking, mut now) = (Asking::default(), start);
        asking.update(&mut with_way(), &held("10.10.10.12", start), now);
        for (signs, is_news) in [
            (held("10.10.10.12", start), false),
            (held("10.10.10.12", start + SECOND), true),
            (Signs::default(), true),
            (held("10.10.10.13", start), false),
            (turn("2"), true),
            (turn("3"), true),
            (turn("3"), false),
        ] {
            now += 10 * SECOND;
            let mut config = with_way();
            asking.update(&mut config, &signs, now);
            let asks = until(&config).into_iter().flatten().next();
            assert_eq!(asks, is_news.then_some(now + ASK_FOR), "{signs:?}");
        }
    }

    #[test]
    fn a_peer_of_another_group_and_a_route_that_was_not_sent_change_nothing() {
        let (mut asking, at) = (Asking::default(), Instant::now());
        asking.update(&mut config(), &Signs::default(), at);
        let mut other = config();
        other.peers.insert(0, other.peers[0].clone());
        other.peers[0].alive = false;
        for group in &mut other.groups {
            group.members[0].peer = 1;
        }
        let now = at + 10 * SECOND;
        asking.update(&mut other, &sent("10.100.0.1/32", false), now);
        assert_eq!(until(&other), [None; 3]);
    }
}
