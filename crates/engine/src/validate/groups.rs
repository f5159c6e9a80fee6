//! Groups, peers and keys of flow resiliency.

use super::{Refusal, host, refuse};
use flow::config::MEMBERS_MAX;
use ipnet::IpNet;
use proto::v1::{DesiredState, FlowSettings, Group};
use std::collections::BTreeSet;

/// Bytes of a key.
const KEY_LEN: usize = 16;
/// Message keys that are valid at a time.
const MESSAGE_KEYS_MAX: usize = 2;

/// Checks everything that steering takes for granted.
pub(super) fn check(state: &DesiredState) -> Result<(), Refusal> {
    check_peers(state)?;
    let mut seen = BTreeSet::new();
    for (i, group) in state.groups.iter().enumerate() {
        if !seen.insert(&group.vsvip_uuid) {
            let reason = format!("{} has another group", group.vsvip_uuid);
            return Err(refuse(format!("groups[{i}].vsvip_uuid"), reason));
        }
        check_group(i, group, state)?;
    }
    state.flow.as_ref().map_or(Ok(()), check_settings)
}

fn check_peers(state: &DesiredState) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    for (i, peer) in state.peers.iter().enumerate() {
        if peer.se_uuid == state.se_uuid || !seen.insert(&peer.se_uuid) {
            let reason = format!("{} is this engine or stands twice", peer.se_uuid);
            return Err(refuse(format!("peers[{i}].se_uuid"), reason));
        }
        for (j, text) in peer.addresses.iter().enumerate() {
            let wrong = |reason| refuse(format!("peers[{i}].addresses[{j}]"), reason);
            let net = text.parse::<IpNet>();
            let net = net.map_err(|_| wrong(format!("{text:?} is no address with a prefix")))?;
            host(&net.addr().to_string()).map_err(wrong)?;
        }
    }
    Ok(())
}

fn check_group(i: usize, group: &Group, state: &DesiredState) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    let mut id = |field: String, id: u32| {
        if is_id(id) && seen.insert(id) {
            return Ok(());
        }
        Err(refuse(
            field,
            format!("{id} is no id below {MEMBERS_MAX}, or another member's"),
        ))
    };
    id(format!("groups[{i}].member_id"), group.member_id)?;
    if let Some(native) = &group.native
        && !is_id(native.first_id)
    {
        let reason = format!("{} is no id below {MEMBERS_MAX}", native.first_id);
        return Err(refuse(format!("groups[{i}].native.first_id"), reason));
    }
    for (j, member) in group.members.iter().enumerate() {
        id(format!("groups[{i}].members[{j}].id"), member.id)?;
        if !state.peers.iter().any(|p| p.se_uuid == member.se_uuid) {
            let reason = format!("there is no peer {}", member.se_uuid);
            return Err(refuse(format!("groups[{i}].members[{j}].se_uuid"), reason));
        }
    }
    Ok(())
}

fn is_id(id: u32) -> bool {
    usize::try_from(id).is_ok_and(|id| id < MEMBERS_MAX)
}

/// Longer than any network takes to lose a hello, and to bring it late.
const HELLO_INTERVAL_MAX_MS: u32 = 60_000;
/// Numbers of hellos come again after 16,383.
const HELLO_COUNT_MAX: u32 = 1000;

