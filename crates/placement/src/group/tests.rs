//! Ids and generations, by cases and against a simple model.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn group_of(engines: &[&str]) -> Group {
    let mut group = Group::default();
    for engine in engines {
        group.join(engine, 0).expect("room");
    }
    group
}

fn ids(group: &Group) -> Vec<(&str, u8)> {
    let each = group.members.iter();
    each.map(|m| (m.engine.as_str(), m.id)).collect()
}

#[test]
fn ids_are_kept_while_others_come_and_go() {
    let mut group = group_of(&["a", "b", "c"]);
    assert_eq!(ids(&group), [("a", 0), ("b", 1), ("c", 2)]);
    group.leave("b", 100);
    group.join("d", 200).expect("room");
    assert_eq!(ids(&group), [("a", 0), ("c", 2), ("d", 3)]);
}

#[test]
fn a_freed_id_rests_for_ten_hours_and_goes_back_to_its_owner() {
    let mut group = group_of(&["a", "b"]);
    group.leave("b", 100);
    let mut early = group.clone();
    early.join("c", 100 + ID_REST_S - 1).expect("room");
    assert_eq!(ids(&early), [("a", 0), ("c", 2)]);
    early.join("b", 100 + ID_REST_S - 1).expect("room");
    assert_eq!(early.member("b").expect("there").id, 1);
    group.join("c", 100 + ID_REST_S).expect("room");
    assert_eq!(ids(&group), [("a", 0), ("c", 1)]);
    assert_eq!(group.resting, []);
}

#[test]
fn without_a_free_id_the_one_that_has_rested_longest_is_given() {
    let mut group = Group::default();
    for n in 0..MEMBERS_MAX {
        group.join(&format!("se-{n}"), 0).expect("room");
    }
    group.linger("se-9", 1);
    let full = group.join("late", 2).expect_err("full");
    assert_eq!(full, GroupFull { lingering: 1 });
    assert!(full.to_string().contains("64 engines"), "{full}");
    group.leave("se-9", 3);
    group.leave("se-5", 4);
    group.join("late", 5).expect("room");
    assert_eq!(group.member("late").expect("there").id, 9);
}

#[test]
fn an_engine_that_lingers_becomes_a_full_member_with_its_id() {
    let mut group = group_of(&["a", "b"]);
    group.linger("b", 50);
    let lingering: Vec<_> = group.lingering().map(|(m, s)| (m.id, s)).collect();
    assert_eq!(lingering, [(1, 50)]);
    group.linger("b", 60);
    group.disable("b", true);
    assert_eq!(
        group.lingering().next().map(|(_, s)| s),
        Some(50),
        "the first time counts"
    );
    group.join("b", 70).expect("a member already");
    assert_eq!(group.member("b").expect("there").role, Role::Serving);
    assert_eq!(ids(&group), [("a", 0), ("b", 1)]);
}

