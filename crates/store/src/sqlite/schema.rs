//! The tables, their version (kept in `user_version`), and the way from older ones.

use super::refused;
use crate::StoreError;
use rusqlite::Connection;
use std::path::{Path, PathBuf};

/// Version of the tables below. 1: `who` was "USER from ADDRESS", and nothing was ever forgotten.
pub(super) const VERSION: i64 = 2;

/// `horizon.oldest` is the oldest commit that the log has whole; of older ones it has the last value of each key.
const TABLES: &str = "
CREATE TABLE IF NOT EXISTS revision (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    time_us INTEGER NOT NULL,
    who     TEXT NOT NULL,
    origin  TEXT NOT NULL,
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
CREATE TABLE IF NOT EXISTS horizon (
    id     INTEGER PRIMARY KEY CHECK (id = 0),
    oldest INTEGER NOT NULL
) STRICT;
INSERT OR IGNORE INTO horizon (id, oldest) VALUES (0, 0);
";

/// Of each connection that writes.
const SETTINGS: &str =
    "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000;";

const FROM_1: &str = "
ALTER TABLE revision ADD COLUMN origin TEXT NOT NULL DEFAULT '';
UPDATE revision SET origin = substr(who, instr(who, ' from ') + 6),
                    who = substr(who, 1, instr(who, ' from ') - 1)
 WHERE instr(who, ' from ') > 0;
";

/// Opens the file, and makes or upgrades its tables in one transaction.
///
/// # Errors
/// The file cannot be opened, or was written by a newer program.
pub(super) fn connect(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(path).map_err(refused("open the file"))?;
    let found = version(&connection)?;
    check(path, found)?;
    connection
        .execute_batch(&format!("{SETTINGS} {}", tables_from(found)))
        .map_err(refused("make the tables"))?;
    Ok(connection)
}

/// Makes the tables in an empty file.
pub(super) fn make(connection: &Connection) -> Result<(), StoreError> {
    let made = connection.execute_batch(&tables_from(0));
    made.map_err(refused("make the tables"))
}

/// What makes the tables out of those of another version. A file of ours is not written to: its disk may be full.
fn tables_from(found: i64) -> String {
    let upgrade = match found {
        VERSION => return String::new(),
        1 => FROM_1,
        _ => "",
    };
    format!("BEGIN; {upgrade} {TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
}

/// The version that a file says it has; 0 when it is empty.
pub(super) fn version(connection: &Connection) -> Result<i64, StoreError> {
    connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(refused("read the schema version"))
}

/// Refuses what a newer program wrote.
pub(super) fn check(path: &Path, found: i64) -> Result<(), StoreError> {
    if found <= VERSION {
        return Ok(());
    }
    Err(StoreError::NewerSchema {
        path: PathBuf::from(path),
        found,
        known: VERSION,
    })
}
