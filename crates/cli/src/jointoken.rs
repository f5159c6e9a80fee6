//! `jointoken create`: a one-time token by which an engine joins.

use crate::output::{Format, UsageError, table};
use client::Client;
use serde_json::{Value, json};

/// What to do with join tokens.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a token and print it alone, so that `> se1.token` writes a file that an engine takes.
    Create(Create),
}

/// What the token is for.
#[derive(Debug, clap::Args)]
pub struct Create {
    /// Only an engine of this name may use it (any, when not given).
    #[arg(long, value_name = "SE")]
    name: Option<String>,
    /// How long it can be used: seconds, or with a unit (90s, 15m, 1h, 1d).
    #[arg(long, default_value = "1h", value_parser = duration_s)]
    ttl: u64,
    /// The service engine group that the engine joins [default: Default-Group].
    #[arg(long, value_name = "GROUP")]
    se_group: Option<String>,
}

pub(crate) fn run(client: &Client, command: &Command, format: Format) -> anyhow::Result<()> {
    let Command::Create(create) = command;
    let reply = client.post("/api/ek/jointoken", &body(create))?;
    let token = reply
        .get("token")
        .and_then(Value::as_str)
        .unwrap_or_default();
    table::print_value(&reply, token, format);
    Ok(())
}

fn body(create: &Create) -> Value {
    let mut body = json!({ "ttl_s": create.ttl });
    if let Some(name) = &create.name {
        body["name"] = name.as_str().into();
    }
    if let Some(group) = &create.se_group {
        body["se_group_ref"] = format!("/api/serviceenginegroup?name={group}").into();
    }
    body
}

/// Seconds, or a number with one unit.
pub(crate) fn duration_s(text: &str) -> Result<u64, UsageError> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        unit => {
            return Err(UsageError(format!(
                "{unit:?} is not a unit of time: s, m, h or d"
            )));
        }
    };
    let number: Option<u64> = digits.parse().ok().filter(|n| *n > 0);
    number
        .and_then(|n| n.checked_mul(factor))
        .ok_or_else(|| UsageError(format!("{text:?} is not a time such as 90s, 15m or 1h")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_or_are_seconds() {
        let seconds = |text| duration_s(text).ok();
        assert_eq!(
            ["90", "90s", "15m", "1h", "1d"].map(seconds),
            [90, 90, 900, 3600, 86400].map(Some)
        );
        assert_eq!(["", "0", "h", "1w", "-1s", "1.5h"].map(seconds), [None; 6]);
    }

    #[test]
    fn body_names_only_what_was_given() {
        let create = Create {
            name: None,
            ttl: 60,
            se_group: None,
        };
        assert_eq!(body(&create), json!({"ttl_s": 60}));
        let create = Create {
            name: Some("se-1".into()),
            ttl: 60,
            se_group: Some("blue".into()),
        };
        let expected = json!({"ttl_s": 60, "name": "se-1", "se_group_ref": "/api/serviceenginegroup?name=blue"});
        assert_eq!(body(&create), expected);
    }
}
