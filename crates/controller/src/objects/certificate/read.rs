//! What is imported, and what a certificate says.

use super::{flag, text};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::object::{FieldError, Object};
use rcgen::{KeyPair, PublicKeyData as _};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{
    AttributeTypeAndValue, FromDer as _, GeneralName, SubjectPublicKeyInfo, X509Certificate,
    X509Name,
};
use x509_parser::public_key::PublicKey;

/// Sizes of RSA keys, and curves by their number (RFC 5480 section 2.1.1.1), that the schema has words for.
const RSA_BITS: [usize; 4] = [1024, 2048, 3072, 4096];
const CURVES: [(&str, &str); 3] = [
    ("1.2.840.10045.3.1.7", "SSL_KEY_EC_CURVE_SECP256R1"),
    ("1.3.132.0.34", "SSL_KEY_EC_CURVE_SECP384R1"),
    ("1.3.132.0.35", "SSL_KEY_EC_CURVE_SECP521R1"),
];
/// Letters in a line of PEM (RFC 7468 section 2).
const LINE_LEN: usize = 64;
/// `expiry_status` warns from here on.
const WARNING: Duration = Duration::days(30);

/// Checks a certificate that was written, and the key beside it.
pub(super) fn check_import(object: &Object, certificate: &Object) -> Result<(), FieldError> {
    if text(object, "format") == Some("SSL_PKCS12") {
        let hint = "write it as PEM: openssl pkcs12 -in FILE -nodes";
        return Err(FieldError::new("format", "PKCS #12 is not read here", hint));
    }
    let path = "certificate.certificate";
    let no = |problem: &str| FieldError::new(path, problem, "write the certificate as PEM");
    if pem(certificate, object).is_some_and(|pem| pem.contains("PRIVATE KEY")) {
        // Certificates are shown to whoever reads the object.
        let hint = "write the key into key, and the certificate without it";
        return Err(FieldError::new(path, "holds a private key", hint));
    }
    let chain = chain(certificate, object).ok_or_else(|| no("is no PEM certificate"))?;
    let (_, first) =
        X509Certificate::from_der(&chain[0]).map_err(|_| no("is no X.509 certificate"))?;
    match key(object) {
        Some(pem) => check_key(object, &pem, first.public_key()),
        None => check_keyless(object),
    }
}

/// The certificates of the PEM text; `None` when it has none, or something else.
fn chain(certificate: &Object, object: &Object) -> Option<Vec<CertificateDer<'static>>> {
    let pem = pem(certificate, object)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    chain.ok().filter(|chain| !chain.is_empty())
}

fn pem<'a>(certificate: &'a Object, object: &Object) -> Option<Cow<'a, str>> {
    let written = text(certificate, "certificate")?;
    decoded(written, flag(object, "certificate_base64"))
}

/// The key; what cannot be decoded is no PEM either.
fn key(object: &Object) -> Option<Cow<'_, str>> {
    let written = text(object, "key")?;
    Some(decoded(written, flag(object, "key_base64")).unwrap_or_default())
}

pub(super) fn decoded(text: &str, base64: bool) -> Option<Cow<'_, str>> {
    if !base64 {
        return Some(text.into());
    }
    let bytes = STANDARD.decode(text.split_whitespace().collect::<String>());
    String::from_utf8(bytes.ok()?).ok().map(Cow::from)
}

fn check_keyless(object: &Object) -> Result<(), FieldError> {
    let elsewhere = object.contains_key("hardwaresecuritymodulegroup_ref");
    if elsewhere || text(object, "type") == Some("SSL_CERTIFICATE_TYPE_CA") {
        return Ok(());
    }
    let problem = "is required: a certificate without its key serves nobody";
    let hint = "write it as PEM, or set type to SSL_CERTIFICATE_TYPE_CA";
    Err(FieldError::new("key", problem, hint))
}

/// The key is one, and the certificate's own. An encrypted one, or one of an algorithm that is not known here, is
/// taken as it is.
fn check_key(
    object: &Object,
    pem: &str,
    public: &SubjectPublicKeyInfo<'_>,
) -> Result<(), FieldError> {
    if pem.contains("ENCRYPTED") {
        let hint = "write it into key_passphrase, or decrypt the key: openssl pkey -in FILE";
        let missing = FieldError::new("key_passphrase", "is required: the key is encrypted", hint);
        return text(object, "key_passphrase").map(drop).ok_or(missing);
    }
    if PrivateKeyDer::from_pem_slice(pem.as_bytes()).is_err() {
        let hint = "write it as PEM, beginning with -----BEGIN PRIVATE KEY-----";
        return Err(FieldError::new("key", "is no PEM private key", hint));
    }
    let other = |key: KeyPair| key.subject_public_key_info() != public.raw;
    if KeyPair::from_pem(pem).is_ok_and(other) {
        let hint = "write both from the same pair";
        let problem = "does not belong to certificate.certificate";
        return Err(FieldError::new("key", problem, hint));
    }
    Ok(())
}

/// Fills in what the certificate says of itself (avi-api section 12), and so of the key beside it, for an object that is about to
/// be shown.
pub fn describe(object: &mut Object) {
    let certificate = object.get("certificate").and_then(Value::as_object);
    let chain = certificate.and_then(|c| chain(c, object));
    let Some(der) = chain.and_then(|c| c.into_iter().next()) else {
        return;
    };
    let Ok((_, parsed)) = X509Certificate::from_der(&der) else {
        return;
    };
    let said = said(&parsed, &der);
    let params = Some(&said["key_params"]).filter(|params| !params.is_null());
    object.extend(params.map(|params| ("key_params".to_owned(), params.clone())));
    let certificate = object.get_mut("certificate").and_then(Value::as_object_mut);
    if let (Some(certificate), Value::Object(said)) = (certificate, said) {
        certificate.extend(said.into_iter().filter(|(_, v)| !v.is_null()));
    }
}

