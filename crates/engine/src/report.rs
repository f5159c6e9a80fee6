//! What is observed, put together for the controller.
//!
//! The observer is one task, owned and aborted by [`crate::run`]; it only reads, so that it may end at any await.

mod monitors;

use crate::bfd::BfdMonitor;
use crate::health::{HealthSnapshot, Monitors, pool_state};
use crate::load::Meter;
use crate::native::{Parts, Seen};
use crate::net::Net;
use crate::reconcile::{Actors, Outcome};
use crate::steering::sentry::{Sighting, Sightings};
use crate::steering::{Plan, Watch};
use flow::Verdict;
use flow::primary::Part;
use health::State;
use model::reason::Reason;
use proto::v1::{
    self, Attachment, BgpSession, EngineStats, HintStats, LearnedRoute, OperState, Pool,
    PoolStatus, Protocol, Report, ResponseStats, ServerStatus, Steering, TunnelledTo, UdpStatus,
    VerdictCount, Vip, VipStatus, VirtualService, VirtualServiceStatus,
};
use proxy::{ProxyHandle, Stats, UdpStats};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Changes within this time are one report.
const REPORT_COALESCE: Duration = Duration::from_millis(50);
/// A report goes out at least this often: counters have no event.
const REPORT_PERIOD: Duration = Duration::from_secs(5);

/// Puts reports together.
pub(crate) struct Observer {
    outcome: watch::Receiver<Outcome>,
    health: watch::Receiver<Arc<HealthSnapshot>>,
    monitors: Monitors,
    bgp: watch::Receiver<Arc<Vec<BgpSession>>>,
    learned: watch::Receiver<Arc<Vec<LearnedRoute>>>,
    bfd: Arc<OnceLock<BfdMonitor>>,
    steering: watch::Receiver<Arc<Plan>>,
    sightings: watch::Receiver<Sightings>,
    watch: Watch,
    parts: watch::Receiver<Parts>,
    proxy: ProxyHandle,
    meter: Meter,
    started: Instant,
}

impl Observer {
    pub(crate) fn new(
        actors: &Actors,
        outcome: watch::Receiver<Outcome>,
        (steering, sightings, watch, parts): (
            watch::Receiver<Arc<Plan>>,
            watch::Receiver<Sightings>,
            Watch,
            watch::Receiver<Parts>,
        ),
    ) -> Self {
        let (health, bgp, learned, bfd, proxy) = (
            actors.health.snapshot(),
            actors.bgp.status(),
            actors.bgp.learned(),
            actors.bgp.bfd_cell(),
            actors.proxy.clone(),
        );
        Self {
            outcome,
            health,
            monitors: actors.health.monitors(),
            bgp,
            learned,
            bfd,
            steering,
            sightings,
            watch,
            parts,
            proxy,
            meter: Meter::new(),
            started: Instant::now(),
        }
    }

    /// Makes a report on every change and on a period; aborted with the engine.
    pub(crate) async fn run(mut self, net: Arc<Net>, reports: watch::Sender<Report>) {
        let mut interfaces = net.interfaces();
        for sequence in 1.. {
            let mut report = self.report();
            report.sequence = sequence;
            report
                .interfaces
                .clone_from(&interfaces.borrow_and_update());
            let load = self.meter.load(&report.interfaces);
            report.stats.iter_mut().for_each(|s| s.load = Some(load));
            monitors::fit(&mut report);
            reports.send_replace(report);
            tokio::time::sleep(REPORT_COALESCE).await;
            tokio::select! {
                _ = self.outcome.changed() => {}
                _ = self.health.changed() => {}
                _ = self.bgp.changed() => {}
                _ = self.learned.changed() => {}
                _ = self.steering.changed() => {}
                _ = self.sightings.changed() => {}
                Ok(()) = self.parts.changed() => {}
                _ = interfaces.changed() => {}
                () = tokio::time::sleep(REPORT_PERIOD) => {}
            }
        }
    }

    fn report(&mut self) -> Report {
        let stats = self.proxy.stats();
        let outcome = self.outcome.borrow_and_update().clone();
        let mut report = report(&outcome, &self.health.borrow_and_update(), &stats);
        monitors::fill(&mut report.pools, &self.monitors);
        play(
            &mut report.vips,
            &self.parts.borrow_and_update(),
            &outcome.desired.se_uuid,
        );
        report.bgp_sessions = self.bgp.borrow_and_update().to_vec();
        let bfd = self.bfd.get();
        report.bfd_sessions = bfd.map(BfdMonitor::status).unwrap_or_default();
        report.bfd = bfd.map(BfdMonitor::engine);
        report.member_problems = self.steering.borrow_and_update().problems.clone();
        report.sightings = sightings(&self.sightings.borrow_and_update());
        report.steering = steering(&self.watch);
        report.learned_routes = self.learned.borrow_and_update().to_vec();
        report.stats = Some(EngineStats {
            rss_bytes: rss_bytes(),
            uptime_s: self.started.elapsed().as_secs(),
            open_connections: stats.virtual_services.iter().map(|s| s.open).sum(),
            load: None,
        });
        report
    }
}

/// Our part for the VIPs that are scaled natively; `us`: our uuid.
fn play(vips: &mut [VipStatus], parts: &Parts, us: &str) {
    for vip in vips {
        if let Some(Seen { part, primary }) = parts.get(&vip.vsvip_uuid) {
            let ours = (*part == Part::Answering).then_some(us);
            let primary = ours.or(primary.as_deref()).unwrap_or_default();
            vip.native_part = part.code().into();
            vip.native_primary_uuid = primary.into();
        }
    }
}

