//! The gRPC service that engines dial: join without a certificate, everything else with one.

use super::ca::{self, Ca};
use super::outbox::{Messages, Outbox, WeakOutbox};
use super::{Registry, join};
use crate::api::singleton;
use crate::connections::{self, Connections};
use crate::objects::{Objects, Snapshot};
use anyhow::Context as _;
use futures_util::StreamExt as _;
use futures_util::future::ready;
use proto::v1::engine_control_server::{EngineControl, EngineControlServer};
use proto::v1::{
    Certificate, EngineMessage, Hello, JoinReply, JoinRequest, controller_message, engine_message,
};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate as TlsCertificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

/// A vanished engine is noticed after interval + timeout.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Who connects and says nothing has his place for so long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest message of an engine: a report of 5,000 pools with four servers that two monitors check each is about 7 MB. Strangers may
/// send a request to join of this length, too.
const REPORT_LEN_MAX: usize = 16 << 20;

/// The last word of a controller to its engines.
const STOPS: &str = "this controller stops or does not lead any more";

struct Service {
    ca: Arc<Ca>,
    objects: Arc<Objects>,
    registry: Arc<Registry>,
    stop: CancellationToken,
}

/// Where engines dial.
///
/// # Errors
/// The address is taken.
pub fn bind(listen: SocketAddr) -> anyhow::Result<TcpIncoming> {
    let listener = connections::listen(listen);
    let listener = listener.with_context(|| format!("cannot serve engines on {listen}"))?;
    Ok(TcpIncoming::from(listener).with_nodelay(Some(true)))
}

/// Serves engines until `stop` is cancelled, which ends their sessions, too.
///
/// # Errors
/// The certificate authority has no identity for us, or the listener ended.
pub async fn serve(
    incoming: TcpIncoming,
    ca: Arc<Ca>,
    objects: Arc<Objects>,
    registry: Arc<Registry>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (cert, key) = ca.server_identity()?;
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(cert, key))
        .client_ca_root(TlsCertificate::from_pem(ca.pem()))
        .client_auth_optional(true)
        .timeout(HANDSHAKE_TIMEOUT);
    let service = Service {
        ca,
        objects,
        registry,
        stop: stop.clone(),
    };
    let connections = Connections::of_engines();
    // One that is gone or one too many is no error of the listener.
    let counted = incoming.filter_map(move |accepted| {
        ready(match accepted {
            Ok(stream) => connections.count(stream).ok().map(Ok),
            Err(error) => Some(Err(error)),
        })
    });
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .tls_config(tls)?
        .add_service(EngineControlServer::new(service).max_decoding_message_size(REPORT_LEN_MAX))
        .serve_with_incoming_shutdown(counted, stop.cancelled_owned())
        .await
        .context("the engines' listener ended")
}

#[tonic::async_trait]
impl EngineControl for Service {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let request = request.into_inner();
        let refuse = |e: crate::error::ApiError| {
            tracing::warn!(se = request.name, reason = e.text, "join refused");
            Status::permission_denied(e.text)
        };
        if request.name.is_empty() {
            return Err(Status::invalid_argument(
                "name: is required; give the engine a name",
            ));
        }
        let se_uuid = join::redeem(&self.objects, &request)
            .await
            .map_err(refuse)?;
        let life_h = singleton::se_certificate_lifetime_h(&self.objects.snapshot());
        let signed = self.ca.sign_engine(&request.csr_pem, &se_uuid, life_h);
        let certificate_pem = signed.map_err(|e| Status::invalid_argument(format!("{e:#}")))?;
        tracing::info!(se = request.name, uuid = se_uuid, "engine joined");
        Ok(Response::new(JoinReply {
            se_uuid,
            certificate_pem,
            ca_pem: self.ca.pem().to_owned(),
        }))
    }

    type SessionStream = Messages;

    async fn session(
        &self,
        request: Request<Streaming<EngineMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let certs = request
            .peer_certs()
            .ok_or_else(|| Status::unauthenticated("a client certificate is needed; join first"))?;
        let se = certs
            .first()
            .and_then(|c| ca::common_name(c))
            .ok_or_else(|| Status::unauthenticated("the certificate has no name"))?;
        // From here on no deletion is missed.
        let objects = self.objects.changed();
        let gone = gone(&objects.borrow(), &se);
        if let Some(why) = gone {
            tracing::warn!(uuid = se, "an engine that was deleted asks for a session");
            return Err(Status::permission_denied(why));
        }
        let (outbox, messages) = Outbox::new();
        let session = Session {
            ca: self.ca.clone(),
            registry: self.registry.clone(),
            objects,
            se,
            outbox,
            stop: self.stop.clone(),
        };
        tokio::spawn(session.run(request.into_inner()));
        Ok(Response::new(messages))
    }
}

/// One engine's session. It ends with its stream, which the transport ends when the engine vanishes.
struct Session {
    ca: Arc<Ca>,
    registry: Arc<Registry>,
    objects: watch::Receiver<Arc<Snapshot>>,
    se: String,
    outbox: Outbox,
    stop: CancellationToken,
}

