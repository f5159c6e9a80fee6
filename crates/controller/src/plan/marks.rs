//! What may have to be told or placed anew, since a change seldom concerns more than the engines of one VIP.
//!
//! Marks save work and decide nothing: the reconciler looks at everything in turn too, so that a mark that is missing delays
//! by a minute at most.

use super::Tables;
use super::assignments::Assignments;
use super::compile::Parts;
use super::since::Looks;
use crate::objects::{Snapshot, Touched};
use model::view::Ref;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Engines to be told and VIPs to be placed.
#[derive(Debug, Default)]
pub(super) struct Marks {
    engines: BTreeSet<String>,
    every_engine: bool,
    vips: BTreeSet<String>,
    every_vip: bool,
    looks: Looks,
}

/// VIPs to be looked at.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Vips {
    /// All of them.
    Every,
    /// By uuid of the VsVip.
    These(BTreeSet<String>),
}

impl Marks {
    /// This engine is to be told.
    pub(super) fn engine(&mut self, engine: &str) {
        self.engines.insert(engine.to_owned());
    }

    /// Every engine is to be told.
    pub(super) fn every_engine(&mut self) {
        self.every_engine = true;
    }

    fn everything(&mut self, parts: &mut Parts) {
        (self.every_engine, self.every_vip) = (true, true);
        (self.looks.gone, self.looks.every) = (true, true);
        parts.forget_all();
    }

    /// The VIPs, which are no longer marked then.
    pub(super) fn take_vips(&mut self) -> Vips {
        let vips = std::mem::take(&mut self.vips);
        match std::mem::take(&mut self.every_vip) {
            true => Vips::Every,
            false => Vips::These(vips),
        }
    }

    /// The VIP's states may be others now.
    pub(super) fn look(&mut self, vsvip: &str) {
        self.looks.vips.insert(vsvip.to_owned());
    }

    /// Something was taken away, of which states may be kept in mind.
    pub(super) fn gone(&mut self) {
        self.looks.gone = true;
    }

    /// Where states may be others; not known any more then.
    pub(super) fn take_looks(&mut self) -> Looks {
        std::mem::take(&mut self.looks)
    }

    /// The engines, which are no longer marked then; `None`: every one.
    fn take_engines(&mut self) -> Option<BTreeSet<String>> {
        let engines = std::mem::take(&mut self.engines);
        let every = std::mem::take(&mut self.every_engine);
        (!every).then_some(engines)
    }

    /// Marks what the change of these objects concerns, and forgets the parts that were made from them.
    fn change(
        &mut self,
        touched: &Touched,
        [before, now]: [&Snapshot; 2],
        assignments: &Assignments,
        parts: &mut Parts,
    ) {
        let Touched::These(touched) = touched else {
            return self.everything(parts);
        };
        let mut found = Found::default();
        // A VsVip may have lost a VIP.
        let mut all = touched.iter();
        let was_there = |path: &str, uuid: &str| before.get(path, uuid).is_some();
        self.looks.gone |= all.any(|(path, uuid)| {
            *path == "vsvip" && was_there(path, uuid) || now.get(path, uuid).is_none()
        });
        for (path, uuid) in touched {
            for snapshot in [before, now] {
                found.follow(snapshot, path, uuid);
            }
        }
        for vsvip in &found.vips {
            self.look(vsvip);
        }
        if found.everything {
            return self.everything(parts);
        }
        for vsvip in found.vips {
            let members = assignments.get(&vsvip).map(|a| &a.group.members);
            let engines = members.into_iter().flatten().map(|m| m.engine.clone());
            self.engines.extend(engines);
            parts.forget(&vsvip);
            self.vips.insert(vsvip);
        }
    }
}

