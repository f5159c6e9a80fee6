//! `evenkeel support bundle` against a controller of the same binary on loopback, and without one.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use client::{Client, ClientConfig, Password, Trust};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;
use support::{Controller, PASSWORD, evenkeel, free_address, text, unpack};
use tempfile::TempDir;

struct Scene {
    folder: TempDir,
    url: String,
    _controller: Controller,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let controller = Controller::start(&data, free_address(), PASSWORD, |_| {});
        Self {
            url: format!("https://{}", controller.api),
            folder,
            _controller: controller,
        }
    }

    fn client(&self, tenant: &str) -> Client {
        let mut config = ClientConfig::new(self.url.clone(), Password::new(PASSWORD));
        config.trust = Trust::Insecure;
        config.tenant = tenant.into();
        Client::connect(config).unwrap()
    }

    /// A bundle in a folder of its own.
    fn bundle(&self, name: &str, more: &[&str]) -> Output {
        let path = self.path(name);
        std::fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
        let start = ["support", "bundle", &path, "--insecure", "--controller"];
        evenkeel(&[&start[..], &[&self.url], more].concat())
    }

    fn path(&self, name: &str) -> String {
        let path = self.folder.path().join("bundles").join(name);
        path.to_str().unwrap().to_owned()
    }

    /// Path below the top folder, and text, of each file.
    fn files(&self, name: &str) -> Vec<(String, String)> {
        unpack(Path::new(&self.path(name)))
    }
}

fn make(client: &Client, object_type: &str, object: Value) {
    let path = format!("/api/{object_type}");
    client.post(&path, &object).unwrap();
}

/// A service with a VIP that no engine has.
fn service(name: &str, address: &str) -> Value {
    let vip = json!({"vip_id": "1", "ip_address": {"addr": address, "type": "V4"}});
    json!({"name": name, "services": [{"port": 80}], "vip": [vip], "enable_rhi": true})
}

/// The file with this path, which must be there.
fn file<'a>(files: &'a [(String, String)], path: &str) -> &'a str {
    let found = files.iter().find(|(name, _)| name == path);
    let names = || files.iter().map(|(name, _)| name).collect::<Vec<_>>();
    &found.unwrap_or_else(|| panic!("{path} in {:?}", names())).1
}

fn value(files: &[(String, String)], path: &str) -> Value {
    serde_json::from_str(file(files, path)).unwrap()
}

/// A pool, an engine that never came, and a service that is therefore down.
fn half_broken() -> Scene {
    let scene = Scene::new();
    let client = scene.client("admin");
    make(&client, "pool", json!({"name": "web"}));
    make(&client, "serviceengine", json!({"name": "se dead"}));
    make(&client, "virtualservice", service("vs", "192.0.2.1"));
    scene
}

