//! A controller that is killed again and again while it is written to: every write that was acknowledged is there, none is
//! half there, and engines notice no more than that their session ends and is back.
//!
//! Each writer changes a pair of pools together, to a number that grows; what is found after a kill must be the same
//! number in both, not below the last that was acknowledged and not above the last that was asked for.

use super::fleet::{Fleet, TIMEOUT};
use super::load::Load;
use super::process::Process;
use super::{ms, temporary};
use crate::report::{self, Bar, Reading};
use anyhow::{Context, Result, ensure};
use cli::output::Format;
use client::Client;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Together they write 200 times a second.
const WRITERS: usize = 8;
const WRITE_EVERY: Duration = Duration::from_millis(40);
/// Acknowledged writes between two kills, at least.
const WRITES_BETWEEN: u64 = 50;
const ENGINES: usize = 8;
const SERVICES: usize = 40;
const SCALEOUT: usize = 2;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// How often the controller is killed.
    #[arg(long, default_value_t = 10)]
    kills: usize,
    /// Where the controller's data folder is made.
    #[arg(long, default_value = "/var/tmp")]
    folder: PathBuf,
}

/// Kills, looks and prints; fails when something is lost.
pub(crate) fn show(args: &Args, output: Format) -> Result<()> {
    let rows = run(args)?;
    report::print(&rows, output);
    report::judge(&rows, false)
}

/// What was found after the kills.
#[derive(Default)]
struct Found {
    acknowledged: u64,
    gone: u64,
    half: u64,
    never_asked: u64,
    back_ms: Vec<f64>,
}

fn run(args: &Args) -> Result<Vec<Reading>> {
    let folder = temporary(&args.folder)?;
    let mut process = Process::start(&folder.path().join("data"))?;
    let fleet = Fleet::join(&process, ENGINES)?;
    let client = process.client()?;
    let load = Load::new(&client, SCALEOUT)?;
    load.fill(SERVICES)?;
    fleet.wait_for_vips(SERVICES * SCALEOUT)?;
    let writers = (0..WRITERS)
        .map(|number| Writer::new(process.client()?, number))
        .collect::<Result<Vec<_>>>()?;
    fleet.watch_for_losses();
    let work = Work::default();
    let mut found = Found::default();
    let killed = std::thread::scope(|scope| {
        for writer in &writers {
            scope.spawn(|| writer.run(&work));
        }
        let killed = kill_often(
            args.kills,
            &mut process,
            &fleet,
            &writers,
            &work,
            &mut found,
        );
        work.stop();
        killed
    });
    killed?;
    Ok(judged(args, &found, fleet.losses()))
}

fn kill_often(
    kills: usize,
    process: &mut Process,
    fleet: &Fleet,
    writers: &[Writer],
    work: &Work,
    found: &mut Found,
) -> Result<()> {
    for kill in 1..=kills {
        let enough = work.acknowledged.load(SeqCst) + WRITES_BETWEEN;
        let written = lab::process::wait_for(TIMEOUT, || work.acknowledged.load(SeqCst) >= enough);
        ensure!(written, "the writers do not get on");
        process.end(Signal::SIGKILL)?;
        let began = Instant::now();
        process.start_again()?;
        fleet.wait_for_sessions(TIMEOUT)?;
        found.back_ms.push(ms(began.elapsed()));
        // Nobody writes while it is looked.
        let _alone = work.turn.write().unwrap_or_else(PoisonError::into_inner);
        for writer in writers {
            writer.look(found)?;
        }
        found.acknowledged = work.acknowledged.load(SeqCst);
        cli::note!(
            "kill {kill} of {kills}: {} writes acknowledged, {} of them gone, {} half there",
            found.acknowledged,
            found.gone,
            found.half
        );
    }
    Ok(())
}

fn judged(args: &Args, found: &Found, losses: u64) -> Vec<Reading> {
    let count =
        |what: &str, value: u64, bar: Bar| Reading::new(what, "writes", vec![value as f64], bar);
    let none = Bar::max(0.0);
    vec![
        Reading::new("kills", "times", vec![args.kills as f64], Bar::NONE),
        count("acknowledged", found.acknowledged, Bar::NONE),
        count("acknowledged, and gone after a kill", found.gone, none),
        count("half there after a kill", found.half, none),
        count("there, and never asked for", found.never_asked, none),
        Reading::new(
            "states told to engines that lack what they had",
            "states",
            vec![losses as f64],
            none,
        ),
        Reading::new(
            "start after a kill, until every engine has its session",
            "ms",
            found.back_ms.clone(),
            Bar::NONE,
        ),
    ]
}

/// What the writers have in common.
#[derive(Default)]
struct Work {
    acknowledged: AtomicU64,
    /// Held for reading by each write.
    turn: RwLock<()>,
    stopped: Mutex<bool>,
    bell: Condvar,
}

impl Work {
    fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.bell.notify_all();
    }

    /// Waits for the next write's time; false when there is to be none.
    fn wait(&self) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .bell
            .wait_timeout_while(stopped, WRITE_EVERY, |stopped| !*stopped);
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Changes its two pools together.
struct Writer {
    client: Client,
    pools: [String; 2],
    asked: AtomicU64,
    acknowledged: AtomicU64,
}

impl Writer {
    fn new(client: Client, number: usize) -> Result<Self> {
        let pool = |half: &str| -> Result<String> {
            let body = json!({"name": format!("writer-{number}-{half}")});
            let made = client.post("/api/pool", &body)?;
            Ok(made["uuid"].as_str().context("no uuid")?.to_owned())
        };
        Ok(Self {
            pools: [pool("a")?, pool("b")?],
            client,
            asked: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
        })
    }

    fn run(&self, work: &Work) {
        while work.wait() {
            let _turn = work.turn.read().unwrap_or_else(PoisonError::into_inner);
            let number = self.asked.fetch_add(1, SeqCst) + 1;
            // Without an answer it may or may not be there.
            if self.write(number).is_ok() {
                self.acknowledged.store(number, SeqCst);
                work.acknowledged.fetch_add(1, SeqCst);
            }
        }
    }

    fn write(&self, number: u64) -> client::Result<Value> {
        // The name is not there: it stays.
        let object = json!({"max_concurrent_connections_per_server": number});
        let write = |uuid| json!({"type": "pool", "uuid": uuid, "object": object});
        let writes: Vec<Value> = self.pools.iter().map(write).collect();
        self.client
            .post("/api/ek/change", &json!({ "writes": writes }))
    }

    fn look(&self, found: &mut Found) -> Result<()> {
        let value = |uuid: &String| -> Result<u64> {
            let pool = self.client.get(&format!("/api/pool/{uuid}"), &[])?;
            let number = pool["max_concurrent_connections_per_server"].as_u64();
            Ok(number.unwrap_or(0))
        };
        let [a, b] = [value(&self.pools[0])?, value(&self.pools[1])?];
        found.half += u64::from(a != b);
        found.gone += u64::from(a < self.acknowledged.load(SeqCst));
        found.never_asked += u64::from(a > self.asked.load(SeqCst));
        Ok(())
    }
}
