//! Connections that routers open: one listening socket per local address of a session.
//!
//! A listener is bound to the address, not to all, so that a BGP daemon on another address of the host is not
//! disturbed. It carries the MD5 keys of its peers: Linux drops a SYN that is not signed with the key of its
//! source; and the smallest TTL that all of them demand. A connection of a peer that demands more (GTSM) is judged by
//! the TTL of its SYN before anything of it is read. Who may connect is decided by whether there is a session for (local address, peer).
//!
//! Tasks: one per listener, spawned here, aborted when the listener goes; an accept that is lost with it is a
//! connection that the kernel resets.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dataplane::sockopt;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::{info, warn};

use super::plan::Md5Key;
use super::session::now;
use super::sparse::Sparse;
use super::transport::BGP_PORT;

/// Connections between accept and the session; more than a router opens at a time.
pub(super) const ACCEPTED_MAX: usize = 64;

/// Length of the kernel's accept queue.
const BACKLOG: i32 = 16;

/// After an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection that a router has opened.
pub(super) struct Accepted {
    pub(super) local: IpAddr,
    pub(super) peer: IpAddr,
    /// Of its SYN; `None` where the kernel does not tell.
    pub(super) ttl: Option<u8>,
    pub(super) stream: TcpStream,
}

/// What a peer's connection must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Demand {
    pub(super) md5_key: Md5Key,
    /// GTSM (RFC 5082); 0 demands nothing.
    pub(super) min_ttl: u8,
}

/// By peer.
pub(super) type Demands = BTreeMap<IpAddr, Demand>;

/// See the module's documentation.
pub(super) struct Listeners {
    listening: BTreeMap<IpAddr, Listener>,
    accepted: mpsc::Sender<Accepted>,
    failed: BTreeMap<IpAddr, String>,
}

struct Listener {
    socket: Socket,
    local: IpAddr,
    demands: Demands,
    task: AbortHandle,
}

impl Listeners {
    pub(super) fn new(accepted: mpsc::Sender<Accepted>) -> Self {
        Self {
            listening: BTreeMap::new(),
            accepted,
            failed: BTreeMap::new(),
        }
    }

    /// Listens on exactly these addresses, with these demands. A failure is told once: sessions still open by
    /// themselves. True when something should be tried again later.
    pub(super) fn reconcile(&mut self, wanted: &BTreeMap<IpAddr, Demands>) -> bool {
        self.listening.retain(|local, _| wanted.contains_key(local));
        self.failed.retain(|local, _| wanted.contains_key(local));
        for (local, demands) in wanted {
            match self.ensure(*local, demands) {
                Ok(()) => {
                    self.failed.remove(local);
                }
                Err(error) => self.tell(*local, &error),
            }
        }
        !self.failed.is_empty()
    }

    fn ensure(&mut self, local: IpAddr, demands: &Demands) -> io::Result<()> {
        if let Some(listener) = self.listening.get_mut(&local) {
            return listener.demand(demands);
        }
        let socket = bound(local)?;
        // Before anybody can connect.
        apply(&socket, local, &Demands::new(), demands)?;
        socket.listen(BACKLOG)?;
        let accepting = TcpListener::from_std(socket.try_clone()?.into())?;
        let task = tokio::spawn(accept(local, accepting, self.accepted.clone()));
        let listener = Listener {
            socket,
            local,
            demands: demands.clone(),
            task: task.abort_handle(),
        };
        self.listening.insert(local, listener);
        Ok(())
    }

    fn tell(&mut self, local: IpAddr, error: &io::Error) {
        let text = error.to_string();
        if self.failed.get(&local) != Some(&text) {
            warn!(%local, port = BGP_PORT, error = text, "cannot listen for routers; sessions are opened from here only");
            self.failed.insert(local, text);
        }
    }
}

impl Listener {
    fn demand(&mut self, demands: &Demands) -> io::Result<()> {
        if self.demands != *demands {
            apply(&self.socket, self.local, &self.demands, demands)?;
            self.demands.clone_from(demands);
        }
        Ok(())
    }
}

/// From the old demands to the new ones. A key that never was is not removed: kernels without TCP MD5 refuse that.
fn apply(socket: &Socket, local: IpAddr, old: &Demands, new: &Demands) -> io::Result<()> {
    for (peer, demand) in old {
        let keyed = new.get(peer).is_some_and(|d| d.md5_key.expose().is_some());
        if demand.md5_key.expose().is_some() && !keyed {
            sockopt::remove_tcp_md5_key(socket, *peer).map_err(io::Error::other)?;
        }
    }
    for (peer, demand) in new {
        if let Some(key) = demand.md5_key.expose() {
            sockopt::set_tcp_md5_key(socket, *peer, key).map_err(io::Error::other)?;
        }
    }
    let min_ttl = |demands: &Demands| demands.values().map(|d| d.min_ttl).min().unwrap_or(0);
    if min_ttl(old) != min_ttl(new) {
        sockopt::set_min_ttl(socket, local, min_ttl(new)).map_err(io::Error::other)?;
    }
    Ok(())
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Bound, and not listening yet.
fn bound(local: IpAddr) -> io::Result<Socket> {
    let address = SocketAddr::new(local, BGP_PORT);
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // A peer with GTSM drops a SYN-ACK with less; each connection gets its own TTL when it is accepted.
    sockopt::set_ttl(&socket, local, 255).map_err(io::Error::other)?;
    sockopt::set_tos(&socket, local, sockopt::TOS_CS6).map_err(io::Error::other)?;
    sockopt::set_save_syn(&socket).map_err(io::Error::other)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

async fn accept(local: IpAddr, listener: TcpListener, accepted: mpsc::Sender<Accepted>) {
    let mut refusals = Sparse::default();
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            // Out of file descriptors: not a reason to spin.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let peer = from.ip();
        let connection = Accepted {
            local,
            peer,
            ttl: sockopt::saved_syn_ttl(&stream),
            stream,
        };
        // When full, the router's connection is closed and the router tries again.
        if accepted.try_send(connection).is_err()
            && let Some(others) = refusals.pass(now())
        {
            info!(%peer, %local, others, "connection refused: too many at a time");
        }
    }
}
