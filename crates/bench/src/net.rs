//! The network of a measurement: a router, a switch in a namespace of its own, and service engines behind it.
//!
//! ```text
//!   router 10.10.0.1/16 ── switch ── se 1 10.10.0.11, se 2 10.10.0.12, …
//! ```
//!
//! [`Network::with_clients`] puts clients behind the router, [`Network::with_traffic`] servers on the switch too.

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

/// Where a client's connections come from.
const CLIENT: &str = "10.20.0.2/16";

/// Of the servers; all in one namespace.
pub(crate) const SERVERS: [Ipv4Addr; 2] =
    [Ipv4Addr::new(10, 10, 100, 1), Ipv4Addr::new(10, 10, 100, 2)];

/// Hash policy 3 with these fields (addresses, protocol, ports) is the 5-tuple. Policy 1 would take the hash of the
/// sending socket where a packet comes by veth, which a retransmission timeout changes: no router sees that one.
const FORWARDING: [&str; 3] = [
    "net.ipv4.ip_forward=1",
    "net.ipv4.fib_multipath_hash_policy=3",
    "net.ipv4.fib_multipath_hash_fields=0x37",
];

/// Gone when it is dropped, with everything that runs in it.
pub(crate) struct Network {
    prefix: String,
    namespaces: Vec<String>,
    dir: tempfile::TempDir,
}

/// Where engines pin, below the network's folder.
const PINS: &str = "bpf";

