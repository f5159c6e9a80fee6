//! Inline health: what connects to a server say of it (avi-api `inline_health_monitor`, Avi's passive health monitor).
//!
//! It takes no server down. "The passive health monitor will reduce the number of connections or requests sent to the server
//! relative to the other servers in the pool by about 75%. Further failures may increase this percentage. After a server is
//! satisfactorily handling the reduced load, it will once again be sent normal volumes of traffic" (Avi, overview of health
//! monitors). A connect that fails takes a step down, one that succeeds a step up:
//!
//! ```text
//!   100 % ◀──▶ 25 % ◀──▶ 10 % ◀──▶ 5 %
//! ```
//!
//! All of it but [`InlineHealth`]'s two numbers is pure.

use crate::balance::{Algorithm, Candidate};
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

/// Of 100 connections that a server would get, so many it gets after no failure, one, two, and more. The last is not 0: its
/// connections are what finds out that it is well again.
const SHARES: [u32; 4] = [100, 25, 10, 5];
const LAST: u8 = SHARES.len() as u8 - 1;

/// Of one server.
#[derive(Default)]
pub(crate) struct InlineHealth {
    on: AtomicBool,
    step: AtomicU8,
}

impl InlineHealth {
    /// Whether connects count from now on; those of before do not when they did not.
    pub(crate) fn watch(&self, on: bool) {
        if !self.on.swap(on, Relaxed) {
            self.forget();
        }
    }

    /// It is not known any more, as when its health checks have brought it up.
    pub(crate) fn forget(&self) {
        self.step.store(0, Relaxed);
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// Of 100 connections that it would get, so many it gets.
    pub(crate) fn share(&self) -> u32 {
        match self.is_on() {
            true => SHARES[usize::from(self.step.load(Relaxed).min(LAST))],
            false => SHARES[0],
        }
    }

    pub(crate) fn succeeded(&self) {
        self.change(|step| step.saturating_sub(1));
    }

    pub(crate) fn failed(&self) {
        self.change(|step| (step + 1).min(LAST));
    }

    /// Most connects find nothing to change, and write nothing that other threads read.
    fn change(&self, next: impl Fn(u8) -> u8) {
        let change = |step| Some(next(step)).filter(|new| *new != step);
        if self.is_on() {
            self.step.fetch_update(Relaxed, Relaxed, change).ok();
        }
    }
}

/// Whether a connect failed by the server's fault or its network's, and not for want of a port or descriptor here.
pub(crate) fn is_the_servers(error: &io::Error) -> bool {
    use ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionRefused | ConnectionReset | ConnectionAborted | HostUnreachable | TimedOut
    )
}

/// Takes servers with a small share out of most choices. When nobody else is left they are not taken out: a pool always has
/// those that its health checks leave it.
pub(crate) fn hold_back(
    candidates: &mut [Candidate],
    share: impl Fn(usize) -> u32,
    algorithm: Algorithm,
    turn: u64,
) {
    let usable = candidates.iter().filter(|c| c.usable).count();
    let held = |i: usize| !has_its_turn(share(i), crowd(algorithm, usable), turn, i);
    let held: Vec<usize> = (0..candidates.len())
        .filter(|i| candidates[*i].usable && share(*i) < SHARES[0] && held(*i))
        .collect();
    if held.len() < usable {
        held.into_iter().for_each(|i| candidates[i].usable = false);
    }
}

/// Among how many a share is to be divided. By load a server that hardly has connections is chosen whenever it may be, so
/// that it is to be so many times rarer.
fn crowd(algorithm: Algorithm, usable: usize) -> u64 {
    match algorithm {
        Algorithm::LeastConnections | Algorithm::FastestResponse => usable as u64,
        Algorithm::RoundRobin | Algorithm::Random | Algorithm::ConsistentHash(_) => 1,
    }
}

/// Spread over the turns without a pattern: one would meet that of round robin.
fn has_its_turn(share: u32, crowd: u64, turn: u64, server: usize) -> bool {
    let number = mixed(turn ^ (server as u64).rotate_left(32));
    number % (u64::from(SHARES[0]) * crowd.max(1)) < u64::from(share)
}

/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests;
