use proptest::prelude::*;

use std::net::IpAddr;

use super::*;

const INTERVAL: Duration = Duration::from_secs(5);

fn at(start: Instant, seconds: f64) -> Instant {
    start + Duration::from_secs_f64(seconds)
}

fn vip(last: u8) -> IpNet {
    IpAddr::from([10, 10, 200, last]).into()
}

fn attributes(local_pref: u32) -> Arc<RouteAttributes> {
    Arc::new(
        RouteAttributes::new(AttributeValues {
            local_pref,
            ..AttributeValues::default()
        })
        .unwrap(),
    )
}

fn table(routes: &[(u8, u32)]) -> RouteTable {
    routes
        .iter()
        .map(|(last, pref)| (vip(*last), attributes(*pref)))
        .collect()
}

fn announced(batch: &Batch) -> Vec<(IpNet, u32)> {
    batch
        .announce
        .iter()
        .flat_map(|((_, a), list)| list.iter().map(|vip| (*vip, a.local_pref())))
        .collect()
}

fn withdrawn(batch: &Batch) -> Vec<IpNet> {
    batch.withdraw.values().flatten().copied().collect()
}

fn established() -> (AdjRibOut, Instant) {
    let mut rib = AdjRibOut::new(INTERVAL);
    rib.start_session([Family::Ipv4Unicast]);
    (rib, Instant::now())
}

/// Without jitter, so that times are round.
fn take_due(rib: &mut AdjRibOut, now: Instant) -> Batch {
    rib.take_due(now, Jitter::default())
}

#[test]
fn the_first_announcement_and_every_withdrawal_go_at_once() {
    let (mut rib, t) = established();
    rib.set_desired(&table(&[(1, 100)]), t);
    assert_eq!(announced(&take_due(&mut rib, t)), [(vip(1), 100)]);
    rib.set_desired(&table(&[(1, 100), (2, 100)]), at(t, 0.1));
    assert_eq!(announced(&take_due(&mut rib, at(t, 0.1))), [(vip(2), 100)]);
    rib.set_desired(&table(&[]), at(t, 0.2));
    assert_eq!(withdrawn(&take_due(&mut rib, at(t, 0.2))), [vip(1), vip(2)]);
    assert!(!rib.has_unsettled());
}

#[test]
fn repeated_changes_of_a_route_are_spaced_and_only_the_last_is_sent() {
    let (mut rib, t) = established();
    rib.set_desired(&table(&[(1, 100)]), t);
    take_due(&mut rib, t);
    for (seconds, pref) in [(1.0, 200), (2.0, 300), (3.0, 400)] {
        rib.set_desired(&table(&[(1, pref)]), at(t, seconds));
        assert!(take_due(&mut rib, at(t, seconds)).is_empty());
    }
    assert_eq!(rib.next_deadline(), Some(at(t, 5.0)));
    assert_eq!(announced(&take_due(&mut rib, at(t, 5.0))), [(vip(1), 400)]);
    assert_eq!(rib.next_deadline(), None);
}

#[test]
fn a_change_that_is_taken_back_in_time_is_never_sent() {
    let (mut rib, t) = established();
    rib.set_desired(&table(&[(1, 100)]), t);
    take_due(&mut rib, t);
    rib.set_desired(&table(&[(1, 200)]), at(t, 1.0));
    rib.set_desired(&table(&[(1, 100)]), at(t, 2.0));
    assert!(take_due(&mut rib, at(t, 60.0)).is_empty());
}

#[test]
fn a_route_that_comes_back_soon_waits_for_the_rest_of_the_interval() {
    let (mut rib, t) = announced_and_withdrawn(0.5);
    rib.set_desired(&table(&[(1, 100)]), at(t, 1.0));
    assert!(take_due(&mut rib, at(t, 4.9)).is_empty());
    assert_eq!(announced(&take_due(&mut rib, at(t, 5.0))), [(vip(1), 100)]);
}

#[test]
fn a_route_that_comes_back_later_than_the_interval_goes_at_once() {
    let (mut rib, t) = announced_and_withdrawn(20.0);
    rib.set_desired(&table(&[(1, 100)]), at(t, 20.1));
    assert_eq!(announced(&take_due(&mut rib, at(t, 20.1))), [(vip(1), 100)]);
}

/// One route announced at 0 and withdrawn after `seconds`.
fn announced_and_withdrawn(seconds: f64) -> (AdjRibOut, Instant) {
    let (mut rib, t) = established();
    rib.set_desired(&table(&[(1, 100)]), t);
    take_due(&mut rib, t);
    rib.set_desired(&table(&[]), at(t, seconds));
    assert_eq!(withdrawn(&take_due(&mut rib, at(t, seconds))), [vip(1)]);
    (rib, t)
}

#[test]
fn an_interval_of_zero_delays_nothing() {
    let (mut rib, t) = established();
    rib.set_interval(Duration::ZERO);
    for pref in 0..5 {
        rib.set_desired(&table(&[(1, pref)]), t);
        assert_eq!(announced(&take_due(&mut rib, t)), [(vip(1), pref)]);
    }
}

#[test]
fn a_family_that_was_not_agreed_on_stays_unsent() {
    let (mut rib, t) = established();
    let v6: IpNet = "2001:db8::1/128".parse().unwrap();
    rib.set_desired(&[(v6, attributes(100))].into(), t);
    assert!(take_due(&mut rib, t).is_empty());
    assert!(!rib.routes().next().unwrap().in_force);
}

