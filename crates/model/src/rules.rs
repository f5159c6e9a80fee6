//! What names, types and ranges cannot say: the rules within one object (avi-api section 12).
//!
//! Rules across objects (a VIP used twice, ports that overlap) need the store and live in the controller.

mod network;

use crate::object::{FieldError, Object};
use crate::schema::{Kind, ObjectType, message};
use crate::view::{self, Address, BgpPeer, BgpProfile, Prefix, StaticRoute};
use ipnet::IpNet;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Largest TCP MD5 key the kernel takes, in bytes (TCP_MD5SIG_MAXKEYLEN).
pub const MD5_SECRET_MAX_BYTES: usize = 80;
/// Largest scale-out of a virtual service, in engines (avi-api section 12, serviceenginegroup).
pub const SCALEOUT_MAX: i64 = 64;

/// The rules of this type; empty when all hold. The object's fields have passed the schema's checks.
pub fn check(ty: &ObjectType, object: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check_addresses(ty, object, "", &mut errors);
    if !errors.is_empty() {
        return errors;
    }
    match ty.name.as_str() {
        "VrfContext" => check_vrf(object, &mut errors),
        "ServiceEngineGroup" => check_se_group(object, &mut errors),
        "ServiceEngine" => check_service_engine(object, &mut errors),
        "VsVip" => check_vips(object, &mut errors),
        "VirtualService" => check_virtual_service(object, &mut errors),
        "HealthMonitor" => check_health_monitor(object, &mut errors),
        "PoolGroup" => check_pool_group(object, &mut errors),
        "Network" => network::check(object, &mut errors),
        "ApplicationProfile" => check_application_profile(object, &mut errors),
        "ApplicationPersistenceProfile" => check_persistence(object, &mut errors),
        _ => {}
    }
    errors
}

/// Every `IpAddr` and `IpAddrPrefix` in the object is an address and a prefix.
fn check_addresses(ty: &ObjectType, object: &Object, prefix: &str, errors: &mut Vec<FieldError>) {
    for field in ty.fields.iter().filter(|f| !f.is_server_owned()) {
        let (Kind::Message(name), Some(value)) = (&field.kind, object.get(&field.name)) else {
            continue;
        };
        let path = if prefix.is_empty() {
            field.name.clone()
        } else {
            format!("{prefix}.{}", field.name)
        };
        match value {
            Value::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    check_address_value(name, item, &format!("{path}[{i}]"), errors);
                }
            }
            value => check_address_value(name, value, &path, errors),
        }
    }
}

fn check_address_value(name: &str, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let (Some(object), Some(ty)) = (value.as_object(), message(name)) else {
        return;
    };
    match name {
        "IpAddr" => check_ip(object, path, errors),
        "IpAddrPrefix" => check_prefix(object, path, errors),
        _ => check_addresses(ty, object, path, errors),
    }
}

fn check_ip(object: &Object, path: &str, errors: &mut Vec<FieldError>) {
    let Ok(address) = view::parse::<Address>(object) else {
        return;
    };
    if address.kind != "DNS" && address.ip().is_none() {
        let problem = format!(
            "{:?} is not an address of type {}",
            address.addr, address.kind
        );
        errors.push(FieldError::new(
            format!("{path}.addr"),
            problem,
            "write an IPv4 or IPv6 address and its type V4 or V6",
        ));
    }
}

fn check_prefix(object: &Object, path: &str, errors: &mut Vec<FieldError>) {
    let Ok(prefix) = view::parse::<Prefix>(object) else {
        return;
    };
    if prefix.net().is_none() {
        let problem = format!(
            "{}/{} is not a prefix of type {}",
            prefix.ip_addr.addr, prefix.mask, prefix.ip_addr.kind
        );
        errors.push(FieldError::new(
            path,
            problem,
            "write ip_addr {addr, type} and a mask that fits it",
        ));
    }
}

