//! Commits that are too large for one transaction of etcd's.
//!
//! ```text
//!   log, index in parts ──▶ head, revision, pending in one transaction ──▶ current values in parts, pending deleted
//!   nobody reads beyond          this makes the commit                     readers lay the log of the pending
//!   the revision                                                           commit over the current values
//! ```
//!
//! Before the transaction in the middle the parts are nothing, and are deleted by who finds them; after it the commit
//! is made, and whoever leads puts the values in place.

use super::layout;
use super::view::{Lost, Range, Unfinished, View};
use super::writer::{Draft, Now, Raw, Writer, batches, current};
use crate::StoreError;
use etcd_client::{Compare, CompareOp};
use std::ops::ControlFlow::Continue;
use std::sync::Arc;

/// Makes the commit; false when it was not made and never will be, and can be tried again.
pub(super) async fn commit(
    writer: &mut Writer,
    now: &Now,
    mut draft: Draft<'_>,
) -> Result<bool, StoreError> {
    let staged = stage(writer, now, std::mem::take(&mut draft.log)).await;
    let made = match staged {
        Ok(()) => {
            let raw = draft.made_pending(&writer.shared);
            writer.make(now, &draft, &raw).await
        }
        Err(error) => Err(error),
    };
    let Ok(Some(made)) = made else {
        // The parts are in the way of the next commit.
        writer.settled = None;
        return made.map(|_| false);
    };
    if made != 0 {
        writer
            .shared
            .keep_pending(made, Arc::new(draft.owned_values()));
    }
    writer.is_unfinished = true;
    Ok(true)
}

async fn stage(writer: &mut Writer, now: &Now, log: Vec<Vec<Raw>>) -> Result<(), StoreError> {
    for batch in batches(log) {
        writer.guarded(now, "stage a commit", &batch).await?;
    }
    // An attempt that was given up and is done late writes the same once more, or fails because the commit is made.
    Ok(())
}

/// Puts the values of a pending commit in place.
pub(super) async fn finish(
    writer: &mut Writer,
    now: &Now,
    unfinished: Unfinished,
) -> Result<(), Lost> {
    let Some((revision, values)) = now.view.overlay().await? else {
        return Ok(());
    };
    let shared = writer.shared.clone();
    let place = |(key, value): (&String, &Option<Vec<u8>>)| {
        vec![current(&shared, revision, key, value.as_deref())]
    };
    let pending = shared.layout.pending();
    let same = Compare::mod_revision(pending.clone(), CompareOp::Equal, unfinished.made);
    // If a comparison fails an attempt before has deleted the key, or we do not lead: what is so now tells.
    let doing = "put a commit in place";
    for batch in batches(values.iter().map(place)) {
        let guards = vec![now.leads(), same.clone()];
        if !writer.compared(guards, doing, &batch).await?.succeeded() {
            return Ok(());
        }
    }
    let end = [Raw::Delete(pending)];
    let guards = vec![now.leads(), same];
    if writer.compared(guards, doing, &end).await?.succeeded() {
        shared.forget_pending();
    }
    Ok(())
}

/// Deletes parts of commits that were not made; true when there were some.
pub(super) async fn clear(writer: &mut Writer, now: &Now) -> Result<bool, Lost> {
    let view: &View = &now.view;
    let layout = &view.shared.layout;
    let range = Range::new(layout.log_from(view.revision + 1), layout.log_end());
    let mut parts = Vec::new();
    view.scan(range, |entry| {
        let place = layout.place_of_log(entry.key())?;
        let write: layout::Write = layout::decode(entry.key(), entry.value())?;
        let trace = layout.trace(&write.key, place, write.value.is_none());
        parts.push(vec![Raw::Delete(entry.key().to_vec()), Raw::Delete(trace)]);
        Ok(Continue(()))
    })
    .await?;
    let any = !parts.is_empty();
    for batch in batches(parts) {
        writer
            .guarded(now, "delete parts of a commit", &batch)
            .await?;
    }
    Ok(any)
}
