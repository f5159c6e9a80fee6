//! Probes over loopback, with real sockets.

use super::*;
use proto::v1::{HttpMonitor, Server, TcpMonitor, UdpMonitor, health_monitor::Kind};
use std::net::Ipv4Addr;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;

fn pool(addr: SocketAddr, monitors: &[&str]) -> Pool {
    Pool {
        uuid: "p".into(),
        enabled: true,
        servers: vec![Server {
            address: addr.ip().to_string(),
            port: addr.port().into(),
            enabled: true,
            ratio: 1,
        }],
        health_monitor_uuids: monitors.iter().map(ToString::to_string).collect(),
        ..Pool::default()
    }
}

fn monitor(response: &str) -> HealthMonitor {
    let tcp = TcpMonitor {
        request: String::new(),
        response: response.into(),
        ..TcpMonitor::default()
    };
    HealthMonitor {
        uuid: "m".into(),
        send_interval_s: 1,
        receive_timeout_s: 1,
        successful_checks: 1,
        failed_checks: 1,
        kind: Some(Kind::Tcp(tcp)),
        ..HealthMonitor::default()
    }
}

/// Waits until the only server is in this state.
async fn wait_for(health: &HealthHandle, state: OperState) -> ServerHealth {
    let mut snapshot = health.snapshot();
    let there = |s: &Arc<HealthSnapshot>| s.pools.get("p").is_some_and(|p| p[0].state == state);
    let found = tokio::time::timeout(Duration::from_secs(20), snapshot.wait_for(there));
    let found = found.await.expect("in time").expect("published");
    found.pools["p"][0].clone()
}

#[tokio::test]
async fn a_server_follows_its_port_up_and_down() {
    // The IP address is this process's own: no other takes the port while nobody listens.
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, a + 1, b, c);
    let listener = TcpListener::bind((own, 0)).await.expect("bind");
    let addr = listener.local_addr().expect("addr");
    let health = HealthHandle::spawn();
    health.apply(&[pool(addr, &["m"])], &[monitor("")]);
    wait_for(&health, OperState::Up).await;
    drop(listener);
    let down = wait_for(&health, OperState::Down).await;
    assert_eq!(down.reason(), Failure::ConnectionRefused.to_string());
    let _listener = TcpListener::bind(addr).await.expect("bind again");
    wait_for(&health, OperState::Up).await;
}

/// Else its virtual services would be down for that time.
#[tokio::test]
async fn a_server_that_is_up_stays_up_until_a_new_monitor_has_looked() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = silent.local_addr().expect("addr");
    let health = HealthHandle::spawn();
    health.apply(&[pool(addr, &[])], &[]);
    wait_for(&health, OperState::Up).await;
    health.apply(&[pool(addr, &["m"])], &[monitor("never said")]);
    let state = |health: &HealthHandle| health.snapshot().borrow().pools["p"][0].state;
    assert_eq!(state(&health), OperState::Up);
    wait_for(&health, OperState::Down).await;
    health.apply(&[pool(addr, &["m"])], &[monitor("nor this")]);
    assert_eq!(state(&health), OperState::Initializing);
}

#[tokio::test]
async fn a_response_must_contain_the_expected_text() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = listener.local_addr().expect("addr");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"220 ready").await.ok();
        }
    });
    let health = HealthHandle::spawn();
    health.apply(&[pool(addr, &["m"])], &[monitor("ready")]);
    wait_for(&health, OperState::Up).await;
    health.apply(&[pool(addr, &["m"])], &[monitor("gone")]);
    let down = wait_for(&health, OperState::Down).await;
    assert_eq!(down.reason(), Failure::PayloadContentMismatch.to_string());
}

fn udp_monitor(request: &str, response: &str) -> HealthMonitor {
    let udp = UdpMonitor {
        request: request.into(),
        response: response.into(),
        maintenance_response: String::new(),
    };
    HealthMonitor {
        kind: Some(Kind::Udp(udp)),
        ..monitor("")
    }
}

/// A port for UDP that TCP does not have.
async fn udp_socket() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    let addr = socket.local_addr().expect("addr");
    (socket, addr)
}

