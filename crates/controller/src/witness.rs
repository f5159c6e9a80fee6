//! Who is told what happens, on the spot, by those who make it happen: the objects of a commit, the registry of what
//! engines say, the planner of its steps.
//!
//! A witness is quick, and asks nobody back who may be waiting for him: he is called while a commit is being finished,
//! and by the task that reads an engine's stream.

use crate::objects::{Author, Snapshot};
use crate::plan::LastScale;
use placement::autoscale::Decision;
use proto::v1::Report;
use std::sync::{Arc, OnceLock, Weak};

/// A commit that has been acknowledged by the store.
pub struct Committed<'a> {
    /// Who wrote.
    pub author: &'a Author,
    /// The revision that it became.
    pub revision: u64,
    /// The objects until then.
    pub before: &'a Snapshot,
    /// The objects from then on.
    pub after: &'a Snapshot,
    /// Path of the type and uuid of what was written.
    pub touched: Vec<(&'static str, &'a str)>,
}

/// See the module's documentation.
pub trait Witness: Send + Sync {
    /// Objects were written.
    fn committed(&self, commit: &Committed<'_>);
    /// An engine has a session; it may have had one before.
    fn engine_came(&self, se: &str);
    /// An engine has no session any more.
    fn engine_went(&self, se: &str, why: &str);
    /// An engine says what it observes.
    fn engine_reported(&self, se: &str, report: &Report);
    /// The planner did something with a VIP's placement, or refused it for a new reason.
    fn scaled(&self, vsvip: &str, step: &LastScale);
    /// An engine that joins a VIP's group need not wait any longer; uuids of the members that have not confirmed it.
    fn joined(&self, vsvip: &str, se: &str, late: &[String]);
    /// An engine that a VIP was scaled out to serves it.
    fn arrived(&self, vsvip: &str, se: &str, why: &str);
    /// The time is up in which an engine that a VIP was placed on is to serve it.
    fn time_is_up(&self, vsvip: &str, se: &str, why: &str);
    /// An engine does not serve in time what it was scaled out or migrated to; it has longer.
    fn not_ready(&self, vsvip: &str, se: &str, why: &str);
    /// What a VIP's load recommends, and nobody does by itself, is another step than before.
    fn recommended(&self, vsvip: &str, advice: &Decision);
    /// The engine that was to become a VIP's active one is it for good: nothing is waited for any more.
    fn switched(&self, vsvip: &str, se: &str, why: &str);
    /// A migration has ended, and by none of its own steps: one of its engines is gone. Whether the new one has the place.
    fn move_ended(&self, vsvip: &str, done: bool, why: &str);
    /// An engine that was scaled in has no connection left.
    fn released(&self, vsvip: &str, se: &str, why: &str);
    /// It has some when the time for that is up, or has not said; they go on.
    fn not_released(&self, vsvip: &str, se: &str, why: &str);
    /// An engine that was scaled in has left a VIP's group.
    fn left(&self, vsvip: &str, se: &str, why: &str);
}

/// The place of a witness, empty until there is one. It does not keep him: he holds those who tell him.
#[derive(Default)]
pub struct Seat(OnceLock<Weak<dyn Witness>>);

impl Seat {
    /// The witness takes it; a second one is not heard.
    pub fn take(&self, witness: &Arc<dyn Witness>) {
        if self.0.set(Arc::downgrade(witness)).is_err() {
            tracing::error!("a second witness is not heard");
        }
    }

    /// Tells the witness, if there is one.
    pub fn tell(&self, what: impl FnOnce(&dyn Witness)) {
        if let Some(witness) = self.0.get().and_then(Weak::upgrade) {
            what(&*witness);
        }
    }
}
