//! Finding objects by name or UUID, and reading loosely shaped answers.

use crate::output::UsageError;
use anyhow::bail;
use client::{Client, Error};
use serde_json::Value;

/// The object of this type by name or, where no object has that name, by UUID.
pub fn object(client: &Client, object_type: &str, name_or_uuid: &str) -> anyhow::Result<Value> {
    if let Some(object) = client.get_by_name(object_type, name_or_uuid)? {
        return Ok(object);
    }
    match by_uuid(client, object_type, name_or_uuid)? {
        Some(object) => Ok(object),
        None => bail!(
            "there is no {object_type} named {name_or_uuid:?}{}",
            names_hint(client, object_type)
        ),
    }
}

/// What a reference names: the name behind `#`, or the uuid where there is none.
pub(crate) fn name_or_uuid(reference: &str) -> &str {
    client::name_of(reference).unwrap_or_else(|| client::uuid_of(reference))
}

fn by_uuid(client: &Client, object_type: &str, text: &str) -> anyhow::Result<Option<Value>> {
    let is_uuid = text
        .strip_prefix(object_type)
        .is_some_and(|rest| rest.starts_with('-'));
    if !is_uuid || text.contains(['/', '?', '#']) {
        return Ok(None);
    }
    match client.get(&format!("/api/{object_type}/{text}"), &[]) {
        Ok(object) => Ok(Some(object)),
        Err(Error::Status { status: 404, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The names that there are, because the usual mistake is a typing error.
fn names_hint(client: &Client, object_type: &str) -> String {
    const NAMES_MAX: usize = 10;
    let objects = client.list(object_type).unwrap_or_default();
    let mut names: Vec<&str> = objects.iter().map(|object| text(object, "/name")).collect();
    let more = if names.len() > NAMES_MAX { ", …" } else { "" };
    names.truncate(NAMES_MAX);
    if names.is_empty() {
        String::new()
    } else {
        format!("; there are: {}{more}", names.join(", "))
    }
}

/// The API type for what the user wrote: a type, a short form of ours, or a usage error.
pub fn object_type(word: &str) -> anyhow::Result<&'static str> {
    let word = word.to_ascii_lowercase();
    let full = match word.as_str() {
        "vs" => "virtualservice",
        "se" => "serviceengine",
        "segroup" | "seg" => "serviceenginegroup",
        "vrf" => "vrfcontext",
        "hm" => "healthmonitor",
        other => other,
    };
    match model::schema::object_type(full) {
        Some(ty) => Ok(&ty.path),
        None => Err(UsageError(format!(
            "{word:?} is not an object type{}",
            similar_types(&word)
        ))
        .into()),
    }
}

fn similar_types(word: &str) -> String {
    let types = model::schema::object_types().map(|ty| ty.path.as_str());
    let start = word.get(..3).unwrap_or(word);
    let similar: Vec<&str> = types.filter(|path| path.contains(start)).collect();
    if similar.is_empty() {
        String::new()
    } else {
        format!("; similar: {}", similar.join(", "))
    }
}

/// The text at a JSON pointer, or nothing.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The number at a JSON pointer, or nothing.
pub(crate) fn number(value: &Value, pointer: &str) -> Option<u64> {
    value.pointer(pointer).and_then(Value::as_u64)
}

/// The list at a JSON pointer, or an empty one.
pub(crate) fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// Of the states that several VIPs of a virtual service have on an engine, the lowest is the one to be shown: what is not up, then
/// what is. A VIP that is disabled is up nowhere, and hides nothing.
pub(crate) fn state_rank(state: &str) -> u8 {
    match state {
        "OPER_UP" => 1,
        "OPER_DISABLED" => 2,
        _ => 0,
    }
}

/// The reasons of an operational status (avi-api 10.1) as one text.
pub(crate) fn reasons(status: &Value) -> String {
    let reasons: Vec<&str> = items(status, "/reason")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    if reasons.is_empty() {
        text(status, "/reason").to_string()
    } else {
        reasons.join("; ")
    }
}
