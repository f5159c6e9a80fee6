//! What an operator can see of a session.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::fsm::StateName;
use super::{Connection, Session, UNSENT_BYTES_MAX};
use crate::types::{Asn, Family, HoldTime};
use crate::wire::{Capability, Notification};

/// What both sides agreed on in their OPENs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// The peer's AS.
    pub peer_as: Asn,
    /// The peer's BGP identifier.
    pub peer_router_id: Ipv4Addr,
    /// The smaller of both proposals.
    pub hold_time: HoldTime,
    /// Families that both sides have.
    pub families: Vec<Family>,
    /// AS numbers have four octets in both directions (RFC 6793).
    pub four_octet_as: bool,
    /// Messages may have up to 65535 octets (RFC 8654).
    pub extended_message: bool,
    /// IPv4 routes carry IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// Refreshes are demarcated (RFC 7313).
    pub enhanced_refresh: bool,
    /// The peer keeps our routes over a restart (RFC 4724).
    pub graceful_restart: bool,
    /// The peer restarts gracefully itself: its new connection takes the place of an established one (RFC 4724
    /// section 5).
    pub restarts_gracefully: bool,
    /// Capabilities that both sides have, to be shown.
    pub capabilities: Vec<Capability>,
}

/// Messages since the session object exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// All messages received.
    pub messages_in: u64,
    /// All messages handed to the transport.
    pub messages_out: u64,
    /// UPDATEs received.
    pub updates_in: u64,
    /// UPDATEs handed to the transport.
    pub updates_out: u64,
    /// UPDATEs received that RFC 7606 treats as withdraw.
    pub treated_as_withdraw: u64,
    /// UPDATEs received with an attribute that RFC 7606 discards.
    pub attributes_discarded: u64,
    /// Prefixes that the peer has announced.
    pub prefixes_in: u64,
    /// How often the session was established.
    pub established: u64,
}

/// How something went wrong: how far the session had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The TCP connect was not answered within the connect retry time.
    ConnectTimedOut,
    /// The TCP connect failed at once.
    ConnectFailed,
    /// The peer closed the connection before its OPEN.
    ClosedBeforeOpen,
    /// The connection broke or was closed later, without a NOTIFICATION.
    ConnectionLost,
    /// One side sent a NOTIFICATION.
    Notification,
    /// An UPDATE was mended (RFC 7606); the session lives on.
    Update,
}

/// The last thing that went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// When.
    pub at: Instant,
    /// How.
    pub kind: ErrorKind,
    /// A sentence.
    pub text: String,
    /// The NOTIFICATION that it came with.
    pub notification: Option<Notification>,
    /// The peer sent that NOTIFICATION.
    pub received: bool,
}

/// Why a desired route is not in force at the peer. The codes are those of API, CLI and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withheld {
    /// The session is not established.
    SessionNotEstablished,
    /// We have no address of the route's family on this link.
    NoNextHop,
    /// The peer did not offer the route's family.
    FamilyNotNegotiated,
    /// The route changed again within the advertisement interval.
    AdvertisementInterval,
    /// The peer reads too slowly; the route follows as soon as it can be sent.
    PeerNotReading,
}

impl Withheld {
    /// The snake_case reason code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::SessionNotEstablished => "session_not_established",
            Self::NoNextHop => "no_next_hop",
            Self::FamilyNotNegotiated => "family_not_negotiated",
            Self::AdvertisementInterval => "advertisement_interval",
            Self::PeerNotReading => "peer_not_reading",
        }
    }
}

/// A desired route and its standing at the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteStatus {
    /// The destination.
    pub prefix: IpNet,
    /// Our address in the announcement.
    pub next_hop: Option<IpAddr>,
    /// The announcement is in force as far as we know.
    pub sent: bool,
    /// When it was last announced.
    pub announced_at: Option<Instant>,
    /// Why it is not in force; `None` when it is.
    pub withheld: Option<Withheld>,
}

impl Session {
    /// The peer has accepted our OPEN (its KEEPALIVE is here), and only the gate is waited for.
    #[must_use]
    pub fn waits_for_gate(&self) -> bool {
        self.gate_closed && self.confirmed && self.state() == StateName::OpenConfirm
    }

    /// The state's name.
    #[must_use]
    pub fn state(&self) -> StateName {
        self.state.name()
    }

    /// When the state was entered.
    #[must_use]
    pub fn state_since(&self) -> Instant {
        self.state_since
    }

    /// From OpenConfirm on.
    #[must_use]
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.state.negotiated().map(AsRef::as_ref)
    }

    /// Capabilities that are left out because the peer refused them, in words.
    #[must_use]
    pub fn refused_capabilities(&self) -> Vec<String> {
        self.offer.refused(&self.config)
    }

    /// The connection that the state machine runs on; meaningful from OpenSent on.
    #[must_use]
    pub fn connection(&self) -> Connection {
        self.connection
    }

    /// The keepalive interval in force, before jitter; `None` without session or with hold time 0.
    #[must_use]
    pub fn keepalive_interval(&self) -> Option<Duration> {
        self.config.keepalive_interval(self.negotiated()?.hold_time)
    }

    /// Message counts.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The last error, also after the session has recovered.
    #[must_use]
    pub fn last_error(&self) -> Option<&LastError> {
        self.last_error.as_ref()
    }

    /// Desired routes by address. Desired and sent are different things.
    pub fn routes(&self) -> impl Iterator<Item = RouteStatus> + '_ {
        self.rib.routes().map(|route| {
            let family = Family::of_prefix(route.prefix);
            RouteStatus {
                prefix: route.prefix,
                next_hop: self.config.next_hop(family),
                sent: route.in_force,
                announced_at: route.last_announced,
                withheld: (!route.in_force).then(|| self.withheld(family)),
            }
        })
    }

    fn withheld(&self, family: Family) -> Withheld {
        if self.config.next_hop(family).is_none() {
            return Withheld::NoNextHop;
        }
        let established = self.state() == StateName::Established;
        match self.negotiated() {
            Some(peer) if established && !peer.families.contains(&family) => {
                Withheld::FamilyNotNegotiated
            }
            Some(_) if established && self.unsent_bytes >= UNSENT_BYTES_MAX => {
                Withheld::PeerNotReading
            }
            Some(_) if established => Withheld::AdvertisementInterval,
            Some(_) | None => Withheld::SessionNotEstablished,
        }
    }
}
