//! The order of leaving (DESIGN 6.5, 6.9): an engine that is scaled in withdraws its routes and stays a member of the
//! group until its last connection to the VIP has ended, however long that takes; then it leaves.
//!
//! Cut are connections only where an operator says so: a forced scale-in, or an engine that is disabled by force.

use super::{Action, Assignment, Planner, Tables, situation};
use crate::error::ApiError;
use crate::objects::Snapshot;
use model::view::ServiceEngineGroup;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// An engine without connections stays in its group for so long: a connection may be half open still, or closing.
const EMPTY_FOR: Duration = Duration::from_secs(30);
/// An engine without a session may serve all the same; after this time it is taken for gone.
const LOST_FOR: Duration = Duration::from_secs(3600);
/// How long an engine is told to cut connections: longer than a desired state waits for one that reads
/// ([`crate::engines::outbox`]).
pub(super) const CUT_FOR: Duration = Duration::from_secs(60);
/// What has become of an engine that was active.
pub(super) const SCALED_IN: &str = "was scaled in";
/// The same.
pub(super) const DISABLED: &str = "was disabled by force";
/// Steps that are over when the engine has left.
const GOES: [Action; 2] = [Action::ScaleIn, Action::MigrateScalein];

/// What an engine has left of a VIP, as it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Open connections.
    pub flows: u64,
    /// Age of the oldest.
    pub oldest_s: u64,
}

impl Left {
    /// `312 flows left, oldest 4 min`.
    pub(super) fn sentence(self) -> String {
        match self.flows {
            0 => "no flows left".to_owned(),
            1 => format!("1 flow left, {} old", age(self.oldest_s)),
            n => format!("{n} flows left, oldest {}", age(self.oldest_s)),
        }
    }
}

fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

/// What is seen of an engine that lingers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// It has a session and says so.
    Left(Left),
    /// It has a session and has not said anything yet.
    Silent,
    /// It has had no session for so long.
    Lost(Duration),
}

/// Since when engines that linger have had no connections; by VsVip and engine.
#[derive(Debug, Clone, Default)]
pub(super) struct Empty(BTreeMap<(String, String), Instant>);

impl Empty {
    /// Why the engine leaves now, if it does.
    /// `longer` is how long it stays beside [`EMPTY_FOR`].
    fn look(
        &mut self,
        key: (String, String),
        seen: Seen,
        longer: Duration,
        now: Instant,
    ) -> Option<&'static str> {
        match seen {
            Seen::Left(Left { flows: 0, .. }) => {
                let since = *self.0.entry(key).or_insert(now);
                (now >= since + EMPTY_FOR + longer).then_some("its last flow has ended")
            }
            Seen::Left(_) | Seen::Silent => {
                self.0.remove(&key);
                None
            }
            Seen::Lost(time) => {
                self.0.remove(&key);
                (time >= LOST_FOR).then_some("it has had no session for long")
            }
        }
    }
}

/// How to scale in.
#[derive(Debug, Clone, Copy, Default)]
pub struct ScaleIn<'a> {
    /// This engine; else the planner chooses.
    pub wanted: Option<&'a str>,
    /// The primary, when no engine is named.
    pub primary: bool,
    /// End its connections.
    pub force: bool,
}

impl Planner {
    /// Whether a scale-in of the VIP counts as going on.
    pub(super) fn is_leaving(&self, snapshot: &Snapshot, vsvip: &str) -> bool {
        let Some(group) = situation::group_of(snapshot, vsvip) else {
            return false;
        };
        let members = self.assignment(vsvip).group;
        members.lingering().any(|(member, since_s)| {
            let left = self.left(snapshot, vsvip, &member.engine);
            is_going_on(&group, left, self.for_s(vsvip, since_s))
        })
    }

    /// Takes the VIP off one engine and tells it at once. It keeps its connections until they end, unless forced.
    /// Gives also what it has left.
    ///
    /// # Errors
    /// 400 with the planner's reason.
    pub async fn scale_in(
        &self,
        vsvip: &str,
        ask: ScaleIn<'_>,
    ) -> Result<(placement::Choice, Option<Left>), ApiError> {
        let _one = self.deciding.lock().await;
        self.scale_in_because(vsvip, ask, "").await
    }

    /// The same for who decides; `why` comes before the reason of the choice.
    pub(super) async fn scale_in_because(
        &self,
        vsvip: &str,
        ask: ScaleIn<'_>,
        why: &str,
    ) -> Result<(placement::Choice, Option<Left>), ApiError> {
        let snapshot = self.objects.snapshot();
        let choice = self.choose_scale_in(vsvip, ask);
        let choice = choice.inspect_err(|e| self.note(vsvip, Action::ScaleIn, Err(&e.text)))?;
        let choice = super::because(choice, why);
        let left = self.left(&snapshot, vsvip, &choice.engine);
        let before = self.assignment(vsvip).engines;
        let mut assigned = before.clone();
        assigned.retain(|uuid| *uuid != choice.engine);
        let message = format!("scale in from {}: {}", choice.name, choice.reason);
        if ask.force {
            self.end(vsvip, &choice.engine, assigned, message).await?;
        } else {
            self.assign(vsvip, assigned, Vec::new(), message).await?;
        }
        self.note_successor(vsvip, &before, SCALED_IN);
        self.note(vsvip, Action::ScaleIn, Ok(&choice));
        self.publish();
        Ok((choice, left))
    }

