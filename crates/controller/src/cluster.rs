//! Several controllers on one etcd: one leads and does everything, the others pass on to it what they are asked.
//!
//! ```text
//!   started ──▶ follower ── nobody leads, and we were first ──▶ leader ── told to stop, or deposed ──▶ follower, or end
//!               its API passes calls on                         a controller like one that is alone
//! ```
//!
//! A leader is a [`crate::Controller`] made anew for its term from what etcd has: nothing of an older term can be left in it.
//! Engines find the leader by themselves: only it listens for them. A deposed leader cannot write, because every
//! transaction compares who leads (docs/adr/0015), and its controller is taken apart.

mod ask;
mod card;
mod follower;
mod nodes;

pub use nodes::{NODES, Nodes};

use crate::api::tls::Served;
use crate::args::{Settings, Shared};
use crate::error::ApiError;
use crate::{Controller, Ground, seal};
use anyhow::Context as _;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use card::Card;
use follower::Follower;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::etcd::Leadership;
use store::{Etcd, Store, StoreError};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Pause after etcd did not answer.
const AGAIN: Duration = Duration::from_secs(1);

/// Runs one of several controllers until `stop` is done.
///
/// # Errors
/// The settings are at fault, the key file is not the others', or an address cannot be had.
pub async fn run(
    settings: Settings,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let stop = token_of(stop);
    crate::files::private_folder(&settings.data_dir)?;
    let shared = settings.shared.clone().context("etcd: is not named")?;
    let served = Arc::new(Served::load(&settings)?);
    let Some(etcd) = stop.run_until_cancelled(connect(&shared)).await else {
        return Ok(());
    };
    let node = Node {
        card: Card::make(&shared, &served),
        etcd: Arc::new(etcd?),
        settings,
        served,
        stop,
        endings: Mutex::default(),
    };
    let outcome = node.run().await;
    node.endings().join_all().await;
    tracing::info!("controller stopped");
    outcome
}

/// The answer of a controller that led until just now, to whatever it is asked: another one may have written since.
pub fn let_go() -> Response {
    let text = "another controller leads: nothing was done; ask again";
    not_done(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text))
}

/// With the mark by which others know that they may ask elsewhere.
fn not_done(error: ApiError) -> Response {
    let mut answer = error.into_response();
    let headers = answer.headers_mut();
    headers.insert(ask::NOT_DONE, HeaderValue::from_static("1"));
    answer
}

fn token_of(stop: impl Future<Output = ()> + Send + 'static) -> CancellationToken {
    let token = CancellationToken::new();
    let told = token.clone();
    tokio::spawn(async move {
        stop.await;
        told.cancel();
    });
    token
}

async fn connect(shared: &Shared) -> anyhow::Result<Etcd> {
    loop {
        match Etcd::open(&shared.etcd).await {
            Err(error @ StoreError::Unreachable { .. }) => say(&error),
            other => return Ok(other?),
        }
        sleep(AGAIN).await;
    }
}

fn say(error: &StoreError) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(%error, cause, "etcd does not do what it is asked; trying again");
}

/// True for an error that ends by itself, or with another leader.
fn passes(error: &anyhow::Error) -> bool {
    let of_store = error.chain().find_map(|e| e.downcast_ref::<StoreError>());
    matches!(
        of_store,
        Some(
            StoreError::Unreachable { .. }
                | StoreError::NotLeader { .. }
                | StoreError::OutcomeUnknown { .. }
        )
    )
}

/// This controller.
struct Node {
    settings: Settings,
    served: Arc<Served>,
    etcd: Arc<Etcd>,
    card: Card,
    stop: CancellationToken,
    /// Connections of followers that are closed, which have calls yet.
    endings: Mutex<JoinSet<()>>,
}

impl Node {
    async fn run(&self) -> anyhow::Result<()> {
        while !self.stop.is_cancelled() {
            let mut follower = Some(self.follow()?);
            let outcome = self.one_term(&mut follower).await;
            self.close(&mut follower).await;
            match outcome {
                Err(error) if passes(&error) => {
                    tracing::warn!(error = format!("{error:#}"), "cannot lead now");
                    self.stop.run_until_cancelled(sleep(AGAIN)).await;
                }
                other => other?,
            }
        }
        Ok(())
    }

