//! Files that only the engine may read, written whole or not at all.

use anyhow::Context as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Makes the folder, mode 0700, with its parents.
pub(crate) fn private_folder(path: &Path) -> anyhow::Result<()> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    made.with_context(|| format!("cannot make the folder {}", path.display()))
}

/// Writes the file, mode 0600, durable when this returns.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let context = || format!("cannot write {}", path.display());
    let temporary = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&temporary).with_context(context)?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .with_context(context)?;
    fs::rename(&temporary, path).with_context(context)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::File::open(folder)
        .and_then(|f| f.sync_all())
        .with_context(context)
}
