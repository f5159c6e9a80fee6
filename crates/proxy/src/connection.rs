//! One connection: choose a server, connect, tunnel.

use crate::ages::Start;
use crate::client::Client;
use crate::shared::{Counted, Service};
use crate::{source, tunnel};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// How long a server may take to accept; with health checks in place this is a server that just went away.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Distinct servers tried before the client is refused.
const SERVERS_TRIED_MAX: usize = 3;

/// Counts the connection as open until dropped.
pub(crate) struct Open {
    pub service: Arc<Service>,
    _start: Arc<Start>,
}

impl Open {
    pub(crate) fn new(service: Arc<Service>) -> Self {
        service.counters.open.fetch_add(1, Relaxed);
        service.counters.total.fetch_add(1, Relaxed);
        let _start = service.ages.begin(Instant::now());
        Self { service, _start }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.service.counters.open.fetch_sub(1, Relaxed);
    }
}

/// Serves a client until either side is done.
pub(crate) async fn serve(client: Rc<Client>) {
    let open = Open::new(client.service.clone());
    let service = &open.service;
    client.stream.set_nodelay(true).ok();
    match connect(service, [client.peer, client.vip]).await {
        Some((server, addr, counted)) => {
            client.traffic.server.set(Some(addr));
            tunnel::run(&client, &server, service, &counted).await;
        }
        None => {
            service.counters.refused.fetch_add(1, Relaxed);
            tunnel::reset(&client.stream);
        }
    }
}

/// A connection to the first server that takes one.
async fn connect(
    service: &Service,
    ends: [SocketAddr; 2],
) -> Option<(TcpStream, SocketAddr, Counted)> {
    let mut tried: Vec<SocketAddr> = Vec::new();
    while tried.len() < SERVERS_TRIED_MAX {
        let (addr, counted) = service.next_server(ends, &tried)?;
        let (began, source) = (Instant::now(), service.source(addr, ends[1]));
        match tokio::time::timeout(CONNECT_TIMEOUT, source::connect(source, addr)).await {
            Ok(Ok(server)) => {
                server.set_nodelay(true).ok();
                counted.connected(began.elapsed());
                return Some((server, addr, counted));
            }
            Ok(Err(error)) => {
                tracing::debug!(server = %addr, %error, "server refused the connection");
                counted.failed(Some(&error));
            }
            Err(_) => {
                tracing::debug!(server = %addr, "server did not answer in time");
                counted.failed(None);
            }
        }
        tried.push(addr);
    }
    None
}
