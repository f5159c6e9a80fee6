//! UDP over loopback, with real sockets. Nothing here waits for a fixed time.

use super::*;
use crate::shared::Shared;
use crate::tests::free_address;
use crate::{
    Algorithm, BackSpec, FrontSpec, HashKey, ListenerStatus, PoolGroupSpec, PoolSpec, Proxy,
    ProxyConfig, ProxyHandle, ServerSpec, Source, TcpSpec, UdpSpec, UdpStats, VirtualServiceSpec,
    VsStats, Weight,
};
use std::collections::BTreeSet;
use std::net::UdpSocket as Blocking;
use std::sync::Mutex;
use tokio::task::{LocalSet, spawn_local};

const DEADLINE: Duration = Duration::from_secs(20);
/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3600);

fn udp_spec(listen: SocketAddr) -> UdpSpec {
    UdpSpec {
        listen: vec![listen],
        idle_timeout: NEVER,
        flows_max: 1000,
    }
}

fn pool(spec: &mut VirtualServiceSpec) -> &mut PoolSpec {
    &mut spec.group.members[0].pool
}

fn spec(listen: SocketAddr, servers: &[SocketAddr]) -> VirtualServiceSpec {
    let server = |addr: &SocketAddr| ServerSpec {
        addr: *addr,
        enabled: true,
        cut_after: None,
        up: true,
        ratio: 1,
        max_connections: 0,
    };
    VirtualServiceSpec {
        uuid: "vs".into(),
        name: "vs".into(),
        listen: Vec::new(),
        udp: Some(udp_spec(listen)),
        keeps_idle: false,
        accept: true,
        idle_timeout: None,
        group: PoolGroupSpec::from(PoolSpec {
            uuid: "p".into(),
            algorithm: Algorithm::RoundRobin,
            servers: servers.iter().map(server).collect(),
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
    }
}

/// A proxy with one virtual service on a free port.
struct Fixture {
    proxy: ProxyHandle,
    addr: SocketAddr,
    spec: VirtualServiceSpec,
}

impl Fixture {
    async fn new(servers: &[SocketAddr]) -> Self {
        let config = ProxyConfig {
            workers: 3,
            ..ProxyConfig::default()
        };
        let addr = free_address();
        let mut fixture = Self {
            proxy: Proxy::start(config).expect("starts"),
            addr,
            spec: spec(addr, servers),
        };
        assert_eq!(fixture.apply(|_| {}).await[0].error, None);
        fixture
    }

    async fn apply(&mut self, change: impl FnOnce(&mut VirtualServiceSpec)) -> Vec<ListenerStatus> {
        change(&mut self.spec);
        self.proxy.apply(vec![self.spec.clone()]).await
    }

    async fn change_udp(&mut self, change: impl FnOnce(&mut UdpSpec)) {
        self.apply(|s| change(s.udp.as_mut().expect("there"))).await;
    }

    /// A client with a port of its own.
    async fn client(&self) -> UdpSocket {
        let client = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
        client.connect(self.addr).await.expect("connects");
        client
    }

    fn vs(&self) -> VsStats {
        self.proxy.stats().virtual_services[0].clone()
    }

    fn udp(&self) -> UdpStats {
        self.vs().udp
    }

    async fn wait(&self, what: &str, condition: impl Fn(VsStats) -> bool) {
        wait_until(what, || condition(self.vs())).await;
    }
}

async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::task::yield_now().await;
    }
}

/// A server that answers with its word and what it was sent; ends with the runtime.
struct Server {
    addr: SocketAddr,
    peers: Arc<Mutex<BTreeSet<SocketAddr>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn says(word: &'static str) -> Self {
        let addr = free_address();
        let socket = UdpSocket::bind(addr).await.expect("bind");
        let peers = Arc::<Mutex<BTreeSet<SocketAddr>>>::default();
        let seen = peers.clone();
        let task = tokio::spawn(async move {
            let mut bytes = vec![0; 65_535];
            while let Ok((len, peer)) = socket.recv_from(&mut bytes).await {
                seen.lock().expect("not poisoned").insert(peer);
                let answer = [word.as_bytes(), &bytes[..len]].concat();
                socket.send_to(&answer, peer).await.ok();
            }
        });
        Self { addr, peers, task }
    }

    fn peers(&self) -> usize {
        self.peers.lock().expect("not poisoned").len()
    }

    /// Its port is gone when this returns.
    async fn stop(self) {
        self.task.abort();
        self.task.await.expect_err("aborted");
    }
}