#[test]
fn the_generation_grows_with_every_change_and_with_nothing_else() {
    let mut group = group_of(&["a", "b"]);
    assert_eq!(group.generation, 2);
    type Change = fn(&mut Group);
    let changes: [(Change, u64); 8] = [
        (|g| g.join("a", 1).expect("there"), 0),
        (|g| g.disable("a", true), 1),
        (|g| g.disable("a", true), 0),
        (|g| g.disable("a", false), 1),
        (|g| g.linger("b", 1), 1),
        (|g| g.linger("b", 2), 0),
        (|g| g.leave("b", 3), 1),
        (|g| g.leave("b", 4), 0),
    ];
    for (number, (change, more)) in changes.into_iter().enumerate() {
        let before = group.generation;
        change(&mut group);
        assert_eq!(group.generation, before + more, "change {number}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Join(u8),
    Linger(u8),
    Leave(u8),
    Wait(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let engine = 0u8..80;
    prop_oneof![
        4 => engine.clone().prop_map(Step::Join),
        1 => engine.clone().prop_map(Step::Linger),
        2 => engine.prop_map(Step::Leave),
        1 => (0u32..20_000).prop_map(Step::Wait),
    ]
}

/// What was true before a step and must be true after it.
#[derive(Default)]
struct Model {
    ids: BTreeMap<String, u8>,
    /// Last owner of an id, and when it was freed.
    freed: BTreeMap<u8, (String, u64)>,
}

impl Model {
    fn check(&mut self, group: &Group, now_s: u64) -> Result<(), TestCaseError> {
        let mut seen = BTreeSet::new();
        for member in &group.members {
            prop_assert!(seen.insert(member.id), "id {} is given twice", member.id);
            prop_assert!(usize::from(member.id) < MEMBERS_MAX);
            match self.ids.get(&member.engine) {
                Some(id) => prop_assert_eq!(*id, member.id, "an id has changed"),
                None => self.check_given(group, member, now_s)?,
            }
        }
        let now: BTreeMap<String, u8> = group
            .members
            .iter()
            .map(|m| (m.engine.clone(), m.id))
            .collect();
        for (engine, id) in &self.ids {
            if !now.contains_key(engine) {
                self.freed.insert(*id, (engine.clone(), now_s));
            }
        }
        self.ids = now;
        Ok(())
    }

    fn check_given(&self, group: &Group, member: &Member, now_s: u64) -> Result<(), TestCaseError> {
        let Some((owner, at_s)) = self.freed.get(&member.id) else {
            return Ok(());
        };
        let none_free = group.members.len() + group.resting.len() >= MEMBERS_MAX;
        prop_assert!(
            *owner == member.engine || now_s >= at_s + ID_REST_S || none_free,
            "id {} was given after {} s",
            member.id,
            now_s - at_s
        );
        Ok(())
    }
}

proptest! {
    #[test]
    fn ids_are_unique_stable_and_rest(steps in proptest::collection::vec(step(), 1..400)) {
        let (mut group, mut model, mut now_s) = (Group::default(), Model::default(), 1);
        for step in steps {
            let (before, generation) = (group.members.clone(), group.generation);
            match step {
                Step::Join(n) => {
                    let new = group.member(&format!("e{n}")).is_none();
                    let full = new && group.members.len() == MEMBERS_MAX;
                    prop_assert_eq!(group.join(&format!("e{n}"), now_s).is_err(), full);
                }
                Step::Linger(n) => group.linger(&format!("e{n}"), now_s),
                Step::Leave(n) => group.leave(&format!("e{n}"), now_s),
                Step::Wait(s) => now_s += u64::from(s),
            }
            prop_assert_eq!(group.generation > generation, group.members != before);
            model.check(&group, now_s)?;
        }
    }
}

#[test]
fn a_slot_is_one_engines_as_long_as_it_is_a_member_and_the_lowest_free_one() {
    let mut group = Group::default();
    for engine in ["a", "b", "c"] {
        group.join(engine, 0).expect("room");
    }
    group.leave("a", 1);
    group.join("d", 2).expect("room");
    let slots = |group: &Group| ["a", "b", "c", "d"].map(|e| group.slot(e));
    assert_eq!(slots(&group), [None, Some(1), Some(2), Some(0)]);
    assert_eq!(group.member("d").map(|m| m.id), Some(3), "ids rest");
    group.join("a", 3).expect("room");
    assert_eq!(slots(&group), [Some(3), Some(1), Some(2), Some(0)]);
    assert_eq!(group.member("a").map(|m| m.id), Some(0));
}

#[test]
fn members_of_an_older_version_get_slots_that_they_keep() {
    let mut group = Group::default();
    for engine in ["a", "b", "c"] {
        group.join(engine, 0).expect("room");
    }
    group.members.iter_mut().for_each(|m| m.slot = None);
    let slots = |group: &Group| ["a", "b", "c", "d"].map(|e| group.slot(e));
    assert_eq!(slots(&group), [Some(0), Some(1), Some(2), None]);
    group.join("d", 1).expect("room");
    group.leave("a", 2);
    assert_eq!(slots(&group), [None, Some(1), Some(2), Some(3)]);
    group.members.iter_mut().for_each(|m| m.slot = None);
    group.leave("b", 3);
    assert_eq!(slots(&group), [None, None, Some(1), Some(2)]);
}
