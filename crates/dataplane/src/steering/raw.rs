//! The structures of `bpf/structs.h`.

#![allow(unsafe_code)] // says that they are plain bytes

use aya::Pod;
use flow::Flow;
use flow::key::Protocol;
use flow::spread::SLOTS;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

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
    struct Group: 416 {
        generation: u64,
        live: u64,
        takes_new: u64,
        us: u8,
        drains: u8,
        spread: u8,
        relay: u8,
        zero: [u8; 4],
        peers: [u16; 64],
        slots: [u8; SLOTS],
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
    struct Settings: 104 {
        hint_k0: u64,
        hint_k1: u64,
        secrets: [Secret; 2],
        retry_ns: u64,
        copy_ns: u64,
        burst_ns: u64,
        retries: u32,
        watching: u32,
        port: u16,
        former_port: u16,
        forgets_at_once: u8,
        zero: [u8; 3],
    }
    struct FlowKey: 40 {
        client: Address,
        vip: Address,
        client_port: u16,
        vip_port: u16,
        protocol: u8,
        zero: [u8; 3],
    }
    struct Cached: 4 {
        id: u8,
        zero: [u8; 3],
    }
    struct Question: 32 {
        last_ns: u64,
        denied: u64,
        seq: u32,
        ack: u32,
        number: u16,
        probes: u8,
        zero: [u8; 5],
    }
    struct NoHintBits: 8192 {
        words: [u64; 1024],
    }
    struct SeenChecks: 2048 {
        words: [u64; 256],
    }
    struct Event: 56 {
        at_ns: u64,
        flow: FlowKey,
        group: u32,
        number: u16,
        verdict: u8,
        member: u8,
    }
    struct PeerCounters: 40 {
        packets: u64,
        bytes: u64,
        flows: u64,
        hellos: u64,
        loads: u64,
    }
}

pub(super) const SPREAD_BY_ADDRESS_AND_PORT: u8 = 1;
pub(super) const SPREAD_BY_ADDRESS: u8 = 2;

pub(super) const SERVICE_HINTS: u32 = 1;
pub(super) const SERVICE_PROBES: u32 = 2;

pub(super) const WATCHED_MAX: usize = 64;

pub(super) const GROUPS_MAX: usize = 1024;
pub(super) const PEERS_MAX: usize = 512;

/// As the programs compare it.
pub(super) fn address(ip: IpAddr) -> Address {
    let bytes = flow::key::bytes16(ip);
    let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
    [word(0), word(8)]
}

/// As people write it.
fn ip(address: Address) -> IpAddr {
    let [high, low] = address.map(u64::to_ne_bytes);
    let bytes: [u8; 16] = std::array::from_fn(|i| if i < 8 { high[i] } else { low[i - 8] });
    Ipv6Addr::from(bytes).to_canonical()
}

impl Event {
    /// From a record of the ring; none when that is shorter.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..size_of::<Self>())?;
        // SAFETY: as many bytes as the structure has, any of them valid for it (`plain!`), and read unaligned.
        Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }
}

impl FlowKey {
    /// The flow that the programs know by this key; none for what has no ports.
    pub(super) fn flow(&self) -> Option<Flow> {
        let protocol = match self.protocol {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            _ => return None,
        };
        let end = |address, port| SocketAddr::new(ip(address), u16::from_be(port));
        Some(Flow {
            protocol,
            client: end(self.client, self.client_port),
            service: end(self.vip, self.vip_port),
        })
    }
}

impl From<&Flow> for FlowKey {
    fn from(flow: &Flow) -> Self {
        Self {
            client: address(flow.client.ip()),
            vip: address(flow.service.ip()),
            client_port: flow.client.port().to_be(),
            vip_port: flow.service.port().to_be(),
            protocol: flow.protocol.number(),
            zero: [0; 3],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_survives_the_way_into_a_map_and_back() {
        for (client, service) in [
            ("192.0.2.1:40000", "10.100.0.1:80"),
            ("[2001:db8::1]:1", "[2001:db8::2]:65535"),
        ] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let flow = Flow {
                    protocol,
                    client: client.parse().unwrap(),
                    service: service.parse().unwrap(),
                };
                assert_eq!(FlowKey::from(&flow).flow(), Some(flow));
            }
        }
    }
}
