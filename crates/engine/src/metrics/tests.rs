use super::*;
use proto::v1::{
    BfdEngine, BfdSession, BgpSession, EngineStats, HintStats, Peer, Pool, ServerStatus,
    TunnelledTo, UdpStatus, VerdictCount, VipStatus, VirtualService,
};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn bgp(peer: &str, state: BgpState) -> BgpSession {
    BgpSession {
        peer: peer.into(),
        state: state.into(),
        ..BgpSession::default()
    }
}

/// Something of everything.
fn report() -> Report {
    let vs = VirtualServiceStatus {
        uuid: "vs-1".into(),
        state: OperState::Up.into(),
        reason_code: "up".into(),
        open_connections: 7,
        hints: Some(HintStats {
            stamped: 5,
            ..HintStats::default()
        }),
        udp: Some(UdpStatus {
            flows: 3,
            full: 2,
            ..UdpStatus::default()
        }),
        connections_dropped: Some(6),
        responses: Some(ResponseStats {
            class_2xx: 8,
            ..ResponseStats::default()
        }),
        ..VirtualServiceStatus::default()
    };
    let tunnelled = TunnelledTo {
        se_uuid: "se-2".into(),
        packets: 10,
        bytes: 1000,
        flows: 4,
        flows_now: 1,
    };
    Report {
        applied_generation: 42,
        stats: Some(EngineStats {
            rss_bytes: 18 << 20,
            uptime_s: 60,
            open_connections: 7,
            load: Some(EngineLoad {
                process_cpu_ms: 2500,
                rx_packets: 11,
                tx_bytes: 22,
                host_memory_bytes: 4096,
                host_memory_available_bytes: 1024,
                ..EngineLoad::default()
            }),
        }),
        bgp_sessions: vec![
            bgp("10.0.0.1", BgpState::Established),
            bgp("10.0.0.2", BgpState::Active),
            bgp("10.0.0.3", BgpState::Active),
        ],
        bfd_sessions: vec![BfdSession {
            peer: "10.0.0.1".into(),
            state: "up".into(),
            ..BfdSession::default()
        }],
        bfd: Some(BfdEngine::default()),
        vips: vec![VipStatus {
            address: "203.0.113.10".into(),
            announced: true,
            ..VipStatus::default()
        }],
        virtual_services: vec![vs],
        pools: vec![PoolStatus {
            uuid: "pool-1".into(),
            servers: vec![ServerStatus {
                bytes_sent: Some(70),
                bytes_received: Some(80),
                ..ServerStatus::default()
            }],
            ..PoolStatus::default()
        }],
        steering: Some(Steering {
            verdicts: vec![VerdictCount {
                verdict: "drop_budget".into(),
                packets: 9,
            }],
            tunnelled: vec![tunnelled],
            probe_copies_per_s: 1000,
            ..Steering::default()
        }),
        ..Report::default()
    }
}

fn desired() -> DesiredState {
    DesiredState {
        virtual_services: vec![VirtualService {
            uuid: "vs-1".into(),
            name: "web \"1\"".into(),
            ..VirtualService::default()
        }],
        pools: vec![Pool {
            uuid: "pool-1".into(),
            name: "web-pool".into(),
            ..Pool::default()
        }],
        peers: vec![Peer {
            se_uuid: "se-2".into(),
            name: "two".into(),
            ..Peer::default()
        }],
        ..DesiredState::default()
    }
}

fn source(report: Report, connected: bool) -> Source {
    Source {
        name: "one".into(),
        desired: watch::channel(Arc::new(desired())).1,
        reports: watch::channel(report).1,
        connected: watch::channel(connected).1,
    }
}

fn samples(text: &str) -> BTreeSet<&str> {
    text.lines().filter(|l| !l.starts_with('#')).collect()
}

