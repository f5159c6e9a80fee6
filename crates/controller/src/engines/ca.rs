//! The cluster CA: made at first start, it signs the controller's and the engines' certificates.

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use serde::{Deserialize, Serialize};
use std::path::Path;
use store::{Expect, Meta, Op, Store};
use time::{Duration, OffsetDateTime};

/// Validity of the CA.
const CA_DAYS: i64 = 3650;
/// Validity of the controller's certificate; made anew at every start.
const SERVER_DAYS: i64 = 365;
/// A certificate is valid from so long before it was made. Clocks of two machines differ, and a clock may be set: one that was
/// made by a clock that is ahead is believed at once by everybody else, and one that was made before a clock was set back is
/// believed on.
const BACKDATED: Duration = Duration::hours(24);
/// Where it is when several controllers share it; sealed.
pub const KEY: &str = "/cluster/ca";

/// The CA with its key.
pub struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// PEM texts.
#[derive(Serialize, Deserialize)]
struct Pair {
    certificate: String,
    key: String,
}

impl Pair {
    /// The one in the folder, where one was alone before; else it is made, and kept in the folder unless there are several.
    fn in_folder(folder: &Path, several: bool) -> anyhow::Result<Self> {
        let (cert, key) = (folder.join("ca-cert.pem"), folder.join("ca-key.pem"));
        if !cert.exists() {
            let (certificate, private) = make().context("cannot make the cluster CA")?;
            if several {
                return Ok(Self {
                    certificate,
                    key: private,
                });
            }
            crate::files::write_private(&key, private.as_bytes())?;
            crate::files::write_private(&cert, certificate.as_bytes())?;
            tracing::info!(path = %cert.display(), "made the cluster CA");
        }
        let read = |path: &Path| {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(Self {
            certificate: read(&cert)?,
            key: read(&key)?,
        })
    }
}

impl Ca {
    /// The CA of the cluster, made at first start. Of several controllers it is in the store, sealed, so that engines
    /// believe each of them; one that is alone has it in files of its folder.
    ///
    /// # Errors
    /// The files or the store cannot be read or written.
    pub async fn open(folder: &Path, store: &dyn Store, several: bool) -> anyhow::Result<Self> {
        if let Some(entry) = store.get(KEY).await? {
            let pair: Pair = serde_json::from_slice(&entry.value).context("the CA is damaged")?;
            return Self::new(pair.certificate, &pair.key);
        }
        let pair = Pair::in_folder(folder, several)?;
        if several {
            let meta = Meta {
                who: "cluster".into(),
                message: "the cluster CA".into(),
                ..Meta::default()
            };
            let op = Op::put(KEY, serde_json::to_vec(&pair)?, Expect::Absent);
            store.commit(vec![op], meta).await?;
        }
        Self::new(pair.certificate, &pair.key)
    }

    fn new(pem: String, key_pem: &str) -> anyhow::Result<Self> {
        let key = KeyPair::from_pem(key_pem).context("the CA's key is damaged")?;
        let issuer =
            Issuer::from_ca_cert_pem(&pem, key).context("the CA's certificate is damaged")?;
        Ok(Self { pem, issuer })
    }

    /// The CA's certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for an engine's request, good for so many hours; the subject is ours to say.
    ///
    /// # Errors
    /// The request is damaged.
    pub fn sign_engine(&self, csr_pem: &str, se_uuid: &str, life_h: u64) -> anyhow::Result<String> {
        let mut csr = CertificateSigningRequestParams::from_pem(csr_pem)
            .context("the certificate request is damaged")?;
        let life = Duration::hours(i64::try_from(life_h).unwrap_or(1));
        csr.params = params(se_uuid, life)?;
        csr.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok(csr.signed_by(&self.issuer)?.pem())
    }

    /// A new certificate and key for the controller's side of the stream, PEM.
    ///
    /// # Errors
    /// None that a start could mend.
    pub fn server_identity(&self) -> anyhow::Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut params = params(super::SERVER_NAME, Duration::days(SERVER_DAYS))?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok((cert.pem(), key.serialize_pem()))
    }
}

fn params(name: &str, life: Duration) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::DnsName(name.try_into()?)];
    // Never so much that half of a short life, when it is renewed, is over at once.
    params.not_before = OffsetDateTime::now_utc() - BACKDATED.min(life / 10);
    params.not_after = OffsetDateTime::now_utc() + life;
    Ok(params)
}

fn make() -> anyhow::Result<(String, String)> {
    let key = KeyPair::generate()?;
    let mut params = params("ca.evenkeel.internal", Duration::days(CA_DAYS))?;
    params.subject_alt_names.clear();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let cert = params.self_signed(&key)?;
    Ok((cert.pem(), key.serialize_pem()))
}

/// The common name of a DER certificate: the engine's uuid.
pub fn common_name(der: &[u8]) -> Option<String> {
    let (_, cert) = x509_parser::parse_x509_certificate(der).ok()?;
    let name = cert.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::Memory;

    #[tokio::test]
    async fn controllers_that_share_a_store_have_one_ca_and_no_file_of_it() {
        let store = Memory::default();
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let mut seen = Vec::new();
        for folder in &folders {
            let ca = Ca::open(folder.path(), &store, true).await.unwrap();
            seen.push(ca.pem().to_owned());
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
        assert_eq!(seen[0], seen[1]);
    }

    #[tokio::test]
    async fn a_certificate_is_believed_by_clocks_that_are_hours_behind_unless_its_life_is_short() {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::open(folder.path(), &Memory::default(), true).await;
        let ca = ca.unwrap();
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::default().serialize_request(&key);
        let request = request.unwrap().pem().unwrap();
        let believed_h = |life_h| {
            let signed = ca.sign_engine(&request, "se", life_h).unwrap();
            let (_, pem) = x509_parser::pem::parse_x509_pem(signed.as_bytes()).unwrap();
            let from = pem.parse_x509().unwrap().validity().not_before.timestamp();
            let before_s = OffsetDateTime::now_utc().unix_timestamp() - from;
            before_s / 3600
        };
        assert_eq!([8760, 240, 20].map(believed_h), [24, 24, 2]);
    }

    #[tokio::test]
    async fn the_ca_of_one_that_was_alone_becomes_that_of_all() {
        let (alone, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let before = Ca::open(alone.path(), &Memory::default(), false).await;
        let store = Memory::default();
        let shared = Ca::open(alone.path(), &store, true).await.unwrap();
        let others = Ca::open(other.path(), &store, true).await.unwrap();
        assert_eq!(before.unwrap().pem(), shared.pem());
        assert_eq!(others.pem(), shared.pem());
    }
}
