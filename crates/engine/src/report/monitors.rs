//! What each monitor says of each server. It is asked when a report is made: a snapshot that each probe makes anew, as it does of
//! servers, would have to copy all of it each time.

use crate::health::{MonitorHealth, Monitors, ResponseTimes};
use prost::Message as _;
use proto::v1::{MonitorStatus, PoolStatus, Report, ServerStatus};
use std::net::SocketAddr;

/// The longest report that has them. A controller of an older version takes 4 MiB, which is gRPC's own limit, and breaks off the session
/// of an engine that says more; beside the rest, what monitors say is what grows most. Half a MiB is for the message around it.
const LEN_WITH_MONITORS_MAX: usize = 3584 * 1024;

/// Puts it into a report's pools.
pub(super) fn fill(pools: &mut [PoolStatus], monitors: &Monitors) {
    for pool in pools {
        for server in &mut pool.servers {
            let said = addr(server).map(|addr| monitors.of(&pool.uuid, addr));
            server.monitors = said.unwrap_or_default().iter().map(status).collect();
        }
    }
}

/// Leaves it out of a report that is too long with it: servers' own states go in any case.
pub(super) fn fit(report: &mut Report) {
    if report.encoded_len() <= LEN_WITH_MONITORS_MAX {
        return;
    }
    for pool in &mut report.pools {
        for server in &mut pool.servers {
            server.monitors.clear();
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
