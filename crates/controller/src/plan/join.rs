//! The order of joining (DESIGN 6.5): an engine that is added to a group announces the VIP when every other member
//! has acknowledged that it knows of it, so that no packet of a live flow meets an engine that is not known.
//!
//! A member that does not answer holds nobody up for longer than [`WAIT_MAX`], and is named until it has answered.
//! Joins are not stored: a controller that starts anew holds nothing back, because what it finds placed may be in
//! force. [`run`] is one task, owned by the controller; it waits and nothing else, so that it may end at any time.

use super::Planner;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Longest wait for the members of a group. An acknowledgement takes milliseconds.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// uuids of a VsVip and of the engine that joins.
pub(super) type Joining = (String, String);

/// See the module's documentation.
#[derive(Debug, Clone, Default)]
pub(super) struct Joins(BTreeMap<Joining, Join>);

#[derive(Debug, Clone)]
enum Join {
    /// The members are about to be told.
    Begun,
    /// They have been: which generation each has to acknowledge, and until when that is waited for.
    Waiting {
        until: Instant,
        awaited: BTreeMap<String, u64>,
    },
    /// Routes are not held back any more; these have not answered.
    Late(BTreeMap<String, u64>),
}

/// A join that holds nothing back any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finished {
    pub joining: Joining,
    /// uuids of those that have not answered in time.
    pub late: Vec<String>,
}

impl Joins {
    /// The engine joins; until the others know, it announces nothing.
    pub(super) fn begin(&mut self, joining: Joining) {
        self.0.insert(joining, Join::Begun);
    }

    /// Forgets the joins of a VIP by other engines than these.
    pub(super) fn keep(&mut self, vsvip: &str, engines: &[String]) {
        self.0
            .retain(|(v, engine), _| v != vsvip || engines.contains(engine));
    }

    /// Those whose routes are held back.
    pub(super) fn holding(&self) -> BTreeSet<Joining> {
        let held = self
            .0
            .iter()
            .filter(|(_, join)| !matches!(join, Join::Late(_)));
        held.map(|(joining, _)| joining.clone()).collect()
    }

    /// The members have been sent states of these generations, which have the joining engine in them.
    pub(super) fn told(&mut self, joining: &Joining, awaited: BTreeMap<String, u64>, now: Instant) {
        if let Some(join @ Join::Begun) = self.0.get_mut(joining) {
            let until = now + WAIT_MAX;
            *join = Join::Waiting { until, awaited };
        }
    }

    /// Finishes those that all have answered to, or whose time is up. `confirmed` is the newest generation that an
    /// engine has acknowledged; one without a session is not waited for.
    pub(super) fn finish(
        &mut self,
        now: Instant,
        confirmed: impl Fn(&str) -> Option<u64>,
    ) -> Vec<Finished> {
        let mut finished = Vec::new();
        self.0.retain(|joining, join| {
            let (Join::Waiting { awaited, .. } | Join::Late(awaited)) = join else {
                return true;
            };
            awaited.retain(|se, generation| confirmed(se).is_some_and(|c| c < *generation));
            let open = awaited.clone();
            if matches!(join, Join::Waiting { until, .. } if open.is_empty() || now >= *until) {
                finished.push(Finished {
                    joining: joining.clone(),
                    late: open.keys().cloned().collect(),
                });
                *join = Join::Late(open.clone());
            }
            !open.is_empty()
        });
        finished
    }

    /// When the next one's time is up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let until = |join: &Join| match join {
            Join::Waiting { until, .. } => Some(*until),
            Join::Begun | Join::Late(_) => None,
        };
        self.0.values().filter_map(until).min()
    }

    /// uuids of the members that this engine has not waited for any longer, and that have not answered since.
    pub(super) fn late<'a>(&'a self, joining: &Joining) -> impl Iterator<Item = &'a str> {
        let late = self.0.get(joining).and_then(|join| match join {
            Join::Late(awaited) => Some(awaited.keys().map(String::as_str)),
            Join::Begun | Join::Waiting { .. } => None,
        });
        late.into_iter().flatten()
    }
}

/// Lets engines announce as soon as the others know them; until `stop`.
pub async fn run(planner: Arc<Planner>, stop: CancellationToken) {
    let mut answers = planner.registry.answers();
    let mut began = planner.joining.subscribe();
    loop {
        answers.mark_unchanged();
        began.mark_unchanged();
        let deadline = planner.finish_joins(Instant::now());
        let time_is_up = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            _ = answers.changed() => {}
            _ = began.changed() => {}
            () = time_is_up => {}
        }
    }
}

impl Planner {
    /// Engines that join a group in which others are that can be told; to be called before they are assigned.
    pub(super) fn begin_joins(&self, vsvip: &str, engines: &[String]) {
        let group = self.assignment(vsvip).group;
        for engine in engines {
            let mut others = group.others(engine);
            let known =
                others.any(|m| !engines.contains(&m.engine) && self.is_connected(&m.engine));
            if known {
                let joining = (vsvip.to_owned(), engine.clone());
                self.write().joins.begin(joining);
            }
        }
    }

    /// The members have been told; to be called when that is so.
    pub(super) fn told(&self, holding: impl Iterator<Item = (Joining, BTreeMap<String, u64>)>) {
        let now = Instant::now();
        for (joining, awaited) in holding {
            self.write().joins.told(&joining, awaited, now);
            self.joining.send_modify(|n| *n += 1);
        }
    }

    /// Publishes what is not held back any more; gives the time of the next look.
    pub(super) fn finish_joins(&self, now: Instant) -> Option<Instant> {
        let finished = {
            let mut tables = self.write();
            let finished = tables.joins.finish(now, |se| self.registry.confirmed(se));
            for Finished { joining, .. } in &finished {
                tables.marks.engine(&joining.1);
            }
            finished
        };
        for Finished { joining, late } in &finished {
            self.log_join(joining, late);
        }
        if !finished.is_empty() {
            self.publish();
        }
        self.read().joins.deadline()
    }

