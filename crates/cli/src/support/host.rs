//! What this machine says of itself: an engine's host, as a rule. Files of `/proc`, names of BPF pins, and a few commands,
//! each with a time limit and a limit of what is read of it.
//!
//! A command's output is read by a thread of its own, which ends when the command does; one that takes too long is killed.

use super::{Piece, secrets};
use crate::output::table;
use serde_json::{Map, Value, json};
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

/// Where an engine keeps the programs that steer packets, unless it is told otherwise.
pub(super) const BPF_DIR: &str = "/run/evenkeel/bpf";
/// How long a command may take; a full routing table is listed in seconds.
const COMMAND_TIME: Duration = Duration::from_secs(15);
/// What is read of a command: a full routing table as JSON is larger, and what it has is in the engine's own list.
const OUTPUT_LEN_MAX: usize = 32 << 20;
/// What is read of its complaints.
const COMPLAINT_LEN_MAX: u64 = 4096;
/// Pins that are named; an engine has some dozens.
const PINS_MAX: usize = 1000;
/// Folders in folders of pins.
const PIN_DEPTH_MAX: usize = 4;
/// Administrators' commands are there, and not in the path of everybody.
const MORE_PATH: &str = "/usr/sbin:/sbin";

/// Files and what is in them.
pub(super) const FILES: [(&str, &str); 10] = [
    (
        "kernel.json",
        "version of the kernel, time since its start, load, memory",
    ),
    (
        "sysctls.json",
        "settings of the kernel that an engine changes or depends on",
    ),
    (
        "bpf-pins.json",
        "programs and maps that steer packets, by name",
    ),
    ("ip-addr.json", "addresses"),
    ("ip-link.json", "interfaces with their counters"),
    ("ip-route.json", "IPv4 routes of all tables"),
    ("ip-route6.json", "IPv6 routes of all tables"),
    ("ip-rule.json", "rules that choose a table of IPv4 routes"),
    ("ip-rule6.json", "rules that choose a table of IPv6 routes"),
    ("nft-ruleset.json", "the packet filter"),
];

/// Commands that answer in JSON, and the files for it.
const COMMANDS: [(&str, &str, &[&str]); 7] = [
    ("ip-addr.json", "ip", &["-j", "addr"]),
    ("ip-link.json", "ip", &["-j", "-s", "link"]),
    (
        "ip-route.json",
        "ip",
        &["-j", "-4", "route", "show", "table", "all"],
    ),
    (
        "ip-route6.json",
        "ip",
        &["-j", "-6", "route", "show", "table", "all"],
    ),
    ("ip-rule.json", "ip", &["-j", "-4", "rule"]),
    ("ip-rule6.json", "ip", &["-j", "-6", "rule"]),
    ("nft-ruleset.json", "nft", &["-j", "list", "ruleset"]),
];

/// Below `/proc`.
const KERNEL: [&str; 4] = ["version", "uptime", "loadavg", "meminfo"];

/// Of each interface, below `/proc/sys/net/ipv4/conf`: an engine sets the first three, and the last one of `lo`.
const OF_INTERFACES: [&str; 4] = ["arp_ignore", "arp_announce", "rp_filter", "forwarding"];
/// Below `/proc/sys`: what steering and the paths of answers depend on.
const SYSCTLS: [&str; 9] = [
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/lo/forwarding",
    "net/ipv4/fib_multipath_hash_policy",
    "net/ipv6/fib_multipath_hash_policy",
    "net/ipv4/tcp_timestamps",
    "net/ipv4/ip_local_port_range",
    "net/core/rmem_max",
    "net/core/somaxconn",
];

pub(super) fn what(file: &str) -> Option<&'static str> {
    let found = FILES.iter().find(|(name, _)| *name == file);
    found.map(|(_, what)| *what)
}

/// Reads all of it, and hands on each piece as it is there.
pub(super) fn read(
    bpf_dir: &Path,
    mut each: impl FnMut(Piece) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    each(piece("kernel.json", kernel(Path::new("/proc"))))?;
    each(piece("sysctls.json", sysctls(Path::new("/proc/sys"))))?;
    each(piece("bpf-pins.json", pins(bpf_dir)))?;
    for (file, program, arguments) in COMMANDS {
        each(piece(file, ask(program, arguments)))?;
    }
    Ok(())
}

