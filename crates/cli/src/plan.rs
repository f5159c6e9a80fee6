//! Plans: what a write would do (`--dry-run`).

use crate::lookup::{items, number, text};
use crate::output::{Format, table};
use serde_json::Value;

/// Prints a plan.
pub(crate) fn print(plan: &Value, format: Format) {
    table::print_value(plan, &lines(plan), format);
}

/// A line for each thing that would happen.
fn lines(plan: &Value) -> String {
    let parts = [
        all(plan, "/objects", object),
        all(plan, "/placement", placement),
        all(plan, "/routes/announced", |r| {
            route(r, "would be announced")
        }),
        all(plan, "/routes/withdrawn", |r| {
            route(r, "would be withdrawn")
        }),
        all(plan, "/flows", flows),
    ];
    let mut lines: Vec<String> = parts.into_iter().flatten().collect();
    let effects = items(plan, "/effects").iter();
    lines.extend(effects.filter_map(Value::as_str).map(str::to_owned));
    let unseen = number(plan, "/placement/not_looked_at").unwrap_or(0);
    if unseen > 0 {
        lines.push(format!(
            "{unseen} more VIPs wait for an engine; what becomes of them was not looked at"
        ));
    }
    if lines.is_empty() {
        lines.push("nothing would change".into());
    }
    lines.push("nothing was done (dry run)".into());
    lines.join("\n")
}

/// A line per entry, and how many more there are.
fn all(plan: &Value, pointer: &str, line: impl Fn(&Value) -> String) -> Vec<String> {
    let results = items(plan, &format!("{pointer}/results"));
    let mut lines: Vec<String> = results.iter().map(line).collect();
    let count = number(plan, &format!("{pointer}/count")).unwrap_or(0);
    let more = count.saturating_sub(results.len() as u64);
    if more > 0 {
        let what = pointer.rsplit('/').next().unwrap_or_default();
        lines.push(format!("and {more} more ({what})"));
    }
    lines
}

fn object(write: &Value) -> String {
    let [ty, name, action] = ["/type", "/name", "/action"].map(|p| text(write, p));
    let changes = items(write, "/changes").iter();
    let changes = changes.map(|c| format!("{}: {} -> {}", text(c, "/field"), c["old"], c["new"]));
    let changes: Vec<String> = changes.collect();
    match (action, changes.is_empty()) {
        ("update", true) => format!("{ty} {name}: update, nothing different"),
        ("update", false) => format!("{ty} {name}: update, {}", changes.join(", ")),
        (action, _) => format!("{ty} {name}: {action}"),
    }
}

fn placement(vip: &Value) -> String {
    let names = |pointer: &str| {
        let each = items(vip, pointer).iter().filter_map(Value::as_str);
        each.collect::<Vec<_>>().join(", ")
    };
    let services = match names("/virtual_services") {
        none if none.is_empty() => String::new(),
        names => format!(" ({names})"),
    };
    let moves = |pointer: &str, word: &str| -> Vec<String> {
        let each = items(vip, pointer).iter();
        each.map(|m| {
            let (se, reason) = (text(m, "/se_name"), text(m, "/reason"));
            format!("{word} {se}: {reason}")
        })
        .collect()
    };
    let mut parts = moves("/added", "would be placed on");
    parts.extend(moves("/removed", "would be taken off"));
    let active = &vip["becomes_active"];
    if active.is_object() {
        let (se, reason) = (text(active, "/se_name"), text(active, "/reason"));
        parts.push(format!("would be active on {se}: {reason}"));
    }
    if let Some(why) = vip["waits_for"].as_str() {
        parts.push(format!("would wait: {why}"));
    }
    format!(
        "VIP {}{services}: {}",
        text(vip, "/vsvip"),
        parts.join("; ")
    )
}

fn route(route: &Value, what: &str) -> String {
    let peers = items(route, "/peers").iter().filter_map(Value::as_str);
    let peers: Vec<&str> = peers.collect();
    let now = match route["in_force"].as_bool() {
        Some(false) => " (it is not out now)",
        Some(true) | None => "",
    };
    let [vip, se] = ["/vip", "/se_name"].map(|p| text(route, p));
    format!("route {vip} of {se} {what}: {}{now}", peers.join(", "))
}

