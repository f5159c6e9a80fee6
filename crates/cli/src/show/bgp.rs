//! `show bgp`: every session of every engine. What is desired and what was sent are different columns.

use super::age;
use crate::lookup::{items, number, text};
use crate::output::table::{Column, Row};
use serde::Serialize;
use serde_json::Value;

/// A session as the table and JSON show it; a peer without a session has no local address.
#[derive(Debug, Serialize)]
pub(crate) struct SessionRow {
    pub(crate) se_name: String,
    pub(crate) se_uuid: String,
    vrf: String,
    peer: String,
    interface: String,
    local_address: String,
    state: String,
    state_since_unix_ms: u64,
    /// Milliseconds in this state when it was asked.
    state_age_ms: u64,
    local_as: u64,
    remote_as: u64,
    hold_time_s: u64,
    keepalive_s: u64,
    /// "off", "waiting_for_peer", "up", "down", "admin_down".
    bfd_state: String,
    /// Code of the first condition that does not hold; empty while established.
    condition: String,
    /// A sentence about it.
    condition_text: String,
    last_error: String,
    messages_in: u64,
    messages_out: u64,
    /// Routes that the engine wants at the peer.
    routes_desired: usize,
    /// Routes that it has sent there.
    routes_sent: usize,
    routes: Vec<Route>,
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
        Column::new("SE", |r| r.se_name.clone()),
        Column::new("PEER", |r| r.peer.clone()),
        Column::new("LOCAL", |r| r.local_address.clone()),
        Column::new("INTERFACE", |r| r.interface.clone()),
        Column::new("STATE", |r| r.state.clone()),
        Column::new("SINCE", |r| age(r.state_age_ms)),
        Column::new("DESIRED", |r| r.routes_desired.to_string()),
        Column::new("SENT", |r| r.routes_sent.to_string()),
        Column::new("BFD", |r| r.bfd_state.clone()),
        Column::new("LAST ERROR", |r| r.last_error.clone()),
        Column::wide("CONDITION", |r| r.condition.clone()),
        Column::wide("VRF", |r| r.vrf.clone()),
        Column::wide("AS", |r| format!("{}>{}", r.local_as, r.remote_as)),
        Column::wide("HOLD", |r| format!("{}s", r.hold_time_s)),
        Column::wide("MESSAGES IN/OUT", |r| {
            format!("{}/{}", r.messages_in, r.messages_out)
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
pub(super) fn rows(sessions: &[Value], now_unix_ms: u64) -> Vec<SessionRow> {
    sessions
        .iter()
        .map(|session| row(session, now_unix_ms))
        .collect()
}

/// The routes of these sessions, a row each.
pub(super) fn routes(sessions: &[SessionRow]) -> Vec<RouteRow> {
    let routes_of = |session: &SessionRow| {
        let row = |route: &Route| RouteRow {
            se_name: session.se_name.clone(),
            peer: session.peer.clone(),
            session_state: session.state.clone(),
            route: route.clone(),
        };
        session.routes.iter().map(row).collect::<Vec<_>>()
    };
    sessions.iter().flat_map(routes_of).collect()
}

fn row(session: &Value, now_unix_ms: u64) -> SessionRow {
    let count = |pointer| number(session, pointer).unwrap_or_default();
    let word = |pointer| text(session, pointer).to_string();
    let routes: Vec<Route> = items(session, "/routes").iter().map(route).collect();
    let since = count("/state_since_unix_ms");
    SessionRow {
        se_name: word("/se_name"),
        se_uuid: word("/se_uuid"),
        vrf: word("/vrf"),
        peer: word("/peer"),
        interface: word("/interface"),
        local_address: word("/local_address"),
        state: word("/state"),
        state_since_unix_ms: since,
        state_age_ms: if since == 0 {
            0
        } else {
            now_unix_ms.saturating_sub(since)
        },
        local_as: count("/local_as"),
        remote_as: count("/remote_as"),
        hold_time_s: count("/hold_time_s"),
        keepalive_s: count("/keepalive_s"),
        bfd_state: word("/bfd_state"),
        condition: word("/condition"),
        condition_text: word("/condition_text"),
        last_error: word("/last_error"),
        messages_in: count("/messages_in"),
        messages_out: count("/messages_out"),
        routes_desired: routes.len(),
        routes_sent: routes.iter().filter(|route| route.sent).count(),
        routes,
    }
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
