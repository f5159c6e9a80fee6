//! Which VIP is on which engine, what each engine is told, and what is known of both.
//!
//! The [`Planner`] holds the assignments: it asks `placement` what to do, writes the answer to the store
//! (compare-and-set) and only then tells the engines. The reconciler runs on every change of objects and engines,
//! and on a period; it takes no input and may run at any time. [`Backend`] is what the API calls.

mod backend;
mod compile;
mod explain;
#[cfg(test)]
mod fixture;
mod reconcile;
mod refusal;
mod routing;
mod runtime;
mod situation;

pub use backend::Backend;
pub use reconcile::run as reconcile;
pub use routing::RoutingText;

use crate::engines::Registry;
use crate::error::ApiError;
use crate::objects::{Objects, Snapshot};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;
use store::{Expect, Meta, Op};
use tokio::sync::Mutex;

const PREFIX: &str = "/placement/";

/// Where a VIP is placed; the first engine is the primary.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// uuids of the engines, in the order in which they joined.
    pub engines: Vec<String>,
    /// The revision that wrote it.
    #[serde(skip)]
    revision: u64,
}

/// The last thing that was tried with a VIP's placement, for people.
#[derive(Debug, Clone)]
pub struct LastScale {
    /// SCALE_OUT, SCALE_IN, INITIAL_PLACEMENT.
    pub action: &'static str,
    /// It was done.
    pub success: bool,
    /// Why this engine, or why none.
    pub reason: String,
    /// The engine's uuid, when there is one.
    pub engine: Option<String>,
    /// When.
    pub at: SystemTime,
}

#[derive(Default)]
struct Tables {
    assignments: BTreeMap<String, Assignment>,
    last: BTreeMap<String, LastScale>,
    resets: Resets,
    revision: u64,
}

/// When an operator last asked for a reset of a peer's sessions, in Unix milliseconds; by engine and peer. An engine
/// acts on a time that is later than the one it knows, so that nothing is lost with this process but the wish itself.
type Resets = BTreeMap<(String, IpAddr), u64>;

/// See the module's documentation.
pub struct Planner {
    objects: Arc<Objects>,
    registry: Arc<Registry>,
    tables: RwLock<Tables>,
    /// One decision at a time: each builds on the one before.
    deciding: Mutex<()>,
}

impl Planner {
    /// Reads the assignments from the store.
    ///
    /// # Errors
    /// The store refuses, or holds something that is no assignment.
    pub async fn open(objects: Arc<Objects>, registry: Arc<Registry>) -> Result<Self, ApiError> {
        let listing = objects.store().list(PREFIX).await?;
        let mut tables = Tables {
            revision: listing.revision,
            ..Tables::default()
        };
        for entry in listing.entries {
            let mut assignment: Assignment = serde_json::from_slice(&entry.value)
                .map_err(|e| ApiError::internal(&format!("reading {}", entry.key), &e))?;
            assignment.revision = entry.revision;
            tables
                .assignments
                .insert(entry.key[PREFIX.len()..].to_owned(), assignment);
        }
        Ok(Self {
            objects,
            registry,
            tables: RwLock::new(tables),
            deciding: Mutex::new(()),
        })
    }

    /// Where this VIP is placed.
    pub fn assignment(&self, vsvip: &str) -> Assignment {
        self.read()
            .assignments
            .get(vsvip)
            .cloned()
            .unwrap_or_default()
    }

    /// What was last tried with this VIP.
    pub fn last_scale(&self, vsvip: &str) -> Option<LastScale> {
        self.read().last.get(vsvip).cloned()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, vsvip: &str, action: &'static str, outcome: Result<&placement::Choice, &str>) {
        let (success, reason, engine) = match outcome {
            Ok(choice) => (true, choice.reason.clone(), Some(choice.engine.clone())),
            Err(why) => (false, why.to_owned(), None),
        };
        let known = self
            .last_scale(vsvip)
            .is_some_and(|l| l.reason == reason && l.action == action);
        if !known {
            tracing::info!(vsvip, action, success, reason, "placement");
        }
        let last = LastScale {
            action,
            success,
            reason,
            engine,
            at: SystemTime::now(),
        };
        self.write().last.insert(vsvip.to_owned(), last);
    }

