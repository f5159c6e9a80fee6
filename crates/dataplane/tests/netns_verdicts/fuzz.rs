//! Frames at random, whole and mutilated: what the program makes of one must be what the model makes of a second reading of it
//! ([`super::reading`]), and the frame that comes out must be the one that such a decision leaves behind.
//!
//! `differential.rs` plays stories with well-formed packets, so that state builds up. Here the parser is on trial: options of both protocols,
//! extension headers, fragments, quotes, tunnels in tunnels, messages, and bytes that were changed, cut off or added.
//!
//! `EVENKEEL_FUZZ_RUNS` and `EVENKEEL_FUZZ_SEED` make it longer and other (`make fuzz-steering`).

use super::differential::{Dice, expected, is_in_front, random_config, same_fate};
use super::frame::{ACK, Ip, SYN, Segment, error, outer};
use super::reading::{ETHERNET, Seen, Tunnelled, read};
use super::*;
use flow::decide::{Decision, Fate, Limits};
use flow::packet::{Packet, Socket};
use flow::wire::{MESSAGE_LEN, Message, MessageKind};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const RUNS: u64 = 15;
const FRAMES: usize = 400;
const SEED: u64 = 1;
/// A run that was held up for longer may have seen a question expire in the one and not in the other.
const IN_TIME: Duration = Duration::from_secs(1);
const ATTEMPTS: usize = 3;

/// Of TCP: padding, SACK permitted, window scale, MSS, SACK, the end, and two that are cut off.
const OPTIONS: [&[u8]; 9] = [
    &[1],
    &[1; 8],
    &[4, 2],
    &[3, 3, 7],
    &[2, 4, 5, 0xb4],
    &[5, 10, 0, 0, 0, 1, 0, 0, 0, 2],
    &[0],
    &[9, 0],
    &[8, 10],
];

/// Frames of one family.
struct Weaver<'a> {
    dice: Dice,
    family: &'a Family,
    /// Of a TCP connection of ours, and of a UDP socket that is connected.
    tcp: Segment,
    udp: SocketAddr,
}

