//! Two sessions over a simulated link: virtual clock, delay, loss, duplication, outages, demand mode, packets that go
//! early, and new timers with and without loss. A failing seed is printed; run it alone with `run(SEED, ..)`.

use std::collections::BTreeMap;

use super::*;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

struct Pair {
    now: Instant,
    ends: [Session; 2],
    /// By time and order of sending; to whom.
    flying: BTreeMap<(Instant, u64), (usize, [u8; PACKET_LEN])>,
    sent: u64,
    /// When the last packet to each end arrives: a path that reorders would show old timers after new ones.
    arrival: [Instant; 2],
    /// Of a thousand packets.
    lost: u64,
    cut: bool,
    /// The second end's packets ask for silence; it does not know, so that it loses the first when that obeys.
    demanding: bool,
    random: Random,
    /// Up to Down.
    failures: u64,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let mut random = Random(seed | 1);
        let ends =
            [1, 2].map(|id| Session::new(any_config(&mut random), id, now, seed + u64::from(id)));
        Self {
            now,
            ends,
            flying: BTreeMap::new(),
            sent: 0,
            arrival: [now; 2],
            lost: 0,
            cut: false,
            demanding: false,
            random,
            failures: 0,
        }
    }

    fn perform(&mut self, from: usize, outcome: Outcome) {
        if let Some(packet) = outcome.send {
            self.fly(1 - from, packet);
        }
        self.failures += u64::from(outcome.change.is_some_and(|c| c.is_failure()));
    }

    fn fly(&mut self, to: usize, mut packet: [u8; PACKET_LEN]) {
        if self.demanding && to == 0 {
            packet[1] |= 0x02;
        }
        let copies = 1 + u64::from(self.random.below(100) == 0);
        for _ in 0..copies {
            if self.cut || self.random.below(1000) < self.lost {
                continue;
            }
            let at = self.now + Duration::from_micros(50 + self.random.below(2000));
            let at = at.max(self.arrival[to]);
            self.arrival[to] = at;
            self.sent += 1;
            self.flying.insert((at, self.sent), (to, packet));
        }
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.next().filter(|at| *at <= end) {
            self.now = at;
            for end in 0..2 {
                let outcome = self.ends[end].on_deadline(at);
                self.perform(end, outcome);
                if let Some(packet) = self.ends[end].transmit_early(at) {
                    self.fly(1 - end, packet);
                }
            }
            while let Some(entry) = self.flying.first_entry().filter(|e| e.key().0 <= at) {
                let (to, bytes) = entry.remove();
                let packet = Packet::decode(&bytes).expect("ours is well-formed");
                if let Ok(outcome) = self.ends[to].on_packet(at, &packet) {
                    self.perform(to, outcome);
                }
            }
        }
        self.now = end;
    }

    fn next(&self) -> Option<Instant> {
        let timers = self.ends.iter().filter_map(Session::next_deadline);
        timers.chain(self.flying.keys().map(|(at, _)| *at)).min()
    }

    fn change_timers(&mut self) {
        for _ in 0..5 {
            let end = self.random.below(2) as usize;
            let config = any_config(&mut self.random);
            self.ends[end].set_config(self.now, config);
            let pause = ms(self.random.below(60_000));
            self.run_for(pause);
        }
    }

    fn assert_agreed(&self, place: &str) {
        for (one, other) in [(0, 1), (1, 0)] {
            let (one, other) = (&self.ends[one], &self.ends[other]);
            let agreed = one.config().min_tx.max(other.config().min_rx);
            assert_eq!(one.transmit_interval(), Some(agreed), "{place}");
            assert_eq!(one.poll, Poll::None, "{place}");
        }
    }

    fn both_are(&self, state: State) -> bool {
        self.ends.iter().all(|end| end.state() == state)
    }
}

/// With a multiplier of 1 a tenth of the interval is left for the way: more than 2 ms from 50 ms on.
fn any_config(random: &mut Random) -> Config {
    let multiplier = 1 + random.below(5) as u8;
    let least = if multiplier == 1 { 50 } else { 10 };
    Config {
        min_tx: ms(least + random.below(2000)),
        min_rx: ms(least + random.below(2000)),
        multiplier,
    }
}

/// Longer than any detection time here, and than coming up at the slow rate.
const SETTLE: Duration = Duration::from_secs(30);

#[expect(
    clippy::print_stderr,
    clippy::disallowed_macros,
    reason = "shown when the test fails"
)]
fn run(seed: u64, rounds: u64) -> Duration {
    eprintln!("seed {seed}");
    let mut pair = Pair::new(seed);
    let start = pair.now;
    for round in 0..rounds {
        let place = format!("seed {seed} round {round}");
        // In peace both come up and stay up, also through new timers.
        pair.run_for(SETTLE);
        assert!(pair.both_are(State::Up), "{place}");
        let failures = pair.failures;
        pair.change_timers();
        pair.run_for(SETTLE);
        assert_eq!(pair.failures, failures, "{place}: new timers must not flap");
        pair.assert_agreed(&place);
        // They agree on new timers also when packets are lost, however often that takes them down.
        pair.lost = 300;
        pair.change_timers();
        pair.lost = 0;
        pair.run_for(SETTLE);
        assert!(pair.both_are(State::Up), "{place}");
        pair.assert_agreed(&place);
        pair.demanding = true;
        pair.run_for(SETTLE);
        pair.demanding = false;
        pair.run_for(SETTLE);
        assert!(pair.both_are(State::Up), "{place}: after demand mode");
        // An outage is noticed by both; some loss is survived.
        pair.cut = true;
        pair.run_for(SETTLE);
        assert!(pair.both_are(State::Down), "{place}");
        pair.cut = false;
        pair.lost = 300;
        pair.run_for(ms(200_000));
        pair.lost = 0;
    }
    pair.now - start
}

#[test]
fn two_speakers_come_up_agree_and_notice_outages() {
    let time: Duration = (1..=60).map(|seed| run(seed * 7919, 40)).sum();
    assert!(
        time > Duration::from_secs(1_000_000),
        "{time:?} of virtual time"
    );
}
