//! The controller: REST API, store, planner, and the sessions with the service engines.
//!
//! Tasks, all owned by [`Controller`], which ends them in this order when it is told to stop: the API's listener
//! (answers what it has begun), the reconciler (finishes its round), the one that waits for joins, the one that brings scale-outs and migrations to their ends, the one that scales by load, the one that reverts
//! what nobody confirmed, the one that compacts the log, the one that seals anew, the engines' listener, the one that writes
//! events down. Engines go on without us. A SIGKILL at any moment loses nothing that was acknowledged: the store is durable
//! before an answer leaves.

mod access;
mod alerts;
mod api;
mod args;
mod auth;
mod bootstrap;
mod clock;
mod cluster;
mod compact;
mod confirm;
mod connections;
mod door;
mod engines;
mod error;
mod events;
mod files;
mod health_score;
mod objects;
mod plan;
mod restore;
mod seal;
mod series;
mod witness;

pub use args::{Args, Command};
/// For measurements.
#[doc(hidden)]
pub use plan::Scratch;

use crate::connections::Connections;
use alerts::Alerts;
use anyhow::Context as _;
use args::Settings;
use auth::{Auth, Password};
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use cluster::Nodes;
use engines::Registry;
use engines::ca::Ca;
use events::journal::Journal;
use events::{Events, Watchman};
use objects::Objects;
use plan::{Backend, Planner};
use series::Series;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long a connection may be without the head of a request, the first or the next one.
const HEAD_WAIT: Duration = Duration::from_secs(60);
/// Characters of a password that we make up: 120 bits.
const MADE_UP_LEN: usize = 20;

/// Runs the controller until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot start (the data folder, an address or a setting is at fault), or a listener ended.
pub fn run(mut args: Args) -> anyhow::Result<()> {
    if let Some(command) = args.command.take() {
        return restore::run(&command, &args.place()?);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (stop, settings) = (told_to_stop()?, args.settle()?);
        match settings.shared {
            Some(_) => cluster::run(settings, stop).await,
            None => Controller::alone(&settings).await?.run_until(stop).await,
        }
    })
}

fn told_to_stop() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// A controller that runs. Dropped without [`Controller::run_until`], its tasks end with the runtime.
pub struct Controller {
    api: Api,
    engines: JoinHandle<anyhow::Result<()>>,
    publisher: JoinHandle<()>,
    reconciler: JoinHandle<()>,
    joins: JoinHandle<()>,
    scaling: JoinHandle<()>,
    autoscale: JoinHandle<()>,
    unconfirmed: JoinHandle<()>,
    compaction: JoinHandle<()>,
    keeper: JoinHandle<()>,
    events: Arc<Events>,
    engines_address: SocketAddr,
    sealing: JoinHandle<()>,
    stop: CancellationToken,
    /// Engines are to find another controller.
    let_go: CancellationToken,
    /// For who writes events down: the last to end.
    all_is_said: CancellationToken,
}

impl Controller {
    /// One that has no others: opens the data folder, makes what must exist, and serves API and engines.
    ///
    /// # Errors
    /// The data folder, an address or a setting is at fault.
    pub async fn start(args: Args) -> anyhow::Result<Self> {
        Self::alone(&args.settle()?).await
    }

    async fn alone(settings: &Settings) -> anyhow::Result<Self> {
        files::private_folder(&settings.data_dir)?;
        let store = Arc::new(store::Sqlite::open(&settings.data_dir.join(files::STORE))?);
        let ground = Ground {
            copies: api::Copied::File(store.clone()),
            nodes: Nodes::alone(),
            tls: Arc::new(api::tls::Served::load(settings)?),
            let_go: CancellationToken::new(),
            doubt: CancellationToken::new(),
            store,
        };
        Self::over(settings, ground, std::future::ready(())).await
    }

