//! Typed views of the objects that the product acts on.
//!
//! A view is parsed from an object whose defaults are filled in ([`crate::object::with_defaults`]) and that
//! was validated before it was stored; so a parse error here is a bug of ours or a field whose meaning
//! [`crate::rules`] forgot to check. Field names are those of avi-api; units are in the schema.

mod application;
mod network;
mod transport;

pub use application::{
    ApplicationProfile, HttpApplicationProfile, HttpCookiePersistenceProfile, PersistenceProfile,
    SslCertificate, SslKeyAndCertificate, SslProfile, SslVersion, TcpApplicationProfile,
};
pub use network::{
    Cloud, IpAddrRange, IpNetworkSubnet, Network, StaticIpRange, Subnet, VipPlacementNetwork,
    VipRange, address_after,
};
pub use transport::{
    NetworkProfile, NetworkProfileUnion, TcpFastPathProfile, TcpProxyProfile, Transport, UdpProfile,
};

use crate::weight::Weight;
use ipnet::IpNet;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Parses a view.
///
/// # Errors
/// The field that does not fit, in serde's words.
pub fn parse<T: DeserializeOwned>(object: &crate::object::Object) -> Result<T, serde_json::Error> {
    T::deserialize(Value::Object(object.clone()))
}

/// Whether an object of this type fits the view that the product acts on; true of a type without one. What is stored
/// has passed this, so that no object is lost on the way to the engines.
///
/// # Errors
/// What does not fit, in serde's words.
pub fn check(
    ty: &crate::schema::ObjectType,
    object: &crate::object::Object,
) -> Result<(), serde_json::Error> {
    match ty.name.as_str() {
        "VirtualService" => parse::<VirtualService>(object).map(drop),
        "VsVip" => parse::<VsVip>(object).map(drop),
        "Pool" => parse::<Pool>(object).map(drop),
        "PoolGroup" => parse::<PoolGroup>(object).map(drop),
        "HealthMonitor" => parse::<HealthMonitor>(object).map(drop),
        "NetworkProfile" => parse::<NetworkProfile>(object).map(drop),
        "VrfContext" => parse::<VrfContext>(object).map(drop),
        "ServiceEngineGroup" => parse::<ServiceEngineGroup>(object).map(drop),
        "ServiceEngine" => parse::<ServiceEngine>(object).map(drop),
        "Network" => parse::<Network>(object).map(drop),
        "Cloud" => parse::<Cloud>(object).map(drop),
        "ApplicationProfile" => parse::<ApplicationProfile>(object).map(drop),
        "ApplicationPersistenceProfile" => parse::<PersistenceProfile>(object).map(drop),
        "SSLProfile" => parse::<SslProfile>(object).map(drop),
        "SSLKeyAndCertificate" => parse::<SslKeyAndCertificate>(object).map(drop),
        _ => Ok(()),
    }
}

/// `created_by` of a VsVip that was made for the inline `vip` of a virtual service, and goes with it.
pub const MADE_FOR_VS: &str = "virtualservice";

/// A reference in canonical form, `/api/TYPE/UUID`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(transparent)]
pub struct Ref(pub String);

impl Ref {
    /// The reference to this object.
    pub fn to(path: &str, uuid: &str) -> Self {
        Self(format!("/api/{path}/{uuid}"))
    }

    /// The target's uuid.
    pub fn uuid(&self) -> &str {
        let end = self.0.find('#').unwrap_or(self.0.len());
        self.0[..end].rsplit('/').next().unwrap_or("")
    }
}

/// `{addr, type}`. The address may be a DNS name in objects we only keep; [`Address::ip`] says so.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct Address {
    /// The text of the address.
    pub addr: String,
    /// `V4`, `V6` or `DNS`.
    #[serde(rename = "type")]
    pub kind: String,
}

impl Address {
    /// The address, when the text is one and agrees with `type`.
    pub fn ip(&self) -> Option<IpAddr> {
        let ip: IpAddr = self.addr.parse().ok()?;
        (if ip.is_ipv4() {
            self.kind == "V4"
        } else {
            self.kind == "V6"
        })
        .then_some(ip)
    }
}

/// `{ip_addr, mask}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct Prefix {
    /// An address in the prefix.
    pub ip_addr: Address,
    /// Prefix length in bits.
    pub mask: i64,
}

