//! Flows that move: an engine joins, and the first message of a flow that the router then sends to another engine is
//! timed beside those of flows that stay. Before it as much time passes without a change, for the segments that the
//! client repeats.

use super::Args;
use crate::report::{Bar, Reading, percentile};
use crate::resiliency::MOVED_PERCENT_MIN;
use crate::resiliency::pool::System;
use crate::resiliency::scene::{Captured, Scene, Setting};
use anyhow::{Result, ensure};
use lab::member::traffic::Exchange;
use std::collections::BTreeMap;
use std::time::Duration;

/// Between two messages of a flow: so rare that they seldom wait for each other, which would hide what is measured.
const INTERVAL: Duration = Duration::from_secs(1);
/// Traffic without a change, and as much with one.
const WINDOW: Duration = Duration::from_millis(2500);
/// Flows that stay are those of this time from the first one that moved.
const SAME_SECOND_US: u64 = 1_000_000;
/// Of the two clocks of one machine: when a message was sent is known from its end.
const CLOCK_SLACK_US: u64 = 50;

/// p99 of the first message of a moved flow above that of flows that stay.
const DELAY_US_MAX: f64 = 100.0;

const SHORT_FLOWS: usize = 200;

/// How owners are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The client's timestamps name them.
    Hints,
    /// There are none.
    Questions,
}

impl Way {
    const BOTH: [Self; 2] = [Self::Hints, Self::Questions];

    fn word(self) -> &'static str {
        match self {
            Self::Hints => "hints",
            Self::Questions => "questions",
        }
    }
}

pub(super) fn run(args: Args) -> Result<Vec<Reading>> {
    let (runs, flows) = if args.short {
        (1, SHORT_FLOWS)
    } else {
        (args.runs, args.flows)
    };
    let setting = Setting {
        system: System::Evenkeel,
        flows,
        interval: INTERVAL,
        keep_exchanges: true,
    };
    let mut scene = Scene::build(setting)?;
    let mut seen = [Vec::new(), Vec::new()];
    for run in 0..runs {
        for index in crate::bgp::turns(run) {
            let way = Way::BOTH[index];
            cli::note!("moved flows, {}: run {} of {runs}", way.word(), run + 1);
            seen[index].push(play(&mut scene, way, flows)?);
        }
    }
    let rows = Way::BOTH.into_iter().zip(&seen);
    Ok(rows.flat_map(|(way, seen)| judged(way, seen)).collect())
}

/// What a run has shown, in numbers.
#[derive(Debug, Clone, Default)]
struct Seen {
    moved: f64,
    broken: f64,
    /// p99 of delays, microseconds.
    first_us: f64,
    stayed_us: f64,
    hints: f64,
    questions: f64,
    /// Segments that the client has repeated.
    repeated: f64,
    calm: f64,
}

fn play(scene: &mut Scene, way: Way, flows: usize) -> Result<Seen> {
    scene.set_timestamps(way == Way::Hints)?;
    let joined = scene.join_beside_calm(WINDOW)?;
    let delays = Delays::of(&joined.flows, &joined.exchanges);
    let moved = joined.flows.values().filter(|f| f.moved()).count();
    ensure!(
        moved * 100 >= flows * MOVED_PERCENT_MIN,
        "this run is invalid: the router moved {moved} of {flows} flows, fewer than {MOVED_PERCENT_MIN} %: repeat it"
    );
    let seen = Seen {
        moved: moved as f64,
        broken: joined.broken as f64,
        first_us: p99(&delays.first),
        stayed_us: p99(&delays.stayed),
        hints: joined.by_hint as f64,
        questions: joined.asked as f64,
        repeated: joined.repeated as f64,
        calm: joined.repeated_calm as f64,
    };
    cli::note!("  {seen:?}");
    Ok(seen)
}

/// From messages to answers, microseconds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Delays {
    /// The first messages of flows that had moved.
    first: Vec<u64>,
    /// Those of flows that stayed, in the same second.
    stayed: Vec<u64>,
}