impl Weaver<'_> {
    fn frame(&mut self) -> Vec<u8> {
        let mut ip = self.packet();
        for _ in 0..self.dice.of(&[0, 0, 0, 1, 1, 2]) {
            ip = self.tunnel(&ip);
        }
        let mut frame = Ip::new(self.family.client, self.family.vip, 0, Vec::new()).frame();
        frame.truncate(ETHERNET);
        frame.extend(ip);
        if self.dice.one_in(2) {
            for _ in 0..=self.dice.below(3) {
                self.mutilate(&mut frame);
            }
        }
        frame
    }

    fn packet(&mut self) -> Vec<u8> {
        let family = self.family;
        let ip = match self.dice.below(13) {
            0..=4 => self.segment(),
            5 => self.datagram(),
            6 => {
                let about = self.tcp_or_other();
                error(self.dice.of(&[family.stranger, family.client]), about)
            }
            7 => self.icmp(),
            8 => self.message(),
            9 => Ip::new(
                family.client,
                family.vip,
                self.dice.next() as u8,
                self.bytes(60),
            ),
            10 => Ip::new(family.client, family.stranger, 6, self.segment().payload),
            11 => Ip::new(family.vip, afar(family), 6, self.segment().payload),
            _ => Ip::new(family.engines[0], family.vip, 6, self.segment().payload),
        };
        self.dress(ip)
    }

    fn tcp_or_other(&mut self) -> Segment {
        let mut other = super::segment(self.family, 1 + self.dice.below(6) as u16);
        other.flags = self
            .dice
            .of(&[ACK, ACK, ACK | RST, SYN, SYN | ACK, 0, 0xff]);
        other.tsecr = hint(other.client, other.vip, self.dice.of(&[0, 1, 2, 9, 60]));
        let mut ours = self.tcp;
        ours.seq = ours.seq.wrapping_add_signed(self.dice.of(&[0, 0, 1 << 30]));
        if self.dice.one_in(3) { ours } else { other }
    }

    fn segment(&mut self) -> Ip {
        let segment = self.tcp_or_other();
        let mut ip = segment.ip();
        if self.dice.one_in(2) {
            self.other_options(&mut ip.payload, segment.tsecr);
        }
        ip
    }

    /// The timestamp elsewhere, of another length, beyond the end, or not at all.
    fn other_options(&mut self, tcp: &mut Vec<u8>, tsecr: u32) {
        tcp.truncate(20);
        let mut options: Vec<u8> = Vec::new();
        for _ in 0..self.dice.below(5) {
            let one = self.dice.of(&OPTIONS);
            options.extend(one);
            if self.dice.one_in(2) {
                options.extend([8, self.dice.of(&[10, 10, 10, 9, 12, 0]), 0, 0, 0, 1]);
                options.extend(tsecr.to_be_bytes());
            }
        }
        options.truncate(40);
        options.resize(options.len().next_multiple_of(4), 0);
        tcp[12] = ((5 + options.len() / 4) as u8) << 4;
        tcp.extend(options);
        tcp.extend(self.bytes(12));
    }

    fn datagram(&mut self) -> Ip {
        let family = self.family;
        let client = self.dice.of(&[self.udp, (family.client, 9).into()]);
        let port = self.dice.of(&[PORT, PORT, 1550, 53]);
        let mut udp = client.port().to_be_bytes().to_vec();
        udp.extend(port.to_be_bytes());
        let payload = self.bytes(80);
        let len = self.dice.of(&[8 + payload.len() as u16, 0, 7, 200]);
        udp.extend(len.to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(payload);
        Ip::new(client.ip(), family.vip, 17, udp)
    }

    /// Errors, echo and the rest, quoting a packet or rubbish.
    fn icmp(&mut self) -> Ip {
        let protocol = self.dice.of(&[1, 58]);
        let mut icmp = vec![self.dice.below(14) as u8, 0, 0, 0, 0, 0, 0, 0];
        let about = self.tcp_or_other();
        let mut quoted = Ip::new(
            about.vip.ip(),
            about.client.ip(),
            self.dice.of(&[6, 17, 50]),
            {
                let mut ports = about.vip.port().to_be_bytes().to_vec();
                ports.extend(about.client.port().to_be_bytes());
                ports
            },
        );
        quoted.fragment = self.dice.of(&[(0, false), (0, true), (5, false)]);
        icmp.extend(self.dress(quoted));
        Ip::new(self.family.stranger, self.family.vip, protocol, icmp)
    }

    /// Never with the number of an open question: the kernel's is not known here.
    fn message(&mut self) -> Ip {
        let about = self.tcp_or_other();
        let message = Message {
            kind: self.dice.of(&[
                MessageKind::Claim,
                MessageKind::Deny,
                MessageKind::Release,
                MessageKind::Hello,
                MessageKind::Heard,
            ]),
            sender: self.dice.of(&[0, 2, 1, 9]),
            number: 0,
            generation: 1,
            flow: Flow {
                protocol: Protocol::Tcp,
                client: about.client,
                service: about.vip,
            },
            load: 0,
        };
        let secret = self.dice.of(&[[1, 2], [1, 2], [1, 3]]);
        let mut bytes = message.sign(&MessageKey { id: 7, secret }).to_vec();
        if self.dice.one_in(4) {
            bytes.extend(self.bytes(8));
        }
        let [a, us, c] = self.family.engines;
        let from = self.dice.of(&[a, c, self.family.stranger]);
        Ip::new(from, us, 17, super::differential::udp(&bytes))
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let len = self.dice.below(most + 1);
        (0..len).map(|_| self.dice.next() as u8).collect()
    }

    fn tunnel(&mut self, inside: &[u8]) -> Vec<u8> {
        let family = self.family;
        let [a, us, c] = family.engines;
        let from = self.dice.of(&[a, a, c, us, family.stranger]);
        let to = self.dice.of(&[us, us, us, a, family.vip]);
        let protocol = if from.is_ipv4() { 4 } else { 41 };
        let check = mark(self.tcp.client, self.tcp.vip).check();
        let word =
            self.dice.of(&[DATA, DATA, PROBE, RETURN, RETURN, 0]) | self.dice.of(&[check, 5]);
        let outer = Ip {
            word,
            ..Ip::new(from, to, protocol, inside.to_vec())
        };
        if self.dice.one_in(4) {
            return self.dress(outer);
        }
        outer.bytes()
    }

    /// Options, extension headers, and parts of datagrams.
    fn dress(&mut self, mut ip: Ip) -> Vec<u8> {
        if ip.source.is_ipv6() {
            return self.dress_v6(&ip);
        }
        if self.dice.one_in(6) {
            ip.word = self.dice.below(4) as u16;
            ip.fragment = self
                .dice
                .of(&[(0, true), (0, true), (100, true), (100, false)]);
        }
        let mut bytes = ip.bytes();
        if self.dice.one_in(4) {
            let words = 1 + self.dice.below(10) as u8;
            bytes[0] += words;
            let total = bytes.len() as u16 + u16::from(words) * 4;
            bytes[2..4].copy_from_slice(&total.to_be_bytes());
            drop(bytes.splice(20..20, vec![1; usize::from(words) * 4]));
        }
        bytes
    }

    fn dress_v6(&mut self, ip: &Ip) -> Vec<u8> {
        let mut bytes = ip.bytes();
        let number = self.dice.of(&[0, 0, 0, 0, 1, 2, 5, 6, 7]);
        for _ in 0..number {
            let kind = self.dice.of(&[0, 43, 60, 60, 44]);
            let units = self.dice.of(&[0, 0, 0, 1, 3]);
            let mut header = vec![bytes[6], units, 0, 0, 0, 0, 0, self.dice.below(4) as u8];
            if kind == 44 {
                let flags: [u8; 2] = self.dice.of(&[[0, 0], [0, 1], [0, 1], [1, 0], [0, 8]]);
                header[2..4].copy_from_slice(&flags);
            } else {
                header.resize(8 * (1 + usize::from(units)), 0);
            }
            bytes[6] = kind;
            drop(bytes.splice(40..40, header));
        }
        let len = (bytes.len() - 40) as u16;
        bytes[4..6].copy_from_slice(&len.to_be_bytes());
        bytes
    }

    /// Not of the addresses on the link: they say which host a copy is for, and the test's own stack must not take one.
    fn mutilate(&mut self, frame: &mut Vec<u8>) {
        let at = 12 + self.dice.below((frame.len() - 12) as u64) as usize;
        let at = if at < ETHERNET && !self.dice.one_in(8) {
            ETHERNET
        } else {
            at
        };
        let from = ETHERNET + self.dice.below((frame.len() - ETHERNET).max(1) as u64) as usize;
        match self.dice.below(6) {
            0 | 1 if at < frame.len() => frame[at] = self.dice.next() as u8,
            2 if at < frame.len() => frame[at] ^= 1 << self.dice.below(8),
            3 => frame.truncate(at.max(ETHERNET + 1)),
            4 => frame.extend(self.bytes(40)),
            _ if at < frame.len() => {
                let part: Vec<u8> = frame[from.min(frame.len())..]
                    .iter()
                    .copied()
                    .take(8)
                    .collect();
                let end = (at + part.len()).min(frame.len());
                frame[at..end].copy_from_slice(&part[..end - at]);
            }
            _ => {}
        }
    }
}

