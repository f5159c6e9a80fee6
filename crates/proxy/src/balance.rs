//! Which server takes the next connection. Pure: counts and a client come in, an index goes out.

use flow::key::bytes16;
use flow::siphash::siphash24;
use std::net::{IpAddr, SocketAddr};

/// How a server is chosen (avi-api `lb_algorithm`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// One after the other, each as often as its ratio says.
    RoundRobin,
    /// The one with the fewest open connections, the first of equals after the one chosen last.
    LeastConnections,
    /// Any, each as often as its ratio says.
    Random,
    /// The one that takes connections fastest, for the number that it has open already.
    FastestResponse,
    /// The one that the client's address names, the same on every engine; each has as many clients as its ratio says.
    ConsistentHash(HashKey),
}

/// What of a client a server is chosen by (avi-api `lb_algorithm_hash`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashKey {
    /// All connections of an address go to one server.
    Address,
    /// Each port of an address by itself.
    AddressAndPort,
}

/// A server as the choice sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Where it listens.
    pub addr: SocketAddr,
    /// It may take a connection.
    pub usable: bool,
    /// Open connections.
    pub open: u64,
    /// Share in round robin, random and consistent hash.
    pub ratio: u32,
    /// How long it takes to accept a connection, on average; 0 = not known.
    pub connect_us: u64,
}

/// What one choice rests on, besides the servers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draw {
    /// Grows with each choice.
    pub turn: u64,
    /// A number at random.
    pub chance: u64,
    /// Who comes.
    pub client: SocketAddr,
}

/// The index of the next server.
pub(crate) fn choose(algorithm: Algorithm, candidates: &[Candidate], draw: Draw) -> Option<usize> {
    match algorithm {
        Algorithm::RoundRobin => by_ratio(candidates, draw.turn),
        Algorithm::Random => by_ratio(candidates, draw.chance),
        Algorithm::LeastConnections => least_connections(candidates, draw.turn),
        Algorithm::FastestResponse => fastest_response(candidates, draw.turn),
        Algorithm::ConsistentHash(key) => consistent_hash(key, candidates, draw.client),
    }
}

fn by_ratio(candidates: &[Candidate], number: u64) -> Option<usize> {
    let weight = |c: &Candidate| {
        if c.usable {
            u64::from(c.ratio.max(1))
        } else {
            0
        }
    };
    let total: u64 = candidates.iter().map(weight).sum();
    let mut left = number.checked_rem(total)?;
    candidates
        .iter()
        .position(|c| match left.checked_sub(weight(c)) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        })
}

fn usable(candidates: &[Candidate]) -> impl Iterator<Item = (usize, &Candidate)> {
    candidates.iter().enumerate().filter(|(_, c)| c.usable)
}

/// How far behind the one whose turn it is: the first of equals is the nearest. None without candidates.
fn distance(candidates: &[Candidate], turn: u64) -> Option<impl Fn(usize) -> u64> {
    let count = candidates.len() as u64;
    let start = turn.checked_rem(count)?;
    Some(move |i: usize| (i as u64 + count - start) % count)
}

fn least_connections(candidates: &[Candidate], turn: u64) -> Option<usize> {
    let distance = distance(candidates, turn)?;
    usable(candidates)
        .min_by_key(|(i, c)| (c.open, distance(*i)))
        .map(|(i, _)| i)
}

/// One choice of so many measures a server that would not be chosen: it may have become faster.
const MEASURED_EVERY: u64 = 16;

/// The average is multiplied by the connections that are open, so that the fastest one does not get all before its slowness
/// shows. Who has not been measured is first.
fn fastest_response(candidates: &[Candidate], turn: u64) -> Option<usize> {
    if turn.is_multiple_of(MEASURED_EVERY) {
        return least_connections(candidates, turn / MEASURED_EVERY);
    }
    let distance = distance(candidates, turn)?;
    let cost = |c: &Candidate| c.connect_us.max(1).saturating_mul(c.open + 1);
    usable(candidates)
        .min_by_key(|(i, c)| (cost(c), c.open, distance(*i)))
        .map(|(i, _)| i)
}

/// Most that a ratio counts for here (avi-api Server: 1-20).
const RATIO_MAX: u8 = 20;
/// Known to everyone, so that all engines choose alike.
const HASH_KEY: [u64; 2] = [
    u64::from_le_bytes(*b"evenkeel"),
    u64::from_le_bytes(*b" servers"),
];

/// Rendezvous hashing: each server draws a number for the client, once per unit of its ratio, and the highest of all wins.
/// When a server goes, only its own clients move, each to the server with its next highest number; when one comes, it takes
/// only clients whose highest number is its own.
fn consistent_hash(key: HashKey, candidates: &[Candidate], client: SocketAddr) -> Option<usize> {
    let client = endpoint_bytes(client.ip(), port_of(key, client));
    usable(candidates)
        .max_by_key(|(_, c)| (highest_number(&client, c), c.addr))
        .map(|(i, _)| i)
}

/// The number that a pool of a group draws for a client: the same on every engine.
pub(crate) fn number_of(key: HashKey, client: SocketAddr, pool: &str) -> u64 {
    let mut bytes = endpoint_bytes(client.ip(), port_of(key, client)).to_vec();
    bytes.extend(pool.as_bytes());
    siphash24(HASH_KEY, &bytes)
}

fn port_of(key: HashKey, client: SocketAddr) -> u16 {
    match key {
        HashKey::Address => 0,
        HashKey::AddressAndPort => client.port(),
    }
}

fn highest_number(client: &[u8; 18], server: &Candidate) -> u64 {
    let mut bytes = [0; 37];
    bytes[..18].copy_from_slice(client);
    bytes[18..36].copy_from_slice(&endpoint_bytes(server.addr.ip(), server.addr.port()));
    let ratio = u8::try_from(server.ratio).map_or(RATIO_MAX, |r| r.clamp(1, RATIO_MAX));
    let numbers = (0..ratio).map(|n| {
        bytes[36] = n;
        siphash24(HASH_KEY, &bytes)
    });
    numbers.max().unwrap_or(0)
}

fn endpoint_bytes(ip: IpAddr, port: u16) -> [u8; 18] {
    let mut bytes = [0; 18];
    bytes[..16].copy_from_slice(&bytes16(ip));
    bytes[16..].copy_from_slice(&port.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests;