fn sightings(seen: &Sightings) -> Vec<v1::Sighting> {
    let each = seen.iter();
    let each = each.map(|(se_uuid, Sighting { answers, since })| v1::Sighting {
        se_uuid: se_uuid.clone(),
        answers: *answers,
        since_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
    });
    each.collect()
}

/// What the programs have counted, once they are loaded.
fn steering(watch: &Watch) -> Option<Steering> {
    let seen = watch.lock();
    let counters = seen.counters.as_ref()?;
    let verdicts = Verdict::ALL.iter().map(|verdict| VerdictCount {
        verdict: verdict.code().into(),
        packets: counters.of(*verdict),
    });
    let tunnelled = counters.tunnelled.iter().map(|(se_uuid, to)| TunnelledTo {
        se_uuid: se_uuid.clone(),
        packets: to.packets,
        bytes: to.bytes,
        flows: to.flows,
        flows_now: seen.flows.get(se_uuid).copied().unwrap_or(0),
    });
    let attached = seen.attached.iter().map(|a| Attachment {
        interface: a.interface.clone(),
        hook: a.hook.code().into(),
        reason: a.reason.clone(),
    });
    Some(Steering {
        attachments: attached.collect(),
        verdicts: verdicts.collect(),
        tunnelled: tunnelled.collect(),
        probe_copies_per_s: seen.rate.map_or(0, |rate| rate.copies_per_s),
    })
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

/// Services, pools and VIPs.
fn report(outcome: &Outcome, health: &HealthSnapshot, stats: &Stats) -> Report {
    let desired = &outcome.desired;
    Report {
        applied_generation: desired.generation,
        virtual_services: desired
            .virtual_services
            .iter()
            .map(|v| service_status(v, outcome, stats))
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

fn service_status(vs: &VirtualService, outcome: &Outcome, stats: &Stats) -> VirtualServiceStatus {
    let uuid = vs.uuid.as_str();
    let unknown = (OperState::Unspecified, Reason::VsDown);
    let (state, code) = outcome.verdicts.get(uuid).copied().unwrap_or(unknown);
    let reason = match outcome.failures.get(uuid) {
        Some(failure) if failure.reason == code => failure.text.clone(),
        _ if code == Reason::Up => String::new(),
        _ => code.sentence().to_owned(),
    };
    let counters = stats.virtual_service(uuid);
    VirtualServiceStatus {
        uuid: uuid.to_owned(),
        state: state.into(),
        reason_code: code.code().into(),
        reason,
        open_connections: counters.map_or(0, |c| c.open),
        total_connections: counters.map_or(0, |c| c.total),
        bytes_in: counters.map_or(0, |c| c.bytes_in),
        bytes_out: counters.map_or(0, |c| c.bytes_out),
        oldest_connection_s: counters
            .and_then(|c| c.oldest)
            .map_or(0, |age| age.as_secs()),
        hints: counters.map(|c| hints(c.hints)),
        udp: counters.map(|c| udp_status(c.udp)).filter(|_| has_udp(vs)),
        connections_dropped: Some(counters.map_or(0, |c| c.refused + c.udp.full)),
        responses: counters
            .map(|c| responses(c.responses))
            .filter(|_| has_http(vs)),
    }
}

fn hints(stats: proxy::HintStats) -> HintStats {
    HintStats {
        stamped: stats.stamped,
        unstamped_no_timestamps: stats.unstamped_no_timestamps,
        stamp_failed: stats.stamp_failed,
        renewed: stats.renewed,
    }
}

fn has_udp(vs: &VirtualService) -> bool {
    let mut ports = vs.ports.iter();
    ports.any(|range| range.protocol() == Protocol::Udp)
}

fn has_http(vs: &VirtualService) -> bool {
    vs.ports.iter().any(|range| range.http.is_some())
}

fn responses([class_1xx, class_2xx, class_3xx, class_4xx, class_5xx]: [u64; 5]) -> ResponseStats {
    ResponseStats {
        class_1xx,
        class_2xx,
        class_3xx,
        class_4xx,
        class_5xx,
    }
}

fn udp_status(stats: UdpStats) -> UdpStatus {
    let UdpStats {
        flows,
        full,
        dropped,
        moved,
        dispatched_again,
    } = stats;
    UdpStatus {
        flows,
        full,
        dropped,
        moved,
        dispatched_again,
    }
}

fn vip_status(vip: &Vip, outcome: &Outcome) -> VipStatus {
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
        native_part: String::new(),
        native_primary_uuid: String::new(),
    }
}

fn pool_status(pool: &Pool, health: &HealthSnapshot, stats: &Stats) -> PoolStatus {
    let servers = health.servers(&pool.uuid);
    let state = match pool_state(pool, servers) {
        _ if !pool.enabled => OperState::Disabled,
        State::Up => OperState::Up,
        State::Initializing => OperState::Initializing,
        State::Down => OperState::Down,
    };
    let each = servers.iter().map(|s| {
        let counters = stats.server(&pool.uuid, s.addr);
        ServerStatus {
            address: s.addr.ip().to_string(),
            port: s.addr.port().into(),
            state: s.state.into(),
            reason: s.reason(),
            failure_code: s.failure.map(|f| f.code().to_owned()).unwrap_or_default(),
            open_connections: counters.map_or(0, |c| c.open),
            total_connections: counters.map_or(0, |c| c.total),
            response_time_ms: s.response_time_ms,
            inline_health_share: counters.and_then(|c| c.inline_health_share),
            monitors: Vec::new(),
            bytes_sent: Some(counters.map_or(0, |c| c.bytes_sent)),
            bytes_received: Some(counters.map_or(0, |c| c.bytes_received)),
        }
    });
    PoolStatus {
        uuid: pool.uuid.clone(),
        state: state.into(),
        servers: each.collect(),
    }
}

#[cfg(test)]
mod tests;
