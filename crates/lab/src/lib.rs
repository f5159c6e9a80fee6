//! Network namespaces, routers, traffic and scenarios.
//!
//! ```text
//!  tests/topologies/NAME ──load──▶ topology ──▶ fabric    namespaces, bridges, links, routes, sysctls
//!  (data, also embedded)                   ├──▶ nodes     routers, servers, controller, engines as processes
//!                                          ├──▶ objects   the API objects, through the public API
//!                                          └──▶ scenario  steps under traffic, judged against bars
//! ```
//!
//! Everything that is made is on [`record`] first, so that `down` finds it after a crash of this program. The
//! members of a lab are processes in namespaces of their own with directories of their own; they share the
//! binary and nothing else. This program itself has no tasks: it is one thread, plus readers of its helpers'
//! output that end with the helper, plus short-lived threads that enter a namespace to make a call there.

pub mod fabric;
pub mod lifecycle;
pub mod member;
pub mod process;
pub mod record;
pub mod router;
pub mod scenario;
pub mod topology;

mod clock;
mod command;
mod control;
mod nodes;
mod status;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use cli::output::Outcome;
use lifecycle::UpOptions;
use record::Record;
use scenario::run::RunOptions;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use topology::Params;

/// What `lab up` builds when nothing is named: the document's network.
const DEFAULT_TOPOLOGY: &str = "ecmp-5se";

/// `evenkeel lab …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build a lab and leave it up. Takes the place of a lab that is already up, unless --run names another.
    Up(UpArgs),
    /// Take the lab down.
    Down(DownArgs),
    /// Show nodes, processes and the router's route.
    Status(WhichLab),
    /// Run a scenario and judge it; brings a lab up first where none is.
    Run(RunArgs),
    /// Place the virtual service on one SE more, and wait for the route.
    ScaleOut(ScaleArgs),
    /// Take the virtual service off one SE, and wait for the route.
    ScaleIn(ScaleArgs),
    /// Run a command in a node: `lab exec router vtysh …`.
    Exec(ExecArgs),
    /// List topologies and their scenarios.
    List,
    /// A process inside a lab; started by the lab itself.
    #[command(subcommand, hide = true)]
    Member(member::Command),
}

/// Which lab is meant.
#[derive(Debug, Clone, Default, Args)]
pub struct WhichLab {
    /// Id of the lab (1 to 8 characters of a-z and 0-9); labs with a chosen id stand beside each other.
    #[arg(long, value_name = "ID")]
    pub run: Option<String>,
}

/// Arguments of `lab up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// A built-in topology, or the path of a folder with a topology.toml.
    #[arg(default_value = DEFAULT_TOPOLOGY)]
    pub topology: String,
    #[command(flatten)]
    which: WhichLab,
    #[command(flatten)]
    settings: Settings,
    /// Only the network, the routers and the servers: no controller, no engines.
    #[arg(long)]
    pub bare: bool,
}

/// Parameters of a topology.
#[derive(Debug, Clone, Default, Args)]
pub struct Settings {
    /// Change a parameter of the topology.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = parse_setting)]
    pub set: Vec<(String, String)>,
    /// The upstream routers' software: short for `--set router=…`.
    #[arg(long, value_name = "KIND")]
    pub router: Option<router::RouterKind>,
}

impl Settings {
    fn params(&self) -> Params {
        let router = self.router.map(|kind| ("router".into(), kind.to_string()));
        self.set.iter().cloned().chain(router).collect()
    }
}

/// Arguments of `lab down`.
#[derive(Debug, Args)]
pub struct DownArgs {
    #[command(flatten)]
    which: WhichLab,
    /// Everything that any lab left, also without a record.
    #[arg(long, conflicts_with = "run")]
    pub all: bool,
}

