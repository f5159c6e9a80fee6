//! Call sequences of clients as data (avi-api 16.6): requests with their bodies, and what must be in the answers. Each file
//! in `sequences/` is one, made for this test from what the clients are known to send (avi-api 4).
//!
//! A step has `method`, `path`, and may have: `as` (whose session; `admin` unless said), `headers`, `json` or `form` (the
//! body), `status`, `text` (what must be in the answer as it stands), `answer` (fields that must be in it; lists item by item,
//! `*` is anything, `…x` ends in x), `absent` (pointers that must lead nowhere), `keep` (names for what pointers lead to, used
//! as `{{name}}` later).

use crate::http::{Http, PASSWORD, Reply, Server};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::tempdir;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract/sequences")
}

/// Plays a sequence; every client has its own cookies, as clients keep them.
struct Player {
    server: Server,
    clients: BTreeMap<String, Http>,
    kept: BTreeMap<String, String>,
}

impl Player {
    fn fill(&self, text: &str) -> String {
        let mut filled = text.to_owned();
        for (name, value) in &self.kept {
            filled = filled.replace(&format!("{{{{{name}}}}}"), value);
        }
        assert!(!filled.contains("{{"), "nothing was kept for {filled}");
        filled
    }

    fn play(&mut self, step: &Value) {
        let step: Value = serde_json::from_str(&self.fill(&step.to_string())).unwrap();
        let what = format!("{} {}", step["method"], step["path"]);
        let client = step["as"].as_str().unwrap_or("admin");
        let known = self.clients.get(client).cloned();
        let mut http = known.unwrap_or_else(|| self.server.http());
        let reply = send(&http, &step);
        learn(&mut http, &reply);
        self.clients.insert(client.to_owned(), http);
        let status = step["status"].as_u64().unwrap_or(200);
        assert_eq!(u64::from(reply.status), status, "{what}: {}", reply.text);
        if let Some(text) = step["text"].as_str() {
            assert!(reply.text.contains(text), "{what}: {}", reply.text);
        }
        self.compare(&what, &step, &reply);
    }

    fn compare(&mut self, what: &str, step: &Value, reply: &Reply) {
        let answer = || reply.json();
        if let Some(expected) = step.get("answer") {
            has(expected, &answer(), what);
        }
        for pointer in step["absent"].as_array().into_iter().flatten() {
            let found = answer().pointer(pointer.as_str().unwrap()).cloned();
            assert_eq!(found, None, "{what}: {pointer}");
        }
        for (name, pointer) in step["keep"].as_object().into_iter().flatten() {
            let answer = answer();
            let found = answer.pointer(pointer.as_str().unwrap());
            let found = found.and_then(Value::as_str);
            let found = found.unwrap_or_else(|| panic!("{what}: {pointer} in {answer}"));
            self.kept.insert(name.clone(), found.to_owned());
        }
    }
}

fn send(http: &Http, step: &Value) -> Reply {
    let mut http = http.with("Content-Type", "application/json");
    let mut body = step.get("json").map(Value::to_string).unwrap_or_default();
    if let Some(form) = step["form"].as_str() {
        http = http.with("Content-Type", "application/x-www-form-urlencoded");
        form.clone_into(&mut body);
    }
    for (name, value) in step["headers"].as_object().into_iter().flatten() {
        http = http.with(name, value.as_str().unwrap());
    }
    let (method, path) = (step["method"].as_str(), step["path"].as_str());
    http.text(method.unwrap(), path.unwrap(), &body)
}

/// Cookies of the answer, in the place of older ones.
fn learn(http: &mut Http, reply: &Reply) {
    let Some(id) = reply.cookie("avi-sessionid") else {
        return;
    };
    let before = http.headers.iter().find(|(n, _)| n == "X-CSRFToken");
    let before = before.map(|(_, v)| v.clone());
    let Some(csrf) = reply.cookie("csrftoken").or(before) else {
        return;
    };
    let cookies = format!("avi-sessionid={id}; sessionid={id}; csrftoken={csrf}");
    *http = http.with("Cookie", &cookies).with("X-CSRFToken", &csrf);
}

/// Everything expected is there.
fn has(expected: &Value, there: &Value, at: &str) {
    match (expected, there) {
        (Value::String(any), _) if any == "*" => {
            assert!(!there.is_null(), "{at}: is missing");
        }
        (Value::String(end), Value::String(text)) if end.starts_with('…') => {
            let end = end.trim_start_matches('…');
            assert!(text.ends_with(end), "{at}: {text} does not end in {end}");
        }
        (Value::Object(expected), _) => {
            for (field, value) in expected {
                has(value, &there[field], &format!("{at}.{field}"));
            }
        }
        (Value::Array(expected), Value::Array(items)) => {
            assert_eq!(expected.len(), items.len(), "{at}: {there}");
            for (i, (expected, item)) in expected.iter().zip(items).enumerate() {
                has(expected, item, &format!("{at}[{i}]"));
            }
        }
        (expected, there) => assert_eq!(expected, there, "{at}"),
    }
}

fn replay(name: &str) {
    let text = std::fs::read_to_string(folder().join(name)).unwrap();
    let sequence: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
    let data = tempdir().unwrap();
    let mut player = Player {
        server: Server::start(data.path()),
        clients: BTreeMap::new(),
        kept: [("password".to_owned(), PASSWORD.to_owned())].into(),
    };
    let steps = sequence["steps"].as_array().unwrap();
    assert!(steps.len() > 5, "{name}");
    for step in steps {
        player.play(step);
    }
}

#[test]
fn a_virtual_service_is_made_changed_and_deleted_as_a_python_script_does() {
    replay("vs-basic.json");
}

#[test]
fn a_virtual_service_gets_its_certificate_and_tls_profile() {
    replay("vs-tls.json");
}

#[test]
fn a_virtual_service_is_cloned_with_its_pool() {
    replay("clone.json");
}

#[test]
fn objects_of_the_same_name_live_in_several_tenants() {
    replay("tenants.json");
}

#[test]
fn a_user_logs_in_changes_his_password_and_logs_out() {
    replay("user-login.json");
}

#[test]
fn every_sequence_is_played() {
    let played = [
        "clone.json",
        "tenants.json",
        "user-login.json",
        "vs-basic.json",
        "vs-tls.json",
    ];
    let files = std::fs::read_dir(folder()).unwrap();
    let mut names: Vec<String> = files
        .map(|f| f.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, played);
}

#[test]
#[should_panic(expected = "x.results[0].name")]
fn an_answer_that_lacks_what_is_expected_fails() {
    let expected = serde_json::json!({"results": [{"name": "web"}]});
    has(
        &expected,
        &serde_json::json!({"results": [{"name": "api"}]}),
        "x",
    );
}