/// Nothing of a key is ever said, not even of a wrong one.
fn check_settings(settings: &FlowSettings) -> Result<(), Refusal> {
    let FlowSettings {
        probe_retries,
        probe_retry_timer_ms: _,
        message_keys,
        hint_key,
        hello_interval_ms,
        hello_count,
        port,
        forgets_at_once: _,
    } = settings;
    if *hello_interval_ms > HELLO_INTERVAL_MAX_MS {
        let reason = format!("{hello_interval_ms} ms are longer than {HELLO_INTERVAL_MAX_MS} ms");
        return Err(refuse("flow.hello_interval_ms", reason));
    }
    if *hello_count > HELLO_COUNT_MAX {
        let reason = format!("{hello_count} hellos are more than {HELLO_COUNT_MAX}");
        return Err(refuse("flow.hello_count", reason));
    }
    if u16::try_from(*port).is_err() {
        let reason = format!("{port} is more than the last port, {}", u16::MAX);
        return Err(refuse("flow.port", reason));
    }
    if u8::try_from(*probe_retries).is_err() {
        let reason = format!("{probe_retries} retries are too many");
        return Err(refuse("flow.probe_retries", reason));
    }
    if message_keys.len() > MESSAGE_KEYS_MAX {
        let reason = format!(
            "{} keys, {MESSAGE_KEYS_MAX} can be valid",
            message_keys.len()
        );
        return Err(refuse("flow.message_keys", reason));
    }
    let length = |field: String, key: &[u8]| match key.len() {
        0 | KEY_LEN => Ok(()),
        other => Err(refuse(
            field,
            format!("a key has {KEY_LEN} bytes, not {other}"),
        )),
    };
    for (i, key) in message_keys.iter().enumerate() {
        length(format!("flow.message_keys[{i}].secret"), &key.secret)?;
    }
    length("flow.hint_key".into(), hint_key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::{FlowKey, Member, Peer};

    fn member(id: u32, se: &str) -> Member {
        Member {
            id,
            se_uuid: se.into(),
            takes_new: true,
        }
    }

    fn peer(se: &str) -> Peer {
        Peer {
            se_uuid: se.into(),
            addresses: vec!["10.10.10.12/24".into(), "fd00:10::12/64".into()],
            ..Peer::default()
        }
    }

    fn good() -> DesiredState {
        let key = FlowKey {
            id: 1,
            secret: vec![9; KEY_LEN],
        };
        DesiredState {
            se_uuid: "us".into(),
            groups: vec![Group {
                vsvip_uuid: "v".into(),
                member_id: 0,
                members: vec![member(1, "b"), member(63, "c")],
                ..Group::default()
            }],
            peers: vec![peer("b"), peer("c")],
            flow: Some(FlowSettings {
                message_keys: vec![key.clone(), key],
                hint_key: vec![9; KEY_LEN],
                ..FlowSettings::default()
            }),
            ..DesiredState::default()
        }
    }

    #[test]
    fn good_groups_pass() {
        assert_eq!(check(&good()), Ok(()));
        assert_eq!(check(&DesiredState::default()), Ok(()));
    }

    #[test]
    fn every_broken_field_is_named_and_no_key_is_told() {
        fn flow(state: &mut DesiredState) -> &mut FlowSettings {
            state.flow.as_mut().expect("there")
        }
        type Break = fn(&mut DesiredState);
        let cases: [(Break, &str); 14] = [
            (
                |s| flow(s).hello_interval_ms = 60_001,
                "flow.hello_interval_ms",
            ),
            (|s| flow(s).hello_count = 1001, "flow.hello_count"),
            (|s| flow(s).port = 65_536, "flow.port"),
            (
                |s| s.groups.push(s.groups[0].clone()),
                "groups[1].vsvip_uuid",
            ),
            (|s| s.groups[0].member_id = 64, "groups[0].member_id"),
            (|s| s.groups[0].members[1].id = 1, "groups[0].members[1].id"),
            (|s| s.groups[0].members[0].id = 0, "groups[0].members[0].id"),
            (|s| drop(s.peers.pop()), "groups[0].members[1].se_uuid"),
            (|s| s.peers[1].se_uuid = "us".into(), "peers[1].se_uuid"),
            (|s| s.peers[1].se_uuid = "b".into(), "peers[1].se_uuid"),
            (
                |s| s.peers[0].addresses[1] = "fe80::1/64".into(),
                "peers[0].addresses[1]",
            ),
            (|s| flow(s).hint_key = vec![9; 15], "flow.hint_key"),
            (
                |s| flow(s).message_keys[1].secret = vec![9],
                "flow.message_keys[1].secret",
            ),
            (
                |s| flow(s).message_keys.push(FlowKey::default()),
                "flow.message_keys",
            ),
        ];
        for (break_it, field) in cases {
            let mut state = good();
            break_it(&mut state);
            let refusal = check(&state).expect_err(field);
            assert_eq!(refusal.field, field);
            assert!(!refusal.reason.contains("9,"), "{}", refusal.reason);
        }
    }
}
