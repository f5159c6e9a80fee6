//! What announces the VIPs: the whole engine, its speaker alone, or BIRD in its place.

use crate::control;
use crate::fib::wait_for;
use crate::member::Status;
use crate::net::{Network, engine_address};
use crate::placement::Placement;
use crate::router::{Bfd, bird_bfd, start_bird};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt::Write as _;
use std::fs::{File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// A clock tick of /proc: 100 per second on Linux, whatever its kernel does.
const TICK_MS: u64 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The product as it is shipped, with listeners, a pool and health checks; a controller beside it.
    Engine,
    /// Its speaker, through the interface for desired state.
    Speaker,
    Bird,
}

impl Kind {
    pub(crate) const ENGINE_AND_BIRD: [Self; 2] = [Self::Engine, Self::Bird];
    pub(crate) const SPEAKER_AND_BIRD: [Self; 2] = [Self::Speaker, Self::Bird];
}

/// A process that announces; killed when it is dropped.
pub(crate) struct Speaker {
    kind: Kind,
    child: Child,
    /// When that process was started.
    started: Instant,
    /// The engine's controller, or our speaker itself.
    told: Option<Told>,
    /// Of BIRD or the engine.
    dir: PathBuf,
}

/// A process that is told by lines.
pub(crate) struct Told {
    /// None when it is the speaker itself.
    controller: Option<Child>,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Told {
    /// Takes the pipes of a child.
    pub(crate) fn pipes(child: &mut Child) -> Result<Self> {
        Ok(Self {
            controller: None,
            input: child.stdin.take().context("stdin is piped")?,
            output: BufReader::new(child.stdout.take().context("stdout is piped")?),
        })
    }

    /// What it says next; empty when it has ended.
    pub(crate) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line)
    }

    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        self.input.write_all(format!("{line}\n").as_bytes())?;
        self.input.flush().map_err(Into::into)
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(controller) = &mut self.controller {
            // It may have ended by itself.
            let _ = controller.kill();
            let _ = controller.wait();
        }
    }
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
        let dir = network.folder(&format!("se{}", spec.engine))?;
        let mut told = match kind {
            Kind::Engine => Some(start_controller(network, spec, &dir)?),
            Kind::Speaker | Kind::Bird => None,
        };
        let started = Instant::now();
        let mut child = start_process(kind, network, spec, &dir)?;
        if kind == Kind::Speaker {
            told = Some(Told::pipes(&mut child)?);
        }
        Ok(Self {
            kind,
            child,
            started,
            told,
            dir,
        })
    }

    /// After its end, with what it was started with; the engine's controller has stayed.
    pub(crate) fn restart(&mut self, network: &Network, spec: Spec<'_>) -> Result<()> {
        self.child.wait()?;
        self.started = Instant::now();
        self.child = start_process(self.kind, network, spec, &self.dir)?;
        Ok(())
    }

    /// When the process was started.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Announces one of the blocks of its [`Spec`], instead of what it has announced before.
    pub(crate) fn announce(&mut self, vips: Block) -> Result<()> {
        match self.kind {
            Kind::Engine | Kind::Speaker => {
                self.say(&format!("announce {} {}", vips.first, vips.count))
            }
            Kind::Bird => self.tell(&format!("enable {}", vips.protocol())),
        }
    }

    pub(crate) fn withdraw(&mut self, vips: Block) -> Result<()> {
        match self.kind {
            Kind::Engine | Kind::Speaker => self.say("withdraw"),
            Kind::Bird => self.tell(&format!("disable {}", vips.protocol())),
        }
    }

    /// Tells an engine of a VIP that it holds with others.
    pub(crate) fn place(&mut self, placement: &Placement) -> Result<()> {
        self.say(&format!("place {}", serde_json::to_string(placement)?))
    }

    /// Until an engine has acknowledged what it was told last.
    pub(crate) fn await_in_force(&mut self) -> Result<()> {
        wait_for("an engine to acknowledge its state", || {
            self.say("in-force")?;
            Ok(self.told()?.line()? == "true\n")
        })
    }

    /// A command to BIRD, whose answer matters not.
    fn tell(&self, command: &str) -> Result<()> {
        self.ask(command).map(drop)
    }

    /// CPU time that the process has used; what the kernel does for it in interrupts is not in it.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The command in parentheses may contain anything; then come state and eleven others (proc_pid_stat(5)).
        let after = stat.rsplit_once(')').context("a command in parentheses")?.1;
        let fields = after.split_whitespace().skip(11).take(2);
        let ticks: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>()?;
        Ok(Duration::from_millis(ticks.iter().sum::<u64>() * TICK_MS))
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

    fn told(&mut self) -> Result<&mut Told> {
        self.told.as_mut().context("BIRD is not told by lines")
    }

    /// A command to ours, which answers nothing.
    fn say(&mut self, line: &str) -> Result<()> {
        self.told()?.say(line)
    }

    /// What ours says of itself.
    pub(crate) fn status(&mut self) -> Result<Status> {
        self.say("status")?;
        let line = self.told()?.line()?;
        serde_json::from_str(&line).context("the status of the speaker")
    }

    /// UPDATEs that ours has sent; `None` of BIRD.
    pub(crate) fn updates(&mut self) -> Result<Option<u64>> {
        match self.kind {
            Kind::Engine | Kind::Speaker => Ok(Some(self.status()?.updates_out)),
            Kind::Bird => Ok(None),
        }
    }

    /// The same, once it has sent this many routes.
    pub(crate) fn updates_of(&mut self, routes: u32) -> Result<Option<u64>> {
        if self.kind != Kind::Bird {
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
            Kind::Engine | Kind::Speaker => {
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
            Kind::Engine | Kind::Speaker => format!("{:?}", self.status()),
            Kind::Bird => format!("{:?}", self.ask("show protocols all upstream")),
        };
        Err(error.context(standing))
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("a pid")?;
        kill(Pid::from_raw(pid), signal).context("signal a speaker")
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn in_namespace(network: &Network, engine: usize) -> Command {
    let mut command = Command::new("ip");
    let namespace = network.namespace(&format!("se{engine}"));
    command.args(["netns", "exec", &namespace]);
    command
}

fn start_process(kind: Kind, network: &Network, spec: Spec<'_>, dir: &Path) -> Result<Child> {
    match kind {
        Kind::Engine => start_engine(network, spec, dir),
        Kind::Speaker => start_speaker(network, spec),
        Kind::Bird => {
            let namespace = network.namespace(&format!("se{}", spec.engine));
            start_bird(&namespace, dir, &bird_config(spec)?)
        }
    }
}

fn start_engine(network: &Network, spec: Spec<'_>, dir: &Path) -> Result<Child> {
    let log = File::create(dir.join("engine.log"))?;
    let mut command = in_namespace(network, spec.engine);
    command.args(control::engine_command(spec.engine, dir)?);
    command.arg("--bpf-dir").arg(network.pins(spec.engine));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("start the engine")
}

fn start_speaker(network: &Network, spec: Spec<'_>) -> Result<Child> {
    ensure!(
        spec.bfd.is_none() && !spec.at_once,
        "the speaker alone is told later, and has no BFD"
    );
    in_namespace(network, spec.engine)
        .arg(std::env::current_exe()?)
        .args(["member", &engine_address(spec.engine)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start a speaker")
}

/// With the engine's identity in the folder, and ready for the engine.
fn start_controller(network: &Network, spec: Spec<'_>, dir: &Path) -> Result<Told> {
    std::fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    let mut command = in_namespace(network, spec.engine);
    command.arg(std::env::current_exe()?).args([
        "control",
        &spec.engine.to_string(),
        &dir.display().to_string(),
    ]);
    if let Some(ms) = spec.bfd {
        command.args(["--bfd", &ms.to_string()]);
    }
    if spec.at_once {
        let Block { first, count } = spec.vips[0];
        command.args(["--announce", &first.to_string(), &count.to_string()]);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("start a controller")?;
    let mut told = Told::pipes(&mut child)?;
    told.controller = Some(child);
    let ready = told.line()?;
    ensure!(ready == "ready\n", "the controller says {ready:?}");
    Ok(told)
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
