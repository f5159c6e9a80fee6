//! The sessions in their slots: which packet is whose, who is started and who is closed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::bfd::demux::{Demux, Path};
use ::bfd::{Config, Discard, Discards, Outcome, Session};
use tokio::sync::mpsc::Sender as Reports;
use tokio::sync::mpsc::error::TrySendError;

use super::inbox::Inbox;
use super::socket::{Datagram, Sender};
use super::status::{Counters, Snapshot};
use super::untold::Untold;
use super::{BfdConfig, BfdEvent, BfdKey, BfdReport};

/// With many sessions the thread does not wake for every packet: after a round it sleeps as long as the fastest
/// session has slack, at most this long, and then takes what has come at once. Detection is late by as much.
const PAUSE_MAX: Duration = Duration::from_millis(5);

/// The same while no session is up or one has just come up, and after a round in which more came than could be read.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(1);

/// After sockets or an interface that could not be had.
const RETRY: Duration = Duration::from_secs(1);

/// A session that is removed says AdminDown about three times, once per second, in case one is lost; longer when the
/// peer needs longer, and not longer than a minute.
const GOODBYE_MIN: Duration = Duration::from_millis(3200);
const GOODBYE_MAX: Duration = Duration::from_secs(60);

/// A session that came up less than this ago is asked by Poll: the peer goes on at its slow rate until it has our Final
/// (RFC 5880 section 6.8.3). Two packets of the slow rate.
const SETTLING: Duration = Duration::from_secs(2);

/// RFC 5881 section 5.
const TTL_SINGLE_HOP: u8 = 255;

struct Slot {
    key: Arc<BfdKey>,
    path: Path,
    session: Session,
    sender: Sender,
    min_ttl: u8,
    counters: Counters,
    untold: Untold,
    /// Removed: forgotten then.
    closing: Option<Instant>,
}

impl Slot {
    fn send(&mut self, packet: &[u8]) {
        if self.sender.send(packet) {
            self.counters.packets_out += 1;
        }
    }

    /// Its packets, and its silence as far as that is known.
    fn run_deadlines(&mut self, now: Instant, heard_until: Instant) -> Outcome {
        let session = &mut self.session;
        if session
            .detection_deadline()
            .is_some_and(|at| at <= heard_until)
        {
            return session.on_deadline(now);
        }
        let send = session
            .transmit(now)
            .or_else(|| session.transmit_early(now));
        Outcome { send, change: None }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let times = [
            self.session.next_deadline(),
            self.closing,
            self.untold.due(),
        ];
        times.into_iter().flatten().min()
    }

    fn close(&mut self, now: Instant) {
        self.session.set_admin_down(now, true);
        let session = &self.session;
        let interval = session.transmit_interval().unwrap_or_default();
        let heard = interval.saturating_mul(session.config().multiplier.into());
        let longest = heard.max(session.detection_time());
        self.closing = Some(now + longest.clamp(GOODBYE_MIN, GOODBYE_MAX));
    }
}

/// See the head of the module.
pub(super) struct Sessions {
    desired: BTreeMap<BfdKey, BfdConfig>,
    /// Indexes are what the demultiplexer knows; a free one is used again.
    slots: Vec<Option<Slot>>,
    demux: Demux,
    reports: Reports<BfdReport>,
    retry_at: Option<Instant>,
    failed: BTreeMap<BfdKey, String>,
    strays: Discards,
    /// Something is to be shown.
    pub(super) changed: bool,
}

impl Sessions {
    pub(super) fn new(reports: Reports<BfdReport>) -> Self {
        Self {
            desired: BTreeMap::new(),
            slots: Vec::new(),
            demux: Demux::default(),
            reports,
            retry_at: None,
            failed: BTreeMap::new(),
            strays: Discards::default(),
            changed: false,
        }
    }

