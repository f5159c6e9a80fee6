//! Measurements behind every number that the project claims: each beside a peer or a bare program, in the same run, interleaved.
//! Each is a target `bench-…` of the Makefile.
//!
//! Everything happens in network namespaces that are removed at the end, also after a failure; the controller is measured on loopback.

mod bfd_load;
mod bgp;
mod control;
mod controller;
mod failover;
mod fib;
mod member;
mod native;
mod net;
mod placement;
mod price;
mod report;
mod resiliency;
mod router;
mod speaker;
mod steering;
mod storm;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(
    about = "Measure the engine: routing beside BIRD in its place, steering beside bare programs, flows beside HAProxy"
)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// `table` or `json`.
    #[arg(short, long, global = true, default_value = "table")]
    output: cli::output::Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Announcements and withdrawals: one VIP, 1,000 and 10,000 VIPs, 64 engines with 100 VIPs each.
    Bgp(Amount),
    /// Failures: silent loss and SIGSTOP with BFD, kill, stop, start; 64 BFD sessions.
    Failover(Amount),
    /// The part of `failover` with 64 BFD sessions of one engine.
    Bfd(Amount),
    /// The steering program: nanoseconds per packet, by what becomes of it and the number of flows.
    Steering(steering::Args),
    /// Every flow of a VIP arrives at another engine at once; then a flood of forged packets.
    Storm(storm::Load),
    /// Flows while nodes come, go and die: engines beside HAProxy with BIRD.
    Resiliency(resiliency::Args),
    /// What steering costs flows that stay, beside the same traffic without it, and flows that move, beside those that stay.
    Price(price::Args),
    /// The controller with 64 engine stubs and 5,000 virtual services: writes beside the disk, reads, memory, start.
    Controller(controller::Args),
    /// The controller on an etcd of three members, with 500 and with 5,000 virtual services: writes beside the disk,
    /// placement, searches, engines that come back.
    Scale(controller::scale::Args),
    /// The document's two ways of scaling with the same load: what the primary has to do, beside engines that share by BGP.
    Native(native::Args),
    /// The controller killed amid its writes: what was acknowledged is there, and engines notice no more than a reconnect.
    Kills(controller::kills::Args),
    /// One speaker in this namespace, driven by lines on standard input.
    #[command(hide = true)]
    Member(member::Args),
    /// A controller for the engine in this namespace, driven in the same way.
    #[command(hide = true)]
    Control(control::Args),
    /// Many BFD sessions in this namespace.
    #[command(hide = true)]
    BfdEnd(bfd_load::EndArgs),
    /// Many flows from this namespace, driven in the same way.
    #[command(hide = true)]
    StormClient(storm::client::Args),
    /// Forged packets from this namespace.
    #[command(hide = true)]
    StormFlood(storm::flood::Args),
}

/// How much to measure.
#[derive(Debug, Clone, Copy, clap::Args)]
struct Amount {
    /// Repetitions of each measurement.
    #[arg(long, default_value_t = 20)]
    runs: usize,
    /// Minutes instead of an hour: 3 repetitions, 8 engines, BFD for 60 s. Its times are not worth quoting, and only
    /// the BFD sessions must hold.
    #[arg(long)]
    short: bool,
    /// Seconds that the BFD sessions are watched for a flap.
    #[arg(long, default_value_t = 60)]
    bfd_seconds: u64,
    /// Only what is measured against this router.
    #[arg(long, value_name = "ROUTER")]
    router: Option<router::Kind>,
}

impl Amount {
    fn runs(self) -> usize {
        if self.short { 3 } else { self.runs }
    }

    fn engines(self) -> usize {
        if self.short { 8 } else { 64 }
    }

    fn routers(self) -> impl Iterator<Item = router::Kind> {
        let wanted = move |kind: &router::Kind| self.router.is_none_or(|only| only == *kind);
        router::Kind::BOTH.into_iter().filter(wanted)
    }

    fn bfd_seconds(self) -> u64 {
        if self.short { 60 } else { self.bfd_seconds }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    cli::output::set_format(args.output);
    let done = match args.command {
        Command::Bgp(amount) => measure(bgp::run(amount), amount.short, args.output),
        Command::Failover(amount) => measure(failover::run(amount), amount.short, args.output),
        Command::Bfd(amount) => measure(bfd_load::run(amount), amount.short, args.output),
        Command::Storm(load) => measure(storm::run(load), load.short, args.output),
        Command::Steering(how) => steering::run(how, args.output),
        Command::Resiliency(how) => resiliency::show(how, args.output),
        Command::Price(how) => price::show(how, args.output),
        Command::Native(how) => native::show(how, args.output),
        Command::Kills(how) => controller::kills::show(&how, args.output),
        Command::Controller(how) => controller::show(how, args.output),
        Command::Scale(how) => controller::scale::show(how, args.output),
        Command::Member(args) => member::run(&args),
        Command::Control(args) => control::run(&args),
        Command::BfdEnd(args) => bfd_load::run_end(&args),
        Command::StormClient(args) => storm::client::run(&args),
        Command::StormFlood(args) => storm::flood::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::output::failure(&error),
    }
}

/// Prints what was measured; fails when a bar does not hold.
fn measure(
    rows: anyhow::Result<Vec<report::Measured>>,
    short: bool,
    output: cli::output::Format,
) -> anyhow::Result<()> {
    let rows = rows?;
    report::print(&rows, output);
    report::judge(&rows, short)
}
