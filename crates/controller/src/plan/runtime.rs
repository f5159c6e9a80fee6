//! What is observed, in the shapes of the contract (avi-api section 10). Intent is not shown as fact: what is up is
//! what an engine with a session reports as up.

mod engine;
mod inventory;
mod pool;
mod service;

pub(super) use engine::engine_load;
pub(super) use pool::pool_status;

use super::Planner;
use crate::engines::Registry;
use crate::objects::Snapshot;
use proto::v1::OperState;
use serde_json::{Value, json};

/// Looks at everything at one moment.
pub(super) struct Observer<'a> {
    pub snapshot: &'a Snapshot,
    pub registry: &'a Registry,
    pub planner: &'a Planner,
}

/// `OperationalStatus` (avi-api 10.1).
fn status(state: &str, code: &str, reason: impl Into<String>) -> Value {
    let reason = reason.into();
    let reasons = if reason.is_empty() {
        vec![]
    } else {
        vec![reason]
    };
    json!({"state": state, "reason": reasons, "reason_code_string": code})
}

pub(super) fn oper_word(state: i32) -> &'static str {
    match OperState::try_from(state).unwrap_or_default() {
        OperState::Up => "OPER_UP",
        OperState::Down => "OPER_DOWN",
        OperState::Disabled => "OPER_DISABLED",
        OperState::Initializing => "OPER_INITIALIZING",
        OperState::Unspecified => "OPER_UNKNOWN",
    }
}

impl Observer<'_> {
    pub(super) fn name(&self, se: &str) -> String {
        self.snapshot
            .name_of("serviceengine", se)
            .unwrap_or(se)
            .to_owned()
    }
}
