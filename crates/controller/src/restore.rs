//! A new data folder from a backup.

use crate::args::{Command, Place};
use crate::cluster::NODES;
use crate::engines::ca::Ca;
use crate::files;
use crate::seal::{self, SealedStore};
use anyhow::{Context as _, bail};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use store::etcd::Config;
use store::{Etcd, Expect, Meta, Op, Store as _, StoreError};
use tokio_util::sync::CancellationToken;

/// How long another controller may take to give up the lead.
const LEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Does what the command says; the store is to be in etcd if that is named.
///
/// # Errors
/// See [`restore`]; etcd is led by somebody, has keys already, or cannot be reached.
pub fn run(command: &Command, place: &Place) -> anyhow::Result<()> {
    let Command::Restore { file } = command;
    let revision = match &place.etcd {
        None => restore(file, &place.folder)?,
        Some(config) => {
            let runtime = tokio::runtime::Runtime::new()?;
            runtime.block_on(restore_to_etcd(file, place, config))?
        }
    };
    let folder = place.folder.display();
    tracing::info!(%folder, revision, "restored; start the controller");
    Ok(())
}

/// Keys and certificates into the folder, the store into etcd. The keys come first: without them the store could not be read.
async fn restore_to_etcd(backup: &Path, place: &Place, config: &Config) -> anyhow::Result<u64> {
    let etcd = Arc::new(Etcd::open(config).await?);
    if etcd.leader().borrow().is_some() {
        bail!(
            "a controller leads there: stop all controllers of this etcd first, or name another --etcd-prefix"
        );
    }
    restore(backup, &place.folder)?;
    let mut may_be_there = false;
    match fill_etcd(backup, place, etcd, &mut may_be_there).await {
        Ok(revision) => Ok(revision),
        Err(error) if may_be_there => {
            Err(error.context("etcd may have the store, and the keys are in the data folder: start the controller to see"))
        }
        Err(error) => {
            // The folder was empty, and is to be again.
            for entry in std::fs::read_dir(&place.folder)?.flatten() {
                std::fs::remove_file(entry.path()).ok();
            }
            Err(error.context(format!("cannot restore {}", backup.display())))
        }
    }
}

/// The CA of one that was alone is a file of its folder; of several it belongs into the store. Who belonged to the cluster of
/// which the backup is does not belong to this one.
async fn fill_etcd(
    backup: &Path,
    place: &Place,
    etcd: Arc<Etcd>,
    may_be_there: &mut bool,
) -> anyhow::Result<u64> {
    std::fs::remove_file(place.folder.join(files::STORE))?;
    let leading = tokio::time::timeout(LEAD_TIMEOUT, etcd.campaign("restore")).await;
    let leadership = leading.context("another controller leads by now; stop it")??;
    let filled = store::fill(&*etcd, backup).await;
    // From here on the keys are needed, whatever fails.
    *may_be_there = matches!(filled, Ok(_) | Err(StoreError::OutcomeUnknown { .. }));
    let (revision, _) = filled?;
    let nodes = etcd.list(NODES).await?.entries.into_iter();
    let gone: Vec<_> = nodes.map(|e| Op::delete(e.key, Expect::Any)).collect();
    if !gone.is_empty() {
        etcd.commit(gone, Meta::default()).await?;
    }
    let ring = Arc::new(seal::open(&place.seal_keys, &*etcd).await?);
    let sealed = SealedStore::new(etcd.clone(), ring, CancellationToken::new());
    Ca::open(&place.folder, &sealed, true).await?;
    leadership.resign().await.ok();
    Ok(revision)
}

/// Fills the folder from a backup; gives the revision that it holds.
///
/// # Errors
/// The folder is not empty, or the file is no backup or a newer program's; then nothing is left in the folder.
fn restore(backup: &Path, folder: &Path) -> anyhow::Result<u64> {
    files::private_folder(folder)?;
    check_empty(folder)?;
    let mut made = Vec::new();
    let restored = fill(backup, folder, &mut made);
    if restored.is_err() {
        for path in made {
            std::fs::remove_file(path).ok();
        }
    }
    restored.with_context(|| format!("cannot restore {}", backup.display()))
}

fn check_empty(folder: &Path) -> anyhow::Result<()> {
    let mut entries = std::fs::read_dir(folder)
        .with_context(|| format!("cannot read the folder {}", folder.display()))?;
    let Some(entry) = entries.next() else {
        return Ok(());
    };
    bail!(
        "the data folder {} is not empty ({}): a backup is restored into an empty one; stop the controller and move \
         its folder away, or name another one with --data-dir",
        folder.display(),
        entry?.file_name().to_string_lossy()
    )
}

/// The store comes last under its own name, so that a folder that has it is complete.
fn fill(backup: &Path, folder: &Path, made: &mut Vec<PathBuf>) -> anyhow::Result<u64> {
    let (new, place) = (folder.join("restore.new"), folder.join(files::STORE));
    made.push(new.clone());
    let restored = store::restore(backup, &new)?;
    for (name, content) in &restored.files {
        if name.is_empty() || name.starts_with('.') || name.contains('/') || name == files::STORE {
            bail!("it has a file named {name:?}, which no controller puts there");
        }
        made.push(folder.join(name));
        files::write_private(&folder.join(name), content)?;
    }
    std::fs::rename(&new, &place).with_context(|| format!("cannot make {}", place.display()))?;
    std::fs::File::open(folder)?.sync_all()?;
    Ok(restored.revision)
}
