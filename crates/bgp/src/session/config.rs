//! What the operator says about a session.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::status::Negotiated;
use crate::types::{Asn, Family, HoldTime};
use crate::wire::{Open, UpdateContext};

/// Plain data; [`crate::Session`] consumes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionConfig {
    /// Our AS towards this peer.
    pub local_as: Asn,
    /// The peer's AS; equal to ours means internal BGP.
    pub remote_as: Asn,
    /// Our BGP identifier; the same in all sessions of the speaker (RFC 6286).
    pub router_id: Ipv4Addr,
    /// Proposed hold time.
    pub hold_time: HoldTime,
    /// Upper bound of the keepalive interval; a third of the negotiated hold time is the other bound.
    pub keepalive: Duration,
    /// ConnectRetryTime before jitter.
    pub connect_retry: Duration,
    /// MinRouteAdvertisementInterval; 0 allowed.
    pub advertisement_interval: Duration,
    /// Our IPv4 address on the link; `None` means that IPv4 is not offered.
    pub next_hop_v4: Option<Ipv4Addr>,
    /// Our global IPv6 address on the link; `None` means that IPv6 is not offered.
    pub next_hop_v6: Option<Ipv6Addr>,
    /// Wait for the peer's connection instead of opening one (RFC 4271: PassiveTcpEstablishment).
    pub passive: bool,
}

impl SessionConfig {
    /// Internal BGP.
    #[must_use]
    pub fn is_ibgp(&self) -> bool {
        self.local_as == self.remote_as
    }

    /// Families with a next hop of ours: only they can be announced.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        Family::ALL
            .into_iter()
            .filter(|family| self.next_hop(*family).is_some())
            .collect()
    }

    /// Our address on the link in this family.
    #[must_use]
    pub fn next_hop(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::Ipv4Unicast => self.next_hop_v4.map(IpAddr::V4),
            Family::Ipv6Unicast => self.next_hop_v6.map(IpAddr::V6),
        }
    }

    /// Whether going from `old` to `self` needs a new connection.
    pub(super) fn needs_reset(&self, old: &Self) -> bool {
        let Self {
            local_as,
            remote_as,
            router_id,
            hold_time,
            keepalive: _,
            connect_retry: _,
            advertisement_interval: _,
            next_hop_v4,
            next_hop_v6,
            passive,
        } = self;
        *local_as != old.local_as
            || *remote_as != old.remote_as
            || *router_id != old.router_id
            || *hold_time != old.hold_time
            || *next_hop_v4 != old.next_hop_v4
            || *next_hop_v6 != old.next_hop_v6
            || *passive != old.passive
    }

    pub(super) fn open(&self) -> Open {
        Open::new(
            self.local_as,
            self.hold_time.seconds(),
            self.router_id,
            &self.families(),
        )
    }

    /// `None` when keepalives are off.
    pub(super) fn keepalive_interval(&self, hold: HoldTime) -> Option<Duration> {
        hold.duration().map(|hold| self.keepalive.min(hold / 3))
    }

    pub(super) fn update_context(&self, peer: &Negotiated) -> UpdateContext {
        UpdateContext {
            local_as: self.local_as,
            ibgp: self.is_ibgp(),
            four_octet_as: peer.four_octet_as,
            next_hop_v4: self.next_hop_v4,
            next_hop_v6: self.next_hop_v6,
        }
    }
}
