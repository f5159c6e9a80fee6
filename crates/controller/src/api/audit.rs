//! `GET /api/ek/audit`: who changed what, when, from where, and how each object was before and after.

use super::operation::Call;
use super::{Context, ok, query};
use crate::auth::token;
use crate::clock::rfc3339;
use crate::confirm;
use crate::error::ApiError;
use crate::objects::PREFIX;
use axum::response::Response;
use model::object::Object;
use model::object::{MASK, hide_secrets};
use model::schema::object_type;
use serde_json::{Value, json};
use std::collections::HashMap;
use store::{Commit, Head, Store, Written};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Commits of the log that are looked at in one go: others write meanwhile.
const CHUNK: usize = 1000;

/// Which changes are asked for; what is not given does not matter.
struct Filter<'a> {
    object_type: Option<&'a str>,
    uuid: Option<&'a str>,
    name: Option<&'a str>,
    who: Option<&'a str>,
    revision: Option<u64>,
    since_us: u64,
    until_us: u64,
}

/// `GET /api/ek/audit`, newest first.
pub(super) async fn list(call: &Call<'_>) -> Result<Response, ApiError> {
    let filter = Filter::of(call.context)?;
    let store = &**call.app.objects.store();
    let found = filter.find(store).await?;
    let mut shown = HashMap::new();
    for revision in &found[query::window(call.context, found.len())] {
        let commit = store.read_commit(*revision).await?;
        shown.extend(commit.map(|c| (*revision, show(&c))));
    }
    let show = |revision| shown.remove(&revision).unwrap_or_default();
    Ok(ok(query::page(call.context, "ek/audit", found, show)))
}

impl<'a> Filter<'a> {
    fn of(context: &'a Context) -> Result<Self, ApiError> {
        let time = |name: &str| context.get(name).map(|v| time_us(name, v)).transpose();
        let revision = context.get("revision").map(|v| {
            v.parse()
                .map_err(|_| ApiError::bad_request("revision: is no number; write one"))
        });
        Ok(Self {
            object_type: context.get("type"),
            uuid: context.get("uuid"),
            name: context.get("name"),
            who: context.get("who"),
            revision: revision.transpose()?,
            since_us: time("since")?.unwrap_or(0),
            until_us: time("until")?.unwrap_or(u64::MAX),
        })
    }

    /// The revisions that match, newest first.
    async fn find(&self, store: &dyn Store) -> Result<Vec<u64>, ApiError> {
        let prefix = match self.object_type {
            Some(path) => format!("{PREFIX}{path}/"),
            None => "/".to_owned(),
        };
        let (mut found, mut below) = (Vec::new(), u64::MAX);
        loop {
            let heads = store.log(&prefix, below, CHUNK).await?;
            let Some(last) = heads.last() else {
                return Ok(found);
            };
            below = last.revision;
            for head in heads.iter().filter(|h| self.fits(h)) {
                if self.is_named(store, head).await? {
                    found.push(head.revision);
                }
            }
        }
    }

    /// Changes of objects, what became of those that were to be confirmed, and API tokens; the planner's decisions are no changes
    /// of configuration.
    fn fits(&self, head: &Head) -> bool {
        let prefixes = [PREFIX, confirm::PREFIX, token::PREFIX];
        let shown = |k: &String| prefixes.iter().any(|p| k.starts_with(p));
        head.keys.iter().any(shown)
            && self.who.is_none_or(|who| who == head.meta.who)
            && self.revision.is_none_or(|r| r == head.revision)
            && (self.since_us..=self.until_us).contains(&head.time_us)
            && self
                .uuid
                .is_none_or(|_| head.keys.iter().any(|k| self.has_uuid(k)))
    }

    fn has_uuid(&self, key: &str) -> bool {
        self.uuid.is_none_or(|uuid| split(key).1 == uuid)
    }

    /// The name is in the values, before or after.
    async fn is_named(&self, store: &dyn Store, head: &Head) -> Result<bool, ApiError> {
        let Some(name) = self.name else {
            return Ok(true);
        };
        let commit = store.read_commit(head.revision).await?;
        let writes = commit.map(|c| c.writes).unwrap_or_default();
        let ours = writes
            .iter()
            .filter(|w| head.keys.contains(&w.key) && self.has_uuid(&w.key));
        let mut values = ours.flat_map(|w| [object(&w.before), object(&w.after)]);
        Ok(values.any(|o| o.is_some_and(|o| o.get("name").and_then(Value::as_str) == Some(name))))
    }
}

