//! Entering a network namespace.

use crate::{Error, Result};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io;
use std::path::Path;

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";

/// Moves the calling thread into the network namespace `name`; threads that it starts later follow.
/// There is no way back but to have kept a handle of the old one, so a thread is used for one namespace.
pub fn enter(name: &str) -> Result<()> {
    open(name)
        .and_then(|handle| setns(handle, CloneFlags::CLONE_NEWNET).map_err(io::Error::from))
        .map_err(|source| Error::Namespace {
            name: name.to_string(),
            source,
        })
}

/// A name with a slash would leave the folder: refused like a name that does not exist.
fn open(name: &str) -> io::Result<File> {
    if name.is_empty() || name.contains('/') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    File::open(Path::new(NAMES).join(name))
}
