//! For how long what the store knows by its time of day has been so. The time of day may be set, an hour forward for
//! instance, which must end no operation. So it is read once, when this process first sees the entry: at once where it wrote
//! it itself, and else as the time of day says, for another controller wrote it. From there on a clock that nobody sets counts.

use super::Assignment;
use super::waits::Since;
use crate::clock::now_unix_s;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// When an entry was first seen, and how old it was then.
#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    age_s: u64,
}

/// See the module's documentation. By VsVip and the seconds since 1970 in its assignment.
#[derive(Debug, Default)]
pub(super) struct Ages(BTreeMap<String, BTreeMap<u64, Seen>>);

impl Ages {
    /// This is the assignment of the VIP from now on.
    pub(super) fn see(&mut self, vsvip: &str, assignment: &Assignment) {
        self.see_at(vsvip, assignment, now_unix_s());
    }

    fn see_at(&mut self, vsvip: &str, assignment: &Assignment, now_s: u64) {
        let before = self.0.remove(vsvip).unwrap_or_default();
        let new = |since_s: u64| Seen {
            at: Instant::now(),
            age_s: now_s.saturating_sub(since_s),
        };
        let seen = |since_s| (since_s, before.get(&since_s).copied());
        let all = assignment.times_s().map(seen);
        let all: BTreeMap<u64, Seen> = all
            .map(|(since_s, seen)| (since_s, seen.unwrap_or_else(|| new(since_s))))
            .collect();
        if !all.is_empty() {
            self.0.insert(vsvip.to_owned(), all);
        }
    }

    /// Of an operation that began then, on an engine that has served since then.
    pub(super) fn since(
        &self,
        vsvip: &str,
        begun_s: u64,
        ready_s: Option<u64>,
        now: Instant,
    ) -> Since {
        let for_s = |since_s| self.for_s(vsvip, since_s, now);
        Since {
            begun_for_s: for_s(begun_s),
            ready_for_s: ready_s.map(for_s),
        }
    }

    /// Of what is so since then.
    pub(super) fn for_s(&self, vsvip: &str, since_s: u64, now: Instant) -> u64 {
        let seen = self.0.get(vsvip).and_then(|all| all.get(&since_s));
        seen.map_or(0, |seen| {
            let passed: Duration = now.saturating_duration_since(seen.at);
            seen.age_s.saturating_add(passed.as_secs())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Scaling;

    fn begun(since_s: u64, ready_since_s: Option<u64>) -> Assignment {
        let scaling = Scaling {
            to: "se".into(),
            from: None,
            since_s,
            ready_since_s,
        };
        Assignment {
            scaling: vec![scaling],
            ..Assignment::default()
        }
    }

    #[test]
    fn an_operation_gets_no_older_by_a_clock_that_is_set() {
        let mut ages = Ages::default();
        let age_s = |ages: &Ages| ages.since("vip", 1000, None, Instant::now()).begun_for_s;
        ages.see_at("vip", &begun(1000, None), 1000);
        assert_eq!(age_s(&ages), 0);
        // An hour forward, and back before it began.
        for now_s in [4600, 10] {
            ages.see_at("vip", &begun(1000, Some(now_s)), now_s);
            let later = Instant::now() + Duration::from_secs(7);
            let since = ages.since("vip", 1000, Some(now_s), later);
            assert!((7..9).contains(&since.begun_for_s), "{since:?}");
            assert!(
                since.ready_for_s.is_some_and(|s| (7..9).contains(&s)),
                "{since:?}"
            );
        }
    }

    #[test]
    fn an_engine_that_leaves_has_left_for_as_long_whatever_the_clock_says() {
        let mut leaving = Assignment::default();
        leaving.group.join("se", 900).expect("an id");
        leaving.group.linger("se", 1000);
        let mut ages = Ages::default();
        ages.see_at("vip", &leaving, 1000);
        ages.see_at("vip", &leaving, 4600);
        let later = Instant::now() + Duration::from_secs(7);
        assert!((7..9).contains(&ages.for_s("vip", 1000, later)));
    }

    #[test]
    fn what_another_controller_began_is_as_old_as_it_says_and_not_from_the_future() {
        for (now_s, age_s) in [(1300, 300), (900, 0)] {
            let mut ages = Ages::default();
            ages.see_at("vip", &begun(1000, None), now_s);
            let since = ages.since("vip", 1000, None, Instant::now());
            assert_eq!(since.begun_for_s, age_s);
        }
        let mut ages = Ages::default();
        ages.see_at("vip", &Assignment::default(), 1000);
        assert!(ages.0.is_empty());
    }
}
