//! The guide's page "By hand" is followed to the letter: every block of shell in it, in its order, in one shell, with FRR
//! as the router. What the page waits for is what this test asserts: a wait on the page that runs out ends it.
//!
//! Needs root, FRR, Python and curl; refuses to skip in CI.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_macros, // a skip is said to the test runner
    clippy::print_stderr
)]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Where the page keeps everything.
const FOLDER: &str = "/run/evenkeel-by-hand";

/// What the page needs on the machine.
const NEEDED: [&str; 2] = ["/usr/lib/frr/bgpd", "/usr/bin/vtysh"];

#[test]
fn page_by_hand_works_as_it_stands() {
    if let Some(why) = cannot_run() {
        let ci = std::env::var_os("CI").is_some();
        assert!(!ci, "CI must be able to run the namespace tests: {why}");
        eprintln!("skipped: {why}");
        return;
    }
    let page = fs::read_to_string(repository().join("docs/guide/by-hand.md")).unwrap();
    let blocks = blocks(&page);
    let (last, steps) = blocks.split_last().unwrap();
    let _clean_up = CleanUp(last);
    let output = bash(&format!("set -euxo pipefail\n{}", steps.join("\n")));
    assert!(
        output.status.success(),
        "the page ended with {}\n{}\n{}",
        output.status,
        said(&output),
        logs()
    );
    drop(_clean_up);
    assert!(
        !Path::new(FOLDER).exists(),
        "the page's clean-up left {FOLDER}"
    );
    assert_eq!(
        namespaces(),
        Vec::<String>::new(),
        "the page's clean-up left namespaces"
    );
}

/// Runs the page's last block, whatever happened before.
struct CleanUp<'a>(&'a str);

impl Drop for CleanUp<'_> {
    fn drop(&mut self) {
        bash(self.0);
    }
}

fn cannot_run() -> Option<String> {
    let root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|id| id.stdout == b"0\n");
    if !root {
        return Some("needs root".into());
    }
    let missing = NEEDED.iter().find(|path| !Path::new(path).exists());
    if let Some(path) = missing {
        return Some(format!("needs {path}"));
    }
    let taken = namespaces();
    (!taken.is_empty()).then(|| format!("somebody follows the page by hand: there are {taken:?}"))
}

/// The page's blocks of shell. The first builds the binary, which cargo has done; those for BIRD are the other choice.
fn blocks(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once("\n```sh\n") {
        let (block, after) = after.split_once("\n```\n").unwrap();
        found.push(block.to_string());
        rest = after;
    }
    assert!(
        found[0].starts_with("make deps build\n"),
        "the page begins otherwise: {}",
        found[0]
    );
    found[0] = found[0]
        .lines()
        .filter(|line| !line.starts_with("make "))
        .collect::<Vec<_>>()
        .join("\n");
    found[0] = found[0].replace("$PWD/target/release:", "");
    found
}

/// One shell as the page supposes it, with the binary under test in its path.
fn bash(script: &str) -> Output {
    let file = std::env::temp_dir().join(format!("evenkeel-by-hand-{}", std::process::id()));
    fs::write(&file, script).unwrap();
    // Files, not pipes: the page's daemons would hold a pipe open.
    let (out, err) = (file.with_extension("out"), file.with_extension("err"));
    let status = Command::new("bash")
        .arg(&file)
        .current_dir(repository())
        .env("PATH", path())
        .env("H", FOLDER)
        .stdin(Stdio::null())
        .stdout(fs::File::create(&out).unwrap())
        .stderr(fs::File::create(&err).unwrap())
        .status()
        .unwrap();
    let output = Output {
        status,
        stdout: fs::read(&out).unwrap(),
        stderr: fs::read(&err).unwrap(),
    };
    for file in [file, out, err] {
        fs::remove_file(file).unwrap();
    }
    output
}

fn path() -> OsString {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_evenkeel"));
    let mut path = binary.parent().unwrap().as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    path.push(":/usr/sbin:/sbin");
    path
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

fn namespaces() -> Vec<String> {
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("hand-")).collect()
}

/// The end of what was printed; `set -x` shows the command that failed.
fn said(output: &Output) -> String {
    let tail = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let lines: Vec<&str> = text.lines().rev().take(40).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    };
    format!(
        "--- output\n{}\n--- commands and errors\n{}",
        tail(&output.stdout),
        tail(&output.stderr)
    )
}

/// The end of every log of the page's daemons.
fn logs() -> String {
    let files = fs::read_dir(FOLDER)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    let tail = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(15).collect();
        format!(
            "--- {}\n{}\n",
            path.display(),
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        )
    };
    logs.map(tail).collect()
}