#[tokio::test]
async fn a_silent_udp_server_is_up_until_its_port_is_unreachable() {
    let (socket, addr) = udp_socket().await;
    let health = HealthHandle::spawn();
    health.apply(&[pool(addr, &["m"])], &[udp_monitor("", "")]);
    wait_for(&health, OperState::Up).await;
    drop(socket);
    let down = wait_for(&health, OperState::Down).await;
    assert_eq!(down.reason(), Failure::ConnectionRefused.to_string());
}

#[tokio::test]
async fn a_udp_server_must_give_the_expected_answer() {
    let (socket, addr) = udp_socket().await;
    let server = async move {
        let mut bytes = [0; 64];
        while let Ok((len, peer)) = socket.recv_from(&mut bytes).await {
            if bytes[..len] == *b"ping" {
                socket.send_to(b"+pong", peer).await.ok();
            }
        }
    };
    tokio::spawn(server);
    let health = HealthHandle::spawn();
    let check = |request, response| {
        health.apply(&[pool(addr, &["m"])], &[udp_monitor(request, response)]);
    };
    check("ping", "pong");
    wait_for(&health, OperState::Up).await;
    check("ping", "ready");
    let down = wait_for(&health, OperState::Down).await;
    assert_eq!(down.reason(), Failure::PayloadContentMismatch.to_string());
    check("ping", "pong");
    wait_for(&health, OperState::Up).await;
    check("hello", "pong");
    let down = wait_for(&health, OperState::Down).await;
    assert_eq!(down.reason(), Failure::PayloadTimeout.to_string());
}

#[tokio::test]
async fn a_pool_without_monitors_is_up_and_one_that_is_disabled_says_so() {
    let addr = "127.0.0.1:9".parse().expect("addr");
    let health = HealthHandle::spawn();
    health.apply(&[pool(addr, &[])], &[]);
    wait_for(&health, OperState::Up).await;
    let mut disabled = pool(addr, &[]);
    disabled.enabled = false;
    health.apply(&[disabled], &[]);
    wait_for(&health, OperState::Disabled).await;
}

#[tokio::test]
async fn applying_the_same_again_keeps_what_is_known() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = listener.local_addr().expect("addr");
    let health = HealthHandle::spawn();
    health.apply(&[pool(addr, &["m"])], &[monitor("")]);
    wait_for(&health, OperState::Up).await;
    health.apply(&[pool(addr, &["m"])], &[monitor("")]);
    assert_eq!(
        health.snapshot().borrow().pools["p"][0].state,
        OperState::Up
    );
}

fn of_kind(kind: Kind) -> HealthMonitor {
    HealthMonitor {
        kind: Some(kind),
        ..monitor("")
    }
}

/// Waits until the only server is down for this reason.
async fn wait_for_failure(health: &HealthHandle, failure: Failure) {
    let mut snapshot = health.snapshot();
    let there = |s: &Arc<HealthSnapshot>| {
        let pool = s.pools.get("p");
        pool.is_some_and(|p| p[0].failure == Some(failure))
    };
    let found = tokio::time::timeout(Duration::from_secs(20), snapshot.wait_for(there));
    let found = found.await.expect("in time").expect("published").clone();
    assert_eq!(found.pools["p"][0].state, OperState::Down);
}

/// What a web server answers, and what it was last asked.
#[derive(Clone)]
struct Web {
    answer: watch::Sender<&'static str>,
    asked: watch::Sender<String>,
}

impl Web {
    fn new(answer: &'static str) -> Self {
        Self {
            answer: watch::Sender::new(answer),
            asked: watch::Sender::default(),
        }
    }

    /// Reads a head, answers, and closes.
    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_buf(&mut head).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        self.asked
            .send_replace(String::from_utf8_lossy(&head).into_owned());
        let answer = *self.answer.borrow();
        stream.write_all(answer.as_bytes()).await.ok();
        stream.shutdown().await.ok();
    }

    async fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let addr = listener.local_addr().expect("addr");
        let web = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                web.serve(stream).await;
            }
        });
        addr
    }

    /// The same over TLS, with a certificate that nobody has signed.
    async fn start_tls(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let addr = listener.local_addr().expect("addr");
        let (web, acceptor) = (self.clone(), acceptor());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = acceptor.accept(stream).await {
                    web.serve(stream).await;
                }
            }
        });
        addr
    }
}

