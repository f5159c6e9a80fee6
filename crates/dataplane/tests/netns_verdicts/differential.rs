//! The program and the model of it (`flow::decide`) see the same random packets, and must decide alike.
//!
//! Short runs on a ground of their own: nothing may expire in the middle. What depends on random numbers of the kernel (a claim with the right
//! number) is left to the other tests.

use super::frame::{ACK, Ip, SYN, Segment, error, outer};
use super::*;
use flow::decide::{Decision, Fate, Limits, Outer};
use flow::packet::{Flags, Packet, Socket};
use flow::spread::{By, Spread};
use flow::wire::{MESSAGE_LEN, Message, MessageKind, Word};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const RUNS: u64 = 20;
const PACKETS: usize = 150;
/// A service whose port nobody listens on.
const SILENT: u16 = 8080;

/// xorshift64*: the same packets for the same seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        // Zero would stay zero.
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 8) % end
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

/// Switches, and who is alive, by chance.
pub fn random_config(dice: &mut Dice) -> Config {
    config(|c| {
        let silent: Vec<Service> = c.services.clone();
        c.services.extend(silent.into_iter().map(|mut service| {
            service.address.set_port(SILENT);
            service
        }));
        let udp: Vec<Service> = c.services.clone();
        c.services.extend(udp.into_iter().map(|mut service| {
            service.protocol = Protocol::Udp;
            service
        }));
        let ask = Some(Instant::now() + Duration::from_secs(3600));
        for service in &mut c.services {
            (service.hints, service.probes) = (!dice.one_in(4), !dice.one_in(5));
            service.udp_ask_until = dice.of(&[None, ask, ask]);
        }
        c.groups[0].drains = dice.one_in(2);
        let by = dice.of(&[None, Some(By::AddressAndPort), Some(By::Address)]);
        // One of them is nobody's.
        let weights = [(0, 1), (1, 1), (2, 2), (9, 1), (63, 1)];
        c.groups[0].spread = by.map(|by| Spread::over(by, &weights));
        c.groups[0]
            .members
            .iter_mut()
            .for_each(|m| m.takes_new = !dice.one_in(4));
        c.peers.iter_mut().for_each(|p| p.alive = !dice.one_in(4));
        c.settings.probe_retries = dice.below(3) as u8;
        let timers = [Duration::ZERO, Duration::from_secs(3600)];
        c.settings.probe_retry_timer = dice.of(&timers);
        // No budget in the way: it runs on a clock.
        (c.settings.copies_per_s, c.settings.copies_burst) = (1_000_000_000, 1_000_000_000);
    })
}

/// What happens next.
enum Event {
    Outside(Packet, Ip),
    Leaving(Packet, Ip),
    Tunnelled(Outer, Packet, Ip),
    Message(IpAddr, Vec<u8>),
}

/// Every second run has native XDP in front.
pub fn is_in_front(run: u64) -> Option<u64> {
    run.is_multiple_of(2).then_some(0)
}

/// Both sides, and what they share.
struct Pair<'a> {
    ground: &'a mut Ground,
    model: flow::Steering,
    family: &'a Family,
    connection: &'a Connection,
    udp: &'a Datagrams,
}

