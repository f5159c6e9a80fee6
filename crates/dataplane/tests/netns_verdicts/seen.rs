//! What user space sees of flows and packets, and what it clears.

use super::*;
use evenkeel_dataplane::steering::{Event, FlowTables};
use flow::Verdict;
use flow::wire::{Message, MessageKind};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

fn flow_of(segment: &Segment) -> Flow {
    Flow {
        protocol: Protocol::Tcp,
        client: segment.client,
        service: segment.vip,
    }
}

/// An answer of engine 2 to the question with this number.
fn answer(family: &Family, kind: MessageKind, flow: Flow, number: u16) -> Ip {
    let message = Message {
        kind,
        sender: 2,
        number,
        generation: 1,
        flow,
        load: 0,
    };
    let key = MessageKey {
        id: 7,
        secret: [1, 2],
    };
    let [_, us, c] = family.engines;
    Ip::new(c, us, 17, differential::udp(&message.sign(&key)))
}

#[test]
fn questions_and_owners_of_flows_can_be_read_beside_the_programs() {
    on_ground(|ground, family| {
        let tables = FlowTables::open(ground.pins.0.path()).unwrap();
        let stranger = segment(family, 1);
        let flow = flow_of(&stranger);
        assert_eq!((tables.owner(&flow), tables.question(&flow)), (None, None));

        ground.expect(&stranger.ip(), "probe", SHOT);
        let question = tables.question(&flow).unwrap();
        assert_eq!((question.probes, question.denied), (1, 0));
        assert!(question.number > 0 && question.age < Duration::from_secs(5));

        let claim = answer(family, MessageKind::Claim, flow, question.number);
        ground.expect(&claim, "claim_taken", SHOT);
        assert_eq!(
            (tables.owner(&flow), tables.question(&flow)),
            (Some(2), None)
        );
        ground.expect(&stranger.ip(), "tunnel_cache", REDIRECT);

        let all = tables.remote(&|_| true, 10);
        assert_eq!((all.matched, all.flows.len()), (1, 1));
        assert_eq!((all.flows[0].flow, all.flows[0].member), (flow, 2));
        assert_eq!(tables.remote(&|_| true, 0).flows, []);
        assert_eq!(tables.remote(&|f| f.client.port() == 2, 10).matched, 0);
    });
}

/// Verdicts and members of the events that have come.
fn events(ground: &mut Ground) -> Vec<(Verdict, u8)> {
    let events: Vec<Event> = ground.steering.events(100);
    events.iter().map(|e| (e.verdict, e.member)).collect()
}

#[test]
fn packets_of_a_traced_flow_are_events_until_its_time_and_others_are_not() {
    on_ground(|ground, family| {
        let hinted = |port| {
            let segment = segment(family, port);
            let tsecr = hint(segment.client, segment.vip, 2);
            Segment { tsecr, ..segment }
        };
        let (traced, other, over) = (hinted(1), hinted(2), hinted(3));
        let later = Instant::now() + Duration::from_secs(60);
        let flows = BTreeMap::from([(flow_of(&traced), later), (flow_of(&over), Instant::now())]);
        ground.steering.watch(&flows).unwrap();
        ground.steering.apply(&config(|_| {})).unwrap();
        for segment in [traced, other, over] {
            ground.expect(&segment.ip(), "tunnel_hint", REDIRECT);
        }
        assert_eq!(events(ground), [(Verdict::TunnelHint, 2)]);

        let [a, us, _] = family.engines;
        ground.expect(&traced.ip().within(a, us, DATA | 5), "return", REDIRECT);
        assert_eq!(events(ground), [(Verdict::Return, 0)]);

        ground.steering.watch(&BTreeMap::new()).unwrap();
        ground.steering.apply(&config(|_| {})).unwrap();
        ground.expect(&traced.ip(), "tunnel_hint", REDIRECT);
        assert_eq!(events(ground), []);
    });
}

#[test]
fn questions_and_their_answers_are_events_of_every_flow() {
    on_ground(|ground, family| {
        let tables = FlowTables::open(ground.pins.0.path()).unwrap();
        let stranger = segment(family, 1);
        let flow = flow_of(&stranger);
        ground.expect(&stranger.ip(), "probe", SHOT);
        let number = tables.question(&flow).unwrap().number;
        let deny = answer(family, MessageKind::Deny, flow, number);
        ground.expect(&deny, "deny_taken", SHOT);
        assert_eq!(tables.question(&flow).unwrap().denied, 1 << 2);
        let seen: Vec<Event> = ground.steering.events(100);
        let said: Vec<_> = seen.iter().map(|e| (e.verdict, e.flow, e.number)).collect();
        let expected = [Verdict::Probe, Verdict::DenyTaken].map(|v| (v, flow, number));
        assert_eq!(said, expected);
        let ago = seen[0].at.elapsed().unwrap();
        assert!(ago < Duration::from_secs(5), "{ago:?}");
    });
}

#[test]
fn a_hint_that_was_wrong_once_is_believed_again_when_user_space_says_so() {
    on_ground(|ground, family| {
        let [a, us, _] = family.engines;
        let stranger = segment(family, 1);
        let tsecr = hint(stranger.client, stranger.vip, 0);
        let hinted = Segment { tsecr, ..stranger };
        ground.expect(&hinted.ip(), "tunnel_hint", REDIRECT);
        let check = mark(hinted.client, hinted.vip).check();
        let back = hinted.ip().within(a, us, RETURN | check);
        ground.expect(&back, "returned", SHOT);
        ground.expect(&hinted.ip(), "drop_asked", SHOT);
        ground.steering.trust_hints().unwrap();
        ground.expect(&hinted.ip(), "tunnel_hint", REDIRECT);
    });
}
