//! `show cluster`: which controllers there are, who leads, who lags, and what to do.

use crate::lookup::{number, text};
use crate::output::Format;
use crate::output::table::{self, Column, Row};
use client::Client;
use serde::Serialize;
use serde_json::Value;

/// A controller.
#[derive(Debug, Serialize)]
struct NodeRow {
    #[serde(flatten)]
    node: Value,
    api: String,
    #[serde(skip)]
    now_s: u64,
}

impl Row for NodeRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("NAME", |r| text(&r.node, "/name").into()),
        Column::new("ROLE", |r| word(&r.node, "/role")),
        Column::new("STATE", |r| word(&r.node, "/state")),
        Column::new("API", |r| r.api.clone()),
        Column::new("VERSION", |r| text(&r.node, "/version").into()),
        Column::new("BEHIND", |r| r.behind()),
        Column::new("UP", |r| r.up()),
        Column::new("WHAT TO DO", |r| text(&r.node, "/reason").into()),
    ];
}

impl NodeRow {
    fn behind(&self) -> String {
        let lag = number(&self.node, "/lag");
        lag.map(|lag| format!("{lag} changes")).unwrap_or_default()
    }

    fn up(&self) -> String {
        let since = number(&self.node, "/up_since_unix_s");
        let up = since.map(|since| super::age(self.now_s.saturating_sub(since) * 1000));
        up.unwrap_or_default()
    }
}

/// `CLUSTER_LEADER` without what all have.
fn word(node: &Value, pointer: &str) -> String {
    text(node, pointer).trim_start_matches("CLUSTER_").into()
}

pub(super) fn show(client: &Client, format: Format) -> anyhow::Result<()> {
    let runtime = client.get("/api/cluster/runtime", &[])?;
    if format.is_structured() {
        table::print_value(&runtime, "", format);
        return Ok(());
    }
    let cluster = client.get("/api/cluster", &[])?;
    table::print(
        &rows(&runtime, &cluster, super::now_unix_ms() / 1000),
        format,
    );
    crate::note!("{}", word(&runtime, "/cluster_state/state"));
    Ok(())
}

fn rows(runtime: &Value, cluster: &Value, now_s: u64) -> Vec<NodeRow> {
    let known = cluster["nodes"].as_array().cloned().unwrap_or_default();
    let api = |name: &str| {
        let ours = known.iter().find(|node| text(node, "/name") == name);
        ours.map(|node| text(node, "/api").to_owned())
            .unwrap_or_default()
    };
    let nodes = runtime["node_states"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let row = |node: Value| NodeRow {
        api: api(text(&node, "/name")),
        node,
        now_s,
    };
    nodes.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_says_who_leads_who_lags_and_what_to_do() {
        let runtime = json!({"node_states": [
            {"name": "a", "role": "CLUSTER_LEADER", "state": "CLUSTER_ACTIVE", "lag": 0, "up_since_unix_s": 940},
            {"name": "b", "role": "CLUSTER_FOLLOWER", "state": "CLUSTER_INACTIVE", "reason": "says nothing"},
        ]});
        let cluster = json!({"nodes": [{"name": "a", "api": "10.0.0.1:443"}, {"name": "b", "api": "10.0.0.2:443"}]});
        let rows = rows(&runtime, &cluster, 1000);
        let shown = |row: &NodeRow| {
            NodeRow::COLUMNS
                .iter()
                .map(|c| (c.cell)(row))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            shown(&rows[0]),
            [
                "a",
                "LEADER",
                "ACTIVE",
                "10.0.0.1:443",
                "",
                "0 changes",
                "1m00s",
                ""
            ]
        );
        assert_eq!(
            shown(&rows[1]),
            [
                "b",
                "FOLLOWER",
                "INACTIVE",
                "10.0.0.2:443",
                "",
                "",
                "",
                "says nothing"
            ]
        );
    }
}
