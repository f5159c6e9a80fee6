//! `show audit` and `show pending`.

use crate::lookup::{self, items, number, text};
use crate::output::Format;
use crate::output::table::{Column, Row};
use client::Client;
use serde::Serialize;
use serde_json::Value;

/// Objects of a change that the table has; all of them are in JSON.
const OBJECTS_MAX: usize = 3;

/// Changed fields that a table shows per object; JSON has all of them.
const FIELDS_MAX: usize = 3;
/// Characters of a value that a table shows.
const VALUE_LEN_MAX: usize = 40;

/// Which changes.
#[derive(Debug, clap::Args)]
pub struct AuditFilter {
    /// Only changes of objects of this type.
    #[arg(value_name = "TYPE")]
    object_type: Option<String>,
    /// Only changes of the object with this name or UUID; also of one that has been deleted.
    name: Option<String>,
    /// Only changes by this user.
    #[arg(long, value_name = "USER")]
    who: Option<String>,
    /// Only changes from this time on (RFC 3339).
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only changes up to this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only this change.
    #[arg(long)]
    revision: Option<u64>,
    /// At most so many, the newest.
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u16).range(1..=200))]
    limit: u16,
}

/// A change, as the API has it.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct AuditRow(Value);

impl Row for AuditRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("REVISION", |r| {
            number(&r.0, "/revision").map_or(String::new(), |n| n.to_string())
        }),
        Column::new("TIME", |r| seconds(text(&r.0, "/time"))),
        Column::new("WHO", |r| text(&r.0, "/who").into()),
        Column::new("FROM", |r| text(&r.0, "/from").into()),
        Column::new("OBJECTS", |r| objects(&r.0)),
        Column::new("CHANGES", |r| changes(&r.0)),
        Column::wide("MESSAGE", |r| text(&r.0, "/message").into()),
    ];
}

/// RFC 3339 without parts of a second.
pub(super) fn seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => time.into(),
    }
}

/// What was done to which object; a confirmation has none, and its message says it.
fn objects(change: &Value) -> String {
    let objects = items(change, "/objects");
    if objects.is_empty() {
        return text(change, "/message").into();
    }
    let each = objects.iter().take(OBJECTS_MAX).map(|o| {
        let [action, object_type, name] = ["/action", "/type", "/name"].map(|p| text(o, p));
        let name = if name.is_empty() {
            text(o, "/uuid")
        } else {
            name
        };
        format!("{action} {object_type} {name}")
    });
    let mut shown: Vec<_> = each.collect();
    if objects.len() > OBJECTS_MAX {
        shown.push(format!("and {} more", objects.len() - OBJECTS_MAX));
    }
    shown.join(", ")
}

/// The fields of objects that were there before and after.
fn changes(change: &Value) -> String {
    let updated = items(change, "/objects")
        .iter()
        .filter(|o| text(o, "/action") == "update");
    let each = updated.map(|o| {
        let all = items(o, "/changes");
        let mut shown: Vec<_> = all.iter().take(FIELDS_MAX).map(field).collect();
        if all.len() > FIELDS_MAX {
            shown.push(format!("and {} more", all.len() - FIELDS_MAX));
        }
        shown.join(", ")
    });
    each.collect::<Vec<_>>().join("; ")
}

fn field(change: &Value) -> String {
    let value = |pointer: &str| match change.pointer(pointer) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => short(text),
        Some(other) => short(&other.to_string()),
    };
    format!(
        "{}: {} -> {}",
        text(change, "/field"),
        value("/old"),
        value("/new")
    )
}

fn short(text: &str) -> String {
    let start: String = text.chars().take(VALUE_LEN_MAX).collect();
    if start.len() < text.len() {
        return start + "…";
    }
    start
}

pub(super) fn show(client: &Client, filter: &AuditFilter, format: Format) -> anyhow::Result<()> {
    let object_type = filter.object_type.as_deref();
    let object_type = object_type.map(lookup::object_type).transpose()?;
    let ask = |by: &str| -> anyhow::Result<Vec<AuditRow>> {
        let (limit, revision) = (
            filter.limit.to_string(),
            filter.revision.map(|r| r.to_string()),
        );
        let all = [
            ("type", object_type),
            (by, filter.name.as_deref()),
            ("who", filter.who.as_deref()),
            ("since", filter.since.as_deref()),
            ("until", filter.until.as_deref()),
            ("revision", revision.as_deref()),
            ("page_size", Some(limit.as_str())),
        ];
        let query: Vec<_> = all.into_iter().filter_map(|(k, v)| Some((k, v?))).collect();
        let page = client.get("/api/ek/audit", &query)?;
        Ok(items(&page, "/results")
            .iter()
            .cloned()
            .map(AuditRow)
            .collect())
    };
    let mut rows = ask("name")?;
    if rows.is_empty() && filter.name.is_some() {
        rows = ask("uuid")?;
    }
    super::print_named("such change in the log", rows, format);
    Ok(())
}

