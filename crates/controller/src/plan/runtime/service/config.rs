//! Whether the engines have in force what they are told (`ConfigurationStatus`, avi-api 10.1).
//!
//! An engine applies all that it is told, or refuses all of it: while it has not put the newest state in force, that is so for
//! every virtual service that it has.

use super::super::super::last::LastScale;
use super::super::super::refusal::Refusal;
use super::super::super::scope::Tells;
use super::super::{Observer, status};
use super::seats::Seat;
use super::{NOT_DECIDED, is_switched_on};
use crate::engines::registry::EngineState;
use model::view::VirtualService;
use serde_json::{Value, json};

/// Why the newest state of an engine is not in force there, or is not known to be; the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lack {
    /// It refuses it.
    Refused,
    /// None could be made.
    NotMade,
    /// It has not acknowledged it yet.
    Awaited,
    /// It has no session.
    NoSession,
}

impl Lack {
    fn of(state: &EngineState, tells: &Tells<'_>) -> Option<(Self, String)> {
        if state.connected_since.is_none() {
            let why = "it has no session with the controller, and goes on with what it has";
            return Some((Self::NoSession, why.to_owned()));
        }
        if let Some(refusal) = Refusal::of(state) {
            return Some((Self::Refused, refusal.sentence_for(tells)));
        }
        if let Some(why) = &state.stuck {
            let why = format!("no newer state can be made: {why}");
            return Some((Self::NotMade, why));
        }
        is_awaited(state).then(|| {
            let why = "it has not put what it is told in force yet";
            (Self::Awaited, why.to_owned())
        })
    }

    /// State and reason code.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Refused => ("CONFIG_DOWN", "desired_state_refused"),
            Self::NotMade => ("CONFIG_DOWN", "desired_state_not_made"),
            Self::Awaited => ("CONFIG_SE_PROCESSING", "awaiting_se_programming"),
            Self::NoSession => ("CONFIG_PARTITIONED", "se_disconnected"),
        }
    }
}

/// An engine with a session has not acknowledged what it is told, and has not refused it.
pub(super) fn is_awaited(state: &EngineState) -> bool {
    let told = state.desired.as_ref().map(|d| d.generation);
    let refused = state.nack.as_ref().map(|n| n.generation);
    told.is_none_or(|told| state.confirmed < told) && (refused.is_none() || refused != told)
}

impl Observer<'_> {
    /// Of a virtual service on these engines.
    pub(super) fn config_status(
        &self,
        vs: &VirtualService,
        seats: &[Seat],
        last: Option<&LastScale>,
    ) -> Value {
        if !is_switched_on(vs) {
            let why = "enabled or traffic_enabled is false";
            return status("CONFIG_DISABLED", "vs_disabled", why);
        }
        if seats.is_empty() {
            let why = last.map_or(NOT_DECIDED, |l| l.reason.as_str());
            return status("CONFIG_RESOURCES", "not_placed", why);
        }
        let each = seats.iter();
        let tells = self.told_beside("virtualservice", &vs.uuid);
        let lacks = each.filter_map(|seat| Some((&seat.se, Lack::of(&seat.state, &tells)?)));
        let lacks: Vec<(&String, (Lack, String))> = lacks.collect();
        let worst = lacks.iter().map(|(_, (lack, _))| *lack).min();
        let (word, code) = worst.map_or(("CONFIG_UP", ""), Lack::words);
        let reasons = lacks.iter();
        let reasons = reasons.map(|(se, (_, why))| format!("{}: {why}", self.name(se)));
        let mut shown = status(word, code, "");
        shown["reason"] = json!(reasons.collect::<Vec<_>>());
        shown
    }
}
