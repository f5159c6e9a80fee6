//! The wall around the pure crates: decisions without I/O, so that they can be simulated and replayed.
//!
//! Two checks. What they depend on, through however many steps, is an **allow list**: a new dependency of a pure
//! crate is a decision, made here, with its reason. And as the standard library has sockets, clocks and
//! threads too, their sources must not name those.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The crates behind the wall, by folder.
const PURE: [&str; 6] = ["bgp", "bfd", "flow", "health", "placement", "model"];

/// What they may reach. Each is computation on memory alone.
const ALLOWED: [&str; 22] = [
    // Bytes and addresses as types.
    "bytes",
    "ipnet",
    // The BGP codec (docs/adr/0002); it encodes and decodes, nothing else.
    "rustbgpd-wire",
    // Serialisation: derives, and JSON as a value.
    "serde",
    "serde_core",
    "serde_derive",
    "serde_json",
    "indexmap",
    "equivalent",
    "foldhash",
    "hashbrown",
    "itoa",
    "memchr",
    "ryu",
    "zmij",
    // Error enums, and what derives are made of (they run in the compiler).
    "thiserror",
    "thiserror-impl",
    "proc-macro2",
    "quote",
    "syn",
    "unicode-ident",
    // Conditional compilation, expanded by the compiler.
    "cfg-if",
];

/// What the sources must not name, and why.
const FORBIDDEN_WORDS: [(&str, &str); 14] = [
    ("Instant::now", "time comes in as `now`"),
    ("SystemTime::now", "time comes in as `now`"),
    ("UNIX_EPOCH", "wall-clock time is the shell's"),
    ("std::thread", "a core has no threads"),
    ("std::fs", "a core has no files"),
    ("std::env", "a core has no environment"),
    ("std::process", "a core starts nothing"),
    ("std::io", "a core has no streams"),
    ("TcpStream", "a core has no sockets"),
    ("TcpListener", "a core has no sockets"),
    ("UdpSocket", "a core has no sockets"),
    ("RandomState", "its order is random: use BTreeMap"),
    ("println!", "what a core reports is a value"),
    ("tracing::", "what a core reports is a value"),
];

#[test]
fn pure_crates_reach_only_crates_that_compute() {
    let allowed: BTreeSet<String> = ALLOWED.iter().map(ToString::to_string).collect();
    for name in PURE {
        let ours = |dependency: &String| {
            PURE.iter()
                .any(|pure| *dependency == format!("evenkeel-{pure}"))
        };
        let reached = dependencies(name)
            .into_iter()
            .filter(|dependency| !ours(dependency));
        let surplus: Vec<String> = reached
            .filter(|dependency| !allowed.contains(dependency))
            .collect();
        assert!(
            surplus.is_empty(),
            "crates/{name} is pure, but reaches {surplus:?}: keep I/O in the shells, \
             or add the crate to the list in this test with the reason why it is harmless"
        );
    }
}

#[test]
fn sources_of_pure_crates_name_no_clock_socket_thread_or_file() {
    for name in PURE {
        for file in sources(&workspace().join("crates").join(name).join("src")) {
            let text = product_part(&std::fs::read_to_string(&file).unwrap());
            for (word, reason) in FORBIDDEN_WORDS {
                let line = text
                    .lines()
                    .position(|line| is_code(line) && line.contains(word));
                let place = line.map(|line| format!("{}:{}", file.display(), line + 1));
                assert_eq!(place, None, "names {word}, but {reason}");
            }
        }
    }
}

/// Every crate that the crate in this folder is built from, itself included, without test dependencies.
fn dependencies(folder: &str) -> BTreeSet<String> {
    let package = format!("evenkeel-{folder}");
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "--package",
            &package,
        ])
        .current_dir(workspace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let names: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(Into::into)
        .collect();
    assert!(
        names.contains(&package),
        "cargo tree answered without {package}: {text}"
    );
    names
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// The Rust files below a folder, except those that hold tests.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries
        .filter(|path| !holds_tests(path))
        .partition(|path| path.is_dir());
    let below = folders.iter().flat_map(|folder| sources(folder));
    let rust = files
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.cloned().chain(below).collect()
}

fn holds_tests(path: &Path) -> bool {
    path.file_stem()
        .is_some_and(|stem| stem == "tests" || stem == "proptests")
}

/// The text up to a test module at its end; the conventions put tests last.
fn product_part(text: &str) -> String {
    text.split("#[cfg(test)]\nmod ")
        .next()
        .unwrap_or(text)
        .to_string()
}

fn is_code(line: &str) -> bool {
    !line.trim_start().starts_with("//")
}
