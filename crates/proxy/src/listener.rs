//! Listeners: one per protocol, address and worker; and accepting.

use crate::client::{Client, Clients};
use crate::connection;
use crate::shared::Service;
use crate::tcp::TcpSpec;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// How long accepting rests when the process is out of descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// What is listened on.
pub(crate) type Endpoint = (flow::key::Protocol, SocketAddr);

/// A socket that listens, or takes the first datagrams of clients.
pub(crate) enum Listener {
    Tcp(std::net::TcpListener),
    Udp(std::net::UdpSocket),
}

impl Listener {
    /// Shares its address with the other workers'.
    pub(crate) fn bind((protocol, addr): Endpoint, tcp: &TcpSpec) -> io::Result<Self> {
        match protocol {
            flow::key::Protocol::Tcp => tcp.listen(addr).map(|s| Self::Tcp(s.into())),
            flow::key::Protocol::Udp => crate::udp::bind(addr).map(|s| Self::Udp(s.into())),
        }
    }
}

/// Accepts until the task is aborted; accepting is cancel-safe, and connections are tasks of their own.
pub(crate) async fn accept(listener: Rc<TcpListener>, service: Arc<Service>, clients: Rc<Clients>) {
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
