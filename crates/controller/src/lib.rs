//! The controller: REST API, store, planner, and the sessions with the service engines.
//!
//! Tasks, all owned by [`run`], which ends them in this order at SIGTERM or SIGINT: the API's listener (answers what
//! it has begun), the reconciler (finishes its round), the engines' listener. Engines go on without us. A SIGKILL at
//! any moment loses nothing that was acknowledged: the store is durable before an answer leaves.

mod api;
mod args;
mod auth;
mod bootstrap;
mod engines;
mod error;
mod files;
mod objects;
mod plan;

pub use args::Args;

use anyhow::Context as _;
use args::Settings;
use auth::{Auth, Password};
use engines::Registry;
use engines::ca::Ca;
use objects::Objects;
use plan::{Backend, Planner};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long calls that have begun may take when the controller is told to stop.
const GRACE: Duration = Duration::from_secs(3);

/// Runs the controller until it is told to stop.
///
/// # Errors
/// It cannot start: the data folder, an address or a setting is at fault.
pub fn run(args: Args) -> anyhow::Result<()> {
    let settings = args.settle()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    files::private_folder(&settings.data_dir)?;
    let store = store::Sqlite::open(&settings.data_dir.join("evenkeel.db"))?;
    let ca = Arc::new(Ca::open(&settings.data_dir)?);
    let auth = Arc::new(Auth::new(Arc::new(store)));
    let objects = Arc::new(Objects::open(auth.store()).await?);
    bootstrap::ensure(&objects).await?;
    ensure_admin(&auth, &settings).await?;
    let registry = Arc::new(Registry::default());
    let planner = Arc::new(Planner::open(objects.clone(), registry.clone()).await?);
    let backend = Arc::new(Backend::new(
        objects.clone(),
        registry.clone(),
        planner.clone(),
        ca.clone(),
    ));

    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let api = serve_api(
        &settings,
        api::App {
            objects: objects.clone(),
            auth,
            backend,
        },
    )?;
    tasks.spawn(plan::reconcile(planner, stop.clone()));
    let engines = engines::serve(
        settings.listen_engines,
        ca,
        objects,
        registry,
        stop.clone().cancelled_owned(),
    );
    let mut engines = tokio::spawn(engines);
    tracing::info!(api = %settings.listen_api, engines = %settings.listen_engines, "controller started");
    let outcome = tokio::select! {
        why = told_to_stop() => why,
        ended = &mut engines => ended?,
        ended = api.task => ended?.context("the API's listener ended"),
    };
    api.handle.graceful_shutdown(Some(GRACE));
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    // Engine sessions are open for as long as engines live, so the listener is not waited for beyond the grace.
    tokio::time::timeout(GRACE, async { engines.is_finished() })
        .await
        .ok();
    tracing::info!("controller stopped");
    outcome
}

async fn told_to_stop() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

struct Api {
    handle: axum_server::Handle<std::net::SocketAddr>,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

fn serve_api(settings: &Settings, app: api::App) -> anyhow::Result<Api> {
    let files = match &settings.api_certificate {
        Some(files) => api::tls::Files {
            certificate: files.0.clone(),
            key: files.1.clone(),
        },
        None => api::tls::self_made(&settings.data_dir, settings.listen_api)?,
    };
    let config =
        axum_server::tls_rustls::RustlsConfig::from_config(api::tls::server_config(&files)?);
    let listener = std::net::TcpListener::bind(settings.listen_api)
        .with_context(|| format!("cannot serve the API on {}", settings.listen_api))?;
    listener.set_nonblocking(true)?;
    let handle = axum_server::Handle::new();
    let server = axum_server::from_tcp_rustls(listener, config)?.handle(handle.clone());
    let service =
        api::router(Arc::new(app)).into_make_service_with_connect_info::<std::net::SocketAddr>();
    Ok(Api {
        handle,
        task: tokio::spawn(server.serve(service)),
    })
}

/// The admin user exists from the first start on; a password that we made up is said once.
async fn ensure_admin(auth: &Auth, settings: &Settings) -> anyhow::Result<()> {
    if auth.has_password("admin").await? {
        return Ok(());
    }
    let password = match settings.admin_password()? {
        Some(password) => password,
        None => {
            let made_up = auth::random_token();
            tracing::warn!(
                user = "admin",
                password = &made_up[..20],
                "made up a password; it is not shown again"
            );
            made_up[..20].to_owned()
        }
    };
    auth.set_password("admin", Password::new(password)).await?;
    Ok(())
}
