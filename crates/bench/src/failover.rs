//! Failures of an engine, from their cause to the router's kernel FIB, and the way back.

use crate::Amount;
use crate::bfd_load;
use crate::fib::{Fib, wait_for};
use crate::net::Network;
use crate::report::{Bar, Figures, Measured, tell};
use crate::router::{self, Router};
use crate::speaker::{Block, Kind, Speaker, Spec};
use anyhow::Result;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const BFD_MS: u64 = 50;

/// Some packets at the slow rate at which BFD comes up.
const STEADY: Duration = Duration::from_secs(2);

pub(crate) fn run(amount: Amount) -> Result<Vec<Measured>> {
    let mut rows = Vec::new();
    for router in amount.routers() {
        rows.extend(tell(failures(router, amount)?));
        rows.extend(tell(starts(router, amount)?));
    }
    if amount.router.is_none() {
        rows.extend(tell(bfd_load::run(amount)?));
    }
    Ok(rows)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Story {
    SilentLoss,
    Stopped,
    Killed,
    Terminated,
    Started,
    BfdUp,
}

impl Story {
    fn words(self) -> &'static str {
        match self {
            Self::SilentLoss => "link down behind a switch, BFD 50 ms x 3 -> gone",
            Self::Stopped => "SIGSTOP, BFD 50 ms x 3 -> gone",
            Self::Killed => "SIGKILL -> gone",
            Self::Terminated => "SIGTERM -> gone",
            Self::Started => "process started -> first route in the FIB",
            Self::BfdUp => "process started -> BFD up",
        }
    }

    fn bar(self, router: router::Kind) -> Bar {
        let by_router = |frr, bird| match router {
            router::Kind::Frr => Bar::max(frr),
            router::Kind::Bird => Bar::max(bird),
        };
        match self {
            Self::SilentLoss | Self::Stopped => by_router(300.0, 200.0).near_bird(10.0),
            Self::Killed | Self::Terminated => by_router(120.0, 20.0),
            Self::Started => Bar::max(1000.0),
            Self::BfdUp => Bar::max(3000.0),
        }
    }
}

/// One engine: its place, its VIP, its speaker and what was measured of it.
struct Engine<'a> {
    network: &'a Network,
    fib: &'a Fib,
    number: usize,
    vips: Block,
    speaker: Speaker,
    times: Times,
}

impl<'a> Engine<'a> {
    fn start(network: &'a Network, fib: &'a Fib, kind: Kind, number: usize) -> Result<Self> {
        let vips = vip(number);
        let speaker = Speaker::start(kind, network, spec(number, &vips))?;
        Ok(Self {
            network,
            fib,
            number,
            vips,
            speaker,
            times: BTreeMap::new(),
        })
    }

    /// The route is there, the session and BFD are up, and have been for a while: a router detects a loss by the fast
    /// intervals only once its Poll was answered (RFC 5880 section 6.8.3), whoever its peer is.
    fn settle(&mut self) -> Result<()> {
        self.fib.await_state(self.vips, 1)?;
        self.speaker.await_ready(Some(BFD_MS))?;
        let mut since = Instant::now();
        wait_for("BFD to stay up", || {
            if !self.speaker.is_ready(Some(BFD_MS))? {
                since = Instant::now();
            }
            Ok(since.elapsed() > STEADY)
        })
    }

    fn measure(
        &mut self,
        story: Story,
        width: usize,
        cause: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        self.fib.drain();
        let start = Instant::now();
        cause(self)?;
        let at = self.fib.until(self.vips, width)?;
        self.times.entry(story).or_default().push(at - start);
        Ok(())
    }

