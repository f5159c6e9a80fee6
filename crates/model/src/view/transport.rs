//! How services are carried: TCP or UDP, and the settings of either (avi-api section 12, networkprofile).

use super::yes;
use serde::Deserialize;

/// avi-api `NetworkProfile`, as far as the proxy needs it.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct NetworkProfile {
    pub uuid: String,
    pub name: String,
    pub profile: NetworkProfileUnion,
}

/// avi-api `NetworkProfileUnion`.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct NetworkProfileUnion {
    #[serde(rename = "type")]
    pub kind: String,
    pub tcp_proxy_profile: Option<TcpProxyProfile>,
    pub tcp_fast_path_profile: Option<TcpFastPathProfile>,
    pub udp_fast_path_profile: Option<UdpProfile>,
    pub udp_proxy_profile: Option<UdpProfile>,
}

/// How a service is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl NetworkProfileUnion {
    /// None: SCTP, which no engine serves.
    pub fn transport(&self) -> Option<Transport> {
        match self.kind.as_str() {
            "PROTOCOL_TYPE_UDP_FAST_PATH" | "PROTOCOL_TYPE_UDP_PROXY" => Some(Transport::Udp),
            kind if kind.starts_with("PROTOCOL_TYPE_SCTP") => None,
            _ => Some(Transport::Tcp),
        }
    }

    /// Seconds after which a connection of the TCP kinds is idle, 0 = never, and whether it is kept then. Both are served by
    /// the same proxy.
    pub fn tcp_idle(&self) -> (u32, bool) {
        if self.kind == "PROTOCOL_TYPE_TCP_FAST_PATH" {
            let profile = self.tcp_fast_path_profile.unwrap_or_default();
            return (profile.session_idle_timeout, false);
        }
        let profile = self.tcp_proxy_profile.clone().unwrap_or_default();
        (profile.idle_connection_timeout, profile.keeps_idle())
    }

    /// The settings of TCP that hold instead of the kernel's choice; `None` where it chooses, as for all of the fast path.
    pub fn tcp_own(&self) -> Option<&TcpProxyProfile> {
        let own = self.tcp_proxy_profile.as_ref();
        own.filter(|p| self.kind == "PROTOCOL_TYPE_TCP_PROXY" && !p.automatic)
    }

    /// The settings of the UDP kinds; both are served by the same proxy.
    pub fn udp(&self) -> UdpProfile {
        let profile = match self.kind.as_str() {
            "PROTOCOL_TYPE_UDP_PROXY" => self.udp_proxy_profile,
            _ => self.udp_fast_path_profile,
        };
        profile.unwrap_or_default()
    }
}

/// avi-api `UDPFastPathProfile` and `UDPProxyProfile`, which has the first field only.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct UdpProfile {
    /// Seconds without a datagram in either direction that end a flow.
    #[serde(default = "udp_idle_timeout")]
    pub session_idle_timeout: u32,
    /// Each datagram is balanced by itself.
    #[serde(default)]
    pub per_pkt_loadbalance: bool,
    /// Servers see an address of the engine; without it, the client's.
    #[serde(default = "yes")]
    pub snat: bool,
}

impl Default for UdpProfile {
    fn default() -> Self {
        Self {
            session_idle_timeout: udp_idle_timeout(),
            per_pkt_loadbalance: false,
            snat: true,
        }
    }
}

/// avi-api `TCPProxyProfile`.
#[derive(Debug, Clone, Deserialize)]
pub struct TcpProxyProfile {
    /// Seconds without a byte in either direction; 0 = never.
    #[serde(default = "idle_connection_timeout")]
    pub idle_connection_timeout: u32,
    /// `KEEP_ALIVE`, the default, or `CLOSE_IDLE`.
    #[serde(default)]
    pub idle_connection_type: String,
    /// What follows is the kernel's to choose.
    #[serde(default = "yes")]
    pub automatic: bool,
    /// The kernel grows the receive window by itself.
    #[serde(default = "yes")]
    pub auto_window_growth: bool,
    /// KB; see [`Self::window`].
    #[serde(default = "receive_window")]
    pub receive_window: u32,
    /// The largest segment is what the interface's MTU allows.
    #[serde(default = "yes")]
    pub use_interface_mtu: bool,
    /// Bytes; see [`Self::segment`].
    pub max_segment_size: Option<u32>,
    /// `CC_ALGO_NEW_RENO`, the default, `CC_ALGO_CUBIC` or `CC_ALGO_HTCP`.
    #[serde(default)]
    pub cc_algo: String,
    /// 0 to 63.
    #[serde(default)]
    pub ip_dscp: u32,
    /// Small segments wait for what may follow.
    #[serde(default)]
    pub nagles_algorithm: bool,
}

impl Default for TcpProxyProfile {
    fn default() -> Self {
        Self {
            idle_connection_timeout: idle_connection_timeout(),
            idle_connection_type: String::new(),
            automatic: true,
            auto_window_growth: true,
            receive_window: receive_window(),
            use_interface_mtu: true,
            max_segment_size: None,
            cc_algo: String::new(),
            ip_dscp: 0,
            nagles_algorithm: false,
        }
    }
}

/// avi-api `TCPFastPathProfile`.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct TcpFastPathProfile {
    /// Seconds without a byte in either direction; 0 = never.
    #[serde(default = "tcp_session_idle_timeout")]
    pub session_idle_timeout: u32,
}

impl Default for TcpFastPathProfile {
    fn default() -> Self {
        Self {
            session_idle_timeout: tcp_session_idle_timeout(),
        }
    }
}

impl TcpProxyProfile {
    /// An idle connection is kept while its ends are there; with CLOSE_IDLE it is ended.
    pub fn keeps_idle(&self) -> bool {
        self.idle_connection_type != "CLOSE_IDLE"
    }

    /// The receive window in KB; `None` where the kernel grows it.
    pub fn window(&self) -> Option<u32> {
        (!self.auto_window_growth).then_some(self.receive_window)
    }

    /// The largest segment in bytes; `None` where the interface's MTU decides.
    pub fn segment(&self) -> Option<u32> {
        let wanted = self.max_segment_size.filter(|bytes| *bytes > 0);
        wanted.filter(|_| !self.use_interface_mtu)
    }
}

fn idle_connection_timeout() -> u32 {
    600
}

fn tcp_session_idle_timeout() -> u32 {
    300
}

fn udp_idle_timeout() -> u32 {
    10
}

fn receive_window() -> u32 {
    64
}
