//! Shares and choices without sockets.

use super::*;
use crate::balance::{Draw, HashKey, choose};
use proptest::prelude::*;
use std::net::SocketAddr;

const ALL: [Algorithm; 5] = [
    Algorithm::RoundRobin,
    Algorithm::LeastConnections,
    Algorithm::Random,
    Algorithm::FastestResponse,
    Algorithm::ConsistentHash(HashKey::AddressAndPort),
];

fn watched() -> InlineHealth {
    let health = InlineHealth::default();
    health.watch(true);
    health
}

#[test]
fn failures_take_the_share_down_by_steps_and_successes_bring_it_back() {
    let health = watched();
    let after = |change: fn(&InlineHealth)| {
        change(&health);
        health.share()
    };
    let down: Vec<_> = (0..5).map(|_| after(InlineHealth::failed)).collect();
    assert_eq!(down, [25, 10, 5, 5, 5]);
    let up: Vec<_> = (0..4).map(|_| after(InlineHealth::succeeded)).collect();
    assert_eq!(up, [10, 25, 100, 100]);
}

#[test]
fn what_is_switched_off_counts_nothing_and_begins_anew() {
    let health = InlineHealth::default();
    health.failed();
    assert_eq!((health.is_on(), health.share()), (false, 100));
    health.watch(true);
    assert_eq!(health.share(), 100);
    health.failed();
    health.watch(true);
    assert_eq!(health.share(), 25, "said again");
    health.watch(false);
    assert_eq!(health.share(), 100);
    health.watch(true);
    assert_eq!(health.share(), 100, "what was before is forgotten");
}

#[test]
fn a_server_is_not_blamed_for_what_is_missing_here() {
    const EMFILE: i32 = 24;
    assert!(is_the_servers(&ErrorKind::ConnectionRefused.into()));
    assert!(is_the_servers(&ErrorKind::HostUnreachable.into()));
    assert!(!is_the_servers(&ErrorKind::AddrNotAvailable.into()));
    assert!(!is_the_servers(&ErrorKind::NetworkUnreachable.into()));
    assert!(!is_the_servers(&io::Error::from_raw_os_error(EMFILE)));
}

fn servers(count: u8) -> Vec<Candidate> {
    let each = 1..=count;
    each.map(|n| Candidate {
        addr: SocketAddr::from(([10, 0, 0, n], 80)),
        usable: true,
        open: 10,
        ratio: 1,
        connect_us: 100,
    })
    .collect()
}

/// Which server takes this connection, the first of which has this share.
fn chosen(algorithm: Algorithm, servers: &[Candidate], share: u32, turn: u64) -> Option<usize> {
    let mut candidates = servers.to_vec();
    let of = |i| if i == 0 { share } else { 100 };
    hold_back(&mut candidates, of, algorithm, turn);
    let port = u16::try_from(turn % 60_000).expect("a port");
    let draw = Draw {
        turn,
        chance: mixed(!turn),
        client: SocketAddr::from(([192, 0, 2, 1], port)),
    };
    choose(algorithm, &candidates, draw)
}

#[test]
fn a_server_has_its_share_of_what_it_would_have() {
    const TURNS: u64 = 40_000;
    for algorithm in ALL {
        for share in [100, 25, 5] {
            let mut servers = servers(4);
            // Where the load decides, a server that is held back is the emptiest.
            if share < 100 {
                servers[0].open = 0;
            }
            let turns = 0..TURNS;
            let first = turns.filter(|t| chosen(algorithm, &servers, share, *t) == Some(0));
            let first = first.count() as u64;
            let wanted = TURNS / 4 * u64::from(share) / 100;
            // One choice of 16 by fastest response has an order of its own.
            let near = wanted / 5;
            assert!(
                first.abs_diff(wanted) <= near,
                "{algorithm:?} {share} %: {first}, not {wanted}"
            );
        }
    }
}

proptest! {
    #[test]
    fn never_is_all_of_a_pool_held_back(
        shares in prop::collection::vec(prop::sample::select(SHARES.to_vec()), 1..6),
        usable in prop::collection::vec(any::<bool>(), 6),
        turn in any::<u64>(),
        algorithm in prop::sample::select(ALL.to_vec()),
    ) {
        let mut before = servers(u8::try_from(shares.len()).expect("few"));
        before.iter_mut().zip(&usable).for_each(|(c, usable)| c.usable = *usable);
        let mut after = before.clone();
        hold_back(&mut after, |i| shares[i], algorithm, turn);
        let any = |list: &[Candidate]| list.iter().any(|c| c.usable);
        prop_assert_eq!(any(&before), any(&after));
        for (i, (before, after)) in before.iter().zip(&after).enumerate() {
            prop_assert!(before.usable || !after.usable, "nobody is brought back");
            prop_assert!(shares[i] < 100 || before == after, "a good one is left alone");
        }
    }
}
