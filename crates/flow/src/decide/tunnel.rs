//! Packets that a member has sent us (`docs/dev/steering.md`, section 2).

use super::{Case, Decision, Fate, Ground, Members, Steering};
use crate::fit::{ends, fits};
use crate::key::Flow;
use crate::packet::{Content, Packet, Segment, Socket};
use crate::verdict::Verdict;
use crate::wire::{MESSAGE_LEN, Message, MessageKind, TunnelKind, Word};
use std::net::IpAddr;
use std::time::Instant;

/// The outer header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer {
    /// The sender's tunnel address.
    pub source: IpAddr,
    /// Ours.
    pub destination: IpAddr,
    /// Kind and value.
    pub word: Word,
}

/// What a tunnel packet is about.
#[derive(Debug, Clone, Copy)]
struct Arrival<'a> {
    now: Instant,
    draw: u64,
    outer: &'a Outer,
    ground: Ground,
    /// The sender.
    member: u8,
    socket: Socket,
}

impl Steering {
    /// A packet out of a tunnel whose outer destination is ours, and the socket that our kernel finds for the inner
    /// one. It never goes into a tunnel again, except back, and never to our stack if it is not ours.
    pub fn on_tunnelled(
        &mut self,
        now: Instant,
        draw: u64,
        outer: &Outer,
        packet: &Packet,
        socket: Socket,
    ) -> Decision {
        let Some(ground) = self.ground_inside(outer, packet) else {
            return self.answer_arrived(outer, packet);
        };
        let members_at = |address| self.map.members_at(&ground, address);
        let Some(member) = members_at(outer.source).iter().next() else {
            return Decision::drop(Verdict::DropStranger);
        };
        // Of an ICMP error, whom it is about: a router on the way may be anybody.
        let client = packet.flow().map_or(packet.source, |flow| flow.client.ip());
        if !members_at(client).is_empty() || self.map.is_ours(client) {
            return Decision::drop(Verdict::DropSpoofed);
        }
        let arrival = Arrival {
            now,
            draw,
            outer,
            ground,
            member,
            socket,
        };
        self.arrived(&arrival, packet)
    }

    /// A packet that leaves here, but for those of neighbour discovery: what a VIP of ours sends may go through the primary.
    #[must_use]
    pub fn on_leaving(&self, packet: &Packet) -> Decision {
        let ground = self.map.ground_of_vip(packet.source);
        let relay = ground.and_then(|g| Some((g, g.answers.relay()?)));
        let Some((ground, relay)) = relay.filter(|(g, relay)| g.live.contains(*relay)) else {
            return Decision::stack(Verdict::Pass);
        };
        let word = Word::new(TunnelKind::Answer, 0);
        match self.map.hops(&ground, Members::of([relay])).first() {
            Some(&to) => Decision::new(Verdict::TunnelAnswer, Fate::Tunnel { to, word }),
            None => Decision::drop(Verdict::DropFamily),
        }
    }

    /// What a VIP of ours has sent at another member, or none of our business. Whether it is for us to send on is not asked: members
    /// hear of a change one after another.
    fn answer_arrived(&self, outer: &Outer, packet: &Packet) -> Decision {
        let ground = self.map.ground_of_vip(packet.source);
        let Some(ground) = ground.filter(|_| self.map.is_ours(outer.destination)) else {
            return Decision::stack(Verdict::Pass);
        };
        if self.map.members_at(&ground, outer.source).is_empty() {
            return Decision::drop(Verdict::DropStranger);
        }
        match outer.word.kind {
            TunnelKind::Answer => Decision::new(Verdict::RelayAnswer, Fate::Onward),
            _ => Decision::drop(Verdict::DropKind),
        }
    }

    /// None: the tunnel packet is none of our business.
    fn ground_inside(&self, outer: &Outer, packet: &Packet) -> Option<Ground> {
        if !self.map.is_ours(outer.destination) || !is_made_by_us(&packet.content) {
            return None;
        }
        match packet.flow() {
            Some(flow) => self.map.ground(&flow),
            None => self.map.ground_of_vip(packet.destination),
        }
    }

    fn arrived(&mut self, arrival: &Arrival, packet: &Packet) -> Decision {
        let kind = arrival.outer.word.kind;
        match (packet.content, kind) {
            // Without its first, which goes only to the owner's stack, it is never reassembled.
            (Content::LaterFragment, _) => Decision::stack(Verdict::DeliverData),
            (Content::Error(_), _) if arrival.socket.is_of_flow() => {
                Decision::stack(Verdict::DeliverData)
            }
            (Content::Error(_), _) => Decision::drop(Verdict::DropError),
            (content, TunnelKind::Data) => self.data_arrived(arrival, &content),
            (Content::Tcp(flow, _) | Content::Udp(flow), TunnelKind::Probe) => {
                self.asked(arrival, flow, is_ours(&packet.content, arrival.socket))
            }
            (Content::Tcp(flow, _) | Content::Udp(flow), TunnelKind::Return) => {
                self.returned(arrival, packet, flow)
            }
            (_, TunnelKind::Answer)
            | (Content::Other | Content::TooManyHeaders, TunnelKind::Probe | TunnelKind::Return) => {
                Decision::drop(Verdict::DropKind)
            }
        }
    }