    fn round(&mut self) -> Result<()> {
        self.settle()?;
        self.measure(Story::SilentLoss, 0, |e| e.network.port(e.number, false))?;
        self.network.port(self.number, true)?;
        self.settle()?;
        self.measure(Story::Stopped, 0, |e| e.speaker.signal(Signal::SIGSTOP))?;
        self.speaker.signal(Signal::SIGCONT)?;
        self.settle()?;
        self.measure(Story::Killed, 0, |e| e.speaker.signal(Signal::SIGKILL))?;
        self.restart()?;
        self.settle()?;
        self.measure(Story::Terminated, 0, |e| e.speaker.signal(Signal::SIGTERM))?;
        self.restart()
    }

    fn restart(&mut self) -> Result<()> {
        let spec = spec(self.number, &self.vips);
        self.speaker.restart(self.network, spec)
    }
}

/// From the start of a process, each in a place that the router has not seen: after a failure routers wait before
/// they listen to a neighbor again, which is not what is measured.
fn starts(kind: router::Kind, amount: Amount) -> Result<Vec<Measured>> {
    let network = Network::new(2 * amount.runs())?;
    let _router = Router::start(kind, &network, Some(BFD_MS))?;
    let fib = Fib::watch(&network.router())?;
    let mut times = [Times::new(), Times::new()];
    cli::note!("{}: {} starts each", kind.name(), amount.runs());
    for round in 0..amount.runs() {
        for index in crate::bgp::turns(round) {
            let number = 2 * round + index + 1;
            let [route, bfd] = start(&network, &fib, Kind::ENGINE_AND_BIRD[index], number)?;
            times[index].entry(Story::Started).or_default().push(route);
            times[index].entry(Story::BfdUp).or_default().push(bfd);
        }
    }
    let [ours, bird] = &times;
    Ok(rows(kind, ours, bird))
}

/// Until the first route is in the FIB, and until BFD is up.
fn start(network: &Network, fib: &Fib, kind: Kind, number: usize) -> Result<[Duration; 2]> {
    let vips = vip(number);
    fib.drain();
    let mut speaker = Speaker::start(kind, network, spec(number, &vips))?;
    let route = fib.until(vips, 1)? - speaker.started();
    wait_for("BFD to come up", || speaker.is_ready(Some(BFD_MS)))?;
    Ok([route, speaker.started().elapsed()])
}

/// The one VIP of an engine.
fn vip(engine: usize) -> Block {
    let engine = u8::try_from(engine).expect("a network has fewer than 256 engines");
    Block::one(Ipv4Addr::new(10, 99, engine, 1))
}

fn spec(engine: usize, vips: &Block) -> Spec<'_> {
    Spec {
        engine,
        bfd: Some(BFD_MS),
        vips: std::slice::from_ref(vips),
        at_once: true,
    }
}

fn failures(kind: router::Kind, amount: Amount) -> Result<Vec<Measured>> {
    let network = Network::new(2)?;
    let _router = Router::start(kind, &network, Some(BFD_MS))?;
    let fib = Fib::watch(&network.router())?;
    let mut engines = [
        Engine::start(&network, &fib, Kind::Engine, 1)?,
        Engine::start(&network, &fib, Kind::Bird, 2)?,
    ];
    for round in 0..amount.runs() {
        cli::note!(
            "{}: failures, round {} of {}",
            kind.name(),
            round + 1,
            amount.runs()
        );
        for index in crate::bgp::turns(round) {
            engines[index].round()?;
        }
    }
    let [ours, bird] = &engines;
    Ok(rows(kind, &ours.times, &bird.times))
}

type Times = BTreeMap<Story, Vec<Duration>>;

fn rows(kind: router::Kind, ours: &Times, bird: &Times) -> Vec<Measured> {
    let row = |(story, times): (&Story, &Vec<Duration>)| Measured {
        what: story.words().to_owned(),
        router: kind.name().to_owned(),
        unit: "ms",
        evenkeel: Figures::of_times(times),
        bird: bird.get(story).map(|times| Figures::of_times(times)),
        bar: story.bar(kind),
    };
    ours.iter().map(row).collect()
}
