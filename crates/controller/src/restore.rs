//! A new data folder from a backup.

use crate::args::Command;
use crate::files;
use anyhow::{Context as _, bail};
use std::path::{Path, PathBuf};

/// Does what the command says, with this data folder.
///
/// # Errors
/// See [`restore`].
pub fn run(command: &Command, folder: &Path) -> anyhow::Result<()> {
    let Command::Restore { file } = command;
    let revision = restore(file, folder)?;
    tracing::info!(folder = %folder.display(), revision, "restored; start the controller");
    Ok(())
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
