//! The nodes that hold the VIP: our engines, or HAProxy with BIRD, which announces the VIP.
//!
//! Each node is told what an operator would have it do. An engine joins once the others know it, and one that leaves
//! keeps its flows while new ones go elsewhere. HAProxy's BIRD announces or withdraws the VIP; HAProxy goes on running.

use super::scene::{PORT, VIP};
use crate::control::SERVER_PORT;
use crate::fib::wait_for;
use crate::net::{Network, SERVERS, file, run};
use crate::placement::{Other, Placement};
use crate::speaker::{Block, Kind, Speaker, Spec};
use anyhow::{Context, Result};
use dataplane::steering::Steering;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddrV4;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Of HAProxy; several times more than a node gets, and it needs twice as many file descriptors.
const CONNECTIONS_MAX: usize = 4_000;

/// What an operator sets where a host holds an address that others hold too.
const SHARED_ADDRESS: [&str; 2] = [
    "net.ipv4.conf.all.arp_ignore=1",
    "net.ipv4.conf.all.arp_announce=2",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    Evenkeel,
    Haproxy,
}

impl System {
    pub(crate) const BOTH: [Self; 2] = [Self::Evenkeel, Self::Haproxy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Evenkeel => "Evenkeel",
            Self::Haproxy => "HAProxy + ECMP",
        }
    }
}

/// Nodes by number, all of them ready; which of them hold the VIP is told later.
pub(crate) struct Pool {
    system: System,
    nodes: BTreeMap<usize, Node>,
    /// Engines that hold the VIP, and whether they take new flows.
    members: BTreeMap<usize, bool>,
    /// Of the membership.
    generation: u64,
}

impl Pool {
    pub(crate) fn start(system: System, network: &Network, count: usize) -> Result<Self> {
        let mut nodes = BTreeMap::new();
        for number in 1..=count {
            nodes.insert(number, Node::start(system, network, number)?);
        }
        for node in nodes.values_mut() {
            node.speaker.await_ready(None)?;
        }
        Ok(Self {
            system,
            nodes,
            members: BTreeMap::new(),
            generation: 0,
        })
    }

    /// These are the first.
    pub(crate) fn begin(&mut self, numbers: impl Iterator<Item = usize>) -> Result<()> {
        match self.system {
            System::Evenkeel => {
                self.members.extend(numbers.map(|number| (number, true)));
                self.tell_all(None)
            }
            System::Haproxy => {
                for number in numbers {
                    self.join(number)?;
                }
                Ok(())
            }
        }
    }

    pub(crate) fn join(&mut self, number: usize) -> Result<()> {
        match self.system {
            System::Evenkeel => {
                self.members.insert(number, true);
                self.tell_all(Some(number))?;
                self.tell(number, false)
            }
            System::Haproxy => self.node(number).speaker.announce(Block::one(VIP)),
        }
    }

    pub(crate) fn leave(&mut self, number: usize) -> Result<()> {
        match self.system {
            System::Evenkeel => {
                self.members.insert(number, false);
                self.tell_all(None)
            }
            System::Haproxy => self.node(number).speaker.withdraw(Block::one(VIP)),
        }
    }

    /// Every process of the node at once; the rest hear of it from the router alone.
    pub(crate) fn kill(&mut self, number: usize) -> Result<()> {
        let node = self.node(number);
        if let Some(haproxy) = &node.haproxy {
            haproxy.signal(Signal::SIGKILL)?;
        }
        node.speaker.signal(Signal::SIGKILL)
    }

    /// The client's ports of the flows whose connection a node holds.
    pub(crate) fn flows_at(&self, network: &Network, number: usize) -> Result<BTreeSet<u16>> {
        let namespace = network.namespace(&format!("se{number}"));
        let sport = format!(":{PORT}");
        let shown = run(&[
            "ss",
            "-N",
            &namespace,
            "-H",
            "-t",
            "-n",
            "state",
            "established",
            "sport",
            "=",
            &sport,
        ])?;
        Ok(client_ports(&shown))
    }

    /// Packets by what the programs of all engines have done with them.
    pub(crate) fn verdicts(&self) -> Result<BTreeMap<&'static str, u64>> {
        let mut sum = BTreeMap::new();
        for steering in self.nodes.values().filter_map(|n| n.steering.as_ref()) {
            for (verdict, packets) in steering.counters()?.verdicts {
                *sum.entry(verdict).or_default() += packets;
            }
        }
        Ok(sum)
    }

    fn node(&mut self, number: usize) -> &mut Node {
        self.nodes.get_mut(&number).expect("all nodes were started")
    }

    /// The membership anew, until each engine has acknowledged it; one may be held back.
    fn tell_all(&mut self, held: Option<usize>) -> Result<()> {
        self.generation += 1;
        let numbers: Vec<usize> = self.members.keys().copied().collect();
        for number in &numbers {
            self.tell(*number, held == Some(*number))?;
        }
        for number in numbers {
            self.node(number).speaker.await_in_force()?;
        }
        Ok(())
    }

    fn tell(&mut self, number: usize, hold: bool) -> Result<()> {
        let others = self.members.iter().filter(|(other, _)| **other != number);
        let other = |(engine, takes_new): (&usize, &bool)| Other {
            engine: *engine,
            takes_new: *takes_new,
        };
        let placement = Placement {
            vip: VIP,
            servers: servers(),
            generation: self.generation,
            hold,
            lingers: !self.members[&number],
            others: others.map(other).collect(),
        };
        self.node(number).speaker.place(&placement)
    }
}