impl Prefix {
    /// The prefix with its host bits cleared, when address and length make one.
    pub fn net(&self) -> Option<IpNet> {
        self.address().map(|n| n.trunc())
    }

    /// The prefix with its host bits: an interface's address.
    pub fn address(&self) -> Option<IpNet> {
        IpNet::new(self.ip_addr.ip()?, u8::try_from(self.mask).ok()?).ok()
    }
}

/// avi-api `VirtualService`.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct VirtualService {
    pub uuid: String,
    pub name: String,
    pub cloud_ref: Option<Ref>,
    pub tenant_ref: Option<Ref>,
    pub se_group_ref: Option<Ref>,
    pub vrf_context_ref: Option<Ref>,
    pub vsvip_ref: Option<Ref>,
    pub pool_ref: Option<Ref>,
    /// In place of `pool_ref`.
    pub pool_group_ref: Option<Ref>,
    pub network_profile_ref: Option<Ref>,
    pub application_profile_ref: Option<Ref>,
    /// Whom clients of TLS meet; the first, unless they name one of the others.
    #[serde(default)]
    pub ssl_key_and_certificate_refs: Vec<Ref>,
    pub ssl_profile_ref: Option<Ref>,
    #[serde(default)]
    pub services: Vec<Service>,
    /// Which engine of a pair is to be the active one.
    #[serde(default)]
    pub active_standby_se_tag: String,
    #[serde(default = "yes")]
    pub enabled: bool,
    #[serde(default = "yes")]
    pub traffic_enabled: bool,
    #[serde(default)]
    pub enable_rhi: bool,
    #[serde(default)]
    pub enable_rhi_snat: bool,
    #[serde(default)]
    pub advertise_down_vs: bool,
    #[serde(default)]
    pub snat_ip: Vec<Address>,
    /// Servers see the VIP; on one engine only, as routers would spread their answers over all.
    #[serde(default)]
    pub use_vip_as_snat: bool,
    /// This and the next two: of the VIPs that were made for an inline `vip` of this virtual service, instead of the
    /// VsVip's.
    pub bgp_local_preference: Option<u32>,
    pub bgp_num_as_path_prepend: Option<u32>,
    #[serde(default)]
    pub bgp_peer_labels: Vec<String>,
    /// No flow probes for this virtual service.
    #[serde(default)]
    pub scaleout_ecmp: bool,
    /// How new flows are spread where the VIP is scaled natively.
    #[serde(default)]
    pub flow_dist: String,
    /// Owner hints in TCP timestamps.
    #[serde(default = "yes")]
    pub flow_hints: bool,
    /// Shares of a busy engine.
    #[serde(default)]
    pub weight: Weight,
}

/// avi-api `Service`: a port or a range of ports.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)]
pub struct Service {
    pub port: u16,
    /// 0 = only `port`.
    #[serde(default)]
    pub port_range_end: u16,
    #[serde(default)]
    pub enable_ssl: bool,
    /// Instead of the virtual service's.
    pub override_network_profile_ref: Option<Ref>,
    /// Instead of the virtual service's.
    pub override_application_profile_ref: Option<Ref>,
}

impl Service {
    /// First and last port.
    pub fn ports(&self) -> (u16, u16) {
        (self.port, self.port_range_end.max(self.port))
    }
}

/// avi-api `VsVip`.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct VsVip {
    pub uuid: String,
    pub name: String,
    pub cloud_ref: Option<Ref>,
    pub vrf_context_ref: Option<Ref>,
    #[serde(default)]
    pub vip: Vec<Vip>,
    pub bgp_local_preference: Option<u32>,
    pub bgp_num_as_path_prepend: Option<u32>,
    /// Labels of the peers that the VIPs are announced to; none = all peers.
    #[serde(default)]
    pub bgp_peer_labels: Vec<String>,
    /// [`MADE_FOR_VS`] when it belongs to one virtual service.
    #[serde(default)]
    pub created_by: String,
}

/// avi-api `Vip`.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct Vip {
    #[serde(default)]
    pub vip_id: String,
    pub ip_address: Option<Address>,
    pub ip6_address: Option<Address>,
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Engines need an interface in one of these; none = in any network.
    #[serde(default)]
    pub placement_networks: Vec<VipPlacementNetwork>,
}

