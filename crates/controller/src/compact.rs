//! The log of changes is kept for a bounded number of commits.

use crate::confirm;
use crate::error::ApiError;
use crate::objects::Objects;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Commits that the log keeps: at fifty changes a day, placements included, more than five years.
const KEPT: u64 = 100_000;
/// Commits forgotten at once: writes wait for it meanwhile.
const STEP: u64 = 5_000;
/// How often to look; what is beyond the bound in the meantime does no harm.
const PERIOD: Duration = Duration::from_secs(600);

/// Compacts the log until it is told to stop. Cancelling it loses nothing: what a step has begun, the next one finishes.
pub async fn run(objects: Arc<Objects>, stop: CancellationToken) {
    let mut beat = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = beat.tick() => {}
        }
        if let Err(error) = compact(&objects, KEPT).await {
            tracing::error!(%error, "cannot compact the log");
        }
    }
}

/// Forgets what is beyond the newest `kept` commits, but for what may still have to be reverted.
async fn compact(objects: &Objects, kept: u64) -> Result<(), ApiError> {
    let newest = *objects.store().revision().borrow();
    let waiting = confirm::pending(objects).await?.into_iter();
    let waiting = waiting.map(|p| p.revision).min().unwrap_or(newest);
    let before = newest.saturating_sub(kept).min(waiting);
    let mut oldest = objects.store().compact(0).await?;
    while oldest < before {
        oldest = objects.store().compact(before.min(oldest + STEP)).await?;
        tracing::debug!(oldest, "log compacted");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Author;
    use serde_json::json;
    use store::{Memory, Store as _, StoreError};

    async fn add(objects: &Objects, author: &Author, name: String) -> u64 {
        let ty = model::schema::object_type("tenant").expect("in the schema");
        let body = json!({ "name": name });
        let body = body.as_object().cloned().expect("an object");
        let made = objects.change(author, "add", |d| d.create(ty, body, None, author));
        made.await.expect("made");
        author.written().expect("written")
    }

    #[tokio::test]
    async fn the_newest_commits_stay_and_what_may_have_to_be_reverted() {
        let store = Arc::new(Memory::default());
        let objects = Objects::open(store.clone()).await.expect("opened");
        let author = Author::system("test");
        for n in 0..20 {
            add(&objects, &author, format!("t{n}")).await;
        }
        compact(&objects, 5).await.expect("compacted");
        assert!(store.read_commit(15).await.expect("kept").is_some());
        let gone = store.read_commit(14).await.expect_err("forgotten");
        assert!(matches!(gone, StoreError::Compacted { oldest: 15, .. }));

        let mut careful = Author::system("careful");
        careful.confirm_within_s = Some(60);
        let waits = add(&objects, &careful, "waits".into()).await;
        for n in 20..40 {
            add(&objects, &author, format!("t{n}")).await;
        }
        compact(&objects, 5).await.expect("compacted");
        let mut kept = store.log("/object/", u64::MAX, 100).await.expect("read");
        assert_eq!(kept.pop().map(|h| h.revision), Some(waits));
        assert_eq!(objects.snapshot().all("tenant").count(), 41);
    }
}
