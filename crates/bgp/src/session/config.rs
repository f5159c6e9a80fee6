//! What the operator says about a session.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::status::Negotiated;
use crate::rib_in::LearnPolicy;
use crate::types::{Asn, Family, HoldTime};
use crate::wire::{
    self, Capability, EXTENDED_MESSAGE_LEN, GracefulRestart, MAX_MESSAGE_LEN, Open, UpdateContext,
};

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
    /// Our IPv4 address on the link; `None` means that IPv4 is not offered (but see `extended_next_hop`).
    pub next_hop_v4: Option<Ipv4Addr>,
    /// Our global IPv6 address on the link; `None` means that IPv6 is not offered.
    pub next_hop_v6: Option<Ipv6Addr>,
    /// Offer IPv4 routes with the IPv6 next hop (RFC 8950): for links without IPv4 addresses.
    pub extended_next_hop: bool,
    /// Ask the peer to keep the routes over a restart of this process (RFC 4724).
    pub graceful_restart: Option<RestartConfig>,
    /// Keep routes of the peer; `None` keeps none.
    pub learn: Option<LearnPolicy>,
    /// Wait for the peer's connection instead of opening one (RFC 4271: PassiveTcpEstablishment).
    pub passive: bool,
}

/// Graceful restart as restarting speaker (RFC 4724).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartConfig {
    /// How long the peer keeps the routes, in seconds, at most 4095.
    pub restart_time_s: u16,
    /// This process follows one that served the same routes, and does not know all of its own yet: a peer that keeps
    /// the old ones gets no End-of-RIB.
    pub restarting: bool,
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

    /// This process has restarted, and its routes are not complete.
    pub(super) fn is_restarting(&self) -> bool {
        self.graceful_restart.is_some_and(|r| r.restarting)
    }

    /// The next hop of this family: our address on the link.
    #[must_use]
    pub fn next_hop(&self, family: Family) -> Option<IpAddr> {
        let v6 = self.next_hop_v6.map(IpAddr::V6);
        match family {
            Family::Ipv4Unicast if self.uses_extended_next_hop() => v6,
            Family::Ipv4Unicast => self.next_hop_v4.map(IpAddr::V4),
            Family::Ipv6Unicast => v6,
        }
    }

    /// Ours on the link.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let v4 = self.next_hop_v4.map(IpAddr::V4);
        v4.into_iter()
            .chain(self.next_hop_v6.map(IpAddr::V6))
            .collect()
    }

    fn uses_extended_next_hop(&self) -> bool {
        self.extended_next_hop && self.next_hop_v4.is_none()
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
            extended_next_hop,
            graceful_restart,
            learn: _,
            passive,
        } = self;
        let restart_time = |r: &Option<RestartConfig>| r.map(|r| r.restart_time_s);
        *local_as != old.local_as
            || *remote_as != old.remote_as
            || *router_id != old.router_id
            || *hold_time != old.hold_time
            || *next_hop_v4 != old.next_hop_v4
            || *next_hop_v6 != old.next_hop_v6
            || *extended_next_hop != old.extended_next_hop
            || restart_time(graceful_restart) != restart_time(&old.graceful_restart)
            || *passive != old.passive
    }

    /// Our OPEN, without what the peer has refused.
    pub(super) fn open(&self, offer: &Offer) -> Open {
        let capabilities = self.capabilities().into_iter().filter(|c| !offer.omits(c));
        Open::with_capabilities(
            self.local_as,
            self.hold_time.seconds(),
            self.router_id,
            capabilities.collect(),
        )
    }

    fn capabilities(&self) -> Vec<Capability> {
        let families = self.families();
        let mut all: Vec<_> = families
            .iter()
            .map(|f| Capability::Multiprotocol(*f))
            .collect();
        all.push(Capability::RouteRefresh);
        if self.uses_extended_next_hop() {
            all.push(Capability::ExtendedNextHop);
        }
        all.push(Capability::ExtendedMessage);
        all.push(Capability::GracefulRestart(
            self.restart_capability(families),
        ));
        all.push(Capability::FourOctetAs(self.local_as.get()));
        all.push(Capability::EnhancedRouteRefresh);
        all
    }

    /// RFC 4724 section 3: without families it says no more than that we send End-of-RIB. That much is always
    /// said: FRR answers no ROUTE-REFRESH with demarcation (RFC 7313) before it has sent its own End-of-RIB,
    /// which it sends only to speakers with this capability.
    fn restart_capability(&self, families: Vec<Family>) -> GracefulRestart {
        let Some(restart) = self.graceful_restart else {
            return GracefulRestart::default();
        };
        GracefulRestart {
            restarting: restart.restarting,
            restart_time_s: restart.restart_time_s,
            families: families.into_iter().map(|f| (f, true)).collect(),
        }
    }

    /// What this session and the peer's OPEN have in common.
    pub(super) fn agree(
        &self,
        offer: &Offer,
        open: &Open,
        peer_as: Asn,
        hold_time: HoldTime,
    ) -> Negotiated {
        let ours = self.open(offer);
        let capabilities: Vec<Capability> = ours
            .capabilities
            .iter()
            .filter(|c| match c {
                // With other contents than ours; what cannot be read is another variant.
                Capability::FourOctetAs(_) => open.has_four_octet_as(),
                Capability::GracefulRestart(_) => open.graceful_restart().is_some(),
                other => open.capabilities.contains(other),
            })
            .cloned()
            .collect();
        let both = |capability: Capability| capabilities.contains(&capability);
        let extended_next_hop = both(Capability::ExtendedNextHop);
        let has_next_hop = |f: &Family| {
            *f != Family::Ipv4Unicast || self.next_hop_v4.is_some() || extended_next_hop
        };
        let theirs = open.families();
        Negotiated {
            peer_as,
            peer_router_id: open.router_id,
            hold_time: hold_time.min(self.hold_time),
            families: ours
                .families()
                .into_iter()
                .filter(|f| theirs.contains(f) && has_next_hop(f))
                .collect(),
            four_octet_as: ours.has_four_octet_as() && open.has_four_octet_as(),
            extended_message: both(Capability::ExtendedMessage),
            extended_next_hop,
            enhanced_refresh: both(Capability::EnhancedRouteRefresh),
            graceful_restart: self.graceful_restart.is_some()
                && ours.graceful_restart().is_some()
                && open.graceful_restart().is_some(),
            restarts_gracefully: open
                .graceful_restart()
                .is_some_and(|restart| !restart.families.is_empty()),
            capabilities,
        }
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
            extended_next_hop: peer.extended_next_hop,
            max_message_len: if peer.extended_message {
                EXTENDED_MESSAGE_LEN
            } else {
                MAX_MESSAGE_LEN
            },
        }
    }
}

