//! Commands that talk to a controller, and their renderers.
//!
//! Every command is a client of the public API, without privileges: what it does can be done with curl.
//!
//! * [`settings`]: which controller, as whom;
//! * [`output`]: everything that is printed;
//! * a module per command: it gets a logged-in client and returns a value, which a renderer shows.

mod anew;
pub mod apply;
mod clear;
mod delete;
mod explain;
mod history;
mod jointoken;
pub mod lookup;
pub mod output;
mod plan;
mod roles;
mod scale;
mod sealkey;
pub mod settings;
pub mod show;
mod support;
mod token;
mod trace;
mod transfer;

pub use settings::GlobalArgs;

use client::Client;
use output::Outcome;
use settings::Settings;
use std::process::ExitCode;

/// The commands that need a controller.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show what is configured and what is observed.
    #[command(subcommand)]
    Show(show::Show),
    /// Say why: the conditions of something, in order, and the first that fails.
    #[command(subcommand)]
    Explain(explain::Explain),
    /// Follow something through all service engines, live.
    #[command(subcommand)]
    Trace(trace::Trace),
    /// Reset something that comes back by itself, or counters.
    #[command(subcommand)]
    Clear(clear::Clear),
    /// Add a service engine to a virtual service.
    #[command(subcommand)]
    Scaleout(scale::Scaleout),
    /// Take a service engine from a virtual service.
    #[command(subcommand)]
    Scalein(scale::Scalein),
    /// Move a virtual service from one service engine to another.
    #[command(subcommand)]
    Migrate(scale::Migrate),
    /// Make the standby service engine of a virtual service its active one, or of all that an engine is active for.
    #[command(subcommand)]
    Switchover(scale::Switchover),
    /// Make the engines of a pair active for what belongs on them.
    #[command(subcommand)]
    Redistribute(roles::Redistribute),
    /// Look at the placement of a virtual service now, and say what came of it.
    #[command(subcommand)]
    Retryplacement(anew::Retryplacement),
    /// Send service engines what they are to do once more, made anew.
    #[command(subcommand)]
    Resync(anew::Resync),
    /// Make clients of TLS agree anew.
    #[command(subcommand)]
    Rotatekeys(anew::Rotatekeys),
    /// Start a service engine anew, in its place.
    #[command(subcommand)]
    Reboot(anew::Reboot),
    /// Create or change the objects that a file describes; a second time changes nothing.
    Apply(apply::Args),
    /// Delete an object by type and name.
    Delete(delete::Args),
    /// Undo a change by its revision (`show audit` has it), or set one object back.
    Revert(history::Revert),
    /// Keep a change that would revert itself otherwise.
    Confirm(history::Confirm),
    /// Save everything that a new controller needs to be this one, secrets and keys included.
    Backup(transfer::Backup),
    /// Write the configuration as one JSON file, secrets masked.
    Export(transfer::Export),
    /// Bring in a file of `export` as one change.
    Import(transfer::Import),
    /// Tokens by which engines join.
    #[command(subcommand)]
    Jointoken(jointoken::Command),
    /// Keys that seal secrets in the controller's store.
    #[command(subcommand)]
    Sealkey(sealkey::Command),
    /// For whoever helps: a bundle of what he asks for, without secrets.
    #[command(subcommand)]
    Support(support::Command),
    /// API tokens, with which scripts call in place of a password.
    #[command(subcommand)]
    Token(token::Command),
}

/// Runs a command: prints its result, or its error, and says how to exit.
pub fn run(command: Command, args: &GlobalArgs) -> ExitCode {
    output::set_format(args.output);
    match execute(command, args) {
        Ok(outcome) => output::finish(outcome),
        Err(error) => output::failure(&error),
    }
}

