//! Keys, self-signed certificates and requests that the controller makes.

use super::{PENDING, flag, text};
use model::object::{FieldError, Object};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    SanType, SignatureAlgorithm,
};
use serde_json::Value;
use time::{Duration, OffsetDateTime};

/// What the schema takes, before anything is computed with it.
const DAYS_RANGE: std::ops::RangeInclusive<i64> = 1..=3650;
/// The default of the field.
const DAYS: i64 = 365;
/// emailAddress (RFC 5280 section 4.1.2.6).
const EMAIL: [u64; 7] = [1, 2, 840, 113_549, 1, 9, 1];

/// What a made certificate depends on.
#[derive(PartialEq, Eq)]
pub(super) struct Request {
    self_signed: bool,
    authority: bool,
    days: i64,
    subject: Vec<(&'static str, String)>,
    names: Vec<String>,
    curve: String,
}

/// Fields of `subject`, in the order in which a name is written.
const SUBJECT: [&str; 7] = [
    "common_name",
    "organization",
    "organization_unit",
    "locality",
    "state",
    "country",
    "email_address",
];

fn attribute(field: &str) -> DnType {
    match field {
        "organization" => DnType::OrganizationName,
        "organization_unit" => DnType::OrganizationalUnitName,
        "locality" => DnType::LocalityName,
        "state" => DnType::StateOrProvinceName,
        "country" => DnType::CountryName,
        "email_address" => DnType::CustomDnType(EMAIL.to_vec()),
        _ => DnType::CommonName,
    }
}

impl Request {
    /// What the object asks for; `None` where its fields are not what the schema says.
    pub(super) fn of(object: &Object) -> Option<Self> {
        let certificate = object.get("certificate")?.as_object()?;
        let subject = certificate.get("subject").and_then(Value::as_object);
        let subject = SUBJECT
            .iter()
            .filter_map(|name| Some((*name, text(subject?, name)?.to_owned())));
        let names = certificate
            .get("subject_alt_names")
            .and_then(Value::as_array);
        let names = names.into_iter().flatten().filter_map(Value::as_str);
        let days = certificate.get("days_until_expire").map(Value::as_i64);
        Some(Self {
            self_signed: flag(certificate, "self_signed"),
            authority: text(object, "type") == Some("SSL_CERTIFICATE_TYPE_CA"),
            days: days
                .unwrap_or(Some(DAYS))
                .filter(|d| DAYS_RANGE.contains(d))?,
            subject: subject.collect(),
            names: names.map(str::to_owned).collect(),
            curve: curve(object).unwrap_or_default().to_owned(),
        })
    }
}

/// The curve of `key_params`; `None` for RSA.
fn curve(object: &Object) -> Option<&str> {
    let params = object.get("key_params").and_then(Value::as_object);
    if params.and_then(|p| text(p, "algorithm")) == Some("SSL_KEY_ALGORITHM_RSA") {
        return None;
    }
    let curve = params.and_then(|p| p.get("ec_params")?.get("curve")?.as_str());
    Some(curve.unwrap_or("SSL_KEY_EC_CURVE_SECP256R1"))
}

/// Makes a key with a self-signed certificate, or with a request that waits for its certificate.
pub(super) fn make(
    stored: &Object,
    object: &mut Object,
    certificate: &Object,
) -> Result<(), FieldError> {
    let algorithm = algorithm(object)?;
    // What the schema refuses with its path.
    let Some(request) = Request::of(object) else {
        return Ok(());
    };
    // One that was kept belongs to what was there before.
    if text(object, "key") != text(stored, "key") {
        let hint = "write the certificate into certificate.certificate, or leave the key out";
        let problem = "is without its certificate";
        return Err(FieldError::new("key", problem, hint));
    }
    let made = sign(&request, algorithm).map_err(|error| {
        let hint = "correct the subject and subject_alt_names";
        FieldError::new("certificate", format!("cannot be made: {error}"), hint)
    })?;
    let mut certificate = certificate.clone();
    certificate.insert(made.field.into(), made.pem.into());
    object.insert("certificate".into(), Value::Object(certificate));
    object.insert("key".into(), made.key.into());
    match request.self_signed {
        true => drop(object.shift_remove("status")),
        false => drop(object.insert("status".into(), PENDING.into())),
    }
    Ok(())
}

fn algorithm(object: &Object) -> Result<&'static SignatureAlgorithm, FieldError> {
    let no = |field: &str, problem: &str| {
        let hint = "use SSL_KEY_ALGORITHM_EC with the curve SECP256R1 or SECP384R1, or import a certificate with its key";
        Err(FieldError::new(field, problem, hint))
    };
    match curve(object) {
        None => no("key_params.algorithm", "RSA keys are not made here"),
        Some("SSL_KEY_EC_CURVE_SECP256R1") => Ok(&rcgen::PKCS_ECDSA_P256_SHA256),
        Some("SSL_KEY_EC_CURVE_SECP384R1") => Ok(&rcgen::PKCS_ECDSA_P384_SHA384),
        Some(_) => no("key_params.ec_params.curve", "keys of it are not made here"),
    }
}

struct Made {
    /// Of `certificate`.
    field: &'static str,
    pem: String,
    key: String,
}

fn sign(request: &Request, algorithm: &'static SignatureAlgorithm) -> Result<Made, rcgen::Error> {
    let key = KeyPair::generate_for(algorithm)?;
    let params = params(request)?;
    let (field, pem) = if request.self_signed {
        ("certificate", params.self_signed(&key)?.pem())
    } else {
        let csr = params.serialize_request(&key)?;
        ("certificate_signing_request", csr.pem()?)
    };
    let key = key.serialize_pem();
    Ok(Made { field, pem, key })
}

fn params(request: &Request) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for (name, value) in &request.subject {
        let name = attribute(name);
        params.distinguished_name.push(name, value.as_str());
    }
    let names = request.names.iter().map(|name| {
        Ok(match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into()?),
        })
    });
    params.subject_alt_names = names.collect::<Result<_, rcgen::Error>>()?;
    if request.authority && request.self_signed {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    }
    // Clocks of two machines differ a little.
    params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(request.days);
    Ok(params)
}
