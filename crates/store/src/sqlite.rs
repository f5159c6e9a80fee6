//! The store in one SQLite file: WAL with full sync, an append-only log beside the current values.
//!
//! One thread owns the connection. Commits that wait together become one transaction, each in a savepoint of
//! its own, and are answered when that transaction is on disk. The thread ends when the last handle is dropped.

use crate::{Change, Entry, Expect, Listing, Meta, Op, Store, StoreError, holds, now_us};
use rusqlite::{Connection, OptionalExtension, params};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use tokio::sync::{oneshot, watch};

/// Version of the tables below; kept in `user_version`.
const SCHEMA_VERSION: i64 = 1;

/// Commits that share one transaction at most: bounds the time to the first answer.
const GROUP_MAX: usize = 128;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS revision (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    time_us INTEGER NOT NULL,
    who     TEXT NOT NULL,
    message TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS change (
    revision INTEGER NOT NULL REFERENCES revision(id),
    seq      INTEGER NOT NULL,
    key      TEXT NOT NULL,
    value    BLOB,
    PRIMARY KEY (revision, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS change_by_key ON change(key, revision);
CREATE TABLE IF NOT EXISTS current (
    key      TEXT PRIMARY KEY,
    value    BLOB NOT NULL,
    revision INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

enum Request {
    Get(String, Reply<Option<Entry>>),
    List(String, Reply<Listing>),
    Changes(u64, usize, Reply<Vec<Change>>),
    History(String, usize, Reply<Vec<Change>>),
    Commit(Vec<Op>, Meta, Reply<u64>),
}

/// See the module's documentation.
pub struct Sqlite {
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
        let connection = connect(path)?;
        let revision = current_revision(&connection).map_err(refused("read the revision"))?;
        let (publish, revision) = watch::channel(revision);
        let (requests, inbox) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || serve(connection, &inbox, &publish))
            .map_err(|_| StoreError::Closed)?;
        Ok(Self {
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

    fn revision(&self) -> watch::Receiver<u64> {
        self.revision.clone()
    }
}

fn refused(doing: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |source| StoreError::Database { doing, source }
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

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(path).map_err(refused("open the file"))?;
    let found: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(refused("read the schema version"))?;
    if found > SCHEMA_VERSION {
        let path = PathBuf::from(path);
        return Err(StoreError::NewerSchema {
            path,
            found,
            known: SCHEMA_VERSION,
        });
    }
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000;
             BEGIN; {TABLES} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        ))
        .map_err(refused("make the tables"))?;
    Ok(connection)
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
                    answer(&connection, read);
                }
            }
        }
        commit_group(&mut connection, commits, publish);
    }
}

fn answer(connection: &Connection, read: Request) {
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
            let found = changes(connection, after, limit).map_err(refused("read the log"));
            reply.send(found).ok();
        }
        Request::History(key, limit, reply) => {
            let found = history(connection, &key, limit).map_err(refused("read the log"));
            reply.send(found).ok();
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

fn list(connection: &Connection, prefix: &str) -> rusqlite::Result<Listing> {
    // No key contains the last code point, so this bounds every key with the prefix.
    let end = format!("{prefix}\u{10FFFF}");
    let mut statement = connection.prepare_cached(
        "SELECT key, value, revision FROM current WHERE key >= ?1 AND key < ?2 ORDER BY key",
    )?;
    let entries = statement.query_map([prefix, &end], entry_of)?;
    Ok(Listing {
        entries: entries.collect::<Result<_, _>>()?,
        revision: current_revision(connection)?,
    })
}

const CHANGE: &str = "SELECT c.revision, c.key, c.value, r.who, r.message, r.time_us
                      FROM change c JOIN revision r ON r.id = c.revision";

fn changes(connection: &Connection, after: u64, limit: usize) -> rusqlite::Result<Vec<Change>> {
    let mut statement = connection.prepare_cached(&format!(
        "{CHANGE} WHERE c.revision > ?1 AND c.revision <= (
             SELECT MAX(revision) FROM (
                 SELECT revision FROM change WHERE revision > ?1 ORDER BY revision LIMIT ?2))
         ORDER BY c.revision, c.seq"
    ))?;
    let rows = statement.query_map(params![after, limit], change_of)?;
    rows.collect()
}

fn history(connection: &Connection, key: &str, limit: usize) -> rusqlite::Result<Vec<Change>> {
    let mut statement = connection.prepare_cached(&format!(
        "{CHANGE} WHERE c.key = ?1 ORDER BY c.revision DESC, c.seq DESC LIMIT ?2"
    ))?;
    let rows = statement.query_map(params![key, limit], change_of)?;
    rows.collect()
}

fn change_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Change> {
    Ok(Change {
        revision: row.get(0)?,
        key: row.get(1)?,
        value: row.get(2)?,
        meta: Meta {
            who: row.get(3)?,
            message: row.get(4)?,
        },
        time_us: row.get(5)?,
    })
}

/// One transaction for all; a commit whose precondition fails is rolled back alone.
fn commit_group(
    connection: &mut Connection,
    commits: Vec<(Vec<Op>, Meta, Reply<u64>)>,
    publish: &watch::Sender<u64>,
) {
    if commits.is_empty() {
        return;
    }
    let mut replies = Vec::new();
    let outcome = (|| {
        let mut transaction = connection.transaction();
        for (ops, meta, reply) in commits {
            let result = match &mut transaction {
                Ok(transaction) => commit_one(transaction, &ops, &meta),
                // Every one of them is told why below.
                Err(_) => Ok(0),
            };
            replies.push((reply, result));
        }
        transaction?.commit()
    })();
    finish_group(replies, outcome.err(), publish);
}

fn finish_group(
    replies: Vec<(Reply<u64>, Result<u64, StoreError>)>,
    failed: Option<rusqlite::Error>,
    publish: &watch::Sender<u64>,
) {
    let text = failed.map(|e| e.to_string());
    for (reply, result) in replies {
        let result = match (&text, result) {
            (Some(text), Ok(_)) => Err(StoreError::Database {
                doing: "commit",
                source: rusqlite::Error::ToSqlConversionFailure(text.clone().into()),
            }),
            (_, result) => result,
        };
        if let Ok(revision) = &result {
            publish.send_replace(*revision);
        }
        reply.send(result).ok();
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
        .prepare_cached("INSERT INTO revision (time_us, who, message) VALUES (?1, ?2, ?3)")?
        .execute(params![now_us(), meta.who, meta.message])?;
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
