//! Four real routers behind one face: started privately in a namespace, asked in their own words.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::lab::{ask, wait_for};

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Frr,
    Bird,
    Gobgp,
    Openbgpd,
}

impl Kind {
    /// GoBGP and OpenBGPD on Linux install nothing in the kernel by themselves: there the RIB is asked.
    pub fn has_fib(self) -> bool {
        matches!(self, Self::Frr | Self::Bird)
    }

    pub fn has_bfd(self) -> bool {
        matches!(self, Self::Frr | Self::Bird)
    }
}

/// What the router is to be; it has one neighbor, the engine.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    pub asn: u32,
    pub engine_as: u32,
    /// The session, and the family on it, is IPv6.
    pub v6: bool,
    pub md5: Option<&'static str>,
    pub multihop: bool,
    pub bfd: bool,
    /// Offers every capability that it knows.
    pub talkative: bool,
}

impl Spec {
    pub const IBGP: Self = Self {
        asn: 65000,
        engine_as: 65000,
        v6: false,
        md5: None,
        multihop: false,
        bfd: false,
        talkative: false,
    };

    fn engine(&self) -> &'static str {
        if self.v6 {
            "2001:db8:1::11"
        } else {
            "10.10.1.11"
        }
    }

    fn router(&self) -> &'static str {
        if self.v6 {
            "2001:db8:1::1"
        } else {
            "10.10.1.1"
        }
    }
}

/// A route as the router holds it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Route {
    pub next_hop: String,
    pub as_path: Vec<u32>,
    pub local_pref: Option<u32>,
    pub communities: BTreeSet<String>,
    pub large_communities: BTreeSet<String>,
}

pub struct Upstream {
    pub kind: Kind,
    spec: Spec,
    namespace: String,
    dir: PathBuf,
    daemons: Vec<Child>,
}

impl Upstream {
    pub async fn start(kind: Kind, spec: Spec, namespace: &str, dir: PathBuf) -> Self {
        let mut upstream = Self {
            kind,
            spec,
            namespace: namespace.to_owned(),
            dir,
            daemons: Vec::new(),
        };
        upstream.run().await;
        upstream
    }

    /// Starts the daemons and waits until the router knows its neighbor.
    pub async fn run(&mut self) {
        match self.kind {
            Kind::Frr => {
                self.frr("zebra", "no zebra nexthop kernel enable\n");
                if self.spec.bfd {
                    self.frr(
                        "bfdd",
                        "bfd\n profile fast\n  receive-interval 50\n  transmit-interval 50\n",
                    );
                }
                self.frr("bgpd", &self.frr_config());
            }
            Kind::Bird => {
                let config = self.bird_config();
                let arguments = ["-f", "-c", "bird.conf", "-s", "bird.ctl", "-P", "bird.pid"];
                self.spawn("/usr/sbin/bird", &arguments, "bird.conf", &config);
            }
            Kind::Gobgp => {
                let config = self.gobgp_config();
                let arguments = [
                    "-f",
                    "gobgp.toml",
                    "--api-hosts=127.0.0.1:50051",
                    "--pprof-disable",
                ];
                self.spawn("/usr/bin/gobgpd", &arguments, "gobgp.toml", &config);
            }
            Kind::Openbgpd => {
                let config = self.openbgpd_config();
                // Its children change their root to the home of their user, which the service manager makes.
                fs::create_dir_all("/run/openbgpd").expect("the home of OpenBGPD");
                self.spawn(
                    "/usr/sbin/bgpd",
                    &["-d", "-f", "bgpd.conf"],
                    "bgpd.conf",
                    &config,
                );
            }
        }
        wait_for(
            "the router to know its neighbor",
            PATIENCE,
            async || match self.state().await.as_str() {
                "active" | "connect" | "idle" | "passive" | "established" | "opensent" => Ok(()),
                other => Err(format!("state {other:?}")),
            },
        )
        .await;
    }

