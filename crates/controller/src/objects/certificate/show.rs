//! What engines show to clients.

use super::read::decoded;
use model::view::SslKeyAndCertificate;
use proto::v1;
use rustls::crypto::ring;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why a certificate cannot be shown to clients.
#[derive(Debug)]
pub struct Unfit {
    /// In words.
    pub problem: String,
    /// What to do about it.
    pub hint: &'static str,
}

/// The certificate and its key, as engines take them.
///
/// # Errors
/// Engines cannot use it.
pub fn to_show(view: &SslKeyAndCertificate) -> Result<v1::KeyAndCertificate, Unfit> {
    let name = &view.name;
    let unfit = |problem: &str, hint| Unfit {
        problem: format!("{name} {problem}"),
        hint,
    };
    let chain = view.certificate.certificate.as_deref();
    let chain = chain.and_then(|text| decoded(text, view.certificate_base64));
    let chain = chain.ok_or_else(|| unfit("has no certificate yet", "have it signed first"))?;
    let key = view.key.as_deref();
    let key = key.and_then(|text| decoded(text, view.key_base64));
    let key = key.ok_or_else(|| unfit("has no key", "import the certificate with its key"))?;
    if key.contains("ENCRYPTED") {
        let problem = "has a key that is encrypted (key_passphrase), which engines do not read";
        return Err(unfit(problem, "decrypt it: openssl pkey -in FILE"));
    }
    can_be_used(&chain, &key).map_err(|why| {
        let problem = format!("cannot be used by engines: {why}");
        let hint = "use a key of EC (P-256, P-384), Ed25519, or RSA with 2048 bits or more";
        unfit(&problem, hint)
    })?;
    Ok(v1::KeyAndCertificate {
        uuid: view.uuid.clone(),
        name: view.name.clone(),
        chain_pem: chain.into_owned(),
        key_pem: key.into_owned(),
    })
}

/// As engines find out.
fn can_be_used(chain: &str, key: &str) -> Result<(), String> {
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes());
    let chain: Result<Vec<_>, _> = chain.collect();
    let chain = chain.map_err(|_| "it is no PEM certificate".to_owned())?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
    let key = key.map_err(|_| "its key is no PEM private key".to_owned())?;
    let made = CertifiedKey::from_der(chain, key, &ring::default_provider());
    made.map(drop).map_err(|error| error.to_string())
}