    /// Writes an assignment, durable before anybody hears of it; an empty one is removed.
    async fn store(
        &self,
        vsvip: &str,
        engines: Vec<String>,
        message: String,
    ) -> Result<(), ApiError> {
        let before = self.assignment(vsvip).revision;
        let expect = if before == 0 {
            Expect::Absent
        } else {
            Expect::Revision(before)
        };
        let key = format!("{PREFIX}{vsvip}");
        let mut assignment = Assignment {
            engines,
            revision: 0,
        };
        let op = if assignment.engines.is_empty() {
            Op::delete(key, expect)
        } else {
            let value = serde_json::to_vec(&assignment)
                .map_err(|e| ApiError::internal("writing a placement", &e))?;
            Op::put(key, value, expect)
        };
        let meta = Meta {
            who: "system:planner".into(),
            message,
        };
        let revision = self.objects.store().commit(vec![op], meta).await?;
        let mut tables = self.write();
        tables.revision = revision;
        if assignment.engines.is_empty() {
            tables.assignments.remove(vsvip);
        } else {
            assignment.revision = revision;
            tables.assignments.insert(vsvip.to_owned(), assignment);
        }
        Ok(())
    }

    /// Compiles every engine's desired state and hands out what is new. What cannot be compiled leaves in force what
    /// the engine has, and the engine's status says so.
    pub fn publish(&self) {
        let snapshot = self.objects.snapshot();
        let (assignments, resets, revision) = {
            let tables = self.read();
            (
                tables.assignments.clone(),
                tables.resets.clone(),
                tables.revision.max(snapshot.revision),
            )
        };
        for (uuid, _) in snapshot.all("serviceengine") {
            match compile::desired_state(&snapshot, &assignments, uuid) {
                Ok(mut desired) => {
                    compile::ask_for_resets(&mut desired, &resets);
                    self.registry.desire(uuid, desired, revision);
                }
                Err(unreadable) => self.registry.keep(uuid, &unreadable.to_string()),
            }
        }
    }

    /// Asks an engine to reset its sessions with these peers (Cease 6/4), and tells it at once.
    pub fn reset_sessions(&self, engine: &str, peers: &[IpAddr], at_unix_ms: u64) {
        let asked = peers
            .iter()
            .map(|peer| ((engine.to_owned(), *peer), at_unix_ms));
        self.write().resets.extend(asked);
        self.publish();
    }

    /// The situation in which the planner decides about a VIP.
    fn situation(
        &self,
        snapshot: &Snapshot,
        vsvip: &str,
    ) -> Result<situation::Situation, ApiError> {
        let assignments = self.read().assignments.clone();
        situation::of(snapshot, &self.registry, &assignments, vsvip)
    }

    /// Places the VIP on one more engine and tells it at once.
    ///
    /// # Errors
    /// 400 with the planner's reason.
    pub async fn scale_out(
        &self,
        vsvip: &str,
        wanted: Option<&str>,
    ) -> Result<placement::Choice, ApiError> {
        let _one = self.deciding.lock().await;
        let situation = self.situation(&self.objects.snapshot(), vsvip)?;
        let (demand, engines) = (&situation.demand, &situation.engines);
        let choice = placement::scale_out(demand, engines, &situation.assigned, wanted);
        let choice = choice.map_err(|e| self.refused(vsvip, "SCALE_OUT", &e))?;
        let mut assigned = situation.assigned;
        assigned.push(choice.engine.clone());
        self.store(
            vsvip,
            assigned,
            format!("scale out to {}: {}", choice.name, choice.reason),
        )
        .await?;
        self.note(vsvip, "SCALE_OUT", Ok(&choice));
        self.publish();
        Ok(choice)
    }

    /// Takes the VIP off one engine and tells it at once.
    ///
    /// # Errors
    /// 400 with the planner's reason.
    pub async fn scale_in(
        &self,
        vsvip: &str,
        wanted: Option<&str>,
        primary: bool,
    ) -> Result<placement::Choice, ApiError> {
        let _one = self.deciding.lock().await;
        let situation = self.situation(&self.objects.snapshot(), vsvip)?;
        let (demand, engines) = (&situation.demand, &situation.engines);
        let choice = placement::scale_in(demand, engines, &situation.assigned, wanted, primary);
        let choice = choice.map_err(|e| self.refused(vsvip, "SCALE_IN", &e))?;
        let mut assigned = situation.assigned;
        assigned.retain(|uuid| *uuid != choice.engine);
        self.store(
            vsvip,
            assigned,
            format!("scale in from {}: {}", choice.name, choice.reason),
        )
        .await?;
        self.note(vsvip, "SCALE_IN", Ok(&choice));
        self.publish();
        Ok(choice)
    }

    fn refused(&self, vsvip: &str, action: &'static str, error: &placement::PlanError) -> ApiError {
        let text = error.to_string();
        self.note(vsvip, action, Err(&text));
        ApiError::bad_request(text)
    }
}
