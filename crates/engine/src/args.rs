//! Settings of the process: flags, and a TOML file with the same names; flags win.

use crate::sysctl;
use anyhow::{Context as _, bail};
use dataplane::steering::Attach;
use model::log;
use proto::join_token::JoinToken;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const CONFIG: &str = "/etc/evenkeel/engine.toml";
const STATE_DIR: &str = "/var/lib/evenkeel/engine";
const BPF_DIR: &str = "/run/evenkeel/bpf";
const CONTROLLER_PORT: u16 = 8443;
/// Whoever stops an engine wants it stopped; who wants its flows to end by themselves scales it in first, or says how long.
const STOP_DRAIN_S: u64 = 0;
/// The join token, when no file gives it.
const TOKEN_VARIABLE: &str = "EVENKEEL_JOIN_TOKEN";

/// Settings of `evenkeel engine`.
#[derive(Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Args {
    /// TOML file with these settings [default: /etc/evenkeel/engine.toml if it exists]
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Controllers to dial; the port is 8443 when left out
    #[arg(long, value_name = "HOST[:PORT]", value_delimiter = ',')]
    controllers: Vec<String>,
    /// Name of this engine as operators see it [default: the host's name]
    #[arg(long)]
    name: Option<String>,
    /// Host that this engine shares with others, so that a virtual service's engines are on several: same words on all of
    /// them [default: the running kernel, which containers share and virtual machines do not]
    #[arg(long, value_name = "WORDS")]
    host: Option<String>,
    /// Folder for the identity and the last good state [default: /var/lib/evenkeel/engine]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// File with the join token; needed at first start only [default: $EVENKEEL_JOIN_TOKEN]
    #[arg(long, value_name = "FILE")]
    join_token_file: Option<PathBuf>,
    /// Interface that carries no traffic of virtual services; may be repeated
    #[arg(long, value_name = "NAME")]
    mgmt_interface: Vec<String>,
    /// Interface that carries traffic of virtual services; may be repeated [default: all but lo and --mgmt-interface]
    #[arg(long, value_name = "NAME")]
    data_interface: Vec<String>,
    /// How long connections may go on after the routes are withdrawn, when the engine is told to stop [default: 0]
    #[arg(long, value_name = "SECONDS")]
    stop_drain_s: Option<u64>,
    /// Folder for the programs that steer packets; steering goes on there without this process. A BPF file system is
    /// mounted on it where it is on none [default: /run/evenkeel/bpf]
    #[arg(long, value_name = "DIR")]
    bpf_dir: Option<PathBuf>,
    /// Where packets meet steering: native XDP where the driver has it and the interface is no veth, else tc (auto); tc
    /// alone (tc); native XDP wherever it can be, with the reason where it cannot (xdp) [default: auto]
    #[arg(long, value_name = "HOOK")]
    steering_attach: Option<SteeringAttach>,
    /// Address of this engine's own /metrics, for Prometheus; without TLS and login, so give one that only collectors reach,
    /// such as 127.0.0.1:9185 [default: none]
    #[arg(long, value_name = "IP:PORT")]
    metrics_listen: Option<SocketAddr>,
    /// Form of the log: text, or one JSON object a line [default: json under systemd, else text]
    #[arg(long, value_name = "text|json")]
    log_format: Option<log::Format>,
    /// What is logged: error, warn, info, debug or trace, also by part (info,evenkeel_engine=debug)
    /// [default: $EVENKEEL_LOG, else info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    #[command(subcommand)]
    #[serde(skip)]
    action: Option<Action>,
}

/// Words of `steering_attach`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SteeringAttach {
    Auto,
    Tc,
    Xdp,
}

impl From<SteeringAttach> for Attach {
    fn from(word: SteeringAttach) -> Self {
        match word {
            SteeringAttach::Auto => Self::Auto,
            SteeringAttach::Tc => Self::Tc,
            SteeringAttach::Xdp => Self::Xdp,
        }
    }
}

