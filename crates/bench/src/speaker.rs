//! What announces the VIPs: the product's speaker, or BIRD in its place.

use crate::fib::wait_for;
use crate::member::Status;
use crate::net::{Network, engine_address};
use crate::router::{Bfd, bird_bfd, start_bird};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Evenkeel,
    Bird,
}

impl Kind {
    pub(crate) const BOTH: [Self; 2] = [Self::Evenkeel, Self::Bird];
}

/// A process that announces; killed when it is dropped.
pub(crate) struct Speaker {
    kind: Kind,
    child: Child,
    pipes: Option<(ChildStdin, BufReader<ChildStdout>)>,
    /// BIRD's folder.
    dir: PathBuf,
}

/// What it is started with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec<'a> {
    /// Number of the engine in the network.
    pub(crate) engine: usize,
    pub(crate) bfd: Bfd,
    /// What can be announced; blocks do not overlap.
    pub(crate) vips: &'a [Block],
    /// The first block is announced from the start.
    pub(crate) at_once: bool,
}

/// Consecutive VIPs that are announced together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) first: Ipv4Addr,
    pub(crate) count: u32,
}

impl Block {
    pub(crate) fn one(vip: Ipv4Addr) -> Self {
        Self {
            first: vip,
            count: 1,
        }
    }

    pub(crate) fn vips(self) -> impl Iterator<Item = Ipv4Addr> {
        (0..self.count).map(move |n| Ipv4Addr::from_bits(self.first.to_bits() + n))
    }

    /// BIRD's name for the protocol that holds it.
    fn protocol(self) -> String {
        format!("vips_{}", self.first.to_string().replace('.', "_"))
    }
}

impl Speaker {
    pub(crate) fn start(kind: Kind, network: &Network, spec: Spec<'_>) -> Result<Self> {
        match kind {
            Kind::Evenkeel => Self::start_evenkeel(network, spec),
            Kind::Bird => Self::start_bird(network, spec),
        }
    }

