//! HTTP, TLS and cookies, as the proxy is told of them.

use proto::v1::{self, DesiredState, Pool, VirtualService};
use proxy::{
    BackSpec, CertificateSpec, CookieSpec, ForwardedFor, ForwardedForUpdate, FrontSpec, HttpSpec,
    PortSpec, PrivateKey, ServerTlsSpec, TlsSpec, TlsVersions,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// By uuid.
pub(super) type Certificates<'a> = BTreeMap<&'a str, Arc<CertificateSpec>>;

/// Those that virtual services may name.
pub(super) fn certificates(desired: &DesiredState) -> Certificates<'_> {
    let all = desired.certificates.iter();
    all.map(|c| (c.uuid.as_str(), Arc::new(certificate(c))))
        .collect()
}

/// The side of clients.
pub(super) fn front(
    desired: &DesiredState,
    vs: &VirtualService,
    certificates: &Certificates<'_>,
) -> FrontSpec {
    let ports = vs.ports.iter().flat_map(|range| {
        let spec = port(range);
        let ports = (range.first..=range.last).filter_map(|port| u16::try_from(port).ok());
        ports.map(move |port| (port, spec.clone()))
    });
    FrontSpec {
        ports: ports
            .filter(|(_, spec)| *spec != PortSpec::default())
            .collect(),
        tls: vs.tls.as_ref().map(|wanted| TlsSpec {
            rotation: rotation(desired, vs),
            ..tls(wanted, certificates)
        }),
        closing: is_closing(desired, vs),
    }
}

/// The number with which its clients of TLS were made to begin anew; 0 = they never were.
fn rotation(desired: &DesiredState, vs: &VirtualService) -> u64 {
    let mut rotations = desired.tls_rotations.iter();
    let own = rotations.find(|rotation| rotation.vs_uuid == vs.uuid);
    own.map_or(0, |rotation| rotation.number)
}

/// Clients that keep their connections would keep this engine from going.
fn is_closing(desired: &DesiredState, vs: &VirtualService) -> bool {
    let mut groups = desired.groups.iter();
    let lingers = groups.any(|g| g.vsvip_uuid == vs.vsvip_uuid && g.lingers);
    desired.draining || lingers || !vs.enabled
}

fn port(range: &v1::PortRange) -> PortSpec {
    PortSpec {
        http: range.http.as_ref().map(|settings| Arc::new(http(settings))),
        tls: range.protocol() == v1::Protocol::Tls,
    }
}

fn ms(number: u32) -> Duration {
    Duration::from_millis(number.into())
}

/// 0 is none.
fn some_ms(number: u32) -> Option<Duration> {
    (number > 0).then(|| ms(number))
}

fn http(settings: &v1::Http) -> HttpSpec {
    let update = match settings.forwarded_for_update() {
        v1::ForwardedForUpdate::Append => ForwardedForUpdate::Append,
        v1::ForwardedForUpdate::Add => ForwardedForUpdate::Add,
        v1::ForwardedForUpdate::Replace | v1::ForwardedForUpdate::Unspecified => {
            ForwardedForUpdate::Replace
        }
    };
    let name = settings.forwarded_for.clone();
    let redirect_port = u16::try_from(settings.redirect_port).ok();
    HttpSpec {
        header_timeout: ms(settings.client_header_timeout_ms),
        body_timeout: some_ms(settings.client_body_timeout_ms),
        keepalive_timeout: ms(settings.keepalive_timeout_ms),
        post_accept_timeout: ms(settings.post_accept_timeout_ms),
        multiplexing: settings.multiplexing,
        redirect_port: redirect_port.filter(|port| *port > 0),
        forwarded_for: (!name.is_empty()).then_some(ForwardedFor { name, update }),
        forwarded_proto: settings.forwarded_proto,
    }
}

fn tls(tls: &v1::Tls, certificates: &Certificates<'_>) -> TlsSpec {
    let named = tls.certificate_uuids.iter();
    TlsSpec {
        certificates: named
            .filter_map(|uuid| certificates.get(uuid.as_str()).cloned())
            .collect(),
        versions: versions(tls.versions.as_ref()),
        rotation: 0,
    }
}

/// As the proxy is told of it.
pub(crate) fn certificate(certificate: &v1::KeyAndCertificate) -> CertificateSpec {
    CertificateSpec {
        name: certificate.name.clone(),
        chain: certificate.chain_pem.clone(),
        key: PrivateKey(certificate.key_pem.clone()),
    }
}

fn versions(versions: Option<&v1::TlsVersions>) -> TlsVersions {
    versions.map_or_else(TlsVersions::default, |v| TlsVersions {
        tls12: v.tls12,
        tls13: v.tls13,
    })
}

/// The side of a pool's servers.
pub(super) fn back(pool: &Pool) -> BackSpec {
    BackSpec {
        server_timeout: some_ms(pool.server_timeout_ms),
        tls: pool.tls.as_ref().map(|tls| ServerTlsSpec {
            versions: versions(tls.versions.as_ref()),
            sni: tls.sni,
            name: Some(tls.server_name.clone()).filter(|name| !name.is_empty()),
        }),
        cookie: pool.cookie.as_ref().map(|cookie| CookieSpec {
            name: cookie.name.clone(),
            max_age: (cookie.max_age_s > 0).then(|| Duration::from_secs(cookie.max_age_s.into())),
            http_only: cookie.http_only,
        }),
    }
}

#[cfg(test)]
mod tests;
