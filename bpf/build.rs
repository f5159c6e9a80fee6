//! Compiles programs of `bpf/` for the kernel's virtual machine; a part of the build scripts that need one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// From the folder of a crate.
const SOURCE: &str = "../../bpf";

/// `bpf/NAME.c` becomes `OUT_DIR/NAME.o`; a name may have a folder in it, which is left out of the object's.
pub fn compile(name: &str) {
    println!("cargo::rerun-if-env-changed=CLANG");
    watch(Path::new(SOURCE));
    let out =
        PathBuf::from(env::var_os("OUT_DIR").expect("cargo names the folder for what is built"));
    let source = Path::new(SOURCE).join(format!("{name}.c"));
    let object = source.with_extension("o");
    let object = object.file_name().expect("a program has a name");
    run_clang(&source, &out.join(object));
}

/// The folder, for files that come and go, and each file.
fn watch(folder: &Path) {
    println!("cargo::rerun-if-changed={}", folder.display());
    for entry in fs::read_dir(folder).expect("bpf/ is part of the repository") {
        let path = entry.expect("a folder can be read").path();
        match path.is_dir() {
            true => watch(&path),
            false => println!("cargo::rerun-if-changed={}", path.display()),
        }
    }
}

fn run_clang(source: &Path, object: &Path) {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let status = Command::new(&clang)
        .args([
            "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror",
        ])
        // Headers of the C library that are per architecture; the target has none of its own.
        .arg(format!("-I/usr/include/{}-linux-gnu", arch()))
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(object)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(_) => panic!("{} does not compile, see above", source.display()),
        Err(error) => {
            panic!("{clang}: {error}; install clang and libbpf-dev (scripts/install-deps.sh)")
        }
    }
}

fn arch() -> String {
    env::var("CARGO_CFG_TARGET_ARCH").expect("cargo names the architecture")
}