/// What to do instead of running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Subcommand)]
pub(crate) enum Action {
    /// Remove the steering programs that an engine has left in the kernel; connections that were moved to this host break
    Detach,
}

/// Where an engine leaves something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folders {
    /// Pinned programs.
    pub bpf: PathBuf,
    /// What it has changed on the host, among other things.
    pub state: PathBuf,
}

/// Settings in force.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// `host:port`, at least one.
    pub controllers: Vec<String>,
    pub name: String,
    /// What tells its host from others.
    pub host: String,
    pub state_dir: PathBuf,
    pub interfaces: InterfaceFilter,
    /// Most time for connections to end after the routes are withdrawn.
    pub stop_drain: Duration,
    /// Where steering programs are pinned.
    pub bpf_dir: PathBuf,
    /// And attached.
    pub steering_attach: Attach,
    /// Where metrics are told, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
    join_token_file: Option<PathBuf>,
}

/// Which interfaces carry traffic of virtual services.
#[derive(Debug, Clone, Default)]
pub(crate) struct InterfaceFilter {
    data: Vec<String>,
    mgmt: Vec<String>,
}

impl InterfaceFilter {
    pub(crate) fn is_data(&self, name: &str) -> bool {
        let named = self.data.is_empty() || self.data.iter().any(|n| n == name);
        name != "lo" && named && !self.mgmt.iter().any(|n| n == name)
    }
}

impl Args {
    /// Flags over file over defaults.
    pub(crate) fn settle(self) -> anyhow::Result<Settings> {
        let file = self.file()?;
        let list =
            |flags: Vec<String>, file: Vec<String>| if flags.is_empty() { file } else { flags };
        let controllers = list(self.controllers, file.controllers);
        if controllers.is_empty() {
            bail!("controllers: is required; give --controllers HOST[:PORT] or set it in {CONFIG}");
        }
        let name = self.name.or(file.name).map_or_else(host_name, Ok)?;
        Ok(Settings {
            controllers: controllers.into_iter().map(with_port).collect(),
            name,
            host: self
                .host
                .or(file.host)
                .unwrap_or_else(sysctl::running_kernel),
            state_dir: state_dir(self.state_dir, file.state_dir),
            interfaces: InterfaceFilter {
                data: list(self.data_interface, file.data_interface),
                mgmt: list(self.mgmt_interface, file.mgmt_interface),
            },
            stop_drain: Duration::from_secs(
                self.stop_drain_s
                    .or(file.stop_drain_s)
                    .unwrap_or(STOP_DRAIN_S),
            ),
            bpf_dir: bpf_dir(self.bpf_dir, file.bpf_dir),
            steering_attach: (self.steering_attach.or(file.steering_attach))
                .map_or_else(Attach::default, Into::into),
            metrics_listen: self.metrics_listen.or(file.metrics_listen),
            join_token_file: self.join_token_file.or(file.join_token_file),
        })
    }

    /// How this process writes its log. A file that cannot be read says nothing here; [`crate::run`] says why.
    pub fn log(&self) -> log::Settings {
        let file = self.file().unwrap_or_default();
        log::Settings {
            format: self.log_format.or(file.log_format),
            level_flag: self.log_level.clone(),
            level_file: file.log_level,
        }
    }

    /// What to do instead of running, and where an engine leaves something.
    pub(crate) fn action(&self) -> anyhow::Result<Option<(Action, Folders)>> {
        let Some(action) = self.action else {
            return Ok(None);
        };
        let file = self.file()?;
        let folders = Folders {
            bpf: bpf_dir(self.bpf_dir.clone(), file.bpf_dir),
            state: state_dir(self.state_dir.clone(), file.state_dir),
        };
        Ok(Some((action, folders)))
    }

