//! Choices without sockets.

use super::*;
use proptest::prelude::*;
use std::net::Ipv4Addr;

const BY_ADDRESS: Algorithm = Algorithm::ConsistentHash(HashKey::Address);
const BY_PORT: Algorithm = Algorithm::ConsistentHash(HashKey::AddressAndPort);

fn candidate(open: u64, ratio: u32) -> Candidate {
    Candidate {
        addr: SocketAddr::from(([10, 0, 0, 1], 80)),
        usable: true,
        open,
        ratio,
        connect_us: 0,
    }
}

/// Servers with these ratios, at 10.0.0.1 and so on.
fn servers(ratios: &[u32]) -> Vec<Candidate> {
    let each = ratios.iter().zip(1..);
    each.map(|(ratio, n)| Candidate {
        addr: SocketAddr::from(([10, 0, 0, n], 80)),
        ..candidate(0, *ratio)
    })
    .collect()
}

fn draw(turn: u64) -> Draw {
    Draw {
        turn,
        chance: turn,
        client: client(0, 1),
    }
}

fn client(number: u32, port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(0xC000_0000 + number).into(), port)
}

fn of(algorithm: Algorithm, servers: &[Candidate], client: SocketAddr) -> Option<SocketAddr> {
    let draw = Draw { client, ..draw(7) };
    choose(algorithm, servers, draw).map(|i| servers[i].addr)
}

#[test]
fn round_robin_and_random_go_by_ratio_and_pass_over_what_is_down() {
    let mut servers = [candidate(0, 1), candidate(0, 2), candidate(0, 1)];
    servers[2].usable = false;
    for algorithm in [Algorithm::RoundRobin, Algorithm::Random] {
        let turns: Vec<_> = (0..6)
            .filter_map(|t| choose(algorithm, &servers, draw(t)))
            .collect();
        assert_eq!(turns, [0, 1, 1, 0, 1, 1]);
    }
}

#[test]
fn least_connections_takes_the_emptiest_and_turns_among_equals() {
    let servers = [candidate(2, 1), candidate(1, 1), candidate(1, 1)];
    let turns: Vec<_> = (0..3)
        .filter_map(|t| choose(Algorithm::LeastConnections, &servers, draw(t)))
        .collect();
    assert_eq!(turns, [1, 1, 2]);
}

#[test]
fn fastest_response_weighs_connect_time_with_what_is_open_and_measures_all() {
    let mut servers = servers(&[1, 1, 1]);
    let next =
        |servers: &[Candidate], turn| choose(Algorithm::FastestResponse, servers, draw(turn));
    (servers[0].connect_us, servers[1].connect_us) = (100, 900);
    assert_eq!(next(&servers, 1), Some(2), "the one that is not known");
    servers[2].connect_us = 900;
    assert_eq!(next(&servers, 1), Some(0), "the fastest");
    servers[0].open = 9;
    assert_eq!(next(&servers, 1), Some(1), "the fastest is busy");
    servers[0].open = 0;
    let measured: Vec<_> = (0..3)
        .filter_map(|n| next(&servers, n * MEASURED_EVERY))
        .collect();
    assert_eq!(measured, [0, 1, 2]);
}

#[test]
fn nothing_usable_means_no_choice() {
    let down = Candidate {
        usable: false,
        ..candidate(0, 1)
    };
    use Algorithm::{FastestResponse, LeastConnections, Random, RoundRobin};
    for algorithm in [
        RoundRobin,
        LeastConnections,
        Random,
        FastestResponse,
        BY_ADDRESS,
        BY_PORT,
    ] {
        assert_eq!(choose(algorithm, &[down], draw(7)), None);
        assert_eq!(choose(algorithm, &[], draw(7)), None);
    }
}

/// Engines of different versions must choose alike while they are upgraded.
#[test]
fn the_hash_is_what_it_has_always_been() {
    let servers = servers(&[1, 2, 1, 1]);
    let last = |number: u32| match of(BY_ADDRESS, &servers, client(number, 1))?.ip() {
        IpAddr::V4(ip) => Some(ip.octets()[3]),
        IpAddr::V6(_) => None,
    };
    let chosen: Vec<_> = (0..12).filter_map(last).collect();
    assert_eq!(chosen, [2, 3, 4, 4, 2, 1, 1, 2, 2, 2, 1, 2]);
}

#[test]
fn clients_are_spread_by_ratio() {
    let servers = servers(&[1, 2, 5]);
    let mut counts = [0_u32; 3];
    for number in 0..8000 {
        let draw = Draw {
            client: client(number, 1),
            ..draw(0)
        };
        counts[choose(BY_ADDRESS, &servers, draw).expect("one")] += 1;
    }
    let near = |count: u32, wanted: u32| count.abs_diff(wanted) < 200;
    assert!(
        near(counts[0], 1000) && near(counts[1], 2000) && near(counts[2], 5000),
        "{counts:?}"
    );
}

#[test]
fn ports_count_only_where_they_are_asked_for() {
    let servers = servers(&[1, 1, 1, 1]);
    let chosen = |algorithm| {
        let ports = (1..100).filter_map(|port| of(algorithm, &servers, client(1, port)));
        ports.collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!((chosen(BY_ADDRESS), chosen(BY_PORT)), (1, 4));
}

proptest! {
    #[test]
    fn a_server_that_goes_takes_only_its_own_clients_along(
        ratios in prop::collection::vec(1_u32..=20, 2..12),
        gone in any::<prop::sample::Index>(),
        down in any::<bool>(),
        clients in prop::collection::vec((any::<u32>(), any::<u16>()), 1..40),
        algorithm in prop::sample::select(vec![BY_ADDRESS, BY_PORT]),
    ) {
        let before = servers(&ratios);
        let gone = gone.index(before.len());
        let mut after = before.clone();
        match down {
            true => after[gone].usable = false,
            false => drop(after.remove(gone)),
        }
        // Nor does the order matter: engines may know them in another one.
        after.reverse();
        for (ip, port) in clients {
            let client = SocketAddr::new(Ipv4Addr::from(ip).into(), port);
            let (old, new) = (of(algorithm, &before, client), of(algorithm, &after, client));
            match old == Some(before[gone].addr) {
                true => prop_assert!(new.is_some() && new != old),
                false => prop_assert_eq!(new, old),
            }
        }
    }
}
