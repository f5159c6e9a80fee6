//! Servers that are taken out of use: their connections go on for a while, and are cut.
//!
//! Tasks: one per server with a time to wait for, owned by its [`Retirement`] and aborted with it, or when the server is
//! in use again. It may end at any await: it does one thing, at its end.

use crate::cut::Cut;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

/// Whether a server's connections are to end, and when.
#[derive(Default)]
pub(crate) struct Retirement {
    cut: Arc<Cut>,
    pending: Mutex<Option<Pending>>,
}

struct Pending {
    since: Instant,
    after: Duration,
    task: AbortHandle,
}

impl Retirement {
    /// Connections end so long after the first time that this is said; `None`: they do not, and never were to.
    pub(crate) fn set(&self, after: Option<Duration>) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.as_ref().map(|p| p.after) == after {
            return;
        }
        let since = pending.take().map(|old| {
            old.task.abort();
            old.since
        });
        self.cut.withdraw();
        let since = since.unwrap_or_else(Instant::now);
        *pending = after.map(|after| self.begin(since, after));
    }

    fn begin(&self, since: Instant, after: Duration) -> Pending {
        let cut = self.cut.clone();
        let task = tokio::spawn(async move {
            sleep_until(since + after).await;
            cut.give();
        });
        Pending {
            since,
            after,
            task: task.abort_handle(),
        }
    }

    /// Waits until a connection is to end.
    pub(crate) async fn is_over(&self) {
        self.cut.in_force().await;
    }
}

impl Drop for Retirement {
    fn drop(&mut self) {
        let pending = self.pending.get_mut();
        if let Some(pending) = pending.unwrap_or_else(PoisonError::into_inner) {
            pending.task.abort();
        }
    }
}
