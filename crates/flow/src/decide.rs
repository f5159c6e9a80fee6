//! The decision, as one machine (`docs/dev/steering.md`, sections 1 and 2).
//!
//! ```text
//!   TCP from outside
//!     SYN ───────────────────────────────▶ local_new, tunnel_new (at an engine that drains, or of a VIP that is scaled natively)
//!     our socket, and it fits ───────────▶ local_socket
//!     the timestamp names a member ──────▶ tunnel_hint ┐
//!     the cache does ────────────────────▶ tunnel_cache├─ DATA ──▶ deliver_data, or RETURN ──▶ again, without hint
//!     answers a SYN cookie of ours ──────▶ local_cookie┘
//!     all have denied this packet ───────▶ local_denied: RST
//!     else ──────────────────────────────▶ probe ─ PROBE ──▶ deliver_claim + CLAIM, or deny + DENY
//! ```
//!
//! The program in the kernel decides the same; the differential test feeds both.

mod ground;
mod message;
mod question;
mod tunnel;

use crate::budget::{Budget, Priority, Rate};
use crate::config::{Config, Link};
use crate::fit::fits;
use crate::key::Flow;
use crate::lru::Lru;
use crate::mark::Mark;
use crate::packet::{Content, Fragment, Packet, Segment, Socket};
use crate::stamp::Field;
use crate::verdict::Verdict;
use crate::wire::{MESSAGE_LEN, TunnelKind, Word};
use ground::{Ground, Map};
use question::{Asked, Question};
use std::net::IpAddr;
use std::time::{Duration, Instant};

pub use ground::Members;
pub use question::{DENIED_TTL, QUESTION_TTL};
pub use tunnel::Outer;

/// The verdict of a first fragment holds for the others of its datagram for so long.
pub const FRAGMENT_TTL: Duration = Duration::from_secs(2);

/// How much is remembered; what was unused for longest is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Flows with a known owner.
    pub cache: usize,
    /// Flows that are asked about.
    pub questions: usize,
    /// Fragmented datagrams.
    pub fragments: usize,
}

impl Default for Limits {
    /// A million moved flows; questions live for seconds, fragments are rare.
    fn default() -> Self {
        Self {
            cache: 1 << 20,
            questions: 1 << 16,
            fragments: 1 << 12,
        }
    }
}

/// A member, and the way to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Its id in the group.
    pub member: u8,
    /// Outer source and destination.
    pub link: Link,
}

/// Where the packet goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// To our own stack: as it came, or the inner packet of a tunnel.
    Stack,
    /// Into the tunnel to one member.
    Tunnel {
        /// The member.
        to: Hop,
        /// Of the outer header.
        word: Word,
    },
    /// Out of its tunnel, to whom it is addressed, by our routes.
    Onward,
    /// Back the way it came, whole, the outer addresses exchanged.
    Back {
        /// Of the outer header.
        word: Word,
    },
    /// A clone into the tunnel to each of these.
    Clone {
        /// The members.
        to: Vec<Hop>,
        /// Of the outer headers.
        word: Word,
        /// And to our own stack.
        and_stack: bool,
    },
    /// Nowhere.
    Drop,
}

/// What becomes of a packet, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Why; the counter.
    pub verdict: Verdict,
    /// It had come back from a member: [`Verdict::Returned`] is counted too.
    pub returned: bool,
    /// The last probe about the flow was not answered: [`Verdict::ProbeTimeout`] is counted too.
    pub timed_out: bool,
    /// What.
    pub fate: Fate,
    /// And this message is sent back the way the tunnel packet came.
    pub reply: Option<[u8; MESSAGE_LEN]>,
}

impl Decision {
    fn new(verdict: Verdict, fate: Fate) -> Self {
        Self {
            verdict,
            returned: false,
            timed_out: false,
            fate,
            reply: None,
        }
    }

    fn probe(fate: Fate, timed_out: bool) -> Self {
        Self {
            timed_out,
            ..Self::new(Verdict::Probe, fate)
        }
    }

    fn stack(verdict: Verdict) -> Self {
        Self::new(verdict, Fate::Stack)
    }

    fn drop(verdict: Verdict) -> Self {
        Self::new(verdict, Fate::Drop)
    }
}

/// What was decided about a first fragment.
#[derive(Debug, Clone, Copy)]
struct Remembered {
    at: Instant,
    verdict: Verdict,
    /// Where it was tunnelled.
    member: Option<u8>,
}

