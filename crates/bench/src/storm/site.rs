//! Where a storm happens.
//!
//! ```text
//!   clients, 3 addresses each ── router, FRR ── switch ── se 1 … se N, each with its controller and servers
//!                                                  └── forger
//! ```

use super::client::{self, Client};
use super::flood::{self, Flood};
use crate::fib::{Fib, wait_for};
use crate::member::Status;
use crate::net::{Network, engine_address, run};
use crate::router::{self, Router};
use crate::speaker::{Block, Group, Kind, Speaker, Spec};
use anyhow::{Context, Result};
use dataplane::steering::Steering;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

pub(crate) const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 1), 80);

/// Of BFD, times three.
const BFD_MS: u64 = 100;

/// New flows per second, of all clients together: less than two cores can bear with everything else on them.
const SET_UP_PER_S: usize = 2500;

/// Where the router looks for the VIP once the flows shall move, before its own table.
const TABLE: &str = "100";

/// What a storm consists of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) flows: usize,
    pub(crate) engines: usize,
    pub(crate) clients: usize,
}

/// Dropped from the top: first what runs, last where it runs.
pub(crate) struct Site {
    flows: usize,
    clients: Vec<Client>,
    pub(crate) engines: Vec<Engine>,
    fib: Fib,
    _router: Router,
    network: Network,
}

pub(crate) struct Engine {
    pub(crate) speaker: Speaker,
    /// For its counters.
    pub(crate) steering: Steering,
}

impl Site {
    /// Every engine announces the VIP, and no flow is there yet.
    pub(crate) fn build(size: Size, timestamps: bool) -> Result<Self> {
        let mut network = Network::new(size.engines)?;
        wire(&mut network, size, timestamps)?;
        let router = Router::start(router::Kind::Frr, &network, Some(BFD_MS))?;
        let fib = Fib::watch(&network.router())?;
        let mut engines = Vec::new();
        for engine in 1..=size.engines {
            engines.push(start_engine(&network, engine, size)?);
        }
        for engine in &mut engines {
            engine.speaker.await_ready(Some(BFD_MS))?;
        }
        fib.await_state(Block::one(*VIP.ip()), size.engines)?;
        Ok(Self {
            flows: size.flows,
            clients: Vec::new(),
            engines,
            fib,
            _router: router,
            network,
        })
    }

    /// Sets up all flows.
    pub(crate) fn connect(&mut self, size: Size) -> Result<Duration> {
        let (start, namespace) = (Instant::now(), self.network.namespace("cl"));
        for number in 0..size.clients {
            let args = client::Args {
                vip: VIP,
                number,
                flows: size.flows / size.clients,
                per_second: SET_UP_PER_S / size.clients,
            };
            self.clients.push(Client::start(&namespace, &args)?);
        }
        for client in &mut self.clients {
            client.await_ready()?;
        }
        Ok(start.elapsed())
    }

    /// All of them, once they are set up.
    pub(crate) fn flows(&self) -> usize {
        self.flows
    }

    /// From now on every packet goes to the engine after the one that got it before: the same next hops, in the same
    /// buckets, one on.
    pub(crate) fn rehash(&self) -> Result<()> {
        let (router, vip) = (self.network.router(), VIP.ip().to_string());
        let mut hops = next_hops(&router, &vip)?;
        hops.rotate_left(1);
        let mut route = vec!["ip", "-n", &router, "route", "add", &vip, "table", TABLE];
        for hop in &hops {
            route.extend(["nexthop", "via", hop.as_str(), "weight", "1"]);
        }
        run(&route)?;
        run(&[
            "ip", "-n", &router, "rule", "add", "to", &vip, "lookup", TABLE, "pref", "100",
        ])
        .map(drop)
    }

    pub(crate) fn mark(&mut self) -> Result<()> {
        self.clients.iter_mut().try_for_each(Client::mark)
    }

    /// What all clients have seen.
    pub(crate) fn seen(
        &mut self,
        ask: fn(&mut Client) -> Result<client::Seen>,
    ) -> Result<client::Seen> {
        let mut all = client::Seen::default();
        for client in &mut self.clients {
            all.add(ask(client)?);
        }
        Ok(all)
    }

    /// Messages of the router's kernel about the VIP's route since the last look.
    pub(crate) fn route_changes(&self) -> usize {
        self.fib.changes(*VIP.ip())
    }

    /// Of every engine, as a report says that is younger than this call.
    pub(crate) fn statuses(&mut self) -> Result<Vec<Status>> {
        let mut before = Vec::new();
        for engine in &mut self.engines {
            before.push(engine.speaker.status()?.report);
        }
        let engines = self.engines.iter_mut().zip(before);
        engines
            .map(|(engine, before)| younger(&mut engine.speaker, before))
            .collect()
    }

