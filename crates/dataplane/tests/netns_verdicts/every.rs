//! A frame for every verdict, and what comes out. A verdict without one does not compile: the match below has no wildcard.

use super::frame::{ACK, Ip, SYN, Segment, error, outer};
use super::*;
use aya::maps::{HashMap, Map, MapData};
use evenkeel_dataplane::steering::LAYOUT;
use flow::Verdict;
use flow::key::bytes16;
use flow::wire::{MESSAGE_LEN, Message, MessageKind};
use socket2::{Domain, Socket, Type};
use std::collections::BTreeSet;
use std::io::Read;
use std::time::Duration;

/// What is left of a frame.
enum Left {
    /// As it came.
    Same,
    /// In a tunnel to this engine.
    Wrapped(usize),
    /// What was in the tunnel.
    Inside,
    /// On its way back, with this word.
    Back(u16),
    /// A message of this kind in its place.
    Message(MessageKind),
    /// An ICMP error that says what fits into a link of [`LINK_MTU`].
    TooBig,
    /// Nobody sees it.
    Gone,
}

/// Of the loopback interface, over which all links of these configurations go.
const LINK_MTU: u16 = 1500;

/// What comes in, what the kernel is told to do, and what goes out.
type Fixture = (Vec<u8>, i32, Left);

/// One ground for all verdicts of a family; each has a client port of its own.
struct Scene<'a> {
    ground: &'a mut Ground,
    family: &'a Family,
    connection: Connection,
    port: u16,
}

