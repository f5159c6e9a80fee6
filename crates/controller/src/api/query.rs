//! Filters, order and pages of a collection (avi-api 5.3). Unknown parameters are ignored.

use super::context::Context;
use crate::error::ApiError;
use crate::objects::{Snapshot, Stored};
use model::object;
use model::schema::{Field, Kind, ObjectType, message, object_type};
use model::view::Ref;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Parameters that are no field filters.
pub(super) const RESERVED: [&str; 13] = [
    "fields",
    "exclude",
    "include_name",
    "include_refs",
    "skip_default",
    "join_subresources",
    "sort",
    "page",
    "page_size",
    "limit_by",
    "include",
    "refers_to",
    "referred_by",
];
const PAGE_SIZE: usize = 25;
const PAGE_SIZE_MAX: usize = 200;

/// What the caller sees of a type and asks for, in the order that he asks for.
///
/// # Errors
/// 400 for a parameter that makes no sense.
pub(super) fn find<'a>(
    snapshot: &'a Snapshot,
    ty: &ObjectType,
    context: &Context,
) -> Result<Vec<(&'a str, &'a Arc<Stored>)>, ApiError> {
    let filter = Filter::new(snapshot, ty, context)?;
    let all = snapshot.all(&ty.path);
    let mut found: Vec<_> = all.filter(|(uuid, s)| filter.matches(uuid, s)).collect();
    sort(context, ty, &mut found);
    Ok(found)
}

/// What a query lets through of one type.
struct Filter<'a> {
    snapshot: &'a Snapshot,
    ty: &'a ObjectType,
    context: &'a Context,
    /// `refers_to`: canonical references that each must have.
    refers_to: Vec<String>,
    /// `referred_by`: what the named objects refer to, canonical.
    referred_by: Vec<BTreeSet<String>>,
}

impl<'a> Filter<'a> {
    /// # Errors
    /// 400 for `refers_to` or `referred_by` that is no `TYPE:UUID`.
    fn new(
        snapshot: &'a Snapshot,
        ty: &'a ObjectType,
        context: &'a Context,
    ) -> Result<Self, ApiError> {
        let refers_to = named(context, "refers_to")?;
        let referred_by = named(context, "referred_by")?;
        let targets = referred_by.iter().map(|(ty, uuid)| {
            let stored = snapshot.get(&ty.path, uuid);
            let all = stored.map(|s| object::references(ty, &s.object));
            all.into_iter().flatten().map(|r| r.value).collect()
        });
        Ok(Self {
            snapshot,
            ty,
            context,
            refers_to: refers_to
                .iter()
                .map(|(ty, uuid)| Ref::to(&ty.path, uuid).0)
                .collect(),
            referred_by: targets.collect(),
        })
    }

    /// True when the object passes every filter of the query.
    fn matches(&self, uuid: &str, stored: &Stored) -> bool {
        let here = || Ref::to(&self.ty.path, uuid).0;
        self.context.sees(&self.ty.path, uuid, stored)
            && self.refers_to.iter().all(|r| stored.refers_to(self.ty, r))
            && self.referred_by.iter().all(|all| all.contains(&here()))
            && self
                .context
                .query
                .iter()
                .all(|(key, value)| self.parameter(uuid, stored, key, value))
    }

    fn parameter(&self, uuid: &str, stored: &Stored, key: &str, value: &str) -> bool {
        let name = stored.name();
        match key {
            "name" => name == value,
            "name.contains" => name.contains(value),
            "name.icontains" => name.to_lowercase().contains(&value.to_lowercase()),
            "name.in" => value.split(',').any(|n| n == name),
            "search" => searched(stored, |text| text.contains(value)),
            "isearch" => {
                let value = value.to_lowercase();
                searched(stored, |text| text.to_lowercase().contains(&value))
            }
            "uuid" => uuid == value,
            "uuid.in" => value.split(',').any(|u| u == uuid),
            "cloud_uuid" => self.field(stored, "cloud_ref.uuid", value),
            "cloud" => self.field(stored, "cloud_ref.name", value),
            key if RESERVED.contains(&key) => true,
            key => self.field(stored, key, value),
        }
    }

    /// `FIELD=value`, `FIELD_ref.name=`, `FIELD_ref.uuid=`; a field that the type does not have, or that is not compared, is ignored.
    fn field(&self, stored: &Stored, key: &str, value: &str) -> bool {
        let (field, part) = key.split_once('.').unwrap_or((key, ""));
        let known = self.ty.field(field).filter(|f| is_compared(f));
        let Some(known) = known else {
            return true;
        };
        let actual = stored.object.get(field).or(known.default.as_ref());
        let target = match &known.kind {
            Kind::Ref(target) => message(target),
            _ => None,
        };
        let is = |actual: &Value| match (target, actual) {
            (Some(target), Value::String(r)) => {
                self.refers(&target.path, &Ref(r.clone()), value, part == "name")
            }
            (_, Value::String(text)) => text == value,
            // Python writes True.
            (_, Value::Bool(flag)) => flag.to_string().eq_ignore_ascii_case(value),
            // The parameter is text.
            (_, Value::Number(number)) => number.to_string() == value,
            _ => false,
        };
        match actual {
            Some(Value::Array(items)) => items.iter().any(is),
            Some(actual) => is(actual),
            None => false,
        }
    }