impl Vip {
    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [&self.ip_address, &self.ip6_address]
            .into_iter()
            .flatten()
            .filter_map(Address::ip)
    }
}

/// avi-api `Pool`.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct Pool {
    pub uuid: String,
    pub name: String,
    pub vrf_ref: Option<Ref>,
    #[serde(default = "yes")]
    pub enabled: bool,
    #[serde(default)]
    pub lb_algorithm: String,
    /// What of a client `LB_ALGORITHM_CONSISTENT_HASH` goes by.
    #[serde(default)]
    pub lb_algorithm_hash: String,
    #[serde(default = "default_server_port")]
    pub default_server_port: u16,
    #[serde(default)]
    pub health_monitor_refs: Vec<Ref>,
    #[serde(default)]
    pub servers: Vec<Server>,
    #[serde(default)]
    pub max_concurrent_connections_per_server: u32,
    /// Minutes that connections of a disabled server go on; 0 = none, -1 = until they end.
    #[serde(default = "graceful_disable_timeout")]
    pub graceful_disable_timeout: i32,
    /// Servers get the port that the client used at the VIP.
    #[serde(default)]
    pub use_service_port: bool,
    /// Servers whose connects fail get fewer new connections.
    #[serde(default = "yes")]
    pub inline_health_monitor: bool,
    /// Monitors that must pass for a server to be up; none, 0 or less = all.
    pub min_health_monitors_up: Option<i64>,
    /// With fewer servers up the pool is down; none, 0 or less = 1.
    pub min_servers_up: Option<i64>,
    /// Servers are spoken to by TLS.
    pub ssl_profile_ref: Option<Ref>,
    /// Servers are told whom a client wants.
    #[serde(default = "yes")]
    pub sni_enabled: bool,
    /// By this name; none or empty = the one that the client has used.
    pub server_name: Option<String>,
    pub application_persistence_profile_ref: Option<Ref>,
    /// Milliseconds until the answer to an HTTP request; 0 = an hour.
    #[serde(default)]
    pub server_timeout: u32,
}

/// avi-api `PoolGroup`.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct PoolGroup {
    pub uuid: String,
    pub name: String,
    #[serde(default)]
    pub members: Vec<PoolGroupMember>,
    /// Pools of the next priority are used as well while fewer servers are up; 0 = 1.
    #[serde(default)]
    pub min_servers: u32,
}

impl PoolGroup {
    /// Each member's rank among the labels: the higher is used first, and who has no label is last.
    pub fn priorities(&self) -> Vec<u32> {
        let members = self.members.iter();
        let labels: BTreeSet<Option<u64>> = members.map(PoolGroupMember::priority).collect();
        let rank = |m: &PoolGroupMember| labels.range(..m.priority()).count();
        let ranks = self.members.iter().map(rank);
        ranks
            .map(|r| u32::try_from(r).unwrap_or(u32::MAX))
            .collect()
    }
}

/// avi-api `PoolGroupMember`.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct PoolGroupMember {
    pub pool_ref: Ref,
    /// A number, of which the higher comes first.
    pub priority_label: Option<String>,
    /// Share among those of its label; 0 = nothing new.
    #[serde(default = "one")]
    pub ratio: u32,
}

impl PoolGroupMember {
    /// Its label; none also for one that is no number.
    pub fn priority(&self) -> Option<u64> {
        self.priority_label.as_ref()?.parse().ok()
    }
}

/// avi-api `Server` of a pool.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct Server {
    pub ip: Address,
    /// None or 0 = the pool's `default_server_port`.
    pub port: Option<u16>,
    #[serde(default = "yes")]
    pub enabled: bool,
    #[serde(default = "one")]
    pub ratio: u32,
}

impl Pool {
    /// Where engines reach one of its servers, in the words in which they report it: the address in its canonical form
    /// (RFC 5952), and the port. `None` for a server that is a DNS name.
    pub fn endpoint(&self, server: &Server) -> Option<(String, u32)> {
        let own = server.port.filter(|port| *port != 0);
        let port = own.unwrap_or(self.default_server_port);
        Some((server.ip.ip()?.to_string(), port.into()))
    }
}

