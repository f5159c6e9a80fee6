//! `GET /metrics`: what engines have counted, under the words of API and CLI. A scrape makes all of it anew from the
//! engines' last reports, so that what is gone is not shown.

use super::routing::{Seen, bgp_word};
use super::runtime::Observer;
use model::metric::{self, Metric};
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use proto::v1::{EngineLoad, ResponseStats, UdpStatus, VirtualServiceStatus};

type Labels = Vec<(&'static str, String)>;

#[derive(Default)]
struct Metrics {
    connected: Family<Labels, Gauge>,
    bgp_up: Family<Labels, Gauge>,
    bfd_up: Family<Labels, Gauge>,
    connections: Family<Labels, Gauge>,
    datagram_flows: Family<Labels, Gauge>,
    datagram_events: Family<Labels, Counter>,
    dropped: Family<Labels, Counter>,
    responses: Family<Labels, Counter>,
    pool_bytes: Family<Labels, Counter>,
    packets: Family<Labels, Counter>,
    tunnelled_flows: Family<Labels, Counter>,
    flows_now: Family<Labels, Gauge>,
    tunnelled_packets: Family<Labels, Counter>,
    tunnelled_bytes: Family<Labels, Counter>,
    budget: Family<Labels, Gauge>,
    stamps: Family<Labels, Counter>,
    cpu: Family<Labels, Counter>,
    packets_of_links: Family<Labels, Counter>,
    bytes_of_links: Family<Labels, Counter>,
    memory: Family<Labels, Gauge>,
}

impl Observer<'_> {
    pub(super) fn metrics(&self, own: impl FnOnce(&mut Registry)) -> String {
        let metrics = Metrics::default();
        for (uuid, stored) in self.snapshot.all("serviceengine") {
            let se = vec![("se", metric::label(stored.name()))];
            let is_connected = self.registry.is_connected(uuid);
            metrics
                .connected
                .get_or_create(&se)
                .set(i64::from(is_connected));
        }
        for seen in self.all_seen() {
            metrics.routing(&seen);
            metrics.load(&seen);
            self.add_services(&metrics, &seen);
            self.add_pools(&metrics, &seen);
            self.add_steering(&metrics, &seen);
        }
        let mut all = metrics.registry();
        own(&mut all);
        let mut text = String::new();
        // A String takes everything.
        text::encode(&mut text, &all).ok();
        text
    }

    fn add_services(&self, metrics: &Metrics, seen: &Seen) {
        for vs in &seen.report.virtual_services {
            let Some(name) = self.snapshot.name_of("virtualservice", &vs.uuid) else {
                continue;
            };
            let of = |more: Labels| labels(seen, [vec![("vs", name.to_owned())], more].concat());
            let open = i64::try_from(vs.open_connections).unwrap_or(i64::MAX);
            metrics.connections.get_or_create(&of(vec![])).set(open);
            metrics.answers(vs, of);
            if let Some(udp) = &vs.udp {
                metrics.datagrams(udp, of);
            }
            let hints = vs.hints.unwrap_or_default();
            let results = [
                ("stamped", hints.stamped),
                ("renewed", hints.renewed),
                ("unstamped_no_timestamps", hints.unstamped_no_timestamps),
                ("stamp_failed", hints.stamp_failed),
            ];
            for (result, count) in results {
                let labels = of(vec![("result", result.to_owned())]);
                metrics.stamps.get_or_create(&labels).inc_by(count);
            }
        }
    }

    /// Nothing of an older engine.
    fn add_pools(&self, metrics: &Metrics, seen: &Seen) {
        for pool in &seen.report.pools {
            let name = self.snapshot.name_of("pool", &pool.uuid);
            let (Some(name), Some(bytes)) = (name, pool.bytes()) else {
                continue;
            };
            for (word, bytes) in metric::DIRECTIONS.into_iter().zip(bytes) {
                let more = vec![("pool", name.to_owned()), ("direction", word.to_owned())];
                let counter = metrics
                    .pool_bytes
                    .get_or_create(&labels(seen, more))
                    .clone();
                counter.inc_by(bytes);
            }
        }
    }

    fn add_steering(&self, metrics: &Metrics, seen: &Seen) {
        let Some(steering) = &seen.report.steering else {
            return;
        };
        for count in &steering.verdicts {
            let labels = labels(seen, vec![("verdict", count.verdict.clone())]);
            metrics.packets.get_or_create(&labels).inc_by(count.packets);
        }
        for to in &steering.tunnelled {
            let labels = labels(seen, vec![("peer", self.name(&to.se_uuid))]);
            let (packets, bytes) = (&metrics.tunnelled_packets, &metrics.tunnelled_bytes);
            let flows = metrics.tunnelled_flows.get_or_create(&labels).clone();
            flows.inc_by(to.flows);
            let now = metrics.flows_now.get_or_create(&labels).clone();
            now.set(i64::try_from(to.flows_now).unwrap_or(i64::MAX));
            packets.get_or_create(&labels).inc_by(to.packets);
            bytes.get_or_create(&labels).inc_by(to.bytes);
        }
        let budget = metrics.budget.get_or_create(&labels(seen, vec![])).clone();
        budget.set(steering.probe_copies_per_s.into());
    }
}

