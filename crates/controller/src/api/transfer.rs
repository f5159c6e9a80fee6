//! Several objects in one change, and the configuration as one file.
//!
//! An export has every object with its uuid, references canonical, secrets masked. An import brings them in as one
//! change: an object of the same uuid, else of the same name, is updated, any other is created with its uuid; what
//! the file does not have stays. Where an object has another uuid here, references to it follow.

use super::operation::{self, Call};
use super::{cluster, ok, parse, resources, singleton, users};
use crate::access::{self, Level};
use crate::bootstrap;
use crate::error::ApiError;
use crate::objects::{Author, Draft, Snapshot};
use axum::http::StatusCode;
use axum::response::Response;
use model::object::{self, MASK, Object};
use model::schema::{ObjectType, object_type};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Version of the file's form, under the key that tells what file it is.
const VERSION: u64 = 1;
const MARK: &str = "evenkeel_export";

/// One of several writes, checked as far as it can be without the others.
struct Write {
    ty: &'static ObjectType,
    /// None: a new object.
    uuid: Option<String>,
    object: Object,
}

/// `POST /api/ek/change`: `{"writes": [{"type", "object"}, {"type", "uuid", "object"}, …]}` creates, and replaces where
/// there is a uuid, all of it or nothing. Later ones may refer to earlier ones by name. Each takes the right that it takes
/// alone.
pub(super) async fn change(call: &Call<'_>) -> Result<Response, ApiError> {
    let mut body = parse(&call.body)?;
    let Some(Value::Array(list)) = body.shift_remove("writes") else {
        return Err(ApiError::bad_request(
            "writes: is missing or no list; write [{\"type\": …, \"object\": {…}}]",
        ));
    };
    let mut writes = Vec::new();
    for (i, write) in list.into_iter().enumerate() {
        writes.push(Write::read(call, write).await.map_err(|e| at(i, e))?);
    }
    let author = &call.context.author;
    let message = match writes.as_slice() {
        [Write { ty, .. }] => format!("change of a {}", ty.path),
        several => format!("change of {} objects", several.len()),
    };
    let apply = |draft: &mut Draft| {
        let each = writes.iter().enumerate();
        let done = each.map(|(i, write)| write.apply(call, draft).map_err(|e| at(i, e)));
        done.collect::<Result<Vec<_>, _>>()
    };
    let done = call.app.objects.change(author, &message, apply).await?;
    for write in &writes {
        if let Some(uuid) = &write.uuid {
            users::changed(call, write.ty, uuid);
        }
    }
    Ok(ok(json!({"revision": author.written(), "objects": done})))
}

/// Says which of the writes it is.
fn at(index: usize, error: ApiError) -> ApiError {
    ApiError::new(error.status, format!("writes[{index}]: {}", error.text))
}

impl Write {
    async fn read(call: &Call<'_>, mut write: Value) -> Result<Self, ApiError> {
        let ty = resources::known(write.get("type").and_then(Value::as_str).unwrap_or(""))?;
        let uuid = write.get("uuid").and_then(Value::as_str).map(str::to_owned);
        let target = (ty.path.as_str(), uuid.as_deref().unwrap_or(""));
        if !operation::may(call.app, call.context, Level::Write, target)? {
            let (user, resource) = (&call.context.access.user, access::resource(&ty.path));
            let text = format!(
                "{user} may not write a {}: {resource} is missing in his roles",
                ty.path
            );
            return Err(ApiError::new(StatusCode::FORBIDDEN, text));
        }
        let Some(Value::Object(object)) = write.get_mut("object").map(Value::take) else {
            return Err(ApiError::bad_request(
                "object: is missing; write the object's fields",
            ));
        };
        let object = users::prepare(call, ty, object).await?;
        Ok(Self { ty, uuid, object })
    }

    fn apply(&self, call: &Call<'_>, draft: &mut Draft) -> Result<Value, ApiError> {
        let Self { ty, uuid, object } = self;
        let author = &call.context.author;
        // Kept only where it is looked at: a second hand on the objects makes each write a copy.
        let grants = ["user", "role"].contains(&ty.path.as_str());
        let before = grants.then(|| draft.snapshot.clone());
        let (uuid, result) = match uuid {
            Some(uuid) => {
                draft.update(ty, uuid, object.clone(), author)?;
                (uuid.clone(), "updated")
            }
            None => {
                let uuid = create(draft, ty, object.clone(), None, author)?;
                resources::check_owner(call, draft, ty, &uuid)?;
                (uuid, "created")
            }
        };
        if let Some(before) = before {
            users::check_grants(call, &before, draft, ty, &uuid)?;
        }
        Ok(outcome(draft, ty, &uuid, result))
    }
}

fn create(
    draft: &mut Draft,
    ty: &'static ObjectType,
    mut object: Object,
    uuid: Option<String>,
    author: &Author,
) -> Result<String, ApiError> {
    // The controller's word for its own objects.
    object.shift_remove("system_default");
    let uuid = draft.create(ty, object, uuid, author)?;
    if ty.path == "cloud" {
        bootstrap::ensure_cloud_parts(draft, author, &uuid)?;
    }
    Ok(uuid)
}

