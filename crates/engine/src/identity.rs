//! Who this engine is: its key, its certificate, and how it gets them (docs/adr/0003).

use crate::args::Settings;
use crate::files;
use anyhow::{Context as _, bail};
use proto::join_token::JoinToken;
use proto::v1::engine_control_client::EngineControlClient;
use proto::v1::{Interface, JoinRequest};
use rcgen::{CertificateParams, KeyPair};
use std::path::Path;
use std::time::Duration;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity as TlsIdentity};

/// The name in every controller's certificate for engines.
const SERVER_NAME: &str = "controller.evenkeel.internal";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A controller that does not answer a ping for interval + timeout is taken for gone.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between attempts to join.
const JOIN_RETRY: Duration = Duration::from_secs(1);

/// Key, certificate and CA of an engine that has joined.
#[derive(Clone)]
pub(crate) struct Identity {
    pub se_uuid: String,
    key_pem: String,
    certificate_pem: String,
    ca_pem: String,
}

impl Identity {
    /// The identity on disk; else the engine joins, which it tries until a controller answers.
    pub(crate) async fn load_or_join(
        settings: &Settings,
        interfaces: Vec<Interface>,
    ) -> anyhow::Result<Self> {
        if let Some(identity) = Self::load(&settings.state_dir)? {
            return Ok(identity);
        }
        let token = settings.join_token()?;
        let identity = join(settings, &token, interfaces).await?;
        identity.save(&settings.state_dir)?;
        tracing::info!(se = settings.name, uuid = identity.se_uuid, "joined");
        Ok(identity)
    }

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
        Ok(Some(Self {
            se_uuid: read("se-uuid")?.trim().to_owned(),
            key_pem: read("key.pem")?,
            certificate_pem: read("cert.pem")?,
            ca_pem: read("ca.pem")?,
        }))
    }

    fn save(&self, folder: &Path) -> anyhow::Result<()> {
        files::write_private(&folder.join("key.pem"), self.key_pem.as_bytes())?;
        files::write_private(&folder.join("cert.pem"), self.certificate_pem.as_bytes())?;
        files::write_private(&folder.join("ca.pem"), self.ca_pem.as_bytes())?;
        files::write_private(&folder.join("se-uuid"), self.se_uuid.as_bytes())
    }

    /// A certificate request for the key we have.
    pub(crate) fn renewal(&self) -> anyhow::Result<String> {
        request(&KeyPair::from_pem(&self.key_pem).context("key.pem is damaged")?)
    }

    /// Takes a renewed certificate over.
    pub(crate) fn renewed(&mut self, certificate_pem: String, folder: &Path) -> anyhow::Result<()> {
        self.certificate_pem = certificate_pem;
        files::write_private(&folder.join("cert.pem"), self.certificate_pem.as_bytes())
    }

    /// True in the last third of the certificate's life.
    pub(crate) fn wants_renewal(&self) -> bool {
        let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(self.certificate_pem.as_bytes()) else {
            return true;
        };
        let Ok(cert) = pem.parse_x509() else {
            return true;
        };
        let validity = cert.validity();
        let life = validity.not_after.timestamp() - validity.not_before.timestamp();
        let left = validity
            .time_to_expiration()
            .map_or(0, |d| d.whole_seconds());
        left * 3 < life
    }

    /// A connection to a controller that the CA vouches for, as this engine.
    pub(crate) async fn connect(&self, controller: &str) -> anyhow::Result<Channel> {
        let tls =
            tls(&self.ca_pem).identity(TlsIdentity::from_pem(&self.certificate_pem, &self.key_pem));
        connect(controller, tls).await
    }
}

fn tls(ca_pem: &str) -> ClientTlsConfig {
    ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca_pem))
        .domain_name(SERVER_NAME)
}

async fn connect(controller: &str, tls: ClientTlsConfig) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("https://{controller}"))
        .with_context(|| format!("{controller} is no HOST:PORT"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
        .tls_config(tls)?;
    Ok(endpoint.connect().await?)
}

fn request(key: &KeyPair) -> anyhow::Result<String> {
    let csr = CertificateParams::default().serialize_request(key)?;
    Ok(csr.pem()?)
}

async fn join(
    settings: &Settings,
    token: &JoinToken,
    interfaces: Vec<Interface>,
) -> anyhow::Result<Identity> {
    let key = KeyPair::generate()?;
    let message = JoinRequest {
        token_id: token.id.clone(),
        token_secret: token.secret.clone(),
        csr_pem: request(&key)?,
        name: settings.name.clone(),
        interfaces,
        version: env!("CARGO_PKG_VERSION").into(),
    };
    for controller in settings.controllers.iter().cycle() {
        match join_at(controller, token, message.clone()).await {
            Ok(reply) => {
                return Ok(Identity {
                    se_uuid: reply.se_uuid,
                    key_pem: key.serialize_pem(),
                    certificate_pem: reply.certificate_pem,
                    ca_pem: reply.ca_pem,
                });
            }
            Err(JoinError::Refused(why)) => bail!("{controller} refuses the join: {why}"),
            Err(JoinError::Unreachable(error)) => {
                tracing::warn!(controller, error = format!("{error:#}"), "cannot join yet");
                tokio::time::sleep(JOIN_RETRY).await;
            }
        }
    }
    bail!("no controller is named")
}

enum JoinError {
    Refused(String),
    Unreachable(anyhow::Error),
}

async fn join_at(
    controller: &str,
    token: &JoinToken,
    message: JoinRequest,
) -> Result<proto::v1::JoinReply, JoinError> {
    let channel = connect(controller, tls(&token.ca_pem))
        .await
        .map_err(JoinError::Unreachable)?;
    match EngineControlClient::new(channel).join(message).await {
        Ok(reply) => Ok(reply.into_inner()),
        Err(status)
            if matches!(
                status.code(),
                tonic::Code::PermissionDenied | tonic::Code::InvalidArgument
            ) =>
        {
            Err(JoinError::Refused(status.message().to_owned()))
        }
        Err(status) => Err(JoinError::Unreachable(anyhow::anyhow!(
            "{}",
            status.message()
        ))),
    }
}
