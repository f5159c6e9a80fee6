//! Flows that have not moved: the same connections do the same work with the program at the uplink and without, in turns.
//!
//! ```text
//!   client ── switch ── engine's uplink, the program │ the product's proxy ── server, on the engine's lo
//! ```
//! No engine runs: it would attach the program again. The proxy is the engine's own, the maps are filled as an engine fills
//! them. Client, proxy and server are threads of this process, each in its namespace, and so is nearly all that the
//! kernel does for their packets: it happens in the thread that sends, and what does not in the kernel's own threads for
//! it. So the time is that of this process and of those, whatever else the machine does.

use super::Args;
use crate::fib::wait_for;
use crate::net::{Network, engine_address, within};
use crate::report::{Bar, Reading};
use anyhow::{Context, Result, ensure};
use aya::programs::tc::{SchedClassifier, TcAttachType};
use dataplane::steering::{Counters, Steering};
use flow::config::{Answers, MessageKey};
use flow::key::Protocol;
use flow::mark::HintKey;
use flow::verdict::Verdict;
use flow::{Config, Group, Link, Member, Peer, Service, Settings};
use nix::net::if_::if_nametoindex;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use nix::unistd::Pid;
use proxy::{
    Algorithm, BackSpec, FrontSpec, PoolGroupSpec, PoolSpec, Proxy, ProxyConfig, ServerSpec,
    Source, TcpSpec, VirtualServiceSpec, Weight,
};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 1), 80);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8080);
/// Of the group; we are the first.
const MEMBERS: u8 = 4;

const UPLINK: &str = "eth0";

const CLIENTS: usize = 16;
const FIRST_CPU: usize = 0;
const REQUEST_LEN: usize = 100;
const CHUNK_LEN: usize = 64 << 10;
const GB: f64 = 1e9;
/// A short run does this part of the work.
const SHORT_PART: usize = 5;
const SHORT_PAIRS: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Small messages, each after the answer to the one before; so many of each client.
    Requests(usize),
    /// As much as goes through, and back; so many bytes of each client.
    Bulk(usize),
}

impl Work {
    fn both(short: bool) -> [Self; 2] {
        let part = if short { SHORT_PART } else { 1 };
        [Self::Requests(2_500 / part), Self::Bulk((32 << 20) / part)]
    }

    fn word(self) -> &'static str {
        match self {
            Self::Requests(_) => "requests",
            Self::Bulk(_) => "bulk",
        }
    }

    /// What a figure is per, its factor to seconds, and how many of it there are in one measurement.
    fn unit(self) -> (&'static str, f64, f64) {
        match self {
            Self::Requests(count) => ("us per request", 1e6, (CLIENTS * count) as f64),
            Self::Bulk(bytes) => ("s per GB", 1.0, (2 * CLIENTS * bytes) as f64 / GB),
        }
    }

    /// Packets that come to the engine, at least: coalesced ones have less than 64 KiB.
    fn packets_min(self) -> u64 {
        let packets = match self {
            Self::Requests(count) => CLIENTS * count,
            Self::Bulk(bytes) => CLIENTS * bytes / (64 << 10),
        };
        packets as u64
    }

    /// The ratio that the lower bound may have.
    fn bar(self) -> f64 {
        match self {
            Self::Requests(_) => 1.03,
            Self::Bulk(_) => 1.05,
        }
    }
}

pub(super) fn run(args: Args) -> Result<Vec<Reading>> {
    let pairs = if args.short { SHORT_PAIRS } else { args.pairs };
    let mut site = Site::build()?;
    let mut rows = Vec::new();
    for work in Work::both(args.short) {
        cli::note!("local traffic, {}: {pairs} pairs", work.word());
        site.measure(work, true)?;
        let mut cpu = [Vec::new(), Vec::new()];
        for pair in 0..pairs {
            for index in crate::bgp::turns(pair) {
                cpu[index].push(site.measure(work, index == 0)?);
            }
        }
        rows.extend(judged(work, cpu));
    }
    Ok(rows)
}

