//! From the core's view to the report's: same words, wall-clock times. The reader does it, not the thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ::bfd::{Discards, Session, State};
use dataplane::realtime::Scheduling;
use proto::v1;

use super::BfdKey;

/// Packets of a session.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counters {
    pub(super) packets_in: u64,
    pub(super) packets_out: u64,
    pub(super) discards: Discards,
}

/// What the thread shows, as of one moment.
#[derive(Default)]
pub(super) struct Snapshot {
    pub(super) sessions: Vec<(Arc<BfdKey>, Session, Counters)>,
    /// Why they cannot be started.
    pub(super) failed: BTreeMap<BfdKey, String>,
    /// Packets that belong to no session.
    pub(super) strays: Discards,
    pub(super) kernel_drops: u64,
    pub(super) scheduling: Option<Scheduling>,
}

impl Snapshot {
    pub(super) fn sessions(&self, now: Instant) -> Vec<v1::BfdSession> {
        let running = self.sessions.iter();
        let running =
            running.map(|(key, session, counters)| running_row(key, session, *counters, now));
        let failed = self.failed.iter();
        running
            .chain(failed.map(|(key, why)| failed_row(key, why)))
            .collect()
    }

    pub(super) fn engine(&self) -> v1::BfdEngine {
        v1::BfdEngine {
            scheduling: self
                .scheduling
                .map(|s| s.word().to_owned())
                .unwrap_or_default(),
            discards: discards(self.strays),
            kernel_drops: self.kernel_drops,
        }
    }
}

fn running_row(
    key: &BfdKey,
    session: &Session,
    counters: Counters,
    now: Instant,
) -> v1::BfdSession {
    let remote = session.remote();
    v1::BfdSession {
        peer: key.peer.to_string(),
        local_address: key.local.to_string(),
        interface: key.interface.clone(),
        multihop: key.multihop,
        state: session.state().word().to_owned(),
        state_since_unix_ms: unix_ms(now, session.state_since()),
        remote_state: remote.state.word().to_owned(),
        diagnostic: session.diagnostic().to_string(),
        remote_diagnostic: remote.diagnostic.to_string(),
        local_discriminator: session.discriminator(),
        remote_discriminator: remote.discriminator,
        transmit_interval_us: session.transmit_interval().map_or(0, micros),
        detection_time_us: micros(session.detection_time()),
        detect_multiplier: session.config().multiplier.into(),
        remote_detect_multiplier: remote.multiplier.into(),
        remote_min_rx_us: micros(remote.required_min_rx),
        remote_desired_min_tx_us: micros(remote.desired_min_tx),
        packets_in: counters.packets_in,
        packets_out: counters.packets_out,
        packets_discarded: counters.discards.total(),
        times_up: session.times_up(),
        times_down: session.times_down(),
        problem: String::new(),
        discards: discards(counters.discards),
    }
}

fn failed_row(key: &BfdKey, why: &str) -> v1::BfdSession {
    v1::BfdSession {
        peer: key.peer.to_string(),
        local_address: key.local.to_string(),
        interface: key.interface.clone(),
        multihop: key.multihop,
        state: State::Down.word().to_owned(),
        problem: why.to_owned(),
        ..v1::BfdSession::default()
    }
}

fn discards(discards: Discards) -> Vec<v1::BfdDiscard> {
    let row = |(why, packets): (::bfd::Discard, u64)| v1::BfdDiscard {
        reason: why.word().to_owned(),
        packets,
    };
    discards.occurred().map(row).collect()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn unix_ms(now: Instant, then: Instant) -> u64 {
    let wall = SystemTime::now().checked_sub(now.saturating_duration_since(then));
    let since = wall.and_then(|wall| wall.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |s| u64::try_from(s.as_millis()).unwrap_or(u64::MAX))
}