impl Pair<'_> {
    fn segment(&self, dice: &mut Dice) -> Segment {
        let fits = self.connection.fits;
        let ours = dice.one_in(3);
        let mut segment = segment(self.family, 1 + dice.below(6) as u16);
        if dice.one_in(5) {
            segment.vip.set_port(SILENT);
        }
        if ours {
            segment = fits;
            segment.seq = fits.seq.wrapping_add_signed(dice.of(&[
                0,
                0,
                65_535,
                -67_108_864,
                -67_108_865,
                1 << 30,
            ]));
            segment.ack = fits
                .ack
                .wrapping_add_signed(dice.of(&[0, 0, 1, -1_048_576, -1_048_577]));
        }
        segment.flags = dice.of(&[ACK, ACK, ACK, ACK | RST, ACK | 1, SYN, SYN | ACK, 0]);
        segment.seq = segment.seq.wrapping_add(u32::from(!ours && dice.one_in(3)));
        segment.tsecr = match dice.below(4) {
            0 => 0,
            _ => hint(segment.client, segment.vip, dice.of(&[0, 1, 2, 2, 9, 60])),
        };
        segment
    }

    fn socket(&self, segment: &Segment) -> Socket {
        let fits = self.connection.fits;
        if (segment.client, segment.vip) == (fits.client, fits.vip) {
            return Socket::Established {
                rcv_nxt: fits.seq,
                rcv_wnd: 0,
                snd_una: fits.ack,
                snd_nxt: fits.ack,
                fin_sent: false,
                fin_received: false,
            };
        }
        match segment.vip.port() {
            SILENT => Socket::None,
            _ => Socket::Listener {
                cookie_valid: false,
            },
        }
    }

    /// A datagram of the client whose socket is connected here, of others, and to a port without a socket.
    fn datagram(&self, dice: &mut Dice) -> (Packet, Ip, Socket) {
        let connected = self.udp.client;
        let other = SocketAddr::new(self.family.client, 1 + dice.below(4) as u16);
        let flow = Flow {
            protocol: Protocol::Udp,
            client: dice.of(&[connected, other]),
            service: (self.family.vip, dice.of(&[PORT, PORT, PORT, SILENT])).into(),
        };
        let socket = match (flow.client == connected, flow.service.port()) {
            (_, SILENT) => Socket::None,
            (true, _) => Socket::Connected,
            (false, _) => Socket::Listener {
                cookie_valid: false,
            },
        };
        let ports = (flow.client.port(), flow.service.port());
        let datagram = datagram(ports, b"some words");
        let ip = Ip::new(flow.client.ip(), flow.service.ip(), 17, datagram);
        (Packet::udp(flow), ip, socket)
    }

    fn packet(&self, dice: &mut Dice) -> (Packet, Ip, Socket) {
        if dice.one_in(3) {
            return self.datagram(dice);
        }
        let segment = self.segment(dice);
        let flow = Flow {
            protocol: Protocol::Tcp,
            client: segment.client,
            service: segment.vip,
        };
        let socket = self.socket(&segment);
        if dice.one_in(8) {
            let from = dice.of(&[self.family.stranger, self.family.client]);
            return (Packet::error(from, flow), error(from, segment), socket);
        }
        let mut packet = Packet::tcp(flow, of_model(&segment));
        let mut ip = segment.ip();
        if dice.one_in(12) {
            ip.source = self.family.engines[0];
            packet = Packet::tcp(
                Flow {
                    client: (ip.source, segment.client.port()).into(),
                    ..flow
                },
                of_model(&segment),
            );
            let socket = self.socket(&Segment {
                client: (ip.source, segment.client.port()).into(),
                ..segment
            });
            return (packet, ip, socket);
        }
        (packet, ip, socket)
    }

    fn event(&self, dice: &mut Dice) -> (Event, Socket) {
        let [a, us, c] = self.family.engines;
        let (packet, ip, socket) = self.packet(dice);
        match dice.below(7) {
            0..=2 => (Event::Outside(packet, ip), socket),
            3 => (self.leaving(dice), Socket::None),
            4 => (self.answer_of_another(dice), Socket::None),
            5 => {
                let source = dice.of(&[a, c, c, us, self.family.stranger]);
                let check = packet.flow().map_or(0, |f| Mark::of(KEY, &f).check());
                let value = dice.of(&[check, check, 5]);
                let word = dice.of(&[0, DATA, DATA, PROBE, RETURN, RETURN]) | value;
                let outer = Outer {
                    source,
                    destination: us,
                    word: Word::decode(word),
                };
                (
                    Event::Tunnelled(outer, packet, ip.within(source, us, word)),
                    socket,
                )
            }
            _ => (self.message(dice, &packet), socket),
        }
    }

    /// To a client that is reached over the uplink.
    fn answer(&self, dice: &mut Dice) -> (Packet, Ip) {
        let segment = Segment {
            client: (self.family.vip, dice.of(&[PORT, SILENT, 9])).into(),
            vip: (afar(self.family), 1 + dice.below(6) as u16).into(),
            ..segment(self.family, 1)
        };
        let flow = Flow {
            protocol: Protocol::Tcp,
            client: segment.client,
            service: segment.vip,
        };
        (Packet::tcp(flow, of_model(&segment)), segment.ip())
    }

    fn leaving(&self, dice: &mut Dice) -> Event {
        let (mut packet, mut ip) = self.answer(dice);
        if dice.one_in(4) {
            let source = self.family.engines[1];
            (packet.source, ip.source) = (source, source);
        }
        Event::Leaving(packet, ip)
    }

    fn answer_of_another(&self, dice: &mut Dice) -> Event {
        let [a, us, c] = self.family.engines;
        let (packet, ip) = self.answer(dice);
        let source = dice.of(&[a, c, c, us, self.family.stranger]);
        let word = dice.of(&[ANSWER, ANSWER, ANSWER, DATA, PROBE, RETURN]);
        let outer = Outer {
            source,
            destination: us,
            word: Word::decode(word),
        };
        Event::Tunnelled(outer, packet, ip.within(source, us, word))
    }

    /// Never one with the number of an open question: the kernel's is not known here.
    fn message(&self, dice: &mut Dice, about: &Packet) -> Event {
        let keys = [(7, [1, 2]), (7, [1, 3]), (8, [1, 2])];
        let (id, secret) = dice.of(&keys);
        let message = Message {
            kind: dice.of(&[
                MessageKind::Claim,
                MessageKind::Deny,
                MessageKind::Release,
                MessageKind::Hello,
                MessageKind::Heard,
            ]),
            sender: dice.of(&[0, 2, 2, 1, 9]),
            number: 0,
            generation: 1,
            flow: about.flow().expect("errors and segments have one"),
            load: 0,
        };
        let mut bytes = message.sign(&MessageKey { id, secret }).to_vec();
        match dice.below(8) {
            0 => bytes[0] = 2,
            1 => bytes.push(0),
            2 => drop(bytes.pop()),
            _ => {}
        }
        let [a, _, c] = self.family.engines;
        Event::Message(dice.of(&[a, c, c, self.family.stranger]), bytes)
    }

    fn happens(&mut self, dice: &mut Dice) -> Result<(), String> {
        let (event, socket) = self.event(dice);
        let (now, draw) = (Instant::now(), dice.next());
        let us = self.family.engines[1];
        let (decision, ip) = match &event {
            Event::Outside(packet, ip) => {
                (self.model.on_packet(now, draw, packet, socket), ip.clone())
            }
            Event::Leaving(packet, ip) => (self.model.on_leaving(packet), ip.clone()),
            Event::Tunnelled(outer, packet, ip) => {
                let decision = self.model.on_tunnelled(now, draw, outer, packet, socket);
                (decision, ip.clone())
            }
            Event::Message(from, bytes) => {
                let decision = self.model.on_message(now, *from, bytes);
                (decision, Ip::new(*from, us, 17, udp(bytes)))
            }
        };
        let before = self.ground.steering.counters().unwrap().verdicts;
        let tried = match event {
            Event::Leaving(..) => self
                .ground
                .steering
                .try_out_leaving(&ip.frame(), 0)
                .unwrap(),
            _ => self.ground.meet(&ip.frame()),
        };
        let after = self.ground.steering.counters().unwrap().verdicts;
        let counted: Vec<&str> = after
            .iter()
            .filter(|(v, n)| before[*v] < **n)
            .map(|(v, _)| *v)
            .collect();
        let shown = || {
            format!(
                "{counted:?} {}, the model {decision:?}: {socket:?} {ip:?}",
                tried.action
            )
        };
        if counted != expected(&decision) || !same_fate(&decision, &tried) {
            return Err(shown());
        }
        Ok(())
    }
}