fn said(parsed: &X509Certificate<'_>, der: &[u8]) -> Value {
    let (from, to) = (
        parsed.validity().not_before.to_datetime(),
        parsed.validity().not_after.to_datetime(),
    );
    let (subject, issuer) = (parsed.subject(), parsed.issuer());
    json!({
        "version": parsed.version().to_string(),
        "serial_number": parsed.serial.to_string(),
        "self_signed": subject == issuer,
        "issuer": name(issuer),
        "subject": name(subject),
        "subject_alt_names": alternative_names(parsed),
        "not_before": moment(from),
        "not_after": moment(to),
        "expiry_status": expiry(to),
        "fingerprint": format!("SHA256 Fingerprint={}", hexadecimal(&Sha256::digest(der))),
        "public_key": public_key(parsed.public_key()),
        "signature": hexadecimal(&parsed.signature_value.data),
        "signature_algorithm": algorithm(parsed),
        "key_params": key_params(parsed.public_key()),
    })
}

fn name(name: &X509Name<'_>) -> Value {
    let whole = name.to_string();
    let fields = [
        ("common_name", first(name.iter_common_name())),
        ("email_address", first(name.iter_email())),
        ("organization", first(name.iter_organization())),
        ("organization_unit", first(name.iter_organizational_unit())),
        ("locality", first(name.iter_locality())),
        ("state", first(name.iter_state_or_province())),
        ("country", first(name.iter_country())),
        ("distinguished_name", Some(whole.as_str())),
    ];
    let known = fields
        .into_iter()
        .filter_map(|(field, v)| Some((field.to_owned(), v?.into())));
    Value::Object(known.collect())
}

fn first<'a, 'b: 'a>(
    mut values: impl Iterator<Item = &'a AttributeTypeAndValue<'b>>,
) -> Option<&'a str> {
    values.next()?.as_str().ok()
}

/// DNS names and addresses; null when there are none.
fn alternative_names(parsed: &X509Certificate<'_>) -> Value {
    let extension = parsed.subject_alternative_name().ok().flatten();
    let names = extension.map_or(&[][..], |e| e.value.general_names.as_slice());
    let names = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes),
        _ => None,
    });
    let names: Vec<String> = names.collect();
    if names.is_empty() {
        Value::Null
    } else {
        names.into()
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    let v4 = || <[u8; 4]>::try_from(bytes).map(|b| std::net::Ipv4Addr::from(b).to_string());
    let v6 = || <[u8; 16]>::try_from(bytes).map(|b| std::net::Ipv6Addr::from(b).to_string());
    v4().or_else(|_| v6()).ok()
}

/// `2027-01-31 23:59:59`, in UTC.
fn moment(at: OffsetDateTime) -> String {
    let (date, time) = (at.date(), at.time());
    let (hour, minute, second) = time.as_hms();
    format!("{date} {hour:02}:{minute:02}:{second:02}")
}

fn expiry(not_after: OffsetDateTime) -> &'static str {
    match not_after - OffsetDateTime::now_utc() {
        left if left.is_negative() => "SSL_CERTIFICATE_EXPIRED",
        left if left < WARNING => "SSL_CERTIFICATE_EXPIRY_WARNING",
        _ => "SSL_CERTIFICATE_GOOD",
    }
}

/// `0A:1B:…`.
fn hexadecimal(bytes: &[u8]) -> String {
    let pairs: Vec<String> = bytes.iter().map(|b| format!("{b:02X}")).collect();
    pairs.join(":")
}

/// PEM, as `openssl x509 -pubkey` prints it.
fn public_key(public: &SubjectPublicKeyInfo<'_>) -> String {
    let text = STANDARD.encode(public.raw);
    let lines = text.as_bytes().chunks(LINE_LEN);
    let lines: Vec<_> = lines.map(String::from_utf8_lossy).collect();
    let body = lines.join("\n");
    format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
}

/// As OpenSSL names it, or its number.
fn algorithm(parsed: &X509Certificate<'_>) -> String {
    let oid = &parsed.signature_algorithm.algorithm;
    let known = x509_parser::objects::oid2sn(oid, x509_parser::objects::oid_registry());
    known.map_or_else(|_| oid.to_id_string(), str::to_owned)
}

/// null for what is neither RSA of a size nor of a curve that the schema knows.
fn key_params(public: &SubjectPublicKeyInfo<'_>) -> Value {
    match public.parsed() {
        Ok(PublicKey::RSA(key)) if RSA_BITS.contains(&key.key_size()) => {
            let exponent = key.try_exponent().unwrap_or_default();
            let size = format!("SSL_KEY_{}_BITS", key.key_size());
            json!({"algorithm": "SSL_KEY_ALGORITHM_RSA", "rsa_params": {"key_size": size, "exponent": exponent}})
        }
        Ok(PublicKey::EC(_)) => curve(public).map_or(
            Value::Null,
            |curve| json!({"algorithm": "SSL_KEY_ALGORITHM_EC", "ec_params": {"curve": curve}}),
        ),
        _ => Value::Null,
    }
}

fn curve(public: &SubjectPublicKeyInfo<'_>) -> Option<&'static str> {
    let named = public.algorithm.parameters.as_ref()?.as_oid().ok()?;
    let named = named.to_id_string();
    let mut curves = CURVES.into_iter();
    let (_, word) = curves.find(|(number, _)| *number == named)?;
    Some(word)
}
