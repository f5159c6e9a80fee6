//! From the desired state to the sessions that shall exist: decided as a value, without acting.

mod peer;
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bgp::rib::RouteTable;
use bgp::{Notification, SessionConfig};
use ipnet::IpNet;
use proto::v1;

use super::learn::BestRoutes;
use super::{Announcement, BgpDesired};
use peer::Peer;
use routes::{Policy, Withheld};

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
    Policy::new(profile)?;
    for index in 0..profile.peers.len() {
        Peer::parse(profile, index)?;
    }
    Ok(())
}

/// Why `peer` can be no peer of ours, when it is an address of this host: what is sent to it never leaves the host, also
/// while a router on the link has it too. A link-local address is another one on every link (RFC 4291 section 2.5.6).
pub(crate) fn own_address(interfaces: &[v1::Interface], peer: IpAddr) -> Option<String> {
    let on_one_link = matches!(peer, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let has = |i: &&v1::Interface| interface_networks(i).any(|net| net.addr() == peer);
    let interface = interfaces.iter().filter(|_| !on_one_link).find(has)?;
    let name = &interface.name;
    Some(format!(
        "{peer} is the address of our interface {name}; a peer is another host"
    ))
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
    /// Of what we send.
    pub(super) ttl: u8,
    /// Of what we accept (GTSM, RFC 5082); 0 = any.
    pub(super) min_ttl: u8,
    pub(super) md5_key: Md5Key,
}

/// Everything a session task works from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SessionPlan {
    pub(super) core: SessionConfig,
    pub(super) transport: TransportConfig,
    /// The routes the peer should hold.
    pub(super) routes: Arc<RouteTable>,
    /// The routes that the peer's settings keep from it.
    pub(super) withheld: Arc<Withheld>,
    pub(super) label: String,
    /// Watch the path with BFD, and whether over several hops.
    pub(super) bfd: Option<BfdPlan>,
    /// When an operator last asked for a reset; a later time than before resets the session once.
    pub(super) reset_unix_ms: u64,
}

/// How BFD watches the path of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BfdPlan {
    pub(super) multihop: bool,
    /// The session is established only while BFD is up; until then it waits in OpenConfirm (ADR 0005).
    pub(super) strict: bool,
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

/// By peer, interface and local address.
pub(super) type Sessions = BTreeMap<SessionKey, SessionPlan>;

/// What a plan is made from, beside the profile.
#[derive(Clone, Copy)]
struct Given<'a> {
    desired: &'a BgpDesired,
    learned: &'a BestRoutes,
    router_id: Ipv4Addr,
    before: &'a Sessions,
    drained: bool,
}

/// What shall be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Plan {
    pub(super) sessions: Sessions,
    pub(super) absent: Vec<Absent>,
    configured: BTreeSet<IpAddr>,
    shut_down: BTreeSet<IpAddr>,
}

impl Plan {
    /// `before` are the sessions that exist; `drained`: the time of marked routes is over, there are none any more.
    pub(super) fn new(
        desired: &BgpDesired,
        learned: &BestRoutes,
        router_id: Ipv4Addr,
        before: &Sessions,
        drained: bool,
    ) -> Self {
        let mut plan = Self::default();
        let Some(profile) = &desired.profile else {
            return plan;
        };
        let given = Given {
            desired,
            learned,
            router_id,
            before,
            drained,
        };
        match Policy::new(profile) {
            Ok(policy) => plan.add_peers(&given, profile, policy),
            Err(error) => {
                let peers = profile.peers.iter();
                plan.absent = peers.map(|p| Absent::invalid(profile, p, &error)).collect();
            }
        }
        plan
    }

    fn add_peers(&mut self, given: &Given<'_>, profile: &v1::BgpProfile, mut policy: Policy) {
        for (index, raw) in profile.peers.iter().enumerate() {
            match Peer::parse(profile, index) {
                Ok(peer) => self.add_peer(given, &peer, &mut policy),
                Err(error) => self.absent.push(Absent::invalid(profile, raw, &error)),
            }
        }
    }

