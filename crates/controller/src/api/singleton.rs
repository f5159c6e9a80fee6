//! The system's own settings: objects of which there is one, read and replaced at the collection's path (avi-api
//! section 8).

use super::operation::Call;
use super::present::{Names, Presenter};
use super::{App, Context, ok, parse, patch as patches, resources};
use crate::error::ApiError;
use crate::objects::{Draft, Snapshot};
use axum::http::StatusCode;
use axum::response::Response;
use model::object::Object;
use model::schema::{ObjectType, object_type};
use serde_json::Value;

/// Path name of the type, and uuid of the only one.
type Singleton = (&'static str, &'static str);

/// The settings of the system.
pub(crate) const SETTINGS: Singleton = ("systemconfiguration", "default");
/// The settings of all engines.
pub(crate) const SE_PROPERTIES: Singleton = ("seproperties", "global");
/// All of them.
pub(crate) const ALL: [Singleton; 3] =
    [SETTINGS, SE_PROPERTIES, ("controllerproperties", "global")];

fn ty(path: &str) -> &'static ObjectType {
    object_type(path).expect("in the schema")
}

/// The one that the call's path names.
///
/// # Errors
/// 404 for a path that is none.
fn called(call: &Call<'_>) -> Result<Singleton, ApiError> {
    let found = ALL.into_iter().find(|(path, _)| *path == call.last);
    let text = format!("there is no /api/{}", call.last);
    found.ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, text))
}

/// Its path, for a type of which there is one.
pub(super) fn url(path: &str) -> Option<String> {
    let is_one = ALL.iter().any(|(p, _)| *p == path);
    is_one.then(|| format!("/api/{path}"))
}

/// `GET /api/systemconfiguration`, and the others.
pub(super) fn read(call: &Call<'_>) -> Result<Response, ApiError> {
    show(call.app, call.context, called(call)?).map(ok)
}

/// The settings as a client sees them.
pub(super) fn show(
    app: &App,
    context: &Context,
    (path, uuid): Singleton,
) -> Result<Value, ApiError> {
    let snapshot = app.objects.snapshot();
    let stored = snapshot.require(ty(path), uuid)?;
    let presenter = Presenter::new(app, context, &snapshot, ty(path), Names::AsAsked);
    Ok(presenter.show(uuid, &stored))
}

/// `PUT /api/systemconfiguration`, and the others.
pub(super) async fn put(call: &Call<'_>) -> Result<Response, ApiError> {
    let body = parse(&call.body)?;
    update(call, |_, _| Ok(body)).await
}

/// `PATCH /api/systemconfiguration`, and the others.
pub(super) async fn patch(call: &Call<'_>) -> Result<Response, ApiError> {
    let body = parse(&call.body)?;
    let (path, _) = called(call)?;
    let tenant = &call.context.author.tenant;
    update(call, |draft, stored| {
        patches::apply(&draft.snapshot, tenant, ty(path), stored, &body)
    })
    .await
}

async fn update(
    call: &Call<'_>,
    body: impl FnOnce(&Draft, Object) -> Result<Object, ApiError>,
) -> Result<Response, ApiError> {
    let (path, uuid) = called(call)?;
    resources::change(call, ty(path), uuid, body).await?;
    resources::shown(call, ty(path), uuid, StatusCode::OK)
}

/// True when scripts may send their password with every call (avi-api 2.4).
pub(super) fn allows_basic(snapshot: &Snapshot) -> bool {
    let (path, uuid) = SETTINGS;
    let stored = snapshot.get(path, uuid);
    let portal = stored.and_then(|s| s.object.get("portal_configuration"));
    portal.and_then(|p| p.get("allow_basic_authentication")) == Some(&Value::Bool(true))
}
