//! Events on disk: a file of JSON lines, which is put aside when it is long, in place of the one put aside before. A
//! line that cannot be read (torn by a crash, of another version) is left out.

use super::{Event, KEPT};
use anyhow::Context as _;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The file that is written, in the data folder.
const FILE: &str = "events.jsonl";
/// The one put aside.
const ASIDE: &str = "events.1.jsonl";
/// Length at which a file is put aside; [`KEPT`] events are less.
const LEN_MAX: u64 = 16 << 20;

/// See the module's documentation.
pub struct Journal {
    folder: PathBuf,
    file: File,
    len: u64,
    newest: u64,
    /// The last write failed; that is said once.
    failing: bool,
}

impl Journal {
    /// Opens or makes the files; gives the events in them, oldest first.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn open(folder: &Path) -> anyhow::Result<(Self, Vec<Event>)> {
        let mut events = read(&folder.join(ASIDE))?;
        events.extend(read(&folder.join(FILE))?);
        events.sort_by_key(|e| e.sequence);
        events.drain(..events.len().saturating_sub(KEPT));
        let mut journal = Self {
            file: open(&folder.join(FILE))?,
            folder: folder.to_owned(),
            len: 0,
            newest: events.last().map_or(0, |e| e.sequence),
            failing: false,
        };
        journal.len = journal.file.seek(SeekFrom::End(0))?;
        journal.end_line()?;
        Ok((journal, events))
    }

    /// The number of the newest event that was written.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// What a crash tore is a line of its own.
    fn end_line(&mut self) -> std::io::Result<()> {
        if self.len > 0 {
            self.file.write_all(b"\n")?;
            self.len += 1;
        }
        Ok(())
    }

    fn write(&mut self, events: &[Arc<Event>]) -> anyhow::Result<()> {
        let mut lines = Vec::new();
        for event in events {
            serde_json::to_writer(&mut lines, &**event).context("writing an event")?;
            lines.push(b'\n');
        }
        if let Err(error) = self.file.write_all(&lines) {
            // Nothing half written stays: the next one begins a line.
            self.file.set_len(self.len)?;
            self.file.seek(SeekFrom::Start(self.len))?;
            return Err(error.into());
        }
        self.len += lines.len() as u64;
        self.newest = events.last().map_or(self.newest, |e| e.sequence);
        if self.len >= LEN_MAX {
            self.put_aside()?;
        }
        Ok(())
    }

    fn put_aside(&mut self) -> anyhow::Result<()> {
        let path = self.folder.join(FILE);
        std::fs::rename(&path, self.folder.join(ASIDE))?;
        self.file = open(&path)?;
        self.len = 0;
        Ok(())
    }
}

fn open(path: &Path) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    let file = options
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path);
    file.with_context(|| format!("cannot write {}", path.display()))
}

/// The events of a file; none when there is no file.
fn read(path: &Path) -> anyhow::Result<Vec<Event>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let (mut events, mut line) = (Vec::new(), Vec::new());
    let mut reader = BufReader::new(file);
    while reader.read_until(b'\n', &mut line)? > 0 {
        events.extend(serde_json::from_slice::<Event>(&line));
        line.clear();
    }
    Ok(events)
}

/// Writes events, away from the tasks that serve. What cannot be written stays in memory alone, which is said once.
pub async fn append(journal: Arc<Mutex<Journal>>, events: Vec<Arc<Event>>) {
    let write = tokio::task::spawn_blocking(move || {
        let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = journal.write(&events).err();
        if let Some(error) = failed.as_ref().filter(|_| !journal.failing) {
            tracing::error!(
                error = format!("{error:#}"),
                "events are not written to {FILE}"
            );
        }
        journal.failing = failed.is_some();
    });
    if let Err(error) = write.await {
        tracing::error!(%error, "writing events ended by a panic");
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Id, Subject};
    use super::*;

    fn event(sequence: u64) -> Arc<Event> {
        let mut event = Event::new(
            Id::SeUp,
            Subject::controller(),
            format!("number {sequence}"),
        );
        (event.sequence, event.time_us) = (sequence, sequence);
        Arc::new(event)
    }

    fn numbers(events: &[Event]) -> Vec<u64> {
        events.iter().map(|e| e.sequence).collect()
    }

    #[test]
    fn events_come_back_and_a_torn_line_costs_itself_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, before) = Journal::open(folder.path()).unwrap();
        assert_eq!(numbers(&before), Vec::<u64>::new());
        journal.write(&[event(1), event(2)]).unwrap();
        journal.file.write_all(b"{\"sequence\": 3, \"time").unwrap();
        let (mut journal, before) = Journal::open(folder.path()).unwrap();
        assert_eq!((numbers(&before), journal.newest()), (vec![1, 2], 2));
        assert_eq!(before[1], *event(2));
        journal.write(&[event(4)]).unwrap();
        let (_, before) = Journal::open(folder.path()).unwrap();
        assert_eq!(numbers(&before), [1, 2, 4]);
    }

    #[test]
    fn a_long_file_is_put_aside_and_the_one_before_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(folder.path()).unwrap();
        for sequence in 1..=3 {
            journal.write(&[event(sequence)]).unwrap();
            journal.put_aside().unwrap();
        }
        journal.write(&[event(4)]).unwrap();
        let (_, before) = Journal::open(folder.path()).unwrap();
        assert_eq!(numbers(&before), [3, 4]);
    }
}
