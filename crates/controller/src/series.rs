//! Time series of what engines count (avi-api section 11), in fixed memory.
//!
//! | step | kept | for |
//! | --- | --- | --- |
//! | 5 s | an hour | the entities that somebody asks for: from the first question on, until nobody has asked for 15 minutes; 64 of them at most, and one that nobody has asked for a minute gives way |
//! | 300 s | 12 hours | all |
//! | 3600 s | 7 days | all |
//!
//! Rows are kept by column (`table`), and a column in which all figures are alike takes no room: responses of what is
//! not HTTP, connections dropped where none is, a health score that does not change, all of an entity without traffic. One
//! that varies takes 4 bytes a row, 1.2 KB for 300 s and 3600 s, 2.9 KB in real time:
//!
//! | of | columns | at most | with traffic, mostly |
//! | --- | --- | --- | --- |
//! | a virtual service | 13 | 16 KB | 6.2 KB (5 columns); with HTTP 10 KB (8: responses, two classes of them) |
//! | a pool | 5 | 6.2 KB | 6.2 KB |
//! | an engine | 20 | 25 KB | 25 KB |
//! | the controller | 3 | 3.7 KB | 3.7 KB |
//!
//! 5,000 virtual services with as many pools, all with traffic, are 62 MB; of HTTP 81 MB, and 112 MB at most. In real time,
//! 37 KB come to a virtual service at most, 58 KB to an engine.
//!
//! Nothing is written down: after a restart series begin anew. Counters are compared with those of the report before;
//! what an engine has counted while it had no session is left out, because nobody knows when that was.

mod counters;
mod host;
pub mod metric;
mod process;
mod table;

pub use metric::Kind;
pub use process::resident_bytes;

use counters::{Counters, counted};
use metric::Figures;
use process::Process;
use proto::v1::{EngineLoad, Report};
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use table::Table;

/// Step of what is asked for in real time, in seconds.
pub const REAL_TIME_S: u64 = 5;
/// The steps of what is kept of all, in seconds.
pub const STEPS_S: [u64; 2] = [300, 3600];
/// Rows of 5 s, 300 s, 3600 s.
const ROWS: [usize; 3] = [720, 144, 168];
/// Entities in real time at the same time.
const REAL_TIME_MAX: usize = 64;
/// Nobody has asked for so long: another one may take the place in real time.
const GIVES_WAY_S: u64 = 60;
/// Nobody has asked for so long: real time ends.
const REAL_TIME_IDLE_S: u64 = 900;

/// uuid of the controller among the entities: there is one.
pub const CONTROLLER: &str = "controller";

/// Figures of one step, the oldest first; none where nothing was reported.
pub type Rows = Vec<(u64, Option<Vec<f32>>)>;

/// What an engine has told last.
struct Told {
    /// By kind and uuid.
    counters: HashMap<(Kind, String), Counters>,
    load: Option<EngineLoad>,
}

impl Told {
    /// What has come since. What is new on an engine that has reported before has begun at nothing.
    fn difference(&self, key: &(Kind, String), counters: &Counters) -> Figures {
        match self.counters.get(key) {
            Some(old) => counters.since(old, key.0),
            None => counters.since(&Counters::nothing(), key.0),
        }
    }
}

/// One step that is being filled.
#[derive(Debug, Default)]
struct Filling {
    /// Which: its time divided by the step.
    slot: u64,
    /// Since when, in seconds: an entity may be new.
    since_s: u64,
    figures: Figures,
    /// Something was reported.
    seen: bool,
}

struct Entity {
    kind: Kind,
    fillings: [Filling; 3],
    real_time: Option<Table>,
    asked_s: u64,
    kept: [Table; 2],
    /// Connections open at all engines.
    open: u64,
    /// Health score of a virtual service, as of the last look.
    score: f32,
}

impl Entity {
    fn new(kind: Kind, now_s: u64) -> Self {
        let filling = |step_s: u64| Filling {
            slot: now_s / step_s,
            since_s: now_s,
            ..Filling::default()
        };
        Self {
            kind,
            fillings: [
                filling(REAL_TIME_S),
                filling(STEPS_S[0]),
                filling(STEPS_S[1]),
            ],
            real_time: None,
            asked_s: 0,
            kept: [Table::new(ROWS[1]), Table::new(ROWS[2])],
            open: 0,
            score: 0.0,
        }
    }

