//! Create, read, update and delete of every resource, the same code for all (avi-api sections 5 and 6).

use super::operation::Call;
use super::present::{Names, Presenter};
use super::{ok, parse, patch as patches, query, users};
use crate::access::{self, Level};
use crate::bootstrap;
use crate::error::ApiError;
use crate::objects::{Draft, Stored};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use model::object::Object;
use model::schema::{ObjectType, object_type};
use std::sync::Arc;

/// The resources that the API has now; each is a type of the schema.
pub(super) const RESOURCES: &[&str] = &[
    "tenant",
    "user",
    "role",
    "cloud",
    "vrfcontext",
    "serviceenginegroup",
    "serviceengine",
    "network",
    "vsvip",
    "pool",
    "poolgroup",
    "healthmonitor",
    "networkprofile",
    "applicationprofile",
    "applicationpersistenceprofile",
    "analyticsprofile",
    "sslkeyandcertificate",
    "sslprofile",
    "ipamdnsproviderprofile",
    "networkservice",
    "alertconfig",
    "actiongroupconfig",
    "useraccountprofile",
    "virtualservice",
];

/// The type of a resource.
///
/// # Errors
/// 404 for a path that is none.
pub(super) fn known(path: &str) -> Result<&'static ObjectType, ApiError> {
    let found = RESOURCES.contains(&path).then(|| object_type(path));
    let missing = || ApiError::new(StatusCode::NOT_FOUND, format!("there is no /api/{path}"));
    found.flatten().ok_or_else(missing)
}

/// `GET /api/TYPE`.
pub(super) fn list(call: &Call<'_>) -> Result<Response, ApiError> {
    let (ty, context) = (known(call.type_path)?, call.context);
    let snapshot = call.app.objects.snapshot();
    let found = query::find(&snapshot, ty, context)?;
    let presenter = Presenter::new(call.app, context, &snapshot, ty, Names::AsAsked);
    let show = |(uuid, s): (&str, &Arc<Stored>)| presenter.show(uuid, s);
    Ok(ok(query::page(context, &ty.path, found, show)))
}

/// `GET /api/TYPE/UUID`.
pub(super) fn read(call: &Call<'_>) -> Result<Response, ApiError> {
    let ty = known(call.type_path)?;
    let snapshot = call.app.objects.snapshot();
    let stored = snapshot.require(ty, call.uuid)?;
    let presenter = Presenter::new(call.app, call.context, &snapshot, ty, Names::AsAsked);
    Ok(ok(presenter.show(call.uuid, &stored)))
}

/// `POST /api/TYPE`.
pub(super) async fn create(call: &Call<'_>) -> Result<Response, ApiError> {
    let (ty, context) = (known(call.type_path)?, call.context);
    let mut body = users::prepare(call, ty, parse(&call.body)?).await?;
    // The controller's word for its own objects.
    body.shift_remove("system_default");
    let author = &context.author;
    let make = |draft: &mut Draft| {
        let before = draft.snapshot.clone();
        let uuid = draft.create(ty, body, context.slug.clone(), author)?;
        users::check_grants(call, &before, draft, ty, &uuid)?;
        check_owner(call, draft, ty, &uuid)?;
        if ty.path == "cloud" {
            bootstrap::ensure_cloud_parts(draft, author, &uuid)?;
        }
        Ok(uuid)
    };
    let message = format!("create {}", ty.path);
    let uuid = call.app.objects.change(author, &message, make).await?;
    let snapshot = call.app.objects.snapshot();
    let name = query::encode(snapshot.name_of(&ty.path, &uuid).unwrap_or(""));
    let mut response = shown(call, ty, &uuid, StatusCode::CREATED)?;
    let location = format!("{}/api/{}/{uuid}#{name}", context.origin, ty.path);
    if let Ok(value) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    Ok(response)
}

