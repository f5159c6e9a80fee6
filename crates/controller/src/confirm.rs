//! Confirmed commits: a change that reverts itself unless somebody confirms it in time.
//!
//! What waits is an entry `/pending/ID` in the store, written in the same transaction as the change, whose revision is
//! therefore the entry's own. The deadline is wall time, so that it holds over a restart; a process reads it once, and waits
//! by a clock that nobody sets. The revert takes the entry out in its own transaction: it happens once, and a confirmation
//! either comes before it or is refused.

use crate::clock::now_us;
use crate::error::ApiError;
use crate::objects::{Author, Objects};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::{Entry, Expect, Meta, Op};
use tokio_util::sync::CancellationToken;

/// Prefix of their keys.
pub const PREFIX: &str = "/pending/";
/// The longest sleep while something waits.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A change that waits for its confirmation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    who: String,
    within_s: u64,
    deadline_us: u64,
    /// Set when the revert failed, and the entry's own revision no longer is that of the change.
    failed: Option<Failed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Failed {
    revision: u64,
    why: String,
}

/// A change that waits, or that should have been reverted and could not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    key: String,
    /// The revision of the entry.
    entry: u64,
    /// The revision of the change.
    pub revision: u64,
    /// Who made it.
    pub who: String,
    /// When it is reverted, in microseconds since 1970.
    pub deadline_us: u64,
    /// Within how many seconds it was to be confirmed.
    pub within_s: u64,
    /// Why the revert failed.
    pub failed: Option<String>,
}

/// The write that goes with a change to be confirmed.
pub fn ask(who: &str, within_s: u64) -> Op {
    let record = Record {
        who: who.to_owned(),
        within_s,
        deadline_us: now_us().saturating_add(within_s * 1_000_000),
        failed: None,
    };
    let key = format!("{PREFIX}{}", uuid::Uuid::new_v4());
    Op::put(key, bytes(&record), Expect::Absent)
}

fn bytes(record: &Record) -> Vec<u8> {
    serde_json::to_vec(record).expect("a record has text keys and no failing serialiser")
}

impl Pending {
    fn read(entry: Entry) -> Result<Self, ApiError> {
        let unreadable = |e| ApiError::internal(&format!("reading {}", entry.key), &e);
        let record: Record = serde_json::from_slice(&entry.value).map_err(unreadable)?;
        let Record {
            who,
            within_s,
            deadline_us,
            failed,
        } = record;
        let (revision, failed) = match failed {
            None => (entry.revision, None),
            Some(Failed { revision, why }) => (revision, Some(why)),
        };
        Ok(Self {
            entry: entry.revision,
            key: entry.key,
            revision,
            who,
            deadline_us,
            within_s,
            failed,
        })
    }

    fn with_failure(&self, why: &str) -> Op {
        let record = Record {
            who: self.who.clone(),
            within_s: self.within_s,
            deadline_us: self.deadline_us,
            failed: Some(Failed {
                revision: self.revision,
                why: why.to_owned(),
            }),
        };
        Op::put(&self.key, bytes(&record), Expect::Revision(self.entry))
    }

    fn end(&self) -> Op {
        Op::delete(&self.key, Expect::Revision(self.entry))
    }
}

/// All that wait or failed, newest change first.
///
/// # Errors
/// The store refuses.
pub async fn pending(objects: &Objects) -> Result<Vec<Pending>, ApiError> {
    let listing = objects.store().list(PREFIX).await?;
    let all = listing.entries.into_iter().map(Pending::read);
    let mut all: Vec<_> = all.collect::<Result<_, _>>()?;
    all.sort_by_key(|p| std::cmp::Reverse(p.revision));
    Ok(all)
}

/// Keeps a change. `may` says whether the caller may confirm what this user wrote.
///
/// # Errors
/// 404 when it does not wait, or no longer; 403 when it is not for the caller to confirm.
pub async fn confirm(
    objects: &Objects,
    author: &Author,
    revision: u64,
    may: impl Fn(&str) -> bool,
) -> Result<(), ApiError> {
    let found = find(objects, revision, may).await?;
    let meta = Meta {
        who: author.who.clone(),
        from: author.from.clone(),
        message: format!("confirmation of revision {revision}"),
    };
    match objects.store().commit(vec![found.end()], meta).await {
        Err(store::StoreError::Conflict { .. }) => Err(gone(revision)),
        other => Ok(other.map(drop)?),
    }
}

fn gone(revision: u64) -> ApiError {
    let text = format!(
        "revision {revision} waits for no confirmation: it never did, or was confirmed or reverted already"
    );
    ApiError::new(StatusCode::NOT_FOUND, text)
}

/// The change that waits, if the caller may confirm it.
///
/// # Errors
/// As of [`confirm`].
pub async fn find(
    objects: &Objects,
    revision: u64,
    may: impl Fn(&str) -> bool,
) -> Result<Pending, ApiError> {
    let all = pending(objects).await?;
    let found = all.into_iter().find(|p| p.revision == revision);
    let found = found.ok_or_else(|| gone(revision))?;
    if !may(&found.who) {
        let text = format!("revision {revision} is for {} to confirm", found.who);
        return Err(ApiError::new(StatusCode::FORBIDDEN, text));
    }
    Ok(found)
}

