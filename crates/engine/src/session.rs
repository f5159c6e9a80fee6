//! The stream to a controller: desired state in, reports out. It is opened again for as long as the engine runs;
//! nothing that serves traffic waits for it.

use crate::args::Settings;
use crate::flows::Flows;
use crate::host;
use crate::identity::{self, Identity, JoinError};
use crate::last_state::LastState;
use crate::steering::Plan;
use crate::{resources, validate};
use anyhow::Context as _;
use proto::PROTOCOL_VERSION;
use proto::v1::engine_control_client::EngineControlClient;
use proto::v1::{
    Ack, ControllerMessage, DesiredState, EngineMessage, FlowQuery, Hello, HostQuery, Interface,
    Management, Nack, RenewRequest, Report, controller_message::Body, engine_message,
};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

/// Pause before the first attempt to reconnect; it doubles up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How long a controller may take to take a session.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// The certificate's age is looked at again at least this often: the host may have slept meanwhile.
const RENEWAL_CHECK: Duration = Duration::from_secs(3600);
/// How often it is said that the certificate has expired.
const EXPIRY_SAID: Duration = Duration::from_secs(60);
/// How soon a renewal without an answer is asked for again.
const RENEWAL_RETRY: Duration = Duration::from_secs(60);
/// An acknowledgement waits for steering no longer than this: the controller does not wait longer either.
const STEERING_WAIT: Duration = Duration::from_millis(400);
/// The largest desired state: thousands of virtual services, each with a certificate and its chain.
const STATE_LEN_MAX: usize = 64 << 20;
/// Messages that wait for the controller. Answers may wait; a report waits where the next one replaces it.
const QUEUE_LEN: usize = 1;

/// What a session needs; it outlives them all.
pub(crate) struct Agent {
    pub settings: Settings,
    pub identity: Identity,
    pub last_state: LastState,
    pub interfaces: watch::Receiver<Vec<Interface>>,
    pub desired: watch::Sender<Arc<DesiredState>>,
    pub reports: watch::Receiver<Report>,
    /// Whether there is a session now.
    pub connected: watch::Sender<bool>,
    /// The plan that is in force.
    pub steering: watch::Receiver<Arc<Plan>>,
    /// Answers questions about flows.
    pub flows: Flows,
    /// Cancelled when the process is to start anew.
    pub again: CancellationToken,
    pub boot_id: String,
    /// id of the join token that a controller has refused.
    pub refused_token: Option<String>,
    /// When it was last said that the certificate has expired.
    pub expiry_said: Option<Instant>,
}

impl Agent {
    /// Dials the controllers in turn, for ever. Cancelling it closes the session, which is all it holds: a desired
    /// state is durable before it is handed on, and both happen between the awaits.
    pub(crate) async fn run(mut self) {
        let mut pause = RETRY_FIRST;
        for controller in self.settings.controllers.clone().iter().cycle() {
            if self.identity.expired(SystemTime::now()) {
                self.join_again().await;
            }
            let mut opened = false;
            let result = self.session(controller, &mut opened).await;
            if opened {
                pause = RETRY_FIRST;
            }
            match result {
                Ok(()) => tracing::info!(
                    controller,
                    "the controller closed the session; serving goes on"
                ),
                Err(error) => tracing::warn!(
                    controller,
                    error = format!("{error:#}"),
                    "no session with the controller; serving goes on"
                ),
            }
            // Half to full pause, so that many engines do not come at once.
            sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// With an expired certificate no controller talks to us. A new token, put where the old one was, mends that without a
    /// restart; until there is one, what is served goes on.
    async fn join_again(&mut self) {
        let token = self.settings.join_token().ok();
        let Some(token) = token.filter(|t| self.refused_token.as_ref() != Some(&t.id)) else {
            if self
                .expiry_said
                .is_none_or(|at| at.elapsed() >= EXPIRY_SAID)
            {
                self.expiry_said = Some(Instant::now());
                tracing::error!(
                    se = self.settings.name,
                    "the engine's certificate has expired: no controller talks to it, serving goes on; make a new join token \
                     (`evenkeel jointoken create`) and put it into the engine's --join-token-file, which is read again"
                );
            }
            return;
        };
        let interfaces = self.interfaces.borrow().clone();
        match identity::join(&self.settings, &token, interfaces).await {
            Ok(identity) => self.identity = identity,
            // Tried again, with the token that is there then.
            Err(JoinError::Unreachable(_)) => {}
            Err(JoinError::Refused(error)) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the engine's certificate has expired and it cannot join again with this token; serving goes on"
                );
                self.refused_token = Some(token.id);
            }
        }
    }

    async fn session(&mut self, controller: &str, opened: &mut bool) -> anyhow::Result<()> {
        let (channel, ends) = self.identity.connect(controller).await?;
        let (outbox, queue) = mpsc::channel(QUEUE_LEN);
        let management = match ends {
            Some(ends) => Some(host::management(ends).await),
            None => None,
        };
        let hello = engine_message::Body::Hello(self.hello(management));
        outbox.send(message(hello)).await?;
        let client = EngineControlClient::new(channel);
        let mut client = client.max_decoding_message_size(STATE_LEN_MAX);
        let stream = timeout(OPEN_TIMEOUT, client.session(ReceiverStream::new(queue)));
        let stream = stream.await.context("no answer in time")?;
        let inbox = stream.map_err(said)?.into_inner();
        tracing::info!(controller, "session with the controller");
        *opened = true;
        self.connected.send_replace(true);
        let ended = self.talk(inbox, outbox).await;
        self.connected.send_replace(false);
        ended
    }