    fn frr(&mut self, daemon: &str, config: &str) {
        let file = format!("{daemon}.conf");
        let (pid, log) = (format!("{daemon}.pid"), format!("file:{daemon}.log"));
        let dir = self.dir.display().to_string();
        let mut arguments = vec!["-f", &file, "-i", &pid, "-z"];
        let zserv = format!("{dir}/zserv.api");
        let bfdctl = format!("{dir}/bfdd.sock");
        arguments.extend([
            zserv.as_str(),
            "--vty_socket",
            &dir,
            "-A",
            "127.0.0.1",
            "-P",
            "0",
        ]);
        arguments.extend(["--log", &log]);
        if daemon == "bfdd" {
            arguments.extend(["--bfdctl", &bfdctl]);
        }
        self.spawn(&format!("/usr/lib/frr/{daemon}"), &arguments, &file, config);
        let socket = self.dir.join(format!("{daemon}.vty"));
        crate::lab::await_file(&socket);
    }

    fn spawn(&mut self, program: &str, arguments: &[&str], file: &str, config: &str) {
        let path = self.dir.join(file);
        fs::write(&path, config).expect("write a configuration");
        // OpenBGPD refuses a configuration that others may read.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        if self.kind == Kind::Openbgpd {
            fs::set_permissions(&path, private).expect("make the configuration private");
        } else if self.kind == Kind::Frr {
            crate::lab::run(&["chown", "frr:frr", &path.display().to_string()]);
        }
        let log = fs::File::create(self.dir.join(format!("{file}.out"))).expect("a log");
        let child = Command::new("ip")
            .args(["netns", "exec", &self.namespace, program])
            .args(arguments)
            .current_dir(&self.dir)
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("start a daemon");
        self.daemons.push(child);
    }

    /// SIGKILL to all of it.
    pub fn kill(&mut self) {
        for mut daemon in self.daemons.drain(..).rev() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        for leftover in [
            "bgpd.vty",
            "zebra.vty",
            "bfdd.vty",
            "zserv.api",
            "bird.ctl",
            "bgpd.sock",
        ] {
            let _ = fs::remove_file(self.dir.join(leftover));
        }
        // Routes of killed daemons stay in the kernel.
        for family in ["-4", "-6"] {
            let flush = [
                "-n",
                &self.namespace,
                family,
                "route",
                "flush",
                "proto",
                "bird",
            ];
            let _ = Command::new("ip").args(flush).output();
        }
    }

    /// SIGTERM, and waits: the router says goodbye.
    pub fn stop(&mut self) {
        for mut daemon in self.daemons.drain(..).rev() {
            let pid = nix::unistd::Pid::from_raw(daemon.id() as i32);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let _ = daemon.wait();
        }
        for leftover in ["bgpd.vty", "zebra.vty", "bfdd.vty", "zserv.api"] {
            let _ = fs::remove_file(self.dir.join(leftover));
        }
    }

    /// The operator of the router resets the session.
    pub async fn reset(&self) {
        let engine = self.spec.engine();
        match self.kind {
            Kind::Frr => drop(self.vtysh(&format!("clear bgp {engine}")).await),
            Kind::Bird => drop(self.birdc("restart se").await),
            // Its `reset` refuses connections for 30 s, whatever is configured.
            Kind::Gobgp => {
                self.gobgp(&["neighbor", engine, "disable"]).await;
                self.gobgp(&["neighbor", engine, "enable"]).await;
            }
            Kind::Openbgpd => drop(self.bgpctl(&["neighbor", engine, "clear"]).await),
        }
    }

    /// State of the session at the router, in lower case; empty while it does not answer.
    pub async fn state(&self) -> String {
        let engine = self.spec.engine();
        let word = match self.kind {
            Kind::Frr => {
                let shown = self
                    .vtysh(&format!("show bgp neighbors {engine} json"))
                    .await;
                text(&json(&shown)[engine]["bgpState"])
            }
            Kind::Bird => {
                let shown = self.birdc("show protocols all se").await;
                let line = shown.lines().find(|l| l.contains("BGP state:"));
                line.and_then(|l| l.split_whitespace().last())
                    .unwrap_or_default()
                    .to_owned()
            }
            Kind::Gobgp => {
                let shown = json(&self.gobgp(&["neighbor", engine, "-j"]).await);
                match shown["state"]["session_state"].as_u64() {
                    Some(6) => "established".to_owned(),
                    Some(_) => "active".to_owned(),
                    None => String::new(),
                }
            }
            Kind::Openbgpd => {
                let shown = json(&self.bgpctl(&["-j", "show", "neighbor", engine]).await);
                text(&shown["neighbors"][0]["state"])
            }
        };
        word.to_lowercase()
    }

    /// The route in the router's RIB.
    pub async fn route(&self, prefix: &str) -> Option<Route> {
        match self.kind {
            Kind::Frr => {
                let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
                let shown = self
                    .vtysh(&format!("show bgp {family} unicast {prefix} json"))
                    .await;
                frr_route(&json(&shown)["paths"][0])
            }
            Kind::Bird => bird_route(
                &self
                    .birdc(&format!("show route for {prefix} protocol se all"))
                    .await,
            ),
            Kind::Gobgp => {
                let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
                let shown = self
                    .gobgp(&["global", "rib", "-a", family, prefix, "-j"])
                    .await;
                gobgp_route(&json(&shown)[prefix][0])
            }
            Kind::Openbgpd => {
                let shown = self.bgpctl(&["-j", "show", "rib", "detail", prefix]).await;
                openbgpd_route(&json(&shown)["rib"][0])
            }
        }
    }

    /// Next hops in the kernel of routers that have routes there.
    pub async fn fib(&self, vip: &str) -> Vec<String> {
        crate::lab::kernel_route(&self.namespace, vip).await
    }

    /// Number of routes from the engine.
    pub async fn count(&self) -> usize {
        match self.kind {
            Kind::Frr => {
                let shown = json(&self.vtysh("show bgp ipv4 unicast json").await);
                shown["routes"].as_object().map_or(0, |r| r.len())
            }
            Kind::Bird => {
                let shown = self.birdc("show route protocol se count").await;
                let words = shown.split_whitespace();
                words.filter_map(|w| w.parse().ok()).next().unwrap_or(0)
            }
            Kind::Gobgp => {
                let shown = json(&self.gobgp(&["global", "rib", "summary", "-j"]).await);
                shown["num_destination"].as_u64().unwrap_or(0) as usize
            }
            Kind::Openbgpd => {
                let shown = json(&self.bgpctl(&["-j", "show", "rib"]).await);
                shown["rib"].as_array().map_or(0, Vec::len)
            }
        }
    }

    async fn vtysh(&self, command: &str) -> String {
        let dir = self.dir.display().to_string();
        ask(
            "vtysh",
            &["--vty_socket", &dir, "-d", "bgpd", "-c", command],
        )
        .await
    }

    async fn birdc(&self, command: &str) -> String {
        let control = self.dir.join("bird.ctl").display().to_string();
        ask("birdc", &["-s", &control, command]).await
    }

    async fn gobgp(&self, arguments: &[&str]) -> String {
        let mut all = vec!["netns", "exec", &self.namespace, "gobgp", "-u", "127.0.0.1"];
        all.extend(arguments);
        ask("ip", &all).await
    }

    async fn bgpctl(&self, arguments: &[&str]) -> String {
        let socket = self.dir.join("bgpd.sock").display().to_string();
        let mut all = vec!["-s", &socket];
        all.extend(arguments);
        ask("bgpctl", &all).await
    }

    fn frr_config(&self) -> String {
        let Spec {
            asn,
            engine_as,
            v6,
            md5,
            multihop,
            bfd,
            talkative,
        } = self.spec;
        let engine = self.spec.engine();
        let line = |on: bool, text: &str| {
            if on {
                format!(" neighbor {engine} {text}\n")
            } else {
                String::new()
            }
        };
        let mut config = format!(
            "router bgp {asn}\n bgp router-id 10.10.1.1\n no bgp ebgp-requires-policy\n neighbor {engine} remote-as {engine_as}\n neighbor {engine} passive\n"
        );
        config += &line(
            md5.is_some(),
            &format!("password {}", md5.unwrap_or_default()),
        );
        config += &line(multihop, "ebgp-multihop 64");
        config += &line(bfd, "bfd profile fast");
        config += &line(talkative, "capability dynamic");
        config += &line(talkative, "capability extended-nexthop");
        if talkative {
            config = config.replacen(" neighbor", " bgp graceful-restart\n neighbor", 1);
            config += &format!(
                " address-family ipv4 unicast\n  neighbor {engine} addpath-tx-all-paths\n  neighbor {engine} capability orf prefix-list both\n exit-address-family\n"
            );
        }
        if v6 {
            config += &format!(" address-family ipv6 unicast\n  neighbor {engine} activate\n");
        }
        config
    }

    fn bird_config(&self) -> String {
        let Spec {
            asn,
            engine_as,
            v6,
            md5,
            multihop,
            bfd,
            talkative,
        } = self.spec;
        let (engine, router) = (self.spec.engine(), self.spec.router());
        let family = if v6 { "ipv6" } else { "ipv4" };
        let line = |on: bool, text: String| if on { text } else { String::new() };
        let reach = if multihop { "multihop 64;" } else { "direct;" };
        let password = line(
            md5.is_some(),
            format!("password \"{}\";", md5.unwrap_or_default()),
        );
        let watch = line(bfd, "bfd on;".to_owned());
        let session = line(
            talkative,
            "graceful restart on; long lived graceful restart on; advertise hostname on;"
                .to_owned(),
        );
        let channel = line(talkative, "add paths on; extended next hop on;".to_owned());
        let bfd = line(
            bfd,
            "protocol bfd { interface \"*\" { interval 50 ms; multiplier 3; }; }".to_owned(),
        );
        format!(
            "router id 10.10.1.1;
protocol device {{ scan time 1; }}
protocol direct {{ ipv4; ipv6; }}
protocol kernel {{ {family} {{ import none; export where source = RTS_BGP; }}; }}
{bfd}
protocol bgp se {{
    local {router} as {asn};
    neighbor {engine} as {engine_as};
    passive; {reach} {password} {watch}
    error wait time 1, 2;
    enable extended messages; {session}
    {family} {{ import all; export none; {channel} }};
}}
"
        )
    }

    fn gobgp_config(&self) -> String {
        let Spec {
            asn,
            engine_as,
            v6,
            md5,
            multihop,
            bfd: _,
            talkative,
        } = self.spec;
        let engine = self.spec.engine();
        let family = if v6 { "ipv6-unicast" } else { "ipv4-unicast" };
        let password = md5.unwrap_or_default();
        format!(
            "[global.config]
as = {asn}
router-id = \"10.10.1.1\"
[[neighbors]]
[neighbors.config]
neighbor-address = \"{engine}\"
peer-as = {engine_as}
auth-password = \"{password}\"
[neighbors.transport.config]
passive-mode = true
[neighbors.ebgp-multihop.config]
enabled = {multihop}
multihop-ttl = 64
[neighbors.graceful-restart.config]
enabled = {talkative}
restart-time = 120
long-lived-enabled = {talkative}
[neighbors.add-paths.config]
receive = {talkative}
[[neighbors.afi-safis]]
[neighbors.afi-safis.config]
afi-safi-name = \"{family}\"
[neighbors.afi-safis.mp-graceful-restart.config]
enabled = {talkative}
"
        )
    }

    fn openbgpd_config(&self) -> String {
        let Spec {
            asn,
            engine_as,
            v6,
            md5,
            multihop,
            bfd: _,
            talkative,
        } = self.spec;
        let (engine, router) = (self.spec.engine(), self.spec.router());
        let socket = self.dir.join("bgpd.sock").display().to_string();
        let family = if v6 {
            "announce IPv6 unicast"
        } else {
            "announce IPv4 unicast"
        };
        let password = md5
            .map(|k| format!("tcp md5sig password \"{k}\""))
            .unwrap_or_default();
        let reach = if multihop { "multihop 64" } else { "" };
        let capabilities = if talkative {
            "announce enhanced refresh yes\n    announce add-path recv yes\n    announce restart yes\n    announce as-4byte yes"
        } else {
            ""
        };
        format!(
            "AS {asn}
router-id 10.10.1.1
listen on {router}
socket \"{socket}\"
fib-update no
neighbor {engine} {{
    remote-as {engine_as}
    passive
    {family}
    {password}
    {reach}
    {capabilities}
}}
allow from any
"
        )
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|e| e == "out") {
                    let said = fs::read_to_string(entry.path()).unwrap_or_default();
                    eprintln!("{}: {said}", entry.path().display());
                }
            }
        }
        self.stop();
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn numbers(text: &str) -> Vec<u32> {
    text.split_whitespace()
        .filter_map(|n| n.parse().ok())
        .collect()
}

