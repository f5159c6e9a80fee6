//! The result of a scenario as a table.

use super::judge::StepResult;
use cli::output::table::{Column, Row};
use serde::Serialize;
use std::collections::BTreeMap;

impl Row for StepResult {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("STEP", |r| r.step.clone()),
        Column::new("SES", |r| r.engines.len().to_string()),
        Column::new("NEXT HOPS", |r| shorten(&r.next_hops)),
        Column::new("NEW CONNECTIONS %", |r| percentages(&r.share)),
        Column::new("API→FIB s", |r| seconds(r.api_to_fib_s)),
        Column::new("FIRST CONN s", |r| seconds(r.first_connection_s)),
        Column::new("MOVED", |r| format!("{}/{}", r.flows_moved, r.flows)),
        Column::new("BROKEN", |r| r.flows_broken.to_string()),
        Column::new("SHORT OK/FAILED", |r| {
            format!("{}/{}", r.short_ok, r.short_failed)
        }),
        Column::wide("GAP ms", |r| r.longest_gap_ms.to_string()),
        Column::wide("SESSIONS KEPT", |r| {
            r.sessions_kept.map(|n| n.to_string()).unwrap_or_default()
        }),
        Column::wide("REASONS", |r| counts(&r.broken_reasons)),
        Column::new("HOLDS", holds),
    ];
}

/// A step with what became of the flows that the router moved, of a scenario that is about them.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct FlowRow(pub(super) StepResult);

impl Row for FlowRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("STEP", |r| r.0.step.clone()),
        Column::new("NEXT HOPS", |r| shorten(&r.0.next_hops)),
        Column::new("MOVED", |r| format!("{}/{}", r.0.flows_moved, r.0.flows)),
        Column::new("HOME", |r| r.0.found.home.to_string()),
        Column::new("BY HINT", |r| r.0.found.hint.to_string()),
        Column::new("CACHE", |r| r.0.found.cache.to_string()),
        Column::new("PROBE", |r| r.0.found.probe.to_string()),
        Column::new("BROKEN", |r| broken(&r.0)),
        Column::new("GAP ms", |r| r.0.longest_gap_ms.to_string()),
        Column::new("DOWNLOADS OK/MOVED/FAILED", |r| {
            let (ok, moved, failed) = (r.0.downloads_ok, r.0.downloads_moved, r.0.downloads_failed);
            format!("{ok}/{moved}/{failed}")
        }),
        Column::new("SHORT OK/FAILED", |r| {
            format!("{}/{}", r.0.short_ok, r.0.short_failed)
        }),
        Column::wide("UDP/BROKEN", |r| {
            format!("{}/{}", r.0.datagram_flows, r.0.datagrams_broken)
        }),
        Column::wide("API→FIB s", |r| seconds(r.0.api_to_fib_s)),
        Column::wide("REASONS", |r| counts(&r.0.broken_reasons)),
        Column::wide("PACKETS", |r| packets(&r.0)),
        Column::wide("VIP SILENT ms", |r| {
            r.0.vip_silent_ms
                .map(|ms| ms.to_string())
                .unwrap_or_default()
        }),
        Column::new("HOLDS", |r| holds(&r.0)),
    ];
}

/// A step of a scenario about hosts, links and the router.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct EventRow(pub(super) StepResult);

impl Row for EventRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("STEP", |r| r.0.step.clone()),
        Column::new("NEXT HOPS", |r| links(&r.0)),
        Column::new("MOVED", |r| format!("{}/{}", r.0.flows_moved, r.0.flows)),
        Column::new("HOME", |r| r.0.found.home.to_string()),
        Column::new("HINT/CACHE/PROBE", |r| {
            let found = &r.0.found;
            format!("{}/{}/{}", found.hint, found.cache, found.probe)
        }),
        Column::new("TUNNELLED", |r| r.0.tunnelled.to_string()),
        Column::new("BROKEN", |r| broken(&r.0)),
        Column::new("NO ROUTE s", |r| seconds(r.0.routeless_s)),
        Column::new("GAP ms", |r| r.0.longest_gap_ms.to_string()),
        Column::new("DOWN OK/MOVED/FAILED", |r| {
            let (ok, moved, failed) = (r.0.downloads_ok, r.0.downloads_moved, r.0.downloads_failed);
            format!("{ok}/{moved}/{failed}")
        }),
        Column::new("UP OK/MOVED/FAILED", |r| {
            let (ok, moved, failed) = (r.0.uploads_ok, r.0.uploads_moved, r.0.uploads_failed);
            format!("{ok}/{moved}/{failed}")
        }),
        Column::new("SHORT OK/FAILED", |r| {
            format!("{}/{}", r.0.short_ok, r.0.short_failed)
        }),
        Column::new("UDP/BROKEN", |r| {
            format!("{}/{}", r.0.datagram_flows, r.0.datagrams_broken)
        }),
        Column::wide("REASONS", |r| counts(&r.0.broken_reasons)),
        Column::wide("THE DEAD'S ENDED s", |r| seconds(r.0.dead_ended_s)),
        Column::wide("PACKETS", |r| packets(&r.0)),
        Column::new("HOLDS", |r| holds(&r.0)),
    ];
}

/// A step with many SEs, which are counted.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct WideRow(pub(super) StepResult);