/// What earlier sessions have taught about our OPEN.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Offer {
    /// The peer refuses optional parameters altogether (2/4).
    no_parameters: bool,
    /// Capabilities that the peer refuses (2/7), by code and, where it is a family, that. RFC 5492 section 3 allows
    /// to open the session again without.
    refused: BTreeSet<(u8, Option<Family>)>,
}

impl Offer {
    /// Learns from a NOTIFICATION; whether there was anything new in it.
    pub(super) fn learn_refusal(&mut self, notification: &wire::Notification) -> bool {
        let before = self.clone();
        let refused = notification.unsupported_capabilities();
        if notification.subcode == 7 && !refused.is_empty() {
            self.refused.extend(refused);
        } else {
            self.no_parameters = true;
        }
        *self != before
    }

    /// The peer gets everything again.
    pub(super) fn forget_refusals(&mut self) {
        (self.no_parameters, self.refused) = (false, BTreeSet::new());
    }

    /// What is left out, in words.
    pub(super) fn refused(&self, config: &SessionConfig) -> Vec<String> {
        let all = config.capabilities().into_iter();
        all.filter(|c| self.omits(c))
            .map(|c| c.to_string())
            .collect()
    }

    fn omits(&self, capability: &Capability) -> bool {
        let code = capability.code();
        let family = match capability {
            Capability::Multiprotocol(family) => Some(*family),
            _ => None,
        };
        self.no_parameters
            || self.refused.contains(&(code, None))
            || self.refused.contains(&(code, family))
    }
}
