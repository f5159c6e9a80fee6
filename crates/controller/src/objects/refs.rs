//! References in every form that clients write (avi-api 5.1), and their canonical form `/api/TYPE/UUID`.

use super::{Snapshot, Stored};
use crate::access::{ADMIN_TENANT, is_seen_in};
use model::object::{self, Object};
use model::schema::{ObjectType, object_type};
use model::view::Ref;
use serde_json::Value;

/// Resolves a reference to an object of type `target`, as seen from tenant admin; gives its uuid.
///
/// # Errors
/// The words that clients match: `VsVip object not found!`.
pub fn resolve(snapshot: &Snapshot, target: &str, text: &str) -> Result<String, String> {
    resolve_for(snapshot, "admin", target, text)
}

/// Resolves a reference as seen from a tenant: of two objects with the name, his own is meant, then that of tenant
/// admin.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_for(
    snapshot: &Snapshot,
    tenant: &str,
    target: &str,
    text: &str,
) -> Result<String, String> {
    let type_name = object_type(target).map_or(target, |t| t.name.as_str());
    let missing = || format!("{type_name} object not found! ({text})");
    let is_seen = |stored: &Stored| tenant == ADMIN_TENANT || is_seen_in(tenant, target, stored);
    let Some(start) = text.find("/api/") else {
        let uuid = text.split('#').next().unwrap_or(text);
        let found = snapshot.get(target, uuid).filter(|s| is_seen(s));
        return found.map(|_| uuid.to_owned()).ok_or_else(missing);
    };
    let written = &text[start + 5..];
    let (path, query) = match written.split_once('?') {
        // A name in a query may contain the character that elsewhere begins a comment.
        Some((path, query)) => (path, Some(query)),
        None => (written.split('#').next().unwrap_or(written), None),
    };
    let mut parts = path.split('/').filter(|p| !p.is_empty());
    let kind = parts.next().unwrap_or_default();
    if kind != target {
        return Err(format!("{text} refers to {kind:?}, a {target} is needed"));
    }
    match (parts.next(), query) {
        (Some(uuid), _) if snapshot.get(target, uuid).is_some_and(|s| is_seen(s)) => {
            Ok(uuid.to_owned())
        }
        (None, Some(query)) => by_query(snapshot, tenant, target, query).ok_or_else(missing),
        _ => Err(missing()),
    }
}

/// Makes every reference of the object canonical that leads somewhere; the others stay as written.
pub fn settle(snapshot: &Snapshot, tenant: &str, ty: &ObjectType, object: &mut Object) {
    object::map_refs(ty, object, &mut |reference| {
        let target = reference.target;
        let found = resolve_for(snapshot, tenant, target, &reference.value);
        found.map_or_else(|_| reference.value.clone(), |uuid| Ref::to(target, &uuid).0)
    });
}

/// The form of a reference that names its target: `/api/pool?name=web%20pool`.
pub fn by_name_form(target: &str, name: &str) -> String {
    let escaped = name
        .replace('%', "%25")
        .replace('+', "%2B")
        .replace('&', "%26");
    format!("/api/{target}?name={escaped}")
}

/// `name=N`, `tenant=T&name=N&cloud=C`.
fn by_query(snapshot: &Snapshot, tenant: &str, target: &str, query: &str) -> Option<String> {
    let value = |key: &str| {
        let mut pairs = query.split('&').filter_map(|p| p.split_once('='));
        pairs.find(|(k, _)| *k == key).map(|(_, v)| decode(v))
    };
    let (name, cloud, owner) = (value("name")?, value("cloud"), value("tenant"));
    let uuid_in = |stored: &Stored, field: &str| {
        let text = stored.object.get(field).and_then(Value::as_str);
        text.and_then(|r| r.rsplit('/').next()).map(str::to_owned)
    };
    let fits = |stored: &Stored, field: &str, path: &str, wanted: &Option<String>| {
        let (Some(wanted), Some(uuid)) = (wanted, uuid_in(stored, field)) else {
            return true;
        };
        snapshot.name_of(path, &uuid) == Some(wanted)
    };
    let found = snapshot.named(target, &name).filter(|(_, s)| {
        (tenant == ADMIN_TENANT || is_seen_in(tenant, target, s))
            && fits(s, "cloud_ref", "cloud", &cloud)
            && fits(s, "tenant_ref", "tenant", &owner)
    });
    let rank = |stored: &Stored| match uuid_in(stored, "tenant_ref") {
        Some(t) if t == tenant => 0,
        Some(t) if t != "admin" => 2,
        _ => 1,
    };
    let nearest = found.min_by_key(|(_, s)| rank(s));
    nearest.map(|(uuid, _)| uuid.to_owned())
}

/// Percent-encoding and `+`, as in a query.
pub fn decode(text: &str) -> String {
    decode_path(&text.replace('+', " "))
}

/// Percent-encoding alone, as in a path.
pub fn decode_path(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = bytes
            .get(i + 1..i + 3)
            .and_then(|h| std::str::from_utf8(h).ok());
        match (bytes[i], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                i += 2;
            }
            (byte, _) => out.push(byte),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}
