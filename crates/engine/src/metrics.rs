//! The engine's own `GET /metrics`, for Prometheus; with no controller, too.
//!
//! A scrape makes all of it anew from the last report, so that what is gone is not shown. The names are those of
//! [`model::metric`], which the controller's `/metrics` has for the same things.
//!
//! One task, [`serve`], owned and aborted by [`crate::run`], owns those of the connections; each answers one request and
//! closes, within [`CONNECTION_TIME`], so that clients that do nothing hold nothing for long.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use model::metric::{self, Metric};
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use proto::v1::{
    BgpState, DesiredState, EngineLoad, OperState, PoolStatus, Report, ResponseStats, Steering,
    VirtualServiceStatus,
};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// From accepting a connection to the end of its only answer.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// Connections at a time: some collectors and a person.
const CONNECTIONS_MAX: usize = 16;
/// Pause after a connection could not be accepted (no descriptors are left).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// As Prometheus and OpenMetrics readers take it.
const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge>;
type Counters = Family<Labels, Counter>;

/// What a scrape tells of.
#[derive(Clone)]
pub(crate) struct Source {
    /// The engine's name: the label `se`.
    pub name: String,
    /// Names of virtual services and of peers.
    pub desired: watch::Receiver<Arc<DesiredState>>,
    /// What is observed.
    pub reports: watch::Receiver<Report>,
    /// Whether there is a session with a controller.
    pub connected: watch::Receiver<bool>,
}

/// Answers until it is aborted.
pub(crate) async fn serve(listener: TcpListener, source: Source) {
    serve_within(CONNECTION_TIME, listener, source).await;
}

async fn serve_within(connection_time: Duration, listener: TcpListener, source: Source) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    // The semaphore is never closed.
    while let Ok(place) = places.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics could not be accepted");
                sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let answered = timeout(connection_time, answer_one(stream, source.clone()));
        connections.spawn(async move {
            answered.await.ok();
            drop(place);
        });
        while connections.try_join_next().is_some() {}
    }
}

/// One request; what goes wrong is the client's to see.
async fn answer_one(stream: TcpStream, source: Source) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(&source, request.method(), request.uri().path());
        async { Ok::<_, Infallible>(response) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    let connection = http.keep_alive(false);
    let served = connection.serve_connection(TokioIo::new(stream), service);
    served.await.ok();
}

