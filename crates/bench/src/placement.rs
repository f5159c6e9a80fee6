//! A VIP that several engines hold: what a controller tells each of them, so that they steer each other's flows.

use crate::net::engine_address;
use proto::v1::{self, DesiredState, FlowKey, FlowSettings, Group, Member, Peer};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddrV4};

/// The defaults of a service engine group.
const PROBE_RETRIES: u32 = 2;
const PROBE_RETRY_TIMER_MS: u32 = 40;

/// The VIP as one of its engines shall see it. Numbers of engines are their ids in the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Placement {
    pub(crate) vip: Ipv4Addr,
    pub(crate) servers: Vec<SocketAddrV4>,
    /// Of the membership.
    pub(crate) generation: u64,
    /// Routes are held back until the others know us.
    pub(crate) hold: bool,
    /// We leave.
    pub(crate) lingers: bool,
    pub(crate) others: Vec<Other>,
}

/// Another engine that holds the VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Other {
    pub(crate) engine: usize,
    /// It does not leave.
    pub(crate) takes_new: bool,
}

impl Placement {
    /// Engines 1 to `members` hold the VIP, and nobody comes or leaves.
    pub(crate) fn among(
        members: usize,
        engine: usize,
        vip: Ipv4Addr,
        servers: Vec<SocketAddrV4>,
    ) -> Self {
        let others = (1..=members).filter(|number| *number != engine);
        let other = |engine| Other {
            engine,
            takes_new: true,
        };
        Self {
            vip,
            servers,
            generation: 1,
            hold: false,
            lingers: false,
            others: others.map(other).collect(),
        }
    }

    /// Puts group, peers and the settings of flows into what `engine` shall do.
    pub(crate) fn steer(&self, engine: usize, desired: &mut DesiredState) {
        desired.groups = vec![self.group(engine)];
        desired.peers = self.others.iter().map(peer).collect();
        desired.flow = Some(settings());
    }

    fn group(&self, engine: usize) -> Group {
        let member = |other: &Other| Member {
            id: id(other.engine),
            se_uuid: se_uuid(other.engine),
            takes_new: other.takes_new,
        };
        Group {
            vsvip_uuid: vsvip(self.vip),
            generation: self.generation,
            member_id: id(engine),
            members: self.others.iter().map(member).collect(),
            hold: self.hold,
            lingers: self.lingers,
            native: None,
        }
    }
}

/// Of the engine with this number.
pub(crate) fn se_uuid(engine: usize) -> String {
    format!("serviceengine-{engine}")
}

/// Of the VIP.
pub(crate) fn vsvip(vip: Ipv4Addr) -> String {
    format!("vsvip-{vip}")
}

fn id(engine: usize) -> u32 {
    u32::try_from(engine).expect("a group has fewer than 64 members")
}

fn peer(other: &Other) -> Peer {
    Peer {
        se_uuid: se_uuid(other.engine),
        name: format!("se-{}", other.engine),
        addresses: vec![format!("{}/16", engine_address(other.engine))],
        alive: true,
    }
}

/// Keys of a network that nobody else is in.
fn settings() -> FlowSettings {
    FlowSettings {
        probe_retries: PROBE_RETRIES,
        probe_retry_timer_ms: PROBE_RETRY_TIMER_MS,
        message_keys: vec![FlowKey {
            id: 1,
            secret: b"keys of messages".to_vec(),
        }],
        hint_key: b"and one of hints".to_vec(),
        ..FlowSettings::default()
    }
}

/// One of a pool.
pub(crate) fn server(address: SocketAddrV4) -> v1::Server {
    v1::Server {
        address: address.ip().to_string(),
        port: address.port().into(),
        enabled: true,
        ratio: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_knows_the_others_and_not_itself() {
        let mut desired = DesiredState::default();
        let vip = Ipv4Addr::new(10, 99, 0, 1);
        Placement::among(3, 2, vip, Vec::new()).steer(2, &mut desired);
        let group = &desired.groups[0];
        let ids: Vec<u32> = group.members.iter().map(|m| m.id).collect();
        assert_eq!((group.member_id, ids), (2, vec![1, 3]));
        let peers: Vec<&str> = desired.peers.iter().map(|p| p.se_uuid.as_str()).collect();
        assert_eq!(peers, ["serviceengine-1", "serviceengine-3"]);
        assert_eq!(desired.peers[1].addresses, ["10.10.0.13/16"]);
    }
}
