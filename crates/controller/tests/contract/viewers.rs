//! Who may only look: every operation of the table that is no GET refuses him, and changes nothing.

use crate::http::{Http, Server, own_path};
use crate::types::make_all;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tempfile::tempdir;

/// The table of operations in words, as it is checked in.
const OPERATIONS: &str = include_str!("../../src/api/operations.txt");

/// What a viewer may call all the same, and why.
const HIS_OWN: [(&str, &str); 9] = [
    ("POST /login", "it is how he comes in"),
    ("POST /logout", "ends his own session"),
    (
        "POST /api/ek/cluster/hello",
        "is for other controllers: their pass says who may",
    ),
    ("PUT /api/useraccount", "changes his own password"),
    ("POST /api/user-token", "makes a token of his own"),
    (
        "DELETE /api/user-token/{uuid}",
        "revokes a token of his own",
    ),
    (
        "POST /api/ek/confirm",
        "confirms what he has written himself, which is nothing",
    ),
    (
        "POST /api/ek/change",
        "each write in it takes the right that it takes alone: see below",
    ),
    (
        "POST /api/analytics/metrics/collection",
        "is a question, too long for a path",
    ),
];

/// Method and path of each operation that is no GET and no exception.
fn writes() -> Vec<(&'static str, &'static str)> {
    let all = OPERATIONS.lines().map(|line| {
        let mut words = line.split_whitespace().skip(2);
        (words.next().unwrap(), words.next().unwrap())
    });
    let writes: Vec<_> = all.filter(|(method, _)| *method != "GET").collect();
    for (name, _) in HIS_OWN {
        let there = writes.iter().any(|(m, path)| format!("{m} {path}") == name);
        assert!(there, "{name} is an exception from nothing");
    }
    let is_his = |method: &str, path: &str| {
        let name = format!("{method} {path}");
        HIS_OWN.iter().any(|(his, _)| *his == name)
    };
    let refused = writes.into_iter().filter(|&(m, path)| !is_his(m, path));
    refused.collect()
}

/// An object of each type that there is: type and `/api/TYPE/UUID`.
fn objects(admin: &Http) -> Vec<(&'static str, String)> {
    let mut made = make_all(admin);
    for (ty, name) in [("user", "vera"), ("role", "WAF-Admin")] {
        let found = admin.get(&format!("/api/{ty}?name={name}")).good();
        made.push((ty, own_path(&found["results"][0])));
    }
    made
}

fn uuid(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

/// The paths of an operation: of each type where it is for all, about an object that is there and one that is not.
fn paths(pattern: &str, objects: &[(&'static str, String)]) -> BTreeSet<String> {
    let all = objects.iter().map(|(ty, _)| *ty);
    let types: Vec<&str> = match pattern.contains("{type}") {
        true => all.collect(),
        false => vec![pattern.split('/').nth(2).unwrap()],
    };
    let mut paths = BTreeSet::new();
    for ty in types {
        let there = objects.iter().filter(|(of, _)| *of == ty);
        let there = there.map(|(_, path)| uuid(path));
        for uuid in there.chain(["made-up-1"]) {
            paths.insert(pattern.replace("{type}", ty).replace("{uuid}", uuid));
        }
    }
    paths
}

/// The newest revision that was not the planner's own, and all objects.
fn state(admin: &Http) -> (Value, Value) {
    let log = admin.get("/api/ek/audit?page_size=200").good();
    let mut commits = log["results"].as_array().unwrap().iter();
    let newest = commits.find(|c| c["who"] != "system:planner").unwrap();
    let export = admin.get("/api/ek/export").good();
    (newest["revision"].clone(), export["objects"].clone())
}

#[test]
fn every_operation_that_is_no_get_refuses_a_viewer_and_changes_nothing() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let admin = server.logged_in();
    admin.make("tenant", json!({"name": "t1"}));
    let (_, vera) = server.user(&admin, "vera", "Application-Operator", None);
    let (_, tom) = server.user(&admin, "tom", "Application-Operator", Some("t1"));
    let objects = objects(&admin);
    let before = state(&admin);
    let mut calls = 0;
    for (method, pattern) in writes() {
        for path in paths(pattern, &objects) {
            let text = vera.text(method, &path, "");
            assert_eq!(text.status, 403, "{method} {path}: {}", text.text);
            assert!(text.text.contains("vera may not"), "{}", text.text);
            // What he does not see is not there for him.
            let elsewhere = tom.text(method, &path, "").status;
            assert!([403, 404].contains(&elsewhere), "{method} {path}");
            calls += 1;
        }
    }
    assert!(calls > 4 * objects.len(), "{calls}: the table was not read");
    assert_eq!(state(&admin), before);
}

#[test]
fn several_writes_at_once_are_refused_to_a_viewer_as_each_of_them_is() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let admin = server.logged_in();
    let (_, vera) = server.user(&admin, "vera", "Application-Operator", None);
    let objects = objects(&admin);
    let before = state(&admin);
    for (ty, path) in &objects {
        for uuid in [json!(null), json!("made-up-1"), json!(uuid(path))] {
            let write = json!({"type": ty, "uuid": uuid, "object": {"name": "new"}});
            let change = json!({"writes": [write]});
            let text = vera.post("/api/ek/change", &change).refused(403);
            assert!(text.contains("vera may not write a "), "{text}");
        }
    }
    assert_eq!(state(&admin), before);
}
