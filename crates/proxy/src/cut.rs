//! Ending the connections of a virtual service, or to a server, on command.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use tokio::sync::Notify;

/// The command, and who waits for it.
#[derive(Default)]
pub(crate) struct Cut {
    given: AtomicU64,
    waiting: Notify,
}

impl Cut {
    /// Ends everybody's wait.
    pub(crate) fn give(&self) {
        self.given.fetch_add(1, Ordering::Release);
        self.waiting.notify_waiters();
    }

    /// How many commands have been given.
    pub(crate) fn count(&self) -> u64 {
        self.given.load(Ordering::Acquire)
    }

    /// Waits for a command that is given after this began.
    pub(crate) async fn given(&self) {
        self.given_after(self.count()).await;
    }

    /// Waits for a command after so many. Within one task: it is polled with every packet of a connection, so that it takes
    /// the lock of the waiters once, and then looks at a number only.
    pub(crate) async fn given_after(&self, before: u64) {
        let mut notice = pin!(self.waiting.notified());
        let mut registered = false;
        poll_fn(|context| {
            if !std::mem::replace(&mut registered, true) && notice.as_mut().poll(context).is_ready()
            {
                return Poll::Ready(());
            }
            match self.count() == before {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        })
        .await;
    }
}
