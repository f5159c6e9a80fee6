//! Filters and rows.

use super::*;
use flow::config::Answers;
use flow::{Group, Member, Peer, Service};
use std::time::SystemTime;

fn flow(client: &str, service: &str) -> Flow {
    Flow {
        protocol: Protocol::Tcp,
        client: client.parse().unwrap(),
        service: service.parse().unwrap(),
    }
}

fn some_flow() -> Flow {
    flow("192.0.2.1:40000", "10.100.0.1:80")
}

/// One service, and `se-2` with id 5 as the other member.
fn config() -> Config {
    Config {
        services: vec![Service {
            address: "10.100.0.1:80".parse().unwrap(),
            protocol: Protocol::Tcp,
            group: 0,
            hints: true,
            probes: true,
            udp_ask_until: None,
        }],
        groups: vec![Group {
            vsvip_uuid: "v".into(),
            generation: 1,
            us: 3,
            drains: false,
            spread: None,
            answers: Answers::default(),
            members: vec![Member {
                id: 5,
                peer: 0,
                takes_new: true,
            }],
        }],
        peers: vec![Peer {
            se_uuid: "uuid-2".into(),
            name: "se-2".into(),
            addresses: Vec::new(),
            links: Vec::new(),
            alive: true,
        }],
        ..Config::default()
    }
}

#[test]
fn what_a_filter_does_not_say_is_any() {
    let wanted = FlowFilter {
        client: "192.0.2.1".into(),
        vip_port: 80,
        ..FlowFilter::default()
    };
    let filter = Filter::parse(Some(&wanted)).unwrap();
    assert!(filter.fits(&some_flow()));
    assert!(!filter.fits(&flow("192.0.2.2:40000", "10.100.0.1:80")));
    assert!(!filter.fits(&flow("192.0.2.1:40000", "10.100.0.1:81")));
    assert!(filter.fits_service("any"));
    assert_eq!(filter.flow(), None, "not one flow");
    assert!(Filter::parse(None).unwrap().fits(&some_flow()));
}

#[test]
fn a_filter_that_says_all_of_a_flow_is_that_flow() {
    assert_eq!(Filter::of(&some_flow()).flow(), Some(some_flow()));
}

#[test]
fn bad_filters_name_the_field() {
    let with = |change: fn(&mut FlowFilter)| {
        let mut filter = FlowFilter::default();
        change(&mut filter);
        Filter::parse(Some(&filter)).unwrap_err()
    };
    assert_eq!(
        with(|f| f.client = "x".into()),
        "client: \"x\" is no IP address"
    );
    assert_eq!(with(|f| f.vip_port = 70_000), "vip_port: 70000 is no port");
    assert_eq!(
        with(|f| f.protocol = "icmp".into()),
        "protocol: \"icmp\" is not tcp or udp"
    );
}

#[test]
fn events_name_the_member_where_one_is_concerned() {
    let event = |verdict, member| Event {
        at: SystemTime::UNIX_EPOCH + Duration::from_nanos(7),
        flow: some_flow(),
        verdict,
        member,
        number: 9,
    };
    let claimed = event_row(&event(Verdict::ClaimTaken, 5), &config());
    let said = (
        claimed.unix_ns,
        claimed.verdict.as_str(),
        claimed.member_uuid.as_str(),
    );
    assert_eq!(said, (7, "claim_taken", "uuid-2"));
    let left = event_row(&event(Verdict::TunnelCache, 6), &config());
    assert_eq!(left.member_uuid, "", "nobody has this id");
    let probe = event_row(&event(Verdict::Probe, 5), &config());
    assert_eq!(probe.member_uuid, "", "a probe goes to all");
}