fn outcome(draft: &Draft, ty: &ObjectType, uuid: &str, result: &str) -> Value {
    let name = draft.snapshot.name_of(&ty.path, uuid);
    json!({"type": ty.path, "uuid": uuid, "name": name, "result": result})
}

/// `GET /api/ek/export`.
pub(super) fn export(call: &Call<'_>) -> Value {
    let snapshot = call.app.objects.snapshot();
    let singletons = singleton::ALL.map(|(path, _)| path);
    let types = resources::RESOURCES.iter().chain(&singletons);
    let all = types.filter_map(|path| {
        let ty = object_type(path)?;
        let objects = snapshot.all(path);
        let objects: Vec<_> = objects.map(|(_, s)| exported(ty, &s.object)).collect();
        Some(((*path).to_owned(), Value::from(objects)))
    });
    json!({
        MARK: VERSION,
        "version": cluster::version(),
        "revision": snapshot.revision,
        "secrets": "masked; a backup has them",
        "objects": all.collect::<Object>(),
    })
}

/// As stored, without secrets and what the controller itself fills in.
fn exported(ty: &ObjectType, stored: &Object) -> Value {
    let mut object = stored.clone();
    object::strip_server_owned(ty, &mut object);
    object.shift_remove("_last_modified");
    object::hide_secrets(ty, &mut object);
    object.into()
}

/// An object of a file.
struct Item {
    ty: &'static ObjectType,
    uuid: String,
    object: Object,
}

impl Item {
    fn key(&self) -> Key {
        (self.ty.path.clone(), self.uuid.clone())
    }
}

/// Type and uuid.
type Key = (String, String);

/// `POST /api/ek/import` of what `GET /api/ek/export` gave.
pub(super) async fn import(call: &Call<'_>) -> Result<Response, ApiError> {
    let items = items(parse(&call.body)?)?;
    let author = &call.context.author;
    let message = format!("import of {} objects", items.len());
    let mut import = Import {
        author,
        in_file: items.iter().map(Item::key).collect(),
        here: BTreeMap::new(),
        results: Vec::new(),
        without_secrets: Vec::new(),
    };
    let objects = &call.app.objects;
    objects
        .change(author, &message, |d| import.run(d, items))
        .await?;
    Ok(ok(json!({
        "revision": author.written(),
        "objects": import.results,
        "secrets_missing": import.without_secrets,
    })))
}

fn items(mut file: Object) -> Result<Vec<Item>, ApiError> {
    match file.get(MARK).and_then(Value::as_u64) {
        Some(VERSION) => {}
        Some(version) => {
            let text = format!(
                "{MARK}: is {version}, this controller knows {VERSION}: use a newer program"
            );
            return Err(ApiError::bad_request(text));
        }
        None => {
            let text = format!("{MARK}: is missing: this is no file of `evenkeel export`");
            return Err(ApiError::bad_request(text));
        }
    }
    let Some(Value::Object(types)) = file.shift_remove("objects") else {
        return Err(ApiError::bad_request("objects: is missing; export again"));
    };
    let lists = types.into_iter().map(|(path, list)| of_type(&path, list));
    let lists: Vec<_> = lists.collect::<Result<_, _>>()?;
    Ok(lists.into_iter().flatten().collect())
}

fn of_type(path: &str, list: Value) -> Result<Vec<Item>, ApiError> {
    let ty = singleton::known(path).map_or_else(|| resources::known(path), Ok)?;
    let Value::Array(list) = list else {
        return Err(ApiError::bad_request(format!(
            "objects.{path}: is no list; export again"
        )));
    };
    let each = list.into_iter().enumerate();
    let items = each.map(|(i, value)| match value {
        Value::Object(object) => match object.get("uuid").and_then(Value::as_str) {
            Some(uuid) if is_uuid(uuid) => Ok(Item {
                ty,
                uuid: uuid.to_owned(),
                object,
            }),
            _ => Err(ApiError::bad_request(format!(
                "objects.{path}[{i}].uuid: is missing or none; use up to 128 of A-Z a-z 0-9 _ -"
            ))),
        },
        _ => Err(ApiError::bad_request(format!(
            "objects.{path}[{i}]: is no object; export again"
        ))),
    });
    items.collect()
}

fn is_uuid(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=128).contains(&text.len()) && text.bytes().all(fits)
}

struct Import<'a> {
    author: &'a Author,
    in_file: BTreeSet<Key>,
    /// uuid in the file → uuid here, of those that are done.
    here: BTreeMap<Key, String>,
    results: Vec<Value>,
    without_secrets: Vec<String>,
}

