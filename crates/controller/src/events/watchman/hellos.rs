//! Engines that others hear no more: they had answered the hellos of another engine of a VIP, and answer them no longer
//! (`member_problems` of its report, `member_silent`).
//!
//! That one is heard again, its hearer says by not saying it any more, in the same session and while that engine is in a group
//! with it. Where it says something else of that engine (its own steering has failed, no path leads there), it says nothing of
//! hellos, and what it said last stands. One whose session ends, or that has left the group, does not know; nor does one that
//! has started anew, for which that engine was never there. When nobody knows any more, nothing is said, and it is forgotten.

use super::{Event, Events, Id, Report, Subject, Watchman, details_key};
use model::reason::Reason;
use model::view::Ref;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Nobody has known for so long: it is forgotten. Engines come back sooner when a controller starts.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Engines that are silent, as others say.
#[derive(Debug, Default)]
pub(super) struct Hellos(BTreeMap<String, Silence>);

#[derive(Debug, Default)]
struct Silence {
    /// uuids of those that say so.
    by: BTreeSet<String>,
    /// Since when nobody has.
    unknown_since: Option<Instant>,
}

/// An engine is silent, or heard again.
#[derive(Debug, PartialEq, Eq)]
struct News {
    engine: String,
    heard: bool,
}

impl Hellos {
    fn remember(&mut self, engine: &str, silent: bool, now: Instant) {
        let silence = Silence {
            by: BTreeSet::new(),
            unknown_since: Some(now),
        };
        match silent {
            true => drop(self.0.insert(engine.to_owned(), silence)),
            false => drop(self.0.remove(engine)),
        }
    }

    /// An engine says which others are silent; `knows`: one of those is in a group with it.
    fn report(
        &mut self,
        by: &str,
        silent: &BTreeSet<&str>,
        knows: impl Fn(&str) -> bool,
        now: Instant,
    ) -> Vec<News> {
        let mut news = Vec::new();
        for engine in silent {
            if !self.0.contains_key(*engine) {
                news.push(News {
                    engine: (*engine).to_owned(),
                    heard: false,
                });
            }
            let silence = self.0.entry((*engine).to_owned()).or_default();
            silence.by.insert(by.to_owned());
            silence.unknown_since = None;
        }
        let said_before = |(engine, silence): &(&String, &mut Silence)| {
            silence.by.contains(by) && !silent.contains(engine.as_str())
        };
        for (engine, silence) in self.0.iter_mut().filter(said_before) {
            silence.by.remove(by);
            if !silence.by.is_empty() {
                continue;
            }
            silence.unknown_since = Some(now);
            if knows(engine) {
                news.push(News {
                    engine: engine.clone(),
                    heard: true,
                });
            }
        }
        for news in news.iter().filter(|n| n.heard) {
            self.0.remove(&news.engine);
        }
        news
    }

    /// Nobody has its word any more: its session has ended, or another one begins.
    pub(super) fn lost(&mut self, by: &str, now: Instant) {
        for silence in self.0.values_mut() {
            if silence.by.remove(by) && silence.by.is_empty() {
                silence.unknown_since = Some(now);
            }
        }
    }

    /// Forgets what nobody has known for long.
    pub(super) fn tick(&mut self, now: Instant) {
        let is_recent = |at: Instant| now.saturating_duration_since(at) < FORGOTTEN_AFTER;
        self.0
            .retain(|_, silence| silence.unknown_since.is_none_or(is_recent));
    }

