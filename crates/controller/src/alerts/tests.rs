use super::book::Book;
use super::rule::Rule;
use super::*;
use crate::bootstrap;
use crate::events::{Id, Subject};

const SECOND_US: u64 = 1_000_000;

fn rule() -> Rule {
    Rule {
        uuid: "alertconfig-1".into(),
        name: "peers".into(),
        tenant: "admin".into(),
        level: "ALERT_MEDIUM".into(),
        summary: String::new(),
        object_path: None,
        object_uuid: None,
        conditions: vec![("SE_BGP_PEER_DOWN".into(), false)],
        all: true,
        threshold: 1,
        window_s: 60,
        throttle_s: 600,
        expiry_s: 3600,
    }
}

fn event(id: Id, uuid: &str, part: &str, at_s: u64) -> Arc<Event> {
    let subject = Subject {
        path: "serviceengine".into(),
        uuid: uuid.into(),
        name: uuid.into(),
        tenant: "admin".into(),
    };
    let mut event = Event::new(id, subject, "it happened").of_part(part);
    event.time_us = at_s * SECOND_US;
    Arc::new(event)
}

fn down(part: &str, at_s: u64) -> Arc<Event> {
    event(Id::BgpPeerDown, "serviceengine-1", part, at_s)
}

#[test]
fn an_event_that_is_asked_for_is_an_alert_and_another_one_is_none() {
    let mut book = Book::new(Vec::new());
    book.consider(&[rule()], &event(Id::SeDown, "serviceengine-1", "", 1));
    assert_eq!(book.all(), []);
    book.consider(&[rule()], &down("10.0.0.1", 2));
    let alert = &book.all()[0];
    assert_eq!(
        (alert.state, alert.level.as_str()),
        (State::On, "ALERT_MEDIUM")
    );
    assert_eq!(alert.key, "serviceengine-1,10.0.0.1");
    assert_eq!(alert.events[0]["event_id"], "SE_BGP_PEER_DOWN");
}

#[test]
fn the_same_again_is_counted_and_another_peer_is_an_alert_of_its_own() {
    let mut book = Book::new(Vec::new());
    for (part, at_s) in [("a", 1), ("a", 2), ("b", 3), ("a", 600), ("a", 601)] {
        book.consider(&[rule()], &down(part, at_s));
    }
    let counts: Vec<_> = book
        .all()
        .iter()
        .map(|a| (a.key.as_str(), a.throttle_count))
        .collect();
    assert_eq!(
        counts,
        [
            ("serviceengine-1,a", 2),
            ("serviceengine-1,b", 0),
            ("serviceengine-1,a", 0)
        ]
    );
    assert_eq!(book.all()[0].state, State::Throttled);
    assert_eq!(book.all()[0].last_throttle_us, 600 * SECOND_US);
}

#[test]
fn alerts_of_an_object_are_counted_by_level_until_somebody_dismisses_them() {
    let rules = ["ALERT_LOW", "ALERT_MEDIUM", "ALERT_HIGH"].map(|level| Rule {
        uuid: level.into(),
        level: level.into(),
        ..rule()
    });
    let mut book = Book::new(Vec::new());
    // The second one is of the same again, and counts once.
    for (part, at_s) in [("a", 1), ("a", 2), ("b", 3)] {
        book.consider(&rules, &down(part, at_s));
    }
    book.consider(
        &rules[2..],
        &event(Id::BgpPeerDown, "serviceengine-2", "a", 4),
    );
    let dismissed = book.all()[0].clone();
    assert_eq!(dismissed.level, "ALERT_LOW");
    book.set_state(&dismissed.uuid, State::Dismissed);
    let of = |uuid: &str| {
        let about = About {
            path: "serviceengine".into(),
            uuid: uuid.into(),
            tenant: "admin".into(),
        };
        let levels = book.levels().get(&about).copied().unwrap_or_default();
        (levels.low, levels.medium, levels.high)
    };
    assert_eq!(of("serviceengine-1"), (1, 2, 2));
    assert_eq!(of("serviceengine-2"), (0, 0, 1));
    assert_eq!(of("serviceengine-3"), (0, 0, 0));
}

#[test]
fn what_somebody_has_dismissed_or_taken_out_does_not_come_back_within_the_throttle() {
    let mut book = Book::new(Vec::new());
    book.consider(&[rule()], &down("a", 1));
    let uuid = book.all()[0].uuid.clone();
    book.set_state(&uuid, State::Dismissed);
    book.consider(&[rule()], &down("a", 2));
    assert_eq!(book.all()[0].state, State::Dismissed);
    book.remove(&uuid).expect("it is there");
    book.consider(&[rule()], &down("a", 3));
    assert_eq!(book.all(), []);
}

