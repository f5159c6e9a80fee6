//! The proxy over loopback, with real sockets. Nothing here waits for a fixed time.

use super::*;
use std::io;
use std::net::Ipv4Addr;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A proxy with one virtual service on a free port.
pub(crate) struct Fixture {
    pub proxy: ProxyHandle,
    pub addr: SocketAddr,
    pub spec: VirtualServiceSpec,
}

impl Fixture {
    pub(crate) async fn new(servers: &[SocketAddr]) -> Self {
        let proxy = Proxy::start(ProxyConfig {
            workers: 2,
            ..ProxyConfig::default()
        })
        .expect("starts");
        let addr = free_address();
        let spec = VirtualServiceSpec {
            uuid: "vs".into(),
            name: "vs".into(),
            listen: vec![addr],
            udp: None,
            accept: true,
            idle_timeout: None,
            keeps_idle: false,
            group: PoolGroupSpec::from(PoolSpec {
                uuid: "p".into(),
                algorithm: Algorithm::RoundRobin,
                servers: servers.iter().map(|a| server(*a)).collect(),
                use_service_port: false,
                inline_health: false,
                back: BackSpec::default(),
            }),
            hint: None,
            source: Source::Engine,
            front: FrontSpec::default(),
            tcp: TcpSpec::default(),
            proxy_header: None,
            weight: Weight::default(),
        };
        let mut fixture = Self { proxy, addr, spec };
        assert_eq!(fixture.apply(|_| {}).await[0].error, None);
        fixture
    }

    pub(crate) async fn apply(
        &mut self,
        change: impl FnOnce(&mut VirtualServiceSpec),
    ) -> Vec<ListenerStatus> {
        change(&mut self.spec);
        self.proxy.apply(vec![self.spec.clone()]).await
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.expect("connects")
    }

    pub(crate) fn vs(&self) -> VsStats {
        self.proxy.stats().virtual_services[0].clone()
    }
}

pub(crate) fn pool(spec: &mut VirtualServiceSpec) -> &mut PoolSpec {
    &mut spec.group.members[0].pool
}

pub(crate) fn server(addr: SocketAddr) -> ServerSpec {
    ServerSpec {
        addr,
        enabled: true,
        cut_after: None,
        up: true,
        ratio: 1,
        max_connections: 0,
    }
}

/// Nobody has it at the moment, for UDP neither; the IP address is this process's own, so that no other takes the port
/// meanwhile.
pub fn free_address() -> SocketAddr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, a + 1, b, c);
    let tcp = std::net::TcpListener::bind((own, 0)).expect("bind");
    let addr = tcp.local_addr().expect("addr");
    drop(std::net::UdpSocket::bind(addr).expect("free for UDP, too"));
    addr
}

pub(crate) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = listener.local_addr().expect("addr");
    (listener, addr)
}

/// A server that echoes until its client ends, then ends.
pub(crate) async fn echo() -> SocketAddr {
    let (listener, addr) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await.ok();
                write.shutdown().await.ok();
            });
        }
    });
    addr
}

/// A server that says a word and closes.
async fn says(word: &'static str) -> SocketAddr {
    let (listener, addr) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(word.as_bytes()).await.ok();
        }
    });
    addr
}

pub(crate) async fn read_all(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut all));
    read.await.expect("in time").map(|_| all)
}

/// What so many connections, one after the other, are told; "" = cut, which may be before connect() has returned.
async fn words(fixture: &Fixture, count: usize) -> Vec<String> {
    let mut words = Vec::new();
    for _ in 0..count {
        let word = match TcpStream::connect(fixture.addr).await {
            Ok(mut stream) => read_all(&mut stream).await,
            Err(error) => Err(error),
        };
        words.push(String::from_utf8(word.unwrap_or_default()).expect("text"));
    }
    words
}

/// Sends something to a server that echoes.
async fn exchange(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.expect("written");
    let mut back = vec![0; bytes.len()];
    let read = tokio::time::timeout(DEADLINE, stream.read_exact(&mut back));
    read.await.expect("in time").expect("read");
    assert_eq!(back, bytes);
}

