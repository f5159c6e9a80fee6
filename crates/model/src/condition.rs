//! What must hold so that an engine announces a VIP to a peer, in the order in which it is looked at.
//!
//! One vocabulary for `explain vip`, the sessions' status, events and metrics: the first condition that does not
//! hold is the answer to "why is my route not there", and it comes with the next thing to do.

/// A condition of "VIP v is announced by engine e to peer p". The order of the variants is the order of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// A virtual service of the VIP has `enable_rhi`.
    RhiOn,
    /// The VRF context has a `bgp_profile` with a peer.
    BgpProfilePresent,
    /// Placement has put the VIP on the engine.
    Placed,
    /// The engine has a session with the controller and has accepted its desired state.
    EngineConnected,
    /// The engine is not disabled, which makes it mark its routes and then withdraw them.
    EngineEnabled,
    /// A virtual service of the VIP is up on the engine.
    VsUp,
    /// The other engines of the VIP know of this one, so that no flow of theirs meets it unprepared.
    MembersInformed,
    /// The engine can put the peer's configuration in force.
    PeerConfigurationValid,
    /// Neither the peer nor the profile is shut down.
    PeerEnabled,
    /// The engine has an interface in the peer's subnet, and no other one in the same.
    InterfaceInSubnet,
    /// That interface is up.
    InterfaceUp,
    /// TCP connects.
    TcpConnected,
    /// Both sides sign with the same MD5 key, or neither signs.
    Md5Accepted,
    /// Both sides accept the other's OPEN.
    OpenAgreed,
    /// With `bfd_strict`: BFD is up. Until then the session waits in OpenConfirm (ADR 0005).
    BfdAllows,
    /// The session is established and was not closed again.
    SessionEstablished,
    /// The settings of the peer and the VIP let the route through.
    PolicyAllows,
    /// The peer takes routes of the VIP's address family.
    FamilyNegotiated,
    /// The engine has an address of that family on the link.
    NextHopPresent,
    /// The route was sent and is in force.
    UpdateSent,
    /// Where the peer has BFD: it is up, so that a silent loss is noticed fast.
    BfdUp,
}

/// The words of a condition.
struct Words {
    code: &'static str,
    /// What holds when it is met.
    sentence: &'static str,
    /// What to do when it is not.
    next_step: &'static str,
}

impl Condition {
    /// Every condition, in order.
    pub const ALL: [Self; 21] = [
        Self::RhiOn,
        Self::BgpProfilePresent,
        Self::Placed,
        Self::EngineConnected,
        Self::EngineEnabled,
        Self::VsUp,
        Self::MembersInformed,
        Self::PeerConfigurationValid,
        Self::PeerEnabled,
        Self::InterfaceInSubnet,
        Self::InterfaceUp,
        Self::TcpConnected,
        Self::Md5Accepted,
        Self::OpenAgreed,
        Self::BfdAllows,
        Self::SessionEstablished,
        Self::PolicyAllows,
        Self::FamilyNegotiated,
        Self::NextHopPresent,
        Self::UpdateSent,
        Self::BfdUp,
    ];

