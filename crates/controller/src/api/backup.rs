//! `POST /api/ek/backup`: everything that a new controller needs to be this one, in one file.

use super::operation::Call;
use super::preview;
use crate::error::ApiError;
use crate::files;
use crate::seal::Ring;
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::AsyncReadExt as _;
use tokio::sync::Mutex;

/// The copy while it is made; it has no name any more while it is sent.
const COPY: &str = "backup.new";
/// Bytes that are read and sent at once.
const CHUNK_LEN: usize = 64 << 10;

/// The store that is copied.
#[derive(Clone)]
pub enum Copied {
    /// Its file, the log included.
    File(Arc<store::Sqlite>),
    /// The current values.
    Values(Arc<dyn store::Store>),
}

/// What copies are made of.
pub struct Backups {
    of: Copied,
    ring: Arc<Ring>,
    folder: PathBuf,
    one_at_a_time: Arc<Mutex<()>>,
}

impl Backups {
    /// Of this store, and of the keys and certificates in the data folder.
    pub fn new(of: Copied, ring: Arc<Ring>, folder: &Path) -> Self {
        Self {
            of,
            ring,
            folder: folder.to_owned(),
            one_at_a_time: Arc::default(),
        }
    }

    /// A copy as of now.
    async fn take(&self) -> Result<std::fs::File, ApiError> {
        let permit = self.one_at_a_time.clone().lock_owned().await;
        // Store and key file are copied one after the other, and have to fit.
        let steady = self.ring.hold().await;
        let (of, folder) = (self.of.clone(), self.folder.clone());
        // To its end, also when nobody waits for it any more.
        let made = tokio::spawn(async move {
            let _held = (permit, steady);
            copy(&of, &folder).await
        });
        made.await
            .map_err(|e| ApiError::internal("the backup", &e))?
    }
}

async fn copy(of: &Copied, folder: &Path) -> Result<std::fs::File, ApiError> {
    let failed = |e: io::Error| ApiError::internal("the backup", &e);
    let target = folder.join(COPY);
    // What a crash left.
    std::fs::remove_file(&target).ok();
    let beside = beside(folder).map_err(failed)?;
    let copied = of.copy(&target, beside).await;
    let opened = std::fs::File::open(&target);
    std::fs::remove_file(&target).ok();
    copied?;
    opened.map_err(failed)
}

impl Copied {
    async fn copy(&self, target: &Path, beside: Vec<(String, Vec<u8>)>) -> Result<(), ApiError> {
        match self {
            Self::File(store) => {
                let (store, target) = (store.clone(), target.to_owned());
                let copy = move || store.backup(&target, &beside);
                let made = tokio::task::spawn_blocking(copy).await;
                made.map_err(|e| ApiError::internal("the backup", &e))??;
            }
            Self::Values(store) => {
                store::back_up(&**store, target, &beside).await?;
            }
        }
        Ok(())
    }
}

/// Keys and certificates; what the store needs while it works is its own.
fn beside(folder: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours =
            name.starts_with(files::STORE) || name.ends_with(".new") || name.starts_with('.');
        if !ours && entry.file_type()?.is_file() {
            found.push((name, std::fs::read(entry.path())?));
        }
    }
    Ok(found)
}

/// `POST /api/ek/backup`.
pub(super) async fn take(call: &Call<'_>) -> Result<Response, ApiError> {
    if call.context.author.dry_run {
        let effect = "a file is sent that has all objects, users and keys";
        return Ok(preview::of_effects(call, &[effect.to_owned()]));
    }
    let file = tokio::fs::File::from_std(call.app.backups.take().await?);
    let len = file.metadata().await.map(|m| m.len());
    let len = len.map_err(|e| ApiError::internal("the backup", &e))?;
    let chunks = stream::try_unfold(file, |mut file| async move {
        let mut chunk = vec![0; CHUNK_LEN];
        let len = file.read(&mut chunk).await?;
        chunk.truncate(len);
        Ok::<_, io::Error>((len > 0).then_some((Bytes::from(chunk), file)))
    });
    let headers = [
        (header::CONTENT_TYPE, "application/vnd.sqlite3".to_owned()),
        (header::CONTENT_LENGTH, len.to_string()),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"evenkeel.backup\"".to_owned(),
        ),
    ];
    Ok((headers, Body::from_stream(chunks)).into_response())
}
