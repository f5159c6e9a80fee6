//! The controller about itself (avi-api sections 2 and 8). One node for now.

use super::{API_VERSION, App, Context, singleton};
use crate::error::ApiError;
use axum::http::StatusCode;
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
pub(super) fn status() -> Value {
    json!({"cluster_state": state(), "state": "CLUSTER_UP_NO_HA", "progress": 100})
}

fn state() -> Value {
    json!({"state": "CLUSTER_UP_NO_HA", "reason": [], "progress": 100})
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
pub(super) fn cluster(context: &Context) -> Value {
    json!({
        "uuid": "cluster-1",
        "name": "cluster-0-1",
        "tenant_ref": format!("{}/api/tenant/admin", context.origin),
        "nodes": [{"name": "node-1", "vm_uuid": "node-1"}],
    })
}

/// `GET /api/cluster/runtime`.
pub(super) fn runtime() -> Value {
    json!({
        "cluster_state": state(),
        "node_states": [{"name": "node-1", "role": "CLUSTER_LEADER", "state": "CLUSTER_ACTIVE"}],
        "service_states": [],
    })
}