/// avi-api `HealthMonitor`.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct HealthMonitor {
    pub uuid: String,
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub send_interval: u32,
    pub receive_timeout: u32,
    pub successful_checks: u32,
    pub failed_checks: u32,
    pub monitor_port: Option<u16>,
    pub tcp_monitor: Option<HealthMonitorTcp>,
    pub udp_monitor: Option<HealthMonitorUdp>,
    pub http_monitor: Option<HealthMonitorHttp>,
    pub https_monitor: Option<HealthMonitorHttp>,
}

/// avi-api `HealthMonitorTcp`.
#[derive(Debug, Clone, Default, Deserialize)]
#[allow(missing_docs)]
pub struct HealthMonitorTcp {
    pub tcp_request: Option<String>,
    pub tcp_response: Option<String>,
    pub maintenance_response: Option<String>,
    #[serde(default)]
    pub tcp_half_open: bool,
}

/// avi-api `HealthMonitorUdp`.
#[derive(Debug, Clone, Default, Deserialize)]
#[allow(missing_docs)]
pub struct HealthMonitorUdp {
    pub udp_request: Option<String>,
    pub udp_response: Option<String>,
    pub maintenance_response: Option<String>,
}

/// avi-api `HealthMonitorHttp`.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct HealthMonitorHttp {
    #[serde(default = "http_request")]
    pub http_request: String,
    #[serde(default)]
    pub exact_http_request: bool,
    /// HTTP_ANY, HTTP_1XX and so on; none = HTTP_2XX.
    #[serde(default)]
    pub http_response_code: Vec<String>,
    pub http_response: Option<String>,
    #[serde(default)]
    pub maintenance_code: Vec<u16>,
    pub maintenance_response: Option<String>,
}

impl Default for HealthMonitorHttp {
    fn default() -> Self {
        Self {
            http_request: http_request(),
            exact_http_request: false,
            http_response_code: Vec::new(),
            http_response: None,
            maintenance_code: Vec::new(),
            maintenance_response: None,
        }
    }
}

/// avi-api `VrfContext`.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct VrfContext {
    pub uuid: String,
    pub name: String,
    pub cloud_ref: Option<Ref>,
    pub bgp_profile: Option<BgpProfile>,
    pub bfd_profile: Option<BfdProfile>,
    #[serde(default)]
    pub static_routes: Vec<StaticRoute>,
}

/// avi-api `StaticRoute`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)]
pub struct StaticRoute {
    pub route_id: String,
    pub prefix: Prefix,
    pub next_hop: Address,
    pub if_name: Option<String>,
}

/// avi-api `BfdProfile`; times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)]
pub struct BfdProfile {
    #[serde(default = "bfd_interval")]
    pub minrx: u32,
    #[serde(default = "bfd_interval")]
    pub mintx: u32,
    #[serde(default = "bfd_multiplier")]
    pub multi: u8,
}

impl Default for BfdProfile {
    /// What holds in a VRF without a profile.
    fn default() -> Self {
        Self {
            minrx: bfd_interval(),
            mintx: bfd_interval(),
            multi: bfd_multiplier(),
        }
    }
}

/// avi-api `IpCommunity`: communities of the VIPs from `ip_begin` to `ip_end`, instead of the profile's.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct IpCommunity {
    pub ip_begin: Address,
    /// None = `ip_begin` alone.
    pub ip_end: Option<Address>,
    #[serde(default)]
    pub community: Vec<String>,
}

impl IpCommunity {
    /// First and last address, when both are of one family.
    pub fn range(&self) -> Option<(IpAddr, IpAddr)> {
        let first = self.ip_begin.ip()?;
        let last = self.ip_end.as_ref().map_or(Some(first), Address::ip)?;
        (first.is_ipv4() == last.is_ipv4()).then_some((first, last))
    }
}

/// avi-api `BgpRoutingOptions`, for the peers with this label.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct BgpRoutingOptions {
    pub label: String,
    #[serde(default)]
    pub advertise_default_route: bool,
    #[serde(default)]
    pub advertise_learned_routes: bool,
    #[serde(default)]
    pub learn_only_default_route: bool,
    #[serde(default)]
    pub learn_routes: bool,
    #[serde(default = "max_learn_limit")]
    pub max_learn_limit: u32,
}