impl Scene<'_> {
    /// None: not in this family.
    #[expect(clippy::too_many_lines, reason = "a table with an entry per verdict")]
    fn fixture(&mut self, verdict: Verdict) -> Option<Fixture> {
        let stranger = self.stranger();
        let ours = self.connection.fits.ip();
        let syn = Segment {
            flags: SYN,
            ..stranger
        };
        let check = mark(stranger.client, stranger.vip).check();
        Some(match verdict {
            Verdict::Pass => {
                let vip = (self.family.vip, 81).into();
                let elsewhere = Segment { vip, ..stranger };
                (elsewhere.ip().frame(), NEXT, Left::Same)
            }
            Verdict::LocalNew => (syn.ip().frame(), NEXT, Left::Same),
            Verdict::LocalSocket => (ours.frame(), NEXT, Left::Same),
            Verdict::LocalCookie => (self.cookie().ip().frame(), NEXT, Left::Same),
            Verdict::LocalNone => {
                self.apply(|c| c.services.iter_mut().for_each(|s| s.probes = false));
                (stranger.ip().frame(), NEXT, Left::Same)
            }
            Verdict::LocalDenied => {
                self.ask();
                self.hear(0, &self.answer(MessageKind::Deny, 0), "deny_taken");
                self.hear(2, &self.answer(MessageKind::Deny, 2), "deny_taken");
                (stranger.ip().frame(), NEXT, Left::Same)
            }
            Verdict::LocalOther => (self.echo().frame(), NEXT, Left::Same),
            Verdict::TunnelNew => {
                self.apply(|c| {
                    c.groups[0].drains = true;
                    c.groups[0].members[0].takes_new = false;
                });
                (syn.ip().frame(), REDIRECT, Left::Wrapped(2))
            }
            Verdict::TunnelHint => (self.hinted(2).frame(), REDIRECT, Left::Wrapped(2)),
            Verdict::TunnelCache => {
                self.ask();
                self.hear(2, &self.answer(MessageKind::Claim, 2), "claim_taken");
                (stranger.ip().frame(), REDIRECT, Left::Wrapped(2))
            }
            Verdict::TunnelAnswer => {
                self.answer_by(Answers::ByPrimary(Some(2)));
                (self.answered().frame(), REDIRECT, Left::Wrapped(2))
            }
            Verdict::RelayAnswer => {
                self.answer_by(Answers::ByPrimary(None));
                let sent = self.sent_by_peer(&self.answered(), ANSWER);
                (sent, REDIRECT, Left::Inside)
            }
            Verdict::Probe => (stranger.ip().frame(), SHOT, Left::Gone),
            Verdict::ProbeTimeout => {
                self.apply(|c| c.settings.probe_retry_timer = Duration::ZERO);
                self.ask();
                (stranger.ip().frame(), SHOT, Left::Gone)
            }
            Verdict::ProbeError => {
                let about = error(self.family.stranger, stranger);
                (about.frame(), SHOT, Left::Gone)
            }
            Verdict::ProbeFragment => (self.later().frame(), NEXT, Left::Same),
            Verdict::DeliverData => (self.sent_by_peer(&ours, DATA), NEXT, Left::Inside),
            Verdict::DeliverClaim => (self.sent_by_peer(&ours, PROBE | 9), NEXT, Left::Inside),
            Verdict::Deny => {
                let asked = self.sent_by_peer(&stranger.ip(), PROBE | 9);
                (asked, REDIRECT, Left::Message(MessageKind::Deny))
            }
            Verdict::Return => {
                let sent = self.sent_by_peer(&stranger.ip(), DATA | 77);
                (sent, REDIRECT, Left::Back(RETURN | 77))
            }
            Verdict::Returned => {
                let back = self.sent_by_peer(&stranger.ip(), RETURN | check);
                (back, SHOT, Left::Gone)
            }
            Verdict::ClaimTaken => {
                self.ask();
                self.said(0, &self.answer(MessageKind::Claim, 0))
            }
            Verdict::DenyTaken => {
                self.ask();
                self.said(0, &self.answer(MessageKind::Deny, 0))
            }
            Verdict::Release => {
                let last = Segment {
                    flags: RST,
                    ..self.connection.fits
                };
                (self.sent_by_peer(&last.ip(), DATA), NEXT, Left::Inside)
            }
            Verdict::HelloAnswered => {
                let hello = self.datagram(0, &self.message(MessageKind::Hello, 0, 9));
                (hello.frame(), REDIRECT, Left::Message(MessageKind::Heard))
            }
            Verdict::HelloHeard => {
                let heard = self.datagram(0, &self.message(MessageKind::Heard, 0, 9));
                (heard.frame(), NEXT, Left::Same)
            }
            Verdict::ReleaseTaken => self.said(0, &self.message(MessageKind::Release, 0, 0)),
            Verdict::DropBudget => {
                self.apply(|c| (c.settings.copies_per_s, c.settings.copies_burst) = (1, 0));
                // The first question takes what there is.
                let first = Segment {
                    client: (afar(self.family), self.port).into(),
                    ..stranger
                };
                self.ground
                    .steering
                    .try_out(&first.ip().frame(), 1)
                    .unwrap();
                (stranger.ip().frame(), SHOT, Left::Gone)
            }
            Verdict::DropAsked => {
                self.apply(|c| c.settings.probe_retry_timer = Duration::from_secs(3600));
                self.ask();
                (stranger.ip().frame(), SHOT, Left::Gone)
            }
            Verdict::DropError => {
                let about = error(self.family.stranger, stranger);
                (self.sent_by_peer(&about, PROBE), SHOT, Left::Gone)
            }
            Verdict::DropHeaders => (self.many_headers()?, SHOT, Left::Gone),
            Verdict::DropStranger => {
                let [_, us, _] = self.family.engines;
                let tunnelled = ours.within(self.family.stranger, us, DATA);
                (tunnelled.frame(), SHOT, Left::Gone)
            }
            Verdict::DropSpoofed => {
                let source = self.family.engines[2];
                let spoofed = Ip { source, ..ours };
                (self.sent_by_peer(&spoofed, DATA), SHOT, Left::Gone)
            }
            Verdict::DropCheck => {
                let back = self.sent_by_peer(&stranger.ip(), RETURN | (check ^ 1));
                (back, SHOT, Left::Gone)
            }
            Verdict::DropKind => (self.sent_by_peer(&ours, 5), SHOT, Left::Gone),
            Verdict::DropVersion => {
                let mut message = self.message(MessageKind::Release, 0, 0);
                message[0] = 2;
                self.said(0, &message)
            }
            Verdict::DropLength => {
                let mut message = self.message(MessageKind::Release, 0, 0).to_vec();
                message.push(0);
                self.said(0, &message)
            }
            Verdict::DropKey => {
                self.apply(|c| c.settings.message_keys[0].id = 8);
                self.said(0, &self.message(MessageKind::Release, 0, 0))
            }
            Verdict::DropMac => {
                let mut message = self.message(MessageKind::Release, 0, 0);
                message[MESSAGE_LEN - 1] ^= 1;
                self.said(0, &message)
            }
            Verdict::DropQuestion => {
                self.ask();
                let number = self.question() ^ 1;
                self.said(0, &self.message(MessageKind::Deny, 0, number))
            }
            Verdict::DropFamily => {
                self.apply(|c| c.peers[1].links.clear());
                (self.hinted(2).frame(), SHOT, Left::Gone)
            }
            Verdict::DropRoom => (self.dressed_probe(), SHOT, Left::Gone),
            Verdict::DropMtu => {
                let mut large = self.hinted(2);
                large.payload.resize(usize::from(LINK_MTU) - 30, 7);
                (large.frame(), SHOT, Left::TooBig)
            }
            Verdict::DropRoute => {
                self.answer_by(Answers::ByPrimary(None));
                // Ours, so that nobody is to be sent to.
                let destination = self.family.client;
                let own = Ip {
                    destination,
                    ..self.answered()
                };
                (self.sent_by_peer(&own, ANSWER), SHOT, Left::Gone)
            }
        })
    }

    fn answer_by(&mut self, answers: Answers) {
        self.apply(|c| c.groups[0].answers = answers);
    }

    /// What the VIP sends to a client that is reached over the uplink.
    fn answered(&self) -> Ip {
        let to_client = Segment {
            client: (self.family.vip, PORT).into(),
            vip: (afar(self.family), self.port).into(),
            ..self.stranger()
        };
        to_client.ip()
    }

    fn apply(&mut self, change: impl FnOnce(&mut Config)) {
        self.ground.steering.apply(&config(change)).unwrap();
    }

    /// A packet of a flow that is not ours; no other verdict has it.
    fn stranger(&self) -> Segment {
        super::segment(self.family, self.port)
    }

    fn hinted(&self, member: u8) -> Ip {
        let segment = self.stranger();
        let tsecr = hint(segment.client, segment.vip, member);
        Segment { tsecr, ..segment }.ip()
    }

    /// Engine 0 has sent it.
    fn sent_by_peer(&self, inner: &Ip, word: u16) -> Vec<u8> {
        let [a, us, _] = self.family.engines;
        inner.within(a, us, word).frame()
    }

    fn ask(&mut self) {
        let packet = self.stranger().ip();
        self.ground.expect(&packet, "probe", SHOT);
    }

    /// The number of the question about the stranger, as `struct question` of `bpf/structs.h` has it.
    fn question(&self) -> u16 {
        let segment = self.stranger();
        let mut key = [0; 40];
        key[..16].copy_from_slice(&bytes16(segment.client.ip()));
        key[16..32].copy_from_slice(&bytes16(segment.vip.ip()));
        key[32..34].copy_from_slice(&segment.client.port().to_be_bytes());
        key[34..36].copy_from_slice(&segment.vip.port().to_be_bytes());
        key[36] = 6;
        let pin = self.ground.pins.0.path().join(LAYOUT).join("questions");
        let map = Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap();
        let questions: HashMap<MapData, [u8; 40], [u8; 32]> = map.try_into().unwrap();
        let question = questions.get(&key, 0).expect("it was asked");
        u16::from_ne_bytes([question[24], question[25]])
    }

    fn message(&self, kind: MessageKind, sender: u8, number: u16) -> [u8; MESSAGE_LEN] {
        let segment = self.stranger();
        let message = Message {
            kind,
            sender,
            number,
            generation: 1,
            flow: Flow {
                protocol: Protocol::Tcp,
                client: segment.client,
                service: segment.vip,
            },
            load: 0,
        };
        message.sign(&MessageKey {
            id: 7,
            secret: [1, 2],
        })
    }

    fn answer(&self, kind: MessageKind, sender: u8) -> [u8; MESSAGE_LEN] {
        self.message(kind, sender, self.question())
    }

    fn datagram(&self, sender: usize, message: &[u8]) -> Ip {
        let engines = self.family.engines;
        let udp = super::differential::udp(message);
        Ip::new(engines[sender], engines[1], 17, udp)
    }

    fn said(&self, sender: usize, message: &[u8]) -> Fixture {
        let frame = self.datagram(sender, message).frame();
        (frame, SHOT, Left::Gone)
    }

    fn hear(&mut self, sender: usize, message: &[u8], verdict: &str) {
        let datagram = self.datagram(sender, message);
        self.ground.expect(&datagram, verdict, SHOT);
    }

    fn echo(&self) -> Ip {
        let (protocol, kind) = if self.family.vip.is_ipv4() {
            (1, 8)
        } else {
            (58, 128)
        };
        let icmp = vec![kind, 0, 0, 0, 0, 1, 0, 1];
        Ip::new(self.family.client, self.family.vip, protocol, icmp)
    }

    /// A fragment whose first has not come.
    fn later(&self) -> Ip {
        let mut ip = self.stranger().ip();
        if self.family.vip.is_ipv4() {
            ip.fragment = (100, false);
            return ip;
        }
        // RFC 8200 section 4.5: offset 1, the last.
        let fragment = [6, 0, 0, 8, 0, 0, 0, 1];
        (ip.protocol, ip.payload) = (44, [&fragment[..], &ip.payload].concat());
        ip
    }

    fn many_headers(&self) -> Option<Vec<u8>> {
        let mut ip = self.stranger().ip();
        if ip.source.is_ipv4() {
            return None;
        }
        for _ in 0..7 {
            let header = [ip.protocol, 0, 1, 4, 0, 0, 0, 0];
            (ip.protocol, ip.payload) = (60, [&header[..], &ip.payload].concat());
        }
        Some(ip.frame())
    }

    /// A question in an outer header that no member makes: the answer has no place.
    fn dressed_probe(&self) -> Vec<u8> {
        let [a, us, _] = self.family.engines;
        let mut outer = self.stranger().ip().within(a, us, PROBE | 9);
        if a.is_ipv6() {
            let header = [41, 0, 1, 4, 0, 0, 0, 0];
            (outer.protocol, outer.payload) = (60, [&header[..], &outer.payload].concat());
            return outer.frame();
        }
        let mut frame = outer.frame();
        frame[14] = 0x46;
        drop(frame.splice(34..34, [1; 4]));
        frame
    }

    /// The answer to a SYN-ACK with a cookie, which the kernel has sent in earnest.
    fn cookie(&self) -> Segment {
        std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").unwrap();
        let syn = Segment {
            flags: SYN,
            ..self.stranger()
        };
        let cookie = syn_ack(syn);
        std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "1").unwrap();
        Segment {
            flags: ACK,
            seq: syn.seq.wrapping_add(1),
            ack: cookie.wrapping_add(1),
            ..syn
        }
    }
}

