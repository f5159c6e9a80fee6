//! What the engine has of its host: processors, memory, disk, as the kernel says when a session begins.

use crate::load;
use proto::v1::HostResources;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Of this host; the state folder's disk is the engine's.
pub(crate) fn read(state_dir: &Path) -> HostResources {
    let root = Path::new("/");
    let topology = topology(&root.join("sys/devices/system/cpu")).unwrap_or_default();
    HostResources {
        processors: load::processors(),
        memory_bytes: memory(root).unwrap_or(0),
        disk_bytes: disk(state_dir).unwrap_or(0),
        ..topology
    }
}

/// That of the host, or the least that a control group of the process allows.
fn memory(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    let total = kilobytes * 1024;
    Some(memory_limit(root).map_or(total, |limit| limit.min(total)))
}

/// None where nothing bounds it, or control groups are of version 1.
fn memory_limit(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let group = groups.lines().find_map(|l| l.strip_prefix("0::/"))?;
    let top = root.join("sys/fs/cgroup");
    let own = top.join(group);
    let above = own.ancestors().take_while(|path| path.starts_with(&top));
    above
        .filter_map(|path| number(&path.join("memory.max")))
        .min()
}

fn disk(folder: &Path) -> Option<u64> {
    let disk = nix::sys::statvfs::statvfs(folder).ok()?;
    disk.blocks().checked_mul(disk.fragment_size())
}

/// Sockets, cores and threads of the processors that are online; none where the kernel does not tell.
fn topology(processors: &Path) -> Option<HostResources> {
    let entries = fs::read_dir(processors).ok()?;
    let places = entries.flatten().filter_map(|entry| {
        let topology = entry.path().join("topology");
        let socket = number(&topology.join("physical_package_id"))?;
        let core = fs::read_to_string(topology.join("thread_siblings_list")).ok()?;
        Some((socket, core))
    });
    // How many threads of each core.
    let mut cores: BTreeMap<(u64, String), u32> = BTreeMap::new();
    for place in places {
        *cores.entry(place).or_default() += 1;
    }
    let sockets: BTreeSet<u64> = cores.keys().map(|(socket, _)| *socket).collect();
    let threads = *cores.values().max()?;
    let even = cores.len().is_multiple_of(sockets.len());
    let cores_per_socket = if even { cores.len() / sockets.len() } else { 0 };
    Some(HostResources {
        sockets: u32::try_from(sockets.len()).ok()?,
        cores_per_socket: u32::try_from(cores_per_socket).ok()?,
        threads_per_core: threads,
        ..HostResources::default()
    })
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these files.
    fn host(files: &[(String, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().expect("has one")).expect("made");
            fs::write(path, text).expect("written");
        }
        root
    }

    fn processor(
        number: u8,
        socket: &'static str,
        threads: &'static str,
    ) -> [(String, &'static str); 2] {
        let file = |name: &str| format!("cpu{number}/topology/{name}");
        [
            (file("physical_package_id"), socket),
            (file("thread_siblings_list"), threads),
        ]
    }

    #[test]
    fn processors_are_counted_by_socket_core_and_thread() {
        let files = [
            processor(0, "0\n", "0,2\n"),
            processor(1, "1\n", "1,3\n"),
            processor(2, "0\n", "0,2\n"),
            processor(3, "1\n", "1,3\n"),
        ];
        let root = host(&files.concat());
        let seen = topology(root.path()).expect("told");
        assert_eq!(
            (seen.sockets, seen.cores_per_socket, seen.threads_per_core),
            (2, 1, 2)
        );
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_not_known() {
        let root = host(&processor(0, "-1\n", "0\n"));
        assert_eq!(topology(root.path()), None);
        assert_eq!(memory(root.path()), None);
        let files = [
            processor(0, "0\n", "0\n"),
            processor(1, "0\n", "1\n"),
            processor(2, "1\n", "2\n"),
        ];
        let uneven = host(&files.concat());
        let seen = topology(uneven.path()).expect("told");
        assert_eq!((seen.sockets, seen.cores_per_socket), (2, 0));
    }

    #[test]
    fn memory_is_what_the_tightest_control_group_allows() {
        let file = |name: &str, text| (name.to_owned(), text);
        let base = [
            file("proc/meminfo", "MemTotal:        4096 kB\nMemFree: 1 kB\n"),
            file("proc/self/cgroup", "0::/system.slice/engine.service\n"),
            file("sys/fs/cgroup/system.slice/memory.max", "max\n"),
        ];
        let whole = host(&base);
        assert_eq!(memory(whole.path()), Some(4096 * 1024));
        let own = "sys/fs/cgroup/system.slice/engine.service/memory.max";
        for (limit, expected) in [("1048576\n", 1_048_576), ("99999999999\n", 4096 * 1024)] {
            let mut files = base.to_vec();
            files.push(file(own, limit));
            assert_eq!(memory(host(&files).path()), Some(expected));
        }
    }

    #[test]
    fn this_host_has_a_processor_memory_and_a_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        let seen = read(folder.path());
        assert!(
            seen.processors > 0 && seen.memory_bytes > 0 && seen.disk_bytes > 0,
            "{seen:?}"
        );
    }
}
