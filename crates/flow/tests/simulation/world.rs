//! Engines, clients, a router, and a network that loses, repeats, delays and overtakes.

use crate::client::{Client, State};
use crate::rng::Rng;
use crate::stack::{Answer, Sock, Stack};
use evenkeel_flow::config::{
    Answers, Config, Group, Link, Member, MessageKey, Peer, Service, Settings,
};
use evenkeel_flow::decide::{Limits, Outer};
use evenkeel_flow::fit::fits;
use evenkeel_flow::key::{Flow, Protocol};
use evenkeel_flow::mark::{HintKey, Mark};
use evenkeel_flow::pace::{Pace, TICK, Tally};
use evenkeel_flow::packet::{Content, Packet, Segment};
use evenkeel_flow::stamp::{Field, next_clock};
use evenkeel_flow::wire::Word;
use evenkeel_flow::{Decision, Fate, Steering, Verdict};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

pub const HINT_KEY: HintKey = HintKey([0x1111_2222_3333_4444, 0x5555_6666_7777_8888]);

/// Between the first message about a member and the loss of the last packet to it.
pub const DETECTION_US: u64 = 300_000;

type Step = Box<dyn FnOnce(&mut World)>;

/// Something on its way.
enum Event {
    AtRouter(Packet),
    AtEngine(usize, Packet),
    InTunnel(usize, Outer, Packet),
    Message(usize, IpAddr, Vec<u8>),
    AtClient(usize, Answer),
    Timer(usize),
    Tick,
    Step(Step),
}

/// Per packet and hop.
#[derive(Debug, Clone, Copy)]
pub struct Network {
    pub loss_percent: u64,
    pub repeat_percent: u64,
    /// A packet takes so many microseconds, at most.
    pub delay_us: u64,
}

impl Network {
    pub const CALM: Self = Self {
        loss_percent: 0,
        repeat_percent: 0,
        delay_us: 200,
    };
}

pub struct Engine {
    pub steering: Steering,
    pub stack: Stack,
    pub alive: bool,
    pub counts: BTreeMap<Verdict, u64>,
    pub clones: u64,
    pub pace: Pace,
    counted: BTreeMap<Verdict, u64>,
}

/// Everything.
pub struct World {
    pub seed: u64,
    pub rng: Rng,
    pub network: Network,
    pub engines: Vec<Engine>,
    pub clients: Vec<Client>,
    /// Where the router sends packets.
    pub routed: Vec<usize>,
    /// In the group; those that are not routed drain.
    pub members: Vec<usize>,
    pub hints: bool,
    pub keys: Vec<MessageKey>,
    pub now_us: u64,
    /// Clients that were reset although a live engine had their flow: must stay empty.
    pub broken: Vec<String>,
    /// Messages that were sent: to whom, from where, what.
    pub overheard: Vec<(usize, IpAddr, Vec<u8>)>,
    /// Members seen dead.
    dead: Vec<usize>,
    generation: u64,
    base: Instant,
    queue: BTreeMap<(u64, u64), Event>,
    order: u64,
    /// The budget of every engine, as it is configured.
    pub copies_per_s: u32,
    /// What a client writes at once, at most.
    pub write_max: u64,
    /// Every engine sets its budget by what happens.
    pub paced: bool,
}

pub fn service() -> SocketAddr {
    "198.51.100.1:443".parse().unwrap()
}

pub fn tunnel_address(engine: usize) -> IpAddr {
    [10, 0, 0, engine as u8 + 1].into()
}

pub fn key(id: u32) -> MessageKey {
    MessageKey {
        id,
        secret: [u64::from(id), 42],
    }
}

