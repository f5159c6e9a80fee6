//! The stream to a controller: desired state in, reports out. It is opened again for as long as the engine runs;
//! nothing that serves traffic waits for it.

use crate::args::Settings;
use crate::identity::Identity;
use crate::last_state::LastState;
use crate::net::Net;
use crate::validate;
use proto::PROTOCOL_VERSION;
use proto::v1::engine_control_client::EngineControlClient;
use proto::v1::{
    Ack, DesiredState, EngineMessage, Hello, Nack, RenewRequest, Report, controller_message,
    engine_message,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Pause before the first attempt to reconnect; it doubles up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How often the certificate's age is looked at.
const RENEWAL_CHECK: Duration = Duration::from_secs(3600);
/// Messages that wait for the controller. Answers are few; a report that finds no room is made again later.
const QUEUE_LEN: usize = 16;

/// What a session needs; it outlives them all.
pub(crate) struct Agent {
    pub settings: Settings,
    pub identity: Identity,
    pub last_state: LastState,
    pub net: Arc<Net>,
    pub desired: watch::Sender<Arc<DesiredState>>,
    pub reports: watch::Receiver<Report>,
    pub boot_id: String,
}

impl Agent {
    /// Dials the controllers in turn, for ever. Cancelling it closes the session, which is all it holds.
    pub(crate) async fn run(mut self) {
        let mut pause = RETRY_FIRST;
        for controller in self.settings.controllers.clone().iter().cycle() {
            match self.session(controller).await {
                Ok(()) => {
                    tracing::info!(controller, "the controller closed the session");
                    pause = RETRY_FIRST;
                }
                Err(error) => tracing::warn!(
                    controller,
                    error = format!("{error:#}"),
                    "no session with the controller; serving goes on"
                ),
            }
            // Half to full pause, so that many engines do not come at once.
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn session(&mut self, controller: &str) -> anyhow::Result<()> {
        let channel = self.identity.connect(controller).await?;
        let (outbox, queue) = mpsc::channel(QUEUE_LEN);
        outbox
            .send(message(engine_message::Body::Hello(self.hello())))
            .await?;
        let stream = EngineControlClient::new(channel)
            .session(ReceiverStream::new(queue))
            .await;
        let inbox = stream
            .map_err(|s| anyhow::anyhow!("{}", s.message()))?
            .into_inner();
        tracing::info!(controller, "session with the controller");
        self.talk(inbox, outbox).await
    }

    fn hello(&self) -> Hello {
        Hello {
            protocol_version: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").into(),
            name: self.settings.name.clone(),
            applied_generation: self.desired.borrow().generation,
            interfaces: self.net.interfaces().borrow().clone(),
            boot_id: self.boot_id.clone(),
        }
    }

    async fn talk(
        &mut self,
        mut inbox: Streaming<proto::v1::ControllerMessage>,
        outbox: mpsc::Sender<EngineMessage>,
    ) -> anyhow::Result<()> {
        self.reports.mark_changed();
        let mut renewal = tokio::time::interval(RENEWAL_CHECK);
        loop {
            // Each branch is a receive or a tick: losing the race loses nothing.
            tokio::select! {
                received = inbox.message() => match received.map_err(|s| anyhow::anyhow!("{}", s.message()))? {
                    Some(message) => self.take(message.body, &outbox).await?,
                    None => return Ok(()),
                },
                changed = self.reports.changed() => {
                    changed?;
                    let report = self.reports.borrow_and_update().clone();
                    outbox.send(message(engine_message::Body::Report(report))).await?;
                }
                _ = renewal.tick() => if self.identity.wants_renewal() {
                    let request = RenewRequest { csr_pem: self.identity.renewal()? };
                    outbox.send(message(engine_message::Body::Renew(request))).await?;
                },
            }
        }
    }

    async fn take(
        &mut self,
        body: Option<controller_message::Body>,
        outbox: &mpsc::Sender<EngineMessage>,
    ) -> anyhow::Result<()> {
        match body {
            Some(controller_message::Body::DesiredState(state)) => {
                let answer = self.accept(state);
                outbox.send(message(answer)).await?;
            }
            Some(controller_message::Body::Certificate(certificate)) => {
                self.identity
                    .renewed(certificate.certificate_pem, &self.settings.state_dir)?;
                tracing::info!("certificate renewed");
            }
            None => {}
        }
        Ok(())
    }

    /// All of it, durable and handed on, or none of it with the reason.
    fn accept(&self, state: DesiredState) -> engine_message::Body {
        let generation = state.generation;
        let nack = |field: String, reason: String| {
            tracing::warn!(generation, field, reason, "desired state refused");
            engine_message::Body::Nack(Nack {
                generation,
                field,
                reason,
            })
        };
        if let Err(refusal) = validate::validate(&state, &self.net.interfaces().borrow()) {
            return nack(refusal.field, refusal.reason);
        }
        if **self.desired.borrow() != state {
            if let Err(error) = self.last_state.save(&state) {
                return nack(
                    "state_dir".into(),
                    format!("the last good state cannot be written: {error:#}"),
                );
            }
            tracing::info!(generation, "desired state taken over");
            self.desired.send_replace(Arc::new(state));
        }
        engine_message::Body::Ack(Ack { generation })
    }
}

fn message(body: engine_message::Body) -> EngineMessage {
    EngineMessage { body: Some(body) }
}
