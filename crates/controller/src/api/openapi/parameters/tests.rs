use super::*;
use crate::api::{openapi, query, routes};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Names that code asks for, and that no call may have: why.
const NOT_DESCRIBED: [(&str, &str); 5] = [
    ("groupby", "is refused whatever it says"),
    ("intfname", "is refused whatever it says"),
    ("conn_type", "is refused whatever it says"),
    ("src", "the beginning of src_ip_addr and others"),
    ("dst", "the beginning of dst_ip_addr and others"),
];

/// How code asks for a parameter, without spaces.
const QUESTIONS: [&str; 9] = [
    "context.get(\"",
    ".asks(\"",
    "lookup(\"",
    "(lookup,\"",
    "named(context,\"",
    "given(\"",
    "time(\"",
    "number(\"",
    "list(\"",
];

/// How names of headers begin that clients may write.
const HEADERS: [&str; 4] = ["X-Avi-", "X-Evenkeel-", "X-CSRF", "Last-Event"];

/// Headers that are no parameters: why.
const NO_PARAMETERS: [(&str, &str); 3] = [
    ("X-CSRFToken", "a security scheme"),
    ("X-Evenkeel-Revision", "of answers"),
    (
        "X-Evenkeel-Not-Done",
        "of answers that one controller gives another",
    ),
];

#[test]
fn the_table_can_be_read_and_is_of_operations_and_groups_that_there_are() {
    let table = Table::parse(TEXT).unwrap();
    for ((method, path), section) in &table.calls {
        let mut all = routes::OPERATIONS.iter();
        let there = all.any(|o| o.method().as_str() == *method && o.path() == *path);
        assert!(there, "{method} {path} is no operation");
        for group in &section.groups {
            assert!(table.groups.contains_key(group), "{group} is no group");
        }
    }
}

#[test]
fn no_operation_has_a_parameter_twice() {
    let shared = shared();
    for operation in routes::OPERATIONS.iter() {
        let mut names = BTreeSet::new();
        for parameter in of(operation) {
            let name = match parameter["$ref"].as_str() {
                Some(reference) => &shared[reference.rsplit('/').next().unwrap()]["name"],
                None => &parameter["name"],
            };
            let again = !names.insert(name.to_string());
            assert!(!again, "{name} of {}", operation.name());
        }
    }
}

#[test]
fn a_call_has_the_names_of_its_query_in_the_order_of_its_groups_and_no_header() {
    let of = |path: &str| {
        let mut all = routes::OPERATIONS.iter();
        let operation = all.find(|o| *o.method() == Method::POST && o.path() == path);
        names(operation.unwrap())
    };
    assert_eq!(of("/api/virtualservice/clear"), ["dry_run", "uuid", "name"]);
    assert_eq!(of("/api/virtualservice/{uuid}/resync"), ["dry_run"]);
}

#[test]
fn what_reading_objects_reserves_is_described_with_it() {
    let operation = |path: &str| {
        let mut all = routes::OPERATIONS.iter();
        all.find(|o| *o.method() == Method::GET && o.path() == path)
            .unwrap()
    };
    let shown = ["/api/{type}", "/api/{type}-inventory"].map(|path| of(operation(path)));
    let all = shown.concat();
    let text = Value::from(all).to_string();
    for name in query::RESERVED {
        let shared = format!(".{name}\"");
        let own = format!("\"name\":\"{name}\"");
        assert!(text.contains(&shared) || text.contains(&own), "{name}");
    }
}

#[test]
fn every_parameter_that_code_asks_for_is_described() {
    let described: BTreeSet<&str> = every().map(|p| p.name).collect();
    let mut asked = BTreeSet::new();
    for text in sources() {
        let text: String = text.split_whitespace().collect();
        for question in QUESTIONS {
            asked.extend(texts_after(&text, question));
        }
    }
    assert!(asked.len() > 40, "{asked:?}");
    asked.retain(|name| {
        let excused = NOT_DESCRIBED.iter().any(|(known, _)| known == name);
        !excused && !described.contains(name.as_str())
    });
    assert!(asked.is_empty(), "add them to parameters.txt: {asked:?}");
}

#[test]
fn every_header_that_code_knows_is_described() {
    let described: BTreeSet<String> = headers().map(|p| p.name.to_lowercase()).collect();
    let mut known = BTreeSet::new();
    for text in sources() {
        let text = text.to_lowercase();
        for begin in HEADERS.map(str::to_lowercase) {
            let found = texts_after(&text, &format!("\"{begin}"));
            let names =
                found.filter(|rest| rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
            known.extend(names.map(|rest| format!("{begin}{rest}")));
        }
    }
    assert!(known.len() > 6, "{known:?}");
    known.retain(|name| {
        let mut excused = NO_PARAMETERS.iter();
        !excused.any(|(known, _)| known.eq_ignore_ascii_case(name)) && !described.contains(name)
    });
    assert!(known.is_empty(), "add them to parameters.txt: {known:?}");
    let schemes = &openapi::document()["components"]["securitySchemes"];
    assert_eq!(schemes["csrf"]["name"], "X-CSRFToken");
}

/// Texts in quotes whose beginning is this, without it.
fn texts_after<'a>(text: &'a str, begin: &str) -> impl Iterator<Item = String> + use<'a> {
    let begin = begin.to_owned();
    let rests: Vec<&str> = text.split(begin.as_str()).skip(1).collect();
    let each = rests.into_iter();
    each.filter_map(|rest| rest.split('"').next().map(str::to_owned))
}

/// The code of the API and of what it asks, without tests, and without the tables of what is described.
fn sources() -> Vec<String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut todo: Vec<PathBuf> = ["api", "plan", "cluster", "objects/author.rs"]
        .map(|name| src.join(name))
        .into();
    let mut texts = Vec::new();
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            let inside = std::fs::read_dir(path).unwrap();
            todo.extend(inside.map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|e| e == "rs") && !is_left_out(&path) {
            let text = std::fs::read_to_string(path).unwrap();
            let product = text.split("#[cfg(test)]").next().unwrap();
            texts.push(product.to_owned());
        }
    }
    texts
}

fn is_left_out(path: &Path) -> bool {
    let names = ["tests", "tests.rs", "openapi", "openapi.rs"];
    let mut parts = path.components();
    parts.any(|part| names.iter().any(|name| part.as_os_str() == *name))
}
