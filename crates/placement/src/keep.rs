//! What becomes of a VIP whose engines are lost or drained: others take their places, and nothing else moves.

use crate::choose::{natural, next};
use crate::{Choice, Demand, Enabled, Engine, Ha, PlanError, Presence, Tag, Unfit};
use std::fmt;

/// Why an engine gives its place up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It is lost for certain.
    Lost,
    /// It was disabled: it keeps its connections, and serves until another one does.
    Drained,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "is lost",
            Self::Drained => "is disabled",
        })
    }
}

/// Why an active engine gives its role up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demotion {
    /// It gives its place up.
    Gone(Cause),
    /// None of its BGP peers is up, and one of the standby's is.
    NoPeer,
}

impl fmt::Display for Demotion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(cause) => cause.fmt(f),
            Self::NoPeer => f.write_str("has no BGP peer that is up"),
        }
    }
}

/// An engine is about to take the place of another one, and both have the VIP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// uuid of the one that gives it up.
    pub from: String,
    /// uuid of the one that takes it as soon as it serves.
    pub to: String,
}

/// What is to be done about one engine of the VIP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Another one takes its place.
    Replace {
        /// uuid of the engine.
        engine: String,
        /// Why it gives its place up.
        cause: Cause,
        /// Who takes it.
        by: Choice,
    },
    /// It goes, and the other one of its move has the place: the new one, or the former one that keeps it.
    Leave {
        /// uuid of the engine.
        engine: String,
        /// Why it gives its place up.
        cause: Cause,
    },
    /// It stays, because no other one can take its place.
    Stay {
        /// uuid of the engine.
        engine: String,
        /// Why it should not.
        cause: Cause,
        /// Why it does.
        why: PlanError,
    },
    /// With [`Ha::ActiveStandby`]: it becomes the active one.
    Promote {
        /// uuid of the engine.
        engine: String,
        /// What has happened to the one that was.
        cause: Demotion,
    },
}

/// The steps for the engines of a VIP that are lost or drained, in order; none where nothing need move. A move whose new
/// engine is lost has failed: that one had no place of its own yet, and the former one is an engine as any other again.
pub fn keep(demand: &Demand, engines: &[Engine], assigned: &[String], moves: &[Move]) -> Vec<Step> {
    let is_lost = |uuid: &str| cause(engines, uuid) == Some(Cause::Lost);
    let (failed, moves): (Vec<&Move>, Vec<&Move>) = moves.iter().partition(|m| is_lost(&m.to));
    let mut steps = Vec::new();
    let mut holds = assigned.to_vec();
    for uuid in assigned {
        let Some(cause) = cause(engines, uuid) else {
            continue;
        };
        let engine = uuid.clone();
        let gives_up = moves.iter().any(|m| m.from == *uuid);
        if gives_up || failed.iter().any(|m| m.to == *uuid) {
            if cause == Cause::Lost {
                holds.retain(|e| e != uuid);
                steps.push(Step::Leave { engine, cause });
            }
            continue;
        }
        let gone = assigned.iter().filter(|e| !holds.contains(e));
        let all: Vec<String> = holds.iter().chain(gone).cloned().collect();
        match take_over(demand, engines, &all, None) {
            Ok(by) => {
                holds.retain(|e| e != uuid);
                holds.push(by.engine.clone());
                steps.push(Step::Replace { engine, cause, by });
            }
            Err(why) => steps.push(Step::Stay { engine, cause, why }),
        }
    }
    steps.extend(promotion(demand, engines, &holds));
    steps
}

/// One that is not known is none of the planner's business: whoever deletes it takes it off.
fn cause(engines: &[Engine], uuid: &str) -> Option<Cause> {
    engines.iter().find(|e| e.uuid == uuid)?.gives_way()
}

/// The engine that takes the place of one of those that have the VIP, however many there may be.
///
/// # Errors
/// No engine fits (each with its reason), or the engine asked for does not.
pub fn take_over(
    demand: &Demand,
    engines: &[Engine],
    assigned: &[String],
    wanted: Option<&str>,
) -> Result<Choice, PlanError> {
    let room = Demand {
        ha: match demand.ha {
            Ha::ActiveStandby => Ha::SharedPair,
            shared => shared,
        },
        ..demand.clone()
    };
    next(&room, engines, assigned, wanted)
}

/// uuid of the engine of this name or uuid, of those that have the VIP; of the primary, where none is asked for.
///
/// # Errors
/// It does not have the VIP, or no engine has it.
pub fn holder(
    engines: &[Engine],
    assigned: &[String],
    wanted: Option<&str>,
) -> Result<String, PlanError> {
    let wanted = match wanted {
        Some(wanted) => wanted,
        None => assigned.first().ok_or(PlanError::NotPlaced)?,
    };
    let known = engines
        .iter()
        .find(|e| e.uuid == wanted || e.name == wanted);
    let uuid = known.map_or(wanted, |e| &e.uuid);
    let name = known.map_or(wanted, |e| &e.name);
    let found = assigned.iter().find(|e| *e == uuid);
    found
        .cloned()
        .ok_or_else(|| PlanError::NotPlacedThere(name.to_owned()))
}

