//! The commands around the log of changes, against a controller of the same binary on loopback.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use support::{PASSWORD, evenkeel, free_address, text};

/// A controller, and the command line for it.
struct Controller(support::Controller);

impl Controller {
    fn start(data: &Path) -> Self {
        Self(support::Controller::start(
            data,
            free_address(),
            PASSWORD,
            |_| {},
        ))
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let url = format!("https://{}", self.0.api);
        evenkeel(&[arguments, &["--insecure", "--controller", &url]].concat())
    }

    /// What the command prints, which must succeed.
    fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = text(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        text(&output.stdout)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let printed = self.good(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&printed).unwrap()
    }

    fn wait_for(&self, what: &str, arguments: &[&str], is_so: impl Fn(&Output) -> bool) {
        support::wait_for(what, || is_so(&self.run(arguments)));
    }
}

/// Writes a file with a pool of this port and a virtual service that uses it.
fn manifest(folder: &Path, port: u16) -> String {
    let path = folder.join("objects.yaml");
    let yaml = format!(
        "virtualservice:\n- name: vs\n  services: [{{port: 80}}]\n  pool_ref: web\n\
         pool:\n- name: web\n  default_server_port: {port}\n"
    );
    std::fs::write(&path, yaml).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The newest change of the pool, as the log has it.
fn newest(controller: &Controller) -> Value {
    let log = controller.json(&["show", "audit", "pool", "web"]);
    log[0].clone()
}

#[test]
fn changes_are_shown_undone_and_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let controller = Controller::start(&folder.path().join("data"));
    let apply = |port: u16, more: &[&str]| {
        let file = manifest(folder.path(), port);
        controller.json(&[&["apply", "-f", &file], more].concat())
    };
    apply(81, &[]);
    apply(82, &["--message", "ticket 7: café"]);
    let change = newest(&controller);
    let message = change["message"].as_str().unwrap();
    assert!(message.ends_with(": ticket 7: café"), "{message}");
    let table = controller.good(&["show", "audit", "pool", "web"]);
    assert!(
        table.contains("update pool web") && table.contains("default_server_port: 81 -> 82"),
        "{table}"
    );
    assert!(
        controller
            .good(&["show", "audit", "vs"])
            .contains("create virtualservice vs")
    );

    let revision = change["revision"].to_string();
    let said = controller.good(&["revert", &revision]);
    assert!(said.contains("pool web restored"), "{said}");
    let after = &newest(&controller)["objects"][0]["after"];
    assert_eq!(after["default_server_port"], 81);
    // The same change is not undone a second time.
    assert_eq!(
        controller.run(&["revert", &revision]).status.code(),
        Some(4)
    );
    controller.good(&["revert", &revision, "pool", "web"]);
    let after = &newest(&controller)["objects"][0]["after"];
    assert_eq!(after["default_server_port"], 82);
    assert_eq!(
        controller.run(&["revert", &revision, "pool"]).status.code(),
        Some(2)
    );

    let rows = apply(83, &["--confirm-within", "1h"]);
    let changed = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["result"] == "changed");
    let revision = changed.unwrap()["revision"].to_string();
    let pending = controller.json(&["show", "pending"]);
    assert_eq!(pending[0]["revision"].to_string(), revision);
    controller.good(&["confirm", &revision]);
    assert_eq!(controller.json(&["show", "pending"]), serde_json::json!([]));

    apply(84, &["--confirm-within", "1s"]);
    let back = |o: &Output| text(&o.stdout).contains("default_server_port: 84 -> 83");
    controller.wait_for("reverted", &["show", "audit", "pool", "web"], back);
}

#[test]
fn what_nobody_confirms_is_reverted_although_the_controller_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let controller = Controller::start(&data);
    let apply = |port: u16, more: &[&str]| {
        let file = manifest(folder.path(), port);
        controller.good(&[&["apply", "-f", &file], more].concat());
    };
    apply(81, &[]);
    apply(82, &["--confirm-within", "1s"]);
    // By SIGKILL, before the deadline or while it reverts.
    drop(controller);
    let controller = Controller::start(&data);
    let back = |o: &Output| text(&o.stdout).contains("default_server_port: 82 -> 81");
    controller.wait_for("reverted", &["show", "audit", "pool", "web"], back);
    assert_eq!(controller.json(&["show", "pending"]), serde_json::json!([]));
}

#[test]
fn all_objects_of_a_file_that_is_to_be_confirmed_are_one_change() {
    let folder = tempfile::tempdir().unwrap();
    let controller = Controller::start(&folder.path().join("data"));
    let file = manifest(folder.path(), 81);
    let rows = controller.json(&["apply", "-f", &file, "--confirm-within", "3s"]);
    let results: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["result"])
        .collect();
    assert_eq!(results, ["created", "created"]);
    assert_eq!(rows[0]["revision"], rows[1]["revision"]);
    let gone = |o: &Output| text(&o.stdout).contains("delete virtualservice vs");
    controller.wait_for("reverted", &["show", "audit", "vs"], gone);
    assert_eq!(controller.json(&["show", "pool"]), serde_json::json!([]));
}

