//! What becomes of a key and a certificate that somebody writes.

use super::*;
use serde_json::json;

fn object(value: Value) -> Object {
    value.as_object().expect("an object").clone()
}

/// A certificate and its key, PEM.
fn pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["www.example.com".into()]).expect("made");
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn errors(stored: &Object, value: Value) -> String {
    let errors = complete(stored, &mut object(value));
    errors.iter().map(ToString::to_string).collect()
}

fn made(stored: &Object, value: Value) -> Object {
    let mut object = object(value);
    let errors = complete(stored, &mut object);
    assert!(errors.is_empty(), "{errors:?}");
    object
}

#[test]
fn a_pair_is_taken_and_what_does_not_fit_is_named() {
    let none = Object::new();
    let ((pem, key), (_, other)) = (pair(), pair());
    let body = |pem: &str, key: Value| json!({"name": "c", "key": key, "certificate": {"certificate": pem}});
    assert_eq!(errors(&none, body(&pem, json!(key))), "");
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
    for (body, expected) in [
        (
            body("no PEM", json!(key)),
            "certificate.certificate: is no PEM certificate",
        ),
        (body(&pem, json!("no PEM")), "key: is no PEM private key"),
        (
            body(&pem, json!(other)),
            "key: does not belong to certificate.certificate",
        ),
        (body(&pem, Value::Null), "key: is required"),
        (body(&pem, json!(encrypted)), "key_passphrase: is required"),
        (
            json!({"format": "SSL_PKCS12", "certificate": {"certificate": pem}}),
            "format: PKCS #12",
        ),
    ] {
        let text = errors(&none, body);
        assert!(text.starts_with(expected), "{text}");
    }
    let both = format!("{pem}{key}");
    let text = errors(&none, body(&both, json!(key)));
    assert!(
        text.starts_with("certificate.certificate: holds a private key"),
        "{text}"
    );
    let authority = json!({"type": "SSL_CERTIFICATE_TYPE_CA", "certificate": {"certificate": pem}});
    assert_eq!(errors(&none, authority), "");
}

#[test]
fn base64_around_pem_is_seen_through() {
    use base64::Engine as _;
    let (pem, key) = pair();
    let wrap = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let body = json!({"certificate_base64": true, "key_base64": true, "key": wrap(&key), "certificate": {"certificate": wrap(&pem)}});
    let mut read = made(&Object::new(), body);
    describe(&mut read);
    assert!(read["certificate"]["serial_number"].is_string(), "{read:?}");
}

#[test]
fn a_self_signed_certificate_is_made_once_and_says_what_was_asked() {
    let body = |name: &str| {
        json!({"name": "c", "certificate": {"self_signed": true, "days_until_expire": 10,
        "subject": {"common_name": name, "organization": "Example"}, "subject_alt_names": ["www.example.com", "10.0.0.1"]}})
    };
    let first = made(&Object::new(), body("a"));
    assert_eq!(made(&first, body("a")), {
        let mut same = first.clone();
        same.shift_remove("key");
        same
    });
    let mut kept = object(body("b"));
    kept.insert("key".into(), first["key"].clone());
    assert!(complete(&first, &mut kept).is_empty());
    assert_ne!(
        kept["certificate"]["certificate"],
        first["certificate"]["certificate"]
    );
    assert_ne!(kept["key"], first["key"]);
    let mut read = first;
    describe(&mut read);
    let said = &read["certificate"];
    assert_eq!(said["subject"]["common_name"], "a");
    assert_eq!(said["issuer"]["organization"], "Example");
    assert_eq!(
        said["subject_alt_names"],
        json!(["www.example.com", "10.0.0.1"])
    );
    assert_eq!(said["expiry_status"], "SSL_CERTIFICATE_EXPIRY_WARNING");
    assert_eq!(said["signature_algorithm"], "ecdsa-with-SHA256");
    assert_eq!(
        said["key_params"]["ec_params"]["curve"],
        "SSL_KEY_EC_CURVE_SECP256R1"
    );
}

/// What `openssl req -x509 -newkey rsa:2048 -subj /CN=rsa` makes.
const RSA: &str = include_str!("rsa.pem");

