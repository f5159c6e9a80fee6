//! Failures of an engine, from their cause to the router's kernel FIB, and the way back.

use crate::Amount;
use crate::bfd_load;
use crate::fib::{Fib, wait_for};
use crate::net::Network;
use crate::report::{Figures, Measured};
use crate::router::{self, Router};
use crate::speaker::{Kind, Speaker, Spec};
use anyhow::Result;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const BFD_MS: u64 = 50;

pub(crate) fn run(amount: Amount) -> Result<Vec<Measured>> {
    let mut rows = Vec::new();
    for router in router::Kind::BOTH {
        rows.extend(failures(router, amount)?);
        rows.extend(starts(router, amount)?);
    }
    rows.extend(bfd_load::run(amount)?);
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

    fn bar(self, router: router::Kind) -> &'static str {
        let frr = router == router::Kind::Frr;
        match self {
            Self::SilentLoss | Self::Stopped if frr => "max <= 300, median <= BIRD + 10 %",
            Self::SilentLoss | Self::Stopped => "max <= 200, median <= BIRD + 10 %",
            Self::Killed | Self::Terminated if frr => "max <= 120",
            Self::Killed | Self::Terminated => "max <= 20",
            Self::Started => "max <= 1000",
            Self::BfdUp => "max <= 3000",
        }
    }
}

/// One engine: its place, its VIP, its speaker and what was measured of it.
struct Engine<'a> {
    network: &'a Network,
    fib: &'a Fib,
    kind: Kind,
    number: usize,
    vips: Vec<String>,
    speaker: Speaker,
    times: Times,
}

impl<'a> Engine<'a> {
    fn start(network: &'a Network, fib: &'a Fib, kind: Kind, number: usize) -> Result<Self> {
        let vips = vec![format!("10.99.{number}.1")];
        let speaker = Speaker::start(kind, network, spec(number, &vips))?;
        Ok(Self {
            network,
            fib,
            kind,
            number,
            vips,
            speaker,
            times: BTreeMap::new(),
        })
    }

    /// The route is there, the session and BFD are up.
    fn settle(&mut self) -> Result<()> {
        self.fib.await_state(&self.vips[0], true)?;
        self.speaker.await_ready(Some(BFD_MS))
    }

    fn measure(
        &mut self,
        story: Story,
        present: bool,
        cause: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        self.fib.drain();
        let start = Instant::now();
        cause(self)?;
        let at = self.fib.until(&self.vips[0], present)?;
        self.times.entry(story).or_default().push(at - start);
        Ok(())
    }

    fn round(&mut self) -> Result<()> {
        self.settle()?;
        self.measure(Story::SilentLoss, false, |e| {
            e.network.port(e.number, false)
        })?;
        self.network.port(self.number, true)?;
        self.settle()?;
        self.measure(Story::Stopped, false, |e| e.speaker.signal(Signal::SIGSTOP))?;
        self.speaker.signal(Signal::SIGCONT)?;
        self.settle()?;
        self.measure(Story::Killed, false, |e| e.speaker.signal(Signal::SIGKILL))?;
        self.speaker.wait()?;
        self.speaker = Speaker::start(self.kind, self.network, spec(self.number, &self.vips))?;
        self.settle()?;
        self.measure(Story::Terminated, false, |e| {
            e.speaker.signal(Signal::SIGTERM)
        })?;
        self.speaker.wait()?;
        self.speaker = Speaker::start(self.kind, self.network, spec(self.number, &self.vips))?;
        Ok(())
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
            let [route, bfd] = start(&network, &fib, Kind::BOTH[index], number)?;
            times[index].entry(Story::Started).or_default().push(route);
            times[index].entry(Story::BfdUp).or_default().push(bfd);
        }
    }
    let [ours, bird] = &times;
    Ok(rows(kind, ours, bird))
}

/// Until the first route is in the FIB, and until BFD is up.
fn start(network: &Network, fib: &Fib, kind: Kind, number: usize) -> Result<[Duration; 2]> {
    let vips = vec![format!("10.99.{number}.1")];
    fib.drain();
    let start = Instant::now();
    let mut speaker = Speaker::start(kind, network, spec(number, &vips))?;
    let route = fib.until(&vips[0], true)? - start;
    wait_for("BFD to come up", || speaker.is_ready(Some(BFD_MS)))?;
    Ok([route, start.elapsed()])
}

fn spec(engine: usize, vips: &[String]) -> Spec<'_> {
    Spec {
        engine,
        bfd: Some(BFD_MS),
        vips,
        at_once: true,
    }
}

fn failures(kind: router::Kind, amount: Amount) -> Result<Vec<Measured>> {
    let network = Network::new(2)?;
    let _router = Router::start(kind, &network, Some(BFD_MS))?;
    let fib = Fib::watch(&network.router())?;
    let mut engines = [
        Engine::start(&network, &fib, Kind::Evenkeel, 1)?,
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
        bar: story.bar(kind).to_owned(),
    };
    ours.iter().map(row).collect()
}
