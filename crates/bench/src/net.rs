//! The network of a measurement: a router, a switch in a namespace of its own, and service engines behind it.
//!
//! ```text
//!   router 10.10.0.1/16 ── switch ── se 1 10.10.0.11, se 2 10.10.0.12, …
//! ```

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Gone when it is dropped, with everything that runs in it.
pub(crate) struct Network {
    prefix: String,
    namespaces: Vec<String>,
    dir: tempfile::TempDir,
}

/// Where engines pin, below the network's folder.
const PINS: &str = "bpf";

/// Runs a command; an error holds what it said.
pub(crate) fn run(command: &[&str]) -> Result<String> {
    let output = Command::new(command[0])
        .args(&command[1..])
        .output()
        .with_context(|| format!("start {}", command[0]))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", command.join(" "), error.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Network {
    pub(crate) fn new(engines: usize) -> Result<Self> {
        let prefix = format!("ekm{}", std::process::id());
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir()?;
        run(&["chmod", "755", &dir.path().display().to_string()])?;
        mount_bpf(&dir.path().join(PINS))?;
        let mut network = Self {
            prefix,
            namespaces: Vec::new(),
            dir,
        };
        network.add_namespace("rt")?;
        network.add_namespace("sw")?;
        network.switch()?;
        network.attach("rt", "p0", "10.10.0.1/16")?;
        for number in 1..=engines {
            let name = format!("se{number}");
            network.add_namespace(&name)?;
            network.attach(
                &name,
                &format!("p{number}"),
                &format!("{}/16", engine_address(number)),
            )?;
        }
        Ok(network)
    }

    /// With nothing in it but `lo`.
    pub(crate) fn add_namespace(&mut self, name: &str) -> Result<()> {
        let namespace = self.namespace(name);
        run(&["ip", "netns", "add", &namespace])?;
        self.namespaces.push(namespace.clone());
        run(&["ip", "-n", &namespace, "link", "set", "lo", "up"]).map(drop)
    }

    fn switch(&self) -> Result<()> {
        let switch = self.namespace("sw");
        run(&["ip", "-n", &switch, "link", "add", "br0", "type", "bridge"])?;
        run(&["ip", "-n", &switch, "link", "set", "br0", "up"]).map(drop)
    }

    /// Gives a namespace `eth0` at the switch's port.
    pub(crate) fn attach(&self, name: &str, port: &str, address: &str) -> Result<()> {
        let (node, switch) = (self.namespace(name), self.namespace("sw"));
        run(&[
            "ip", "-n", &node, "link", "add", "eth0", "type", "veth", "peer", "name", port,
            "netns", &switch,
        ])?;
        run(&[
            "ip", "-n", &switch, "link", "set", port, "master", "br0", "up",
        ])?;
        run(&["ip", "-n", &node, "address", "add", address, "dev", "eth0"])?;
        run(&["ip", "-n", &node, "link", "set", "eth0", "up"]).map(drop)
    }

    pub(crate) fn namespace(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(crate) fn router(&self) -> String {
        self.namespace("rt")
    }

    /// Where an engine pins its steering programs. It stays when the engine ends, as on a host: on a file system of the
    /// engine's own, which `ip netns exec` would make it, the end of the process would have to wait for their removal.
    pub(crate) fn pins(&self, engine: usize) -> PathBuf {
        self.dir.path().join(PINS).join(format!("se{engine}"))
    }

    /// A folder of the measurement; daemons of other users may enter it.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// The switch's port to an engine, up or down; neither the router nor its link notices.
    pub(crate) fn port(&self, engine: usize, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        run(&[
            "ip",
            "-n",
            &self.namespace("sw"),
            "link",
            "set",
            &format!("p{engine}"),
            state,
        ])
        .map(drop)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            // What is gone already needs no removal.
            let _ = run(&["ip", "netns", "del", namespace]);
        }
        // Programs and maps go with it.
        let _ = umount2(&self.dir.path().join(PINS), MntFlags::MNT_DETACH);
    }
}

fn mount_bpf(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let mode = Some("mode=0700");
    mount(Some("bpf"), dir, Some("bpf"), MsFlags::empty(), mode).context("mount a BPF file system")
}

/// From 10.10.0.11 on.
pub(crate) fn engine_address(number: usize) -> String {
    let last = number + 10;
    format!("10.10.{}.{}", last / 250, last % 250)
}

/// The name of a file in a folder, as text.
pub(crate) fn file(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}
