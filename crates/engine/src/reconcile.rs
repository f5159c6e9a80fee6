//! Acts on decisions: addresses, listeners and routes follow the desired state and what is observed.
//!
//! One task owns everything that acts. Up goes address, listener, route; down goes route, listener, address, so that
//! a route never points at a port that nobody listens on. It wakes on a new desired state, on health, on interfaces,
//! and after a failure; each round starts from scratch and changes only what differs. Told to stop, it withdraws and
//! says Cease first (seed: the peers withdraw the routes of an SE that fails; one that stops says so itself).

use crate::bgp::{BgpDesired, Speaker, SpeakerHandle};
use crate::decide::{self, Failures, Verdict};
use crate::health::HealthHandle;
use crate::net::Net;
use model::reason::Reason;
use proto::v1::{
    DesiredState, Interface, OperState, PoolStatus, Report, ServerStatus, VipStatus,
    VirtualServiceStatus,
};
use proxy::{ListenerStatus, ProxyHandle, Stats};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How soon a failure (an address or port that could not be had) is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// Time for withdrawals and Cease to reach the routers when the engine stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// What acting made of a decision.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Outcome {
    /// The desired state that is in force.
    pub desired: Arc<DesiredState>,
    verdicts: BTreeMap<String, Verdict>,
    announced: BTreeMap<String, Result<(), Reason>>,
}

/// The parts that act.
pub(crate) struct Actors {
    pub net: Arc<Net>,
    pub health: HealthHandle,
    pub proxy: ProxyHandle,
    pub bgp: SpeakerHandle,
}

impl Actors {
    /// Starts them; nothing is announced, listened on or probed yet.
    pub(crate) fn start(net: Arc<Net>) -> std::io::Result<Self> {
        let proxy = proxy::Proxy::start(proxy::ProxyConfig::default())?;
        Ok(Self {
            net,
            health: HealthHandle::spawn(),
            proxy,
            bgp: Speaker::spawn(),
        })
    }
}

/// Reconciles until `stop`, then takes everything down in order.
pub(crate) async fn run(
    actors: Actors,
    mut desired: watch::Receiver<Arc<DesiredState>>,
    outcome: watch::Sender<Outcome>,
    stop: CancellationToken,
) {
    let mut health = actors.health.snapshot();
    let mut interfaces = actors.net.interfaces();
    let mut routes = BTreeSet::new();
    loop {
        let wanted = desired.borrow_and_update().clone();
        actors.health.apply(&wanted.pools, &wanted.health_monitors);
        let links = interfaces.borrow_and_update().clone();
        let round = Round {
            actors: &actors,
            desired: &wanted,
            links,
        };
        let snapshot = health.borrow_and_update().clone();
        let (result, failed) = round.act(&snapshot, &mut routes).await;
        outcome.send_if_modified(|old| {
            let changed = *old != result;
            *old = result;
            changed
        });
        let retry = async {
            if failed {
                tokio::time::sleep(RETRY).await
            } else {
                std::future::pending().await
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            _ = desired.changed() => {}
            _ = health.changed() => {}
            _ = interfaces.changed() => {}
            () = retry => {}
        }
    }
    take_down(actors).await;
}

async fn take_down(actors: Actors) {
    actors
        .bgp
        .shutdown("the service engine is stopping", FAREWELL)
        .await;
    actors.proxy.close_all().await;
    actors.net.set_vips(&BTreeSet::new()).await;
}

struct Round<'a> {
    actors: &'a Actors,
    desired: &'a Arc<DesiredState>,
    links: Vec<Interface>,
}