/// avi-api `BgpProfile`; times in seconds.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct BgpProfile {
    pub local_as: u32,
    #[serde(default = "yes")]
    pub ibgp: bool,
    #[serde(default = "keepalive")]
    pub keepalive_interval: u16,
    #[serde(default = "hold_time")]
    pub hold_time: u16,
    #[serde(default)]
    pub shutdown: bool,
    #[serde(default = "yes")]
    pub send_community: bool,
    #[serde(default)]
    pub community: Vec<String>,
    pub local_preference: Option<u32>,
    pub num_as_path_prepend: Option<u32>,
    #[serde(default)]
    pub peers: Vec<BgpPeer>,
    #[serde(default)]
    pub ip_communities: Vec<IpCommunity>,
    #[serde(default)]
    pub routing_options: Vec<BgpRoutingOptions>,
}

/// avi-api `BgpPeer`; times in seconds. `keepalive_interval` and `hold_time` fall back to the profile's.
#[derive(Clone, Deserialize)]
#[allow(missing_docs)]
pub struct BgpPeer {
    pub peer_ip: Option<Address>,
    pub peer_ip6: Option<Address>,
    pub subnet: Option<Prefix>,
    pub subnet6: Option<Prefix>,
    /// Whose subnets stand for those that are left out; see [`BgpPeer::fill_subnets`].
    pub network_ref: Option<Ref>,
    pub remote_as: Option<u32>,
    pub local_as: Option<u32>,
    pub keepalive_interval: Option<u16>,
    pub hold_time: Option<u16>,
    #[serde(default = "connect_timer")]
    pub connect_timer: u16,
    #[serde(default = "advertisement_interval")]
    pub advertisement_interval: u16,
    #[serde(default)]
    pub ebgp_multihop: u8,
    pub md5_secret: Option<String>,
    #[serde(default = "yes")]
    pub bfd: bool,
    #[serde(default)]
    pub shutdown: bool,
    #[serde(default = "yes")]
    pub advertise_vip: bool,
    #[serde(default = "yes")]
    pub advertise_snat_ip: bool,
    #[serde(default)]
    pub ibgp_local_as_override: bool,
    pub label: Option<String>,
    #[serde(default)]
    pub ttl_security: bool,
    #[serde(default)]
    pub bfd_strict: bool,
    #[serde(default)]
    pub graceful_restart: bool,
    /// Next hops of one route that the router uses at most; unknown without it.
    pub ecmp_width: Option<u32>,
}

impl BgpPeer {
    /// Puts what the network has in the place of subnets that are left out.
    pub fn fill_subnets(&mut self, network: &Network) {
        let ends = [
            (&self.peer_ip, &mut self.subnet),
            (&self.peer_ip6, &mut self.subnet6),
        ];
        for (address, subnet) in ends {
            let ip = address.as_ref().and_then(Address::ip);
            let found = ip.and_then(|ip| network.towards(ip));
            *subnet = subnet.take().or_else(|| found.cloned());
        }
    }
}

impl std::fmt::Debug for BgpPeer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BgpPeer")
            .field("peer_ip", &self.peer_ip)
            .field("peer_ip6", &self.peer_ip6)
            .field("subnet", &self.subnet)
            .field("remote_as", &self.remote_as)
            .field("md5_secret_set", &self.md5_secret.is_some())
            .finish_non_exhaustive()
    }
}

