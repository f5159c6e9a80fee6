//! What the process may have, and that it is alone.

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Name of the lock in the abstract namespace, which is one per network namespace, as the VIPs on `lo` are.
const LOCK: &str = "evenkeel-engine";

/// Every connection takes two descriptors; a soft limit of 1024 is there for programs that call select(2).
pub(crate) fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files; many connections will be refused");
    }
}

/// Two engines in one network namespace would take each other's VIPs for their own. Freed by the kernel with the process.
pub(crate) fn only_engine_here() -> anyhow::Result<UnixListener> {
    let name = SocketAddr::from_abstract_name(LOCK).context("cannot name the lock")?;
    match UnixListener::bind_addr(&name) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            anyhow::bail!(
                "another engine runs in this network namespace: stop it, or start this one in a namespace of its own"
            )
        }
        other => other.context("cannot take the lock of this network namespace"),
    }
}
