//! A controller that does not lead: its API passes every call on to the leader, and says hello to it.

use super::ask::{Failed, PASS, ask};
use super::card::Card;
use super::nodes::{HELLO, Hello};
use crate::api;
use crate::api::tls::Served;
use crate::error::ApiError;
use crate::{Api, door};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header, request};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use store::etcd::Leader;
use store::{Etcd, Store as _};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// How long a call waits for a leader: longer than one is missed after the one before was killed.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the leader may take to answer a hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
/// Calls with a large body at once: each is kept here until it is answered.
const LARGE_MAX: usize = 16;
/// Pause between two attempts to reach a leader that is there.
const PAUSE: Duration = Duration::from_millis(100);

/// See the module's documentation.
pub struct Follower {
    api: Api,
    greeter: JoinHandle<()>,
}

struct Passing {
    us: Card,
    etcd: Arc<Etcd>,
    /// Places for calls with a large body.
    large: Semaphore,
    stopping: CancellationToken,
}

impl Follower {
    /// Serves the API at this address.
    ///
    /// # Errors
    /// The address cannot be had.
    pub fn open(
        listen: SocketAddr,
        served: &Served,
        card: &Card,
        etcd: Arc<Etcd>,
    ) -> anyhow::Result<Self> {
        let stopping = CancellationToken::new();
        let passing = Arc::new(Passing {
            us: card.clone(),
            etcd: etcd.clone(),
            large: Semaphore::new(LARGE_MAX),
            stopping: stopping.clone(),
        });
        let router = Router::new().fallback(handle).with_state(passing);
        let api = Api::serve(listen, served, router, stopping)?;
        tracing::info!(api = %api.address, "follows");
        let greeter = tokio::spawn(greet(etcd, card.clone()));
        Ok(Self { api, greeter })
    }

    /// Closes the listener; gives what lets the connections end that have calls yet.
    pub async fn close(self) -> impl Future<Output = ()> + Send + 'static {
        self.greeter.abort();
        self.api.stopping.cancel();
        let mut task = self.api.task;
        tokio::select! {
            () = self.api.closed.cancelled() => {}
            // It has ended by itself, with its listener.
            _ = &mut task => {}
        }
        async move {
            door::end_connections(&self.api.handle).await;
            if !task.is_finished() {
                task.await.ok();
            }
        }
    }
}

async fn handle(
    State(passing): State<Arc<Passing>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let path = request.uri().path().trim_end_matches('/');
    let answer = match path {
        "/healthz" => Ok(api::ok(json!({"status": "ok"}))),
        "/readyz" => passing.readiness(),
        _ => passing.pass_on(peer, request).await,
    };
    let mut answer = answer.unwrap_or_else(IntoResponse::into_response);
    if passing.stopping.is_cancelled() {
        let headers = answer.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// Why there is no answer of the leader's.
enum Refusal {
    /// Certainly nothing was done; who sees the mark may ask another controller at once.
    NotDone(String),
    /// It may have been done.
    Unknown(String),
    /// It was not passed on.
    Bad(ApiError),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let unavailable = |text| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text);
        match self {
            Self::NotDone(text) => super::not_done(unavailable(text)),
            Self::Unknown(text) => unavailable(text).into_response(),
            Self::Bad(error) => error.into_response(),
        }
    }
}

impl Passing {
    /// Calls will be passed on.
    fn readiness(&self) -> Result<Response, Refusal> {
        match &*self.etcd.leader().borrow() {
            Some(_) => Ok(api::ok(json!({"status": "ok"}))),
            None => Err(no_leader()),
        }
    }

    async fn pass_on(&self, peer: SocketAddr, request: Request) -> Result<Response, Refusal> {
        let (head, body) = request.into_parts();
        if head
            .headers
            .get(PASS)
            .is_some_and(|p| p == self.us.pass.as_str())
        {
            // Another one takes us for the leader. It is not to go round in circles.
            return Err(no_leader());
        }
        let _place = self.place(&head).await;
        let max = match is_known(&head) {
            true => api::BODY_LEN_MAX,
            false => api::PUBLIC_BODY_LEN_MAX,
        };
        let body = api::in_time(api::read(body, max)).await;
        let body = Bytes::from(body.map_err(Refusal::Bad)?);
        let until = Instant::now() + PATIENCE;
        loop {
            let (leader, term) = self.leader(until).await?;
            let answer = tokio::select! {
                answer = ask(&leader, &head, body.clone(), peer.ip()) => answer,
                // Whom we asked is gone, and will not say so.
                () = self.another_leads(term) => Err(Failed::Unknown(io::ErrorKind::ConnectionAborted.into())),
            };
            let again = Instant::now() + PAUSE < until;
            match answer {
                Ok(answer) => return Ok(answer),
                Err(Failed::NotAsked(_)) if again => sleep(PAUSE).await,
                Err(Failed::Unknown(_)) if again && reads(&head) => sleep(PAUSE).await,
                Err(failed) => return Err(refusal(&leader, failed)),
            }
        }
    }

