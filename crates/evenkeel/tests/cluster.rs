//! Controllers that share an etcd, as processes on loopback: who may join, what a backup moves to a file and back, and what
//! is refused. What befalls them under traffic is in the lab's tests (`netns_lab::controllers`).
#![allow(clippy::unwrap_used)] // a test fails by panicking
#![allow(clippy::disallowed_macros, clippy::print_stderr)] // skips go to the test runner

mod support;

use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use support::{Controller, PASSWORD, evenkeel, free_address, text, wait_for};

/// An etcd of one member; killed when dropped.
struct Etcd {
    child: Child,
    url: String,
}

impl Etcd {
    /// None where etcd is not installed, which in CI is a failure.
    fn start(folder: &Path) -> Option<Self> {
        if let Err(why) = Command::new("etcd").arg("--version").output() {
            assert!(std::env::var_os("CI").is_none(), "CI must run etcd: {why}");
            eprintln!("SKIPPED: {why}");
            return None;
        }
        let (clients, peers) = (free_address(), free_address());
        let url = format!("http://{clients}");
        // It ends with the test, whatever the way.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "etcd", "--data-dir"])
            .arg(folder)
            .args(["--listen-client-urls", &url])
            .args(["--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &format!("http://{peers}")])
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.with_extension("log")).unwrap())
            .spawn()
            .unwrap();
        Some(Self { child, url })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().unwrap();
    }
}

/// Flags of a controller of this name.
fn flags<'a>(etcd: &'a Etcd, name: &'a str) -> [&'a str; 6] {
    ["--etcd", &etcd.url, "--name", name, "--etcd-lease", "3"]
}

fn start(etcd: &Etcd, name: &str, data: &Path, api: SocketAddr) -> Controller {
    Controller::start(data, api, PASSWORD, |command| {
        command.args(flags(etcd, name));
    })
}

/// A controller that does not start; what it says.
fn refused(etcd: &Etcd, name: &str, data: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
        .arg("controller")
        .arg("--data-dir")
        .arg(data)
        .args(["--listen-api", &free_address().to_string()])
        .args(["--listen-engines", "127.0.0.1:0"])
        .args(flags(etcd, name))
        .output()
        .unwrap();
    assert!(!output.status.success());
    text(&output.stderr)
}

fn keys(data: &Path) -> PathBuf {
    data.join("seal-keys.json")
}

/// Runs a command against controllers at these addresses.
fn at(apis: &[SocketAddr], arguments: &[&str]) -> Output {
    let urls: Vec<_> = apis.iter().map(|a| format!("https://{a}")).collect();
    let urls = urls.join(",");
    evenkeel(&[&["--insecure", "--controller", &urls], arguments].concat())
}

fn done(apis: &[SocketAddr], arguments: &[&str]) -> String {
    let output = at(apis, arguments);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    text(&output.stdout)
}

/// Makes a pool, whichever of the controllers leads.
fn make_pool(folder: &Path, apis: &[SocketAddr], name: &str) {
    let file = folder.join("objects.json");
    fs::write(&file, format!("{{\"pool\": [{{\"name\": \"{name}\"}}]}}")).unwrap();
    done(apis, &["apply", "-f", file.to_str().unwrap()]);
}

fn has_pool(apis: &[SocketAddr], name: &str) -> bool {
    let pools: Value = serde_json::from_str(&done(apis, &["show", "pool", "-o", "json"])).unwrap();
    let mut pools = pools.as_array().unwrap().iter();
    pools.any(|pool| pool["name"] == name)
}

fn restore(backup: &Path, data: &Path, more: &[&str]) -> Output {
    let (backup, data) = (backup.to_str().unwrap(), data.to_str().unwrap());
    let arguments = ["controller", "restore", backup, "--data-dir", data];
    evenkeel(&[&arguments, more].concat())
}