fn judged(work: Work, [with, without]: [Vec<f64>; 2]) -> Vec<Reading> {
    let mut ratios: Vec<f64> = with.iter().zip(&without).map(|(a, b)| a / b).collect();
    ratios.sort_by(f64::total_cmp);
    let (low, high) = interval(&ratios);
    let ratios = ratios.iter().map(|ratio| ratio * 100.0).collect();
    let (unit, ..) = work.unit();
    let bound = Bar::max(work.bar() * 100.0);
    let rows = [
        ("CPU with steering", unit, with, Bar::NONE),
        ("CPU without", unit, without, Bar::NONE),
        ("ratio", "%", ratios, Bar::NONE),
        ("ratio, lower bound of 95 %", "%", vec![low * 100.0], bound),
        (
            "ratio, upper bound of 95 %",
            "%",
            vec![high * 100.0],
            Bar::NONE,
        ),
    ];
    let name = |what| format!("local traffic, {}: {what}", work.word());
    let row = |(what, unit, samples, bar)| Reading::new(name(what), unit, samples, bar);
    rows.into_iter().map(row).collect()
}

/// Between which of the sorted values the median of all that could be measured lies, in 19 of 20 cases: by order
/// statistics, where each value is above or below it like a coin (the 6th and 15th of 20).
fn interval(sorted: &[f64]) -> (f64, f64) {
    let n = sorted.len() as f64;
    let skip = ((n - 1.96 * n.sqrt()) / 2.0).floor().max(0.0) as usize;
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    (at(skip), at(sorted.len().saturating_sub(skip + 1)))
}

/// Dropped from the top: first what runs, last where it runs.
struct Site {
    clients: Vec<TcpStream>,
    steering: Steering,
    _proxied: Proxied,
    network: Network,
}

impl Site {
    fn build() -> Result<Self> {
        let network = Network::new(1)?;
        network.add_address("se1", "lo", &format!("{}/32", VIP.ip()))?;
        network.add_route("rt", &VIP.ip().to_string(), &engine_address(1))?;
        let engine = network.namespace("se1");
        let proxied = Proxied::start(&engine)?;
        let mut steering = Steering::open(&network.pins(1))?;
        let ifindex = within(&engine, || Ok(if_nametoindex(UPLINK)?))?;
        steering.apply(&config(ifindex)?)?;
        // The same connections to the end: another one might be another thread's.
        let clients = within(&network.router(), connect)?;
        Ok(Self {
            clients,
            steering,
            _proxied: proxied,
            network,
        })
    }

    /// CPU time of one unit of work.
    fn measure(&mut self, work: Work, steered: bool) -> Result<f64> {
        self.steer(steered)?;
        let (counted, before) = (self.steering.counters()?, cpu_s()?);
        self.work(work)?;
        let used = cpu_s()? - before;
        check(work, steered, &counted, &self.steering.counters()?)?;
        let (_, factor, count) = work.unit();
        Ok(used * factor / count)
    }

    /// Attaches the program to the uplink, or takes it away; the kernel removes a link some time after its pin.
    fn steer(&mut self, on: bool) -> Result<()> {
        let steering = &mut self.steering;
        let interface = on.then_some(UPLINK);
        within(&self.network.namespace("se1"), move || {
            if let Some((_, error)) = steering.attach(interface).failed.into_iter().next() {
                return Err(error.into());
            }
            wait_for("the program to be at the uplink, or gone", || {
                let (_, there) = SchedClassifier::query_tcx(UPLINK, TcAttachType::Ingress)?;
                Ok(there.is_empty() != on)
            })
        })
    }

    fn work(&self, work: Work) -> Result<()> {
        thread::scope(|scope| {
            let client = |stream| scope.spawn(move || client(stream, work));
            let clients: Vec<_> = self.clients.iter().map(client).collect();
            for client in clients {
                client.join().ok().context("a client has ended")??;
            }
            Ok(())
        })
    }
}

