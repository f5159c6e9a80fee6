//! Which pool of a group takes the next connection. Pure: what is known of the pools and a client come in, an order of
//! indexes goes out.

use crate::balance::{self, Algorithm, HashKey};
use std::cmp::Reverse;
use std::net::SocketAddr;

/// A pool of a group as the choice sees it (avi-api section 12, poolgroup).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member<'a> {
    /// uuid of the pool.
    pub pool: &'a str,
    /// The higher is used first.
    pub priority: u32,
    /// Share among those of its priority; 0 = takes nothing new.
    pub ratio: u32,
    /// Servers that are up and enabled.
    pub up: u32,
    /// How it chooses its servers.
    pub algorithm: Algorithm,
}

impl Member<'_> {
    fn is_usable(&self) -> bool {
        self.ratio > 0 && self.up > 0
    }
}

/// The pools to try, the best first: one of those in use by their ratios, then the others of them, then those that stand by.
/// `turn` grows with each choice.
pub(crate) fn order(
    members: &[Member<'_>],
    min_servers: u32,
    turn: u64,
    client: SocketAddr,
) -> Vec<usize> {
    let mut order: Vec<usize> = (0..members.len())
        .filter(|i| members[*i].is_usable())
        .collect();
    order.sort_by_key(|i| Reverse(members[*i].priority));
    let in_use = in_use(members, &order, min_servers);
    if let Some(first) = choose(members, &order[..in_use], turn, client) {
        order[..in_use].rotate_left(first);
    }
    order
}

/// How many of the order's first take connections: those of the highest priority, and of the next ones as long as fewer than
/// `min_servers` are up in them (1 at least).
fn in_use(members: &[Member<'_>], order: &[usize], min_servers: u32) -> usize {
    let mut up = 0;
    let mut last = None;
    let ends = order.iter().position(|i| {
        let member = &members[*i];
        let enough = up >= u64::from(min_servers.max(1));
        let ends = enough && last != Some(member.priority);
        up += u64::from(member.up);
        last = Some(member.priority);
        ends
    });
    ends.unwrap_or(order.len())
}

/// The index in `order`. Where a pool hashes clients, the pool is the client's, too.
fn choose(members: &[Member<'_>], order: &[usize], turn: u64, client: SocketAddr) -> Option<usize> {
    let key = order.iter().find_map(|i| match members[*i].algorithm {
        Algorithm::ConsistentHash(key) => Some(key),
        _ => None,
    });
    match key {
        _ if order.len() < 2 => order.first().map(|_| 0),
        Some(key) => by_client(members, order, key, client),
        None => by_ratio(members, order, turn),
    }
}

/// 2^64 divided by the golden ratio: its multiples are spread over all numbers evenly, however many are taken.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

fn by_ratio(members: &[Member<'_>], order: &[usize], turn: u64) -> Option<usize> {
    let ratio = |i: &usize| u64::from(members[*i].ratio);
    let total: u64 = order.iter().map(ratio).sum();
    let point = u128::from(turn.wrapping_mul(SPREAD)) * u128::from(total);
    let mut left = point >> 64;
    order
        .iter()
        .position(|i| match left.checked_sub(ratio(i).into()) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        })
}

/// Weighted rendezvous hashing: each pool draws a number for the client, and the greatest of `-ratio / ln(number)` wins. A pool
/// that goes moves its own clients only.
fn by_client(
    members: &[Member<'_>],
    order: &[usize],
    key: HashKey,
    client: SocketAddr,
) -> Option<usize> {
    let score = |i: usize| {
        let number = balance::number_of(key, client, members[i].pool);
        // Between 0 and 1, and neither of them.
        let part = ((number >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -f64::from(members[i].ratio) / part.ln()
    };
    let scores = order.iter().map(|i| score(*i)).enumerate();
    let best = scores.max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.map(|(index, _)| index)
}

#[cfg(test)]
mod tests;