/// avi-api `ServiceEngineGroup`, as far as the planner needs it.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct ServiceEngineGroup {
    pub uuid: String,
    pub name: String,
    pub cloud_ref: Option<Ref>,
    #[serde(default = "one")]
    pub min_scaleout_per_vs: u32,
    #[serde(default = "four")]
    pub max_scaleout_per_vs: u32,
    #[serde(default = "ten")]
    pub max_vs_per_se: u32,
    #[serde(default)]
    pub algo: String,
    #[serde(default)]
    pub ha_mode: String,
    #[serde(default)]
    pub disable_flow_probes: bool,
    #[serde(default = "probe_retries")]
    pub se_flow_probe_retries: u8,
    /// Milliseconds.
    #[serde(default = "probe_retry_timer")]
    pub se_flow_probe_retry_timer: u32,
    /// Seconds after which a scale-in counts as done; connections may go on.
    #[serde(default = "scalein_timeout")]
    pub vs_scalein_timeout: u32,
    /// Seconds after which a scale-out that has not come to an end is rolled back.
    #[serde(default = "scaleout_timeout")]
    pub vs_scaleout_timeout: u32,
    /// Seconds in which an engine that gets a VIP is to serve; of one that does not it is said.
    #[serde(default = "scaleout_ready_timeout")]
    pub vs_se_scaleout_ready_timeout: u32,
    /// Seconds that an engine has served before a scale-out or migration goes on.
    #[serde(default)]
    pub vs_se_scaleout_additional_wait_time: u32,
    /// Seconds that an engine without connections stays in the group longer than it would.
    #[serde(default)]
    pub vs_se_scalein_additional_wait_time: u32,
    /// Seconds that both engines of a pair announce as active ones do before the former becomes the standby.
    #[serde(default)]
    pub vs_se_primary_switchover_additional_wait_time: u32,
    /// Seconds after which a switchover to an engine that does not serve is taken back.
    #[serde(default = "switchover_timeout")]
    pub vs_switchover_timeout: u32,
    #[serde(default = "hb_frequency")]
    pub dp_hb_frequency: u32,
    #[serde(default = "hb_count")]
    pub dp_hb_timeout_count: u32,
    #[serde(default = "aggressive_hb_frequency")]
    pub dp_aggressive_hb_frequency: u32,
    #[serde(default = "hb_count")]
    pub dp_aggressive_hb_timeout_count: u32,
    #[serde(default)]
    pub aggressive_failure_detection: bool,
    /// 1: what VIPs that are scaled natively send goes through the primary; 0 and 2: each engine answers clients itself.
    #[serde(default)]
    pub se_tunnel_mode: u32,
    /// See [`Self::message_port`].
    #[serde(default = "message_port")]
    pub se_tunnel_udp_port: i64,
    /// Others forget who owns a TCP flow when its owner says that it has ended; false: with its first FIN or RST.
    #[serde(default = "yes")]
    pub se_delayed_flow_delete: bool,
    /// The same as the `ha_mode` of this name.
    #[serde(default)]
    pub active_standby: bool,
    /// Standbys check servers too.
    #[serde(default = "yes")]
    pub hm_on_standby: bool,
    /// An active engine that no BGP peer is up for gives its role up to a standby that one is up for.
    #[serde(default)]
    pub bgp_peer_monitor_failover_enabled: bool,
    /// Half-open connections of a port at most, on each engine; 0 or less = as many as usual.
    #[serde(default)]
    pub flow_table_new_syn_max_entries: i64,
    /// HA_MODE_LEGACY_ACTIVE_STANDBY: VIPs may prefer one engine of the pair or the other as their active one.
    #[serde(default)]
    pub distribute_load_active_standby: bool,
    /// They go back to the engine that they prefer when it is back.
    #[serde(default)]
    pub auto_redistribute_active_standby_load: bool,
    /// Engines that may be lost at once, with HA_MODE_SHARED.
    #[serde(default = "one")]
    pub buffer_se: u32,
    /// Most engines of the group with VIPs; 0 = any number.
    #[serde(default = "ten")]
    pub max_se: u32,
    #[serde(default = "yes")]
    pub vs_host_redundancy: bool,
    /// Virtual services are scaled by their load; else it is said what would be done.
    #[serde(default)]
    pub auto_rebalance: bool,
    #[serde(default)]
    pub auto_rebalance_criteria: Vec<String>,
    /// In the order of the criteria; empty: what is usual.
    #[serde(default)]
    pub auto_rebalance_capacity_per_se: Vec<u32>,
    /// Seconds.
    #[serde(default = "rebalance_interval")]
    pub auto_rebalance_interval: u32,
    /// Percent of the capacity, by whatever criterion.
    #[serde(default = "max_usage")]
    pub max_cpu_usage: u32,
    /// Percent of the capacity, by whatever criterion.
    #[serde(default = "min_usage")]
    pub min_cpu_usage: u32,
}

/// Of an active engine and its standby.
const ACTIVE_STANDBY: &str = "HA_MODE_LEGACY_ACTIVE_STANDBY";