/// A change that waits for confirmation, as the API has it, at a time.
#[derive(Debug, Serialize)]
pub(super) struct PendingRow {
    #[serde(flatten)]
    pending: Value,
    #[serde(skip)]
    now_ms: u64,
}

impl Row for PendingRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("REVISION", |r| {
            number(&r.pending, "/revision").map_or(String::new(), |n| n.to_string())
        }),
        Column::new("WHO", |r| text(&r.pending, "/who").into()),
        Column::new("STATE", |r| text(&r.pending, "/state").into()),
        Column::new("REVERTED IN", |r| r.left()),
        Column::new("REASON", |r| text(&r.pending, "/reason").into()),
    ];
}

impl PendingRow {
    fn left(&self) -> String {
        if text(&self.pending, "/state") != "waiting" {
            return String::new();
        }
        let deadline = number(&self.pending, "/deadline_us").unwrap_or_default() / 1000;
        super::age(deadline.saturating_sub(self.now_ms))
    }
}

pub(super) fn pending(all: Vec<Value>, now_ms: u64) -> Vec<PendingRow> {
    let row = |pending| PendingRow { pending, now_ms };
    all.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::table::render;
    use serde_json::json;

    #[test]
    fn a_change_is_a_line_with_old_and_new_values() {
        let fields = |n: usize| -> Vec<Value> {
            let each = (0..n).map(|i| json!({"field": format!("f{i}"), "old": i, "new": null}));
            each.collect()
        };
        let change = json!({
            "revision": 7, "time": "2026-01-01T00:00:00.000001Z", "who": "admin", "from": "192.0.2.1",
            "message": "update pool p-1: ticket 7", "objects": [
                {"type": "pool", "name": "web", "action": "update", "changes": fields(5)},
                {"type": "vsvip", "name": null, "uuid": "v-1", "action": "delete", "changes": fields(1)},
            ],
        });
        let row = AuditRow(change);
        let lines = render(&[row], Format::Wide, None);
        let line = lines.lines().nth(1).unwrap();
        let cells = line.split("  ").map(str::trim).filter(|c| !c.is_empty());
        let cells: Vec<_> = cells.collect();
        assert_eq!(
            cells,
            [
                "7",
                "2026-01-01T00:00:00Z",
                "admin",
                "192.0.2.1",
                "update pool web, delete vsvip v-1",
                "f0: 0 -> -, f1: 1 -> -, f2: 2 -> -, and 2 more",
                "update pool p-1: ticket 7"
            ]
        );
    }

    #[test]
    fn a_change_of_many_objects_names_some_of_them() {
        let made = |n: u32| json!({"type": "pool", "name": format!("p{n}"), "action": "create"});
        let change = |count: u32| json!({"objects": (0..count).map(made).collect::<Vec<_>>()});
        assert_eq!(objects(&change(1)), "create pool p0");
        let some = "create pool p0, create pool p1, create pool p2";
        assert_eq!(objects(&change(3)), some);
        assert_eq!(objects(&change(60)), format!("{some}, and 57 more"));
    }

    #[test]
    fn what_waits_says_how_long_it_has() {
        let all = vec![
            json!({"revision": 7, "who": "admin", "state": "waiting", "deadline_us": 65_000_000_u64}),
            json!({"revision": 5, "who": "eve", "state": "failed", "deadline_us": 1, "reason": "pool web"}),
        ];
        let text = render(&pending(all, 5_000), Format::Table, None);
        let lines: Vec<_> = text
            .lines()
            .map(|l| l.split_whitespace().collect::<Vec<_>>())
            .collect();
        assert_eq!(lines[1], ["7", "admin", "waiting", "1m00s", "-"]);
        assert_eq!(lines[2], ["5", "eve", "failed", "-", "pool", "web"]);
    }
}
