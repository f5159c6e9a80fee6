//! What is observed, in the shapes of the contract (avi-api section 10). Intent is not shown as fact: what is up is
//! what an engine with a session reports as up.

mod client;
mod counters;
mod engine;
mod engine_views;
mod internal;
mod inventory;
mod pool;
mod scaleout;
mod server;
mod service;
mod words;

pub(super) use engine::engine_load;
pub use engine_views::EngineView;
pub(super) use pool::pool_status;
pub(super) use server::ServerFilter;
pub(super) use words::Sheet;

use super::Planner;
use super::since::Thing;
use crate::engines::Registry;
use crate::objects::Snapshot;
use model::reason;
use proto::v1::OperState;
use serde_json::{Value, json};

/// Looks at everything at one moment.
pub(super) struct Observer<'a> {
    pub snapshot: &'a Snapshot,
    pub registry: &'a Registry,
    pub planner: &'a Planner,
}

/// `OperationalStatus` or `ConfigurationStatus` (avi-api 10.1).
fn status(state: &str, code: &str, reason: impl Into<String>) -> Value {
    let reason = reason.into();
    let reasons = if reason.is_empty() {
        vec![]
    } else {
        vec![reason]
    };
    json!({
        "state": state, "reason": reasons,
        "reason_code": reason::number(code), "reason_code_string": code,
    })
}

/// `TimeStamp` of microseconds since 1970.
fn timestamp(us: u64) -> Value {
    json!({"secs": us / 1_000_000, "usecs": us % 1_000_000})
}

/// The status of something else; since when that is so says nothing of this.
fn undated(mut status: Value) -> Value {
    if let Some(fields) = status.as_object_mut() {
        fields.shift_remove("last_changed_time");
    }
    status
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
    /// The status of a thing, with the time since when its state has been so, where that is known.
    fn dated(&self, thing: &Thing, mut status: Value) -> Value {
        let word = status["state"].as_str().unwrap_or_default();
        if let Some(us) = self.planner.since.of(thing, word) {
            status["last_changed_time"] = timestamp(us);
        }
        status
    }

    pub(super) fn name(&self, se: &str) -> String {
        self.snapshot
            .name_of("serviceengine", se)
            .unwrap_or(se)
            .to_owned()
    }
}