    fn follow(&self) -> anyhow::Result<Follower> {
        let listen = self.settings.listen_api;
        Follower::open(listen, &self.served, &self.card, self.etcd.clone())
    }

    fn endings(&self) -> JoinSet<()> {
        let mut endings = self.endings.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut endings)
    }

    /// Its address is free afterwards; its connections go on for a while.
    async fn close(&self, follower: &mut Option<Follower>) {
        let Some(follower) = follower.take() else {
            return;
        };
        let ending = follower.close().await;
        let mut endings = self.endings.lock().unwrap_or_else(PoisonError::into_inner);
        endings.spawn(ending);
    }

    /// Follows until we lead, and leads until we do not any more. Told to stop, it ends soon.
    async fn one_term(&self, follower: &mut Option<Follower>) -> anyhow::Result<()> {
        let elected = self.stop.run_until_cancelled(self.elected()).await;
        let Some(leadership) = elected.transpose()? else {
            return Ok(());
        };
        tracing::info!(term = leadership.term(), "leads");
        let led = self.lead(&leadership, follower).await;
        if leadership.lasts() {
            // The next one need not wait for the lease.
            leadership.resign().await.ok();
        }
        led
    }

    /// Waits until we lead. A follower that could not read the secrets would be none: better now than when it has to lead.
    async fn elected(&self) -> anyhow::Result<Leadership> {
        self.check_keys().await?;
        let checked = async {
            let mut leader = self.etcd.leader();
            let another = |l: &Option<store::etcd::Leader>| {
                let card = l.as_ref().and_then(|l| Card::read(&l.who));
                card.is_some_and(|card| card.pass != self.card.pass)
            };
            leader.wait_for(another).await.ok();
            self.check_keys().await
        };
        tokio::select! {
            leadership = self.campaign() => leadership,
            Err(wrong) = checked => Err(wrong),
        }
    }

    async fn check_keys(&self) -> anyhow::Result<()> {
        let leader = self.etcd.leader().borrow().clone();
        let leader = leader.and_then(|l| Card::read(&l.who)).map(|c| c.name);
        seal::check(&self.settings.seal_keys, &*self.etcd, leader.as_deref()).await
    }

    async fn campaign(&self) -> anyhow::Result<Leadership> {
        loop {
            match self.etcd.campaign(self.card.text()).await {
                Ok(leadership) => return Ok(leadership),
                Err(error @ StoreError::NewerSchema { .. }) => return Err(error.into()),
                Err(error) => say(&error),
            }
            sleep(AGAIN).await;
        }
    }

    /// Leads, and sees to it that engines and calls are let go as soon as the lease is lost, whatever else goes on.
    async fn lead(
        &self,
        leadership: &Leadership,
        follower: &mut Option<Follower>,
    ) -> anyhow::Result<()> {
        let (over, let_go) = (CancellationToken::new(), CancellationToken::new());
        let watch = async {
            if over.run_until_cancelled(leadership.lost()).await.is_some() {
                tracing::warn!("does not lead any more");
                let_go.cancel();
            }
        };
        let reign = async {
            let reigned = self.reign(leadership, follower, let_go.clone()).await;
            over.cancel();
            reigned
        };
        tokio::join!(reign, watch).0
    }

    async fn reign(
        &self,
        leadership: &Leadership,
        follower: &mut Option<Follower>,
        let_go: CancellationToken,
    ) -> anyhow::Result<()> {
        let doubt = CancellationToken::new();
        let store: Arc<dyn Store> = self.etcd.clone();
        let ground = Ground {
            copies: crate::api::Copied::Values(store.clone()),
            nodes: Nodes::open(self.card.clone(), leadership.term(), &*store).await?,
            tls: self.served.clone(),
            let_go,
            doubt: doubt.clone(),
            store,
        };
        // Calls that follow each other at the same address find the leader's API behind the follower's.
        let close = self.close(follower);
        let controller = Controller::over(&self.settings, ground, close).await?;
        let ends = async {
            tokio::select! {
                () = leadership.lost() => {}
                () = self.stop.cancelled() => {}
                () = doubt.cancelled() => tracing::warn!("reads everything anew: nobody can tell what became of a commit"),
            }
        };
        controller.run_until(ends).await
    }
}