#[test]
fn a_refresh_sends_everything_of_the_family_again_at_once() {
    let (mut rib, t) = established();
    rib.set_desired(&table(&[(1, 100), (2, 100)]), t);
    take_due(&mut rib, t);
    rib.refresh(Family::Ipv6Unicast);
    assert!(take_due(&mut rib, t).is_empty());
    rib.refresh(Family::Ipv4Unicast);
    assert_eq!(announced(&take_due(&mut rib, t)).len(), 2);
}

/// The peer still holds it: what was asked for again and could not be sent yet is withdrawn, not forgotten.
#[test]
fn a_route_that_goes_while_its_refresh_waits_is_withdrawn() {
    let (mut rib, t) = established();
    rib.set_desired(&table(&[(1, 100)]), t);
    take_due(&mut rib, t);
    rib.refresh(Family::Ipv4Unicast);
    assert!(rib.routes().next().unwrap().sent);
    rib.set_desired(&table(&[]), t);
    assert_eq!(withdrawn(&take_due(&mut rib, t)), [vip(1)]);
}

/// RFC 4271 section 10; one factor for all that is announced at a time keeps it together.
#[test]
fn the_advertisement_interval_has_the_jitter_that_the_announcement_was_given() {
    let (mut rib, t) = established();
    rib.set_desired(&table(&[(1, 100), (2, 100)]), t);
    rib.take_due(t, Jitter::from_step(u16::MAX));
    rib.set_desired(&table(&[(1, 200), (2, 200)]), t);
    let due = rib.next_deadline().unwrap() - t;
    assert!((3.75..3.76).contains(&due.as_secs_f64()), "{due:?}");
    assert_eq!(announced(&take_due(&mut rib, t + due)).len(), 2);
}

#[derive(Debug, Clone)]
enum Op {
    Desire(Vec<(u8, u32)>),
    Wait(u64),
    Session(bool),
    Refresh,
    Interval(u64),
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => proptest::collection::vec((0..6u8, 0..3u32), 0..6).prop_map(Op::Desire),
        5 => (0..4000u64).prop_map(Op::Wait),
        1 => any::<bool>().prop_map(Op::Session),
        1 => Just(Op::Refresh),
        1 => (0..3u64).prop_map(|s| Op::Interval(s * 2500)),
    ]
}

/// The peer as a map, and per route the times at which it was announced.
#[derive(Default)]
struct Model {
    peer: BTreeMap<IpNet, u32>,
    announced_at: BTreeMap<IpNet, Instant>,
    up: bool,
}

impl Model {
    fn apply(&mut self, batch: &Batch, now: Instant, interval: Duration) {
        for address in withdrawn(batch) {
            assert!(
                self.peer.remove(&address).is_some(),
                "withdrawal of a route that the peer does not hold"
            );
        }
        for (address, pref) in announced(batch) {
            if let Some(before) = self.announced_at.insert(address, now) {
                assert!(now >= before + interval, "announced again too early");
            }
            self.peer.insert(address, pref);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Against a map: whatever happens, the peer ends up with what is desired, never later than the
    /// interval, and withdrawn routes are gone at once.
    #[test]
    fn the_peer_always_ends_up_with_the_desired_routes(ops in proptest::collection::vec(any_op(), 1..60)) {
        let mut now = Instant::now();
        let mut interval = INTERVAL;
        let mut rib = AdjRibOut::new(interval);
        let mut model = Model::default();
        let mut desired = RouteTable::new();
        for op in ops {
            match op {
                Op::Desire(routes) => {
                    desired = table(&routes);
                    // What is forgotten under a short interval stays forgotten under a longer one.
                    model.announced_at.retain(|vip, at| model.peer.contains_key(vip) || *at + interval > now);
                    rib.set_desired(&desired, now);
                }
                Op::Wait(ms) => now += Duration::from_millis(ms),
                Op::Session(up) => {
                    model = Model { up, ..Model::default() };
                    if up { rib.start_session([Family::Ipv4Unicast]) } else { rib.end_session() }
                }
                Op::Refresh => {
                    rib.refresh(Family::Ipv4Unicast);
                    model.announced_at.clear();
                }
                Op::Interval(ms) => {
                    interval = Duration::from_millis(ms);
                    rib.set_interval(interval);
                }
            }
            let batch = take_due(&mut rib, now);
            prop_assert!(model.up || batch.is_empty());
            model.apply(&batch, now, interval);
            if model.up {
                prop_assert!(model.peer.keys().all(|address| desired.contains_key(address)));
                prop_assert_eq!(rib.has_unsettled(), rib.next_deadline().is_some());
                prop_assert!(rib.next_deadline().is_none_or(|at| at > now && at <= now + interval));
            }
            for route in rib.routes() {
                let held = model.peer.get(&route.prefix);
                prop_assert_eq!(route.in_force, held == Some(&desired[&route.prefix].local_pref()));
            }
        }
        while let (true, Some(at)) = (model.up, rib.next_deadline()) {
            let batch = take_due(&mut rib, at);
            model.apply(&batch, at, interval);
        }
        if model.up {
            let wanted: BTreeMap<_, _> = desired.iter().map(|(vip, a)| (*vip, a.local_pref())).collect();
            prop_assert_eq!(model.peer, wanted);
        }
    }
}