fn servers() -> Vec<SocketAddrV4> {
    let server = |address| SocketAddrV4::new(address, SERVER_PORT);
    SERVERS.map(server).into()
}

/// From lines of `ss`: `0 0 10.99.0.1:80 10.20.0.2:40001`.
fn client_ports(shown: &str) -> BTreeSet<u16> {
    let peer = |line: &str| {
        line.split_whitespace()
            .nth(3)?
            .rsplit_once(':')?
            .1
            .parse()
            .ok()
    };
    shown.lines().filter_map(peer).collect()
}

struct Node {
    /// BIRD or the engine.
    speaker: Speaker,
    haproxy: Option<Daemon>,
    /// The engine's, for its counters.
    steering: Option<Steering>,
}

impl Node {
    fn start(system: System, network: &Network, number: usize) -> Result<Self> {
        let (kind, haproxy, steering) = match system {
            // Before the engine, which adopts the maps that are there: both at once would make them twice.
            System::Evenkeel => {
                let steering = Steering::open(&network.pins(number))?;
                (Kind::Engine, None, Some(steering))
            }
            System::Haproxy => (Kind::Bird, Some(start_haproxy(network, number)?), None),
        };
        let spec = Spec {
            engine: number,
            bfd: None,
            vips: &[Block::one(VIP)],
            at_once: false,
        };
        let speaker = Speaker::start(kind, network, spec)?;
        Ok(Self {
            speaker,
            haproxy,
            steering,
        })
    }
}

fn start_haproxy(network: &Network, number: usize) -> Result<Daemon> {
    let name = format!("se{number}");
    network.add_address(&name, "lo", &format!("{VIP}/32"))?;
    for setting in SHARED_ADDRESS {
        network.set(&name, setting)?;
    }
    let folder = network.folder(&name)?;
    let config = file(&folder, "haproxy.cfg");
    fs::write(&config, haproxy_config())?;
    let (namespace, log) = (network.namespace(&name), folder.join("haproxy.log"));
    let words = ["/usr/sbin/haproxy", "-db", "-f", &config];
    let haproxy = Daemon::start(&namespace, &words, &log)?;
    let said = || format!("HAProxy: {}", fs::read_to_string(&log).unwrap_or_default());
    await_listener(&namespace, &format!("{VIP}:{PORT}")).with_context(said)?;
    Ok(haproxy)
}

/// Timeouts that break no flow by themselves.
fn haproxy_config() -> String {
    let mut config = format!(
        "global
    nbthread 1
    maxconn {CONNECTIONS_MAX}

defaults
    mode tcp
    maxconn {CONNECTIONS_MAX}
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h

listen vip
    bind {VIP}:{PORT} backlog {CONNECTIONS_MAX}
    balance leastconn
"
    );
    for server in servers() {
        config += &format!("    server {} {server} check inter 2s\n", server.ip());
    }
    config
}

/// Until something in the namespace listens there.
pub(crate) fn await_listener(namespace: &str, address: &str) -> Result<()> {
    wait_for(&format!("a listener at {address}"), || {
        Ok(run(&["ss", "-N", namespace, "-H", "-l", "-t", "-n"])?.contains(address))
    })
}

/// A process in a namespace; killed when it is dropped.
pub(crate) struct Daemon(Child);

impl Daemon {
    /// What it says on standard error is written to the log.
    pub(crate) fn start(namespace: &str, words: &[&str], log: &Path) -> Result<Self> {
        let log = fs::File::create(log)?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).args(words);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = command.spawn().context("start ip netns exec")?;
        Ok(Self(child))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.0.id()).context("a pid")?;
        kill(Pid::from_raw(pid), signal).context("signal a process")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_those_of_the_clients() {
        let shown =
            "0      0      10.99.0.1:80 10.20.0.2:40001\n0 12 10.99.0.1:80  10.20.0.2:40002 \n\n";
        assert_eq!(client_ports(shown), BTreeSet::from([40001, 40002]));
    }

    #[test]
    fn haproxy_has_every_server_and_patience() {
        let config = haproxy_config();
        assert!(config.contains("    server 10.10.100.2 10.10.100.2:8080 check"));
        assert!(config.contains("timeout client 1h") && config.contains("nbthread 1"));
    }
}
