//! From the desired state to the sessions that shall exist: decided as a value, without acting.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use bgp::rib::{LOCAL_PREF_DEFAULT, RouteAttributes, RouteTable};
use bgp::{Asn, Community, HoldTime, Notification, SessionConfig};
use ipnet::IpNet;
use proto::v1;

use super::BgpDesired;

/// A BGP profile that cannot be put in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct ProfileError {
    /// Path within the profile, for example `peers[0].subnet`.
    pub field: String,
    /// What is wrong and what to do.
    pub reason: String,
}

/// Whether every part of the profile can be put in force; the first problem otherwise.
///
/// # Errors
///
/// The first field that cannot.
pub fn check_profile(profile: &v1::BgpProfile) -> Result<(), ProfileError> {
    route_attributes(profile)?;
    for index in 0..profile.peers.len() {
        Peer::parse(profile, index)?;
    }
    Ok(())
}

/// One session: a peer as seen from one local address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SessionKey {
    pub(super) peer: IpAddr,
    pub(super) interface: String,
    pub(super) local: IpAddr,
}

/// A TCP MD5 key that does not show up in logs.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct Md5Key(Vec<u8>);

impl Md5Key {
    /// `None` when no key is configured.
    pub(super) fn expose(&self) -> Option<&[u8]> {
        (!self.0.is_empty()).then_some(&self.0)
    }
}

impl fmt::Debug for Md5Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "set" })
    }
}

/// What the socket needs; a change of it needs a new connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TransportConfig {
    pub(super) ttl: u8,
    pub(super) md5_key: Md5Key,
}

/// Everything a session task works from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SessionPlan {
    pub(super) core: SessionConfig,
    pub(super) transport: TransportConfig,
    /// The routes the peer should hold.
    pub(super) routes: Arc<RouteTable>,
    /// The peer's `advertise_vip`; when off, `routes` is shown but not sent.
    pub(super) advertise_vip: bool,
}

/// A peer without a session, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Absent {
    pub(super) peer: String,
    pub(super) local_as: u32,
    pub(super) remote_as: u32,
    /// snake_case reason code.
    pub(super) code: &'static str,
    /// A sentence.
    pub(super) text: String,
}

/// What shall be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Plan {
    pub(super) sessions: BTreeMap<SessionKey, SessionPlan>,
    pub(super) absent: Vec<Absent>,
    configured: BTreeSet<IpAddr>,
    shut_down: BTreeSet<IpAddr>,
}

impl Plan {
    pub(super) fn new(desired: &BgpDesired, router_id: Ipv4Addr) -> Self {
        let mut plan = Self::default();
        let Some(profile) = &desired.profile else {
            return plan;
        };
        match route_attributes(profile) {
            Ok(attributes) => {
                let table = desired
                    .routes
                    .iter()
                    .map(|vip| (*vip, attributes.clone()))
                    .collect();
                plan.add_peers(desired, profile, router_id, &Arc::new(table));
            }
            Err(error) => {
                plan.absent = profile
                    .peers
                    .iter()
                    .map(|peer| Absent::invalid(profile, peer, &error))
                    .collect();
            }
        }
        plan
    }

    fn add_peers(
        &mut self,
        desired: &BgpDesired,
        profile: &v1::BgpProfile,
        router_id: Ipv4Addr,
        table: &Arc<RouteTable>,
    ) {
        for (index, raw) in profile.peers.iter().enumerate() {
            match Peer::parse(profile, index) {
                Ok(peer) => self.add_peer(desired, &peer, router_id, table),
                Err(error) => self.absent.push(Absent::invalid(profile, raw, &error)),
            }
        }
    }

    fn add_peer(
        &mut self,
        desired: &BgpDesired,
        peer: &Peer,
        router_id: Ipv4Addr,
        table: &Arc<RouteTable>,
    ) {
        self.configured.insert(peer.address);
        if peer.shutdown {
            self.shut_down.insert(peer.address);
            self.absent
                .push(peer.absent("shutdown", "administratively shut down".to_owned()));
            return;
        }
        let fitting: Vec<_> = desired
            .interfaces
            .iter()
            .filter_map(|i| Some((i, peer.local_address(i)?)))
            .collect();
        if fitting.is_empty() {
            self.absent.push(peer.absent(
                "no_interface_in_subnet",
                format!("no interface in {}", peer.subnet),
            ));
        }
        for (interface, local) in fitting {
            if !interface.up {
                let text = format!("interface {} with {local} is down", interface.name);
                self.absent.push(peer.absent("interface_down", text));
                continue;
            }
            let key = SessionKey {
                peer: peer.address,
                interface: interface.name.clone(),
                local,
            };
            let session = SessionPlan {
                core: peer.session_config(interface, local, router_id),
                transport: TransportConfig {
                    ttl: peer.ttl,
                    md5_key: peer.md5_key.clone(),
                },
                routes: table.clone(),
                advertise_vip: peer.advertise_vip,
            };
            self.sessions.insert(key, session);
        }
    }

