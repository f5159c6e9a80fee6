//! What downloads and uploads have in common: so many are under way at any time, each follows the one before it.

use super::Shared;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::spawn_local;
use tokio::time::sleep;

/// Bytes read or written at a time.
pub(super) const CHUNK_LEN: usize = 64 << 10;

/// After a failure, so that a service that is away is not asked all the time.
const PAUSE: Duration = Duration::from_millis(100);

/// Keeps `count` of them under way until the process ends. `one` does one of them, whose content has this seed, counts it, and says
/// whether it succeeded.
pub(super) fn keep_under_way(
    books: &Shared,
    count: usize,
    one: impl AsyncFn(&Shared, u64) -> bool + Copy + 'static,
) {
    for _ in 0..count {
        let books = Rc::clone(books);
        spawn_local(async move {
            loop {
                let seed = books.borrow_mut().new_flow();
                if !one(&books, seed).await {
                    sleep(PAUSE).await;
                }
            }
        });
    }
}
