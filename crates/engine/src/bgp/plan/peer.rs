//! A peer of the profile, parsed into values that cannot be wrong.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bgp::rib_in::LearnPolicy;
use bgp::session::RestartConfig;
use bgp::{Asn, HoldTime, SessionConfig};
use ipnet::IpNet;
use proto::v1;

use super::{Absent, Md5Key, ProfileError, SessionKey, interface_networks};

/// How long a peer with graceful restart keeps the routes, in seconds: a restart of the process takes about one.
const RESTART_TIME_S: u16 = 120;

/// A peer of the profile, parsed.
pub(super) struct Peer {
    pub(super) address: IpAddr,
    pub(super) subnet: IpNet,
    pub(super) local_as: Asn,
    pub(super) remote_as: Asn,
    hold_time: HoldTime,
    keepalive: Duration,
    connect_retry: Duration,
    advertisement_interval: Duration,
    pub(super) ttl: u8,
    pub(super) min_ttl: u8,
    pub(super) multihop: bool,
    pub(super) md5_key: Md5Key,
    pub(super) advertise_vip: bool,
    pub(super) advertise_snat_ip: bool,
    pub(super) label: String,
    pub(super) shutdown: bool,
    pub(super) bfd: bool,
    pub(super) bfd_strict: bool,
    graceful_restart: bool,
    /// When an operator last asked for a reset; 0 = never.
    pub(super) reset_unix_ms: u64,
    /// What the `routing_options` of the peer's label say; nothing without.
    pub(super) options: v1::RoutingOptions,
}

impl Peer {
    pub(super) fn parse(profile: &v1::BgpProfile, index: usize) -> Result<Self, ProfileError> {
        let v1::BgpPeer {
            address,
            subnet,
            remote_as: _,
            local_as: _,
            keepalive_s,
            hold_time_s,
            connect_timer_s,
            advertisement_interval_s,
            ebgp_multihop,
            md5_secret,
            bfd,
            shutdown,
            advertise_vip,
            label,
            advertise_snat_ip,
            ibgp_local_as_override: _, // the controller has put the AS in force into local_as
            ttl_security,
            bfd_strict,
            graceful_restart,
            reset_unix_ms,
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
        let (local_as, remote_as) = as_numbers(profile, index)?;
        let hold_time = u16::try_from(*hold_time_s).ok().and_then(HoldTime::new);
        let hold_time = hold_time.ok_or_else(|| {
            let reason = format!("{hold_time_s} s; 0 or 3 to 65535 is possible (RFC 4271)");
            wrong("hold_time_s", reason)
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
            ttl: ttl(local_as == remote_as, *ebgp_multihop, *ttl_security),
            min_ttl: min_ttl(*ebgp_multihop, *ttl_security),
            multihop: *ebgp_multihop > 1 || !subnet.contains(&address),
            md5_key: Md5Key(md5_secret.clone().into_bytes()),
            advertise_vip: *advertise_vip,
            advertise_snat_ip: *advertise_snat_ip,
            label: label.clone(),
            shutdown: *shutdown || profile.shutdown,
            bfd: *bfd,
            bfd_strict: *bfd && *bfd_strict,
            graceful_restart: *graceful_restart,
            reset_unix_ms: *reset_unix_ms,
            options: options(profile, label),
        })
    }

    /// The interface's address in the peer's subnet; the first when there are several.
    pub(super) fn local_address(&self, interface: &v1::Interface) -> Option<IpAddr> {
        interface_networks(interface)
            .map(|net| net.addr())
            .find(|a| self.subnet.contains(a))
    }

    pub(super) fn session_config(
        &self,
        interface: &v1::Interface,
        local: IpAddr,
        router_id: Ipv4Addr,
        restarting: bool,
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
            // RFC 8950 is for links without IPv4 addresses.
            extended_next_hop: next_hop_v4.is_none() && local.is_ipv6(),
            graceful_restart: self.graceful_restart.then_some(RestartConfig {
                restart_time_s: RESTART_TIME_S,
                restarting,
            }),
            learn: self.learn_policy(),
            passive: false,
        }
    }

    pub(super) fn key(&self, interface: &v1::Interface, local: IpAddr) -> SessionKey {
        SessionKey {
            peer: self.address,
            interface: interface.name.clone(),
            local,
        }
    }

    pub(super) fn ibgp(&self) -> bool {
        self.local_as == self.remote_as
    }

    fn learn_policy(&self) -> Option<LearnPolicy> {
        let v1::RoutingOptions {
            learn_routes,
            learn_only_default_route,
            max_learn_limit,
            ..
        } = &self.options;
        (*learn_routes || *learn_only_default_route).then_some(LearnPolicy {
            only_default: !*learn_routes,
            limit: *max_learn_limit as usize,
        })
    }

    pub(super) fn absent(&self, code: &'static str, text: String) -> Absent {
        Absent {
            peer: self.address.to_string(),
            local_as: self.local_as.get(),
            remote_as: self.remote_as.get(),
            code,
            text,
        }
    }
}

fn options(profile: &v1::BgpProfile, label: &str) -> v1::RoutingOptions {
    let mut all = profile.routing_options.iter();
    let own = all.find(|options| !label.is_empty() && options.label == label);
    own.cloned().unwrap_or_default()
}

/// Ours and the peer's: 0 stands for the profile's, and for the same AS in an iBGP profile.
fn as_numbers(profile: &v1::BgpProfile, index: usize) -> Result<(Asn, Asn), ProfileError> {
    let peer = &profile.peers[index];
    let or = |number: u32, fallback: u32| if number == 0 { fallback } else { number };
    let local = or(peer.local_as, profile.local_as);
    let remote = or(peer.remote_as, if profile.ibgp { local } else { 0 });
    let asn = |field: &str, number| {
        Asn::new(number).ok_or_else(|| ProfileError {
            field: format!("peers[{index}].{field}"),
            reason: "AS 0 is reserved (RFC 7607)".to_owned(),
        })
    };
    Ok((asn("local_as", local)?, asn("remote_as", remote)?))
}

/// 0 leaves the interval to a third of the hold time, the core's upper bound.
fn keepalive(seconds: u32) -> Duration {
    if seconds == 0 {
        Duration::MAX
    } else {
        Duration::from_secs(seconds.into())
    }
}

/// Internal peers may be anywhere in the AS; external ones are on the link unless configured. GTSM always
/// sends the highest (RFC 5082 section 3).
fn ttl(ibgp: bool, ebgp_multihop: u32, ttl_security: bool) -> u8 {
    match (ibgp || ttl_security, ebgp_multihop) {
        (true, _) => 255,
        (false, 0) => 1,
        (false, hops) => u8::try_from(hops).unwrap_or(255),
    }
}

/// RFC 5082: a packet that has come over more hops than configured is dropped; 0 accepts any.
fn min_ttl(ebgp_multihop: u32, ttl_security: bool) -> u8 {
    if !ttl_security {
        return 0;
    }
    let hops = u8::try_from(ebgp_multihop.max(1)).unwrap_or(255);
    255 - (hops - 1)
}
