//! The engines that hold a VIP, as flow resiliency sees them (DESIGN 6.5): each has an id that it keeps, and one that
//! is scaled in stays a member until its last connection has ended.
//!
//! The id of an engine travels in its clients' TCP timestamps, so that a freed one is not given to another engine
//! before those clients are gone. Times are seconds on a clock that survives restarts.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Ids are below this: what fits into the six bits of a hint.
pub const MEMBERS_MAX: usize = 64;
/// How long a freed id is kept from other engines: a client's timestamp is echoed no longer than this (DESIGN 6.4).
pub const ID_REST_S: u64 = 10 * 3600;

/// See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Grows with every change of the members.
    pub generation: u64,
    /// In the order in which they joined.
    pub members: Vec<Member>,
    /// Ids that rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resting: Vec<Resting>,
}

/// An engine in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// uuid of the engine.
    pub engine: String,
    /// Kept for as long as the engine is in the group.
    pub id: u8,
    /// What it does.
    pub role: Role,
    /// See [`Group::slot`]; none in a group of an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u8>,
}

/// What a member does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Role {
    /// It takes new connections.
    Serving,
    /// It holds its place, but is disabled and takes no new connections.
    Disabled,
    /// It was scaled in, and serves the connections that it has.
    Lingering {
        /// When it was scaled in.
        since_s: u64,
    },
}

/// The id of an engine that has left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resting {
    /// The id.
    pub id: u8,
    /// Who had it, and gets it back if it returns.
    pub engine: String,
    /// When it left.
    pub since_s: u64,
}

/// Every id is in use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the VIP is held by {MEMBERS_MAX} engines, the most there can be; {lingering} of them were scaled in and wait for their last connections: end one with force"
)]
pub struct GroupFull {
    /// Members that linger.
    pub lingering: usize,
}

impl Group {
    /// The member that this engine is.
    #[must_use]
    pub fn member(&self, engine: &str) -> Option<&Member> {
        self.members.iter().find(|m| m.engine == engine)
    }

    /// A number that no other member has, as low as may be, kept for as long as the engine is in the group: which of the
    /// addresses that are one engine's each is its own. Unlike an id, it is another engine's as soon as it is free.
    #[must_use]
    pub fn slot(&self, engine: &str) -> Option<usize> {
        let slots = self.slots();
        let mut members = self.members.iter().zip(slots);
        let (_, slot) = members.find(|(m, _)| m.engine == engine)?;
        Some(slot.into())
    }

    /// By member. Those of an older version get what is free, in their order.
    fn slots(&self) -> Vec<u8> {
        let mut used: BTreeSet<u8> = self.members.iter().filter_map(|m| m.slot).collect();
        let each = self.members.iter().map(|m| {
            let slot = m.slot.unwrap_or_else(|| lowest_free(&used));
            used.insert(slot);
            slot
        });
        each.collect()
    }

    /// From now on they do not change, whoever leaves.
    fn settle_slots(&mut self) -> Vec<u8> {
        let slots = self.slots();
        for (member, slot) in self.members.iter_mut().zip(&slots) {
            member.slot = Some(*slot);
        }
        slots
    }

    /// The others.
    pub fn others<'a>(&'a self, engine: &'a str) -> impl Iterator<Item = &'a Member> {
        self.members.iter().filter(move |m| m.engine != engine)
    }

    /// Those that were scaled in, and when.
    pub fn lingering(&self) -> impl Iterator<Item = (&Member, u64)> {
        let since = |m: &Member| match m.role {
            Role::Lingering { since_s } => Some(since_s),
            Role::Serving | Role::Disabled => None,
        };
        self.members
            .iter()
            .filter_map(move |m| Some((m, since(m)?)))
    }

    /// The engine serves from now on: a new member, or one that lingered and stays with its id.
    ///
    /// # Errors
    /// It is new, and there is no id for it.
    pub fn join(&mut self, engine: &str, now_s: u64) -> Result<(), GroupFull> {
        if self.set_role(engine, Role::Serving) {
            return Ok(());
        }
        let id = self.id_for(engine, now_s)?;
        self.resting.retain(|r| r.id != id);
        let slots = self.settle_slots();
        self.members.push(Member {
            engine: engine.to_owned(),
            id,
            role: Role::Serving,
            slot: Some(lowest_free(&slots.into_iter().collect())),
        });
        self.generation += 1;
        Ok(())
    }

    /// The engine was scaled in.
    pub fn linger(&mut self, engine: &str, now_s: u64) {
        let lingers = self.lingering().any(|(m, _)| m.engine == engine);
        if !lingers {
            self.set_role(engine, Role::Lingering { since_s: now_s });
        }
    }

    /// An engine that serves is disabled, or enabled again.
    pub fn disable(&mut self, engine: &str, disabled: bool) {
        let lingers = self.lingering().any(|(m, _)| m.engine == engine);
        if !lingers {
            let role = if disabled {
                Role::Disabled
            } else {
                Role::Serving
            };
            self.set_role(engine, role);
        }
    }

    /// The engine is no member any more; its id rests.
    pub fn leave(&mut self, engine: &str, now_s: u64) {
        let Some(at) = self.members.iter().position(|m| m.engine == engine) else {
            return;
        };
        self.settle_slots();
        let Member { engine, id, .. } = self.members.remove(at);
        self.resting.retain(|r| !has_rested(r, now_s));
        self.resting.push(Resting {
            id,
            engine,
            since_s: now_s,
        });
        self.generation += 1;
    }

    /// Whether there is such a member.
    fn set_role(&mut self, engine: &str, role: Role) -> bool {
        let Some(member) = self.members.iter_mut().find(|m| m.engine == engine) else {
            return false;
        };
        if member.role != role {
            member.role = role;
            self.generation += 1;
        }
        true
    }

    /// Its own one if that rests still, else the lowest free one, else the one that has rested longest.
    fn id_for(&self, engine: &str, now_s: u64) -> Result<u8, GroupFull> {
        let own = self.resting.iter().find(|r| r.engine == engine);
        let used: BTreeSet<u8> = self.members.iter().map(|m| m.id).collect();
        let resting = self.resting.iter().filter(|r| !has_rested(r, now_s));
        let resting: BTreeSet<u8> = resting.map(|r| r.id).collect();
        let free = || (0..MEMBERS_MAX as u8).find(|id| !used.contains(id) && !resting.contains(id));
        let longest = || {
            let by_age = self.resting.iter().min_by_key(|r| (r.since_s, r.id));
            by_age.map(|r| r.id)
        };
        let id = own.map(|r| r.id).or_else(free).or_else(longest);
        id.ok_or_else(|| GroupFull {
            lingering: self.lingering().count(),
        })
    }
}

fn lowest_free(used: &BTreeSet<u8>) -> u8 {
    (0..u8::MAX)
        .find(|slot| !used.contains(slot))
        .unwrap_or(u8::MAX)
}

fn has_rested(resting: &Resting, now_s: u64) -> bool {
    now_s >= resting.since_s + ID_REST_S
}

#[cfg(test)]
mod tests;
