//! A controller for one engine, in the engine's namespace: it makes the engine's identity, tells it what to announce and
//! hears its reports. Driven by lines on standard input like [`crate::member`]; the pool's servers listen here too.
//!
//! Each VIP is a virtual service with a pool, a server and a TCP health monitor, as an operator would have it. One more,
//! outside of what is measured, is there all the time: without any, an engine has no session. A [`Placement`] is a VIP
//! that several engines hold, with servers of its own.

use crate::member::{self, Input, Status};
use crate::placement::{Placement, se_uuid, server, vsvip};
use anyhow::{Context, Result};
use proto::v1::engine_control_server::{EngineControl, EngineControlServer};
use proto::v1::{
    self, ControllerMessage, DesiredState, EngineMessage, JoinReply, JoinRequest, Report,
    controller_message, engine_message,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Streaming};

/// Where the engine dials.
pub(crate) const ADDRESS: &str = "127.0.0.1:8443";

/// Of the server that listens here, behind all addresses.
pub(crate) const SERVER_PORT: u16 = 8080;
/// Where the pool of announced VIPs looks for it.
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, SERVER_PORT);
/// What the server reads at once.
const MESSAGE_MAX: usize = 2048;
const PORT: u32 = 80;

/// What the engine wants to find in the controller's certificate.
const SERVER_NAME: &str = "controller.evenkeel.internal";
const POOL: &str = "pool-1";
/// Of a [`Placement`].
const PLACED_POOL: &str = "pool-2";
const MONITOR: &str = "healthmonitor-1";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of the engine in the network.
    engine: usize,
    /// The engine's folder.
    state_dir: PathBuf,
    /// BFD in milliseconds, times three.
    #[arg(long)]
    bfd: Option<u32>,
    /// Announce these from the start.
    #[arg(long, num_args = 2, value_names = ["FIRST", "COUNT"])]
    announce: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    member::on_one_thread(serve(args))
}

async fn serve(args: &Args) -> Result<()> {
    let listener = TcpListener::bind(ADDRESS).await?;
    let server = TcpListener::bind((Ipv4Addr::UNSPECIFIED, SERVER_PORT)).await?;
    let tls = credentials(&args.state_dir, &se_uuid(args.engine))?;
    let mut state = State::new(args);
    if let [first, count] = args.announce.as_slice() {
        state.announce(&member::addresses(first, count)?);
    }
    let (desired, receiver) = watch::channel(state.desired.clone());
    let heard = Arc::new(Mutex::new(Heard::default()));
    let control = Control {
        desired: receiver,
        heard: heard.clone(),
    };
    let serving = Server::builder()
        .tcp_nodelay(true)
        .tls_config(tls)?
        .add_service(EngineControlServer::new(control))
        .serve_with_incoming(TcpListenerStream::new(listener));
    cli::out!("ready");
    tokio::select! {
        ended = serving => ended.context("the stand-in controller"),
        ended = answer(server) => ended,
        ended = obey(state, &desired, &heard) => ended,
    }
}

/// The pool's server: what it hears it says back, until the other side is done.
async fn answer(server: TcpListener) -> Result<()> {
    loop {
        let (stream, _) = server.accept().await?;
        // Ends with its connection.
        drop(tokio::spawn(echo(stream)));
    }
}

/// No buffer while nothing is heard: there may be many of them.
async fn echo(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        stream.readable().await?;
        let heard = {
            let mut buffer = [0; MESSAGE_MAX];
            match stream.try_read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => buffer[..length].to_vec(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
        };
        say(&stream, &heard).await?;
    }
}