    /// Closes the steps that are over.
    fn roll(&mut self, now_s: u64) {
        let steps = [REAL_TIME_S, STEPS_S[0], STEPS_S[1]];
        for (i, step_s) in steps.into_iter().enumerate() {
            let slot = now_s / step_s;
            if slot <= self.fillings[i].slot {
                continue;
            }
            let next = Filling {
                slot,
                since_s: slot * step_s,
                ..Filling::default()
            };
            let filling = std::mem::replace(&mut self.fillings[i], next);
            let table = match i {
                0 => self.real_time.as_mut(),
                kept => self.kept.get_mut(kept - 1),
            };
            if let Some(table) = table.filter(|_| filling.seen) {
                let ends_s = (filling.slot + 1) * step_s;
                let lasted_s = ends_s.saturating_sub(filling.since_s).clamp(1, step_s);
                let row = filling.figures.row(self.kind, lasted_s, self.score);
                table.push(filling.slot, &row);
            }
        }
    }

    fn add(&mut self, figures: &Figures) {
        for filling in &mut self.fillings {
            filling.figures.add(figures);
            filling.seen = true;
        }
    }
}

struct Inner {
    /// Boxed, so that a table that grows moves little, and its free places take little.
    entities: HashMap<(Kind, String), Box<Entity>>,
    /// Those with a session.
    engines: HashMap<String, Told>,
    /// In real time, and some that were until a moment ago.
    watched: HashSet<(Kind, String)>,
    process: Process,
    /// When [`Series::tick`] looked last.
    looked_s: u64,
}

/// See the module's documentation.
pub struct Series(Mutex<Inner>);

impl Default for Series {
    fn default() -> Self {
        Self(Mutex::new(Inner {
            entities: HashMap::new(),
            engines: HashMap::new(),
            watched: HashSet::new(),
            process: Process::default(),
            looked_s: 0,
        }))
    }
}

impl Series {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An engine says what it has counted.
    pub fn report(&self, se: &str, report: &Report, now_s: u64) {
        let mut inner = self.lock();
        let before = inner.engines.remove(se);
        let mut now = HashMap::new();
        let mut all = Figures::default();
        for (kind, uuid, counters) in counted(report) {
            let key = (kind, uuid.to_owned());
            let difference = before.as_ref().map(|told| told.difference(&key, &counters));
            let difference = difference.unwrap_or_default();
            if kind == Kind::VirtualService {
                all.add(&difference);
                all.open += counters.open;
            }
            let old = before.as_ref().and_then(|told| told.counters.get(&key));
            let open = (old.map_or(0, |old| old.open), counters.open);
            inner.add(&key, open, difference, now_s);
            now.insert(key, counters);
        }
        let load = before.as_ref().and_then(|told| told.load);
        let gone = before.into_iter().flat_map(|told| told.counters);
        for (key, old) in gone.filter(|(key, _)| !now.contains_key(key)) {
            inner.add(&key, (old.open, 0), Figures::default(), now_s);
        }
        let stats = report.stats.unwrap_or_default();
        all.host = Some(Box::new(host::carried(&stats, load)));
        let engine = inner.entity(&(Kind::ServiceEngine, se.to_owned()), now_s);
        engine.add(&all);
        let told = Told {
            counters: now,
            load: stats.load,
        };
        inner.engines.insert(se.to_owned(), told);
    }

    /// The engine has no session: what it counts from now on is not seen.
    pub fn lost(&self, se: &str) {
        let mut inner = self.lock();
        let told = inner.engines.remove(se);
        for (key, counters) in told.into_iter().flat_map(|told| told.counters) {
            if let Some(entity) = inner.entities.get_mut(&key) {
                entity.open = entity.open.saturating_sub(counters.open);
            }
        }
    }

    /// Closes what is over, and counts what the controller itself needs. `look` gives the health score of a virtual
    /// service, any number for others, and nothing for what does not exist any more, which is forgotten.
    pub fn tick(&self, now_s: u64, look: &dyn Fn(Kind, &str) -> Option<f32>) {
        let mut inner = self.lock();
        // A clock that was set back is waited for by nobody.
        if (inner.looked_s..inner.looked_s + REAL_TIME_S).contains(&now_s) {
            return;
        }
        inner.looked_s = now_s;
        if let Some(figures) = inner.process.look(now_s) {
            let controller = inner.entity(&(Kind::Controller, CONTROLLER.to_owned()), now_s);
            controller.add(&figures);
        }
        inner.entities.retain(|(kind, uuid), entity| {
            let score = look(*kind, uuid);
            entity.score = score.unwrap_or_default();
            entity.roll(now_s);
            let watched = entity.asked_s + REAL_TIME_IDLE_S > now_s;
            entity.real_time = entity.real_time.take().filter(|_| watched);
            score.is_some()
        });
    }

