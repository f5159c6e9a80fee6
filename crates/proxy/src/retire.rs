//! Servers that are taken out of use: their connections go on for a while, and are cut.
//!
//! Tasks: one per server with a time to wait for, owned by its [`Retirement`] and aborted with it, or when the server is
//! in use again. It may end at any await: it does one thing, at its end, and only while it is still wanted.

use crate::cut::Cut;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

/// Whether a server's connections are to end, and when.
#[derive(Default)]
pub(crate) struct Retirement {
    cut: Arc<Cut>,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Default)]
struct Plan {
    /// Changes with each new time to wait for, so that a task knows whether it is still wanted.
    number: u64,
    pending: Option<Pending>,
    /// Commands up to this one were for connections of before: who comes now is not meant.
    over: u64,
}

struct Pending {
    since: Instant,
    after: Duration,
    task: AbortHandle,
}

fn locked(plan: &Mutex<Plan>) -> MutexGuard<'_, Plan> {
    plan.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Retirement {
    /// Connections end so long after the first time that this is said; `None`: they do not, and never were to.
    pub(crate) fn set(&self, after: Option<Duration>) {
        let mut plan = locked(&self.plan);
        if plan.pending.as_ref().map(|p| p.after) == after {
            return;
        }
        let before = plan.pending.take().map(|old| {
            old.task.abort();
            old.since
        });
        plan.number += 1;
        plan.over = self.cut.count();
        let since = before.unwrap_or_else(Instant::now);
        plan.pending = after.map(|after| self.begin(plan.number, since, after));
    }

    fn begin(&self, number: u64, since: Instant, after: Duration) -> Pending {
        let (cut, plan) = (self.cut.clone(), self.plan.clone());
        let task = tokio::spawn(async move {
            sleep_until(since + after).await;
            // Aborting does not stop a task that is here already.
            if locked(&plan).number == number {
                cut.give();
            }
        });
        Pending {
            since,
            after,
            task: task.abort_handle(),
        }
    }

    /// Waits until a connection is to end.
    pub(crate) async fn is_over(&self) {
        let given = self.cut.count();
        if given == locked(&self.plan).over {
            self.cut.given_after(given).await;
        }
    }
}

impl Drop for Retirement {
    fn drop(&mut self) {
        if let Some(pending) = locked(&self.plan).pending.take() {
            pending.task.abort();
        }
    }
}
