//! The file: a packed archive that nobody else reads, under its name only when it is whole.

use crate::output::UsageError;
use crate::transfer::new_file;
use anyhow::{Context as _, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// Only its owner reads it.
const MODE: u32 = 0o600;

/// An archive that is written.
pub(super) struct Archive {
    tar: tar::Builder<GzEncoder<BufWriter<File>>>,
    target: Target,
    /// The folder that all files are in.
    top: String,
    made_unix_s: u64,
}

impl Archive {
    /// Begins a file beside `path`, which gets that name when it is finished and goes if it never is.
    pub(super) fn begin(
        path: &Path,
        force: bool,
        top: &str,
        now: OffsetDateTime,
    ) -> anyhow::Result<Self> {
        let target = Target::new(path, force)?;
        let file = new_file(&target.temporary)?;
        let packed = GzEncoder::new(BufWriter::new(file), Compression::default());
        Ok(Self {
            tar: tar::Builder::new(packed),
            target,
            top: top.to_owned(),
            made_unix_s: u64::try_from(now.unix_timestamp()).unwrap_or_default(),
        })
    }

    /// Adds a file below the top folder.
    pub(super) fn add(&mut self, path: &str, text: &str) -> anyhow::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(MODE);
        header.set_mtime(self.made_unix_s);
        header.set_size(text.len() as u64);
        let inside = format!("{}/{path}", self.top);
        let added = self.tar.append_data(&mut header, inside, text.as_bytes());
        added.with_context(|| format!("cannot write {}", self.target.path.display()))
    }

    /// Gives the file its name; how long it is.
    pub(super) fn finish(self) -> anyhow::Result<u64> {
        let Self { tar, target, .. } = self;
        let unpacked = tar.into_inner().and_then(GzEncoder::finish);
        let file = unpacked.and_then(|file| file.into_inner().map_err(io::Error::from));
        let len = file.and_then(|file| {
            file.sync_all()?;
            Ok(file.metadata()?.len())
        });
        let len = len.with_context(|| format!("cannot write {}", target.path.display()))?;
        target.keep()?;
        Ok(len)
    }
}

/// A name, and the file that shall have it; without [`Target::keep`] that file goes.
struct Target {
    temporary: PathBuf,
    path: PathBuf,
    force: bool,
}

impl Target {
    fn new(path: &Path, force: bool) -> anyhow::Result<Self> {
        let shown = path.display();
        let Some(name) = path.file_name() else {
            bail!(UsageError(format!("{shown:?} is no name of a file")));
        };
        if !force && path.symlink_metadata().is_ok() {
            bail!("{shown} is there already; name another file, or replace it with --force");
        }
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.part", std::process::id()));
        Ok(Self {
            temporary: path.with_file_name(temporary),
            path: path.to_owned(),
            force,
        })
    }

    /// A file that has come under the name meanwhile stays, too: the name is taken with an empty file of ours, which is
    /// replaced.
    fn keep(self) -> anyhow::Result<()> {
        let cannot = || format!("cannot make {}", self.path.display());
        if !self.force {
            new_file(&self.path)?;
        }
        let moved = fs::rename(&self.temporary, &self.path);
        if moved.is_err() && !self.force {
            fs::remove_file(&self.path).ok();
        }
        moved.with_context(cannot)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // After a rename there is none.
        fs::remove_file(&self.temporary).ok();
    }
}