    fn log_join(&self, (vsvip, engine): &Joining, late: &[String]) {
        let name = |se: &str| self.name(se);
        let se = name(engine);
        self.witness.tell(|w| w.joined(vsvip, engine, late));
        if late.is_empty() {
            tracing::info!(vsvip, se, "every member of the group knows the new engine");
        } else {
            let late = late.iter().map(|se| name(se)).collect::<Vec<_>>().join(" ");
            let waited_ms = u64::try_from(WAIT_MAX.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(
                vsvip,
                se,
                late,
                waited_ms,
                "not every member of the group has confirmed the new engine; not waiting"
            );
        }
    }

    /// uuids of the engines that announce this VIP as soon as the others know them.
    pub(super) fn holding(&self, vsvip: &str) -> BTreeSet<String> {
        let all = self.read().joins.holding();
        let here = all.into_iter().filter(|(v, _)| v == vsvip);
        here.map(|(_, engine)| engine).collect()
    }

    /// What is to be said of members that have not confirmed this engine.
    pub(super) fn late_sentence(&self, vsvip: &str, engine: &str) -> Option<String> {
        let name = |se: &str| self.name(se);
        let joining = (vsvip.to_owned(), engine.to_owned());
        let tables = self.read();
        let late: Vec<String> = tables.joins.late(&joining).map(name).collect();
        (!late.is_empty()).then(|| {
            format!(
                "{} has not confirmed {} within {} ms and was not waited for",
                late.join(", "),
                name(engine),
                WAIT_MAX.as_millis()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joining(engine: &str) -> Joining {
        ("vip".into(), engine.into())
    }

    fn generations(of: &[(&str, u64)]) -> BTreeMap<String, u64> {
        of.iter().map(|(se, g)| ((*se).to_owned(), *g)).collect()
    }

    fn confirmed(of: &[(&str, u64)]) -> impl Fn(&str) -> Option<u64> {
        let of = generations(of);
        move |se| of.get(se).copied()
    }

    #[test]
    fn an_engine_announces_when_all_have_acknowledged() {
        let (mut joins, at) = (Joins::default(), Instant::now());
        joins.begin(joining("c"));
        let none = confirmed(&[("a", 9), ("b", 9), ("c", 9)]);
        assert_eq!(joins.finish(at, &none), [], "nobody has been told yet");
        joins.told(
            &joining("c"),
            generations(&[("a", 10), ("b", 12), ("c", 3)]),
            at,
        );
        let one = confirmed(&[("a", 10), ("b", 11), ("c", 3)]);
        assert_eq!(joins.finish(at, one), []);
        assert_eq!(joins.holding(), [joining("c")].into());
        let all = confirmed(&[("a", 11), ("b", 12), ("c", 3)]);
        let finished = Finished {
            joining: joining("c"),
            late: Vec::new(),
        };
        assert_eq!(joins.finish(at, all), [finished]);
        assert_eq!((joins.holding().len(), joins.deadline()), (0, None));
        assert_eq!(joins.late(&joining("c")).count(), 0);
    }

    #[test]
    fn a_member_that_does_not_answer_is_named_and_not_waited_for() {
        let (mut joins, at) = (Joins::default(), Instant::now());
        joins.begin(joining("c"));
        joins.told(
            &joining("c"),
            generations(&[("a", 10), ("b", 10), ("c", 1)]),
            at,
        );
        let silent = confirmed(&[("a", 10), ("b", 9), ("c", 1)]);
        let until = joins.deadline().expect("it waits");
        assert_eq!(until, at + WAIT_MAX);
        assert_eq!(joins.finish(until - Duration::from_millis(1), &silent), []);
        let finished = Finished {
            joining: joining("c"),
            late: vec!["b".into()],
        };
        assert_eq!(joins.finish(until, &silent), [finished]);
        assert!(joins.holding().is_empty());
        assert_eq!(joins.late(&joining("c")).collect::<Vec<_>>(), ["b"]);
        assert_eq!(joins.finish(until, &silent), [], "it is finished once");
        assert_eq!(joins.finish(until, confirmed(&[("b", 10)])), []);
        assert_eq!(
            joins.late(&joining("c")).count(),
            0,
            "it has answered since"
        );
    }

    #[test]
    fn an_engine_without_a_session_is_not_waited_for() {
        let (mut joins, at) = (Joins::default(), Instant::now());
        joins.begin(joining("c"));
        joins.told(
            &joining("c"),
            generations(&[("a", 10), ("b", 10), ("c", 1)]),
            at,
        );
        let finished = joins.finish(at, confirmed(&[("a", 10), ("c", 1)]));
        assert_eq!(finished.len(), 1);
        assert_eq!(finished[0].late, Vec::<String>::new());
    }

    #[test]
    fn several_joins_wait_at_the_same_time() {
        let (mut joins, at) = (Joins::default(), Instant::now());
        let later = at + Duration::from_millis(100);
        joins.begin(joining("c"));
        joins.told(&joining("c"), generations(&[("a", 10), ("c", 1)]), at);
        joins.begin(joining("d"));
        joins.told(
            &joining("d"),
            generations(&[("a", 11), ("c", 2), ("d", 1)]),
            later,
        );
        let silent = confirmed(&[("a", 9), ("c", 2), ("d", 1)]);
        assert_eq!(joins.finish(at + WAIT_MAX, &silent).len(), 1);
        assert_eq!(joins.finish(later + WAIT_MAX, &silent).len(), 1);
    }
}
