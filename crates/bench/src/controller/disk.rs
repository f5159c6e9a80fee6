//! What the disk itself takes to keep a block: the measure of every durable write.

use anyhow::Result;
use std::cell::RefCell;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// As much as SQLite appends for a small change.
const BLOCK: [u8; 4096] = [0x5a; 4096];

/// A file that grows block by block.
pub(super) struct Disk(RefCell<File>);

impl Disk {
    /// In the folder that holds the controller's data folder.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        Ok(Self(RefCell::new(File::create(folder.join("blocks"))?)))
    }

    /// Appends a block and waits until it is on the disk.
    pub(super) fn sync(&self) -> Result<Duration> {
        let mut file = self.0.borrow_mut();
        let began = Instant::now();
        file.write_all(&BLOCK)?;
        file.sync_data()?;
        Ok(began.elapsed())
    }
}
