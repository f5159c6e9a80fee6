//! What a process that runs for years asks of its system.

#![allow(unsafe_code)] // mallopt has no safe wrapper

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Blocks from this size on are the system's again as soon as they are free.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 1 << 20;

/// Gives large blocks back to the system when they are freed. glibc would learn from the first of them to keep the next,
/// one for each thread: hashing a password takes 19 MiB, and a controller would hold several of these for ever. Other C
/// libraries give them back anyway.
pub fn give_back_large_blocks() {
    // SAFETY: sets a number of the allocator; it may be called at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Every connection takes descriptors; a soft limit of 1024 is there for programs that call select(2).
///
/// # Errors
/// The system refuses; the limit is as it was.
pub fn raise_open_files() -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}
