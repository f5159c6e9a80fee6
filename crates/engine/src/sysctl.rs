//! Settings of the data interfaces while the engine runs (DESIGN 6.7): the VIP is on `lo`, so no interface may answer
//! ARP for it or ask with it as the sender, and answers may leave by another interface than the one asked.
//!
//! What was there before is kept in a file before anything is changed, so that an engine that was killed and started
//! again still knows it. A reboot resets the settings, and with them what was kept.

use crate::files;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const WANTED: [(&str, &str); 3] = [("arp_ignore", "1"), ("arp_announce", "2"), LOOSE];
/// Loose reverse path check (RFC 3704 section 2.4). The kernel uses the larger of "all" and the interface's own, so
/// 0 here would not help against 1 there, and 0 in both is loose enough.
const LOOSE: (&str, &str) = ("rp_filter", "2");
/// What is kept of the settings of data interfaces, in the state folder.
const INTERFACES: &str = "sysctls.json";
/// And of those of the loopback interface.
const LOOPBACK: &str = "sysctls-loopback.json";
const BOOT_ID: &str = "kernel/random/boot_id";

/// What tells this boot of the kernel from all others, in the words of the kernel; containers of one host share it.
pub(crate) fn running_kernel() -> String {
    read(&Path::new("/proc/sys").join(BOOT_ID)).unwrap_or_default()
}

/// The settings that we changed, by path below /proc/sys, with their value before.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Saved {
    boot_id: String,
    values: BTreeMap<String, String>,
}

/// Keeps the settings of data interfaces; restores them when dropped.
pub(crate) struct Sysctls {
    root: PathBuf,
    file: PathBuf,
    saved: Saved,
}

impl Sysctls {
    /// Nothing is changed yet; takes over what an engine that was killed had changed since the host booted.
    pub(crate) fn open(state_dir: &Path) -> Self {
        Self::below(Path::new("/proc/sys"), &state_dir.join(INTERFACES))
    }

    /// The same for what [`Self::put`] is told of the loopback interface, by another owner.
    pub(crate) fn of_loopback(state_dir: &Path) -> Self {
        Self::below(Path::new("/proc/sys"), &state_dir.join(LOOPBACK))
    }

    fn below(root: &Path, file: &Path) -> Self {
        let boot_id = read(&root.join(BOOT_ID)).unwrap_or_default();
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let left: Option<Saved> = serde_json::from_str(&text).ok();
        let saved = left
            .filter(|s| s.boot_id == boot_id)
            .unwrap_or_else(|| Saved {
                boot_id,
                ..Saved::default()
            });
        Self {
            root: root.to_owned(),
            file: file.to_owned(),
            saved,
        }
    }

    /// Brings these interfaces in line; those that were before stay so.
    pub(crate) fn cover<'a>(&mut self, interfaces: impl Iterator<Item = &'a str>) {
        for interface in interfaces {
            for (name, wanted) in WANTED {
                self.set(interface, name, wanted);
            }
        }
    }

    fn set(&mut self, interface: &str, name: &str, wanted: &str) {
        let setting = format!("net/ipv4/conf/{interface}/{name}");
        // A dot is part of an interface's name (eth0.10), a slash cannot be.
        let before = read(&self.root.join(&setting));
        if name == LOOSE.0 && before.as_deref() == Some("0") && !self.strict_everywhere() {
            return;
        }
        self.put(
            &setting,
            wanted,
            "routers may see ARP for the VIP, or clients get no answer",
        );
    }

    /// Sets what is below /proc/sys, where it is there and not so; `else_`: what may come of it if that fails.
    pub(crate) fn put(&mut self, setting: &str, wanted: &str, else_: &str) {
        let path = self.root.join(setting);
        let Some(before) = read(&path).filter(|before| before != wanted) else {
            return;
        };
        let result = self
            .keep(setting.to_owned(), before)
            .and_then(|()| Ok(std::fs::write(&path, wanted)?));
        if let Err(error) = result {
            let path = path.display();
            let error = format!("{error:#}");
            tracing::warn!(%path, wanted, error, "cannot set; {else_}");
        }
    }

    fn strict_everywhere(&self) -> bool {
        let all = self.root.join("net/ipv4/conf/all").join(LOOSE.0);
        read(&all).is_some_and(|v| v == "1")
    }

    /// The first value that we saw is the operator's.
    fn keep(&mut self, setting: String, before: String) -> anyhow::Result<()> {
        if self.saved.values.contains_key(&setting) {
            return Ok(());
        }
        self.saved.values.insert(setting, before);
        files::write_private(&self.file, &serde_json::to_vec_pretty(&self.saved)?)
    }
}

