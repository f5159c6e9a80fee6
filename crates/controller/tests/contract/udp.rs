//! UDP services: what the profiles say, and what is refused because engines do not do it (avi-api section 12).

use crate::http::{Http, Server, v4};
use serde_json::{Value, json};
use tempfile::tempdir;

fn named(ty: &str, name: &str) -> String {
    format!("/api/{ty}?name={name}")
}

/// A virtual service at `vsvip` on port 53 with this network profile.
fn service(name: &str, vsvip: &str, profile: &str) -> Value {
    let profile = named("networkprofile", profile);
    json!({"name": name, "vsvip_ref": vsvip, "services": [{"port": 53}], "network_profile_ref": profile})
}

fn vsvip(http: &Http) -> String {
    let vip = json!([{"ip_address": v4("10.9.9.1")}]);
    http.make("vsvip", json!({"name": "v", "vip": vip})).0
}

fn application(http: &Http, vs: &str) -> String {
    let vs = http.get(&format!("{vs}?include_name")).good();
    let reference = vs["application_profile_ref"].as_str().unwrap().to_owned();
    reference.split('#').nth(1).unwrap().to_owned()
}

#[test]
fn tcp_and_udp_share_a_port_and_two_of_one_protocol_do_not() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let v = vsvip(&http);
    let udp = "System-UDP-Fast-Path";
    let (path, _) = http.make("virtualservice", service("udp", &v, udp));
    assert_eq!(application(&http, &path), "System-L4-Application");
    let text = http.post("/api/virtualservice", &service("again", &v, udp));
    let text = text.refused(400);
    let expected = "services[0].port: port 53 is used by udp on the same VIP";
    assert!(text.starts_with(expected), "{text}");
    let (tcp, _) = http.make("virtualservice", service("tcp", &v, "System-TCP-Proxy"));
    assert_eq!(application(&http, &tcp), "System-HTTP");
    let mut changed = http.get(&tcp).good();
    changed["network_profile_ref"] = json!(named("networkprofile", udp));
    changed["application_profile_ref"] =
        json!(named("applicationprofile", "System-L4-Application"));
    let text = http.put(&tcp, &changed).refused(400);
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn one_virtual_service_has_a_port_for_both_when_their_profiles_say_so() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let v = vsvip(&http);
    let mut body = service("dns", &v, "System-UDP-Fast-Path");
    let with = |profile: &str| {
        let profile = named("networkprofile", profile);
        json!([{"port": 53}, {"port": 53, "override_network_profile_ref": profile}])
    };
    body["services"] = with("System-UDP-Fast-Path-VDI");
    let text = http.post("/api/virtualservice", &body).refused(400);
    let expected = "services[1].port: port 53 is used twice";
    assert!(text.starts_with(expected), "{text}");
    body["services"] = with("System-TCP-Proxy");
    http.make("virtualservice", body);
}

#[test]
fn what_engines_do_not_do_about_udp_is_refused_by_its_field() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let v = vsvip(&http);
    let sctp = json!({"name": "sctp", "profile": {"type": "PROTOCOL_TYPE_SCTP_PROXY"}});
    http.make("networkprofile", sctp);
    let ping = json!([named("healthmonitor", "System-Ping")]);
    http.make(
        "pool",
        json!({"name": "pinged", "health_monitor_refs": ping}),
    );
    let base = service("udp", &v, "System-UDP-Fast-Path");
    let profile = |name: &str| json!(named("networkprofile", name));
    let cases = [
        (
            "network_profile_ref",
            profile("sctp"),
            "network_profile_ref: sctp is for SCTP",
        ),
        (
            "network_profile_ref",
            profile("System-UDP-Per-Pkt"),
            "network_profile_ref: System-UDP-Per-Pkt balances each datagram",
        ),
        (
            "network_profile_ref",
            profile("System-UDP-No-SNAT"),
            "network_profile_ref: System-UDP-No-SNAT shows servers",
        ),
        (
            "services",
            json!([{"port": 53, "override_network_profile_ref": profile("sctp")}]),
            "services[0].override_network_profile_ref: sctp is for SCTP",
        ),
        (
            "services",
            json!([{"port": 53, "enable_ssl": true}]),
            "services[0].enable_ssl: TLS needs TCP",
        ),
        (
            "application_profile_ref",
            json!(named("applicationprofile", "System-HTTP")),
            "application_profile_ref: System-HTTP is for TCP",
        ),
        (
            "pool_ref",
            json!(named("pool", "pinged")),
            "pool_ref: pool pinged has the monitor System-Ping of type HEALTH_MONITOR_PING",
        ),
    ];
    for (field, value, expected) in cases {
        let mut body = base.clone();
        body[field] = value;
        let text = http.post("/api/virtualservice", &body).refused(400);
        assert!(text.starts_with(expected), "{text}");
    }
    http.make("virtualservice", base);
}

#[test]
fn profiles_and_pools_that_are_in_use_must_still_fit() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let v = vsvip(&http);
    let body = |profile: Value| json!({"name": "mine", "profile": profile});
    let udp = json!({"type": "PROTOCOL_TYPE_UDP_FAST_PATH", "udp_fast_path_profile": {"session_idle_timeout": 30}});
    let (profile, _) = http.make("networkprofile", body(udp.clone()));
    let monitors = json!([named("healthmonitor", "System-UDP")]);
    let (pool, _) = http.make(
        "pool",
        json!({"name": "p", "health_monitor_refs": monitors}),
    );
    let mut vs = service("udp", &v, "mine");
    vs["pool_ref"] = json!(pool);
    http.make("virtualservice", vs);
    http.make("virtualservice", service("tcp", &v, "System-TCP-Proxy"));
    for (wrong, expected) in [
        (
            json!({"type": "PROTOCOL_TYPE_TCP_PROXY"}),
            "profile: virtual service udp: services[0].port: port 53 is used by tcp",
        ),
        (
            json!({"type": "PROTOCOL_TYPE_UDP_FAST_PATH", "udp_fast_path_profile": {"per_pkt_loadbalance": true}}),
            "profile: virtual service udp: network_profile_ref: mine balances",
        ),
    ] {
        let text = http.put(&profile, &body(wrong)).refused(400);
        assert!(text.starts_with(expected), "{text}");
    }
    http.put(&profile, &body(udp)).good();
    let ping = json!([
        named("healthmonitor", "System-UDP"),
        named("healthmonitor", "System-Ping")
    ]);
    let text = http.put(&pool, &json!({"name": "p", "health_monitor_refs": ping}));
    let text = text.refused(400);
    let expected =
        "health_monitor_refs[1]: virtual service udp is UDP: pool p has the monitor System-Ping";
    assert!(text.starts_with(expected), "{text}");
}