impl Round<'_> {
    /// One pass; `routes` is what is announced before and after it. True when something failed.
    async fn act(
        &self,
        health: &crate::health::HealthSnapshot,
        routes: &mut BTreeSet<IpAddr>,
    ) -> (Outcome, bool) {
        let decision = decide::decide(self.desired, health);
        let (_, hoped) = self.announcements(&decision.verdicts);
        // What goes away goes first: no route without its listener.
        routes.retain(|r| hoped.contains(r));
        self.announce(routes.clone());
        let up = self
            .actors
            .net
            .set_vips(&self.with_present(&decision.vips, routes))
            .await;
        let listeners = self.actors.proxy.apply(decision.services.clone()).await;
        let failures = self.failures(&up, &listeners);
        let verdicts = decide::with_failures(&decision.verdicts, &failures);
        let (announced, hosts) = self.announcements(&verdicts);
        routes.clone_from(&hosts);
        self.announce(hosts);
        let failed = !up.is_empty() || !failures.is_empty();
        (
            Outcome {
                desired: self.desired.clone(),
                verdicts,
                announced,
            },
            failed,
        )
    }

    /// The VIPs that shall stand on `lo`; those still announced stay until they are withdrawn.
    fn with_present(
        &self,
        wanted: &BTreeSet<IpAddr>,
        routes: &BTreeSet<IpAddr>,
    ) -> BTreeSet<IpAddr> {
        wanted.union(routes).copied().collect()
    }

    /// Per VsVip whether it is announced, and the addresses that are.
    fn announcements(
        &self,
        verdicts: &BTreeMap<String, Verdict>,
    ) -> (BTreeMap<String, Result<(), Reason>>, BTreeSet<IpAddr>) {
        let mut by_vsvip = BTreeMap::new();
        let mut addresses = BTreeSet::new();
        for vip in &self.desired.vips {
            let verdict = decide::announce(self.desired, &vip.vsvip_uuid, verdicts);
            if let (Ok(()), Ok(address)) = (verdict, vip.address.parse()) {
                addresses.insert(address);
            }
            by_vsvip.insert(vip.vsvip_uuid.clone(), verdict);
        }
        (by_vsvip, addresses)
    }

    fn announce(&self, routes: BTreeSet<IpAddr>) {
        self.actors.bgp.apply(BgpDesired {
            profile: self.desired.vrf.as_ref().and_then(|v| v.bgp.clone()),
            sessions_wanted: self.desired.virtual_services.iter().any(|v| v.enable_rhi),
            interfaces: self.links.clone(),
            routes,
        });
    }

    /// Services whose address or port could not be had.
    fn failures(&self, vips: &BTreeMap<IpAddr, String>, listeners: &[ListenerStatus]) -> Failures {
        let mut failures = Failures::new();
        for listener in listeners {
            if let Some(error) = &listener.error {
                tracing::error!(vs = listener.vs_uuid, address = %listener.addr, error, "cannot listen");
                failures.insert(listener.vs_uuid.clone(), Reason::ListenerFailed);
            }
        }
        let broken = |address: &str| address.parse().is_ok_and(|a: IpAddr| vips.contains_key(&a));
        for vip in self.desired.vips.iter().filter(|v| broken(&v.address)) {
            let services = self
                .desired
                .virtual_services
                .iter()
                .filter(|s| s.vsvip_uuid == vip.vsvip_uuid);
            failures.extend(services.map(|s| (s.uuid.clone(), Reason::VipFailed)));
        }
        failures
    }
}

/// The part of a report that this module knows: services, pools, VIPs.
pub(crate) fn report(
    outcome: &Outcome,
    health: &crate::health::HealthSnapshot,
    stats: &Stats,
) -> Report {
    let desired = &outcome.desired;
    Report {
        applied_generation: desired.generation,
        virtual_services: desired
            .virtual_services
            .iter()
            .map(|v| service_status(&v.uuid, outcome, stats))
            .collect(),
        pools: desired
            .pools
            .iter()
            .map(|p| pool_status(p, health, stats))
            .collect(),
        vips: desired
            .vips
            .iter()
            .map(|v| vip_status(v, outcome))
            .collect(),
        ..Report::default()
    }
}

fn service_status(uuid: &str, outcome: &Outcome, stats: &Stats) -> VirtualServiceStatus {
    let unknown = (OperState::Unspecified, Reason::VsDown);
    let (state, reason) = outcome.verdicts.get(uuid).copied().unwrap_or(unknown);
    let counters = stats.virtual_services.iter().find(|s| s.uuid == uuid);
    VirtualServiceStatus {
        uuid: uuid.to_owned(),
        state: state.into(),
        reason_code: reason.code().into(),
        reason: if reason == Reason::Up {
            String::new()
        } else {
            reason.sentence().into()
        },
        open_connections: counters.map_or(0, |c| c.open),
        total_connections: counters.map_or(0, |c| c.total),
        bytes_in: counters.map_or(0, |c| c.bytes_in),
        bytes_out: counters.map_or(0, |c| c.bytes_out),
    }
}

fn vip_status(vip: &proto::v1::Vip, outcome: &Outcome) -> VipStatus {
    let verdict = outcome
        .announced
        .get(&vip.vsvip_uuid)
        .copied()
        .unwrap_or(Err(Reason::VsDown));
    VipStatus {
        vsvip_uuid: vip.vsvip_uuid.clone(),
        vip_id: vip.vip_id.clone(),
        address: vip.address.clone(),
        announced: verdict.is_ok(),
        reason_code: verdict
            .err()
            .map(|r| r.code().to_owned())
            .unwrap_or_default(),
        reason: verdict
            .err()
            .map(|r| r.sentence().to_owned())
            .unwrap_or_default(),
    }
}

fn pool_status(
    pool: &proto::v1::Pool,
    health: &crate::health::HealthSnapshot,
    stats: &Stats,
) -> PoolStatus {
    let servers = health
        .pools
        .get(&pool.uuid)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let any = |state: OperState| servers.iter().any(|s| s.state == state);
    let state = match () {
        () if !pool.enabled => OperState::Disabled,
        () if any(OperState::Up) => OperState::Up,
        () if any(OperState::Initializing) => OperState::Initializing,
        () => OperState::Down,
    };
    let each = servers.iter().map(|s| {
        let counters = stats
            .servers
            .iter()
            .find(|c| c.pool_uuid == pool.uuid && c.addr == s.addr);
        ServerStatus {
            address: s.addr.ip().to_string(),
            port: s.addr.port().into(),
            state: s.state.into(),
            reason: s.reason.clone(),
            open_connections: counters.map_or(0, |c| c.open),
            total_connections: counters.map_or(0, |c| c.total),
            response_time_ms: s.response_time_ms,
        }
    });
    PoolStatus {
        uuid: pool.uuid.clone(),
        state: state.into(),
        servers: each.collect(),
    }
}
