//! Three members of etcd on loopback.

use super::process::free_address;
use anyhow::{Context, Result};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const MEMBERS: usize = 3;

/// Killed when dropped.
pub(super) struct Members {
    members: Vec<Child>,
    urls: Vec<String>,
}

impl Members {
    /// With their data in this folder; they elect a leader by themselves.
    pub(super) fn start(folder: &Path) -> Result<Self> {
        let url = |_| Ok(format!("http://{}", free_address()?));
        let urls: Vec<String> = (0..MEMBERS).map(url).collect::<Result<_>>()?;
        let peers: Vec<String> = (0..MEMBERS).map(url).collect::<Result<_>>()?;
        let named = peers
            .iter()
            .enumerate()
            .map(|(n, url)| format!("m{n}={url}"));
        let all = named.collect::<Vec<_>>().join(",");
        let mut started = Self {
            members: Vec::new(),
            urls,
        };
        for (n, peer) in peers.iter().enumerate() {
            let name = format!("m{n}");
            let member = Command::new("etcd")
                .args(["--name", &name, "--initial-cluster", &all])
                .arg("--data-dir")
                .arg(folder.join(&name))
                .args(["--listen-client-urls", &started.urls[n]])
                .args(["--advertise-client-urls", &started.urls[n]])
                .args([
                    "--listen-peer-urls",
                    peer,
                    "--initial-advertise-peer-urls",
                    peer,
                ])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            let member = member.context("cannot run etcd: `scripts/install-deps.sh test`")?;
            started.members.push(member);
        }
        Ok(started)
    }

    /// Those of a controller that uses them.
    pub(super) fn flags(&self) -> [String; 4] {
        let name = "bench".to_owned();
        [
            "--etcd".to_owned(),
            self.urls.join(","),
            "--name".to_owned(),
            name,
        ]
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for member in &mut self.members {
            // It may have ended already.
            member.kill().ok();
            member.wait().ok();
        }
    }
}
