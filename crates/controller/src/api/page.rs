//! `GET /api/ek/doc`: the API's documentation as one page, made of the same data as the API itself: the table of operations
//! and the schema of the objects. It loads nothing, is read without JavaScript, and says nothing about this system, so that it is
//! shown to anybody. JavaScript searches; the policy (CSP) lets this script run and no other.

use super::openapi;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::schema::{Class, Field, Kind, ObjectType, Range, Secret, message, messages};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/search.js");
/// What a permission asks of the caller (docs/guide/users.md).
const PERMISSIONS: [(&str, &str); 9] = [
    ("Public", "anybody, without a session"),
    ("LoggedIn", "any user who has logged in"),
    ("Read", "who may see objects of this type"),
    (
        "Observe",
        "who may see the controller in all tenants: what is observed of everybody's services",
    ),
    (
        "Services",
        "who may see virtual services, for his own; or the controller in all tenants, for all",
    ),
    ("Write", "who may change objects of this type"),
    ("Operate", "who may move running traffic: as Write"),
    (
        "Administer",
        "who may let engines in and change the system's settings",
    ),
    ("Everything", "superusers"),
];

/// What the product does with a field.
const CLASSES: [(&str, &str); 4] = [
    ("acts", "what is written is done"),
    ("checked", "type and range are checked; without effect"),
    (
        "kept",
        "kept and returned as it was written; without effect",
    ),
    ("server", "filled by the controller, ignored in a write"),
];

static PAGE: LazyLock<Page> = LazyLock::new(Page::new);

struct Page {
    html: Bytes,
    policy: String,
    /// Of what the page says; a browser asks whether it has changed.
    etag: String,
}

impl Page {
    fn new() -> Self {
        let html = html();
        Self {
            policy: format!(
                "default-src 'none'; style-src '{}'; script-src '{}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
                hash(STYLE),
                hash(SCRIPT)
            ),
            etag: format!("\"{}\"", hash(&html)),
            html: html.into(),
        }
    }
}

/// As a policy names a text.
fn hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}

/// `GET /api/ek/doc`.
pub(super) fn show(headers: &HeaderMap) -> Response {
    let known = headers.get(header::IF_NONE_MATCH);
    let is_known = known.is_some_and(|tag| tag.as_bytes() == PAGE.etag.as_bytes());
    let about: [(HeaderName, &str); 5] = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, PAGE.policy.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::ETAG, PAGE.etag.as_str()),
    ];
    match is_known {
        true => (StatusCode::NOT_MODIFIED, about).into_response(),
        false => (about, PAGE.html.clone()).into_response(),
    }
}

fn html() -> String {
    let version = super::API_VERSION;
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Evenkeel API {version}</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><style>{STYLE}</style></head>\n\
         <body><header><h1>Evenkeel API {version}</h1><nav><a href=\"#operations\">Operations</a> <a href=\"#types\">Types</a> \
         <a href=\"#answers\">Answers</a> <a href=\"#idle\">Fields without effect</a></nav>\
         <p hidden><label>Search <input type=\"search\" id=\"search\" placeholder=\"words: a path, a type, a field\"></label> \
         <output id=\"found\"></output></p></header>\n<main>"
    );
    intro(&mut out);
    operations(&mut out);
    types(&mut out);
    answers(&mut out);
    idle(&mut out);
    out.push_str("</main>\n<script>");
    out.push_str(SCRIPT);
    out.push_str("</script></body></html>\n");
    out
}

/// How calls are made, and the words of the tables.
fn intro(out: &mut String) {
    out.push_str(
        "<p>Log in with <code>POST /login</code> (<code>username</code>, <code>password</code>). Every later call carries the cookies \
         that were set; a write also repeats the cookie <code>csrftoken</code> as <code>X-CSRFToken</code>, with a <code>Referer</code> of \
         this host. Refusals are <code>{\"error\": \"…\"}</code>: what happened, to what, and what to do. The same for programs: \
         <code>GET /api/ek/openapi</code>.</p>",
    );
    for (title, words) in [("Permission", &PERMISSIONS[..]), ("Class", &CLASSES[..])] {
        let _ = write!(
            out,
            "<table><thead><tr><th>{title}<th>Meaning</thead><tbody>"
        );
        for (word, meaning) in words {
            let _ = write!(out, "<tr><td>{word}<td>{meaning}");
        }
        out.push_str("</tbody></table>\n");
    }
    out.push_str("<table><thead><tr><th>Header<th>Meaning</thead><tbody>");
    for header in openapi::headers() {
        let (name, about) = (escape(header.name), escape(header.about));
        let _ = write!(out, "<tr><td><code>{name}</code><td>{about}");
    }
    out.push_str("</tbody></table>\n");
}

