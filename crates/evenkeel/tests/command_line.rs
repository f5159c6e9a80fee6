//! The binary's manners: exit codes, where errors go and in which form.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::net::TcpListener;
use support::{evenkeel, text};

/// An address where nobody listens.
fn nobody() -> String {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    format!("https://127.0.0.1:{port}")
}

#[test]
fn unreachable_controller_is_exit_code_3_with_a_hint_on_standard_error() {
    let output = evenkeel(&["show", "virtualservice", "--controller", &nobody()]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(text(&output.stdout), "");
    let said = text(&output.stderr);
    assert!(
        said.contains("is not reachable")
            && said.contains("hint: controller address from --controller"),
        "{said}"
    );
}

#[test]
fn error_is_json_where_json_was_asked_for() {
    let output = evenkeel(&["-o", "json", "show", "bgp", "--controller", &nobody()]);
    let said = text(&output.stderr);
    assert!(
        said.starts_with("{\"error\":") && said.contains("\"outcome\":\"unreachable\""),
        "{said}"
    );
}

#[test]
fn command_line_that_is_not_understood_is_exit_code_2() {
    assert_eq!(evenkeel(&["show", "nothing"]).status.code(), Some(2));
    assert_eq!(
        evenkeel(&["scaleout", "virtualservice"]).status.code(),
        Some(2)
    );
}

#[test]
fn file_that_is_not_understood_is_exit_code_2_without_asking_a_controller() {
    let output = evenkeel(&[
        "apply",
        "-f",
        "/nonexistent/file.yaml",
        "--controller",
        &nobody(),
    ]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("/nonexistent/file.yaml"));
}

#[test]
fn every_command_has_help_and_options_that_do_not_contradict_each_other() {
    for command in [
        "show",
        "trace",
        "scaleout",
        "scalein",
        "apply",
        "delete",
        "revert",
        "confirm",
        "backup",
        "export",
        "import",
        "support",
        "jointoken",
        "controller",
        "engine",
        "lab",
    ] {
        let output = evenkeel(&[command, "--help"]);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{command}: {}",
            text(&output.stderr)
        );
    }
}