    /// A place for a call whose body is large, or does not say how large it is.
    async fn place(&self, head: &request::Parts) -> Option<SemaphorePermit<'_>> {
        let len = head.headers.get(header::CONTENT_LENGTH);
        let len = len.and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        let small = match len {
            Some(len) => len <= api::PUBLIC_BODY_LEN_MAX,
            None => reads(head),
        };
        match small {
            true => None,
            false => self.large.acquire().await.ok(),
        }
    }

    async fn another_leads(&self, term: u64) {
        let mut leader = self.etcd.leader();
        let other = |l: &Option<Leader>| l.as_ref().is_some_and(|l| l.term != term);
        leader.wait_for(other).await.ok();
    }

    /// Who leads, and in which term.
    async fn leader(&self, until: Instant) -> Result<(Card, u64), Refusal> {
        let mut leader = self.etcd.leader();
        let known = timeout_at(until, leader.wait_for(Option::is_some)).await;
        let known = known.ok().and_then(Result::ok).ok_or_else(no_leader)?;
        let card = known
            .as_ref()
            .and_then(|l| Some((Card::read(&l.who)?, l.term)));
        card.ok_or_else(|| {
            let text = "the leader is a program that this one does not know; use one version";
            Refusal::NotDone(text.into())
        })
    }
}

/// Somebody who says who he is; whether that is so, the leader sees.
fn is_known(head: &request::Parts) -> bool {
    let says = |name| head.headers.contains_key(name);
    says(header::COOKIE) || says(header::AUTHORIZATION)
}

/// What may be asked twice.
fn reads(head: &request::Parts) -> bool {
    head.method == Method::GET || head.method == Method::HEAD
}

fn no_leader() -> Refusal {
    let text = "no controller leads: nothing was done; see that a majority of etcd's members runs and can be reached from \
                the controllers, and repeat";
    Refusal::NotDone(text.into())
}

fn refusal(leader: &Card, failed: Failed) -> Refusal {
    let name = &leader.name;
    match failed {
        Failed::NotAsked(why) => Refusal::NotDone(format!(
            "the leader {name} cannot be reached at {} ({why}): nothing was done; see that its API can be reached from here, \
             and repeat",
            leader.api
        )),
        Failed::Unknown(why) => Refusal::Unknown(format!(
            "the leader {name} was lost before it answered ({why}): it may have done what it was asked to; read again before \
             you repeat it"
        )),
    }
}

/// Says hello to whoever leads, until it is aborted.
async fn greet(etcd: Arc<Etcd>, card: Card) {
    let card = Card {
        pass: String::new(),
        ..card
    };
    let mut said = String::new();
    loop {
        let hello = Hello {
            card: card.clone(),
            revision: *etcd.revision().borrow(),
        };
        let leader = etcd.leader().borrow().clone();
        if let Some(leader) = leader.and_then(|l| Card::read(&l.who)) {
            let said_in_time = timeout(HELLO_TIMEOUT, say_hello(&leader, &hello)).await;
            let outcome = said_in_time.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let outcome = outcome.err();
            let why = outcome.map(|e| e.to_string()).unwrap_or_default();
            // Once, and not every second.
            if why != said && !why.is_empty() {
                tracing::warn!(
                    leader = leader.name,
                    why,
                    "the leader does not take our hello"
                );
            }
            said = why;
        }
        sleep(HELLO).await;
    }
}

async fn say_hello(leader: &Card, hello: &Hello) -> io::Result<()> {
    let request = Request::post("/api/ek/cluster/hello");
    let request = request.header(header::CONTENT_TYPE, "application/json");
    let (head, ()) = request.body(()).map_err(io::Error::other)?.into_parts();
    let body = Bytes::from(serde_json::to_vec(hello)?);
    let us = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let answer = match ask(leader, &head, body, us).await {
        Ok(answer) => answer,
        Err(Failed::NotAsked(why) | Failed::Unknown(why)) => return Err(why),
    };
    if answer.status().is_success() {
        return Ok(());
    }
    let text = axum::body::to_bytes(Body::new(answer.into_body()), 4096).await;
    let text = text.map_err(io::Error::other)?;
    Err(io::Error::other(
        String::from_utf8_lossy(&text).into_owned(),
    ))
}