    /// The same on whatever store; `before_serving` is waited for when everything is read.
    async fn over(
        settings: &Settings,
        ground: Ground,
        before_serving: impl Future<Output = ()>,
    ) -> anyhow::Result<Self> {
        let opened = ground.open(settings).await?;
        let (ring, ca, objects) = (opened.ring, opened.ca, opened.objects);
        let (store, let_go) = (ground.store, ground.let_go);
        let auth = Arc::new(Auth::new(objects.clone()));
        bootstrap::ensure(&objects).await?;
        ensure_admin(&objects, &auth, settings).await?;
        let registry = Arc::new(Registry::default());
        let planner = Arc::new(Planner::open(objects.clone(), registry.clone()).await?);
        let backend = Backend::new(
            objects.clone(),
            registry.clone(),
            planner.clone(),
            ca.clone(),
        );
        let (journal, before) = Journal::open(&settings.data_dir)?;
        let (events, series) = (Arc::new(Events::new(before)), Arc::new(Series::default()));
        let alerts = Arc::new(Alerts::open(objects.clone(), &settings.data_dir)?);
        let watchman = Watchman::begin(
            events.clone(),
            objects.clone(),
            registry.clone(),
            planner.clone(),
            series.clone(),
        );
        let stopping = CancellationToken::new();
        let app = api::App {
            objects: objects.clone(),
            auth,
            backend: Arc::new(backend),
            backups: api::Backups::new(ground.copies, ring.clone(), &settings.data_dir),
            ring: ring.clone(),
            nodes: ground.nodes,
            events: events.clone(),
            alerts: alerts.clone(),
            series,
            watchman: watchman.clone(),
            metrics: api::ApiMetrics::default(),
            stopping: stopping.clone(),
            let_go: let_go.clone(),
        };
        let engines = engines::bind(settings.listen_engines)?;
        before_serving.await;
        let router = api::router(Arc::new(app));
        let api = Api::serve(settings.listen_api, &ground.tls, router, stopping)?;
        let engines_address = engines.local_addr()?;
        let (stop, all_is_said) = (CancellationToken::new(), CancellationToken::new());
        let keeper = events::keep(
            events.clone(),
            journal,
            watchman,
            alerts,
            all_is_said.clone(),
        );
        let unconfirmed = confirm::expire(objects.clone(), stop.clone());
        let compaction = compact::run(objects.clone(), stop.clone());
        let sealing = seal::run(ring, store, stop.clone());
        let engines = engines::serve(engines, ca, objects, registry, let_go.clone());
        tracing::info!(api = %api.address, engines = %engines_address, "controller started");
        Ok(Self {
            api,
            engines: tokio::spawn(engines),
            publisher: tokio::spawn(plan::publish(planner.clone(), stop.clone())),
            reconciler: tokio::spawn(plan::reconcile(planner.clone(), stop.clone())),
            joins: tokio::spawn(plan::finish_joins(planner.clone(), stop.clone())),
            scaling: tokio::spawn(plan::scale_and_watch(planner.clone(), stop.clone())),
            autoscale: tokio::spawn(plan::scale_by_load(planner, stop.clone())),
            unconfirmed: tokio::spawn(unconfirmed),
            compaction: tokio::spawn(compaction),
            keeper: tokio::spawn(keeper),
            events,
            engines_address,
            sealing: tokio::spawn(sealing),
            stop,
            let_go,
            all_is_said,
        })
    }

    /// Where the API listens; with port 0 in the settings, the port that the system chose.
    pub fn api_address(&self) -> SocketAddr {
        self.api.address
    }

    /// Where engines dial; with port 0 in the settings, the port that the system chose.
    pub fn engines_address(&self) -> SocketAddr {
        self.engines_address
    }

    /// Serves until `stop` is done, then ends every task in order.
    ///
    /// # Errors
    /// A listener ended by itself.
    pub async fn run_until(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let outcome = tokio::select! {
            () = stop => Ok(()),
            ended = &mut self.engines => ended?.context("the engines' listener ended"),
            ended = &mut self.api.task => ended?.context("the API's listener ended"),
        };
        self.shut_down().await;
        tracing::info!("controller stopped");
        outcome
    }

