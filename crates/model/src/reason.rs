//! The vocabulary of states and reasons: one word everywhere (API, CLI, metrics, logs).

/// Why a virtual service is not up on an engine, or a VIP is not announced by it.
///
/// The text form is the snake_case code that every surface shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The VS is up.
    Up,
    /// `enabled` or `traffic_enabled` is false.
    VsDisabled,
    /// No VIP of the VS is enabled.
    NoVip,
    /// This VIP of the VS is not enabled.
    VipDisabled,
    /// This VIP of the VS has no address.
    NoAddress,
    /// The VS has no pool, or none that takes connections.
    NoPool,
    /// The pool is disabled.
    PoolDisabled,
    /// No server of the pool is up.
    PoolDown,
    /// Fewer servers of the pool are up than `min_servers_up`.
    TooFewServersUp,
    /// Servers of the pool were disabled and too few are left; those have connections that go on.
    ServersDraining,
    /// The first health checks have not finished.
    HealthChecksPending,
    /// The proxy could not listen on a port of the VS.
    ListenerFailed,
    /// The VIP could not be put on the loopback interface.
    VipFailed,
    /// No VS of this VIP asks for route health injection.
    RhiDisabled,
    /// The VRF has no BGP profile.
    NoBgpProfile,
    /// No VS of this VIP is up here.
    VsDown,
    /// The engine is stopping.
    Stopping,
    /// The other engines of the VIP's group are being told of this one.
    Joining,
    /// Scaled in: the engine serves the connections that it has until the last one ends.
    Lingering,
    /// Two engines of a group have no addresses of one family for a tunnel.
    NoTunnelPath,
    /// An engine of the group has answered nothing for a while.
    MemberSilent,
    /// The kernel does not take the steering programs, or not on every interface.
    SteeringFailed,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::Up,
        Self::VsDisabled,
        Self::NoVip,
        Self::VipDisabled,
        Self::NoAddress,
        Self::NoPool,
        Self::PoolDisabled,
        Self::PoolDown,
        Self::TooFewServersUp,
        Self::ServersDraining,
        Self::HealthChecksPending,
        Self::ListenerFailed,
        Self::VipFailed,
        Self::RhiDisabled,
        Self::NoBgpProfile,
        Self::VsDown,
        Self::Stopping,
        Self::Joining,
        Self::Lingering,
        Self::NoTunnelPath,
        Self::MemberSilent,
        Self::SteeringFailed,
    ];

    /// The snake_case code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::VsDisabled => "vs_disabled",
            Self::NoVip => "no_vip",
            Self::VipDisabled => "vip_disabled",
            Self::NoAddress => "no_address",
            Self::NoPool => "no_pool",
            Self::PoolDisabled => "pool_disabled",
            Self::PoolDown => "pool_down",
            Self::TooFewServersUp => "too_few_servers_up",
            Self::ServersDraining => "servers_draining",
            Self::HealthChecksPending => "health_checks_pending",
            Self::ListenerFailed => "listener_failed",
            Self::VipFailed => "vip_failed",
            Self::RhiDisabled => "rhi_disabled",
            Self::NoBgpProfile => "no_bgp_profile",
            Self::VsDown => "vs_down",
            Self::Stopping => "stopping",
            Self::Joining => "joining",
            Self::Lingering => "lingering",
            Self::NoTunnelPath => "no_tunnel_path",
            Self::MemberSilent => "member_silent",
            Self::SteeringFailed => "steering_failed",
        }
    }

    /// A sentence for an operator.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Up => "The virtual service is up.",
            Self::VsDisabled => {
                "The virtual service is disabled (enabled or traffic_enabled is false)."
            }
            Self::NoVip => "The virtual service has no VIP that is enabled.",
            Self::VipDisabled => "The VIP is disabled (enabled is false).",
            Self::NoAddress => "The VIP has no address.",
            Self::NoPool => "The virtual service has no pool that takes connections.",
            Self::PoolDisabled => "The pool is disabled.",
            Self::PoolDown => "No server of the pool is up.",
            Self::TooFewServersUp => {
                "Fewer servers of the pool are up than its min_servers_up asks for."
            }
            Self::ServersDraining => {
                "Servers of the pool were disabled and too few are left for new connections; the VIP stays announced until those that they have end."
            }
            Self::HealthChecksPending => "The first health checks have not finished.",
            Self::ListenerFailed => "The proxy could not listen on a port of the virtual service.",
            Self::VipFailed => "The VIP could not be put on the loopback interface.",
            Self::RhiDisabled => {
                "No virtual service of this VIP asks for route health injection (enable_rhi)."
            }
            Self::NoBgpProfile => "The VRF context has no bgp_profile.",
            Self::VsDown => "No virtual service of this VIP is up on this engine.",
            Self::Stopping => "The engine is stopping.",
            Self::Joining => "The other engines of the VIP are being told of this one first.",
            Self::Lingering => {
                "The engine was scaled in and serves the connections that it has until they end."
            }
            Self::NoTunnelPath => {
                "There is no address of the VIP's family on both sides for a tunnel between the engines."
            }
            Self::MemberSilent => {
                "Another engine of the VIP answers no hello; its flows that come to this one are reset."
            }
            Self::SteeringFailed => "The kernel of the engine does not steer packets.",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

