//! The controller about itself (avi-api sections 2 and 8). Of several the leader answers: see `crate::cluster`.

use super::operation::Call;
use super::{API_VERSION, App, preview, singleton};
use crate::error::ApiError;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// The `version` object of the login reply.
pub(super) fn version() -> Value {
    json!({
        "Version": API_VERSION,
        "Tag": format!("{API_VERSION}-1-20240101.000000"),
        "Product": "controller",
        "ProductName": concat!("Evenkeel ", env!("CARGO_PKG_VERSION")),
        "build": 1,
        "min_version": 15.2,
        "Date": "2024-01-01T00:00:00+00:00",
    })
}

/// `GET /api/cluster/status`, also without a session.
pub(super) fn status(app: &App) -> Value {
    let state = state(app);
    json!({"cluster_state": state, "state": state["state"], "progress": 100})
}

fn state(app: &App) -> Value {
    app.nodes.state(revision(app))
}

fn revision(app: &App) -> u64 {
    *app.objects.store().revision().borrow()
}

/// `GET /healthz`: the process answers.
pub(super) fn health() -> Value {
    json!({"status": "ok"})
}

/// `GET /readyz`: the store answers, so that reads and writes will, and the controller has not been told to stop.
///
/// # Errors
/// 503.
pub(super) async fn readiness(app: &App) -> Result<Value, ApiError> {
    if app.stopping.is_cancelled() {
        return Err(unready("the controller is stopping"));
    }
    match app.objects.store().get("/object/tenant/admin").await {
        Ok(Some(_)) => Ok(health()),
        Ok(None) => Err(unready("the store has no tenant admin")),
        Err(error) => Err(unready(&error.to_string())),
    }
}

fn unready(why: &str) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, why)
}

/// What a client may know of the settings before it logs in.
pub(super) fn settings(app: &App) -> Value {
    json!({"api_idle_timeout": singleton::api_idle_timeout_min(&app.objects.snapshot())})
}

/// `GET /api/initial-data`, also without a session; nothing secret.
pub(super) fn initial_data(app: &App) -> Value {
    json!({
        "version": version(),
        "controller": settings(app),
        "user_initialized": true,
        "session_cookie_name": super::session::SESSION_COOKIE,
    })
}

/// `GET /api/cluster`.
pub(super) fn cluster(call: &Call<'_>) -> Value {
    json!({
        "uuid": "cluster-1",
        "name": "cluster-0-1",
        "tenant_ref": format!("{}/api/tenant/admin", call.context.origin),
        "nodes": call.app.nodes.list(),
    })
}

/// `GET /api/cluster/runtime`.
pub(super) fn runtime(app: &App) -> Value {
    json!({
        "cluster_state": state(app),
        "node_states": app.nodes.states(revision(app)),
        "service_states": [],
    })
}

/// `POST /api/ek/cluster/hello`: another controller of the cluster is there.
///
/// # Errors
/// See [`crate::cluster::Nodes::hello`].
pub(super) async fn hello(call: &Call<'_>) -> Result<Value, ApiError> {
    let hello = serde_json::from_slice(&call.body);
    let hello = hello.map_err(|e| ApiError::bad_request(format!("this is no hello: {e}")))?;
    let app = call.app;
    app.nodes
        .hello(call.headers, hello, &**app.objects.store())
        .await?;
    Ok(json!({}))
}

/// `DELETE /api/ek/cluster/node/{name}`: a controller is gone for good.
///
/// # Errors
/// See [`crate::cluster::Nodes::forget`].
pub(super) async fn forget(call: &Call<'_>) -> Result<Response, ApiError> {
    let (app, name) = (call.app, call.uuid);
    if call.context.author.dry_run {
        app.nodes.check_gone(name)?;
        let effect = format!("controller {name} is no member of the cluster any more");
        return Ok(preview::of_effects(call, &[effect]));
    }
    app.nodes.forget(name, &**app.objects.store()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