/// Servers' answers come back to the engine only where they are sent to an address of its own.
fn check_application_profile(object: &Object, errors: &mut Vec<FieldError>) {
    if object.get("preserve_client_ip") == Some(&Value::Bool(true)) {
        errors.push(FieldError::new(
            "preserve_client_ip",
            "engines do not show servers the addresses of clients",
            "set it to false; servers see the engine, snat_ip of the virtual service, or its VIP (use_vip_as_snat)",
        ));
    }
    let http = object.get("http_profile");
    let name = http.and_then(|http| http.get("xff_alternate_name"));
    let path = "http_profile.xff_alternate_name";
    check_token(name, path, errors);
    let taken = name.and_then(Value::as_str).filter(|name| {
        let mut needed = NEEDED_HEADERS.iter();
        needed.any(|needed| needed.eq_ignore_ascii_case(name))
    });
    if let Some(name) = taken {
        errors.push(FieldError::new(
            path,
            format!("{name} says something else already"),
            "name a header that is there for clients' addresses, such as X-Real-IP",
        ));
    }
}

/// Without them a request is another one.
const NEEDED_HEADERS: [&str; 10] = [
    "Authorization",
    "Connection",
    "Content-Length",
    "Cookie",
    "Host",
    "Keep-Alive",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
];

/// A name of a header field or a cookie is a token (RFC 9110 section 5.6.2).
fn check_token(name: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
    let is_char = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let name = name.and_then(Value::as_str);
    if let Some(name) = name.filter(|name| name.is_empty() || !name.bytes().all(is_char)) {
        errors.push(FieldError::new(
            path,
            format!("{name:?} is no name"),
            "write letters, digits, - and _",
        ));
    }
}

fn check_persistence(object: &Object, errors: &mut Vec<FieldError>) {
    let cookie = object.get("http_cookie_persistence_profile");
    let name = cookie.and_then(|cookie| cookie.get("cookie_name"));
    let path = "http_cookie_persistence_profile.cookie_name";
    check_token(name, path, errors);
}

fn check_vrf(object: &Object, errors: &mut Vec<FieldError>) {
    check_static_routes(object, errors);
    let Some(profile) = object.get("bgp_profile").and_then(Value::as_object) else {
        return;
    };
    refuse_tcp_ao(profile, errors);
    match view::parse::<BgpProfile>(profile) {
        Ok(profile) => check_bgp_profile(&profile, errors),
        Err(e) => errors.push(FieldError::new(
            "bgp_profile",
            e.to_string(),
            "correct the profile",
        )),
    }
}

/// Addresses and prefixes by themselves are checked elsewhere.
fn check_static_routes(object: &Object, errors: &mut Vec<FieldError>) {
    let routes = object.get("static_routes").and_then(Value::as_array);
    let mut ids = BTreeSet::new();
    for (i, route) in routes.into_iter().flatten().enumerate() {
        let Some(Ok(route)) = route.as_object().map(view::parse::<StaticRoute>) else {
            continue;
        };
        let path = format!("static_routes[{i}]");
        let families = (route.prefix.net(), route.next_hop.ip());
        if let (Some(prefix), Some(next_hop)) = families
            && prefix.addr().is_ipv4() != next_hop.is_ipv4()
        {
            errors.push(FieldError::new(
                format!("{path}.next_hop"),
                format!("{next_hop} is of another address family than {prefix}"),
                "use a next hop of the prefix's family",
            ));
        }
        if !ids.insert(route.route_id.clone()) {
            errors.push(FieldError::new(
                format!("{path}.route_id"),
                format!("{:?} is used by another route", route.route_id),
                "give every route an id of its own",
            ));
        }
    }
}

/// A key that would be kept and never used must not look like protection (RFC 5925).
fn refuse_tcp_ao(profile: &Object, errors: &mut Vec<FieldError>) {
    let peers = profile.get("peers").and_then(Value::as_array);
    for (i, peer) in peers.into_iter().flatten().enumerate() {
        let fields = peer.as_object().into_iter().flat_map(Object::keys);
        for name in fields.filter(|name| name.starts_with("tcp_ao") || name.starts_with("ao_")) {
            errors.push(FieldError::new(
                format!("bgp_profile.peers[{i}].{name}"),
                "TCP-AO (RFC 5925) is not supported",
                "use md5_secret (RFC 2385), and the same password on the router",
            ));
        }
    }
}

