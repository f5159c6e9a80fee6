//! What is on record of a lab: written before anything is made, so that a crash leaves nothing unknown.
//!
//! `/run/evenkeel/lab/ID.json` is the record, `/run/evenkeel/lab/ID/` holds a directory per node, and
//! `/run/evenkeel/lab/current.toml` is the context by which `evenkeel show …` finds the lab's controller.

use crate::process::Identity;
use crate::topology::{Folder, Params, Topology};
use anyhow::{Context, Result, bail, ensure};
use client::{ClientConfig, Password, Trust};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rand::Rng;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where labs keep their records.
pub const ROOT: &str = "/run/evenkeel/lab";

/// Prefix of every namespace of every lab; the id and a dash follow.
pub const PREFIX: &str = "ek";

/// Longest id: it stands in namespace names.
const ID_LEN_MAX: usize = 8;

/// The record of one lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Short id; namespaces are called `ekID-NODE`.
    pub id: String,
    /// True when the user chose the id: such labs stand beside each other. Of those without there is one.
    pub named: bool,
    /// Name of the topology.
    pub topology: String,
    /// Parameters in force.
    pub params: Params,
    /// True once everything was up.
    pub complete: bool,
    /// Processes in the order of their start.
    pub processes: Vec<Member>,
}

/// A process on record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Member {
    /// The node it runs in.
    pub node: String,
    /// Its name in the node.
    pub name: String,
    /// The process.
    #[serde(flatten)]
    pub identity: Identity,
    /// Program and arguments, to start it again.
    pub command: Vec<String>,
}

/// By which a client finds and enters the controller of a lab; also read by the CLI.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClientContext {
    /// `https://ADDRESS[:PORT]`.
    pub controller: String,
    /// Namespace to connect from.
    pub netns: String,
    /// User.
    pub username: String,
    /// Its password.
    pub password: String,
    /// The certificate is self-made at the controller's first start.
    pub insecure: bool,
}

impl ClientContext {
    /// What a client needs that tries for so long to reach a controller.
    pub(crate) fn config(self, retry_for: Duration) -> ClientConfig {
        ClientConfig {
            username: self.username,
            trust: Trust::Insecure,
            retry_for,
            ..ClientConfig::new(self.controller, Password::new(self.password))
        }
    }
}

impl Record {
    /// A new record, on disk.
    pub fn create(id: Option<String>, folder: &Folder) -> Result<Self> {
        let named = id.is_some();
        let id = id.unwrap_or_else(|| format!("{:04x}", rand::rng().random::<u16>()));
        check_id(&id)?;
        let record = Self {
            id,
            named,
            topology: folder.name.clone(),
            params: folder.params.clone(),
            complete: false,
            processes: Vec::new(),
        };
        fs::create_dir_all(record.dir())
            .with_context(|| format!("create {}", record.dir().display()))?;
        record.save()?;
        folder.copy_to(&record.topology_dir())?;
        Ok(record)
    }

    /// Writes the record; a reader sees the old one or the new one.
    pub fn save(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(self).expect("a record is plain data");
        write_private(&record_path(&self.id), &text)
    }

    /// The record of this id.
    pub fn load(id: &str) -> Result<Self> {
        check_id(id)?;
        let path = record_path(id);
        let text = fs::read_to_string(&path).with_context(|| format!("no lab {id}"))?;
        serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))
    }

    /// The lab that a command without `--run` means: the one without a chosen name, else the only one.
    pub fn current() -> Result<Self> {
        let mut all = Self::all();
        if let Some(unnamed) = all.iter().position(|r| !r.named) {
            return Ok(all.swap_remove(unnamed));
        }
        match all.len() {
            0 => bail!("no lab is up: start one with `evenkeel lab up`"),
            1 => Ok(all.remove(0)),
            _ => bail!(
                "several labs are up: choose one with --run ({})",
                ids_text(&all)
            ),
        }
    }

    /// The lab of this id, or the one meant without.
    pub fn find(id: Option<&str>) -> Result<Self> {
        id.map_or_else(Self::current, Self::load)
    }

    /// All records that can be read.
    pub fn all() -> Vec<Self> {
        ids_on_record()
            .iter()
            .filter_map(|id| Self::load(id).ok())
            .collect()
    }

    /// The lab's directory.
    pub fn dir(&self) -> PathBuf {
        Path::new(ROOT).join(&self.id)
    }

    /// A node's own directory.
    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.dir().join(node)
    }

    /// Where the engines pin their programs: on a BPF file system of the lab, since one that an engine mounts ends with it
    /// (`ip netns exec` gives each command mounts of its own).
    pub fn bpf_dir(&self) -> PathBuf {
        self.dir().join(BPF_DIR)
    }

    /// Mounts it.
    pub fn mount_bpf(&self) -> Result<()> {
        let dir = self.bpf_dir();
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        mount(
            Some("bpf"),
            &dir,
            Some("bpf"),
            MsFlags::empty(),
            Some("mode=0700"),
        )
        .with_context(|| format!("mount a BPF file system on {}", dir.display()))
    }

    /// The namespace of a node.
    pub fn namespace(&self, node: &str) -> String {
        format!("{}{node}", namespace_prefix(&self.id))
    }

    /// The topology as it was when the lab came up.
    pub fn topology(&self) -> Result<(Folder, Topology)> {
        let mut folder = Folder::on_disk(&self.topology_dir())?;
        folder.name.clone_from(&self.topology);
        let topology = folder.load(&self.params)?;
        Ok((folder, topology))
    }

    /// The running process of a node's role.
    pub fn member(&self, node: &str, name: &str) -> Option<&Member> {
        self.processes
            .iter()
            .rev()
            .find(|p| p.node == node && p.name == name)
    }

    /// How clients find the controller.
    pub fn client_context(&self) -> Result<ClientContext> {
        let path = self.dir().join("context.toml");
        let text = fs::read_to_string(&path).context("this lab has no controller")?;
        toml::from_str(&text).with_context(|| format!("read {}", path.display()))
    }

    /// Keeps the client context, and makes it the host's one unless the lab has a chosen name.
    pub fn save_client_context(&self, context: &ClientContext) -> Result<()> {
        let text = toml::to_string(context).expect("a context is plain data");
        write_private(&self.dir().join("context.toml"), &text)?;
        if self.named && current_path().exists() {
            return Ok(());
        }
        write_private(&current_path(), &text)
    }

    fn topology_dir(&self) -> PathBuf {
        self.dir().join("topology").join(&self.topology)
    }
}

