//! A write-ahead log that is cut or damaged at every page boundary, as a loss of power can leave it.

use super::{commit, held, run};
use evenkeel_store::{Sqlite, Store as _};
use std::fs;
use std::path::Path;

/// Commits before the damage; some are larger than a page. SQLite moves the log into the file after 1000 pages.
const COMMITS: u64 = 24;
/// Header of the log, and of each page in it (sqlite.org/fileformat2.html, section 4.1).
const WAL_HEADER_LEN: usize = 32;
const FRAME_HEADER_LEN: usize = 24;
const PAGE_LEN: usize = 4096;

/// A store as a loss of power leaves it: the file, and the log that was not moved into it yet.
struct Left {
    file: Vec<u8>,
    log: Vec<u8>,
    /// Length of the log after each commit, from 0 commits on.
    lens: Vec<usize>,
}

fn left() -> Left {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.db");
    // What makes the tables is in the file; the log begins with the first commit.
    drop(Sqlite::open(&path).unwrap());
    let store = Sqlite::open(&path).unwrap();
    let wal = folder.path().join("s.db-wal");
    let mut lens = vec![0];
    for n in 0..COMMITS {
        let len = if n % 5 == 4 { 3 * PAGE_LEN } else { 10 };
        run(commit(&store, n, &vec![b'x'; len])).unwrap();
        lens.push(usize::try_from(fs::metadata(&wal).unwrap().len()).unwrap());
    }
    assert_eq!(*store.revision().borrow(), COMMITS);
    Left {
        file: fs::read(&path).unwrap(),
        log: fs::read(&wal).unwrap(),
        lens,
    }
}

impl Left {
    /// The store opens on this log, and holds the first commits and nothing of the others; gives how many.
    fn opens(&self, log: &[u8], what: &str) -> u64 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.db");
        fs::write(&path, &self.file).unwrap();
        fs::write(folder.path().join("s.db-wal"), log).unwrap();
        let held = self.held(&path, what);
        // And it goes on: a commit after the damage is there at the next start.
        let store = Sqlite::open(&path).unwrap();
        run(commit(&store, held, b"next")).unwrap();
        drop(store);
        assert_eq!(self.held(&path, what), held + 1, "{what}");
        held
    }

    fn held(&self, path: &Path, what: &str) -> u64 {
        let store = Sqlite::open(path).unwrap_or_else(|e| panic!("{what}: {e}"));
        let held = held(&store);
        let prefix: Vec<u64> = (0..held.len() as u64).collect();
        assert_eq!(held, prefix, "{what}: no prefix of the commits");
        prefix.len() as u64
    }

    /// Commits whose pages are all before this place in the log.
    fn whole_before(&self, place: usize) -> u64 {
        self.lens.iter().filter(|len| **len <= place).count() as u64 - 1
    }

    /// Where each page of the log begins and ends.
    fn boundaries(&self) -> Vec<usize> {
        let frame = FRAME_HEADER_LEN + PAGE_LEN;
        let places: Vec<_> = (WAL_HEADER_LEN..=self.log.len()).step_by(frame).collect();
        assert!(places.len() > usize::try_from(COMMITS).unwrap());
        assert_eq!(
            places.last(),
            Some(&self.log.len()),
            "pages of another size"
        );
        places
    }
}

#[test]
fn a_log_cut_at_any_page_holds_the_commits_before_the_cut() {
    let left = left();
    assert_eq!(left.opens(&left.log, "whole"), COMMITS);
    for place in left.boundaries() {
        for cut in [
            place.saturating_sub(1),
            place,
            place + 1,
            place + FRAME_HEADER_LEN,
        ] {
            let cut = cut.min(left.log.len());
            let held = left.opens(&left.log[..cut], &format!("cut at {cut}"));
            assert_eq!(held, left.whole_before(cut), "cut at {cut}");
        }
    }
}

/// What happens to a page of the log, its header included.
type Damage = fn(&mut [u8]);

#[test]
fn a_log_damaged_at_any_page_holds_the_commits_before_the_damage() {
    let left = left();
    let damages: [(&str, Damage); 3] = [
        ("a bit flipped", |page| page[FRAME_HEADER_LEN + 100] ^= 4),
        ("zeroed", |page| page.fill(0)),
        ("half zeroed", |page| {
            let half = page.len() / 2;
            page[half..].fill(0);
            page[FRAME_HEADER_LEN - 1] ^= 1;
        }),
    ];
    let boundaries = left.boundaries();
    for pair in boundaries.windows(2) {
        for (name, damage) in damages {
            let mut log = left.log.clone();
            damage(&mut log[pair[0]..pair[1]]);
            let what = format!("{name} at {}", pair[0]);
            assert_eq!(
                left.opens(&log, &what),
                left.whole_before(pair[0]),
                "{what}"
            );
        }
    }
}

#[test]
fn a_log_with_a_damaged_header_holds_what_is_in_the_file() {
    let left = left();
    let mut log = left.log.clone();
    log[..WAL_HEADER_LEN].fill(0);
    assert_eq!(left.opens(&log, "header zeroed"), 0);
}
