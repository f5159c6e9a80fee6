//! The REST API: Avi's contract under `/api`, our own beside it under `/api/ek` (avi-api).
//!
//! Paths are taken apart by hand because clients double and trail slashes at will (avi-api section 1). A new
//! resource is a line in [`resources::RESOURCES`]; anything else is a line in [`routes`], whose constructor demands
//! the permission and the audit class, so that no operation exists without them.

mod actions;
mod alerts;
mod audit;
mod backup;
mod cluster;
mod context;
mod events;
mod flowstream;
mod history;
mod inventory;
mod metrics;
mod openapi;
mod operation;
mod page;
mod patch;
mod present;
mod preview;
mod query;
mod resources;
mod routes;
mod sealkey;
mod series;
mod session;
pub mod singleton;
mod stream;
pub mod tls;
mod transfer;
mod unknown_parameters;
mod users;
mod usertoken;

use crate::alerts::Alerts;
use crate::auth::Auth;
use crate::cluster::Nodes;
use crate::error::ApiError;
use crate::events::{Events, Watchman};
use crate::objects::{Objects, refs};
use crate::plan::Backend;
use crate::seal::Ring;
use crate::series::Series;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, StatusCode, header, request};
use axum::response::{IntoResponse, Response};
pub use backup::{Backups, Copied};
pub use context::Context;
use futures_util::StreamExt as _;
pub use inventory::{Part, Parts};
pub use metrics::ApiMetrics;
use model::object::Object;
use operation::{Audit, Call, Match, Permission};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Version of the field set that we speak (avi-api 2.5).
pub const API_VERSION: &str = "30.2.1";
/// Largest request body of a user: thousands of pool servers fit.
pub const BODY_LEN_MAX: usize = 16 << 20;
/// Largest request body of somebody we do not know: a name and a password.
pub const PUBLIC_BODY_LEN_MAX: usize = 16 << 10;
/// How long such a body may take.
const PUBLIC_BODY_WAIT: Duration = Duration::from_secs(30);

/// What the handlers need.
pub struct App {
    /// Configuration.
    pub objects: Arc<Objects>,
    /// Sessions.
    pub auth: Arc<Auth>,
    /// Actions and what is observed.
    pub backend: Arc<Backend>,
    /// Copies of the store.
    pub backups: Backups,
    /// What happened.
    pub events: Arc<Events>,
    /// What is to be looked at.
    pub alerts: Arc<Alerts>,
    /// What engines have counted.
    pub series: Arc<Series>,
    /// What is observed now.
    pub watchman: Arc<Watchman>,
    /// Keys that seal secrets in the store.
    pub ring: Arc<Ring>,
    /// The controllers of this cluster.
    pub nodes: Nodes,
    /// Calls, for `/metrics`.
    pub metrics: ApiMetrics,
    /// Cancelled when another controller leads.
    pub let_go: CancellationToken,
    /// Cancelled when the controller is told to stop; what would answer without an end ends then.
    pub stopping: CancellationToken,
}

/// The service for one listener.
pub fn router(app: Arc<App>) -> Router {
    Router::new().fallback(handle).with_state(app)
}

/// Each call is answered by a task of its own, to its end, also when its client goes away: a commit of which nobody took note
/// would be in the store and not in memory.
async fn handle(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    if app.let_go.is_cancelled() {
        return crate::cluster::let_go();
    }
    let answered = tokio::spawn(answer_to(app, peer, request)).await;
    answered.unwrap_or_else(|e| ApiError::internal("the call", &e).into_response())
}

async fn answer_to(app: Arc<App>, peer: SocketAddr, request: Request) -> Response {
    let began = Instant::now();
    let (parts, body) = request.into_parts();
    let peer = app.nodes.caller(peer, &parts.headers);
    let mut body = Some(body);
    let segments: Vec<String> = parts
        .uri
        .path()
        .split('/')
        .filter(|s| !s.is_empty())
        .map(refs::decode_path)
        .collect();
    let mut response = match operation::find(&routes::OPERATIONS, &parts.method, &segments) {
        Err(response) => *response,
        Ok(found) => {
            let last = segments.last().map_or("", String::as_str);
            let answer = answer(&app, peer, &parts, &mut body, &found, last).await;
            answer.unwrap_or_else(IntoResponse::into_response)
        }
    };
    if let Some(body) = body {
        // Refused before it was read: the client is to be listening when the answer comes, and may go on with the
        // connection.
        in_time(read(body, PUBLIC_BODY_LEN_MAX)).await.ok();
    }
    app.metrics
        .count(&parts.method, response.status(), began.elapsed());
    let headers = response.headers_mut();
    headers.insert("AVI_API_VERSION", HeaderValue::from_static(API_VERSION));
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("private, no-cache, must-revalidate"),
    );
    if app.stopping.is_cancelled() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Who is it, may he, then do it. Errors before the session is known are the caller's to show; later ones are an