/// Sends a SYN past the client's stack; the sequence number of what comes back.
fn syn_ack(syn: Segment) -> u32 {
    let any_port = |ip: IpAddr| SocketAddr::new(ip, 0);
    let tcp = Some(socket2::Protocol::TCP);
    let socket = Socket::new(Domain::for_address(syn.client), Type::RAW, tcp).unwrap();
    socket.bind(&any_port(syn.client.ip()).into()).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    socket
        .send_to(&bare_syn(syn), &any_port(syn.vip.ip()).into())
        .unwrap();
    let mut bytes = [0; 200];
    loop {
        let len = (&socket).read(&mut bytes).expect("a SYN-ACK");
        // A raw socket of IPv4 gets the header too.
        let tcp = &bytes[if syn.client.is_ipv4() { 20 } else { 0 }..len];
        let port = u16::from_be_bytes([tcp[2], tcp[3]]);
        if port == syn.client.port() && tcp[13] == SYN | ACK {
            return u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        }
    }
}

/// Without options, and with the checksum that a stack looks at (RFC 9293 section 3.1).
fn bare_syn(syn: Segment) -> Vec<u8> {
    let mut tcp = syn.ip().payload;
    tcp.truncate(20);
    tcp[12] = 0x50;
    let mut all: Vec<u8> = Vec::new();
    for ip in [syn.client.ip(), syn.vip.ip()] {
        match ip {
            IpAddr::V4(v4) => all.extend(v4.octets()),
            IpAddr::V6(v6) => all.extend(v6.octets()),
        }
    }
    all.extend([0, 6, 0, 20]);
    all.extend(&tcp);
    let words = all
        .chunks_exact(2)
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let check = !((sum & 0xffff) + (sum >> 16)) as u16;
    tcp[16..18].copy_from_slice(&check.to_be_bytes());
    tcp
}