    fn hello(&self, management: Option<Management>) -> Hello {
        Hello {
            protocol_version: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").into(),
            name: self.settings.name.clone(),
            applied_generation: self.desired.borrow().generation,
            interfaces: self.interfaces.borrow().clone(),
            boot_id: self.boot_id.clone(),
            host: self.settings.host.clone(),
            resources: Some(resources::read(&self.settings.state_dir)),
            management,
        }
    }

    async fn talk(
        &mut self,
        mut inbox: Streaming<ControllerMessage>,
        outbox: mpsc::Sender<EngineMessage>,
    ) -> anyhow::Result<()> {
        // A new controller has heard nothing yet.
        self.reports.mark_changed();
        let mut renewal = pin!(sleep(self.renewal_in()));
        loop {
            // Each branch is a receive, a timer, or a place in the queue: losing the race loses nothing.
            tokio::select! {
                received = inbox.message() => match received.map_err(said)? {
                    Some(ControllerMessage { body: Some(Body::DesiredState(state)) }) => {
                        let answer = self.accept(state);
                        self.steered().await;
                        outbox.send(message(answer)).await?;
                    }
                    Some(ControllerMessage { body: Some(Body::Certificate(certificate)) }) => {
                        self.renew(certificate.certificate_pem);
                        renewal.as_mut().reset(Instant::now() + self.renewal_in().max(RENEWAL_RETRY));
                    }
                    Some(ControllerMessage { body: Some(Body::FlowQuery(query)) }) => {
                        self.ask(query, outbox.clone());
                    }
                    Some(ControllerMessage { body: Some(Body::HostQuery(query)) }) => {
                        self.ask_host(query, outbox.clone());
                    }
                    Some(ControllerMessage { body: Some(Body::Restart(_)) }) => {
                        tracing::info!("the controller asks for a start anew");
                        self.again.cancel();
                    }
                    // A newer controller's; what must not be ignored raises the protocol version.
                    Some(ControllerMessage { body: None }) => {}
                    None => return Ok(()),
                },
                // The report is read when there is a place for it, so that the newest goes.
                place = next_report(&mut self.reports, &outbox) => {
                    let report = self.reports.borrow_and_update().clone();
                    place?.send(message(engine_message::Body::Report(report)));
                }
                () = &mut renewal => {
                    let mut next = self.renewal_in();
                    if next.is_zero() {
                        let csr_pem = self.identity.renewal()?;
                        outbox.send(message(engine_message::Body::Renew(RenewRequest { csr_pem }))).await?;
                        next = RENEWAL_RETRY;
                    }
                    renewal.as_mut().reset(Instant::now() + next);
                }
            }
        }
    }

    /// The answer goes when it is there, and to nobody when the session has ended meanwhile.
    fn ask(&self, query: FlowQuery, outbox: mpsc::Sender<EngineMessage>) {
        let flows = Flows {
            se_uuid: self.desired.borrow().se_uuid.clone(),
            ..self.flows.clone()
        };
        tokio::spawn(async move {
            let answer = engine_message::Body::FlowAnswer(flows.answer(query).await);
            outbox.send(message(answer)).await.ok();
        });
    }

    /// The same, about the host's network.
    fn ask_host(&self, query: HostQuery, outbox: mpsc::Sender<EngineMessage>) {
        let filter = self.settings.interfaces.clone();
        tokio::spawn(async move {
            let answer = host::answer(query, &filter).await;
            let answer = engine_message::Body::HostAnswer(answer);
            outbox.send(message(answer)).await.ok();
        });
    }

    fn renewal_in(&self) -> Duration {
        self.identity
            .renewal_in(SystemTime::now())
            .min(RENEWAL_CHECK)
    }

    fn renew(&mut self, certificate_pem: String) {
        match self
            .identity
            .renewed(certificate_pem, &self.settings.state_dir)
        {
            Ok(()) => tracing::info!("certificate renewed"),
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "certificate not renewed");
            }
        }
    }

    /// Waits until the members of the groups are known here: an acknowledgement says so, and another engine waits for it.
    async fn steered(&mut self) {
        let generation = self.desired.borrow().generation;
        let in_force = self.steering.wait_for(|plan| plan.generation == generation);
        if timeout(STEERING_WAIT, in_force).await.is_err() {
            tracing::warn!(
                generation,
                "steering takes long to take over the groups; not waiting"
            );
        }
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
        if !state.se_uuid.is_empty() && state.se_uuid != self.identity.se_uuid {
            let ours = &self.identity.se_uuid;
            return nack("se_uuid".into(), format!("this engine is {ours}"));
        }
        if let Err(refusal) = validate::validate(&state, &self.interfaces.borrow()) {
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

/// A place in the queue for a report that has not been sent.
async fn next_report<'a>(
    reports: &mut watch::Receiver<Report>,
    outbox: &'a mpsc::Sender<EngineMessage>,
) -> anyhow::Result<mpsc::Permit<'a, EngineMessage>> {
    reports.changed().await?;
    // Marked again, because whoever waits may lose the race while the queue is full.
    reports.mark_changed();
    Ok(outbox.reserve().await?)
}

fn said(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}

#[cfg(test)]
mod tests;
