//! What the store promises when things go wrong: the process is killed, the write-ahead log is torn, the disk is full.

#![allow(clippy::unwrap_used, reason = "tests")]

mod full_disk;
mod killed;
mod torn;

use evenkeel_store::{Expect, Meta, Op, Store, StoreError};

/// Commit `n` of every test here: two keys of its own and one that all share.
fn ops(n: u64, value: &[u8]) -> Vec<Op> {
    let shared = Op::put("/last", n.to_string(), Expect::Any);
    let own = ["a", "b"].map(|k| Op::put(format!("/{k}/{n}"), value, Expect::Any));
    own.into_iter().chain([shared]).collect()
}

async fn commit(store: &dyn Store, n: u64, value: &[u8]) -> Result<u64, StoreError> {
    store.commit(ops(n, value), Meta::default()).await
}

fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(future)
}

/// The numbers of the commits that the store holds. None may be there by half, in its current values or in its log.
fn held(store: &dyn Store) -> Vec<u64> {
    let numbers = |prefix: &str| -> Vec<u64> {
        let entries = run(store.list(prefix)).unwrap().entries;
        let numbers = entries.iter().map(|e| e.key[prefix.len()..].parse());
        let mut numbers: Vec<u64> = numbers.map(Result::unwrap).collect();
        numbers.sort_unstable();
        numbers
    };
    let all = numbers("/a/");
    assert_eq!(all, numbers("/b/"), "a commit is there by half");
    let log = run(store.changes(0, usize::MAX >> 1)).unwrap();
    assert_eq!(log.len(), 3 * all.len(), "log and values differ");
    all
}
