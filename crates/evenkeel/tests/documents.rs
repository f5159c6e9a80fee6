//! What documents name must exist.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every `.rs` file below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let of = |path: PathBuf| match path.is_dir() {
        true => sources(&path),
        false => vec![path],
    };
    entries
        .flat_map(of)
        .filter(|p| p.extension().is_some_and(|e| e == "rs"))
        .collect()
}

fn functions() -> BTreeSet<String> {
    let names = |path: PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let after = text.split("fn ").skip(1).map(str::to_owned);
        let name = |rest: String| {
            rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .next()
                .map(str::to_owned)
        };
        after.filter_map(name).collect::<Vec<_>>()
    };
    sources(&root().join("crates"))
        .into_iter()
        .flat_map(names)
        .collect()
}

#[test]
fn tests_that_stand_for_routing_behaviours_exist() {
    let document = fs::read_to_string(root().join("docs/dev/routing-tests.md")).unwrap();
    let known = functions();
    let quoted = document
        .lines()
        .filter(|l| l.starts_with('|'))
        .flat_map(|l| l.split('`').skip(1).step_by(2));
    let named: Vec<_> = quoted
        .filter(|q| q.contains('_') && !q.contains(' '))
        .collect();
    assert!(named.len() > 80, "the document was read");
    let fuzz = |name: &str| root().join(format!("fuzz/fuzz_targets/{name}.rs")).exists();
    let missing: Vec<_> = named
        .into_iter()
        .filter(|n| !known.contains(*n) && !fuzz(n))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/dev/routing-tests.md names what is gone: {missing:?}"
    );
}
