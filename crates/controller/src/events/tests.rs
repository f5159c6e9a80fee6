use super::*;
use crate::access::Access;

fn event(id: Id, part: &str) -> Event {
    let subject = Subject {
        path: "serviceengine".into(),
        uuid: "serviceengine-1".into(),
        name: "se-1".into(),
        tenant: "admin".into(),
    };
    Event::new(id, subject, format!("{part} went down")).of_part(part)
}

fn ring(kept: usize, count: u64) -> Ring {
    let mut ring = Ring::new(kept, Vec::new());
    for n in 1..=count {
        ring.push(event(Id::SeUp, &n.to_string()), n);
    }
    ring
}

fn numbers(events: &[Arc<Event>]) -> Vec<u64> {
    events.iter().map(|e| e.sequence).collect()
}

#[test]
fn the_ring_keeps_the_newest_and_says_how_many_a_late_reader_missed() {
    let ring = ring(4, 10);
    assert_eq!(numbers(&ring.since(0, 100)), [7, 8, 9, 10]);
    assert_eq!(numbers(&ring.since(8, 1)), [9]);
    assert_eq!(ring.since(10, 100), []);
    assert_eq!((ring.forgotten_since(0), ring.forgotten_since(5)), (6, 1));
    assert_eq!((ring.forgotten_since(6), ring.forgotten_since(10)), (0, 0));
}

#[test]
fn after_a_restart_no_number_is_given_twice() {
    let before: Vec<Event> = ring(4, 10)
        .since(0, 100)
        .iter()
        .map(|e| (**e).clone())
        .collect();
    let mut again = Ring::new(2, before);
    assert_eq!(numbers(&again.since(0, 100)), [9, 10]);
    assert!(
        again.newest() > 10,
        "somebody may have had numbers that no file has"
    );
    assert!(again.push(event(Id::SeUp, ""), 0) > 1000);
    let last = again.since(10, 1);
    assert_eq!(last[0].time_us, 10, "the clock was set back");
}

#[test]
fn what_happens_over_and_over_again_is_counted() {
    let mut damper = Damper::default();
    let second_us = 1_000_000_u64;
    let passed = (0..30_u64).filter(|n| {
        damper
            .admit(event(Id::BgpPeerDown, "a"), n * second_us)
            .is_some()
    });
    assert_eq!(passed.count(), 3);
    assert!(
        damper
            .admit(event(Id::BgpPeerDown, "b"), 30 * second_us)
            .is_some(),
        "another peer"
    );
    assert!(
        damper
            .admit(event(Id::BgpPeerStateChange, "a"), 30 * second_us)
            .is_some(),
        "another event"
    );
    assert_eq!(damper.due(59 * second_us), []);
    let [summary] = damper.due(60 * second_us).try_into().unwrap();
    assert_eq!((summary.repeated, summary.id), (27, Id::BgpPeerDown));
    assert_eq!(
        summary.summary,
        "27 times within 60 s, at last: a went down"
    );
    assert!(
        damper
            .admit(event(Id::BgpPeerDown, "a"), 61 * second_us)
            .is_some(),
        "a new minute"
    );
}

#[test]
fn what_was_held_back_ends_with_how_things_are() {
    for last in [Id::ServerUp, Id::ServerDown] {
        let other = if last == Id::ServerUp {
            Id::ServerDown
        } else {
            Id::ServerUp
        };
        let mut damper = Damper::default();
        for second in 0..20_u64 {
            let id = if second % 2 == 0 { other } else { last };
            damper.admit(event(id, "10.1.0.5"), second * 1_000_000);
        }
        let held = damper.due(u64::MAX);
        let ids: Vec<Id> = held.iter().map(|e| e.id).collect();
        assert_eq!(ids, [other, last]);
    }
}

#[test]
fn an_object_of_many_parts_has_a_bound_of_its_own() {
    let mut damper = Damper::default();
    let passed = (0..100).filter(|n| {
        damper
            .admit(event(Id::ServerDown, &n.to_string()), 0)
            .is_some()
    });
    assert_eq!(passed.count(), 20);
    let held: u32 = damper.due(u64::MAX).iter().map(|e| e.repeated).sum();
    assert_eq!(held, 80);
}

