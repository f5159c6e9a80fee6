//! The filter that every text of a bundle passes. The controller masks what it tells; this is the second look, for what an
//! older controller, a field that carries text, or another program says.
//!
//! The schema says what is a secret (`model::schema`): by the type of an object where that is known, else by the name of
//! the field. In any text there are private keys in PEM, tokens of ours, and fields of HTTP requests that prove who asks, as in
//! the request of a health monitor.

use model::object::{MASK, Object, hide_secrets};
use model::schema::{Field, ObjectType, messages, object_type};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// What API tokens and join tokens begin with.
const TOKENS: [&str; 2] = ["ekapi1.", "ekjoin1."];
const BEGIN: &str = "-----BEGIN ";
const DASHES: &str = "-----";
const PRIVATE_KEY: &str = "PRIVATE KEY";

/// Names of fields that are secrets wherever they stand. A name that is harmless elsewhere (`key`) is none.
static NAMES: LazyLock<BTreeSet<&'static str>> = LazyLock::new(|| {
    let fields = || messages().flat_map(|ty| &ty.fields);
    let is_secret = |field: &&Field| field.secret.is_some();
    let harmless = fields().filter(|f| !is_secret(f));
    let harmless: BTreeSet<&str> = harmless.map(|f| f.name.as_str()).collect();
    let names = fields().filter(is_secret).map(|f| f.name.as_str());
    names.filter(|name| !harmless.contains(name)).collect()
});