/// The program has found all packets to be of connections here, or has seen none.
fn check(work: Work, steered: bool, before: &Counters, after: &Counters) -> Result<()> {
    let mut more = after.verdicts.clone();
    for (verdict, packets) in &before.verdicts {
        *more.entry(verdict).or_default() -= packets;
    }
    more.retain(|_, packets| *packets > 0);
    let local = Verdict::LocalSocket.code();
    let right = match more.get(local) {
        Some(packets) => steered && more.len() == 1 && *packets >= work.packets_min(),
        None => !steered && more.is_empty(),
    };
    ensure!(
        right,
        "not what was asked for: the program was {} and counted {more:?}",
        if steered { "attached" } else { "detached" }
    );
    Ok(())
}

/// Processor time of this process and of the kernel's threads for packets that no other thread could take.
fn cpu_s() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let ours = usage.user_time() + usage.system_time();
    Ok(ours.num_microseconds() as f64 / 1e6 + softirq_threads_s()?)
}

fn softirq_threads_s() -> Result<f64> {
    let mut sum = 0.0;
    for entry in fs::read_dir("/proc")?.flatten() {
        let folder = entry.path();
        // Processes end while we look.
        let Ok(name) = fs::read_to_string(folder.join("comm")) else {
            continue;
        };
        if name.starts_with("ksoftirqd/") {
            let times = fs::read_to_string(folder.join("schedstat"))?;
            let first = times.split_whitespace().next().context("a time")?;
            sum += first.parse::<f64>()? / 1e9;
        }
    }
    Ok(sum)
}

/// As an engine of a small group is told.
fn config(ifindex: u32) -> Result<Config> {
    let others = || 1..MEMBERS;
    let address = |id: u8| engine_address(usize::from(id) + 1).parse::<IpAddr>();
    let mut peers = Vec::new();
    for id in others() {
        peers.push(peer(id, address(0)?, address(id)?, ifindex));
    }
    let member = |(peer, id)| Member {
        id,
        peer,
        takes_new: true,
    };
    let group = Group {
        vsvip_uuid: "vsvip-1".into(),
        generation: 1,
        us: 0,
        drains: false,
        spread: None,
        answers: Answers::default(),
        members: others().enumerate().map(member).collect(),
    };
    Ok(Config {
        services: vec![steered()],
        groups: vec![group],
        peers,
        addresses: vec![address(0)?],
        settings: settings(),
    })
}

fn steered() -> Service {
    Service {
        address: VIP.into(),
        protocol: Protocol::Tcp,
        group: 0,
        hints: true,
        probes: true,
        udp_ask_until: None,
    }
}

fn peer(id: u8, local: IpAddr, remote: IpAddr, ifindex: u32) -> Peer {
    Peer {
        se_uuid: format!("se-{id}"),
        name: format!("se-{id}"),
        addresses: vec![remote],
        links: vec![Link {
            local,
            remote,
            ifindex,
            next_hop: Some(remote),
        }],
        alive: true,
    }
}

fn settings() -> Settings {
    Settings {
        message_keys: vec![MessageKey {
            id: 1,
            secret: [1, 2],
        }],
        hint_key: HintKey([3, 4]),
        ..Settings::default()
    }
}

