//! From what was observed in a step to a row of the table and to what did not hold. Pure: tests need no lab.

use super::Bars;
use crate::member::traffic::{Failure, Report};
use crate::router::Session;
use cli::output::table::{Column, Row};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A flow as the capture reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Flow {
    /// Next hop (MAC address) at the beginning of the step.
    pub from: String,
    /// Next hop of its last packet.
    pub to: String,
    /// How often it changed.
    pub moves: u32,
}

/// What the traffic's router says of itself around a step that it must not notice.
#[derive(Debug, Clone, Default)]
pub struct Calm {
    /// Its sessions when the step began.
    pub before: Vec<Session>,
    /// Its sessions at the end.
    pub after: Vec<Session>,
    /// How often its route to the VIP changed in between.
    pub route_changes: usize,
}

impl Calm {
    /// Sessions that are the same connection as before, established and not one time more often.
    fn kept(&self) -> usize {
        let same = |s: &&Session| s.is_established() && self.after.contains(s);
        self.before.iter().filter(same).count()
    }
}

/// Everything seen in a step.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    /// The step's name.
    pub step: String,
    /// SEs that the controller has assigned.
    pub assigned: BTreeSet<String>,
    /// SEs that a fault has taken away on purpose.
    pub lost: BTreeSet<String>,
    /// SEs in the router's kernel FIB at the end.
    pub fib: BTreeSet<String>,
    /// SEs that were not in the FIB before the step.
    pub new: BTreeSet<String>,
    /// Seconds from each call to its change of the FIB; `None`: it did not happen.
    pub api_to_fib_s: Vec<Option<f64>>,
    /// Seconds from the first call to the first connection over each new SE.
    pub first_connection_s: BTreeMap<String, f64>,
    /// New connections by SE, after the FIB had settled.
    pub share: BTreeMap<String, u64>,
    /// Long-lived connections there should be.
    pub connections: usize,
    /// Source ports of those that lived when the step began.
    pub ports: BTreeSet<u16>,
    /// Flows by source port.
    pub flows: BTreeMap<u16, Flow>,
    /// SE by MAC address.
    pub engines_by_mac: BTreeMap<String, String>,
    /// The client's own counts.
    pub report: Report,
    /// Of a step that must not be noticed.
    pub calm: Option<Calm>,
    /// What else did not hold, found while the step ran.
    pub violations: Vec<String>,
}

/// A row of the result.
#[derive(Debug, Clone, Serialize)]
pub struct StepResult {
    /// The step's name.
    pub step: String,
    /// SEs that announce: assigned by the controller and not lost.
    pub engines: Vec<String>,
    /// SEs that are next hops in the router's kernel.
    pub next_hops: Vec<String>,
    /// Share of new connections by SE, 0 to 1.
    pub share: BTreeMap<String, f64>,
    /// The slowest call's seconds from the API to the FIB.
    pub api_to_fib_s: Option<f64>,
    /// The slowest new SE's seconds from the first API call to its first connection.
    pub first_connection_s: Option<f64>,
    /// Long-lived flows at the beginning.
    pub flows: usize,
    /// Those that the router really sent to another next hop.
    pub flows_moved: usize,
    /// Those that broke, by the client's check.
    pub flows_broken: usize,
    /// Why they broke.
    pub broken_reasons: BTreeMap<String, usize>,
    /// Messages exchanged on long-lived flows.
    pub exchanges: u64,
    /// Short connections that did all they should.
    pub short_ok: u64,
    /// Short connections that failed.
    pub short_failed: u64,
    /// Longest time between a message and its answer.
    pub longest_gap_ms: u64,
    /// Sessions of the traffic's router that the step left alone; of a step that may touch them, nothing.
    pub sessions_kept: Option<usize>,
    /// What did not hold; empty is good.
    pub violations: Vec<String>,
}

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
        Column::new("HOLDS", |r| {
            if r.violations.is_empty() { "yes" } else { "NO" }.to_owned()
        }),
    ];
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

fn counts(reasons: &BTreeMap<String, usize>) -> String {
    let cells: Vec<_> = reasons
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    cells.join(", ")
}

/// Judges a step.
pub fn judge(seen: &Observation, bars: &Bars) -> StepResult {
    let mut result = measure(seen);
    result.violations.extend(route_violations(seen, bars));
    result
        .violations
        .extend(flow_violations(seen, bars.none_breaks));
    result.violations.extend(disturbances(seen, &result));
    result
}

