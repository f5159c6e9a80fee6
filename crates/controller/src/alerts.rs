//! Alerts: what events ask somebody to look at (avi-api section 11), as alertconfig objects say.
//!
//! They are operational state, not configuration: they are kept in a file of their own in the data folder, which is
//! written whole when they change, and do not enter the log of changes. What a user does to an alert is on the disk
//! before he is answered.

mod book;
pub mod rule;

pub use book::{About, Alert, Levels, State};

use crate::clock::now_us;
use crate::error::ApiError;
use crate::events::Event;
use crate::files;
use crate::objects::Objects;
use anyhow::Context as _;
use axum::http::StatusCode;
use book::Book;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The file, in the data folder.
const FILE: &str = "alerts.json";

/// See the module's documentation.
pub struct Alerts {
    objects: Arc<Objects>,
    book: Mutex<Book>,
    path: PathBuf,
    /// One writes at a time, and what is newer last. True when the last write failed.
    writing: Arc<tokio::sync::Mutex<bool>>,
}

impl Alerts {
    /// With the alerts from before.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn open(objects: Arc<Objects>, folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(FILE);
        let before = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            other => other.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let alerts = match before.as_slice() {
            [] => Vec::new(),
            bytes => serde_json::from_slice(bytes).unwrap_or_else(|error| {
                tracing::error!(%error, "the alerts in {FILE} cannot be read, and are left out");
                Vec::new()
            }),
        };
        Ok(Self {
            objects,
            book: Mutex::new(Book::new(alerts)),
            path,
            writing: Arc::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Raises what these events ask for.
    pub fn consider(&self, events: &[Arc<Event>]) {
        let rules = rule::all(&self.objects.snapshot());
        let mut book = self.lock();
        for event in events {
            book.consider(&rules, event);
        }
    }

    /// Takes out those that have expired.
    pub fn tick(&self) {
        self.lock().expire(now_us());
    }

    /// Every alert, oldest first.
    pub fn all(&self) -> Vec<Alert> {
        self.lock().all().to_vec()
    }

    /// Those that nobody has dismissed, counted for each object that has one.
    pub fn levels(&self) -> BTreeMap<About, Levels> {
        self.lock().levels()
    }

    /// The alert of this uuid.
    ///
    /// # Errors
    /// 404.
    pub fn get(&self, uuid: &str) -> Result<Alert, ApiError> {
        let book = self.lock();
        let found = book.all().iter().find(|a| a.uuid == uuid);
        found.cloned().ok_or_else(|| ApiError::not_found("Alert"))
    }

    /// Sets its state.
    ///
    /// # Errors
    /// 404; the disk refuses, and it is as it was.
    pub async fn set_state(&self, uuid: &str, state: State) -> Result<Alert, ApiError> {
        let before = self.get(uuid)?;
        self.lock().set_state(uuid, state);
        if let Err(error) = self.save().await {
            self.lock().set_state(uuid, before.state);
            return Err(error);
        }
        self.get(uuid)
    }

    /// Takes it out.
    ///
    /// # Errors
    /// 404; the disk refuses, and it stays.
    pub async fn delete(&self, uuid: &str) -> Result<(), ApiError> {
        let gone = self.lock().remove(uuid);
        let gone = gone.ok_or_else(|| ApiError::not_found("Alert"))?;
        if let Err(error) = self.save().await {
            self.lock().put_back(gone);
            return Err(error);
        }
        Ok(())
    }

    /// Writes the file if something is new; what fails is tried again with the next call.
    pub async fn save_if_changed(&self) {
        if self.lock().is_changed() {
            self.save().await.ok();
        }
    }

    async fn save(&self) -> Result<(), ApiError> {
        let mut writing = self.writing.clone().lock_owned().await;
        let text = {
            let mut book = self.lock();
            book.saved();
            serde_json::to_vec(book.all()).map_err(|e| ApiError::internal("writing alerts", &e))?
        };
        let path = self.path.clone();
        // The lock goes with the write: a caller who is cancelled does not let another one overtake it.
        let write = tokio::task::spawn_blocking(move || {
            let done = files::write_private(&path, &text);
            let failed_before = std::mem::replace(&mut *writing, done.is_err());
            (done, failed_before)
        });
        let (done, failed_before) = write
            .await
            .map_err(|e| ApiError::internal("writing alerts", &e))?;
        let Err(error) = done else {
            return Ok(());
        };
        self.lock().touch();
        if !failed_before {
            tracing::error!(
                error = format!("{error:#}"),
                "alerts are not written to {FILE}"
            );
        }
        let text = "the alert was not changed: the controller cannot write its data folder; make room there and repeat";
        Err(ApiError::new(StatusCode::INSUFFICIENT_STORAGE, text))
    }
}

#[cfg(test)]
mod tests;
