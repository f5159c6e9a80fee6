//! The keys, and their file: which key seals, which ones open, and whether the store still needs the older ones.

use super::Broken;
use super::key::Key;
use crate::clock::now_unix_s;
use crate::files;
use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use tokio::sync::{Mutex, OwnedMutexGuard, RwLockReadGuard as Passing, watch};

/// Version of the form of a sealed text, which begins with it.
const FORM: &str = "1";

/// See the module's documentation.
pub struct Ring {
    file: PathBuf,
    /// The one that seals comes first.
    keys: RwLock<Vec<Key>>,
    progress: watch::Sender<Progress>,
    /// Held by whoever needs that no key comes or goes.
    steady: std::sync::Arc<Mutex<()>>,
    /// Shared by those who are on their way between a sealed value and the store, so that no key goes under them.
    way: tokio::sync::RwLock<()>,
}

/// How far the store is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Values may be in clear, or sealed by an older key.
    pub resealing: bool,
    /// Why that does not change for now.
    pub failed: Option<String>,
}

/// What may be told of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    /// Its id.
    pub id: String,
    /// When it was made, seconds since 1970.
    pub made_unix_s: u64,
    /// It seals; the others only open.
    pub seals: bool,
}

#[derive(Serialize, Deserialize)]
struct File {
    /// The one that seals comes first.
    keys: Vec<FileKey>,
    resealing: bool,
}

#[derive(Serialize, Deserialize)]
struct FileKey {
    id: String,
    made_unix_s: u64,
    key: String,
}

impl Ring {
    /// The keys in this file; none when there is none.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub(super) fn read(file: &Path) -> anyhow::Result<Option<Self>> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", file.display()));
            }
        };
        warn_if_open(file);
        // The cause is left out, because it may quote what it read.
        let Some((keys, resealing)) = parse(&text) else {
            bail!(
                "the key file {} is damaged: put back the file that belongs to this store",
                file.display()
            );
        };
        Ok(Some(Self::new(file, keys, resealing)))
    }

    /// A new key in a new file.
    pub(super) fn make(file: &Path) -> anyhow::Result<Self> {
        let ring = Self::new(file, vec![Key::make(now_unix_s())], true);
        ring.save(&ring.keys(), true)?;
        Ok(ring)
    }

    fn new(file: &Path, keys: Vec<Key>, resealing: bool) -> Self {
        Self {
            file: file.to_owned(),
            keys: RwLock::new(keys),
            progress: watch::Sender::new(Progress {
                resealing,
                failed: None,
            }),
            steady: std::sync::Arc::default(),
            way: tokio::sync::RwLock::default(),
        }
    }

    fn keys(&self) -> RwLockReadGuard<'_, Vec<Key>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn save(&self, keys: &[Key], resealing: bool) -> anyhow::Result<()> {
        let keys = keys.iter().map(|key| FileKey {
            id: key.id.clone(),
            made_unix_s: key.made_unix_s,
            key: key.text(),
        });
        let file = File {
            keys: keys.collect(),
            resealing,
        };
        files::write_private(&self.file, &serde_json::to_vec_pretty(&file)?)
    }

    /// What may be told of the keys, the one that seals first.
    pub fn list(&self) -> Vec<KeyInfo> {
        let keys = self.keys();
        let each = keys.iter().enumerate().map(|(i, key)| KeyInfo {
            id: key.id.clone(),
            made_unix_s: key.made_unix_s,
            seals: i == 0,
        });
        each.collect()
    }

    /// Id of the key that seals.
    pub(super) fn newest(&self) -> String {
        self.keys()[0].id.clone()
    }

    /// How far the store is.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(super) fn failed(&self, why: String) {
        self.progress
            .send_modify(|progress| progress.failed = Some(why));
    }

    /// No key comes or goes while this is held: what the store has then opens with the key file of then.
    pub async fn hold(&self) -> OwnedMutexGuard<()> {
        self.steady.clone().lock_owned().await
    }

    /// No key comes or goes while a value that was sealed, or is to be opened, is between here and the store.
    pub(super) async fn pass_by(&self) -> Passing<'_, ()> {
        self.way.read().await
    }

    /// A new key seals from now on; gives its id. The older ones stay until nothing needs them.
    ///
    /// # Errors
    /// The file cannot be written; then nothing has changed.
    pub async fn rotate(&self) -> anyhow::Result<String> {
        let _steady = self.steady.lock().await;
        let _way = self.way.write().await;
        let key = Key::make(now_unix_s());
        let id = key.id.clone();
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.insert(0, key);
        if let Err(error) = self.save(&keys, true) {
            keys.remove(0);
            return Err(error);
        }
        self.progress.send_replace(Progress {
            resealing: true,
            failed: None,
        });
        Ok(id)
    }

    /// All of the store is sealed by this key: the others are dropped, unless there is a newer one by now.
    ///
    /// # Errors
    /// The file cannot be written; then the others stay.
    pub(super) async fn finish(&self, newest: &str) -> anyhow::Result<()> {
        let _steady = self.steady.lock().await;
        let _way = self.way.write().await;
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if keys[0].id != newest {
            return Ok(());
        }
        self.save(&keys[..1], false)?;
        keys.truncate(1);
        self.progress.send_replace(Progress::default());
        tracing::info!(
            key = newest,
            "all secrets in the store are sealed by this key"
        );
        Ok(())
    }

    pub(super) fn seal_text(&self, place: &str, text: &[u8]) -> String {
        let key = &self.keys()[0];
        format!("{FORM}:{}:{}", key.id, key.seal(place, text))
    }

    /// `field` is for the message.
    pub(super) fn open_text(
        &self,
        place: &str,
        field: &str,
        sealed: &str,
    ) -> Result<Vec<u8>, Broken> {
        let damaged = || Broken::Damaged(field.to_owned());
        let (id, body) = parts(sealed).ok_or_else(damaged)?;
        let keys = self.keys();
        let key = keys.iter().find(|key| key.id == id);
        let key = key.ok_or_else(|| Broken::UnknownKey(id.to_owned()))?;
        key.open(place, body).ok_or_else(damaged)
    }

    pub(super) fn is_by_newest(&self, sealed: &str) -> bool {
        parts(sealed).is_some_and(|(id, _)| id == self.keys()[0].id)
    }
}

/// Id of the key, and what it sealed.
fn parts(sealed: &str) -> Option<(&str, &str)> {
    let rest = sealed.strip_prefix(FORM)?.strip_prefix(':')?;
    rest.split_once(':')
}

fn parse(text: &str) -> Option<(Vec<Key>, bool)> {
    let File { keys, resealing } = serde_json::from_str(text).ok()?;
    let keys = keys.iter().map(|k| Key::read(&k.id, k.made_unix_s, &k.key));
    let keys = keys.collect::<Option<Vec<_>>>()?;
    (!keys.is_empty()).then_some((keys, resealing))
}

fn warn_if_open(file: &Path) {
    let mode = std::fs::metadata(file).map_or(0, |m| m.permissions().mode());
    if mode & 0o077 != 0 {
        let mode = format!("{:o}", mode & 0o777);
        tracing::warn!(file = %file.display(), mode, "others may read the key file; set its mode to 600");
    }
}
