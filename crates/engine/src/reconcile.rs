//! Acts on decisions: addresses, listeners and routes follow the desired state and what is observed.
//!
//! One task owns everything that acts. Up goes address, listener, route; down goes route, listener, address, so that
//! a route never points at a port that nobody listens on. It wakes on a new desired state, on health, on interfaces
//! and addresses, and on a timer while something failed or drains; each round starts from scratch and changes only
//! what differs. Told to stop, it withdraws and says Cease first (seed: the peers withdraw the routes of an SE that
//! fails; one that stops says so itself), then stops accepting, lets connections drain, and takes the VIPs away.
//!
//! Dropping the task at any await is safe for the host: addresses and settings that stay behind are marked as ours, and
//! the next engine adopts or removes them.

use crate::bgp::{Announcement, BgpDesired, Routes, Speaker, SpeakerHandle};
use crate::decide::{self, Decision, Draining, Failure, Failures, Held, Verdict};
use crate::health::{HealthHandle, HealthSnapshot};
use crate::net::Net;
use crate::sysctl::Sysctls;
use model::reason::Reason;
use proto::v1::{self, BgpSession, DesiredState, Interface, OperState};
use proxy::{ListenerStatus, ProxyHandle};
use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// How soon a failure (an address or port that could not be had) is tried again, and a drain looked at.
const RETRY: Duration = Duration::from_secs(2);
/// Time for withdrawals and Cease to reach the routers when the engine stops.
const FAREWELL: Duration = Duration::from_secs(2);
/// Longest wait for a withdrawal to leave before its listener closes; a peer that does not read must not hold us up.
const WITHDRAW_WAIT: Duration = Duration::from_millis(200);
/// Longest wait of a restarted engine for the health of its services before it tells routers that its routes are
/// complete; they keep the old ones for twice as long.
const RESTART_WAIT: Duration = Duration::from_secs(60);
/// How often the connections that are left are counted while the engine drains.
const DRAIN_POLL: Duration = Duration::from_millis(100);

/// What acting made of a decision.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Outcome {
    /// The desired state that is in force.
    pub desired: Arc<DesiredState>,
    /// By uuid of the virtual service.
    pub verdicts: BTreeMap<String, Verdict>,
    /// What failed, by uuid of the virtual service.
    pub failures: Failures,
    /// By uuid of the VsVip.
    pub announced: BTreeMap<String, Result<(), Reason>>,
}

/// The parts that act.
pub(crate) struct Actors {
    pub net: Arc<Net>,
    pub health: HealthHandle,
    pub proxy: ProxyHandle,
    pub bgp: SpeakerHandle,
    sysctls: Sysctls,
}

impl Actors {
    /// Starts them; nothing is announced, listened on or probed yet.
    pub(crate) fn start(net: Arc<Net>, state_dir: &Path) -> std::io::Result<Self> {
        let proxy = proxy::Proxy::start(proxy::ProxyConfig::default())?;
        Ok(Self {
            net,
            health: HealthHandle::spawn(),
            proxy,
            bgp: Speaker::spawn(),
            sysctls: Sysctls::open(state_dir),
        })
    }
}

/// Told to stop: when, and how long connections may drain after the routes are withdrawn.
pub(crate) struct Stop {
    pub token: CancellationToken,
    pub drain: Duration,
}

