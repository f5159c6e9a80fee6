//! Since when states have been what they are (`last_changed_time`, avi-api 10.1), as far as this controller has seen since its
//! start.
//!
//! Every half second ([`super::scaling::run`]) the words of what has news are looked at: of VIPs that were written or placed, and
//! of what engines say otherwise than before. Readers of the API keep nothing in mind here, so that one who is late does no
//! harm; where the word that a reader has is another one than was seen last, it is not known since when it is so.

use super::assignments::{Assignment, Assignments};
use super::reconcile::VIPS_AT_ONCE;
use super::runtime::{Observer, Sheet};
use super::{Action, Planner, situation};
use crate::clock::now_us;
use crate::engines::news::News;
use crate::objects::{Snapshot, pools};
use model::view::{VirtualService, VsVip};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What has a word for its state; by uuid.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Thing {
    /// A service engine.
    Engine(String),
    /// A virtual service.
    Service(String),
    /// A virtual service on this engine.
    ServiceAt(String, String),
    /// The VIP of this `vip_id` of a virtual service.
    Vip(String, String),
    /// A pool.
    Pool(String),
}

impl Thing {
    fn is_there(&self, snapshot: &Snapshot, assignments: &Assignments) -> bool {
        let has = |path: &str, uuid: &str| snapshot.get(path, uuid).is_some();
        match self {
            Self::Engine(se) => has("serviceengine", se),
            Self::Service(vs) => has("virtualservice", vs),
            Self::ServiceAt(vs, se) => {
                let vsvip = vsvip_of(snapshot, vs);
                let assignment = vsvip.and_then(|vsvip| assignments.get(&vsvip));
                has("serviceengine", se) && assignment.is_some_and(|a| a.is_at(se))
            }
            Self::Vip(vs, id) => has_vip(snapshot, vs, id).unwrap_or(false),
            Self::Pool(pool) => has("pool", pool),
        }
    }
}

fn has_vip(snapshot: &Snapshot, vs: &str, id: &str) -> Option<bool> {
    let vs: Arc<VirtualService> = snapshot.view("virtualservice", vs)?;
    let vsvip: Arc<VsVip> = snapshot.view("vsvip", vs.vsvip_ref.as_ref()?.uuid())?;
    Some(vsvip.vip.iter().any(|vip| vip.vip_id == id))
}

/// A word, and when it took the place of another one, if that was seen.
#[derive(Debug)]
struct Seen {
    word: String,
    changed_us: Option<u64>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Since(Mutex<BTreeMap<Thing, Seen>>);

impl Since {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Thing, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Microseconds since 1970 since which the thing has had this word.
    pub(super) fn of(&self, thing: &Thing, word: &str) -> Option<u64> {
        let all = self.all();
        let seen = all.get(thing).filter(|seen| seen.word == word)?;
        seen.changed_us
    }

    /// The things have these words now.
    fn see(&self, words: Vec<(Thing, String)>, now_us: u64) {
        let mut all = self.all();
        for (thing, word) in words {
            match all.get_mut(&thing) {
                Some(seen) if seen.word == word => {}
                Some(seen) => {
                    let changed_us = Some(now_us);
                    *seen = Seen { word, changed_us };
                }
                None => {
                    let changed_us = None;
                    all.insert(thing, Seen { word, changed_us });
                }
            }
        }
    }

    /// Forgets what is not there any more.
    fn keep(&self, snapshot: &Snapshot, assignments: &Assignments) {
        let mut all = self.all();
        all.retain(|thing, _| thing.is_there(snapshot, assignments));
    }
}

/// Where words may have changed by what was written.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// uuids of VsVips.
    pub vips: BTreeSet<String>,
    /// All VIPs that are placed, and all engines.
    pub every: bool,
    /// Something was taken away, of which words may be kept in mind.
    pub gone: bool,
}

