//! Announcements and withdrawals, from the command to the speaker to the router's kernel FIB.

use crate::Amount;
use crate::fib::Fib;
use crate::net::Network;
use crate::report::{Bar, Figures, Measured, tell};
use crate::router::{self, Router};
use crate::speaker::{Block, Kind, Speaker, Spec};
use anyhow::Result;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const BULK: [u32; 2] = [1_000, 10_000];
const VIPS_OF_MANY: u32 = 100;
const TURN_OF_MANY: usize = 5;

pub(crate) fn run(amount: Amount) -> Result<Vec<Measured>> {
    let mut rows = Vec::new();
    for router in amount.routers() {
        rows.extend(tell(single(router, amount)?));
        for count in BULK {
            rows.extend(tell(bulk(router, count, amount)?));
        }
        rows.extend(tell(many_engines(router, amount)?));
    }
    Ok(rows)
}

/// What our speaker and BIRD took, in this order.
type Times = [Vec<Duration>; 2];

/// A row of times with both columns.
fn row(what: String, kind: router::Kind, [ours, bird]: &Times, bar: Bar) -> Measured {
    Measured {
        what,
        router: kind.name().to_owned(),
        unit: "ms",
        evenkeel: Figures::of_times(ours),
        bird: Some(Figures::of_times(bird)),
        bar,
    }
}

/// Our speaker and BIRD take turns, each with its own VIP of this round.
fn single(kind: router::Kind, amount: Amount) -> Result<Vec<Measured>> {
    cli::note!("{}: one VIP, {} rounds", kind.name(), amount.runs());
    let network = Network::new(2)?;
    let _router = Router::start(kind, &network, None)?;
    let fib = Fib::watch(&network.router())?;
    let own = [1, 2].map(|engine| {
        let rounds = 1..=u8::try_from(amount.runs()).unwrap_or(u8::MAX);
        rounds
            .map(|round| Block::one(Ipv4Addr::new(10, 99, engine, round)))
            .collect::<Vec<_>>()
    });
    let mut speakers = start_both(&network, &own)?;
    let (mut announced, mut withdrawn) = (Times::default(), Times::default());
    for (round, (ours, birds)) in own[0].iter().zip(&own[1]).enumerate() {
        for index in turns(round) {
            let (speaker, vip) = (&mut speakers[index], [*ours, *birds][index]);
            announced[index].push(announce(&fib, std::slice::from_mut(speaker), vip)?);
            let start = Instant::now();
            speaker.withdraw(vip)?;
            withdrawn[index].push(fib.until(vip, 0)? - start);
        }
    }
    let bar = match kind {
        router::Kind::Frr => Bar::median(100.0),
        router::Kind::Bird => Bar::median(20.0),
    };
    Ok(vec![
        row("VIP announced -> in the FIB".into(), kind, &announced, bar),
        row(
            "VIP withdrawn -> gone from the FIB".into(),
            kind,
            &withdrawn,
            bar,
        ),
    ])
}

/// Engine 1 is ours, engine 2 is BIRD; both are established.
fn start_both(network: &Network, own: &[Vec<Block>; 2]) -> Result<Vec<Speaker>> {
    let mut speakers = Vec::new();
    for (index, kind) in Kind::ENGINE_AND_BIRD.into_iter().enumerate() {
        let spec = Spec {
            engine: index + 1,
            bfd: None,
            vips: &own[index],
            at_once: false,
        };
        let mut speaker = Speaker::start(kind, network, spec)?;
        speaker.await_ready(None)?;
        speakers.push(speaker);
    }
    Ok(speakers)
}

/// Until every VIP has each of these speakers as a next hop.
fn announce(fib: &Fib, speakers: &mut [Speaker], vips: Block) -> Result<Duration> {
    fib.drain();
    let start = Instant::now();
    for speaker in speakers.iter_mut() {
        speaker.announce(vips)?;
    }
    Ok(fib.until(vips, speakers.len())? - start)
}

/// Who goes first changes from round to round, so that neither always meets the warmer router.
pub(crate) fn turns(round: usize) -> [usize; 2] {
    if round.is_multiple_of(2) {
        [0, 1]
    } else {
        [1, 0]
    }
}

/// What one process with many VIPs took.
struct Bulk {
    up: Duration,
    down: Duration,
    rss_mib: f64,
    /// Of our speaker alone; BIRD does not count them.
    updates: Option<u64>,
}

/// Many VIPs at once, with equal attributes. Each round is a new process and session: the interval between changes of
/// a route is not what is measured.
fn bulk(kind: router::Kind, count: u32, amount: Amount) -> Result<Vec<Measured>> {
    let rounds = amount.runs();
    cli::note!("{}: {count} VIPs, {rounds} rounds", kind.name());
    let network = Network::new(2)?;
    let _router = Router::start(kind, &network, None)?;
    let fib = Fib::watch(&network.router())?;
    let mut measured: [Vec<Bulk>; 2] = Default::default();
    for round in 0..rounds {
        for index in turns(round) {
            measured[index].push(bulk_once(&network, &fib, index, count)?);
        }
    }
    Ok(bulk_rows(kind, count, &measured))
}

