//! The system's own settings: one object, read and replaced at the collection's path (avi-api section 8).

use super::operation::Call;
use super::{App, Context, ok, parse, patch as patches, present, resources};
use crate::error::ApiError;
use crate::objects::Snapshot;
use axum::http::StatusCode;
use axum::response::Response;
use model::object::Object;
use model::schema::{ObjectType, object_type};
use serde_json::Value;

/// Path name of the type.
pub(crate) const PATH: &str = "systemconfiguration";
/// uuid of the only one.
pub(crate) const UUID: &str = "default";

fn ty() -> &'static ObjectType {
    object_type(PATH).expect("in the schema")
}

/// `GET /api/systemconfiguration`.
pub(super) fn read(call: &Call<'_>) -> Result<Response, ApiError> {
    show(call.app, call.context).map(ok)
}

/// The settings as a client sees them.
pub(super) fn show(app: &App, context: &Context) -> Result<Value, ApiError> {
    let snapshot = app.objects.snapshot();
    let stored = snapshot.require(ty(), UUID)?;
    let names = present::Names::AsAsked;
    Ok(present::present(
        &snapshot,
        ty(),
        UUID,
        &stored,
        context,
        names,
    ))
}

/// `PUT /api/systemconfiguration`.
pub(super) async fn put(call: &Call<'_>) -> Result<Response, ApiError> {
    let body = parse(&call.body)?;
    update(call, |_| Ok(body)).await
}

/// `PATCH /api/systemconfiguration`.
pub(super) async fn patch(call: &Call<'_>) -> Result<Response, ApiError> {
    let body = parse(&call.body)?;
    update(call, |stored| patches::apply(ty(), stored, &body)).await
}

async fn update(
    call: &Call<'_>,
    body: impl FnOnce(Object) -> Result<Object, ApiError>,
) -> Result<Response, ApiError> {
    resources::change(call, ty(), UUID, body).await?;
    resources::shown(call, ty(), UUID, StatusCode::OK)
}

/// True when scripts may send their password with every call (avi-api 2.4).
pub(super) fn allows_basic(snapshot: &Snapshot) -> bool {
    let stored = snapshot.get(PATH, UUID);
    let portal = stored.and_then(|s| s.object.get("portal_configuration"));
    portal.and_then(|p| p.get("allow_basic_authentication")) == Some(&Value::Bool(true))
}