/// Source and destination of messages.
const MESSAGES: (u16, u16) = (1550, 1550);

/// As members send it.
pub fn udp(message: &[u8]) -> Vec<u8> {
    datagram(MESSAGES, message)
}

/// From one port to another.
pub fn datagram((source, destination): (u16, u16), payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).unwrap();
    let header = [source, destination, len, 0].map(u16::to_be_bytes);
    [&header.concat(), payload].concat()
}

/// A socket for a client, beside the one that takes from everybody.
struct Datagrams {
    _listener: socket2::Socket,
    _socket: socket2::Socket,
    client: SocketAddr,
}

impl Datagrams {
    fn new(family: &Family) -> Self {
        let vip = SocketAddr::new(family.vip, PORT);
        let bind = || {
            let (domain, kind) = (socket2::Domain::for_address(vip), socket2::Type::DGRAM);
            let socket = socket2::Socket::new(domain, kind, None).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind(&vip.into()).unwrap();
            socket
        };
        let (listener, socket) = (bind(), bind());
        let client = SocketAddr::new(family.client, 5000);
        socket.connect(&client.into()).unwrap();
        Self {
            _listener: listener,
            _socket: socket,
            client,
        }
    }
}

fn of_model(segment: &Segment) -> flow::packet::Segment {
    let has = |bit: u8| segment.flags & bit != 0;
    flow::packet::Segment {
        flags: Flags {
            syn: has(SYN),
            ack: has(ACK),
            rst: has(RST),
            fin: has(1),
        },
        seq: segment.seq,
        ack: segment.ack,
        ts_ecr: Some(segment.tsecr),
        payload: 0,
    }
}

