//! Four real routers behind one face: started privately in a namespace, asked in their own words.

mod answers;
mod config;

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

    /// Of a talkative router and the engine, in the router's words.
    pub fn common_capabilities(self) -> &'static [&'static str] {
        match self {
            Self::Frr => &[
                "4byteAs",
                "enhancedRouteRefresh",
                "extendedMessage",
                "gracefulRestart",
                "multiprotocolExtensions",
                "routeRefresh",
            ],
            Self::Bird => &[
                "4-octet AS numbers",
                "Enhanced refresh",
                "Extended message",
                "Graceful restart",
                "Multiprotocol",
                "Route refresh",
            ],
            Self::Gobgp => &[
                "4-octet-as",
                "graceful-restart",
                "ipv4-unicast",
                "route-refresh",
            ],
            Self::Openbgpd => &[
                "as4byte",
                "enhanced_refresh",
                "graceful_restart",
                "multiprotocol",
                "refresh",
            ],
        }
    }

    /// The same in ours.
    pub fn common_capabilities_in_our_words(self) -> Vec<&'static str> {
        let mut all = vec![
            "IPv4 unicast",
            "route refresh",
            "extended message",
            "graceful restart",
            "four-octet AS",
            "enhanced route refresh",
        ];
        all.retain(|name| match (self, *name) {
            (Self::Gobgp, "extended message" | "enhanced route refresh") => false,
            (Self::Openbgpd, "extended message") => false,
            (_, _) => true,
        });
        all
    }
}