#[test]
fn a_reader_gets_what_comes_after_what_he_has_until_all_is_closed() {
    let events = Events::new(Vec::new());
    let newest = events.newest();
    events.record(event(Id::SeUp, ""));
    events.record(event(Id::SeDown, ""));
    assert_eq!(*newest.borrow(), 2);
    assert_eq!(numbers(&events.since(1, 10)), [2]);
    events.close();
    events.record(event(Id::SeUp, ""));
    events.tick();
    assert_eq!(events.all().len(), 2);
}

#[test]
fn an_event_looks_as_the_contract_has_it() {
    let mut event = event(Id::BgpPeerDown, "10.0.0.1")
        .with_details(
            "se_bgp_peer_down_details",
            serde_json::json!({"peer_ip": "10.0.0.1"}),
        )
        .with_related(["virtualservice-1".to_owned()]);
    event.time_us = 1_767_225_600_000_001;
    let shown = event.show();
    assert_eq!(shown["report_timestamp"], 1_767_225_600);
    assert_eq!(shown["time"], "2026-01-01T00:00:00.000001Z");
    assert_eq!(
        (&shown["obj_type"], &shown["obj_name"]),
        (&"SERVICEENGINE".into(), &"se-1".into())
    );
    assert_eq!(shown["internal"], "EVENT_INTERNAL");
    assert_eq!(
        shown["event_details"]["se_bgp_peer_down_details"]["peer_ip"],
        "10.0.0.1"
    );
    assert!(event.concerns("virtualservice-1") && event.concerns("serviceengine-1"));
    assert!(!event.concerns("virtualservice-2"));
}

#[test]
fn codes_are_read_back_and_a_text_without_end_is_cut() {
    for id in Id::ALL {
        assert_eq!(Id::of(id.code()), Some(*id));
    }
    let long = Event::new(Id::SeUp, Subject::controller(), "ä".repeat(1000));
    assert!(
        long.summary.len() < 1010 && long.summary.ends_with('…'),
        "{}",
        long.summary.len()
    );
}

#[tokio::test]
async fn who_sees_an_object_sees_its_events() {
    let objects = crate::objects::Objects::open(Arc::new(store::Memory::default()))
        .await
        .unwrap();
    crate::bootstrap::ensure(&objects).await.unwrap();
    let hash = "$argon2id$of nothing".to_owned();
    crate::bootstrap::access::make_admin(&objects, hash)
        .await
        .unwrap();
    let snapshot = objects.snapshot();
    let (nobody, everybody) = (Access::default(), Access::of(&snapshot, "admin").unwrap());
    let view = |tenant: &str, every_tenant| View {
        tenant: tenant.into(),
        every_tenant,
    };
    let pool = |tenant: &str| Subject {
        path: "pool".into(),
        uuid: "pool-gone".into(),
        name: "gone".into(),
        tenant: tenant.into(),
    };
    let shows = |view: &View, who: &Access, subject: &Subject| view.shows(&snapshot, who, subject);
    assert!(shows(&view("t1", false), &everybody, &pool("t1")));
    assert!(
        !shows(&view("t1", false), &everybody, &pool("t2")),
        "he looks elsewhere"
    );
    assert!(shows(&view("t1", true), &everybody, &pool("t2")));
    let (uuid, _) = snapshot.by_name("vrfcontext", "global").unwrap();
    let shared = Subject::of(&snapshot, "vrfcontext", uuid).unwrap();
    assert!(
        shows(&view("t1", false), &everybody, &shared),
        "tenant admin shares it"
    );
    for subject in [pool("t1"), shared, Subject::controller()] {
        assert!(!shows(&view("t1", false), &nobody, &subject), "{subject:?}");
    }
}

#[test]
fn a_clock_that_is_set_back_holds_no_event_back() {
    let mut damper = Damper::default();
    let second_us = 1_000_000;
    for _ in 0..5 {
        damper.admit(event(Id::SeUp, "10.1.0.5"), 7200 * second_us);
    }
    assert_eq!(damper.due(7230 * second_us), []);
    let [summary] = damper.due(3600 * second_us).try_into().unwrap();
    assert_eq!(summary.repeated, 2);
}
