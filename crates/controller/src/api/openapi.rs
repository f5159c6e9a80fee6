//! The API as OpenAPI 3.1, made from the table of operations and the schema of the objects: what is there is described, and
//! what is described is there. The text is checked in as `docs/api/openapi.json`.

mod answers;
mod calls;
mod parameters;
mod shape;

pub(super) use answers::shapes;
pub(super) use parameters::{find as parameter, headers, is_of_objects, names as parameters_of};

use super::operation::{Audit, Operation, Permission};
use super::{API_VERSION, inventory, resources, routes, singleton};
use axum::http::Method;
use model::object::Object;
use model::schema::{
    Class, Field, Kind, ObjectType, Range, Secret, message, messages, object_type,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The document.
pub(super) fn document() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Evenkeel controller",
            "version": API_VERSION,
            "description": "Objects and actions in the shape of Avi's API, and Evenkeel's own under /api/ek. Log in with POST /login; every later call \
                carries the session's cookies, and one that is no GET X-CSRFToken and a Referer of the same host. x-class of a field: `acts`; `checked`, and \
                without effect; `kept` and returned, without effect; `server`: filled by the controller, ignored in a write.",
        },
        "security": [{"session": []}, {"token": []}, {"basic": []}],
        "paths": paths(),
        "components": {
            "schemas": schemas(),
            "parameters": parameters::shared(),
            "headers": answer_headers(),
            "responses": refusals(),
            "securitySchemes": {
                "session": {"type": "apiKey", "in": "cookie", "name": super::session::SESSION_COOKIE},
                "csrf": {"type": "apiKey", "in": "header", "name": "X-CSRFToken", "description": "the cookie csrftoken of the login once more"},
                "token": {"type": "http", "scheme": "bearer", "description": "an API token of POST /api/user-token; the scheme Token is understood, too"},
                "basic": {"type": "http", "scheme": "basic",
                    "description": "where systemconfiguration.portal_configuration.allow_basic_authentication is true"},
            },
        },
    })
}

/// By path and method; `{type}` stands for each resource.
pub(super) fn paths() -> BTreeMap<String, BTreeMap<String, Value>> {
    let mut paths: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
    for operation in routes::OPERATIONS.iter() {
        let method = operation.method().as_str().to_lowercase();
        for (path, ty) in concrete(operation.path()) {
            let methods = paths.entry(path).or_default();
            // More literal paths stand first, and are those that answer.
            let described = || describe(operation, ty);
            methods.entry(method.clone()).or_insert_with(described);
        }
    }
    paths
}

/// The path with each type in the place of `{type}`, and the type that it is about.
pub(super) fn concrete(path: &str) -> Vec<(String, Option<&'static ObjectType>)> {
    if !path.contains("{type}") {
        let ty = path.split('/').nth(2).and_then(object_type);
        return vec![(path.to_owned(), ty)];
    }
    let each = match path.contains("{type}-inventory") {
        true => inventory::TYPES,
        false => resources::RESOURCES,
    };
    let each = each.iter();
    each.map(|name| (path.replace("{type}", name), object_type(name)))
        .collect()
}

fn describe(operation: &Operation, ty: Option<&ObjectType>) -> Value {
    let mut described = json!({
        "operationId": operation_id(operation, ty),
        "tags": [ty.map_or("evenkeel", |ty| ty.name.as_str())],
        "parameters": parameters(operation),
        "responses": responses(operation, ty),
        "x-permission": format!("{:?}", operation.permission),
    });
    if operation.permission == Permission::Public {
        described["security"] = json!([]);
    } else if *operation.method() != Method::GET {
        described["security"] = json!([{"session": [], "csrf": []}, {"token": []}, {"basic": []}]);
    }
    if let Some(content) = body(operation, ty) {
        described["requestBody"] = json!({"content": content});
    }
    described
}

/// `get_pool_by_uuid`: method and path in words.
fn operation_id(operation: &Operation, ty: Option<&ObjectType>) -> String {
    let path = operation
        .path()
        .replace("{type}", ty.map_or("", |ty| &ty.path));
    let path = path
        .trim_start_matches("/api")
        .replace("{uuid}", "by_uuid")
        .replace(['{', '}'], "");
    let words = path.split(['/', '-']).filter(|word| !word.is_empty());
    let words: Vec<&str> = words.collect();
    format!(
        "{}_{}",
        operation.method().as_str().to_lowercase(),
        words.join("_")
    )
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let in_path = operation
        .path()
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_path = in_path.filter(|name| *name != "type");
    let text = |name: &str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}});
    let mut all: Vec<Value> = in_path.map(text).collect();
    all.extend(parameters::of(operation));
    all
}

