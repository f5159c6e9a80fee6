//! The thread: sessions in slots, one `ppoll` for packets, deadlines and wishes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver as Commands, TryRecvError};
use std::sync::{Arc, TryLockError};
use std::time::{Duration, Instant};

use ::bfd::demux::{Demux, Path};
use ::bfd::{Change, Config, Discard, Outcome, Packet, Session};
use dataplane::realtime::{Scheduling, prefer_this_thread};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc::UnboundedSender;
use tracing::{info, warn};

use super::socket::{Datagram, Receiver, Sender};
use super::status::{Counters, session_status};
use super::{BfdConfig, BfdEvent, BfdKey, Command, Shared};

/// Status is written after a change of state, and this often because of the counters.
const STATUS_PERIOD: Duration = Duration::from_secs(1);

/// After sockets or an interface that could not be had.
const RETRY: Duration = Duration::from_secs(1);

/// A receive buffer's worth per round, so that a flood does not starve the deadlines.
const PACKETS_PER_ROUND: usize = 64;

/// With many sessions the thread does not wake for every packet: after a round it sleeps as long as the fastest
/// session has slack, at most this long, and then takes what has come at once. Detection is late by as much.
const PAUSE_MAX: Duration = Duration::from_millis(5);

/// Two ports, two families.
const RECEIVERS_MAX: usize = 4;

struct Slot {
    key: BfdKey,
    path: Path,
    session: Session,
    sender: Sender,
    min_ttl: u8,
    counters: Counters,
    /// Removed: forgotten then.
    closing: Option<Instant>,
}

impl Slot {
    fn send(&mut self, packet: &[u8]) {
        if self.sender.send(packet) {
            self.counters.packets_out += 1;
        }
    }
}

pub(super) struct Worker {
    commands: Commands<Command>,
    wake: Arc<EventFd>,
    events: UnboundedSender<BfdEvent>,
    shared: Arc<Shared>,
    desired: BTreeMap<BfdKey, BfdConfig>,
    receivers: Vec<Receiver>,
    /// Indexes are what the demultiplexer knows; a free one is used again.
    slots: Vec<Option<Slot>>,
    demux: Demux,
    retry_at: Option<Instant>,
    failed: BTreeMap<BfdKey, String>,
    status_at: Instant,
    status_due: bool,
    /// When the last wait ended.
    woken_at: Instant,
}

