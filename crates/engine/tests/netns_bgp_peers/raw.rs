//! A peer of bytes, for what no router does on purpose.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::PATIENCE;

pub const KEEPALIVE: u8 = 4;
pub const NOTIFICATION: u8 = 3;
pub const UPDATE: u8 = 2;
const OPEN: u8 = 1;

const CEASE: u8 = 6;
pub const CONNECTION_COLLISION: [u8; 2] = [CEASE, 7];
pub const CONNECTION_NOT_SYNCHRONIZED: [u8; 2] = [1, 1];

/// A message of RFC 4271 section 4.1.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(19 + body.len()).expect("a message that fits");
    [&[0xFF; 16][..], &len.to_be_bytes(), &[kind], body].concat()
}

/// AS 65000, hold time 180 s, this identifier; IPv4 unicast, route refresh, four-octet AS.
pub fn open(identifier: Ipv4Addr) -> Vec<u8> {
    let capabilities = [
        1, 4, 0, 1, 0, 1, // multiprotocol
        2, 0, // route refresh
        65, 4, 0, 0, 0xFD, 0xE8, // four-octet AS
    ];
    let fixed = [4, 0xFD, 0xE8, 0, 180];
    let len = capabilities.len() as u8;
    let parameters = [&[len + 2, 2, len][..], &capabilities].concat();
    message(
        OPEN,
        &[&fixed[..], &identifier.octets(), &parameters].concat(),
    )
}

/// Of IPv4 unicast.
pub fn route_refresh() -> Vec<u8> {
    message(5, &[0, 1, 0, 1])
}

/// It names no route: End-of-RIB.
pub fn empty_update() -> Vec<u8> {
    message(UPDATE, &[0; 4])
}

pub fn cease(subcode: u8) -> Vec<u8> {
    message(NOTIFICATION, &[CEASE, subcode])
}

#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    pub kind: u8,
    pub body: Vec<u8>,
}

impl Message {
    /// Withdrawn and announced host routes of an UPDATE.
    pub fn routes(&self) -> (BTreeSet<Ipv4Addr>, BTreeSet<Ipv4Addr>) {
        assert_eq!(self.kind, UPDATE, "{self:?}");
        let field = |bytes: &[u8]| {
            let len = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
            (bytes[2..2 + len].to_vec(), bytes[2 + len..].to_vec())
        };
        let (withdrawn, rest) = field(&self.body);
        let (_attributes, announced) = field(&rest);
        (host_routes(&withdrawn), host_routes(&announced))
    }
}

fn host_routes(bytes: &[u8]) -> BTreeSet<Ipv4Addr> {
    let route = |bytes: &[u8]| {
        assert_eq!(bytes[0], 32, "a host route");
        Ipv4Addr::new(bytes[1], bytes[2], bytes[3], bytes[4])
    };
    bytes.chunks(5).map(route).collect()
}

/// The listening side, in the router's namespace.
pub struct RawPeer {
    namespace: String,
    address: Ipv4Addr,
    listener: TcpListener,
}

impl RawPeer {
    /// With a small receive buffer the engine soon cannot send to who does not read.
    pub fn listen(namespace: &str, address: Ipv4Addr, receive_buffer: Option<usize>) -> Self {
        let listener = inside(namespace, || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_reuse_address(true).expect("reuse the address");
            if let Some(len) = receive_buffer {
                socket.set_recv_buffer_size(len).expect("a buffer size");
            }
            let port = SocketAddr::from((address, 179));
            socket.bind(&port.into()).expect("bind");
            socket.listen(8).expect("listen");
            StdListener::from(socket)
        });
        listener.set_nonblocking(true).expect("nonblocking");
        Self {
            namespace: namespace.to_owned(),
            address,
            listener: TcpListener::from_std(listener).expect("a listener of the runtime"),
        }
    }

    /// The next connection that the engine opens.
    pub async fn accept(&self) -> Wire {
        let accepted = timeout(PATIENCE, self.listener.accept()).await;
        let (stream, _) = accepted.expect("a connection in time").expect("accept");
        Wire::new(stream)
    }

    /// The next connection, up to Established.
    pub async fn session(&self) -> Wire {
        let mut wire = self.accept().await;
        wire.send(&open(self.address)).await;
        wire.send(&message(KEEPALIVE, &[])).await;
        assert_eq!(wire.next().await.kind, OPEN);
        assert_eq!(wire.next().await.kind, KEEPALIVE);
        wire
    }

    /// A connection of the peer's own.
    pub fn connect(&self, engine: Ipv4Addr) -> Wire {
        let stream = inside(&self.namespace, || {
            StdStream::connect((engine, 179)).expect("the engine listens")
        });
        stream.set_nonblocking(true).expect("nonblocking");
        Wire::new(TcpStream::from_std(stream).expect("a stream of the runtime"))
    }
}