#[test]
fn what_was_reported_is_told_under_the_names_of_the_controller() {
    let text = source(report(), false).scrape();
    let samples = samples(&text);
    for expected in [
        "evenkeel_se_connected{se=\"one\"} 0",
        "evenkeel_bgp_session_up{se=\"one\",peer=\"10.0.0.1\"} 1",
        "evenkeel_bgp_session_up{se=\"one\",peer=\"10.0.0.2\"} 0",
        "evenkeel_engine_bgp_sessions{se=\"one\",state=\"ACTIVE\"} 2",
        "evenkeel_engine_bfd_sessions{se=\"one\",state=\"up\"} 1",
        "evenkeel_engine_vip_announced{se=\"one\",vip=\"203.0.113.10\",reason=\"\"} 1",
        "evenkeel_engine_vs_up{se=\"one\",vs=\"web \\\"1\\\"\",reason=\"up\"} 1",
        "evenkeel_vs_open_connections{se=\"one\",vs=\"web \\\"1\\\"\"} 7",
        "evenkeel_vs_udp_events_total{se=\"one\",vs=\"web \\\"1\\\"\",event=\"full\"} 2",
        "evenkeel_vs_connections_dropped_total{se=\"one\",vs=\"web \\\"1\\\"\"} 6",
        "evenkeel_vs_responses_total{se=\"one\",vs=\"web \\\"1\\\"\",status=\"2xx\"} 8",
        "evenkeel_vs_responses_total{se=\"one\",vs=\"web \\\"1\\\"\",status=\"5xx\"} 0",
        "evenkeel_pool_bytes_total{se=\"one\",pool=\"web-pool\",direction=\"received\"} 80",
        "evenkeel_pool_bytes_total{se=\"one\",pool=\"web-pool\",direction=\"sent\"} 70",
        "evenkeel_se_memory_bytes{se=\"one\",of=\"available\"} 1024",
        "evenkeel_flow_packets_total{se=\"one\",verdict=\"drop_budget\"} 9",
        "evenkeel_flow_tunnelled_flows_total{se=\"one\",peer=\"two\"} 4",
        "evenkeel_flow_hint_stamps_total{se=\"one\",vs=\"web \\\"1\\\"\",result=\"stamped\"} 5",
        "evenkeel_engine_generation{se=\"one\"} 42",
        "evenkeel_se_cpu_seconds_total{se=\"one\",of=\"process\"} 2",
        "evenkeel_se_packets_total{se=\"one\",direction=\"received\"} 11",
        "evenkeel_se_bytes_total{se=\"one\",direction=\"sent\"} 22",
        "evenkeel_engine_resident_memory_bytes{se=\"one\"} 18874368",
    ] {
        assert!(samples.contains(expected), "{expected}\n{text}");
    }
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[test]
fn every_metric_of_the_list_is_told_with_its_help() {
    let text = source(report(), true).scrape();
    for metric in metric::OF_ENGINES {
        let help = format!("# HELP evenkeel_{} {}", metric.name, metric.help);
        assert!(text.contains(&help), "{help}\n{text}");
        let sample = format!("\n{}{{", metric.sample());
        assert!(text.contains(&sample), "{sample}\n{text}");
    }
}

#[test]
fn before_the_first_report_there_is_an_answer() {
    let text = source(Report::default(), true).scrape();
    assert!(
        text.contains("evenkeel_se_connected{se=\"one\"} 1"),
        "{text}"
    );
    for absent in ["evenkeel_flow_packets", "evenkeel_se_memory_bytes{"] {
        assert!(!text.contains(absent), "{text}");
    }
}

/// An address where this is served, as long as the test's runtime runs.
async fn served(source: Source) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, source));
    address
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok();
    answer
}

#[tokio::test]
async fn a_scrape_is_answered_and_nothing_else_is_there() {
    let address = served(source(report(), true)).await;
    let got = ask(address, "GET /metrics HTTP/1.1\r\nHost: e\r\n\r\n").await;
    assert!(got.starts_with("HTTP/1.1 200 OK\r\n"), "{got}");
    let head = got.to_lowercase();
    assert!(head.contains(&format!("content-type: {FORMAT}")), "{got}");
    assert!(head.contains("connection: close"), "{got}");
    assert!(got.ends_with("# EOF\n"), "{got}");
    let head = ask(address, "HEAD /metrics HTTP/1.1\r\nHost: e\r\n\r\n").await;
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let none = ask(address, "GET / HTTP/1.1\r\nHost: e\r\n\r\n").await;
    assert!(none.starts_with("HTTP/1.1 404 "), "{none}");
    let post = ask(
        address,
        "POST /metrics HTTP/1.1\r\nHost: e\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert!(
        post.starts_with("HTTP/1.1 405 ") && post.to_lowercase().contains("allow: get, head"),
        "{post}"
    );
    let nonsense = ask(address, "\x01\x02\r\n\r\n").await;
    assert!(nonsense.starts_with("HTTP/1.1 400 "), "{nonsense}");
}

#[tokio::test]
async fn clients_that_say_nothing_are_sent_away_and_make_room() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let time = Duration::from_millis(500);
    tokio::spawn(serve_within(time, listener, source(report(), true)));
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    // A busy machine may take longer than a connection may.
    let mut got = String::new();
    for _ in 0..20 {
        got = ask(address, "GET /metrics HTTP/1.1\r\nHost: e\r\n\r\n").await;
        if !got.is_empty() {
            break;
        }
    }
    assert!(got.starts_with("HTTP/1.1 200 OK\r\n"), "{got}");
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "closed");
    }
}