    async fn shut_down(self) {
        let Self {
            api,
            engines,
            publisher,
            reconciler,
            joins,
            scaling,
            autoscale,
            unconfirmed,
            compaction,
            keeper,
            events,
            engines_address: _,
            sealing,
            stop,
            let_go,
            all_is_said,
        } = self;
        events.end_streams();
        api.stopping.cancel();
        door::end_connections(&api.handle).await;
        join("API", api.task).await;
        events.close();
        stop.cancel();
        join("reconciler", reconciler).await;
        join("publisher", publisher).await;
        join("joins", joins).await;
        join("scaling", scaling).await;
        join("autoscale", autoscale).await;
        join("unconfirmed", unconfirmed).await;
        join("compaction", compaction).await;
        join("sealing", sealing).await;
        let_go.cancel();
        // An engine that does not answer keeps its connection for a while: the listener cannot be waited for.
        engines.abort();
        join("engines", engines).await;
        all_is_said.cancel();
        join("events", keeper).await;
    }
}

/// A task that has already been joined, or that panicked, has said so before.
async fn join<T>(name: &str, task: JoinHandle<T>) {
    if task.is_finished() {
        return;
    }
    if let Err(error) = task.await
        && error.is_panic()
    {
        tracing::error!(task = name, %error, "task ended by a panic");
    }
}

/// What a controller stands on.
struct Ground {
    /// As it is stored: secrets are sealed.
    store: Arc<dyn Store>,
    copies: api::Copied,
    nodes: Nodes,
    tls: Arc<api::tls::Served>,
    /// Cancelled from outside when another controller leads: engines are to find that one, and calls, too.
    let_go: CancellationToken,
    /// Cancelled when what is in memory may be older than the store.
    doubt: CancellationToken,
}

/// What is read before anything else.
struct Opened {
    ring: Arc<seal::Ring>,
    ca: Arc<Ca>,
    objects: Arc<Objects>,
}

impl Ground {
    async fn open(&self, settings: &Settings) -> anyhow::Result<Opened> {
        let (store, doubt) = (self.store.clone(), self.doubt.clone());
        let ring = Arc::new(seal::open(&settings.seal_keys, &*store).await?);
        let sealed = Arc::new(seal::SealedStore::new(store, ring.clone(), doubt));
        let shared = self.nodes.share_a_store();
        let ca = Ca::open(&settings.data_dir, &*sealed, shared).await?;
        Ok(Opened {
            ring,
            ca: Arc::new(ca),
            objects: Arc::new(Objects::open(sealed).await?),
        })
    }
}

/// A listener of the REST API.
struct Api {
    address: SocketAddr,
    handle: axum_server::Handle<door::Peer>,
    /// Closes the listener, and says in each answer that it is the connection's last.
    stopping: CancellationToken,
    closed: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Api {
    fn serve(
        listen: SocketAddr,
        served: &api::tls::Served,
        router: axum::Router,
        stopping: CancellationToken,
    ) -> anyhow::Result<Self> {
        let config = RustlsConfig::from_config(served.config.clone());
        let door = door::Door::open(listen, stopping.clone())
            .with_context(|| format!("cannot serve the API on {listen}"))?;
        let (address, closed) = (door.address(), door.closed());
        let handle = axum_server::Handle::new();
        let tls = RustlsAcceptor::new(config).acceptor(Connections::of_api());
        let mut server = axum_server::Server::from_listener(door)
            .acceptor(tls)
            .handle(handle.clone())
            .http1_only();
        server.http_builder().http1().header_read_timeout(HEAD_WAIT);
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        Ok(Self {
            address,
            handle,
            stopping,
            closed,
            task: tokio::spawn(server.serve(service)),
        })
    }
}

/// The admin user exists from the first start on; a password that we made up is said once.
async fn ensure_admin(objects: &Objects, auth: &Auth, settings: &Settings) -> anyhow::Result<()> {
    if !bootstrap::access::lacks_admin(objects) {
        return Ok(());
    }
    if let Some(hash) = bootstrap::access::old_hash(objects).await? {
        return Ok(bootstrap::access::make_admin(objects, hash).await?);
    }
    let (password, made_up) = match settings.admin_password()? {
        Some(password) => (password, false),
        None => (auth::random_token()[..MADE_UP_LEN].to_owned(), true),
    };
    let secret = Password::new(password.clone());
    bootstrap::access::make_admin(objects, auth.hash(secret).await?).await?;
    if made_up {
        // On stderr and not in the log, whose lines are collected and kept. Without a stderr nobody can read it.
        let text = format!("password of admin, made up and not shown again: {password}\n");
        std::io::stderr().write_all(text.as_bytes()).ok();
    }
    Ok(())
}