impl Delays {
    /// A flow whose first packet after the move was a mere acknowledgment does not count: its owner was known when its
    /// next message came.
    fn of(flows: &BTreeMap<u16, Captured>, exchanges: &[Exchange]) -> Self {
        let mut by_port: BTreeMap<u16, Vec<&Exchange>> = BTreeMap::new();
        for exchange in exchanges {
            by_port.entry(exchange.port).or_default().push(exchange);
        }
        let first = |(port, flow): (&u16, &Captured)| {
            let moved = flow.first_move.filter(|first| first.data)?;
            let sent = by_port.get(port)?.iter();
            let before = sent.filter(|e| e.sent_us <= moved.t_us + CLOCK_SLACK_US);
            before.max_by_key(|e| e.sent_us).copied()
        };
        let first: Vec<&Exchange> = flows.iter().filter_map(first).collect();
        let begin = first.iter().map(|e| e.sent_us).min().unwrap_or_default();
        let stayed = exchanges.iter().filter(|e| {
            let stays = flows.get(&e.port).is_some_and(|flow| !flow.moved());
            stays && (begin..begin + SAME_SECOND_US).contains(&e.sent_us)
        });
        Self {
            stayed: stayed.map(|e| e.took_us).collect(),
            first: first.iter().map(|e| e.took_us).collect(),
        }
    }
}

/// What 99 of 100 do not exceed.
fn p99(delays: &[u64]) -> f64 {
    let delays: Vec<f64> = delays.iter().map(|us| *us as f64).collect();
    percentile(&delays, 99)
}

/// Name, unit, value of a run, bar.
type Figure = (&'static str, &'static str, fn(&Seen) -> f64, Bar);

fn judged(way: Way, seen: &[Seen]) -> Vec<Reading> {
    let free = Bar::NONE;
    let (none, delay) = (Bar::max(0.0), Bar::median(DELAY_US_MAX));
    let figures: [Figure; 9] = [
        ("moved by the router", "flows", |s| s.moved, free),
        ("broken", "flows", |s| s.broken, none.in_short_runs()),
        ("tunnelled by hint", "packets", |s| s.hints, free),
        ("asked about", "packets", |s| s.questions, free),
        ("p99 of their first messages", "us", |s| s.first_us, free),
        ("p99 of flows that stay", "us", |s| s.stayed_us, free),
        ("the difference", "us", |s| s.first_us - s.stayed_us, delay),
        ("repeated by the client", "segments", |s| s.repeated, free),
        ("the same without a change", "segments", |s| s.calm, free),
    ];
    let name = |what| format!("moved flows, {}: {what}", way.word());
    let row = |(what, unit, of, bar): Figure| {
        Reading::new(name(what), unit, seen.iter().map(of).collect(), bar)
    };
    let mut rows: Vec<Reading> = figures.into_iter().map(row).collect();
    let beyond = seen.iter().map(|s| s.repeated - s.calm).sum();
    let what = name("repeated beyond those, in all runs");
    rows.push(Reading::new(what, "segments", vec![beyond], none));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report;
    use lab::member::capture::Move;

    fn captured(first_move: Option<(u64, bool)>) -> Captured {
        let hop = |moved| if moved { "b" } else { "a" }.to_owned();
        Captured {
            from: hop(false),
            to: hop(first_move.is_some()),
            first_move: first_move.map(|(t_us, data)| Move { t_us, data }),
        }
    }

    fn exchange(port: u16, sent_us: u64, took_us: u64) -> Exchange {
        Exchange {
            port,
            sent_us,
            took_us,
        }
    }

    #[test]
    fn the_first_message_is_the_last_one_sent_before_the_move_was_seen() {
        let flows = BTreeMap::from([
            (1, captured(Some((2_010, true)))),
            (2, captured(Some((2_500, false)))),
            (3, captured(None)),
        ]);
        let exchanges = [
            exchange(1, 1_000, 10),
            exchange(1, 2_000, 20),
            exchange(1, 3_000, 30),
            exchange(2, 2_000, 40),
            exchange(3, 1_000, 50),
            exchange(3, 2_000, 60),
            exchange(3, 1_002_000, 70),
        ];
        let delays = Delays::of(&flows, &exchanges);
        assert_eq!((delays.first, delays.stayed), (vec![20], vec![60]));
    }

    #[test]
    fn segments_count_in_all_runs_together() {
        let seen = |repeated, calm| Seen {
            repeated,
            calm,
            ..Seen::default()
        };
        let judge = |seen: [Seen; 2]| report::judge(&judged(Way::Hints, &seen), false);
        assert!(judge([seen(2.0, 0.0), seen(0.0, 2.0)]).is_ok());
        let missed = judge([seen(2.0, 1.0), seen(0.0, 0.0)]).unwrap_err();
        assert!(
            missed.to_string().contains("repeated beyond those"),
            "{missed}"
        );
    }
}