async fn receive(client: &UdpSocket) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 65_535];
    let received = tokio::time::timeout(DEADLINE, client.recv(&mut bytes));
    let len = received.await.expect("an answer in time")?;
    bytes.truncate(len);
    Ok(bytes)
}

async fn ask(client: &UdpSocket, bytes: &[u8]) -> Vec<u8> {
    client.send(bytes).await.expect("sent");
    receive(client).await.expect("received")
}

/// A datagram may be lost while a server is left; clients of UDP send again.
async fn ask_until(client: &UdpSocket, answer: &[u8]) {
    let end = Instant::now() + DEADLINE;
    let mut bytes = vec![0; 65_535];
    loop {
        assert!(Instant::now() < end, "never answered");
        client.send(b"x").await.ok();
        let received = client.recv(&mut bytes);
        let received = tokio::time::timeout(Duration::from_millis(50), received).await;
        if let Ok(Ok(len)) = received
            && bytes[..len] == *answer
        {
            return;
        }
    }
}

#[tokio::test]
async fn a_flow_comes_back_from_the_vip_and_is_counted() {
    let server = Server::says("").await;
    let fixture = Fixture::new(&[server.addr]).await;
    // It is connected: what comes from elsewhere does not reach it.
    let client = fixture.client().await;
    let sizes = [0, 1, 1400, 9000, 60_000];
    for len in sizes {
        let bytes = vec![7; len];
        assert_eq!(ask(&client, &bytes).await, bytes, "{len}");
    }
    let all = sizes.iter().sum::<usize>() as u64;
    fixture
        .wait("all is counted", |vs| vs.bytes_out == all)
        .await;
    let vs = fixture.vs();
    assert_eq!((vs.open, vs.total, vs.bytes_in), (1, 1, all));
    assert!(vs.oldest.is_some());
    assert_eq!((vs.udp.flows, vs.udp.dropped), (1, 0));
    assert_eq!(server.peers(), 1);
    let counted = fixture.proxy.stats().servers.remove(0);
    assert_eq!((counted.bytes_sent, counted.bytes_received), (all, all));
}

#[tokio::test]
async fn each_client_has_one_flow_and_one_server_whatever_worker_it_meets() {
    const ROUNDS: usize = 20;
    const CLIENTS: usize = 20;
    const ALL: usize = ROUNDS * CLIENTS;
    let servers = [Server::says("a").await, Server::says("b").await];
    let fixture = Fixture::new(&[servers[0].addr, servers[1].addr]).await;
    // All keep their ports, so that each is a client of its own.
    let mut all = Vec::new();
    for _ in 0..ROUNDS {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(fixture.client().await);
        }
        // Without waiting for an answer: some find the sockets of others between bind and connect.
        for client in clients.iter().cycle().take(5 * CLIENTS) {
            client.send(b"").await.expect("sent");
        }
        for client in &clients {
            let first = receive(client).await.expect("received");
            for _ in 1..5 {
                assert_eq!(receive(client).await.expect("received"), first);
            }
        }
        all.extend(clients);
    }
    assert_eq!(servers.each_ref().map(Server::peers), [ALL / 2; 2]);
    let vs = fixture.vs();
    assert_eq!((vs.total, vs.udp.flows), (ALL as u64, ALL as u64));
}

#[tokio::test]
async fn what_another_clients_socket_has_taken_is_dispatched_again() {
    let server = Server::says("").await;
    let vip = free_address();
    let shared = Shared::default();
    shared.set(&spec(vip, &[server.addr]));
    let service = shared.get("vs").expect("set");
    let client = || async {
        let client = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
        client.connect(vip).await.expect("connects");
        client
    };
    let story = async {
        let flows = Rc::new(Flows::new(0, Homes::new(1).0));
        let (a, b) = (client().await, client().await);
        let socket = bind(vip).expect("bound");
        b.send(b"b").await.expect("sent");
        a.send(b"a").await.expect("sent");
        let both = (vip, a.local_addr().expect("addr"));
        let flow = Flow::begin(&flows, &service, both, || Ok(socket)).expect("begins");
        let flow = Rc::new(flow);
        flows.live.borrow_mut().insert(both, Rc::downgrade(&flow));
        drop(spawn_local(flow.run()));
        for (client, word) in [(&a, b"a"), (&b, b"b")] {
            assert_eq!(receive(client).await.expect("received"), word);
            assert_eq!(ask(client, b"again").await, b"again");
        }
    };
    LocalSet::new().run_until(story).await;
    let udp = &service.counters.udp;
    assert_eq!(udp.dispatched_again.load(Relaxed), 1);
    assert_eq!(server.peers(), 2, "one flow each");
}