/// `PUT /api/TYPE/UUID`.
pub(super) async fn put(call: &Call<'_>) -> Result<Response, ApiError> {
    let ty = known(call.type_path)?;
    let body = users::prepare(call, ty, parse(&call.body)?).await?;
    change(call, ty, call.uuid, |_, _| Ok(body)).await?;
    shown(call, ty, call.uuid, StatusCode::OK)
}

/// `PATCH /api/TYPE/UUID`.
pub(super) async fn patch(call: &Call<'_>) -> Result<Response, ApiError> {
    let ty = known(call.type_path)?;
    let body = users::prepare_patch(call, ty, parse(&call.body)?).await?;
    let tenant = &call.context.author.tenant;
    change(call, ty, call.uuid, |draft, stored| {
        patches::apply(&draft.snapshot, tenant, ty, stored, &body)
    })
    .await?;
    shown(call, ty, call.uuid, StatusCode::OK)
}

/// Replaces an object by what `body` makes of it.
pub(super) async fn change(
    call: &Call<'_>,
    ty: &'static ObjectType,
    uuid: &str,
    body: impl FnOnce(&Draft, Object) -> Result<Object, ApiError>,
) -> Result<(), ApiError> {
    let author = &call.context.author;
    let message = format!("update {} {uuid}", ty.path);
    let update = |draft: &mut Draft| {
        let stored = draft.snapshot.require(ty, uuid)?;
        let body = body(draft, stored.object.clone())?;
        let before = draft.snapshot.clone();
        draft.update(ty, uuid, body, author)?;
        users::check_grants(call, &before, draft, ty, uuid)
    };
    call.app.objects.change(author, &message, update).await?;
    users::changed(call, ty, uuid);
    Ok(())
}

/// `DELETE /api/TYPE/UUID`.
pub(super) async fn delete(call: &Call<'_>) -> Result<Response, ApiError> {
    let (ty, uuid) = (known(call.type_path)?, call.uuid);
    let message = format!("delete {} {uuid}", ty.path);
    let remove = |draft: &mut Draft| {
        let before = draft.snapshot.clone();
        draft.delete(ty, uuid)?;
        users::check_grants(call, &before, draft, ty, uuid)
    };
    let author = &call.context.author;
    call.app.objects.change(author, &message, remove).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A body may name another tenant than the header: then the right is needed there.
pub(super) fn check_owner(
    call: &Call<'_>,
    draft: &Draft,
    ty: &ObjectType,
    uuid: &str,
) -> Result<(), ApiError> {
    let (resource, stored) = (
        access::resource(&ty.path),
        draft.snapshot.require(ty, uuid)?,
    );
    let (caller, owner) = (&call.context.access, access::tenant_of(&stored));
    if owner == call.context.author.tenant || caller.may(Level::Write, &resource, owner) {
        return Ok(());
    }
    let text = format!(
        "tenant_ref: {} may not make a {} there",
        caller.user, ty.name
    );
    Err(ApiError::new(StatusCode::FORBIDDEN, text))
}

/// The object after a write, with names on every reference.
pub(super) fn shown(
    call: &Call<'_>,
    ty: &ObjectType,
    uuid: &str,
    status: StatusCode,
) -> Result<Response, ApiError> {
    let snapshot = call.app.objects.snapshot();
    let stored = snapshot.require(ty, uuid)?;
    let presenter = Presenter::new(call.app, call.context, &snapshot, ty, Names::Always);
    let value = presenter.show(uuid, &stored);
    Ok((status, axum::Json(value)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::access::roles;

    #[test]
    fn who_administers_the_system_has_the_right_to_every_type() {
        let (_, admin) = roles().remove(0);
        assert_eq!(admin["name"], "System-Admin");
        let privileges = admin["privileges"].as_array().expect("a list");
        for path in RESOURCES {
            let resource = access::resource(path);
            let writes =
                |p: &&serde_json::Value| p["resource"] == *resource && p["type"] == "WRITE_ACCESS";
            assert!(privileges.iter().any(|p| writes(&p)), "{resource}");
        }
    }
}
