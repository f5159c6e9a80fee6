//! Connections to servers. While nobody uses one, it is kept for the next request of any client of this worker.
//!
//! Each has a task, which ends when the server closes the connection, when the server is retired, or when the last handle
//! is gone. It may end at any await: whoever waits for an answer is told.

use super::HEADER_LEN_MAX;
use super::answer::Connection;
use super::body::RequestBody;
use super::fault::Fault;
use crate::TlsVersions;
use crate::client::Clients;
use crate::connection::speak;
use crate::shared::{Chosen, Counted, Meter};
use crate::stream::{End, Stream, Wire};
use crate::tunnel::Activity;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, Parts, SendRequest};
use hyper::header::HeaderValue;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::Instant;

/// How long a connection is kept that nobody uses. Servers close theirs after 60 seconds and more, mostly; a request that
/// meets such an end is sent again, or fails.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// How often it is looked whether connections are too old.
const IDLE_CHECK: Duration = Duration::from_secs(5);
/// Connections to a server that a worker keeps: more are for peaks.
const IDLE_PER_SERVER: usize = 128;

/// How long a server may take to answer, where nothing else is wanted (avi-api `server_timeout`: 0 is an hour).
const SERVER_TIMEOUT: Duration = Duration::from_secs(3600);

/// Kinds of connections that a worker keeps, as clients have a say in names of TLS.
const IDLE_KINDS: usize = 4096;

/// What an upgrade leaves of a connection.
type Rest = Parts<TokioIo<Stream>>;

/// A connection to a server, as somebody uses it.
pub(super) struct Upstream {
    link: Link,
    pub tcp: Rc<TcpStream>,
    pub addr: SocketAddr,
    pub counted: Counted,
    timeout: Option<Duration>,
    /// What the client is told so that it comes back.
    pub cookie: Option<HeaderValue>,
    /// Who may have it afterwards; `None` = nobody else.
    key: Option<Key>,
    /// It has carried a request: the server may have closed it meanwhile.
    pub is_reused: bool,
}

struct Link {
    sender: SendRequest<RequestBody>,
    rest: oneshot::Receiver<Rest>,
}

/// What connections are alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pool: String,
    server: SocketAddr,
    source: Option<IpAddr>,
    tls: Option<(TlsVersions, Option<String>)>,
}

impl Key {
    pub(super) fn of(chosen: &Chosen, source: Option<IpAddr>, name: Option<&str>) -> Self {
        let tls = chosen.pool().back.tls.as_ref();
        let tls = tls.map(|tls| (tls.versions, tls.name_for(name).map(str::to_owned)));
        Self {
            tls,
            pool: chosen.pool().uuid.clone(),
            server: chosen.addr,
            source,
        }
    }
}

impl Upstream {
    /// Begins to speak HTTP.
    pub(super) async fn begin(
        tcp: TcpStream,
        chosen: Chosen,
        key: Option<Key>,
        name: Option<&str>,
    ) -> Result<Self, Fault> {
        let tcp = Rc::new(tcp);
        let activity = Rc::new(Activity::begin());
        let end = End::Server(tcp.clone(), chosen.counted.meter());
        let wire = Wire::new(end, activity);
        let stream = speak(wire, &chosen, name).await?;
        let begun = codec().handshake(TokioIo::new(stream)).await;
        let (sender, connection) = begun.map_err(|_| Fault::Server)?;
        let (tell, rest) = oneshot::channel();
        let retired = chosen.counted.retirement();
        drop(spawn_local(async move {
            tokio::select! {
                ended = connection.without_shutdown() => {
                    ended.ok().map(|parts| tell.send(parts));
                }
                () = retired.given() => {}
            }
        }));
        Ok(Self {
            link: Link { sender, rest },
            tcp,
            addr: chosen.addr,
            timeout: chosen.pool().back.server_timeout,
            cookie: None,
            counted: chosen.counted,
            key,
            is_reused: false,
        })
    }