impl Metrics {
    /// Of a virtual service's UDP flows; the words are those of the API.
    fn datagrams(&self, udp: &UdpStatus, of: impl Fn(Labels) -> Labels) {
        let flows = i64::try_from(udp.flows).unwrap_or(i64::MAX);
        self.datagram_flows.get_or_create(&of(vec![])).set(flows);
        for (event, count) in [
            ("full", udp.full),
            ("dropped", udp.dropped),
            ("moved", udp.moved),
            ("dispatched_again", udp.dispatched_again),
        ] {
            let labels = of(vec![("event", event.to_owned())]);
            self.datagram_events.get_or_create(&labels).inc_by(count);
        }
    }

    /// What became of a virtual service's connections and requests, as far as the engine tells it.
    fn answers(&self, vs: &VirtualServiceStatus, of: impl Fn(Labels) -> Labels) {
        if let Some(dropped) = vs.connections_dropped {
            self.dropped.get_or_create(&of(vec![])).inc_by(dropped);
        }
        let classes = vs.responses.as_ref().map(ResponseStats::classes);
        let counts = classes.into_iter().flatten();
        for (class, count) in metric::STATUS_CLASSES.into_iter().zip(counts) {
            let labels = of(vec![("status", class.to_owned())]);
            self.responses.get_or_create(&labels).inc_by(count);
        }
    }

    /// What the engine's host carries; nothing of an older engine.
    fn load(&self, seen: &Seen) {
        let stats = seen.report.stats.as_ref();
        let Some(load) = stats.and_then(|s| s.load) else {
            return;
        };
        let used_ms = [load.process_cpu_ms, load.host_busy_ms, load.host_softirq_ms];
        for (word, ms) in metric::CPU_OF.into_iter().zip(used_ms) {
            let labels = labels(seen, vec![("of", word.to_owned())]);
            self.cpu.get_or_create(&labels).inc_by(ms / 1000);
        }
        let packets = [load.rx_packets, load.tx_packets];
        let bytes = [load.rx_bytes, load.tx_bytes];
        for (i, word) in metric::DIRECTIONS.into_iter().enumerate() {
            let labels = labels(seen, vec![("direction", word.to_owned())]);
            let all = self.packets_of_links.get_or_create(&labels).clone();
            all.inc_by(packets[i]);
            self.bytes_of_links.get_or_create(&labels).inc_by(bytes[i]);
        }
        self.memory(seen, load);
    }

