//! Virtual services that are on fewer engines than their SE group asks for: another loss takes them down, or they are down.
//!
//! An engine counts that has a session and does not have the service down while it is up elsewhere. What comes and goes, such as
//! an engine that starts again, is not said, nor is anything of a service that is new and gets its engines in time.

use super::{Event, Events, Id, Kind, State, Subject, Watchman, details_key};
use crate::plan::Redundancy;
use model::view::{Ref, VirtualService};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// How often all of them are looked at.
const EVERY: Duration = Duration::from_secs(5);
/// It is said after so long; an engine's process starts again in less.
const SAID_AFTER: Duration = Duration::from_secs(10);
/// The same of a service that is new, or whose SE group asks for more engines than before: it is getting them.
const NEW_FOR: Duration = Duration::from_secs(30);
/// Reason code.
const TOO_FEW: &str = "too_few_engines_up";

/// Of each virtual service how many engines it has, as was said last.
#[derive(Debug, Default)]
pub(super) struct Standings {
    all: HashMap<String, Standing>,
    looked: Option<Instant>,
}

#[derive(Debug, Default)]
struct Standing {
    asked: usize,
    /// It had all of them.
    had_all: bool,
    short_since: Option<Instant>,
    said_short: bool,
}

impl Standings {
    fn remember(&mut self, vs: &str, short: bool) {
        let standing = Standing {
            said_short: short,
            ..Standing::default()
        };
        self.all.insert(vs.to_owned(), standing);
    }

    /// It is time to look, and somebody does.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = |at: Instant| now.saturating_duration_since(at) >= EVERY;
        let due = self.looked.is_none_or(is_due);
        if due {
            self.looked = Some(now);
        }
        due
    }

    /// Whether it is to be said that the virtual service has too few engines, or has all of them again.
    fn judge(&mut self, vs: &str, (up, asked): (usize, usize), now: Instant) -> Option<bool> {
        let standing = self.all.entry(vs.to_owned()).or_default();
        if asked > standing.asked {
            (standing.had_all, standing.short_since) = (false, None);
        }
        standing.asked = asked;
        if up >= asked {
            (standing.had_all, standing.short_since) = (true, None);
            return std::mem::replace(&mut standing.said_short, false).then_some(false);
        }
        let since = *standing.short_since.get_or_insert(now);
        let patience = if standing.had_all {
            SAID_AFTER
        } else {
            NEW_FOR
        };
        if standing.said_short || now.saturating_duration_since(since) < patience {
            return None;
        }
        standing.said_short = true;
        Some(true)
    }

    /// One that is switched off asks for none. What was said of it stands until it is judged again, as one that is getting its
    /// engines.
    fn switched_off(&mut self, vs: &str) {
        if let Some(standing) = self.all.get_mut(vs) {
            standing.asked = 0;
        }
    }

    /// Forgets all others.
    fn keep(&mut self, services: &HashSet<&str>) {
        self.all.retain(|vs, _| services.contains(vs.as_str()));
    }
}

/// What the last events say.
pub(super) fn remembered(events: &Events) -> Standings {
    let mut standings = Standings::default();
    for event in events.all() {
        match event.id {
            Id::VsSeHaCompromised => standings.remember(&event.subject.uuid, true),
            Id::VsSeHaActive => standings.remember(&event.subject.uuid, false),
            _ => {}
        }
    }
    standings
}

/// A virtual service has too few engines, or all of them again.
struct News {
    subject: Subject,
    vsvip: String,
    asked: usize,
    /// uuids.
    up: Vec<String>,
    short: bool,
}

impl Watchman {
    /// Says which virtual services have too few engines, and which have all of them again. Not before engines have had
    /// time to come after a start.
    pub(super) fn look_at_redundancy(&self, now: Instant) {
        let mut state = self.lock();
        if !state.settled || !state.standings.is_due(now) {
            return;
        }
        drop(state);
        let snapshot = self.objects.snapshot();
        let services = snapshot.views::<VirtualService>("virtualservice");
        let (services, off): (Vec<_>, Vec<_>) = services.into_iter().partition(|vs| vs.enabled);
        let asks = |vs: &VirtualService| {
            let vsvip = vs.vsvip_ref.as_ref().map_or("", Ref::uuid);
            self.planner.redundancy(&snapshot, vsvip)
        };
        let asked: Vec<_> = services.iter().map(|vs| asks(vs)).collect();
        let mut state = self.lock();
        let mut news = Vec::new();
        for (vs, asked) in services.iter().zip(asked) {
            let Some((asked, subject)) =
                asked.zip(Subject::of(&snapshot, "virtualservice", &vs.uuid))
            else {
                continue;
            };
            news.extend(look_at(&mut state, subject, asked, now));
        }
        for vs in &off {
            state.standings.switched_off(&vs.uuid);
        }
        let exist = snapshot.all("virtualservice").map(|(uuid, _)| uuid);
        state.standings.keep(&exist.collect());
        drop(state);
        for news in news {
            self.say_redundancy(news);
        }
    }

