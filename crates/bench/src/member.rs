//! The product's speaker alone, without listeners and pools, as a process of its own. It is driven by lines on standard
//! input: `announce FIRST COUNT`, `withdraw`, `status`; SIGTERM ends it gracefully.

use crate::placement::Placement;
use anyhow::{Context, Result, bail};
use engine::bgp::{Announcement, BgpDesired, Speaker, SpeakerHandle};
use proto::v1;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Our address on eth0.
    address: Ipv4Addr,
}

/// Its answer to `status`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) established: bool,
    pub(crate) bfd: String,
    pub(crate) updates_out: u64,
    pub(crate) routes_sent: usize,
    pub(crate) times_established: u64,
    /// Of all BFD sessions of an engine.
    pub(crate) bfd_downs: u64,
    /// Copies of probes that an engine's budget allows.
    pub(crate) copies_per_s: u32,
    /// Number of the engine's report that says it.
    pub(crate) report: u64,
}

impl Status {
    /// Of the session with the router; it may not be there yet.
    pub(crate) fn of(session: Option<v1::BgpSession>) -> Self {
        let session = session.unwrap_or_default();
        Self {
            established: session.state() == v1::BgpState::Established,
            bfd: session.bfd_state,
            updates_out: session.updates_out,
            routes_sent: session.routes.iter().filter(|r| r.sent).count(),
            times_established: session.times_established,
            bfd_downs: 0,
            copies_per_s: 0,
            report: 0,
        }
    }
}

/// A line on standard input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// These VIPs instead of those before.
    Announce(Vec<Ipv4Addr>),
    Withdraw,
    Status,
    /// A VIP with its group; for engines only.
    Place(Placement),
    /// Whether what was told last is in force; for engines only.
    InForce,
}

impl Input {
    pub(crate) fn parse(line: &str) -> Result<Self> {
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["announce", first, count] => Ok(Self::Announce(addresses(first, count)?)),
            ["withdraw"] => Ok(Self::Withdraw),
            ["status"] => Ok(Self::Status),
            ["place", placement] => Ok(Self::Place(serde_json::from_str(placement)?)),
            ["in-force"] => Ok(Self::InForce),
            other => bail!("unknown command {other:?}"),
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    on_one_thread(serve(args))
}

/// A process that is told by lines needs no more.
pub(crate) fn on_one_thread(serving: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serving)
}

async fn serve(args: &Args) -> Result<()> {
    let speaker = Speaker::spawn();
    let mut desired = desired(args);
    speaker.apply(desired.clone());
    let mut lines = input();
    let mut term = signal(SignalKind::terminate())?;
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            _ = term.recv() => None,
        };
        let Some(line) = line else { break };
        match Input::parse(&line)? {
            Input::Announce(vips) => announce(&speaker, &mut desired, &vips),
            Input::Withdraw => announce(&speaker, &mut desired, &[]),
            Input::Status => {
                let session = speaker.status().borrow().first().cloned();
                cli::out!("{}", serde_json::to_string(&Status::of(session))?);
            }
            Input::Place(_) | Input::InForce => bail!("a speaker alone has no group"),
        }
    }
    speaker.shutdown("bench", Duration::from_secs(5)).await;
    Ok(())
}

fn announce(speaker: &SpeakerHandle, desired: &mut BgpDesired, vips: &[Ipv4Addr]) {
    let routes = vips.iter().map(|a| ((*a).into(), Announcement::default()));
    desired.routes = routes.collect();
    speaker.apply(desired.clone());
}

/// Lines of standard input; the thread ends with it.
pub(crate) fn input() -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// `FIRST COUNT`: so many, one after the other.
pub(crate) fn addresses(first: &str, count: &str) -> Result<Vec<Ipv4Addr>> {
    let first: Ipv4Addr = first.parse().context("FIRST is an IPv4 address")?;
    let count: u32 = count.parse().context("COUNT is a number")?;
    let numbers = first.to_bits()..first.to_bits() + count;
    Ok(numbers.map(Ipv4Addr::from_bits).collect())
}

/// The router as the only peer.
pub(crate) fn profile(bfd: bool) -> v1::BgpProfile {
    let peer = v1::BgpPeer {
        address: "10.10.0.1".to_owned(),
        subnet: "10.10.0.0/16".to_owned(),
        remote_as: 65001,
        local_as: 65001,
        keepalive_s: 60,
        hold_time_s: 180,
        connect_timer_s: 1,
        advertisement_interval_s: 5,
        advertise_vip: true,
        bfd,
        ..v1::BgpPeer::default()
    };
    v1::BgpProfile {
        local_as: 65001,
        ibgp: true,
        peers: vec![peer],
        ..v1::BgpProfile::default()
    }
}

/// The same interval both ways, times three.
pub(crate) fn bfd_profile(milliseconds: u32) -> v1::BfdProfile {
    v1::BfdProfile {
        min_rx_ms: milliseconds,
        min_tx_ms: milliseconds,
        multiplier: 3,
    }
}

fn desired(args: &Args) -> BgpDesired {
    let interface = v1::Interface {
        name: "eth0".to_owned(),
        up: true,
        addresses: vec![format!("{}/16", args.address)],
        ..v1::Interface::default()
    };
    BgpDesired {
        profile: Some(profile(false)),
        sessions_wanted: true,
        interfaces: vec![interface],
        ..BgpDesired::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_vips_one_after_the_other() {
        let vips = ["10.99.0.255", "10.99.1.0"].map(|a| a.parse().expect("an address"));
        let parsed = Input::parse("announce 10.99.0.255 2").expect("understood");
        assert_eq!(parsed, Input::Announce(vips.to_vec()));
        for wrong in ["announce 10.99.0.1", "announce x 1", "", "stop"] {
            assert!(Input::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
