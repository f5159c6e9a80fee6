//! `apply --confirm-within`: all objects of a file in one change.

use super::{Applied, Change, Manifest, Wanted, compare};
use crate::lookup::{number, text};
use crate::output::{Format, table};
use anyhow::Context;
use client::{Client, Error};
use serde_json::{Value, json};

/// A header of the API: the change is reverted unless it is confirmed within so many seconds.
const CONFIRM_WITHIN: &str = "X-Evenkeel-Confirm-Within";

pub(super) fn run(
    client: &Client,
    manifest: &Manifest,
    within_s: u64,
    format: Format,
) -> anyhow::Result<()> {
    let (mut rows, mut writes) = (Vec::new(), Vec::new());
    for wanted in &manifest.objects {
        let (row, write) = wanted.planned(client)?;
        rows.push(row);
        writes.extend(write);
    }
    let revision = if writes.is_empty() {
        None
    } else {
        let seconds = within_s.to_string();
        let body = json!({ "writes": writes });
        let reply = client.post_with("/api/ek/change", &body, &[(CONFIRM_WITHIN, &seconds)]);
        let reply = reply.with_context(|| manifest.file.clone())?;
        finish(&mut rows, &reply);
        number(&reply, "/revision")
    };
    table::print(&rows, format);
    if let Some(revision) = revision {
        crate::note!("reverted in {within_s}s unless: evenkeel confirm {revision}");
    }
    Ok(())
}

/// What the controller made of the writes, in their order.
fn finish(rows: &mut [Applied], reply: &Value) {
    let written = rows.iter_mut().filter(|r| r.result != Change::Unchanged);
    for (row, done) in written.zip(crate::lookup::items(reply, "/objects")) {
        row.uuid = text(done, "/uuid").into();
        row.revision = number(reply, "/revision");
    }
}

impl Wanted {
    /// What there is to do for the object, and the write that does it.
    fn planned(&self, client: &Client) -> Result<(Applied, Option<Value>), Error> {
        let path = &self.object_type.path;
        let query = [("name", self.name.as_str()), ("include_name", "")];
        let page = client.get(&format!("/api/{path}"), &query)?;
        let Some(current) = page.pointer("/results/0").and_then(Value::as_object) else {
            let write = json!({"type": path, "object": self.object});
            return Ok((
                self.applied(Change::Created, &Value::Null, None),
                Some(write),
            ));
        };
        let there = Value::Object(current.clone());
        match compare::difference(self.object_type, &self.object, current) {
            None => Ok((self.applied(Change::Unchanged, &there, None), None)),
            Some(because) => {
                let uuid = text(&there, "/uuid");
                let write = json!({"type": path, "uuid": uuid, "object": self.body(current)});
                let row = self.applied(Change::Changed, &there, Some(because));
                Ok((row, Some(write)))
            }
        }
    }
}
