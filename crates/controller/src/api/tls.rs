//! The API's certificate: the operator's own, or one made at first start and kept.

use crate::args::Settings;
use anyhow::Context as _;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files of the certificate and its key.
struct Files {
    /// PEM, the chain.
    certificate: PathBuf,
    /// PEM, mode 0600.
    key: PathBuf,
}

/// The operator's own, or those in the data folder.
fn files(settings: &Settings) -> anyhow::Result<Files> {
    match &settings.api_certificate {
        Some((certificate, key)) => Ok(Files {
            certificate: certificate.clone(),
            key: key.clone(),
        }),
        None => self_made(&settings.data_dir, settings.listen_api),
    }
}

/// The certificate as it is served, and how others know it.
pub struct Served {
    /// Of the listener.
    pub config: Arc<ServerConfig>,
    /// SHA-256 of the certificate that clients see, hexadecimal.
    pub fingerprint: String,
}

impl Served {
    /// Reads the files, or makes them.
    ///
    /// # Errors
    /// A file cannot be read or written, or certificate and key do not fit.
    pub fn load(settings: &Settings) -> anyhow::Result<Self> {
        let files = files(settings)?;
        let chain = chain(&files)?;
        let first = chain
            .first()
            .context("the API's certificate file has no certificate")?;
        Ok(Self {
            fingerprint: fingerprint_of(first),
            config: server_config(&files, chain)?,
        })
    }
}

/// SHA-256 of a certificate, hexadecimal.
pub fn fingerprint_of(certificate: &CertificateDer<'_>) -> String {
    crate::auth::sha256_hex(certificate.as_ref())
}

/// The files in the data folder, made when they are missing.
fn self_made(folder: &Path, listen: SocketAddr) -> anyhow::Result<Files> {
    let files = Files {
        certificate: folder.join("api-cert.pem"),
        key: folder.join("api-key.pem"),
    };
    if !files.certificate.exists() || !files.key.exists() {
        let made = rcgen::generate_simple_self_signed(names(listen))
            .context("cannot make the API's certificate")?;
        crate::files::write_private(&files.key, made.signing_key.serialize_pem().as_bytes())?;
        crate::files::write_private(&files.certificate, made.cert.pem().as_bytes())?;
        tracing::info!(path = %files.certificate.display(), "made a certificate for the API");
    }
    Ok(files)
}

fn names(listen: SocketAddr) -> Vec<String> {
    let mut names = vec![
        "localhost".into(),
        "127.0.0.1".into(),
        "::1".into(),
        crate::engines::SERVER_NAME.into(),
    ];
    if !listen.ip().is_unspecified() {
        names.push(listen.ip().to_string());
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    if !host.is_empty()
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
    {
        names.push(host.to_owned());
    }
    names
}

fn chain(files: &Files) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("cannot read {}", files.certificate.display()))
}

/// The TLS side of the API's listener.
fn server_config(
    files: &Files,
    chain: Vec<CertificateDer<'static>>,
) -> anyhow::Result<Arc<ServerConfig>> {
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("cannot read {}", files.key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("the API's certificate and key do not fit")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