fn measure(seen: &Observation) -> StepResult {
    let total: u64 = seen.share.values().sum();
    let part = |count: u64| {
        if total == 0 {
            0.0
        } else {
            count as f64 / total as f64
        }
    };
    let mut broken_reasons = BTreeMap::new();
    for failure in &seen.report.broken {
        *broken_reasons.entry(failure.reason.clone()).or_default() += 1;
    }
    StepResult {
        step: seen.step.clone(),
        engines: seen.assigned.difference(&seen.lost).cloned().collect(),
        next_hops: seen.fib.iter().cloned().collect(),
        share: seen
            .share
            .iter()
            .map(|(name, count)| (name.clone(), part(*count)))
            .collect(),
        api_to_fib_s: longest(seen.api_to_fib_s.iter().copied().flatten()),
        first_connection_s: longest(seen.first_connection_s.values().copied()),
        flows: seen.ports.len(),
        flows_moved: seen
            .ports
            .iter()
            .filter(|p| seen.flows.get(p).is_some_and(|f| f.moves > 0))
            .count(),
        flows_broken: seen.report.broken.len(),
        broken_reasons,
        exchanges: seen.report.exchanges,
        short_ok: seen.report.short_ok,
        short_failed: seen.report.short_failed,
        longest_gap_ms: seen.report.longest_gap_ms,
        sessions_kept: seen.calm.as_ref().map(Calm::kept),
        violations: seen.violations.clone(),
    }
}

fn longest(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.reduce(f64::max)
}

fn route_violations(seen: &Observation, bars: &Bars) -> Vec<String> {
    let mut violations = Vec::new();
    let expected: BTreeSet<_> = seen.assigned.difference(&seen.lost).cloned().collect();
    if expected != seen.fib {
        violations.push(format!(
            "next hops in the FIB are {}, the SEs are {}",
            set(&seen.fib),
            set(&expected)
        ));
    }
    for (index, took) in seen.api_to_fib_s.iter().enumerate() {
        match took {
            None => violations.push(format!("call {} never reached the FIB", index + 1)),
            Some(s) if *s >= bars.fib_s => {
                violations.push(format!(
                    "call {} reached the FIB after {s:.3} s, the bar is {} s",
                    index + 1,
                    bars.fib_s
                ));
            }
            Some(_) => (),
        }
    }
    for name in &seen.new {
        match seen.first_connection_s.get(name) {
            None => violations.push(format!("no connection went over the new {name}")),
            Some(s) if *s >= bars.first_connection_s => {
                violations.push(format!(
                    "the first connection over {name} came after {s:.3} s, the bar is {} s",
                    bars.first_connection_s
                ));
            }
            Some(_) => (),
        }
    }
    let idle = seen
        .fib
        .iter()
        .filter(|name| seen.share.get(*name).is_none_or(|s| *s == 0));
    violations.extend(
        idle.map(|name| format!("no new connection went over {name} once the routes had settled")),
    );
    violations
}

fn set(names: &BTreeSet<String>) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.iter().cloned().collect::<Vec<_>>().join(" ")
    }
}

fn flow_violations(seen: &Observation, none_breaks: bool) -> Vec<String> {
    let mut violations = Vec::new();
    if seen.ports.len() != seen.connections {
        violations.push(format!(
            "the step began with {} long-lived connections instead of {}",
            seen.ports.len(),
            seen.connections
        ));
    }
    if seen.report.exchanges == 0 && seen.connections > 0 {
        violations.push("no message was exchanged".to_owned());
    }
    for (kind, failures) in [
        ("flow", &seen.report.broken),
        ("short connection", &seen.report.short_failures),
    ] {
        let why = if none_breaks {
            "and none may"
        } else {
            "although the router moved nothing"
        };
        let counts = |f: &&Failure| none_breaks || !is_explained(seen, f);
        let unexplained: Vec<_> = failures.iter().filter(counts).collect();
        if let Some(first) = unexplained.first() {
            violations.push(format!(
                "{} {kind}(s) failed {why} (first: {} from port {})",
                unexplained.len(),
                first.reason,
                first.port
            ));
        }
    }
    violations
}

