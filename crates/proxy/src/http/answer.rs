//! From a request to its answer: what the profile says, a server, and once more where the server's connection was stale.

use super::How;
use super::body::{Body, Late, RequestBody};
use super::clock::Clock;
use super::fault::Fault;
use super::headers::{self, Asker};
use super::upstream::{Key, Lease, Upstream};
use crate::HttpSpec;
use crate::client::Client;
use crate::connection::{SERVERS_TRIED_MAX, connect_to};
use crate::shared::Chosen;
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    AUTHORIZATION, CONNECTION, HeaderMap, HeaderName, HeaderValue, LOCATION, SET_COOKIE,
    WWW_AUTHENTICATE,
};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode, Version};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

/// A client's connection, as its requests know it.
pub(super) struct Connection {
    pub client: Rc<Client>,
    pub spec: Arc<HttpSpec>,
    is_tls: bool,
    pub clock: Rc<Clock>,
    /// This client's connection to a server, where it has one of its own.
    kept: RefCell<Option<Upstream>>,
    upgraded: RefCell<Option<Upstream>>,
    /// The server knows the client by its connection.
    bound: Cell<bool>,
}

/// A request is being answered until this is dropped: when all of it has come, and its answer has gone.
pub(super) struct Answering(Rc<Clock>);

impl Answering {
    fn begin(clock: &Rc<Clock>) -> Rc<Self> {
        clock.begin_request();
        Rc::new(Self(clock.clone()))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.end_request();
    }
}

/// An answer, and the connection that it came by.
type Answered = (Response<Incoming>, Upstream);

impl Connection {
    pub(super) fn new(client: Rc<Client>, how: How, clock: Rc<Clock>) -> Self {
        let How { spec, is_tls, .. } = how;
        Self {
            client,
            spec,
            is_tls,
            clock,
            kept: RefCell::default(),
            upgraded: RefCell::default(),
            bound: Cell::default(),
        }
    }

    /// A server and the client speak another protocol from here on.
    pub(super) fn is_upgraded(&self) -> bool {
        self.upgraded.borrow().is_some()
    }

    /// A server that speaks another protocol from here on.
    pub(super) fn take_upgraded(&self) -> Option<Upstream> {
        self.upgraded.take()
    }

    /// Another client may have the connection that this one has used.
    pub(super) fn shares(&self) -> bool {
        self.spec.multiplexing && !self.bound.get()
    }

    /// The next request of this client goes there, too.
    pub(super) fn keep(&self, upstream: Upstream) {
        self.kept.replace(Some(upstream));
    }

    /// Counts an answer to what is no request; the others are counted when their bodies have gone.
    pub(super) fn count(&self, status: StatusCode) {
        self.client.service.counters.responses.count(status);
    }

    pub(super) async fn answer(self: Rc<Self>, request: Request<Incoming>) -> Response<Body> {
        let answering = Answering::begin(&self.clock);
        let answer = self.clone().exchange(request, answering.clone()).await;
        let mut response = answer.unwrap_or_else(Fault::response);
        let is_http = response.status() != StatusCode::SWITCHING_PROTOCOLS;
        if is_http && self.client.service.is_closing() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        let status = response.status();
        let body = response.body_mut();
        body.hold(answering, (self.client.clone(), status));
        response
    }

    async fn exchange(
        self: Rc<Self>,
        request: Request<Incoming>,
        answering: Rc<Answering>,
    ) -> Result<Response<Body>, Fault> {
        let (mut head, body) = request.into_parts();
        headers::check(&mut head)?;
        if let Some(port) = self.spec.redirect_port.filter(|_| !self.is_tls) {
            return self.redirect(&head, port);
        }
        self.bind(&head.headers, &AUTHORIZATION);
        let upgrade = headers::upgrade(&head);
        headers::to_server(
            &mut head,
            &body,
            &self.asker(),
            &self.spec,
            upgrade.as_ref(),
        );
        let late = Late::default();
        let body = RequestBody::new(body, self.spec.body_timeout, (late.clone(), answering));
        let answered = self.send(Request::from_parts(head, body)).await;
        let answered = answered.map_err(|fault| match late.get() {
            true => Fault::ClientLate,
            false => fault,
        });
        let (response, upstream) = answered?;
        self.pass_on(response, upstream, upgrade)
    }

    /// NTLM and Negotiate authenticate a connection: from then on nobody else's requests go by it (RFC 4559 section 6).
    fn bind(&self, headers: &HeaderMap, name: &HeaderName) {
        if headers::authenticates_connection(headers, name) {
            self.bound.set(true);
        }
    }

    fn asker(&self) -> Asker {
        Asker {
            client: self.client.peer.ip(),
            vip: self.client.vip,
            is_tls: self.is_tls,
        }
    }

    fn redirect(&self, head: &Parts, port: u16) -> Result<Response<Body>, Fault> {
        let to = headers::secure(head, self.client.vip, port).ok_or(Fault::Malformed)?;
        let mut response = Response::new(Body::none());
        *response.status_mut() = StatusCode::FOUND;
        response.headers_mut().insert(LOCATION, to);
        Ok(response)
    }