/// By what they are about, each with what it takes and gives.
fn operations(out: &mut String) {
    let mut groups: BTreeMap<String, Vec<(String, String, Value)>> = BTreeMap::new();
    for (path, methods) in openapi::paths() {
        for (method, operation) in methods {
            let group = operation["tags"][0].as_str().unwrap_or_default();
            let all = groups.entry(group.to_owned()).or_default();
            all.push((method.to_uppercase(), path.clone(), operation));
        }
    }
    out.push_str("<h2 id=\"operations\">Operations</h2>\n");
    for (group, operations) in groups {
        let title = match group.as_str() {
            "evenkeel" => "Sessions, system, and Evenkeel's own",
            group => group,
        };
        let title = escape(title);
        let count = operations.len();
        let _ = write!(
            out,
            "<details class=\"part\" data-name=\"{title}\"><summary>{title} <small>{count}</small></summary><table><thead><tr><th>Method<th>Path\
             <th>Permission<th>Parameters<th>Body<th>Answer</thead><tbody>"
        );
        for (method, path, operation) in &operations {
            operation_row(out, method, path, operation);
        }
        out.push_str("</tbody></table></details>\n");
    }
}

fn operation_row(out: &mut String, method: &str, path: &str, operation: &Value) {
    let text = |field: &str| escape(operation[field].as_str().unwrap_or_default());
    let (id, permission) = (text("operationId"), text("x-permission"));
    let (path, parameters) = (escape(path), parameters(operation));
    let bodies = &operation["requestBody"]["content"];
    let answers = operation["responses"].as_object();
    let mut answers: Vec<String> = answers.into_iter().flatten().map(answer).collect();
    answers.sort_unstable();
    let _ = writeln!(
        out,
        "<tr id=\"{id}\"><td>{method}<td><code>{path}</code><td>{permission}<td>{parameters}<td>{}<td>{}",
        content(bodies),
        answers.join(" ")
    );
}

/// Those of the query, and headers of few calls; what stands in the path is seen there, and headers of many above.
fn parameters(operation: &Value) -> String {
    let all = operation["parameters"].as_array();
    let all = all.into_iter().flatten().filter_map(parameter);
    all.collect::<Vec<_>>().join(", ")
}

fn parameter(parameter: &Value) -> Option<String> {
    if let Some(reference) = parameter["$ref"].as_str() {
        let shared = openapi::parameter(reference.rsplit('/').next()?)?;
        return (!shared.is_header).then(|| format!("<code>{}</code>", escape(shared.name)));
    }
    let text = |field: &str| escape(parameter[field].as_str().unwrap_or_default());
    let (name, about) = (text("name"), text("description"));
    match parameter["in"].as_str()? {
        "query" => Some(format!("<code>{name}</code> {about}")),
        "header" => Some(format!("<code>{name}:</code> {about}")),
        _ => None,
    }
}

fn answer((status, response): (&String, &Value)) -> String {
    let what = content(&response["content"]);
    match what.is_empty() {
        true => status.clone(),
        false => format!("{status} {what}"),
    }
}

/// Media types other than JSON, and what a body is: a type, or the fields that it has.
fn content(content: &Value) -> String {
    let all = content.as_object().into_iter().flatten();
    let one = |(media, body): (&String, &Value)| match media.as_str() {
        "application/json" => shape(&body["schema"]),
        other => escape(other),
    };
    let all: Vec<String> = all.map(one).filter(|s| !s.is_empty()).collect();
    all.join(", or ")
}

fn shape(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        return link(reference.rsplit('/').next().unwrap_or_default());
    }
    if let Some(several) = schema["anyOf"].as_array() {
        let all = several.iter().map(shape).filter(|one| !one.is_empty());
        return all.collect::<Vec<_>>().join(" or ");
    }
    if schema["items"].is_object() {
        return format!("list of {}", shape(&schema["items"]));
    }
    let properties = schema["properties"].as_object();
    let results = properties.and_then(|p| p.get("results"));
    let item = results.map(|results| shape(&results["items"]));
    if let Some(item) = item.filter(|item| !item.is_empty()) {
        return format!("page of {item}");
    }
    let required = schema["required"].as_array();
    let is_required = |name: &str| required.is_some_and(|r| r.iter().any(|r| r == name));
    let names = properties.into_iter().flatten().map(|(name, _)| {
        let mark = if is_required(name) { "" } else { "?" };
        format!("<code>{}{mark}</code>", escape(name))
    });
    names.collect::<Vec<_>>().join(" ")
}

fn types(out: &mut String) {
    out.push_str("<h2 id=\"types\">Types</h2>\n");
    for ty in messages() {
        let (name, count) = (escape(&ty.name), ty.fields.len());
        let path = match ty.is_resource() {
            true => format!("<code>/api/{}</code>, ", escape(&ty.path)),
            false => String::new(),
        };
        let _ = write!(
            out,
            "<details class=\"part\" data-name=\"{name}\" id=\"type-{name}\"><summary>{name} <small>{path}{count} fields</small></summary>\
             <table><thead><tr><th>Field<th>Type<th>Class<th>Default<th>Values<th>About</thead><tbody>"
        );
        for field in &ty.fields {
            field_row(out, ty, field);
        }
        out.push_str("</tbody></table></details>\n");
    }
}

