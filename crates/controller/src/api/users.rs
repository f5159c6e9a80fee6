//! Users and roles (avi-api sections 2.4 and 12): the password is hashed before it is stored and never shown, and nobody
//! gives what he may not do himself.

use super::operation::Call;
use super::{ok, parse, session};
use crate::access::Access;
use crate::auth::Password;
use crate::error::ApiError;
use crate::objects::{Draft, Snapshot};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use model::object::Object;
use model::schema::{ObjectType, object_type};
use serde_json::{Value, json};

const USER: &str = "user";

/// The body of a write of a user as it is stored: hashed password, `name` from `username`. Bodies of other types stay as they
/// are.
///
/// # Errors
/// The password is none.
pub(super) async fn prepare(
    call: &Call<'_>,
    ty: &ObjectType,
    mut body: Object,
) -> Result<Object, ApiError> {
    if ty.path != USER {
        return Ok(body);
    }
    // Both are the key (avi-api section 12).
    if let Some(name) = body.get("username").or(body.get("name")).cloned() {
        body.insert("name".into(), name.clone());
        body.insert("username".into(), name);
    }
    if body.contains_key("json_patch") {
        return Ok(body);
    }
    if let Some(password) = body.shift_remove("password").filter(|p| !p.is_null()) {
        let Value::String(password) = password else {
            return Err(ApiError::bad_request("password: must be text"));
        };
        let hash = call.app.auth.hash(Password::new(password)).await?;
        body.insert("password".into(), hash.into());
    }
    Ok(body)
}

/// The same for a body of PATCH: in each of its parts.
///
/// # Errors
/// As [`prepare`]; a json_patch that touches the password.
pub(super) async fn prepare_patch(
    call: &Call<'_>,
    ty: &ObjectType,
    mut body: Object,
) -> Result<Object, ApiError> {
    if ty.path != USER {
        return Ok(body);
    }
    let paths = body
        .get("json_patch")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let mut paths = paths.filter_map(|op| op["path"].as_str());
    if paths.any(|path| path.is_empty() || path.starts_with("/password")) {
        let text = "json_patch: does not change the password; use PUT, or {\"replace\": {\"password\": …}}";
        return Err(ApiError::bad_request(text));
    }
    for part in ["add", "replace"] {
        if let Some(Value::Object(fields)) = body.get_mut(part) {
            *fields = prepare(call, ty, std::mem::take(fields)).await?;
        }
    }
    Ok(body)
}

/// After a write: who writes covers what the user may now, and could before.
///
/// # Errors
/// 403.
pub(super) fn check_grants(
    call: &Call<'_>,
    before: &Snapshot,
    draft: &Draft,
    ty: &ObjectType,
    uuid: &str,
) -> Result<(), ApiError> {
    let writer = &call.context.access;
    let covers = |snapshot: &Snapshot, user: &str| {
        Access::of_user(snapshot, user).is_none_or(|access| writer.covers(&access))
    };
    let users: Vec<&str> = match ty.path.as_str() {
        USER => vec![uuid],
        "role" => draft.snapshot.all(USER).map(|(uuid, _)| uuid).collect(),
        _ => return Ok(()),
    };
    if users
        .iter()
        .all(|user| covers(before, user) && covers(&draft.snapshot, user))
    {
        return Ok(());
    }
    let text = format!(
        "{} may not give or change rights that he does not have himself",
        writer.user
    );
    Err(ApiError::new(StatusCode::FORBIDDEN, text))
}

/// `GET /api/useraccount`: the caller's own.
pub(super) fn own(call: &Call<'_>) -> Result<Response, ApiError> {
    let (snapshot, access) = (call.app.objects.snapshot(), &call.context.access);
    let stored = snapshot.require(user_type(), &access.uuid)?;
    let text = |field: &str| {
        stored
            .object
            .get(field)
            .cloned()
            .unwrap_or_else(|| "".into())
    };
    Ok(ok(json!({
        "username": access.user, "name": access.user, "full_name": text("full_name"), "email": text("email"),
        "uuid": access.uuid, "is_superuser": access.superuser,
    })))
}

/// `PUT /api/useraccount` with `password` and `old_password`: changes the own password, and ends the caller's other sessions.
pub(super) async fn change_password(call: &Call<'_>) -> Result<Response, ApiError> {
    let (mut body, access) = (parse(&call.body)?, &call.context.access);
    if body
        .get("username")
        .is_some_and(|name| *name != access.user)
    {
        let text =
            "username: must be your own here; change others' passwords with PUT /api/user/UUID";
        return Err(ApiError::new(StatusCode::FORBIDDEN, text));
    }
    let mut text = |field: &str| match body.shift_remove(field) {
        Some(Value::String(text)) => Ok(Password::new(text)),
        _ => Err(ApiError::bad_request(format!(
            "{field}: must be given, as text"
        ))),
    };
    let (new, old) = (text("password")?, text("old_password")?);
    let auth = &call.app.auth;
    auth.check(&access.user, old, call.context.peer).await?;
    let hash = auth.hash(new).await?;
    let set = |draft: &mut Draft| {
        let mut object = draft
            .snapshot
            .require(user_type(), &access.uuid)?
            .object
            .clone();
        object.insert("password".into(), hash.into());
        draft.update(user_type(), &access.uuid, object, &call.context.author)
    };
    call.app
        .objects
        .change(&call.context.author, "change the own password", set)
        .await?;
    auth.end_sessions(&access.uuid, session::session_id(call.headers).as_deref());
    Ok(StatusCode::OK.into_response())
}

fn user_type() -> &'static ObjectType {
    object_type(USER).expect("in the schema")
}

/// `user` and `tenants` of the reply to a login (avi-api 2.1).
pub(super) fn who(snapshot: &Snapshot, access: &Access, origin: &str) -> (Value, Value) {
    let text = |field: &str| {
        let stored = snapshot.get(USER, &access.uuid);
        stored
            .and_then(|s| s.object.get(field))
            .cloned()
            .unwrap_or_else(|| "".into())
    };
    let tenant = |uuid: &str| format!("{origin}/api/tenant/{uuid}");
    let entered = snapshot
        .all("tenant")
        .filter(|(uuid, _)| access.enters(uuid));
    let tenants = entered.map(
        |(uuid, s)| json!({"url": tenant(uuid), "uuid": uuid, "name": s.name(), "local": true}),
    );
    let user = json!({
        "name": access.user, "username": access.user, "full_name": text("full_name"), "email": text("email"),
        "uuid": access.uuid, "local": true, "is_superuser": access.superuser,
        "default_tenant_ref": tenant(access.home()), "ui_property": "{}",
    });
    (user, tenants.collect())
}

/// After a user was changed by somebody else: with a new password or without his rights he logs in anew.
pub(super) fn changed(call: &Call<'_>, ty: &ObjectType, uuid: &str) {
    if ty.path == USER && uuid != call.context.access.uuid {
        call.app.auth.end_sessions(uuid, None);
    }
}