/// A socket stays in the namespace in which it was made.
fn inside<T: Send>(namespace: &str, make: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let file = fs::File::open(format!("/run/netns/{namespace}")).expect("the namespace");
            setns(file, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
            make()
        });
        thread.join().expect("a socket")
    })
}

/// One connection.
pub struct Wire {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Wire {
    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("no delay");
        Self {
            stream,
            received: Vec::new(),
        }
    }

    /// In one segment, if it fits.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("send");
    }

    /// Each byte in a segment of its own.
    pub async fn send_bytewise(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.send(&[*byte]).await;
        }
    }

    /// Whether the engine still takes data.
    pub async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// The next message.
    pub async fn next(&mut self) -> Message {
        self.receive().await.expect("a message, not the end")
    }

    /// The next message; `None` at the end of the stream, which must be an orderly one.
    pub async fn receive(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.take() {
                return Some(message);
            }
            let read = self.stream.read_buf(&mut self.received);
            let read = timeout(PATIENCE, read).await.expect("something in time");
            if read.expect("no reset") == 0 {
                assert!(self.received.is_empty(), "the end within a message");
                return None;
            }
        }
    }

    fn take(&mut self) -> Option<Message> {
        let header = self.received.get(..19)?;
        let len = usize::from(u16::from_be_bytes([header[16], header[17]]));
        let kind = header[18];
        self.received.get(..len)?;
        let whole: Vec<u8> = self.received.drain(..len).collect();
        let body = whole[19..].to_vec();
        Some(Message { kind, body })
    }

    /// The routes of the next UPDATEs until one announces this.
    pub async fn until_announced(&mut self, vip: Ipv4Addr) {
        loop {
            let message = self.next().await;
            if message.kind == UPDATE && message.routes().1.contains(&vip) {
                return;
            }
        }
    }

    /// Says that it sends nothing more; it still reads.
    pub async fn close_half(&mut self) {
        self.stream.shutdown().await.expect("FIN");
    }

    /// RST instead of FIN.
    pub fn reset(self) {
        let at_once = Some(Duration::ZERO);
        let socket = SockRef::from(&self.stream);
        socket.set_linger(at_once).expect("no lingering");
    }
}

/// A thread that sends as fast as the engine takes it.
pub struct Flood {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Flood {
    /// Ends it, and the connection with it.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the thread that floods");
    }
}

impl Wire {
    /// Sends this message until told to stop, in a thread of its own.
    pub fn flood(self, message: &[u8]) -> Flood {
        let mut stream = self.stream.into_std().expect("a stream of the system");
        stream.set_nonblocking(false).expect("blocking");
        stream
            .set_write_timeout(Some(Duration::from_millis(100)))
            .expect("a timeout");
        let (bytes, stop) = (message.repeat(1000), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut sent = 0;
            while !stopped.load(Ordering::Relaxed) {
                // What was cut by a full buffer goes on where it was cut.
                if let Ok(len) = stream.write(&bytes[sent..]) {
                    sent = (sent + len) % bytes.len();
                }
            }
        });
        Flood { stop, thread }
    }
}