/// The proxy and the server behind it, with a thread that owns them; gone when it is dropped.
struct Proxied {
    until: Option<Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Proxied {
    fn start(namespace: &str) -> Result<Self> {
        let (until, ends) = channel();
        let (ready, is_ready) = channel();
        let namespace = namespace.to_owned();
        let thread = thread::spawn(move || within(&namespace, move || serve(&ready, &ends)));
        let mut proxied = Self {
            until: Some(until),
            thread: Some(thread),
        };
        // The sender is dropped when it fails.
        if is_ready.recv().is_err() {
            proxied.end()?;
        }
        Ok(proxied)
    }

    fn end(&mut self) -> Result<()> {
        drop(self.until.take());
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        thread.join().ok().context("the proxy's thread panicked")?
    }
}

impl Drop for Proxied {
    fn drop(&mut self) {
        // What it has served is measured; nothing hangs on how it ends.
        let _ = self.end();
    }
}

/// Server and clients have the first processor, the proxy the last.
fn serve(ready: &Sender<()>, ends: &Receiver<()>) -> Result<()> {
    let server = TcpListener::bind(SERVER)?;
    let last_cpu = thread::available_parallelism()?.get() - 1;
    stay_on(FIRST_CPU)?;
    // Ends when every client has come.
    thread::spawn(move || server.incoming().take(CLIENTS).flatten().for_each(answer));
    stay_on(last_cpu)?;
    let proxy = Proxy::start(ProxyConfig {
        workers: 1,
        ..ProxyConfig::default()
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let listeners = runtime.block_on(proxy.apply(vec![service()]));
    let error = listeners.into_iter().find_map(|listener| listener.error);
    ensure!(error.is_none(), "the proxy cannot listen: {error:?}");
    ready.send(())?;
    // An error is the end: the other side is dropped.
    let _ = ends.recv();
    Ok(())
}

fn service() -> VirtualServiceSpec {
    let server = ServerSpec {
        addr: SERVER.into(),
        enabled: true,
        cut_after: None,
        up: true,
        ratio: 1,
        max_connections: 0,
    };
    VirtualServiceSpec {
        uuid: "virtualservice-1".into(),
        name: "price".into(),
        listen: vec![VIP.into()],
        udp: None,
        accept: true,
        idle_timeout: None,
        keeps_idle: false,
        group: PoolGroupSpec::from(PoolSpec {
            uuid: "pool-1".into(),
            algorithm: Algorithm::RoundRobin,
            servers: vec![server],
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

/// What it hears it says back; the thread ends with the connection.
fn answer(mut stream: TcpStream) {
    thread::spawn(move || -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut chunk = vec![0; CHUNK_LEN];
        loop {
            let length = stream.read(&mut chunk)?;
            if length == 0 {
                return Ok(());
            }
            stream.write_all(&chunk[..length])?;
        }
    });
}

/// This thread, and those that it starts from now on.
fn stay_on(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("cannot stay on one processor")
}

fn connect() -> Result<Vec<TcpStream>> {
    let one = |_| -> Result<TcpStream> {
        let stream = TcpStream::connect(VIP)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    (0..CLIENTS).map(one).collect()
}

fn client(stream: &TcpStream, work: Work) -> Result<()> {
    stay_on(FIRST_CPU)?;
    match work {
        Work::Requests(count) => requests(stream, count),
        Work::Bulk(bytes) => bulk(stream, bytes),
    }
}

fn requests(mut stream: &TcpStream, count: usize) -> Result<()> {
    let request = [7; REQUEST_LEN];
    let mut answer = [0; REQUEST_LEN];
    for _ in 0..count {
        stream.write_all(&request)?;
        stream.read_exact(&mut answer)?;
    }
    Ok(())
}

fn bulk(stream: &TcpStream, bytes: usize) -> Result<()> {
    thread::scope(|scope| {
        let sender = scope.spawn(move || send(stream, bytes));
        let (mut reader, mut chunk, mut left) = (stream, vec![0; CHUNK_LEN], bytes);
        while left > 0 {
            let most = left.min(CHUNK_LEN);
            let length = reader.read(&mut chunk[..most])?;
            ensure!(length > 0, "the proxy has closed");
            left -= length;
        }
        sender.join().ok().context("the sender has ended")??;
        Ok(())
    })
}

fn send(mut stream: &TcpStream, bytes: usize) -> std::io::Result<()> {
    let chunk = vec![7; CHUNK_LEN];
    let mut left = bytes;
    while left > 0 {
        let most = left.min(CHUNK_LEN);
        stream.write_all(&chunk[..most])?;
        left -= most;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report;

    #[test]
    fn the_interval_of_twenty_is_from_the_sixth_to_the_fifteenth() {
        let sorted: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!(interval(&sorted), (6.0, 15.0));
        assert_eq!(interval(&sorted[..2]), (1.0, 2.0));
    }

    #[test]
    fn the_lower_bound_is_what_must_hold() {
        let judged = |with: f64| {
            let rows = judged(Work::Requests(1), [vec![with; 20], vec![1.0; 20]]);
            report::judge(&rows, false)
        };
        assert!(judged(1.02).is_ok());
        let missed = judged(1.04).unwrap_err().to_string();
        assert!(missed.contains("requests: ratio, lower bound"), "{missed}");
    }
}
