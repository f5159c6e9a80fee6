//! Messages between controller and service engine (DESIGN: "SE stream").
//!
//! The `.proto` file is the contract and carries the field documentation; this crate only
//! includes what is generated from it, and keeps secrets out of `Debug`.

/// Version of the stream's meaning; raised when an older engine must not ignore a change.
pub const PROTOCOL_VERSION: u32 = 1;

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

impl std::fmt::Debug for v1::JoinRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinRequest")
            .field("token_id", &self.token_id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

pub mod join_token;
