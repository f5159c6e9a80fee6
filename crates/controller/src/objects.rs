//! Typed access to the configuration objects in the store.
//!
//! One writer at a time: a change is prepared as a [`Draft`] on the current [`Snapshot`], every rule is checked on
//! the draft as a whole, and only then is it committed, compare-and-set, in one transaction. Readers take the
//! snapshot, which never changes under them. Objects are kept as written, references in the canonical form
//! `/api/TYPE/UUID`; defaults are filled in on read.

pub mod application;
mod author;
pub mod certificate;
mod cross;
mod index;
mod ipam;
mod normalise;
mod peer_networks;
mod planned;
pub mod pools;
pub mod refs;
mod revert;
mod snapshot;
pub mod transport;
mod vnics;

pub use author::{Author, CONFIRM_WITHIN};
pub use planned::Planned;
pub use snapshot::{Snapshot, Stored, Unreadable};

use crate::auth::token;
use crate::error::ApiError;
use crate::witness::{Committed, Seat};
use axum::http::StatusCode;
use model::object::{self, Object};
use model::schema::ObjectType;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use store::{Expect, Op, Store};
use tokio::sync::{Mutex, watch};

/// Prefix of the objects' keys: `/object/TYPE/UUID`.
pub const PREFIX: &str = "/object/";

/// See the module's documentation.
pub struct Objects {
    store: Arc<dyn Store>,
    writing: Mutex<()>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    touched: std::sync::Mutex<Touched>,
    /// Who is told of commits.
    pub witness: Seat,
}

