//! All objects at one revision. Cloning is cheap, and so is a change of a clone: tables and indexes are persistent trees
//! that share all but the path to what changed.

use super::index::{Index, Node};
use crate::access::ADMIN_TENANT;
use crate::error::ApiError;
use model::object::{self, Object};
use model::schema::{ObjectType, object_type};
use model::view;
use rpds::RedBlackTreeMapSync;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::any::Any;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

/// What a typed view can be made into: all of them can.
pub trait View: DeserializeOwned + Clone + Send + Sync + 'static {}

impl<T: DeserializeOwned + Clone + Send + Sync + 'static> View for T {}

/// An object as stored.
#[derive(Debug, Clone)]
pub struct Stored {
    /// As written, references canonical, defaults not filled in.
    pub object: Object,
    /// The revision that wrote it; 0 while in a draft.
    pub revision: u64,
    // What every list asks of every object is beside it: looking fields up in thousands of objects takes most of the
    // time of a list.
    name: Box<str>,
    tenant: Box<str>,
    is_system: bool,
    /// Its typed view, made when it is first asked for.
    view: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Stored {
    /// An object that this revision wrote.
    pub fn new(object: Object, revision: u64) -> Self {
        let text = |field: &str| object.get(field).and_then(Value::as_str);
        let tenant = text("tenant_ref").and_then(|r| r.rsplit('/').next());
        Self {
            revision,
            name: text("name").unwrap_or("").into(),
            tenant: tenant.unwrap_or(ADMIN_TENANT).into(),
            is_system: object.get("system_default") == Some(&Value::Bool(true)),
            view: OnceLock::new(),
            object: object::fitted(object),
        }
    }

    /// Its name, or "".
    pub fn name(&self) -> &str {
        &self.name
    }

    /// uuid of the tenant that it belongs to; what belongs to none is tenant admin's.
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Made by the controller itself, and not to be deleted.
    pub fn is_system(&self) -> bool {
        self.is_system
    }

    /// True when a field of this object, of type `ty`, is this canonical reference.
    pub fn refers_to(&self, ty: &ObjectType, canonical: &str) -> bool {
        let mut found = false;
        object::visit_refs(ty, &self.object, &mut |_, value| {
            found |= value == canonical
        });
        found
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        Value::Object(self.object.clone()).to_string().into_bytes()
    }

    fn view<T: View>(&self, ty: &ObjectType) -> Result<Arc<T>, Unreadable> {
        let known = self.view.get().cloned();
        if let Some(known) = known.and_then(|v| v.downcast().ok()) {
            return Ok(known);
        }
        let full = object::with_defaults(ty, &self.object);
        let parsed: T = view::parse(&full).map_err(|e| Unreadable {
            ty: ty.name.clone(),
            name: self.name().to_owned(),
            why: e.to_string(),
        })?;
        let parsed = Arc::new(parsed);
        // The first view that is asked for stays.
        self.view.set(parsed.clone()).ok();
        Ok(parsed)
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

type Table = RedBlackTreeMapSync<Arc<str>, Arc<Stored>>;

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The store's revision.
    pub revision: u64,
    tables: BTreeMap<String, Table>,
    index: Index,
}

impl Snapshot {
    pub(super) fn new(revision: u64) -> Self {
        Self {
            revision,
            tables: BTreeMap::new(),
            index: Index::default(),
        }
    }

    /// `key` is `TYPE/UUID`.
    pub(super) fn load(&mut self, key: &str, object: Object, revision: u64) {
        if let Some((path, uuid)) = key.split_once('/') {
            self.insert(path, uuid, Stored::new(object, revision));
        }
    }

    pub(super) fn put(&mut self, path: &str, uuid: &str, object: Object) {
        self.insert(path, uuid, Stored::new(object, 0));
    }

    fn insert(&mut self, path: &str, uuid: &str, stored: Stored) {
        let table = self.tables.entry(path.to_owned()).or_default();
        let known = table.get_key_value(uuid);
        let before = known.map(|(_, stored)| stored.clone());
        let uuid: Arc<str> = known.map_or_else(|| uuid.into(), |(uuid, _)| uuid.clone());
        // What a newer version has stored is kept, and nothing can refer to it.
        if let Some(ty) = object_type(path) {
            let node = Node::new(ty, uuid.clone());
            let before = before.as_ref().map(|s| &s.object);
            self.index.change(ty, &node, before, Some(&stored.object));
        }
        table.insert_mut(uuid, Arc::new(stored));
    }

    pub(super) fn remove(&mut self, path: &str, uuid: &str) {
        let Some(table) = self.tables.get_mut(path) else {
            return;
        };
        if let Some((ty, (key, stored))) = object_type(path).zip(table.get_key_value(uuid)) {
            let node = Node::new(ty, key.clone());
            self.index.change(ty, &node, Some(&stored.object), None);
        }
        table.remove_mut(uuid);
    }

    pub(super) fn set_revision(&mut self, path: &str, uuid: &str, revision: u64) {
        let stored = self.tables.get_mut(path).and_then(|t| t.get_mut(uuid));
        if let Some(stored) = stored {
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
        table.flat_map(|t| t.iter().map(|(uuid, s)| (&**uuid, s)))
    }

    /// How many objects of a type there are.
    pub fn count(&self, path: &str) -> usize {
        self.tables.get(path).map_or(0, Table::size)
    }

    /// All objects of this type and name, by uuid.
    pub fn named<'a>(
        &'a self,
        path: &str,
        name: &str,
    ) -> impl Iterator<Item = (&'a str, &'a Arc<Stored>)> + use<'a> {
        let ty = object_type(path);
        let uuids = ty.map(|ty| (ty, self.index.named(ty, name)));
        let each = uuids
            .into_iter()
            .flat_map(|(ty, uuids)| uuids.map(move |uuid| (ty, uuid)));
        each.filter_map(|(ty, uuid)| Some((uuid, self.get(&ty.path, uuid)?)))
    }

    /// The first object of this type and name.
    pub fn by_name<'a>(&'a self, path: &str, name: &str) -> Option<(&'a str, &'a Arc<Stored>)> {
        self.named(path, name).next()
    }