impl Planner {
    /// Looks at what has news.
    pub(super) async fn look_at_news(&self) {
        let looks = self.write().marks.take_looks();
        let news = self.registry.take_news();
        let snapshot = self.objects.snapshot();
        if looks.gone {
            self.forget_gone(&snapshot);
        }
        let engines: Vec<String> = match looks.every {
            true => {
                let all = snapshot.all("serviceengine");
                all.map(|(uuid, _)| uuid.to_owned()).collect()
            }
            false => news.engines.iter().cloned().collect(),
        };
        let (vips, mut pools) = self.concerned(&snapshot, looks, news);
        for some in vips.chunks(VIPS_AT_ONCE) {
            pools.extend(pools_of(&snapshot, some));
            tokio::task::yield_now().await;
        }
        self.look_at_engines(&snapshot, &engines);
        self.look_at_vips(&snapshot, &vips).await;
        self.look_at_pools(&snapshot, &pools);
    }

    /// Forgets what was kept in mind of what is not there any more.
    fn forget_gone(&self, snapshot: &Snapshot) {
        let assignments = self.read().assignments.clone();
        self.since.keep(snapshot, &assignments);
        let is_there = |vsvip: &str| snapshot.get("vsvip", vsvip).is_some();
        let mut tables = self.write();
        tables.last.keep(is_there);
        tables.failures.retain(|(vsvip, _), _| is_there(vsvip));
    }

    /// uuids of the VsVips and pools whose words may have changed.
    fn concerned(
        &self,
        snapshot: &Snapshot,
        looks: Looks,
        news: News,
    ) -> (Vec<String>, BTreeSet<String>) {
        let (mut vips, mut pools) = (looks.vips, BTreeSet::new());
        let tables = self.read();
        if looks.every {
            let all = tables.assignments.iter();
            vips.extend(all.map(|(vsvip, _)| vsvip.to_owned()));
        }
        let held = news.engines.iter();
        let held = held.flat_map(|se| tables.assignments.at(se));
        vips.extend(held.map(|(vsvip, _)| vsvip.to_owned()));
        for uuid in news.objects {
            if uuid.starts_with("virtualservice-") {
                vips.extend(vsvip_of(snapshot, &uuid));
            } else if uuid.starts_with("vsvip-") {
                vips.insert(uuid);
            } else {
                pools.insert(uuid);
            }
        }
        (vips.into_iter().collect(), pools)
    }

    fn look_at_engines(&self, snapshot: &Snapshot, engines: &[String]) {
        let observer = self.observer(snapshot);
        let there = engines.iter();
        let there = there.filter(|se| snapshot.get("serviceengine", se).is_some());
        let words = there.map(|se| {
            let word = observer.engine_word(&self.registry.get(se));
            (Thing::Engine(se.clone()), word)
        });
        self.since.see(words.collect(), now_us());
    }

    async fn look_at_vips(&self, snapshot: &Snapshot, vips: &[String]) {
        let assignments = self.read().assignments.clone();
        let placed = vips.iter().filter_map(|vsvip| assignments.get(vsvip));
        let engines: BTreeSet<&str> = placed
            .flat_map(|a| a.engines.iter().map(String::as_str))
            .collect();
        let states = engines.into_iter().map(|se| (se, self.registry.get(se)));
        let states: BTreeMap<&str, _> = states.collect();
        let sheets = states.iter().map(|(se, state)| (*se, Sheet::of(state)));
        let sheets: BTreeMap<&str, Sheet<'_>> = sheets.collect();
        for some in vips.chunks(VIPS_AT_ONCE) {
            self.look_at_some(snapshot, some, &assignments, &sheets);
            tokio::task::yield_now().await;
        }
    }

    fn look_at_some(
        &self,
        snapshot: &Snapshot,
        vips: &[String],
        assignments: &Assignments,
        sheets: &BTreeMap<&str, Sheet<'_>>,
    ) {
        let observer = self.observer(snapshot);
        for uuid in vips {
            let Some(vsvip) = snapshot.view::<VsVip>("vsvip", uuid) else {
                continue;
            };
            let nowhere = Assignment::default();
            let assignment = assignments.get(uuid).unwrap_or(&nowhere);
            let words = observer.words(&vsvip, assignment, sheets);
            for (thing, word) in &words {
                if let (Thing::ServiceAt(_, se), "OPER_UP") = (thing, word.as_str()) {
                    self.step_ended(uuid, &[Action::InitialPlacement, Action::SeRemoved], se);
                }
            }
            self.since.see(words, now_us());
        }
    }