/// Objects that were written, by type and uuid.
#[derive(Debug)]
pub enum Touched {
    /// These.
    These(BTreeSet<(&'static str, String)>),
    /// So many that nobody kept count.
    Many,
}

/// Objects that are remembered as written; beyond it, looking at all of them is no more work.
const TOUCHED_MAX: usize = 10_000;

impl Touched {
    fn add(&mut self, keys: impl Iterator<Item = (&'static str, String)>) {
        if let Self::These(known) = self {
            known.extend(keys);
            if known.len() > TOUCHED_MAX {
                *self = Self::Many;
            }
        }
    }
}

impl Default for Touched {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

/// A change in preparation.
pub struct Draft {
    /// The objects as they would be.
    pub snapshot: Snapshot,
    touched: BTreeMap<(&'static str, String), Option<u64>>,
    /// uuids of VsVips that ask for addresses, in the order of the writes.
    asking: Vec<String>,
    /// Writes of state that is no object, in the same transaction.
    beside: Vec<Op>,
}

impl Draft {
    /// Commits this write, too, if the change is committed: of state that is no object.
    pub fn beside(&mut self, op: Op) {
        self.beside.push(op);
    }

    fn touch(&mut self, path: &'static str, uuid: &str) {
        let before = self.snapshot.get(path, uuid).map(|s| s.revision);
        self.touched
            .entry((path, uuid.to_owned()))
            .or_insert(before);
    }

    /// Adds or replaces an object that is already normalised.
    pub fn put(&mut self, ty: &'static ObjectType, uuid: &str, object: Object) {
        self.touch(&ty.path, uuid);
        if ty.name == "VsVip" && ipam::is_asking(&object) {
            self.asking.push(uuid.to_owned());
        }
        self.snapshot.put(&ty.path, uuid, object);
    }

    /// Takes an object out.
    pub fn remove(&mut self, ty: &'static ObjectType, uuid: &str) {
        self.touch(&ty.path, uuid);
        self.snapshot.remove(&ty.path, uuid);
    }

    /// Normalises the body, checks it, and adds it as a new object; gives its uuid.
    ///
    /// # Errors
    /// Everything that is wrong with it, by field.
    pub fn create(
        &mut self,
        ty: &'static ObjectType,
        body: Object,
        uuid: Option<String>,
        author: &Author,
    ) -> Result<String, ApiError> {
        let uuid = uuid.unwrap_or_else(|| format!("{}-{}", ty.path, uuid::Uuid::new_v4()));
        if self.snapshot.get(&ty.path, &uuid).is_some() {
            let text = format!("{} {uuid} exists already", ty.name);
            return Err(ApiError::new(StatusCode::CONFLICT, text));
        }
        let mut object = normalise::for_create(self, ty, body, author)?;
        self.finish(ty, &uuid, &mut object)?;
        self.put(ty, &uuid, object);
        Ok(uuid)
    }

    /// Replaces an object by the body, with the softenings of avi-api section 6.
    ///
    /// # Errors
    /// Everything that is wrong with it, by field; 412 when `_last_modified` is stale.
    pub fn update(
        &mut self,
        ty: &'static ObjectType,
        uuid: &str,
        body: Object,
        author: &Author,
    ) -> Result<(), ApiError> {
        let stored = self.snapshot.require(ty, uuid)?;
        check_fresh(ty, &stored.object, &body)?;
        let mut object = normalise::for_update(self, ty, &stored.object, body, author)?;
        self.finish(ty, uuid, &mut object)?;
        self.put(ty, uuid, object);
        Ok(())
    }

    fn finish(
        &self,
        ty: &'static ObjectType,
        uuid: &str,
        object: &mut Object,
    ) -> Result<(), ApiError> {
        let full = object::with_defaults(ty, object);
        object::validate(ty, &full).map_err(|e| ApiError::fields(&e))?;
        self.check_name(ty, uuid, object)?;
        object.insert("uuid".into(), uuid.into());
        object.insert("_last_modified".into(), self.snapshot.stamp().into());
        check_password(ty, object)?;
        check_view(ty, object)
    }

    /// Names are unique per type, tenant and, where the type has one, cloud.
    fn check_name(
        &self,
        ty: &'static ObjectType,
        uuid: &str,
        object: &Object,
    ) -> Result<(), ApiError> {
        let same = |other: &Object| {
            ["name", "tenant_ref", "cloud_ref"]
                .iter()
                .all(|k| other.get(*k) == object.get(*k))
        };
        let name = object.get("name").and_then(Value::as_str).unwrap_or("");
        let mut named = self.snapshot.named(&ty.path, name);
        if !named.any(|(other, s)| other != uuid && same(&s.object)) {
            return Ok(());
        }
        let text = format!(
            "name: {} with name {name:?} exists already; choose another name or change that object",
            ty.name
        );
        Err(ApiError::new(StatusCode::CONFLICT, text))
    }

    /// Takes an object out if nothing refers to it and it is no system object.
    ///
    /// # Errors
    /// 404, or who refers to it.
    pub fn delete(&mut self, ty: &'static ObjectType, uuid: &str) -> Result<(), ApiError> {
        let stored = self.snapshot.require(ty, uuid)?;
        if stored.is_system() {
            let text = format!("Cannot delete system default object {}", stored.name());
            return Err(ApiError::new(StatusCode::FORBIDDEN, text));
        }
        if ty.name == "Cloud" {
            self.remove_cloud_parts(uuid)?;
        }
        self.check_unused(ty, uuid)?;
        self.remove(ty, uuid);
        if ty.name == "VirtualService" {
            self.remove_its_vsvip(&stored.object);
        }
        Ok(())
    }

    fn check_unused(&self, ty: &ObjectType, uuid: &str) -> Result<(), ApiError> {
        let referrers = self.snapshot.referrers(ty, uuid);
        if referrers.is_empty() {
            return Ok(());
        }
        let text = format!("Cannot delete, object is referred by: {referrers:?}").replace('"', "'");
        Err(ApiError::new(StatusCode::CONFLICT, text))
    }

    /// What came with a cloud goes with it, as long as nothing else uses it.
    fn remove_cloud_parts(&mut self, cloud: &str) -> Result<(), ApiError> {
        let here = Value::from(model::view::Ref::to("cloud", cloud).0);
        for path in ["vrfcontext", "serviceenginegroup"] {
            let ty = model::schema::object_type(path).expect("in the schema");
            let all = self.snapshot.all(path);
            let parts: Vec<String> = all
                .filter(|(_, s)| s.is_system() && s.object.get("cloud_ref") == Some(&here))
                .map(|(uuid, _)| uuid.to_owned())
                .collect();
            for part in parts {
                self.check_unused(ty, &part)?;
                self.remove(ty, &part);
            }
        }
        Ok(())
    }

    /// The VsVip that was made for an inline `vip` goes with its virtual service, unless others share it by now
    /// (avi-api section 12).
    fn remove_its_vsvip(&mut self, vs: &Object) {
        let ty = model::schema::object_type("vsvip").expect("in the schema");
        let reference = vs.get("vsvip_ref").and_then(Value::as_str);
        let Some(uuid) = reference.and_then(|r| r.rsplit('/').next()) else {
            return;
        };
        let stored = self.snapshot.get(&ty.path, uuid);
        let ours = stored.is_some_and(|s| {
            s.object.get("created_by").and_then(Value::as_str) == Some(model::view::MADE_FOR_VS)
        });
        if ours && self.snapshot.referrers(ty, uuid).is_empty() {
            self.remove(ty, uuid);
        }
    }
}

/// Only the hash of a user's password is stored.
fn check_password(ty: &ObjectType, object: &Object) -> Result<(), ApiError> {
    let password = object.get("password").filter(|_| ty.name == "User");
    let is_hash = |value: &Value| {
        value
            .as_str()
            .is_some_and(|text| text.starts_with("$argon2"))
    };
    match password {
        Some(value) if !is_hash(value) => Err(ApiError::bad_request(
            "password: is set with POST and PUT of /api/user alone",
        )),
        _ => Ok(()),
    }
}

/// What the product could not read must not be stored: it would be missing wherever it acts.
fn check_view(ty: &ObjectType, object: &Object) -> Result<(), ApiError> {
    let full = object::with_defaults(ty, object);
    model::view::check(ty, &full)
        .map_err(|e| ApiError::bad_request(format!("{}: {e}; correct that field", ty.name)))
}

/// 412 when the body was read from an older state (avi-api section 6).
fn check_fresh(ty: &ObjectType, stored: &Object, body: &Object) -> Result<(), ApiError> {
    match body.get("_last_modified") {
        Some(read) if Some(read) != stored.get("_last_modified") => {
            let text = format!("Need to reload object data {}", ty.name);
            Err(ApiError::new(StatusCode::PRECONDITION_FAILED, text))
        }
        _ => Ok(()),
    }
}

impl Objects {
    /// Reads everything from the store.
    ///
    /// # Errors
    /// The store refuses, or holds something that is no object.
    pub async fn open(store: Arc<dyn Store>) -> Result<Self, ApiError> {
        let listing = store.list(PREFIX).await?;
        let mut snapshot = Snapshot::new(listing.revision);
        for entry in &listing.entries {
            let object: Object = serde_json::from_slice(&entry.value)
                .map_err(|e| ApiError::internal(&format!("reading {}", entry.key), &e))?;
            snapshot.load(&entry.key[PREFIX.len()..], object, entry.revision);
        }
        Ok(Self {
            store,
            writing: Mutex::new(()),
            snapshot: watch::Sender::new(Arc::new(snapshot)),
            touched: std::sync::Mutex::default(),
            witness: Seat::default(),
        })
    }

    /// The objects as of now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// The store behind them, for state that is no object.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Tells reconcilers that something changed.
    pub fn changed(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.subscribe()
    }

    /// Prepares a change with `f` and commits it; nothing happens when `f` or a rule says no. In a dry run nothing
    /// happens either: who asked for it gets what was checked from its author, and whoever called goes no further.
    ///
    /// # Errors
    /// That it is a dry run; what `f` says, what the rules across objects say, or what the store says.
    pub async fn change<T>(
        &self,
        author: &Author,
        message: &str,
        f: impl FnOnce(&mut Draft) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let _one_at_a_time = self.writing.lock().await;
        let mut draft = Draft {
            snapshot: (*self.snapshot()).clone(),
            touched: BTreeMap::new(),
            asking: Vec::new(),
            beside: Vec::new(),
        };
        let result = f(&mut draft)?;
        draft.allocate()?;
        if draft.touched.is_empty() && draft.beside.is_empty() && !author.dry_run {
            return Ok(result);
        }
        let before = self.snapshot();
        for (path, uuid) in draft.touched.keys() {
            cross::check(&before, &draft.snapshot, path, uuid)?;
        }
        if author.dry_run {
            return Err(author.keep(Planned::of(self.snapshot(), draft)));
        }
        self.commit(draft, author, message).await?;
        Ok(result)
    }

    /// A user's API tokens go with him, whichever way he goes.
    async fn with_users_gone(&self, draft: &Draft) -> Result<Vec<Op>, ApiError> {
        let mut ops = Vec::new();
        let users = draft.touched.keys().filter(|(path, _)| *path == "user");
        for (path, uuid) in users {
            if draft.snapshot.get(path, uuid).is_none() {
                ops.extend(token::forget(&*self.store, uuid).await?);
            }
        }
        Ok(ops)
    }

    async fn commit(&self, draft: Draft, author: &Author, message: &str) -> Result<(), ApiError> {
        let mut ops = Vec::new();
        for ((path, uuid), before) in &draft.touched {
            let key = format!("{PREFIX}{path}/{uuid}");
            let expect = before.map_or(Expect::Absent, Expect::Revision);
            let value = draft.snapshot.get(path, uuid).map(|s| s.to_bytes());
            ops.push(Op { key, value, expect });
        }
        ops.extend(self.with_users_gone(&draft).await?);
        ops.extend(author.to_confirm());
        ops.extend(draft.beside);
        let revision = self.store.commit(ops, author.meta(message)).await?;
        author.has_written(revision);
        tracing::debug!(who = author.who, message, revision, "configuration changed");
        let mut snapshot = draft.snapshot;
        for (path, uuid) in draft.touched.keys() {
            snapshot.set_revision(path, uuid, revision);
        }
        snapshot.revision = revision;
        let after = Arc::new(snapshot);
        // Under one lock, under which both are taken, too.
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.snapshot.send_replace(after.clone());
        touched.add(draft.touched.keys().cloned());
        drop(touched);
        let touched = draft.touched.keys();
        let commit = Committed {
            author,
            revision,
            before: &before,
            after: &after,
            touched: touched.map(|(path, uuid)| (*path, uuid.as_str())).collect(),
        };
        self.witness.tell(|w| w.committed(&commit));
        Ok(())
    }

    /// What was written since it was last asked, and the objects with all of that and nothing else in them; for one reader,
    /// the planner.
    pub fn take_touched(&self) -> (Touched, Arc<Snapshot>) {
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut *touched), self.snapshot())
    }
}
