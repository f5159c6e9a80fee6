//! What the controller is told.

use super::*;
use crate::health::{HealthHandle, ServerHealth};
use health::Failure;
use prost::Message as _;
use proto::v1::{HealthMonitor, Http, MonitorStatus, PortRange, Server};
use proxy::{ServerStats, VsStats};
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
            bytes_sent: 100,
            bytes_received: 2000,
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
        bytes_sent: Some(100),
        bytes_received: Some(2000),
        ..ServerStatus::default()
    };
    assert_eq!(server, expected);
    let nothing = pool_status(&pool(), &health, &Stats::default());
    assert_eq!(nothing.servers[0].inline_health_share, None);
    assert_eq!(
        nothing.servers[0].bytes_sent,
        Some(0),
        "not an older engine"
    );
}

/// A virtual service with one port, as it is told when the proxy has counted this.
fn service(http: bool) -> VirtualServiceStatus {
    let vs = VirtualService {
        uuid: "v".into(),
        ports: vec![PortRange {
            first: 80,
            last: 80,
            http: http.then(Http::default),
            ..PortRange::default()
        }],
        ..VirtualService::default()
    };
    let counted = VsStats {
        uuid: "v".into(),
        open: 0,
        oldest: None,
        total: 9,
        bytes_in: 0,
        bytes_out: 0,
        refused: 2,
        responses: [1, 2, 3, 4, 5],
        hints: proxy::HintStats::default(),
        udp: UdpStats {
            full: 40,
            ..UdpStats::default()
        },
    };
    let stats = Stats {
        virtual_services: vec![counted],
        ..Stats::default()
    };
    service_status(&vs, &Outcome::default(), &stats)
}

#[test]
fn responses_are_told_of_http_alone_and_what_was_dropped_of_all() {
    let told = service(true);
    assert_eq!(told.connections_dropped, Some(42));
    let responses = told.responses.expect("of HTTP");
    assert_eq!((responses.class_1xx, responses.class_5xx), (1, 5));
    let bytes = service(false);
    assert_eq!(
        (bytes.connections_dropped, bytes.responses),
        (Some(42), None)
    );
}

/// A report on so many servers, each with two monitors.
fn long(servers: usize) -> Report {
    let monitor = MonitorStatus {
        uuid: "healthmonitor-00000000-0000-0000-0000-000000000000".into(),
        reason: "the server has refused the connection".into(),
        ..MonitorStatus::default()
    };
    let server = ServerStatus {
        address: "10.0.0.1".into(),
        port: 80,
        monitors: vec![monitor; 2],
        ..ServerStatus::default()
    };
    let pool = PoolStatus {
        uuid: "p".into(),
        servers: vec![server; servers],
        ..PoolStatus::default()
    };
    Report {
        pools: vec![pool],
        ..Report::default()
    }
}

#[test]
fn a_report_that_is_too_long_for_an_older_controller_leaves_monitors_out_and_no_server() {
    let monitors = |report: &Report| {
        let servers = report.pools[0].servers.iter();
        servers.map(|s| s.monitors.len()).sum::<usize>()
    };
    let mut short = long(1000);
    monitors::fit(&mut short);
    assert_eq!(monitors(&short), 2000);
    let mut report = long(30_000);
    assert!(report.encoded_len() > 4 * 1024 * 1024);
    monitors::fit(&mut report);
    assert_eq!(monitors(&report), 0);
    assert_eq!(report.pools[0].servers.len(), 30_000);
    assert!(report.encoded_len() < 1024 * 1024);
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
