//! The thread: one `ppoll` for packets, deadlines and wishes.

use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver as Commands, TryRecvError};
use std::sync::{Arc, TryLockError};
use std::time::{Duration, Instant};

use dataplane::realtime::{Scheduling, prefer_this_thread};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc::Sender as Reports;

use super::inbox::{Inbox, RECEIVERS_MAX};
use super::sessions::{PAUSE_MIN, Sessions};
use super::status::Snapshot;
use super::{BfdReport, Command, Shared};

/// Status is written this often because of the counters.
const STATUS_PERIOD: Duration = Duration::from_secs(1);

/// After a change of state at once, but not more often than this.
const STATUS_PERIOD_MIN: Duration = Duration::from_millis(20);

pub(super) struct Worker {
    commands: Commands<Command>,
    wake: Arc<EventFd>,
    reports: Reports<BfdReport>,
    shared: Arc<Shared>,
    inbox: Inbox,
    sessions: Sessions,
    scheduling: Option<Scheduling>,
    status_at: Instant,
    /// When the last wait ended.
    woken_at: Instant,
}

impl Worker {
    pub(super) fn new(
        commands: Commands<Command>,
        wake: Arc<EventFd>,
        reports: Reports<BfdReport>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            commands,
            wake,
            sessions: Sessions::new(reports.clone()),
            reports,
            shared,
            inbox: Inbox::new(),
            scheduling: None,
            status_at: Instant::now(),
            woken_at: Instant::now(),
        }
    }

    pub(super) fn run(mut self) {
        let scheduling = prefer_this_thread();
        self.scheduling = Some(scheduling);
        // The first report finds an empty queue.
        let _ = self.reports.try_send(BfdReport::Scheduling(scheduling));
        while self.take_commands() {
            self.round();
        }
        self.sessions.say_goodbye();
    }

    /// False when told to stop.
    fn take_commands(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Apply(desired)) => self.sessions.set_desired(desired, &mut self.inbox),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    /// First what has come, then what is late.
    fn round(&mut self) {
        let Self {
            inbox, sessions, ..
        } = self;
        inbox.read(|datagram| sessions.on_datagram(datagram));
        let now = Instant::now();
        sessions.run_deadlines(now, inbox.heard_until(), inbox);
        self.show(now);
        self.wait();
    }

    /// Sleeps until a packet, a wish or a deadline.
    fn wait(&mut self) {
        let deadline = self.next_deadline();
        self.pause(deadline);
        let left = deadline.saturating_duration_since(Instant::now());
        let wake = self.wake.as_fd();
        let idle = || PollFd::new(wake, PollFlags::empty());
        let mut fds: [PollFd<'_>; RECEIVERS_MAX + 1] = std::array::from_fn(|_| idle());
        fds[RECEIVERS_MAX].set_events(PollFlags::POLLIN);
        for (place, receiver) in fds.iter_mut().zip(self.inbox.receivers()) {
            *place = PollFd::new(receiver.as_fd(), PollFlags::POLLIN);
        }
        // Interrupted or not, the next round looks at sockets and deadlines.
        let _ = ppoll(&mut fds, Some(TimeSpec::from_duration(left)), None);
        if fds[RECEIVERS_MAX].any().unwrap_or(false) {
            let _ = self.wake.read();
        }
        self.woken_at = Instant::now();
    }

    /// See [`Sessions::patience`]. Where packets are rare, the last wake-up is longer ago than the pause would last.
    #[expect(
        clippy::disallowed_methods,
        reason = "the pause is what is wanted: packets that come meanwhile wait for its end"
    )]
    fn pause(&self, deadline: Instant) {
        let now = Instant::now();
        let until = match self.inbox.is_overrun() {
            true => now + PAUSE_MIN,
            false => deadline.min(self.woken_at + self.sessions.patience(now)),
        };
        let left = until.saturating_duration_since(now);
        if !left.is_zero() {
            std::thread::sleep(left);
        }
    }

    fn next_deadline(&self) -> Instant {
        let status = self.status_due();
        let sessions = self.sessions.next_deadline();
        sessions.map_or(status, |next| next.min(status))
    }

    fn status_due(&self) -> Instant {
        let period = match self.sessions.changed {
            true => STATUS_PERIOD_MIN,
            false => STATUS_PERIOD,
        };
        self.status_at + period
    }

    /// Writes the status unless somebody reads it at this moment; then it is written a period later.
    fn show(&mut self, now: Instant) {
        if now < self.status_due() {
            return;
        }
        self.status_at = now;
        let status = Arc::new(Snapshot {
            kernel_drops: self.inbox.dropped(),
            scheduling: self.scheduling,
            ..self.sessions.snapshot()
        });
        match self.shared.status.try_lock() {
            Ok(mut shown) => *shown = status,
            Err(TryLockError::Poisoned(shown)) => *shown.into_inner() = status,
            Err(TryLockError::WouldBlock) => return,
        }
        self.sessions.changed = false;
        if let Ok(used) = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID) {
            let used = Duration::from(used);
            let used = u64::try_from(used.as_nanos()).unwrap_or(u64::MAX);
            self.shared.cpu_ns.store(used, Ordering::Relaxed);
        }
    }
}