    /// The server's answer as the client gets it.
    fn pass_on(
        self: Rc<Self>,
        response: Response<Incoming>,
        upstream: Upstream,
        upgrade: Option<HeaderValue>,
    ) -> Result<Response<Body>, Fault> {
        let (mut head, body) = response.into_parts();
        self.bind(&head.headers, &WWW_AUTHENTICATE);
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let asked = upgrade.filter(|_| switches);
        let upgrade = asked.and_then(|asked| headers::agreed(&head.headers, &asked));
        headers::to_client(&mut head.headers, upgrade.as_ref());
        if let Some(cookie) = upstream.cookie.clone() {
            head.headers.append(SET_COOKIE, cookie);
        }
        head.version = Version::HTTP_11;
        let body = match (switches, upgrade) {
            (false, _) => Body::server(
                body,
                Lease {
                    upstream,
                    connection: self,
                },
            ),
            (true, Some(_)) => {
                self.upgraded.replace(Some(upstream));
                Body::none()
            }
            // Nobody has asked it to.
            (true, None) => return Err(Fault::Server),
        };
        Ok(Response::from_parts(head, body))
    }

    async fn send(&self, request: Request<RequestBody>) -> Result<Answered, Fault> {
        let upstream = self.upstream(request.headers(), false).await?;
        let again = upstream.is_reused.then(|| repeatable(&request)).flatten();
        match self.send_by(upstream, request).await {
            Ok(answered) => Ok(answered),
            Err((fault, unsent)) => match unsent.or(again) {
                Some(request) => {
                    let fresh = self.upstream(request.headers(), true).await?;
                    let answered = self.send_by(fresh, request).await;
                    answered.map_err(|(fault, _)| fault)
                }
                None => Err(fault),
            },
        }
    }

    /// A request that has not been sent is given back.
    async fn send_by(
        &self,
        mut upstream: Upstream,
        request: Request<RequestBody>,
    ) -> Result<Answered, (Fault, Option<Request<RequestBody>>)> {
        self.client.traffic.server.set(Some(upstream.addr));
        let timeout = upstream.patience();
        match tokio::time::timeout(timeout, upstream.send(request)).await {
            Ok(Ok(response)) => Ok((response, upstream)),
            Ok(Err(mut failed)) => {
                tracing::debug!(server = %upstream.addr, error = %failed.error(), "no answer");
                Err((Fault::Server, failed.take_message()))
            }
            Err(_) => Err((Fault::ServerLate, None)),
        }
    }

    /// A connection to a server that is to have the next request: one that is there, unless a fresh one is wanted.
    async fn upstream(&self, headers: &HeaderMap, fresh: bool) -> Result<Upstream, Fault> {
        let own = self.kept.take().filter(|own| own.is_ready() && !fresh);
        if let Some(mut own) = own {
            // What the client was to be told it knows.
            (own.is_reused, own.cookie) = (true, None);
            return Ok(own);
        }
        let (mut tried, mut fault): (Vec<SocketAddr>, _) = (Vec::new(), Fault::NoServer);
        while tried.len() < SERVERS_TRIED_MAX {
            let Some(chosen) = self.choose(headers, &tried) else {
                break;
            };
            let addr = chosen.addr;
            match self.reach(chosen, headers, fresh).await {
                Ok(upstream) => return Ok(upstream),
                Err(failed) => fault = failed,
            }
            tried.push(addr);
        }
        Err(fault)
    }

    /// The server that the client's cookie names, unless it was tried already.
    fn choose(&self, headers: &HeaderMap, tried: &[SocketAddr]) -> Option<Chosen> {
        let (service, vip) = (&self.client.service, self.client.vip);
        let named = tried.is_empty().then(|| service.named(headers, vip));
        let other = || service.choose([self.client.peer, vip], tried);
        named.flatten().or_else(other)
    }

    async fn reach(
        &self,
        chosen: Chosen,
        headers: &HeaderMap,
        fresh: bool,
    ) -> Result<Upstream, Fault> {
        let (service, vip) = (&self.client.service, self.client.vip);
        let name = headers::host_name(headers);
        let key = self.spec.multiplexing && chosen.keeps_idle();
        let source = service.source(chosen.addr, vip);
        let key = key.then(|| Key::of(&chosen, source, name.as_deref()));
        let cookie = chosen.cookie(headers, vip);
        let kept = key.as_ref().filter(|_| !fresh);
        let idle = self.client.idle();
        if let Some(kept) = kept.and_then(|key| idle.take(key, &chosen.counted)) {
            return Ok(Upstream::again(kept, chosen, key, cookie));
        }
        let tcp = connect_to(service, &chosen, vip).await?;
        let mut upstream = Upstream::begin(tcp, chosen, key, name.as_deref()).await?;
        upstream.cookie = cookie;
        Ok(upstream)
    }
}

/// The same again, if it may be sent twice: it has no body, and asking twice is asking once (RFC 9110 section 9.2.2).
fn repeatable(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let fits = request.method().is_idempotent() && request.body().is_end_stream();
    fits.then(|| {
        let mut copy = Request::new(RequestBody::none());
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.headers_mut() = request.headers().clone();
        *copy.extensions_mut() = request.extensions().clone();
        copy
    })
}
