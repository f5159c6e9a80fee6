//! BFD for the sessions: which paths are watched, and what that means for BGP.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ::bfd::State;
use dataplane::realtime::Scheduling;
use proto::v1;
use tokio::sync::mpsc::Receiver;
use tracing::{error, info, warn};

use super::plan::{SessionKey, SessionPlan};
use super::session::{BfdState, BfdView, now, sleep_until_some};
use crate::bfd::{BfdConfig, BfdEvent, BfdHandle, BfdKey, BfdMonitor, BfdReport, BfdSpeaker};

/// Timers without a `bfd_profile`: what `schema/evenkeel.txt` of the model names as defaults.
const INTERVAL_DEFAULT: Duration = Duration::from_millis(300);
const MULTIPLIER_DEFAULT: u8 = 3;

/// A thread that has ended is followed by another after so long; what ends one may well end the next.
const RESPAWN: Duration = Duration::from_secs(5);

/// Lines of the log per session in this time: a path that flaps is not to fill it.
const LOG_PERIOD: Duration = Duration::from_secs(10);
const LOG_LINES_MAX: u32 = 6;

/// What happens to BFD.
#[derive(Debug)]
pub(super) enum BfdNews {
    Report(BfdReport),
    /// The thread is gone, and its sessions with it.
    Ended,
    /// Time to start it again.
    Retry,
}

/// Where the monitor appears once BFD runs.
pub(super) type MonitorCell = Arc<OnceLock<BfdMonitor>>;

/// The BFD sessions of the speaker. The thread is started with the first of them.
#[derive(Default)]
pub(super) struct Watch {
    running: Option<(BfdHandle, Receiver<BfdReport>)>,
    retry_at: Option<Instant>,
    monitor: MonitorCell,
    wanted: BTreeMap<BfdKey, BfdConfig>,
    views: BTreeMap<BfdKey, BfdView>,
    logged: BTreeMap<BfdKey, Logged>,
}

/// Lines about a session since a time, and how many were left out.
#[derive(Clone, Copy)]
struct Logged {
    from: Instant,
    lines: u32,
    left_out: u64,
}

impl Logged {
    fn new(now: Instant) -> Self {
        Self {
            from: now,
            lines: 0,
            left_out: 0,
        }
    }