    fn add_peer(&mut self, given: &Given<'_>, peer: &Peer, policy: &mut Policy) {
        let Given {
            desired,
            learned,
            router_id,
            before,
            drained,
        } = *given;
        self.configured.insert(peer.address);
        if let Some(text) = own_address(&desired.interfaces, peer.address) {
            self.absent.push(peer.absent("invalid_configuration", text));
            return;
        }
        if peer.shutdown {
            self.shut_down.insert(peer.address);
            self.absent
                .push(peer.absent("shutdown", "administratively shut down".to_owned()));
            return;
        }
        let fitting = fitting(&desired.interfaces, peer);
        if fitting.is_empty() {
            let text = format!("no interface in {}", peer.subnet);
            return self
                .absent
                .push(peer.absent("no_interface_in_subnet", text));
        }
        let has_session =
            |(interface, local): &Fitting<'_>| before.contains_key(&peer.key(interface, *local));
        let (fitting, mut refused) = one_per_subnet(fitting, has_session, peer);
        self.absent.append(&mut refused);
        let (table, withheld) = policy.table(desired, learned, peer, drained);
        let (table, withheld) = (Arc::new(table), Arc::new(withheld));
        for (interface, local) in fitting {
            if !interface.up {
                let text = format!("interface {} with {local} is down", interface.name);
                self.absent.push(peer.absent("interface_down", text));
                continue;
            }
            let key = peer.key(interface, local);
            let session = SessionPlan {
                core: peer.session_config(interface, local, router_id, desired.restarting),
                transport: TransportConfig {
                    ttl: peer.ttl,
                    min_ttl: peer.min_ttl,
                    md5_key: peer.md5_key.clone(),
                },
                routes: table.clone(),
                withheld: withheld.clone(),
                label: peer.label.clone(),
                bfd: peer.bfd.then_some(BfdPlan {
                    multihop: peer.multihop,
                    strict: peer.bfd_strict,
                }),
                reset_unix_ms: peer.reset_unix_ms,
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

/// An interface with an address in the peer's subnet, and that address.
type Fitting<'a> = (&'a v1::Interface, IpAddr);

fn fitting<'a>(interfaces: &'a [v1::Interface], peer: &Peer) -> Vec<Fitting<'a>> {
    interfaces
        .iter()
        .filter_map(|interface| Some((interface, peer.local_address(interface)?)))
        .collect()
}

/// Of interfaces in one subnet only one gets a session (seed, "SE-Router Link Types"): one that has it already, so
/// that a second address that appears later takes nothing away; else the first. The others are told why not.
fn one_per_subnet<'a>(
    fitting: Vec<Fitting<'a>>,
    has_session: impl Fn(&Fitting<'_>) -> bool,
    peer: &Peer,
) -> (Vec<Fitting<'a>>, Vec<Absent>) {
    let (with, without): (Vec<_>, Vec<_>) = fitting.into_iter().partition(has_session);
    let mut networks: BTreeMap<IpNet, &str> = BTreeMap::new();
    let (mut chosen, mut refused) = (Vec::new(), Vec::new());
    for (interface, local) in with.into_iter().chain(without) {
        let network = interface_networks(interface).find(|net| net.addr() == local);
        let network = network.map_or(IpNet::from(local), |net| net.trunc());
        match networks.get(&network) {
            Some(first) => {
                let text = format!(
                    "interfaces {first} and {} are both in {network}: separate layer 3 interfaces in the same subnet and VLAN are not supported; move one to another subnet, or bundle both links into one port channel",
                    interface.name
                );
                refused.push(peer.absent("two_interfaces_in_one_subnet", text));
            }
            None => {
                networks.insert(network, &interface.name);
                chosen.push((interface, local));
            }
        }
    }
    (chosen, refused)
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

#[cfg(test)]
mod tests;