/// Arguments of `lab run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The scenario: a file under the topology's scenarios folder.
    pub scenario: String,
    #[command(flatten)]
    which: WhichLab,
    /// Topology to bring up where no lab is; by default the one that has the scenario.
    #[arg(long)]
    pub topology: Option<String>,
    /// A mode of the scenario, or `all` of them one after the other; by default the first.
    #[arg(long)]
    pub mode: Option<String>,
    #[command(flatten)]
    settings: Settings,
    /// Bring a new lab up even where one is.
    #[arg(long)]
    pub fresh: bool,
    /// Take the lab down at the end.
    #[arg(long)]
    pub down: bool,
}

/// Arguments of `lab scale-out` and `lab scale-in`.
#[derive(Debug, Args)]
pub struct ScaleArgs {
    /// The virtual service; by default the topology's.
    pub virtual_service: Option<String>,
    #[command(flatten)]
    which: WhichLab,
}

/// Arguments of `lab exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    #[command(flatten)]
    which: WhichLab,
    /// The node.
    pub node: String,
    /// Program and arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Runs a lab command to its end.
///
/// # Errors
/// What could not be done, to which node, and why. A scenario that was judged and failed is no error but the
/// exit code 1.
pub fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Member(member) => return member::run(member),
        Command::List => list()?,
        other => {
            ensure!(
                nix::unistd::geteuid().is_root(),
                "the lab needs root: it makes network namespaces"
            );
            return run_as_root(other);
        }
    }
    Ok(cli::output::finish(Outcome::Ok))
}

fn run_as_root(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up(args) => up(args)?,
        Command::Down(args) if args.all => lifecycle::down_all()?,
        Command::Down(args) => {
            lifecycle::down(&lifecycle::id_to_take_down(args.which.run.as_deref())?)?
        }
        Command::Status(which) => status::show(&Record::find(which.run.as_deref())?)?,
        Command::Run(args) => return run_scenario(args),
        Command::ScaleOut(args) => scale(&args, scenario::Direction::Out)?,
        Command::ScaleIn(args) => scale(&args, scenario::Direction::In)?,
        Command::Exec(args) => return exec(&args),
        Command::List | Command::Member(_) => unreachable!("run() handles them without root"),
    }
    Ok(cli::output::finish(Outcome::Ok))
}

fn up(args: UpArgs) -> Result<()> {
    let options = UpOptions {
        topology: args.topology,
        id: args.which.run,
        settings: args.settings.params(),
        bare: args.bare,
    };
    let record = lifecycle::up(&options)?;
    status::hints(&record);
    Ok(())
}

fn run_scenario(args: RunArgs) -> Result<ExitCode> {
    let topology = args.topology.unwrap_or_else(|| {
        let found = topology::of_scenario(&args.scenario, DEFAULT_TOPOLOGY);
        found.to_owned()
    });
    let passed = scenario::run::run(&RunOptions {
        scenario: args.scenario,
        topology,
        id: args.which.run,
        mode: args.mode,
        settings: args.settings.params(),
        fresh: args.fresh,
        down: args.down,
    })?;
    Ok(cli::output::finish(if passed {
        Outcome::Ok
    } else {
        Outcome::Failed
    }))
}

fn scale(args: &ScaleArgs, direction: scenario::Direction) -> Result<()> {
    let record = Record::find(args.which.run.as_deref())?;
    status::scale(&record, args.virtual_service.as_deref(), direction)
}

fn exec(args: &ExecArgs) -> Result<ExitCode> {
    let record = Record::find(args.which.run.as_deref())?;
    record.topology()?.1.node(&args.node)?;
    let command = router::shell(&record.node_dir(&args.node), &args.command);
    let error = process::in_namespace(&record.namespace(&args.node), &command).exec();
    Err(error).context("start ip netns exec")
}

fn list() -> Result<()> {
    for name in topology::embedded_names() {
        let mut folder = topology::Folder::find(name)?;
        let topology = folder.load(&Params::new())?;
        cli::out!("{name}: {}", topology.description);
        for scenario in folder.scenarios()? {
            cli::out!("  scenario {scenario}");
        }
    }
    Ok(())
}