impl World {
    /// Engines 0 to `routed - 1` are members and routed, of `engines` that exist.
    pub fn new(seed: u64, engines: usize, routed: usize) -> Self {
        let mut rng = Rng(seed);
        let base = Instant::now();
        let engines = (0..engines).map(|_| Engine::new(&mut rng)).collect();
        let mut world = Self {
            seed,
            rng,
            network: Network::CALM,
            engines,
            clients: Vec::new(),
            routed: (0..routed).collect(),
            members: (0..routed).collect(),
            hints: true,
            keys: vec![key(1)],
            now_us: 0,
            broken: Vec::new(),
            overheard: Vec::new(),
            dead: Vec::new(),
            generation: 1,
            base,
            queue: BTreeMap::new(),
            order: 0,
            copies_per_s: 200_000,
            write_max: 3000,
            paced: false,
        };
        world.configure();
        world.after(0, Event::Tick);
        world
    }

    /// Every engine hears of the present membership, at its own moment within 5 ms.
    pub fn configure(&mut self) {
        for engine in 0..self.engines.len() {
            let config = self.config(engine);
            let delay = if self.now_us == 0 {
                0
            } else {
                self.rng.within(0, 5_000)
            };
            let step = move |world: &mut Self| world.engines[engine].steering.set_config(config);
            self.later(delay, step);
        }
    }

    /// Members first, the routes 10 ms later: an engine announces only when all know of it. Those that were members
    /// stay it while they drain.
    pub fn route_to(&mut self, routed: &[usize]) {
        let routed: Vec<usize> = routed
            .iter()
            .copied()
            .filter(|e| !self.dead.contains(e))
            .collect();
        self.members.extend(&routed);
        self.members.sort_unstable();
        self.members.dedup();
        self.routed_later(routed);
    }

    fn routed_later(&mut self, routed: Vec<usize>) {
        self.generation += 1;
        let before = std::mem::replace(&mut self.routed, routed.clone());
        self.configure();
        self.routed = before;
        self.later(10_000, move |world| world.routed = routed);
    }

    /// Power off: the router notices after 50 ms, the others after [`DETECTION_US`].
    pub fn kill(&mut self, engine: usize) {
        self.engines[engine].alive = false;
        self.engines[engine].stack.socks.clear();
        self.later(50_000, move |world| {
            world.routed.retain(|routed| *routed != engine)
        });
        self.later(DETECTION_US, move |world| {
            world.dead.push(engine);
            world.configure();
        });
    }

    /// The new key signs at once everywhere but is known a while before; the old one goes later.
    pub fn rotate_key(&mut self, id: u32) {
        self.keys.push(key(id));
        self.configure();
        self.later(100_000, |world| {
            world.keys.reverse();
            world.configure();
        });
        self.later(200_000, |world| {
            world.keys.truncate(1);
            world.configure();
        });
    }

    pub fn config(&self, engine: usize) -> Config {
        let others: Vec<usize> = self
            .members
            .iter()
            .copied()
            .filter(|m| *m != engine)
            .collect();
        let peers = others.iter().map(|other| self.peer(engine, *other));
        let members = others.iter().enumerate().map(|(peer, other)| Member {
            id: *other as u8,
            peer,
            takes_new: self.routed.contains(other),
        });
        let group = Group {
            vsvip_uuid: "vsvip".into(),
            generation: self.generation,
            us: engine as u8,
            drains: !self.routed.contains(&engine),
            spread: None,
            answers: Answers::default(),
            members: members.collect(),
        };
        Config {
            services: vec![Service {
                address: service(),
                protocol: Protocol::Tcp,
                group: 0,
                hints: self.hints,
                probes: true,
                udp_ask_until: None,
            }],
            groups: vec![group],
            peers: peers.collect(),
            addresses: vec![tunnel_address(engine)],
            settings: Settings {
                message_keys: self.keys.clone(),
                hint_key: HINT_KEY,
                copies_per_s: self.copies_per_s,
                copies_burst: self.copies_per_s / 4,
                ..Settings::default()
            },
        }
    }

    fn peer(&self, engine: usize, other: usize) -> Peer {
        Peer {
            se_uuid: format!("se-{other}"),
            name: format!("se{other}"),
            addresses: vec![tunnel_address(other)],
            links: vec![Link {
                local: tunnel_address(engine),
                remote: tunnel_address(other),
                ifindex: 1,
                next_hop: None,
            }],
            alive: !self.dead.contains(&other),
        }
    }