impl ServiceEngineGroup {
    /// How it lives through the loss of an engine: `ha_mode`, or pairs of an active engine and its standby where
    /// `active_standby` asks for them.
    pub fn mode(&self) -> &str {
        match self.active_standby {
            true => ACTIVE_STANDBY,
            false => &self.ha_mode,
        }
    }

    /// It places a VIP on one engine at most; a mode of pairs on two at least.
    pub fn is_for_one_engine(&self) -> bool {
        let pairs = ["HA_MODE_SHARED_PAIR", ACTIVE_STANDBY];
        self.max_scaleout_per_vs <= 1 && !pairs.contains(&self.mode())
    }

    /// Engines that are not the primary of a natively scaled VIP send answers through it.
    pub fn answers_by_primary(&self) -> bool {
        self.se_tunnel_mode == 1
    }

    /// Milliseconds between hellos of its engines to each other, and how many without an answer mean something. Within the
    /// ranges, which values that an older version has stored need not be in: an engine would refuse all it is told.
    pub fn hellos(&self) -> (u32, u32) {
        let (frequency, count) = match self.aggressive_failure_detection {
            false => (self.dp_hb_frequency, self.dp_hb_timeout_count),
            true => (
                self.dp_aggressive_hb_frequency,
                self.dp_aggressive_hb_timeout_count,
            ),
        };
        (frequency.clamp(20, 2000), count.clamp(2, 100))
    }

    /// By which engines speak to each other, UDP and TCP; what is no port, and was stored before that was refused, is the default.
    pub fn message_port(&self) -> u16 {
        let port = u16::try_from(self.se_tunnel_udp_port).unwrap_or(0);
        if port == 0 { MESSAGE_PORT } else { port }
    }
}

/// avi-api `ServiceEngine`, as far as the planner needs it.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct ServiceEngine {
    pub uuid: String,
    pub name: String,
    pub cloud_ref: Option<Ref>,
    pub se_group_ref: Option<Ref>,
    #[serde(default)]
    pub enable_state: String,
    #[serde(default)]
    pub data_vnics: Vec<Vnic>,
}

/// avi-api `vNIC`.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct Vnic {
    pub if_name: Option<String>,
    #[serde(default)]
    pub mac_address: String,
    pub vrf_ref: Option<Ref>,
    /// Unknown of an interface that no engine has reported.
    pub link_up: Option<bool>,
    #[serde(default)]
    pub vnic_networks: Vec<VnicNetwork>,
}

/// avi-api `vNICNetwork`.
#[derive(Debug, Clone, Deserialize)]
pub struct VnicNetwork {
    /// The interface's address and prefix length.
    pub ip: Prefix,
}

fn yes() -> bool {
    true
}
fn rebalance_interval() -> u32 {
    300
}
fn max_usage() -> u32 {
    80
}
fn min_usage() -> u32 {
    30
}
fn one() -> u32 {
    1
}
fn four() -> u32 {
    4
}
fn ten() -> u32 {
    10
}
fn probe_retries() -> u8 {
    2
}
fn probe_retry_timer() -> u32 {
    40
}
fn scaleout_timeout() -> u32 {
    600
}

fn scalein_timeout() -> u32 {
    30
}

fn hb_frequency() -> u32 {
    100
}

fn hb_count() -> u32 {
    3
}

/// avi-api `se_tunnel_udp_port`.
const MESSAGE_PORT: u16 = 1550;

fn message_port() -> i64 {
    MESSAGE_PORT.into()
}

fn aggressive_hb_frequency() -> u32 {
    50
}

fn scaleout_ready_timeout() -> u32 {
    60
}

fn switchover_timeout() -> u32 {
    300
}
fn http_request() -> String {
    "GET / HTTP/1.0".to_owned()
}

fn graceful_disable_timeout() -> i32 {
    1
}

fn default_server_port() -> u16 {
    80
}
fn keepalive() -> u16 {
    60
}
fn hold_time() -> u16 {
    180
}
fn connect_timer() -> u16 {
    10
}
fn advertisement_interval() -> u16 {
    5
}
fn bfd_interval() -> u32 {
    300
}
fn bfd_multiplier() -> u8 {
    3
}
fn max_learn_limit() -> u32 {
    50
}

#[cfg(test)]
mod tests;
