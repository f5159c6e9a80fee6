//! Clocks of single processes that can be set. The time of day has no namespaces, and the host's is not ours to set: so a
//! library that is preloaded into the process (`clock.c`) adds the seconds that a file says, whenever the process asks
//! libc for the time of day, from the moment on in which they are written there. Monotonic clocks stay as they are, as they do
//! on a host whose clock is set.
//!
//! It reaches programs that ask libc, which ours do. etcd does not, being a Go program: its members keep the right time.

use anyhow::{Context, Result};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

const SOURCE: &str = include_str!("clock.c");
/// In the node's directory: the seconds, as eight bytes.
const SECONDS: &str = "clock";
const LIBRARY: &str = "clock.so";

/// A right clock for a process of the node with this directory: what stands before its command.
pub(crate) fn make(dir: &Path) -> Result<Vec<String>> {
    let path = |name: &str| dir.join(name).display().to_string();
    let source = path("clock.c");
    fs::write(&source, SOURCE).with_context(|| format!("write {source}"))?;
    let library = path(LIBRARY);
    let compile = ["-shared", "-fPIC", "-O2", "-o", &library, &source];
    crate::command::run("cc", &compile).context("a clock that can be set")?;
    let seconds = dir.join(SECONDS);
    fs::write(&seconds, 0i64.to_ne_bytes()).context("a clock's seconds")?;
    Ok(vec![
        "env".into(),
        format!("LD_PRELOAD={library}"),
        format!("LAB_CLOCK={}", seconds.display()),
    ])
}

/// The clock is off by so many seconds from now on.
pub(crate) fn set(dir: &Path, shift_s: i64) -> Result<()> {
    let seconds = dir.join(SECONDS);
    let file = File::options().write(true).open(&seconds);
    let file = file.with_context(|| format!("there is no clock to set: {}", seconds.display()))?;
    // In place: the process has the file mapped.
    file.write_all_at(&shift_s.to_ne_bytes(), 0)
        .context("set a clock")
}

/// True when the process has its time of day from the clock of this directory.
pub(crate) fn is_of(pid: i32, dir: &Path) -> Result<bool> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).context("a process's maps")?;
    let seconds = dir.join(SECONDS).display().to_string();
    Ok(maps.lines().any(|line| line.ends_with(&seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::now_us;
    use std::process::Command;

    fn seconds_of(clock: &[String]) -> i64 {
        let mut date = Command::new(&clock[0]);
        let said = date.args(&clock[1..]).args(["date", "+%s"]).output();
        let said = String::from_utf8(said.unwrap().stdout).unwrap();
        said.trim().parse().unwrap()
    }

    #[test]
    fn a_clock_is_off_by_what_it_is_set_to() {
        let dir = std::env::temp_dir().join(format!("evenkeel-clock-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let clock = make(&dir).unwrap();
        for shift_s in [0, 3600, -7200] {
            set(&dir, shift_s).unwrap();
            let right = i64::try_from(now_us() / 1_000_000).unwrap();
            let off = seconds_of(&clock) - right;
            assert!((shift_s..shift_s + 10).contains(&off), "{off}, {shift_s}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
