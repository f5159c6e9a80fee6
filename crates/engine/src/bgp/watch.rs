//! BFD for the sessions: which paths are watched, and what that means for BGP.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::bfd::State;
use proto::v1;
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::{error, info, warn};

use super::plan::{SessionKey, SessionPlan};
use super::session::{BfdState, BfdView};
use crate::bfd::{BfdConfig, BfdEvent, BfdHandle, BfdKey, BfdMonitor, BfdSpeaker};

/// Timers without a `bfd_profile`: what `schema/evenkeel.txt` of the model names as defaults.
const INTERVAL_DEFAULT: Duration = Duration::from_millis(300);
const MULTIPLIER_DEFAULT: u8 = 3;

/// Where the monitor appears once BFD runs.
pub(super) type MonitorCell = Arc<OnceLock<BfdMonitor>>;

/// The BFD sessions of the speaker. The thread is started with the first of them.
#[derive(Default)]
pub(super) struct Watch {
    running: Option<(BfdHandle, UnboundedReceiver<BfdEvent>)>,
    monitor: MonitorCell,
    wanted: BTreeMap<BfdKey, BfdConfig>,
    views: BTreeMap<BfdKey, BfdView>,
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
        self.wanted.clone_from(&wanted);
        if let Some(handle) = self.handle() {
            handle.apply(wanted);
        }
    }

    fn handle(&mut self) -> Option<&BfdHandle> {
        if self.running.is_none() {
            match BfdSpeaker::spawn() {
                Ok(running) => {
                    // A second thread would only follow on a first that could not start.
                    let _ = self.monitor.set(running.0.monitor());
                    self.running = Some(running);
                }
                Err(error) => error!(%error, "BFD cannot be started; BGP runs without"),
            }
        }
        self.running.as_ref().map(|(handle, _)| handle)
    }

    /// The next change of state. Cancel-safe: a channel receive.
    pub(super) async fn event(&mut self) -> BfdEvent {
        match &mut self.running {
            Some((_, events)) => match events.recv().await {
                Some(event) => event,
                None => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }

    /// Takes note of an event.
    pub(super) fn note(&mut self, event: &BfdEvent) {
        let BfdEvent {
            key,
            from,
            to,
            diagnostic,
            failure,
            remote_state,
        } = event;
        let (peer, local) = (key.peer, key.local);
        if *failure {
            warn!(%peer, %local, %diagnostic, "BFD: the path has failed");
        } else if *to == State::Up || *from == State::Up {
            info!(%peer, %local, %from, %to, %diagnostic, "BFD session");
        }
        let Some(view) = self
            .wanted
            .contains_key(key)
            .then(|| self.views.entry(key.clone()).or_default())
        else {
            return;
        };
        view.failures += u64::from(*failure);
        view.state = match to {
            State::Up => BfdState::Up,
            State::Down if *remote_state == State::AdminDown => BfdState::AdminDown,
            State::Down if *from == State::Up => BfdState::Down,
            State::AdminDown | State::Down | State::Init => view.state,
        };
    }

    /// What a session is to know.
    pub(super) fn view(&self, key: &SessionKey, plan: &SessionPlan) -> BfdView {
        let Some(key) = key_of(key, plan).filter(|_| self.running.is_some()) else {
            return BfdView::default();
        };
        let unheard = BfdView {
            state: BfdState::WaitingForPeer,
            failures: 0,
        };
        let known = self.views.get(&key).copied();
        match known {
            Some(view) if view.state != BfdState::Off => view,
            Some(_) | None => unheard,
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