/// Masks what is secret in an answer of the API.
pub(super) fn mask(value: &mut Value) {
    match value {
        Value::Object(object) => mask_object(object),
        Value::Array(items) => items.iter_mut().for_each(mask),
        Value::String(text) => mask_text(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Masks keys and tokens in an answer of another program, whose words are not those of the schema.
pub(super) fn mask_foreign(value: &mut Value) {
    match value {
        Value::Object(object) => object.values_mut().for_each(mask_foreign),
        Value::Array(items) => items.iter_mut().for_each(mask_foreign),
        Value::String(text) => mask_text(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The text without private keys, tokens, and values of telling HTTP fields.
pub(super) fn without(text: &str) -> String {
    let text = without_keys(text);
    let text = TOKENS
        .iter()
        .fold(text, |text, token| without_tokens(&text, token));
    without_http_fields(&text)
}

fn mask_text(text: &mut String) {
    let tokens = || TOKENS.iter().any(|token| text.contains(token));
    if text.contains(BEGIN) || text.contains(':') || tokens() {
        *text = without(text);
    }
}

/// HTTP fields whose value proves who asks; and names that end like these.
const HTTP_FIELDS: [&str; 4] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
];
const HTTP_FIELD_ENDS: [&str; 4] = ["-key", "-token", "-secret", "-password"];

/// `Authorization: <sensitive>`, line by line; escaped line ends (`\r\n`) of a text within a text end lines, too.
fn without_http_fields(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let mut rest = line;
        while let Some(at) = rest.find("\\n") {
            let (part, after) = rest.split_at(at + 2);
            out.push_str(&without_http_field(part));
            rest = after;
        }
        out.push_str(&without_http_field(rest));
    }
    out
}

fn without_http_field(line: &str) -> String {
    let Some((before, value)) = line.split_once(':') else {
        return line.to_owned();
    };
    let name = before.rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    let name = name.map(str::to_ascii_lowercase).next().unwrap_or_default();
    let tells = HTTP_FIELDS.contains(&name.as_str())
        || HTTP_FIELD_ENDS.iter().any(|end| name.ends_with(end));
    let content = value.trim_end_matches(['\r', '\n']);
    let content = content.strip_suffix("\\n").unwrap_or(content);
    let content = content.strip_suffix("\\r").unwrap_or(content);
    match tells && !content.trim().is_empty() {
        true => format!("{before}: {MASK}{}", &value[content.len()..]),
        false => line.to_owned(),
    }
}

fn mask_object(object: &mut Object) {
    if let Some(ty) = type_of(object) {
        hide_secrets(ty, object);
        // Around an object: a change of it in the log, or what is observed of it.
        for around in ["before", "after", "config"] {
            if let Some(Value::Object(inner)) = object.get_mut(around) {
                hide_secrets(ty, inner);
            }
        }
    }
    mask_change(object);
    for (name, value) in object.iter_mut() {
        if let (Some(ty), Value::Array(items)) = (object_type(name), &mut *value) {
            let objects = items.iter_mut().filter_map(Value::as_object_mut);
            objects.for_each(|object| hide_secrets(ty, object));
        }
        match value {
            Value::Null => {}
            value if NAMES.contains(name.as_str()) => *value = MASK.into(),
            value => mask(value),
        }
    }
}

/// By its `type`, or by its uuid, which begins with the type.
fn type_of(object: &Object) -> Option<&'static ObjectType> {
    let word = |name: &str| object.get(name).and_then(Value::as_str);
    let prefix = |uuid: &str| uuid.split('-').next().and_then(object_type);
    word("type")
        .and_then(object_type)
        .or_else(|| word("uuid").and_then(prefix))
}

/// `{"field": "bgp_profile.peers[0].md5_secret", "old": …, "new": …}` of the log of changes.
fn mask_change(object: &mut Object) {
    let path = object.get("field").and_then(Value::as_str);
    let name = path.and_then(|path| path.rsplit('.').next());
    if !name.is_some_and(|name| NAMES.contains(name)) {
        return;
    }
    for side in ["old", "new"] {
        if let Some(value) = object.get_mut(side).filter(|value| !value.is_null()) {
            *value = MASK.into();
        }
    }
}

/// A key that is cut off is a key, too: it goes to the end of the text.
fn without_keys(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(BEGIN) {
        let label = rest[at + BEGIN.len()..].split(DASHES).next();
        let label = label.unwrap_or_default();
        if !label.ends_with(PRIVATE_KEY) {
            let (before, after) = rest.split_at(at + BEGIN.len());
            out.push_str(before);
            rest = after;
            continue;
        }
        out.push_str(&rest[..at]);
        out.push_str(MASK);
        let end = format!("-----END {label}{DASHES}");
        rest = match rest[at..].find(&end) {
            Some(len) => &rest[at + len + end.len()..],
            None => "",
        };
    }
    out + rest
}

fn without_tokens(text: &str, token: &str) -> String {
    let mut parts = text.split(token);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(token);
        out.push_str(MASK);
        out.push_str(part.trim_start_matches(is_of_token));
    }
    out
}

fn is_of_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '=' | '+' | '/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn masked(mut value: Value) -> Value {
        mask(&mut value);
        value
    }

    #[test]
    fn secrets_are_masked_by_the_name_of_their_field_at_every_depth() {
        let peer = json!({"peer_ip": "10.1.1.1", "md5_secret": "s", "remote_as": 65001});
        let shown = masked(json!({"any": [{"peers": [peer]}], "password": null}));
        let peer = json!({"peer_ip": "10.1.1.1", "md5_secret": MASK, "remote_as": 65001});
        assert_eq!(shown, json!({"any": [{"peers": [peer]}], "password": null}));
        for name in ["password", "key_passphrase", "shared_secret", "hmac_key"] {
            assert_eq!(masked(json!({name: "s"})), json!({name: MASK}), "{name}");
        }
    }

    #[test]
    fn a_name_that_is_harmless_elsewhere_is_a_secret_in_objects_of_its_type() {
        let label = json!({"key": "site", "values": ["a"]});
        assert_eq!(masked(label.clone()), label);
        let certificate = || json!({"name": "c", "key": "s"});
        let uuid = "sslkeyandcertificate-1";
        for around in [
            json!({"sslkeyandcertificate": [certificate()]}),
            json!({"type": "sslkeyandcertificate", "before": certificate(), "after": certificate()}),
            json!({"uuid": uuid, "config": certificate()}),
            json!({"uuid": uuid, "key": "s"}),
        ] {
            let shown = masked(around).to_string();
            assert!(!shown.contains("\"s\""), "{shown}");
        }
    }

    #[test]
    fn fields_of_a_request_that_prove_who_asks_have_no_value() {
        for end in ["\r\n", "\n", "\\r\\n"] {
            let request = [
                "GET /a:b HTTP/1.0",
                "Host: web:80",
                "Authorization: Basic s3",
                "x-api-key:s3",
                "",
            ];
            let shown = [
                "GET /a:b HTTP/1.0",
                "Host: web:80",
                &format!("Authorization: {MASK}"),
                &format!("x-api-key: {MASK}"),
                "",
            ];
            let monitor = json!({"http_monitor": {"http_request": request.join(end)}});
            let expected = json!({"http_monitor": {"http_request": shown.join(end)}});
            assert_eq!(masked(monitor), expected);
        }
        let ends = HTTP_FIELD_ENDS.iter().map(|end| format!("X-Any{end}"));
        for name in HTTP_FIELDS
            .iter()
            .map(|name| (*name).to_owned())
            .chain(ends)
        {
            assert_eq!(without(&format!("{name}: s3")), format!("{name}: {MASK}"));
        }
        let last = json!(["Cookie: a=s3", "Authorization:", "a reason: not-a-key: b"]);
        let shown = json!([
            format!("Cookie: {MASK}"),
            "Authorization:",
            "a reason: not-a-key: b"
        ]);
        assert_eq!(masked(last), shown);
    }

    #[test]
    fn a_change_of_a_secret_shows_no_value() {
        let change = json!({"field": "bgp_profile.peers[0].md5_secret", "old": null, "new": "s"});
        let shown = json!({"field": "bgp_profile.peers[0].md5_secret", "old": null, "new": MASK});
        assert_eq!(masked(change), shown);
        let harmless = json!({"field": "services[0].port", "old": 80, "new": 81});
        assert_eq!(masked(harmless.clone()), harmless);
    }

    #[test]
    fn private_keys_and_tokens_are_masked_in_any_text_and_the_rest_stays() {
        let key = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----";
        let certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----";
        let text = format!("a {key} b {certificate} c");
        assert_eq!(without(&text), format!("a {MASK} b {certificate} c"));
        let cut = "a -----BEGIN PRIVATE KEY-----\nMHcC";
        assert_eq!(without(cut), format!("a {MASK}"));
        let tokens = "token ekapi1.t-1.c2VjcmV0, join ekjoin1.eyJpZCI6MX0=; end";
        let shown = format!("token ekapi1.{MASK}, join ekjoin1.{MASK}; end");
        assert_eq!(without(tokens), shown);
        let mut value = json!({"rule": {"comment": key, "key": "l4proto"}});
        mask_foreign(&mut value);
        assert_eq!(value, json!({"rule": {"comment": MASK, "key": "l4proto"}}));
    }

    #[test]
    fn text_with_marks_of_a_key_that_is_none_stays_as_it_is() {
        for text in [
            "",
            "-----BEGIN ",
            "-----BEGIN X",
            "ünï -----BEGIN CERTIFICATE-----",
        ] {
            assert_eq!(without(text), text);
        }
    }
}