    fn asked(&self, arrival: &Arrival, flow: Flow, is_ours: bool) -> Decision {
        let (kind, mut decision) = if is_ours {
            (MessageKind::Claim, Decision::stack(Verdict::DeliverClaim))
        } else {
            (MessageKind::Deny, Decision::drop(Verdict::Deny))
        };
        decision.reply = self.message(arrival, kind, arrival.outer.word.value, flow);
        decision
    }

    /// To the member that has sent the packet; none while there is no key.
    fn message(
        &self,
        arrival: &Arrival,
        kind: MessageKind,
        number: u16,
        flow: Flow,
    ) -> Option<[u8; MESSAGE_LEN]> {
        let (sender, generation) = self.map.us(&arrival.ground);
        let message = Message {
            kind,
            sender,
            number,
            generation,
            flow,
            load: 0,
        };
        let key = self.map.config().settings.message_keys.first();
        key.map(|key| message.sign(key))
    }

    /// DATA: ours, or a new flow, or it goes back whole. The sender may forget a flow that ends.
    fn data_arrived(&self, arrival: &Arrival, content: &Content) -> Decision {
        let opens =
            opens(content, arrival.ground.spread.is_some()) && arrival.socket != Socket::None;
        if !opens && !is_ours(content, arrival.socket) {
            let word = Word::new(TunnelKind::Return, arrival.outer.word.value);
            return Decision::new(Verdict::Return, Fate::Back { word });
        }
        let mut decision = Decision::stack(Verdict::DeliverData);
        match content {
            Content::Tcp(flow, segment) if !opens && ends(segment, arrival.socket) => {
                decision.reply = self.message(arrival, MessageKind::Release, 0, *flow);
            }
            _ => {}
        }
        decision
    }

    /// A DATA packet of ours came back: the member does not own it. The flow's hints are doubted, and it is decided on
    /// again.
    fn returned(&mut self, arrival: &Arrival, packet: &Packet, flow: Flow) -> Decision {
        let mark = self.map.mark(&flow);
        if arrival.outer.word.value != mark.check() {
            return Decision::drop(Verdict::DropCheck);
        }
        self.forget_owner(&flow, arrival.member);
        self.doubt(mark);
        let case = Case {
            now: arrival.now,
            draw: arrival.draw,
            flow,
            mark,
            ground: arrival.ground,
            returner: Some(arrival.member),
        };
        let mut decision = match packet.content {
            Content::Tcp(_, segment) if segment.flags.opens() => {
                self.new_flow(&case, arrival.socket)
            }
            Content::Tcp(_, segment) => self.tcp_going_on(&case, &segment, arrival.socket),
            _ => self.udp(&case, arrival.socket),
        };
        decision.returned = true;
        decision
    }

    /// The cache entry goes, if it names this member.
    pub(super) fn forget_owner(&mut self, flow: &Flow, member: u8) {
        if self.cached(flow) == Some(member) {
            self.cache.remove(flow);
        }
    }
}

/// It may begin a flow; a datagram only where new flows are spread, else it was taken for one of ours.
fn opens(content: &Content, spread: bool) -> bool {
    match content {
        Content::Tcp(_, segment) => segment.flags.opens(),
        Content::Udp(_) => spread,
        Content::Error(_) | Content::LaterFragment | Content::Other | Content::TooManyHeaders => {
            false
        }
    }
}

/// What members put into tunnels; the rest is another overlay's.
fn is_made_by_us(content: &Content) -> bool {
    match content {
        Content::Tcp(..) | Content::Udp(_) | Content::Error(_) | Content::LaterFragment => true,
        Content::Other | Content::TooManyHeaders => false,
    }
}

/// A socket that it fits, or a listener for which it is a valid answer to a SYN cookie.
fn is_ours(content: &Content, socket: Socket) -> bool {
    let tcp = |segment: &Segment| fits(segment, socket) || socket.accepts_cookie(segment);
    match content {
        Content::Tcp(_, segment) => tcp(segment),
        Content::Udp(_) => socket == Socket::Connected,
        Content::Error(_) | Content::LaterFragment | Content::Other | Content::TooManyHeaders => {
            false
        }
    }
}