fn check_bgp_profile(profile: &BgpProfile, errors: &mut Vec<FieldError>) {
    let base = "bgp_profile";
    if profile.ibgp && profile.num_as_path_prepend.is_some() {
        errors.push(FieldError::new(
            format!("{base}.num_as_path_prepend"),
            "goes with eBGP only",
            "set ibgp to false or leave it out",
        ));
    }
    if !profile.ibgp && profile.local_preference.is_some() {
        errors.push(FieldError::new(
            format!("{base}.local_preference"),
            "goes with iBGP only",
            "set ibgp to true or leave it out",
        ));
    }
    check_communities(&profile.community, base, errors);
    check_ip_communities(profile, base, errors);
    check_routing_options(profile, base, errors);
    check_hold_time(
        Some(profile.hold_time),
        Some(profile.keepalive_interval),
        base,
        errors,
    );
    let mut seen = BTreeMap::new();
    for (i, peer) in profile.peers.iter().enumerate() {
        let path = format!("{base}.peers[{i}]");
        check_peer(profile, peer, &path, errors);
        check_peer_is_new(peer, &path, &mut seen, errors);
    }
}

fn check_communities(texts: &[String], base: &str, errors: &mut Vec<FieldError>) {
    for (i, text) in texts.iter().enumerate().filter(|(_, c)| !is_community(c)) {
        let hint = "write aa:nn with numbers from 1 to 65535, a:b:c (large community), or internet, local-AS, no-advertise, no-export";
        errors.push(FieldError::new(
            format!("{base}.community[{i}]"),
            format!("{text:?} is not a community"),
            hint,
        ));
    }
}

/// `aa:nn` or one of the well-known words (RFC 1997; avi-api section 12), or a large community `a:b:c` (RFC 8092).
fn is_community(text: &str) -> bool {
    if ["internet", "local-AS", "no-advertise", "no-export"].contains(&text) {
        return true;
    }
    let number = |t: &str| t.parse::<u16>().is_ok_and(|n| n > 0);
    match text.split(':').collect::<Vec<_>>().as_slice() {
        [a, n] => number(a) && number(n),
        [a, b, c] => [a, b, c].iter().all(|t| t.parse::<u32>().is_ok()),
        _ => false,
    }
}

fn check_ip_communities(profile: &BgpProfile, base: &str, errors: &mut Vec<FieldError>) {
    for (i, rule) in profile.ip_communities.iter().enumerate() {
        let path = format!("{base}.ip_communities[{i}]");
        check_communities(&rule.community, &path, errors);
        if rule.range().is_none_or(|(first, last)| first > last) {
            errors.push(FieldError::new(
                format!("{path}.ip_end"),
                "is no end of a range that begins with ip_begin",
                "use an address of the same family, not below ip_begin, or leave it out",
            ));
        }
    }
}

fn check_routing_options(profile: &BgpProfile, base: &str, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (i, options) in profile.routing_options.iter().enumerate() {
        let path = format!("{base}.routing_options[{i}]");
        if !is_label(&options.label) {
            errors.push(not_a_label(format!("{path}.label")));
        }
        if !seen.insert(&options.label) {
            errors.push(FieldError::new(
                format!("{path}.label"),
                format!("{:?} has routing options already", options.label),
                "put them into one entry",
            ));
        }
        if options.learn_routes && options.learn_only_default_route {
            errors.push(FieldError::new(
                format!("{path}.learn_only_default_route"),
                "excludes learn_routes",
                "set one of the two",
            ));
        }
    }
}

fn not_a_label(path: String) -> FieldError {
    FieldError::new(path, "is not a label", "use up to 128 of A-Z a-z 0-9 _ -")
}

/// RFC 4271 section 4.2: without keepalives the hold timer must not run.
fn check_hold_time(
    hold_time: Option<u16>,
    keepalive: Option<u16>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    if let (Some(hold_time), Some(0)) = (hold_time, keepalive)
        && hold_time > 0
    {
        errors.push(FieldError::new(
            format!("{path}.keepalive_interval"),
            format!("0 (no keepalives) would let every session expire after the hold time of {hold_time} s"),
            "set hold_time to 0 too, or use a third of the hold time",
        ));
    }
}