    /// The snake_case code.
    #[must_use]
    pub fn code(self) -> &'static str {
        self.words().code
    }

    /// What holds when the condition is met.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        self.words().sentence
    }

    /// What an operator does when it is not.
    #[must_use]
    pub fn next_step(self) -> &'static str {
        self.words().next_step
    }

    /// The condition of a code.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.code() == code)
    }

    /// The condition that a route is withheld for, or a peer has no session for, by its reason code.
    #[must_use]
    pub fn of_reason(reason: &str) -> Option<Self> {
        Some(match reason {
            "rhi_disabled" => Self::RhiOn,
            "no_bgp_profile" => Self::BgpProfilePresent,
            "lingering" => Self::Placed,
            "draining" => Self::EngineEnabled,
            "vs_down"
            | "vs_disabled"
            | "vip_failed"
            | "stopping"
            | "no_vip"
            | "no_pool"
            | "pool_disabled"
            | "pool_down"
            | "too_few_servers_up"
            | "servers_draining"
            | "health_checks_pending"
            | "listener_failed" => Self::VsUp,
            "invalid_configuration" => Self::PeerConfigurationValid,
            "shutdown" => Self::PeerEnabled,
            "no_interface_in_subnet" | "two_interfaces_in_one_subnet" => Self::InterfaceInSubnet,
            "interface_down" => Self::InterfaceUp,
            "advertise_vip_off" | "advertise_snat_ip_off" | "peer_label_mismatch" => {
                Self::PolicyAllows
            }
            "session_not_established" => Self::SessionEstablished,
            "family_not_negotiated" => Self::FamilyNegotiated,
            "no_next_hop" => Self::NextHopPresent,
            "joining" => Self::MembersInformed,
            "advertisement_interval" | "peer_not_reading" => Self::UpdateSent,
            _ => return None,
        })
    }

    #[expect(clippy::too_many_lines, reason = "a table")]
    fn words(self) -> Words {
        let words = |code, sentence, next_step| Words {
            code,
            sentence,
            next_step,
        };
        match self {
            Self::RhiOn => words(
                "rhi_on",
                "a virtual service of the VIP asks for route health injection",
                "set enable_rhi on the virtual service",
            ),
            Self::BgpProfilePresent => words(
                "bgp_profile_present",
                "the VRF context has a BGP profile with a peer",
                "add a bgp_profile with the router as a peer to the vrfcontext",
            ),
            Self::Placed => words(
                "placed",
                "the VIP is placed on the engine",
                "scale the virtual service out to this engine, or see its runtime for what placement waits for",
            ),
            Self::EngineConnected => words(
                "engine_connected",
                "the engine is connected and has put its state in force",
                "look at `evenkeel show serviceengine`, and at the engine's log on its host",
            ),
            Self::EngineEnabled => words(
                "engine_enabled",
                "the engine is not disabled",
                "set enable_state of the service engine to SE_STATE_ENABLED; disabled, it marks its routes and then withdraws them",
            ),
            Self::VsUp => words(
                "vs_up",
                "a virtual service of the VIP is up on the engine",
                "look at `evenkeel show virtualservice` and `evenkeel show pool`",
            ),
            Self::MembersInformed => words(
                "members_informed",
                "the other engines of the VIP know of this one",
                "wait: they have half a second to confirm; a member that does not is named in the virtual service's scale_status",
            ),
            Self::PeerConfigurationValid => words(
                "peer_configuration_valid",
                "the peer's configuration can be put in force",
                "correct the named field in the vrfcontext's bgp_profile",
            ),
            Self::PeerEnabled => words(
                "peer_enabled",
                "neither the peer nor the profile is shut down",
                "clear shutdown of the peer, or of the bgp_profile",
            ),
            Self::InterfaceInSubnet => words(
                "interface_in_subnet",
                "the engine has exactly one interface in the peer's subnet",
                "compare the peer's subnet with the engine's addresses (`evenkeel show serviceengine -o wide`); two interfaces in one subnet become one port channel",
            ),
            Self::InterfaceUp => words(
                "interface_up",
                "that interface is up",
                "bring the link up: cable, switch port, `ip link` on the engine's host",
            ),
            Self::TcpConnected => words(
                "tcp_connected",
                "TCP to port 179 of the peer connects",
                "check on the router that BGP runs and knows the engine's address as a neighbor, then filters and TTL in between",
            ),
            Self::Md5Accepted => words(
                "md5_accepted",
                "both sides sign with the same MD5 key, or neither signs",
                "compare the peer's md5_secret with the password on the router",
            ),
            Self::OpenAgreed => words(
                "open_agreed",
                "both sides accept the other's OPEN",
                "compare AS numbers on both sides, then what the router's log says of this neighbor",
            ),
            Self::BfdAllows => words(
                "bfd_allows",
                "BFD is up, as bfd_strict demands before the session is established",
                "configure BFD for this engine on the router, or clear bfd_strict",
            ),
            Self::SessionEstablished => words(
                "session_established",
                "the session is established",
                "look at the last error in `evenkeel show bgp neighbor`, and at the router's log",
            ),
            Self::PolicyAllows => words(
                "policy_allows",
                "labels and settings let the route go to this peer",
                "compare the VIP's bgp_peer_labels with the peer's label, and the peer's advertise_vip",
            ),
            Self::FamilyNegotiated => words(
                "family_negotiated",
                "the peer takes routes of this address family",
                "activate the address family for this neighbor on the router",
            ),
            Self::NextHopPresent => words(
                "next_hop_present",
                "the engine has an address of this family on the link",
                "give the engine's interface an address of the VIP's family",
            ),
            Self::UpdateSent => words(
                "update_sent",
                "the route was sent to the peer",
                "wait: it follows within the advertisement interval, or as soon as the router reads",
            ),
            Self::BfdUp => words(
                "bfd_up",
                "BFD is up on the path",
                "configure BFD for this engine on the router; until then a silent loss is noticed by the hold time only",
            ),
        }
    }
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_is_listed_once_in_order_with_its_own_words() {
        assert!(Condition::ALL.is_sorted());
        for (index, condition) in Condition::ALL.into_iter().enumerate() {
            assert_eq!(condition as usize, index);
            assert_eq!(Condition::from_code(condition.code()), Some(condition));
            assert!(!condition.sentence().is_empty() && !condition.next_step().is_empty());
        }
        assert_eq!(Condition::from_code("nonsense"), None);
    }

    #[test]
    fn reasons_lead_to_conditions() {
        assert_eq!(
            Condition::of_reason("peer_label_mismatch"),
            Some(Condition::PolicyAllows)
        );
        assert_eq!(Condition::of_reason("pool_down"), Some(Condition::VsUp));
        assert_eq!(
            Condition::of_reason("draining"),
            Some(Condition::EngineEnabled)
        );
        assert_eq!(Condition::of_reason(""), None);
    }
}