fn words(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn frr_route(path: &Value) -> Option<Route> {
    let hops = path["nexthops"].as_array()?;
    let global = hops.iter().find(|hop| hop["scope"] != "link-local");
    Some(Route {
        next_hop: text(&global?["ip"]),
        as_path: numbers(&text(&path["aspath"]["string"])),
        local_pref: path["locPrf"].as_u64().map(|n| n as u32),
        communities: words(&text(&path["community"]["string"])),
        large_communities: words(&text(&path["largeCommunity"]["string"])),
    })
}

/// `(65000,100) (65000,1,2)` as `65000:100 65000:1:2`.
fn bird_communities(text: &str) -> BTreeSet<String> {
    let text = text
        .replace(", ", ":")
        .replace(',', ":")
        .replace(['(', ')'], " ");
    let known = |word: &str| match word {
        "65535:65281" => "no-export".to_owned(),
        other => other.to_owned(),
    };
    text.split_whitespace().map(known).collect()
}

fn bird_route(shown: &str) -> Option<Route> {
    let value = |name: &str| {
        let line = shown.lines().find_map(|l| l.trim().strip_prefix(name))?;
        Some(line.trim_start_matches(':').trim().to_owned())
    };
    let hops = value("BGP.next_hop")?;
    Some(Route {
        next_hop: hops.split_whitespace().next()?.to_owned(),
        as_path: numbers(&value("BGP.as_path").unwrap_or_default()),
        local_pref: value("BGP.local_pref").and_then(|n| n.parse().ok()),
        communities: bird_communities(&value("BGP.community").unwrap_or_default()),
        large_communities: bird_communities(&value("BGP.large_community").unwrap_or_default()),
    })
}

fn gobgp_route(path: &Value) -> Option<Route> {
    let attributes = path["attrs"].as_array()?;
    let of_type = |code: u64| attributes.iter().find(|a| a["type"] == code);
    let hop = of_type(3).or_else(|| of_type(14))?;
    let asns = of_type(2)
        .map(|a| a["as_paths"][0]["asns"].clone())
        .unwrap_or_default();
    let community = |n: u64| match n {
        0xFFFF_FF01 => "no-export".to_owned(),
        n => format!("{}:{}", n >> 16, n & 0xFFFF),
    };
    let list = |value: Option<&Value>, field: &str| {
        value
            .and_then(|v| v[field].as_array())
            .cloned()
            .unwrap_or_default()
    };
    let large = |v: &Value| format!("{}:{}:{}", v["ASN"], v["LocalData1"], v["LocalData2"]);
    Some(Route {
        next_hop: text(&hop["nexthop"]),
        as_path: asns
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|n| Some(n.as_u64()? as u32))
            .collect(),
        local_pref: of_type(5).and_then(|a| Some(a["value"].as_u64()? as u32)),
        communities: list(of_type(8), "communities")
            .iter()
            .filter_map(Value::as_u64)
            .map(community)
            .collect(),
        large_communities: list(of_type(32), "value").iter().map(large).collect(),
    })
}

fn openbgpd_route(entry: &Value) -> Option<Route> {
    let list = |field: &str| -> BTreeSet<String> {
        let items = entry[field].as_array().into_iter().flatten();
        items
            .map(|v| text(v).to_lowercase().replace("no_export", "no-export"))
            .collect()
    };
    Some(Route {
        next_hop: Some(text(&entry["exit_nexthop"])).filter(|hop| !hop.is_empty())?,
        as_path: numbers(&text(&entry["aspath"])),
        local_pref: entry["localpref"].as_u64().map(|n| n as u32),
        communities: list("communities"),
        large_communities: list("large_communities"),
    })
}