fn flows(row: &Value) -> String {
    let of = match text(row, "/of") {
        "server" => format!(
            "to server {}:{} of pool {}",
            text(row, "/server"),
            row["port"],
            text(row, "/pool")
        ),
        _ => format!("of {}", text(row, "/virtual_service")),
    };
    let count = match number(row, "/flows") {
        None => "an unknown number of flows".to_owned(),
        Some(1) => "1 flow".to_owned(),
        Some(n) => format!("{n} flows"),
    };
    let oldest = match number(row, "/oldest_s") {
        Some(s) if s > 0 => format!(", oldest {s} s"),
        _ => String::new(),
    };
    let end = match text(row, "/outcome") {
        "kept" => "they go on until they end",
        "without_route" => "they stay, but no route leads to the VIP any more",
        "ended" => "they are ended",
        _ => "the engine is told nothing any more",
    };
    format!("{count} {of} on {}{oldest}: {end}", text(row, "/se_name"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn list(results: Value) -> Value {
        json!({"count": results.as_array().map(Vec::len), "results": results})
    }

    #[test]
    fn a_plan_is_a_line_for_each_thing_that_would_happen() {
        let change = json!({"field": "enabled", "old": true, "new": false});
        let plan = json!({
            "objects": list(json!([
                {"type": "virtualservice", "name": "vs-1", "action": "update", "changes": [change]},
                {"type": "pool", "name": "web", "action": "create", "changes": []},
            ])),
            "placement": list(json!([{
                "vsvip": "vip-1", "virtual_services": ["vs-1"], "waits_for": null,
                "added": [{"se_name": "se-2", "reason": "the emptiest"}], "removed": [],
            }])),
            "routes": {
                "announced": list(json!([{"vip": "10.100.0.1", "se_name": "se-2", "peers": ["10.10.10.1"]}])),
                "withdrawn": list(json!([{"vip": "10.100.0.2", "se_name": "se-1", "peers": ["10.10.10.1"], "in_force": false}])),
            },
            "flows": list(json!([
                {"of": "virtualservice", "virtual_service": "vs-1", "se_name": "se-1", "flows": 312, "oldest_s": 60, "outcome": "kept"},
                {"of": "server", "pool": "web", "server": "10.1.0.1", "port": 80, "se_name": "se-1", "flows": 1, "outcome": "kept"},
            ])),
        });
        let expected = [
            "virtualservice vs-1: update, enabled: true -> false",
            "pool web: create",
            "VIP vip-1 (vs-1): would be placed on se-2: the emptiest",
            "route 10.100.0.1 of se-2 would be announced: 10.10.10.1",
            "route 10.100.0.2 of se-1 would be withdrawn: 10.10.10.1 (it is not out now)",
            "312 flows of vs-1 on se-1, oldest 60 s: they go on until they end",
            "1 flow to server 10.1.0.1:80 of pool web on se-1: they go on until they end",
            "nothing was done (dry run)",
        ];
        assert_eq!(lines(&plan), expected.join("\n"));
    }

    #[test]
    fn what_has_effects_alone_says_them() {
        let none = || list(json!([]));
        let plan = json!({
            "objects": none(), "placement": none(), "flows": none(),
            "effects": ["the planner looks at the VIP now", "se-1 is sent its state again"],
        });
        let expected = "the planner looks at the VIP now\nse-1 is sent its state again\nnothing was done (dry run)";
        assert_eq!(lines(&plan), expected);
    }

    #[test]
    fn what_is_not_shown_is_counted() {
        let plan = json!({"objects": {"count": 3, "results": [{"type": "pool", "name": "a", "action": "delete"}]}});
        let expected = "pool a: delete\nand 2 more (objects)\nnothing was done (dry run)";
        assert_eq!(lines(&plan), expected);
        assert_eq!(
            lines(&json!({})),
            "nothing would change\nnothing was done (dry run)"
        );
    }
}
