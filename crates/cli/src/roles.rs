//! `switchover` of a service engine and `redistribute` of an SE group: active roles of many virtual services at once.

use crate::lookup::{self, items, number, text};
use crate::output::{Format, table};
use client::Client;
use serde_json::{Value, json};

/// What to redistribute.
#[derive(Debug, clap::Subcommand)]
pub enum Redistribute {
    /// Each virtual service becomes active on the engine of its tag (active_standby_se_tag), now.
    #[command(visible_alias = "segroup")]
    Serviceenginegroup(RolesArgs),
}

/// Whose active roles.
#[derive(Debug, clap::Args)]
pub struct RolesArgs {
    /// Name or UUID.
    name: String,
    /// Show what it would do, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn hand_over(client: &Client, args: &RolesArgs, format: Format) -> anyhow::Result<()> {
    run(client, ("serviceengine", "switchover"), args, format)
}

pub(crate) fn redistribute(
    client: &Client,
    Redistribute::Serviceenginegroup(args): &Redistribute,
    format: Format,
) -> anyhow::Result<()> {
    run(client, ("serviceenginegroup", "redistribute"), args, format)
}

fn run(
    client: &Client,
    (ty, action): (&str, &str),
    args: &RolesArgs,
    format: Format,
) -> anyhow::Result<()> {
    let object = lookup::object(client, ty, &args.name)?;
    let path = format!("/api/{ty}/{}/{action}", text(&object, "/uuid"));
    if args.dry_run {
        crate::plan::print(&client.plan_post(&path, &json!({}))?, format);
        return Ok(());
    }
    let reply = client.post(&path, &json!({}))?;
    table::print_value(&reply, &describe(&reply), format);
    Ok(())
}

/// A line for each VIP that is switched over, and for each that should be and cannot.
fn describe(reply: &Value) -> String {
    let mut lines = lines(reply, "/switched_over", |vip| {
        format!("is active on {}", text(vip, "/se_name"))
    });
    lines.extend(self::lines(reply, "/stays", |_| "stays".to_owned()));
    if lines.is_empty() {
        lines.push("nothing to switch over".to_owned());
    }
    lines.join("\n")
}

fn lines(reply: &Value, pointer: &str, what: impl Fn(&Value) -> String) -> Vec<String> {
    let shown = items(reply, &format!("{pointer}/results"));
    let line = |vip: &Value| {
        let reason = text(vip, "/reason");
        format!(
            "VIP {}{} {}: {reason}",
            text(vip, "/vsvip"),
            services(vip),
            what(vip)
        )
    };
    let mut lines: Vec<String> = shown.iter().map(line).collect();
    let count = number(reply, &format!("{pointer}/count")).unwrap_or(0);
    let unseen = count.saturating_sub(shown.len() as u64);
    if unseen > 0 {
        let word = pointer.trim_start_matches('/').replace('_', " ");
        lines.push(format!("and {unseen} more of others ({word})"));
    }
    lines
}

fn services(vip: &Value) -> String {
    let names = items(vip, "/virtual_services").iter();
    let names: Vec<&str> = names.filter_map(Value::as_str).collect();
    match names.is_empty() {
        true => String::new(),
        false => format!(" ({})", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_vip_has_its_line_and_nothing_to_do_is_said() {
        let reply = json!({
            "switched_over": {"count": 3, "results": [
                {"vsvip": "vip-1", "virtual_services": ["vs-1", "vs-2"], "se_name": "se-2", "reason": "why"},
            ]},
            "stays": {"count": 1, "results": [{"vsvip": "vip-9", "virtual_services": [], "reason": "no session"}]},
        });
        assert_eq!(
            describe(&reply),
            "VIP vip-1 (vs-1, vs-2) is active on se-2: why\nand 2 more of others (switched over)\nVIP vip-9 stays: no session"
        );
        let none = json!({"switched_over": {"count": 0, "results": []}, "stays": {"count": 0, "results": []}});
        assert_eq!(describe(&none), "nothing to switch over");
    }
}
