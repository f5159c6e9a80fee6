//! What of a request matters to every handler.

use super::App;
use crate::auth::Ticket;
use crate::error::ApiError;
use crate::objects::{Author, refs};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use std::net::SocketAddr;

/// See the module's documentation.
pub struct Context {
    /// `https://host[:port]` as the client wrote it: URLs in answers start with it.
    pub origin: String,
    /// Who writes.
    pub author: Author,
    /// Query parameters, decoded, in order.
    pub query: Vec<(String, String)>,
    /// The uuid that a new object must get (`Slug`, avi-api section 3).
    pub slug: Option<String>,
}

impl Context {
    pub(super) fn new(
        app: &App,
        peer: SocketAddr,
        uri: &Uri,
        headers: &HeaderMap,
        ticket: &Ticket,
    ) -> Result<Self, ApiError> {
        check_version(headers)?;
        let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
        let host = text(header::HOST).or(uri.host()).unwrap_or("localhost");
        let author = Author {
            who: format!("{} from {}", ticket.user, peer.ip()),
            tenant: tenant(app, headers)?,
        };
        Ok(Self {
            origin: format!("https://{host}"),
            author,
            query: parse_query(uri.query().unwrap_or("")),
            slug: slug(headers)?,
        })
    }

    /// The last value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().rev().find(|(k, _)| k == name);
        found.map(|(_, v)| v.as_str())
    }

    /// True when `include_name` is given; an empty value counts (avi-api 4.2).
    pub fn include_name(&self) -> bool {
        self.get("include_name")
            .is_some_and(|v| !v.eq_ignore_ascii_case("false"))
    }
}

fn slug(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("Slug") else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or("");
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if text.is_empty() || text.len() > 128 || !text.bytes().all(fits) {
        return Err(ApiError::bad_request(
            "Slug: is not a uuid; use up to 128 of A-Z a-z 0-9 _ -",
        ));
    }
    Ok(Some(text.to_owned()))
}

fn parse_query(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|p| !p.is_empty());
    pairs
        .map(|p| p.split_once('=').unwrap_or((p, "")))
        .map(|(k, v)| (refs::decode(k), refs::decode(v)))
        .collect()
}

/// avi-api 2.5: older versions are accepted, newer and malformed ones refused.
fn check_version(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get("X-Avi-Version") else {
        return Ok(());
    };
    let parts = |text: &str| -> Option<Vec<u32>> {
        text.split(['.', '_']).map(|p| p.parse().ok()).collect()
    };
    let asked = value.to_str().ok().and_then(parts);
    match asked {
        Some(asked) if Some(&asked) <= parts(super::API_VERSION).as_ref() => Ok(()),
        _ => {
            let text = format!(
                "Invalid version {value:?} in X-Avi-Version; this controller speaks up to {}",
                super::API_VERSION
            );
            Err(ApiError::bad_request(text))
        }
    }
}

/// uuid of the tenant that new objects belong to.
fn tenant(app: &App, headers: &HeaderMap) -> Result<String, ApiError> {
    let value = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let snapshot = app.objects.snapshot();
    let unknown = |name: &str| {
        ApiError::new(
            StatusCode::FORBIDDEN,
            format!("Tenant '{name}' does not exist!"),
        )
    };
    if let Some(uuid) = value("X-Avi-Tenant-UUID") {
        return snapshot
            .get("tenant", uuid)
            .map(|_| uuid.to_owned())
            .ok_or_else(|| unknown(uuid));
    }
    match value("X-Avi-Tenant") {
        None | Some("" | "*" | "admin") => Ok("admin".into()),
        Some(name) => {
            let found = snapshot
                .by_name("tenant", name)
                .map(|(uuid, _)| uuid.to_owned());
            found.ok_or_else(|| unknown(name))
        }
    }
}
