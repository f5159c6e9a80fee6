//! The upstream router: FRR or BIRD, with every engine of the segment as a dynamic neighbor, ECMP and BFD.

use crate::net::{Network, file, run};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// FRR.
    Frr,
    /// BIRD.
    Bird,
}

impl Kind {
    pub(crate) const BOTH: [Self; 2] = [Self::Frr, Self::Bird];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Frr => "FRR",
            Self::Bird => "BIRD",
        }
    }
}

pub(crate) struct Router {
    daemons: Vec<Child>,
}

/// BFD in milliseconds, or none.
pub(crate) type Bfd = Option<u64>;

impl Router {
    pub(crate) fn start(kind: Kind, network: &Network, bfd: Bfd) -> Result<Self> {
        let dir = network.folder(&format!("router-{}", kind.name()))?;
        let mut router = Self {
            daemons: Vec::new(),
        };
        let namespace = network.router();
        match kind {
            Kind::Frr => router.start_frr(&namespace, &dir, bfd)?,
            Kind::Bird => {
                let config = bird(bfd);
                router.daemons.push(start_bird(&namespace, &dir, &config)?);
            }
        }
        // FRR looks at its listen ranges only once it has read its configuration.
        crate::fib::wait_for("the router to listen on port 179", || {
            Ok(run(&[
                "ss", "-N", &namespace, "-H", "-l", "-t", "-n", "sport", "=", ":179",
            ])?
            .contains(":179"))
        })?;
        Ok(router)
    }

    fn start_frr(&mut self, namespace: &str, dir: &Path, bfd: Bfd) -> Result<()> {
        run(&["chown", "frr:frr", &dir.display().to_string()])?;
        self.frr(namespace, dir, "zebra", "no zebra nexthop kernel enable\n")?;
        if let Some(ms) = bfd {
            let profile =
                format!("bfd\n profile fast\n  receive-interval {ms}\n  transmit-interval {ms}\n");
            self.frr(namespace, dir, "bfdd", &profile)?;
        }
        let watch = if bfd.is_some() {
            " neighbor SE bfd profile fast\n"
        } else {
            ""
        };
        let config = format!(
            "router bgp 65001
 bgp router-id 10.10.0.1
 neighbor SE peer-group
 neighbor SE remote-as 65001
 neighbor SE timers connect 1
{watch} bgp listen limit 200
 bgp listen range 10.10.0.0/16 peer-group SE
 address-family ipv4 unicast
  maximum-paths ibgp 64
"
        );
        self.frr(namespace, dir, "bgpd", &config)
    }

    fn frr(&mut self, namespace: &str, dir: &Path, daemon: &str, config: &str) -> Result<()> {
        let path = |suffix: &str| file(dir, &format!("{daemon}.{suffix}"));
        fs::write(path("conf"), config)?;
        run(&["chown", "frr:frr", &path("conf")])?;
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            namespace,
            &format!("/usr/lib/frr/{daemon}"),
        ]);
        command.args([
            "-f",
            &path("conf"),
            "-i",
            &path("pid"),
            "-z",
            &file(dir, "zserv.api"),
        ]);
        command.args([
            "--vty_socket",
            &dir.display().to_string(),
            "-A",
            "127.0.0.1",
            "-P",
            "0",
        ]);
        if daemon == "bfdd" {
            command.args(["--bfdctl", &path("sock")]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.daemons.push(
            command
                .spawn()
                .with_context(|| format!("start {daemon}: install frr"))?,
        );
        let socket = PathBuf::from(path("vty"));
        crate::fib::wait_for(&format!("{daemon} to start"), || Ok(socket.exists()))
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        for daemon in self.daemons.iter_mut().rev() {
            // It may have ended by itself.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// BIRD in a namespace; its control socket is `bird.ctl` in the folder.
pub(crate) fn start_bird(namespace: &str, dir: &Path, config: &str) -> Result<Child> {
    let (conf, control) = (file(dir, "bird.conf"), file(dir, "bird.ctl"));
    fs::write(&conf, config)?;
    // A killed BIRD leaves its socket.
    let _ = fs::remove_file(&control);
    let log = fs::File::create(dir.join("bird.out"))?;
    let mut command = Command::new("ip");
    command.args([
        "netns",
        "exec",
        namespace,
        "/usr/sbin/bird",
        "-f",
        "-c",
        &conf,
        "-s",
        &control,
    ]);
    command.args(["-P", &file(dir, "bird.pid")]);
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    command.spawn().context("start bird: install bird2")
}

/// `interface "*"` of BFD in milliseconds, times three.
pub(crate) fn bird_bfd(bfd: Bfd) -> String {
    bfd.map_or_else(String::new, |ms| {
        let interval = Duration::from_millis(ms).as_millis();
        format!("protocol bfd {{ interface \"*\" {{ interval {interval} ms; multiplier 3; }}; }}\n")
    })
}

fn bird(bfd: Bfd) -> String {
    let (protocol, watch) = (bird_bfd(bfd), if bfd.is_some() { "bfd on;" } else { "" });
    format!(
        "router id 10.10.0.1;
protocol device {{ scan time 1; }}
protocol kernel {{ merge paths on limit 64; ipv4 {{ import none; export where source = RTS_BGP; }}; }}
{protocol}protocol bgp se {{
    local 10.10.0.1 as 65001;
    neighbor range 10.10.0.0/16 as 65001;
    dynamic name \"se_\";
    direct; passive; {watch}
    error wait time 1, 2;
    ipv4 {{ import all; export none; }};
}}
"
    )
}
