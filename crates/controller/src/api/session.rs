//! Login, cookies and the guard against forged requests (avi-api section 2).

use super::operation::Call;
use super::{App, cluster, singleton, users};
use crate::access::Access;
use crate::auth::{Password, Ticket, same_bytes};
use crate::error::{ApiError, CSRF_REFUSED};
use crate::events::sources;
use crate::objects::refs;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};

/// The name that the login reply gives to clients; `sessionid` is set beside it for older ones.
pub(super) const SESSION_COOKIE: &str = "avi-sessionid";
const OLD_SESSION_COOKIE: &str = "sessionid";
const CSRF_COOKIE: &str = "csrftoken";

/// `POST /login` with a form or JSON.
pub(super) async fn login(call: &Call<'_>) -> Result<Response, ApiError> {
    let (auth, from) = (&call.app.auth, call.context.peer);
    let (user, ticket) = match credentials(call.headers, &call.body) {
        Some((Some(user), Proof::Password(password))) => {
            let ticket = auth.login(&user, password, from).await;
            (user, ticket)
        }
        Some((user, Proof::Token(token))) => {
            let ticket = auth.login_by_token(user.as_deref(), &token, from).await;
            (user.unwrap_or_default(), ticket)
        }
        _ => {
            let text = "send username and password, or token, as a form or as JSON";
            return Err(ApiError::bad_request(text));
        }
    };
    let ticket = ticket.inspect_err(|error| refused(call.app, &user, from, error))?;
    let snapshot = call.app.objects.snapshot();
    if let Some(event) = sources::login(&snapshot, &ticket.uuid, from) {
        call.app.events.record(event);
    }
    let access = Access::of_user(&snapshot, &ticket.uuid);
    let access = access.ok_or_else(|| unauthorized("Invalid credentials"))?;
    let mut response = axum::Json(reply(call, &access)).into_response();
    let headers = response.headers_mut();
    set_cookie(headers, CSRF_COOKIE, &ticket.csrf, 31_449_600, false);
    refresh(&ticket, headers);
    Ok(response)
}

/// A login that was refused for what was given; not one that never got so far.
fn refused(app: &App, user: &str, from: IpAddr, error: &ApiError) {
    if error.status == StatusCode::UNAUTHORIZED {
        let event = sources::login_refused(&app.objects.snapshot(), user, from, &error.text);
        app.events.record(event);
    }
}

/// What comes with a name at the login.
enum Proof {
    Password(Password),
    /// An API token, which knows whose it is.
    Token(String),
}

fn credentials(headers: &HeaderMap, body: &[u8]) -> Option<(Option<String>, Proof)> {
    let field = fields(headers, body)?;
    let password = field("password").map(|p| Proof::Password(Password::new(p)));
    let proof = password.or_else(|| field("token").map(Proof::Token))?;
    Some((field("username"), proof))
}

type Fields<'a> = Box<dyn Fn(&str) -> Option<String> + 'a>;

/// The fields of a form, or of a JSON object.
fn fields<'a>(headers: &HeaderMap, body: &'a [u8]) -> Option<Fields<'a>> {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    if kind.contains("json") {
        let value: Value = serde_json::from_slice(body).ok()?;
        return Some(Box::new(move |name| {
            value.get(name)?.as_str().map(str::to_owned)
        }));
    }
    let form = std::str::from_utf8(body).ok()?;
    Some(Box::new(move |name| {
        let mut pairs = form.split('&').filter_map(|p| p.split_once('='));
        let found = pairs.find(|(k, _)| *k == name);
        found.map(|(_, v)| refs::decode(v))
    }))
}

fn unauthorized(text: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, text)
}

fn reply(call: &Call<'_>, access: &Access) -> Value {
    let snapshot = call.app.objects.snapshot();
    let (user, tenants) = users::who(&snapshot, access, &call.context.origin);
    let settings = singleton::show(call.app, call.context, singleton::SETTINGS);
    json!({
        "user_initialized": true,
        "version": cluster::version(),
        "user": user,
        "tenants": tenants,
        "system_config": settings.unwrap_or_default(),
        "controller": cluster::settings(call.app),
        "session_cookie_name": SESSION_COOKIE,
    })
}

