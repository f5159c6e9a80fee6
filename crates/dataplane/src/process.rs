//! What a process that runs for years asks of its system.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Every connection takes descriptors; a soft limit of 1024 is there for programs that call select(2).
///
/// # Errors
/// The system refuses; the limit is as it was.
pub fn raise_open_files() -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}
