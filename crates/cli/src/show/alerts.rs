//! `show alerts`: what is to be looked at.

use crate::lookup::{number, text};
use crate::output::Format;
use crate::output::table::{Column, Row};
use client::Client;
use serde::Serialize;
use serde_json::Value;

/// Which alerts.
#[derive(Debug, clap::Args)]
pub struct AlertFilter {
    /// Only alerts of this level.
    #[arg(long, value_parser = ["low", "medium", "high"])]
    level: Option<String>,
    /// Those that somebody has dismissed, too.
    #[arg(long)]
    all: bool,
}

/// An alert, as the API has it, at a time.
#[derive(Debug, Serialize)]
pub(super) struct AlertRow {
    #[serde(flatten)]
    alert: Value,
    #[serde(skip)]
    now_ms: u64,
}

impl Row for AlertRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("SINCE", |r| r.age()),
        Column::new("LEVEL", |r| {
            text(&r.alert, "/level").trim_start_matches("ALERT_").into()
        }),
        Column::new("STATE", |r| {
            text(&r.alert, "/state")
                .trim_start_matches("ALERT_STATE_")
                .into()
        }),
        Column::new("OBJECT", |r| text(&r.alert, "/obj_name").into()),
        Column::new("AGAIN", |r| r.again()),
        Column::new("SUMMARY", |r| text(&r.alert, "/summary").into()),
        Column::wide("UUID", |r| text(&r.alert, "/uuid").into()),
    ];
}

impl AlertRow {
    fn age(&self) -> String {
        let at_s = self.alert["timestamp"].as_f64().unwrap_or_default();
        let at = std::time::Duration::try_from_secs_f64(at_s).unwrap_or_default();
        let at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        super::age(self.now_ms.saturating_sub(at_ms))
    }

    /// How often it happened again.
    fn again(&self) -> String {
        match number(&self.alert, "/throttle_count") {
            None | Some(0) => String::new(),
            Some(count) => format!("{count}x"),
        }
    }
}

pub(super) fn show(client: &Client, filter: &AlertFilter, format: Format) -> anyhow::Result<()> {
    let level = filter
        .level
        .as_ref()
        .map(|l| format!("ALERT_{}", l.to_uppercase()));
    let query: Vec<_> = level.iter().map(|l| ("level", l.as_str())).collect();
    let all = client.list_with("alert", &query)?;
    let rows = rows(all, filter.all, super::now_unix_ms());
    super::print_named("alert", rows, format);
    Ok(())
}

fn rows(alerts: Vec<Value>, dismissed_too: bool, now_ms: u64) -> Vec<AlertRow> {
    let wanted = |a: &Value| dismissed_too || text(a, "/state") != "ALERT_STATE_DISMISSED";
    let wanted = alerts.into_iter().filter(wanted);
    wanted.map(|alert| AlertRow { alert, now_ms }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::table::render;
    use serde_json::json;

    #[test]
    fn an_alert_says_how_old_it_is_and_how_often_it_happened_again() {
        let alert = |state: &str, again: u32| {
            json!({"timestamp": 10.5, "level": "ALERT_HIGH", "state": state, "obj_name": "se-1",
            "throttle_count": again, "summary": "look", "uuid": "alert-1"})
        };
        let all = || {
            vec![
                alert("ALERT_STATE_THROTTLED", 3),
                alert("ALERT_STATE_DISMISSED", 0),
            ]
        };
        let text = render(&rows(all(), true, 75_500), Format::Table, None);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines[1],
            ["1m05s", "HIGH", "THROTTLED", "se-1", "3x", "look"]
        );
        assert_eq!(
            lines[2],
            ["1m05s", "HIGH", "DISMISSED", "se-1", "-", "look"]
        );
        assert_eq!(rows(all(), false, 0).len(), 1);
    }
}
