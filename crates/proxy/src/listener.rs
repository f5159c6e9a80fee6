//! Listeners: one per protocol, address and worker; and accepting.

use crate::client::{Client, Clients};
use crate::connection;
use crate::shared::Service;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Connections that may wait to be accepted; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// How long accepting rests when the process is out of descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// What a client may put into a segment: a packet of 1500 bytes fits into a tunnel to another engine, so 20 bytes (IPv6: 40)
/// for the outer header go off, beside IP and TCP headers (DESIGN 6.6). `advmss` of a route has no effect on a listener.
const SEGMENT_MAX_V4: u32 = 1500 - 20 - 40;
const SEGMENT_MAX_V6: u32 = 1500 - 40 - 60;

/// What is listened on.
pub(crate) type Endpoint = (flow::key::Protocol, SocketAddr);

/// A socket that listens, or takes the first datagrams of clients.
pub(crate) enum Listener {
    Tcp(std::net::TcpListener),
    Udp(std::net::UdpSocket),
}

impl Listener {
    /// Shares its address with the other workers'.
    pub(crate) fn bind((protocol, addr): Endpoint) -> io::Result<Self> {
        match protocol {
            flow::key::Protocol::Tcp => bind(addr).map(Self::Tcp),
            flow::key::Protocol::Udp => crate::udp::bind(addr).map(|s| Self::Udp(s.into())),
        }
    }
}

/// A listening socket that shares its address with the other workers'.
fn bind(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(true)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_mss(if addr.is_ipv4() {
        SEGMENT_MAX_V4
    } else {
        SEGMENT_MAX_V6
    })?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until the task is aborted; accepting is cancel-safe, and connections are tasks of their own.
pub(crate) async fn accept(
    listener: std::net::TcpListener,
    service: Arc<Service>,
    clients: Rc<Clients>,
) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    let Ok(vip) = listener.local_addr() else {
        return;
    };
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let client = Client::accepted(stream, [peer, vip], service.clone(), &clients);
                drop(tokio::task::spawn_local(connection::serve(client)));
            }
            // The client gave up before we came to it, or descriptors ran out: neither ends the listener.
            Err(error) if matches!(error.raw_os_error(), Some(23 | 24)) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
            Err(_) => {}
        }
    }
}