#[tokio::test]
async fn a_flow_ends_when_it_is_idle_and_one_in_use_does_not() {
    let server = Server::says("").await;
    let mut fixture = Fixture::new(&[server.addr]).await;
    let short = Duration::from_millis(300);
    fixture.change_udp(|udp| udp.idle_timeout = short).await;
    let (idle, used) = (fixture.client().await, fixture.client().await);
    ask(&idle, b"x").await;
    let end = Instant::now() + DEADLINE;
    while fixture.udp().flows != 1 || fixture.vs().total != 2 {
        assert!(Instant::now() < end, "{:?}", fixture.vs());
        ask(&used, b"x").await;
    }
    assert_eq!(server.peers(), 2, "the one in use is still the same");
    fixture.wait("the other ends, too", |vs| vs.open == 0).await;
}

#[tokio::test]
async fn a_server_that_refuses_is_left_for_another_one() {
    let (a, b) = (Server::says("a").await, Server::says("b").await);
    let fixture = Fixture::new(&[a.addr, b.addr]).await;
    let client = fixture.client().await;
    assert_eq!(ask(&client, b"").await, b"a");
    a.stop().await;
    ask_until(&client, b"bx").await;
    let vs = fixture.vs();
    assert_eq!((vs.total, vs.udp.moved), (1, 1));
}

#[tokio::test]
async fn a_server_that_goes_down_is_left_and_one_that_takes_no_more_is_not() {
    let (a, b) = (Server::says("a").await, Server::says("b").await);
    let mut fixture = Fixture::new(&[a.addr, b.addr]).await;
    let client = fixture.client().await;
    assert_eq!(ask(&client, b"").await, b"a");
    fixture.apply(|s| pool(s).servers[0].enabled = false).await;
    assert_eq!(ask(&client, b"").await, b"a", "it keeps its flows");
    assert_eq!(ask(&fixture.client().await, b"").await, b"b");
    fixture.apply(|s| pool(s).servers[0].up = false).await;
    assert_eq!(ask(&client, b"").await, b"b");
    fixture.apply(|s| pool(s).servers[1].up = false).await;
    assert_eq!(ask(&client, b"").await, b"b", "none is better");
    assert_eq!(fixture.udp().moved, 1);
}

#[tokio::test]
async fn a_flow_keeps_its_server_in_a_pool_of_ratio_0_and_leaves_it_when_it_goes_down() {
    let (a, b) = (Server::says("a").await, Server::says("b").await);
    let mut fixture = Fixture::new(&[a.addr]).await;
    let client = fixture.client().await;
    assert_eq!(ask(&client, b"").await, b"a");
    let mut other = fixture.spec.group.members[0].clone();
    other.pool.uuid = "q".into();
    other.pool.servers[0].addr = b.addr;
    fixture
        .apply(|s| {
            s.group.members[0].ratio = 0;
            s.group.members.insert(0, other);
        })
        .await;
    assert_eq!(ask(&client, b"").await, b"a", "it takes nothing new only");
    assert_eq!(ask(&fixture.client().await, b"").await, b"b");
    assert_eq!(fixture.udp().moved, 0);
    fixture
        .apply(|s| s.group.members[1].pool.servers[0].up = false)
        .await;
    assert_eq!(ask(&client, b"").await, b"b");
    assert_eq!(fixture.udp().moved, 1);
}

#[tokio::test]
async fn further_flows_are_refused_and_counted_until_there_is_room() {
    let server = Server::says("").await;
    let mut fixture = Fixture::new(&[server.addr]).await;
    fixture.change_udp(|udp| udp.flows_max = 2).await;
    let clients = [fixture.client().await, fixture.client().await];
    for client in &clients {
        ask(client, b"x").await;
    }
    let late = fixture.client().await;
    late.send(b"x").await.expect("sent");
    fixture.wait("it is refused", |vs| vs.udp.full == 1).await;
    assert_eq!((fixture.udp().flows, fixture.vs().refused), (2, 0));
    for client in &clients {
        ask(client, b"y").await;
    }
    fixture.proxy.cut("vs");
    fixture.wait("they are cut", |vs| vs.open == 0).await;
    assert_eq!(ask(&late, b"z").await, b"z");
}

#[tokio::test]
async fn without_a_server_a_flow_is_refused_and_counted() {
    let mut fixture = Fixture::new(&[free_address()]).await;
    fixture.apply(|s| pool(s).servers[0].up = false).await;
    fixture.client().await.send(b"x").await.expect("sent");
    fixture.wait("it is refused", |vs| vs.refused == 1).await;
    assert_eq!(fixture.vs().open, 0);
}

