//! One scene per sentence of the specification; random schedules are in `tests/simulation`.

use super::*;
use crate::config::{Answers, Group, Member, MessageKey, Peer, Service, Settings};
use crate::key::Protocol;
use crate::mark::HintKey;
use crate::packet::Flags;
use crate::stamp::next_clock;
use crate::wire::{Envelope, Message, MessageKind};
use proptest::prelude::*;
use std::net::SocketAddr;

mod learning;
mod rules;
mod spread;
mod tunnels;

const KEY: MessageKey = MessageKey {
    id: 1,
    secret: [1, 2],
};

const RETRY: Duration = Duration::from_millis(40);

const LISTENER: Socket = Socket::Listener {
    cookie_valid: false,
};

/// Engine 0 of a group of four, between tunnel addresses 10.0.0.1 to 10.0.0.4.
struct Scene {
    steering: Steering,
    config: Config,
    now: Instant,
    draw: u64,
}

fn vip(port: u16) -> SocketAddr {
    SocketAddr::new([198, 51, 100, 1].into(), port)
}

fn member_address(id: u8) -> IpAddr {
    [10, 0, 0, id + 1].into()
}

fn flow(port: u16) -> Flow {
    Flow {
        protocol: Protocol::Tcp,
        client: SocketAddr::new([192, 0, 2, 9].into(), port),
        service: vip(443),
    }
}

fn udp_flow(port: u16) -> Flow {
    Flow {
        protocol: Protocol::Udp,
        service: vip(53),
        ..flow(port)
    }
}

fn peer(id: u8) -> Peer {
    Peer {
        se_uuid: format!("se-{id}"),
        name: format!("se{id}"),
        addresses: vec![member_address(id)],
        links: vec![Link {
            local: member_address(0),
            remote: member_address(id),
            ifindex: 1,
            next_hop: None,
        }],
        alive: true,
    }
}

fn config() -> Config {
    let service = |port, protocol| Service {
        address: vip(port),
        protocol,
        group: 0,
        hints: true,
        probes: true,
        udp_ask_until: None,
    };
    Config {
        services: vec![service(443, Protocol::Tcp), service(53, Protocol::Udp)],
        groups: vec![Group {
            vsvip_uuid: "vsvip".into(),
            generation: 7,
            us: 0,
            drains: false,
            spread: None,
            answers: Answers::default(),
            members: (1..4).map(member).collect(),
        }],
        peers: (1..4).map(peer).collect(),
        addresses: vec![member_address(0)],
        settings: Settings {
            probe_retry_timer: RETRY,
            message_keys: vec![KEY],
            hint_key: HintKey([3, 4]),
            ..Settings::default()
        },
    }
}

fn member(id: u8) -> Member {
    Member {
        id,
        peer: usize::from(id) - 1,
        takes_new: true,
    }
}

fn segment(flags: Flags, seq: u32, ack: u32) -> Segment {
    Segment {
        flags,
        seq,
        ack,
        ..Segment::default()
    }
}

fn data(seq: u32) -> Segment {
    segment(Flags::ACK, seq, 500)
}

fn hinted(flow: &Flow, id: u8) -> Segment {
    let mark = Mark::of(HintKey([3, 4]), flow);
    Segment {
        ts_ecr: Some(next_clock(77, Field::of(id, mark))),
        ..data(100)
    }
}

fn established(rcv_nxt: u32) -> Socket {
    Socket::Established {
        rcv_nxt,
        rcv_wnd: 65535,
        snd_una: 500,
        snd_nxt: 500,
        fin_sent: false,
        fin_received: false,
    }
}

impl Scene {
    fn new() -> Self {
        let mut steering = Steering::new(Limits::default());
        steering.set_config(config());
        Self {
            steering,
            config: config(),
            now: Instant::now(),
            draw: 0,
        }
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut scene = Self::new();
        scene.change(change);
        scene
    }

    fn change(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        self.steering.set_config(self.config.clone());
    }

    fn asks_about_udp(&mut self, until: Instant) {
        self.change(|config| config.services[1].udp_ask_until = Some(until));
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn packet(&mut self, packet: &Packet, socket: Socket) -> Decision {
        self.draw += 1;
        self.steering.on_packet(self.now, self.draw, packet, socket)
    }

    fn tcp(&mut self, segment: Segment, socket: Socket) -> Decision {
        self.packet(&Packet::tcp(flow(1000), segment), socket)
    }

    fn tunnelled(&mut self, from: u8, word: Word, packet: &Packet, socket: Socket) -> Decision {
        self.draw += 1;
        let outer = Outer {
            source: member_address(from),
            destination: member_address(0),
            word,
        };
        self.steering
            .on_tunnelled(self.now, self.draw, &outer, packet, socket)
    }

    fn message(&mut self, kind: MessageKind, sender: u8, number: u16, flow: Flow) -> Verdict {
        self.said(kind, sender, number, flow).verdict
    }

    fn said(&mut self, kind: MessageKind, sender: u8, number: u16, flow: Flow) -> Decision {
        let message = Message {
            kind,
            sender,
            number,
            generation: 7,
            flow,
            load: 0,
        };
        let bytes = message.sign(&KEY);
        self.steering
            .on_message(self.now, member_address(sender), &bytes)
    }

    /// Asks about a segment; the number of the question.
    fn asks(&mut self, segment: Segment) -> u16 {
        let decision = self.tcp(segment, LISTENER);
        assert_eq!(decision.verdict, Verdict::Probe);
        probe_of(&decision).1
    }

    fn denied_by(&mut self, members: &[u8], number: u16) {
        for member in members {
            let verdict = self.message(MessageKind::Deny, *member, number, flow(1000));
            assert_eq!(verdict, Verdict::DenyTaken);
        }
    }

    /// The flow's owner was found.
    fn learns(&mut self, owner: u8) {
        let number = self.asks(data(100));
        let verdict = self.message(MessageKind::Claim, owner, number, flow(1000));
        assert_eq!(verdict, Verdict::ClaimTaken);
    }
}

/// Members asked, and the number.
fn probe_of(decision: &Decision) -> (Vec<u8>, u16) {
    let Fate::Clone { to, word, .. } = &decision.fate else {
        panic!("no probe: {decision:?}");
    };
    assert_eq!(word.kind, TunnelKind::Probe);
    (to.iter().map(|hop| hop.member).collect(), word.value)
}

/// The member that it is tunnelled to.
fn tunnel_of(decision: &Decision) -> u8 {
    let Fate::Tunnel { to, word } = &decision.fate else {
        panic!("not tunnelled: {decision:?}");
    };
    assert_eq!(word.kind, TunnelKind::Data);
    assert_eq!(to.link.remote, member_address(to.member));
    to.member
}