    /// By when something is to be done; none without sessions.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let slots = self.slots.iter().flatten();
        let deadlines = slots.filter_map(Slot::next_deadline);
        deadlines.chain(self.retry_at).min()
    }

    /// How long packets may wait unread.
    pub(super) fn patience(&self, now: Instant) -> Duration {
        let slots = self.slots.iter().flatten();
        let shortest = slots.filter_map(|slot| patience(&slot.session, now)).min();
        shortest.unwrap_or(PAUSE_MIN).min(PAUSE_MAX)
    }

    /// Silence is judged up to `heard_until`.
    pub(super) fn run_deadlines(&mut self, now: Instant, heard_until: Instant, inbox: &mut Inbox) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.reconcile(inbox);
        }
        for index in 0..self.slots.len() {
            let Some(slot) = &mut self.slots[index] else {
                continue;
            };
            if slot.closing.is_some_and(|at| at <= now) {
                self.forget(index);
                self.name_sessions(inbox);
                continue;
            }
            let outcome = slot.run_deadlines(now, heard_until);
            self.perform(index, outcome);
            self.tell(index, now);
        }
    }

    pub(super) fn on_datagram(&mut self, datagram: &Datagram) {
        if let Err(why) = self.judge(datagram) {
            self.strays.count(why);
        }
    }

    /// An error when no session is concerned.
    fn judge(&mut self, datagram: &Datagram) -> Result<(), Discard> {
        let Datagram {
            packet,
            multihop,
            peer,
            local,
            interface,
            ttl,
        } = *datagram;
        let packet = packet?;
        let path = Path {
            local,
            peer,
            interface: (!multihop).then_some(interface),
        };
        let index = self.demux.find(&packet, &path)?;
        let slot = self.slots[index].as_mut().ok_or(Discard::NoSession)?;
        if slot.key.multihop != multihop {
            return Err(Discard::NoSession);
        }
        let least = if multihop {
            slot.min_ttl
        } else {
            TTL_SINGLE_HOP
        };
        let result = match ttl >= least {
            true => slot.session.on_packet(Instant::now(), &packet),
            false => Err(Discard::Ttl),
        };
        match result {
            Ok(outcome) => {
                slot.counters.packets_in += 1;
                self.perform(index, outcome);
            }
            Err(why) => slot.counters.discards.count(why),
        }
        Ok(())
    }

    fn perform(&mut self, index: usize, outcome: Outcome) {
        let Some(slot) = &mut self.slots[index] else {
            return;
        };
        if let Some(packet) = outcome.send {
            slot.send(&packet);
        }
        if let Some(change) = outcome.change.filter(|_| slot.closing.is_none()) {
            slot.untold.add(change);
            self.changed = true;
        }
    }

    /// A full queue means that the owner is slow: told later.
    fn tell(&mut self, index: usize, now: Instant) {
        let Some(slot) = &mut self.slots[index] else {
            return;
        };
        let Some(news) = slot.untold.news(now) else {
            return;
        };
        let event = BfdEvent {
            key: slot.key.clone(),
            from: news.change.from,
            to: news.change.to,
            diagnostic: news.change.diagnostic,
            failures: news.failures,
            remote_state: news.change.remote_state,
        };
        match self.reports.try_send(BfdReport::State(event)) {
            Err(TrySendError::Full(_)) => slot.untold.postpone(now),
            // Without owner the thread is about to end.
            Ok(()) | Err(TrySendError::Closed(_)) => slot.untold.told(now),
        }
    }

    pub(super) fn set_desired(&mut self, desired: BTreeMap<BfdKey, BfdConfig>, inbox: &mut Inbox) {
        self.desired = desired;
        self.reconcile(inbox);
    }

    /// Makes the sessions what they shall be.
    fn reconcile(&mut self, inbox: &mut Inbox) {
        let now = Instant::now();
        self.changed = true;
        self.retry_at = None;
        for slot in self.slots.iter_mut().flatten() {
            match self.desired.get(&*slot.key) {
                Some(config) if slot.closing.is_none() => {
                    slot.min_ttl = config.min_ttl;
                    slot.session.set_config(now, core_config(*config));
                }
                None if slot.closing.is_none() => slot.close(now),
                _ => {}
            }
        }
        self.failed.retain(|key, _| self.desired.contains_key(key));
        for (key, config) in self.desired.clone() {
            if !self.exists(&key) {
                self.start(key, config, now, inbox);
            }
        }
        self.name_sessions(inbox);
    }

    fn exists(&self, key: &BfdKey) -> bool {
        let mut slots = self.slots.iter().flatten();
        slots.any(|slot| *slot.key == *key && slot.closing.is_none())
    }

    /// A session that was removed a moment ago is not to fight its successor with AdminDown.
    fn forget_predecessor(&mut self, key: &BfdKey) {
        for index in 0..self.slots.len() {
            if self.slots[index]
                .as_ref()
                .is_some_and(|slot| *slot.key == *key)
            {
                self.forget(index);
            }
        }
    }

    fn start(&mut self, key: BfdKey, config: BfdConfig, now: Instant, inbox: &mut Inbox) {
        let report = match self.try_start(&key, config, now, inbox) {
            Ok(()) => {
                self.failed.remove(&key);
                BfdReport::Started(key)
            }
            Err(error) => {
                self.retry_at = Some(now + RETRY);
                let why = error.to_string();
                let known = self.failed.insert(key.clone(), why.clone());
                if known.as_ref() == Some(&why) {
                    return;
                }
                BfdReport::CannotStart(key, why)
            }
        };
        // When nobody takes it, the status shows it all the same.
        let _ = self.reports.try_send(report);
    }

    fn try_start(
        &mut self,
        key: &BfdKey,
        config: BfdConfig,
        now: Instant,
        inbox: &mut Inbox,
    ) -> io::Result<()> {
        inbox.open(key.multihop)?;
        let interface = match key.multihop {
            true => None,
            false => Some(nix::net::if_::if_nametoindex(key.interface.as_str())?),
        };
        let device = interface.map(|index| (key.interface.as_str(), index));
        let used: BTreeSet<u16> = self.slots.iter().flatten().map(|s| s.sender.port).collect();
        let sender = Sender::open(key.local, key.peer, device, rand::random(), &used)?;
        let path = Path {
            local: key.local,
            peer: key.peer,
            interface,
        };
        self.forget_predecessor(key);
        let index = self.free_slot();
        let candidates = std::iter::repeat_with(rand::random::<u32>).take(1000);
        let discriminator = self.demux.add(index, path.clone(), candidates);
        let discriminator = discriminator.ok_or(io::ErrorKind::AddrInUse)?;
        let session = Session::new(core_config(config), discriminator, now, rand::random());
        self.slots[index] = Some(Slot {
            key: Arc::new(key.clone()),
            path,
            session,
            sender,
            min_ttl: config.min_ttl,
            counters: Counters::default(),
            untold: Untold::new(now),
            closing: None,
        });
        Ok(())
    }

    fn free_slot(&mut self) -> usize {
        let free = self.slots.iter().position(Option::is_none);
        free.unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        })
    }

    fn forget(&mut self, index: usize) {
        if let Some(slot) = self.slots[index].take() {
            self.demux.remove(slot.session.discriminator(), &slot.path);
            self.changed = true;
        }
    }

    /// Whom the inbox reads for.
    fn name_sessions(&self, inbox: &mut Inbox) {
        let slots = self.slots.iter().flatten();
        let names = slots.map(|slot| (slot.key.multihop, slot.session.discriminator()));
        inbox.serve(&names.collect::<Vec<_>>());
    }

    /// AdminDown to every peer, now, and once more in case it is lost. The process ends: there is no time to wait.
    pub(super) fn say_goodbye(&mut self) {
        let now = Instant::now();
        for slot in self.slots.iter_mut().flatten() {
            slot.session.set_admin_down(now, true);
            for _ in 0..2 {
                let next = slot.session.next_deadline();
                if let Some(packet) = next.and_then(|at| slot.session.transmit(at)) {
                    slot.send(&packet);
                }
            }
        }
    }

    /// All but what is the thread's.
    pub(super) fn snapshot(&self) -> Snapshot {
        let slots = self.slots.iter().flatten().filter(|s| s.closing.is_none());
        let row = |slot: &Slot| (slot.key.clone(), slot.session.clone(), slot.counters);
        Snapshot {
            sessions: slots.map(row).collect(),
            failed: self.failed.clone(),
            strays: self.strays,
            ..Snapshot::default()
        }
    }
}

