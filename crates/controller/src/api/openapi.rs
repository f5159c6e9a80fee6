//! The API as OpenAPI 3.1, made from the table of operations and the schema of the objects: what is there is described, and
//! what is described is there. The text is checked in as `docs/api/openapi.json`.

mod calls;

use super::operation::{Operation, Permission};
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
                carries the session's cookies, and writes X-CSRFToken and a Referer of the same host. x-class of a field: `acts`; `checked`, and acts when \
                its feature comes; `kept` and returned; `server`: filled by the controller, ignored in a write.",
        },
        "security": [{"session": []}, {"token": []}, {"basic": []}],
        "paths": paths(),
        "components": {
            "schemas": schemas(),
            "parameters": all_parameters(),
            "responses": refusals(),
            "securitySchemes": {
                "session": {"type": "apiKey", "in": "cookie", "name": super::session::SESSION_COOKIE},
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
    all.extend(calls::parameters(operation));
    if operation.plans {
        all.push(json!({"$ref": "#/components/parameters/dry_run"}));
    }
    let listed = is_object_path(operation) || operation.path() == "/api/{type}-inventory";
    if listed && *operation.method() == Method::GET {
        let names = list_parameters();
        all.extend(
            names
                .keys()
                .map(|name| json!({"$ref": format!("#/components/parameters/{name}")})),
        );
    }
    all
}

/// True for the paths that are the same for all types of objects.
fn is_object_path(operation: &Operation) -> bool {
    ["/api/{type}", "/api/{type}/{uuid}"].contains(&operation.path())
}

/// Of reading objects (avi-api 5.3).
fn list_parameters() -> BTreeMap<&'static str, Value> {
    let parameter = |(name, about, schema): (&'static str, &str, Value)| {
        (
            name,
            json!({"name": name, "in": "query", "description": about, "schema": schema}),
        )
    };
    let text = || json!({"type": "string"});
    let number = |max: i64| json!({"type": "integer", "minimum": 1, "maximum": max});
    [
        ("name", "exact name", text()),
        ("search", "part of the name or of an address", text()),
        ("fields", "only these, separated by commas", text()),
        ("exclude", "without these, separated by commas", text()),
        ("include_name", "#name after every reference", text()),
        ("skip_default", "true: without what is a default", text()),
        ("sort", "field; with - before it, downwards", text()),
        ("page", "from 1", number(i64::from(u32::MAX))),
        ("page_size", "results of a page", number(200)),
    ]
    .map(parameter)
    .into()
}

/// Those, and that of writing.
fn all_parameters() -> BTreeMap<&'static str, Value> {
    let about =
        "true: nothing is done or stored, and the answer is 200 with what would be done (Plan)";
    let dry_run = json!({"name": "dry_run", "in": "query", "description": about, "schema": {"type": "string"}});
    let mut all = list_parameters();
    all.insert("dry_run", dry_run);
    all
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
    let (status, content) = success(operation, ty);
    let mut good = json!({"description": "done"});
    if let Some((media, schema)) = content {
        good["content"][media]["schema"] = schema;
    }
    if operation.plans {
        let plan = json!({"description": "a plan (dry_run)", "content": {"application/json": {"schema": reference("Plan")}}});
        match all.contains_key("200") || status == "200" {
            true => good["content"] = either(&good["content"], &plan["content"]),
            false => drop(all.insert("200".into(), plan)),
        }
    }
    all.insert(status.into(), good);
    for status in errors(operation) {
        let refusal = json!({"$ref": format!("#/components/responses/{status}")});
        all.insert(status.into(), refusal);
    }
    all.into()
}

/// One of two answers of the same status.
fn either(one: &Value, other: &Value) -> Value {
    let schema = |content: &Value| match content.pointer("/application~1json/schema") {
        Some(schema) => schema.clone(),
        None => json!({}),
    };
    json!({"application/json": {"schema": {"anyOf": [schema(one), schema(other)]}}})
}

