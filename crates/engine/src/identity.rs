//! Who this engine is: its key, its certificate, and how it gets them (docs/adr/0003).

use crate::args::Settings;
use crate::dial::{Dialler, Ends};
use crate::files;
use anyhow::{Context as _, anyhow, bail, ensure};
use proto::join_token::JoinToken;
use proto::v1::engine_control_client::EngineControlClient;
use proto::v1::{Interface, JoinRequest};
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity as TlsIdentity};

/// The name in every controller's certificate for engines.
const SERVER_NAME: &str = "controller.evenkeel.internal";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A controller that does not answer a ping for interval + timeout is taken for gone.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between attempts to join.
const JOIN_RETRY: Duration = Duration::from_secs(1);

/// How long an attempt to reach a controller may take, the TLS handshake included.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Key and certificate in one file, so that a renewal replaces both or none.
const PAIR: &str = "identity.pem";
/// Where they were before: read, and removed with the next renewal.
const OLD_PAIR: [&str; 2] = ["key.pem", "cert.pem"];
/// What a certificate begins with in `PAIR`, behind the key.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// Key, certificate and CA of an engine that has joined.
#[derive(Clone)]
pub(crate) struct Identity {
    pub se_uuid: String,
    key_pem: String,
    certificate_pem: String,
    ca_pem: String,
    /// The next key, which waits for its certificate.
    next_key_pem: Option<String>,
}

/// What the engine has at its start to become somebody.
pub(crate) enum Credentials {
    /// It has joined before; its certificate may have expired.
    Joined(Identity),
    /// It has never joined.
    New(JoinToken),
}

/// Why a join came to nothing.
#[derive(Debug)]
pub(crate) enum JoinError {
    /// It will not come to anything with this token.
    Refused(anyhow::Error),
    /// No controller answered.
    Unreachable(anyhow::Error),
}

impl Credentials {
    /// Reads the state folder, and the join token where it is needed; no controller is asked yet.
    pub(crate) fn load(settings: &Settings) -> anyhow::Result<Self> {
        Ok(match Identity::load(&settings.state_dir)? {
            Some(identity) => Self::Joined(identity),
            None => Self::New(settings.join_token()?),
        })
    }

    /// The identity; joins if need be, which is tried until a controller answers.
    ///
    /// # Errors
    /// A controller refuses an engine that is new. One that has state to serve goes on serving instead.
    pub(crate) async fn identity(
        self,
        settings: &Settings,
        interfaces: Vec<Interface>,
    ) -> anyhow::Result<Identity> {
        let mut token = match self {
            Self::Joined(identity) => return Ok(identity),
            Self::New(token) => token,
        };
        loop {
            match join(settings, &token, interfaces.clone()).await {
                Ok(identity) => return Ok(identity),
                Err(JoinError::Refused(why)) => return Err(why),
                Err(JoinError::Unreachable(_)) => tokio::time::sleep(JOIN_RETRY).await,
            }
            // Another one may have been put in its place.
            token = settings.join_token().unwrap_or(token);
        }
    }
}

/// Asks each controller once, and saves what one of them gives.
///
/// # Errors
/// See [`JoinError`].
pub(crate) async fn join(
    settings: &Settings,
    token: &JoinToken,
    interfaces: Vec<Interface>,
) -> Result<Identity, JoinError> {
    let identity = ask_to_join(settings, token, interfaces).await?;
    let saved = check(&identity.certificate_pem, &identity.key_pem)
        .and_then(|()| identity.save(&settings.state_dir));
    saved.map_err(JoinError::Refused)?;
    tracing::info!(se = settings.name, uuid = identity.se_uuid, "joined");
    Ok(identity)
}

