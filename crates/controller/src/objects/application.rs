//! What is done with the connections of a virtual service besides passing them on: HTTP, TLS, persistence; and what engines
//! cannot do about it.

use super::certificate::{self, Unfit};
use super::{Snapshot, Unreadable, pools};
use model::object::FieldError;
use model::view::{
    ApplicationProfile, PersistenceProfile, Pool, Ref, Service, SslKeyAndCertificate, SslProfile,
    VirtualService,
};
use std::sync::Arc;

/// The application profile of a service.
///
/// # Errors
/// It cannot be read.
pub fn profile_of(
    snapshot: &Snapshot,
    vs: &VirtualService,
    service: &Service,
) -> Result<Option<Arc<ApplicationProfile>>, Unreadable> {
    let own = service.override_application_profile_ref.as_ref();
    let reference = own.or(vs.application_profile_ref.as_ref());
    snapshot.try_view("applicationprofile", reference.map_or("", Ref::uuid))
}

/// The port that clients are sent to who are to use TLS.
pub fn tls_port(vs: &VirtualService) -> Option<u16> {
    let mut services = vs.services.iter();
    services.find(|s| s.enable_ssl).map(|s| s.port)
}

/// Checks what engines cannot do.
pub(super) fn check(snapshot: &Snapshot, vs: &VirtualService, errors: &mut Vec<FieldError>) {
    check_tls(snapshot, vs, errors);
    for (i, service) in vs.services.iter().enumerate() {
        check_redirect(snapshot, vs, (i, service), errors);
    }
    check_cookies(snapshot, vs, errors);
}

fn check_tls(snapshot: &Snapshot, vs: &VirtualService, errors: &mut Vec<FieldError>) {
    let services = vs.services.iter();
    if let Some(i) = services.clone().position(|s| s.enable_ssl)
        && vs.ssl_key_and_certificate_refs.is_empty()
    {
        errors.push(FieldError::new(
            format!("services[{i}].enable_ssl"),
            "needs a certificate",
            "name one in ssl_key_and_certificate_refs, such as System-Default-Cert",
        ));
    }
    for (i, reference) in vs.ssl_key_and_certificate_refs.iter().enumerate() {
        let view: Option<Arc<SslKeyAndCertificate>> =
            snapshot.view("sslkeyandcertificate", reference.uuid());
        if let Some(Err(Unfit { problem, hint })) = view.map(|v| certificate::to_show(&v)) {
            let path = format!("ssl_key_and_certificate_refs[{i}]");
            errors.push(FieldError::new(path, problem, hint));
        }
    }
    errors.extend(check_versions(snapshot, vs.ssl_profile_ref.as_ref()));
}

/// The field is `ssl_profile_ref` of a virtual service or pool.
fn check_versions(snapshot: &Snapshot, reference: Option<&Ref>) -> Option<FieldError> {
    let profile = snapshot.view::<SslProfile>("sslprofile", reference?.uuid())?;
    let hint = "name SSL_VERSION_TLS1_2 or SSL_VERSION_TLS1_3 in its accepted_versions";
    let problem = format!(
        "{} accepts neither TLS 1.2 nor TLS 1.3, and engines speak no older version",
        profile.name
    );
    let speaks = profile.versions() != (false, false);
    (!speaks).then(|| FieldError::new("ssl_profile_ref", problem, hint))
}

/// Where clients are sent there must be somebody.
fn check_redirect(
    snapshot: &Snapshot,
    vs: &VirtualService,
    (i, service): (usize, &Service),
    errors: &mut Vec<FieldError>,
) {
    let profile = profile_of(snapshot, vs, service).ok().flatten();
    let Some(profile) = profile.filter(|p| p.http().is_some_and(|http| http.http_to_https)) else {
        return;
    };
    let path = match service.override_application_profile_ref {
        Some(_) => format!("services[{i}].override_application_profile_ref"),
        None => "application_profile_ref".to_owned(),
    };
    let known = errors.iter().any(|e| e.path == path);
    if tls_port(vs).is_none() && !known {
        let name = &profile.name;
        let problem = format!("{name} sends clients to https (http_to_https), and no port has TLS");
        let hint = "set enable_ssl for one of services, or use a profile without http_to_https";
        errors.push(FieldError::new(path, problem, hint));
    }
}

