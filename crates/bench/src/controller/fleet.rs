//! Engine stubs: they join with a token, hold a session over mutual TLS, take every desired state over, acknowledge it and
//! report all of it as up, at the times at which an engine reports.

use super::process::Process;
use anyhow::{Context, Result, ensure};
use proto::join_token::JoinToken;
use proto::v1::engine_control_client::EngineControlClient;
use proto::v1::{
    self, Ack, ControllerMessage, DesiredState, EngineMessage, Hello, Interface, JoinRequest,
    Report, controller_message, engine_message,
};
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// What an engine wants to find in the controller's certificate.
const SERVER_NAME: &str = "controller.evenkeel.internal";
/// As an engine does it: soon after a change, and in between.
const REPORT_COALESCE: Duration = Duration::from_millis(50);
const REPORT_PERIOD: Duration = Duration::from_secs(5);
/// Pause between tries to get a session.
const RETRY: Duration = Duration::from_millis(200);
const QUEUE_LEN: usize = 4;
/// Longest wait for the controller to place, to tell, or to come back.
pub(super) const TIMEOUT: Duration = Duration::from_secs(300);
/// The router that all of them have, in the network of all of them.
pub(super) const ROUTER: &str = "10.99.255.254";
pub(super) const NETWORK: &str = "10.99.0.0";
pub(super) const PREFIX_LEN: u8 = 16;

/// What the stubs have.
#[derive(Default)]
struct Board {
    states: Vec<Arc<DesiredState>>,
    connected: Vec<bool>,
    /// States with fewer VIPs than the one before.
    losses: u64,
    /// How often a stub has lost its state.
    forgotten: u64,
}

impl Board {
    fn take(&mut self, number: usize, state: DesiredState) {
        let before = std::mem::replace(&mut self.states[number], Arc::new(state));
        self.losses += u64::from(self.states[number].vips.len() < before.vips.len());
    }
}

/// The board, and a bell that rings when it changes.
#[derive(Default)]
struct Shared {
    board: Mutex<Board>,
    bell: Condvar,
    /// Rings for the stub that is to lose its session and its state.
    forget: Notify,
    forgets: AtomicUsize,
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn told_to_forget(&self, number: usize) {
        loop {
            self.forget.notified().await;
            if self.forgets.load(Ordering::SeqCst) == number {
                return;
            }
        }
    }

    fn change(&self, f: impl FnOnce(&mut Board)) {
        f(&mut self.board());
        self.bell.notify_all();
    }
}

/// All stubs; they end when it is dropped.
pub(super) struct Fleet {
    shared: Arc<Shared>,
    _runtime: Runtime,
}

