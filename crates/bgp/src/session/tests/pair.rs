//! Two sessions over a simulated link: virtual clock, delay, cut and silently dead connections.
//! A failing seed is printed; run it alone with `settle(SEED, ..)`.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::wire::Treatment;

/// Something under way on the link.
#[derive(Debug)]
enum Parcel {
    /// To the passive side.
    Connect,
    /// To the active side: the answer to its connect.
    Accepted(bool),
    Bytes(Bytes),
    Closed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Active,
    Passive,
}

struct Link {
    now: Instant,
    /// By time and order of sending; to whom, of which connection.
    parcels: BTreeMap<(Instant, u64), (Side, u64, Parcel)>,
    sent: u64,
    /// So that bytes of one direction stay in order.
    last_arrival: [Instant; 2],
    /// Connections that swallow everything from now on.
    dead: BTreeSet<u64>,
    random: Random,
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

impl Link {
    fn send(&mut self, to: Side, connection: u64, parcel: Parcel) {
        let delay = Duration::from_micros(100 + self.random.below(200_000));
        let at = (self.now + delay).max(self.last_arrival[to as usize]);
        self.last_arrival[to as usize] = at;
        self.sent += 1;
        self.parcels
            .insert((at, self.sent), (to, connection, parcel));
    }
}

struct Pair {
    link: Link,
    active: Session,
    passive: Session,
    /// The connection each side has or tries to get.
    connections: [Option<u64>; 2],
    next_connection: u64,
    /// What the passive side holds of the active one's routes.
    held: BTreeSet<IpAddr>,
    desired: BTreeSet<u8>,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let timers = SessionConfig {
            hold_time: HoldTime::new(9).unwrap(),
            keepalive: Duration::from_secs(3),
            ..config()
        };
        let passive = SessionConfig {
            router_id: Ipv4Addr::new(10, 10, 10, 1),
            passive: true,
            ..timers.clone()
        };
        let mut pair = Self {
            link: Link {
                now,
                parcels: BTreeMap::new(),
                sent: 0,
                last_arrival: [now; 2],
                dead: BTreeSet::new(),
                random: Random(seed | 1),
            },
            active: Session::new(timers, now, seed),
            passive: Session::new(passive, now, seed + 1),
            connections: [None; 2],
            next_connection: 0,
            held: BTreeSet::new(),
            desired: BTreeSet::new(),
        };
        pair.passive.start(now);
        pair.active.start(now);
        pair.drain();
        pair
    }

    fn session(&mut self, side: Side) -> &mut Session {
        match side {
            Side::Active => &mut self.active,
            Side::Passive => &mut self.passive,
        }
    }

    fn run_until(&mut self, end: Instant) {
        loop {
            let parcel = self.link.parcels.keys().next().map(|(at, _)| *at);
            let timers = [
                parcel,
                self.active.next_deadline(),
                self.passive.next_deadline(),
            ];
            match timers.into_iter().flatten().min().filter(|at| *at <= end) {
                None => break,
                Some(at) => self.step(at),
            }
        }
        self.link.now = end;
    }

    fn step(&mut self, at: Instant) {
        self.link.now = at;
        self.active.on_deadline(at);
        self.passive.on_deadline(at);
        self.drain();
        while let Some(entry) = self.link.parcels.first_entry().filter(|e| e.key().0 <= at) {
            let (side, connection, parcel) = entry.remove();
            self.deliver(side, connection, parcel);
            self.drain();
        }
    }

    fn deliver(&mut self, side: Side, connection: u64, parcel: Parcel) {
        let now = self.link.now;
        let current = self.connections[side as usize] == Some(connection);
        match parcel {
            Parcel::Connect => {
                let accepts = self.passive.state() == StateName::Active;
                self.link
                    .send(Side::Active, connection, Parcel::Accepted(accepts));
                if accepts {
                    self.connections[Side::Passive as usize] = Some(connection);
                    self.passive.on_connected(now);
                }
            }
            Parcel::Accepted(true) if current => self.active.on_connected(now),
            Parcel::Accepted(true) => self.link.send(Side::Passive, connection, Parcel::Closed),
            Parcel::Accepted(false) if current => self.fail(side),
            Parcel::Bytes(bytes) if current && !self.link.dead.contains(&connection) => {
                let (first, second) =
                    bytes.split_at(self.link.random.below(bytes.len() as u64 + 1) as usize);
                self.session(side).on_bytes(now, first);
                self.session(side).on_bytes(now, second);
            }
            Parcel::Closed if current && !self.link.dead.contains(&connection) => self.fail(side),
            Parcel::Accepted(false) | Parcel::Bytes(_) | Parcel::Closed => {}
        }
    }

