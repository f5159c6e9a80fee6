//! What of a request matters to every handler.

use super::App;
use crate::access::{self, ADMIN_TENANT, Access, Level};
use crate::auth::Ticket;
use crate::error::ApiError;
use crate::events::View;
use crate::objects::{Author, Stored, refs};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use std::net::{IpAddr, SocketAddr};

/// See the module's documentation.
#[derive(Clone)]
pub struct Context {
    /// `https://host[:port]` as the client wrote it: URLs in answers start with it.
    pub origin: String,
    /// Who calls, and what he may.
    pub access: Access,
    /// What he proved himself with; none where nobody need to.
    pub ticket: Option<Ticket>,
    /// Who writes.
    pub author: Author,
    /// Where the call comes from.
    pub peer: IpAddr,
    /// The caller wants to see the objects of all tenants.
    every_tenant: bool,
    /// Query parameters, decoded, in order.
    pub query: Vec<(String, String)>,
    /// The uuid that a new object must get (`Slug`, avi-api section 3).
    pub slug: Option<String>,
}

impl Context {
    pub(super) fn new(
        app: &App,
        peer: SocketAddr,
        parts: &Parts,
        ticket: Ticket,
        access: Access,
    ) -> Result<Self, ApiError> {
        check_version(&parts.headers)?;
        let (tenant, every_tenant) = tenant(app, &access, &parts.method, &parts.headers)?;
        Ok(Self {
            author: Author::user(&access.user, peer.ip(), tenant).with_headers(&parts.headers)?,
            access,
            ticket: Some(ticket),
            every_tenant,
            slug: slug(&parts.headers)?,
            ..Self::anonymous(peer, parts)
        }
        .with_dry_run())
    }

    /// `dry_run`, with whatever value but `false`: who does not write it right does not want to write either.
    fn with_dry_run(mut self) -> Self {
        self.author.dry_run = self.asks("dry_run");
        self
    }

    /// Of a call that needs no session; it can be answered whatever the headers ask for.
    pub(super) fn anonymous(peer: SocketAddr, parts: &Parts) -> Self {
        let host = parts.headers.get(header::HOST);
        let host = host.and_then(|v| v.to_str().ok()).or(parts.uri.host());
        Self {
            origin: format!("https://{}", host.unwrap_or("localhost")),
            access: Access::default(),
            ticket: None,
            author: Author::user("nobody", peer.ip(), ADMIN_TENANT.into()),
            peer: peer.ip(),
            every_tenant: false,
            query: parse_query(parts.uri.query().unwrap_or("")),
            slug: None,
        }
    }

    /// True when an object belongs to what the caller looks at: the objects of the tenant that he is in, or of all that he may
    /// be in, and those that tenant admin shares with all (avi-api 5).
    pub fn sees(&self, path: &str, uuid: &str, stored: &Stored) -> bool {
        if path == "tenant" {
            return self.access.enters(uuid);
        }
        let everywhere = self.every_tenant && self.may_read(path, stored);
        everywhere || self.is_seen_here(path, stored)
    }

    /// True when an object can be called by its uuid: it is seen, or the caller is in tenant admin and may read it in its own.
    pub fn reaches(&self, path: &str, uuid: &str, stored: &Stored) -> bool {
        let may_read = || self.may_read(path, stored);
        self.sees(path, uuid, stored) || self.author.tenant == ADMIN_TENANT && may_read()
    }

    /// Where the caller looks.
    pub(super) fn view(&self) -> View {
        View {
            tenant: self.author.tenant.clone(),
            every_tenant: self.every_tenant,
        }
    }

    fn may_read(&self, path: &str, stored: &Stored) -> bool {
        let (resource, owner) = (access::resource(path), access::tenant_of(stored));
        self.access.may(Level::Read, &resource, owner)
    }

    /// True when an object is the tenant's that the caller is in, or shared with it.
    pub(super) fn is_seen_here(&self, path: &str, stored: &Stored) -> bool {
        access::is_seen_in(&self.author.tenant, path, stored)
    }

    /// True when the caller has a right where he looks.
    pub(super) fn may(&self, level: Level, resource: &str) -> bool {
        let somewhere = || self.access.may_somewhere(level, resource);
        self.access.may(level, resource, &self.author.tenant) || self.every_tenant && somewhere()
    }

    /// True when the object is of the tenant that the caller looks at.
    pub(super) fn owns(&self, stored: &Stored) -> bool {
        access::tenant_of(stored) == self.author.tenant
    }

    /// The last value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().rev().find(|(k, _)| k == name);
        found.map(|(_, v)| v.as_str())
    }

    /// True when defaults shall be left out of the answer (avi-api 5.2).
    pub fn skip_default(&self) -> bool {
        let value = self.get("skip_default");
        value.is_some_and(|v| v.eq_ignore_ascii_case("true"))
    }

    /// True when this parameter is given; an empty value counts (avi-api 4.2).
    pub fn asks(&self, name: &str) -> bool {
        self.get(name)
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

/// uuid of the tenant that new objects belong to, and whether the caller looks at all tenants.
fn tenant(
    app: &App,
    access: &Access,
    method: &Method,
    headers: &HeaderMap,
) -> Result<(String, bool), ApiError> {
    let value = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let snapshot = app.objects.snapshot();
    // Whether it is there is not told to those who may not enter it.
    let entered = |name: &str, uuid: Option<&str>| match uuid.filter(|uuid| access.enters(uuid)) {
        Some(uuid) => Ok((uuid.to_owned(), false)),
        None => {
            let text = format!("Tenant '{name}' does not exist!");
            Err(ApiError::new(StatusCode::FORBIDDEN, text))
        }
    };
    if let Some(uuid) = value("X-Avi-Tenant-UUID") {
        return entered(uuid, snapshot.get("tenant", uuid).map(|_| uuid));
    }
    match value("X-Avi-Tenant") {
        None | Some("") => Ok((access.home().to_owned(), false)),
        Some("*") if *method == Method::GET => Ok((access.home().to_owned(), true)),
        Some("*") => Err(ApiError::bad_request(
            "X-Avi-Tenant: * is for reading; name the tenant to write in",
        )),
        Some(name) => entered(name, snapshot.by_name("tenant", name).map(|(uuid, _)| uuid)),
    }
}
