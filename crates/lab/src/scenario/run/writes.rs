//! Writes to the controllers all the time, and afterwards the question what became of each: by the audit log.

use crate::fabric;
use crate::record::Record;
use crate::scenario::Writes;
use anyhow::{Context, Result, anyhow};
use client::{Client, ClientConfig};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Writers, each of which writes one object.
const WRITERS: u32 = 8;
/// How long a writer tries to reach any controller before a write counts as failed.
const RETRY_FOR: Duration = Duration::from_secs(20);
/// What the audit log says of a write: this, the writer and the number.
const MESSAGE: &str = "lab write";

/// What became of the writes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct WriteCount {
    /// Answered with success.
    pub acknowledged: u64,
    /// Answered with an error, or not at all.
    pub failed: u64,
    /// Acknowledged, and not in the log.
    pub lost: u64,
    /// In the log more than once.
    pub twice: u64,
    /// Objects whose value is not the one that was written last.
    pub stale: u64,
    /// Longest time from one acknowledged write of a writer to its next one, seconds.
    pub longest_gap_s: f64,
    /// What a failed write was told, and how often.
    pub errors: BTreeMap<String, u64>,
}

/// What one writer has done.
#[derive(Default)]
struct Written {
    object: String,
    /// By number: whether it was acknowledged.
    writes: Vec<bool>,
    longest_gap: Duration,
    errors: BTreeMap<String, u64>,
}

/// Writers at work.
pub(super) struct Writers {
    threads: Vec<JoinHandle<Result<Written>>>,
    stop: Arc<AtomicBool>,
    client: ClientConfig,
    namespace: String,
}

impl Writers {
    pub(super) fn start(record: &Record, load: &Writes) -> Result<Self> {
        let context = record.client_context()?;
        let netns = context.netns.clone();
        let config = context.config(RETRY_FOR);
        let prepared = fabric::inside(&netns, || prepare(&config))??;
        let stop = Arc::new(AtomicBool::new(false));
        let pause = Duration::from_secs(1) * WRITERS / load.per_s.max(1);
        let threads = prepared.into_iter().map(|(client, object)| {
            let (namespace, stop) = (netns.clone(), stop.clone());
            thread::spawn(move || {
                fabric::inside(&namespace, || write_all(client, object, pause, &stop))
            })
        });
        Ok(Self {
            threads: threads.collect(),
            stop,
            client: config,
            namespace: netns,
        })
    }

    /// Ends them, and looks for every write.
    pub(super) fn finish(self) -> Result<WriteCount> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads {
            let written = thread.join().map_err(|_| anyhow!("a writer panicked"))?;
            all.push(written.context("a writer")?);
        }
        fabric::inside(&self.namespace, || count(self.client, &all))?
    }
}

/// For each writer a client that has logged in, and the uuid of its object.
fn prepare(config: &ClientConfig) -> Result<Vec<(Client, String)>> {
    let one = |n| {
        let client = Client::connect(config.clone())?;
        let made = client.post("/api/pool", &json!({ "name": format!("written-{n}") }))?;
        let uuid = made["uuid"].as_str().context("a pool without uuid")?;
        Ok((client, uuid.to_owned()))
    };
    (0..WRITERS).map(one).collect()
}

#[expect(clippy::disallowed_methods, reason = "the pace of the writes")]
fn write_all(mut client: Client, object: String, pause: Duration, stop: &AtomicBool) -> Written {
    let path = format!("/api/pool/{object}");
    let mut written = Written {
        object,
        ..Written::default()
    };
    let (mut next, mut acknowledged) = (Instant::now(), Instant::now());
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        // Writes that could not be made in time are not made up for.
        next = (next + pause).max(Instant::now());
        let text = text(&written.object, written.writes.len());
        client.set_message(&text);
        match client.patch(&path, &json!({"replace": {"description": text}})) {
            Ok(_) => {
                written.longest_gap = written.longest_gap.max(acknowledged.elapsed());
                acknowledged = Instant::now();
                written.writes.push(true);
            }
            Err(error) => {
                *written.errors.entry(error.to_string()).or_default() += 1;
                written.writes.push(false);
            }
        }
    }
    written
}

fn text(object: &str, number: usize) -> String {
    format!("{MESSAGE} {object} {number}")
}

fn count(config: ClientConfig, all: &[Written]) -> Result<WriteCount> {
    let client = Client::connect(config)?;
    let mut logged: BTreeMap<String, u64> = BTreeMap::new();
    for entry in client.list_with("ek/audit", &[("type", "pool")])? {
        // What was done comes first.
        let message = entry["message"].as_str().unwrap_or_default();
        if let Some(at) = message.find(MESSAGE) {
            *logged.entry(message[at..].to_owned()).or_default() += 1;
        }
    }
    let mut count = WriteCount {
        twice: logged.values().filter(|times| **times > 1).count() as u64,
        ..WriteCount::default()
    };
    for written in all {
        let now = client.get(&format!("/api/pool/{}", written.object), &[])?;
        add(&mut count, written, &logged, &now);
    }
    Ok(count)
}

fn add(count: &mut WriteCount, written: &Written, logged: &BTreeMap<String, u64>, now: &Value) {
    let is_logged = |n: usize| logged.contains_key(&text(&written.object, n));
    let number = |matching: &dyn Fn(usize, bool) -> bool| {
        let all = written.writes.iter().enumerate();
        all.filter(|(n, ok)| matching(*n, **ok)).count() as u64
    };
    count.acknowledged += number(&|_, ok| ok);
    count.failed += number(&|_, ok| !ok);
    count.lost += number(&|n, ok| ok && !is_logged(n));
    let last = (0..written.writes.len()).rev().find(|n| is_logged(*n));
    let newest = last.map(|n| text(&written.object, n));
    count.stale += u64::from(newest.as_deref() != now["description"].as_str());
    count.longest_gap_s = count.longest_gap_s.max(written.longest_gap.as_secs_f64());
    for (error, times) in &written.errors {
        *count.errors.entry(error.clone()).or_default() += times;
    }
}

/// What is wrong with it.
pub(super) fn violations(count: &WriteCount, load: &Writes) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut check = |bad: bool, text: String| wrong.extend(bad.then_some(text));
    check(count.acknowledged == 0, "no write was acknowledged".into());
    check(
        count.lost > 0,
        format!("{} acknowledged writes are not in the log", count.lost),
    );
    check(
        count.twice > 0,
        format!("{} writes were made twice", count.twice),
    );
    check(
        count.stale > 0,
        format!("{} objects have an older value than the log", count.stale),
    );
    if let Some(max) = load.failed_max {
        let text = format!(
            "{} writes failed (bar {max}): {:?}",
            count.failed, count.errors
        );
        check(count.failed > max, text);
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_acknowledged_and_not_in_the_log_is_lost() {
        let written = Written {
            object: "pool-1".into(),
            writes: vec![true, true, false, true, false],
            ..Written::default()
        };
        let logged = [0, 3, 4].map(|n| (text("pool-1", n), 1)).into();
        let now = json!({"description": text("pool-1", 4)});
        let mut count = WriteCount::default();
        add(&mut count, &written, &logged, &now);
        let seen = (count.acknowledged, count.failed, count.lost, count.stale);
        assert_eq!(seen, (3, 2, 1, 0));
        add(
            &mut count,
            &written,
            &logged,
            &json!({"description": text("pool-1", 3)}),
        );
        assert_eq!(count.stale, 1);
        let bars = Writes {
            per_s: 1,
            failed_max: Some(0),
        };
        assert_eq!(violations(&count, &bars).len(), 3);
    }
}
