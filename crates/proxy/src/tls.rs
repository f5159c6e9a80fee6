//! TLS: to clients it ends here, to servers it begins here. The protocol is rustls'.
//!
//! Configurations are made when the desired state changes and shared by all workers, so that clients resume at any of them.

use crate::shared::Service;
use crate::stream::{Stream, Wire};
use crate::{CertificateSpec, ServerTlsSpec, TlsSpec, TlsVersions};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// How long a client may take to agree on TLS, where HTTP says nothing of it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// What is spoken above TLS; without it clients of HTTP/2 alone would try it.
const HTTP_1_1: &[u8] = b"http/1.1";

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(ring::default_provider()));

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A text is not what it should be.
    #[error("{0} has no PEM {1}")]
    Pem(String, &'static str),
    /// A key that cannot be used, or is another certificate's.
    #[error("{0} cannot be used")]
    Certificate(String, #[source] Error),
    /// Neither of the versions that are spoken here.
    #[error("neither TLS 1.2 nor TLS 1.3 is accepted")]
    Versions,
    /// Nobody to be.
    #[error("there is no certificate")]
    Nobody,
    /// Rustls refuses the whole.
    #[error("TLS cannot be configured")]
    Config(#[source] Error),
}

/// Whether a certificate can be shown to clients.
///
/// # Errors
/// Why not.
pub fn check(certificate: &CertificateSpec) -> Result<(), TlsError> {
    certified(certificate).map(drop)
}

/// Keys that are in use. One that is, is not read again, however many virtual services have it; a new one is read to be checked and
/// once more to be used.
static IN_USE: Mutex<Vec<(CertificateSpec, Weak<CertifiedKey>)>> = Mutex::new(Vec::new());

fn certified(spec: &CertificateSpec) -> Result<Arc<CertifiedKey>, TlsError> {
    let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    in_use.retain(|(_, key)| key.strong_count() > 0);
    let known = in_use.iter().find(|(known, _)| known == spec);
    if let Some(key) = known.and_then(|(_, key)| key.upgrade()) {
        return Ok(key);
    }
    let key = read(spec)?;
    in_use.push((spec.clone(), Arc::downgrade(&key)));
    Ok(key)
}

fn read(spec: &CertificateSpec) -> Result<Arc<CertifiedKey>, TlsError> {
    let pem = |what| TlsError::Pem(spec.name.clone(), what);
    let chain = CertificateDer::pem_slice_iter(spec.chain.as_bytes());
    let chain: Vec<_> = chain
        .collect::<Result<_, _>>()
        .map_err(|_| pem("certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(spec.key.0.as_bytes()).map_err(|_| pem("key"))?;
    let made = CertifiedKey::from_der(chain, key, &PROVIDER);
    let made = made.map_err(|error| TlsError::Certificate(spec.name.clone(), error))?;
    Ok(Arc::new(made))
}

fn versions(wanted: TlsVersions) -> Result<Vec<&'static SupportedProtocolVersion>, TlsError> {
    let all = [(wanted.tls13, &TLS13), (wanted.tls12, &TLS12)];
    let all: Vec<_> = all.into_iter().filter(|v| v.0).map(|v| v.1).collect();
    match all.is_empty() {
        true => Err(TlsError::Versions),
        false => Ok(all),
    }
}

/// What clients meet.
pub(crate) fn server_config(spec: &TlsSpec) -> Result<Arc<ServerConfig>, TlsError> {
    let certificates = spec.certificates.iter().map(|c| certified(c));
    let certificates = Certificates(certificates.collect::<Result<_, _>>()?);
    if certificates.0.is_empty() {
        return Err(TlsError::Nobody);
    }
    let config = ServerConfig::builder_with_provider(PROVIDER.clone());
    let config = config.with_protocol_versions(&versions(spec.versions)?);
    let config = config.map_err(TlsError::Config)?.with_no_client_auth();
    let mut config = config.with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    Ok(Arc::new(config))
}

/// Who clients may meet.
#[derive(Debug)]
struct Certificates(Vec<Arc<CertifiedKey>>);

impl Certificates {
    /// The first whose key the client can check among those for this name, or among all.
    fn choose(
        &self,
        name: Option<&str>,
        schemes: &[SignatureScheme],
    ) -> Option<&Arc<CertifiedKey>> {
        let can = |c: &&Arc<CertifiedKey>| c.key.choose_scheme(schemes).is_some();
        let name = name.and_then(|name| ServerName::try_from(name).ok());
        let is_for = |c: &&Arc<CertifiedKey>| name.as_ref().is_some_and(|n| is_for(c, n));
        let mut named = self.0.iter().filter(is_for);
        named
            .find(can)
            .or_else(|| self.0.iter().find(can))
            .or(self.0.first())
    }
}

fn is_for(certificate: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let own = certificate.end_entity_cert();
    let parsed = own.and_then(ParsedCertificate::try_from);
    parsed.is_ok_and(|parsed| verify_server_name(&parsed, name).is_ok())
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match self.0.as_slice() {
            [only] => Some(only.clone()),
            _ => self
                .choose(hello.server_name(), hello.signature_schemes())
                .cloned(),
        }
    }
}

/// What is above TLS is the server's business: whatever a client would speak there may do (RFC 7301 section 3.2 refuses it else).
fn of_bytes(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols.clear();
    Arc::new(config)
}

/// TLS with a client; `patience`: HTTP's, where that is above it. `None` when there is none in time, or it cannot be.
pub(crate) async fn accept(
    wire: Wire,
    service: &Service,
    patience: Option<Duration>,
) -> Option<Stream> {
    let config = service.tls()?;
    let acceptor = TlsAcceptor::from(match patience {
        Some(_) => config,
        None => of_bytes(&config),
    });
    let patience = patience.unwrap_or(HANDSHAKE_TIMEOUT);
    match tokio::time::timeout(patience, acceptor.accept(wire)).await {
        Ok(Ok(stream)) => Some(Stream::tls(stream)),
        Ok(Err(error)) => {
            tracing::debug!(vs = service.uuid, %error, "no TLS with a client");
            None
        }
        Err(_) => None,
    }
}

impl ServerTlsSpec {
    /// Whom a server is asked for, when the client has asked for this one.
    pub(crate) fn name_for<'a>(&'a self, client: Option<&'a str>) -> Option<&'a str> {
        self.name.as_deref().or(client).filter(|_| self.sni)
    }
}

/// TLS with a server at this address.
pub(crate) async fn connect(
    wire: Wire,
    spec: &ServerTlsSpec,
    name: Option<&str>,
    server: IpAddr,
) -> io::Result<Stream> {
    let name = spec.name_for(name).map(str::to_owned);
    // Of an address nothing is sent.
    let name = name.and_then(|name| ServerName::try_from(name).ok());
    let name = name.unwrap_or_else(|| ServerName::from(server));
    let config = client_config(spec.versions).map_err(io::Error::other)?;
    let stream = TlsConnector::from(config).connect(name, wire).await?;
    Ok(Stream::tls(stream))
}

type Made = Result<Arc<ClientConfig>, String>;

/// How servers are spoken to: whoever has the key of the certificate that he shows is believed. The same for all, as it says nothing of
/// servers.
///
/// # Errors
/// Neither version is wanted.
pub fn client_config(wanted: TlsVersions) -> Result<Arc<ClientConfig>, String> {
    static BOTH: LazyLock<Made> = LazyLock::new(|| make(true, true));
    static TLS12_ALONE: LazyLock<Made> = LazyLock::new(|| make(true, false));
    static TLS13_ALONE: LazyLock<Made> = LazyLock::new(|| make(false, true));
    let made = match (wanted.tls12, wanted.tls13) {
        (true, false) => &TLS12_ALONE,
        (false, true) => &TLS13_ALONE,
        _ => &BOTH,
    };
    LazyLock::force(made).clone()
}

fn make(tls12: bool, tls13: bool) -> Made {
    let versions = versions(TlsVersions { tls12, tls13 }).map_err(|e| e.to_string())?;
    let config = ClientConfig::builder_with_provider(PROVIDER.clone());
    let config = config.with_protocol_versions(&versions);
    let config = config.map_err(|e| e.to_string())?.dangerous();
    let config = config.with_custom_certificate_verifier(Arc::new(Anyone));
    Ok(Arc::new(config.with_no_client_auth()))
}

/// Takes every certificate, if it is the server's own.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests;