    fn fail(&mut self, side: Side) {
        let now = self.link.now;
        self.connections[side as usize] = None;
        self.session(side)
            .on_transport_failed(now, "connection reset");
    }

    fn drain(&mut self) {
        loop {
            let output = match self.active.poll_output() {
                Some(output) => Some((Side::Active, output)),
                None => self
                    .passive
                    .poll_output()
                    .map(|output| (Side::Passive, output)),
            };
            match output {
                Some((side, output)) => self.perform(side, output),
                None => return,
            }
        }
    }

    fn perform(&mut self, side: Side, output: Output) {
        let other = if side == Side::Active {
            Side::Passive
        } else {
            Side::Active
        };
        match output {
            Output::Connect => {
                self.next_connection += 1;
                self.connections[side as usize] = Some(self.next_connection);
                self.link.send(other, self.next_connection, Parcel::Connect);
            }
            Output::Send(bytes) => {
                let now = self.link.now;
                self.session(side).on_written(now, bytes.len());
                if let Some(connection) = self.connections[side as usize] {
                    self.link.send(other, connection, Parcel::Bytes(bytes));
                }
            }
            Output::Close => {
                if let Some(connection) = self.connections[side as usize].take() {
                    self.link.send(other, connection, Parcel::Closed);
                }
            }
            Output::Report(report) => self.observe(side, report),
        }
    }

    fn observe(&mut self, side: Side, report: Report) {
        match report {
            Report::UpdateReceived(update) if side == Side::Passive => {
                assert_eq!(update.treatment, Treatment::Accepted);
                self.held
                    .extend(update.announced.iter().map(ipnet::IpNet::addr));
                update
                    .withdrawn
                    .iter()
                    .for_each(|net| assert!(self.held.remove(&net.addr()), "withdrawn twice"));
            }
            Report::StateChanged {
                from: StateName::Established,
                ..
            } if side == Side::Passive => self.held.clear(),
            Report::NotificationSent {
                notification,
                detail,
            } => {
                assert_eq!(
                    (notification.code, notification.subcode),
                    (4, 0),
                    "{side:?}: {detail}"
                );
            }
            _ => {}
        }
    }

    /// One disturbance: routes change, the connection is cut, or it silently dies.
    fn disturb(&mut self) {
        match self.link.random.below(10) {
            0 => {
                for side in [Side::Active, Side::Passive] {
                    if self.session(side).state.has_connection() {
                        self.fail(side);
                    }
                }
            }
            1 => self.link.dead.extend(self.connections[0]),
            _ => {
                let route = self.link.random.below(20) as u8;
                if !self.desired.remove(&route) {
                    self.desired.insert(route);
                }
                let now = self.link.now;
                self.active
                    .set_routes(now, &routes(self.desired.iter().copied()));
            }
        }
        self.drain();
    }
}

/// Disturbs for a while, lets the link rest, and compares; returns the virtual time.
fn settle(seed: u64, rounds: u32) -> Duration {
    let mut pair = Pair::new(seed);
    let start = pair.link.now;
    for round in 0..rounds {
        for _ in 0..20 {
            let pause = Duration::from_millis(pair.link.random.below(8000));
            pair.run_until(pair.link.now + pause);
            pair.disturb();
        }
        // Longer than the OpenSent hold time of four minutes, the slowest way to notice a dead link.
        pair.run_until(pair.link.now + Duration::from_secs(300));
        let states = (pair.active.state(), pair.passive.state());
        assert_eq!(
            states,
            (StateName::Established, StateName::Established),
            "seed {seed} round {round}"
        );
        let desired: BTreeSet<IpAddr> = routes(pair.desired.iter().copied()).into_keys().collect();
        assert_eq!(pair.held, desired, "seed {seed} round {round}");
    }
    pair.link.now - start
}

#[test]
fn two_speakers_always_find_each_other_again_and_agree_on_the_routes() {
    let total: Duration = (1..=80).map(|seed| settle(seed * 7919, 40)).sum();
    assert!(
        total > Duration::from_secs(1_000_000),
        "{total:?} of virtual time"
    );
}
