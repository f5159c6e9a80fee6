//! The `evenkeel` binary: argument parsing and wiring of the subcommands; nothing else lives here.

use clap::{Parser, Subcommand};
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

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
        Command::Controller(daemon) => {
            dataplane::memory::give_back_large_blocks();
            run_daemon(|| controller::run(daemon))
        }
        Command::Engine(daemon) => run_daemon(|| engine::run(daemon)),
        Command::Lab(command) => {
            cli::output::set_format(args.global.output);
            lab::run(command).unwrap_or_else(|e| cli::output::failure(&e))
        }
        Command::Cli(command) => cli::run(command, &args.global),
    }
}

fn run_daemon(run: impl FnOnce() -> anyhow::Result<()>) -> ExitCode {
    start_log();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "stopped");
            ExitCode::FAILURE
        }
    }
}

/// Text on a terminal, JSON under systemd; `EVENKEEL_LOG` holds the filter (default `info`).
fn start_log() {
    let filter = EnvFilter::try_from_env("EVENKEEL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.json().init();
    } else {
        let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        log.with_ansi(color).init();
    }
}
