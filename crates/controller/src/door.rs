//! How the API's listener opens, and how it closes without losing a request.
//!
//! Told to stop, the listener closes first: whoever connects from then on is refused, so that nothing of his can be lost.
//! Connections go on. Each answer tells its client that it is the connection's last (`Connection: close`), so that he who
//! sends one request after the other learns it in time and not by a reset. After [`LINGER`] connections that are idle
//! are closed, and those with a request have [`GRACE`] for its answer.

use crate::connections;
use axum::extract::connect_info::Connected;
use axum_server::{AddrListener, Address, Handle};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How long a connection without a request is kept after the listener has closed: a client in between two requests
/// learns with the next one that it is the last.
const LINGER: Duration = Duration::from_millis(300);
/// How long requests that have begun may take when the controller is told to stop.
const GRACE: Duration = Duration::from_secs(10);
/// How often the connections are counted meanwhile.
const POLL: Duration = Duration::from_millis(10);

/// Where a connection comes from.
#[derive(Debug, Clone, Copy)]
pub struct Peer(SocketAddr);

impl Address for Peer {
    type Stream = TcpStream;
    type Listener = Door;
}

/// Handlers see the plain address.
impl Connected<Peer> for SocketAddr {
    fn connect_info(peer: Peer) -> Self {
        peer.0
    }
}

/// A listener that can be closed while its connections go on.
pub struct Door {
    /// None once it is closed.
    listener: Mutex<Option<TcpListener>>,
    address: SocketAddr,
    stopping: CancellationToken,
    closed: CancellationToken,
}

impl Door {
    /// Listens until `stopping` is cancelled.
    ///
    /// # Errors
    /// The address cannot be had.
    pub fn open(address: SocketAddr, stopping: CancellationToken) -> io::Result<Self> {
        let listener = connections::listen(address)?;
        Ok(Self {
            address: listener.local_addr()?,
            listener: Mutex::new(Some(listener)),
            stopping,
            closed: CancellationToken::new(),
        })
    }

    /// Cancelled once the address is free for somebody else.
    pub fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// Where it listens; with port 0 asked for, the port that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl AddrListener<TcpStream, Peer> for Door {
    async fn bind_to(address: Peer) -> io::Result<Self> {
        Self::open(address.0, CancellationToken::new())
    }

    /// The next connection; none ever again once it is closed. Who had connected before that is let in.
    async fn accept_stream(&self) -> io::Result<(TcpStream, Peer)> {
        let mut listener = self.listener.lock().await;
        if let Some(open) = &*listener {
            tokio::select! {
                biased;
                accepted = open.accept() => return accepted.map(|(stream, from)| (stream, Peer(from))),
                () = self.stopping.cancelled() => {}
            }
        }
        listener.take();
        self.closed.cancel();
        std::future::pending().await
    }

    fn get_local_addr(&self) -> io::Result<Peer> {
        Ok(Peer(self.address))
    }
}

/// Lets the connections of a closed door end; the server's task ends afterwards.
pub async fn end_connections(handle: &Handle<Peer>) {
    let until = Instant::now() + LINGER;
    while handle.connection_count() > 0 && Instant::now() < until {
        sleep(POLL).await;
    }
    handle.graceful_shutdown(Some(GRACE));
}
