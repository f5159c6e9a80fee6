//! SIGKILL of a process amid 200 commits a second.

use super::{commit, held, run};
use evenkeel_store::Sqlite;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Tells the test's own program to be the one that is killed.
const PATH: &str = "EVENKEEL_TEST_STORE_PATH";
/// How often to kill; `make soak` sets more.
const KILLS: &str = "EVENKEEL_KILLS";
const KILLS_DEFAULT: usize = 10;
const NAME: &str = "killed::every_commit_acknowledged_before_a_sigkill_is_there_and_none_by_half";
/// 200 commits a second, whether or not the ones before are answered.
const PERIOD: Duration = Duration::from_millis(5);

#[test]
fn every_commit_acknowledged_before_a_sigkill_is_there_and_none_by_half() {
    if let Ok(path) = std::env::var(PATH) {
        return run(write_until_killed(path.as_ref()));
    }
    let kills = std::env::var(KILLS).map_or(KILLS_DEFAULT, |n| n.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.db");
    let mut acknowledged = Vec::new();
    for round in 0..kills {
        // Not always at the same place between two commits, nor in the same part of the write-ahead log.
        acknowledged.extend(kill_after(&path, 20 + round * 37 % 200));
        let held = held(&Sqlite::open(&path).unwrap());
        let lost = acknowledged
            .iter()
            .filter(|n| held.binary_search(n).is_err());
        let lost: Vec<_> = lost.collect();
        assert!(lost.is_empty(), "round {round}: {lost:?} were acknowledged");
    }
    assert!(acknowledged.len() >= 20 * kills);
}

/// Runs a writer, and kills it once it has had this many commits acknowledged; gives all that were.
fn kill_after(path: &Path, count: usize) -> Vec<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(PATH, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut numbers = lines
        .map_while(Result::ok)
        .filter_map(|l| l.strip_prefix("ack ").map(|n| n.parse().unwrap()));
    let mut acknowledged: Vec<u64> = numbers.by_ref().take(count).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(acknowledged.len(), count, "the writer ended by itself");
    acknowledged.extend(numbers);
    acknowledged
}

async fn write_until_killed(path: &Path) {
    let store = Arc::new(Sqlite::open(path).unwrap());
    let first = held_first(&store);
    let mut beat = tokio::time::interval(PERIOD);
    for n in first.. {
        beat.tick().await;
        let store = store.clone();
        tokio::spawn(async move {
            commit(&*store, n, b"x").await.unwrap();
            say(n);
        });
    }
}

/// The number to go on with after the last kill.
fn held_first(store: &Arc<Sqlite>) -> u64 {
    let store = store.clone();
    let all = std::thread::spawn(move || held(&*store)).join().unwrap();
    all.last().map_or(0, |last| last + 1)
}

#[allow(
    clippy::print_stdout,
    clippy::disallowed_macros,
    reason = "the parent reads it"
)]
fn say(n: u64) {
    println!("ack {n}");
}
