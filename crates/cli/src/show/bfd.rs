//! `show bfd`: every BFD session of every engine.

use super::age;
use crate::lookup::{number, text};
use crate::output::table::{Column, Row};
use serde::Serialize;
use serde_json::Value;

/// A BFD session as the table shows it; JSON has all that the API has.
#[derive(Debug, Serialize)]
pub(crate) struct BfdRow {
    #[serde(skip)]
    state_age_ms: u64,
    #[serde(flatten)]
    session: Value,
}

impl BfdRow {
    /// Name and UUID of the engine.
    pub(super) fn engine(&self) -> [String; 2] {
        [self.word("/se_name"), self.word("/se_uuid")]
    }

    fn word(&self, pointer: &str) -> String {
        text(&self.session, pointer).to_owned()
    }

    /// Why it cannot be started, or else why it is in its state.
    fn why(&self) -> String {
        match self.word("/problem") {
            none if none.is_empty() => self.word("/diagnostic"),
            problem => problem,
        }
    }

    fn count(&self, pointer: &str) -> u64 {
        number(&self.session, pointer).unwrap_or_default()
    }

    /// Microseconds as milliseconds.
    fn ms(&self, pointer: &str) -> String {
        match self.count(pointer) {
            0 => String::new(),
            us => format!("{}.{}ms", us / 1000, us % 1000 / 100),
        }
    }
}

impl Row for BfdRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("SE", |r| r.word("/se_name")),
        Column::new("PEER", |r| r.word("/peer")),
        Column::new("LOCAL", |r| r.word("/local_address")),
        Column::new("STATE", |r| r.word("/state")),
        Column::new("SINCE", |r| age(r.state_age_ms)),
        Column::new("PEER STATE", |r| r.word("/remote_state")),
        Column::new("TX", |r| r.ms("/transmit_interval_us")),
        Column::new("DETECTION", |r| r.ms("/detection_time_us")),
        Column::new("TIMES DOWN", |r| r.count("/times_down").to_string()),
        Column::new("DIAGNOSTIC", BfdRow::why),
        Column::wide("INTERFACE", |r| r.word("/interface")),
        Column::wide("PEER DIAGNOSTIC", |r| r.word("/remote_diagnostic")),
        Column::wide("PACKETS IN/OUT/DISCARDED", |r| {
            let [input, output, discarded] =
                ["/packets_in", "/packets_out", "/packets_discarded"].map(|p| r.count(p));
            format!("{input}/{output}/{discarded}")
        }),
        Column::wide("SCHEDULING", |r| r.word("/engine/scheduling")),
    ];
}

/// Rows from `/api/ek/bfd`.
pub(super) fn rows(sessions: Vec<Value>, now_unix_ms: u64) -> Vec<BfdRow> {
    let row = |session: Value| BfdRow {
        state_age_ms: match number(&session, "/state_since_unix_ms") {
            None | Some(0) => 0,
            Some(since) => now_unix_ms.saturating_sub(since),
        },
        session,
    };
    sessions.into_iter().map(row).collect()
}