/// Runs a command; an error holds what it said.
pub(crate) fn run(command: &[&str]) -> Result<String> {
    let output = Command::new(command[0])
        .args(&command[1..])
        .output()
        .with_context(|| format!("start {}", command[0]))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", command.join(" "), error.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Network {
    pub(crate) fn new(engines: usize) -> Result<Self> {
        let prefix = format!("ekm{}", std::process::id());
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir()?;
        run(&["chmod", "755", &dir.path().display().to_string()])?;
        mount_bpf(&dir.path().join(PINS))?;
        let mut network = Self {
            prefix,
            namespaces: Vec::new(),
            dir,
        };
        network.add_namespace("rt")?;
        network.add_namespace("sw")?;
        network.switch()?;
        network.attach("rt", "p0", "10.10.0.1/16")?;
        for number in 1..=engines {
            let name = format!("se{number}");
            network.add_namespace(&name)?;
            network.attach(
                &name,
                &format!("p{number}"),
                &format!("{}/16", engine_address(number)),
            )?;
        }
        Ok(network)
    }

    /// The router forwards, by the 5-tuple, between the engines and the node `cl`, where clients are; it has a link of
    /// its own, with no address yet.
    pub(crate) fn with_clients(engines: usize) -> Result<Self> {
        let mut network = Self::new(engines)?;
        for setting in FORWARDING {
            network.set("rt", setting)?;
        }
        for number in 1..=engines {
            network.add_route(&format!("se{number}"), "default", "10.10.0.1")?;
        }
        network.add_namespace("cl")?;
        let (client, router) = (network.namespace("cl"), network.router());
        run(&[
            "ip", "-n", &client, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1",
            "netns", &router,
        ])?;
        run(&["ip", "-n", &client, "link", "set", "eth0", "up"])?;
        run(&["ip", "-n", &router, "link", "set", "eth1", "up"])?;
        network.add_address("rt", "eth1", "10.20.0.1/16")?;
        Ok(network)
    }

    /// One client, and servers that the engines reach directly.
    pub(crate) fn with_traffic(engines: usize) -> Result<Self> {
        let mut network = Self::with_clients(engines)?;
        network.add_address("cl", "eth0", CLIENT)?;
        network.add_route("cl", "default", "10.20.0.1")?;
        network.add_namespace("sv")?;
        network.attach("sv", "ps", &format!("{}/16", SERVERS[0]))?;
        network.add_address("sv", "eth0", &format!("{}/16", SERVERS[1]))?;
        Ok(network)
    }

    /// A route of a node by a gateway.
    pub(crate) fn add_route(&self, name: &str, to: &str, via: &str) -> Result<()> {
        let namespace = self.namespace(name);
        run(&["ip", "-n", &namespace, "route", "add", to, "via", via]).map(drop)
    }

    /// An address more on an interface of a node.
    pub(crate) fn add_address(&self, name: &str, interface: &str, address: &str) -> Result<()> {
        let namespace = self.namespace(name);
        run(&[
            "ip", "-n", &namespace, "address", "add", address, "dev", interface,
        ])
        .map(drop)
    }

    /// Sets `NAME=VALUE` of sysctl in a node.
    pub(crate) fn set(&self, name: &str, setting: &str) -> Result<()> {
        let namespace = self.namespace(name);
        run(&["ip", "netns", "exec", &namespace, "sysctl", "-qw", setting]).map(drop)
    }

    /// A counter of TCP of a node, as /proc/net/snmp names it.
    pub(crate) fn tcp_counter(&self, name: &str, counter: &str) -> Result<u64> {
        let namespace = self.namespace(name);
        let text = run(&["ip", "netns", "exec", &namespace, "cat", "/proc/net/snmp"])?;
        let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
        let (names, values) = lines.next().zip(lines.next()).context("two lines of TCP")?;
        let mut pairs = names.split_whitespace().zip(values.split_whitespace());
        let (_, value) = pairs
            .find(|(name, _)| *name == counter)
            .with_context(|| format!("{counter} in /proc/net/snmp"))?;
        value.parse().context("a counter of TCP")
    }

    /// With nothing in it but `lo`.
    pub(crate) fn add_namespace(&mut self, name: &str) -> Result<()> {
        let namespace = self.namespace(name);
        run(&["ip", "netns", "add", &namespace])?;
        self.namespaces.push(namespace.clone());
        run(&["ip", "-n", &namespace, "link", "set", "lo", "up"]).map(drop)
    }

    fn switch(&self) -> Result<()> {
        let switch = self.namespace("sw");
        run(&["ip", "-n", &switch, "link", "add", "br0", "type", "bridge"])?;
        run(&["ip", "-n", &switch, "link", "set", "br0", "up"]).map(drop)
    }

    /// Gives a namespace `eth0` at the switch's port.
    pub(crate) fn attach(&self, name: &str, port: &str, address: &str) -> Result<()> {
        let (node, switch) = (self.namespace(name), self.namespace("sw"));
        run(&[
            "ip", "-n", &node, "link", "add", "eth0", "type", "veth", "peer", "name", port,
            "netns", &switch,
        ])?;
        run(&[
            "ip", "-n", &switch, "link", "set", port, "master", "br0", "up",
        ])?;
        self.add_address(name, "eth0", address)?;
        run(&["ip", "-n", &node, "link", "set", "eth0", "up"]).map(drop)
    }

    pub(crate) fn namespace(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(crate) fn router(&self) -> String {
        self.namespace("rt")
    }

    /// Where an engine pins its steering programs. It stays when the engine ends, as on a host: on a file system of the
    /// engine's own, which `ip netns exec` would make it, the end of the process would have to wait for their removal.
    pub(crate) fn pins(&self, engine: usize) -> PathBuf {
        self.dir.path().join(PINS).join(format!("se{engine}"))
    }

    /// A folder of the measurement; daemons of other users may enter it.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// The switch's port to an engine, up or down; neither the router nor its link notices.
    pub(crate) fn port(&self, engine: usize, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        run(&[
            "ip",
            "-n",
            &self.namespace("sw"),
            "link",
            "set",
            &format!("p{engine}"),
            state,
        ])
        .map(drop)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            // What is gone already needs no removal.
            let _ = run(&["ip", "netns", "del", namespace]);
        }
        // Programs and maps go with it.
        let _ = umount2(&self.dir.path().join(PINS), MntFlags::MNT_DETACH);
    }
}

/// Does it on a thread of its own, which is in that namespace and never leaves it.
pub(crate) fn within<T: Send>(
    namespace: &str,
    act: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let handle = File::open(format!("/run/netns/{namespace}"))
        .with_context(|| format!("open namespace {namespace}"))?;
    let entered = move || {
        setns(handle, CloneFlags::CLONE_NEWNET).context("enter a namespace; this needs root")?;
        act()
    };
    let done = thread::scope(|scope| scope.spawn(entered).join());
    done.ok().context("a thread in a namespace has panicked")?
}

fn mount_bpf(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let mode = Some("mode=0700");
    mount(Some("bpf"), dir, Some("bpf"), MsFlags::empty(), mode).context("mount a BPF file system")
}

/// From 10.10.0.11 on.
pub(crate) fn engine_address(number: usize) -> String {
    let last = number + 10;
    format!("10.10.{}.{}", last / 250, last % 250)
}

/// The name of a file in a folder, as text.
pub(crate) fn file(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}
