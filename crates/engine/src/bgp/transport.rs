//! TCP for one session: opening, reading and writing without blocking, closing so that the last
//! message arrives.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::time::Duration;

use bgp::wire::MAX_MESSAGE_LEN;
use bytes::{Buf, Bytes};
use dataplane::sockopt;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, TcpStream};

use super::CLOSE_TIME_MAX;
use super::plan::{SessionKey, TransportConfig};

pub(super) const BGP_PORT: u16 = 179;

/// One read takes many messages of a busy peer at once.
const READ_BUFFER_LEN: usize = 16 * MAX_MESSAGE_LEN;

/// The kernel gives a connection up whose peer takes nothing for so long. The core's send hold timer (RFC 9687) sees
/// only what the kernel has not taken from us, and few routes never fill its buffer.
const UNREAD_MAX: Duration = Duration::from_secs(8 * 60);

type Connecting = Pin<Box<dyn Future<Output = Result<TcpStream, String>> + Send>>;

/// A connection of a session, as far as it has come.
pub(super) enum Transport {
    Closed,
    Connecting(Connecting),
    Open(Connection),
}

/// What the transport has to say.
pub(super) enum TransportEvent {
    /// The result of the connect attempt; the error is for the operator.
    Connected(Result<TcpStream, String>),
    /// This many bytes are in [`Connection::received`].
    Read(usize),
    /// This many queued bytes were taken by the kernel.
    Written(usize),
    /// The connection is gone; says how.
    Lost(String),
}

impl Transport {
    /// Starts to connect; an earlier attempt is dropped.
    pub(super) fn connect(&mut self, key: &SessionKey, config: &TransportConfig) {
        *self = Self::Connecting(Box::pin(open(key.clone(), config.clone())));
    }

    /// Cancel-safe: the connect future is kept, and the rest are readiness waits.
    pub(super) async fn next_event(&mut self) -> TransportEvent {
        match self {
            Self::Closed => std::future::pending().await,
            Self::Connecting(attempt) => TransportEvent::Connected(attempt.await),
            Self::Open(connection) => connection.next_event().await,
        }
    }
}

async fn open(key: SessionKey, config: TransportConfig) -> Result<TcpStream, String> {
    let SessionKey { peer, local, .. } = &key;
    let socket = prepare(*peer, *local, &config)
        .map_err(|e| format!("cannot open a socket on {local}: {e}"))?;
    let connected = socket.connect(SocketAddr::new(*peer, BGP_PORT)).await;
    connected.map_err(|error| format!("cannot connect from {local} to {peer}: {}", hint(&error)))
}

fn hint(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "connection refused: no BGP daemon listens there, or it does not know this address as a neighbor".into()
        }
        io::ErrorKind::TimedOut => "no answer: the peer is away or refuses the MD5 key".into(),
        _ => error.to_string(),
    }
}

/// The socket with everything that must be set before connect.
fn prepare(peer: IpAddr, local: IpAddr, config: &TransportConfig) -> io::Result<TcpSocket> {
    let domain = Domain::for_address(SocketAddr::new(peer, BGP_PORT));
    let socket = Socket::new(
        domain,
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    set_options(&socket, peer, config)?;
    if let Some(key) = config.md5_key.expose() {
        sockopt::set_tcp_md5_key(&socket, peer, key).map_err(io::Error::other)?;
    }
    socket.bind(&SocketAddr::new(local, 0).into())?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// What every connection of the session has, whoever opened it.
fn set_options(socket: &impl AsFd, peer: IpAddr, config: &TransportConfig) -> io::Result<()> {
    sockopt::set_ttl(socket, peer, config.ttl).map_err(io::Error::other)?;
    sockopt::set_tos(socket, peer, sockopt::TOS_CS6).map_err(io::Error::other)?;
    if config.min_ttl > 0 {
        sockopt::set_min_ttl(socket, peer, config.min_ttl).map_err(io::Error::other)?;
    }
    let socket = SockRef::from(socket);
    socket.set_tcp_user_timeout(Some(UNREAD_MAX))?;
    socket.set_tcp_nodelay(true)
}

/// An open connection and the bytes that wait for it.
pub(super) struct Connection {
    stream: TcpStream,
    queue: VecDeque<Bytes>,
    received: Box<[u8]>,
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            queue: VecDeque::new(),
            received: vec![0; READ_BUFFER_LEN].into(),
        }
    }

    /// One that the peer has opened.
    pub(super) fn accepted(
        stream: TcpStream,
        peer: IpAddr,
        config: &TransportConfig,
    ) -> io::Result<Self> {
        set_options(&stream, peer, config)?;
        // It may have waited since before the listener had the key.
        if let Some(key) = config.md5_key.expose() {
            sockopt::set_tcp_md5_key(&stream, peer, key).map_err(io::Error::other)?;
        }
        Ok(Self::new(stream))
    }

    pub(super) fn received(&self) -> &[u8] {
        &self.received
    }

    pub(super) fn enqueue(&mut self, message: Bytes) {
        self.queue.push_back(message);
    }

    /// Hands as much of the queue to the kernel as it takes now; the number of bytes.
    ///
    /// An error is left to the reading side: the peer's NOTIFICATION may wait there, and it says more
    /// than "connection reset".
    pub(super) fn write_now(&mut self) -> usize {
        let mut written = 0;
        while let Some(front) = self.queue.front_mut() {
            match self.stream.try_write(front) {
                Ok(n) => {
                    written += n;
                    front.advance(n);
                    if front.is_empty() {
                        self.queue.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.queue.clear(),
            }
        }
        written
    }

    /// What has come and was not looked at, without waiting; an end of the connection is left for
    /// [`next_event`](Self::next_event).
    pub(super) fn read_now(&mut self) -> Option<usize> {
        self.stream
            .try_read(&mut self.received)
            .ok()
            .filter(|len| *len > 0)
    }

    async fn next_event(&mut self) -> TransportEvent {
        loop {
            let writes = if self.queue.is_empty() {
                Interest::READABLE
            } else {
                Interest::READABLE | Interest::WRITABLE
            };
            let ready = match self.stream.ready(writes).await {
                Ok(ready) => ready,
                Err(error) => return TransportEvent::Lost(lost(&error)),
            };
            if ready.is_writable() && !self.queue.is_empty() {
                let written = self.write_now();
                if written > 0 {
                    return TransportEvent::Written(written);
                }
            }
            match self.stream.try_read(&mut self.received) {
                Ok(0) => return TransportEvent::Lost("the peer closed the connection".to_owned()),
                Ok(n) => return TransportEvent::Read(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return TransportEvent::Lost(lost(&error)),
            }
        }
    }

    /// Writes what is queued, sends FIN and waits for the peer's: closing with unread data would send
    /// RST, and the peer could lose our NOTIFICATION. Gives up after [`CLOSE_TIME_MAX`].
    pub(super) async fn close(mut self) {
        let flush = async {
            for message in &self.queue {
                self.stream.write_all(message).await?;
            }
            self.stream.shutdown().await?;
            while self.stream.read(&mut self.received).await? > 0 {}
            Ok::<(), io::Error>(())
        };
        // Either way the connection ends here; nobody is left to tell.
        let _ = tokio::time::timeout(CLOSE_TIME_MAX, flush).await;
    }
}

fn lost(error: &io::Error) -> String {
    format!("connection lost: {error}")
}
