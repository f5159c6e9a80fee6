//! How many connections a listener has at the same time, in all and from one address: what is beyond is closed before it
//! costs a TLS handshake. From one address half of it, so that one host alone shuts nobody out.

use crate::auth::host;
use axum_server::accept::Accept;
use std::collections::HashMap;
use std::future::{Ready, ready};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tonic::transport::server::{Connected, TcpConnectInfo};

const API_MAX: usize = 768;
/// An engine has one, and a second one for a moment when it joins or reconnects.
const ENGINES_MAX: usize = 1024;

/// Connections that wait to be accepted: as many as may come at once when a fleet of engines has lost its controller. The
/// kernel's own limit is `net.core.somaxconn`.
const BACKLOG: u32 = 1024;

/// Listens at this address.
///
/// # Errors
/// The address cannot be had.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A controller that was restarted need not wait for the connections of the one before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Counts connections and refuses those that are too many.
#[derive(Clone)]
pub struct Connections {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    max: usize,
    per_address_max: usize,
}

impl Connections {
    /// Of the API's listener.
    pub fn of_api() -> Self {
        Self::new(API_MAX, API_MAX / 2)
    }

    /// Of the engines' listener.
    pub fn of_engines() -> Self {
        Self::new(ENGINES_MAX, ENGINES_MAX / 2)
    }

    fn new(max: usize, per_address_max: usize) -> Self {
        Self {
            open: Arc::default(),
            max,
            per_address_max,
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more from this address.
    fn enter(&self, from: IpAddr) -> Option<Place> {
        let from = host(from);
        let mut open = self.open();
        let all: usize = open.values().sum();
        let his = open.get(&from).copied().unwrap_or(0);
        if all >= self.max || his >= self.per_address_max {
            return None;
        }
        open.insert(from, his + 1);
        let connections = self.clone();
        Some(Place { connections, from })
    }

    /// The connection, if there is a place for it.
    ///
    /// # Errors
    /// It is one too many, or gone already.
    pub fn count(&self, stream: TcpStream) -> io::Result<Counted> {
        let from = stream.peer_addr()?.ip();
        let Some(place) = self.enter(from) else {
            tracing::debug!(%from, "a connection is one too many and is closed");
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        Ok(Counted {
            stream,
            _place: place,
        })
    }

    fn leave(&self, from: IpAddr) {
        let mut open = self.open();
        match open.get_mut(&from) {
            Some(his) if *his > 1 => *his -= 1,
            _ => drop(open.remove(&from)),
        }
    }
}

/// Given back when it is dropped.
struct Place {
    connections: Connections,
    from: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.leave(self.from);
    }
}

/// A connection that has its place.
pub struct Counted {
    stream: TcpStream,
    _place: Place,
}

impl<S> Accept<TcpStream, S> for Connections {
    type Stream = Counted;
    type Service = S;
    type Future = Ready<io::Result<(Counted, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        ready(self.count(stream).map(|counted| (counted, service)))
    }
}

impl Connected for Counted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_bounded_in_all_and_by_address_and_a_place_is_given_back() {
        let connections = Connections::new(5, 3);
        let [one, two]: [IpAddr; 2] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
        let mut first: Vec<Place> = (0..10).filter_map(|_| connections.enter(one)).collect();
        assert_eq!(first.len(), 3);
        let second: Vec<Place> = (0..10).filter_map(|_| connections.enter(two)).collect();
        assert_eq!(second.len(), 2, "in all");
        first.pop();
        assert!(connections.enter(two).is_some());
        drop((first, second));
        assert!(connections.open().is_empty());
        // A host with a network of addresses is one.
        let many =
            (0..10u16).filter_map(|n| connections.enter([0x2001, 0xdb8, 0, 0, n, 0, 0, 1].into()));
        assert_eq!(many.collect::<Vec<Place>>().len(), 3);
    }

    #[tokio::test]
    async fn one_connection_too_many_is_closed_until_another_one_ends() {
        let connections = Connections::new(2, 2);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let mut clients = Vec::new();
        let mut accepted = Vec::new();
        for _ in 0..3 {
            clients.push(TcpStream::connect(address).await.expect("connected"));
            let (stream, _) = listener.accept().await.expect("accepted");
            accepted.push(connections.accept(stream, ()).await);
        }
        assert!(accepted[0].is_ok() && accepted[1].is_ok());
        let refused = accepted.pop().expect("the third").err().expect("refused");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        accepted.pop();
        clients.push(TcpStream::connect(address).await.expect("connected"));
        let (stream, _) = listener.accept().await.expect("accepted");
        assert!(connections.accept(stream, ()).await.is_ok());
    }
}
