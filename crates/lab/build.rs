//! Embeds the folders under `tests/topologies`, so that an installed binary brings its topologies along.

#![allow(clippy::disallowed_macros)] // cargo reads a build script by its standard output

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .join("../../tests/topologies");
    println!("cargo:rerun-if-changed={}", root.display());
    let mut table = String::from("pub(crate) const FILES: &[(&str, &str)] = &[\n");
    for file in files_under(&root)? {
        println!("cargo:rerun-if-changed={}", file.display());
        let name = file.strip_prefix(&root).expect("found under the root");
        let path = file.canonicalize()?;
        writeln!(table, "    ({:?}, include_str!({:?})),", name, path).expect("write to memory");
    }
    table.push_str("];\n");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("topologies.rs"), table)
}

/// Every file below `folder`, sorted, so that equal trees make equal binaries.
fn files_under(folder: &Path) -> io::Result<Vec<PathBuf>> {
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_under(&path)?);
        } else {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
