//! Login, cookies and the guard against forged requests (avi-api section 2).

use super::{App, cluster};
use crate::auth::{Password, Ticket};
use crate::error::ApiError;
use crate::objects::refs;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// The name that the login reply gives to clients; `sessionid` is set beside it for older ones.
pub(super) const SESSION_COOKIE: &str = "avi-sessionid";
const OLD_SESSION_COOKIE: &str = "sessionid";
const CSRF_COOKIE: &str = "csrftoken";

/// `POST /login` with a form or JSON.
pub(super) async fn login(
    app: &App,
    peer: SocketAddr,
    headers: &HeaderMap,
    body: &Bytes,
) -> Response {
    let Some((user, password)) = credentials(headers, body) else {
        return ApiError::bad_request("send username and password, as a form or as JSON")
            .into_response();
    };
    match app
        .auth
        .login(&user, Password::new(password), peer.ip())
        .await
    {
        Err(error) => error.into_response(),
        Ok(ticket) => {
            let mut response = axum::Json(reply(&user, headers)).into_response();
            set_cookie(
                response.headers_mut(),
                CSRF_COOKIE,
                &ticket.csrf,
                31_449_600,
                false,
            );
            refresh(&ticket, response.headers_mut());
            response
        }
    }
}

fn credentials(headers: &HeaderMap, body: &Bytes) -> Option<(String, String)> {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    if kind.contains("json") {
        let value: Value = serde_json::from_slice(body).ok()?;
        let text = |k: &str| value.get(k)?.as_str().map(str::to_owned);
        return Some((text("username")?, text("password")?));
    }
    let form = std::str::from_utf8(body).ok()?;
    let field = |name: &str| {
        let mut pairs = form.split('&').filter_map(|p| p.split_once('='));
        pairs
            .find(|(k, _)| *k == name)
            .map(|(_, v)| refs::decode(v))
    };
    Some((field("username")?, field("password")?))
}

fn reply(user: &str, headers: &HeaderMap) -> Value {
    let host = headers
        .get(header::HOST)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("localhost");
    let tenant = format!("https://{host}/api/tenant/admin");
    json!({
        "user_initialized": true,
        "version": cluster::version(),
        "user": {"name": user, "username": user, "full_name": user, "email": "", "uuid": "user-1", "local": true,
                 "is_superuser": true, "default_tenant_ref": tenant, "ui_property": "{}"},
        "tenants": [{"url": tenant, "uuid": "admin", "name": "admin", "local": true}],
        "system_config": {"uuid": "default"},
        "controller": {"api_idle_timeout": 15},
        "session_cookie_name": SESSION_COOKIE,
    })
}

/// `POST /logout`.
pub(super) fn logout(app: &App, headers: &HeaderMap) -> Response {
    if let Some(id) = session_id(headers) {
        app.auth.logout(&id);
    }
    axum::Json(json!({})).into_response()
}

/// The caller's session.
///
/// # Errors
/// 401: none, an unknown one, or a write without the CSRF token.
pub(super) fn check(app: &App, method: &Method, headers: &HeaderMap) -> Result<Ticket, ApiError> {
    let unauthorized = |text: &str| ApiError::new(StatusCode::UNAUTHORIZED, text);
    let id = session_id(headers).ok_or_else(|| {
        unauthorized("Authentication credentials were not provided; POST /login first")
    })?;
    let ticket = app
        .auth
        .session(&id)
        .ok_or_else(|| unauthorized("the session is unknown or has expired; log in again"))?;
    let writes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let token = headers.get("X-CSRFToken").map(HeaderValue::as_bytes);
    if writes && !(token == Some(ticket.csrf.as_bytes()) && same_origin(headers)) {
        return Err(unauthorized("CSRF token missing or incorrect."));
    }
    Ok(ticket)
}

/// The Referer names our own host.
fn same_origin(headers: &HeaderMap) -> bool {
    let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let (Some(referer), Some(host)) = (text(header::REFERER), text(header::HOST)) else {
        return false;
    };
    let authority = referer.split_once("://").map_or(referer, |(_, rest)| rest);
    let authority = authority.split('/').next().unwrap_or("");
    authority.trim_end_matches(":443") == host.trim_end_matches(":443")
}

/// Cookies may stand in the header twice; the last one is the newest (avi-api 2.2).
fn session_id(headers: &HeaderMap) -> Option<String> {
    let cookie = |name: &str| {
        let all = headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|v| v.to_str().ok());
        let pairs = all
            .flat_map(|line| line.split(';'))
            .filter_map(|p| p.trim().split_once('='));
        pairs
            .rev()
            .find(|(k, _)| *k == name)
            .map(|(_, v)| v.to_owned())
    };
    cookie(SESSION_COOKIE).or_else(|| cookie(OLD_SESSION_COOKIE))
}

/// Every answer renews the session cookies.
pub(super) fn refresh(ticket: &Ticket, headers: &mut HeaderMap) {
    for name in [SESSION_COOKIE, OLD_SESSION_COOKIE] {
        set_cookie(headers, name, &ticket.id, 86_400, true);
    }
    headers.insert(
        "AVI_API_VERSION",
        HeaderValue::from_static(super::API_VERSION),
    );
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("private, no-cache, must-revalidate"),
    );
}

fn set_cookie(headers: &mut HeaderMap, name: &str, value: &str, max_age_s: u32, http_only: bool) {
    let flags = if http_only { "; HttpOnly" } else { "" };
    let text = format!("{name}={value}; Max-Age={max_age_s}; Path=/; Secure; SameSite=Lax{flags}");
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.append(header::SET_COOKIE, value);
    }
}
