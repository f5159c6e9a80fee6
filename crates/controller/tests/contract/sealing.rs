//! Secrets in the store (docs/adr/0014): keys that change, and what happens without them.

use crate::http::{Http, PASSWORD, Server};
use evenkeel_controller::Args;
use serde_json::{Value, json};
use std::path::Path;
use tempfile::tempdir;

const PEER: &str = "/object/vrfcontext/";

/// A vrfcontext with a peer that has this secret; its path.
fn plant(http: &Http, name: &str, secret: &str) -> String {
    let peer = json!({"peer_ip": {"addr": "10.1.1.1", "type": "V4"}, "subnet": {"ip_addr": {"addr": "10.1.1.0", "type": "V4"}, "mask": 24},
        "remote_as": 65001, "md5_secret": secret});
    let body =
        json!({"name": name, "bgp_profile": {"local_as": 65000, "ibgp": false, "peers": [peer]}});
    http.make("vrfcontext", body).0
}

/// All that the store's files have, as text.
fn files(folder: &Path) -> String {
    let read = |name: &str| std::fs::read(folder.join("data").join(name)).unwrap_or_default();
    let bytes = ["evenkeel.db", "evenkeel.db-wal"].map(read).concat();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn keys(http: &Http) -> Vec<Value> {
    let shown = http.get("/api/ek/sealkey").good();
    shown["keys"].as_array().unwrap().clone()
}

#[test]
fn a_rotation_seals_all_anew_and_answers_when_the_old_key_is_gone() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let path = plant(&http, "v", "planted-one");
    http.wait_until_sealed();
    let old = keys(&http)[0]["id"].as_str().unwrap().to_owned();
    assert!(files(folder.path()).contains(&format!("1:{old}:")));
    let shown = http.post("/api/ek/sealkey/rotate", &json!({})).good();
    assert_eq!(
        (&shown["state"], &shown["reason"]),
        (&json!("sealed"), &Value::Null)
    );
    let new = keys(&http);
    assert_eq!((new.len(), &new[0]["seals"]), (1, &json!(true)));
    assert_ne!(new[0]["id"], *old);
    let text = files(folder.path());
    assert!(
        !text.contains(&format!("1:{old}:")),
        "neither in the log nor in a free page"
    );
    assert!(text.contains(PEER) && !text.contains("planted-one"));
    // What was sealed anew opens: a write of the mask changes nothing, and the log of before can be gone back to.
    let read = http.get(&path).good();
    http.put(&path, &read).good();
    let changed = http.changed_fields(&path);
    assert!(
        !changed.iter().any(|f| f.contains("md5_secret")),
        "{changed:?}"
    );
    drop(server);
    let server = Server::start(folder.path());
    let http = server.logged_in();
    http.put(&path, &http.get(&path).good()).good();
    let changed = http.changed_fields(&path);
    assert!(
        !changed.iter().any(|f| f.contains("md5_secret")),
        "{changed:?}"
    );
}

#[test]
fn a_deleted_object_comes_back_with_its_secret_after_a_rotation() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let path = plant(&http, "v", "planted-one");
    http.wait_until_sealed();
    let deleted = http.delete(&path);
    let revision: u64 = deleted.header("X-Evenkeel-Revision").parse().unwrap();
    http.post("/api/ek/sealkey/rotate", &json!({})).good();
    http.post("/api/ek/revert", &json!({"revision": revision}))
        .good();
    assert_eq!(
        http.get(&path).good()["bgp_profile"]["peers"][0]["md5_secret"],
        "<sensitive>"
    );
    // The same as before it was deleted: to go back to that is no change of the secret.
    let before =
        json!({"type": "vrfcontext", "uuid": path.rsplit('/').next(), "revision": revision - 1});
    let done = http.post("/api/ek/revert", &before).good();
    assert_eq!(done["objects"][0]["result"], "unchanged");
}

#[test]
fn keys_are_for_superusers_and_are_never_shown() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let user = json!({"username": "anna", "password": "hers", "access": [{"role_ref": "/api/role?name=System-Admin", "all_tenants": true}]});
    http.post("/api/user", &user).good();
    let mut anna = server.http();
    anna.log_in_as("anna", "hers").good();
    anna.get("/api/ek/sealkey").refused(403);
    anna.post("/api/ek/sealkey/rotate", &json!({})).refused(403);
    let file = std::fs::read_to_string(folder.path().join("data/seal-keys.json")).unwrap();
    let file: Value = serde_json::from_str(&file).unwrap();
    let key = file["keys"][0]["key"].as_str().unwrap();
    let shown = http.get("/api/ek/sealkey").text;
    assert!(key.len() > 40 && !shown.contains(key), "{shown}");
}

#[test]
fn a_controller_without_its_key_file_does_not_start_and_says_which_file_it_needs() {
    let folder = tempdir().unwrap();
    drop(Server::start(folder.path()));
    let file = folder.path().join("data/seal-keys.json");
    let aside = folder.path().join("aside.json");
    std::fs::rename(&file, &aside).unwrap();
    let any_port = "127.0.0.1:0".parse().unwrap();
    let args = || Args {
        data_dir: Some(folder.path().join("data")),
        listen_api: Some(any_port),
        listen_engines: Some(any_port),
        ..Args::default()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let start = |args| runtime.block_on(evenkeel_controller::Controller::start(args));
    let error = format!("{:#}", start(args()).err().unwrap());
    assert!(
        error.contains("seal-keys.json is missing: put it back"),
        "{error}"
    );
    // It may be anywhere.
    let elsewhere = Args {
        seal_keys: Some(aside),
        ..args()
    };
    assert!(start(elsewhere).is_ok());
    drop(runtime);
    std::fs::rename(folder.path().join("aside.json"), &file).unwrap();
    let server = Server::start(folder.path());
    assert_eq!(server.http().log_in(PASSWORD).status, 200, "its hash opens");
}