fn execute(command: Command, args: &GlobalArgs) -> anyhow::Result<Outcome> {
    // A file is read before a connection is made: a typing error is found without a controller.
    let command = command.prepare()?;
    let connect = || -> anyhow::Result<Client> {
        let mut client = Settings::load(args)?.connect()?;
        if let Some(message) = &args.message {
            client.set_message(message);
        }
        Ok(client)
    };
    let format = args.output;
    match command {
        Prepared::Show(show) => show::run(&connect()?, &show, format)?,
        Prepared::Explain(explain) => explain::run(&connect()?, &explain, format)?,
        Prepared::Trace(trace) => trace::run(&connect()?, &trace, format)?,
        Prepared::Clear(clear) => clear::run(&connect()?, &clear, format)?,
        Prepared::Scaleout(scaleout) => scale::out(&connect()?, &scaleout, format)?,
        Prepared::Scalein(scalein) => scale::in_(&connect()?, &scalein, format)?,
        Prepared::Migrate(migrate) => scale::migrate(&connect()?, &migrate, format)?,
        Prepared::Switchover(over) => scale::switch_over(&connect()?, &over, format)?,
        Prepared::Redistribute(group) => roles::redistribute(&connect()?, &group, format)?,
        Prepared::Retryplacement(of) => anew::retry_placement(&connect()?, &of, format)?,
        Prepared::Resync(of) => anew::resync(&connect()?, &of, format)?,
        Prepared::Rotatekeys(of) => anew::rotate_keys(&connect()?, &of, format)?,
        Prepared::Reboot(of) => anew::reboot(&connect()?, &of, format)?,
        Prepared::Apply(documents) => apply::run(&connect()?, &documents, format)?,
        Prepared::Delete(args) => delete::run(&connect()?, &args, format)?,
        Prepared::Revert(args) => history::revert(&connect()?, &args, format)?,
        Prepared::Confirm(args) => history::confirm(&connect()?, &args, format)?,
        Prepared::Backup(args) => transfer::backup(&connect()?, &args, format)?,
        Prepared::Export(args) => transfer::export(&connect()?, &args)?,
        Prepared::Import(file) => transfer::import(&connect()?, &file, format)?,
        Prepared::Jointoken(command) => jointoken::run(&connect()?, &command, format)?,
        Prepared::Sealkey(command) => sealkey::run(&connect()?, &command, format)?,
        Prepared::Token(command) => token::run(&connect()?, &command, format)?,
        // Also when no controller can be reached.
        Prepared::Support(command) => support::run(&command, args)?,
    }
    Ok(Outcome::Ok)
}

/// A command whose arguments and files have been read.
enum Prepared {
    Show(show::Show),
    Explain(explain::Explain),
    Trace(trace::Trace),
    Clear(clear::Clear),
    Scaleout(scale::Scaleout),
    Scalein(scale::Scalein),
    Migrate(scale::Migrate),
    Switchover(scale::Switchover),
    Redistribute(roles::Redistribute),
    Retryplacement(anew::Retryplacement),
    Resync(anew::Resync),
    Rotatekeys(anew::Rotatekeys),
    Reboot(anew::Reboot),
    Apply(apply::Manifest),
    Delete(delete::Args),
    Revert(history::Revert),
    Confirm(history::Confirm),
    Backup(transfer::Backup),
    Export(transfer::Export),
    Import(serde_json::Value),
    Jointoken(jointoken::Command),
    Sealkey(sealkey::Command),
    Token(token::Command),
    Support(support::Command),
}

impl Command {
    fn prepare(self) -> anyhow::Result<Prepared> {
        Ok(match self {
            Self::Show(show) => Prepared::Show(show),
            Self::Explain(explain) => Prepared::Explain(explain),
            Self::Trace(trace) => {
                trace.check()?;
                Prepared::Trace(trace)
            }
            Self::Clear(clear) => Prepared::Clear(clear),
            Self::Scaleout(scaleout) => Prepared::Scaleout(scaleout),
            Self::Scalein(scalein) => Prepared::Scalein(scalein),
            Self::Migrate(migrate) => Prepared::Migrate(migrate),
            Self::Switchover(over) => Prepared::Switchover(over),
            Self::Redistribute(group) => Prepared::Redistribute(group),
            Self::Retryplacement(of) => Prepared::Retryplacement(of),
            Self::Resync(of) => Prepared::Resync(of),
            Self::Rotatekeys(of) => Prepared::Rotatekeys(of),
            Self::Reboot(of) => Prepared::Reboot(of),
            Self::Apply(args) => Prepared::Apply(apply::Manifest::read(&args)?),
            Self::Delete(args) => Prepared::Delete(args),
            Self::Revert(args) => {
                args.check()?;
                Prepared::Revert(args)
            }
            Self::Confirm(args) => Prepared::Confirm(args),
            Self::Backup(args) => Prepared::Backup(args),
            Self::Export(args) => Prepared::Export(args),
            Self::Import(args) => Prepared::Import(args.read()?),
            Self::Jointoken(command) => Prepared::Jointoken(command),
            Self::Sealkey(command) => Prepared::Sealkey(command),
            Self::Token(command) => Prepared::Token(command),
            Self::Support(command) => Prepared::Support(command),
        })
    }
}

#[cfg(test)]
mod tests;
