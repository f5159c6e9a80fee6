//! A client, a router and two or three engines behind it.
//!
//! ```text
//!   client ── router ── switch ── a, b, c     VIP on the loopback of each engine
//! ```

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use evenkeel_dataplane::steering::LOOPBACK_SETTINGS;
use nix::sched::{CloneFlags, setns};

/// Engines by the last part of their addresses.
pub const ENGINES: [&str; 3] = ["a", "b", "c"];

pub struct Net {
    prefix: String,
    dir: tempfile::TempDir,
}

pub fn run(command: &str) {
    let words: Vec<&str> = command.split_whitespace().collect();
    let output = Command::new(words[0])
        .args(&words[1..])
        .output()
        .expect("a command starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {said}");
}

pub fn can_run() -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "needs root");
    if !root {
        eprintln!("NOT RUN: network namespaces need root");
    }
    root
}

impl Net {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("eks{}n{number}", std::process::id());
        let dir = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir()
            .expect("a folder");
        let net = Self { prefix, dir };
        for name in ["client", "router"].iter().chain(&ENGINES) {
            run(&format!("ip netns add {}", net.ns(name)));
            // A link-local address that is still being checked for duplicates asks for no neighbor.
            run(&format!(
                "ip netns exec {} sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0",
                net.ns(name)
            ));
            run(&format!("ip -n {} link set lo up", net.ns(name)));
        }
        net.cable_client();
        net.cable_engines();
        net
    }

    pub fn ns(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Where an engine pins its programs; on a BPF file system of its own.
    pub fn pins(&self, engine: &str) -> PathBuf {
        self.dir.path().join(engine)
    }

    fn cable_client(&self) {
        let (client, router) = (self.ns("client"), self.ns("router"));
        run(&format!(
            "ip -n {client} link add eth0 type veth peer name cl netns {router}"
        ));
        for (ns, link, host) in [(&client, "eth0", 2), (&router, "cl", 1)] {
            run(&format!(
                "ip -n {ns} address add 10.1.0.{host}/24 dev {link}"
            ));
            run(&format!(
                "ip -n {ns} address add 2001:db8:1::{host}/64 dev {link} nodad"
            ));
            run(&format!("ip -n {ns} link set {link} up"));
        }
        run(&format!("ip -n {client} route add default via 10.1.0.1"));
        run(&format!(
            "ip -n {client} route add default via 2001:db8:1::1"
        ));
        run(&format!(
            "ip netns exec {router} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"
        ));
    }

    fn cable_engines(&self) {
        let router = self.ns("router");
        run(&format!("ip -n {router} link add br0 type bridge"));
        run(&format!("ip -n {router} address add 10.2.0.1/24 dev br0"));
        run(&format!(
            "ip -n {router} address add 2001:db8:2::1/64 dev br0 nodad"
        ));
        run(&format!("ip -n {router} link set br0 up"));
        for (host, engine) in (11..).zip(ENGINES) {
            let ns = self.ns(engine);
            run(&format!(
                "ip -n {ns} link add eth0 type veth peer name port-{engine} netns {router}"
            ));
            run(&format!(
                "ip -n {router} link set dev port-{engine} master br0 up"
            ));
            run(&format!("ip -n {ns} address add 10.2.0.{host}/24 dev eth0"));
            run(&format!(
                "ip -n {ns} address add 2001:db8:2::{host}/64 dev eth0 nodad"
            ));
            run(&format!("ip -n {ns} link set eth0 up"));
            run(&format!("ip -n {ns} route add default via 10.2.0.1"));
            run(&format!("ip -n {ns} route add default via 2001:db8:2::1"));
            for vip in VIPS {
                run(&format!("ip -n {ns} address add {vip} dev lo nodad"));
            }
        }
    }

    /// Nobody makes one large packet out of several: not who sends, and not who passes on.
    pub fn send_single_packets(&self) {
        for name in ["client"].iter().chain(&ENGINES) {
            let ns = self.ns(name);
            run(&format!("ip -n {ns} link set dev eth0 gso_max_segs 1"));
        }
    }

    /// The other ends of the engines' links take what native XDP sends, and engines can find out where to.
    pub fn take_from_xdp(&self) {
        for engine in ENGINES {
            self.set_offload("router", &format!("port-{engine}"), "gro on");
            inside(&self.ns(engine), || {
                for (setting, value) in LOOPBACK_SETTINGS {
                    std::fs::write(format!("/proc/sys/{setting}"), value).expect(setting);
                }
            });
        }
    }

    /// ethtool(8), -K.
    pub fn set_offload(&self, name: &str, link: &str, what: &str) {
        let ns = self.ns(name);
        run(&format!("ip netns exec {ns} ethtool -K {link} {what}"));
    }

    /// What the driver of an engine's link says of all its queues under this name.
    pub fn driver_count(&self, engine: &str, name: &str) -> u64 {
        let ns = self.ns(engine);
        let command = format!("netns exec {ns} ethtool -S eth0");
        let output = Command::new("ip").args(command.split(' ')).output();
        let text = String::from_utf8(output.expect("ip runs").stdout).expect("text");
        let end = format!("_{name}");
        let of = |line: &str| {
            let (key, value) = line.split_once(": ")?;
            key.ends_with(&end)
                .then(|| value.trim().parse::<u64>().ok())?
        };
        text.lines().filter_map(of).sum()
    }

    /// What has come to the router from an engine, and what of that it has dropped.
    pub fn packets_from(&self, engine: &str) -> [u64; 2] {
        inside(&self.ns("router"), || {
            let text = std::fs::read_to_string("/proc/thread-self/net/dev").expect("text");
            let link = format!("port-{engine}:");
            let line = text.lines().find_map(|l| l.trim().strip_prefix(&link));
            let columns = line.expect("the port").split_whitespace();
            let numbers: Vec<u64> = columns.filter_map(|n| n.parse().ok()).collect();
            [numbers[1], numbers[3]]
        })
    }

    /// As iproute2 shows an engine's link.
    pub fn link_of(&self, engine: &str) -> String {
        let command = format!("-n {} -d link show eth0", self.ns(engine));
        let output = Command::new("ip").args(command.split(' ')).output();
        String::from_utf8(output.expect("ip runs").stdout).expect("text")
    }

    /// The router sends what is for the VIPs to this engine from now on.
    pub fn route_to(&self, engine: &str) {
        let router = self.ns("router");
        let [v4, v6] = addresses(engine);
        run(&format!(
            "ip -n {router} route replace {} via {v4}",
            VIPS[0]
        ));
        run(&format!(
            "ip -n {router} route replace {} via {v6}",
            VIPS[1]
        ));
    }
}

/// One of each family.
pub const VIPS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 99, 0, 0, 0, 0, 1)),
];

/// Of an engine on the segment.
pub fn addresses(engine: &str) -> [IpAddr; 2] {
    let host = 11
        + ENGINES
            .iter()
            .position(|e| *e == engine)
            .expect("an engine");
    let texts = [format!("10.2.0.{host}"), format!("2001:db8:2::{host}")];
    texts.map(|t| t.parse().expect("an address"))
}

/// Does it in a thread of its own in the namespace.
pub fn inside<T: Send>(namespace: &str, what: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let file = File::open(format!("/run/netns/{namespace}")).expect("the namespace");
            setns(file, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
            what()
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

impl Drop for Net {
    fn drop(&mut self) {
        for engine in ENGINES {
            // Not every test has mounted each.
            let _ = nix::mount::umount(&self.pins(engine));
        }
        for name in ["client", "router"].iter().chain(&ENGINES) {
            let _ = Command::new("ip")
                .args(["netns", "del", &self.ns(name)])
                .output();
        }
    }
}
