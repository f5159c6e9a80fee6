//! From the core's view to the report's: same words, wall-clock times.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ::bfd::Session;
use proto::v1;

use super::BfdKey;

/// Packets of a session.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counters {
    pub(super) packets_in: u64,
    pub(super) packets_out: u64,
    pub(super) discarded: u64,
}

pub(super) fn session_status(
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
        packets_discarded: counters.discarded,
        times_up: session.times_up(),
        times_down: session.times_down(),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn unix_ms(now: Instant, then: Instant) -> u64 {
    let wall = SystemTime::now().checked_sub(now.saturating_duration_since(then));
    let since = wall.and_then(|wall| wall.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |s| u64::try_from(s.as_millis()).unwrap_or(u64::MAX))
}
