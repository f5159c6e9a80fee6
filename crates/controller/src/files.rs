//! Files that only the controller may read.

use anyhow::Context as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// The store's file in the data folder.
pub const STORE: &str = "evenkeel.db";
/// The file of the keys that seal secrets, in the data folder unless a setting names another place.
pub const SEAL_KEYS: &str = "seal-keys.json";

/// Makes the folder, mode 0700, with its parents.
///
/// # Errors
/// It cannot be made.
pub fn private_folder(path: &Path) -> anyhow::Result<()> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    made.with_context(|| format!("cannot make the folder {}", path.display()))
}

/// Writes the file, mode 0600, whole or not at all; durable when this returns.
///
/// # Errors
/// It cannot be written.
pub fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let context = || format!("cannot write {}", path.display());
    let temporary = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .with_context(context)?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .with_context(context)?;
    fs::rename(&temporary, path).with_context(context)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let folder = fs::File::open(folder.unwrap_or(Path::new(".")));
    folder.and_then(|f| f.sync_all()).with_context(context)
}
