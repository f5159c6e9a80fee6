//! A copy of the store, taken while it works, in one file together with the files that belong to it.
//!
//! The copy is itself a SQLite file: the store's tables as of one revision, and a table `backup_file` beside them.

use super::{Sqlite, make_private, refused, schema};
use crate::StoreError;
use rusqlite::{Connection, OpenFlags, params};
use std::path::Path;

/// Marks a file as a backup (`application_id`): "EvkB".
const MARK: i64 = 0x4576_6b42;

const FILES: &str = "CREATE TABLE backup_file (
    name    TEXT PRIMARY KEY,
    content BLOB NOT NULL
) STRICT, WITHOUT ROWID;";

/// What a backup file holds beside the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// The last revision in it.
    pub revision: u64,
    /// Names and contents of the files that were put in.
    pub files: Vec<(String, Vec<u8>)>,
}

impl Sqlite {
    /// Writes a copy of the store as of now, with these files, to `target` (mode 0600), which must not exist. Commits
    /// go on meanwhile. Blocks until it is on disk.
    ///
    /// # Errors
    /// The database refuses, for want of room for instance; then `target` is incomplete and has no mark.
    pub fn backup(&self, target: &Path, files: &[(String, Vec<u8>)]) -> Result<(), StoreError> {
        make_private(target);
        // A connection of its own: a reader does not hold up the one that writes.
        let source = Connection::open(&self.path).map_err(refused("open the file"))?;
        source
            .execute("VACUUM INTO ?1", [target.to_string_lossy()])
            .map_err(refused("copy the store"))?;
        let mut copy = Connection::open(target).map_err(refused("open the copy"))?;
        add_files(&mut copy, files).map_err(refused("add files to the copy"))
    }
}

fn add_files(copy: &mut Connection, files: &[(String, Vec<u8>)]) -> rusqlite::Result<()> {
    let transaction = copy.transaction()?;
    transaction.execute_batch(FILES)?;
    for (name, content) in files {
        transaction.execute(
            "INSERT INTO backup_file (name, content) VALUES (?1, ?2)",
            params![name, content],
        )?;
    }
    transaction.execute_batch(&format!("PRAGMA application_id = {MARK}"))?;
    transaction.commit()
}

/// Makes the store's file `target`, which must not exist, from a backup, and gives the files that were put in.
///
/// # Errors
/// `backup` is none, is damaged, or is of a newer program; or the database refuses.
pub fn restore(backup: &Path, target: &Path) -> Result<Backup, StoreError> {
    let source = open_backup(backup)?;
    make_private(target);
    source
        .execute("VACUUM INTO ?1", [target.to_string_lossy()])
        .map_err(refused("copy the backup"))?;
    let copy = schema::connect(target)?;
    let files = take_files(&copy).map_err(refused("read the files of the backup"))?;
    let revision = super::current_revision(&copy).map_err(refused("read the revision"))?;
    Ok(Backup { revision, files })
}

fn open_backup(path: &Path) -> Result<Connection, StoreError> {
    let no_backup = |why: String| StoreError::NoBackup {
        path: path.to_owned(),
        why,
    };
    let readable = |e: rusqlite::Error| no_backup(e.to_string());
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY);
    let connection = connection.map_err(readable)?;
    let text = |pragma: &str| {
        let sql = format!("PRAGMA {pragma}");
        connection.query_row(&sql, [], |row| row.get::<_, rusqlite::types::Value>(0))
    };
    if text("application_id").map_err(readable)? != rusqlite::types::Value::Integer(MARK) {
        return Err(no_backup("it has no mark of one".into()));
    }
    schema::check(path, schema::version(&connection)?)?;
    match text("integrity_check").map_err(readable)? {
        rusqlite::types::Value::Text(ok) if ok == "ok" => Ok(connection),
        _ => Err(no_backup("it is damaged".into())),
    }
}

fn take_files(copy: &Connection) -> rusqlite::Result<Vec<(String, Vec<u8>)>> {
    let mut statement = copy.prepare("SELECT name, content FROM backup_file ORDER BY name")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let files = rows.collect::<rusqlite::Result<_>>()?;
    drop(statement);
    copy.execute_batch("DROP TABLE backup_file; PRAGMA application_id = 0;")?;
    Ok(files)
}