    /// Figures from this time on until that, both in seconds since 1970, of a step that is kept. In real time, this
    /// question is what makes the first of them.
    pub fn read(
        &self,
        kind: Kind,
        uuid: &str,
        step_s: u64,
        range_s: (u64, u64),
        now_s: u64,
    ) -> Rows {
        let mut inner = self.lock();
        let key = (kind, uuid.to_owned());
        let room = step_s != REAL_TIME_S || inner.makes_room(&key, now_s);
        let Some(entity) = inner.entities.get_mut(&key) else {
            return Vec::new();
        };
        let table = match step_s {
            REAL_TIME_S if room => Some(entity.watch(now_s)),
            REAL_TIME_S => None,
            step_s => {
                let kept = STEPS_S.iter().position(|s| *s == step_s);
                kept.and_then(|i| entity.kept.get(i))
            }
        };
        let slots = (range_s.0.div_ceil(step_s), range_s.1 / step_s);
        let rows = table.map(|t| t.read(slots.0, slots.1)).unwrap_or_default();
        rows.into_iter()
            .map(|(slot, row)| (slot * step_s, row))
            .collect()
    }
}

impl Series {
    /// The newest step of 300 s that is over, and when it began; nothing when none was reported in the last two of them. What
    /// is kept of all is asked: nothing begins with the question.
    pub fn newest(&self, kind: Kind, uuid: &str, now_s: u64) -> Option<(u64, Vec<f32>)> {
        let step_s = STEPS_S[0];
        // The step that has just ended may not be closed yet.
        let range_s = (now_s.saturating_sub(3 * step_s), now_s);
        let rows = self.read(kind, uuid, step_s, range_s, now_s);
        let mut known = rows.into_iter().rev();
        known.find_map(|(at_s, row)| Some((at_s, row?)))
    }
}

impl Entity {
    /// Real time.
    fn watch(&mut self, now_s: u64) -> &Table {
        self.asked_s = self.asked_s.max(now_s);
        let table = &mut self.real_time;
        table.get_or_insert_with(|| Table::new(ROWS[0]))
    }
}

impl Inner {
    /// Whether this entity may be in real time: it is, or there is room for one more, or the one that was asked for
    /// longest ago gives way.
    fn makes_room(&mut self, key: &(Kind, String), now_s: u64) -> bool {
        let entities = &mut self.entities;
        let is_watched = |key: &_| entities.get(key).is_some_and(|e| e.real_time.is_some());
        self.watched.retain(is_watched);
        let asked_s = |key: &_| entities.get(key).map_or(0, |e| e.asked_s);
        let room = self.watched.len() < REAL_TIME_MAX || self.watched.contains(key);
        let oldest = self.watched.iter().min_by_key(|key| asked_s(key)).cloned();
        let oldest = oldest.filter(|oldest| !room && asked_s(oldest) + GIVES_WAY_S <= now_s);
        let gives_way = oldest.and_then(|oldest| entities.get_mut(&oldest)?.real_time.take());
        let room = room || gives_way.is_some();
        if room && entities.contains_key(key) {
            self.watched.insert(key.clone());
        }
        room
    }

    fn entity(&mut self, key: &(Kind, String), now_s: u64) -> &mut Entity {
        if !self.entities.contains_key(key) {
            let entity = Box::new(Entity::new(key.0, now_s));
            self.entities.insert(key.clone(), entity);
        }
        let entity = self.entities.get_mut(key).expect("it is there now");
        entity.roll(now_s);
        entity
    }

    /// An engine has this difference, and so many connections open where it had so many before.
    fn add(
        &mut self,
        key: &(Kind, String),
        (was, is): (u64, u64),
        difference: Figures,
        now_s: u64,
    ) {
        let entity = self.entity(key, now_s);
        entity.open = (entity.open + is).saturating_sub(was);
        let open = entity.open;
        entity.add(&Figures { open, ..difference });
    }
}

#[cfg(test)]
mod tests;