async fn say(stream: &TcpStream, mut words: &[u8]) -> std::io::Result<()> {
    while !words.is_empty() {
        stream.writable().await?;
        match stream.try_write(words) {
            Ok(said) => words = &words[said..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn obey(
    mut state: State,
    desired: &watch::Sender<DesiredState>,
    heard: &Mutex<Heard>,
) -> Result<()> {
    let mut lines = member::input();
    while let Some(line) = lines.recv().await {
        match Input::parse(&line)? {
            Input::Announce(vips) => state.announce(&vips),
            Input::Withdraw => state.announce(&[]),
            Input::Place(placement) => state.place(&placement),
            Input::Status => {
                cli::out!("{}", serde_json::to_string(&lock(heard).status())?);
                continue;
            }
            Input::InForce => {
                let in_force = lock(heard).acknowledged >= state.desired.generation;
                cli::out!("{in_force}");
                continue;
            }
        }
        desired.send_replace(state.desired.clone());
    }
    Ok(())
}

/// What the engine shall do, generation by generation.
struct State {
    engine: usize,
    resident: Ipv4Addr,
    desired: DesiredState,
}

impl State {
    fn new(args: &Args) -> Self {
        let engine = u8::try_from(args.engine).expect("a network has fewer than 256 engines");
        let mut state = Self {
            engine: args.engine,
            resident: Ipv4Addr::new(10, 98, engine, 1),
            desired: DesiredState {
                se_name: format!("se-{engine}"),
                se_uuid: se_uuid(args.engine),
                vrf: Some(vrf(args.bfd)),
                pools: vec![pool(POOL, &[SERVER])],
                health_monitors: vec![monitor()],
                ..DesiredState::default()
            },
        };
        state.announce(&[]);
        state
    }

    /// The VIP instead of those before, with its group and its servers.
    fn place(&mut self, placement: &Placement) {
        self.announce(&[placement.vip]);
        let vsvip = vsvip(placement.vip);
        let services = self.desired.virtual_services.iter_mut();
        for service in services.filter(|service| service.vsvip_uuid == vsvip) {
            PLACED_POOL.clone_into(&mut service.pool_uuid);
        }
        let placed = pool(PLACED_POOL, &placement.servers);
        self.desired.pools = vec![pool(POOL, &[SERVER]), placed];
        placement.steer(self.engine, &mut self.desired);
    }

    fn announce(&mut self, vips: &[Ipv4Addr]) {
        let all = || std::iter::once(&self.resident).chain(vips);
        self.desired.vips = all().map(vip).collect();
        self.desired.virtual_services = all().map(service).collect();
        self.desired.generation += 1;
    }
}

fn vrf(bfd: Option<u32>) -> v1::Vrf {
    v1::Vrf {
        uuid: "vrfcontext-1".to_owned(),
        name: "global".to_owned(),
        bgp: Some(member::profile(bfd.is_some())),
        bfd: bfd.map(member::bfd_profile),
        static_routes: Vec::new(),
    }
}

fn vip(address: &Ipv4Addr) -> v1::Vip {
    v1::Vip {
        vsvip_uuid: vsvip(*address),
        vip_id: "1".to_owned(),
        address: address.to_string(),
        ..v1::Vip::default()
    }
}

fn service(address: &Ipv4Addr) -> v1::VirtualService {
    v1::VirtualService {
        uuid: format!("virtualservice-{address}"),
        name: format!("vs-{address}"),
        vsvip_uuid: vsvip(*address),
        ports: vec![v1::PortRange {
            first: PORT,
            last: PORT,
            ..v1::PortRange::default()
        }],
        pool_uuid: POOL.to_owned(),
        enabled: true,
        enable_rhi: true,
        flow_hints: true,
        flow_probes: true,
        ..v1::VirtualService::default()
    }
}

fn pool(uuid: &str, servers: &[SocketAddrV4]) -> v1::Pool {
    v1::Pool {
        uuid: uuid.to_owned(),
        name: uuid.to_owned(),
        servers: servers.iter().copied().map(server).collect(),
        lb_algorithm: v1::LbAlgorithm::LeastConnections.into(),
        health_monitor_uuids: vec![MONITOR.to_owned()],
        enabled: true,
        ..v1::Pool::default()
    }
}

fn monitor() -> v1::HealthMonitor {
    v1::HealthMonitor {
        uuid: MONITOR.to_owned(),
        name: "tcp".to_owned(),
        send_interval_s: 10,
        receive_timeout_s: 4,
        successful_checks: 2,
        failed_checks: 2,
        monitor_port: 0,
        kind: Some(v1::health_monitor::Kind::Tcp(v1::TcpMonitor::default())),
    }
}

/// The controller's side of the stream.
struct Control {
    desired: watch::Receiver<DesiredState>,
    heard: Arc<Mutex<Heard>>,
}

/// Of the engine that is connected.
#[derive(Debug, Default)]
struct Heard {
    /// The newest one.
    report: Report,
    /// Generation of the desired state that is in force.
    acknowledged: u64,
}

impl Heard {
    fn status(&self) -> Status {
        let report = &self.report;
        Status {
            report: report.sequence,
            copies_per_s: report.steering.as_ref().map_or(0, |s| s.probe_copies_per_s),
            bfd_downs: report.bfd_sessions.iter().map(|s| s.times_down).sum(),
            ..Status::of(report.bgp_sessions.first().cloned())
        }
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[tonic::async_trait]
impl EngineControl for Control {
    async fn join(&self, _: Request<JoinRequest>) -> tonic::Result<Response<JoinReply>> {
        Err(tonic::Status::unimplemented("the engine has joined"))
    }

    type SessionStream = ReceiverStream<tonic::Result<ControllerMessage>>;

    async fn session(
        &self,
        request: Request<Streaming<EngineMessage>>,
    ) -> tonic::Result<Response<Self::SessionStream>> {
        let (outbox, messages) = mpsc::channel(1);
        *lock(&self.heard) = Heard::default();
        tokio::spawn(hear(request.into_inner(), self.heard.clone()));
        tokio::spawn(tell(self.desired.clone(), outbox));
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

/// Ends with the engine's session.
async fn hear(mut inbox: Streaming<EngineMessage>, heard: Arc<Mutex<Heard>>) {
    while let Ok(Some(message)) = inbox.message().await {
        match message.body {
            Some(engine_message::Body::Report(report)) => lock(&heard).report = report,
            Some(engine_message::Body::Ack(ack)) => lock(&heard).acknowledged = ack.generation,
            Some(engine_message::Body::Nack(nack)) => {
                cli::note!("refused: {}: {}", nack.field, nack.reason);
            }
            _ => {}
        }
    }
}

/// Ends with the engine's session.
async fn tell(
    mut desired: watch::Receiver<DesiredState>,
    outbox: mpsc::Sender<tonic::Result<ControllerMessage>>,
) {
    desired.mark_changed();
    while desired.changed().await.is_ok() {
        let state = desired.borrow_and_update().clone();
        let body = Some(controller_message::Body::DesiredState(state));
        if outbox.send(Ok(ControllerMessage { body })).await.is_err() {
            return;
        }
    }
}

/// Gives the engine an identity, as if it had joined, and makes our own.
fn credentials(state_dir: &Path, se_uuid: &str) -> Result<ServerTlsConfig> {
    let ca_key = KeyPair::generate()?;
    let mut ca = certificate("ca")?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);
    let signed = |name: &str| -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let signed = certificate(name)?.signed_by(&key, &issuer)?;
        Ok((signed.pem(), key.serialize_pem()))
    };
    let (engine, engine_key) = signed(se_uuid)?;
    for (name, text) in [
        ("ca.pem", ca_pem.as_str()),
        ("cert.pem", &engine),
        ("key.pem", &engine_key),
        ("se-uuid", se_uuid),
    ] {
        std::fs::write(state_dir.join(name), text)?;
    }
    let (ours, our_key) = signed(SERVER_NAME)?;
    Ok(ServerTlsConfig::new()
        .identity(Identity::from_pem(ours, our_key))
        .client_ca_root(Certificate::from_pem(ca_pem)))
}

fn certificate(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, name);
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - time::Duration::hours(1);
    params.not_after = now + time::Duration::days(30);
    Ok(params)
}

/// The path of `evenkeel`, which is built beside this program.
pub(crate) fn product() -> Result<String> {
    let program = std::env::current_exe()?.with_file_name("evenkeel");
    anyhow::ensure!(
        program.exists(),
        "{} is not there: run `make build`",
        program.display()
    );
    Ok(program.display().to_string())
}

/// How an engine is started that shall be told by this controller.
pub(crate) fn engine_command(engine: usize, state_dir: &Path) -> Result<Vec<String>> {
    let words = [
        &product()?,
        "engine",
        "--controllers",
        ADDRESS,
        "--name",
        &format!("se-{engine}"),
        "--state-dir",
        &state_dir.display().to_string(),
    ];
    Ok(words.map(str::to_owned).to_vec())
}
