//! The Service Engine's sub-paths of the contract (avi-api 10.4) that show its host's network and its flow tables, as
//! the engine says at that moment. Each answer is a list of one element, because an engine is one process; what the
//! engine does not know of a structure of the contract is left out.

use super::again::NO_SESSION;
use super::clear::Counted;
use super::flows::{Lookup, query};
use super::flowtable::{self, TableFilter};
use super::runtime::Observer;
use crate::error::ApiError;
use ipnet::IpNet;
use proto::v1::{
    FlowAnswer, FlowTable, HostAnswer, HostInterface, HostNeighbour, HostRoute, HostTable,
    LinkCounters, Report,
};
use serde_json::{Value, json};
use std::time::Duration;

/// An engine that takes longer is not waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Flows of an answer, unless `limit` says otherwise.
const LIMIT: u32 = 1000;
/// Flows that an engine tells at once.
const LIMIT_MAX: u32 = 10_000;

/// Which sub-path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostView {
    /// `interface`.
    Interface,
    /// `route`: IPv4.
    Route,
    /// `ip6route`.
    Route6,
    /// `arptable`, with the neighbours of IPv6.
    Arp,
}

/// Which flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowView {
    /// `flowtable`: that live there.
    Local,
    /// `flowtable_remote`: that were sent on from there.
    Remote,
}

impl Observer<'_> {
    /// `serviceengine/UUID/interface`, `route`, `ip6route`, `arptable`.
    pub(super) async fn engine_host(&self, se: &str, view: HostView) -> Value {
        let table = match view {
            HostView::Interface => HostTable::Interfaces,
            HostView::Route | HostView::Route6 => HostTable::Routes,
            HostView::Arp => HostTable::Neighbours,
        };
        let answer = self.ask_host(se, table).await;
        let (field, rows) = rows(view, &answer.clone().unwrap_or_default());
        let mut element = element(se);
        element[field] = rows;
        match answer {
            Err(why) => element["not_answered"] = why.into(),
            Ok(answer) if !answer.problem.is_empty() => {
                element["not_answered"] = answer.problem.into();
            }
            Ok(answer) => note_cut(&mut element, answer.rows, shown(&answer)),
        }
        self.since_interfaces_were_cleared(se, &mut element);
        json!([element])
    }

    fn since_interfaces_were_cleared(&self, se: &str, element: &mut Value) {
        let vnics = element.get_mut("vnics").and_then(Value::as_array_mut);
        for vnic in vnics.into_iter().flatten() {
            let name = vnic["vnic_name"].as_str().unwrap_or_default().to_owned();
            if let Some(stats) = vnic.get_mut("interface_stats") {
                self.since_cleared(se, Counted::Interface(name), stats);
            }
        }
    }

    /// `serviceengine/UUID/flowtable` and `flowtable_remote`, with the contract's filters and `limit`.
    ///
    /// # Errors
    /// 400 with the parameter.
    pub(super) async fn engine_flows(
        &self,
        se: &str,
        view: FlowView,
        lookup: &Lookup<'_>,
    ) -> Result<Value, ApiError> {
        let filter = TableFilter::of(lookup)?;
        let limit = super::flows::number(lookup, "limit")?.unwrap_or(LIMIT);
        let limit = limit.min(LIMIT_MAX);
        let table = match view {
            FlowView::Local => FlowTable::Local,
            FlowView::Remote => FlowTable::Remote,
        };
        // What the engine cannot sift is sifted here, so that all of it has to come.
        let asked = if filter.is_exact() { limit } else { LIMIT_MAX };
        let answer = self.ask_one(se, query(table, filter.of_engine(), asked));
        let answer = answer.await;
        let mut element = element(se);
        let entries = answer
            .as_ref()
            .map_or_else(|_| Vec::new(), |a| self.entries(a, &filter, limit));
        let count = entries.len();
        match view {
            FlowView::Local => element["flow_entries"] = entries.into(),
            // The state of a flow is known where it lives, and not here.
            FlowView::Remote => {
                element["vnic_table"] = json!([{"unknown": {"flow_entries": entries}}]);
            }
        }
        match answer {
            Err(why) => element["not_answered"] = why.into(),
            Ok(answer) if !answer.problem.is_empty() => {
                element["not_answered"] = answer.problem.into();
            }
            Ok(answer) if filter.is_exact() => note_cut(&mut element, answer.matched, count),
            Ok(answer) => element["more"] = (answer.matched > answer.flows.len() as u64).into(),
        }
        Ok(json!([element]))
    }

    fn entries(&self, answer: &FlowAnswer, filter: &TableFilter, limit: u32) -> Vec<Value> {
        let rows = answer.flows.iter().filter(|f| filter.fits(f));
        let rows = rows.take(limit as usize);
        rows.map(|f| self.flow_entry(f)).collect()
    }

    /// `serviceengine/UUID/flowtablestat`: what the engine's programs have counted, which they do for all interfaces
    /// together.
    pub(super) fn engine_flow_counters(&self, se: &str) -> Value {
        let mut element = element(se);
        match self.seen(se) {
            None => element["not_answered"] = NO_SESSION.into(),
            Some(seen) => {
                let mut verdicts = verdicts(&seen.report);
                self.since_cleared(se, Counted::Verdicts, &mut verdicts);
                element["dispatch"] = json!([dispatch(&seen.report, &verdicts)]);
            }
        }
        json!([element])
    }

    pub(super) async fn ask_host(&self, se: &str, table: HostTable) -> Result<HostAnswer, String> {
        let mut pending = self.registry.ask_host(se, table).ok_or(NO_SESSION)?;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, pending.answer()).await;
        let late = |_| {
            format!(
                "no answer within {} s; engines of older versions do not know the question",
                ANSWER_TIMEOUT.as_secs()
            )
        };
        answer
            .map_err(late)?
            .ok_or_else(|| "its session ended".into())
    }
}

