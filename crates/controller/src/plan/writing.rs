//! Placements on their way to the store. Many that were decided together are written together: each commit waits for the disk, and
//! on an etcd for a majority of disks.
//!
//! A commit is made as a whole or not at all. If it is refused for one of its placements, that was changed by somebody else for
//! instance, each is written by itself, and only that one is not.

use super::assignments::Assignment;
use super::{PREFIX, Planner, Tables};
use crate::clock::now_unix_s;
use crate::error::ApiError;
use std::collections::BTreeSet;
use store::{Entry, Expect, Meta, Op, StoreError};

/// Placements of one commit: as many as etcd takes in one transaction, which has 128 operations, three for each.
const AT_ONCE: usize = 32;

/// A placement that is to be written.
pub(super) struct Placement {
    /// uuid of the VsVip.
    pub vsvip: String,
    /// In the place of the assignment that it has; one that says nothing removes it.
    pub next: Assignment,
    /// Why, for the log.
    pub message: String,
}

/// A placement with its operation.
struct Prepared {
    placement: Placement,
    op: Op,
}

/// What became of many.
pub(super) struct Outcome {
    /// uuids of the VsVips whose placements are written, and in force here.
    pub written: BTreeSet<String>,
    /// Why others are not; the first reason.
    pub rest: Result<(), ApiError>,
}

impl Outcome {
    fn add(&mut self, vsvip: &str, result: Result<(), ApiError>) {
        match result {
            Ok(()) => drop(self.written.insert(vsvip.to_owned())),
            Err(error) if self.rest.is_ok() => self.rest = Err(error),
            Err(_) => {}
        }
    }
}

/// The assignment that the store has.
pub(super) fn parsed(entry: &Entry) -> Result<Assignment, ApiError> {
    let parsed = serde_json::from_slice(&entry.value);
    let mut assignment: Assignment =
        parsed.map_err(|e| ApiError::internal(&format!("reading {}", entry.key), &e))?;
    assignment.revision = entry.revision;
    assignment.complete();
    Ok(assignment)
}

/// Who writes, and why.
pub(super) fn meta(message: String) -> Meta {
    Meta {
        who: "system:planner".into(),
        message,
        ..Meta::default()
    }
}

impl Planner {
    /// Writes placements, durable before anybody hears of them. One that is refused holds up no other; when the store writes
    /// nothing at all, the others are not tried.
    pub(super) async fn write_many(&self, placements: Vec<Placement>) -> Outcome {
        let mut outcome = Outcome {
            written: BTreeSet::new(),
            rest: Ok(()),
        };
        let mut prepared = Vec::new();
        for mut placement in placements {
            match self.write_of(&placement.vsvip, &mut placement.next) {
                Ok(op) => prepared.push(Prepared { placement, op }),
                Err(error) => outcome.add(&placement.vsvip, Err(error)),
            }
        }
        let mut prepared = prepared.into_iter();
        loop {
            let batch: Vec<Prepared> = prepared.by_ref().take(AT_ONCE).collect();
            if batch.is_empty() || !self.write_batch(batch, &mut outcome).await {
                return outcome;
            }
        }
    }

    /// False when the store writes nothing at all.
    async fn write_batch(&self, batch: Vec<Prepared>, outcome: &mut Outcome) -> bool {
        let ops = batch.iter().map(|p| p.op.clone()).collect();
        match self.objects.store().commit(ops, meta(words(&batch))).await {
            Ok(revision) => {
                // At once: desired states of this revision have all of it.
                let mut tables = self.write();
                for Prepared { placement, .. } in batch {
                    tables.take_over(&placement.vsvip, placement.next, revision);
                    outcome.add(&placement.vsvip, Ok(()));
                }
                true
            }
            Err(error) if is_about_one(&error) => {
                self.write_each(batch, outcome).await;
                true
            }
            Err(error) => {
                outcome.add("", Err(error.into()));
                false
            }
        }
    }

