//! Changes of a session that the owner has not been told yet.
//!
//! A session that flaps does not fill the queue to the owner: what it cannot be told now is put together, so that it
//! learns the latest state and how often the path failed.

use std::time::{Duration, Instant};

use ::bfd::{Change, Diagnostic};

/// So many reports in this time; coming up takes two.
const REPORTS_MAX: u32 = 8;
const PERIOD: Duration = Duration::from_secs(1);

/// After a queue that was full.
const RETRY: Duration = Duration::from_millis(20);

/// One or several changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct News {
    /// From before the first to after the last, with the diagnostic of the last failure if there was one.
    pub(super) change: Change,
    /// How often the path failed.
    pub(super) failures: u64,
}

impl News {
    fn then(self, next: Change) -> Self {
        let failed = next.is_failure();
        let told: Diagnostic = match !failed && self.failures > 0 {
            true => self.change.diagnostic,
            false => next.diagnostic,
        };
        let change = Change {
            from: self.change.from,
            diagnostic: told,
            ..next
        };
        Self {
            change,
            failures: self.failures + u64::from(failed),
        }
    }
}

/// See the head of the module.
#[derive(Debug)]
pub(super) struct Untold {
    news: Option<News>,
    period_from: Instant,
    reports: u32,
    not_before: Instant,
}

impl Untold {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            news: None,
            period_from: now,
            reports: 0,
            not_before: now,
        }
    }

    pub(super) fn add(&mut self, change: Change) {
        let first = News {
            change,
            failures: u64::from(change.is_failure()),
        };
        self.news = Some(self.news.map_or(first, |news| news.then(change)));
    }

    /// When the news may be told.
    pub(super) fn due(&self) -> Option<Instant> {
        self.news?;
        let wait = match self.reports < REPORTS_MAX {
            true => Duration::ZERO,
            false => PERIOD,
        };
        Some(self.not_before.max(self.period_from + wait))
    }

    pub(super) fn news(&self, now: Instant) -> Option<News> {
        self.due().filter(|due| *due <= now)?;
        self.news
    }

    /// The owner has no room for them.
    pub(super) fn postpone(&mut self, now: Instant) {
        self.not_before = now + RETRY;
    }

    /// The owner has them.
    pub(super) fn told(&mut self, now: Instant) {
        if now >= self.period_from + PERIOD {
            self.period_from = now;
            self.reports = 0;
        }
        self.reports += 1;
        self.news = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::bfd::State;

    fn change(from: State, to: State, diagnostic: Diagnostic) -> Change {
        Change {
            from,
            to,
            diagnostic,
            remote_state: State::Down,
        }
    }

    #[test]
    fn a_session_that_flaps_is_told_some_times_per_second_and_no_failure_is_lost() {
        let start = Instant::now();
        let mut untold = Untold::new(start);
        let (mut reports, mut failures) = (0, 0);
        for n in 0..1000 {
            let now = start + Duration::from_millis(n);
            untold.add(change(State::Down, State::Up, Diagnostic::NONE));
            untold.add(change(
                State::Up,
                State::Down,
                Diagnostic::DETECTION_TIME_EXPIRED,
            ));
            if let Some(news) = untold.news(now) {
                reports += 1;
                failures += news.failures;
                untold.told(now);
            }
        }
        assert_eq!(reports, REPORTS_MAX);
        let due = untold.due().unwrap();
        assert_eq!(due, start + PERIOD);
        untold.add(change(State::Down, State::Init, Diagnostic::NONE));
        let last = untold.news(due).unwrap();
        assert_eq!(failures + last.failures, 1000);
        let expected = change(State::Down, State::Init, Diagnostic::DETECTION_TIME_EXPIRED);
        assert_eq!(last.change, expected);
    }

    /// A deadline that stays in the past would make the thread spin.
    #[test]
    fn a_full_queue_is_tried_again_later_not_at_once() {
        let now = Instant::now();
        let mut untold = Untold::new(now);
        untold.add(change(State::Down, State::Up, Diagnostic::NONE));
        untold.postpone(now);
        assert_eq!(untold.news(now), None);
        assert_eq!(untold.due(), Some(now + RETRY));
        assert!(untold.news(now + RETRY).is_some());
    }

    #[test]
    fn the_first_changes_are_told_at_once() {
        let now = Instant::now();
        let mut untold = Untold::new(now);
        assert_eq!(untold.due(), None);
        for to in [State::Init, State::Up, State::Down] {
            untold.add(change(State::Down, to, Diagnostic::NONE));
            assert_eq!(untold.news(now).map(|n| n.change.to), Some(to));
            untold.told(now);
            assert_eq!(untold.news(now), None);
        }
    }
}