    /// How many lines were left out before this one; none when this one is left out too.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if now >= self.from + LOG_PERIOD {
            (self.from, self.lines) = (now, 0);
        }
        if self.lines >= LOG_LINES_MAX {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Watch {
    pub(super) fn monitor(&self) -> MonitorCell {
        self.monitor.clone()
    }

    /// Watches exactly the paths of these sessions.
    pub(super) fn apply<'a>(
        &mut self,
        profile: Option<v1::BfdProfile>,
        sessions: impl Iterator<Item = (&'a SessionKey, &'a SessionPlan)>,
    ) {
        let timers = timers(profile);
        let wanted: BTreeMap<_, _> = sessions
            .filter_map(|(key, plan)| Some((key_of(key, plan)?, plan)))
            .map(|(key, plan)| {
                let min_ttl = plan.transport.min_ttl;
                (key, BfdConfig { min_ttl, ..timers })
            })
            .collect();
        if wanted == self.wanted {
            return;
        }
        self.views.retain(|key, _| wanted.contains_key(key));
        self.logged.retain(|key, _| wanted.contains_key(key));
        self.wanted = wanted;
        self.push();
    }

    /// Tells the thread, or tries again later.
    fn push(&mut self) {
        self.retry_at = None;
        if self.running.is_none() && !self.wanted.is_empty() {
            self.spawn();
        }
        if let Some((handle, _)) = &self.running {
            handle.apply(self.wanted.clone());
        }
    }

    fn spawn(&mut self) {
        let monitor = self.monitor.get_or_init(BfdMonitor::default);
        match BfdSpeaker::spawn_for(monitor) {
            Ok(running) => self.running = Some(running),
            Err(error) => {
                error!(%error, "BFD cannot be started and is tried again; BGP runs without");
                self.retry_at = Some(now() + RESPAWN);
            }
        }
    }

    /// What happens next. Cancel-safe: a channel receive and a timer.
    pub(super) async fn news(&mut self) -> BfdNews {
        let reports = self.running.as_mut().map(|(_, reports)| reports);
        let report = async {
            match reports {
                Some(reports) => reports.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            report = report => report.map_or(BfdNews::Ended, BfdNews::Report),
            () = sleep_until_some(self.retry_at) => BfdNews::Retry,
        }
    }

    /// Takes note of it.
    pub(super) fn note(&mut self, news: &BfdNews) {
        match news {
            BfdNews::Report(BfdReport::State(event)) => self.on_event(event),
            BfdNews::Report(BfdReport::Started(key)) => {
                info!(peer = %key.peer, local = %key.local, interface = key.interface, multihop = key.multihop, "BFD session started");
                self.see(key, |view| view.state = BfdState::WaitingForPeer);
            }
            BfdNews::Report(BfdReport::CannotStart(key, error)) => {
                warn!(peer = %key.peer, local = %key.local, error, "cannot start a BFD session; tried again");
                self.see(key, |view| view.state = BfdState::CannotStart);
            }
            BfdNews::Report(BfdReport::Scheduling(scheduling)) => log_scheduling(*scheduling),
            BfdNews::Ended => self.on_end(),
            BfdNews::Retry => self.push(),
        }
    }

    /// How often paths have failed stays, so that the next failure is one more.
    fn on_end(&mut self) {
        error!("the BFD thread has ended; another one is started");
        self.running = None;
        self.retry_at = Some(now() + RESPAWN);
        for view in self.views.values_mut() {
            view.state = BfdState::CannotStart;
        }
        if let Some(monitor) = self.monitor.get() {
            monitor.clear();
        }
    }

    fn see(&mut self, key: &BfdKey, change: impl FnOnce(&mut BfdView)) {
        if self.wanted.contains_key(key) {
            change(self.views.entry(key.clone()).or_default());
        }
    }

    fn on_event(&mut self, event: &BfdEvent) {
        self.log(event);
        self.see(&event.key, |view| {
            view.failures += event.failures;
            view.state = match (event.to, event.remote_state) {
                (State::Up, _) => BfdState::Up,
                // Also of a peer that was AdminDown from the start.
                (_, State::AdminDown) => BfdState::AdminDown,
                _ if event.failures > 0 || view.state == BfdState::Down => BfdState::Down,
                (State::AdminDown | State::Down | State::Init, _) => BfdState::WaitingForPeer,
            };
        });
    }

    fn log(&mut self, event: &BfdEvent) {
        let BfdEvent {
            key,
            from,
            to,
            diagnostic,
            failures,
            remote_state,
        } = event;
        if *failures == 0 && *to != State::Up && *from != State::Up {
            return;
        }
        let logged = self.logged.entry((**key).clone());
        let Some(left_out) = logged.or_insert_with(|| Logged::new(now())).admit(now()) else {
            return;
        };
        let (peer, local) = (key.peer, key.local);
        if *failures > 0 {
            warn!(%peer, %local, %diagnostic, left_out, "BFD: the path has failed");
        } else {
            info!(%peer, %local, %from, %to, %diagnostic, %remote_state, left_out, "BFD session");
        }
    }

    /// What a session is to know.
    pub(super) fn view(&self, key: &SessionKey, plan: &SessionPlan) -> BfdView {
        let Some(key) = key_of(key, plan) else {
            return BfdView::default();
        };
        let view = self.views.get(&key).copied().unwrap_or_default();
        let state = match view.state {
            _ if self.running.is_none() => BfdState::CannotStart,
            BfdState::Off => BfdState::WaitingForPeer,
            known => known,
        };
        BfdView { state, ..view }
    }
}

fn log_scheduling(scheduling: Scheduling) {
    match scheduling {
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
}

/// `None` when the peer is not watched.
fn key_of(key: &SessionKey, plan: &SessionPlan) -> Option<BfdKey> {
    let bfd = plan.bfd?;
    Some(BfdKey {
        peer: key.peer,
        local: key.local,
        interface: match bfd.multihop {
            true => String::new(),
            false => key.interface.clone(),
        },
        multihop: bfd.multihop,
    })
}

fn timers(profile: Option<v1::BfdProfile>) -> BfdConfig {
    let milliseconds = |n: u32| Duration::from_millis(n.into());
    let multiplier = |n: u32| u8::try_from(n).unwrap_or(u8::MAX).max(1);
    match profile {
        Some(v1::BfdProfile {
            min_rx_ms,
            min_tx_ms,
            multiplier: n,
        }) => BfdConfig {
            min_tx: milliseconds(min_tx_ms),
            min_rx: milliseconds(min_rx_ms),
            multiplier: multiplier(n),
            min_ttl: 0,
        },
        None => BfdConfig {
            min_tx: INTERVAL_DEFAULT,
            min_rx: INTERVAL_DEFAULT,
            multiplier: MULTIPLIER_DEFAULT,
            min_ttl: 0,
        },
    }
}

#[cfg(test)]
mod tests;