    async fn write_each(&self, batch: Vec<Prepared>, outcome: &mut Outcome) {
        for prepared in batch {
            let vsvip = prepared.placement.vsvip.clone();
            outcome.add(&vsvip, self.write_prepared(prepared).await);
        }
    }

    /// Writes a placement, durable before anybody hears of it.
    pub(super) async fn write_one(&self, mut placement: Placement) -> Result<(), ApiError> {
        let op = self.write_of(&placement.vsvip, &mut placement.next)?;
        self.write_prepared(Prepared { placement, op }).await
    }

    async fn write_prepared(&self, Prepared { placement, op }: Prepared) -> Result<(), ApiError> {
        let Placement {
            vsvip,
            next,
            message,
        } = placement;
        let written = self.objects.store().commit(vec![op], meta(message)).await;
        match written {
            Ok(revision) => self.write().take_over(&vsvip, next, revision),
            Err(StoreError::Conflict { .. }) => self.read_again(&vsvip).await?,
            Err(_) => {}
        }
        written.map(drop).map_err(ApiError::from)
    }

    /// What the store has for the VIP is in force here from now on: somebody else wrote it, or we did, and did not hear of it.
    /// The next decision begins there.
    async fn read_again(&self, vsvip: &str) -> Result<(), ApiError> {
        let key = format!("{PREFIX}{vsvip}");
        match self.objects.store().get(&key).await? {
            Some(entry) => {
                let theirs = parsed(&entry)?;
                self.write().take_over(vsvip, theirs, entry.revision);
            }
            None => self.write().take_over(vsvip, Assignment::default(), 0),
        }
        Ok(())
    }

    /// What writes an assignment in the place of the one that the VIP has.
    fn write_of(&self, vsvip: &str, assignment: &mut Assignment) -> Result<Op, ApiError> {
        let before = self.assignment(vsvip);
        let expect = match before.revision {
            0 => Expect::Absent,
            revision => Expect::Revision(revision),
        };
        let key = format!("{PREFIX}{vsvip}");
        assignment.revision = 0;
        assignment.tidy_scaling();
        assignment.date(&before, now_unix_s());
        if *assignment == Assignment::default() {
            return Ok(Op::delete(key, expect));
        }
        let value = serde_json::to_vec(assignment)
            .map_err(|e| ApiError::internal("writing a placement", &e))?;
        Ok(Op::put(key, value, expect))
    }
}

impl Tables {
    /// The assignment is in force, as this revision wrote it.
    fn take_over(&mut self, vsvip: &str, mut assignment: Assignment, revision: u64) {
        self.revision = revision.max(self.revision);
        self.mark_members(vsvip);
        self.marks.look(vsvip);
        let before = self.assignments.get(vsvip).map(|a| &a.group.members);
        let mut before = before.into_iter().flatten();
        if before.any(|member| !assignment.is_at(&member.engine)) {
            self.marks.gone();
        }
        self.ages.see(vsvip, &assignment);
        self.joins.keep(vsvip, &assignment.engines);
        // An engine that is taken back must not lose its new connections.
        self.cuts
            .retain(|(v, se), _| v != vsvip || !assignment.is_at(se));
        if assignment == Assignment::default() {
            self.assignments.remove(vsvip);
        } else {
            assignment.revision = revision;
            self.assignments.insert(vsvip.to_owned(), assignment);
        }
        self.mark_members(vsvip);
    }
}

/// The others of a commit could be made without the one that this is about.
fn is_about_one(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Conflict { .. } | StoreError::TooLarge { .. }
    )
}

/// Of several, the words of the first one and how many they are.
fn words(batch: &[Prepared]) -> String {
    let first = batch.first().map(|p| p.placement.message.as_str());
    let first = first.unwrap_or_default();
    match batch.len() {
        1 => first.to_owned(),
        many => format!("{many} VIPs: {first}; …"),
    }
}

#[cfg(test)]
mod tests;