#[tokio::test]
async fn a_flow_whose_only_server_refuses_ends() {
    let gone = free_address();
    let fixture = Fixture::new(&[gone]).await;
    let client = fixture.client().await;
    client.send(b"x").await.expect("sent");
    fixture
        .wait("it ends", |vs| vs.total == 1 && vs.open == 0)
        .await;
}

#[tokio::test]
async fn a_client_whose_port_is_gone_ends_its_flow() {
    let server = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    let fixture = Fixture::new(&[server.local_addr().expect("addr")]).await;
    let client = fixture.client().await;
    client.send(b"x").await.expect("sent");
    let (_, peer) = server.recv_from(&mut [0; 8]).await.expect("received");
    drop(client);
    server.send_to(b"y", peer).await.expect("sent");
    fixture.wait("it ends", |vs| vs.open == 0).await;
}

#[tokio::test]
async fn a_port_that_does_not_accept_is_unreachable_and_running_flows_go_on() {
    let server = Server::says("").await;
    let mut fixture = Fixture::new(&[server.addr]).await;
    let client = fixture.client().await;
    ask(&client, b"x").await;
    assert_eq!(fixture.apply(|s| s.accept = false).await, []);
    let late = fixture.client().await;
    late.send(b"x").await.expect("sent");
    let error = receive(&late).await.expect_err("unreachable");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(ask(&client, b"y").await, b"y");
    assert_eq!(fixture.apply(|s| s.accept = true).await[0].error, None);
    assert_eq!(ask(&client, b"z").await, b"z");
    assert_eq!(ask(&late, b"z").await, b"z");
    assert_eq!(server.peers(), 2, "the first has its old flow");
}

#[tokio::test]
async fn tcp_and_udp_share_a_port() {
    let server = Server::says("").await;
    let mut fixture = Fixture::new(&[server.addr]).await;
    let addr = fixture.addr;
    let statuses = fixture.apply(|s| s.listen.push(addr)).await;
    let seen: Vec<_> = statuses.iter().map(|s| (s.protocol, &s.error)).collect();
    use crate::Protocol::{Tcp, Udp};
    assert_eq!(seen, [(Tcp, &None), (Udp, &None)]);
    assert!(takes_tcp(addr).await);
    assert_eq!(ask(&fixture.client().await, b"x").await, b"x");
    fixture.apply(|s| s.udp = None).await;
    assert!(takes_tcp(addr).await);
}

/// Whether somebody listens: the server has UDP only, so that a connection may be reset as soon as it is there.
async fn takes_tcp(addr: SocketAddr) -> bool {
    match tokio::net::TcpStream::connect(addr).await {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_reported_and_tried_again() {
    let server = Server::says("").await;
    let taken = Blocking::bind("127.0.0.1:0").expect("bind");
    let addr = taken.local_addr().expect("addr");
    let mut fixture = Fixture::new(&[server.addr]).await;
    fixture.change_udp(|udp| udp.listen.push(addr)).await;
    let error = |statuses: Vec<ListenerStatus>| {
        let status = statuses.into_iter().find(|s| s.addr == addr);
        status.and_then(|s| s.error)
    };
    let statuses = fixture.apply(|_| {}).await;
    assert!(error(statuses).is_some());
    drop(taken);
    assert_eq!(error(fixture.apply(|_| {}).await), None);
}

#[tokio::test]
async fn closing_everything_ends_flows() {
    let server = Server::says("").await;
    let fixture = Fixture::new(&[server.addr]).await;
    let client = fixture.client().await;
    ask(&client, b"x").await;
    fixture.proxy.close_all().await;
    assert_eq!(fixture.udp().flows, 0);
    client.send(b"x").await.expect("sent");
    assert!(receive(&client).await.is_err());
}

/// Of every worker, both transports.
#[tokio::test]
async fn open_flows_are_listed_with_their_servers_and_bytes_as_far_as_they_are_wanted() {
    use crate::Protocol::{Tcp, Udp};
    let server = Server::says("yes ").await;
    let tcp = tokio::net::TcpListener::bind(server.addr)
        .await
        .expect("listens");
    let mut fixture = Fixture::new(&[server.addr]).await;
    let addr = fixture.addr;
    fixture.apply(|s| s.listen.push(addr)).await;
    let (one, other) = (fixture.client().await, fixture.client().await);
    for client in [&one, &other] {
        assert_eq!(ask(client, b"x").await, b"yes x");
    }
    let connection = tokio::net::TcpStream::connect(addr)
        .await
        .expect("connects");
    let _accepted = tcp.accept().await.expect("the proxy has connected");

    let all = fixture.proxy.flows(Arc::new(|_, _, _, _| true), 10).await;
    let count = |protocol| all.flows.iter().filter(|f| f.protocol == protocol).count();
    assert_eq!((all.matched, count(Udp), count(Tcp)), (3, 2, 1));
    let client = connection.local_addr().expect("addr");
    assert!(
        all.flows
            .iter()
            .any(|f| f.protocol == Tcp && f.client == client)
    );

    let wanted = one.local_addr().expect("addr");
    let fits = move |_: &str, protocol, client, _| (protocol, client) == (Udp, wanted);
    let [flow] = &fixture.proxy.flows(Arc::new(fits), 10).await.flows[..] else {
        panic!("one flow")
    };
    assert_eq!((flow.vip, flow.server), (addr, Some(server.addr)));
    assert_eq!(
        (flow.bytes_in, flow.bytes_out, flow.vs_uuid.as_str()),
        (1, 5, "vs")
    );

    let some = fixture.proxy.flows(Arc::new(|_, _, _, _| true), 1).await;
    assert_eq!((some.matched, some.flows.len()), (3, 1));
}

#[tokio::test]
async fn flows_of_one_address_have_one_server_by_consistent_hash() {
    let servers = [says_who().await, says_who().await, says_who().await];
    let mut fixture = Fixture::new(&servers).await;
    let by =
        |key| move |s: &mut VirtualServiceSpec| pool(s).algorithm = Algorithm::ConsistentHash(key);
    fixture.apply(by(HashKey::Address)).await;
    let mut seen = BTreeSet::new();
    for _ in 0..8 {
        let client = fixture.client().await;
        seen.insert(ask(&client, b"who").await);
    }
    assert_eq!(seen.len(), 1);
    fixture.apply(by(HashKey::AddressAndPort)).await;
    let mut clients = Vec::new();
    while seen.len() < 3 {
        let client = fixture.client().await;
        seen.insert(ask(&client, b"who").await);
        clients.push(client);
    }
}

/// A server that answers with its own address.
async fn says_who() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    let addr = socket.local_addr().expect("addr");
    tokio::spawn(async move {
        let mut bytes = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut bytes).await {
            socket.send_to(addr.to_string().as_bytes(), peer).await.ok();
        }
    });
    addr
}