    /// The reference is to the object with this uuid, URL or name.
    fn refers(&self, target: &str, reference: &Ref, value: &str, by_name: bool) -> bool {
        if by_name {
            return self.snapshot.name_of(target, reference.uuid()) == Some(value);
        }
        Ref(value.to_owned()).uuid() == reference.uuid()
    }
}

/// A secret is not to be guessed by asking for it, or by where it stands among others; and what is the server's is not stored.
fn is_compared(field: &Field) -> bool {
    field.secret.is_none() && !field.is_server_owned()
}

/// The objects that a parameter names as `TYPE:UUID`.
fn named<'a>(
    context: &'a Context,
    name: &str,
) -> Result<Vec<(&'static ObjectType, &'a str)>, ApiError> {
    let values = context.query.iter().filter(|(key, _)| key == name);
    let parse = |(_, value): &'a (String, String)| {
        let (path, uuid) = value.split_once(':').unwrap_or((value, ""));
        let ty = object_type(path).filter(|_| !uuid.is_empty());
        let text =
            format!("{name}: {value:?} names no object; write TYPE:UUID, such as pool:pool-1");
        ty.map(|ty| (ty, uuid))
            .ok_or_else(|| ApiError::bad_request(text))
    };
    values.map(parse).collect()
}

/// The text is in the name, or in an address of the object.
fn searched(stored: &Stored, found: impl Fn(&str) -> bool) -> bool {
    let mut values: Vec<&Value> = stored.object.values().collect();
    if found(stored.name()) {
        return true;
    }
    while let Some(value) = values.pop() {
        match value {
            Value::Array(items) => values.extend(items),
            Value::Object(fields) => {
                let addr = fields.get("addr").and_then(Value::as_str);
                if addr.is_some_and(&found) {
                    return true;
                }
                values.extend(fields.values());
            }
            _ => {}
        }
    }
    false
}

/// Sorts by `sort=field` or `sort=-field`; by name when nothing is asked, so that pages are stable.
fn sort(context: &Context, ty: &ObjectType, found: &mut [(&str, &Arc<Stored>)]) {
    let field = context.get("sort").unwrap_or("name");
    let (name, down) = field
        .strip_prefix('-')
        .map_or((field, false), |f| (f, true));
    let known = ty.field(name);
    let name = match known.is_none_or(is_compared) {
        true => name,
        false => "name",
    };
    let default = known.and_then(|f| f.default.as_ref());
    // Of equal objects, the caller's own come before those that tenant admin shares, also where the order is reversed.
    // Clients look a name up and take the first (avi-api 4.1).
    found.sort_by_cached_key(|(_, s)| {
        let value = match s.object.get(name).or(default) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => ordered(number.as_f64().unwrap_or_default()),
            Some(other) => format!("{other}"),
            None => String::new(),
        };
        (value, context.owns(s) == down)
    });
    if down {
        found.reverse();
    }
}

/// A text that sorts as the number does (IEEE 754 section 5.10, totalOrder).
fn ordered(number: f64) -> String {
    let bits = number.to_bits();
    let negative = bits >> 63 == 1;
    let key = if negative { !bits } else { bits | 1 << 63 };
    format!("{key:020}")
}

/// Which of `count` results the page has that is asked for.
pub(super) fn window(context: &Context, count: usize) -> std::ops::Range<usize> {
    let (page, size) = page_and_size(context);
    let start = (page - 1).saturating_mul(size).min(count);
    start..start.saturating_add(size).min(count)
}

fn page_and_size(context: &Context) -> (usize, usize) {
    let number = |name: &str| context.get(name).and_then(|v| v.parse::<usize>().ok());
    let size = number("page_size")
        .or(number("limit_by"))
        .unwrap_or(PAGE_SIZE)
        .clamp(1, PAGE_SIZE_MAX);
    (number("page").unwrap_or(1).max(1), size)
}

/// One page of the results: `count` is the total, `next` only when more follow. Only the page's own results are
/// made by `show`.
pub(super) fn page<T>(
    context: &Context,
    path: &str,
    found: Vec<T>,
    show: impl FnMut(T) -> Value,
) -> Value {
    let (page, size) = page_and_size(context);
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
pub(super) fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let each = text.bytes().map(|b| match b {
        b if plain(b) => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_sort_as_numbers() {
        let sorted = [-10.0, -9.5, -1.0, 0.0, 0.5, 9.0, 10.0, 1e15];
        let keys = sorted.map(ordered);
        assert!(keys.is_sorted(), "{keys:?}");
    }
}
