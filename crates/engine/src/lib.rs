//! The service engine: it announces VIPs and carries their traffic.
//!
//! ```text
//!   controller ◀──stream──▶ agent ──watch: DesiredState──▶ reconciler ──▶ addresses, proxy, BGP speaker
//!                            ▲  │                              ▲   │
//!                 watch: Report │ state folder          health, links │ watch: Outcome
//!                            └──┼──────── observer ◀───────────┴───────┘
//!                               ▼
//!                        last good state ──at start──▶ reconciler
//! ```
//!
//! Tasks, all owned by [`run`]: the **reconciler** acts on desired state, health and interfaces; **steering** plans what the
//! engine knows of its neighbours; **native** answers ARP for VIPs that are scaled natively; **static routes** keep the way of the answers; the **agent** joins and holds the stream to a controller; the **observer** puts reports together; **metrics**, where they are wanted, tells them to Prometheus. At SIGTERM or SIGINT the reconciler takes
//! down in order (withdraw, Cease, listeners, connections, addresses, settings) while the others still report it, and
//! then those are aborted; a second signal ends the process at once, and the next engine cleans up behind it. Where a
//! controller asks for it, the process does the same and then starts anew in its place (`again`).
//! A desired state goes agent, disk, reconciler, so that a restarted engine serves before a controller answers.

mod again;
mod alone;
mod args;
pub mod bfd;
pub mod bgp;
mod decide;
mod dial;
mod fib;
mod files;
mod flows;
pub mod health;
mod host;
mod identity;
mod last_state;
mod link;
mod load;
mod metrics;
mod native;
mod net;
mod reconcile;
mod report;
mod resources;
mod session;
mod static_routes;
mod steering;
mod sysctl;
mod validate;

pub use args::Args;

use anyhow::{Context as _, bail};
use args::{Action, Folders, Settings};
use futures_util::FutureExt as _;
use identity::Credentials;
use last_state::LastState;
use net::Net;
use proto::v1::{DesiredState, Report};
use reconcile::{Actors, Outcome, Stop};
use report::Observer;
use std::sync::Arc;
use std::time::Duration;
use steering::sentry::Sightings;
use sysctl::Sysctls;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Threads for control work; traffic has the proxy's, one per core.
const CONTROL_THREADS: usize = 2;
/// What still runs when the engine has stopped (a name look-up) is left alone after this time.
const RUNTIME_STOP: Duration = Duration::from_millis(100);

/// Runs the engine until it is told to stop.
///
/// # Errors
/// It cannot start: a setting, a right or the join is at fault; or it was told to stop a second time.
pub fn run(args: Args) -> anyhow::Result<()> {
    if let Some((Action::Detach, dirs)) = args.action()? {
        return detach(&dirs);
    }
    let settings = args.settle()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .enable_all()
        .build()?;
    let mut signals = {
        let _entered = runtime.enter();
        Signals::open()?
    };
    let result = runtime.block_on(serve(settings, &mut signals));
    runtime.shutdown_timeout(RUNTIME_STOP);
    match result? {
        End::Again if signals.have_come() => Ok(()),
        End::Again => Err(again::start()),
        End::Stop => Ok(()),
    }
}

/// What comes after the engine has stopped in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing.
    Stop,
    /// The process starts anew: a controller has asked for it.
    Again,
}

/// Removes what an engine has pinned, and what it has set for that; what it has set for its traffic is its own to restore.
fn detach(Folders { bpf: dir, state }: &Folders) -> anyhow::Result<()> {
    drop(Sysctls::of_loopback(state));
    let was_there = dataplane::steering::detach(dir)
        .with_context(|| format!("cannot remove the steering programs in {}", dir.display()))?;
    tracing::info!(dir = %dir.display(), was_there, "steering programs removed");
    Ok(())
}

