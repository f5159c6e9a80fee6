//! Two sessions over a simulated link: virtual clock, delay, cut and silently dead connections, and both
//! sides opening connections at the same time. A failing seed is printed; run it alone with
//! `settle(SEED, .., Openers)`.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::wire::Treatment;

/// Something under way on the link.
#[derive(Debug)]
enum Parcel {
    /// A connection is asked for.
    Connect,
    /// The answer.
    Accepted(bool),
    Bytes(Bytes),
    Closed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Left,
    Right,
}

impl Side {
    const BOTH: [Self; 2] = [Self::Left, Self::Right];

    fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
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

/// A speaker and the sockets of its shell.
struct Speaker {
    session: Session,
    opened: Option<u64>,
    accepted: Option<u64>,
}

impl Speaker {
    fn slot(&mut self, connection: Connection) -> &mut Option<u64> {
        match connection {
            Connection::Opened => &mut self.opened,
            Connection::Accepted => &mut self.accepted,
        }
    }

    fn which(&self, id: u64) -> Option<Connection> {
        match id {
            id if self.opened == Some(id) => Some(Connection::Opened),
            id if self.accepted == Some(id) => Some(Connection::Accepted),
            _ => None,
        }
    }
}

/// Who opens connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Openers {
    Left,
    Both,
}

struct Pair {
    link: Link,
    speakers: [Speaker; 2],
    next_connection: u64,
    /// What the right side holds of the left one's routes.
    held: BTreeSet<IpNet>,
    desired: BTreeSet<u8>,
    collisions: u64,
}

impl Pair {
    fn new(seed: u64, openers: Openers) -> Self {
        let now = Instant::now();
        let timers = SessionConfig {
            hold_time: HoldTime::new(9).unwrap(),
            keepalive: Duration::from_secs(3),
            ..config()
        };
        let right = SessionConfig {
            router_id: Ipv4Addr::new(10, 10, 10, 1 + (seed % 2) as u8 * 20),
            passive: openers == Openers::Left,
            ..timers.clone()
        };
        let speaker = |config, seed| Speaker {
            session: Session::new(config, now, seed),
            opened: None,
            accepted: None,
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
            speakers: [speaker(timers, seed), speaker(right, seed + 1)],
            next_connection: 0,
            held: BTreeSet::new(),
            desired: BTreeSet::new(),
            collisions: 0,
        };
        for side in [Side::Right, Side::Left] {
            pair.session(side).start(now);
        }
        pair.drain();
        pair
    }

    fn session(&mut self, side: Side) -> &mut Session {
        &mut self.speakers[side as usize].session
    }

    fn run_until(&mut self, end: Instant) {
        loop {
            let parcel = self.link.parcels.keys().next().map(|(at, _)| *at);
            let timers = self.speakers.iter().map(|s| s.session.next_deadline());
            let next = timers.chain([parcel]).flatten().min();
            match next.filter(|at| *at <= end) {
                None => break,
                Some(at) => self.step(at),
            }
        }
        self.link.now = end;
    }

    fn step(&mut self, at: Instant) {
        self.link.now = at;
        for side in Side::BOTH {
            self.session(side).on_deadline(at);
        }
        self.drain();
        while let Some(entry) = self.link.parcels.first_entry().filter(|e| e.key().0 <= at) {
            let (side, connection, parcel) = entry.remove();
            self.deliver(side, connection, parcel);
            self.drain();
        }
    }

    fn deliver(&mut self, side: Side, id: u64, parcel: Parcel) {
        let now = self.link.now;
        let which = self.speakers[side as usize].which(id);
        let alive = !self.link.dead.contains(&id);
        match (parcel, which) {
            (Parcel::Connect, _) => self.accept(side, id),
            (Parcel::Accepted(true), Some(_)) => self.session(side).on_connected(now),
            // The attempt was given up meanwhile.
            (Parcel::Accepted(true), None) => self.link.send(side.other(), id, Parcel::Closed),
            (Parcel::Bytes(bytes), Some(which)) if alive => {
                let cut = self.link.random.below(bytes.len() as u64 + 1) as usize;
                self.session(side).on_bytes(now, which, &bytes[..cut]);
                self.session(side).on_bytes(now, which, &bytes[cut..]);
            }
            (Parcel::Accepted(false), Some(which)) => self.fail(side, which),
            (Parcel::Closed, Some(which)) if alive => self.fail(side, which),
            (Parcel::Accepted(false) | Parcel::Bytes(_) | Parcel::Closed, _) => {}
        }
    }

    /// The shell accepts one connection at a time, and only for a session that was started.
    fn accept(&mut self, side: Side, id: u64) {
        let now = self.link.now;
        let free = self.speakers[side as usize].accepted.is_none();
        self.link.send(side.other(), id, Parcel::Accepted(free));
        if free {
            self.speakers[side as usize].accepted = Some(id);
            self.session(side).on_accepted(now);
        }
    }

    fn fail(&mut self, side: Side, which: Connection) {
        let now = self.link.now;
        *self.speakers[side as usize].slot(which) = None;
        self.session(side)
            .on_transport_failed(now, which, "connection reset");
    }

    fn drain(&mut self) {
        while let Some((side, output)) = self.next_output() {
            self.perform(side, output);
        }
    }

