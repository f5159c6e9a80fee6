//! One connection: choose a server, connect, tunnel; or TLS first, and HTTP.

use crate::PortSpec;
use crate::ages::Start;
use crate::client::Client;
use crate::relay::{self, Side};
use crate::shared::{Chosen, Service};
use crate::stream::{End, Stream, Wire};
use crate::tunnel::{self, Activity};
use crate::{http, source, tls};
use bytes::Bytes;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// How long a server may take to accept; with health checks in place this is a server that just went away.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Distinct servers tried before the client is refused.
pub(crate) const SERVERS_TRIED_MAX: usize = 3;

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
    let port = open.service.port(client.vip.port());
    if !port.tls && port.http.is_none() {
        return pass_on(&client, &open.service).await;
    }
    // Most connections need no room for it.
    Box::pin(look_into(&client, &open.service, port)).await;
}

/// Serves a client whose connection is more than bytes.
async fn look_into(client: &Rc<Client>, service: &Service, port: PortSpec) {
    let (activity, accepted) = (Rc::new(Activity::begin()), tokio::time::Instant::now());
    let wire = Wire::new(End::Client(client.clone()), activity.clone());
    let patience = port.http.as_ref().map(|http| http.post_accept_timeout);
    let stream = match port.tls {
        true => tls::accept(wire, service, patience).await,
        false => Some(Stream::plain(wire)),
    };
    let how = port.http.map(|spec| http::How {
        spec,
        is_tls: port.tls,
        accepted,
    });
    match (stream, how) {
        (Some(stream), Some(how)) => http::serve(client, how, stream, activity).await,
        (Some(stream), None) => relay(client, service, stream, activity).await,
        (None, _) => tunnel::reset(&client.stream),
    }
}

/// Passes bytes on.
async fn pass_on(client: &Rc<Client>, service: &Service) {
    match connect(service, [client.peer, client.vip]).await {
        Some((server, chosen)) if chosen.pool().back.tls.is_none() => {
            let (addr, counted) = chosen.into_counted();
            client.traffic.server.set(Some(addr));
            tunnel::run(client, &server, service, &counted).await;
        }
        Some(connected) => {
            let activity = Rc::new(Activity::begin());
            let wire = Wire::new(End::Client(client.clone()), activity.clone());
            let relay = relay_to(client, service, Stream::plain(wire), activity, connected);
            Box::pin(relay).await;
        }
        None => refuse(client, service),
    }
}

/// Passes on what TLS carries.
async fn relay(client: &Rc<Client>, service: &Service, stream: Stream, activity: Rc<Activity>) {
    match connect(service, [client.peer, client.vip]).await {
        Some(connected) => relay_to(client, service, stream, activity, connected).await,
        None => refuse(client, service),
    }
}

async fn relay_to(
    client: &Rc<Client>,
    service: &Service,
    stream: Stream,
    activity: Rc<Activity>,
    (tcp, chosen): (TcpStream, Chosen),
) {
    client.traffic.server.set(Some(chosen.addr));
    let tcp = Rc::new(tcp);
    let end = End::Server(tcp.clone(), chosen.counted.meter());
    let wire = Wire::new(end, activity.clone());
    let name = stream.server_name().map(str::to_owned);
    let Ok(server) = speak(wire, &chosen, name.as_deref()).await else {
        return refuse(client, service);
    };
    let side = |stream, tcp| Side {
        stream,
        read: Bytes::new(),
        tcp,
    };
    let ends = (side(stream, &client.stream), side(server, &tcp));
    let (_, counted) = chosen.into_counted();
    let retired = counted.retirement();
    relay::run(ends.0, ends.1, activity, service, &retired).await;
}

fn refuse(client: &Client, service: &Service) {
    service.counters.refused.fetch_add(1, Relaxed);
    tunnel::reset(&client.stream);
}

/// A connection to the first server that takes one.
async fn connect(service: &Service, ends: [SocketAddr; 2]) -> Option<(TcpStream, Chosen)> {
    let mut tried: Vec<SocketAddr> = Vec::new();
    while tried.len() < SERVERS_TRIED_MAX {
        let chosen = service.choose(ends, &tried)?;
        if let Ok(mut server) = connect_to(service, &chosen, ends[1]).await {
            match introduce(service, &chosen, &mut server, ends).await {
                Ok(()) => return Some((server, chosen)),
                Err(error) => chosen.counted.failed(Some(&error)),
            }
        }
        tried.push(chosen.addr);
    }
    None
}

/// Tells the server who the client is, where it is to be told. A connection that is new has room for it.
async fn introduce(
    service: &Service,
    chosen: &Chosen,
    server: &mut TcpStream,
    ends: [SocketAddr; 2],
) -> io::Result<()> {
    let Some(version) = service.proxy_header() else {
        return Ok(());
    };
    let header = version.encode(ends);
    server.write_all(&header).await?;
    let meter = chosen.counted.meter();
    meter.sent().fetch_add(header.len() as u64, Relaxed);
    Ok(())
}

/// A connection to a server as bytes are passed on over it: by TLS, where its pool has that. `name`: whom the client wants.
pub(crate) async fn speak(
    wire: Wire,
    chosen: &Chosen,
    name: Option<&str>,
) -> Result<Stream, Failed> {
    let Some(wanted) = &chosen.pool().back.tls else {
        return Ok(Stream::plain(wire));
    };
    let connecting = tls::connect(wire, wanted, name, chosen.addr.ip());
    let failed = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(error)) => {
            tracing::debug!(server = %chosen.addr, %error, "no TLS with the server");
            Failed::Refused
        }
        Err(_) => Failed::Late,
    };
    chosen.counted.failed(None);
    Err(failed)
}

/// Why a server has not taken a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    /// It says so, or nobody is there.
    Refused,
    /// It says nothing.
    Late,
}

/// A connection to the server that was chosen, of which the server's counters learn.
pub(crate) async fn connect_to(
    service: &Service,
    chosen: &Chosen,
    vip: SocketAddr,
) -> Result<TcpStream, Failed> {
    let (addr, counted) = (chosen.addr, &chosen.counted);
    let (began, source) = (Instant::now(), service.source(addr, vip));
    match tokio::time::timeout(CONNECT_TIMEOUT, source::connect(source, addr)).await {
        Ok(Ok(server)) => {
            server.set_nodelay(true).ok();
            counted.connected(began.elapsed());
            Ok(server)
        }
        Ok(Err(error)) => {
            tracing::debug!(server = %addr, %error, "server refused the connection");
            counted.failed(Some(&error));
            Err(Failed::Refused)
        }
        Err(_) => {
            tracing::debug!(server = %addr, "server did not answer in time");
            counted.failed(None);
            Err(Failed::Late)
        }
    }
}