    fn start_evenkeel(network: &Network, spec: Spec<'_>) -> Result<Self> {
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            &network.namespace(&format!("se{}", spec.engine)),
        ]);
        command
            .arg(std::env::current_exe()?)
            .args(["member", &engine_address(spec.engine)]);
        if let Some(ms) = spec.bfd {
            command.args(["--bfd", &ms.to_string()]);
        }
        if spec.at_once {
            let Block { first, count } = spec.vips[0];
            command.args(["--announce", &first.to_string(), &count.to_string()]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().context("stdin is piped")?;
        let output = BufReader::new(child.stdout.take().context("stdout is piped")?);
        Ok(Self {
            kind: Kind::Evenkeel,
            child,
            pipes: Some((input, output)),
            dir: PathBuf::new(),
        })
    }

    fn start_bird(network: &Network, spec: Spec<'_>) -> Result<Self> {
        let dir = network.folder(&format!("se{}", spec.engine))?;
        let namespace = network.namespace(&format!("se{}", spec.engine));
        let child = start_bird(&namespace, &dir, &bird_config(spec)?)?;
        Ok(Self {
            kind: Kind::Bird,
            child,
            pipes: None,
            dir,
        })
    }

    /// Announces one of the blocks of its [`Spec`], instead of what it has announced before.
    pub(crate) fn announce(&mut self, vips: Block) -> Result<()> {
        match self.kind {
            Kind::Evenkeel => self.say(&format!("announce {} {}", vips.first, vips.count)),
            Kind::Bird => self.tell(&format!("enable {}", vips.protocol())),
        }
    }

    pub(crate) fn withdraw(&mut self, vips: Block) -> Result<()> {
        match self.kind {
            Kind::Evenkeel => self.say("withdraw"),
            Kind::Bird => self.tell(&format!("disable {}", vips.protocol())),
        }
    }

    /// A command to BIRD, whose answer matters not.
    fn tell(&self, command: &str) -> Result<()> {
        self.ask(command).map(drop)
    }

    /// Resident memory of the process, in MiB.
    pub(crate) fn rss_mib(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let kib = line
            .and_then(|l| l.split_whitespace().next())
            .context("VmRSS")?;
        Ok(kib.parse::<f64>()? / 1024.0)
    }

    /// A command to our speaker, which answers nothing.
    fn say(&mut self, line: &str) -> Result<()> {
        let (input, _) = self
            .pipes
            .as_mut()
            .context("only our speaker is told by lines")?;
        writeln!(input, "{line}")?;
        input.flush().map_err(Into::into)
    }

    /// What our speaker says of itself.
    fn status(&mut self) -> Result<Status> {
        self.say("status")?;
        let (_, output) = self
            .pipes
            .as_mut()
            .context("only our speaker has a status")?;
        let mut line = String::new();
        output.read_line(&mut line)?;
        serde_json::from_str(&line).context("the status of the speaker")
    }

    /// UPDATEs that our speaker has sent; `None` of BIRD.
    pub(crate) fn updates(&mut self) -> Result<Option<u64>> {
        match self.kind {
            Kind::Evenkeel => Ok(Some(self.status()?.updates_out)),
            Kind::Bird => Ok(None),
        }
    }

    /// The same, once it has sent this many routes.
    pub(crate) fn updates_of(&mut self, routes: u32) -> Result<Option<u64>> {
        if self.kind == Kind::Evenkeel {
            let all = usize::try_from(routes)?;
            wait_for("every route to be sent", || {
                Ok(self.status()?.routes_sent == all)
            })?;
        }
        self.updates()
    }

    /// BIRD's answer; sent in one write, so that the clock may start before it.
    fn ask(&self, command: &str) -> Result<String> {
        let mut control = UnixStream::connect(self.dir.join("bird.ctl"))?;
        control.write_all(format!("{command}\n").as_bytes())?;
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        // A line that begins with four digits and a space ends the answer; the greeting is 0001.
        while !answered(&answer) {
            let read = control.read(&mut chunk)?;
            ensure!(read > 0, "BIRD has closed its control socket");
            answer.extend_from_slice(&chunk[..read]);
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// The session is established and, where it has BFD, that is up.
    pub(crate) fn is_ready(&mut self, bfd: Bfd) -> Result<bool> {
        match self.kind {
            Kind::Evenkeel => {
                let status = self.status()?;
                Ok(status.established && (bfd.is_none() || status.bfd == "up"))
            }
            Kind::Bird => {
                let Ok(shown) = self.ask("show protocols upstream") else {
                    return Ok(false);
                };
                Ok(shown.contains("Established") && self.bfd_ready(bfd))
            }
        }
    }

    fn bfd_ready(&self, bfd: Bfd) -> bool {
        bfd.is_none()
            || self
                .ask("show bfd sessions")
                .is_ok_and(|s| s.contains("Up"))
    }

    pub(crate) fn await_ready(&mut self, bfd: Bfd) -> Result<()> {
        let waited = wait_for("a speaker to be established", || self.is_ready(bfd));
        let Err(error) = waited else { return Ok(()) };
        let standing = match self.kind {
            Kind::Evenkeel => format!("{:?}", self.status()),
            Kind::Bird => format!("{:?}", self.ask("show protocols all upstream")),
        };
        Err(error.context(standing))
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("a pid")?;
        kill(Pid::from_raw(pid), signal).context("signal a speaker")
    }

    /// Ends with the process.
    pub(crate) fn wait(&mut self) -> Result<()> {
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn answered(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let last = |line: &str| {
        let code = line.get(..5).unwrap_or_default();
        code.ends_with(' ') && code[..4].chars().all(|c| c.is_ascii_digit()) && code != "0001 "
    };
    text.ends_with('\n') && text.lines().any(last)
}

fn bird_config(spec: Spec<'_>) -> Result<String> {
    let address = engine_address(spec.engine);
    let (bfd, watch) = (
        bird_bfd(spec.bfd),
        if spec.bfd.is_some() { "bfd on;" } else { "" },
    );
    let mut config = format!(
        "router id {address};
protocol device {{ scan time 1; }}
{bfd}protocol bgp upstream {{
    local {address} as 65001;
    neighbor 10.10.0.1 as 65001;
    direct; connect delay time 1; connect retry time 1; error wait time 1, 2; {watch}
    ipv4 {{ import none; export where source = RTS_STATIC; next hop self; }};
}}
"
    );
    for (index, block) in spec.vips.iter().enumerate() {
        let disabled = if spec.at_once && index == 0 {
            "no"
        } else {
            "yes"
        };
        let name = block.protocol();
        writeln!(
            config,
            "protocol static {name} {{ disabled {disabled}; ipv4;"
        )?;
        for vip in block.vips() {
            writeln!(config, "    route {vip}/32 blackhole;")?;
        }
        config += "}\n";
    }
    Ok(config)
}