/// `POST /logout`.
pub(super) fn logout(call: &Call<'_>) -> Response {
    let ended = session_id(call.headers).and_then(|id| call.app.auth.logout(&id));
    let snapshot = call.app.objects.snapshot();
    let event = ended.and_then(|t| sources::logout(&snapshot, &t.uuid, call.context.peer));
    if let Some(event) = event {
        call.app.events.record(event);
    }
    axum::Json(json!({})).into_response()
}

/// Who calls: by his session, by an API token, or by name and password with each call where the settings allow that.
///
/// # Errors
/// 401: nobody, an unknown session, a user who is gone, or a write without the CSRF token.
pub(super) async fn check(
    app: &App,
    peer: SocketAddr,
    parts: &Parts,
) -> Result<(Ticket, Access), ApiError> {
    let ticket = match check_ticket(app, peer, parts).await {
        Err(refusal) if refusal.status == StatusCode::UNAUTHORIZED => {
            app.auth.strangers.call(peer.ip())?;
            return Err(refusal);
        }
        other => other?,
    };
    match Access::of_user(&app.objects.snapshot(), &ticket.uuid) {
        Some(access) => Ok((ticket, access)),
        None => {
            app.auth.end_sessions(&ticket.uuid, None);
            Err(unauthorized(
                "the user is gone, or not active; log in as another one",
            ))
        }
    }
}

async fn check_ticket(app: &App, peer: SocketAddr, parts: &Parts) -> Result<Ticket, ApiError> {
    if let Some(token) = api_token(&parts.headers) {
        return app.auth.once_by_token(token).await;
    }
    let basic = basic_credentials(&parts.headers);
    if let Some((user, password)) = basic
        && singleton::allows_basic(&app.objects.snapshot())
    {
        let ticket = app.auth.once(&user, password, peer.ip()).await;
        return ticket.inspect_err(|error| refused(app, &user, peer.ip(), error));
    }
    let id = session_id(&parts.headers).ok_or_else(|| {
        unauthorized("Authentication credentials were not provided; POST /login first")
    })?;
    let ticket = app
        .auth
        .session(&id)?
        .ok_or_else(|| unauthorized("the session is unknown or has expired; log in again"))?;
    if !app.auth.still_good(&ticket).await? {
        return Err(unauthorized(
            "the API token of this session was revoked or has expired; log in again",
        ));
    }
    let writes = !matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
    if writes && !(carries_token(&parts.headers, &ticket) && same_origin(&parts.headers)) {
        return Err(unauthorized(CSRF_REFUSED));
    }
    Ok(ticket)
}

fn carries_token(headers: &HeaderMap, ticket: &Ticket) -> bool {
    let token = headers.get("X-CSRFToken").map(HeaderValue::as_bytes);
    token.is_some_and(|t| same_bytes(t, ticket.csrf.as_bytes()))
}

/// What follows the scheme in `Authorization`, if it is one of these.
fn authorization<'a>(headers: &'a HeaderMap, schemes: &[&str]) -> Option<&'a str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    let is_one = schemes.iter().any(|s| s.eq_ignore_ascii_case(scheme));
    is_one.then_some(rest.trim())
}

/// `Authorization: Token`, or `Bearer` (RFC 6750). A browser sends it for nobody else, so that it needs no CSRF token.
fn api_token(headers: &HeaderMap) -> Option<&str> {
    authorization(headers, &["token", "bearer"])
}

/// `Authorization: Basic` (RFC 7617).
fn basic_credentials(headers: &HeaderMap) -> Option<(String, Password)> {
    let encoded = authorization(headers, &["basic"])?;
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), Password::new(password)))
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
pub(super) fn session_id(headers: &HeaderMap) -> Option<String> {
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
}

fn set_cookie(headers: &mut HeaderMap, name: &str, value: &str, max_age_s: u32, http_only: bool) {
    let flags = if http_only { "; HttpOnly" } else { "" };
    let text = format!("{name}={value}; Max-Age={max_age_s}; Path=/; Secure; SameSite=Lax{flags}");
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.append(header::SET_COOKIE, value);
    }
}