fn answer(source: &Source, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let known = path == "/metrics";
    let (status, kind, body) = match *method {
        _ if !known => (StatusCode::NOT_FOUND, "text/plain", "see /metrics\n".into()),
        Method::GET | Method::HEAD => (StatusCode::OK, FORMAT, source.scrape()),
        _ => (
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain",
            "use GET\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
    }
    response
}

impl Source {
    fn scrape(&self) -> String {
        let (report, desired) = (self.reports.borrow().clone(), self.desired.borrow().clone());
        let mut sheet = Sheet::new(&self.name, &desired);
        let connected = *self.connected.borrow();
        sheet.set(&metric::SE_CONNECTED, vec![], u64::from(connected));
        sheet.process(&report);
        sheet.sessions(&report);
        sheet.vips(&report);
        sheet.services(&report);
        sheet.pools(&report);
        sheet.steering(report.steering.as_ref());
        sheet.text()
    }
}

/// One page of metrics while it is written.
struct Sheet<'a> {
    registry: Registry,
    gauges: Vec<(&'static str, Gauges)>,
    counters: Vec<(&'static str, Counters)>,
    se: &'a str,
    desired: &'a DesiredState,
}

impl<'a> Sheet<'a> {
    fn new(se: &'a str, desired: &'a DesiredState) -> Self {
        let mut registry = Registry::with_prefix(metric::PREFIX);
        let (mut gauges, mut counters) = (Vec::new(), Vec::new());
        for metric in metric::OF_ENGINES {
            match metric.kind {
                metric::Kind::Gauge => {
                    let family = Gauges::default();
                    registry.register(metric.name, metric.help, family.clone());
                    gauges.push((metric.name, family));
                }
                metric::Kind::Counter => {
                    let family = Counters::default();
                    registry.register(metric.name, metric.help, family.clone());
                    counters.push((metric.name, family));
                }
            }
        }
        Self {
            registry,
            gauges,
            counters,
            se,
            desired,
        }
    }

    fn labels(&self, more: Labels) -> Labels {
        let all = [vec![("se", self.se.to_owned())], more].concat();
        all.iter()
            .map(|(key, value)| (*key, metric::label(value)))
            .collect()
    }

    /// Writes a gauge. A number that no gauge holds is as great as one can be.
    fn set(&mut self, metric: &Metric, more: Labels, value: u64) {
        let labels = self.labels(more);
        let family = self.gauges.iter().find(|(name, _)| *name == metric.name);
        if let Some((_, family)) = family {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            family.get_or_create(&labels).set(value);
        }
    }

    /// One more of this.
    fn add(&mut self, metric: &Metric, more: Labels) {
        let labels = self.labels(more);
        let family = self.gauges.iter().find(|(name, _)| *name == metric.name);
        if let Some((_, family)) = family {
            family.get_or_create(&labels).inc();
        }
    }

    /// Writes a counter.
    fn count(&mut self, metric: &Metric, more: Labels, value: u64) {
        let labels = self.labels(more);
        let family = self.counters.iter().find(|(name, _)| *name == metric.name);
        if let Some((_, family)) = family {
            family.get_or_create(&labels).inc_by(value);
        }
    }

    fn process(&mut self, report: &Report) {
        let stats = report.stats.unwrap_or_default();
        let generation = report.applied_generation;
        self.set(&metric::ENGINE_GENERATION, vec![], generation);
        self.set(&metric::ENGINE_RESIDENT_MEMORY, vec![], stats.rss_bytes);
        self.set(&metric::ENGINE_UPTIME, vec![], stats.uptime_s);
        let open = stats.open_connections;
        self.set(&metric::ENGINE_OPEN_CONNECTIONS, vec![], open);
        self.load(stats.load.unwrap_or_default());
        if let Some(bfd) = &report.bfd {
            let drops = bfd.kernel_drops;
            self.count(&metric::ENGINE_BFD_KERNEL_DROPS, vec![], drops);
        }
    }

    fn load(&mut self, load: EngineLoad) {
        let used_ms = [load.process_cpu_ms, load.host_busy_ms, load.host_softirq_ms];
        for (word, ms) in metric::CPU_OF.into_iter().zip(used_ms) {
            let of = vec![("of", word.to_owned())];
            self.count(&metric::SE_CPU_SECONDS, of, ms / 1000);
        }
        let (packets, bytes) = (
            [load.rx_packets, load.tx_packets],
            [load.rx_bytes, load.tx_bytes],
        );
        for (i, word) in metric::DIRECTIONS.into_iter().enumerate() {
            let direction = || vec![("direction", word.to_owned())];
            self.count(&metric::SE_PACKETS, direction(), packets[i]);
            self.count(&metric::SE_BYTES, direction(), bytes[i]);
        }
        self.memory([load.host_memory_bytes, load.host_memory_available_bytes]);
    }

    /// Nothing where it is not known.
    fn memory(&mut self, host: [u64; 2]) {
        for (word, bytes) in metric::MEMORY_OF.into_iter().zip(host) {
            let of = vec![("of", word.to_owned())];
            if host[0] > 0 {
                self.set(&metric::SE_MEMORY, of, bytes);
            }
        }
    }

    fn sessions(&mut self, report: &Report) {
        for session in &report.bgp_sessions {
            let state = BgpState::try_from(session.state).unwrap_or_default();
            let up = state == BgpState::Established;
            let peer = vec![("peer", session.peer.clone())];
            self.set(&metric::BGP_SESSION_UP, peer, u64::from(up));
            let word = state.as_str_name().trim_start_matches("BGP_STATE_");
            self.add(
                &metric::ENGINE_BGP_SESSIONS,
                vec![("state", word.to_owned())],
            );
        }
        for session in &report.bfd_sessions {
            let up = session.state == "up";
            let peer = vec![("peer", session.peer.clone())];
            self.set(&metric::BFD_SESSION_UP, peer, u64::from(up));
            let state = vec![("state", session.state.clone())];
            self.add(&metric::ENGINE_BFD_SESSIONS, state);
        }
    }

    fn vips(&mut self, report: &Report) {
        for vip in &report.vips {
            let reason = ("reason", vip.reason_code.clone());
            let labels = vec![("vip", vip.address.clone()), reason];
            self.set(
                &metric::ENGINE_VIP_ANNOUNCED,
                labels,
                u64::from(vip.announced),
            );
        }
    }

    fn services(&mut self, report: &Report) {
        for vs in &report.virtual_services {
            let mut known = self.desired.virtual_services.iter();
            let named = known.find(|v| v.uuid == vs.uuid);
            // One of a state that is over by now is in the next report no more.
            if let Some(name) = named.map(|v| v.name.clone()) {
                self.service(&name, vs);
            }
        }
    }

    fn service(&mut self, name: &str, status: &VirtualServiceStatus) {
        let of = |key, word: &str| vec![("vs", name.to_owned()), (key, word.to_owned())];
        let vs = || vec![("vs", name.to_owned())];
        let up = status.state == OperState::Up as i32;
        let state = of("reason", &status.reason_code);
        self.set(&metric::ENGINE_VS_UP, state, u64::from(up));
        self.set(&metric::VS_OPEN_CONNECTIONS, vs(), status.open_connections);
        let dropped = status.connections_dropped.unwrap_or_default();
        self.count(&metric::VS_CONNECTIONS_DROPPED, vs(), dropped);
        let classes = status.responses.as_ref().map(ResponseStats::classes);
        let counts = classes.into_iter().flatten();
        for (class, count) in metric::STATUS_CLASSES.into_iter().zip(counts) {
            self.count(&metric::VS_RESPONSES, of("status", class), count);
        }
        if let Some(udp) = &status.udp {
            self.set(&metric::VS_UDP_FLOWS, vs(), udp.flows);
            for (event, count) in [
                ("full", udp.full),
                ("dropped", udp.dropped),
                ("moved", udp.moved),
                ("dispatched_again", udp.dispatched_again),
            ] {
                self.count(&metric::VS_UDP_EVENTS, of("event", event), count);
            }
        }
        let hints = status.hints.unwrap_or_default();
        for (result, count) in [
            ("stamped", hints.stamped),
            ("renewed", hints.renewed),
            ("unstamped_no_timestamps", hints.unstamped_no_timestamps),
            ("stamp_failed", hints.stamp_failed),
        ] {
            self.count(&metric::FLOW_HINT_STAMPS, of("result", result), count);
        }
    }

    fn pools(&mut self, report: &Report) {
        let known = self.desired.pools.iter();
        let names: HashMap<&str, &str> =
            known.map(|p| (p.uuid.as_str(), p.name.as_str())).collect();
        for pool in &report.pools {
            if let Some(name) = names.get(pool.uuid.as_str()) {
                self.pool(name, pool);
            }
        }
    }

    fn pool(&mut self, name: &str, status: &PoolStatus) {
        let Some(bytes) = status.bytes() else { return };
        for (word, bytes) in metric::DIRECTIONS.into_iter().zip(bytes) {
            let labels = vec![("pool", name.to_owned()), ("direction", word.to_owned())];
            self.count(&metric::POOL_BYTES, labels, bytes);
        }
    }

    /// Nothing while no program is loaded.
    fn steering(&mut self, steering: Option<&Steering>) {
        let Some(steering) = steering else { return };
        for count in &steering.verdicts {
            let verdict = vec![("verdict", count.verdict.clone())];
            self.count(&metric::FLOW_PACKETS, verdict, count.packets);
        }
        for to in &steering.tunnelled {
            let mut peers = self.desired.peers.iter();
            let peer = peers.find(|p| p.se_uuid == to.se_uuid);
            let name = peer.map_or(&to.se_uuid, |p| &p.name);
            let peer = || vec![("peer", name.clone())];
            self.count(&metric::FLOW_TUNNELLED_FLOWS, peer(), to.flows);
            self.set(&metric::FLOW_TUNNELLED_FLOWS_NOW, peer(), to.flows_now);
            self.count(&metric::FLOW_TUNNELLED_PACKETS, peer(), to.packets);
            self.count(&metric::FLOW_TUNNELLED_BYTES, peer(), to.bytes);
        }
        let copies = steering.probe_copies_per_s;
        self.set(&metric::FLOW_PROBE_BUDGET, vec![], copies.into());
    }

    fn text(&self) -> String {
        let mut text = String::new();
        // A String takes everything.
        text::encode(&mut text, &self.registry).ok();
        text
    }
}

#[cfg(test)]
mod tests;