    /// Type and uuid of who has this address in a VRF context: VsVips, and virtual services that send from it.
    pub fn users_of_address<'a>(
        &'a self,
        vrf: &view::Ref,
        address: IpAddr,
    ) -> impl Iterator<Item = (&'static str, &'a str)> + use<'a> {
        let all = self.index.addresses_from(&vrf.0, address);
        all.take_while(move |(here, _)| *here == address)
            .map(|(_, user)| user)
    }

    /// The addresses that they have, from this one on, lowest first.
    pub fn addresses_from<'a>(
        &'a self,
        vrf: &view::Ref,
        first: IpAddr,
    ) -> impl Iterator<Item = IpAddr> + use<'a> {
        let all = self.index.addresses_from(&vrf.0, first);
        all.map(|(address, _)| address)
    }

    /// The name of an object, for `#name` in references.
    pub fn name_of(&self, path: &str, uuid: &str) -> Option<&str> {
        self.get(path, uuid).map(|s| s.name())
    }

    /// A typed view, with defaults; `None` also for an object that does not fit, which is said in the log. Where a
    /// missing object would take something away, use [`Self::try_view`].
    pub fn view<T: View>(&self, path: &str, uuid: &str) -> Option<Arc<T>> {
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
    pub fn try_view<T: View>(&self, path: &str, uuid: &str) -> Result<Option<Arc<T>>, Unreadable> {
        let found = object_type(path).zip(self.get(path, uuid));
        found.map(|(ty, stored)| stored.view(ty)).transpose()
    }

    /// Typed views of all objects of a type.
    pub fn views<T: View>(&self, path: &str) -> Vec<Arc<T>> {
        let uuids = self.all(path).map(|(uuid, _)| uuid);
        uuids.filter_map(|uuid| self.view(path, uuid)).collect()
    }

    /// Typed views of the objects of a type whose field refers to an object.
    pub fn views_referring<T: View>(
        &self,
        path: &str,
        field: &str,
        target: &view::Ref,
    ) -> Vec<Arc<T>> {
        let uuids = self.referring(path, field, target);
        uuids.filter_map(|uuid| self.view(path, uuid)).collect()
    }

    /// The same, all of them or the one that cannot be read.
    ///
    /// # Errors
    /// See [`Self::try_view`].
    pub fn try_views_referring<T: View>(
        &self,
        path: &str,
        field: &str,
        target: &view::Ref,
    ) -> Result<Vec<Arc<T>>, Unreadable> {
        let uuids = self.referring(path, field, target);
        uuids
            .filter_map(|uuid| self.try_view(path, uuid).transpose())
            .collect()
    }

    fn referring<'a>(
        &'a self,
        path: &'a str,
        field: &'a str,
        target: &'a view::Ref,
    ) -> impl Iterator<Item = &'a str> {
        let refers = move |s: &Stored| {
            s.object.get(field).and_then(Value::as_str) == Some(target.0.as_str())
        };
        let all = self.index.referrers(&target.0);
        let here = all.filter(move |(ty, _)| *ty == path).map(|(_, uuid)| uuid);
        here.filter(move |uuid| self.get(path, uuid).is_some_and(|s| refers(s)))
    }

    /// Type and uuid of the objects that refer to this one, in any field.
    pub fn referring_to<'a>(
        &'a self,
        path: &str,
        uuid: &str,
    ) -> impl Iterator<Item = (&'static str, &'a str)> + use<'a> {
        self.index.referrers(&view::Ref::to(path, uuid).0)
    }

    /// Who refers to this object, as `Type name`.
    pub fn referrers(&self, ty: &ObjectType, uuid: &str) -> Vec<String> {
        let all = self.referring_to(&ty.path, uuid);
        let others = all.filter(|(path, other)| (*path, *other) != (ty.path.as_str(), uuid));
        let say = |(path, uuid): (&str, &str)| {
            let name = self.name_of(path, uuid)?;
            Some(format!("{} {name}", object_type(path)?.name))
        };
        others.filter_map(say).collect()
    }

    /// Who of those that `sees` lets through (type, uuid, object) refers to this object.
    pub fn referrers_seen(
        &self,
        path: &str,
        uuid: &str,
        sees: impl Fn(&str, &str, &Stored) -> bool,
    ) -> Referrers {
        let mut found = Referrers::new();
        for (ty, other) in self.referring_to(path, uuid) {
            if self.get(ty, other).is_some_and(|s| sees(ty, other, s)) {
                let here = view::Ref::to(ty, other).0;
                found.entry(ty.to_owned()).or_default().push(here);
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
