//! `GET /metrics`: what engines have counted, under the words of API and CLI. A scrape makes all of it anew from the
//! engines' last reports, so that what is gone is not shown.

use super::routing::{Seen, bgp_word};
use super::runtime::Observer;
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
}

impl Observer<'_> {
    pub(super) fn metrics(&self) -> String {
        let metrics = Metrics::default();
        for (uuid, stored) in self.snapshot.all("serviceengine") {
            let se = vec![("se", stored.name().to_owned())];
            let is_connected = self.registry.is_connected(uuid);
            metrics
                .connected
                .get_or_create(&se)
                .set(i64::from(is_connected));
        }
        for seen in self.all_seen() {
            metrics.routing(&seen);
            self.add_services(&metrics, &seen);
            self.add_steering(&metrics, &seen);
        }
        let mut text = String::new();
        // A String takes everything.
        text::encode(&mut text, &metrics.registry()).ok();
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
        let mut all = Registry::with_prefix("evenkeel");
        all.register(
            "se_connected",
            "1 while the engine has a session with the controller",
            self.connected,
        );
        all.register(
            "bgp_session_up",
            "1 while the session is ESTABLISHED",
            self.bgp_up,
        );
        all.register("bfd_session_up", "1 while the session is up", self.bfd_up);
        all.register(
            "vs_open_connections",
            "Connections of a virtual service that are open at the engine",
            self.connections,
        );
        all.register(
            "vs_udp_flows",
            "UDP flows of a virtual service at the engine",
            self.datagram_flows,
        );
        all.register(
            "vs_udp_events",
            "Datagrams dropped (full: as many flows as may be; dropped: a buffer was full, or no server was left) or dispatched again, and flows moved to another server",
            self.datagram_events,
        );
        all.register(
            "flow_packets",
            "Packets to VIPs and between engines, by what steering did with them",
            self.packets,
        );
        all.register(
            "flow_tunnelled_flows",
            "Flows that a question has found at another engine, or that went there because this one drains",
            self.tunnelled_flows,
        );
        all.register(
            "flow_tunnelled_flows_now",
            "Flows of which packets were sent to the engine that owns them within 10 s, about",
            self.flows_now,
        );
        all.register(
            "flow_tunnelled_packets",
            "Packets sent to the engine that owns their flow",
            self.tunnelled_packets,
        );
        all.register(
            "flow_tunnelled_bytes",
            "Bytes of these packets, without the outer header",
            self.tunnelled_bytes,
        );
        all.register(
            "flow_probe_budget_copies_per_second",
            "Copies of probes that may be sent",
            self.budget,
        );
        all.register(
            "flow_hint_stamps",
            "Connections that were made to carry their owner, by result",
            self.stamps,
        );
        all
    }
}

fn labels(seen: &Seen, more: Labels) -> Labels {
    let mut labels = vec![("se", seen.name.clone())];
    labels.extend(more);
    labels
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
        let names = names();
        assert_eq!(names.len(), 13, "{names:?}");
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
