//! Create, read, update and delete of every resource, the same code for all (avi-api sections 5 and 6).

use super::present::{Names, present};
use super::{App, Context, ok, parse, patch, query};
use crate::bootstrap;
use crate::error::ApiError;
use crate::objects::Draft;
use axum::body::Bytes;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use model::object::Object;
use model::schema::{ObjectType, object_type};

/// The resources that the API has now; each is a type of the schema.
pub(super) const RESOURCES: [&str; 12] = [
    "tenant",
    "cloud",
    "vrfcontext",
    "serviceenginegroup",
    "serviceengine",
    "network",
    "vsvip",
    "pool",
    "healthmonitor",
    "networkprofile",
    "applicationprofile",
    "virtualservice",
];

/// The type of a resource.
///
/// # Errors
/// 404 for a path that is none.
pub(super) fn known(path: &str) -> Result<&'static ObjectType, ApiError> {
    let found = RESOURCES
        .contains(&path)
        .then(|| object_type(path))
        .flatten();
    found.ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, format!("there is no /api/{path}")))
}

/// `/api/TYPE`.
pub(super) async fn collection(
    app: &App,
    context: &Context,
    method: &Method,
    path: &str,
    body: &Bytes,
) -> Result<Response, ApiError> {
    let ty = known(path)?;
    match *method {
        Method::GET => Ok(ok(list(app, context, ty))),
        Method::POST => create(app, context, ty, parse(body)?).await,
        _ => Err(not_allowed(method)),
    }
}

/// `/api/TYPE/UUID`.
pub(super) async fn single(
    app: &App,
    context: &Context,
    method: &Method,
    path: &str,
    uuid: &str,
    body: &Bytes,
) -> Result<Response, ApiError> {
    let ty = known(path)?;
    match *method {
        Method::GET => {
            let snapshot = app.objects.snapshot();
            let stored = snapshot.require(ty, uuid)?;
            Ok(ok(present(
                &snapshot,
                ty,
                uuid,
                &stored,
                context,
                Names::AsAsked,
            )))
        }
        Method::PUT => {
            let body = parse(body)?;
            update(app, context, ty, uuid, |_| Ok(body)).await
        }
        Method::PATCH => {
            let body = parse(body)?;
            update(app, context, ty, uuid, |stored| {
                patch::apply(ty, stored, &body)
            })
            .await
        }
        Method::DELETE => delete(app, context, ty, uuid).await,
        _ => Err(not_allowed(method)),
    }
}

fn not_allowed(method: &Method) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("Method '{method}' not allowed"),
    )
}

fn list(app: &App, context: &Context, ty: &ObjectType) -> serde_json::Value {
    let snapshot = app.objects.snapshot();
    let all = snapshot.all(&ty.path);
    let matching = all.filter(|(uuid, s)| query::matches(&snapshot, ty, uuid, s, context));
    let mut results: Vec<_> = matching
        .map(|(uuid, s)| present(&snapshot, ty, uuid, s, context, Names::AsAsked))
        .collect();
    query::sort(context, &mut results);
    query::page(context, results)
}

async fn create(
    app: &App,
    context: &Context,
    ty: &'static ObjectType,
    mut body: Object,
) -> Result<Response, ApiError> {
    // `system_default` is the controller's word for its own objects.
    body.shift_remove("system_default");
    let author = &context.author;
    let message = format!("create {}", ty.path);
    let uuid = app
        .objects
        .change(author, &message, |draft| {
            let uuid = draft.create(ty, body, context.slug.clone(), author)?;
            if ty.path == "cloud" {
                bootstrap::ensure_cloud_parts(draft, author, &uuid)?;
            }
            Ok(uuid)
        })
        .await?;
    let mut response = shown(app, context, ty, &uuid, StatusCode::CREATED)?;
    let location = format!("{}/api/{}/{uuid}", context.origin, ty.path);
    if let Ok(value) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    Ok(response)
}

async fn update(
    app: &App,
    context: &Context,
    ty: &'static ObjectType,
    uuid: &str,
    body: impl FnOnce(Object) -> Result<Object, ApiError>,
) -> Result<Response, ApiError> {
    let message = format!("update {} {uuid}", ty.path);
    let change = |draft: &mut Draft| {
        let stored = draft.snapshot.require(ty, uuid)?;
        let body = body(stored.object.clone())?;
        draft.update(ty, uuid, body, &context.author)
    };
    app.objects
        .change(&context.author, &message, change)
        .await?;
    shown(app, context, ty, uuid, StatusCode::OK)
}

async fn delete(
    app: &App,
    context: &Context,
    ty: &'static ObjectType,
    uuid: &str,
) -> Result<Response, ApiError> {
    let message = format!("delete {} {uuid}", ty.path);
    let change = |draft: &mut Draft| draft.delete(ty, uuid);
    app.objects
        .change(&context.author, &message, change)
        .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The object after a write, with names on every reference.
fn shown(
    app: &App,
    context: &Context,
    ty: &ObjectType,
    uuid: &str,
    status: StatusCode,
) -> Result<Response, ApiError> {
    let snapshot = app.objects.snapshot();
    let stored = snapshot.require(ty, uuid)?;
    let value = present(&snapshot, ty, uuid, &stored, context, Names::Always);
    Ok((status, axum::Json(value)).into_response())
}