    fn memory(&self, seen: &Seen, load: EngineLoad) {
        let host = [load.host_memory_bytes, load.host_memory_available_bytes];
        let words = metric::MEMORY_OF.into_iter().filter(|_| host[0] > 0);
        for (word, bytes) in words.zip(host) {
            let labels = labels(seen, vec![("of", word.to_owned())]);
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            self.memory.get_or_create(&labels).set(bytes);
        }
    }

    fn routing(&self, seen: &Seen) {
        for session in &seen.report.bgp_sessions {
            let labels = labels(seen, vec![("peer", session.peer.clone())]);
            let up = bgp_word(session) == "ESTABLISHED";
            self.bgp_up.get_or_create(&labels).set(up.into());
        }
        for session in &seen.report.bfd_sessions {
            let labels = labels(seen, vec![("peer", session.peer.clone())]);
            let up = session.state == "up";
            self.bfd_up.get_or_create(&labels).set(up.into());
        }
    }

    fn registry(self) -> Registry {
        let mut all = Registry::with_prefix(metric::PREFIX);
        let mut gauge = |metric: Metric, family| all.register(metric.name, metric.help, family);
        gauge(metric::SE_CONNECTED, self.connected);
        gauge(metric::BGP_SESSION_UP, self.bgp_up);
        gauge(metric::BFD_SESSION_UP, self.bfd_up);
        gauge(metric::VS_OPEN_CONNECTIONS, self.connections);
        gauge(metric::VS_UDP_FLOWS, self.datagram_flows);
        gauge(metric::FLOW_TUNNELLED_FLOWS_NOW, self.flows_now);
        gauge(metric::FLOW_PROBE_BUDGET, self.budget);
        gauge(metric::SE_MEMORY, self.memory);
        let mut counter = |metric: Metric, family| all.register(metric.name, metric.help, family);
        counter(metric::VS_UDP_EVENTS, self.datagram_events);
        counter(metric::VS_CONNECTIONS_DROPPED, self.dropped);
        counter(metric::VS_RESPONSES, self.responses);
        counter(metric::POOL_BYTES, self.pool_bytes);
        counter(metric::FLOW_PACKETS, self.packets);
        counter(metric::FLOW_TUNNELLED_FLOWS, self.tunnelled_flows);
        counter(metric::FLOW_TUNNELLED_PACKETS, self.tunnelled_packets);
        counter(metric::FLOW_TUNNELLED_BYTES, self.tunnelled_bytes);
        counter(metric::FLOW_HINT_STAMPS, self.stamps);
        counter(metric::SE_CPU_SECONDS, self.cpu);
        counter(metric::SE_PACKETS, self.packets_of_links);
        counter(metric::SE_BYTES, self.bytes_of_links);
        all
    }
}