#[test]
fn an_imported_certificate_says_of_which_kind_its_key_is() {
    let authority =
        |pem: &str| json!({"type": "SSL_CERTIFICATE_TYPE_CA", "certificate": {"certificate": pem}});
    let read = |pem: &str| {
        let mut read = made(&Object::new(), authority(pem));
        describe(&mut read);
        read
    };
    let rsa = read(RSA);
    let params = json!({"algorithm": "SSL_KEY_ALGORITHM_RSA", "rsa_params": {"key_size": "SSL_KEY_2048_BITS", "exponent": 65537}});
    assert_eq!(
        (&rsa["key_params"], &rsa["certificate"]["key_params"]),
        (&params, &params)
    );
    let signature = rsa["certificate"]["signature"].as_str().expect("text");
    assert_eq!(signature.split(':').count(), 256, "{signature}");
    // What has no word in the schema is not called by another one's.
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let params = rcgen::CertificateParams::new(["ed.example.com".to_owned()]).expect("a name");
    let other = read(&params.self_signed(&key).expect("made").pem());
    assert_eq!(other.get("key_params"), None);
    assert!(
        other["certificate"]["serial_number"].is_string(),
        "{other:?}"
    );
}

#[test]
fn the_public_key_is_shown_as_pem() {
    use rcgen::PublicKeyData as _;
    let (pem, key) = pair();
    let mut read = made(
        &Object::new(),
        json!({"key": key, "certificate": {"certificate": pem}}),
    );
    describe(&mut read);
    let shown = read["certificate"]["public_key"].as_str().expect("text");
    let (_, decoded) = x509_parser::pem::parse_x509_pem(shown.as_bytes()).expect("PEM");
    let key = rcgen::KeyPair::from_pem(&key).expect("a key");
    assert_eq!(decoded.label, "PUBLIC KEY");
    assert_eq!(decoded.contents, key.subject_public_key_info());
    assert!(shown.lines().all(|line| line.len() <= 64), "{shown}");
}

#[test]
fn a_request_waits_for_its_certificate_and_keeps_its_key() {
    let body = json!({"name": "c", "certificate": {"subject": {"common_name": "a"}},
        "key_params": {"algorithm": "SSL_KEY_ALGORITHM_EC", "ec_params": {"curve": "SSL_KEY_EC_CURVE_SECP384R1"}}});
    let pending = made(&Object::new(), body);
    assert_eq!(pending["status"], PENDING);
    let csr = pending["certificate"]["certificate_signing_request"]
        .as_str()
        .expect("a request");
    let params = rcgen::CertificateSigningRequestParams::from_pem(csr).expect("a request");
    let (issuer, issuer_key) = pair();
    let issuer_key = rcgen::KeyPair::from_pem(&issuer_key).expect("a key");
    let issuer = rcgen::Issuer::from_ca_cert_pem(&issuer, issuer_key).expect("an issuer");
    let signed = params.signed_by(&issuer).expect("signed").pem();
    let mut answered =
        object(json!({"name": "c", "status": PENDING, "certificate": {"certificate": signed}}));
    answered.insert("key".into(), pending["key"].clone());
    assert!(complete(&pending, &mut answered).is_empty());
    assert!(
        !answered.contains_key("status"),
        "the default says that it is finished"
    );
}

#[test]
fn what_cannot_be_made_is_refused_with_its_field() {
    let none = Object::new();
    let body = |more: Value| {
        let mut body = json!({"certificate": {"self_signed": true}});
        body.as_object_mut().expect("object").extend(object(more));
        body
    };
    let rsa = json!({"key_params": {"algorithm": "SSL_KEY_ALGORITHM_RSA"}});
    let p521 = json!({"key_params": {"algorithm": "SSL_KEY_ALGORITHM_EC", "ec_params": {"curve": "SSL_KEY_EC_CURVE_SECP521R1"}}});
    let name =
        json!({"certificate": {"self_signed": true, "subject_alt_names": ["\u{e4}.example.com"]}});
    for (more, expected) in [
        (rsa, "key_params.algorithm: RSA keys are not made here"),
        (p521, "key_params.ec_params.curve: "),
        (name, "certificate: cannot be made"),
        (json!({"key": "x"}), "key: is without its certificate"),
    ] {
        let text = errors(&none, body(more));
        assert!(text.starts_with(expected), "{text}");
    }
    // Left to the schema, without a panic.
    let far = json!({"certificate": {"self_signed": true, "days_until_expire": i64::MAX}});
    assert_eq!(errors(&none, far), "");
}
