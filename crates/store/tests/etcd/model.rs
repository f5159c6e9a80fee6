//! Random operations, beside the store in memory.

use super::leading;
use super::server::{Server, run};
use evenkeel_store::{Etcd, Expect, Memory, Meta, Op, Recode, Store, StoreError};
use proptest::prelude::*;
use std::fmt::Debug;
use std::sync::{Arc, LazyLock};

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<(u8, Option<u8>, u8)>),
    /// Many keys, so that it takes several transactions.
    Large(u8, bool),
    Compact(u8),
    Recode(u8, u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = (0..5u8, prop::option::weighted(0.7, any::<u8>()), 0..6u8);
    let step = prop_oneof![
        8 => prop::collection::vec(write, 0..4).prop_map(Step::Commit),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(byte, put)| Step::Large(byte, put)),
        1 => any::<u8>().prop_map(Step::Compact),
        1 => (any::<u8>(), 1..4u8).prop_map(|(after, limit)| Step::Recode(after, limit)),
    ];
    prop::collection::vec(step, 1..25)
}

fn meta() -> Meta {
    Meta {
        who: "w".into(),
        from: "f".into(),
        message: "m".into(),
    }
}

async fn ops_of(step: &Step, memory: &Memory) -> Vec<Op> {
    let mut ops: Vec<Op> = Vec::new();
    match step {
        Step::Commit(writes) => {
            for (key, value, expect) in writes {
                let key = format!("/k/{key}");
                let actual = memory.get(&key).await.unwrap().map(|e| e.revision);
                let expect = match expect {
                    0 => Expect::Absent,
                    1 => Expect::Revision(actual.unwrap_or(7)),
                    _ => Expect::Any,
                };
                let twice = ops.iter().any(|op| op.key == key);
                // The last write of a key in a commit is no deletion: Memory keeps the value before it.
                let value = value.or(twice.then_some(0)).map(|byte| vec![b'a', byte]);
                ops.push(Op { key, value, expect });
            }
        }
        Step::Large(byte, is_put) => ops.extend((0..60).map(|n| Op {
            key: format!("/k/{n}"),
            value: is_put.then(|| vec![b'a', *byte, n]),
            expect: Expect::Any,
        })),
        Step::Compact(_) | Step::Recode(..) => {}
    }
    ops
}

/// Both say the same, but for the time.
fn same<T: Debug>(what: &str, one: Result<T, StoreError>, other: Result<T, StoreError>) {
    let text = |result: Result<T, StoreError>| match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => error.to_string(),
    };
    let timeless = |text: String| {
        let mut parts = text.split("time_us: ");
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |all, part| {
            all + part.trim_start_matches(|c: char| c.is_ascii_digit())
        })
    };
    assert_eq!(timeless(text(one)), timeless(text(other)), "{what}");
}

fn form() -> Recode {
    Arc::new(|_, value| {
        let rest = value.strip_prefix(b"a")?;
        Some([b"z", rest].concat())
    })
}

async fn compare(memory: &Memory, etcd: &Etcd) {
    let newest = *memory.revision().borrow();
    assert_eq!(*etcd.revision().borrow(), newest);
    same("list", memory.list("/k/").await, etcd.list("/k/").await);
    same(
        "log",
        memory.log("/k/1", newest, 3).await,
        etcd.log("/k/1", newest, 3).await,
    );
    same(
        "all",
        memory.log("", u64::MAX, 99).await,
        etcd.log("", u64::MAX, 99).await,
    );
    for key in ["/k/0", "/k/1", "/k/59", "/none"] {
        same(key, memory.get(key).await, etcd.get(key).await);
        for limit in [1, 99] {
            same(
                key,
                memory.history(key, limit).await,
                etcd.history(key, limit).await,
            );
        }
    }
    for revision in 0..=newest + 1 {
        let what = format!("at {revision}");
        same(
            &what,
            memory.read_commit(revision).await,
            etcd.read_commit(revision).await,
        );
        same(
            &what,
            memory.get_at("/k/1", revision).await,
            etcd.get_at("/k/1", revision).await,
        );
        for limit in [0, 1, 5, 999] {
            same(
                &what,
                memory.changes(revision, limit).await,
                etcd.changes(revision, limit).await,
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn it_does_what_the_store_in_memory_does(steps in steps()) {
        // One of its own: it compacts etcd's history all the time.
        static SERVER: LazyLock<Option<Server>> = LazyLock::new(|| Server::start(&[]));
        let Some(server) = &*SERVER else { return Ok(()) };
        run(async {
            let memory = Memory::default();
            let (etcd, _leadership) = leading(&server.fresh(), "me").await;
            for step in &steps {
                match step {
                    Step::Compact(before) => {
                        let before = u64::from(*before) % (*memory.revision().borrow() + 2);
                        same("compact", memory.compact(before).await, etcd.compact(before).await);
                    }
                    Step::Recode(after, limit) => {
                        let after = u64::from(*after) % (*memory.revision().borrow() + 2);
                        let limit = usize::from(*limit);
                        same("recode", memory.recode(after, limit, form()).await, etcd.recode(after, limit, form()).await);
                    }
                    Step::Commit(_) | Step::Large(..) => {
                        let ops = ops_of(step, &memory).await;
                        same("commit", memory.commit(ops.clone(), meta()).await, etcd.commit(ops, meta()).await);
                    }
                }
            }
            compare(&memory, &etcd).await;
        });
    }
}