#[test]
fn a_controller_joins_with_the_key_file_and_leads_when_the_first_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let data = ["a", "b"].map(|name| folder.path().join(name));
    let apis = [free_address(), free_address()];
    let Some(etcd) = Etcd::start(&folder.path().join("etcd")) else {
        return;
    };
    let first = start(&etcd, "a", &data[0], apis[0]);
    make_pool(folder.path(), &apis[..1], "before");
    let said = refused(&etcd, "b", &data[1]);
    assert!(
        said.contains("the controller a leads") && said.contains("copy it"),
        "{said}"
    );
    let others = folder.path().join("of another cluster");
    drop(Controller::start(&others, free_address(), PASSWORD, |_| {}));
    fs::copy(keys(&others), keys(&data[1])).unwrap();
    let said = refused(&etcd, "b", &data[1]);
    assert!(said.contains("are not the keys of this cluster"), "{said}");
    fs::copy(keys(&data[0]), keys(&data[1])).unwrap();
    let _second = start(&etcd, "b", &data[1], apis[1]);
    make_pool(folder.path(), &apis[1..], "by the follower");
    let cluster = || done(&apis, &["show", "cluster", "-o", "json"]);
    wait_for("both are there", || {
        cluster().contains("CLUSTER_UP_HA_ACTIVE")
    });

    let rotated = at(&apis, &["sealkey", "rotate"]);
    let said = text(&rotated.stderr);
    assert!(
        !rotated.status.success() && said.contains("a copy of the key file"),
        "{said}"
    );

    // Kills it.
    drop(first);
    assert!(has_pool(&apis, "before") && has_pool(&apis, "by the follower"));
    make_pool(folder.path(), &apis, "after");
    wait_for("the first is missed", || {
        let cluster = cluster();
        cluster.contains("CLUSTER_UP_HA_COMPROMISED") && cluster.contains("says nothing")
    });
    done(&apis, &["delete", "controller", "a"]);
    assert!(cluster().contains("CLUSTER_UP_NO_HA"));
    let again = start(&etcd, "a", &data[0], apis[0]);
    assert!(has_pool(&[again.api], "after"));
    wait_for("both are there", || {
        cluster().contains("CLUSTER_UP_HA_ACTIVE")
    });
}

#[test]
fn a_backup_moves_everything_from_a_file_to_etcd_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let Some(etcd) = Etcd::start(&path("etcd")) else {
        return;
    };
    let (api, backup) = (free_address(), path("backup"));
    let alone = Controller::start(&path("alone"), api, PASSWORD, |_| {});
    make_pool(folder.path(), &[api], "of the file");
    done(&[api], &["backup", backup.to_str().unwrap()]);
    drop(alone);

    let moved = restore(&backup, &path("a"), &["--etcd", &etcd.url]);
    assert!(moved.status.success(), "{}", text(&moved.stderr));
    let leader = start(&etcd, "a", &path("a"), api);
    assert!(has_pool(&[api], "of the file"));
    make_pool(folder.path(), &[api], "of etcd");
    let twice = restore(&backup, &path("b"), &["--etcd", &etcd.url]);
    let said = text(&twice.stderr);
    assert!(
        !twice.status.success() && said.contains("a controller leads"),
        "{said}"
    );
    let back = path("back");
    done(&[api], &["backup", back.to_str().unwrap()]);
    drop(leader);

    let moved = restore(&back, &path("again"), &[]);
    assert!(moved.status.success(), "{}", text(&moved.stderr));
    let _alone = Controller::start(&path("again"), api, PASSWORD, |_| {});
    assert!(has_pool(&[api], "of the file") && has_pool(&[api], "of etcd"));

    // Of an etcd's backup another cluster is made, to which nobody belongs yet.
    let elsewhere = ["--etcd", &etcd.url, "--etcd-prefix", "/other"];
    let moved = restore(&back, &path("d"), &elsewhere);
    assert!(moved.status.success(), "{}", text(&moved.stderr));
    let other = Controller::start(&path("d"), free_address(), PASSWORD, |command| {
        command.args(elsewhere).args(["--name", "d"]);
    });
    assert!(has_pool(&[other.api], "of etcd"));
    let nodes = done(&[other.api], &["show", "cluster", "-o", "json"]);
    let nodes: Value = serde_json::from_str(&nodes).unwrap();
    let names = nodes["node_states"].as_array().unwrap().iter();
    assert_eq!(names.map(|n| &n["name"]).collect::<Vec<_>>(), ["d"]);

    // Nobody leads now, and etcd has what it had.
    wait_for("the lease of the leader has ended", || {
        let output = restore(&backup, &path("c"), &["--etcd", &etcd.url]);
        assert!(!output.status.success());
        let said = text(&output.stderr);
        let leads = said.contains("a controller leads");
        assert!(
            leads || said.contains("has something in it already"),
            "{said}"
        );
        !leads
    });
    assert_eq!(fs::read_dir(path("c")).unwrap().count(), 0);
}
