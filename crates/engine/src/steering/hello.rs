//! Hellos to the other members, a socket for each way ([`flow::hello`]). Their programs answer, so that an engine whose
//! process hangs or starts again is no dead one.

use super::Plan;
use super::load::Busy;
use dataplane::sockopt;
use flow::Flow;
use flow::config::{Config, MessageKey};
use flow::hello::{Hellos, Liveness, Way};
use flow::wire::{Envelope, MESSAGE_LEN, Message, MessageKind};
use socket2::{Domain, Socket, Type};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

/// Answers read per tick and way; one is expected.
const ANSWERS_PER_TICK: usize = 16;

/// Says hello on all ways of the plan, and publishes which of them answer. Cancel-safe: it waits for time only.
pub(crate) async fn run(
    mut plans: watch::Receiver<Arc<Plan>>,
    liveness: watch::Sender<Liveness>,
    load: watch::Sender<u8>,
) {
    let mut round = Round::default();
    let mut busy = Busy::default();
    let mut tick = every(Config::default().settings.rhythm.interval);
    while let Ok(changed) = plans.has_changed() {
        if changed {
            let plan = plans.borrow_and_update().clone();
            round.follow(&plan.config);
            let interval = plan.config.settings.rhythm.interval;
            if interval != tick.period() {
                tick = every(interval);
            }
        }
        if let Some(now) = busy.tick(Instant::now()) {
            round.load = now;
            load.send_replace(now);
        }
        round.tick();
        liveness.send_if_modified(|old| {
            let new = round.hellos.liveness();
            let is_news = *old != new;
            *old = new;
            is_news
        });
        tick.tick().await;
    }
}

