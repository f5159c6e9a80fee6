//! The brake on calls of those whom we do not know: what needs no session, and what is refused for want of one.
//!
//! It is by address, of IPv6 by the network of 64 bits that a host has. A session is not braked by what others do from the
//! same address.

use super::address::host;
use super::pace::Pace;
use crate::error::ApiError;
use axum::http::StatusCode;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Calls per second from one address: a hundred scripts that log in, or look whether we are up.
const CALLS_PER_S: u32 = 100;
/// After this an address has earned all it can.
const FORGOTTEN: Duration = Duration::from_secs(5);
/// Addresses that are remembered; beyond, all that are new share one pace.
const ADDRESSES_MAX: usize = 10_000;

/// See the module's documentation.
#[derive(Default)]
pub struct Strangers(Mutex<HashMap<IpAddr, Pace>>);

impl Strangers {
    fn paces(&self) -> MutexGuard<'_, HashMap<IpAddr, Pace>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call of somebody we do not know.
    ///
    /// # Errors
    /// 429 after too many from his address.
    pub fn call(&self, from: IpAddr) -> Result<(), ApiError> {
        let may = self.call_at(from, Instant::now());
        may.then_some(()).ok_or_else(too_many)
    }

    fn call_at(&self, from: IpAddr, now: Instant) -> bool {
        let mut paces = self.paces();
        if paces.len() >= ADDRESSES_MAX {
            paces.retain(|_, pace| now.saturating_duration_since(pace.used) < FORGOTTEN);
        }
        let network = match host(from) {
            new if !paces.contains_key(&new) && paces.len() >= ADDRESSES_MAX => everybody(),
            network => network,
        };
        let pace = paces.entry(network);
        pace.or_insert_with(|| Pace::new(CALLS_PER_S, now))
            .call(now)
    }
}

fn too_many() -> ApiError {
    let text = format!(
        "more than {CALLS_PER_S} calls per second from this address without a session; log in, or wait a second"
    );
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, text)
}

/// The address of no host.
fn everybody() -> IpAddr {
    IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(strangers: &Strangers, from: &str, now: Instant) -> usize {
        let from = from.parse().expect("an address");
        (0..1000).filter(|_| strangers.call_at(from, now)).count()
    }

    #[test]
    fn calls_without_a_session_are_braked_by_address() {
        let (strangers, now) = (Strangers::default(), Instant::now());
        let later = |s: u64| now + Duration::from_secs(s);
        assert_eq!(passed(&strangers, "192.0.2.1", now), 200);
        assert_eq!(passed(&strangers, "192.0.2.1", now), 0);
        assert_eq!(passed(&strangers, "192.0.2.2", now), 200, "another address");
        assert_eq!(passed(&strangers, "192.0.2.1", later(1)), 100);
        assert_eq!(
            passed(&strangers, "192.0.2.1", later(9)),
            200,
            "no more is saved up"
        );
    }

    #[test]
    fn a_host_with_a_network_of_addresses_is_one() {
        let (strangers, now) = (Strangers::default(), Instant::now());
        assert_eq!(passed(&strangers, "2001:db8::1", now), 200);
        assert_eq!(passed(&strangers, "2001:db8::2:3:4:5", now), 0);
        assert_eq!(passed(&strangers, "2001:db8:0:1::1", now), 200);
        assert_eq!(passed(&strangers, "192.0.2.1", now), 200);
        assert_eq!(passed(&strangers, "::ffff:192.0.2.1", now), 0);
    }

    #[test]
    fn what_is_remembered_of_addresses_is_bounded() {
        let (strangers, now) = (Strangers::default(), Instant::now());
        for n in 0..20_000u32 {
            strangers.call_at(IpAddr::V4(n.into()), now);
        }
        assert_eq!(strangers.paces().len(), ADDRESSES_MAX + 1);
        strangers.call_at("192.0.2.1".parse().expect("one"), now + FORGOTTEN);
        assert_eq!(strangers.paces().len(), 1);
    }
}
