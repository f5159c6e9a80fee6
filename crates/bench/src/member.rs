//! One speaker of the product as a process of its own, so that it can be stopped, killed and weighed. It is driven
//! by lines on standard input: `announce FIRST COUNT`, `withdraw`, `status`; SIGTERM ends it gracefully.

use anyhow::{Context, Result};
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
    /// BFD in milliseconds, times three.
    #[arg(long)]
    bfd: Option<u32>,
    /// Announce these at once, as an engine does that starts with its last good state.
    #[arg(long, num_args = 2, value_names = ["FIRST", "COUNT"])]
    announce: Vec<String>,
}

/// Its answer to `status`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) established: bool,
    pub(crate) bfd: String,
    pub(crate) updates_out: u64,
    pub(crate) routes_sent: usize,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(args))
}

async fn serve(args: &Args) -> Result<()> {
    let speaker = Speaker::spawn();
    let mut desired = desired(args);
    if let [first, count] = args.announce.as_slice() {
        announce(&mut desired, first, count)?;
    }
    speaker.apply(desired.clone());
    let mut lines = input();
    let mut term = signal(SignalKind::terminate())?;
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            _ = term.recv() => None,
        };
        let Some(line) = line else { break };
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["announce", first, count] => {
                announce(&mut desired, first, count)?;
                speaker.apply(desired.clone());
            }
            ["withdraw"] => {
                desired.routes.clear();
                speaker.apply(desired.clone());
            }
            ["status"] => cli::out!("{}", serde_json::to_string(&status(&speaker))?),
            other => anyhow::bail!("unknown command {other:?}"),
        }
    }
    speaker.shutdown("bench", Duration::from_secs(5)).await;
    Ok(())
}

/// Lines of standard input; the thread ends with it.
fn input() -> mpsc::UnboundedReceiver<String> {
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

fn announce(desired: &mut BgpDesired, first: &str, count: &str) -> Result<()> {
    let first: Ipv4Addr = first.parse().context("announce FIRST COUNT")?;
    let count: u32 = count.parse().context("announce FIRST COUNT")?;
    let addresses = (0..count).map(|n| Ipv4Addr::from_bits(first.to_bits() + n));
    desired.routes = addresses
        .map(|a| (a.into(), Announcement::default()))
        .collect();
    Ok(())
}

fn status(speaker: &SpeakerHandle) -> Status {
    let sessions = speaker.status().borrow().clone();
    let session = sessions.first().cloned().unwrap_or_default();
    Status {
        established: session.state() == v1::BgpState::Established,
        bfd: session.bfd_state,
        updates_out: session.updates_out,
        routes_sent: session.routes.iter().filter(|r| r.sent).count(),
    }
}

fn desired(args: &Args) -> BgpDesired {
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
        bfd: args.bfd.is_some(),
        ..v1::BgpPeer::default()
    };
    let interface = v1::Interface {
        name: "eth0".to_owned(),
        up: true,
        addresses: vec![format!("{}/16", args.address)],
        ..v1::Interface::default()
    };
    BgpDesired {
        profile: Some(v1::BgpProfile {
            local_as: 65001,
            ibgp: true,
            peers: vec![peer],
            ..v1::BgpProfile::default()
        }),
        bfd: args.bfd.map(|ms| v1::BfdProfile {
            min_rx_ms: ms,
            min_tx_ms: ms,
            multiplier: 3,
        }),
        sessions_wanted: true,
        interfaces: vec![interface],
        ..BgpDesired::default()
    }
}