    /// A client begins; its index.
    pub fn connect(&mut self, timestamps: bool) -> usize {
        let index = self.clients.len();
        let flow = Flow {
            protocol: Protocol::Tcp,
            client: SocketAddr::new(
                [192, 0, (index % 200) as u8, 7].into(),
                10_000 + index as u16,
            ),
            service: service(),
        };
        self.reconnect(flow, timestamps)
    }

    /// A client begins under a 4-tuple that may have been used before.
    pub fn reconnect(&mut self, flow: Flow, timestamps: bool) -> usize {
        let index = self.clients.len();
        let client = Client::new(&mut self.rng, flow, timestamps);
        self.clients.push(client);
        let now = self.now_us;
        let segments = self.clients[index].send(now);
        self.sent(index, segments);
        index
    }

    /// This client writes every now and then for so long.
    pub fn chat(&mut self, client: usize, until_us: u64) {
        let octets = self.rng.within(1, self.write_max) as u32;
        self.clients[client].write(octets);
        let segments = self.clients[client].send(self.now_us);
        self.sent(client, segments);
        let pause = self.rng.within(2_000, 300_000);
        if self.now_us + pause < until_us {
            self.later(pause, move |world| world.chat(client, until_us));
        }
    }

    /// Every client that is open closes.
    pub fn close_all(&mut self) {
        for client in 0..self.clients.len() {
            self.clients[client].close();
            let segments = self.clients[client].send(self.now_us);
            self.sent(client, segments);
        }
    }

    pub fn later(&mut self, delay_us: u64, step: impl FnOnce(&mut Self) + 'static) {
        self.after(delay_us, Event::Step(Box::new(step)));
    }

    /// A packet that somebody sends towards the VIP.
    pub fn inject(&mut self, flow: Flow, segment: Segment) {
        self.carried(Event::AtRouter(Packet::tcp(flow, segment)));
    }

