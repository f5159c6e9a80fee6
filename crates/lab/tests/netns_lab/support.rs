//! What all tests of the lab use.

use nix::unistd::geteuid;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs};

/// Long enough for a busy machine; every wait ends when its condition holds.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is missing to run here.
fn obstacle() -> Option<String> {
    if !geteuid().is_root() {
        return Some("needs root: it makes network namespaces".into());
    }
    let programs = ["/usr/lib/frr/zebra", "/usr/lib/frr/bgpd", "/usr/sbin/bird"];
    let missing = programs.into_iter().find(|p| !Path::new(p).exists())?;
    Some(format!("{missing} is missing: install frr and bird2"))
}

pub(crate) fn can_run() -> bool {
    let Some(why) = obstacle() else { return true };
    assert!(
        env::var_os("CI").is_none(),
        "CI must run the namespace tests: {why}"
    );
    eprintln!("SKIPPED: {why}");
    false
}

/// `evenkeel` beside the folder of this test, or the one that `EVENKEEL_BIN` names.
pub(crate) fn binary() -> PathBuf {
    if let Some(path) = env::var_os("EVENKEEL_BIN") {
        return path.into();
    }
    let deps = env::current_exe().unwrap();
    let path = deps.parent().unwrap().parent().unwrap().join("evenkeel");
    let built = fs::metadata(&path).and_then(|m| m.modified());
    let sources = ["/src", "/../../tests/topologies"]
        .map(|f| newest(Path::new(&format!("{}{f}", env!("CARGO_MANIFEST_DIR")))));
    let changed = sources.into_iter().max().expect("there are two");
    // This crate's tests do not build the binary: an old one would prove nothing.
    assert!(
        built.is_ok_and(|built| built >= changed),
        "{} is missing or older than the lab: cargo build --release --bin evenkeel",
        path.display()
    );
    path
}

/// When a file of a folder was changed last.
fn newest(folder: &Path) -> SystemTime {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let times = entries.map(|path| {
        if path.is_dir() {
            newest(&path)
        } else {
            fs::metadata(&path).unwrap().modified().unwrap()
        }
    });
    times.max().unwrap()
}

/// `evenkeel` as an operator of this lab's controller.
pub(crate) fn evenkeel(id: &Lab, arguments: &[&str], input: &str) -> Output {
    let context = fs::read_to_string(format!("/run/evenkeel/lab/{}/context.toml", id.0)).unwrap();
    let context: toml::Table = context.parse().unwrap();
    let text = |key: &str| context[key].as_str().unwrap().to_owned();
    let mut child = Command::new(binary())
        .args([
            "--controller",
            &text("controller"),
            "--netns",
            &text("netns"),
            "--insecure",
        ])
        .args(arguments)
        .env("EVENKEEL_PASSWORD", text("password"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

pub(crate) fn apply(id: &Lab, objects: &str) {
    let output = evenkeel(id, &["apply", "-f", "-"], objects);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A virtual service as `show` has it.
pub(crate) fn service(id: &Lab, name: &str) -> Value {
    let output = evenkeel(id, &["show", "virtualservice", name, "-o", "json"], "");
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    shown
        .as_array()
        .and_then(|list| list.first().cloned())
        .unwrap_or(shown)
}

pub(crate) fn wait_for_state(id: &Lab, name: &str, state: &str) -> Value {
    wait_for(&format!("{name} is {state}"), || {
        let seen = service(id, name);
        if seen["state"] == state {
            Ok(seen)
        } else {
            Err(seen.to_string())
        }
    })
}

/// What a client's connection to a port of a VIP ends in: "" when it is accepted.
pub(crate) fn connect(id: &Lab, vip: &str, port: u16) -> String {
    let line = format!("exec 3<>/dev/tcp/{vip}/{port}");
    let output = lab(&[
        "exec", "--run", id.0, "client", "timeout", "5", "bash", "-c", &line,
    ]);
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Connections of the lab's client; they end with it.
pub(crate) struct Connections(Child);

/// Connections that say nothing.
pub(crate) fn idle_connections(id: &Lab, vip: &str, port: u16, count: u16) -> Connections {
    let line = format!("for n in $(seq {count}); do exec {{fd}}<>/dev/tcp/{vip}/{port}; done; cat");
    Connections::run(id, &line)
}

/// Connections that each send a byte three times per second. The lab's servers wait for the 84 of a frame, and then end them.
pub(crate) fn chatty_connections(id: &Lab, vip: &str, port: u16, count: usize) -> Connections {
    let open =
        format!("for n in $(seq {count}); do exec {{fd}}<>/dev/tcp/{vip}/{port}; fds+=($fd); done");
    let say = "for fd in ${fds[@]}; do printf x >&$fd; done";
    // `read` says 1 at the end of its input, and more when the time is over.
    Connections::run(
        id,
        &format!("{open}; while {say}; do read -t 0.3; [ $? -gt 1 ] || exit; done"),
    )
}

impl Connections {
    fn run(id: &Lab, line: &str) -> Self {
        let arguments = ["lab", "exec", "--run", id.0, "client", "bash", "-c", line];
        let child = Command::new(binary())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        // The shell ends with its input, and the connections with the shell.
        drop(self.0.stdin.take());
        self.0.wait().ok();
    }
}

pub(crate) fn lab(arguments: &[&str]) -> Output {
    Command::new(binary())
        .arg("lab")
        .args(arguments)
        .output()
        .unwrap()
}

pub(crate) fn lab_ok(arguments: &[&str]) -> String {
    let output = lab(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "lab {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a scenario in a lab of its own; the result, when everything held.
pub(crate) fn run(scenario: &str, id: &Lab) -> Value {
    run_with(scenario, id, &[])
}

pub(crate) fn run_with(scenario: &str, id: &Lab, more: &[&str]) -> Value {
    let arguments = ["run", scenario, "--fresh", "--run", id.0, "-o", "json"];
    let output = lab(&[&arguments, more].concat());
    let progress = String::from_utf8_lossy(&output.stderr);
    eprintln!("{progress}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{scenario} does not hold: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// An id of a lab, which is taken down also when the test fails.
pub(crate) struct Lab(pub(crate) &'static str);

impl Lab {
    /// Fails here when there is no binary, not while the test is being cleaned up after.
    pub(crate) fn new(id: &'static str) -> Self {
        binary();
        Self(id)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        lab(&["down", "--run", self.0]);
    }
}

/// What a lab of this id left; other labs may come and go meanwhile.
pub(crate) fn traces_of(id: &str) -> BTreeSet<String> {
    let (namespace, folder) = (format!("/ek{id}-"), format!("/run/evenkeel/lab/{id}"));
    let mut all = traces();
    all.retain(|t| t.contains(&namespace) || t.starts_with(&folder));
    all
}

/// Namespaces, host links and lab folders: everything a lab could leave.
pub(crate) fn traces() -> BTreeSet<String> {
    let names = |folder: &str| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .map(|e| e.path().display().to_string())
            .collect::<Vec<_>>()
    };
    ["/run/netns", "/sys/class/net", "/run/evenkeel/lab"]
        .into_iter()
        .flat_map(names)
        .collect()
}

pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(Instant::now() < until, "{what}: {seen}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
