//! The `evenkeel` binary: argument parsing and wiring of the subcommands; nothing else lives here.

mod log;

use clap::{Parser, Subcommand};
use dataplane::process;
use model::log::Settings;
use std::process::ExitCode;
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// A load balancer whose virtual services grow and shrink while every flow stays upright.
#[derive(Parser)]
#[command(name = "evenkeel", version, infer_subcommands = true)]
struct Args {
    #[command(flatten)]
    global: cli::GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the controller: REST API, store, planner, engine sessions.
    Controller(controller::Args),
    /// Run a service engine: it announces VIPs and carries traffic.
    Engine(engine::Args),
    /// Build a lab of network namespaces with a real router, and run scenarios in it.
    #[command(subcommand)]
    Lab(lab::Command),
    #[command(flatten)]
    Cli(cli::Command),
}

fn main() -> ExitCode {
    let args = Args::parse();
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    match args.command {
        Command::Controller(daemon) => run_daemon(&daemon.log(), || controller::run(daemon)),
        Command::Engine(daemon) => run_daemon(&daemon.log(), || engine::run(daemon)),
        Command::Lab(command) => {
            cli::output::set_format(args.global.output);
            lab::run(command).unwrap_or_else(|e| cli::output::failure(&e))
        }
        Command::Cli(command) => cli::run(command, &args.global),
    }
}

fn run_daemon(log: &Settings, run: impl FnOnce() -> anyhow::Result<()>) -> ExitCode {
    let started = log::start(log);
    if let Err(error) = process::raise_open_files() {
        tracing::warn!(%error, "cannot raise the limit of open files; many connections will be refused");
    }
    match started.and_then(|()| run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "stopped");
            ExitCode::FAILURE
        }
    }
}
