//! Unique secrets in every secret field of every type, in passwords and in tokens: none of them is in anything that a
//! controller says, at the most talkative log level, nor in the files that it keeps.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use model::object::{Object, can_have_secrets, map_secrets};
use model::schema::{Field, Kind, ObjectType, Range, message, object_type, object_types};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use support::{Controller, free_address, unpack};
use ureq::http::{HeaderMap, Request};

/// Every secret that we think of begins so, and nothing else does.
const PLANTED: &str = "planted-";
const PASSWORD: &str = "planted-password-of-admin";
/// Secret fields of the types that the API serves, with those deep in them; more may come.
const FIELDS_MIN: usize = 33;

/// A controller at its most talkative.
fn start(folder: &Path) -> Controller {
    let log = std::fs::File::create(folder.join("log")).unwrap();
    Controller::start(&folder.join("data"), free_address(), PASSWORD, |command| {
        command
            .env("EVENKEEL_LOG", "trace")
            .env_remove("JOURNAL_STREAM")
            .stderr(log)
            .stdout(Stdio::null());
    })
}

/// A client that looks into every answer.
struct Watched {
    agent: ureq::Agent,
    url: String,
    headers: Vec<(String, String)>,
    /// Secrets that the controller made up.
    made: RefCell<Vec<String>>,
}

struct Reply {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    fn good(&self, what: &str) -> Value {
        assert!(self.status < 300, "{what}: {} {}", self.status, self.text);
        self.json()
    }

    fn cookie(&self, name: &str) -> String {
        let all = self.headers.get_all("set-cookie").iter();
        let mut pairs = all.map(|c| c.to_str().unwrap().split(';').next().unwrap());
        let value = pairs.find_map(|p| p.strip_prefix(name)?.strip_prefix('='));
        value.unwrap().to_owned()
    }
}

impl Watched {
    fn new(api: SocketAddr) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ureq::tls::TlsConfig::builder()
            .disable_verification(true)
            .unversioned_rustls_crypto_provider(provider);
        let agent = ureq::Agent::config_builder()
            .tls_config(tls.build())
            .http_status_as_error(false)
            .proxy(None)
            .build()
            .new_agent();
        let url = format!("https://{api}");
        Self {
            agent,
            headers: vec![("Referer".into(), url.clone())],
            url,
            made: RefCell::default(),
        }
    }

    /// The answer, which is allowed to have a secret.
    fn ask(&self, method: &str, path: &str, body: &str) -> Option<Reply> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let mut response = self
            .agent
            .run(request.body(body.to_owned()).unwrap())
            .ok()?;
        let body = response
            .body_mut()
            .with_config()
            .limit(1 << 30)
            .read_to_vec();
        Some(Reply {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: String::from_utf8_lossy(&body.unwrap()).into_owned(),
        })
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Reply {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let reply = self.ask(method, path, &body).unwrap();
        self.check(&format!("the answer to {method} {path}"), &reply.text);
        reply
    }

    fn get(&self, path: &str) -> Reply {
        self.call("GET", path, &Value::Null)
    }

    /// None of all secrets is in this text.
    fn check(&self, what: &str, text: &str) {
        let place = |at: usize| text[at..].chars().take(60).collect::<String>();
        let planted = text.find(PLANTED).map(place);
        assert_eq!(planted, None, "in {what}");
        for secret in self.made.borrow().iter() {
            assert!(!text.contains(secret), "in {what}: one that was made up");
        }
    }

    fn log_in(&mut self) {
        let body = json!({"username": "admin", "password": PASSWORD}).to_string();
        self.headers
            .push(("Content-Type".into(), "application/json".into()));
        let reply = self.ask("POST", "/login", &body).expect("an answer");
        reply.good("login");
        let (id, csrf) = (reply.cookie("avi-sessionid"), reply.cookie("csrftoken"));
        self.headers
            .push(("Cookie".into(), format!("avi-sessionid={id}")));
        self.headers.push(("X-CSRFToken".into(), csrf.clone()));
        self.made.borrow_mut().extend([id, csrf]);
    }
}