fn piece(file: &str, value: Result<Value, String>) -> Piece {
    let path = format!("host/{file}");
    match value {
        Err(error) => Piece {
            path,
            error: Some(error),
            ..Piece::default()
        },
        Ok(mut value) => {
            secrets::mask_foreign(&mut value);
            Piece {
                path,
                text: Some(table::json(&value)),
                ..Piece::default()
            }
        }
    }
}

fn kernel(proc: &Path) -> Result<Value, String> {
    let values = KERNEL.iter().filter_map(|name| {
        let text = fs::read_to_string(proc.join(name)).ok()?;
        Some(((*name).to_owned(), text.trim_end().into()))
    });
    some(values.collect(), proc)
}

/// By path, as `/proc/sys` has them: an interface's name may have a dot.
fn sysctls(root: &Path) -> Result<Value, String> {
    let conf = "net/ipv4/conf";
    let entries = fs::read_dir(root.join(conf)).into_iter().flatten();
    let interfaces = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
    let mut interfaces: Vec<String> = interfaces.collect();
    interfaces.sort();
    let of_interface =
        |interface: &String| OF_INTERFACES.map(|setting| format!("{conf}/{interface}/{setting}"));
    let all = SYSCTLS.map(str::to_owned).into_iter();
    let all = all.chain(interfaces.iter().flat_map(of_interface));
    let values = all.filter_map(|setting| {
        let text = fs::read_to_string(root.join(&setting)).ok()?;
        Some((setting, text.trim_end().into()))
    });
    some(values.collect(), root)
}

fn some(values: Map<String, Value>, root: &Path) -> Result<Value, String> {
    match values.is_empty() {
        true => Err(format!("nothing could be read below {}", root.display())),
        false => Ok(values.into()),
    }
}

/// Names below the folder; what they are of, only the kernel says.
fn pins(dir: &Path) -> Result<Value, String> {
    let mut names = Vec::new();
    list(dir, "", PIN_DEPTH_MAX, &mut names).map_err(|error| {
        let dir = dir.display();
        match error.kind() {
            io::ErrorKind::NotFound => format!(
                "there is no {dir}: no engine has steered here, or it has another folder (--bpf-dir)"
            ),
            io::ErrorKind::PermissionDenied => format!("cannot read {dir}: {error}; run it as root"),
            _ => format!("cannot read {dir}: {error}"),
        }
    })?;
    names.sort();
    let cut = names.len() == PINS_MAX;
    Ok(json!({"folder": dir.display().to_string(), "names": names, "more": cut}))
}

fn list(dir: &Path, above: &str, depth: usize, names: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = format!("{above}{}", entry.file_name().to_string_lossy());
        if names.len() == PINS_MAX {
            return Ok(());
        }
        if entry.file_type()?.is_dir() && depth > 0 {
            list(&entry.path(), &format!("{name}/"), depth - 1, names)?;
        } else {
            names.push(name);
        }
    }
    Ok(())
}

fn ask(program: &str, arguments: &[&str]) -> Result<Value, String> {
    let text = output(program, arguments, COMMAND_TIME)?;
    // `ip` says nothing at all where there is nothing to list.
    if text.trim().is_empty() {
        return Ok(json!([]));
    }
    serde_json::from_str(&text).map_err(|error| format!("{program} gave no JSON: {error}"))
}