impl Worker {
    pub(super) fn new(
        commands: Commands<Command>,
        wake: Arc<EventFd>,
        events: UnboundedSender<BfdEvent>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            commands,
            wake,
            events,
            shared,
            desired: BTreeMap::new(),
            receivers: Vec::new(),
            slots: Vec::new(),
            demux: Demux::default(),
            retry_at: None,
            failed: BTreeMap::new(),
            status_at: Instant::now(),
            status_due: false,
            woken_at: Instant::now(),
        }
    }

    pub(super) fn run(mut self) {
        match prefer_this_thread() {
            Scheduling::RealTime => info!("BFD runs with real-time priority"),
            Scheduling::Favoured => {
                warn!(
                    "BFD runs at nice -20: real-time scheduling was refused; allow CAP_SYS_NICE and a real-time budget for this cgroup"
                );
            }
            Scheduling::Ordinary => {
                warn!(
                    "BFD runs like any thread: real-time scheduling and nice -20 were refused; sessions may flap under load"
                );
            }
        }
        while self.take_commands() {
            self.round();
        }
        self.say_goodbye();
    }

    /// False when told to stop.
    fn take_commands(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Apply(desired)) => {
                    self.desired = desired;
                    self.reconcile();
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn round(&mut self) {
        let now = Instant::now();
        if self.retry_at.is_some_and(|at| at <= now) {
            self.reconcile();
        }
        self.run_deadlines(now);
        self.show(now);
        let ready = self.wait();
        self.receive(ready);
    }

    /// Sleeps until a packet, a wish or a deadline; which receivers have something.
    fn wait(&mut self) -> [bool; RECEIVERS_MAX] {
        let deadline = self.next_deadline();
        self.pause(deadline);
        let left = deadline.saturating_duration_since(Instant::now());
        let wake = self.wake.as_fd();
        let idle = || PollFd::new(wake, PollFlags::empty());
        let mut fds: [PollFd<'_>; RECEIVERS_MAX + 1] = std::array::from_fn(|_| idle());
        fds[RECEIVERS_MAX].set_events(PollFlags::POLLIN);
        for (place, receiver) in fds.iter_mut().zip(&self.receivers) {
            *place = PollFd::new(receiver.as_fd(), PollFlags::POLLIN);
        }
        // Interrupted or not, the next round looks at the deadlines.
        let _ = ppoll(&mut fds, Some(TimeSpec::from_duration(left)), None);
        let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        if ready(&fds[RECEIVERS_MAX]) {
            let _ = self.wake.read();
        }
        let ready = std::array::from_fn(|at| ready(&fds[at]) && at < self.receivers.len());
        self.woken_at = Instant::now();
        ready
    }

    /// See [`PAUSE_MAX`]. Where packets are rare, the last wake-up is longer ago than the pause would last.
    #[expect(
        clippy::disallowed_methods,
        reason = "the pause is what is wanted: packets that come meanwhile wait for its end"
    )]
    fn pause(&self, deadline: Instant) {
        let sessions = self.slots.iter().flatten();
        let slack = sessions.filter_map(|slot| slot.session.slack()).min();
        let until = self.woken_at + slack.unwrap_or_default().min(PAUSE_MAX);
        let left = until
            .min(deadline)
            .saturating_duration_since(Instant::now());
        if !left.is_zero() {
            std::thread::sleep(left);
        }
    }

    fn next_deadline(&self) -> Instant {
        let sessions = self.slots.iter().flatten();
        let deadlines =
            sessions.filter_map(|slot| earliest(slot.session.next_deadline(), slot.closing));
        let next = deadlines.chain(self.retry_at).min();
        let status = self.status_at + STATUS_PERIOD;
        next.map_or(status, |next| next.min(status))
    }

    fn run_deadlines(&mut self, now: Instant) {
        for index in 0..self.slots.len() {
            let Some(slot) = &mut self.slots[index] else {
                continue;
            };
            if slot.closing.is_some_and(|at| at <= now) {
                self.forget(index);
            } else if slot.session.next_deadline().is_some_and(|at| at <= now) {
                let outcome = slot.session.on_deadline(now);
                self.perform(index, outcome);
            } else if let Some(packet) = slot.session.transmit_early(now) {
                slot.send(&packet);
            }
        }
    }

    fn receive(&mut self, ready: [bool; RECEIVERS_MAX]) {
        for at in (0..self.receivers.len()).filter(|at| ready[*at]) {
            for _ in 0..PACKETS_PER_ROUND {
                let Some(datagram) = self.receivers[at].receive() else {
                    break;
                };
                self.on_datagram(at, &datagram);
            }
        }
    }

    fn on_datagram(&mut self, receiver: usize, datagram: &Datagram) {
        let multihop = self.receivers[receiver].multihop;
        let len = datagram.len.min(self.receivers[receiver].buffer.len());
        let Ok(packet) = Packet::decode(&self.receivers[receiver].buffer[..len]) else {
            return self.count_stray();
        };
        let path = Path {
            local: datagram.local,
            peer: datagram.peer,
            interface: (!multihop).then_some(datagram.interface),
        };
        let Ok(index) = self.demux.find(&packet, &path) else {
            return self.count_stray();
        };
        let Some(slot) = &mut self.slots[index] else {
            return;
        };
        let least = if multihop { slot.min_ttl } else { 255 };
        let result = match slot.key.multihop == multihop && datagram.ttl >= least {
            true => slot.session.on_packet(Instant::now(), &packet),
            false => Err(Discard::Ttl),
        };
        match result {
            Ok(outcome) => {
                slot.counters.packets_in += 1;
                self.perform(index, outcome);
            }
            Err(_) => slot.counters.discarded += 1,
        }
    }

    fn count_stray(&self) {
        self.shared.strays.fetch_add(1, Ordering::Relaxed);
    }

    fn perform(&mut self, index: usize, outcome: Outcome) {
        let Some(slot) = &mut self.slots[index] else {
            return;
        };
        if let Some(packet) = outcome.send {
            slot.send(&packet);
        }
        let closing = slot.closing.is_some();
        if let Some(change) = outcome.change.filter(|_| !closing) {
            tell(&self.events, slot.key.clone(), change);
            self.status_due = true;
        }
    }

    /// Makes the sessions what they shall be.
    fn reconcile(&mut self) {
        let now = Instant::now();
        self.status_due = true;
        self.retry_at = None;
        for index in 0..self.slots.len() {
            let Some(slot) = &mut self.slots[index] else {
                continue;
            };
            match self.desired.get(&slot.key) {
                Some(config) if slot.closing.is_none() => {
                    slot.min_ttl = config.min_ttl;
                    slot.session.set_config(now, core_config(*config));
                }
                _ if slot.closing.is_none() => self.close(index, now),
                _ => {}
            }
        }
        self.failed.retain(|key, _| self.desired.contains_key(key));
        for (key, config) in self.desired.clone() {
            if !self.exists(&key) {
                self.start(key, config, now);
            }
        }
    }

    fn exists(&self, key: &BfdKey) -> bool {
        let mut slots = self.slots.iter().flatten();
        slots.any(|slot| slot.key == *key && slot.closing.is_none())
    }

    fn start(&mut self, key: BfdKey, config: BfdConfig, now: Instant) {
        match self.try_start(&key, config, now) {
            Ok(()) => {
                self.failed.remove(&key);
                info!(peer = %key.peer, local = %key.local, interface = key.interface, multihop = key.multihop, "BFD session started");
            }
            Err(error) => {
                self.retry_at = Some(now + RETRY);
                let text = error.to_string();
                if self.failed.get(&key) != Some(&text) {
                    warn!(peer = %key.peer, local = %key.local, error = text, "cannot start a BFD session; tried again");
                    self.failed.insert(key, text);
                }
            }
        }
    }

    fn try_start(&mut self, key: &BfdKey, config: BfdConfig, now: Instant) -> io::Result<()> {
        if self.receivers.is_empty() {
            self.receivers = open_receivers()?;
        }
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
        let index = self.free_slot();
        let candidates = std::iter::repeat_with(rand::random::<u32>).take(1000);
        let discriminator = self.demux.add(index, path.clone(), candidates);
        let discriminator = discriminator.ok_or(io::ErrorKind::AddrInUse)?;
        let session = Session::new(core_config(config), discriminator, now, rand::random());
        self.slots[index] = Some(Slot {
            key: key.clone(),
            path,
            session,
            sender,
            min_ttl: config.min_ttl,
            counters: Counters::default(),
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

    /// AdminDown for a detection time (RFC 5880 section 6.8.16), then gone.
    fn close(&mut self, index: usize, now: Instant) {
        if let Some(slot) = &mut self.slots[index] {
            slot.session.set_admin_down(now, true);
            slot.closing = Some(now + slot.session.detection_time());
        }
    }

    fn forget(&mut self, index: usize) {
        if let Some(slot) = self.slots[index].take() {
            self.demux.remove(slot.session.discriminator(), &slot.path);
            self.status_due = true;
        }
    }

    /// One AdminDown to every peer, now; what is lost is found out by detection.
    fn say_goodbye(&mut self) {
        let now = Instant::now();
        for index in 0..self.slots.len() {
            self.close(index, now);
        }
        self.run_deadlines(now);
        // A second one, in case the first is lost.
        for slot in self.slots.iter_mut().flatten() {
            if let Some(next) = slot.session.next_deadline() {
                let outcome = slot.session.on_deadline(next);
                outcome.send.map(|packet| slot.sender.send(&packet));
            }
        }
    }

    /// Writes the status unless somebody reads it at this moment; then it is written in the next round.
    fn show(&mut self, now: Instant) {
        if !self.status_due && now < self.status_at + STATUS_PERIOD {
            return;
        }
        let sessions = self.slots.iter().flatten().filter(|s| s.closing.is_none());
        let status: Vec<_> = sessions
            .map(|slot| session_status(&slot.key, &slot.session, slot.counters, now))
            .collect();
        match self.shared.status.try_lock() {
            Ok(mut shown) => *shown = Arc::new(status),
            Err(TryLockError::Poisoned(shown)) => *shown.into_inner() = Arc::new(status),
            Err(TryLockError::WouldBlock) => return,
        }
        self.status_due = false;
        self.status_at = now;
        if let Ok(used) = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID) {
            let used = Duration::from(used);
            let used = u64::try_from(used.as_nanos()).unwrap_or(u64::MAX);
            self.shared.cpu_ns.store(used, Ordering::Relaxed);
        }
    }
}

fn tell(events: &UnboundedSender<BfdEvent>, key: BfdKey, change: Change) {
    let event = BfdEvent {
        key,
        from: change.from,
        to: change.to,
        diagnostic: change.diagnostic,
        failure: change.is_failure(),
        remote_state: change.remote_state,
    };
    // Nobody listens any more: the engine is ending.
    let _ = events.send(event);
}

fn open_receivers() -> io::Result<Vec<Receiver>> {
    let mut receivers = Vec::new();
    for (multihop, v6) in [(false, false), (true, false), (false, true), (true, true)] {
        match Receiver::open(multihop, v6) {
            Ok(receiver) => receivers.push(receiver),
            // A kernel without IPv6.
            Err(error) if v6 && error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(receivers)
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

fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