/// A new secret.
fn secret() -> Value {
    thread_local!(static NEXT: Cell<u32> = const { Cell::new(0) });
    NEXT.set(NEXT.get() + 1);
    format!("{PLANTED}{:04}", NEXT.get()).into()
}

/// An object of this type with every secret that it can have, and with what it must have.
fn filled(ty: &'static ObjectType, above: &[&str]) -> Object {
    let inside = [above, &[ty.name.as_str()]].concat();
    let fields = ty.fields.iter().filter(|f| !f.is_server_owned());
    let with = fields.filter_map(|field| {
        let value = match (&field.kind, inner(field)) {
            _ if field.secret.is_some() => secret(),
            (_, Some(ty)) if can_have_secrets(ty) && !inside.contains(&ty.name.as_str()) => {
                filled(ty, &inside).into()
            }
            _ if field.required && field.default.is_none() => something(field, &inside)?,
            _ => return None,
        };
        let value = if field.list { json!([value]) } else { value };
        Some((field.name.clone(), value))
    });
    with.collect()
}

fn inner(field: &Field) -> Option<&'static ObjectType> {
    match &field.kind {
        Kind::Message(name) => message(name),
        _ => None,
    }
}

/// A value that the schema allows.
fn something(field: &Field, inside: &[&str]) -> Option<Value> {
    Some(match &field.kind {
        Kind::Str => field.words.first().map_or("x", String::as_str).into(),
        Kind::Int | Kind::Num => match &field.range {
            Some(Range::Span(low, _)) => (*low).into(),
            Some(Range::Set(set)) => set[0].into(),
            None => 1.into(),
        },
        Kind::Bool => true.into(),
        Kind::Ref(_) => return None,
        Kind::Message(name) if name == "IpAddr" => v4("10.1.1.1"),
        Kind::Message(name) => match message(name) {
            Some(ty) => filled(ty, inside).into(),
            None => json!({}),
        },
    })
}

fn v4(addr: &str) -> Value {
    json!({"addr": addr, "type": "V4"})
}

/// What the rules want beside, by type.
fn rest(path: &str) -> Value {
    match path {
        "cloud" => json!({"vtype": "CLOUD_NONE"}),
        "healthmonitor" => json!({"type": "HEALTH_MONITOR_TCP"}),
        "applicationpersistenceprofile" => {
            json!({"persistence_type": "PERSISTENCE_TYPE_HTTP_COOKIE"})
        }
        "vrfcontext" => {
            let peer = json!({"peer_ip": v4("10.1.1.1"), "subnet": {"ip_addr": v4("10.1.1.0"), "mask": 24}, "remote_as": 65001,
                "md5_secret": secret()});
            json!({"bgp_profile": {"local_as": 65000, "ibgp": false, "peers": [peer]}})
        }
        "user" => json!({"username": "anna", "is_active": true}),
        _ => json!({}),
    }
}

/// The body of an object with all secrets.
fn body(ty: &'static ObjectType) -> Object {
    let mut body = filled(ty, &[]);
    let Value::Object(rest) = rest(&ty.path) else {
        unreachable!("an object");
    };
    body.extend(rest);
    if ty.field("name").is_some() && ty.path != "user" {
        body.insert("name".into(), "with secrets".into());
    }
    body
}

/// Paths of the secrets in an object, without the numbers of items.
fn secrets(ty: &ObjectType, object: &Object) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    map_secrets(ty, &mut object.clone(), &mut |path, _| {
        let plain = path.replace(|c: char| c == '[' || c == ']' || c.is_ascii_digit(), "");
        found.insert(format!("{} {plain}", ty.path));
    });
    found
}