    /// Goes on for so long.
    pub fn run(&mut self, us: u64) {
        let end = self.now_us + us;
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > end {
                break;
            }
            self.now_us = entry.key().0;
            let event = entry.remove();
            self.happens(event);
        }
        self.now_us = end;
    }

    pub fn now(&self) -> Instant {
        self.base + Duration::from_micros(self.now_us)
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::AtRouter(packet) => self.at_router(packet),
            Event::AtEngine(engine, packet) => self.at_engine(engine, None, packet),
            Event::InTunnel(engine, outer, packet) => self.at_engine(engine, Some(outer), packet),
            Event::Message(engine, from, bytes) => self.message(engine, from, &bytes),
            Event::AtClient(client, answer) => self.at_client(client, &answer),
            Event::Timer(client) => self.timer(client),
            Event::Tick => self.tick(),
            Event::Step(step) => step(self),
        }
    }

    /// Modulo: the worst a router can do.
    fn at_router(&mut self, packet: Packet) {
        let Some(flow) = packet.flow().filter(|_| !self.routed.is_empty()) else {
            return;
        };
        let hash = Rng(u64::from(flow.client.port())).next() as usize;
        let engine = self.routed[hash % self.routed.len()];
        self.carried(Event::AtEngine(engine, packet));
    }

    fn at_engine(&mut self, index: usize, outer: Option<Outer>, packet: Packet) {
        if !self.engines[index].alive {
            return;
        }
        let Content::Tcp(flow, segment) = packet.content else {
            return;
        };
        let (now, draw) = (self.now(), self.rng.next());
        let engine = &mut self.engines[index];
        let socket = engine.stack.view(&flow, &segment);
        let decision = match &outer {
            None => engine.steering.on_packet(now, draw, &packet, socket),
            Some(outer) => engine
                .steering
                .on_tunnelled(now, draw, outer, &packet, socket),
        };
        engine.count(&decision);
        self.act(index, outer, &packet, flow, &segment, decision);
    }

    fn act(
        &mut self,
        index: usize,
        outer: Option<Outer>,
        packet: &Packet,
        flow: Flow,
        segment: &Segment,
        decision: Decision,
    ) {
        match decision.fate {
            Fate::Drop | Fate::Onward => {}
            Fate::Stack => self.deliver(index, flow, segment),
            Fate::Tunnel { to, word } => self.tunnel(index, to.link.remote, word, packet),
            Fate::Back { word } => self.tunnel(index, outer.unwrap().source, word, packet),
            Fate::Clone { to, word, .. } => {
                self.engines[index].clones += to.len() as u64;
                to.iter()
                    .for_each(|hop| self.tunnel(index, hop.link.remote, word, packet));
            }
        }
        if let Some(bytes) = decision.reply {
            let to = engine_at(outer.unwrap().source);
            let from = tunnel_address(index);
            self.overheard.push((to, from, bytes.to_vec()));
            self.carried(Event::Message(to, from, bytes.to_vec()));
        }
    }

    fn tunnel(&mut self, from: usize, to: IpAddr, word: Word, packet: &Packet) {
        let outer = Outer {
            source: tunnel_address(from),
            destination: to,
            word,
        };
        self.carried(Event::InTunnel(engine_at(to), outer, *packet));
    }

    fn deliver(&mut self, index: usize, flow: Flow, segment: &Segment) {
        let engine = &mut self.engines[index];
        let mut outcome = engine.stack.deliver(&mut self.rng, flow, segment);
        let now_ms = (self.now_us / 1000) as u32;
        if outcome.accepted && self.hints {
            engine.stack.stamp(&flow, index as u8, now_ms);
        }
        if let Some(answer) = &mut outcome.answer {
            answer.ts_val = engine.stack.ts_val(&flow, now_ms);
            let answer = *answer;
            let client = self.clients.iter().rposition(|client| client.flow == flow);
            if let Some(client) = client {
                self.carried(Event::AtClient(client, answer));
            }
        }
    }

    fn message(&mut self, engine: usize, from: IpAddr, bytes: &[u8]) {
        if !self.engines[engine].alive {
            return;
        }
        let now = self.now();
        let decision = self.engines[engine].steering.on_message(now, from, bytes);
        self.engines[engine].count(&decision);
    }

    fn at_client(&mut self, client: usize, answer: &Answer) {
        let before = self.clients[client].clone();
        let segments = self.clients[client].receive(self.now_us, answer);
        if self.clients[client].state == State::Reset && before.state != State::Reset {
            self.check_reset(&before);
        }
        self.sent(client, segments);
    }

    /// Nobody alive may own a flow that was reset.
    fn check_reset(&mut self, client: &Client) {
        if let Some(owner) = self.owner(client) {
            let text = format!(
                "seed {}: at {} us the flow of {} was reset, but engine {owner} owns it",
                self.seed, self.now_us, client.flow.client
            );
            self.broken.push(text);
        }
    }

    /// The live engine with a connection that fits this client's next packet.
    pub fn owner(&self, client: &Client) -> Option<usize> {
        let segment = client.oldest();
        let owns = |engine: &Engine| {
            let is_open = matches!(engine.stack.socks.get(&client.flow), Some(Sock::Open(_)));
            engine.alive && is_open && fits(&segment, engine.stack.view(&client.flow, &segment))
        };
        self.engines.iter().position(owns)
    }

    fn timer(&mut self, client: usize) {
        if self.clients[client].timer_us != Some(self.now_us) {
            return;
        }
        let segments = self.clients[client].timeout(self.now_us);
        self.sent(client, segments);
    }

    fn sent(&mut self, client: usize, segments: Vec<Segment>) {
        let flow = self.clients[client].flow;
        for segment in segments {
            self.carried(Event::AtRouter(Packet::tcp(flow, segment)));
        }
        if let Some(at) = self.clients[client].timer_us {
            let delay = at.saturating_sub(self.now_us);
            self.after(delay, Event::Timer(client));
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        for engine in self.engines.iter_mut().filter(|_| self.paced) {
            engine.tick(now, self.members.len() - 1);
        }
        self.after(TICK.as_micros() as u64, Event::Tick);
    }

    /// Over the network: perhaps not, perhaps twice, and each after its own time.
    fn carried(&mut self, event: Event) {
        if self.rng.percent(self.network.loss_percent) {
            return;
        }
        if self.rng.percent(self.network.repeat_percent) {
            let delay = self.delay() * 3;
            self.after(delay, event.copy());
        }
        let delay = self.delay();
        self.after(delay, event);
    }

    fn delay(&mut self) -> u64 {
        self.rng.within(20, self.network.delay_us.max(21))
    }

    fn after(&mut self, delay_us: u64, event: Event) {
        self.order += 1;
        self.queue
            .insert((self.now_us + delay_us, self.order), event);
    }
}

