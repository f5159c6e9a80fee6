//! How the services of a virtual service are carried: by its network profile, or by one of their own (avi-api section 12,
//! virtualservice); and what engines cannot do about it.

use super::{Snapshot, Unreadable};
use model::object::{FieldError, Object};
use model::view::{HealthMonitor, NetworkProfile, Pool, Ref, Service, Transport, VirtualService};
use serde_json::Value;
use std::sync::Arc;

/// The profile of a service.
///
/// # Errors
/// It cannot be read.
pub fn profile_of(
    snapshot: &Snapshot,
    vs: &VirtualService,
    service: &Service,
) -> Result<Option<Arc<NetworkProfile>>, Unreadable> {
    let own = service.override_network_profile_ref.as_ref();
    let reference = own.or(vs.network_profile_ref.as_ref());
    snapshot.try_view("networkprofile", reference.map_or("", Ref::uuid))
}

/// TCP where no profile says otherwise.
pub(super) fn transport_of(
    snapshot: &Snapshot,
    vs: &VirtualService,
    service: &Service,
) -> Transport {
    let profile = profile_of(snapshot, vs, service).ok().flatten();
    let transport = profile.and_then(|p| p.profile.transport());
    transport.unwrap_or(Transport::Tcp)
}

/// `tcp` or `udp` for each of its services.
pub fn words(snapshot: &Snapshot, vs: &VirtualService) -> Vec<&'static str> {
    let word = |service| match transport_of(snapshot, vs, service) {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    vs.services.iter().map(word).collect()
}

/// Whether the profile in this field of an object says UDP.
fn is_udp(snapshot: &Snapshot, reference: Option<&Value>) -> bool {
    let reference = reference.and_then(Value::as_str).unwrap_or_default();
    let uuid = Ref(reference.to_owned()).uuid().to_owned();
    let profile = snapshot.view::<NetworkProfile>("networkprofile", &uuid);
    profile.is_some_and(|p| p.profile.transport() == Some(Transport::Udp))
}

/// Whether services of it are carried by this profile.
pub(super) fn uses(vs: &VirtualService, profile: &Ref) -> bool {
    let own = vs.services.iter().map(|s| &s.override_network_profile_ref);
    own.chain([&vs.network_profile_ref])
        .flatten()
        .any(|r| r == profile)
}

/// Services of two virtual services at one VIP that want the same port.
pub(super) fn collide(
    snapshot: &Snapshot,
    (vs, service): (&VirtualService, &Service),
    (other, theirs): (&VirtualService, &Service),
) -> bool {
    let (ours, theirs_ports) = (service.ports(), theirs.ports());
    ours.0 <= theirs_ports.1
        && theirs_ports.0 <= ours.1
        && transport_of(snapshot, vs, service) == transport_of(snapshot, other, theirs)
}

/// Checks what engines cannot do.
pub(super) fn check(snapshot: &Snapshot, vs: &VirtualService, errors: &mut Vec<FieldError>) {
    let reference = vs.network_profile_ref.as_ref();
    errors.extend(check_profile(snapshot, "network_profile_ref", reference));
    for (i, service) in vs.services.iter().enumerate() {
        let path = format!("services[{i}].override_network_profile_ref");
        let reference = service.override_network_profile_ref.as_ref();
        errors.extend(check_profile(snapshot, &path, reference));
        let before = &vs.services[..i];
        if before
            .iter()
            .any(|b| collide(snapshot, (vs, service), (vs, b)))
        {
            errors.push(FieldError::new(
                format!("services[{i}].port"),
                format!("port {} is used twice", service.port),
                "remove one of them, or give them profiles of TCP and of UDP",
            ));
        }
    }
    if has_udp(snapshot, vs) {
        check_udp(snapshot, vs, errors);
    }
}

/// What engines cannot do of a profile.
fn check_profile(snapshot: &Snapshot, path: &str, reference: Option<&Ref>) -> Option<FieldError> {
    let uuid = reference?.uuid();
    let profile = snapshot.view::<NetworkProfile>("networkprofile", uuid)?;
    let name = &profile.name;
    let wrong =
        |problem: &str, hint: &str| Some(FieldError::new(path, format!("{name} {problem}"), hint));
    let udp = profile.profile.udp();
    match profile.profile.transport() {
        None => wrong(
            "is for SCTP, which engines do not serve",
            "use a profile of TCP or UDP",
        ),
        Some(Transport::Udp) if udp.per_pkt_loadbalance => wrong(
            "balances each datagram by itself (per_pkt_loadbalance), and engines balance flows",
            "use System-UDP-Fast-Path",
        ),
        Some(Transport::Udp) if !udp.snat => wrong(
            "shows servers the clients' addresses (snat is false), and engines send from their own",
            "use System-UDP-Fast-Path",
        ),
        Some(Transport::Tcp | Transport::Udp) => None,
    }
}