#[test]
fn a_rolling_window_wants_its_threshold() {
    let rule = Rule {
        threshold: 3,
        throttle_s: 0,
        ..rule()
    };
    let mut book = Book::new(Vec::new());
    for at_s in [1, 2, 100, 101] {
        book.consider(std::slice::from_ref(&rule), &down("a", at_s));
    }
    assert_eq!(book.all(), [], "never three within 60 s");
    book.consider(&[rule], &down("a", 102));
    assert_eq!(book.all().len(), 1);
}

#[test]
fn alerts_expire_and_are_bounded_and_dismissed_ones_go_first() {
    let mut book = Book::new(Vec::new());
    for n in 0..500 {
        book.consider(&[rule()], &down(&format!("{n}"), 1));
    }
    let (oldest, dismissed) = (book.all()[0].uuid.clone(), book.all()[250].uuid.clone());
    book.set_state(&dismissed, State::Dismissed);
    book.consider(&[rule()], &down("one more", 2));
    assert_eq!(book.all().len(), 500);
    assert_eq!(book.all()[0].uuid, oldest);
    assert!(book.all().iter().all(|a| a.uuid != dismissed));
    book.expire(3601 * SECOND_US);
    assert_eq!(book.all().len(), 1, "the last one is a second younger");
}

#[test]
fn one_tenants_many_alerts_take_no_room_from_another_and_what_went_may_come_again() {
    let mut book = Book::new(Vec::new());
    book.consider(&[rule()], &down("mine", 1));
    let blue = |part: usize, at_s| {
        let event = event(Id::BgpPeerDown, "serviceengine-9", &part.to_string(), at_s);
        let mut event = Arc::unwrap_or_clone(event);
        event.subject.tenant = "blue".into();
        Arc::new(event)
    };
    for part in 0..600 {
        book.consider(&[rule()], &blue(part, 2));
    }
    assert_eq!(book.all().len(), 500);
    assert_eq!(book.all()[0].key, "serviceengine-1,mine");
    book.consider(&[rule()], &blue(0, 3));
    assert_eq!(
        book.all()[499].key,
        "serviceengine-9,0",
        "within the throttle"
    );
    assert_eq!(book.all()[0].key, "serviceengine-1,mine");
}

#[test]
fn a_tenants_rule_is_for_his_objects_and_conditions_can_be_turned_round() {
    let event = down("a", 1);
    let theirs = Rule {
        tenant: "tenant-1".into(),
        ..rule()
    };
    assert!(rule().matches(&event) && !theirs.matches(&event));
    let anything_else = Rule {
        conditions: vec![("SE_BGP_PEER_DOWN".into(), true)],
        ..rule()
    };
    assert!(!anything_else.matches(&event));
    let either = Rule {
        conditions: vec![
            ("VS_DOWN".into(), false),
            ("SE_BGP_PEER_DOWN".into(), false),
        ],
        all: false,
        ..rule()
    };
    assert!(either.matches(&event));
    let of_pools = Rule {
        object_path: Some("pool".into()),
        ..rule()
    };
    assert!(!of_pools.matches(&event));
}

#[tokio::test]
async fn the_rules_of_the_start_are_those_that_the_contract_names() {
    let objects = Objects::open(Arc::new(store::Memory::default()))
        .await
        .unwrap();
    bootstrap::ensure(&objects).await.unwrap();
    let rules = rule::all(&objects.snapshot());
    let mut found: Vec<_> = rules
        .iter()
        .map(|r| {
            (
                r.name.as_str(),
                r.level.as_str(),
                r.throttle_s,
                r.conditions.len(),
            )
        })
        .collect();
    found.sort_unstable();
    let expected = [
        ("System-SE-Alert", "ALERT_HIGH", 600, 2),
        ("System-SE-BGP-Peer-Down", "ALERT_MEDIUM", 600, 1),
        ("System-VS-Alert", "ALERT_LOW", 600, 2),
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn alerts_outlive_a_restart_and_what_was_taken_out_stays_out() {
    let folder = tempfile::tempdir().unwrap();
    let objects = Arc::new(
        Objects::open(Arc::new(store::Memory::default()))
            .await
            .unwrap(),
    );
    bootstrap::ensure(&objects).await.unwrap();
    let alerts = Alerts::open(objects.clone(), folder.path()).unwrap();
    let now_s = now_us() / SECOND_US;
    alerts.consider(&[down("a", now_s), down("b", now_s)]);
    alerts.save_if_changed().await;
    let [first, second] = alerts.all().try_into().unwrap();
    alerts.delete(&first.uuid).await.unwrap();
    alerts
        .set_state(&second.uuid, State::Dismissed)
        .await
        .unwrap();
    let again = Alerts::open(objects, folder.path()).unwrap();
    let [kept] = again.all().try_into().unwrap();
    assert_eq!((kept.uuid, kept.state), (second.uuid, State::Dismissed));
}
