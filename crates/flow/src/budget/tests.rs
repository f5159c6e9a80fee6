//! Never more than the rate allows, and shared fairly.

use super::*;
use proptest::prelude::*;

/// 80 copies at once: 20 probes to four members.
const RATE: Rate = Rate {
    copies_per_s: 800,
    burst: 80,
};

const COPIES: u32 = 4;

fn client(third: u8, last: u8) -> IpAddr {
    [192, 0, third, last].into()
}

fn taken(budget: &mut Budget, now: Instant, client: IpAddr, priority: Priority) -> bool {
    budget.take(now, 0, client, COPIES, priority)
}

fn probes(budget: &mut Budget, now: Instant, clients: impl Iterator<Item = IpAddr>) -> usize {
    let probes = clients.filter(|client| taken(budget, now, *client, Priority::Normal));
    probes.count()
}

fn one_network() -> impl Iterator<Item = IpAddr> {
    (0..250).map(|last| client(1, last))
}

fn many_networks() -> impl Iterator<Item = IpAddr> {
    (2..250).map(|third| client(third, 1))
}

#[test]
fn the_whole_gives_its_burst_and_one_probe_more() {
    let mut budget = Budget::new(RATE);
    assert_eq!(probes(&mut budget, Instant::now(), many_networks()), 21);
}

#[test]
fn one_network_gets_an_eighth_and_leaves_the_rest_to_others() {
    let (mut budget, now) = (Budget::new(RATE), Instant::now());
    assert_eq!(probes(&mut budget, now, one_network()), 3);
    assert_eq!(probes(&mut budget, now, many_networks()), 18);
}

#[test]
fn what_the_share_refuses_costs_the_whole_nothing() {
    let (mut budget, now) = (Budget::new(RATE), Instant::now());
    for _ in 0..10 {
        probes(&mut budget, now, one_network());
    }
    assert_eq!(probes(&mut budget, now, many_networks()), 18);
}

#[test]
fn the_end_of_a_connection_draws_only_while_half_is_left() {
    let (mut budget, now) = (Budget::new(RATE), Instant::now());
    assert_eq!(probes(&mut budget, now, many_networks().take(11)), 11);
    assert!(!taken(&mut budget, now, client(99, 1), Priority::Low));
    assert!(taken(&mut budget, now, client(99, 1), Priority::Normal));
    let later = now + Duration::from_millis(50);
    assert!(taken(&mut budget, later, client(98, 1), Priority::Low));
}

#[test]
fn ipv6_clients_of_one_56_share_and_of_two_do_not() {
    let (mut budget, now) = (Budget::new(RATE), Instant::now());
    let same = (0..100).map(|i| format!("2001:db8:0:{i:x}::1").parse().unwrap());
    assert_eq!(probes(&mut budget, now, same), 3);
    let other = (0..100).map(|i| format!("2001:db8:0:1{i:02x}::1").parse().unwrap());
    assert_eq!(probes(&mut budget, now, other), 3);
}

#[test]
fn a_clock_that_goes_back_gives_nothing_and_breaks_nothing() {
    let (mut budget, now) = (Budget::new(RATE), Instant::now());
    let later = now + Duration::from_secs(1);
    probes(&mut budget, later, many_networks());
    assert_eq!(probes(&mut budget, now, many_networks()), 0);
}

#[test]
fn a_rate_of_zero_is_one_copy_a_second() {
    let rate = Rate {
        copies_per_s: 0,
        burst: 0,
    };
    assert_eq!(rate.copy(), Duration::from_secs(1));
    let (mut budget, now) = (Budget::new(rate), Instant::now());
    assert_eq!(probes(&mut budget, now, many_networks()), 1);
}

proptest! {
    #[test]
    fn no_schedule_draws_more_than_burst_and_rate_and_one_probe(
        copies_per_s in 1..5000u32,
        burst in 1..500u32,
        draws in proptest::collection::vec((0..20_000u64, 1..64u32, any::<u8>()), 1..400),
    ) {
        let rate = Rate { copies_per_s, burst };
        let start = Instant::now();
        let (mut budget, mut now, mut copies) = (Budget::new(rate), start, 0u64);
        for (gap_us, cost, third) in draws {
            now += Duration::from_micros(gap_us);
            let may = budget.take(now, 0, client(third, 1), cost, Priority::Normal);
            copies += if may { u64::from(cost) } else { 0 };
            let elapsed = now.duration_since(start).as_nanos() as u64;
            let gained = elapsed / rate.copy().as_nanos() as u64;
            let most = u64::from(burst) + gained + 1 + 63;
            prop_assert!(copies <= most, "{} > {}", copies, most);
        }
    }
}