impl Engine {
    fn new(rng: &mut Rng) -> Self {
        Self {
            steering: Steering::new(Limits::default()),
            stack: Stack {
                secret: rng.word(),
                ..Stack::default()
            },
            alive: true,
            counts: BTreeMap::new(),
            clones: 0,
            pace: Pace::new(),
            counted: BTreeMap::new(),
        }
    }

    pub fn count_of(&self, verdict: Verdict) -> u64 {
        self.counts.get(&verdict).copied().unwrap_or(0)
    }

    fn count(&mut self, decision: &Decision) {
        *self.counts.entry(decision.verdict).or_default() += 1;
        if decision.returned {
            *self.counts.entry(Verdict::Returned).or_default() += 1;
        }
    }

    fn tick(&mut self, now: Instant, others: usize) {
        let since =
            |verdict| self.count_of(verdict) - self.counted.get(&verdict).copied().unwrap_or(0);
        let tally = Tally {
            probes: since(Verdict::Probe),
            claimed: since(Verdict::ClaimTaken),
            denied: since(Verdict::DenyTaken) / others.max(1) as u64,
            unanswered: 0,
            over_budget: since(Verdict::DropBudget),
            events: 0,
        };
        self.counted = self.counts.clone();
        let rate = self.pace.tick(now, others, &tally);
        self.steering.set_rate(rate);
    }
}

impl Stack {
    /// As the proxy does after `accept()`.
    fn stamp(&mut self, flow: &Flow, id: u8, now_ms: u32) {
        if let Some(Sock::Open(open)) = self.socks.get_mut(flow) {
            let clock = now_ms.wrapping_add(open.ts_offset);
            let stamped = next_clock(clock, Field::of(id, Mark::of(HINT_KEY, flow)));
            open.ts_offset = open.ts_offset.wrapping_add(stamped.wrapping_sub(clock));
        }
    }

    /// Random before there is a connection, as the kernel's offsets are.
    fn ts_val(&self, flow: &Flow, now_ms: u32) -> u32 {
        let offset = match self.socks.get(flow) {
            Some(Sock::Open(open)) => open.ts_offset,
            _ => Rng(u64::from(self.secret) ^ u64::from(flow.client.port())).word(),
        };
        now_ms.wrapping_add(offset)
    }
}

impl Event {
    fn copy(&self) -> Self {
        match self {
            Self::AtRouter(packet) => Self::AtRouter(*packet),
            Self::AtEngine(engine, packet) => Self::AtEngine(*engine, *packet),
            Self::InTunnel(engine, outer, packet) => Self::InTunnel(*engine, *outer, *packet),
            Self::Message(engine, from, bytes) => Self::Message(*engine, *from, bytes.clone()),
            Self::AtClient(client, answer) => Self::AtClient(*client, *answer),
            Self::Timer(client) => Self::Timer(*client),
            Self::Tick | Self::Step(_) => Self::Tick,
        }
    }
}

fn engine_at(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(v4) => usize::from(v4.octets()[3]) - 1,
        IpAddr::V6(_) => unreachable!("tunnels of the simulation are IPv4"),
    }
}

/// A connection that nobody knows, under this 4-tuple.
pub fn ghost(rng: &mut Rng) -> Sock {
    let snd_una = rng.word();
    Sock::Open(crate::stack::Open {
        rcv_nxt: rng.word(),
        snd_una,
        snd_nxt: snd_una.wrapping_add(1000),
        ts_offset: rng.word(),
    })
}
