//! Filters, order and pages of a collection (avi-api 5.3). Unknown parameters are ignored.

use super::context::Context;
use crate::objects::{Snapshot, Stored};
use model::schema::ObjectType;
use serde_json::{Value, json};
use std::sync::Arc;

/// Parameters that are no field filters.
const RESERVED: [&str; 17] = [
    "name",
    "uuid",
    "fields",
    "exclude",
    "include_name",
    "include_refs",
    "skip_default",
    "join_subresources",
    "search",
    "isearch",
    "sort",
    "page",
    "page_size",
    "limit_by",
    "cloud_uuid",
    "cloud",
    "include",
];
const PAGE_SIZE: usize = 25;
const PAGE_SIZE_MAX: usize = 200;

/// True when the object passes every filter of the query.
pub(super) fn matches(
    snapshot: &Snapshot,
    ty: &ObjectType,
    uuid: &str,
    stored: &Stored,
    context: &Context,
) -> bool {
    context.sees(&ty.path, uuid, stored)
        && context.query.iter().all(|(key, value)| match key.as_str() {
            "name" => stored.name() == value,
            "name.contains" => stored.name().contains(value.as_str()),
            "name.icontains" | "isearch" => {
                stored.name().to_lowercase().contains(&value.to_lowercase())
            }
            "search" => stored.name().contains(value.as_str()),
            "name.in" => value.split(',').any(|n| n == stored.name()),
            "uuid" => uuid == value,
            "uuid.in" => value.split(',').any(|u| u == uuid),
            "cloud_uuid" => refers(snapshot, stored, "cloud_ref", "cloud", value, false),
            "cloud" => refers(snapshot, stored, "cloud_ref", "cloud", value, true),
            key if RESERVED.contains(&key) => true,
            key => field_matches(snapshot, ty, stored, key, value),
        })
}

fn field_matches(
    snapshot: &Snapshot,
    ty: &ObjectType,
    stored: &Stored,
    key: &str,
    value: &str,
) -> bool {
    let (field, part) = key.split_once('.').unwrap_or((key, ""));
    let Some(known) = ty.field(field) else {
        return true;
    };
    if let model::schema::Kind::Ref(target) = &known.kind {
        let Some(target) = model::schema::message(target) else {
            return true;
        };
        return refers(snapshot, stored, field, &target.path, value, part == "name");
    }
    let actual = stored.object.get(field).or(known.default.as_ref());
    match actual {
        Some(Value::String(text)) => text == value,
        // The parameter is text: a number or a truth value is compared by how JSON writes it.
        Some(other) => format!("{other}").as_str() == value,
        None => false,
    }
}

/// The field refers to the object with this uuid, URL or name.
fn refers(
    snapshot: &Snapshot,
    stored: &Stored,
    field: &str,
    target: &str,
    value: &str,
    by_name: bool,
) -> bool {
    let Some(uuid) = stored
        .object
        .get(field)
        .and_then(Value::as_str)
        .and_then(|r| r.rsplit('/').next())
    else {
        return false;
    };
    if by_name {
        return snapshot.name_of(target, uuid) == Some(value);
    }
    let wanted = value.split('#').next().and_then(|v| v.rsplit('/').next());
    wanted == Some(uuid)
}

/// Sorts by `sort=field` or `sort=-field`; by name when nothing is asked, so that pages are stable.
pub(super) fn sort(context: &Context, ty: &ObjectType, found: &mut [(&str, &Arc<Stored>)]) {
    let field = context.get("sort").unwrap_or("name");
    let (name, down) = field
        .strip_prefix('-')
        .map_or((field, false), |f| (f, true));
    let default = ty.field(name).and_then(|f| f.default.as_ref());
    found.sort_by_cached_key(|(_, s)| match s.object.get(name).or(default) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => format!("{other:>24}"),
        None => String::new(),
    });
    if down {
        found.reverse();
    }
}

/// One page of the results: `count` is the total, `next` only when more follow. Only the page's own results are
/// made by `show`.
pub(super) fn page<T>(
    context: &Context,
    path: &str,
    found: Vec<T>,
    show: impl FnMut(T) -> Value,
) -> Value {
    let number = |name: &str| context.get(name).and_then(|v| v.parse::<usize>().ok());
    let size = number("page_size")
        .or(number("limit_by"))
        .unwrap_or(PAGE_SIZE)
        .clamp(1, PAGE_SIZE_MAX);
    let page = number("page").unwrap_or(1).max(1);
    let count = found.len();
    let start = (page - 1).saturating_mul(size);
    let results: Vec<_> = found.into_iter().skip(start).take(size).map(show).collect();
    let mut reply = json!({"count": count, "results": results});
    if start.saturating_add(size) < count {
        reply["next"] = next(context, path, page + 1, size).into();
    }
    reply
}

/// The URL of a page: the same question, for another page.
fn next(context: &Context, path: &str, page: usize, size: usize) -> String {
    let mut url = format!("{}/api/{path}?page={page}&page_size={size}", context.origin);
    let kept = |name: &str| !["page", "page_size", "limit_by"].contains(&name);
    for (name, value) in context.query.iter().filter(|(name, _)| kept(name)) {
        url.push_str(&format!("&{}={}", encode(name), encode(value)));
    }
    url
}

/// RFC 3986 section 2.3: everything but unreserved characters is escaped.
fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let each = text.bytes().map(|b| match b {
        b if plain(b) => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    });
    each.collect()
}
