//! The store in one SQLite file: WAL with full sync, an append-only log beside the current values.
//!
//! One thread owns the connection. Commits that wait together become one transaction, each in a savepoint of
//! its own, and are answered when that transaction is on disk. The thread ends when the last handle is dropped.

pub(crate) mod backup;
mod log;
mod schema;

pub use backup::{Backup, restore};

use crate::{
    Change, Commit, Entry, Expect, Head, Listing, Meta, Op, Recode, Store, StoreError, holds,
    now_us,
};
use rusqlite::{Connection, OptionalExtension, params};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use tokio::sync::{oneshot, watch};

/// Commits that share one transaction at most: bounds the time to the first answer.
const GROUP_MAX: usize = 128;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

enum Request {
    Get(String, Reply<Option<Entry>>),
    List(String, Reply<Listing>),
    Changes(u64, usize, Reply<Vec<Change>>),
    History(String, usize, Reply<Vec<Change>>),
    Log(String, u64, usize, Reply<Vec<Head>>),
    ReadCommit(u64, Reply<Option<Commit>>),
    GetAt(String, u64, Reply<Option<Entry>>),
    Compact(u64, Reply<u64>),
    Recode(u64, usize, Recode, Reply<Option<u64>>),
    Scrub(Reply<()>),
    Commit(Vec<Op>, Meta, Reply<u64>),
}

/// See the module's documentation.
pub struct Sqlite {
    path: PathBuf,
    requests: Option<mpsc::Sender<Request>>,
    revision: watch::Receiver<u64>,
    thread: Option<JoinHandle<()>>,
}

impl Sqlite {
    /// Opens the file, and makes it (mode 0600) when it does not exist.
    ///
    /// # Errors
    /// The file cannot be opened, or was written by a newer program.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        make_private(path);
        let connection = schema::connect(path)?;
        let revision = current_revision(&connection).map_err(refused("read the revision"))?;
        let (publish, revision) = watch::channel(revision);
        let (requests, inbox) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || serve(connection, &inbox, &publish))
            .map_err(|_| StoreError::Closed)?;
        Ok(Self {
            path: path.to_owned(),
            requests: Some(requests),
            revision,
            thread: Some(thread),
        })
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or(StoreError::Closed)?;
        requests
            .send(request(reply))
            .map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for Sqlite {
    /// Waits for the thread, so that the file can be opened again at once.
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

#[async_trait::async_trait]
impl Store for Sqlite {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.ask(|reply| Request::Get(key.to_owned(), reply)).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.ask(|reply| Request::List(prefix.to_owned(), reply))
            .await
    }

    async fn commit(&self, ops: Vec<Op>, meta: Meta) -> Result<u64, StoreError> {
        self.ask(|reply| Request::Commit(ops, meta, reply)).await
    }

    async fn changes(&self, after: u64, limit: usize) -> Result<Vec<Change>, StoreError> {
        self.ask(|reply| Request::Changes(after, limit, reply))
            .await
    }

    async fn history(&self, key: &str, limit: usize) -> Result<Vec<Change>, StoreError> {
        self.ask(|reply| Request::History(key.to_owned(), limit, reply))
            .await
    }

    async fn log(&self, prefix: &str, below: u64, limit: usize) -> Result<Vec<Head>, StoreError> {
        self.ask(|reply| Request::Log(prefix.to_owned(), below, limit, reply))
            .await
    }

    async fn read_commit(&self, revision: u64) -> Result<Option<Commit>, StoreError> {
        self.ask(|reply| Request::ReadCommit(revision, reply)).await
    }

    async fn get_at(&self, key: &str, revision: u64) -> Result<Option<Entry>, StoreError> {
        self.ask(|reply| Request::GetAt(key.to_owned(), revision, reply))
            .await
    }

    async fn compact(&self, before: u64) -> Result<u64, StoreError> {
        self.ask(|reply| Request::Compact(before, reply)).await
    }

    async fn recode(
        &self,
        after: u64,
        limit: usize,
        form: Recode,
    ) -> Result<Option<u64>, StoreError> {
        self.ask(|reply| Request::Recode(after, limit, form, reply))
            .await
    }

    async fn scrub(&self) -> Result<(), StoreError> {
        self.ask(Request::Scrub).await
    }

    fn revision(&self) -> watch::Receiver<u64> {
        self.revision.clone()
    }
}