/// All objects that have secrets, twice with others; gives the fields that they were in.
fn plant(http: &Watched) -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    for ty in object_types().filter(|ty| can_have_secrets(ty)) {
        let path = format!("/api/{}", ty.path);
        let there = http.get(&path);
        if there.status == 404 {
            continue; // no resource of the API yet
        }
        let is_one = there.json().get("results").is_none();
        let mut first = body(ty);
        if ty.path == "sslkeyandcertificate" {
            with_key(http, &mut first);
        }
        fields.extend(secrets(ty, &first));
        if is_one {
            http.call("PUT", &path, &first.into()).good(&path);
            http.call("PUT", &path, &body(ty).into()).good(&path);
            continue;
        }
        let made = http.call("POST", &path, &first.clone().into()).good(&path);
        let one = format!("{path}/{}", made["uuid"].as_str().unwrap());
        let mut second = body(ty);
        for kept in ["key", "certificate"] {
            second.extend(first.get(kept).map(|v| (kept.to_owned(), v.clone())));
        }
        http.call("PUT", &one, &second.into()).good(&one);
        let read = http.get(&one).good(&one);
        http.call("PUT", &one, &read).good(&one);
        refuse(http, ty, &path);
        if ty.path == "vrfcontext" {
            let gone = http.call("DELETE", &one, &Value::Null);
            let revision: u64 = gone.headers["X-Evenkeel-Revision"]
                .to_str()
                .unwrap()
                .parse()
                .unwrap();
            let back = json!({"revision": revision});
            http.call("POST", "/api/ek/revert", &back).good("revert");
        }
    }
    fields
}

/// A pair that belongs together; the key's lines are secrets.
fn with_key(http: &Watched, object: &mut Object) {
    let made = rcgen::generate_simple_self_signed(vec!["www.example.com".into()]).unwrap();
    let key = made.signing_key.serialize_pem();
    let line = key.lines().nth(1).unwrap().to_owned();
    http.made.borrow_mut().push(line);
    object.insert("key".into(), key.into());
    object.insert(
        "certificate".into(),
        json!({"certificate": made.cert.pem()}),
    );
}

/// Bodies that are refused: the text names the field, and quotes no secret.
fn refuse(http: &Watched, ty: &'static ObjectType, path: &str) {
    let mut wrong = body(ty);
    map_secrets(ty, &mut wrong, &mut |_, value| {
        *value = json!([value.clone()])
    });
    assert_eq!(http.call("POST", path, &wrong.into()).status, 400, "{path}");
    let text = format!("{{\"name\": \"{PLANTED}x\", }}");
    let reply = http.ask("POST", path, &text).unwrap();
    assert_eq!(reply.status, 400);
    http.check("the answer to a body that is no JSON", &reply.text);
}

/// Passwords and tokens, right and wrong.
fn credentials(http: &Watched) {
    let made = http
        .ask("POST", "/api/user-token", "{}")
        .unwrap()
        .good("token");
    let token = made["token"].as_str().unwrap();
    http.made
        .borrow_mut()
        .push(token.rsplit('.').next().unwrap().to_owned());
    let joined = http
        .ask("POST", "/api/ek/jointoken", "{}")
        .unwrap()
        .good("join token");
    let join = proto::join_token::JoinToken::decode(joined["token"].as_str().unwrap());
    http.made.borrow_mut().push(join.unwrap().secret);
    let stranger = |authorization: &str| Watched {
        agent: http.agent.clone(),
        url: http.url.clone(),
        headers: vec![("Authorization".into(), authorization.to_owned())],
        made: RefCell::new(http.made.borrow().clone()),
    };
    assert_eq!(
        stranger(&format!("Token {token}")).get("/api/pool").status,
        200
    );
    assert_eq!(
        stranger(&format!("Bearer {PLANTED}x"))
            .get("/api/pool")
            .status,
        401
    );
    for wrong in [
        json!({"username": "admin", "password": secret()}),
        json!({"username": "x", "token": secret()}),
    ] {
        assert_eq!(http.call("POST", "/login", &wrong).status, 401);
    }
    let change = json!({"password": secret(), "old_password": secret()});
    assert_eq!(http.call("PUT", "/api/useraccount", &change).status, 401);
    let change = json!({"password": PASSWORD, "old_password": PASSWORD});
    http.call("PUT", "/api/useraccount", &change);
}