/// Type and uuid of an object's key.
fn split(key: &str) -> (&str, &str) {
    let rest = key.strip_prefix(PREFIX).unwrap_or_default();
    rest.split_once('/').unwrap_or_default()
}

fn object(value: &Option<Vec<u8>>) -> Option<Object> {
    let value = value.as_ref()?;
    serde_json::from_slice(value).ok()
}

/// RFC 3339, or microseconds since 1970 as the answers have them.
pub(super) fn time_us(name: &str, text: &str) -> Result<u64, ApiError> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    // A `+` of a zone that was not encoded has become a space.
    let time = OffsetDateTime::parse(&text.replace(' ', "+"), &Rfc3339);
    let us = time.ok().map(|t| t.unix_timestamp_nanos() / 1000);
    us.and_then(|us| u64::try_from(us).ok()).ok_or_else(|| {
        let text = format!(
            "{name}: {text:?} is no time; write RFC 3339, such as 2026-01-31T12:00:00Z, or microseconds since 1970"
        );
        ApiError::bad_request(text)
    })
}

fn show(commit: &Commit) -> Value {
    let ours = commit.writes.iter().filter(|w| w.key.starts_with(PREFIX));
    json!({
        "revision": commit.revision,
        "time": rfc3339(commit.time_us),
        "time_us": commit.time_us,
        "who": commit.meta.who,
        "from": commit.meta.from,
        "message": commit.meta.message,
        "objects": ours.map(show_write).collect::<Vec<_>>(),
    })
}

/// An object before and after, and what is different; secrets are masked.
pub(super) fn show_write(write: &Written) -> Value {
    let (before, after) = (object(&write.before), object(&write.after));
    let (path, uuid) = split(&write.key);
    let masked = |o: &Option<Object>| {
        o.clone().map(|mut o| {
            // Of a type that is no more nothing is known to be harmless.
            match object_type(path) {
                Some(ty) => hide_secrets(ty, &mut o),
                None => o.clear(),
            }
            Value::Object(o)
        })
    };
    let shown = [masked(&before), masked(&after)];
    let name = after
        .as_ref()
        .or(before.as_ref())
        .and_then(|o| o.get("name"));
    let action = match (&before, &after) {
        (None, _) => "create",
        (Some(_), None) => "delete",
        (Some(_), Some(_)) => "update",
    };
    json!({
        "type": path, "uuid": uuid, "name": name, "action": action,
        "changes": changes(before, after, &shown),
        "before": shown[0], "after": shown[1],
    })
}

/// The fields that differ, by path. They are compared as stored, so that a new secret is a change, and shown masked.
fn changes(
    before: Option<Object>,
    after: Option<Object>,
    shown: &[Option<Value>; 2],
) -> Vec<Value> {
    let whole = |o: Option<Object>| {
        let mut fields = o.unwrap_or_default();
        fields.shift_remove("_last_modified");
        Value::Object(fields)
    };
    let (old, new) = (whole(before), whole(after));
    let empty = json!({});
    let [shown_old, shown_new] = shown.each_ref().map(|s| s.as_ref().unwrap_or(&empty));
    let (old, new) = (Pair::new(&old, shown_old), Pair::new(&new, shown_new));
    let mut found = Vec::new();
    compare("", old, new, &mut found);
    found
}

/// A value as stored and as shown.
#[derive(Clone, Copy)]
struct Pair<'a> {
    stored: Option<&'a Value>,
    shown: Option<&'a Value>,
}

impl<'a> Pair<'a> {
    fn new(stored: &'a Value, shown: &'a Value) -> Self {
        let (stored, shown) = (Some(stored), Some(shown));
        Self { stored, shown }
    }

    fn field(self, name: &str) -> Self {
        let get = |v: Option<&'a Value>| v.and_then(|v| v.get(name));
        Self {
            stored: get(self.stored),
            shown: get(self.shown),
        }
    }

