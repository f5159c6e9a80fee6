//! A copy of the store, taken while it works, in one file together with the files that belong to it.
//!
//! The copy is itself a SQLite file: the store's tables as of one revision, and a table `backup_file` beside them.

use super::{Sqlite, make_private, refused, schema};
use crate::{Entry, Listing, Meta, StoreError, now_us};
use rusqlite::{Connection, OpenFlags, Transaction, params};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Marks a file as a backup (`application_id`): "EvkB".
const MARK: i64 = 0x4576_6b42;

const FILES: &str = "CREATE TABLE backup_file (
    name    TEXT PRIMARY KEY,
    content BLOB NOT NULL
) STRICT, WITHOUT ROWID;";

const TAKE: &str = "SELECT name, content FROM backup_file ORDER BY name";

/// Names and contents.
type Named = Vec<(String, Vec<u8>)>;

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
    put_in(&transaction, files)?;
    transaction.commit()
}

/// The files, and the mark that makes it a backup.
fn put_in(transaction: &Transaction<'_>, files: &[(String, Vec<u8>)]) -> rusqlite::Result<()> {
    transaction.execute_batch(FILES)?;
    for (name, content) in files {
        transaction.execute(
            "INSERT INTO backup_file (name, content) VALUES (?1, ?2)",
            params![name, content],
        )?;
    }
    transaction.execute_batch(&format!("PRAGMA application_id = {MARK}"))
}

/// Writes a backup of these values, as the one commit of the store, to `target`, which must not exist. Blocks until it
/// is on disk. Until then it has a name that ends with `.new`.
pub(crate) fn write(
    target: &Path,
    listing: &Listing,
    meta: &Meta,
    files: &[(String, Vec<u8>)],
) -> Result<(), StoreError> {
    // What a crash left is removed, which must not be what somebody else writes.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _held = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut part = target.as_os_str().to_owned();
    part.push(".new");
    let part = PathBuf::from(part);
    std::fs::remove_file(&part).ok();
    let written = write_part(&part, listing, meta, files).and_then(|()| publish(&part, target));
    if written.is_err() {
        // It is of no use, and may be what has filled the disk.
        std::fs::remove_file(&part).ok();
    }
    written
}

fn write_part(
    part: &Path,
    listing: &Listing,
    meta: &Meta,
    files: &[(String, Vec<u8>)],
) -> Result<(), StoreError> {
    make_private(part);
    let mut copy = Connection::open(part).map_err(refused("open the copy"))?;
    // There is nothing to go back to.
    copy.execute_batch("PRAGMA journal_mode = MEMORY")
        .map_err(refused("open the copy"))?;
    schema::make(&copy)?;
    let fill = |copy: &mut Connection| {
        let transaction = copy.transaction()?;
        put_commit(&transaction, listing, meta)?;
        put_in(&transaction, files)?;
        transaction.commit()
    };
    fill(&mut copy).map_err(refused("copy the store"))
}

fn put_commit(
    transaction: &Transaction<'_>,
    listing: &Listing,
    meta: &Meta,
) -> rusqlite::Result<()> {
    let revision = listing.revision;
    if revision == 0 {
        return Ok(());
    }
    transaction.execute(
        "INSERT INTO revision (id, time_us, who, origin, message) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![revision, now_us(), meta.who, meta.from, meta.message],
    )?;
    transaction.execute("UPDATE horizon SET oldest = ?1", [revision])?;
    for (seq, Entry { key, value, .. }) in listing.entries.iter().enumerate() {
        transaction
            .prepare_cached(
                "INSERT INTO change (revision, seq, key, value) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![revision, seq, key, value])?;
        transaction
            .prepare_cached("INSERT INTO current (key, value, revision) VALUES (?1, ?2, ?3)")?
            .execute(params![key, value, revision])?;
    }
    Ok(())
}

/// Gives the file its name once all of it is on disk, unless there is one of that name.
fn publish(part: &Path, target: &Path) -> Result<(), StoreError> {
    let publish = || {
        std::fs::File::open(part)?.sync_all()?;
        if target.exists() {
            return Err(std::io::ErrorKind::AlreadyExists.into());
        }
        std::fs::rename(part, target)?;
        let folder = target.parent().filter(|f| !f.as_os_str().is_empty());
        std::fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    publish().map_err(|source| StoreError::File {
        path: target.to_owned(),
        source,
    })
}

/// The current values of a backup, as keys and values, and its files.
pub(crate) fn read(backup: &Path) -> Result<(Named, Named), StoreError> {
    let source = open_backup(backup)?;
    let read = |sql: &str| {
        let mut statement = source.prepare(sql)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect::<rusqlite::Result<Named>>()
    };
    let values = read("SELECT key, value FROM current ORDER BY key");
    let files = read(TAKE);
    Ok((
        values.map_err(refused("read the values of the backup"))?,
        files.map_err(refused("read the files of the backup"))?,
    ))
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

fn take_files(copy: &Connection) -> rusqlite::Result<Named> {
    let mut statement = copy.prepare(TAKE)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let files = rows.collect::<rusqlite::Result<_>>()?;
    drop(statement);
    copy.execute_batch("DROP TABLE backup_file; PRAGMA application_id = 0;")?;
    Ok(files)
}
