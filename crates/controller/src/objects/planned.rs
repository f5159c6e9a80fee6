//! A change that was prepared and checked, and is not stored: what a plan is made from.

use super::{Draft, PREFIX, Snapshot};
use std::sync::Arc;
use store::Written;

/// See the module's documentation.
#[derive(Clone)]
pub struct Planned {
    /// The objects as they are.
    pub before: Arc<Snapshot>,
    /// The objects as they would be.
    pub after: Snapshot,
    /// Type and uuid of each object that is written.
    pub touched: Vec<(&'static str, String)>,
}

impl std::fmt::Debug for Planned {
    /// Without the objects, which have secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Planned")
            .field("touched", &self.touched)
            .finish_non_exhaustive()
    }
}

impl Planned {
    pub(super) fn of(before: Arc<Snapshot>, draft: Draft) -> Self {
        Self {
            before,
            after: draft.snapshot,
            touched: draft.touched.into_keys().collect(),
        }
    }

    /// What the log would have of it.
    pub fn writes(&self) -> impl Iterator<Item = Written> {
        self.touched.iter().map(|(path, uuid)| {
            let value = |snapshot: &Snapshot| Some(snapshot.get(path, uuid)?.to_bytes());
            Written {
                key: format!("{PREFIX}{path}/{uuid}"),
                before: value(&self.before),
                after: value(&self.after),
            }
        })
    }
}