impl Fleet {
    /// Gets tokens, joins, and waits until every stub has a session.
    pub(super) fn join(process: &Process, count: usize) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let shared = Arc::new(Shared::default());
        shared.change(|board| {
            board.states = vec![Arc::default(); count];
            board.connected = vec![false; count];
        });
        let client = process.client()?;
        for number in 0..count {
            let asked = json!({"name": name(number)});
            let answer = client.post("/api/ek/jointoken", &asked)?;
            let token = answer["token"].as_str().context("no join token")?;
            let token = JoinToken::decode(token)?;
            let stub = runtime.block_on(Stub::join(number, process.engines(), &token))?;
            runtime.spawn(stub.run(shared.clone()));
        }
        let fleet = Self {
            shared,
            _runtime: runtime,
        };
        fleet.wait_for_sessions(TIMEOUT)?;
        Ok(fleet)
    }

    /// From now on no VIP is to be taken from a stub.
    pub(super) fn watch_for_losses(&self) {
        self.shared.change(|board| board.losses = 0);
    }

    /// A stub loses its session and its state; how long it takes until it has it again.
    pub(super) fn come_back_without_state(
        &self,
        number: usize,
        timeout: Duration,
    ) -> Result<Duration> {
        let (vips, before) = {
            let board = self.shared.board();
            (board.states[number].vips.len(), board.forgotten)
        };
        self.shared.forgets.store(number, Ordering::SeqCst);
        self.shared.forget.notify_waiters();
        let began = Instant::now();
        self.wait("an engine to lose its session", timeout, |board| {
            board.forgotten > before
        })?;
        self.wait_for("an engine to have its state again", timeout, |states| {
            states[number].vips.len() == vips
        })?;
        Ok(began.elapsed())
    }

    /// How often a stub was told of fewer VIPs than it had.
    pub(super) fn losses(&self) -> u64 {
        self.shared.board().losses
    }

    /// Waits until the stubs together have so many VIPs.
    pub(super) fn wait_for_vips(&self, count: usize) -> Result<()> {
        self.wait_for("all virtual services to be placed", TIMEOUT, |states| {
            states.iter().map(|s| s.vips.len()).sum::<usize>() == count
        })
    }

    /// Waits until every stub has a session.
    pub(super) fn wait_for_sessions(&self, timeout: Duration) -> Result<()> {
        self.wait("every engine to have a session", timeout, |board| {
            board.connected.iter().all(|c| *c)
        })
    }

    /// Waits until the stubs' desired states are so.
    pub(super) fn wait_for(
        &self,
        what: &str,
        timeout: Duration,
        is_so: impl Fn(&[Arc<DesiredState>]) -> bool,
    ) -> Result<()> {
        self.wait(what, timeout, |board| is_so(&board.states))
    }

    fn wait(&self, what: &str, timeout: Duration, is_so: impl Fn(&Board) -> bool) -> Result<()> {
        let until = Instant::now() + timeout;
        let mut board = self.shared.board();
        while !is_so(&board) {
            let left = until.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "waited {timeout:?} for {what}");
            let waited = self.shared.bell.wait_timeout(board, left);
            board = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

fn name(number: usize) -> String {
    format!("se-{number}")
}

/// One engine that has joined.
struct Stub {
    number: usize,
    endpoint: Endpoint,
    applied: u64,
}

impl Stub {
    async fn join(number: usize, controller: SocketAddr, token: &JoinToken) -> Result<Self> {
        let key = KeyPair::generate()?;
        let request = CertificateParams::default().serialize_request(&key)?;
        let tls = || {
            let ca = Certificate::from_pem(&token.ca_pem);
            ClientTlsConfig::new()
                .ca_certificate(ca)
                .domain_name(SERVER_NAME)
        };
        let endpoint = Endpoint::from_shared(format!("https://{controller}"))?.tcp_nodelay(true);
        let channel = endpoint.clone().tls_config(tls())?.connect().await?;
        let asked = JoinRequest {
            token_id: token.id.clone(),
            token_secret: token.secret.clone(),
            csr_pem: request.pem()?,
            name: name(number),
            interfaces: interfaces(number),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let answer = EngineControlClient::new(channel).join(asked).await?;
        let identity = Identity::from_pem(answer.into_inner().certificate_pem, key.serialize_pem());
        Ok(Self {
            number,
            endpoint: endpoint.tls_config(tls().identity(identity))?,
            applied: 0,
        })
    }

    /// Opens a session whenever there is none, for ever.
    async fn run(mut self, shared: Arc<Shared>) {
        loop {
            let number = self.number;
            tokio::select! {
                // Who waits for sessions says so when there is none.
                _ = self.session(&shared) => {
                    shared.change(|board| board.connected[number] = false);
                    tokio::time::sleep(RETRY).await;
                }
                () = shared.told_to_forget(number) => {
                    self.applied = 0;
                    shared.change(|board| {
                        board.connected[number] = false;
                        board.states[number] = Arc::default();
                        board.forgotten += 1;
                    });
                }
            }
        }
    }

    async fn session(&mut self, shared: &Shared) -> Result<()> {
        let channel: Channel = self.endpoint.connect().await?;
        let (outbox, queue) = mpsc::channel(QUEUE_LEN);
        let hello = hello(self.number, self.applied);
        outbox.send(say(engine_message::Body::Hello(hello))).await?;
        let mut client = EngineControlClient::new(channel);
        let inbox = client.session(ReceiverStream::new(queue)).await?;
        shared.change(|board| board.connected[self.number] = true);
        self.talk(inbox.into_inner(), outbox, shared).await
    }

    async fn talk(
        &mut self,
        mut inbox: Streaming<ControllerMessage>,
        outbox: mpsc::Sender<EngineMessage>,
        shared: &Shared,
    ) -> Result<()> {
        let mut next_report = tokio::time::Instant::now() + REPORT_COALESCE;
        loop {
            tokio::select! {
                received = inbox.message() => {
                    // Certificates and questions about flows are no part of what is measured.
                    let body = received?.context("the session ended")?.body;
                    if let Some(controller_message::Body::DesiredState(state)) = body {
                        let generation = state.generation;
                        self.applied = generation;
                        shared.change(|board| board.take(self.number, state));
                        outbox.send(say(engine_message::Body::Ack(Ack { generation }))).await?;
                        next_report = tokio::time::Instant::now() + REPORT_COALESCE;
                    }
                }
                () = tokio::time::sleep_until(next_report) => {
                    let state = shared.board().states[self.number].clone();
                    let report = report(self.number, &state);
                    outbox.send(say(engine_message::Body::Report(report))).await?;
                    next_report += REPORT_PERIOD;
                }
            }
        }
    }
}

fn say(body: engine_message::Body) -> EngineMessage {
    EngineMessage { body: Some(body) }
}

fn address(number: usize) -> String {
    format!("10.99.{}.{}", number / 250, number % 250 + 1)
}

/// What the engine of this number says first.
pub(super) fn hello(number: usize, applied_generation: u64) -> Hello {
    Hello {
        protocol_version: proto::PROTOCOL_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        name: name(number),
        applied_generation,
        interfaces: interfaces(number),
        boot_id: "1".to_owned(),
        ..Hello::default()
    }
}

fn interfaces(number: usize) -> Vec<Interface> {
    vec![Interface {
        name: "eth0".to_owned(),
        mac: format!("02:00:00:00:{:02x}:{:02x}", number / 256, number % 256),
        up: true,
        mtu: 1500,
        addresses: vec![format!("{}/{PREFIX_LEN}", address(number))],
        ..Interface::default()
    }]
}

/// All that the engine was told is up.
fn report(number: usize, state: &DesiredState) -> Report {
    Report {
        sequence: state.generation,
        applied_generation: state.generation,
        stats: Some(v1::EngineStats {
            rss_bytes: 20_000_000,
            uptime_s: 1,
            open_connections: 0,
            load: None,
        }),
        interfaces: interfaces(number),
        bgp_sessions: vec![session(number, state)],
        virtual_services: state.virtual_services.iter().map(service).collect(),
        pools: state.pools.iter().map(pool).collect(),
        vips: state.vips.iter().map(vip).collect(),
        ..Report::default()
    }
}

fn session(number: usize, state: &DesiredState) -> v1::BgpSession {
    let route = |vip: &v1::Vip| v1::BgpRoute {
        prefix: format!("{}/32", vip.address),
        next_hop: address(number),
        sent: true,
        ..v1::BgpRoute::default()
    };
    v1::BgpSession {
        peer: ROUTER.to_owned(),
        local_address: address(number),
        interface: "eth0".to_owned(),
        state: v1::BgpState::Established.into(),
        routes: state.vips.iter().map(route).collect(),
        condition: "established".to_owned(),
        ..v1::BgpSession::default()
    }
}

fn service(service: &v1::VirtualService) -> v1::VirtualServiceStatus {
    v1::VirtualServiceStatus {
        uuid: service.uuid.clone(),
        state: v1::OperState::Up.into(),
        ..v1::VirtualServiceStatus::default()
    }
}

fn pool(pool: &v1::Pool) -> v1::PoolStatus {
    let monitor = |uuid: &String| v1::MonitorStatus {
        uuid: uuid.clone(),
        state: v1::OperState::Up.into(),
        recent_response_time_ms: Some(1),
        average_response_time_ms: Some(1),
        ..v1::MonitorStatus::default()
    };
    let server = |server: &v1::Server| v1::ServerStatus {
        address: server.address.clone(),
        port: server.port,
        state: v1::OperState::Up.into(),
        monitors: pool.health_monitor_uuids.iter().map(monitor).collect(),
        ..v1::ServerStatus::default()
    };
    v1::PoolStatus {
        uuid: pool.uuid.clone(),
        state: v1::OperState::Up.into(),
        servers: pool.servers.iter().map(server).collect(),
    }
}

fn vip(vip: &v1::Vip) -> v1::VipStatus {
    v1::VipStatus {
        vsvip_uuid: vip.vsvip_uuid.clone(),
        vip_id: vip.vip_id.clone(),
        address: vip.address.clone(),
        announced: true,
        ..v1::VipStatus::default()
    }
}