/// A packet of a flow of a service of ours.
#[derive(Debug, Clone, Copy)]
struct Case {
    now: Instant,
    draw: u64,
    flow: Flow,
    mark: Mark,
    ground: Ground,
    /// The member that has returned it.
    returner: Option<u8>,
}

/// The state of an engine: what it was told, and what it has learned.
#[derive(Debug, Clone)]
pub struct Steering {
    map: Map,
    cache: Lru<Flow, u8>,
    questions: Lru<Flow, Question>,
    fragments: Lru<(IpAddr, IpAddr, Fragment), Remembered>,
    /// 2^16 bits, chosen by the flow's mark.
    no_hint: Vec<u64>,
    budget: Budget,
}

impl Steering {
    /// Nothing is steered before [`Self::set_config`].
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            map: Map::default(),
            cache: Lru::new(limits.cache),
            questions: Lru::new(limits.questions),
            fragments: Lru::new(limits.fragments),
            no_hint: vec![0; 1 << 10],
            budget: Budget::new(rate(&Config::default())),
        }
    }

    /// From now on this. What was learned stays; members of the generation before may still send.
    pub fn set_config(&mut self, config: Config) {
        self.budget.set_rate(rate(&config));
        self.map.replace(config);
    }

    /// What is in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        self.map.config()
    }

    /// From now on this budget, until the next configuration.
    pub fn set_rate(&mut self, rate: Rate) {
        self.budget.set_rate(rate);
    }

    /// Hints are believed again of all flows. User space does this every minute: several flows share a bit.
    pub fn believe_hints(&mut self) {
        self.no_hint.fill(0);
    }

    /// The owner that was found.
    #[must_use]
    pub fn cached(&self, flow: &Flow) -> Option<u8> {
        self.cache.peek(flow).copied()
    }

    /// All owners that were found, in the order of the flows.
    pub fn cache(&self) -> impl Iterator<Item = (&Flow, u8)> {
        self.cache.iter().map(|(flow, member)| (flow, *member))
    }

    /// Hints of this flow, and of the others that share its bit, are not believed.
    #[must_use]
    pub fn doubts_hints(&self, flow: &Flow) -> bool {
        self.is_doubted(self.map.mark(flow))
    }

    /// A packet from outside, and the socket that our kernel finds for it: of the packet's flow, for an ICMP error
    /// of the flow that it quotes. `draw` is random: the number of a new question is made from it.
    pub fn on_packet(
        &mut self,
        now: Instant,
        draw: u64,
        packet: &Packet,
        socket: Socket,
    ) -> Decision {
        let decision = match packet.content {
            Content::LaterFragment => return self.later_fragment(now, packet),
            Content::Other => self.at_vip(packet, Decision::stack(Verdict::LocalOther)),
            Content::TooManyHeaders => self.at_vip(packet, Decision::drop(Verdict::DropHeaders)),
            Content::Tcp(flow, segment) => match self.case(now, draw, flow) {
                Some(case) => self.tcp(&case, &segment, socket),
                None => Decision::stack(Verdict::Pass),
            },
            Content::Udp(flow) => match self.case(now, draw, flow) {
                Some(case) => self.udp(&case, socket),
                None => Decision::stack(Verdict::Pass),
            },
            Content::Error(flow) => match self.case(now, draw, flow) {
                Some(case) => self.error(&case, socket),
                None => Decision::stack(Verdict::Pass),
            },
        };
        self.remember(now, packet, &decision);
        decision
    }

    fn case(&self, now: Instant, draw: u64, flow: Flow) -> Option<Case> {
        Some(Case {
            now,
            draw,
            flow,
            mark: self.map.mark(&flow),
            ground: self.map.ground(&flow)?,
            returner: None,
        })
    }

    /// For what has no ports: this, if a service of ours has the address.
    fn at_vip(&self, packet: &Packet, decision: Decision) -> Decision {
        match self.map.ground_of_vip(packet.destination) {
            Some(_) => decision,
            None => Decision::stack(Verdict::Pass),
        }
    }

    fn tcp(&mut self, case: &Case, segment: &Segment, socket: Socket) -> Decision {
        if segment.flags.opens() {
            return self.opening(case, socket);
        }
        self.tcp_going_on(case, segment, socket)
    }

    /// From step 3 on.
    fn tcp_going_on(&mut self, case: &Case, segment: &Segment, socket: Socket) -> Decision {
        if fits(segment, socket) {
            return Decision::stack(Verdict::LocalSocket);
        }
        let known = self.by_hint(case, segment);
        let known = known.or_else(|| self.by_cache_of_tcp(case, segment));
        known.unwrap_or_else(|| self.tcp_stranger(case, segment, socket))
    }

    /// From step 6 on.
    fn tcp_stranger(&mut self, case: &Case, segment: &Segment, socket: Socket) -> Decision {
        if socket.accepts_cookie(segment) {
            return Decision::stack(Verdict::LocalCookie);
        }
        let about = (segment.seq, segment.ack);
        let priority = if segment.flags.ends() {
            Priority::Low
        } else {
            Priority::Normal
        };
        match self.ask(case, about, priority, DENIED_TTL) {
            Asked::NobodyElse => Decision::stack(Verdict::LocalNone),
            Asked::Denied => Decision::stack(Verdict::LocalDenied),
            Asked::OverBudget => Decision::drop(Verdict::DropBudget),
            Asked::Waiting | Asked::Silence => Decision::drop(Verdict::DropAsked),
            Asked::Probe { fate, timed_out } => Decision::probe(fate, timed_out),
        }
    }

    /// Step 2: a SYN is a new flow, whatever was known under its 4-tuple.
    fn opening(&mut self, case: &Case, socket: Socket) -> Decision {
        self.cache.remove(&case.flow);
        self.new_flow(case, socket)
    }

    /// To whom it is for. One that was returned stays: nobody else is tried.
    fn new_flow(&mut self, case: &Case, socket: Socket) -> Decision {
        let is_served = socket != Socket::None;
        let taker = self.map.taker(&case.ground, &case.flow, is_served);
        let Some(member) = taker.filter(|_| case.returner.is_none()) else {
            return Decision::stack(Verdict::LocalNew);
        };
        self.cache.insert(case.flow, member);
        self.data(&case.ground, case.mark.check(), member, Verdict::TunnelNew)
    }

    /// A datagram of nobody's flow: at an engine that drains it stays, as its clients may have come in any way.
    fn new_datagram(&mut self, case: &Case, socket: Socket) -> Decision {
        match case.ground.spread {
            Some(_) => self.new_flow(case, socket),
            None => Decision::stack(Verdict::LocalNew),
        }
    }

    /// Step 4.
    fn by_hint(&mut self, case: &Case, segment: &Segment) -> Option<Decision> {
        let ts_ecr = segment.ts_ecr.filter(|ts_ecr| *ts_ecr != 0)?;
        let member = Field::read(ts_ecr).member(case.mark);
        let is_believed =
            case.ground.hints && case.ground.live.contains(member) && !self.is_doubted(case.mark);
        is_believed.then(|| self.data(&case.ground, case.mark.check(), member, Verdict::TunnelHint))
    }

    fn by_cache_of_tcp(&mut self, case: &Case, segment: &Segment) -> Option<Decision> {
        let decision = self.by_cache(case)?;
        if segment.flags.ends() && self.map.config().settings.forgets_at_once {
            self.cache.remove(&case.flow);
        }
        Some(decision)
    }

    /// Step 5.
    fn by_cache(&mut self, case: &Case) -> Option<Decision> {
        let member = *self.cache.get(&case.flow)?;
        let is_live = case.ground.live.contains(member);
        is_live.then(|| {
            self.data(
                &case.ground,
                case.mark.check(),
                member,
                Verdict::TunnelCache,
            )
        })
    }

    fn udp(&mut self, case: &Case, socket: Socket) -> Decision {
        if socket == Socket::Connected {
            return Decision::stack(Verdict::LocalSocket);
        }
        if let Some(decision) = self.by_cache(case) {
            return decision;
        }
        let until = case.ground.udp_ask_until;
        if until.is_none_or(|until| case.now >= until) {
            return self.new_datagram(case, socket);
        }
        // A datagram has no number: a denial counts for the whole flow, and only briefly.
        match self.ask(case, (0, 0), Priority::Normal, QUESTION_TTL) {
            Asked::NobodyElse | Asked::Denied | Asked::Silence => self.new_datagram(case, socket),
            Asked::OverBudget => Decision::drop(Verdict::DropBudget),
            Asked::Waiting => Decision::drop(Verdict::DropAsked),
            Asked::Probe { fate, timed_out } => Decision::probe(fate, timed_out),
        }
    }

    /// An ICMP error goes where the flow goes that it quotes.
    fn error(&mut self, case: &Case, socket: Socket) -> Decision {
        if socket.is_of_flow() {
            return Decision::stack(Verdict::LocalSocket);
        }
        if let Some(decision) = self.by_cache(case) {
            return decision;
        }
        let ground = &case.ground;
        if !ground.probes || ground.live.is_empty() {
            return Decision::stack(Verdict::LocalOther);
        }
        if !self.take_flood(case.now, ground, case.flow.client.ip()) {
            return Decision::drop(Verdict::DropBudget);
        }
        Decision::new(Verdict::ProbeError, self.flood(ground, false))
    }

    /// A later fragment goes where its first went; one that comes before its first, or whose first was a probe, goes
    /// everywhere. It harms no stack that never gets the first.
    fn later_fragment(&mut self, now: Instant, packet: &Packet) -> Decision {
        let Some(ground) = self.map.ground_of_vip(packet.destination) else {
            return Decision::stack(Verdict::Pass);
        };
        let first = fragment_key(packet).and_then(|key| self.fragments.get(&key).copied());
        let first = first.filter(|first| now.saturating_duration_since(first.at) < FRAGMENT_TTL);
        let here = first.is_some_and(|first| first.verdict != Verdict::Probe);
        if let Some(first) = first
            && let Some(member) = first.member.filter(|member| ground.live.contains(*member))
        {
            // There are no ports to make a check of; it never comes back.
            return self.data(&ground, 0, member, first.verdict);
        }
        let may_ask = !here && ground.probes && !ground.live.is_empty();
        if !may_ask || !self.take_flood(now, &ground, packet.source) {
            return Decision::stack(Verdict::LocalOther);
        }
        Decision::new(Verdict::ProbeFragment, self.flood(&ground, true))
    }

    fn remember(&mut self, now: Instant, packet: &Packet, decision: &Decision) {
        let Some(key) = fragment_key(packet) else {
            return;
        };
        let member = match &decision.fate {
            Fate::Tunnel { to, .. } => Some(to.member),
            Fate::Stack | Fate::Onward | Fate::Back { .. } | Fate::Clone { .. } | Fate::Drop => {
                None
            }
        };
        let remembered = Remembered {
            at: now,
            verdict: decision.verdict,
            member,
        };
        if decision.verdict != Verdict::Pass {
            self.fragments.insert(key, remembered);
        }
    }

    fn take_flood(&mut self, now: Instant, ground: &Ground, client: IpAddr) -> bool {
        let copies = ground.live.len();
        self.budget
            .take(now, ground.group, client, copies, Priority::Low)
    }

    /// Clones to all members, without a question.
    fn flood(&self, ground: &Ground, and_stack: bool) -> Fate {
        Fate::Clone {
            to: self.map.hops(ground, ground.live),
            word: Word::new(TunnelKind::Probe, 0),
            and_stack,
        }
    }

    /// Into the tunnel to a live member.
    fn data(&self, ground: &Ground, check: u16, member: u8, verdict: Verdict) -> Decision {
        let hops = self.map.hops(ground, Members::of([member]));
        let word = Word::new(TunnelKind::Data, check);
        match hops.first() {
            Some(&to) => Decision::new(verdict, Fate::Tunnel { to, word }),
            None => Decision::drop(Verdict::DropFamily),
        }
    }

    fn is_doubted(&self, mark: Mark) -> bool {
        let bit = usize::from(mark.no_hint_bit());
        self.no_hint[bit / 64] >> (bit % 64) & 1 == 1
    }

    fn doubt(&mut self, mark: Mark) {
        let bit = usize::from(mark.no_hint_bit());
        self.no_hint[bit / 64] |= 1 << (bit % 64);
    }
}

fn rate(config: &Config) -> Rate {
    Rate {
        copies_per_s: config.settings.copies_per_s,
        burst: config.settings.copies_burst,
    }
}

/// None: whole, or an ICMP error, whose fragments find no way that was remembered.
fn fragment_key(packet: &Packet) -> Option<(IpAddr, IpAddr, Fragment)> {
    let is_error = matches!(packet.content, Content::Error(_));
    let fragment = packet.fragment.filter(|_| !is_error)?;
    Some((packet.source, packet.destination, fragment))
}

#[cfg(test)]
mod tests;