/// True for the paths that are the same for all types of objects.
fn is_object_path(operation: &Operation) -> bool {
    ["/api/{type}", "/api/{type}/{uuid}"].contains(&operation.path())
}

/// Media types of the body, with the schema; an object to be written has what it must have.
fn body(operation: &Operation, ty: Option<&ObjectType>) -> Option<Value> {
    let whole = [&Method::POST, &Method::PUT].contains(&operation.method());
    let Some(ty) = ty.filter(|_| whole && is_written_whole(operation)) else {
        return calls::body(operation);
    };
    let mut schema = reference(&ty.name);
    let mut required = required(ty);
    // What a body of PUT leaves out of these stays.
    required.retain(|name| *operation.method() == Method::POST || *name != "name");
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    Some(json!({"application/json": {"schema": schema}}))
}

/// True for objects of which there are many, and for those of which there is one.
fn is_written_whole(operation: &Operation) -> bool {
    let path = operation.path().trim_end_matches("/{uuid}");
    let one = path.strip_prefix("/api/").and_then(singleton::known);
    is_object_path(operation) || one.is_some()
}

fn responses(operation: &Operation, ty: Option<&ObjectType>) -> Value {
    let mut all = Object::new();
    if !answers::is_refused(operation) {
        all.extend(good(operation, ty));
    }
    for status in errors(operation) {
        let refusal = json!({"$ref": format!("#/components/responses/{status}")});
        all.insert(status.into(), refusal);
    }
    all.into()
}

/// Answers that say that it is done; and plans, which have a status of their own where that is another one.
fn good(operation: &Operation, ty: Option<&ObjectType>) -> Object {
    let (status, content) = success(operation, ty);
    let mut done = json!({"description": "done"});
    if let Some((media, schema)) = content {
        done["content"][media]["schema"] = schema;
    }
    if operation.audit == Audit::Change {
        done["headers"] = header_references(status);
    }
    let mut all = Object::new();
    if operation.plans {
        let plan = json!({"application/json": {"schema": reference("Plan")}});
        match status {
            "200" => done["content"] = either(&done["content"], &plan),
            _ => drop(all.insert(
                "200".into(),
                json!({"description": "a plan (dry_run)", "content": plan}),
            )),
        }
    }
    all.insert(status.into(), done);
    all
}

/// Of an answer to a change.
fn header_references(status: &str) -> Value {
    let header = |name: &str| {
        (
            name.to_owned(),
            json!({"$ref": format!("#/components/headers/{name}")}),
        )
    };
    let names = ["X-Evenkeel-Revision", "Location"].into_iter();
    // What was created has a place.
    let names = names.filter(|name| *name != "Location" || status == "201");
    names.map(header).collect::<Object>().into()
}

/// Headers of answers, beside AVI_API_VERSION and the session's cookies, which all have.
fn answer_headers() -> Value {
    let text = |about: &str| json!({"description": about, "schema": {"type": "string"}});
    json!({
        "X-Evenkeel-Revision": {"description": "the revision that the change has become; missing where nothing was different", "schema": {"type": "integer"}},
        "Location": text("URL of what was created, with its name after #"),
    })
}

/// One of two answers of the same status; the first may have no body, or one of another media type.
fn either(one: &Value, other: &Value) -> Value {
    let mut all = one.as_object().cloned().unwrap_or_default();
    let mut json = other["application/json"].clone();
    if let Some(own) = all.get("application/json") {
        json["schema"] = json!({"anyOf": [own["schema"], json["schema"]]});
    }
    all.insert("application/json".into(), json);
    all.into()
}

/// Status, media type and schema of the answer.
fn success(
    operation: &Operation,
    ty: Option<&ObjectType>,
) -> (&'static str, Option<(&'static str, Value)>) {
    let object = || ty.map_or_else(|| json!({}), |ty| reference(&ty.name));
    let item = || {
        ty.map_or_else(
            || json!({}),
            |ty| reference(&format!("{}Inventory", ty.name)),
        )
    };
    let json = |schema| Some(("application/json", schema));
    match (operation.method(), operation.path()) {
        (&Method::DELETE, _) => ("204", None),
        (&Method::GET, "/api/{type}") => ("200", json(shape::counted(&object(), true))),
        (&Method::POST, "/api/{type}") => ("201", json(object())),
        (_, "/api/{type}/{uuid}") => ("200", json(object())),
        (_, "/api/{type}-inventory") => ("200", json(shape::counted(&item(), true))),
        (_, "/api/{type}-inventory/{uuid}") => ("200", json(item())),
        _ if is_written_whole(operation) => ("200", json(object())),
        (&Method::POST, "/api/ek/jointoken" | "/api/user-token") => {
            ("201", calls::answer(operation))
        }
        _ => ("200", calls::answer(operation)),
    }
}