impl Identity {
    fn load(folder: &Path) -> anyhow::Result<Option<Self>> {
        // Written last: with it, everything is there.
        if !folder.join("se-uuid").exists() {
            return Ok(None);
        }
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))
        };
        let (key_pem, certificate_pem) = match folder.join(PAIR).exists() {
            true => split(&read(PAIR)?)?,
            false => (read(OLD_PAIR[0])?, read(OLD_PAIR[1])?),
        };
        Ok(Some(Self {
            se_uuid: read("se-uuid")?.trim().to_owned(),
            key_pem,
            certificate_pem,
            ca_pem: read("ca.pem")?,
            next_key_pem: None,
        }))
    }

    fn save(&self, folder: &Path) -> anyhow::Result<()> {
        let mark = folder.join("se-uuid");
        if mark.exists() {
            std::fs::remove_file(&mark)
                .with_context(|| format!("cannot remove {}", mark.display()))?;
        }
        self.save_pair(folder)?;
        files::write_private(&folder.join("ca.pem"), self.ca_pem.as_bytes())?;
        files::write_private(&mark, self.se_uuid.as_bytes())
    }

    fn save_pair(&self, folder: &Path) -> anyhow::Result<()> {
        let pair = format!("{}\n{}", self.key_pem.trim_end(), self.certificate_pem);
        files::write_private(&folder.join(PAIR), pair.as_bytes())?;
        for old in OLD_PAIR.map(|name| folder.join(name)) {
            if old.exists() {
                std::fs::remove_file(&old)
                    .with_context(|| format!("cannot remove {}", old.display()))?;
            }
        }
        Ok(())
    }

    /// A certificate request for a new key; the same one until its certificate has come.
    pub(crate) fn renewal(&mut self) -> anyhow::Result<String> {
        let key = match &self.next_key_pem {
            Some(pem) => KeyPair::from_pem(pem)?,
            None => KeyPair::generate()?,
        };
        self.next_key_pem = Some(key.serialize_pem());
        request(&key)
    }

    /// Takes a renewed certificate over, with its key; they are used from the next session on. One that is not valid now, which
    /// comes from a controller whose clock is wrong, would cut us off from all controllers: the one before is better.
    pub(crate) fn renewed(&mut self, certificate_pem: String, folder: &Path) -> anyhow::Result<()> {
        let Some(key_pem) = self.next_key_pem.clone() else {
            bail!("a certificate came that was not asked for");
        };
        check(&certificate_pem, &key_pem)?;
        let renewed = Self {
            key_pem,
            certificate_pem,
            next_key_pem: None,
            ..self.clone()
        };
        ensure!(
            renewed.is_valid(SystemTime::now()),
            "the new certificate is not valid now, the one before stays: the clock of the controller or of this host is wrong"
        );
        renewed.save_pair(folder)?;
        *self = renewed;
        Ok(())
    }

    fn is_valid(&self, now: SystemTime) -> bool {
        let now = unix_s(now);
        self.life()
            .is_some_and(|(start, end)| (start..end).contains(&now))
    }

    pub(crate) fn expired(&self, now: SystemTime) -> bool {
        self.life().is_none_or(|(_, end)| end <= unix_s(now))
    }

    /// How long until half of the certificate's life is left; zero when less is left. For the other half a controller
    /// may be away.
    pub(crate) fn renewal_in(&self, now: SystemTime) -> Duration {
        let Some((start, end)) = self.life() else {
            return Duration::ZERO;
        };
        let due = end - (end - start) / 2;
        Duration::from_secs(u64::try_from(due - unix_s(now)).unwrap_or(0))
    }

    /// First and last second of the certificate, Unix time; `None` when it is damaged.
    fn life(&self) -> Option<(i64, i64)> {
        let pem = x509_parser::pem::parse_x509_pem(self.certificate_pem.as_bytes()).ok()?;
        let certificate = pem.1.parse_x509().ok()?;
        let validity = certificate.validity();
        Some((
            validity.not_before.timestamp(),
            validity.not_after.timestamp(),
        ))
    }

    /// A connection to a controller that the CA vouches for, as this engine, and its ends.
    pub(crate) async fn connect(
        &self,
        controller: &str,
    ) -> anyhow::Result<(Channel, Option<Ends>)> {
        let tls =
            tls(&self.ca_pem).identity(TlsIdentity::from_pem(&self.certificate_pem, &self.key_pem));
        connect(controller, tls).await
    }
}