/// Counters that must have moved, in the order of their names; `pass` is not counted.
pub fn expected(decision: &Decision) -> Vec<&'static str> {
    let mut all = vec![decision.verdict.code()];
    all.retain(|code| *code != "pass");
    all.extend(decision.returned.then_some("returned"));
    all.extend(decision.timed_out.then_some("probe_timeout"));
    let releases = decision.verdict == flow::Verdict::DeliverData && decision.reply.is_some();
    all.extend(releases.then_some("release"));
    all.sort_unstable();
    all
}

/// A message in a frame; bytes 8 and 9 are nobody's.
fn contains(frame: &[u8], message: &[u8; MESSAGE_LEN]) -> bool {
    let same = |seen: &[u8]| seen[..8] == message[..8] && seen[10..] == message[10..];
    frame.windows(MESSAGE_LEN).any(same)
}

pub fn same_fate(decision: &Decision, tried: &Tried) -> bool {
    let action = match &decision.fate {
        Fate::Stack => NEXT,
        Fate::Tunnel { to, word } => {
            let (source, destination, _, seen, _) = outer(&tried.frame);
            let link = (to.link.local, to.link.remote);
            if link != (source, destination) || word.encode() != seen {
                return false;
            }
            REDIRECT
        }
        Fate::Back { .. } | Fate::Onward => REDIRECT,
        Fate::Clone { and_stack, .. } => [SHOT, NEXT][usize::from(*and_stack)],
        Fate::Drop
            if decision
                .reply
                .is_some_and(|reply| !contains(&tried.frame, &reply)) =>
        {
            return false;
        }
        Fate::Drop if decision.reply.is_some() => REDIRECT,
        Fate::Drop => SHOT,
    };
    tried.action == action
}

#[test]
fn the_program_decides_as_the_model_does() {
    let seen = std::sync::Mutex::new(BTreeMap::<String, u64>::new());
    let ended = std::sync::atomic::AtomicU64::new(0);
    for run in 1..=RUNS {
        on_ground(|ground, family| {
            let mut dice = Dice::new(run);
            let (connection, udp) = (connection(family), Datagrams::new(family));
            let mut config = random_config(&mut dice);
            let primary = dice.of(&[None, Some(0), Some(2)]);
            let answers = [Answers::Directly, Answers::ByPrimary(primary)];
            config.groups[0].answers = dice.of(&answers);
            config.settings.forgets_at_once = dice.one_in(3);
            ground.steering.apply(&config).unwrap();
            ground.front = is_in_front(run);
            let mut model = flow::Steering::new(Limits::default());
            model.set_config(config);
            let mut pair = Pair {
                ground,
                model,
                family,
                connection: &connection,
                udp: &udp,
            };
            for number in 0..PACKETS {
                let same = pair.happens(&mut dice);
                same.unwrap_or_else(|shown| panic!("run {run}, packet {number}: {shown}"));
            }
            ended.fetch_add(pair.ground.front.unwrap_or(0), Ordering::Relaxed);
            let counters = pair.ground.steering.counters().unwrap().verdicts;
            let mut seen = seen.lock().unwrap();
            for (verdict, count) in counters {
                *seen.entry(verdict.to_owned()).or_default() += count;
            }
        });
    }
    let seen = seen.into_inner().unwrap();
    let met = seen.values().filter(|n| **n > 0).count();
    let ended = ended.into_inner();
    eprintln!("figures: {met} verdicts met, {ended} frames ended by native XDP: {seen:?}");
    assert!(ended > 100 || seen.is_empty(), "only {ended} by native XDP");
    assert!(
        met >= 20 || seen.is_empty(),
        "too few of the verdicts: {seen:?}"
    );
}