/// Of the refusals, those that an operation may answer with.
fn errors(operation: &Operation) -> Vec<&'static str> {
    let mut all = vec!["400", "503"];
    let public = operation.permission == Permission::Public;
    if !public {
        all.push("401");
    }
    all.push("429");
    match public {
        true => all.push("408"),
        false => all.extend(["403", "404"]),
    }
    if *operation.method() != Method::GET {
        all.extend(["409", "412", "413", "507"]);
    }
    all.extend(calls::errors(operation));
    all
}

/// Answers that say no, by status.
fn refusals() -> BTreeMap<&'static str, Value> {
    let refusal = |(status, about): (&'static str, &str)| {
        let content = json!({"application/json": {"schema": reference("Error")}});
        (status, json!({"description": about, "content": content}))
    };
    let mut all: BTreeMap<_, _> = [
        (
            "400",
            "the request is wrong; the text names the field and what to do",
        ),
        ("401", "nobody, or a write without its CSRF token"),
        ("403", "the caller may not, or the tenant does not exist"),
        ("404", "there is no such object"),
        (
            "409",
            "in conflict with another object, or referred to by one",
        ),
        ("408", "the body did not come in time"),
        ("410", "the log does not go back that far"),
        ("412", "the object was changed since it was read"),
        ("413", "the body is too long"),
        (
            "429",
            "too many failed logins, or too many calls; without a session, from one address",
        ),
        ("503", "the store does not answer"),
        ("507", "the disk is full; nothing was changed"),
    ]
    .map(refusal)
    .into();
    let known = json!({"description": "it is as the caller has it (If-None-Match)"});
    all.insert("304", known);
    all
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// Every type of the schema, what else calls answer with, and the answer that says no.
fn schemas() -> BTreeMap<&'static str, Value> {
    let types = messages().map(|ty| (ty.name.as_str(), schema(ty)));
    let error = json!({
        "type": "object", "required": ["error"],
        "properties": {"error": {"type": "string", "description": "what happened, to what, and what to do"}},
    });
    let shapes = shapes().iter().map(|shape| (shape.name, shape.schema()));
    types.chain(shapes).chain([("Error", error)]).collect()
}

/// Fields that are not named are kept as they are. What is read of an object may be part of it (`fields`, `exclude`): what it
/// must have stands where it is written.
fn schema(ty: &ObjectType) -> Value {
    let properties: Object = ty
        .fields
        .iter()
        .map(|f| (f.name.clone(), property(f)))
        .collect();
    let mut schema = json!({"type": "object", "properties": properties});
    let required = required(ty);
    if !ty.is_resource() && !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// Fields that a body must have: no default stands in for them.
fn required(ty: &ObjectType) -> Vec<&str> {
    let needed = ty
        .fields
        .iter()
        .filter(|f| f.required && f.default.is_none() && !f.is_server_owned());
    needed.map(|f| f.name.as_str()).collect()
}

fn property(field: &Field) -> Value {
    let mut property = match field.list {
        true => json!({"type": "array", "items": value(field)}),
        false => value(field),
    };
    let mut put = |name: &str, value: Value| property[name] = value;
    if let Some(max) = field.max_items {
        put("maxItems", max.into());
    }
    if let Some(default) = &field.default {
        put("default", default.clone());
    }
    if field.is_server_owned() {
        put("readOnly", true.into());
    }
    if field.secret == Some(Secret::Hidden) {
        put("writeOnly", true.into());
    }
    if let Some(unit) = &field.unit {
        put("x-unit", unit.as_str().into());
    }
    put("x-class", class(field.class).into());
    if let Some(help) = &field.help {
        put("description", help.as_str().into());
    }
    property
}

/// What the product does with a field (avi-api section 12).
pub(super) fn class(class: Class) -> &'static str {
    match class {
        Class::Honoured => "acts",
        Class::Soon => "checked",
        Class::ServerOwned => "server",
        Class::Echo => "kept",
    }
}