fn labels(seen: &Seen, more: Labels) -> Labels {
    let all = [vec![("se", seen.name.clone())], more].concat();
    all.iter()
        .map(|(key, value)| (*key, metric::label(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;
    use proto::v1::{EngineStats, PoolStatus, Report, ServerStatus};
    use serde_json::json;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// As Prometheus sees them: a counter's samples end in `_total`.
    fn names() -> BTreeSet<String> {
        let metrics = Metrics::default();
        let none = Labels::new();
        for gauge in [
            &metrics.connected,
            &metrics.bgp_up,
            &metrics.bfd_up,
            &metrics.connections,
            &metrics.datagram_flows,
            &metrics.flows_now,
            &metrics.budget,
            &metrics.memory,
        ] {
            drop(gauge.get_or_create(&none));
        }
        for counter in [
            &metrics.datagram_events,
            &metrics.dropped,
            &metrics.responses,
            &metrics.pool_bytes,
            &metrics.packets,
            &metrics.tunnelled_flows,
            &metrics.tunnelled_packets,
            &metrics.tunnelled_bytes,
            &metrics.stamps,
            &metrics.cpu,
            &metrics.packets_of_links,
            &metrics.bytes_of_links,
        ] {
            drop(counter.get_or_create(&none));
        }
        let mut text = String::new();
        text::encode(&mut text, &metrics.registry()).unwrap();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let name = |line: &str| line.split(['{', ' ']).next().unwrap().to_owned();
        samples.map(name).collect()
    }

    #[test]
    fn dashboard_and_alerts_name_metrics_that_there_are() {
        let ours = names();
        assert_eq!(ours.len(), 20, "{ours:?}");
        let others = metric::OF_ENGINES.iter().chain(metric::OF_CONTROLLER);
        let others = others.map(Metric::sample);
        let names: BTreeSet<String> = ours.into_iter().chain(others).collect();
        for file in ["grafana/evenkeel.json", "prometheus/rules.yml"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../../packaging")
                .join(file);
            let text = std::fs::read_to_string(&path).unwrap();
            let is_word = |c: char| c.is_ascii_lowercase() || c == '_';
            let words = text.split(|c| !is_word(c));
            let used: BTreeSet<&str> = words.filter(|w| w.starts_with("evenkeel_")).collect();
            assert!(used.len() > 3, "{file}");
            for name in used {
                assert!(
                    names.contains(name),
                    "{file} names {name}, which nobody counts"
                );
            }
        }
    }

    /// All that an engine of today counts, and what an older one tells of the same.
    fn report(vs: &str, pool: &str, is_older: bool) -> Report {
        let known = |count: u64| Some(count).filter(|_| !is_older);
        let responses = known(8).map(|class_2xx| ResponseStats {
            class_2xx,
            ..ResponseStats::default()
        });
        let load = EngineLoad {
            host_memory_bytes: known(4096).unwrap_or_default(),
            host_memory_available_bytes: known(1024).unwrap_or_default(),
            ..EngineLoad::default()
        };
        Report {
            virtual_services: vec![VirtualServiceStatus {
                uuid: vs.into(),
                connections_dropped: known(6),
                responses,
                ..VirtualServiceStatus::default()
            }],
            pools: vec![PoolStatus {
                uuid: pool.into(),
                servers: vec![ServerStatus {
                    bytes_sent: known(70),
                    bytes_received: known(80),
                    ..ServerStatus::default()
                }],
                ..PoolStatus::default()
            }],
            stats: Some(EngineStats {
                load: Some(load),
                ..EngineStats::default()
            }),
            ..Report::default()
        }
    }

    #[tokio::test]
    async fn what_an_engine_counts_is_told_and_nothing_that_an_older_one_does_not() {
        let fixture = Fixture::new().await;
        let pool = fixture.create("pool", json!({"name": "web"})).await;
        let snapshot = fixture.objects.snapshot();
        let (vs, _) = snapshot.by_name("virtualservice", "vs-1").unwrap();
        let page = |is_older: bool| {
            let report = report(vs, &pool, is_older);
            let (registry, planner) = (&fixture.registry, &fixture.planner);
            registry.reported(&fixture.engine, fixture.session, report);
            let snapshot = &snapshot;
            let observer = Observer {
                snapshot,
                registry,
                planner,
            };
            observer.metrics(|_| {})
        };
        let (older, newer) = (page(true), page(false));
        for line in [
            "evenkeel_vs_connections_dropped_total{se=\"se-1\",vs=\"vs-1\"} 6",
            "evenkeel_vs_responses_total{se=\"se-1\",vs=\"vs-1\",status=\"2xx\"} 8",
            "evenkeel_pool_bytes_total{se=\"se-1\",pool=\"web\",direction=\"received\"} 80",
            "evenkeel_pool_bytes_total{se=\"se-1\",pool=\"web\",direction=\"sent\"} 70",
            "evenkeel_se_memory_bytes{se=\"se-1\",of=\"all\"} 4096",
            "evenkeel_se_memory_bytes{se=\"se-1\",of=\"available\"} 1024",
        ] {
            assert!(newer.lines().any(|l| l == line), "{line}\n{newer}");
            let name = line.split('{').next().unwrap();
            assert!(!older.contains(name), "{name}\n{older}");
        }
    }
}