    /// It has said last that this engine is silent.
    fn has_said(&self, by: &str, engine: &str) -> bool {
        let silence = self.0.get(engine);
        silence.is_some_and(|silence| silence.by.contains(by))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What the last events say.
pub(super) fn remembered(events: &Events) -> Hellos {
    let (mut hellos, now) = (Hellos::default(), Instant::now());
    for event in events.all() {
        match event.id {
            Id::SeDpHbFailed => hellos.remember(&event.subject.uuid, true, now),
            Id::SeDpHbRecovered => hellos.remember(&event.subject.uuid, false, now),
            _ => {}
        }
    }
    hellos
}

impl Watchman {
    /// Says whom the engine hears no more, and whom it hears again.
    pub(super) fn hears(&self, se: &str, report: &Report) {
        let mut state = self.lock();
        let problems = report.member_problems.iter();
        let silent = problems.filter(|p| {
            let says_so = p.reason_code == Reason::MemberSilent.code();
            says_so || state.hellos.has_said(se, &p.se_uuid)
        });
        let silent: BTreeSet<&str> = silent.map(|p| p.se_uuid.as_str()).collect();
        if silent.is_empty() && state.hellos.is_empty() {
            return;
        }
        let knows = |engine: &str| self.are_together(se, engine);
        let news = state.hellos.report(se, &silent, knows, Instant::now());
        drop(state);
        for news in &news {
            self.say_heard(se, news);
        }
    }

    /// The engine has been told of the other one as a member of a group.
    fn are_together(&self, se: &str, other: &str) -> bool {
        let desired = self.registry.get(se).desired;
        let groups = desired.iter().flat_map(|d| &d.groups);
        let mut members = groups.flat_map(|g| &g.members);
        members.any(|m| m.se_uuid == other)
    }

    fn say_heard(&self, by: &str, news: &News) {
        let snapshot = self.objects.snapshot();
        let Some(subject) = Subject::of(&snapshot, "serviceengine", &news.engine) else {
            return;
        };
        let (name, other) = (
            subject.name.clone(),
            snapshot.name_of("serviceengine", by).unwrap_or(by),
        );
        let (id, code, text) = match news.heard {
            false => (
                Id::SeDpHbFailed,
                Reason::MemberSilent.code(),
                format!(
                    "{name} answers no hello of {other} any more: its flows that come to other engines are reset; see whether its host is up, and whether the UDP port of engines' messages (se_tunnel_udp_port) is open between them"
                ),
            ),
            true => (
                Id::SeDpHbRecovered,
                "",
                format!("{name} answers the hellos of {other} again"),
            ),
        };
        let details = json!({
            "se_ref": Ref::to("serviceengine", by).0, "remote_se_ref": Ref::to("serviceengine", &news.engine).0,
        });
        let event = Event::new(id, subject, text)
            .because(code)
            .with_details(details_key(id), details)
            .with_related([by.to_owned()]);
        self.events.record(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT: &[&str] = &["c"];

    fn said(news: Vec<News>) -> Vec<(String, bool)> {
        news.into_iter().map(|n| (n.engine, n.heard)).collect()
    }

    /// What `by` says, which is in a group with everybody.
    fn report(hellos: &mut Hellos, by: &str, silent: &[&str], now: Instant) -> Vec<(String, bool)> {
        let silent = silent.iter().copied().collect();
        said(hellos.report(by, &silent, |_| true, now))
    }

    #[test]
    fn an_engine_is_silent_as_soon_as_one_says_so_and_heard_when_none_does_any_more() {
        let (mut hellos, now) = (Hellos::default(), Instant::now());
        let silent = vec![("c".to_owned(), false)];
        assert_eq!(report(&mut hellos, "a", &[], now), []);
        assert_eq!(report(&mut hellos, "a", SILENT, now), silent);
        assert_eq!(report(&mut hellos, "a", SILENT, now), [], "no news");
        assert_eq!(report(&mut hellos, "b", SILENT, now), []);
        assert_eq!(report(&mut hellos, "a", &[], now), [], "b says so still");
        let heard = vec![("c".to_owned(), true)];
        assert_eq!(report(&mut hellos, "b", &[], now), heard);
        assert_eq!(report(&mut hellos, "a", SILENT, now), silent, "once more");
    }

    #[test]
    fn one_that_has_left_the_group_is_not_heard_again() {
        let (mut hellos, now) = (Hellos::default(), Instant::now());
        report(&mut hellos, "a", SILENT, now);
        let none = BTreeSet::new();
        assert_eq!(hellos.report("a", &none, |_| false, now), []);
        hellos.tick(now + FORGOTTEN_AFTER);
        assert!(hellos.is_empty());
    }

    #[test]
    fn a_session_that_ends_says_nothing_of_others_and_one_that_begins_says_nothing_new() {
        let (mut hellos, now) = (Hellos::default(), Instant::now());
        report(&mut hellos, "a", SILENT, now);
        hellos.lost("a", now);
        let back = now + FORGOTTEN_AFTER / 2;
        hellos.tick(back);
        assert_eq!(report(&mut hellos, "a", SILENT, back), [], "known");
        hellos.lost("a", back);
        assert_eq!(report(&mut hellos, "a", &[], back), [], "it may be new");
        hellos.tick(back + FORGOTTEN_AFTER);
        assert!(hellos.is_empty());
    }

    #[test]
    fn after_a_start_what_is_as_it_was_is_no_news() {
        let now = Instant::now();
        let mut hellos = Hellos::default();
        hellos.remember("c", true, now);
        assert_eq!(report(&mut hellos, "a", SILENT, now), []);
        let heard = vec![("c".to_owned(), true)];
        assert_eq!(report(&mut hellos, "a", &[], now), heard);
        hellos.remember("c", true, now);
        hellos.remember("c", false, now);
        assert!(hellos.is_empty());
    }
}