fn element(se: &str) -> Value {
    json!({"se_uuid": se, "proc_id": "C0"})
}

/// Says that there is more than is shown.
fn note_cut(element: &mut Value, there: u64, shown: usize) {
    element["more"] = (there > shown as u64).into();
}

fn shown(answer: &HostAnswer) -> usize {
    answer.interfaces.len() + answer.routes.len() + answer.neighbours.len()
}

/// The list that the structure of the contract has, and its name there.
fn rows(view: HostView, answer: &HostAnswer) -> (&'static str, Value) {
    let of_family = |six: bool| {
        let routes = answer.routes.iter();
        let own = routes.filter(move |r| r.destination.contains(':') == six);
        own.filter_map(route_entry).collect()
    };
    match view {
        HostView::Interface => ("vnics", answer.interfaces.iter().map(vnic).collect()),
        HostView::Route => ("route_entry", of_family(false)),
        HostView::Route6 => ("route_entry", of_family(true)),
        HostView::Arp => (
            "arp_entry",
            answer.neighbours.iter().map(arp_entry).collect(),
        ),
    }
}

fn vnic(row: &HostInterface) -> Value {
    let interface = row.interface.clone().unwrap_or_default();
    let addresses = interface.addresses.iter();
    let addresses = addresses.filter_map(|a| a.parse::<IpNet>().ok());
    let mut vnic = json!({
        "vnic_name": interface.name, "linux_intf_name": interface.name, "vnic_id": row.index,
        "mac_address": interface.mac, "vnic_mtu": interface.mtu, "link_up": interface.up,
        "vlan_id": row.vlan_id, "vrf_id": VRF_ID,
        "ip_info": addresses.map(ip_info).collect::<Vec<_>>(),
    });
    if let Some(counters) = row.counters {
        vnic["interface_stats"] = interface_stats(counters);
    }
    vnic
}

/// Since the interface is there.
pub(super) fn interface_stats(c: LinkCounters) -> Value {
    json!({
        "ipackets": c.rx_packets, "ibytes": c.rx_bytes, "ierrors": c.rx_errors, "idropped": c.rx_dropped,
        "opackets": c.tx_packets, "obytes": c.tx_bytes, "oerrors": c.tx_errors, "odropped": c.tx_dropped,
    })
}

/// An engine has one data VRF.
const VRF_ID: u32 = 1;

fn ip_info(net: IpNet) -> Value {
    json!({"ip_addr": flowtable::address(net.addr()), "net_mask": net.prefix_len()})
}

/// `rt_flags` as netstat writes them: up, over a gateway, of one host.
fn route_entry(route: &HostRoute) -> Option<Value> {
    let net: IpNet = route.destination.parse().ok()?;
    let mut flags = "U".to_owned();
    if !route.gateway.is_empty() {
        flags.push('G');
    }
    if net.prefix_len() == net.max_prefix_len() {
        flags.push('H');
    }
    Some(json!({
        "destination": net.addr().to_string(), "netmask": net.netmask().to_string(), "prefix_length": net.prefix_len(),
        "gateway": route.gateway, "interface": route.interface, "ifa_ip": route.source,
        "rt_flags": flags, "metric": route.metric, "vrf_id": VRF_ID,
    }))
}

