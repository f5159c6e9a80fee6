//! The REST API: Avi's contract under `/api`, our own beside it under `/api/ek` (avi-api).
//!
//! Paths are taken apart by hand because clients double and trail slashes at will (avi-api section 1). A new
//! resource is a line in [`resources::RESOURCES`]; a new action or query is a line in [`route`], which also names
//! what the caller must be allowed to do, so that no route exists without it.

mod cluster;
mod context;
mod patch;
mod present;
mod query;
mod resources;
mod session;
pub mod tls;

use crate::auth::Auth;
use crate::error::ApiError;
use crate::objects::Objects;
use crate::plan::Backend;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
pub use context::Context;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;

/// Version of the field set that we speak (avi-api 2.5).
pub const API_VERSION: &str = "30.2.1";
/// Largest request body: thousands of pool servers fit.
const BODY_LEN_MAX: usize = 16 << 20;

/// What the handlers need.
pub struct App {
    /// Configuration.
    pub objects: Arc<Objects>,
    /// Sessions.
    pub auth: Arc<Auth>,
    /// Actions and what is observed.
    pub backend: Arc<Backend>,
}

/// The service for one listener.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .fallback(handle)
        .layer(DefaultBodyLimit::max(BODY_LEN_MAX))
        .with_state(app)
}

async fn handle(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let segments: Vec<String> = uri
        .path()
        .split('/')
        .filter(|s| !s.is_empty())
        .map(crate::objects::refs::decode)
        .collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let result = match segments.as_slice() {
        ["login"] if method == Method::POST => {
            return session::login(&app, peer, &headers, &body).await;
        }
        ["logout"] => return session::logout(&app, &headers),
        ["api", "cluster", "status"] => Ok(ok(cluster::status())),
        ["api", "initial-data"] => Ok(ok(cluster::initial_data())),
        ["api", rest @ ..] => authenticated(&app, peer, &method, &uri, &headers, rest, &body).await,
        _ => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "the API is under /api",
        )),
    };
    result.unwrap_or_else(IntoResponse::into_response)
}

async fn authenticated(
    app: &App,
    peer: SocketAddr,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    segments: &[&str],
    body: &Bytes,
) -> Result<Response, ApiError> {
    let ticket = session::check(app, method, headers)?;
    let context = Context::new(app, peer, uri, headers, &ticket)?;
    let mut response = match route(app, &context, method, segments, body).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    session::refresh(&ticket, response.headers_mut());
    Ok(response)
}

/// The table of routes behind the login.
async fn route(
    app: &App,
    context: &Context,
    method: &Method,
    segments: &[&str],
    body: &Bytes,
) -> Result<Response, ApiError> {
    let get = *method == Method::GET;
    let post = *method == Method::POST;
    let backend = &app.backend;
    match segments {
        ["cluster"] if get => Ok(ok(cluster::cluster())),
        ["cluster", "version"] if get => Ok(ok(cluster::version())),
        ["cluster", "runtime"] if get => Ok(ok(cluster::runtime())),
        ["ek", "bgp"] if get => Ok(ok(backend.ek_bgp())),
        ["ek", "jointoken"] if post => {
            let token = backend.create_join_token(parse(body)?).await?;
            Ok((StatusCode::CREATED, axum::Json(token)).into_response())
        }
        [inventory] if get && inventory.ends_with("-inventory") => {
            let kind = inventory.trim_end_matches("-inventory");
            Ok(ok(query::page(
                context,
                backend.inventory_list(kind, context)?,
            )))
        }
        [inventory, uuid] if get && inventory.ends_with("-inventory") => {
            let kind = inventory.trim_end_matches("-inventory");
            Ok(ok(backend.inventory(kind, uuid, context)?))
        }
        [path] => resources::collection(app, context, method, path, body).await,
        [path, uuid] => resources::single(app, context, method, path, uuid, body).await,
        [path, uuid, rest @ ..] => actions(app, context, method, path, uuid, rest, body).await,
        [] => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "name an object type, such as /api/pool",
        )),
    }
}

/// What hangs under an object: queries of what is observed, and actions (avi-api sections 9 and 10).
async fn actions(
    app: &App,
    context: &Context,
    method: &Method,
    path: &str,
    uuid: &str,
    rest: &[&str],
    body: &Bytes,
) -> Result<Response, ApiError> {
    let ty = resources::known(path)?;
    app.objects.snapshot().require(ty, uuid)?;
    let backend = &app.backend;
    let get = *method == Method::GET;
    match (path, rest) {
        ("virtualservice", ["runtime"]) if get => Ok(ok(backend.vs_runtime(uuid, context)?)),
        ("serviceengine", ["runtime"]) if get => Ok(ok(backend.se_runtime(uuid)?)),
        ("serviceengine", ["bgp"]) if get => Ok(ok(backend.se_bgp(uuid)?)),
        ("pool", ["runtime"]) if get => Ok(ok(backend.pool_runtime(uuid)?)),
        ("pool", ["runtime", "server"]) if get => Ok(ok(backend.pool_servers(uuid)?)),
        // Some clients read an action's path before they post to it (avi-api 4.2).
        (
            "virtualservice",
            ["scaleout" | "scalein" | "migrate" | "switchover" | "retryplacement"],
        ) if get => Ok(ok(json!({"count": 0, "results": []}))),
        ("virtualservice", ["scaleout"]) if *method == Method::POST => {
            Ok(ok(backend.scale_out(uuid, parse(body)?, context).await?))
        }
        ("virtualservice", ["scalein"]) if *method == Method::POST => {
            Ok(ok(backend.scale_in(uuid, parse(body)?, context).await?))
        }
        _ => {
            let text = format!("there is no {method} /api/{path}/UUID/{}", rest.join("/"));
            Err(ApiError::new(StatusCode::NOT_FOUND, text))
        }
    }
}

fn ok(value: Value) -> Response {
    axum::Json(value).into_response()
}

/// The JSON object of a body; an empty one is `{}`.
fn parse(body: &[u8]) -> Result<model::object::Object, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(model::object::Object::new());
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
