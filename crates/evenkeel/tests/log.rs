//! The log of a daemon: each line is JSON with known keys where that is asked for, by flag or by file.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A controller that cannot start: its data folder lies below a file. It logs that, and ends.
fn ends_at_once(folder: &Path, more: &[&str], file: &str) -> Output {
    let (config, plain) = (folder.join("controller.toml"), folder.join("plain"));
    std::fs::write(&config, file).unwrap();
    std::fs::write(&plain, "").unwrap();
    Command::new(env!("CARGO_BIN_EXE_evenkeel"))
        .arg("controller")
        .args([
            "--listen-api",
            "127.0.0.1:0",
            "--listen-engines",
            "127.0.0.1:0",
        ])
        .arg("--data-dir")
        .arg(plain.join("data"))
        .arg("--config")
        .arg(config)
        .args(more)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The lines, each of them JSON with what every line has.
fn lines(said: &str) -> Vec<Value> {
    let line = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        for key in ["timestamp", "level", "target", "message"] {
            assert!(value[key].is_string(), "{key} is missing: {line}");
        }
        assert!(
            value["timestamp"].as_str().unwrap().ends_with('Z'),
            "{line}"
        );
        value
    };
    said.lines().map(line).collect()
}

#[test]
fn a_json_line_has_time_level_target_message_and_a_key_for_each_value() {
    let folder = tempfile::tempdir().unwrap();
    for (flags, file) in [
        (&["--log-format", "json"][..], ""),
        (&[][..], "log_format = \"json\""),
    ] {
        let output = ends_at_once(folder.path(), flags, file);
        assert!(!output.status.success());
        let lines = lines(&said(&output));
        let last = lines.last().unwrap();
        assert_eq!(last["level"], "ERROR", "{last}");
        assert_eq!(last["message"], "stopped", "{last}");
        assert!(last["error"].as_str().unwrap().contains("data"), "{last}");
    }
}

#[test]
fn text_is_for_people_and_a_flag_wins_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--log-format", "text"];
    let output = ends_at_once(folder.path(), &flags, "log_format = \"json\"");
    let said = said(&output);
    assert!(said.contains("ERROR") && said.contains("stopped"), "{said}");
    assert!(serde_json::from_str::<Value>(&said).is_err(), "{said}");
}

#[test]
fn a_word_that_is_none_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let output = ends_at_once(folder.path(), &["--log-format", "xml"], "");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(said(&output).contains("--log-format"), "{output:?}");
    let output = ends_at_once(folder.path(), &[], "log_format = \"xml\"");
    assert!(said(&output).contains("log_format"), "{output:?}");
    let flags = ["--log-format", "json", "--log-level", "info,a=loud"];
    let output = ends_at_once(folder.path(), &flags, "");
    assert!(!output.status.success());
    let lines = lines(&said(&output));
    let error = lines[0]["error"].as_str().unwrap();
    assert!(error.starts_with("log_level: "), "{error}");
}

/// A controller that runs, its log until it has been told to stop, at this level.
fn log_of_a_run(folder: &Path, level: &str) -> Vec<Value> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
        .arg("controller")
        .args([
            "--listen-api",
            "127.0.0.1:0",
            "--listen-engines",
            "127.0.0.1:0",
        ])
        .arg("--data-dir")
        .arg(folder)
        .args(["--log-format", "json", "--log-level", level])
        .env_clear()
        .env("EVENKEEL_ADMIN_PASSWORD", "for this test only")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut all = String::new();
    for line in log.by_ref().map(Result::unwrap) {
        all.push_str(&line);
        all.push('\n');
        if line.contains("controller started") {
            let process = Pid::from_raw(child.id().try_into().unwrap());
            kill(process, Signal::SIGTERM).unwrap();
        }
    }
    assert!(child.wait().unwrap().success());
    lines(&all)
}

#[test]
fn a_run_is_logged_from_its_start_to_its_end_with_values_under_their_keys() {
    let folder = tempfile::tempdir().unwrap();
    let lines = log_of_a_run(&folder.path().join("data"), "warn,evenkeel_controller=info");
    let started = lines.iter().find(|l| l["message"] == "controller started");
    let started = started.unwrap_or_else(|| panic!("{lines:?}"));
    assert_eq!(started["level"], "INFO");
    assert_eq!(started["target"], "evenkeel_controller");
    assert!(
        started["api"].as_str().unwrap().starts_with("127.0.0.1:"),
        "{started}"
    );
    assert_eq!(lines.last().unwrap()["message"], "controller stopped");
}