    fn say_redundancy(&self, news: News) {
        let snapshot = self.objects.snapshot();
        let name = |se: &String| {
            snapshot
                .name_of("serviceengine", se)
                .unwrap_or(se)
                .to_owned()
        };
        let names: Vec<String> = news.up.iter().map(name).collect();
        let names = match names.as_slice() {
            [] => "none".to_owned(),
            names => names.join(", "),
        };
        let have = news.up.len();
        let asked = match news.asked {
            1 => "1 engine".to_owned(),
            n => format!("{n} engines"),
        };
        let (id, code, text) = match news.short {
            true => (
                Id::VsSeHaCompromised,
                TOO_FEW,
                format!(
                    "its SE group asks for {asked}, and it has {have} ({names}); see its runtime for the others, or start an engine"
                ),
            ),
            false => (
                Id::VsSeHaActive,
                "",
                format!("it has as many engines again as its SE group asks for: {names}"),
            ),
        };
        let sentence = format!("{}: {text}", news.subject.name);
        let details = json!({"ha_reason": text, "num_se_up": have, "num_se_requested": news.asked});
        let event = Event::new(id, news.subject, sentence)
            .because(code)
            .with_details(details_key(id), details)
            .with_related([news.vsvip]);
        self.events.record(event);
    }
}

fn look_at(state: &mut State, subject: Subject, has: Redundancy, now: Instant) -> Option<News> {
    let Redundancy { vsvip, asked, here } = has;
    let mut up = here;
    let is_up = state.observed.count(Kind::Service, &subject.uuid, "").up > 0;
    up.retain(|se| !is_up || state.observed.is_up_at(Kind::Service, &subject.uuid, se));
    let standings = &mut state.standings;
    let short = standings.judge(&subject.uuid, (up.len(), asked), now)?;
    Some(News {
        subject,
        vsvip,
        asked,
        up,
        short,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// What is said of a virtual service that has so many engines up of so many, at these seconds.
    fn said(standings: &mut Standings, looks: &[(u32, usize, usize)]) -> Vec<(u32, bool)> {
        let begin = Instant::now();
        let each = looks.iter().filter_map(|(at, up, asked)| {
            let now = begin + *at * SECOND;
            Some((*at, standings.judge("vs", (*up, *asked), now)?))
        });
        each.collect()
    }

    #[test]
    fn a_service_that_gets_its_engines_in_time_is_never_spoken_of() {
        let looks = [
            (0, 0, 2),
            (5, 0, 2),
            (15, 1, 2),
            (29, 1, 2),
            (30, 2, 2),
            (600, 2, 2),
        ];
        assert_eq!(said(&mut Standings::default(), &looks), []);
        let mut standings = Standings::default();
        let more_asked = [(0, 1, 1), (10, 1, 2), (25, 1, 2), (39, 1, 2), (40, 2, 2)];
        assert_eq!(said(&mut standings, &more_asked), []);
    }

    #[test]
    fn one_that_does_not_is_spoken_of_once_and_once_more_when_it_has_them() {
        let looks = [
            (0, 0, 1),
            (29, 0, 1),
            (30, 0, 1),
            (90, 0, 1),
            (95, 1, 1),
            (99, 1, 1),
        ];
        let expected = [(30, true), (95, false)];
        assert_eq!(said(&mut Standings::default(), &looks), expected);
    }

    #[test]
    fn an_engine_that_starts_again_is_no_loss_and_one_that_stays_away_is() {
        let looks = [
            (0, 2, 2),
            (5, 1, 2),
            (14, 1, 2),
            (15, 2, 2),
            (20, 1, 2),
            (29, 1, 2),
        ];
        let mut standings = Standings::default();
        assert_eq!(said(&mut standings, &looks), []);
        let looks = [(0, 2, 2), (20, 1, 2), (30, 1, 2), (31, 2, 2)];
        assert_eq!(said(&mut standings, &looks), [(30, true), (31, false)]);
    }

    #[test]
    fn more_engines_than_are_asked_for_may_go_and_fewer_may_be_asked_for() {
        let looks = [(0, 4, 1), (60, 1, 1), (120, 1, 1)];
        assert_eq!(said(&mut Standings::default(), &looks), []);
        let looks = [(0, 1, 2), (30, 1, 2), (40, 1, 1)];
        let expected = [(30, true), (40, false)];
        assert_eq!(said(&mut Standings::default(), &looks), expected);
    }

    #[test]
    fn after_a_start_what_is_as_it_was_is_no_news() {
        let mut standings = Standings::default();
        standings.remember("vs", true);
        assert_eq!(said(&mut standings, &[(0, 1, 2), (100, 1, 2)]), []);
        assert_eq!(said(&mut standings, &[(200, 2, 2)]), [(200, false)]);
        standings.keep(&HashSet::new());
        assert!(standings.all.is_empty());
    }

    #[test]
    fn all_are_looked_at_from_time_to_time() {
        let (mut standings, now) = (Standings::default(), Instant::now());
        assert!(standings.is_due(now));
        assert!(!standings.is_due(now + SECOND));
        assert!(standings.is_due(now + EVERY));
    }
}
