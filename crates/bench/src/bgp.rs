//! Announcements and withdrawals, from the command to the speaker to the router's kernel FIB.

use crate::Amount;
use crate::fib::{Fib, wait_for};
use crate::net::Network;
use crate::report::{Figures, Measured};
use crate::router::{self, Router};
use crate::speaker::{Kind, Speaker, Spec};
use anyhow::Result;
use std::time::{Duration, Instant};

const BULK: [usize; 2] = [1_000, 10_000];
const VIPS_OF_MANY: usize = 100;

pub(crate) fn run(amount: Amount) -> Result<Vec<Measured>> {
    let mut rows = Vec::new();
    for router in router::Kind::BOTH {
        rows.extend(single(router, amount)?);
        for count in BULK {
            rows.extend(bulk(router, count, amount)?);
        }
        rows.extend(many_engines(router, amount)?);
    }
    Ok(rows)
}

/// Our speaker and BIRD take turns, each with its own VIP of this round.
fn single(kind: router::Kind, amount: Amount) -> Result<Vec<Measured>> {
    cli::note!("{}: one VIP, {} rounds", kind.name(), amount.runs());
    let network = Network::new(2)?;
    let _router = Router::start(kind, &network, None)?;
    let fib = Fib::watch(&network.router())?;
    // Of each round: our VIP and BIRD's.
    let vips: Vec<[String; 2]> = (1..=amount.runs())
        .map(|n| [1, 2].map(|engine| format!("10.99.{engine}.{n}")))
        .collect();
    let mut speakers = Vec::new();
    for (index, speaker) in Kind::BOTH.into_iter().enumerate() {
        let own: Vec<String> = vips.iter().map(|pair| pair[index].clone()).collect();
        let spec = Spec {
            engine: index + 1,
            bfd: None,
            vips: &own,
            at_once: false,
        };
        let mut speaker = Speaker::start(speaker, &network, spec)?;
        speaker.await_ready(None)?;
        speakers.push(speaker);
    }
    let mut announced = [Vec::new(), Vec::new()];
    let mut withdrawn = [Vec::new(), Vec::new()];
    for (round, pair) in vips.iter().enumerate() {
        for index in turns(round) {
            let (speaker, vip) = (&mut speakers[index], &pair[index]);
            fib.drain();
            let start = Instant::now();
            speaker.announce(vip)?;
            announced[index].push(fib.until(vip, true)? - start);
            let start = Instant::now();
            speaker.withdraw(vip)?;
            withdrawn[index].push(fib.until(vip, false)? - start);
        }
    }
    let bar = match kind {
        router::Kind::Frr => "median <= 100",
        router::Kind::Bird => "median <= 20",
    };
    let row = |what: &str, times: &[Vec<Duration>; 2]| Measured {
        what: what.to_owned(),
        router: kind.name().to_owned(),
        unit: "ms",
        evenkeel: Figures::of_times(&times[0]),
        bird: Some(Figures::of_times(&times[1])),
        bar: bar.to_owned(),
    };
    Ok(vec![
        row("VIP announced -> in the FIB", &announced),
        row("VIP withdrawn -> gone from the FIB", &withdrawn),
    ])
}

/// Who goes first changes from round to round, so that neither always meets the warmer router.
pub(crate) fn turns(round: usize) -> [usize; 2] {
    if round.is_multiple_of(2) {
        [0, 1]
    } else {
        [1, 0]
    }
}

/// Many VIPs at once, with equal attributes.
fn bulk(kind: router::Kind, count: usize, amount: Amount) -> Result<Vec<Measured>> {
    // Each round is a new session: the interval between changes of a route is not what is measured.
    let rounds = amount.runs().min(10);
    cli::note!("{}: {count} VIPs, {rounds} rounds", kind.name());
    let network = Network::new(1)?;
    let _router = Router::start(kind, &network, None)?;
    let fib = Fib::watch(&network.router())?;
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let (mut updates, mut rss) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let spec = Spec {
            engine: 1,
            bfd: None,
            vips: &[],
            at_once: false,
        };
        let mut speaker = Speaker::start(Kind::Evenkeel, &network, spec)?;
        speaker.await_ready(None)?;
        let before = speaker.status()?.updates_out;
        fib.drain();
        let start = Instant::now();
        speaker.say(&format!("announce 10.99.0.1 {count}"))?;
        up.push(fib.until_count(count, true)? - start);
        wait_for("every route to be sent", || {
            Ok(speaker.status()?.routes_sent == count)
        })?;
        let status = speaker.status()?;
        updates.push((status.updates_out - before) as f64);
        rss.push(status.rss_bytes as f64 / f64::from(1 << 20));
        let start = Instant::now();
        speaker.say("withdraw")?;
        down.push(fib.until_count(count, false)? - start);
    }
    let row = |what: String, unit, figures, bar: &str| Measured {
        what,
        router: kind.name().to_owned(),
        unit,
        evenkeel: figures,
        bird: None,
        bar: bar.to_owned(),
    };
    let large = count == BULK[1];
    let time_bar = if large && kind == router::Kind::Frr {
        "<= 2000"
    } else {
        ""
    };
    Ok(vec![
        row(
            format!("{count} VIPs announced -> in the FIB"),
            "ms",
            Figures::of_times(&up),
            time_bar,
        ),
        row(
            format!("{count} VIPs withdrawn -> gone"),
            "ms",
            Figures::of_times(&down),
            "",
        ),
        row(
            format!("{count} VIPs: UPDATEs"),
            "messages",
            Figures::new(updates),
            if large { "" } else { "< 10" },
        ),
        row(
            format!("{count} VIPs: speaker's memory"),
            "MiB",
            Figures::new(rss),
            if large { "<= 60" } else { "" },
        ),
    ])
}

/// Every engine announces the same VIPs; done when each of them has all next hops in the FIB.
fn many_engines(kind: router::Kind, amount: Amount) -> Result<Vec<Measured>> {
    let engines = amount.engines();
    cli::note!(
        "{}: {engines} engines with {VIPS_OF_MANY} VIPs each",
        kind.name()
    );
    let network = Network::new(engines)?;
    let _router = Router::start(kind, &network, None)?;
    let fib = Fib::watch(&network.router())?;
    let mut speakers = Vec::new();
    for engine in 1..=engines {
        let spec = Spec {
            engine,
            bfd: None,
            vips: &[],
            at_once: false,
        };
        speakers.push(Speaker::start(Kind::Evenkeel, &network, spec)?);
    }
    for speaker in &mut speakers {
        speaker.await_ready(None)?;
    }
    let start = Instant::now();
    for speaker in &mut speakers {
        speaker.say(&format!("announce 10.99.0.1 {VIPS_OF_MANY}"))?;
    }
    let complete = || {
        let widths = fib.widths()?;
        Ok(widths.len() == VIPS_OF_MANY && widths.values().all(|width| *width == engines))
    };
    wait_for("every VIP to have every next hop", complete)?;
    Ok(vec![Measured {
        what: format!(
            "{VIPS_OF_MANY} VIPs x {engines} engines announced -> all next hops in the FIB"
        ),
        router: kind.name().to_owned(),
        unit: "ms",
        evenkeel: Figures::of_times(&[start.elapsed()]),
        bird: None,
        bar: format!("{engines} next hops each"),
    }])
}