/// answer as any other, which renews the session. A body that was not needed stays where it is.
async fn answer(
    app: &App,
    peer: SocketAddr,
    parts: &request::Parts,
    body: &mut Option<Body>,
    found: &Match<'_>,
    last: &str,
) -> Result<Response, ApiError> {
    let operation = found.operation;
    if operation.permission == Permission::Public {
        app.auth.strangers.call(peer.ip())?;
        let context = Context::anonymous(peer, parts);
        let body = in_time(read(body.take(), PUBLIC_BODY_LEN_MAX)).await?;
        return run(app, &context, parts, body, found, last).await;
    }
    let (ticket, access) = session::check(app, peer, parts).await?;
    let mut response = async {
        let context = Context::new(app, peer, parts, ticket.clone(), access)?;
        operation.check(app, &context, found)?;
        operation.check_dry_run(&context)?;
        unknown_parameters::check(operation, &context)?;
        if context.author.confirm_within_s.is_some() && operation.audit != Audit::Change {
            let header = crate::objects::CONFIRM_WITHIN;
            let text = format!(
                "{header}: only a change of configuration can be confirmed; leave the header out"
            );
            return Err(ApiError::bad_request(text));
        }
        let body = read(body.take(), BODY_LEN_MAX).await?;
        let response = run(app, &context, parts, body, found, last).await;
        if let Some(planned) = context.author.planned() {
            return Ok(ok(preview::of_change(app, &context, &planned)));
        }
        response.map(|response| with_revision(response, &context))
    }
    .await
    .unwrap_or_else(IntoResponse::into_response);
    if matches!(operation.audit, Audit::Change | Audit::Action) {
        let (user, from, status) = (&ticket.user, peer.ip(), response.status().as_u16());
        let (method, path, token) = (&parts.method, parts.uri.path(), ticket.token.as_deref());
        let dry_run = operation.plans && Context::anonymous(peer, parts).asks("dry_run");
        tracing::info!(user, %from, token, %method, path, status, dry_run, "audit");
    }
    session::refresh(&ticket, response.headers_mut());
    Ok(response)
}

/// Says which revision a write has become.
fn with_revision(mut response: Response, context: &Context) -> Response {
    if let Some(revision) = context.author.written() {
        let headers = response.headers_mut();
        headers.insert("X-Evenkeel-Revision", HeaderValue::from(revision));
    }
    response
}

async fn run(
    app: &App,
    context: &Context,
    parts: &request::Parts,
    body: Vec<u8>,
    found: &Match<'_>,
    last: &str,
) -> Result<Response, ApiError> {
    let call = Call {
        app,
        context,
        headers: &parts.headers,
        body,
        type_path: &found.type_path,
        uuid: &found.uuid,
        last,
    };
    found.operation.run(&call).await
}

/// What somebody we do not know sends comes soon, or does not count.
pub async fn in_time<T>(body: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    let late = |_| {
        let text = "the body did not come in time; send it again";
        ApiError::new(StatusCode::REQUEST_TIMEOUT, text)
    };
    tokio::time::timeout(PUBLIC_BODY_WAIT, body)
        .await
        .map_err(late)?
}

/// The whole body. One that is somewhat too long is read to its end and dropped, so that the client is listening
/// when the answer comes.
pub async fn read(body: impl Into<Option<Body>>, len_max: usize) -> Result<Vec<u8>, ApiError> {
    let mut chunks = body.into().unwrap_or_default().into_data_stream();
    let (mut whole, mut len) = (Vec::new(), 0);
    while let Some(chunk) = chunks.next().await {
        let cut = |_| ApiError::bad_request("the body ended before its end");
        let chunk = chunk.map_err(cut)?;
        len += chunk.len();
        if len <= len_max {
            whole.extend_from_slice(&chunk);
        } else if len > 2 * len_max {
            break;
        }
    }
    if len > len_max {
        let text = format!("the body is longer than {len_max} bytes");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    Ok(whole)
}

pub fn ok(value: Value) -> Response {
    axum::Json(value).into_response()
}

/// The JSON object of a body; an empty one is `{}`.
fn parse(body: &[u8]) -> Result<Object, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Object::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(ApiError::bad_request(
            "the body must be a JSON object; write { … }",
        )),
        Err(error) => Err(ApiError::bad_request(format!(
            "the body is not JSON: {error}"
        ))),
    }
}
