//! `token create`, `token list`, `token revoke`: API tokens, which stand for their user.

use crate::jointoken::duration_s;
use crate::lookup::text;
use crate::output::table::{Column, Row};
use crate::output::{Format, UsageError, table};
use client::Client;
use serde::Serialize;
use serde_json::{Value, json};

/// What to do with API tokens.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a token of one's own and print it alone, so that `> ci.token` writes a file for --token-file.
    Create(Create),
    /// One's own tokens; those of all users for a superuser.
    List,
    /// Refuse a token from now on.
    Revoke(Revoke),
}

/// What the token is for.
#[derive(Debug, clap::Args)]
pub struct Create {
    /// A word to know it by.
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// How long it is good, in whole hours (8h, 7d).
    #[arg(long, default_value = "24h", value_parser = hours)]
    ttl: u64,
}

/// Which one.
#[derive(Debug, clap::Args)]
pub struct Revoke {
    /// Its UUID, as `token list` has it.
    uuid: String,
}

pub(crate) fn run(client: &Client, command: &Command, format: Format) -> anyhow::Result<()> {
    match command {
        Command::Create(create) => {
            let reply = client.post("/api/user-token", &body(create))?;
            table::print_value(&reply, text(&reply, "/token"), format);
        }
        Command::List => {
            let tokens = client.list("user-token")?.into_iter();
            let rows: Vec<TokenRow> = tokens.map(|token| TokenRow { token }).collect();
            table::print(&rows, format);
        }
        Command::Revoke(Revoke { uuid }) => {
            client.delete(&format!("/api/user-token/{uuid}"))?;
            let done = json!({"uuid": uuid, "result": "revoked"});
            table::print_value(&done, &format!("token {uuid} revoked"), format);
        }
    }
    Ok(())
}

fn body(create: &Create) -> Value {
    let mut body = json!({"hours": create.ttl});
    if let Some(name) = &create.name {
        body["name"] = name.as_str().into();
    }
    body
}

/// Whole hours of a time such as 8h or 7d.
fn hours(text: &str) -> Result<u64, UsageError> {
    match duration_s(text)? {
        s if s % 3600 == 0 => Ok(s / 3600),
        _ => Err(UsageError(format!(
            "{text:?} is not a whole number of hours"
        ))),
    }
}

/// A token as the table shows it; JSON has all that the API has.
#[derive(Debug, Serialize)]
struct TokenRow {
    #[serde(flatten)]
    token: Value,
}

impl TokenRow {
    fn word(&self, pointer: &str) -> String {
        text(&self.token, pointer).to_owned()
    }
}

impl Row for TokenRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("UUID", |r| r.word("/uuid")),
        Column::new("NAME", |r| r.word("/name")),
        Column::new("USER", |r| r.word("/username")),
        Column::new("MADE", |r| r.word("/created_at")),
        Column::new("EXPIRES", |r| r.word("/expires_at")),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_whole_hours() {
        let hours = |text| hours(text).ok();
        assert_eq!(["8h", "7d", "3600"].map(hours), [8, 168, 1].map(Some));
        assert_eq!(["90m", "10s", "x"].map(hours), [None; 3]);
        let create = Create {
            name: Some("ci".into()),
            ttl: 8,
        };
        assert_eq!(body(&create), json!({"hours": 8, "name": "ci"}));
    }
}