    fn file(&self) -> anyhow::Result<Self> {
        let path = match &self.config {
            Some(path) => path.as_path(),
            None if Path::new(CONFIG).exists() => Path::new(CONFIG),
            None => return Ok(Self::default()),
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is wrong", path.display()))
    }
}

impl Settings {
    /// The join token, from the file or the environment.
    pub(crate) fn join_token(&self) -> anyhow::Result<JoinToken> {
        let text = match &self.join_token_file {
            Some(path) => std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
            None => std::env::var(TOKEN_VARIABLE).with_context(|| {
                format!("the engine has not joined yet: give --join-token-file or {TOKEN_VARIABLE}; make a token with `evenkeel jointoken create`")
            })?,
        };
        Ok(JoinToken::decode(&text)?)
    }
}

fn state_dir(flag: Option<PathBuf>, file: Option<PathBuf>) -> PathBuf {
    flag.or(file).unwrap_or_else(|| STATE_DIR.into())
}

fn bpf_dir(flag: Option<PathBuf>, file: Option<PathBuf>) -> PathBuf {
    flag.or(file).unwrap_or_else(|| BPF_DIR.into())
}

fn host_name() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .context("cannot read the host's name; give --name")?;
    Ok(text.trim().to_owned())
}

/// A port is there when what follows the last colon is one, and the address before it is no bare IPv6.
fn with_port(text: String) -> String {
    let has_port = match text.rsplit_once(':') {
        Some((host, port)) => {
            port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
        }
        None => false,
    };
    match text.parse::<std::net::Ipv6Addr>() {
        Ok(v6) => format!("[{v6}]:{CONTROLLER_PORT}"),
        Err(_) if has_port => text,
        Err(_) => format!("{text}:{CONTROLLER_PORT}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_without_a_port_gets_the_default() {
        assert_eq!(with_port("ctl".into()), "ctl:8443");
        assert_eq!(with_port("10.0.0.1:9".into()), "10.0.0.1:9");
        assert_eq!(with_port("2001:db8::1".into()), "[2001:db8::1]:8443");
        assert_eq!(with_port("[2001:db8::1]:9".into()), "[2001:db8::1]:9");
    }

    #[test]
    fn the_management_interface_carries_no_traffic() {
        let filter = InterfaceFilter {
            data: vec![],
            mgmt: vec!["mgmt0".into()],
        };
        assert!(filter.is_data("eth0") && !filter.is_data("mgmt0") && !filter.is_data("lo"));
        let filter = InterfaceFilter {
            data: vec!["eth1".into()],
            mgmt: vec![],
        };
        assert!(filter.is_data("eth1") && !filter.is_data("eth0"));
    }

    #[test]
    fn a_file_with_an_unknown_key_is_refused_with_its_name() {
        let error = toml::from_str::<Args>("controller = \"x\"")
            .expect_err("refused")
            .to_string();
        assert!(error.contains("controller"), "{error}");
    }

    #[test]
    fn metrics_and_log_are_set_by_the_file_and_a_wrong_word_is_refused() {
        let text =
            "metrics_listen = \"127.0.0.1:9185\"\nlog_format = \"json\"\nlog_level = \"debug\"";
        let args: Args = toml::from_str(text).expect("known settings");
        assert_eq!(args.metrics_listen, "127.0.0.1:9185".parse().ok());
        assert_eq!(args.log_format, Some(log::Format::Json));
        assert_eq!(args.log_level.as_deref(), Some("debug"));
        for text in ["metrics_listen = \"9185\"", "log_format = \"xml\""] {
            let error = toml::from_str::<Args>(text).expect_err("refused");
            let name = text.split(' ').next().expect("a name");
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn where_steering_is_attached_is_one_of_three_words() {
        for (text, expected) in [
            ("", Attach::Auto),
            ("steering_attach = \"auto\"", Attach::Auto),
            ("steering_attach = \"tc\"", Attach::Tc),
            ("steering_attach = \"xdp\"", Attach::Xdp),
        ] {
            let args: Args = toml::from_str(text).expect("one of them");
            let word = args.steering_attach;
            assert_eq!(word.map_or_else(Attach::default, Into::into), expected);
        }
        let error = toml::from_str::<Args>("steering_attach = \"generic\"").expect_err("refused");
        assert!(error.to_string().contains("generic"), "{error}");
    }
}