impl Left {
    fn check(&self, family: &Family, before: &[u8], after: &[u8]) {
        let [a, us, _] = family.engines;
        let bare = if us.is_ipv4() { 20 } else { 40 };
        match self {
            Self::Same => assert_eq!(before, after),
            Self::Wrapped(engine) => {
                let (source, to, protocol, _, inside) = outer(after);
                assert_eq!((source, to), (us, family.engines[*engine]));
                assert_eq!(protocol, if us.is_ipv4() { 4 } else { 41 });
                assert_eq!((&after[..14], inside), (&before[..14], &before[14..]));
            }
            Self::Inside => {
                assert_eq!(after[..14], before[..14]);
                assert_eq!(after[14..], before[14 + bare..]);
            }
            Self::Back(word) => {
                let (source, to, _, seen, inside) = outer(after);
                assert_eq!((source, to, seen), (us, a, *word));
                assert_eq!(inside, &before[14 + bare..]);
            }
            Self::Message(kind) => {
                let (source, to, protocol, _, udp) = outer(after);
                assert_eq!((source, to, protocol), (us, a, 17));
                assert_eq!(udp[..6], [6, 14, 6, 14, 0, 72]);
                assert_eq!(udp[9], *kind as u8);
            }
            Self::TooBig => is_told(family, before, after),
            Self::Gone => {}
        }
    }
}