fn acceptor() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(["some.where".to_owned()]).expect("made");
    let key = made.signing_key.serialize_der().try_into().expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a pair");
    TlsAcceptor::from(Arc::new(config))
}

fn http() -> HttpMonitor {
    HttpMonitor {
        request: "GET /ready HTTP/1.0".into(),
        response_classes: vec![2, 3],
        maintenance_codes: vec![503],
        response: "fine".into(),
        maintenance_response: "back soon".into(),
        ..HttpMonitor::default()
    }
}

const FINE: &str = "HTTP/1.0 200 OK\r\n\r\nfine";

#[tokio::test]
async fn an_http_server_is_judged_by_code_and_text() {
    let web = Web::new(FINE);
    let addr = web.start().await;
    let health = HealthHandle::spawn();
    health.apply(&[pool(addr, &["m"])], &[of_kind(Kind::Http(http()))]);
    wait_for(&health, OperState::Up).await;
    let asked = web.asked.borrow().clone();
    let expected = format!("GET /ready HTTP/1.0\r\nHost: {addr}\r\n\r\n");
    assert_eq!(asked, expected);
    for (answer, failure) in [
        (
            "HTTP/1.0 404 Not Found\r\n\r\nfine",
            Failure::ResponseCodeMismatch,
        ),
        (
            "HTTP/1.0 200 OK\r\n\r\nill",
            Failure::PayloadContentMismatch,
        ),
        (
            "HTTP/1.0 503 x\r\n\r\nfine",
            Failure::MaintenanceResponseCodeMatch,
        ),
        (
            "HTTP/1.0 500 x\r\n\r\nback soon",
            Failure::MaintenancePayloadContentMatch,
        ),
        ("hello", Failure::ResponseCodeMismatch),
    ] {
        web.answer.send_replace(answer);
        wait_for_failure(&health, failure).await;
    }
    web.answer.send_replace(FINE);
    wait_for(&health, OperState::Up).await;
}

#[tokio::test]
async fn an_https_server_needs_no_certificate_that_is_trusted_but_tls() {
    let web = Web::new(FINE);
    let secure = web.start_tls().await;
    let health = HealthHandle::spawn();
    let monitors = [of_kind(Kind::Https(http()))];
    health.apply(&[pool(secure, &["m"])], &monitors);
    wait_for(&health, OperState::Up).await;
    web.answer.send_replace("HTTP/1.0 404 Not Found\r\n\r\n");
    wait_for_failure(&health, Failure::ResponseCodeMismatch).await;
    let plain = says("220 ready\r\n").await;
    health.apply(&[pool(plain, &["m"])], &monitors);
    wait_for_failure(&health, Failure::SslError).await;
}

#[tokio::test]
async fn an_http_server_that_says_nothing_is_down_for_that() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = listener.local_addr().expect("addr");
    let health = HealthHandle::spawn();
    health.apply(&[pool(addr, &["m"])], &[of_kind(Kind::Http(http()))]);
    wait_for_failure(&health, Failure::PayloadTimeout).await;
}

#[tokio::test]
async fn an_https_server_that_says_nothing_has_failed_the_handshake() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = listener.local_addr().expect("addr");
    let health = HealthHandle::spawn();
    health.apply(&[pool(addr, &["m"])], &[of_kind(Kind::Https(http()))]);
    wait_for_failure(&health, Failure::SslError).await;
}

#[tokio::test]
async fn an_http_server_is_asked_at_the_monitors_port_where_it_has_one() {
    let web = Web::new(FINE);
    let asked = web.start().await;
    let (_tcp_is_closed, addr) = udp_socket().await;
    let monitor = HealthMonitor {
        monitor_port: asked.port().into(),
        ..of_kind(Kind::Http(http()))
    };
    let health = HealthHandle::spawn();
    health.apply(&[pool(addr, &["m"])], &[monitor]);
    wait_for(&health, OperState::Up).await;
    let host = format!("Host: {asked}\r\n");
    assert!(web.asked.borrow().contains(&host), "{:?}", web.asked);
}

/// A server that answers a request with this and ends nothing before its client does; and how each client ended.
async fn holds(answer: Vec<u8>) -> (SocketAddr, watch::Receiver<Option<std::io::Result<usize>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = listener.local_addr().expect("addr");
    let ended = watch::Sender::new(None);
    let watched = ended.subscribe();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            if stream.read(&mut request).await.unwrap_or(0) == 0 {
                continue;
            }
            let end = async {
                stream.write_all(&answer).await?;
                stream.read(&mut request).await
            };
            ended.send_replace(Some(end.await));
        }
    });
    (addr, watched)
}

