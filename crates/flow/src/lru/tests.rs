//! Against a plain list, the most recently used last.

use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Get(u8),
    Insert(u8, u16),
    Remove(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..12u8).prop_map(Step::Get),
        (0..12u8, any::<u16>()).prop_map(|(key, value)| Step::Insert(key, value)),
        (0..12u8).prop_map(Step::Remove),
    ];
    proptest::collection::vec(step, 0..200)
}

fn taken(list: &mut Vec<(u8, u16)>, key: u8) -> Option<u16> {
    let at = list.iter().position(|(known, _)| *known == key)?;
    Some(list.remove(at).1)
}

fn apply(step: &Step, lru: &mut Lru<u8, u16>, list: &mut Vec<(u8, u16)>) {
    match *step {
        Step::Get(key) => {
            let value = taken(list, key);
            list.extend(value.map(|value| (key, value)));
            assert_eq!(lru.get(&key).copied(), value);
        }
        Step::Insert(key, value) => {
            taken(list, key);
            if list.len() == 5 {
                list.remove(0);
            }
            list.push((key, value));
            lru.insert(key, value);
        }
        Step::Remove(key) => assert_eq!(lru.remove(&key), taken(list, key)),
    }
}

proptest! {
    #[test]
    fn it_holds_what_a_list_of_the_last_five_holds(steps in steps()) {
        let (mut lru, mut list) = (Lru::new(5), Vec::new());
        for step in &steps {
            apply(step, &mut lru, &mut list);
            prop_assert_eq!(lru.len(), list.len());
            let held: Vec<(u8, u16)> = lru.iter().map(|(key, value)| (*key, *value)).collect();
            let mut sorted = list.clone();
            sorted.sort_unstable();
            prop_assert_eq!(held, sorted);
        }
    }
}
