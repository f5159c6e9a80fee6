//! Compiles the programs of `bpf/` for the kernel's virtual machine.

#![allow(
    clippy::disallowed_macros,
    clippy::print_stdout,
    clippy::disallowed_methods
)] // cargo listens on standard output

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// A program each.
const PROGRAMS: [&str; 1] = ["steer_tc"];

fn main() {
    let source = Path::new("../../bpf");
    let out =
        PathBuf::from(env::var_os("OUT_DIR").expect("cargo names the folder for what is built"));
    println!("cargo::rerun-if-env-changed=CLANG");
    println!("cargo::rerun-if-changed={}", source.display());
    for entry in fs::read_dir(source).expect("bpf/ is part of the repository") {
        let path = entry.expect("a folder can be read").path();
        println!("cargo::rerun-if-changed={}", path.display());
    }
    for program in PROGRAMS {
        compile(
            &source.join(format!("{program}.c")),
            &out.join(format!("{program}.o")),
        );
    }
}

fn compile(source: &Path, object: &Path) {
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
