//! What each monitor says of each server. It is asked when a report is made: a snapshot that each probe makes anew, as it does of
//! servers, would have to copy all of it each time.

use crate::health::{MonitorHealth, Monitors, ResponseTimes};
use proto::v1::{MonitorStatus, PoolStatus, ServerStatus};
use std::net::SocketAddr;

/// Puts it into a report's pools.
pub(super) fn fill(pools: &mut [PoolStatus], monitors: &Monitors) {
    for pool in pools {
        for server in &mut pool.servers {
            let said = addr(server).map(|addr| monitors.of(&pool.uuid, addr));
            server.monitors = said.unwrap_or_default().iter().map(status).collect();
        }
    }
}

fn addr(server: &ServerStatus) -> Option<SocketAddr> {
    let port = u16::try_from(server.port).ok()?;
    Some(SocketAddr::new(server.address.parse().ok()?, port))
}

fn status(said: &MonitorHealth) -> MonitorStatus {
    let MonitorHealth {
        uuid,
        state,
        failure,
        times,
    } = said;
    MonitorStatus {
        uuid: uuid.clone(),
        state: (*state).into(),
        reason: failure.map(|f| f.to_string()).unwrap_or_default(),
        failure_code: failure.map(|f| f.code().to_owned()).unwrap_or_default(),
        recent_response_time_ms: times.map(ResponseTimes::recent_ms),
        average_response_time_ms: times.map(ResponseTimes::average_ms),
    }
}