    fn item(self, index: usize) -> Self {
        let get = |v: Option<&'a Value>| v.and_then(|v| v.get(index));
        Self {
            stored: get(self.stored),
            shown: get(self.shown),
        }
    }

    /// What is stored and not shown is a secret.
    fn value(self) -> Value {
        match (self.stored, self.shown) {
            (None, _) => Value::Null,
            (Some(_), Some(shown)) => shown.clone(),
            (Some(_), None) => MASK.into(),
        }
    }
}

fn compare(path: &str, old: Pair<'_>, new: Pair<'_>, found: &mut Vec<Value>) {
    match (old.stored, new.stored) {
        (a, b) if a == b => {}
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let added = b.keys().filter(|k| !a.contains_key(*k));
            for key in a.keys().chain(added) {
                let path = match path {
                    "" => key.clone(),
                    path => format!("{path}.{key}"),
                };
                compare(&path, old.field(key), new.field(key), found);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            for i in 0..a.len() {
                compare(&format!("{path}[{i}]"), old.item(i), new.item(i), found);
            }
        }
        _ => found.push(json!({"field": path, "old": old.value(), "new": new.value()})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(before: Option<Value>, after: Option<Value>) -> Value {
        let bytes = |v: Option<Value>| v.map(|v| v.to_string().into_bytes());
        show_write(&Written {
            key: format!("{PREFIX}vrfcontext/v-1"),
            before: bytes(before),
            after: bytes(after),
        })
    }

    fn vrf(secret: &str, addr: &str) -> Value {
        let peer = json!({"peer_ip": {"addr": addr}, "md5_secret": secret});
        json!({"name": "v", "bgp_profile": {"peers": [peer]}, "_last_modified": addr})
    }

    #[test]
    fn a_changed_secret_is_a_change_that_shows_no_secret() {
        let shown = written(Some(vrf("one", "a")), Some(vrf("two", "a")));
        let changed =
            json!([{"field": "bgp_profile.peers[0].md5_secret", "old": MASK, "new": MASK}]);
        assert_eq!(shown["changes"], changed);
        let text = shown.to_string();
        assert!(!text.contains("one") && !text.contains("two"), "{text}");
    }

    #[test]
    fn a_list_of_another_length_is_one_change_without_secrets() {
        let mut more = vrf("one", "a");
        let peer = more["bgp_profile"]["peers"][0].clone();
        more["bgp_profile"]["peers"] = json!([peer, peer]);
        let shown = written(Some(vrf("one", "a")), Some(more));
        assert_eq!(shown["changes"][0]["field"], "bgp_profile.peers");
        assert_eq!(shown["changes"][0]["new"][1]["md5_secret"], MASK);
        assert!(!shown.to_string().contains("one"));
    }

    #[test]
    fn the_time_of_the_write_is_no_change() {
        let mut later = vrf("s", "a");
        later["_last_modified"] = json!("later");
        let shown = written(Some(vrf("s", "a")), Some(later));
        assert_eq!(shown["changes"], json!([]));
    }

    #[test]
    fn what_comes_and_goes_shows_every_field() {
        let object = json!({"name": "v", "n": 1});
        let made = written(None, Some(object.clone()));
        assert_eq!(made["action"], "create");
        let changes = json!([{"field": "name", "old": null, "new": "v"}, {"field": "n", "old": null, "new": 1}]);
        assert_eq!(made["changes"], changes);
        let gone = written(Some(object), None);
        assert_eq!(
            (&gone["action"], &gone["after"]),
            (&json!("delete"), &Value::Null)
        );
        assert_eq!(gone["name"], "v");
    }

    #[test]
    fn times_are_rfc_3339_or_microseconds() {
        let us = 1_767_225_600_000_001;
        assert_eq!(rfc3339(us), "2026-01-01T00:00:00.000001Z");
        for text in [
            "2026-01-01T00:00:00.000001Z",
            "2026-01-01T01:00:00.000001 01:00",
            "1767225600000001",
        ] {
            assert_eq!(time_us("since", text), Ok(us), "{text}");
        }
        assert!(time_us("since", "yesterday").is_err());
    }
}
