//! HTTP/1.1: each request of a client is balanced by itself.
//!
//! ```text
//! client ── Stream ── hyper (server) ── Connection::answer ── headers ── upstream ── hyper (client) ── server
//!              └ Clock: header, keepalive and post-accept timeouts         └ Idle: connections of others, reused
//! ```
//!
//! A client's connection is one task, which owns hyper's connection and polls the clock beside it. A server's connection is
//! a task of its own (`upstream`), which ends with the connection: when the server closes it, the server is retired, or
//! nobody has a handle to it any more. Dropping either closes a socket and loses what was on its way, as when the thread ends.
//!
//! What the codec must not get wrong is hyper's: lengths, chunks, requests that are two (RFC 9112 section 11.2). What a
//! proxy must not pass on is in `headers`.

mod answer;
mod body;
mod clock;
mod fault;
mod headers;
mod upstream;

pub(crate) use clock::Clock;
pub(crate) use upstream::{Idle, expire};

use crate::HttpSpec;
use crate::client::Client;
use crate::relay::{self, Side};
use crate::shared::Service;
use crate::stream::Stream;
use crate::tunnel::{self, Activity};
use answer::Connection;
use clock::Timer;
use fault::Fault;
use hyper::StatusCode;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, timeout};

/// The longest header: all that a client has to say for itself, and not the memory of an engine. As much at most waits to be read or
/// written.
const HEADER_LEN_MAX: usize = 64 * 1024;
/// How long a client may take to hear that its connection ends.
const FAREWELL: Duration = Duration::from_secs(5);

/// How the connection of a client has ended.
enum Ended {
    /// Hyper is done with it.
    Done(hyper::Result<()>),
    /// A request, or its header, has not come in time.
    Late,
    /// It is to end now.
    Cut,
}

/// How a client's connection is served.
pub(crate) struct How {
    pub spec: Arc<HttpSpec>,
    /// The client has used TLS.
    pub is_tls: bool,
    pub accepted: Instant,
}

/// Serves a client until its connection ends.
pub(crate) async fn serve(
    client: &Rc<Client>,
    how: How,
    mut stream: Stream,
    activity: Rc<Activity>,
) {
    let clock = Rc::new(Clock::begin(&how.spec, how.accepted));
    stream.tell(clock.clone());
    let connection = Rc::new(Connection::new(client.clone(), how, clock.clone()));
    let answering = connection.clone();
    let answer = service_fn(move |request| {
        let answer = answering.clone().answer(request);
        Box::pin(async move { Ok::<_, Infallible>(answer.await) })
    });
    let mut http = codec().serve_connection(TokioIo::new(stream), answer);
    let mut timer = Timer::new(&clock);
    let mut is_last = false;
    let served =
        poll_fn(
            |context| match poll_to_end(&mut http, context, &connection, &mut is_last) {
                Poll::Ready(result) => Poll::Ready(Ended::Done(result)),
                Poll::Pending if activity.is_stuck() => {
                    clock.postpone();
                    Poll::Pending
                }
                Poll::Pending => timer.poll(context).map(|()| Ended::Late),
            },
        );
    let ended = tokio::select! {
        ended = served => ended,
        () = stalled(&client.service, &activity) => Ended::Cut,
        () = client.service.cut.given() => Ended::Cut,
    };
    let parts = http.into_parts();
    let side = Side {
        stream: parts.io.into_inner(),
        read: parts.read_buf,
        tcp: &client.stream,
    };
    tokio::select! {
        () = end(&connection, ended, side, activity) => {}
        () = client.service.cut.given() => tunnel::reset(&client.stream),
    }
}