fn arp_entry(row: &HostNeighbour) -> Value {
    json!({
        "vnic_name": row.interface, "ip_address": row.address, "mac_address": row.mac,
        "state": row.state, "vrf_id": VRF_ID,
    })
}

/// What the engine's programs have counted, by verdict.
pub(super) fn verdicts(report: &Report) -> Value {
    let verdicts = report.steering.iter().flat_map(|s| &s.verdicts);
    let each = verdicts.map(|v| (v.verdict.clone(), json!(v.packets)));
    Value::Object(each.collect())
}

/// Counters of the contract that ours say exactly, and ours by their own names.
fn dispatch(report: &Report, verdicts: &Value) -> Value {
    let count = |codes: &[&str]| -> u64 {
        let named = codes.iter().filter_map(|code| verdicts[*code].as_u64());
        named.sum()
    };
    let services = report.virtual_services.iter();
    let flows: u64 = services.clone().map(|s| s.open_connections).sum();
    let udp: u64 = services.filter_map(|s| Some(s.udp?.flows)).sum();
    let attachments = report.steering.iter().flat_map(|s| &s.attachments);
    let interfaces = attachments.map(|a| a.interface.as_str());
    json!({
        "interfaces": interfaces.collect::<Vec<_>>(),
        "flow_rx_create": count(&["local_new"]),
        "flow_rx_lookup_hit": count(&["local_socket", "tunnel_cache", "tunnel_hint"]),
        "flow_rx_lookup_miss": count(&["local_none", "local_denied", "probe"]),
        "flow_table_num_entries": flows, "flow_table_num_udp_entries": udp,
        "flow_table_num_tcp_entries": flows.saturating_sub(udp),
        "verdicts": verdicts,
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;
    use crate::engines::outbox::{Messages, Outbox};
    use futures_util::StreamExt as _;
    use proto::v1::controller_message::Body;
    use proto::v1::{Interface, UdpStatus, VerdictCount, VirtualServiceStatus};

    #[test]
    fn a_vnic_has_the_contracts_fields_and_the_kernels_counters() {
        let row = HostInterface {
            interface: Some(Interface {
                name: "eth0".into(),
                mac: "02:00:00:00:00:01".into(),
                up: true,
                mtu: 1500,
                addresses: vec!["10.10.10.11/24".into()],
                link: None,
            }),
            index: 2,
            vlan_id: 7,
            counters: Some(LinkCounters {
                rx_packets: 3,
                tx_bytes: 4,
                ..LinkCounters::default()
            }),
        };
        let vnic = vnic(&row);
        let ip = json!([{"ip_addr": {"addr": "10.10.10.11", "type": "V4"}, "net_mask": 24}]);
        assert_eq!(
            (&vnic["vnic_name"], &vnic["vlan_id"], &vnic["ip_info"]),
            (&json!("eth0"), &json!(7), &ip)
        );
        let stats = &vnic["interface_stats"];
        assert_eq!(
            (&stats["ipackets"], &stats["obytes"]),
            (&json!(3), &json!(4))
        );
    }

    #[test]
    fn routes_are_of_one_family_and_say_how_they_lead() {
        let route = |destination: &str, gateway: &str| HostRoute {
            destination: destination.into(),
            gateway: gateway.into(),
            interface: "eth0".into(),
            ..HostRoute::default()
        };
        let answer = HostAnswer {
            routes: vec![
                route("0.0.0.0/0", "10.10.10.1"),
                route("10.10.10.0/24", ""),
                route("192.0.2.1/32", "10.10.10.1"),
                route("::/0", "2001:db8::1"),
            ],
            ..HostAnswer::default()
        };
        let (field, four) = rows(HostView::Route, &answer);
        let four = four.as_array().expect("a list");
        let flags: Vec<_> = four.iter().map(|r| &r["rt_flags"]).collect();
        assert_eq!(field, "route_entry");
        assert_eq!(flags, [&json!("UG"), &json!("U"), &json!("UGH")]);
        assert_eq!(four[1]["netmask"], "255.255.255.0");
        let (_, six) = rows(HostView::Route6, &answer);
        assert_eq!(six[0]["destination"], "::");
        assert_eq!(six.as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn counters_are_those_of_the_programs_and_the_services() {
        let verdict = |verdict: &str, packets| VerdictCount {
            verdict: verdict.into(),
            packets,
        };
        let report = Report {
            virtual_services: vec![VirtualServiceStatus {
                open_connections: 5,
                udp: Some(UdpStatus {
                    flows: 2,
                    ..UdpStatus::default()
                }),
                ..VirtualServiceStatus::default()
            }],
            steering: Some(proto::v1::Steering {
                verdicts: vec![
                    verdict("local_new", 9),
                    verdict("tunnel_cache", 3),
                    verdict("local_socket", 4),
                ],
                ..proto::v1::Steering::default()
            }),
            ..Report::default()
        };
        let dispatch = dispatch(&report, &verdicts(&report));
        assert_eq!(dispatch["flow_rx_create"], 9);
        assert_eq!(dispatch["flow_rx_lookup_hit"], 7);
        assert_eq!(dispatch["flow_table_num_tcp_entries"], 3);
        assert_eq!(dispatch["verdicts"]["local_new"], 9);
    }

    /// Reads what the engine is sent until it is asked, and answers.
    async fn answer(fixture: &Fixture, mut inbox: Messages) -> String {
        while let Some(Ok(message)) = inbox.next().await {
            match message.body {
                Some(Body::HostQuery(query)) => {
                    let answer = HostAnswer {
                        id: query.id,
                        rows: 3,
                        routes: vec![HostRoute {
                            destination: "10.10.10.0/24".into(),
                            ..HostRoute::default()
                        }],
                        ..HostAnswer::default()
                    };
                    fixture.registry.answered_host(&fixture.engine, answer);
                    return query.table().as_str_name().into();
                }
                Some(Body::FlowQuery(query)) => {
                    let flow = |client: &str| proto::v1::FlowRow {
                        protocol: "tcp".into(),
                        client: client.into(),
                        found_by: "socket".into(),
                        ..proto::v1::FlowRow::default()
                    };
                    let answer = FlowAnswer {
                        id: query.id,
                        flows: vec![flow("192.0.2.7"), flow("198.51.100.7")],
                        matched: 2,
                        ..FlowAnswer::default()
                    };
                    fixture.registry.answered(&fixture.engine, answer);
                    return query.table().as_str_name().into();
                }
                _ => {}
            }
        }
        panic!("the session ended before a question came");
    }

    fn session(fixture: &Fixture) -> Messages {
        let (outbox, inbox) = Outbox::new();
        let hello = proto::v1::Hello::default();
        fixture.registry.open(&fixture.engine, hello, outbox);
        inbox
    }

    #[tokio::test]
    async fn an_engine_is_asked_for_its_table_and_says_when_there_is_more() {
        let fixture = Fixture::new().await;
        let inbox = session(&fixture);
        let (snapshot, engine) = (fixture.snapshot(), fixture.engine.as_str());
        let observer = fixture.observer(&snapshot);
        let asked = observer.engine_host(engine, HostView::Route);
        let (shown, table) = tokio::join!(asked, answer(&fixture, inbox));
        assert_eq!(table, "HOST_TABLE_ROUTES");
        let element = &shown[0];
        assert_eq!(
            (&element["se_uuid"], &element["proc_id"], &element["more"]),
            (&json!(engine), &json!("C0"), &json!(true))
        );
        assert_eq!(element["route_entry"][0]["destination"], "10.10.10.0");
        assert_eq!(element.get("not_answered"), None);
    }

    #[tokio::test]
    async fn a_flow_table_is_sifted_by_what_the_engine_cannot_sift_by() {
        let fixture = Fixture::new().await;
        let inbox = session(&fixture);
        let (snapshot, engine) = (fixture.snapshot(), fixture.engine.as_str());
        let observer = fixture.observer(&snapshot);
        let lookup = |name: &str| match name {
            "src_ip_addr" => Some("192.0.2.0".to_owned()),
            "src_ip_mask" => Some("24".to_owned()),
            _ => None,
        };
        let asked = observer.engine_flows(engine, FlowView::Local, &lookup);
        let (shown, table) = tokio::join!(asked, answer(&fixture, inbox));
        assert_eq!(table, "FLOW_TABLE_LOCAL");
        let element = &shown.expect("good")[0];
        let entries = element["flow_entries"].as_array().expect("a list");
        assert_eq!(entries.len(), 1, "{element}");
        assert_eq!(entries[0]["src_ip"]["addr"], "192.0.2.7");
        assert_eq!(entries[0]["is_local"], true);
    }
}