fn check_peer(profile: &BgpProfile, peer: &BgpPeer, path: &str, errors: &mut Vec<FieldError>) {
    if peer.peer_ip.is_none() && peer.peer_ip6.is_none() {
        errors.push(FieldError::new(
            format!("{path}.peer_ip"),
            "is required",
            "set peer_ip or peer_ip6 to the router's address",
        ));
    }
    check_peer_as(profile, peer, path, errors);
    check_peer_subnet(
        profile,
        peer,
        path,
        peer.peer_ip.as_ref(),
        peer.subnet.as_ref(),
        "",
        errors,
    );
    check_peer_subnet(
        profile,
        peer,
        path,
        peer.peer_ip6.as_ref(),
        peer.subnet6.as_ref(),
        "6",
        errors,
    );
    if peer
        .md5_secret
        .as_ref()
        .is_some_and(|s| s.len() > MD5_SECRET_MAX_BYTES)
    {
        let problem =
            format!("is longer than {MD5_SECRET_MAX_BYTES} bytes, the most that TCP MD5 takes");
        errors.push(FieldError::new(
            format!("{path}.md5_secret"),
            problem,
            "use a shorter secret",
        ));
    }
    if peer.label.as_ref().is_some_and(|l| !is_label(l)) {
        errors.push(not_a_label(format!("{path}.label")));
    }
    if peer.hold_time.is_some() || peer.keepalive_interval.is_some() {
        check_hold_time(
            Some(peer.hold_time.unwrap_or(profile.hold_time)),
            Some(
                peer.keepalive_interval
                    .unwrap_or(profile.keepalive_interval),
            ),
            path,
            errors,
        );
    }
    check_peer_security(profile, peer, path, errors);
}

fn check_peer_security(
    profile: &BgpProfile,
    peer: &BgpPeer,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    if peer.ttl_security && profile.ibgp {
        errors.push(FieldError::new(
            format!("{path}.ttl_security"),
            "goes with eBGP only",
            "leave it out for an iBGP peer",
        ));
    }
    if peer.graceful_restart && peer.bfd {
        errors.push(FieldError::new(
            format!("{path}.graceful_restart"),
            "contradicts bfd: a restart of the engine takes its BFD sessions down, and the router drops the routes that graceful restart would keep",
            "set bfd to false for this peer, or leave graceful_restart out",
        ));
    }
    if peer.ibgp_local_as_override && !profile.ibgp {
        errors.push(FieldError::new(
            format!("{path}.ibgp_local_as_override"),
            "goes with iBGP only",
            "use local_as for an eBGP peer",
        ));
    }
    if peer.bfd_strict && !peer.bfd {
        errors.push(FieldError::new(
            format!("{path}.bfd_strict"),
            "needs bfd",
            "set bfd to true",
        ));
    }
}