    /// Uses one that was kept.
    pub(super) fn again(
        kept: Kept,
        chosen: Chosen,
        key: Option<Key>,
        cookie: Option<HeaderValue>,
    ) -> Self {
        Self {
            link: kept.link,
            tcp: kept.tcp,
            addr: chosen.addr,
            timeout: chosen.pool().back.server_timeout,
            cookie,
            counted: chosen.counted,
            key,
            is_reused: true,
        }
    }

    /// How long the server may take to answer, and between two pieces of the answer.
    pub(super) fn patience(&self) -> Duration {
        self.timeout.unwrap_or(SERVER_TIMEOUT)
    }

    /// It can take a request now.
    pub(super) fn is_ready(&self) -> bool {
        self.link.sender.is_ready()
    }

    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        self.link.sender.try_send_request(request).await
    }

    /// What is left of it, once both have agreed on another protocol.
    pub(super) fn into_rest(self) -> (oneshot::Receiver<Rest>, Counted) {
        (self.link.rest, self.counted)
    }
}

/// Names of header fields go on as they were written.
fn codec() -> http1::Builder {
    let mut codec = http1::Builder::new();
    codec
        .preserve_header_case(true)
        .title_case_headers(true)
        .max_buf_size(HEADER_LEN_MAX);
    codec
}

/// A connection that somebody uses until an answer has gone.
pub(super) struct Lease {
    pub upstream: Upstream,
    pub connection: Rc<Connection>,
}

impl Lease {
    /// The answer has gone: it is for this client's next request, or anybody's.
    pub(super) fn give_back(self) {
        let Self {
            upstream,
            connection,
        } = self;
        if !connection.shares() {
            return connection.keep(upstream);
        }
        let Upstream {
            link,
            tcp,
            key,
            counted,
            ..
        } = upstream;
        if let Some(key) = key {
            let idle = connection.client.idle();
            idle.put(key, link, tcp, counted.meter());
        }
    }
}

/// A connection that nobody uses.
pub(super) struct Kept {
    link: Link,
    tcp: Rc<TcpStream>,
    /// Where its bytes are counted.
    meter: Meter,
    since: Instant,
}

/// Those of a worker.
#[derive(Default)]
pub(crate) struct Idle(RefCell<BTreeMap<Key, Vec<Kept>>>);

impl Idle {
    fn put(&self, key: Key, link: Link, tcp: Rc<TcpStream>, meter: Meter) {
        let mut all = self.0.borrow_mut();
        if all.len() >= IDLE_KINDS && !all.contains_key(&key) {
            return;
        }
        let kept = all.entry(key).or_default();
        if kept.len() < IDLE_PER_SERVER && !link.sender.is_closed() {
            kept.push(Kept {
                link,
                tcp,
                meter,
                since: Instant::now(),
            });
        }
    }

    /// The one that was used last and is ready, and whose bytes count for this server.
    pub(super) fn take(&self, key: &Key, server: &Counted) -> Option<Kept> {
        let mut all = self.0.borrow_mut();
        let kept = all.get_mut(key)?;
        kept.retain(|k| !k.link.sender.is_closed());
        let fits = |k: &Kept| k.link.sender.is_ready() && k.meter.counts_for(server);
        let ready = kept.iter().rposition(fits)?;
        Some(kept.remove(ready))
    }

    fn expire(&self, now: Instant) {
        self.0.borrow_mut().retain(|_, kept| {
            kept.retain(|k| now < k.since + IDLE_MAX && !k.link.sender.is_closed());
            !kept.is_empty()
        });
    }
}

/// Closes connections that nobody uses for as long as the worker serves. Nothing is lost when it is dropped at its await.
pub(crate) async fn expire(clients: Rc<Clients>) {
    loop {
        tokio::time::sleep(IDLE_CHECK).await;
        clients.idle.expire(Instant::now());
    }
}