#[test]
fn a_backup_is_restored_and_an_export_imported_by_the_commands() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let first = Controller::start(&folder.path().join("data"));
    let file = manifest(folder.path(), 81);
    first.good(&["apply", "-f", &file]);
    first.good(&["backup", &path("backup")]);
    first.good(&["export", &path("export.json")]);
    let again = first.run(&["backup", &path("backup")]);
    assert_eq!(again.status.code(), Some(1), "a file that is there stays");

    let restore = ["controller", "restore", &path("backup"), "--data-dir"];
    let refused = evenkeel(&[&restore[..], &[&path("data")]].concat());
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("is not empty"),
        "{refused:?}"
    );
    drop(first);
    let restored = evenkeel(&[&restore[..], &[&path("restored")]].concat());
    assert!(restored.status.success(), "{restored:?}");
    let second = Controller::start(&folder.path().join("restored"));
    assert_eq!(second.json(&["show", "pool"])[0]["name"], "web");
    drop(second);

    let third = Controller::start(&folder.path().join("third"));
    third.good(&[
        "import",
        &path("export.json"),
        "--message",
        "from the first",
    ]);
    assert_eq!(third.json(&["show", "virtualservice"])[0]["name"], "vs");
    let log = third.json(&["show", "audit", "pool"]);
    assert!(
        log[0]["message"]
            .as_str()
            .unwrap()
            .ends_with("from the first"),
        "{log}"
    );
    let said = third.good(&["import", &path("export.json")]);
    assert!(said.contains("nothing to change"), "{said}");
}

/// What the store's files have as text.
fn files(data: &Path) -> String {
    let read = |name: &str| std::fs::read(data.join(name)).unwrap_or_default();
    let bytes = ["evenkeel.db", "evenkeel.db-wal"].map(read).concat();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn a_rotation_of_the_key_survives_sigkill_and_loses_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let vrfs: String = (0..40)
        .map(|n| format!("- name: v{n}\n  bgp_profile: {{local_as: 65000, ibgp: true, peers: [{{peer_ip: 10.1.1.{n}, subnet: 10.1.1.0/24, md5_secret: planted-{n}}}]}}\n"))
        .collect();
    let file = folder.path().join("vrfs.yaml");
    std::fs::write(&file, format!("vrfcontext:\n{vrfs}")).unwrap();
    let file = file.to_str().unwrap();
    let mut controller = Controller::start(&data);
    controller.good(&["apply", "-f", file]);
    let sealed = |o: &Output| text(&o.stdout).contains("all secrets are sealed");
    for round in 0..4 {
        controller.wait_for("sealed", &["sealkey", "show"], sealed);
        let shown = controller.json(&["sealkey", "show"]);
        let before = shown["keys"][0]["id"].as_str().unwrap();
        // The answer may come, or the kill before it.
        let url = format!("https://{}", controller.0.api);
        let mut rotation = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
            .args(["sealkey", "rotate", "--insecure", "--controller", &url])
            .env("EVENKEEL_PASSWORD", PASSWORD)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for_key_file(&data, before);
        drop(controller);
        rotation.wait().unwrap();
        controller = Controller::start(&data);
        controller.wait_for("sealed after a kill", &["sealkey", "show"], sealed);
        let after = controller.json(&["sealkey", "show"]);
        assert_eq!(
            after["keys"].as_array().unwrap().len(),
            1,
            "round {round}: {after}"
        );
        assert_ne!(after["keys"][0]["id"], *before);
        let old = format!("1:{before}:");
        assert!(
            !files(&data).contains(&old),
            "round {round}: no value needs the old key"
        );
        // Every secret opens, else it had not started; and as it was: writing the same changes none.
        controller.good(&["apply", "-f", file]);
        for name in ["v0", "v20", "v39"] {
            let log = controller.json(&["show", "audit", "vrfcontext", name]);
            let changes = log[0]["objects"][0]["changes"].to_string();
            assert!(!changes.contains("md5_secret"), "{name}: {changes}");
        }
    }
    assert!(!files(&data).contains("planted-"));
}

/// Waits until another key seals.
fn wait_for_key_file(data: &Path, before: &str) {
    support::wait_for("a new key", || {
        let text = std::fs::read_to_string(data.join("seal-keys.json")).unwrap();
        let file: Value = serde_json::from_str(&text).unwrap();
        file["keys"][0]["id"] != *before
    });
}
