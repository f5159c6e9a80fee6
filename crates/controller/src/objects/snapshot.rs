//! All objects at one revision. Cloning is cheap: types share their tables until one of them changes.

use crate::error::ApiError;
use model::object::{self, Object};
use model::schema::{ObjectType, object_type};
use model::view;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// An object as stored.
#[derive(Debug, Clone)]
pub struct Stored {
    /// As written, references canonical, defaults not filled in.
    pub object: Object,
    /// The revision that wrote it; 0 while in a draft.
    pub revision: u64,
}

impl Stored {
    /// Its name, or "".
    pub fn name(&self) -> &str {
        self.object
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or("")
    }

    /// Made by the controller itself, and not to be deleted.
    pub fn is_system(&self) -> bool {
        self.object.get("system_default") == Some(&Value::Bool(true))
    }

    /// True when a field of this object, of type `ty`, is this canonical reference.
    pub fn refers_to(&self, ty: &ObjectType, canonical: &str) -> bool {
        // The cheap question first: most objects do not have the text at all.
        let mentions = self.object.values().any(|v| has_text(v, canonical));
        let refers = || {
            let all = object::references(ty, &self.object);
            all.iter().any(|r| r.value == canonical)
        };
        mentions && refers()
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        Value::Object(self.object.clone()).to_string().into_bytes()
    }
}

/// An object that does not fit the view that the product acts on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{ty} {name:?} cannot be read ({why}): write it again")]
pub struct Unreadable {
    ty: String,
    name: String,
    why: String,
}

/// Canonical references of those that refer to an object, by their type.
pub type Referrers = BTreeMap<String, Vec<String>>;

type Table = BTreeMap<String, Arc<Stored>>;

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The store's revision.
    pub revision: u64,
    tables: BTreeMap<String, Arc<Table>>,
}

impl Snapshot {
    pub(super) fn new(revision: u64) -> Self {
        Self {
            revision,
            tables: BTreeMap::new(),
        }
    }

    /// `key` is `TYPE/UUID`.
    pub(super) fn load(&mut self, key: &str, object: Object, revision: u64) {
        if let Some((path, uuid)) = key.split_once('/') {
            let stored = Stored { object, revision };
            self.table(path).insert(uuid.to_owned(), Arc::new(stored));
        }
    }

    fn table(&mut self, path: &str) -> &mut Table {
        Arc::make_mut(self.tables.entry(path.to_owned()).or_default())
    }

    pub(super) fn put(&mut self, path: &str, uuid: &str, object: Object) {
        let stored = Stored {
            object,
            revision: 0,
        };
        self.table(path).insert(uuid.to_owned(), Arc::new(stored));
    }

    pub(super) fn remove(&mut self, path: &str, uuid: &str) {
        self.table(path).remove(uuid);
    }

    pub(super) fn set_revision(&mut self, path: &str, uuid: &str, revision: u64) {
        if let Some(stored) = self.table(path).get_mut(uuid) {
            Arc::make_mut(stored).revision = revision;
        }
    }

    /// The object of this type and uuid.
    pub fn get(&self, path: &str, uuid: &str) -> Option<&Arc<Stored>> {
        self.tables.get(path)?.get(uuid)
    }

    /// The object, or 404.
    ///
    /// # Errors
    /// 404.
    pub fn require(&self, ty: &ObjectType, uuid: &str) -> Result<Arc<Stored>, ApiError> {
        let found = self.get(&ty.path, uuid).cloned();
        found.ok_or_else(|| ApiError::not_found(&ty.name))
    }

    /// All objects of a type, by uuid.
    pub fn all(&self, path: &str) -> impl Iterator<Item = (&str, &Arc<Stored>)> {
        let table = self.tables.get(path).into_iter();
        table.flat_map(|t| t.iter().map(|(uuid, s)| (uuid.as_str(), s)))
    }

    /// The first object of this type and name.
    pub fn by_name(&self, path: &str, name: &str) -> Option<(&str, &Arc<Stored>)> {
        self.all(path).find(|(_, s)| s.name() == name)
    }

    /// The name of an object, for `#name` in references.
    pub fn name_of(&self, path: &str, uuid: &str) -> Option<&str> {
        self.get(path, uuid).map(|s| s.name())
    }

    /// A typed view, with defaults; `None` also for an object that does not fit, which is said in the log. Where a
    /// missing object would take something away, use [`Self::try_view`].
    pub fn view<T: DeserializeOwned>(&self, path: &str, uuid: &str) -> Option<T> {
        let parsed = self.try_view(path, uuid);
        parsed
            .inspect_err(|error| tracing::error!(path, uuid, %error, "an object is left out"))
            .ok()
            .flatten()
    }