fn is_label(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn check_peer_as(profile: &BgpProfile, peer: &BgpPeer, path: &str, errors: &mut Vec<FieldError>) {
    let local_as = peer.local_as.unwrap_or(profile.local_as);
    let path = format!("{path}.remote_as");
    match peer.remote_as {
        None if !profile.ibgp => {
            errors.push(FieldError::new(
                path,
                "is required for an eBGP peer",
                "set the router's AS number, or set bgp_profile.ibgp to true",
            ));
        }
        Some(remote) if profile.ibgp && remote != local_as && !peer.ibgp_local_as_override => {
            let problem =
                format!("{remote} differs from local_as {local_as}, but the profile is iBGP");
            errors.push(FieldError::new(
                path,
                problem,
                "leave it out, set ibgp_local_as_override to speak as a member of that AS, or set bgp_profile.ibgp to false",
            ));
        }
        Some(remote) if !profile.ibgp && remote == local_as => {
            let problem = format!("{remote} equals local_as, but the profile is eBGP");
            errors.push(FieldError::new(
                path,
                problem,
                "set the router's AS number, or set bgp_profile.ibgp to true",
            ));
        }
        _ => {}
    }
}

/// The peer lies in its subnet, unless it is reached over several hops (`ebgp_multihop`) or is an iBGP peer: an
/// iBGP router's loopback lies outside the link's subnet by design, and then the subnet only selects the local
/// interface.
fn check_peer_subnet(
    profile: &BgpProfile,
    peer: &BgpPeer,
    path: &str,
    address: Option<&Address>,
    subnet: Option<&Prefix>,
    suffix: &str,
    errors: &mut Vec<FieldError>,
) {
    let Some(ip) = address.and_then(Address::ip) else {
        return;
    };
    let path = format!("{path}.subnet{suffix}");
    // The network's subnets are looked at where the network is: among all objects.
    if subnet.is_none() && peer.network_ref.is_some() {
        return;
    }
    let Some(net) = subnet.and_then(Prefix::net) else {
        return errors.push(FieldError::new(
            path,
            "is required",
            "set the network of the engines' interfaces towards this router, or network_ref",
        ));
    };
    if net.addr().is_ipv4() != ip.is_ipv4() {
        let problem = format!("{net} and the peer {ip} are of different address families");
        errors.push(FieldError::new(
            path,
            problem,
            "write a subnet of the peer's family",
        ));
    } else if !net.contains(&ip) && !profile.ibgp && peer.ebgp_multihop == 0 {
        let hint = "correct peer_ip or the subnet, or set ebgp_multihop when the router is not directly connected";
        errors.push(FieldError::new(
            path,
            format!("the peer {ip} is outside {net}"),
            hint,
        ));
    }
}

/// Peer identity is (address, subnet): the key of graceful changes (avi-api section 12).
fn check_peer_is_new(
    peer: &BgpPeer,
    path: &str,
    seen: &mut BTreeMap<(IpAddr, Option<IpNet>), String>,
    errors: &mut Vec<FieldError>,
) {
    let pairs = [
        (&peer.peer_ip, &peer.subnet),
        (&peer.peer_ip6, &peer.subnet6),
    ];
    for (address, subnet) in pairs {
        let Some(ip) = address.as_ref().and_then(Address::ip) else {
            continue;
        };
        let key = (ip, subnet.as_ref().and_then(Prefix::net));
        if let Some(first) = seen.insert(key, path.to_owned()) {
            errors.push(FieldError::new(
                path,
                format!("is the same peer as {first}"),
                "remove one of them",
            ));
        }
    }
}

fn check_se_group(object: &Object, errors: &mut Vec<FieldError>) {
    let number = |name: &str| object.get(name).and_then(Value::as_i64);
    let (min, max) = (
        number("min_scaleout_per_vs").unwrap_or(1),
        number("max_scaleout_per_vs").unwrap_or(4),
    );
    for (name, n) in [("min_scaleout_per_vs", min), ("max_scaleout_per_vs", max)] {
        if !(1..=SCALEOUT_MAX).contains(&n) {
            errors.push(FieldError::new(
                name,
                format!("{n} is out of range"),
                format!("use 1 to {SCALEOUT_MAX}"),
            ));
        }
    }
    if min > max {
        let problem = format!("{min} is above max_scaleout_per_vs {max}");
        errors.push(FieldError::new(
            "min_scaleout_per_vs",
            problem,
            "lower it or raise max_scaleout_per_vs",
        ));
    }
    check_usage(object, errors);
    check_rebalance(object, errors);
    check_message_port(object, errors);
}

/// What BGP (RFC 4271) and BFD (RFC 5881, RFC 5883) listen at on the same addresses.
const TAKEN_PORTS: [i64; 3] = [179, 3784, 4784];

/// Of messages and lines between engines.
fn check_message_port(object: &Object, errors: &mut Vec<FieldError>) {
    let name = "se_tunnel_udp_port";
    let Some(port) = object.get(name).and_then(Value::as_i64) else {
        return;
    };
    let problem = match port {
        port if TAKEN_PORTS.contains(&port) => format!("{port} is the port of BGP or BFD"),
        1..=65535 => return,
        port => format!("{port} is no port"),
    };
    errors.push(FieldError::new(
        name,
        problem,
        "use another one of 1 to 65535, as 1550; it must be free for UDP and TCP on all engines",
    ));
}

fn check_usage(object: &Object, errors: &mut Vec<FieldError>) {
    let number = |name: &str, default| object.get(name).and_then(Value::as_i64).unwrap_or(default);
    let (min, max) = (number("min_cpu_usage", 30), number("max_cpu_usage", 80));
    if min >= max {
        errors.push(FieldError::new(
            "min_cpu_usage",
            format!("{min} % is not below max_cpu_usage {max} %"),
            "lower it or raise max_cpu_usage",
        ));
    }
}

/// Criteria are named once, and there is a capacity for each or for none.
fn check_rebalance(object: &Object, errors: &mut Vec<FieldError>) {
    let list = |name: &str| object.get(name).and_then(Value::as_array).cloned();
    let criteria = list("auto_rebalance_criteria").unwrap_or_default();
    let capacities = list("auto_rebalance_capacity_per_se").unwrap_or_default();
    for (i, criterion) in criteria.iter().enumerate() {
        if criteria[..i].contains(criterion) {
            errors.push(FieldError::new(
                format!("auto_rebalance_criteria[{i}]"),
                format!("{criterion} is named twice"),
                "remove one of them, and its capacity",
            ));
        }
    }
    if !capacities.is_empty() && capacities.len() != criteria.len() {
        errors.push(FieldError::new(
            "auto_rebalance_capacity_per_se",
            format!(
                "has {} capacities for {} criteria",
                capacities.len(),
                criteria.len()
            ),
            "give one for each of auto_rebalance_criteria, in their order, or leave it out",
        ));
    }
    let of_cpu = |(i, criterion): (usize, &Value)| {
        let percent = capacities.get(i).and_then(Value::as_i64)?;
        (criterion == "SE_AUTO_REBALANCE_CPU" && percent > 100).then_some((i, percent))
    };
    if let Some((i, percent)) = criteria.iter().enumerate().find_map(of_cpu) {
        errors.push(FieldError::new(
            format!("auto_rebalance_capacity_per_se[{i}]"),
            format!("{percent} is more than all processors (SE_AUTO_REBALANCE_CPU is in percent)"),
            "use 1 to 100",
        ));
    }
}

/// "Connection between the Avi SE and the BGP peer on separate layer 3 interfaces that are in the same subnet
/// and same VLAN is not supported" (seed, "SE-Router Link Types").
fn check_service_engine(object: &Object, errors: &mut Vec<FieldError>) {
    let Some(vnics) = object.get("data_vnics").and_then(Value::as_array) else {
        return;
    };
    let mut seen: BTreeMap<(IpNet, i64), usize> = BTreeMap::new();
    for (i, vnic) in vnics.iter().enumerate() {
        let vlan = vnic.get("vlan_id").and_then(Value::as_i64).unwrap_or(0);
        for net in vnic_nets(vnic) {
            match seen.insert((net, vlan), i) {
                Some(first) if first != i => {
                    let problem = format!(
                        "the interface is in {net}, as data_vnics[{first}] is: two interfaces in the same subnet and VLAN are not supported"
                    );
                    errors.push(FieldError::new(format!("data_vnics[{i}]"), problem, "move one of them to another subnet, or bundle both links into one port channel"));
                }
                _ => {}
            }
        }
    }
}

fn vnic_nets(vnic: &Value) -> BTreeSet<IpNet> {
    let networks = vnic
        .get("vnic_networks")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    networks
        .filter_map(|n| n.get("ip").and_then(Value::as_object))
        .filter_map(|o| view::parse::<Prefix>(o).ok()?.net())
        .collect()
}

/// Labels select peers (avi-api section 12, vsvip).
fn check_peer_labels(object: &Object, errors: &mut Vec<FieldError>) {
    let labels = object.get("bgp_peer_labels").and_then(Value::as_array);
    for (i, label) in labels.into_iter().flatten().enumerate() {
        if !label.as_str().is_some_and(is_label) {
            errors.push(not_a_label(format!("bgp_peer_labels[{i}]")));
        }
    }
}

/// `prefix_length` of a VIP, whatever its family.
const HOST_ROUTE: i64 = 32;

fn check_vips(object: &Object, errors: &mut Vec<FieldError>) {
    check_peer_labels(object, errors);
    let Some(vips) = object.get("vip").and_then(Value::as_array) else {
        return;
    };
    let (mut ids, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for (i, vip) in vips.iter().enumerate() {
        let path = format!("vip[{i}]");
        let id = vip
            .get("vip_id")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if !ids.insert(id.to_owned()) {
            errors.push(FieldError::new(
                format!("{path}.vip_id"),
                format!("{id:?} is used twice"),
                "give every VIP its own vip_id",
            ));
        }
        network::check_wish(vip, &path, errors);
        check_prefix_length(vip, &path, errors);
        for name in ["ip_address", "ip6_address"] {
            check_vip_address(
                vip.get(name),
                &format!("{path}.{name}"),
                name == "ip6_address",
                &mut addresses,
                errors,
            );
        }
    }
}

fn check_prefix_length(vip: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let length = vip.get("prefix_length").and_then(Value::as_i64);
    if let Some(length) = length.filter(|length| *length != HOST_ROUTE) {
        errors.push(FieldError::new(
            format!("{path}.prefix_length"),
            format!("{length} is no host route, and a VIP is announced as one"),
            "leave it at 32; several addresses are several VIPs",
        ));
    }
}

fn check_vip_address(
    value: Option<&Value>,
    path: &str,
    v6: bool,
    seen: &mut BTreeSet<IpAddr>,
    errors: &mut Vec<FieldError>,
) {
    let Some(ip) = value
        .and_then(Value::as_object)
        .and_then(|o| view::parse::<Address>(o).ok()?.ip())
    else {
        return;
    };
    if ip.is_ipv6() != v6 {
        let hint = if v6 {
            "put an IPv4 address into ip_address"
        } else {
            "put an IPv6 address into ip6_address"
        };
        errors.push(FieldError::new(
            path,
            format!("{ip} is of the other address family"),
            hint,
        ));
    } else if !can_be_vip(ip) {
        errors.push(FieldError::new(
            path,
            format!("{ip} cannot be a VIP"),
            "use a unicast address that routers can carry",
        ));
    } else if !seen.insert(ip) {
        errors.push(FieldError::new(
            path,
            format!("{ip} is used twice"),
            "remove one of them",
        ));
    }
}

fn can_be_vip(ip: IpAddr) -> bool {
    !(ip.is_unspecified() || ip.is_multicast() || ip.is_loopback())
}

/// What servers see of connections: the engine, one of `snat_ip`, or the VIP.
fn check_sources(object: &Object, errors: &mut Vec<FieldError>) {
    let sources = object.get("snat_ip").and_then(Value::as_array);
    let sources = sources.map(Vec::as_slice).unwrap_or_default();
    if object.get("use_vip_as_snat") == Some(&Value::Bool(true)) && !sources.is_empty() {
        errors.push(FieldError::new(
            "use_vip_as_snat",
            "goes with no snat_ip: servers see one of them",
            "remove snat_ip, or set use_vip_as_snat to false",
        ));
    }
    let mut seen = BTreeSet::new();
    for (i, source) in sources.iter().enumerate() {
        let Some(address) = source
            .as_object()
            .and_then(|o| view::parse::<Address>(o).ok())
        else {
            continue;
        };
        let (problem, hint) = match address.ip() {
            Some(ip) if can_be_vip(ip) && seen.insert(ip) => continue,
            Some(ip) if can_be_vip(ip) => ("is used twice", "remove one of them"),
            _ => (
                "cannot be a source",
                "use a unicast address beyond loopback",
            ),
        };
        let problem = format!("{} {problem}", address.addr);
        errors.push(FieldError::new(format!("snat_ip[{i}].addr"), problem, hint));
    }
}

fn check_virtual_service(object: &Object, errors: &mut Vec<FieldError>) {
    check_peer_labels(object, errors);
    check_sources(object, errors);
    if object.contains_key("pool_ref") && object.contains_key("pool_group_ref") {
        errors.push(FieldError::new(
            "pool_group_ref",
            "goes with no pool_ref",
            "keep one of them",
        ));
    }
    let Some(services) = object.get("services").and_then(Value::as_array) else {
        return;
    };
    // Of different network profiles they may be TCP and UDP; the controller knows.
    let mut taken: Vec<(Option<&Value>, i64, i64)> = Vec::new();
    for (i, service) in services.iter().enumerate() {
        let number = |name: &str| service.get(name).and_then(Value::as_i64).unwrap_or(0);
        let (first, end) = (number("port"), number("port_range_end"));
        if end != 0 && end < first {
            let problem = format!("{end} is below port {first}");
            errors.push(FieldError::new(
                format!("services[{i}].port_range_end"),
                problem,
                "use a port not below port, or 0",
            ));
        }
        let range = (
            service.get("override_network_profile_ref"),
            first,
            end.max(first),
        );
        if taken
            .iter()
            .any(|t| t.0 == range.0 && t.1 <= range.2 && range.1 <= t.2)
        {
            errors.push(FieldError::new(
                format!("services[{i}].port"),
                format!("port {first} is used twice"),
                "remove one of them",
            ));
        }
        taken.push(range);
    }
}

fn check_health_monitor(object: &Object, errors: &mut Vec<FieldError>) {
    check_half_open(object, errors);
    let number = |name: &str, default| object.get(name).and_then(Value::as_i64).unwrap_or(default);
    let (timeout, interval) = (number("receive_timeout", 4), number("send_interval", 10));
    if timeout >= interval {
        let problem = format!("{timeout} s is not below send_interval {interval} s");
        errors.push(FieldError::new(
            "receive_timeout",
            problem,
            "lower it or raise send_interval",
        ));
    }
}

/// "Since the TCP handshake is never fully completed, application health is not validated" (Avi's configuration guide, TCP
/// health monitor): there is nothing to say anything over.
fn check_half_open(object: &Object, errors: &mut Vec<FieldError>) {
    let Some(tcp) = object.get("tcp_monitor") else {
        return;
    };
    if tcp.get("tcp_half_open") != Some(&Value::Bool(true)) {
        return;
    }
    for field in ["tcp_request", "tcp_response", "maintenance_response"] {
        let text = tcp.get(field).and_then(Value::as_str);
        if text.is_some_and(|text| !text.is_empty()) {
            errors.push(FieldError::new(
                format!("tcp_monitor.{field}"),
                "goes with no tcp_half_open, which never completes the handshake",
                "remove it, or set tcp_half_open to false",
            ));
        }
    }
}

/// Members with equal labels share by ratio, and the higher label comes first (avi-api section 12, poolgroup): labels
/// are numbers unless an object orders them.
fn check_pool_group(object: &Object, errors: &mut Vec<FieldError>) {
    let ordered = object.contains_key("priority_labels_ref");
    let members = object.get("members").and_then(Value::as_array);
    let mut pools: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, member) in members.into_iter().flatten().enumerate() {
        let text = |name: &str| member.get(name).and_then(Value::as_str);
        let label = text("priority_label").filter(|_| !ordered);
        if let Some(label) = label.filter(|l| l.parse::<u64>().is_err()) {
            errors.push(FieldError::new(
                format!("members[{i}].priority_label"),
                format!("{label:?} is not a number"),
                "write a whole number, of which the higher comes first, or order the labels by priority_labels_ref",
            ));
        }
        let Some(pool) = text("pool_ref") else {
            continue;
        };
        if let Some(first) = pools.insert(pool, i) {
            errors.push(FieldError::new(
                format!("members[{i}].pool_ref"),
                format!("is the same pool as members[{first}]"),
                "remove one of them",
            ));
        }
    }
}

#[cfg(test)]
mod tests;
