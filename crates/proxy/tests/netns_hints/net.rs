//! Two namespaces without names, joined by a veth: they go with the last thread and socket in them.

use nix::sched::{CloneFlags, setns, unshare};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::process::Command;

/// The engine's address, which is the VIP.
pub const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
/// The other family's.
pub const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1));

/// The engine's side and the clients' side.
pub struct Net {
    engine: File,
    clients: File,
}

impl Net {
    /// Makes both, and leaves the calling thread on the engine's side; threads that it starts are there too.
    pub fn new() -> Self {
        let clients = enter_new();
        let engine = enter_new();
        let path = format!("/proc/{}/fd/{}", std::process::id(), clients.as_raw_fd());
        ip(&format!(
            "link add to-clients type veth peer name to-engine netns {path}"
        ));
        let net = Self { engine, clients };
        address("to-clients", ["10.77.0.1/24", "fd77::1/64"]);
        net.at_clients(|| address("to-engine", ["10.77.0.2/24", "fd77::2/64"]));
        net
    }

    /// Does something, such as connecting, on the clients' side.
    pub fn at_clients<T>(&self, work: impl FnOnce() -> T) -> T {
        setns(&self.clients, CloneFlags::CLONE_NEWNET).expect("entered");
        let result = work();
        setns(&self.engine, CloneFlags::CLONE_NEWNET).expect("back");
        result
    }

    /// TCP's counters of both sides together, by name.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let mut all = counters();
        for (name, value) in self.at_clients(counters) {
            *all.entry(name).or_default() += value;
        }
        all
    }
}

/// What is missing to run here.
pub fn can_run() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let why = "needs root: it makes network namespaces";
    assert!(std::env::var_os("CI").is_none(), "CI must run this: {why}");
    eprintln!("SKIPPED: {why}");
    false
}

fn enter_new() -> File {
    unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
    ip("link set lo up");
    File::open("/proc/thread-self/ns/net").expect("the namespace")
}

fn address(interface: &str, addresses: [&str; 2]) {
    for each in addresses {
        // Without duplicate address detection an IPv6 address is there at once.
        let nodad = if each.contains(':') { "nodad" } else { "" };
        ip(&format!("addr add {each} dev {interface} {nodad}"));
    }
    ip(&format!("link set {interface} up"));
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output();
    let output = output.expect("ip runs");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Of the namespace of the calling thread: two lines for each group, names and values.
fn counters() -> BTreeMap<String, u64> {
    let files = ["snmp", "netstat"].map(|f| format!("/proc/thread-self/net/{f}"));
    let texts = files.map(|f| std::fs::read_to_string(f).expect("counters"));
    let text = texts.concat();
    let lines: Vec<&str> = text.lines().collect();
    let tcp = lines
        .chunks_exact(2)
        .filter(|pair| pair[0].starts_with("Tcp"));
    let fields = tcp.flat_map(|pair| pair[0].split(' ').zip(pair[1].split(' ')).skip(1));
    fields
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap_or(0)))
        .collect()
}