/// Everything that can be read.
fn read_all(http: &Watched) {
    let openapi = http.get("/api/ek/openapi").good("openapi");
    let paths = openapi["paths"].as_object().unwrap().clone();
    // A stream of events has no end to wait for.
    let ends = |get: &Value| {
        !get["responses"]["200"]["content"]
            .to_string()
            .contains("event-stream")
    };
    let readable = paths
        .iter()
        .filter(|(_, methods)| methods.get("get").is_some_and(ends));
    for (path, _) in readable {
        if !path.contains('{') {
            http.get(&format!(
                "{path}?page_size=200&include_refs=&join_subresources=runtime"
            ));
            continue;
        }
        // Of each object of the type.
        let Some(ty) = path
            .split('/')
            .nth(2)
            .and_then(|word| object_type(word.trim_end_matches("-inventory")))
        else {
            http.get(
                &path
                    .replace("{address}", "192.0.2.1")
                    .replace("{uuid}", "none"),
            );
            continue;
        };
        let page = http.get(&format!("/api/{}?page_size=200", ty.path)).json();
        for object in page["results"].as_array().into_iter().flatten() {
            http.get(&path.replace("{uuid}", object["uuid"].as_str().unwrap()));
        }
    }
    let export = http.get("/api/ek/export").good("export");
    http.call("POST", "/api/ek/import", &export).good("import");
    http.call("POST", "/api/ek/sealkey/rotate", &json!({}))
        .good("rotate");
    let mut page = 1;
    while http
        .get(&format!("/api/ek/audit?page_size=200&page={page}"))
        .json()
        .get("next")
        .is_some()
    {
        page += 1;
    }
}

/// Every file of a bundle that is made with all rights, the host's part too.
fn bundle(http: &Watched, folder: &Path) {
    let path = folder.join("bundle.tar.gz");
    let made = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
        .args(["support", "bundle", "--host", "--insecure"])
        .args(["--controller", &http.url])
        .arg(&path)
        .env_clear()
        .env("HOME", "/nonexistent")
        .env("EVENKEEL_PASSWORD", PASSWORD)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(made.status.success(), "{said}");
    http.check("what `support bundle` says", &said);
    let files = unpack(&path);
    for (name, text) in &files {
        http.check(&format!("{name} of the bundle"), name);
        http.check(&format!("{name} of the bundle"), text);
    }
    for name in ["controller/export.json", "controller/audit.json"] {
        let there = files
            .iter()
            .any(|(path, text)| path == name && text.contains("md5_secret"));
        assert!(there, "{name} tells of objects with secrets");
    }
}

#[test]
fn no_secret_is_in_answers_logs_metrics_files_or_a_backup() {
    let folder = tempfile::tempdir().unwrap();
    let controller = start(folder.path());
    let mut http = Watched::new(controller.api);
    http.log_in();
    let fields = plant(&http);
    assert!(fields.len() >= FIELDS_MIN, "{}: {fields:?}", fields.len());
    credentials(&http);
    read_all(&http);
    let backup = http.call("POST", "/api/ek/backup", &json!({}));
    assert!(
        backup.status == 200 && backup.text.contains("$sealed"),
        "its secrets are sealed, too"
    );
    bundle(&http, folder.path());
    let entries = std::fs::read_dir(folder.path().join("data")).unwrap();
    for path in entries.map(|e| e.unwrap().path()) {
        let bytes = std::fs::read(&path).unwrap_or_default();
        http.check(
            &path.display().to_string(),
            &String::from_utf8_lossy(&bytes),
        );
    }
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    // At this level the store's commits and each audited call are told.
    let told = [" DEBUG ", "configuration changed", " audit "].map(|words| log.contains(words));
    assert_eq!(told, [true; 3], "the log was kept");
    http.check("the log", &log);
}