    /// Forged packets straight to the first engine.
    pub(crate) fn forge(&self, per_second: u32, seconds: u32) -> Result<Flood> {
        let args = flood::Args {
            vip: VIP,
            per_second,
            seconds,
        };
        Flood::start(&self.network.namespace("at"), &args)
    }

    /// Segments that the clients have sent again.
    pub(crate) fn retransmissions(&self) -> Result<u64> {
        let namespace = self.network.namespace("cl");
        let text = run(&["ip", "netns", "exec", &namespace, "cat", "/proc/net/snmp"])?;
        let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
        let (names, values) = lines.next().zip(lines.next()).context("two lines of TCP")?;
        let mut pairs = names.split_whitespace().zip(values.split_whitespace());
        let (_, value) = pairs
            .find(|(name, _)| *name == "RetransSegs")
            .context("RetransSegs")?;
        value.parse().context("RetransSegs")
    }
}

fn younger(speaker: &mut Speaker, report: u64) -> Result<Status> {
    let mut status: Option<Status> = None;
    wait_for("a report of an engine", || {
        let now = status.insert(speaker.status()?);
        Ok(now.report > report)
    })?;
    status.context("a status")
}

/// Clients and forger, and who routes where.
fn wire(network: &mut Network, size: Size, timestamps: bool) -> Result<()> {
    network.add_namespace("cl")?;
    network.add_namespace("at")?;
    network.attach("at", "pat", "10.10.200.1/16")?;
    link_clients(network, size.clients)?;
    routes(network, size.engines)?;
    // Policy 3: by the packet's own addresses and ports, whatever hash its sender's socket has.
    let (router, client) = (network.router(), network.namespace("cl"));
    set(&router, "net.ipv4.ip_forward", "1")?;
    set(&router, "net.ipv4.fib_multipath_hash_policy", "3")?;
    set(&router, "net.ipv4.fib_multipath_hash_fields", "0x37")?;
    let on = if timestamps { "1" } else { "0" };
    set(&client, "net.ipv4.tcp_timestamps", on)
}

/// Clients have the router on a link of their own.
fn link_clients(network: &Network, clients: usize) -> Result<()> {
    let (router, client) = (network.router(), network.namespace("cl"));
    run(&[
        "ip", "-n", &client, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1",
        "netns", &router,
    ])?;
    let add = |namespace: &str, address: &str, device: &str| {
        run(&[
            "ip", "-n", namespace, "address", "add", address, "dev", device,
        ])?;
        run(&["ip", "-n", namespace, "link", "set", device, "up"]).map(drop)
    };
    add(&router, "10.20.0.1/16", "eth1")?;
    let mut addresses = (0..clients).flat_map(client::addresses);
    addresses.try_for_each(|address| add(&client, &format!("{address}/16"), "eth0"))
}

fn routes(network: &Network, engines: usize) -> Result<()> {
    let add = |name: &str, to: &str, via: &str| {
        let namespace = network.namespace(name);
        run(&["ip", "-n", &namespace, "route", "add", to, "via", via]).map(drop)
    };
    add("cl", "default", "10.20.0.1")?;
    add("at", &VIP.ip().to_string(), &engine_address(1))?;
    (1..=engines).try_for_each(|engine| add(&format!("se{engine}"), "default", "10.10.0.1"))
}

fn set(namespace: &str, name: &str, value: &str) -> Result<()> {
    let setting = format!("{name}={value}");
    run(&["ip", "netns", "exec", namespace, "sysctl", "-qw", &setting]).map(drop)
}

fn start_engine(network: &Network, engine: usize, size: Size) -> Result<Engine> {
    let group = Group {
        members: size.engines,
    };
    let spec = Spec {
        engine,
        bfd: Some(BFD_MS),
        vips: &[Block::one(*VIP.ip())],
        at_once: true,
        group: Some(group),
    };
    // First: the engine adopts the maps that are there. Both at once would make them twice.
    let steering = Steering::open(&network.pins(engine))?;
    let speaker = Speaker::start(Kind::Engine, network, spec)?;
    Ok(Engine { speaker, steering })
}

/// Gateways of the route, in the order of their buckets.
fn next_hops(router: &str, vip: &str) -> Result<Vec<String>> {
    let shown = run(&["ip", "-n", router, "-j", "route", "show", vip])?;
    let routes: Vec<serde_json::Value> = serde_json::from_str(&shown)?;
    let hops = routes
        .first()
        .and_then(|route| route["nexthops"].as_array());
    let hops = hops.context("the VIP has one next hop")?;
    let gateway = |hop: &serde_json::Value| Some(hop["gateway"].as_str()?.to_owned());
    hops.iter()
        .map(|hop| gateway(hop).context("a next hop without a gateway"))
        .collect()
}
