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

/// Functions with a test attribute, and the stories that a matrix makes tests of.
fn tests() -> BTreeSet<String> {
    let names = |path: PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        [attributed(&text), in_matrices(&text)].concat()
    };
    sources(&root().join("crates"))
        .into_iter()
        .flat_map(names)
        .collect()
}

/// The name after `#[test]` or `#[tokio::test…]`; other attributes may stand between.
fn attributed(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut expected = false;
    for line in text.lines().map(str::trim) {
        expected |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let function = line.strip_prefix("async ").unwrap_or(line);
        if let Some(rest) = function.strip_prefix("fn ")
            && std::mem::take(&mut expected)
        {
            names.extend(words(rest).next().map(str::to_owned));
        }
    }
    names
}

/// The lists of `matrix! { router: kind => [story, story]; }`.
fn in_matrices(text: &str) -> Vec<String> {
    let Some((_, matrix)) = text.split_once("\nmatrix! {") else {
        return Vec::new();
    };
    let lists = matrix.split("=> [").skip(1);
    let list = |l: &str| l.split(']').next().map(str::to_owned);
    lists
        .filter_map(list)
        .flat_map(|l| words(&l).map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    parts.filter(|word| !word.is_empty())
}

/// In the last column of a table row.
fn named_by(row: &str) -> impl Iterator<Item = &str> {
    let column = row.trim_end_matches('|').rsplit('|').next();
    column.unwrap_or_default().split('`').skip(1).step_by(2)
}

#[test]
fn tests_that_stand_for_routing_behaviours_exist() {
    let document = fs::read_to_string(root().join("docs/dev/routing-tests.md")).unwrap();
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let known = tests();
    let named: Vec<_> = document
        .lines()
        .filter(|l| l.starts_with('|'))
        .flat_map(named_by)
        .collect();
    assert!(named.len() > 80, "the document was read");
    let fuzz = |name: &str| root().join(format!("fuzz/fuzz_targets/{name}.rs")).exists();
    let exists = |name: &str| match name.strip_prefix("make ") {
        Some(target) => makefile.contains(&format!("\n{target}:")),
        None => known.contains(name) || fuzz(name),
    };
    let missing: Vec<_> = named.into_iter().filter(|n| !exists(n)).collect();
    assert!(
        missing.is_empty(),
        "docs/dev/routing-tests.md names what is gone: {missing:?}"
    );
}

#[test]
fn tests_that_stand_for_security_exist() {
    let document = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let known = tests();
    let rows = document
        .lines()
        .filter(|l| l.starts_with("| ") && !l.starts_with("| ---"));
    let lines: Vec<Vec<&str>> = rows
        .filter(|l| !l.starts_with("| threat |"))
        .map(|l| named_by(l).collect())
        .collect();
    assert!(lines.len() > 25, "the document was read");
    assert!(
        lines.iter().all(|names| !names.is_empty()),
        "a threat has a test that stands for it"
    );
    let missing: Vec<_> = lines
        .into_iter()
        .flatten()
        .filter(|n| !known.contains(*n))
        .collect();
    assert!(
        missing.is_empty(),
        "SECURITY.md names tests that do not exist: {missing:?}"
    );
}

#[test]
fn only_functions_that_run_count_as_tests() {
    let text = "fn helper() {}\n#[test]\n#[expect(\n    lint\n)]\nfn plain() {\n    fn inner() {}\n}\n#[tokio::test(start_paused = true)]\nasync fn timed() {}\n";
    assert_eq!(attributed(text), ["plain", "timed"]);
    let text = "fn story() {}\nmatrix! {\n    a: A => [story, other];\n    b: B => [\n        third\n    ];\n}\n";
    assert_eq!(in_matrices(text), ["story", "other", "third"]);
    let row = "| `no` behaviour | RFC | `first`, fuzz target `second` |";
    assert_eq!(named_by(row).collect::<Vec<_>>(), ["first", "second"]);
}