    fn next_output(&mut self) -> Option<(Side, Output)> {
        let output = |side| Some((side, self.speakers[side as usize].session.poll_output()?));
        Side::BOTH.into_iter().find_map(output)
    }

    fn perform(&mut self, side: Side, output: Output) {
        match output {
            Output::Connect => {
                self.next_connection += 1;
                self.speakers[side as usize].opened = Some(self.next_connection);
                self.link
                    .send(side.other(), self.next_connection, Parcel::Connect);
            }
            Output::Send(which, bytes) => {
                let now = self.link.now;
                self.session(side).on_written(now, which, bytes.len());
                if let Some(id) = *self.speakers[side as usize].slot(which) {
                    self.link.send(side.other(), id, Parcel::Bytes(bytes));
                }
            }
            Output::Close(which) => {
                if let Some(id) = self.speakers[side as usize].slot(which).take() {
                    self.link.send(side.other(), id, Parcel::Closed);
                }
            }
            Output::Report(report) => self.observe(side, report),
        }
    }

    fn observe(&mut self, side: Side, report: Report) {
        match report {
            Report::UpdateReceived(update) if side == Side::Right => {
                assert_eq!(update.treatment, Treatment::Accepted);
                self.held.extend(update.announced);
                for net in &update.withdrawn {
                    assert!(self.held.remove(net), "withdrawn twice");
                }
            }
            Report::StateChanged {
                from: StateName::Established,
                ..
            } if side == Side::Right => self.held.clear(),
            Report::NotificationSent {
                notification,
                detail,
            } => match (notification.code, notification.subcode) {
                (6, 7) => self.collisions += 1,
                (4, 0) => {}
                _ => panic!("{side:?} sent {notification}: {detail}"),
            },
            _ => {}
        }
    }

    /// One disturbance: routes change, the connections are cut, or they silently die.
    fn disturb(&mut self) {
        match self.link.random.below(10) {
            0 => self.cut(),
            1 => {
                let all = self.speakers.iter().flat_map(|s| [s.opened, s.accepted]);
                self.link.dead.extend(all.flatten());
            }
            _ => {
                let route = self.link.random.below(20) as u8;
                if !self.desired.remove(&route) {
                    self.desired.insert(route);
                }
                let now = self.link.now;
                let table = routes(self.desired.iter().copied());
                self.session(Side::Left).set_routes(now, &table);
            }
        }
        self.drain();
    }

    fn cut(&mut self) {
        for side in Side::BOTH {
            for which in [Connection::Opened, Connection::Accepted] {
                let speaker = &mut self.speakers[side as usize];
                let trying = speaker.session.state() == StateName::Connect;
                if speaker.slot(which).is_some() && !(trying && which == Connection::Opened) {
                    self.fail(side, which);
                    self.drain();
                }
            }
        }
    }
}

/// Disturbs for a while, lets the link rest, and compares; virtual time and collisions seen.
#[expect(
    clippy::print_stderr,
    clippy::disallowed_macros,
    reason = "shown when the test fails"
)]
fn settle(seed: u64, rounds: u32, openers: Openers) -> (Duration, u64) {
    eprintln!("seed {seed} {openers:?}");
    let mut pair = Pair::new(seed, openers);
    let start = pair.link.now;
    for round in 0..rounds {
        let place = format!("seed {seed} round {round} {openers:?}");
        for _ in 0..20 {
            let pause = Duration::from_millis(pair.link.random.below(8000));
            pair.run_until(pair.link.now + pause);
            pair.disturb();
        }
        // Longer than the OpenSent hold time of four minutes, the slowest way to notice a dead link.
        pair.run_until(pair.link.now + Duration::from_secs(300));
        for side in Side::BOTH {
            assert_eq!(
                pair.session(side).state(),
                StateName::Established,
                "{place} {side:?}"
            );
            assert!(pair.session(side).rival.is_none(), "{place} {side:?}");
        }
        let desired: BTreeSet<IpNet> = routes(pair.desired.iter().copied()).into_keys().collect();
        assert_eq!(pair.held, desired, "{place}");
    }
    (pair.link.now - start, pair.collisions)
}

#[test]
fn two_speakers_always_find_each_other_again_and_agree_on_the_routes() {
    let runs = (1..=80).map(|seed| settle(seed * 7919, 40, Openers::Left));
    let (time, collisions) = runs.fold((Duration::ZERO, 0), |(t, c), (dt, dc)| (t + dt, c + dc));
    assert!(
        time > Duration::from_secs(1_000_000),
        "{time:?} of virtual time"
    );
    assert_eq!(collisions, 0);
}

/// RFC 4271 section 6.8 at work: both open, one connection stays.
#[test]
fn two_speakers_that_both_open_agree_on_one_connection() {
    let runs = (1..=80).map(|seed| settle(seed * 104_729, 40, Openers::Both));
    let (time, collisions) = runs.fold((Duration::ZERO, 0), |(t, c), (dt, dc)| (t + dt, c + dc));
    assert!(
        time > Duration::from_secs(1_000_000),
        "{time:?} of virtual time"
    );
    assert!(collisions > 1000, "{collisions} collisions");
}