#[tokio::test]
async fn flows_of_a_server_out_of_use_go_on_until_they_are_cut() {
    let servers = [says_who().await, says_who().await];
    let mut fixture = Fixture::new(&servers).await;
    let client = fixture.client().await;
    let first = ask(&client, b"who").await;
    let at = servers
        .iter()
        .position(|s| s.to_string().as_bytes() == first);
    let at = at.expect("one of them");
    fixture.apply(|s| pool(s).servers[at].enabled = false).await;
    assert_eq!(ask(&client, b"who").await, first);
    fixture
        .apply(|s| pool(s).servers[at].cut_after = Some(Duration::ZERO))
        .await;
    wait_until("the flow has ended", || fixture.vs().udp.flows == 0).await;
    let other = servers[1 - at].to_string();
    assert_eq!(ask(&client, b"who").await, other.as_bytes(), "a new flow");
}

#[tokio::test]
async fn with_the_service_port_a_flow_keeps_the_port_that_the_client_used() {
    let wanted = says_who().await;
    let unused = SocketAddr::new(wanted.ip(), 9);
    let mut fixture = Fixture::new(&[unused]).await;
    let vip = SocketAddr::new(fixture.addr.ip(), wanted.port());
    fixture
        .apply(|s| {
            s.udp = Some(udp_spec(vip));
            pool(s).use_service_port = true;
        })
        .await;
    let client = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    client.connect(vip).await.expect("connects");
    assert_eq!(ask(&client, b"who").await, wanted.to_string().as_bytes());
    // The flow knows its server again after a change of the pool.
    fixture.apply(|s| pool(s).servers[0].ratio = 2).await;
    assert_eq!(ask(&client, b"who").await, wanted.to_string().as_bytes());
    assert_eq!(fixture.vs().udp.moved, 0);
}

#[tokio::test]
async fn a_server_sees_the_vip_where_it_is_the_source() {
    let server = Server::says("").await;
    let mut fixture = Fixture::new(&[server.addr]).await;
    let vip = fixture.addr.ip();
    let from_vip = || {
        let peers = server.peers.lock().expect("not poisoned");
        peers.iter().any(|peer| peer.ip() == vip)
    };
    ask(&fixture.client().await, b"x").await;
    assert!(!from_vip(), "the kernel's choice");
    fixture.apply(|s| s.source = Source::Vip).await;
    ask(&fixture.client().await, b"x").await;
    assert!(from_vip());
}