#[test]
fn a_bundle_has_what_a_helper_asks_for() {
    let scene = half_broken();
    let output = scene.bundle("b", &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let files = scene.files("b");
    for (name, text) in files.iter().filter(|(name, _)| name.ends_with(".json")) {
        serde_json::from_str::<Value>(text).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let export = value(&files, "controller/export.json");
    assert!(export["objects"]["pool"].to_string().contains("\"web\""));
    for list in [
        "audit",
        "events",
        "virtualservice-inventory",
        "serviceengine-inventory",
    ] {
        let list = value(&files, &format!("controller/{list}.json"));
        assert!(!list["results"].as_array().unwrap().is_empty(), "{list}");
    }
    for object in [
        "version",
        "cluster",
        "runtime",
        "topology",
        "controllerproperties",
    ] {
        let object = value(&files, &format!("controller/{object}.json"));
        assert!(!object.as_object().unwrap().is_empty(), "{object}");
    }
    for list in [
        "alerts",
        "bgp",
        "bfd",
        "steering",
        "pending",
        "pool-inventory",
    ] {
        let list = value(&files, &format!("controller/{list}.json"));
        assert!(list["results"].is_array(), "{list}");
    }
    assert_eq!(value(&files, "controller/healthz.json")["status"], "ok");
    let metrics = file(&files, "controller/metrics.txt");
    assert!(metrics.contains("evenkeel_controller_calls_total"));
    let why = value(&files, "virtualservices/vs/explain-192.0.2.1.json");
    assert_eq!(why["virtual_services"], json!(["vs"]));
    let runtime = value(&files, "virtualservices/vs/runtime.json");
    assert_ne!(runtime["oper_status"]["state"], "OPER_UP", "{runtime}");
    assert!(runtime["oper_status"].is_object(), "{runtime}");
    for table in [
        "runtime",
        "bgp-peer_state",
        "interface",
        "flowtable",
        "flowtablestat",
    ] {
        value(&files, &format!("engines/se_dead/{table}.json"));
    }
}

#[test]
fn an_engine_that_is_dead_is_named_and_does_not_fail_the_bundle() {
    let scene = half_broken();
    let output = scene.bundle("b", &["-o", "json"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let warned = said.lines().last().unwrap();
    assert!(
        warned.starts_with("warning: ") && warned.contains("README.txt"),
        "{said}"
    );
    let path = scene.path("b");
    let made = std::fs::metadata(&path).unwrap();
    assert_eq!(made.permissions().mode() & 0o777, 0o600);
    let result: Value = serde_json::from_str(&text(&output.stdout)).unwrap();
    let told = (&result["file"], &result["bytes"]);
    assert_eq!(told, (&json!(path), &json!(made.len())));

    let files = scene.files("b");
    let parts = result["parts"].as_array().unwrap();
    let written = parts.iter().filter(|part| part["bytes"] != 0);
    let mut written: Vec<_> = written.map(|p| p["path"].as_str().unwrap()).collect();
    let mut names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
    written.sort_unstable();
    names.sort_unstable();
    assert_eq!(written, names, "the result names what is in the file");
    let silent = |part: &&Value| part["error"] == "it has no session with the controller";
    assert!(parts.iter().filter(silent).count() >= 6, "{parts:?}");
    let readme = file(&files, "README.txt");
    for words in [
        "engines/se_dead: it has no session with the controller (",
        "controller/audit.json: who changed what",
        "host/: made without --host",
        &scene.url,
    ] {
        assert!(readme.contains(words), "{words} in:\n{readme}");
    }
}

#[test]
fn a_bundle_is_not_overwritten_unless_it_is_asked_for_and_nothing_else_is_left() {
    let scene = Scene::new();
    let output = scene.bundle("b", &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), format!("{}\n", scene.path("b")));
    let before = std::fs::read(scene.path("b")).unwrap();
    let again = scene.bundle("b", &[]);
    assert_eq!(again.status.code(), Some(1));
    assert!(
        text(&again.stderr).contains("--force"),
        "{}",
        text(&again.stderr)
    );
    assert_eq!(std::fs::read(scene.path("b")).unwrap(), before);
    let forced = scene.bundle("b", &["--force"]);
    assert!(forced.status.success(), "{}", text(&forced.stderr));
    assert!(!scene.files("b").is_empty());
    let entries = std::fs::read_dir(scene.folder.path().join("bundles")).unwrap();
    assert_eq!(entries.count(), 1);
}

#[test]
fn a_tenants_user_gets_a_bundle_of_what_he_sees() {
    let scene = Scene::new();
    let admin = scene.client("admin");
    make(&admin, "serviceengine", json!({"name": "se-1"}));
    for (tenant, name, address) in [("t1", "own", "192.0.2.1"), ("t2", "theirs", "192.0.2.2")] {
        make(&admin, "tenant", json!({"name": tenant}));
        let client = scene.client(tenant);
        make(&client, "pool", json!({"name": format!("pool-{name}")}));
        make(
            &client,
            "virtualservice",
            service(&format!("vs-{name}"), address),
        );
    }
    let access =
        json!([{"role_ref": "/api/role?name=Tenant-Admin", "tenant_ref": "/api/tenant?name=t1"}]);
    let anna =
        json!({"username": "anna", "password": PASSWORD, "is_active": true, "access": access});
    make(&admin, "user", anna);
    let output = scene.bundle("b", &["--user", "anna"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let files = scene.files("b");
    for list in ["controller/objects/pool", "controller/pool-inventory"] {
        let list = value(&files, &format!("{list}.json"));
        assert!(list.to_string().contains("\"pool-own\""), "{list}");
    }
    let why = value(&files, "virtualservices/vs-own/explain-192.0.2.1.json");
    assert_eq!(why["virtual_services"], json!(["vs-own"]));
    value(&files, "engines/se-1/runtime.json");
    for (name, text) in &files {
        assert!(!text.contains("-theirs"), "{name}:\n{text}");
    }
    assert!(
        files
            .iter()
            .all(|(name, _)| name != "controller/export.json")
    );
    let readme = file(&files, "README.txt");
    let refused = readme.lines().find(|line| line.contains("export.json"));
    assert!(refused.unwrap().contains("403: anna may not"), "{readme}");
}

/// An address where nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("https://{}", listener.local_addr().unwrap())
}

#[test]
fn without_a_controller_there_is_a_bundle_of_the_host_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b");
    let name = path.to_str().unwrap();
    let none = evenkeel(&["support", "bundle", name, "--controller", &nobody()]);
    assert_eq!(none.status.code(), Some(3), "{}", text(&none.stderr));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    let pins = folder.path().join("no-pins");
    let host = ["--host", "--bpf-dir", pins.to_str().unwrap()];
    let start = ["support", "bundle", name, "--controller", &nobody()];
    let some = evenkeel(&[&start[..], &host].concat());
    assert_eq!(some.status.code(), Some(0), "{}", text(&some.stderr));
    let files = unpack(&path);
    let kernel = value(&files, "host/kernel.json");
    assert!(
        kernel["version"]
            .as_str()
            .unwrap()
            .starts_with("Linux version ")
    );
    let forward = &value(&files, "host/sysctls.json")["net/ipv4/ip_forward"];
    assert!(forward.is_string(), "{forward}");
    let readme = file(&files, "README.txt");
    let missing = readme.split_once("What is missing").unwrap().1;
    assert!(missing.contains("is not reachable"), "{readme}");
    assert!(
        missing.contains("no-pins: no engine has steered here"),
        "{readme}"
    );
    // Whether `ip` is installed or not, it is told.
    let told = files.iter().any(|(name, _)| name == "host/ip-addr.json");
    assert!(told || missing.contains("ip-addr.json"), "{readme}");
}
