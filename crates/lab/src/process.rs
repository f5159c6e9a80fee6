//! Processes that a lab started: found again by pid **and** start time, so that a recycled pid is never hit.

use anyhow::{Context, Result};
use nix::sys::signal::{self, Signal};
use nix::time::ClockId;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take between SIGTERM and its end before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// How often a condition is looked at while waiting for it.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// A process, identified beyond its pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_ticks: u64,
}

/// State letter and start time of a process.
struct Stat {
    state: char,
    start_ticks: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command in parentheses may contain anything; the fields after the last one are plain.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

impl Identity {
    /// The process that has this pid now.
    pub fn of(pid: i32) -> Option<Self> {
        Some(Self {
            pid,
            start_ticks: stat(pid)?.start_ticks,
        })
    }

    /// True while this very process runs; a zombie does not.
    pub fn is_alive(self) -> bool {
        stat(self.pid)
            .is_some_and(|s| s.start_ticks == self.start_ticks && !matches!(s.state, 'Z' | 'X'))
    }

    /// Sends a signal, if this very process still runs.
    pub fn signal(self, signal: Signal) -> bool {
        self.is_alive() && signal::kill(Pid::from_raw(self.pid), signal).is_ok()
    }

    /// Time on a core since it began, also for its packets where the kernel handles them at once.
    pub fn cpu_time(self) -> Option<Duration> {
        let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(self.pid)).ok()?;
        let used = clock.now().ok()?;
        self.is_alive().then_some(used.into())
    }

    /// The kernel's memory for the BPF maps and programs that it has open, in bytes; each counts once.
    pub fn bpf_bytes(self) -> u64 {
        let entries = fs::read_dir(format!("/proc/{}/fdinfo", self.pid));
        let entries = entries.into_iter().flatten().flatten();
        let infos = entries.filter_map(|e| fs::read_to_string(e.path()).ok());
        let objects: BTreeMap<_, _> = infos.filter_map(|info| bpf_object(&info)).collect();
        objects.into_values().sum()
    }

    /// Resident memory in bytes.
    pub fn rss_bytes(self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    }
}

/// Id and memory of the BPF map or program behind a descriptor, from its `/proc/PID/fdinfo`.
fn bpf_object(info: &str) -> Option<(String, u64)> {
    let is_id = |line: &&str| line.starts_with("map_id:") || line.starts_with("prog_id:");
    let id = info.lines().find(is_id)?.to_owned();
    let bytes = info.lines().find_map(|l| l.strip_prefix("memlock:"))?;
    Some((id, bytes.trim().parse().ok()?))
}

/// Ends processes: SIGTERM (and SIGCONT, for those that were stopped), then SIGKILL for those that stay.
pub fn stop(processes: &BTreeSet<Identity>) {
    for process in processes {
        process.signal(Signal::SIGTERM);
        process.signal(Signal::SIGCONT);
    }
    let all_gone = || processes.iter().all(|p| !p.is_alive());
    if !wait_for(STOP_TIMEOUT, all_gone) {
        processes.iter().for_each(|p| _ = p.signal(Signal::SIGKILL));
        wait_for(STOP_TIMEOUT, all_gone);
    }
}

/// Ends processes at once, and waits until they are gone.
pub fn kill(processes: &BTreeSet<Identity>) {
    processes.iter().for_each(|p| _ = p.signal(Signal::SIGKILL));
    wait_for(STOP_TIMEOUT, || processes.iter().all(|p| !p.is_alive()));
}

/// Waits for a condition; false when it did not come true in time.
pub fn wait_for(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + timeout;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "the pause of waiting for a condition"
        )]
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Processes whose main thread is in one of these namespaces, without this one.
pub fn inside(namespaces: &[String]) -> BTreeSet<Identity> {
    let handles: BTreeSet<_> = namespaces
        .iter()
        .filter_map(|n| handle(&Path::new("/run/netns").join(n)))
        .collect();
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid != own)
        .filter(|pid| {
            handle(&PathBuf::from(format!("/proc/{pid}/ns/net")))
                .is_some_and(|h| handles.contains(&h))
        })
        .filter_map(Identity::of)
        .collect()
}

fn handle(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// A command in a namespace; `ip netns exec` replaces itself, so the pid is the program's.
pub fn in_namespace(namespace: &str, command: &[String]) -> Command {
    let mut ip = Command::new("ip");
    ip.args(["netns", "exec", namespace]).args(command);
    ip
}

/// Starts a program that outlives this one, with its output in `log`.
pub fn spawn_daemon(namespace: &str, command: &[String], log: &Path) -> Result<Identity> {
    let output = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("open {}", log.display()))?;
    let errors = output.try_clone().context("duplicate a log file")?;
    let child = in_namespace(namespace, command)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        // A Ctrl-C at the terminal is meant for the lab command, not for the members.
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {}", command.join(" ")))?;
    let pid = i32::try_from(child.id()).expect("a pid fits");
    Identity::of(pid).with_context(|| format!("{} ended at once", command.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_with_another_start_time_is_not_alive() {
        let own = Identity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        let other = Identity {
            start_ticks: own.start_ticks + 1,
            ..own
        };
        assert!(own.is_alive());
        assert!(!other.is_alive());
        assert!(!other.signal(Signal::SIGTERM));
    }

    #[test]
    fn a_process_uses_memory_and_time_on_a_core() {
        let own = Identity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        let before = own.cpu_time().unwrap();
        let used = wait_for(STOP_TIMEOUT, || own.cpu_time().unwrap() > before);
        assert!(used && own.rss_bytes().unwrap() > 0);
    }

    #[test]
    fn a_descriptor_of_a_map_or_a_program_says_what_it_costs() {
        let map = "pos:\t0\nmap_type:\t9\nmax_entries:\t16384\nmemlock:\t4096\nmap_id:\t7\n";
        assert_eq!(bpf_object(map), Some(("map_id:\t7".to_owned(), 4096)));
        let program = "prog_type:\t3\nmemlock:\t8192\nprog_id:\t7\n";
        assert_eq!(bpf_object(program).unwrap().1, 8192);
        assert_eq!(bpf_object("pos:\t0\nflags:\t02\n"), None);
    }

    #[test]
    fn stop_ends_a_stopped_process() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Identity::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(process.signal(Signal::SIGSTOP));
        stop(&BTreeSet::from([process]));
        assert!(!process.is_alive());
        child.wait().unwrap();
    }
}