/// Cookies are HTTP's.
fn check_cookies(snapshot: &Snapshot, vs: &VirtualService, errors: &mut Vec<FieldError>) {
    let is_http = |service| {
        let profile = profile_of(snapshot, vs, service).ok().flatten();
        profile.is_some_and(|p| p.http().is_some())
    };
    if vs.services.is_empty() || vs.services.iter().any(is_http) {
        return;
    }
    let field = match vs.pool_group_ref {
        Some(_) => "pool_group_ref",
        None => "pool_ref",
    };
    let pools = pools::of(snapshot, vs).into_iter();
    let mut pools = pools.filter_map(|uuid| snapshot.view::<Pool>("pool", &uuid));
    let cookie = |pool: &Arc<Pool>| persistence_of(snapshot, pool).is_some_and(|p| p.is_cookie());
    if let Some(pool) = pools.find(cookie) {
        let name = &pool.name;
        let problem = format!(
            "clients of pool {name} carry a cookie (application_persistence_profile_ref), and no port is HTTP"
        );
        let hint = "use an application profile of type APPLICATION_PROFILE_TYPE_HTTP, or a persistence profile of PERSISTENCE_TYPE_CLIENT_IP_ADDRESS";
        errors.push(FieldError::new(field, problem, hint));
    }
}

fn persistence_of(snapshot: &Snapshot, pool: &Pool) -> Option<Arc<PersistenceProfile>> {
    let reference = pool.application_persistence_profile_ref.as_ref()?;
    snapshot.view("applicationpersistenceprofile", reference.uuid())
}

/// Checks what engines cannot do of a pool.
pub(super) fn check_pool(snapshot: &Snapshot, uuid: &str, errors: &mut Vec<FieldError>) {
    let Some(pool) = snapshot.view::<Pool>("pool", uuid) else {
        return;
    };
    errors.extend(check_versions(snapshot, pool.ssl_profile_ref.as_ref()));
    let profile = persistence_of(snapshot, &pool);
    if let Some(profile) = profile.filter(|p| !p.is_cookie() && !p.is_address()) {
        let (name, kind) = (&profile.name, &profile.persistence_type);
        let problem = format!("{name} is of type {kind}, which engines do not know");
        let hint = "use one of PERSISTENCE_TYPE_HTTP_COOKIE or PERSISTENCE_TYPE_CLIENT_IP_ADDRESS";
        let path = "application_persistence_profile_ref";
        errors.push(FieldError::new(path, problem, hint));
    }
    for user in pools::users(snapshot, uuid) {
        let mut own = Vec::new();
        check_cookies(snapshot, &user, &mut own);
        errors.extend(own.into_iter().map(|error| {
            let problem = format!("virtual service {}: {}", user.name, error.problem);
            FieldError::new("application_persistence_profile_ref", problem, error.hint)
        }));
    }
}

/// What virtual services and pools use must still fit them.
pub(super) fn check_users(
    snapshot: &Snapshot,
    (path, uuid): (&str, &str),
    errors: &mut Vec<FieldError>,
) {
    for (kind, user) in snapshot.referring_to(path, uuid) {
        let mut own = Vec::new();
        let what = match kind {
            "virtualservice" => {
                let vs = snapshot.view::<VirtualService>(kind, user);
                vs.into_iter().for_each(|vs| check(snapshot, &vs, &mut own));
                "virtual service"
            }
            "pool" => {
                check_pool(snapshot, user, &mut own);
                "pool"
            }
            _ => continue,
        };
        let name = snapshot.name_of(kind, user).unwrap_or_default();
        errors.extend(of_user(own, what, name, path));
    }
}

/// The errors of a user, as those of the object that it uses.
fn of_user(
    own: Vec<FieldError>,
    what: &str,
    name: &str,
    path: &str,
) -> impl Iterator<Item = FieldError> {
    let field = match path {
        "applicationprofile" => "http_profile",
        "sslprofile" => "accepted_versions",
        "applicationpersistenceprofile" => "persistence_type",
        _ => "certificate",
    };
    let by = format!("{what} {name}");
    own.into_iter().map(move |error| {
        let problem = format!("{by}: {}: {}", error.path, error.problem);
        FieldError::new(field, problem, error.hint)
    })
}