/// Of the value, or of an item.
fn value(field: &Field) -> Value {
    match &field.kind {
        Kind::Str if field.words.is_empty() => json!({"type": "string"}),
        Kind::Str => json!({"type": "string", "enum": field.words}),
        Kind::Int => integer(field),
        Kind::Num => json!({"type": "number"}),
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Ref(target) => {
            json!({"type": "string", "description": format!("reference to a {target}")})
        }
        Kind::Message(name) if message(name).is_some() => reference(name),
        // A structure that the schema does not describe is kept as given.
        Kind::Message(_) => json!({}),
    }
}

/// With the numbers outside of the range that mean something of their own.
fn integer(field: &Field) -> Value {
    let range = match &field.range {
        None => return json!({"type": "integer"}),
        Some(Range::Span(low, high)) => json!({"type": "integer", "minimum": low, "maximum": high}),
        Some(Range::Set(numbers)) => json!({"type": "integer", "enum": numbers}),
    };
    match field.special.is_empty() {
        true => range,
        false => json!({"anyOf": [range, {"type": "integer", "enum": field.special}]}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// `EVENKEEL_WRITE=1` writes the file instead.
    #[test]
    fn the_checked_in_document_is_what_is_served() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api/openapi.json");
        let text = format!("{:#}\n", document());
        if std::env::var_os("EVENKEEL_WRITE").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(there == text, "run `make openapi`: the API has changed");
    }

    #[test]
    fn every_operation_is_described_under_a_name_of_its_own() {
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        let methods = paths
            .values()
            .flat_map(|path| path.as_object().unwrap().values());
        let mut names: Vec<&str> = methods
            .map(|m| m["operationId"].as_str().unwrap())
            .collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        for operation in routes::OPERATIONS.iter() {
            let method = operation.method().as_str().to_lowercase();
            for (path, _) in concrete(operation.path()) {
                assert!(paths[&path].get(&method).is_some(), "{method} {path}");
            }
        }
    }

    /// Answers that are no JSON: why.
    const NO_JSON: [(&str, &str); 5] = [
        ("/metrics", "text as OpenMetrics has it"),
        ("/api/ek/backup", "a file of SQLite"),
        ("/api/ek/doc", "a page"),
        ("/api/ek/event", "a stream of events"),
        ("/api/ek/flowevent/stream", "a stream of events"),
    ];

    #[test]
    fn every_answer_has_a_schema_that_says_something() {
        let mut silent = Vec::new();
        for (path, methods) in paths() {
            for (method, operation) in methods {
                let responses = operation["responses"].as_object().unwrap();
                let good = responses
                    .iter()
                    .filter(|(status, _)| status.starts_with('2'));
                let bodies = good.filter_map(|(_, response)| response["content"].as_object());
                for (media, body) in bodies.flatten() {
                    if media != "application/json" {
                        assert!(NO_JSON.iter().any(|(known, _)| *known == path), "{path}");
                    } else if !says_something(&body["schema"]) {
                        silent.push(format!("{method} {path}"));
                    }
                }
            }
        }
        assert!(
            silent.is_empty(),
            "say what they answer in openapi/answers: {silent:?}"
        );
    }

    fn says_something(schema: &Value) -> bool {
        let words = ["type", "$ref", "enum"];
        let several = schema["anyOf"].as_array();
        several.is_some_and(|all| all.iter().all(says_something))
            || words.iter().any(|word| schema.get(word).is_some())
    }

    #[test]
    fn a_plan_stands_beside_whatever_the_answer_is() {
        let document = document();
        let media = |path: &str| {
            let content = &document["paths"][path]["post"]["responses"]["200"]["content"];
            let content = content.as_object().unwrap();
            content.keys().map(String::as_str).collect::<Vec<_>>()
        };
        assert_eq!(
            media("/api/ek/backup"),
            ["application/vnd.sqlite3", "application/json"]
        );
        assert_eq!(media("/api/ek/confirm"), ["application/json"]);
    }

    #[test]
    fn an_action_that_is_always_refused_has_no_good_answer() {
        for operation in routes::OPERATIONS.iter() {
            let responses = responses(operation, None);
            let all = responses.as_object().unwrap();
            let good = all.keys().any(|status| status.starts_with('2'));
            assert_eq!(
                good,
                !answers::is_refused(operation),
                "{}",
                operation.name()
            );
        }
    }

    #[test]
    fn every_reference_has_its_target() {
        let document = document();
        let text = document.to_string();
        let targets = text
            .split("\"$ref\":\"#")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap());
        let mut seen = 0;
        for target in targets {
            assert!(document.pointer(target).is_some(), "{target}");
            seen += 1;
        }
        assert!(seen > 500, "{seen}");
    }
}
