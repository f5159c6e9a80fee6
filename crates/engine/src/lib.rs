//! The service engine: it announces VIPs and carries their traffic.
//!
//! Tasks, all owned by [`run`]: the reconciler (acts on desired state, health and interfaces), the agent (stream to a
//! controller), the reporter (what is observed, for the agent). At SIGTERM or SIGINT the reconciler takes down in
//! order (withdraw, Cease, listeners, addresses) and the others are dropped; a second signal ends the process at once.
//! A desired state goes agent → disk → reconciler, so that a restarted engine serves before a controller answers.

mod args;
pub mod bgp;
mod decide;
mod files;
pub mod health;
mod identity;
mod last_state;
mod net;
mod reconcile;
mod session;
mod sysctl;
mod validate;

pub use args::Args;

use anyhow::Context as _;
use args::Settings;
use last_state::LastState;
use net::Net;
use proto::v1::{BgpSession, EngineStats, Report};
use proxy::ProxyHandle;
use reconcile::{Actors, Outcome};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Changes within this time are one report.
const REPORT_COALESCE: Duration = Duration::from_millis(50);
/// A report goes out at least this often: counters have no event.
const REPORT_PERIOD: Duration = Duration::from_secs(5);

/// Runs the engine until it is told to stop.
///
/// # Errors
/// It cannot start: a setting, a right or the join is at fault.
pub fn run(args: Args) -> anyhow::Result<()> {
    let settings = args.settle()?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    // Control work only: traffic has the proxy's threads, one per core.
    let runtime = builder.worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    files::private_folder(&settings.state_dir)?;
    let net = Net::open(settings.interfaces.clone()).await?;
    let interfaces = net.interfaces().borrow().clone();
    let _sysctls = sysctl::Sysctls::set(interfaces.iter().map(|i| i.name.clone()));
    let last_state = LastState::new(&settings.state_dir);
    let desired = watch::Sender::new(Arc::new(last_state.load().unwrap_or_default()));
    tracing::info!(
        se = settings.name,
        generation = desired.borrow().generation,
        "engine started"
    );

    let stop = CancellationToken::new();
    let actors = Actors::start(net.clone()).context("cannot start the proxy")?;
    let (outcome, outcomes) = watch::channel(Outcome::default());
    let observer = Observer::new(&actors, outcomes);
    let reconciler = reconcile::run(actors, desired.subscribe(), outcome, stop.clone());
    let mut reconciler = tokio::spawn(reconciler);
    let (report, reports) = watch::channel(Report::default());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(observer.run(net.clone(), report));

    let agent = agent(settings, net, last_state, desired, reports, interfaces);
    let result = tokio::select! {
        result = agent => result,
        ended = told_to_stop() => ended,
    };
    tracing::info!("stopping: withdrawing routes");
    stop.cancel();
    tokio::select! {
        _ = &mut reconciler => {}
        _ = told_to_stop() => tracing::warn!("told to stop again: not waiting"),
    }
    result
}

/// Joins if need be, then talks to controllers for ever.
async fn agent(
    settings: Settings,
    net: Arc<Net>,
    last_state: LastState,
    desired: watch::Sender<Arc<proto::v1::DesiredState>>,
    reports: watch::Receiver<Report>,
    interfaces: Vec<proto::v1::Interface>,
) -> anyhow::Result<()> {
    let identity = identity::Identity::load_or_join(&settings, interfaces).await?;
    let boot_id = format!("{:016x}", rand::random::<u64>());
    session::Agent {
        settings,
        identity,
        last_state,
        net,
        desired,
        reports,
        boot_id,
    }
    .run()
    .await;
    Ok(())
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

/// Puts reports together.
struct Observer {
    outcome: watch::Receiver<Outcome>,
    health: watch::Receiver<Arc<health::HealthSnapshot>>,
    bgp: watch::Receiver<Arc<Vec<BgpSession>>>,
    proxy: ProxyHandle,
    started: Instant,
}

impl Observer {
    fn new(actors: &Actors, outcome: watch::Receiver<Outcome>) -> Self {
        let (health, bgp, proxy) = (
            actors.health.snapshot(),
            actors.bgp.status(),
            actors.proxy.clone(),
        );
        Self {
            outcome,
            health,
            bgp,
            proxy,
            started: Instant::now(),
        }
    }

    /// Makes a report on every change and on a period; aborted with the engine.
    async fn run(mut self, net: Arc<Net>, reports: watch::Sender<Report>) {
        let mut interfaces = net.interfaces();
        for sequence in 1.. {
            let mut report = self.report();
            report.sequence = sequence;
            report
                .interfaces
                .clone_from(&interfaces.borrow_and_update());
            reports.send_replace(report);
            tokio::time::sleep(REPORT_COALESCE).await;
            tokio::select! {
                _ = self.outcome.changed() => {}
                _ = self.health.changed() => {}
                _ = self.bgp.changed() => {}
                _ = interfaces.changed() => {}
                () = tokio::time::sleep(REPORT_PERIOD) => {}
            }
        }
    }

    fn report(&mut self) -> Report {
        let stats = self.proxy.stats();
        let outcome = self.outcome.borrow_and_update().clone();
        let mut report = reconcile::report(&outcome, &self.health.borrow_and_update(), &stats);
        report.bgp_sessions = self.bgp.borrow_and_update().to_vec();
        report.stats = Some(EngineStats {
            rss_bytes: rss_bytes(),
            uptime_s: self.started.elapsed().as_secs(),
            open_connections: stats.virtual_services.iter().map(|s| s.open).sum(),
        });
        report
    }
}

/// Resident memory of this process (proc(5), statm).
fn rss_bytes() -> u64 {
    const PAGE_LEN: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    pages * PAGE_LEN
}
