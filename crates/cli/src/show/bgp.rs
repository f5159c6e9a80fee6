//! `show bgp`: every session of every engine. What is desired and what was sent are different columns.

use super::age;
use crate::lookup::{items, number, text};
use crate::output::table::{Column, Row};
use serde::Serialize;
use serde_json::Value;

/// A session as the table shows it; a peer without a session has no local address. JSON has all that the API has.
#[derive(Debug, Serialize)]
pub(crate) struct SessionRow {
    /// Milliseconds in this state when it was asked.
    state_age_ms: u64,
    /// Routes that the engine wants at the peer.
    routes_desired: usize,
    /// Routes that it has sent there.
    routes_sent: usize,
    #[serde(flatten)]
    session: Value,
}

impl SessionRow {
    /// Name and UUID of the engine.
    pub(super) fn engine(&self) -> [String; 2] {
        [self.word("/se_name"), self.word("/se_uuid")]
    }

    fn word(&self, pointer: &str) -> String {
        text(&self.session, pointer).to_owned()
    }

    fn count(&self, pointer: &str) -> u64 {
        number(&self.session, pointer).unwrap_or_default()
    }

    fn routes(&self) -> impl Iterator<Item = Route> {
        items(&self.session, "/routes").iter().map(route)
    }
}

/// One route towards one peer.
#[derive(Clone, Debug, Serialize)]
struct Route {
    prefix: String,
    next_hop: String,
    sent: bool,
    /// Why it is withheld, as a reason code; empty when sent.
    reason: String,
    sent_unix_ms: u64,
}

impl Row for SessionRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("SE", |r| r.word("/se_name")),
        Column::new("PEER", |r| r.word("/peer")),
        Column::new("LOCAL", |r| r.word("/local_address")),
        Column::new("INTERFACE", |r| r.word("/interface")),
        Column::new("STATE", |r| r.word("/state")),
        Column::new("SINCE", |r| age(r.state_age_ms)),
        Column::new("DESIRED", |r| r.routes_desired.to_string()),
        Column::new("SENT", |r| r.routes_sent.to_string()),
        Column::new("BFD", |r| r.word("/bfd_state")),
        Column::new("LAST ERROR", |r| r.word("/last_error")),
        Column::wide("CONDITION", |r| r.word("/condition")),
        Column::wide("VRF", |r| r.word("/vrf")),
        Column::wide("AS", |r| {
            format!("{}>{}", r.count("/local_as"), r.count("/remote_as"))
        }),
        Column::wide("HOLD", |r| format!("{}s", r.count("/hold_time_s"))),
        Column::wide("MESSAGES IN/OUT", |r| {
            format!("{}/{}", r.count("/messages_in"), r.count("/messages_out"))
        }),
    ];
}

/// A route of a session, for `routes`.
#[derive(Debug, Serialize)]
pub(crate) struct RouteRow {
    se_name: String,
    peer: String,
    session_state: String,
    #[serde(flatten)]
    route: Route,
}

impl Row for RouteRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("SE", |r| r.se_name.clone()),
        Column::new("PEER", |r| r.peer.clone()),
        Column::new("SESSION", |r| r.session_state.clone()),
        Column::new("PREFIX", |r| r.route.prefix.clone()),
        Column::new("NEXT HOP", |r| r.route.next_hop.clone()),
        Column::new("SENT", |r| {
            if r.route.sent {
                "yes".into()
            } else {
                "no".into()
            }
        }),
        Column::new("REASON", |r| r.route.reason.clone()),
    ];
}

/// A route that an engine has learned.
#[derive(Debug, Serialize)]
pub(crate) struct LearnedRow {
    pub(crate) se_name: String,
    pub(crate) se_uuid: String,
    prefix: String,
    next_hop: String,
    peer: String,
    installed: bool,
    /// Why it is not in the kernel.
    reason: String,
}

impl Row for LearnedRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("SE", |r| r.se_name.clone()),
        Column::new("PREFIX", |r| r.prefix.clone()),
        Column::new("NEXT HOP", |r| r.next_hop.clone()),
        Column::new("PEER", |r| r.peer.clone()),
        Column::new("INSTALLED", |r| {
            if r.installed { "yes" } else { "no" }.to_owned()
        }),
        Column::new("REASON", |r| r.reason.clone()),
    ];
}

/// Rows from `/api/ek/learnedroute`.
pub(super) fn learned(routes: &[Value]) -> Vec<LearnedRow> {
    let row = |route: &Value| LearnedRow {
        se_name: text(route, "/se_name").into(),
        se_uuid: text(route, "/se_uuid").into(),
        prefix: text(route, "/prefix").into(),
        next_hop: text(route, "/next_hop").into(),
        peer: text(route, "/peer").into(),
        installed: route["installed"] == true,
        reason: text(route, "/reason").into(),
    };
    routes.iter().map(row).collect()
}

/// Rows from `/api/ek/bgp`.
pub(super) fn rows(sessions: Vec<Value>, now_unix_ms: u64) -> Vec<SessionRow> {
    let row = |session: Value| {
        let routes = items(&session, "/routes");
        SessionRow {
            state_age_ms: match number(&session, "/state_since_unix_ms") {
                None | Some(0) => 0,
                Some(since) => now_unix_ms.saturating_sub(since),
            },
            routes_desired: routes.len(),
            routes_sent: routes.iter().filter(|r| r["sent"] == true).count(),
            session,
        }
    };
    sessions.into_iter().map(row).collect()
}

/// The routes of these sessions, a row each.
pub(super) fn routes(sessions: &[SessionRow]) -> Vec<RouteRow> {
    let routes_of = |session: &SessionRow| {
        let row = |route: Route| RouteRow {
            se_name: session.word("/se_name"),
            peer: session.word("/peer"),
            session_state: session.word("/state"),
            route,
        };
        session.routes().map(row).collect::<Vec<_>>()
    };
    sessions.iter().flat_map(routes_of).collect()
}

fn route(route: &Value) -> Route {
    Route {
        prefix: text(route, "/prefix").into(),
        next_hop: text(route, "/next_hop").into(),
        sent: route
            .pointer("/sent")
            .and_then(Value::as_bool)
            .unwrap_or(false),
        reason: text(route, "/reason").into(),
        sent_unix_ms: number(route, "/sent_unix_ms").unwrap_or_default(),
    }
}
