//! References in every form that clients write (avi-api 5.1), and their canonical form `/api/TYPE/UUID`.

use super::Snapshot;
use model::schema::object_type;

/// Resolves a reference to an object of type `target`; gives its uuid.
///
/// # Errors
/// The words that clients match: `VsVip object not found!`.
pub fn resolve(snapshot: &Snapshot, target: &str, text: &str) -> Result<String, String> {
    let type_name = object_type(target).map_or(target, |t| t.name.as_str());
    let missing = || format!("{type_name} object not found! ({text})");
    let text = text.split('#').next().unwrap_or(text);
    let Some(start) = text.find("/api/") else {
        let found = snapshot.get(target, text).map(|_| text.to_owned());
        return found.ok_or_else(missing);
    };
    let (path, query) = match text[start + 5..].split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (&text[start + 5..], None),
    };
    let mut parts = path.split('/').filter(|p| !p.is_empty());
    let written = parts.next().unwrap_or_default();
    if written != target {
        return Err(format!(
            "{text} refers to {written:?}, a {target} is needed"
        ));
    }
    match (parts.next(), query) {
        (Some(uuid), _) if snapshot.get(target, uuid).is_some() => Ok(uuid.to_owned()),
        (None, Some(query)) => by_query(snapshot, target, query).ok_or_else(missing),
        _ => Err(missing()),
    }
}

/// `name=N`, `tenant=T&name=N&cloud=C`.
fn by_query(snapshot: &Snapshot, target: &str, query: &str) -> Option<String> {
    let value = |key: &str| {
        let pairs = query.split('&').filter_map(|p| p.split_once('='));
        pairs
            .filter(|(k, _)| *k == key)
            .map(|(_, v)| decode(v))
            .next()
    };
    let (name, cloud) = (value("name")?, value("cloud"));
    let in_cloud = |stored: &super::Stored| {
        let Some(cloud) = &cloud else { return true };
        let cloud_ref = stored.object.get("cloud_ref").and_then(|v| v.as_str());
        let uuid = cloud_ref.and_then(|r| r.rsplit('/').next());
        uuid.is_none_or(|u| snapshot.name_of("cloud", u) == Some(cloud))
    };
    let mut all = snapshot.all(target);
    let found = all.find(|(_, s)| s.name() == name && in_cloud(s));
    found.map(|(uuid, _)| uuid.to_owned())
}

/// Percent-encoding and `+`, as in a query.
pub fn decode(text: &str) -> String {
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
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}