/// What the router is to be; it has one neighbor, the engine.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    pub asn: u32,
    pub engine_as: u32,
    /// The session, and the family on it, is IPv6.
    pub v6: bool,
    /// The family on a session over IPv6 is IPv4 all the same (RFC 8950).
    pub v4_over_v6: bool,
    pub md5: Option<&'static str>,
    /// Behind another router, in a network of its own.
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
        v4_over_v6: false,
        md5: None,
        multihop: false,
        bfd: false,
        talkative: false,
    };

    pub fn engine(&self) -> &'static str {
        if self.v6 {
            "2001:db8:1::11"
        } else {
            "10.10.1.11"
        }
    }

    pub fn router(&self) -> &'static str {
        match (self.v6, self.multihop) {
            (false, false) => "10.10.1.1",
            (false, true) => "10.10.9.1",
            (true, false) => "2001:db8:1::1",
            (true, true) => "2001:db8:9::1",
        }
    }

    /// The family of the routes on the session.
    pub fn family(&self) -> &'static str {
        if self.v6 && !self.v4_over_v6 {
            "ipv6"
        } else {
            "ipv4"
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
    pub spec: Spec,
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
        // What it says is of this run only.
        let _ = fs::remove_file(self.dir.join("bgpd.log"));
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

    /// The gateway in its kernel towards the engine.
    pub fn gateway(&self) -> &'static str {
        let Spec { v6, multihop, .. } = self.spec;
        match (v6, multihop) {
            // FRR stands this in for any IPv6 gateway of an IPv4 route, with the link-layer address of that one.
            _ if self.spec.v4_over_v6 && self.kind == Kind::Frr => "169.254.0.1",
            (_, false) => self.spec.engine(),
            (false, true) => "10.10.9.2",
            (true, true) => "2001:db8:9::2",
        }
    }

    /// State of the session at the router, in lower case; empty while it does not answer.
    pub async fn state(&self) -> String {
        let word = match self.kind {
            Kind::Frr => text(&self.frr_neighbor().await["bgpState"]),
            Kind::Bird => last_word(&self.birdc("show protocols all se").await, "BGP state:"),
            Kind::Gobgp => match self.gobgp_neighbor().await["state"]["session_state"].as_u64() {
                Some(6) => "established".to_owned(),
                Some(_) => "active".to_owned(),
                None => String::new(),
            },
            Kind::Openbgpd => text(&self.openbgpd_neighbor().await["state"]),
        };
        word.to_lowercase()
    }

    /// How often the session has come up since the router was started.
    pub async fn established(&self) -> usize {
        let lines_with = |what: &str| self.said().lines().filter(|l| l.contains(what)).count();
        match self.kind {
            Kind::Frr => {
                let neighbor = self.frr_neighbor().await;
                neighbor["connectionsEstablished"].as_u64().unwrap_or(0) as usize
            }
            Kind::Bird => lines_with("BGP session established"),
            Kind::Gobgp => lines_with("\"Peer Up\""),
            Kind::Openbgpd => lines_with("-> Established"),
        }
    }

    /// In seconds, as negotiated.
    pub async fn hold_time(&self) -> Option<u64> {
        match self.kind {
            Kind::Frr => Some(self.frr_neighbor().await["bgpTimerHoldTimeMsecs"].as_u64()? / 1000),
            Kind::Bird => {
                let shown = self.birdc("show protocols all se").await;
                let timer = last_word(&shown, "Hold timer:");
                timer.split_once('/')?.1.parse().ok()
            }
            Kind::Gobgp => {
                let neighbor = self.gobgp_neighbor().await;
                neighbor["timers"]["state"]["negotiated_hold_time"].as_u64()
            }
            Kind::Openbgpd => self.openbgpd_neighbor().await["session"]["holdtime"].as_u64(),
        }
    }

    /// State of BFD at the router, in lower case.
    pub async fn bfd(&self) -> String {
        let word = match self.kind {
            Kind::Frr => text(&self.frr_neighbor().await["peerBfdInfo"]["status"]),
            Kind::Bird => {
                let shown = self.birdc("show bfd sessions").await;
                let line = shown.lines().find(|l| l.starts_with(self.spec.engine()));
                let state = line.and_then(|l| l.split_whitespace().nth(2));
                state.unwrap_or_default().to_owned()
            }
            Kind::Gobgp | Kind::Openbgpd => String::new(),
        };
        word.to_lowercase()
    }

    /// What both have offered, in the router's words.
    pub async fn capabilities(&self) -> BTreeSet<String> {
        match self.kind {
            Kind::Frr => answers::frr_capabilities(&self.frr_neighbor().await),
            Kind::Bird => answers::bird_capabilities(&self.birdc("show protocols all se").await),
            Kind::Gobgp => {
                answers::gobgp_capabilities(&self.gobgp(&["neighbor", self.spec.engine()]).await)
            }
            Kind::Openbgpd => answers::openbgpd_capabilities(&self.openbgpd_neighbor().await),
        }
    }

    /// The NOTIFICATIONs that the router has received since it was started: code, subcode and text.
    pub fn notifications(&self) -> Vec<String> {
        // OpenBGPD tells the text on a line of its own.
        let reason = format!(
            "\nneighbor {}: received shutdown reason:",
            self.spec.engine()
        );
        let said = self.said().replace(&reason, "");
        let parse = match self.kind {
            Kind::Frr => answers::frr_notification,
            Kind::Bird => answers::bird_notification,
            Kind::Gobgp => answers::gobgp_notification,
            Kind::Openbgpd => answers::openbgpd_notification,
        };
        said.lines().filter_map(parse).collect()
    }

    /// The log of the router since it was started.
    fn said(&self) -> String {
        let file = match self.kind {
            Kind::Frr => "bgpd.log",
            Kind::Bird => "bird.conf.out",
            Kind::Gobgp => "gobgp.toml.out",
            Kind::Openbgpd => "bgpd.conf.out",
        };
        fs::read_to_string(self.dir.join(file)).unwrap_or_default()
    }

    /// The route in the router's RIB.
    pub async fn route(&self, prefix: &str) -> Option<Route> {
        match self.kind {
            Kind::Frr => {
                let family = self.spec.family();
                let shown = self
                    .vtysh(&format!("show bgp {family} unicast {prefix} json"))
                    .await;
                answers::frr_route(&json(&shown)["paths"][0])
            }
            Kind::Bird => answers::bird_route(
                &self
                    .birdc(&format!("show route for {prefix} protocol se all"))
                    .await,
            ),
            Kind::Gobgp => {
                let rib = ["global", "rib", "-a", self.spec.family(), prefix, "-j"];
                answers::gobgp_route(&json(&self.gobgp(&rib).await)[prefix][0])
            }
            Kind::Openbgpd => {
                let shown = self.bgpctl(&["-j", "show", "rib", "detail", prefix]).await;
                answers::openbgpd_route(&json(&shown)["rib"][0])
            }
        }
    }

    /// Next hops in the kernel of routers that have routes there.
    pub async fn fib(&self, vip: &str) -> Vec<String> {
        crate::lab::kernel_route(&self.namespace, vip).await
    }

    /// Number of routes that the router has in its kernel.
    pub async fn fib_count(&self) -> usize {
        let family = if self.spec.family() == "ipv6" {
            "-6"
        } else {
            "-4"
        };
        let protocol = if self.kind == Kind::Frr {
            "bgp"
        } else {
            "bird"
        };
        let list = [
            "-n",
            &self.namespace,
            family,
            "route",
            "show",
            "proto",
            protocol,
        ];
        ask("ip", &list).await.lines().count()
    }

    /// Number of routes from the engine.
    pub async fn count(&self) -> usize {
        let family = self.spec.family();
        match self.kind {
            Kind::Frr => {
                let shown = json(&self.vtysh(&format!("show bgp {family} unicast json")).await);
                shown["routes"].as_object().map_or(0, |r| r.len())
            }
            Kind::Bird => {
                let shown = self.birdc("show route protocol se count").await;
                let words = shown.split_whitespace();
                words.filter_map(|w| w.parse().ok()).next().unwrap_or(0)
            }
            Kind::Gobgp => {
                let summary = ["global", "rib", "summary", "-a", family, "-j"];
                let shown = json(&self.gobgp(&summary).await);
                shown["num_destination"].as_u64().unwrap_or(0) as usize
            }
            Kind::Openbgpd => {
                let shown = json(&self.bgpctl(&["-j", "show", "rib"]).await);
                shown["rib"].as_array().map_or(0, Vec::len)
            }
        }
    }

    async fn frr_neighbor(&self) -> Value {
        let engine = self.spec.engine();
        let shown = self
            .vtysh(&format!("show bgp neighbors {engine} json"))
            .await;
        json(&shown)[engine].clone()
    }

    async fn gobgp_neighbor(&self) -> Value {
        json(&self.gobgp(&["neighbor", self.spec.engine(), "-j"]).await)
    }

    async fn openbgpd_neighbor(&self) -> Value {
        let shown = self
            .bgpctl(&["-j", "show", "neighbor", self.spec.engine()])
            .await;
        json(&shown)["neighbors"][0].clone()
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

/// Of the line that has this in it.
fn last_word(shown: &str, line: &str) -> String {
    let line = shown.lines().find(|l| l.contains(line));
    line.and_then(|l| l.split_whitespace().last())
        .unwrap_or_default()
        .to_owned()
}
