//! From profiles, certificates and pools to what an engine is told.

use crate::plan::fixture::Fixture;
use model::object::Object;
use proto::v1;
use serde_json::{Value, json};

fn set(field: &'static str, value: Value) -> impl FnOnce(&mut Object) {
    move |object| drop(object.insert(field.to_owned(), value))
}

fn reference(fixture: &Fixture, path: &str, name: &str) -> Value {
    json!(format!("/api/{path}/{}", fixture.uuid(path, name)))
}

/// A virtual service with a plain port and one of TLS, and this HTTP profile.
async fn both_ports(http_profile: Value) -> (Fixture, String, String) {
    let fixture = Fixture::new().await;
    let vs = fixture.uuid("virtualservice", "vs-1");
    let http = json!({"name": "web", "type": "APPLICATION_PROFILE_TYPE_HTTP", "http_profile": http_profile});
    let profile = fixture.create("applicationprofile", http).await;
    let certificate = reference(&fixture, "sslkeyandcertificate", "System-Default-Cert");
    let own = json!(format!("/api/applicationprofile/{profile}"));
    let change = |o: &mut Object| {
        let ports = json!([{"port": 80}, {"port": 8443, "enable_ssl": true}]);
        o.insert("services".into(), ports);
        let certificates = json!([certificate]);
        o.insert("ssl_key_and_certificate_refs".into(), certificates);
        o.insert("application_profile_ref".into(), own);
    };
    fixture.update("virtualservice", &vs, change).await;
    (fixture, vs, profile)
}

fn port(fixture: &Fixture, i: usize) -> v1::PortRange {
    fixture.told().virtual_services[0].ports[i].clone()
}

#[tokio::test]
async fn without_a_profile_http_is_served_by_the_defaults() {
    let fixture = Fixture::new().await;
    let http = port(&fixture, 0).http.expect("HTTP");
    let expected = v1::Http {
        client_header_timeout_ms: 10_000,
        client_body_timeout_ms: 30_000,
        keepalive_timeout_ms: 30_000,
        post_accept_timeout_ms: 30_000,
        multiplexing: true,
        redirect_port: 0,
        forwarded_for: "X-Forwarded-For".into(),
        forwarded_for_update: v1::ForwardedForUpdate::Replace.into(),
        forwarded_proto: false,
    };
    assert_eq!(http, expected);
    let vs = fixture.uuid("virtualservice", "vs-1");
    let l4 = reference(&fixture, "applicationprofile", "System-L4-Application");
    fixture
        .update("virtualservice", &vs, set("application_profile_ref", l4))
        .await;
    assert_eq!(port(&fixture, 0).http, None);
}

#[tokio::test]
async fn every_setting_of_http_reaches_the_engine_and_a_change_at_once() {
    let settings = json!({"client_header_timeout": 11, "client_body_timeout": 0, "keepalive_timeout": 13, "post_accept_timeout": 14,
        "connection_multiplexing_enabled": false, "http_to_https": true, "xff_alternate_name": "X-Client",
        "xff_update": "APPEND_TO_THE_XFF_HEADER", "x_forwarded_proto_enabled": true});
    let (fixture, _, profile) = both_ports(settings).await;
    let expected = v1::Http {
        client_header_timeout_ms: 11,
        client_body_timeout_ms: 0,
        keepalive_timeout_ms: 13,
        post_accept_timeout_ms: 14,
        multiplexing: false,
        redirect_port: 8443,
        forwarded_for: "X-Client".into(),
        forwarded_for_update: v1::ForwardedForUpdate::Append.into(),
        forwarded_proto: true,
    };
    assert_eq!(port(&fixture, 0).http, Some(expected.clone()));
    let secure = v1::Http {
        redirect_port: 0,
        ..expected
    };
    assert_eq!(port(&fixture, 1).http, Some(secure));
    let without = json!({"xff_enabled": false, "xff_update": "ADD_NEW_XFF_HEADER"});
    fixture
        .update("applicationprofile", &profile, set("http_profile", without))
        .await;
    let http = port(&fixture, 0).http.expect("HTTP");
    assert_eq!(http.forwarded_for, "");
    let update = http.forwarded_for_update();
    assert_eq!(update, v1::ForwardedForUpdate::Add);
}