    /// What a session that is not in the plan any more tells its peer.
    pub(super) fn farewell(&self, key: &SessionKey) -> Notification {
        if self.shut_down.contains(&key.peer) {
            Notification::administrative_shutdown("peer is disabled")
        } else if self.configured.contains(&key.peer) {
            Notification::other_configuration_change()
        } else {
            Notification::peer_deconfigured()
        }
    }
}

impl Absent {
    fn invalid(profile: &v1::BgpProfile, peer: &v1::BgpPeer, error: &ProfileError) -> Self {
        Self {
            peer: peer.address.clone(),
            local_as: profile.local_as,
            remote_as: peer.remote_as,
            code: "invalid_configuration",
            text: error.to_string(),
        }
    }
}

/// The BGP identifier: the highest IPv4 address of the interfaces, as routers choose it. Without any,
/// a number made from the IPv6 addresses (RFC 6286 asks for unique within the AS, not for an address).
pub(super) fn router_id(interfaces: &[v1::Interface]) -> Option<Ipv4Addr> {
    let addresses: Vec<IpAddr> = interfaces
        .iter()
        .flat_map(interface_networks)
        .map(|net| net.addr())
        .collect();
    let v4 = addresses.iter().filter_map(|a| match a {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    });
    let from_v6 = || {
        addresses.iter().filter_map(|a| match a {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(hash_identifier(*v6)),
        })
    };
    v4.filter(|a| !a.is_loopback() && !a.is_unspecified())
        .max()
        .or_else(|| from_v6().max())
}

/// FNV-1a over the address; never 0.
fn hash_identifier(address: Ipv6Addr) -> Ipv4Addr {
    let fold = |hash: u32, octet: u8| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193);
    Ipv4Addr::from(address.octets().into_iter().fold(0x811C_9DC5, fold).max(1))
}

fn interface_networks(interface: &v1::Interface) -> impl Iterator<Item = IpNet> + '_ {
    // What does not parse is not an address one could bind to; the observer writes them itself.
    interface
        .addresses
        .iter()
        .filter_map(|text| text.parse().ok())
}

/// A peer of the profile, parsed.
struct Peer {
    address: IpAddr,
    subnet: IpNet,
    local_as: Asn,
    remote_as: Asn,
    hold_time: HoldTime,
    keepalive: Duration,
    connect_retry: Duration,
    advertisement_interval: Duration,
    ttl: u8,
    md5_key: Md5Key,
    advertise_vip: bool,
    shutdown: bool,
}

impl Peer {
    fn parse(profile: &v1::BgpProfile, index: usize) -> Result<Self, ProfileError> {
        let v1::BgpPeer {
            address,
            subnet,
            remote_as,
            local_as,
            keepalive_s,
            hold_time_s,
            connect_timer_s,
            advertisement_interval_s,
            ebgp_multihop,
            md5_secret,
            bfd: _, // the session lives without; BFD is its own engine
            shutdown,
            advertise_vip,
            label: _,
            advertise_snat_ip: _,
            ibgp_local_as_override: _,
            ttl_security: _,
            bfd_strict: _,
            graceful_restart: _,
        } = &profile.peers[index];
        let wrong = |field: &str, reason: String| ProfileError {
            field: format!("peers[{index}].{field}"),
            reason,
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| wrong("address", format!("\"{address}\" is not an IP address")))?;
        let subnet: IpNet = subnet.parse().map_err(|_| {
            wrong(
                "subnet",
                format!("\"{subnet}\" is not a network like 10.0.0.0/24"),
            )
        })?;
        if subnet.addr().is_ipv4() != address.is_ipv4() {
            return Err(wrong(
                "subnet",
                format!("{subnet} is not of the address family of {address}"),
            ));
        }
        let local = if *local_as == 0 {
            profile.local_as
        } else {
            *local_as
        };
        let remote = if *remote_as == 0 && profile.ibgp {
            local
        } else {
            *remote_as
        };
        let asn = |field, number| {
            Asn::new(number).ok_or_else(|| wrong(field, "AS 0 is reserved (RFC 7607)".into()))
        };
        let (local_as, remote_as) = (asn("local_as", local)?, asn("remote_as", remote)?);
        let hold_time = u16::try_from(*hold_time_s)
            .ok()
            .and_then(HoldTime::new)
            .ok_or_else(|| {
                wrong(
                    "hold_time_s",
                    format!("{hold_time_s} s; 0 or 3 to 65535 is possible (RFC 4271)"),
                )
            })?;
        if md5_secret.len() > dataplane::sockopt::MD5_KEY_LEN_MAX {
            let reason = format!("{} bytes; Linux takes at most 80", md5_secret.len());
            return Err(wrong("md5_secret", reason));
        }
        Ok(Self {
            address,
            subnet,
            local_as,
            remote_as,
            hold_time,
            keepalive: keepalive(*keepalive_s),
            connect_retry: Duration::from_secs((*connect_timer_s).max(1).into()),
            advertisement_interval: Duration::from_secs((*advertisement_interval_s).into()),
            ttl: ttl(local_as == remote_as, *ebgp_multihop),
            md5_key: Md5Key(md5_secret.clone().into_bytes()),
            advertise_vip: *advertise_vip,
            shutdown: *shutdown || profile.shutdown,
        })
    }