/// RFC 1191 section 4, RFC 4443 section 3.2: what fits beside a tunnel header, and the beginning of the packet.
fn is_told(family: &Family, before: &[u8], after: &[u8]) {
    let (source, to, protocol, _, icmp) = outer(after);
    assert_eq!((source, to), (family.vip, family.client));
    assert_eq!((&after[..6], &after[6..12]), (&before[6..12], &before[..6]));
    let number = |at: usize| u16::from_be_bytes([icmp[at], icmp[at + 1]]);
    let (header, quoted) = (if source.is_ipv4() { 20 } else { 40 }, icmp.len() - 8);
    let (expected, kind): (_, [u8; 2]) = match source.is_ipv4() {
        true => (1, [3, 4]),
        false => (58, [2, 0]),
    };
    assert_eq!(
        (protocol, &icmp[..2], number(6)),
        (expected, &kind[..], LINK_MTU - header)
    );
    assert_eq!(icmp[8..], before[14..14 + quoted]);
    let pseudo = |ip: IpAddr| match ip {
        IpAddr::V4(_) => vec![],
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let mut summed = [pseudo(source), pseudo(to)].concat();
    if source.is_ipv6() {
        summed.extend([0, 0, 0, icmp.len() as u8, 0, 0, 0, 58]);
    }
    summed.extend(icmp);
    let words = summed.chunks_exact(2);
    let sum: u32 = words
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
        .sum();
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "{icmp:02x?}");
}

fn set_mtu() {
    let mtu = LINK_MTU.to_string();
    let status = Command::new("ip")
        .args(["link", "set", "lo", "mtu", &mtu])
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn every_verdict_has_a_frame_that_gets_it() {
    let met = std::sync::Mutex::new(BTreeSet::new());
    on_ground(|ground, family| {
        set_mtu();
        let connection = connection(family);
        let mut scene = Scene {
            ground,
            family,
            connection,
            port: 100,
        };
        // The budget is spent for seconds: that one comes last.
        let spends = |v: &&Verdict| **v == Verdict::DropBudget;
        let last = Verdict::ALL.iter().filter(spends);
        for verdict in Verdict::ALL.iter().filter(|v| !spends(v)).chain(last) {
            scene.port += 1;
            scene.apply(|_| {});
            let Some((frame, action, left)) = scene.fixture(*verdict) else {
                continue;
            };
            let front = scene.ground.expect_in_front(*verdict, &frame);
            let before = scene.ground.steering.counters().unwrap().verdicts;
            let tried = match verdict {
                Verdict::TunnelAnswer => scene.ground.steering.try_out_leaving(&frame, 0),
                _ => scene.ground.steering.try_out(&frame, 1),
            };
            let tried = tried.unwrap();
            if let Some(front) = front.filter(|f| f.action == REDIRECT) {
                assert_eq!(front.frame, tried.frame, "{verdict}: byte by byte");
            }
            let after = scene.ground.steering.counters().unwrap().verdicts;
            let counted: Vec<&str> = (after.iter())
                .filter(|(v, n)| before[*v] < **n)
                .map(|(v, _)| *v)
                .collect();
            let is_right = match verdict {
                Verdict::Pass => counted.is_empty(),
                // What it becomes then is counted too.
                Verdict::Returned => counted == ["probe", "returned"],
                Verdict::ProbeTimeout => counted == ["probe", "probe_timeout"],
                Verdict::Release => counted == ["deliver_data", "release"],
                _ => counted == [verdict.code()],
            };
            assert!(is_right, "{verdict}: counted {counted:?}");
            assert_eq!(tried.action, action, "{verdict}");
            left.check(family, &frame, &tried.frame);
            met.lock().unwrap().insert(*verdict);
        }
    });
    let met = met.into_inner().unwrap();
    let missing = Verdict::ALL.iter().filter(|v| !met.contains(v));
    let missing: Vec<_> = missing.collect();
    assert!(
        missing.is_empty() || met.is_empty(),
        "no frame got {missing:?}"
    );
}