impl Session {
    async fn run(self, mut inbox: Streaming<EngineMessage>) {
        let hello = match inbox.message().await {
            Ok(Some(EngineMessage {
                body: Some(engine_message::Body::Hello(hello)),
            })) => hello,
            _ => return,
        };
        if let Some(refusal) = too_old(&hello) {
            tracing::warn!(
                se = hello.name,
                uuid = self.se,
                reason = refusal,
                "engine session refused"
            );
            self.registry.refused(&self.se);
            // Its queue is empty, so that there is a place; should the engine be gone, nobody needs to know.
            self.outbox.end(Status::failed_precondition(refusal)).ok();
            return;
        }
        tracing::info!(
            se = hello.name,
            uuid = self.se,
            generation = hello.applied_generation,
            "engine session opened"
        );
        let Self {
            ca,
            registry,
            mut objects,
            se,
            outbox,
            stop,
        } = self;
        // The registry holds the only long-lived outbox: a newer session drops it, and the stream ends.
        let weak = outbox.downgrade();
        let number = registry.open(&se, hello, outbox);
        let why = loop {
            // Each branch is a receive: losing the race loses nothing.
            tokio::select! {
                received = inbox.message() => match received {
                    Ok(Some(message)) => {
                        let life_h = singleton::se_certificate_lifetime_h(&objects.borrow());
                        take(&Peer { ca: &ca, registry: &registry, se: &se, session: number, life_h }, &weak, message);
                    }
                    Ok(None) => {
                        break "the session ended: the engine stopped or does not answer".to_owned();
                    }
                    Err(status) => break format!("the session broke: {}", status.message()),
                },
                () = stop.cancelled() => {
                    say(&weak, Status::unavailable(STOPS));
                    break STOPS.to_owned();
                }
                Ok(()) = objects.changed() => {
                    let gone = gone(&objects.borrow_and_update(), &se);
                    if let Some(why) = gone {
                        say(&weak, Status::permission_denied(&why));
                        break why;
                    }
                }
            }
        };
        registry.close(&se, number, &why);
    }
}

/// Why an engine that would misunderstand its desired state gets none.
fn too_old(hello: &Hello) -> Option<String> {
    let (version, min) = (hello.protocol_version, proto::PROTOCOL_VERSION_MIN);
    (version < min).then(|| {
        format!(
            "the engine speaks version {version} of the protocol and this controller needs {min}: upgrade the engine (it is {}); until then it serves what it has",
            hello.version
        )
    })
}

/// Why an engine is not talked to although its certificate is good: it was deleted.
fn gone(objects: &Snapshot, se: &str) -> Option<String> {
    let is_there = objects.get("serviceengine", se).is_some();
    (!is_there).then(|| {
        format!(
            "{se} is not known here: it was deleted, and its certificate is revoked; join again with a new token \
             (`evenkeel jointoken create`)"
        )
    })
}

/// The last word to an engine; a queue that is full loses it, and the end of the stream follows anyway.
fn say(outbox: &WeakOutbox, status: Status) {
    if let Some(outbox) = outbox.upgrade() {
        outbox.end(status).ok();
    }
}

/// With whom a session is, and what for.
struct Peer<'a> {
    ca: &'a Ca,
    registry: &'a Registry,
    se: &'a str,
    session: u64,
    /// Hours that a renewed certificate is good.
    life_h: u64,
}

fn take(peer: &Peer<'_>, outbox: &WeakOutbox, message: EngineMessage) {
    use engine_message::Body;
    let Peer {
        ca,
        registry,
        se,
        session,
        life_h,
    } = *peer;
    match message.body {
        Some(Body::Ack(ack)) => registry.acked(se, session, ack.generation),
        Some(Body::Nack(nack)) => registry.nacked(se, session, nack),
        Some(Body::Report(report)) => registry.reported(se, session, report),
        Some(Body::FlowAnswer(answer)) => registry.answered(se, answer),
        Some(Body::HostAnswer(answer)) => registry.answered_host(se, answer),
        Some(Body::Renew(renew)) => match ca.sign_engine(&renew.csr_pem, se, life_h) {
            Err(error) => {
                tracing::warn!(se, error = format!("{error:#}"), "certificate not renewed")
            }
            Ok(certificate_pem) => {
                let body = controller_message::Body::Certificate(Certificate { certificate_pem });
                // A full queue loses it; the engine asks again.
                if let Some(outbox) = outbox.upgrade() {
                    outbox.send(body).ok();
                }
            }
        },
        Some(Body::Hello(_)) | None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_would_misunderstand_its_state_is_told_to_upgrade() {
        let hello = |protocol_version| Hello {
            protocol_version,
            version: "0.0.9".into(),
            ..Hello::default()
        };
        let refusal = too_old(&hello(proto::PROTOCOL_VERSION_MIN - 1)).expect("refused");
        assert!(
            refusal.contains("upgrade the engine (it is 0.0.9)"),
            "{refusal}"
        );
        assert_eq!(too_old(&hello(proto::PROTOCOL_VERSION)), None);
    }
}
