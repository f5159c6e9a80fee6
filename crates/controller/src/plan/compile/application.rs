//! HTTP, TLS and persistence, as engines are told of them.

use crate::objects::{Snapshot, Unreadable, application, certificate};
use model::view::{
    ApplicationProfile, HttpApplicationProfile, PersistenceProfile, Pool, Ref, Service,
    SslKeyAndCertificate, SslProfile, VirtualService,
};
use proto::v1;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How HTTP is served at a port; `None` where bytes are passed on.
pub(super) fn http(
    snapshot: &Snapshot,
    vs: &VirtualService,
    service: &Service,
) -> Result<Option<v1::Http>, Unreadable> {
    let profile = application::profile_of(snapshot, vs, service)?;
    let http = profile.and_then(|profile| profile.http());
    Ok(http.map(|profile| {
        let redirects = profile.http_to_https && !service.enable_ssl;
        let port = application::tls_port(vs).filter(|_| redirects);
        settings(profile, port.unwrap_or(0))
    }))
}

fn settings(profile: HttpApplicationProfile, redirect_port: u16) -> v1::Http {
    let HttpApplicationProfile {
        client_header_timeout,
        client_body_timeout,
        keepalive_timeout,
        post_accept_timeout,
        connection_multiplexing_enabled,
        http_to_https: _,
        xff_enabled,
        xff_update,
        xff_alternate_name,
        x_forwarded_proto_enabled,
    } = profile;
    let update = match xff_update.as_str() {
        "APPEND_TO_THE_XFF_HEADER" => v1::ForwardedForUpdate::Append,
        "ADD_NEW_XFF_HEADER" => v1::ForwardedForUpdate::Add,
        _ => v1::ForwardedForUpdate::Replace,
    };
    v1::Http {
        client_header_timeout_ms: client_header_timeout,
        client_body_timeout_ms: client_body_timeout,
        keepalive_timeout_ms: keepalive_timeout,
        post_accept_timeout_ms: post_accept_timeout,
        multiplexing: connection_multiplexing_enabled,
        redirect_port: redirect_port.into(),
        forwarded_for: Some(xff_alternate_name)
            .filter(|_| xff_enabled)
            .unwrap_or_default(),
        forwarded_for_update: update.into(),
        forwarded_proto: x_forwarded_proto_enabled,
    }
}

/// What servers are told of clients before anything else: by the first profile of several whose ports pass bytes on.
pub(super) fn proxy_protocol<'a>(
    snapshot: &Snapshot,
    vs: &VirtualService,
    services: impl Iterator<Item = &'a Service>,
) -> Result<v1::ProxyProtocol, Unreadable> {
    for service in services {
        let profile = application::profile_of(snapshot, vs, service)?;
        let Some(settings) = profile.as_deref().and_then(ApplicationProfile::tcp) else {
            continue;
        };
        let version = match settings.proxy_protocol_version.as_str() {
            "PROXY_PROTOCOL_VERSION_2" => v1::ProxyProtocol::V2,
            _ => v1::ProxyProtocol::V1,
        };
        return Ok(match settings.proxy_protocol_enabled {
            true => version,
            false => v1::ProxyProtocol::Unspecified,
        });
    }
    Ok(v1::ProxyProtocol::Unspecified)
}

/// Whom clients of TLS meet; `None` where no port has TLS. A certificate that engines cannot use, from before they used any,
/// is left out: they would refuse all that they are told. What is used is added to `certificates`.
pub(super) fn tls(
    snapshot: &Snapshot,
    vs: &VirtualService,
    certificates: &mut BTreeMap<String, v1::KeyAndCertificate>,
) -> Result<Option<v1::Tls>, Unreadable> {
    if application::tls_port(vs).is_none() {
        return Ok(None);
    }
    let mut certificate_uuids = Vec::new();
    for reference in &vs.ssl_key_and_certificate_refs {
        let view =
            snapshot.try_view::<SslKeyAndCertificate>("sslkeyandcertificate", reference.uuid())?;
        match view.map(|view| certificate::to_show(&view)) {
            Some(Ok(certificate)) => {
                certificate_uuids.push(certificate.uuid.clone());
                certificates.insert(certificate.uuid.clone(), certificate);
            }
            Some(Err(unfit)) => tracing::warn!(vs = vs.name, "{}", unfit.problem),
            None => {}
        }
    }
    Ok(Some(v1::Tls {
        certificate_uuids,
        versions: versions(snapshot, vs.ssl_profile_ref.as_ref())?,
    }))
}

/// Both where nothing that is spoken is accepted, as by a profile from before it was looked at.
fn versions(
    snapshot: &Snapshot,
    reference: Option<&Ref>,
) -> Result<Option<v1::TlsVersions>, Unreadable> {
    let uuid = reference.map_or("", Ref::uuid);
    let profile = snapshot.try_view::<SslProfile>("sslprofile", uuid)?;
    let versions = profile.map(|profile| profile.versions());
    Ok(versions
        .filter(|versions| *versions != (false, false))
        .map(|(tls12, tls13)| v1::TlsVersions { tls12, tls13 }))
}

/// TLS to the servers of a pool.
pub(super) fn server_tls(
    snapshot: &Snapshot,
    pool: &Pool,
) -> Result<Option<v1::ServerTls>, Unreadable> {
    let Some(reference) = &pool.ssl_profile_ref else {
        return Ok(None);
    };
    Ok(Some(v1::ServerTls {
        versions: versions(snapshot, Some(reference))?,
        sni: pool.sni_enabled,
        server_name: pool.server_name.clone().unwrap_or_default(),
    }))
}

/// What clients of a pool are known by.
pub(super) fn persistence(
    snapshot: &Snapshot,
    pool: &Pool,
) -> Result<Option<Arc<PersistenceProfile>>, Unreadable> {
    let reference = pool.application_persistence_profile_ref.as_ref();
    let uuid = reference.map_or("", Ref::uuid);
    snapshot.try_view("applicationpersistenceprofile", uuid)
}

/// The cookie of a pool whose clients carry one.
pub(super) fn cookie(pool: &Pool, profile: &PersistenceProfile) -> Option<v1::Cookie> {
    let settings = profile.http_cookie_persistence_profile.clone();
    let settings = settings.unwrap_or_default();
    let name = settings.cookie_name.filter(|name| !name.is_empty());
    profile.is_cookie().then(|| v1::Cookie {
        name: name.unwrap_or_else(|| cookie_name(&pool.uuid)),
        max_age_s: settings.timeout * 60,
        http_only: settings.http_only,
    })
}

/// One of its own for each pool: a client may be at several.
fn cookie_name(pool: &str) -> String {
    let hash = Sha256::digest(pool.as_bytes());
    let hash: String = hash.iter().take(4).map(|b| format!("{b:02x}")).collect();
    format!("evenkeel-{hash}")
}

#[cfg(test)]
mod tests;
