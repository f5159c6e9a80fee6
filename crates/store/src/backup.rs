//! Backups of any store, and any store from a backup: how values get from one kind of store to another.

use crate::{Expect, Meta, Op, Store, StoreError, sqlite};
use std::path::Path;

/// Writes a backup of the current values under `/`, all of one revision, with these files to `target` (mode 0600),
/// which must not exist: such a file as [`crate::Sqlite::backup`] makes and [`crate::restore`] reads. Its one commit
/// has the store's revision, and what was before counts as compacted. It is on disk when this is answered; until then
/// there is no file of that name. Gives the revision.
///
/// # Errors
/// The store cannot be read, or the file not be written; then there is none.
pub async fn back_up(
    store: &dyn Store,
    target: &Path,
    files: &[(String, Vec<u8>)],
) -> Result<u64, StoreError> {
    let listing = store.list("/").await?;
    let (target, files) = (target.to_owned(), files.to_vec());
    blocking(move || {
        let meta = meta("backup", "the values at the time of the backup");
        sqlite::backup::write(&target, &listing, &meta, &files)?;
        Ok(listing.revision)
    })
    .await
}

/// Puts the current values of a backup into an empty store, as one commit. Gives its revision, and the files of the
/// backup.
///
/// # Errors
/// [`StoreError::NotEmpty`] when the store has any key; [`StoreError::NoBackup`] when the file is none or is damaged,
/// [`StoreError::NewerSchema`] when it is of a newer program; else the store refuses the commit.
pub async fn fill(
    store: &dyn Store,
    from: &Path,
) -> Result<(u64, Vec<(String, Vec<u8>)>), StoreError> {
    if let Some(first) = store.list("").await?.entries.into_iter().next() {
        return Err(StoreError::NotEmpty { key: first.key });
    }
    let from = from.to_owned();
    let (values, files) = blocking(move || sqlite::backup::read(&from)).await?;
    let put = |(key, value)| Op::put(key, value, Expect::Absent);
    let ops = values.into_iter().map(put).collect();
    let filled = store.commit(ops, meta("restore", "put in from a backup"));
    match filled.await {
        Ok(revision) => Ok((revision, files)),
        // Somebody was faster.
        Err(StoreError::Conflict { key, .. }) => Err(StoreError::NotEmpty { key }),
        Err(error) => Err(error),
    }
}

fn meta(who: &str, message: &str) -> Meta {
    Meta {
        who: who.into(),
        message: message.into(),
        ..Meta::default()
    }
}

/// Works with files where it holds up nobody. It is done to its end, whether or not somebody waits.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    // It panics, or the program ends.
    done.map_err(|_| StoreError::Closed)?
}
