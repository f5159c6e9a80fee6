//! Questions from parameters, and answers of engines in the shapes of the API.

use super::super::fixture::Fixture;
use super::*;
use proto::v1::{
    Attachment, HintStats, Steering, TunnelledTo, UdpStatus, VerdictCount, VirtualServiceStatus,
};
use std::collections::BTreeMap;

fn lookup(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> + use<> {
    let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    let pairs: BTreeMap<String, String> = pairs.iter().map(owned).collect();
    move |name| pairs.get(name).cloned()
}

fn observer<'a>(fixture: &'a Fixture, snapshot: &'a Snapshot) -> Observer<'a> {
    Observer {
        snapshot,
        registry: &fixture.registry,
        planner: &fixture.planner,
    }
}

#[tokio::test]
async fn parameters_become_a_question() {
    let fixture = Fixture::new().await;
    let snapshot = fixture.objects.snapshot();
    let observer = observer(&fixture, &snapshot);
    let parameters = [("vs", "vs-1"), ("client", "192.0.2.7"), ("limit", "5")];
    let asked = observer
        .flow_question(FlowTable::Remote, &lookup(&parameters))
        .unwrap();
    let filter = asked.query.filter.unwrap();
    assert!(filter.vs_uuid.starts_with("virtualservice-"));
    assert_eq!(
        (filter.client.as_str(), asked.query.limit),
        ("192.0.2.7", 5)
    );
    assert_eq!(asked.engines, std::slice::from_ref(&fixture.engine));
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let fixture = Fixture::new().await;
    let snapshot = fixture.objects.snapshot();
    let observer = observer(&fixture, &snapshot);
    for (parameters, expected) in [
        (("se", "se-9"), "se: there is no service engine \"se-9\""),
        (("vs", "x"), "vs: there is no virtual service \"x\""),
        (("client", "x"), "client: \"x\" is no IP address"),
        (("vip_port", "0"), "vip_port: 0 is no port"),
        (("limit", "-1"), "limit: \"-1\" is no number"),
        (("protocol", "icmp"), "protocol: \"icmp\" is not steered"),
    ] {
        let asked = observer.flow_question(FlowTable::Local, &lookup(&[parameters]));
        let text = asked.err().expect("refused").text;
        assert!(text.starts_with(expected), "{text}");
    }
    assert!(table(Some("all")).is_err());
}

#[tokio::test]
async fn a_trace_needs_both_ends_of_one_family() {
    let fixture = Fixture::new().await;
    let snapshot = fixture.objects.snapshot();
    let observer = observer(&fixture, &snapshot);
    let (client, vip) = (("client", "192.0.2.7:40000"), ("vip", "10.100.0.1:80"));
    let good = lookup(&[client, vip, ("seconds", "7")]);
    let asked = observer.trace_question(&good).unwrap();
    let filter = asked.query.filter.unwrap();
    assert_eq!(
        (
            filter.protocol.as_str(),
            filter.client_port,
            asked.query.trace_s
        ),
        ("tcp", 40_000, 7)
    );
    let of = |bad: &[(&str, &str)]| {
        let asked = observer.trace_question(&lookup(bad));
        asked.err().expect("refused").text
    };
    assert!(of(&[vip]).starts_with("client: \"\" is not ADDRESS:PORT"));
    let no_port = of(&[client, ("vip", "10.100.0.1")]);
    assert!(no_port.starts_with("vip: \"10.100.0.1\" is not ADDRESS:PORT"));
    let mixed = of(&[client, ("vip", "[2001:db8::1]:80")]);
    assert!(mixed.starts_with("client: 192.0.2.7:40000 is of another"));
}

/// What an engine answers.
fn said(se: &str) -> Vec<Said> {
    let row = FlowRow {
        protocol: "tcp".into(),
        client: "192.0.2.7".into(),
        client_port: 40_000,
        vip: "10.100.0.1".into(),
        vip_port: 80,
        ..FlowRow::default()
    };
    let answer = FlowAnswer {
        flows: vec![
            FlowRow {
                found_by: "socket".into(),
                owner_uuid: se.into(),
                server: "10.1.0.5:80".into(),
                hinted: true,
                ..row.clone()
            },
            FlowRow {
                found_by: "cache".into(),
                ..row
            },
        ],
        matched: 7,
        events: vec![
            FlowEvent {
                unix_ns: 2,
                verdict: "claim_taken".into(),
                member_uuid: se.into(),
                ..FlowEvent::default()
            },
            FlowEvent {
                unix_ns: 1,
                verdict: "probe".into(),
                ..FlowEvent::default()
            },
        ],
        question: Some(FlowQuestion {
            number: 3,
            probes: 1,
            denied_uuids: vec![se.into()],
            age_ms: 4,
        }),
        member: true,
        ..FlowAnswer::default()
    };
    let silent = Err("no answer within 2 s".to_owned());
    vec![
        Said {
            se: se.into(),
            answer: Ok(answer),
        },
        Said {
            se: "serviceengine-9".into(),
            answer: silent,
        },
    ]
}

#[tokio::test]
async fn answers_name_engines_and_who_did_not_answer() {
    let fixture = Fixture::new().await;
    let snapshot = fixture.objects.snapshot();
    let observer = observer(&fixture, &snapshot);
    let said = said(&fixture.engine);
    let flows = observer.flows(&said);
    assert_eq!(flows["count"], 7);
    assert_eq!(flows["results"][0]["owner"], "se-1");
    assert_eq!(flows["results"][0]["server"], "10.1.0.5:80");
    assert_eq!(flows["results"][1]["owner"], Value::Null, "gone");
    assert_eq!(flows["not_answered"][0]["se_name"], "serviceengine-9");
    let events = observer.flow_events(&said);
    assert_eq!(events["results"][0]["verdict"], "probe", "in their order");
    assert_eq!(events["results"][1]["member"], "se-1");
    let ends = [("client", "192.0.2.7:40000"), ("vip", "10.100.0.1:80")];
    let question = observer.trace_question(&lookup(&ends)).unwrap();
    let trace = observer.trace(&question, &said);
    assert_eq!(trace["engines"][0]["local"]["hinted"], true);
    assert_eq!(trace["engines"][0]["question"]["denied_by"][0], "se-1");
    assert_eq!(trace["events"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn counters_have_one_name_in_api_and_metrics() {
    let fixture = Fixture::new().await;
    let snapshot = fixture.objects.snapshot();
    let (vs, _) = snapshot.by_name("virtualservice", "vs-1").unwrap();
    let report = Report {
        steering: Some(Steering {
            verdicts: vec![VerdictCount {
                verdict: "tunnel_hint".into(),
                packets: 12,
            }],
            tunnelled: vec![TunnelledTo {
                se_uuid: fixture.engine.clone(),
                packets: 12,
                bytes: 3400,
                flows: 5,
                flows_now: 7,
            }],
            probe_copies_per_s: 100,
            attachments: vec![Attachment {
                interface: "eth0".into(),
                hook: "xdp".into(),
                reason: "its driver has native XDP".into(),
            }],
        }),
        virtual_services: vec![VirtualServiceStatus {
            uuid: vs.into(),
            open_connections: 4,
            hints: Some(HintStats {
                stamped: 3,
                ..HintStats::default()
            }),
            udp: Some(UdpStatus {
                flows: 2,
                full: 9,
                ..UdpStatus::default()
            }),
            ..VirtualServiceStatus::default()
        }],
        ..Report::default()
    };
    fixture
        .registry
        .reported(&fixture.engine, fixture.session, report);
    let observer = observer(&fixture, &snapshot);
    let rows = observer.steering();
    assert_eq!(rows[0]["verdicts"]["tunnel_hint"], 12);
    assert_eq!(rows[0]["tunnelled"][0]["se_name"], "se-1");
    assert_eq!(rows[0]["tunnelled"][0]["flows"], 5);
    assert_eq!(rows[0]["tunnelled"][0]["flows_now"], 7);
    let attached = &rows[0]["attachments"][0];
    assert_eq!(
        (&attached["interface"], &attached["hook"]),
        (&json!("eth0"), &json!("xdp"))
    );
    assert_eq!(attached["reason"], "its driver has native XDP");
    let metrics = observer.metrics(|_| {});
    for line in [
        "evenkeel_se_connected{se=\"se-1\"} 1",
        "evenkeel_flow_packets_total{se=\"se-1\",verdict=\"tunnel_hint\"} 12",
        "evenkeel_flow_tunnelled_flows_total{se=\"se-1\",peer=\"se-1\"} 5",
        "evenkeel_flow_tunnelled_flows_now{se=\"se-1\",peer=\"se-1\"} 7",
        "evenkeel_flow_tunnelled_bytes_total{se=\"se-1\",peer=\"se-1\"} 3400",
        "evenkeel_flow_hint_stamps_total{se=\"se-1\",vs=\"vs-1\",result=\"stamped\"} 3",
        "evenkeel_vs_udp_flows{se=\"se-1\",vs=\"vs-1\"} 2",
        "evenkeel_vs_udp_events_total{se=\"se-1\",vs=\"vs-1\",event=\"full\"} 9",
        "evenkeel_vs_open_connections{se=\"se-1\",vs=\"vs-1\"} 4",
        "# EOF",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
    }
}