/// Reconciles until told to stop, then takes everything down in order.
pub(crate) async fn run(
    actors: Actors,
    mut desired: watch::Receiver<Arc<DesiredState>>,
    outcome: watch::Sender<Outcome>,
    stop: Stop,
) {
    let mut health = actors.health.snapshot();
    let mut interfaces = actors.net.interfaces();
    let mut vips = actors.net.vips();
    let mut reconciler = Reconciler {
        actors,
        desired: Arc::default(),
        links: Vec::new(),
        routes: Routes::new(),
        draining: Draining::default(),
        held: Held::default(),
        restarting_until: (!desired.borrow().vips.is_empty())
            .then(|| Instant::now() + RESTART_WAIT),
        outcome,
    };
    loop {
        reconciler.desired = desired.borrow_and_update().clone();
        reconciler.observe_links(&interfaces.borrow_and_update());
        reconciler.check_health();
        let snapshot = health.borrow_and_update().clone();
        vips.mark_unchanged();
        let again = reconciler.round(&snapshot).await;
        let again = async {
            if again {
                sleep(RETRY).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        // Losing the race loses nothing: each wait is for a newer value, or for time.
        tokio::select! {
            () = stop.token.cancelled() => break,
            Ok(()) = desired.changed() => {}
            Ok(()) = health.changed() => {}
            Ok(()) = interfaces.changed() => {}
            Ok(()) = vips.changed() => {}
            () = again => {}
        }
    }
    reconciler.take_down(stop.drain).await;
}

struct Reconciler {
    actors: Actors,
    desired: Arc<DesiredState>,
    links: Vec<Interface>,
    /// What the speaker was last told to announce.
    routes: Routes,
    draining: Draining,
    held: Held,
    /// This process began with virtual services that an earlier one has served, and does not know their health yet.
    restarting_until: Option<Instant>,
    outcome: watch::Sender<Outcome>,
}

impl Reconciler {
    fn observe_links(&mut self, links: &[Interface]) {
        if self.links != links {
            let names = links.iter().map(|i| i.name.as_str());
            self.actors.sysctls.cover(names);
            self.links = links.to_vec();
        }
    }

    fn check_health(&self) {
        let DesiredState {
            pools,
            health_monitors,
            ..
        } = &*self.desired;
        self.actors.health.apply(pools, health_monitors);
    }

    /// One pass. True when another is due soon: something failed or drains.
    async fn round(&mut self, health: &HealthSnapshot) -> bool {
        let decision = self.decide(health);
        let holds = self.held.update(&self.desired, Instant::now());
        let (_, hoped) = self.announcements(&decision.verdicts);
        let mut kept = self.routes.clone();
        kept.retain(|address, _| hoped.contains_key(address));
        self.withdraw_all_but(kept).await;
        let failed = self.actors.net.put_vips(&decision.vips).await;
        let listeners = self.actors.proxy.apply(decision.services.clone()).await;
        self.cut();
        let drains = self.remove_vips(&decision).await;
        let failures = self.failures(&failed, &listeners);
        let verdicts = decide::with_failures(&decision.verdicts, &failures);
        let (announced, routes) = self.announcements(&verdicts);
        if decide::is_complete(&verdicts) {
            self.restarting_until = None;
        }
        let draining = |v: &Verdict| v.1 == Reason::ServersDraining;
        // What is there only as long as connections are open.
        let kept = verdicts.values().any(draining) || self.keeps_sources(&verdicts, &routes);
        let waits = drains || holds || self.is_restarting() || kept;
        self.announce(routes);
        let again = waits || !failed.is_empty() || !failures.is_empty();
        self.tell(Outcome {
            desired: self.desired.clone(),
            verdicts,
            failures,
            announced,
        });
        again
    }

    /// From what is wanted and what is observed, connections among it.
    fn decide(&self, health: &HealthSnapshot) -> Decision {
        let mut decision = decide::decide(&self.desired, health);
        let stats = LazyCell::new(|| self.actors.proxy.stats());
        let open = |pool: &str, addr| stats.server_has_open(pool, addr);
        let before = self.outcome.borrow();
        let verdicts = &mut decision.verdicts;
        decide::keep_draining(verdicts, &self.desired, health, open, &before.verdicts);
        decision
    }

    /// Per VsVip whether it is announced, and the addresses that are.
    fn announcements(
        &self,
        verdicts: &BTreeMap<String, Verdict>,
    ) -> (BTreeMap<String, Result<(), Reason>>, Routes) {
        let now = Instant::now();
        let mut by_vsvip = BTreeMap::new();
        let mut routes = Routes::new();
        for vip in &self.desired.vips {
            let joined = self.held.is_over(&vip.vsvip_uuid, now);
            let verdict = decide::announce(&self.desired, &vip.vsvip_uuid, verdicts, joined);
            if let (Ok(()), Ok(address)) = (verdict, vip.address.parse()) {
                routes.insert(address, announcement(vip));
            }
            by_vsvip.insert(vip.vsvip_uuid.clone(), verdict);
        }
        let stats = LazyCell::new(|| self.actors.proxy.stats());
        for snat in &self.desired.snat_ips {
            let up = is_up(verdicts, &snat.vs_uuid);
            // Without the route the servers' answers to what goes on would be lost.
            let wanted = up || stats.has_open(&snat.vs_uuid);
            if let (true, Ok(address)) = (wanted, snat.address.parse()) {
                routes.entry(address).or_insert(Announcement {
                    snat: true,
                    ..Announcement::default()
                });
            }
        }
        (by_vsvip, routes)
    }

    /// Whether source addresses of virtual services that are not up are announced still.
    fn keeps_sources(&self, verdicts: &BTreeMap<String, Verdict>, routes: &Routes) -> bool {
        let announced = |address: &str| address.parse().is_ok_and(|a| routes.contains_key(&a));
        let mut all = self.desired.snat_ips.iter();
        all.any(|s| !is_up(verdicts, &s.vs_uuid) && announced(&s.address))
    }

    fn announce(&mut self, routes: Routes) {
        self.routes.clone_from(&routes);
        self.actors.bgp.apply(BgpDesired {
            profile: self.desired.vrf.as_ref().and_then(|v| v.bgp.clone()),
            bfd: self.desired.vrf.as_ref().and_then(|v| v.bfd),
            sessions_wanted: self.desired.virtual_services.iter().any(|v| v.enable_rhi)
                || !self.desired.snat_ips.is_empty(),
            interfaces: self.links.clone(),
            routes,
            draining: self.desired.draining,
            restarting: self.is_restarting(),
        });
    }

    fn is_restarting(&self) -> bool {
        self.restarting_until
            .is_some_and(|until| Instant::now() < until)
    }

    /// Withdraws what is not kept, and waits until that has left, so that no router sends to a closed port.
    async fn withdraw_all_but(&mut self, kept: Routes) {
        let gone = self.routes.keys().filter(|a| !kept.contains_key(a));
        let gone: Vec<String> = gone.map(host_prefix).collect();
        self.announce(kept);
        if gone.is_empty() {
            return;
        }
        let mut sessions = self.actors.bgp.status();
        let withdrawn = sessions.wait_for(|s| !any_sent(s, &gone));
        if timeout(WITHDRAW_WAIT, withdrawn).await.is_err() {
            tracing::warn!(
                vips = gone.join(" "),
                "a peer takes long to take a withdrawal; not waiting"
            );
        }
    }

    /// Ends the connections that an operator wants ended.
    fn cut(&self) {
        let stats = self.actors.proxy.stats();
        for uuid in &self.desired.cut_virtual_service_uuids {
            let open = stats.virtual_services.iter().find(|s| s.uuid == *uuid);
            if let Some(connections) = open.map(|s| s.open).filter(|open| *open > 0) {
                tracing::warn!(vs = uuid, connections, "a forced scale-in cuts connections");
                self.actors.proxy.cut(uuid);
            }
        }
    }

    /// Takes away the VIPs that nobody uses any more. True while connections keep some.
    async fn remove_vips(&mut self, decision: &Decision) -> bool {
        let stats = self.actors.proxy.stats();
        let open = |uuid: &str| stats.has_open(uuid);
        self.draining.update(&decision.services, open);
        let used = &self.draining.addresses() | &decision.vips;
        self.actors.net.remove_vips_except(&used).await;
        used != decision.vips
    }

    /// Services whose address or port could not be had.
    fn failures(&self, vips: &BTreeMap<IpAddr, String>, listeners: &[ListenerStatus]) -> Failures {
        let mut failures = Failures::new();
        for listener in listeners {
            if let Some(error) = &listener.error {
                let transport = match listener.protocol {
                    proxy::Protocol::Tcp => "TCP",
                    proxy::Protocol::Udp => "UDP",
                };
                let text = format!("Cannot listen on {} ({transport}): {error}.", listener.addr);
                let failure = Failure::new(Reason::ListenerFailed, text);
                failures.insert(listener.vs_uuid.clone(), failure);
            }
        }
        for vip in &self.desired.vips {
            let failed = vip.address.parse().ok().and_then(|a: IpAddr| vips.get(&a));
            let Some(error) = failed else { continue };
            let text = format!("Cannot put VIP {} on lo: {error}.", vip.address);
            let services = self.desired.virtual_services.iter();
            for vs in services.filter(|s| s.vsvip_uuid == vip.vsvip_uuid) {
                let failure = Failure::new(Reason::VipFailed, text.clone());
                failures.insert(vs.uuid.clone(), failure);
            }
        }
        for snat in &self.desired.snat_ips {
            let failed = snat.address.parse().ok().and_then(|a: IpAddr| vips.get(&a));
            if let Some(error) = failed {
                let text = format!("Cannot put source address {} on lo: {error}.", snat.address);
                let failure = Failure::new(Reason::VipFailed, text);
                failures.insert(snat.vs_uuid.clone(), failure);
            }
        }
        failures
    }

    /// Publishes, and logs what an operator would tell a colleague.
    fn tell(&self, new: Outcome) {
        let old = self.outcome.borrow().clone();
        if old == new {
            return;
        }
        for (vs, failure) in &new.failures {
            if old.failures.get(vs) != Some(failure) {
                tracing::error!(vs, reason = %failure.reason, "{}", failure.text);
            }
        }
        for (vs, (_, reason)) in &new.verdicts {
            if old.verdicts.get(vs).map(|v| v.1) != Some(*reason) {
                tracing::info!(vs, reason = %reason, "virtual service");
            }
        }
        self.outcome.send_replace(new);
    }

    async fn take_down(mut self, drain: Duration) {
        self.tell(self.stopping());
        // Servers' answers to what goes on still have to come, for which the sessions stand until then.
        let mut sources = self.routes.clone();
        sources.retain(|_, route| route.snat);
        let sends = !sources.is_empty();
        if sends {
            self.withdraw_all_but(sources).await;
        }
        let Actors {
            net,
            health,
            proxy,
            bgp,
            sysctls,
        } = self.actors;
        let farewell = bgp.shutdown("the service engine is stopping", FAREWELL);
        let last = async {
            serve_no_more(&self.desired, &health, &proxy).await;
            drained(&proxy, drain).await;
        };
        if sends {
            last.await;
            farewell.await;
        } else {
            farewell.await;
            last.await;
        }
        proxy.close_all().await;
        net.remove_vips_except(&BTreeSet::new()).await;
        self.routes.clear();
        drop(sysctls);
    }

    /// What is reported while the engine stops.
    fn stopping(&self) -> Outcome {
        let mut outcome = self.outcome.borrow().clone();
        outcome.failures.clear();
        for verdict in outcome.verdicts.values_mut() {
            *verdict = (OperState::Down, Reason::Stopping);
        }
        for announced in outcome.announced.values_mut() {
            *announced = Err(Reason::Stopping);
        }
        outcome
    }
}

fn is_up(verdicts: &BTreeMap<String, Verdict>, vs: &str) -> bool {
    let verdict = verdicts.get(vs);
    verdict.is_some_and(|v| v.0 == OperState::Up)
}

/// Running connections go on.
async fn serve_no_more(desired: &DesiredState, health: &HealthHandle, proxy: &ProxyHandle) {
    let mut services = decide::decide(desired, &health.snapshot().borrow()).services;
    services.iter_mut().for_each(|s| s.accept = false);
    proxy.apply(services).await;
}

/// Waits until no connection is left, or for the time that connections may take.
async fn drained(proxy: &ProxyHandle, limit: Duration) {
    let until = Instant::now() + limit;
    let open = || -> u64 { proxy.stats().virtual_services.iter().map(|s| s.open).sum() };
    while open() > 0 && Instant::now() < until {
        sleep_until(until.min(Instant::now() + DRAIN_POLL)).await;
    }
    match open() {
        0 => {}
        left => tracing::warn!(connections = left, "stopping cuts connections"),
    }
}

fn announcement(vip: &v1::Vip) -> Announcement {
    Announcement {
        snat: false,
        local_preference: vip.local_preference,
        num_as_path_prepend: vip.num_as_path_prepend,
        peer_labels: vip.peer_labels.clone(),
    }
}

fn any_sent(sessions: &[BgpSession], prefixes: &[String]) -> bool {
    let mut routes = sessions.iter().flat_map(|s| &s.routes);
    routes.any(|r| r.sent && prefixes.contains(&r.prefix))
}

/// As the speaker writes it.
fn host_prefix(address: &IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}