pub(crate) async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_large_payload_comes_back_whole_and_is_counted() {
    let fixture = Fixture::new(&[echo().await]).await;
    let payload: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut stream = fixture.connect().await;
    let (mut read, mut write) = stream.split();
    let send = async {
        write.write_all(&payload).await.expect("written");
        write.shutdown().await.expect("half-closed");
    };
    let mut back = Vec::new();
    let receive = async { read.read_to_end(&mut back).await.expect("read") };
    tokio::time::timeout(DEADLINE, async { tokio::join!(send, receive) })
        .await
        .expect("in time");
    assert!(back == payload, "{} of {} bytes", back.len(), payload.len());
    wait_until("the connection is counted as closed", || {
        fixture.vs().open == 0
    })
    .await;
    let stats = fixture.vs();
    assert_eq!(
        (stats.total, stats.bytes_in, stats.bytes_out),
        (1, 3_000_000, 3_000_000)
    );
    let server = fixture.proxy.stats().servers.remove(0);
    assert_eq!(server.bytes_sent, 3_000_000);
    assert_eq!(server.bytes_received, 3_000_000);
}

/// Packets of 1500 bytes have to fit into a tunnel to another engine; over loopback a client would take 64 KiB.
#[tokio::test]
async fn clients_are_offered_segments_that_leave_room_for_a_tunnel() {
    let fixture = Fixture::new(&[echo().await]).await;
    let client = fixture.connect().await;
    let segment = socket2::SockRef::from(&client).tcp_mss().expect("asked");
    assert!((1400..=1440).contains(&segment), "{segment}");
}

#[tokio::test]
async fn the_server_may_end_first_and_still_receive() {
    let (listener, addr) = listen().await;
    let fixture = Fixture::new(&[addr]).await;
    let mut client = fixture.connect().await;
    let (mut server, _) = listener.accept().await.expect("accepted");
    server.write_all(b"bye").await.expect("written");
    server.shutdown().await.expect("half-closed");
    assert_eq!(read_all(&mut client).await.expect("read"), b"bye");
    client.write_all(b"still here").await.expect("written");
    client.shutdown().await.expect("half-closed");
    assert_eq!(read_all(&mut server).await.expect("read"), b"still here");
}