/// Of a virtual service with a UDP port.
fn check_udp(snapshot: &Snapshot, vs: &VirtualService, errors: &mut Vec<FieldError>) {
    for (i, service) in vs.services.iter().enumerate() {
        if service.enable_ssl && transport_of(snapshot, vs, service) == Transport::Udp {
            errors.push(FieldError::new(
                format!("services[{i}].enable_ssl"),
                "TLS needs TCP, and this service is UDP",
                "set it to false, or use a network profile of TCP",
            ));
        }
    }
    if let Some((path, name)) = tcp_application(snapshot, vs) {
        errors.push(FieldError::new(
            path,
            format!("{name} is for TCP, and a service is UDP"),
            "use System-L4-Application",
        ));
    }
}

/// The application profile of a UDP service that is for TCP alone: in which field, and its name.
fn tcp_application(snapshot: &Snapshot, vs: &VirtualService) -> Option<(String, String)> {
    let services = vs.services.iter().enumerate();
    let mut udp = services.filter(|(_, s)| transport_of(snapshot, vs, s) == Transport::Udp);
    udp.find_map(|(i, service)| {
        let own = service.override_application_profile_ref.as_ref();
        let path = match own {
            Some(_) => format!("services[{i}].override_application_profile_ref"),
            None => "application_profile_ref".to_owned(),
        };
        let profile = own.or(vs.application_profile_ref.as_ref())?.uuid();
        let profile = snapshot.get("applicationprofile", profile)?;
        let kind = profile.object.get("type")?.as_str()?;
        let is_tcp = [
            "APPLICATION_PROFILE_TYPE_HTTP",
            "APPLICATION_PROFILE_TYPE_SSL",
        ];
        let name = profile.name().to_owned();
        is_tcp.contains(&kind).then_some((path, name))
    })
}

/// What to do about [`unfit_monitor_for`].
pub(super) const MONITOR_HINT: &str =
    "use a monitor of type HEALTH_MONITOR_UDP, such as System-UDP";

/// A monitor of a pool that cannot tell of a UDP server: which, and why.
fn unfit_monitor(snapshot: &Snapshot, pool: &Pool) -> Option<(usize, String)> {
    let monitors = pool.health_monitor_refs.iter().enumerate();
    let mut monitors = monitors.filter_map(|(i, reference)| {
        let monitor = snapshot.view::<HealthMonitor>("healthmonitor", reference.uuid())?;
        Some((i, monitor))
    });
    let fits = ["HEALTH_MONITOR_UDP", "HEALTH_MONITOR_TCP"];
    let (i, monitor) = monitors.find(|(_, m)| !fits.contains(&m.kind.as_str()))?;
    let (pool, name, kind) = (&pool.name, &monitor.name, &monitor.kind);
    let problem = format!(
        "pool {pool} has the monitor {name} of type {kind}, and engines check UDP servers by UDP or TCP only"
    );
    Some((i, problem))
}

fn has_udp(snapshot: &Snapshot, vs: &VirtualService) -> bool {
    let mut services = vs.services.iter();
    services.any(|s| transport_of(snapshot, vs, s) == Transport::Udp)
}

/// A monitor of a pool that cannot tell of the servers of this virtual service, because it has a UDP port: which, and why.
pub(super) fn unfit_monitor_for(
    snapshot: &Snapshot,
    vs: &VirtualService,
    pool: &Pool,
) -> Option<(usize, String)> {
    unfit_monitor(snapshot, pool).filter(|_| has_udp(snapshot, vs))
}

/// The application profile that a virtual service gets without asking.
pub(super) fn default_application(snapshot: &Snapshot, vs: &Object) -> &'static str {
    let services = vs.get("services").and_then(Value::as_array);
    let own = services.into_iter().flatten();
    let own = own.map(|s| s.get("override_network_profile_ref"));
    let mut all = own.chain([vs.get("network_profile_ref")]);
    match all.any(|reference| is_udp(snapshot, reference)) {
        true => "System-L4-Application",
        false => "System-HTTP",
    }
}