    /// A typed view, with defaults; `None` when there is no such object.
    ///
    /// # Errors
    /// The object does not fit its view: the API would not have taken it, so another version has.
    pub fn try_view<T: DeserializeOwned>(
        &self,
        path: &str,
        uuid: &str,
    ) -> Result<Option<T>, Unreadable> {
        let Some((ty, stored)) = object_type(path).zip(self.get(path, uuid)) else {
            return Ok(None);
        };
        let full = object::with_defaults(ty, &stored.object);
        let parsed = view::parse(&full);
        parsed.map(Some).map_err(|e| Unreadable {
            ty: ty.name.clone(),
            name: stored.name().to_owned(),
            why: e.to_string(),
        })
    }

    /// Typed views of all objects of a type.
    pub fn views<T: DeserializeOwned>(&self, path: &str) -> Vec<T> {
        let uuids = self.all(path).map(|(uuid, _)| uuid);
        uuids.filter_map(|uuid| self.view(path, uuid)).collect()
    }

    /// Typed views of the objects of a type whose field refers to an object. Only those are parsed.
    pub fn views_referring<T: DeserializeOwned>(
        &self,
        path: &str,
        field: &str,
        target: &view::Ref,
    ) -> Vec<T> {
        let uuids = self.referring(path, field, target);
        uuids.filter_map(|uuid| self.view(path, uuid)).collect()
    }

    /// The same, all of them or the one that cannot be read.
    ///
    /// # Errors
    /// See [`Self::try_view`].
    pub fn try_views_referring<T: DeserializeOwned>(
        &self,
        path: &str,
        field: &str,
        target: &view::Ref,
    ) -> Result<Vec<T>, Unreadable> {
        let uuids = self.referring(path, field, target);
        uuids
            .filter_map(|uuid| self.try_view(path, uuid).transpose())
            .collect()
    }

    fn referring<'a>(
        &'a self,
        path: &str,
        field: &'a str,
        target: &'a view::Ref,
    ) -> impl Iterator<Item = &'a str> {
        let refers = move |s: &Stored| {
            s.object.get(field).and_then(Value::as_str) == Some(target.0.as_str())
        };
        self.all(path)
            .filter(move |(_, s)| refers(s))
            .map(|(uuid, _)| uuid)
    }

    /// Who refers to this object, as `Type name`.
    pub fn referrers(&self, ty: &ObjectType, uuid: &str) -> Vec<String> {
        let canonical = view::Ref::to(&ty.path, uuid).0;
        let mut found = Vec::new();
        for (path, table) in &self.tables {
            let Some(other) = object_type(path) else {
                continue;
            };
            for (other_uuid, stored) in table.iter() {
                let itself = *path == ty.path && other_uuid == uuid;
                if !itself && stored.refers_to(other, &canonical) {
                    found.push(format!("{} {}", other.name, stored.name()));
                }
            }
        }
        found
    }

    /// Who of those that `sees` lets through (type, uuid, object) refers to objects of this type, by their uuid.
    pub fn referrers_by_target(
        &self,
        target: &str,
        sees: impl Fn(&str, &str, &Stored) -> bool,
    ) -> BTreeMap<String, Referrers> {
        let mut found: BTreeMap<String, Referrers> = BTreeMap::new();
        for (path, table) in &self.tables {
            let Some(ty) = object_type(path) else {
                continue;
            };
            for (uuid, stored) in table.iter().filter(|(uuid, s)| sees(path, uuid, s)) {
                let here = view::Ref::to(path, uuid).0;
                let all = object::references(ty, &stored.object);
                for reference in all.into_iter().filter(|r| r.target == target) {
                    let to = view::Ref(reference.value).uuid().to_owned();
                    let list = found
                        .entry(to)
                        .or_default()
                        .entry(path.clone())
                        .or_default();
                    if list.last() != Some(&here) {
                        list.push(here.clone());
                    }
                }
            }
        }
        found
    }

    /// A `_last_modified` that is above every one before: microseconds since 1970.
    pub(super) fn stamp(&self) -> String {
        use std::sync::atomic::{AtomicU64, Ordering};
        static LAST: AtomicU64 = AtomicU64::new(0);
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = since.map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
        let next = |last: u64| Some(now.max(last + 1));
        let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        now.max(last.unwrap_or(0) + 1).to_string()
    }
}

fn has_text(value: &Value, text: &str) -> bool {
    match value {
        Value::String(other) => other == text,
        Value::Array(items) => items.iter().any(|v| has_text(v, text)),
        Value::Object(fields) => fields.values().any(|v| has_text(v, text)),
        _ => false,
    }
}
