//! Keys and certificates, and other secrets (avi-api section 12).

use crate::http::Server;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::tempdir;

/// Objects of a type as the store has them.
pub fn stored(folder: &Path, ty: &str) -> String {
    use store::Store as _;
    // The controller may be writing: it holds the file for a moment.
    let deadline = Instant::now() + Duration::from_secs(20);
    let store = loop {
        match store::Sqlite::open(&folder.join("data/evenkeel.db")) {
            Ok(store) => break store,
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
        std::thread::yield_now();
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let listing = runtime
        .block_on(store.list(&format!("/object/{ty}/")))
        .unwrap();
    let texts = listing
        .entries
        .iter()
        .map(|e| String::from_utf8_lossy(&e.value).into_owned());
    texts.collect()
}

fn pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["www.example.com".into()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

#[test]
fn a_private_key_is_kept_and_never_read() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (pem, key) = pair();
    let secret = key.lines().nth(1).unwrap().to_owned();
    let body = json!({"name": "c", "key": key, "key_passphrase": "hunter2", "certificate": {"certificate": pem}});
    let (path, made) = http.make("sslkeyandcertificate", body);
    let read = http.get(&path).good();
    let page = http
        .get("/api/sslkeyandcertificate?include_refs=&page_size=200")
        .good();
    for shown in [&made, &read, &page] {
        let text = shown.to_string();
        assert!(
            !text.contains("PRIVATE KEY") && !text.contains("hunter2"),
            "{text}"
        );
    }
    assert_eq!(read["certificate"]["certificate"], pem);
    let all = http.count("/api/sslkeyandcertificate");
    for guess in ["hunter2", "hunter3"] {
        let found = http.count(&format!("/api/sslkeyandcertificate?key_passphrase={guess}"));
        assert_eq!(found, all, "a secret is no filter");
    }
    let names = |sort: &str| {
        let page = http
            .get(&format!("/api/sslkeyandcertificate?sort={sort}"))
            .good();
        let results = page["results"].as_array().unwrap().iter();
        results.map(|r| r["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names("key"), names("name"));
    assert_eq!(read["certificate"]["expiry_status"], "SSL_CERTIFICATE_GOOD");
    assert!(read["certificate"]["not_after"].is_string(), "{read}");
    let kept = || {
        let changed = http.changed_fields(&path);
        let gone = changed.iter().any(|f| f == "key" || f == "key_passphrase");
        assert!(!gone, "the key is another one: {changed:?}");
        let all = stored(folder.path(), "sslkeyandcertificate");
        assert!(!all.contains(&secret) && !all.contains("hunter2"), "{all}");
    };
    let first = http.changed_fields(&path);
    assert!(first.contains(&"key".into()) && first.contains(&"key_passphrase".into()));
    http.put(&path, &read).good();
    kept();
    http.put(
        &path,
        &json!({"name": "c", "certificate": {"certificate": pem}}),
    )
    .good();
    kept();
    http.patch(&path, &json!({"replace": {"name": "d"}})).good();
    kept();
    let (_, other) = pair();
    let text = http
        .patch(&path, &json!({"replace": {"key": other}}))
        .refused(400);
    assert!(
        text.starts_with("key: does not belong to certificate.certificate"),
        "{text}"
    );
    kept();
}

#[test]
fn a_self_signed_certificate_is_made_and_the_same_wish_makes_no_other() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let body = json!({"name": "c", "type": "SSL_CERTIFICATE_TYPE_VIRTUALSERVICE",
        "certificate": {"self_signed": true, "days_until_expire": 100, "subject": {"common_name": "www.example.com"}}});
    let (path, made) = http.make("sslkeyandcertificate", body.clone());
    assert_eq!(
        (
            &made["status"],
            &made["certificate"]["issuer"]["common_name"]
        ),
        (
            &json!("SSL_CERTIFICATE_FINISHED"),
            &json!("www.example.com")
        )
    );
    let again = http.put(&path, &body).good();
    assert_eq!(
        again["certificate"]["certificate"],
        made["certificate"]["certificate"]
    );
    let rsa = json!({"name": "r", "certificate": {"self_signed": true}, "key_params": {"algorithm": "SSL_KEY_ALGORITHM_RSA"}});
    let text = http.post("/api/sslkeyandcertificate", &rsa).refused(400);
    assert!(
        text.starts_with("key_params.algorithm: RSA keys are not made here"),
        "{text}"
    );
    let request = json!({"name": "q", "certificate": {"subject": {"common_name": "q"}}});
    let (_, pending) = http.make("sslkeyandcertificate", request);
    assert_eq!(pending["status"], "SSL_CERTIFICATE_PENDING");
    let csr = pending["certificate"]["certificate_signing_request"]
        .as_str()
        .unwrap();
    assert!(
        csr.starts_with("-----BEGIN CERTIFICATE REQUEST-----"),
        "{csr}"
    );
}

/// The object at this place with another secret.
fn with_secret(object: &Value, place: &str, secret: &str) -> Value {
    let mut inner = object.pointer(place).unwrap().clone();
    inner[secret] = json!("hunter3");
    inner
}

#[test]
fn secrets_deep_in_other_objects_are_masked_and_kept() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let infoblox = json!({"username": "u", "password": "hunter2", "ip_address": {"addr": "10.0.0.1", "type": "V4"}});
    for (ty, body, pointer) in [
        (
            "ipamdnsproviderprofile",
            json!({"name": "i", "type": "IPAMDNS_TYPE_INFOBLOX", "infoblox_profile": infoblox}),
            "/infoblox_profile/password",
        ),
        (
            "cloud",
            json!({"name": "c", "vtype": "CLOUD_VCENTER", "vcenter_configuration": {"username": "u", "password": "hunter2", "x": 1}}),
            "/vcenter_configuration/password",
        ),
        (
            "applicationpersistenceprofile",
            json!({"name": "a", "persistence_type": "PERSISTENCE_TYPE_HTTP_COOKIE",
            "http_cookie_persistence_profile": {"encryption_key": "hunter2", "key": [{"name": "k", "aes_key": "hunter2"}]}}),
            "/http_cookie_persistence_profile/encryption_key",
        ),
    ] {
        let (path, made) = http.make(ty, body);
        let read = http.get(&path).good();
        let parent = pointer.rsplit_once('/').unwrap().0.to_owned();
        for shown in [&made, &read] {
            assert!(!shown.to_string().contains("hunter2"), "{shown}");
            let secret = shown.pointer(pointer).unwrap_or(&Value::Null);
            assert!(secret.is_null() || secret == "<sensitive>", "{shown}");
        }
        let secret = pointer.rsplit('/').next().unwrap();
        let is_changed = || {
            let changed = http.changed_fields(&path);
            changed
                .iter()
                .any(|f| f.ends_with(secret) || f.ends_with("aes_key"))
        };
        http.put(&path, &read).good();
        assert!(!is_changed(), "{ty}: kept");
        let mut other = http.get(&path).good();
        *other.pointer_mut(&parent).unwrap() = with_secret(&other, &parent, secret);
        http.put(&path, &other).good();
        assert!(is_changed(), "{ty}: another one is seen");
        assert!(!stored(folder.path(), ty).contains("hunter"), "{ty}");
    }
}
