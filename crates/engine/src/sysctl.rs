//! Settings of the data interfaces while the engine runs (DESIGN 6.7): the VIP is on `lo`, so no interface may answer
//! ARP for it or ask with it as the sender, and answers may leave by another interface than the one asked.

use std::path::PathBuf;

const WANTED: [(&str, &str); 3] = [
    ("arp_ignore", "1"),
    ("arp_announce", "2"),
    ("rp_filter", "2"),
];

/// What the settings were before; written back when this is dropped.
pub(crate) struct Sysctls(Vec<(PathBuf, String)>);

impl Sysctls {
    /// Sets them on these interfaces. `rp_filter` 0 is looser than what we need, and stays.
    pub(crate) fn set(interfaces: impl Iterator<Item = String>) -> Self {
        let mut saved = Vec::new();
        for interface in interfaces {
            for (name, wanted) in WANTED {
                let path = PathBuf::from(format!("/proc/sys/net/ipv4/conf/{interface}/{name}"));
                let Ok(before) = std::fs::read_to_string(&path) else {
                    continue;
                };
                let before = before.trim().to_owned();
                if before == wanted || (name == "rp_filter" && before == "0") {
                    continue;
                }
                match std::fs::write(&path, wanted) {
                    Ok(()) => saved.push((path, before)),
                    Err(error) => {
                        tracing::warn!(path = %path.display(), wanted, %error, "cannot set; the routers may see the VIP's ARP")
                    }
                }
            }
        }
        Self(saved)
    }
}

impl Drop for Sysctls {
    fn drop(&mut self) {
        for (path, before) in &self.0 {
            // An interface that is gone needs nothing back.
            std::fs::write(path, before).ok();
        }
    }
}
