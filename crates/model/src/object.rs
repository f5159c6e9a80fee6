//! Validation, defaults and references of a JSON object, driven by the schema.

use crate::schema::{Field, Kind, ObjectType, Range, Secret, message};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt;

/// What a secret looks like on read; writing it back keeps the value.
pub const MASK: &str = "<sensitive>";

/// A configuration object as it travels and is stored: fields by name, unknown ones included.
pub type Object = Map<String, Value>;

/// The same without room for more fields, elements or letters at any depth: one that was put together field by field, or
/// parsed, has up to as much again.
pub fn fitted(object: Object) -> Object {
    let mut exact = Object::with_capacity(object.len());
    exact.extend(object.into_iter().map(|(name, value)| (name, fit(value))));
    exact
}

fn fit(value: Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(fitted(object)),
        Value::Array(list) => {
            let exact: Box<[Value]> = list.into_iter().map(fit).collect();
            Value::Array(exact.into_vec())
        }
        Value::String(mut text) => {
            text.shrink_to_fit();
            Value::String(text)
        }
        plain => plain,
    }
}

/// What is wrong with one field, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field, e.g. `bgp_profile.peers[0].remote_as`.
    pub path: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub hint: String,
}

impl FieldError {
    /// An error at `path`: what is wrong and what to do.
    pub fn new(
        path: impl Into<String>,
        problem: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            path: path.into(),
            problem: problem.into(),
            hint: hint.into(),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.path, self.problem, self.hint)
    }
}

/// A reference found in an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Path of the field that holds it.
    pub path: String,
    /// Path name of the target's type, e.g. `vsvip`.
    pub target: &'static str,
    /// The reference as written.
    pub value: String,
}

/// Checks types, words, ranges, list lengths and required fields at every depth, then the rules of
/// [`crate::rules`]. Server-owned and unknown fields are not looked at.
///
/// # Errors
/// Every field that is wrong, in the order of the schema.
pub fn validate(ty: &ObjectType, object: &Object) -> Result<(), Vec<FieldError>> {
    let mut errors = Vec::new();
    check_fields(ty, object, "", &mut errors);
    if errors.is_empty() {
        errors = crate::rules::check(ty, object);
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}

fn check_fields(ty: &ObjectType, object: &Object, prefix: &str, errors: &mut Vec<FieldError>) {
    for field in ty.fields.iter().filter(|f| !f.is_server_owned()) {
        let path = join(prefix, &field.name);
        match object.get(&field.name) {
            Some(Value::Null) | None if field.required && field.default.is_none() => {
                errors.push(FieldError::new(path, "is required", "set it"));
            }
            Some(Value::Null) | None => {}
            Some(value) if field.list => check_list(field, value, &path, errors),
            Some(value) => check_value(field, value, &path, errors),
        }
    }
}

fn check_list(field: &Field, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(items) = value.as_array() else {
        let problem = format!("must be a list, not {}", describe(value));
        return errors.push(FieldError::new(path, problem, "write [ … ]"));
    };
    if let Some(max) = field.max_items.filter(|max| items.len() > *max) {
        let problem = format!("has {} items, at most {max} are allowed", items.len());
        errors.push(FieldError::new(path, problem, "remove some"));
    }
    for (i, item) in items.iter().enumerate() {
        check_value(field, item, &format!("{path}[{i}]"), errors);
    }
}

fn check_value(field: &Field, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    match (&field.kind, value) {
        (Kind::Str, Value::String(s)) => check_word(field, s, path, errors),
        (Kind::Int, Value::Number(n)) => check_number(field, n.as_i64(), value, path, errors),
        (Kind::Num, Value::Number(_)) | (Kind::Bool, Value::Bool(_)) => {}
        (Kind::Ref(_), Value::String(s)) if s.is_empty() => {
            errors.push(FieldError::new(
                path,
                "is an empty reference",
                "name an object or leave the field out",
            ));
        }
        (Kind::Ref(_), Value::String(_)) => {}
        (Kind::Message(name), Value::Object(inner)) => {
            if let Some(ty) = message(name) {
                check_fields(ty, inner, path, errors);
            }
        }
        // A structure that the schema does not describe is kept as given.
        (Kind::Message(name), _) if message(name).is_none() => {}
        (kind, _) => {
            let problem = format!("must be {}, not {}", expected(kind), describe(value));
            errors.push(FieldError::new(path, problem, "correct the value's type"));
        }
    }
}

fn check_word(field: &Field, word: &str, path: &str, errors: &mut Vec<FieldError>) {
    if !field.words.is_empty() && !field.words.iter().any(|w| w == word) {
        let hint = format!("use one of {}", field.words.join(", "));
        errors.push(FieldError::new(
            path,
            format!("{word:?} is not a known value"),
            hint,
        ));
    }
}

fn check_number(
    field: &Field,
    number: Option<i64>,
    value: &Value,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let Some(n) = number else {
        let problem = format!("{value} is not a whole number in range");
        return errors.push(FieldError::new(path, problem, "write a whole number"));
    };
    let fits = match &field.range {
        None => true,
        Some(Range::Span(low, high)) => (*low..=*high).contains(&n),
        Some(Range::Set(set)) => set.contains(&n),
    };
    if !fits && !field.special.contains(&n) {
        let hint = format!("use {}", allowed(field));
        errors.push(FieldError::new(path, format!("{n} is out of range"), hint));
    }
}

/// The allowed numbers in words: `5 to 14400 sec, or 0`.
fn allowed(field: &Field) -> String {
    let unit = field
        .unit
        .as_deref()
        .map(|u| format!(" {u}"))
        .unwrap_or_default();
    let mut text = match &field.range {
        Some(Range::Span(low, high)) => format!("{low} to {high}{unit}"),
        Some(Range::Set(set)) => format!("one of {set:?}{unit}"),
        None => format!("a whole number{unit}"),
    };
    for special in &field.special {
        text.push_str(&format!(", or {special}"));
    }
    text
}

fn expected(kind: &Kind) -> &'static str {
    match kind {
        Kind::Str => "text",
        Kind::Int => "a whole number",
        Kind::Num => "a number",
        Kind::Bool => "true or false",
        Kind::Ref(_) => "a reference (text)",
        Kind::Message(_) => "an object",
    }
}

fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}.{name}")
    }
}

/// The object with every default filled in, at every depth that is present (avi-api 5.2).
pub fn with_defaults(ty: &ObjectType, object: &Object) -> Object {
    let mut full = object.clone();
    walk(ty, &mut full, &mut |ty, o| {
        for field in &ty.fields {
            if let (Some(default), None | Some(Value::Null)) = (&field.default, o.get(&field.name))
            {
                o.insert(field.name.clone(), default.clone());
            }
        }
    });
    full
}

/// The object without the fields that equal their default, at every depth (`skip_default=true`).
pub fn without_defaults(ty: &ObjectType, object: &Object) -> Object {
    let mut sparse = object.clone();
    walk(ty, &mut sparse, &mut |ty, o| {
        for field in &ty.fields {
            if field.default.is_some() && o.get(&field.name) == field.default.as_ref() {
                o.shift_remove(&field.name);
            }
        }
    });
    sparse
}

/// Takes out what a client may not write: server-owned fields at every depth, and fields set to null.
pub fn strip_server_owned(ty: &ObjectType, object: &mut Object) {
    walk(ty, object, &mut |ty, o| {
        for field in ty.fields.iter().filter(|f| f.is_server_owned()) {
            o.shift_remove(&field.name);
        }
        o.retain(|_, value| !value.is_null());
    });
}

/// The object as it may be shown: secrets masked or left out, at every depth.
pub fn hide_secrets(ty: &ObjectType, object: &mut Object) {
    walk(ty, object, &mut |ty, o| {
        for field in &ty.fields {
            match field.secret {
                Some(Secret::Masked) if o.contains_key(&field.name) => {
                    o.insert(field.name.clone(), MASK.into());
                }
                Some(Secret::Hidden) => drop(o.shift_remove(&field.name)),
                Some(Secret::Masked) | None => {}
            }
        }
    });
}

/// Calls `f` with path and value of each secret that is there, at every depth.
pub fn map_secrets(ty: &ObjectType, object: &mut Object, f: &mut impl FnMut(&str, &mut Value)) {
    map_secrets_at(ty, object, "", f);
}

fn map_secrets_at(
    ty: &ObjectType,
    object: &mut Object,
    prefix: &str,
    f: &mut impl FnMut(&str, &mut Value),
) {
    for field in &ty.fields {
        let Some(value) = object.get_mut(&field.name) else {
            continue;
        };
        let path = join(prefix, &field.name);
        match (&field.kind, value) {
            (_, value) if field.secret.is_some() => f(&path, value),
            (Kind::Message(name), value) => {
                if let Some(inner) = message(name) {
                    map_inner_secrets(inner, value, &path, f);
                }
            }
            _ => {}
        }
    }
}

fn map_inner_secrets(
    ty: &ObjectType,
    value: &mut Value,
    path: &str,
    f: &mut impl FnMut(&str, &mut Value),
) {
    match value {
        Value::Object(o) => map_secrets_at(ty, o, path, f),
        Value::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                if let Value::Object(o) = item {
                    map_secrets_at(ty, o, &format!("{path}[{i}]"), f);
                }
            }
        }
        _ => {}
    }
}

/// True when an object of this type can have a secret, at any depth.
pub fn can_have_secrets(ty: &'static ObjectType) -> bool {
    fn find(ty: &'static ObjectType, seen: &mut BTreeSet<&'static str>) -> bool {
        seen.insert(&ty.name)
            && ty.fields.iter().any(|field| match &field.kind {
                _ if field.secret.is_some() => true,
                Kind::Message(name) => message(name).is_some_and(|inner| find(inner, seen)),
                _ => false,
            })
    }
    find(ty, &mut BTreeSet::new())
}