fn bulk_once(network: &Network, fib: &Fib, index: usize, count: u32) -> Result<Bulk> {
    let vips = Block {
        first: Ipv4Addr::new(10, 99, 0, 1),
        count,
    };
    let spec = Spec {
        engine: index + 1,
        bfd: None,
        vips: &[vips],
        at_once: false,
    };
    let kind = Kind::SPEAKER_AND_BIRD[index];
    let mut speaker = Speaker::start(kind, network, spec)?;
    speaker.await_ready(None)?;
    let before = speaker.updates()?;
    let up = announce(fib, std::slice::from_mut(&mut speaker), vips)?;
    let updates = speaker
        .updates_of(count)?
        .zip(before)
        .map(|(now, then)| now - then);
    let rss_mib = speaker.rss_mib()?;
    let start = Instant::now();
    speaker.withdraw(vips)?;
    let down = fib.until(vips, 0)? - start;
    Ok(Bulk {
        up,
        down,
        rss_mib,
        updates,
    })
}

fn bulk_rows(kind: router::Kind, count: u32, measured: &[Vec<Bulk>; 2]) -> Vec<Measured> {
    let large = count == BULK[1];
    let times = |of: fn(&Bulk) -> Duration| [0, 1].map(|i| measured[i].iter().map(of).collect());
    let time_bar = if large && kind == router::Kind::Frr {
        Bar::max(2000.0)
    } else {
        Bar::NONE
    };
    let memory = |index: usize| Figures::new(measured[index].iter().map(|b| b.rss_mib).collect());
    let updates = measured[0].iter().filter_map(|b| b.updates);
    vec![
        row(
            format!("{count} VIPs announced by the speaker alone -> in the FIB"),
            kind,
            &times(|b| b.up),
            time_bar,
        ),
        row(
            format!("{count} VIPs withdrawn by it -> gone"),
            kind,
            &times(|b| b.down),
            Bar::NONE,
        ),
        Measured {
            what: format!("{count} VIPs: UPDATEs"),
            router: kind.name().to_owned(),
            unit: "messages",
            evenkeel: Figures::new(updates.map(|n| n as f64).collect()),
            bird: None,
            bar: if large { Bar::NONE } else { Bar::max(9.0) },
        },
        Measured {
            what: format!("{count} VIPs: memory of the speaker alone"),
            router: kind.name().to_owned(),
            unit: "MiB",
            evenkeel: memory(0),
            bird: Some(memory(1)),
            bar: if large { Bar::max(60.0) } else { Bar::NONE },
        },
    ]
}

/// Every engine announces the same VIPs; done when each of them has all next hops in the FIB. Our engines and as many
/// BIRDs take turns of some rounds, each with a new router: one with both at once would serve twice the sessions.
fn many_engines(kind: router::Kind, amount: Amount) -> Result<Vec<Measured>> {
    let (engines, rounds) = (amount.engines(), amount.runs());
    cli::note!(
        "{}: {engines} engines with {VIPS_OF_MANY} VIPs each, {rounds} rounds",
        kind.name()
    );
    let [mut whole, mut speakers, mut birds] = [const { Vec::new() }; 3];
    for done in (0..rounds).step_by(TURN_OF_MANY) {
        let turn = TURN_OF_MANY.min(rounds - done);
        let measure = |speaker, times: &mut Vec<Duration>| -> Result<()> {
            times.extend(many_of(kind, speaker, engines, turn)?);
            Ok(())
        };
        measure(Kind::Engine, &mut whole)?;
        measure(Kind::Bird, &mut birds)?;
        measure(Kind::Speaker, &mut speakers)?;
    }
    let what =
        format!("{VIPS_OF_MANY} VIPs x {engines} engines announced -> {engines} next hops each");
    let alone = format!("{what}, speakers alone");
    Ok(vec![
        row(what, kind, &[whole, birds.clone()], Bar::NONE),
        row(alone, kind, &[speakers, birds], Bar::NONE),
    ])
}

fn many_of(
    router: router::Kind,
    kind: Kind,
    engines: usize,
    rounds: usize,
) -> Result<Vec<Duration>> {
    let network = Network::new(engines)?;
    let _router = Router::start(router, &network, None)?;
    let fib = Fib::watch(&network.router())?;
    let vips: Vec<Block> = (0..u8::try_from(rounds).unwrap_or(u8::MAX))
        .map(|round| Block {
            first: Ipv4Addr::new(10, 99, round, 1),
            count: VIPS_OF_MANY,
        })
        .collect();
    let mut speakers = Vec::new();
    for engine in 1..=engines {
        let spec = Spec {
            engine,
            bfd: None,
            vips: &vips,
            at_once: false,
        };
        speakers.push(Speaker::start(kind, &network, spec)?);
    }
    for speaker in &mut speakers {
        speaker.await_ready(None)?;
    }
    let mut times = Vec::new();
    for block in vips {
        times.push(announce(&fib, &mut speakers, block)?);
        for speaker in &mut speakers {
            speaker.withdraw(block)?;
        }
        fib.await_state(block, 0)?;
    }
    Ok(times)
}