fn refused(doing: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |source| {
        if is_full(&source) {
            StoreError::Full { doing }
        } else {
            StoreError::Database { doing, source }
        }
    }
}

/// The second is what SQLite says when the index of its write-ahead log cannot grow.
fn is_full(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|e| e.extended_code);
    matches!(
        code,
        Some(rusqlite::ffi::SQLITE_FULL | rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
    )
}

/// SQLite gives its journal files the mode of the database, so one private file is enough.
fn make_private(path: &Path) {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    // An error shows again, with SQLite's own words, when the file is opened.
    options
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .ok();
}

fn current_revision(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT COALESCE(MAX(id), 0) FROM revision", [], |row| {
        row.get(0)
    })
}

fn serve(
    mut connection: Connection,
    inbox: &mpsc::Receiver<Request>,
    publish: &watch::Sender<u64>,
) {
    while let Ok(first) = inbox.recv() {
        let mut commits = Vec::new();
        let waiting = std::iter::once(first).chain(inbox.try_iter().take(GROUP_MAX));
        for request in waiting {
            match request {
                Request::Commit(ops, meta, reply) => commits.push((ops, meta, reply)),
                // A read sees the commits that were asked for before it.
                read => {
                    commit_group(&mut connection, std::mem::take(&mut commits), publish);
                    answer(&mut connection, read);
                }
            }
        }
        commit_group(&mut connection, commits, publish);
    }
}

fn answer(connection: &mut Connection, read: Request) {
    // A caller that no longer waits needs no answer.
    match read {
        Request::Get(key, reply) => {
            let entry = get(connection, &key).map_err(refused("read a key"));
            reply.send(entry).ok();
        }
        Request::List(prefix, reply) => {
            let listing = list(connection, &prefix).map_err(refused("list keys"));
            reply.send(listing).ok();
        }
        Request::Changes(after, limit, reply) => {
            reply.send(log::changes(connection, after, limit)).ok();
        }
        Request::History(key, limit, reply) => {
            let found = log::history(connection, &key, limit).map_err(refused("read the log"));
            reply.send(found).ok();
        }
        Request::Log(prefix, below, limit, reply) => {
            let heads = log::heads(connection, &prefix, below, limit);
            reply.send(heads.map_err(refused("read the log"))).ok();
        }
        Request::ReadCommit(revision, reply) => {
            reply.send(log::read_commit(connection, revision)).ok();
        }
        Request::GetAt(key, revision, reply) => {
            reply.send(log::get_at(connection, &key, revision)).ok();
        }
        Request::Compact(before, reply) => {
            let oldest = log::compact(connection, before).map_err(refused("compact the log"));
            reply.send(oldest).ok();
        }
        Request::Recode(after, limit, form, reply) => {
            let last = log::recode(connection, after, limit, &form);
            reply.send(last.map_err(refused("recode values"))).ok();
        }
        Request::Scrub(reply) => {
            let scrubbed = log::scrub(connection).map_err(refused("write the file anew"));
            reply.send(scrubbed).ok();
        }
        Request::Commit(..) => unreachable!("commits are grouped by the caller"),
    }
}

fn get(connection: &Connection, key: &str) -> rusqlite::Result<Option<Entry>> {
    let mut statement =
        connection.prepare_cached("SELECT key, value, revision FROM current WHERE key = ?1")?;
    statement.query_row([key], entry_of).optional()
}

fn entry_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        key: row.get(0)?,
        value: row.get(1)?,
        revision: row.get(2)?,
    })
}

/// No key contains the last code point, so this is beyond every key with the prefix.
fn end_of(prefix: &str) -> String {
    format!("{prefix}\u{10FFFF}")
}

fn list(connection: &Connection, prefix: &str) -> rusqlite::Result<Listing> {
    let end = end_of(prefix);
    let mut statement = connection.prepare_cached(
        "SELECT key, value, revision FROM current WHERE key >= ?1 AND key < ?2 ORDER BY key",
    )?;
    let entries = statement.query_map([prefix, &end], entry_of)?;
    Ok(Listing {
        entries: entries.collect::<Result<_, _>>()?,
        revision: current_revision(connection)?,
    })
}

