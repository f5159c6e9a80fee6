//! That the engine is alone in its network namespace.

use anyhow::Context as _;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Name of the lock in the abstract namespace, which is one per network namespace, as the VIPs on `lo` are.
const LOCK: &str = "evenkeel-engine";

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