#[tokio::test]
async fn a_server_with_more_to_say_than_is_looked_at_is_not_reset() {
    let long = [FINE.as_bytes(), &[b'x'; 100_000]].concat();
    let (addr, mut ended) = holds(long).await;
    let health = HealthHandle::spawn();
    health.apply(&[pool(addr, &["m"])], &[of_kind(Kind::Http(http()))]);
    wait_for(&health, OperState::Up).await;
    let end = ended.wait_for(Option::is_some);
    let end = tokio::time::timeout(Duration::from_secs(20), end).await;
    let end = end.expect("in time").expect("told");
    assert!(matches!(*end, Some(Ok(0))), "by FIN, not {end:?}");
}

#[tokio::test]
async fn a_wrong_code_is_told_of_a_server_that_keeps_the_connection_open() {
    let (addr, _) = holds(b"HTTP/1.1 404 x\r\n\r\nno".to_vec()).await;
    let health = HealthHandle::spawn();
    health.apply(&[pool(addr, &["m"])], &[of_kind(Kind::Http(http()))]);
    wait_for_failure(&health, Failure::ResponseCodeMismatch).await;
}

#[tokio::test]
async fn an_answer_without_a_body_is_not_waited_for_any_longer() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n";
    for (request, answer) in [
        ("HEAD / HTTP/1.1", head),
        ("GET / HTTP/1.1", "HTTP/1.1 204 No Content\r\n\r\n"),
        (
            "GET / HTTP/1.1",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ),
    ] {
        let (addr, _) = holds(answer.into()).await;
        let http = HttpMonitor {
            request: request.into(),
            response: String::new(),
            ..http()
        };
        let patient = HealthMonitor {
            receive_timeout_s: 3600,
            ..of_kind(Kind::Http(http))
        };
        let health = HealthHandle::spawn();
        health.apply(&[pool(addr, &["m"])], &[patient]);
        wait_for(&health, OperState::Up).await;
    }
}

#[tokio::test]
async fn a_half_open_monitor_takes_a_server_up_that_accepts_nobody() {
    if !half_open::tests::can_run() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = listener.local_addr().expect("addr");
    let tcp = TcpMonitor {
        half_open: true,
        ..TcpMonitor::default()
    };
    let health = HealthHandle::spawn();
    health.apply(&[pool(addr, &["m"])], &[of_kind(Kind::Tcp(tcp))]);
    let mut snapshot = health.snapshot();
    let known = |s: &Arc<HealthSnapshot>| s.pools["p"][0].state != OperState::Initializing;
    let known = tokio::time::timeout(Duration::from_secs(20), snapshot.wait_for(known));
    let known = known.await.expect("in time").expect("published").clone();
    let found = &known.pools["p"][0];
    assert_eq!(found.state, OperState::Up);
    let ours = tokio::net::TcpStream::connect(addr)
        .await
        .expect("connects");
    let (_, peer) = listener.accept().await.expect("accepts");
    assert_eq!(peer, ours.local_addr().expect("addr"), "the first one");
}

/// A server that says this to everyone.
async fn says(word: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = listener.local_addr().expect("addr");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(word.as_bytes()).await.ok();
        }
    });
    addr
}

#[tokio::test]
async fn a_tcp_server_may_say_that_it_is_in_maintenance_and_may_say_nothing() {
    let tcp = TcpMonitor {
        maintenance_response: "421".into(),
        ..TcpMonitor::default()
    };
    let monitors = [of_kind(Kind::Tcp(tcp))];
    let health = HealthHandle::spawn();
    let addr = says("421 closed for today").await;
    health.apply(&[pool(addr, &["m"])], &monitors);
    wait_for_failure(&health, Failure::MaintenancePayloadContentMatch).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = silent.local_addr().expect("addr");
    health.apply(&[pool(addr, &["m"])], &monitors);
    wait_for(&health, OperState::Up).await;
}

