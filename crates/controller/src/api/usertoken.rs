//! API tokens (avi-api 2.4): made by a user for himself, seen and revoked by him and by superusers.

use super::operation::Call;
use super::{ok, parse, preview, query};
use crate::auth::token::{self, HOURS_DEFAULT, Token, Wish};
use crate::clock;
use crate::error::ApiError;
use crate::objects::Snapshot;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use model::object::Object;
use serde_json::{Value, json};

/// `POST /api/user-token` with `hours` and `name`, both optional: the answer alone has the token.
pub(super) async fn create(call: &Call<'_>) -> Result<Response, ApiError> {
    let wish = wish(&parse(&call.body)?)?;
    let (objects, context) = (&call.app.objects, call.context);
    let hours = wish.hours;
    if context.author.dry_run {
        token::check(objects, &context.access.uuid, &wish).await?;
        let user = &context.access.user;
        let effect = format!("an API token of {user} is made, good for {hours} h");
        return Ok(preview::of_effects(call, &[effect]));
    }
    let made = token::create(objects, &context.author, &context.access.uuid, wish);
    let (token, text) = made.await?;
    let mut shown = shown(&objects.snapshot(), &token);
    shown["token"] = text.into();
    shown["hours"] = hours.into();
    Ok((StatusCode::CREATED, axum::Json(shown)).into_response())
}

fn wish(body: &Object) -> Result<Wish, ApiError> {
    let hours = match body.get("hours") {
        None | Some(Value::Null) => HOURS_DEFAULT,
        Some(value) => value.as_u64().ok_or_else(|| {
            ApiError::bad_request(format!("hours: {value} is no whole number of hours"))
        })?,
    };
    let name = match body.get("name") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(name)) => name.clone(),
        Some(_) => return Err(ApiError::bad_request("name: must be text")),
    };
    Ok(Wish { name, hours })
}

fn is_his(call: &Call<'_>, token: &Token) -> bool {
    let access = &call.context.access;
    access.superuser || token.user == access.uuid
}

/// `GET /api/user-token`: the caller's own; all of them for a superuser.
pub(super) async fn list(call: &Call<'_>) -> Result<Response, ApiError> {
    let mut all = token::list(&**call.app.objects.store()).await?;
    all.retain(|token| is_his(call, token));
    let snapshot = call.app.objects.snapshot();
    let show = |token| shown(&snapshot, &token);
    Ok(ok(query::page(call.context, "user-token", all, show)))
}

/// `DELETE /api/user-token/UUID`.
pub(super) async fn revoke(call: &Call<'_>) -> Result<Response, ApiError> {
    let (objects, author) = (&call.app.objects, &call.context.author);
    if author.dry_run {
        let token = token::find(objects, call.uuid, |t| is_his(call, t)).await?;
        let effect = format!(
            "calls with API token {} {:?} are refused",
            token.id, token.name
        );
        return Ok(preview::of_effects(call, &[effect]));
    }
    token::revoke(objects, author, call.uuid, |t| is_his(call, t)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn shown(snapshot: &Snapshot, token: &Token) -> Value {
    let time = |unix_s: u64| clock::rfc3339(unix_s.saturating_mul(1_000_000));
    json!({
        "uuid": token.id,
        "name": token.name,
        "username": snapshot.name_of("user", &token.user),
        "created_at": time(token.made_unix_s),
        "expires_at": time(token.expires_unix_s),
    })
}
