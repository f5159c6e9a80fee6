//! Messages between controller and service engine (DESIGN: "SE stream").
//!
//! The `.proto` file is the contract and carries the field documentation; this crate only
//! includes what is generated from it, and keeps secrets out of `Debug`.

/// Version of the stream's meaning; raised when an older engine must not ignore a change.
pub const PROTOCOL_VERSION: u32 = 6;

/// The oldest version of an engine that a controller can steer.
pub const PROTOCOL_VERSION_MIN: u32 = 3;

/// From this version on an engine answers others that ask whether it is there.
pub const ANSWERS_SINCE: u32 = 4;

/// From this version on an engine starts anew, and makes its clients of TLS begin anew, when it is told to.
pub const STARTS_ANEW_SINCE: u32 = 6;

/// `VipStatus.native_part` of the engine that answers ARP and neighbour discovery for the VIP.
pub const ANSWERING: &str = "answering";

/// Generated types of `evenkeel.engine.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::too_many_lines)]
pub mod v1 {
    tonic::include_proto!("evenkeel.engine.v1");
}

impl std::fmt::Debug for v1::BgpPeer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BgpPeer")
            .field("address", &self.address)
            .field("subnet", &self.subnet)
            .field("remote_as", &self.remote_as)
            .field("local_as", &self.local_as)
            .field("md5_secret_set", &!self.md5_secret.is_empty())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for v1::FlowSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowSettings")
            .field("probe_retries", &self.probe_retries)
            .field("probe_retry_timer_ms", &self.probe_retry_timer_ms)
            .field("message_keys", &self.message_keys)
            .field("hint_key_set", &!self.hint_key.is_empty())
            .field("hello_interval_ms", &self.hello_interval_ms)
            .field("hello_count", &self.hello_count)
            .field("port", &self.port)
            .field("forgets_at_once", &self.forgets_at_once)
            .finish()
    }
}

impl std::fmt::Debug for v1::KeyAndCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyAndCertificate")
            .field("uuid", &self.uuid)
            .field("name", &self.name)
            .field("key_set", &!self.key_pem.is_empty())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for v1::FlowKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowKey")
            .field("id", &self.id)
            .field("secret_set", &!self.secret.is_empty())
            .finish()
    }
}

impl std::fmt::Debug for v1::JoinRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinRequest")
            .field("token_id", &self.token_id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

mod counted;
pub mod join_token;
mod shrink;

#[cfg(test)]
mod tests {
    use super::v1;

    #[test]
    fn keys_are_not_printed_with_the_state_that_carries_them() {
        let state = v1::DesiredState {
            flow: Some(v1::FlowSettings {
                message_keys: vec![v1::FlowKey {
                    id: 7,
                    secret: vec![201; 16],
                }],
                hint_key: vec![202; 16],
                ..v1::FlowSettings::default()
            }),
            ..v1::DesiredState::default()
        };
        let printed = format!("{state:?}");
        assert!(printed.contains("id: 7"), "{printed}");
        assert!(
            !printed.contains("201") && !printed.contains("202"),
            "{printed}"
        );
    }
}