async fn serve(settings: Settings, signals: &mut Signals) -> anyhow::Result<End> {
    files::private_folder(&settings.state_dir)?;
    let _alone = alone::only_engine_here()?;
    let credentials = Credentials::load(&settings)?;
    let net = Net::open(settings.interfaces.clone()).await?;
    let metrics_listener = listen_for_metrics(&settings).await?;
    let last_state = LastState::new(&settings.state_dir);
    let desired = watch::Sender::new(Arc::new(last_state.load().unwrap_or_default()));
    let generation = desired.borrow().generation;
    tracing::info!(se = settings.name, generation, "engine started");

    let actors =
        Actors::start(net.clone(), &settings.state_dir).context("cannot start the proxy")?;
    let (outcome, outcomes) = watch::channel(Outcome::default());
    let (report, reports) = watch::channel(Report::default());
    let observed = (&desired, &reports);
    let (connected, _metrics) = tell_metrics(metrics_listener, &settings.name, observed);
    let watch = steering::Watch::default();
    let leaving = CancellationToken::new();
    let seen = (&watch, &leaving);
    let (steering, sightings, _steering_tasks) = steer(&settings, &desired, &net, &actors, seen);
    let (parts, played) = watch::channel(native::Parts::new());
    let native = native::run(steering.clone(), net.interfaces(), parts);
    let native = Task(tokio::spawn(native));
    let observed = (steering.clone(), sightings, watch.clone(), played);
    let observer = Observer::new(&actors, outcomes, observed);
    let flows = flows::Flows {
        proxy: actors.proxy.clone(),
        plans: steering.clone(),
        watch,
        bpf_dir: settings.bpf_dir.clone(),
        se_uuid: String::new(),
    };
    let static_routes = static_routes::Inputs {
        desired: desired.subscribe(),
        interfaces: net.interfaces(),
        bgp: actors.bgp.status(),
    };
    let answers = CancellationToken::new();
    let static_routes = static_routes::run(static_routes, answers.clone());
    let mut static_routes = Task(tokio::spawn(static_routes));
    let token = CancellationToken::new();
    let stop = Stop {
        token: token.clone(),
        drain: settings.stop_drain,
    };
    let steered = steering::in_force(steering.clone(), generation);
    let reconciler = reconcile::run(actors, desired.subscribe(), outcome, stop);
    let mut reconciler = Task(tokio::spawn(async {
        steered.await;
        reconciler.await;
    }));
    let _observer = Task(tokio::spawn(observer.run(net.clone(), report)));
    let again = CancellationToken::new();
    let channels = Channels {
        desired,
        reports,
        connected,
        steering,
        flows,
        again: again.clone(),
    };
    let agent = agent(settings, credentials, net, last_state, channels);
    let mut agent = Task(tokio::spawn(agent));

    let mut result = tokio::select! {
        ended = &mut agent.0 => ended?.map(|()| End::Stop),
        ended = &mut reconciler.0 => bail!("the reconciler ended: {ended:?}"),
        () = signals.next() => Ok(End::Stop),
        () = again.cancelled() => Ok(End::Again),
    };
    tracing::info!("stopping: withdrawing routes");
    token.cancel();
    // To the others the process is gone, who take over the VIPs that we have answered for, and keep new flows.
    leaving.cancel();
    drop(native);
    taken_down(&mut reconciler, signals, &mut result).await?;
    // Until here answers to clients went their way.
    answers.cancel();
    (&mut static_routes.0).await?;
    tracing::info!("stopped");
    result
}

/// Waits until the reconciler has taken everything down. Whoever tells the engine to stop meanwhile does not want it back; a second
/// time, nothing is waited for.
async fn taken_down(
    reconciler: &mut Task<()>,
    signals: &mut Signals,
    result: &mut anyhow::Result<End>,
) -> anyhow::Result<()> {
    loop {
        // Losing the race loses nothing: one is a task of its own, the other a receive. What was told counts also when all is down.
        tokio::select! {
            biased;
            () = signals.next() => match result {
                Ok(end) if *end == End::Again => *end = End::Stop,
                _ => bail!("told to stop again: not waiting for routers and connections"),
            },
            ended = &mut reconciler.0 => return ended.map_err(Into::into),
        }
    }
}

