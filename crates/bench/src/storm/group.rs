//! What a controller tells the members of a group, so that they steer each other's flows.

use crate::net::engine_address;
use proto::v1::{DesiredState, FlowKey, FlowSettings, Group, Member, Peer};

/// The defaults of a service engine group.
const PROBE_RETRIES: u32 = 2;
const PROBE_RETRY_TIMER_MS: u32 = 40;

/// Engines 1 to `members` have the VIP; their numbers are their ids. Which one it is itself an engine is not told: the
/// controllers of this crate give all of them the same identity.
pub(crate) fn join(desired: &mut DesiredState, engine: usize, members: usize, vsvip_uuid: &str) {
    let others: Vec<usize> = (1..=members).filter(|number| *number != engine).collect();
    desired.peers = others.iter().map(|number| peer(*number)).collect();
    desired.groups = vec![Group {
        vsvip_uuid: vsvip_uuid.to_owned(),
        generation: 1,
        member_id: id(engine),
        members: others.iter().map(|number| member(*number)).collect(),
        hold: false,
        lingers: false,
    }];
    desired.flow = Some(settings());
}

fn uuid(engine: usize) -> String {
    format!("member-{engine}")
}

fn id(engine: usize) -> u32 {
    u32::try_from(engine).expect("a group has fewer than 64 members")
}

fn peer(engine: usize) -> Peer {
    Peer {
        se_uuid: uuid(engine),
        name: format!("se-{engine}"),
        addresses: vec![format!("{}/16", engine_address(engine))],
        alive: true,
    }
}

fn member(engine: usize) -> Member {
    Member {
        id: id(engine),
        se_uuid: uuid(engine),
        takes_new: true,
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_knows_the_others_and_not_itself() {
        let mut desired = DesiredState::default();
        join(&mut desired, 2, 3, "vsvip-1");
        let group = &desired.groups[0];
        let ids: Vec<u32> = group.members.iter().map(|m| m.id).collect();
        assert_eq!((group.member_id, ids), (2, vec![1, 3]));
        let peers: Vec<&str> = desired.peers.iter().map(|p| p.se_uuid.as_str()).collect();
        assert_eq!(peers, ["member-1", "member-3"]);
        assert_eq!(desired.peers[1].addresses, ["10.10.0.13/16"]);
    }
}