#[tokio::test]
async fn a_client_that_does_not_read_slows_the_server_down() {
    let (listener, addr) = listen().await;
    let fixture = Fixture::new(&[addr]).await;
    let _client = fixture.connect().await;
    let (server, _) = listener.accept().await.expect("accepted");
    // Fill every buffer on the way until nothing more is taken for good: the sum is bounded by socket buffers.
    let chunk = vec![0u8; 64 * 1024];
    let mut sent = 0usize;
    const BOUND: usize = 64 << 20;
    while sent < BOUND {
        let writable = tokio::time::timeout(Duration::from_secs(1), server.writable()).await;
        if writable.is_err() {
            break;
        }
        match server.try_write(&chunk) {
            Ok(n) => sent += n,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }
    assert!(
        sent < BOUND,
        "{sent} bytes taken although the client reads nothing"
    );
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset() {
    let (listener, addr) = listen().await;
    let fixture = Fixture::new(&[addr]).await;
    let mut client = fixture.connect().await;
    let (server, _) = listener.accept().await.expect("accepted");
    socket2::SockRef::from(&server)
        .set_linger(Some(Duration::ZERO))
        .expect("linger");
    drop(server);
    let error = read_all(&mut client).await.expect_err("reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_server_that_refuses_is_passed_over() {
    let gone = free_address();
    let fixture = Fixture::new(&[gone, says("b").await]).await;
    for _ in 0..4 {
        assert_eq!(
            read_all(&mut fixture.connect().await).await.expect("read"),
            b"b"
        );
    }
}

#[tokio::test]
async fn without_a_server_the_client_is_reset_and_counted() {
    let mut fixture = Fixture::new(&[echo().await]).await;
    fixture.apply(|s| pool(s).servers[0].up = false).await;
    // The reset may arrive before the connect is looked at.
    let error = match TcpStream::connect(fixture.addr).await {
        Ok(mut client) => read_all(&mut client).await.expect_err("reset"),
        Err(error) => error,
    };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    wait_until("it is counted", || fixture.vs().refused == 1).await;
}

/// Whether the kernel has the keepalive timer running for the connections at this address (`tr` of /proc/net/tcp).
fn is_kept_alive(at: SocketAddr) -> bool {
    const ESTABLISHED: &str = "01";
    const KEEPALIVE: &str = "02:";
    let port = format!(":{:04X}", at.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("readable");
    let rows = table.lines().map(|l| l.split_whitespace().collect());
    let mut own = rows.filter(|row: &Vec<&str>| row[1].ends_with(&port) && row[3] == ESTABLISHED);
    own.any(|row| row[5].starts_with(KEEPALIVE))
}

#[tokio::test]
async fn an_idle_connection_that_is_kept_is_asked_whether_its_ends_are_there() {
    let mut fixture = Fixture::new(&[echo().await]).await;
    let kept = |s: &mut VirtualServiceSpec| {
        s.idle_timeout = Some(Duration::from_millis(300));
        s.keeps_idle = true;
    };
    fixture.apply(kept).await;
    let mut idle = fixture.connect().await;
    idle.write_all(b"x").await.expect("written");
    idle.read_exact(&mut [0]).await.expect("echoed");
    assert!(!is_kept_alive(fixture.addr), "it is in use");
    wait_until("it is asked", || is_kept_alive(fixture.addr)).await;
    idle.write_all(b"y").await.expect("written");
    idle.read_exact(&mut [0]).await.expect("it goes on");
}

#[tokio::test]
async fn an_idle_connection_ends_and_one_in_use_does_not() {
    let mut fixture = Fixture::new(&[echo().await]).await;
    fixture
        .apply(|s| s.idle_timeout = Some(Duration::from_millis(300)))
        .await;
    let mut idle = fixture.connect().await;
    let mut used = fixture.connect().await;
    let keep_using = async {
        let mut byte = [0];
        loop {
            used.write_all(b"x").await.expect("written");
            used.read_exact(&mut byte).await.expect("echoed");
        }
    };
    tokio::select! {
        result = read_all(&mut idle) => assert!(result.is_err(), "reset"),
        () = keep_using => unreachable!("it is used for ever"),
    }
}

#[tokio::test]
async fn applying_the_same_again_touches_no_connection() {
    let mut fixture = Fixture::new(&[echo().await]).await;
    let mut stream = fixture.connect().await;
    let mut byte = [0];
    for _ in 0..3 {
        assert_eq!(fixture.apply(|_| {}).await[0].error, None);
        stream.write_all(b"x").await.expect("written");
        stream.read_exact(&mut byte).await.expect("echoed");
    }
    assert_eq!((fixture.vs().open, fixture.vs().total), (1, 1));
}

#[tokio::test]
async fn a_port_that_does_not_accept_refuses_and_running_connections_go_on() {
    let mut fixture = Fixture::new(&[echo().await]).await;
    let mut stream = fixture.connect().await;
    let mut byte = [0];
    stream.write_all(b"x").await.expect("written");
    stream.read_exact(&mut byte).await.expect("echoed");
    assert_eq!(fixture.apply(|s| s.accept = false).await, []);
    let refused = TcpStream::connect(fixture.addr).await.expect_err("refused");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    stream.write_all(b"y").await.expect("written");
    stream.read_exact(&mut byte).await.expect("echoed");
    assert_eq!(fixture.apply(|s| s.accept = true).await[0].error, None);
    fixture.connect().await;
}

#[tokio::test]
async fn an_address_that_is_taken_is_reported_and_tried_again() {
    let (taken, addr) = listen().await;
    let mut fixture = Fixture::new(&[echo().await]).await;
    let statuses = fixture.apply(|s| s.listen.push(addr)).await;
    let error = |statuses: &[ListenerStatus]| {
        statuses
            .iter()
            .find(|s| s.addr == addr)
            .and_then(|s| s.error.clone())
    };
    assert!(error(&statuses).is_some(), "{statuses:?}");
    drop(taken);
    assert_eq!(error(&fixture.apply(|_| {}).await), None);
}

#[tokio::test]
async fn cut_connections_are_reset_and_the_listener_goes_on() {
    let fixture = Fixture::new(&[echo().await]).await;
    let mut idle = fixture.connect().await;
    wait_until("the connection is counted", || {
        fixture.vs().open == 1 && fixture.vs().oldest.is_some()
    })
    .await;
    // Until it reaches the server it does not wait for the command yet.
    idle.write_all(b"x").await.expect("written");
    idle.read_exact(&mut [0]).await.expect("echoed");
    fixture.proxy.cut("vs");
    let error = read_all(&mut idle).await.expect_err("reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    wait_until("it is gone", || fixture.vs().open == 0).await;
    assert_eq!(fixture.vs().oldest, None);
    let mut next = fixture.connect().await;
    next.write_all(b"y").await.expect("written");
    next.read_exact(&mut [0]).await.expect("echoed");
}

#[tokio::test]
async fn round_robin_spreads_evenly_and_least_connections_prefers_the_idle() {
    let (a, b) = (echo().await, echo().await);
    let mut fixture = Fixture::new(&[a, b]).await;
    let open = |f: &Fixture| {
        f.proxy
            .stats()
            .servers
            .iter()
            .map(|s| s.open)
            .collect::<Vec<_>>()
    };
    let mut kept = Vec::new();
    for _ in 0..6 {
        kept.push(fixture.connect().await);
    }
    wait_until("three connections each", || open(&fixture) == [3, 3]).await;
    fixture
        .apply(|s| pool(s).servers[0].max_connections = 3)
        .await;
    kept.push(fixture.connect().await);
    wait_until("the full one is passed over", || {
        open(&fixture).iter().sum::<u64>() == 7
    })
    .await;
    let full = fixture
        .proxy
        .stats()
        .servers
        .iter()
        .find(|s| s.addr == a)
        .map(|s| s.open);
    assert_eq!(full, Some(3));
    fixture
        .apply(|s| pool(s).algorithm = Algorithm::LeastConnections)
        .await;
    fixture
        .apply(|s| pool(s).servers[0].max_connections = 0)
        .await;
    kept.push(fixture.connect().await);
    wait_until("the emptier one is chosen", || open(&fixture) == [4, 4]).await;
}

#[tokio::test]
async fn closing_everything_ends_connections_and_listeners() {
    let fixture = Fixture::new(&[echo().await]).await;
    let mut stream = fixture.connect().await;
    let mut byte = [0];
    stream.write_all(b"x").await.expect("written");
    stream.read_exact(&mut byte).await.expect("echoed");
    fixture.proxy.close_all().await;
    assert!(read_all(&mut stream).await.unwrap_or_default().is_empty());
    assert!(TcpStream::connect(fixture.addr).await.is_err());
}

/// Which server each of these clients came to; their own addresses are on the loopback.
async fn servers_of(fixture: &Fixture, clients: &[[u8; 4]]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    for ip in clients {
        let socket = tokio::net::TcpSocket::new_v4().expect("socket");
        socket.bind((*ip, 0).into()).expect("bind");
        let mut stream = socket.connect(fixture.addr).await.expect("connects");
        words.push(read_all(&mut stream).await.expect("read"));
    }
    words
}

#[tokio::test]
async fn consistent_hash_gives_a_client_one_server_at_every_engine_and_moves_only_those_of_one_that_goes()
 {
    let servers = [says("a").await, says("b").await, says("c").await];
    let by_address = |s: &mut VirtualServiceSpec| {
        pool(s).algorithm = Algorithm::ConsistentHash(HashKey::Address);
    };
    let (mut one, mut other) = (Fixture::new(&servers).await, Fixture::new(&servers).await);
    one.apply(by_address).await;
    other.apply(by_address).await;
    let clients: Vec<[u8; 4]> = (1..40).map(|n| [127, 9, 9, n]).collect();
    let before = servers_of(&one, &clients).await;
    assert_eq!(before, servers_of(&other, &clients).await);
    for word in ["a", "b", "c"] {
        assert!(before.iter().any(|w| w == word.as_bytes()), "{word}");
    }
    one.apply(|s| pool(s).servers[1].up = false).await;
    let after = servers_of(&one, &clients).await;
    for (old, new) in before.iter().zip(&after) {
        assert_eq!(old == b"b", old != new, "{old:?} {new:?}");
    }
}

#[tokio::test]
async fn at_random_every_server_has_its_turn() {
    let mut fixture = Fixture::new(&[says("a").await, says("b").await]).await;
    fixture
        .apply(|s| pool(s).algorithm = Algorithm::Random)
        .await;
    let (mut seen, until) = (Vec::new(), Instant::now() + DEADLINE);
    while seen.len() < 2 {
        assert!(Instant::now() < until, "only {seen:?}");
        let word = read_all(&mut fixture.connect().await).await.expect("read");
        if !seen.contains(&word) {
            seen.push(word);
        }
    }
}

#[tokio::test]
async fn fastest_response_measures_servers_and_passes_over_one_that_refuses() {
    let mut fixture = Fixture::new(&[free_address(), says("b").await]).await;
    fixture
        .apply(|s| pool(s).algorithm = Algorithm::FastestResponse)
        .await;
    let clients = [[127, 9, 9, 1]; 12];
    let words = servers_of(&fixture, &clients).await;
    assert!(words.iter().all(|w| w == b"b"));
    let stats = fixture.proxy.stats();
    let refusing = fixture.spec.group.members[0].pool.servers[0].addr;
    let tried = stats.servers.iter().find(|s| s.addr == refusing);
    assert_eq!(tried.map(|s| s.total), Some(1), "it is tried once");
}

/// Waits until the server has it.
async fn echoed(stream: &mut TcpStream) {
    stream.write_all(b"x").await.expect("written");
    stream.read_exact(&mut [0]).await.expect("echoed");
}

fn disable(server: &mut ServerSpec, cut_after: Option<Duration>) {
    (server.enabled, server.cut_after) = (false, cut_after);
}

#[tokio::test]
async fn a_server_that_is_disabled_gets_nothing_new_and_its_connections_are_cut_in_time() {
    let mut fixture = Fixture::new(&[echo().await, echo().await]).await;
    let mut first = fixture.connect().await;
    echoed(&mut first).await;
    let mut second = fixture.connect().await;
    echoed(&mut second).await;
    fixture
        .apply(|s| disable(&mut pool(s).servers[0], None))
        .await;
    for _ in 0..3 {
        echoed(&mut fixture.connect().await).await;
    }
    wait_until("new ones are at the other server", || {
        let servers = fixture.proxy.stats().servers;
        servers.iter().map(|s| s.total).sum::<u64>() == 5
            && servers.iter().any(|s| {
                s.addr == fixture.spec.group.members[0].pool.servers[0].addr && s.total == 1
            })
    })
    .await;
    echoed(&mut first).await;
    let began = Instant::now();
    let soon = Duration::from_millis(100);
    fixture
        .apply(|s| disable(&mut pool(s).servers[0], Some(soon)))
        .await;
    let error = read_all(&mut first).await.expect_err("reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(began.elapsed() >= soon, "{:?}", began.elapsed());
    echoed(&mut second).await;
}

#[tokio::test]
async fn saying_it_again_does_not_begin_the_time_anew_and_enabling_ends_it() {
    let mut fixture = Fixture::new(&[echo().await]).await;
    let mut stream = fixture.connect().await;
    echoed(&mut stream).await;
    let soon = Duration::from_millis(500);
    fixture
        .apply(|s| disable(&mut pool(s).servers[0], Some(soon)))
        .await;
    fixture
        .apply(|s| pool(s).servers[0] = server(pool(s).servers[0].addr))
        .await;
    let enabled = Instant::now();
    while enabled.elapsed() < 3 * soon {
        echoed(&mut stream).await;
    }
    fixture
        .apply(|s| disable(&mut pool(s).servers[0], Some(Duration::ZERO)))
        .await;
    assert!(read_all(&mut stream).await.is_err(), "at once");
    fixture
        .apply(|s| pool(s).servers[0] = server(pool(s).servers[0].addr))
        .await;
    let mut stream = fixture.connect().await;
    echoed(&mut stream).await;
    fixture
        .apply(|s| disable(&mut pool(s).servers[0], Some(soon)))
        .await;
    let applied = async {
        loop {
            fixture.apply(|_| {}).await;
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        ended = read_all(&mut stream) => assert!(ended.is_err(), "cut"),
        () = applied => unreachable!("it is said for ever"),
    }
}

#[tokio::test]
async fn with_the_service_port_a_server_gets_the_port_that_the_client_used() {
    let (listener, wanted) = listen().await;
    let unused = SocketAddr::new(wanted.ip(), 9);
    let mut fixture = Fixture::new(&[unused]).await;
    // A VIP that has the server's port at an address of its own.
    let vip = SocketAddr::new(fixture.addr.ip(), wanted.port());
    let statuses = fixture
        .apply(|s| {
            s.listen = vec![vip];
            pool(s).use_service_port = true;
        })
        .await;
    assert_eq!(statuses[0].error, None);
    let mut client = TcpStream::connect(vip).await.expect("connects");
    let (mut server, _) = listener.accept().await.expect("accepted");
    server.write_all(b"here").await.expect("written");
    drop(server);
    assert_eq!(read_all(&mut client).await.expect("read"), b"here");
    let counted = fixture.proxy.stats().servers;
    assert_eq!(counted[0].addr, unused, "counters stay the server's");
}

/// A group of two pools, the first of higher priority.
async fn grouped() -> Fixture {
    let mut fixture = Fixture::new(&[says("a").await]).await;
    let second = MemberSpec {
        pool: PoolSpec {
            uuid: "q".into(),
            servers: vec![server(says("b").await)],
            ..pool(&mut fixture.spec).clone()
        },
        priority: 5,
        ratio: 1,
    };
    fixture
        .apply(|s| {
            s.group.members[0].priority = 10;
            s.group.members.push(second);
        })
        .await;
    fixture
}

#[tokio::test]
async fn a_pool_of_lower_priority_stands_by_until_no_server_of_the_others_is_left() {
    let mut fixture = grouped().await;
    assert_eq!(words(&fixture, 4).await, ["a", "a", "a", "a"]);
    fixture
        .apply(|s| s.group.members[0].pool.servers[0].up = false)
        .await;
    assert_eq!(words(&fixture, 2).await, ["b", "b"]);
    let servers = fixture.proxy.stats().servers;
    let totals: Vec<_> = servers.iter().map(|s| (&*s.pool_uuid, s.total)).collect();
    assert_eq!(totals, [("p", 4), ("q", 2)]);
}

#[tokio::test]
async fn what_is_counted_of_each_server_is_found() {
    let mut fixture = grouped().await;
    let more = [free_address(), free_address()].map(server);
    fixture.apply(|s| pool(s).servers.extend(more)).await;
    let stats = fixture.proxy.stats();
    assert_eq!(stats.servers.len(), 4);
    for server in &stats.servers {
        assert_eq!(stats.server(&server.pool_uuid, server.addr), Some(server));
    }
    assert_eq!(stats.server("p", stats.servers[3].addr), None, "it is q's");
    assert_eq!(stats.virtual_service("vs"), stats.virtual_services.first());
}

#[tokio::test]
async fn a_pool_that_refuses_is_left_for_the_one_that_stands_by() {
    let mut fixture = grouped().await;
    let refuses = free_address();
    fixture
        .apply(|s| s.group.members[0].pool.servers = vec![server(refuses)])
        .await;
    assert_eq!(words(&fixture, 2).await, ["b", "b"]);
}

#[tokio::test]
async fn a_pool_of_ratio_0_takes_nothing_new_and_keeps_what_it_has() {
    let mut fixture = Fixture::new(&[echo().await]).await;
    let mut before = fixture.connect().await;
    exchange(&mut before, b"one").await;
    let other = MemberSpec {
        pool: PoolSpec {
            uuid: "q".into(),
            servers: vec![server(says("b").await)],
            ..pool(&mut fixture.spec).clone()
        },
        priority: 0,
        ratio: 1,
    };
    fixture
        .apply(|s| {
            s.group.members[0].ratio = 0;
            s.group.members.push(other);
        })
        .await;
    assert_eq!(words(&fixture, 3).await, ["b", "b", "b"]);
    exchange(&mut before, b"two").await;
    fixture.apply(|s| drop(s.group.members.pop())).await;
    assert_eq!(
        words(&fixture, 1).await,
        [""],
        "nobody is left for new ones"
    );
}

impl Fixture {
    /// How often the server was tried, and its share of new connections.
    fn inline(&self, server: SocketAddr) -> (u64, Option<u32>) {
        let servers = self.proxy.stats().servers;
        let found = servers.iter().find(|s| s.addr == server);
        found
            .map(|s| (s.total, s.inline_health_share))
            .expect("there")
    }
}

#[tokio::test]
async fn a_server_that_refuses_gets_few_connections_until_it_takes_them_again() {
    let refusing = free_address();
    let mut fixture = Fixture::new(&[refusing, says("b").await]).await;
    fixture.apply(|s| pool(s).inline_health = true).await;
    assert_eq!(fixture.inline(refusing), (0, Some(100)));
    for _ in 0..100 {
        let word = read_all(&mut fixture.connect().await).await.expect("read");
        assert_eq!(word, b"b", "no client hears of it");
    }
    let (tried, share) = fixture.inline(refusing);
    assert_eq!(share, Some(5));
    assert!(
        (3..25).contains(&tried),
        "{tried} of 50 that would be its own"
    );
    let again = TcpListener::bind(refusing).await.expect("bind");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = again.accept().await {
            stream.write_all(b"a").await.ok();
        }
    });
    let until = Instant::now() + DEADLINE;
    while fixture.inline(refusing).1 != Some(100) {
        assert!(Instant::now() < until, "{:?}", fixture.inline(refusing));
        read_all(&mut fixture.connect().await).await.expect("read");
    }
    fixture.apply(|s| pool(s).inline_health = false).await;
    assert_eq!(fixture.inline(refusing).1, None);
}

#[tokio::test]
async fn the_only_server_is_tried_each_time_however_often_it_refuses() {
    let refusing = free_address();
    let mut fixture = Fixture::new(&[refusing]).await;
    fixture.apply(|s| pool(s).inline_health = true).await;
    for refused in 1..=5 {
        // It may be reset before the client has seen that it was accepted.
        if let Ok(mut client) = TcpStream::connect(fixture.addr).await {
            read_all(&mut client).await.expect_err("reset");
        }
        wait_until("it is refused", || fixture.vs().refused == refused).await;
    }
    assert_eq!(fixture.inline(refusing), (5, Some(5)));
    fixture.apply(|s| pool(s).servers[0].up = false).await;
    fixture.apply(|s| pool(s).servers[0].up = true).await;
    assert_eq!(fixture.inline(refusing).1, Some(100), "it came up anew");
}

#[tokio::test]
async fn servers_of_the_vips_family_see_the_vip_where_it_is_the_source() {
    let (v4, v4_addr) = listen().await;
    let v6 = TcpListener::bind("[::1]:0").await.expect("bind");
    let v6_addr = v6.local_addr().expect("addr");
    let mut fixture = Fixture::new(&[v4_addr]).await;
    let seen = async |fixture: &Fixture, server: &TcpListener| {
        let _client = fixture.connect().await;
        server.accept().await.expect("accepted").1.ip()
    };
    assert_ne!(seen(&fixture, &v4).await, fixture.addr.ip());
    fixture.apply(|s| s.source = Source::Vip).await;
    assert_eq!(seen(&fixture, &v4).await, fixture.addr.ip());
    assert_eq!(
        seen(&fixture, &v4).await,
        fixture.addr.ip(),
        "the next, too"
    );
    fixture
        .apply(|s| pool(s).servers = vec![server(v6_addr)])
        .await;
    assert_eq!(seen(&fixture, &v6).await, v6_addr.ip(), "another family");
    let own = ["127.9.8.7", "::1"].map(|a| a.parse().expect("an address"));
    fixture
        .apply(|s| s.source = Source::Addresses(own.into()))
        .await;
    assert_eq!(seen(&fixture, &v6).await, own[1]);
    fixture
        .apply(|s| pool(s).servers = vec![server(v4_addr)])
        .await;
    assert_eq!(seen(&fixture, &v4).await, own[0]);
}

#[tokio::test]
async fn what_this_host_cannot_do_is_not_the_servers_fault() {
    let mut fixture = Fixture::new(&[echo().await]).await;
    let not_ours = "192.0.2.1".parse().expect("an address");
    fixture
        .apply(|s| {
            pool(s).inline_health = true;
            s.source = Source::Addresses(vec![not_ours]);
        })
        .await;
    // It may be reset before connect() has returned.
    if let Ok(mut client) = TcpStream::connect(fixture.addr).await {
        read_all(&mut client).await.ok();
    }
    wait_until("it is refused", || fixture.vs().refused == 1).await;
    let server = fixture.spec.group.members[0].pool.servers[0].addr;
    assert_eq!(fixture.inline(server), (1, Some(100)));
}

#[tokio::test]
async fn servers_that_are_disabled_do_not_count_as_up_in_a_group() {
    let mut fixture = grouped().await;
    fixture
        .apply(|s| s.group.members[0].pool.servers[0].enabled = false)
        .await;
    assert_eq!(words(&fixture, 2).await, ["b", "b"]);
    let more = server(says("c").await);
    fixture
        .apply(|s| {
            s.group.members[0].pool.servers.push(more);
            s.group.min_servers = 2;
        })
        .await;
    let mut told = words(&fixture, 8).await;
    told.sort_unstable();
    told.dedup();
    assert_eq!(
        told,
        ["b", "c"],
        "with one server of two the other pool helps"
    );
}

/// What a server gets of a client that says hello and ends, and who that was.
async fn heard(listener: &TcpListener, fixture: &Fixture) -> (SocketAddr, Vec<u8>) {
    let mut client = fixture.connect().await;
    client.write_all(b"hello").await.expect("written");
    client.shutdown().await.expect("half-closed");
    let (mut server, _) = listener.accept().await.expect("accepted");
    let all = read_all(&mut server).await.expect("read");
    (client.local_addr().expect("addr"), all)
}

#[tokio::test]
async fn servers_are_told_of_a_client_before_its_bytes_where_that_is_wanted() {
    let (listener, addr) = listen().await;
    let mut fixture = Fixture::new(&[addr]).await;
    assert_eq!(heard(&listener, &fixture).await.1, b"hello");
    let vip = fixture.addr;
    fixture
        .apply(|s| s.proxy_header = Some(ProxyHeader::V1))
        .await;
    let (client, all) = heard(&listener, &fixture).await;
    let (from, to, from_port, to_port) = (client.ip(), vip.ip(), client.port(), vip.port());
    let expected = format!("PROXY TCP4 {from} {to} {from_port} {to_port}\r\nhello");
    assert_eq!(String::from_utf8_lossy(&all), expected);
    fixture
        .apply(|s| s.proxy_header = Some(ProxyHeader::V2))
        .await;
    let (client, all) = heard(&listener, &fixture).await;
    let header = ProxyHeader::V2.encode([client, vip]);
    assert_eq!(all, [header, b"hello".to_vec()].concat());
    let sent = 5 + expected.len() + all.len();
    assert_eq!(fixture.proxy.stats().servers[0].bytes_sent, sent as u64);
}

#[tokio::test]
async fn the_header_comes_before_tls_to_the_server() {
    /// A handshake record (RFC 8446 section 5.1).
    const HANDSHAKE: u8 = 22;
    let (listener, addr) = listen().await;
    let mut fixture = Fixture::new(&[addr]).await;
    fixture
        .apply(|s| {
            s.proxy_header = Some(ProxyHeader::V1);
            pool(s).back.tls = Some(ServerTlsSpec::default());
        })
        .await;
    let client = fixture.connect().await;
    let (mut server, _) = listener.accept().await.expect("accepted");
    let client = client.local_addr().expect("addr");
    let mut expected = ProxyHeader::V1.encode([client, fixture.addr]);
    expected.push(HANDSHAKE);
    let mut heard = vec![0; expected.len()];
    let read = tokio::time::timeout(DEADLINE, server.read_exact(&mut heard));
    read.await.expect("in time").expect("read");
    assert_eq!(heard, expected);
}

#[tokio::test]
async fn new_settings_are_for_the_next_connections_of_the_same_listener() {
    let mut fixture = Fixture::new(&[echo().await]).await;
    let mut before = fixture.connect().await;
    echoed(&mut before).await;
    let statuses = fixture
        .apply(|s| {
            s.tcp.segment_max = Some(700);
            s.weight = Weight::nearest(7);
        })
        .await;
    assert_eq!(statuses[0].error, None);
    let mut after = fixture.connect().await;
    let segment = socket2::SockRef::from(&after).tcp_mss().expect("asked");
    assert!(segment <= 700, "{segment}");
    echoed(&mut after).await;
    echoed(&mut before).await;
    let service = fixture.proxy.inner.shared.get("vs").expect("there");
    assert_eq!(service.weight().get(), 7);
}

/// A server that sends as much as is taken.
async fn source() -> SocketAddr {
    let (listener, addr) = listen().await;
    std::thread::spawn(move || {
        let listener = listener.into_std().expect("std");
        listener.set_nonblocking(false).expect("blocks");
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let bytes = vec![0; 256 * 1024];
                while io::Write::write_all(&mut stream, &bytes).is_ok() {}
            });
        }
    });
    addr
}

/// Takes all that comes, until the test ends, and says how much.
fn drain(addr: SocketAddr, taken: std::sync::mpsc::Sender<u64>) {
    std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(addr).expect("connects");
        let mut bytes = vec![0; 1024 * 1024];
        while let Ok(n @ 1..) = io::Read::read(&mut stream, &mut bytes) {
            taken.send(n as u64).ok();
        }
    });
}