impl Row for WideRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("STEP", |r| r.0.step.clone()),
        Column::new("SES", |r| r.0.engines.len().to_string()),
        Column::new("NEXT HOPS", |r| r.0.hops.to_string()),
        Column::new("NEW CONNECTIONS %", |r| extremes(&r.0)),
        Column::new("API→FIB s", |r| seconds(r.0.api_to_fib_s)),
        Column::new("FIRST CONN s", |r| seconds(r.0.first_connection_s)),
        Column::new("MOVED", |r| format!("{}/{}", r.0.flows_moved, r.0.flows)),
        Column::new("HINT/CACHE/PROBE", |r| {
            let found = &r.0.found;
            format!("{}/{}/{}", found.hint, found.cache, found.probe)
        }),
        Column::new("BROKEN", |r| broken(&r.0)),
        Column::new("GAP ms", |r| r.0.longest_gap_ms.to_string()),
        Column::new("SHORT OK/FAILED", |r| {
            format!("{}/{}", r.0.short_ok, r.0.short_failed)
        }),
        Column::new("RSS MiB", |r| {
            let used = &r.0.engines_used;
            format!("{:.1} (max {:.1})", used.rss_mib_median, used.rss_mib_max)
        }),
        Column::new("STEERING MiB", |r| {
            format!("{:.1}", r.0.engines_used.bpf_mib_max)
        }),
        Column::new("CORE %", |r| {
            let used = &r.0.engines_used;
            let percent = [used.cores_median, used.cores_max].map(|c| c * 100.0);
            format!("{:.1} (max {:.1})", percent[0], percent[1])
        }),
        Column::wide("REASONS", |r| counts(&r.0.broken_reasons)),
        Column::wide("PACKETS", |r| packets(&r.0)),
        Column::new("HOLDS", |r| holds(&r.0)),
    ];
}

/// SEs that are next hops, and where they are more than one each, how many next hops that makes.
fn links(result: &StepResult) -> String {
    let names = shorten(&result.next_hops);
    match result.hops == result.next_hops.len() {
        true => names,
        false => format!("{names} ({})", result.hops),
    }
}

fn packets(result: &StepResult) -> String {
    let some = result.packets.iter().filter(|(_, count)| **count > 0);
    let cells: Vec<_> = some.map(|(verdict, n)| format!("{n} {verdict}")).collect();
    cells.join(", ")
}

/// Where an SE died, also how many flows it had.
fn broken(result: &StepResult) -> String {
    match &result.died_with {
        Some(flows) => format!("{}/{flows}", result.flows_broken),
        None => result.flows_broken.to_string(),
    }
}

fn holds(result: &StepResult) -> String {
    if result.violations.is_empty() {
        "yes"
    } else {
        "NO"
    }
    .to_owned()
}

fn seconds(value: Option<f64>) -> String {
    value.map(|s| format!("{s:.3}")).unwrap_or_default()
}

/// `se-1 se-2` as `se-1,2`: what the names have in common stands once.
fn shorten(names: &[String]) -> String {
    let split: Vec<_> = names
        .iter()
        .map(|n| n.rsplit_once('-').unwrap_or(("", n)))
        .collect();
    let Some((prefix, _)) = split.first() else {
        return String::new();
    };
    if prefix.is_empty() || split.iter().any(|(p, _)| p != prefix) {
        return names.join(" ");
    }
    let numbers: Vec<_> = split.iter().map(|(_, n)| *n).collect();
    format!("{prefix}-{}", numbers.join(","))
}

fn percentages(share: &BTreeMap<String, f64>) -> String {
    let cells: Vec<_> = share
        .values()
        .map(|s| format!("{:.0}", s * 100.0))
        .collect();
    cells.join(" ")
}

/// The smallest and the largest share of the SEs that are next hops.
fn extremes(result: &StepResult) -> String {
    let shares = result.next_hops.iter();
    let shares = shares.map(|name| result.share.get(name).copied().unwrap_or_default());
    let smallest = shares.clone().reduce(f64::min);
    let largest = shares.reduce(f64::max);
    let (Some(least), Some(most)) = (smallest, largest) else {
        return String::new();
    };
    format!("{:.1}-{:.1}", least * 100.0, most * 100.0)
}

fn counts(reasons: &BTreeMap<String, usize>) -> String {
    let cells: Vec<_> = reasons
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    cells.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::Bars;
    use super::super::judge::{Observation, judge};
    use super::*;

    #[test]
    fn of_many_shares_the_smallest_and_the_largest_of_next_hops_are_shown() {
        let share = [("se-1", 25), ("se-2", 70), ("se-3", 5), ("se-4", 0)];
        let seen = Observation {
            fib: ["se-1", "se-2", "se-3"].map(str::to_owned).into(),
            share: share.map(|(name, count)| (name.to_owned(), count)).into(),
            ..Observation::default()
        };
        let bars = Bars {
            fib_s: 1.0,
            first_connection_s: 1.0,
            engine_idle_rss_mib: None,
            silent_s: 1.0,
            none_breaks: false,
        };
        assert_eq!(extremes(&judge(&seen, &bars)), "5.0-70.0");
        assert_eq!(extremes(&judge(&Observation::default(), &bars)), "");
    }

    #[test]
    fn names_are_shortened_only_when_they_agree() {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(shorten(&list(&["se-1", "se-2"])), "se-1,2");
        assert_eq!(shorten(&list(&["se-1", "other-2"])), "se-1 other-2");
        assert_eq!(shorten(&[]), "");
    }
}