/// Steering, and the hellos and lines that it follows; the plan that is in force, what is seen of engines that the controller has
/// lost, and the tasks. `leaving`: to the others our process is gone.
fn steer(
    settings: &Settings,
    desired: &watch::Sender<Arc<DesiredState>>,
    net: &Net,
    actors: &Actors,
    (watch, leaving): (&steering::Watch, &CancellationToken),
) -> (
    watch::Receiver<Arc<steering::Plan>>,
    watch::Receiver<Sightings>,
    [Task<()>; 4],
) {
    let (plans, planned) = watch::channel(Arc::default());
    let (heard, liveness) = watch::channel(flow::hello::Liveness::new());
    let (busy, load) = watch::channel(0);
    let hellos = steering::hello::run(planned.clone(), heard, busy);
    let (held, lines) = watch::channel(steering::line::Lines::new());
    let held = steering::line::run(planned.clone(), held, leaving.clone());
    let (seen, sightings) = watch::channel(Sightings::new());
    let sentry = steering::sentry::run(planned.clone(), seen);
    let inputs = steering::Inputs {
        desired: desired.subscribe(),
        interfaces: net.interfaces(),
        bgp: actors.bgp.status(),
        liveness,
        load,
        lines,
    };
    let kernel = steering::Kernel::new(
        settings.bpf_dir.clone(),
        settings.steering_attach,
        &settings.state_dir,
        watch.clone(),
    );
    let steering = steering::run(inputs, plans, kernel);
    let tasks = [
        Task(tokio::spawn(hellos)),
        Task(tokio::spawn(held)),
        Task(tokio::spawn(sentry)),
        Task(tokio::spawn(steering)),
    ];
    (planned, sightings, tasks)
}

/// What the agent shares with the tasks that act and observe.
struct Channels {
    desired: watch::Sender<Arc<DesiredState>>,
    reports: watch::Receiver<Report>,
    connected: watch::Sender<bool>,
    steering: watch::Receiver<Arc<steering::Plan>>,
    flows: flows::Flows,
    again: CancellationToken,
}

/// Where it is written down whether there is a session with a controller, and the task that tells metrics, if they are wanted.
fn tell_metrics(
    listener: Option<TcpListener>,
    name: &str,
    (desired, reports): (&watch::Sender<Arc<DesiredState>>, &watch::Receiver<Report>),
) -> (watch::Sender<bool>, Option<Task<()>>) {
    let connected = watch::Sender::new(false);
    let source = metrics::Source {
        name: name.to_owned(),
        desired: desired.subscribe(),
        reports: reports.clone(),
        connected: connected.subscribe(),
    };
    let serve = |listener| Task(tokio::spawn(metrics::serve(listener, source)));
    (connected, listener.map(serve))
}

/// None where no metrics are wanted.
async fn listen_for_metrics(settings: &Settings) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = settings.metrics_listen else {
        return Ok(None);
    };
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("metrics_listen: cannot listen on {address}; give an address of this host and a port that is free")
    })?;
    Ok(Some(listener))
}

/// Joins if need be, then talks to controllers for ever.
async fn agent(
    settings: Settings,
    credentials: Credentials,
    net: Arc<Net>,
    last_state: LastState,
    channels: Channels,
) -> anyhow::Result<()> {
    let interfaces = net.interfaces();
    let now = interfaces.borrow().clone();
    let identity = credentials.identity(&settings, now).await?;
    let agent = session::Agent {
        settings,
        identity,
        last_state,
        interfaces,
        desired: channels.desired,
        reports: channels.reports,
        connected: channels.connected,
        steering: channels.steering,
        flows: channels.flows,
        again: channels.again,
        boot_id: format!("{:016x}", rand::random::<u64>()),
        refused_token: None,
        expiry_said: None,
    };
    agent.run().await;
    Ok(())
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The signals that ask for an orderly stop; none is lost from the moment this is open.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn open() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Cancel-safe: receiving is.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Whether one has come that nobody has heard.
    fn have_come(&mut self) -> bool {
        self.next().now_or_never().is_some()
    }
}

#[cfg(test)]
mod tests;