/// One transaction for all; a commit whose precondition fails is rolled back alone. Whatever else fails, fails all:
/// after an error such as a full disk SQLite may have rolled back the whole transaction.
fn commit_group(
    connection: &mut Connection,
    commits: Vec<(Vec<Op>, Meta, Reply<u64>)>,
    publish: &watch::Sender<u64>,
) {
    if commits.is_empty() {
        return;
    }
    let (mut writes, mut replies) = (Vec::new(), Vec::new());
    for (ops, meta, reply) in commits {
        writes.push((ops, meta));
        replies.push(reply);
    }
    let results = write_group(connection, &writes);
    for (i, reply) in replies.into_iter().enumerate() {
        let result = match &results {
            Ok(results) => again(&results[i]),
            Err(failed) => Err(same(failed)),
        };
        if let Ok(revision) = &result {
            publish.send_replace(*revision);
        }
        reply.send(result).ok();
    }
}

type Outcome = Result<u64, StoreError>;

/// Each commit's revision or conflict, once all of them are on disk.
fn write_group(
    connection: &mut Connection,
    writes: &[(Vec<Op>, Meta)],
) -> Result<Vec<Outcome>, StoreError> {
    let mut transaction = connection.transaction().map_err(refused("begin"))?;
    let mut results = Vec::new();
    for (ops, meta) in writes {
        match commit_one(&mut transaction, ops, meta) {
            Err(failed) if !matches!(failed, StoreError::Conflict { .. }) => return Err(failed),
            result => results.push(result),
        }
    }
    transaction.commit().map_err(refused("commit"))?;
    Ok(results)
}

fn again(outcome: &Outcome) -> Outcome {
    outcome.as_ref().copied().map_err(same)
}

/// One error for each of those that share its cause.
fn same(error: &StoreError) -> StoreError {
    match error {
        StoreError::Conflict { key, actual } => StoreError::Conflict {
            key: key.clone(),
            actual: *actual,
        },
        StoreError::Full { doing } => StoreError::Full { doing },
        other => {
            let cause = std::error::Error::source(other).map(ToString::to_string);
            let text = cause.unwrap_or_else(|| other.to_string());
            StoreError::Database {
                doing: "commit",
                source: rusqlite::Error::ToSqlConversionFailure(text.into()),
            }
        }
    }
}

fn commit_one(
    transaction: &mut rusqlite::Transaction<'_>,
    ops: &[Op],
    meta: &Meta,
) -> Result<u64, StoreError> {
    let savepoint = transaction.savepoint().map_err(refused("begin"))?;
    for op in ops {
        expect(&savepoint, op)?;
    }
    let revision = write(&savepoint, ops, meta).map_err(refused("write"))?;
    savepoint.commit().map_err(refused("commit"))?;
    Ok(revision)
}

fn expect(connection: &Connection, op: &Op) -> Result<(), StoreError> {
    if op.expect == Expect::Any {
        return Ok(());
    }
    let actual = get(connection, &op.key).map_err(refused("read a key"))?;
    let actual = actual.map(|e| e.revision);
    if holds(op.expect, actual) {
        return Ok(());
    }
    Err(StoreError::Conflict {
        key: op.key.clone(),
        actual,
    })
}

fn write(connection: &Connection, ops: &[Op], meta: &Meta) -> rusqlite::Result<u64> {
    connection
        .prepare_cached(
            "INSERT INTO revision (time_us, who, origin, message) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![now_us(), meta.who, meta.from, meta.message])?;
    let revision = connection.last_insert_rowid();
    for (seq, op) in ops.iter().enumerate() {
        connection
            .prepare_cached(
                "INSERT INTO change (revision, seq, key, value) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![revision, seq, op.key, op.value])?;
        match &op.value {
            None => connection
                .prepare_cached("DELETE FROM current WHERE key = ?1")?
                .execute([&op.key])?,
            Some(value) => connection
                .prepare_cached(
                    "INSERT INTO current (key, value, revision) VALUES (?1, ?2, ?3)
                     ON CONFLICT (key) DO UPDATE SET value = ?2, revision = ?3",
                )?
                .execute(params![op.key, value, revision])?,
        };
    }
    Ok(u64::try_from(revision).unwrap_or(0))
}
