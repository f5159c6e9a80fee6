//! Namespaces with real FRR routers for one test, gone when the value is dropped.
//!
//! One namespace stands for the service engine, one for each router; router N and the engine share
//! the network 10.10.N.0/24 and 2001:db8:N::/64, the router is .1, the engine .11.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

const FRR_DIR: &str = "/usr/lib/frr";

/// Why namespace tests cannot run here, if they cannot.
fn obstacle() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    let programs = [
        format!("{FRR_DIR}/zebra"),
        format!("{FRR_DIR}/bgpd"),
        "/usr/bin/vtysh".to_owned(),
    ];
    programs
        .into_iter()
        .find(|p| !Path::new(p).exists())
        .map(|p| format!("{p} is missing: install frr"))
}

/// Whether to run; says loudly why not, and refuses to skip in CI.
pub fn can_run() -> bool {
    let Some(why) = obstacle() else {
        return true;
    };
    assert!(
        std::env::var_os("CI").is_none(),
        "CI must be able to run the namespace tests: {why}"
    );
    eprintln!("SKIPPED: {why}");
    false
}

/// Runs a command to its end; its standard output.
pub fn run(command: &[&str]) -> String {
    let output = Command::new(command[0])
        .args(&command[1..])
        .output()
        .expect("start a command");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The same without blocking the runtime, on which the speaker runs; failure is an empty answer.
pub async fn ask(program: &str, arguments: &[&str]) -> String {
    let output = tokio::process::Command::new(program)
        .args(arguments)
        .output()
        .await
        .expect("start a command");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub struct Router {
    pub namespace: String,
    dir: PathBuf,
    daemons: Vec<Child>,
}

pub struct Lab {
    prefix: String,
    pub routers: Vec<Router>,
    namespaces: Vec<String>,
    dir: tempfile::TempDir,
}

impl Lab {
    /// Starts one router per configuration of bgpd.
    pub fn up(bgpd_configs: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!(
            "ekb{}x{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir()
            .expect("temporary directory");
        run(&["chmod", "755", &dir.path().display().to_string()]);
        let mut lab = Self {
            prefix,
            routers: Vec::new(),
            namespaces: Vec::new(),
            dir,
        };
        lab.add_namespace("se");
        for (index, config) in bgpd_configs.iter().enumerate() {
            lab.add_router(index + 1, config);
        }
        lab
    }

    /// A namespace for a router that somebody else starts, linked with the engine's.
    pub fn bare() -> Self {
        Self::bare_links(1)
    }

    /// The same for several routers.
    pub fn bare_links(count: usize) -> Self {
        let mut lab = Self::up(&[]);
        for number in 1..=count {
            lab.add_link(number);
        }
        lab
    }

    /// The namespace at the other end of the engine's link of this number.
    pub fn link_namespace(&self, number: usize) -> String {
        format!("{}r{number}", self.prefix)
    }

    /// The same with another router on the way: the router is 10.10.9.1 and 2001:db8:9::1, and that one forwards.
    pub fn bare_over_a_hop() -> Self {
        let mut lab = Self::up(&[]);
        let (engine, hop) = (lab.engine_namespace(), lab.add_namespace("h1"));
        let router = lab.add_namespace("r1");
        connect(1, [(&engine, "eth1", 11), (&hop, "eth1", 2)]);
        connect(9, [(&hop, "eth9", 2), (&router, "eth0", 1)]);
        for forwarding in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
            run(&["ip", "netns", "exec", &hop, "sysctl", "-qw", forwarding]);
        }
        route_via(&engine, "10.10.9.0/24", "10.10.1.2");
        route_via(&engine, "2001:db8:9::/64", "2001:db8:1::2");
        route_via(&router, "10.10.1.0/24", "10.10.9.2");
        route_via(&router, "2001:db8:1::/64", "2001:db8:9::2");
        lab.namespaces.extend([hop, router]);
        lab
    }

    /// What the router on the way has not forwarded, most of all for its TTL.
    pub async fn dropped_by_the_hop(&self) -> u64 {
        let hop = format!("{}h1", self.prefix);
        kernel_counter(&hop, "InHdrErrors").await + kernel_counter(&hop, "Ip6InHdrErrors").await
    }

    /// Its name, and a folder for the router's files.
    pub fn bare_router(&self) -> (String, PathBuf) {
        let dir = self.dir.path().join("router");
        fs::create_dir(&dir).expect("router directory");
        run(&["chown", "frr:frr", &dir.display().to_string()]);
        (self.link_namespace(1), dir)
    }

    /// A counter of its kernel.
    pub async fn bare_counter(&self, name: &str) -> u64 {
        kernel_counter(&self.link_namespace(1), name).await
    }

    pub fn engine_namespace(&self) -> String {
        format!("{}se", self.prefix)
    }

    /// A counter of the engine's kernel.
    pub async fn engine_counter(&self, name: &str) -> u64 {
        kernel_counter(&self.engine_namespace(), name).await
    }

    /// The main table of the engine, IPv4.
    pub async fn engine_routes(&self) -> Vec<Value> {
        let text = ask(
            "ip",
            &["-n", &self.engine_namespace(), "-j", "route", "show"],
        )
        .await;
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn add_namespace(&self, name: &str) -> String {
        let namespace = format!("{}{name}", self.prefix);
        run(&["ip", "netns", "add", &namespace]);
        run(&["ip", "-n", &namespace, "link", "set", "lo", "up"]);
        // FRR refuses IPv6 sessions until duplicate address detection has let its link-local address go.
        run(&[
            "ip",
            "netns",
            "exec",
            &namespace,
            "sysctl",
            "-qw",
            "net.ipv6.conf.default.accept_dad=0",
        ]);
        namespace
    }

    fn add_link(&mut self, number: usize) -> String {
        let namespace = self.add_namespace(&format!("r{number}"));
        let engine = self.engine_namespace();
        let link = format!("eth{number}");
        connect(number, [(&engine, &link, 11), (&namespace, "eth0", 1)]);
        self.namespaces.push(namespace.clone());
        namespace
    }

    fn add_router(&mut self, number: usize, bgpd_config: &str) {
        let namespace = self.add_link(number);
        let dir = self.dir.path().join(format!("r{number}"));
        fs::create_dir(&dir).expect("router directory");
        run(&["chown", "frr:frr", &dir.display().to_string()]);
        let mut router = Router {
            namespace,
            dir,
            daemons: Vec::new(),
        };
        router.start("zebra", "no zebra nexthop kernel enable\n");
        router.start("bgpd", bgpd_config);
        self.routers.push(router);
    }
}

/// A cable between two namespaces: their names, the links and the last octets of the addresses.
fn connect(number: usize, ends: [(&str, &str, u8); 2]) {
    let [(a, link_a, _), (b, link_b, _)] = ends;
    run(&[
        "ip", "link", "add", link_a, "netns", a, "type", "veth", "peer", "name", link_b, "netns", b,
    ]);
    for (ns, link, host) in ends {
        let (v4, v6) = (
            format!("10.10.{number}.{host}/24"),
            format!("2001:db8:{number}::{host}/64"),
        );
        run(&["ip", "-n", ns, "address", "add", &v4, "dev", link]);
        run(&["ip", "-n", ns, "address", "add", &v6, "dev", link, "nodad"]);
        run(&["ip", "-n", ns, "link", "set", link, "up"]);
    }
}

fn route_via(namespace: &str, destination: &str, gateway: &str) {
    run(&[
        "ip",
        "-n",
        namespace,
        "route",
        "add",
        destination,
        "via",
        gateway,
    ]);
}

impl Drop for Lab {
    fn drop(&mut self) {
        for router in &mut self.routers {
            for daemon in &mut router.daemons {
                let _ = daemon.kill();
                let _ = daemon.wait();
            }
        }
        let mut namespaces = self.namespaces.clone();
        namespaces.push(self.engine_namespace());
        for namespace in namespaces {
            let _ = Command::new("ip")
                .args(["netns", "del", &namespace])
                .output();
        }
    }
}

impl Router {
    fn start(&mut self, daemon: &str, config: &str) {
        let path = |name: &str| self.dir.join(name).display().to_string();
        fs::write(path(&format!("{daemon}.conf")), config).expect("write a configuration");
        let program = format!("{FRR_DIR}/{daemon}");
        let (conf, pid, log) = (
            path(&format!("{daemon}.conf")),
            path(&format!("{daemon}.pid")),
            path(&format!("{daemon}.log")),
        );
        let child = Command::new("ip")
            .args([
                "netns",
                "exec",
                &self.namespace,
                &program,
                "-f",
                &conf,
                "-i",
                &pid,
                "-z",
                &path("zserv.api"),
            ])
            .args([
                "--vty_socket",
                &path(""),
                "-A",
                "127.0.0.1",
                "-P",
                "0",
                "--log",
                &format!("file:{log}"),
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start a daemon");
        self.daemons.push(child);
        await_file(Path::new(&path(&format!("{daemon}.vty"))));
    }

    /// The log of bgpd.
    pub fn said(&self) -> String {
        fs::read_to_string(self.dir.join("bgpd.log")).expect("bgpd has a log")
    }

    /// SIGKILL; the kernel closes the router's connections.
    pub fn kill_bgpd(&mut self) {
        let mut bgpd = self.daemons.pop().expect("bgpd is the last daemon");
        bgpd.kill().expect("kill bgpd");
        bgpd.wait().expect("reap bgpd");
        fs::remove_file(self.dir.join("bgpd.vty")).expect("socket of the killed bgpd");
    }

    pub fn start_bgpd(&mut self, config: &str) {
        self.start("bgpd", config);
    }

    /// The BFD daemon; without it the router knows no BFD.
    pub fn start_bfdd(&mut self) {
        self.start("bfdd", "");
        // `kill_bgpd` takes the last one.
        let last = self.daemons.len() - 1;
        self.daemons.swap(last - 1, last);
    }

    /// Commands of a running router, as an operator types them.
    pub async fn configure(&self, commands: &[&str]) {
        let dir = self.dir.display().to_string();
        let mut arguments = vec!["--vty_socket", &dir, "-c", "configure terminal"];
        for command in commands {
            arguments.extend(["-c", command]);
        }
        let said = ask("vtysh", &arguments).await;
        assert!(!said.contains('%'), "{commands:?}: {said}");
    }

    /// A show command of FRR, parsed.
    pub async fn show(&self, command: &str) -> Value {
        let dir = self.dir.display().to_string();
        let text = ask(
            "vtysh",
            &["--vty_socket", &dir, "-c", &format!("show {command} json")],
        )
        .await;
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// What FRR says about the engine as a neighbor.
    pub async fn neighbor(&self, address: &str) -> Value {
        self.show(&format!("bgp neighbors {address}")).await[address].clone()
    }

    /// Next hops of a host route in the kernel FIB.
    pub async fn fib(&self, vip: &str) -> Vec<String> {
        kernel_route(&self.namespace, vip).await
    }

    /// Number of BGP routes in the kernel FIB.
    pub async fn fib_len(&self) -> usize {
        ask(
            "ip",
            &["-n", &self.namespace, "-4", "route", "show", "proto", "bgp"],
        )
        .await
        .lines()
        .count()
    }

    /// A counter of the namespace's kernel, for example `TCPMD5Failure`.
    pub async fn kernel_counter(&self, name: &str) -> u64 {
        kernel_counter(&self.namespace, name).await
    }
}

/// A daemon makes it when it is ready.
pub fn await_file(file: &Path) {
    let until = Instant::now() + Duration::from_secs(10);
    while !file.exists() {
        assert!(Instant::now() < until, "{} did not appear", file.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Next hops of a host route in the kernel of a namespace.
pub async fn kernel_route(namespace: &str, vip: &str) -> Vec<String> {
    let family = if vip.contains(':') { "-6" } else { "-4" };
    let text = ask("ip", &["-n", namespace, "-j", family, "route", "show", vip]).await;
    let routes: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    // An IPv4 route with a gateway of the other family has it elsewhere.
    let hop = |route: &Value| {
        let gateway = route["gateway"].as_str().or(route["via"]["host"].as_str());
        gateway.map(str::to_owned)
    };
    routes
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(hop)
        .collect()
}

/// From its tables of names above values, or its list of names beside values.
async fn kernel_counter(namespace: &str, name: &str) -> u64 {
    let tables = ["netstat", "snmp", "snmp6"].map(|table| format!("/proc/net/{table}"));
    let [netstat, snmp, list] = &tables;
    let cat = ["netns", "exec", namespace, "cat", netstat, snmp, list];
    let text = ask("ip", &cat).await;
    let lines: Vec<&str> = text.lines().collect();
    let above = |pair: &[&str]| {
        let at = pair[0].split_whitespace().position(|n| n == name)?;
        pair[1].split_whitespace().nth(at)?.parse().ok()
    };
    let beside = |line: &&str| line.strip_prefix(name)?.trim().parse().ok();
    let in_tables = lines.windows(2).find_map(above);
    let value = in_tables.or_else(|| lines.iter().find_map(beside));
    value.unwrap_or_else(|| panic!("no kernel counter {name}"))
}

/// Runs a future on a runtime of its own thread, inside a namespace.
pub fn in_namespace<F: Future<Output = ()>>(namespace: &str, test: impl FnOnce() -> F + Send) {
    let path = format!("/run/netns/{namespace}");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let file = fs::File::open(path).expect("open the namespace");
            setns(file, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("runtime");
            runtime.block_on(test());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Polls until the probe is content; how long it took. Fails with what was seen last.
pub async fn wait_for(
    what: &str,
    within: Duration,
    mut probe: impl AsyncFnMut() -> Result<(), String>,
) -> Duration {
    let start = Instant::now();
    loop {
        match probe().await {
            Ok(()) => return start.elapsed(),
            Err(seen) => assert!(
                start.elapsed() < within,
                "waited {within:?} for {what}; seen last: {seen}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