impl Drop for Sysctls {
    fn drop(&mut self) {
        for (setting, before) in &self.saved.values {
            // An interface that is gone needs nothing back.
            std::fs::write(self.root.join(setting), before).ok();
        }
        std::fs::remove_file(&self.file).ok();
    }
}

fn read(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A folder that looks like /proc/sys with one interface, and one for the state.
    fn host(rp_filter_all: &str) -> (tempfile::TempDir, tempfile::TempDir) {
        let root = tempfile::tempdir().expect("root");
        put(root.path(), BOOT_ID, "boot-1\n");
        put(root.path(), "net/ipv4/conf/all/rp_filter", rp_filter_all);
        for name in ["arp_ignore", "arp_announce", "rp_filter"] {
            put(root.path(), &format!("net/ipv4/conf/eth0/{name}"), "0\n");
        }
        (root, tempfile::tempdir().expect("state"))
    }

    fn put(root: &Path, setting: &str, value: &str) {
        let path = root.join(setting);
        fs::create_dir_all(path.parent().expect("has one")).expect("folder");
        fs::write(path, value).expect("written");
    }

    fn eth0(root: &Path) -> [String; 3] {
        WANTED.map(|(name, _)| read(&root.join("net/ipv4/conf/eth0").join(name)).expect("there"))
    }

    #[test]
    fn settings_are_in_force_while_the_engine_runs_and_restored_after() {
        let (root, state) = host("0");
        let mut sysctls = Sysctls::below(root.path(), &state.path().join(INTERFACES));
        sysctls.cover(["eth0", "gone"].into_iter());
        assert_eq!(eth0(root.path()), ["1", "2", "0"]);
        drop(sysctls);
        assert_eq!(eth0(root.path()), ["0", "0", "0"]);
    }

    #[test]
    fn a_strict_check_for_all_interfaces_is_loosened_on_ours() {
        let (root, state) = host("1");
        let mut sysctls = Sysctls::below(root.path(), &state.path().join(INTERFACES));
        sysctls.cover(["eth0"].into_iter());
        assert_eq!(eth0(root.path()), ["1", "2", "2"]);
    }

    #[test]
    fn an_engine_after_one_that_was_killed_restores_what_was_before_both() {
        let (root, state) = host("1");
        let mut killed = Sysctls::below(root.path(), &state.path().join(INTERFACES));
        killed.cover(["eth0"].into_iter());
        std::mem::forget(killed);
        let mut next = Sysctls::below(root.path(), &state.path().join(INTERFACES));
        next.cover(["eth0"].into_iter());
        drop(next);
        assert_eq!(eth0(root.path()), ["0", "0", "0"]);
    }

    #[test]
    fn what_was_kept_before_a_reboot_is_forgotten() {
        let (root, state) = host("0");
        let mut killed = Sysctls::below(root.path(), &state.path().join(INTERFACES));
        killed.cover(["eth0"].into_iter());
        std::mem::forget(killed);
        put(root.path(), BOOT_ID, "boot-2\n");
        let next = Sysctls::below(root.path(), &state.path().join(INTERFACES));
        assert_eq!(next.saved.values, BTreeMap::new());
    }

    #[test]
    fn what_was_set_on_the_loopback_interface_is_restored_by_whoever_opens_it_next() {
        let (root, state) = host("0");
        let setting = "net/ipv4/conf/lo/forwarding";
        put(root.path(), setting, "0\n");
        let file = state.path().join(LOOPBACK);
        let mut killed = Sysctls::below(root.path(), &file);
        killed.put(setting, "1", "nothing");
        killed.put("net/ipv6/conf/lo/forwarding", "1", "there is no IPv6");
        assert_eq!(read(&root.path().join(setting)).as_deref(), Some("1"));
        std::mem::forget(killed);
        drop(Sysctls::below(root.path(), &file));
        assert_eq!(read(&root.path().join(setting)).as_deref(), Some("0"));
        assert!(!file.exists());
    }
}
