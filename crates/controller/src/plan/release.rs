//! What is said of engines that were scaled in, until they leave: that they have no connection of the VIP left, and before
//! that, once `vs_scalein_timeout` of the SE group is over, that they have some. It is said, and nothing is done by it.
//!
//! It is kept in memory: of an engine that was scaled in before this process started, the one before may have said it.

use super::leave::{Left, Seen};
use super::waits::or_never;
use super::{Assignment, Planner, situation};
use crate::objects::Snapshot;
use std::collections::BTreeMap;

/// By VsVip and engine.
#[derive(Debug, Default)]
pub(super) struct Releases(BTreeMap<(String, String), Said>);

/// What has been said of an engine.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    ready: bool,
    late: bool,
    /// The controller before may have said that it is ready; not so once it has connections.
    doubtful: bool,
}

/// What is to be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Say {
    Ready,
    Late,
}

impl Releases {
    /// This is how a controller finds the VIP that starts.
    pub(super) fn begin(&mut self, vsvip: &str, assignment: &Assignment) {
        let said = Said {
            ready: true,
            late: true,
            doubtful: true,
        };
        for (member, _) in assignment.group.lingering() {
            let key = (vsvip.to_owned(), member.engine.clone());
            self.0.insert(key, said);
        }
    }

    /// Of an engine with so many connections; none: it has not said.
    fn look(&mut self, key: (String, String), flows: Option<u64>, is_late: bool) -> Option<Say> {
        let said = self.0.entry(key).or_default();
        if flows == Some(0) {
            let is_new = !std::mem::replace(&mut said.ready, true);
            return is_new.then_some(Say::Ready);
        }
        if said.doubtful && flows.is_some() {
            (said.ready, said.doubtful) = (false, false);
        }
        // Who was ready and has a connection again had one that was half open.
        let is_new = is_late && !said.ready && !std::mem::replace(&mut said.late, true);
        is_new.then_some(Say::Late)
    }

    /// Forgets those that have left.
    pub(super) fn keep(&mut self, lingers: impl Fn(&(String, String)) -> bool) {
        self.0.retain(|key, _| lingers(key));
    }
}

impl Planner {
    /// Looks at an engine that was scaled in so long ago.
    pub(super) fn say_release(
        &self,
        snapshot: &Snapshot,
        (vsvip, engine): (&str, &str),
        seen: Seen,
        for_s: u64,
    ) {
        let left = match seen {
            Seen::Left(left) => Some(left),
            Seen::Silent => None,
            // What it has left, nobody knows.
            Seen::Lost(_) => return,
        };
        // Until it has heard that it is scaled in, new connections may come.
        let left = left.filter(|left| left.flows > 0 || self.has_reported(engine));
        let group = situation::group_of(snapshot, vsvip);
        let timeout_s = or_never(group.map_or(0, |g| g.vs_scalein_timeout));
        let key = (vsvip.to_owned(), engine.to_owned());
        let flows = left.map(|l| l.flows);
        let say = self.write().releases.look(key, flows, for_s >= timeout_s);
        match say {
            Some(Say::Ready) => {
                let why = format!("{} has no flows of it left", self.name(engine));
                self.witness.tell(|w| w.released(vsvip, engine, &why));
            }
            Some(Say::Late) => {
                let why = late(&self.name(engine), left, timeout_s);
                self.witness.tell(|w| w.not_released(vsvip, engine, &why));
            }
            None => {}
        }
    }

    /// What the engine has reported last, it has since it does what is wanted of it.
    fn has_reported(&self, engine: &str) -> bool {
        let report = self.registry.get(engine).report;
        let applied = report.map_or(0, |report| report.applied_generation);
        let told = self.registry.told(engine);
        self.registry.is_in_force(engine) && told.is_some_and(|told| applied >= told)
    }
}

fn late(name: &str, left: Option<Left>, timeout_s: u64) -> String {
    let what = left.map_or_else(
        || "has not said what it has left".to_owned(),
        |left| format!("has {}", left.sentence()),
    );
    format!(
        "{name} {what} after {timeout_s} s (vs_scalein_timeout of the SE group); they go on there until they end"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> (String, String) {
        ("vip".into(), "se".into())
    }

    #[test]
    fn an_engine_is_late_once_and_ready_once() {
        let mut releases = Releases::default();
        let mut look = |flows, is_late| releases.look(key(), flows, is_late);
        assert_eq!(look(Some(3), false), None);
        assert_eq!(look(None, false), None);
        assert_eq!(look(Some(2), true), Some(Say::Late));
        assert_eq!(look(Some(2), true), None);
        assert_eq!(look(Some(0), true), Some(Say::Ready));
        assert_eq!(look(Some(1), true), None, "it was half open");
        assert_eq!(look(Some(0), true), None);
    }

    #[test]
    fn one_that_is_ready_in_time_is_never_late() {
        let mut releases = Releases::default();
        assert_eq!(releases.look(key(), Some(0), false), Some(Say::Ready));
        assert_eq!(releases.look(key(), Some(1), true), None);
        assert_eq!(releases.look(key(), None, true), None);
    }

    #[test]
    fn after_a_start_nothing_is_said_again_and_what_comes_to_its_end_then_is() {
        let mut assignment = Assignment::default();
        assignment.group.join("se", 900).expect("an id");
        assignment.group.linger("se", 1000);
        let begun = || {
            let mut releases = Releases::default();
            releases.begin("vip", &assignment);
            releases
        };
        let mut ready_before = begun();
        assert_eq!(ready_before.look(key(), Some(0), true), None);
        let mut later = begun();
        assert_eq!(later.look(key(), Some(2), true), None);
        assert_eq!(later.look(key(), Some(0), true), Some(Say::Ready));
    }

    #[test]
    fn one_that_has_left_is_forgotten() {
        let mut releases = Releases::default();
        releases.look(key(), Some(0), false);
        releases.keep(|_| false);
        assert_eq!(releases.look(key(), Some(0), false), Some(Say::Ready));
    }
}
