//! The structures of `bpf/structs.h`.

#![allow(unsafe_code)] // says that they are plain bytes

use aya::Pod;

/// An address of 16 bytes, as two words in the order of its bytes.
pub(super) type Address = [u64; 2];

macro_rules! plain {
    ($($(#[$doc:meta])* struct $name:ident: $size:literal { $($field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) struct $name { $(pub(super) $field: $type,)* }

        const _: () = assert!(size_of::<$name>() == $size);

        // SAFETY: repr(C), integers only, and no padding: the sizes of the fields add up to the asserted one.
        unsafe impl Pod for $name {}
        const _: () = assert!(0 $(+ size_of::<$type>())* == $size);
    )*};
}

plain! {
    struct ServiceKey: 24 {
        vip: Address,
        port: u16,
        protocol: u8,
        zero: [u8; 5],
    }
    struct Service: 16 {
        group: u32,
        flags: u32,
        udp_ask_until_ns: u64,
    }
    struct Group: 160 {
        generation: u64,
        live: u64,
        takes_new: u64,
        us: u8,
        drains: u8,
        zero: [u8; 6],
        peers: [u16; 64],
    }
    struct Peer: 72 {
        ifindex4: u32,
        ifindex6: u32,
        local4: u32,
        remote4: u32,
        next_hop4: u32,
        zero: u32,
        local6: Address,
        remote6: Address,
        next_hop6: Address,
    }
    struct MemberKey: 24 {
        address: Address,
        group: u32,
        zero: u32,
    }
    struct Member: 4 {
        peer: u16,
        id: u8,
        zero: u8,
    }
    struct Secret: 24 {
        k0: u64,
        k1: u64,
        id: u32,
        valid: u32,
    }
    struct Settings: 96 {
        hint_k0: u64,
        hint_k1: u64,
        secrets: [Secret; 2],
        retry_ns: u64,
        copy_ns: u64,
        burst_ns: u64,
        retries: u32,
        zero: u32,
    }
    struct PeerCounters: 16 {
        packets: u64,
        bytes: u64,
    }
}

pub(super) const SERVICE_HINTS: u32 = 1;
pub(super) const SERVICE_PROBES: u32 = 2;

pub(super) const GROUPS_MAX: usize = 1024;
pub(super) const PEERS_MAX: usize = 512;

/// As the programs compare it.
pub(super) fn address(ip: std::net::IpAddr) -> Address {
    let bytes = flow::key::bytes16(ip);
    let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
    [word(0), word(8)]
}
