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
pub(crate) type Singleton = (&'static str, &'static str);

/// The settings of the system.
pub(crate) const SETTINGS: Singleton = ("systemconfiguration", "default");
/// The settings of all engines.
pub(crate) const SE_PROPERTIES: Singleton = ("seproperties", "global");
/// The settings of the controller.
pub(crate) const CONTROLLER_PROPERTIES: Singleton = ("controllerproperties", "global");
/// All of them.
pub(crate) const ALL: [Singleton; 3] = [SETTINGS, SE_PROPERTIES, CONTROLLER_PROPERTIES];

fn ty(path: &str) -> &'static ObjectType {
    object_type(path).expect("in the schema")
}

/// A client may write the uuid into the path, as for any other object.
///
/// # Errors
/// 404 for another uuid.
fn check_uuid(call: &Call<'_>, (path, uuid): Singleton) -> Result<(), ApiError> {
    match call.uuid {
        "" => Ok(()),
        written if written == uuid => Ok(()),
        _ => Err(ApiError::not_found(&ty(path).name)),
    }
}

/// The type of this path, if there is one object of it.
pub(crate) fn known(path: &str) -> Option<&'static ObjectType> {
    ALL.iter().any(|(p, _)| *p == path).then(|| ty(path))
}

/// Its path, for a type of which there is one.
pub(super) fn url(path: &str) -> Option<String> {
    let is_one = ALL.iter().any(|(p, _)| *p == path);
    is_one.then(|| format!("/api/{path}"))
}

/// `GET /api/systemconfiguration`, and the others.
pub(super) fn read(call: &Call<'_>, one: Singleton) -> Result<Response, ApiError> {
    check_uuid(call, one)?;
    show(call.app, call.context, one).map(ok)
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
pub(super) async fn put(call: &Call<'_>, one: Singleton) -> Result<Response, ApiError> {
    let body = parse(&call.body)?;
    update(call, one, |_, _| Ok(body)).await
}

/// `PATCH /api/systemconfiguration`, and the others.
pub(super) async fn patch(call: &Call<'_>, one: Singleton) -> Result<Response, ApiError> {
    let body = parse(&call.body)?;
    let tenant = &call.context.author.tenant;
    update(call, one, |draft, stored| {
        patches::apply(&draft.snapshot, tenant, ty(one.0), stored, &body)
    })
    .await
}

async fn update(
    call: &Call<'_>,
    one: Singleton,
    body: impl FnOnce(&Draft, Object) -> Result<Object, ApiError>,
) -> Result<Response, ApiError> {
    check_uuid(call, one)?;
    let (path, uuid) = one;
    resources::change(call, ty(path), uuid, body).await?;
    resources::shown(call, ty(path), uuid, StatusCode::OK)
}

/// A number of one of them, or its default.
fn number(snapshot: &Snapshot, (path, uuid): Singleton, field: &str) -> u64 {
    let set = snapshot.get(path, uuid).and_then(|s| s.object.get(field));
    let default = || ty(path).field(field).and_then(|f| f.default.as_ref());
    set.or_else(default).and_then(Value::as_u64).unwrap_or(0)
}

/// Minutes after which a session ends that nobody uses; 0 is never (avi-api 2.2).
pub(crate) fn api_idle_timeout_min(snapshot: &Snapshot) -> u64 {
    number(snapshot, CONTROLLER_PROPERTIES, "api_idle_timeout")
}

/// Hours that an engine's certificate is good.
pub(crate) fn se_certificate_lifetime_h(snapshot: &Snapshot) -> u64 {
    number(snapshot, CONTROLLER_PROPERTIES, "se_certificate_lifetime")
}

/// True when scripts may send their password with every call (avi-api 2.4).
pub(super) fn allows_basic(snapshot: &Snapshot) -> bool {
    let (path, uuid) = SETTINGS;
    let stored = snapshot.get(path, uuid);
    let portal = stored.and_then(|s| s.object.get("portal_configuration"));
    portal.and_then(|p| p.get("allow_basic_authentication")) == Some(&Value::Bool(true))
}