    /// The engine, by uuid or name, if it was scaled in and lingers.
    pub(super) fn lingering_named(&self, vsvip: &str, wanted: Option<&str>) -> Option<String> {
        let wanted = wanted?;
        let group = self.assignment(vsvip).group;
        let mut lingering = group.lingering().map(|(m, _)| m.engine.clone());
        lingering.find(|se| se == wanted || self.name(se) == wanted)
    }

    pub(super) fn end_choice(
        &self,
        vsvip: &str,
        engine: &str,
        force: bool,
    ) -> Result<placement::Choice, ApiError> {
        let name = self.name(engine);
        if !force {
            let left = self.left(&self.objects.snapshot(), vsvip, engine);
            let left =
                left.map_or_else(|| "it has not said what is left".to_owned(), Left::sentence);
            return Err(ApiError::bad_request(format!(
                "from_se_ref: {name} was scaled in already ({left}); it leaves when its flows have ended, or with force"
            )));
        }
        Ok(placement::Choice {
            engine: engine.to_owned(),
            reason: format!("{name} was asked for, and the flows that it has left are ended"),
            name,
            rejected: Vec::new(),
        })
    }

    /// The engine leaves now, and its connections are cut.
    pub(super) async fn end(
        &self,
        vsvip: &str,
        engine: &str,
        assigned: Vec<String>,
        message: String,
    ) -> Result<(), ApiError> {
        let mut next = self.assignment(vsvip);
        next.engines = assigned;
        next.group.leave(engine, crate::clock::now_unix_s());
        self.write_assignment(vsvip, next, message).await?;
        let cut = (vsvip.to_owned(), engine.to_owned());
        let mut tables = self.write();
        tables.cuts.insert(cut, Instant::now());
        // It is no member any more.
        tables.marks.engine(engine);
        drop(tables);
        self.step_ended(vsvip, &GOES, engine);
        self.witness
            .tell(|w| w.left(vsvip, engine, "its connections are ended"));
        Ok(())
    }

    /// What the engine has left of the VIP's connections, as it said last.
    pub(super) fn left(&self, snapshot: &Snapshot, vsvip: &str, engine: &str) -> Option<Left> {
        let report = self.registry.get(engine).report?;
        let services = situation::services_of(snapshot, vsvip);
        let here = |uuid: &str| services.iter().any(|vs| vs.uuid == uuid);
        let statuses = report.virtual_services.iter().filter(|s| here(&s.uuid));
        Some(statuses.fold(
            Left {
                flows: 0,
                oldest_s: 0,
            },
            |left, status| Left {
                flows: left.flows + status.open_connections,
                oldest_s: left.oldest_s.max(status.oldest_connection_s),
            },
        ))
    }

    fn seen(&self, snapshot: &Snapshot, vsvip: &str, engine: &str) -> Seen {
        let state = self.registry.get(engine);
        if state.connected_since.is_none() {
            return Seen::Lost(self.absent_for(&state, Instant::now()));
        }
        self.left(snapshot, vsvip, engine)
            .map_or(Seen::Silent, Seen::Left)
    }

