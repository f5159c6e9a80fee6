//! Whom to believe, as a TLS configuration.

use crate::{Error, Result, Trust};
use rustls::crypto::ring;
use std::path::Path;
use std::sync::Arc;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

/// Where Debian, and with it most of Linux, keeps the host's CA certificates in one file.
const SYSTEM_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

pub(crate) fn config(trust: &Trust) -> Result<TlsConfig> {
    let base = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()));
    let config = match trust {
        Trust::Insecure => base.disable_verification(true),
        Trust::CaFile(path) => base.root_certs(roots(path)?),
        // A host without a bundle trusts nobody, which the handshake then says.
        Trust::System => {
            base.root_certs(roots(Path::new(SYSTEM_BUNDLE)).unwrap_or_else(|_| no_roots()))
        }
    };
    Ok(config.build())
}

fn no_roots() -> RootCerts {
    RootCerts::new_with_certs(&[])
}

fn roots(path: &Path) -> Result<RootCerts> {
    let fail = |reason: String| Error::Trust {
        path: path.to_path_buf(),
        reason,
    };
    let pem = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    let items = parse_pem(&pem).collect::<std::result::Result<Vec<_>, _>>();
    let certificates: Vec<Certificate<'static>> = items
        .map_err(|e| fail(e.to_string()))?
        .into_iter()
        .filter_map(certificate)
        .collect();
    if certificates.is_empty() {
        return Err(fail("there is no certificate in it".into()));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

fn certificate(item: PemItem<'static>) -> Option<Certificate<'static>> {
    match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    }
}