/// What a step disturbed that should have disturbed nothing.
fn disturbances(seen: &Observation, result: &StepResult) -> Vec<String> {
    let Some(calm) = &seen.calm else {
        return Vec::new();
    };
    let counts = [
        (result.flows_moved as u64, "flow(s) moved"),
        (result.flows_broken as u64, "flow(s) broke"),
        (result.short_failed, "short connection(s) failed"),
        (calm.route_changes as u64, "time(s) the route changed"),
    ];
    let mut violations: Vec<_> = counts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what} in a step that nothing should notice"))
        .collect();
    if calm.before.is_empty() || calm.before != calm.after || calm.kept() != calm.before.len() {
        let (before, after) = (&calm.before, &calm.after);
        violations.push(format!(
            "the router's sessions were {before:?} and are {after:?}"
        ));
    }
    violations
}

/// Where an engine dies a flow may break for one reason: its packets no longer reach the SE that has it,
/// because the router sent them elsewhere or because the SE left.
fn is_explained(seen: &Observation, failure: &Failure) -> bool {
    let Some(flow) = seen.flows.get(&failure.port) else {
        return false;
    };
    let engine = seen.engines_by_mac.get(&flow.to);
    flow.moves > 0 || engine.is_none_or(|name| !seen.fib.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::traffic::EngineShare;

    const BARS: Bars = Bars {
        fib_s: 1.0,
        first_connection_s: 2.0,
        engine_idle_rss_mib: 40,
        none_breaks: false,
    };

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|n| (*n).to_owned()).collect()
    }

    fn failure(port: u16) -> Failure {
        Failure {
            port,
            reason: "reset".into(),
            engine: None,
            t_us: 1,
        }
    }

    /// One flow on se-1, and se-2 came in.
    fn scaled_out() -> Observation {
        let flow = Flow {
            from: "a".into(),
            to: "a".into(),
            moves: 0,
        };
        Observation {
            step: "1→2".into(),
            assigned: names(&["se-1", "se-2"]),
            fib: names(&["se-1", "se-2"]),
            new: names(&["se-2"]),
            api_to_fib_s: vec![Some(0.2)],
            first_connection_s: BTreeMap::from([("se-2".into(), 0.3)]),
            share: BTreeMap::from([("se-1".into(), 30), ("se-2".into(), 10)]),
            connections: 1,
            ports: BTreeSet::from([1000]),
            flows: BTreeMap::from([(1000, flow)]),
            engines_by_mac: BTreeMap::from([
                ("a".into(), "se-1".into()),
                ("b".into(), "se-2".into()),
            ]),
            report: Report {
                exchanges: 10,
                engines: BTreeMap::from([([10, 0, 0, 1].into(), EngineShare::default())]),
                ..Report::default()
            },
            ..Observation::default()
        }
    }

    #[test]
    fn where_none_may_break_a_moved_flow_that_breaks_is_a_violation() {
        let mut seen = scaled_out();
        let flow = seen.flows.get_mut(&1000).expect("there");
        (flow.to, flow.moves) = ("b".into(), 1);
        seen.report.broken.push(failure(1000));
        let strict = Bars {
            none_breaks: true,
            ..BARS
        };
        assert_eq!(judge(&seen, &BARS).violations, Vec::<String>::new());
        let strict = judge(&seen, &strict).violations;
        assert_eq!(strict.len(), 1, "{strict:?}");
        assert!(strict[0].contains("and none may"), "{strict:?}");
    }

    fn violations(change: impl FnOnce(&mut Observation)) -> Vec<String> {
        let mut seen = scaled_out();
        change(&mut seen);
        judge(&seen, &BARS).violations
    }

    #[test]
    fn a_clean_step_holds_and_is_measured() {
        let result = judge(&scaled_out(), &BARS);
        assert_eq!(result.violations, Vec::<String>::new());
        assert_eq!(
            (result.share["se-1"], result.api_to_fib_s),
            (0.75, Some(0.2))
        );
    }

    #[test]
    fn a_moved_flow_may_break_and_is_counted() {
        let mut seen = scaled_out();
        seen.flows.insert(
            1000,
            Flow {
                from: "a".into(),
                to: "b".into(),
                moves: 1,
            },
        );
        seen.report.broken.push(failure(1000));
        let result = judge(&seen, &BARS);
        assert_eq!(result.violations, Vec::<String>::new());
        assert_eq!(
            (
                result.flows_moved,
                result.flows_broken,
                result.broken_reasons["reset"]
            ),
            (1, 1, 1)
        );
    }

    #[test]
    fn a_flow_that_breaks_where_it_is_is_a_violation() {
        let found = violations(|seen| seen.report.broken.push(failure(1000)));
        assert!(found[0].contains("port 1000"), "{found:?}");
    }

    #[test]
    fn a_flow_of_an_se_that_left_may_break() {
        let found = violations(|seen| {
            seen.fib = names(&["se-2"]);
            seen.assigned = names(&["se-2"]);
            seen.report.broken.push(failure(1000));
        });
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn a_failed_short_connection_is_judged_like_a_flow() {
        assert_eq!(
            violations(|seen| seen.report.short_failures.push(failure(1000))).len(),
            1
        );
    }

    fn session(ports: &str, times_established: u64) -> Session {
        Session {
            neighbor: [10, 0, 0, 1].into(),
            state: "Established".into(),
            ports: ports.into(),
            times_established: Some(times_established),
        }
    }

    /// Violations of a step that nothing should notice, with this changed.
    fn disturbed(change: impl FnOnce(&mut Observation, &mut Calm)) -> Vec<String> {
        violations(|seen| {
            let mut calm = Calm {
                before: vec![session("179 5000", 1)],
                after: vec![session("179 5000", 1)],
                route_changes: 0,
            };
            change(seen, &mut calm);
            seen.calm = Some(calm);
        })
    }

    #[test]
    fn a_step_that_nothing_notices_holds() {
        assert_eq!(disturbed(|_, _| ()), Vec::<String>::new());
    }

    #[test]
    fn whatever_moves_breaks_or_fails_disturbs_also_where_it_is_explained() {
        let moved = |seen: &mut Observation| {
            seen.flows.get_mut(&1000).expect("there").moves = 1;
        };
        let text = "1 flow(s) moved in a step that nothing should notice";
        assert_eq!(disturbed(|seen, _| moved(seen)), [text]);
        let broken = disturbed(|seen, _| {
            moved(seen);
            seen.report.broken.push(failure(1000));
            seen.report.short_failed = 1;
        });
        assert_eq!(broken.len(), 3, "{broken:?}");
    }

    #[test]
    fn another_connection_another_count_a_session_less_or_more_disturb() {
        for after in [
            vec![session("179 5001", 1)],
            vec![session("179 5000", 2)],
            vec![],
            vec![session("179 5000", 1), session("179 6000", 1)],
        ] {
            let found = disturbed(|_, calm| calm.after = after);
            assert!(
                found.len() == 1 && found[0].contains("sessions were"),
                "{found:?}"
            );
        }
        let found = disturbed(|_, calm| calm.route_changes = 2);
        assert!(
            found[0].starts_with("2 time(s) the route changed"),
            "{found:?}"
        );
    }

    #[test]
    fn a_router_without_sessions_proves_nothing() {
        let found = disturbed(|_, calm| {
            calm.before.clear();
            calm.after.clear();
        });
        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn a_fib_that_differs_from_the_placement_is_a_violation() {
        let found = violations(|seen| seen.assigned = names(&["se-1", "se-2", "se-3"]));
        assert!(found[0].contains("se-3"), "{found:?}");
    }

    #[test]
    fn a_lost_se_is_not_expected_in_the_fib() {
        let found = violations(|seen| {
            seen.assigned = names(&["se-1", "se-2", "se-3"]);
            seen.lost = names(&["se-3"]);
        });
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn a_late_or_missing_route_is_a_violation() {
        assert_eq!(
            violations(|seen| seen.api_to_fib_s = vec![Some(1.0)]).len(),
            1
        );
        assert_eq!(violations(|seen| seen.api_to_fib_s = vec![None]).len(), 1);
    }

    #[test]
    fn a_new_se_without_connections_is_a_violation() {
        assert_eq!(violations(|seen| seen.first_connection_s.clear()).len(), 1);
        assert_eq!(violations(|seen| _ = seen.share.remove("se-2")).len(), 1);
    }

    #[test]
    fn a_step_without_messages_proves_nothing() {
        assert_eq!(violations(|seen| seen.report.exchanges = 0).len(), 1);
        assert_eq!(violations(|seen| seen.ports.clear()).len(), 1);
    }

    #[test]
    fn names_are_shortened_only_when_they_agree() {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(shorten(&list(&["se-1", "se-2"])), "se-1,2");
        assert_eq!(shorten(&list(&["se-1", "other-2"])), "se-1 other-2");
        assert_eq!(shorten(&[]), "");
    }
}