/// With [`Ha::ActiveStandby`]: the engine that becomes active, the one asked for or the standby. Of a VIP that is scaled natively:
/// the one that becomes its primary.
///
/// # Errors
/// Neither is so, or the engine is active already, has no session or does not have the VIP.
pub fn switch_over(
    demand: &Demand,
    engines: &[Engine],
    assigned: &[String],
    wanted: Option<&str>,
) -> Result<Choice, PlanError> {
    if !demand.has_active() {
        return Err(PlanError::NoStandby);
    }
    let standby = wanted.or_else(|| Some(assigned.get(1)?.as_str()));
    let standby = standby.ok_or(PlanError::NoStandby)?;
    let uuid = holder(engines, assigned, Some(standby))?;
    let engine = engines.iter().find(|e| e.uuid == uuid);
    let engine = engine.ok_or_else(|| PlanError::UnknownEngine(uuid.clone()))?;
    let name = engine.name.clone();
    if assigned.first() == Some(&uuid) {
        return Err(PlanError::ActiveAlready(name));
    }
    if !engine.is_here() {
        let why = Unfit::NotConnected;
        return Err(PlanError::UnfitEngine { name, why });
    }
    Ok(Choice {
        reason: format!("{name} becomes active: it was asked for"),
        engine: uuid,
        name,
        rejected: Vec::new(),
    })
}

/// The same where the active engine is to give its role up, whoever takes it: the first of the others that is here and is
/// not drained.
///
/// # Errors
/// There is none, with the reason of the first other one.
pub fn hand_over(
    demand: &Demand,
    engines: &[Engine],
    assigned: &[String],
) -> Result<Choice, PlanError> {
    let others = assigned.get(1..).unwrap_or_default();
    let taken = others
        .iter()
        .map(|other| take_role(demand, engines, assigned, other));
    let mut refused = PlanError::NoStandby;
    for (n, outcome) in taken.enumerate() {
        match outcome {
            Ok(choice) => return Ok(choice),
            Err(why) if n == 0 => refused = why,
            Err(_) => {}
        }
    }
    Err(refused)
}

/// The same for one engine that nobody has asked for by name: it is not drained either, for it would have to give the role up
/// again.
///
/// # Errors
/// It is, or as [`switch_over`].
pub fn take_role(
    demand: &Demand,
    engines: &[Engine],
    assigned: &[String],
    engine: &str,
) -> Result<Choice, PlanError> {
    let choice = switch_over(demand, engines, assigned, Some(engine))?;
    match cause(engines, &choice.engine) {
        None => Ok(choice),
        Some(_) => Err(PlanError::UnfitEngine {
            name: choice.name,
            why: Unfit::Disabled,
        }),
    }
}

fn promotion(demand: &Demand, engines: &[Engine], assigned: &[String]) -> Option<Step> {
    if demand.ha != Ha::ActiveStandby {
        return None;
    }
    let (active, others) = assigned.split_first()?;
    let cause = demotion(demand, engines, active)?;
    let sound = |uuid: &&String| {
        let known = engines.iter().find(|e| e.uuid == **uuid);
        let sound = known.filter(|e| e.is_here() && e.enabled != Enabled::No);
        sound.is_some_and(|e| cause != Demotion::NoPeer || e.has_peer == Some(true))
    };
    let engine = others.iter().find(sound)?.clone();
    Some(Step::Promote { engine, cause })
}

fn demotion(demand: &Demand, engines: &[Engine], active: &str) -> Option<Demotion> {
    if let Some(cause) = cause(engines, active) {
        return Some(Demotion::Gone(cause));
    }
    let active = engines.iter().find(|e| e.uuid == active)?;
    lacks_peer(demand, active).then_some(Demotion::NoPeer)
}

fn lacks_peer(demand: &Demand, engine: &Engine) -> bool {
    demand.needs_peer && engine.presence == Presence::Here && engine.has_peer == Some(false)
}

/// With a [`Tag`]: the engine of the pair that is to be the active one, when it is not.
pub fn preferred<'a>(
    demand: &Demand,
    engines: &'a [Engine],
    assigned: &[String],
) -> Option<&'a Engine> {
    let tag = demand.tag.filter(|_| demand.ha == Ha::ActiveStandby)?;
    let own = engines.iter().filter(|e| assigned.contains(&e.uuid));
    let mut pair: Vec<&Engine> = own.collect();
    pair.sort_by_cached_key(|e| (natural(&e.name), e.uuid.clone()));
    let [first, second] = pair[..] else {
        return None;
    };
    let wanted = match tag {
        Tag::First => first,
        Tag::Second => second,
    };
    (assigned.first() != Some(&wanted.uuid)).then_some(wanted)
}

/// It has been here for a while, takes VIPs, and need not give the role up again.
pub fn is_back(demand: &Demand, engine: &Engine) -> bool {
    let is_steady = engine.presence == Presence::Here && engine.enabled == Enabled::Yes;
    is_steady && (!demand.needs_peer || engine.has_peer == Some(true))
}