/// A secret that is masked or absent keeps the stored value, an empty one is taken away, at every depth. Items of a
/// list are known by its keys.
pub fn keep_secrets(ty: &ObjectType, stored: &Object, object: &mut Object) {
    for field in &ty.fields {
        if field.secret.is_some() {
            keep_secret(&field.name, stored, object);
            continue;
        }
        let (Kind::Message(name), Some(value)) = (&field.kind, object.get_mut(&field.name)) else {
            continue;
        };
        if let Some(inner) = message(name) {
            keep_inner_secrets(field, inner, stored.get(&field.name), value);
        }
    }
}

fn keep_inner_secrets(field: &Field, ty: &ObjectType, stored: Option<&Value>, value: &mut Value) {
    let none = Object::new();
    match value {
        Value::Object(o) => {
            let before = stored.and_then(Value::as_object);
            keep_secrets(ty, before.unwrap_or(&none), o);
        }
        Value::Array(items) => {
            let before = stored
                .and_then(Value::as_array)
                .map_or(&[][..], Vec::as_slice);
            for item in items {
                let same = before.iter().find(|b| field.same_item(b, item));
                let same = same.and_then(Value::as_object);
                if let Value::Object(o) = item {
                    keep_secrets(ty, same.unwrap_or(&none), o);
                }
            }
        }
        _ => {}
    }
}

fn keep_secret(name: &str, stored: &Object, object: &mut Object) {
    match object.get(name) {
        Some(Value::String(text)) if text.is_empty() => drop(object.shift_remove(name)),
        Some(Value::String(text)) if text != MASK => {}
        Some(Value::String(_)) | None => {
            object.shift_remove(name);
            object.extend(stored.get(name).map(|v| (name.to_owned(), v.clone())));
        }
        // What is no text is refused with its path by the check that follows.
        Some(_) => {}
    }
}

/// Calls `visit` for the object and every nested structure that the schema knows, inner ones first.
fn walk(ty: &ObjectType, object: &mut Object, visit: &mut impl FnMut(&ObjectType, &mut Object)) {
    for field in &ty.fields {
        let (Kind::Message(name), Some(value)) = (&field.kind, object.get_mut(&field.name)) else {
            continue;
        };
        let Some(inner) = message(name) else { continue };
        match value {
            Value::Object(o) => walk(inner, o, visit),
            Value::Array(items) => {
                for o in items.iter_mut().filter_map(Value::as_object_mut) {
                    walk(inner, o, visit);
                }
            }
            _ => {}
        }
    }
    visit(ty, object);
}

/// Every reference in the object whose target type the registry knows, with its path.
pub fn references(ty: &ObjectType, object: &Object) -> Vec<Reference> {
    let mut found = Vec::new();
    let mut copy = object.clone();
    map_refs(ty, &mut copy, &mut |reference| {
        found.push(reference.clone());
        reference.value.clone()
    });
    found
}

/// Calls `visit` with the target's path name and the reference, for every reference whose target type the registry knows.
pub fn visit_refs<'a>(
    ty: &ObjectType,
    object: &'a Object,
    visit: &mut impl FnMut(&'static str, &'a str),
) {
    // Most fields of a type are not there, so it is those of the object that are gone through.
    for (name, value) in object {
        let Some(field) = ty.field(name) else {
            continue;
        };
        match value {
            Value::Array(items) => items
                .iter()
                .for_each(|item| visit_value(field, item, visit)),
            value => visit_value(field, value, visit),
        }
    }
}

fn visit_value<'a>(field: &Field, value: &'a Value, visit: &mut impl FnMut(&'static str, &'a str)) {
    match (&field.kind, value) {
        (Kind::Ref(name), Value::String(text)) => {
            if let Some(target) = message(name).filter(|t| t.is_resource()) {
                visit(&target.path, text);
            }
        }
        (Kind::Message(name), Value::Object(inner)) => {
            if let Some(ty) = message(name) {
                visit_refs(ty, inner, visit);
            }
        }
        _ => {}
    }
}

/// Replaces every reference whose target type the registry knows by what `f` makes of it.
pub fn map_refs(ty: &ObjectType, object: &mut Object, f: &mut impl FnMut(&Reference) -> String) {
    map_refs_at(ty, object, "", f);
}

fn map_refs_at(
    ty: &ObjectType,
    object: &mut Object,
    prefix: &str,
    f: &mut impl FnMut(&Reference) -> String,
) {
    for field in &ty.fields {
        let Some(value) = object.get_mut(&field.name) else {
            continue;
        };
        let path = join(prefix, &field.name);
        match value {
            Value::Array(items) => {
                for (i, item) in items.iter_mut().enumerate() {
                    map_value(field, item, format!("{path}[{i}]"), f);
                }
            }
            value => map_value(field, value, path, f),
        }
    }
}

fn map_value(
    field: &Field,
    value: &mut Value,
    path: String,
    f: &mut impl FnMut(&Reference) -> String,
) {
    match (&field.kind, value) {
        (Kind::Ref(name), Value::String(text)) => {
            if let Some(target) = message(name).filter(|t| t.is_resource()) {
                *text = f(&Reference {
                    path,
                    target: &target.path,
                    value: text.clone(),
                });
            }
        }
        (Kind::Message(name), Value::Object(inner)) => {
            if let Some(ty) = message(name) {
                map_refs_at(ty, inner, &path, f);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
