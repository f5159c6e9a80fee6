//! The lab's own helper processes: they run inside a namespace and know nothing of the lab but their arguments.
//!
//! `echo` and `http` are servers, `traffic` is a client, `capture` watches which next hop the router chooses. `watcher` asks who has a VIP,
//! `senders` sees who sends from it. The latter four
//! take commands as lines on standard input (`ID VERB`), answer each with a line of JSON that has `reply: ID`,
//! and end when their standard input ends: they cannot outlive the scenario that started them.

pub mod capture;
pub mod echo;
pub mod frame;
pub mod http;
pub mod senders;
pub mod traffic;
pub mod watcher;

use anyhow::{Context, Result};
use clap::Subcommand;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use std::io::Write;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// `evenkeel lab member …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// A server: says its name and whom it sees, then echoes checked frames; and datagrams.
    Echo(echo::Args),
    /// A server of large bodies of known content.
    Http(http::Args),
    /// A client: long-lived and short connections to a VIP, and downloads.
    Traffic(traffic::Args),
    /// Watches the next hop of every flow to a VIP.
    Capture(capture::Args),
    /// Asks again and again who has a VIP, and counts the answers.
    Watcher(watcher::Args),
    /// Counts who sends from a VIP.
    Senders(senders::Args),
}

/// Runs a member until it is told to end.
pub(crate) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Echo(args) => echo::run(args)?,
        Command::Http(args) => http::run(&args)?,
        Command::Traffic(args) => traffic::run(args)?,
        Command::Capture(args) => capture::run(&args)?,
        Command::Watcher(args) => watcher::run(args)?,
        Command::Senders(args) => senders::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A line on standard input.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Order {
    id: u64,
    verb: String,
}

impl Order {
    fn parse(line: &str) -> Option<Self> {
        let (id, verb) = line.trim().split_once(' ')?;
        Some(Self {
            id: id.parse().ok()?,
            verb: verb.to_owned(),
        })
    }
}

/// Orders from standard input, until it ends.
fn orders() -> impl Iterator<Item = Order> {
    let lines = std::io::stdin().lines().map_while(Result::ok);
    lines.filter_map(|line| Order::parse(&line))
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Writes a line of JSON; an error means that nobody listens any more.
fn say(value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(value).expect("a report is plain data");
    line.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(&line)
        .and_then(|()| stdout.flush())
        .context("nobody reads the reports")
}

/// A soft limit of 1024 descriptors is for programs that call select(2); a client of a thousand flows does not.
fn raise_descriptors() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Where it is refused, the flows that cannot be opened say so.
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok();
    }
}

/// Wall clock in microseconds: all members of a lab are on one machine, so they share it.
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_an_id_and_a_verb() {
        assert_eq!(
            Order::parse("7 mark\n"),
            Some(Order {
                id: 7,
                verb: "mark".into()
            })
        );
        assert_eq!(Order::parse("mark"), None);
        assert_eq!(Order::parse("x mark"), None);
    }
}