/// Ends when all of the last answer has gone and the client was told that it was the last; where something else is spoken from here
/// on, before that. Whoever has asked for something else in vain has hyper end once more.
fn poll_to_end(
    http: &mut (impl Future<Output = hyper::Result<()>> + Unpin),
    context: &mut Context<'_>,
    connection: &Connection,
    is_last: &mut bool,
) -> Poll<hyper::Result<()>> {
    ready!(Pin::new(&mut *http).poll(context))?;
    if connection.is_upgraded() || std::mem::replace(is_last, true) {
        return Poll::Ready(Ok(()));
    }
    Pin::new(http).poll(context)
}

/// Timeouts are the clock's, so that hyper needs no timer. Names of header fields go on as they were written.
fn codec() -> http1::Builder {
    let mut codec = http1::Builder::new();
    codec
        .preserve_header_case(true)
        .title_case_headers(true)
        .max_header_size(HEADER_LEN_MAX)
        .max_buf_size(HEADER_LEN_MAX)
        .header_read_timeout(None);
    codec
}

async fn end(connection: &Connection, ended: Ended, mut side: Side<'_>, activity: Rc<Activity>) {
    match ended {
        Ended::Done(Ok(())) => match connection.take_upgraded() {
            Some(server) => switch(connection, server, side, activity).await,
            None => linger(&mut side.stream).await,
        },
        // Of an answer that the server has not finished the client must not believe that it is whole.
        Ended::Done(Err(error)) if error.is_user() => tunnel::reset(side.tcp),
        Ended::Late if activity.is_stuck() => tunnel::reset(side.tcp),
        Ended::Late if connection.clock.is_in_header() => {
            connection.count(StatusCode::REQUEST_TIMEOUT);
            say(&mut side, Fault::LATE_HEADER).await;
        }
        Ended::Late => say(&mut side, &[]).await,
        Ended::Done(Err(error)) => {
            if is_refused(&error) {
                connection.count(StatusCode::BAD_REQUEST);
            }
            say(&mut side, &[]).await;
        }
        Ended::Cut => tunnel::reset(side.tcp),
    }
}

/// The codec has answered what is no request by itself: with 400, 414 or 431, all of one class. It says nothing to who begins with HTTP/2.
fn is_refused(error: &hyper::Error) -> bool {
    error.is_parse() && !error.is_parse_version_h2()
}

/// The last words to a client, which may not want to hear them.
async fn say(side: &mut Side<'_>, words: &[u8]) {
    let saying = async {
        side.stream.write_all(words).await?;
        side.stream.shutdown().await
    };
    match timeout(FAREWELL, saying).await {
        Ok(_) => linger(&mut side.stream).await,
        Err(_) => tunnel::reset(side.tcp),
    }
}

/// Until the client has heard and ends as well, or for so long: what it still sends would be answered with RST, which may take our last
/// words from it before it has read them (RFC 9112 section 9.6).
async fn linger(stream: &mut Stream) {
    let mut nobody = tokio::io::sink();
    let heard = tokio::io::copy(stream, &mut nobody);
    timeout(FAREWELL, heard).await.ok();
}

/// The server has agreed to speak something else from here on.
async fn switch(
    connection: &Connection,
    server: upstream::Upstream,
    client: Side<'_>,
    activity: Rc<Activity>,
) {
    let service = &connection.client.service;
    let (tcp, retired) = (server.tcp.clone(), server.counted.retirement());
    // Held until the end, as the server has the connection for as long.
    let (rest, _counted) = server.into_rest();
    if let Ok(rest) = rest.await {
        let server = Side {
            stream: rest.io.into_inner(),
            read: rest.read_buf,
            tcp: &tcp,
        };
        relay::run(client, server, activity, service, &retired).await;
    }
}

/// Ends when the client has not taken what there is for it for the idle timeout.
async fn stalled(service: &Service, activity: &Activity) {
    loop {
        let idle = service.idle_timeout();
        tunnel::idle(idle, activity).await;
        if activity.is_stuck() {
            return;
        }
        tokio::time::sleep(idle.unwrap_or_default()).await;
    }
}

#[cfg(test)]
mod tests;