#[tokio::test]
async fn a_udp_server_may_say_that_it_is_in_maintenance() {
    let (socket, addr) = udp_socket().await;
    tokio::spawn(async move {
        let mut bytes = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut bytes).await {
            socket.send_to(b"pong, but leaving", peer).await.ok();
        }
    });
    let udp = UdpMonitor {
        request: "ping".into(),
        response: "pong".into(),
        maintenance_response: "leaving".into(),
    };
    let health = HealthHandle::spawn();
    health.apply(&[pool(addr, &["m"])], &[of_kind(Kind::Udp(udp))]);
    wait_for_failure(&health, Failure::MaintenancePayloadContentMatch).await;
}

#[test]
fn maintenance_takes_a_server_down_gracefully_only_when_nothing_else_does() {
    let result = |failure| Result {
        state: State::Down,
        failure: Some(failure),
        has_looked: true,
        times: None,
    };
    let gently = result(Failure::MaintenanceResponseCodeMatch);
    let hard = result(Failure::ConnectionRefused);
    let addr = "127.0.0.1:9".parse().expect("addr");
    assert!(server(addr, true, &[&gently], None).is_in_maintenance());
    assert!(!server(addr, true, &[&gently, &hard], None).is_in_maintenance());
}

#[tokio::test]
async fn one_monitor_of_two_is_enough_when_the_pool_says_so() {
    let addr = says("220 ready").await;
    let good = monitor("ready");
    let bad = HealthMonitor {
        uuid: "n".into(),
        ..monitor("gone")
    };
    let monitors = [good, bad];
    let health = HealthHandle::spawn();
    let mut pool = pool(addr, &["m", "n"]);
    health.apply(std::slice::from_ref(&pool), &monitors);
    wait_for(&health, OperState::Down).await;
    pool.min_health_monitors_up = 1;
    health.apply(std::slice::from_ref(&pool), &monitors);
    let up = wait_for(&health, OperState::Up).await;
    assert_eq!(up.failure, None, "what does not count is not told");
    pool.min_health_monitors_up = 2;
    health.apply(&[pool], &monitors);
    wait_for_failure(&health, Failure::PayloadContentMismatch).await;
}

#[tokio::test]
async fn each_monitor_says_for_itself_what_it_has_seen() {
    let addr = says("220 ready").await;
    let bad = HealthMonitor {
        uuid: "n".into(),
        ..monitor("gone")
    };
    let both = [monitor("ready"), bad];
    let health = HealthHandle::spawn();
    let said = health.monitors();
    let mut pool = pool(addr, &["m", "n"]);
    health.apply(std::slice::from_ref(&pool), &both);
    let states = |said: &Monitors| -> Vec<_> {
        let all = said.of("p", addr);
        all.into_iter().map(|m| (m.uuid, m.state)).collect()
    };
    let initializing = OperState::Initializing;
    assert_eq!(
        states(&said),
        [("m".to_owned(), initializing), ("n".into(), initializing)]
    );
    // All must pass: the second has looked; then one is enough: the first has, too.
    wait_for(&health, OperState::Down).await;
    pool.min_health_monitors_up = 1;
    health.apply(&[pool], &both);
    wait_for(&health, OperState::Up).await;
    assert_eq!(
        states(&said),
        [
            ("m".to_owned(), OperState::Up),
            ("n".into(), OperState::Down)
        ]
    );
    let all = said.of("p", addr);
    assert_eq!((all[0].failure, all[0].times.is_some()), (None, true));
    let failure = Some(Failure::PayloadContentMismatch);
    assert_eq!((all[1].failure, all[1].times), (failure, None));
    assert_eq!(said.of("another", addr), []);
}

/// One that is up already takes traffic until a new monitor has looked; the monitor has not.
#[tokio::test]
async fn a_monitor_that_has_not_looked_says_so_also_of_a_server_that_is_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = silent.local_addr().expect("addr");
    let health = HealthHandle::spawn();
    health.apply(&[pool(addr, &[])], &[]);
    wait_for(&health, OperState::Up).await;
    assert_eq!(health.monitors().of("p", addr), [], "nothing checks it");
    health.apply(&[pool(addr, &["m"])], &[monitor("never said")]);
    assert_eq!(
        health.snapshot().borrow().pools["p"][0].state,
        OperState::Up
    );
    let said = health.monitors().of("p", addr);
    assert_eq!(said[0].state, OperState::Initializing);
}
