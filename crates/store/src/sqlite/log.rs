//! Reading the log, and forgetting its beginning.

use super::{end_of, refused};
use crate::{Change, Commit, Entry, Head, Meta, Recode, StoreError, Written, reaches};
use rusqlite::{Connection, OptionalExtension, Row, params};

const CHANGE: &str = "SELECT c.revision, c.key, c.value, r.who, r.origin, r.message, r.time_us
                      FROM change c JOIN revision r ON r.id = c.revision";

/// The last value of a key at or before a revision.
const LAST: &str = "SELECT key, value, revision FROM change
                    WHERE key = ?1 AND revision <= ?2 ORDER BY revision DESC, seq DESC LIMIT 1";

pub(super) fn changes(
    connection: &Connection,
    after: u64,
    limit: usize,
) -> Result<Vec<Change>, StoreError> {
    reach(connection, after)?;
    let read = || {
        let mut statement = connection.prepare_cached(&format!(
            "{CHANGE} WHERE c.revision > ?1 AND c.revision <= (
                 SELECT MAX(revision) FROM (
                     SELECT revision FROM change WHERE revision > ?1 ORDER BY revision LIMIT ?2))
             ORDER BY c.revision, c.seq"
        ))?;
        let rows = statement.query_map(params![after, limit], change_of)?;
        rows.collect::<rusqlite::Result<Vec<_>>>()
    };
    read().map_err(refused("read the log"))
}

pub(super) fn history(
    connection: &Connection,
    key: &str,
    limit: usize,
) -> rusqlite::Result<Vec<Change>> {
    let mut statement = connection.prepare_cached(&format!(
        "{CHANGE} WHERE c.key = ?1 ORDER BY c.revision DESC, c.seq DESC LIMIT ?2"
    ))?;
    let rows = statement.query_map(params![key, limit], change_of)?;
    rows.collect()
}

fn change_of(row: &Row<'_>) -> rusqlite::Result<Change> {
    Ok(Change {
        revision: row.get(0)?,
        key: row.get(1)?,
        value: row.get(2)?,
        meta: Meta {
            who: row.get(3)?,
            from: row.get(4)?,
            message: row.get(5)?,
        },
        time_us: row.get(6)?,
    })
}

pub(super) fn heads(
    connection: &Connection,
    prefix: &str,
    below: u64,
    limit: usize,
) -> rusqlite::Result<Vec<Head>> {
    // SQLite's integers have a sign.
    let below = i64::try_from(below).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(
        "SELECT c.revision, c.key, r.who, r.origin, r.message, r.time_us
         FROM change c JOIN revision r ON r.id = c.revision
         WHERE c.key >= ?1 AND c.key < ?2 AND c.revision IN (
             SELECT DISTINCT revision FROM change
             WHERE revision < ?3 AND revision >= (SELECT oldest FROM horizon)
               AND key >= ?1 AND key < ?2 ORDER BY revision DESC LIMIT ?4)
         ORDER BY c.revision DESC, c.seq",
    )?;
    let mut rows = statement.query(params![prefix, end_of(prefix), below, limit])?;
    let mut heads: Vec<Head> = Vec::new();
    while let Some(row) = rows.next()? {
        let head = head_of(row)?;
        match heads.last_mut().filter(|h| h.revision == head.revision) {
            Some(same) => same.keys.extend(head.keys),
            None => heads.push(head),
        }
    }
    Ok(heads)
}

fn head_of(row: &Row<'_>) -> rusqlite::Result<Head> {
    Ok(Head {
        revision: row.get(0)?,
        keys: vec![row.get(1)?],
        meta: Meta {
            who: row.get(2)?,
            from: row.get(3)?,
            message: row.get(4)?,
        },
        time_us: row.get(5)?,
    })
}

pub(super) fn read_commit(
    connection: &Connection,
    revision: u64,
) -> Result<Option<Commit>, StoreError> {
    let before = revision.saturating_sub(1);
    reach(connection, before)?;
    let read = || {
        let mut statement = connection.prepare_cached(&format!(
            "{CHANGE} WHERE c.revision = ?1 ORDER BY c.revision, c.seq"
        ))?;
        let revision = i64::try_from(revision).unwrap_or(i64::MAX);
        let rows = statement.query_map([revision], change_of)?;
        let changes: Vec<Change> = rows.collect::<rusqlite::Result<_>>()?;
        commit_of(connection, changes, before)
    };
    read().map_err(refused("read the log"))
}