/// What a command prints within this time.
fn output(program: &str, arguments: &[&str], time: Duration) -> Result<String, String> {
    let path = std::env::var("PATH").ok().filter(|path| !path.is_empty());
    let path = path.map_or_else(
        || MORE_PATH.to_owned(),
        |path| format!("{path}:{MORE_PATH}"),
    );
    let spawned = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("{program} is not installed here"),
        _ => format!("cannot run {program}: {error}"),
    })?;
    let said = listen(&mut child, time);
    if said.is_none() {
        child.kill().ok(); // it may have ended meanwhile
    }
    let status = child.wait();
    match (said, status) {
        (None, _) => Err(format!(
            "{program} did not end within {} s",
            time.as_secs_f32()
        )),
        (Some((out, _)), _) if out.len() > OUTPUT_LEN_MAX => Err(format!(
            "left out: {program} prints more than {} MiB",
            OUTPUT_LEN_MAX >> 20
        )),
        (Some((out, _)), Ok(status)) if status.success() => Ok(out),
        (Some((_, complaint)), _) => {
            let line = complaint.lines().next().unwrap_or("it gave no reason");
            Err(format!("{program} failed: {line}"))
        }
    }
}

/// Output and complaints, when the command has closed them in time. No more is read than is wanted: a command that goes on
/// printing is ended by the closed pipe.
fn listen(child: &mut Child, time: Duration) -> Option<(String, String)> {
    let (out, err) = (child.stdout.take()?, child.stderr.take()?);
    let (sender, said) = channel();
    std::thread::spawn(move || {
        let said = (
            up_to(out, OUTPUT_LEN_MAX as u64 + 1),
            up_to(err, COMPLAINT_LEN_MAX),
        );
        sender.send(said).ok(); // nobody waits for it any more
    });
    said.recv_timeout(time).ok()
}

fn up_to(from: impl Read, len: u64) -> String {
    let mut bytes = Vec::new();
    // What came before a pipe broke is what there is.
    from.take(len).read_to_end(&mut bytes).ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_is_masked() {
        let said = json!({"comment": "ekjoin1.s3"});
        let text = piece("x", Ok(said)).text.unwrap();
        assert!(!text.contains("s3"), "{text}");
    }

    #[test]
    fn a_command_that_is_not_there_fails_or_does_not_end_is_named_with_the_reason() {
        let gone = output("evenkeel-no-such-command", &[], COMMAND_TIME).unwrap_err();
        assert_eq!(gone, "evenkeel-no-such-command is not installed here");
        let failed = output("sh", &["-c", "echo no >&2; exit 3"], COMMAND_TIME);
        assert_eq!(failed.unwrap_err(), "sh failed: no");
        let hung = output("sh", &["-c", "exec sleep 1000"], Duration::from_millis(50));
        assert_eq!(hung.unwrap_err(), "sh did not end within 0.05 s");
        assert_eq!(output("echo", &["[]"], COMMAND_TIME).unwrap(), "[]\n");
        let text = ask("echo", &["text"]).unwrap_err();
        assert!(text.starts_with("echo gave no JSON: "), "{text}");
    }

    #[test]
    fn more_than_is_wanted_of_a_command_is_left_out() {
        let endless = output("sh", &["-c", "yes 2>/dev/null"], COMMAND_TIME);
        assert_eq!(endless.unwrap_err(), "left out: sh prints more than 32 MiB");
    }

    #[test]
    fn settings_are_those_of_every_interface_and_pins_those_in_folders_too() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "1\n").unwrap();
        };
        put("net/ipv4/conf/eth0.10/rp_filter");
        put("net/ipv4/ip_forward");
        let expected = json!({"net/ipv4/ip_forward": "1", "net/ipv4/conf/eth0.10/rp_filter": "1"});
        assert_eq!(sysctls(root.path()).unwrap(), expected);
        let pinned = pins(&root.path().join("net")).unwrap();
        let names = json!(["ipv4/conf/eth0.10/rp_filter", "ipv4/ip_forward"]);
        assert_eq!((&pinned["names"], &pinned["more"]), (&names, &json!(false)));
        let missing = pins(&root.path().join("none")).unwrap_err();
        assert!(missing.contains("--bpf-dir"), "{missing}");
        assert!(kernel(root.path()).is_err());
    }

    #[test]
    fn each_command_has_a_file_that_is_said_to_be_something() {
        let unsaid: Vec<_> = COMMANDS
            .iter()
            .filter(|(file, ..)| what(file).is_none())
            .collect();
        assert!(unsaid.is_empty(), "{unsaid:?}");
    }
}
