//! What the controller is told.

use super::*;
use crate::health::{HealthHandle, ServerHealth};
use health::Failure;
use proto::v1::{HealthMonitor, MonitorStatus, Server};
use proxy::ServerStats;
use std::net::SocketAddr;

fn pool() -> Pool {
    Pool {
        uuid: "p".into(),
        enabled: true,
        servers: vec![Server {
            address: "10.0.0.1".into(),
            port: 80,
            enabled: true,
            ratio: 1,
        }],
        ..Pool::default()
    }
}

fn addr() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 80))
}

fn health(state: OperState, failure: Option<Failure>) -> HealthSnapshot {
    let server = ServerHealth {
        addr: addr(),
        state,
        failure,
        response_time_ms: 3,
    };
    HealthSnapshot {
        pools: [("p".to_owned(), vec![server])].into(),
    }
}

#[test]
fn a_server_that_is_down_is_told_with_the_reason_in_words_and_as_a_code() {
    let failure = Failure::ResponseCodeMismatch;
    let health = health(OperState::Down, Some(failure));
    let status = pool_status(&pool(), &health, &Stats::default());
    assert_eq!(status.state(), OperState::Down);
    let server = &status.servers[0];
    assert_eq!(server.failure_code, "RESPONSE_CODE_MISMATCH");
    assert_eq!(server.reason, failure.to_string());
    assert_eq!((server.address.as_str(), server.port), ("10.0.0.1", 80));
}

#[test]
fn a_server_that_is_up_is_told_with_what_the_proxy_has_counted() {
    let stats = Stats {
        servers: vec![ServerStats {
            pool_uuid: "p".into(),
            addr: addr(),
            open: 2,
            total: 7,
            inline_health_share: Some(25),
        }],
        ..Stats::default()
    };
    let health = health(OperState::Up, None);
    let server = pool_status(&pool(), &health, &stats).servers.remove(0);
    let expected = ServerStatus {
        address: "10.0.0.1".into(),
        port: 80,
        state: OperState::Up.into(),
        open_connections: 2,
        total_connections: 7,
        response_time_ms: 3,
        inline_health_share: Some(25),
        ..ServerStatus::default()
    };
    assert_eq!(server, expected);
    let nothing = pool_status(&pool(), &health, &Stats::default());
    assert_eq!(nothing.servers[0].inline_health_share, None);
}

/// Nothing is probed before the test lets go of its thread.
#[tokio::test]
async fn each_monitor_is_told_of_beside_its_server() {
    let mut pool = pool();
    pool.health_monitor_uuids = vec!["m".into()];
    let monitor = HealthMonitor {
        uuid: "m".into(),
        ..HealthMonitor::default()
    };
    let handle = HealthHandle::spawn();
    handle.apply(std::slice::from_ref(&pool), &[monitor]);
    let health = handle.snapshot().borrow().clone();
    let mut told = vec![pool_status(&pool, &health, &Stats::default())];
    monitors::fill(&mut told, &handle.monitors());
    let expected = MonitorStatus {
        uuid: "m".into(),
        state: OperState::Initializing.into(),
        ..MonitorStatus::default()
    };
    assert_eq!(told[0].servers[0].monitors, [expected]);
    monitors::fill(&mut told, &Monitors::default());
    assert_eq!(told[0].servers[0].monitors, [], "nothing checks it");
}
