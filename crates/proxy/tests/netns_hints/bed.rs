//! A proxy with one virtual service before an echo server, and clients that check what comes back.

use crate::net::Net;
use evenkeel_proxy::{
    Algorithm, BackSpec, FrontSpec, HintRenewal, HintSpec, HintStats, ListenerStatus,
    PoolGroupSpec, PoolSpec, Proxy, ProxyConfig, ProxyHandle, ServerSpec, Source, TcpSpec,
    VirtualServiceSpec, Weight,
};
use flow::mark::HintKey;
use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// For everything that is waited for; a stall lasts longer.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// The engine's member id.
pub const MEMBER: u8 = 42;
/// The one that it gets later.
pub const NEXT_MEMBER: u8 = 7;
/// Of the group.
pub const KEY: HintKey = HintKey([0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210]);

/// The virtual service.
pub fn service(vip: IpAddr) -> SocketAddr {
    SocketAddr::new(vip, 7777)
}

/// Its setting.
pub fn hint(member: u8) -> HintSpec {
    HintSpec { member, key: KEY }
}

/// Runs a test on this thread.
pub fn block_on<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(test)
}

/// The engine's side.
pub struct Bed<'a> {
    net: Option<&'a Net>,
    proxy: ProxyHandle,
    spec: RefCell<VirtualServiceSpec>,
}

impl<'a> Bed<'a> {
    /// Serves the VIP, without hints, in the namespace of the calling thread. Without `net` clients are there too.
    pub async fn new(
        net: Option<&'a Net>,
        vip: IpAddr,
        workers: usize,
        renewal: HintRenewal,
    ) -> Self {
        let config = ProxyConfig {
            workers,
            hint_renewal: renewal,
        };
        let bed = Self {
            net,
            proxy: Proxy::start(config).expect("starts"),
            spec: RefCell::new(spec(service(vip), echo())),
        };
        bed.apply(|_| {}).await;
        bed
    }

    /// Changes the virtual service; every listener must open.
    pub async fn apply(&self, change: impl FnOnce(&mut VirtualServiceSpec)) {
        change(&mut self.spec.borrow_mut());
        let spec = self.spec.borrow().clone();
        let failed = |status: &ListenerStatus| status.error.is_some();
        let statuses = self.proxy.apply(vec![spec]).await;
        assert!(!statuses.iter().any(failed), "{statuses:?}");
    }

    pub fn hints(&self) -> HintStats {
        self.proxy.stats().virtual_services[0].hints
    }

    /// Waits until the counters say so.
    pub async fn wait(&self, what: &str, condition: impl Fn(HintStats) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !condition(self.hints()) {
            assert!(
                Instant::now() < end,
                "not in time: {what}: {:?}",
                self.hints()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Connections of clients.
    pub fn connect(&self, count: usize) -> Vec<TcpStream> {
        let address = self.spec.borrow().listen[0];
        let connect = || -> Vec<_> {
            let streams =
                (0..count).map(|_| std::net::TcpStream::connect_timeout(&address, DEADLINE));
            streams.collect()
        };
        let streams = self.net.map_or_else(connect, |net| net.at_clients(connect));
        let streams = streams.into_iter().map(|stream| {
            let stream = stream.expect("connected");
            stream.set_nonblocking(true).expect("non-blocking");
            stream.set_nodelay(true).expect("no delay");
            TcpStream::from_std(stream).expect("a stream")
        });
        streams.collect()
    }
}

fn spec(listen: SocketAddr, server: SocketAddr) -> VirtualServiceSpec {
    VirtualServiceSpec {
        uuid: "vs".into(),
        name: "vs".into(),
        listen: vec![listen],
        udp: None,
        accept: true,
        idle_timeout: None,
        keeps_idle: false,
        group: PoolGroupSpec::from(PoolSpec {
            uuid: "p".into(),
            algorithm: Algorithm::RoundRobin,
            servers: vec![ServerSpec {
                addr: server,
                enabled: true,
                cut_after: None,
                up: true,
                ratio: 1,
                max_connections: 0,
            }],
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

/// A server that sends back what it gets.
fn echo() -> SocketAddr {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("bind");
    // All clients connect before it gets to accept: with a shorter queue SYNs would be lost.
    let listener = socket.listen(1024).expect("listens");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await.ok();
            });
        }
    });
    address
}

/// All of them at once: `times` exchanges one after the other, each of `len` bytes there and back.
pub async fn exchange(clients: &mut Vec<TcpStream>, times: usize, len: usize) {
    let mut tasks = JoinSet::new();
    for (number, mut client) in clients.drain(..).enumerate() {
        tasks.spawn(async move {
            for turn in 0..times {
                let seed = number * 31 + turn;
                let once = tokio::time::timeout(DEADLINE, there_and_back(&mut client, seed, len));
                once.await
                    .unwrap_or_else(|_| panic!("client {number} stalls in turn {turn}"));
            }
            client
        });
    }
    clients.extend(tasks.join_all().await);
}

async fn there_and_back(client: &mut TcpStream, seed: usize, len: usize) {
    let payload: Vec<u8> = (0..len).map(|n| ((n + seed) % 251) as u8).collect();
    let mut back = vec![0; len];
    let (mut read, mut write) = client.split();
    let (written, got) = tokio::join!(write.write_all(&payload), read.read_exact(&mut back));
    written.expect("written");
    got.expect("read");
    assert!(back == payload, "what comes back differs");
}

/// Whether this thread has CAP_NET_ADMIN.
pub fn has_net_admin() -> bool {
    const NET_ADMIN: u32 = 12;
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("status");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = u64::from_str_radix(effective.expect("capabilities").trim(), 16);
    effective.expect("a number") >> NET_ADMIN & 1 == 1
}

/// Runs a test of this binary again in a process that lacks it; gives what it has printed.
pub fn again_without_net_admin(test: &str) -> String {
    let this = std::env::current_exe().expect("a path");
    let output = Command::new("setpriv")
        .args(["--bounding-set", "-net_admin"])
        .arg(this)
        .args(["--exact", test, "--nocapture"])
        .output();
    let output = output.expect("setpriv (util-linux) runs");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
    text
}
