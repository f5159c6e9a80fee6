//! The session: two cookies, of which one is repeated in a header (avi-api 2.2).

use ureq::http::{HeaderMap, header, request};

/// Cookies that carry the session. The controller names the first; the second is for older clients.
const SESSION_COOKIE: &str = "avi-sessionid";
const OLD_SESSION_COOKIE: &str = "sessionid";
const CSRF_COOKIE: &str = "csrftoken";

/// What a login gave; empty before it.
#[derive(Default)]
pub(crate) struct Session {
    id: String,
    csrf: String,
}

impl Session {
    /// Adds the session to a request.
    pub(crate) fn sign(&self, request: request::Builder) -> request::Builder {
        if self.id.is_empty() {
            return request;
        }
        let cookies = format!("{SESSION_COOKIE}={}; {CSRF_COOKIE}={}", self.id, self.csrf);
        request
            .header(header::COOKIE, cookies)
            .header("X-CSRFToken", &self.csrf)
    }

    /// Keeps the cookies of an answer: every answer may renew them.
    pub(crate) fn learn(&mut self, headers: &HeaderMap) {
        for cookie in headers.get_all(header::SET_COOKIE) {
            let Some((name, value)) = cookie.to_str().ok().and_then(name_and_value) else {
                continue;
            };
            match name {
                SESSION_COOKIE | OLD_SESSION_COOKIE => self.id = value.to_string(),
                CSRF_COOKIE => self.csrf = value.to_string(),
                _ => {}
            }
        }
    }
}

/// `name=value; Path=/; …` without the attributes; a cookie that is being deleted has no value.
fn name_and_value(cookie: &str) -> Option<(&str, &str)> {
    let (name, value) = cookie.split(';').next()?.split_once('=')?;
    let value = value.trim().trim_matches('"');
    (!value.is_empty()).then_some((name.trim(), value))
}
