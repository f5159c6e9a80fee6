//! Orders without sockets.

use super::*;
use proptest::prelude::*;
use std::net::Ipv4Addr;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Pools of round robin with these priorities, ratios and servers that are up.
fn members(each: &[(u32, u32, u32)]) -> Vec<Member<'static>> {
    let named = each.iter().zip(NAMES);
    named
        .map(|((priority, ratio, up), pool)| Member {
            pool,
            priority: *priority,
            ratio: *ratio,
            up: *up,
            algorithm: Algorithm::RoundRobin,
        })
        .collect()
}

fn client(number: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(0xC000_0000 + number).into(), 40_000)
}

fn firsts(members: &[Member<'_>], min_servers: u32, turns: u64) -> Vec<usize> {
    let orders = (0..turns).map(|turn| order(members, min_servers, turn, client(0)));
    orders.filter_map(|o| o.first().copied()).collect()
}

fn count(firsts: &[usize], of: usize) -> usize {
    firsts.iter().filter(|i| **i == of).count()
}

#[test]
fn pools_of_the_highest_priority_share_by_ratio_and_others_stand_by() {
    let members = members(&[(10, 3, 2), (5, 1, 2), (10, 1, 2), (10, 0, 2)]);
    let firsts = firsts(&members, 0, 4_000);
    assert_eq!(count(&firsts, 1) + count(&firsts, 3), 0);
    let share = count(&firsts, 0);
    assert!((2_990..=3_010).contains(&share), "{share}");
    for turn in 0..8 {
        let order = order(&members, 0, turn, client(0));
        assert_eq!(
            (order.len(), order[2]),
            (3, 1),
            "the one that stands by is last"
        );
    }
}

#[test]
fn a_pool_without_a_server_that_is_up_makes_way_for_the_next_priority() {
    let mut members = members(&[(10, 1, 0), (5, 1, 2), (1, 1, 2)]);
    assert_eq!(order(&members, 0, 7, client(0)), [1, 2]);
    members[0].up = 1;
    assert_eq!(order(&members, 0, 7, client(0)), [0, 1, 2]);
}

#[test]
fn the_next_priority_helps_as_long_as_too_few_servers_are_up() {
    let members = members(&[(10, 1, 2), (5, 1, 1), (5, 1, 1), (1, 1, 1)]);
    let used = |min_servers| {
        let firsts = firsts(&members, min_servers, 100);
        [0, 1, 2, 3].map(|i| count(&firsts, i) > 0)
    };
    assert_eq!(used(2), [true, false, false, false]);
    assert_eq!(used(3), [true, true, true, false]);
    assert_eq!(used(4), [true, true, true, false]);
    assert_eq!(used(5), [true, true, true, true]);
    assert_eq!(used(50), [true, true, true, true]);
}

#[test]
fn where_a_pool_hashes_clients_the_pool_is_the_clients_too() {
    let mut members = members(&[(1, 1, 2), (1, 1, 2), (1, 2, 2)]);
    members[1].algorithm = Algorithm::ConsistentHash(HashKey::Address);
    let pool_of = |members: &[Member<'_>], number, turn| order(members, 0, turn, client(number))[0];
    let before: Vec<usize> = (0..4_000).map(|n| pool_of(&members, n, 1)).collect();
    assert!((0..4_000).all(|n| pool_of(&members, n, 99) == before[n as usize]));
    let share = count(&before, 2);
    assert!((1_850..=2_150).contains(&share), "half of them: {share}");
    members[2].up = 0;
    let moved = (0..4_000).filter(|n| pool_of(&members, *n, 1) != before[*n as usize]);
    assert_eq!(moved.count(), share, "only those of the pool that went");
}

proptest! {
    #[test]
    fn each_pool_that_can_take_something_is_tried_once(
        each in proptest::collection::vec((0u32..3, 0u32..1001, 0u32..4), 0..5),
        min_servers in 0u32..10,
        turn: u64,
        number: u32,
        hashes: bool,
    ) {
        let mut members = members(&each);
        if hashes {
            members.iter_mut().for_each(|m| m.algorithm = Algorithm::ConsistentHash(HashKey::AddressAndPort));
        }
        let mut tried = order(&members, min_servers, turn, client(number % 1_000));
        tried.sort_unstable();
        let usable: Vec<usize> = (0..members.len()).filter(|i| members[*i].is_usable()).collect();
        prop_assert_eq!(tried, usable);
    }
}