fn commit_of(
    connection: &Connection,
    changes: Vec<Change>,
    before: u64,
) -> rusqlite::Result<Option<Commit>> {
    let Some(first) = changes.first() else {
        return Ok(None);
    };
    let (revision, meta, time_us) = (first.revision, first.meta.clone(), first.time_us);
    let mut writes = Vec::new();
    for Change { key, value, .. } in changes {
        writes.push(Written {
            before: last(connection, &key, before)?.map(|e| e.value),
            after: value,
            key,
        });
    }
    Ok(Some(Commit {
        revision,
        meta,
        time_us,
        writes,
    }))
}

pub(super) fn get_at(
    connection: &Connection,
    key: &str,
    revision: u64,
) -> Result<Option<Entry>, StoreError> {
    reach(connection, revision)?;
    last(connection, key, revision).map_err(refused("read the log"))
}

fn last(connection: &Connection, key: &str, revision: u64) -> rusqlite::Result<Option<Entry>> {
    let revision = i64::try_from(revision).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(LAST)?;
    let found = statement.query_row(params![key, revision], |row| {
        let value: Option<Vec<u8>> = row.get(1)?;
        let (key, revision) = (row.get(0)?, row.get(2)?);
        Ok(value.map(|value| Entry {
            key,
            value,
            revision,
        }))
    });
    Ok(found.optional()?.flatten())
}

fn oldest(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT oldest FROM horizon", [], |row| row.get(0))
}

fn reach(connection: &Connection, after: u64) -> Result<(), StoreError> {
    reaches(
        after,
        oldest(connection).map_err(refused("read the log's beginning"))?,
    )
}

/// Of what is older it keeps the last value of each key, which is what later commits replaced.
pub(super) fn compact(connection: &mut Connection, before: u64) -> rusqlite::Result<u64> {
    let transaction = connection.transaction()?;
    let newest = super::current_revision(&transaction)?;
    let horizon = before.min(newest).max(oldest(&transaction)?);
    for statement in [
        "DELETE FROM change WHERE revision < ?1 AND EXISTS (
             SELECT 1 FROM change n WHERE n.key = change.key AND n.revision > change.revision AND n.revision < ?1)",
        "DELETE FROM change WHERE revision < ?1 AND value IS NULL",
        "DELETE FROM revision WHERE id < ?1 AND NOT EXISTS (SELECT 1 FROM change WHERE revision = id)",
        "UPDATE horizon SET oldest = ?1",
    ] {
        transaction.execute(statement, [horizon])?;
    }
    transaction.commit()?;
    Ok(horizon)
}

/// A value of the log with its place there.
type Placed = (u64, i64, String, Vec<u8>);

/// Every current value is in the log, too: compaction leaves the last one of each key.
pub(super) fn recode(
    connection: &mut Connection,
    after: u64,
    limit: usize,
    form: &Recode,
) -> rusqlite::Result<Option<u64>> {
    let transaction = connection.transaction()?;
    let values = values_after(&transaction, after, limit)?;
    for (revision, seq, key, value) in &values {
        if let Some(new) = form(key, value) {
            transaction
                .prepare_cached("UPDATE change SET value = ?1 WHERE revision = ?2 AND seq = ?3")?
                .execute(params![new, revision, seq])?;
            transaction
                .prepare_cached(
                    "UPDATE current SET value = ?1 WHERE key = ?2 AND revision = ?3 AND value = ?4",
                )?
                .execute(params![new, key, revision, value])?;
        }
    }
    transaction.commit()?;
    Ok(values.last().map(|(revision, ..)| *revision))
}

fn values_after(
    connection: &Connection,
    after: u64,
    limit: usize,
) -> rusqlite::Result<Vec<Placed>> {
    let mut statement = connection.prepare_cached(
        "SELECT revision, seq, key, value FROM change
         WHERE value IS NOT NULL AND revision > ?1 AND revision <= (
             SELECT MAX(revision) FROM (
                 SELECT revision FROM change WHERE value IS NOT NULL AND revision > ?1
                 ORDER BY revision LIMIT ?2))
         ORDER BY revision, seq",
    )?;
    let rows = statement.query_map(params![after, limit], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
    })?;
    rows.collect()
}

/// The file is written anew without its free pages, and the write-ahead log is emptied.
pub(super) fn scrub(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("VACUUM")?;
    let read = |row: &Row<'_>| row.get::<_, bool>(0);
    match connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], read)? {
        false => Ok(()),
        true => {
            let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
            Err(rusqlite::Error::SqliteFailure(busy, None))
        }
    }
}