/// How long a session's packets may wait unread; none while it is not up.
fn patience(session: &Session, now: Instant) -> Option<Duration> {
    let slack = session.slack()?;
    let settles = now.duration_since(session.state_since()) < SETTLING;
    Some(if settles { slack.min(PAUSE_MIN) } else { slack })
}

fn core_config(config: BfdConfig) -> Config {
    let BfdConfig {
        min_tx,
        min_rx,
        multiplier,
        min_ttl: _,
    } = config;
    Config {
        min_tx,
        min_rx,
        multiplier,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::bfd::Packet;

    fn session(discriminator: u32, now: Instant) -> Session {
        let interval = Duration::from_millis(80);
        let config = Config {
            min_tx: interval,
            min_rx: interval,
            multiplier: 3,
        };
        Session::new(config, discriminator, now, 1)
    }

    /// What one sends reaches the other, both ways, until both are up.
    fn come_up(sessions: &mut [Session; 2], now: Instant) {
        for (from, to) in [(0, 1), (1, 0), (0, 1), (1, 0)] {
            let at = sessions[from].next_deadline().expect("sends");
            let packet = sessions[from].transmit(at.max(now)).expect("a packet");
            let packet = Packet::decode(&packet).expect("well formed");
            sessions[to].on_packet(now, &packet).expect("taken");
        }
    }

    #[test]
    fn packets_of_a_session_that_has_just_come_up_wait_no_longer_than_a_millisecond() {
        let now = Instant::now();
        let mut both = [session(1, now), session(2, now)];
        assert_eq!(patience(&both[0], now), None);
        come_up(&mut both, now);
        let [session, _] = &both;
        assert_eq!(patience(session, now), Some(PAUSE_MIN));
        let almost = now + SETTLING - Duration::from_millis(1);
        assert_eq!(patience(session, almost), Some(PAUSE_MIN));
        let slack = session.slack();
        assert_eq!(patience(session, now + SETTLING), slack);
        assert!(slack > Some(PAUSE_MIN), "{slack:?}");
    }
}
