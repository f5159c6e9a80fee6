//! HTTP, TLS and persistence: what is refused because engines do not do it, by the field that says so.

use crate::http::{Http, Server, v4};
use serde_json::{Value, json};
use tempfile::tempdir;

fn named(ty: &str, name: &str) -> Value {
    json!(format!("/api/{ty}?name={name}"))
}

/// A virtual service with a port for TLS.
fn service(vsvip: &str) -> Value {
    let certificate = named("sslkeyandcertificate", "System-Default-Cert");
    json!({"name": "web", "vsvip_ref": vsvip, "services": [{"port": 80}, {"port": 443, "enable_ssl": true}],
        "ssl_key_and_certificate_refs": [certificate]})
}

fn make_profiles(http: &Http) {
    let redirect = json!({"http_to_https": true});
    let profile = |name, kind| json!({"name": name, "type": kind});
    let mut sends = profile("sends", "APPLICATION_PROFILE_TYPE_HTTP");
    sends["http_profile"] = redirect;
    http.make("applicationprofile", sends);
    let old = json!({"name": "old", "accepted_versions": [{"type": "SSL_VERSION_TLS1"}, {"type": "SSL_VERSION_TLS1_1"}]});
    http.make("sslprofile", old);
    let pending = json!({"name": "pending", "certificate": {"subject": {"common_name": "p"}},
        "key_params": {"algorithm": "SSL_KEY_ALGORITHM_EC", "ec_params": {}}});
    http.make("sslkeyandcertificate", pending);
    let cookie = named(
        "applicationpersistenceprofile",
        "System-Persistence-Http-Cookie",
    );
    let pool = json!({"name": "cookies", "application_persistence_profile_ref": cookie});
    http.make("pool", pool);
}

#[test]
fn what_engines_do_not_do_is_refused_by_its_field() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let vip = json!([{"ip_address": v4("10.9.9.1")}]);
    let vsvip = http.make("vsvip", json!({"name": "v", "vip": vip})).0;
    make_profiles(&http);
    let base = service(&vsvip);
    let l4 = named("applicationprofile", "System-L4-Application");
    let cases = [
        (
            json!({"ssl_key_and_certificate_refs": []}),
            "services[1].enable_ssl: needs a certificate",
        ),
        (
            json!({"ssl_key_and_certificate_refs": [named("sslkeyandcertificate", "pending")]}),
            "ssl_key_and_certificate_refs[0]: pending has no certificate yet",
        ),
        (
            json!({"ssl_profile_ref": named("sslprofile", "old")}),
            "ssl_profile_ref: old accepts neither TLS 1.2 nor TLS 1.3",
        ),
        (
            json!({"services": [{"port": 80}], "application_profile_ref": named("applicationprofile", "sends")}),
            "application_profile_ref: sends sends clients to https (http_to_https)",
        ),
        (
            json!({"application_profile_ref": l4, "pool_ref": named("pool", "cookies")}),
            "pool_ref: clients of pool cookies carry a cookie",
        ),
    ];
    for (change, expected) in cases {
        let mut body = base.clone();
        for (field, value) in change.as_object().unwrap() {
            body[field] = value.clone();
        }
        let text = http.post("/api/virtualservice", &body).refused(400);
        assert!(text.starts_with(expected), "{text}");
    }
    http.make("virtualservice", base);
}

#[test]
fn pools_and_profiles_name_what_engines_do_not_know() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    make_profiles(&http);
    let tls = named("applicationpersistenceprofile", "System-Persistence-TLS");
    let cases = [
        (
            "pool",
            json!({"name": "x", "application_persistence_profile_ref": tls}),
            "application_persistence_profile_ref: System-Persistence-TLS is of type PERSISTENCE_TYPE_TLS",
        ),
        (
            "pool",
            json!({"name": "x", "ssl_profile_ref": named("sslprofile", "old")}),
            "ssl_profile_ref: old accepts neither",
        ),
        (
            "applicationprofile",
            json!({"name": "x", "type": "APPLICATION_PROFILE_TYPE_HTTP", "http_profile": {"xff_alternate_name": "no name"}}),
            "http_profile.xff_alternate_name: \"no name\" is no name",
        ),
    ];
    for (ty, body, expected) in cases {
        let text = http.post(&format!("/api/{ty}"), &body).refused(400);
        assert!(text.starts_with(expected), "{text}");
    }
}

#[test]
fn a_profile_that_is_in_use_must_still_fit() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let vip = json!([{"ip_address": v4("10.9.9.1")}]);
    let vsvip = http.make("vsvip", json!({"name": "v", "vip": vip})).0;
    let own = json!({"name": "own", "accepted_versions": [{"type": "SSL_VERSION_TLS1_2"}]});
    let (profile, _) = http.make("sslprofile", own);
    let mut body = service(&vsvip);
    body["ssl_profile_ref"] = json!(profile);
    http.make("virtualservice", body);
    let older = json!({"name": "own", "accepted_versions": [{"type": "SSL_VERSION_TLS1_1"}]});
    let text = http.put(&profile, &older).refused(400);
    let expected = "accepted_versions: virtual service web: ssl_profile_ref: own accepts neither";
    assert!(text.starts_with(expected), "{text}");
}