/// The part of namespace names that all nodes of a lab share.
pub fn namespace_prefix(id: &str) -> String {
    format!("{PREFIX}{id}-")
}

/// Ids with a record, readable or not, or with a directory.
pub fn ids_on_record() -> Vec<String> {
    let entries = fs::read_dir(ROOT).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let id = name.strip_suffix(".json").map(str::to_owned);
        id.or_else(|| entry.path().is_dir().then_some(name))
    });
    let mut ids: Vec<_> = names.filter(|id| check_id(id).is_ok()).collect();
    ids.sort();
    ids.dedup();
    ids
}

/// The id in a namespace's name, when it is one of a lab.
pub fn id_of_namespace(name: &str) -> Option<&str> {
    let (id, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    check_id(id).is_ok().then_some(id)
}

/// Removes everything on disk of a lab, and the host's context when it points there.
pub fn forget(id: &str) -> Result<()> {
    let current = fs::read_to_string(current_path()).unwrap_or_default();
    if current.contains(&format!("\"{}", namespace_prefix(id))) {
        remove(fs::remove_file(current_path())).context("remove the client context")?;
    }
    let dir = Path::new(ROOT).join(id);
    // With it everything goes that is pinned there; it may not have come to that.
    let _ = umount2(&dir.join(BPF_DIR), MntFlags::MNT_DETACH);
    remove(fs::remove_dir_all(&dir)).with_context(|| format!("remove {}", dir.display()))?;
    remove(fs::remove_file(record_path(id)))
        .with_context(|| format!("remove the record of lab {id}"))?;
    // The folders above go when no other lab and no other part of the product needs them.
    let _ = fs::remove_dir(ROOT).and_then(|()| fs::remove_dir("/run/evenkeel"));
    Ok(())
}

/// In the lab's folder.
const BPF_DIR: &str = "bpf";

fn remove(result: std::io::Result<()>) -> std::io::Result<()> {
    result.or_else(|e| {
        if e.kind() == std::io::ErrorKind::NotFound {
            Ok(())
        } else {
            Err(e)
        }
    })
}

fn record_path(id: &str) -> PathBuf {
    Path::new(ROOT).join(format!("{id}.json"))
}

fn current_path() -> PathBuf {
    Path::new(ROOT).join("current.toml")
}

fn ids_text(records: &[Record]) -> String {
    let ids: Vec<_> = records.iter().map(|r| r.id.as_str()).collect();
    ids.join(", ")
}

fn check_id(id: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    ensure!(
        (1..=ID_LEN_MAX).contains(&id.len()) && id.chars().all(fits),
        "a lab's id has 1 to {ID_LEN_MAX} characters of a-z and 0-9"
    );
    Ok(())
}

/// Writes a file that only root reads, at once or not at all.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        fs::remove_file(&temporary).ok();
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        fs::set_permissions(&temporary, Permissions::from_mode(0o600))?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaces_of_labs_have_an_id() {
        assert_eq!(id_of_namespace("ek12ab-se-1"), Some("12ab"));
        assert_eq!(id_of_namespace("ekt1-fabric"), Some("t1"));
        for other in ["ekb1x0se", "ek-router", "ek123456789-x", "blue", "ekAB-x"] {
            assert_eq!(id_of_namespace(other), None, "{other}");
        }
    }

    #[test]
    fn an_id_is_short_and_plain() {
        assert!(check_id("ab12").is_ok());
        for bad in ["", "a-b", "../x", "123456789", "Ab"] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }
}