fn field_row(out: &mut String, ty: &ObjectType, field: &Field) {
    let (owner, name) = (escape(&ty.name), escape(&field.name));
    let class = openapi::class(field.class);
    let default = field.default.as_ref().map(|d| escape(&d.to_string()));
    let _ = writeln!(
        out,
        "<tr id=\"{owner}.{name}\"><td><code>{name}</code><td>{}<td class=\"{class}\">{class}<td>{}<td>{}<td>{}",
        kind(field),
        default.unwrap_or_default(),
        escape(&values(field)),
        escape(&about(field))
    );
}

/// The type in words, with a link where the page has it.
fn kind(field: &Field) -> String {
    let one = match &field.kind {
        Kind::Str => "text".to_owned(),
        Kind::Int => "whole number".to_owned(),
        Kind::Num => "number".to_owned(),
        Kind::Bool => "true or false".to_owned(),
        Kind::Ref(target) => format!("reference to {}", link(target)),
        Kind::Message(name) => link(name),
    };
    match field.list {
        true => format!("list of {one}"),
        false => one,
    }
}

fn link(name: &str) -> String {
    let text = escape(name);
    let is_here = message(name).is_some() || openapi::shapes().iter().any(|s| s.name == name);
    match is_here {
        true => format!("<a href=\"#type-{text}\">{text}</a>"),
        false => text,
    }
}

/// Range with unit, words, length.
fn values(field: &Field) -> String {
    let mut parts = Vec::new();
    match &field.range {
        Some(Range::Span(low, high)) => parts.push(format!("{low} to {high}")),
        Some(Range::Set(numbers)) => parts.push(format!("one of {numbers:?}")),
        None => {}
    }
    parts.extend(field.special.iter().map(|n| format!("or {n}")));
    parts.extend(field.unit.clone());
    if !field.words.is_empty() {
        parts.push(field.words.join(", "));
    }
    parts.extend(field.max_items.map(|max| format!("at most {max} items")));
    parts.join(" ")
}

fn about(field: &Field) -> String {
    let mut parts = Vec::new();
    if field.required && field.default.is_none() {
        parts.push("Required.".to_owned());
    }
    match field.secret {
        Some(Secret::Masked) => parts.push("Secret: read as a mask.".to_owned()),
        Some(Secret::Hidden) => parts.push("Secret: not read.".to_owned()),
        None => {}
    }
    if !field.item_keys.is_empty() {
        parts.push(format!(
            "Items are known by {}.",
            field.item_keys.join(" and ")
        ));
    }
    parts.extend(field.help.clone());
    parts.join(" ")
}

/// What calls answer with that is no object, by name.
fn answers(out: &mut String) {
    out.push_str("<h2 id=\"answers\">Answers</h2>\n");
    for shape in openapi::shapes() {
        let (name, about, count) = (escape(shape.name), escape(shape.about), shape.fields.len());
        let _ = write!(
            out,
            "<details class=\"part\" data-name=\"{name}\" id=\"type-{name}\"><summary>{name} <small>{count} fields</small></summary>\
             <p>{about}</p><table><thead><tr><th>Field<th>Type<th>About</thead><tbody>"
        );
        for field in &shape.fields {
            let (own, about) = (escape(field.name), escape(field.about));
            let mark = if field.optional { "?" } else { "" };
            let ty = field.ty.words(&link);
            let _ = writeln!(
                out,
                "<tr id=\"{name}.{own}\"><td><code>{own}{mark}</code><td>{ty}<td>{about}"
            );
        }
        out.push_str("</tbody></table></details>\n");
    }
}

/// Fields that are accepted and have no effect: by type, those that are checked, and those that are only kept; and why, where
/// that is known.
fn idle(out: &mut String) {
    out.push_str(
        "<h2 id=\"idle\">Fields without effect</h2>\n<details class=\"part\" data-name=\"without effect\"><summary>By type</summary>\
         <table><thead><tr><th>Type<th>Checked (and why, where there is a reason to give)<th>Kept and returned</thead><tbody>",
    );
    for ty in messages() {
        let of = |class: Class| {
            let fields = ty.fields.iter().filter(|f| f.class == class);
            fields.map(idle_field).collect::<Vec<_>>().join(" ")
        };
        let (checked, kept) = (of(Class::Soon), of(Class::Echo));
        if !checked.is_empty() || !kept.is_empty() {
            let (id, name) = (escape(&ty.name), link(&ty.name));
            let _ = writeln!(
                out,
                "<tr id=\"idle-{id}\"><td>{name}<td>{checked}<td>{kept}"
            );
        }
    }
    out.push_str("</tbody></table></details>\n");
}

fn idle_field(field: &Field) -> String {
    let name = escape(&field.name);
    match &field.help {
        Some(why) => format!("<code>{name}</code> ({})", escape(why)),
        None => format!("<code>{name}</code>"),
    }
}

/// As text in HTML, also between quotation marks.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