/// VIPs that depend on what was touched.
#[derive(Default)]
struct Found {
    vips: BTreeSet<String>,
    everything: bool,
    seen: BTreeSet<(&'static str, String)>,
}

impl Found {
    /// From an object to the VIPs that depend on it.
    fn follow(&mut self, snapshot: &Snapshot, path: &'static str, uuid: &str) {
        match path {
            "vsvip" => drop(self.vips.insert(uuid.to_owned())),
            "virtualservice" => self.vips.extend(vsvip_of(snapshot, uuid)),
            "pool"
            | "poolgroup"
            | "healthmonitor"
            | "networkprofile"
            | "applicationprofile"
            | "applicationpersistenceprofile"
            | "sslprofile"
            | "sslkeyandcertificate" => {
                for (user, uuid) in snapshot.referring_to(path, uuid) {
                    if self.seen.insert((user, uuid.to_owned())) {
                        self.follow(snapshot, user, uuid);
                    }
                }
            }
            // Where VIPs are placed, and how routers are reached.
            "network" => {
                for (user, uuid) in snapshot.referring_to(path, uuid) {
                    if ["vsvip", "vrfcontext"].contains(&user) {
                        self.follow(snapshot, user, uuid);
                    }
                }
            }
            path if CONCERNS_NOBODY.contains(&path) => {}
            _ => self.everything = true,
        }
    }
}

/// Types of which engines and placement know nothing.
const CONCERNS_NOBODY: [&str; 6] = [
    "user",
    "role",
    "useraccountprofile",
    "alertconfig",
    "actiongroupconfig",
    "systemconfiguration",
];

fn vsvip_of(snapshot: &Snapshot, vs: &str) -> Option<String> {
    let stored = snapshot.get("virtualservice", vs)?;
    let reference = stored.object.get("vsvip_ref").and_then(Value::as_str)?;
    Some(Ref(reference.to_owned()).uuid().to_owned())
}

/// From what engines were told last.
#[derive(Default)]
pub(super) struct Published {
    /// None before the first time.
    snapshot: Option<Arc<Snapshot>>,
    /// uuids of engines that have been without a session for a while.
    pub(super) dead: BTreeSet<String>,
    /// uuids of engines that others are to ask whether they are there.
    pub(super) away: BTreeSet<String>,
    pub(super) parts: Parts,
}

impl Tables {
    /// Marks the members of a VIP's group.
    pub(super) fn mark_members(&mut self, vsvip: &str) {
        let members = self.assignments.get(vsvip).map(|a| &a.group.members);
        let engines = members.into_iter().flatten().map(|m| m.engine.clone());
        self.marks.engines.extend(engines);
    }
}

impl super::Planner {
    /// These engines are to be told, whether or not something has changed, and from nothing that has been made before.
    pub(super) fn mark_engines(&self, engines: &[String]) {
        let mut published = self.published();
        let mut tables = self.write();
        for engine in engines {
            let here = tables.assignments.at(engine);
            here.for_each(|(vsvip, _)| published.parts.forget(vsvip));
            tables.marks.engine(engine);
        }
    }

    /// The placement of these VIPs is to be looked at, whether or not something has changed.
    pub(super) fn mark_vips(&self, vips: impl IntoIterator<Item = String>) {
        self.write().marks.vips.extend(vips);
    }

    /// The objects as of now, and the engines that are to be told; no longer marked then.
    pub(super) fn take_marks(&self, published: &mut Published) -> (Arc<Snapshot>, Vec<String>) {
        let (touched, snapshot) = self.objects.take_touched();
        let before = published.snapshot.replace(snapshot.clone());
        let (away, dead) = self.without_session(&snapshot);
        let mut tables = self.write();
        let Tables {
            marks, assignments, ..
        } = &mut *tables;
        match before {
            Some(before) => {
                let both = [&*before, &*snapshot];
                marks.change(&touched, both, assignments, &mut published.parts);
            }
            None => marks.everything(&mut published.parts),
        }
        let marked = marks.take_engines();
        let nobody_came = dead == published.dead && away == published.away;
        let marked = marked.filter(|_| nobody_came);
        (published.dead, published.away) = (dead, away);
        let engines = snapshot.all("serviceengine").map(|(uuid, _)| uuid);
        let is_marked = |uuid: &&str| marked.as_ref().is_none_or(|m| m.contains(*uuid));
        let told = engines.filter(is_marked).map(str::to_owned).collect();
        drop(tables);
        (snapshot, told)
    }
}

#[cfg(test)]
mod tests;