/// Both sides, and the sockets that the kernel finds.
struct Trial<'a> {
    ground: &'a mut Ground,
    model: flow::Steering,
    family: &'a Family,
    tcp: Segment,
    udp: SocketAddr,
}

impl Trial<'_> {
    fn socket(&self, packet: &Packet) -> Socket {
        let Some(flow) = packet.flow() else {
            return Socket::None;
        };
        let at_home = flow.service == (self.family.vip, PORT).into();
        let listener = Socket::Listener {
            cookie_valid: false,
        };
        match flow.protocol {
            Protocol::Tcp if at_home && flow.client == self.tcp.client => Socket::Established {
                rcv_nxt: self.tcp.seq,
                rcv_wnd: 0,
                snd_una: self.tcp.ack,
                snd_nxt: self.tcp.ack,
                fin_sent: false,
                fin_received: false,
            },
            Protocol::Udp if at_home && flow.client == self.udp => Socket::Connected,
            Protocol::Tcp | Protocol::Udp if at_home => listener,
            Protocol::Tcp | Protocol::Udp => Socket::None,
        }
    }

    fn decide(&mut self, seen: &Seen, draw: u64) -> Decision {
        let now = Instant::now();
        match seen {
            Seen::Nothing => Decision {
                verdict: flow::Verdict::Pass,
                returned: false,
                timed_out: false,
                fate: Fate::Stack,
                reply: None,
            },
            Seen::Outside(packet) => {
                let socket = self.socket(packet);
                self.model.on_packet(now, draw, packet, socket)
            }
            Seen::Tunnelled(tunnelled) => {
                let packet = &tunnelled.packet;
                let socket = self.socket(packet);
                self.model
                    .on_tunnelled(now, draw, &tunnelled.outer, packet, socket)
            }
            Seen::Message(from, bytes) => self.model.on_message(now, *from, bytes),
        }
    }

    /// Routes are the kernel's to know; it has one to who is afar.
    fn may_have_no_way(&self, seen: &Seen) -> bool {
        matches!(seen, Seen::Tunnelled(tunnelled) if tunnelled.packet.destination != afar(self.family))
    }

    fn meet(&mut self, frame: &[u8], draw: u64) -> Result<Option<&'static str>, String> {
        if is_too_short(frame) {
            return Ok(None);
        }
        let seen = read(frame);
        let mut decision = self.decide(&seen, draw);
        let is_answer = match seen {
            Seen::Tunnelled(Tunnelled { dressed, .. }) => {
                dressed && decision.verdict == flow::Verdict::Deny
            }
            _ => decision.verdict == flow::Verdict::HelloAnswered && is_dressed(frame),
        };
        if is_answer {
            // An answer takes the place of a bare outer header, and of no other.
            decision.verdict = flow::Verdict::DropRoom;
            decision.reply = None;
        }
        let before = self.ground.steering.counters().unwrap();
        let tried = self.ground.meet(frame);
        let after = self.ground.steering.counters().unwrap();
        let counted: Vec<&str> = (after.verdicts.iter())
            .filter(|(v, n)| before.verdicts[*v] < **n)
            .map(|(v, _)| *v)
            .collect();
        if decision.fate == Fate::Onward && counted == ["drop_route"] && self.may_have_no_way(&seen)
        {
            decision.verdict = flow::Verdict::DropRoute;
            decision.fate = Fate::Drop;
        }
        let total = |c: &evenkeel_dataplane::steering::Counters| c.verdicts.values().sum::<u64>();
        let each_once = total(&after) - total(&before) == counted.len() as u64;
        let tunnelled = before.tunnelled != after.tunnelled;
        let wants_tunnel = matches!(decision.fate, Fate::Tunnel { .. });
        let right = counted == expected(&decision)
            && each_once
            && tunnelled == wants_tunnel
            && same_fate(&decision, &tried)
            && is_left_behind(&decision, &seen, frame, &tried.frame);
        if right {
            return Ok(counted.first().copied());
        }
        Err(format!(
            "counted {counted:?}, action {}, the model says {decision:?} of {seen:?}\n  in  {}\n  out {}",
            tried.action,
            hex(frame),
            hex(&tried.frame)
        ))
    }
}