#[tokio::test]
async fn certificates_reach_the_engine_with_keys_that_are_not_printed() {
    let (fixture, vs, _) = both_ports(json!({})).await;
    assert_eq!(port(&fixture, 0).protocol(), v1::Protocol::Tcp);
    assert_eq!(port(&fixture, 1).protocol(), v1::Protocol::Tls);
    let told = fixture.told();
    let tls = told.virtual_services[0].tls.as_ref().expect("TLS");
    let [shown] = told.certificates.as_slice() else {
        panic!("{tls:?}");
    };
    assert_eq!(tls.certificate_uuids, [shown.uuid.as_str()]);
    assert_eq!(shown.name, "System-Default-Cert");
    assert!(shown.key_pem.contains("PRIVATE KEY") && shown.chain_pem.contains("CERTIFICATE"));
    assert!(!format!("{told:?}").contains("PRIVATE KEY"));
    assert_eq!(tls.versions, None);
    let only = json!({"name": "new", "accepted_versions": [{"type": "SSL_VERSION_TLS1"}, {"type": "SSL_VERSION_TLS1_3"}]});
    let profile = fixture.create("sslprofile", only).await;
    let own = json!(format!("/api/sslprofile/{profile}"));
    fixture
        .update("virtualservice", &vs, set("ssl_profile_ref", own))
        .await;
    let versions = || {
        let told = fixture.told();
        let tls = told.virtual_services[0].tls.clone().expect("TLS");
        tls.versions.map(|v| (v.tls12, v.tls13))
    };
    assert_eq!(versions(), Some((false, true)));
    let both = json!([{"type": "SSL_VERSION_TLS1_2"}, {"type": "SSL_VERSION_TLS1_3"}]);
    fixture
        .update("sslprofile", &profile, set("accepted_versions", both))
        .await;
    assert_eq!(versions(), Some((true, true)));
}

#[tokio::test]
async fn servers_are_told_of_clients_first_where_bytes_are_passed_on() {
    use v1::ProxyProtocol as Version;
    let fixture = Fixture::new().await;
    let vs = fixture.uuid("virtualservice", "vs-1");
    let told = || fixture.told().virtual_services[0].proxy_protocol();
    assert_eq!(told(), Version::Unspecified);
    let on = json!({"proxy_protocol_enabled": true, "proxy_protocol_version": "PROXY_PROTOCOL_VERSION_2"});
    for (kind, settings, expected) in [
        ("L4", json!({}), Version::Unspecified),
        ("L4", json!({"proxy_protocol_enabled": true}), Version::V1),
        ("SSL", on.clone(), Version::V2),
        ("HTTP", on, Version::Unspecified),
    ] {
        let name = format!("{kind}-{expected:?}");
        let kind = format!("APPLICATION_PROFILE_TYPE_{kind}");
        let profile = json!({"name": name, "type": kind, "tcp_app_profile": settings});
        let profile = fixture.create("applicationprofile", profile).await;
        let own = json!(format!("/api/applicationprofile/{profile}"));
        fixture
            .update("virtualservice", &vs, set("application_profile_ref", own))
            .await;
        assert_eq!(told(), expected, "{name}");
    }
}

/// The pool of the virtual service, with this instead.
async fn pool(change: Value) -> v1::Pool {
    let fixture = Fixture::new().await;
    let vs = fixture.uuid("virtualservice", "vs-1");
    let mut body = json!({"name": "secure", "servers": []});
    for (field, value) in change.as_object().expect("fields") {
        let named = value.as_str().and_then(|v| v.split_once(' '));
        body[field] = match named {
            Some((path, name)) => reference(&fixture, path, name),
            None => value.clone(),
        };
    }
    let uuid = fixture.create("pool", body).await;
    let own = json!(format!("/api/pool/{uuid}"));
    fixture
        .update("virtualservice", &vs, set("pool_ref", own))
        .await;
    let told = fixture.told();
    let mut pools = told.pools.iter();
    let found = pools.find(|p| p.uuid == uuid).expect("told");
    found.clone()
}

#[tokio::test]
async fn a_pool_with_an_ssl_profile_has_tls() {
    let plain = pool(json!({})).await;
    assert_eq!((plain.tls, plain.cookie), (None, None));
    let secure = json!({"ssl_profile_ref": "sslprofile System-Standard", "server_name": "a.example", "server_timeout": 5});
    let secure = pool(secure).await;
    assert_eq!(secure.server_timeout_ms, 5);
    let expected = v1::ServerTls {
        versions: Some(v1::TlsVersions {
            tls12: true,
            tls13: true,
        }),
        sni: true,
        server_name: "a.example".into(),
    };
    assert_eq!(secure.tls, Some(expected));
}

#[tokio::test]
async fn clients_are_known_by_a_cookie_or_by_their_address() {
    let field = "application_persistence_profile_ref";
    let cookie = "applicationpersistenceprofile System-Persistence-Http-Cookie";
    let cookie = pool(json!({field: cookie})).await.cookie.expect("a cookie");
    assert!(cookie.name.starts_with("evenkeel-"), "{cookie:?}");
    assert_eq!((cookie.max_age_s, cookie.http_only), (0, false));
    let address = "applicationpersistenceprofile System-Persistence-Client-IP";
    let address = pool(json!({field: address})).await;
    assert_eq!(address.cookie, None);
    let hash = v1::LbAlgorithm::ConsistentHashSourceIpAddress;
    assert_eq!(address.lb_algorithm(), hash);
}