/// Key and certificate, which stands behind it.
fn split(pair: &str) -> anyhow::Result<(String, String)> {
    let at = pair.find(CERTIFICATE);
    let at = at.with_context(|| format!("{PAIR} is damaged; let the engine join again"))?;
    let (key, certificate) = pair.split_at(at);
    Ok((key.to_owned(), certificate.to_owned()))
}

/// Is it a certificate for this key? With another one we could never talk to a controller again.
fn check(certificate_pem: &str, key_pem: &str) -> anyhow::Result<()> {
    let key = KeyPair::from_pem(key_pem).context("the engine's key is damaged")?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes())
        .context("the controller's answer is no certificate")?;
    let certificate = pem
        .parse_x509()
        .context("the controller's answer is no certificate")?;
    if certificate.public_key().raw != key.subject_public_key_info() {
        bail!("the certificate from the controller is for another key");
    }
    Ok(())
}

fn unix_s(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn tls(ca_pem: &str) -> ClientTlsConfig {
    ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca_pem))
        .domain_name(SERVER_NAME)
}

async fn connect(
    controller: &str,
    tls: ClientTlsConfig,
) -> anyhow::Result<(Channel, Option<Ends>)> {
    let endpoint = Endpoint::from_shared(format!("https://{controller}"))
        .with_context(|| format!("{controller} is no HOST:PORT"))?
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tls_config(tls)?;
    let dialler = Dialler::new(CONNECT_TIMEOUT);
    let connecting = endpoint.connect_with_connector(dialler.clone());
    let connected = tokio::time::timeout(DIAL_TIMEOUT, connecting).await;
    let channel = connected.context("no answer in time")??;
    Ok((channel, dialler.ends()))
}

fn request(key: &KeyPair) -> anyhow::Result<String> {
    let csr = CertificateParams::default().serialize_request(key)?;
    Ok(csr.pem()?)
}

async fn ask_to_join(
    settings: &Settings,
    token: &JoinToken,
    interfaces: Vec<Interface>,
) -> Result<Identity, JoinError> {
    let (key, csr_pem) = new_key().map_err(JoinError::Refused)?;
    let message = JoinRequest {
        token_id: token.id.clone(),
        token_secret: token.secret.clone(),
        csr_pem,
        name: settings.name.clone(),
        interfaces,
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let mut outcome = Err(JoinError::Unreachable(anyhow!("no controller is named")));
    for controller in &settings.controllers {
        outcome = join_at(controller, token, message.clone()).await;
        match &outcome {
            Err(JoinError::Unreachable(error)) => {
                tracing::warn!(controller, error = format!("{error:#}"), "cannot join yet");
            }
            Ok(_) | Err(JoinError::Refused(_)) => break,
        }
    }
    let reply = outcome?;
    Ok(Identity {
        se_uuid: reply.se_uuid,
        key_pem: key.serialize_pem(),
        certificate_pem: reply.certificate_pem,
        ca_pem: reply.ca_pem,
        next_key_pem: None,
    })
}

/// A key and the request for its certificate.
fn new_key() -> anyhow::Result<(KeyPair, String)> {
    let key = KeyPair::generate()?;
    let csr_pem = request(&key)?;
    Ok((key, csr_pem))
}

async fn join_at(
    controller: &str,
    token: &JoinToken,
    message: JoinRequest,
) -> Result<proto::v1::JoinReply, JoinError> {
    let (channel, _) = connect(controller, tls(&token.ca_pem))
        .await
        .map_err(JoinError::Unreachable)?;
    let mut client = EngineControlClient::new(channel);
    let answer = tokio::time::timeout(DIAL_TIMEOUT, client.join(message)).await;
    let answer = answer.map_err(|_| JoinError::Unreachable(anyhow!("no answer in time")))?;
    let status = match answer {
        Ok(reply) => return Ok(reply.into_inner()),
        Err(status) => status,
    };
    let refused = [Code::PermissionDenied, Code::InvalidArgument].contains(&status.code());
    Err(match refused {
        true => JoinError::Refused(anyhow!(
            "{controller} refuses the join: {}",
            status.message()
        )),
        false => JoinError::Unreachable(anyhow!("{}", status.message())),
    })
}

#[cfg(test)]
mod tests;
