//! `sealkey show` and `sealkey rotate`: the keys that seal secrets in the controller's store.

use crate::lookup::{items, text};
use crate::output::{Format, table};
use client::Client;
use serde_json::{Value, json};

/// What to do with the keys.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Which keys there are, by their ids, and whether all secrets are sealed by the newest one.
    Show,
    /// Make a new key and seal all secrets anew; done when the old key is gone.
    Rotate,
}

pub(crate) fn run(client: &Client, command: &Command, format: Format) -> anyhow::Result<()> {
    let shown = match command {
        Command::Show => client.get("/api/ek/sealkey", &[])?,
        Command::Rotate => client.post("/api/ek/sealkey/rotate", &json!({}))?,
    };
    table::print_value(&shown, &lines(&shown), format);
    Ok(())
}

/// A line per key, and how far the store is.
fn lines(shown: &Value) -> String {
    let line = |key: &Value| {
        let does = match key["seals"].as_bool() {
            Some(true) => "seals",
            _ => "opens what is not sealed anew yet",
        };
        format!(
            "key {} of {} {does}\n",
            text(key, "/id"),
            text(key, "/made")
        )
    };
    let keys: String = items(shown, "/keys").iter().map(line).collect();
    let state = match (text(shown, "/state"), text(shown, "/reason")) {
        ("sealed", _) => "all secrets are sealed by the newest key".to_owned(),
        (state, "") => state.to_owned(),
        (state, why) => format!("{state}: {why}"),
    };
    keys + &state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_what_keeps_the_old_one_are_lines() {
        let keys = json!([{"id": "a", "made": "then", "seals": true}, {"id": "b", "made": "before", "seals": false}]);
        let shown = json!({"keys": keys, "state": "resealing", "reason": "the disk is full"});
        assert_eq!(
            lines(&shown),
            "key a of then seals\nkey b of before opens what is not sealed anew yet\nresealing: the disk is full"
        );
        let shown = json!({"keys": [], "state": "sealed", "reason": null});
        assert_eq!(lines(&shown), "all secrets are sealed by the newest key");
    }
}