    fn look_at_pools(&self, snapshot: &Snapshot, pools: &BTreeSet<String>) {
        if pools.is_empty() {
            return;
        }
        let words = self.observer(snapshot).pool_words(pools);
        self.since.see(words, now_us());
    }

    /// Who looks at everything now.
    pub(super) fn observer<'a>(&'a self, snapshot: &'a Snapshot) -> Observer<'a> {
        Observer {
            snapshot,
            registry: &self.registry,
            planner: self,
        }
    }
}

fn vsvip_of(snapshot: &Snapshot, vs: &str) -> Option<String> {
    let vs: Arc<VirtualService> = snapshot.view("virtualservice", vs)?;
    Some(vs.vsvip_ref.as_ref()?.uuid().to_owned())
}

/// Of the virtual services of these VIPs.
fn pools_of(snapshot: &Snapshot, vips: &[String]) -> BTreeSet<String> {
    let services = vips.iter();
    let services = services.flat_map(|vsvip| situation::services_of(snapshot, vsvip));
    services.flat_map(|vs| pools::of(snapshot, &vs)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, v4};
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn what_is_deleted_is_forgotten() {
        let fixture = Fixture::new().await;
        fixture.planner.look_at_news().await;
        let vs = fixture.uuid("virtualservice", "vs-1");
        let things = || {
            fixture
                .planner
                .since
                .all()
                .keys()
                .cloned()
                .collect::<Vec<_>>()
        };
        let kept = things();
        let engine = Thing::Engine(fixture.engine.clone());
        let expected = [
            engine.clone(),
            Thing::Service(vs.clone()),
            Thing::ServiceAt(vs.clone(), fixture.engine.clone()),
            Thing::Vip(vs.clone(), "1".into()),
        ];
        assert_eq!(kept, expected);
        fixture.delete("virtualservice", &vs).await;
        fixture.planner.publish();
        fixture.planner.look_at_news().await;
        assert_eq!(things(), [engine]);
    }

    #[tokio::test]
    async fn what_an_engine_has_left_is_forgotten() {
        let fixture = Fixture::new().await;
        fixture.planner.look_at_news().await;
        let is_anywhere = || {
            let all = fixture.planner.since.all();
            all.keys().any(|t| matches!(t, Thing::ServiceAt(..)))
        };
        assert!(is_anywhere());
        let (vsvip, engine) = (&fixture.vsvip, &fixture.engine);
        let off = fixture.planner.end(vsvip, engine, Vec::new(), "off".into());
        off.await.expect("written");
        fixture.planner.look_at_news().await;
        assert!(!is_anywhere());
    }

    #[tokio::test]
    async fn what_was_refused_of_a_vip_is_forgotten_with_it() {
        let fixture = Fixture::new().await;
        let vip = json!([{"vip_id": "1", "ip_address": v4("10.100.0.2")}]);
        let body = json!({"name": "vip-2", "vip": vip});
        let vsvip = fixture.create("vsvip", body).await;
        fixture
            .planner
            .note(&vsvip, Action::ScaleOut, Err("for this test"));
        let is_kept = || !fixture.planner.read().failures.is_empty();
        fixture.planner.publish();
        fixture.planner.look_at_news().await;
        assert!(is_kept());
        fixture.delete("vsvip", &vsvip).await;
        fixture.planner.publish();
        fixture.planner.look_at_news().await;
        assert!(!is_kept());
    }

    #[test]
    fn a_word_is_dated_by_the_change_and_another_word_than_was_seen_by_nothing() {
        let since = Since::default();
        let pool = Thing::Pool("pool-1".into());
        let see = |word: &str, now_us| since.see(vec![(pool.clone(), word.to_owned())], now_us);
        see("OPER_DOWN", 1);
        assert_eq!(since.of(&pool, "OPER_DOWN"), None);
        see("OPER_UP", 2);
        see("OPER_UP", 3);
        assert_eq!(since.of(&pool, "OPER_UP"), Some(2));
        assert_eq!(since.of(&pool, "OPER_DOWN"), None, "a reader who is late");
    }
}
