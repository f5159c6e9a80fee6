//! `revert` and `confirm`: ways back, and past them.

use crate::lookup::{self, items, number, text};
use crate::output::{Format, UsageError, table};
use client::Client;
use serde_json::{Value, json};

/// What to undo.
#[derive(Debug, clap::Args)]
pub struct Revert {
    /// The revision of the change, as `show audit` has it; with an object, the revision that it goes back to.
    revision: u64,
    /// Only an object of this type is set back, to what it was after the revision.
    #[arg(value_name = "TYPE")]
    object_type: Option<String>,
    /// Name or UUID of that object; UUID if it has been deleted.
    name: Option<String>,
}

/// What to keep.
#[derive(Debug, clap::Args)]
pub struct Confirm {
    /// The revision of the change, as `show pending` has it.
    revision: u64,
}

impl Revert {
    pub(crate) fn check(&self) -> Result<(), UsageError> {
        if self.object_type.is_some() == self.name.is_some() {
            return Ok(());
        }
        Err(UsageError(
            "an object is named by TYPE and NAME; give both, or none to undo the whole change"
                .into(),
        ))
    }

    fn body(&self, client: &Client) -> anyhow::Result<Value> {
        let (Some(word), Some(name)) = (&self.object_type, &self.name) else {
            return Ok(json!({ "revision": self.revision }));
        };
        let object_type = lookup::object_type(word)?;
        // A deleted object has no name to be found by.
        let uuid = match client.get_by_name(object_type, name)? {
            Some(object) => text(&object, "/uuid").to_owned(),
            None => name.clone(),
        };
        Ok(json!({ "revision": self.revision, "type": object_type, "uuid": uuid }))
    }
}

pub(crate) fn revert(client: &Client, args: &Revert, format: Format) -> anyhow::Result<()> {
    let reply = client.post("/api/ek/revert", &args.body(client)?)?;
    table::print_value(&reply, &lines(&reply), format);
    Ok(())
}

/// A line per object, and the revision.
pub(crate) fn lines(reply: &Value) -> String {
    let line = |object: &Value| {
        let [object_type, name, result] = ["/type", "/name", "/result"].map(|p| text(object, p));
        format!("{object_type} {name} {result}\n")
    };
    let mut lines: String = items(reply, "/objects").iter().map(line).collect();
    match number(reply, "/revision") {
        Some(revision) => lines.push_str(&format!("revision {revision}")),
        None => lines.push_str("nothing to change"),
    }
    lines
}

pub(crate) fn confirm(client: &Client, args: &Confirm, format: Format) -> anyhow::Result<()> {
    let revision = args.revision;
    let reply = client.post("/api/ek/confirm", &json!({ "revision": revision }))?;
    table::print_value(&reply, &format!("revision {revision} confirmed"), format);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_reverted_is_a_line_per_object() {
        let object = json!({"type": "pool", "name": "web", "uuid": "pool-1", "result": "restored"});
        let reply = json!({"revision": 7, "objects": [object]});
        assert_eq!(lines(&reply), "pool web restored\nrevision 7");
        assert_eq!(
            lines(&json!({"revision": null, "objects": []})),
            "nothing to change"
        );
    }
}