/// Reason codes in the order in which they got their numbers, of which the first is 1: those of [`Reason`], and those that the
/// controller has for what it observes itself. A new one goes to the end. None is moved or taken out: whoever has kept a number
/// would read another reason in it.
pub const NUMBERED: &[&str] = &[
    "up",
    "vs_disabled",
    "no_vip",
    "no_pool",
    "pool_disabled",
    "pool_down",
    "too_few_servers_up",
    "servers_draining",
    "health_checks_pending",
    "listener_failed",
    "vip_failed",
    "rhi_disabled",
    "no_bgp_profile",
    "vs_down",
    "stopping",
    "joining",
    "lingering",
    "no_tunnel_path",
    "member_silent",
    "steering_failed",
    "vip_disabled",
    "no_address",
    "awaiting_se_programming",
    "not_placed",
    "unused",
    "se_connected",
    "se_never_connected",
    "se_disconnected",
    "se_lost",
    "desired_state_not_made",
    "desired_state_refused",
    "scale_refused",
    "scale_rolled_back",
];

/// The number of a reason code (`reason_code`, avi-api 10.1). 0: there is no reason, or an engine of a newer version has a word
/// for it that has no number here.
pub fn number(code: &str) -> u64 {
    let place = NUMBERED.iter().position(|known| *known == code);
    place.map_or(0, |place| place as u64 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// As they were handed out. This list grows at its end, and does not change otherwise.
    const HANDED_OUT: &str = "up vs_disabled no_vip no_pool pool_disabled pool_down too_few_servers_up servers_draining \
        health_checks_pending listener_failed vip_failed rhi_disabled no_bgp_profile vs_down stopping joining lingering \
        no_tunnel_path member_silent steering_failed vip_disabled no_address awaiting_se_programming not_placed unused \
        se_connected se_never_connected se_disconnected se_lost desired_state_not_made desired_state_refused scale_refused \
        scale_rolled_back";

    #[test]
    fn a_reason_code_keeps_its_number() {
        let handed_out: Vec<&str> = HANDED_OUT.split_whitespace().collect();
        let kept = NUMBERED.get(..handed_out.len());
        assert_eq!(kept, Some(handed_out.as_slice()));
        assert_eq!((number("up"), number("se_lost")), (1, 29));
        assert_eq!((number(""), number("of_tomorrow")), (0, 0));
    }

    #[test]
    fn every_reason_has_a_number_of_its_own() {
        let distinct: BTreeSet<&str> = NUMBERED.iter().copied().collect();
        assert_eq!(distinct.len(), NUMBERED.len());
        for reason in Reason::ALL {
            assert_ne!(number(reason.code()), 0, "{reason} has no number");
        }
    }
}