/// Test-run takes no frame of an IP packet without a whole header; the parser meets such ones in tunnels.
fn is_too_short(frame: &[u8]) -> bool {
    let header = match frame[12..ETHERNET] {
        [0x08, 0x00] => 20,
        [0x86, 0xdd] => 40,
        _ => 1,
    };
    frame.len() < ETHERNET + header
}

/// With options, or extension headers before UDP.
fn is_dressed(frame: &[u8]) -> bool {
    match frame[ETHERNET] >> 4 {
        4 => frame[ETHERNET] != 0x45,
        _ => frame[ETHERNET + 6] != 17,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The frame that such a decision leaves behind. What was dropped or cloned is nobody's any more.
fn is_left_behind(decision: &Decision, seen: &Seen, before: &[u8], after: &[u8]) -> bool {
    let inside = match seen {
        Seen::Tunnelled(tunnelled) if decision.verdict != flow::Verdict::Pass => tunnelled.at,
        _ => ETHERNET,
    };
    let same_link = before[..ETHERNET] == after[..ETHERNET.min(after.len())];
    match &decision.fate {
        Fate::Stack if inside == ETHERNET => before == after,
        // Congestion on the way is told: a byte and, of IPv4, the checksum may differ. The fixtures look at that.
        Fate::Stack => same_link && is_same_packet(&before[inside..], &after[ETHERNET..]),
        Fate::Tunnel { .. } => same_link && is_wrapped(&before[inside..], after),
        Fate::Back { .. } => {
            after[..6] == before[6..12]
                && after[6..12] == before[..6]
                && after[inside..] == before[inside..]
        }
        Fate::Drop => match decision.reply {
            Some(reply) => is_reply(&reply, before, after),
            None => true,
        },
        Fate::Clone { .. } => true,
        Fate::Onward => is_same_packet(&before[inside..], &after[ETHERNET..]),
    }
}

fn is_same_packet(before: &[u8], after: &[u8]) -> bool {
    let may_differ = |at: usize| at < 2 || at == 10 || at == 11;
    let same = |(at, (b, a)): (usize, (&u8, &u8))| a == b || may_differ(at);
    before.len() == after.len() && before.iter().zip(after).enumerate().all(same)
}

/// RFC 2003 and RFC 2473: what is outside of an unchanged packet.
fn is_wrapped(inside: &[u8], after: &[u8]) -> bool {
    let (_, _, protocol, _, within) = outer(after);
    let ip = &after[ETHERNET..];
    let word = |at: usize| u32::from(u16::from_be_bytes([ip[at], ip[at + 1]]));
    let (len, inner) = (word(if protocol == 4 { 2 } else { 4 }), inside.len() as u32);
    let header = if protocol == 4 {
        let sum: u32 = (0..20).step_by(2).map(word).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        let unfragmented = ip[6..8] == [0x40, 0];
        ip[0] == 0x45 && ip[1] == inside[1] && ip[8] == 64 && unfragmented && sum == 0xffff
    } else {
        // The class is four bits of each of the first two bytes.
        ip[0] == inside[0] && ip[1] >> 4 == inside[1] >> 4 && ip[7] == 64
    };
    let expected_len = if protocol == 4 { inner + 20 } else { inner };
    header && within == inside && len == expected_len
}

fn is_reply(reply: &[u8; MESSAGE_LEN], before: &[u8], after: &[u8]) -> bool {
    let (source, destination, protocol, _, udp) = outer(after);
    let (asker, us, ..) = outer(before);
    let back = after[..6] == before[6..12] && after[6..12] == before[..6];
    // Bytes 8 and 9 of a message are not signed.
    let said = udp.get(8..8 + MESSAGE_LEN).is_some_and(|m| m == reply);
    (source, destination, protocol) == (us, asker, 17) && back && said
}

/// One ground, as many frames; the verdicts that were met.
fn trial(ground: &mut Ground, family: &Family, seed: u64) -> Result<Vec<&'static str>, String> {
    let mut dice = Dice::new(seed);
    let connection = connection(family);
    let client: SocketAddr = (family.client, 5353).into();
    let _connected = datagram_socket(family, Some(client));
    let _anybody = datagram_socket(family, None);
    let mut config = random_config(&mut dice);
    let datagrams = config.services.clone().into_iter().map(|mut service| {
        service.protocol = Protocol::Udp;
        service
    });
    config.services.extend(datagrams.collect::<Vec<_>>());
    if dice.one_in(4) {
        // No way to it in either family.
        config.peers[0].links.clear();
    }
    ground.steering.apply(&config).unwrap();
    ground.front = is_in_front(seed);
    let mut model = flow::Steering::new(Limits::default());
    model.set_config(config);
    let mut weaver = Weaver {
        dice,
        family,
        tcp: connection.fits,
        udp: client,
    };
    let mut trial = Trial {
        ground,
        model,
        family,
        tcp: connection.fits,
        udp: client,
    };
    let mut met = Vec::new();
    for number in 0..FRAMES {
        let frame = weaver.frame();
        let draw = weaver.dice.next();
        let verdict = trial.meet(&frame, draw);
        met.extend(verdict.map_err(|error| format!("frame {number}: {error}"))?);
    }
    Ok(met)
}

/// Of one client, or of everybody.
fn datagram_socket(family: &Family, client: Option<SocketAddr>) -> socket2::Socket {
    use socket2::{Domain, Socket, Type};
    let address: SocketAddr = (family.vip, PORT).into();
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    if let Some(client) = client {
        socket.connect(&client.into()).unwrap();
    }
    socket
}

fn from_environment(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn frames_at_random_are_read_as_the_specification_says() {
    let seed = from_environment("EVENKEEL_FUZZ_SEED", SEED);
    let runs = from_environment("EVENKEEL_FUZZ_RUNS", RUNS);
    let met = std::sync::Mutex::new(BTreeMap::<&str, u64>::new());
    for run in 0..runs {
        let seed = seed.wrapping_add(run);
        on_ground(|ground, family| {
            let verdicts = settled(ground, family, seed);
            let mut met = met.lock().unwrap();
            verdicts
                .into_iter()
                .for_each(|v| *met.entry(v).or_default() += 1);
        });
    }
    let met = met.into_inner().unwrap();
    eprintln!(
        "figures: seeds {seed} to {}, verdicts {met:?}",
        seed + runs - 1
    );
    assert!(
        met.len() >= 15 || met.is_empty(),
        "too few of the verdicts: {met:?}"
    );
}

/// A run that was held up is no proof of anything, and is made again.
fn settled(ground: &mut Ground, family: &Family, seed: u64) -> Vec<&'static str> {
    for _ in 1..ATTEMPTS {
        let start = Instant::now();
        match trial(ground, family, seed) {
            Ok(met) => return met,
            Err(error) if start.elapsed() < IN_TIME => panic!("seed {seed}, {error}"),
            Err(_) => *ground = Ground::new(),
        }
    }
    trial(ground, family, seed).unwrap_or_else(|error| panic!("seed {seed}, {error}"))
}