fn every(interval: Duration) -> Interval {
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

/// What is said on which way.
pub(super) type Letters = BTreeMap<Way, Message>;

#[derive(Default)]
struct Round {
    hellos: Hellos,
    letters: Letters,
    keys: Vec<MessageKey>,
    /// By each way and port that a member may answer on.
    wanted: BTreeSet<(Way, u16)>,
    posts: BTreeMap<(Way, u16), UdpSocket>,
    /// No socket could be made for these; it was said.
    failed: BTreeSet<(Way, u16)>,
    /// What we say of ourselves.
    load: u8,
}

impl Round {
    fn follow(&mut self, config: &Config) {
        self.letters = letters(config);
        self.keys.clone_from(&config.settings.message_keys);
        let ways: BTreeSet<Way> = self.letters.keys().copied().collect();
        self.hellos.follow(&ways, config.settings.rhythm);
        let by = |port: u16| ways.iter().map(move |way| (*way, port));
        self.wanted = config.settings.ports().flat_map(by).collect();
        self.posts.retain(|post, _| self.wanted.contains(post));
        self.failed.retain(|post| self.wanted.contains(post));
    }

    fn tick(&mut self) {
        self.open();
        for ((way, _), post) in &self.posts {
            for number in heard(post, &self.keys) {
                self.hellos.heard(*way, number);
            }
        }
        let (number, ways) = self.hellos.tick();
        for way in ways {
            self.say(way, number);
        }
    }

    fn open(&mut self) {
        for (way, port) in &self.wanted {
            if self.posts.contains_key(&(*way, *port)) {
                continue;
            }
            match post(way, *port) {
                Ok(socket) => drop(self.posts.insert((*way, *port), socket)),
                Err(error) if self.failed.insert((*way, *port)) => {
                    let Way { local, remote } = way;
                    tracing::warn!(%local, %remote, port, "no hellos on this way: {error}");
                }
                Err(_) => {}
            }
        }
    }

    /// What cannot be sent, for want of a route or a neighbour, is a hello without an answer.
    fn say(&self, way: Way, number: u16) {
        let (Some(letter), Some(key)) = (self.letters.get(&way), self.keys.first()) else {
            return;
        };
        let hello = Message {
            number,
            load: self.load,
            ..*letter
        };
        let hello = hello.sign(key);
        for ((_, port), post) in self.posts.range((way, 0)..=(way, u16::MAX)) {
            if let Err(error) = post.send(&hello) {
                tracing::trace!(remote = %way.remote, port, "hello not sent: {error}");
            }
        }
    }
}

/// For each way to a member, a hello about a service that both hold.
pub(super) fn letters(config: &Config) -> Letters {
    let mut letters = Letters::new();
    for service in &config.services {
        let group = &config.groups[service.group];
        let any: IpAddr = match service.address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let hello = Message {
            kind: MessageKind::Hello,
            sender: group.us,
            number: 0,
            generation: group.generation as u32, // its lower bits, as docs/dev/steering.md says
            flow: Flow {
                protocol: service.protocol,
                client: SocketAddr::new(any, 0),
                service: service.address,
            },
            load: 0,
        };
        let links = group
            .members
            .iter()
            .flat_map(|m| &config.peers[m.peer].links);
        for link in links {
            letters.entry(link.into()).or_insert(hello);
        }
    }
    letters
}

/// Hears its peer and nobody else; several share our address and port.
fn post(way: &Way, port: u16) -> io::Result<UdpSocket> {
    let (local, remote) = (
        SocketAddr::new(way.local, port),
        SocketAddr::new(way.remote, port),
    );
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    sockopt::set_tos(&socket, way.remote, sockopt::TOS_CS6).map_err(io::Error::other)?;
    sockopt::set_no_checksum(&socket, way.local).map_err(io::Error::other)?;
    socket.bind(&local.into())?;
    socket.connect(&remote.into())?;
    Ok(socket.into())
}

/// Numbers of the hellos that were answered.
fn heard(post: &UdpSocket, keys: &[MessageKey]) -> Vec<u16> {
    let mut numbers = Vec::new();
    let mut datagram = [0; MESSAGE_LEN + 1];
    for _ in 0..ANSWERS_PER_TICK {
        match post.recv(&mut datagram) {
            Ok(len) => numbers.extend(answer(&datagram[..len], keys)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // What became of a hello: nobody there takes it.
            Err(_) => {}
        }
    }
    numbers
}

fn answer(datagram: &[u8], keys: &[MessageKey]) -> Option<u16> {
    let envelope = Envelope::read(datagram).ok()?;
    envelope.check().ok()?;
    let message = envelope.open(keys).ok()?;
    (message.kind == MessageKind::Heard).then_some(message.number)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use flow::config::{Answers, Group, Link, Member, Peer, Service, Settings};
    use flow::hello::State;
    use flow::key::Protocol;
    use flow::wire::MESSAGE_PORT;

    const KEY: MessageKey = MessageKey {
        id: 7,
        secret: [1, 2],
    };

    pub(crate) fn config(local: &str, remote: &str) -> Config {
        let ip = |text: &str| text.parse().expect("ip");
        Config {
            services: vec![Service {
                address: "10.100.0.1:80".parse().expect("address"),
                protocol: Protocol::Tcp,
                group: 0,
                hints: true,
                probes: true,
                udp_ask_until: None,
            }],
            groups: vec![Group {
                vsvip_uuid: "vsvip-1".into(),
                generation: 3,
                us: 1,
                drains: false,
                spread: None,
                answers: Answers::default(),
                members: vec![Member {
                    id: 2,
                    peer: 0,
                    takes_new: true,
                }],
            }],
            peers: vec![Peer {
                se_uuid: "se-2".into(),
                name: "se-2".into(),
                addresses: vec![ip(remote)],
                links: vec![Link {
                    local: ip(local),
                    remote: ip(remote),
                    ifindex: 1,
                    next_hop: None,
                }],
                alive: true,
            }],
            addresses: vec![ip(local)],
            settings: Settings {
                message_keys: vec![KEY],
                ..Settings::default()
            },
        }
    }

    /// The other end, in the place of the program that answers there.
    fn answers(round: &mut Round, other: &UdpSocket, key: &MessageKey) {
        round.tick();
        let mut hello = [0; 100];
        let (len, from) = other.recv_from(&mut hello).expect("a hello");
        let hello = Envelope::read(&hello[..len]).expect("a message");
        let hello = hello.open(&[KEY]).expect("signed");
        assert_eq!((hello.kind, hello.sender), (MessageKind::Hello, 1));
        let heard = Message {
            kind: MessageKind::Heard,
            sender: 2,
            ..hello
        };
        other.send_to(&heard.sign(key), from).expect("sent");
    }

    #[test]
    fn a_way_is_up_once_its_hellos_are_answered_with_our_key() {
        let config = config("127.0.91.1", "127.0.91.2");
        let other = UdpSocket::bind(("127.0.91.2", MESSAGE_PORT)).expect("loopback");
        let mut round = Round::default();
        round.follow(&config);
        let forger = MessageKey {
            id: 7,
            secret: [1, 3],
        };
        answers(&mut round, &other, &forger);
        answers(&mut round, &other, &forger);
        assert_eq!(round.hellos.liveness(), Liveness::new());
        answers(&mut round, &other, &KEY);
        round.tick();
        let states: Vec<State> = round.hellos.liveness().into_values().collect();
        assert_eq!(states, [State::Up]);
    }

    /// It has not been told yet; when it has been, and the former port is over, it is up by the new one.
    #[test]
    fn a_member_that_answers_by_the_former_port_alone_is_up() {
        let mut config = config("127.0.91.3", "127.0.91.4");
        let old = UdpSocket::bind(("127.0.91.4", MESSAGE_PORT)).expect("loopback");
        let mut round = Round::default();
        round.follow(&config);
        answers(&mut round, &old, &KEY);
        (config.settings.port, config.settings.former_port) = (4790, Some(MESSAGE_PORT));
        round.follow(&config);
        for _ in 0..10 {
            answers(&mut round, &old, &KEY);
        }
        let states: Vec<State> = round.hellos.liveness().into_values().collect();
        assert_eq!((states, round.posts.len()), (vec![State::Up], 2));

        let new = UdpSocket::bind(("127.0.91.4", 4790)).expect("loopback");
        config.settings.former_port = None;
        round.follow(&config);
        for _ in 0..10 {
            answers(&mut round, &new, &KEY);
        }
        let states: Vec<State> = round.hellos.liveness().into_values().collect();
        assert_eq!((states, round.posts.len()), (vec![State::Up], 1));
    }

    #[test]
    fn a_way_from_an_address_that_is_not_ours_is_tried_again_and_said_once() {
        let mut round = Round::default();
        round.follow(&config("192.0.2.200", "192.0.2.201"));
        round.tick();
        round.tick();
        assert_eq!((round.posts.len(), round.failed.len()), (0, 1));
        round.follow(&Config::default());
        assert_eq!(round.failed.len(), 0);
    }
}