#[tokio::test]
async fn a_busy_thread_is_shared_by_weight() {
    const ENOUGH: u64 = 400 << 20;
    let proxy = Proxy::start(ProxyConfig {
        workers: 1,
        ..ProxyConfig::default()
    });
    let proxy = proxy.expect("starts");
    let base = Fixture::new(&[source().await]).await.spec;
    let service = |uuid: &str, weight| VirtualServiceSpec {
        uuid: uuid.into(),
        listen: vec![free_address()],
        weight: Weight::nearest(weight),
        ..base.clone()
    };
    let both = [service("light", 1), service("heavy", 8)];
    proxy.apply(both.to_vec()).await;
    let (drained, taken) = std::sync::mpsc::channel();
    for vs in both.iter().cycle().take(8) {
        drain(vs.listen[0], drained.clone());
    }
    let mut all = 0;
    while all < ENOUGH {
        all += taken.recv_timeout(DEADLINE).expect("in time");
    }
    let bytes = || {
        let stats = proxy.stats().virtual_services;
        let of = |uuid: &str| {
            stats
                .iter()
                .find(|s| s.uuid == uuid)
                .map_or(0, |s| s.bytes_out)
        };
        (of("light"), of("heavy"))
    };
    let (light, heavy) = bytes();
    assert!(heavy > 3 * light, "{light} and {heavy}");
}
