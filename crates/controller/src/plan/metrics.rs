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
use proto::v1::UdpStatus;

type Labels = Vec<(&'static str, String)>;

#[derive(Default)]
struct Metrics {
    connected: Family<Labels, Gauge>,
    bgp_up: Family<Labels, Gauge>,
    bfd_up: Family<Labels, Gauge>,
    connections: Family<Labels, Gauge>,
    datagram_flows: Family<Labels, Gauge>,
    datagram_events: Family<Labels, Counter>,
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
        let mut counter = |metric: Metric, family| all.register(metric.name, metric.help, family);
        counter(metric::VS_UDP_EVENTS, self.datagram_events);
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
    use super::*;
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
        ] {
            drop(gauge.get_or_create(&none));
        }
        for counter in [
            &metrics.datagram_events,
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
        assert_eq!(ours.len(), 16, "{ours:?}");
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
}