impl Import<'_> {
    /// What others refer to comes first, whatever the order in the file.
    fn run(&mut self, draft: &mut Draft, items: Vec<Item>) -> Result<(), ApiError> {
        let mut todo = items;
        while !todo.is_empty() {
            let (ready, later): (Vec<_>, Vec<_>) = todo.into_iter().partition(|i| self.is_ready(i));
            if ready.is_empty() {
                let names: Vec<_> = later.iter().map(label).collect();
                let text = format!(
                    "objects refer to each other in a circle: {}",
                    names.join(", ")
                );
                return Err(ApiError::bad_request(text));
            }
            for item in ready {
                let name = label(&item);
                let done = self.place(draft, item);
                done.map_err(|e| ApiError::new(e.status, format!("{name}: {}", e.text)))?;
            }
            todo = later;
        }
        Ok(())
    }

    fn is_ready(&self, item: &Item) -> bool {
        let own = item.key();
        let references = object::references(item.ty, &item.object);
        let mut keys = references.iter().map(|r| key_of(r.target, &r.value));
        keys.all(|key| key == own || !self.in_file.contains(&key) || self.here.contains_key(&key))
    }

    fn place(&mut self, draft: &mut Draft, mut item: Item) -> Result<(), ApiError> {
        let key = item.key();
        object::map_refs(item.ty, &mut item.object, &mut |r| {
            let known = self.here.get(&key_of(r.target, &r.value));
            known.map_or_else(
                || r.value.clone(),
                |uuid| model::view::Ref::to(r.target, uuid).0,
            )
        });
        let there = find(&draft.snapshot, &item);
        let (uuid, result) = self.write(draft, &item, there)?;
        let stored = draft.snapshot.require(item.ty, &uuid)?;
        let now = exported(item.ty, &stored.object);
        let is_less = masks(&now) < masks(&Value::Object(item.object.clone()));
        if is_less || result == "created" && lacks_hidden(item.ty, &stored.object) {
            self.without_secrets.push(label(&item));
        }
        self.results.push(outcome(draft, item.ty, &uuid, result));
        self.here.insert(key, uuid);
        Ok(())
    }

    fn write(
        &self,
        draft: &mut Draft,
        item: &Item,
        there: Option<String>,
    ) -> Result<(String, &'static str), ApiError> {
        let Item { ty, uuid, object } = item;
        let Some(there) = there else {
            let made = create(draft, ty, object.clone(), Some(uuid.clone()), self.author)?;
            return Ok((made, "created"));
        };
        let stored = draft.snapshot.require(ty, &there)?;
        if stored.is_system() && ty.name == "SSLKeyAndCertificate" {
            // Each controller has made its own pair, and the file has only half of another one.
            return Ok((there, "unchanged"));
        }
        let mut wanted = object.clone();
        wanted.insert("uuid".into(), there.as_str().into());
        if without_masks(exported(ty, &stored.object)) == without_masks(exported(ty, &wanted)) {
            return Ok((there, "unchanged"));
        }
        wanted.shift_remove("_last_modified");
        draft.update(ty, &there, wanted, self.author)?;
        Ok((there, "updated"))
    }
}

/// The object here that an object of the file is: the same uuid, else the same name in the same tenant and cloud.
fn find(snapshot: &Snapshot, item: &Item) -> Option<String> {
    if snapshot.get(&item.ty.path, &item.uuid).is_some() {
        return Some(item.uuid.clone());
    }
    let name = item.object.get("name").and_then(Value::as_str);
    let mut named = snapshot.named(&item.ty.path, name.unwrap_or(""));
    let same = named.find(|(_, s)| {
        let fields = ["name", "tenant_ref", "cloud_ref"];
        fields
            .iter()
            .all(|f| s.object.get(*f) == item.object.get(*f))
    });
    same.map(|(uuid, _)| uuid.to_owned())
}

fn key_of(target: &str, reference: &str) -> Key {
    let uuid = reference.rsplit('/').next().unwrap_or("");
    (target.to_owned(), uuid.to_owned())
}

fn label(item: &Item) -> String {
    let name = item.object.get("name").and_then(Value::as_str);
    format!("{} {}", item.ty.name, name.unwrap_or(&item.uuid))
}

/// A masked or missing secret says nothing: it keeps what is there.
fn without_masks(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.retain(|_, v| v != MASK);
            for field in fields.values_mut() {
                *field = without_masks(field.take());
            }
        }
        Value::Array(items) => {
            for item in items {
                *item = without_masks(item.take());
            }
        }
        _ => {}
    }
    value
}

/// True when a secret is missing of which an export does not even say that there is one.
fn lacks_hidden(ty: &ObjectType, stored: &Object) -> bool {
    let secrets = ["key", "password"];
    let mut hidden = ty
        .fields
        .iter()
        .filter(|f| secrets.contains(&f.name.as_str()) && f.secret.is_some());
    hidden.any(|f| !stored.contains_key(&f.name))
}

/// How many secrets a value has, masked.
fn masks(value: &Value) -> usize {
    match value {
        Value::String(text) => usize::from(text == MASK),
        Value::Array(items) => items.iter().map(masks).sum(),
        Value::Object(fields) => fields.values().map(masks).sum(),
        _ => 0,
    }
}
