//! All objects of a file in one change.

use super::{Applied, Change, Manifest, Wanted, compare};
use crate::lookup::{number, text};
use anyhow::Context;
use client::{Client, Error};
use serde_json::{Value, json};

/// A header of the API: the change is reverted unless it is confirmed within so many seconds.
const CONFIRM_WITHIN: &str = "X-Evenkeel-Confirm-Within";
const CHANGE: &str = "/api/ek/change";

/// What there is to do for a file.
pub(super) struct Work<'a> {
    manifest: &'a Manifest,
    rows: Vec<Applied>,
    writes: Vec<Value>,
}

impl<'a> Work<'a> {
    /// Compares the file with what is there.
    pub(super) fn of(manifest: &'a Manifest, client: &Client) -> anyhow::Result<Self> {
        let (mut rows, mut writes) = (Vec::new(), Vec::new());
        for wanted in &manifest.objects {
            let planned = wanted.planned(client);
            let (row, write) = planned.with_context(|| {
                let ty = &wanted.object_type.path;
                format!("{}: {ty} {}", manifest.file, wanted.name)
            })?;
            rows.push(row);
            writes.extend(write);
        }
        Ok(Self {
            manifest,
            rows,
            writes,
        })
    }

    /// What the change would do.
    pub(super) fn plan(&self, client: &Client) -> anyhow::Result<Value> {
        if self.writes.is_empty() {
            return Ok(json!({"dry_run": true}));
        }
        let planned = client.plan_post(CHANGE, &json!({"writes": self.writes}));
        planned.map_err(|e| self.refused(e))
    }

    /// Makes the change, if there is anything to do.
    pub(super) fn write(mut self, client: &Client) -> anyhow::Result<Vec<Applied>> {
        if self.writes.is_empty() {
            return Ok(self.rows);
        }
        let within = self.manifest.confirm_within.map(|s| s.to_string());
        let headers = within.iter().map(|s| (CONFIRM_WITHIN, s.as_str()));
        let headers: Vec<_> = headers.collect();
        let body = json!({"writes": self.writes});
        let reply = client.post_with(CHANGE, &body, &headers);
        let reply = reply.map_err(|e| self.refused(e))?;
        finish(&mut self.rows, &reply);
        Ok(self.rows)
    }

    /// The error in the words of the file: which object, not which of the writes.
    fn refused(&self, mut error: Error) -> anyhow::Error {
        let mut at = self.manifest.file.clone();
        if let Error::Status { message, .. } = &mut error
            && let Some((index, rest)) = split(message)
        {
            let mut written = self.rows.iter().filter(|r| r.result != Change::Unchanged);
            if let Some(row) = written.nth(index) {
                at = format!("{at}: {} {}", row.object_type, row.name);
                *message = rest.to_owned();
            }
        }
        anyhow::Error::from(error).context(at)
    }
}

/// The number of the write, and what is wrong with it.
fn split(message: &str) -> Option<(usize, &str)> {
    let (index, rest) = message.strip_prefix("writes[")?.split_once("]: ")?;
    Some((index.parse().ok()?, rest))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_which_write_it_is_about() {
        let text = "writes[12]: name: is required; set it";
        assert_eq!(split(text), Some((12, "name: is required; set it")));
        assert_eq!(split("writes: is missing"), None);
    }
}