    /// Takes those out of their groups that have nothing left, and those that are out at once: disabled by force.
    pub(super) async fn end_lingering(
        &self,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Result<(), ApiError> {
        let assignments = self.read().assignments.clone();
        for (vsvip, assignment) in assignments.iter() {
            self.end_disabled(snapshot, vsvip, assignment).await?;
            for (member, since_s) in assignment.group.lingering() {
                let engine = member.engine.as_str();
                let seen = self.seen(snapshot, vsvip, engine);
                let for_s = self.read().ages.for_s(vsvip, since_s, now);
                self.say_release(snapshot, (vsvip, engine), seen, for_s);
                let key = (vsvip.to_owned(), engine.to_owned());
                let longer = additional_wait(snapshot, vsvip);
                let over = self.write().empty.look(key, seen, longer, now);
                if let Some(why) = over {
                    self.finish_leaving(vsvip, engine, why).await?;
                }
            }
        }
        let mut tables = self.write();
        let Tables { cuts, marks, .. } = &mut *tables;
        for ((_, engine), _) in cuts.extract_if(.., |_, at| now >= *at + CUT_FOR) {
            marks.engine(&engine);
        }
        let lingers = |key: &(String, String)| {
            let assignment = assignments.get(&key.0);
            assignment.is_some_and(|a| a.group.lingering().any(|(m, _)| m.engine == key.1))
        };
        tables.empty.0.retain(|key, _| lingers(key));
        tables.releases.keep(lingers);
        Ok(())
    }

    async fn finish_leaving(&self, vsvip: &str, engine: &str, why: &str) -> Result<(), ApiError> {
        let mut next = self.assignment(vsvip);
        next.group.leave(engine, crate::clock::now_unix_s());
        let se = self.name(engine);
        tracing::info!(vsvip, se, why, "a scaled-in engine leaves the group");
        let message = format!("{se} leaves the group: {why}");
        self.write_assignment(vsvip, next, message).await?;
        self.step_ended(vsvip, &GOES, engine);
        self.witness.tell(|w| w.left(vsvip, engine, why));
        Ok(())
    }

    async fn end_by_force(&self, vsvip: &str, engine: &str) -> Result<(), ApiError> {
        let before = self.assignment(vsvip).engines;
        let mut engines = before.clone();
        engines.retain(|e| e != engine);
        let message = format!("{} {DISABLED}", self.name(engine));
        self.end(vsvip, engine, engines, message).await?;
        self.note_successor(vsvip, &before, DISABLED);
        Ok(())
    }

    /// `enable_state` SE_STATE_DISABLED_FORCE drops what the engine has (avi-api section 9); SE_STATE_DISABLED lets it
    /// keep its connections and take no new ones.
    async fn end_disabled(
        &self,
        snapshot: &Snapshot,
        vsvip: &str,
        assignment: &Assignment,
    ) -> Result<(), ApiError> {
        let mut group = assignment.group.clone();
        for member in &assignment.group.members {
            let state = situation::enable_state(snapshot, &member.engine);
            if state == Some("SE_STATE_DISABLED_FORCE") {
                return self.end_by_force(vsvip, &member.engine).await;
            }
            group.disable(&member.engine, state == Some("SE_STATE_DISABLED"));
        }
        if group == assignment.group {
            return Ok(());
        }
        let message = "an engine was disabled or enabled".to_owned();
        let next = Assignment {
            group,
            ..assignment.clone()
        };
        self.write_assignment(vsvip, next, message).await
    }
}

/// Whether a scale-in that began so long ago counts as going on: until nothing is left or `vs_scalein_timeout` is over, and in
/// any case for `vs_se_scalein_additional_wait_time`. The flows may go on for longer.
pub(super) fn is_going_on(group: &ServiceEngineGroup, left: Option<Left>, for_s: u64) -> bool {
    let wait_s = u64::from(group.vs_se_scalein_additional_wait_time);
    let timeout_s = u64::from(group.vs_scalein_timeout);
    for_s < wait_s || for_s < timeout_s && left.is_none_or(|l| l.flows > 0)
}

/// `vs_se_scalein_additional_wait_time`: for routers that send for a while what they were told not to.
fn additional_wait(snapshot: &Snapshot, vsvip: &str) -> Duration {
    let group = situation::group_of(snapshot, vsvip);
    let wait_s = group.map_or(0, |g| g.vs_se_scalein_additional_wait_time);
    Duration::from_secs(wait_s.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Duration = Duration::ZERO;

    fn key() -> (String, String) {
        ("vip".into(), "se".into())
    }

    fn left(flows: u64) -> Seen {
        Seen::Left(Left { flows, oldest_s: 1 })
    }

    #[test]
    fn an_engine_leaves_when_it_has_had_no_connection_for_a_while() {
        let (mut empty, at) = (Empty::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(empty.look(key(), left(3), NONE, at), None);
        assert_eq!(empty.look(key(), left(0), NONE, at + second), None);
        assert_eq!(empty.look(key(), left(1), NONE, at + 20 * second), None);
        assert_eq!(empty.look(key(), left(0), NONE, at + 25 * second), None);
        assert_eq!(
            empty.look(key(), Seen::Silent, NONE, at + 30 * second),
            None
        );
        assert_eq!(empty.look(key(), left(0), NONE, at + 40 * second), None);
        let until = at + 40 * second + EMPTY_FOR;
        assert_eq!(empty.look(key(), left(0), NONE, until - second), None);
        assert_eq!(empty.look(key(), left(0), second, until), None);
        assert!(empty.look(key(), left(0), NONE, until).is_some());
    }

    #[test]
    fn an_engine_that_is_lost_for_long_is_gone() {
        let (mut empty, at) = (Empty::default(), Instant::now());
        let short = LOST_FOR - Duration::from_secs(1);
        assert_eq!(empty.look(key(), Seen::Lost(short), NONE, at), None);
        assert!(empty.look(key(), Seen::Lost(LOST_FOR), NONE, at).is_some());
    }

    #[test]
    fn what_is_left_is_said_in_words() {
        for (flows, oldest_s, sentence) in [
            (0, 0, "no flows left"),
            (1, 7, "1 flow left, 7 s old"),
            (312, 250, "312 flows left, oldest 4 min"),
            (2, 90_000, "2 flows left, oldest 25 h"),
        ] {
            assert_eq!(Left { flows, oldest_s }.sentence(), sentence);
        }
    }
}
