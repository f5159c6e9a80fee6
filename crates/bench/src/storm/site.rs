//! Where a storm happens.
//!
//! ```text
//!   clients, 3 addresses each ── router, FRR ── switch ── se 1 … se N, each with its controller and servers
//!                                                  └── forger
//! ```

use super::client::{self, Client};
use super::flood::{self, Flood};
use crate::control::SERVER_PORT;
use crate::fib::{Fib, wait_for};
use crate::member::Status;
use crate::net::{Network, engine_address, run};
use crate::placement::Placement;
use crate::router::{self, Router};
use crate::speaker::{Block, Kind, Speaker, Spec};
use anyhow::{Context, Result};
use dataplane::steering::Steering;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

pub(crate) const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 1), 80);

/// Of BFD, times three.
const BFD_MS: u64 = 100;

/// New flows per second, of all clients together: less than two cores can bear with everything else on them.
const SET_UP_PER_S: usize = 2500;

/// Where the engines look for the server beside them: several addresses, so that there are source ports for many
/// connections.
const SERVERS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(127, 0, 0, 1),
    Ipv4Addr::new(127, 0, 0, 2),
    Ipv4Addr::new(127, 0, 0, 3),
    Ipv4Addr::new(127, 0, 0, 4),
];

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
        let network = wire(size, timestamps)?;
        let router = Router::start(router::Kind::Frr, &network, Some(BFD_MS))?;
        let fib = Fib::watch(&network.router())?;
        let mut engines = Vec::new();
        for engine in 1..=size.engines {
            engines.push(start_engine(&network, engine, size)?);
        }
        for engine in &mut engines {
            engine.speaker.await_ready(Some(BFD_MS))?;
            engine.speaker.await_in_force()?;
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
        self.network.tcp_counter("cl", "RetransSegs")
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
fn wire(size: Size, timestamps: bool) -> Result<Network> {
    let mut network = Network::with_clients(size.engines)?;
    let mut addresses = (0..size.clients).flat_map(client::addresses);
    addresses.try_for_each(|a| network.add_address("cl", "eth0", &format!("{a}/16")))?;
    network.add_route("cl", "default", "10.20.0.1")?;
    network.add_namespace("at")?;
    network.attach("at", "pat", "10.10.200.1/16")?;
    network.add_route("at", &VIP.ip().to_string(), &engine_address(1))?;
    let on = u8::from(timestamps);
    network.set("cl", &format!("net.ipv4.tcp_timestamps={on}"))?;
    Ok(network)
}

fn start_engine(network: &Network, engine: usize, size: Size) -> Result<Engine> {
    let vip = *VIP.ip();
    let spec = Spec {
        engine,
        bfd: Some(BFD_MS),
        vips: &[Block::one(vip)],
        at_once: false,
    };
    // First: the engine adopts the maps that are there. Both at once would make them twice.
    let steering = Steering::open(&network.pins(engine))?;
    let mut speaker = Speaker::start(Kind::Engine, network, spec)?;
    let servers = SERVERS.map(|address| SocketAddrV4::new(address, SERVER_PORT));
    speaker.place(&Placement::among(size.engines, engine, vip, servers.into()))?;
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
