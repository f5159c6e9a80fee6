//! Running short commands and reading what they say.

use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::process::{Command, Output, Stdio};

/// Runs a program to its end; its output, or an error with what it wrote to standard error.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    checked(&format!("{program} {}", arguments.join(" ")), output)
}

/// Runs `ip -batch` in a namespace (or here): one process for many changes, stopping at the first that fails.
pub(crate) fn ip_batch(namespace: Option<&str>, lines: &[String]) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let spawn = || -> std::io::Result<Output> {
        let mut child = Command::new("ip")
            .args(namespace.into_iter().flat_map(|n| ["-n", n]))
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all((lines.join("\n") + "\n").as_bytes())?;
        drop(stdin);
        child.wait_with_output()
    };
    let place = namespace.unwrap_or("this namespace");
    checked(
        &format!("ip -batch in {place} ({})", lines.join("; ")),
        spawn(),
    )
    .map(drop)
}

fn checked(what: &str, output: std::io::Result<Output>) -> Result<String> {
    let output = output.with_context(|| format!("start {what}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what}: {}", errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