/// Reverts what is not confirmed in time, until it is told to stop. What was due while nobody ran is due at once.
pub async fn expire(objects: Arc<Objects>, stop: CancellationToken) {
    let mut changed = objects.changed();
    let mut deadlines = Deadlines::default();
    loop {
        changed.borrow_and_update();
        let wait = revert_due(&objects, &mut deadlines).await;
        // Cancelling any of these loses nothing: the state is in the store.
        tokio::select! {
            () = stop.cancelled() => return,
            _ = changed.changed(), if wait.is_none() => {}
            () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
        }
    }
}

/// Reverts what is due, the newest first, because it may rest on the older; says when to look again, if at all
/// before the next change.
async fn revert_due(objects: &Objects, deadlines: &mut Deadlines) -> Option<Duration> {
    let all = match pending(objects).await {
        Ok(all) => all,
        Err(error) => {
            tracing::error!(%error, "cannot read what waits for confirmation");
            return Some(LOOK_AGAIN);
        }
    };
    let waiting: Vec<_> = all.iter().filter(|p| p.failed.is_none()).collect();
    deadlines.see(&waiting, now_us());
    for due in waiting.iter().filter(|p| deadlines.left(p).is_zero()) {
        revert(objects, due).await;
    }
    let next = waiting.iter().map(|p| deadlines.left(p)).min()?;
    Some(next.clamp(Duration::from_millis(1), LOOK_AGAIN))
}

/// Until when each change that waits may be confirmed, by its key. Its deadline is compared with the time of day once, when this
/// process first sees it: a clock that is set later reverts nothing early.
#[derive(Default)]
struct Deadlines(BTreeMap<String, Instant>);

impl Deadlines {
    /// These wait now.
    fn see(&mut self, waiting: &[&Pending], now_us: u64) {
        self.0
            .retain(|key, _| waiting.iter().any(|p| p.key == *key));
        for pending in waiting {
            let left = Duration::from_micros(pending.deadline_us.saturating_sub(now_us));
            // Never longer than was asked for, whatever the clock was that made the deadline.
            let left = left.min(Duration::from_secs(pending.within_s));
            let until = self.0.entry(pending.key.clone());
            until.or_insert_with(|| Instant::now() + left);
        }
    }

    fn left(&self, pending: &Pending) -> Duration {
        let until = self.0.get(&pending.key);
        until.map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(Instant::now())
        })
    }
}

async fn revert(objects: &Objects, due: &Pending) {
    let Pending {
        revision, within_s, ..
    } = due;
    let message = format!("revert of revision {revision}: not confirmed within {within_s} s");
    let author = Author::system("confirm");
    let done = objects.revert(&author, &message, *revision, vec![due.end()]);
    match done.await {
        Ok(_) => tracing::warn!(revision, who = due.who, "{message}"),
        // It is tried again: a disk has room some time.
        Err(error) if error.status.is_server_error() => {
            tracing::error!(revision, %error, "a change that nobody confirmed is not reverted yet");
        }
        Err(error) => fail(objects, due, &error).await,
    }
}

/// Nothing was reverted. That is kept where it is seen until somebody confirms that he knows.
async fn fail(objects: &Objects, due: &Pending, error: &ApiError) {
    let revision = due.revision;
    tracing::error!(revision, %error, "a change that nobody confirmed cannot be reverted");
    let meta = Meta {
        who: "system:confirm".into(),
        message: format!("revert of revision {revision} failed"),
        ..Meta::default()
    };
    let op = due.with_failure(&error.text);
    match objects.store().commit(vec![op], meta).await {
        // Confirmed in the meantime.
        Ok(_) | Err(store::StoreError::Conflict { .. }) => {}
        Err(error) => tracing::error!(revision, %error, "cannot write that a revert failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(key: &str, deadline_us: u64) -> Pending {
        Pending {
            key: key.to_owned(),
            entry: 1,
            revision: 1,
            who: "admin".to_owned(),
            deadline_us,
            within_s: 60,
            failed: None,
        }
    }

    #[test]
    fn a_clock_that_is_set_reverts_nothing_early_and_nothing_late() {
        const HOUR_US: u64 = 3_600_000_000;
        let (now_us, minute_us) = (100 * HOUR_US, 60_000_000);
        let pending = waiting("a", now_us + minute_us);
        let mut deadlines = Deadlines::default();
        for now_us in [now_us, now_us + HOUR_US, now_us - HOUR_US] {
            deadlines.see(&[&pending], now_us);
            let left_s = deadlines.left(&pending).as_secs();
            assert!((55..=60).contains(&left_s), "{left_s}");
        }
        // Of another controller, whose clock was an hour ahead; and one that was due while nobody ran.
        let (ahead, due) = (waiting("b", now_us + HOUR_US), waiting("c", now_us - 1));
        deadlines.see(&[&ahead, &due], now_us);
        assert!(deadlines.left(&ahead) <= Duration::from_secs(60));
        assert!(deadlines.left(&due).is_zero());
        assert!(!deadlines.0.contains_key("a"));
    }
}