/// Status, media type and schema of the answer.
fn success(
    operation: &Operation,
    ty: Option<&ObjectType>,
) -> (&'static str, Option<(&'static str, Value)>) {
    let object = || ty.map_or_else(|| json!({}), |ty| reference(&ty.name));
    let list = || {
        json!({
            "type": "object", "required": ["count", "results"],
            "properties": {"count": {"type": "integer"}, "next": {"type": "string"}, "results": {"type": "array", "items": object()}},
        })
    };
    let json = |schema| Some(("application/json", schema));
    match (operation.method(), operation.path()) {
        (&Method::DELETE, _) => ("204", None),
        (&Method::GET, "/api/{type}") => ("200", json(list())),
        (&Method::POST, "/api/{type}") => ("201", json(object())),
        (_, "/api/{type}/{uuid}") => ("200", json(object())),
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
    [
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
    .into()
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// Every type of the schema, and the answer that says no.
fn schemas() -> BTreeMap<&'static str, Value> {
    let types = messages().map(|ty| (ty.name.as_str(), schema(ty)));
    let error = json!({
        "type": "object", "required": ["error"],
        "properties": {"error": {"type": "string", "description": "what happened, to what, and what to do"}},
    });
    types.chain([("Error", error), ("Plan", plan())]).collect()
}

/// The answer to a dry run.
fn plan() -> Value {
    let text = || json!({"type": "string"});
    let number = || json!({"type": "integer"});
    let texts = || json!({"type": "array", "items": text()});
    let object = |properties: Value| json!({"type": "object", "properties": properties});
    let list = |item: Value| {
        object(json!({"count": number(), "results": {"type": "array", "items": item}}))
    };
    let moves = || json!({"type": "array", "items": object(json!({"se_uuid": text(), "se_name": text(), "reason": text()}))});
    let route = |more: Value| {
        let mut route = json!({"vip": text(), "vsvip": text(), "se_uuid": text(), "se_name": text(), "peers": texts()});
        if let (Some(route), Value::Object(more)) = (route.as_object_mut(), more) {
            route.extend(more);
        }
        list(object(route))
    };
    let written = object(json!({
        "type": text(), "uuid": text(), "name": {"type": ["string", "null"]}, "action": {"type": "string", "enum": ["create", "update", "delete"]},
        "changes": {"type": "array", "items": object(json!({"field": text(), "old": {}, "new": {}}))}, "before": {}, "after": {},
    }));
    let placed = object(json!({
        "vsvip": text(), "vsvip_uuid": text(), "virtual_services": texts(),
        "result": {"type": "string", "enum": ["placed", "removed", "moved", "scaled_out", "scaled_in", "switched_over", "waiting"]},
        "engines": texts(), "engines_before": texts(), "added": moves(), "removed": moves(), "waits_for": {"type": ["string", "null"]},
    }));
    let flows = object(json!({
        "of": {"type": "string", "enum": ["virtualservice", "server"]}, "virtual_service": text(), "virtual_service_uuid": text(),
        "pool": text(), "pool_uuid": text(), "server": text(), "port": number(), "se_uuid": text(), "se_name": text(),
        "flows": {"type": ["integer", "null"]}, "oldest_s": {"type": ["integer", "null"]},
        "outcome": {"type": "string", "enum": ["kept", "without_route", "ended", "not_known"]},
    }));
    let mut placement = list(placed);
    placement["properties"]["not_looked_at"] = number();
    let mut plan = object(json!({
        "dry_run": {"const": true}, "revision": number(), "objects": list(written), "placement": placement,
        "routes": object(json!({"announced": route(json!({})), "withdrawn": route(json!({"in_force": {"type": "boolean"}}))})),
        "flows": list(flows), "effects": texts(),
    }));
    plan["required"] = json!([
        "dry_run",
        "revision",
        "objects",
        "placement",
        "routes",
        "flows"
    ]);
    plan
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
