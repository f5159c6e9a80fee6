//! Compiles the programs of `bpf/` for the kernel's virtual machine.

#![allow(
    clippy::disallowed_macros,
    clippy::print_stdout,
    clippy::disallowed_methods
)] // cargo listens on standard output

#[path = "../../bpf/build.rs"]
mod bpf;

fn main() {
    bpf::compile("steer_tc");
    bpf::compile("steer_xdp");
}