    /// The interface's address in the peer's subnet; the first when there are several.
    fn local_address(&self, interface: &v1::Interface) -> Option<IpAddr> {
        interface_networks(interface)
            .map(|net| net.addr())
            .find(|a| self.subnet.contains(a))
    }

    fn session_config(
        &self,
        interface: &v1::Interface,
        local: IpAddr,
        router_id: Ipv4Addr,
    ) -> SessionConfig {
        let mut next_hop_v4 = interface_networks(interface).find_map(|net| match net.addr() {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        });
        let mut next_hop_v6 = interface_networks(interface).find_map(|net| match net.addr() {
            IpAddr::V6(v6) if !v6.is_unicast_link_local() => Some(v6),
            IpAddr::V6(_) | IpAddr::V4(_) => None,
        });
        match local {
            IpAddr::V4(v4) => next_hop_v4 = Some(v4),
            IpAddr::V6(v6) => next_hop_v6 = Some(v6),
        }
        SessionConfig {
            local_as: self.local_as,
            remote_as: self.remote_as,
            router_id,
            hold_time: self.hold_time,
            keepalive: self.keepalive,
            connect_retry: self.connect_retry,
            advertisement_interval: self.advertisement_interval,
            next_hop_v4,
            next_hop_v6,
            passive: false,
        }
    }

    fn absent(&self, code: &'static str, text: String) -> Absent {
        Absent {
            peer: self.address.to_string(),
            local_as: self.local_as.get(),
            remote_as: self.remote_as.get(),
            code,
            text,
        }
    }
}

/// 0 leaves the interval to a third of the hold time, the core's upper bound.
fn keepalive(seconds: u32) -> Duration {
    if seconds == 0 {
        Duration::MAX
    } else {
        Duration::from_secs(seconds.into())
    }
}

/// Internal peers may be anywhere in the AS; external ones are on the link unless configured.
fn ttl(ibgp: bool, ebgp_multihop: u32) -> u8 {
    match (ibgp, ebgp_multihop) {
        (true, _) => 255,
        (false, 0) => 1,
        (false, hops) => u8::try_from(hops).unwrap_or(255),
    }
}

fn route_attributes(profile: &v1::BgpProfile) -> Result<Arc<RouteAttributes>, ProfileError> {
    let wrong = |field: &str, reason: String| ProfileError {
        field: field.to_owned(),
        reason,
    };
    let mut communities = Vec::with_capacity(profile.communities.len());
    for (index, text) in profile.communities.iter().enumerate() {
        let parsed: Result<Community, _> = text.parse();
        communities
            .push(parsed.map_err(|e| wrong(&format!("communities[{index}]"), e.to_string()))?);
    }
    let local_pref = profile.local_preference.unwrap_or(LOCAL_PREF_DEFAULT);
    let prepend = profile.num_as_path_prepend.unwrap_or(0);
    RouteAttributes::new(local_pref, prepend, communities)
        .map(Arc::new)
        .map_err(|error| match error {
            bgp::rib::AttributeError::TooManyPrepends(_) => {
                wrong("num_as_path_prepend", error.to_string())
            }
            bgp::rib::AttributeError::TooManyCommunities(_) => {
                wrong("communities", error.to_string())
            }
        })
}

#[cfg(test)]
mod tests;
